"""Softmax and the normalisations: one map each, whose values hold their reductions, so that a schedule may keep a row in registers.

All compute in float32 (float64 for double inputs) and round once.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import MapNest, Ref, Store
from .base import REQUIRED, Builder, Lowering, Op, Sample, broadcast_index, broadcast_load, register
from .elementwise import real_sample, sum_to, wide


def inner_axes(n: Lowering, rank: int) -> list[int]:
    """The axes that softmax and its kin reduce over: one from version 13 on, all from `axis` on before (default 1)."""
    if n.version >= 13:
        return [n.axis(n.attr("axis", -1), rank)]
    first = n.attr("axis", 1)
    return list(range(n.axis(first, rank, inclusive=first >= 0), rank))


def over(n: Lowering, x: Tensor, axes: Sequence[int], index: Sequence[Expr], kind: str, f: Callable[[Expr], Expr]) -> Expr:
    """The reduction of f(element) over `axes` at a position of the others."""
    def term(*r: Expr) -> Expr:
        at = list(index)
        for k, position in zip(axes, r):
            at[k] = position
        return f(wide(x[tuple(at)]))
    return n.reduce(kind, [x.shape[k] for k in axes], term)


def count_of(x: Tensor, axes: Sequence[int], kind: DType) -> Expr:
    return ex.cast(ex.product(x.shape[k] for k in axes), kind)


HALF_MAX = 65504.0  # the largest float16


def half(x: Expr) -> Expr:
    """A float32 rounded to float16."""
    return ex.cast(ex.cast(x, dt.float16), dt.float32)


@register
class Softmax(Op):
    """e ** x over the sum of e ** x along `axis`, shifted by the largest element. Source: ONNX Softmax-13.

    In float16, powers, sum and quotient are each rounded, as the function says that ONNX defines the operator by; but a sum beyond the range stays
    as it is, and so does the shifted element, whose rounding would cost three bits of the result.
    """

    name, versions = "Softmax", (1, 11, 13)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        axes = inner_axes(n, x.rank)

        def body(*i: Expr) -> Expr:
            largest = over(n, x, axes, i, "max", lambda v: v)
            if x.dtype is dt.float16:
                total = over(n, x, axes, i, "sum", lambda v: half(ex.decay(v - largest)))
                return half(ex.decay(wide(x[i]) - largest)) / ex.where(total < HALF_MAX, half(total), total)
            total = over(n, x, axes, i, "sum", lambda v: ex.decay(v - largest))
            return ex.decay(wide(x[i]) - largest) * (1 / total)
        return n.map(x.shape, body, x.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        axes = _gradient_axes(b)
        y = b.add("Softmax", b.input(0), version=b.version, **b.node.attributes)
        weighted = b.add("Mul", upstream[0], y)
        return [b.add("Sub", weighted, b.add("Mul", y, b.add("ReduceSum", weighted, axes, keepdims=1)))]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        for at in (-1, 1):
            yield Sample((x,), {"axis": at})
        yield Sample((x,), {"axis": 1}, version=11, name="flattened")
        yield Sample((x.astype(np.float16),), name="half")


def _gradient_axes(b: Builder) -> list[int]:
    rank = len(b.type(b.input(0)).shape)
    if b.version >= 13:
        return [int(b.attr("axis", -1)) % rank]
    first = int(b.attr("axis", 1))
    return list(range(first + rank if first < 0 else first, rank))


@register
class LogSoftmax(Op):
    """Logarithm of softmax. Source: ONNX LogSoftmax-13."""

    name, versions = "LogSoftmax", (1, 11, 13)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        axes = inner_axes(n, x.rank)

        def body(*i: Expr) -> Expr:
            largest = over(n, x, axes, i, "max", lambda v: v)
            total = over(n, x, axes, i, "sum", lambda v: ex.decay(v - largest))
            return wide(x[i]) - largest - ex.unary("log", total)
        return n.map(x.shape, body, x.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        p = b.add("Softmax", b.input(0), version=b.version, **b.node.attributes)
        total = b.add("ReduceSum", upstream[0], _gradient_axes(b), keepdims=1)
        return [b.add("Sub", upstream[0], b.add("Mul", p, total))]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3, 4)),), {"axis": 1})
        yield Sample((real_sample((2, 3, 4)),), {"axis": 1}, version=11, name="flattened")


@register
class Hardmax(Op):
    """One at the first largest element along `axis`, zero elsewhere. Source: ONNX Hardmax-13."""

    name, versions = "Hardmax", (1, 11, 13)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        axes = inner_axes(n, x.rank)
        tail = [x.shape[k] for k in axes]

        def body(*i: Expr) -> Expr:
            def term(r: Expr) -> Expr:
                at = list(i)
                for k, position in zip(axes, ex.unravel(r, tail)):
                    at[k] = position
                return wide(x[tuple(at)])
            best = n.reduce("argmax", [ex.product(tail)], term)
            return ex.cast(ex.equal(best, ex.linear_index([i[k] for k in axes], tail)), x.dtype)
        return n.map(x.shape, body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.array([[[3, 0, 1], [3, 5, 5]], [[1, 1, 1], [0, 2, 2]]], np.float32)
        yield Sample((x,))
        yield Sample((x,), {"axis": 1}, version=11, name="flattened")


@register
class LpNormalization(Op):
    """x over its p-norm along `axis` (zero where the norm is). Source: ONNX LpNormalization-22."""

    name, versions = "LpNormalization", (1, 22)
    attributes = {"axis": -1, "p": 2}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        axes = [n.axis(n.attr("axis"), x.rank)]
        if n.attr("p") not in (1, 2):
            raise n.error(f"p is {n.attr('p')}, 1 or 2 was expected")

        def body(*i: Expr) -> Expr:
            if n.attr("p") == 1:
                norm = over(n, x, axes, i, "sum", lambda v: ex.unary("abs", v))
            else:
                norm = ex.unary("sqrt", over(n, x, axes, i, "sum", lambda v: v * v))
            return ex.where(ex.equal(norm, 0), 0, wide(x[i]) / norm)
        return n.map(x.shape, body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4))
        yield Sample((x,))
        yield Sample((x * np.array([[1], [0], [1]], np.float32),), {"p": 1, "axis": 1}, name="zero_row")


# ---------------------------------------------------------------------------------------------------- mean and variance
class Moments:
    """Mean and variance over `axes` at a position of the others."""

    def __init__(self, n: Lowering, x: Tensor, axes: Sequence[int], index: Sequence[Expr]) -> None:
        total = over(n, x, axes, index, "sum", lambda v: v)
        count = count_of(x, axes, total.dtype)
        self.mean = total / count
        self.variance = over(n, x, axes, index, "sum", lambda v: (v - self.mean) * (v - self.mean)) / count


def inverse_deviation(variance: Expr, epsilon: float) -> Expr:
    return 1 / ex.unary("sqrt", variance + epsilon)


class Normalised:
    """What gradients of normalisations share: the values normalised over `axes`, and the gradient through that, as operators."""

    def __init__(self, b: Builder, x: Value, axes: Sequence[int], epsilon: float) -> None:
        self.b, self.axes = b, [int(a) for a in axes]
        centred = b.add("Sub", x, b.add("ReduceMean", x, self.axes, keepdims=1))
        variance = b.add("ReduceMean", b.add("Mul", centred, centred), self.axes, keepdims=1)
        self.inverse = b.add("Reciprocal", b.add("Sqrt", b.add("Add", variance, b.constant(epsilon, b.type(x).dtype))))
        self.value = b.add("Mul", centred, self.inverse)

    def to_input(self, upstream: Value) -> Value:
        """The gradient of x for that of the normalised values."""
        b = self.b
        average = b.add("ReduceMean", upstream, self.axes, keepdims=1)
        along = b.add("Mul", self.value, b.add("ReduceMean", b.add("Mul", upstream, self.value), self.axes, keepdims=1))
        return b.add("Mul", self.inverse, b.add("Sub", b.add("Sub", upstream, average), along))


def by_channel(b: Builder, value: Value, rank: int) -> Value:
    """A vector over channels, as it broadcasts to [N, C, ...]."""
    return b.add("Unsqueeze", value, list(range(1, rank - 1))) if rank > 2 else value


def over_channels(b: Builder, value: Value, rank: int) -> Value:
    """[N, C, ...] summed to a vector over channels."""
    return b.add("ReduceSum", value, [k for k in range(rank) if k != 1], keepdims=0)


@register
class LayerNormalization(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the dimensions from `axis` on; also mean and 1 / deviation.

    Source: ONNX LayerNormalization-17.
    """

    name, versions = "LayerNormalization", (1, 17)  # exporters wrote it into ai.onnx before it was standard
    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}

    def lower(self, n: Lowering) -> list[Ref | None]:
        x, scale, bias = n.input(0), n.input(1), n.optional(2)
        axes = list(range(n.axis(n.attr("axis"), x.rank), x.rank))
        kind = dt.compute_type(x.dtype)

        def body(*i: Expr) -> Expr:
            m = Moments(n, x, axes, i)
            out = (wide(x[i]) - m.mean) * inverse_deviation(m.variance, n.attr("epsilon"))
            out = out * ex.cast(broadcast_load(scale, x.shape, i), kind)
            return out if bias is None else out + ex.cast(broadcast_load(bias, x.shape, i), kind)
        y = n.map(x.shape, body, x.dtype)
        kept = [ex.const(1) if k in axes else d for k, d in enumerate(x.shape)]
        mean = n.map(kept, lambda *i: Moments(n, x, axes, i).mean) if n.wants(1) else None
        inverse = n.map(kept, lambda *i: inverse_deviation(Moments(n, x, axes, i).variance, n.attr("epsilon"))) if n.wants(2) else None
        return [y, mean, inverse]

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, scale = b.input(0), b.input(1)
        rank = len(b.type(x).shape)
        first = int(b.attr("axis")) % rank
        axes = list(range(first, rank))
        normal = Normalised(b, x, axes, b.attr("epsilon"))
        to_x = normal.to_input(b.add("Mul", upstream[0], scale))
        weighted = b.add("Mul", upstream[0], normal.value)
        to_bias = sum_to(b, upstream[0], b.input(2)) if b.has(2) else None
        return [to_x, sum_to(b, weighted, scale), to_bias][:len(b.inputs)]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x, real_sample((4,)), real_sample((4,), 0, 1)), outputs=3)
        yield Sample((x, real_sample((3, 4))), {"axis": 1, "epsilon": 0.1}, name="matrix")
        yield Sample((x.astype(np.float16), real_sample((4,)).astype(np.float16)), name="half")


@register
class RMSNormalization(Op):
    """x / sqrt(mean of squares + epsilon) * scale over the dimensions from `axis` on. Source: ONNX RMSNormalization-23."""

    name, versions = "RMSNormalization", (23,)
    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}

    def lower(self, n: Lowering) -> Ref:
        x, scale = n.input(0), n.input(1)
        axes = list(range(n.axis(n.attr("axis"), x.rank), x.rank))
        kind = dt.compute_type(x.dtype)

        def body(*i: Expr) -> Expr:
            square = over(n, x, axes, i, "sum", lambda v: v * v) / count_of(x, axes, kind)
            return wide(x[i]) * inverse_deviation(square, n.attr("epsilon")) * ex.cast(broadcast_load(scale, x.shape, i), kind)
        return n.map(x.shape, body, scale.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, scale = b.input(0), b.input(1)
        rank = len(b.type(x).shape)
        first = int(b.attr("axis")) % rank
        axes = list(range(first, rank))
        square = b.add("ReduceMean", b.add("Mul", x, x), axes, keepdims=1)
        inverse = b.add("Reciprocal", b.add("Sqrt", b.add("Add", square, b.constant(b.attr("epsilon"), b.type(x).dtype))))
        normal = b.add("Mul", x, inverse)
        scaled = b.add("Mul", upstream[0], scale)
        along = b.add("Mul", normal, b.add("ReduceMean", b.add("Mul", scaled, normal), axes, keepdims=1))
        return [b.add("Mul", inverse, b.add("Sub", scaled, along)), sum_to(b, b.add("Mul", upstream[0], normal), scale)]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3, 4)), real_sample((4,))))
        yield Sample((real_sample((2, 3, 4)), real_sample((3, 4))), {"axis": -2}, name="matrix")


@register
class InstanceNormalization(Op):
    """Normalised over the space of every channel of every instance, scaled by channel. Source: ONNX InstanceNormalization-22."""

    name, versions = "InstanceNormalization", (1, 6, 22)
    attributes = {"epsilon": 1e-5}

    def lower(self, n: Lowering) -> Ref:
        x, scale, bias = n.input(0), n.input(1), n.input(2)
        axes = list(range(2, x.rank))

        def body(*i: Expr) -> Expr:
            m = Moments(n, x, axes, i)
            return (wide(x[i]) - m.mean) * inverse_deviation(m.variance, n.attr("epsilon")) * wide(scale[i[1]]) + wide(bias[i[1]])
        return n.map(x.shape, body, x.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x = b.input(0)
        rank = len(b.type(x).shape)
        normal = Normalised(b, x, range(2, rank), b.attr("epsilon"))
        to_x = normal.to_input(b.add("Mul", upstream[0], by_channel(b, b.input(1), rank)))
        return [to_x, over_channels(b, b.add("Mul", upstream[0], normal.value), rank), over_channels(b, upstream[0], rank)]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3, 4, 2)), real_sample((3,)), real_sample((3,), 0, 1)))


@register
class GroupNormalization(Op):
    """Normalised over groups of channels; scale and bias by group in version 18, by channel from 21 on. Source: ONNX GroupNormalization-21.

    Sums are taken by channel first and by group then, so that memory is read in order whether channels lie first or last.
    """

    name, versions = "GroupNormalization", (18, 21)
    attributes = {"num_groups": REQUIRED, "epsilon": 1e-5, "stash_type": 1}

    def lower(self, n: Lowering) -> Ref:
        x, scale, bias = n.input(0), n.input(1), n.input(2)
        groups = n.attr("num_groups")
        if x.shape[1].is_const and x.shape[1].value % groups:
            raise n.error(f"{x.shape[1].value} channels cannot be split into {groups} groups")
        size = x.shape[1] // groups
        space = x.shape[2:]
        kind = dt.compute_type(x.dtype)
        each = ex.const(groups) if n.version < 21 else x.shape[1]
        for k, t in ((1, scale), (2, bias)):
            if t.rank != 1:
                raise n.error(f"input {k} of GroupNormalization has rank {t.rank}; a vector was expected")
            n.require(ex.logical_or(ex.equal(t.shape[0], each), ex.equal(t.shape[0], 1)),
                      f"input {k} of GroupNormalization has {t.shape[0].text} elements; {each.text} or one were expected")

        count = ex.cast(ex.product([size, *space]), kind)

        def over_groups(t: Tensor, value: Callable[[Expr, Expr, Expr], Expr], stem: str) -> Tensor:
            """One value for each channel: `value` of the sum of `t` over its group, its group and itself."""
            out = n.tensor(t.shape, kind, stem)
            image, group, member = ex.axis(t.shape[0]), ex.axis(groups), ex.axis(size)
            total = n.reduce("sum", [size], lambda c: t[image, group * size + c])
            index = (image, group * size + member)
            n.nests.append(MapNest((image, group, member), (Store(out, index, value(total, group, index[1])),), n.origin))
            return out

        def parameter(t: Tensor, group: Expr, channel: Expr) -> Expr:
            return ex.cast(t[broadcast_index(t.shape[0], each, group if n.version < 21 else channel)], kind)

        def per_channel(f: Callable[[Expr, Expr, Expr], Expr]) -> Tensor:
            return n.map(x.shape[:2], lambda i, c: n.reduce("sum", space, lambda *r: f(wide(x[(i, c, *r)]), i, c)))
        mean = over_groups(per_channel(lambda v, i, c: v), lambda total, *_: total / count, "mean")
        squares = per_channel(lambda v, i, c: (v - mean[i, c]) * (v - mean[i, c]))
        factor = over_groups(squares, lambda total, g, c: inverse_deviation(total / count, n.attr("epsilon")) * parameter(scale, g, c), "factor")
        return n.map(x.shape, lambda *i: (wide(x[i]) - mean[i[0], i[1]]) * factor[i[0], i[1]] + parameter(bias, i[1] // size, i[1]), x.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.version < 21:
            raise b.unsupported("the gradient of GroupNormalization below version 21 is not defined")
        x = b.input(0)
        rank, shape = len(b.type(x).shape), b.add("Shape", x)
        grouped = [0, int(b.attr("num_groups")), -1]
        normal = Normalised(b, b.add("Reshape", x, grouped), [2], b.attr("epsilon"))
        scaled = b.add("Mul", upstream[0], by_channel(b, b.input(1), rank))
        to_x = b.add("Reshape", normal.to_input(b.add("Reshape", scaled, grouped)), shape)
        weighted = b.add("Mul", upstream[0], b.add("Reshape", normal.value, shape))
        return [to_x, over_channels(b, weighted, rank), over_channels(b, upstream[0], rank)]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 4, 3))
        yield Sample((x, real_sample((4,)), real_sample((4,), 0, 1)), {"num_groups": 2})
        yield Sample((x, real_sample((2,)), real_sample((2,), 0, 1)), {"num_groups": 2}, version=18, name="by_group")


@register
class BatchNormalization(Op):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias by channel; while training, by the batch's own moments.

    Inference computes one factor and one offset a channel first, so that only a product and a sum are left for every element. Before version 14 the
    number of outputs tells training; `spatial=0` (up to version 8) keeps statistics for every position instead of every channel.

    Source: ONNX BatchNormalization-15.
    """

    name, versions = "BatchNormalization", (1, 6, 7, 9, 14, 15)
    attributes = {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0, "spatial": 1, "is_test": 0}

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        x, scale, bias, mean, variance = (n.input(k) for k in range(5))
        if self._trains(n):
            return self._training(n, x, scale, bias, mean, variance)
        kind = dt.compute_type(x.dtype)
        epsilon = n.attr("epsilon")
        factor = n.map(scale.shape, lambda *c: ex.cast(scale[c], kind) / ex.unary("sqrt", ex.cast(variance[c], kind) + epsilon), kind)
        offset = n.map(scale.shape, lambda *c: ex.cast(bias[c], kind) - ex.cast(mean[c], kind) * factor[c], kind)
        y = n.map(x.shape, lambda *i: wide(x[i]) * factor[i[1:1 + scale.rank]] + offset[i[1:1 + scale.rank]], x.dtype)
        return [y] + [None] * 4

    @staticmethod
    def _trains(n: Lowering) -> bool:
        if n.version >= 14:
            return bool(n.attr("training_mode"))
        return any(n.wants(k) for k in range(1, 5)) and not (n.version < 7 and n.attr("is_test"))

    @staticmethod
    def _training(n: Lowering, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Sequence[Ref | None]:
        if scale.rank != 1:
            raise n.unsupported("training statistics for every position (spatial=0) are not defined")
        axes = [k for k in range(x.rank) if k != 1]
        kind = dt.compute_type(x.dtype)
        lead = [ex.const(0)]

        def moments(c: Expr) -> Moments:
            return Moments(n, x, axes, [*lead, c, *[ex.const(0)] * (x.rank - 2)])
        batch_mean = n.map(x.shape[1:2], lambda c: moments(c).mean, kind)
        batch_variance = n.map(x.shape[1:2], lambda c: moments(c).variance, kind)

        def body(*i: Expr) -> Expr:
            c = i[1]
            normal = (wide(x[i]) - batch_mean[c]) * inverse_deviation(batch_variance[c], n.attr("epsilon"))
            return normal * ex.cast(scale[c], kind) + ex.cast(bias[c], kind)
        y = n.map(x.shape, body, x.dtype)
        momentum = n.attr("momentum")

        def running(old: Tensor, new: Tensor) -> Tensor:
            return n.map(old.shape, lambda c: ex.cast(old[c], kind) * momentum + new[c] * (1 - momentum), old.dtype)
        saved = [n.map(t.shape, lambda c, t=t: t[c], mean.dtype) for t in (batch_mean, batch_variance)]
        return [y, running(mean, batch_mean), running(variance, batch_variance), *saved]

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.version < 14:
            raise b.unsupported("the gradient of BatchNormalization below version 14 is not defined")
        x, scale, mean, variance = b.input(0), b.input(1), b.input(3), b.input(4)
        rank = len(b.type(x).shape)
        scaled = b.add("Mul", upstream[0], by_channel(b, scale, rank))
        if b.attr("training_mode"):
            normal = Normalised(b, x, [k for k in range(rank) if k != 1], b.attr("epsilon"))
            to_x, value = normal.to_input(scaled), normal.value
        else:
            inverse = b.add("Reciprocal", b.add("Sqrt", b.add("Add", variance, b.constant(b.attr("epsilon"), b.type(variance).dtype))))
            inverse = by_channel(b, inverse, rank)
            to_x, value = b.add("Mul", scaled, inverse), b.add("Mul", b.add("Sub", x, by_channel(b, mean, rank)), inverse)
        return [to_x, over_channels(b, b.add("Mul", upstream[0], value), rank), over_channels(b, upstream[0], rank), None, None]

    def samples(self) -> Iterator[Sample]:
        x, c = real_sample((2, 3, 2, 2)), [real_sample((3,), a, b) for a, b in ((0.5, 2), (-1, 1), (-1, 1), (0.5, 2))]
        yield Sample((x, *c))
        yield Sample((x, *c), {"training_mode": 1, "momentum": 0.8}, outputs=3, name="training")
        yield Sample((x, *c), version=9, name="version_9")


@register
class MeanVarianceNormalization(Op):
    """(x - mean) / (deviation + 1e-9) over `axes`; those that `x` has not are left out, so that the usual ones suit ranks below 4. Source: ONNX MeanVarianceNormalization-13."""

    name, versions = "MeanVarianceNormalization", (9, 13)
    attributes = {"axes": (0, 2, 3)}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        axes = sorted({n.axis(int(a), x.rank) for a in n.attr("axes") if int(a) < x.rank})

        def body(*i: Expr) -> Expr:
            m = Moments(n, x, axes, i)
            return (wide(x[i]) - m.mean) / (ex.unary("sqrt", m.variance) + 1e-9)
        return n.map(x.shape, body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3, 2, 2)),))
        yield Sample((real_sample((2, 3, 2, 2)),), {"axes": (1, -1)}, name="axes")
        for shape in ((2, 3, 4), (5, 3), (6,)):
            yield Sample((real_sample(shape),), name=f"rank_{len(shape)}")


@register
class LRN(Op):
    """x over (bias + alpha / size * sum of squares in a window of channels) ** beta. Source: ONNX LRN-13."""

    name, versions = "LRN", (1, 13)
    attributes = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, "size": REQUIRED}

    def lower(self, n: Lowering) -> Ref:
        x, size = n.input(0), n.attr("size")
        before = (size - 1) // 2

        def body(*i: Expr) -> Expr:
            def square(r: Expr) -> Expr:
                v = wide(ex.load(x, (i[0], i[1] + r - before, *i[2:]), fill=0))
                return v * v
            total = n.reduce("sum", [size], square)
            base = total * (n.attr("alpha") / size) + n.attr("bias")
            return wide(x[i]) / power(base, n.attr("beta"))
        return n.map(x.shape, body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((1, 5, 2, 2)),), {"size": 3})
        yield Sample((real_sample((1, 5, 2, 2)),), {"size": 4, "alpha": 0.5, "beta": 0.5, "bias": 2.0}, name="even")


def power(base: Expr, exponent: float) -> Expr:
    """A positive base to a constant exponent; quarters are made of square roots."""
    root = ex.unary("sqrt", base)
    if exponent == 0.75:
        return root * ex.unary("sqrt", root)
    return root if math.isclose(exponent, 0.5) else base if exponent == 1 else ex.binary("pow", base, ex.const(exponent, base.dtype))
