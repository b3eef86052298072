"""Operators that make tensors from sizes and scalars."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr
from ..graph import Value
from ..loops import Ref
from .base import Builder, Lowering, Op, Sample, register
from .casting import element_type
from .elementwise import real_sample
from .movement import int64
from .views import View, as_size, select


@register
class Shape(Op):
    """The sizes of dimensions start to end. Source: ONNX Shape-25."""

    name, versions = "Shape", (1, 13, 15, 19, 21, 23, 24, 25)
    attributes = {"start": 0}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        dims = x.shape[slice(n.attr("start"), n.attr("end"))]
        return n.map([len(dims)], lambda i: select(i, dims) if dims else ex.const(0))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x,))
        yield Sample((x,), {"start": -2, "end": 10}, name="range")


@register
class Size(Op):
    """The number of elements. Source: ONNX Size-25."""

    name, versions = "Size", (1, 13, 19, 21, 23, 24, 25)

    def lower(self, n: Lowering) -> Ref:
        return n.map([], lambda: n.input(0).numel())

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)),))


@register
class ConstantOfShape(Op):
    """A tensor of the given shape filled with one value (float32 zero by default). Source: ONNX ConstantOfShape-25."""

    name, versions = "ConstantOfShape", (9, 20, 21, 23, 24, 25)

    def lower(self, n: Lowering) -> Ref:
        value = n.attr("value")
        array = np.zeros(1, np.float32) if value is None else np.asarray(value)
        kind = dt.of_numpy(array.dtype)
        element = array.reshape(-1)[0]
        number = element.item() if kind.kind == "complex" else float(element) if kind.is_float else int(element)
        return n.map(n.ints(0), lambda *i: ex.const(number, kind))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((int64(2, 3),))
        yield Sample((int64(2, 0),), {"value": np.array([7], np.int32)}, name="empty")


@register
class EyeLike(Op):
    """Ones on diagonal k of a matrix of the input's shape. Source: ONNX EyeLike-22."""

    name, versions = "EyeLike", (9, 22)
    attributes = {"k": 0}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        kind = element_type(n, "dtype", x.dtype)
        return n.map(x.shape, lambda i, j: ex.cast(ex.equal(i + n.attr("k"), j), kind), kind)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.zeros((3, 4), np.int32),), {"k": 1, "dtype": dt.float32.code})


@register
class Range(Op):
    """start, start + delta, ... below limit. Source: ONNX Range-27."""

    name, versions = "Range", (11, 27)
    attributes = {"stash_type": 1}

    def lower(self, n: Lowering) -> Ref:
        kind = n.input(0).dtype
        compute = dt.compute_type(kind)
        if n.version >= 27 and kind in (dt.float16, dt.bfloat16):
            compute = element_type(n, "stash_type")
        start, limit, delta = (self._scalar(n, k) for k in range(3))
        if kind.is_float:
            start, limit, delta = (ex.cast(e, compute) for e in (start, limit, delta))
            count = ex.cast(ex.unary("ceil", (limit - start) / delta), dt.int64)
        else:
            start, limit, delta = (ex.cast(e, dt.int64) for e in (start, limit, delta))
            if delta.is_const and delta.value == 0:
                raise n.error("delta is 0")
            n.require(ex.not_equal(delta, 0), "delta is 0")
            count = ex.ceildiv(limit - start, delta) if delta.is_const and delta.value > 0 else -((start - limit) // delta)
        return n.map([as_size(n, ex.maximum(count, 0))], lambda i: start + ex.cast(i, start.dtype) * delta, kind)

    @staticmethod
    def _scalar(n: Lowering, index: int) -> Expr:
        if n.known(index) is not None or n.input(index).dtype.is_integer:
            return n.elements(index)[0]
        t = n.input(index)
        return t[(ex.const(0),) * t.rank]

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None, None, None]

    def samples(self) -> Iterator[Sample]:
        for start, limit, delta in ((1, 10, 3), (10, 4, -2), (5, 5, 1)):
            yield Sample(tuple(np.array(v, np.int64) for v in (start, limit, delta)))
        yield Sample(tuple(np.array(v, np.float32) for v in (0.5, 3.1, 0.5)), name="float")


@register
class Trilu(View):
    """The upper (or lower) triangle of matrices from diagonal k on, zero elsewhere. Source: ONNX Trilu-14."""

    name, versions = "Trilu", (14,)
    attributes = {"upper": 1}

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        k = n.ints(1)[0] if n.has(1) else ex.const(0)

        def body(*i: Expr) -> Expr:
            diagonal = i[-1] - i[-2] - k
            kept = diagonal >= 0 if n.attr("upper") else diagonal <= 0
            return ex.where(kept, x[i], ex.const(0, x.dtype))
        return n.map(x.shape, body)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("Trilu", upstream[0], *b.inputs[1:], upper=b.attr("upper"))] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x,))
        yield Sample((x, np.array(-1)), {"upper": 0}, name="lower")
