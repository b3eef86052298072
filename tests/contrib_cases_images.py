"""Cases of com.microsoft's operators on images."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


def windows(r: Draw, k: int, rank: int) -> dict[str, object]:
    """Attributes of a window; all ways to give padding take turns."""
    taps = [r.size(1, 3) for _ in range(rank)]
    found: dict[str, object] = {"kernel_shape": taps}
    if k % 4 == 1:
        found["pads"] = [r.size(0, t - 1) for t in taps * 2]
    if k % 4 in (2, 3):
        found["auto_pad"] = ("SAME_UPPER", "SAME_LOWER", "VALID")[k // 4 % 3]
    if k % 3:
        found["strides"] = [r.size(1, 3) for _ in range(rank)]
    if k % 5 == 1 and "auto_pad" not in found:
        found["dilations"] = [r.size(1, 2) for _ in range(rank)]
    return found


@cases(MS, "NhwcMaxPool")
def nhwc_max_pool(r: Draw) -> Iterator[Case]:
    for k in range(32):
        rank = 1 + k % 3
        yield Case([r.codes((np.int8, np.uint8)[k // 3 % 2], r.size(1, 2), *(r.size(6, 9) for _ in range(rank)), r.size(1, 40))],
                   {**windows(r, k, rank), **({"ceil_mode": r.flag()} if k % 2 else {})})
