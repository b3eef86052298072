"""Bodies of native control flow: how the driver ties their inputs and outputs to the plan around them, and what a run of them changes."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import driver_abi as dv
from ..ir.plan import BodyInput, BodyOutput, ControlStep, Plan
from .tables import PlanTables, address, numpy_type, words

INPUTS = {"captured": dv.INPUT_CAPTURED, "carried": dv.INPUT_CARRIED, "slice": dv.INPUT_SLICE, "iteration": dv.INPUT_ITERATION, "condition": dv.INPUT_CONDITION}
OUTPUTS = {"result": dv.OUTPUT_RESULT, "carried": dv.OUTPUT_CARRIED, "stack": dv.OUTPUT_STACK, "condition": dv.OUTPUT_CONDITION}
SHARED = (dv.KERNELS, dv.THREADS, dv.STATE, dv.ARGUMENTS, dv.ARGUMENT_STRIDE, dv.CREW, dv.ALLOCATE, dv.RELEASE)  # words that are the same in all contexts


class BodyTables(PlanTables):
    """A body as the driver reads it.

    Args:
        identity: its position among the whole plan's bodies.
        parent: the context that its step belongs to: 0 for the whole plan, k + 1 for body k.
        outer: the tables of that context.
        step: position of the control step there.
    """

    def __init__(self, plan: Plan, identity: int, parent: int, outer: PlanTables, step: int, constants: Sequence[np.ndarray]) -> None:
        super().__init__(plan, constants)
        self.identity, self.parent, self.outer, self.step = identity, parent, outer, step
        control = outer.plan.steps[step]
        assert isinstance(control, ControlStep)
        self.control = control
        self.given = 0
        self.loop_words = dv.LOOP_WORDS
        self._first_list = dv.BODY_WORDS + len(control.inputs) * dv.INPUT_WORDS + len(control.outputs) * dv.OUTPUT_WORDS
        self._lists: list[int] = []
        broken = "broken" in plan.metadata
        rows = [] if broken else self._rows()
        at_sizes = self._list([w for port, dim, number in plan.sizes for w in (self._dims[port] + dim, number)])
        at_checks = self._list([w for c in plan.checks for w in (self._dims[c.input] + c.dim, c.number)])
        at_conditions = self._list([c.number for c in plan.conditions])
        head = [len(control.inputs), len(control.outputs), at_sizes, len(plan.sizes), at_checks, len(plan.checks), at_conditions, len(plan.conditions), plan.scratch,
                plan.segments[0] if plan.segments else 0, int(broken)]
        self.body = words([*head, *rows, *self._lists])

    def _list(self, values: Sequence[int]) -> int:
        at = self._first_list + len(self._lists)
        self._lists += values
        return at

    def _rows(self) -> list[int]:
        carried = []
        for o in self.control.outputs:
            if o.kind == "carried":
                carried.append(self.loop_words)
                self.loop_words += dv.CARRIED_DIMS + len(self.plan.buffers[self.plan.outputs[self.control.outputs.index(o)].buffer].shape)
        rows: list[int] = []
        self._dims: list[int] = []
        states = iter(carried)
        block = self.outer.blocks[self.step] + 2 * len(self.control.outputs)
        for k, i in enumerate(self.control.inputs):
            rows += self._input(k, i, next(states) if i.kind == "carried" else 0, block + k)
        states = iter(carried)
        for k, o in enumerate(self.control.outputs):
            rows += self._output(k, o, next(states) if o.kind == "carried" else 0)
        return rows

    def _input(self, k: int, i: BodyInput, state: int, block: int) -> tuple[int, ...]:
        port = self.plan.inputs[k]
        spec = self.plan.buffers[port.buffer]
        slots = [j for j, b in enumerate(self.plan.buffers) if b.storage == "input" and b.index == k]
        outside = self.outer.plan.buffers[i.buffer].shape if i.buffer >= 0 else ()
        self._dims.append(self.given)
        self.given += len(spec.shape)
        return (INPUTS[i.kind], i.buffer, state, i.axis, int(i.backwards), len(spec.shape), self._dims[k], self._list(slots), len(slots), self._list(outside),
                numpy_type(spec).itemsize, block)

    def _output(self, k: int, o: BodyOutput, state: int) -> tuple[int, ...]:
        port = self.plan.outputs[k]
        spec = self.plan.buffers[port.buffer]
        bound = (spec.storage, spec.index) == ("output", k)
        slots = [j for j, b in enumerate(self.plan.buffers) if b.storage == "output" and b.index == k]
        target = self.outer.plan.buffers[o.buffer] if o.buffer >= 0 else None
        fixed = target is not None and target.storage != "host"
        outside = self.outer.aliases[target.index] if target is not None and not fixed else []
        if o.kind == "stack":
            state, self.loop_words = self.loop_words, self.loop_words + dv.STACK_DIMS + len(spec.shape)
        # One that nothing wants has no sizes outside to agree with.
        dims = o.dims if target is not None else ((-1, False),) * (len(spec.shape) + 1)
        return (OUTPUTS[o.kind], int(bound), port.buffer, len(spec.shape), spec.bytes, self._list(slots), len(slots), self._list(spec.shape), o.buffer, int(fixed),
                self._list(outside), len(outside), self._list([w for number, sets in dims for w in (number, int(sets))]), self.outer.blocks[self.step] + 2 * k, state,
                o.axis, int(o.backwards), numpy_type(spec).itemsize)


def body_tables(root: PlanTables, constants: Sequence[np.ndarray]) -> list[BodyTables]:
    """The tables of all bodies of a plan, in its order."""
    found: dict[int, BodyTables] = {}
    waiting: list[tuple[int, PlanTables]] = [(0, root)]
    while waiting:
        context, outer = waiting.pop()
        for k, s in enumerate(outer.plan.steps):
            for b in s.bodies if isinstance(s, ControlStep) else ():
                found[b] = BodyTables(root.plan.bodies[b], b, context, outer, k, constants)
                waiting.append((b + 1, found[b]))
    return [found[b] for b in range(len(root.plan.bodies))]


class BodyFrame:
    """What runs of a body change, and its context.

    Args:
        root: context of the whole plan, filled in.
    """

    def __init__(self, tables: BodyTables, root: np.ndarray) -> None:
        self.tables = tables
        self.numbers = words(tables.plan.numbers)
        self.pointers = tables.pointers.copy()
        self.given = np.zeros(tables.given + 1, np.int64)
        self.loop = np.zeros(tables.loop_words, np.int64)
        self.context = c = np.zeros(dv.CONTEXT_WORDS, np.int64)
        c[list(SHARED)] = root[list(SHARED)]
        tables.fill(c, self.numbers, self.pointers)
        c[dv.BODY], c[dv.GIVEN], c[dv.LOOP] = address(tables.body), address(self.given), address(self.loop)
        c[dv.PARENT_STEP], c[dv.IDENTITY] = tables.step, tables.identity + 1
