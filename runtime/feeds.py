"""Checking what a user feeds against what a model takes."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..ir import dtypes as dt
from ..ir.plan import Plan, Port
from .exceptions import InvalidArgument
from .values import OrtValue, SparseTensor


class InputChecker:
    """Turns feeds into arrays in the plan's order, or says what is wrong with them.

    Args:
        plan: whose inputs are checked.
    """

    def __init__(self, plan: Plan) -> None:
        self.ports: Sequence[Port] = plan.inputs
        self.names = [p.name for p in plan.inputs]
        self.dtypes: list[np.dtype | None] = []
        for p in plan.inputs:
            known = p.type.startswith("tensor(")
            self.dtypes.append(dt.BY_NAME[p.type[7:-1]].numpy if known else None)
        self._tensors = [p.value < 0 for p in plan.inputs]

    def arrays(self, feed: Mapping[str, object]) -> list[object]:
        """One value per input.

        Raises:
            InvalidArgument: a name, type, rank or size is wrong, or an input is missing.
        """
        try:
            given = [feed[n] for n in self.names]
        except KeyError:
            given = []
        if len(feed) != len(given) or len(given) != len(self.names):
            self._wrong_names(feed)
        return [self.array(k, value) for k, value in enumerate(given)]

    def array(self, k: int, value: object) -> object:
        """Input `k` from what was given for it."""
        port = self.ports[k]
        wanted = self.dtypes[k]
        if wanted is None:
            return value
        if type(value) is not np.ndarray:
            value = self._to_array(port, value, wanted)
        if value.dtype is not wanted and value.dtype != wanted:
            value = self._convert(port, value, wanted)
        if port.shape is not None:
            if not port.shape and value.size == 1:
                value = value.reshape(())  # one element serves where a scalar is taken, as in ONNX Runtime
            if value.ndim != len(port.shape):
                raise InvalidArgument(f"Invalid rank for input: {port.name} Got: {value.ndim} Expected: {len(port.shape)}; the model takes "
                                      f"{describe(port)}, an array of shape {tuple(value.shape)} came")
            for d, size in enumerate(port.shape):
                if isinstance(size, int) and value.shape[d] != size:
                    raise InvalidArgument(f"Got invalid dimensions for input: {port.name} for the following indices: index: {d} Got: {value.shape[d]} "
                                          f"Expected: {size}; the model takes {describe(port)}, an array of shape {tuple(value.shape)} came")
        return value

    def _to_array(self, port: Port, value: object, wanted: np.dtype) -> np.ndarray:
        if isinstance(value, OrtValue) and value.is_sparse_tensor():
            value = value.as_sparse_tensor()
        if isinstance(value, SparseTensor):
            return value.to_dense()
        numpy = getattr(value, "numpy", None)
        if callable(numpy):
            value = numpy()
        if isinstance(value, (np.ndarray, np.generic)):
            return np.asarray(value)
        if isinstance(value, (int, float, bool, complex, str, list, tuple)):
            try:
                array = np.asarray(value)
            except ValueError as e:
                raise InvalidArgument(f"input {port.name}: the nested list has rows of different lengths; the model takes {describe(port)}") from e
            if array.dtype.kind in "US":
                return array.astype(object)
            if array.dtype.kind in "iufb" and array.dtype.kind != "O":
                return array.astype(wanted)
        raise InvalidArgument(f"input {port.name}: the model takes {describe(port)}, a {type(value).__name__} came; give a NumPy array")

    def _convert(self, port: Port, value: np.ndarray, wanted: np.dtype) -> np.ndarray:
        if wanted.kind == "O" and value.dtype.kind in "USO":
            return value.astype(object)
        if value.dtype.newbyteorder("=") == wanted:
            return value.astype(wanted)
        try:
            came = dt.of_numpy(value.dtype).name
        except TypeError:
            came = str(value.dtype)
        raise InvalidArgument(f"Unexpected input data type for {port.name}. Actual: (tensor({came})) , expected: ({port.type}); convert it with "
                              f".astype('{wanted.name}')")

    def _wrong_names(self, feed: Mapping[str, object]) -> None:
        missing = [n for n in self.names if n not in feed]
        unknown = [n for n in feed if n not in self.names]
        if missing:
            raise InvalidArgument(f"Required inputs ({missing}) are missing from input feed ({list(feed)}).")
        if unknown:
            raise InvalidArgument(f"Invalid input name: {', '.join(map(repr, unknown))}; the model's inputs are {', '.join(map(repr, self.names))}")


def describe(port: Port) -> str:
    """`tensor(float) [batch, 3, 224, 224]`"""
    if port.shape is None:
        return port.type
    return f"{port.type} [{', '.join('?' if s is None else str(s) for s in port.shape)}]"
