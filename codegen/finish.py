"""Epilogues of register tiles as LLVM IR (see `codegen.epilogue`)."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

from llvmlite import ir

from ..ir.dtypes import DType
from ..ir.target import Target
from . import mathlib
from .emitter import FIRST_LEVEL, LINE_BYTES, Code, Value, prefetch
from .epilogue import ARITHMETIC, Form, Tree

I64 = ir.IntType(64)


class Finish:
    """Writes what becomes of a tile's sums.

    Args:
        form: what is computed.
        dtype: of sums, operands and results.
        shape: rows, vectors and lanes of the tile.
        places: of the result and each operand, the address of row and column 0 and the elements between two rows.
    """

    def __init__(self, bd: ir.IRBuilder, target: Target, form: Form, dtype: DType, vector: ir.VectorType, shape: tuple[int, int], places: Sequence[ir.Value]) -> None:
        self.bd, self.target, self.form, self.dtype, self.vector = bd, target, form, dtype, vector
        self.rows, self.vectors = shape
        self.code = Code(bd, target, sealed=False)
        self.places = list(zip(places[::2], places[1::2], strict=True))

    @staticmethod
    def count(form: Form) -> int:
        """Numbers in `places`."""
        return 2 + 2 * len(form.operands)

    @staticmethod
    def suffix(form: Form | None) -> str:
        """What tells functions of different forms apart."""
        return "" if form is None else "." + hashlib.sha256(repr(form).encode()).hexdigest()[:12]

    def write(self, sums: Sequence[ir.Value], row: ir.Value, column: ir.Value, count: ir.Value | None = None) -> None:
        """Store the results of `row` and those after it, from `column`: all the tile's rows, or as many as `count`, which is at least 1.

        The builder stands where what follows goes.
        """
        kinds = ((True, True), *self.form.operands)
        starts = [self.pointer(start, step, row, column, kind) for (start, step), kind in zip(self.places, kinds, strict=True)]
        held = [None if kind[0] else self.operand(start, kind) for start, kind in zip(starts, kinds, strict=True)]
        if self.form.is_written_out:
            self.in_registers(sums, starts, held, count)
        else:
            self.by_rows(sums, starts, held, count)

    def fetch(self, row: ir.Value, column: ir.Value) -> None:
        """Ask for the memory that the tile's results go to: a store to a line that is not in the cache waits for it."""
        at = self.pointer(*self.places[0], row, column, (True, True))
        for _ in range(self.rows):
            for line in range(0, self.vectors * self.vector.count * self.dtype.itemsize_bytes, LINE_BYTES):
                prefetch(self.bd, self.bd.gep(at, [I64(line // self.dtype.itemsize_bytes)]), FIRST_LEVEL, written=True)
            at = self.bd.gep(at, [self.places[0][1]])

    def in_registers(self, sums: Sequence[ir.Value], starts: Sequence[ir.Value], held: Sequence[list[ir.Value] | None], count: ir.Value | None) -> None:
        bd = self.bd
        done = None if count is None else bd.append_basic_block("stored")
        for i in range(self.rows):
            if i > 0:
                if done is not None:
                    more = bd.append_basic_block(f"row{i}")
                    bd.cbranch(bd.icmp_signed("<", I64(i), count), more, done)
                    bd.position_at_end(more)
                starts = self.next_row(starts)
            self.row([sums[i * self.vectors + v] for v in range(self.vectors)], starts, held)
        if done is not None:
            bd.branch(done)
            bd.position_at_end(done)

    def by_rows(self, sums: Sequence[ir.Value], starts: Sequence[ir.Value], held: Sequence[list[ir.Value] | None], count: ir.Value | None) -> None:
        """A loop over the rows of sums that are put down first."""
        bd = self.bd
        with bd.goto_entry_block():
            kept = bd.alloca(self.vector, len(sums))
        for k, s in enumerate(sums):
            bd.store(s, bd.gep(kept, [I64(k)]))
        last = I64(self.rows) if count is None else bd.select(bd.icmp_signed("<", count, I64(self.rows)), count, I64(self.rows))
        before, loop, done = bd.block, bd.append_basic_block("rows"), bd.append_basic_block("stored")
        bd.branch(loop)
        bd.position_at_end(loop)
        i = bd.phi(I64)
        at = [bd.phi(s.type) for s in starts]
        first = bd.mul(i, I64(self.vectors))
        self.row([bd.load(bd.gep(kept, [bd.add(first, I64(v))])) for v in range(self.vectors)], at, held)
        following = bd.add(i, I64(1))
        i.add_incoming(I64(0), before)
        i.add_incoming(following, bd.block)
        for phi, start, after in zip(at, starts, self.next_row(at), strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(after, bd.block)
        bd.cbranch(bd.icmp_signed("<", following, last), loop, done)
        bd.position_at_end(done)

    # ---- places
    def pointer(self, start: ir.Value, step: ir.Value, row: ir.Value, column: ir.Value, kind: tuple[bool, bool]) -> ir.Value:
        """Where the first of a tile's elements lies."""
        at: ir.Value = ir.Constant(I64, 0)
        if kind[0]:
            at = self.bd.mul(row, step)
        if kind[1]:
            at = self.bd.add(at, column)
        return self.bd.gep(self.bd.inttoptr(start, self.vector.element.as_pointer()), [at])

    def next_row(self, at: Sequence[ir.Value]) -> list[ir.Value]:
        kinds = ((True, True), *self.form.operands)
        return [self.bd.gep(p, [step]) if kind[0] else p for p, (_, step), kind in zip(at, self.places, kinds, strict=True)]

    def operand(self, at: ir.Value, kind: tuple[bool, bool]) -> list[ir.Value]:
        """A row's vectors of an operand."""
        bd, size = self.bd, self.dtype.itemsize_bytes
        if kind[1]:
            return [bd.load(bd.bitcast(bd.gep(at, [I64(v * self.vector.count)]), self.vector.as_pointer()), align=size) for v in range(self.vectors)]
        first = ir.IntType(32)
        one = bd.insert_element(ir.Constant(self.vector, ir.Undefined), bd.load(at, align=size), first(0))
        return [bd.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), ir.Constant(ir.VectorType(first, self.vector.count), [0] * self.vector.count))] * self.vectors

    # ---- values
    def row(self, sums: Sequence[ir.Value], at: Sequence[ir.Value], held: Sequence[list[ir.Value] | None]) -> None:
        """The results of one row."""
        operands = [self.operand(p, kind) if known is None else known for p, known, kind in zip(at[1:], held[1:], self.form.operands, strict=True)]
        for v, s in enumerate(sums):
            result = self.value(self.form.tree, s, [o[v] for o in operands]).v
            to = self.bd.gep(at[0], [I64(v * self.vector.count)])
            self.bd.store(result, self.bd.bitcast(to, self.vector.as_pointer()), align=self.dtype.itemsize_bytes)

    def value(self, tree: Tree, s: ir.Value, operands: Sequence[ir.Value]) -> Value:
        op = tree[0]
        if op == "acc":
            return self.code.value(s)
        if op == "load":
            assert isinstance(tree[1], int)
            return self.code.value(operands[tree[1]])
        if op == "number":
            assert isinstance(tree[1], str)
            return self.code.constant(self.vector, float.fromhex(tree[1]))
        if op == "flag":
            assert isinstance(tree[1], int)
            return self.code.constant(ir.VectorType(ir.IntType(1), self.vector.count), tree[1])
        a = [self.value(x, s, operands) for x in tree[1:] if isinstance(x, tuple)]
        if op == "where":
            return self.code.select(*a)
        if op == "neg":
            return -a[0]
        if op == "not":
            return ~a[0]
        if op in ARITHMETIC:
            return a[0] + a[1] if op == "add" else a[0] - a[1] if op == "sub" else a[0] * a[1] if op == "mul" else a[0] / a[1]
        if op in ("lt", "le"):
            return a[0] < a[1] if op == "lt" else a[0] <= a[1]
        if op in ("eq", "ne"):
            return a[0].equals(a[1]) if op == "eq" else a[0].differs(a[1])
        if op in ("and", "or"):
            return a[0] & a[1] if op == "and" else a[0] | a[1]
        return self.code.value(mathlib.emit(f"{op}_{self.dtype.short}", self.bd, [x.v for x in a], self.target))
