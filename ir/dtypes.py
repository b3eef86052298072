"""Element types: every ONNX tensor element type, with its NumPy and in-memory form."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DType:
    """One ONNX element type.

    Args:
        name: ONNX's spelling, lower case (`float`, `int64`, `bfloat16`).
        code: `TensorProto.DataType` value.
        kind: `float`, `int`, `uint`, `bool`, `complex` or `string`.
        bits: width of the value; sub-byte types are held one element a byte in memory.
        numpy_name: NumPy or ml_dtypes type that carries it.
        short: spelling used in text forms and kernel names (`f32`, `i64`).
    """

    name: str
    code: int
    kind: str
    bits: int
    numpy_name: str
    short: str

    @property
    def itemsize_bytes(self) -> int:
        """Bytes of one element in memory; strings are host objects of pointer size."""
        return 8 if self.kind == "string" else max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def is_numeric(self) -> bool:
        return self.kind != "string"

    @property
    def numpy(self) -> np.dtype:
        """The NumPy dtype; ml_dtypes is imported only for the types that need it."""
        cached = _NUMPY_CACHE.get(self.code)
        if cached is None:
            if self.kind == "string":
                cached = np.dtype(object)
            elif self.numpy_name.startswith("ml:"):
                import ml_dtypes

                cached = np.dtype(getattr(ml_dtypes, self.numpy_name[3:]))
            else:
                cached = np.dtype(self.numpy_name)
            _NUMPY_CACHE[self.code] = cached
        return cached

    def __repr__(self) -> str:
        return self.short


_NUMPY_CACHE: dict[int, np.dtype] = {}

float32 = DType("float", 1, "float", 32, "float32", "f32")
uint8 = DType("uint8", 2, "uint", 8, "uint8", "u8")
int8 = DType("int8", 3, "int", 8, "int8", "i8")
uint16 = DType("uint16", 4, "uint", 16, "uint16", "u16")
int16 = DType("int16", 5, "int", 16, "int16", "i16")
int32 = DType("int32", 6, "int", 32, "int32", "i32")
int64 = DType("int64", 7, "int", 64, "int64", "i64")
string = DType("string", 8, "string", 64, "object", "str")
boolean = DType("bool", 9, "bool", 8, "bool", "b1")
float16 = DType("float16", 10, "float", 16, "float16", "f16")
float64 = DType("double", 11, "float", 64, "float64", "f64")
uint32 = DType("uint32", 12, "uint", 32, "uint32", "u32")
uint64 = DType("uint64", 13, "uint", 64, "uint64", "u64")
complex64 = DType("complex64", 14, "complex", 64, "complex64", "c64")
complex128 = DType("complex128", 15, "complex", 128, "complex128", "c128")
bfloat16 = DType("bfloat16", 16, "float", 16, "ml:bfloat16", "bf16")
float8e4m3fn = DType("float8e4m3fn", 17, "float", 8, "ml:float8_e4m3fn", "f8e4m3fn")
float8e4m3fnuz = DType("float8e4m3fnuz", 18, "float", 8, "ml:float8_e4m3fnuz", "f8e4m3fnuz")
float8e5m2 = DType("float8e5m2", 19, "float", 8, "ml:float8_e5m2", "f8e5m2")
float8e5m2fnuz = DType("float8e5m2fnuz", 20, "float", 8, "ml:float8_e5m2fnuz", "f8e5m2fnuz")
uint4 = DType("uint4", 21, "uint", 4, "ml:uint4", "u4")
int4 = DType("int4", 22, "int", 4, "ml:int4", "i4")
float4e2m1 = DType("float4e2m1", 23, "float", 4, "ml:float4_e2m1fn", "f4e2m1")
float8e8m0 = DType("float8e8m0", 24, "float", 8, "ml:float8_e8m0fnu", "f8e8m0")
uint2 = DType("uint2", 25, "uint", 2, "ml:uint2", "u2")
int2 = DType("int2", 26, "int", 2, "ml:int2", "i2")

ALL: tuple[DType, ...] = (
    float32, uint8, int8, uint16, int16, int32, int64, string, boolean, float16, float64, uint32, uint64,
    complex64, complex128, bfloat16, float8e4m3fn, float8e4m3fnuz, float8e5m2, float8e5m2fnuz, uint4, int4,
    float4e2m1, float8e8m0, uint2, int2,
)
BY_CODE: dict[int, DType] = {d.code: d for d in ALL}
BY_NAME: dict[str, DType] = {d.name: d for d in ALL}
BY_SHORT: dict[str, DType] = {d.short: d for d in ALL}

FLOATS: tuple[DType, ...] = (float16, bfloat16, float32, float64)
INTEGERS: tuple[DType, ...] = (int8, int16, int32, int64, uint8, uint16, uint32, uint64)
NUMBERS: tuple[DType, ...] = FLOATS + INTEGERS


PRECISIONS: dict[str, DType] = {"float32": float32, "bf16": bfloat16}  # what users may round operands of float32 products to


def of_numpy(dtype: np.dtype) -> DType:
    """The DType of a NumPy (or ml_dtypes) dtype.

    Raises:
        TypeError: NumPy type without an ONNX counterpart.
    """
    if dtype.kind in "OUS" or dtype.kind == "T":
        return string
    found = _BY_NUMPY_NAME.get(dtype.name)
    if found is None:
        raise TypeError(f"NumPy dtype {dtype} has no ONNX element type")
    return found


_BY_NUMPY_NAME: dict[str, DType] = {d.numpy_name.removeprefix("ml:"): d for d in ALL if d is not string}


def compute_type(dtype: DType) -> DType:
    """The type in which scalar arithmetic on `dtype` is done: narrow floats compute in float32."""
    if dtype.is_float and dtype.bits < 32:
        return float32
    return dtype
