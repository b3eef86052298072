"""Maps whose loads run across their stores: small axes are written out, others are walked in square tiles."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr
from .cases import outer_condition, segments
from .flatten import FlatNest, FlatStore, is_size, merge_parallel_axes, replace_axes, substitute_free
from .map_loops import MAX_CASES, MapSchedule, expressions
from .numba_backend import storage_name
from .scalar import Scope, bare
from .windows import FOLDS, fold

TILE = 16  # rows of a tile: one unit
STRIP = 256  # columns of a tile that stands in scratch memory
SMALL = 8  # a constant axis up to this long is written out
SHORT_ROW = 6  # elements; up to here loops go along rows, not in them
MAX_WRITTEN = 400  # distinct expressions of all copies at most: Numba's front end takes time that grows with the square of a body's variables


def step(offset: Expr, axis: Expr) -> Expr | None:
    """How far an offset moves along an axis, None where that changes."""
    found = integer.coefficient(offset, axis)
    return None if found is None else found[0]


def is_unit(offset: Expr, axis: Expr) -> bool:
    found = step(offset, axis)
    return found is not None and integer.as_int(found) == 1


def has_reductions(nest: FlatNest) -> bool:
    return any(e.op == "reduce" for e in ex.walk(nest.roots()))


def expand_small_reductions(nest: FlatNest) -> FlatNest:
    """exp(x[n, i]) / sum(k < 3: exp(x[n, k]))  ->  exp(x[n, i]) / (exp(x[n, 0]) + exp(x[n, 1]) + exp(x[n, 2]))

    where the innermost axis is as short, so that it is written out as well: loops go along rows, of which each is too short for one.
    """
    inner = nest.axes[-1] if len(nest.axes) > 1 else None
    found = {e for e in ex.walk(nest.roots()) if e.op == "reduce"}
    count = None if inner is None else integer.as_int(inner.extent)
    if not found or count is None or count > SHORT_ROW or any(not is_short(e) for e in found):
        return nest

    def visit(e: Expr) -> Expr | None:
        if e.op != "reduce":
            return None
        axis, = ex.reduce_axes(e)
        return fold(ex.reduce_kind(e), [substitute_free(e.args[0], {axis: ex.const(k)}) for k in range(int(axis.extent.value))])
    expanded = nest.rewritten(lambda roots: ex.transform(roots, visit), nest.axes)
    return expanded if expressions(expanded.stores) * count <= MAX_WRITTEN else nest


def is_short(e: Expr) -> bool:
    """Whether a reduction goes along one short axis."""
    axes = ex.reduce_axes(e)
    return len(axes) == 1 and ex.reduce_kind(e) in FOLDS and 0 < (integer.as_int(axes[0].extent) or 0) <= SHORT_ROW


def unroll_small_axes(nest: FlatNest) -> tuple[FlatNest, int]:
    """out[3 * i + c] = in[n * c + i] for c < 3  ->  three stores for each i

    Returns:
        The nest, and the length of the axis that was written out (0 for none): steps up to it belong to the text.
    """
    if has_reductions(nest) or len(nest.axes) < 2 or len(nest.stores) > 2:
        return nest, 0
    inner, size = nest.axes[-1], expressions(nest.stores)
    candidates = [inner] + [a for a in nest.axes[:-1] if any(is_unit(e.args[0], a) and not is_unit(e.args[0], inner) and inner in e.axes for e in _loads(nest))]
    for a in candidates:
        count = integer.as_int(a.extent)
        if count is None or not 1 < count <= SMALL or count * size > MAX_WRITTEN:
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
        if inner in offset.axes and not is_unit(offset, inner) and step(offset, inner) is not None:
            found += [(a, e) for a in nest.axes[:-1] if is_unit(offset, a)]
    if not found:
        return None
    axis = Counter(a for a, _ in found).most_common(1)[0][0]
    if any(step(s.offset, axis) is None for s in nest.stores):
        return None
    return axis, [e for a, e in found if a is axis]


@dataclass(frozen=True)
class Range:
    """A part of an axis: spelling of its first position and of its end."""

    first: str
    end: str

    @property
    def length(self) -> str:
        return f"{self.end} - {self.first}" if self.first != "0" else self.end


class TransposeSchedule(MapSchedule):
    """Units of TILE rows: elements read across go through vector transposes, straight to their place or into a tile in scratch memory."""

    def __init__(self, nest: FlatNest, axis: Expr, loads: Sequence[Expr]) -> None:
        super().__init__(replace(nest, axes=tuple(a for a in nest.axes if a not in (axis, nest.axes[-1])) + (axis, nest.axes[-1])))
        self.row, self.column, self.across = axis, nest.axes[-1], set(loads)

    def body(self, root: Scope) -> Expr:
        w = self.writer
        outer = self.nest.axes[:-2]
        digits = [(a.extent, w.name("i")) for a in outer] + [(ex.ceildiv(self.row.extent, TILE), w.name("k"))]
        header, advance = self.odometer(root, digits)
        unit = Scope(root, dict(zip(outer, (name for _, name in digits))))
        rows = Range(w.name("j"), w.name("j"))
        unit.lines += [f"{rows.first} = {digits[-1][1]} * {TILE}", f"{rows.end} = min({rows.first} + {TILE}, {w.parameter(self.row.extent, self.row)})"]
        self.tiles(self.nest.stores, unit, rows, MAX_CASES)
        unit.lines += advance
        unit.close(header)
        return ex.product(n for n, _ in digits)

    # ----------------------------------------------------------------------------------------------------------------- cases
    def tiles(self, stores: tuple[FlatStore, ...], scope: Scope, rows: Range, budget: int) -> None:
        """All columns of some rows, conditions on outer axes outside."""
        found = outer_condition([s.value for s in stores], scope.bound()) if budget > 1 else None
        if found is not None:
            condition, yes, no = found
            text = bare(self.emitter.value(condition, scope))
            blocks = []
            for header, facts in ((f"if {text}:", yes), ("else:", no)):
                block = Scope(scope, conditional=True)
                self.tiles(self.known(stores, facts), block, rows, budget // 2 if facts is yes else budget - 1)
                blocks.append((block, header))
            for block, header in blocks:
                block.close(header)
            return
        for part, mine in self.parts(stores, scope, self.row, rows):
            columns = Range("0", self.writer.parameter(self.column.extent, self.column))
            for strip, resolved in self.parts(mine, scope, self.column, columns):
                self.rectangle(resolved, scope, part, strip)

    def parts(self, stores: tuple[FlatStore, ...], scope: Scope, axis: Expr, whole: Range) -> list[tuple[Range, tuple[FlatStore, ...]]]:
        """The range of an axis, cut where conditions on it change."""
        out, first = [], whole.first
        for segment in segments([s.value for s in stores], axis, scope.bound()):
            end = whole.end
            if segment.end is not None:
                end = self.writer.name("j")
                scope.lines.append(f"{end} = min(max({bare(self.emitter.value(segment.end, scope))}, {first}), {whole.end})")
            out.append((Range(first, end), self.known(stores, segment.facts)))
            first = end
        return out

    def rectangle(self, stores: tuple[FlatStore, ...], unit: Scope, rows: Range, columns: Range) -> None:
        """A rectangle in which nothing is left to decide."""
        scope = Scope(unit, conditional=True)
        copies = [s for s in stores if s.value in self.across and s.tensor.dtype is s.value.dtype]
        for s in copies:
            self.copy(s, scope, rows, columns)
        rest = tuple(s for s in stores if s not in copies)
        if rest:
            self.strips(rest, scope, rows, columns)
        unit.lines += scope.lines

    # ----------------------------------------------------------------------------------------------------------------- tiles
    def transpose(self, scope: Scope, target: tuple[str, str, str], load: Expr, rows: Range, columns: Range) -> None:
        """target[at + step * i + j] = load(row i, column j)."""
        tensor = self.nest.buffers[ex.load_tensor(load)]
        buffer = self.writer.buffer(tensor)
        at = self.begin(load.args[0], scope, rows, columns)
        pace = self.pace(load.args[0], self.column, scope)
        name = self.writer.function(f"transpose_{tensor.dtype.itemsize_bytes * 8}", "transpose", tensor.dtype.itemsize_bytes * 8)
        scope.lines.append(f"{name}({', '.join([*target, buffer, at, pace, rows.length, columns.length])})")

    def begin(self, offset: Expr, scope: Scope, rows: Range, columns: Range) -> str:
        """An offset at the first row and column."""
        start = {self.row: rows.first, self.column: columns.first}
        if columns.first == "0":
            del start[self.column]
            offset = substitute_free(offset, {self.column: ex.const(0)})
        inner = Scope(scope, start)
        text = bare(self.emitter.value(offset, inner))
        scope.lines += inner.lines
        return text

    def pace(self, offset: Expr, axis: Expr, scope: Scope) -> str:
        """How far an offset moves along an axis: a parameter, or a value from what the kernel reads."""
        found = step(offset, axis)
        assert found is not None  # `crossing` saw to it
        return self.writer.parameter(found) if is_size(found, self.nest.size_loads) else bare(self.emitter.value(found, scope))

    def copy(self, store: FlatStore, scope: Scope, rows: Range, columns: Range) -> None:
        """A store of elements as they are."""
        buffer = self.writer.buffer(store.tensor)
        self.writer.written.add(store.tensor)
        target = buffer, self.begin(store.offset, scope, rows, columns), self.pace(store.offset, self.row, scope)
        self.transpose(scope, target, store.value, rows, columns)

    def strips(self, stores: tuple[FlatStore, ...], scope: Scope, rows: Range, columns: Range) -> None:
        """Other stores, a tile at a time."""
        w, e = self.writer, self.emitter
        piece = Range(w.name("j"), w.name("j"))
        strip = Scope(scope)
        strip.lines.append(f"{piece.end} = min({piece.first} + {STRIP}, {columns.end})")
        for load in self.unconditional([s.value for s in stores]):
            row = e.scratch(storage_name(load.dtype), ex.const(TILE * STRIP * load.dtype.itemsize_bytes))
            self.transpose(strip, (row, "0", str(STRIP)), load, rows, piece)
            e.tiles[load] = self.element_of(row, rows, piece)
        e.ranges[self.row], e.ranges[self.column], e.strip = (rows.first, rows.end), (piece.first, piece.end), strip
        self.loops(strip, self.nest.axes[:-2], self.nest.axes[-2:], stores)
        strip.close(f"for {piece.first} in range({columns.first}, {columns.end}, {STRIP}):")
        e.tiles.clear()
        e.strip = None
        del e.ranges[self.row], e.ranges[self.column]

    def element_of(self, tile: str, rows: Range, columns: Range) -> Callable[[Scope], tuple[str, str]]:
        """Where a tile holds the element of the loops' positions."""
        def place(scope: Scope) -> tuple[str, str]:
            row, column = (scope.binding(a).axes[a] for a in (self.row, self.column))
            return tile, f"({row} - {rows.first}) * {STRIP} + ({column} - {columns.first})"
        return place

    def unconditional(self, values: Sequence[Expr]) -> list[Expr]:
        """The loads across that are done at every point, in order of appearance."""
        found: dict[Expr, None] = {}
        pending, seen = list(values)[::-1], set()
        while pending:
            e = pending.pop()
            if e in seen:
                continue
            seen.add(e)
            if e in self.across:
                found[e] = None
            pending.extend((e.args[:1] if e.op == "where" and self.emitter.is_lazy(e) else ex.children(e))[::-1])
        return list(found)
