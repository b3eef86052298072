"""com.microsoft: operators that move, select or count elements."""
from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, ExprLike, Tensor
from ..graph import Value
from ..loops import Ref, Routine, load, store
from .base import REQUIRED, Builder, Lowering, Op, Sample, register
from .elementwise import real_sample
from .indexing import GatherND as StandardGatherND
from .movement import int64
from .views import View

DOMAIN = "com.microsoft"


@register
class ExpandDims(Op):
    """A dimension of 1 at the place that the second input gives. Source: com.microsoft ExpandDims-1."""

    domain, name, versions = DOMAIN, "ExpandDims", (1,)

    def decompose(self, b: Builder) -> Value:
        return b.add("Unsqueeze", b.input(0), b.add("Reshape", b.add("Cast", b.input(1), to=dt.int64.code), [1]))

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)), np.array(-2, np.int32)))


@register
class GatherND(StandardGatherND):
    """ONNX GatherND without batch dimensions, under its older name. Source: com.microsoft GatherND-1."""

    domain, versions = DOMAIN, (1,)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3, 4)), np.array([[0, 1], [1, -1]], np.int64)))


@register
class Pad(Op):
    """ONNX Pad; pads may be [1, 2 * rank] as well. Source: com.microsoft Pad-1."""

    domain, name, versions = DOMAIN, "Pad", (1,)
    attributes = {"mode": "constant"}

    def decompose(self, b: Builder) -> Value:
        pads = b.input(1)
        if len(b.type(pads).shape or ()) != 1:
            pads = b.add("Reshape", pads, [-1])
        return b.add("Pad", b.input(0), pads, b.input(2) if b.has(2) else None, mode=str(b.attr("mode")), version=13)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((3, 4)), int64(1, 0, 2, -1), np.array([1.5], np.float32)))


@register
class Range(Op):
    """start, start + delta, ... up to but without limit; delta is 1 if it is not given. Source: com.microsoft Range-1."""

    domain, name, versions = DOMAIN, "Range", (1,)

    def decompose(self, b: Builder) -> Value:
        def scalar(k: int) -> Value:
            v = b.input(k)
            return v if b.type(v).shape == () else b.add("Reshape", v, b.constant(np.zeros(0, np.int64)))
        step = scalar(2) if b.has(2) else b.constant(1, b.type(b.input(0)).dtype)
        return b.add("Range", scalar(0), scalar(1), step)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.float32(1), np.float32(5), np.float32(0.5)))
        yield Sample((np.int64(3), np.int64(9)))


@register
class Trilu(Op):
    """ONNX Trilu under its older name. Source: com.microsoft Trilu-1."""

    domain, name, versions = DOMAIN, "Trilu", (1,)
    attributes = {"upper": 1}

    def decompose(self, b: Builder) -> Value:
        return b.add("Trilu", *b.inputs, upper=int(b.attr("upper")))

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 4, 5)), np.array(1, np.int64)), {"upper": 0})


@register
class Unique(Op):
    """The distinct elements of a vector in order of appearance, the place of every element among them, and counts. Source: com.microsoft Unique-1."""

    domain, name, versions = DOMAIN, "Unique", (1,)

    def decompose(self, b: Builder) -> Sequence[Value | None]:
        y, _, place, counts = b.add("Unique", b.input(0), outputs=4, sorted=0)
        return [y, place, counts]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([2, 1, 1, 3, 4, 3], np.float32),), outputs=3)


@register
class UnfoldTensor(View):
    """Windows of `size` elements along a dimension, every `step`, as a new last dimension. Source: com.microsoft UnfoldTensor-1."""

    domain, name, versions = DOMAIN, "UnfoldTensor", (1,)
    attributes = {"dim": -1, "size": REQUIRED, "step": 1}

    def view(self, n: Lowering) -> Ref:
        x, size, step = n.input(0), int(n.attr("size")), int(n.attr("step"))
        dim = n.axis(int(n.attr("dim")), x.rank)
        if size < 1 or step < 1:
            raise n.error(f"size {size} and step {step} were given, both must be at least 1")
        n.require(x.shape[dim] >= size, f"windows of {size} elements do not fit in a dimension of {x.shape[dim].text}")
        windows = (x.shape[dim] - size) // step + 1
        shape: tuple[ExprLike, ...] = (*x.shape[:dim], windows, *x.shape[dim + 1:], size)
        return n.map(shape, lambda *i: x[(*i[:dim], i[dim] * step + i[-1], *i[dim + 1:-1])])

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 7, 3)),), {"dim": 1, "size": 3, "step": 2})


# ------------------------------------------------------------------------------------------------------------------ hashes
def scrambled(k):
    """A block of the key, mixed. All arithmetic modulo 2**32, in int64."""
    k = k * 0xCC9E2D51 & 0xFFFFFFFF
    k = (k << 15 | k >> 17) & 0xFFFFFFFF
    return k * 0x1B873593 & 0xFFFFFFFF


def murmur(x, y, words, seed, lo, hi):
    """The 32-bit MurmurHash3 of each key of `words` 32-bit words."""
    for i in range(lo, hi):
        h = seed & 0xFFFFFFFF
        for w in range(words):
            h = h ^ scrambled(int(load(x, i * words + w)) & 0xFFFFFFFF)
            h = (h << 13 | h >> 19) & 0xFFFFFFFF
            h = (h * 5 + 0xE6546B64) & 0xFFFFFFFF
        h = h ^ 4 * words
        h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        store(y, i, h ^ h >> 16)


MURMUR = Routine("murmur", murmur, (scrambled,))


def murmur_of_bytes(key: bytes, seed: int) -> int:
    """The 32-bit MurmurHash3 of any bytes (Appleby's public definition)."""
    h, whole = seed & 0xFFFFFFFF, len(key) // 4 * 4
    for at in range(0, whole, 4):
        h ^= scrambled(int.from_bytes(key[at:at + 4], "little"))
        h = (h << 13 | h >> 19) & 0xFFFFFFFF
        h = h * 5 + 0xE6546B64 & 0xFFFFFFFF
    if len(key) > whole:
        h ^= scrambled(int.from_bytes(key[whole:], "little"))
    h ^= len(key)
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def hash_strings(strings: np.ndarray, seed: int, positive: bool) -> list[np.ndarray]:
    """MurmurHash3 of each string's UTF-8."""
    keys = [s if isinstance(s, bytes) else str(s).encode() for s in np.asarray(strings, object).reshape(-1)]
    found = np.array([murmur_of_bytes(k, seed) for k in keys], np.uint32).reshape(np.shape(strings))
    return [found if positive else found.view(np.int32)]


@register
class MurmurHash3(Op):
    """32-bit MurmurHash3 of each element's bytes, as uint32 (`positive`) or int32; strings are hashed on the host. Source: com.microsoft MurmurHash3-1; A. Appleby, MurmurHash3."""

    domain, name, versions = DOMAIN, "MurmurHash3", (1,)
    attributes = {"positive": 1, "seed": 0}

    def lower(self, n: Lowering) -> Ref:
        x, seed, positive = n.input(0), int(n.attr("seed")), bool(n.attr("positive"))
        dtype = dt.uint32 if positive else dt.int32
        if x.dtype is dt.string:
            return n.host(functools.partial(hash_strings, seed=seed, positive=positive), [(dtype, x.shape)], "strings are hashed")[0]
        wide = x.dtype.bits == 64
        if x.dtype.bits not in (32, 64):
            raise n.unsupported(f"MurmurHash3 of {x.dtype}")
        bits = dt.int64 if wide else dt.int32

        def word(*i: Expr) -> Expr:
            whole = ex.bitcast(x[i[:x.rank]], bits) if x.dtype.is_float else ex.cast(x[i[:x.rank]], bits)
            if not wide:
                return ex.cast(whole, dt.int64)
            return ex.where(ex.equal(i[-1], 0), whole, ex.binary("shr", whole, ex.const(32)))
        words = n.map((*x.shape, 2) if wide else x.shape, word, dt.int64)
        hashed, = n.routine(MURMUR, [words], [(dt.int64, x.shape)], [2 if wide else 1, seed], units=x.numel())
        return n.map(x.shape, lambda *i: hashed[i], dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([3, -4, 5], np.int32),), {"positive": 0})
        yield Sample((real_sample((2, 3)),), {"seed": 42})
        yield Sample((np.array([3, -4], np.int64),))


# ------------------------------------------------------------------------------------------------------------- speculation
def bifurcate(source, current, previous, predicted, tokens, count, match, source_size, current_size, predicted_size, shortest, longest, lo, hi):
    """Accepted tokens, and where in the source the next guess begins; see `BifurcationDetector`."""
    kept = current_size
    for i in range(current_size):
        store(tokens, i, load(current, i))
    if predicted_size:
        start = load(previous, 0)
        agreed = 0
        while agreed < predicted_size - 1 and start + agreed < source_size and load(predicted, agreed) == load(source, start + agreed):
            agreed += 1
        for i in range(agreed + 1):
            store(tokens, current_size + i, load(predicted, i))
        kept = current_size + agreed + 1
    found = -1
    for length in range(shortest, longest + 1):
        if length > kept:
            break
        first = -1
        matches = 0
        for at in range(source_size - length + 1):
            same = True
            for k in range(length):
                if load(source, at + k) != load(tokens, kept - length + k):
                    same = False
            if same:
                matches += 1
                if first < 0:
                    first = at
        if not matches:
            break
        found = first + length
        if found >= source_size or matches == 1:
            break
        found = -1
    store(match, 0, found)
    store(count, 0, kept)


BIFURCATE = Routine("bifurcate", bifurcate)


@register
class BifurcationDetector(Op):
    """Aggressive decoding: the tokens that a prediction confirms, and where their end's n-gram occurs (only once) in the source, or -1.

    Source: com.microsoft BifurcationDetector-1; Ge et al. 2022, Lossless Acceleration for Seq2seq Generation.
    """

    domain, name, versions = DOMAIN, "BifurcationDetector", (1,)
    attributes = {"min_ngram_size": 1, "max_ngram_size": 3}

    def lower(self, n: Lowering) -> list[Tensor]:
        source, current, previous, predicted = n.input(0), n.input(1), n.input(2), n.optional(3)
        size = ex.const(0) if predicted is None else predicted.shape[0]
        if predicted is not None:
            n.require(size <= source.shape[0] + 1, "more tokens are predicted than the source has")
        room = current.shape[0] + size
        tokens, count, match = n.routine(BIFURCATE, [source, current, previous, predicted or source], [(dt.int64, [room]), (dt.int64, [1]), (dt.int64, [1])],
                                         [source.shape[0], current.shape[0], size, int(n.attr("min_ngram_size")), int(n.attr("max_ngram_size"))])
        return [n.map([count[(0,)]], lambda i: tokens[i]), n.map(previous.shape, lambda *i: match[(0,)])]

    def samples(self) -> Iterator[Sample]:
        yield Sample((int64(1, 5, 3, 4, 2), int64(2), np.array(0, np.int64), int64(1, 5, 3, 4, 2, 7)), {"min_ngram_size": 1, "max_ngram_size": 3}, outputs=2)
        yield Sample((int64(1, 5, 3, 4, 2), int64(2, 5), np.array(0, np.int64)), {"min_ngram_size": 1, "max_ngram_size": 3}, outputs=2)
