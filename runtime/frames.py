"""The native side of a run: tables of a plan, frames that bind it to input shapes, arenas.

A `Frame` holds what one run changes (numbers, pointers, argument areas) and the context through which the driver finds everything. Frames are bound to input
shapes and kept; arenas hold memory and are kept apart, so that many known shapes cost little.
"""
from __future__ import annotations

import array
import ctypes
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import driver_abi as dv
from ..ir.errors import InputError, TargetError
from ..ir.plan import Plan
from .arrays import ALIGNMENT, aligned_empty, allocation, allocator, data_offset
from .bodies import BodyFrame, BodyTables, body_tables
from .objects import LoadedObjects
from .tables import PlanTables, address, numpy_type, words
from .threads import OpenMP

_PLACES = itertools.count()


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


class Tables(PlanTables):
    """A whole plan as the driver reads it; shared by all frames.

    Args:
        constants: arrays of the plan's constants, aligned and row-major.
        code: the loaded kernels and driver.
        driver: the driver's symbol.
    """

    def __init__(self, plan: Plan, constants: Sequence[np.ndarray], code: LoadedObjects, driver: str, threads: int, openmp: OpenMP | None) -> None:
        super().__init__(plan, constants)
        self.constants, self.code, self.threads, self.openmp = constants, code, threads, openmp
        self.driver = code.address(driver)
        self.kernels = words([code.address(s) for s in plan.kernels])
        self.inputs = [self._binding(k, p.name, "input", p.buffer) for k, p in enumerate(plan.inputs) if p.buffer >= 0]
        self.outputs = [self._binding(k, p.name, "output", p.buffer) for k, p in enumerate(plan.outputs)
                        if p.buffer >= 0 and (plan.buffers[p.buffer].storage, plan.buffers[p.buffer].index) == ("output", k)]
        first = [b for b in enumerate(plan.buffers) if b[1].storage == "arena" and b[1].index == 0]
        self.arena_positions = np.array([k for k, _ in first], np.int64)
        self.arena_offsets = np.array([b.offset for _, b in first], np.int64)
        sized = {port for port, _, _ in plan.sizes} | {c.input for c in plan.checks}
        self.host_arrays = [k for k, p in enumerate(plan.inputs) if p.buffer < 0 and k in sized]  # string tensors, whose sizes count like others'
        self.bodies = body_tables(self, constants)
        self.argument_words = max(t.argument_words for t in (self, *self.bodies))
        self.block_counts = [t.block_count for t in (self, *self.bodies)]

    def _binding(self, port: int, name: str, storage: str, buffer: int) -> Binding:
        same = tuple(k for k, b in enumerate(self.plan.buffers) if b.storage == storage and b.index == port)
        spec = self.plan.buffers[buffer]
        return Binding(port, name, same, spec.shape, numpy_type(spec))

    @property
    def bindings(self) -> list[Binding]:
        return self.inputs + self.outputs


class Arena:
    """Memory for the intermediates and scratch of one run at a time.

    Args:
        blocks: how many blocks the driver may fill.
    """

    def __init__(self, blocks: int) -> None:
        self.block: np.ndarray | None = None  # scratch, then segment 0
        self.place = next(_PLACES)  # changes with the block
        self.blocks = np.zeros(dv.BLOCK_WORDS * blocks + 1, np.int64)
        weakref.finalize(self, release_blocks, self.blocks)

    def reserve(self, bytes_: int) -> np.ndarray:
        """The main block, replaced by a larger one if it is too small."""
        if self.block is None or self.block.size < bytes_:
            self.block, self.place = None, next(_PLACES)
            self.block = aligned_empty(max(bytes_, ALIGNMENT))
        return self.block


def release_blocks(blocks: np.ndarray) -> None:
    """Give back what the driver allocated."""
    release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(allocation()[1])
    for at in blocks[:-1:dv.BLOCK_WORDS]:
        if at:
            release(int(at))
    blocks[:] = 0


class Frame:
    """One run's state. `bind` fits it to input shapes, `attach` to an arena; then the driver may run `record`."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        plan = tables.plan
        self.shapes: tuple[tuple[int, ...], ...] | None = None
        self.results: list[tuple[Callable[..., np.ndarray], tuple[int, ...], np.dtype]] = []  # how to make each output written in place
        self.place = -1  # of the arena block that pointers refer to
        self.numbers = words(plan.numbers)
        self.pointers = tables.pointers.copy()
        self.state = array.array("q", [0] * dv.STATE_WORDS)
        self.objects = array.array("q", [0] * (len(tables.bindings) + 1))
        self.arguments = np.zeros(tables.threads * (tables.argument_words + dv.SPARE_WORDS), np.int64)
        self.crew = aligned_empty(dv.CREW_WORDS + tables.threads * dv.LINE_WORDS, np.dtype(np.int64))
        self.crew[:] = 0
        self.times: np.ndarray | None = None
        self.kept: list[object] = []  # arrays that the host made during a run
        slots: list[int] = []
        rows: list[int] = []
        dims = 0
        for b in tables.bindings:
            rows += (len(slots), len(b.buffers), len(b.shape), dims, id(b.dtype))
            slots += b.buffers
            dims += len(b.shape)
        self.slots, self.bindings, self.dims = words(slots), words(rows), np.zeros(dims + 1, np.int64)
        self.context = np.zeros(dv.CONTEXT_WORDS, np.int64)
        self._modes = np.array([dv.MODE_RUN, dv.MODE_TEAM, dv.MODE_EVALUATE], np.int64)
        base, modes = address(self.context), address(self._modes)
        self._records = np.array([base, modes, base, modes + 8, base, modes + 16], np.int64)
        self.record = address(self._records)
        self.evaluate_record = self.record + 32
        self._fill_context()
        self.bodies = [BodyFrame(t, self.context) for t in tables.bodies]
        self._link_bodies()

    def _fill_context(self) -> None:
        t, c = self.tables, self.context
        t.fill(c, self.numbers, self.pointers)
        c[dv.KERNELS], c[dv.THREADS] = address(t.kernels), t.threads
        c[dv.STATE] = self.state.buffer_info()[0]
        c[dv.ARGUMENTS], c[dv.ARGUMENT_STRIDE] = address(self.arguments), t.argument_words + dv.SPARE_WORDS
        c[dv.DRIVER], c[dv.TEAM] = t.driver, self.record + 16
        c[dv.CREW] = address(self.crew)
        c[dv.ALLOCATE], c[dv.RELEASE] = allocation()
        if t.openmp is not None:
            c[dv.PARALLEL], c[dv.YIELD], c[dv.THREAD_NUMBER] = t.openmp.parallel, t.openmp.yield_, t.openmp.thread_number
        c[dv.OBJECTS], c[dv.BINDINGS], c[dv.BINDING_COUNT] = self.objects.buffer_info()[0], address(self.bindings), len(t.bindings)
        c[dv.SLOTS], c[dv.DIMS], c[dv.DATA_OFFSET] = address(self.slots), address(self.dims), data_offset()

    def _link_bodies(self) -> None:
        """Tell every context where the others are."""
        contexts = [self.context, *(b.context for b in self.bodies)]
        self._addresses = words([address(b.context) for b in self.bodies])
        for c, t in zip(contexts, (self.tables, *self.tables.bodies), strict=True):
            c[dv.BODIES] = address(self._addresses)
            c[dv.PARENT] = address(contexts[t.parent]) if isinstance(t, BodyTables) else 0

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
        by_port: dict[int, Sequence[int]] = {}
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
        self.shapes = shapes

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
        self.context[dv.FIRST_SCRATCH], self.context[dv.FIRST_STRIDE] = base, stride
        at = address(arena.blocks)
        for context, count in zip((self.context, *(b.context for b in self.bodies)), t.block_counts, strict=True):
            context[dv.BLOCKS] = at
            at += 8 * dv.BLOCK_WORDS * count
        self.pointers[t.arena_positions] = self.numbers[t.arena_offsets] + (base + t.threads * stride)
        self.place = arena.place

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
