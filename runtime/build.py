"""Compiling a model: compiler stages, schedules, constants, plan and objects, put together."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..ir import dtypes as dt
from ..ir.errors import UnsupportedError
from ..ir.expr import Tensor
from ..ir.graph import Graph, MapType, OptionalType, SequenceType, TensorType, Type
from ..ir.kernel import KernelCall, KernelSource
from ..ir.loops import HostNest
from ..ir.ops.control import ControlFlow
from ..ir.plan import Plan, Port
from ..ir.target import Target
from .schedule import schedule

Progress = Callable[[int, int, str], None]


@dataclass
class Built:
    """A compiled model before its kernels are objects.

    Args:
        plan: steps and sizes.
        sources: distinct kernels, as the plan numbers them.
        constants: arrays in the plan's order, in memory order, contiguous.
        decisions: fusion's log.
        calls: the kernel calls behind the kernel steps, in their order.
        bodies: host function -> what its control-flow bodies compiled to.
    """

    plan: Plan
    sources: list[KernelSource]
    constants: list[np.ndarray]
    decisions: list[tuple[tuple[str, ...], tuple[str, ...], str]] = field(default_factory=list)
    calls: list[KernelCall] = field(default_factory=list)
    bodies: dict[int, list["Built"]] = field(default_factory=dict)

    @staticmethod
    def refusing(reason: str) -> "Built":
        """A body that cannot run: taking it raises `reason`."""
        plan = Plan("", [], [], [], [], 0, [], [], [], [], [], [], 0, 0, metadata={"broken": reason})
        return Built(plan, [], [])

    def has_control(self) -> bool:
        """Whether the driver must run control steps, in this plan or one that the host runs for it."""
        return bool(self.plan.bodies) or any(c.has_control() for children in self.bodies.values() for c in children)

    def all_sources(self) -> list[KernelSource]:
        """Distinct kernels, those of bodies included."""
        found = {s.symbol: s for s in self.sources}
        for children in self.bodies.values():
            for c in children:
                found.update((s.symbol, s) for s in c.all_sources())
        return list(found.values())


def build_graph(graph: Graph, target: Target, level: int = 3, observe: Callable[[str, object], None] | None = None,
                disabled: frozenset[str] = frozenset(), precision: dt.DType = dt.float32, compact: bool = False) -> Built:
    """Compile a typed graph to a plan and kernel sources.

    Args:
        graph: consumed: its stages run in place.
        target: the machine to compile for.
        level: optimisation level 0 to 3.
        observe: called with (stage, graph or program) after each stage.
        precision: to which operands of float32 products are rounded.
        compact: leave constants that are larger than what they are computed from to the first run (see `Plan.preparations`).

    Raises:
        UnsupportedError: something in the model is not implemented; names the node.
        ModelError: the model is inconsistent.
    """
    from ..compiler import pipeline

    options = pipeline.Options(level, disabled, precision)
    watch = observe or pipeline.ignore
    inputs, outputs = _ports(graph)
    pipeline.optimise(graph, options, watch)
    lowered = pipeline.lower_and_fuse(graph, options, watch)
    items, constants, preparations = schedule(lowered.program, lowered.layouts, target, compact)
    from ..compiler.bodies import Bodies
    from ..compiler.control import obstacle
    from ..compiler.plan import build_plan

    joined = Bodies()
    native: dict[HostNest, tuple[int, ...]] = {}
    on_host: dict[ControlFlow, list[Built]] = {}
    for at, item in enumerate(items):
        if isinstance(item, HostNest) and isinstance(item.function, ControlFlow):
            children = [Built.refusing(body.broken) if body.broken else build_graph(body, target, level, observe, disabled, precision) for body in item.function.bodies]
            why = obstacle(item, [c.plan for c in children])
            if why is None:
                native[item] = tuple(joined.add(c.plan, c.sources, c.constants) for c in children)
            else:
                on_host[item.function] = children
                items[at] = replace(item, reason=f"{item.reason}; the driver cannot run it because {why}")
    plan, sources = build_plan(items, lowered.program.inputs, lowered.program.outputs, constants, lowered.layouts, inputs, outputs, lowered.program.checks, native,
                               preparations)
    plan.target = target.key
    plan.metadata = dict(graph.metadata)
    arrays = [in_memory_order(a, t, lowered.layouts) for t, a in constants.items() if t.dtype.is_numeric]
    joined.join(plan, sources, arrays)
    calls = [i for i in items if isinstance(i, KernelCall)]
    bodies = {k: on_host[function] for k, (_, function) in enumerate(plan.host_functions) if isinstance(function, ControlFlow)}
    return Built(plan, sources, arrays, lowered.decisions, calls, bodies)


def in_memory_order(array: np.ndarray, tensor: Tensor, layouts: Mapping[Tensor, tuple[int, ...]]) -> np.ndarray:
    order = layouts.get(tensor)
    return np.ascontiguousarray(array if order is None else array.transpose(order))


# ------------------------------------------------------------------------------------------------------------------ ports
def type_name(t: Type) -> str:
    """ONNX Runtime's spelling of a type."""
    if isinstance(t, TensorType):
        return f"tensor({t.dtype.name})"
    if isinstance(t, SequenceType):
        return f"seq({type_name(t.element)})"
    if isinstance(t, OptionalType):
        return f"optional({type_name(t.element)})"
    if isinstance(t, MapType):
        return f"map({t.key.name},{type_name(t.value)})"
    raise UnsupportedError(f"type {t} has no name")


def port(name: str, t: Type | None) -> Port:
    """The port of an input or output of a declared type."""
    shape = None
    if isinstance(t, TensorType) and t.shape is not None:
        shape = tuple(int(d.value) if d.is_const else d.text if d.op == "sym" and not d.text.startswith("?") else None for d in t.shape)
    return Port(name, "" if t is None else type_name(t), shape, -1)


def _ports(graph: Graph) -> tuple[list[Port], list[Port]]:
    declared = graph.declared
    names = graph.output_names or [v.name for v in graph.outputs]
    return [port(v.name, declared.get(v.name, v.type)) for v in graph.inputs], [port(n, declared.get(n, v.type)) for n, v in zip(names, graph.outputs)]


def dtype_of(type_text: str) -> dt.DType | None:
    """The element type named by `tensor(NAME)`, None for other types."""
    if type_text.startswith("tensor("):
        return dt.BY_NAME[type_text[7:-1]]
    return None


__all__ = ["Built", "Progress", "build_graph", "dtype_of", "type_name"]
