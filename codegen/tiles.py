"""Register tiles: the innermost loops of contractions as LLVM IR, presented to kernels as Numba intrinsics.

A tile keeps `rows x vectors` vector accumulators in registers and walks the reduced dimension:

    c[i][j] (+)= sum over taps t, steps k of  a[t][i][k] * b[t * steps + k][j]

Row i of tap t starts at the address `table[t * rows + i]`, so that matrix rows, convolution patches and rows of padding are all the same to it. Each
accumulator is summed in the order of (t, k) whatever the tile's height, so results depend on neither the split of rows nor the number of threads.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import dtypes as dt
from ..ir.dtypes import DType
from ..ir.target import Target
from .intrinsics import builder

ACCUMULATORS = (dt.float32, dt.float64, dt.int32, dt.int64, dt.uint32, dt.uint64)


@dataclass(frozen=True)
class TileShape:
    """`rows` x (`vectors` * `lanes`) accumulators."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def has_fused_multiply_add(target: Target) -> bool:
    """Whether a * b + c with one rounding is an instruction of the target."""
    return target.isa in ("avx512", "avx2", "neon")


def tile_shapes(target: Target, dtype: DType) -> tuple[TileShape, ...]:
    """Tiles that fit the register file: accumulators, one row of b and one broadcast element. Those of few rows are as wide as pays."""
    lanes = target.lanes(dtype.itemsize_bytes)
    registers = target.vector_registers
    few = [(r, min(8, (registers - 2) // (r + 1))) for r in (1, 2, 3, 4)]
    many = [(6, 4), (7, 3), (8, 3), (10, 2), (14, 2), (20, 1)] if registers >= 32 else [(6, 2)] if target.isa == "avx2" else [(5, 2), (6, 2)]
    return tuple(TileShape(r, v, lanes) for r, v in few + many)


def channel_shapes(target: Target, dtype: DType, columns: int | None, group: int) -> tuple[TileShape, ...]:
    """Channel tiles; no wider than the columns, so that the last panel may overlap the one before instead of reading past the end."""
    lanes = target.lanes(dtype.itemsize_bytes)
    while columns is not None and lanes > columns:
        lanes //= 2
    widest = 4 if columns is None else columns // lanes
    if group > 1:
        return tuple(TileShape(min(8, (target.vector_registers - 3) // (v + 1)), v, lanes) for v in (1, 2) if v <= widest)
    budget = target.vector_registers - 4
    return tuple(TileShape(min(8, (budget - v) // v), v, lanes) for v in (1, 2, 3, 4) if v <= widest)


@builder("register_tile")
def register_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, unit: bool) -> object:
    """The tile as an intrinsic.

    Args:
        rows, vectors, lanes: shape of the accumulators.
        short: element type of a, b and c.
        unit: whether the steps of a row of a are adjacent elements.

    Returns:
        Intrinsic `tile(table, taps, start, step, length, b, b_step, c, first)`: `table` points to int64 addresses; `start` is the byte offset of step 0
        from a row's address, `step` the bytes between steps (ignored if `unit`), `length` the steps of a tap; row r of b is at `b + r * b_step` elements; `c` holds
        the accumulators densely and is overwritten if `first`, else added to. `taps` and `length` are at least 1.
    """
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    element, fused = dt.BY_SHORT[short], has_fused_multiply_add(target)
    scalar = _llvm_scalar(element)
    name = f"sardonyx.tile.{rows}x{vectors}x{lanes}.{short}{'.fused' if fused else ''}{'.unit' if unit else ''}"

    def tile(context, table, taps, start, step, length, b, b_step, c, first):
        signature = types.void(table, types.int64, types.int64, types.int64, types.int64, b, types.int64, c, types.boolean)

        def generate(ctx, bd, sig, args):
            function = bd.module.globals.get(name)
            if function is None:
                i64, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
                kind = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), i64, i64, i64, i64, scalar.as_pointer(), i64, scalar.as_pointer(), ir.IntType(1)])
                function = ir.Function(bd.module, kind, name)
                function.linkage = "internal"
                function.attributes.add("noinline")
                function.attributes.add("nounwind")
                for k in (0, 5, 7):
                    function.args[k].add_attribute("noalias")
                _TileBody(function, scalar, rows, vectors, lanes, fused, unit, element.itemsize_bytes, pointer).emit()
            first = args[8]
            if first.type.width != 1:
                first = bd.trunc(first, ir.IntType(1))
            bd.call(function, [*args[:8], first])
            return ctx.get_dummy_value()
        return signature, generate
    tile.__name__ = f"tile_{rows}x{vectors * lanes}_{short}"
    return intrinsic(tile)


@builder("channel_tile")
def channel_tile(target: Target, rows: int, vectors: int, lanes: int, short: str, group: int) -> object:
    """The tile of a product among channels of small groups: each column takes the `group` adjacent elements of a that its own group has.

    Args:
        group: channels of a group, in and out; 1 for each channel by itself. Divides `lanes`.

    Returns:
        Intrinsic `tile(table, table_step, shifts, shifts_step, taps, start, b, b_step, c, first)`: c[i][j] (+)= sum over taps t and s < group of
        a[t][i][j // group * group + s] * b[t][s][j], where row i of tap t starts at `table[t * table_step + i] + shifts[t * shifts_step] + start` bytes and holds
        adjacent columns; the rest as in `register_tile`.
    """
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    element, fused = dt.BY_SHORT[short], has_fused_multiply_add(target)
    scalar = _llvm_scalar(element)
    name = f"sardonyx.channels.{rows}x{vectors}x{lanes}.{short}.{group}{'.fused' if fused else ''}"

    def tile(context, table, table_step, shifts, shifts_step, taps, start, b, b_step, c, first):
        signature = types.void(table, types.int64, shifts, types.int64, types.int64, types.int64, b, types.int64, c, types.boolean)

        def generate(ctx, bd, sig, args):
            function = bd.module.globals.get(name)
            if function is None:
                i64, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
                kind = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), i64, i64.as_pointer(), i64, i64, i64, scalar.as_pointer(), i64, scalar.as_pointer(), ir.IntType(1)])
                function = ir.Function(bd.module, kind, name)
                function.linkage = "internal"
                function.attributes.add("noinline")
                function.attributes.add("nounwind")
                for k in (0, 2, 6, 8):
                    function.args[k].add_attribute("noalias")
                _ChannelBody(function, scalar, rows, vectors, lanes, fused, True, element.itemsize_bytes, pointer).emit(group)
            first = args[9]
            if first.type.width != 1:
                first = bd.trunc(first, ir.IntType(1))
            bd.call(function, [*args[:9], first])
            return ctx.get_dummy_value()
        return signature, generate
    tile.__name__ = f"channels_{rows}x{vectors * lanes}_{short}"
    return intrinsic(tile)


def _llvm_scalar(dtype: DType) -> object:
    from llvmlite import ir
    if dtype is dt.float32:
        return ir.FloatType()
    return ir.DoubleType() if dtype is dt.float64 else ir.IntType(dtype.bits)


class _TileBody:
    """Emits the blocks of a tile function."""

    def __init__(self, function, scalar, rows, vectors, lanes, fused, unit, itemsize, pointer) -> None:
        from llvmlite import ir
        self.ir, self.f, self.scalar, self.pointer = ir, function, scalar, pointer
        self.rows, self.vectors, self.lanes, self.fused, self.unit, self.itemsize = rows, vectors, lanes, fused, unit, itemsize
        self.i64 = ir.IntType(64)
        self.vector = ir.VectorType(scalar, lanes)
        self.bd = ir.IRBuilder(function.append_basic_block("entry"))

    def emit(self) -> None:
        """entry -> (zero | resume) -> taps -> steps -> tap_end -> done"""
        ir, bd, f, i64 = self.ir, self.bd, self.f, self.i64
        table, taps, start, step, length, b, b_step, c, first = f.args
        zero, resume, tap, steps, tap_end, done = (f.append_basic_block(n) for n in ("zero", "resume", "tap", "steps", "tap_end", "done"))
        slots = [self.slot(c, k) for k in range(self.rows * self.vectors)]
        bd.cbranch(first, zero, resume)
        bd.position_at_end(resume)
        resumed = [bd.load(s, align=self.itemsize) for s in slots]
        bd.branch(tap)
        bd.position_at_end(zero)
        bd.branch(tap)
        nothing = ir.Constant(self.vector, [0.0 if self.is_float else 0] * self.lanes)

        bd.position_at_end(tap)
        t = self.phi(i64, (i64(0), zero), (i64(0), resume))
        b0 = self.phi(b.type, (b, zero), (b, resume))
        outer = [self.phi(self.vector, (nothing, zero), (r, resume)) for r in resumed]
        base = bd.mul(t, i64(self.rows))
        starts = [bd.add(bd.load(bd.gep(table, [bd.add(base, i64(m))])), start) for m in range(self.rows)]
        a = [bd.inttoptr(x, self.pointer) for x in starts]
        bd.branch(steps)

        bd.position_at_end(steps)
        k = self.phi(i64, (i64(0), tap))
        offset = k if self.unit else self.phi(i64, (i64(0), tap))
        bp = self.phi(b.type, (b0, tap))
        inner = [self.phi(self.vector, (o, tap)) for o in outer]
        new = self.multiply(a, offset, bp, inner)
        k_next = bd.add(k, i64(1))
        bp_next = bd.gep(bp, [b_step])
        k.add_incoming(k_next, steps)
        bp.add_incoming(bp_next, steps)
        if not self.unit:
            offset.add_incoming(bd.add(offset, step), steps)
        for p, n in zip(inner, new, strict=True):
            p.add_incoming(n, steps)
        bd.cbranch(bd.icmp_signed("<", k_next, length), steps, tap_end)

        bd.position_at_end(tap_end)
        t_next = bd.add(t, i64(1))
        t.add_incoming(t_next, tap_end)
        b0.add_incoming(bp_next, tap_end)
        for p, n in zip(outer, new, strict=True):
            p.add_incoming(n, tap_end)
        bd.cbranch(bd.icmp_signed("<", t_next, taps), tap, done)
        bd.position_at_end(done)
        for s, n in zip(slots, new, strict=True):
            bd.store(n, s, align=self.itemsize)
        bd.ret_void()

    @property
    def is_float(self) -> bool:
        return not isinstance(self.scalar, self.ir.IntType)

    def slot(self, c, index: int):
        return self.bd.bitcast(self.bd.gep(c, [self.i64(index * self.lanes)]), self.vector.as_pointer())

    def phi(self, kind, *incoming):
        p = self.bd.phi(kind)
        for value, block in incoming:
            p.add_incoming(value, block)
        return p

    def multiply(self, a: Sequence, offset, bp, acc: Sequence) -> list:
        """acc + a[:, offset] * b[:], one step."""
        ir, bd = self.ir, self.bd
        b = [bd.load(self.slot(bp, n), align=self.itemsize) for n in range(self.vectors)]
        scale = self.i64(self.itemsize) if self.unit else None
        new = []
        for m in range(self.rows):
            if scale is not None:
                at = bd.gep(bd.bitcast(a[m], self.scalar.as_pointer()), [offset])
            else:
                at = bd.bitcast(bd.gep(a[m], [offset]), self.scalar.as_pointer())
            x = bd.load(at, align=self.itemsize)
            x = bd.insert_element(ir.Constant(self.vector, ir.Undefined), x, ir.IntType(32)(0))
            x = bd.shuffle_vector(x, ir.Constant(self.vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes))
            new += [self.multiply_add(x, b[n], acc[m * self.vectors + n]) for n in range(self.vectors)]
        return new

    def multiply_add(self, x, y, z):
        bd = self.bd
        if not self.is_float:
            return bd.add(bd.mul(x, y), z)
        if not self.fused:
            return bd.fadd(bd.fmul(x, y), z)
        name = f"llvm.fma.v{self.lanes}f{32 if isinstance(self.scalar, self.ir.FloatType) else 64}"
        fma = bd.module.globals.get(name) or self.ir.Function(bd.module, self.ir.FunctionType(self.vector, [self.vector] * 3), name)
        return bd.call(fma, [x, y, z])


class _ChannelBody(_TileBody):
    """Emits the blocks of a channel tile."""

    def emit(self, group: int = 1) -> None:
        """entry -> (zero | resume) -> taps -> done"""
        ir, bd, f, i64 = self.ir, self.bd, self.f, self.i64
        table, table_step, shifts, shifts_step, taps, start, b, b_step, c, first = f.args
        zero, resume, tap, done = (f.append_basic_block(n) for n in ("zero", "resume", "tap", "done"))
        slots = [self.slot(c, k) for k in range(self.rows * self.vectors)]
        bd.cbranch(first, zero, resume)
        bd.position_at_end(resume)
        resumed = [bd.load(s, align=self.itemsize) for s in slots]
        bd.branch(tap)
        bd.position_at_end(zero)
        bd.branch(tap)
        nothing = ir.Constant(self.vector, [0.0 if self.is_float else 0] * self.lanes)

        bd.position_at_end(tap)
        t = self.phi(i64, (i64(0), zero), (i64(0), resume))
        tp = self.phi(table.type, (table, zero), (table, resume))
        sp = self.phi(shifts.type, (shifts, zero), (shifts, resume))
        bp = self.phi(b.type, (b, zero), (b, resume))
        acc = [self.phi(self.vector, (nothing, zero), (r, resume)) for r in resumed]
        shift = bd.add(bd.load(sp), start)
        starts = [bd.gep(bd.inttoptr(bd.load(bd.gep(tp, [i64(m)])), self.pointer), [shift]) for m in range(self.rows)]
        new = self.channels([bd.bitcast(r, self.scalar.as_pointer()) for r in starts], bp, acc, group)
        t_next = bd.add(t, i64(1))
        t.add_incoming(t_next, tap)
        tp.add_incoming(bd.gep(tp, [table_step]), tap)
        sp.add_incoming(bd.gep(sp, [shifts_step]), tap)
        bp.add_incoming(bd.gep(bp, [b_step]), tap)
        for p, n in zip(acc, new, strict=True):
            p.add_incoming(n, tap)
        bd.cbranch(bd.icmp_signed("<", t_next, taps), tap, done)
        bd.position_at_end(done)
        for s, n in zip(slots, new, strict=True):
            bd.store(n, s, align=self.itemsize)
        bd.ret_void()


    def channels(self, rows: Sequence, bp, acc: Sequence, group: int) -> list:
        """acc + one tap of every row: for each place s in the groups, all columns take their group's element s."""
        ir, bd = self.ir, self.bd
        new = list(acc)
        for n in range(self.vectors):
            x = [bd.load(self.slot(r, n), align=self.itemsize) for r in rows]
            for s in range(group):
                y = bd.load(self.slot(bp, s * self.vectors + n), align=self.itemsize)
                mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [k // group * group + s for k in range(self.lanes)])
                for m, value in enumerate(x):
                    taken = value if group == 1 else bd.shuffle_vector(value, ir.Constant(self.vector, ir.Undefined), mask)
                    new[m * self.vectors + n] = self.multiply_add(taken, y, new[m * self.vectors + n])
        return new


@builder("transpose_block")
def transpose_block(target: Target, lanes: int, bits: int) -> object:
    """Intrinsic `transpose(table, start, out, out_step)`: out[j * out_step + i] = row[i][j] for a square of `lanes` elements of `bits`.

    Row i starts at `table[i] + start` bytes.
    """
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    name = f"sardonyx.transpose.{lanes}x{bits}"

    def transpose(context, table, start, out, out_step):
        signature = types.void(table, types.int64, out, types.int64)

        def generate(ctx, bd, sig, args):
            function = bd.module.globals.get(name)
            word, i64 = ir.IntType(bits), ir.IntType(64)
            if function is None:
                kind = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), i64, word.as_pointer(), i64])
                function = ir.Function(bd.module, kind, name)
                function.linkage = "internal"
                function.attributes.add("noinline")
                function.attributes.add("nounwind")
                _emit_transpose(function, word, lanes)
            bd.call(function, [args[0], args[1], bd.bitcast(args[2], word.as_pointer()), args[3]])
            return ctx.get_dummy_value()
        return signature, generate
    return intrinsic(transpose)


def _emit_transpose(function, word, lanes: int) -> None:
    """log2(lanes) rounds of pairwise interleaving: each round swaps one bit of the row number with one of the column number."""
    from llvmlite import ir
    bd = ir.IRBuilder(function.append_basic_block("entry"))
    table, start, out, step = function.args
    i64, vector = ir.IntType(64), ir.VectorType(word, lanes)
    rows = []
    for i in range(lanes):
        at = bd.add(bd.load(bd.gep(table, [i64(i)])), start)
        rows.append(bd.load(bd.inttoptr(at, vector.as_pointer()), align=word.width // 8))
    half = 1
    while half < lanes:
        low = [(j if not j & half else lanes + j - half) for j in range(lanes)]
        high = [(j + half if not j & half else lanes + j) for j in range(lanes)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), m) for m in (low, high)]
        new = list(rows)
        for i in range(lanes):
            if not i & half:
                new[i] = bd.shuffle_vector(rows[i], rows[i + half], masks[0])
                new[i + half] = bd.shuffle_vector(rows[i], rows[i + half], masks[1])
        rows = new
        half *= 2
    for j in range(lanes):
        at = bd.gep(out, [bd.mul(step, i64(j))])
        bd.store(rows[j], bd.bitcast(at, vector.as_pointer()), align=word.width // 8)
    bd.ret_void()


@builder("scratch_view")
def scratch_view(target: Target, numpy_name: str) -> object:
    """Intrinsic `view(scratch, bytes)`: a typed pointer into scratch memory."""
    from numba.core import types
    from numba.extending import intrinsic

    result = types.CPointer(getattr(types, numpy_name))

    def view(context, scratch, offset):
        def generate(ctx, bd, sig, args):
            return bd.bitcast(bd.gep(args[0], [args[1]]), ctx.get_value_type(result))
        return result(types.CPointer(types.uint8), types.int64), generate
    return intrinsic(view)


@builder("advanced")
def advanced(target: Target) -> object:
    """Intrinsic `advanced(pointer, elements)`: the pointer moved on."""
    from numba.core import types
    from numba.extending import intrinsic

    def move(context, pointer, elements):
        def generate(ctx, bd, sig, args):
            return bd.gep(args[0], [args[1]])
        return pointer(pointer, types.int64), generate
    return intrinsic(move)


@builder("address")
def address(target: Target) -> object:
    """Intrinsic `address(pointer)`: the int64 address of a pointer."""
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    def integer_of(context, pointer):
        def generate(ctx, bd, sig, args):
            return bd.ptrtoint(args[0], ir.IntType(64))
        return types.int64(pointer), generate
    return intrinsic(integer_of)
