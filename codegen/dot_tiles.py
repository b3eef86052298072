"""The register tile of narrow numbers: packed dot products of 8-bit ones, exact in int32, or of bfloat16, in float32. See `codegen.tiles` for how tiles are built."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir import dtypes as dt
from ..ir.target import Target
from .dot_forms import CROSSED, PAIRS, PMADDWD, SDOT, VDPBF16PS, VPDPBUSD, WIDEN, DotForm
from .intrinsics import builder
from .tiles import BFLOAT, I1, I32, I64, MADD, POINTER, TileBody, as_flag, call_named, has_fused_multiply_add, local_function

I8, I16 = ir.IntType(8), ir.IntType(16)
FORMS = {f.name: f for f in (VPDPBUSD, SDOT, PMADDWD, CROSSED, WIDEN, VDPBF16PS, PAIRS)}
TOP_BITS = -0x7F7F7F80  # the top bit of each of four bytes


@builder("dot_tile")
def dot_tile(target: Target, rows: int, vectors: int, lanes: int, form: str, short: str) -> object:
    """The tile as an intrinsic.

    Args:
        rows, vectors, lanes: shape of the accumulators.
        form: name of the way to multiply.
        short: element type of a.

    Returns:
        Intrinsic `tile(table, taps, start, length, rest, b, b_step, c, first)`, as `register_tile`'s: a step takes the form's `fold` adjacent elements of a row;
        with `rest` > 0 the last of the `length` steps of each tap has that many, and b zeros for the others.
    """
    kind = FORMS[form]
    stored = ir.IntType(kind.stored.bits).as_pointer()
    sums = (ir.FloatType() if kind.is_float else I32).as_pointer()
    arguments = (I64.as_pointer(), I64, I64, I64, I64, stored, I64, sums, I1)

    def emit(f: ir.Function) -> None:
        DotBody(f, rows, vectors, lanes, kind, short == dt.int8.short, has_fused_multiply_add(target)).dots()

    @intrinsic
    def tile(context: Any, table: Any, taps: Any, start: Any, length: Any, rest: Any, b: Any, b_step: Any, c: Any, first: Any) -> Any:
        signature = types.void(table, types.int64, types.int64, types.int64, types.int64, b, types.int64, c, types.boolean)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            name = f"sardonyx.dots.{rows}x{vectors}x{lanes}.{form}.{short}"
            bd.call(local_function(bd.module, name, arguments, emit), [*values[:8], as_flag(bd, values[8])])
            return ctx.get_dummy_value()
        return signature, lower
    return tile


class DotBody(TileBody):
    """Emits the blocks of a dot tile.

    Args:
        signed: whether elements of a are int8, else uint8.
    """

    def __init__(self, function: ir.Function, rows: int, vectors: int, lanes: int, form: DotForm, signed: bool, fused: bool) -> None:
        super().__init__(function, ir.FloatType() if form.is_float else I32, 4, rows, vectors, lanes, fused)
        self.form, self.signed = form, signed
        self.size = form.stored.itemsize_bytes if form.is_float or form.widened else 1  # bytes of an element of a
        self.mask: ir.Value | None = None
        self.flip = form.flips(dt.int8 if signed else dt.uint8)

    def dots(self) -> None:
        """entry -> (zero | resume) -> tap -> (steps ->) (odd -> (single ->)) after -> (rest ->) tap_end -> done; `odd` where steps are taken in pairs"""
        bd, f = self.bd, self.f
        table, taps, start, length, rest, b, b_step, c, first = f.args
        tap, steps, after, partial, tap_end, done = (f.append_basic_block(n) for n in ("tap", "steps", "after", "rest", "tap_end", "done"))
        whole = bd.sub(length, bd.zext(bd.icmp_signed(">", rest, I64(0)), I64))
        crossed = self.form is CROSSED
        walked, past = (bd.and_(whole, I64(-2)), f.append_basic_block("odd")) if crossed else (whole, after)
        self.mask = self.top_bits() if self.flip else None
        starts, before, slots = self.begin(c, first, tap)
        bd.position_at_end(tap)
        t, b0 = self.phi(before, I64(0)), self.phi(before, b)
        outer = [self.phi(before, *s) for s in starts]
        base = bd.mul(t, I64(self.rows))
        a = [bd.inttoptr(bd.add(bd.load(bd.gep(table, [bd.add(base, I64(m))])), start), POINTER) for m in range(self.rows)]
        bd.cbranch(bd.icmp_signed(">", walked, I64(0)), steps, past)

        bd.position_at_end(steps)
        k, bp = self.phi((tap,), I64(0)), self.phi((tap,), b0)
        inner = [self.phi((tap,), o) for o in outer]
        at = bd.mul(k, I64(self.form.fold))
        if crossed:
            second, follower = bd.add(at, I64(self.form.fold)), bd.gep(bp, [b_step])
            new = self.crossed([(self.spread(self.group(p, at)), self.spread(self.group(p, second))) for p in a], bp, follower, inner)
            k_next, bp_next = bd.add(k, I64(2)), bd.gep(follower, [b_step])
        else:
            new = self.step([self.spread(self.group(p, at)) for p in a], bp, inner)
            k_next, bp_next = bd.add(k, I64(1)), bd.gep(bp, [b_step])
        self.follow(steps, [(k, k_next), (bp, bp_next), *zip(inner, new)])
        bd.cbranch(bd.icmp_signed("<", k_next, walked), steps, past)

        bd.position_at_end(past)
        b_after = self.phi((tap, steps), b0, bp_next)
        summed = [self.phi((tap, steps), o, n) for o, n in zip(outer, new)]
        if crossed:
            b_after, summed = self.last_of_odd(a, past, after, bd.icmp_signed("<", walked, whole), bd.mul(walked, I64(self.form.fold)), b_after, b_step, summed)
        bd.cbranch(bd.icmp_signed(">", rest, I64(0)), partial, tap_end)

        bd.position_at_end(partial)
        at = bd.mul(whole, I64(self.form.fold))
        ended = self.step([self.spread(self.part(p, at, rest)) for p in a], b_after, summed)
        b_end = bd.gep(b_after, [b_step])
        bd.branch(tap_end)

        bd.position_at_end(tap_end)
        b_next = self.phi((after, partial), b_after, b_end)
        total = [self.phi((after, partial), s, e) for s, e in zip(summed, ended)]
        t_next = bd.add(t, I64(1))
        self.follow(tap_end, [(t, t_next), (b0, b_next), *zip(outer, total)])
        bd.cbranch(bd.icmp_signed("<", t_next, taps), tap, done)
        bd.position_at_end(done)
        self.finish(slots, total)

    def top_bits(self) -> ir.Value:
        """The top bit of every byte of a vector. It goes through an empty piece of assembly: LLVM 22's instruction selection does not end where it knows the number."""
        bd, kind = self.bd, ir.VectorType(I32, self.lanes)
        opaque = bd.asm(ir.FunctionType(I32, [I32]), "", "=r,0", [I32(TOP_BITS)], side_effect=False)
        return bd.shuffle_vector(bd.insert_element(ir.Constant(kind, ir.Undefined), opaque, I32(0)), ir.Constant(kind, ir.Undefined), ir.Constant(kind, [0] * self.lanes))

    def group(self, row: ir.Value, at: ir.Value) -> ir.Value:
        """The `fold` elements of a row from `at` on, as one word."""
        word = ir.IntType(8 * self.size * self.form.fold)
        return self.bd.load(self.bd.bitcast(self.element(row, at), word.as_pointer()), align=1)

    def element(self, row: ir.Value, at: ir.Value) -> ir.Value:
        """Where element `at` of a row is."""
        return self.bd.gep(row, [at if self.size == 1 else self.bd.mul(at, I64(self.size))])

    def part(self, row: ir.Value, at: ir.Value, rest: ir.Value) -> ir.Value:
        """The last `rest` elements of a row from `at` on, then zeros."""
        bd, fold = self.bd, self.form.fold
        bits = 8 * self.size
        narrow, word = ir.IntType(bits), ir.IntType(bits * fold)
        value: ir.Value = ir.Constant(word, 0)
        for n in range(fold):
            inside = bd.icmp_signed("<", I64(n), rest)
            place = bd.add(at, bd.select(inside, I64(n), bd.sub(rest, I64(1))))
            part = bd.select(inside, bd.load(bd.bitcast(self.element(row, place), narrow.as_pointer()), align=1), narrow(0))
            wide = part if fold == 1 else bd.zext(part, word)
            value = bd.or_(value, bd.shl(wide, ir.Constant(word, bits * n)))
        return value

    def step(self, spread: Sequence[ir.Value], bp: ir.Value, acc: Sequence[ir.Value]) -> list[ir.Value]:
        """acc + the dot products of each row's word, in every lane, with each vector of b."""
        bd, size = self.bd, self.form.stored.itemsize_bytes
        held = ir.VectorType(ir.IntType(8 * size), self.lanes * self.form.fold)
        b = [bd.load(bd.bitcast(bd.gep(bp, [I64(n * held.count)]), held.as_pointer()), align=size) for n in range(self.vectors)]
        new = []
        for m, x in enumerate(spread):
            new += [self.dot(acc[m * self.vectors + n], x, b[n]) for n in range(self.vectors)]
        return new

    def last_of_odd(self, a: Sequence[ir.Value], odd: ir.Block, after: ir.Block, alone: ir.Value, at: ir.Value, b: ir.Value, b_step: ir.Value,
                    summed: Sequence[ir.Value]) -> tuple[ir.Value, list[ir.Value]]:
        """From `odd` to `after`, by way of a last step at `at` if it is `alone`: where `b` goes on, and the sums."""
        bd, single = self.bd, self.f.append_basic_block("single")
        bd.cbranch(alone, single, after)
        bd.position_at_end(single)
        ended, b_end = self.step([self.spread(self.group(p, at)) for p in a], b, summed), bd.gep(b, [b_step])
        bd.branch(after)
        bd.position_at_end(after)
        return self.phi((odd, single), b, b_end), [self.phi((odd, single), s, e) for s, e in zip(summed, ended)]

    def crossed(self, spread: Sequence[tuple[ir.Value, ir.Value]], bp: ir.Value, follower: ir.Value, acc: Sequence[ir.Value]) -> list[ir.Value]:
        """acc + (a0 + b1) (a1 + b0) for the words of two steps, whose vectors of b start at `bp` and `follower`."""
        bd, shorts = self.bd, ir.VectorType(I16, 2 * self.lanes)
        b = [[bd.load(bd.bitcast(bd.gep(p, [I64(n * shorts.count)]), shorts.as_pointer()), align=2) for n in range(self.vectors)] for p in (bp, follower)]
        new = []
        for m, words in enumerate(spread):
            first, second = (bd.bitcast(x, shorts) for x in words)
            for n in range(self.vectors):
                factors = [bd.add(first, b[1][n]), bd.add(second, b[0][n])]
                new.append(bd.add(acc[m * self.vectors + n], self.call(MADD[32 * self.lanes], self.vector, factors)))
        return new

    def spread(self, word: ir.Value) -> ir.Value:
        """A row's word, widened and flipped as the form wants it, in every lane."""
        bd = self.bd
        widen = bd.sext if self.signed else bd.zext
        if self.form is WIDEN:
            word = widen(word, I32)
        kind = ir.VectorType(I32, self.lanes)
        x = bd.shuffle_vector(bd.insert_element(ir.Constant(kind, ir.Undefined), word, I32(0)), ir.Constant(kind, ir.Undefined), ir.Constant(kind, [0] * self.lanes))
        return x if self.mask is None else bd.xor(x, self.mask)

    def half(self, words: ir.Value, k: int) -> ir.Value:
        """The lower or upper bfloat16 of every word, as float32."""
        bd, kind = self.bd, words.type
        bits = bd.and_(words, ir.Constant(kind, [-65536] * self.lanes)) if k else bd.shl(words, ir.Constant(kind, [16] * self.lanes))
        return bd.bitcast(bits, self.vector)

    def dot(self, acc: ir.Value, x: ir.Value, b: ir.Value) -> ir.Value:
        bd, bits = self.bd, 32 * self.lanes
        if self.form is VDPBF16PS:
            pairs = ir.VectorType(BFLOAT, 2 * self.lanes)
            return self.call(f"llvm.x86.avx512bf16.dpbf16ps.{bits}", acc.type, [acc, bd.bitcast(x, pairs), bd.bitcast(b, pairs)])
        if self.form is PAIRS:
            words = ir.VectorType(I32, self.lanes)
            left, right = (bd.bitcast(v, words) for v in (x, b))
            for k in range(2):
                acc = self.multiply_add(self.half(left, k), self.half(right, k), acc)
            return acc
        kind, bytes_, shorts = acc.type, ir.VectorType(I8, 4 * self.lanes), ir.VectorType(I16, 2 * self.lanes)
        if self.form is VPDPBUSD:
            return self.call(f"llvm.x86.avx512.vpdpbusd.{bits}", kind, [acc, bd.bitcast(x, bytes_), b])
        if self.form is SDOT:
            return self.call("llvm.aarch64.neon.sdot.v4i32.v16i8", kind, [acc, bd.bitcast(x, bytes_), b])
        if self.form in (PMADDWD, CROSSED):
            return bd.add(acc, self.call(MADD[bits], kind, [bd.bitcast(x, shorts), b]))
        return bd.add(acc, bd.mul(x, bd.sext(b, kind)))


@builder("crossed_sum")
def crossed_sum(target: Target) -> object:
    """Intrinsic `total(source, pairs, out)`: out[0] = the int32 sum of x[0] * x[2] + x[1] * x[3] over `pairs` times four adjacent int16 numbers."""
    lanes = target.lanes(4)
    arguments = (I16.as_pointer(), I64, I32.as_pointer())

    @intrinsic
    def total(context: Any, source: Any, pairs: Any, out: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, f"sardonyx.crossed.{lanes}", arguments, lambda f: emit_crossed_sum(f, lanes)), values)
            return ctx.get_dummy_value()
        return types.void(source, types.int64, out), lower
    return total


def emit_crossed_sum(f: ir.Function, lanes: int) -> None:
    """entry -> (whole ->) between -> (left ->) done; every product of a vector of words with their partners stands in it twice."""
    source, pairs, out = f.args
    entry, whole, between, left, done = (f.append_basic_block(n) for n in ("entry", "whole", "between", "left", "done"))
    bd, held = ir.IRBuilder(entry), lanes // 2  # pairs in a vector
    words, shorts = ir.VectorType(I32, lanes), ir.VectorType(I16, 2 * lanes)
    stop = bd.and_(pairs, I64(-held))
    bd.cbranch(bd.icmp_signed(">", stop, I64(0)), whole, between)

    bd.position_at_end(whole)
    j, acc = bd.phi(I64), bd.phi(words)
    x = bd.load(bd.bitcast(bd.gep(source, [bd.mul(j, I64(4))]), words.as_pointer()), align=2)
    partners = bd.shuffle_vector(x, ir.Constant(words, ir.Undefined), ir.Constant(words, [k ^ 1 for k in range(lanes)]))
    new = bd.add(acc, call_named(bd, MADD[32 * lanes], words, [bd.bitcast(v, shorts) for v in (x, partners)]))
    j_next = bd.add(j, I64(held))
    bd.cbranch(bd.icmp_signed("<", j_next, stop), whole, between)
    for phi, start, value in ((j, I64(0), j_next), (acc, ir.Constant(words, [0] * lanes), new)):
        phi.add_incoming(start, entry)
        phi.add_incoming(value, whole)

    bd.position_at_end(between)
    sums = bd.phi(words)
    sums.add_incoming(ir.Constant(words, [0] * lanes), entry)
    sums.add_incoming(new, whole)
    first: ir.Value = I32(0)
    for k in range(0, lanes, 2):
        first = bd.add(first, bd.extract_element(sums, I32(k)))
    bd.cbranch(bd.icmp_signed("<", stop, pairs), left, done)

    bd.position_at_end(left)
    i, one = bd.phi(I64), bd.phi(I32)
    x4 = [bd.sext(bd.load(bd.gep(source, [bd.add(bd.mul(i, I64(4)), I64(k))])), I32) for k in range(4)]
    more = bd.add(one, bd.add(bd.mul(x4[0], x4[2]), bd.mul(x4[1], x4[3])))
    i_next = bd.add(i, I64(1))
    bd.cbranch(bd.icmp_signed("<", i_next, pairs), left, done)
    for phi, start, value in ((i, stop, i_next), (one, first, more)):
        phi.add_incoming(start, between)
        phi.add_incoming(value, left)

    bd.position_at_end(done)
    result = bd.phi(I32)
    result.add_incoming(first, between)
    result.add_incoming(more, left)
    bd.store(result, out)
    bd.ret_void()
