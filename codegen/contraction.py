"""Contractions: analysis of a nest into the form that kernels take, and the choice among them.

A nest passes through these steps; each gives an equivalent nest:

    split      axis x of extent e with x // c or x % c in some index, c dividing e  ->  x1 * c + x0
    regroup    a batch axis that only one operand knows joins that operand's rows or columns; axes of extent 1 go
    orient     the operand that is constant (else the one that suits packing) becomes `b`
    merge      neighbouring axes that all indices walk as one become one

`b` is packed by a map into panels as wide as the register tile; `a` is read in place through row addresses where its elements lie at regular steps, else it is
first copied by a map (padded, converted, or gathered).
"""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.dtypes import DType
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import ContractionNest, MapNest, Store
from ..ir.target import Target
from .dot_forms import DotForm
from .flatten import memory_order
from .tile_shapes import ACCUMULATORS

Layouts = Mapping[Tensor, tuple[int, ...]]
ONE, ZERO = ex.const(1), ex.const(0)
SHORT_PATCH = 16  # steps; a padded operand whose regular run is shorter is copied with its padding, so that runs of several taps join


@dataclass(frozen=True)
class Guard:
    """A padded operand's index that may leave 0 <= index < size."""

    index: Expr
    size: Expr


@dataclass(frozen=True, eq=False)
class Product:
    """acc[batch, rows, columns] = sum over taps, inner of a * b, ready for emission.

    Args:
        taps: reduced axes walked by steps of any kind, outermost first.
        inner: the reduced axis walked by one regular step, or None where there is a single step.
        a: tensor read in place, of the accumulator's type.
        a_offset: position of its element in memory, affine in rows, taps and inner.
        guards: where an element lies in the padding, which holds `fill`.
        b: operand expression, to be packed.
        b_offset: position of b's element in memory where it may be read in place (an activation with regular steps), else None.
        form: how 8-bit or bfloat16 operands are multiplied: codes whose sums are int32, numbers whose sums are float32. None where operands have the accumulator's type.
        group: 0, or the channels of a group where `a` walks the columns too, by adjacent elements: a convolution of small groups, whose inner axis
            (None for groups of one) runs over the group's channels.
    """

    batch: tuple[Expr, ...]
    rows: tuple[Expr, ...]
    columns: tuple[Expr, ...]
    taps: tuple[Expr, ...]
    inner: Expr | None
    a: Tensor
    a_offset: Expr
    guards: tuple[Guard, ...]
    fill: float | int
    b: Expr
    dtype: DType
    stores: tuple[Store, ...]
    origin: tuple[str, ...]
    group: int = 0
    b_offset: Expr | None = None
    form: DotForm | None = None

    @property
    def fold(self) -> int:
        """Neighbouring steps of the inner axis that the tile takes at once."""
        return 1 if self.form is None or self.channelwise else self.form.fold

    @property
    def groups(self) -> Expr:
        """Steps of the tile along the inner axis, the last one perhaps in part; along all reduced axes where they are joined."""
        if self.form is not None and self.joined:
            return ex.ceildiv(extent_product(self.reduced), self.form.step) * (self.form.step // self.fold)
        return ex.ceildiv(self.inner.extent, self.fold) if self.inner is not None else ONE

    @property
    def joined(self) -> bool:
        """Whether the tile walks all reduced axes as one, over rows of `a` that are gathered first."""
        return self.form is not None and self.form.name == "amx"

    @property
    def depth(self) -> Expr:
        """Elements of a column of packed `b`."""
        return self.groups * self.fold if self.joined else extent_product(self.taps) * self.groups * self.fold

    @property
    def tail(self) -> bool:
        """Whether the last step of the tile may be a part of one."""
        return self.inner is not None and self.fold > 1 and bool(integer.divide_terms(integer.terms(self.inner.extent), ex.const(self.fold))[1])

    @property
    def b_dtype(self) -> DType:
        """The element type of packed `b`."""
        return self.dtype if self.form is None else self.form.stored

    @property
    def channelwise(self) -> bool:
        return self.group > 0

    @property
    def reduced(self) -> tuple[Expr, ...]:
        return self.taps + ((self.inner,) if self.inner is not None else ())


def flat_offset(e: Expr, layouts: Layouts) -> Expr:
    """Position in memory, in elements, of what a load reads."""
    return element_offset(ex.load_tensor(e), e.args, layouts)


def element_offset(tensor: Tensor, index: Sequence[Expr], layouts: Layouts) -> Expr:
    order = layouts.get(tensor, range(tensor.rank))
    return ex.linear_index([index[d] for d in order], [tensor.shape[d] for d in order])


def extent_product(axes: Sequence[Expr]) -> Expr:
    return ex.product(a.extent for a in axes)


# --------------------------------------------------------------------------------------------------------------- equivalent nests
def rewrite(nest: ContractionNest, mapping: Mapping[Expr, Expr]) -> ContractionNest:
    """The nest with leaves of all its expressions replaced."""
    return with_roots(nest, ex.substitute(roots_of(nest), mapping))


def with_roots(nest: ContractionNest, new: Sequence[Expr]) -> ContractionNest:
    """The nest with the expressions of `roots_of` exchanged."""
    stores, at = [], 2
    for s in nest.stores:
        stores.append(replace(s, index=tuple(new[at:at + len(s.index)]), value=new[at + len(s.index)]))
        at += len(s.index) + 1
    return replace(nest, a=new[0], b=new[1], stores=tuple(stores))


def all_axes(nest: ContractionNest) -> tuple[Expr, ...]:
    return nest.batch + nest.rows + nest.columns + nest.reduced


def roots_of(nest: ContractionNest) -> list[Expr]:
    return [nest.a, nest.b] + [e for s in nest.stores for e in (*s.index, s.value)]


def with_axes(nest: ContractionNest, group: str, axes: tuple[Expr, ...]) -> ContractionNest:
    """The nest with one of its groups of axes exchanged."""
    groups = {"batch": nest.batch, "rows": nest.rows, "columns": nest.columns, "reduced": nest.reduced, group: axes}
    return replace(nest, batch=groups["batch"], rows=groups["rows"], columns=groups["columns"], reduced=groups["reduced"])


def replace_axis(nest: ContractionNest, axis: Expr, parts: tuple[Expr, ...], value: Expr) -> ContractionNest:
    """The nest with `axis` replaced by `parts` in its group, standing for `value`."""
    def changed(axes: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(p for a in axes for p in (parts if a is axis else (a,)))
    return rewrite(replace(nest, batch=changed(nest.batch), rows=changed(nest.rows), columns=changed(nest.columns), reduced=changed(nest.reduced)), {axis: value})


def blend_choices(nest: ContractionNest) -> ContractionNest:
    """where(sizes, x, y) in an index  ->  x * sizes + y * (1 - sizes), which is affine where x and y are."""
    def visit(e: Expr) -> Expr | None:
        if e.op == "where" and e.dtype is dt.int64 and not e.args[0].axes and e.axes and not ex.loads([e]):
            chosen = ex.cast(e.args[0], dt.int64)
            return e.args[1] * chosen + e.args[2] * (1 - chosen)
        return None
    roots = roots_of(nest)
    if not any(e.op == "where" and e.dtype is dt.int64 for e in ex.walk(roots)):
        return nest
    return with_roots(nest, ex.transform(roots, visit))


def split_axes(nest: ContractionNest) -> ContractionNest:
    """x // c, x % c with c dividing the extent of axis x: x becomes x1 * c + x0, until no such term is left."""
    changed = True
    while changed:
        changed = False
        for e in ex.walk(roots_of(nest)):
            if e.op not in ("floordiv", "mod") or e.args[0].op != "axis" or e.args[1].axes:
                continue
            x, c = e.args
            count, rest = integer.divide_terms(integer.terms(x.extent), c)
            if rest or not count or x not in all_axes(nest):
                continue
            outer, inner = ex.axis(integer.from_terms(count), "s"), ex.axis(c, "t")
            nest, changed = replace_axis(nest, x, (outer, inner), outer * c + inner), True
            break
    return nest


def regroup(nest: ContractionNest) -> ContractionNest:
    """Drop axes of extent 1; move batch axes that only one operand depends on to its side."""
    for axis in all_axes(nest):
        if integer.as_int(axis.extent) == 1:
            nest = replace_axis(nest, axis, (), ZERO)
    to_rows = tuple(x for x in nest.batch if x not in nest.b.axes)
    to_columns = tuple(x for x in nest.batch if x not in nest.a.axes and x not in to_rows)
    if not to_rows and not to_columns:
        return nest
    kept = tuple(x for x in nest.batch if x not in to_rows and x not in to_columns)
    return replace(nest, batch=kept, rows=to_rows + nest.rows, columns=to_columns + nest.columns)


def swap_operands(nest: ContractionNest) -> ContractionNest:
    return replace(nest, a=nest.b, b=nest.a, rows=nest.columns, columns=nest.rows)


def is_constant(e: Expr, constants: Collection[Tensor]) -> bool:
    return all(ex.load_tensor(x) in constants for x in ex.loads([e]))


def orient(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor]) -> ContractionNest:
    """Choose which operand is `b`.

    A constant one, whose packing costs nothing; but where results lie along the other operand's axes, that one, if it is a plain matrix: scattered writes
    cost more than packing.
    """
    swapped = swap_operands(nest)
    for first, second in ((nest, swapped), (swapped, nest)):
        if writes_along(first.rows, first, layouts) and is_plain_matrix(first.a, first, layouts):
            return second
    return swapped if is_constant(nest.a, constants) and not is_constant(nest.b, constants) else nest


def writes_along(axes: Sequence[Expr], nest: ContractionNest, layouts: Layouts) -> bool:
    """Whether the first result lies along one of the axes, and far enough to matter."""
    offset = element_offset(nest.stores[0].tensor, nest.stores[0].index, layouts)
    for x in axes:
        step = integer.coefficient(offset, x)
        if step is not None and step[0] is ONE:
            return (integer.as_int(x.extent) or 1 << 20) >= 4
    return False


def is_plain_matrix(e: Expr, nest: ContractionNest, layouts: Layouts) -> bool:
    """Whether an operand can be packed by whole vectors or read as it lies: one reduced axis, and adjacent elements along some axis of it."""
    if len(nest.reduced) != 1 or not is_regular(e, nest, layouts):
        return False
    offset = flat_offset(e, layouts)
    return any(integer.coefficient(offset, x)[0] is ONE for x in e.axes)


def merge_axes(nest: ContractionNest, layouts: Layouts, b_in_place: bool = False) -> ContractionNest:
    """Join pairs of neighbouring axes (x, y) of one group that every memory offset walks as x * extent(y) + y.

    Args:
        b_in_place: whether `b`'s own memory counts (else it is packed, in any order).
    """
    for name in ("batch", "rows", "columns", "reduced"):
        axes = getattr(nest, name)
        in_place = b_in_place and name != "rows"
        at = len(axes) - 2
        while at >= 0:
            x, y = axes[at], axes[at + 1]
            if _walks_as_one(nest, x, y, layouts, in_place):
                joined = ex.axis(x.extent * y.extent, "j")
                nest = with_axes(rewrite(nest, {x: joined // y.extent, y: joined % y.extent}), name, axes[:at] + (joined,) + axes[at + 2:])
                axes = getattr(nest, name)
            at -= 1
    return nest


def _walks_as_one(nest: ContractionNest, x: Expr, y: Expr, layouts: Layouts, b_in_place: bool) -> bool:
    offsets: list[Expr] = [flat_offset(nest.b, layouts)] if b_in_place else []
    for e in ex.loads([nest.a] + [s.value for s in nest.stores]):
        if ex.load_fill(e) is not None:
            if x in e.axes or y in e.axes:
                guarded = [i for i, n in zip(e.args, ex.load_tensor(e).shape) if not within(i, n)]
                offsets += guarded
        offsets.append(flat_offset(e, layouts))
    offsets += [element_offset(s.tensor, s.index, layouts) for s in nest.stores]
    for o in offsets:
        cx, cy = integer.coefficient(o, x), integer.coefficient(o, y)
        if cx is None or cy is None or cx[0].axes or cy[0].axes or cx[0] is not cy[0] * y.extent:
            return False
    used_as_values = [e for s in nest.stores for e in ex.walk(_without_loads(s.value)) if e is x or e is y]
    return not used_as_values


def _without_loads(value: Expr) -> Expr:
    """The value with every load without a fill replaced by a constant, so that what is left uses axes as numbers."""
    def visit(e: Expr) -> Expr | None:
        if e.op == "load" and ex.load_fill(e) is None:
            return ex.make("acc", (), e.dtype)
        return None
    return ex.transform([value], visit)[0]


def within(index: Expr, size: Expr) -> bool:
    """Whether 0 <= index < size is certain."""
    low, high = integer.lower(index), integer.upper(index)
    return low is not None and high is not None and integer.prove_nonnegative(low) and integer.prove_lt(high, size)


# ------------------------------------------------------------------------------------------------------------------------ operand a
def operand_dtype(nest: ContractionNest) -> DType:
    """The type in which a kernel reads `a`: the accumulator's, but 8-bit codes as they are where both operands are such (see `codegen.dots`)."""
    return nest.dtype if nest.a.dtype is nest.dtype else nest.a.dtype


def describe(nest: ContractionNest, layouts: Layouts) -> str | None:
    """Why `a` cannot be read in place, or None if it can."""
    return decline_in_place(regroup(split_axes(blend_choices(nest))), layouts)


def decline_in_place(nest: ContractionNest, layouts: Layouts) -> str | None:
    a = nest.a
    if a.op != "load":
        return f"the operand is {a.op}(...), not an element"
    tensor = ex.load_tensor(a)
    if a.dtype is not operand_dtype(nest) or nest.dtype not in ACCUMULATORS:
        return f"elements of {tensor.dtype} are converted to {nest.dtype} first"
    for i in a.args:
        form = _walked(i, nest)
        if form is None or (ex.loads([i]) and form.axes):
            return f"index {i.text} is not affine"
    if _walked(flat_offset(a, layouts), nest) is None:
        return "its elements do not lie at regular steps"
    if ex.load_fill(a) is not None:
        guards = find_guards(a)
        if choose_inner(nest, layouts, guards) is None and nest.reduced:
            return "its padding leaves no regular run"
    return None


def _walked(e: Expr, nest: ContractionNest) -> Expr | None:
    """Where a walk along rows, columns and reduced axes starts; None unless each of them steps regularly, whatever the place in the batch.

    The start may depend on the batch in any way: it is computed once for each unit of work.
    """
    form = integer.affine(e, nest.rows + nest.columns + nest.reduced)
    return None if form is None or any(c.axes for c in form[0]) else form[1]


def find_guards(a: Expr) -> tuple[Guard, ...]:
    """The indices of a load with a fill value that may be out of range."""
    if ex.load_fill(a) is None:
        return ()
    return tuple(Guard(i, n) for i, n in zip(a.args, ex.load_tensor(a).shape) if not within(i, n))


def choose_inner(nest: ContractionNest, layouts: Layouts, guards: Sequence[Guard]) -> Expr | None:
    """The reduced axis to walk innermost: free of padding, adjacent elements if possible, long."""
    offset = flat_offset(nest.a, layouts)
    best, best_rank = None, (-1, -1)
    for x in nest.reduced:
        if any(x in g.index.axes for g in guards):
            continue
        step = integer.coefficient(offset, x)
        assert step is not None
        extent = integer.as_int(x.extent)
        length = 1 << 20 if extent is None else extent
        rank = (int(length >= SHORT_PATCH) + int(integer.as_int(step[0]) == 1), length)
        if rank > best_rank:
            best, best_rank = x, rank
    return best


def prepare_a(nest: ContractionNest, layouts: Layouts) -> tuple[list[MapNest], ContractionNest]:
    """Make `a` readable in place: the maps that copy it if need be, and the nest that reads the copy."""
    reason = decline_in_place(nest, layouts)
    if reason is None:
        if ex.load_fill(nest.a) is None:
            return [], nest
        guards = find_guards(nest.a)
        if not guards:
            return [], replace(nest, a=ex.load(ex.load_tensor(nest.a), nest.a.args))
        inner = choose_inner(nest, layouts, guards)
        extent = None if inner is None else integer.as_int(inner.extent)
        if inner is not None and (extent is None or extent >= SHORT_PATCH) and integer.coefficient(flat_offset(nest.a, layouts), inner)[0] is ONE:
            return [], nest
    padded = copy_padded(nest)
    if padded is None:
        padded = copy_dense(nest)
    return [padded[0]], padded[1]


def copy_padded(nest: ContractionNest, last: Expr | None = None) -> tuple[MapNest, ContractionNest] | None:
    """Copy what `a` loads element by element, padding included and converted: copy[i] = a's expression of load[i + low].

    Dimensions are reordered so that those of `last`, else reduced ones, lie innermost. None where `a` depends on axes other than through one load with affine indices.
    """
    axes = all_axes(nest)
    used = [e for e in ex.loads([nest.a]) if e.axes]
    if len(used) != 1:
        return None
    load = used[0]
    hole = ex.make("acc", (), load.dtype)
    if ex.substitute_one(nest.a, {load: hole}).axes or any(integer.affine(i, axes) is None for i in load.args):
        return None
    bounds = [(integer.lower(i), integer.upper(i)) for i in load.args]
    if any(lo is None or hi is None or ex.loads([lo, hi]) for lo, hi in bounds):
        return None
    reduced, rows = set(nest.reduced), set(nest.batch + nest.rows)

    def depth(d: int) -> tuple[int, int]:
        used = load.args[d].axes
        return (3 if last in used else 2 if used & reduced and not used & rows else 1 if used & reduced else 0), d
    order = sorted(range(len(load.args)), key=depth)
    sizes = [bounds[d][1] - bounds[d][0] + 1 for d in order]
    fresh = [ex.axis(n, "i") for n in sizes]
    source: list[Expr] = [ZERO] * len(order)
    for d, i in zip(order, fresh):
        source[d] = i + bounds[d][0]
    tensor = ex.load_tensor(load)
    element = ex.load(tensor, source, ex.load_fill(load))
    copy = Tensor(f"{tensor.name}.regular", operand_dtype(nest), tuple(sizes))
    value = ex.substitute_one(nest.a, {load: element})
    made = MapNest(tuple(fresh), (Store(copy, tuple(fresh), value),), nest.origin)
    return made, replace(nest, a=copy[tuple(load.args[d] - bounds[d][0] for d in order)])


def copy_dense(nest: ContractionNest) -> tuple[MapNest, ContractionNest]:
    """Copy `a` as batch x rows x reduced."""
    used = tuple(x for x in nest.batch + nest.rows + nest.reduced if x in nest.a.axes)
    copy = Tensor(f"{nest.outputs[0].name}.a", operand_dtype(nest), tuple(x.extent for x in used))
    fresh = {x: ex.axis(x.extent, "i") for x in used}
    made = MapNest(tuple(fresh.values()), (Store(copy, tuple(fresh.values()), ex.substitute_one(nest.a, fresh)),), nest.origin)
    return made, replace(nest, a=copy[used])


# ------------------------------------------------------------------------------------------------------------------------ operand b
def packed_tensor(p: Product, width: int) -> Tensor:
    """Panels of b: batch x panels x taps x inner x width."""
    batch = [x.extent for x in p.batch if x in p.b.axes]
    return Tensor(f"{p.stores[0].tensor.name}.panels", p.b_dtype, (*batch, ex.ceildiv(extent_product(p.columns), width), *(x.extent for x in p.reduced), ex.const(width)))


def pack_b(p: Product, width: int, packed: Tensor, shifted: bool) -> MapNest:
    """packed[batch, column // width, taps, inner, column % width] = b.

    The last panel holds the last `width` columns if `shifted`, else columns past the last repeat it.
    """
    columns = extent_product(p.columns)
    axes = {x: ex.axis(x.extent, "i") for x in (*(x for x in p.batch if x in p.b.axes), *p.reduced)}
    panel, lane = ex.axis(ex.ceildiv(columns, width), "p"), ex.axis(width, "l")
    column = ex.minimum(panel * width, columns - width) + lane if shifted else ex.minimum(panel * width + lane, columns - 1)
    mapping = dict(axes)
    mapping.update(zip(p.columns, ex.unravel(column, [x.extent for x in p.columns])))
    index = (*(axes[x] for x in p.batch if x in axes), panel, *(axes[x] for x in p.reduced), lane)
    return MapNest(index, (Store(packed, index, ex.cast(ex.substitute_one(p.b, mapping), packed.dtype)),), p.origin)


# ----------------------------------------------------------------------------------------------------------------------- scheduling
def schedule_contraction(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor], target: Target) -> list[MapNest | KernelCall]:
    """Kernels for a contraction.

    Args:
        layouts: order of each tensor's dims in memory; tensors that are missing are row-major. Tensors made here are row-major.
        constants: tensors whose elements are known when compiling; maps over them alone may be computed then.

    Returns:
        Maps that write packed or copied operands, then kernel calls, in order of execution. A contraction that is not worth a kernel of its own (complex numbers,
        a single column) comes back as one map.
    """
    from . import blocking, conv, depthwise, dots, few_bits, gemm, rounded, winograd

    known = dict(layouts)
    coded = few_bits.schedule(nest, known, constants, target)
    if coded is not None:
        return coded
    nest = regroup(split_axes(blend_choices(nest)))
    if nest.dtype not in ACCUMULATORS:
        return [nest.as_map()]
    if any(integer.as_int(x.extent) == 0 for x in nest.reduced):
        return [nest.as_map()]
    windows = winograd.recognise(nest, known, constants, target)
    if windows is not None and not target.choice("windows", blocking.product_key(windows.p)):
        return winograd.schedule(windows, known, target)
    narrow = (conv.channel_dots(nest, known, constants, target) or dots.schedule_dots(nest, known, constants, target)
              or rounded.schedule_rounded(nest, known, constants, target))
    if narrow is not None:
        walk = depthwise.recognise(narrow[1])
        return [*narrow[0], *(gemm.schedule(narrow[1], known, target) if walk is None else depthwise.schedule(walk, known, target))]
    grouped = conv.small_groups(nest, known, target)
    if grouped is not None:
        maps, product = grouped
        walk = depthwise.recognise(product)
        if walk is not None:
            return [*maps, *depthwise.schedule(walk, known, target)]
    else:
        maps, nest = prepare_a(orient(nest, known, constants), known)
        in_place = not is_constant(nest.b, constants) and is_regular(nest.b, nest, known)
        nest = merge_axes(ordered(nest, known), known, in_place)
        if in_place and len(nest.columns) > 1:  # columns that do not lie as one are a matrix for each value of the outer ones
            nest = replace(nest, batch=nest.batch + nest.columns[:-1], columns=nest.columns[-1:])
        product = to_product(nest, known, in_place)
        if is_dot_products(nest, known) and not (is_constant(nest.b, constants) and blocking.walks_abreast(product, target)):
            return [*maps, nest.as_map()]
    return [*maps, *gemm.schedule(product, known, target)]


def ordered(nest: ContractionNest, layouts: Layouts) -> ContractionNest:
    """Axes of each group in the order of memory: rows and reduced as `a` lies, columns as the result lies."""
    results = [element_offset(s.tensor, s.index, layouts) for s in nest.stores]
    load = [flat_offset(nest.a, layouts)]
    return replace(nest, rows=memory_order(nest.rows, load + results), reduced=memory_order(nest.reduced, load), columns=memory_order(nest.columns, results),
                   batch=memory_order(nest.batch, results))


def is_regular(e: Expr, nest: ContractionNest, layouts: Layouts) -> bool:
    """Whether an operand is an element of the accumulator's type at regular steps."""
    return e.op == "load" and ex.load_fill(e) is None and e.dtype is operand_dtype(nest) and integer.affine(flat_offset(e, layouts), all_axes(nest)) is not None


def is_dot_products(nest: ContractionNest, layouts: Layouts) -> bool:
    """Whether the nest is a few rows (or columns) of long sums over adjacent elements of both operands: loops over the sums read everything once."""
    if len(nest.reduced) != 1 or not is_regular(nest.a, nest, layouts) or not is_regular(nest.b, nest, layouts):
        return False
    counts = [integer.as_int(extent_product(axes)) for axes in (nest.rows, nest.columns)]
    if all(c is None or c > 2 for c in counts) or (integer.as_int(nest.reduced[0].extent) or 1 << 20) < 16:
        return False
    return all(integer.coefficient(flat_offset(e, layouts), nest.reduced[0])[0] is ONE for e in (nest.a, nest.b))


def to_product(nest: ContractionNest, layouts: Layouts, b_in_place: bool) -> Product:
    guards = find_guards(nest.a)
    inner = choose_inner(nest, layouts, guards)
    taps = tuple(x for x in nest.reduced if x is not inner)
    fill = ex.load_fill(nest.a) if guards else 0
    return Product(nest.batch, nest.rows, nest.columns, taps, inner, ex.load_tensor(nest.a), flat_offset(nest.a, layouts), guards, fill or 0, nest.b, nest.dtype,
                   nest.stores, nest.origin, 0, flat_offset(nest.b, layouts) if b_in_place else None)
