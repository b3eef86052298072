"""Operators whose results depend on sorting or counting: TopK, NonZero, Compress, Unique.

Where the number of results is only known when running, a routine writes it into a tensor beside worst-case-sized buffers; maps whose extents
load that number take what was written.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Ref, Routine, load, store
from .base import Builder, Lowering, Op, Sample, register
from .callbacks import rank_strings, take_strings
from .elementwise import real_sample
from .views import View, call_host, select


# ---------------------------------------------------------------------------------------------------------------- positions
def positions(mask, count, found, size, lo, hi):
    """found[:count[0]] = the positions of the true elements of a mask, ascending."""
    number = 0
    for i in range(size):
        if load(mask, i):
            store(found, number, i)
            number += 1
    store(count, 0, number)


POSITIONS = Routine("positions", positions)


def true_positions(n: Lowering, mask: Tensor) -> tuple[Expr, Tensor]:
    """(number of true elements, buffer of their positions) of a mask."""
    size = mask.numel()
    count, found = n.routine(POSITIONS, [mask], [(dt.int64, [1]), (dt.int64, [size])], [size])
    return count[(0,)], found


@register
class NonZero(Op):
    """The coordinates of all elements that are not zero, one column each, in row-major order. Source: ONNX NonZero-13."""

    name, versions = "NonZero", (9, 13)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        count, found = true_positions(n, n.map(x.shape, lambda *i: ex.cast(x[i], dt.boolean)))
        if not x.rank:
            return n.map([0, count], lambda i, j: ex.const(0))
        return n.map([x.rank, count], lambda i, j: select(i, ex.unravel(found[j], x.shape)))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[1, 0, 2], [0, 0, 3]], np.float32),))
        yield Sample((np.array([True, False, True]),), name="bool")


@register
class Compress(View):
    """The slices along `axis` (elements, without axis) at which the condition holds. Source: ONNX Compress-28."""

    name, versions = "Compress", (9, 11, 28)

    def view(self, n: Lowering) -> Ref:
        x, condition, axis = n.input(0), n.input(1), n.attr("axis")
        most = x.numel() if axis is None else x.shape[n.axis(axis, x.rank)]
        if condition.numel() is not most:  # what lies beyond the data is passed over
            condition = n.map(condition.shape, lambda *i: ex.logical_and(condition[i], ex.linear_index(i, condition.shape) < most))
        count, found = true_positions(n, condition)
        if axis is None:
            last = x.numel() - 1
            return n.map([count], lambda j: x[ex.unravel(ex.minimum(found[j], last), x.shape)])
        at = n.axis(axis, x.rank)
        last = x.shape[at] - 1
        shape = [count if k == at else d for k, d in enumerate(x.shape)]
        return n.map(shape, lambda *i: x[(*i[:at], ex.minimum(found[i[at]], last), *i[at + 1:])])

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4))
        yield Sample((x, np.array([False, True, True])), {"axis": 0})
        yield Sample((x, np.array([False, True, False, True, True])), name="flat")


# --------------------------------------------------------------------------------------------------------------------- topk
def comes_after(a, i, b, j, largest):
    """Whether element a at position i ranks below element b at position j; of equal ones the later ranks below."""
    if a == b:
        return i > j
    return a < b if largest else a > b


def sift_down(values, places, base, inner, at, size, largest):
    """Restore the heap of which the element at `at` is out of place; its root is the lowest-ranked element."""
    value, place = load(values, base + at * inner), load(places, base + at * inner)
    child = 2 * at + 1
    while child < size:
        other = child + 1
        if other < size and comes_after(load(values, base + other * inner), load(places, base + other * inner),
                                        load(values, base + child * inner), load(places, base + child * inner), largest):
            child = other
        if not comes_after(load(values, base + child * inner), load(places, base + child * inner), value, place, largest):
            break
        store(values, base + at * inner, load(values, base + child * inner))
        store(places, base + at * inner, load(places, base + child * inner))
        at = child
        child = 2 * at + 1
    store(values, base + at * inner, value)
    store(places, base + at * inner, place)


def topk(x, values, places, size, k, inner, largest, lo, hi):
    """The k first-ranked of every lane of `size` elements, `inner` apart, best first: a heap of k, then taken apart. One unit is one lane."""
    for lane in range(lo, hi):
        source = (lane // inner) * size * inner + lane % inner
        base = (lane // inner) * k * inner + lane % inner
        for i in range(k):
            store(values, base + i * inner, load(x, source + i * inner))
            store(places, base + i * inner, i)
        for i in range(k // 2):
            sift_down(values, places, base, inner, k // 2 - 1 - i, k, largest)
        for i in range(k, size):
            value = load(x, source + i * inner)
            if k > 0 and comes_after(load(values, base), load(places, base), value, i, largest):
                store(values, base, value)
                store(places, base, i)
                sift_down(values, places, base, inner, 0, k, largest)
        for i in range(k - 1):
            last = base + (k - 1 - i) * inner
            value, place = load(values, last), load(places, last)
            store(values, last, load(values, base))
            store(places, last, load(places, base))
            store(values, base, value)
            store(places, base, place)
            sift_down(values, places, base, inner, 0, k - 1 - i, largest)


TOPK = Routine("topk", topk, (comes_after, sift_down))


@register
class TopK(Op):
    """The k largest (or smallest) elements along `axis` and their positions, best first; of equal ones the earlier first. Source: ONNX TopK-24."""

    name, versions = "TopK", (1, 10, 11, 24)
    attributes = {"axis": -1, "largest": 1, "sorted": 1}

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        x = n.input(0)
        axis = n.axis(n.attr("axis"), x.rank)
        size = x.shape[axis]
        k = ex.const(int(n.attr("k"))) if n.version < 10 else n.ints(1, 1)[0]
        if k.is_const and size.is_const and not 0 <= k.value <= size.value:
            raise n.error(f"k is {k.value}, the dimension has {size.value} elements")
        n.require(ex.logical_and(k >= 0, k <= size), f"k is {k.text}, the dimension has {size.text} elements")
        k = k if k.is_const and size.is_const else ex.minimum(ex.maximum(k, 0), size)
        shape = [k if d == axis else s for d, s in enumerate(x.shape)]
        inner = ex.product(x.shape[axis + 1:])
        lanes = ex.product(x.shape[:axis]) * inner
        return n.routine(TOPK, [x], [(x.dtype, shape), (dt.int64, shape)], [size, k, inner, int(n.attr("largest"))], units=lanes)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x = b.input(0)
        zero = b.add("Expand", b.add("CastLike", b.constant(0.0), x), b.add("Shape", x))
        places = b.add("TopK", *b.inputs, outputs=2, version=b.version, **b.node.attributes)[1]
        return [b.add("ScatterElements", zero, places, upstream[0], axis=b.attr("axis"))] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = np.array([[3, 1, 4, 1.5, 5], [9, 2, 6, 5, 5.5]], np.float32)
        yield Sample((x, np.array([3])), outputs=2)
        yield Sample((x, np.array([1])), {"axis": 0, "largest": 0}, outputs=2, name="smallest")
        yield Sample((x.astype(np.int64), np.array([4])), outputs=2, name="ties")
        yield Sample((x,), {"k": 5}, outputs=2, version=1, name="all")


# ------------------------------------------------------------------------------------------------------------------- unique
def slice_order(x, a, b, size, outer, inner):
    """-1, 0 or 1 as slice a comes before, equals or comes after slice b, element by element; NaN comes last and equals NaN."""
    for o in range(outer):
        for k in range(inner):
            u, v = load(x, (o * size + a) * inner + k), load(x, (o * size + b) * inner + k)
            if u < v or (v != v and u == u):
                return -1
            if u > v or (u != u and v == v):
                return 1
    return 0


def unique(x, count, first, inverse, counts, order, spare, size, outer, inner, ascending, lo, hi):
    """Groups of equal slices: their number, first members, the group of every slice and group sizes. A stable merge sort orders the slices."""
    for i in range(size):
        store(order, i, i)
    width = 1
    while width < size:
        for start in range(0, size, 2 * width):
            middle, end = min(start + width, size), min(start + 2 * width, size)
            i, j = start, middle
            for at in range(start, end):
                if i < middle and (j >= end or slice_order(x, load(order, i), load(order, j), size, outer, inner) <= 0):
                    store(spare, at, load(order, i))
                    i += 1
                else:
                    store(spare, at, load(order, j))
                    j += 1
        for i in range(size):
            store(order, i, load(spare, i))
        width *= 2
    groups = 0
    for i in range(size):
        member = load(order, i)
        if i == 0 or slice_order(x, load(order, i - 1), member, size, outer, inner) != 0:
            store(first, groups, member)
            store(counts, groups, 0)
            groups += 1
        store(counts, groups - 1, load(counts, groups - 1) + 1)
        store(inverse, member, groups - 1)
    if not ascending:
        seen = 0
        for i in range(size):
            group = load(inverse, i)
            if load(first, group) == i:
                store(spare, group, seen)
                seen += 1
        for g in range(groups):
            store(order, load(spare, g), load(counts, g))
        for g in range(groups):
            store(counts, g, load(order, g))
        for g in range(groups):
            store(order, load(spare, g), load(first, g))
        for g in range(groups):
            store(first, g, load(order, g))
        for i in range(size):
            store(inverse, i, load(spare, load(inverse, i)))
    store(count, 0, groups)


UNIQUE = Routine("unique", unique, (slice_order,))


@register
class Unique(Op):
    """The distinct elements (or slices along `axis`), ascending or in order of appearance, with first positions, groups and counts.

    Strings are ranked by the host first. Source: ONNX Unique-28.
    """

    name, versions = "Unique", (11, 28)
    attributes = {"sorted": 1}

    def lower(self, n: Lowering) -> list[Ref | None]:
        x = n.input(0)
        if x.dtype.kind == "complex":
            raise n.unsupported("Unique of complex numbers")
        ranks = x
        if x.dtype is dt.string:
            ranks = call_host(n, rank_strings, [x], dt.int64, x.shape, "strings are compared")
        axis = n.attr("axis")
        at = 0 if axis is None else n.axis(axis, x.rank)
        size = x.numel() if axis is None else x.shape[at]
        outer = ex.const(1) if axis is None else ex.product(x.shape[:at])
        inner = ex.const(1) if axis is None else ex.product(x.shape[at + 1:])
        count, first, inverse, counts, _, _ = n.routine(
            UNIQUE, [ranks], [(dt.int64, [1])] + [(dt.int64, [size])] * 5, [size, outer, inner, int(n.attr("sorted"))])
        number = count[(0,)]
        y = self._taken(n, x, first, number, None if axis is None else at) if n.wants(0) else None
        return [y, *(n.map([number], lambda j, t=t: t[j]) if n.wants(k) else None for k, t in ((1, first),)),
                inverse if n.wants(2) else None, n.map([number], lambda j: counts[j]) if n.wants(3) else None]

    @staticmethod
    def _taken(n: Lowering, x: Tensor, first: Tensor, number: Expr, at: int | None) -> Tensor:
        if at is None:
            shape: list[Expr] = [number]
            place = n.map(shape, lambda j: first[j])
        else:
            shape = [number if k == at else d for k, d in enumerate(x.shape)]
            place = n.map(shape, lambda *i: ex.linear_index((*i[:at], first[i[at]], *i[at + 1:]), x.shape))
        if x.dtype is dt.string:
            return call_host(n, take_strings, [place, x], dt.string, shape, "strings are moved")
        return n.map(shape, lambda *i: x[ex.unravel(place[i], x.shape)])

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        x = np.array([2, 1, 1, 3, 4, 3], np.float32)
        yield Sample((x,), outputs=4)
        yield Sample((x,), {"sorted": 0}, outputs=4, name="appearance")
        yield Sample((np.array([[1, 0, 0], [1, 0, 0], [2, 3, 4]], np.int64),), {"axis": 0}, outputs=4, name="rows")
