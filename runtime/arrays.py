"""Host memory: where NumPy keeps an array's facts, aligned allocation, views of raw memory."""
from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

ALIGNMENT = 64
ALIGN_FROM_BYTES = 256 << 10  # below, alignment costs more than whole cache lines gain a kernel that writes them
_BYTE = np.dtype(np.uint8)
_WORD = ctypes.sizeof(ctypes.c_void_p)


@lru_cache(maxsize=1)
def data_offset() -> int:
    """Bytes from the start of an array object to its data pointer, behind which rank, dimensions, dtype and flags stand in NumPy's C ABI order.

    Raises:
        RuntimeError: this NumPy keeps its arrays otherwise.
    """
    first, second = np.zeros((3, 5), np.float32), np.zeros((4, 7, 2), np.float64, order="F")
    for offset in range(_WORD, 10 * _WORD, _WORD):
        if all(_matches(a, offset) for a in (first, second)):
            return offset
    raise RuntimeError(f"NumPy {np.__version__} does not lay out array objects as its C interface says; use a released CPython build of NumPy 2")


def _matches(array: np.ndarray, offset: int) -> bool:
    words = (ctypes.c_ssize_t * 7).from_address(id(array) + offset)
    if ctypes.c_size_t(words[0]).value != array.ctypes.data:
        return False
    if words[1] & 0xFFFFFFFF != array.ndim or words[5] != id(array.dtype):
        return False
    dims = (ctypes.c_ssize_t * array.ndim).from_address(words[2])
    return tuple(dims) == array.shape and bool(words[6] & 1) == array.flags.c_contiguous and bool(words[6] & 0x100)


def aligned_empty(shape: int | Sequence[int], dtype: np.dtype = _BYTE) -> np.ndarray:
    """Uninitialised row-major array (by default of bytes) whose data starts at a multiple of 64 bytes."""
    shape = (shape,) if isinstance(shape, int) else shape
    count = dtype.itemsize
    for d in shape:
        count *= d
    raw = np.empty(count + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start:start + count].view(dtype).reshape(shape)


def allocator(shape: Sequence[int], dtype: np.dtype) -> Callable[[Sequence[int], np.dtype], np.ndarray]:
    """The function that makes uninitialised row-major arrays of this size: large ones are aligned."""
    count = dtype.itemsize
    for d in shape:
        count *= d
    return np.empty if count < ALIGN_FROM_BYTES else aligned_empty


@lru_cache(maxsize=1)
def allocation() -> tuple[int, int]:
    """Addresses of the C library's malloc and free."""
    library = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
    allocate, release = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in (library.malloc, library.free))
    return allocate, release


def aligned(array: np.ndarray) -> np.ndarray:
    """The array itself if it is row-major and starts at a multiple of 64 bytes, else a copy that is."""
    if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return array
    out = aligned_empty(array.shape, array.dtype)
    out[...] = array
    return out


def copier(order: Sequence[int], dtype: np.dtype) -> Callable[[int, Sequence[int]], np.ndarray]:
    """A function of an address and a shape: a row-major copy of the tensor in memory there, whose dimensions lie in `order`, outermost first."""
    offset, row_major, back = data_offset(), list(order) == sorted(order), np.argsort(np.asarray(order, np.int64))

    def copy(address: int, shape: Sequence[int]) -> np.ndarray:
        stored = np.empty(shape if row_major else [shape[d] for d in order], dtype)
        ctypes.memmove(ctypes.c_void_p.from_address(id(stored) + offset), address, stored.nbytes)
        return stored if row_major else np.ascontiguousarray(stored.transpose(back))
    return copy
