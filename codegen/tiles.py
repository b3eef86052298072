"""Register tiles: the innermost loops of contractions as LLVM IR, presented to kernels as Numba intrinsics.

A tile keeps `rows x vectors` vector accumulators in registers and walks the reduced dimension:

    c[i][j] (+)= sum over taps t, steps k of  a[t][i][k] * b[t * steps + k][j]

Row i of tap t starts at the address `table[t * rows + i]`, so that matrix rows, convolution patches and rows of padding are all the same to it. Each
accumulator is summed in the order of (t, k) whatever the tile's height, so results depend on neither the split of rows nor the number of threads.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir import dtypes as dt
from ..ir.dtypes import DType
from ..ir.target import Target
from .emitter import SECOND_LEVEL, prefetch
from .epilogue import Form
from .finish import Finish
from .intrinsics import builder

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
POINTER = ir.IntType(8).as_pointer()


class BFloatType(ir.Type):  # type: ignore[misc]  # llvmlite's types have no annotations
    """LLVM's bfloat, which llvmlite has no class for: arguments and results of instructions' intrinsics."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloatType)

    def __hash__(self) -> int:
        return hash(BFloatType)


BFLOAT = BFloatType()
MADD = {128: "llvm.x86.sse2.pmadd.wd", 256: "llvm.x86.avx2.pmadd.wd", 512: "llvm.x86.avx512.pmaddw.d.512"}


def has_fused_multiply_add(target: Target) -> bool:
    """Whether a * b + c with one rounding is an instruction of the target."""
    return target.isa in ("avx512", "avx2", "neon")


def llvm_scalar(dtype: DType) -> ir.Type:
    if dtype is dt.float32:
        return ir.FloatType()
    return ir.DoubleType() if dtype is dt.float64 else ir.IntType(dtype.bits)


def local_function(module: ir.Module, name: str, arguments: Sequence[ir.Type], emit: Callable[[ir.Function], None]) -> ir.Function:
    """A function of the module that is called, never inlined: its pointers do not overlap. Written by `emit` when first asked for."""
    found = module.globals.get(name)
    if found is None:
        found = ir.Function(module, ir.FunctionType(ir.VoidType(), list(arguments)), name)
        found.linkage = "internal"
        found.attributes.add("noinline")
        found.attributes.add("nounwind")
        for a in found.args:
            if isinstance(a.type, ir.PointerType):
                a.add_attribute("noalias")
        emit(found)
    return found


def call_named(bd: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
    """Call an LLVM intrinsic by its full name."""
    function = bd.module.globals.get(name) or ir.Function(bd.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return bd.call(function, list(arguments))


def as_flag(b: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return value if value.type.width == 1 else b.trunc(value, I1)


def typed(signature: Any, lower: Any) -> object:
    """An intrinsic with one signature, whatever its number of arguments."""
    count = len(signature.args)

    def typed(context: Any) -> Any:
        return signature, lower
    names = ", ".join(f"a{k}" for k in range(count))
    namespace: dict[str, Any] = {"typed": typed}
    exec(f"def f(typing_context{', ' if names else ''}{names}):\n    return typed(typing_context)\n", namespace)
    return intrinsic(namespace["f"])


@builder("register_tile")
def register_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, unit: bool) -> object:
    """The tile as an intrinsic.

    Args:
        rows, vectors, lanes: shape of the accumulators.
        short: element type of a, b and c.
        unit: whether the steps of a row of a are adjacent elements.

    Returns:
        Intrinsic `tile(table, taps, start, step, length, b, b_step, c, c_step, first, ahead, ahead_step)`: `table` points to int64 addresses; `start` is the byte offset
        of step 0 from a row's address, `step` the bytes between steps (ignored if `unit`), `length` the steps of a tap; row r of b is at `b + r * b_step` elements; row i
        of the accumulators is at `c + i * c_step` elements and is overwritten if `first`, else added to. `taps` and `length` are at least 1. While it computes, it
        fetches what comes next into the cache: at step s of all, the line at byte `s * ahead_step` from `ahead`, which need not be memory that exists.
    """
    element, fused = dt.BY_SHORT[short], has_fused_multiply_add(target)
    scalar = llvm_scalar(element)
    numbers = scalar.as_pointer()
    name = f"sardonyx.tile.{rows}x{vectors}x{lanes}.{short}{'.unit' if unit else ''}"
    arguments = (I64.as_pointer(), I64, I64, I64, I64, numbers, I64, numbers, I64, I1, I64, I64)

    def emit(f: ir.Function) -> None:
        TileBody(f, scalar, element.itemsize_bytes, rows, vectors, lanes, fused).steps(unit, *f.args)

    @intrinsic
    def tile(context: Any, table: Any, taps: Any, start: Any, step: Any, length: Any, b: Any, b_step: Any, c: Any, c_step: Any, first: Any, ahead: Any,
             ahead_step: Any) -> Any:
        whole = types.int64
        signature = types.void(table, whole, whole, whole, whole, b, whole, c, whole, types.boolean, whole, whole)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, name, arguments, emit), [*values[:9], as_flag(bd, values[9]), *values[10:]])
            return ctx.get_dummy_value()
        return signature, lower
    return tile


@builder("finished_tile")
def finished_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, unit: bool, form: Form, fetches: bool) -> object:
    """Tiles one below the other that compute what is stored of their sums, and store it.

    Args:
        form: the epilogue.
        fetches: whether a tile asks for the memory that it will write.

    Returns:
        Intrinsic `tile(table, taps, step, length, b, b_step, ahead, share, rest, row, column, count, *places)`: `count` rows from `row` on, at least 1, whose results
        begin at `column`; entry `(block * taps + t) * rows + i` of `table` is where row i of a block's tap t starts, also of rows behind the last; `table` and `b` are
        addresses; block k fetches from `ahead + min(k * share, rest) * taps * length`, `share` bytes a step; `places` as in `codegen.finish`; the rest as in `register_tile`.
    """
    element, fused = dt.BY_SHORT[short], has_fused_multiply_add(target)
    scalar = llvm_scalar(element)
    name = f"sardonyx.finished.{rows}x{vectors}x{lanes}.{short}{'.unit' if unit else ''}{'.fetch' if fetches else ''}{Finish.suffix(form)}"
    arguments = (I64,) * (12 + Finish.count(form))

    def emit(f: ir.Function) -> None:
        body = TileBody(f, scalar, element.itemsize_bytes, rows, vectors, lanes, fused)
        table, taps, step, length, b, b_step, ahead, share, rest, row, column, count, *places = f.args
        bd = body.bd
        finish = Finish(bd, target, form, element, body.vector, (rows, vectors), places)
        entry, block = bd.block, f.append_basic_block("block")
        bd.branch(block)
        bd.position_at_end(block)
        above = body.phi((entry,), I64(0))
        number = bd.sdiv(above, I64(rows))
        part = bd.mul(number, share)
        part = bd.mul(bd.select(bd.icmp_signed("<", part, rest), part, rest), bd.mul(taps, length))
        first = bd.add(row, above)
        if fetches:
            finish.fetch(first, column)

        def store(sums: Sequence[ir.Value]) -> None:
            finish.write(sums, first, column, bd.sub(count, above))
            below, done = bd.add(above, I64(rows)), f.append_basic_block("all")
            body.follow(bd.block, [(above, below)])
            bd.cbranch(bd.icmp_signed("<", below, count), block, done)
            bd.position_at_end(done)
            bd.ret_void()
        body.steps(unit, bd.gep(bd.inttoptr(table, I64.as_pointer()), [bd.mul(above, taps)]), taps, I64(0), step, length, bd.inttoptr(b, scalar.as_pointer()), b_step, None,
                   None, None, bd.add(ahead, part), share, store)

    def lower(context: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
        bd.call(local_function(bd.module, name, arguments, emit), values)
        return context.get_dummy_value()
    return typed(types.void(*[types.int64] * len(arguments)), lower)


@builder("abreast_tile")
def abreast_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, unit: bool, panels: int) -> object:
    """A tile of few rows that walks `panels` panels of b side by side: memory gives more to several streams than to one.

    Returns:
        Intrinsic `tile(table, taps, start, step, length, b, b_step, b_apart, c)`: the panels start `b_apart` elements apart; c[panel][row][column] lie densely and are
        overwritten; the rest as in `register_tile`.
    """
    element, fused = dt.BY_SHORT[short], has_fused_multiply_add(target)
    scalar = llvm_scalar(element)
    numbers = scalar.as_pointer()
    name = f"sardonyx.abreast.{panels}x{rows}x{vectors}x{lanes}.{short}{'.unit' if unit else ''}"
    arguments = (I64.as_pointer(), I64, I64, I64, I64, numbers, I64, I64, numbers)

    def emit(f: ir.Function) -> None:
        body = TileBody(f, scalar, element.itemsize_bytes, rows, vectors, lanes, fused)
        table, taps, start, step, length, b, b_step, b_apart, c = f.args
        body.panels, body.b_apart = panels, b_apart
        body.steps(unit, table, taps, start, step, length, b, b_step, c, I64(vectors * lanes), I1(1))

    @intrinsic
    def tile(context: Any, table: Any, taps: Any, start: Any, step: Any, length: Any, b: Any, b_step: Any, b_apart: Any, c: Any) -> Any:
        whole = types.int64

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, name, arguments, emit), values)
            return ctx.get_dummy_value()
        return types.void(table, whole, whole, whole, whole, b, whole, whole, c), lower
    return tile


@builder("channel_tile")
def channel_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, group: int, codes: str = "") -> object:
    """The tile of a product among channels of small groups: each column takes the `group` adjacent elements of a that its own group has.

    Args:
        group: channels of a group, in and out; 1 for each channel by itself. Divides `lanes`.
        codes: element type of 8-bit `a` (`b` is int16, both are widened; groups of 1), empty where it is that of the sums.

    Returns:
        Intrinsic `tile(table, table_step, shifts, shifts_step, taps, start, b, b_step, c, first)`: c[i][j] (+)= sum over taps t and s < group of
        a[t][i][j // group * group + s] * b[t][s][j], where row i of tap t starts at `table[t * table_step + i] + shifts[t * shifts_step] + start` bytes and holds
        adjacent columns; the rest as in `register_tile`.
    """
    element, fused = dt.BY_SHORT[short], has_fused_multiply_add(target)
    scalar = llvm_scalar(element)
    numbers, words = scalar.as_pointer(), I64.as_pointer()
    name = f"sardonyx.channels.{rows}x{vectors}x{lanes}.{short}.{group}{codes}"
    weights = ir.IntType(16).as_pointer() if codes else numbers
    arguments = (words, I64, words, I64, I64, I64, weights, I64, numbers, I1)

    def emit(f: ir.Function) -> None:
        body = TileBody(f, scalar, element.itemsize_bytes, rows, vectors, lanes, fused)
        body.widened = dt.BY_SHORT[codes] if codes else None
        body.madd = MADD.get(32 * lanes) if codes and target.arch == "x86_64" else None
        body.channels(group)

    @intrinsic
    def tile(context: Any, table: Any, table_step: Any, shifts: Any, shifts_step: Any, taps: Any, start: Any, b: Any, b_step: Any, c: Any, first: Any) -> Any:
        signature = types.void(table, types.int64, shifts, types.int64, types.int64, types.int64, b, types.int64, c, types.boolean)

        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, name, arguments, emit), [*values[:9], as_flag(bd, values[9])])
            return ctx.get_dummy_value()
        return signature, lower
    return tile


class TileBody:
    """Emits the blocks of a tile function.

    Args:
        function: empty, with the tile's arguments.
        scalar, itemsize: element type and its bytes.
        rows, vectors, lanes: shape of the accumulators.
        fused: multiply and add with one rounding.
    """

    def __init__(self, function: ir.Function, scalar: ir.Type, itemsize: int, rows: int, vectors: int, lanes: int, fused: bool) -> None:
        self.f, self.scalar, self.itemsize = function, scalar, itemsize
        self.rows, self.vectors, self.lanes, self.fused = rows, vectors, lanes, fused
        self.is_float = not isinstance(scalar, ir.IntType)
        self.panels, self.b_apart = 1, I64(0)  # panels of b that are walked side by side, and the elements between them
        self.widened: DType | None = None  # the type of 8-bit elements of a that are widened
        self.madd: str | None = None  # multiplies pairs of 16-bit numbers and adds
        self.vector = ir.VectorType(scalar, lanes)
        self.nothing = ir.Constant(self.vector, [0.0 if self.is_float else 0] * lanes)
        self.bd = ir.IRBuilder(function.append_basic_block("entry"))

    # ---- blocks
    def begin(self, c: ir.Value, first: ir.Value, following: ir.Block,
              c_step: ir.Value | None = None) -> tuple[list[tuple[ir.Value, ...]], tuple[ir.Block, ...], list[ir.Value]]:
        """entry -> (zero | resume) -> following. Row i of the accumulators (of each panel after the other) is at `c + i * c_step`, or they lie densely.

        Returns:
            What each accumulator starts from, (from zero, resumed); the two blocks; where each is kept.
        """
        bd, zero, resume = self.bd, self.f.append_basic_block("zero"), self.f.append_basic_block("resume")
        step = I64(self.vectors * self.lanes) if c_step is None else c_step
        starts = [bd.gep(c, [bd.mul(step, I64(m))]) for m in range(self.panels * self.rows)]
        slots = [self.slot(row, n) for row in starts for n in range(self.vectors)]
        bd.cbranch(first, zero, resume)
        bd.position_at_end(resume)
        resumed = [self.load(s) for s in slots]
        bd.branch(following)
        bd.position_at_end(zero)
        bd.branch(following)
        return [(self.nothing, r) for r in resumed], (zero, resume), slots

    def finish(self, slots: Sequence[ir.Value], values: Sequence[ir.Value]) -> None:
        for s, v in zip(slots, values, strict=True):
            self.bd.store(v, s, align=self.itemsize)
        self.bd.ret_void()

    def steps(self, unit: bool, table: ir.Value, taps: ir.Value, start: ir.Value, step: ir.Value, length: ir.Value, b: ir.Value, b_step: ir.Value, c: ir.Value | None,
              c_step: ir.Value | None, first: ir.Value | None, ahead: ir.Value | None = None, ahead_step: ir.Value | None = None,
              epilogue: Callable[[Sequence[ir.Value]], None] | None = None) -> None:
        """entry -> (zero | resume) -> taps -> steps -> tap_end -> done; nothing is fetched ahead without `ahead`, sums go to `epilogue` instead of `c`."""
        bd, f = self.bd, self.f
        tap, steps, tap_end, done = (f.append_basic_block(n) for n in ("tap", "steps", "tap_end", "done"))
        if epilogue is None:
            starts, before, slots = self.begin(c, first, tap, c_step)
        else:
            starts, before, slots = [(self.nothing,)] * (self.rows * self.vectors), (bd.block,), []
            bd.branch(tap)
        bd.position_at_end(tap)
        t, b0 = self.phi(before, I64(0)), self.phi(before, b)
        ahead0 = None if ahead is None else self.phi(before, ahead)
        outer = [self.phi(before, *s) for s in starts]
        base = bd.mul(t, I64(self.rows))
        a = [bd.inttoptr(bd.add(bd.load(bd.gep(table, [bd.add(base, I64(m))])), start), POINTER) for m in range(self.rows)]
        bd.branch(steps)

        bd.position_at_end(steps)
        k = self.phi((tap,), I64(0))
        offset = k if unit else self.phi((tap,), I64(0))
        bp = self.phi((tap,), b0)
        coming = None if ahead0 is None else self.phi((tap,), ahead0)
        inner = [self.phi((tap,), o) for o in outer]
        if coming is not None:
            self.fetch(coming)
        new, size = [], self.rows * self.vectors
        for p in range(self.panels):
            panel = bp if p == 0 else bd.gep(bp, [bd.mul(self.b_apart, I64(p))])
            new += self.multiply(a, offset, unit, panel, inner[p * size:(p + 1) * size])
        k_next, bp_next = bd.add(k, I64(1)), bd.gep(bp, [b_step])
        coming_next = None if coming is None else bd.add(coming, ahead_step)
        self.follow(steps, [(k, k_next), (bp, bp_next), *([] if coming is None else [(coming, coming_next)]), *zip(inner, new)])
        if not unit:
            self.follow(steps, [(offset, bd.add(offset, step))])
        bd.cbranch(bd.icmp_signed("<", k_next, length), steps, tap_end)

        bd.position_at_end(tap_end)
        t_next = bd.add(t, I64(1))
        self.follow(tap_end, [(t, t_next), (b0, bp_next), *([] if ahead0 is None else [(ahead0, coming_next)]), *zip(outer, new)])
        bd.cbranch(bd.icmp_signed("<", t_next, taps), tap, done)
        bd.position_at_end(done)
        if epilogue is None:
            self.finish(slots, new)
        else:
            epilogue(new)

    def channels(self, group: int) -> None:
        """entry -> (zero | resume) -> taps -> done"""
        bd, f = self.bd, self.f
        table, table_step, shifts, shifts_step, taps, start, b, b_step, c, first = f.args
        tap, done = f.append_basic_block("tap"), f.append_basic_block("done")
        starts, before, slots = self.begin(c, first, tap)
        bd.position_at_end(tap)
        t, tp, sp, bp = self.phi(before, I64(0)), self.phi(before, table), self.phi(before, shifts), self.phi(before, b)
        acc = [self.phi(before, *s) for s in starts]
        shift = bd.add(bd.load(sp), start)
        rows = [bd.gep(bd.inttoptr(bd.load(bd.gep(tp, [I64(m)])), POINTER), [shift]) for m in range(self.rows)]
        new = self.tap_of_groups([bd.bitcast(r, self.scalar.as_pointer()) for r in rows], bp, acc, group) if self.widened is None else self.tap_of_codes(rows, bp, acc)
        t_next = bd.add(t, I64(1))
        self.follow(tap, [(t, t_next), (tp, bd.gep(tp, [table_step])), (sp, bd.gep(sp, [shifts_step])), (bp, bd.gep(bp, [b_step])), *zip(acc, new)])
        bd.cbranch(bd.icmp_signed("<", t_next, taps), tap, done)
        bd.position_at_end(done)
        self.finish(slots, new)

    def transform(self, matrix: Sequence[Sequence[float]], gathered: bool) -> None:
        """entry -> loop -> done"""
        bd, f = self.bd, self.f
        source, source_step, out, out_step, length = f.args
        size, count = len(matrix[0]), len(matrix)
        entry, loop, done = bd.block, f.append_basic_block("loop"), f.append_basic_block("done")
        if gathered:
            starts = [bd.inttoptr(bd.load(bd.gep(source, [I64(k)])), self.scalar.as_pointer()) for k in range(size * size)]
        else:
            starts = [bd.gep(source, [bd.mul(source_step, I64(k))]) for k in range(size * size)]
        ends = [bd.gep(out, [bd.mul(out_step, I64(k))]) for k in range(count * count)]
        bd.branch(loop)
        bd.position_at_end(loop)
        k = self.phi((entry,), I64(0))
        x = [[self.load(self.at(starts[i * size + j], k)) for j in range(size)] for i in range(size)]
        left = [[self.combined(row, [x[q][j] for q in range(size)]) for j in range(size)] for row in matrix]
        for i in range(count):
            for j in range(count):
                bd.store(self.combined(matrix[j], left[i]), self.at(ends[i * count + j], k), align=self.itemsize)
        k_next = bd.add(k, I64(self.lanes))
        self.follow(loop, [(k, k_next)])
        bd.cbranch(bd.icmp_signed("<", k_next, length), loop, done)
        bd.position_at_end(done)
        bd.ret_void()

    # ---- arithmetic
    def combined(self, factors: Sequence[float], values: Sequence[ir.Value]) -> ir.Value:
        """Sum of factors times values; zeros are left out, ones are not multiplied."""
        bd = self.bd
        terms = sorted(((c, v) for c, v in zip(factors, values, strict=True) if c), key=lambda t: t[0] != 1)
        total = None
        for c, v in terms:
            if total is None:
                total = v if c == 1 else bd.fmul(v, self.splat(c))
            elif abs(c) == 1:
                total = bd.fadd(total, v) if c == 1 else bd.fsub(total, v)
            else:
                total = self.multiply_add(v, self.splat(c), total)
        return total

    def splat(self, number: float) -> ir.Constant:
        return ir.Constant(self.vector, [number] * self.lanes)

    def multiply(self, a: Sequence[ir.Value], offset: ir.Value, unit: bool, bp: ir.Value, acc: Sequence[ir.Value]) -> list[ir.Value]:
        """acc + a[:, offset] * b[:], one step; offsets are elements if `unit`, else bytes."""
        bd = self.bd
        b = [self.load(self.slot(bp, n)) for n in range(self.vectors)]
        new = []
        for m in range(self.rows):
            if unit:
                at = bd.gep(bd.bitcast(a[m], self.scalar.as_pointer()), [offset])
            else:
                at = bd.bitcast(bd.gep(a[m], [offset]), self.scalar.as_pointer())
            x = bd.insert_element(ir.Constant(self.vector, ir.Undefined), bd.load(at, align=self.itemsize), I32(0))
            x = self.shuffled(x, [0] * self.lanes)
            new += [self.multiply_add(x, b[n], acc[m * self.vectors + n]) for n in range(self.vectors)]
        return new

    def tap_of_groups(self, rows: Sequence[ir.Value], bp: ir.Value, acc: Sequence[ir.Value], group: int) -> list[ir.Value]:
        """acc + one tap of every row: for each place s in the groups, all columns take their group's element s."""
        new = list(acc)
        for n in range(self.vectors):
            x = [self.load(self.slot(r, n)) for r in rows]
            for s in range(group):
                y = self.load(self.slot(bp, s * self.vectors + n))
                for m, value in enumerate(x):
                    taken = value if group == 1 else self.shuffled(value, [k // group * group + s for k in range(self.lanes)])
                    new[m * self.vectors + n] = self.multiply_add(taken, y, new[m * self.vectors + n])
        return new

    def tap_of_codes(self, rows: Sequence[ir.Value], bp: ir.Value, acc: Sequence[ir.Value]) -> list[ir.Value]:
        """acc + one tap of every row of 8-bit elements; with `madd` an element is the low half of a pair whose high half meets a zero."""
        bd, new = self.bd, list(acc)
        codes, halves, pairs = ir.VectorType(ir.IntType(8), self.lanes), ir.VectorType(ir.IntType(16), self.lanes), ir.VectorType(ir.IntType(16), 2 * self.lanes)
        for n in range(self.vectors):
            y = bd.load(bd.bitcast(bd.gep(bp, [I64(n * self.lanes)]), halves.as_pointer()), align=2)
            y = bd.sext(y, self.vector) if self.madd is None else bd.zext(y, self.vector)
            for m, row in enumerate(rows):
                x = bd.load(bd.bitcast(bd.gep(row, [I64(n * self.lanes)]), codes.as_pointer()), align=1)
                x = bd.sext(x, self.vector) if self.widened is dt.int8 else bd.zext(x, self.vector)
                at = m * self.vectors + n
                new[at] = bd.add(new[at], bd.mul(x, y) if self.madd is None else self.call(self.madd, self.vector, [bd.bitcast(x, pairs), bd.bitcast(y, pairs)]))
        return new

    def call(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        return call_named(self.bd, name, result, arguments)

    def multiply_add(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        bd = self.bd
        if not self.is_float:
            return bd.add(bd.mul(x, y), z)
        if not self.fused:
            return bd.fadd(bd.fmul(x, y), z)
        name = f"llvm.fma.v{self.lanes}f{32 if isinstance(self.scalar, ir.FloatType) else 64}"
        fma = bd.module.globals.get(name) or ir.Function(bd.module, ir.FunctionType(self.vector, [self.vector] * 3), name)
        return bd.call(fma, [x, y, z])

    # ---- values
    def fetch(self, address: ir.Value) -> None:
        """Ask for a line of memory in the second-level cache."""
        prefetch(self.bd, address, SECOND_LEVEL)

    def slot(self, c: ir.Value, index: int) -> ir.Value:
        """Where vector `index` of dense vectors lies."""
        return self.bd.bitcast(self.bd.gep(c, [I64(index * self.lanes)]), self.vector.as_pointer())

    def at(self, start: ir.Value, index: ir.Value) -> ir.Value:
        """The vector that starts at element `index`."""
        return self.bd.bitcast(self.bd.gep(start, [index]), self.vector.as_pointer())

    def load(self, at: ir.Value) -> ir.Value:
        return self.bd.load(at, align=self.itemsize)

    def shuffled(self, x: ir.Value, mask: Sequence[int]) -> ir.Value:
        return self.bd.shuffle_vector(x, ir.Constant(self.vector, ir.Undefined), ir.Constant(ir.VectorType(I32, self.lanes), list(mask)))

    def phi(self, blocks: Sequence[ir.Block], *values: ir.Value) -> ir.Value:
        """A value that comes from each of `blocks`: the same from all, or one for each."""
        p = self.bd.phi(values[0].type)
        for k, block in enumerate(blocks):
            p.add_incoming(values[k if len(values) > 1 else 0], block)
        return p

    def follow(self, block: ir.Block, pairs: Sequence[tuple[ir.Value, ir.Value]]) -> None:
        """What the phis become when `block` goes round again."""
        for p, value in pairs:
            p.add_incoming(value, block)


# --------------------------------------------------------------------------------------------------------- two-sided transforms
@builder("square_transform")
def square_transform(target: Target, matrix: tuple[tuple[float, ...], ...], lanes: int, short: str, gathered: bool) -> object:
    """out = P X P' for a square X of vectors, for each vector along `length` elements (a multiple of `lanes`).

    Args:
        matrix: P.
        gathered: where X is.

    Returns:
        Intrinsic `transform(source, source_step, out, out_step, length)`. Element (i, j) of X is, if `gathered`, at address `source[i * columns + j]`
        (`source_step` is ignored), else at `source + (i * columns + j) * source_step`; element (i, j) of the result goes to `out + (i * rows + j) * out_step`.
    """
    element, fused = dt.BY_SHORT[short], has_fused_multiply_add(target)
    scalar = llvm_scalar(element)
    digest = hashlib.sha256(repr(matrix).encode()).hexdigest()[:12]
    name = f"sardonyx.transform.{digest}.{lanes}.{short}{'.gathered' if gathered else ''}"
    arguments = (I64.as_pointer() if gathered else scalar.as_pointer(), I64, scalar.as_pointer(), I64, I64)

    def emit(f: ir.Function) -> None:
        TileBody(f, scalar, element.itemsize_bytes, 1, 1, lanes, fused).transform(matrix, gathered)

    @intrinsic
    def transform(context: Any, source: Any, source_step: Any, out: Any, out_step: Any, length: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            bd.call(local_function(bd.module, name, arguments, emit), values)
            return ctx.get_dummy_value()
        return types.void(source, types.int64, out, types.int64, types.int64), lower
    return transform


# ------------------------------------------------------------------------------------------------------------------ transposition
@builder("transpose_block")
def transpose_block(target: Target, lanes: int, bits: int) -> object:
    """Intrinsic `transpose(table, start, out, out_step)`: out[j * out_step + i] = row[i][j] for a square of `lanes` elements of `bits`.

    Row i starts at `table[i] + start` bytes.
    """
    word = ir.IntType(bits)
    arguments = (I64.as_pointer(), I64, word.as_pointer(), I64)

    @intrinsic
    def transpose(context: Any, table: Any, start: Any, out: Any, out_step: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            function = local_function(bd.module, f"sardonyx.transpose.{lanes}x{bits}", arguments, lambda f: _emit_transpose(f, word, lanes))
            bd.call(function, [values[0], values[1], bd.bitcast(values[2], word.as_pointer()), values[3]])
            return ctx.get_dummy_value()
        return types.void(table, types.int64, out, types.int64), lower
    return transpose


def _emit_transpose(function: ir.Function, word: ir.IntType, lanes: int) -> None:
    """log2(lanes) rounds of pairwise interleaving: each round swaps one bit of the row number with one of the column number."""
    bd = ir.IRBuilder(function.append_basic_block("entry"))
    table, start, out, step = function.args
    vector, indices = ir.VectorType(word, lanes), ir.VectorType(I32, lanes)
    rows = []
    for i in range(lanes):
        at = bd.add(bd.load(bd.gep(table, [I64(i)])), start)
        rows.append(bd.load(bd.inttoptr(at, vector.as_pointer()), align=word.width // 8))
    half = 1
    while half < lanes:
        low = ir.Constant(indices, [(lanes + j - half if j & half else j) for j in range(lanes)])
        high = ir.Constant(indices, [(lanes + j if j & half else j + half) for j in range(lanes)])
        new = list(rows)
        for i in range(lanes):
            if not i & half:
                new[i] = bd.shuffle_vector(rows[i], rows[i + half], low)
                new[i + half] = bd.shuffle_vector(rows[i], rows[i + half], high)
        rows = new
        half *= 2
    for j in range(lanes):
        at = bd.gep(out, [bd.mul(step, I64(j))])
        bd.store(rows[j], bd.bitcast(at, vector.as_pointer()), align=word.width // 8)
    bd.ret_void()


# ----------------------------------------------------------------------------------------------------------------------- pointers
@builder("scratch_view")
def scratch_view(target: Target, numpy_name: str) -> object:
    """Intrinsic `view(scratch, bytes)`: a typed pointer into scratch memory."""
    result = types.CPointer(getattr(types, numpy_name))

    @intrinsic
    def view(context: Any, scratch: Any, offset: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
            return bd.bitcast(bd.gep(values[0], [values[1]]), ctx.get_value_type(result))
        return result(types.CPointer(types.uint8), types.int64), lower
    return view


@builder("advanced")
def advanced(target: Target) -> object:
    """Intrinsic `advanced(pointer, elements)`: the pointer moved on."""
    @intrinsic
    def move(context: Any, pointer: Any, elements: Any) -> Any:
        def lower(_: Any, bd: ir.IRBuilder, __: Any, values: Sequence[ir.Value]) -> ir.Value:
            return bd.gep(values[0], [values[1]])
        return pointer(pointer, types.int64), lower
    return move


@builder("address")
def address(target: Target) -> object:
    """Intrinsic `address(pointer)`: the int64 address of a pointer."""
    @intrinsic
    def integer_of(context: Any, pointer: Any) -> Any:
        def lower(_: Any, bd: ir.IRBuilder, __: Any, values: Sequence[ir.Value]) -> ir.Value:
            return bd.ptrtoint(values[0], I64)
        return types.int64(pointer), lower
    return integer_of
