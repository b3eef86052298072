"""com.microsoft: gates, branch mixing and normalisations of hybrid language models."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Attribute
from .base import Lowering, Op, Sample, register
from .elementwise import real_sample
from .normalisation import inverse_deviation

DOMAIN = "com.microsoft"
Index = tuple[Expr, ...]


def real(e: Expr) -> Expr:
    """A float in float32, in which these operators compute."""
    return ex.cast(e, dt.float32)


def logistic(e: Expr) -> Expr:
    return ex.unary("sigmoid", e)


def rounded(e: Expr, to: dt.DType) -> Expr:
    """A float32 number rounded to a type and back."""
    return real(ex.cast(e, to))


def same_shape(n: Lowering, x: Tensor, y: Tensor, name: str) -> None:
    """Demand that a tensor has the shape of the first input."""
    if x.rank != y.rank:
        raise n.error(f"{name} of rank {y.rank} was given, {x.rank} was expected")
    for a, b in zip(x.shape, y.shape):
        n.require(ex.equal(a, b), f"{name} has a dimension of {b.text}, {a.text} was expected")


@register
class SampleOp(Op):
    """The input. Source: com.microsoft SampleOp-1."""

    domain, name, versions = DOMAIN, "SampleOp", (1,)

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        return n.map(x.shape, lambda *i: x[i])

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)),))


@register
class ScaledSiLU(Op):
    """z * sigmoid(z) of z = scale * x, z and sigmoid rounded to the input's type. Source: com.microsoft ScaledSiLU-1."""

    domain, name, versions = DOMAIN, "ScaledSiLU", (1,)
    attributes = {"alpha": 1.0}

    def lower(self, n: Lowering) -> Tensor:
        x, scale = n.input(0), n.optional(1)

        def value(*i: Expr) -> Expr:
            factor = ex.const(float(n.attr("alpha")), dt.float32) if scale is None else real(scale[(ex.const(0),) * scale.rank])
            z = rounded(real(x[i]) * factor, x.dtype)
            return z * rounded(logistic(z), x.dtype)
        return n.map(x.shape, value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 9)),), {"alpha": 1.7})


@register
class GatedAdd(Op):
    """x + y * gate with one gate for each row, the product rounded to the input's type. Source: com.microsoft GatedAdd-1."""

    domain, name, versions = DOMAIN, "GatedAdd", (1,)

    def lower(self, n: Lowering) -> Tensor:
        if n.has(3):
            raise n.unsupported("GatedAdd with gate_weight")
        x, y, gate = n.input(0), n.input(1), n.input(2)
        same_shape(n, x, y, "Y")
        n.require(ex.equal(gate.shape[-1], 1), f"gate has {gate.shape[-1].text} elements for each row, one was expected")
        return n.map(x.shape, lambda *i: real(x[i]) + rounded(real(y[i]) * real(gate[(*i[:-1], ex.const(0))]), x.dtype), x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 8))
        yield Sample((x, x[::-1].copy(), x[..., :1].copy()))


def inverse_root(n: Lowering, at: Callable[[Expr], Expr], count: Expr, epsilon: float) -> Expr:
    """1 / sqrt(mean of squares + epsilon) of `count` elements."""
    def square(k: Expr) -> Expr:
        e = real(at(k))
        return e * e
    return inverse_deviation(n.reduce("sum", [count], square) / real(count), epsilon)


@register
class GatedRMSNorm(Op):
    """Root mean square normalisation of groups of the last dimension, times the activated gate. Source: com.microsoft GatedRMSNorm-1."""

    domain, name, versions = DOMAIN, "GatedRMSNorm", (1,)
    attributes = {"activation": "silu", "epsilon": 1e-5}

    def lower(self, n: Lowering) -> Tensor:
        x, scale, gate = n.input(0), n.input(1), n.input(2)
        activation, epsilon = str(n.attr("activation")), float(n.attr("epsilon"))
        if activation not in ("silu", "swish", "sigmoid"):
            raise n.error(f"activation '{activation}' is unknown", "known are silu, swish, sigmoid")
        same_shape(n, x, gate, "gate")
        width = scale.shape[0]
        n.require(ex.equal(x.shape[-1] % width, 0), f"rows of {x.shape[-1].text} elements do not split into groups of {width.text}")

        def value(*i: Expr) -> Expr:
            first = i[-1] // width * width
            z = real(gate[i])
            opened = logistic(z) if activation == "sigmoid" else z * logistic(z)
            return real(x[i]) * inverse_root(n, lambda k: x[(*i[:-1], first + k)], width, epsilon) * real(scale[i[-1] % width]) * opened
        return n.map(x.shape, value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 8))
        yield Sample((x, real_sample((8,)), x[::-1].copy()))
        yield Sample((x, real_sample((4,)), x[::-1].copy()), {"activation": "sigmoid", "epsilon": 0.01})


# ----------------------------------------------------------------------------------------------------------------- branches
class Branches:
    """Streams [..., branches, width], or [..., branches * width] if the attribute num_branches says how many.

    Args:
        lead: dimensions in front.
    """

    def __init__(self, n: Lowering, streams: Tensor) -> None:
        self.streams, given = streams, int(n.attr("num_branches") or 0)
        self.flat = given > 0
        if self.flat:
            n.require(ex.equal(streams.shape[-1] % given, 0), f"rows of {streams.shape[-1].text} elements do not split into {given} branches")
            self.count, self.width = ex.const(given), streams.shape[-1] // given
        elif streams.rank < 2:
            raise n.error(f"streams of rank {streams.rank} were given, at least 2 was expected", "flattened streams need the attribute num_branches")
        else:
            self.count, self.width = streams.shape[-2:]
        self.lead = streams.shape[:-1 if self.flat else -2]

    def place(self, lead: Index, c: Expr, h: Expr) -> Index:
        return (*lead, c * self.width + h) if self.flat else (*lead, c, h)

    def at(self, lead: Index, c: Expr, h: Expr) -> Expr:
        return real(self.streams[self.place(lead, c, h)])

    def split(self, i: Index) -> tuple[Index, Expr, Expr]:
        """(dimensions in front, branch, feature) of a place."""
        return (i[:-1], i[-1] // self.width, i[-1] % self.width) if self.flat else (i[:-2], i[-2], i[-1])

    def gate(self, n: Lowering, mix: Tensor, name: str) -> Callable[[Index, Expr, Expr], Expr]:
        """Elements of a mix of shape [..., C], [..., C, 1], [..., C, H] or [..., C * H]."""
        rank = len(self.lead)
        if mix.rank == rank + 1:
            wide = mix.shape[-1] is not self.count and not (mix.shape[-1].is_const and self.count.is_const and mix.shape[-1].value == self.count.value)
            if not wide:
                return lambda lead, c, h: real(mix[(*lead, c)])
            if mix.shape[-1].is_const and self.count.is_const and self.width.is_const:
                n.require(ex.equal(mix.shape[-1], self.count * self.width), f"{name} has rows of {mix.shape[-1].text} elements")
                return lambda lead, c, h: real(mix[(*lead, c * self.width + h)])
            each = ex.equal(mix.shape[-1], self.count)
            return lambda lead, c, h: real(mix[(*lead, ex.where(each, c, c * self.width + h))])
        if mix.rank == rank + 2:
            one = ex.equal(mix.shape[-1], 1)
            return lambda lead, c, h: real(mix[(*lead, c, ex.where(one, 0, h))])
        raise n.error(f"{name} of rank {mix.rank} was given, {rank + 1} or {rank + 2} was expected")


@register
class BranchwiseRMSNorm(Op):
    """Root mean square normalisation of every branch. Source: com.microsoft BranchwiseRMSNorm-1."""

    domain, name, versions = DOMAIN, "BranchwiseRMSNorm", (1,)
    attributes = {"num_branches": 0, "epsilon": 1e-5}

    def lower(self, n: Lowering) -> Tensor:
        x, scale, branches = n.input(0), n.optional(1), Branches(n, n.input(0))

        def factor(c: Expr, h: Expr) -> Expr:
            assert scale is not None
            if scale.rank == 2:
                return scale[c, h]
            return scale[ex.where(ex.equal(scale.shape[0], branches.width), h, c * branches.width + h)]

        def value(*i: Expr) -> Expr:
            lead, c, h = branches.split(i)
            e = real(x[i]) * inverse_root(n, lambda k: branches.at(lead, c, k), branches.width, float(n.attr("epsilon")))
            return e if scale is None else e * real(factor(c, h))
        return n.map(x.shape, value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4, 8))
        yield Sample((x, real_sample((4, 8))))
        yield Sample((x, real_sample((4,))), {"num_branches": 2})


@register
class HyperConnectionPreMix(Op):
    """Weighted sum of the branches. Source: com.microsoft HyperConnectionPreMix-1."""

    domain, name, versions = DOMAIN, "HyperConnectionPreMix", (1,)
    attributes: ClassVar[dict[str, Attribute]] = {"num_branches": 0, "reduction_scale": 1.0}

    def lower(self, n: Lowering) -> Tensor:
        x, branches = n.input(0), Branches(n, n.input(0))
        gate, scale = branches.gate(n, n.input(1), "pre_mix"), float(n.attr("reduction_scale"))

        def value(*i: Expr) -> Expr:
            return n.reduce("sum", [branches.count], lambda c: branches.at(i[:-1], c, i[-1]) * gate(i[:-1], c, i[-1])) * scale
        return n.map((*branches.lead, branches.width), value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4, 8))
        yield Sample((x, real_sample((2, 3, 4))), {"reduction_scale": 0.5})
        yield Sample((x.reshape(2, 3, 32), real_sample((2, 3, 4, 8))), {"num_branches": 4})


@register
class HyperConnectionPostMix(Op):
    """Branches mixed among each other, plus one output times its gate for each. Source: com.microsoft HyperConnectionPostMix-1."""

    domain, name, versions = DOMAIN, "HyperConnectionPostMix", (1,)
    attributes: ClassVar[dict[str, Attribute]] = {"num_branches": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, block, branches, mix = n.input(0), n.input(1), Branches(n, n.input(0)), n.optional(3)
        gate = branches.gate(n, n.input(2), "post_mix")

        def value(*i: Expr) -> Expr:
            lead, k, h = branches.split(i)
            own = real(x[i]) if mix is None else n.reduce("sum", [branches.count], lambda c: real(mix[(*lead, c, k)]) * branches.at(lead, c, h))
            return own + gate(lead, k, h) * real(block[(*lead, h)])
        return n.map(x.shape, value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4, 8))
        yield Sample((x, real_sample((2, 3, 8)), real_sample((2, 3, 4, 1)), real_sample((2, 3, 4, 4))))
        yield Sample((x.reshape(2, 3, 32), real_sample((2, 3, 8)), real_sample((2, 3, 4))), {"num_branches": 4})


# -------------------------------------------------------------------------------------------------------------------- gates
@register
class LinearAttentionGate(Op):
    """decay_scale * softplus(a + dt_bias) and sigmoid(b) in float32. Source: com.microsoft LinearAttentionGate-1."""

    domain, name, versions = DOMAIN, "LinearAttentionGate", (1,)

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        a, bias, scale = n.input(0), n.input(1), n.input(2)

        def decay(*i: Expr) -> Expr:
            z = real(a[i]) + bias[i[-1]]
            return scale[i[-1]] * (ex.maximum(z, 0.0) + ex.unary("log1p", ex.unary("exp", -ex.unary("abs", z))))
        beta = None
        if n.wants(1):
            b = n.input(3)
            beta = n.map(b.shape, lambda *i: logistic(real(b[i])), b.dtype)
        return [n.map(a.shape, decay, a.dtype), beta]

    def samples(self) -> Iterator[Sample]:
        a = real_sample((2, 3, 4))
        yield Sample((a, real_sample((4,)), real_sample((4,)), a[::-1].copy()), outputs=2)


@register
class EngramGate(Op):
    """value * sigmoid(signed root of the scaled product of normalised keys and queries), and that normalised. Source: com.microsoft EngramGate-1."""

    domain, name, versions = DOMAIN, "EngramGate", (1,)
    attributes = {"epsilon": 1e-5}

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        key, query, value, key_scale, query_scale = (n.input(k) for k in range(5))
        epsilon, width = float(n.attr("epsilon")), key.shape[3]

        def gate(b: Expr, s: Expr, m: Expr) -> Expr:
            def inverse(t: Tensor) -> Expr:
                return inverse_root(n, lambda k: t[b, s, m, k], width, epsilon)
            roots = [inverse(key), inverse(query)]

            def product(k: Expr) -> Expr:
                return real(key[b, s, m, k]) * real(key_scale[m, k]) * (real(query[b, s, m, k]) * real(query_scale[m, k]))
            root = ex.const(math.sqrt(width.value), dt.float32) if width.is_const else ex.unary("sqrt", real(width))
            dot = n.reduce("sum", [width], product) * roots[0] * roots[1] / root
            size = ex.unary("sqrt", ex.maximum(ex.unary("abs", dot), 1e-6))
            return logistic(ex.where(dot > 0.0, size, ex.where(dot < 0.0, -size, ex.const(0.0, dt.float32))))
        gates = n.map(key.shape[:3], gate, dt.float32)

        def gated(b: Expr, s: Expr, m: Expr, k: Expr) -> Expr:
            return gates[b, s, m] * real(value[b, s, k])
        y = n.map(key.shape, gated, key.dtype)
        if not n.wants(1):
            return [y, None]
        scale = n.input(5)
        return [y, n.map(key.shape, lambda b, s, m, h: gated(b, s, m, h) * inverse_root(n, lambda k: gated(b, s, m, k), width, epsilon) * real(scale[m, h]), key.dtype)]

    def samples(self) -> Iterator[Sample]:
        key = real_sample((2, 3, 4, 8))
        scales = [real_sample((4, 8), -1, 2)] * 3
        yield Sample((key, key[::-1].copy(), real_sample((2, 3, 8)), *scales), outputs=2)
