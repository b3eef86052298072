"""Intrinsics of map kernels: accumulation that may be reordered, and typed views of scratch memory."""
from __future__ import annotations

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
    number = _NUMBERS[dtype]

    @intrinsic
    def step(typing_context: Any, s: Any, x: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            return (b.fadd if kind == "sum" else b.fmul)(*arguments, flags=("reassoc", "nsz", "contract"))
        return number(number, number), lower
    return step


@builder("row")
def row(target: Target, dtype: str) -> object:
    """`row_T(scratch, offset)`: the scratch memory from byte `offset` on as a buffer of numbers."""
    number = getattr(types, dtype)

    @intrinsic
    def view(typing_context: Any, scratch: Any, offset: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            return b.bitcast(b.gep(arguments[0], [arguments[1]]), context.get_value_type(signature.return_type))
        return types.CPointer(number)(types.CPointer(types.uint8), types.int64), lower
    return view
