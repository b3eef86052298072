"""Which register tiles a target has: shapes alone, so that schedules can choose without loading a compiler."""
from __future__ import annotations

from dataclasses import dataclass

from ..ir import dtypes as dt
from ..ir.dtypes import DType
from ..ir.target import Target

ACCUMULATORS = (dt.float32, dt.float64, dt.int32, dt.int64, dt.uint32, dt.uint64)
FEW_ROWS = (1, 2, 3, 4)
WIDEST = 8  # vectors of a tile of few rows
ABREAST = 4  # panels of b that a tile of few rows walks side by side
ABREAST_ROWS = 3  # rows; more do not leave registers for so many panels
ABREAST_VECTORS = 2  # of a panel, a line of memory; at most
SPARE_REGISTERS = 4  # of a channel tile, for what is neither accumulator nor weight


@dataclass(frozen=True)
class TileShape:
    """`rows` x (`vectors` * `lanes`) accumulators."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def tile_shapes(target: Target, dtype: DType) -> tuple[TileShape, ...]:
    """Tiles that fit the register file: accumulators, one row of b and one broadcast element. Those of few rows are as wide as pays."""
    return few_row_shapes(target, dtype) + many_row_shapes(target, dtype)


def few_row_shapes(target: Target, dtype: DType) -> tuple[TileShape, ...]:
    """Tiles for products that have no more rows than these."""
    lanes, registers = target.lanes(dtype.itemsize_bytes), target.vector_registers
    return tuple(TileShape(r, min(WIDEST, (registers - 2) // (r + 1)), lanes) for r in FEW_ROWS)


def many_row_shapes(target: Target, dtype: DType) -> tuple[TileShape, ...]:
    """Tiles for any number of rows. One that leaves no register free serves where a step is one instruction that needs none."""
    if target.vector_registers >= 32:
        shapes = [(6, 4), (7, 3), (8, 3), (10, 2), (14, 2), (20, 1)]
    elif target.isa == "avx2":
        shapes = [(4, 3), (6, 2), (10, 1)] if dtype.is_float else [(6, 2), (10, 1)]
    else:
        shapes = [(5, 2), (6, 2)]
    return tuple(TileShape(r, v, target.lanes(dtype.itemsize_bytes)) for r, v in shapes)


def paired_shapes(target: Target, dtype: DType) -> tuple[TileShape, ...]:
    """Tiles of any number of rows whose steps come in pairs: two rows of b, two elements and their sums fit the register file beside the accumulators."""
    lanes, registers = target.lanes(dtype.itemsize_bytes), target.vector_registers
    return tuple(TileShape((registers - 2 * v - 4) // v, v, lanes) for v in (2, 1))


def abreast_shape(target: Target, dtype: DType, rows: int) -> TileShape:
    """The accumulators of one of the panels that a tile of few rows walks side by side: all of them, a vector of b and an element of each row fit the register file."""
    return TileShape(rows, min(ABREAST_VECTORS, (target.vector_registers - 1 - rows) // (ABREAST * rows)), target.lanes(dtype.itemsize_bytes))


def channel_shapes(target: Target, dtype: DType, columns: int | None, group: int) -> tuple[TileShape, ...]:
    """Channel tiles; no wider than the columns, so that the last panel may overlap the one before instead of reading past the end.

    Args:
        columns: channels, None where only the run knows.
        group: channels of a group; a tile of several keeps a vector of every row besides its accumulators.
    """
    lanes = target.lanes(dtype.itemsize_bytes)
    while columns is not None and lanes > columns:
        lanes //= 2
    widest = 4 if columns is None else columns // lanes
    if group > 1:
        return tuple(TileShape(min(8, (target.vector_registers - 3) // (v + 1)), v, lanes) for v in (1, 2) if v <= widest)
    budget = target.vector_registers - SPARE_REGISTERS
    return tuple(TileShape(min(8, (budget - v) // v), v, lanes) for v in (1, 2, 3, 4) if v <= widest)


MATRIX_SHAPES = (TileShape(32, 2, 16), TileShape(32, 1, 16))  # tiles of 16 rows and 16 sums, two by two or two by one
