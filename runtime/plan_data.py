"""Plans as JSON data: what containers hold."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir.plan import (
    BodyInput,
    BodyOutput,
    BufferSpec,
    CheckStep,
    Condition,
    ControlStep,
    HostStep,
    Instruction,
    KernelStep,
    Plan,
    Port,
    Preparation,
    SegmentStep,
    SizeCheck,
    SizeStep,
    Step,
)

Data = Any  # what json.loads gives


def plan_to_data(plan: Plan, host_function: Callable[[object], Data]) -> Data:
    """JSON-able form of a plan; `host_function` names a host callback."""
    origins: dict[tuple[str, ...], int] = {}

    def origin(o: tuple[str, ...]) -> int:
        return origins.setdefault(o, len(origins))

    def step(s: Step) -> Data:
        if isinstance(s, KernelStep):
            return ["k", s.kernel, s.buffers, s.parameters, s.units, origin(s.origin), s.flops, s.bytes]
        if isinstance(s, SizeStep):
            return ["z", s.first, s.last]
        if isinstance(s, CheckStep):
            return ["t", s.number, s.condition]
        if isinstance(s, SegmentStep):
            return ["a", s.segment]
        if isinstance(s, ControlStep):
            inputs = [[i.kind, i.buffer, i.axis, i.backwards] for i in s.inputs]
            return ["c", s.kind, s.bodies, s.limit, s.condition, inputs, [[o.kind, o.buffer, o.axis, o.backwards, o.dims] for o in s.outputs], origin(s.origin)]
        return ["h", s.function, s.inputs, s.outputs, s.reason, origin(s.origin), s.sizes]

    data = {
        "target": plan.target, "numbers": plan.numbers, "sizes": plan.sizes, "checks": [[c.input, c.dim, c.number] for c in plan.checks],
        "program": [[i.operator, i.target, i.a, i.b, i.c] for i in plan.program], "eager": plan.eager,
        "buffers": [[b.name, b.dtype, b.shape, b.order, b.storage, b.index, b.offset, b.bytes] for b in plan.buffers],
        "inputs": [_port(p) for p in plan.inputs], "outputs": [_port(p) for p in plan.outputs], "steps": [step(s) for s in plan.steps],
        "kernels": plan.kernels, "segments": plan.segments, "constants": plan.constants, "scratch": plan.scratch,
        "host_functions": [[name, host_function(f)] for name, f in plan.host_functions], "host_values": plan.host_values,
        "host_constants": plan.host_constants, "metadata": plan.metadata,
        "segment_scratch": plan.segment_scratch, "conditions": [[c.number, c.reason] for c in plan.conditions],
        "late": [[c.number, c.reason] for c in plan.late],
        "bodies": [plan_to_data(b, host_function) for b in plan.bodies],
        "preparations": [[p.kernel, p.buffers, p.results, p.parameters, p.units, p.scratch] for p in plan.preparations],
    }
    data["origins"] = list(origins)
    return data


def _port(p: Port) -> Data:
    return [p.name, p.type, p.shape, p.buffer, p.value]


def plan_from_data(data: Data, host_function: Callable[[Data], object]) -> Plan:
    """The plan that `plan_to_data` described; `host_function` makes callbacks again."""
    origins = [tuple(o) for o in data["origins"]]

    def step(s: Data) -> Step:
        if s[0] == "k":
            return KernelStep(s[1], tuple(s[2]), tuple(s[3]), s[4], origins[s[5]], s[6], s[7])
        if s[0] == "z":
            return SizeStep(s[1], s[2])
        if s[0] == "t":
            return CheckStep(s[1], s[2])
        if s[0] == "a":
            return SegmentStep(s[1])
        if s[0] == "c":
            outputs = tuple(BodyOutput(o[0], o[1], o[2], o[3], tuple((number, sets) for number, sets in o[4])) for o in s[6])
            return ControlStep(s[1], tuple(s[2]), s[3], s[4], tuple(BodyInput(*i) for i in s[5]), outputs, origins[s[7]])
        return HostStep(s[1], tuple(None if i is None else (i[0], i[1]) for i in s[2]), tuple((o[0], o[1]) for o in s[3]), s[4], origins[s[5]],
                        tuple((z[0], z[1], z[2]) for z in s[6]))

    def port(p: Data) -> Port:
        return Port(p[0], p[1], None if p[2] is None else tuple(p[2]), p[3], p[4])

    return Plan(
        target=data["target"], numbers=list(data["numbers"]), sizes=[(a, b, c) for a, b, c in data["sizes"]], checks=[SizeCheck(*c) for c in data["checks"]],
        program=[Instruction(*i) for i in data["program"]], eager=data["eager"],
        buffers=[BufferSpec(b[0], b[1], tuple(b[2]), tuple(b[3]), *b[4:]) for b in data["buffers"]],
        inputs=[port(p) for p in data["inputs"]], outputs=[port(p) for p in data["outputs"]], steps=[step(s) for s in data["steps"]],
        kernels=list(data["kernels"]), segments=list(data["segments"]), constants=data["constants"], scratch=data["scratch"],
        host_functions=[(n, host_function(f)) for n, f in data["host_functions"]], host_values=data["host_values"],
        host_constants=[(v, tuple(shape), items) for v, shape, items in data["host_constants"]], metadata=dict(data["metadata"]),
        segment_scratch=list(data["segment_scratch"]), conditions=[Condition(*c) for c in data["conditions"]],
        late=[Condition(*c) for c in data["late"]],
        bodies=[plan_from_data(b, host_function) for b in data["bodies"]],
        preparations=[Preparation(k, tuple(b), tuple(r), tuple(p), units, scratch) for k, b, r, p, units, scratch in data["preparations"]],
    )
