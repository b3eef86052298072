"""Runs plans: one native call for a run whose shapes are known, the rest prepared once and kept."""
from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from ..ir import driver_abi as dv
from ..ir.errors import InputError
from ..ir.plan import ControlStep, HostStep, KernelStep, Plan
from .arrays import aligned
from .failures import raise_failure
from .frames import Arena, Frame, Tables, find_driver
from .host_steps import HostCall, HostFunction, buffer_copier, shape_of
from .objects import LoadedObjects
from .threads import default_threads, find_openmp

DRIVER_PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
KEPT_FRAMES = 16  # input shapes that stay bound


class StepTime(NamedTuple):
    """When a step ran, by the monotonic clock."""

    step: int
    start_ns: int
    end_ns: int


class Executor:
    """A compiled model, ready to run; may be used by several Python threads at once.

    Args:
        plan: what to do.
        objects: object file of each of the plan's kernels and of the driver, by symbol.
        constants: arrays of the plan's constants; kept, copied only if not aligned.
        threads: native threads of a run; None for as many as this process has cores. Without OpenMP it is 1.
        host_functions: callbacks of the plan's host steps; by default the payloads of `plan.host_functions`.

    Raises:
        TargetError: the objects are not for this machine or incomplete.
    """

    def __init__(self, plan: Plan, objects: Mapping[str, bytes], constants: Sequence[np.ndarray], threads: int | None = None,
                 host_functions: Sequence[HostFunction] | None = None) -> None:
        driver = find_driver(objects)
        wanted = [*dict.fromkeys(plan.kernels), driver]
        code = LoadedObjects([objects[s] for s in wanted], wanted)
        threads = default_threads() if threads is None else max(1, threads)
        openmp = find_openmp() if threads > 1 else None
        self.plan = plan
        self.threads = threads if openmp is not None else 1
        self.host_functions: list[HostFunction] = list(host_functions) if host_functions is not None else [cast(HostFunction, f) for _, f in plan.host_functions]
        self.tables = Tables(plan, [aligned(c) for c in constants], code, driver, self.threads, openmp)
        self._call = DRIVER_PROTOTYPE(self.tables.driver)
        self._steps = len(plan.steps)
        self._input_count, self._output_count = len(plan.inputs), len(plan.outputs)
        self._tensor_inputs = len(self.tables.inputs)
        self._entered = self._tensor_inputs == len(plan.inputs)  # every input is an array that the driver enters itself
        self._direct = self._entered and len(self.tables.outputs) == len(plan.outputs)  # the outputs too: nothing is left to Python but to allocate
        self._values: list[object] = [None] * plan.host_values  # what a run's host values are at its start
        for position, shape, items in plan.host_constants:
            self._values[position] = _strings(shape, items)
        self._host_calls = {k: HostCall(s, self.host_functions[s.function], self.tables) for k, s in enumerate(plan.steps) if isinstance(s, HostStep)}
        self._elsewhere = [(k, p.value, None if p.buffer < 0 else buffer_copier(p.buffer, self.tables)) for k, p in enumerate(plan.outputs)
                           if k not in {b.port for b in self.tables.outputs}]
        self._blocks = sum(self.tables.block_counts)
        self._idle: list[Frame] = []  # most recently used last
        self._arenas: list[Arena] = []
        self._lock = threading.Lock()

    # ---- running
    def run(self, inputs: Sequence[object], outputs: Sequence[np.ndarray | None] | None = None) -> list[object]:
        """Run the model once.

        Args:
            inputs: one value for each model input: arrays of the inputs' types, or host values (lists, strings as object arrays, None).
            outputs: arrays to write results into (row-major, of the result's type and shape), None where one is to be made.

        Returns:
            One value for each model output; given arrays are returned as they came.

        Raises:
            InputError: an input's rank, size or type, or a given output, does not fit.
        """
        if self._entered and len(inputs) == self._input_count and (outputs is None or (self._direct and len(outputs) == self._output_count)):
            try:
                frame = self._idle.pop()
            except IndexError:
                return self._run_prepared(inputs, outputs)
            try:
                arena = self._arenas.pop()
            except IndexError:
                arena = Arena(self._blocks)
            if frame.place != arena.place:
                frame.attach(arena)
            objects = frame.objects
            k = 0
            for x in inputs:
                objects[k] = id(x)
                k += 1
            results: list[object] = []
            if outputs is None:
                for make, shape, dtype in frame.results:
                    y = make(shape, dtype)
                    objects[k] = id(y)
                    k += 1
                    results.append(y)
            else:
                for given, (make, shape, dtype) in zip(outputs, frame.results):
                    y = make(shape, dtype) if given is None else given
                    objects[k] = id(y)
                    k += 1
                    results.append(y)
            self._call(frame.record)
            stopped = frame.state[0]
            if stopped == self._steps and self._direct:
                self._arenas.append(arena)
                self._idle.append(frame)
                return results
            if stopped < 0:
                self._arenas.append(arena)
                self._idle.append(frame)
                if stopped == dv.FAILED:
                    raise_failure(frame.tables, frame.state)
                return self._run_prepared(inputs, outputs)
            try:
                values = self._values.copy()
                self._continue(frame, stopped, values)
                return results if self._direct else self._collect(frame, results, values, None)
            finally:
                self._release(frame, arena)
        return self._run_prepared(inputs, outputs)

    def profile(self, inputs: Sequence[object]) -> tuple[list[object], list[StepTime]]:
        """Run once with a clock at every step.

        Returns:
            The outputs, and the times of kernel and host steps in order.
        """
        times: list[StepTime] = []
        return self._run_prepared(inputs, None, times), sorted(times, key=lambda s: s.step)

    def release_memory(self) -> None:
        """Give back arenas and forget input shapes that no run is using."""
        with self._lock:
            self._idle.clear()
            self._arenas.clear()

    def numbers(self, shapes: Sequence[Sequence[int]]) -> np.ndarray:
        """The plan's numbers for these shapes of tensor inputs, as far as shapes alone tell them."""
        frame = Frame(self.tables)
        frame.bind(tuple(tuple(s) for s in shapes), self._call)
        return frame.numbers

    def arena_bytes(self, shapes: Sequence[Sequence[int]]) -> int:
        """Bytes of intermediates and scratch that a run with these shapes of tensor inputs needs before any size that depends on data."""
        frame = Frame(self.tables)
        frame.bind(tuple(tuple(s) for s in shapes), self._call)
        return frame.arena_bytes

    # ---- the long way: first runs, other shapes, given outputs, host values
    def _run_prepared(self, inputs: Sequence[object], outputs: Sequence[np.ndarray | None] | None, times: list[StepTime] | None = None) -> list[object]:
        if len(inputs) != self._input_count:
            raise InputError(f"the model takes {self._input_count} inputs, {len(inputs)} were given")
        arrays = [_prepared(inputs[b.port], b.name, b.dtype) for b in self.tables.inputs]
        frame = self._frame_for((*(a.shape for a in arrays), *(shape_of(inputs[k]) for k in self.tables.host_arrays)))
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = Arena(self._blocks)
        try:
            if frame.place != arena.place:
                frame.attach(arena)
            given = outputs if outputs is not None else [None] * self._output_count
            if len(given) != self._output_count:
                raise InputError(f"the model has {self._output_count} outputs, buffers for {len(given)} were given")
            results = [make(shape, dtype) if given[b.port] is None else given[b.port] for b, (make, shape, dtype) in zip(self.tables.outputs, frame.results, strict=True)]
            for k, a in enumerate([*arrays, *results]):
                frame.objects[k] = id(a)
            values = self._values.copy()
            for port, value in zip(self.plan.inputs, inputs, strict=True):
                if port.buffer < 0:
                    values[port.value] = value
            if times is not None:
                frame.set_clock(ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0)
            self._start(frame, values, times)
            return self._collect(frame, results, values, given)
        finally:
            self._release(frame, arena)

    def _frame_for(self, shapes: tuple[tuple[int, ...], ...]) -> Frame:
        """An idle frame bound to these shapes; else a new one, or the one that waited longest, bound anew."""
        with self._lock:
            frame = None
            for k in range(len(self._idle) - 1, -1, -1):
                try:
                    if self._idle[k].shapes == shapes:
                        frame = self._idle.pop(k)
                        break
                except IndexError:  # another thread's run took a frame meanwhile
                    continue
            if frame is None and len(self._idle) >= KEPT_FRAMES:
                try:
                    frame = self._idle.pop(0)
                except IndexError:
                    frame = None
        frame = frame or Frame(self.tables)
        if frame.shapes != shapes:
            frame.bind(shapes, self._call)
        return frame

    def _start(self, frame: Frame, values: list[object], times: list[StepTime] | None) -> None:
        self._call(frame.record)
        stopped = frame.state[dv.STOPPED]
        if stopped == dv.FAILED:
            raise_failure(self.tables, frame.state)
        if stopped < 0:
            b = self.tables.bindings[-1 - stopped]
            at = -1 - stopped - self._tensor_inputs
            shape = frame.results[at][1] if at >= 0 else ()
            raise InputError(f"the buffer given for output '{b.name}' must be a row-major, aligned {b.dtype} array of shape {list(shape)}")
        self._continue(frame, stopped, values, times)

    def _continue(self, frame: Frame, stopped: int, values: list[object], times: list[StepTime] | None = None) -> None:
        """Do what the driver stopped for, and let it go on, until the plan's end."""
        begun = 0
        while True:
            if times is not None and frame.times is not None:
                times += [StepTime(k, int(frame.times[2 * k]), int(frame.times[2 * k + 1])) for k in range(begun, stopped)
                          if isinstance(self.plan.steps[k], (KernelStep, ControlStep))]
            if stopped >= self._steps:
                return
            if times is None:
                self._host_calls[stopped](frame, values)
            else:
                start_ns = time.monotonic_ns()
                self._host_calls[stopped](frame, values)
                times.append(StepTime(stopped, start_ns, time.monotonic_ns()))
            begun = stopped + 1
            if begun == self._steps:
                return
            frame.context[dv.START] = begun
            self._call(frame.record)
            stopped = frame.state[dv.STOPPED]
            if stopped == dv.FAILED:
                raise_failure(self.tables, frame.state)

    def _collect(self, frame: Frame, written: Sequence[object], values: Sequence[object], given: Sequence[np.ndarray | None] | None) -> list[object]:
        """All outputs in order: those written in place, host values, and copies of what lies elsewhere."""
        out = list(written)
        for k, value, copied in self._elsewhere:  # in order, so that each finds its place
            if copied is None:
                out.insert(k, values[value])
                continue
            array = copied(frame)
            target = None if given is None else given[k]
            if target is not None:
                if target.shape != array.shape or target.dtype != array.dtype:
                    raise InputError(f"the buffer given for output '{self.plan.outputs[k].name}' must be a {array.dtype} array of shape {list(array.shape)}")
                target[...] = array
            out.insert(k, array if target is None else target)
        return out

    def _release(self, frame: Frame, arena: Arena) -> None:
        frame.context[dv.START] = 0
        frame.set_clock(0)
        frame.kept.clear()
        if frame.shapes is not None:
            self._idle.append(frame)
        self._arenas.append(arena)


def _strings(shape: Sequence[int], items: Sequence[str]) -> np.ndarray:
    """A string tensor known when compiling."""
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(tuple(shape))


def _prepared(value: object, name: str, dtype: np.dtype) -> np.ndarray:
    """The value as a row-major, aligned array of exactly the type that the driver looks for."""
    if not isinstance(value, np.ndarray):
        raise InputError(f"input '{name}' is a {type(value).__name__}, a NumPy array of type {dtype} was expected")
    if value.dtype != dtype:
        if value.dtype.newbyteorder("=") != dtype:
            raise InputError(f"input '{name}' has type {value.dtype}, the model takes {dtype}")
        value = value.astype(dtype)
    if not value.flags.c_contiguous or not value.flags.aligned:
        value = np.array(value, dtype, order="C")
    return value if value.dtype is dtype else value.view(dtype)
