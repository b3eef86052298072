"""Addresses and calls through pointers, for kernels that drive other kernels."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir.target import Target
from .intrinsics import builder
from .tiles import typed

I32, I64, POINTER = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()


@builder("pointer_to")
def pointer_to(target: Target, scalar: str) -> object:
    """`f(address)`: pointer to elements of the NumPy type `scalar`."""
    element = getattr(types, scalar)

    @intrinsic
    def f(typing_context: Any, address: types.Integer) -> Any:
        signature = types.CPointer(element)(types.int64)

        def lower(context: Any, b: ir.IRBuilder, s: Any, arguments: Any) -> ir.Value:
            return b.inttoptr(arguments[0], context.get_value_type(s.return_type))
        return signature, lower
    return f


@builder("put_pointer")
def put_pointer(target: Target) -> object:
    """`f(base, k, address)`: entry k of the array of pointers at `base` becomes `address`; entries have the target's pointer size."""
    @intrinsic
    def f(typing_context: Any, base: types.Integer, k: types.Integer, address: types.Integer) -> Any:
        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            at = b.gep(b.inttoptr(arguments[0], POINTER.as_pointer()), [arguments[1]])
            b.store(b.inttoptr(arguments[2], POINTER), at)
            return context.get_dummy_value()
        return types.void(types.int64, types.int64, types.int64), lower
    return f


@builder("call_address")
def call_address(target: Target, result: str, arguments: str) -> object:
    """`f(address, ...)`: call the C function there.

    Args:
        result, arguments: one letter a value: `p` pointer, `l` int64, `i` int32, `v` none; all are int64 to the kernel.
    """
    kinds = {"p": POINTER, "l": I64, "i": I32, "v": ir.VoidType()}
    prototype = ir.FunctionType(kinds[result], [kinds[a] for a in arguments])
    returned = types.void if result == "v" else types.int64
    signature = returned(*[types.int64] * (1 + len(arguments)))

    def lower(context: Any, b: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        converted = [_convert(b, v, kinds[a]) for v, a in zip(values[1:], arguments, strict=True)]
        found = b.call(b.inttoptr(values[0], prototype.as_pointer()), converted)
        if result == "v":
            return context.get_dummy_value()
        return b.sext(found, I64) if result == "i" else b.ptrtoint(found, I64) if result == "p" else found
    return typed(signature, lower)


def _convert(b: ir.IRBuilder, value: ir.Value, kind: ir.Type) -> ir.Value:
    if kind is POINTER:
        return b.inttoptr(value, POINTER)
    return b.trunc(value, I32) if kind is I32 else value


@builder("fetch_add")
def fetch_add(target: Target) -> object:
    """`f(address, n)`: add n to the int64 there, all at once; gives what it was. What other threads wrote before their additions is seen after it."""
    def lower(context: Any, b: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        return b.atomic_rmw("add", b.inttoptr(values[0], I64.as_pointer()), values[1], "seq_cst")
    return typed(types.int64(types.int64, types.int64), lower)


@builder("load_acquire")
def load_acquire(target: Target) -> object:
    """`f(address)`: the int64 there; what the thread that stored it wrote before is seen after it."""
    def lower(context: Any, b: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        return b.load_atomic(b.inttoptr(values[0], I64.as_pointer()), "acquire", 8)
    return typed(types.int64(types.int64), lower)


@builder("store_release")
def store_release(target: Target) -> object:
    """`f(address, n)`: the int64 there becomes n; who reads it with `load_acquire` sees what this thread wrote before."""
    def lower(context: Any, b: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        b.store_atomic(values[1], b.inttoptr(values[0], I64.as_pointer()), "release", 8)
        return context.get_dummy_value()
    return typed(types.void(types.int64, types.int64), lower)


@builder("compare_exchange")
def compare_exchange(target: Target) -> object:
    """`f(address, old, new)`: if the int64 there is `old` it becomes `new`, all at once; 1 if so, else 0. Orders memory as `fetch_add` does."""
    def lower(context: Any, b: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        found = b.cmpxchg(b.inttoptr(values[0], I64.as_pointer()), values[1], values[2], "seq_cst", "seq_cst")
        return b.zext(b.extract_value(found, 1), I64)
    return typed(types.int64(types.int64, types.int64, types.int64), lower)


@builder("copy_bytes")
def copy_bytes(target: Target) -> object:
    """`f(to, from, n)`: copy n bytes between places that do not overlap."""
    def lower(context: Any, b: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        to, source = (b.inttoptr(v, POINTER) for v in values[:2])
        copy = b.module.declare_intrinsic("llvm.memcpy", [POINTER, POINTER, I64])
        b.call(copy, [to, source, values[2], ir.IntType(1)(0)])
        return context.get_dummy_value()
    return typed(types.void(types.int64, types.int64, types.int64), lower)


@builder("pause")
def pause(target: Target) -> object:
    """`f()`: tell the processor that this is a waiting loop (x86's PAUSE, Arm's YIELD; nothing elsewhere)."""
    def lower(context: Any, b: ir.IRBuilder, _: Any, values: Sequence[ir.Value]) -> ir.Value:
        if target.arch == "x86_64":
            b.call(b.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), [])), [])
        elif target.arch in ("aarch64", "arm64"):
            b.call(b.module.declare_intrinsic("llvm.aarch64.hint", (), ir.FunctionType(ir.VoidType(), [I32])), [I32(1)])
        return context.get_dummy_value()
    return typed(types.void(), lower)
