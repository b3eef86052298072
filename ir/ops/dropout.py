"""Dropout and its random numbers."""
from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Ref, Routine, load, store
from .base import Builder, Lowering, Op, Sample, register
from .elementwise import real_sample, wide

MASK = 0xFFFFFFFF
WORDS = 624  # of the generator's state


def mersenne_uniform(state, y, size, seed, lo, hi):
    """y = `size` float64 values in [0, 1), 53 bits each, of the Mersenne Twister MT19937 seeded by one integer (Matsumoto and Nishimura 1998)."""
    word = seed & MASK
    store(state, 0, word)
    for i in range(1, WORDS):
        word = (1812433253 * (word ^ (word >> 30)) + i) & MASK
        store(state, i, word)
    at = WORDS
    for n in range(size):
        number = 0.0
        for half in range(2):
            if at == WORDS:
                for i in range(WORDS):
                    joined = (load(state, i) & 0x80000000) | (load(state, (i + 1) % WORDS) & 0x7FFFFFFF)
                    mixed = load(state, (i + 397) % WORDS) ^ (joined >> 1)
                    store(state, i, mixed ^ 0x9908B0DF if joined & 1 else mixed)
                at = 0
            word = load(state, at)
            at += 1
            word ^= word >> 11
            word ^= (word << 7) & 0x9D2C5680
            word ^= (word << 15) & 0xEFC60000
            word ^= word >> 18
            number = (word >> 5) * 67108864.0 if half == 0 else (number + (word >> 6)) / 9007199254740992.0
        store(y, n, number)


MERSENNE = Routine("mersenne_uniform", mersenne_uniform)


def seeded_uniform(n: Lowering, count: Expr, seed: int) -> Tensor:
    """`count` float64 values in [0, 1): the stream that NumPy's RandomState(seed).uniform gives."""
    return n.routine(MERSENNE, [], [(dt.int64, [WORDS]), (dt.float64, [count])], [count, int(seed) & MASK])[1]


def counted_uniform(counter: Expr, seed: int) -> Expr:
    """A float32 in [0, 1) from a counter and a seed alone, by two rounds of multiplication and xor-shift."""
    x = ex.cast(counter, dt.uint32) * 0x9E3779B9 + (int(seed) * 0x85EBCA6B + 0x27D4EB2F) % 2**32
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = ex.binary("bitxor", x, ex.binary("shr", x, shift)) * factor
    x = ex.binary("bitxor", x, ex.binary("shr", x, 15))
    return ex.cast(ex.binary("shr", x, 8), dt.float32) * 2.0**-24


@register
class Dropout(Op):
    """Elements set to zero with probability `ratio`, the others scaled by 1 / (1 - ratio); the identity unless training.

    With the attribute `seed` the mask is that of NumPy's generator of this seed, as the specification's own examples have it; without, element i's
    fate follows from the node's name and i. Versions below 12 are read as inference. Source: ONNX Dropout-22.
    """

    name, versions = "Dropout", (1, 6, 7, 10, 12, 13, 22)
    attributes = {"ratio": 0.5}

    def lower(self, n: Lowering) -> list[Ref | None]:
        x = n.input(0)
        mask_type = x.dtype if n.version < 10 else dt.boolean
        training = self._training(n)
        if training.is_const and not training.value:
            return [x, n.map(x.shape, lambda *i: ex.const(1, mask_type)) if n.wants(1) else None]
        ratio = ex.cast(_scalar(n, 1), dt.float32) if n.has(1) else ex.const(0.5, dt.float32)
        seed = n.attr("seed")
        drawn = None if seed is None else seeded_uniform(n, x.numel(), seed)

        def kept(*i: Expr) -> Expr:
            place = ex.linear_index(i, x.shape)
            if drawn is None:
                number = counted_uniform(place, zlib.crc32(n.node.name.encode()))
            else:
                number = drawn[place]
            return ex.logical_or(ex.logical_not(training), number >= ex.cast(ratio, number.dtype))
        mask = n.map(x.shape, kept)

        def body(*i: Expr) -> Expr:
            v = wide(x[i])
            scale = ex.where(training, 1 / (1 - ratio), 1)
            return ex.where(mask[i], v * ex.cast(scale, v.dtype), 0)
        return [n.map(x.shape, body, x.dtype), mask]

    @staticmethod
    def _training(n: Lowering) -> Expr:
        if n.version < 12 or not n.has(2):
            return ex.const(False, dt.boolean)
        known = n.known(2)
        return ex.cast(_scalar(n, 2), dt.boolean) if known is None else ex.const(bool(known.reshape(-1)[0]), dt.boolean)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x = b.input(0)
        if not b.has(2) or (b.input(2).is_constant and not b.input(2).constant.reshape(-1)[0]):
            return [upstream[0]] + [None] * (len(b.inputs) - 1)
        one, zero = b.constant(1.0, b.type(x).dtype), b.constant(0.0, b.type(x).dtype)
        ratio = b.add("CastLike", b.input(1), x) if b.has(1) else b.constant(0.5, b.type(x).dtype)
        mask = b.node.outputs[1] if b.wants(1) else b.add("Dropout", *b.inputs, outputs=2, version=b.version, **b.node.attributes)[1]
        scale = b.add("Where", b.input(2), b.add("Reciprocal", b.add("Sub", one, ratio)), one)
        return [b.add("Where", mask, b.add("Mul", upstream[0], scale), zero)] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)),), outputs=2)
        yield Sample((real_sample((2, 3)), np.float32(0.3), np.array(False)), name="inference")
        yield Sample((real_sample((20, 30)), np.float32(0.3), np.array(True)), {"seed": 7}, outputs=2, name="training")


def _scalar(n: Lowering, index: int) -> Expr:
    t = n.input(index)
    return t[(ex.const(0),) * t.rank]
