"""Scalar expressions: the one language for tensor elements, indices and symbolic sizes.

An `Expr` is an immutable, interned node: equal expressions are the same object, so `is` compares them. Leaves are constants, symbolic sizes,
loop axes, element loads and (inside a contraction) the accumulator. int64 arithmetic is kept in the canonical form of `ir.integer`.

Operators and their meaning (C = the computation's dtype):

    neg abs sign floor ceil round trunc sqrt rsqrt exp exp2 log log1p expm1 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
    erf sigmoid isnan isinf not bitnot                  unary; round is half to even; isnan, isinf and not give bool
    add sub mul div mod rem floordiv pow min max atan2  binary; div truncates on integers, mod has the divisor's sign, rem the dividend's;
                                                        min and max give NaN if either is NaN
    lt le eq ne  and or xor  bitand bitor bitxor shl shr
    where(c, a, b)   cast   bitcast
    load(tensor, indices, fill)    an element; with `fill`, indices out of range give that constant
    reduce(kind, axes, body)       sum prod max min any all argmax argmin (first), argmax_last argmin_last; the argument forms give int64 positions along one axis
    acc                            the finished sum of the enclosing contraction
    sym                            a size by name; with an operand, which defines it, it is a short name for a long size
"""
from __future__ import annotations

import functools
import hashlib
import itertools
import math
import operator
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from . import dtypes as dt
from .dtypes import DType

Scalar = Union[int, float, bool]
ExprLike = Union["Expr", int, float, bool]

UNARY = frozenset(
    "neg abs sign floor ceil round trunc sqrt rsqrt exp exp2 log log1p expm1 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf "
    "sigmoid isnan isinf not bitnot".split()
)
BINARY = frozenset(
    "add sub mul div mod rem floordiv pow min max atan2 lt le eq ne and or xor bitand bitor bitxor shl shr".split()
)
PREDICATES = frozenset("lt le eq ne isnan isinf not and or xor".split())
# What a processor does in one instruction or none; everything else is worth computing once.
CHEAP = frozenset("neg abs floor ceil trunc round add sub mul min max lt le eq ne and or xor not bitand bitor bitxor bitnot shl shr where cast bitcast".split())
LONGEST_TEXT = 8192  # characters
REDUCTIONS = ("sum", "prod", "max", "min", "any", "all", "argmax", "argmin", "argmax_last", "argmin_last")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named buffer of elements, as loop nests see it: `name`, `dtype` and symbolic `shape`. Compared by identity."""

    name: str
    dtype: DType
    shape: tuple["Expr", ...]

    def __getitem__(self, index: ExprLike | tuple[ExprLike, ...]) -> "Expr":
        return load(self, index if isinstance(index, tuple) else (index,))

    @property
    def rank(self) -> int:
        return len(self.shape)

    def numel(self) -> "Expr":
        return product(self.shape)

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Extent:
    """Payload of an axis: unique name and trip count."""

    name: str
    extent: "Expr" = field(compare=False)


class Expr:
    """An interned expression node; build through the functions of this module, never directly."""

    __slots__ = ("__weakref__", "_axes", "_order", "_text", "args", "dtype", "op", "value")
    _axes: "frozenset[Expr] | None"
    _order: str | None
    _text: str | None
    op: str
    args: tuple["Expr", ...]
    dtype: DType
    value: Any

    def __add__(self, o: ExprLike) -> "Expr": return binary("add", self, o)
    def __radd__(self, o: ExprLike) -> "Expr": return binary("add", o, self)
    def __sub__(self, o: ExprLike) -> "Expr": return binary("sub", self, o)
    def __rsub__(self, o: ExprLike) -> "Expr": return binary("sub", o, self)
    def __mul__(self, o: ExprLike) -> "Expr": return binary("mul", self, o)
    def __rmul__(self, o: ExprLike) -> "Expr": return binary("mul", o, self)
    def __truediv__(self, o: ExprLike) -> "Expr": return binary("div", self, o)
    def __rtruediv__(self, o: ExprLike) -> "Expr": return binary("div", o, self)
    def __floordiv__(self, o: ExprLike) -> "Expr": return binary("floordiv", self, o)
    def __rfloordiv__(self, o: ExprLike) -> "Expr": return binary("floordiv", o, self)
    def __mod__(self, o: ExprLike) -> "Expr": return binary("mod", self, o)
    def __neg__(self) -> "Expr": return unary("neg", self)
    def __and__(self, o: ExprLike) -> "Expr": return binary("and", self, o)
    def __or__(self, o: ExprLike) -> "Expr": return binary("or", self, o)
    def __lt__(self, o: ExprLike) -> "Expr": return binary("lt", self, o)
    def __le__(self, o: ExprLike) -> "Expr": return binary("le", self, o)
    def __gt__(self, o: ExprLike) -> "Expr": return binary("lt", o, self)
    def __ge__(self, o: ExprLike) -> "Expr": return binary("le", o, self)

    @property
    def is_const(self) -> bool:
        return self.op == "const"

    @property
    def axes(self) -> frozenset["Expr"]:
        """The loop axes on which the value depends (reduced axes excluded)."""
        if self._axes is None:
            if self.op == "axis":
                found = frozenset((self,))
            else:
                found = frozenset().union(*(a.axes for a in children(self)))
                if self.op == "reduce":
                    found -= frozenset(reduce_axes(self))
            self._axes = found
        return self._axes

    @property
    def extent(self) -> "Expr":
        """Trip count of an axis."""
        assert self.op == "axis"
        return self.value.extent

    @property
    def text(self) -> str:
        """Canonical spelling; very long ones are cut to the operator and a digest."""
        if self._text is None:
            spelled = _spell(self)
            self._text = spelled if len(spelled) <= LONGEST_TEXT else f"{self.op}#{self.order}"
        return self._text

    @property
    def order(self) -> str:
        """Short spelling that depends on structure alone: the order in which commutative operands stand."""
        if self._order is None:
            if not children(self):
                self._order = _spell(self)
            else:
                payload: list[object] = [(k, [a.order for a in m]) for m, k in self.value] if self.op == "poly" else [a.order for a in self.args]
                if self.op == "load":
                    payload = [load_tensor(self).name, load_fill(self), payload]
                elif self.op == "reduce":
                    payload = [reduce_kind(self), [a.order for a in reduce_axes(self)], payload]
                self._order = f"{self.op}~{hashlib.sha1(repr((self.dtype.short, payload)).encode()).hexdigest()[:12]}"
        return self._order

    def __repr__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of a symbolic expression is not known when compiling: {self.text}; use where() or prove_*")


_TABLE: "weakref.WeakValueDictionary[tuple, Expr]" = weakref.WeakValueDictionary()
_LOCK = threading.Lock()
_COUNTER = itertools.count()


def make(op: str, args: tuple[Expr, ...], dtype: DType, value: object = None) -> Expr:
    """Intern a node as it stands, without simplification."""
    key_value = ("f", np.float64(value).tobytes()) if isinstance(value, float) else value
    key = (op, args, dtype.code, type(value) is bool, key_value)
    with _LOCK:
        found = _TABLE.get(key)
        if found is None:
            found = object.__new__(Expr)
            found.op, found.args, found.dtype, found.value = op, args, dtype, value
            found._axes = None
            found._order = None
            found._text = None
            _TABLE[key] = found
    return found


def children(e: Expr) -> tuple[Expr, ...]:
    """Sub-expressions, also those inside an integer polynomial."""
    if e.op == "poly":
        return tuple(dict.fromkeys(a for mono, _ in e.value for a in mono))
    return e.args


# ---------------------------------------------------------------------------------------------------------------- leaves
def const(value: Scalar, dtype: DType = dt.int64) -> Expr:
    """A constant, rounded or wrapped to `dtype` (bfloat16 and narrower floats keep their float value)."""
    if dtype.kind == "bool":
        value = bool(value)
    elif dtype.is_integer:
        value = int(value)
        span = 1 << dtype.bits
        value %= span
        if dtype.kind == "int" and value >= span >> 1:
            value -= span
    elif dtype.is_float:
        value = float(np.asarray(value, np.float64).astype(dtype.numpy)) if dtype.bits < 64 else float(value)
    return make("const", (), dtype, value)


def sym(name: str, minimum: int = 0) -> Expr:
    """A symbolic size. `minimum` is what simplification may assume: an input may well be empty."""
    return make("sym", (), dt.int64, (name, minimum))


LONG_SIZE = 320  # characters of a size beyond which it gets a name of its own


def shorten(e: Expr) -> Expr:
    """A size under a short name, where its spelling is long: a symbol that knows its definition (its one operand), but is taken as a whole.

    Sizes of one model build on each other; without names their spellings would double from node to node.
    """
    if e.dtype is not dt.int64 or e.is_const or len(e.text) <= LONG_SIZE:
        return e
    name = "?~" + hashlib.sha1(e.text.encode()).hexdigest()[:12]
    return make("sym", (e,), dt.int64, (name, 1 if integer.prove_positive(e) else 0))


def axis(extent: ExprLike, name: str = "i") -> Expr:
    """A fresh loop axis running over 0 <= axis < extent."""
    e = as_expr(extent)
    return make("axis", (), dt.int64, Extent(f"{name}{next(_COUNTER)}", e))


def acc(dtype: DType) -> Expr:
    """The accumulator of the enclosing contraction."""
    return make("acc", (), dtype)


def as_expr(value: ExprLike, dtype: DType = dt.int64) -> Expr:
    return value if isinstance(value, Expr) else const(value, dtype)


def load(tensor: Tensor, index: Sequence[ExprLike], fill: Scalar | None = None) -> Expr:
    """Element `tensor[index]`; with `fill`, that constant where an index is out of range."""
    if len(index) != len(tensor.shape):
        raise ValueError(f"{tensor.name} has rank {len(tensor.shape)}, {len(index)} indices were given")
    if fill is not None:
        fill = const(fill, tensor.dtype).value
    return make("load", tuple(as_expr(i) for i in index), tensor.dtype, (tensor, fill))


def load_tensor(e: Expr) -> Tensor:
    return e.value[0]


def load_fill(e: Expr) -> Scalar | None:
    return e.value[1]


def reduce(kind: str, axes: Sequence[Expr], body: Expr) -> Expr:
    """Reduction of `body` over `axes`."""
    assert kind in REDUCTIONS, kind
    if not axes:
        return const(0) if kind.startswith("arg") else body
    return make("reduce", (body,), dt.int64 if kind.startswith("arg") else body.dtype, (kind, tuple(axes)))


def reduce_kind(e: Expr) -> str:
    return e.value[0]


def reduce_axes(e: Expr) -> tuple[Expr, ...]:
    return e.value[1]


# ------------------------------------------------------------------------------------------------------------ operators
def unary(op: str, a: ExprLike) -> Expr:
    a = as_expr(a)
    out = dt.boolean if op in PREDICATES else a.dtype
    if a.is_const:
        return const(fold(op, (a.value,), a.dtype), out)
    if a.dtype is dt.int64:
        if op == "neg":
            return binary("mul", a, -1)
        if op in ("floor", "ceil", "round", "trunc"):
            return a
    if op == "not" and a.op == "not":
        return a.args[0]
    return make(op, (a,), out)


def binary(op: str, a: ExprLike, b: ExprLike) -> Expr:
    if not isinstance(a, Expr):
        a = const(a, b.dtype if isinstance(b, Expr) else dt.int64)
    if not isinstance(b, Expr):
        b = const(b, a.dtype)
    if a.dtype is not b.dtype:
        raise TypeError(f"{op}: operands of {a.dtype} and {b.dtype}; cast one of them")
    out = dt.boolean if op in PREDICATES else a.dtype
    if a.is_const and b.is_const:
        return const(fold(op, (a.value, b.value), a.dtype), out)
    if a.dtype is dt.int64:
        simpler = integer.simplify(op, a, b)
        if simpler is not None:
            return simpler
    elif a.dtype is dt.boolean:
        for x, y in ((a, b), (b, a)):
            if x.is_const and op in ("and", "or"):
                return (y if x.value else x) if op == "and" else (x if x.value else y)
        if a is b and op in ("and", "or"):
            return a
    elif a.dtype.is_float or a.dtype.is_integer:
        # x * 1, x / 1, x + 0 -> x   for floats x + 0 only where the constant is -0.0, which keeps the sign of x
        if b.is_const and ((b.value == 1 and op in ("mul", "div")) or (op == "sub" and _is_positive_zero(b.value))):
            return a
        if a.is_const and a.value == 1 and op == "mul":
            return b
    return make(op, (a, b), out)


def _is_positive_zero(v: object) -> bool:
    return v == 0 and math.copysign(1.0, v) > 0


def where(c: ExprLike, a: ExprLike, b: ExprLike) -> Expr:
    """`a` where `c` holds, else `b`."""
    c = as_expr(c, dt.boolean)
    if not isinstance(a, Expr):
        a = const(a, b.dtype if isinstance(b, Expr) else dt.int64)
    if not isinstance(b, Expr):
        b = const(b, a.dtype)
    if a.dtype is not b.dtype:
        raise TypeError(f"where: branches of {a.dtype} and {b.dtype}")
    if c.is_const:
        return a if c.value else b
    if c.op == "eq" and a.dtype is dt.int64 and a is not b:
        a = integer.where_equal(c.args[0], c.args[1], a, b)
    return a if a is b else make("where", (c, a, b), a.dtype)


def cast(a: ExprLike, dtype: DType, saturate: bool = True) -> Expr:
    """Value conversion. Float to integer truncates and keeps the low bits; float to a float8 type saturates if asked; anything to bool is `!= 0`."""
    a = as_expr(a)
    if a.dtype is dtype:
        return a
    if a.is_const and dtype.is_numeric and dtype.kind != "complex" and a.dtype.kind != "complex" and (dtype.bits >= 16 or not dtype.is_float):
        if not (a.dtype.is_float and dtype.is_integer) or abs(a.value) < 2**31:
            return const(int(a.value) if dtype.is_integer else a.value, dtype)
    return make("cast", (a,), dtype, saturate)


def bitcast(a: Expr, dtype: DType) -> Expr:
    assert a.dtype.bits == dtype.bits
    return a if a.dtype is dtype else make("bitcast", (a,), dtype)


def minimum(a: ExprLike, b: ExprLike) -> Expr: return binary("min", a, b)
def maximum(a: ExprLike, b: ExprLike) -> Expr: return binary("max", a, b)
def equal(a: ExprLike, b: ExprLike) -> Expr: return binary("eq", a, b)
def not_equal(a: ExprLike, b: ExprLike) -> Expr: return binary("ne", a, b)
def logical_and(a: ExprLike, b: ExprLike) -> Expr: return binary("and", as_expr(a, dt.boolean), as_expr(b, dt.boolean))
def logical_or(a: ExprLike, b: ExprLike) -> Expr: return binary("or", as_expr(a, dt.boolean), as_expr(b, dt.boolean))
def logical_not(a: ExprLike) -> Expr: return unary("not", as_expr(a, dt.boolean))
def ceildiv(a: ExprLike, b: ExprLike) -> Expr: return (as_expr(a) + as_expr(b) - 1) // as_expr(b)


def product(items: Iterable[ExprLike]) -> Expr:
    out: Expr = const(1)
    for i in items:
        out = out * i
    return out


def total(items: Iterable[ExprLike]) -> Expr:
    out: Expr = const(0)
    for i in items:
        out = out + i
    return out


def linear_index(index: Sequence[ExprLike], shape: Sequence[ExprLike]) -> Expr:
    """Row-major position of `index` in `shape`."""
    out: Expr = const(0)
    for i, n in zip(index, shape, strict=True):
        out = out * n + i
    return out


def unravel(position: ExprLike, shape: Sequence[ExprLike]) -> tuple[Expr, ...]:
    """Row-major coordinates of `position` in `shape` (the first coordinate needs no remainder)."""
    out: list[Expr] = []
    position = as_expr(position)
    for k in range(len(shape) - 1, 0, -1):
        out.append(position % shape[k])
        position = position // shape[k]
    if shape:
        out.append(position)
    return tuple(reversed(out))


def decay(x: Expr) -> Expr:
    """e^x for x <= 0, as softmax weighs its elements: what would be smaller than the smallest normal number is zero, since processors are slow with such results."""
    least = -708.3 if x.dtype is dt.float64 else -87.3
    negligible = x < least
    return where(negligible, 0.0, unary("exp", where(negligible, least, x)))


# ------------------------------------------------------------------------------------------------------------- traversal
def walk(roots: Expr | Iterable[Expr]) -> Iterator[Expr]:
    """Every distinct node below `roots`, operands before users."""
    stack: list[tuple[Expr, bool]] = [(r, False) for r in ([roots] if isinstance(roots, Expr) else list(roots))]
    seen: set[Expr] = set()
    while stack:
        e, ready = stack.pop()
        if ready:
            yield e
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            stack.extend((c, False) for c in children(e))


def loads(roots: Expr | Iterable[Expr]) -> list[Expr]:
    """The distinct loads below `roots`, in the order of `walk`."""
    if isinstance(roots, Expr):
        return list(below(roots, _LOADS))
    return list(dict.fromkeys(e for r in reversed(list(roots)) for e in below(r, _LOADS)))


_LOADS = frozenset(("load",))


@functools.lru_cache(maxsize=1 << 16)
def below(root: Expr, ops: frozenset[str]) -> tuple[Expr, ...]:
    """The distinct nodes of these operators at and below `root`, in the order of `walk`; remembered."""
    return tuple(e for e in walk(root) if e.op in ops)


def rebuild(e: Expr, args: Sequence[Expr]) -> Expr:
    """The node `e` with other operands, simplified again."""
    if e.op == "load":
        return load(load_tensor(e), args, load_fill(e))
    if e.op == "reduce":
        return reduce(reduce_kind(e), reduce_axes(e), args[0])
    if e.op == "cast":
        return cast(args[0], e.dtype, e.value)
    if e.op == "bitcast":
        return bitcast(args[0], e.dtype)
    if e.op == "where":
        return where(*args)
    if e.op == "sym":
        return args[0] if args[0].op in ("const", "sym") else shorten(args[0])
    if e.op in UNARY:
        return unary(e.op, args[0])
    return binary(e.op, args[0], args[1])


def transform(roots: Sequence[Expr], visit: Callable[[Expr], Expr | None]) -> list[Expr]:
    """Rewrite bottom-up. `visit` sees each node with its operands already rewritten and may return a replacement."""
    done: dict[Expr, Expr] = {}
    for e in walk(roots):
        if e.op == "poly":
            new = integer.evaluate(e, done)
        elif e.args:
            args = tuple(done[a] for a in e.args)
            new = e if args == e.args else rebuild(e, args)
        else:
            new = e
        replaced = visit(new)
        done[e] = new if replaced is None else replaced
    return [done[r] for r in roots]


def substitute(roots: Sequence[Expr], mapping: Mapping[Expr, Expr]) -> list[Expr]:
    """Replace leaves (axes, symbols, accumulators) or whole nodes by other expressions."""
    if not mapping:
        return list(roots)
    return transform(roots, mapping.get)


def substitute_one(e: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    return substitute([e], mapping)[0]


def fresh_reductions(e: Expr) -> Expr:
    """The same value with reduced axes renamed, so that one expression may stand twice in a nest under different bindings."""
    def visit(n: Expr) -> Expr | None:
        if n.op != "reduce":
            return None
        renamed = {a: axis(a.extent, "r") for a in reduce_axes(n)}
        return reduce(reduce_kind(n), tuple(renamed.values()), substitute_one(n.args[0], renamed))
    return transform([e], visit)[0]


def _spell(e: Expr) -> str:
    if e.op == "const":
        return repr(e.value) if e.dtype is dt.int64 or e.dtype is dt.boolean else f"{e.dtype.short}({e.value!r})"
    if e.op == "sym":
        return e.value[0]
    if e.op == "axis":
        return e.value.name
    if e.op == "acc":
        return "acc"
    if e.op == "poly":
        out = ""
        for mono, k in e.value:
            term = "*".join(([] if k in (1, -1) and mono else [str(abs(k))]) + [m.text for m in mono])
            out += (" - " if k < 0 else " + ") + term if out else ("-" if k < 0 else "") + term
        return f"({out})"
    if e.op == "load":
        fill = "" if load_fill(e) is None else f" else {load_fill(e)!r}"
        return f"%{load_tensor(e).name}[{', '.join(a.text for a in e.args)}{fill}]"
    if e.op == "reduce":
        return f"{reduce_kind(e)}({', '.join(f'{a.text}<{a.extent.text}' for a in reduce_axes(e))}: {e.args[0].text})"
    if e.op in ("cast", "bitcast"):
        return f"{'' if e.op == 'cast' else 'bits_'}{e.dtype.short}({e.args[0].text})"
    return f"{e.op}({', '.join(a.text for a in e.args)})"


# --------------------------------------------------------------------------------------------------------------- folding
def fold(op: str, args: tuple[Scalar, ...], dtype: DType) -> Scalar:
    """The value of an operator on constants, computed as the kernel would: NumPy in the compute type of `dtype`."""
    if dtype is dt.int64 and op in _WHOLE:
        return _WHOLE[op](*args)
    kind = dt.compute_type(dtype).numpy
    with np.errstate(all="ignore"):
        return evaluate_op(op, [np.asarray(a, kind) for a in args]).item()


# Operators on whole numbers that need no array; `const` wraps what they give.
_WHOLE: dict[str, Callable[..., int | bool]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "min": min, "max": max, "neg": operator.neg, "abs": abs,
    "floordiv": lambda a, b: a // b if b else 0, "mod": lambda a, b: a % b if b else 0,
    "lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne,
}


def evaluate_op(op: str, a: Sequence[np.ndarray]) -> np.ndarray:
    """Meaning of every unary, binary and `where` operator on NumPy arrays: the definition that kernels are held against."""
    return _MEANING[op](*a)


def _truncated_div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "fc":
        return np.true_divide(x, y)
    safe = np.where(y == 0, np.ones_like(y), y)
    q = np.floor_divide(x, safe)
    if x.dtype.kind == "i":
        q = q + ((np.remainder(x, safe) != 0) & ((x < 0) != (safe < 0)))
    return np.where(y == 0, np.zeros_like(x), q).astype(x.dtype)


def _safe(f: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Integer division and remainder by zero give zero, as the kernels do."""
    def g(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind in "fc":
            return f(x, y)
        return np.where(y == 0, np.zeros_like(x), f(x, np.where(y == 0, np.ones_like(y), y))).astype(x.dtype)
    return g


@functools.cache
def _erf_table() -> tuple[np.ndarray, np.ndarray]:
    """erf and its slope at multiples of 1/128 from -6 to 6."""
    points = np.arange(-768, 769) / 128
    return np.array([math.erf(p) for p in points]), 2 / math.sqrt(math.pi) * np.exp(-points * points)


def _erf(x: np.ndarray) -> np.ndarray:
    """Taylor's series about the nearest multiple of 1/128, to the last bits of float64."""
    values, slopes = _erf_table()
    wide = np.clip(np.where(np.isnan(x), 0, x).astype(np.float64), -6, 6)
    k = np.rint(wide * 128).astype(np.int64)
    p = k / 128
    d = wide - p
    pp = p * p
    series = d * (1 + d * (-p + d * ((2 * pp - 1) / 3 + d * (p * (3 - 2 * pp) / 6 + d * ((4 * pp - 12) * pp + 3) / 30))))
    found = values[k + 768] + slopes[k + 768] * series
    return np.where(np.isnan(x), np.nan, np.copysign(found, x)).astype(x.dtype)  # erf(-0) is -0


def _sigmoid(x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    return (1 / (1 + np.exp(-wide))).astype(x.dtype)


def _power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "iu":
        negative = y < 0 if y.dtype.kind == "i" else np.zeros(y.shape, bool)
        whole = np.power(x, np.where(negative, np.zeros_like(y), y))
        inverse = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0)) if x.dtype.kind == "i" else np.zeros_like(x)
        return np.where(negative, inverse, whole).astype(x.dtype)
    return np.power(x, y)


def _shift_left(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bits = x.dtype.itemsize * 8
    return np.where(y >= bits, np.zeros_like(x), np.left_shift(x, np.minimum(y, bits - 1))).astype(x.dtype)


def _shift_right(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bits = x.dtype.itemsize * 8
    return np.where(y >= bits, np.zeros_like(x), np.right_shift(x, np.minimum(y, bits - 1))).astype(x.dtype)


_MEANING: dict[str, Callable[..., np.ndarray]] = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    "sqrt": np.sqrt, "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype), "exp": np.exp, "exp2": np.exp2, "log": np.log, "log1p": np.log1p,
    "expm1": np.expm1, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": _erf,
    "sigmoid": _sigmoid, "isnan": np.isnan, "isinf": np.isinf, "not": np.logical_not, "bitnot": np.invert,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _truncated_div, "mod": _safe(np.remainder), "rem": _safe(np.fmod),
    "floordiv": _safe(np.floor_divide), "pow": _power, "min": np.minimum, "max": np.maximum, "atan2": np.arctan2,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
    "bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor, "shl": _shift_left, "shr": _shift_right,
    "where": np.where,
}

from . import integer  # noqa: E402  (integer builds on the nodes above)
