"""Elementary functions as branch-free polynomial code that LLVM's loop vectoriser widens: exponentials, logarithms, hyperbolic functions, erf, pow.

Each takes and returns values of `emitter` (scalars or vectors, float32 or float64 unless its docstring says otherwise) and holds over the whole range:
infinities, NaN, denormals, both zeros. Coefficients are minimax fits on the reduced interval, rounded to the format; tables are keyed by the
format's width. The error bounds are asserted in tests/test_mathlib.py.
"""
from __future__ import annotations

import math

from llvmlite import ir

from .emitter import F32, F64, Code, Operator, Value

Table = dict[int, tuple[float, ...]]

# exp(r) = 1 + r + r^2 q(r) on |r| <= ln(2)/2
_EXP: Table = {
    32: (0.49999994, 0.166665152, 0.0416680872, 0.00836937316, 0.00138410309),
    64: (0.50000000000000111, 0.16666666666666408, 0.041666666666528081, 0.0083333333334967806, 0.0013888888944254588, 0.00019841269503007822,
         2.4801492382737253e-5, 2.7557588212115054e-6, 2.7630525409365665e-7, 2.499991747636929e-8),
}
# expm1(r) = r + r^2 q(r) on |r| <= ln(2)/2, relative to expm1
_EXPM1: Table = {
    32: (0.5, 0.166666657, 0.0416664667, 0.00833364297, 0.00139351399, 0.000196647336),
    64: (0.50000000000000011, 0.16666666666666671, 0.041666666666648339, 0.0083333333333246284, 0.0013888888897352176, 0.00019841269880048988,
         2.4801571363092464e-5, 2.7557248818439956e-6, 2.7570434011824398e-7, 2.5107934830207489e-8, 1.6969809442311623e-9),
}
# 2^r = 1 + r q(r) on |r| <= 1/2
_EXP2: Table = {
    32: (0.693147182, 0.240225941, 0.0555036627, 0.00962544419, 0.00133879052, 0.000133328649),
    64: (0.69314718055994529, 0.24022650695910172, 0.055504108664824574, 0.0096181291075770822, 0.0013333558145568491, 0.00015403530478833976,
         1.525273473652576e-5, 1.3215424496215563e-6, 1.0177656914546654e-7, 7.0756139465689642e-9, 4.5191535306284177e-10),
}
# log(1 + f) = f - f^2/2 + f^3 q(f) on sqrt(1/2) <= 1 + f <= sqrt(2)
_LOG = (0.333333313, -0.250008225, 0.200012624, -0.166233316, 0.142008513, -0.131594688, 0.127680928, -0.0764503703)
# log((1 + s) / (1 - s)) = 2s + s^3 q(s^2), for s = f / (2 + f) with f as above
_LOG_RATIO = (0.6666666666666734, 0.39999999999416613, 0.28571428742035776, 0.22222198604298846, 0.18183562887064478, 0.15314084016015519,
              0.14795640884817363)
# erf(x) = x + x q(x^2) on |x| <= 1
_ERF: Table = {
    32: (0.128379166, -0.37612626, 0.112835787, -0.0268533509, 0.00518717105, -0.000799795438, 7.80731716e-5),
    64: (0.12837916709551256, -0.37612638903183343, 0.1128379167093695, -0.026866170641959283, 0.0052239775967383847, -0.00085483254851853358,
         0.00012055280504125323, -1.4924465821421974e-5, 1.6444153240382185e-6, -1.6184014683233947e-7, 1.361681322437557e-8,
         -7.6080460521311723e-10),
}
# log(erfc(x)) = q(x) from 1 to where erf rounds to 1
_LOG_ERFC: Table = {
    32: (-0.000353715906, -1.12704003, -0.638225734, -0.103037275, 0.021805251, -0.0029395842, 0.000185571),
    64: (3.5330064736858472e-8, -1.1283796043752747, -0.63661720807717836, -0.10278208288378349, 0.019153240510925519, 0.00016039321173489255,
         -0.0016211562054703808, 0.00049775831094258467, 6.6489800276257405e-5, -0.00014016742946071006, 8.0591463076364894e-5,
         -3.1251305774153687e-5, 9.2907292454531007e-6, -2.2024330703738077e-6, 4.2085829404458377e-7, -6.4606085722708767e-8,
         7.8578521024423012e-9, -7.3870934014890593e-10, 5.1577173917013204e-11, -2.5038432274868044e-12, 7.4793917602855769e-14,
         -1.0217343132879059e-15),
}
# tanh(x) = x + x^3 q(x^2) on |x| <= 0.55
_TANH: Table = {
    32: (-0.333333164, 0.133325443, -0.0538475513, 0.0210507344, -0.00624289503),
    64: (-0.33333333333333331, 0.13333333333332931, -0.053968253967948486, 0.021869488524520742, -0.0088632352698156773, 0.0035921243260714081,
         -0.0014557989643485488, 0.00058979546324498529, -0.00023807915038593104, 9.3660854566697497e-5, -3.2567476766984536e-5,
         7.2226339632105408e-6),
}
# sinh(x) = x + x^3 q(x^2) on |x| <= 1
_SINH: Table = {
    32: (0.166666672, 0.00833331048, 0.000198428956, 2.78221842e-6),
    64: (0.16666666666666666, 0.0083333333333336403, 0.00019841269840970444, 2.7557319355715347e-6, 2.5052078117915175e-8, 1.6062815459780557e-10,
         7.4055071945429009e-13, 9.0602571275083599e-15),
}
# For float32 pow in float64: log(1 + f) = f + f^2 q(f) as above to 2^-35, and 2^r on |r| <= 1/2 to 2^-29.
_POW_LOG = (-0.50000000021520141, 0.3333333404346937, -0.24999994827866309, 0.19999898156323043, -0.16666927593458766, 0.14290570723333981,
            -0.12497408498831254, 0.11009613478346202, -0.099273538790230029, 0.100154196058144, -0.098716984985487824, 0.053583946298184026)
_POW_EXP2 = (1.0000000005530563, 0.69314720580595102, 0.2402264690822784, 0.055503286253662736, 0.0096184859473646446, 0.0013399992818411996,
             0.00015346911738956158)
# ln(2) in two parts, the first with enough trailing zeros that its product with any exponent is exact
_LN2: Table = {32: (0.693359375, -2.12194440e-4), 64: (6.93147180369123816490e-01, 1.90821492927058770002e-10)}
# Arguments at and beyond which the result is 0 and infinity.
_EXP_RANGE: Table = {32: (-104.0, 89.0), 64: (-746.0, 710.0)}
_EXP2_RANGE: Table = {32: (-151.0, 128.5), 64: (-1076.0, 1024.5)}
# From here sigmoid rounds to 1, in both formats.
_SIGMOID_ONE = 40.0


# ---------------------------------------------------------------------------------------------------------------- exponentials
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


def _scale(code: Code, y: Value, word: Value, less: int = 0) -> Value:
    """y * 2^(n - less) for the n in the low bits of `word`, in two steps so that large results do not overflow early and denormal ones are right."""
    n = word - (code.constant(y.v.type, y.format.magic).word() + less)
    if code.has_scale:
        return y.scaled(n)
    half = n >> 1
    return y * _power_of_two(y, half) * _power_of_two(y, n - half)


def _reduce_exp(code: Code, x: Value) -> tuple[Value, Value, Value]:
    """x = n ln(2) + r: (n, word of n, r)."""
    high, low = _LN2[x.format.bits]
    n, word = _round_to_integer(code, x, 1 / math.log(2))
    return n, word, code.fma(n, -low, code.fma(n, -high, x))


def _exp_reduced(code: Code, x: Value) -> tuple[Value, Value]:
    """(y, word of n) with exp(x) = y 2^n."""
    _, word, r = _reduce_exp(code, x)
    return code.fma(r * r, code.polynomial(r, _EXP[x.format.bits]), r) + 1, word


def exp(code: Code, x: Value) -> Value:
    """e^x; denormal results are rounded once."""
    y, word = _exp_reduced(code, _clamp(code, x, *_EXP_RANGE[x.format.bits]))
    return _scale(code, y, word)


def _exp_normal(code: Code, x: Value) -> Value:
    """exp(x) where the caller knows that neither argument nor result leaves the normal range."""
    y, word = _exp_reduced(code, x)
    return y * _power_of_two(x, word)


def exp2(code: Code, x: Value) -> Value:
    """2^x; exact for integers."""
    bits = x.format.bits
    x = _clamp(code, x, *_EXP2_RANGE[bits])
    n, word = _round_to_integer(code, x, 1.0)
    r = x - n
    return _scale(code, code.fma(r, code.polynomial(r, _EXP2[bits]), 1.0), word)


def expm1(code: Code, x: Value) -> Value:
    """e^x - 1, relative to itself for small x."""
    bits, top = x.format.bits, float(x.format.bias)
    a = _clamp(code, x, -float(x.format.fraction + 4), _EXP_RANGE[bits][1])
    n, word, r = _reduce_exp(code, a)
    p = code.fma(r * r, code.polynomial(r, _EXPM1[bits]), r)
    over = n > top
    s = _power_of_two(x, code.select(over, word - 1, word))
    return (code.fma(p, s, s - 1) * code.select(over, x.same(2.0), x.same(1.0))).copysign(x)


# ------------------------------------------------------------------------------------------------------ functions built on exp
def tanh(code: Code, x: Value) -> Value:
    """A polynomial near 0, 1 - 2 / (1 + e^2|x|) elsewhere."""
    bits, a = x.format.bits, abs(x)
    limit = 10.0 if bits == 32 else 20.0
    t = x * x
    small = code.fma(x * t, code.polynomial(t, _TANH[bits]), x)
    z = _exp_normal(code, code.select(a > limit, limit, a) * -2.0)
    large = code.fma(z / (z + 1), -2.0, 1.0)
    return code.select(a < 0.55, small, large).copysign(x)


def sigmoid(code: Code, x: Value) -> Value:
    """1 / (1 + e^-x), relative to itself also for very negative x.

    Both sides of the quotient are scaled by about the root of the least normal number, so that e^-x needs one factor 2^n wherever it matters: it cannot
    overflow where the result is denormal, and x is cut where the result rounds to 1.
    """
    bits, down = x.format.bits, x.format.bias // 2
    y, word = _exp_reduced(code, -_clamp(code, x, _EXP_RANGE[bits][0], _SIGMOID_ONE))
    one = y.same(2.0 ** -down)
    return one / code.fma(y, _power_of_two(y, word - down), one)


def erf(code: Code, x: Value) -> Value:
    """A polynomial near 0, 1 - erfc elsewhere."""
    bits, a = x.format.bits, abs(x)
    limit = 4.0 if bits == 32 else 6.0
    small = code.fma(x, code.polynomial(x * x, _ERF[bits]), x)
    clamped = code.select(a > limit, limit, a)
    tail = 1 - _exp_normal(code, code.polynomial(clamped, _LOG_ERFC[bits]))
    return code.select(a < 1.0, small, tail.copysign(x))


def _half_exp(code: Code, x: Value) -> Value:
    """exp(x) / 2 for x >= 0, infinity only where that itself is out of range."""
    limit = _EXP_RANGE[x.format.bits][1] + 1
    y, word = _exp_reduced(code, code.select(x > limit, limit, x))
    return _scale(code, y, word, less=1)


def sinh(code: Code, x: Value) -> Value:
    """A polynomial near 0, (e^|x| - e^-|x|) / 2 elsewhere; overflows only where the result does."""
    a, t = abs(x), x * x
    small = code.fma(x * t, code.polynomial(t, _SINH[x.format.bits]), x)
    half = _half_exp(code, a)
    return code.select(a < 1.0, small, (half - 0.25 / half).copysign(x))


def cosh(code: Code, x: Value) -> Value:
    """(e^|x| + e^-|x|) / 2; overflows only where the result does."""
    half = _half_exp(code, abs(x))
    return half + 0.25 / half


# ------------------------------------------------------------------------------------------------------------------ logarithms
def _log_sum(code: Code, e: Value, f: Value) -> Value:
    """e ln(2) + log(1 + f)."""
    high, low = _LN2[f.format.bits]
    if f.format.bits == 32:
        s = f * f
        rest = code.fma(e, low, f * s * code.polynomial(f, _LOG))
        return code.fma(e, high, f + code.fma(s, -0.5, rest))
    s = f / (f + 2)
    t, half = s * s, f * f * 0.5
    rest = code.fma(e, low, s * (half + t * code.polynomial(t, _LOG_RATIO)))
    return code.fma(e, high, f - (half - rest))


def _split_exponent(code: Code, x: Value) -> tuple[Value, Value]:
    """(e, m) with x = 2^e m and sqrt(1/2) <= m < sqrt(2), for positive finite x; e is an integer word."""
    f = x.format
    word = x.word()
    e = (word - code.constant(x.v.type, math.sqrt(0.5)).word()) >> f.fraction
    return e, (word - (e << f.fraction)).real()


def _log_domain(code: Code, x: Value, y: Value, zero: float = 0.0) -> Value:
    """y where zero < x < infinity, and the logarithm's limits elsewhere."""
    y = code.select(x < math.inf, y, x)
    return code.select(x > zero, y, code.select(x.equals(zero), x.same(-math.inf), x.same(math.nan)))


def log(code: Code, x: Value) -> Value:
    """Natural logarithm; -infinity at both zeros, NaN below."""
    f = x.format
    tiny = x < f.min_normal
    e, m = _split_exponent(code, code.select(tiny, x * 2.0 ** (f.fraction + 1), x))
    e = e.cast("sitofp", f.real) + code.select(tiny, x.same(-float(f.fraction + 1)), x.same(0.0))
    return _log_domain(code, x, _log_sum(code, e, m - 1))


def _log1p_finite(code: Code, x: Value) -> Value:
    """log(1 + x) for finite x > -1.

    With 2^e the scale of 1 + x, the reduced argument is 2^-e x + (2^-e - 1): both terms are exact, so it is rounded once and small x lose nothing.
    """
    e, m = _split_exponent(code, x + 1)
    s = _power_of_two(x, 0 - e)
    f = code.select(e > x.format.bias - 1, m - 1, code.fma(x, s, s - 1))
    return _log_sum(code, e.cast("sitofp", x.format.real), f)


def log1p(code: Code, x: Value) -> Value:
    """log(1 + x), relative to itself for small x; -infinity at -1, NaN below."""
    y = _log_domain(code, x, _log1p_finite(code, x), -1.0)
    return code.select(x.equals(0.0), x, y)


def _large(x: Value) -> float:
    """Beyond it x^2 +- 1 is x^2 and 1 + x is x; its square is finite."""
    return 2.0 ** 60 if x.format.bits == 32 else 2.0 ** 500


def asinh(code: Code, x: Value) -> Value:
    """log(x + sqrt(x^2 + 1)) by `log1p`."""
    a = abs(x)
    huge = a > _large(x)
    b = code.select(huge, 1.0, a)
    w = b + b * b / ((code.fma(b, b, 1.0)).apply("llvm.sqrt") + 1)
    y = _log1p_finite(code, code.select(huge, a, w)) + code.select(huge, x.same(math.log(2)), x.same(0.0))
    return code.select(a < math.inf, y, a).copysign(x)


def acosh(code: Code, x: Value) -> Value:
    """log(x + sqrt(x^2 - 1)) by `log1p`; NaN below 1."""
    huge = x > _large(x)
    t = code.select(huge, x.same(1.0), x - 1)
    w = t + (t * (t + 2)).apply("llvm.sqrt")
    y = _log1p_finite(code, code.select(huge, x, w)) + code.select(huge, x.same(math.log(2)), x.same(0.0))
    y = code.select(x < math.inf, y, x)
    return code.select(x < 1.0, math.nan, y)


def atanh(code: Code, x: Value) -> Value:
    """log((1 + x) / (1 - x)) / 2 by `log1p`; NaN beyond 1."""
    a = abs(x)
    y = _log1p_finite(code, (a + a) / (1 - a)) * 0.5
    y = code.select(a < 1.0, y, code.select(a.equals(1.0), x.same(math.inf), x.same(math.nan)))
    return y.copysign(x)


# ------------------------------------------------------------------------------------------------------------------------ power
def pow_single(code: Code, x: Value, y: Value) -> Value:
    """x^y in float32, computed in float64 and rounded once; special cases as in IEEE 754."""
    a = abs(x)
    wide = a.cast("fpext", F64.real)
    e, m = _split_exponent(code, wide)
    f = m - 1
    log2 = code.fma(code.fma(f * f, code.polynomial(f, _POW_LOG), f), 1 / math.log(2), e.cast("sitofp", F64.real))
    log2 = code.select(a.equals(0.0), -math.inf, code.select(a.equals(math.inf), math.inf, log2))
    w = log2 * y.cast("fpext", F64.real)
    # |x| = 1 gives 1 also for infinite y
    w = code.select(a.equals(1.0), code.select(y.is_nan(), w.same(math.nan), w.same(0.0)), w)
    w = _clamp(code, w, -200.0, 200.0)
    n, word = _round_to_integer(code, w, 1.0)
    result = (code.polynomial(w - n, _POW_EXP2) * _power_of_two(w, word)).cast("fptrunc", F32.real)
    return _pow_signs(code, x, y, result)


def _pow_signs(code: Code, x: Value, y: Value, result: Value) -> Value:
    """x^y from |x|^y."""
    half = y * 0.5
    whole = y.apply("llvm.trunc").equals(y)
    odd = whole & half.apply("llvm.trunc").differs(half)
    result = code.select(odd, result.copysign(x), result)
    result = code.select(((x < 0) & (x > -math.inf) & ~whole) | x.is_nan(), math.nan, result)
    return code.select(y.equals(0.0) | x.equals(1.0), 1.0, result)


# ------------------------------------------------------------------------------------------------------------------ system libm
def library(name: str) -> Operator:
    """float64 function of the C library; loops over it are not vectorised."""
    def call(code: Code, *arguments: Value) -> Value:
        kind = arguments[0].v.type
        if isinstance(kind, ir.VectorType):
            lanes = [library(name)(code, *(code.value(code.builder.extract_element(a.v, ir.IntType(32)(k))) for a in arguments)) for k in range(kind.count)]
            out = ir.Constant(kind, ir.Undefined)
            for k, lane in enumerate(lanes):
                out = code.builder.insert_element(out, lane.v, ir.IntType(32)(k))
            return code.value(out)
        module = code.builder.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(kind, [kind] * len(arguments)), name)
            function.attributes.add("nounwind")
            function.attributes.add("readnone")
        return code.sealed_call(function, arguments)
    return call


# By width of the float.
FUNCTIONS: dict[int, dict[str, Operator]] = {
    bits: {"exp": exp, "exp2": exp2, "expm1": expm1, "tanh": tanh, "sigmoid": sigmoid, "erf": erf, "sinh": sinh, "cosh": cosh,
           "log": log, "log1p": log1p, "asinh": asinh, "acosh": acosh, "atanh": atanh} for bits in (32, 64)
}
FUNCTIONS[32]["pow"] = pow_single
FUNCTIONS[64].update({name: library(name) for name in ("sin", "cos", "tan", "pow")})
