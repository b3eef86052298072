"""com.microsoft: operators on quantised numbers. All compute on real values: codes less zero points times scales, rounded half to even at the end."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import MapNest, Store
from .base import REQUIRED, Builder, Lowering, Op, Sample, broadcast_load, broadcast_shapes, register
from .elementwise import real_sample
from .matmul import At, along, matrix_product
from .quantisation import DequantizeLinear as StandardDequantizeLinear
from .quantisation import QuantizeLinear as StandardQuantizeLinear
from .quantisation import requantize
from .window import window

DOMAIN = "com.microsoft"
ZERO, ONE = ex.const(0), ex.const(1)
F32 = dt.float32
CODED_LEVEL = 4  # the accuracy level of MatMulNBits that lets rows be int8
LARGEST_CODE = 127


def single(t: Tensor) -> Expr:
    """A parameter of the whole tensor."""
    return t[(ZERO,) * t.rank]


def real_value(n: Lowering, code: Expr, scale: int, zero: int) -> Expr:
    """(code - zero point) * scale in float32; a zero point that is absent is 0."""
    shifted = ex.cast(code, dt.int32)
    if n.has(zero):
        shifted = shifted - ex.cast(single(n.input(zero)), dt.int32)
    return ex.cast(shifted, F32) * ex.cast(single(n.input(scale)), F32)


def coded(n: Lowering, value: Expr, scale: int, zero: int, dtype: dt.DType) -> Expr:
    """The code of a real value."""
    return requantize(value / ex.cast(single(n.input(scale)), F32), single(n.input(zero)) if n.has(zero) else None, dtype)


# ------------------------------------------------------------------------------------------------------------ element-wise
class QLinearBinary(Op):
    """c = f(a, b) with broadcasting; inputs a, scale, zero point, b, scale, zero point, scale and zero point of the result."""

    domain, versions = DOMAIN, (1,)

    def value(self, a: Expr, b: Expr) -> Expr:
        raise NotImplementedError

    def lower(self, n: Lowering) -> Tensor:
        a, b = n.input(0), n.input(3)
        shape = n.broadcast(a, b)

        def body(*i: Expr) -> Expr:
            return coded(n, self.value(real_value(n, broadcast_load(a, shape, i), 1, 2), real_value(n, broadcast_load(b, shape, i), 4, 5)), 6, 7, a.dtype)
        return n.map(shape, body, a.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        a, b = rng.integers(0, 255, (2, 3, 4)).astype(np.uint8), rng.integers(0, 255, (3, 1)).astype(np.uint8)
        yield Sample((a, np.float32(0.02), np.uint8(120), b, np.float32(0.03), np.uint8(128), np.float32(0.05), np.uint8(110)))


@register
class QLinearAdd(QLinearBinary):
    """Sum. Source: com.microsoft QLinearAdd-1."""

    name = "QLinearAdd"

    def value(self, a: Expr, b: Expr) -> Expr:
        return a + b


@register
class QLinearMul(QLinearBinary):
    """Product. Source: com.microsoft QLinearMul-1."""

    name = "QLinearMul"

    def value(self, a: Expr, b: Expr) -> Expr:
        return a * b


class QLinearUnary(Op):
    """y = f(x); inputs x, scale, zero point, scale and zero point of the result."""

    domain, versions = DOMAIN, (1,)

    def value(self, n: Lowering, x: Expr) -> Expr:
        raise NotImplementedError

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        return n.map(x.shape, lambda *i: coded(n, self.value(n, real_value(n, x[i], 1, 2)), 3, 4, x.dtype), x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.arange(0, 256, 5, dtype=np.uint8), np.float32(0.05), np.uint8(128), np.float32(0.01), np.uint8(100)))


@register
class QLinearSigmoid(QLinearUnary):
    """Logistic function. Source: com.microsoft QLinearSigmoid-1."""

    name = "QLinearSigmoid"

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.unary("sigmoid", x)


@register
class QLinearLeakyRelu(QLinearUnary):
    """x, or alpha * x where x is negative. Source: com.microsoft QLinearLeakyRelu-1."""

    name = "QLinearLeakyRelu"
    attributes = {"alpha": 0.01}

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.where(x < 0.0, x * float(n.attr("alpha")), x)


@register
class QLinearSoftmax(Op):
    """Softmax along an axis (before opset 13, over all dimensions from it on). Source: com.microsoft QLinearSoftmax-1."""

    domain, name, versions = DOMAIN, "QLinearSoftmax", (1,)
    attributes = {"axis": -1, "opset": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        axis = n.axis(int(n.attr("axis")), x.rank)
        axes = [axis] if int(n.attr("opset")) >= 13 else list(range(axis, x.rank))

        def body(*i: Expr) -> Expr:
            def at(r: Sequence[Expr]) -> Expr:
                place = dict(zip(axes, r))
                return real_value(n, x[tuple(place.get(k, v) for k, v in enumerate(i))], 1, 2)
            extents = [x.shape[k] for k in axes]
            largest = n.reduce("max", extents, lambda *r: at(r))
            total = n.reduce("sum", extents, lambda *r: ex.unary("exp", at(r) - largest))
            return coded(n, ex.unary("exp", at([i[k] for k in axes]) - largest) / total, 3, 4, x.dtype)
        return n.map(x.shape, body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(1).integers(0, 255, (2, 3, 4)).astype(np.uint8)
        yield Sample((x, np.float32(0.05), np.uint8(128), np.float32(1 / 256), np.uint8(0)), {"axis": -1, "opset": 13})
        yield Sample((x, np.float32(0.05), np.uint8(128), np.float32(1 / 256), np.uint8(0)), {"axis": 1, "opset": 12})


@register
class QLinearConcat(Op):
    """Tensors with scales and zero points of their own, joined in those of the result. Source: com.microsoft QLinearConcat-1."""

    domain, name, versions = DOMAIN, "QLinearConcat", (1,)
    attributes = {"axis": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        parts = list(range(2, len(n.inputs), 3))
        tensors = [n.input(k) for k in parts]
        first = tensors[0]
        axis = n.axis(int(n.attr("axis")), first.rank)
        starts = [ex.total(t.shape[axis] for t in tensors[:k]) for k in range(len(tensors) + 1)]

        def body(*i: Expr) -> Expr:
            out: Expr | None = None
            for t, k, start in reversed(list(zip(tensors, parts, starts))):
                value = real_value(n, ex.load(t, (*i[:axis], i[axis] - start, *i[axis + 1:]), 0), k + 1, k + 2)
                out = value if out is None else ex.where(i[axis] < start + t.shape[axis], value, out)
            assert out is not None
            return coded(n, out, 0, 1, first.dtype)
        return n.map(tuple(starts[-1] if k == axis else d for k, d in enumerate(first.shape)), body, first.dtype)

    def samples(self) -> Iterator[Sample]:
        a, b = (np.random.default_rng(k).integers(0, 255, (2, k)).astype(np.uint8) for k in (3, 4))
        yield Sample((np.float32(0.1), np.uint8(5), a, np.float32(0.05), np.uint8(100), b, np.float32(0.2), np.uint8(20)), {"axis": 1})


@register
class QLinearWhere(Op):
    """x where the condition holds, else y. Source: com.microsoft QLinearWhere-1."""

    domain, name, versions = DOMAIN, "QLinearWhere", (1,)

    def lower(self, n: Lowering) -> Tensor:
        condition, x, y = n.input(0), n.input(1), n.input(4)
        shape = n.broadcast(condition, x, y)

        def body(*i: Expr) -> Expr:
            chosen = ex.where(broadcast_load(condition, shape, i), real_value(n, broadcast_load(x, shape, i), 2, 3), real_value(n, broadcast_load(y, shape, i), 5, 6))
            return coded(n, chosen, 7, 8, x.dtype)
        return n.map(shape, body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
        yield Sample((x % 80 == 0, x, np.float32(0.1), np.uint8(3), x[::-1].copy(), np.float32(0.2), np.uint8(9), np.float32(0.15), np.uint8(1)))


# ------------------------------------------------------------------------------------------------------------------- pools
@register
class QLinearAveragePool(Op):
    """Mean of each window, channels first or last. Source: com.microsoft QLinearAveragePool-1."""

    domain, name, versions = DOMAIN, "QLinearAveragePool", (1,)
    attributes = {"auto_pad": "NOTSET", "kernel_shape": REQUIRED, "ceil_mode": 0, "count_include_pad": 0, "channels_last": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, last = n.input(0), bool(n.attr("channels_last"))
        size = x.shape[1:-1] if last else x.shape[2:]
        win = window(n, size, [int(k) for k in n.attr("kernel_shape")], bool(n.attr("ceil_mode")))
        padded = bool(n.attr("count_include_pad"))

        def body(*i: Expr) -> Expr:
            place = i[1:-1] if last else i[2:]

            def tap(*k: Expr) -> Expr:
                at = win.tap(place, k)
                inside = ex.const(True, dt.boolean)
                for p, d in zip(at, size):
                    inside = ex.logical_and(inside, ex.logical_and(p >= 0, p < d))
                code = ex.load(x, (i[0], *at, i[-1]) if last else (*i[:2], *at), None if win.inside else 0)
                return ex.where(inside, real_value(n, code, 1, 2), ex.const(0.0, F32))
            count = ex.product(end - first + 1 for first, end in win.valid_taps(place, padded))
            return coded(n, n.reduce("sum", win.kernel, tap) / ex.cast(count, F32), 3, 4, x.dtype)
        return n.map((x.shape[0], *win.out, x.shape[-1]) if last else (*x.shape[:2], *win.out), body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(2).integers(0, 255, (1, 2, 5, 6)).astype(np.uint8)
        yield Sample((x, np.float32(0.1), np.uint8(128), np.float32(0.08), np.uint8(100)), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1), "strides": (2, 2)})


@register
class QLinearGlobalAveragePool(Op):
    """Mean of each channel, channels first or last. Source: com.microsoft QLinearGlobalAveragePool-1."""

    domain, name, versions = DOMAIN, "QLinearGlobalAveragePool", (1,)
    attributes = {"channels_last": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, last = n.input(0), bool(n.attr("channels_last"))
        size = x.shape[1:-1] if last else x.shape[2:]
        ones = [ONE] * len(size)

        def body(*i: Expr) -> Expr:
            def at(k: Sequence[Expr]) -> Expr:
                return real_value(n, x[(i[0], *k, i[-1]) if last else (*i[:2], *k)], 1, 2)
            return coded(n, n.reduce("sum", size, lambda *k: at(k)) / ex.cast(ex.product(size), F32), 3, 4, x.dtype)
        return n.map((x.shape[0], *ones, x.shape[-1]) if last else (*x.shape[:2], *ones), body, x.dtype)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(3).integers(0, 255, (2, 3, 4, 5)).astype(np.uint8)
        yield Sample((x, np.float32(0.1), np.uint8(128), np.float32(0.05), np.uint8(100)))


# ---------------------------------------------------------------------------------------------------------------- products
@register
class MatMulIntegerToFloat(Op):
    """(A - zero) (B - zero) * scales + bias from 8-bit operands. Source: com.microsoft MatMulIntegerToFloat-1."""

    domain, name, versions = DOMAIN, "MatMulIntegerToFloat", (1,)

    def lower(self, n: Lowering) -> Tensor:
        a, b, a_scale, b_scale, a_zero, b_zero, bias = n.input(0), n.input(1), n.input(2), n.input(3), n.optional(4), n.optional(5), n.optional(6)
        shape = broadcast_shapes([a.shape[:-2], b.shape[:-2]], n) + a.shape[-2:-1] + b.shape[-1:]

        def centred(t: Tensor, zero: Tensor | None, position: int) -> Callable[[tuple[Expr, ...]], Expr]:
            def at(i: tuple[Expr, ...]) -> Expr:
                e = ex.cast(t[i], dt.int32)
                return e if zero is None else e - ex.cast(along(zero, i, t.shape, position), dt.int32)
            return at

        def finish(acc: Expr, i: tuple[Expr, ...]) -> Expr:
            scale = ex.cast(along(a_scale, i, shape, -2), F32) * ex.cast(along(b_scale, i, shape, -1), F32)
            result = ex.cast(acc, F32) * scale
            return result if bias is None else result + ex.cast(bias[i[-1]], F32)
        return matrix_product(n, a.shape, b.shape, centred(a, a_zero, -2), centred(b, b_zero, -1), a_scale.dtype, dt.int32, finish)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(4)
        a, b = rng.integers(0, 255, (4, 20)).astype(np.uint8), rng.integers(-64, 64, (20, 5)).astype(np.int8)  # as in QAttention
        yield Sample((a, b, np.float32(0.01), rng.random(5).astype(np.float32), np.uint8(120), np.arange(5, dtype=np.int8), real_sample((5,))))
        yield Sample((a, b, np.float32(0.01), np.float32(0.02)))


@register
class DynamicQuantizeMatMul(Op):
    """A quantised to uint8 by its own range, then as MatMulIntegerToFloat. Source: com.microsoft DynamicQuantizeMatMul-1."""

    domain, name, versions = DOMAIN, "DynamicQuantizeMatMul", (1,)

    def decompose(self, b: Builder) -> Value:
        codes, scale, zero = b.add("DynamicQuantizeLinear", b.input(0), outputs=3)
        rest = [b.input(k) if b.has(k) else None for k in (3, 4)]
        return b.add("MatMulIntegerToFloat", codes, b.input(1), scale, b.input(2), zero, *rest, domain=DOMAIN)

    def samples(self) -> Iterator[Sample]:
        b = np.random.default_rng(5).integers(0, 255, (8, 5)).astype(np.uint8)
        yield Sample((real_sample((3, 8)), b, np.float32(0.02), np.uint8(128), real_sample((5,))))


@register
class QGemm(Op):
    """alpha (A' - zero) (B' - zero) * scales + C, as codes if an output scale is given, else as float32. Source: com.microsoft QGemm-1."""

    domain, name, versions = DOMAIN, "QGemm", (1,)
    attributes = {"alpha": 1.0, "transA": 0, "transB": 0}

    def lower(self, n: Lowering) -> Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, c = n.input(0), n.input(1), n.input(2), n.input(3), n.input(4), n.input(5), n.optional(6)
        turned = {k: bool(n.attr(f"trans{k}")) for k in "AB"}
        shapes = [t.shape[::-1] if turned[k] else t.shape for t, k in ((a, "A"), (b, "B"))]
        out = (shapes[0][0], shapes[1][1])
        dtype = n.input(8).dtype if n.has(7) else F32

        def column(t: Tensor, j: Expr) -> Expr:
            return t[tuple(ZERO if d is ONE else j for d in t.shape)]

        def finish(acc: Expr, i: tuple[Expr, ...]) -> Expr:
            whole = acc if c is None else acc + ex.cast(broadcast_load(c, out, i), acc.dtype)
            real = ex.cast(whole, F32) * (ex.cast(single(a_scale), F32) * ex.cast(column(b_scale, i[1]), F32) * float(n.attr("alpha")))
            return coded(n, real, 7, 8, dtype) if n.has(7) else real
        return matrix_product(n, shapes[0], shapes[1], lambda i: ex.cast(a[i[::-1] if turned["A"] else i], dt.int32) - ex.cast(single(a_zero), dt.int32),
                              lambda i: ex.cast(b[i[::-1] if turned["B"] else i], dt.int32) - ex.cast(column(b_zero, i[1]), dt.int32), dtype, dt.int32, finish)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(6)
        a, b = rng.integers(0, 255, (4, 8)).astype(np.uint8), rng.integers(0, 255, (5, 8)).astype(np.uint8)
        c = rng.integers(-500, 500, (5,)).astype(np.int32)
        yield Sample((a, np.float32(0.02), np.uint8(120), b, np.float32(0.03), np.uint8(128), c, np.float32(0.1), np.uint8(100)), {"transB": 1})
        yield Sample((a, np.float32(0.02), np.uint8(120), b, np.float32(0.03), np.uint8(128), c), {"transB": 1})


# ----------------------------------------------------------------------------------------------------- few bits, in blocks
def packed_code(t: Tensor, lead: tuple[Expr, ...], position: Expr, bits: int) -> Expr:
    """Number `position` of `bits` bits along the last dimension of a uint8 tensor, the lowest bits first; int32."""
    per_byte = 8 // bits
    byte = ex.cast(t[(*lead, position // per_byte)], dt.int32)
    if per_byte == 1:
        return byte
    shifted = ex.binary("shr", byte, ex.cast(position % per_byte * bits, dt.int32))
    return ex.binary("bitand", shifted, ex.const((1 << bits) - 1, dt.int32))


def coded_rows(n: Lowering, a: Tensor, inner: int, block: int) -> At:
    """Elements of `a` as int8 codes times a step for each block along its last axis: 127 steps to the block's largest, codes to the nearest, ties to even.

    Codes are stored up to the end of the last block, zeros behind `inner`.
    """
    lead, blocks = a.shape[:-1], -(-inner // block)

    def element(i: tuple[Expr, ...]) -> Expr:
        if inner % block == 0:
            return ex.cast(a[i], F32)
        return ex.where(i[-1] < inner, ex.cast(a[(*i[:-1], ex.minimum(i[-1], inner - 1))], F32), ex.const(0.0, F32))
    steps, inverse = (n.tensor((*lead, blocks), F32, stem) for stem in ("steps", "inverse"))
    at = tuple(ex.axis(d) for d in steps.shape)
    largest = n.reduce("max", [block], lambda t: ex.unary("abs", element((*at[:-1], at[-1] * block + t))))
    one = ex.where(ex.equal(largest, 0.0), 0.0, ex.const(float(LARGEST_CODE), F32) / largest)
    n.nests.append(MapNest(at, (Store(steps, at, largest * (1.0 / LARGEST_CODE)), Store(inverse, at, one)), n.origin))
    codes = n.map((*lead, blocks * block), lambda *i: ex.cast(ex.unary("round", element(i) * inverse[(*i[:-1], i[-1] // block)]), dt.int32), dt.int8, "codes")
    return lambda i: ex.cast(codes[i], F32) * steps[(*i[:-1], i[-1] // block)]


@register
class MatMulNBits(Op):
    """A times the transpose of weights of 2, 4 or 8 bits with a scale (and zero point) for each block along K. Source: com.microsoft MatMulNBits-1.

    At accuracy level 4 the numbers of A are rounded to multiples of 1/127 of the largest of their block, which int8 holds; at all others they are taken as they are.
    """

    domain, name, versions = DOMAIN, "MatMulNBits", (1,)
    attributes = {"K": REQUIRED, "N": REQUIRED, "block_size": REQUIRED, "bits": 4, "accuracy_level": 0}
    tolerance = 1e-3

    def lower(self, n: Lowering) -> Tensor:
        a, codes, scales, zeros, groups, bias = n.input(0), n.input(1), n.input(2), n.optional(3), n.optional(4), n.optional(5)
        inner, columns, block, bits = (int(n.attr(k)) for k in ("K", "N", "block_size", "bits"))
        if bits not in (2, 4, 8) or n.attr("weight_prepacked"):
            raise n.unsupported(f"MatMulNBits with {bits} bits{' and prepacked weights' if n.attr('weight_prepacked') else ''}")
        blocks = -(-inner // block)
        zero_bytes = -(-blocks * bits // 8)
        kind = dt.compute_type(a.dtype)

        def entry(t: Tensor, j: Expr, g: Expr) -> Expr:
            return t[j, g] if t.rank == 2 else t[j * blocks + g]

        def weight(i: tuple[Expr, ...]) -> Expr:
            k, j = i
            g = k // block if groups is None else ex.cast(groups[k], dt.int64)
            code = packed_code(codes, (j, k // block), k % block, bits)
            if zeros is None:
                shifted = ex.cast(code - ex.const(1 << bits - 1, dt.int32), kind)
            elif zeros.dtype is dt.uint8:
                per_byte = 8 // bits
                byte = ex.cast(zeros[j, g // per_byte] if zeros.rank == 2 else zeros[j * zero_bytes + g // per_byte], dt.int32)
                zero = ex.binary("bitand", ex.binary("shr", byte, ex.cast(g % per_byte * bits, dt.int32)), ex.const((1 << bits) - 1, dt.int32))
                shifted = ex.cast(code - zero, kind)
            else:
                shifted = ex.cast(code, kind) - ex.cast(entry(zeros, j, g), kind)
            return shifted * ex.cast(entry(scales, j, g), kind)

        def finish(acc: Expr, i: tuple[Expr, ...]) -> Expr:
            return acc if bias is None else acc + ex.cast(bias[i[-1]], acc.dtype)
        element = coded_rows(n, a, inner, block) if n.attr("accuracy_level") == CODED_LEVEL and groups is None else lambda i: a[i]
        return matrix_product(n, a.shape, (ex.const(inner), ex.const(columns)), element, weight, a.dtype, kind, finish)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(7)
        a = rng.standard_normal((2, 3, 64)).astype(np.float32)
        codes, scales = rng.integers(0, 255, (5, 2, 16)).astype(np.uint8), rng.random(10).astype(np.float32)
        numbers = {"K": 64, "N": 5, "block_size": 32, "bits": 4}
        yield Sample((a, codes, scales), numbers)
        yield Sample((a, codes, scales, rng.integers(0, 255, (5,)).astype(np.uint8), None, rng.random(5).astype(np.float32)), numbers)


@register
class GatherBlockQuantized(Op):
    """Rows of a table of 4- or 8-bit numbers in blocks along the last dimension, dequantised. Source: com.microsoft GatherBlockQuantized-1."""

    domain, name, versions = DOMAIN, "GatherBlockQuantized", (1,)
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": 128, "bits": 4}

    def lower(self, n: Lowering) -> Tensor:
        table, index, scales, zeros = n.input(0), n.input(1), n.input(2), n.optional(3)
        bits, block = int(n.attr("bits")), int(n.attr("block_size"))
        if n.axis(int(n.attr("gather_axis")), table.rank) != 0 or n.axis(int(n.attr("quantize_axis")), table.rank) != table.rank - 1:
            raise n.unsupported("GatherBlockQuantized other than along the first dimension with blocks along the last")
        packed = table.dtype is dt.uint8 and bits < 8
        inner = (*table.shape[1:-1], table.shape[-1] * (8 // bits) if packed else table.shape[-1])

        def value(*i: Expr) -> Expr:
            row = ex.cast(index[i[:index.rank]], dt.int64)
            row = ex.where(row < 0, row + table.shape[0], row)
            row = ex.minimum(ex.maximum(row, 0), table.shape[0] - 1)
            lead, k = (row, *i[index.rank:-1]), i[-1]
            code = packed_code(table, lead, k, bits) if packed else ex.cast(table[(*lead, k)], dt.int32)
            if zeros is not None:
                zero = packed_code(zeros, lead, k // block, bits) if packed else ex.cast(zeros[(*lead, k // block)], dt.int32)
            else:
                zero = ex.const(1 << bits - 1 if table.dtype is dt.uint8 else 0, dt.int32)
            return ex.cast(code - zero, F32) * ex.cast(scales[(*lead, k // block)], F32)
        return n.map((*index.shape, *inner), value, scales.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(8)
        yield Sample((rng.integers(0, 255, (6, 16)).astype(np.uint8), np.array([[1, 5], [0, 3]], np.int64), rng.random((6, 2)).astype(np.float32)),
                     {"block_size": 16, "quantize_axis": 1})


# ------------------------------------------------------------------------------------------------------------- conversions
@register
class QuantizeLinear(StandardQuantizeLinear):
    """ONNX QuantizeLinear under its older name. Source: com.microsoft QuantizeLinear-1."""

    domain, versions = DOMAIN, (1,)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 6)), np.float32(0.02), np.uint8(128)))
        yield Sample((real_sample((2, 3)), np.array([0.02, 0.04, 0.1], np.float32), np.array([0, -5, 9], np.int16)), {"axis": 1})


@register
class DequantizeLinear(StandardDequantizeLinear):
    """ONNX DequantizeLinear under its older name. Source: com.microsoft DequantizeLinear-1."""

    domain, versions = DOMAIN, (1,)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.arange(12, dtype=np.uint8).reshape(2, 6), np.float32(0.02), np.uint8(3)))
