"""com.microsoft: matrices and tables in packed formats: 4-bit floats, blobs of blocks with their scales, the formats of GGML."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from .base import REQUIRED, Lowering, Op, Sample, register
from .matmul import matrix_product

DOMAIN = "com.microsoft"
F32 = dt.float32
# Levels of NF4 (Dettmers et al. 2023, appendix E) and of FP4 with 2 bits of exponent and 1 of fraction, over their largest.
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
FP4 = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
# Levels of GGML's IQ4_NL and IQ4_XS.
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def whole(value: Expr) -> Expr:
    return ex.cast(value, dt.int32)


def bits(word: Expr, shift: Expr | int, count: int) -> Expr:
    """`count` bits of an int32 from `shift` on."""
    amount = ex.const(shift, dt.int32) if isinstance(shift, int) else whole(shift)
    return ex.binary("bitand", ex.binary("shr", word, amount), ex.const((1 << count) - 1, dt.int32))


@register
class MatMulBnb4(Op):
    """A times the transpose of weights of 4-bit levels (or times them, if transB is 0), with a largest value for each block. Source: com.microsoft MatMulBnb4-1.

    B: uint8 of two levels each, the first in the high bits, of the [N, K] weights one after the other; absmax: one for each block_size of them.
    """

    domain, name, versions = DOMAIN, "MatMulBnb4", (1,)
    attributes = {"K": REQUIRED, "N": REQUIRED, "block_size": REQUIRED, "quant_type": REQUIRED, "transB": 1}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Tensor:
        a, packed, largest = n.input(0), n.input(1), n.input(2)
        inner, columns, block, kind = (int(n.attr(k)) for k in ("K", "N", "block_size", "quant_type"))
        if kind not in (0, 1):
            raise n.error(f"quant_type is {kind}, 0 (FP4) or 1 (NF4) was expected")
        if block < 16 or block & (block - 1):
            raise n.error(f"block_size is {block}, a power of 2 from 16 on was expected")
        levels = n.constant(np.asarray(NF4 if kind else (*FP4, *(-x for x in FP4)), np.float32))
        compute = dt.compute_type(a.dtype)

        def weight(row: Expr, k: Expr) -> Expr:
            at = row * inner + k
            code = bits(whole(packed[at // 2]), (1 - at % 2) * 4, 4)
            return ex.cast(levels[ex.cast(code, dt.int64)], compute) * ex.cast(largest[at // block], compute)
        if n.attr("transB"):
            return matrix_product(n, a.shape, (ex.const(inner), ex.const(columns)), lambda i: a[i], lambda i: weight(i[1], i[0]), a.dtype, compute)
        return matrix_product(n, a.shape, (ex.const(columns), ex.const(inner)), lambda i: a[i], lambda i: weight(i[0], i[1]), a.dtype, compute)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        codes, largest = rng.integers(0, 256, 5 * 48 // 2).astype(np.uint8), rng.random(15).astype(np.float32)
        for kind in (0, 1):
            yield Sample((rng.standard_normal((2, 3, 48)).astype(np.float32), codes, largest), {"K": 48, "N": 5, "block_size": 16, "quant_type": kind})


@register
class MatMulFpQ4(Op):
    """A times a matrix [K, N] of 4-bit codes, in a blob of blocks along K. Source: com.microsoft MatMulFpQ4-1.

    A block: a float32 scale, for type 1 a zero point (8 for type 0), and its 32 codes, the first half of them in low bits, the second in high ones.
    """

    domain, name, versions = DOMAIN, "MatMulFpQ4", (1,)
    attributes = {"blk_quant_type": 1}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Tensor:
        a, blob, kind = n.input(0), n.input(1), int(n.attr("blk_quant_type"))
        if kind not in (0, 1):
            raise n.unsupported(f"blk_quant_type {kind} of MatMulFpQ4; 0 and 1 are known")
        shape = n.ints(2)
        if len(shape) != 2:
            raise n.error(f"B_shape has {len(shape)} elements, 2 were expected")
        inner, columns = shape
        block, head = 32, 4 + kind
        size = head + block // 2
        blocks = ex.ceildiv(inner, block)
        n.require(ex.equal(blob.shape[0], blocks * columns * size), f"B has {blob.shape[0].text} bytes, blocks of {size} were expected")

        def weight(i: tuple[Expr, ...]) -> Expr:
            k, j = i
            start, within = (j * blocks + k // block) * size, k % block
            scale = ex.bitcast(word(blob, (start,)), F32)
            code = bits(whole(blob[start + head + within % 16]), within // 16 * 4, 4)
            zero = whole(blob[start + 4]) if kind == 1 else ex.const(8, dt.int32)
            return ex.cast(code - zero, F32) * scale
        return matrix_product(n, a.shape, (inner, columns), lambda i: a[i], weight, a.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)
        blob = rng.integers(0, 256, (6, 21)).astype(np.uint8)
        blob[:, 4] %= 16
        blob[:, :4] = rng.random((6, 1)).astype(np.float32).view(np.uint8)
        yield Sample((rng.standard_normal((4, 64)).astype(np.float32), blob.reshape(-1), np.array([64, 3])), {"blk_quant_type": 1})


def word(data: Tensor, at: tuple[Expr, ...], size: int = 4) -> Expr:
    """The little-endian int32 of `size` bytes that start at an index of bytes."""
    out: Expr = ex.const(0, dt.int32)
    for k in range(size):
        out = ex.binary("bitor", out, ex.binary("shl", whole(data[(*at[:-1], at[-1] + k)]), ex.const(8 * k, dt.int32)))
    return out


@dataclass(frozen=True)
class Format:
    """A packed format of rows.

    Args:
        count: elements of a block.
        size_bytes: of a block.
        element: (block, index in it) -> float32 value.
    """

    count: int
    size_bytes: int
    element: Callable[["Block", Expr], Expr]


@dataclass(frozen=True)
class Block:
    """A block of packed numbers: its bytes, from `start` on in a row."""

    data: Tensor
    row: Expr
    start: Expr
    levels: Tensor

    def byte(self, offset: Expr | int) -> Expr:
        return whole(self.data[self.row, self.start + offset])

    def signed(self, offset: Expr | int) -> Expr:
        return whole(ex.cast(self.data[self.row, self.start + offset], dt.int8))

    def single(self, offset: int, size: int = 4) -> Expr:
        """The int32 of `size` bytes."""
        return word(self.data, (self.row, self.start + offset), size)

    def half(self, offset: int) -> Expr:
        """A float16."""
        return ex.cast(ex.bitcast(ex.cast(self.single(offset, 2), dt.uint16), dt.float16), F32)

    def level(self, code: Expr) -> Expr:
        return self.levels[ex.cast(code, dt.int64)]


def nibble(b: Block, first: int, k: Expr, run: int) -> Expr:
    """4 bits of element `k`: of every 2 * `run` elements, the first half is in low bits, the second in high ones."""
    return bits(b.byte(k // (2 * run) * run + k % run + first), k // run % 2 * 4, 4)


def of_q5_0(b: Block, k: Expr) -> Expr:
    code = ex.binary("bitor", nibble(b, 6, k, 16), ex.binary("shl", bits(b.byte(k // 8 + 2), k % 8, 1), ex.const(4, dt.int32)))
    return ex.cast(code - 16, F32) * b.half(0)


def of_q5_k(b: Block, k: Expr) -> Expr:
    """256 elements in 8 runs of 32, each with a scale and a minimum of 6 bits."""
    run = k // 32
    early = run < 4
    low = ex.minimum(run, 3)
    high = ex.maximum(run - 4, 0)
    scale = ex.where(early, bits(b.byte(low + 4), 0, 6),
                     ex.binary("bitor", bits(b.byte(high + 12), 0, 4), ex.binary("shl", bits(b.byte(high + 4), 6, 2), ex.const(4, dt.int32))))
    least = ex.where(early, bits(b.byte(low + 8), 0, 6),
                     ex.binary("bitor", bits(b.byte(high + 12), 4, 4), ex.binary("shl", bits(b.byte(high + 8), 6, 2), ex.const(4, dt.int32))))
    code = ex.binary("bitor", nibble(b, 48, k, 32), ex.binary("shl", bits(b.byte(k % 32 + 16), run, 1), ex.const(4, dt.int32)))
    return b.half(0) * ex.cast(scale, F32) * ex.cast(code, F32) - b.half(2) * ex.cast(least, F32)


def of_q6_k(b: Block, k: Expr) -> Expr:
    """256 elements in two halves of four runs of 32; a signed scale for each 16."""
    half, run, j = k // 128, k % 128 // 32, k % 32
    low = bits(b.byte(half * 64 + run % 2 * 32 + j), run // 2 * 4, 4)
    high = bits(b.byte(half * 32 + j + 128), run * 2, 2)
    code = ex.binary("bitor", low, ex.binary("shl", high, ex.const(4, dt.int32))) - 32
    return b.half(208) * ex.cast(b.signed(k // 16 + 192), F32) * ex.cast(code, F32)


def of_iq4_xs(b: Block, k: Expr) -> Expr:
    """256 elements in 8 runs of 32, each with a scale of 6 bits."""
    run = k // 32
    low = bits(b.byte(run // 2 + 4), run % 2 * 4, 4)
    scale = ex.binary("bitor", low, ex.binary("shl", bits(b.single(2, 2), run * 2, 2), ex.const(4, dt.int32))) - 32
    return b.half(0) * ex.cast(scale, F32) * b.level(nibble(b, 8, k, 16))


FORMATS: Mapping[int, Format] = {
    0: Format(1, 4, lambda b, k: ex.bitcast(b.single(0), F32)),
    1: Format(1, 2, lambda b, k: b.half(0)),
    2: Format(32, 18, lambda b, k: ex.cast(nibble(b, 2, k, 16) - 8, F32) * b.half(0)),
    6: Format(32, 22, of_q5_0),
    8: Format(32, 34, lambda b, k: ex.cast(b.signed(k + 2), F32) * b.half(0)),
    13: Format(256, 176, of_q5_k),
    14: Format(256, 210, of_q6_k),
    20: Format(32, 18, lambda b, k: b.level(nibble(b, 2, k, 16)) * b.half(0)),
    23: Format(256, 136, of_iq4_xs),
    30: Format(1, 2, lambda b, k: ex.bitcast(ex.binary("shl", b.single(0, 2), ex.const(16, dt.int32)), F32)),
}
OUTPUTS: Mapping[int, DType] = {1: dt.float32, 10: dt.float16, 16: dt.bfloat16}


@register
class GatherPacked(Op):
    """Rows of a table in a format of GGML, as floats; an index out of range takes row 0. Source: com.microsoft GatherPacked-1; GGML's block formats.

    packed_type: 0 float32, 1 float16, 2 Q4_0, 6 Q5_0, 8 Q8_0, 13 Q5_K, 14 Q6_K, 20 IQ4_NL, 23 IQ4_XS, 30 bfloat16. The formats of code books (IQ2, IQ3) are not there.
    """

    domain, name, versions = DOMAIN, "GatherPacked", (1,)
    attributes = {"packed_type": REQUIRED, "K": REQUIRED, "output_dtype": 16}

    def lower(self, n: Lowering) -> Tensor:
        data, index = n.input(0), n.input(1)
        kind, width, to = (int(n.attr(k)) for k in ("packed_type", "K", "output_dtype"))
        if kind not in FORMATS:
            raise n.unsupported(f"packed_type {kind} of GatherPacked; {', '.join(map(str, FORMATS))} are known")
        if to not in OUTPUTS:
            raise n.error(f"output_dtype is {to}, 1 (float32), 10 (float16) or 16 (bfloat16) was expected")
        form = FORMATS[kind]
        if width < 1 or width % form.count:
            raise n.error(f"K is {width}, a positive multiple of {form.count} was expected")
        size = width // form.count * form.size_bytes
        n.require(ex.equal(data.shape[1], size), f"rows of {data.shape[1].text} bytes were given, {size} were expected")
        levels = n.constant(np.asarray(IQ4, np.float32))

        def value(*i: Expr) -> Expr:
            given = ex.cast(index[i[:-1]], dt.int64)
            row = ex.where(ex.logical_and(given >= 0, given < data.shape[0]), given, 0)
            return form.element(Block(data, row, i[-1] // form.count * form.size_bytes, levels), i[-1] % form.count)
        return n.map((*index.shape, width), value, OUTPUTS[to])

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)
        for kind, form in FORMATS.items():
            data = rng.integers(0, 256, (3, 512 // form.count * form.size_bytes)).astype(np.uint8)
            if kind in (0, 1, 30):
                data[:, form.size_bytes - 1::form.size_bytes] = 0x40  # no infinities
            else:
                halves = {13: (0, 2), 14: (208,)}.get(kind, (0,))
                for at in halves:
                    data[:, at + 1::form.size_bytes] = 0x30
            yield Sample((data, np.array([[2, 0], [-1, 7]])), {"packed_type": kind, "K": 512, "output_dtype": 1})
