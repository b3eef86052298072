"""ONNX tensors and types to arrays and `Type`s. Nothing is allocated by what a file claims: sizes are held against the bytes present first."""
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.dtypes import DType
from ..ir.errors import ModelError, UnsupportedError
from ..ir.expr import Expr
from ..ir.graph import MapType, OptionalType, SequenceType, TensorType, Type
from .external_data import ExternalData

if TYPE_CHECKING:
    import onnx

MAX_BYTES = (1 << 63) - 1
SPARSE_LIMIT_BYTES = 1 << 30  # the largest dense form of a sparse tensor
TYPE_DEPTH = 16  # sequences of sequences of ...
EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL

# Element types whose values lie in TensorProto.int32_data, narrower ones as bit patterns.
_IN_INT32 = frozenset(d.code for d in dt.ALL if d.bits <= 32 and d not in (dt.float32, dt.uint32))
_TYPED_FIELDS: dict[int, tuple[str, np.dtype]] = {
    **{d.code: ("float_data", np.dtype(np.float32)) for d in (dt.float32, dt.complex64)},
    **{d.code: ("double_data", np.dtype(np.float64)) for d in (dt.float64, dt.complex128)},
    **{d.code: ("uint64_data", np.dtype(np.uint64)) for d in (dt.uint32, dt.uint64)},
    dt.int64.code: ("int64_data", np.dtype(np.int64)),
    **{code: ("int32_data", np.dtype(np.int32)) for code in _IN_INT32},
}


def text(value: str | bytes, what: str) -> str:
    """A string of the model; protobuf hands out what is not UTF-8 as bytes.

    Raises:
        ModelError: it is not UTF-8.
    """
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ModelError(f"{what} is not UTF-8: {value[:40]!r}", hint="the file may be damaged") from e


def element_type(code: int, what: str) -> DType:
    """The DType of a `TensorProto.DataType` code."""
    found = dt.BY_CODE.get(code)
    if found is None:
        raise ModelError(f"{what} has no element type" if code == 0 else f"{what} has unknown element type {code}")
    return found


def tensor_size(dims: Iterable[int], dtype: DType, what: str) -> tuple[tuple[int, ...], int]:
    """(shape, elements), checked to be addressable.

    Raises:
        ModelError: a dimension is negative or the size overflows.
    """
    shape = tuple(dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{what} has a negative dimension: {list(shape)}")
    if len(shape) > 64:
        raise ModelError(f"{what} has {len(shape)} dimensions, at most 64 are possible")
    if math.prod(max(d, 1) for d in shape) * dtype.itemsize_bytes > MAX_BYTES:
        raise ModelError(f"{what} has dimensions {list(shape)}, more than memory can address")
    return shape, math.prod(shape)


def tensor_array(tensor: "onnx.TensorProto", external: ExternalData, what: str = "", raw: memoryview | None = None) -> np.ndarray:
    """The elements of a TensorProto.

    Args:
        external: where data outside the model are found.
        what: the tensor's description in errors; by default its name.
        raw: its `raw_data`, where they were left out of the message.

    Returns:
        A C-ordered array, read-only where it views the file (then maybe unaligned); sub-byte types one element a byte; strings as an object array of str.

    Raises:
        ModelError: dims, type and data do not agree.
    """
    name = text(tensor.name, "the name of a tensor")
    what = what or f"tensor '{name}'"
    dtype = element_type(tensor.data_type, what)
    shape, count = tensor_size(tensor.dims, dtype, what)
    if tensor.HasField("segment"):
        raise UnsupportedError(f"{what} is a segment of a larger tensor")
    if tensor.data_location == EXTERNAL:
        if dtype is dt.string:
            raise ModelError(f"{what} holds strings, which cannot lie in another file")
        entries = {text(e.key, what): text(e.value, what) for e in tensor.external_data}
        return _from_bytes(external.find(entries, _packed_bytes(count, dtype), name), dtype, shape, count, what)
    if dtype is dt.string:
        return _strings(tensor, shape, count, what)
    if raw is None and tensor.HasField("raw_data") and (tensor.raw_data or not len(getattr(tensor, _TYPED_FIELDS[dtype.code][0]))):
        raw = memoryview(tensor.raw_data)
    if raw is not None:
        return _from_bytes(raw, dtype, shape, count, what)
    return _from_field(tensor, dtype, shape, count, what)


def _packed_bytes(count: int, dtype: DType) -> int:
    return -(-count * dtype.bits // 8) if dtype.bits < 8 else count * dtype.itemsize_bytes


def _from_bytes(raw: memoryview, dtype: DType, shape: tuple[int, ...], count: int, what: str) -> np.ndarray:
    expected = _packed_bytes(count, dtype)
    if len(raw) != expected:
        raise ModelError(f"{what} of type {dtype.name} and dims {list(shape)} needs {expected} bytes of data, {len(raw)} are there")
    if dtype.bits < 8:
        return _unpack(np.frombuffer(raw, np.uint8), dtype, count).reshape(shape)
    if dtype is dt.boolean:
        flags = np.frombuffer(raw, np.uint8)
        return (flags.view(np.bool_) if count == 0 or flags.max() <= 1 else flags != 0).reshape(shape)
    return np.frombuffer(raw, dtype.numpy).reshape(shape)


def _unpack(packed: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Elements of a sub-byte type, first element in the lowest bits, one a byte."""
    per_byte = 8 // dtype.bits
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(dtype.bits)
    patterns = (packed[:, None] >> shifts & np.uint8((1 << dtype.bits) - 1)).reshape(-1)[:count]
    return np.ascontiguousarray(patterns).view(dtype.numpy)


def _from_field(tensor: "onnx.TensorProto", dtype: DType, shape: tuple[int, ...], count: int, what: str) -> np.ndarray:
    field, carrier = _TYPED_FIELDS[dtype.code]
    items = getattr(tensor, field)
    expected = 2 * count if dtype.kind == "complex" else count
    if dtype.bits < 8:
        expected = _packed_bytes(count, dtype)
    if len(items) != expected:
        raise ModelError(f"{what} of type {dtype.name} and dims {list(shape)} needs {expected} elements in {field}, {len(items)} are there")
    array = np.fromiter(items, carrier, len(items))
    if dtype.kind == "complex":
        return array.view(dtype.numpy).reshape(shape)
    if dtype.bits < 8:
        return _unpack(array.astype(np.uint8), dtype, count).reshape(shape)
    if dtype.is_float and dtype.bits <= 16:
        bits = array.astype(np.uint16 if dtype.bits == 16 else np.uint8)
        return bits.view(dtype.numpy).reshape(shape)
    return array.astype(dtype.numpy, copy=False).reshape(shape)


def _strings(tensor: "onnx.TensorProto", shape: tuple[int, ...], count: int, what: str) -> np.ndarray:
    if len(tensor.string_data) != count:
        raise ModelError(f"{what} of strings with dims {list(shape)} needs {count} elements, {len(tensor.string_data)} are there")
    array = np.empty(count, object)
    array[:] = [text(s, f"an element of {what}") for s in tensor.string_data]
    return array.reshape(shape)


def sparse_array(sparse: "onnx.SparseTensorProto", external: ExternalData, what: str = "") -> np.ndarray:
    """A sparse tensor in dense form.

    Raises:
        ModelError: indices out of range or not as many as values.
        UnsupportedError: the dense form exceeds `SPARSE_LIMIT_BYTES`.
    """
    what = what or f"sparse tensor '{text(sparse.values.name, 'the name of a tensor')}'"
    values = tensor_array(sparse.values, external, f"the values of {what}")
    indices = tensor_array(sparse.indices, external, f"the indices of {what}")
    shape, count = tensor_size(sparse.dims, dt.of_numpy(values.dtype), what)
    if count * values.itemsize > SPARSE_LIMIT_BYTES:
        raise UnsupportedError(f"{what} with dims {list(shape)} takes {count * values.itemsize} bytes in dense form")
    if values.ndim != 1 or indices.dtype != np.int64 or indices.shape not in ((len(values),), (len(values), len(shape))):
        raise ModelError(f"{what}: values {list(values.shape)} and indices {list(indices.shape)} do not agree")
    if indices.ndim == 2:
        if (indices < 0).any() or (indices >= np.array(shape, np.int64)).any():
            raise ModelError(f"{what} has indices outside dims {list(shape)}")
        indices = np.ravel_multi_index(tuple(indices.T), shape) if len(values) else np.empty(0, np.int64)
    elif len(indices) and (indices.min() < 0 or indices.max() >= count):
        raise ModelError(f"{what} has indices outside dims {list(shape)}")
    dense = np.full(count, "", object) if values.dtype == object else np.zeros(count, values.dtype)
    dense[indices] = values
    return dense.reshape(shape)


def import_type(proto: "onnx.TypeProto", dim: "DimReader", name: str, depth: int = 0) -> Type | None:
    """A TypeProto; None where it says nothing. Sparse tensors are held in dense form.

    Args:
        dim: gives each dimension its expression.
        name: the value's name.

    Raises:
        ModelError: an unknown element type or an impossible dimension.
        UnsupportedError: opaque types.
    """
    what = f"'{name}'"
    if depth > TYPE_DEPTH:
        raise ModelError(f"the type of {what} is nested more than {TYPE_DEPTH} deep")
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    if kind in ("tensor_type", "sparse_tensor_type"):
        t = getattr(proto, kind)
        dtype = element_type(t.elem_type, what)
        if not t.HasField("shape"):
            return TensorType(dtype, None)
        shape = tuple(dim(d, name, k) for k, d in enumerate(t.shape.dim))
        tensor_size((d.value for d in shape if d.is_const), dtype, what)
        return TensorType(dtype, shape)
    if kind == "map_type":
        value = import_type(proto.map_type.value_type, dim, name, depth + 1)
        if value is None:
            raise ModelError(f"the type of {what} is a map without a value type")
        return MapType(element_type(proto.map_type.key_type, what), value)
    if kind in ("sequence_type", "optional_type"):
        element = import_type(getattr(proto, kind).elem_type, dim, name, depth + 1)
        if element is None:
            raise ModelError(f"the type of {what} has no element type")
        return SequenceType(element) if kind == "sequence_type" else OptionalType(element)
    raise UnsupportedError(f"{what} is of an unsupported kind: {kind}")


UNKNOWN = "?"  # first character of the symbols of dimensions to which the model gives no name
_NO_NAMES = frozenset(("", "?", "-1", "None", "none"))


class DimReader:
    """Dimensions of declared types as expressions.

    Args:
        by_name, by_denotation: sizes to use for named and for denoted dimensions.
    """

    def __init__(self, by_name: dict[str, int], by_denotation: dict[str, int]) -> None:
        self.by_name, self.by_denotation = by_name, by_denotation
        self.used: set[str] = set()

    def __call__(self, dim: "onnx.TensorShapeProto.Dimension", value: str, index: int) -> Expr:
        what = f"'{value}'"
        kind = dim.WhichOneof("value")
        if kind == "dim_value" and dim.dim_value != -1:
            if dim.dim_value < 0:
                raise ModelError(f"{what} has dimension {dim.dim_value}")
            return ex.const(dim.dim_value)
        denotation = text(dim.denotation, f"a denotation of {what}")
        if denotation and denotation in self.by_denotation:
            return ex.const(self.by_denotation[denotation])
        name = text(dim.dim_param, f"a dimension of {what}").strip() if kind == "dim_param" else ""
        if name in _NO_NAMES:
            return ex.sym(f"{UNKNOWN}{value}.{index}")
        if name in self.by_name:
            self.used.add(name)
            return ex.const(self.by_name[name])
        return ex.sym(name)


def export_type(proto: "onnx.TypeProto", type: Type) -> "onnx.TypeProto":
    """Write a type into a TypeProto; symbolic dims keep their spelling where they are plain sizes, others stay open."""
    if isinstance(type, TensorType):
        proto.tensor_type.elem_type = type.dtype.code
        if type.shape is not None:
            proto.tensor_type.shape.SetInParent()
            for d in type.shape:
                entry = proto.tensor_type.shape.dim.add()
                if d.is_const:
                    entry.dim_value = d.value
                elif d.op == "sym" and not d.text.startswith(UNKNOWN):
                    entry.dim_param = d.text
    elif isinstance(type, MapType):
        proto.map_type.key_type = type.key.code
        export_type(proto.map_type.value_type, type.value)
    elif isinstance(type, SequenceType):
        export_type(proto.sequence_type.elem_type, type.element)
    else:
        export_type(proto.optional_type.elem_type, type.element)
    return proto
