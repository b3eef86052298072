"""The native side of a run: tables of a plan, frames that bind it to input shapes, arenas.

A `Frame` holds what one run changes (numbers, pointers, argument areas) and the context through which the driver finds everything. Frames are bound to input
shapes and kept; arenas hold memory and are kept apart, so that many known shapes cost little.
"""
from __future__ import annotations

import array
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import driver_abi as dv
from ..ir import dtypes as dt
from ..ir.errors import InputError, TargetError
from ..ir.plan import OPCODE, BufferSpec, HostStep, KernelStep, Plan, SegmentStep, SizeStep
from .arrays import ALIGNMENT, aligned_empty, allocator, data_offset
from .objects import LoadedObjects
from .threads import OpenMP

_PLACES = itertools.count()


def address(a: np.ndarray) -> int:
    """Where an array's elements start."""
    return a.ctypes.data


def _words(values: Sequence[int]) -> np.ndarray:
    """int64 table, never empty."""
    return np.array(list(values) or [0], np.int64)


def round_up(bytes_: int) -> int:
    return -(-bytes_ // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, eq=False)
class Binding:
    """A host array that the driver enters itself: model inputs first, then outputs written in place.

    Args:
        port: position among the model's inputs or outputs.
        name: for messages.
        buffers: positions of the buffers that it is.
        shape: positions of its sizes in the numbers.
        dtype: its NumPy type.
    """

    port: int
    name: str
    buffers: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype


class Tables:
    """A plan as the driver reads it; shared by all frames.

    Args:
        constants: arrays of the plan's constants, aligned and row-major.
        code: the loaded kernels and driver.
        driver: the driver's symbol.
    """

    def __init__(self, plan: Plan, constants: Sequence[np.ndarray], code: LoadedObjects, driver: str, threads: int, openmp: OpenMP | None) -> None:
        self.plan, self.constants, self.code, self.threads, self.openmp = plan, constants, code, threads, openmp
        self.driver = code.address(driver)
        self.kernels = _words([code.address(s) for s in plan.kernels])
        self.program = _words([w for i in plan.program for w in (OPCODE[i.operator], i.target, i.a, i.b, i.c)])
        steps: list[int] = []
        operands: list[int] = []
        self.argument_words = 1
        for s in plan.steps:
            if isinstance(s, KernelStep):
                steps += (dv.STEP_KERNEL, s.kernel, len(operands), len(s.buffers), len(s.parameters), s.units, s.flops, s.bytes)
                operands += (*s.buffers, *s.parameters)
                self.argument_words = max(self.argument_words, len(s.buffers) + len(s.parameters))
            elif isinstance(s, SizeStep):
                steps += (dv.STEP_SIZE, s.first, s.last, 0, 0, 0, -1, -1)
            else:
                assert isinstance(s, (SegmentStep, HostStep))
                steps += (dv.STEP_SEGMENT if isinstance(s, SegmentStep) else dv.STEP_HOST, 0, 0, 0, 0, 0, -1, -1)
        self.steps, self.operands = _words(steps), _words(operands)
        self.inputs = [self._binding(k, p.name, "input", p.buffer) for k, p in enumerate(plan.inputs) if p.buffer >= 0]
        self.outputs = [self._binding(k, p.name, "output", p.buffer) for k, p in enumerate(plan.outputs)
                        if p.buffer >= 0 and (plan.buffers[p.buffer].storage, plan.buffers[p.buffer].index) == ("output", k)]
        self.arena = [(k, b) for k, b in enumerate(plan.buffers) if b.storage == "arena"]
        self.arena_positions = np.array([k for k, b in self.arena if b.index == 0], np.int64)
        self.arena_offsets = np.array([b.offset for _, b in self.arena if b.index == 0], np.int64)
        self.host_aliases: dict[int, list[int]] = {}
        for k, b in enumerate(plan.buffers):
            if b.storage == "host":
                self.host_aliases.setdefault(b.index, []).append(k)
        self.pointers = _words([address(constants[b.index]) if b.storage == "constant" else 0 for b in plan.buffers])
        self.dynamic = any(isinstance(s, SizeStep) for s in plan.steps)
        sized = {port for port, _, _ in plan.sizes} | {c.input for c in plan.checks}
        self.host_arrays = [k for k, p in enumerate(plan.inputs) if p.buffer < 0 and k in sized]  # string tensors, whose sizes count like others'
        self.units = [(s.units, s.flops, s.bytes) for s in plan.steps if isinstance(s, KernelStep)]

    def _binding(self, port: int, name: str, storage: str, buffer: int) -> Binding:
        same = tuple(k for k, b in enumerate(self.plan.buffers) if b.storage == storage and b.index == port)
        spec = self.plan.buffers[buffer]
        return Binding(port, name, same, spec.shape, numpy_type(spec))

    @property
    def bindings(self) -> list[Binding]:
        return self.inputs + self.outputs


def numpy_type(spec: BufferSpec) -> np.dtype:
    """NumPy type of a buffer's elements."""
    return dt.BY_SHORT[spec.dtype].numpy


class Arena:
    """Memory for the intermediates and scratch of one run at a time."""

    def __init__(self) -> None:
        self.block: np.ndarray | None = None  # scratch, then segment 0
        self.place = next(_PLACES)  # changes with the block
        self.segments: dict[int, np.ndarray] = {}

    def reserve(self, bytes_: int) -> np.ndarray:
        """The main block, replaced by a larger one if it is too small."""
        if self.block is None or self.block.size < bytes_:
            self.block, self.place = None, next(_PLACES)
            self.block = aligned_empty(max(bytes_, ALIGNMENT))
        return self.block

    def reserve_segment(self, segment: int, bytes_: int) -> np.ndarray:
        found = self.segments.get(segment)
        if found is None or found.size < bytes_:
            self.segments.pop(segment, None)
            found = self.segments[segment] = aligned_empty(max(bytes_, ALIGNMENT))
        return found


class Frame:
    """One run's state. `bind` fits it to input shapes, `attach` to an arena; then the driver may run `record`."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        plan = tables.plan
        self.shapes: tuple[tuple[int, ...], ...] | None = None
        self.results: list[tuple[Callable[..., np.ndarray], tuple[int, ...], np.dtype]] = []  # how to make each output written in place
        self.place = -1  # of the arena block that pointers refer to
        self.numbers = _words(plan.numbers)
        self.pointers = tables.pointers.copy()
        self.state = array.array("q", [0] * dv.STATE_WORDS)
        self.objects = array.array("q", [0] * (len(tables.bindings) + 1))
        self.arguments = np.zeros(tables.threads * (tables.argument_words + dv.SPARE_WORDS), np.int64)
        self.counters = np.zeros(len(plan.steps) * (tables.threads + 1) + 1, np.int64)
        self.times: np.ndarray | None = None
        self.kept: list[object] = []  # arrays that the host made during a run
        slots: list[int] = []
        rows: list[int] = []
        dims = 0
        for b in tables.bindings:
            rows += (len(slots), len(b.buffers), len(b.shape), dims, id(b.dtype))
            slots += b.buffers
            dims += len(b.shape)
        self.slots, self.bindings, self.dims = _words(slots), _words(rows), np.zeros(dims + 1, np.int64)
        self.context = np.zeros(dv.CONTEXT_WORDS, np.int64)
        self._modes = np.array([dv.MODE_RUN, dv.MODE_TEAM, dv.MODE_EVALUATE], np.int64)
        base, modes = address(self.context), address(self._modes)
        self._records = np.array([base, modes, base, modes + 8, base, modes + 16], np.int64)
        self.record = address(self._records)
        self.evaluate_record = self.record + 32
        self._fill_context()

    def _fill_context(self) -> None:
        t, c = self.tables, self.context
        c[dv.STEPS], c[dv.STEP_COUNT] = address(t.steps), len(t.plan.steps)
        c[dv.OPERANDS], c[dv.PROGRAM], c[dv.EAGER] = address(t.operands), address(t.program), t.plan.eager
        c[dv.NUMBERS], c[dv.POINTERS], c[dv.KERNELS] = address(self.numbers), address(self.pointers), address(t.kernels)
        c[dv.STATE] = self.state.buffer_info()[0]
        c[dv.ARGUMENTS], c[dv.ARGUMENT_STRIDE] = address(self.arguments), t.argument_words + dv.SPARE_WORDS
        c[dv.DRIVER], c[dv.TEAM] = t.driver, self.record + 16
        if t.openmp is not None:
            c[dv.PARALLEL], c[dv.YIELD], c[dv.THREAD_NUMBER] = t.openmp.parallel, t.openmp.yield_, t.openmp.thread_number
            c[dv.COUNTERS] = address(self.counters)
        c[dv.OBJECTS], c[dv.BINDINGS], c[dv.BINDING_COUNT] = self.objects.buffer_info()[0], address(self.bindings), len(t.bindings)
        c[dv.SLOTS], c[dv.DIMS], c[dv.DATA_OFFSET] = address(self.slots), address(self.dims), data_offset()

    # ---- shapes
    def bind(self, shapes: tuple[tuple[int, ...], ...], evaluate: object) -> None:
        """Compute all sizes that follow from the input shapes.

        Args:
            shapes: one for each tensor input, then those of string tensors that sizes are read from.
            evaluate: calls the driver with a record's address.

        Raises:
            InputError: a rank or size that the model does not allow.
        """
        t, plan = self.tables, self.tables.plan
        self.shapes, self.place = None, -1
        by_port = {}
        by_port.update(zip(t.host_arrays, shapes[len(t.inputs):], strict=True))
        for b, shape in zip(t.inputs, shapes, strict=False):
            if len(shape) != len(b.shape):
                raise InputError(f"input '{b.name}' has rank {len(shape)} (shape {list(shape)}), the model takes rank {len(b.shape)}")
            by_port[b.port] = shape
        self.numbers[:len(plan.numbers)] = plan.numbers
        for port, dim, number in plan.sizes:
            self.numbers[number] = by_port[port][dim]
        evaluate(self.evaluate_record)  # type: ignore[operator]
        for check in plan.checks:
            got, wanted = by_port[check.input][check.dim], int(self.numbers[check.number])
            if got != wanted:
                name = plan.inputs[check.input].name
                raise InputError(f"dimension {check.dim} of input '{name}' is {got}, {wanted} was expected (shape {list(by_port[check.input])})")
        for condition in plan.conditions:
            if not self.numbers[condition.number]:
                raise InputError(condition.reason)
        at = 0
        for b in t.bindings:
            self.dims[at:at + len(b.shape)] = self.numbers[list(b.shape)]
            at += len(b.shape)
        shaped = [(tuple(int(self.numbers[d]) for d in b.shape), b.dtype) for b in t.outputs]
        self.results = [(allocator(shape, dtype), shape, dtype) for shape, dtype in shaped]
        self.context[dv.THREADS] = t.threads if self._worth_threads() else 1
        self.shapes = shapes

    def _worth_threads(self) -> bool:
        """Whether any step is for more than one thread; sizes that the run itself computes count as large."""
        if self.tables.threads == 1:
            return False
        n = self.numbers
        return self.tables.dynamic or any(
            n[units] > 1 and not (flops >= 0 and bytes_ >= 0 and n[flops] < dv.SMALL_FLOPS and n[bytes_] < dv.SMALL_BYTES)
            for units, flops, bytes_ in self.tables.units)

    @property
    def scratch_stride(self) -> int:
        """Bytes of scratch of each thread, with a line between neighbours."""
        return round_up(int(self.numbers[self.tables.plan.scratch])) + ALIGNMENT

    @property
    def arena_bytes(self) -> int:
        """Bytes of scratch and of the first segment."""
        first = int(self.numbers[self.tables.plan.segments[0]]) if self.tables.plan.segments else 0
        return self.tables.threads * self.scratch_stride + round_up(first)

    # ---- memory
    def attach(self, arena: Arena) -> None:
        """Place scratch and the first segment in an arena."""
        block = arena.reserve(self.arena_bytes)
        base, stride, t = address(block), self.scratch_stride, self.tables
        self.context[dv.SCRATCH], self.context[dv.SCRATCH_STRIDE] = base, stride
        self.pointers[t.arena_positions] = self.numbers[t.arena_offsets] + (base + t.threads * stride)
        self.place = arena.place

    def attach_segment(self, arena: Arena, segment: int) -> None:
        """Place a later segment, whose size is known by now."""
        base = address(arena.reserve_segment(segment, int(self.numbers[self.tables.plan.segments[segment]])))
        for position, b in self.tables.arena:
            if b.index == segment:
                self.pointers[position] = base + self.numbers[b.offset]
        wanted = self.tables.plan.segment_scratch
        if segment < len(wanted) and self.numbers[wanted[segment]] + ALIGNMENT > self.context[dv.SCRATCH_STRIDE]:
            stride = round_up(int(self.numbers[wanted[segment]])) + ALIGNMENT
            self.context[dv.SCRATCH] = address(arena.reserve_segment(-segment, self.tables.threads * stride))
            self.context[dv.SCRATCH_STRIDE] = stride
            self.place = -1  # the next run starts with the first segment's scratch again

    def shape(self, buffer: int) -> tuple[int, ...]:
        """Sizes of a buffer now."""
        return tuple(int(self.numbers[d]) for d in self.tables.plan.buffers[buffer].shape)

    def set_clock(self, clock: int) -> None:
        """Have steps timed by the function at `clock` (0: not)."""
        if clock and self.times is None:
            self.times = np.zeros(2 * len(self.tables.plan.steps) + 1, np.int64)
            self.context[dv.TIMES] = address(self.times)
        if clock:
            self.times[:] = 0
        self.context[dv.CLOCK] = clock


def find_driver(symbols: Mapping[str, bytes]) -> str:
    """The driver's symbol among a model's objects.

    Raises:
        TargetError: there is none.
    """
    for s in symbols:
        if s.startswith("driver_"):
            return s
    raise TargetError("the objects of this model hold no driver; compile codegen.driver.driver_kernel() along with its kernels")
