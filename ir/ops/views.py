"""Index arithmetic shared by the operators that move elements: reshaping, clamping, choosing among tensors.

Views stay expressions, affine wherever shapes allow, so that fusion can let a consumer read through them.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, ExprLike, Tensor
from ..integer import prove_nonnegative
from ..loops import HostNest, HostRef, Ref
from .base import Lowering, Op
from .callbacks import take_or_empty

LARGE = 2**31 - 1  # a bound at or beyond which exporters mean "to the end"


def is_one(d: Expr) -> bool:
    return d.is_const and d.value == 1


def guarded(t: Tensor, index: Sequence[ExprLike]) -> Expr:
    """An element, or zero where the index is out of range: for the branches of a `where` that do not apply."""
    return ex.load(t, tuple(index), fill=0)


def select(position: ExprLike, items: Sequence[Expr]) -> Expr:
    """items[position]; the last item beyond the end."""
    out = items[-1]
    for k in range(len(items) - 2, -1, -1):
        out = ex.where(ex.equal(position, k), items[k], out)
    return out


def choose(position: Expr, starts: Sequence[Expr], items: Sequence[Expr]) -> Expr:
    """The item whose range holds `position`: ranges begin at `starts` (ascending, the first one at 0), found by bisection."""
    if len(items) == 1:
        return items[0]
    middle = len(items) // 2
    return ex.where(position < starts[middle], choose(position, starts[:middle], items[:middle]), choose(position, starts[middle:], items[middle:]))


def clamp(v: ExprLike, low: ExprLike, high: ExprLike) -> Expr:
    return ex.minimum(ex.maximum(v, low), high)


def from_end(v: Expr, size: Expr) -> Expr:
    """A possibly negative position, counted from the end where it is negative."""
    if v.is_const:
        return v if v.value >= 0 else v + size
    if prove_nonnegative(v):
        return v
    return ex.where(v < 0, v + size, v)


def within(v: Expr, size: Expr) -> Expr:
    """A possibly negative index, clamped so that it never reads outside."""
    return clamp(from_end(v, size), 0, size - 1)


def reshape_index(index: Sequence[Expr], out_shape: Sequence[Expr], in_shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """The position in `in_shape` of a position in `out_shape`, both row-major over the same elements.

    Equal dimensions at both ends are matched one to one (unit dimensions skipped); only what lies between is linearised.
    """
    out = [(d, i) for d, i in zip(out_shape, index, strict=True) if not is_one(d)]
    into = [k for k, d in enumerate(in_shape) if not is_one(d)]
    found: list[Expr] = [ex.const(0)] * len(in_shape)
    while out and into and out[0][0] is in_shape[into[0]]:
        found[into.pop(0)] = out.pop(0)[1]
    while out and into and out[-1][0] is in_shape[into[-1]]:
        found[into.pop()] = out.pop()[1]
    if into:
        position = ex.linear_index([i for _, i in out], [d for d, _ in out])
        for k, i in zip(into, ex.unravel(position, [in_shape[k] for k in into]), strict=True):
            found[k] = i
    return tuple(found)


def reshaped(n: Lowering, x: Tensor, shape: Sequence[Expr]) -> Tensor:
    """`x` with another shape; `x` itself where the shape is the same."""
    if len(shape) == x.rank and all(a is b for a, b in zip(shape, x.shape)):
        return x
    return n.map(shape, lambda *i: x[reshape_index(i, shape, x.shape)])


def axis_list(n: Lowering, index: int, attribute: str, rank: int) -> list[Expr] | None:
    """Axes given by an attribute or by input `index`, not yet normalised; None where there are none."""
    if n.has(index):
        return list(n.ints(index))
    found = n.attr(attribute)
    if found is None:
        return None
    return [ex.const(n.axis(int(a), rank)) for a in ((found,) if isinstance(found, int) else found)]


def is_axis(axis: Expr, k: int, rank: int) -> Expr:
    """Whether a possibly negative axis is dimension k."""
    return ex.logical_or(ex.equal(axis, k), ex.equal(axis, k - rank))


def axis_flags(n: Lowering, axes: Sequence[Expr], rank: int) -> list[Expr]:
    """For every dimension, whether it is among `axes` (constants, checked, or known only when running)."""
    for a in axes:
        if a.is_const:
            n.axis(a.value, rank)
        else:
            n.require(ex.logical_and(a >= -rank, a < rank), f"an axis is out of range for rank {rank}")
    flags = []
    for k in range(rank):
        flag = ex.const(False, dt.boolean)
        for a in axes:
            flag = ex.logical_or(flag, is_axis(a, k, rank))
        flags.append(flag)
    return flags


def holds(flag: Expr) -> bool:
    """Whether a flag is certain to be true."""
    return flag.is_const and bool(flag.value)


def by_axis(axes: Sequence[Expr], values: Sequence[Expr], rank: int, defaults: Sequence[Expr]) -> list[Expr]:
    """`values[m]` at dimension axes[m], the default elsewhere."""
    out = list(defaults)
    for k in range(rank):
        for a, v in zip(axes, values, strict=True):
            out[k] = ex.where(is_axis(a, k, rank), v, out[k])
    return out


def drop_dims(shape: Sequence[Expr], flags: Sequence[Expr], count: int) -> list[Expr]:
    """The `shape` without its `count` flagged dimensions; flags may be known only when running."""
    if all(f.is_const for f in flags):
        return [d for d, f in zip(shape, flags) if not f.value]
    kept = [ex.cast(ex.logical_not(f), dt.int64) for f in flags]
    before = [ex.total(kept[:k]) for k in range(len(shape))]
    return [ex.total(ex.where(ex.logical_and(ex.equal(kept[k], 1), ex.equal(before[k], j)), d, 0) for k, d in enumerate(shape))
            for j in range(len(shape) - count)]


def slice_range(start: Expr, end: Expr, step: Expr, size: Expr) -> tuple[Expr, Expr]:
    """(first index, number of elements) of a Python slice over a dimension of `size`."""
    if step.is_const and step.value == 0:
        raise ValueError("a slice's step is 0")
    if step.is_const and step.value > 0:
        return _forward(start, end, step, size)
    if step.is_const:
        return _backward(start, end, step, size)
    (fs, fn), (bs, bn) = _forward(start, end, ex.maximum(step, 1), size), _backward(start, end, ex.minimum(step, -1), size)
    return ex.where(step < 0, bs, fs), ex.where(step < 0, bn, fn)


def _bound(v: Expr, size: Expr, low: ExprLike, high: Expr) -> Expr:
    if v.is_const and v.value >= LARGE:
        return high
    if v.is_const and v.value <= -LARGE:
        return ex.as_expr(low)
    v = from_end(v, size)
    return v if v is size and high is size else clamp(v, low, high)


def _forward(start: Expr, end: Expr, step: Expr, size: Expr) -> tuple[Expr, Expr]:
    first, last = _bound(start, size, 0, size), _bound(end, size, 0, size)
    span = ex.maximum(last - first, 0)
    return first, span if is_one(step) else ex.ceildiv(span, step)


def _backward(start: Expr, end: Expr, step: Expr, size: Expr) -> tuple[Expr, Expr]:
    first = ex.minimum(_bound(start, size, 0, size - 1), size - 1)  # -1 of an empty dimension
    last = _bound(end, size, -1, size - 1)
    return first, ex.ceildiv(ex.maximum(first - last, 0), -step)


class View(Op):
    """An operator whose every output element is an element of an input: strings move as positions, which the host then looks up."""

    def view(self, n: Lowering) -> Ref | Sequence[Ref | None]:
        """The nests; works on elements of any type."""
        raise NotImplementedError

    def lower(self, n: Lowering) -> Ref | Sequence[Ref | None]:
        if any(isinstance(t, Tensor) and t.dtype is dt.string for t in n.inputs):
            return _string_view(self, n)
        return self.view(n)


def _string_view(op: View, n: Lowering) -> Ref | list[Ref | None]:
    originals = list(n.inputs)
    strings: list[Tensor] = []
    offset: Expr = ex.const(1)  # 0, which fills, is the empty string
    for k, t in enumerate(originals):
        if isinstance(t, Tensor) and t.dtype is dt.string:
            n.inputs[k] = _positions(n, t, offset)
            offset = offset + t.numel()
            strings.append(t)
    results = op.view(n)
    n.inputs[:] = originals

    def looked_up(r: Ref | None) -> Ref | None:
        return call_host(n, take_or_empty, [r, *strings], dt.string, r.shape, "strings are moved") if isinstance(r, Tensor) else r
    return looked_up(results) if isinstance(results, (Tensor, HostRef)) else [looked_up(r) for r in results]


def _positions(n: Lowering, t: Tensor, offset: Expr) -> Tensor:
    return n.map(t.shape, lambda *i: offset + ex.linear_index(i, t.shape))


def call_host(n: Lowering, function: Callable[..., Sequence[object]], inputs: Sequence[Ref], dtype: DType, shape: Sequence[Expr], reason: str) -> Tensor:
    """A tensor that a Python function computes from the given values, which need not be the node's own inputs."""
    t = n.tensor(shape, dtype, "host")
    n.nests.append(HostNest(function, tuple(inputs), (t,), reason, n.origin))
    return t


SIZE_TYPES = (dt.int64, dt.int32)  # whose elements a shape may read


def as_size(n: Lowering, e: Expr) -> Expr:
    """An int64 expression fit for a shape: one that reads elements of other types is computed into a tensor of its own first."""
    if all(load.dtype in SIZE_TYPES for load in ex.loads(e)):
        return e
    return n.map([], lambda: e)[()]


def settled(n: Lowering, dims: Sequence[Expr]) -> list[Expr]:
    """Dimensions of which those that a run decides by cases are computed into a tensor first, so that index arithmetic sees plain sizes."""
    open_ones = [d for d in dims if any(e.op == "where" for e in ex.walk(d))]
    if not open_ones:
        return list(dims)
    sizes = n.map([len(open_ones)], lambda i: select(i, open_ones), stem="sizes")
    found = iter(range(len(open_ones)))
    return [sizes[next(found)] if any(e.op == "where" for e in ex.walk(d)) else d for d in dims]


def is_size(e: Expr) -> bool:
    """Whether a wanted dimension certainly is one: a positive constant, or what the inputs' sizes alone decide and never is below zero. An empty one stands for itself as well."""
    return e.value > 0 if e.is_const else prove_nonnegative(e) and not ex.loads((e,))
