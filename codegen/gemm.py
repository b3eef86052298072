"""Kernels for products: text around the register tile.

One text serves matrix products, batched products and convolutions. A unit of work is some rows of one batch by some panels of columns:

    for each unit:
        the address of each row (and, with taps, of each row of each tap; rows of padding point at a row of `fill`)
        for each panel of columns:
            for each chunk of the reduced dimension, for each block of rows:
                register tile
                after the last chunk: stores, row by row
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall, KernelSource
from ..ir.loops import MapNest
from ..ir.target import Target
from .contraction import ONE, ZERO, Layouts, Product, element_offset, extent_product, pack_b, packed_tensor
from .flatten import Flattener
from .scalar import Emitter, Scope, Writer, literal
from .tile_shapes import TileShape, channel_shapes, tile_shapes

ROWS_OF_UNIT = 128
PAGE = 4096  # bytes; elements this far apart compete for the same lines of a first-level cache
L1_WAYS = 8
FEW = 4  # rows; up to here tiles have as many rows as the product
FEW_LEFT = 2  # rows of a block; up to here each is computed by itself where the number of rows is not known before
MODERATE = 8  # rows of a tile for any number of rows
SMALL = 16  # rows; fewer do not repay a copy of b
CACHE_SHARE = 2  # a strip of b fills at most 1/CACHE_SHARE of the second-level cache


@dataclass(frozen=True)
class Blocking:
    """How a product is cut.

    Args:
        tile: accumulators in registers.
        shifted: whether the last panel starts early, at the last whole panel of columns, instead of reaching past the end. Columns that it shares with
            the panel before are computed twice, with equal results.
        height: rows of a unit, a multiple of the tile's.
        strip: panels of a unit.
        chunk: steps (or, with taps, taps) between two visits of a block of rows; None for all.
    """

    tile: TileShape
    shifted: bool
    height: int
    strip: int
    chunk: int | None


def schedule(p: Product, layouts: Layouts, target: Target) -> list[MapNest | KernelCall]:
    """Packing of `b`, unless it is read in place, and the product."""
    direct = reads_b_in_place(p, target)
    blocking = choose_blocking(p, target, direct)
    if direct:
        return [ProductText(p, None, blocking, layouts).call()]
    packed = packed_tensor(p, blocking.tile.columns)
    return [packing(p, packed, blocking), ProductText(p, packed, blocking, layouts).call()]


# --------------------------------------------------------------------------------------------------------------------------- choice
def reads_b_in_place(p: Product, target: Target) -> bool:
    """Whether rows of an activation `b` serve as they lie: adjacent columns, enough of them, rows that do not all fall on the same cache lines."""
    if p.b_offset is None or p.taps or len(p.columns) != 1 or integer.coefficient(p.b_offset, p.columns[0])[0] is not ONE:
        return False
    rows, columns = integer.as_int(extent_product(p.rows)), integer.as_int(p.columns[0].extent)
    if columns is None or columns < target.lanes(p.dtype.itemsize_bytes):
        return False
    step = ZERO if p.inner is None else integer.coefficient(p.b_offset, p.inner)[0]
    return (rows is not None and rows <= SMALL) or (step.is_const and step.value * p.dtype.itemsize_bytes % PAGE != 0)


def choose_blocking(p: Product, target: Target, direct: bool) -> Blocking:
    """Tile and cuts. A strip of panels and the rows of a unit stay in the second-level cache together; units suffice for every core."""
    rows, columns = integer.as_int(extent_product(p.rows)), integer.as_int(extent_product(p.columns))
    steps, taps = integer.as_int(p.inner.extent) if p.inner is not None else 1, integer.as_int(extent_product(p.taps))
    tile = choose_tile(p, target, rows, columns, direct)
    size = p.dtype.itemsize_bytes
    groups = 1 if rows is None else max(1, round(rows / ROWS_OF_UNIT))
    height = ROWS_OF_UNIT if rows is None else -(-rows // groups)
    height = -(-height // tile.rows) * tile.rows
    depth = (steps or 1024) * (taps or 1)
    panel_bytes = depth * tile.columns * size
    panels = 1 << 20 if columns is None else -(-columns // tile.columns)
    strip = max(1, min(panels, target.l2_bytes // CACHE_SHARE // panel_bytes))
    if columns is not None:
        wanted = 2 * target.cores if target.cores > 1 else 1
        batches = integer.as_int(extent_product(p.batch)) or 1
        strip = -(-panels // max(-(-panels // strip), min(panels, -(-wanted // (groups * batches)))))
        short = -(-wanted // (batches * -(-panels // strip)))
        if rows is not None and groups < short:
            height = -(-rows // (short * tile.rows)) * tile.rows
    chunk = None
    if panel_bytes > target.l2_bytes // CACHE_SHARE and height > tile.rows:
        most = max(1, target.l2_bytes // (2 * CACHE_SHARE) // (tile.columns * size))
        chunk = most if not p.taps else max(1, most // (steps or 1024))
    shifted = direct or p.channelwise or (columns is not None and columns >= tile.columns)
    return Blocking(tile, shifted, height, strip, chunk)


def choose_tile(p: Product, target: Target, rows: int | None, columns: int | None, direct: bool) -> TileShape:
    """The tile that takes the fewest cycles: padded work, weighed by what a step costs in multiplications and in loads."""
    if p.channelwise:
        shapes = channel_shapes(target, p.dtype, columns, p.group)
        return min(shapes, key=lambda s: (-(-columns // s.columns) * s.vectors, -s.vectors)) if columns is not None else shapes[0]
    stride = integer.coefficient(p.a_offset, p.rows[-1])[0] if p.rows else ZERO
    crowded = stride.is_const and stride.value != 0 and stride.value * p.dtype.itemsize_bytes % PAGE == 0

    def cycles(s: TileShape) -> float:
        step = max(s.rows * s.vectors, s.vectors + s.rows / 2) + 0.7
        if crowded and s.rows > L1_WAYS:
            step *= 1.3
        count = (1024 if rows is None else -(-rows // s.rows)) * (1024 if columns is None else -(-columns // s.columns))
        return count * step * (1 if rows is not None and columns is not None else 1 / ((s.rows if rows is None else 1) * (s.columns if columns is None else 1)))
    tall = MODERATE if rows is None and not p.taps else 1 << 20
    fitting = [s for s in tile_shapes(target, p.dtype) if FEW < s.rows <= tall or (rows is not None and rows <= FEW)]
    usable = [s for s in fitting if not direct or columns is None or s.columns <= columns]
    if direct and not usable:
        usable = [TileShape(s.rows, 1, s.lanes) for s in fitting]
    return min(usable, key=cycles)


# ------------------------------------------------------------------------------------------------------------------------- packing
def packing(p: Product, packed: Tensor, blocking: Blocking) -> MapNest | KernelCall:
    """What writes the panels of `b`: a kernel that transposes in registers where an activation's reduced axis is the adjacent one, else a map."""
    tile = blocking.tile
    square = p.inner is not None and p.b_offset is not None and not p.taps and len(p.columns) == 1 and tile.lanes >= 4
    if square and integer.coefficient(p.b_offset, p.inner)[0] is ONE:
        return transposition(p, packed, tile, blocking.shifted)
    return pack_b(p, tile.columns, packed, blocking.shifted)


def transposition(p: Product, packed: Tensor, tile: TileShape, shifted: bool) -> KernelCall:
    """packed[batch, panel, k, lane] = b[batch, column, k], by squares of a vector's length. A unit is one panel."""
    writer, root, size = Writer(), Scope(None), p.dtype.itemsize_bytes
    source, out = writer.buffer(ex.load_tensor(p.b)), writer.buffer(packed)
    writer.written.add(packed)
    for name, builder, arguments in (("view_int64", "scratch_view", ("int64",)), ("address", "address", ()), ("advanced", "advanced", ()),
                                     ("transpose_block", "transpose_block", (tile.lanes, p.dtype.bits))):
        writer.function(name, builder, *arguments)
    batch = tuple(x for x in p.batch if x in p.b.axes)
    emitter = Emitter(writer, {}, (), frozenset(), {x: k for k, x in enumerate(batch)})
    depth, columns, panels = (writer.parameter(e, e.text) for e in (p.inner.extent, p.columns[0].extent, packed.shape[len(batch)]))
    root.lines += ["table = view_int64(scratch, 0)", f"base = address({source})"]
    unit = Scope(root)
    unit.lines += [f"panel = unit % {panels}", f"batch = unit // {panels}"]
    unravel(writer, unit, "batch", batch, "g")
    start = integer.coefficient(integer.coefficient(p.b_offset, p.columns[0])[1], p.inner)[1]
    step = emitter.value(integer.coefficient(p.b_offset, p.columns[0])[0], root)
    width, lanes = tile.columns, tile.lanes
    column = f"min(panel * {width}, {columns} - {width}) + j" if shifted else f"min(panel * {width} + j, {columns} - 1)"
    unit.lines += [f"start = {emitter.value(start, unit)}", f"for j in range({width}):",
                   f"    table[j] = base + (start + ({column}) * {step}) * {size}",
                   f"to = advanced({out}, unit * {depth} * {width})", f"whole = {depth} // {lanes} * {lanes}",
                   f"for k in range(0, whole, {lanes}):", f"    for j in range(0, {width}, {lanes}):",
                   f"        transpose_block(advanced(table, j), k * {size}, advanced(to, k * {width} + j), {width})",
                   f"for k in range(whole, {depth}):", f"    for j in range({width}):",
                   f"        to[k * {width} + j] = {source}[start + ({column}) * {step} + k]"]
    unit.close("for unit in range(lo, hi):")
    kernel = kernel_source(f"transpose_{width}_{p.dtype.short}", writer, root)
    units = ex.product(packed.shape[:len(batch) + 1])
    return KernelCall(kernel, tuple(writer.buffers), tuple(writer.parameters), units, ex.const(8 * width), p.origin, ZERO, packed.numel() * (2 * size))


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


# ------------------------------------------------------------------------------------------------------------------------- emission
class ProductText:
    """Writes the kernel of a product and its call."""

    def __init__(self, p: Product, packed: Tensor | None, blocking: Blocking, layouts: Layouts) -> None:
        self.p, self.blocking, self.layouts = p, blocking, layouts
        self.direct = packed is None
        self.packed = ex.load_tensor(p.b) if packed is None else packed
        self.writer = Writer()
        self.a, self.b = self.writer.buffer(p.a), self.writer.buffer(self.packed)
        flat = Flattener(layouts)

        def visit(e: Expr) -> Expr | None:
            return flat.load(e) if e.op == "load" else None
        self.values = ex.transform([s.value for s in p.stores], visit)
        self.offsets = ex.transform([element_offset(s.tensor, s.index, layouts) for s in p.stores], visit)
        self.row = self.join_rows()
        rows = p.rows if self.row is None else (self.row,)
        order = {x: k for k, x in enumerate((*p.batch, *p.rows, *rows, *p.columns, *p.reduced))}
        self.emitter = Emitter(self.writer, flat.buffers, flat.guarded, frozenset(), order)
        self.emitter.count([*self.values, *self.offsets])
        self.scratch_bytes: Expr = ZERO
        self.root = Scope(None)
        self.size_bytes = p.dtype.itemsize_bytes
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

    @property
    def by_row(self) -> bool:
        """Whether a block of few rows is computed row by row: where only the run knows how many there are."""
        return integer.as_int(self.rows) is None and not self.p.taps and not self.p.guards

    # ---- sizes
    def parameter(self, size: Expr | int, role: str) -> str:
        return self.writer.parameter(ex.as_expr(size), role)

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
        at = self.reserve(count, 8 if number == "int64" else self.size_bytes)
        self.root.lines.append(f"{name} = {of}(scratch, {self.parameter(at, 'view ' + name)})")

    # ---- the kernel
    def call(self) -> KernelCall:
        p, tile = self.p, self.blocking.tile
        height = self.blocking.height
        groups, panels = ex.ceildiv(self.rows, height), ex.ceildiv(self.columns, tile.columns)
        strips = ex.ceildiv(panels, self.blocking.strip)
        shape = (tile.rows, tile.vectors, tile.lanes, p.dtype.short)
        if p.channelwise:
            self.writer.function("channel_tile", "channel_tile", *shape, p.group)
        else:
            self.writer.function("register_tile", "register_tile", *shape, self.unit_step)
            if self.by_row:
                self.writer.function("row_tile", "register_tile", 1, *shape[1:], self.unit_step)
        for name in ("advanced", "address"):
            self.writer.function(name, name)
        self.prologue()
        unit = Scope(self.root)
        self.decode_unit(unit, groups, strips)
        self.row_addresses(unit)
        if p.guards or (p.taps and not p.channelwise):
            self.tap_addresses(unit)
        panel = Scope(unit)
        self.panel(panel)
        strip = self.parameter(self.blocking.strip, "strip")
        panel.close(f"for panel in range(strip * {strip}, min(strip * {strip} + {strip}, {self.parameter(panels, 'panels')})):")
        unit.close("for unit in range(lo, hi):")
        batches = extent_product(p.batch)
        flops = 2 * batches * self.rows * self.columns * self.steps * self.taps
        moved = (p.a.numel() + self.packed.numel() + self.columns * self.rows * batches) * self.size_bytes
        kind = ("depthwise" if p.group == 1 else "grouped") if p.channelwise else "convolution" if p.taps else "product"
        source = kernel_source(f"{kind}_{tile.rows}x{tile.columns}_{p.dtype.short}", self.writer, self.root)
        return KernelCall(source, tuple(self.writer.buffers), tuple(self.writer.parameters), batches * groups * strips, self.scratch_bytes, p.origin, flops, moved)

    @property
    def width(self) -> str:
        """Columns of a panel: known for whole panels, so that loops over them unroll."""
        return str(self.blocking.tile.columns) if self.blocking.shifted else "width"

    @property
    def unit_step(self) -> bool:
        return self.p.inner is None or integer.coefficient(self.p.a_offset, self.p.inner)[0] is ONE

    def prologue(self) -> None:
        """Regions of scratch memory, the row of padding, the address of `a`."""
        p, tile, height = self.p, self.blocking.tile, self.blocking.height
        blocks = height // tile.rows if self.blocking.chunk is not None else 1
        self.view("acc", blocks * tile.rows * tile.columns, self.number)
        self.view("row_at", height, "int64")
        if len(p.rows) > 1 and self.row is None:
            for k in range(len(p.rows)):
                self.view(f"row{k}", height, "int64")
        for k in range(len(p.guards)):
            self.view(f"guard{k}", height, "int64")
        if p.channelwise:
            self.tap_shifts()
        if p.guards or (p.taps and not p.channelwise):
            self.view("table", self.taps * height, "int64")
        if p.guards and p.channelwise:
            self.view("whole", height // tile.rows, "int64")
        if p.guards:
            length = self.columns if p.channelwise else self.steps
            self.view("padding", length, self.number)
            fill = literal(p.fill, p.dtype)
            self.root.lines += [f"for k in range({self.parameter(length, 'length of padding')}):", f"    padding[k] = {fill}", "outside = address(padding)"]
        self.root.lines.append(f"base = address({self.a})")

    def decode_unit(self, unit: Scope, groups: Expr, strips: Expr) -> None:
        """Batch, strip of columns and group of rows of a unit; the first row and the number of rows."""
        p, height, tile = self.p, self.blocking.height, self.blocking.tile
        n_groups, n_height, n_rows = self.parameter(groups, "groups"), self.parameter(height, "height"), self.parameter(self.rows, "rows")
        unit.lines.append(f"first_row = unit % {n_groups} * {n_height}")
        if p.batch:
            n_strips = self.parameter(strips, "strips")
            unit.lines += [f"strip = unit // {n_groups} % {n_strips}", f"batch = unit // {n_groups} // {n_strips}"]
            unravel(self.writer, unit, "batch", p.batch, "g")
        else:
            unit.lines.append(f"strip = unit // {n_groups}")
        unit.lines += [f"count = min({n_height}, {n_rows} - first_row)", f"blocks = (count + {tile.rows - 1}) // {tile.rows}"]

    def row_addresses(self, unit: Scope) -> None:
        """Where each row of `a` starts; rows past the last repeat it. Coordinates and padded indices are kept for later."""
        p, tile = self.p, self.blocking.tile
        n_rows = self.parameter(self.rows, "rows")
        if len(p.rows) <= 1:
            row = Scope(unit)
            if p.rows:
                row.axes[p.rows[0]] = "r0"
                row.lines.append(f"r0 = min(first_row + i, {n_rows} - 1)")
            self.row_facts(row)
            row.close(f"for i in range(blocks * {tile.rows}):")
            return
        run, last = Scope(unit), len(p.rows) - 1
        coordinates = Scope(run)
        unravel(self.writer, coordinates, f"min(first_row + done, {n_rows} - 1)", p.rows, "r")
        run.lines += coordinates.lines
        run.axes.update({x: n for x, n in coordinates.axes.items() if x is not p.rows[-1]})
        extent = self.parameter(p.rows[-1].extent, f"extent r{last}")
        stop = f"done + 1 if first_row + done >= {n_rows} else min(blocks * {tile.rows}, {extent} - start)"
        run.lines += [f"start = r{last} - done", f"stop = {stop}"]
        row = Scope(run, {p.rows[-1]: "r"})
        row.lines.append("r = start + i")
        if self.row is None:
            row.lines += [f"row{k}[i] = {'r' if k == last else f'r{k}'}" for k in range(len(p.rows))]
        self.row_facts(row)
        row.close("for i in range(done, stop):")
        run.lines.append("done = stop")
        unit.lines.append("done = 0")
        run.close(f"while done < blocks * {tile.rows}:")

    def row_facts(self, row: Scope) -> None:
        """What is kept of row i."""
        p = self.p
        start = p.a_offset
        for x in (*p.reduced, *(p.columns if p.channelwise else ())):
            start = integer.coefficient(start, x)[1]
        row.lines.append(f"row_at[i] = base + {self.emitter.value(start, row)} * {self.size_bytes}")
        for k, g in enumerate(p.guards):
            index = g.index
            for x in p.taps:
                index = integer.coefficient(index, x)[1]
            row.lines.append(f"guard{k}[i] = {self.emitter.value(index, row)}")

    def tap_shifts(self) -> None:
        """Bytes from a row to its element of each tap, then a zero."""
        self.view("shifts", self.taps + 1, "int64")
        self.root.lines.append("at = 0")
        scopes = self.tap_loops(self.root)
        scopes[-1].lines += [f"shifts[at] = {self.emitter.value(self.tap_offset(), scopes[-1])} * {self.size_bytes}", "at += 1"]
        self.close_tap_loops(scopes)
        self.root.lines.append(f"shifts[{self.parameter(self.taps, 'taps')}] = 0")

    def tap_offset(self) -> Expr:
        return ex.total(integer.coefficient(self.p.a_offset, x)[0] * x for x in self.p.taps)

    def tap_loops(self, outer: Scope) -> list[Scope]:
        """Nested scopes over the taps, `outer` first."""
        scopes = [outer]
        for k, x in enumerate(self.p.taps):
            scopes.append(Scope(scopes[-1], {x: f"k{k}"}))
        return scopes

    def close_tap_loops(self, scopes: list[Scope]) -> None:
        for k in range(len(self.p.taps) - 1, -1, -1):
            scopes[k + 1].close(f"for k{k} in range({self.parameter(self.p.taps[k].extent, f'extent k{k}')}):")

    def find_whole(self, block: Scope) -> None:
        """Note whether all taps of all rows of a block lie inside, so that its rows' own addresses serve; then skip the table."""
        p, tile = self.p, self.blocking.tile
        least, most = [], []
        for k, g in enumerate(p.guards):
            steps = [integer.coefficient(g.index, x)[0] * (x.extent - 1) for x in p.taps]
            low = self.parameter(ex.total(ex.minimum(s, 0) for s in steps), f"low {k}")
            high = self.parameter(g.size - ex.total(ex.maximum(s, 0) for s in steps), f"high {k}")
            at = f"guard{k}[block * {tile.rows} + i]"
            least.append(f"({at} + {low} >= 0)")
            most.append(f"({at} < {high})")
        block.lines += ["inside = 1", f"for i in range({tile.rows}):", f"    inside &= {' & '.join(least + most)}", "whole[block] = inside", "if inside:", "    continue"]

    def tap_addresses(self, unit: Scope) -> None:
        """The table of row addresses of each tap, block by block; elements in the padding point at the row of padding."""
        p, tile = self.p, self.blocking.tile
        block = Scope(unit)
        n_taps = self.parameter(self.taps, "taps")
        block.lines += [f"at = block * {n_taps} * {tile.rows}"]
        if p.channelwise:
            self.find_whole(block)
        scopes = self.tap_loops(block)
        inmost = scopes[-1]
        moved = self.emitter.value(self.tap_offset(), inmost)
        checks = []
        for k, g in enumerate(p.guards):
            shift = ex.total(integer.coefficient(g.index, x)[0] * x for x in p.taps)
            inmost.lines.append(f"shift{k} = {self.emitter.value(shift, inmost)}")
            checks.append((f"x{k} = guard{k}[block * {tile.rows} + i] + shift{k}", f"(x{k} >= 0) & (x{k} < {self.parameter(g.size, f'guard {k}')})"))
        row = Scope(inmost)
        address = f"row_at[block * {tile.rows} + i] + {moved} * {self.size_bytes}"
        if checks:
            row.lines += [line for line, _ in checks]
            row.lines.append(f"table[at + i] = {address} if {' & '.join(c for _, c in checks)} else outside")
        else:
            row.lines.append(f"table[at + i] = {address}")
        row.close(f"for i in range({tile.rows}):")
        inmost.lines.append(f"at += {tile.rows}")
        self.close_tap_loops(scopes)
        block.close("for block in range(blocks):")

    def panel_start(self, panel: Scope) -> str:
        """Where the panel's columns of `b` lie; returns the step between its rows."""
        p, tile = self.p, self.blocking.tile
        depth = self.taps * self.steps
        n_depth, n_columns = self.parameter(depth, "depth"), self.parameter(self.columns, "columns")
        at = f"panel * {n_depth}"
        if self.blocking.shifted:
            panel.lines.append(f"first_column = min(panel * {tile.columns}, {n_columns} - {tile.columns})")
        else:
            panel.lines += [f"first_column = panel * {tile.columns}", f"width = min({tile.columns}, {n_columns} - first_column)"]
        if self.direct:
            start = p.b_offset
            for x in (*p.columns, *p.reduced):
                start = integer.coefficient(start, x)[1]
            panel.lines.append(f"columns = advanced({self.b}, {self.emitter.value(start, panel)} + first_column)")
            return "0" if p.inner is None else self.emitter.value(integer.coefficient(p.b_offset, p.inner)[0], self.root)
        if any(x in p.b.axes for x in p.batch):
            used = [x for x in p.batch if x in p.b.axes]
            where = self.emitter.value(ex.linear_index(used, [x.extent for x in used]), panel)
            at = f"({where} * {self.parameter(ex.ceildiv(self.columns, tile.columns), 'panels')} + panel) * {n_depth}"
        panel.lines.append(f"columns = advanced({self.b}, {at} * {tile.columns})")
        return str(tile.columns)

    def panel(self, panel: Scope) -> None:
        """One panel of columns: all blocks of rows, chunk by chunk."""
        p, tile = self.p, self.blocking.tile
        b_step = self.panel_start(panel)
        block = Scope(panel)
        size = tile.rows * tile.columns
        acc_at = f"block * {self.parameter(size if self.blocking.chunk is not None else 0, 'block of acc')}"
        total = self.parameter(self.taps, "taps") if p.taps else self.parameter(self.steps, "steps")
        byte_step = "0" if p.inner is None else self.emitter.value(integer.coefficient(p.a_offset, p.inner)[0] * self.size_bytes, self.root)
        if p.guards or p.taps:
            rows_at = f"advanced(table, (block * {self.parameter(self.taps, 'taps')}{' + k' if p.taps else ''}) * {tile.rows})"
        else:
            rows_at = f"advanced(row_at, block * {tile.rows})"
        if p.taps:
            taps, start, steps = "length", "0", self.parameter(self.steps, "steps")
            b_at = f"advanced(columns, k * {steps} * {tile.columns})"
        else:
            taps, start, steps, b_at = "1", f"k * {byte_step}", "length", f"advanced(columns, k * {b_step})"
        if p.channelwise:
            tail = f"{taps}, first_column * {self.size_bytes}, {b_at}, {p.group * tile.columns}, advanced(acc, {acc_at}), k == 0)"
            shifts = "advanced(shifts, k)" if p.taps else "shifts"
            whole = f"channel_tile(advanced(row_at, block * {tile.rows}), 0, {shifts}, 1, {tail}"
            zero = f"advanced(shifts, {self.parameter(self.taps, 'taps')})"
            block.lines += ["if whole[block]:", f"    {whole}", "else:", f"    channel_tile({rows_at}, {tile.rows}, {zero}, 0, {tail}"] if p.guards else [whole]
        else:
            tail = f"{taps}, {start}, {byte_step}, {steps}, {b_at}, {b_step}"
            whole = f"register_tile({rows_at}, {tail}, advanced(acc, {acc_at}), k == 0)"
            place = f"{acc_at} + (i - block * {tile.rows}) * {tile.columns}"
            few = [f"if count - block * {tile.rows} <= {FEW_LEFT}:", f"    for i in range(block * {tile.rows}, count):",
                   f"        row_tile(advanced(row_at, i), {tail}, advanced(acc, {place}), k == 0)", "else:", f"    {whole}"]
            block.lines += few if self.by_row else [whole]
        last = Scope(block)
        self.stores(last, acc_at)
        last.close(f"if k + length == {total}:")
        chunk = Scope(panel)
        n_chunk = self.parameter(self.blocking.chunk if self.blocking.chunk is not None else self.taps if p.taps else self.steps, "chunk")
        chunk.lines += [f"length = min({n_chunk}, {total} - k)", "for block in range(blocks):", *("    " + x for x in block.lines)]
        chunk.close(f"for k in range(0, {total}, {n_chunk}):")

    def stores(self, block: Scope, acc_at: str) -> None:
        """What becomes of a block's accumulators."""
        p, tile = self.p, self.blocking.tile
        row = Scope(block)
        row.lines.append(f"at = (i - block * {tile.rows}) * {tile.columns}" + f" + {acc_at}")
        if len(p.rows) == 1 or self.row is not None:
            row.lines.append("r0 = first_row + i")
            row.axes[p.rows[0] if self.row is None else self.row] = "r0"
        else:
            for k, x in enumerate(p.rows):
                row.lines.append(f"r{k} = row{k}[i]")
                row.axes[x] = f"r{k}"
        if not p.columns:
            self.element(row, "acc[at]")
        elif len(p.columns) == 1:
            column = Scope(row, {p.columns[0]: "c"})
            row.lines.append("at -= first_column")
            self.element(column, "acc[at + c]")
            column.close(f"for c in range(first_column, first_column + {self.width}):")
        else:
            self.runs(row)
        row.close(f"for i in range(block * {tile.rows}, min(count, block * {tile.rows} + {tile.rows})):")

    def runs(self, row: Scope) -> None:
        """Several column axes: stretches along the innermost one."""
        p = self.p
        run = Scope(row)
        outer = Scope(run)
        unravel(self.writer, outer, "(first_column + done)", p.columns, "c")
        run.lines += outer.lines
        last = len(p.columns) - 1
        run.axes.update({x: n for x, n in outer.axes.items() if x is not p.columns[-1]})
        extent = self.parameter(p.columns[-1].extent, f"extent c{last}")
        run.lines += [f"run = min({self.width} - done, {extent} - c{last})", f"place = at + done - c{last}"]
        column = Scope(run, {p.columns[-1]: "c"})
        self.element(column, "acc[place + c]")
        column.close(f"for c in range(c{last}, c{last} + run):")
        run.lines.append("done += run")
        row.lines.append("done = 0")
        run.close(f"while done < {self.width}:")

    def element(self, scope: Scope, acc: str) -> None:
        """All stores of one element."""
        scope.names[ex.acc(self.p.dtype)] = acc
        for s, value, offset in zip(self.p.stores, self.values, self.offsets, strict=True):
            spelled = self.emitter.value(value, scope)
            scope.lines.append(self.emitter.store(s.tensor, self.emitter.value(offset, scope), spelled))
