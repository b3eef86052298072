"""Scalar functions that kernel texts call by name, each a Numba intrinsic and an executable Python meaning.

Names (T, A, B are the short names of element types: f32, bf16, i64, b1, f8e4m3fn, ...):

    OP_T            an operator of `ir.expr` in the compute form of T: exp_f32, floordiv_i64, min_u8, isnan_f64
    A_to_B          value conversion as ONNX Cast does it: f32_to_i32, i64_to_f32, f32_to_f8e4m3fn; float to integer truncates and saturates, NaN gives 0
    round_f32_to_i32    float32 to the nearest int32, halves to even; the least int32 where there is none
    A_to_B_sat      the same, where finite and infinite values beyond B's range (a narrow float) become its largest finite value
    bits_A_to_B     the same bits read as another type of that width
    pack_T(x)       bits of a narrow float, as they stand in memory (an unsigned integer)
    unpack_T(bits)  its value
    load_T(p, i)    element i of a buffer of T, in compute form
    store_T(p, i, v)  write one

The compute form of a type is what stands in a variable: float32 for narrower floats (so f32_to_f16 gives a float32 that float16 can hold), an
8-bit integer for sub-byte integers (kept within their range), itself for everything else. In memory narrow floats are unsigned integers, bool is a
byte, sub-byte integers are the low bits of a byte each.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.dtypes import DType
from ..ir.target import Target
from . import conversions, floats, functions, integers, trigonometry
from .conversions import register_type, stored_type
from .emitter import Code, Operator, Value
from .intrinsics import builder

Triple = tuple[str, str, tuple]
Meaning = Callable[..., object]


def function(op: str, dtype: DType, target: Target) -> Triple:
    """The constant that a kernel's text needs to call operator `op` on `dtype`: (name, builder, arguments).

    Raises:
        KeyError: no such operator for that type.
    """
    del target  # The name is the same everywhere; the builder sees the target.
    return needed(f"{op}_{(dt.compute_type(dtype) if dtype.is_float else dtype).short}")


def needed(name: str) -> Triple:
    """The constant for a name of the grammar above.

    Raises:
        KeyError: the name says nothing.
    """
    _entry(name)
    return name, "math", (name,)


def is_name(name: str) -> bool:
    """Whether this module provides a function of that name."""
    try:
        _entry(name)
    except KeyError:
        return False
    return True


def signature(name: str) -> "Entry":
    """What a name stands for, with the types of its arguments and result.

    Raises:
        KeyError: the name says nothing.
    """
    return _entry(name)


def emit(name: str, llvm_builder: ir.IRBuilder, arguments: Sequence[ir.Value], target: Target) -> ir.Value:
    """Write function `name` in place, on scalars or on vectors: for intrinsics that keep whole vectors in registers.

    Args:
        arguments: values of the function's compute types, or equally long vectors of them.
    """
    return _entry(name).emit(llvm_builder, target, arguments)


@builder("math")
def intrinsic(target: Target, name: str) -> object:
    """The Numba intrinsic of a name."""
    entry = _entry(name)
    return _value_intrinsic(entry, target) if entry.buffer is None else _buffer_intrinsic(entry, entry.buffer, target)


def python_meaning(name: str) -> Meaning:
    """A Python function over NumPy scalars (and arrays, for buffers) that gives what the intrinsic gives, up to its stated error."""
    return _entry(name).meaning


# -------------------------------------------------------------------------------------------------------------------- entries
@dataclass(frozen=True)
class Entry:
    """One function.

    Args:
        arguments, result: element types, in the form of variables.
        code: writes it, given a `Code` and its arguments.
        meaning: the same on NumPy scalars.
        buffer: element type of the buffer that `load_T` and `store_T` use; their `arguments` and `result` do not count pointer and index.
        is_open: whether the kernel's fast-math flags apply to it.
    """

    arguments: tuple[DType, ...]
    result: DType | None
    code: Operator
    meaning: Meaning
    buffer: DType | None = None
    is_open: bool = False

    def emit(self, builder: ir.IRBuilder, target: Target, arguments: Sequence[ir.Value]) -> ir.Value:
        code = Code(builder, target, sealed=not self.is_open)
        return self.code(code, *map(code.value, arguments)).v


@lru_cache(maxsize=4096)
def _entry(name: str) -> Entry:
    """What a name of the grammar stands for."""
    words = name.split("_")
    saturate = words[-1] == "sat"
    if saturate:
        del words[-1]
    dtype = dt.BY_SHORT.get(words[-1])
    head = words[:-1]
    found = None
    if dtype is not None and head and dtype.is_numeric and dtype.kind != "complex":
        if len(head) == 1 and (head[0] in ex.UNARY or head[0] in ex.BINARY) and not saturate:
            found = _operator(head[0], dtype)
        elif head == ["load"] and not saturate:
            found = _load(dtype)
        elif head == ["store"]:
            found = _store(dtype, saturate)
        elif head[0] in ("pack", "unpack") and len(head) == 1 and conversions.is_narrow(dtype):
            found = _pack(dtype, saturate) if head[0] == "pack" else _unpack(dtype)
        elif head == ["round", "f32", "to"] and dtype is dt.int32 and not saturate:
            found = Entry((dt.float32,), dt.int32, conversions.nearest, _nearest)
        elif len(head) >= 2 and head[-1] == "to" and head[-2] in dt.BY_SHORT:
            source = dt.BY_SHORT[head[-2]]
            found = _reinterpretation(source, dtype) if head[0] == "bits" else _conversion(source, dtype, saturate)
    if found is None:
        raise KeyError(f"no scalar function is named {name!r}")
    return found


def _numpy(dtype: DType) -> np.dtype:
    """NumPy's type of a value in a variable."""
    return register_type(dtype).numpy


def _operator(op: str, dtype: DType) -> Entry | None:
    form = register_type(dtype)
    operator: Operator | None
    if dtype.is_integer:
        operator = _integer_operator(op, dtype)
    elif dtype.kind == "bool":
        operator = integers.BOOL.get(op)
    else:
        dtype = form
        tables = (floats.OPEN, floats.SEALED, functions.FUNCTIONS[form.bits], trigonometry.FUNCTIONS[form.bits])
        operator = next((t[op] for t in tables if op in t), None)
    if operator is None:
        return None

    def meaning(*values: object) -> object:
        with np.errstate(all="ignore"):
            out = ex.evaluate_op(op, [np.asarray(v, form.numpy) for v in values])
        return _wrapped(out, dtype) if op not in ex.PREDICATES else np.bool_(out)
    return Entry((form,) * (1 if op in ex.UNARY else 2), dt.boolean if op in ex.PREDICATES else form, operator, meaning,
                 is_open=form.is_float and op in floats.OPEN)


def _integer_operator(op: str, dtype: DType) -> Operator | None:
    """The operator for the signedness of `dtype`, its result kept within the width."""
    plain = integers.INTEGER.get(op)
    if plain is None or op in ex.PREDICATES or dtype.bits >= 8:
        return None if plain is None else lambda c, *values: plain(c, dtype.kind == "int", *values)
    return lambda c, *values: conversions.wrap(c, plain(c, dtype.kind == "int", *values), dtype)


def _wrapped(value: np.ndarray, dtype: DType) -> object:
    """A NumPy scalar in the form of variables, integers modulo their width."""
    if dtype.is_integer and dtype.bits < 8:
        value = np.asarray(value).astype(np.int64) & ((1 << dtype.bits) - 1)
        if dtype.kind == "int":
            value = np.where(value >> (dtype.bits - 1), value - (1 << dtype.bits), value)
    return np.asarray(value).astype(_numpy(dtype))[()]


def _packed_meaning(x: np.ndarray, dtype: DType, saturate: bool) -> np.ndarray:
    """Bits of floats in a narrow type."""
    if dtype is dt.float8e8m0:
        with np.errstate(all="ignore"):
            scale = np.abs(x) if saturate else x
            out = scale.astype(dtype.numpy).view(np.uint8)
        return np.where(scale == 0, 0, np.where((out == 255) & ~np.isnan(x), 254, out)).astype(np.uint8) if saturate else out
    if saturate:
        largest = float(np.array(conversions.NARROW[dtype].largest, stored_type(dtype).numpy).view(dtype.numpy))
        x = np.clip(x, -largest, largest)
    with np.errstate(all="ignore"):
        return x.astype(dtype.numpy).view(stored_type(dtype).numpy)


def _pack(dtype: DType, saturate: bool) -> Entry:
    return Entry((dt.float32,), stored_type(dtype), lambda c, x: conversions.pack(c, x, dtype, saturate),
                 lambda x: _packed_meaning(np.asarray(x, np.float32), dtype, saturate)[()])


def _unpack(dtype: DType) -> Entry:
    stored = stored_type(dtype)
    return Entry((stored,), dt.float32, lambda c, x: conversions.unpack(c, x, dtype),
                 lambda x: np.asarray(x, stored.numpy).view(dtype.numpy).astype(np.float32)[()])


def _conversion(source: DType, to: DType, saturate: bool) -> Entry | None:
    if (saturate and not conversions.is_narrow(to)) or not source.is_numeric or source.kind == "complex":
        return None

    def meaning(value: object) -> object:
        x = np.asarray(value, _numpy(source))
        if conversions.is_narrow(to):
            x = x.astype(np.float32) if source.is_integer or source.kind == "bool" else x
            return _packed_meaning(x, to, saturate).view(to.numpy).astype(np.float32)[()]
        if source.is_float and to.is_integer:
            low, high = (-(1 << to.bits - 1), (1 << to.bits - 1) - 1) if to.kind == "int" else (0, (1 << to.bits) - 1)
            x = np.array(0 if np.isnan(x) else low if x <= low else high if x >= high else int(x), object)
        with np.errstate(all="ignore"):
            return np.bool_(x != 0) if to.kind == "bool" else _wrapped(x, to)
    return Entry((register_type(source),), register_type(to), lambda c, x: conversions.convert(c, x, source, to, saturate), meaning)


def _nearest(value: object) -> object:
    x = np.rint(np.asarray(value, np.float32))
    return np.int32(x) if abs(x) < 2.0**31 else np.int32(-(1 << 31))


def _reinterpretation(source: DType, to: DType) -> Entry | None:
    if source.bits != to.bits or "bool" in (source.kind, to.kind):
        return None

    def code(c: Code, x: Value) -> Value:
        bits = conversions.pack(c, x, source) if conversions.is_narrow(source) else x.word() if source.is_float else x
        if conversions.is_narrow(to):
            return conversions.unpack(c, bits, to)
        return bits.real() if to.is_float else conversions.wrap(c, bits, to)

    def meaning(x: object) -> object:
        if source.bits < 8:
            return _wrapped(np.asarray(x), to)
        return np.asarray(x).astype(source.numpy).view(to.numpy).astype(_numpy(to))[()]
    return Entry((register_type(source),), register_type(to), code, meaning)


def _load(dtype: DType) -> Entry:
    def meaning(p: np.ndarray, i: int) -> object:
        element = np.asarray(p[i])
        if dtype.kind == "bool":
            return np.bool_(element != 0)
        return element.view(dtype.numpy).astype(_numpy(dtype))[()] if conversions.is_narrow(dtype) else _wrapped(element, dtype)
    return Entry((), register_type(dtype), lambda c, x: conversions.from_memory(c, x, dtype), meaning, buffer=dtype)


def _store(dtype: DType, saturate: bool) -> Entry:
    def meaning(p: np.ndarray, i: int, v: object) -> None:
        if conversions.is_narrow(dtype):
            p[i] = _packed_meaning(np.asarray(v, np.float32), dtype, saturate)
        else:
            p[i] = np.asarray(v).astype(_numpy(dtype)) & ((1 << dtype.bits) - 1) if dtype.is_integer and dtype.bits < 8 else v
    return Entry((register_type(dtype),), None, lambda c, x: conversions.to_memory(c, x, dtype, saturate), meaning, buffer=dtype)


# ---------------------------------------------------------------------------------------------------------- Numba intrinsics
def _numba_type(dtype: DType | None) -> Any:
    from numba.core import types

    if dtype is None:
        return types.void
    return types.boolean if dtype.kind == "bool" else getattr(types, register_type(dtype).numpy_name)


def _value_intrinsic(entry: Entry, target: Target) -> object:
    """Numba intrinsic of a function of values."""
    from numba.extending import intrinsic as numba_intrinsic

    signature = _numba_type(entry.result)(*map(_numba_type, entry.arguments))

    def lower(context: Any, b: ir.IRBuilder, sig: Any, values: Sequence[ir.Value]) -> ir.Value:
        return entry.emit(b, target, values)

    def unary(typing_context: Any, x: Any) -> Any:
        return signature, lower

    def binary(typing_context: Any, x: Any, y: Any) -> Any:
        return signature, lower
    return numba_intrinsic(unary if len(entry.arguments) == 1 else binary)


def _buffer_intrinsic(entry: Entry, buffer: DType, target: Target) -> object:
    """Numba intrinsic that loads or stores one element."""
    from numba.core import types
    from numba.extending import intrinsic as numba_intrinsic

    stored = conversions.memory_type(buffer)

    def address(b: ir.IRBuilder, pointer: ir.Value, index: ir.Value) -> ir.Value:
        return b.gep(b.bitcast(pointer, stored.as_pointer()), [index], inbounds=True)

    def load(typing_context: Any, p: Any, i: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, sig: Any, values: Sequence[ir.Value]) -> ir.Value:
            return entry.emit(b, target, [b.load(address(b, *values))])
        return _numba_type(entry.result)(p, types.int64), lower

    def store(typing_context: Any, p: Any, i: Any, v: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, sig: Any, values: Sequence[ir.Value]) -> ir.Value:
            b.store(entry.emit(b, target, values[2:]), address(b, *values[:2]))
            return context.get_dummy_value()
        return types.void(p, types.int64, _numba_type(entry.arguments[0])), lower
    return numba_intrinsic(load if entry.result is not None else store)
