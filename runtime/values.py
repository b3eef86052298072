"""Values on a device, as ONNX Runtime spells them: OrtValue, OrtDevice, SparseTensor and bindings of inputs and outputs."""
from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ..ir import dtypes as dt
from .exceptions import InvalidArgument

if TYPE_CHECKING:
    from .session import InferenceSession


class OrtDevice:
    """A device: type, id and memory. Only the CPU exists."""

    def __init__(self, device: str | int = "cpu", device_id: int = 0, *_: object) -> None:
        self._name = _device_name(device)
        self._id = device_id

    @staticmethod
    def make(name: str, device_id: int = 0) -> "OrtDevice":
        return OrtDevice(name, device_id)

    def device_type(self) -> str:
        return self._name

    def device_id(self) -> int:
        return self._id

    @staticmethod
    def cpu() -> int:
        return 0

    @staticmethod
    def cuda() -> int:
        return 1

    @staticmethod
    def default_memory() -> int:
        return 0


def _device_name(device: str | int) -> str:
    name = {0: "cpu", 1: "cuda"}.get(device, device) if isinstance(device, int) else str(device).lower()
    if name not in ("cpu", "cpuexecutionprovider"):
        raise InvalidArgument(f"device {device!r} is not available; only 'cpu' is")
    return "cpu"


class DLPackTensor(Protocol):
    """What offers its memory by DLPack."""

    def __dlpack__(self, /, *, stream: None = None) -> Any: ...


class OrtValue:
    """A value owned by the runtime: a tensor (NumPy array), a sequence (list), a map (dict) or nothing.

    Args:
        value: what it holds.
        dtype: element type where the array's own does not tell.
    """

    __slots__ = ("_dtype", "_value")

    def __init__(self, value: object, dtype: dt.DType | None = None) -> None:
        self._value = value
        self._dtype = dtype or (dt.of_numpy(value.dtype) if isinstance(value, np.ndarray) else None)

    # ---- making one
    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1) -> "OrtValue":
        """A value that shares the array's memory."""
        _device_name(device_type)
        return OrtValue(np.asarray(array))

    @staticmethod
    def ortvalue_from_numpy_with_onnx_type(array: np.ndarray, onnx_element_type: int) -> "OrtValue":
        """A value of an ONNX element type whose bits the array holds (bfloat16 and float8 as unsigned integers).

        Raises:
            InvalidArgument: unknown type, or one of another width.
        """
        dtype = _element_type(onnx_element_type)
        if array.dtype.itemsize != dtype.itemsize_bytes:
            raise InvalidArgument(f"{dtype.name} has {dtype.itemsize_bytes} bytes an element, the array {array.dtype.itemsize}")
        return OrtValue(array.view(dtype.numpy), dtype)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: Sequence[int], element_type: npt.DTypeLike, device_type: str = "cpu", device_id: int = 0, vendor_id: int = -1) -> "OrtValue":
        """An uninitialised tensor; `element_type` is a NumPy type or an ONNX type number."""
        _device_name(device_type)
        dtype = _element_type(element_type) if isinstance(element_type, int) else dt.of_numpy(np.dtype(element_type))
        return OrtValue(np.empty(tuple(shape), dtype.numpy), dtype)

    @staticmethod
    def from_dlpack(data: "DLPackTensor", is_bool_tensor: bool = False) -> "OrtValue":
        """A value that shares the memory of any DLPack tensor."""
        array = np.from_dlpack(data)
        return OrtValue(array.view(np.bool_) if is_bool_tensor else array)

    @staticmethod
    def ort_value_from_sparse_tensor(sparse: "SparseTensor") -> "OrtValue":
        return OrtValue(sparse)

    # ---- looking at it
    def numpy(self) -> np.ndarray:
        """The tensor's array (shared memory)."""
        if not isinstance(self._value, np.ndarray):
            raise InvalidArgument(f"a {self.data_type()} has no NumPy form; only tensors have")
        return self._value

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, *args: Any, **kwargs: Any) -> object:
        return self.numpy().__dlpack__(*args, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def to_list(self) -> list[object]:
        return list(cast("Iterable[object]", self._value))

    def shape(self) -> list[int]:
        return list(self.numpy().shape)

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self.numpy().ctypes.data

    def data_type(self) -> str:
        """`tensor(float)`, `seq(tensor(int64))`, ..."""
        v = self._value
        if isinstance(v, np.ndarray):
            return f"tensor({self._dtype.name})"
        if isinstance(v, SparseTensor):
            return f"sparse_tensor({dt.of_numpy(v.values().dtype).name})"
        if isinstance(v, (list, tuple)):
            inner = OrtValue(v[0]).data_type() if v else "tensor(float)"
            return f"seq({inner})"
        if isinstance(v, dict):
            return "map"
        return "none"

    def element_type(self) -> int:
        """ONNX's number of the element type."""
        return self._dtype.code if self._dtype is not None else 0

    def device_name(self) -> str:
        return "cpu"

    def tensor_size_in_bytes(self) -> int:
        return self.numpy().nbytes

    def is_tensor(self) -> bool:
        return isinstance(self._value, np.ndarray)

    def is_sparse_tensor(self) -> bool:
        return isinstance(self._value, SparseTensor)

    def is_tensor_sequence(self) -> bool:
        return isinstance(self._value, (list, tuple))

    def has_value(self) -> bool:
        return self._value is not None

    def as_sparse_tensor(self) -> "SparseTensor":
        if not isinstance(self._value, SparseTensor):
            raise InvalidArgument(f"this value is a {self.data_type()}, not a sparse tensor")
        return self._value

    def update_inplace(self, array: np.ndarray) -> None:
        """Copy new elements of the same shape and type into the value's memory."""
        own = self.numpy()
        if array.shape != own.shape or array.dtype != own.dtype:
            raise InvalidArgument(f"an array of {array.dtype}{list(array.shape)} cannot replace one of {own.dtype}{list(own.shape)} in place")
        own[...] = array


def _element_type(code: int) -> dt.DType:
    if code not in dt.BY_CODE:
        raise InvalidArgument(f"{code} is no ONNX element type")
    return dt.BY_CODE[code]


class SparseTensor:
    """A sparse tensor in coordinate format."""

    def __init__(self, shape: Sequence[int], values: np.ndarray, indices: np.ndarray) -> None:
        self._shape, self._values, self._indices = tuple(shape), values, indices

    @staticmethod
    def sparse_coo_from_numpy(shape: Sequence[int], values: np.ndarray, indices: np.ndarray, device: object = None) -> "SparseTensor":
        """Values and their flat (or per-dimension) indices."""
        return SparseTensor(shape, np.asarray(values), np.asarray(indices, np.int64))

    def dense_shape(self) -> list[int]:
        return list(self._shape)

    def values(self) -> np.ndarray:
        return self._values

    def indices(self) -> np.ndarray:
        return self._indices

    def to_dense(self) -> np.ndarray:
        """The dense array."""
        dense = np.zeros(self._shape, self._values.dtype)
        if self._indices.ndim == 1:
            dense.reshape(-1)[self._indices] = self._values
        else:
            dense[tuple(self._indices.T)] = self._values
        return dense

    def device_name(self) -> str:
        return "cpu"


def array_at(address: int, shape: Sequence[int], dtype: dt.DType) -> np.ndarray:
    """An array over memory that the caller owns."""
    count = int(np.prod(shape, dtype=np.int64))
    buffer = memoryview((ctypes.c_char * (count * dtype.itemsize_bytes)).from_address(address) if count else b"")
    return np.frombuffer(buffer, dtype.numpy).reshape(tuple(shape))


class IOBinding:
    """Inputs and outputs bound to memory, so that a run copies nothing.

    Args:
        session: whose inputs and outputs are bound.
    """

    def __init__(self, session: "InferenceSession") -> None:
        self._session = session
        self._input_names = {i.name for i in session.get_inputs()}
        self._output_names = [o.name for o in session.get_outputs()]
        self._inputs: dict[str, object] = {}
        self._outputs: dict[str, object] = {}
        self._results: list[object] = []  # of the last run, one for each of the session's outputs
        self._ready: tuple[list[object], list[object]] | None = None  # checked inputs and given outputs, until something else is bound

    def _prepared(self, check: Callable[[Mapping[str, object]], list[object]]) -> tuple[list[object], list[object]]:
        """Inputs as `check` gives them, and what was bound for each output; kept where the inputs are the bound arrays themselves."""
        ready = check(self._inputs), [self._outputs.get(n) for n in self._output_names]
        bound = {id(v) for v in self._inputs.values()}
        if all(id(a) in bound for a in ready[0]):
            self._ready = ready
        return ready

    def _check_input(self, name: str) -> None:
        self._ready = None
        if name not in self._input_names:
            raise InvalidArgument(f"there is no input {name!r}; the model's inputs are {sorted(self._input_names)}")

    def _check_output(self, name: str) -> None:
        self._ready = None
        if name not in self._output_names:
            raise InvalidArgument(f"there is no output {name!r}; the model's outputs are {self._output_names}")

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        """Read an input from an array (not copied if it is contiguous)."""
        self._check_input(name)
        self._inputs[name] = array

    def bind_input(self, name: str, device_type: str, device_id: int, element_type: npt.DTypeLike, shape: Sequence[int], buffer_ptr: int) -> None:
        """Read an input from memory at an address."""
        self._check_input(name)
        _device_name(device_type)
        dtype = _element_type(element_type) if isinstance(element_type, int) else dt.of_numpy(np.dtype(element_type))
        self._inputs[name] = array_at(buffer_ptr, shape, dtype)

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self._check_input(name)
        self._inputs[name] = value._value

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0, element_type: npt.DTypeLike | None = None, shape: Sequence[int] | None = None,
                    buffer_ptr: int | None = None) -> None:
        """Write an output to memory at an address, or let the runtime make it."""
        self._check_output(name)
        _device_name(device_type)
        if buffer_ptr is None:
            self._outputs[name] = None
            return
        if element_type is None or shape is None:
            raise InvalidArgument(f"output {name!r}: memory at an address needs its element type and shape")
        dtype = _element_type(element_type) if isinstance(element_type, int) else dt.of_numpy(np.dtype(element_type))
        self._outputs[name] = array_at(buffer_ptr, shape, dtype)

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        self._check_output(name)
        array = value.numpy()
        if not array.flags.writeable:
            raise InvalidArgument(f"output {name!r}: the value bound is read-only memory; bind an array that may be written")
        self._outputs[name] = array

    def synchronize_inputs(self) -> None:
        """Nothing to wait for: the CPU's memory is in order."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for: the CPU's memory is in order."""

    def get_outputs(self) -> list[OrtValue]:
        """The bound outputs after a run."""
        results = dict(zip(self._output_names, self._results))
        return [OrtValue(results[n]) for n in self._outputs if n in results]

    def get_outputs_as_ortvaluevector(self) -> list[OrtValue]:
        return self.get_outputs()

    def copy_outputs_to_cpu(self) -> list[object]:
        """The bound outputs as arrays."""
        return [v.numpy() if v.is_tensor() else v._value for v in self.get_outputs()]

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()
        self._ready = None

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()
        self._results = []
        self._ready = None
