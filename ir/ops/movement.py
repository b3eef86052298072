"""Operators that move elements: shapes, slices, joins, padding. All are index maps over their inputs."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..errors import UnknownRankError
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Ref
from .base import REQUIRED, Builder, Lowering, Sample, broadcast_index, broadcast_shapes, register
from .elementwise import real_sample, sum_to
from .views import View, axis_flags, axis_list, by_axis, choose, drop_dims, guarded, holds, is_one, is_size, reshaped, select, settled, slice_range

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
            if not n.attr("allowzero") and not is_size(d):
                if d.is_const and d.value == 0 and k >= x.rank:
                    raise n.error(f"dimension {k} of the new shape is 0, but the input has rank {x.rank}")
                if k < x.rank:
                    d = ex.where(ex.equal(d, 0), x.shape[k], d)
            dims.append(d)
        if sum(d.is_const and d.value == -1 for d in dims) > 1:
            raise n.error("more than one dimension of the new shape is -1")
        unknown = [d for d in dims if (d.is_const and d.value == -1) or not (d.is_const or is_size(d))]
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
        if have is not new and (have.is_const or not new.is_const or new.value):  # none may be wanted of a size that only the run knows
            n.require(ex.equal(have, new), f"{have.text} elements do not fit the shape {[d.text for d in dims]}")
        return dims

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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
            dims = self._longer_than_one(n, x)
        else:
            flags = axis_flags(n, axes, x.rank)
            for k, f in enumerate(flags):
                if holds(f) and x.shape[k].is_const and x.shape[k].value != 1:
                    raise n.error(f"dimension {k} is {x.shape[k].value}; only dimensions of size 1 can be squeezed")
            dims = settled(n, drop_dims(x.shape, flags, len(axes)))
        return reshaped(n, x, dims)

    @staticmethod
    def _longer_than_one(n: Lowering, x: Tensor) -> list[Expr]:
        """The dimensions that are not 1; those that depend on elements must not be."""
        for k, d in enumerate(x.shape):
            if d.is_const or ex.integer.prove_le(ex.const(2), d):
                continue
            if not ex.loads((d,)):
                raise UnknownRankError(f"no axes are named, and whether dimension {k} is 1 is only known when running", n.label)
            n.require(ex.logical_not(ex.equal(d, 1)), f"no axes are named, and dimension {k}, whose size depends on data, is 1; name the axes to be squeezed")
        return [d for d in x.shape if not is_one(d)]

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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
        return reshaped(n, x, settled(n, dims))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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
            repeats = list(n.ints(1, x.rank))
        if len(repeats) != x.rank:
            raise n.error(f"{len(repeats)} repeats were given for rank {x.rank}")

        def back(i: Expr, d: Expr, r: Expr) -> Expr:
            return i if is_one(r) else ex.const(0) if is_one(d) else i % d
        return n.map([d * r for d, r in zip(x.shape, repeats)], lambda *i: x[tuple(map(back, i, x.shape, repeats))])

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.version < 6:
            raise b.unsupported("the gradient of Tile below version 6 is not defined")
        rank = len(b.type(b.input(0)).shape)
        sizes = b.add("Concat", b.add("Unsqueeze", b.input(1), [1]), b.add("Unsqueeze", b.add("Shape", b.input(0)), [1]), axis=1)
        split = b.add("Reshape", upstream[0], b.add("Reshape", sizes, [2 * rank]))
        return [b.add("ReduceSum", split, list(range(0, 2 * rank, 2)), keepdims=0), None]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)), int64(2, 1)))
        yield Sample((real_sample((1, 3)), int64(3, 2)), name="unit")


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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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

    for k in range(len(first)):
        for x in xs:
            if k != at and x.shape[k] is not first[k]:
                n.require(ex.equal(x.shape[k], first[k]), f"dimension {k} of the parts differs: {first[k].text} against {x.shape[k].text}")

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
        if given is not None or n.has(1):
            n.require(ex.equal(total, size), f"the split sizes add up to {total.text}, the dimension is {size.text}")
            for s in sizes:
                n.require(ex.binary("le", ex.const(0), s), f"a split size is {s.text}")
        return sizes

    @staticmethod
    def _part(n: Lowering, x: Tensor, at: int, start: Expr, size: Expr) -> Tensor:
        shape = [size if k == at else d for k, d in enumerate(x.shape)]
        return n.map(shape, lambda *i: x[(*i[:at], i[at] + start, *i[at + 1:])])

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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
            lengths = [ex.integer.as_int(n.input(k).numel()) for k in range(1, 5) if n.has(k)]
            count = next((c for c in lengths if c is not None), None)
            starts, ends = list(n.ints(1, count)), list(n.ints(2, count))
            axes, steps = list(n.ints(3, count)) if n.has(3) else None, list(n.ints(4, count)) if n.has(4) else None
        axes = [ex.const(k) for k in range(len(starts))] if axes is None else axes
        steps = [ex.const(1)] * len(starts) if steps is None else steps
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise n.error(f"starts, ends, axes and steps have lengths {len(starts)}, {len(ends)}, {len(axes)} and {len(steps)}")
        axis_flags(n, axes, x.rank)
        for s in steps:
            if not s.is_const:
                n.require(ex.not_equal(s, 0), "a step is 0")
        zero, one = [ex.const(0)] * x.rank, [ex.const(1)] * x.rank
        begin, stop, step = by_axis(axes, starts, x.rank, zero), by_axis(axes, ends, x.rank, list(x.shape)), by_axis(axes, steps, x.rank, one)
        ranges = [slice_range(*r) for r in zip(begin, stop, step, x.shape)]
        shape = [length for _, length in ranges]
        if all(a is b for a, b in zip(shape, x.shape)) and all(is_one(s) for s in step):
            return x
        return n.map(shape, lambda *i: x[tuple(first + k * s for (first, _), k, s in zip(ranges, i, step))])

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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
