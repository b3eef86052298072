"""Winograd's convolution for 3x3 windows of stride 1: squares of m x m results from (m + 2)^2 products instead of 9 m^2.

    result = A' [ (G w G') * (B' x B) ] A

for each square; summed over channels, the product in the middle is one matrix product for each of its (m + 2)^2 points. Weights are transformed when packed. A unit
of work is some squares by some panels of output channels:

    for each unit:
        transform the input of each square into one plane of rows a point
        for each panel of columns:
            for each point, for each block of squares: register tile
            for each square: transform back, then the stores of its results, pixel by pixel

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), section 4.1.
"""
from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import ContractionNest, MapNest, Store
from ..ir.target import Target
from .blocking import RANKS, product_key, row_count
from .contraction import ONE, Layouts, Product, extent_product, flat_offset, is_constant
from .contraction_text import ContractionText, kernel_source, unravel
from .scalar import Scope
from .tile_shapes import TileShape, tile_shapes

Matrix = tuple[tuple[float, ...], ...]
WINDOW = 3
SIDE = 2  # results along one side of a square
GAIN = 0.75  # of the direct method's work, transforms included, that must not be exceeded
TRANSFORM_WORK = 4  # of a point of one channel, in multiply-adds
CACHE_SHARE = 2  # planes of a unit fill at most 1/CACHE_SHARE of the second-level cache

INPUT: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B'
WEIGHTS: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
OUTPUT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))  # A'
SPAN = len(INPUT)  # pixels along one side of a square's input
POINTS = SPAN * SPAN


@dataclass(frozen=True, eq=False)
class Windows:
    """A 3x3 convolution of stride 1, as Winograd's method takes it.

    Args:
        p: the product, with rows ending in the two output positions, and taps the two of the window.
        indices: (position + tap + const, size) along both directions of the input.
    """

    p: Product
    indices: tuple[tuple[Expr, Expr], tuple[Expr, Expr]]

    @property
    def positions(self) -> tuple[Expr, Expr]:
        return self.p.rows[-2], self.p.rows[-1]

    @property
    def squares(self) -> tuple[Expr, Expr]:
        """Squares along both directions."""
        y, x = (ex.ceildiv(e.extent, SIDE) for e in self.positions)
        return y, x

    @property
    def count(self) -> Expr:
        return extent_product(self.p.rows[:-2]) * self.squares[0] * self.squares[1]


def recognise(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor], target: Target) -> Windows | None:
    """The nest as 3x3 windows worth the transforms, or None."""
    a = nest.a
    if nest.batch or nest.dtype is not dt.float32 or a.op != "load" or a.dtype is not nest.dtype or ex.load_fill(a) not in (None, 0) or not is_constant(nest.b, constants):
        return None
    window = [x for x in nest.reduced if integer.as_int(x.extent) == WINDOW]
    channels = [x for x in nest.reduced if x not in window]
    if len(window) != 2 or len(channels) != 1 or channels[0] not in a.args:
        return None
    found = [_slide(i, nest.rows, window) for i in a.args]
    slides = [(f, i, n) for f, i, n in zip(found, a.args, ex.load_tensor(a).shape) if f is not None]
    others = [i for f, i in zip(found, a.args) if f is None and i is not channels[0]]
    if len(slides) != 2 or any(i.axes & {*window, *channels, *(f[0] for f, _, _ in slides)} for i in others):
        return None
    offset = flat_offset(a, layouts)
    if integer.affine(offset, nest.rows + nest.reduced) is None or integer.coefficient(offset, channels[0])[0] is not ONE:
        return None
    (y, ty), (x, tx) = slides[0][0], slides[1][0]
    rows = (*(r for r in nest.rows if r is not y and r is not x), y, x)
    p = Product((), rows, nest.columns, (ty, tx), channels[0], ex.load_tensor(a), offset, (), 0, nest.b, nest.dtype, nest.stores, nest.origin)
    w = Windows(p, ((slides[0][1], slides[0][2]), (slides[1][1], slides[1][2])))
    return w if is_worthwhile(w, target) else None


def _slide(index: Expr, rows: Sequence[Expr], window: Sequence[Expr]) -> tuple[Expr, Expr] | None:
    """(position, tap) of an index position + tap + const."""
    for r in rows:
        for t in window:
            rest = index - r - t
            if rest.is_const or (not rest.axes and not ex.loads([rest])):
                return r, t
    return None


def is_worthwhile(w: Windows, target: Target) -> bool:
    """Whether the channels fill vectors and panels, and the transforms' work is repaid."""
    p, lanes = w.p, target.lanes(4)
    channels, columns = integer.as_int(p.inner.extent), integer.as_int(extent_product(p.columns))
    if channels is None or columns is None or channels % lanes or columns < 2 * lanes:
        return False
    height, width = (integer.as_int(e.extent) or 64 for e in w.positions)
    squares = -(-height // SIDE) * -(-width // SIDE)
    work = squares * POINTS * (channels * columns + TRANSFORM_WORK * (channels + columns))
    return work < GAIN * WINDOW * WINDOW * height * width * channels * columns


def schedule(w: Windows, layouts: Layouts, target: Target) -> list[MapNest | KernelCall]:
    """Packing of the transformed weights, and the convolution."""
    tile, height, strip = choose_blocking(w, target)
    packing, packed = pack_weights(w.p, tile.columns)
    return [packing, WindowsText(w, packed, tile, height, strip, layouts).call()]


def choose_blocking(w: Windows, target: Target) -> tuple[TileShape, int, int]:
    """Tile, squares of a unit, panels of a unit: those that measurements found best, else the cost model's."""
    wanted = target.choice("squares", product_key(w.p))
    tile, height, strip = first = cut(w, target, 0)
    if not wanted:
        return first
    shorter = max(1, round(height / 2 / tile.rows)) * tile.rows
    found = list(dict.fromkeys([first, *(cut(w, target, rank) for rank in range(1, RANKS)), (tile, shorter, strip), (tile, height, -(-strip // 2)), (tile, height, 2 * strip)]))
    return found[wanted] if wanted < len(found) else first


def cut(w: Windows, target: Target, rank: int) -> tuple[TileShape, int, int]:
    """Tile (0 the best by the cost model), squares of a unit, panels of a unit."""
    p = w.p
    channels, columns, squares = integer.as_int(p.inner.extent), integer.as_int(extent_product(p.columns)), row_count(w.count)

    def cycles(s: TileShape) -> float:
        wasted = 1.0 if squares is None else -(-squares // s.rows) * s.rows / squares
        return wasted * -(-columns // s.columns) * s.columns * (1 + 0.7 / (s.rows * s.vectors))
    usable = sorted((s for s in tile_shapes(target, p.dtype) if s.rows > 4 and s.columns <= columns), key=cycles)
    tile = usable[min(rank, len(usable) - 1)]
    most = max(1, target.l2_bytes // CACHE_SHARE // (POINTS * channels * 4) // tile.rows)
    blocks = most if squares is None else -(-squares // tile.rows)
    blocks = -(-blocks // -(-blocks // most))
    panels = -(-columns // tile.columns)
    groups = 1 if squares is None else -(-squares // (blocks * tile.rows))
    wanted = 2 * target.cores if target.cores > 1 else 1
    strips = min(panels, -(-wanted // groups))
    return tile, blocks * tile.rows, -(-panels // strips)


def pack_weights(p: Product, width: int) -> tuple[MapNest, Tensor]:
    """packed[panel, point, channel, lane] = G w G'; the last panel holds the last `width` columns."""
    columns = extent_product(p.columns)
    panels = ex.ceildiv(columns, width)
    packed = Tensor(f"{p.stores[0].tensor.name}.points", p.dtype, (panels, ex.const(POINTS), p.inner.extent, ex.const(width)))
    panel, channel, lane = ex.axis(panels, "p"), ex.axis(p.inner.extent, "i"), ex.axis(width, "l")
    column = ex.minimum(panel * width, columns - width) + lane
    place = dict(zip(p.columns, ex.unravel(column, [x.extent for x in p.columns])))
    w = [[ex.substitute_one(p.b, {**place, p.inner: channel, p.taps[0]: ex.const(i), p.taps[1]: ex.const(j)}) for j in range(WINDOW)] for i in range(WINDOW)]
    left = [[_combined(row, [w[q][j] for q in range(WINDOW)]) for j in range(WINDOW)] for row in WEIGHTS]
    stores = tuple(Store(packed, (panel, ex.const(i * SPAN + j), channel, lane), _combined(WEIGHTS[j], left[i])) for i in range(SPAN) for j in range(SPAN))
    return MapNest((panel, channel, lane), stores, p.origin), packed


def _combined(factors: Sequence[float], values: Sequence[Expr]) -> Expr:
    total: Expr | None = None
    for c, v in zip(factors, values, strict=True):
        if c:
            term = v * float(c)
            total = term if total is None else total + term
    assert total is not None
    return total


class WindowsText(ContractionText):
    """Writes the kernel and its call."""

    def __init__(self, w: Windows, packed: Tensor, tile: TileShape, height: int, strip: int, layouts: Layouts) -> None:
        super().__init__(w.p, (w.p.a, packed), layouts)
        self.w, self.packed, self.tile, self.height, self.strip = w, packed, tile, height, strip
        self.a, self.b = self.writer.buffer(w.p.a), self.writer.buffer(packed)

    def call(self) -> KernelCall:
        p, tile, w = self.p, self.tile, self.w
        groups, panels = ex.ceildiv(w.count, self.height), ex.ceildiv(self.columns, tile.columns)
        for name, builder, arguments in (
                ("register_tile", "register_tile", (tile.rows, tile.vectors, tile.lanes, p.dtype.short, True)),
                ("input_transform", "square_transform", (INPUT, tile.lanes, p.dtype.short, True)),
                ("output_transform", "square_transform", (OUTPUT, tile.lanes, p.dtype.short, False)),
                ("advanced", "advanced", ()), ("address", "address", ())):
            self.writer.function(name, builder, *arguments)
        self.prologue()
        unit = Scope(self.root)
        n_groups, n_height, n_strip = self.parameter(groups, "groups"), self.parameter(self.height, "height"), self.parameter(self.strip, "strip")
        unit.lines += [f"first = unit % {n_groups} * {n_height}", f"strip = unit // {n_groups}", f"count = min({n_height}, {self.parameter(w.count, 'count')} - first)",
                       f"blocks = (count + {tile.rows - 1}) // {tile.rows}"]
        self.planes(unit)
        panel = Scope(unit)
        self.panel(panel)
        panel.close(f"for panel in range(strip * {n_strip}, min(strip * {n_strip} + {n_strip}, {self.parameter(panels, 'panels')})):")
        unit.close("for unit in range(lo, hi):")
        flops = 2 * self.rows * self.columns * self.steps * self.taps
        moved = (p.a.numel() + self.packed.numel() + self.columns * self.rows) * self.size_bytes
        source = kernel_source(f"winograd_{tile.rows}x{tile.columns}_{p.dtype.short}", self.writer, self.root)
        return KernelCall(source, tuple(self.writer.buffers), tuple(self.writer.parameters), groups * ex.ceildiv(panels, self.strip), self.scratch_bytes, p.origin, flops,
                          moved, product_key(p))

    def prologue(self) -> None:
        """Regions of scratch memory, the row of padding, the address of every row of the planes."""
        height, width = self.height, self.tile.columns
        self.view("acc", SIDE * SIDE * width, self.number)
        self.view("sums", POINTS * height * width, self.number)
        self.view("planes", self.steps * (POINTS * height), self.number)
        self.view("padding", self.steps, self.number)
        self.view("table", POINTS, "int64")
        self.view("row_at", POINTS * height, "int64")
        steps = self.parameter(self.steps, "steps")
        self.root.lines += [f"for k in range({steps}):", "    padding[k] = 0", "outside = address(padding)", f"base = address({self.a})",
                            f"for k in range({POINTS} * {self.parameter(height, 'height')}):", f"    row_at[k] = address(planes) + k * {steps} * {self.size_bytes}"]

    def place(self, scope: Scope) -> None:
        """First result (y0, x0) of square `first + t`, and the rows' other coordinates."""
        squares = self.w.squares
        down, across = self.parameter(squares[0], "squares 0"), self.parameter(squares[1], "squares 1")
        scope.lines += [f"x0 = (first + t) % {across} * {SIDE}", f"y0 = (first + t) // {across} % {down} * {SIDE}"]
        outer = self.p.rows[:-2]
        if outer:
            unravel(self.writer, scope, f"(first + t) // {across} // {down}", outer, "r")

    def planes(self, unit: Scope) -> None:
        """The transformed input of every square."""
        p, w = self.p, self.w
        square = Scope(unit)
        self.place(square)
        y, x = w.positions
        square.axes.update({y: "y0", x: "x0"})
        start = p.a_offset
        for r in p.reduced:
            start = integer.coefficient(start, r)[1]
        names = []
        for k, (index, _) in enumerate(w.indices):
            for t in p.taps:
                index = integer.coefficient(index, t)[1]
            names.append(self.emitter.value(index, square))
            square.lines.append(f"low{k} = {names[k]}")
        steps = [self.emitter.value(integer.coefficient(p.a_offset, t)[0] * self.size_bytes, self.root) for t in p.taps]
        square.lines.append(f"start = base + {self.emitter.value(start, square)} * {self.size_bytes}")
        sizes = [self.parameter(n, f"size {k}") for k, (_, n) in enumerate(w.indices)]
        square.lines += [f"for i in range({SPAN}):", f"    for j in range({SPAN}):",
                         f"        inside = (low0 + i >= 0) & (low0 + i < {sizes[0]}) & (low1 + j >= 0) & (low1 + j < {sizes[1]})",
                         f"        table[i * {SPAN} + j] = start + i * {steps[0]} + j * {steps[1]} if inside else outside"]
        length = self.parameter(self.steps, "steps")
        square.lines.append(f"input_transform(table, 0, advanced(planes, t * {length}), {self.parameter(self.height, 'height')} * {length}, {length})")
        square.close("for t in range(count):")

    def panel(self, panel: Scope) -> None:
        """One panel of columns: a product for each point, then every square's results."""
        tile, width, height = self.tile, self.tile.columns, self.parameter(self.height, "height")
        length = self.parameter(self.steps, "steps")
        row = f"point * {height} + block * {tile.rows}"
        panel.lines += [f"first_column = min(panel * {width}, {self.parameter(self.columns, 'columns')} - {width})", f"for point in range({POINTS}):",
                        f"    columns = advanced({self.b}, (panel * {POINTS} + point) * {length} * {width})",
                        f"    more = (point < {POINTS - 1}) | (panel + 1 < {self.parameter(ex.ceildiv(self.columns, width), 'panels')})",
                        f"    share = ({width * self.size_bytes} + blocks - 1) // blocks if more else 0", f"    rest = {width * self.size_bytes} - share",
                        f"    ahead = address(columns) + ({length} * {width * self.size_bytes} if more else 0)",
                        "    for block in range(blocks):",
                        f"        register_tile(advanced(row_at, {row}), 1, 0, 0, {length}, columns, {width}, advanced(sums, ({row}) * {width}), {width}, True, "
                        f"ahead + min(block * share, rest) * {length}, share)"]
        square = Scope(panel)
        self.place(square)
        square.lines.append(f"output_transform(advanced(sums, t * {width}), {height} * {width}, acc, {width}, {width})")
        y, x = self.w.positions
        down, across = self.parameter(y.extent, "extent y"), self.parameter(x.extent, "extent x")
        line = Scope(square, conditional=True)
        pixel = Scope(line, conditional=True)
        pixel.lines.append(f"at = (i * {SIDE} + j) * {width}")
        if self.row is None:
            pixel.axes.update({y: "(y0 + i)", x: "(x0 + j)"})
        else:
            outer = self.p.rows[:-2]
            image = self.emitter.value(ex.linear_index(outer, [r.extent for r in outer]), square) if outer else "0"
            pixel.lines.append(f"row = ({image} * {down} + y0 + i) * {across} + x0 + j")
            pixel.axes[self.row] = "row"
        self.store_columns(pixel, str(width))
        pixel.close(f"for j in range(min({SIDE}, {across} - x0)):")
        line.close(f"for i in range(min({SIDE}, {down} - y0)):")
        square.close("for t in range(count):")
