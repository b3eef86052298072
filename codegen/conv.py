"""Convolutions of small groups: products that stay among neighbouring channels, depthwise ones above all."""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.loops import ContractionNest, MapNest
from ..ir.target import Target
from .contraction import ONE, ZERO, Layouts, Product, copy_padded, decline_in_place, find_guards, flat_offset, merge_axes, operand_dtype, ordered, rewrite
from .dot_forms import WIDEN
from .dots import codes_of, corrected

LARGEST_GROUP = 8  # channels; larger groups are products of their own


def small_groups(nest: ContractionNest, layouts: Layouts, target: Target) -> tuple[list[MapNest], Product] | None:
    """The product over neighbouring channels that a convolution of small groups is, with the copy of its input that it may need.

    None where the nest is not one: no batch axis stands for the groups, or they are large, or have more channels on one side than on the other.
    """
    if not nest.batch or not nest.rows:
        return None
    found = _as_channels(nest, target)
    if found is None:
        return None
    nest, channel, inner, group = found
    maps: list[MapNest] = []
    if not _reads_in_place(nest, channel, layouts):
        copied = copy_padded(nest, channel)
        if copied is None or not _reads_in_place(copied[1], channel, layouts):
            return None
        maps, nest = [copied[0]], copied[1]
    if not find_guards(nest.a) and ex.load_fill(nest.a) is not None:
        nest = replace(nest, a=ex.load(ex.load_tensor(nest.a), nest.a.args))
    nest = merge_axes(ordered(nest, layouts), layouts)
    guards = find_guards(nest.a)
    return maps, Product(nest.batch, nest.rows, nest.columns, nest.reduced, inner, ex.load_tensor(nest.a), flat_offset(nest.a, layouts), guards,
                         ex.load_fill(nest.a) or 0, nest.b, nest.dtype, nest.stores, nest.origin, group)


def channel_dots(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor], target: Target) -> tuple[list[MapNest], Product] | None:
    """A depthwise convolution of 8-bit codes, whose elements are widened in registers; None where the nest is not one."""
    if nest.dtype is not dt.int32 or nest.columns or not nest.batch or not nest.rows or not nest.reduced:
        return None
    a, b = codes_of(nest.a, nest.reduced), codes_of(nest.b, nest.reduced)
    if a is None or b is None or ex.load_fill(b.load) is not None:
        return None
    maps, raw = corrected(replace(nest, a=a.load, b=b.load), a, b, constants, WIDEN)
    found = small_groups(raw, layouts, target)
    return None if found is None else ([*maps, *found[0]], replace(found[1], form=WIDEN))


def _as_channels(nest: ContractionNest, target: Target) -> tuple[ContractionNest, Expr, Expr | None, int] | None:
    """The nest with channels as its only columns: (nest, channel axis, axis within a group, channels of a group).

    Groups of several channels: `a` is indexed by g * n + s with s < n reduced, and results by g * n + m with m < n a column. The nest returned has one axis
    x = g * n + m, and `a` reads the channel x itself; which of its group's channels is meant is the kernel's business.
    """
    loads = [e for e in ex.loads([nest.a]) if e.axes]
    if len(loads) != 1 or len(nest.columns) > 1:
        return None
    if not nest.columns:
        whole = [x for x in nest.batch if any(i is x for i in loads[0].args) and integer.as_int(x.extent) is not None]
        if not whole:
            return None
        channel = max(whole, key=lambda x: integer.as_int(x.extent) or 0)
        return replace(nest, batch=tuple(x for x in nest.batch if x is not channel), columns=(channel,)), channel, None, 1
    out = nest.columns[0]
    size = integer.as_int(out.extent)
    if size is None or size > LARGEST_GROUP or target.lanes(nest.dtype.itemsize_bytes) % size:
        return None
    for g in nest.batch:
        for s in nest.reduced:
            if integer.as_int(s.extent) == size and integer.as_int(g.extent) is not None and any(i is g * size + s for i in loads[0].args):
                return _with_joined_channels(nest, loads[0], g, s, size, target)
    return None


def _with_joined_channels(nest: ContractionNest, load: Expr, g: Expr, s: Expr, size: int, target: Target) -> tuple[ContractionNest, Expr, Expr, int] | None:
    channels = g.extent * size
    if (integer.as_int(channels) or 0) < target.lanes(nest.dtype.itemsize_bytes):
        return None
    channel = ex.axis(channels, "c")
    at = [channel if i is g * size + s else i for i in load.args]
    if any({g, s} & i.axes for i in at):
        return None
    a = ex.substitute_one(nest.a, {load: ex.load(ex.load_tensor(load), at, ex.load_fill(load))})
    joined = rewrite(replace(nest, a=ZERO), {g: channel // size, nest.columns[0]: channel % size})
    batch, reduced = tuple(x for x in nest.batch if x is not g), tuple(x for x in nest.reduced if x is not s)
    return replace(joined, a=a, batch=batch, columns=(channel,), reduced=reduced), channel, s, size


def _reads_in_place(nest: ContractionNest, channel: Expr, layouts: Layouts) -> bool:
    """Whether channels are adjacent and every other axis walks regularly."""
    if nest.a.op != "load" or nest.a.dtype is not operand_dtype(nest):
        return False
    bare = replace(nest, rows=(*nest.rows, *nest.columns, *nest.reduced), columns=(), reduced=())
    if decline_in_place(bare, layouts) is not None:
        return False
    step = integer.coefficient(flat_offset(nest.a, layouts), channel)
    return step is not None and step[0] is ONE and all(channel not in g.index.axes for g in find_guards(nest.a))
