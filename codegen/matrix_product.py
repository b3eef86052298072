"""Products of 8-bit codes and of bfloat16 numbers by instructions that multiply whole tiles: text around `matrix_tile`.

    for each unit:
        the address of each row of each tap, as in `codegen.gemm`
        gather the rows: all steps of all taps of a row side by side
        for each panel of columns, for each block of rows:
            matrix tile over all steps; stores, row by row
"""
from __future__ import annotations

from ..ir import expr as ex
from ..ir.expr import Expr
from .dot_forms import TILE_ROW_BYTES
from .gemm import ProductText
from .scalar import Scope

HALF = 16  # rows of one tile register
LINE = 64  # bytes; gathered rows start one line off a multiple of the tile, for rows a power of two apart share few lines of a first-level cache


class MatrixText(ProductText):
    """Writes the kernel of a product by whole tiles and its call. Rows of float32 become bfloat16 when they are gathered."""

    @property
    def tile_steps(self) -> Expr:
        assert self.p.form is not None
        return ex.ceildiv(self.taps * self.steps, self.p.form.step)

    @property
    def row_bytes(self) -> Expr:
        """From one gathered row to the next."""
        return self.tile_steps * TILE_ROW_BYTES + LINE

    @property
    def by_row(self) -> bool:
        return False

    def declare(self) -> None:
        p, tile = self.p, self.blocking.tile
        assert p.form is not None
        self.writer.function("matrix_tile", "matrix_tile", tile.vectors, p.form.stored.short if p.form.is_float else p.a.dtype.short, p.form.stored.short)
        self.writer.function("gather_rows", "gather_rows", tile.rows, p.a.dtype.short, p.form.stored.short)
        self.writer.function("tiles_begin", "tiles_begin")
        self.writer.function("tiles_end", "tiles_end")

    def prologue(self) -> None:
        super().prologue()
        self.view("gathered", self.row_bytes * self.blocking.height, "uint8")
        self.root.lines.append("tiles_begin()")

    def finish(self) -> None:
        self.root.lines.append("tiles_end()")

    def gather(self, unit: Scope) -> None:
        p, rows = self.p, self.blocking.tile.rows
        step, taps = self.parameter(self.row_bytes, "bytes of a row"), self.parameter(self.taps, "taps")
        table = f"advanced(table, block * {taps} * {rows})" if p.guards or p.taps else f"advanced(row_at, block * {rows})"
        unit.lines += ["for block in range(blocks):",
                       f"    gather_rows({table}, {taps}, min({rows}, (count - block * {rows} + {HALF - 1}) // {HALF} * {HALF}), {self.parameter(self.steps, 'length of a run')}, "
                       f"advanced(gathered, block * {rows} * {step}), {step})"]

    def panel(self, panel: Scope) -> None:
        rows = self.blocking.tile.rows
        self.panel_start(panel)
        step = self.parameter(self.row_bytes, "bytes of a row")
        steps = self.parameter(self.tile_steps, "tile steps")
        block = Scope(panel)
        block.lines.append(f"matrix_tile(advanced(gathered, block * {rows} * {step}), {step}, columns, {steps}, acc, count - block * {rows} <= {HALF})")
        self.stores(block, "0")
        block.close("for block in range(blocks):")
