"""com.microsoft: operators on images, over ONNX's own where they only differ in layout or in a name."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..graph import Attribute, Value
from .base import REQUIRED, Builder, Lowering, Op, Sample, register
from .elementwise import real_sample
from .image import GridSample as StandardGridSample
from .sampling import clamp
from .window import window

DOMAIN = "com.microsoft"


def channels_moved(b: Builder, x: Value, first: bool) -> Value:
    """[N, *S, C] as [N, C, *S] (`first`), or back."""
    rank = len(b.type(x).shape or ())
    if rank < 3:
        raise b.error(f"a tensor of rank {rank} was given, [N, *S, C] was expected")
    spatial = list(range(2, rank)) if not first else list(range(1, rank - 1))
    return b.add("Transpose", x, perm=(0, rank - 1, *spatial) if first else (0, *spatial, 1))


@register
class GridSample(StandardGridSample):
    """ONNX GridSample under its older names of modes; cubic samples near a border mix what their taps find. Source: com.microsoft GridSample-1."""

    domain, versions, moves_to_border = DOMAIN, (1,), False
    attributes = {**StandardGridSample.attributes, "mode": "bilinear"}

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        x, grid = rng.standard_normal((2, 3, 4, 5)).astype(np.float32), rng.uniform(-1.3, 1.3, (2, 6, 3, 2)).astype(np.float32)
        yield Sample((x, grid))
        yield Sample((x, grid), {"mode": "bicubic", "padding_mode": "border", "align_corners": 1})


@register
class QLinearConv(Op):
    """ONNX QLinearConv, with input and result as [N, *S, C] if `channels_last`. Source: com.microsoft QLinearConv-1."""

    domain, name, versions = DOMAIN, "QLinearConv", (1,)
    attributes = {"channels_last": 0, "group": 1, "auto_pad": "NOTSET"}

    def decompose(self, b: Builder) -> Value:
        kept: dict[str, Attribute] = {k: v for k, v in b.node.attributes.items() if k != "channels_last"}
        if not int(b.attr("channels_last")):
            return b.add("QLinearConv", *b.inputs, **kept)
        y = b.add("QLinearConv", channels_moved(b, b.input(0), first=True), *b.inputs[1:], **kept)
        return channels_moved(b, y, first=False)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)
        x, w = rng.integers(0, 255, (1, 6, 5, 4)).astype(np.uint8), rng.integers(-64, 64, (3, 4, 3, 3)).astype(np.int8)  # as in QAttention
        scales, bias = np.array([0.01, 0.02, 0.03], np.float32), np.array([5, -7, 100], np.int32)
        rest = (np.float32(0.02), np.uint8(120), w, scales, np.zeros(3, np.int8), np.float32(0.1), np.uint8(128), bias)
        yield Sample((x, *rest), {"pads": (1, 1, 1, 1), "channels_last": 1})
        yield Sample((np.moveaxis(x, -1, 1), *rest), {"strides": (2, 1)})


@register
class NhwcMaxPool(Op):
    """ONNX MaxPool of [N, *S, C]. Source: com.microsoft NhwcMaxPool-1."""

    domain, name, versions = DOMAIN, "NhwcMaxPool", (1,)
    attributes = {"kernel_shape": REQUIRED, "auto_pad": "NOTSET", "ceil_mode": 0}

    def decompose(self, b: Builder) -> Value:
        return channels_moved(b, b.add("MaxPool", channels_moved(b, b.input(0), first=True), **b.node.attributes), first=False)

    def samples(self) -> Iterator[Sample]:
        yield Sample(((real_sample((2, 7, 6, 3)) * 40).astype(np.int8),), {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 0)})


@register
class MaxpoolWithMask(Op):
    """Greatest element of each window, of each of whose rows only those before the first masked one count. Source: com.microsoft MaxpoolWithMask-1.

    M: int32, as X or with fewer images and channels, which repeat; in two or three dimensions a channel's first element never ends a row, as in ONNX Runtime.
    """

    domain, name, versions = DOMAIN, "MaxpoolWithMask", (1,)
    attributes = {"kernel_shape": REQUIRED, "auto_pad": "NOTSET"}

    def lower(self, n: Lowering) -> Tensor:
        x, mask = n.input(0), n.input(1)
        if x.rank < 3 or mask.rank != x.rank:
            raise n.error(f"an input of rank {x.rank} and a mask of rank {mask.rank} were given, [N, C, *S] was expected for both")
        size = x.shape[2:]
        win = window(n, size, [int(k) for k in n.attr("kernel_shape")])
        lowest = ex.const(float(np.finfo(np.float32).min), x.dtype)
        channels = mask.shape[0] * mask.shape[1]

        def value(image: Expr, channel: Expr, *o: Expr) -> Expr:
            place = (image * x.shape[1] + channel) % channels

            def row(*k: Expr) -> Expr:
                best, alive = lowest, ex.const(True, dt.boolean)
                for last in range(int(n.attr("kernel_shape")[-1])):
                    at = win.tap(o, (*k, ex.const(last)))
                    inside = ex.const(True, dt.boolean)
                    for p, d in zip(at, size):
                        inside = ex.logical_and(inside, ex.logical_and(p >= 0, p < d))
                    first = ex.equal(ex.linear_index(at, size), 0) if len(size) > 1 else ex.const(False, dt.boolean)
                    ends = ex.equal(ex.load(mask, (place // mask.shape[1], place % mask.shape[1], *at), 1), ex.const(0, mask.dtype))
                    alive = ex.logical_and(alive, ex.logical_or(ex.logical_not(ex.logical_and(inside, ends)), first))
                    best = ex.where(ex.logical_and(inside, alive), ex.maximum(best, ex.load(x, (image, channel, *at), 0)), best)
                return best
            return n.reduce("max", win.kernel[:-1], row) if len(win.kernel) > 1 else row()
        return n.map((*x.shape[:2], *win.out), value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)
        mask = (rng.random((1, 1, 7, 6)) < 0.7).astype(np.int32)
        yield Sample((real_sample((2, 3, 7, 6)), mask), {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)})


@register
class ConvTransposeWithDynamicPads(Op):
    """ONNX ConvTranspose whose padding is an input: the result without padding, cut. Source: com.microsoft ConvTransposeWithDynamicPads-1."""

    domain, name, versions = DOMAIN, "ConvTransposeWithDynamicPads", (1,)
    attributes = {"group": 1, "auto_pad": "NOTSET"}

    def decompose(self, b: Builder) -> Value:
        if str(b.attr("auto_pad")) != "NOTSET":
            raise b.unsupported(f"auto_pad {b.attr('auto_pad')} of ConvTransposeWithDynamicPads, whose padding is an input")
        spatial = len(b.type(b.input(0)).shape or ()) - 2
        whole = b.add("ConvTranspose", b.input(0), b.input(1), b.input(3) if b.has(3) else None, **b.node.attributes)
        pads, axes = b.input(2), list(range(2, spatial + 2))
        first, last = (b.add("Slice", pads, [k * spatial], [(k + 1) * spatial]) for k in (0, 1))
        ends = b.add("Sub", b.add("Slice", b.add("Shape", whole), [2], [spatial + 2]), last)
        return b.add("Slice", whole, first, ends, axes)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(3)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((f(1, 2, 5, 4), f(2, 3, 3, 3), np.array([1, 0, 1, 2]), f(3)), {"strides": (2, 2), "output_padding": (1, 1)})


@register
class CropAndResize(Op):
    """Regions of images resized to one size by bilinear or nearest samples, corners on corners. Source: com.microsoft CropAndResize-1.

    X: [N, C, H, W]; rois: [R, 4] of y1, x1, y2, x2, where 0 and 1 are the first and last row or column; result: [R, C, h, w], `extrapolation_value` outside of the image.
    """

    domain, name, versions = DOMAIN, "CropAndResize", (1,)
    attributes = {"mode": "bilinear", "extrapolation_value": 0.0}

    def lower(self, n: Lowering) -> Tensor:
        x, rois, images = n.input(0), n.input(1), n.input(2)
        if x.rank != 4 or rois.rank != 2:
            raise n.error(f"an input of rank {x.rank} and regions of rank {rois.rank} were given, [N, C, H, W] and [R, 4] were expected")
        mode, outside = str(n.attr("mode")).lower(), float(n.attr("extrapolation_value"))
        if mode not in ("bilinear", "nearest"):
            raise n.error(f"mode '{mode}' is unknown, bilinear or nearest was expected")
        crop = n.ints(3)
        if len(crop) != 2:
            raise n.error(f"crop_size has {len(crop)} elements, 2 were expected")
        kind = dt.compute_type(x.dtype)

        def value(r: Expr, c: Expr, *place: Expr) -> Expr:
            at = [self.coordinate(place[k], crop[k], x.shape[2 + k], ex.cast(rois[r, k], kind), ex.cast(rois[r, k + 2], kind), kind) for k in range(2)]
            inside = ex.const(True, dt.boolean)
            for p, d in zip(at, x.shape[2:]):
                inside = ex.logical_and(inside, ex.logical_and(p >= 0.0, p <= ex.cast(d - 1, kind)))
            kept = [clamp(p, ex.const(0.0, kind), ex.cast(d - 1, kind)) for p, d in zip(at, x.shape[2:])]
            low = [ex.unary("floor", p) for p in kept]
            part = [p - f for p, f in zip(kept, low)]
            first = [ex.cast(f, dt.int64) for f in low]

            def element(i: Expr, j: Expr) -> Expr:
                return ex.cast(ex.load(x, (ex.cast(images[r], dt.int64), c, i, j), 0), kind)
            if mode == "nearest":
                found = element(*(ex.where(f >= 0.5, i + 1, i) for i, f in zip(first, part)))
            else:
                last = [ex.minimum(i + 1, d - 1) for i, d in zip(first, x.shape[2:])]
                rows = [element(i, first[1]) + (element(i, last[1]) - element(i, first[1])) * part[1] for i in (first[0], last[0])]
                found = rows[0] + (rows[1] - rows[0]) * part[0]
            return ex.where(inside, found, ex.const(outside, kind))
        return n.map((rois.shape[0], x.shape[1], *crop), value, x.dtype)

    @staticmethod
    def coordinate(place: Expr, count: Expr, size: Expr, low: Expr, high: Expr, kind: DType) -> Expr:
        """Where sample `place` of `count` lies between the two ends of a region; a single one lies in the middle."""
        extent = ex.cast(size - 1, kind)
        step = (high - low) * extent / ex.cast(ex.maximum(count - 1, 1), kind)
        return ex.where(count > 1, low * extent + ex.cast(place, kind) * step, (low + high) * 0.5 * extent)

    def samples(self) -> Iterator[Sample]:
        rois = np.array([[0, 0, 1, 1], [0.1, 0.3, 0.8, 1.2], [0.7, 0.9, 0.2, 0.1]], np.float32)
        for mode in ("bilinear", "nearest"):
            yield Sample((real_sample((2, 3, 6, 5)), rois, np.array([0, 1, 0], np.int32), np.array([4, 3], np.int32)), {"mode": mode, "extrapolation_value": 2.5})
