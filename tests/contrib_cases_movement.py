"""Cases of com.microsoft's operators that move, select or count elements."""
from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from contrib_cases import Case, Draw, cases, shapes

MS = "com.microsoft"
ALL = (np.float32, np.float64, np.int64, np.uint64, np.int32, np.uint32, np.int16, np.uint16, np.int8, np.uint8, np.float16, ml_dtypes.bfloat16, np.bool_, object)


def of(r: Draw, dtype: object, *shape: int) -> np.ndarray:
    """Small integers as elements of any type."""
    whole = r.ints(0, 90, *shape)
    return np.vectorize(lambda v: f"s{v}é", otypes=[object])(whole) if dtype is object else whole.astype(dtype)


@cases(MS, "ExpandDims")
def expand_dims(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28, low=0)):
        axis = r.size(-len(shape) - 1, len(shape))
        yield Case([of(r, ALL[k % len(ALL)], *shape), np.array(axis, np.int32)], constants=[1] if k % 3 else [])


@cases(MS, "GatherND")
def gather_nd(r: Draw) -> Iterator[Case]:
    for k in range(28):
        shape = [r.size(2, 5) for _ in range(1 + k % 4)]
        depth = r.size(1, len(shape))
        rows = [0, 3] if k % 9 == 7 else [r.size() for _ in range(k % 3)]
        index = np.stack([r.ints(-d, d, *rows) for d in shape[:depth]], -1)
        yield Case([of(r, ALL[k % len(ALL)], *shape), index.astype(np.int32 if k % 2 else np.int64)], dynamic=False if k % 4 else None)


@cases(MS, "Pad")
def pad(r: Draw) -> Iterator[Case]:
    for k in range(30):
        shape = [r.size(3, 6) for _ in range(1 + k % 4)]
        mode = ("constant", "reflect", "edge")[k % 3]
        pads = r.ints(-1 if k % 2 else 0, 3, 2 * len(shape)) if mode == "constant" else r.ints(0, 3, 2 * len(shape))
        inputs = [r.real(*shape), pads[None] if k % 5 == 4 else pads]
        yield Case([*inputs, r.real(1)] if k % 2 else inputs, {"mode": mode}, constants=[1] if k % 4 else [], dynamic=bool(k // 3 % 2) and k % 4 > 0)


@cases(MS, "Range")
def sequence(r: Draw) -> Iterator[Case]:
    for k in range(30):
        dtype = (np.int32, np.int64, np.float32, np.float64, np.int16)[k % 5]
        start, limit = r.ints(-9, 9), r.ints(-9, 30)
        step = r.pick(1, 2, 3, -1, -2) if np.dtype(dtype).kind == "i" else r.pick(0.5, 1.25, -0.75, 3.0)
        inputs = [np.asarray(v, dtype).reshape([1] if k % 4 == 3 else []) for v in (start, limit, step)]
        yield Case(inputs[:2] if k % 6 == 5 else inputs, dynamic=False)


@cases(MS, "Trilu")
def triangle(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28, low=2)):
        inputs = [of(r, (np.float32, np.float64, np.int64)[k % 3], *shape), np.array(r.size(-4, 4), np.int64)]
        yield Case(inputs if k % 4 else inputs[:1], {} if k % 5 == 0 else {"upper": r.flag()})


@cases(MS, "Unique")
def unique(r: Draw) -> Iterator[Case]:
    for k in range(24):
        yield Case([r.ints(-3, 4, 0 if k == 9 else r.size(1, 40), dtype=np.float32)], outputs=3)


@cases(MS, "UnfoldTensor")
def unfold(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 32)):
        dim = r.size(-len(shape), len(shape) - 1)
        size = r.size(1, max(1, shape[dim]))
        yield Case([of(r, ALL[k % len(ALL)], *shape)], {"size": size, **({"dim": dim} if dim != -1 else {}), **({"step": r.size(1, 3)} if k % 3 else {})})


@cases(MS, "MurmurHash3")
def murmur(r: Draw) -> Iterator[Case]:
    kinds = (np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)
    for k, shape in enumerate(shapes(r, 35, low=0)):
        attributes = {**({"positive": r.flag()} if k % 3 else {}), **({"seed": int(r.pick(0, 42, 2**31 - 1))} if k % 4 else {})}
        if k % 7 == 6:
            x = np.vectorize(lambda v: "aébcdefg hij"[:v % 13] * (v % 3 + 1), otypes=[object])(r.ints(0, 40, *shape))
        else:
            kind = kinds[k % 7]
            x = r.codes(kind, *shape) if np.dtype(kind).kind in "iu" else r.real(*shape, dtype=kind)
        yield Case([x], attributes)


@cases(MS, "BifurcationDetector")
def bifurcation(r: Draw) -> Iterator[Case]:
    for k in range(32):
        low = r.size(1, 2)
        source = r.ints(0, 5, r.size(3, 12))
        begin = r.size(0, len(source) - 1)
        known = source[begin:].copy()
        if len(known) > 2 and k % 3 == 0:
            known[r.size(0, len(known) - 1)] = 7
        predicted = np.concatenate([known, r.ints(0, 5, 1)])
        inputs = [source, r.ints(0, 5, r.size(1, 6)), np.array(begin, np.int64), predicted]
        yield Case(inputs if k % 4 else inputs[:3], {"min_ngram_size": low, "max_ngram_size": low + r.size(0, 2)}, outputs=2)
