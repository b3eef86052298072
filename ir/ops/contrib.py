"""com.microsoft: fused activations, products and normalisations that ONNX Runtime's tools write into models."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Attribute, Value
from .base import REQUIRED, Builder, Lowering, Op, Sample, register
from .elementwise import real_sample
from .matmul import matrix_product
from .normalisation import Moments, inverse_deviation

DOMAIN = "com.microsoft"


# ------------------------------------------------------------------------------------------------------------- activations
@register
class Gelu(Op):
    """x * P(X <= x) for a normal X. Source: com.microsoft Gelu-1."""

    domain, name, versions = DOMAIN, "Gelu", (1,)

    def decompose(self, b: Builder) -> Value:
        return b.add("Gelu", b.input(0))

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 9)),))


@register
class BiasGelu(Op):
    """Gelu(a + b). Source: com.microsoft BiasGelu-1."""

    domain, name, versions = DOMAIN, "BiasGelu", (1,)

    def decompose(self, b: Builder) -> Value:
        return b.add("Gelu", b.add("Add", b.input(0), b.input(1)))

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 9)), real_sample((9,))))


@register
class FastGelu(Op):
    """Gelu by tanh of x + bias. Source: com.microsoft FastGelu-1."""

    domain, name, versions = DOMAIN, "FastGelu", (1,)

    def decompose(self, b: Builder) -> Value:
        x = b.add("Add", b.input(0), b.input(1)) if b.has(1) else b.input(0)
        return b.add("Gelu", x, approximate="tanh")

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 9)),))
        yield Sample((real_sample((2, 9)), real_sample((9,))))


@register
class QuickGelu(Op):
    """x * sigmoid(alpha * x). Source: com.microsoft QuickGelu-1."""

    domain, name, versions = DOMAIN, "QuickGelu", (1,)
    attributes = {"alpha": 1.702}

    def decompose(self, b: Builder) -> Value:
        x = b.input(0)
        alpha = float(b.attr("alpha"))
        scaled = x if alpha == 1.0 else b.add("Mul", x, b.constant(alpha, b.type(x).dtype))
        return b.add("Mul", x, b.add("Sigmoid", scaled))

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 9)),))


@register
class BiasSplitGelu(Op):
    """The first half of x + bias times Gelu of the second. Source: com.microsoft BiasSplitGelu-1."""

    domain, name, versions = DOMAIN, "BiasSplitGelu", (1,)

    def decompose(self, b: Builder) -> Value:
        first, second = b.add("Split", b.add("Add", b.input(0), b.input(1)), outputs=2, axis=-1, num_outputs=2)
        return b.add("Mul", first, b.add("Gelu", second))


@register
class BiasAdd(Op):
    """x + bias + skip. Source: com.microsoft BiasAdd-1."""

    domain, name, versions = DOMAIN, "BiasAdd", (1,)

    def decompose(self, b: Builder) -> Value:
        return b.add("Add", b.add("Add", b.input(0), b.input(1)), b.input(2))


def activated(b: Builder, x: Value, name: str, parameters: Sequence[float]) -> Value:
    """An activation by ONNX's name; parameters in the order of the operator's attributes.

    Raises:
        ModelError: unknown activation.
    """
    keywords: dict[str, tuple[str, ...]] = {"Relu": (), "Tanh": (), "Sigmoid": (), "Softplus": (), "Softsign": (), "HardSwish": (), "LeakyRelu": ("alpha",), "Elu": ("alpha",),
                                            "ThresholdedRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}
    if not name:
        return x
    if name == "Clip":
        kind = b.type(x).dtype
        return b.add("Clip", x, *(b.constant(float(p), kind) for p in parameters[:2]))
    if name not in keywords:
        raise b.error(f"activation '{name}' is unknown")
    settings: dict[str, Any] = dict(zip(keywords[name], map(float, parameters)))  # attributes alone: none is named as a parameter of `add`
    return b.add(name, x, **settings)


# ---------------------------------------------------------------------------------------------------------------- products
class ScaledProduct(Op):
    """alpha * A' B' with optional transposition of the last two dimensions and of the batch dimensions."""

    domain, versions = DOMAIN, (1,)
    attributes = {"alpha": 1.0, "transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0}

    def lower(self, n: Lowering) -> Tensor:
        a, b = n.input(0), n.input(1)
        orders = [self.order(t.rank, bool(n.attr(f"trans{k}")), bool(n.attr(f"transBatch{k}"))) for t, k in ((a, "A"), (b, "B"))]
        alpha = float(n.attr("alpha"))

        def at(t: Tensor, order: list[int]):
            return lambda i: t[tuple(i[order.index(k)] for k in range(t.rank))]
        left, right = (tuple(t.shape[k] for k in order) for t, order in zip((a, b), orders))
        return matrix_product(n, left, right, at(a, orders[0]), at(b, orders[1]), a.dtype, epilogue=lambda acc, _: acc if alpha == 1.0 else acc * alpha)

    @staticmethod
    def order(rank: int, swapped: bool, batches: bool) -> list[int]:
        """Which dimension of the operand stands at each place of the product."""
        order = list(range(rank))
        if batches and rank > 2:
            order = [*range(1, rank - 1), 0, rank - 1]
        if swapped and rank > 1:
            order[-1], order[-2] = order[-2], order[-1]
        return order


@register
class FusedMatMul(ScaledProduct):
    """alpha * A' B'. Source: com.microsoft FusedMatMul-1."""

    name = "FusedMatMul"

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 4, 5)), real_sample((2, 3, 4))), {"transA": 1, "transB": 1, "alpha": 0.5})
        yield Sample((real_sample((4, 2, 5)), real_sample((2, 5, 3))), {"transBatchA": 1})


@register
class TransposeMatMul(ScaledProduct):
    """alpha * A' B'. Source: com.microsoft TransposeMatMul-1."""

    name = "TransposeMatMul"

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((4, 5)), real_sample((3, 5))), {"transB": 1})


@register
class FusedGemm(Op):
    """activation(alpha A' B' + beta C). Source: com.microsoft FusedGemm-1."""

    domain, name, versions = DOMAIN, "FusedGemm", (1,)

    def decompose(self, b: Builder) -> Value:
        kept: dict[str, Attribute] = {k: v for k, v in b.node.attributes.items() if k in ("alpha", "beta", "transA", "transB")}
        y = b.add("Gemm", *b.inputs, **kept)
        parameters = [float(v) for v in (b.attr(f"activation_{k}") for k in ("alpha", "beta", "gamma")) if v is not None]
        return activated(b, y, str(b.attr("activation") or ""), parameters)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((4, 5)), real_sample((5, 3)), real_sample((3,))), {"activation": "LeakyRelu", "activation_alpha": 0.2})


@register
class FusedConv(Op):
    """activation(convolution + bias + Z). Source: com.microsoft FusedConv-1."""

    domain, name, versions = DOMAIN, "FusedConv", (1,)

    def decompose(self, b: Builder) -> Value:
        kept: dict[str, Attribute] = {k: v for k, v in b.node.attributes.items() if not k.startswith("activation")}
        y = b.add("Conv", *b.inputs[:3], **kept)
        if b.has(3):
            y = b.add("Add", y, b.input(3))
        return activated(b, y, str(b.attr("activation") or ""), [float(v) for v in b.attr("activation_params") or ()])

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((1, 2, 5, 5)), real_sample((3, 2, 3, 3)), real_sample((3,))), {"activation": "Relu", "pads": (1, 1, 1, 1)})


# ---------------------------------------------------------------------------------------------------------- normalisations
def summed(b: Builder, *indices: int) -> Value:
    """The sum of the inputs that are there."""
    total = b.input(indices[0])
    for k in indices[1:]:
        if b.has(k):
            total = b.add("Add", total, b.input(k))
    return total


@register
class SkipLayerNormalization(Op):
    """LayerNormalization of input + skip + bias, and that sum. Source: com.microsoft SkipLayerNormalization-1."""

    domain, name, versions = DOMAIN, "SkipLayerNormalization", (1,)
    attributes = {"epsilon": 1e-12}

    def decompose(self, b: Builder) -> Sequence[Value | None]:
        total = summed(b, 0, 1, 4)
        scale = [b.input(2), b.input(3)] if b.has(3) else [b.input(2)]
        return [*b.add("LayerNormalization", total, *scale, outputs=3, axis=-1, epsilon=float(b.attr("epsilon"))), total]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 8))
        yield Sample((x, x[::-1].copy(), real_sample((8,)), real_sample((8,)), real_sample((8,))))


@register
class SkipSimplifiedLayerNormalization(Op):
    """RMSNormalization of input + skip + bias, a mean of 0, the inverse root, and that sum. Source: com.microsoft SkipSimplifiedLayerNormalization-1."""

    domain, name, versions = DOMAIN, "SkipSimplifiedLayerNormalization", (1,)
    attributes = {"epsilon": 1e-12}

    def decompose(self, b: Builder) -> Sequence[Value | None]:
        total, epsilon = summed(b, 0, 1, 3), float(b.attr("epsilon"))
        y = b.add("RMSNormalization", total, b.input(2), axis=-1, epsilon=epsilon)
        if not (b.wants(1) or b.wants(2)):
            return [y, None, None, total]
        root = inverse_root(b, total, [-1], epsilon)
        return [y, b.add("ConstantOfShape", b.add("Shape", root)), root, total]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((2, 3, 8))
        yield Sample((x, x[::-1].copy(), real_sample((8,))))
        yield Sample((x, x[::-1].copy(), real_sample((8,))), outputs=4)


def inverse_root(b: Builder, x: Value, axes: Sequence[int], epsilon: float) -> Value:
    """1 / sqrt(mean of squares + epsilon) in the type in which such sums are made."""
    kind = dt.compute_type(b.type(x).dtype)
    wide = x if b.type(x).dtype is kind else b.add("Cast", x, to=kind.code)
    square = b.add("ReduceMean", b.add("Mul", wide, wide), list(axes), keepdims=1)
    result: Value = b.add("Reciprocal", b.add("Sqrt", b.add("Add", square, b.constant(epsilon, kind))))
    return result


@register
class SimplifiedLayerNormalization(Op):
    """x / sqrt(mean of squares + epsilon) * scale; also 1 / that root. Source: ONNX Runtime's SimplifiedLayerNormalization-1."""

    name, versions = "SimplifiedLayerNormalization", (1,)
    attributes = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}

    def decompose(self, b: Builder) -> Sequence[Value | None]:
        x, epsilon = b.input(0), float(b.attr("epsilon"))
        y = b.add("RMSNormalization", x, b.input(1), axis=int(b.attr("axis")), epsilon=epsilon)
        if not b.wants(1):
            return [y]
        rank = len(b.type(x).shape)
        axes = list(range(int(b.attr("axis")) % rank, rank))
        return [y, inverse_root(b, x, axes, epsilon)]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3, 8)), real_sample((8,))))


@register
class EmbedLayerNormalization(Op):
    """LayerNormalization of word, position and segment embeddings; the number of valid tokens of each row. Source: com.microsoft EmbedLayerNormalization-1."""

    domain, name, versions = DOMAIN, "EmbedLayerNormalization", (1,)
    attributes = {"epsilon": 1e-12}

    def element(self, n: Lowering, which: int, *index: Expr) -> Expr:
        """A number of the table or vector that input `which` is."""
        t = n.input(which)
        return ex.cast(ex.load(t, index, 0), dt.compute_type(t.dtype))

    def places(self, n: Lowering) -> tuple[Tensor | None, dt.DType]:
        """(positions, where they are given, type of the result)"""
        return n.optional(8), n.input(2).dtype

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        ids, segments, words, segment_table, mask = n.input(0), n.optional(1), n.input(2), n.optional(4), n.optional(7)
        given, dtype = self.places(n)
        kind = dt.compute_type(dtype)
        shape = (*ids.shape, words.shape[1])

        def row(which: int, index: Expr, j: Expr) -> Expr:
            return self.element(n, which, ex.cast(index, dt.int64), j)

        def total(b: Expr, s: Expr, j: Expr) -> Expr:
            place = s if given is None else given[ex.const(0) if given.shape[0].is_const and given.shape[0].value == 1 else b, s]
            e = row(2, ids[b, s], j) + row(3, place, j)
            return e if segment_table is None else e + row(4, ex.const(0) if segments is None else segments[b, s], j)
        added = n.map(shape, total, dtype)

        def normal(*i: Expr) -> Expr:
            m = Moments(n, added, [2], i)
            e = (ex.cast(added[i], kind) - m.mean) * inverse_deviation(m.variance, float(n.attr("epsilon")))
            return e * self.element(n, 5, i[2]) + self.element(n, 6, i[2])
        y = n.map(shape, normal, dtype)

        def count(b: Expr) -> Expr:
            if mask is None:
                return ex.const(0, dt.int32)
            return n.reduce("sum", [mask.shape[1]], lambda k: ex.cast(ex.equal(mask[b, k], ex.const(1, mask.dtype)), dt.int32))
        return [y, n.map((ids.shape[0],), count, dt.int32) if n.wants(1) else None, added if n.wants(2) else None]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        ids = rng.integers(0, 9, (2, 4)).astype(np.int32)
        mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
        yield Sample((ids, ids % 2, f(9, 8), f(6, 8), f(2, 8), f(8), f(8), mask), outputs=2)
        yield Sample((ids, None, f(9, 8), f(6, 8), None, f(8), f(8)), outputs=2)


@register
class QEmbedLayerNormalization(EmbedLayerNormalization):
    """The same from tables and vectors of 8-bit codes, each with its scale and zero point. Source: com.microsoft QEmbedLayerNormalization-1."""

    name = "QEmbedLayerNormalization"

    def element(self, n: Lowering, which: int, *index: Expr) -> Expr:
        number = ex.const(0)
        scale, zero = n.input(which + 6), n.input(which + 11)
        shifted = ex.cast(ex.load(n.input(which), index, 0), dt.int32) - ex.cast(zero[(number,) * zero.rank], dt.int32)
        return ex.cast(shifted, dt.float32) * scale[(number,) * scale.rank]

    def places(self, n: Lowering) -> tuple[Tensor | None, dt.DType]:
        return None, dt.float32

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)

        def codes(*s: int) -> np.ndarray:
            return rng.integers(0, 256, s).astype(np.uint8)
        ids = rng.integers(0, 9, (2, 4)).astype(np.int32)
        tables = codes(9, 8), codes(6, 8), codes(2, 8), codes(8), codes(8)
        parameters: list[np.ndarray] = [*(np.asarray(s, np.float32) for s in (0.02, 0.01, 0.03, 0.01, 0.02)), *(np.asarray(z, np.uint8) for z in (120, 130, 100, 0, 128))]
        yield Sample((ids, ids % 2, *tables, np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32), *parameters), outputs=2)


@register
class GroupNorm(Op):
    """Group normalisation of [N, H, W, C] (or [N, C, H, W]), then x * sigmoid(x) if activation is 1. Source: com.microsoft GroupNorm-1."""

    domain, name, versions = DOMAIN, "GroupNorm", (1,)
    attributes = {"epsilon": 1e-5, "groups": REQUIRED, "activation": REQUIRED, "channels_last": 1}

    def decompose(self, b: Builder) -> Value:
        last = bool(b.attr("channels_last"))
        x = b.add("Transpose", b.input(0), perm=(0, 3, 1, 2)) if last else b.input(0)
        kind = b.type(x).dtype
        scale, bias = (b.add("Cast", b.input(k), to=kind.code) if b.type(b.input(k)).dtype is not kind else b.input(k) for k in (1, 2))
        y = b.add("GroupNormalization", x, scale, bias, num_groups=int(b.attr("groups")), epsilon=float(b.attr("epsilon")))
        if b.attr("activation"):
            y = b.add("Mul", y, b.add("Sigmoid", y))
        return b.add("Transpose", y, perm=(0, 2, 3, 1)) if last else y
