"""Operators on integers and bools, with the meaning that `ir.expr` gives them: nothing traps, division by zero gives 0."""
from __future__ import annotations

from llvmlite import ir

from .emitter import Code, Operator, Value


def _div(code: Code, signed: bool, x: Value, y: Value) -> Value:
    zero = y.equals(0)
    if not signed:
        return code.select(zero, 0, x.unsigned_div(code.select(zero, 1, y)))
    minus = y.equals(-1)
    quotient = x / code.select(zero | minus, 1, y)
    return code.select(zero, 0, code.select(minus, -x, quotient))


def _rem(code: Code, signed: bool, x: Value, y: Value) -> Value:
    """Sign of the dividend."""
    if not signed:
        return x.unsigned_rem(code.select(y.equals(0), 1, y))
    return x.rem(code.select(y.equals(0) | y.equals(-1), 1, y))


def _mod(code: Code, signed: bool, x: Value, y: Value) -> Value:
    """Sign of the divisor."""
    r = _rem(code, signed, x, y)
    return code.select(r.differs(0) & ((r ^ y) < 0) & y.differs(0), r + y, r) if signed else r


def _floordiv(code: Code, signed: bool, x: Value, y: Value) -> Value:
    q = _div(code, signed, x, y)
    if not signed:
        return q
    r = x - q * y
    return code.select(r.differs(0) & ((r ^ y) < 0) & y.differs(0), q - 1, q)


def _pow(code: Code, signed: bool, x: Value, y: Value) -> Value:
    """Repeated squaring in a loop over the exponent's bits; a negative exponent gives the truncated inverse, 0 for base 0."""
    b, kind = code.builder, x.v.type
    before = b.block
    head, done = b.append_basic_block("power"), b.append_basic_block("power.done")
    b.branch(head)
    b.position_at_end(head)
    result, base, exponent = (b.phi(kind) for _ in range(3))
    odd = code.value(exponent) & 1
    next_result = code.value(result) * code.select(odd.equals(0), 1, code.value(base))
    next_base = code.value(base) * code.value(base)
    next_exponent = code.value(exponent).shift_right_logical(1)
    for phi, first, after in ((result, x.same(1), next_result), (base, x, next_base), (exponent, y, next_exponent)):
        phi.add_incoming(first.v, before)
        phi.add_incoming(after.v, head)
    b.cbranch(next_exponent.equals(0).v, done, head)
    b.position_at_end(done)
    if not signed:
        return next_result
    inverse = code.select(x.equals(1), 1, code.select(x.equals(-1), code.select((y & 1).equals(0), x.same(1), x.same(-1)), x.same(0)))
    return code.select(y < 0, inverse, next_result)


def _shift(left: bool) -> Operator:
    """Counts of the width and more give 0."""
    def shift(code: Code, signed: bool, x: Value, y: Value) -> Value:
        width = x.element.width
        within = y.below(width)
        count = code.select(within, y, 0)
        moved = x << count if left else x >> count if signed else x.shift_right_logical(count)
        return code.select(within, moved, 0)
    return shift


def _sign(code: Code, signed: bool, x: Value) -> Value:
    if not signed:
        return x.differs(0).cast("zext", x.element)
    return (x > 0).cast("zext", x.element) - (x < 0).cast("zext", x.element)


def _less(strict: bool) -> Operator:
    def less(code: Code, signed: bool, x: Value, y: Value) -> Value:
        if signed:
            return x < y if strict else x <= y
        return x.below(y) if strict else x.at_most(y)
    return less


def _false(code: Code, signed: bool, x: Value) -> Value:
    return code.constant(x.shaped(ir.IntType(1)), 0)


def _same(code: Code, signed: bool, x: Value) -> Value:
    return x


INTEGER: dict[str, Operator] = {
    "neg": lambda c, s, x: -x, "abs": lambda c, s, x: abs(x) if s else x, "sign": _sign,
    "floor": _same, "ceil": _same, "round": _same, "trunc": _same, "isnan": _false, "isinf": _false,
    "not": lambda c, s, x: x.equals(0), "bitnot": lambda c, s, x: ~x,
    "add": lambda c, s, x, y: x + y, "sub": lambda c, s, x, y: x - y, "mul": lambda c, s, x, y: x * y,
    "div": _div, "mod": _mod, "rem": _rem, "floordiv": _floordiv, "pow": _pow,
    "min": lambda c, s, x, y: x.apply("llvm.smin" if s else "llvm.umin", y), "max": lambda c, s, x, y: x.apply("llvm.smax" if s else "llvm.umax", y),
    "lt": _less(True), "le": _less(False), "eq": lambda c, s, x, y: x.equals(y), "ne": lambda c, s, x, y: x.differs(y),
    "and": lambda c, s, x, y: x.differs(0) & y.differs(0), "or": lambda c, s, x, y: (x | y).differs(0),
    "xor": lambda c, s, x, y: x.differs(0) ^ y.differs(0),
    "bitand": lambda c, s, x, y: x & y, "bitor": lambda c, s, x, y: x | y, "bitxor": lambda c, s, x, y: x ^ y,
    "shl": _shift(True), "shr": _shift(False),
}

# On bools, given and returned as single bits.
BOOL: dict[str, Operator] = {
    "not": lambda c, x: ~x, "bitnot": lambda c, x: ~x, "abs": lambda c, x: x,
    "and": lambda c, x, y: x & y, "or": lambda c, x, y: x | y, "xor": lambda c, x, y: x ^ y,
    "bitand": lambda c, x, y: x & y, "bitor": lambda c, x, y: x | y, "bitxor": lambda c, x, y: x ^ y,
    "add": lambda c, x, y: x | y, "mul": lambda c, x, y: x & y, "min": lambda c, x, y: x & y, "max": lambda c, x, y: x | y,
    "eq": lambda c, x, y: ~(x ^ y), "ne": lambda c, x, y: x ^ y, "lt": lambda c, x, y: ~x & y, "le": lambda c, x, y: ~x | y,
}
