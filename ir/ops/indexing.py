"""Operators that read or write at computed positions. Indices out of range are errors when running, and never lead out of a buffer."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..errors import UnknownRankError
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Ref, Routine, load, store
from .base import Builder, Lowering, Sample, register
from .elementwise import real_sample
from .views import View, as_size, from_end, guarded, within


def index_reader(n: Lowering, input_index: int, size: Expr) -> Callable[..., Expr]:
    """A function from a position in an index tensor to a safe index along a dimension of `size`.

    Known indices in arithmetic progression along each dimension become affine expressions, so that taking a row, every second row or windows is a view.
    """
    t, known = n.input(input_index), n.known(input_index)
    require_indices(n, input_index, size)
    if known is not None and known.size:
        flat = known.reshape(-1).astype(np.int64)
        bounded = size.is_const and flat.min() >= -size.value and flat.max() < size.value
        if bounded:
            flat = np.where(flat < 0, flat + size.value, flat)
        if bounded or flat.size == 1:
            steps = progression(flat.reshape(known.shape))
            if steps is not None:
                first = within(ex.const(int(flat[0])), size)
                return lambda *i: ex.total([first, *(k * step for k, step in zip(i, steps))])
            if (known >= 0).all():
                return lambda *i: ex.cast(t[i], dt.int64)
    elif _count(t) == 1:
        single = within(n.ints(input_index)[0], size)
        return lambda *i: single
    return lambda *i: within(ex.cast(t[i], dt.int64), size)


def progression(indices: np.ndarray) -> list[int] | None:
    """The step of known indices along each dimension, None where some dimension has no constant one."""
    whole, steps = indices.reshape(-1)[:1].reshape((1,) * indices.ndim), []
    for d, n in enumerate(indices.shape):
        at = [0] * indices.ndim
        at[d] = min(1, n - 1)
        steps.append(int(indices[tuple(at)] - indices[(0,) * indices.ndim]))
        whole = whole + steps[-1] * np.arange(n).reshape([n if k == d else 1 for k in range(indices.ndim)])
    return steps if np.array_equal(whole, indices) else None


OUTSIDE = "an index is out of range"


def inside(index: Expr, size: Expr) -> Expr:
    """Whether an index that counts from the end where it is negative lies in a dimension."""
    index = ex.cast(index, dt.int64)
    return ex.logical_and(index >= -size, index < size)


def require_indices(n: Lowering, input_index: int, size: Expr) -> None:
    """Demand indices in a dimension of `size`: without a kernel where they are known, or one alone."""
    t, known, content = n.input(input_index), n.known(input_index), n.content(input_index)
    if known is not None and known.size:
        least = max(int(known.max()) + 1, -int(known.min()))
        if not size.is_const:
            n.require(size >= least, f"{OUTSIDE}: {least} elements are needed, the dimension has {size.text}")
        elif size.value < least:
            n.demand(t.shape, lambda *i: inside(t[i], size), f"{OUTSIDE}: the dimension has {size.text} elements, {least} are needed")
    elif content is not None or (known is None and _count(t) == 1):
        for e in n.ints(input_index, 1 if content is None else None):
            holds = inside(e, size)
            if not holds.is_const:
                n.require(holds, f"{OUTSIDE}: the dimension has {size.text} elements")
    elif known is None:
        n.demand(t.shape, lambda *i: inside(t[i], size), f"{OUTSIDE}: the dimension has {size.text} elements")


def _count(t: Tensor) -> int | None:
    return ex.integer.as_int(t.numel())


# ------------------------------------------------------------------------------------------------------------------ reading
@register
class Gather(View):
    """Slices of the data along `axis` at the given indices. Source: ONNX Gather-13."""

    name, versions = "Gather", (1, 11, 13)
    attributes = {"axis": 0}

    def view(self, n: Lowering) -> Ref:
        x, at = n.input(0), n.input(1)
        axis = n.axis(n.attr("axis"), x.rank)
        read = index_reader(n, 1, x.shape[axis])
        middle = axis + at.rank
        return n.map([*x.shape[:axis], *at.shape, *x.shape[axis + 1:]], lambda *i: x[(*i[:axis], read(*i[axis:middle]), *i[middle:])])

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, at = b.input(0), b.input(1)
        rank, count = len(b.type(x).shape), len(b.type(at).shape)
        axis = int(b.attr("axis")) % rank
        zero = b.add("Expand", b.add("CastLike", b.constant(0.0), x), b.add("Shape", x))
        order = tuple(range(axis, axis + count)) + tuple(range(axis)) + tuple(range(axis + count, rank + count - 1))
        updates = b.add("Transpose", upstream[0], perm=order) if axis else upstream[0]
        front = (axis, *range(axis), *range(axis + 1, rank))
        target = b.add("Transpose", zero, perm=front) if axis else zero
        places = b.add("Unsqueeze", b.add("Cast", at, to=dt.int64.code), [-1])
        summed = b.add("ScatterND", target, places, updates, reduction="add")
        back = tuple(front.index(k) for k in range(rank))
        return [b.add("Transpose", summed, perm=back) if axis else summed, None]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((4, 3))
        yield Sample((x, np.array([[0, 2], [-1, 2]], np.int32)), name="int32")
        yield Sample((x, np.array(1)), {"axis": 1}, name="scalar")
        yield Sample((x, np.array([0, 2])), {"axis": 1}, name="progression")
        yield Sample((real_sample((2, 6, 3)), np.add.outer(np.arange(4), np.arange(3))), {"axis": 1}, name="windows")


@register
class GatherElements(View):
    """out[i] = data[i with indices[i] along `axis`]. Source: ONNX GatherElements-13."""

    name, versions = "GatherElements", (11, 13)
    attributes = {"axis": 0}

    def view(self, n: Lowering) -> Ref:
        x, at = n.input(0), n.input(1)
        axis = n.axis(n.attr("axis"), x.rank)
        if at.rank != x.rank:
            raise n.error(f"indices of rank {at.rank} were given for data of rank {x.rank}")
        read = index_reader(n, 1, x.shape[axis])
        return n.map(at.shape, lambda *i: x[(*i[:axis], read(*i), *i[axis + 1:])])

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        zero = b.add("Expand", b.add("CastLike", b.constant(0.0), b.input(0)), b.add("Shape", b.input(0)))
        return [b.add("ScatterElements", zero, b.input(1), upstream[0], axis=b.attr("axis"), reduction="add"), None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((3, 3)), np.array([[1, 2, -3], [2, 0, 0]])))
        yield Sample((real_sample((3, 3)), np.array([[1, 2], [2, 0], [0, 1]], np.int32)), {"axis": 1}, name="axis_1")


@register
class GatherND(View):
    """Slices of the data at index tuples, which are the last dimension of `indices`. Source: ONNX GatherND-13."""

    name = "GatherND"
    versions: ClassVar[tuple[int, ...]] = (11, 12, 13)
    attributes = {"batch_dims": 0}

    def view(self, n: Lowering) -> Ref:
        x, at = n.input(0), n.input(1)
        batch, depth = n.attr("batch_dims"), tuple_length(n, at)
        lead = at.rank - 1
        require_tuples(n, at, x.shape[batch:batch + depth])

        def body(*i: Expr) -> Expr:
            index = [within(ex.cast(at[(*i[:lead], ex.const(k))], dt.int64), x.shape[batch + k]) for k in range(depth)]
            return x[(*i[:batch], *index, *i[lead:])]
        return n.map([*at.shape[:-1], *x.shape[batch + depth:]], body)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.attr("batch_dims"):
            raise b.unsupported("the gradient of GatherND with batch_dims is not defined")
        zero = b.add("Expand", b.add("CastLike", b.constant(0.0), b.input(0)), b.add("Shape", b.input(0)))
        return [b.add("ScatterND", zero, b.input(1), upstream[0], reduction="add"), None]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x, np.array([[0, 1], [-1, 2]])))
        yield Sample((x, np.array([[1], [0]])), {"batch_dims": 1}, name="batch")


def require_tuples(n: Lowering, at: Tensor, dims: Sequence[Expr]) -> None:
    """Demand that the tuples of indices, input 1, lie within `dims`."""
    known, sizes = n.known(1), [ex.integer.as_int(d) for d in dims]
    fits = known is not None and all(s is not None and bool(((known[..., k] >= -s) & (known[..., k] < s)).all()) for k, s in enumerate(sizes))

    def holds(*i: Expr) -> Expr:
        found: Expr = ex.const(True, dt.boolean)
        for k, d in enumerate(dims):
            found = ex.logical_and(found, inside(at[(*i, ex.const(k))], d))
        return found
    if not fits:
        n.demand(at.shape[:-1], holds, OUTSIDE)


def tuple_length(n: Lowering, at: Tensor) -> int:
    """The length of the index tuples that `at` holds."""
    depth = ex.integer.as_int(at.shape[-1]) if at.rank else None
    if depth is None:
        raise UnknownRankError("the last dimension of the indices is only known when running", n.label)
    return depth


# ------------------------------------------------------------------------------------------------------------------ writing
REDUCTIONS = {"none": None, "add": "ADD", "mul": "MULTIPLY", "max": "LARGEST", "min": "SMALLEST"}  # the constant of `scatter` that each sets
ADD = MULTIPLY = LARGEST = SMALLEST = False


def scatter(x, rows, updates, y, count, size, lo, hi):
    """y = x, then the updates in their order: update u changes the `size` elements of row rows[u] (negative: none). One unit is one row of y."""
    for i in range(lo * size, hi * size):
        store(y, i, load(x, i))
    for u in range(count):
        row = load(rows, u)
        if lo <= row and row < hi:
            for k in range(size):
                at = row * size + k
                new = load(updates, u * size + k)
                if ADD:
                    store(y, at, load(y, at) + new)
                elif MULTIPLY:
                    store(y, at, load(y, at) * new)
                elif LARGEST:
                    old = load(y, at)
                    store(y, at, new if new > old or new != new else old)
                elif SMALLEST:
                    old = load(y, at)
                    store(y, at, new if new < old or new != new else old)
                else:
                    store(y, at, new)


SCATTER = Routine("scatter", scatter)


def scattered(n: Lowering, x: Tensor, rows: Tensor, updates: Tensor, size: Expr) -> Tensor:
    """`x` with rows of `size` elements changed by `updates`, as the attribute `reduction` says."""
    mode = n.attr("reduction", "none")
    if mode not in REDUCTIONS:
        raise n.error(f"reduction is '{mode}'; one of {', '.join(REDUCTIONS)} was expected")
    units = _rows_of(x, size)
    if x.dtype.kind == "complex" and mode in ("max", "min"):
        raise n.unsupported(f"scattering with reduction '{mode}' into {x.dtype.name}, which has no order")
    if x.dtype is dt.boolean:  # or, and
        mode = {"add": "max", "mul": "min"}.get(mode, mode)
    constants = {name: mode == of for of, name in REDUCTIONS.items() if name}
    return n.routine(SCATTER, [x, rows, updates], [(x.dtype, x.shape)], [rows.numel(), size], units=units, constants=constants)[0]


def _rows_of(x: Tensor, size: Expr) -> Expr:
    return ex.const(0) if size.is_const and size.value == 0 else x.numel() // size


@register
class ScatterElements(View):
    """data with out[i with indices[i] along `axis`] changed by updates[i]. Source: ONNX ScatterElements-18."""

    name = "ScatterElements"
    versions: ClassVar[tuple[int, ...]] = (11, 13, 16, 18)
    attributes = {"axis": 0, "reduction": "none"}

    def view(self, n: Lowering) -> Ref:
        x, at, updates = n.input(0), n.input(1), n.input(2)
        axis = n.axis(n.attr("axis"), x.rank)

        def row(*i: Expr) -> Expr:
            target = from_end(ex.cast(at[i], dt.int64), x.shape[axis])
            inside = ex.logical_and(target >= 0, target < x.shape[axis])
            return ex.where(inside, ex.linear_index((*i[:axis], target, *i[axis + 1:]), x.shape), -1)
        rows = n.map(at.shape, row, stem="rows")
        require_indices(n, 1, x.shape[axis])
        return scattered(n, x, rows, updates, ex.const(1))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.attr("reduction", "none") not in ("none", "add"):
            raise b.unsupported(f"the gradient of scattering with reduction '{b.attr('reduction')}' is not defined")
        to_updates = b.add("GatherElements", upstream[0], b.input(1), axis=b.attr("axis"))
        if b.attr("reduction", "none") == "add":
            return [upstream[0], None, to_updates]
        zeros = b.add("Sub", b.input(2), b.input(2))
        return [b.add("ScatterElements", upstream[0], b.input(1), zeros, axis=b.attr("axis")), None, to_updates]

    def samples(self) -> Iterator[Sample]:
        x, at, u = real_sample((3, 3)), np.array([[1, 0, -1], [0, 2, 1]]), real_sample((2, 3), 5, 9)
        yield Sample((x, at, u))
        yield Sample((x, at[:, :1], u[:, :1]), {"axis": 1}, name="axis_1")
        for reduction in ("add", "mul", "max", "min"):
            yield Sample((x, at * 0, u), {"reduction": reduction}, name=reduction)


@register
class Scatter(ScatterElements):
    """ScatterElements under its older name. Source: ONNX Scatter-11."""

    name = "Scatter"
    versions: ClassVar[tuple[int, ...]] = (9, 11)
    attributes = {"axis": 0}

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((3, 3)), np.array([[1, 0, 2]]), real_sample((1, 3), 5, 9)))


@register
class ScatterND(View):
    """data with the slices at index tuples changed by `updates`, in order. Source: ONNX ScatterND-18."""

    name, versions = "ScatterND", (11, 13, 16, 18)
    attributes = {"reduction": "none"}

    def view(self, n: Lowering) -> Ref:
        x, at, updates = n.input(0), n.input(1), n.input(2)
        depth = tuple_length(n, at)
        outer = x.shape[:depth]

        def row(*i: Expr) -> Expr:
            index = [from_end(ex.cast(at[(*i, ex.const(k))], dt.int64), d) for k, d in enumerate(outer)]
            inside = ex.const(True, dt.boolean)
            for k, d in zip(index, outer):
                inside = ex.logical_and(inside, ex.logical_and(k >= 0, k < d))
            return ex.where(inside, ex.linear_index(index, outer), -1)
        rows = n.map(at.shape[:-1], row, stem="rows")
        require_tuples(n, at, outer)
        return scattered(n, x, rows, updates, ex.product(x.shape[depth:]))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.attr("reduction") not in ("none", "add"):
            raise b.unsupported(f"the gradient of scattering with reduction '{b.attr('reduction')}' is not defined")
        to_updates = b.add("GatherND", upstream[0], b.input(1))
        if b.attr("reduction") == "add":
            return [upstream[0], None, to_updates]
        return [b.add("ScatterND", upstream[0], b.input(1), b.add("Sub", b.input(2), b.input(2))), None, to_updates]

    def samples(self) -> Iterator[Sample]:
        x, at, u = real_sample((4, 3)), np.array([[1], [-1], [1]]), real_sample((3, 3), 5, 9)
        for reduction in REDUCTIONS:
            yield Sample((x, at if reduction != "none" else at[:2], u[:len(at) if reduction != "none" else 2]), {"reduction": reduction}, name=reduction)
        yield Sample((x, np.array([[0, 1], [3, 2]]), np.array([7, 8], np.float32)), name="elements")


@register
class TensorScatter(View):
    """A cache with `update` written from each batch entry's write index on, along `axis`; circular mode wraps. Source: ONNX TensorScatter-24."""

    name, versions = "TensorScatter", (24,)
    attributes = {"axis": -2, "mode": "linear"}

    def view(self, n: Lowering) -> Ref:
        past, update = n.input(0), n.input(1)
        axis = n.axis(n.attr("axis"), past.rank)
        if n.attr("mode") not in ("linear", "circular"):
            raise n.error(f"mode is '{n.attr('mode')}'; linear or circular was expected")
        start = n.optional(2)

        def body(*i: Expr) -> Expr:
            step = i[axis] if start is None else i[axis] - ex.cast(start[i[0]], dt.int64)
            if n.attr("mode") == "circular":
                step = step % past.shape[axis]
            written = ex.logical_and(step >= 0, step < update.shape[axis])
            return ex.where(written, guarded(update, (*i[:axis], step, *i[axis + 1:])), past[i])
        return n.map(past.shape, body)

    def samples(self) -> Iterator[Sample]:
        past, update = real_sample((2, 1, 4, 2)), real_sample((2, 1, 2, 2), 5, 9)
        yield Sample((past, update, np.array([1, 2])))
        yield Sample((past, update, np.array([3, 0])), {"mode": "circular"}, name="circular")
        yield Sample((past, update), name="from_zero")


@register
class OneHot(View):
    """values[1] where the index of the new dimension is the given one, values[0] elsewhere. Source: ONNX OneHot-28."""

    name, versions = "OneHot", (9, 11, 28)
    attributes = {"axis": -1}

    def view(self, n: Lowering) -> Ref:
        at, values = n.input(0), n.input(2)
        axis = n.axis(n.attr("axis"), at.rank, inclusive=True)
        depth = as_size(n, n.ints(1)[0])

        def body(*i: Expr) -> Expr:
            wanted = from_end(ex.cast(at[(*i[:axis], *i[axis + 1:])], dt.int64), depth)
            return ex.where(ex.equal(wanted, i[axis]), values[(1,)], values[(0,)])
        return n.map([*at.shape[:axis], depth, *at.shape[axis:]], body)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None, None, None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([0, 2, -1, 7]), np.array(3), np.array([0, 5], np.float32)))
        yield Sample((np.array([[0, 2], [1, 1]]), np.array([3]), np.array([1, 5], np.int32)), {"axis": 1}, name="axis")
