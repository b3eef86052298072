"""A native library through ctypes, as any language with a C interface sees it."""
from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sardonyx.ir import dtypes as dt
from sardonyx.runtime.native.tables import c_name

RANK = 8


class Port(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("type", ctypes.c_int32), ("item_size", ctypes.c_int32), ("rank", ctypes.c_int32), ("dims", ctypes.c_int64 * RANK),
                ("dim_names", ctypes.c_char_p * RANK)]


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("type", ctypes.c_int32), ("rank", ctypes.c_int32), ("dims", ctypes.c_int64 * RANK)]


class Options(ctypes.Structure):
    _fields_ = [("threads", ctypes.c_int32), ("reserved", ctypes.c_int32), ("weights_path", ctypes.c_char_p), ("weights", ctypes.c_void_p), ("weights_bytes", ctypes.c_size_t)]


class StatusError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def numpy_type(code: int) -> np.dtype:
    return next(d for d in dt.BY_NAME.values() if d.code == code).numpy


def tensor(array: np.ndarray, code: int) -> Tensor:
    return Tensor(array.ctypes.data, array.nbytes, code, array.ndim, (ctypes.c_int64 * RANK)(*array.shape))


class NativeModel:
    """One instance of a library's model."""

    def __init__(self, path: Path, options: Options | None = None) -> None:
        self.library, self.name = ctypes.CDLL(str(path)), c_name(path.stem.removeprefix("lib"))
        for f, result in (("error", ctypes.c_char_p), ("input", ctypes.POINTER(Port)), ("output", ctypes.POINTER(Port)), ("workspace_bytes", ctypes.c_size_t),
                          ("instance_bytes", ctypes.c_size_t)):
            self.function(f).restype = result
        self.handle = ctypes.c_void_p()
        self.check(self.function("open")(None if options is None else ctypes.byref(options), ctypes.byref(self.handle)))
        self.inputs = [self.function("input")(k).contents for k in range(self.function("input_count")())]
        self.outputs = [self.function("output")(k).contents for k in range(self.function("output_count")())]

    def function(self, name: str) -> Any:
        return getattr(self.library, f"{self.name}_{name}")

    def check(self, status: int) -> None:
        if status:
            raise StatusError(status, self.function("error")(self.handle).decode())

    def feeds(self, feeds: Mapping[str, np.ndarray]) -> tuple[object, list[np.ndarray]]:
        arrays = [np.ascontiguousarray(feeds[p.name.decode()]).reshape(np.shape(feeds[p.name.decode()])) for p in self.inputs]
        return (Tensor * max(1, len(arrays)))(*(tensor(a, p.type) for a, p in zip(arrays, self.inputs))), arrays

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray | None] | None = None) -> list[np.ndarray]:
        """Results as copies."""
        given, kept = self.feeds(feeds)
        wanted = outputs or [None] * len(self.outputs)
        results = (Tensor * max(1, len(wanted)))(*(Tensor() if a is None else tensor(a, p.type) for a, p in zip(wanted, self.outputs)))
        self.check(self.function("run")(self.handle, given, len(kept), results, len(wanted)))
        found = []
        for r in list(results)[:len(wanted)]:
            shape, kind = tuple(r.dims[:r.rank]), numpy_type(r.type)
            raw = ctypes.string_at(r.data, int(np.prod(shape)) * kind.itemsize) if r.data and np.prod(shape) else b""
            found.append(np.frombuffer(raw, kind).reshape(shape))
        return found

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> int:
        """Bytes of workspace for the feeds' shapes."""
        given, kept = self.feeds(feeds)
        self.check(self.function("prepare")(self.handle, given, len(kept)))
        return self.function("workspace_bytes")(self.handle)

    def output_dims(self, k: int) -> list[int]:
        dims = (ctypes.c_int64 * RANK)()
        self.check(self.function("output_dims")(self.handle, k, dims))
        return list(dims[:self.outputs[k].rank])

    def close(self) -> None:
        self.function("close")(self.handle)
        self.handle = ctypes.c_void_p()
