"""Trigonometric functions and their inverses as branch-free code. Conventions as in `functions`."""
from __future__ import annotations

import math

from llvmlite import ir

from .emitter import F32, Code, Operator, Value

Table = dict[int, tuple[float, ...]]
I64 = ir.IntType(64)

# sin(r) = r + r^3 q(r^2), cos(r) = 1 - r^2/2 + r^4 q(r^2), tan(r) = r + r^3 q(r^2) on |r| <= pi/4
_SIN = (-0.166666552, 0.00833218824, -0.000195180794)
_COS = (0.041666653, -0.0013887611, 2.44619769e-5)
_TAN = (0.333333492, 0.133326739, 0.0540591776, 0.0212845169, 0.0108324662, 9.1229711e-5, 0.00437642867)
# asin(x) = x + x^3 q(x^2) on |x| <= 1/2
_ASIN: Table = {
    32: (0.166667521, 0.0749530941, 0.045469176, 0.0241845511, 0.0421588272),
    64: (0.16666666666666183, 0.075000000002019937, 0.044642856917712498, 0.030381956034779525, 0.022371822636583921, 0.017358840452661683,
         0.013892934194318952, 0.012123059618106663, 0.0067120229160357878, 0.019060104710134737, -0.015536858578491399, 0.03146892521474897),
}
# atan(x) = x + x^3 q(x^2) on |x| <= 1
_ATAN: Table = {
    32: (-0.333332986, 0.199985296, -0.142640129, 0.1095085, -0.0839917287, 0.0578782447, -0.0310928896, 0.0108659174, -0.00178206363),
    64: (-0.33333333333333326, 0.19999999999998289, -0.14285714285577944, 0.11111111105599571, -0.090909089565816462, 0.076923055161009779,
         -0.066666417137878659, 0.058821414684350114, -0.052617909393608893, 0.047550044473693799, -0.043201237928089373, 0.039102557851028251,
         -0.034662343218027782, 0.029294021414456833, -0.022791953445269259, 0.015696619768900393, -0.0091835342229508871, 0.0043689658492911789,
         -0.0016050166765427809, 0.00042389277436308628, -7.1244295323638114e-5, 5.7024369967189402e-6),
}
# pi/2 in two parts
_HALF_PI: Table = {32: (1.57079637050628662, -4.371139000186e-08), 64: (math.pi / 2, 6.123233995736766e-17)}
# 32 zero bits, then the bits of 2/pi behind the binary point
_TWO_OVER_PI = (0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB)
# pi/2 * 2^-32 in two parts
_FIXED_TO_RADIANS = (math.pi / 2 * 2.0 ** -32, -1.0177351e-17)


# ------------------------------------------------------------------------------------------------------- reduction by pi / 2
def _reduce(code: Code, x: Value) -> tuple[Value, Value]:
    """(q, r) with |x| = (4k + q) pi/2 + r and |r| <= pi/4, for every finite float32.

    Payne and Hanek's method in integers: of the product of x's 24-bit significand with 2/pi only the bits below weight 4 matter. Skipping the
    bits of 2/pi above them leaves a window of 96 bits (`a`, `b`, `c`) whose product is exact to 2^-62 of a quarter turn.
    """
    magnitude = abs(x)
    word = magnitude.word()
    significand = (word & 0x7FFFFF) | 0x800000
    skip = (word >> 23) - 120  # 30 + exponent of the significand's last bit
    words = []
    for k in range(4):
        chosen = word.same(_TWO_OVER_PI[4 + k])
        for first in (3, 2, 1, 0):
            chosen = code.select(skip < 32 * first + 32, _TWO_OVER_PI[first + k], chosen)
        words.append(chosen)
    shift = skip & 31
    a, b, c = (words[k].apply("llvm.fshl", words[k + 1], shift) for k in range(3))
    wide = significand.cast("zext", I64)
    middle = wide * b.cast("zext", I64) + (wide * c.cast("zext", I64)).shift_right_logical(32)
    turns = significand * a + middle.shift_right_logical(32).cast("trunc", F32.word)
    below = middle.cast("trunc", F32.word)

    quadrant = (turns + 0x20000000).shift_right_logical(30)
    # Signed fraction of a quarter turn, 64 bits of it, in two words; its magnitude is taken before rounding.
    high = (turns << 2) | below.shift_right_logical(30)
    sign = high >> 31
    high, low = high ^ sign, (below << 2) ^ sign
    coarse = (high & -256).cast("sitofp", F32.real)
    fine = ((high & 255) << 23 | low.shift_right_logical(9)).cast("sitofp", F32.real)
    scale, rest = _FIXED_TO_RADIANS
    r = code.fma(coarse, scale, code.fma(coarse, rest, fine * (scale * 2.0 ** -23)))
    r = (r.word() ^ (sign & -0x80000000)).real()
    near = magnitude < math.pi / 4
    return code.select(near, 0, quadrant), code.select(near, magnitude, r)


def _sine(code: Code, r: Value) -> Value:
    """sin(r) for |r| <= pi/4."""
    t = r * r
    return code.fma(r * t, code.polynomial(t, _SIN), r)


def _cosine(code: Code, r: Value) -> Value:
    """cos(r) for |r| <= pi/4."""
    t = r * r
    return code.fma(t, code.fma(t, code.polynomial(t, _COS), -0.5), 1.0)


def _with_sign(y: Value, sign: Value) -> Value:
    """y with its sign bit flipped where the sign bit of the word `sign` is set."""
    return (y.word() ^ (sign & -0x80000000)).real()


def _finite(code: Code, x: Value, y: Value) -> Value:
    """y, or NaN where x is infinite or NaN."""
    return code.select(abs(x) < math.inf, y, math.nan)


def sin(code: Code, x: Value) -> Value:
    """float32; NaN for infinities."""
    q, r = _reduce(code, x)
    y = code.select((q & 1).equals(0), _sine(code, r), _cosine(code, r))
    return _finite(code, x, _with_sign(y, (q << 30) ^ x.word()))


def cos(code: Code, x: Value) -> Value:
    """float32; NaN for infinities."""
    q, r = _reduce(code, x)
    y = code.select((q & 1).equals(0), _cosine(code, r), _sine(code, r))
    return _finite(code, x, _with_sign(y, (q + 1) << 30))


def tan(code: Code, x: Value) -> Value:
    """float32; NaN for infinities."""
    q, r = _reduce(code, x)
    t = r * r
    y = code.fma(r * t, code.polynomial(t, _TAN), r)
    y = code.select((q & 1).equals(0), y, -1 / y)
    return _finite(code, x, _with_sign(y, x.word()))


# -------------------------------------------------------------------------------------------------------------------- inverses
def _asin_parts(code: Code, a: Value) -> tuple[Value, Value]:
    """(outer, p) for 0 <= a: p = asin(a) where a <= 1/2, p = asin(sqrt((1 - a) / 2)) where `outer`; NaN beyond 1."""
    outer = a > 0.5
    z = code.select(outer, (1 - a) * 0.5, a * a)
    s = code.select(outer, z.apply("llvm.sqrt"), a)
    return outer, code.fma(s * z, code.polynomial(z, _ASIN[a.format.bits]), s)


def asin(code: Code, x: Value) -> Value:
    """Arc sine: sqrt((1 - |x|) / 2) takes the outer half of the domain to the inner; NaN beyond 1."""
    high, low = _HALF_PI[x.format.bits]
    outer, p = _asin_parts(code, abs(x))
    return code.select(outer, code.fma(p, -2.0, high) + low, p).copysign(x)


def acos(code: Code, x: Value) -> Value:
    """Arc cosine, reduced as `asin`; NaN beyond 1."""
    high, low = _HALF_PI[x.format.bits]
    outer, p = _asin_parts(code, abs(x))
    signed = p.copysign(x)
    inner = high - (signed - low)
    far = code.select(x < 0, code.fma(p, -2.0, 2 * high) + 2 * low, p + p)
    return code.select(outer, far, inner)


def _atan_unit(code: Code, t: Value) -> Value:
    """atan(t) for 0 <= t <= 1."""
    s = t * t
    return code.fma(t * s, code.polynomial(s, _ATAN[t.format.bits]), t)


def atan(code: Code, x: Value) -> Value:
    """Arc tangent: arguments beyond 1 are inverted."""
    high, low = _HALF_PI[x.format.bits]
    a = abs(x)
    outer = a > 1.0
    p = _atan_unit(code, code.select(outer, 1 / a, a))
    return code.select(outer, (high - p) + low, p).copysign(x)


def atan2(code: Code, y: Value, x: Value) -> Value:
    """Angle of the point (x, y), with all the signs of zeros and infinities of IEEE 754."""
    high, low = _HALF_PI[x.format.bits]
    a, b = abs(y), abs(x)
    steep = ~(a < b)
    least, most = code.select(steep, b, a), code.select(steep, a, b)
    t = least / code.select(most.equals(0.0), 1.0, most)
    p = _atan_unit(code, code.select(least.equals(math.inf), 1.0, t))
    p = code.select(steep & most.differs(0.0), (high - p) + low, p)
    p = code.select(x.word() < 0, 2 * high - (p - 2 * low), p)
    return code.select(x.is_nan() | y.is_nan(), math.nan, p.copysign(y))


# By width of the float.
FUNCTIONS: dict[int, dict[str, Operator]] = {
    32: {"sin": sin, "cos": cos, "tan": tan, "asin": asin, "acos": acos, "atan": atan, "atan2": atan2},
    64: {"asin": asin, "acos": acos, "atan": atan, "atan2": atan2},
}
