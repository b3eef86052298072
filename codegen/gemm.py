"""Kernels for products: text around the register tile.

One text serves matrix products, batched products and convolutions. A unit of work is some rows of one batch by some panels of columns:

    for each unit:
        the address of each row (and, with taps, of each row of each tap; rows of padding point at a row of `fill`)
        for each block of rows, the runs of taps that are not all padding
        if there are few rows, for each group of panels: tile that walks all of them side by side; stores
        for each panel that is left of columns:
            for each chunk of the reduced dimension, for each block of rows:
                register tile
                after the last chunk: stores, row by row
"""
from __future__ import annotations

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import MapNest
from ..ir.target import Target
from .blocking import Blocking, choose_blocking, product_key, reads_b_in_place, row_count
from .contraction import ONE, ZERO, Layouts, Product, extent_product, pack_b, packed_tensor
from .contraction_text import ContractionText, kernel_source, unravel
from .dots import pack_dots, packed_dots
from .epilogue import find, finishes, place_arguments
from .flatten import size_loads
from .scalar import Emitter, Scope, Writer, literal
from .tile_shapes import TileShape

FEW_LEFT = 2  # rows of a block; up to here each is computed by itself where the number of rows is not known before
SHORT_GAP = 8  # steps of padding that are multiplied rather than begin another run of taps: a call of a tile costs as much
RESULTS_SHARE = 4  # of the second-level cache; larger results are asked for before they are written
NARROW = 4  # columns; results of up to so many are stored column by column, along the rows of a unit


def schedule(p: Product, layouts: Layouts, target: Target) -> list[MapNest | KernelCall]:
    """Packing of `b`, unless it is read in place, and the product."""
    direct = reads_b_in_place(p, target)
    blocking = choose_blocking(p, target, direct)
    if direct:
        return [ProductText(p, None, blocking, layouts, finisher=target).call()]
    if p.joined:
        from .matrix_product import MatrixText

        packed = packed_dots(p, blocking.tile.columns)
        return [packing(p, packed, blocking), MatrixText(p, packed, blocking, layouts).call()]
    packed = packed_dots(p, blocking.tile.columns) if p.form is not None and not p.channelwise else packed_tensor(p, blocking.tile.columns)
    return [packing(p, packed, blocking), ProductText(p, packed, blocking, layouts, finisher=target).call()]


# ------------------------------------------------------------------------------------------------------------------------- packing
def packing(p: Product, packed: Tensor, blocking: Blocking) -> MapNest | KernelCall:
    """What writes the panels of `b`: a kernel that transposes in registers where an activation's reduced axis is the adjacent one, else a map."""
    tile = blocking.tile
    if p.form is not None and not p.channelwise:
        return pack_dots(p, tile.columns, packed, blocking.shifted)
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
    sizes = size_loads((packed, ex.load_tensor(p.b)), (*batch, *p.columns, p.inner))
    emitter = Emitter(writer, {}, (), sizes, {x: k for k, x in enumerate(batch)})
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


# ------------------------------------------------------------------------------------------------------------------------- emission
class ProductText(ContractionText):
    """Writes the kernel of a product and its call; `packed` is None where `b` is read in place.

    Args:
        finisher: the machine, where its tiles may compute epilogues.
    """

    reads_a = True  # whether `a` is a tensor in memory

    def __init__(self, p: Product, packed: Tensor | None, blocking: Blocking, layouts: Layouts, beside: ContractionText | None = None,
                 finisher: Target | None = None) -> None:
        self.direct = packed is None
        self.packed = ex.load_tensor(p.b) if packed is None else packed
        self.blocking = blocking
        super().__init__(p, (p.a, self.packed) if self.reads_a else (self.packed,), layouts, beside)
        self.a, self.b = self.writer.buffer(p.a) if self.reads_a else "", self.writer.buffer(self.packed)
        at_once = blocking.chunk is None and blocking.shifted and blocking.abreast == 1 and not p.channelwise and not self.skips and self.has_known_sums
        self.epilogue = find(self) if finisher is not None and finishes(finisher) and at_once else None
        size = integer.as_int(p.stores[0].tensor.numel())
        self.fetches = finisher is not None and size is not None and size * p.dtype.itemsize_bytes > RESULTS_SHARE * finisher.l2_bytes

    @property
    def by_row(self) -> bool:
        """Whether a block of few rows is computed row by row: where only the run knows how many there are."""
        return row_count(self.rows) is None and not self.p.taps and not self.p.guards

    # ---- the kernel
    def call(self) -> KernelCall:
        p, tile = self.p, self.blocking.tile
        height = self.blocking.height
        groups, panels = ex.ceildiv(self.rows, height), ex.ceildiv(self.columns, tile.columns)
        strips = ex.ceildiv(panels, self.blocking.strip)
        self.declare()
        for name in ("advanced", "address"):
            self.writer.function(name, name)
        self.prologue()
        unit = Scope(self.root)
        self.decode_unit(unit, groups, strips)
        self.row_addresses(unit)
        if p.guards or (p.taps and not p.channelwise):
            self.tap_addresses(unit)
        self.gather(unit)
        panel = Scope(unit)
        if self.epilogue is None:
            self.panel(panel)
        else:
            self.finished(panel, place_arguments(self, self.epilogue, unit))
        strip = self.parameter(self.blocking.strip, "strip")
        start, stop = f"strip * {strip}", f"min(strip * {strip} + {strip}, {self.parameter(panels, 'panels')})"
        if self.blocking.abreast > 1:
            unit.lines += [f"start = {start}", f"stop = {stop}"]
            start, stop = "start", "stop"
            self.panels_abreast(unit)
        panel.close(f"for panel in range({start}, {stop}):")
        unit.close("for unit in range(lo, hi):")
        self.finish()
        batches = extent_product(p.batch)
        flops = 2 * batches * self.rows * self.columns * self.steps * self.taps
        moved = (p.a.numel() + self.packed.numel() + self.columns * self.rows * batches) * p.b_dtype.itemsize_bytes
        kind = ("depthwise" if p.group == 1 else "grouped") if p.channelwise else "convolution" if p.taps else "product"
        operands = p.form.stored if p.form is not None and p.form.is_float else p.a.dtype
        source = kernel_source(f"{kind}_{tile.rows}x{tile.columns}_{operands.short}", self.writer, self.root)
        return KernelCall(source, tuple(self.writer.buffers), tuple(self.writer.parameters), batches * groups * strips, self.scratch_bytes, p.origin, flops, moved,
                          product_key(p))

    def declare(self) -> None:
        """The functions that compute tiles."""
        p, tile = self.p, self.blocking.tile
        shape = (tile.rows, tile.vectors, tile.lanes, p.dtype.short)
        if p.channelwise:
            self.writer.function("channel_tile", "channel_tile", *shape, p.group, *(() if p.form is None else (p.a.dtype.short,)))
        elif p.form is not None:
            self.writer.function("register_tile", "dot_tile", *shape[:3], p.form.name, p.a.dtype.short)
            if self.by_row:
                self.writer.function("row_tile", "dot_tile", 1, *shape[1:3], p.form.name, p.a.dtype.short)
        else:
            name, form = ("register_tile", ()) if self.epilogue is None else ("finished_tile", (self.epilogue.form, self.fetches))
            self.writer.function(name, name, *shape, self.unit_step, *form)
            if self.by_row:
                self.writer.function("row_tile", name, 1, *shape[1:], self.unit_step, *form)
            if self.blocking.abreast > 1:
                self.writer.function("abreast_tile", "abreast_tile", self.abreast_rows, *shape[1:], self.unit_step, self.blocking.abreast)

    @property
    def abreast_rows(self) -> int:
        """Rows of the tile that walks panels side by side."""
        return 1 if self.by_row else self.blocking.tile.rows

    def gather(self, unit: Scope) -> None:
        """What is done with rows of `a` before they are multiplied: nothing, they are read in place."""

    def finish(self) -> None:
        """What is done after the last unit: nothing."""

    @property
    def width(self) -> str:
        """Columns of a panel: known for whole panels, so that loops over them unroll."""
        return str(self.blocking.tile.columns) if self.blocking.shifted else str(self.columns.value) if self.along_rows else "width"

    @property
    def has_known_sums(self) -> bool:
        """Whether the number of terms of a sum is known."""
        return integer.as_int(self.steps) is not None and integer.as_int(self.taps) is not None

    @property
    def along_rows(self) -> bool:
        """Whether results are stored column by column: there are fewer than fill a vector, and each has a row of the unit to be computed along."""
        columns = integer.as_int(self.columns)
        one_by_one = not self.blocking.shifted and self.blocking.abreast == 1
        return columns is not None and columns <= NARROW and one_by_one and self.has_known_sums and not self.p.channelwise

    @property
    def skips(self) -> bool:
        """Whether taps that are padding for all rows of a block are left out."""
        p = self.p
        return bool(p.guards and p.taps) and not p.channelwise and p.form is None and p.fill == 0 and not self.blocking.copied

    @property
    def keeps_sums(self) -> bool:
        """Whether the sums of all blocks of a unit stay until the last of them is done."""
        return self.blocking.chunk is not None or self.along_rows

    def copy_chunk(self, b_step: str) -> list[str]:
        """A chunk of the panel, row after row."""
        width = self.blocking.tile.columns
        return ["for s in range(length):", f"    for j in range({width}):", f"        part[s * {width} + j] = columns[(k + s) * {b_step} + j]"]

    @property
    def unit_step(self) -> bool:
        return self.p.inner is None or integer.coefficient(self.p.a_offset, self.p.inner)[0] is ONE

    def prologue(self) -> None:
        """Regions of scratch memory, the row of padding, the address of `a`."""
        p, tile, height = self.p, self.blocking.tile, self.blocking.height
        blocks = height // tile.rows if self.keeps_sums else 1
        sums = blocks * tile.rows * tile.columns
        if self.blocking.abreast > 1:
            sums = max(sums, self.blocking.abreast * self.abreast_rows * tile.columns)
        if self.epilogue is None:
            self.view("acc", sums, self.number)
        self.view("row_at", height, "int64")
        if self.blocking.copied:
            self.view("part", (self.blocking.chunk or 1) * tile.columns, self.number)
        if len(p.rows) > 1 and self.row is None:
            for k in range(len(p.rows)):
                self.view(f"row{k}", height, "int64")
        for k in range(len(p.guards)):
            self.view(f"guard{k}", height, "int64")
        if p.channelwise:
            self.tap_shifts()
        if p.guards or (p.taps and not p.channelwise):
            self.view("table", self.taps * height, "int64")
        if self.skips:
            for name in ("run_from", "run_to"):
                self.view(name, self.taps * (height // tile.rows), "int64")
            self.view("runs", height // tile.rows, "int64")
        if p.guards and p.channelwise:
            self.view("whole", height // tile.rows, "int64")
        if p.guards:
            length = self.columns if p.channelwise else self.steps
            narrow = p.a.dtype.is_float and p.a.dtype.bits == 16  # seen as the bits it is; filled with zeros alone
            self.view("padding", length, "uint16" if narrow else p.a.dtype.numpy_name)
            fill = "0" if narrow else literal(p.fill, p.a.dtype)
            self.root.lines += [f"for k in range({self.parameter(length, 'length of padding')}):", f"    padding[k] = {fill}", "outside = address(padding)"]
        self.root.lines.append(f"base = address({self.a})")

    def decode_unit(self, unit: Scope, groups: Expr, strips: Expr) -> None:
        """Batch, strip of columns and group of rows of a unit; the first row and the number of rows."""
        height, tile = self.blocking.height, self.blocking.tile
        n_groups, n_height, n_rows = self.parameter(groups, "groups"), self.parameter(height, "height"), self.parameter(self.rows, "rows")
        unit.lines.append(f"first_row = unit % {n_groups} * {n_height}")
        self.decode_strip(unit, n_groups, strips)
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
            row.lines += [f"inside = {' & '.join(c for _, c in checks)}", f"table[at + i] = {address} if inside else outside"]
        else:
            row.lines.append(f"table[at + i] = {address}")
        if self.skips:
            block.lines += ["tap = 0", "number = 0", f"run = block * {n_taps}"]
            inmost.lines.append("some = False")
            row.lines.append("some |= inside")
        row.close(f"for i in range({tile.rows}):")
        inmost.lines.append(f"at += {tile.rows}")
        if self.skips:
            gap = self.parameter(ex.ceildiv(ex.const(SHORT_GAP), ex.maximum(self.steps, 1)), "gap")
            inmost.lines += ["tap += 1", "if some:", f"    if (number == 0) | (tap - run_to[run + max(number - 1, 0)] > {gap}):", "        run_from[run + number] = tap - 1",
                             "        number += 1", "    run_to[run + number - 1] = tap"]
        self.close_tap_loops(scopes)
        if self.skips:
            block.lines += ["if number == 0:", "    run_from[run] = 0", "    run_to[run] = 1", "    number = 1", "runs[block] = number"]
        block.close("for block in range(blocks):")

    def panel_columns(self, panel: Scope, number: str) -> None:
        """The first column of a panel, and how many it has where that is not the tile's width."""
        width, n_columns = self.blocking.tile.columns, self.parameter(self.columns, "columns")
        if self.blocking.shifted:
            panel.lines.append(f"first_column = min({number} * {width}, {n_columns} - {width})")
        else:
            panel.lines += [f"first_column = {number} * {width}", f"width = min({width}, {n_columns} - first_column)"]

    def panels_abreast(self, unit: Scope) -> None:
        """Whole groups of panels, side by side, where a unit has few rows; `start` is the first panel that is left."""
        p, tile, rows, abreast = self.p, self.blocking.tile, self.abreast_rows, self.blocking.abreast
        few = Scope(unit, conditional=self.by_row)
        group = Scope(few)
        b_step = self.panel_start(group)
        steps = self.parameter(p.groups, "groups of steps")
        taps = self.parameter(self.taps, "taps") if p.taps else "1"
        table = "table" if p.guards or p.taps else "row_at"
        block = Scope(group)
        apart = f"{self.parameter(p.depth, 'depth')} * {tile.columns}"
        block.lines.append(f"abreast_tile(advanced({table}, top), {taps}, 0, {self.byte_step()}, {steps}, columns, {b_step}, {apart}, acc)")
        panel = Scope(block)
        self.panel_columns(panel, "(panel + beside)")
        row = Scope(panel)
        row.lines.append(f"at = (beside * {rows} + i - top) * {tile.columns}")
        self.store_row(row)
        row.close(f"for i in range(top, min(count, top + {rows})):")
        panel.close(f"for beside in range({abreast}):")
        block.close(f"for top in range(0, count, {rows}):")
        group.close(f"for panel in range(start, stop - {abreast - 1}, {abreast}):")
        few.lines.append(f"start += (stop - start) // {abreast} * {abreast}")
        if self.by_row:
            few.close(f"if count <= {FEW_LEFT}:")
        else:
            unit.lines += few.lines

    def byte_step(self) -> str:
        """Bytes between two steps of a row of `a`."""
        p = self.p
        return "0" if p.inner is None else self.emitter.value(integer.coefficient(p.a_offset, p.inner)[0] * self.size_bytes, self.root)

    def panel_start(self, panel: Scope) -> str:
        """Where the panel's columns of `b` lie; returns the step between its rows."""
        p, tile = self.p, self.blocking.tile
        n_depth = self.parameter(p.depth, "depth")
        at = f"panel * {n_depth}"
        self.panel_columns(panel, "panel")
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
        return str(tile.columns * p.fold)

    def panel(self, panel: Scope) -> None:
        """One panel of columns: all blocks of rows, chunk by chunk."""
        p, tile = self.p, self.blocking.tile
        b_step = self.panel_start(panel)
        block = Scope(panel)
        size = tile.rows * tile.columns
        acc_at = f"block * {self.parameter(size if self.keeps_sums else 0, 'block of acc')}"
        total = self.parameter(self.taps, "taps") if p.taps else self.parameter(p.groups, "groups of steps")
        byte_step = self.byte_step()
        if p.guards or p.taps:
            rows_at = f"advanced(table, (block * {self.parameter(self.taps, 'taps')}{' + k' if p.taps else ''}) * {tile.rows})"
        else:
            rows_at = f"advanced(row_at, block * {tile.rows})"
        if p.taps:
            taps, start, steps = "length", "0", self.parameter(p.groups, "groups of steps")
            b_at = f"advanced(columns, k * {steps} * {tile.columns * p.fold})"
        else:
            taps, start, steps, b_at = "1", f"k * {byte_step}" + (f" * {p.fold}" if p.fold > 1 else ""), "length", f"advanced(columns, k * {b_step})"
        if p.channelwise:
            tail = f"{taps}, first_column * {self.size_bytes}, {b_at}, {p.group * tile.columns}, advanced(acc, {acc_at}), k == 0)"
            shifts = "advanced(shifts, k)" if p.taps else "shifts"
            whole = f"channel_tile(advanced(row_at, block * {tile.rows}), 0, {shifts}, 1, {tail}"
            zero = f"advanced(shifts, {self.parameter(self.taps, 'taps')})"
            block.lines += ["if whole[block]:", f"    {whole}", "else:", f"    channel_tile({rows_at}, {tile.rows}, {zero}, 0, {tail}"] if p.guards else [whole]
        else:
            if self.blocking.copied:
                b_at, tile_step = "part", str(tile.columns)
            else:
                tile_step = b_step
            tail = f"{taps}, {start}, {byte_step}, {steps}, {b_at}, {tile_step}"
            todo = f"length * {steps}" if p.taps else "length"
            fetch, no_fetch = f", ahead + min(block * share, rest) * {todo}, share", ", ahead, 0"
            if self.blocking.copied:
                fetch = ", ahead, share if block == 0 else 0"
            if p.form is not None:
                rest = self.emitter.value(self.steps % p.fold, self.root) if p.tail else "0"
                rest = rest if p.taps or not p.tail else f"({rest} if k + length == {total} else 0)"
                tail, fetch, no_fetch = f"{taps}, {start}, {steps}, {rest}, {b_at}, {b_step}", "", ""
            dense = "" if p.form is not None else f", {tile.columns}"
            whole = f"register_tile({rows_at}, {tail}, advanced(acc, {acc_at}){dense}, k == 0{fetch})"
            place = f"{acc_at} + (i - block * {tile.rows}) * {tile.columns}"
            few = [f"if count - block * {tile.rows} <= {FEW_LEFT}:", f"    for i in range(block * {tile.rows}, count):",
                   f"        row_tile(advanced(row_at, i), {tail}, advanced(acc, {place}){dense}, k == 0{no_fetch})", "else:", f"    {whole}"]
            block.lines += self.runs(byte_step, steps, b_step, acc_at) if self.skips else few if self.by_row else [whole]
        if not self.along_rows:
            last = Scope(block)
            self.stores(last, acc_at)
            last.close(f"if k + length == {total}:")
        chunk = Scope(panel)
        n_chunk = self.parameter(ex.as_expr(self.blocking.chunk) if self.blocking.chunk is not None else self.taps if p.taps else p.groups, "chunk")
        chunk.lines.append(f"length = min({n_chunk}, {total} - k)")
        if not p.channelwise and p.form is None:
            chunk.lines += self.ahead(b_step, total)
        if self.blocking.copied:
            chunk.lines += self.copy_chunk(b_step)
        chunk.lines += ["for block in range(blocks):", *("    " + x for x in block.lines)]
        chunk.close(f"for k in range(0, {total}, max({n_chunk}, 1)):")  # a size may turn out to be zero
        if self.along_rows:
            self.stores_along_rows(panel)
        if not self.has_known_sums:
            self.empty_sums(panel, acc_at, size, total)

    def runs(self, byte_step: str, steps: str, b_step: str, acc_at: str) -> list[str]:
        """The tile of each run of taps of a block, as far as the chunk has it."""
        tile, n_taps = self.blocking.tile, self.parameter(self.taps, "taps")
        rows_at, b_at = f"advanced(table, (block * {n_taps} + tap) * {tile.rows})", f"advanced(columns, tap * {steps} * {tile.columns * self.p.fold})"
        fetch = f"ahead + (min(block * share, rest) * length + (tap - k) * share) * {steps}, share"
        return [f"for run in range(block * {n_taps}, block * {n_taps} + runs[block]):", "    tap = max(run_from[run], k)", "    number = min(run_to[run], k + length) - tap",
                "    if number > 0:",
                f"        register_tile({rows_at}, number, 0, {byte_step}, {steps}, {b_at}, {b_step}, advanced(acc, {acc_at}), {tile.columns}, "
                f"tap == run_from[block * {n_taps}], {fetch})"]

    def finished(self, panel: Scope, places: str) -> None:
        """One panel of columns by tiles that store their results."""
        p, tile = self.p, self.blocking.tile
        b_step = self.panel_start(panel)
        steps = self.parameter(p.groups, "groups of steps")
        taps, total = (self.parameter(self.taps, "taps"),) * 2 if p.taps else ("1", steps)
        panel.lines += ["k = 0", f"length = {total}", *self.ahead(b_step, total)]
        table = "table" if p.guards or p.taps else "row_at"

        def call(tile_name: str, first: str, fetch: str, count: str) -> str:
            return f"{tile_name}(address(advanced({table}, {first})), {taps}, {self.byte_step()}, {steps}, address(columns), {b_step}, {fetch}, first_row + {first}, " \
                   f"first_column, {count}, {places})"
        if self.by_row:
            whole, few = call("finished_tile", "0", "ahead, share, rest", "count - left"), call("row_tile", "(count - left)", "ahead, 0, 0", "left")
            panel.lines += [f"left = count % {tile.rows}", f"left = left if left <= {FEW_LEFT} else 0", "if left < count:", f"    {whole}", "if left > 0:", f"    {few}"]
        else:
            panel.lines.append(call("finished_tile", "0", "ahead, share, rest", "count"))

    def empty_sums(self, panel: Scope, acc_at: str, size: int, total: str) -> None:
        """Where only the run knows how long sums are: those of nothing are zero."""
        nothing = Scope(panel, conditional=True)
        block = Scope(nothing)
        block.lines += [f"for i in range({size}):", f"    acc[{acc_at} + i] = 0"]
        self.stores(block, acc_at)
        block.close("for block in range(blocks):")
        nothing.close(f"if {total} == 0:" if not self.p.taps else f"if {total} * {self.parameter(self.steps, 'steps')} == 0:")

    def ahead(self, b_step: str, total: str) -> list[str]:
        """Where the part of `b` that comes next starts, and how many bytes of it each step of a block fetches, so that all blocks together fetch it whole.

        Nothing comes behind the last panel, and no block fetches from behind the part: addresses of no memory are looked up in vain each time.
        """
        if self.blocking.copied:
            return self.ahead_in_place(b_step, total)
        if self.direct:
            return ["ahead = base", "share = 0", "rest = 0"]
        panels = self.parameter(ex.ceildiv(self.columns, self.blocking.tile.columns), "panels")
        next_at = f"(k + length) * {self.parameter(self.steps, 'steps')}" if self.p.taps else "(k + length)"
        size = f"{b_step} * {self.size_bytes}"
        return [f"more = (k + length < {total}) | (panel + 1 < {panels})", f"ahead = address(columns) + ({next_at} * {size} if more else 0)",
                f"share = ({size} + blocks - 1) // blocks if more else 0", f"rest = {size} - share"]

    def ahead_in_place(self, b_step: str, total: str) -> list[str]:
        """Where the chunk of `b` that is copied next starts: the first block fetches a row of it at each step, if it is as long as this one."""
        width, columns = self.blocking.tile.columns, self.parameter(self.columns, "columns")
        panels = self.parameter(ex.ceildiv(self.columns, width), "panels")
        return [f"last = k + length == {total}", f"more = (panel + 1 < {panels}) if last else (k + 2 * length <= {total})",
                f"step = min((panel + 1) * {width}, {columns} - {width}) - first_column if last else (k + length) * {b_step}",
                f"ahead = address(columns) + (step * {self.size_bytes} if more else 0)", f"share = {b_step} * {self.size_bytes} if more else 0"]

    def stores(self, block: Scope, acc_at: str) -> None:
        """What becomes of a block's accumulators."""
        tile = self.blocking.tile
        row = Scope(block)
        row.lines.append(f"at = (i - block * {tile.rows}) * {tile.columns}" + f" + {acc_at}")
        self.store_row(row)
        row.close(f"for i in range(block * {tile.rows}, min(count, block * {tile.rows} + {tile.rows})):")

    def stores_along_rows(self, panel: Scope) -> None:
        """What becomes of the only panel's sums, column by column."""
        p = self.p
        column = Scope(panel)
        unravel(self.writer, column, "c", p.columns, "c")
        row = Scope(column)
        self.bind_row(row)
        self.element(row, f"acc[i * {self.blocking.tile.columns} + c]")
        row.close("for i in range(count):")
        column.close(f"for c in range({self.width}):")

    def store_row(self, row: Scope) -> None:
        """All stores of row i, whose sums start at `acc[at]`."""
        self.bind_row(row)
        self.store_columns(row, self.width)

    def bind_row(self, row: Scope) -> None:
        """The coordinates of row i."""
        p = self.p
        if len(p.rows) == 1 or self.row is not None:
            row.lines.append("r0 = first_row + i")
            row.axes[p.rows[0] if self.row is None else self.row] = "r0"
        else:
            for k, x in enumerate(p.rows):
                row.lines.append(f"r{k} = row{k}[i]")
                row.axes[x] = f"r{k}"
