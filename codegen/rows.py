"""Rows in scratch memory: values along one axis that several passes need, and reductions across rows.

    softmax                 exp(x - max) is stored by the pass that sums it and read by the pass that divides
    sum over outer axes     one accumulator per element of the innermost axis, so that memory is read in order
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr
from .flatten import FlatNest, substitute_free
from .scalar import Emitter, Scope, Writer, bare, identity, literal, number_type
from .windows import is_window

KEEP_COST = 6  # scalar operations that are dearer than a store and a load
STRIDED_COST = 6
UNIT_LEVEL = 1  # number of scopes around a unit's
ACROSS = 4  # rows that one sweep over accumulators adds


class RowEmitter(Emitter):
    """An emitter that keeps rows.

    Args:
        nest: the nest whose expressions are spelled.
    """

    def __init__(self, writer: Writer, nest: FlatNest) -> None:
        super().__init__(writer, nest.buffers, nest.guarded, nest.size_loads, {a: k for k, a in enumerate(nest.axes)})
        self.nest = nest
        self.count(nest.roots())
        self.inner = nest.axes[-1] if nest.axes else None
        self.columns = self.find_columns()
        for axis in dict.fromkeys([*nest.axes[-1:], *(ex.reduce_axes(r)[-1] for r in self.reductions)]):
            self._keep_shared(axis)
        self.scratch_bytes: Expr = ex.const(0)
        self.prologue: list[str] = []
        self.parts: dict[Expr, Expr] = {}  # axes of which a unit covers a part: its length
        self.strip: Scope | None = None  # where the part in `ranges` is known, if that is not where a unit starts

    # -------------------------------------------------------------------------------------------------------------- analysis
    def find_columns(self) -> set[Expr]:
        """The reductions that are swept. Where another one depends on all axes, each unit is one element, and no loop is left for a sweep that hangs on outer axes."""
        found = {r for r in self.reductions if self.is_column(r)}
        if any(r.axes >= set(self.nest.axes) for r in self.reductions if r not in found):
            return {r for r in found if r.axes == {self.inner}}
        return found

    def is_column(self, r: Expr) -> bool:
        """Whether a reduction reads memory in order along the innermost parallel axis rather than along what it reduces."""
        if self.inner is None or self.inner not in r.axes or ex.reduce_kind(r).startswith("arg"):
            return False
        if not set(self.nest.axes[:-1]) <= r.axes:
            return True  # else the axes in between would do it again
        along = [self.step(e, self.inner) for e in below(r.args[0], None)]
        across = [self.step(e, ex.reduce_axes(r)[-1]) for e in below(r.args[0], None)]
        return along.count(1) > across.count(1) or (along.count(1) == across.count(1) and is_window(r))

    def step(self, e: Expr, axis: Expr) -> int | None:
        """How far a load moves along `axis`: 0, 1, or None for anything else (or no load)."""
        if e.op != "load" or not e.args:
            return None
        found = integer.coefficient(e.args[0], axis)
        return integer.as_int(found[0]) if found is not None and integer.as_int(found[0]) in (0, 1) else None

    def cost(self, e: Expr, axis: Expr) -> int:
        """Scalar operations to compute `e` again at each step of `axis`."""
        found = 0
        for n in below(e, axis):
            if n.op == "load":
                found += 1 if self.step(n, axis) is not None else STRIDED_COST
            elif n.op == "reduce":
                found += 0 if n is not e else KEEP_COST
            elif n.op == "cast" and n.dtype.is_integer and n.args[0].dtype.is_float:
                found += 4
            elif n.op not in ("poly", "axis"):
                found += 1 if n.op in ex.CHEAP else 4 if n.op in ("div", "sqrt") else 16
        return found

    def _keep_shared(self, axis: Expr) -> None:
        """Mark the largest expensive expressions that more than one pass over `axis` evaluates."""
        passes = [[r.args[0]] for r in self.reductions if ex.reduce_axes(r) == (axis,) and not ex.reduce_kind(r).startswith("arg")]
        if axis is self.inner:
            passes.append([s.value for s in self.nest.stores])
        seen: set[Expr] = set()
        for roots in passes:
            pending = list(roots)
            visited: set[Expr] = set()
            while pending:
                e = pending.pop()
                if e in visited or axis not in e.axes or e.op == "reduce":
                    continue
                visited.add(e)
                if e in seen and e.dtype.kind in ("float", "int", "uint") and self.cost(e, axis) >= KEEP_COST:
                    self.kept[e] = axis
                else:
                    pending.extend(ex.children(e))
            for r in roots:
                seen.update(below(r, axis))

    # ---------------------------------------------------------------------------------------------------------------- values
    def value(self, e: Expr, scope: Scope) -> str:
        if scope.find(e) is None:
            if e in self.columns and scope.binding(self.inner) is not None:
                return self.column_value(e, scope)
            if e in self.kept:
                return self.kept_value(e, self.kept[e], scope)
            outer = self.invariant_scope(e, scope)
            if outer is not None:
                return self.invariant_value(e, scope, outer)
        return super().value(e, scope)

    def invariant_scope(self, e: Expr, scope: Scope) -> Scope | None:
        """A scope outside of loops in which a dear value of the innermost axis does not change: its row is computed there, once."""
        if self.inner is None or self.inner not in e.axes or e.op in ("axis", "poly", "reduce", "load") or e.dtype.kind not in ("float", "int", "uint"):
            return None
        loop = scope.binding(self.inner)
        if loop is None or scope is not loop or loop.parent is None or self.is_guarded(e):
            return None
        chain = loop.parent.chain()
        missing = set(e.axes) - {self.inner}
        least = UNIT_LEVEL if missing or self.inner in self.ranges or self._rows_below(e) else 0
        depth = max([least, *(k for k, s in enumerate(chain) if missing & s.axes.keys() or s is self.strip)])
        if depth >= len(chain) - 1 or self.cost(e, self.inner) < KEEP_COST:
            return None
        return chain[depth]

    def _rows_below(self, e: Expr) -> bool:
        return any(n.op == "reduce" for n in ex.walk(e))

    def invariant_value(self, e: Expr, scope: Scope, outer: Scope) -> str:
        """An element of a row that a loop of its own fills."""
        row = outer.find_row(e)
        if row is None:
            row = self.new_row(e, self.inner)
            block, header = self.loop(self.inner, outer)
            text = bare(super().value(e, block))
            block.lines.append(f"{self.at(row, self.inner, block)} = {text}")
            block.close(header)
            outer.rows[e] = row
        return self.assign(e, self.at(row, self.inner, scope), scope)

    def at(self, row: str, axis: Expr, scope: Scope) -> str:
        """An element of a row."""
        start = self.ranges[axis][0] if axis in self.ranges else ""
        return f"{row}[{scope.binding(axis).axes[axis]}{' - ' + start if start else ''}]"

    def kept_value(self, e: Expr, axis: Expr, scope: Scope) -> str:
        """The value from its row; the first pass fills it."""
        loop = scope.binding(axis)
        if loop is None:
            return super().value(e, scope)
        row = loop.parent.find_row(e)
        if row is not None:
            return self.assign(e, self.at(row, axis, scope), self.place(e, scope))
        text = super().value(e, scope)
        target = self.place(e, scope)
        if target is not loop:
            return text
        if not text.isidentifier():
            text = self.assign(e, text, loop)
        row = self.new_row(e, axis)
        loop.lines.append(f"{self.at(row, axis, loop)} = {text}")
        loop.pending_rows[e] = row
        return text

    def prepare(self, scope: Scope) -> None:
        """Write the reductions that can be known in `scope`, in order of need, so that their passes come before the loop that uses them."""
        for r in self.reductions:
            if r not in self.columns and r.axes <= scope.bound() and not self.is_guarded(r):
                self.value(r, scope)

    def new_row(self, e: Expr, axis: Expr) -> str:
        """Scratch memory for one value per step of `axis` (of the part of it that a unit covers)."""
        kind = dt.compute_type(e.dtype)
        return self.scratch(number_type(e.dtype), self.extent(axis) * kind.itemsize_bytes)

    def scratch(self, number: str, size_bytes: Expr) -> str:
        """A buffer of `number`s in scratch memory."""
        name = self.writer.name("r")
        view = self.writer.function(f"row_{number}", "row", number)
        at = self.writer.parameter(self.scratch_bytes) if self.prologue else "0"
        self.prologue.append(f"{name} = {view}(scratch, {at})")
        self.scratch_bytes = self.scratch_bytes + ex.ceildiv(size_bytes, 64) * 64
        return name

    def extent(self, axis: Expr) -> Expr:
        """Steps of an axis that one unit covers at most."""
        return self.parts.get(axis, axis.extent)

    # --------------------------------------------------------------------------------------------------------------- columns
    def column_value(self, e: Expr, scope: Scope) -> str:
        """An element of a reduction across rows; the first use writes the loops that fill the row."""
        loop = scope.binding(self.inner)
        outer = self.column_scope(e, scope)
        row = outer.find_row(e)
        if row is None:
            self.sweep(e, outer)
            row = outer.find_row(e)
        return self.assign(e, self.at(row, self.inner, scope), loop)

    def column_scope(self, e: Expr, scope: Scope) -> Scope:
        """The outermost scope where every axis of `e` but the innermost is bound."""
        chain = scope.binding(self.inner).parent.chain()
        missing = set(e.axes) - {self.inner}
        depth = 0
        for k, s in enumerate(chain):
            if missing & s.axes.keys() or (s.conditional and (is_window(e) or self.is_guarded(e))):
                depth = k
        return chain[max(depth, min(len(chain) - 1, UNIT_LEVEL))]

    def sweep(self, e: Expr, scope: Scope) -> None:
        """Accumulators start at the identity; each row of the operand joins them in order, several rows at a time."""
        group = [e, *self.column_peers(e, scope)]
        rows = {r: self.new_row(r, self.inner) for r in group}

        def start(inner: Scope) -> None:
            for r, row in rows.items():
                inner.lines.append(f"{self.at(row, self.inner, inner)} = {literal(identity(ex.reduce_kind(r), r.dtype), r.dtype)}")

        def join(inner: Scope, bodies: Sequence[Sequence[Expr]]) -> None:
            for r, row, values in zip(group, rows.values(), bodies, strict=True):
                place = self.at(row, self.inner, inner)
                name = self.writer.name("s")
                inner.lines.append(f"{name} = {place}")
                for v in values:
                    inner.lines.append(f"{name} = {self.combine(ex.reduce_kind(r), r.dtype, name, self.value(v, inner))}")
                inner.lines.append(f"{place} = {name}")
        self.nested((self.inner,), scope, start)
        *outer, last = ex.reduce_axes(e)
        operands, clipped = self.clip(group, scope)
        single = [[v] for v in operands]
        if clipped or is_window(e) or any(n.op == "reduce" and last in n.axes for r in group for n in ex.walk(r.args[0])):
            self.nested((*outer, last, self.inner), scope, lambda s: join(s, single))
        else:
            several = [[substitute_free(v, {last: last + k}) if k else v for k in range(ACROSS)] for v in operands]
            self.count([v for values in several for v in values[1:]])
            self.nested(outer, scope, lambda s: self._strips(last, s, lambda x: join(x, several), lambda x: join(x, single)))
        for a in clipped:
            del self.clips[a]
        for r, row in rows.items():
            scope.rows[r] = row

    def _strips(self, axis: Expr, scope: Scope, several: Callable[[Scope], None], single: Callable[[Scope], None]) -> None:
        """Loops over `axis`, ACROSS steps at a time and then the rest one by one."""
        n = self.writer.parameter(axis.extent, axis)
        name = self.writer.name("i")
        block = Scope(scope, {axis: name})
        self.nested((self.inner,), block, several)
        block.close(f"for {name} in range(0, {n} - {ACROSS - 1}, {ACROSS}):")
        name = self.writer.name("i")
        block = Scope(scope, {axis: name})
        self.nested((self.inner,), block, single)
        block.close(f"for {name} in range({n} - {n} % {ACROSS}, {n}):")

    def column_peers(self, e: Expr, scope: Scope) -> list[Expr]:
        """Other reductions across the same rows that can share the sweep."""
        def ready(r: Expr) -> bool:
            if r is e or r not in self.columns or ex.reduce_axes(r) != ex.reduce_axes(e) or scope.find_row(r) is not None or self.is_guarded(r):
                return False
            return r.axes == e.axes and all(scope.find_row(n) is not None or scope.find(n) is not None for n in ex.walk(r.args[0]) if n.op == "reduce")
        return [r for r in self.reductions if ready(r)]


def below(e: Expr, axis: Expr | None) -> Iterator[Expr]:
    """Nodes of `e` outside of inner reductions, those that change with `axis` if one is given; index arithmetic within loads is left out."""
    pending, seen = [e], set()
    while pending:
        n = pending.pop()
        if n in seen or (axis is not None and axis not in n.axes):
            continue
        seen.add(n)
        if n.op == "reduce" and n is not e:
            continue
        yield n
        pending.extend(c for c in ex.children(n) if c.op != "poly" and c.op != "axis")
