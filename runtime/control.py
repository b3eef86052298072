"""Control flow that the driver cannot run itself: the host decides, each body is an executor of its own."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import InputError

Body = Callable[[Sequence[object]], list[object]]
Settings = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Refusal:
    """A body that cannot run with the types it gets."""

    reason: str

    def run(self, inputs: Sequence[object]) -> list[object]:
        raise InputError(f"the branch that these inputs choose cannot run: {self.reason}")


@dataclass(frozen=True)
class ControlRunner:
    """A control-flow operator with runnable bodies; called with the node's inputs, gives its wanted outputs.

    Args:
        kind: `If`, `Loop`, `Scan` or `SequenceMap`.
        bodies: each takes the body's inputs and returns its outputs.
        settings: as in `ir.ops.control.ControlFlow`.
    """

    kind: str
    bodies: tuple[Body, ...]
    settings: Settings

    def __call__(self, *inputs: object) -> list[object]:
        count = self.settings["captures"][0]
        own, captured = (inputs[:-count], list(inputs[-count:])) if count else (inputs, [])
        results = {"If": self.choose, "Loop": self.loop, "Scan": self.scan, "SequenceMap": self.sequence_map}[self.kind](list(own), captured)
        return [r if w else None for r, w in zip(results, self.settings["wanted"])]

    def choose(self, own: list[object], captured: list[object]) -> list[object]:
        condition = np.asarray(own[0])
        if condition.size != 1:
            raise InputError(f"the condition of If has {condition.size} elements, one was expected")
        return self.bodies[0 if bool(condition.reshape(())) else 1](captured)

    def loop(self, own: list[object], captured: list[object]) -> list[object]:
        carried_count, ranks = self.settings["carried"][0], self.settings["given"]
        limit = np.iinfo(np.int64).max if own[0] is None else int(np.asarray(own[0]).reshape(()))
        going = True if own[1] is None else bool(np.asarray(own[1]).reshape(()))
        carried = list(own[2:])
        collected: list[list[object]] | None = None
        step = 0
        while going and step < limit:
            outs = self.bodies[0]([np.full((1,) * ranks[0], step, np.int64), np.full((1,) * ranks[1], going), *carried, *captured])
            going = bool(np.asarray(outs[0]).reshape(()))
            carried = outs[1:1 + carried_count]
            rest = outs[1 + carried_count:]
            collected = [[] for _ in rest] if collected is None else collected
            for c, r in zip(collected, rest):
                c.append(r)
            step += 1
        stacks = [self._stack(c, 0) for c in collected] if collected is not None else self._nothing(carried_count)
        return carried + stacks

    def sequence_map(self, own: list[object], captured: list[object]) -> list[object]:
        flags = self.settings["sequences"]
        count = len(own[0])  # type: ignore[arg-type]
        if any(each and len(x) != count for x, each in zip(own, flags)):  # type: ignore[arg-type]
            raise InputError(f"the sequences have {[len(x) for x, each in zip(own, flags) if each]} elements; equal numbers were expected")  # type: ignore[arg-type]
        found = [self.bodies[0]([*(x[k] if each else x for x, each in zip(own, flags)), *captured]) for k in range(count)]  # type: ignore[index]
        return [[f[j] for f in found] for j in range(len(self.settings["wanted"]))]

    def _nothing(self, first: int) -> list[object]:
        """Stacks from result `first` on of a loop that never ran: empty, of the ranks that the results have."""
        return [np.empty((0,) * rank, np.float32) for rank in self.settings["ranks"][first:]]

    @staticmethod
    def _stack(items: Sequence[object], axis: int) -> object:
        arrays = [np.asarray(i) for i in items]
        if len({a.shape for a in arrays}) > 1:
            raise InputError(f"results of a loop's iterations have different shapes: {sorted({a.shape for a in arrays})}; they cannot be stacked")
        return np.stack(arrays, axis)

    def scan(self, own: list[object], captured: list[object]) -> list[object]:
        if not self.settings["batched"][0]:
            return self._scan(own, captured)
        lengths, rest = own[0], own[1:]
        batch = len(np.asarray(rest[0]))
        rows = [self._scan([np.asarray(r)[b] for r in rest], captured, None if lengths is None else int(np.asarray(lengths)[b])) for b in range(batch)]
        return [np.stack([np.asarray(r[k]) for r in rows]) for k in range(len(rows[0]))]

    def _scan(self, own: list[object], captured: list[object], length: int | None = None) -> list[object]:
        states = list(own[:self.settings["states"][0]])
        state_count = len(states)
        sequences = [np.moveaxis(np.asarray(a), axis, 0) for a, axis in zip(own[state_count:], self.settings["input_axes"])]
        full = len(sequences[0])
        if any(len(s) != full for s in sequences):
            raise InputError(f"the scanned inputs have {[len(s) for s in sequences]} elements along their axes; equal numbers were expected")
        count = full if length is None else length
        sequences = [s[:count][::-1] if backwards else s[:count] for s, backwards in zip(sequences, self.settings["input_directions"])]
        collected: list[list[np.ndarray]] = [[] for _ in self.settings["output_axes"]]
        for k in range(count):
            outs = self.bodies[0]([*states, *(np.asarray(s[k], order="C") for s in sequences), *captured])
            states = outs[:state_count]
            for c, o in zip(collected, outs[state_count:]):
                c.append(np.asarray(o))
        stacks: list[object] = []
        for c, axis, backwards in zip(collected, self.settings["output_axes"], self.settings["output_directions"]):
            items = c[::-1] if backwards else c
            if not items:
                stacks.append(self._nothing(state_count + len(stacks))[0])
                continue
            items = items + [np.zeros_like(items[0])] * (full - count)
            stacks.append(np.stack(items, axis))
        return states + stacks
