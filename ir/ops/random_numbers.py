"""Random tensors: every element follows from a seed and its position alone, so that any split of the work gives the same numbers.

The seed is the attribute's, else it is made from the node's name.
"""
from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, ExprLike, Tensor
from .base import REQUIRED, Lowering, Op, Sample, register
from .dropout import counted_uniform


def seed_of(n: Lowering) -> int:
    """A 32-bit seed: the bits of the attribute `seed`, or of the node's name."""
    given = n.attr("seed")
    return zlib.crc32(n.node.name.encode()) if given is None else int(np.float32(given).view(np.uint32))


def uniform(n: Lowering, counter: Expr, stream: int = 0) -> Expr:
    """A float32 in [0, 1) for a counter; streams are independent."""
    return counted_uniform(counter, seed_of(n) + 0x632BE5AB * stream)


def normal(n: Lowering, counter: Expr) -> Expr:
    """A standard normal float32 for a counter (Box and Muller 1958)."""
    radius = ex.unary("sqrt", ex.unary("log", 1.0 - uniform(n, counter)) * -2.0)
    return radius * ex.unary("cos", uniform(n, counter, 1) * (2 * math.pi))


class RandomTensor(Op):
    """Random numbers in a shape that an attribute or another tensor gives."""

    def shape(self, n: Lowering) -> Sequence[ExprLike]:
        return tuple(int(d) for d in n.attr("shape"))

    def dtype(self, n: Lowering) -> DType:
        return dt.BY_CODE[int(n.attr("dtype", 1))]

    def draw(self, n: Lowering, counter: Expr) -> Expr:
        raise NotImplementedError

    def lower(self, n: Lowering) -> Tensor:
        shape = tuple(ex.as_expr(d) for d in self.shape(n))
        return n.map(shape, lambda *i: self.draw(n, ex.linear_index(i, shape)), self.dtype(n))


class LikeTensor(RandomTensor):
    """The same with shape and, by default, type of an input."""

    def shape(self, n: Lowering) -> Sequence[ExprLike]:
        return n.input(0).shape

    def dtype(self, n: Lowering) -> DType:
        code = n.attr("dtype")
        return dt.BY_CODE[int(code)] if code else n.input(0).dtype

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.zeros((3, 4), np.float32),), {"seed": 3.0})


class Uniform(RandomTensor):
    """Numbers evenly spread over [low, high)."""

    def draw(self, n: Lowering, counter: Expr) -> Expr:
        low, high = float(n.attr("low", 0.0)), float(n.attr("high", 1.0))
        return uniform(n, counter) * (high - low) + low


class Normal(RandomTensor):
    """Normally distributed numbers."""

    def draw(self, n: Lowering, counter: Expr) -> Expr:
        return normal(n, counter) * float(n.attr("scale", 1.0)) + float(n.attr("mean", 0.0))


@register
class RandomUniform(Uniform):
    """Uniform numbers of a given shape. Source: ONNX RandomUniform-22."""

    name, versions = "RandomUniform", (1, 22)
    attributes = {"shape": REQUIRED, "dtype": 1, "low": 0.0, "high": 1.0}

    def samples(self) -> Iterator[Sample]:
        yield Sample((), {"shape": (3, 4), "seed": 1.0})


@register
class RandomNormal(Normal):
    """Normal numbers of a given shape. Source: ONNX RandomNormal-22."""

    name, versions = "RandomNormal", (1, 22)
    attributes = {"shape": REQUIRED, "dtype": 1, "mean": 0.0, "scale": 1.0}

    def samples(self) -> Iterator[Sample]:
        yield Sample((), {"shape": (3, 4), "seed": 1.0})


@register
class RandomUniformLike(LikeTensor, Uniform):
    """Uniform numbers in the shape of a tensor. Source: ONNX RandomUniformLike-22."""

    name, versions = "RandomUniformLike", (1, 22)
    attributes = {"low": 0.0, "high": 1.0}


@register
class RandomNormalLike(LikeTensor, Normal):
    """Normal numbers in the shape of a tensor. Source: ONNX RandomNormalLike-22."""

    name, versions = "RandomNormalLike", (1, 22)
    attributes = {"mean": 0.0, "scale": 1.0}


@register
class Bernoulli(LikeTensor):
    """1 with the probability that the input gives, else 0. Source: ONNX Bernoulli-22."""

    name, versions = "Bernoulli", (15, 22)

    def draw(self, n: Lowering, counter: Expr) -> Expr:
        x = n.input(0)
        p = ex.cast(x[ex.unravel(counter, x.shape)], dt.float32)
        return ex.cast(uniform(n, counter) < p, dt.float32)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4),), {"seed": 5.0})


@register
class Multinomial(Op):
    """Draws of a class from unnormalised log-probabilities, by Gumbel noise. Source: ONNX Multinomial-22."""

    name, versions = "Multinomial", (7, 22)
    attributes = {"dtype": 6, "sample_size": 1}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        if x.rank != 2:
            raise n.error(f"an input of rank {x.rank} was given, [batch, classes] was expected")
        rows, classes = x.shape
        draws = int(n.attr("sample_size"))

        def value(b: Expr, s: Expr) -> Expr:
            def score(c: Expr) -> Expr:
                u = uniform(n, ex.linear_index((b, s, c), (rows, ex.const(draws), classes)))
                noise = ex.unary("log", -ex.unary("log", u + 2.0 ** -25))
                return ex.cast(x[b, c], dt.float32) - noise
            return n.reduce("argmax", [classes], score)
        return n.map((rows, draws), value, dt.BY_CODE[int(n.attr("dtype"))])

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.log(np.array([[0.1, 0.2, 0.7], [1e-6, 0.999, 1e-6]], np.float32)),), {"sample_size": 5, "seed": 2.0})
