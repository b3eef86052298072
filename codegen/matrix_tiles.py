"""Intrinsics around the tile registers of AMX: setting them up, gathering rows for them, and the tile of sums. Exact.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18 (Programming with Intel AMX).
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir import dtypes as dt
from ..ir.target import Target
from .intrinsics import builder
from .tiles import I1, I64, POINTER, as_flag, call_named, local_function

I8 = ir.IntType(8)
ROWS, ROW_BYTES = 16, 64  # of a tile register
FIRST_A, FIRST_B = 4, 6  # tile registers: sums 0 to 3, a 4 and 5, b 6 and 7
PALETTE = bytes([1, *[0] * 15, *[ROW_BYTES, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8])  # eight tiles of 16 rows and 64 bytes
VOID = ir.VoidType()


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
def gather_rows(target: Target, rows: int) -> object:
    """Copies of runs of bytes, side by side.

    Returns:
        Intrinsic `gather(table, taps, count, run, to, step)`: for each row i < count and tap t, the `run` bytes at address `table[t * rows + i]` go to
        `to + i * step + t * run`. Bytes behind a row's last run stay as they are.
    """
    words, name = I64.as_pointer(), f"sardonyx.gather.{rows}"
    arguments = (words, I64, I64, I64, POINTER, I64)

    @intrinsic
    def gather(context: Any, table: Any, taps: Any, count: Any, run: Any, to: Any, step: Any) -> Any:
        signature = types.void(table, types.int64, types.int64, types.int64, to, types.int64)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, name, arguments, lambda f: emit_gather(f, rows)), values)
            return ctx.get_dummy_value()
        return signature, lower
    return gather


def emit_gather(f: ir.Function, rows: int) -> None:
    """entry -> tap -> row (-> chunk) -> rest -> row_end -> tap_end -> done; whole lines, then what is left by a mask."""
    table, taps, count, run, to, step = f.args
    entry, tap, row, chunk, rest, row_end, tap_end, done = (f.append_basic_block(n) for n in ("entry", "tap", "row", "chunk", "rest", "row_end", "tap_end", "done"))
    line, lanes = ir.VectorType(I8, ROW_BYTES), ir.VectorType(I1, ROW_BYTES)
    pointer = line.as_pointer()
    bd = ir.IRBuilder(entry)
    whole = bd.and_(run, I64(-ROW_BYTES))
    left = bd.sub(run, whole)
    mask = bd.bitcast(bd.sub(bd.shl(I64(1), left), I64(1)), lanes)
    word = ir.IntType(32)
    bd.branch(tap)

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
    bd.store(bd.load(bd.bitcast(bd.gep(source, [at]), pointer), align=1), bd.bitcast(bd.gep(out, [at]), pointer), align=1)
    at_next = bd.add(at, I64(ROW_BYTES))
    bd.cbranch(bd.icmp_signed("<", at_next, whole), chunk, rest)

    bd.position_at_end(rest)
    tail = call_named(bd, f"llvm.masked.load.v{ROW_BYTES}i8.p0", line, [bd.bitcast(bd.gep(source, [whole]), pointer), word(1), mask, ir.Constant(line, [0] * ROW_BYTES)])
    instruction(bd, f"llvm.masked.store.v{ROW_BYTES}i8.p0", [tail, bd.bitcast(bd.gep(out, [whole]), pointer), word(1), mask])
    bd.branch(row_end)

    bd.position_at_end(row_end)
    i_next, out_next = bd.add(i, I64(1)), bd.gep(out, [step])
    bd.cbranch(bd.icmp_signed("<", i_next, count), row, tap_end)

    bd.position_at_end(tap_end)
    t_next, begin_next = bd.add(t, I64(1)), bd.gep(begin, [run])
    bd.cbranch(bd.icmp_signed("<", t_next, taps), tap, done)
    for phi, before, first, after, value in ((t, entry, I64(0), tap_end, t_next), (begin, entry, to, tap_end, begin_next), (i, tap, I64(0), row_end, i_next),
                                             (out, tap, begin, row_end, out_next)):
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
        a, b: element types, 8 bits each.

    Returns:
        Intrinsic `tile(a, a_step, b, steps, c, half)`: c = a * b over `steps` times 64 products; rows of a are `a_step` bytes apart, b is packed by fours
        ([16 * steps][columns][4]), c is dense; only the first 16 rows are computed if `half`. Between `tiles_begin` and `tiles_end`.
    """
    signs = "".join("u" if dt.BY_SHORT[s] is dt.uint8 else "s" for s in (a, b))
    name = f"sardonyx.matrix.{vectors}.{signs}"

    @intrinsic
    def tile(context: Any, a: Any, a_step: Any, b: Any, steps: Any, c: Any, half: Any) -> Any:
        signature = types.void(a, types.int64, b, types.int64, c, types.boolean)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            f = local_function(bd.module, name, (POINTER, I64, POINTER, I64, POINTER, I1), lambda f: emit_tile(f, vectors, f"llvm.x86.tdpb{signs}d"))
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
