"""Intrinsics around the tile registers of AMX: setting them up, gathering rows for them, and the tile of sums, exact for 8-bit numbers.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18 (Programming with Intel AMX).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir import dtypes as dt
from ..ir.target import Target
from .intrinsics import builder
from .tiles import BFLOAT, I1, I32, I64, POINTER, as_flag, call_named, local_function

I8 = ir.IntType(8)
ROWS, ROW_BYTES = 16, 64  # of a tile register
FIRST_A, FIRST_B = 4, 6  # tile registers: sums 0 to 3, a 4 and 5, b 6 and 7
PALETTE = bytes([1, *[0] * 15, *[ROW_BYTES, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8])  # eight tiles of 16 rows and 64 bytes
VOID = ir.VoidType()
HALF_LINE = ir.VectorType(ir.FloatType(), ROWS)  # of float32 numbers that become half a line


def instruction(bd: ir.IRBuilder, name: str, arguments: Sequence[ir.Value]) -> None:
    call_named(bd, name, VOID, arguments)


@builder("tiles_begin")
def tiles_begin(target: Target) -> object:
    """`tiles_begin()`: the tile registers are eight of 16 rows and 64 bytes, until `tiles_end`."""
    @intrinsic
    def begin(context: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            name, kind = "sardonyx.tiles.palette", ir.ArrayType(I8, len(PALETTE))
            table = bd.module.globals.get(name)
            if table is None:
                table = ir.GlobalVariable(bd.module, kind, name)
                table.linkage, table.global_constant, table.align = "internal", True, ROW_BYTES
                table.initializer = ir.Constant(kind, bytearray(PALETTE))
            instruction(bd, "llvm.x86.ldtilecfg", [bd.bitcast(table, POINTER)])
            return ctx.get_dummy_value()
        return types.void(), lower
    return begin


@builder("tiles_end")
def tiles_end(target: Target) -> object:
    """`tiles_end()`: the tile registers are free, and cost nothing when the system changes threads."""
    @intrinsic
    def end(context: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            instruction(bd, "llvm.x86.tilerelease", [])
            return ctx.get_dummy_value()
        return types.void(), lower
    return end


@builder("gather_rows")
def gather_rows(target: Target, rows: int, source: str, to: str) -> object:
    """Copies of runs of elements, side by side; float32 becomes bfloat16, to the nearest even, denormal numbers zero.

    Args:
        source, to: element types, of one size unless the copy rounds.

    Returns:
        Intrinsic `gather(table, taps, count, run, to, step)`: for each row i < count and tap t, the `run` elements at address `table[t * rows + i]` go to element
        t * run of the row at `to + i * step` bytes. What is left of the tile step in which a row's last run ends is zero, as numbers that are not finite must not be there.
    """
    words, name = I64.as_pointer(), f"sardonyx.gather.{rows}.{source}.{to}"
    arguments = (words, I64, I64, I64, POINTER, I64)

    @intrinsic
    def gather(context: Any, table: Any, taps: Any, count: Any, run: Any, to_: Any, step: Any) -> Any:
        signature = types.void(table, types.int64, types.int64, types.int64, to_, types.int64)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            copy = Copy(dt.BY_SHORT[to].itemsize_bytes, dt.BY_SHORT[source] is dt.float32)
            call = [values[0], *values[1:4], bd.bitcast(values[4], POINTER), values[5]]
            bd.call(local_function(bd.module, name, arguments, lambda f: emit_gather(f, rows, copy)), call)
            return ctx.get_dummy_value()
        return signature, lower
    return gather


@dataclass(frozen=True)
class Copy:
    """How a line of elements comes from a row to the gathered row.

    Args:
        size: bytes of a gathered element.
        rounds: from float32 to bfloat16; else bytes stay as they are.
    """

    size: int
    rounds: bool

    @property
    def lanes(self) -> int:
        return ROW_BYTES // self.size

    @property
    def source_size(self) -> int:
        return 4 if self.rounds else self.size

    @property
    def line(self) -> ir.Type:
        return ir.VectorType(ir.IntType(8 * self.size), self.lanes)

    def place(self, bd: ir.IRBuilder, start: ir.Value, elements: ir.Value, size: int) -> ir.Value:
        return bd.gep(start, [bd.mul(elements, I64(size))])

    def whole(self, bd: ir.IRBuilder, source: ir.Value) -> ir.Value:
        """The line at `source`."""
        if not self.rounds:
            return bd.load(bd.bitcast(source, self.line.as_pointer()), align=1)
        return self.rounded(bd, [bd.load(bd.bitcast(bd.gep(source, [I64(ROW_BYTES * k)]), HALF_LINE.as_pointer()), align=1) for k in range(2)])

    def part(self, bd: ir.IRBuilder, source: ir.Value, mask: ir.Value) -> ir.Value:
        """The line at `source` where the mask is set, else zeros."""
        if not self.rounds:
            return masked_load(bd, self.line, source, mask)
        halves = [ir.Constant(ir.VectorType(I32, ROWS), list(range(ROWS * k, ROWS * k + ROWS))) for k in range(2)]
        nothing = ir.Constant(mask.type, ir.Undefined)
        masks = [bd.shuffle_vector(mask, nothing, h) for h in halves]
        return self.rounded(bd, [masked_load(bd, HALF_LINE, bd.gep(source, [I64(ROW_BYTES * k)]), m) for k, m in enumerate(masks)])

    def rounded(self, bd: ir.IRBuilder, halves: Sequence[ir.Value]) -> ir.Value:
        return bd.bitcast(call_named(bd, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", ir.VectorType(BFLOAT, 32), [halves[1], halves[0]]), self.line)


def masked_load(bd: ir.IRBuilder, kind: ir.VectorType, source: ir.Value, mask: ir.Value) -> ir.Value:
    """The vector at `source` where the mask is set, else zeros."""
    short = f"v{kind.count}{'f' if isinstance(kind.element, ir.FloatType) else 'i'}{32 if isinstance(kind.element, ir.FloatType) else kind.element.width}"
    zeros = ir.Constant(kind, [0.0 if isinstance(kind.element, ir.FloatType) else 0] * kind.count)
    return call_named(bd, f"llvm.masked.load.{short}.p0", kind, [bd.bitcast(source, kind.as_pointer()), I32(1), mask, zeros])


def emit_gather(f: ir.Function, rows: int, copy: Copy) -> None:
    """entry -> clear -> tap -> row (-> chunk) -> rest -> row_end -> tap_end -> done; whole lines, then what is left by a mask."""
    table, taps, count, run, to, step = f.args
    entry, clear, tap, row, chunk, rest, row_end, tap_end, done = (
        f.append_basic_block(n) for n in ("entry", "clear", "tap", "row", "chunk", "rest", "row_end", "tap_end", "done"))
    line, lanes = copy.line, copy.lanes
    bd = ir.IRBuilder(entry)
    whole = bd.and_(run, I64(-lanes))
    left = bd.sub(run, whole)
    number = ir.IntType(lanes)
    ones = bd.sub(bd.shl(I64(1), left), I64(1))
    mask = bd.bitcast(ones if lanes == 64 else bd.trunc(ones, number), ir.VectorType(I1, lanes))
    steps = bd.sdiv(bd.add(bd.mul(taps, run), I64(lanes - 1)), I64(lanes))
    last = bd.mul(bd.sub(steps, I64(1)), I64(ROW_BYTES))
    bd.cbranch(bd.icmp_signed(">", steps, I64(0)), clear, done)

    bd.position_at_end(clear)
    cleared, final = bd.phi(I64), bd.phi(POINTER)
    bd.store(ir.Constant(line, [0] * lanes), bd.bitcast(bd.gep(final, [last]), line.as_pointer()), align=1)
    cleared_next, final_next = bd.add(cleared, I64(1)), bd.gep(final, [step])
    bd.cbranch(bd.icmp_signed("<", cleared_next, count), clear, tap)

    bd.position_at_end(tap)
    t, begin = bd.phi(I64), bd.phi(POINTER)
    sources = bd.gep(table, [bd.mul(t, I64(rows))])
    bd.branch(row)

    bd.position_at_end(row)
    i, out = bd.phi(I64), bd.phi(POINTER)
    source = bd.inttoptr(bd.load(bd.gep(sources, [i])), POINTER)
    bd.cbranch(bd.icmp_signed(">", whole, I64(0)), chunk, rest)

    bd.position_at_end(chunk)
    at = bd.phi(I64)
    bd.store(copy.whole(bd, copy.place(bd, source, at, copy.source_size)), bd.bitcast(copy.place(bd, out, at, copy.size), line.as_pointer()), align=1)
    at_next = bd.add(at, I64(lanes))
    bd.cbranch(bd.icmp_signed("<", at_next, whole), chunk, rest)

    bd.position_at_end(rest)
    tail = copy.part(bd, copy.place(bd, source, whole, copy.source_size), mask)
    target = bd.bitcast(copy.place(bd, out, whole, copy.size), line.as_pointer())
    instruction(bd, f"llvm.masked.store.v{lanes}i{8 * copy.size}.p0", [tail, target, I32(1), mask])
    bd.branch(row_end)

    bd.position_at_end(row_end)
    i_next, out_next = bd.add(i, I64(1)), bd.gep(out, [step])
    bd.cbranch(bd.icmp_signed("<", i_next, count), row, tap_end)

    bd.position_at_end(tap_end)
    t_next, begin_next = bd.add(t, I64(1)), copy.place(bd, begin, run, copy.size)
    bd.cbranch(bd.icmp_signed("<", t_next, taps), tap, done)
    for phi, before, first, after, value in ((t, clear, I64(0), tap_end, t_next), (begin, clear, to, tap_end, begin_next), (i, tap, I64(0), row_end, i_next),
                                             (out, tap, begin, row_end, out_next), (cleared, entry, I64(0), clear, cleared_next), (final, entry, to, clear, final_next)):
        phi.add_incoming(first, before)
        phi.add_incoming(value, after)
    at.add_incoming(I64(0), row)
    at.add_incoming(at_next, chunk)
    bd.position_at_end(done)
    bd.ret_void()


@builder("matrix_tile")
def matrix_tile(target: Target, vectors: int, a: str, b: str) -> object:
    """The tile of 32 rows by `vectors` times 16 columns.

    Args:
        a, b: element types: 8-bit numbers, or both bfloat16.

    Returns:
        Intrinsic `tile(a, a_step, b, steps, c, half)`: c = a * b over `steps` rows of a tile register; rows of a are `a_step` bytes apart, b is packed by words
        ([16 * steps][columns][elements of a word]), c is dense; only the first 16 rows are computed if `half`. Between `tiles_begin` and `tiles_end`. Sums of bfloat16
        products are float32; denormal numbers count as zero.
    """
    signs = "".join("u" if dt.BY_SHORT[s] is dt.uint8 else "s" for s in (a, b))
    kind = "bf16ps" if dt.BY_SHORT[b] is dt.bfloat16 else f"b{signs}d"
    name = f"sardonyx.matrix.{vectors}.{kind}"

    @intrinsic
    def tile(context: Any, a: Any, a_step: Any, b: Any, steps: Any, c: Any, half: Any) -> Any:
        signature = types.void(a, types.int64, b, types.int64, c, types.boolean)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            f = local_function(bd.module, name, (POINTER, I64, POINTER, I64, POINTER, I1), lambda f: emit_tile(f, vectors, f"llvm.x86.tdp{kind}"))
            bd.call(f, [values[0], values[1], bd.bitcast(values[2], POINTER), values[3], bd.bitcast(values[4], POINTER), as_flag(bd, values[5])])
            return ctx.get_dummy_value()
        return signature, lower
    return tile


def emit_tile(f: ir.Function, vectors: int, multiply: str) -> None:
    """entry -> (half | whole) -> done; the sums are stored as they end."""
    a, a_step, b, steps, c, half = f.args
    entry, one, two = (f.append_basic_block(n) for n in ("entry", "half", "whole"))
    bd = ir.IRBuilder(entry)
    width = I64(vectors * ROW_BYTES)
    below = bd.mul(a_step, I64(ROWS))
    for k in range(2 * vectors):
        instruction(bd, "llvm.x86.tilezero", [I8(k)])
    bd.cbranch(half, one, two)
    for start, blocks in ((one, 1), (two, 2)):
        loop, done = f.append_basic_block(f"steps{blocks}"), f.append_basic_block(f"done{blocks}")
        bd.position_at_end(start)
        bd.branch(loop)
        bd.position_at_end(loop)
        k, ap, bp = bd.phi(I64), bd.phi(POINTER), bd.phi(POINTER)
        for m in range(blocks):
            instruction(bd, "llvm.x86.tileloadd64", [I8(FIRST_A + m), bd.gep(ap, [below]) if m else ap, a_step])
            for n in range(vectors):
                if m == 0:
                    instruction(bd, "llvm.x86.tileloadd64", [I8(FIRST_B + n), bd.gep(bp, [I64(n * ROW_BYTES)]), width])
                instruction(bd, multiply, [I8(m * vectors + n), I8(FIRST_A + m), I8(FIRST_B + n)])
        k_next, a_next, b_next = bd.add(k, I64(1)), bd.gep(ap, [I64(ROW_BYTES)]), bd.gep(bp, [I64(ROWS * vectors * ROW_BYTES)])
        for phi, first, value in ((k, I64(0), k_next), (ap, a, a_next), (bp, b, b_next)):
            phi.add_incoming(first, start)
            phi.add_incoming(value, loop)
        bd.cbranch(bd.icmp_signed("<", k_next, steps), loop, done)
        bd.position_at_end(done)
        for m in range(blocks):
            for n in range(vectors):
                instruction(bd, "llvm.x86.tilestored64", [I8(m * vectors + n), bd.gep(c, [I64(m * ROWS * vectors * ROW_BYTES + n * ROW_BYTES)]), width])
        bd.ret_void()
