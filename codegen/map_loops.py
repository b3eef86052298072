"""The common schedule of map nests: element-wise work, views, reductions, normalisations.

One kernel computes its stores for the units `lo <= u < hi`. A unit is a block of consecutive elements where all axes have merged into one, else a point
of the outer axes (a row, whose inner axes are loops).
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.errors import CompileError
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall, KernelSource
from .cases import Facts, outer_condition, segments, with_facts
from .flatten import FlatNest, FlatStore
from .rows import RowEmitter
from .scalar import Scope, Writer, bare
from .windows import is_window

BLOCK = 4096  # elements of one unit of a flat loop
MAX_CASES = 16  # copies of a loop under different conditions
MAX_GROWTH = 400  # distinct expressions that the copies of one loop may have more than the loop itself: compilation takes time that grows with their square
PART = 128  # elements of a row that one unit covers when it reduces across rows


class MapSchedule:
    """One nest on its way to text."""

    def __init__(self, nest: FlatNest) -> None:
        self.nest = nest
        self.writer = Writer()
        self.emitter = RowEmitter(self.writer, nest)
        self.least = len(nest.axes)  # axes that are bound before any store
        self.growth = MAX_GROWTH  # what is left of it

    def call(self) -> KernelCall:
        root = Scope(None)
        units = self.body(root)
        w = self.writer
        arguments = [*w.buffers.values(), *(f"p{k}" for k in range(len(w.parameters))), "lo", "hi", "scratch"]
        text = "\n".join([f"def kernel({', '.join(arguments)}):", *("    " + x for x in self.emitter.prologue + root.lines)]) + "\n"
        kernel = KernelSource(kernel_name(self.nest), text, tuple(t.dtype for t in w.buffers), tuple(t in w.written for t in w.buffers), len(w.parameters),
                              ("contract",), w.constant_list())
        flops, size = estimate(self.nest)
        return KernelCall(kernel, tuple(w.buffers), tuple(w.parameters), units, self.emitter.scratch_bytes, self.nest.origin, flops, size)

    def body(self, root: Scope) -> Expr:
        """Write the loops; returns the number of units."""
        axes = self.nest.axes
        if len(axes) == 1 and not self.emitter.reductions:
            return self.flat(root)
        self.least = self.unit_depth()
        digits = [(a.extent, a, self.writer.name("i")) for a in axes[:self.least]]
        part = self.part() if self.least < len(axes) else None
        if part is not None:
            digits.append((ex.ceildiv(axes[-1].extent, part), None, self.writer.name("k")))
        unit = Scope(root, {a: name for _, a, name in digits if a is not None})
        header, step = self.odometer(root, [(n, name) for n, _, name in digits])
        if part is not None:
            self.take_part(unit, axes[-1], digits[-1][2], part)
        self.loops(unit, axes[:self.least], axes[self.least:], self.nest.stores)
        unit.lines += step
        unit.close(header)
        return ex.product(n for n, _, _ in digits)

    def flat(self, root: Scope) -> Expr:
        """One loop over a block of elements."""
        axis, = self.nest.axes
        extent = self.writer.parameter(axis.extent, axis)
        if len(segments([s.value for s in self.nest.stores], axis, frozenset())) <= 1:
            self.emitter.ranges[axis] = (f"lo * {BLOCK}", f"min(hi * {BLOCK}, {extent})")
        else:
            root.lines += [f"first = lo * {BLOCK}", f"end = min(hi * {BLOCK}, {extent})"]
            self.emitter.ranges[axis] = ("first", "end")
        self.loops(root, (), (axis,), self.nest.stores)
        return ex.ceildiv(axis.extent, BLOCK)

    # ----------------------------------------------------------------------------------------------------------------- units
    def unit_depth(self) -> int:
        """Number of outer axes that are walked together: as many as leave one for the inner loop, and no more than every reduction and store depends on."""
        axes, rows = self.nest.axes, self.emitter
        plain = [e for e in rows.reductions if e not in rows.columns]
        if any(e.axes >= set(axes) for e in plain):
            return len(axes)
        needed = [self.last(e.axes) for e in plain] + [self.last(e.axes - {rows.inner}) for e in rows.columns]
        return min([max(1, len(axes) - 1), *needed, *(self.last(s.offset.axes) for s in self.nest.stores), *(len(axes) - 1 for _ in rows.columns)])

    def last(self, used: frozenset[Expr]) -> int:
        """Number of axes that must be bound before all of `used` are."""
        return max((k + 1 for k, a in enumerate(self.nest.axes) if a in used), default=0)

    def part(self) -> Expr | None:
        """Elements of the innermost axis that one unit covers, None for all: rows of accumulators should stay in the first cache."""
        rows = self.emitter
        if all(is_window(r) for r in rows.columns) or any(rows.inner in ex.reduce_axes(r) for r in rows.reductions):
            return None
        return ex.const(PART)

    def take_part(self, unit: Scope, axis: Expr, digit: str, part: Expr) -> None:
        """Bind the range of the innermost axis that a unit covers."""
        first, end = self.writer.name("j"), self.writer.name("j")
        extent = self.writer.parameter(axis.extent, axis)
        unit.lines += [f"{first} = {digit} * {part.value}", f"{end} = min({first} + {part.value}, {extent})"]
        self.emitter.ranges[axis] = (first, end)
        self.emitter.parts[axis] = part

    def odometer(self, root: Scope, digits: Sequence[tuple[Expr, str]]) -> tuple[str, list[str]]:
        """The header of the loop over units, and the statements that step the names of its digits at its end."""
        names = [name for _, name in digits]
        if len(names) == 1:
            return f"for {names[0]} in range(lo, hi):", []
        if not names:
            return "for u in range(lo, hi):", []
        sizes = ["", *(self.writer.parameter(n) for n, _ in digits[1:])]
        root.lines.append(f"{names[-1]} = lo")
        for k in range(len(names) - 1, 0, -1):
            root.lines += [f"{names[k - 1]} = {names[k]} // {sizes[k]}", f"{names[k]} %= {sizes[k]}"]
        return "for u in range(lo, hi):", odometer_step(names, sizes)

    # ----------------------------------------------------------------------------------------------------------------- loops
    def loops(self, scope: Scope, bound: tuple[Expr, ...], inner: tuple[Expr, ...], stores: tuple[FlatStore, ...]) -> None:
        """Nested loops over `inner`, each store in the loop where its last axis is bound, conditions outside of the loops they do not change in."""
        self.emitter.prepare(scope)
        here = [s for s in stores if self.used(s) <= set(bound)]
        for s in here:
            self.store(s, scope)
        stores = tuple(s for s in stores if s not in here)
        if not stores:
            return
        if not inner:
            free = {a.text for s in stores for a in self.used(s)} - {a.text for a in bound}
            raise CompileError(kernel_name(self.nest), "", f"a value depends on {', '.join(sorted(free))}, which no loop binds")
        if len(inner) > 1:
            early = tuple(s for s in stores if self.used(s) <= {*bound, inner[-1]})
            if early:
                self.loops(scope, bound, inner[-1:], early)
                stores = tuple(s for s in stores if s not in early)
        self.cases(scope, bound, inner, stores, MAX_CASES)

    def cases(self, scope: Scope, bound: tuple[Expr, ...], inner: tuple[Expr, ...], stores: tuple[FlatStore, ...], budget: int) -> None:
        """The loop over the next axis, behind the conditions that are known before it."""
        found = outer_condition([s.value for s in stores], scope.bound()) if budget > 1 else None
        if found is None:
            self.segmented(scope, bound, inner, stores)
            return
        condition, yes, no = found
        sides = [(self.decided(stores, yes), budget // 2), (self.decided(stores, no), budget - 1)]
        added = sum(expressions(side) for side, _ in sides) - expressions(stores)
        if added > self.growth:
            self.segmented(scope, bound, inner, stores)
            return
        self.growth -= max(added, 0)
        text = bare(self.emitter.value(condition, scope))
        blocks = []
        for header, (side, left) in zip((f"if {text}:", "else:"), sides):
            block = Scope(scope, conditional=True)
            self.emitter.count([s.value for s in side])
            self.cases(block, bound, inner, side, left)
            blocks.append((block, header))
        for block, header in blocks:
            block.close(header)

    def segmented(self, scope: Scope, bound: tuple[Expr, ...], inner: tuple[Expr, ...], stores: tuple[FlatStore, ...]) -> None:
        """The loop over the next axis, cut where conditions on it change if it is the innermost."""
        axis, e = inner[0], self.emitter
        parts = segments([s.value for s in stores], axis, scope.bound()) if len(inner) == 1 else []
        if len(parts) <= 1:
            block, header = e.loop(axis, scope)
            self.loops(block, bound + (axis,), inner[1:], stores)
            block.close(header)
            return
        start, end = e.ranges.get(axis) or ("0", self.writer.parameter(axis.extent, axis))
        for facts, bounds in e.bounds(parts, start, end, scope):
            name = self.writer.name("i")
            block = Scope(scope, {axis: name}, conditional=True)
            self.loops(block, bound + (axis,), (), self.known(stores, facts))
            block.close(f"for {name} in range({bounds}):")

    def known(self, stores: tuple[FlatStore, ...], facts: Facts) -> tuple[FlatStore, ...]:
        """The stores where conditions are decided."""
        if not facts:
            return stores
        new = self.decided(stores, facts)
        self.emitter.count([s.value for s in new])
        return new

    @staticmethod
    def decided(stores: tuple[FlatStore, ...], facts: Facts) -> tuple[FlatStore, ...]:
        return tuple(replace(s, value=with_facts(s.value, facts)) for s in stores)

    def used(self, store: FlatStore) -> frozenset[Expr]:
        return store.offset.axes | store.value.axes

    def store(self, store: FlatStore, scope: Scope) -> None:
        value = self.emitter.value(store.value, scope)
        scope.lines.append(self.emitter.store(store.tensor, self.emitter.value(store.offset, scope), value))


def expressions(stores: Iterable[FlatStore]) -> int:
    """Number of distinct expressions of the stores' values."""
    return sum(1 for _ in ex.walk([s.value for s in stores]))


def odometer_step(names: Sequence[str], sizes: Sequence[str]) -> list[str]:
    """Count up by one over digits `names`, the last one fastest."""
    out = [f"{names[0]} += 1"]
    for k in range(1, len(names)):
        out = [f"{names[k]} += 1", f"if {names[k]} == {sizes[k]}:", f"    {names[k]} = 0", *("    " + x for x in out)]
    return out


def kernel_name(nest: FlatNest) -> str:
    """`map_` or `reduce_`, the operators in order of evaluation, the element type of the first result."""
    roots = [s.value for s in nest.stores]
    reductions = [ex.reduce_kind(e) for e in ex.walk(roots) if e.op == "reduce"]
    words = [ex.reduce_kind(e) if e.op == "reduce" else e.op for e in ex.walk(roots)
             if e.op == "reduce" or e.op in ex.UNARY or (e.op in ex.BINARY and e.args[0].dtype is not dt.int64)]
    words = list(dict.fromkeys(w for w in words if w not in ("and", "or", "lt", "le")))[:5] or ["copy"]
    return "_".join(["reduce" if reductions else "map", *words, nest.stores[0].tensor.dtype.short])


def estimate(nest: FlatNest) -> tuple[Expr, Expr]:
    """(floating-point operations, bytes of all operands) of one launch; what does not change along an axis counts once."""
    flops: Expr = ex.const(0)
    touched: dict[Tensor, Expr] = {}
    for e in ex.walk([s.value for s in nest.stores]):
        if e.op == "reduce" and e.dtype.is_float:
            flops = flops + _points(e.args[0].axes | frozenset(ex.reduce_axes(e)))
        elif e.dtype.is_float and (e.op in ex.UNARY or e.op in ex.BINARY):
            flops = flops + _points(e.axes)
        elif e.op == "load" and ex.load_tensor(e) in nest.buffers:
            tensor = nest.buffers[ex.load_tensor(e)]
            touched[tensor] = touched.get(tensor, ex.const(0)) + _points(e.axes)
    written = dict.fromkeys(s.tensor for s in nest.stores)
    sizes = [t.numel() * t.dtype.itemsize_bytes for t in written]
    sizes += [ex.minimum(t.numel(), n) * t.dtype.itemsize_bytes for t, n in touched.items() if t not in written]
    return flops, ex.total(sizes)


def _points(axes: Iterable[Expr]) -> Expr:
    return ex.product(a.extent for a in sorted(axes, key=lambda a: a.order))
