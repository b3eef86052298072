"""Cases of com.microsoft's routers."""
from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from contrib_cases import Case, Draw, cases


@cases("com.microsoft", "MoEGroupRouter", ulps=64)
def group_router(r: Draw) -> Iterator[Case]:
    for k in range(28):
        kind, groups, size = (np.float32, np.float16, ml_dtypes.bfloat16)[k % 3], r.size(1, 4), r.size(1, 4)
        experts, whole = groups * size, k % 4 == 3
        open_groups = r.size(1, groups)
        lead = [r.size(0 if k == 10 else 1, 4) for _ in range(1 + k // 4 % 2)]
        attributes = {"top_k": r.size(1, open_groups * size)} if whole else {"top_k": r.size(1, open_groups * size), "n_group": groups, "topk_group": open_groups}
        if k % 5 == 0 and not whole:
            attributes |= {"group_topk": r.size(1, 3), "router_sentinel": -50.0}
        if whole and k % 8 == 7:
            yield Case([r.real(3, 256, dtype=kind, scale=0.1), r.real(experts), r.real(experts, 256, dtype=kind, scale=0.1)], attributes, [False, True, True])
        else:
            yield Case([r.real(*lead, experts, dtype=kind), r.real(experts)], attributes, [False, True, True] if whole else 1)
