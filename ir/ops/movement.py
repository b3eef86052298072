"""Operators that move elements: shapes, slices, joins, padding. All are index maps over their inputs."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Ref
from .base import REQUIRED, Builder, Lowering, Op, Sample, broadcast_index, broadcast_shapes, register
from .casting import element_type
from .elementwise import real_sample, sum_to
from .views import (View, axis_flags, axis_list, by_axis, choose, drop_dims, guarded, holds, is_one, reshaped, select, slice_range, surely_positive)

SHAPE_VERSIONS = (13, 21, 23, 24, 25)


def int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def reshape_gradient(b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
    """The gradient of any operator that keeps the elements in order."""
    return [b.add("Reshape", upstream[0], b.add("Shape", b.input(0)))] + [None] * (len(b.inputs) - 1)


# ------------------------------------------------------------------------------------------------------------------ shapes
@register
class Reshape(View):
    """The elements in row-major order under another shape; 0 keeps a dimension (unless allowzero), -1 takes the rest. Source: ONNX Reshape-25."""

    name, versions = "Reshape", (1, 5, 13, 14, 19, 21, 23, 24, 25)
    attributes = {"allowzero": 0}

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        wanted = [ex.const(int(d)) for d in n.attr("shape")] if n.version < 5 else list(n.ints(1))
        return reshaped(n, x, self._resolve(n, x, wanted))

    @staticmethod
    def _resolve(n: Lowering, x: Tensor, wanted: list[Expr]) -> list[Expr]:
        dims: list[Expr] = []
        for k, d in enumerate(wanted):
            if not n.attr("allowzero") and not surely_positive(d):
                if d.is_const and d.value == 0 and k >= x.rank:
                    raise n.error(f"dimension {k} of the new shape is 0, but the input has rank {x.rank}")
                if k < x.rank:
                    d = ex.where(ex.equal(d, 0), x.shape[k], d)
            dims.append(d)
        if sum(d.is_const and d.value == -1 for d in dims) > 1:
            raise n.error("more than one dimension of the new shape is -1")
        unknown = [d for d in dims if d.is_const and d.value == -1 or not d.is_const and not surely_positive(d)]
        if unknown:
            known = ex.product(ex.where(ex.equal(d, -1), 1, d) if d in unknown else d for d in dims)
            certain = any(d.is_const and d.value == -1 for d in unknown)
            if certain and len(unknown) == 1:
                rest = _quotient(x.numel(), known)
                dims = [rest if d.is_const and d.value == -1 else d for d in dims]
            else:
                rest = x.numel() // ex.maximum(known, 1)
                dims = [ex.where(ex.equal(d, -1), rest, d) if d in unknown else d for d in dims]
        have, new = x.numel(), ex.product(dims)
        if have.is_const and new.is_const and have.value != new.value:
            raise n.error(f"{have.value} elements do not fit the shape {[d.text for d in dims]}")
        return dims

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return reshape_gradient(b, upstream)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x, int64(4, 6)))
        yield Sample((x, int64(0, -1, 2)), name="zero_minus_one")
        yield Sample((x[:0], int64(0, 3, 4)), {"allowzero": 1}, name="allowzero")
        yield Sample((x, int64(2, 1, 3, 4, 1)), name="units")


def _quotient(total: Expr, known: Expr) -> Expr:
    if known.is_const and known.value == 0:
        return ex.const(0)
    return total // known


@register
class Flatten(View):
    """A matrix: dimensions before `axis` by those from it on. Source: ONNX Flatten-25."""

    name, versions = "Flatten", (1, 9, 11, *SHAPE_VERSIONS)
    attributes = {"axis": 1}

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        at = n.axis(n.attr("axis"), x.rank, inclusive=n.attr("axis") >= 0)
        return reshaped(n, x, [ex.product(x.shape[:at]), ex.product(x.shape[at:])])

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return reshape_gradient(b, upstream)

    def samples(self) -> Iterator[Sample]:
        for at in (0, 1, 3, -1):
            yield Sample((real_sample((2, 3, 4)),), {"axis": at})


@register
class Squeeze(View):
    """Without the unit dimensions named by `axes` (all of them where none is named). Source: ONNX Squeeze-25."""

    name, versions = "Squeeze", (1, 11, *SHAPE_VERSIONS)

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        axes = axis_list(n, 1, "axes", x.rank)
        if axes is None:
            dims = [d for d in x.shape if not is_one(d)]
        else:
            flags = axis_flags(n, axes, x.rank)
            for k, f in enumerate(flags):
                if holds(f) and x.shape[k].is_const and x.shape[k].value != 1:
                    raise n.error(f"dimension {k} is {x.shape[k].value}; only dimensions of size 1 can be squeezed")
            dims = drop_dims(x.shape, flags, len(axes))
        return reshaped(n, x, dims)

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return reshape_gradient(b, upstream)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((1, 3, 1, 4))
        yield Sample((x,), name="all")
        yield Sample((x, int64(-2)), name="one")
        yield Sample((x,), {"axes": (0,)}, version=11, name="attribute")


@register
class Unsqueeze(View):
    """With unit dimensions inserted so that they stand at `axes` of the result. Source: ONNX Unsqueeze-25."""

    name, versions = "Unsqueeze", (1, 11, *SHAPE_VERSIONS)

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        count = len(n.attr("axes")) if n.version < 13 else len(n.ints(1))
        rank = x.rank + count
        flags = axis_flags(n, axis_list(n, 1, "axes", rank) or [], rank)
        if all(f.is_const for f in flags):
            left = iter(x.shape)
            if sum(holds(f) for f in flags) != count:
                raise n.error("an axis is named twice")
            return reshaped(n, x, [ex.const(1) if f.value else next(left) for f in flags])
        kept = [ex.cast(ex.logical_not(f), dt.int64) for f in flags]
        dims = [ex.where(f, 1, select(ex.total(kept[:k]), x.shape) if x.rank else ex.const(1)) for k, f in enumerate(flags)]
        return reshaped(n, x, dims)

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return reshape_gradient(b, upstream)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4))
        yield Sample((x, int64(0, -1)))
        yield Sample((x,), {"axes": (1,)}, version=11, name="attribute")


@register
class Transpose(View):
    """Dimensions permuted; reversed by default. Source: ONNX Transpose-25."""

    name, versions = "Transpose", (1, *SHAPE_VERSIONS)

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        perm = n.attr("perm")
        perm = list(range(x.rank))[::-1] if perm is None else [n.axis(p, x.rank) for p in perm]
        if sorted(perm) != list(range(x.rank)):
            raise n.error(f"perm {perm} is no permutation of {x.rank} dimensions")
        if perm == sorted(perm):
            return x
        back = [perm.index(k) for k in range(x.rank)]
        return n.map([x.shape[p] for p in perm], lambda *i: x[tuple(i[k] for k in back)])

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        perm = b.attr("perm")
        if perm is None:
            return [b.add("Transpose", upstream[0])]
        return [b.add("Transpose", upstream[0], perm=tuple(perm.index(k) for k in range(len(perm))))]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x,), name="reversed")
        yield Sample((x,), {"perm": (1, 0, 2)})


@register
class Expand(View):
    """Broadcast to the common shape of the input and `shape`. Source: ONNX Expand-13."""

    name, versions = "Expand", (8, 13)

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        return broadcast_to(n, x, broadcast_shapes([x.shape, n.ints(1)], n))

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [sum_to(b, upstream[0], b.input(0)), None]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 1))
        yield Sample((x, int64(2, 1, 4)))
        yield Sample((x, int64(1, 1)), name="same")


def broadcast_to(n: Lowering, x: Tensor, shape: Sequence[Expr]) -> Tensor:
    lead = len(shape) - x.rank
    if not lead and all(a is b for a, b in zip(shape, x.shape)):
        return x
    return n.map(shape, lambda *i: x[tuple(broadcast_index(d, shape[lead + k], i[lead + k]) for k, d in enumerate(x.shape))])


@register
class Tile(View):
    """The input repeated `repeats[k]` times along dimension k. Source: ONNX Tile-13."""

    name, versions = "Tile", (1, 6, 13)

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        if n.version < 6:
            repeats = by_axis(n.ints(2), n.ints(1), x.rank, [ex.const(1)] * x.rank)
        else:
            repeats = list(n.ints(1))
        if len(repeats) != x.rank:
            raise n.error(f"{len(repeats)} repeats were given for rank {x.rank}")

        def back(i: Expr, d: Expr, r: Expr) -> Expr:
            return i if is_one(r) else ex.const(0) if is_one(d) else i % d
        return n.map([d * r for d, r in zip(x.shape, repeats)], lambda *i: x[tuple(map(back, i, x.shape, repeats))])

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)), int64(2, 1)))
        yield Sample((real_sample((1, 3)), int64(3, 2)), name="unit")


@register
class Shape(Op):
    """The sizes of dimensions start to end. Source: ONNX Shape-25."""

    name, versions = "Shape", (1, 13, 15, 19, 21, 23, 24, 25)
    attributes = {"start": 0}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        dims = x.shape[slice(n.attr("start"), n.attr("end"))]
        return n.map([len(dims)], lambda i: select(i, dims) if dims else ex.const(0))

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x,))
        yield Sample((x,), {"start": -2, "end": 10}, name="range")


@register
class Size(Op):
    """The number of elements. Source: ONNX Size-25."""

    name, versions = "Size", (1, 13, 19, 21, 23, 24, 25)

    def lower(self, n: Lowering) -> Ref:
        return n.map([], lambda: n.input(0).numel())

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)),))


# ------------------------------------------------------------------------------------------------------- joining and cutting
@register
class Concat(View):
    """The inputs one after another along `axis`. Source: ONNX Concat-13."""

    name, versions = "Concat", (1, 4, 11, 13)

    def view(self, n: Lowering) -> Ref:
        xs = [n.input(k) for k in range(max(1, len(n.inputs)))]
        found = n.attr("axis", 1 if n.version < 4 else None)
        if found is None:
            raise n.error("attribute 'axis' of Concat is missing")
        at = n.axis(found, xs[0].rank)
        if any(x.rank != xs[0].rank for x in xs):
            raise n.error(f"inputs of ranks {[x.rank for x in xs]} cannot be joined")
        full = [x for x in xs if not (x.shape[at].is_const and x.shape[at].value == 0)] or xs[:1]
        if len(full) == 1:
            return full[0]
        return joined(n, full, at)

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        at = b.attr("axis")
        sizes = [b.add("Shape", x) for x in b.inputs]
        lengths = b.add("Concat", *[b.add("Gather", s, [at]) for s in sizes], axis=0)
        parts = b.add("Split", upstream[0], lengths, outputs=len(sizes), axis=at)
        return parts if isinstance(parts, list) else [parts]

    def samples(self) -> Iterator[Sample]:
        a, b, c = real_sample((2, 3)), real_sample((2, 1), 5, 6), real_sample((2, 2), 7, 9)
        yield Sample((a, b, c), {"axis": 1})
        yield Sample((a, a + 1, a + 2, a + 3, a + 4), {"axis": -2}, name="many")
        yield Sample((a, a[:, :0], b), {"axis": 1}, name="empty")


def joined(n: Lowering, xs: Sequence[Tensor], at: int) -> Tensor:
    """The tensors one after another along dimension `at`."""
    starts = [ex.total(x.shape[at] for x in xs[:k]) for k in range(len(xs))]
    total = ex.total(x.shape[at] for x in xs)
    first = xs[0].shape

    def common(k: int) -> Expr:
        return next((x.shape[k] for x in xs if x.shape[k].is_const), first[k])

    def body(*i: Expr) -> Expr:
        return choose(i[at], starts, [guarded(x, (*i[:at], i[at] - s, *i[at + 1:])) for x, s in zip(xs, starts)])
    return n.map([total if k == at else common(k) for k in range(len(first))], body)


@register
class Split(View):
    """Consecutive parts along `axis`: of given sizes, or equal ones (from version 18 on, the last may be smaller). Source: ONNX Split-18."""

    name, versions = "Split", (1, 2, 11, 13, 18)
    attributes = {"axis": 0}

    def view(self, n: Lowering) -> list[Ref | None]:
        x = n.input(0)
        at = n.axis(n.attr("axis"), x.rank)
        count = len(n.node.outputs)
        sizes = self._sizes(n, x.shape[at], count)
        out: list[Ref | None] = []
        for k in range(count):
            out.append(self._part(n, x, at, ex.total(sizes[:k]), sizes[k]) if n.wants(k) else None)
        return out

    @staticmethod
    def _sizes(n: Lowering, size: Expr, count: int) -> list[Expr]:
        given = n.attr("split") if n.version < 13 else None
        if given is not None:
            sizes = [ex.const(int(s)) for s in given]
        elif n.has(1):
            sizes = list(n.ints(1))
        else:
            if n.version < 18 and size.is_const and size.value % count:
                raise n.error(f"a dimension of {size.value} cannot be split into {count} equal parts")
            part = ex.ceildiv(size, count)
            sizes = [part] * (count - 1) + [size - part * (count - 1)]
        if len(sizes) != count:
            raise n.error(f"{len(sizes)} split sizes were given for {count} outputs")
        total = ex.total(sizes)
        if total.is_const and size.is_const and total.value != size.value:
            raise n.error(f"the split sizes add up to {total.value}, the dimension is {size.value}")
        return sizes

    @staticmethod
    def _part(n: Lowering, x: Tensor, at: int, start: Expr, size: Expr) -> Tensor:
        shape = [size if k == at else d for k, d in enumerate(x.shape)]
        return n.map(shape, lambda *i: x[(*i[:at], i[at] + start, *i[at + 1:])])

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        if any(u is None for u in upstream):
            raise b.unsupported("the gradient of a Split with unused outputs needs zeros of their shapes")
        return [b.add("Concat", *upstream, axis=b.attr("axis"))] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 7))
        yield Sample((x, int64(3, 4)), {"axis": 1}, outputs=2)
        yield Sample((x,), {"axis": -1, "num_outputs": 3}, outputs=3, name="uneven")
        yield Sample((x,), {"axis": 0}, outputs=2, version=11, name="equal")


@register
class Slice(View):
    """x[start:end:step] along the given axes, with Python's clamping. Source: ONNX Slice-13."""

    name, versions = "Slice", (1, 10, 11, 13)

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        if n.version < 10:
            starts, ends = ([ex.const(int(v)) for v in n.attr(k, REQUIRED)] for k in ("starts", "ends"))
            axes, steps = axis_list(n, len(n.inputs), "axes", x.rank), None
        else:
            starts, ends = list(n.ints(1)), list(n.ints(2))
            axes, steps = list(n.ints(3)) if n.has(3) else None, list(n.ints(4)) if n.has(4) else None
        axes = [ex.const(k) for k in range(len(starts))] if axes is None else axes
        steps = [ex.const(1)] * len(starts) if steps is None else steps
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise n.error(f"starts, ends, axes and steps have lengths {len(starts)}, {len(ends)}, {len(axes)} and {len(steps)}")
        axis_flags(n, axes, x.rank)
        zero, one = [ex.const(0)] * x.rank, [ex.const(1)] * x.rank
        begin, stop, step = by_axis(axes, starts, x.rank, zero), by_axis(axes, ends, x.rank, list(x.shape)), by_axis(axes, steps, x.rank, one)
        ranges = [slice_range(*r) for r in zip(begin, stop, step, x.shape)]
        shape = [length for _, length in ranges]
        if all(a is b for a, b in zip(shape, x.shape)) and all(is_one(s) for s in step):
            return x
        return n.map(shape, lambda *i: x[tuple(first + k * s for (first, _), k, s in zip(ranges, i, step))])

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        x = b.input(0)
        count = b.add("Size", x)
        places = b.add("Reshape", b.add("Range", b.constant(np.array(0)), count, b.constant(np.array(1))), b.add("Shape", x))
        taken = b.add("Reshape", b.add("Slice", places, *b.inputs[1:], version=b.version, **b.node.attributes), [-1])
        zero = b.add("Expand", b.add("CastLike", b.constant(0.0), x), b.add("Reshape", count, [1]))
        flat = b.add("ScatterElements", zero, taken, b.add("Reshape", upstream[0], [-1]))
        return [b.add("Reshape", flat, b.add("Shape", x))] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((4, 5))
        yield Sample((x, int64(1, 0), int64(3, 2**62)), name="from_start")
        yield Sample((x, int64(-1), int64(-9), int64(1), int64(-2)), name="backwards")
        yield Sample((x, int64(3), int64(1), int64(0)), name="empty")
        yield Sample((x,), {"starts": (1,), "ends": (-1,), "axes": (1,)}, version=1, name="attributes")


# ----------------------------------------------------------------------------------------------------------------- padding
@register
class Pad(View):
    """Added (or, where negative, removed) positions at both ends of dimensions.

    Modes: constant, reflect (without repeating the edge), edge, wrap. Source: ONNX Pad-25.
    """

    name, versions = "Pad", (1, 2, 11, 13, 18, 19, 21, 23, 24, 25)
    attributes = {"mode": "constant", "value": 0.0}

    def view(self, n: Lowering) -> Ref:
        x = n.input(0)
        before, after = self._amounts(n, x)
        mode = n.attr("mode")
        if mode not in ("constant", "reflect", "edge", "wrap"):
            raise n.error(f"mode is '{mode}'; constant, reflect, edge or wrap was expected")
        shape = [d + a + b for d, a, b in zip(x.shape, before, after)]
        for d in shape:
            if d.is_const and d.value < 0:
                raise n.error("padding leaves a dimension of negative size")
        if mode != "constant":
            return n.map(shape, lambda *i: x[tuple(_fold_back(mode, k - a, d) if not _none(a, b) else k for k, a, b, d in zip(i, before, after, x.shape))])
        fill, value = self._fill(n, x)

        def body(*i: Expr) -> Expr:
            index = [k - a for k, a in zip(i, before)]
            if fill is not None:
                return ex.load(x, index, fill)
            inside = ex.const(True, dt.boolean)
            for k, a, b, d in zip(index, before, after, x.shape):
                if not _none(a, b):
                    inside = ex.logical_and(inside, ex.logical_and(0 <= k, k < d))
            return ex.where(inside, guarded(x, index), value)
        return n.map(shape, body, x.dtype)

    @staticmethod
    def _amounts(n: Lowering, x: Tensor) -> tuple[list[Expr], list[Expr]]:
        if n.version < 11:
            pads = [ex.const(int(p)) for p in n.attr("paddings" if n.version < 2 else "pads", REQUIRED)]
        else:
            pads = list(n.ints(1))
        axes = list(n.ints(3)) if n.version >= 18 and n.has(3) else [ex.const(k) for k in range(x.rank)]
        if len(pads) != 2 * len(axes):
            raise n.error(f"{len(pads)} pads were given for {len(axes)} axes; two for each were expected")
        axis_flags(n, axes, x.rank)
        zero = [ex.const(0)] * x.rank
        return by_axis(axes, pads[:len(axes)], x.rank, zero), by_axis(axes, pads[len(axes):], x.rank, zero)

    @staticmethod
    def _fill(n: Lowering, x: Tensor) -> tuple[object | None, Expr | None]:
        """(the constant to fill with, None), or (None, the expression of it)."""
        if n.version < 11:
            return n.attr("value"), None
        if not n.has(2):
            return 0, None
        known = n.known(2)
        if known is not None and known.dtype.kind in "fiub" and x.dtype.kind != "complex":
            return known.reshape(-1)[0].item(), None
        t = n.input(2)
        return None, ex.cast(t[(ex.const(0),) * t.rank], x.dtype)

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        if b.attr("mode") != "constant" or b.version < 11 or b.has(3):
            raise b.unsupported("only the gradient of constant padding of all axes is defined")
        shape = b.add("Shape", b.input(0))
        starts, _ = b.add("Split", b.input(1), outputs=2, num_outputs=2)
        ends = b.add("Add", starts, shape)
        return [b.add("Slice", upstream[0], starts, ends)] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4))
        yield Sample((x, int64(1, 0, 2, -1), np.float32(1.5)), name="constant")
        for mode in ("reflect", "edge", "wrap"):
            yield Sample((x, int64(2, 1, 1, 2)), {"mode": mode}, name=mode)
        yield Sample((x, int64(1, 2), None, int64(-1)), name="axes")
        yield Sample((x,), {"pads": (0, 1, 1, 0), "value": 2.0}, version=2, name="attributes")


def _none(before: Expr, after: Expr) -> bool:
    return before.is_const and after.is_const and before.value == 0 and after.value == 0


def _fold_back(mode: str, i: Expr, size: Expr) -> Expr:
    """The position inside [0, size) that a position outside stands for."""
    if mode == "edge":
        return ex.minimum(ex.maximum(i, 0), size - 1)
    if mode == "wrap":
        return i % size
    period = ex.maximum(size * 2 - 2, 1)
    phase = i % period
    return ex.minimum(phase, period - phase) if not is_one(size) else ex.const(0)


@register
class CenterCropPad(View):
    """Cut or zero-padded to the wanted sizes around the centre. Source: ONNX CenterCropPad-18."""

    name, versions = "CenterCropPad", (18,)

    def view(self, n: Lowering) -> Ref:
        x, wanted = n.input(0), n.ints(1)
        axes = n.attr("axes")
        axes = list(range(x.rank)) if axes is None else [n.axis(a, x.rank) for a in axes]
        shape = list(x.shape)
        shift: list[Expr] = [ex.const(0)] * x.rank
        for a, d in zip(axes, wanted, strict=True):
            shape[a] = d
            grow, cut = (d - x.shape[a]) // 2, (x.shape[a] - d) // 2
            shift[a] = ex.where(x.shape[a] < d, grow, -cut)
        return n.map(shape, lambda *i: guarded(x, [k - s for k, s in zip(i, shift)]))

    def samples(self) -> Iterator[Sample]:
        x = real_sample((5, 4))
        yield Sample((x, int64(3, 7)))
        yield Sample((x, int64(8)), {"axes": (-1,)}, name="axis")


# --------------------------------------------------------------------------------------------------------------- generation
@register
class ConstantOfShape(Op):
    """A tensor of the given shape filled with one value (float32 zero by default). Source: ONNX ConstantOfShape-25."""

    name, versions = "ConstantOfShape", (9, 20, 21, 23, 24, 25)

    def lower(self, n: Lowering) -> Ref:
        value = n.attr("value")
        array = np.zeros(1, np.float32) if value is None else np.asarray(value)
        kind = dt.of_numpy(array.dtype)
        element = array.reshape(-1)[0]
        number = complex(element) if kind.kind == "complex" else float(element) if kind.is_float else int(element)
        return n.map(n.ints(0), lambda *i: ex.const(number, kind))

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((int64(2, 3),))
        yield Sample((int64(2, 0),), {"value": np.array([7], np.int32)}, name="empty")


@register
class EyeLike(Op):
    """Ones on diagonal k of a matrix of the input's shape. Source: ONNX EyeLike-22."""

    name, versions = "EyeLike", (9, 22)
    attributes = {"k": 0}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        kind = element_type(n, "dtype", x.dtype)
        return n.map(x.shape, lambda i, j: ex.cast(ex.equal(i + n.attr("k"), j), kind), kind)

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.zeros((3, 4), np.int32),), {"k": 1, "dtype": dt.float32.code})


@register
class Range(Op):
    """start, start + delta, ... below limit. Source: ONNX Range-27."""

    name, versions = "Range", (11, 27)
    attributes = {"stash_type": 1}

    def lower(self, n: Lowering) -> Ref:
        kind = n.input(0).dtype
        compute = dt.compute_type(kind)
        if n.version >= 27 and kind in (dt.float16, dt.bfloat16):
            compute = element_type(n, "stash_type")
        start, limit, delta = (self._scalar(n, k) for k in range(3))
        if kind.is_float:
            start, limit, delta = (ex.cast(e, compute) for e in (start, limit, delta))
            count = ex.cast(ex.unary("ceil", (limit - start) / delta), dt.int64)
        else:
            start, limit, delta = (ex.cast(e, dt.int64) for e in (start, limit, delta))
            if delta.is_const and delta.value == 0:
                raise n.error("delta is 0")
            count = ex.ceildiv(limit - start, delta) if delta.is_const and delta.value > 0 else -((start - limit) // delta)
        return n.map([ex.maximum(count, 0)], lambda i: start + ex.cast(i, start.dtype) * delta, kind)

    @staticmethod
    def _scalar(n: Lowering, index: int) -> Expr:
        if n.known(index) is not None or n.input(index).dtype.is_integer:
            return n.elements(index)[0]
        t = n.input(index)
        return t[(ex.const(0),) * t.rank]

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None, None, None]

    def samples(self) -> Iterator[Sample]:
        for start, limit, delta in ((1, 10, 3), (10, 4, -2), (5, 5, 1)):
            yield Sample(tuple(np.array(v, np.int64) for v in (start, limit, delta)))
        yield Sample(tuple(np.array(v, np.float32) for v in (0.5, 3.1, 0.5)), name="float")


# ------------------------------------------------------------------------------------------------------- fixed rearrangement
@register
class DepthToSpace(View):
    """Blocks of channels laid out in space. Source: ONNX DepthToSpace-28."""

    name, versions = "DepthToSpace", (1, 11, 13, 28)
    attributes = {"blocksize": REQUIRED, "mode": "DCR"}

    def view(self, n: Lowering) -> Ref:
        x, block = n.input(0), n.attr("blocksize")
        batch, channels, height, width = x.shape
        depth = channels // (block * block)

        def body(b: Expr, c: Expr, h: Expr, w: Expr) -> Expr:
            by, bx = h % block, w % block
            channel = (by * block + bx) * depth + c if n.attr("mode") == "DCR" else (c * block + by) * block + bx
            return x[b, channel, h // block, w // block]
        return n.map([batch, depth, height * block, width * block], body)

    def samples(self) -> Iterator[Sample]:
        for mode in ("DCR", "CRD"):
            yield Sample((real_sample((1, 8, 2, 3)),), {"blocksize": 2, "mode": mode})


@register
class SpaceToDepth(View):
    """Blocks of space laid out in channels. Source: ONNX SpaceToDepth-28."""

    name, versions = "SpaceToDepth", (1, 13, 28)
    attributes = {"blocksize": REQUIRED, "mode": "DCR"}

    def view(self, n: Lowering) -> Ref:
        x, block = n.input(0), n.attr("blocksize")
        batch, channels, height, width = x.shape

        def body(b: Expr, c: Expr, h: Expr, w: Expr) -> Expr:
            if n.attr("mode") == "DCR":
                place, channel = c // channels, c % channels
            else:
                place, channel = c % (block * block), c // (block * block)
            return x[b, channel, h * block + place // block, w * block + place % block]
        return n.map([batch, channels * (block * block), height // block, width // block], body)

    def samples(self) -> Iterator[Sample]:
        for mode in ("DCR", "CRD"):
            yield Sample((real_sample((1, 2, 4, 6)),), {"blocksize": 2, "mode": mode})


@register
class Trilu(Op):
    """The upper (or lower) triangle of matrices from diagonal k on, zero elsewhere. Source: ONNX Trilu-14."""

    name, versions = "Trilu", (14,)
    attributes = {"upper": 1}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        k = n.ints(1)[0] if n.has(1) else ex.const(0)

        def body(*i: Expr) -> Expr:
            diagonal = i[-1] - i[-2] - k
            kept = 0 <= diagonal if n.attr("upper") else diagonal <= 0
            return ex.where(kept, x[i], ex.const(0, x.dtype))
        return n.map(x.shape, body)

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [b.add("Trilu", upstream[0], *b.inputs[1:], upper=b.attr("upper"))] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 4))
        yield Sample((x,))
        yield Sample((x, np.array(-1)), {"upper": 0}, name="lower")


@register
class ReverseSequence(View):
    """The first `sequence_lens[b]` steps of every sequence in reverse order, the rest as it was. Source: ONNX ReverseSequence-28."""

    name, versions = "ReverseSequence", (10, 28)
    attributes = {"batch_axis": 1, "time_axis": 0}

    def view(self, n: Lowering) -> Ref:
        x, lengths = n.input(0), n.input(1)
        time, batch = n.axis(n.attr("time_axis"), x.rank), n.axis(n.attr("batch_axis"), x.rank)

        def body(*i: Expr) -> Expr:
            length = ex.minimum(ex.cast(lengths[i[batch]], dt.int64), x.shape[time])
            back = ex.where(i[time] < length, length - 1 - i[time], i[time])
            return x[(*i[:time], back, *i[time + 1:])]
        return n.map(x.shape, body)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((4, 3, 2)), int64(2, 4, 1)))
        yield Sample((real_sample((3, 4)), int64(2, 4, 1)), {"batch_axis": 0, "time_axis": 1}, name="batch_first")


@register
class Upsample(Op):
    """Enlarged by a factor a dimension, nearest or linear, aligned at the first element. Source: ONNX Upsample-10."""

    name, versions = "Upsample", (1, 7, 9, 10)
    attributes = {"mode": "nearest"}

    def decompose(self, b: Builder) -> Value:
        if b.version < 7:
            scales = b.constant(np.array([1, 1, b.attr("height_scale"), b.attr("width_scale")], np.float32))
        elif b.version < 9:
            scales = b.constant(np.array(b.attr("scales", REQUIRED), np.float32))
        else:
            scales = b.input(1)
        mode = "nearest" if b.attr("mode") == "nearest" else "linear"
        return b.add("Resize", b.input(0), None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")

    def samples(self) -> Iterator[Sample]:
        x = real_sample((1, 1, 2, 3))
        yield Sample((x, np.array([1, 1, 2, 3], np.float32)), version=9)
        yield Sample((x,), {"scales": (1.0, 1.0, 2.0, 2.0), "mode": "linear"}, version=7, name="linear")


@register
class Col2Im(Op):
    """Columns of blocks summed back into an image: the adjoint of cutting it into blocks. Source: ONNX Col2Im-18."""

    name, versions = "Col2Im", (18,)

    def lower(self, n: Lowering) -> Ref:
        x, image, block = n.input(0), n.ints(1), n.ints(2)
        rank = len(image)
        dilations, strides = (n.attr(k) or (1,) * rank for k in ("dilations", "strides"))
        pads = n.attr("pads") or (0,) * (2 * rank)
        size = ex.product(block)
        spans = [(image[k] + pads[k] + pads[k + rank] - (block[k] - 1) * dilations[k] - 1) // strides[k] + 1 for k in range(rank)]

        def body(b: Expr, c: Expr, *at: Expr) -> Expr:
            def term(*tap: Expr) -> Expr:
                places, inside = [], ex.const(True, dt.boolean)
                for k in range(rank):
                    offset = at[k] + pads[k] - tap[k] * dilations[k]
                    place = offset // strides[k]
                    places.append(place)
                    fits = ex.logical_and(0 <= place, place < spans[k])
                    inside = ex.logical_and(inside, fits if strides[k] == 1 else ex.logical_and(fits, ex.equal(offset % strides[k], 0)))
                value = guarded(x, (b, c * size + ex.linear_index(tap, block), ex.linear_index(places, spans)))
                value = ex.cast(value, dt.compute_type(x.dtype))
                return ex.where(inside, value, ex.const(0, value.dtype))
            return n.reduce("sum", block, term)
        return n.map([x.shape[0], x.shape[1] // size, *image], body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((1, 5, 5)), int64(5, 5), int64(1, 5)))
        yield Sample((real_sample((1, 4, 4)), int64(5, 5), int64(2, 2)), {"strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (2, 2)}, name="strided")
