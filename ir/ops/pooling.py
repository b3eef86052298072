"""Pools: reductions over windows, whole images and regions."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..loops import Routine
from .base import REQUIRED, Lowering, Op, Sample, register
from .quantisation import limits
from .window import Window, spatial_attribute, split_image, vector, window


def least(dtype: DType) -> float | int:
    """The identity of max."""
    return float("-inf") if dtype.is_float else limits(dtype)[0]


def pool_window(n: Lowering, x: Tensor) -> Window:
    return window(n, split_image(n, x)[1], [int(k) for k in n.attr("kernel_shape")], bool(n.attr("ceil_mode", 0)))


def over_window(n: Lowering, x: Tensor, win: Window, kind: str, fill: float | int, value: Callable[[Expr], Expr]) -> Callable[..., Expr]:
    """The reduction of `value(element)` over the window at an output index; `fill` stands for elements of the padding."""
    guard = None if win.inside else fill

    def at(index: tuple[Expr, ...]) -> Expr:
        return n.reduce(kind, win.kernel, lambda *k: value(ex.load(x, (*index[:2], *win.tap(index[2:], k)), guard)))
    return at


def widen(e: Expr) -> Expr:
    return ex.cast(e, dt.compute_type(e.dtype))


LARGE_WINDOW = 25  # elements; larger windows that overlap are taken one dimension after the other


@register
class MaxPool(Op):
    """Greatest element of each window, and its position in the input. Source: ONNX MaxPool-22."""

    name, versions = "MaxPool", (1, 8, 10, 11, 12, 22)
    attributes = {"auto_pad": "NOTSET", "kernel_shape": REQUIRED, "ceil_mode": 0, "storage_order": 0}

    def lower(self, n: Lowering) -> list[Tensor | None]:
        x = n.input(0)
        win = pool_window(n, x)
        if win.rank > 1 and win.overlapping and math.prod(map(int, n.attr("kernel_shape"))) > LARGE_WINDOW:
            best = self.by_dimensions(n, x, win)
        else:
            at = over_window(n, x, win, "max", least(x.dtype), lambda e: e)
            best = n.map((*x.shape[:2], *win.out), lambda *i: at(i), x.dtype)
        return [best, self.positions(n, x, win) if n.wants(1) else None]

    @staticmethod
    def by_dimensions(n: Lowering, x: Tensor, win: Window) -> Tensor:
        """The greatest along one dimension after the other: neighbouring windows share what they have in common."""
        for d in range(win.rank - 1, -1, -1):
            line = Window(win.size[d:d + 1], win.kernel[d:d + 1], win.strides[d:d + 1], win.dilations[d:d + 1], win.begin[d:d + 1], win.end[d:d + 1], win.out[d:d + 1])
            x = MaxPool.along(n, x, line, 2 + d)
        return x

    @staticmethod
    def along(n: Lowering, x: Tensor, line: Window, dim: int) -> Tensor:
        """Windows over one dimension."""
        guard = None if line.inside else least(x.dtype)

        def value(*index: Expr) -> Expr:
            return n.reduce("max", line.kernel, lambda k: ex.load(x, (*index[:dim], *line.tap(index[dim:dim + 1], (k,)), *index[dim + 1:]), guard))
        return n.map((*x.shape[:dim], *line.out, *x.shape[dim + 1:]), value, x.dtype)

    @staticmethod
    def positions(n: Lowering, x: Tensor, win: Window) -> Tensor:
        """Flat positions of the maxima; taps in the padding stand for the nearest valid tap, which never changes the first maximum."""
        def nearest(index: tuple[Expr, ...], flat: Expr) -> tuple[Expr, ...]:
            taps = ex.unravel(flat, win.kernel)
            kept = tuple(ex.minimum(ex.maximum(k, first), last) for k, (first, last) in zip(taps, win.valid_taps(index[2:], False)))
            return tuple(ex.minimum(ex.maximum(p, 0), d - 1) for p, d in zip(win.tap(index[2:], kept), win.size))

        def value(*index: Expr) -> Expr:
            best = n.reduce("argmax", [ex.product(win.kernel)], lambda k: x[(*index[:2], *nearest(index, k))])
            place = nearest(index, best)
            shape = win.size
            if int(n.attr("storage_order")):
                place, shape = place[::-1], shape[::-1]
            return ex.linear_index((*index[:2], *place), (*x.shape[:2], *shape))
        return n.map((*x.shape[:2], *win.out), value, dt.int64)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(0).standard_normal((2, 3, 9, 10)).astype(np.float32)
        yield Sample((x,), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)})
        yield Sample((x,), {"kernel_shape": (2, 3), "strides": (2, 2), "ceil_mode": 1, "dilations": (2, 1)}, outputs=2)
        yield Sample(((x * 20).astype(np.int8),), {"kernel_shape": (2, 2), "auto_pad": "SAME_UPPER"})
        yield Sample((x[..., 0],), {"kernel_shape": (3,)})
        yield Sample((x,), {"kernel_shape": (7, 6), "pads": (3, 2, 3, 3)}, outputs=2)


@register
class AveragePool(Op):
    """Mean of each window, over its elements inside the input or, if asked, the padding too. Source: ONNX AveragePool-22."""

    name, versions = "AveragePool", (1, 7, 10, 11, 19, 22)
    attributes = {"auto_pad": "NOTSET", "kernel_shape": REQUIRED, "ceil_mode": 0, "count_include_pad": 0}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        win = pool_window(n, x)
        at = over_window(n, x, win, "sum", 0, widen)
        padded = bool(n.attr("count_include_pad"))

        def value(*index: Expr) -> Expr:
            taps = [last - first + 1 for first, last in win.valid_taps(index[2:], padded)]
            total = at(index)
            return total / ex.cast(ex.product(taps), total.dtype)
        return n.map((*x.shape[:2], *win.out), value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(1).standard_normal((2, 3, 9, 10)).astype(np.float32)
        yield Sample((x,), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)})
        yield Sample((x,), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "count_include_pad": 1, "ceil_mode": 1, "strides": (2, 3)})
        yield Sample((x,), {"kernel_shape": (2, 2), "dilations": (2, 2)})


def power_sum(n: Lowering, p: int, total: Callable[[Callable[[Expr], Expr]], Expr]) -> Expr:
    """(sum |x|**p) ** (1/p), where `total(f)` sums f(x)."""
    if p == 1:
        return total(lambda e: ex.unary("abs", widen(e)))
    if p == 2:
        return ex.unary("sqrt", total(lambda e: widen(e) * widen(e)))
    summed = total(lambda e: ex.binary("pow", ex.unary("abs", widen(e)), float(p)))
    return ex.binary("pow", summed, 1.0 / p)


@register
class LpPool(Op):
    """p-norm of each window. Source: ONNX LpPool-22."""

    name, versions = "LpPool", (1, 2, 11, 18, 22)
    attributes = {"auto_pad": "NOTSET", "kernel_shape": REQUIRED, "ceil_mode": 0, "p": 2}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        win = pool_window(n, x)
        return n.map((*x.shape[:2], *win.out), lambda *i: power_sum(n, int(n.attr("p")), lambda f: over_window(n, x, win, "sum", 0, f)(i)), x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(2).standard_normal((1, 2, 6, 7)).astype(np.float32)
        yield Sample((x,), {"kernel_shape": (2, 2), "p": 3, "pads": (1, 0, 1, 0)})


class GlobalPool(Op):
    """A reduction over all spatial dimensions, which stay with size 1."""

    def value(self, n: Lowering, x: Tensor, over: Callable[[str, Callable[[Expr], Expr]], Expr]) -> Expr:
        """The result; `over(kind, f)` reduces f(element) over the image."""
        raise NotImplementedError

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        _, size = split_image(n, x)

        def value(*i: Expr) -> Expr:
            return self.value(n, x, lambda kind, f: n.reduce(kind, size, lambda *k: f(x[(*i[:2], *k)])))
        return n.map((*x.shape[:2], *(ex.const(1) for _ in size)), value, x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.random.default_rng(3).standard_normal((2, 5, 7, 9)).astype(np.float32),))


@register
class GlobalMaxPool(GlobalPool):
    """Greatest element of each channel. Source: ONNX GlobalMaxPool-22."""

    name, versions = "GlobalMaxPool", (1, 22)

    def value(self, n: Lowering, x: Tensor, over: Callable[[str, Callable[[Expr], Expr]], Expr]) -> Expr:
        return over("max", lambda e: e)


@register
class GlobalAveragePool(GlobalPool):
    """Mean of each channel, summed in the compute type. Source: ONNX GlobalAveragePool-22."""

    name, versions = "GlobalAveragePool", (1, 22)

    def value(self, n: Lowering, x: Tensor, over: Callable[[str, Callable[[Expr], Expr]], Expr]) -> Expr:
        total = over("sum", widen)
        return total / ex.cast(ex.product(x.shape[2:]), total.dtype)


@register
class GlobalLpPool(GlobalPool):
    """p-norm of each channel. Source: ONNX GlobalLpPool-22."""

    name, versions = "GlobalLpPool", (1, 2, 22)
    attributes = {"p": 2}

    def value(self, n: Lowering, x: Tensor, over: Callable[[str, Callable[[Expr], Expr]], Expr]) -> Expr:
        return power_sum(n, int(n.attr("p")), lambda f: over("sum", f))


# ------------------------------------------------------------------------------------------------- scattered and region pools
def unpool(values, places, out, count, size, lo, hi):
    """Each image: zeros, then values at their places, which count through the whole tensor of images of `size` elements."""
    for image in range(lo, hi):
        for j in range(size):
            out[image * size + j] = 0
        for j in range(count):
            at = places[image * count + j] - image * size
            if at >= 0 and at < size:
                out[image * size + at] = values[image * count + j]


UNPOOL = Routine("unpool", unpool)


@register
class MaxUnpool(Op):
    """Puts pooled values back at the positions that MaxPool gave, zero elsewhere. Source: ONNX MaxUnpool-22.

    Positions count within the shape that kernel, strides and pads imply; a larger `output_shape` adds zeros behind.
    """

    name, versions = "MaxUnpool", (9, 11, 22)
    attributes = {"kernel_shape": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        x, places = n.input(0), n.input(1)
        _, size = split_image(n, x)
        count = len(size)
        kernel, strides, pads = n.attr("kernel_shape"), spatial_attribute(n, "strides", count, 1), spatial_attribute(n, "pads", count, 0, 2)
        implied = tuple((d - 1) * s + int(k) - pads[j] - pads[j + count] for j, (d, s, k) in enumerate(zip(size, strides, kernel)))
        y, = n.routine(UNPOOL, [x, places], [(x.dtype, (*x.shape[:2], *implied))], [ex.product(size), ex.product(implied)], units=x.shape[0] * x.shape[1])
        if not n.has(2):
            return y
        wanted = vector(n, 2, x.rank)
        return n.map(wanted, lambda *i: ex.load(y, i, 0), x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[[[1, 2], [3, 4]]]], np.float32), np.array([[[[5, 7], [13, 15]]]], np.int64)), {"kernel_shape": (2, 2), "strides": (2, 2)})


def roi_align(x, rois, images, out, channels, height, width, rows, columns, image_count, lo, hi):
    """One (region, channel) a unit: each bin is the mean or maximum of bilinear samples on its grid."""
    for unit in range(lo, hi):
        region = unit // channels
        image = images[region]
        plane = (image * channels + unit % channels) * height * width
        left = rois[region * 4] * SCALE - OFFSET
        top = rois[region * 4 + 1] * SCALE - OFFSET
        roi_width = rois[region * 4 + 2] * SCALE - OFFSET - left
        roi_height = rois[region * 4 + 3] * SCALE - OFFSET - top
        if CLIP:
            roi_width = max(roi_width, 1.0)
            roi_height = max(roi_height, 1.0)
        bin_height = roi_height / rows
        bin_width = roi_width / columns
        grid_height = SAMPLES
        grid_width = SAMPLES
        if SAMPLES <= 0:
            grid_height = int(math.ceil(bin_height))
            grid_width = int(math.ceil(bin_width))
        for row in range(rows):
            for column in range(columns):
                total = 0.0
                first = True
                for iy in range(grid_height):
                    y = top + row * bin_height + (iy + 0.5) * bin_height / grid_height
                    for ix in range(grid_width):
                        v = left + column * bin_width + (ix + 0.5) * bin_width / grid_width
                        a = 0.0
                        b = 0.0
                        c = 0.0
                        d = 0.0
                        if image >= 0 and image < image_count and y >= -1.0 and y <= height and v >= -1.0 and v <= width:
                            fy = max(y, 0.0)
                            fx = max(v, 0.0)
                            y0 = int(fy)
                            x0 = int(fx)
                            y1 = y0 + 1
                            x1 = x0 + 1
                            if y0 >= height - 1:
                                y0 = height - 1
                                y1 = y0
                                fy = float(y0)
                            if x0 >= width - 1:
                                x0 = width - 1
                                x1 = x0
                                fx = float(x0)
                            ly = fy - y0
                            lx = fx - x0
                            a = (1.0 - ly) * (1.0 - lx) * x[plane + y0 * width + x0]
                            b = (1.0 - ly) * lx * x[plane + y0 * width + x1]
                            c = ly * (1.0 - lx) * x[plane + y1 * width + x0]
                            d = ly * lx * x[plane + y1 * width + x1]
                        if AVERAGE:
                            total += a + b + c + d
                        else:
                            best = max(max(a, b), max(c, d))
                            if first or best > total:
                                total = best
                                first = False
                if AVERAGE:
                    total = total / max(grid_height * grid_width, 1)
                out[(unit * rows + row) * columns + column] = total


ROI_ALIGN = Routine("roi_align", roi_align)
SCALE, OFFSET, CLIP, SAMPLES, AVERAGE = 1.0, 0.0, False, 0, True  # what a call's constants stand for


def wide(n: Lowering, t: Tensor) -> Tensor:
    """The tensor in its compute type, for routines."""
    kind = dt.compute_type(t.dtype)
    return t if t.dtype is kind else n.map(t.shape, lambda *i: t[i], kind)


def narrow(n: Lowering, t: Tensor, dtype: DType) -> Tensor:
    return t if t.dtype is dtype else n.map(t.shape, lambda *i: t[i], dtype)


@register
class RoiAlign(Op):
    """Mean or maximum of bilinear samples over the bins of each region. Source: ONNX RoiAlign-22; He et al., Mask R-CNN, section 3."""

    name, versions = "RoiAlign", (10, 16, 22)
    attributes = {"coordinate_transformation_mode": "half_pixel", "mode": "avg", "output_height": 1, "output_width": 1, "sampling_ratio": 0, "spatial_scale": 1.0}

    def lower(self, n: Lowering) -> Tensor:
        x, rois, images = n.input(0), n.input(1), n.input(2)
        if x.rank != 4:
            raise n.error(f"an input of rank {x.rank} was given, [N, C, H, W] was expected")
        half = n.version >= 16 and str(n.attr("coordinate_transformation_mode")).lower() == "half_pixel"
        rows, columns = int(n.attr("output_height")), int(n.attr("output_width"))
        constants = {"SCALE": float(n.attr("spatial_scale")), "OFFSET": 0.5 if half else 0.0, "CLIP": not half, "SAMPLES": int(n.attr("sampling_ratio")),
                     "AVERAGE": str(n.attr("mode")).lower() == "avg"}
        kind = dt.compute_type(x.dtype)
        y, = n.routine(ROI_ALIGN, [wide(n, x), wide(n, rois), images], [(kind, (rois.shape[0], x.shape[1], rows, columns))],
                       [x.shape[1], x.shape[2], x.shape[3], rows, columns, x.shape[0]], units=rois.shape[0] * x.shape[1], constants=constants)
        return narrow(n, y, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(4).random((2, 3, 10, 10)).astype(np.float32)
        rois = np.array([[0, 0, 9, 9], [0, 5, 4, 9], [5.5, 5, 9, 9]], np.float32)
        for mode in ("avg", "max"):
            yield Sample((x, rois, np.array([0, 1, 0], np.int64)), {"output_height": 3, "output_width": 2, "mode": mode, "spatial_scale": 0.5})


def roi_pool(x, rois, out, channels, height, width, rows, columns, image_count, lo, hi):
    """One (region, channel) a unit: the maximum of each bin, 0 for an empty one."""
    for unit in range(lo, hi):
        region = unit // channels
        image = int(rois[region * 5])
        plane = (image * channels + unit % channels) * height * width
        left = int(math.floor(rois[region * 5 + 1] * SCALE + 0.5))
        top = int(math.floor(rois[region * 5 + 2] * SCALE + 0.5))
        right = int(math.floor(rois[region * 5 + 3] * SCALE + 0.5))
        bottom = int(math.floor(rois[region * 5 + 4] * SCALE + 0.5))
        bin_height = max(bottom - top + 1, 1) / rows
        bin_width = max(right - left + 1, 1) / columns
        for row in range(rows):
            y0 = min(max(int(math.floor(row * bin_height)) + top, 0), height)
            y1 = min(max(int(math.ceil((row + 1) * bin_height)) + top, 0), height)
            for column in range(columns):
                x0 = min(max(int(math.floor(column * bin_width)) + left, 0), width)
                x1 = min(max(int(math.ceil((column + 1) * bin_width)) + left, 0), width)
                best = 0.0
                first = True
                if image >= 0 and image < image_count:
                    for y in range(y0, y1):
                        for v in range(x0, x1):
                            value = x[plane + y * width + v]
                            if first or value > best:
                                best = value
                                first = False
                out[(unit * rows + row) * columns + column] = best


ROI_POOL = Routine("roi_pool", roi_pool)


@register
class MaxRoiPool(Op):
    """Maximum over the bins of each region. Source: ONNX MaxRoiPool-22; Girshick, Fast R-CNN, section 2.1."""

    name, versions = "MaxRoiPool", (1, 22)
    attributes = {"pooled_shape": REQUIRED, "spatial_scale": 1.0}

    def lower(self, n: Lowering) -> Tensor:
        x, rois = n.input(0), n.input(1)
        rows, columns = (int(k) for k in n.attr("pooled_shape"))
        y, = n.routine(ROI_POOL, [wide(n, x), wide(n, rois)], [(dt.compute_type(x.dtype), (rois.shape[0], x.shape[1], rows, columns))],
                       [x.shape[1], x.shape[2], x.shape[3], rows, columns, x.shape[0]], units=rois.shape[0] * x.shape[1],
                       constants={"SCALE": float(n.attr("spatial_scale"))})
        return narrow(n, y, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(5).random((1, 2, 8, 8)).astype(np.float32)
        yield Sample((x, np.array([[0, 0, 0, 7, 7], [0, 2, 3, 6, 5]], np.float32)), {"pooled_shape": (2, 2)})
