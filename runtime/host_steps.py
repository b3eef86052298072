"""Host steps as functions of a run: where their arguments lie and where their results go is looked up once."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from ..ir.errors import InputError
from ..ir.plan import HostStep
from .arrays import copier
from .frames import Frame, Tables
from .tables import address, numpy_type

HostFunction = Callable[..., Sequence[object]]
Argument = Callable[[Frame, Sequence[object]], object]


def shape_of(value: object) -> tuple[int, ...]:
    """The shape of an array, or of a value that NumPy reads as one."""
    return np.shape(cast("npt.ArrayLike", value))


class HostCall:
    """One host step: calls its function on copies of its inputs and takes over what that returns.

    Args:
        step: what to do.
        function: the callback.
        tables: of the plan that the step belongs to.
    """

    def __init__(self, step: HostStep, function: HostFunction, tables: Tables) -> None:
        self.step, self.function = step, function
        buffers = tables.plan.buffers
        self._arguments = [_argument(port, tables) for port in step.inputs]
        self._outputs: list[tuple[int, np.dtype | None, Sequence[int]]] = []  # host value, or type and pointers of a buffer
        for kind, at in step.outputs:
            if kind == "value":
                self._outputs.append((at, None, ()))
            else:
                self._outputs.append((-1, numpy_type(buffers[at]), tables.aliases.get(buffers[at].index, [at])))

    def __call__(self, frame: Frame, values: list[object]) -> None:
        """Do the step.

        Args:
            frame: of the run; gets the arrays made here and the sizes found out.
            values: the run's host values.

        Raises:
            InputError: the function returned too few or too many values.
        """
        returned = self.function(*[argument(frame, values) for argument in self._arguments])
        if len(returned) != len(self._outputs):
            raise InputError(f"host function of {', '.join(self.step.origin)} returned {len(returned)} values, {len(self._outputs)} were expected")
        arrays: list[object] = []
        for (at, dtype, pointers), value in zip(self._outputs, returned):
            if dtype is None:
                values[at] = value
                arrays.append(value)
                continue
            array = np.asarray(value, dtype, order="C")
            arrays.append(array)
            frame.kept.append(array)
            for k in pointers:
                frame.pointers[k] = address(array)
        for output, dim, number in self.step.sizes:
            frame.numbers[number] = shape_of(arrays[output])[dim]


def _argument(port: tuple[str, int] | None, tables: Tables) -> Argument:
    """How to get an input of a step."""
    if port is None:
        return lambda frame, values: None
    at = port[1]
    if port[0] == "value":
        return lambda frame, values: values[at]
    copied = buffer_copier(at, tables)
    return lambda frame, values: copied(frame)


def buffer_copier(buffer: int, tables: Tables) -> Callable[[Frame], np.ndarray]:
    """A function of a frame: a row-major copy of what a buffer holds."""
    spec = tables.plan.buffers[buffer]
    copied, dims = copier(spec.order, numpy_type(spec)), spec.shape

    def copy(frame: Frame) -> np.ndarray:
        numbers = frame.numbers
        return copied(frame.pointers.item(buffer), [numbers.item(d) for d in dims])
    return copy
