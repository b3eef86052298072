"""A plan's steps, size program and segments as tables of words for the driver."""
from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ..ir import driver_abi as dv
from ..ir import dtypes as dt
from ..ir.plan import OPCODE, BufferSpec, CheckStep, ControlStep, HostStep, KernelStep, Plan, SegmentStep, SizeStep, Step
from .arrays import data_offset


def address(a: np.ndarray) -> int:
    """Where an array's elements start: what `a.ctypes.data` is, without the object that it makes."""
    return ctypes.c_size_t.from_address(id(a) + data_offset()).value


def words(values: Sequence[int]) -> np.ndarray:
    """int64 table, never empty."""
    return np.array(list(values) or [0], np.int64)


def numpy_type(spec: BufferSpec) -> np.dtype:
    """NumPy type of a buffer's elements."""
    return dt.BY_SHORT[spec.dtype].numpy


class PlanTables:
    """What the driver reads of one plan, whole or a body.

    Args:
        constants: arrays of the whole plan's constants.
    """

    def __init__(self, plan: Plan, constants: Sequence[np.ndarray]) -> None:
        self.plan = plan
        self.program = words([w for i in plan.program for w in (OPCODE[i.operator], i.target, i.a, i.b, i.c)])
        self.argument_words = 1
        self.block_count = 2 * len(plan.segments)
        self.blocks: dict[int, int] = {}  # control step -> the first of its blocks: two for each output, then one for each input
        rows: list[int] = []
        operands: list[int] = []
        for k, s in enumerate(plan.steps):
            rows += self._row(k, s, operands)
        self.steps, self.operands = words(rows), words(operands)
        self.segments = words(self._segments())
        self.aliases: dict[int, list[int]] = {}
        for k, b in enumerate(plan.buffers):
            if b.storage == "host":
                self.aliases.setdefault(b.index, []).append(k)
        self.pointers = words([address(constants[b.index]) if b.storage == "constant" else 0 for b in plan.buffers])

    def _row(self, k: int, s: Step, operands: list[int]) -> tuple[int, ...]:
        """A step's row; its operands are appended."""
        if isinstance(s, KernelStep):
            first = len(operands)
            operands += (*s.buffers, *s.parameters)
            self.argument_words = max(self.argument_words, len(s.buffers) + len(s.parameters))
            return dv.STEP_KERNEL, s.kernel, first, len(s.buffers), len(s.parameters), s.units, s.flops, s.bytes
        if isinstance(s, SizeStep):
            return dv.STEP_SIZE, s.first, s.last, 0, 0, 0, -1, -1
        if isinstance(s, ControlStep):
            self.blocks[k] = self.block_count
            self.block_count += 2 * len(s.outputs) + len(s.inputs)
            kind = {"If": dv.STEP_IF, "Loop": dv.STEP_LOOP, "Scan": dv.STEP_SCAN}[s.kind]
            second = s.bodies[1] if s.kind == "If" else s.limit
            return kind, s.condition, s.bodies[0], second, self._bytes(s.condition), self._bytes(s.limit), -1, -1
        if isinstance(s, CheckStep):
            return dv.STEP_CHECK, s.number, s.condition, 0, 0, 0, -1, -1
        if isinstance(s, SegmentStep):
            return dv.STEP_SEGMENT, s.segment, 0, 0, 0, 0, -1, -1
        assert isinstance(s, HostStep)
        return dv.STEP_HOST, 0, 0, 0, 0, 0, -1, -1

    def _bytes(self, buffer: int) -> int:
        return self.plan.buffers[buffer].bytes if buffer >= 0 else -1

    def _segments(self) -> list[int]:
        plan = self.plan
        found: list[int] = []
        pairs: list[int] = []
        for s, number in enumerate(plan.segments):
            inside = [w for k, b in enumerate(plan.buffers) if b.storage == "arena" and b.index == s for w in (k, b.offset)]
            scratch = plan.segment_scratch[s] if s < len(plan.segment_scratch) else plan.scratch
            found += (number, scratch, dv.SEGMENT_WORDS * len(plan.segments) + len(pairs), len(inside) // 2)
            pairs += inside
        return found + pairs

    def fill(self, context: np.ndarray, numbers: np.ndarray, pointers: np.ndarray) -> None:
        """Enter the tables and a frame's own vectors into a context."""
        context[dv.SELF] = address(context)
        context[dv.STEPS], context[dv.STEP_COUNT] = address(self.steps), len(self.plan.steps)
        context[dv.OPERANDS], context[dv.PROGRAM], context[dv.EAGER] = address(self.operands), address(self.program), self.plan.eager
        context[dv.NUMBERS], context[dv.POINTERS] = address(numbers), address(pointers)
        context[dv.SEGMENTS], context[dv.SEGMENT_COUNT] = address(self.segments), len(self.plan.segments)
