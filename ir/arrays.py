"""Expressions on NumPy arrays: the meaning of `ir.expr`, evaluated over whole axes at once.

`evaluate` is the definition, short and slow. `Grid` gives the same values fast: every value is an array with one dimension per axis that it depends on;
element loads are strided views where their index is affine, padded copies where a fill value is needed, gathers otherwise; sums of products are
matrix products.

Values are held in the *computing form* of their element type: narrow floats as float32, sub-byte integers as bytes, all others as they are.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import dtypes as dt
from . import expr as ex
from .dtypes import DType
from .errors import ModelError
from .expr import Expr, Tensor

PAD_ELEMS = 1 << 25  # the largest padded copy of an operand


# ------------------------------------------------------------------------------------------------------------ element types
def computing_dtype(dtype: DType) -> np.dtype:
    """The NumPy type in which values of `dtype` are held while computing."""
    if dtype.is_integer and dtype.bits < 8:
        return np.dtype(np.int8 if dtype.kind == "int" else np.uint8)
    return dt.compute_type(dtype).numpy


def wrap(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Sub-byte integers reduced to their range, held as bytes."""
    if not dtype.is_integer or dtype.bits >= 8:
        return array
    low = np.bitwise_and(array, (1 << dtype.bits) - 1)
    if dtype.kind == "int":
        low = np.where(low >= 1 << (dtype.bits - 1), low - (1 << dtype.bits), low)
    return low.astype(computing_dtype(dtype), copy=False)


def to_storage(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Round or narrow values in computing form to the element type's own array type."""
    if array.dtype == dtype.numpy:
        return array
    return array.astype(dtype.numpy)


def convert(array: np.ndarray, source: DType, target: DType, saturate: bool = True) -> np.ndarray:
    """The `cast` operator on values in computing form.

    Floats go to integers by truncation, through int32 where that holds the type, else through int64 (what these cannot hold, and NaN, becomes their least
    value), and keep the low bits, as on x86 processors; to float8 types with saturation to the largest finite
    value if asked, else to the type's NaN or infinity; anything to bool is `!= 0`.
    """
    if source is target:
        return array
    with np.errstate(all="ignore"):
        return _converted(array, source, target, saturate)


def _converted(array: np.ndarray, source: DType, target: DType, saturate: bool) -> np.ndarray:
    if target is dt.boolean:
        return array != 0
    if target.is_integer:
        if source.is_float:
            upper = (array >= 2.0**63) & (target.kind == "uint") & (target.bits == 64)
            bits = 32 if target.bits < 32 or target is dt.int32 else 64
            inside = (array >= -2.0 ** (bits - 1)) & (array < 2.0 ** (bits - 1))
            whole = np.where(inside, np.where(inside, array, 0).astype(np.int64), -(2 ** (bits - 1)))
            high = np.where(upper & (array < 2.0**64), array, 2.0**63).astype(np.uint64)
            array = np.where(upper, high, whole.astype(np.uint64)) if target is dt.uint64 else whole
        return wrap(array if target.bits < 8 else array.astype(target.numpy), target)
    if not target.is_float or target.bits >= 32:
        return array.astype(target.numpy)
    if target.bits <= 8 and target is not dt.float8e8m0 and saturate:
        import ml_dtypes

        top = float(ml_dtypes.finfo(target.numpy).max)
        array = np.clip(array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32), -top, top)
    return array.astype(target.numpy).astype(computing_dtype(target))


def bitcast(array: np.ndarray, source: DType, target: DType) -> np.ndarray:
    """The `bitcast` operator on values in computing form."""
    stored = np.ascontiguousarray(to_storage(array, source)).reshape(array.shape)
    return stored.view(target.numpy).astype(computing_dtype(target), copy=False)


def apply(e: Expr, args: Sequence[np.ndarray]) -> np.ndarray:
    """One operator node on arrays in computing form that broadcast against each other."""
    if e.op == "cast":
        return convert(args[0], e.args[0].dtype, e.dtype, bool(e.value))
    if e.op == "bitcast":
        return bitcast(args[0], e.args[0].dtype, e.dtype)
    return wrap(np.asarray(ex.evaluate_op(e.op, args)).astype(computing_dtype(e.dtype), copy=False), e.dtype)


def reduce_array(kind: str, array: np.ndarray, dims: tuple[int, ...], dtype: DType) -> np.ndarray:
    """Reduce dimensions of an array; float sums and products are accumulated in float64, the empty maximum is the smallest value."""
    if kind.startswith("arg"):
        assert len(dims) == 1, "the position of an extremum is taken along one axis"
        pick = np.argmax if "max" in kind else np.argmin
        n = array.shape[dims[0]]
        if not n:
            return np.zeros([d for k, d in enumerate(array.shape) if k != dims[0]], np.int64)
        if kind.endswith("_last"):
            return n - 1 - pick(np.flip(array, dims[0]), axis=dims[0]).astype(np.int64)
        return np.asarray(pick(array, axis=dims[0]), np.int64)
    out = computing_dtype(dtype)
    if kind in ("sum", "prod"):
        wide = np.dtype(np.float64) if dtype.is_float else out
        result = (np.sum if kind == "sum" else np.prod)(array, axis=dims, dtype=wide)
        return wrap(np.asarray(result).astype(out, copy=False), dtype)
    if kind in ("any", "all"):
        return np.asarray((np.any if kind == "any" else np.all)(array, axis=dims))
    if math.prod(array.shape[d] for d in dims):
        return np.asarray((np.max if kind == "max" else np.min)(array, axis=dims))
    return np.full([d for k, d in enumerate(array.shape) if k not in dims], extreme(dtype, kind == "min"), out)


def extreme(dtype: DType, largest: bool) -> int | float | bool:
    """The largest or smallest value of an element type: the identity of min or max."""
    if dtype is dt.boolean:
        return largest
    if dtype.is_float:
        return math.inf if largest else -math.inf
    if dtype.kind == "uint":
        return (1 << dtype.bits) - 1 if largest else 0
    return (1 << (dtype.bits - 1)) - 1 if largest else -(1 << (dtype.bits - 1))


# --------------------------------------------------------------------------------------------------------------- definition
def evaluate(e: Expr, bindings: Mapping[Expr, object] | None = None, arrays: Mapping[Tensor, np.ndarray] | None = None,
             sizes: Mapping[str, int] | None = None) -> np.ndarray:
    """The value of an expression by its definition: no shortcut, reductions term by term.

    Args:
        bindings: values of axes, symbols or accumulators: numbers, or arrays that broadcast against each other, in computing form.
        arrays: elements of the tensors that are loaded.
        sizes: values of symbolic sizes by name.

    Returns:
        An array in computing form, of the broadcast shape of what the value depends on.

    Raises:
        ModelError: a leaf has no value.
    """
    env: dict[Expr, np.ndarray] = {k: np.asarray(v, computing_dtype(k.dtype)) for k, v in (bindings or {}).items()}
    with np.errstate(all="ignore"):
        return _evaluate(e, env, arrays or {}, sizes or {})


def _evaluate(root: Expr, env: Mapping[Expr, np.ndarray], arrays: Mapping[Tensor, np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
    memo: dict[Expr, np.ndarray] = dict(env)
    stack = [root]
    while stack:
        e = stack[-1]
        if e in memo:
            stack.pop()
            continue
        operands = () if e.op == "reduce" else ex.children(e)
        missing = [a for a in operands if a not in memo]
        if missing:
            stack += missing
            continue
        if e.op == "const":
            value = constant_array(e)
        elif e.op == "sym" and e.args:
            value = memo[e.args[0]]
        elif e.op == "sym":
            if e.value[0] not in sizes:
                raise ModelError(f"the size {e.value[0]} has no value", hint="give it in `sizes`")
            value = np.asarray(sizes[e.value[0]], np.int64)
        elif e.op in ("axis", "acc"):
            raise ModelError(f"{e.text} has no value here")
        elif e.op == "poly":
            value = polynomial(e, memo)
        elif e.op == "load":
            value = _gather(e, [memo[i] for i in e.args], arrays)
        elif e.op == "reduce":
            value = _reduce_by_definition(e, env, arrays, sizes)
        else:
            value = apply(e, [memo[a] for a in e.args])
        memo[e] = value
        stack.pop()
    return memo[root]


def constant_array(e: Expr) -> np.ndarray:
    return np.asarray(e.value, computing_dtype(e.dtype))


def polynomial(e: Expr, values: Mapping[Expr, np.ndarray]) -> np.ndarray:
    """An integer polynomial on the arrays of its atoms."""
    out: np.ndarray = np.zeros((), np.int64)
    for mono, k in e.value:
        term = np.asarray(k, np.int64)
        for atom in mono:
            term = term * values[atom]
        out = out + term
    return out


def elements_of(e: Expr, arrays: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    """The array of the tensor that a load reads."""
    t = ex.load_tensor(e)
    found = arrays.get(t)
    if found is None:
        raise ModelError(f"%{t.name} is read before it is computed")
    if found.ndim != t.rank:
        raise ModelError(f"%{t.name} has rank {t.rank}, its array has shape {found.shape}")
    return found


def _gather(e: Expr, index: Sequence[np.ndarray], arrays: Mapping[Tensor, np.ndarray]) -> np.ndarray:
    """Elements at broadcast index arrays; out of range the fill value, or anything where there is none (a `where` does not choose it)."""
    x, fill = elements_of(e, arrays), ex.load_fill(e)
    kind = computing_dtype(e.dtype)
    if not index:
        return x.astype(kind, copy=False)
    inside: np.ndarray = np.ones((), bool)
    for i, n in zip(index, x.shape, strict=True):
        inside = inside & (i >= 0) & (i < n)
    if not x.size:
        return np.full(inside.shape, fill or 0, kind)
    found = x[tuple(np.clip(i, 0, n - 1) for i, n in zip(index, x.shape, strict=True))].astype(kind, copy=False)
    return found if fill is None else np.where(inside, found, np.asarray(fill, kind))


def _reduce_by_definition(e: Expr, env: Mapping[Expr, np.ndarray], arrays: Mapping[Tensor, np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
    axes = ex.reduce_axes(e)
    extents = [max(0, int(_evaluate(a.extent, env, arrays, sizes))) for a in axes]
    terms = [_evaluate(e.args[0], {**env, **{a: np.asarray(p, np.int64) for a, p in zip(axes, point, strict=True)}}, arrays, sizes)
             for point in itertools.product(*map(range, extents))]
    if not terms:
        terms_array = np.zeros((0,), computing_dtype(e.args[0].dtype))
    else:
        terms_array = np.stack(np.broadcast_arrays(*terms))
    return reduce_array(ex.reduce_kind(e), terms_array, (0,), e.args[0].dtype)


# ------------------------------------------------------------------------------------------------------------------- ranges
def affine_terms(e: Expr) -> tuple[dict[Expr, int], int] | None:
    """({axis: coefficient}, offset) of an index with constant coefficients, else None."""
    if e.op == "const":
        return {}, e.value
    if e.op == "axis":
        return {e: 1}, 0
    if e.op != "poly":
        return None
    factors: dict[Expr, int] = {}
    offset = 0
    for mono, k in e.value:
        if not mono:
            offset = k
        elif len(mono) == 1 and mono[0].op == "axis":
            factors[mono[0]] = k
        else:
            return None
    return factors, offset


def interval(e: Expr, extents: Mapping[Expr, int]) -> tuple[int, int] | None:
    """Bounds of an index for axes running over their full extents (none of them empty), or None where nothing is known."""
    if e.op == "const":
        return (e.value, e.value) if e.dtype.is_integer else None
    if e.op == "axis":
        return 0, extents[e] - 1
    if e.op == "poly":
        low = high = 0
        for mono, k in e.value:
            a, b = k, k
            for atom in mono:
                r = interval(atom, extents)
                if r is None:
                    return None
                products = [a * r[0], a * r[1], b * r[0], b * r[1]]
                a, b = min(products), max(products)
            low, high = low + a, high + b
        return low, high
    if e.op in ("floordiv", "mod"):
        n = e.args[1].value if e.args[1].is_const else 0
        r = interval(e.args[0], extents)
        if n <= 0:
            return None
        if e.op == "mod":
            return r if r is not None and r[0] >= 0 and r[1] < n else (0, n - 1)
        return None if r is None else (r[0] // n, r[1] // n)
    if e.op in ("min", "max"):
        p, q = interval(e.args[0], extents), interval(e.args[1], extents)
        if p is None or q is None:
            return None
        f = min if e.op == "min" else max
        return f(p[0], q[0]), f(p[1], q[1])
    if e.op == "where":
        p, q = interval(e.args[1], extents), interval(e.args[2], extents)
        return None if p is None or q is None else (min(p[0], q[0]), max(p[1], q[1]))
    return None


# --------------------------------------------------------------------------------------------------------------------- grid
class Spread(NamedTuple):
    """Values over axes: one dimension per axis, in the grid's order."""

    axes: tuple[Expr, ...]
    array: np.ndarray


@dataclass(frozen=True)
class View:
    """A load as a strided window: element at `offset + sum(factor * axis)` of `base`, dimension by dimension."""

    base: np.ndarray
    factors: tuple[dict[Expr, int], ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Take:
    """A load as a gather: index values for some dimensions, whole slices along bare axes for the others."""

    gathered: tuple[int, ...]
    sliced: tuple[int, ...]


class Grid:
    """Values of expressions over a box of axes with constant extents.

    Args:
        axes: axes of the nest, then those of its reductions, in the order of dimensions.
        extents: trip count of each axis.
        arrays: elements of the tensors.
    """

    def __init__(self, axes: Sequence[Expr], extents: Mapping[Expr, int], arrays: Mapping[Tensor, np.ndarray]) -> None:
        self.position = {a: k for k, a in enumerate(axes)}
        self.extents = dict(extents)
        self.ranges = {a: (0, n) for a, n in extents.items()}
        self.arrays = arrays
        self.memo: dict[Expr, Spread] = {}
        self.plans: dict[Expr, View | Take] = {}

    # ---- evaluation
    def bind(self, e: Expr, spread: Spread) -> None:
        """Give a leaf its value."""
        self.memo[e] = spread

    def restrict(self, axis: Expr, low: int, high: int) -> None:
        """Let an axis run over low <= axis < high only; what depended on it is forgotten."""
        if self.ranges[axis] != (low, high):
            self.ranges[axis] = (low, high)
            self.memo = {e: s for e, s in self.memo.items() if axis not in s.axes}

    def value(self, root: Expr) -> Spread:
        """The values of an expression over the present ranges."""
        stack = [root]
        while stack:
            e = stack[-1]
            if e in self.memo:
                stack.pop()
                continue
            operands = self.operands(e)
            missing = [a for a in operands if a not in self.memo]
            if missing:
                stack += missing
                continue
            self.memo[e] = self._compute(e, [self.memo[a] for a in operands])
            stack.pop()
        return self.memo[root]

    def operands(self, e: Expr) -> Sequence[Expr]:
        """The sub-expressions whose values are needed: none for strided loads, the factors for sums of products."""
        if e.op == "load":
            plan = self._plan(e)
            return [e.args[k] for k in plan.gathered] if isinstance(plan, Take) else ()
        if e.op == "reduce" and self.is_product_sum(e):
            return e.args[0].args
        return ex.children(e)

    def is_product_sum(self, e: Expr) -> bool:
        """Whether a reduction is worth doing as a matrix product: both factors have axes of their own that stay."""
        body = e.args[0]
        if ex.reduce_kind(e) != "sum" or body.op != "mul" or body.dtype.kind == "bool" or body.dtype.bits < 8:
            return False
        a, b = body.args[0].axes, body.args[1].axes
        reduced = frozenset(ex.reduce_axes(e))
        return bool(a - b - reduced) and bool(b - a - reduced) and bool(a & b & reduced)

    def elements(self, root: Expr) -> int:
        """Elements of all the values made for `root` over the present ranges: what chunking keeps small."""
        seen: set[Expr] = set()
        stack = [root]
        count = 0
        while stack:
            e = stack.pop()
            if e in seen:
                continue
            seen.add(e)
            if e.op == "load" and isinstance(self._plan(e), View) and computing_dtype(e.dtype) == ex.load_tensor(e).dtype.numpy:
                count += 1
            else:
                count += self.size(e.axes)
            if e.op == "reduce" and self.is_product_sum(e):
                count += sum(self.size(a.axes) for a in e.args[0].args)  # the factors as matrices
            stack += self.operands(e)
        return count

    def size(self, axes: frozenset[Expr] | Sequence[Expr]) -> int:
        """The number of points of a box over the present ranges."""
        return math.prod(self.length(a) for a in axes)

    def length(self, axis: Expr) -> int:
        low, high = self.ranges[axis]
        return max(0, high - low)

    def sort(self, axes: frozenset[Expr] | Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(sorted(axes, key=self.position.__getitem__))

    def align(self, spreads: Sequence[Spread]) -> tuple[tuple[Expr, ...], list[np.ndarray]]:
        """The union of the axes, and the arrays with dimensions of size 1 where they lack an axis."""
        axes = spreads[0].axes
        if all(s.axes == axes for s in spreads):
            return axes, [s.array for s in spreads]
        axes = self.sort(frozenset().union(*(s.axes for s in spreads)))
        return axes, [s.array[tuple(slice(None) if a in s.axes else None for a in axes)] for s in spreads]

    def _compute(self, e: Expr, args: Sequence[Spread]) -> Spread:
        if e.op == "const":
            return Spread((), constant_array(e))
        if e.op == "axis":
            return Spread((e,), np.arange(*self.ranges[e], dtype=np.int64))
        if e.op == "load":
            plan = self._plan(e)
            return self._view(e, plan) if isinstance(plan, View) else self._take(e, plan, args)
        if e.op == "reduce":
            return self.contract(args[0], args[1], ex.reduce_axes(e), e.dtype) if self.is_product_sum(e) else self._reduce(e, args[0])
        if not args:
            raise ModelError(f"{e.text} has no value here")
        axes, arrays = self.align(args)
        if e.op == "poly":
            return Spread(axes, polynomial(e, dict(zip(ex.children(e), arrays, strict=True))))
        return Spread(axes, apply(e, arrays))

    # ---- loads
    def _plan(self, e: Expr) -> View | Take:
        found = self.plans.get(e)
        if found is None:
            found = self.plans[e] = self._make_plan(e)
        return found

    def _make_plan(self, e: Expr) -> View | Take:
        x, fill = elements_of(e, self.arrays), ex.load_fill(e)
        if any(self.extents[a] <= 0 for a in e.axes):
            return View(np.zeros((1,) * x.ndim, x.dtype), tuple(dict.fromkeys(i.axes, 0) for i in e.args), (0,) * x.ndim)
        forms = [affine_terms(i) for i in e.args]
        bounds = [interval(i, self.extents) for i in e.args]
        inside = all(b is not None and b[0] >= 0 and b[1] < n for b, n in zip(bounds, x.shape, strict=True))
        if all(f is not None for f in forms):
            if inside:
                return View(x, tuple(f[0] for f in forms), tuple(f[1] for f in forms))
            if math.prod(b[1] - b[0] + 1 for b in bounds) <= max(PAD_ELEMS, 2 * x.size):
                return View(_padded(x, bounds, fill or 0), tuple(f[0] for f in forms), tuple(f[1] - b[0] for f, b in zip(forms, bounds, strict=True)))
        elif inside:
            flat = affine_terms(ex.linear_index(e.args, x.shape))
            if flat is not None:
                return View(np.ascontiguousarray(x).reshape(-1), (flat[0],), (flat[1],))
        bare = [i.op == "axis" and sum(i in other.axes for other in e.args) == 1 and self.extents[i] <= n for i, n in zip(e.args, x.shape, strict=True)]
        if all(bare):
            bare[0] = False
        return Take(tuple(k for k, b in enumerate(bare) if not b), tuple(k for k, b in enumerate(bare) if b))

    def _view(self, e: Expr, plan: View) -> Spread:
        axes = self.sort(e.axes)
        shape = [self.length(a) for a in axes]
        if 0 in shape:
            return Spread(axes, np.zeros(shape, computing_dtype(e.dtype)))
        base = plan.base
        start = [o + sum(k * self.ranges[a][0] for a, k in f.items()) for f, o in zip(plan.factors, plan.offsets, strict=True)]
        strides = [sum(f.get(a, 0) * s for f, s in zip(plan.factors, base.strides, strict=True)) for a in axes]
        place: tuple[slice | EllipsisType, ...] = (*(slice(s, s + 1) for s in start), ...)
        corner = base[place]
        raw = corner.view(np.uint8) if corner.dtype.itemsize == 1 else corner  # NumPy cannot describe every one-byte float to as_strided
        found = as_strided(raw, shape, strides, writeable=False).view(corner.dtype)
        return Spread(axes, found.astype(computing_dtype(e.dtype), copy=False))

    def _take(self, e: Expr, plan: Take, args: Sequence[Spread]) -> Spread:
        x, fill = elements_of(e, self.arrays), ex.load_fill(e)
        kind = computing_dtype(e.dtype)
        axes, index = self.align(args)
        inside: np.ndarray = np.ones((), bool)
        position: np.ndarray = np.zeros((), np.int64)
        for k, i in zip(plan.gathered, index, strict=True):
            n = x.shape[k]
            if fill is not None:
                inside = inside & (i >= 0) & (i < n)
            position = position * n + np.clip(i, 0, max(0, n - 1))
        along = tuple(e.args[k] for k in plan.sliced)
        windows = tuple(slice(*self.ranges[a]) for a in along)
        rows = x.transpose(plan.gathered + plan.sliced)[(slice(None),) * len(plan.gathered) + windows]
        rows = rows.reshape(-1, *rows.shape[len(plan.gathered):])
        shape = (*position.shape, *rows.shape[1:])
        if not len(rows):
            found = np.zeros(shape, kind)
            inside = np.zeros(position.shape, bool) if fill is not None else inside
        else:
            found = np.take(rows, position, axis=0).astype(kind, copy=False)
        if fill is not None:
            mask = inside.reshape(inside.shape + (1,) * len(along))
            found = np.where(mask, found, np.asarray(fill, kind))
        return self._sorted(axes + along, found)

    def _sorted(self, axes: tuple[Expr, ...], array: np.ndarray) -> Spread:
        wanted = self.sort(axes)
        return Spread(wanted, array if wanted == axes else array.transpose([axes.index(a) for a in wanted]))

    # ---- reductions
    def _spread_over(self, s: Spread, axes: Sequence[Expr]) -> Spread:
        """The same values with all of `axes` among the dimensions."""
        wanted = self.sort(frozenset(s.axes) | frozenset(axes))
        shaped = s.array[tuple(slice(None) if a in s.axes else None for a in wanted)]
        return Spread(wanted, np.broadcast_to(shaped, [self.length(a) for a in wanted]))

    def _reduce(self, e: Expr, body: Spread) -> Spread:
        reduced = ex.reduce_axes(e)
        s = self._spread_over(body, reduced)
        dims = tuple(k for k, a in enumerate(s.axes) if a in reduced)
        kept = tuple(a for a in s.axes if a not in reduced)
        return Spread(kept, reduce_array(ex.reduce_kind(e), s.array, dims, e.args[0].dtype))

    def contract(self, a: Spread, b: Spread, reduced: Sequence[Expr], dtype: DType) -> Spread:
        """Sum over `reduced` of a * b as a (batched) matrix product, in the type's computing form."""
        repeats = math.prod(self.length(x) for x in reduced if x not in a.axes and x not in b.axes)
        a, b = self._sum_alone(a, b, reduced, dtype), self._sum_alone(b, a, reduced, dtype)
        summed = [x for x in a.axes if x in reduced]
        batch = [x for x in a.axes if x in b.axes and x not in summed]
        rows = [x for x in a.axes if x not in b.axes]
        columns = [x for x in b.axes if x not in a.axes]
        result = _matmul(self._matrix(a, batch, rows, summed), self._matrix(b, batch, summed, columns), dtype)
        result = result.reshape([self.length(x) for x in (*batch, *rows, *columns)])
        if repeats != 1:
            result = (result * np.asarray(repeats, result.dtype)).astype(result.dtype, copy=False)
        return self._sorted((*batch, *rows, *columns), wrap(result, dtype))

    def _matrix(self, s: Spread, batch: Sequence[Expr], rows: Sequence[Expr], columns: Sequence[Expr]) -> np.ndarray:
        """The values as matrices [batch, rows, columns] (without the batch where there is none)."""
        array = s.array.transpose([s.axes.index(a) for a in (*batch, *rows, *columns)])
        lead = [self.size(batch)] if batch else []
        return array.reshape(*lead, self.size(rows), self.size(columns))

    def _sum_alone(self, s: Spread, other: Spread, reduced: Sequence[Expr], dtype: DType) -> Spread:
        """Sum over the reduced axes that only this factor has."""
        dims = tuple(k for k, x in enumerate(s.axes) if x in reduced and x not in other.axes)
        if not dims:
            return s
        return Spread(tuple(x for k, x in enumerate(s.axes) if k not in dims), reduce_array("sum", s.array, dims, dtype))


def _padded(x: np.ndarray, bounds: Sequence[tuple[int, int]], fill: object) -> np.ndarray:
    """Elements low <= index <= high of each dimension, `fill` where that is outside the array."""
    out = np.full([high - low + 1 for low, high in bounds], fill, x.dtype)
    inner = [(max(low, 0), min(high + 1, n)) for (low, high), n in zip(bounds, x.shape, strict=True)]
    if all(first < last for first, last in inner):
        to = tuple(slice(first - low, last - low) for (first, last), (low, _) in zip(inner, bounds, strict=True))
        out[to] = x[tuple(slice(first, last) for first, last in inner)]
    return out


def _matmul(left: np.ndarray, right: np.ndarray, dtype: DType) -> np.ndarray:
    """A matrix product in the computing form of `dtype`; integers exactly, in floats where these are exact."""
    if not dtype.is_integer or not left.size or not right.size:
        return np.matmul(left, right)
    largest = [max(abs(int(m.min())), abs(int(m.max()))) for m in (left, right)]
    bound = largest[0] * largest[1] * left.shape[-1]
    for kind, exact in ((np.float32, 1 << 24), (np.float64, 1 << 53)):
        if bound < exact:
            return np.matmul(left.astype(kind), right.astype(kind)).astype(np.int64).astype(left.dtype)
    return np.matmul(left, right)


def chunks(extents: Sequence[int], cost: int, budget: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Boxes that cover a space, the outer dimensions cut until a box costs at most `budget` where the whole costs `cost`."""
    sizes = list(extents)
    for k, n in enumerate(sizes):
        pieces = min(n, -(-cost // budget))
        if pieces > 1:
            sizes[k] = -(-n // pieces)
            cost = -(-cost * sizes[k] // n)
    yield from itertools.product(*([(low, min(low + size, n)) for low in range(0, n, max(1, size))] for n, size in zip(extents, sizes, strict=True)))
