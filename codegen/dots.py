"""Sums of products of 8-bit numbers less zero points: the nest over raw codes, and what corrects its sums.

    sum (a - za) (b - zb)  ->  acc' - za * columns' - zb * rows' + n * za * zb

where acc', columns' and rows' are sums of a' * b', b' and a' for codes shifted into the types that the target's instruction takes. The sums of constant weights are
computed when compiling; those of rows are only needed where weights have a zero point of their own. Where the left operand is copied as wider numbers and the weights
are only known when running, the copy is less the zero point, and their sums are not needed.
"""
from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import ContractionNest, MapNest, Store, centred_load
from ..ir.target import Target
from .contraction import ONE, Layouts, Product, copy_dense, copy_padded, extent_product, is_constant, merge_axes, ordered, orient, prepare_a, to_product
from .crossed import crossed
from .dot_forms import DotForm, dot_form, matrix_form

NARROW = (dt.uint8, dt.int8)
LONGEST = 1 << 16  # products of 8-bit numbers whose sum surely fits 32 bits
NOTHING = ex.const(0, dt.int32)


@dataclass(frozen=True)
class Codes:
    """An operand: the load of its 8-bit codes, and its zero point (int32)."""

    load: Expr
    zero: Expr


def codes_of(e: Expr, reduced: Sequence[Expr]) -> Codes | None:
    """An operand as codes less a zero point that the reduced axes do not change, or None where it is something else."""
    found = centred_load(e)
    if found is None or found[0].dtype not in NARROW or not keeps_codes(e):
        return None
    load, zero = found
    zero = NOTHING if zero is None else zero
    return None if zero.axes & set(reduced) else Codes(load, zero)


def keeps_codes(e: Expr) -> bool:
    """Whether the casts of an operand's element are to integers that have all its values."""
    if e.op == "sub":
        e = e.args[0]
    while e.op == "cast":
        target, source = e.dtype, e.args[0].dtype
        if not (target.is_integer and source.is_integer):
            return False
        to, of = np.iinfo(target.numpy), np.iinfo(source.numpy)
        if of.min < to.min or to.max < of.max:
            return False
        e = e.args[0]
    return True


def is_narrow(zero: Expr) -> bool:
    """Whether a zero point is surely an 8-bit number, and not nothing: then 16 bits hold its difference from any code."""
    if zero.is_const:
        return zero is not NOTHING and -128 <= int(zero.value) <= 255
    return zero.op == "cast" and zero.args[0].dtype in NARROW


def schedule_dots(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor], target: Target) -> tuple[list[MapNest | KernelCall], Product] | None:
    """The product over codes, after maps that copy its left operand and sum its operands as far as need be; None where operands are not 8-bit codes."""
    length = integer.as_int(extent_product(nest.reduced))
    if nest.dtype is not dt.int32 or not nest.reduced or (length is not None and length > LONGEST):
        return None
    a, b = codes_of(nest.a, nest.reduced), codes_of(nest.b, nest.reduced)
    if a is None or b is None:
        return None
    raw = orient(replace(nest, a=a.load, b=b.load), layouts, constants)
    if raw.a is not a.load:
        a, b = b, a
    if ex.load_fill(b.load) is not None:
        return None
    form = matrix_form(target, integer.as_int(extent_product(raw.rows)), length, b.load.dtype) or dot_form(target)
    centred = form.widened is not None and is_narrow(a.zero) and ex.load_fill(a.load) is None and not is_constant(b.load, constants)
    maps, raw = corrected(raw, a, b, constants, form, centred)
    if form.widened is not None:
        raw = replace(raw, a=ex.cast(ex.cast(raw.a, dt.int32) - a.zero if centred else raw.a, form.widened))
    copies, raw = adjacent(raw, layouts)
    raw = merge_axes(ordered(raw, layouts), layouts)
    product = replace(to_product(raw, layouts, False), form=form)
    halved = crossed(product, raw.a, layouts, constants, target)
    return ([*maps, *copies], product) if halved is None else ([*maps, *copies, *halved[0]], halved[1])


def adjacent(nest: ContractionNest, layouts: Layouts) -> tuple[list[MapNest], ContractionNest]:
    """The nest with a left operand whose elements lie next to each other along some reduced axis, copied if need be."""
    maps, ready = prepare_a(nest, layouts)
    if walks_adjacent(ready, layouts):
        return maps, ready
    padded = copy_padded(nest)
    if padded is not None and walks_adjacent(padded[1], layouts):
        return [padded[0]], padded[1]
    made, ready = copy_dense(nest)
    return [made], ready


def walks_adjacent(nest: ContractionNest, layouts: Layouts) -> bool:
    """Whether the axis that the kernel will walk has a step of one element."""
    product = to_product(merge_axes(ordered(nest, layouts), layouts), layouts, False)
    return product.inner is not None and integer.coefficient(product.a_offset, product.inner)[0] is ONE


def corrected(nest: ContractionNest, a: Codes, b: Codes, constants: Collection[Tensor], form: DotForm, centred: bool = False) -> tuple[list[MapNest], ContractionNest]:
    """The nest over raw codes, its stores with the corrections; and the maps that compute sums for them.

    Args:
        centred: whether the left operand will be less its zero point.
    """
    a_shift, b_shift = form.a_shift(a.load.dtype), form.b_shift(b.load.dtype)
    a_zero, b_zero = shifted(a.zero, a_shift), shifted(b.zero, b_shift)
    maps: list[MapNest] = []
    total = ex.acc(dt.int32)
    name = nest.stores[0].tensor.name
    if a_zero is not NOTHING and not centred:
        sums = summed(f"{name}.columns", b.load, b_shift, [x for x in nest.batch + nest.columns if x in b.load.axes], nest.reduced, maps)
        known = not a_zero.axes and is_constant(a_zero, constants) and is_constant(b.load, constants)
        scaled = a_zero * sums
        if known:
            scaled = stored(f"{name}.offsets", scaled, maps)
        total = total - scaled
    if b_zero is not NOTHING:
        sums = summed(f"{name}.rows", a.load, a_shift, [x for x in nest.batch + nest.rows if x in a.load.axes], nest.reduced, maps)
        count = ex.cast(extent_product(nest.reduced), dt.int32)
        total = total - b_zero * (sums if a_zero is NOTHING else sums - a_zero * count)
    if total.op == "acc":
        return maps, nest
    stores = tuple(replace(s, value=ex.substitute_one(s.value, {ex.acc(dt.int32): total})) for s in nest.stores)
    return maps, replace(nest, stores=stores)


def shifted(zero: Expr, by: int) -> Expr:
    if not by:
        return zero
    return ex.const(int(zero.value) + by, dt.int32) if zero.is_const else zero + ex.const(by, dt.int32)


def summed(name: str, load: Expr, shift: int, kept: Sequence[Expr], reduced: Sequence[Expr], maps: list[MapNest]) -> Expr:
    """The sum of shifted codes over the reduced axes, as an element of a tensor over the axes `kept`, which a new map writes."""
    over = {x: ex.axis(x.extent, "k") for x in reduced}
    code = ex.cast(ex.substitute_one(load, over), dt.int32)
    whole = ex.reduce("sum", tuple(over.values()), code + ex.const(shift, dt.int32) if shift else code)
    return stored(name, whole, maps, kept)


def stored(name: str, value: Expr, maps: list[MapNest], kept: Sequence[Expr] | None = None) -> Expr:
    """A value over some axes as an element of a tensor that a new map writes."""
    axes = tuple(sorted(value.axes, key=lambda x: x.text)) if kept is None else tuple(kept)
    tensor = Tensor(name, dt.int32, tuple(x.extent for x in axes))
    fresh = {x: ex.axis(x.extent, "i") for x in axes}
    maps.append(MapNest(tuple(fresh.values()), (Store(tensor, tuple(fresh.values()), ex.substitute_one(value, fresh)),)))
    return tensor[axes]


# ------------------------------------------------------------------------------------------------------------------------- packing
def packed_dots(p: Product, width: int) -> Tensor:
    """Panels of b: batch x panels x taps (unless joined) x groups of steps x width x elements of a group."""
    assert p.form is not None and p.inner is not None
    batch = [x.extent for x in p.batch if x in p.b.axes]
    taps = () if p.joined else tuple(x.extent for x in p.taps)
    shape = (*batch, ex.ceildiv(extent_product(p.columns), width), *taps, p.groups, ex.const(width), ex.const(p.form.fold))
    return Tensor(f"{p.stores[0].tensor.name}.panels", p.form.stored, shape)


def pack_dots(p: Product, width: int, packed: Tensor, shifted_last: bool) -> MapNest:
    """packed[batch, column // width, taps, k // fold, column % width, k % fold] = b shifted; zero past the end of the inner axis (of all joined axes)."""
    assert p.form is not None and p.inner is not None
    fold, columns = p.form.fold, extent_product(p.columns)
    taps = () if p.joined else p.taps
    axes = {x: ex.axis(x.extent, "i") for x in (*(x for x in p.batch if x in p.b.axes), *taps)}
    panel, group, lane, part = ex.axis(packed.shape[-4 - len(taps)], "p"), ex.axis(p.groups, "q"), ex.axis(width, "l"), ex.axis(fold, "f")
    column = ex.minimum(panel * width, columns - width) + lane if shifted_last else ex.minimum(panel * width + lane, columns - 1)
    mapping = dict(axes)
    mapping.update(zip(p.columns, ex.unravel(column, [x.extent for x in p.columns])))
    k = group * fold + part
    walked = p.reduced if p.joined else (p.inner,)
    length = extent_product(walked)
    whole = not integer.divide_terms(integer.terms(length), ex.const(p.form.step if p.joined else fold))[1]
    mapping.update(zip(walked, ex.unravel(k if whole else ex.minimum(k, length - 1), [x.extent for x in walked])))
    shift, wide = p.form.b_shift(p.b.dtype), dt.float32 if p.form.is_float else dt.int32
    code = ex.cast(ex.substitute_one(p.b, mapping), wide)
    code = code + ex.const(shift, dt.int32) if shift else code
    if not whole:
        code = ex.where(k < length, code, ex.const(0, wide))
    index = (*(axes[x] for x in p.batch if x in axes), panel, *(axes[x] for x in taps), group, lane, part)
    return MapNest(index, (Store(packed, index, ex.cast(code, p.form.stored)),), p.origin)

