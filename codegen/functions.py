"""Elementary functions as branch-free polynomial code that LLVM's loop vectoriser widens: exponentials, logarithms, hyperbolic functions, erf.

Each takes and returns values of `emitter` (scalars or vectors, float32 or float64) and holds over the whole range: infinities, NaN, denormals, both
zeros. Coefficients are minimax fits on the reduced interval, rounded to the format; the error bounds are asserted in tests/test_mathlib.py.
"""
from __future__ import annotations

import math

from .emitter import Code, Value

# exp(r) = 1 + r + r^2 q(r), relative error of exp below 2^-28 on |r| <= ln(2)/2
_EXP = {
    32: (0.49999994, 0.166665152, 0.0416680872, 0.00836937316, 0.00138410309),
}
# expm1(r) = r + r^2 q(r), relative error of expm1
_EXPM1 = {
    32: (0.5, 0.166666657, 0.0416664667, 0.00833364297, 0.00139351154, 0.000196644061),
}
# 2^r = 1 + r q(r) on |r| <= 1/2
_EXP2 = {
    32: (0.693147182, 0.240226507, 0.0555032752, 0.00961800106, 0.00134003174, 0.000154773879),
}
# log(1 + f) = f - f^2/2 + f^3 q(f) on sqrt(1/2) <= 1 + f <= sqrt(2)
_LOG = {
    32: (0.333333313, -0.250008225, 0.200012624, -0.166233316, 0.142008513, -0.131594688, 0.127680928, -0.0764503703),
}
# ln(2) in two parts, the first with enough trailing zeros that its product with an exponent is exact
_LN2 = {32: (0.693359375, -2.12194440e-4)}
# arguments beyond which exp is 0 and infinity: the last ones that need no special case
_EXP_RANGE = {32: (-104.0, 89.0)}
_EXP2_RANGE = {32: (-150.5, 128.5)}


def _clamp(code: Code, x: Value, low: float, high: float) -> Value:
    """x within [low, high]; NaN stays."""
    x = code.select(x < low, low, x)
    return code.select(x > high, high, x)


def _round_to_integer(code: Code, x: Value, scale: float) -> tuple[Value, Value]:
    """(n, word): the integer nearest to x * scale as a float, and a word whose low bits hold it (in two's complement)."""
    magic = x.format.magic
    shifted = code.fma(x, scale, magic)
    return shifted - magic, shifted.word()


def _power_of_two(x: Value, exponent: Value) -> Value:
    """2^exponent for an integer word within the normal range; bits above the exponent's width are dropped."""
    return ((exponent + x.format.bias) << x.format.fraction).real()


def _scale(code: Code, y: Value, word: Value) -> Value:
    """y * 2^n for the n in the low bits of `word`, in two steps so that denormal results are rounded once and large ones do not overflow early."""
    f = y.format
    n = word - code.constant(y.v.type, f.magic).word()
    half = n >> 1
    return y * _power_of_two(y, half) * _power_of_two(y, n - half)


def _reduce_exp(code: Code, x: Value) -> tuple[Value, Value, Value]:
    """x = n ln(2) + r: (n, word of n, r)."""
    high, low = _LN2[x.format.bits]
    n, word = _round_to_integer(code, x, 1 / math.log(2))
    return n, word, code.fma(n, -low, code.fma(n, -high, x))


def exp(code: Code, x: Value) -> Value:
    bits = x.format.bits
    _, word, r = _reduce_exp(code, _clamp(code, x, *_EXP_RANGE[bits]))
    y = code.fma(r * r, code.polynomial(r, _EXP[bits]), r) + 1
    return _scale(code, y, word)


def exp2(code: Code, x: Value) -> Value:
    bits = x.format.bits
    x = _clamp(code, x, *_EXP2_RANGE[bits])
    n, word = _round_to_integer(code, x, 1.0)
    r = x - n
    return _scale(code, code.fma(r, code.polynomial(r, _EXP2[bits]), 1.0), word)


def _expm1_nonpositive(code: Code, x: Value) -> Value:
    """exp(x) - 1 for x <= 0 no further from zero than where the result is -1."""
    _, word, r = _reduce_exp(code, x)
    p = code.fma(r * r, code.polynomial(r, _EXPM1[x.format.bits]), r)
    s = _power_of_two(x, word)
    return code.fma(s, p, s - 1)


def tanh(code: Code, x: Value) -> Value:
    a = abs(x)
    limit = 10.0 if x.format.bits == 32 else 20.0
    e = _expm1_nonpositive(code, code.select(a > limit, limit, a) * -2.0)
    return (-e / (e + 2)).copysign(x)


def sigmoid(code: Code, x: Value) -> Value:
    z = exp(code, -abs(x))
    return code.select(x < 0, z, z.same(1.0)) / (z + 1)


def _split_exponent(code: Code, x: Value) -> tuple[Value, Value]:
    """(e, m) with x = 2^e m and sqrt(1/2) <= m < sqrt(2), for positive finite x, denormals too."""
    f = x.format
    tiny = x < f.min_normal
    word = code.select(tiny, x * 2.0 ** (f.fraction + 1), x).word()
    root = code.constant(x.v.type, math.sqrt(0.5)).word()
    e = (word - root) >> f.fraction
    m = (word - (e << f.fraction)).real()
    return e.cast("sitofp", f.real) + code.select(tiny, x.same(-float(f.fraction + 1)), x.same(0.0)), m


def _log_sum(code: Code, e: Value, f: Value) -> Value:
    """e ln(2) + log(1 + f)."""
    high, low = _LN2[f.format.bits]
    s = f * f
    rest = code.fma(e, low, f * s * code.polynomial(f, _LOG[f.format.bits]))
    return code.fma(e, high, f + code.fma(s, -0.5, rest))


def log(code: Code, x: Value) -> Value:
    e, m = _split_exponent(code, x)
    y = _log_sum(code, e, m - 1)
    y = code.select(x < math.inf, y, x)
    return code.select(x > 0, y, code.select(x.equals(0.0), x.same(-math.inf), x.same(math.nan)))


# erf(x) = x + x p(x^2) on |x| <= 1; log(erfc(x)) = q(x) on 1 <= x <= 4, beyond which erf is 1
_ERF = {32: (0.12837917, -0.376122177, 0.112789683, -0.0266613979, 0.00482412428, -0.000482242118, -2.63387083e-5)}
_LOG_ERFC = {32: (-0.000353715906, -1.12704003, -0.638225734, -0.103037275, 0.021805251, -0.0029395842, 0.000185571)}


def erf(code: Code, x: Value) -> Value:
    bits = x.format.bits
    a = abs(x)
    small = code.fma(x, code.polynomial(x * x, _ERF[bits]), x)
    clamped = code.select(a > 4.0, 4.0, a)
    tail = 1 - exp(code, code.polynomial(clamped, _LOG_ERFC[bits]))
    return code.select(a < 1.0, small, tail.copysign(x))


FUNCTIONS = {"exp": exp, "exp2": exp2, "tanh": tanh, "sigmoid": sigmoid, "log": log, "erf": erf}
