"""Intrinsics of map kernels: accumulation that may be reordered, choices without branches, and typed views of scratch memory."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir.target import Target
from .intrinsics import builder

_NUMBERS = {"f32": types.float32, "f64": types.float64}


@builder("accumulate")
def accumulate(target: Target, kind: str, dtype: str) -> object:
    """`sum_T(s, x)` or `prod_T(s, x)`: one step of a reduction whose order is free, so that LLVM may keep several partial results."""
    number: Any = _NUMBERS[dtype]  # calling a type of Numba makes a signature

    @intrinsic
    def step(typing_context: Any, s: Any, x: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            return (b.fadd if kind == "sum" else b.fmul)(*arguments, flags=("reassoc", "nsz", "contract"))
        return number(number, number), lower
    return step


@builder("select")
def select(target: Target, dtype: str) -> object:
    """`select_T(condition, x, y)`: x where the condition holds, else y; both have been evaluated."""
    number: Any = getattr(types, dtype)

    @intrinsic
    def choose(typing_context: Any, condition: Any, x: Any, y: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            chosen, first, second = arguments
            return b.select(b.trunc(chosen, ir.IntType(1)) if chosen.type.width > 1 else chosen, first, second)
        return number(types.boolean, number, number), lower
    return choose


@builder("row")
def row(target: Target, dtype: str) -> object:
    """`row_T(scratch, offset)`: the scratch memory from byte `offset` on as a buffer of numbers; bools are bytes."""
    number = types.uint8 if dtype == "bool" else getattr(types, dtype)

    @intrinsic
    def view(typing_context: Any, scratch: Any, offset: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            return b.bitcast(b.gep(arguments[0], [arguments[1]]), context.get_value_type(signature.return_type))
        return types.CPointer(number)(types.CPointer(types.uint8), types.int64), lower
    return view


@builder("transpose")
def transpose(target: Target, bits: int) -> object:
    """`transpose_BITS(dst, d, dst_step, src, s, src_step, rows, columns)`: dst[d + dst_step * i + j] = src[s + src_step * j + i], elements of BITS bits."""
    from .numba_target import device

    size = max(4, min(16, target.vector_bytes * 8 // bits))
    tile = _transpose_tile(bits, size)

    def copy(dst, d, dst_step, src, s, src_step, rows, columns):  # type: ignore[no-untyped-def]
        full_rows = rows - rows % size
        full_columns = columns - columns % size
        for i in range(0, full_rows, size):
            for j in range(0, full_columns, size):
                tile(dst, d + i * dst_step + j, dst_step, src, s + j * src_step + i, src_step)
            for j in range(full_columns, columns):
                for k in range(i, i + size):
                    dst[d + k * dst_step + j] = src[s + j * src_step + k]
        for i in range(full_rows, rows):
            for j in range(columns):
                dst[d + i * dst_step + j] = src[s + j * src_step + i]
    return device(copy)


def _transpose_tile(bits: int, size: int) -> Callable[..., Any]:
    """`tile(dst, d, dst_step, src, s, src_step)`: a square of `size` rows, held in registers: log2(size) rounds of interleaving halves."""
    vector = ir.VectorType(ir.IntType(bits), size)
    halves = [ir.Constant(ir.VectorType(ir.IntType(32), size), [k // 2 + h + (size if k % 2 else 0) for k in range(size)]) for h in (0, size // 2)]

    @intrinsic
    def tile(typing_context: Any, dst: Any, d: Any, dst_step: Any, src: Any, s: Any, src_step: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            to, at, step, source, begin, pace = arguments

            def row(base: ir.Value, first: ir.Value, stride: ir.Value, k: int) -> ir.Value:
                position = b.add(first, b.mul(stride, ir.Constant(ir.IntType(64), k)))
                return b.bitcast(b.gep(base, [position]), vector.as_pointer())
            rows = [b.load(row(source, begin, pace, k), align=bits // 8) for k in range(size)]
            rounds = size.bit_length() - 1
            for _ in range(rounds):
                rows = [b.shuffle_vector(rows[k // 2], rows[k // 2 + size // 2], halves[k % 2]) for k in range(size)]
            for k in range(size):
                b.store(rows[k], row(to, at, step, k), align=bits // 8)
            return context.get_dummy_value()
        return types.void(dst, types.int64, types.int64, src, types.int64, types.int64), lower
    return tile
