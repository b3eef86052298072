"""How a product is cut: tile, rows of a unit, panels of a strip, chunks of the reduced dimension. Choices of speed alone."""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..ir import integer
from ..ir.expr import Expr
from ..ir.target import Target
from .contraction import ONE, ZERO, Product, extent_product
from .dot_forms import CROSSED
from .tile_shapes import ABREAST, ABREAST_ROWS, ABREAST_VECTORS, MATRIX_SHAPES, TileShape, abreast_shape, channel_shapes, many_row_shapes, paired_shapes, tile_shapes

ROWS_OF_UNIT = 128
PAGE = 4096  # bytes; elements this far apart compete for the same lines of a first-level cache
L1_WAYS = 8
SPAN = 64 * PAGE  # bytes; rows of a panel that lie farther apart than this cost more in address translation than a copy
REPAYS_COPY = 64  # rows; fewer do not repay it
UNKNOWN_STEPS = 256  # of a panel, where only the run knows how many
LINE = 64  # bytes of a cache line
COPY_SHARE = 2  # a chunk that is copied fills at most 1/COPY_SHARE of the first-level cache
FEW = 4  # rows; up to here tiles have as many rows as the product
MODERATE = 8  # rows of a tile for any number of rows
SMALL = 16  # rows; fewer do not repay a copy of b
CACHE_SHARE = 2  # a strip of b fills at most 1/CACHE_SHARE of the second-level cache
LONG_SHARE = 8  # a panel of more than 1/LONG_SHARE of it is walked in chunks
LONGEST = 2 / 3  # of it, where registers are few: their tiles take so little of `b` in a cycle that the second-level cache keeps up
STRIP_COST = 0.01  # of a product, for each time that its rows are read again
CHUNK_SHARE = 24  # of about 1/CHUNK_SHARE of it
NARROWEST = 2  # vectors of a tile of few rows, where there are so many; a single one of each row leaves multipliers waiting
PADDING_SHARE = 100  # padding of up to 1/PADDING_SHARE of the columns is not worth a narrower tile
ABREAST_STEPS = 128  # steps of a sum; shorter panels side by side end before memory has found their pace
RANKS = 4  # tiles that measurements may choose from
FEW_REGISTERS = 16
LONE_VECTOR_COST = 1.23  # of a tile that loads an element of `a` for every multiplication, where registers are too few for more rows
ADDRESS_REGISTERS = 10  # rows of a tile whose addresses stay in registers; further ones cost time


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
        abreast: panels that few rows walk side by side, as far as a strip has so many; 1 for one after another.
        copied: whether each chunk of a panel that is read in place is first copied to the unit's own memory.
    """

    tile: TileShape
    shifted: bool
    height: int
    strip: int
    chunk: int | None
    abreast: int = 1
    copied: bool = False


def row_count(rows: Expr) -> int | None:
    """How many rows a kernel is cut for: as many as there are, or as certainly come together, as an image's in a batch of any size; None where neither is known."""
    count = integer.certain_factor(rows)
    return max(count, 1) if rows.is_const or count > MODERATE else None


def reads_b_in_place(p: Product, target: Target) -> bool:
    """Whether rows of an activation `b` serve as they lie: adjacent columns, enough of them, and rows near each other.

    A panel's rows lie on a page each if they are far apart: their addresses are more than the first level of address translation holds (64 pages on most
    processors), and few sets of the caches take them all. Copying them costs as much as a row or two of the product.
    """
    if p.b_offset is None or p.form is not None or p.taps or len(p.columns) != 1 or integer.coefficient(p.b_offset, p.columns[0])[0] is not ONE:
        return False
    rows, columns = integer.as_int(extent_product(p.rows)), integer.as_int(p.columns[0].extent)
    if columns is None or columns < target.lanes(p.dtype.itemsize_bytes):
        return False
    step = ZERO if p.inner is None else integer.coefficient(p.b_offset, p.inner)[0]
    if rows is not None and rows <= SMALL:
        return True
    step_bytes = step.value * p.dtype.itemsize_bytes if step.is_const else 0
    if step_bytes % PAGE == 0:
        return False
    if rows is None and target.vector_registers <= FEW_REGISTERS:
        return True  # each unit copies what is scattered
    steps = UNKNOWN_STEPS if p.inner is None else integer.as_int(p.inner.extent) or UNKNOWN_STEPS
    return (rows is not None and rows <= REPAYS_COPY) or steps * step_bytes <= SPAN


def product_key(p: Product) -> str:
    """Sizes and types of a product whatever its tensors are called, `?` for what only the run knows."""
    sizes = sizes_text([integer.as_int(extent_product(axes)) for axes in (p.batch, p.rows, p.columns, p.taps, () if p.inner is None else (p.inner,))])
    kind = p.dtype.short if p.form is None else f"{p.form.name} {p.form.stored.short}"
    return f"{sizes} {kind}{f' group {p.group}' if p.group else ''}"


def sizes_text(sizes: Iterable[int | None]) -> str:
    """`64x?x10`"""
    return "x".join("?" if n is None else str(n) for n in sizes)


def choose_blocking(p: Product, target: Target, direct: bool) -> Blocking:
    """The blocking that measurements found best, else the cost model's."""
    wanted = target.choice("blocking", product_key(p))
    first = cut(p, target, direct, 0)
    if not wanted:
        return first
    found = alternatives(p, target, direct, first)
    return found[wanted] if wanted < len(found) else first


def alternatives(p: Product, target: Target, direct: bool, first: Blocking) -> list[Blocking]:
    """Blockings worth measuring, the cost model's first: other tiles, other heights of a unit, other widths of a strip, no chunks. All give sums in the same order."""
    rows, step = integer.as_int(extent_product(p.rows)), first.tile.rows
    found = [first, *(cut(p, target, direct, rank) for rank in range(1, RANKS))]
    found.append(replace(first, height=max(1, round(first.height / 2 / step)) * step))
    if rows is None or first.height < rows:
        found.append(replace(first, height=2 * first.height))
    found += [replace(first, strip=-(-first.strip // 2)), replace(first, strip=2 * first.strip), replace(first, chunk=None, copied=False)]
    return list(dict.fromkeys(found))


def cut(p: Product, target: Target, direct: bool, rank: int) -> Blocking:
    """Cuts for a tile. A strip of panels and the rows of a unit stay in the second-level cache together; units suffice for every core.

    Args:
        rank: which tile, 0 the best by the cost model.
    """
    rows, columns = row_count(extent_product(p.rows)), integer.as_int(extent_product(p.columns))
    columns = None if columns is None else max(columns, 1)
    steps, taps = integer.as_int(p.inner.extent) if p.inner is not None else 1, integer.as_int(extent_product(p.taps))
    waits = not direct and waits_for_b(p, target, rows, columns, None if steps is None or taps is None else steps * taps)
    tile, abreast = choose_tile(p, target, rows, columns, direct, rank, ABREAST_VECTORS if waits and rows is None else None), 1
    if waits and (rank == 0 or rows is None):
        narrow = tile if rows is None else abreast_shape(target, p.dtype, rows)
        if columns is None or columns > (ABREAST - 1) * narrow.columns:
            tile, abreast = narrow, ABREAST
    size = p.b_dtype.itemsize_bytes * p.fold
    steps = None if steps is None else -(-steps // p.fold)
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
        strip = even_strip(panels, -(-panels // max(-(-panels // strip), min(panels, -(-wanted // (groups * batches))))), groups * batches, target.cores)
        short = -(-wanted // (batches * -(-panels // strip)))
        if rows is not None and groups < short:
            height = -(-rows // (short * tile.rows)) * tile.rows
    if abreast > 1:
        strip = max(1, strip // abreast if rows is None else -(-strip // abreast)) * abreast
    chunk = None
    if p.taps and not p.joined and panel_bytes > target.l2_bytes // CACHE_SHARE and height > tile.rows:
        chunk = max(1, target.l2_bytes // (2 * CACHE_SHARE) // (tile.columns * size) // (steps or 1024))
    elif not p.taps and not p.joined and height > tile.rows:
        patient = p.form is None and not direct and target.vector_registers <= FEW_REGISTERS
        if panel_bytes > target.l2_bytes * (LONGEST if patient else 1 / LONG_SHARE):
            most = max(1, target.l2_bytes // (CACHE_SHARE if patient else CHUNK_SHARE) // (tile.columns * size))
            chunk = most if not steps else -(-steps // -(-steps // most))
    if p.form is CROSSED and chunk is not None and not p.taps:
        chunk += chunk % 2  # steps are taken in pairs
    shifted = direct or p.channelwise or (columns is not None and columns >= tile.columns)
    copied = direct and height > tile.rows and target.vector_registers <= FEW_REGISTERS and is_scattered(p, steps, target)
    if copied:
        most = max(1, target.l1_bytes // COPY_SHARE // (tile.columns * size))
        chunk = most if not steps else -(-steps // -(-steps // most))
    return Blocking(tile, shifted, height, strip, chunk, abreast, copied)


def is_scattered(p: Product, steps: int | None, target: Target) -> bool:
    """Whether the rows of a panel that is read in place fall on fewer lines of the first-level cache than there are rows."""
    step = ZERO if p.inner is None else integer.coefficient(p.b_offset, p.inner)[0]
    if not step.is_const or p.inner is None:
        return False
    sets = max(1, target.l1_bytes // (LINE * L1_WAYS))
    used = sets // math.gcd(max(1, step.value * p.dtype.itemsize_bytes // LINE), sets)
    return used * L1_WAYS < (steps or 1024)


def waits_for_b(p: Product, target: Target, rows: int | None, columns: int | None, depth: int | None) -> bool:
    """Whether a product of few rows, or what it does where the run finds few, waits for memory, which gives more to several streams of `b` than to one.

    Args:
        rows, columns: how many, None where only the run knows.
        depth: terms of a sum.
    """
    if target.isa != "avx2" or p.form is not None or p.channelwise or not p.dtype.is_float or depth is None or depth < ABREAST_STEPS:
        return False
    if rows is None:
        return not p.taps and not p.guards
    return 0 < rows <= ABREAST_ROWS and columns is not None and columns * depth * p.dtype.itemsize_bytes > target.l2_bytes


def walks_abreast(p: Product, target: Target) -> bool:
    """Whether packed panels of `b` are walked side by side."""
    return cut(p, target, False, 0).abreast > 1


def even_strip(panels: int, most: int, others: int, cores: int) -> int:
    """Panels of a unit, at most `most`, so that no core does much more than another: there are `others` units for each strip of panels."""
    def busiest(strip: int) -> float:
        strips = -(-panels // strip)
        return -(-others * strips // cores) * strip * (1 + STRIP_COST * strips)
    return min(range(most, 0, -1), key=busiest) if cores > 1 else most


def choose_tile(p: Product, target: Target, rows: int | None, columns: int | None, direct: bool, rank: int = 0, widest: int | None = None) -> TileShape:
    """The tile that takes the fewest cycles (with a `rank`, one of those behind it): padded work, weighed by what a step costs in multiplications and in loads.

    Args:
        widest: vectors of a panel, at most; None for as many as pay.
    """
    if p.channelwise:
        shapes = channel_shapes(target, p.dtype, columns, p.group)
        ordered = shapes if columns is None else sorted(shapes, key=lambda s: (-(-columns // s.columns) * s.vectors, -s.vectors))
        return ordered[min(rank, len(ordered) - 1)]
    if p.joined:
        return MATRIX_SHAPES[0 if columns is None or columns > MATRIX_SHAPES[1].columns else 1]  # one width is always the better
    stride = integer.coefficient(p.a_offset, p.rows[-1])[0] if p.rows else ZERO
    crowded = stride.is_const and stride.value != 0 and stride.value * p.a.dtype.itemsize_bytes % PAGE == 0

    def cycles(s: TileShape) -> float:
        step = max(s.rows * s.vectors, s.vectors + s.rows / 2) + 0.7
        step *= 1 + 0.025 * max(0, s.rows - ADDRESS_REGISTERS)
        if crowded and s.rows > L1_WAYS:
            step *= 1.3
        if s.vectors == 1 and s.rows > FEW and target.vector_registers <= FEW_REGISTERS:
            step *= LONE_VECTOR_COST
        return -(-(rows or ROWS_OF_UNIT) // s.rows) * (1 / s.columns if columns is None else -(-columns // s.columns)) * step
    tall = MODERATE if rows is None and not p.taps else 1 << 20
    shapes = tile_shapes(target, p.dtype) if rows is not None and rows <= FEW else (*half_shapes(p, target, columns), *many_row_shapes(target, p.dtype))
    if p.form is CROSSED:
        shapes = paired_shapes(target, p.dtype)
    elif p.form is not None:  # a step takes a register of its own
        shapes = tuple(s for s in shapes if s.rows * s.vectors + s.vectors + 1 < target.vector_registers)
    fitting = [s for s in shapes if s.rows <= tall and (widest is None or s.vectors <= widest)]
    usable = [s for s in fitting if not direct or columns is None or s.columns <= columns]
    if direct and not usable:
        usable = [TileShape(s.rows, 1, s.lanes) for s in fitting]
    chosen = sorted(usable, key=cycles)[min(rank, len(usable) - 1)]
    return balanced(chosen, columns) if rows is not None and rows <= FEW and columns is not None and p.form is None else chosen


def half_shapes(p: Product, target: Target, columns: int | None) -> list[TileShape]:
    """Tiles of half a vector, for columns that fill no more: no slower than whole ones, and faster where the processor computes by halves."""
    lanes = target.lanes(p.dtype.itemsize_bytes)
    if columns is None or 2 * columns > lanes or p.form is not None or target.isa != "avx2":
        return []
    return [TileShape(s.rows, 1, lanes // 2) for s in many_row_shapes(target, p.dtype) if s.vectors == 1]


def balanced(tile: TileShape, columns: int) -> TileShape:
    """A tile of few rows, narrowed down to half where that saves padding: such products wait for `b`, whose padding is read, and kept, as well."""
    widest = max(1, min(tile.vectors, -(-columns // tile.lanes)))
    shapes = [TileShape(tile.rows, v, tile.lanes) for v in range(widest, max((widest - 1) // 2, min(widest, NARROWEST) - 1), -1)]
    return next((s for s in shapes if PADDING_SHARE * padding(s, columns) <= columns), min(shapes, key=lambda s: padding(s, columns)))


def padding(tile: TileShape, columns: int) -> int:
    """Columns that the last panel repeats."""
    return -columns % tile.columns
