"""Reductions along axes, positions of extremes, and running sums and products.

Sums of narrow floats are accumulated in float32 and rounded once. A reduction over no elements gives the identity of its operation.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Ref, Routine, load, store
from .base import Builder, Lowering, Op, Sample, register
from .elementwise import real, real_sample, wide
from .views import axis_flags, axis_list, drop_dims, holds, is_axis, reshaped, settled

Fold = Callable[[str, Callable[[Expr], Expr]], Expr]


class Reduction(Op):
    """y = f over the elements along `axes` (attribute before `axes_input_since`, input from then on; all axes by default)."""

    attributes = {"keepdims": 1, "noop_with_empty_axes": 0}
    axes_input_since = 18

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        """The result. `fold(kind, f)` reduces f(element) over the axes, with elements in their compute type; `count` is their number (int64)."""
        raise NotImplementedError

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        axes = self._axes(n, x)
        flags = axis_flags(n, axes, x.rank)
        reduced = settled(n, [ex.where(f, d, 1) for f, d in zip(flags, x.shape)])
        kept = settled(n, [ex.where(f, 1, d) for f, d in zip(flags, x.shape)])
        inner = [k for k, f in enumerate(flags) if not (f.is_const and not f.value)]
        count = ex.product(reduced[k] for k in inner)

        def body(*outer: Expr) -> Expr:
            def fold(kind: str, f: Callable[[Expr], Expr]) -> Expr:
                def term(*r: Expr) -> Expr:
                    at = list(outer)
                    for k, position in zip(inner, r):
                        at[k] = position if holds(flags[k]) else outer[k] + position
                    return f(wide(x[tuple(at)]))
                return n.reduce(kind, [reduced[k] for k in inner], term)
            return self.value(n, fold, count)

        if n.attr("keepdims"):
            return n.map(kept, body, x.dtype)
        if all(f.is_const for f in flags):
            left = [k for k in range(x.rank) if not flags[k].value]

            def compact(*i: Expr) -> Expr:
                full: list[Expr] = [ex.const(0)] * x.rank
                for k, position in zip(left, i):
                    full[k] = position
                return body(*full)
            return n.map([kept[k] for k in left], compact, x.dtype)
        return reshaped(n, n.map(kept, body, x.dtype), settled(n, drop_dims(kept, flags, len(axes))))

    def _axes(self, n: Lowering, x: Tensor) -> list[Expr]:
        if n.version >= self.axes_input_since:
            axes = list(n.ints(1)) if n.has(1) else []
        else:
            axes = axis_list(n, len(n.inputs), "axes", x.rank) or []
        if not axes and not (n.version >= self.axes_input_since and n.attr("noop_with_empty_axes")):
            return [ex.const(k) for k in range(x.rank)]
        return axes

    def spread(self, b: Builder, value: Value) -> Value:
        """A value of the output's shape, with the reduced dimensions put back, so that it broadcasts to the input."""
        x = b.input(0)
        rank = len(b.type(x).shape)
        if b.attr("keepdims") or len(b.type(value).shape) == rank:
            return value
        if b.has(1):
            return b.add("Unsqueeze", value, b.input(1))
        axes = b.attr("axes") or tuple(range(rank))
        return b.add("Unsqueeze", value, [int(a) for a in axes])

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4), 0.2, 3.0)
        axes = np.array([1, -1], np.int64)
        version = self.versions[-1] if self.versions[-1] >= self.axes_input_since else None
        yield Sample((x,), name="all", version=version)
        yield Sample((x, axes), {"keepdims": 0}, name="axes")
        yield Sample((x,), {"axes": (0, 2)}, version=self.versions[0], name="attribute")
        yield Sample((x, np.zeros(0, np.int64)), {"noop_with_empty_axes": 1}, name="noop")
        yield Sample((x.astype(np.float16), axes[:1]), name="half")


@register
class ReduceSum(Reduction):
    """Sum. Source: ONNX ReduceSum-13."""

    name, versions = "ReduceSum", (1, 11, 13)
    axes_input_since = 13

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        return fold("sum", lambda x: x)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("Expand", self.spread(b, upstream[0]), b.add("Shape", b.input(0)))] + [None] * (len(b.inputs) - 1)


@register
class ReduceMean(Reduction):
    """Sum over the number of elements. Source: ONNX ReduceMean-18."""

    name, versions = "ReduceMean", (1, 11, 13, 18)

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        total = fold("sum", lambda x: x)
        return total / ex.cast(count, total.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x = b.input(0)
        ratio = b.add("Div", b.add("CastLike", b.add("Size", upstream[0]), x), b.add("CastLike", b.add("Size", x), x))
        spread = b.add("Expand", self.spread(b, upstream[0]), b.add("Shape", x))
        return [b.add("Mul", spread, ratio)] + [None] * (len(b.inputs) - 1)


class Extreme(Reduction):
    """Largest or smallest element; of bools, whether any or all hold."""

    kind_of_numbers, kind_of_bools = "", ""

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        return fold(self.kind_of_bools if n.input(0).dtype is dt.boolean else self.kind_of_numbers, lambda x: x)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x = b.input(0)
        best = self.spread(b, b.add(self.name, *b.inputs, version=b.version, **b.node.attributes))
        hits = b.add("CastLike", b.add("Equal", x, best), x)
        axes = [b.input(1)] if b.has(1) else [[int(a) for a in b.attr("axes")]] if b.attr("axes") else []
        number = b.add("ReduceSum", hits, *axes, keepdims=1)
        return [b.add("Mul", hits, b.add("Div", self.spread(b, upstream[0]), number))] + [None] * (len(b.inputs) - 1)


@register
class ReduceMax(Extreme):
    """Largest element; NaN if any is. Source: ONNX ReduceMax-20."""

    name, versions = "ReduceMax", (1, 11, 12, 13, 18, 20)
    kind_of_numbers, kind_of_bools = "max", "any"


@register
class ReduceMin(Extreme):
    """Smallest element; NaN if any is. Source: ONNX ReduceMin-20."""

    name, versions = "ReduceMin", (1, 11, 12, 13, 18, 20)
    kind_of_numbers, kind_of_bools = "min", "all"


@register
class ReduceProd(Reduction):
    """Product. Source: ONNX ReduceProd-18."""

    name, versions = "ReduceProd", (1, 11, 13, 18)

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        return fold("prod", lambda x: x)


@register
class ReduceL1(Reduction):
    """Sum of absolute values. Source: ONNX ReduceL1-18."""

    name, versions = "ReduceL1", (1, 11, 13, 18)

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        return fold("sum", lambda x: x if x.dtype.kind == "uint" else ex.unary("abs", x))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("Mul", self.spread(b, upstream[0]), b.add("Sign", b.input(0)))] + [None] * (len(b.inputs) - 1)


@register
class ReduceL2(Reduction):
    """Square root of the sum of squares. Source: ONNX ReduceL2-18."""

    name, versions = "ReduceL2", (1, 11, 13, 18)

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        return ex.unary("sqrt", real(fold("sum", lambda x: x * x)))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        norm = b.add(self.name, *b.inputs, version=b.version, **b.node.attributes)
        return [b.add("Mul", b.input(0), self.spread(b, b.add("Div", upstream[0], norm)))] + [None] * (len(b.inputs) - 1)


@register
class ReduceSumSquare(Reduction):
    """Sum of squares. Source: ONNX ReduceSumSquare-18."""

    name, versions = "ReduceSumSquare", (1, 11, 13, 18)

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        return fold("sum", lambda x: x * x)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        spread = self.spread(b, upstream[0])
        return [b.add("Mul", b.input(0), b.add("Add", spread, spread))] + [None] * (len(b.inputs) - 1)


@register
class ReduceLogSum(Reduction):
    """Logarithm of the sum. Source: ONNX ReduceLogSum-28."""

    name, versions = "ReduceLogSum", (1, 11, 13, 18, 28)

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        return ex.unary("log", real(fold("sum", lambda x: x)))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        total = b.add("Exp", b.add(self.name, *b.inputs, version=b.version, **b.node.attributes))
        share = self.spread(b, b.add("Div", upstream[0], total))
        return [b.add("Expand", share, b.add("Shape", b.input(0)))] + [None] * (len(b.inputs) - 1)


@register
class ReduceLogSumExp(Reduction):
    """Logarithm of the sum of exponentials, shifted by the largest element so that it does not overflow. Source: ONNX ReduceLogSumExp-28."""

    name, versions = "ReduceLogSumExp", (1, 11, 13, 18, 28)

    def value(self, n: Lowering, fold: Fold, count: Expr) -> Expr:
        largest = real(fold("max", lambda x: x))
        shift = ex.where(ex.unary("isinf", largest), 0, largest)
        return ex.unary("log", fold("sum", lambda x: ex.unary("exp", real(x) - shift))) + shift

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        result = self.spread(b, b.add(self.name, *b.inputs, version=b.version, **b.node.attributes))
        share = b.add("Exp", b.add("Sub", b.input(0), result))
        return [b.add("Mul", share, self.spread(b, upstream[0]))] + [None] * (len(b.inputs) - 1)


# ---------------------------------------------------------------------------------------------------- positions of extremes
class ArgExtreme(Op):
    """The position of the extreme element along an axis; the first one, or with select_last_index the last one."""

    attributes = {"axis": 0, "keepdims": 1, "select_last_index": 0}
    reduction = ""

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        at = n.axis(n.attr("axis"), x.rank)
        kind = self.reduction + ("_last" if n.attr("select_last_index") else "")
        shape = [ex.const(1) if k == at else d for k, d in enumerate(x.shape)]

        def body(*i: Expr) -> Expr:
            return n.reduce(kind, [x.shape[at]], lambda r: wide(x[(*i[:at], r, *i[at + 1:])]))
        if n.attr("keepdims"):
            return n.map(shape, body)
        return n.map(shape[:at] + shape[at + 1:], lambda *i: body(*i[:at], ex.const(0), *i[at:]))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        x = np.array([[1, 3, 3], [2, 2, 0]], np.float32)
        for case in ({}, {"axis": -1, "keepdims": 0}, {"axis": 1, "select_last_index": 1}):
            yield Sample((x,), case)
        yield Sample((x.astype(np.int32),), {"axis": 1}, name="int32")


@register
class ArgMax(ArgExtreme):
    """Position of the largest element. Source: ONNX ArgMax-13."""

    name, versions, reduction = "ArgMax", (1, 11, 12, 13), "argmax"


@register
class ArgMin(ArgExtreme):
    """Position of the smallest element. Source: ONNX ArgMin-13."""

    name, versions, reduction = "ArgMin", (1, 11, 12, 13), "argmin"


# ------------------------------------------------------------------------------------------------------------ running folds
def running_sum(x, y, size, inner, exclusive, reverse, lo, hi):
    """y = sums of x up to each position along an axis of `size` elements, `inner` apart. One unit is one lane."""
    for lane in range(lo, hi):
        base = (lane // inner) * size * inner + lane % inner
        step = -inner if reverse else inner
        at = base + (size - 1) * inner if reverse else base
        if size > 0:
            if exclusive:
                store(y, at, 0)
                if size > 1:
                    total = load(x, at)
                    at += step
                    store(y, at, total)
                    for _ in range(2, size):
                        total = total + load(x, at)
                        at += step
                        store(y, at, total)
            else:
                total = load(x, at)
                store(y, at, total)
                for _ in range(1, size):
                    at += step
                    total = total + load(x, at)
                    store(y, at, total)


def running_product(x, y, size, inner, exclusive, reverse, lo, hi):
    """y = products of x up to each position along an axis of `size` elements, `inner` apart. One unit is one lane."""
    for lane in range(lo, hi):
        base = (lane // inner) * size * inner + lane % inner
        step = -inner if reverse else inner
        at = base + (size - 1) * inner if reverse else base
        if size > 0:
            if exclusive:
                store(y, at, 1)
                if size > 1:
                    total = load(x, at)
                    at += step
                    store(y, at, total)
                    for _ in range(2, size):
                        total = total * load(x, at)
                        at += step
                        store(y, at, total)
            else:
                total = load(x, at)
                store(y, at, total)
                for _ in range(1, size):
                    at += step
                    total = total * load(x, at)
                    store(y, at, total)


class Running(Op):
    """Fold of the elements up to each position along an axis (an input, perhaps known only when running)."""

    attributes = {"exclusive": 0, "reverse": 0}
    loop: Routine

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        axis = n.ints(1)[0]
        if axis.is_const:
            axis = ex.const(n.axis(axis.value, x.rank))
        else:
            n.require(ex.logical_and(axis >= -x.rank, axis < x.rank), f"the axis is out of range for rank {x.rank}")
        size = ex.total(ex.where(is_axis(axis, k, x.rank), d, 0) for k, d in enumerate(x.shape))
        inner = ex.const(1)
        for k in range(x.rank):
            inner = ex.where(is_axis(axis, k, x.rank), ex.product(x.shape[k + 1:]), inner)
        others = ex.product(d if axis.is_const and axis.value != k else ex.where(is_axis(axis, k, x.rank), 1, d) for k, d in enumerate(x.shape))
        return n.routine(self.loop, [x], [(x.dtype, x.shape)], [size, inner, int(n.attr("exclusive")), int(n.attr("reverse"))], units=others)[0]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 2), 0.5, 2.0)
        for axis, case in ((0, {}), (1, {"exclusive": 1}), (-1, {"reverse": 1}), (1, {"exclusive": 1, "reverse": 1})):
            yield Sample((x, np.array(axis, np.int64)), case)


@register
class CumSum(Running):
    """Running sum. Source: ONNX CumSum-14."""

    name, versions = "CumSum", (11, 14)
    loop = Routine("running_sum", running_sum)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("CumSum", upstream[0], b.input(1), exclusive=b.attr("exclusive"), reverse=1 - b.attr("reverse")), None]


@register
class CumProd(Running):
    """Running product. Source: ONNX CumProd-26."""

    name, versions = "CumProd", (26,)
    loop = Routine("running_product", running_product)
