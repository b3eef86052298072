"""Operators that add or remove positions at the ends of dimensions."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Scalar, Tensor
from ..graph import Value
from ..loops import Ref
from .base import REQUIRED, Builder, Lowering, Sample, register
from .elementwise import real_sample
from .movement import int64
from .views import View, axis_flags, by_axis, guarded, is_one


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
            return n.map(shape, lambda *i: x[tuple(_source(mode, k, a, b, d) for k, a, b, d in zip(i, before, after, x.shape))])
        fill, value = self._fill(n, x)

        def body(*i: Expr) -> Expr:
            index = [k - a for k, a in zip(i, before)]
            if fill is not None:
                return ex.load(x, index, fill)
            inside = ex.const(True, dt.boolean)
            for k, a, b, d in zip(index, before, after, x.shape):
                if not _none(a, b):
                    inside = ex.logical_and(inside, ex.logical_and(k >= 0, k < d))
            return ex.where(inside, guarded(x, index), value)
        return n.map(shape, body, x.dtype)

    @staticmethod
    def _amounts(n: Lowering, x: Tensor) -> tuple[list[Expr], list[Expr]]:
        if n.version < 11:
            pads = [ex.const(int(p)) for p in n.attr("paddings" if n.version < 2 else "pads", REQUIRED)]
        else:
            pads = None
        axes = list(n.ints(3)) if n.version >= 18 and n.has(3) else [ex.const(k) for k in range(x.rank)]
        pads = list(n.ints(1, 2 * len(axes))) if pads is None else pads
        if len(pads) != 2 * len(axes):
            raise n.error(f"{len(pads)} pads were given for {len(axes)} axes; two for each were expected")
        axis_flags(n, axes, x.rank)
        zero = [ex.const(0)] * x.rank
        return by_axis(axes, pads[:len(axes)], x.rank, zero), by_axis(axes, pads[len(axes):], x.rank, zero)

    @staticmethod
    def _fill(n: Lowering, x: Tensor) -> tuple[Scalar | None, Expr | None]:
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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.attr("mode") != "constant":
            raise b.unsupported(f"the gradient of padding in mode '{b.attr('mode')}' is not defined")
        if b.version < 11:
            pads = [-int(p) for p in b.attr("paddings" if b.version < 2 else "pads", REQUIRED)]
            return [b.add("Pad", upstream[0], pads)]
        return [b.add("Pad", upstream[0], b.add("Neg", b.input(1)), None, *b.inputs[3:])] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4))
        yield Sample((x, int64(1, 0, 2, -1), np.float32(1.5)), name="constant")
        for mode in ("reflect", "edge", "wrap"):
            yield Sample((x, int64(2, 1, 1, 2)), {"mode": mode}, name=mode)
            yield Sample((x, int64(0, -2, -1, 3)), {"mode": mode}, name=f"{mode}_of_what_is_left")
        yield Sample((x, int64(1, 2), None, int64(-1)), name="axes")
        yield Sample((x,), {"pads": (0, 1, 1, 0), "value": 2.0}, version=2, name="attributes")


def _none(before: Expr, after: Expr) -> bool:
    return before.is_const and after.is_const and before.value == 0 and after.value == 0


def _source(mode: str, i: Expr, before: Expr, after: Expr, size: Expr) -> Expr:
    """The position that is read for position `i` of the result: removal comes first, what is left is continued."""
    if _none(before, after):
        return i
    removed = ex.maximum(-before, 0)
    return removed + _fold_back(mode, i - ex.maximum(before, 0), size - removed - ex.maximum(-after, 0))


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
        x, axes = n.input(0), n.attr("axes")
        axes = list(range(x.rank)) if axes is None else [n.axis(a, x.rank) for a in axes]
        wanted = n.ints(1, len(axes))
        if len(wanted) != len(axes):
            raise n.error(f"{len(wanted)} sizes were given for {len(axes)} axes")
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
