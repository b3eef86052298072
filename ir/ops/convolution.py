"""Convolutions: contractions over channels and kernel taps."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from math import gcd

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from .base import Lowering, Op, Sample, register
from .quantisation import is_zero, requantize
from .sampling import sample_linear
from .window import Window, spatial_attribute, split_image, window

Taps = Callable[[Expr, Expr, tuple[Expr, ...], tuple[Expr, ...]], Expr]  # (image, channel, output position, taps) -> input element
Result = Callable[[Expr, Expr], Expr]  # (acc, output channel) -> result


def groups_of(n: Lowering, channels: Expr, w: Tensor, transposed: bool = False) -> tuple[int, Expr, Expr]:
    """(groups, input channels of a group, output channels of a group), checked.

    Raises:
        ModelError: channels and weights do not fit.
    """
    groups = int(n.attr("group", 1))
    inner = w.shape[0] // groups if transposed else w.shape[1]
    outer = w.shape[1] if transposed else w.shape[0] // groups
    if groups < 1 or (w.shape[0].is_const and w.shape[0].value % groups):
        raise n.error(f"{w.shape[0].text} channels of the weights cannot be split into {groups} groups")
    if channels.is_const and inner.is_const and channels.value != inner.value * groups:
        raise n.error(f"the input has {channels.text} channels, the weights fit {inner.value * groups}")
    return groups, inner, outer


def convolve(n: Lowering, x: Tensor, w: Tensor, win: Window, x_at: Taps, w_at: Callable[[tuple[Expr, ...]], Expr], result: Result, dtype: DType,
             accumulate: DType | None = None) -> Tensor:
    """y[n, m, o] = result(sum over c, k of x_at(n, c, o, k) * w_at(m, c, k), m).

    Batch axes are the image and, with several groups, the group; rows are output positions; columns are the output channels of a group.
    """
    (images, channels), _ = split_image(n, x)
    groups, inner, outer = groups_of(n, channels, w)
    batch = (images,) if groups == 1 else (images, ex.const(groups))

    def group(b: tuple[Expr, ...]) -> Expr:
        return b[1] if groups > 1 else ex.const(0)

    return n.contract(
        batch, win.out, (outer,), (inner, *win.kernel),
        lambda b, o, k: x_at(b[0], group(b) * inner + k[0], o, k[1:]),
        lambda b, m, k: w_at((group(b) * outer + m[0], *k)),
        (images, w.shape[0], *win.out), lambda b, o, m: (b[0], group(b) * outer + m[0], *o),
        dtype=dtype, accumulate=accumulate, epilogue=lambda acc, b, o, m: result(acc, group(b) * outer + m[0]))


def padded_taps(x: Tensor, win: Window) -> Taps:
    """The input under the window, zero in the padding."""
    fill = None if win.inside else 0
    return lambda image, c, o, k: ex.load(x, (image, c, *win.tap(o, k)), fill)


def kernel_window(n: Lowering, x: Tensor, w: Tensor) -> Window:
    """The windows of a convolution; `kernel_shape`, where written, must be that of the weights."""
    _, size = split_image(n, x)
    if w.rank != x.rank:
        raise n.error(f"weights of rank {w.rank} were given for an input of rank {x.rank}")
    for k, d in zip(n.attr("kernel_shape") or (), w.shape[2:]):
        if d.is_const and d.value != k:
            raise n.error(f"kernel_shape {n.attr('kernel_shape')} does not fit weights [{', '.join(d.text for d in w.shape)}]")
    return window(n, size, w.shape[2:])


def with_bias(bias: Tensor | None) -> Result:
    return lambda acc, m: acc if bias is None else acc + ex.cast(bias[m], acc.dtype)


@register
class Conv(Op):
    """Grouped, strided, dilated, padded convolution in any number of dimensions. Source: ONNX Conv-22."""

    name, versions = "Conv", (1, 11, 22)
    attributes = {"group": 1, "auto_pad": "NOTSET"}

    def lower(self, n: Lowering) -> Tensor:
        x, w = n.input(0), n.input(1)
        win = kernel_window(n, x, w)
        return convolve(n, x, w, win, padded_taps(x, win), lambda i: w[i], with_bias(n.optional(2)), x.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((f(1, 3, 9, 10), f(5, 3, 3, 3), f(5)), {"pads": (1, 1, 1, 1), "strides": (2, 2)})
        yield Sample((f(2, 4, 7, 7), f(4, 1, 3, 3)), {"group": 4, "auto_pad": "SAME_UPPER"}, name="depthwise")
        yield Sample((f(1, 4, 11), f(6, 2, 3)), {"group": 2, "dilations": (2,)})
        yield Sample((f(1, 2, 5, 6, 5), f(3, 2, 2, 2, 2)), {"strides": (1, 2, 1), "pads": (0, 1, 0, 1, 0, 1)})
        yield Sample((f(2, 16, 6, 6), f(33, 16, 1, 1)), name="pointwise")


# ----------------------------------------------------------------------------------------------------------- 8-bit operands
def centred_taps(n: Lowering, x: Tensor, zero_index: int, win: Window, kind: DType) -> Taps:
    """The input under the window less its zero point (a scalar), 0 in the padding."""
    plain = padded_taps(x, win)
    if is_zero(n, zero_index):
        return lambda *at: ex.cast(plain(*at), kind)
    zero = n.input(zero_index)
    z = ex.cast(zero[(ex.const(0),) * zero.rank], kind)
    known = n.known(zero_index)

    def at(image: Expr, c: Expr, o: tuple[Expr, ...], k: tuple[Expr, ...]) -> Expr:
        position = win.tap(o, k)
        if win.inside:
            return ex.cast(x[(image, c, *position)], kind) - z
        if known is not None:
            fill = int(known.reshape(-1)[0])
            return ex.cast(ex.load(x, (image, c, *position), fill), kind) - ex.const(fill, kind)
        within = ex.const(True, dt.boolean)
        for p, d in zip(position, win.size):
            within = ex.logical_and(within, ex.logical_and(p >= 0, p < d))
        return ex.where(within, ex.cast(ex.load(x, (image, c, *position), 0), kind) - z, ex.const(0, kind))
    return at


def centred_weights(n: Lowering, w: Tensor, zero_index: int, kind: DType) -> Callable[[tuple[Expr, ...]], Expr]:
    """Weights less their zero point, a scalar or one per output channel."""
    if is_zero(n, zero_index):
        return lambda i: ex.cast(w[i], kind)
    zero = n.input(zero_index)
    return lambda i: ex.cast(w[i], kind) - ex.cast(per_channel(zero, i[0]), kind)


def per_channel(t: Tensor, channel: Expr) -> Expr:
    """A scalar or per-channel parameter."""
    if t.rank == 0:
        return t[()]
    return t[ex.const(0) if t.shape[0].is_const and t.shape[0].value == 1 else channel]


@register
class ConvInteger(Op):
    """int32 convolution of 8-bit operands less their zero points. Source: ONNX ConvInteger-10."""

    name, versions = "ConvInteger", (10,)
    attributes = {"group": 1, "auto_pad": "NOTSET"}

    def lower(self, n: Lowering) -> Tensor:
        x, w = n.input(0), n.input(1)
        win = kernel_window(n, x, w)
        return convolve(n, x, w, win, centred_taps(n, x, 2, win, dt.int32), centred_weights(n, w, 3, dt.int32), lambda acc, m: acc, dt.int32, dt.int32)

    def samples(self) -> Iterator[Sample]:
        x = np.arange(2, 11, dtype=np.uint8).reshape(1, 1, 3, 3)
        yield Sample((x, np.ones((1, 1, 2, 2), np.uint8), np.uint8(1)), {"pads": (1, 1, 1, 1)})


@register
class QLinearConv(Op):
    """Quantised convolution: int32 sum and bias, scaled and rounded half to even to the output's scale, saturated. Source: ONNX QLinearConv-10."""

    name, versions = "QLinearConv", (10,)
    attributes = {"group": 1, "auto_pad": "NOTSET"}

    def lower(self, n: Lowering) -> Tensor:
        x, x_scale, w, w_scale, y_scale, y_zero, bias = n.input(0), n.input(1), n.input(3), n.input(4), n.input(6), n.input(7), n.optional(8)
        win = kernel_window(n, x, w)
        first = ex.const(0)

        def result(acc: Expr, m: Expr) -> Expr:
            scale = per_channel(x_scale, first) * per_channel(w_scale, m) / per_channel(y_scale, first)
            whole = acc if bias is None else acc + bias[m]
            return requantize(ex.cast(whole, dt.float32) * scale, per_channel(y_zero, first), y_zero.dtype)
        return convolve(n, x, w, win, centred_taps(n, x, 2, win, dt.int32), centred_weights(n, w, 5, dt.int32), result, y_zero.dtype, dt.int32)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)
        x, w = rng.integers(0, 255, (1, 4, 6, 6)).astype(np.uint8), rng.integers(-64, 64, (3, 4, 3, 3)).astype(np.int8)  # ONNX Runtime adds pairs in 16 bits on AVX2
        yield Sample((x, np.float32(0.02), np.uint8(120), w, np.array([0.01, 0.02, 0.03], np.float32), np.zeros(3, np.int8), np.float32(0.1), np.uint8(128),
                      np.array([5, -7, 100], np.int32)), {"pads": (1, 1, 1, 1)})


# -------------------------------------------------------------------------------------------------------------- transposed
def transposed_window(n: Lowering, size: tuple[Expr, ...], kernel: tuple[Expr, ...]) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """(padding before, output sizes) of a transposed convolution."""
    count = len(size)
    strides, dilations = spatial_attribute(n, "strides", count, 1), spatial_attribute(n, "dilations", count, 1)
    extra = spatial_attribute(n, "output_padding", count, 0)
    mode, given = n.attr("auto_pad") or "NOTSET", n.attr("output_shape")
    pads = spatial_attribute(n, "pads", count, 0, 2)
    begin: list[Expr] = []
    out: list[Expr] = []
    for k, (d, t, s, a) in enumerate(zip(size, kernel, strides, dilations)):
        whole = (d - 1) * s + (t - 1) * a + 1 + extra[k]
        if given or mode.startswith("SAME"):
            wanted = ex.const(int(given[len(given) - count + k])) if given else d * s
            padding = ex.maximum(whole - wanted, 0)
            begin.append(padding // 2 if mode == "SAME_UPPER" else padding - padding // 2)
            out.append(wanted)
        else:
            before, after = (pads[k], pads[k + count]) if mode == "NOTSET" else (0, 0)
            begin.append(ex.const(before))
            out.append(whole - before - after)
    return tuple(begin), tuple(out)


class Phases:
    """One dimension of a transposed convolution, split by the residue of the output position modulo the stride.

    Output `stride * q + r` gets tap `first(r) + step * j` of the input at `q + shift(r) - j * back`: affine in q and j, so that no product with a zero is done
    where the kernel is a multiple of `step`.
    """

    def __init__(self, stride: int, dilation: int, begin: Expr, kernel: Expr, out: Expr) -> None:
        self.stride, self.dilation, self.begin, self.kernel = stride, dilation, begin, kernel
        common = gcd(stride, dilation)
        self.common, self.step, self.back = common, stride // common, dilation // common
        self.inverse = pow(self.back, -1, self.step) if self.step > 1 else 0
        self.count = ex.ceildiv(kernel, self.step)
        self.positions = ex.ceildiv(out, stride)

    def first(self, r: Expr) -> Expr:
        """The first tap that reaches residue `r`."""
        return (r + self.begin) // self.common * self.inverse % self.step

    def tap(self, r: Expr, j: Expr) -> Expr:
        return self.first(r) + j * self.step

    def source(self, q: Expr, r: Expr, j: Expr) -> Expr:
        """Where tap `tap(r, j)` of output `stride * q + r` reads."""
        return q + (r + self.begin - self.first(r) * self.dilation) // self.stride - j * self.back

    def reached(self, r: Expr) -> Expr:
        """Whether any tap reaches residue `r`."""
        return ex.equal((r + self.begin) % self.common, 0)


@register
class ConvTranspose(Op):
    """Transposed convolution: every input element adds the kernel, scaled, to the output. Source: ONNX ConvTranspose-22.

    Computed as `stride` interleaved convolutions, each over the taps that reach its outputs.
    """

    name, versions = "ConvTranspose", (1, 11, 22)
    attributes = {"group": 1, "auto_pad": "NOTSET"}

    def lower(self, n: Lowering) -> Tensor:
        x, w, bias = n.input(0), n.input(1), n.optional(2)
        (images, channels), size = split_image(n, x)
        if w.rank != x.rank:
            raise n.error(f"weights of rank {w.rank} were given for an input of rank {x.rank}")
        count = len(size)
        groups, inner, outer = groups_of(n, channels, w, transposed=True)
        begin, out = transposed_window(n, size, w.shape[2:])
        strides, dilations = spatial_attribute(n, "strides", count, 1), spatial_attribute(n, "dilations", count, 1)
        dims = [Phases(*args) for args in zip(strides, dilations, begin, w.shape[2:], out)]
        strided = [k for k in range(count) if strides[k] > 1]
        whole = tuple(p.positions * p.stride for p in dims)

        def split(b: tuple[Expr, ...]) -> tuple[Expr, Expr, tuple[Expr, ...]]:
            group = b[1] if groups > 1 else ex.const(0)
            residues = dict(zip(strided, b[len(b) - len(strided):]))
            return b[0], group, tuple(residues.get(k, ex.const(0)) for k in range(count))

        def source(b: tuple[Expr, ...], q: tuple[Expr, ...], k: tuple[Expr, ...]) -> Expr:
            image, group, residue = split(b)
            return ex.load(x, (image, group * inner + k[0], *(p.source(*at) for p, at in zip(dims, zip(q, residue, k[1:])))), 0)

        def weight(b: tuple[Expr, ...], m: tuple[Expr, ...], k: tuple[Expr, ...]) -> Expr:
            _, group, residue = split(b)
            exact = all(p.kernel.is_const and p.kernel.value % p.step == 0 for p in dims)
            e = ex.load(w, (group * inner + k[0], m[0], *(p.tap(r, j) for p, r, j in zip(dims, residue, k[1:]))), None if exact else 0)
            for p, r in zip(dims, residue):
                e = ex.where(p.reached(r), e, ex.const(0, e.dtype))
            return e

        def store(b: tuple[Expr, ...], q: tuple[Expr, ...], m: tuple[Expr, ...]) -> tuple[Expr, ...]:
            image, group, residue = split(b)
            return (image, group * outer + m[0], *(i * p.stride + r for p, i, r in zip(dims, q, residue)))

        batch = [images, *([ex.const(groups)] if groups > 1 else []), *(ex.const(strides[k]) for k in strided)]
        y = n.contract(batch, [p.positions for p in dims], [outer], [inner, *(p.count for p in dims)], source, weight, (images, outer * groups, *whole), store,
                       dtype=x.dtype, epilogue=lambda acc, b, q, m: with_bias(bias)(acc, split(b)[1] * outer + m[0]))
        if all(a is b for a, b in zip(whole, out)):
            return y
        return n.map((images, outer * groups, *out), lambda *i: y[i])

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((f(1, 3, 5, 6), f(3, 4, 2, 2), f(4)), {"strides": (2, 2)})
        yield Sample((f(1, 4, 5, 6), f(4, 3, 3, 3)), {"strides": (2, 3), "pads": (1, 0, 1, 2), "output_padding": (1, 1), "group": 2})
        yield Sample((f(1, 2, 7), f(2, 3, 4)), {"strides": (4,), "dilations": (2,)})
        yield Sample((f(1, 2, 4, 4), f(2, 3, 3, 3)), {"auto_pad": "SAME_LOWER", "strides": (2, 2)})


# --------------------------------------------------------------------------------------------------------------- deformable
@register
class DeformConv(Op):
    """Convolution whose taps are moved by learnt offsets and weighted by a mask; linear interpolation, zero outside. Source: ONNX DeformConv-22."""

    name, versions = "DeformConv", (19, 22)
    attributes = {"group": 1, "offset_group": 1}

    def lower(self, n: Lowering) -> Tensor:
        x, w, offset, bias, mask = n.input(0), n.input(1), n.input(2), n.optional(3), n.optional(4)
        win = kernel_window(n, x, w)
        count = win.rank
        share = x.shape[1] // int(n.attr("offset_group"))

        def moved(image: Expr, c: Expr, o: tuple[Expr, ...], k: tuple[Expr, ...]) -> Expr:
            tap = c // share * ex.product(w.shape[2:]) + ex.linear_index(k, w.shape[2:])
            at = [ex.cast(p, dt.float32) + ex.cast(offset[(image, tap * count + j, *o)], dt.float32) for j, p in enumerate(win.tap(o, k))]
            value = sample_linear(lambda i: ex.cast(ex.load(x, (image, c, *i), 0), dt.float32), at, win.size)
            return value if mask is None else value * ex.cast(mask[(image, tap, *o)], dt.float32)
        return convolve(n, x, w, win, moved, lambda i: w[i], with_bias(bias), x.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(3)
        x, w = rng.standard_normal((1, 2, 5, 5)).astype(np.float32), rng.standard_normal((2, 2, 2, 2)).astype(np.float32)
        yield Sample((x, w, rng.standard_normal((1, 8, 4, 4)).astype(np.float32), np.ones(2, np.float32), rng.random((1, 4, 4, 4)).astype(np.float32)))
