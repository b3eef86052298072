"""Intrinsics of products with weights of few bits: rows of digits times panels of codes, and a panel unpacked to float32. See `codegen.few_bits` for what they hold."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir.target import Target
from .dot_forms import PMADDWD, VPDPBUSD, VPMADDUBSW, DotForm
from .intrinsics import builder
from .tiles import I32, I64, MADD, POINTER, call_named, local_function

F32 = ir.FloatType()
FORMS = {f.name: f for f in (VPDPBUSD, VPMADDUBSW, PMADDWD)}
MADDUBS = {128: "llvm.x86.ssse3.pmadd.ub.sw.128", 256: "llvm.x86.avx2.pmadd.ub.sw"}
UNROLLED = 4  # groups of a block that are written out
AHEAD_BYTES = 2048  # how far ahead codes are fetched


@builder("rows_of_codes")
def rows_of_codes(target: Target, rows: int, panels: int, vectors: int, lanes: int, bits: int, block: int, form: str, digits: int, digit_bits: int, middle: int,
                  zeros: str) -> object:
    """Rows by panels that lie one after another, walked side by side.

    Args:
        vectors, lanes: columns of a panel.
        bits, block: of the codes.
        form: name of the way to multiply.
        digits, digit_bits: signed digits of each number of the rows, as wide as the form's parts of a word, and the bits that they count.
        middle: the zero point that `starts` take off.
        zeros: type of the zero points: empty where all are the middle, `u8` themselves, `f32` scales * (middle - zero).

    Returns:
        Intrinsic `tile(digits, starts, steps, sums, codes, scales, zeros, blocks, c)`: c[panel][row][column] = sum over blocks of
        steps * scales * (digits times codes, from starts on) + scales * (middle - zero) * sums. Every block's sum of products is exact.
    """
    name = f"sardonyx.codes.{rows}.{panels}.{vectors}x{lanes}.{bits}.{block}.{form}.{digits}.{digit_bits}.{middle}{zeros}"
    floats, words = F32.as_pointer(), I32.as_pointer()
    arguments = (POINTER, words, floats, floats, words, floats, POINTER, I64, floats)

    def emit(f: ir.Function) -> None:
        CodesBody(f, rows, panels, vectors, lanes, bits, block, FORMS[form], digits, digit_bits, middle, zeros).emit()

    @intrinsic
    def tile(context: Any, digit: Any, starts: Any, steps: Any, sums: Any, codes: Any, scales: Any, zeros_: Any, blocks: Any, c: Any) -> Any:
        signature = types.void(digit, starts, steps, sums, codes, scales, zeros_, types.int64, c)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            f = local_function(bd.module, name, arguments, emit)
            bd.call(f, [v if v.type == a else bd.bitcast(v, a) for v, a in zip(values, arguments, strict=True)])
            return ctx.get_dummy_value()
        return signature, lower
    return tile


@builder("unpack_codes")
def unpack_codes(target: Target, vectors: int, lanes: int, bits: int, block: int, fold: int, middle: int, zeros: str) -> object:
    """`unpack(codes, scales, zeros, blocks, to)`: to[step][column] = (code - zero) * scale, `blocks` blocks of a panel whose words have `fold` parts; other arguments as
    `rows_of_codes`'."""
    name = f"sardonyx.unpacked.{vectors}x{lanes}.{bits}.{block}.{fold}.{middle}{zeros}"
    floats, words = F32.as_pointer(), I32.as_pointer()
    arguments = (words, floats, POINTER, I64, floats)

    @intrinsic
    def unpack(context: Any, codes: Any, scales: Any, zeros_: Any, blocks: Any, to: Any) -> Any:
        signature = types.void(codes, scales, zeros_, types.int64, to)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            f = local_function(bd.module, name, arguments, lambda f: emit_unpack(f, vectors, lanes, bits, block, fold, middle, zeros))
            bd.call(f, [v if v.type == a else bd.bitcast(v, a) for v, a in zip(values, arguments, strict=True)])
            return ctx.get_dummy_value()
        return signature, lower
    return unpack


class Vectors:
    """Vectors of one width."""

    def __init__(self, bd: ir.IRBuilder, lanes: int) -> None:
        self.bd, self.lanes = bd, lanes
        self.ints, self.floats = ir.VectorType(I32, lanes), ir.VectorType(F32, lanes)

    def load(self, pointer: ir.Value, at: int, kind: ir.Type) -> ir.Value:
        bd = self.bd
        return bd.load(bd.bitcast(bd.gep(pointer, [I64(at)]), kind.as_pointer()), align=4)

    def spread(self, value: ir.Value) -> ir.Value:
        kind = ir.VectorType(value.type, self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        return self.bd.shuffle_vector(self.bd.insert_element(undefined, value, I32(0)), undefined, ir.Constant(self.ints, [0] * self.lanes))

    def number(self, value: float) -> ir.Value:
        return ir.Constant(self.floats, [value] * self.lanes)

    def field(self, word: ir.Value, shift: int, mask: int) -> ir.Value:
        """(word >> shift) & mask in every lane."""
        bd = self.bd
        moved = bd.lshr(word, ir.Constant(self.ints, [shift] * self.lanes)) if shift else word
        return moved if mask + 1 >= 1 << 32 - shift else bd.and_(moved, ir.Constant(self.ints, [mask] * self.lanes))

    def offset(self, zeros: ir.Value, at: ir.Value, kind: str, middle: int, scale: ir.Value) -> ir.Value:
        """scale * (middle - zero) of the columns from element `at` of the zero points on."""
        bd = self.bd
        if kind == "f32":
            return bd.load(bd.bitcast(bd.gep(bd.bitcast(zeros, F32.as_pointer()), [at]), self.floats.as_pointer()), align=4)
        bytes_ = ir.VectorType(ir.IntType(8), self.lanes)
        held = bd.zext(bd.load(bd.bitcast(bd.gep(zeros, [at]), bytes_.as_pointer()), align=1), self.ints)
        return bd.fmul(bd.sitofp(bd.sub(ir.Constant(self.ints, [middle] * self.lanes), held), self.floats), scale)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        return call_named(self.bd, f"llvm.fma.v{self.lanes}f32", self.floats, [a, b, c])


class CodesBody:
    """Emits `rows_of_codes`. Sums are lists over rows, digits, panels and vectors, in this order."""

    def __init__(self, f: ir.Function, rows: int, panels: int, vectors: int, lanes: int, bits: int, block: int, form: DotForm, digits: int, digit_bits: int, middle: int,
                 zeros: str) -> None:
        self.f, self.rows, self.panels, self.bits, self.block, self.middle, self.zeros = f, rows, panels, bits, block, middle, zeros
        self.form, self.digits, self.base = form, digits, float(1 << digit_bits)
        self.bd = ir.IRBuilder(f.append_basic_block("entry"))
        self.v = Vectors(self.bd, lanes)
        self.columns = vectors * lanes
        self.places = [(p, n) for p in range(panels) for n in range(vectors)]  # of a row's vectors of sums
        self.lines = rows * digits  # words of digits that meet a word of codes
        self.steps = 32 // bits  # of a group
        self.part_bits = 32 // form.fold
        self.parts = ir.VectorType(ir.IntType(self.part_bits), form.fold * lanes)
        self.unrolled = min(block // self.steps, UNROLLED)
        self.short = form is VPMADDUBSW
        dots = self.unrolled * self.part_bits // bits  # of an iteration of the inner loop, for each vector of sums
        assert not self.short or dots * 2 * ((1 << bits) - 1) << digit_bits - 1 < 1 << 15, "sums of an iteration leave 16 bits"

    def emit(self) -> None:
        """entry -> block -> groups -> block_end -> done"""
        bd, v, f = self.bd, self.v, self.f
        digits, starts, steps, sums, codes, scales, zeros, blocks, c = f.args
        groups, unrolled = self.block // self.steps, self.unrolled
        entry = bd.block
        block, walk, end, done = (f.append_basic_block(n) for n in ("block", "groups", "block_end", "done"))
        plane = bd.mul(blocks, I64(self.block * self.part_bits // 8))
        planes = [bd.mul(plane, I64(n)) for n in range(self.lines)]
        words_apart, columns_apart = bd.mul(blocks, I64(groups * self.columns)), bd.mul(blocks, I64(self.columns))
        bd.branch(block)

        bd.position_at_end(block)
        g, at, word = bd.phi(I64), bd.phi(POINTER), bd.phi(I32.as_pointer())
        total = [bd.phi(v.floats) for _ in range(self.rows * len(self.places))]
        begun = []
        for r in range(self.rows):
            first = bd.gep(starts, [bd.mul(bd.add(g, bd.mul(blocks, I64(r))), I64(self.digits))])
            begun += [v.spread(bd.load(bd.gep(first, [I64(n)]))) for n in range(self.digits)]
        bd.branch(walk)

        bd.position_at_end(walk)
        q, digit, w = bd.phi(I64), bd.phi(POINTER), bd.phi(I32.as_pointer())
        held = [[bd.phi(v.ints) for _ in self.places] for _ in range(self.lines)]
        panels = [bd.gep(w, [bd.mul(words_apart, I64(p))]) for p in range(self.panels)]
        acc: list[list[ir.Value | None]] = [[None for _ in h] if self.short else list(h) for h in held]
        for u in range(unrolled):
            for p in panels:
                for n in range(self.columns // 16):
                    coming = bd.bitcast(bd.gep(p, [I64(u * self.columns + 16 * n + AHEAD_BYTES // 4)]), POINTER)
                    call_named(bd, "llvm.prefetch.p0", ir.VoidType(), [coming, I32(0), I32(3), I32(1)])
            self.group(panels, [bd.gep(digit, [p]) for p in planes], u, acc)
        if self.short:
            acc = [[self.widened(h, a) for h, a in zip(line, sums_of, strict=True)] for line, sums_of in zip(held, acc, strict=True)]
        q_next, digit_next, w_next = bd.add(q, I64(unrolled)), bd.gep(digit, [I64(self.steps * unrolled * self.part_bits // 8)]), bd.gep(w, [I64(self.columns * unrolled)])
        bd.cbranch(bd.icmp_signed("<", q_next, I64(groups)), walk, end)
        for phi, start, value in ((q, I64(0), q_next), (digit, at, digit_next), (w, word, w_next)):
            phi.add_incoming(start, block)
            phi.add_incoming(value, walk)
        for h, b, a in zip(held, begun, acc, strict=True):
            for phi, value in zip(h, a, strict=True):
                phi.add_incoming(b, block)
                phi.add_incoming(value, walk)

        bd.position_at_end(end)
        at_row = bd.mul(g, I64(self.columns))
        ended: list[ir.Value] = []
        for r in range(self.rows):
            of_row = bd.add(g, bd.mul(blocks, I64(r)))
            size = v.spread(bd.load(bd.gep(steps, [of_row])))
            row_sum = v.spread(bd.load(bd.gep(sums, [of_row]))) if self.zeros else None
            lines = acc[r * self.digits:(r + 1) * self.digits]
            for k, (p, n) in enumerate(self.places):
                value = bd.sitofp(lines[-1][k], v.floats)
                for line in reversed(lines[:-1]):
                    value = v.fma(value, v.number(self.base), bd.sitofp(line[k], v.floats))
                at_lane = bd.add(bd.add(at_row, bd.mul(columns_apart, I64(p))), I64(n * v.lanes))
                scale = v.load(bd.gep(scales, [at_lane]), 0, v.floats)
                result = v.fma(value, bd.fmul(size, scale), total[len(ended)])
                ended.append(result if row_sum is None else v.fma(row_sum, v.offset(zeros, at_lane, self.zeros, self.middle, scale), result))
        g_next = bd.add(g, I64(1))
        bd.cbranch(bd.icmp_signed("<", g_next, blocks), block, done)
        for phi, start, value in ((g, I64(0), g_next), (at, digits, digit_next), (word, codes, w_next)):
            phi.add_incoming(start, entry)
            phi.add_incoming(value, end)
        for phi, value in zip(total, ended, strict=True):
            phi.add_incoming(v.number(0.0), entry)
            phi.add_incoming(value, end)

        bd.position_at_end(done)
        for r in range(self.rows):
            for k, (p, n) in enumerate(self.places):
                place = bd.gep(c, [I64((p * self.rows + r) * self.columns + n * v.lanes)])
                bd.store(ended[r * len(self.places) + k], bd.bitcast(place, v.floats.as_pointer()), align=4)
        bd.ret_void()

    def group(self, panels: Sequence[ir.Value], digits: Sequence[ir.Value], u: int, acc: list[list[ir.Value | None]]) -> None:
        """Adds one group of steps to the sums. A single line of digits meets one vector of codes after another, so that few of them are held at once."""
        bd, v = self.bd, self.v
        fold, size, parts = self.form.fold, self.part_bits // 8, range(self.part_bits // self.bits)

        def word(k: int) -> ir.Value:
            p, n = self.places[k]
            return v.load(panels[p], u * self.columns + n * v.lanes, v.ints)

        def spread(line: int, part: int) -> ir.Value:
            place = bd.gep(digits[line], [I64((u * self.steps + fold * part) * size)])
            return bd.bitcast(v.spread(bd.load(bd.bitcast(place, I32.as_pointer()), align=1)), self.parts)
        if self.lines == 1:
            met = [spread(0, part) for part in parts]
            for k in range(len(self.places)):
                held = word(k)
                for part in parts:
                    acc[0][k] = self.dot(acc[0][k], self.codes(held, self.bits * part), met[part])
            return
        words = [word(k) for k in range(len(self.places))]
        for part in parts:
            codes = [self.codes(held, self.bits * part) for held in words]
            for line in range(self.lines):
                digit = spread(line, part)
                for k, code in enumerate(codes):
                    acc[line][k] = self.dot(acc[line][k], code, digit)

    def codes(self, word: ir.Value, shift: int) -> ir.Value:
        """A code in every part of every word: those from bit `shift` of the parts on."""
        bd, mask = self.bd, (1 << self.bits) - 1
        if self.form.fold == 4:  # there is no shift of bytes
            return bd.bitcast(self.v.field(word, shift, sum(mask << 8 * b for b in range(4))), self.parts)
        word, count = bd.bitcast(word, self.parts), self.parts.count
        moved = bd.lshr(word, ir.Constant(self.parts, [shift] * count)) if shift else word
        return moved if shift + self.bits == self.part_bits else bd.and_(moved, ir.Constant(self.parts, [mask] * count))

    def dot(self, acc: ir.Value | None, codes: ir.Value, digits: ir.Value) -> ir.Value:
        """acc + codes times digits, in lanes of 16 bits where sums are short; no `acc` is zero."""
        bd, kind, width = self.bd, self.v.ints, 32 * self.v.lanes
        if self.short:
            halves = call_named(bd, MADDUBS[width], ir.VectorType(ir.IntType(16), 2 * self.v.lanes), [codes, digits])
            return halves if acc is None else bd.add(acc, halves)
        if self.form is VPDPBUSD:
            return call_named(bd, f"llvm.x86.avx512.vpdpbusd.{width}", kind, [acc, codes, digits])
        return bd.add(acc, call_named(bd, MADD[width], kind, [codes, digits]))

    def widened(self, acc: ir.Value, halves: ir.Value) -> ir.Value:
        """acc + the sums of both halves of each word."""
        ones = ir.Constant(halves.type, [1] * halves.type.count)
        return self.bd.add(acc, call_named(self.bd, MADD[32 * self.v.lanes], self.v.ints, [halves, ones]))


def emit_unpack(f: ir.Function, vectors: int, lanes: int, bits: int, block: int, fold: int, middle: int, kind: str) -> None:
    """entry -> block -> groups -> block_end -> done"""
    codes, scales, zeros, blocks, to = f.args
    entry, body, walk, end, done = (f.append_basic_block(n) for n in ("entry", "block", "groups", "block_end", "done"))
    bd = ir.IRBuilder(entry)
    v, columns, steps = Vectors(bd, lanes), vectors * lanes, 32 // bits
    bd.branch(body)

    bd.position_at_end(body)
    g, word, out = bd.phi(I64), bd.phi(I32.as_pointer()), bd.phi(F32.as_pointer())
    at = bd.mul(g, I64(columns))
    scale = [v.load(bd.gep(scales, [at]), n * lanes, v.floats) for n in range(vectors)]
    shift = [v.offset(zeros, bd.add(at, I64(n * lanes)), kind, middle, s) for n, s in enumerate(scale)] if kind else []
    bd.branch(walk)

    bd.position_at_end(walk)
    q, w, o = bd.phi(I64), bd.phi(I32.as_pointer()), bd.phi(F32.as_pointer())
    taken = ir.Constant(v.ints, [middle] * lanes)
    for n in range(vectors):
        held = v.load(w, n * lanes, v.ints)
        for at_bits in range(steps // fold):
            for part in range(fold):
                code = bd.sitofp(bd.sub(v.field(held, 32 // fold * part + bits * at_bits, (1 << bits) - 1), taken), v.floats)
                place = bd.gep(o, [I64((fold * at_bits + part) * columns + n * lanes)])
                bd.store(v.fma(code, scale[n], shift[n]) if kind else bd.fmul(code, scale[n]), bd.bitcast(place, v.floats.as_pointer()), align=4)
    q_next, w_next, o_next = bd.add(q, I64(1)), bd.gep(w, [I64(columns)]), bd.gep(o, [I64(steps * columns)])
    bd.cbranch(bd.icmp_signed("<", q_next, I64(block // steps)), walk, end)
    bd.position_at_end(end)
    g_next = bd.add(g, I64(1))
    bd.cbranch(bd.icmp_signed("<", g_next, blocks), body, done)
    for phi, before, start, after, value in ((g, entry, I64(0), end, g_next), (word, entry, codes, end, w_next), (out, entry, to, end, o_next), (q, body, I64(0), walk, q_next),
                                             (w, body, word, walk, w_next), (o, body, out, walk, o_next)):
        phi.add_incoming(start, before)
        phi.add_incoming(value, after)
    bd.position_at_end(done)
    bd.ret_void()
