"""com.microsoft: mixtures of experts. A router chooses k experts for every token; only their layers are computed, and their results mixed."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..graph import Attribute
from .base import Lowering, Op, Sample, register
from .contrib_quantised import packed_code
from .selection import TOPK

DOMAIN = "com.microsoft"
F32 = dt.float32
Weight = Callable[[Expr, Expr, Expr], Expr]  # (expert, row, column) -> float32
ACTIVATIONS = ("relu", "gelu", "silu", "swiglu", "identity")
SETTINGS: dict[str, Attribute] = {"k": 1, "activation_type": "relu", "normalize_routing_weights": 0, "use_sparse_mixer": 0, "swiglu_fusion": 0, "activation_alpha": 1.0,
                                  "activation_beta": 0.0, "swiglu_limit_after_activation": 0}


def real(e: Expr) -> Expr:
    return ex.cast(e, F32)


def activation(n: Lowering) -> Callable[[Expr], Expr]:
    """The function between the layers that takes one number.

    Raises:
        ModelError: unknown activation.
    """
    kind = str(n.attr("activation_type"))
    if kind not in ACTIVATIONS:
        raise n.error(f"activation_type '{kind}' is unknown", f"known are {', '.join(ACTIVATIONS)}")
    if kind == "relu":
        return lambda e: ex.maximum(e, 0.0)
    if kind == "silu":
        return lambda e: e * ex.unary("sigmoid", e)
    if kind == "gelu":
        return lambda e: e * 0.5 * (ex.unary("tanh", (e + e * e * e * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)
    return lambda e: e


def swish_gate(n: Lowering, gate: Expr, linear: Expr) -> Expr:
    """gate * sigmoid(alpha * gate) * (linear + beta), both clamped to the limit if there is one."""
    limit = n.attr("swiglu_limit")
    if limit is not None:
        gate, linear = ex.minimum(gate, float(limit)), ex.maximum(ex.minimum(linear, float(limit)), -float(limit))
    return gate * ex.unary("sigmoid", gate * float(n.attr("activation_alpha"))) * (linear + float(n.attr("activation_beta")))


class Mixture:
    """A mixture while it is lowered: tokens [T, H], the chosen experts [T, k] and their shares [T, k].

    Args:
        router_weights: shares given apart from the router's numbers, [T, E].
        normalised: whether the shares of the chosen experts add up to 1.
    """

    def __init__(self, n: Lowering, router_weights: Tensor | None, normalised: bool) -> None:
        if n.attr("use_sparse_mixer") or n.attr("swiglu_limit_after_activation"):
            raise n.unsupported(f"use_sparse_mixer or swiglu_limit_after_activation of {n.op.name}")
        self.n, self.x, router = n, n.input(0), n.input(1)
        if self.x.rank not in (2, 3) or router.rank != 2:
            raise n.error(f"input and router_probs of rank {self.x.rank} and {router.rank} were given, 2 or 3 and 2 were expected")
        self.tokens, self.experts, self.count = router.shape[0], router.shape[1], ex.const(int(n.attr("k")))
        n.require(ex.equal(ex.product(self.x.shape[:-1]), self.tokens), f"router_probs has rows for {self.tokens.text} tokens, {ex.product(self.x.shape[:-1]).text} were expected")
        n.require(ex.logical_and(self.count >= 1, self.count <= self.experts), f"k = {self.count.text} of {self.experts.text} experts cannot be chosen")
        logits = n.map(router.shape, lambda *i: real(router[i]), F32)
        top, self.chosen = n.routine(TOPK, [logits], [(F32, (self.tokens, self.count)), (dt.int64, (self.tokens, self.count))], [self.experts, self.count, 1, 1], units=self.tokens)
        self.shares = self.shared(logits, top, router_weights, normalised)

    def shared(self, logits: Tensor, top: Tensor, given: Tensor | None, normalised: bool) -> Tensor:
        """The share of each chosen expert: softmax over all experts, or over the chosen ones if normalised; given weights as they are, or divided by their sum."""
        n = self.n
        if given is not None:
            def weight(t: Expr, c: Expr) -> Expr:
                return real(given[t, self.chosen[t, c]])

            def part(t: Expr, c: Expr) -> Expr:
                total = n.reduce("sum", [self.count], lambda k: weight(t, k))
                return ex.where(ex.equal(total, ex.const(0.0, F32)), ex.const(0.0, F32), weight(t, c) / total)
            return n.map((self.tokens, self.count), part if normalised else weight, F32)
        among, extent = (top, self.count) if normalised else (logits, self.experts)

        def share(t: Expr, c: Expr) -> Expr:
            largest = top[t, ex.const(0)]
            return ex.unary("exp", top[t, c] - largest) / n.reduce("sum", [extent], lambda k: ex.unary("exp", among[t, k] - largest))
        return n.map((self.tokens, self.count), share, F32)

    def flat(self, t: Expr, h: Expr) -> Expr:
        """A feature of a token."""
        return real(self.x[t, h] if self.x.rank == 2 else self.x[t // self.x.shape[1], t % self.x.shape[1], h])

    def layer(self, source: Callable[[Expr, Expr, Expr], Expr], weight: Weight, bias: Tensor | None, rows: Expr, columns: Expr) -> Tensor:
        """[T, k, rows]: weights of the chosen expert times source(token, choice, column), plus its bias."""
        def finish(acc: Expr, batch: tuple[Expr, ...], _: tuple[Expr, ...], column: tuple[Expr, ...]) -> Expr:
            return acc if bias is None else acc + real(bias[self.chosen[batch], column[0]])
        return self.n.contract((self.tokens, self.count), (), (rows,), (columns,), lambda i, _, k: source(i[0], i[1], k[0]), lambda i, r, k: weight(self.chosen[i], r[0], k[0]),
                               (self.tokens, self.count, rows), lambda i, _, r: (*i, r[0]), dtype=F32, accumulate=F32, epilogue=finish)

    def hidden(self, first: Tensor, third: Tensor | None) -> tuple[Callable[[Expr, Expr, Expr], Expr], Expr]:
        """(element, width) of what the first layer gives after its activation.

        Raises:
            ModelError: gate and linear part are neither fused nor apart.
        """
        n, fusion = self.n, int(self.n.attr("swiglu_fusion"))
        if str(n.attr("activation_type")) != "swiglu":
            if third is not None:
                raise n.unsupported("a third layer beside an activation other than swiglu")
            function = activation(n)
            return (lambda t, c, j: function(first[t, c, j])), first.shape[2]
        if fusion == 0:
            if third is None:
                raise n.error("the weights of the third layer are missing", "swiglu without them needs swiglu_fusion 1 or 2")
            return (lambda t, c, j: swish_gate(n, first[t, c, j], third[t, c, j])), first.shape[2]
        if fusion not in (1, 2) or third is not None:
            raise n.error(f"swiglu_fusion {fusion}{' and a third layer' if third is not None else ''} was given, 0 with a third layer or 1 or 2 without was expected")
        half = first.shape[2] // 2
        n.require(ex.equal(first.shape[2], half * 2), f"{first.shape[2].text} rows of fused swiglu do not make pairs")
        if fusion == 1:
            return (lambda t, c, j: swish_gate(n, first[t, c, j * 2], first[t, c, j * 2 + 1])), half
        return (lambda t, c, j: swish_gate(n, first[t, c, j], first[t, c, half + j])), half

    def mixed(self, layers: dict[int, tuple[Weight, Tensor | None, Expr]]) -> Tensor:
        """The output; `layers` holds weights, bias and number of rows of layer 1, 2 and, where it is, 3."""
        n, width = self.n, self.x.shape[-1]

        def token(t: Expr, c: Expr, h: Expr) -> Expr:
            return self.flat(t, h)
        ends = [self.layer(token, *layers[k], width) if k in layers else None for k in (1, 3)]
        assert ends[0] is not None
        value, inner = self.hidden(ends[0], ends[1])
        activated = n.map((self.tokens, self.count, inner), value, F32)
        last = self.layer(lambda t, c, j: activated[t, c, j], *layers[2], inner)

        def total(*i: Expr) -> Expr:
            t = i[0] if self.x.rank == 2 else i[0] * self.x.shape[1] + i[1]
            return n.reduce("sum", [self.count], lambda c: self.shares[t, c] * last[t, c, i[-1]])
        return n.map(self.x.shape, total, self.x.dtype)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@register
class MoE(Op):
    """Mixture of experts of two layers, or three with a gate. Source: com.microsoft MoE-1."""

    domain, name, versions = DOMAIN, "MoE", (1,)
    attributes = SETTINGS
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Tensor:
        mixture = Mixture(n, None, bool(n.attr("normalize_routing_weights")))

        def layer(index: int) -> tuple[Weight, Tensor | None, Expr]:
            w = n.input(index)
            return (lambda e, r, k: real(w[e, r, k])), n.optional(index + 1), w.shape[1]
        return mixture.mixed({number: layer(index) for number, index in ((1, 2), (2, 4), (3, 6)) if n.has(index)})

    def samples(self) -> Iterator[Sample]:
        x, router = draw(5, 6), draw(5, 4, seed=1)
        yield Sample((x, router, draw(4, 8, 6), draw(4, 8), draw(4, 6, 8), draw(4, 6)), {"k": 2, "activation_type": "gelu"})
        yield Sample((x.reshape(1, 5, 6), router, draw(4, 16, 6), None, draw(4, 6, 8)), {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "normalize_routing_weights": 1})


@register
class QMoE(Op):
    """Mixture of experts with weights of 2, 4 or 8 bits in whole rows or blocks. Source: com.microsoft QMoE-1.

    Without router weights the shares are a softmax over the chosen experts whether or not `normalize_routing_weights` is set, as in ONNX Runtime's CPU kernel.
    """

    domain, name, versions = DOMAIN, "QMoE", (1,)
    attributes = SETTINGS | {"expert_weight_bits": 4, "quant_type": "int", "block_size": 0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Tensor:
        if n.attr("quant_type") != "int" or any(n.has(k) for k in range(15, 21)):
            raise n.unsupported(f"QMoE with quant_type '{n.attr('quant_type')}'")
        router_weights = n.optional(14)
        mixture = Mixture(n, router_weights, router_weights is None or bool(n.attr("normalize_routing_weights")))
        places = {number: index for number, index in ((1, 2), (2, 5), (3, 8)) if n.has(index)}
        return mixture.mixed({number: (self.weight(n, number, index), n.optional(index + 2), n.input(index).shape[1]) for number, index in places.items()})

    @staticmethod
    def weight(n: Lowering, number: int, index: int) -> Weight:
        """(code - zero point) * scale; the zero point is the middle of the codes where none is given."""
        codes, scales, zeros, block = n.input(index), n.input(index + 1), n.optional(10 + number), int(n.attr("block_size"))
        bits = int(n.attr(f"fc{number}_expert_weight_bits", n.attr("expert_weight_bits")))
        if bits not in (2, 4, 8):
            raise n.unsupported(f"QMoE with {bits} bits")
        if scales.rank != (3 if block > 0 else 2):
            raise n.error(f"scales of rank {scales.rank} were given, {3 if block > 0 else 2} was expected with block_size {block}")
        if block > 0:
            columns = codes.shape[2] * (8 // bits)
            n.require(ex.equal(columns, scales.shape[2] * block), f"rows of {columns.text} weights do not have {scales.shape[2].text} blocks of {block}")

        def at(e: Expr, r: Expr, k: Expr) -> Expr:
            if zeros is None:
                zero = ex.const(1 << bits - 1, dt.int32)
            else:
                zero = packed_code(zeros, (e, r), k // block, bits) if block > 0 else packed_code(zeros, (e,), r, bits)
            scale = scales[e, r, k // block] if block > 0 else scales[e, r]
            return real(packed_code(codes, (e, r), k, bits) - zero) * real(scale)
        return at

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(3)

        def codes(*shape: int) -> np.ndarray:
            return rng.integers(0, 256, shape).astype(np.uint8)
        x, router = draw(5, 32), draw(5, 4, seed=1)
        rows = (codes(4, 8, 16), np.abs(draw(4, 8)) / 50, draw(4, 8), codes(4, 32, 4), np.abs(draw(4, 32)) / 50, draw(4, 32))
        yield Sample((x, router, *rows, None, None, None, codes(4, 4), codes(4, 16)), {"k": 2, "activation_type": "silu"})
        blocks = (codes(4, 64, 32), np.abs(draw(4, 64, 2)) / 500, None, codes(4, 32, 32), np.abs(draw(4, 32, 2)) / 500, None)
        yield Sample((x, router, *blocks), {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "expert_weight_bits": 8, "block_size": 16})
