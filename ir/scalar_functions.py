"""Scalar Python functions as expressions: the syntax tree is interpreted with symbols for arguments.

Conditions on symbols become `where`: both branches are interpreted and what they leave is joined. Loops over what is known when compiling are unrolled.
Types follow NumPy 2: Python numbers take the type of what they meet; true division and functions of integers give float64. Rounding functions (`math.floor`,
`round`, ...) keep their argument's type, as does `float()` on floats; `int()` gives int64. Where Python raises (division by zero, logarithm of a negative
number), the result is what IEEE arithmetic gives. A choice between two Python numbers has the type of the float arguments.
"""
from __future__ import annotations

import ast
import builtins
import math
import types
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from . import dtypes as dt
from . import expr as ex
from .captured import Captured
from .dtypes import DType
from .expr import Expr

MAX_STEPS = 20_000  # statements and expressions interpreted, loops unrolled
MAX_DEPTH = 24  # functions that call each other
_plain: ContextVar[DType | None] = ContextVar("type of a choice between Python numbers", default=None)
UNSET = object()  # a variable that only some ways through the function set


class NotExpressible(Exception):
    """A function that is no expression; the text says which line and why."""


@dataclass
class State:
    """Variables, and under which conditions control has left: by `return` with `result`, or the innermost loop by `break` or `continue`."""

    names: dict[str, Any]
    returned: Any = False
    broken: Any = False
    continued: Any = False
    result: Any = UNSET

    def copy(self) -> "State":
        return State(dict(self.names), self.returned, self.broken, self.continued, self.result)

    def left(self) -> Any:
        return either(either(self.returned, self.broken), self.continued)


def either(a: Any, b: Any) -> Any:
    if a is True or b is True:
        return True
    return b if a is False else a if b is False else ex.logical_or(a, b)


def as_value(v: Any) -> Expr:
    """A number or symbol as an expression."""
    if isinstance(v, Expr):
        return v
    if isinstance(v, np.generic):
        return ex.const(v.item(), dt.of_numpy(v.dtype))
    if isinstance(v, bool):
        return ex.const(v, dt.boolean)
    if isinstance(v, (int, float)):
        return ex.const(v, dt.float64 if isinstance(v, float) else dt.int64)
    raise TypeError(f"a number was expected, not {'None' if v is None else type(v).__name__}")


def common(*values: Any) -> list[Expr]:
    """The values in their common type."""
    typed = [v.dtype for v in map(lambda v: as_value(v) if isinstance(v, np.generic) else v, values) if isinstance(v, Expr)]
    if not typed:
        kind = _plain.get()
        return [as_value(v) if kind is None or isinstance(v, bool) else ex.const(as_value(v).value, kind) for v in values]
    kinds = list(dict.fromkeys(typed))
    kind = kinds[0] if len(kinds) == 1 else dt.of_numpy(np.result_type(*(k.numpy for k in kinds)))
    plain = [v for v in values if not isinstance(v, (Expr, np.generic))]
    if any(isinstance(v, float) for v in plain) and not kind.is_float:
        kind = dt.float64
    elif any(isinstance(v, int) and not isinstance(v, bool) for v in plain) and kind is dt.boolean:
        kind = dt.int64
    for v in plain:
        if kind.is_integer and not -(1 << kind.bits - 1) <= v < 1 << kind.bits:
            raise OverflowError(f"{v} is no {kind.name}")
    return [ex.const(v, kind) if not isinstance(v, (Expr, np.generic)) and v is not None else ex.cast(as_value(v), kind) for v in values]


def truth(v: Any) -> Any:
    """A condition: a Python bool where it is known, else a boolean expression."""
    if not isinstance(v, Expr):
        return bool(v)
    return v.value if v.dtype is dt.boolean and v.is_const else ex.cast(v, dt.boolean)


def choose(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b; tuples element by element."""
    if not isinstance(condition, Expr):
        return a if condition else b
    if a is UNSET or b is UNSET:
        return UNSET
    if a is b or (not isinstance(a, Expr) and not isinstance(b, Expr) and type(a) is type(b) and not isinstance(a, np.ndarray) and a == b):
        return a
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(choose(condition, x, y) for x, y in zip(a, b))
    x, y = common(a, b)
    return ex.where(condition, x, y)


def number(v: Any) -> Any:
    """A value for arithmetic: booleans count as 0 and 1."""
    return ex.cast(v, dt.int64) if isinstance(v, Expr) and v.dtype is dt.boolean else v


def real(v: Any) -> Expr:
    e = as_value(v)
    return e if e.dtype.is_float else ex.cast(e, dt.float64)


def binary(op: str) -> Callable[[Any, Any], Expr]:
    return lambda a, b: ex.binary(op, *common(number(a), number(b)))


def divide(a: Any, b: Any) -> Expr:
    x, y = common(number(a), number(b))
    return ex.binary("div", real(x), real(y))


def power(a: Any, b: Any) -> Expr:
    if isinstance(b, int) and 1 <= b <= 4:
        a = number(a)
        square = a * a
        return {1: a, 2: square, 3: square * a, 4: square * square}[b]
    x, y = common(number(a), number(b))
    return ex.binary("pow", real(x), real(y)) if isinstance(b, int) and b < 0 else ex.binary("pow", x, y)


def bits(op: str, logical: str) -> Callable[[Any, Any], Expr]:
    def apply(a: Any, b: Any) -> Expr:
        x, y = common(a, b)
        return ex.binary(logical if x.dtype is dt.boolean else op, x, y)
    return apply


def compare(op: str, swap: bool = False) -> Callable[[Any, Any], Expr]:
    def apply(a: Any, b: Any) -> Expr:
        x, y = common(a, b)
        return ex.binary(op, y, x) if swap else ex.binary(op, x, y)
    return apply


BINARY: dict[type, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Add: (lambda a, b: a + b, binary("add")), ast.Sub: (lambda a, b: a - b, binary("sub")), ast.Mult: (lambda a, b: a * b, binary("mul")),
    ast.Div: (lambda a, b: a / b, divide), ast.FloorDiv: (lambda a, b: a // b, binary("floordiv")), ast.Mod: (lambda a, b: a % b, binary("mod")),
    ast.Pow: (lambda a, b: a ** b, power), ast.BitAnd: (lambda a, b: a & b, bits("bitand", "and")), ast.BitOr: (lambda a, b: a | b, bits("bitor", "or")),
    ast.BitXor: (lambda a, b: a ^ b, bits("bitxor", "xor")), ast.LShift: (lambda a, b: a << b, binary("shl")), ast.RShift: (lambda a, b: a >> b, binary("shr")),
}
COMPARE: dict[type, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Lt: (lambda a, b: a < b, compare("lt")), ast.LtE: (lambda a, b: a <= b, compare("le")), ast.Gt: (lambda a, b: a > b, compare("lt", True)),
    ast.GtE: (lambda a, b: a >= b, compare("le", True)), ast.Eq: (lambda a, b: a == b, compare("eq")), ast.NotEq: (lambda a, b: a != b, compare("ne")),
}


# --------------------------------------------------------------------------------------------------------------- functions
def keeping(op: str) -> Callable[[Any], Expr]:
    """A function that gives its argument's type; what rounds leaves integers alone."""
    def apply(v: Any) -> Expr:
        e = as_value(number(v))
        return e if op in ("floor", "ceil", "round", "trunc") and not e.dtype.is_float else ex.unary(op, e)
    return apply


def smaller(a: Any, b: Any) -> Any:
    """Python's min of two: the first one unless the second is less."""
    return choose(truth(compare("lt")(b, a)), b, a)


def larger(a: Any, b: Any) -> Any:
    return choose(truth(compare("lt")(a, b)), b, a)


def fold(two: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def apply(*values: Any) -> Any:
        items = values[0] if len(values) == 1 else values
        found = items[0]
        for v in items[1:]:
            found = two(found, v)
        return found
    return apply


def to_integer(v: Any) -> Expr:
    return ex.cast(as_value(v), dt.int64)


def to_type(kind: DType) -> Callable[[Any], Expr]:
    return lambda v: ex.cast(as_value(v), kind)


def scaled(op: str, factor: float) -> Callable[[Any], Expr]:
    return lambda v: ex.unary(op, real(v)) * factor


def finite(v: Any) -> Expr:
    e = real(v)
    return ex.logical_not(ex.logical_or(ex.unary("isnan", e), ex.unary("isinf", e)))


def add_all(items: Sequence[Any], start: Any = 0) -> Any:
    for v in items:
        start = BINARY[ast.Add][isinstance(start, Expr) or isinstance(v, Expr)](start, v)
    return start


KNOWN: dict[object, Callable[..., Any]] = {
    builtins.abs: keeping("abs"), builtins.min: fold(smaller), builtins.max: fold(larger), builtins.round: keeping("round"), builtins.int: to_integer,
    builtins.float: real,
    builtins.bool: truth, builtins.pow: power, builtins.sum: add_all, np.abs: keeping("abs"), np.sign: keeping("sign"), np.square: lambda v: power(v, 2), np.power: power,
    np.where: lambda c, a, b: choose(truth(c), a, b), np.minimum: binary("min"), np.maximum: binary("max"),
    np.clip: lambda v, low, high: binary("min")(binary("max")(v, low), high),
    np.isfinite: finite, math.isfinite: finite, math.fabs: lambda v: ex.unary("abs", real(v)), np.reciprocal: lambda v: divide(1, v), math.fmod: binary("rem"),
    np.fmod: binary("rem"),
    math.degrees: lambda v: real(v) * (180 / math.pi), math.radians: lambda v: real(v) * (math.pi / 180), math.log2: scaled("log", 1 / math.log(2)),
    math.log10: scaled("log", 1 / math.log(10)), np.logical_not: lambda v: ex.logical_not(truth(v)), math.pow: lambda a, b: ex.binary("pow", *common(real(a), real(b))),
    np.logical_and: lambda a, b: ex.logical_and(truth(a), truth(b)), np.logical_or: lambda a, b: ex.logical_or(truth(a), truth(b)),
    math.atan2: lambda a, b: ex.binary("atan2", *map(real, common(a, b))), np.arctan2: lambda a, b: ex.binary("atan2", *map(real, common(a, b))),
}
_REAL = {"exp": "exp", "exp2": "exp2", "log": "log", "log1p": "log1p", "expm1": "expm1", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "acos": "arccos",
         "atan": "arctan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "sqrt": "sqrt", "erf": "", "isnan": "isnan",
         "isinf": "isinf"}
for _op, _numpy in _REAL.items():
    for _home, _name in ((math, _op), (np, _numpy)):
        if hasattr(_home, _name):
            KNOWN[getattr(_home, _name)] = lambda v, op=_op: ex.unary(op, real(v))
for _op, _numpy in (("floor", "floor"), ("ceil", "ceil"), ("trunc", "trunc"), ("", "rint")):
    KNOWN[getattr(np, _numpy)] = keeping(_op or "round")
    if _op:
        KNOWN[getattr(math, _op)] = keeping(_op)
for _kind in (dt.float32, dt.float64, *dt.INTEGERS):
    KNOWN[getattr(np, _kind.numpy_name)] = to_type(_kind)
SEQUENCES = (range, len, enumerate, zip, reversed, tuple, list, any, all, sorted)


# ------------------------------------------------------------------------------------------------------------- interpreter
@dataclass
class Interpreter:
    """One function on its way to expressions."""

    captured: Captured
    depth: int = 0
    steps: list[int] = field(default_factory=lambda: [0])

    def fail(self, node: ast.AST, reason: str) -> NotExpressible:
        return NotExpressible(f"line {self.captured.line(node)} of {self.captured.name}: {reason}")

    def tick(self, node: ast.AST) -> None:
        self.steps[0] += 1
        if self.steps[0] > MAX_STEPS:
            raise self.fail(node, f"more than {MAX_STEPS} steps once loops are unrolled")

    def call(self, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        tree = self.captured.tree
        if tree is None:
            raise NotExpressible(f"{self.captured.name}: its source is not available")
        import inspect
        try:
            bound = inspect.signature(self.captured.function).bind(*arguments, **keywords)
        except TypeError as e:
            raise NotExpressible(f"{self.captured.name}: {e}") from e
        bound.apply_defaults()
        state = State(dict(bound.arguments))
        self.block(tree.body, state)
        if state.returned is not True:
            raise self.fail(tree, "it can end without returning a value" if state.returned is not False else "it returns no value")
        return state.result

    # ---- statements
    def block(self, body: Sequence[ast.stmt], state: State) -> None:
        for k, s in enumerate(body):
            self.tick(s)
            handler = getattr(self, f"do_{type(s).__name__}", None)
            if handler is None:
                raise self.fail(s, f"`{ast.unparse(s).splitlines()[0]}` is no arithmetic: {type(s).__name__} statements cannot become an expression")
            handler(s, state)
            left = state.left()
            if left is True:
                return
            if left is not False:
                rest = state.copy()
                self.nothing_left(rest)
                self.block(body[k + 1:], rest)
                self.join(left, self.gone(state), rest, state)
                return

    @staticmethod
    def gone(state: State) -> State:
        """The state where control has left: a single reason for it is certain there."""
        found = state.copy()
        reasons = [f for f in ("returned", "broken", "continued") if getattr(state, f) is not False]
        if len(reasons) == 1:
            setattr(found, reasons[0], True)
        return found

    @staticmethod
    def nothing_left(state: State) -> None:
        state.returned = state.broken = state.continued = False

    def join(self, condition: Any, a: State, b: State, into: State) -> None:
        """What holds after a branch: `a` where the condition holds, else `b`; a branch that always returns leaves no variables."""
        if a.returned is True and b.returned is not True:
            into.names = b.names
        elif b.returned is True and a.returned is not True:
            into.names = a.names
        else:
            into.names = {n: self.joined(condition, a.names.get(n, UNSET), b.names.get(n, UNSET)) for n in {**a.names, **b.names}}
        if a.result is UNSET or b.result is UNSET:
            into.result = b.result if a.result is UNSET else a.result
        else:
            into.result = choose(condition, a.result, b.result)
        for flag in ("returned", "broken", "continued"):
            x, y = getattr(a, flag), getattr(b, flag)
            setattr(into, flag, x if x is y else either(x if y is False and x is not True else ex.logical_and(condition, as_value(x)),
                                                       False if y is False else ex.logical_and(ex.logical_not(condition), as_value(y))))

    @staticmethod
    def joined(condition: Any, a: Any, b: Any) -> Any:
        try:
            return choose(condition, a, b)
        except TypeError:
            return UNSET

    def do_If(self, s: ast.If, state: State) -> None:
        condition = truth(self.value(s.test, state))
        if not isinstance(condition, Expr):
            return self.block(s.body if condition else s.orelse, state)
        yes, no = state.copy(), state.copy()
        self.block(s.body, yes)
        self.block(s.orelse, no)
        return self.join(condition, yes, no, state)

    def do_Return(self, s: ast.Return, state: State) -> None:
        if s.value is None:
            raise self.fail(s, "it returns no value")
        state.result, state.returned = self.value(s.value, state), True

    def do_Assign(self, s: ast.Assign, state: State) -> None:
        v = self.value(s.value, state)
        for t in s.targets:
            self.assign(t, v, state)

    def do_AnnAssign(self, s: ast.AnnAssign, state: State) -> None:
        if s.value is not None:
            self.assign(s.target, self.value(s.value, state), state)

    def do_AugAssign(self, s: ast.AugAssign, state: State) -> None:
        if not isinstance(s.target, ast.Name):
            raise self.fail(s, f"`{ast.unparse(s.target)}` is no local variable")
        self.assign(s.target, self.arithmetic(s, type(s.op), self.name(s.target, state, s.target.id), self.value(s.value, state)), state)

    def assign(self, target: ast.expr, v: Any, state: State) -> None:
        if isinstance(target, ast.Name):
            state.names[target.id] = v
        elif isinstance(target, (ast.Tuple, ast.List)) and isinstance(v, tuple) and len(v) == len(target.elts):
            for t, x in zip(target.elts, v):
                self.assign(t, x, state)
        else:
            raise self.fail(target, f"`{ast.unparse(target)}` is no local variable")

    def do_Pass(self, s: ast.Pass, state: State) -> None:
        """Nothing."""

    def do_Break(self, s: ast.Break, state: State) -> None:
        state.broken = True

    def do_Continue(self, s: ast.Continue, state: State) -> None:
        state.continued = True

    def do_For(self, s: ast.For, state: State) -> None:
        items = self.value(s.iter, state)
        if isinstance(items, Expr) or not isinstance(items, (tuple, range, np.ndarray)):
            raise self.fail(s, f"`{ast.unparse(s.iter)}` is not known when compiling")
        self.repeat(list(items), lambda v, inner: self.assign(s.target, v, inner), s, state)

    def do_While(self, s: ast.While, state: State) -> None:
        for _ in range(MAX_STEPS):
            condition = truth(self.value(s.test, state))
            if isinstance(condition, Expr):
                raise self.fail(s, f"how often the loop runs depends on the inputs: `{ast.unparse(s.test)}`")
            if not condition:
                return self.block(s.orelse, state)
            self.block(s.body, state)
            state.continued = False
            if isinstance(state.left(), Expr):
                raise self.fail(s, "how often the loop runs depends on the inputs")
            if state.left():
                state.broken = False
                return None
        raise self.fail(s, "the loop does not end")

    def repeat(self, items: Sequence[Any], bind: Callable[[Any, State], None], s: ast.For, state: State) -> None:
        """Iterations one after another; those behind a conditional `break` or `return` count where it was not taken."""
        for k, v in enumerate(items):
            self.tick(s)
            bind(v, state)
            self.block(s.body, state)
            state.continued = False
            left = state.left()
            if left is not False:
                if left is not True:
                    rest = state.copy()
                    self.nothing_left(rest)
                    self.repeat(items[k + 1:], bind, s, rest)
                    self.join(left, self.gone(state), rest, state)
                state.broken = False
                return
        self.block(s.orelse, state)

    # ---- expressions
    def value(self, node: ast.expr, state: State) -> Any:
        self.tick(node)
        handler = getattr(self, f"of_{type(node).__name__}", None)
        if handler is None:
            raise self.fail(node, f"`{ast.unparse(node)}` cannot become an expression ({type(node).__name__})")
        try:
            return handler(node, state)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError, IndexError, AttributeError) as e:
            raise self.fail(node, f"`{ast.unparse(node)}`: {e}") from e

    def of_Constant(self, node: ast.Constant, state: State) -> Any:
        return node.value

    def of_Name(self, node: ast.Name, state: State) -> Any:
        return self.name(node, state, node.id)

    def name(self, node: ast.AST, state: State, name: str) -> Any:
        if name in state.names:
            if state.names[name] is UNSET:
                raise self.fail(node, f"{name} is not set on every way that leads here, or with values of different kinds")
            return state.names[name]
        if name in self.captured.values:
            return self.captured.values[name]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise self.fail(node, f"{name} is not defined")

    def of_Tuple(self, node: ast.Tuple | ast.List, state: State) -> Any:
        return tuple(self.value(e, state) for e in node.elts)

    of_List = of_Tuple

    def of_Attribute(self, node: ast.Attribute, state: State) -> Any:
        owner = self.value(node.value, state)
        if isinstance(owner, types.ModuleType) or (isinstance(owner, np.ndarray) and node.attr in ("shape", "size", "ndim")):
            return getattr(owner, node.attr)
        raise self.fail(node, f"`{ast.unparse(node)}` is neither of a module nor known when compiling")

    def of_Subscript(self, node: ast.Subscript, state: State) -> Any:
        owner, at = self.value(node.value, state), self.value(node.slice, state)
        if isinstance(at, Expr) or isinstance(owner, Expr):
            raise self.fail(node, f"`{ast.unparse(node)}`: only tuples at positions known when compiling can be indexed")
        return owner[at]

    def of_BinOp(self, node: ast.BinOp, state: State) -> Any:
        return self.arithmetic(node, type(node.op), self.value(node.left, state), self.value(node.right, state))

    def arithmetic(self, node: ast.AST, op: type, a: Any, b: Any) -> Any:
        if op not in BINARY:
            raise self.fail(node, f"operator {op.__name__} is not supported")
        return BINARY[op][isinstance(a, Expr) or isinstance(b, Expr)](a, b)

    def of_UnaryOp(self, node: ast.UnaryOp, state: State) -> Any:
        v = self.value(node.operand, state)
        if not isinstance(v, Expr):
            return {ast.USub: lambda: -v, ast.UAdd: lambda: +v, ast.Not: lambda: not v, ast.Invert: lambda: ~v}[type(node.op)]()
        if isinstance(node.op, ast.Not):
            return ex.logical_not(truth(v))
        if isinstance(node.op, ast.Invert):
            return ex.unary("not" if v.dtype is dt.boolean else "bitnot", v)
        return number(v) if isinstance(node.op, ast.UAdd) else -number(v)

    def of_Compare(self, node: ast.Compare, state: State) -> Any:
        left, found = self.value(node.left, state), cast(Any, True)
        for op, right_node in zip(node.ops, node.comparators):
            right = self.value(right_node, state)
            if isinstance(op, (ast.Is, ast.IsNot)):
                test: Any = (left is right) == isinstance(op, ast.Is)
            elif type(op) in COMPARE:
                test = COMPARE[type(op)][isinstance(left, Expr) or isinstance(right, Expr)](left, right)
            elif not isinstance(left, Expr) and not isinstance(right, Expr):
                test = (left in right) == isinstance(op, ast.In)
            else:
                raise self.fail(node, f"`{ast.unparse(node)}`: membership is only decided when compiling")
            found = test if found is True else ex.logical_and(truth(found), truth(test)) if isinstance(test, Expr) or isinstance(found, Expr) else found and test
            left = right
        return found

    def of_BoolOp(self, node: ast.BoolOp, state: State) -> Any:
        found = self.value(node.values[0], state)
        for n in node.values[1:]:
            condition = truth(found)
            if not isinstance(condition, Expr):
                if condition == isinstance(node.op, ast.Or):
                    return found
                found = self.value(n, state)
                continue
            v = self.value(n, state)
            found = choose(condition, v, found) if isinstance(node.op, ast.And) else choose(condition, found, v)
        return found

    def of_IfExp(self, node: ast.IfExp, state: State) -> Any:
        condition = truth(self.value(node.test, state))
        if not isinstance(condition, Expr):
            return self.value(node.body if condition else node.orelse, state)
        return choose(condition, self.value(node.body, state), self.value(node.orelse, state))

    def of_Call(self, node: ast.Call, state: State) -> Any:
        function = self.value(node.func, state)
        arguments: list[Any] = []
        for a in node.args:
            arguments += self.value(a.value, state) if isinstance(a, ast.Starred) else [self.value(a, state)]
        keywords = {str(k.arg): self.value(k.value, state) for k in node.keywords}
        if isinstance(function, Captured):
            if self.depth >= MAX_DEPTH:
                raise self.fail(node, f"functions call each other more than {MAX_DEPTH} deep")
            return Interpreter(function, self.depth + 1, self.steps).call(arguments, keywords)
        if function in SEQUENCES:
            made = function(*arguments, **keywords)
            return made if isinstance(made, (int, range)) else tuple(made)
        symbolic = any(isinstance(v, Expr) for a in (*arguments, *keywords.values()) for v in (a if isinstance(a, tuple) else (a,)))
        try:
            known = KNOWN.get(function)
        except TypeError:
            known = None
        if known is None and (symbolic or not isinstance(function, (types.BuiltinFunctionType, np.ufunc, type))):
            raise self.fail(node, f"`{ast.unparse(node.func)}` is not among the functions that become expressions")
        return known(*arguments, **keywords) if symbolic else function(*arguments, **keywords)


def trace(captured: Captured, arguments: Sequence[Expr | None], keywords: Mapping[str, Any]) -> tuple[Expr, ...]:
    """The function's results as expressions of its arguments.

    Raises:
        NotExpressible: with the line and the reason.
    """
    floats = {a.dtype for a in arguments if a is not None and a.dtype.is_float}
    token = _plain.set(max(floats, key=lambda d: d.bits) if floats else None)
    try:
        found = Interpreter(captured).call(arguments, keywords)
    finally:
        _plain.reset(token)
    try:
        return tuple(as_value(v) for v in (found if isinstance(found, tuple) else (found,)))
    except TypeError as e:
        raise NotExpressible(f"{captured.name}: it returns something else than numbers: {e}") from e
