"""Tiles that walk along a line of a depthwise convolution, as LLVM IR behind Numba intrinsics.

`rows` neighbouring results of a vector of channels stand in registers. Taps along the line meet inputs that neighbouring results share, so each input is loaded
once and multiplied by every tap that it belongs to:

    c[i] = sum over r, k of  a[r][i * stride + k * dilation] * b[r][k]        r: taps across the line, k: those along it

Sums run in the order of (r, k) whatever `rows` is.
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
from .tiles import I32, I64, MADD, POINTER, SECOND_LEVEL, TileBody, call_named, has_fused_multiply_add, llvm_scalar, local_function

LINE_BYTES = 64  # of a cache line, of which no target has shorter ones


@builder("line_tile")
def line_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, taps: int, stride: int, dilation: int, codes: str = "") -> object:
    """Tiles side by side along one line, whose inputs all exist.

    Args:
        rows: results of a tile along the line.
        vectors, lanes: channels of a tile.
        short: element type of sums.
        taps, stride, dilation: along the line.
        codes: element type of 8-bit `a` (`b` is int16, both are widened); empty where it is that of the sums.

    Returns:
        Intrinsic `tile(starts, start, step, outer, b, first, count, last, c)`: input n of tap r across the line is at `starts[r] + start + n * step` bytes; the results of
        tile q begin at position p = min(first + q * rows, last), with input p * stride, and go to `c + p * vectors * lanes`; tap (r, k) of b is at
        `b + (r * taps + k) * vectors * lanes`. `outer` and `count` are at least 1.
    """
    scalar, weights = _types(short, codes)
    arguments = (I64.as_pointer(), I64, I64, I64, weights, I64, I64, I64, scalar.as_pointer())
    shape = (rows, vectors, lanes, taps, stride, dilation)

    def emit(f: ir.Function) -> None:
        LineBody(f, target, shape, short, codes).run()

    @intrinsic
    def tile(context: Any, starts: Any, start: Any, step: Any, outer: Any, b: Any, first: Any, count: Any, last: Any, c: Any) -> Any:
        whole = types.int64

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, f"sardonyx.line.{_suffix(shape, short, codes)}", arguments, emit), values)
            return ctx.get_dummy_value()
        return types.void(starts, whole, whole, whole, b, whole, whole, whole, c), lower
    return tile


@builder("gathered_line_tile")
def gathered_line_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, taps: int, stride: int, dilation: int, codes: str = "") -> object:
    """Tiles like those of `line_tile` whose inputs lie anywhere, some of them in the padding.

    Returns:
        Intrinsic `tile(table, places, count, start, outer, b, c)`: input n of tap r across the line, of tile q, is at `table[(q * outer + r) * span + n] + start` bytes,
        where span = (rows - 1) * stride + (taps - 1) * dilation + 1; its results go to `c + places[q] * vectors * lanes`. `count` and `outer` are at least 1.
    """
    scalar, weights = _types(short, codes)
    arguments = (I64.as_pointer(), I64.as_pointer(), I64, I64, I64, weights, scalar.as_pointer())
    shape = (rows, vectors, lanes, taps, stride, dilation)

    def emit(f: ir.Function) -> None:
        LineBody(f, target, shape, short, codes).gathered()

    @intrinsic
    def tile(context: Any, table: Any, places: Any, count: Any, start: Any, outer: Any, b: Any, c: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, f"sardonyx.gathered_line.{_suffix(shape, short, codes)}", arguments, emit), values)
            return ctx.get_dummy_value()
        return types.void(table, places, types.int64, types.int64, types.int64, b, c), lower
    return tile


@builder("fetch_lines")
def fetch_lines(target: Target) -> object:
    """Intrinsic `fetch(address, bytes)`: ask for memory in the second-level cache, cache line by cache line."""
    def emit(f: ir.Function) -> None:
        bd = ir.IRBuilder(f.append_basic_block("entry"))
        address, size = f.args
        entry, line, done = bd.block, f.append_basic_block("line"), f.append_basic_block("done")
        bd.cbranch(bd.icmp_signed(">", size, I64(0)), line, done)
        bd.position_at_end(line)
        at = bd.phi(I64)
        at.add_incoming(I64(0), entry)
        call_named(bd, "llvm.prefetch.p0", ir.VoidType(), [bd.inttoptr(bd.add(address, at), POINTER), I32(0), I32(SECOND_LEVEL), I32(1)])
        following = bd.add(at, I64(LINE_BYTES))
        at.add_incoming(following, line)
        bd.cbranch(bd.icmp_signed("<", following, size), line, done)
        bd.position_at_end(done)
        bd.ret_void()

    @intrinsic
    def fetch(context: Any, start: Any, size: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, "sardonyx.fetch", (I64, I64), emit), values)
            return ctx.get_dummy_value()
        return types.void(types.int64, types.int64), lower
    return fetch


def _types(short: str, codes: str) -> tuple[ir.Type, ir.Type]:
    """The type of sums, and a pointer to weights."""
    scalar = llvm_scalar(dt.BY_SHORT[short])
    return scalar, ir.IntType(16).as_pointer() if codes else scalar.as_pointer()


def _suffix(shape: tuple[int, ...], short: str, codes: str) -> str:
    return f"{'x'.join(map(str, shape))}.{short}{codes}"


class LineBody(TileBody):
    """Emits the blocks of a tile along a line.

    Args:
        function: empty, with the tile's arguments.
        shape: rows, vectors, lanes, taps, stride, dilation.
        short, codes: element types, as in `line_tile`.
    """

    def __init__(self, function: ir.Function, target: Target, shape: tuple[int, ...], short: str, codes: str) -> None:
        rows, vectors, lanes, self.taps, self.stride, self.dilation = shape
        element = dt.BY_SHORT[short]
        super().__init__(function, llvm_scalar(element), element.itemsize_bytes, rows, vectors, lanes, has_fused_multiply_add(target))
        self.widened = dt.BY_SHORT[codes] if codes else None
        self.madd = MADD.get(32 * lanes) if codes and target.arch == "x86_64" else None
        self.span = (rows - 1) * self.stride + (self.taps - 1) * self.dilation + 1
        self.nothing = ir.Constant(self.vector, [0.0 if self.is_float else 0] * lanes)

    @property
    def size(self) -> int:
        """Elements between two results, and between two taps of b."""
        return self.vectors * self.lanes

    def run(self) -> None:
        """entry -> tile -> across -> tile_end -> done"""
        bd, f = self.bd, self.f
        starts, start, step, outer, b, first, count, last, c = f.args
        entry, tile, across, tile_end, done = bd.block, *(f.append_basic_block(n) for n in ("tile", "across", "tile_end", "done"))
        bd.branch(tile)
        bd.position_at_end(tile)
        q, place = self.phi((entry,), I64(0)), self.phi((entry,), first)
        position = bd.select(bd.icmp_signed("<", place, last), place, last)
        shift = bd.add(start, bd.mul(bd.mul(position, I64(self.stride)), step))
        bd.branch(across)

        bd.position_at_end(across)
        r, bp = self.phi((tile,), I64(0)), self.phi((tile,), b)
        acc = [self.phi((tile,), self.nothing) for _ in range(self.rows * self.vectors)]
        row = bd.add(bd.load(bd.gep(starts, [r])), shift)
        addresses: list[ir.Value] = []
        for n in range(self.span):
            addresses.append(row if n == 0 else bd.add(addresses[-1], step))
        new = self.line(addresses, bp, acc)
        r_next = bd.add(r, I64(1))
        self.follow(across, [(r, r_next), (bp, bd.gep(bp, [I64(self.taps * self.size)])), *zip(acc, new)])
        bd.cbranch(bd.icmp_signed("<", r_next, outer), across, tile_end)

        bd.position_at_end(tile_end)
        self.put(bd.gep(c, [bd.mul(position, I64(self.size))]), new)
        q_next = bd.add(q, I64(1))
        self.follow(tile_end, [(q, q_next), (place, bd.add(place, I64(self.rows)))])
        bd.cbranch(bd.icmp_signed("<", q_next, count), tile, done)
        bd.position_at_end(done)
        bd.ret_void()

    def gathered(self) -> None:
        """entry -> tile -> across -> tile_end -> done"""
        bd, f = self.bd, self.f
        table, places, count, start, outer, b, c = f.args
        entry, tile, across, tile_end, done = bd.block, *(f.append_basic_block(n) for n in ("tile", "across", "tile_end", "done"))
        bd.branch(tile)
        bd.position_at_end(tile)
        q, first = self.phi((entry,), I64(0)), self.phi((entry,), table)
        bd.branch(across)

        bd.position_at_end(across)
        r, at, bp = self.phi((tile,), I64(0)), self.phi((tile,), first), self.phi((tile,), b)
        acc = [self.phi((tile,), self.nothing) for _ in range(self.rows * self.vectors)]
        used = {i * self.stride + k * self.dilation for i in range(self.rows) for k in range(self.taps)}
        new = self.line([bd.add(bd.load(bd.gep(at, [I64(n)])), start) if n in used else start for n in range(self.span)], bp, acc)
        r_next, at_next = bd.add(r, I64(1)), bd.gep(at, [I64(self.span)])
        self.follow(across, [(r, r_next), (at, at_next), (bp, bd.gep(bp, [I64(self.taps * self.size)])), *zip(acc, new)])
        bd.cbranch(bd.icmp_signed("<", r_next, outer), across, tile_end)

        bd.position_at_end(tile_end)
        self.put(bd.gep(c, [bd.mul(bd.load(bd.gep(places, [q])), I64(self.size))]), new)
        q_next = bd.add(q, I64(1))
        self.follow(tile_end, [(q, q_next), (first, at_next)])
        bd.cbranch(bd.icmp_signed("<", q_next, count), tile, done)
        bd.position_at_end(done)
        bd.ret_void()

    def put(self, c: ir.Value, values: Sequence[ir.Value]) -> None:
        for n, value in enumerate(values):
            self.bd.store(value, self.slot(c, n), align=self.itemsize)

    def line(self, addresses: Sequence[ir.Value], bp: ir.Value, acc: Sequence[ir.Value]) -> list[ir.Value]:
        """acc + all taps along the line: each input is loaded once."""
        new = list(acc)
        w = [[self.weight(bp, k * self.vectors + v) for v in range(self.vectors)] for k in range(self.taps)]
        for n, address in enumerate(addresses):
            met = [(k, (n - k * self.dilation) // self.stride) for k in range(self.taps) if (n - k * self.dilation) % self.stride == 0]
            met = [(k, i) for k, i in met if 0 <= i < self.rows]
            for v in range(self.vectors if met else 0):
                x = self.input(address, v)
                for k, i in met:
                    at = i * self.vectors + v
                    new[at] = self.accumulated(x, w[k][v], new[at])
        return new

    # ---- elements
    def input(self, address: ir.Value, v: int) -> ir.Value:
        """Vector v of an input, widened if it holds 8-bit codes."""
        bd = self.bd
        if self.widened is None:
            return self.load(self.slot(bd.inttoptr(address, self.scalar.as_pointer()), v))
        codes = ir.VectorType(ir.IntType(8), self.lanes)
        x = bd.load(bd.bitcast(bd.gep(bd.inttoptr(address, POINTER), [I64(v * self.lanes)]), codes.as_pointer()), align=1)
        return bd.sext(x, self.vector) if self.widened is dt.int8 else bd.zext(x, self.vector)

    def weight(self, bp: ir.Value, index: int) -> ir.Value:
        """Vector `index` of dense weights; with `madd` the low halves of pairs whose high halves are zero."""
        bd = self.bd
        if self.widened is None:
            return self.load(self.slot(bp, index))
        halves = ir.VectorType(ir.IntType(16), self.lanes)
        y = bd.load(bd.bitcast(bd.gep(bp, [I64(index * self.lanes)]), halves.as_pointer()), align=2)
        return bd.sext(y, self.vector) if self.madd is None else bd.zext(y, self.vector)

    def accumulated(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """z + x * y"""
        if self.madd is None:
            return self.multiply_add(x, y, z)
        pairs = ir.VectorType(ir.IntType(16), 2 * self.lanes)
        return self.bd.add(z, self.call(self.madd, self.vector, [self.bd.bitcast(x, pairs), self.bd.bitcast(y, pairs)]))
