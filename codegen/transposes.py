"""Maps whose loads run across their stores: small axes are written out, others are walked in square tiles."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr
from .flatten import FlatNest, FlatStore, merge_parallel_axes, replace_axes, substitute_free
from .map_loops import MapSchedule
from .numba_backend import storage_name
from .scalar import Scope, bare

TILE = 16  # rows of a tile: one unit
STRIP = 256  # columns of a tile that stands in scratch memory
SMALL = 8  # a constant axis up to this long is written out


def step(offset: Expr, axis: Expr) -> Expr | None:
    """How far an offset moves along an axis, None where that changes."""
    found = integer.coefficient(offset, axis)
    return None if found is None else found[0]


def is_unit(offset: Expr, axis: Expr) -> bool:
    found = step(offset, axis)
    return found is not None and integer.as_int(found) == 1


def has_reductions(nest: FlatNest) -> bool:
    return any(e.op == "reduce" for e in ex.walk(nest.roots()))


def unroll_small_axes(nest: FlatNest) -> tuple[FlatNest, int]:
    """out[3 * i + c] = in[n * c + i] for c < 3  ->  three stores for each i

    Returns:
        The nest, and the length of the axis that was written out (0 for none): steps up to it belong to the text.
    """
    if has_reductions(nest) or len(nest.axes) < 2 or len(nest.stores) > 2:
        return nest, 0
    inner = nest.axes[-1]
    candidates = [inner] + [a for a in nest.axes[:-1] if any(is_unit(e.args[0], a) and not is_unit(e.args[0], inner) and inner in e.axes for e in _loads(nest))]
    for a in candidates:
        count = integer.as_int(a.extent)
        if count is None or not 1 < count <= SMALL:
            continue
        stores = tuple(replace(s, offset=substitute_free(s.offset, {a: ex.const(k)}), value=substitute_free(s.value, {a: ex.const(k)}))
                       for k in range(count) for s in nest.stores)
        axes = tuple(x for x in nest.axes if x is not a)
        return merge_parallel_axes(replace_axes(replace(nest, stores=stores, axes=axes), {})), count
    return nest, 0


def _loads(nest: FlatNest) -> list[Expr]:
    return [e for e in ex.loads([s.value for s in nest.stores]) if e.args]  # scalars that sizes come from stay as they are


def crossing(nest: FlatNest) -> tuple[Expr, list[Expr]] | None:
    """Loads that run along another axis than the stores' innermost one.

    Returns:
        That axis and the loads; None where there are none or tiles do not apply.
    """
    if len(nest.axes) < 2 or has_reductions(nest):
        return None
    inner = nest.axes[-1]
    if not all(is_unit(s.offset, inner) for s in nest.stores):
        return None
    found: list[tuple[Expr, Expr]] = []
    for e in _loads(nest):
        offset = e.args[0]
        if ex.load_tensor(e) in nest.guarded or inner not in offset.axes or is_unit(offset, inner) or step(offset, inner) is None:
            continue
        found += [(a, e) for a in nest.axes[:-1] if is_unit(offset, a)]
    if not found:
        return None
    axis = Counter(a for a, _ in found).most_common(1)[0][0]
    if any(step(s.offset, axis) is None for s in nest.stores):
        return None
    return axis, [e for a, e in found if a is axis]


class TransposeSchedule(MapSchedule):
    """Units of TILE rows: elements read across go through vector transposes, straight to their place or into a tile in scratch memory."""

    def __init__(self, nest: FlatNest, axis: Expr, loads: Sequence[Expr]) -> None:
        super().__init__(replace(nest, axes=tuple(a for a in nest.axes if a not in (axis, nest.axes[-1])) + (axis, nest.axes[-1])))
        self.row, self.column, self.across = axis, nest.axes[-1], list(loads)

    def body(self, root: Scope) -> Expr:
        w, _e = self.writer, self.emitter
        outer = self.nest.axes[:-2]
        blocks = ex.ceildiv(self.row.extent, TILE)
        digits = [(a.extent, w.name("i")) for a in outer] + [(blocks, w.name("k"))]
        header, advance = self.odometer(root, digits)
        unit = Scope(root, dict(zip(outer, (name for _, name in digits))))
        first, end = w.name("j"), w.name("j")
        unit.lines += [f"{first} = {digits[-1][1]} * {TILE}", f"{end} = min({first} + {TILE}, {w.parameter(self.row.extent, self.row)})"]
        copies = [s for s in self.nest.stores if s.value in self.across and s.tensor.dtype is s.value.dtype]
        for s in copies:
            self.copy(s, unit, first, end)
        rest = tuple(s for s in self.nest.stores if s not in copies)
        if rest:
            self.strips(rest, unit, first, end)
        unit.lines += advance
        unit.close(header)
        return ex.product(n for n, _ in digits)

    def transpose(self, scope: Scope, target: tuple[str, str, str], load: Expr, start: dict[Expr, str], rows: str, columns: str) -> None:
        """target[at + step * i + j] = load(row i, column j)."""
        tensor = self.nest.buffers[ex.load_tensor(load)]
        buffer = self.writer.buffer(tensor)
        inner = Scope(scope, start)
        at = bare(self.emitter.value(self.begin(load.args[0], start), inner))
        pace = self.pace(load.args[0], self.column)
        name = self.writer.function(f"transpose_{tensor.dtype.itemsize_bytes * 8}", "transpose", tensor.dtype.itemsize_bytes * 8)
        arguments = [*target, buffer, at, pace, rows, columns]
        scope.lines += inner.lines + [f"{name}({', '.join(arguments)})"]

    def begin(self, offset: Expr, start: dict[Expr, str]) -> Expr:
        """An offset at the first row and, where no other is given, the first column."""
        return offset if self.column in start else substitute_free(offset, {self.column: ex.const(0)})

    def pace(self, offset: Expr, axis: Expr) -> str:
        """A step as a parameter of its own."""
        return self.writer.parameter(step(offset, axis))

    def copy(self, store: FlatStore, unit: Scope, first: str, end: str) -> None:
        """A store of elements as they are."""
        start = {self.row: first}
        inner = Scope(unit, start)
        buffer = self.writer.buffer(store.tensor)
        self.writer.written.add(store.tensor)
        target = buffer, bare(self.emitter.value(self.begin(store.offset, start), inner)), self.pace(store.offset, self.row)
        unit.lines += inner.lines
        self.transpose(unit, target, store.value, start, f"{end} - {first}", self.writer.parameter(self.column.extent, self.column))

    def strips(self, stores: tuple[FlatStore, ...], unit: Scope, first: str, end: str) -> None:
        """Other stores, a tile at a time."""
        w, e = self.writer, self.emitter
        left, right = w.name("j"), w.name("j")
        extent = w.parameter(self.column.extent, self.column)
        strip = Scope(unit)
        strip.lines.append(f"{right} = min({left} + {STRIP}, {extent})")
        for load in dict.fromkeys(x for s in stores for x in ex.loads([s.value]) if x in self.across):
            row = self.tile(load)
            self.transpose(strip, (row, "0", str(STRIP)), load, {self.row: first, self.column: left}, f"{end} - {first}", f"{right} - {left}")
            e.tiles[load] = lambda scope, row=row: (row, f"({self.at(self.row, scope)} - {first}) * {STRIP} + ({self.at(self.column, scope)} - {left})")
        e.ranges[self.row], e.ranges[self.column] = (first, end), (left, right)
        self.loops(strip, self.nest.axes[:-2], self.nest.axes[-2:], stores)
        strip.close(f"for {left} in range(0, {extent}, {STRIP}):")

    def at(self, axis: Expr, scope: Scope) -> str:
        return scope.binding(axis).axes[axis]

    def tile(self, load: Expr) -> str:
        """Scratch memory for one tile of a load's elements, as they are stored."""
        dtype = load.dtype
        return self.emitter.scratch(storage_name(dtype), ex.const(TILE * STRIP * dtype.itemsize_bytes))
