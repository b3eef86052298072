"""Plain operators on floats: what a processor does in an instruction or a few. The kernel's fast-math flags apply to those in `OPEN`."""
from __future__ import annotations

import math

from .emitter import Code, Operator, Value


def _sign(code: Code, x: Value) -> Value:
    """1, -1, 0 for both zeros, NaN for NaN."""
    return code.select(x.is_nan(), x, code.select(x.equals(0.0), x.same(0.0), x.same(1.0).copysign(x)))


def _extremum(intrinsic: str) -> Operator:
    """NaN if either is; of zeros, any: two or three instructions, and loops over it are recognised as reductions."""
    def extremum(code: Code, x: Value, y: Value) -> Value:
        return code.call(intrinsic, x.v.type, (x, y), (x.v.type,), flags=("nsz",))
    return extremum


def _mod(code: Code, x: Value, y: Value) -> Value:
    """Sign of the divisor, as numpy.remainder."""
    r = x.rem(y)
    moved = code.select(r.differs(0.0) & (r < 0).differs(y < 0), r + y, r)
    return code.select(r.equals(0.0), r.copysign(y), moved)


def _floordiv(code: Code, x: Value, y: Value) -> Value:
    """floor(x / y) of the exact quotient; x / y where y is 0."""
    r = x.rem(y)
    quotient = (x - r) / y
    quotient = code.select(r.differs(0.0) & (r < 0).differs(y < 0), quotient - 1, quotient)
    down = quotient.apply("llvm.floor")
    down = code.select((quotient - down) > 0.5, down + 1, down)
    down = code.select(quotient.equals(0.0), x.same(0.0).copysign(x / y), down)
    return code.select(y.equals(0.0), x / y, down)


OPEN: dict[str, Operator] = {
    "neg": lambda c, x: -x, "abs": lambda c, x: abs(x),
    "add": lambda c, x, y: x + y, "sub": lambda c, x, y: x - y, "mul": lambda c, x, y: x * y, "div": lambda c, x, y: x / y,
    "min": _extremum("llvm.minimum"), "max": _extremum("llvm.maximum"),
    "lt": lambda c, x, y: x < y, "le": lambda c, x, y: x <= y, "eq": lambda c, x, y: x.equals(y), "ne": lambda c, x, y: x.differs(y),
}
SEALED: dict[str, Operator] = {
    "sign": _sign, "floor": lambda c, x: x.apply("llvm.floor"), "ceil": lambda c, x: x.apply("llvm.ceil"),
    "round": lambda c, x: x.apply("llvm.rint"), "trunc": lambda c, x: x.apply("llvm.trunc"),
    "sqrt": lambda c, x: x.apply("llvm.sqrt"), "rsqrt": lambda c, x: 1 / x.apply("llvm.sqrt"),
    "isnan": lambda c, x: x.is_nan(), "isinf": lambda c, x: abs(x).equals(math.inf),
    "not": lambda c, x: x.equals(0.0), "and": lambda c, x, y: x.differs(0.0) & y.differs(0.0), "or": lambda c, x, y: x.differs(0.0) | y.differs(0.0),
    "xor": lambda c, x, y: x.differs(0.0) ^ y.differs(0.0), "rem": lambda c, x, y: x.rem(y), "mod": _mod, "floordiv": _floordiv,
}
