"""What the driver's failures mean, in the user's terms."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ..ir import driver_abi as dv
from ..ir.errors import InputError, TargetError
from ..ir.plan import ControlStep
from .bodies import BodyTables
from .frames import Tables


def raise_failure(tables: Tables, state: Sequence[int]) -> NoReturn:
    """Raise what the driver's state says.

    Raises:
        MemoryError: there was no memory.
        TargetError: the driver cannot run the plan.
        InputError: the inputs do not fit the model's control flow.
    """
    failure, where, at, a, b = (int(state[w]) for w in (dv.FAILURE, dv.FAILED_IN, dv.FAILED_AT, dv.FAILED_A, dv.FAILED_B))
    if failure == dv.NO_MEMORY:
        raise MemoryError(f"{b} bytes for intermediate results of a run are not available")
    if failure == dv.NO_CONTROL:
        raise TargetError("the model has control flow, but its driver was compiled without; compile codegen.driver.driver_kernel(control=True) along with its kernels")
    if failure in (dv.NOT_ONE_CONDITION, dv.NOT_ONE_LIMIT):
        plan = tables.plan if where == 0 else tables.plan.bodies[where - 1]
        what, size = ("condition", 1) if failure == dv.NOT_ONE_CONDITION else ("number of iterations", 8)
        raise InputError(f"{_name(plan.steps[at])}: the {what} has {b // size} elements, one was expected")
    if failure == dv.LATE_SIZES:
        raise InputError((tables.plan if where == 0 else tables.plan.bodies[where - 1]).late[at].reason)
    body = tables.bodies[where - 1]
    raise InputError(f"{_name(body.control)}: {_reason(body, failure, at, a, b)}")


def _name(step: object) -> str:
    origin = getattr(step, "origin", ())
    return f"{step.kind if isinstance(step, ControlStep) else type(step).__name__} '{', '.join(origin)}'"


def _reason(body: BodyTables, failure: int, at: int, a: int, b: int) -> str:
    plan = body.plan
    loop = int(body.control.outputs[0].kind == "condition") if body.control.outputs else 0
    if failure == dv.BROKEN_BRANCH:
        return f"the branch that these inputs choose cannot run: {plan.metadata['broken']}"
    if failure == dv.WRONG_INPUT:
        check = plan.checks[at]
        return f"dimension {check.dim} of the body's input '{plan.inputs[check.input].name}' is {b}, {a} was expected"
    if failure == dv.WRONG_SIZES:
        return plan.conditions[at].reason
    if failure == dv.WRONG_RESULT:
        return f"dimension {a} of result {at - loop} is {b}, which is not what the model says"
    if failure == dv.UNEQUAL_ENTRIES:
        return f"results {at - loop} of its iterations have different shapes: dimension {a} becomes {b}; they cannot be stacked"
    if failure == dv.UNEQUAL_SLICES:
        return f"the scanned inputs have {a} and {b} elements along their axes; equal numbers were expected"
    return f"the condition that the body returns has {b} elements, one was expected"
