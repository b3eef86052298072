"""Tiles that walk along a line of a depthwise convolution, as LLVM IR behind Numba intrinsics.

`rows` neighbouring results of a vector of channels stand in registers. Taps along the line meet inputs that neighbouring results share, so each input is loaded
once and multiplied by every tap that it belongs to:

    c[i] = sum over r, k of  a[r][i * stride + k * dilation] * b[r][k]        r: taps across the line, k: those along it

Sums run in the order of (r, k) whatever `rows` is.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from ..ir import dtypes as dt
from ..ir.target import Target
from .emitter import LINE_BYTES, SECOND_LEVEL, prefetch
from .epilogue import Form
from .finish import Finish
from .intrinsics import builder
from .tiles import I64, MADD, POINTER, TileBody, has_fused_multiply_add, llvm_scalar, local_function, typed


@builder("line_tile")
def line_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, taps: int, stride: int, dilation: int, codes: str = "", form: Form | None = None) -> object:
    """Tiles side by side along one line, whose inputs all exist.

    Args:
        rows: results of a tile along the line.
        vectors, lanes: channels of a tile.
        short: element type of sums.
        taps, stride, dilation: along the line.
        codes: element type of 8-bit `a` (`b` is int16, both are widened); empty where it is that of the sums.
        form: the epilogue, None where sums are stored.

    Returns:
        Intrinsic `tile(starts, start, step, outer, b, first, count, last, c)`: input n of tap r across the line is at `starts[r] + start + n * step` bytes; the results of
        tile q begin at position p = min(first + q * rows, last), with input p * stride, and go to `c + p * vectors * lanes`; tap (r, k) of b is at
        `b + (r * taps + k) * vectors * lanes`. `outer` and `count` are at least 1. `starts`, `b` and `c` are addresses.
        With a form, `tile(starts, start, step, outer, b, first, count, last, row, column, panels, last_column, ahead, share, end, *places)`: each tile computes `panels` panels of
        channels, which lie one after the other in b; panel k begins at column min(column + k * vectors * lanes, last_column), whose inputs lie so many elements behind
        those of column 0; position p is row `row + p` of the result, and `places` are as in `codegen.finish`. For each panel of each tile, `share` bytes are asked for from
        `ahead` on, which moves on by so many, none from behind `end`.
    """
    return _tiles(target, (rows, vectors, lanes, taps, stride, dilation), short, codes, form, "line", 8, LineBody.run)


@builder("gathered_line_tile")
def gathered_line_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, taps: int, stride: int, dilation: int, codes: str = "",
                       form: Form | None = None) -> object:
    """Tiles like those of `line_tile` whose inputs lie anywhere, some of them in the padding.

    Returns:
        Intrinsic `tile(table, places, count, start, outer, b, c)`: input n of tap r across the line, of tile q, is at `table[(q * outer + r) * span + n] + start` bytes,
        where span = (rows - 1) * stride + (taps - 1) * dilation + 1; its results go to `c + places[q] * vectors * lanes`. `count` and `outer` are at least 1.
        With a form, `tile(table, places, count, start, outer, b, row, column, panels, last_column, ahead, share, end, *places)`: the
        results of tile q begin at row `row + places[q]`.
    """
    return _tiles(target, (rows, vectors, lanes, taps, stride, dilation), short, codes, form, "gathered_line", 6, LineBody.gathered)


def _tiles(target: Target, shape: tuple[int, ...], short: str, codes: str, form: Form | None, name: str, own: int, write: Callable[[LineBody], None]) -> object:
    """An intrinsic over addresses and sizes; `own` of its arguments are not about results."""
    arguments = (I64,) * (own + (1 if form is None else 7 + Finish.count(form)))
    suffix = f"{'x'.join(map(str, shape))}.{short}{codes}{Finish.suffix(form)}"

    def lower(context: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
        bd.call(local_function(bd.module, f"sardonyx.{name}.{suffix}", arguments, lambda f: write(LineBody(f, target, shape, short, codes, form))), values)
        return context.get_dummy_value()
    return typed(types.void(*[types.int64] * len(arguments)), lower)


@builder("fetch_lines")
def fetch_lines(target: Target) -> object:
    """Intrinsic `fetch(address, bytes)`: ask for memory in the second-level cache, cache line by cache line."""
    def emit(f: ir.Function) -> None:
        bd = ir.IRBuilder(f.append_basic_block("entry"))
        write_fetch(bd, *f.args)
        bd.ret_void()

    def lower(context: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
        bd.call(local_function(bd.module, "sardonyx.fetch", (I64, I64), emit), values)
        return context.get_dummy_value()
    return typed(types.void(types.int64, types.int64), lower)


def write_fetch(bd: ir.IRBuilder, address: ir.Value, size: ir.Value) -> None:
    """A loop that asks for `size` bytes of memory; the builder stands behind it."""
    before, line, done = bd.block, bd.append_basic_block("line"), bd.append_basic_block("fetched")
    bd.cbranch(bd.icmp_signed(">", size, I64(0)), line, done)
    bd.position_at_end(line)
    at = bd.phi(I64)
    at.add_incoming(I64(0), before)
    prefetch(bd, bd.add(address, at), SECOND_LEVEL)
    following = bd.add(at, I64(LINE_BYTES))
    at.add_incoming(following, line)
    bd.cbranch(bd.icmp_signed("<", following, size), line, done)
    bd.position_at_end(done)


class LineBody(TileBody):
    """Emits the blocks of a tile along a line.

    Args:
        function: empty, with the tile's arguments.
        shape: rows, vectors, lanes, taps, stride, dilation.
        short, codes, form: as in `line_tile`.
    """

    def __init__(self, function: ir.Function, target: Target, shape: tuple[int, ...], short: str, codes: str, form: Form | None) -> None:
        rows, vectors, lanes, self.taps, self.stride, self.dilation = shape
        self.element, self.target, self.form = dt.BY_SHORT[short], target, form
        super().__init__(function, llvm_scalar(self.element), self.element.itemsize_bytes, rows, vectors, lanes, has_fused_multiply_add(target))
        self.widened = dt.BY_SHORT[codes] if codes else None
        self.madd = MADD.get(32 * lanes) if codes and target.arch == "x86_64" else None
        self.span = (rows - 1) * self.stride + (self.taps - 1) * self.dilation + 1

    @property
    def size(self) -> int:
        """Elements between two results, and between two taps of b."""
        return self.vectors * self.lanes

    def run(self) -> None:
        bd = self.bd
        starts, start, step, outer, b, first, count, last, *rest = self.f.args
        starts = self.words(starts)

        def begin(q: ir.Value) -> tuple[ir.Value, ir.Value]:
            place = bd.add(first, bd.mul(q, I64(self.rows)))
            position = bd.select(bd.icmp_signed("<", place, last), place, last)
            return position, bd.add(start, bd.mul(bd.mul(position, I64(self.stride)), step))

        def inputs(q: ir.Value, r: ir.Value, shift: ir.Value) -> list[ir.Value]:
            found = [bd.add(bd.load(bd.gep(starts, [r])), shift)]
            while len(found) < self.span:
                found.append(bd.add(found[-1], step))
            return found
        self.tiles(count, outer, b, begin, inputs, rest)

    def gathered(self) -> None:
        bd = self.bd
        table, places, count, start, outer, b, *rest = self.f.args
        table, places = self.words(table), self.words(places)
        used = {i * self.stride + k * self.dilation for i in range(self.rows) for k in range(self.taps)}

        def begin(q: ir.Value) -> tuple[ir.Value, ir.Value]:
            return bd.load(bd.gep(places, [q])), start

        def inputs(q: ir.Value, r: ir.Value, shift: ir.Value) -> list[ir.Value]:
            at = bd.gep(table, [bd.mul(bd.add(bd.mul(q, outer), r), I64(self.span))])
            return [bd.add(bd.load(bd.gep(at, [I64(n)])), shift) if n in used else shift for n in range(self.span)]
        self.tiles(count, outer, b, begin, inputs, rest)

    def words(self, address: ir.Value) -> ir.Value:
        return self.bd.inttoptr(address, I64.as_pointer())

    def tiles(self, count: ir.Value, outer: ir.Value, b: ir.Value, begin: Callable[[ir.Value], tuple[ir.Value, ir.Value]],
              inputs: Callable[[ir.Value, ir.Value, ir.Value], list[ir.Value]], rest: Sequence[ir.Value]) -> None:
        """entry -> tile -> panel -> across -> panel_end -> tile_end -> done

        Args:
            begin: of tile q, where its results go, and the bytes from its inputs' addresses to those of column 0.
            inputs: of tile q and tap r across the line, the addresses of its inputs, so many bytes further on.
            rest: arguments about results.
        """
        bd, f = self.bd, self.f
        b = bd.inttoptr(b, (ir.IntType(16) if self.widened else self.scalar).as_pointer())
        entry, tile, panel, across, panel_end, tile_end, done = bd.block, *(f.append_basic_block(n) for n in ("tile", "panel", "across", "panel_end", "tile_end", "done"))
        bd.branch(tile)
        bd.position_at_end(tile)
        q = self.phi((entry,), I64(0))
        place, shift = begin(q)
        bd.branch(panel)

        bd.position_at_end(panel)
        if self.form is not None:
            row, column, panels, last_column, ahead, share, end, *places = rest
            number, b_panel = self.phi((tile,), I64(0)), self.phi((tile,), b)
            coming = bd.add(ahead, bd.mul(bd.add(bd.mul(q, panels), number), share))
            left = bd.sub(end, coming)
            write_fetch(bd, coming, bd.select(bd.icmp_signed("<", left, share), left, share))
            begins = bd.add(column, bd.mul(number, I64(self.size)))
            begins = bd.select(bd.icmp_signed("<", begins, last_column), begins, last_column)
            inside = bd.add(shift, bd.mul(begins, I64(self.itemsize)))
        else:
            b_panel, inside = b, shift
        before = (bd.block,)
        bd.branch(across)

        bd.position_at_end(across)
        r, bp = self.phi(before, I64(0)), self.phi(before, b_panel)
        acc = [self.phi(before, self.nothing) for _ in range(self.rows * self.vectors)]
        new = self.line(inputs(q, r, inside), bp, acc)
        r_next, bp_next = bd.add(r, I64(1)), bd.gep(bp, [I64(self.taps * self.size)])
        self.follow(across, [(r, r_next), (bp, bp_next), *zip(acc, new)])
        bd.cbranch(bd.icmp_signed("<", r_next, outer), across, panel_end)

        bd.position_at_end(panel_end)
        if self.form is None:
            self.put(bd.gep(bd.inttoptr(rest[0], self.scalar.as_pointer()), [bd.mul(place, I64(self.size))]), new)
            bd.branch(tile_end)
        else:
            Finish(bd, self.target, self.form, self.element, self.vector, (self.rows, self.vectors), places).write(new, bd.add(row, place), begins)
            following = bd.add(number, I64(1))
            self.follow(bd.block, [(number, following), (b_panel, bp_next)])
            bd.cbranch(bd.icmp_signed("<", following, panels), panel, tile_end)

        bd.position_at_end(tile_end)
        q_next = bd.add(q, I64(1))
        self.follow(tile_end, [(q, q_next)])
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
