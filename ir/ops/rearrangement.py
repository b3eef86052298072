"""Operators that rearrange elements in fixed patterns."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr
from ..graph import Value
from ..loops import Ref
from .base import REQUIRED, Builder, Lowering, Op, Sample, register
from .elementwise import real_sample
from .movement import int64
from .views import View, guarded


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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("SpaceToDepth", upstream[0], blocksize=b.attr("blocksize"), mode=b.attr("mode"))]

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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [b.add("DepthToSpace", upstream[0], blocksize=b.attr("blocksize"), mode=b.attr("mode"))]

    def samples(self) -> Iterator[Sample]:
        for mode in ("DCR", "CRD"):
            yield Sample((real_sample((1, 2, 4, 6)),), {"blocksize": 2, "mode": mode})


@register
class ReverseSequence(View):
    """The first `sequence_lens[b]` steps of every sequence in reverse order, the rest as it was. Source: ONNX ReverseSequence-28."""

    name, versions = "ReverseSequence", (10, 28)
    attributes = {"batch_axis": 1, "time_axis": 0}

    def view(self, n: Lowering) -> Ref:
        x, lengths = n.input(0), n.input(1)
        time, batch = n.axis(n.attr("time_axis"), x.rank), n.axis(n.attr("batch_axis"), x.rank)
        n.demand(lengths.shape, lambda *i: ex.logical_and(lengths[i] >= 0, ex.cast(lengths[i], dt.int64) <= x.shape[time]),
                 "a sequence is longer than the time axis, or of negative length")

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
                    fits = ex.logical_and(place >= 0, place < spans[k])
                    inside = ex.logical_and(inside, fits if strides[k] == 1 else ex.logical_and(fits, ex.equal(offset % strides[k], 0)))
                value = guarded(x, (b, c * size + ex.linear_index(tap, block), ex.linear_index(places, spans)))
                value = ex.cast(value, dt.compute_type(x.dtype))
                return ex.where(inside, value, ex.const(0, value.dtype))
            return n.reduce("sum", block, term)
        return n.map([x.shape[0], x.shape[1] // size, *image], body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((1, 5, 5)), int64(5, 5), int64(1, 5)))
        yield Sample((real_sample((1, 4, 4)), int64(5, 5), int64(2, 2)), {"strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (2, 2)}, name="strided")
