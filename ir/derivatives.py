"""Derivatives of scalar expressions, in reverse: every node hands what reaches it on to its operands.

Where a slope is infinite and nothing reaches it, nothing goes on (0 * inf counts as 0), so that a branch of `where` that was not taken gives no NaN.
At kinks (abs, min, max) the slope is that of one side; comparisons, rounding and integers have none.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from . import dtypes as dt
from . import expr as ex
from .errors import UnsupportedError
from .expr import Expr


def times(g: Expr, slope: Expr) -> Expr:
    """g * slope, 0 where g is 0."""
    return ex.where(ex.equal(g, 0.0), 0.0, g * slope)


def _u(op: str, x: Expr) -> Expr:
    return ex.unary(op, x)


# op -> (g, x, y = op(x)) -> what reaches x
UNARY: dict[str, Callable[[Expr, Expr, Expr], Expr]] = {
    "neg": lambda g, x, y: -g, "abs": lambda g, x, y: g * _u("sign", x), "sqrt": lambda g, x, y: times(g, 0.5 / y), "rsqrt": lambda g, x, y: times(g, -0.5 * y / x),
    "exp": lambda g, x, y: times(g, y), "exp2": lambda g, x, y: times(g, y * math.log(2)), "expm1": lambda g, x, y: times(g, y + 1.0), "log": lambda g, x, y: times(g, 1.0 / x),
    "log1p": lambda g, x, y: times(g, 1.0 / (x + 1.0)), "sin": lambda g, x, y: g * _u("cos", x), "cos": lambda g, x, y: -(g * _u("sin", x)),
    "tan": lambda g, x, y: g * (y * y + 1.0), "asin": lambda g, x, y: times(g, _u("rsqrt", 1.0 - x * x)), "acos": lambda g, x, y: times(g, -_u("rsqrt", 1.0 - x * x)),
    "atan": lambda g, x, y: g / (x * x + 1.0), "sinh": lambda g, x, y: times(g, _u("cosh", x)), "cosh": lambda g, x, y: times(g, _u("sinh", x)),
    "tanh": lambda g, x, y: g * (1.0 - y * y), "asinh": lambda g, x, y: g * _u("rsqrt", x * x + 1.0), "acosh": lambda g, x, y: times(g, _u("rsqrt", x * x - 1.0)),
    "atanh": lambda g, x, y: times(g, 1.0 / (1.0 - x * x)), "erf": lambda g, x, y: g * _u("exp", -(x * x)) * (2 / math.sqrt(math.pi)),
    "sigmoid": lambda g, x, y: g * (y * (1.0 - y)),
}
FLAT = frozenset(("sign", "floor", "ceil", "round", "trunc"))


def _pow(g: Expr, x: Expr, y: Expr, out: Expr) -> tuple[Expr, Expr]:
    base = times(g, y * ex.binary("pow", x, y - 1.0))
    return base, times(g, ex.where(ex.equal(out, 0.0), 0.0, out * _u("log", x)))


def _atan2(g: Expr, y: Expr, x: Expr, out: Expr) -> tuple[Expr, Expr]:
    size = x * x + y * y
    return times(g, x / size), times(g, -y / size)


# op -> (g, a, b, out) -> what reaches a and b
BINARY: dict[str, Callable[[Expr, Expr, Expr, Expr], tuple[Expr | None, Expr | None]]] = {
    "add": lambda g, a, b, out: (g, g), "sub": lambda g, a, b, out: (g, -g), "mul": lambda g, a, b, out: (times(g, b), times(g, a)),
    "div": lambda g, a, b, out: (times(g, 1.0 / b), times(g, -out / b)), "pow": _pow, "atan2": _atan2,
    "min": lambda g, a, b, out: (ex.where(a <= b, g, 0.0), ex.where(a <= b, 0.0, g)), "max": lambda g, a, b, out: (ex.where(a >= b, g, 0.0), ex.where(a >= b, 0.0, g)),
    "mod": lambda g, a, b, out: (g, -(g * _u("floor", a / b))), "rem": lambda g, a, b, out: (g, -(g * _u("trunc", a / b))), "floordiv": lambda g, a, b, out: (None, None),
}


def gradients(outputs: Sequence[Expr], upstream: Sequence[Expr], leaves: Sequence[Expr]) -> list[Expr]:
    """What reaches each leaf when `upstream` reaches the outputs; 0 where nothing does.

    Raises:
        UnsupportedError: an operator without a rule.
    """
    reach: dict[Expr, Expr] = {}

    def add(e: Expr, g: Expr | None) -> None:
        if g is not None and e.dtype.is_float and not e.is_const:
            reach[e] = reach[e] + g if e in reach else g

    for y, g in zip(outputs, upstream, strict=True):
        if y.dtype.is_float:
            add(y, ex.cast(g, y.dtype))
    for e in reversed(list(ex.walk(outputs))):
        g = reach.get(e)
        if g is None or e in leaves or not e.args or e.op in FLAT:
            continue
        if e.op in UNARY:
            add(e.args[0], UNARY[e.op](g, e.args[0], e))
        elif e.op in BINARY:
            for a, part in zip(e.args, BINARY[e.op](g, e.args[0], e.args[1], e)):
                add(a, part)
        elif e.op == "where":
            add(e.args[1], ex.where(e.args[0], g, 0.0))
            add(e.args[2], ex.where(e.args[0], 0.0, g))
        elif e.op == "cast":
            add(e.args[0], ex.cast(g, e.args[0].dtype) if e.args[0].dtype.is_float else None)
        else:
            raise UnsupportedError(f"{e.op} has no derivative")
    return [reach.get(x, ex.const(0, x.dtype if x.dtype.is_float else dt.float32)) for x in leaves]
