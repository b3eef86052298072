"""The numbers of a plan for given input shapes, without the machine that the plan is for."""
from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence

from . import dtypes as dt
from . import expr as ex
from .expr import Expr
from .plan import Instruction, Plan

WORD = 1 << 64


def _wrap(v: int) -> int:
    v %= WORD
    return v - WORD if v >= WORD >> 1 else v


def _real(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def _bits(value: float) -> int:
    return struct.unpack("<q", struct.pack("<d", value))[0]


def _truncated(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _to_integer(a: float) -> int:
    if math.isnan(a):
        return 0
    return max(-(WORD >> 1), min((WORD >> 1) - 1, math.trunc(a))) if math.isfinite(a) else (WORD >> 1) - 1 if a > 0 else -(WORD >> 1)


def _divided(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def _whole(function: Callable[[float], float]) -> Callable[[float, float], float]:
    return lambda a, b: math.copysign(float(function(a)), a) if math.isfinite(a) else a


_INTEGERS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b if b else 0, "mod": lambda a, b: a % b if b else 0, "div": _truncated, "rem": lambda a, b: a - b * _truncated(a, b) if b else 0,
    "min": min, "max": max, "lt": lambda a, b: int(a < b), "le": lambda a, b: int(a <= b), "eq": lambda a, b: int(a == b), "ne": lambda a, b: int(a != b),
    "and": lambda a, b: int(bool(a and b)), "or": lambda a, b: int(bool(a or b)), "not": lambda a, b: int(not a),
    "abs": lambda a, b: abs(a), "sign": lambda a, b: (a > 0) - (a < 0), "itof": lambda a, b: _bits(float(a)), "ftoi": lambda a, b: _to_integer(_real(a)),
}
_REALS: dict[str, Callable[[float, float], float]] = {
    "fadd": lambda a, b: a + b, "fsub": lambda a, b: a - b, "fmul": lambda a, b: a * b, "fdiv": _divided, "fmin": lambda a, b: a if a < b else b,
    "fmax": lambda a, b: a if a > b else b, "ffloor": _whole(math.floor), "fceil": _whole(math.ceil), "fround": _whole(lambda a: round(a)),
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {"flt": lambda a, b: a < b, "fle": lambda a, b: a <= b, "feq": lambda a, b: a == b}


def numbers(plan: Plan, shapes: Mapping[int, Sequence[int]]) -> list[int]:
    """All numbers as they are before the first step.

    Args:
        shapes: by position of the input, of every input that sizes are read from.

    Returns:
        One number for each of the plan's; those that only data can tell keep their initial values.
    """
    out = list(plan.numbers)
    for port, dim, number in plan.sizes:
        out[number] = shapes[port][dim]
    for i in plan.program[:plan.eager]:
        a, b = out[i.a] if not i.operator.startswith("load") else 0, out[i.b]
        if i.operator == "select":
            out[i.target] = b if a else out[i.c]
        elif i.operator in _INTEGERS:
            out[i.target] = _wrap(_INTEGERS[i.operator](a, b))
        elif i.operator in _REALS:
            out[i.target] = _bits(_REALS[i.operator](_real(a), _real(b)))
        elif i.operator in _COMPARISONS:
            out[i.target] = int(_COMPARISONS[i.operator](_real(a), _real(b)))
        else:
            raise ValueError(f"size program: {i.operator} reads data before the first step")
    return out


def formula(plan: Plan, number: int, names: Mapping[tuple[int, int], str]) -> Expr:
    """How a number of a plan follows from the shapes of its inputs.

    Args:
        number: position of one that is known before the first step.
        names: of sizes, by (input, dimension); sizes of the same name are taken to be equal.

    Returns:
        An expression over symbols: the named sizes, and `n<position>` for what only real arithmetic or data tells.
    """
    program = {i.target: i for i in plan.program[:plan.eager]}
    values = {n: ex.sym(names[port, dim]) for port, dim, n in plan.sizes}
    pending = [number]
    while pending:
        n = pending[-1]
        i = program.get(n)
        needed = () if i is None or n in values or i.operator not in _FORMULAS else (i.a, i.b, i.c)[:3 if i.operator == "select" else 1 if i.operator == "not" else 2]
        missing = [k for k in needed if k not in values]
        if missing:
            pending += missing
            continue
        pending.pop()
        if n not in values:
            values[n] = _symbolic(i, [values[k] for k in needed]) if needed and i is not None else ex.const(plan.numbers[n]) if i is None else ex.sym(f"n{n}")
    return _as_integer(values[number])


_FORMULAS = frozenset(("add", "sub", "mul", "floordiv", "mod", "min", "max", "lt", "le", "eq", "ne", "and", "or", "not", "select"))


def _symbolic(i: Instruction, operands: Sequence[Expr]) -> Expr:
    if i.operator == "select":
        condition, then, other = operands
        return ex.where(_as_condition(condition), _as_integer(then), _as_integer(other))
    if i.operator == "not":
        return ex.logical_not(_as_condition(operands[0]))
    turn = _as_condition if i.operator in ("and", "or") else _as_integer
    return ex.binary(i.operator, turn(operands[0]), turn(operands[1]))


def _as_condition(e: Expr) -> Expr:
    return e if e.dtype is dt.boolean else ex.not_equal(e, 0)


def _as_integer(e: Expr) -> Expr:
    return e if e.dtype is dt.int64 else ex.where(e, ex.const(1), ex.const(0))


def fixed_shapes(plan: Plan) -> dict[int, tuple[int, ...]] | None:
    """The shapes of the inputs of a plan where the model fixes them all, else None."""
    found: dict[int, tuple[int, ...]] = {}
    for k, p in enumerate(plan.inputs):
        if p.shape is None or not all(isinstance(d, int) for d in p.shape):
            return None
        found[k] = tuple(d for d in p.shape if isinstance(d, int))
    return found


__all__ = ["fixed_shapes", "formula", "numbers"]
