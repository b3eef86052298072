"""Cases of the normalisations of com.microsoft."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"
HALVES = (np.float32, np.float16)


def joined(r: Draw, k: int, kind: object) -> tuple[np.ndarray, np.ndarray, int]:
    """(input, skip, width): two or three dimensions, the skip sometimes the same for the whole batch."""
    b, s, width = r.size(1, 3), r.size(1, 5), r.size(1, 33)
    shape = (s, width) if k % 3 == 0 else (b, s, width)
    skip = shape if k % 3 < 2 else r.pick((1, s, width), (s, width), shape)
    return r.real(*shape, dtype=kind), r.real(*skip, dtype=kind), width


def wanted(k: int) -> list[bool]:
    return [[True], [True, False, False, True], [True, True, True, True], [True, False, True]][k % 4]


@cases(MS, "SkipSimplifiedLayerNormalization")
def skip_simplified(r: Draw) -> Iterator[Case]:
    for k in range(32):
        kind = HALVES[k // 4 % 2]
        x, skip, width = joined(r, k, kind)
        bias = [r.real(width, dtype=kind)] if r.flag() else []
        yield Case([x, skip, r.real(width, dtype=kind), *bias], {"epsilon": r.pick(1e-6, 1e-3)}, wanted(k) if kind is np.float32 else wanted(k % 2))


@cases(MS, "SkipLayerNormalization")
def skip_layer(r: Draw) -> Iterator[Case]:
    for k in range(32):
        kind = HALVES[k // 4 % 2]
        x, skip, width = joined(r, k, kind)
        beta, bias = (r.real(width, dtype=kind) if r.flag() else None for _ in range(2))
        yield Case([x, skip, r.real(width, dtype=kind), beta, *([] if bias is None else [bias])], {"epsilon": r.pick(1e-5, 1e-3)}, wanted(k % 2))


@cases(MS, "EmbedLayerNormalization")
def embed(r: Draw) -> Iterator[Case]:
    for k in range(28):
        b, s, width, words, places = r.size(1, 3), r.size(1, 6), r.size(2, 33), r.size(2, 9), r.size(6, 9)
        segmented, masked, placed, kind = k // 2 % 2, k % 3 == 0, k % 4 == 0, HALVES[k // 7 % 2]
        ids = r.ints(0, words, b, s, dtype=np.int32)
        segments = [r.ints(0, 2, b, s, dtype=np.int32), r.real(2, width, dtype=kind)] if segmented else [None, None]
        mask = r.ints(0, 2, b, s, dtype=np.int32) if masked else None
        rest = [mask, r.ints(0, places, r.pick(1, b), s, dtype=np.int32)] if placed else [mask]
        yield Case([ids, segments[0], r.real(words, width, dtype=kind), r.real(places, width, dtype=kind), segments[1], r.real(width, dtype=kind), r.real(width, dtype=kind), *rest],
                   {"epsilon": r.pick(1e-5, 1e-3)} | ({"mask_index_type": 0} if k % 5 == 0 else {}), [True, bool(masked), k % 5 == 1], constants=(2, 3, 4, 5, 6))


@cases(MS, "QEmbedLayerNormalization", ulps=256)
def quantised_embed(r: Draw) -> Iterator[Case]:
    for k in range(24):
        b, s, width, words, places = r.size(1, 3), r.size(1, 6), r.size(2, 33), r.size(2, 9), r.size(6, 9)
        segmented, masked, kind = k // 2 % 2, k % 3 == 0, (np.uint8, np.int8)[k // 4 % 2]
        segments = r.ints(0, 2, b, s, dtype=np.int32) if segmented else None
        tables = [r.codes(kind, words, width), r.codes(kind, places, width), r.codes(kind, 2, width) if segmented else None, r.codes(kind, width), r.codes(kind, width)]
        scales = [r.scale() if segmented or j != 2 else None for j in range(5)]
        zeros = [r.codes(kind) if segmented or j != 2 else None for j in range(5)]
        yield Case([r.ints(0, words, b, s, dtype=np.int32), segments, *tables, r.ints(0, 2, b, s, dtype=np.int32) if masked else None, *scales, *zeros],
                   {"epsilon": r.pick(1e-5, 1e-3)}, 2, constants=(2, 3, 4, 5, 6) if k % 2 else ())
