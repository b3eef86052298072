"""Resize: nearest, linear and cubic interpolation with every coordinate convention, antialiased or not.

Nearest and linear are one nest (2 taps for each resized dimension); cubic and antialiased modes go dimension by dimension, with a table of weights for each.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from .base import Lowering, Op, Sample, register
from .quantisation import saturate
from .sampling import clamp
from .window import vector

F32 = dt.float32
TRANSFORMS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize")


def real(e: Expr) -> Expr:
    return ex.cast(e, F32)


@dataclass(frozen=True)
class Axis:
    """How one dimension is resized.

    Args:
        dim: position of the dimension.
        size, out: its size before and after.
        scale: output size by input size, as given (float32).
        width: size * scale, which need not be whole.
        first, last: the part of the input that is resized, relative to its size; None for all of it.
    """

    dim: int
    size: Expr
    out: Expr
    scale: Expr
    width: Expr
    first: Expr | None
    last: Expr | None

    @property
    def is_identity(self) -> bool:
        return self.size is self.out and self.first is None and (self.width is real(self.out) or (self.scale.is_const and self.scale.value == 1.0))

    @property
    def whole_factor(self) -> int | None:
        """The scale if it is a whole number that gives the output size exactly."""
        if self.scale.is_const and self.scale.value == int(self.scale.value) >= 1 and self.out is self.size * int(self.scale.value):
            return int(self.scale.value)
        return None

    def coordinate(self, mode: str, o: Expr) -> Expr:
        """Where output position `o` lies in the input, in elements."""
        at = real(o)
        extent = real(self.size - 1)
        centred = (at + 0.5) / self.scale - 0.5
        alone = ex.equal(self.width, 1.0)
        if mode == "asymmetric":
            return at / self.scale
        if mode == "align_corners":
            return ex.where(alone, 0.0, at * extent / ex.where(alone, 1.0, self.width - 1.0))
        if mode == "pytorch_half_pixel":
            return ex.where(ex.equal(self.out, 1), 0.0, centred)
        if mode == "half_pixel_symmetric":
            return real(self.size) / 2.0 * (1.0 - real(self.out) / self.width) + centred
        if mode == "tf_half_pixel_for_nn":
            return (at + 0.5) / self.scale
        if mode == "tf_crop_and_resize" and self.first is not None and self.last is not None:
            span = (self.last - self.first) * extent
            return ex.where(alone, span / 2.0, at * span / ex.where(alone, 1.0, self.width - 1.0)) + self.first * extent
        return centred


def output_size(n: Lowering, size: Expr, scale: Expr) -> Expr | None:
    """floor(size * scale) as a size expression, or None where it needs floating-point arithmetic when running."""
    if not scale.is_const:
        return None
    if size.is_const:
        return ex.const(int(np.floor(np.float32(size.value) * np.float32(scale.value))))
    ratio = Fraction(scale.value)
    return size * ratio.numerator // ratio.denominator if ratio.denominator <= 1 << 10 else None


def sizes_from(n: Lowering, values: Sequence[Expr]) -> list[Expr]:
    """Sizes computed by a nest when running."""
    def value(k: Expr) -> Expr:
        out = values[-1]
        for i in range(len(values) - 2, -1, -1):
            out = ex.where(ex.equal(k, i), values[i], out)
        return out
    table = n.map((len(values),), value, dt.int64, "sizes")
    return [table[ex.const(k)] for k in range(len(values))]


class Geometry:
    """The resized dimensions of a node."""

    def __init__(self, n: Lowering, x: Tensor) -> None:
        self.n, self.x = n, x
        given = n.attr("axes")
        self.dims = [n.axis(int(a), x.rank) for a in given] if given else list(range(x.rank))
        scales_at, sizes_at = (1, 3) if n.version < 11 else (2, 3)
        has_sizes = n.has(sizes_at) and not self.is_empty(sizes_at)
        has_scales = n.has(scales_at) and not self.is_empty(scales_at)
        if has_sizes == has_scales:
            raise n.error("exactly one of scales and sizes must be given")
        self.crop = n.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        pairs = self.from_sizes(vector(n, sizes_at, len(self.dims))) if has_sizes else self.from_scales(self.floats(scales_at))
        self.axes = [a for a in pairs if not a.is_identity]
        self.shape = tuple({a.dim: a.out for a in pairs}.get(k, d) for k, d in enumerate(x.shape))

    def is_empty(self, index: int) -> bool:
        t = self.n.input(index)
        return t.rank == 1 and t.shape[0].is_const and t.shape[0].value == 0

    def floats(self, index: int) -> list[Expr]:
        """The elements of a floating-point vector as float32 expressions."""
        known, t = self.n.known(index), self.n.input(index)
        if known is not None:
            return [ex.const(float(v), F32) for v in known.reshape(-1).astype(np.float32)]
        return [real(t[ex.const(k)]) for k in range(len(self.dims) * (2 if index == 1 and self.n.version >= 11 else 1))]

    def check(self, values: Sequence[Expr], what: str) -> None:
        if len(values) != len(self.dims):
            raise self.n.error(f"{len(values)} {what} were given for {len(self.dims)} dimensions")

    def axis(self, k: int, out: Expr, scale: Expr, width: Expr) -> Axis:
        first = last = None
        if self.crop and self.n.has(1):
            roi = self.floats(1)
            first, last = roi[k], roi[len(self.dims) + k]
            if first.is_const and last.is_const and first.value == 0.0 and last.value == 1.0 and self.x.shape[self.dims[k]] is out:
                first = last = None
        return Axis(self.dims[k], self.x.shape[self.dims[k]], out, scale, width, first, last)

    def from_scales(self, scales: list[Expr]) -> list[Axis]:
        self.check(scales, "scales")
        sizes = [self.x.shape[d] for d in self.dims]
        outs = [output_size(self.n, d, s) for d, s in zip(sizes, scales)]
        if any(o is None for o in outs):
            found = sizes_from(self.n, [ex.cast(ex.unary("floor", real(d) * s), dt.int64) if o is None else o for d, s, o in zip(sizes, scales, outs)])
            outs = [f if o is None else o for f, o in zip(found, outs)]
        return [self.axis(k, o, s, real(d) * s) for k, (o, s, d) in enumerate(zip(outs, scales, sizes)) if o is not None]

    def from_sizes(self, wanted: Sequence[Expr]) -> list[Axis]:
        self.check(wanted, "sizes")
        n, sizes = self.n, [self.x.shape[d] for d in self.dims]
        policy = n.attr("keep_aspect_ratio_policy")
        if policy == "stretch":
            return [self.axis(k, o, real(o) / real(d), real(o)) for k, (o, d) in enumerate(zip(wanted, sizes))]
        if policy not in ("not_larger", "not_smaller"):
            raise n.error(f"keep_aspect_ratio_policy '{policy}' is unknown")
        wide = [ex.cast(o, dt.float64) / ex.cast(d, dt.float64) for o, d in zip(wanted, sizes)]
        scale = wide[0]
        for other in wide[1:]:
            scale = ex.minimum(scale, other) if policy == "not_larger" else ex.maximum(scale, other)
        outs = [ex.cast(ex.unary("floor", scale * ex.cast(d, dt.float64) + 0.5), dt.int64) for d in sizes]
        if not all(o.is_const for o in outs):
            outs = sizes_from(n, outs)
        narrow = ex.cast(scale, F32)
        return [self.axis(k, o, narrow, narrow * real(d)) for k, (o, d) in enumerate(zip(outs, sizes))]


@register
class Resize(Op):
    """Resampling of any dimensions; integers round half to even and saturate. Source: ONNX Resize-19."""

    name, versions = "Resize", (10, 11, 13, 18, 19)
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor", "cubic_coeff_a": -0.75, "exclude_outside": 0,
                  "extrapolation_value": 0.0, "antialias": 0, "keep_aspect_ratio_policy": "stretch"}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        mode = str(n.attr("mode"))
        transform = str(n.attr("coordinate_transformation_mode")) if n.version >= 11 else "asymmetric"
        if transform not in TRANSFORMS or mode not in ("nearest", "linear", "cubic"):
            raise n.error(f"mode '{mode}' with coordinate_transformation_mode '{transform}' is unknown")
        geometry = Geometry(n, x)
        if mode == "nearest":
            return self.nearest(n, x, geometry, transform)
        kind = dt.compute_type(x.dtype) if x.dtype.is_float else F32
        if mode == "linear" and not n.attr("antialias") and not n.attr("exclude_outside"):
            return self.linear(n, x, geometry, transform, kind)
        return self.separable(n, x, geometry, transform, kind, mode)

    # ---- the three forms
    def nearest(self, n: Lowering, x: Tensor, g: Geometry, transform: str) -> Tensor:
        rounding = str(n.attr("nearest_mode"))

        def source(a: Axis, o: Expr) -> Expr:
            factor = a.whole_factor
            if factor is not None and ((transform in ("half_pixel", "half_pixel_symmetric") and rounding.startswith("round")) or (transform == "asymmetric" and rounding == "floor")
                                       or (transform == "asymmetric" and n.version < 11)):
                return o // factor
            if transform == "align_corners":  # between the ends of the actual output; ONNX's own cases of the other modes go by size * scale
                a = replace(a, width=real(a.out))
            c = clamp(a.coordinate(transform, o), ex.const(-1.0, F32), real(a.size))
            if n.version < 11:
                c = ex.where(a.scale < 1.0, ex.unary("ceil", c), ex.unary("floor", c))
            elif rounding == "round_prefer_floor":
                c = ex.unary("ceil", c - 0.5)
            elif rounding == "round_prefer_ceil":
                c = ex.unary("floor", c + 0.5)
            else:
                c = ex.unary("ceil" if rounding == "ceil" else "floor", c)
            return ex.minimum(ex.maximum(ex.cast(c, dt.int64), 0), a.size - 1)

        def value(*i: Expr) -> Expr:
            at = list(i)
            for a in g.axes:
                at[a.dim] = source(a, i[a.dim])
            return self.extrapolated(n, g.axes, transform, i, x[tuple(at)])
        return n.map(g.shape, value, x.dtype)

    def linear(self, n: Lowering, x: Tensor, g: Geometry, transform: str, kind: dt.DType) -> Tensor:
        def value(*i: Expr) -> Expr:
            low: dict[int, Expr] = {}
            high: dict[int, Expr] = {}
            weight: dict[int, Expr] = {}
            for a in g.axes:
                c = clamp(a.coordinate(transform, i[a.dim]), ex.const(0.0, F32), real(a.size - 1))
                low[a.dim] = ex.minimum(ex.maximum(ex.cast(ex.unary("floor", c), dt.int64), 0), a.size - 1)
                high[a.dim] = ex.minimum(low[a.dim] + 1, a.size - 1)
                weight[a.dim] = ex.cast(c - ex.unary("floor", c), kind)
            total: Expr | None = None
            for corner in itertools.product((0, 1), repeat=len(g.axes)):
                at = list(i)
                factor: Expr | None = None
                for a, side in zip(g.axes, corner):
                    at[a.dim] = high[a.dim] if side else low[a.dim]
                    w = weight[a.dim] if side else 1.0 - weight[a.dim]
                    factor = w if factor is None else factor * w
                term = ex.cast(x[tuple(at)], kind)
                term = term if factor is None else term * factor
                total = term if total is None else total + term
            assert total is not None
            return self.rounded(self.extrapolated(n, g.axes, transform, i, total), x.dtype)
        return n.map(g.shape, value, x.dtype)

    def separable(self, n: Lowering, x: Tensor, g: Geometry, transform: str, kind: dt.DType, mode: str) -> Tensor:
        current = x
        for a in g.axes:
            start, taps, weights = self.table(n, a, transform, mode, kind)
            shape = tuple(a.out if k == a.dim else d for k, d in enumerate(current.shape))
            current = n.map(shape, self.pass_over(n, current, a, start, taps, weights, kind), kind)
        return n.map(g.shape, lambda *i: self.rounded(self.extrapolated(n, g.axes, transform, i, ex.cast(current[i], kind)), x.dtype), x.dtype)

    @staticmethod
    def pass_over(n: Lowering, source: Tensor, a: Axis, start: Callable[[Expr], Expr], taps: Expr, weights: Tensor, kind: dt.DType) -> Callable[..., Expr]:
        """Interpolation along one dimension; taps beyond the edge repeat it."""
        def value(*i: Expr) -> Expr:
            o = i[a.dim]

            def term(k: Expr) -> Expr:
                at = ex.minimum(ex.maximum(start(o) + k, 0), a.size - 1)
                return ex.cast(source[(*i[:a.dim], at, *i[a.dim + 1:])], kind) * weights[o, k]
            return n.reduce("sum", [taps], term)
        return value

    def table(self, n: Lowering, a: Axis, transform: str, mode: str, kind: dt.DType) -> tuple[Callable[[Expr], Expr], Expr, Tensor]:
        """(first tap of an output position, number of taps, normalised weights [out, taps]) along one dimension."""
        support = 2 if mode == "cubic" else 1
        shrink = ex.const(1.0, F32)
        reach: Expr = ex.const(support)
        if n.attr("antialias"):
            shrink = ex.minimum(a.scale, 1.0)
            reach = ex.cast(ex.unary("ceil", float(support) / shrink), dt.int64)
            if not reach.is_const:
                reach, = sizes_from(n, [reach])
        taps = reach * 2

        def position(o: Expr) -> Expr:
            return clamp(a.coordinate(transform, o), real(-reach), real(a.size + reach))

        def start(o: Expr) -> Expr:
            return ex.cast(ex.unary("floor", position(o)), dt.int64) - reach + 1

        def raw(o: Expr, k: Expr) -> Expr:
            where = start(o) + k
            distance = ex.unary("abs", (real(where) - position(o)) * shrink)
            w = self.cubic_weight(distance, float(n.attr("cubic_coeff_a"))) if mode == "cubic" else ex.maximum(1.0 - distance, 0.0)
            if n.attr("exclude_outside"):
                w = ex.where(ex.logical_and(where >= 0, where < a.size), w, 0.0)
            return w

        def weight(o: Expr, k: Expr) -> Expr:
            total = n.reduce("sum", [taps], lambda j: raw(o, j))
            return raw(o, k) / ex.where(ex.equal(total, 0.0), 1.0, total)
        normalised = bool(n.attr("antialias") or n.attr("exclude_outside"))
        return start, taps, n.map((a.out, taps), weight if normalised else raw, kind)

    @staticmethod
    def cubic_weight(d: Expr, a: float) -> Expr:
        """Keys' cubic convolution kernel at distance `d`."""
        near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
        far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
        return ex.where(d <= 1.0, near, ex.where(d < 2.0, far, 0.0))

    # ---- results
    @staticmethod
    def extrapolated(n: Lowering, axes: Sequence[Axis], transform: str, index: Sequence[Expr], value: Expr) -> Expr:
        """The extrapolation value where a position lies outside the input, for tf_crop_and_resize."""
        if transform != "tf_crop_and_resize":
            return value
        outside = ex.const(False, dt.boolean)
        for a in axes:
            c = a.coordinate(transform, index[a.dim])
            outside = ex.logical_or(outside, ex.logical_or(c < 0.0, real(a.size - 1) < c))
        return ex.where(outside, ex.cast(ex.const(float(n.attr("extrapolation_value")), F32), value.dtype), value)

    @staticmethod
    def rounded(value: Expr, dtype: dt.DType) -> Expr:
        return saturate(ex.unary("round", value), dtype) if dtype.is_integer else ex.cast(value, dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
        scales = np.array([1, 1, 2, 2], np.float32)
        odd = np.array([1, 1, 0.7, 1.6], np.float32)
        sizes = np.array([1, 2, 7, 4], np.int64)
        yield Sample((x, None, scales))
        yield Sample((x, None, odd), {"nearest_mode": "ceil", "coordinate_transformation_mode": "asymmetric"})
        yield Sample((x, None, scales), {"mode": "linear"})
        yield Sample((x, None, None, sizes), {"mode": "linear", "coordinate_transformation_mode": "align_corners"})
        yield Sample((x, None, odd), {"mode": "cubic", "exclude_outside": 1})
        yield Sample((x, None, None, sizes), {"mode": "linear", "antialias": 1})
        yield Sample((x, None, None, np.array([3, 5], np.int64)), {"mode": "cubic", "antialias": 1, "axes": (2, 3), "keep_aspect_ratio_policy": "not_larger"})
