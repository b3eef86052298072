"""Scaled dot-product attention and rotary position embedding."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..graph import Graph, Value
from .base import Builder, Lowering, Op, Sample, broadcast_index, register

Element = Callable[[Expr, Expr, Expr, Expr], Expr]  # (batch, head, position, feature)
Score = Callable[[Expr, Expr, Expr, Expr], "Expr | None"]  # (batch, query head, query, key)
ZERO = ex.const(0)


@dataclass(frozen=True)
class Operands:
    """Queries, keys and values of attention by their elements; `groups` query heads share one key head.

    Args:
        batch, kv_heads, queries, keys, width, value_width: sizes.
        groups: query heads for each key head.
        q, k, v: elements; q by query head, k and v by key head.
    """

    batch: Expr
    kv_heads: Expr
    groups: Expr
    queries: Expr
    keys: Expr
    width: Expr
    value_width: Expr
    q: Element
    k: Element
    v: Element
    dtype: DType

    @property
    def heads(self) -> Expr:
        return self.kv_heads * self.groups


def scores(n: Lowering, o: Operands, scale: Expr) -> Tensor:
    """scale * Q K' of every query head: [batch, heads, queries, keys] in the compute type. The heads of a group are rows of one product."""
    kind = dt.compute_type(o.dtype)
    return n.contract((o.batch, o.kv_heads), (o.groups, o.queries), (o.keys,), (o.width,),
                      lambda b, r, k: o.q(b[0], b[1] * o.groups + r[0], r[1], k[0]), lambda b, c, k: o.k(b[0], b[1], c[0], k[0]),
                      (o.batch, o.heads, o.queries, o.keys), lambda b, r, c: (b[0], b[1] * o.groups + r[0], r[1], c[0]),
                      value=lambda acc: acc * scale, dtype=kind)


def masked(raw: Tensor, softcap: float, bias: Score, allowed: Score) -> Element:
    """softcap * tanh(score / softcap) + bias, -inf where not allowed."""
    def at(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
        e = raw[b, h, s, t]
        if softcap > 0:
            e = ex.unary("tanh", e / softcap) * softcap
        added, keep = bias(b, h, s, t), allowed(b, h, s, t)
        if added is not None:
            e = e + ex.cast(added, e.dtype)
        return e if keep is None else ex.where(keep, e, float("-inf"))
    return at


def probabilities(n: Lowering, o: Operands, logits: Element, dtype: DType, may_mask: bool, kind: DType, sink: Callable[[Expr], Expr] | None = None) -> Tensor:
    """Softmax over the keys; a row without any allowed key is zero.

    Args:
        may_mask: whether a row can be -inf throughout.
        kind: the type to compute in.
        sink: a further logit for each head, which takes part in the sum alone.
    """
    def value(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
        def at(k: Expr) -> Expr:
            return ex.cast(logits(b, h, s, k), kind)
        largest = n.reduce("max", [o.keys], at)
        if sink is not None:
            largest = ex.maximum(largest, ex.cast(sink(h), kind))
        if may_mask:
            largest = ex.where(ex.equal(largest, float("-inf")), 0.0, largest)
        total = n.reduce("sum", [o.keys], lambda k: ex.decay(at(k) - largest))
        if sink is not None:
            total = total + ex.unary("exp", ex.cast(sink(h), kind) - largest)
        if may_mask:
            total = ex.where(ex.equal(total, 0.0), 1.0, total)
        return ex.decay(at(t) - largest) * (1.0 / total)
    return n.map((o.batch, o.heads, o.queries, o.keys), value, dtype)


def mix(n: Lowering, o: Operands, weights: Tensor, joined: bool) -> Tensor:
    """Weighted sums of the values: [batch, queries, heads * value_width] if `joined`, else [batch, heads, queries, value_width]."""
    def store(b: tuple[Expr, ...], r: tuple[Expr, ...], c: tuple[Expr, ...]) -> tuple[Expr, ...]:
        head = b[1] * o.groups + r[0]
        return (b[0], r[1], head * o.value_width + c[0]) if joined else (b[0], head, r[1], c[0])
    shape = (o.batch, o.queries, o.heads * o.value_width) if joined else (o.batch, o.heads, o.queries, o.value_width)
    return n.contract((o.batch, o.kv_heads), (o.groups, o.queries), (o.value_width,), (o.keys,),
                      lambda b, r, k: weights[b[0], b[1] * o.groups + r[0], r[1], k[0]], lambda b, c, k: o.v(b[0], b[1], k[0], c[0]), shape, store, dtype=o.dtype)


def by_head(t: Tensor, heads: Expr) -> tuple[Expr, Expr, Element]:
    """(positions, width, elements) of [batch, heads, positions, width] or [batch, positions, heads * width]."""
    if t.rank == 4:
        return t.shape[2], t.shape[3], lambda b, h, s, d: t[b, h, s, d]
    width = t.shape[2] // heads
    return t.shape[1], width, lambda b, h, s, d: t[b, s, h * width + d]


def appended(n: Lowering, past: Tensor, new: Element, count: Expr, width: Expr, heads: Expr) -> Tensor:
    """[batch, heads, past + new positions, width]."""
    before = past.shape[2]

    def value(b: Expr, h: Expr, t: Expr, d: Expr) -> Expr:
        fresh = new(b, h, ex.minimum(ex.maximum(t - before, 0), count - 1), d)
        return ex.where(t < before, ex.load(past, (b, h, t, d), 0), fresh)
    return n.map((past.shape[0], heads, before + count, width), value, past.dtype)


def mask_element(mask: Tensor, keys: Expr, heads: Expr, queries: Expr, batch: Expr) -> tuple[Element, Element]:
    """(element, whether the mask has that key) of a mask that broadcasts to [batch, heads, queries, keys]; its last dimension may be shorter."""
    full = (batch, heads, queries)

    def index(b: Expr, h: Expr, s: Expr, t: Expr) -> tuple[Expr, ...]:
        lead = 4 - mask.rank
        return (*(broadcast_index(d, full[lead + k], (b, h, s)[lead + k]) for k, d in enumerate(mask.shape[:-1])), t)

    def element(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
        return ex.load(mask, index(b, h, s, t), None if mask.shape[-1] is keys else 0)

    def within(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
        return t < mask.shape[-1] if mask.shape[-1] is not keys else ex.const(True, dt.boolean)
    return element, within


@register
class Attention(Op):
    """softmax(scale Q K' + mask) V with grouped heads, key-value cache, causal and sliding-window masks, soft capping. Source: ONNX Attention-25."""

    name, versions = "Attention", (23, 24, 25)
    attributes = {"is_causal": 0, "softcap": 0.0, "qk_matmul_output_mode": 0, "left_window_size": -1, "right_window_size": -1}
    tolerance = 1e-4

    def operands(self, n: Lowering) -> tuple[Operands, Tensor | None, Tensor | None]:
        """The operands, and the grown caches where there are any."""
        q, k, v, past_key, past_value = n.input(0), n.input(1), n.input(2), n.optional(4), n.optional(5)
        if not q.rank == k.rank == v.rank or q.rank not in (3, 4):
            raise n.error(f"Q, K, V of ranks {q.rank}, {k.rank}, {v.rank} were given, 3 or 4 was expected for all")
        if (past_key is None) != (past_value is None):
            raise n.error("past_key and past_value must be given together")
        heads, kv_heads = (q.shape[1], k.shape[1]) if q.rank == 4 else (ex.const(self.count(n, "q_num_heads")), ex.const(self.count(n, "kv_num_heads")))
        if heads.is_const and kv_heads.is_const and (not kv_heads.value or heads.value % kv_heads.value):
            raise n.error(f"{heads.value} query heads cannot share {kv_heads.value} key heads")
        queries, width, q_at = by_head(q, heads)
        keys, _, k_at = by_head(k, kv_heads)
        _, value_width, v_at = by_head(v, kv_heads)
        grown_key = grown_value = None
        if past_key is not None and past_value is not None:
            grown_key = appended(n, past_key, k_at, keys, width, kv_heads)
            grown_value = appended(n, past_value, v_at, keys, value_width, kv_heads)
            keys, k_at, v_at = grown_key.shape[2], grown_key_at(grown_key), grown_key_at(grown_value)
        elif n.wants(1) or n.wants(2):
            grown_key = n.map((q.shape[0], kv_heads, keys, width), k_at, k.dtype)
            grown_value = n.map((q.shape[0], kv_heads, keys, value_width), v_at, v.dtype)
        groups = ex.const(1) if heads is kv_heads else heads // kv_heads
        return Operands(q.shape[0], kv_heads, groups, queries, keys, width, value_width, q_at, k_at, v_at, q.dtype), grown_key, grown_value

    @staticmethod
    def count(n: Lowering, name: str) -> int:
        found = n.attr(name)
        if not found:
            raise n.error(f"attribute '{name}' is missing", "it says how inputs of rank 3 split into heads")
        return int(found)

    def masks(self, n: Lowering, o: Operands) -> tuple[Score, Score, bool]:
        """(bias, allowed, whether anything can be masked)."""
        mask, past, lengths = n.optional(3), n.optional(4), n.optional(6)
        causal, left, right = bool(n.attr("is_causal")), int(n.attr("left_window_size")), int(n.attr("right_window_size"))
        at, within = mask_element(mask, o.keys, o.heads, o.queries, o.batch) if mask is not None else (None, None)

        def offset(b: Expr) -> Expr:
            if past is not None:
                return past.shape[2]
            return ZERO if lengths is None else ex.cast(lengths[b], dt.int64) - o.queries

        def allowed(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr | None:
            conditions: list[Expr] = []
            if causal:
                conditions.append(t <= s + offset(b))
            if left >= 0:
                conditions.append(s + offset(b) - t <= left)
            if right >= 0:
                conditions.append(t - s - offset(b) <= right)
            if lengths is not None:
                conditions.append(t < ex.cast(lengths[b], dt.int64))
            if at is not None and within is not None:
                conditions.append(within(b, h, s, t))
                if mask is not None and mask.dtype is dt.boolean:
                    conditions.append(at(b, h, s, t))
            found = ex.const(True, dt.boolean)
            for c in conditions:
                found = ex.logical_and(found, c)
            return None if found.is_const and found.value else found

        def bias(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr | None:
            return None if at is None or mask is None or mask.dtype is dt.boolean else at(b, h, s, t)
        return bias, allowed, bool(causal or left >= 0 or right >= 0 or lengths is not None or mask is not None)

    def lower(self, n: Lowering) -> list[Tensor | None]:
        o, grown_key, grown_value = self.operands(n)
        kind = dt.compute_type(o.dtype)
        given = n.attr("scale")
        if given is None:
            scale = ex.const(1.0 / math.sqrt(o.width.value), kind) if o.width.is_const else 1.0 / ex.unary("sqrt", ex.cast(o.width, kind))
        else:
            scale = ex.const(float(given), kind)
        raw = scores(n, o, scale)
        bias, allowed, may_mask = self.masks(n, o)
        softcap = float(n.attr("softcap"))
        logits = masked(raw, softcap, bias, allowed)
        precision = n.attr("softmax_precision")
        weights = probabilities(n, o, logits, kind, may_mask, dt.compute_type(dt.BY_CODE[int(precision)]) if precision else kind)
        y = mix(n, o, weights, n.input(0).rank == 3)
        extra = None
        if n.wants(3):
            mode = int(n.attr("qk_matmul_output_mode"))
            capped = masked(raw, softcap, lambda *_: None, lambda *_: None)
            plain = {0: lambda *i: raw[i], 1: capped, 2: logits, 3: lambda *i: weights[i]}
            if mode not in plain:
                raise n.error(f"qk_matmul_output_mode {mode} is unknown")
            extra = n.map((o.batch, o.heads, o.queries, o.keys), plain[mode], o.dtype)
        return [y, grown_key, grown_value, extra]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((f(2, 3, 4, 8), f(2, 3, 6, 8), f(2, 3, 6, 5)))
        yield Sample((f(2, 4, 4, 8), f(2, 2, 4, 8), f(2, 2, 4, 8)), {"is_causal": 1}, name="grouped")
        yield Sample((f(2, 4, 24), f(2, 6, 24), f(2, 6, 24), f(4, 6)), {"q_num_heads": 3, "kv_num_heads": 3, "softcap": 2.0})
        yield Sample((f(1, 2, 3, 8), f(1, 2, 3, 8), f(1, 2, 3, 8), rng.random((1, 1, 3, 8)) > 0.3, f(1, 2, 5, 8), f(1, 2, 5, 8)), {"is_causal": 1}, outputs=4)


def grown_key_at(t: Tensor) -> Element:
    return lambda b, h, s, d: t[b, h, s, d]


def rotated(x: Element, cosine: Callable[[Expr, Expr, Expr], Expr], sine: Callable[[Expr, Expr, Expr], Expr], size: Expr, full: bool, interleaved: bool) -> Element:
    """Rotary embedding of the first `size` features of each head, pairs being halves or neighbours.

    Args:
        cosine, sine: (batch, position, pair) -> factor in the compute type.
        full: whether `size` is the whole head.
    """
    half = size // 2

    def at(b: Expr, h: Expr, s: Expr, d: Expr) -> Expr:
        e = ex.cast(x(b, h, s, d), dt.compute_type(x(b, h, s, d).dtype))
        within = d < size if not full else ex.const(True, dt.boolean)
        inside = d if full else ex.minimum(d, size - 1)
        first = ex.equal(inside % 2, 0) if interleaved else inside < half
        other = ex.where(first, inside + 1, inside - 1) if interleaved else ex.where(first, inside + half, inside - half)
        pair = inside // 2 if interleaved else inside % half
        partner = ex.cast(x(b, h, s, other), e.dtype)
        turned = e * cosine(b, s, pair) + ex.where(first, -partner, partner) * sine(b, s, pair)
        return ex.where(within, turned, e)
    return at


@register
class RotaryEmbedding(Op):
    """Rotary position embedding of the first features of each head. Source: ONNX RotaryEmbedding-23; Su et al. 2021, section 3.2."""

    name, versions = "RotaryEmbedding", (23,)
    attributes = {"interleaved": 0, "rotary_embedding_dim": 0, "num_heads": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, cosines, sines, positions = n.input(0), n.input(1), n.input(2), n.optional(3)
        heads = x.shape[1] if x.rank == 4 else ex.const(int(n.attr("num_heads")))
        if heads.is_const and heads.value < 1:
            raise n.error("attribute 'num_heads' is missing", "it says how an input of rank 3 splits into heads")
        _count, width, element = by_head(x, heads)
        given = int(n.attr("rotary_embedding_dim"))
        size = ex.const(given) if given else width
        kind = dt.compute_type(x.dtype)

        def factor(table: Tensor) -> Callable[[Expr, Expr, Expr], Expr]:
            def at(b: Expr, s: Expr, pair: Expr) -> Expr:
                if positions is None:
                    return ex.cast(table[b, s, pair], kind)
                return ex.cast(ex.load(table, (ex.cast(positions[b, s], dt.int64), pair), 0), kind)
            return at
        turn = rotated(element, factor(cosines), factor(sines), size, size is width, bool(n.attr("interleaved")))
        if x.rank == 4:
            return n.map(x.shape, turn, x.dtype)
        return n.map(x.shape, lambda b, s, j: turn(b, j // width, s, j % width), x.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)
        x, table = rng.standard_normal((2, 3, 4, 8)).astype(np.float32), rng.standard_normal((2, 50, 4)).astype(np.float32)
        positions = rng.integers(0, 50, (2, 4))
        yield Sample((x, table[0], table[1], positions))
        yield Sample((x.transpose(0, 2, 1, 3).reshape(2, 4, 24).copy(), table[0, :, :2].copy(), table[1, :, :2].copy(), positions),
                     {"num_heads": 3, "rotary_embedding_dim": 4, "interleaved": 1})


# ------------------------------------------------------------------------------------------------------- programmable scores
def inlined(b: Builder, body: Graph, inputs: Sequence[Value | None]) -> list[Value]:
    """The outputs of a body whose nodes are added in place, with its inputs bound to values."""
    known: dict[Value, Value | None] = dict(zip(body.inputs, inputs))

    def bound(v: Value | None) -> Value | None:
        if v is None or v in known:
            return known.get(v) if v is not None else None
        if v.constant is not None:
            known[v] = b.constant(v.constant)
        return known.get(v, v)  # else a value of the enclosing graph
    for node in body.nodes:
        found = b.add(node.op, *map(bound, node.inputs), outputs=len(node.outputs), domain=node.domain, version=node.version, **node.attributes)
        known.update((v, w) for v, w in zip(node.outputs, [found] if isinstance(found, Value) else found) if v is not None)
    return [w for w in map(bound, body.outputs) if w is not None]


@register
class FlexAttention(Op):
    """Attention whose scores and probabilities pass through bodies of the model. Source: ai.onnx.preview FlexAttention-1."""

    domain, name, versions = "ai.onnx.preview", "FlexAttention", (1,)
    tolerance = 1e-4

    def decompose(self, b: Builder) -> Value:
        q, k, v = b.input(0), b.input(1), b.input(2)
        dtype, width = b.type(q).dtype, b.type(q).shape[3]
        heads, kv_heads = b.type(q).shape[1], b.type(k).shape[1]
        precision = b.attr("softmax_precision")
        kind = dt.BY_CODE[int(precision)] if precision else dt.float64 if dtype is dt.float64 else dt.float32
        count = int(b.attr("captures", 0))
        captures = b.inputs[len(b.inputs) - count:] if count else []

        def converted(x: Value, to: DType) -> Value:
            return x if b.type(x).dtype is to else b.add("Cast", x, to=to.code)

        def regrouped(x: Value, to: Expr) -> Value:
            """[B, heads, L, n] as [B, to, heads / to * L, n]."""
            if heads is kv_heads:
                return x
            if not to.is_const:
                raise b.unsupported("FlexAttention with grouped heads whose number is only known when running")
            return b.add("Reshape", x, [0, to.value, -1, 0])

        def modified(x: Value, name: str) -> Value:
            body = b.attr(name)
            return inlined(b, body, [x, *captures])[0] if isinstance(body, Graph) else x
        scale = b.attr("scale")
        if scale is None and not width.is_const:
            raise b.unsupported("FlexAttention without scale whose head size is only known when running")
        factor = b.constant(float(scale) if scale is not None else 1.0 / math.sqrt(width.value), kind)
        turned = b.add("Transpose", converted(k, kind), perm=(0, 1, 3, 2))
        product = b.add("MatMul", regrouped(converted(q, kind), kv_heads), turned)
        raw = b.add("Mul", regrouped(product, heads), factor)
        weights = modified(b.add("Softmax", modified(raw, "score_mod"), axis=-1), "prob_mod")
        y = b.add("MatMul", regrouped(weights, kv_heads), converted(v, kind))
        return converted(regrouped(y, heads), dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)
        q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 6)))
        yield Sample((q, k, v))
