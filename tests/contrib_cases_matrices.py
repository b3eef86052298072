"""Cases of com.microsoft's operators on matrices."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


@cases(MS, "MatMulInteger16")
def integer16(r: Draw) -> Iterator[Case]:
    for k in range(28):
        m, n, inner = r.size(), r.size(1, 40), 0 if k == 8 else r.size(1, 70)
        a, b = ([inner], [m, inner], [2, m, inner], [3, 1, m, inner], [m, inner])[k % 5], ([inner, n], [inner], [inner, n], [2, inner, n], [2, inner, n])[k % 5]
        yield Case([r.codes(np.int16, *a), r.codes(np.int16, *b)] if k % 3 else [r.ints(-900, 900, *a, dtype=np.int16), r.ints(-900, 900, *b, dtype=np.int16)])


@cases(MS, "CDist", ulps=256)
def cdist(r: Draw) -> Iterator[Case]:
    for k in range(28):
        dtype, count = (np.float32, np.float64)[k % 2], r.size(1, 40)
        a, b = r.real(r.size(), count, dtype=dtype), r.real(r.size(1, 20), count, dtype=dtype) + 2
        yield Case([a, b], {"metric": ("euclidean", "sqeuclidean")[k // 2 % 2]} if k % 5 else {}, dynamic=bool(k // 3 % 2))


@cases(MS, "Inverse", ulps=256, narrow_ulps=16)
def inverse(r: Draw) -> Iterator[Case]:
    for k in range(28):
        size = r.size(1, 8)
        x = r.real(*[r.size(1, 3) for _ in range(k % 3)], size, size) + (size * np.eye(size))[r.rng.permutation(size)]
        yield Case([x.astype((np.float32, np.float64, np.float16)[k // 3 % 3])])


@cases(MS, "DynamicTimeWarping")
def time_warping(r: Draw) -> Iterator[Case]:
    for k in range(32):
        shape = [*([1] if k % 3 == 0 else []), r.size(1, 12), r.size(1, 12)]
        cost = r.ints(0, 4, *shape, dtype=np.float32) if k % 2 else r.real(*shape)
        yield Case([cost], dynamic=bool(k // 2 % 2))
