"""Quantised numbers: conversion to and from integer and float8 codes with scales and zero points."""
from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from .base import Lowering, Op, Sample, broadcast_index, register

ONE = ex.const(1)


def limits(dtype: DType) -> tuple[int, int]:
    """Least and greatest code of an integer type."""
    if dtype.kind == "int":
        return -(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1
    return 0, (1 << dtype.bits) - 1


def saturate(x: Expr, dtype: DType) -> Expr:
    """`x` (a float holding integers, or an int) clamped to the range of an integer type, then converted; NaN gives the least code."""
    low, high = (ex.const(v, x.dtype) for v in limits(dtype))
    above = ex.where(low < x, x, low)
    return ex.cast(ex.where(above < high, above, high), dtype)


def requantize(x: Expr, zero: Expr | None, dtype: DType, saturating: bool = True) -> Expr:
    """The code of `x`, a float in units of the scale: rounded half to even, shifted by the zero point, saturated. Float8 codes are plain conversions."""
    if dtype.is_float:
        return ex.cast(x if zero is None else x + ex.cast(zero, x.dtype), dtype, saturating)
    rounded = ex.unary("round", x)
    if dtype.bits <= 16 and x.dtype is dt.float32:
        # the bounds are whole numbers, so that rounding what is inside them stays inside
        low, high = (ex.const(float(v), dt.float32) if zero is None else ex.const(float(v), dt.float32) - ex.cast(zero, dt.float32) for v in limits(dtype))
        above = ex.where(low < x, x, low)
        whole = ex.cast(ex.unary("round", ex.where(above < high, above, high)), dt.int32)
        return ex.cast(whole if zero is None else whole + ex.cast(zero, dt.int32), dtype)
    if dtype.bits <= 16:
        return saturate(rounded if zero is None else rounded + ex.cast(zero, x.dtype), dtype)
    wide = ex.cast(saturate(rounded, dt.int32), dt.int64) if x.dtype is dt.float32 else ex.cast(rounded, dt.int64)
    return saturate(wide if zero is None else wide + ex.cast(zero, dt.int64), dtype)


def recoded(e: Expr) -> Expr | None:
    """The float of a code of 8 or 16 bits less its zero point, `e`, as what was rounded to make the code, if `e` is that: equal, without the way over integers."""
    if e.op != "cast" or e.dtype is not dt.float32 or e.args[0].dtype is not dt.int32:
        return None
    inner = e.args[0]
    code, taken = inner.args if inner.op == "sub" else (inner, None)
    if code.op != "cast" or not code.args[0].dtype.is_integer or code.args[0].dtype.bits > 16 or code.args[0].op != "cast":
        return None
    narrow = code.args[0]
    whole = narrow.args[0] if taken is None else narrow.args[0].args[0] if narrow.args[0].op in ("add", "sub") else None
    if whole is None or whole.op != "cast" or whole.args[0].op != "round" or (taken is not None and taken.op != "cast"):
        return None
    rounded = whole.args[0]
    above = rounded.args[0].args[1] if rounded.args[0].op == "where" else None
    if above is None or above.op != "where":
        return None
    zero = None if taken is None else taken.args[0]
    # a small negative number is rounded to -0, an integer has no such zero
    return rounded + ex.const(0.0, dt.float32) if requantize(above.args[1], zero, narrow.dtype) is narrow else None


def is_zero(n: Lowering, index: int) -> bool:
    """Whether a zero point is absent or known to be 0 everywhere."""
    if not n.has(index):
        return True
    known = n.known(index)
    return known is not None and not np.any(known.astype(np.float32))


class Blocks:
    """Where the scale (or zero point) of an element lies: per tensor, per axis or per block."""

    def __init__(self, n: Lowering, x: Tensor, scale: Tensor) -> None:
        self.x, self.rank = x, scale.rank
        self.block = int(n.attr("block_size", 0)) if n.version >= 21 else 0
        self.single = scale.rank == 0 or (scale.rank == 1 and scale.shape[0] is ONE and not (x.rank == 1 and self.block))
        self.axis = 0 if self.single else n.axis(int(n.attr("axis", 1)), x.rank)
        if not self.single and not self.block and scale.rank != 1:
            raise n.error(f"a scale of rank {scale.rank} was given without block_size", "give a scalar, a vector along axis, or set block_size")
        if self.block and not self.single and scale.rank != x.rank:
            raise n.error(f"a blocked scale of rank {scale.rank} was given for a tensor of rank {x.rank}")

    def at(self, t: Tensor, index: tuple[Expr, ...]) -> Expr:
        if t.rank == 0:
            return t[()]
        if self.single:
            return t[(ex.const(0),) * t.rank]
        if self.block:
            return t[tuple(i // self.block if k == self.axis else i for k, i in enumerate(index))]
        return t[broadcast_index(t.shape[0], self.x.shape[self.axis], index[self.axis])]


@register
class QuantizeLinear(Op):
    """saturate(round_half_even(x / scale) + zero_point), one scale a tensor, a slice or a block. Source: ONNX QuantizeLinear-25."""

    name = "QuantizeLinear"
    versions: ClassVar[tuple[int, ...]] = (10, 13, 19, 21, 23, 24, 25, 28)
    attributes = {"axis": 1, "saturate": 1, "block_size": 0, "output_dtype": 0, "precision": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, scale, zero = n.input(0), n.input(1), n.optional(2)
        code = int(n.attr("output_dtype"))
        dtype = zero.dtype if zero is not None else dt.BY_CODE[code] if code else dt.uint8
        where = Blocks(n, x, scale)
        precision = int(n.attr("precision"))
        kind = dt.BY_CODE[precision] if precision else scale.dtype if n.version >= 23 else dt.float32
        exact = dt.compute_type(kind)
        known = n.known(1)
        unscaled = known is not None and bool(np.all(known.astype(np.float32) == 1))

        def value(*index: Expr) -> Expr:
            e = ex.cast(x[index], exact)
            e = e if unscaled else ex.cast(ex.cast(e / ex.cast(where.at(scale, index), exact), kind), exact)  # the quotient has the type of the scale
            return requantize(e, None if zero is None or is_zero(n, 2) else where.at(zero, index), dtype, bool(n.attr("saturate")))
        return n.map(x.shape, value, dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.linspace(-3, 300, 48, dtype=np.float32).reshape(2, 3, 8)
        yield Sample((x, np.float32(0.5), np.uint8(3)))
        yield Sample((x, np.array([0.5, 1, 2], np.float32), np.array([0, -3, 5], np.int8)), {"axis": 1})
        yield Sample((x, np.full((2, 3, 2), 0.25, np.float32), None), {"axis": 2, "block_size": 4, "output_dtype": dt.int16.code})
        yield Sample((np.array([-1.1796875, 1.0], np.float16), np.float16(0.12420654296875), np.int8(5)), name="a_quotient_that_rounds_to_a_half")


@register
class DequantizeLinear(Op):
    """(x - zero_point) * scale, one scale a tensor, a slice or a block. Source: ONNX DequantizeLinear-25."""

    name = "DequantizeLinear"
    versions: ClassVar[tuple[int, ...]] = (10, 13, 19, 21, 23, 24, 25, 28)
    attributes = {"axis": 1, "block_size": 0, "output_dtype": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, scale, zero = n.input(0), n.input(1), n.optional(2)
        code = int(n.attr("output_dtype"))
        where = Blocks(n, x, scale)
        wide = dt.int64 if x.dtype.is_integer and x.dtype.bits >= 32 else dt.int32

        def value(*index: Expr) -> Expr:
            shifted = ex.cast(x[index], dt.float32 if x.dtype.is_float else wide)
            if zero is not None and not is_zero(n, 2):
                shifted = shifted - ex.cast(where.at(zero, index), shifted.dtype)
            return ex.cast(shifted, dt.float32) * ex.cast(where.at(scale, index), dt.float32)
        return n.map(x.shape, value, dt.BY_CODE[code] if code else scale.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.arange(48, dtype=np.uint8).reshape(2, 3, 8)
        yield Sample((x, np.float32(0.5), np.uint8(3)))
        yield Sample((x, np.array([0.5, 1, 2], np.float32), np.array([0, 3, 5], np.uint8)), {"axis": 1})
        yield Sample((x, np.full((2, 3, 2), 0.25, np.float32)), {"axis": 2, "block_size": 4})


@register
class DynamicQuantizeLinear(Op):
    """uint8 codes with scale and zero point from the data's range, which always holds 0. Source: ONNX DynamicQuantizeLinear-11."""

    name, versions = "DynamicQuantizeLinear", (11,)

    def lower(self, n: Lowering) -> list[Tensor]:
        x = n.input(0)
        low = n.map((), lambda: ex.minimum(n.reduce("min", x.shape, lambda *i: x[i]), 0.0), dt.float32)
        high = n.map((), lambda: ex.maximum(n.reduce("max", x.shape, lambda *i: x[i]), 0.0), dt.float32)
        span = (high[()] - low[()]) / 255.0
        scale = n.map((), lambda: ex.where(ex.equal(span, 0.0), 1.0, span))
        zero = n.map((), lambda: saturate(ex.unary("round", -low[()] / scale[()]), dt.uint8))
        y = n.map(x.shape, lambda *i: requantize(x[i] / scale[()], zero[()], dt.uint8))
        return [y, scale, zero]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[0, 2, -3], [-2.5, 1.34, 0.5]], np.float32),), outputs=3)
