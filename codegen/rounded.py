"""Products of bfloat16 numbers, summed in float32: of tensors of that type, and of float32 operands that are rounded to it.

A left operand of float32 that lies at regular steps is read as it is and rounded where whole tiles gather their rows; other forms read it from a rounded copy. `b` is
packed as bfloat16, pairs of steps side by side.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.loops import ContractionNest, MapNest
from ..ir.target import Target
from .contraction import Layouts, Product, extent_product, is_constant, merge_axes, ordered, orient, swap_operands, to_product
from .dot_forms import AMX_BF16, bfloat_form
from .dots import adjacent

REPAYS_PACKING = 64  # rows; fewer do not repay packing an activation


def narrow_operand(e: Expr) -> Expr | None:
    """The bfloat16 expression that an operand converts to float32, or None where it is something else."""
    return e.args[0] if e.op == "cast" and e.dtype is dt.float32 and e.args[0].dtype is dt.bfloat16 else None


def schedule_rounded(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor], target: Target) -> tuple[list[MapNest], Product] | None:
    """The product over bfloat16 operands, after a map that copies its left operand if need be; None where operands are not such, or too few rows repay packing."""
    a, b = narrow_operand(nest.a), narrow_operand(nest.b)
    if nest.dtype is not dt.float32 or not nest.reduced or a is None or b is None:
        return None
    raw = replace(nest, a=a, b=b)
    if is_constant(a, constants) == is_constant(b, constants):
        raw = orient(raw, layouts, constants)
    elif is_constant(a, constants):
        raw = swap_operands(raw)
    rows, terms = integer.as_int(extent_product(raw.rows)), integer.as_int(extent_product(raw.reduced))
    if not raw.columns or (rows is not None and rows < REPAYS_PACKING and not is_constant(raw.b, constants)):
        return None
    if any(ex.load_fill(e) not in (None, 0) for e in ex.loads([raw.a])):
        return None
    form = bfloat_form(target, rows, terms)
    if form is AMX_BF16 and raw.a.op == "cast" and raw.a.args[0].op == "load" and raw.a.args[0].dtype is dt.float32:
        raw = replace(raw, a=raw.a.args[0])
    copies, raw = adjacent(raw, layouts)
    raw = merge_axes(ordered(raw, layouts), layouts)
    return copies, replace(to_product(raw, layouts, False), form=form)
