"""Runs of models in parts: what stands before a rank that only the run tells, what decides it, and the rest, compiled when it is known."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .control import ControlRunner

if TYPE_CHECKING:
    from ..compiler.importer_cut import ControlPart, Cut, Part

Run = Callable[..., list[object]]


class Parts:
    """A model in parts.

    Args:
        cut: the parts.
        inputs: names of the model's inputs, in order.
        start: makes something that runs a part's model; called when the part is first needed.
    """

    def __init__(self, cut: "Cut", inputs: Sequence[str], start: Callable[[bytes], Run]) -> None:
        self.cut, self.inputs = cut, list(inputs)
        self._start = start
        self._runs: dict[bytes, Run] = {}

    def run(self, inputs: Sequence[object], outputs: Sequence[np.ndarray | None] | None = None) -> list[object]:
        """All outputs, those with a given array copied into it."""
        values: dict[str, object] = {"": None, **dict(zip(self.inputs, inputs, strict=True))}
        if self.cut.first is not None:
            self._run_part(self.cut.first, values)
        if self.cut.control is not None:
            self._run_control(self.cut.control, values)
        if self.cut.rest is not None:
            self._run_part(self.cut.rest, values)
        given = {id(a) for a in inputs}
        results = [v.copy() if isinstance(v, np.ndarray) and id(v) in given else v for v in (values[n] for n in self.cut.outputs)]
        for k, target in enumerate(outputs or ()):
            if target is not None:
                np.copyto(target, np.asarray(results[k]), casting="no")
                results[k] = target
        return results

    def _body(self, part: "Part", own: Sequence[object], values: dict[str, object]) -> list[object]:
        run = self._runs.get(part.model)
        if run is None:
            run = self._runs[part.model] = self._start(part.model)
        return run([*own, *(values[n] for n in part.inputs[len(own):])])

    def _run_part(self, part: "Part", values: dict[str, object]) -> None:
        values.update(zip(part.outputs, self._body(part, [], values), strict=True))

    def _run_control(self, control: "ControlPart", values: dict[str, object]) -> None:
        from ..ir.graph import TensorType

        bodies = tuple(lambda own, b=b: self._body(b, own, values) for b in control.bodies)
        tensors = [t for t in control.types if isinstance(t, TensorType)]
        settings = {"captures": (0,), "wanted": (1,) * len(control.outputs), "carried": (len(control.inputs) - 2,), "given": control.given,
                    "ranks": tuple(1 if t.shape is None else len(t.shape) for t in tensors)}
        results = ControlRunner(control.kind, bodies, settings)(*(values[n] for n in control.inputs))
        for name, t, value in zip(control.outputs, control.types, results, strict=True):
            if isinstance(t, TensorType) and isinstance(value, np.ndarray) and not value.size:  # what no iteration gave has no type of its own
                value = value.astype(t.dtype.numpy)
            values[name] = value
