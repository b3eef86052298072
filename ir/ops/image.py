"""Images: sampling on grids, box selection, decoding."""
from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from .. import integer
from ..errors import UnsupportedError
from ..expr import Expr, ExprLike, Tensor
from ..loops import Ref, Routine, load, store
from .base import REQUIRED, Lowering, Op, Sample, register
from .sampling import clamp
from .window import split_image, vector

MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}


# ------------------------------------------------------------------------------------------------------------ grid sampling
def reflect_index(i: Expr, size: Expr, corners: bool) -> Expr:
    """An index reflected at the borders until it lies within: at the outermost elements' centres (`corners`) or their outer edges."""
    if corners:
        period = ex.maximum(size * 2 - 2, 1)
        at = i % period
        return ex.minimum(ex.where(at < size, at, period - at), size - 1)
    at = i % (size * 2)
    return ex.where(at < size, at, size * 2 - 1 - at)


def reflect_coordinate(x: Expr, size: Expr, corners: bool) -> Expr:
    """The same for a coordinate between elements."""
    low = ex.const(0.0 if corners else -0.5, x.dtype)
    span = ex.cast(size - 1 if corners else size, x.dtype)
    at = ex.binary("mod", x - low, span * 2.0)
    return ex.where(ex.equal(span, 0.0), 0.0, low + ex.where(at <= span, at, span * 2.0 - at))


def keys_weight(d: Expr) -> Expr:
    """Keys' cubic convolution kernel with a = -0.75 at distance `d`."""
    a = -0.75
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return ex.where(d <= 1.0, near, ex.where(d < 2.0, far, 0.0))


def cell(places: Sequence[Expr]) -> Iterator[tuple[list[Expr], Expr]]:
    """The elements around a position and what they weigh in linear interpolation."""
    low = [ex.cast(ex.unary("floor", p), dt.int64) for p in places]
    part = [p - ex.unary("floor", p) for p in places]
    for corner in itertools.product((0, 1), repeat=len(places)):
        weight: Expr | None = None
        for c, f in zip(corner, part):
            factor = f if c else 1.0 - f
            weight = factor if weight is None else weight * factor
        assert weight is not None
        yield [i + c for i, c in zip(low, corner)], weight


DIMS = 2  # of an image; a call's constant


def sum_taps(x, offsets, weights, out, channels, points, area, lo, hi):
    """One position (image, point) a unit: the weighed sum of 4 taps along each of DIMS dimensions, for every channel. A negative offset is outside."""
    for unit in range(lo, hi):
        image = unit // points
        for channel in range(channels):
            first = (image * channels + channel) * area
            total = load(weights, 0) * 0
            for corner in range(4 ** DIMS):
                at, rest, inside = 0, corner, True
                weight = total * 0 + 1
                for d in range(DIMS):
                    tap = (unit * DIMS + d) * 4 + rest % 4
                    rest //= 4
                    offset = load(offsets, tap)
                    inside = inside and offset >= 0
                    at += offset
                    weight *= load(weights, tap)
                if inside:
                    total += load(x, first + at) * weight
            store(out, (image * channels + channel) * points + unit % points, total)


SUM_TAPS = Routine("sum_taps", sum_taps)


CORNERS = 4  # of the cell that a position lies in: 2 ** dimensions; a call's constant
BLOCK = 64  # positions of a unit


def sum_corners(x, offsets, weights, out, channels, points, blocks, area, lo, hi):
    """BLOCK positions of an image a unit: the weighed sum of the CORNERS elements around each, for every channel, four at a time. A negative weight is outside."""
    zero = load(weights, 0) - load(weights, 0)
    for unit in range(lo, hi):
        image, begin = unit // blocks, unit % blocks * BLOCK
        for channel in range(0, channels, 4):
            a = image * channels + channel
            b, c, d = a + min(1, channels - 1 - channel), a + min(2, channels - 1 - channel), a + min(3, channels - 1 - channel)
            for point in range(begin, min(begin + BLOCK, points)):
                total_a = total_b = total_c = total_d = zero
                if area > 0:
                    for corner in range(CORNERS):
                        tap = (image * points + point) * CORNERS + corner
                        at, weight = load(offsets, tap), load(weights, tap)
                        of_a, of_b, of_c, of_d = load(x, a * area + at), load(x, b * area + at), load(x, c * area + at), load(x, d * area + at)
                        inside = weight >= 0
                        total_a += of_a * weight if inside else zero
                        total_b += of_b * weight if inside else zero
                        total_c += of_c * weight if inside else zero
                        total_d += of_d * weight if inside else zero
                store(out, a * points + point, total_a)
                store(out, b * points + point, total_b)
                store(out, c * points + point, total_c)
                store(out, d * points + point, total_d)


SUM_CORNERS = Routine("sum_corners", sum_corners)


@register
class GridSample(Op):
    """Samples of an image at the positions of a normalised grid, in any number of dimensions. Source: ONNX GridSample-22; Jaderberg et al. 2015.

    With cubic samples and border padding, ONNX's text and reference give the border's own value to positions outside of the image; ONNX Runtime and PyTorch
    only move the taps, as com.microsoft's operator does.
    """

    name = "GridSample"
    versions: ClassVar[tuple[int, ...]] = (16, 20, 22)
    moves_to_border: ClassVar[bool] = True  # whether a position outside of the image is one on its border for cubic samples as well
    attributes = {"align_corners": 0, "padding_mode": "zeros", "mode": "linear"}

    def lower(self, n: Lowering) -> Tensor:
        x, grid = n.input(0), n.input(1)
        _, size = split_image(n, x)
        mode, padding, corners = MODES.get(str(n.attr("mode"))), str(n.attr("padding_mode")), bool(n.attr("align_corners"))
        if mode is None or padding not in ("zeros", "border", "reflection"):
            raise n.error(f"mode '{n.attr('mode')}' with padding_mode '{padding}' is unknown")
        if grid.rank != x.rank:
            raise n.error(f"a grid of rank {grid.rank} was given for an input of rank {x.rank}")
        kind = dt.compute_type(x.dtype) if x.dtype.is_float else dt.float32
        if mode == "cubic":
            return self.cubic(n, x, grid, kind, padding, corners)

        def at(k: int, image: Expr, o: Sequence[Expr]) -> Expr:
            given = ex.cast(grid[(image, *o, ex.const(len(size) - 1 - k))], kind)
            return self.coordinate(given, size[k], padding, corners, mode)

        def element(image: Expr, channel: Expr, index: Sequence[Expr]) -> Expr:
            if padding == "zeros":
                return ex.load(x, (image, channel, *index), 0)
            return x[(image, channel, *(self.inside(i, d, padding, corners) for i, d in zip(index, size)))]
        if mode == "nearest":
            cells = [n.map(grid.shape[:-1], lambda image, *o, k=k: ex.cast(at(k, image, o), dt.int64)) for k in range(len(size))]
            return n.map((*x.shape[:2], *grid.shape[1:-1]), lambda image, channel, *o: element(image, channel, [c[(image, *o)] for c in cells]), x.dtype)
        if integer.as_int(x.shape[1]) != 1:
            return self.linear(n, x, grid, at, padding, corners)

        def value(image: Expr, channel: Expr, *o: Expr) -> Expr:
            total: Expr | None = None
            for index, weight in cell([at(k, image, o) for k in range(len(size))]):
                term = ex.cast(element(image, channel, index), kind) * weight
                total = term if total is None else total + term
            assert total is not None
            return total
        return n.map((*x.shape[:2], *grid.shape[1:-1]), value, x.dtype)

    def linear(self, n: Lowering, x: Tensor, grid: Tensor, at: Callable[[int, Expr, Sequence[Expr]], Expr], padding: str, corners: bool) -> Tensor:
        """Tables of each position's corners and their weights, then their sum: channels share them."""
        size = x.shape[2:]
        table: tuple[ExprLike, ...] = (*grid.shape[:-1], 2 ** len(size))

        def chosen(image: Expr, o: Sequence[Expr]) -> tuple[Expr, Expr]:
            found = list(cell([at(k, image, o[:-1]) for k in range(len(size))]))
            index, weight = found[-1]
            for k, (at_corner, w) in enumerate(found[:-1]):
                here = ex.equal(o[-1], k)
                index, weight = [ex.where(here, a, b) for a, b in zip(at_corner, index)], ex.where(here, w, weight)
            if padding != "zeros":
                return ex.linear_index([self.inside(i, d, padding, corners) for i, d in zip(index, size)], size), weight
            inside = ex.const(True, dt.boolean)
            for i, d in zip(index, size):
                inside = ex.logical_and(inside, ex.logical_and(i >= 0, i < d))
            return ex.where(inside, ex.linear_index(index, size), 0), ex.where(inside, weight, -1.0)
        offsets = n.map(table, lambda image, *o: chosen(image, o)[0])
        weights = n.map(table, lambda image, *o: chosen(image, o)[1])
        points = ex.product(grid.shape[1:-1])
        blocks = ex.ceildiv(points, BLOCK)
        return n.routine(SUM_CORNERS, [x, offsets, weights], [(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))], [x.shape[1], points, blocks, ex.product(size)],
                         units=x.shape[0] * blocks, constants={"CORNERS": 2 ** len(size)})[0]

    def cubic(self, n: Lowering, x: Tensor, grid: Tensor, kind: dt.DType, padding: str, corners: bool) -> Tensor:
        """Tables of each position's taps and weights along each dimension, then their sum: all 4^d taps written out would be hundreds of variables."""
        size = x.shape[2:]
        table: tuple[ExprLike, ...] = (*grid.shape, 4)  # image, position, dimension, tap

        def chosen(d: Expr, values: Sequence[Expr]) -> Expr:
            out = values[-1]
            for k, v in enumerate(values[:-1]):
                out = ex.where(ex.equal(d, k), v, out)
            return out

        def place(*i: Expr) -> Expr:
            return self.coordinate(ex.cast(grid[(*i[:-1], len(size) - 1 - i[-1])], kind), chosen(i[-1], size), padding, corners, "cubic")
        places = n.map(grid.shape, place)
        strides = [ex.product(size[k + 1:]) for k in range(len(size))]

        def offset(*i: Expr) -> Expr:
            index, extent = ex.cast(ex.unary("floor", places[i[:-1]]), dt.int64) + (i[-1] - 1), chosen(i[-2], size)
            at = self.inside(index, extent, padding, corners) * chosen(i[-2], strides)
            return at if padding != "zeros" else ex.where(ex.logical_and(index >= 0, index < extent), at, -1)

        def weight(*i: Expr) -> Expr:
            p = places[i[:-1]]
            return keys_weight(ex.unary("abs", p - ex.unary("floor", p) - ex.cast(i[-1] - 1, kind)))
        points = ex.product(grid.shape[1:-1])
        return n.routine(SUM_TAPS, [x, n.map(table, offset), n.map(table, weight)], [(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))],
                         [x.shape[1], points, ex.product(size)], units=x.shape[0] * points, constants={"DIMS": len(size)})[0]

    def coordinate(self, given: Expr, size: Expr, padding: str, corners: bool, mode: str) -> Expr:
        """The position in elements that a normalised coordinate stands for, rounded for nearest, within what converts to an integer."""
        extent = ex.cast(size, given.dtype)
        x = (given + 1.0) / 2.0 * (extent - 1.0) if corners else ((given + 1.0) * extent - 1.0) / 2.0
        if mode == "nearest":
            x = ex.unary("round", x)
        if padding == "border" and mode != "cubic":
            return clamp(x, ex.const(0.0, x.dtype), extent - 1.0)
        if padding == "border" and self.moves_to_border:
            edge = 0.0 if corners else 0.5
            x = ex.where(x < -edge, 0.0, ex.where(x > extent - 1.0 + edge, extent - 1.0, x))
        if padding == "reflection":
            x = reflect_coordinate(x, size, corners)
        return clamp(x, ex.const(-4.0, x.dtype), extent + 4.0)

    @staticmethod
    def inside(index: Expr, size: Expr, padding: str, corners: bool) -> Expr:
        """The index of the element that stands for one outside of the image."""
        return reflect_index(index, size, corners) if padding == "reflection" else ex.minimum(ex.maximum(index, 0), size - 1)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        x, grid = rng.standard_normal((2, 3, 4, 5)).astype(np.float32), rng.uniform(-1.3, 1.3, (2, 6, 3, 2)).astype(np.float32)
        for mode, padding, corners in (("linear", "zeros", 0), ("nearest", "border", 1), ("cubic", "reflection", 0), ("linear", "reflection", 1)):
            yield Sample((x, grid), {"mode": mode, "padding_mode": padding, "align_corners": corners})


@register
class AffineGrid(Op):
    """The normalised grid of an affine transformation, for GridSample. Source: ONNX AffineGrid-20."""

    name, versions = "AffineGrid", (20,)
    attributes = {"align_corners": 0}

    def lower(self, n: Lowering) -> Tensor:
        theta = n.input(0)
        count = ex.integer.as_int(theta.shape[1]) if theta.rank == 3 else 0
        if count is None:
            count = len(n.elements(1)) - 2
        if count not in (2, 3):
            raise n.error(f"theta of shape [{', '.join(d.text for d in theta.shape)}] was given, [N, 2, 3] or [N, 3, 4] was expected")
        spatial = vector(n, 1, count + 2)[2:]
        kind = dt.compute_type(theta.dtype)

        def coordinate(i: Expr, size: Expr) -> Expr:
            at, extent = ex.cast(i, kind), ex.cast(size, kind)
            if n.attr("align_corners"):
                return ex.where(ex.equal(size, 1), -1.0, at * 2.0 / ex.where(ex.equal(size, 1), 1.0, extent - 1.0) - 1.0)
            return (at * 2.0 + 1.0) / extent - 1.0

        def value(image: Expr, *rest: Expr) -> Expr:
            *position, row = rest
            total = ex.cast(theta[image, row, ex.const(count)], kind)
            for k in range(count):
                total = total + ex.cast(theta[image, row, ex.const(k)], kind) * coordinate(position[count - 1 - k], spatial[count - 1 - k])
            return total
        return n.map((theta.shape[0], *spatial, count), value, theta.dtype)

    def samples(self) -> Iterator[Sample]:
        theta = np.random.default_rng(1).standard_normal((2, 2, 3)).astype(np.float32)
        yield Sample((theta, np.array([2, 3, 4, 5], np.int64)))
        yield Sample((theta, np.array([2, 3, 4, 5], np.int64)), {"align_corners": 1})


@register
class ImageScaler(Op):
    """x * scale + bias of the channel. Source: ONNX ImageScaler-1 (experimental, withdrawn)."""

    name, versions = "ImageScaler", (1,)
    attributes = {"scale": 1.0, "bias": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        kind = dt.compute_type(x.dtype)
        bias = n.constant(np.asarray(n.attr("bias"), kind.numpy))
        return n.map(x.shape, lambda *i: ex.cast(x[i], kind) * float(n.attr("scale")) + bias[i[1]], x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.ones((1, 3, 2, 2), np.float32),), {"scale": 2.0, "bias": (1.0, 2.0, 3.0)})


# ------------------------------------------------------------------------------------------------------------ box selection
CENTRE, HAS_LIMIT, HAS_OVERLAP, HAS_SCORE = False, False, False, False  # what a call's constants stand for


def overlap(boxes, p, q):
    """Intersection over union of the boxes at p and q, 0 where either is empty."""
    a0, a1, a2, a3 = load(boxes, p), load(boxes, p + 1), load(boxes, p + 2), load(boxes, p + 3)
    b0, b1, b2, b3 = load(boxes, q), load(boxes, q + 1), load(boxes, q + 2), load(boxes, q + 3)
    if CENTRE:
        left_a, right_a, low_a, high_a = a0 - a2 / 2, a0 + a2 / 2, a1 - a3 / 2, a1 + a3 / 2
        left_b, right_b, low_b, high_b = b0 - b2 / 2, b0 + b2 / 2, b1 - b3 / 2, b1 + b3 / 2
    else:
        left_a, right_a, low_a, high_a = min(a1, a3), max(a1, a3), min(a0, a2), max(a0, a2)
        left_b, right_b, low_b, high_b = min(b1, b3), max(b1, b3), min(b0, b2), max(b0, b2)
    width = min(right_a, right_b) - max(left_a, left_b)
    height = min(high_a, high_b) - max(low_a, low_b)
    area_a = (right_a - left_a) * (high_a - low_a)
    area_b = (right_b - left_b) * (high_b - low_b)
    common = width * height
    union = area_a + area_b - common
    if width <= 0 or height <= 0 or common <= 0 or area_a <= 0 or area_b <= 0 or union <= 0:
        return common * 0
    return common / union


def suppress(boxes, scores, limit, most, least, chosen, counts, alive, classes, count, capacity, lo, hi):
    """One (image, class) a unit: the best box that no better one covers, again and again."""
    allowed = min(max(int(load(limit, 0)), 0), capacity) if HAS_LIMIT else 0
    for unit in range(lo, hi):
        first = unit // classes * count * 4
        base = unit * count
        for j in range(count):
            store(alive, base + j, 1)
            if HAS_SCORE:
                if not load(scores, base + j) > load(least, 0):
                    store(alive, base + j, 0)
        found = 0
        searching = True
        while searching and found < allowed:
            best = -1
            for j in range(count):
                if load(alive, base + j) != 0:
                    if best < 0 or load(scores, base + j) > load(scores, base + best):
                        best = j
            if best < 0:
                searching = False
            else:
                store(chosen, unit * capacity + found, best)
                found += 1
                store(alive, base + best, 0)
                for j in range(count):
                    if load(alive, base + j) != 0:
                        share = overlap(boxes, first + j * 4, first + best * 4)
                        if HAS_OVERLAP:
                            if share > load(most, 0):
                                store(alive, base + j, 0)
                        elif share > 0:
                            store(alive, base + j, 0)
        store(counts, unit, found)


def gather_chosen(chosen, counts, rows, total, units, classes, capacity, lo, hi):
    """Rows (image, class, box) of all units one after another, and their number."""
    at = 0
    for unit in range(units):
        for k in range(load(counts, unit)):
            store(rows, at * 3, unit // classes)
            store(rows, at * 3 + 1, unit % classes)
            store(rows, at * 3 + 2, load(chosen, unit * capacity + k))
            at += 1
    store(total, 0, at)


SUPPRESS = Routine("suppress", suppress, (overlap,))
GATHER_CHOSEN = Routine("gather_chosen", gather_chosen)


@register
class NonMaxSuppression(Op):
    """Boxes chosen greedily by score, dropping those that a chosen one overlaps too much: rows (image, class, box). Source: ONNX NonMaxSuppression-11."""

    name, versions = "NonMaxSuppression", (10, 11)
    attributes = {"center_point_box": 0}

    def lower(self, n: Lowering) -> Tensor:
        boxes, scores = n.input(0), n.input(1)

        def given(index: int) -> Tensor | None:
            t = n.optional(index)
            return None if t is None or (t.rank == 1 and t.shape[0].is_const and t.shape[0].value == 0) else t
        limit, most, least = given(2), given(3), given(4)
        images, classes, count = scores.shape
        known = n.known(2)
        capacity = count if known is None or not known.size else ex.minimum(count, max(int(known.reshape(-1)[0]), 0))
        units = images * classes
        inputs = [boxes, scores, limit or n.constant(np.zeros(1, np.int64)), most or scores, least or scores]
        constants = {"CENTRE": bool(n.attr("center_point_box")), "HAS_LIMIT": limit is not None, "HAS_OVERLAP": most is not None, "HAS_SCORE": least is not None}
        chosen, counts, _ = n.routine(SUPPRESS, inputs, [(dt.int64, (units, capacity)), (dt.int64, (units,)), (dt.uint8, (units, count))],
                                      [classes, count, capacity], units=units, constants=constants)
        rows, total = n.routine(GATHER_CHOSEN, [chosen, counts], [(dt.int64, (units * capacity, 3)), (dt.int64, (1,))], [units, classes, capacity])
        return n.map((total[ex.const(0)], 3), lambda k, j: rows[k, j])

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)
        corner = rng.random((2, 20, 2)).astype(np.float32)
        boxes = np.concatenate([corner, corner + rng.random((2, 20, 2)).astype(np.float32) * 0.5], -1)
        yield Sample((boxes, rng.random((2, 3, 20)).astype(np.float32), np.array([4], np.int64), np.array([0.3], np.float32), np.array([0.2], np.float32)))


# ----------------------------------------------------------------------------------------------------------------- decoding
def decode_image(encoded: np.ndarray, pixel_format: str = "RGB") -> list[np.ndarray]:
    """uint8[height, width, channels] of an encoded image.

    Raises:
        UnsupportedError: Pillow is not installed.
    """
    try:
        import io

        from PIL import Image
    except ImportError as e:
        raise UnsupportedError("ImageDecoder decodes through Pillow, which is not installed", hint="pip install sardonyx[image]") from e
    picture = Image.open(io.BytesIO(encoded.tobytes()))
    if pixel_format == "Grayscale":
        return [np.array(picture.convert("L"))[:, :, None]]
    pixels = np.array(picture.convert("RGB") if picture.mode not in ("RGB", "L") else picture)
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    return [np.ascontiguousarray(pixels[:, :, ::-1]) if pixel_format == "BGR" else pixels]


@register
class ImageDecoder(Op):
    """Pixels of an encoded image (JPEG, PNG, BMP, WebP, TIFF, ...), decoded on the host by Pillow. Source: ONNX ImageDecoder-20."""

    name, versions = "ImageDecoder", (20,)
    attributes = {"pixel_format": "RGB"}

    def lower(self, n: Lowering) -> Ref:
        form = str(n.attr("pixel_format"))
        if form not in ("RGB", "BGR", "Grayscale"):
            raise n.error(f"pixel_format '{form}' is unknown")
        shape = (ex.sym(f"{n.node.name}.height", 0), ex.sym(f"{n.node.name}.width", 0), ex.const(1 if form == "Grayscale" else 3))
        return n.host(functools.partial(decode_image, pixel_format=form), [(dt.uint8, shape)], "images are decoded by Pillow")[0]
