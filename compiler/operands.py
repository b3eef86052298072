"""Which expressions a contraction can read in place."""
from __future__ import annotations

import itertools
from collections.abc import Container, Mapping

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.loops import centred_load


def flat_offset(e: Expr, order: tuple[int, ...] | None = None) -> Expr:
    """Position in memory of the element that a load reads, its tensor's dims lying in `order` (outermost first)."""
    shape = ex.load_tensor(e).shape
    if order is None:
        return ex.linear_index(e.args, shape)
    return ex.linear_index([e.args[d] for d in order], [shape[d] for d in order])


def acceptable_operand(e: Expr, axes: tuple[Expr, ...], reduced: tuple[Expr, ...], layouts: Mapping[Tensor, tuple[int, ...]], free: Container[Tensor],
                       chosen: dict[Tensor, tuple[int, ...]]) -> str | None:
    """Whether an operand is one element load (through casts, less a zero point) whose offset is affine in the contraction's axes.

    Args:
        axes: all axes that the operand may depend on.
        reduced: those of them that are summed over.
        layouts: orders already fixed by other operands.
        free: tensors whose order may still be chosen (intermediate results).
        chosen: gets the order that this operand needs, if it is not row-major: one that puts neighbours along a reduced axis next to each other, if there is one.

    Returns:
        None if it is, else the reason why not.
    """
    found = centred_load(e)
    if found is None:
        return "an operand of a contraction is an expression"
    e = found[0]
    tensor = ex.load_tensor(e)
    if ex.load_fill(e) is not None:
        if all(integer.affine(i, axes) is not None for i in e.args):
            return None
        return "a padded operand is not affine in the loops"
    fixed = layouts.get(tensor)
    if fixed is not None:
        return None if integer.affine(flat_offset(e, fixed), axes) is not None else "its elements would not lie at regular steps"
    if integer.affine(flat_offset(e), axes) is not None:
        return None
    if tensor in free and tensor.rank <= 5:
        regular = [o for o in itertools.permutations(range(tensor.rank)) if integer.affine(flat_offset(e, o), axes) is not None]
        if regular:
            chosen[tensor] = next((o for o in regular if is_adjacent(flat_offset(e, o), reduced)), regular[0])
            return None
    return "its elements would not lie at regular steps"


def is_adjacent(offset: Expr, axes: tuple[Expr, ...]) -> bool:
    """Whether elements along one of the axes lie next to each other."""
    return any(integer.as_int(step[0]) == 1 for step in (integer.coefficient(offset, x) for x in axes) if step is not None)
