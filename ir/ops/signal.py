"""Signals: Fourier transforms, windows, mel filters; computed in double precision, but for short frames of float32."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..errors import UnknownRankError
from ..expr import Expr, Tensor
from ..loops import Routine, load, store
from .base import Lowering, Op, Sample, register

F64 = dt.float64
ZERO, ONE = ex.const(0), ex.const(1)
INVERSE = False  # what a call's constant stands for
LONGEST_PRODUCT = 512  # samples of a frame up to which a product with a matrix of waves is faster than a fast transform


def wide(e: Expr) -> Expr:
    return ex.cast(e, F64)


def fourier(z, cosines, sines, y, work, n, lo, hi):
    """Transforms of rows of n complex numbers by Stockham's passes, one for each prime factor of n.

    z, y and work are [row, n, 2]; the tables hold cos and sin of 2 pi k / n. Passes alternate between work and y so that the last one writes y.
    """
    passes = 0
    rest = n
    factor = 2
    while rest > 1:
        while rest % factor != 0:
            factor += 1
        rest //= factor
        passes += 1
    for row in range(lo, hi):
        base = row * n * 2
        into_work = passes % 2 == 1
        for j in range(2 * n):
            if into_work:
                store(work, base + j, load(z, base + j))
            else:
                store(y, base + j, load(z, base + j))
        length = n
        stride = 1
        factor = 2
        while length > 1:
            while length % factor != 0:
                factor += 1
            part = length // factor
            for p in range(part):
                for t in range(factor):
                    for q in range(stride):
                        real = 0.0
                        imaginary = 0.0
                        for r in range(factor):
                            turn = (r * t % factor * (n // factor) + p * t * stride) % n
                            c = load(cosines, turn)
                            s = load(sines, turn) if INVERSE else -load(sines, turn)
                            at = base + 2 * (q + stride * (p + part * r))
                            a = load(work, at) if into_work else load(y, at)
                            b = load(work, at + 1) if into_work else load(y, at + 1)
                            real += a * c - b * s
                            imaginary += a * s + b * c
                        to = base + 2 * (q + stride * (factor * p + t))
                        if into_work:
                            store(y, to, real)
                            store(y, to + 1, imaginary)
                        else:
                            store(work, to, real)
                            store(work, to + 1, imaginary)
            into_work = not into_work
            length = part
            stride *= factor
        if INVERSE:
            for j in range(2 * n):
                store(y, base + j, load(y, base + j) / n)


FOURIER = Routine("fourier", fourier)


def transform(n: Lowering, rows: Expr, length: Expr, element: Callable[[Expr, Expr, Expr], Expr], inverse: bool) -> Tensor:
    """[rows, length, 2]: the discrete Fourier transform of rows of complex numbers.

    Args:
        element: (row, position, 0 real or 1 imaginary) -> float64.
    """
    z = n.map((rows, length, 2), element, F64)

    def angle(k: Expr) -> Expr:
        return wide(k) * (2 * math.pi) / wide(length)
    cosines, sines = n.map((length,), lambda k: ex.unary("cos", angle(k))), n.map((length,), lambda k: ex.unary("sin", angle(k)))
    shape = (rows, length, 2)
    return n.routine(FOURIER, [z, cosines, sines], [(F64, shape), (F64, shape)], [length], units=rows, constants={"INVERSE": inverse})[0]


def scalar(n: Lowering, index: int) -> Expr:
    """A whole number given as a scalar or one-element input."""
    t = n.input(index)
    if n.known(index) is not None:
        return n.ints(index)[0]
    return ex.cast(t[(ZERO,) * t.rank], dt.int64)


def waves(length: int, bins: int) -> np.ndarray:
    """exp(-2 pi i t k / length) as [t, k, (real, imaginary)]."""
    turns = np.outer(np.arange(length), np.arange(bins)) % length * (2 * math.pi / length)
    return np.stack([np.cos(turns), -np.sin(turns)], -1)


@register
class DFT(Op):
    """Discrete Fourier transform along one axis; real or complex (last dimension 2), forward or inverse, one-sided or whole. Source: ONNX DFT-20.

    Short float32 transforms are products with waves rounded to float32; all others are computed in double precision.
    """

    name, versions = "DFT", (17, 20)
    attributes = {"inverse": 0, "onesided": 0}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        if x.rank > 1 and not x.shape[-1].is_const:
            raise UnknownRankError("whether the input is real or complex, its last dimension, is only known when running", n.label)
        parts = x.shape[-1].value if x.rank > 1 else 0
        if parts not in (1, 2):
            raise n.error(f"an input of shape [{', '.join(d.text for d in x.shape)}] was given, a last dimension of 1 (real) or 2 (complex) was expected")
        axis, count = self.axis(n, x.rank), x.rank - 1
        inverse, onesided = bool(n.attr("inverse")), bool(n.attr("onesided"))

        def along(values: Sequence[Expr], other: Expr) -> tuple[Expr, ...]:
            """`values` of all dimensions but the axis, which has `other`."""
            return tuple(ex.where(ex.equal(axis, k), other, v) for k, v in enumerate(values))
        given = ex.total(ex.where(ex.equal(axis, k), d, 0) for k, d in enumerate(x.shape[:count]))
        length = scalar(n, 1) if n.has(1) else (given - 1) * 2 if inverse and onesided else given
        short = length.is_const and 0 < length.value <= LONGEST_PRODUCT
        if short and axis.is_const and x.dtype is dt.float32 and not (inverse and onesided and parts == 1):
            held = x.shape[axis.value]
            if held.is_const and held.value > 0:
                needed = length // 2 + 1 if inverse and onesided else length
                return self.product(n, int(axis.value), int(length.value), min(int(needed.value), int(held.value)), parts, inverse, onesided)
        others = along(x.shape[:count], ONE)

        def element(row: Expr, t: Expr, part: Expr) -> Expr:
            lead = ex.unravel(row, others)

            def at(position: Expr, which: Expr) -> Expr:
                return wide(ex.load(x, (*along(lead, position), which), 0))
            if parts == 1:
                return ex.where(ex.equal(part, 0), at(t, ZERO), 0.0)
            if not (inverse and onesided):
                return at(t, part)
            # The other half of a real signal's spectrum is the conjugate of this one; its ends are real.
            mirrored = length // 2 < t
            found = at(ex.where(mirrored, length - t, t), part)
            end = ex.logical_or(ex.equal(t, 0), ex.equal(t * 2, length))
            return ex.where(ex.equal(part, 0), found, ex.where(end, 0.0, ex.where(mirrored, -found, found)))
        y = transform(n, ex.product(others), length, element, inverse)
        bins = length // 2 + 1 if onesided and not inverse else length
        shape = (*along(x.shape[:count], bins), ex.const(1 if inverse and onesided else 2))

        def value(*i: Expr) -> Expr:
            t = ex.total(ex.where(ex.equal(axis, k), p, 0) for k, p in enumerate(i[:count]))
            return y[ex.linear_index(along(i[:count], ZERO), others), t, i[-1]]
        return n.map(shape, value, x.dtype)

    @staticmethod
    def product(n: Lowering, axis: int, length: int, terms: int, parts: int, inverse: bool, onesided: bool) -> Tensor:
        """A short transform of the first `terms` elements, others being zero: the product with a matrix of waves [time, part, frequency, part]."""
        x = n.input(0)
        bins = length // 2 + 1 if onesided and not inverse else length
        wave = waves(length, bins)
        if inverse:
            wave = wave * np.array([1.0, -1.0]) / length
        both = np.stack([wave, np.stack([-wave[..., 1], wave[..., 0]], -1)], 1)[:terms, :parts]
        if inverse and onesided:  # each element stands for its conjugate too; the ends have none, and are real
            both, end = both[..., :1] * 2, np.array([0.5, 0.0])[:, None, None]
            both[0] *= end
            if length % 2 == 0 and length // 2 < terms:
                both[length // 2] *= end
        results = both.shape[-1]
        matrix = n.constant(both.astype(np.float32), "waves")
        lead = tuple(d for k, d in enumerate(x.shape[:-1]) if k != axis)

        def place(r: Sequence[Expr], at: Expr, part: Expr) -> tuple[Expr, ...]:
            return (*r[:axis], at, *r[axis:], part)
        return n.contract((), lead, (bins, results), (terms, parts), lambda b, r, k: x[place(r, k[0], k[1])], lambda b, c, k: matrix[k[0], k[1], c[0], c[1]],
                          place(lead, ex.const(bins), ex.const(results)), lambda b, r, c: place(r, c[0], c[1]), dtype=dt.float32)

    @staticmethod
    def axis(n: Lowering, rank: int) -> Expr:
        """The axis, counted from the front; perhaps known only when running.

        Raises:
            ModelError: it is that of real and imaginary parts, or out of range.
        """
        given = ex.const(int(n.attr("axis", 1))) if n.version < 20 else scalar(n, 2) if n.has(2) else ex.const(-2)
        if not given.is_const:
            return ex.where(given < 0, given + rank, given)
        found = n.axis(given.value, rank)
        if found == rank - 1:
            raise n.error("the axis of the transform is that of real and imaginary parts")
        return ex.const(found)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(0).standard_normal((2, 12, 1)).astype(np.float32)
        z = np.random.default_rng(1).standard_normal((2, 7, 3, 2)).astype(np.float32)
        yield Sample((x,), {"onesided": 1})
        yield Sample((z, None, np.array(1, np.int64)), {"inverse": 1})
        yield Sample((z, np.array(8, np.int64), np.array(1, np.int64)))
        yield Sample((z, np.array(5, np.int64), np.array(1, np.int64)), {"inverse": 1}, name="of a part")
        yield Sample((x, np.array(16, np.int64)), {"onesided": 1}, name="filled with zeros")
        for length in (12, 13):
            yield Sample((z, np.array(length, np.int64), np.array(1, np.int64)), {"inverse": 1, "onesided": 1}, name=f"of half a spectrum, {length}")
        yield Sample((z, None, np.array(-2, np.int64)), name="last axis")
        yield Sample((z.astype(np.float64), None, np.array(1, np.int64)), name="double")


@register
class STFT(Op):
    """Short-time Fourier transform: windowed frames, each transformed. Source: ONNX STFT-17.

    Short float32 frames are multiplied by waves rounded to float32; all others are transformed in double precision.
    """

    name, versions = "STFT", (17,)
    attributes = {"onesided": 1}

    def lower(self, n: Lowering) -> Tensor:
        x, window = n.input(0), n.optional(2)
        if x.rank not in (2, 3):
            raise n.error(f"a signal of rank {x.rank} was given, [batch, length, 1 or 2] was expected")
        step = scalar(n, 1)
        if n.has(3):
            length = scalar(n, 3)
        elif window is not None:
            length = window.shape[0]
        else:
            length = x.shape[1]
        frames = (x.shape[1] - length) // step + 1
        bins = length // 2 + 1 if n.attr("onesided") else length
        real = x.rank == 2 or (x.shape[2].is_const and x.shape[2].value == 1)
        fits = window is None or window.shape[0] is length
        if real and fits and x.dtype is dt.float32 and step.is_const and length.is_const and 0 < length.value <= LONGEST_PRODUCT:
            return self.product(n, frames, int(step.value), int(length.value), bins)

        def element(row: Expr, t: Expr, part: Expr) -> Expr:
            batch, frame = ex.unravel(row, (x.shape[0], frames))
            at = (batch, frame * step + t) if x.rank == 2 else (batch, frame * step + t, part)
            value = wide(ex.load(x, at, 0))
            if x.rank == 2:
                value = ex.where(ex.equal(part, 0), value, 0.0)
            return value if window is None else value * wide(ex.load(window, (t,), 0))
        y = transform(n, x.shape[0] * frames, length, element, False)
        return n.map((x.shape[0], frames, bins, 2), lambda b, f, k, part: y[b * frames + f, k, part], x.dtype)

    @staticmethod
    def product(n: Lowering, frames: Expr, step: int, length: int, bins: Expr) -> Tensor:
        """Short frames of a real signal: their product with a matrix of windowed waves, which reads overlapping frames where they lie."""
        x, window, known = n.input(0), n.optional(2), n.known(2) if n.has(2) else None
        wave = waves(length, int(bins.value))
        if known is not None:
            wave = wave * known.astype(np.float64)[:, None, None]
        matrix = n.constant(wave.astype(np.float32), "waves")
        if window is not None and known is None:
            plain = matrix
            matrix = n.map(plain.shape, lambda t, k, part: plain[t, k, part] * ex.cast(window[t], dt.float32))
        end = (ex.const(0),) * (x.rank - 2)
        return n.contract((), (x.shape[0], frames), (bins, 2), (length,), lambda b, r, k: x[(r[0], r[1] * step + k[0], *end)],
                          lambda b, c, k: matrix[k[0], c[0], c[1]], (x.shape[0], frames, bins, 2), lambda b, r, c: (*r, *c), dtype=dt.float32)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(2).standard_normal((1, 40, 1)).astype(np.float32)
        yield Sample((x, np.array(4, np.int64), np.hanning(10).astype(np.float32)))
        yield Sample((x, np.array(8, np.int64), None, np.array(16, np.int64)), {"onesided": 0})
        yield Sample((x[..., 0].repeat(2, 0), np.array(3, np.int64), np.hanning(15).astype(np.float32), np.array(15, np.int64)), name="matrix")
        yield Sample((x, np.array(4, np.int64), np.hanning(10).astype(np.float32), np.array(12, np.int64)), name="short window")


# ------------------------------------------------------------------------------------------------------- windows and filters
class CosineWindow(Op):
    """sum over k of coefficient k * cos(2 pi k n / N), N being the size, or one less for a symmetric window."""

    attributes = {"periodic": 1, "output_datatype": 1}
    coefficients: tuple[float, ...]

    def lower(self, n: Lowering) -> Tensor:
        size = scalar(n, 0)
        span = size if n.attr("periodic") else size - 1

        def value(i: Expr) -> Expr:
            total = ex.const(self.coefficients[0], F64)
            for k, c in enumerate(self.coefficients[1:], 1):
                total = total + ex.unary("cos", wide(i) * (2 * math.pi * k) / wide(span)) * c
            return total
        return n.map((size,), value, dt.BY_CODE[int(n.attr("output_datatype"))])

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array(10, np.int32),))
        yield Sample((np.array(11, np.int64),), {"periodic": 0})


@register
class HannWindow(CosineWindow):
    """sin^2(pi n / N). Source: ONNX HannWindow-17."""

    name, versions, coefficients = "HannWindow", (17,), (0.5, -0.5)


@register
class HammingWindow(CosineWindow):
    """25/46 - 21/46 cos(2 pi n / N). Source: ONNX HammingWindow-17."""

    name, versions, coefficients = "HammingWindow", (17,), (25.0 / 46.0, -21.0 / 46.0)


@register
class BlackmanWindow(CosineWindow):
    """0.42 - 0.5 cos(2 pi n / N) + 0.08 cos(4 pi n / N). Source: ONNX BlackmanWindow-17."""

    name, versions, coefficients = "BlackmanWindow", (17,), (0.42, -0.5, 0.08)


@register
class MelWeightMatrix(Op):
    """Triangular filters, evenly spaced in mels, over the bins of a spectrum. Source: ONNX MelWeightMatrix-17."""

    name, versions = "MelWeightMatrix", (17,)
    attributes = {"output_datatype": 1}

    def lower(self, n: Lowering) -> Tensor:
        filters, length, rate = scalar(n, 0), scalar(n, 1), scalar(n, 2)

        def mel(index: int) -> Expr:
            t = n.input(index)
            known = n.known(index)
            hertz = wide(t[(ZERO,) * t.rank]) if known is None else ex.const(float(known.reshape(-1)[0]), F64)
            return ex.unary("log1p", hertz / 700.0) * (2595 / math.log(10))
        low, high = mel(3), mel(4)
        step = (high - low) / wide(filters + 2)

        def edge(k: Expr) -> Expr:
            hertz = ex.unary("expm1", (wide(k) * step + low) * (math.log(10) / 2595)) * 700.0
            return ex.cast(ex.unary("floor", wide(length + 1) * hertz / wide(rate)), dt.int64)
        edges = n.map((filters + 2,), edge)

        def value(bin_: Expr, f: Expr) -> Expr:
            left, centre, right = edges[f], edges[f + 1], edges[f + 2]
            falling = wide(right - bin_) / wide(ex.maximum(right - centre, 1))
            rising = wide(bin_ - left) / wide(ex.maximum(centre - left, 1))
            in_left = ex.logical_and(left <= bin_, bin_ <= centre)
            lower = ex.where(in_left, ex.where(ex.equal(left, centre), 1.0, rising), 0.0)
            return ex.where(ex.logical_and(centre <= bin_, bin_ < right), falling, lower)
        return n.map((length // 2 + 1, filters), value, dt.BY_CODE[int(n.attr("output_datatype"))])

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array(8, np.int32), np.array(16, np.int32), np.array(8192, np.int32), np.array(0.0, np.float32), np.array(4096.0, np.float32)))
