"""Depthwise convolutions by tiles that walk along a line of results.

One axis of results, with the taps along it, is the line; the others are walked around it. A line is cut into segments, so that long ones are work for several units:

    for each unit, some segments by some panels of channels:
        the address of each segment's inputs, for each tap across the line; tables of addresses for tiles that touch the padding
        for each panel of channels:
            tiles of all segments
            stores, result by result

Where tiles compute their epilogues (`codegen.epilogue`), each takes all panels before the line goes on: the input is read once, in order.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import MapNest
from ..ir.target import Target
from .blocking import LINE, RANKS, ROWS_OF_UNIT, even_strip, product_key
from .contraction import ONE, ZERO, Guard, Layouts, Product, extent_product, pack_b, packed_tensor
from .contraction_text import ContractionText, kernel_source, unravel
from .epilogue import find, finishes, place_arguments
from .scalar import Scope, literal
from .tile_shapes import TileShape

MOST_TAPS = 32  # along the line, which are written out
WIDEST_SPAN = 64  # inputs of a tile along the line
SPARE_REGISTERS = 2  # beside sums and weights: an input, and the product where multiplying and adding are two instructions
FEWEST_RESULTS, MOST_RESULTS = 4, 16  # of a tile along the line
LOAD = 0.5  # of a multiply-add, what a load costs
GATHERED = 6  # panels of a unit; from here on tables for all tiles are repaid by fewer and longer calls
OVERHEAD = 12  # multiply-adds that a tile's own work costs


@dataclass(frozen=True, eq=False)
class Walk:
    """How a line is walked.

    Args:
        p: the product, with the line's position as the last of its rows, and the tap along it as the last tap.
        taps, stride, dilation: along the line; stride and dilation have no common factor.
        step: elements of `a` between two inputs of the line.
    """

    p: Product
    taps: int
    stride: int
    dilation: int
    step: Expr

    @property
    def position(self) -> Expr:
        return self.p.rows[-1]

    @property
    def tap(self) -> Expr:
        return self.p.taps[-1]

    def span(self, results: int) -> int:
        """Inputs between the first and the last of a tile, both included."""
        return (results - 1) * self.stride + (self.taps - 1) * self.dilation + 1

    def pace(self, guard: Guard) -> int:
        """What a guard's index gains from one input of the line to the next."""
        return (integer.as_int(integer.coefficient(guard.index, self.position)[0]) or 0) // self.stride

    def loads(self, results: int) -> int:
        """Inputs that a tile loads for each tap across the line."""
        return len({i * self.stride + k * self.dilation for i in range(results) for k in range(self.taps)})


@dataclass(frozen=True)
class LineBlocking:
    """How the work is cut.

    Args:
        tile: results along the line by channels.
        segment: results of a segment, a multiple of the tile's; None: whole lines.
        height: segments of a unit.
        strip: panels of channels of a unit.
        gathered: whether all tiles take their inputs' addresses from tables, one by one, not only those that touch the padding.
        ahead: whether a unit fetches what the next one reads: the input does not stay in the second-level cache, and panels walk over it by steps too long for
            the processor to foresee.
    """

    tile: TileShape
    segment: int | None
    height: int
    strip: int
    gathered: bool
    ahead: bool


# --------------------------------------------------------------------------------------------------------------------- recognition
def recognise(p: Product) -> Walk | None:
    """The best walk along a line, the one that saves most loads; None where no taps lie along an axis of results."""
    if p.group != 1:
        return None
    found = [w for x in p.rows for t in p.taps if (w := _walk(p, x, t)) is not None]
    return min(found, key=lambda w: (w.loads(FEWEST_RESULTS) / w.taps, -p.rows.index(w.position)), default=None)


def _walk(p: Product, x: Expr, t: Expr) -> Walk | None:
    """The walk along x with the taps t, if both move through `a` and its padding together."""
    taps = integer.as_int(t.extent)
    along, between = (integer.as_int(integer.coefficient(p.a_offset, axis)[0]) for axis in (x, t))
    if taps is None or not 2 <= taps <= MOST_TAPS or along is None or between is None or along <= 0 or between <= 0:
        return None
    step = gcd(along, between)
    stride, dilation = along // step, between // step
    for g in p.guards:
        a, b = integer.coefficient(g.index, x), integer.coefficient(g.index, t)
        if a is None or b is None or a[0] * dilation is not b[0] * stride or integer.as_int(a[0]) is None:
            return None
        if a[0] is not ZERO and any(o in g.index.axes for o in (*p.rows, *p.taps) if o is not x and o is not t):
            return None
    rows, others = tuple(r for r in p.rows if r is not x), tuple(o for o in p.taps if o is not t)
    walk = Walk(replace(p, rows=(*rows, x), taps=(*others, t)), taps, stride, dilation, ex.const(step))
    return walk if walk.span(2) <= WIDEST_SPAN else None


# ------------------------------------------------------------------------------------------------------------------------- cutting
def choose_blocking(w: Walk, target: Target) -> LineBlocking:
    """The blocking that measurements found best, else the cost model's."""
    wanted = target.choice("blocking", product_key(w.p))
    first = cut(w, target, 0)
    if not wanted:
        return first
    found = list(dict.fromkeys([first, *(cut(w, target, rank) for rank in range(1, RANKS)), replace(first, height=-(-first.height // 2)), replace(first, height=2 * first.height),
                                replace(first, strip=-(-first.strip // 2)), replace(first, strip=2 * first.strip)]))
    return found[wanted] if wanted < len(found) else first


def cut(w: Walk, target: Target, rank: int) -> LineBlocking:
    """Cuts for a tile (0 the best by the cost model). Units are about as large as those of other products, and suffice for every core."""
    p = w.p
    tile = choose_tile(w, target, rank)
    length, lines, columns = (integer.as_int(e) for e in (w.position.extent, extent_product(p.rows[:-1]), extent_product(p.columns)))
    cuts = 1 if length is None else max(1, round(length / ROWS_OF_UNIT))
    results = ROWS_OF_UNIT if length is None else -(-length // cuts)
    segment = None if length is not None and cuts == 1 else -(-results // tile.rows) * tile.rows
    segments = None if lines is None else max(1, lines * cuts)
    height = max(1, round(ROWS_OF_UNIT / results))
    if segments is not None:
        height = -(-segments // -(-segments // height))
    panels = 1 << 20 if columns is None else -(-columns // tile.columns)
    wanted = 2 * target.cores if target.cores > 1 else 1
    others = (integer.as_int(extent_product(p.batch)) or 1) * (1 if segments is None else -(-segments // height))
    strip = panels if columns is None else even_strip(panels, -(-panels // min(panels, -(-wanted // others))), others, target.cores)
    size = integer.as_int(p.a.numel())
    ahead = segment is None and len(p.rows) > 1 and strip == panels and size is not None and size * p.a.dtype.itemsize_bytes > target.l2_bytes
    return LineBlocking(tile, segment, height, strip, strip >= GATHERED, ahead)


def choose_tile(w: Walk, target: Target, rank: int) -> TileShape:
    """The tile that takes the fewest cycles: multiplications and loads, of results that overlap as well."""
    length, columns, across = (integer.as_int(e) for e in (w.position.extent, extent_product(w.p.columns), extent_product(w.p.taps[:-1])))

    def cycles(s: TileShape) -> float:
        work = s.vectors * (s.rows * w.taps + LOAD * (w.loads(s.rows) + w.taps)) * (across or 1)
        return -(-(length or ROWS_OF_UNIT) // s.rows) * (1 / s.columns if columns is None else -(-columns // s.columns)) * (work + OVERHEAD)
    ordered = sorted(_shapes(w, target, length, columns), key=cycles)
    return ordered[min(rank, len(ordered) - 1)]


def _shapes(w: Walk, target: Target, length: int | None, columns: int | None) -> Iterator[TileShape]:
    """Tiles no longer than the line and no wider than the channels, whose sums and weights fit the registers as far as they can."""
    lanes = target.lanes(w.p.dtype.itemsize_bytes)
    while columns is not None and lanes > columns:
        lanes //= 2
    for vectors in (1, 2):
        fitting = (target.vector_registers - SPARE_REGISTERS) // vectors - w.taps
        most = min(MOST_RESULTS, max(FEWEST_RESULTS * 2, fitting) if vectors == 1 else fitting, MOST_RESULTS if length is None else length)
        if columns is not None and vectors * lanes > columns:
            continue
        for rows in range(min(FEWEST_RESULTS, most), most + 1):
            if rows > 0 and w.span(rows) <= WIDEST_SPAN:
                yield TileShape(rows, vectors, lanes)


# ------------------------------------------------------------------------------------------------------------------------ emission
def schedule(w: Walk, layouts: Layouts, target: Target) -> list[MapNest | KernelCall]:
    """Packing of the weights, and the convolution."""
    blocking = choose_blocking(w, target)
    packed = packed_tensor(w.p, blocking.tile.columns)
    return [pack_b(w.p, blocking.tile.columns, packed, True), LinesText(w, packed, blocking, layouts, finishes(target)).call()]


class LinesText(ContractionText):
    """Writes the kernel and its call.

    Args:
        finished: whether tiles compute their epilogues, where these qualify.
    """

    def __init__(self, w: Walk, packed: Tensor, blocking: LineBlocking, layouts: Layouts, finished: bool) -> None:
        super().__init__(w.p, (w.p.a, packed), layouts)
        self.w, self.packed, self.blocking = w, packed, blocking
        self.a, self.b = self.writer.buffer(w.p.a), self.writer.buffer(packed)
        self.lines, self.outer = w.p.rows[:-1], w.p.taps[:-1]
        self.span = w.span(blocking.tile.rows)
        length = integer.as_int(w.position.extent)
        self.short_lines = length is None or length < blocking.tile.rows  # whether a tile may be longer than the line
        self.epilogue = find(self) if finished and not self.short_lines else None
        self.gathers = bool(w.p.guards) or self.short_lines
        self.runs = not (self.gathers and blocking.gathered)  # whether tiles that lie inside are computed side by side
        self.segments = ONE if blocking.segment is None else ex.ceildiv(w.position.extent, blocking.segment)
        self.segment = w.position.extent if blocking.segment is None else ex.const(blocking.segment)
        self.tiles = ex.ceildiv(self.segment, blocking.tile.rows)

    def call(self) -> KernelCall:
        p, tile, blocking = self.p, self.blocking.tile, self.blocking
        self.declare()
        total, panels = extent_product(self.lines) * self.segments, ex.ceildiv(self.columns, tile.columns)
        groups, strips = ex.ceildiv(total, blocking.height), ex.ceildiv(panels, blocking.strip)
        self.prologue()
        unit = Scope(self.root)
        n_groups, n_height = self.parameter(groups, "groups"), self.parameter(blocking.height, "height")
        unit.lines += [f"first = unit % {n_groups} * {n_height}", f"count = min({n_height}, {self.parameter(total, 'segments')} - first)"]
        self.decode_strip(unit, n_groups, strips)
        self.addresses(unit)
        if self.can_fetch:
            self.ahead(unit)
        n_strip, n_panels = self.parameter(blocking.strip, "strip"), self.parameter(panels, "panels")
        if self.epilogue is not None:
            unit.lines += [f"panel = strip * {n_strip}", f"number = min({n_strip}, {n_panels} - panel)"]
            self.finished(unit, place_arguments(self, self.epilogue, unit))
        else:
            panel = Scope(unit)
            self.panel(panel)
            panel.close(f"for panel in range(strip * {n_strip}, min(strip * {n_strip} + {n_strip}, {n_panels})):")
        unit.close("for unit in range(lo, hi):")
        batches = extent_product(p.batch)
        moved = p.a.numel() * self.size_bytes + (self.packed.numel() + self.columns * self.rows * batches) * p.b_dtype.itemsize_bytes
        source = kernel_source(f"depthwise_{tile.rows}x{tile.columns}_{p.a.dtype.short}", self.writer, self.root)
        return KernelCall(source, tuple(self.writer.buffers), tuple(self.writer.parameters), batches * groups * strips, self.scratch_bytes, p.origin,
                          2 * batches * self.rows * self.columns * self.taps, moved, product_key(p))

    def declare(self) -> None:
        """The functions that compute tiles."""
        p, w, tile = self.p, self.w, self.blocking.tile
        shape = (tile.rows, tile.vectors, tile.lanes, p.dtype.short, w.taps, w.stride, w.dilation, *(() if p.form is None else (p.a.dtype.short,)),
                 *(() if self.epilogue is None else ("", self.epilogue.form)))
        for name in ("advanced", "address", *(("fetch_lines",) if self.blocking.ahead and self.epilogue is None else ())):
            self.writer.function(name, name)
        if self.runs:
            self.writer.function("line_tile", "line_tile", *shape)
        if self.gathers:
            self.writer.function("gathered_tile", "gathered_line_tile", *shape)

    @property
    def can_fetch(self) -> bool:
        """Whether the text fetches ahead. Where tiles do, those that need not are told so by a size: one text serves large and small inputs."""
        return self.blocking.ahead if self.epilogue is None else self.blocking.segment is None and len(self.p.rows) > 1

    # ---- sizes
    @property
    def across(self) -> str:
        """Taps across the line."""
        return self.parameter(extent_product(self.outer), "taps across")

    @property
    def length(self) -> str:
        """Results of a line."""
        return self.parameter(self.w.position.extent, "length")

    @property
    def most(self) -> str:
        """Results of a segment, at most."""
        return self.parameter(self.segment, "segment")

    @property
    def most_tiles(self) -> str:
        """Tiles of a segment, at most."""
        return self.parameter(self.tiles, "tiles")

    @property
    def step_bytes(self) -> str:
        return self.parameter(self.w.step * self.size_bytes, "step")

    def prologue(self) -> None:
        """Regions of scratch memory, the row of padding, the address of `a`."""
        p, tile, height, across = self.p, self.blocking.tile, self.blocking.height, extent_product(self.outer)
        if self.epilogue is None:
            self.view("acc", (self.segment * height + tile.rows) * tile.columns, self.number)  # a last tile may begin before its segment
        self.view("tap_at", across * height, "int64")
        for name in ("start_at", *(f"line{k}" for k in range(len(self.lines))), *(("run_from", "run_to") if self.gathers else ())):
            self.view(name, height, "int64")
        if self.gathers:
            self.view("table", across * self.tiles * (height * self.span), "int64")
            self.view("places", self.tiles * height, "int64")
            self.view("padding", self.columns, p.a.dtype.numpy_name)
            self.root.lines += [f"for k in range({self.parameter(self.columns, 'length of padding')}):", f"    padding[k] = {literal(p.fill, p.a.dtype)}",
                                "outside = address(padding)"]
        self.root.lines.append(f"base = address({self.a})")

    # ---- addresses
    def addresses(self, unit: Scope) -> None:
        """Where each segment begins, its inputs for each tap across the line, and its tiles in the padding."""
        segment = Scope(unit)
        if self.segments is ONE:
            segment.lines.append("x = 0")
            unravel(self.writer, segment, "(first + i)", self.lines, "r")
        else:
            n_segments = self.parameter(self.segments, "segments of a line")
            segment.lines.append(f"x = (first + i) % {n_segments} * {self.most}")
            unravel(self.writer, segment, f"(first + i) // {n_segments}", self.lines, "r")
        segment.lines += ["start_at[i] = x", *(f"line{k}[i] = r{k}" for k in range(len(self.lines))), f"at = i * {self.across}"]
        if self.gathers:
            segment.lines.append(f"whole = {self.runs}")
        taps = [segment]
        for k, t in enumerate(self.outer):
            taps.append(Scope(taps[-1], {t: f"k{k}"}))
        start = self.p.a_offset
        for e in (self.w.position, self.w.tap, *self.p.columns):
            start = integer.coefficient(start, e)[1]
        inmost = taps[-1]
        checks = []
        for k, g in enumerate(self.p.guards):
            if self.w.pace(g) == 0:
                inmost.lines.append(f"y{k} = {self.emitter.value(g.index, inmost)}")
                checks.append(f"(y{k} >= 0) & (y{k} < {self.parameter(g.size, f'guard {k}')})")
        place = f"base + {self.emitter.value(start, inmost)} * {self.size_bytes}"
        if checks:
            inmost.lines += [f"inside = {' & '.join(checks)}", "whole &= inside", f"tap_at[at] = {place} if inside else 0"]
        else:
            inmost.lines.append(f"tap_at[at] = {place}")
        inmost.lines.append("at += 1")
        for k in range(len(self.outer) - 1, -1, -1):
            taps[k + 1].close(f"for k{k} in range({self.parameter(self.outer[k].extent, f'extent k{k}')}):")
        if self.gathers:
            self.tables(segment)
        segment.close("for i in range(count):")

    def tables(self, segment: Scope) -> None:
        """Which tiles are computed side by side, and of the others the addresses of their inputs and where their results go."""
        w, rows = self.w, self.blocking.tile.rows
        segment.lines += [f"tiles = (min({self.most}, {self.length} - x) + {rows - 1}) // {rows}", "begin = tiles", "end = 0"]
        tile = Scope(segment, {w.position: "x0"})
        tile.lines.append(f"x0 = max(min(x + tile * {rows}, {self.length} - {rows}), 0)")
        whole, inside = ["whole"], []
        if self.short_lines:
            whole.append(f"({self.length} >= {rows})")
            tile.lines.append(f"most = ({self.length} - 1 - x0) * {w.stride} + {(w.taps - 1) * w.dilation}")
            inside.append("(n <= most)")
        for k, g in enumerate(self.p.guards):
            pace = w.pace(g)
            if pace:
                tile.lines.append(f"z{k} = {self.emitter.value(integer.coefficient(g.index, w.tap)[1], tile)}")
                size = self.parameter(g.size, f"guard {k}")
                whole.append(f"(z{k} + {min(0, pace * (self.span - 1))} >= 0) & (z{k} + {max(0, pace * (self.span - 1))} < {size})")
                inside.append(f"(z{k} + n * {pace} >= 0) & (z{k} + n * {pace} < {size})")
        place = f"i * {self.most} + x0 - x + {rows}" if self.epilogue is None else f"{self.line_number} * {self.length} + x0"
        filled = [f"tile_at = i * {self.most_tiles} + tile", f"places[tile_at] = {place}", f"at = tile_at * {self.across} * {self.span}",
                  f"for r in range({self.across}):",
                  f"    row = tap_at[i * {self.across} + r]",
                  f"    for n in range({self.span}):",
                  f"        inside = {' & '.join(['(row != 0)', *inside])}",
                  f"        table[at + n] = row + (x0 * {w.stride} + n) * {self.step_bytes} if inside else outside",
                  f"    at += {self.span}"]
        if self.runs:
            filled = [f"if {' & '.join(whole)}:", "    begin = min(begin, tile)", "    end = tile + 1", "else:", *("    " + line for line in filled)]
        tile.lines += filled
        tile.close("for tile in range(tiles):")
        segment.lines += ["run_from[i] = min(begin, end)", "run_to[i] = end"]

    def ahead(self, unit: Scope) -> None:
        """The input that the next unit is the first to read: each panel, or each panel of each tile, fetches its share, none from behind the input."""
        pitch = integer.coefficient(self.p.a_offset, self.lines[-1])[0]
        beyond = pitch if not self.outer else integer.coefficient(self.p.a_offset, self.outer[-1])[0]
        end = f"base + {self.parameter(self.p.a.numel() * self.size_bytes, 'bytes of a')}"
        panels = self.parameter(ex.ceildiv(self.columns, self.blocking.tile.columns), "panels")
        unit.lines += [f"ahead = tap_at[count * {self.across} - 1] + {self.parameter(beyond * self.size_bytes, 'behind the last tap')}",
                       f"rest = min(count * {self.parameter(pitch * self.size_bytes, 'pitch')}, {end} - ahead)"]
        if self.epilogue is None:
            unit.lines.append(f"share = (rest + {panels} - 1) // {panels} if ahead >= base else 0")
        else:
            far = self.parameter(ONE if self.blocking.ahead else ZERO, "far")
            unit.lines += [f"share = (rest // (count * {self.most_tiles} * {panels}) // {LINE} + 1) * {LINE} if (ahead >= base) & (rest > 0) & ({far} > 0) else 0",
                           "ahead_to = ahead + rest"]

    # ---- sums and stores
    def panel(self, panel: Scope) -> None:
        """One panel of channels: the sums of all segments, then their stores."""
        p, width, rows = self.p, self.blocking.tile.columns, self.blocking.tile.rows
        self.weights(panel)
        panel.lines += [f"first_column = min(panel * {width}, {self.parameter(self.columns, 'columns')} - {width})", f"start = first_column * {self.size_bytes}"]
        if self.blocking.ahead:
            panel.lines.append("fetch_lines(ahead + panel * share, min(share, rest - panel * share))")
        self.sums(panel, "address(acc)", f"address(acc) + (i * {self.most} - x + {rows}) * {width * p.dtype.itemsize_bytes}")
        if self.segments is ONE and self.row is not None:
            row = Scope(panel, {self.row: "row"})
            row.lines += [f"row = first * {self.length} + j", f"at = (j + {rows}) * {width}"]
            self.store_columns(row, str(width))
            row.close(f"for j in range(count * {self.length}):")
            return
        segment = Scope(panel)
        segment.lines += ["x = start_at[i]", f"to = i * {self.most} - x + {rows}"]
        row = Scope(segment)
        if self.row is not None:
            segment.lines.append(f"line = {self.line_number}")
            row.lines.append(f"row = line * {self.length} + j")
            row.axes[self.row] = "row"
        else:
            for k, e in enumerate(self.lines):
                segment.lines.append(f"r{k} = line{k}[i]")
                segment.axes[e] = f"r{k}"
            row.axes[self.w.position] = "j"
        row.lines.append(f"at = (to + j) * {width}")
        self.store_columns(row, str(width))
        row.close(f"for j in range(x, min(x + {self.most}, {self.length})):")
        segment.close("for i in range(count):")

    def weights(self, panel: Scope) -> None:
        """Where the weights of `panel` lie."""
        p, width = self.p, self.blocking.tile.columns
        at, used = "panel", [x for x in p.batch if x in p.b.axes]
        if used:
            where = self.emitter.value(ex.linear_index(used, [x.extent for x in used]), panel)
            at = f"({where} * {self.parameter(ex.ceildiv(self.columns, width), 'panels')} + panel)"
        panel.lines.append(f"columns = address({self.b}) + {at} * {self.parameter(self.taps, 'taps')} * {width * p.b_dtype.itemsize_bytes}")

    @property
    def line_number(self) -> str:
        """Of segment i."""
        return "(first + i)" if self.segments is ONE else f"(first + i) // {self.parameter(self.segments, 'segments of a line')}"

    def finished(self, unit: Scope, places: str) -> None:
        """The results of `number` panels from `panel` on: each tile computes and stores those of all, while its inputs are near."""
        width = self.blocking.tile.columns
        self.weights(unit)
        unit.lines.append("start = 0")
        tail = f"panel * {width}, number, {self.parameter(self.columns, 'columns')} - {width}, {'ahead, share, ahead_to' if self.can_fetch else '0, 0, 0'}, {places}"
        self.sums(unit, f"0, {tail}", f"{self.line_number} * {self.length}, {tail}", " * number * share" if self.can_fetch else "")

    def sums(self, panel: Scope, gathered_to: str, run_to: str, fetched: str = "") -> None:
        """All tiles of a panel.

        Args:
            gathered_to, run_to: what tiles whose inputs lie anywhere, and those of segment i side by side, are told about where results go. Without an epilogue
                result j of segment i goes to row `i * segment + j + rows` of the accumulators.
            fetched: what the number of tiles is multiplied by to give the bytes they fetch, empty for none.
        """
        rows = self.blocking.tile.rows
        segment = Scope(panel)
        if self.gathers and not self.runs and self.segments is ONE:
            panel.lines.append(f"gathered_tile(address(table), address(places), count * {self.most_tiles}, start, {self.across}, columns, {gathered_to})")
            panel.lines += [f"ahead += count * {self.most_tiles}{fetched}"] if fetched else []
            return
        segment.lines += ["x = start_at[i]", f"tiles = (min({self.most}, {self.length} - x) + {rows - 1}) // {rows}"]

        def gathered(first: str, number: str) -> list[str]:
            tile_at = f"i * {self.most_tiles} + {first}"
            return [f"if {number} > 0:", f"    gathered_tile(address(advanced(table, ({tile_at}) * {self.across} * {self.span})), address(advanced(places, {tile_at})), {number}, "
                    f"start, {self.across}, columns, {gathered_to})", *([f"    ahead += ({number}){fetched}"] if fetched else [])]
        begin, run = "0", "tiles"
        if self.gathers:
            segment.lines += ["begin = run_from[i]", "end = run_to[i]"]
            begin, run = "begin", "end - begin"
            segment.lines += gathered("0", "begin") + gathered("end", "tiles - end")
        if self.runs:
            segment.lines += [f"if {run} > 0:", f"    line_tile(address(advanced(tap_at, i * {self.across})), start, {self.step_bytes}, {self.across}, columns, "
                              f"x + {begin} * {rows}, {run}, {self.length} - {rows}, {run_to})", *([f"    ahead += ({run}){fetched}"] if fetched else [])]
        segment.close("for i in range(count):")
