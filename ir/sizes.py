"""Sizes that a model computes in floats or narrow integers, brought back to int64 arithmetic.

Exporters write sizes such as `int64(floor(float32(H) * 0.5))`. As long as sizes stay below 2^22 and factors have few digits, floats hold them exactly, so
that the same size is `H // 2`. Only expressions over constants and symbolic sizes are rewritten: elements of tensors may be any number.
"""
from __future__ import annotations

from fractions import Fraction

from . import dtypes as dt
from . import expr as ex
from . import integer
from .expr import Expr

DENOMINATOR = 1 << 10  # the finest factor that is still exact on sizes below 2^22 in a 24-bit significand


def whole(e: Expr) -> Expr:
    """An int64 expression equal to `e`, without the detours through other types that can be avoided."""
    if e.dtype is not dt.int64 or e.op in ("const", "sym", "load", "axis"):
        return e
    nodes = list(ex.walk(e))
    if not any(n.op == "cast" for n in nodes) or any(n.op in ("load", "axis", "acc", "reduce") for n in nodes):
        return e
    return ex.transform([e], _shortened)[0]


def _shortened(e: Expr) -> Expr | None:
    """int64(x) -> the value of x in int64, where that is exact."""
    if e.op != "cast" or e.dtype is not dt.int64:
        return None
    source = e.args[0]
    if source.dtype.is_integer:
        return _integral(source)
    found = _fraction(source)
    if found is None:
        return None
    top, bottom = found
    if bottom == 1:
        return top
    return top // bottom if integer.prove_nonnegative(top) else None  # truncation is floor on what is not negative


def _integral(e: Expr) -> Expr | None:
    """An integer expression of any width in int64; None where it is made otherwise."""
    if e.dtype is dt.int64:
        return e
    if e.is_const:
        return ex.const(e.value)
    if e.op == "cast":
        source = e.args[0]
        if source.dtype.is_integer:
            return _integral(source)
        return _shortened(ex.make("cast", (source,), dt.int64, True)) if source.dtype.is_float else None
    if e.op in ("add", "sub", "mul", "min", "max", "neg"):
        parts = [_integral(a) for a in e.args]
        return None if None in parts else ex.rebuild(e, parts)
    if e.op in ("div", "floordiv", "mod", "rem"):
        a, b = _integral(e.args[0]), _integral(e.args[1])
        return ex.binary(e.op, a, b) if a is not None and b is not None and integer.prove_nonnegative(a) and integer.prove_positive(b) else None
    if e.op == "where" and not any(n.dtype.is_float for n in ex.walk(e.args[0])):
        a, b = _integral(e.args[1]), _integral(e.args[2])
        return None if a is None or b is None else ex.where(e.args[0], a, b)
    return None


def _fraction(e: Expr) -> tuple[Expr, int] | None:
    """(top, bottom) with the float expression equal to top / bottom."""
    if e.is_const:
        try:
            value = Fraction(e.value)
        except (ValueError, OverflowError):  # NaN and infinities
            return None
        return (ex.const(value.numerator), value.denominator) if value.denominator <= DENOMINATOR and abs(value.numerator) <= 1 << 22 else None
    if e.op == "cast":
        source = e.args[0]
        if source.dtype.is_float:
            return _fraction(source) if source.dtype.bits >= 32 and e.dtype.bits >= 32 else None
        found = _integral(source) if source.dtype.is_integer and e.dtype.bits >= 32 else None
        return None if found is None else (found, 1)
    parts = [_fraction(a) for a in e.args] if e.op in ("add", "sub", "mul", "div", "neg", "floor", "ceil", "trunc", "min", "max") else [None]
    if None in parts:
        return None
    top, bottom = parts[0]
    if len(parts) == 1:
        return _rounded(e.op, top, bottom)
    return _combined(e.op, top, bottom, *parts[1])


def _rounded(op: str, top: Expr, bottom: int) -> tuple[Expr, int] | None:
    if op == "neg":
        return -top, bottom
    if bottom == 1:
        return top, 1
    if op == "ceil":
        return ex.ceildiv(top, bottom), 1
    if op == "floor" or integer.prove_nonnegative(top):
        return top // bottom, 1
    return None


def _combined(op: str, a: Expr, p: int, b: Expr, q: int) -> tuple[Expr, int] | None:
    """a/p op b/q; sums need binary fractions, which floats hold exactly."""
    if op == "mul":
        found = a * b, p * q
    elif op == "div":
        if not b.is_const or b.value <= 0:
            return None
        found = a * q, p * b.value
    elif (p & (p - 1)) or (q & (q - 1)):
        return None
    else:
        common = max(p, q)
        x, y = a * (common // p), b * (common // q)
        found = ex.binary(op, x, y), common
    return found if found[1] <= DENOMINATOR else None
