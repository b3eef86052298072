"""Plans of bodies become part of the plan around them: one list of bodies, of kernels and of constants for all."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..ir.kernel import KernelSource
from ..ir.plan import BufferSpec, ControlStep, KernelStep, Plan, Step


class Bodies:
    """Collects plans of bodies while the plan around them is made; `join` completes it."""

    def __init__(self) -> None:
        self._found: list[tuple[Plan, list[KernelSource], list[np.ndarray]]] = []
        self.count = 0

    def add(self, plan: Plan, sources: list[KernelSource], constants: list[np.ndarray]) -> int:
        """The position that a body will have; its own bodies follow it."""
        at = self.count
        self._found.append((plan, sources, constants))
        self.count += 1 + len(plan.bodies)
        return at

    def join(self, plan: Plan, sources: list[KernelSource], constants: list[np.ndarray]) -> None:
        """Give a plan its bodies; their kernels and constants are appended to its own."""
        for body, own, arrays in self._found:
            kernels = []
            for source in own:
                if source.symbol not in plan.kernels:
                    plan.kernels.append(source.symbol)
                    sources.append(source)
                kernels.append(plan.kernels.index(source.symbol))
            first = len(plan.bodies)
            inner, body.bodies = body.bodies, []
            for p in (body, *inner):
                p.steps = [_moved(s, kernels, first + 1) for s in p.steps]
                p.buffers = [_placed(b, len(constants)) for b in p.buffers]
                p.kernels, p.constants = [], 0
                plan.bodies.append(p)
            constants.extend(arrays)
        plan.constants = len(constants)


def _moved(step: Step, kernels: Sequence[int], bodies: int) -> Step:
    if isinstance(step, KernelStep):
        return step._replace(kernel=kernels[step.kernel])
    return step._replace(bodies=tuple(b + bodies for b in step.bodies)) if isinstance(step, ControlStep) else step


def _placed(buffer: BufferSpec, constants: int) -> BufferSpec:
    return replace(buffer, index=buffer.index + constants) if buffer.storage == "constant" else buffer
