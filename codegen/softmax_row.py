"""One row of softmax in vectors: the part that a compiler's loop vectoriser leaves too slow."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir.target import Target
from .emitter import Code, Value
from .functions import exp
from .intrinsics import builder
from .tiles import I32, I64

LEAST = -87.3  # as in `ir.expr.decay`
CHAINS = 4  # vectors summed side by side


@builder("weigh_row")
def weigh_row(target: Target, lanes: int, masked: bool) -> object:
    """Intrinsic `weigh(row, length)`: row[k] becomes e^(row[k] - largest), as `ir.expr.decay` has it; returns one over their sum.

    The row is float32 and has room up to the next multiple of `lanes`; what lies there becomes zero. The sum's order depends on the length alone.

    Args:
        masked: a row of nothing but -inf becomes zeros, with 1 returned; else it becomes NaN.
    """
    scalar = ir.FloatType()
    name = f"sardonyx.weigh.{lanes}{'.masked' if masked else ''}"

    @intrinsic
    def weigh(context: Any, row: Any, length: Any) -> Any:
        def lower(ctx: Any, bd: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> Any:
            found = bd.module.globals.get(name)
            if found is None:
                found = ir.Function(bd.module, ir.FunctionType(scalar, [scalar.as_pointer(), I64]), name)
                found.linkage = "internal"
                found.attributes.add("noinline")
                found.attributes.add("nounwind")
                RowBody(found, target, lanes).emit(masked)
            return bd.call(found, list(values))
        return types.float32(row, types.int64), lower
    return weigh


class RowBody:
    """Emits the function's blocks: pad, largest, exponentials, the sum."""

    def __init__(self, function: ir.Function, target: Target, lanes: int) -> None:
        self.f, self.lanes = function, lanes
        self.vector = ir.VectorType(ir.FloatType(), lanes)
        self.bd = ir.IRBuilder(function.append_basic_block("entry"))
        self.code = Code(self.bd, target)

    def emit(self, masked: bool) -> None:
        bd, code = self.bd, self.code
        row, length = self.f.args
        whole = bd.and_(bd.add(length, I64(self.lanes - 1)), I64(-self.lanes))
        self.pad(row, length, whole)
        lowest = self.value(float("-inf"))
        largest = self.across(self.loop(row, whole, lowest, lambda x, at, kept: code.select(kept > x, kept, x)), "max")
        if masked:
            largest = code.select(largest.equals(float("-inf")), 0.0, largest)
        shift = self.splat(largest)

        def weigh(x: Value, at: ir.Value, kept: Value) -> Value:
            d = x - shift
            small = d < LEAST
            e = code.select(small, 0.0, exp(code, code.select(small, LEAST, d)))
            bd.store(e.v, at, align=4)
            return kept + e
        total = self.across(self.loop(row, whole, self.value(0.0), weigh), "sum")
        if masked:
            total = code.select(total.equals(0.0), 1.0, total)
        bd.ret((1.0 / total).v)

    def pad(self, row: ir.Value, length: ir.Value, whole: ir.Value) -> None:
        """row[length:whole] = -inf"""
        bd, before = self.bd, self.bd.block
        loop, done = self.f.append_basic_block("pad"), self.f.append_basic_block("padded")
        bd.cbranch(bd.icmp_signed("<", length, whole), loop, done)
        bd.position_at_end(loop)
        k = bd.phi(I64)
        k.add_incoming(length, before)
        bd.store(ir.Constant(ir.FloatType(), float("-inf")), bd.gep(row, [k]))
        following = bd.add(k, I64(1))
        k.add_incoming(following, loop)
        bd.cbranch(bd.icmp_signed("<", following, whole), loop, done)
        bd.position_at_end(done)

    def loop(self, row: ir.Value, whole: ir.Value, start: Value, step: Any) -> list[Value]:
        """CHAINS accumulators over the row's vectors: vector k goes to accumulator k % CHAINS while CHAINS vectors are left, then all to the first."""
        bd, f = self.bd, self.f
        chunk = I64(self.lanes * CHAINS)
        at: ir.Value = I64(0)
        kept = [start] * CHAINS
        for width in (CHAINS, 1):
            before = bd.block
            head, body, done = (f.append_basic_block(n) for n in ("head", "body", "done"))
            bd.branch(head)
            bd.position_at_end(head)
            k = bd.phi(I64)
            k.add_incoming(at, before)
            phis = []
            for v in kept:
                p = bd.phi(self.vector)
                p.add_incoming(v.v, before)
                phis.append(p)
            size = chunk if width == CHAINS else I64(self.lanes)
            following = bd.add(k, size)
            bd.cbranch(bd.icmp_signed("<=", following, whole), body, done)
            bd.position_at_end(body)
            new = [self.code.value(p) for p in phis]
            for c in range(width):
                place = bd.bitcast(bd.gep(row, [bd.add(k, I64(c * self.lanes))]), self.vector.as_pointer())
                new[c] = step(self.code.value(bd.load(place, align=4)), place, new[c])
            end = bd.block
            k.add_incoming(following, end)
            for p, v in zip(phis, new):
                p.add_incoming(v.v, end)
            bd.branch(head)
            bd.position_at_end(done)
            at, kept = k, [self.code.value(p) for p in phis]
        return kept

    def across(self, kept: list[Value], kind: str) -> Value:
        """One number of the accumulators' lanes, halves joined again and again."""
        def join(a: Value, b: Value) -> Value:
            return a + b if kind == "sum" else self.code.select(a > b, a, b)
        joined = join(join(kept[0], kept[1]), join(kept[2], kept[3]))
        width = self.lanes
        while width > 1:
            width //= 2
            mask = ir.Constant(ir.VectorType(I32, self.lanes), [(k + width) % self.lanes for k in range(self.lanes)])
            joined = join(joined, self.code.value(self.bd.shuffle_vector(joined.v, joined.v, mask)))
        return self.code.value(self.bd.extract_element(joined.v, I32(0)))

    def value(self, number: float) -> Value:
        return self.code.constant(self.vector, number)

    def splat(self, x: Value) -> Value:
        one = self.bd.insert_element(ir.Constant(self.vector, ir.Undefined), x.v, I32(0))
        return self.code.value(self.bd.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)))


