"""Number conversions as branch-free code: narrow floats to and from their bits, floats to integers, with ONNX Cast's rounding and saturation.

`pack_*` gives the bits of a narrow float from a float32, `unpack_*` the float32 from the bits. Rounding is to nearest even. Values beyond the largest
finite one become infinity, NaN where the format has no infinity, or with `saturate` (and where it has neither) the largest finite value. float4e2m1 has no
NaN and gives zero for it. float8e8m0 holds powers of two: halves round up; zero and negative values give NaN, with `saturate` their magnitude's nearest.
"""
from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from llvmlite import ir

from ..ir import dtypes as dt
from ..ir.dtypes import DType
from .emitter import F32, F64, Code, Value

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


@dataclass(frozen=True)
class Narrow:
    """Layout of a float of at most 16 bits.

    Args:
        exponent, fraction: widths of the fields.
        bias: of the exponent.
        largest: bits of the largest finite value.
        infinity: bits of infinity, or None.
        nan: bits of the NaN that conversions give (sign not counted), or None.
        unsigned_zero: the pattern of -0 is the format's only NaN.
    """

    exponent: int
    fraction: int
    bias: int
    largest: int
    infinity: int | None
    nan: int | None
    unsigned_zero: bool = False

    @property
    def magnitude_bits(self) -> int:
        return self.exponent + self.fraction


NARROW: dict[DType, Narrow] = {
    dt.float16: Narrow(5, 10, 15, 0x7BFF, 0x7C00, 0x7E00),
    dt.bfloat16: Narrow(8, 7, 127, 0x7F7F, 0x7F80, 0x7FC0),
    dt.float8e4m3fn: Narrow(4, 3, 7, 0x7E, None, 0x7F),
    dt.float8e4m3fnuz: Narrow(4, 3, 8, 0x7F, None, 0x80, True),
    dt.float8e5m2: Narrow(5, 2, 15, 0x7B, 0x7C, 0x7E),
    dt.float8e5m2fnuz: Narrow(5, 2, 16, 0x7F, None, 0x80, True),
    dt.float4e2m1: Narrow(2, 1, 1, 0x7, None, None),
}


def pack(code: Code, x: Value, dtype: DType, saturate: bool = False) -> Value:
    """Bits of `x: f32` in `dtype`, as an i16 or i8."""
    if dtype is dt.float16 and code.has_half and not saturate:
        return x.cast("fptrunc", ir.HalfType()).cast("bitcast", I16)
    if dtype is dt.float8e8m0:
        return _pack_scale(code, x, saturate)
    n = NARROW[dtype]
    word = x.word()
    magnitude = word & 0x7FFFFFFF
    rounded = _round_magnitude(code, magnitude, n)
    beyond = n.largest if saturate else n.infinity if n.infinity is not None else n.nan if n.nan is not None else n.largest
    out = code.select(rounded > n.largest, beyond, rounded)
    sign = word.shift_right_logical(31) << n.magnitude_bits
    if n.unsigned_zero:
        sign = code.select(out.equals(0), 0, sign)
    if n.nan is None:
        # ml_dtypes turns the sign around.
        out = code.select(x.is_nan(), 1 << n.magnitude_bits, out)
        return (out ^ sign).cast("trunc", ir.IntType(8))
    out = code.select(x.is_nan(), n.nan, out)
    return (out | sign).cast("trunc", I16 if dtype.bits == 16 else ir.IntType(8))


def _round_magnitude(code: Code, magnitude: Value, n: Narrow) -> Value:
    """Bits of a non-negative float32 (given as its bits) in a narrow format whose exponents never end; at infinity and NaN they are merely large."""
    cut = F32.fraction - n.fraction
    even = (magnitude >> cut) & 1
    normal = ((magnitude + ((1 << (cut - 1)) - 1) + even) >> cut) - ((F32.bias - n.bias) << n.fraction)
    if n.bias == F32.bias:
        return normal
    # Adding this constant aligns a denormal's last place with the last place of the sum, so the addition rounds it.
    align = 2.0 ** (1 - n.bias - n.fraction + F32.fraction)
    denormal = (magnitude.real() + align).word() - code.constant(magnitude.v.type, _bits(align))
    return code.select(magnitude < _bits(2.0 ** (1 - n.bias)), denormal, normal)


def _pack_scale(code: Code, x: Value, saturate: bool) -> Value:
    """Bits of the power of two nearest to |x| in float8e8m0."""
    magnitude = x.word() & 0x7FFFFFFF
    normal = code.select(magnitude < 0x800000, 0x3FFFFF, magnitude.same(0x400000))
    out = (magnitude + normal) >> F32.fraction
    if saturate:
        out = out.apply("llvm.smin", 254)
        out = code.select(x.is_nan(), 255, out)
    else:
        out = code.select(x > 0, out, 255)
    return out.cast("trunc", ir.IntType(8))


def _unpack_scale(code: Code, word: Value) -> Value:
    """The power of two that a float8e8m0 holds."""
    x = code.select(word.equals(0), 1 << (F32.fraction - 1), word << F32.fraction).real()
    return code.select(word.equals(255), math.nan, x)


def _bits(value: float) -> int:
    """Bits of a float32."""
    return struct.unpack("<i", struct.pack("<f", value))[0]


def unpack(code: Code, bits: Value, dtype: DType) -> Value:
    """The float32 that `bits: i16 or i8` stand for in `dtype`; exact."""
    if dtype is dt.float16 and code.has_half:
        return bits.cast("bitcast", ir.HalfType()).cast("fpext", F32.real)
    word = bits.cast("zext", I32)
    if dtype is dt.float8e8m0:
        return _unpack_scale(code, word)
    if dtype is dt.bfloat16:
        return (word << 16).real()
    n = NARROW[dtype]
    magnitude = word & ((1 << n.magnitude_bits) - 1)
    sign = (word << (31 - n.magnitude_bits)) & -0x80000000
    x = (magnitude << (F32.fraction - n.fraction)).real() * 2.0 ** (F32.bias - n.bias)
    if n.unsigned_zero:
        x = code.select((word & 0xFF).equals(0x80), math.nan, x)
    elif n.infinity is not None:
        special = (magnitude << (F32.fraction - n.fraction) | 0x7F800000).real()
        x = code.select(magnitude < n.infinity, x, special)
    elif n.nan is not None:
        x = code.select(magnitude.equals(n.nan), math.nan, x)
    return (x.word() | sign).real()


def to_float32(code: Code, x: Value) -> Value:
    """float64 -> float32, rounded to odd: rounding the result again to a narrow float equals rounding once."""
    single = x.cast("fptrunc", F32.real)
    back = single.cast("fpext", F64.real)
    word = single.word()
    outward = code.select(abs(back) > abs(x), word - 1, word)
    return code.select(back.differs(x), outward | 1, word).real()


def is_narrow(dtype: DType) -> bool:
    """Whether a type has `pack` and `unpack`."""
    return dtype in NARROW or dtype is dt.float8e8m0


def register_type(dtype: DType) -> DType:
    """Type of a value of `dtype` in a variable: narrow floats compute in float32, sub-byte integers in a byte."""
    if dtype.is_integer and dtype.bits < 8:
        return dt.int8 if dtype.kind == "int" else dt.uint8
    return dt.compute_type(dtype)


def stored_type(dtype: DType) -> DType:
    """Type of an element in memory as kernels see it."""
    if dtype.is_float and dtype.bits < 32:
        return dt.uint16 if dtype.bits == 16 else dt.uint8
    return dt.uint8 if dtype.kind == "bool" else register_type(dtype)


def llvm_type(dtype: DType) -> ir.Type:
    """LLVM's type of a value in a variable."""
    dtype = register_type(dtype)
    if dtype.is_float:
        return (F32 if dtype.bits == 32 else F64).real
    return ir.IntType(1 if dtype.kind == "bool" else dtype.bits)


def memory_type(dtype: DType) -> ir.Type:
    """LLVM's type of an element in memory."""
    return llvm_type(stored_type(dtype))


def from_memory(code: Code, x: Value, dtype: DType) -> Value:
    """An element as it stands in memory (`memory_type`), in the form of variables. Of sub-byte integers only the low bits count."""
    if is_narrow(dtype):
        return unpack(code, x, dtype)
    return x.differs(0) if dtype.kind == "bool" else wrap(code, x, dtype)


def to_memory(code: Code, x: Value, dtype: DType, saturate: bool = False) -> Value:
    """A value in the form of variables as it stands in memory; the high bits of sub-byte integers are zero, as in ml_dtypes."""
    if is_narrow(dtype):
        return pack(code, x, dtype, saturate)
    if dtype.kind == "bool":
        return x.cast("zext", ir.IntType(8))
    return x & ((1 << dtype.bits) - 1) if dtype.is_integer and dtype.bits < 8 else x


def wrap(code: Code, x: Value, dtype: DType) -> Value:
    """An integer modulo the width of a sub-byte type; other integers as they are."""
    del code
    if not dtype.is_integer or dtype.bits >= 8:
        return x
    if dtype.kind == "uint":
        return x & ((1 << dtype.bits) - 1)
    return x << (8 - dtype.bits) >> (8 - dtype.bits)


def _to_integer(code: Code, x: Value, to: DType) -> Value:
    """Truncation towards zero, then the low bits: what x86 processors do, and so ONNX Runtime and NumPy there.

    Types that int32 holds go through int32, others through int64; what these cannot hold, and NaN, becomes their least value. uint64 has its upper half as well.
    """
    through = I32 if to.bits < 32 or to is dt.int32 else I64
    edge = 2.0 ** (through.width - 1)
    inside = code.select(x < edge, x, -edge)
    whole = code.select(inside >= -edge, inside, -edge).cast("fptosi", through)
    if to is dt.uint64:
        upper = code.select(x < 2 * edge, x, edge)
        upper = code.select(upper >= edge, upper, edge).cast("fptoui", through)
        return code.select(x >= edge, upper, whole)
    goal = llvm_type(to)
    return whole if goal.width == through.width else whole.cast("trunc", goal)


def nearest(code: Code, x: Value) -> Value:
    """float32 rounded half to even as int32; what int32 cannot hold, and NaN, becomes its least value: x86 processors do both at once."""
    if code.target.arch == "x86_64":
        goal = x.shaped(I32)
        return code.call("llvm.lrint", goal, (x,), (goal, x.v.type))
    return _to_integer(code, x.apply("llvm.rint"), dt.int32)


def convert(code: Code, x: Value, source: DType, to: DType, saturate: bool = False) -> Value:
    """ONNX Cast between values in variables. Float to integer truncates and keeps the low bits (`_to_integer`); integers wrap; anything to bool is `!= 0`."""
    goal = llvm_type(to)
    if to.kind == "bool":
        return x if source.kind == "bool" else x.differs(0)
    if source.kind == "bool":
        source, x = dt.uint8, x.cast("zext", ir.IntType(8))
    if to.is_float:
        if source.is_integer:
            x = x.cast("sitofp" if source.kind == "int" else "uitofp", goal)
        elif source is dt.float64 and to is not dt.float64:
            x = to_float32(code, x) if is_narrow(to) else x.cast("fptrunc", goal)
        else:
            x = x.cast("fpext", goal)
        return unpack(code, pack(code, x, to, saturate), to) if is_narrow(to) and to is not source else x
    if source.is_float:
        return wrap(code, _to_integer(code, x, to), to)
    if goal.width < x.element.width:
        x = x.cast("trunc", goal)
    else:
        x = x.cast("sext" if source.kind == "int" else "zext", goal)
    return wrap(code, x, to)
