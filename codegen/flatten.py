"""Map nests over flat buffers: every index becomes one offset, axes are ordered by memory, split where indices divide them, and merged where they may.

A flat nest is the same computation with loads and stores at positions of flat buffers. Reads that may be out of range stand behind a `where`.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.errors import UnsupportedError
from ..ir.expr import Expr, Tensor
from ..ir.loops import MapNest

Layouts = Mapping[Tensor, tuple[int, ...]]
_INTEGER_OPS = frozenset(["poly", "axis", "const", "sym", "add", "sub", "mul", "div", "rem", "floordiv", "mod", "min", "max", "abs", "sign"])
_SIZE_OPS = _INTEGER_OPS | frozenset(["lt", "le", "eq", "ne", "and", "or", "not", "where"])


@dataclass(frozen=True)
class FlatStore:
    """`buffer[offset] = value` on a flat buffer."""

    tensor: Tensor
    offset: Expr
    value: Expr


@dataclass
class FlatNest:
    """A map nest over flat buffers.

    Args:
        axes: parallel axes, outermost first, in the order of the stores' memory.
        stores: in order.
        buffers: flat tensor -> the tensor it stands for. Loads from those in `guarded` must only be done where their `where` says so.
        guarded: flat tensors whose loads may be out of range outside of their condition.
        size_loads: loads that the size program evaluates, because shapes depend on them.
    """

    axes: tuple[Expr, ...]
    stores: tuple[FlatStore, ...]
    buffers: dict[Tensor, Tensor]
    guarded: set[Tensor]
    size_loads: frozenset[Expr]
    origin: tuple[str, ...] = ()

    def roots(self) -> list[Expr]:
        return [e for s in self.stores for e in (s.value, s.offset)]

    def rewritten(self, change: Callable[[Sequence[Expr]], Sequence[Expr]], axes: Sequence[Expr]) -> "FlatNest":
        """The nest with values and offsets changed together."""
        new = list(change(self.roots()))
        stores = tuple(replace(s, value=new[2 * k], offset=new[2 * k + 1]) for k, s in enumerate(self.stores))
        return replace(self, stores=stores, axes=tuple(axes))


@dataclass
class Flattener:
    """Turns indexed loads into flat ones; `flatten` of one load or store at a time, sharing buffers."""

    layouts: Layouts
    buffers: dict[Tensor, Tensor] = field(default_factory=dict)
    guarded: set[Tensor] = field(default_factory=set)
    _made: dict[tuple[Tensor, bool], Tensor] = field(default_factory=dict)

    def buffer(self, tensor: Tensor, guarded: bool) -> Tensor:
        key = (tensor, guarded)
        if key not in self._made:
            if tensor.dtype.kind == "string":
                raise UnsupportedError(f"element-wise work on {tensor.dtype.name} elements is not implemented", tensor.name)
            flat = Tensor(tensor.name, tensor.dtype, (tensor.numel(),))
            self._made[key] = flat
            self.buffers[flat] = tensor
            if guarded:
                self.guarded.add(flat)
        return self._made[key]

    def offset(self, tensor: Tensor, index: Sequence[Expr]) -> Expr:
        order = self.layouts.get(tensor) or tuple(range(tensor.rank))
        return ex.linear_index([index[d] for d in order], [tensor.shape[d] for d in order])

    def load(self, e: Expr) -> Expr:
        """The flat form of a load whose indices are flat already."""
        tensor, fill = ex.load_tensor(e), ex.load_fill(e)
        if fill is None:
            inside = all(integer.prove_nonnegative(i) and integer.prove_lt(i, n) for i, n in zip(e.args, tensor.shape, strict=True))
            return ex.load(self.buffer(tensor, not inside), (self.offset(tensor, e.args),))
        condition: Expr = ex.const(True, dt.boolean)
        for i, n in zip(e.args, tensor.shape, strict=True):
            condition = ex.logical_and(condition, ex.logical_and(ex.as_expr(0) <= i, i < n))
        inside = condition.is_const
        return ex.where(condition, ex.load(self.buffer(tensor, not inside), (self.offset(tensor, e.args),)), ex.const(fill, tensor.dtype))


def flatten(nest: MapNest, layouts: Layouts) -> FlatNest:
    """The nest over flat buffers, in canonical axis order.

    Args:
        layouts: tensor -> dims from outermost to innermost in memory; missing means row-major.

    Raises:
        UnsupportedError: element types that kernels do not handle yet.
    """
    tensors = [s.tensor for s in nest.stores] + [ex.load_tensor(e) for e in ex.loads([*nest.values, *(i for s in nest.stores for i in s.index)])]
    sizes = size_loads(tensors, [*nest.axes, *(a for e in ex.walk(nest.values) if e.op == "reduce" for a in ex.reduce_axes(e))])
    f = Flattener(layouts)

    def visit(e: Expr) -> Expr | None:
        return f.load(e) if e.op == "load" else _select_size(e, sizes)

    roots = ex.transform([x for s in nest.stores for x in (s.value, *s.index)], visit)
    stores = []
    for s in nest.stores:
        value, *index = roots[:1 + len(s.index)]
        del roots[:1 + len(s.index)]
        f.buffer(s.tensor, False)
        stores.append(FlatStore(s.tensor, f.offset(s.tensor, index), value))
    flat = FlatNest(nest.axes, tuple(stores), f.buffers, f.guarded, sizes, nest.origin)
    flat = drop_unit_axes(flat)
    flat = split_divided_axes(flat)
    flat = replace(flat, axes=memory_order(flat.axes, [s.offset for s in sorted(flat.stores, key=lambda s: -len(s.offset.axes))]))
    flat = replace(flat, axes=rows_last(flat))
    flat = merge_parallel_axes(flat)
    return canonical_reductions(flat)


def size_loads(tensors: Iterable[Tensor], axes: Iterable[Expr]) -> frozenset[Expr]:
    """The loads that shapes and extents are made of."""
    return frozenset(ex.loads([*(d for t in tensors for d in t.shape), *(a.extent for a in axes)]))


def is_size(e: Expr, size_loads: frozenset[Expr]) -> bool:
    """Whether an expression is known before the kernel starts: integers and conditions over sizes alone."""
    if e.axes:
        return False
    seen: set[Expr] = set()
    stack = [e]
    while stack:
        n = stack.pop()
        if n in seen or n.op == "sym":
            continue
        seen.add(n)
        if n.op == "load":
            if n not in size_loads:
                return False
        elif n.dtype not in (dt.int64, dt.boolean) or n.op not in _SIZE_OPS or n.op == "axis":
            return False
        else:
            stack += ex.children(n)
    return True


def _select_size(e: Expr, size_loads: frozenset[Expr]) -> Expr | None:
    """where(c, a, b) -> b + [c] * (a - b)   if c is a size and a, b are indices: then offsets stay affine"""
    if e.op != "where" or e.dtype is not dt.int64 or e.args[1].op not in _INTEGER_OPS or e.args[2].op not in _INTEGER_OPS:
        return None
    c, a, b = e.args
    if not is_size(c, size_loads) or is_size(e, size_loads):
        return None
    chosen = ex.make("where", (c, ex.const(1), ex.const(0)), dt.int64)
    return b + chosen * (a - b)


# ------------------------------------------------------------------------------------------------------------------ axes
def all_axes(nest: FlatNest) -> list[Expr]:
    """Parallel axes, then reduced ones in order of appearance."""
    found = dict.fromkeys(nest.axes)
    for e in ex.walk(nest.roots()):
        if e.op == "reduce":
            found.update(dict.fromkeys(ex.reduce_axes(e)))
    return list(found)


def replace_axes(nest: FlatNest, mapping: Mapping[Expr, tuple[tuple[Expr, ...], Expr]]) -> FlatNest:
    """Exchange axes: axis -> (axes that take its place, its value in terms of them). Works for parallel and reduced axes."""
    values = {a: v for a, (_, v) in mapping.items()}

    def swap(axes: Iterable[Expr]) -> tuple[Expr, ...]:
        return tuple(dict.fromkeys(n for a in axes for n in (mapping[a][0] if a in mapping else (a,))))

    def visit(e: Expr) -> Expr | None:
        if e.op == "reduce" and any(a in mapping for a in ex.reduce_axes(e)):
            return ex.reduce(ex.reduce_kind(e), swap(ex.reduce_axes(e)), e.args[0])
        return values.get(e)
    return nest.rewritten(lambda roots: ex.transform(roots, visit), swap(nest.axes))


def substitute_free(e: Expr, values: Mapping[Expr, Expr]) -> Expr:
    """`e` with axes replaced where they are free: a reduction over an axis of the same name keeps its own."""
    done: dict[Expr, Expr] = {}

    def visit(n: Expr) -> Expr:
        if n not in done:
            if not any(a in n.axes for a in values):
                done[n] = n
            elif n in values:
                done[n] = values[n]
            elif n.op == "poly":
                done[n] = integer.evaluate(n, {a: visit(a) for a in ex.children(n)})
            else:
                done[n] = ex.rebuild(n, [visit(a) for a in n.args])
        return done[n]
    return visit(e)


def drop_unit_axes(nest: FlatNest) -> FlatNest:
    """Loops of one trip disappear."""
    return replace_axes(nest, {a: ((), ex.const(0)) for a in all_axes(nest) if integer.as_int(a.extent) == 1})


def split_divided_axes(nest: FlatNest) -> FlatNest:
    """i // n and i % n become axes of their own   if n divides the extent of i."""
    for _ in range(16):
        fixed = {a for e in ex.walk(nest.roots()) if e.op == "reduce" and ex.reduce_kind(e).startswith("arg") for a in ex.reduce_axes(e)}
        wanted: dict[Expr, list[Expr]] = {}
        for e in ex.walk(nest.roots()):
            if e.op in ("floordiv", "mod") and e.dtype is dt.int64 and e.args[0].op == "axis" and e.args[0] not in fixed:
                a, n = e.args
                quotient, rest = integer.divide_terms(integer.terms(a.extent), n)
                if is_size(n, nest.size_loads) and integer.is_divisor(n, a) and quotient and not any(rest.values()):
                    wanted.setdefault(a, []).append(n)
        if not wanted:
            return nest
        mapping = {}
        for a, sizes in wanted.items():
            n = max(sizes, key=_magnitude)
            outer, inner = ex.axis(integer.from_terms(integer.divide_terms(integer.terms(a.extent), n)[0])), ex.axis(n)
            mapping[a] = ((outer, inner), outer * n + inner)
        nest = drop_unit_axes(replace_axes(nest, mapping))
    return nest


def _magnitude(n: Expr) -> tuple[int, int]:
    """Order of sizes for heuristics: more factors, then larger constant."""
    found = integer.terms(n)
    if not found:
        return (-1, 0)
    lead = max(found, key=len)
    return (len(lead), abs(found[lead]))


def memory_order(axes: Sequence[Expr], offsets: Sequence[Expr]) -> tuple[Expr, ...]:
    """Axes by falling step in the first offset that has them; those in none come first."""
    placed: dict[Expr, None] = {}
    for offset in offsets:
        steps = []
        for a in axes:
            if a not in placed and a in offset.axes:
                split = integer.coefficient(offset, a)
                steps.append(((1 << 30, 0) if split is None else _magnitude(split[0]), a))
        steps.sort(key=lambda s: s[0], reverse=True)
        placed.update(dict.fromkeys(a for _, a in steps))
    return tuple(a for a in axes if a not in placed) + tuple(placed)


def rows_last(nest: FlatNest) -> tuple[Expr, ...]:
    """The axes, with the one that rows are read along innermost   if every reduction is over such rows and the stores go across them."""
    if len(nest.axes) < 2:
        return nest.axes
    inner = nest.axes[-1]
    reductions = [e for e in ex.walk(nest.roots()) if e.op == "reduce"]
    if not any(inner in e.axes for e in reductions):
        return nest.axes
    offsets = [e.args[0] for e in ex.loads([s.value for s in nest.stores]) if e.args]

    def units(axis: Expr) -> int:
        steps = [integer.coefficient(o, axis) for o in offsets]
        return sum(1 for s in steps if s is not None and integer.as_int(s[0]) == 1)
    rows = [a for a in nest.axes[:-1] if units(a) > units(inner) and not any(a in e.axes for e in reductions)]
    if len(rows) != 1:
        return nest.axes
    return tuple(a for a in nest.axes if a is not rows[0]) + (rows[0],)


# --------------------------------------------------------------------------------------------------------------- merging
def index_roots(roots: Iterable[Expr]) -> list[Expr]:
    """The whole integer expressions below `roots`: offsets, and integers used as values."""
    found: dict[Expr, None] = {}
    seen: set[tuple[Expr, bool]] = set()
    stack = [(r, False) for r in roots]
    while stack:
        e, inside = stack.pop()
        if (e, inside) in seen:
            continue
        seen.add((e, inside))
        integral = e.dtype is dt.int64 and e.op in _INTEGER_OPS
        if integral and not inside:
            found[e] = None
        stack.extend((c, integral) for c in ex.children(e))
    return list(found)


def mergeable(outer: Expr, inner: Expr, indices: Iterable[Expr]) -> bool:
    """Whether every index sees the two axes as one: its step along `outer` is the extent of `inner` times its step along `inner`."""
    for e in indices:
        if outer not in e.axes and inner not in e.axes:
            continue
        first, second = integer.coefficient(e, outer), integer.coefficient(e, inner)
        if first is None or second is None or first[0] is not second[0] * inner.extent:
            return False
    return True


def merge_parallel_axes(nest: FlatNest) -> FlatNest:
    """Neighbouring axes become one where all offsets walk through them as through one."""
    k = len(nest.axes) - 2
    while k >= 0:
        outer, inner = nest.axes[k], nest.axes[k + 1]
        if mergeable(outer, inner, index_roots(nest.roots())):
            merged = ex.axis(outer.extent * inner.extent)
            nest = replace_axes(nest, {outer: ((), ex.const(0)), inner: ((merged,), merged)})
        k -= 1
    return nest


def canonical_reductions(nest: FlatNest) -> FlatNest:
    """Reduced axes in memory order and merged; reductions over equal extents share their axes, among each other and with the innermost parallel axis, so
    that equal rows are equal expressions. Where a reduction depends on every parallel axis, all of them are bound at once, and the innermost is not free to be reduced over."""
    rows = not any(e.op == "reduce" and e.axes >= set(nest.axes) for e in ex.walk(nest.roots()))
    innermost = nest.axes[-1] if nest.axes and rows else None
    shared: dict[tuple[Expr, frozenset[Expr], int], Expr] = {}

    def visit(e: Expr) -> Expr | None:
        if e.op != "reduce":
            return None
        kind, axes, body = ex.reduce_kind(e), ex.reduce_axes(e), e.args[0]
        if not kind.startswith("arg"):
            axes, body = _ordered_and_merged(axes, body)
        names: list[Expr] = []
        for a in axes:
            if len(axes) == 1 and innermost is not None and innermost.extent is a.extent and e.axes <= set(nest.axes[:-1]):
                name = innermost
            else:
                name = shared.setdefault((a.extent, e.axes, sum(n.extent is a.extent for n in names)), a)
            captured = any(r.op == "reduce" and name in ex.reduce_axes(r) and a in r.axes for r in ex.walk(body))
            names.append(a if captured or name in e.axes else name)
        renamed = {a: n for a, n in zip(axes, names) if a is not n}
        return ex.reduce(kind, tuple(names), substitute_free(body, renamed))
    return nest.rewritten(lambda roots: ex.transform(roots, visit), nest.axes)


def _ordered_and_merged(axes: tuple[Expr, ...], body: Expr) -> tuple[tuple[Expr, ...], Expr]:
    reads = sorted((e for e in ex.loads([body]) if e.args), key=lambda e: -len(e.args[0].axes & set(axes)))
    order = list(memory_order(axes, [e.args[0] for e in reads]))
    k = len(order) - 2
    while k >= 0:
        outer, inner = order[k], order[k + 1]
        if mergeable(outer, inner, index_roots([body])):
            merged = ex.axis(outer.extent * inner.extent, "r")
            body = substitute_free(body, {outer: ex.const(0), inner: merged})
            order[k:k + 2] = [merged]
        k -= 1
    return tuple(order), body
