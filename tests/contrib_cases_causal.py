"""Cases of com.microsoft's causal convolutions."""
from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


def attributes(r: Draw, k: int) -> dict[str, object]:
    return {**({"activation": r.pick("none", "silu", "swish")} if k % 3 else {}), **({"dilation": r.size(1, 3)} if k % 2 else {})}


@cases(MS, "CausalConvWithState", ulps=32)
def causal(r: Draw) -> Iterator[Case]:
    for k in range(32):
        batch, length, taps, last = r.size(1, 3), r.size(0 if k == 9 else 1, 9), r.size(2, 4), k // 2 % 2
        inner = [r.size(1, 4) for _ in range(1 + (k % 3 == 0) * last)]
        channels, given = int(np.prod(inner)), attributes(r, k)
        held = (taps - 1) * int(given.get("dilation", 1))
        x = r.real(batch, length, *inner) if last else r.real(batch, channels, length)
        past = r.real(*([batch, held, *inner] if last else [batch, channels, held])) if k % 4 else None
        yield Case([x, r.real(channels, 1, taps), r.real(channels) if k % 3 else None, *([] if past is None else [past])],
                   {**given, **({"channels_last": 1} if last else {})}, 2)


@cases(MS, "VarlenCausalConvWithState", ulps=32, narrow_ulps=4)
def varlen_causal(r: Draw) -> Iterator[Case]:
    for k in range(30):
        kind = (np.float32, np.float16, ml_dtypes.bfloat16)[k // 2 % 3]
        rows, channels, taps, given = r.size(1, 4), r.size(1, 5), r.size(2, 4), attributes(r, k)
        ends = np.concatenate([[0], np.cumsum([r.size(1, 6) for _ in range(rows)])]).astype(np.int32)
        held, captured = (taps - 1) * int(given.get("dilation", 1)), k % 3 == 1
        count = [r.ints(0, 6, rows, dtype=np.int32)] if captured else []
        yield Case([r.real(int(ends[-1]), channels, dtype=kind), r.real(channels, 1, taps, dtype=kind), ends, r.real(channels, dtype=kind) if k % 4 else None,
                    r.real(rows, channels, held, dtype=kind), *count], {**given, **({"state_update_capacity": 4} if captured else {})}, 3 if captured else 2)
