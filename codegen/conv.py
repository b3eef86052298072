"""Depthwise convolutions: products that are element-wise in the channels."""
from __future__ import annotations

from dataclasses import replace

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr
from ..ir.loops import ContractionNest, MapNest
from .contraction import ONE, Layouts, Product, copy_padded, decline_in_place, find_guards, flat_offset, merge_axes, ordered


def depthwise(nest: ContractionNest, layouts: Layouts) -> tuple[list[MapNest], Product] | None:
    """The channelwise product of a convolution whose groups have one channel in and one out, with the copy of its input that it may need.

    None where the nest is not one: there is no batch axis to be the channels, or groups have several channels.
    """
    if nest.columns or not nest.batch or not nest.rows:
        return None
    channel = _channel_axis(nest, layouts)
    if channel is None:
        return None
    maps: list[MapNest] = []
    if not _reads_in_place(nest, channel, layouts):
        copied = copy_padded(nest, channel)
        if copied is None or not _reads_in_place(copied[1], channel, layouts):
            return None
        maps, nest = [copied[0]], copied[1]
    batch = tuple(x for x in nest.batch if x is not channel)
    nest = replace(nest, batch=batch, columns=(channel,))
    if not find_guards(nest.a) and ex.load_fill(nest.a) is not None:
        nest = replace(nest, a=ex.load(ex.load_tensor(nest.a), nest.a.args))
    nest = merge_axes(ordered(nest, layouts), layouts)
    guards = find_guards(nest.a)
    return maps, Product(nest.batch, nest.rows, nest.columns, nest.reduced, None, ex.load_tensor(nest.a), flat_offset(nest.a, layouts), guards,
                         ex.load_fill(nest.a) or 0, nest.b, nest.dtype, nest.stores, nest.origin, True)


def _channel_axis(nest: ContractionNest, layouts: Layouts) -> Expr | None:
    """The batch axis along which results lie next to each other, or the longest that indexes the padded or strided operand alone."""
    loads = [e for e in ex.loads([nest.a]) if e.axes]
    if len(loads) != 1:
        return None
    found = [x for x in nest.batch if any(i is x for i in loads[0].args) and integer.as_int(x.extent) not in (1, None)]
    return max(found, key=lambda x: integer.as_int(x.extent) or 0, default=None)


def _reads_in_place(nest: ContractionNest, channel: Expr, layouts: Layouts) -> bool:
    """Whether channels are adjacent and every other axis walks regularly."""
    if nest.a.op != "load" or ex.load_tensor(nest.a).dtype is not nest.dtype:
        return False
    bare = replace(nest, batch=tuple(x for x in nest.batch if x is not channel), rows=(*nest.rows, channel), reduced=())
    if decline_in_place(replace(bare, rows=(*bare.rows, *nest.reduced)), layouts) is not None:
        return False
    step = integer.coefficient(flat_offset(nest.a, layouts), channel)
    return step is not None and step[0] is ONE and all(channel not in g.index.axes for g in find_guards(nest.a))
