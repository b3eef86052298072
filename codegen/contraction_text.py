"""What texts of all contraction kernels share: parameters, scratch memory, and the stores that follow the sums."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import expr as ex
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelSource
from .contraction import ONE, ZERO, Layouts, Product, element_offset, extent_product
from .flatten import Flattener, size_loads
from .scalar import Emitter, Scope, Writer


def kernel_source(name: str, w: Writer, root: Scope) -> KernelSource:
    names = [*w.buffers.values(), *(f"p{k}" for k in range(len(w.parameters))), "lo", "hi", "scratch"]
    text = "\n".join([f"def kernel({', '.join(names)}):", *("    " + x for x in root.lines), ""])
    return KernelSource(name, text, tuple(t.dtype for t in w.buffers), tuple(t in w.written for t in w.buffers), len(w.parameters), ("contract",), w.constant_list())


def unravel(writer: Writer, scope: Scope, position: str, axes: Sequence[Expr], stem: str) -> None:
    """Bind axes to the row-major coordinates of `position`."""
    names = [f"{stem}{k}" for k in range(len(axes))]
    left = position
    for k in range(len(axes) - 1, 0, -1):
        extent = writer.parameter(axes[k].extent, f"extent {stem}{k}")
        scope.lines.append(f"{names[k]} = {left} % {extent}")
        left = f"{left} // {extent}"
    if axes:
        scope.lines.append(f"{names[0]} = {left}")
    scope.axes.update(zip(axes, names))


class ContractionText:
    """A kernel on its way to text.

    Args:
        p: what it computes.
        buffers: operands, in the order in which the text names them.
        beside: another part of the same kernel, whose text and scratch memory this part shares.
    """

    def __init__(self, p: Product, buffers: Sequence[Tensor], layouts: Layouts, beside: "ContractionText | None" = None) -> None:
        self.p = p
        self.part: int = 0 if beside is None else beside.part + 1  # sizes of each part have roles of their own
        self.writer: Writer = Writer() if beside is None else beside.writer
        for t in buffers:
            self.writer.buffer(t)
        flat = Flattener(layouts)

        def visit(e: Expr) -> Expr | None:
            return flat.load(e) if e.op == "load" else None
        self.values = ex.transform([s.value for s in p.stores], visit)
        self.offsets = ex.transform([element_offset(s.tensor, s.index, layouts) for s in p.stores], visit)
        self.row = self.join_rows()
        rows = p.rows if self.row is None else (self.row,)
        order = {x: k for k, x in enumerate((*p.batch, *p.rows, *rows, *p.columns, *p.reduced))}
        tensors = [p.a, *(s.tensor for s in p.stores), *map(ex.load_tensor, ex.loads([p.b, *(s.value for s in p.stores)]))]
        sizes = size_loads(tensors, [*p.batch, *p.rows, *p.columns, *p.reduced])
        self.emitter = Emitter(self.writer, flat.buffers, flat.guarded, sizes, order)
        self.emitter.count([*self.values, *self.offsets])
        self.scratch_bytes: Expr = ZERO
        self.root: Scope = Scope(None) if beside is None else beside.root
        self.size_bytes = p.a.dtype.itemsize_bytes
        self.number = p.dtype.numpy_name

    def join_rows(self) -> Expr | None:
        """One axis over all rows, if what is stored and where depends on rows through it alone (then coordinates need not be kept)."""
        rows = self.p.rows
        if len(rows) < 2:
            return None
        whole = ex.axis(self.rows, "row")
        new = ex.substitute([*self.values, *self.offsets], dict(zip(rows, ex.unravel(whole, [x.extent for x in rows]))))
        if any(e.op in ("floordiv", "mod") and whole in e.axes for e in ex.walk(new)):
            return None
        self.values, self.offsets = new[:len(self.values)], new[len(self.values):]
        return whole

    # ---- sizes
    def parameter(self, size: Expr | int, role: str) -> str:
        return self.writer.parameter(ex.as_expr(size), (self.part, role))

    @property
    def rows(self) -> Expr:
        return extent_product(self.p.rows)

    @property
    def columns(self) -> Expr:
        return extent_product(self.p.columns)

    @property
    def taps(self) -> Expr:
        return extent_product(self.p.taps)

    @property
    def steps(self) -> Expr:
        return self.p.inner.extent if self.p.inner is not None else ONE

    def reserve(self, count: Expr | int, itemsize: int) -> Expr:
        """Offset of a new region of scratch memory."""
        at = self.scratch_bytes
        self.scratch_bytes = at + ex.ceildiv(ex.as_expr(count) * itemsize, 64) * 64
        return at

    def view(self, name: str, count: Expr | int, number: str) -> None:
        """Declare a typed region of scratch memory."""
        of = self.writer.function(f"view_{number}", "scratch_view", number)
        at = self.reserve(count, np.dtype(number).itemsize)
        self.root.lines.append(f"{name} = {of}(scratch, {self.parameter(at, 'view ' + name)})")

    def decode_strip(self, unit: Scope, groups: str, strips: Expr) -> None:
        """Batch and strip of columns of a unit: groups of rows are its innermost count, `groups` their number."""
        if self.p.batch:
            n_strips = self.parameter(strips, "strips")
            unit.lines += [f"strip = unit // {groups} % {n_strips}", f"batch = unit // {groups} // {n_strips}"]
            unravel(self.writer, unit, "batch", self.p.batch, "g")
        else:
            unit.lines.append(f"strip = unit // {groups}")

    # ---- stores
    def store_columns(self, row: Scope, width: str) -> None:
        """All stores of one row of a panel, whose sums start at `acc[at]` and whose columns are first_column <= c < first_column + width."""
        if not self.p.columns:
            self.element(row, "acc[at]")
        elif len(self.p.columns) == 1:
            column = Scope(row, {self.p.columns[0]: "c"})
            row.lines.append("at -= first_column")
            self.element(column, "acc[at + c]")
            column.close(f"for c in range(first_column, first_column + {width}):")
        else:
            self.store_runs(row, width)

    def store_runs(self, row: Scope, width: str) -> None:
        """Several column axes: stretches along the innermost one."""
        columns, last = self.p.columns, len(self.p.columns) - 1
        start = Scope(row)
        unravel(self.writer, start, "first_column", columns, "c")
        row.lines += [*start.lines, "done = 0"]
        run = Scope(row, {x: n for x, n in start.axes.items() if x is not columns[last]})
        extents = [self.parameter(x.extent, f"extent c{k}") for k, x in enumerate(columns)]
        run.lines += [f"run = min({width} - done, {extents[last]} - c{last})", f"place = at + done - c{last}"]
        column = Scope(run, {columns[last]: "c"})
        self.element(column, "acc[place + c]")
        column.close(f"for c in range(c{last}, c{last} + run):")
        run.lines += ["done += run", f"c{last} = 0"]
        for k in range(last - 1, -1, -1):
            pad = "    " * (last - 1 - k)
            run.lines.append(f"{pad}c{k} += 1")
            if k:
                run.lines += [f"{pad}if c{k} == {extents[k]}:", f"{pad}    c{k} = 0"]
        run.close(f"while done < {width}:")

    def element(self, scope: Scope, acc: str) -> None:
        """All stores of one element."""
        scope.names[ex.acc(self.p.dtype)] = acc
        for s, value, offset in zip(self.p.stores, self.values, self.offsets, strict=True):
            spelled = self.emitter.value(value, scope)
            scope.lines.append(self.emitter.store(s.tensor, self.emitter.value(offset, scope), spelled))
