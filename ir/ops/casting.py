"""Conversions between element types."""
from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..graph import TensorType, Value
from ..loops import Ref
from .base import REQUIRED, Builder, Lowering, NodeView, Op, Sample, register
from .callbacks import parse_numbers, spell_numbers
from .elementwise import real_sample
from .views import call_host


def element_type(n: NodeView, name: str, default: DType | None = None) -> DType:
    """An attribute that holds an element type (a DType or its ONNX code)."""
    found = n.attr(name)
    if found is None and default is not None:
        return default
    if isinstance(found, DType):
        return found
    if isinstance(found, str) and found.lower() in dt.BY_NAME:
        return dt.BY_NAME[found.lower()]
    if not isinstance(found, int) or found not in dt.BY_CODE:
        raise n.error(f"attribute '{name}' is {found!r}, an element type was expected")
    return dt.BY_CODE[found]


def convert(n: Lowering, x: Tensor, to: DType) -> Ref:
    """`x` in another element type."""
    if x.dtype is to:
        return x
    if dt.string in (x.dtype, to):
        function = spell_numbers if to is dt.string else functools.partial(parse_numbers, to.name)
        return call_host(n, function, [x], to, x.shape, "strings are converted")
    saturate = bool(n.attr("saturate"))

    def body(*i: Expr) -> Expr:
        v = x[i]
        if to is dt.float8e8m0:
            v = ex.cast(v, dt.float32)
            mode = n.attr("round_mode")
            if mode not in ("up", "down", "nearest"):
                raise n.error(f"round_mode is '{mode}', 'up', 'down' or 'nearest' was expected")
            v = power_of_two(v, mode, saturate)
        if to.is_integer and to.bits < 8 and v.dtype.is_float:
            v = ex.cast(v, dt.int32)  # what does not fit wraps
        return ex.cast(v, to, saturate)
    return n.map(x.shape, body, to)


def power_of_two(x: Expr, mode: str, saturate: bool) -> Expr:
    """A positive float32 rounded to a power of two: away from zero, towards zero, or to the nearest (halves up)."""
    least = 0x00400000  # 2 ** -127, the smallest power that the format has
    bits = ex.bitcast(x, dt.int32)
    extra = {"up": 0x7FFFFF, "down": 0, "nearest": 0x400000}[mode]
    rounded = ex.binary("bitand", bits + extra, 0x7F800000)
    largest = 0x7F000000
    over = ex.binary("le", ex.const(0x7F800000, dt.int32), rounded)
    infinite = ex.unary("isinf", x)
    rounded = ex.where(over, largest if saturate else 0x7FC00000, rounded)
    rounded = ex.where(infinite, largest if saturate else 0x7FC00000, rounded)
    value = ex.bitcast(ex.where(bits <= least, least, rounded), dt.float32)
    return ex.where(ex.unary("isnan", x), x, value)


@register
class Cast(Op):
    """Conversion to the type `to`: floats to integers truncate, integers wrap, float8 types saturate if asked. Source: ONNX Cast-28."""

    name, versions = "Cast", (1, 6, 9, 13, 19, 21, 23, 24, 25, 28)
    attributes = {"to": REQUIRED, "saturate": 1, "round_mode": "up"}

    def lower(self, n: Lowering) -> Ref:
        return convert(n, n.input(0), element_type(n, "to"))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("CastLike", upstream[0], b.input(0)) if b.type(b.input(0)).dtype.is_float else None]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4), -9, 9)
        for to in (dt.float16, dt.bfloat16, dt.float64, dt.int32, dt.int8, dt.boolean, dt.float8e4m3fn):
            yield Sample((x,), {"to": to.code}, name=f"to_{to.short}")
        yield Sample((np.array([200, 300, -129], np.int16),), {"to": dt.int8.code}, name="wraps")


@register
class CastLike(Op):
    """Conversion to the type of the second input. Source: ONNX CastLike-25."""

    name, versions = "CastLike", (15, 19, 21, 23, 24, 25)
    attributes = {"saturate": 1, "round_mode": "up"}

    def lower(self, n: Lowering) -> Ref:
        like = n.node.inputs[1].type if n.has(1) else None  # of which neither the elements nor the rank matter
        return convert(n, n.input(0), like.dtype if isinstance(like, TensorType) else n.input(1).dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("CastLike", upstream[0], b.input(0)) if b.type(b.input(0)).dtype.is_float else None, None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((3, 4), -9, 9), np.zeros(1, np.int32)))


@register
class BitCast(Op):
    """The same bits read as another type of the same width. Source: ONNX BitCast-26."""

    name, versions = "BitCast", (26,)
    attributes = {"to": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        x, to = n.input(0), dt.BY_CODE.get(int(n.attr("to")))
        if to is None or not to.is_numeric or to.bits != x.dtype.bits:
            raise n.error(f"{x.dtype} cannot be read as {n.attr('to') if to is None else to}; a type of {x.dtype.bits} bits was expected")
        if to is not x.dtype and "complex" in (to.kind, x.dtype.kind):
            raise n.unsupported(f"reading {x.dtype} as {to}")
        if dt.boolean in (to, x.dtype):  # a byte that is 0 or 1
            return n.map(x.shape, lambda *i: ex.cast(x[i], to))
        return n.map(x.shape, lambda *i: ex.bitcast(x[i], to))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([1.0, -2.5, 0.0], np.float32),), {"to": dt.int32.code})
