"""How much memory a compiled model needs, as formulas over the sizes of its inputs."""
from __future__ import annotations

from dataclasses import dataclass

from ..ir import expr as ex
from ..ir.expr import Expr
from ..ir.plan import Plan, Port
from ..ir.plan_numbers import formula
from .arrays import ALIGNMENT


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of a run beside weights and inputs, over symbols named as the inputs' dimensions.

    Args:
        arena: of intermediates.
        scratch: of each thread.
        results: of the outputs, as far as shapes tell their sizes.
    """

    arena: Expr
    scratch: Expr
    results: Expr


def memory_need(plan: Plan) -> MemoryNeed:
    """What a run of a plan reserves; an executor reserves `arena + threads * scratch`, and allocates the results that the caller does not give."""
    names = {(port, dim): size_name(plan.inputs[port], dim) for port, dim, _ in plan.sizes}
    arena = formula(plan, plan.segments[0], names) if plan.segments else ex.const(0)
    results = [formula(plan, plan.buffers[p.buffer].bytes, names) for k, p in enumerate(plan.outputs)
               if p.buffer >= 0 and (plan.buffers[p.buffer].storage, plan.buffers[p.buffer].index) == ("output", k)]
    return MemoryNeed(_lines(arena), _lines(formula(plan, plan.scratch, names)) + ALIGNMENT, ex.total(results))


def size_name(port: Port, dim: int) -> str:
    """The name of a dimension in the model, else one made of the input's."""
    name = port.shape[dim] if port.shape is not None else None
    return name if isinstance(name, str) else f"{port.name}.shape[{dim}]"


def _lines(size_bytes: Expr) -> Expr:
    return ex.ceildiv(size_bytes, ALIGNMENT) * ALIGNMENT
