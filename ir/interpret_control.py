"""Control flow in the interpreter: If, Loop and Scan by the words of the specification, each body run as a graph."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from .graph import Graph, TensorType
from .ops.control import ControlFlow

RunBody = Callable[[Graph, Sequence[object]], list[object]]


def run_control(step: ControlFlow, inputs: Sequence[object], run: RunBody) -> list[object]:
    """The outputs of a control-flow operator.

    Args:
        inputs: of the node; explicit captures at the end.
        run: runs a body on its inputs.
    """
    settings = dict(step.settings)
    count = len(inputs) - settings["captures"][0]
    own, captured = list(inputs[:count]), list(inputs[count:])
    if step.kind == "If":
        return run(step.bodies[0 if np.asarray(own[0]).reshape(()) else 1], captured)
    body = step.bodies[0]

    def call(args: Sequence[object]) -> list[object]:
        return run(body, [*args, *captured])
    if step.kind == "SequenceMap":
        return _sequence_map(own, settings["sequences"], call, len(body.outputs))
    if step.kind == "Loop":
        return _loop(body, own, settings["carried"][0], settings["given"], call)
    if not settings["batched"][0]:
        return _scan(body, own, settings, call, None)
    lengths, rest = own[0], [np.asarray(a) for a in own[1:]]
    rows = [_scan(body, [a[b] for a in rest], settings, call, None if lengths is None else int(np.asarray(lengths)[b])) for b in range(len(rest[0]))]
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _sequence_map(own: list[object], sequences: tuple[int, ...], call: Callable[[Sequence[object]], list[object]], outputs: int) -> list[object]:
    """Run for each element of the first sequence."""
    lists = [cast("Sequence[object]", x) if each else None for x, each in zip(own, sequences, strict=True)]
    found = [call([x if s is None else s[k] for x, s in zip(own, lists, strict=True)]) for k in range(len(cast("Sequence[object]", own[0])))]
    return [[f[j] for f in found] for j in range(outputs)]


def _loop(body: Graph, own: list[object], carried: int, ranks: tuple[int, ...], call: Callable[[Sequence[object]], list[object]]) -> list[object]:
    """Run while the condition holds, at most M times; an absent M or condition does not stop it."""
    trips = None if own[0] is None else int(np.asarray(own[0]).reshape(()))
    going = own[1] is None or bool(np.asarray(own[1]).reshape(()))
    state = own[2:]
    stacks: list[list[np.ndarray]] = [[] for _ in body.outputs[1 + carried:]]
    k = 0
    while going and (trips is None or k < trips):
        found = call([np.full((1,) * ranks[0], k, np.int64), np.full((1,) * ranks[1], going), *state])
        going = bool(np.asarray(found[0]).reshape(()))
        state = found[1:1 + carried]
        for stack, item in zip(stacks, found[1 + carried:], strict=True):
            stack.append(np.asarray(item))
        k += 1
    return [*state, *(_stack(s, body, 1 + carried + j, 0) for j, s in enumerate(stacks))]


def _scan(body: Graph, own: list[object], settings: dict[str, tuple[int, ...]], call: Callable[[Sequence[object]], list[object]],
          length: int | None) -> list[object]:
    """Run over slices of the scanned inputs, forwards or backwards; `length` cuts the sequence (Scan-8), what is beyond it stays zero."""
    states = settings["states"][0]
    state, scanned = own[:states], [np.moveaxis(np.asarray(a), axis, 0) for a, axis in zip(own[states:], settings["input_axes"], strict=True)]
    full = len(scanned[0])
    used = full if length is None else length
    scanned = [a[:used][::-1] if backwards else a[:used] for a, backwards in zip(scanned, settings["input_directions"], strict=True)]
    stacks: list[list[np.ndarray]] = [[] for _ in settings["output_axes"]]
    for k in range(used):
        found = call([*state, *(a[k] for a in scanned)])
        state = found[:states]
        for stack, item in zip(stacks, found[states:], strict=True):
            stack.append(np.asarray(item))
    out = list(state)
    for j, (stack, axis, backwards) in enumerate(zip(stacks, settings["output_axes"], settings["output_directions"], strict=True)):
        items = stack[::-1] if backwards else stack
        items = items + [np.zeros_like(items[0])] * (full - used) if items else items
        out.append(_stack(items, body, states + j, axis))
    return out


def _stack(items: Sequence[np.ndarray], body: Graph, output: int, axis: int) -> np.ndarray:
    """Results of all rounds along a new axis; of no rounds an empty array of the body's type, unknown sizes being 0."""
    if items:
        return np.stack(items, axis)
    t = body.outputs[output].type
    if not isinstance(t, TensorType):
        return np.zeros(0, np.float32)
    shape = [d.value if d.is_const else 0 for d in t.shape or ()]
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 0)
    return np.zeros(shape, t.dtype.numpy)
