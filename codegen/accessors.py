"""Reading and writing elements by value: `load(p, i)` and `store(p, i, v)` of routine kernels.

Buffers of float16 and bfloat16 read and write as float32; a store rounds to nearest even. Other buffers are plain indexing.
"""
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir.target import Target
from .intrinsics import builder
from .numba_target import Buffer

I16, I32, F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()


@builder("load")
def load_accessor(target: Target) -> object:
    """`load(p, i)`: element i of buffer p, narrow floats as float32."""
    @intrinsic
    def load(typing_context: Any, p: types.CPointer, i: types.Integer) -> Any:
        element = p.element if isinstance(p, Buffer) else ""
        narrow = element in ("float16", "bfloat16")
        signature = (types.float32 if narrow else p.dtype)(p, types.int64)

        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            raw = b.load(b.gep(arguments[0], [arguments[1]]))
            if not narrow:
                return context.data_model_manager[p.dtype].from_data(b, raw)
            return bfloat16_to_float32(b, raw) if element == "bfloat16" else float16_to_float32(b, raw)
        return signature, lower
    return load


@builder("store")
def store_accessor(target: Target) -> object:
    """`store(p, i, v)`: element i of buffer p becomes v, converted to the buffer's type."""
    @intrinsic
    def store(typing_context: Any, p: types.CPointer, i: types.Integer, v: Any) -> Any:
        element = p.element if isinstance(p, Buffer) else ""
        narrow = element in ("float16", "bfloat16")
        signature = types.void(p, types.int64, types.float32 if narrow else p.dtype)

        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            value = arguments[2]
            if narrow:
                value = float32_to_bfloat16(b, value) if element == "bfloat16" else float32_to_float16(b, value)
            else:
                value = context.data_model_manager[p.dtype].as_data(b, value)
            b.store(value, b.gep(arguments[0], [arguments[1]]))
            return context.get_dummy_value()
        return signature, lower
    return store


# -------------------------------------------------------------------------------------------------------- scalar conversions
def bfloat16_to_float32(b: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    """The float32 whose upper half is `raw` (i16)."""
    return b.bitcast(b.shl(b.zext(raw, I32), I32(16)), F32)


def float32_to_bfloat16(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Upper half rounded to nearest even; NaN stays NaN, quiet."""
    bits = b.bitcast(value, I32)
    odd = b.and_(b.lshr(bits, I32(16)), I32(1))
    rounded = b.lshr(b.add(bits, b.add(odd, I32(0x7FFF))), I32(16))
    quiet = b.or_(b.lshr(bits, I32(16)), I32(0x40))
    return b.trunc(b.select(b.fcmp_unordered("uno", value, value), quiet, rounded), I16)


def float16_to_float32(b: ir.IRBuilder, raw: ir.Value) -> ir.Value:
    """Exact, in integer arithmetic and one multiplication, so that every target has it.

    The exponent and fraction moved to float32's place stand for the value times 2**-112, subnormals included.
    """
    wide = b.zext(raw, I32)
    magnitude = b.shl(b.and_(wide, I32(0x7FFF)), I32(13))
    scaled = b.bitcast(b.fmul(b.bitcast(magnitude, F32), ir.Constant(F32, 2.0 ** 112)), I32)
    special = b.or_(magnitude, I32(0x7F800000))
    finite = b.icmp_unsigned("<", magnitude, I32(0x7C00 << 13))
    sign = b.shl(b.and_(wide, I32(0x8000)), I32(16))
    return b.bitcast(b.or_(sign, b.select(finite, scaled, special)), F32)


def float32_to_float16(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Rounded to nearest even; beyond 65519 becomes infinity, NaN stays a quiet NaN.

    Subnormal results come from adding 0.5, whose last place is float16's smallest value: the addition rounds.
    """
    bits = b.bitcast(value, I32)
    sign = b.and_(b.lshr(bits, I32(16)), I32(0x8000))
    magnitude = b.and_(bits, I32(0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, I32(13)), I32(1))
    normal = b.lshr(b.add(b.sub(magnitude, I32(112 << 23)), b.add(odd, I32(0xFFF))), I32(13))
    half = ir.Constant(F32, 0.5)
    small = b.sub(b.bitcast(b.fadd(b.bitcast(magnitude, F32), half), I32), b.bitcast(half, I32))
    result = b.select(b.icmp_unsigned("<", magnitude, I32(113 << 23)), small, normal)
    result = b.select(b.icmp_unsigned(">=", magnitude, I32(0x477FF000)), I32(0x7C00), result)
    result = b.select(b.icmp_unsigned(">", magnitude, I32(0x7F800000)), I32(0x7E00), result)
    return b.trunc(b.or_(sign, result), I16)
