"""Products of few rows with panels of weights, as recurrent layers call them at every step: sums stay in registers from a state's first element to its last."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir.target import Target
from .intrinsics import builder
from .tiles import I64, TileBody, has_fused_multiply_add, local_function

MOST_ROWS = 4
# Vectors of columns whose sums stay in registers, by rows: six to eight chains hide the latency of one, and what 32 registers hold beyond that saves loads. Where they
# hold 16, the vectors of weights need some beside the sums.
VECTORS = {1: 8, 2: 4, 3: 2, 4: 2}
VECTORS_OF_32 = {1: 8, 2: 8, 3: 4, 4: 4}


@builder("panel_product")
def panel_product(target: Target) -> object:
    """`add_panel_product` of `ir.ops.functions`, by strips of columns; each sum keeps the order of the state's elements, whatever the number of rows."""
    vectors = VECTORS_OF_32 if target.vector_registers >= 32 else VECTORS

    @intrinsic
    def add_panel_product(context: Any, total: Any, at: Any, between: Any, state: Any, first: Any, apart: Any, rows: Any, weights: Any, base: Any, panel: Any,
                          size: Any, columns: Any) -> Any:
        whole = types.int64
        signature = types.void(total, whole, whole, state, whole, whole, whole, weights, whole, whole, whole, whole)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            to, at, between, x, first, apart, count, w, base, panel, size, columns = values
            scalar = to.type.pointee
            itemsize = 4 if isinstance(scalar, ir.FloatType) else 8
            arguments = [bd.gep(to, [at]), between, bd.gep(x, [first]), apart, bd.gep(w, [base]), panel, size, columns]
            for rows in range(1, MOST_ROWS + 1):
                def emit(f: ir.Function, rows: int = rows) -> None:
                    PanelBody(f, scalar, itemsize, rows, vectors[rows], target.lanes(itemsize), has_fused_multiply_add(target)).strips()
                with bd.if_then(bd.icmp_signed("==", count, I64(rows))):
                    bd.call(local_function(bd.module, f"sardonyx.panel.{rows}x{8 * itemsize}", [a.type for a in arguments], emit), arguments)
            return ctx.get_dummy_value()
        return signature, lower
    return add_panel_product


class PanelBody(TileBody):
    """Emits the blocks of a function of (total, between, state, apart, weights, panel, size, columns)."""

    def strips(self) -> None:
        """entry -> strip -> (wide | narrow) -> strip | done. The last strip is narrow where half the columns suffice."""
        bd, f = self.bd, self.f
        columns = f.args[-1]
        strip, wide, narrow, done = (f.append_basic_block(n) for n in ("strip", "wide", "narrow", "done"))
        entry = bd.block
        bd.branch(strip)
        bd.position_at_end(strip)
        column = self.phi([entry], I64(0))
        half = self.vectors // 2
        bd.cbranch(bd.icmp_signed(">", bd.sub(columns, column), I64(half * self.lanes)), wide, narrow)
        for block, vectors in ((wide, self.vectors), (narrow, half)):
            self.vectors = vectors
            bd.position_at_end(block)
            self.strip(column)
            following = bd.add(column, I64(vectors * self.lanes))
            self.follow(bd.block, [(column, following)])
            bd.cbranch(bd.icmp_signed("<", following, columns), strip, done)
        bd.position_at_end(done)
        bd.ret_void()

    def strip(self, column: ir.Value) -> None:
        """The sums of one strip, for all elements of the states."""
        bd = self.bd
        total, between, state, apart, weights, panel, size, _ = self.f.args
        steps, end = self.f.append_basic_block("steps"), self.f.append_basic_block("end")
        places = [bd.gep(total, [bd.add(column, bd.mul(between, I64(m)))]) for m in range(self.rows)]
        slots = [self.slot(p, n) for p in places for n in range(self.vectors)]
        before, states = [self.load(s) for s in slots], [bd.gep(state, [bd.mul(apart, I64(m))]) for m in range(self.rows)]
        start, first = bd.block, bd.gep(weights, [column])
        width = I64(self.vectors * self.lanes)
        further = bd.select(bd.icmp_signed("<", bd.add(column, width), panel), width, I64(0))
        bd.branch(steps)
        bd.position_at_end(steps)
        k, at = self.phi([start], I64(0)), self.phi([start], first)
        sums = [self.phi([start], b) for b in before]
        if self.rows > 2:  # there is time for one line a step; what follows the panel may be no memory
            self.fetch(bd.ptrtoint(bd.gep(at, [further]), I64))
        new = self.multiply(states, k, True, at, sums)
        following = bd.add(k, I64(1))
        self.follow(steps, [(k, following), (at, bd.gep(at, [panel])), *zip(sums, new)])
        bd.cbranch(bd.icmp_signed("<", following, size), steps, end)
        bd.position_at_end(end)
        for s, v in zip(slots, new, strict=True):
            bd.store(v, s, align=self.itemsize)
