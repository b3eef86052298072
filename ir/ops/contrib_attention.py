"""com.microsoft: attention as ONNX Runtime's tools and model builders write it."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from .attention import Element, Operands, Score, masked, mix, probabilities, rotated, scores
from .base import REQUIRED, Lowering, Op, Sample, broadcast_index, register
from .elementwise import real_sample
from .matmul import matrix_product

DOMAIN = "com.microsoft"
ZERO, ONE = ex.const(0), ex.const(1)
LOWEST = float(np.finfo(np.float32).min)  # scores of keys of the future, where scores are asked for


def scale_of(n: Lowering, width: Expr, kind: dt.DType) -> Expr:
    """The attribute `scale`, or 1 / sqrt(width) where it is absent or 0."""
    given = float(n.attr("scale") or 0.0)
    if given:
        return ex.const(given, kind)
    return ex.const(1.0 / math.sqrt(width.value), kind) if width.is_const else 1.0 / ex.unary("sqrt", ex.cast(width, kind))


def key_mask(n: Lowering, mask: Tensor, past: Expr) -> Score:
    """Whether a key takes part.

    Forms: [B] numbers of valid keys; [2 B] ends, then starts; [B, T], [B, S, T] with 1 for valid; [B, 1, M, M], whose rows count from the first key ever.

    Raises:
        UnsupportedError: another form.
    """
    def nonzero(*index: Expr) -> Expr:
        return ex.not_equal(mask[index], ex.const(0, mask.dtype))

    if mask.rank == 1:
        batch, count = n.input(0).shape[0], mask.shape[0]
        if batch.is_const and count.is_const and count.value not in (batch.value, 2 * batch.value):
            raise n.unsupported(f"a mask of {count.value} numbers for {batch.value} rows")
        # Without starts, those are beyond the mask and read as 0.
        return lambda b, h, s, t: ex.logical_and(t < ex.cast(mask[b], dt.int64), t >= ex.cast(ex.load(mask, (batch + b,), 0), dt.int64))
    if mask.rank == 2:
        return lambda b, h, s, t: nonzero(b, t)
    if mask.rank == 3:
        return lambda b, h, s, t: nonzero(b, s, t)
    if mask.rank == 4:
        return lambda b, h, s, t: nonzero(b, ZERO, past + s, t)
    raise n.unsupported(f"a mask of shape [{', '.join(d.text for d in mask.shape)}]")


def additive(t: Tensor | None, batch: Expr, heads: Expr, group: Expr = ONE) -> Score:
    """A bias that broadcasts over batch and heads; rows of a group share one."""
    if t is None:
        return lambda b, h, s, k: None
    return lambda b, h, s, k: t[broadcast_index(t.shape[0], batch, b // group), broadcast_index(t.shape[1], heads, h), s, k]


def attend(n: Lowering, o: Operands, mask: Tensor | None, bias: Tensor | None, causal: bool, past: Expr, group: Expr = ONE) -> tuple[Tensor, Element]:
    """(output [B, S, heads * width], scores after masks): masked keys get `mask_filter_value` added, keys of the future none at all."""
    kind = dt.compute_type(o.dtype)
    raw = scores(n, o, scale_of(n, o.width, kind))
    valid = key_mask(n, mask, past) if mask is not None else None
    low = ex.const(float(n.attr("mask_filter_value", -10000.0)), kind)
    given = additive(bias, o.batch, o.heads, group)

    def added(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr | None:
        total = given(b, h, s, t)
        if total is not None:
            total = ex.cast(total, kind)
        if valid is None:
            return total
        filtered = ex.where(valid(b, h, s, t), ex.const(0.0, kind), low)
        return filtered if total is None else total + filtered

    def allowed(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr | None:
        if not causal:
            return None
        reached = t <= s + past
        return reached if o.keys is past + o.queries else ex.logical_or(reached, ex.equal(s, o.queries - 1))  # the last query sees all, also of a longer sequence
    logits = masked(raw, 0.0, added, allowed)
    weights = probabilities(n, o, logits, kind, False, kind)
    return mix(n, o, weights, True), logits


def joined(past: Tensor | None, index: Callable[..., tuple[Expr, ...]], before: Expr, fresh: Element, count: Expr) -> Element:
    """Elements of a cache followed by new ones."""
    if past is None:
        return fresh

    def at(b: Expr, h: Expr, t: Expr, d: Expr) -> Expr:
        new = fresh(b, h, ex.minimum(ex.maximum(t - before, 0), count - 1), d)
        return ex.where(t < before, ex.load(past, index(b, h, t, d), 0), new)
    return at


def inserted(past: Tensor | None, before: Expr, fresh: Element, count: Expr) -> Element:
    """Elements of a cache with new ones after the first `before`; what the cache holds beyond stays."""
    if past is None:
        return fresh

    def at(b: Expr, h: Expr, t: Expr, d: Expr) -> Expr:
        new = fresh(b, h, ex.minimum(ex.maximum(t - before, 0), count - 1), d)
        return ex.where(ex.logical_and(t >= before, t < before + count), new, ex.load(past, (b, h, t, d), 0))
    return at


def element_of(t: Tensor) -> Element:
    return lambda b, h, s, d: t[b, h, s, d]


# --------------------------------------------------------------------------------------------------------------- Attention
def projected_attention(n: Lowering, qkv: Tensor, mask: Tensor | None, past: Tensor | None, bias: Tensor | None) -> list[Tensor | None]:
    """(output, present) of attention over a joint projection [B, S, query + key + value width]; caches are [2, B, heads, T, width]."""
    heads = ex.const(int(n.attr("num_heads")))
    batch, queries, total = qkv.shape
    sizes = [ex.const(int(v)) for v in n.attr("qkv_hidden_sizes") or ()] or [total // 3] * 3
    if n.attr("do_rotary", 0) or n.attr("past_present_share_buffer", 0):
        raise n.unsupported(f"do_rotary or past_present_share_buffer of {n.op.name}")

    def part(k: int) -> tuple[Expr, Element]:
        start, width = ex.total(sizes[:k]), sizes[k] // heads
        return width, lambda b, h, s, d: qkv[b, s, start + h * width + d]
    (width, q_at), (_, k_at), (value_width, v_at) = (part(k) for k in range(3))
    before = past.shape[3] if past is not None else ZERO
    keys = before + queries
    present = None
    if past is not None or n.wants(1):
        both = [joined(past, lambda b, h, t, d, which=w: (ex.const(which), b, h, t, d), before, fresh, queries) for w, fresh in enumerate((k_at, v_at))]
        present = n.map((2, batch, heads, keys, width), lambda w, *i: ex.where(ex.equal(w, 0), both[0](*i), both[1](*i)), qkv.dtype)
        cached = present
        k_at, v_at = (lambda b, h, t, d: cached[ZERO, b, h, t, d]), (lambda b, h, t, d: cached[ONE, b, h, t, d])
    o = Operands(batch, heads, ONE, queries, keys, width, value_width, q_at, k_at, v_at, qkv.dtype)
    y, _ = attend(n, o, mask, bias, bool(n.attr("unidirectional", 0)), before)
    return [y, present]


@register
class Attention(Op):
    """Projection to queries, keys and values, and attention over them, with masks and cache. Source: com.microsoft Attention-1."""

    domain, name, versions = DOMAIN, "Attention", (1,)
    attributes = {"num_heads": REQUIRED, "unidirectional": 0, "mask_filter_value": -10000.0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        x, w, bias = n.input(0), n.input(1), n.optional(2)
        qkv = matrix_product(n, x.shape, w.shape, lambda i: x[i], lambda i: w[i], x.dtype,
                             epilogue=lambda acc, i: acc if bias is None else acc + ex.cast(bias[i[-1]], acc.dtype))
        return projected_attention(n, qkv, n.optional(3), n.optional(4), n.optional(5))

    def samples(self) -> Iterator[Sample]:
        x, w, bias = real_sample((2, 4, 6), -1, 1), real_sample((6, 24), -1, 1), real_sample((24,))
        yield Sample((x, w, bias), {"num_heads": 2})
        yield Sample((x, w, bias, np.array([3, 2], np.int32)), {"num_heads": 2})
        yield Sample((x, w, bias, np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)), {"num_heads": 2, "unidirectional": 1})
        past = real_sample((2, 2, 2, 3, 4), -1, 1)
        yield Sample((x, w, bias, None, past), {"num_heads": 2, "unidirectional": 1}, outputs=2)


@register
class QAttention(Op):
    """The same from 8-bit inputs and weights with scales and zero points. Source: com.microsoft QAttention-1."""

    domain, name, versions = DOMAIN, "QAttention", (1,)
    attributes = {"num_heads": REQUIRED, "unidirectional": 0, "mask_filter_value": -10000.0}
    tolerance = 1e-3

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        x, w, bias, x_scale, w_scale, x_zero, w_zero = n.input(0), n.input(1), n.input(2), n.input(3), n.input(4), n.optional(6), n.optional(7)

        def parameter(t: Tensor | None, j: Expr) -> Expr | None:
            return None if t is None else t[tuple(ZERO if d is ONE else j for d in t.shape)]

        def centred(e: Expr, zero: Expr | None) -> Expr:
            wide = ex.cast(e, dt.int32)
            return wide if zero is None else wide - ex.cast(zero, dt.int32)

        def finish(acc: Expr, i: tuple[Expr, ...]) -> Expr:
            scale = parameter(x_scale, ZERO), parameter(w_scale, i[-1])
            return ex.cast(acc, dt.float32) * (ex.cast(scale[0], dt.float32) * ex.cast(scale[1], dt.float32)) + ex.cast(bias[i[-1]], dt.float32)
        qkv = matrix_product(n, x.shape, w.shape, lambda i: centred(x[i], parameter(x_zero, ZERO)), lambda i: centred(w[i], parameter(w_zero, i[-1])),
                             bias.dtype, dt.int32, finish)
        return projected_attention(n, qkv, n.optional(5), n.optional(8), None)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        x, w = rng.integers(0, 255, (2, 4, 6)).astype(np.uint8), rng.integers(-64, 64, (6, 24)).astype(np.int8)  # ONNX Runtime adds pairs in 16 bits on AVX2
        yield Sample((x, w, real_sample((24,)), np.float32(0.01), np.float32(0.01), None, np.uint8(128), np.int8(0)), {"num_heads": 2})


@register
class MultiHeadAttention(Op):
    """Attention over given queries, keys and values, apart or packed, with bias, masks and cache. Source: com.microsoft MultiHeadAttention-1."""

    domain, name, versions = DOMAIN, "MultiHeadAttention", (1,)
    attributes = {"num_heads": REQUIRED, "unidirectional": 0, "mask_filter_value": -10000.0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        q, k, v = n.input(0), n.optional(1), n.optional(2)
        heads = ex.const(int(n.attr("num_heads")))
        batch, queries = q.shape[0], q.shape[1]
        width = q.shape[4] if q.rank == 5 else q.shape[2] // heads
        if q.rank == 5:
            fresh, value_width = queries, width
            raw = [self.packed(q, p) for p in range(3)]
        elif k is None:
            raise n.error("keys are missing: the query is not packed")
        elif k.rank == 5:
            fresh, value_width = k.shape[1], width
            raw = [self.by_width(q, width), self.packed(k, 0), self.packed(k, 1)]
        elif v is None:
            raise n.error("values are missing: neither query nor key is packed")
        elif k.rank == 4:
            fresh, value_width = k.shape[2], v.shape[3]
            raw = [self.by_width(q, width), element_of(k), element_of(v)]
        else:
            fresh, value_width = k.shape[1], v.shape[2] // heads
            raw = [self.by_width(q, width), self.by_width(k, width), self.by_width(v, value_width)]
        q_at, k_at, v_at = self.biased(n, raw, heads, width, value_width)
        if k is not None and k.rank == 4:  # keys and values of another sequence, projected before: the bias is the queries' alone
            k_at, v_at = raw[1], raw[2]
        past_key, past_value = n.optional(6), n.optional(7)
        before, table = (past_key.shape[2] if past_key is not None else ZERO), None
        if past_key is not None and n.has(8):
            before, table = n.number(8), n.optional(9) if queries is ONE or not queries.is_const else None
            fits = ex.logical_and(before >= 0, before + fresh <= past_key.shape[2])
            n.require(fits, f"{before.text} cached and {fresh.text} new keys do not fit a cache of {past_key.shape[2].text}")
        keys = before + fresh
        present: list[Tensor | None] = [None, None]
        if past_key is not None or n.wants(1) or n.wants(2):
            room = past_key.shape[2] if past_key is not None and n.has(8) else keys
            present = [n.map((batch, heads, room, w), inserted(past, before, at, fresh), q.dtype) for past, at, w in ((past_key, k_at, width), (past_value, v_at, value_width))]
            k_at, v_at = (element_of(c) if table is None else element_of(self.by_beam(n, c, table, before, keys, queries)) for c in present)
        o = Operands(batch, heads, ONE, queries, keys, width, value_width, q_at, k_at, v_at, q.dtype)
        group = ONE if table is None else ex.where(ex.equal(queries, 1), table.shape[1], 1)
        y, logits = attend(n, o, n.optional(4), n.optional(5), bool(n.attr("unidirectional")), before, group)
        qk = n.map((batch, heads, queries, keys), lambda *i: ex.maximum(logits(*i), LOWEST), q.dtype) if n.wants(3) else None
        return [y, *present, qk]

    @staticmethod
    def by_beam(n: Lowering, cache: Tensor, table: Tensor, before: Expr, keys: Expr, queries: Expr) -> Tensor:
        """The keys (or values) that each row sees: `table` [prompts, beams, T] says from which of its prompt's beams an old one comes; longer queries see their own."""
        beams = table.shape[1]

        def value(b: Expr, h: Expr, t: Expr, d: Expr) -> Expr:
            source = (b // beams) * beams + ex.cast(ex.load(table, (b // beams, b % beams, t), 0), dt.int64)
            return cache[ex.where(ex.logical_and(ex.equal(queries, 1), t < before), source, b), h, t, d]
        return n.map((cache.shape[0], cache.shape[1], keys, cache.shape[3]), value, cache.dtype)

    @staticmethod
    def packed(t: Tensor, which: int) -> Element:
        return lambda b, h, s, d: t[b, s, h, ex.const(which), d]

    @staticmethod
    def by_width(t: Tensor, width: Expr) -> Element:
        return lambda b, h, s, d: t[b, s, h * width + d]

    @staticmethod
    def biased(n: Lowering, raw: Sequence[Element], heads: Expr, width: Expr, value_width: Expr) -> list[Element]:
        """The three operands with their parts of the bias, made once."""
        bias = n.optional(3)
        if bias is None:
            return list(raw)

        def with_bias(at: Element, start: Expr, w: Expr) -> Element:
            def element(b: Expr, h: Expr, s: Expr, d: Expr) -> Expr:
                e = at(b, h, s, d)
                wide = dt.compute_type(e.dtype)
                return ex.cast(ex.cast(e, wide) + ex.cast(bias[start + h * w + d], wide), e.dtype)
            return element
        return [with_bias(raw[0], ZERO, width), with_bias(raw[1], heads * width, width), with_bias(raw[2], heads * width * 2, value_width)]

    def samples(self) -> Iterator[Sample]:
        q, k, v = real_sample((2, 3, 8)), real_sample((2, 5, 8), -1, 2), real_sample((2, 5, 8), -2, 1)
        yield Sample((q, k, v), {"num_heads": 2})
        yield Sample((q, k, v, real_sample((24,)), np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32), real_sample((1, 2, 3, 5))), {"num_heads": 2, "scale": 0.3})
        yield Sample((q, q[::-1].copy(), q * 2, None, None, None, real_sample((2, 2, 4, 4)), real_sample((2, 2, 4, 4), -1, 1)), {"num_heads": 2}, outputs=3)


# ------------------------------------------------------------------------------------------------------------ grouped heads
@register
class RotaryEmbedding(Op):
    """Rotary position embedding; positions as a first position or one for each token. Source: com.microsoft RotaryEmbedding-1.

    As in ONNX Runtime, the attribute scale has no effect, and is_packed_batching only lets rows be longer than the tables, whose ends no position may pass.
    """

    domain, name, versions = DOMAIN, "RotaryEmbedding", (1,)
    attributes = {"interleaved": 0, "num_heads": 0, "rotary_embedding_dim": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, positions, cosines, sines = n.input(0), n.input(1), n.input(2), n.input(3)
        given = int(n.attr("rotary_embedding_dim"))
        if x.rank == 4:
            width, element = x.shape[3], element_of(x)
        else:
            heads = int(n.attr("num_heads"))
            width = x.shape[2] // heads if heads else cosines.shape[1] * 2
            element = MultiHeadAttention.by_width(x, width)
        size = ex.const(given) if given else width

        def place(b: Expr, s: Expr) -> Expr:
            first = positions.rank == 1 or (positions.shape[-1] is ONE and positions.shape[0] is ONE)
            return ex.cast(positions[(ZERO,) * positions.rank], dt.int64) + s if first else ex.cast(positions[b, s], dt.int64)
        turn = rotated(element, table(cosines, place, x.dtype), table(sines, place, x.dtype), size, size is width, bool(n.attr("interleaved")))
        if x.rank == 4:
            return n.map(x.shape, turn, x.dtype)
        return n.map(x.shape, lambda b, s, j: turn(b, j // width, s, j % width), x.dtype)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)
        x, tables = real_sample((2, 4, 24)), rng.standard_normal((2, 50, 4)).astype(np.float32)
        yield Sample((x, np.array([7], np.int64), tables[0], tables[1]))
        yield Sample((x, rng.integers(0, 50, (2, 4)), tables[0], tables[1]), {"interleaved": 1})
        yield Sample((x.reshape(2, 4, 3, 8).transpose(0, 2, 1, 3).copy(), rng.integers(0, 50, (2, 4)), tables[0], tables[1]))


def table(t: Tensor, place: Callable[[Expr, Expr], Expr], dtype: dt.DType) -> Callable[[Expr, Expr, Expr], Expr]:
    """Rows of a table of cosines or sines, 0 beyond its end."""
    return lambda b, s, pair: ex.cast(ex.load(t, (place(b, s), pair), 0), dt.compute_type(dtype))


@register
class GroupQueryAttention(Op):
    """Causal attention with grouped heads over a cache that may be longer than each row needs; rotary embedding, local window, sinks.

    Source: com.microsoft GroupQueryAttention-1.
    """

    domain, name, versions = DOMAIN, "GroupQueryAttention", (1,)
    attributes = {"num_heads": REQUIRED, "kv_num_heads": REQUIRED, "do_rotary": 0, "rotary_interleaved": 0, "local_window_size": -1, "softcap": 0.0, "smooth_softmax": 0,
                  "causal": 1, "qk_output": 0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        if any(n.has(k) for k in range(12, 17)) or n.wants(3) or int(n.attr("kv_cache_bit_width") or 0) or n.attr("sliding_window_cache"):
            raise n.unsupported("quantised caches, query and key normalisation, sliding caches and output_qk of GroupQueryAttention")
        q, past_key, past_value, lengths = n.input(0), n.optional(3), n.optional(4), n.input(5)
        heads, kv_heads = ex.const(int(n.attr("num_heads"))), ex.const(int(n.attr("kv_num_heads")))
        batch, queries = q.shape[0], q.shape[1]
        packed = not n.has(1)
        width = q.shape[2] // (heads + kv_heads * 2) if packed else q.shape[2] // heads
        q_at, k_at, v_at = self.operands(n, packed, heads, kv_heads, width)
        whole = self.total(n)
        keys = whole if past_key is None else ex.maximum(past_key.shape[2], whole)
        first = ex.equal(whole, queries)  # a prompt: nothing is cached, rows are padded on the right

        def before(b: Expr) -> Expr:
            """The number of cached keys of a row."""
            return ex.where(first, 0, ex.cast(lengths[(b, *(ZERO,) * (lengths.rank - 1))], dt.int64) + 1 - queries)
        if n.attr("do_rotary"):
            q_at, k_at = self.turned(n, q_at, before, width), self.turned(n, k_at, before, width)
            turned = n.map((batch, heads, queries, width), q_at, q.dtype)
            q_at = element_of(turned)
        caches = [n.map((batch, kv_heads, keys, width), self.cached(past, at, before, queries), q.dtype) for past, at in ((past_key, k_at), (past_value, v_at))]
        o = Operands(batch, kv_heads, heads // kv_heads, queries, keys, width, width, q_at, element_of(caches[0]), element_of(caches[1]), q.dtype)
        kind = dt.compute_type(q.dtype)
        raw = scores(n, o, scale_of(n, width, kind))
        window, given = int(n.attr("local_window_size")), additive(n.optional(10), batch, heads)

        def allowed(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
            last = before(b) + s
            found = t <= last if n.attr("causal") else t < before(b) + queries
            return ex.logical_and(found, t > last - window) if window > 0 else found
        logits = masked(raw, float(n.attr("softcap")), given, allowed)
        weights = probabilities(n, o, logits, kind, True, kind, self.sink(n, kind))
        return [mix(n, o, weights, True), *caches]

    @staticmethod
    def total(n: Lowering) -> Expr:
        """total_sequence_length, the longest row's number of keys."""
        return n.ints(6)[0]

    @staticmethod
    def operands(n: Lowering, packed: bool, heads: Expr, kv_heads: Expr, width: Expr) -> tuple[Element, Element, Element]:
        q = n.input(0)
        if not packed:
            return MultiHeadAttention.by_width(q, width), MultiHeadAttention.by_width(n.input(1), width), MultiHeadAttention.by_width(n.input(2), width)

        def part(start: Expr) -> Element:
            return lambda b, h, s, d: q[b, s, (start + h) * width + d]
        return part(ZERO), part(heads), part(heads + kv_heads)

    @staticmethod
    def turned(n: Lowering, at: Element, before: Callable[[Expr], Expr], width: Expr) -> Element:
        cosines, sines, positions = n.input(7), n.input(8), n.optional(9)

        def place(b: Expr, s: Expr) -> Expr:
            return before(b) + s if positions is None else positions[b, s]
        size = cosines.shape[1] * 2
        dtype = n.input(0).dtype
        full = size is width or (size.is_const and width.is_const and size.value == width.value)
        return rotated(at, table(cosines, place, dtype), table(sines, place, dtype), size, full, bool(n.attr("rotary_interleaved")))

    @staticmethod
    def cached(past: Tensor | None, fresh: Element, before: Callable[[Expr], Expr], count: Expr) -> Element:
        """The cache with the new elements after each row's own end, zero beyond."""
        def at(b: Expr, h: Expr, t: Expr, d: Expr) -> Expr:
            start = before(b)
            new = fresh(b, h, ex.minimum(ex.maximum(t - start, 0), count - 1), d)
            wide = new.dtype
            old = ex.const(0, wide) if past is None else ex.cast(ex.load(past, (b, h, t, d), 0), wide)
            return ex.where(t < start, old, ex.where(t < start + count, new, ex.const(0, wide)))
        return at

    @staticmethod
    def sink(n: Lowering, kind: dt.DType) -> Callable[[Expr], Expr] | None:
        t = n.optional(11)
        if t is not None:
            return lambda h: ex.cast(t[h], kind)
        return (lambda h: ex.const(0.0, kind)) if n.attr("smooth_softmax") == 1 else None

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        heads = {"num_heads": 4, "kv_num_heads": 2}

        def case(queries: int, cached: int, width: int) -> tuple[np.ndarray, ...]:
            new = f(2, queries, 4 * width), f(2, queries, 2 * width), f(2, queries, 2 * width)
            return (*new, f(2, 2, cached, width), f(2, 2, cached, width), np.full(2, cached + queries - 1, np.int32), np.array(cached + queries, np.int32))
        tables = (np.cos(np.arange(80).reshape(10, 8)).astype(np.float32), np.sin(np.arange(80).reshape(10, 8)).astype(np.float32))
        yield Sample(case(5, 0, 8), heads, outputs=3)
        yield Sample(case(1, 6, 8), heads, outputs=3)
        yield Sample((*case(5, 0, 16), *tables), heads | {"do_rotary": 1}, outputs=3)
        yield Sample((*case(1, 6, 16), *tables), heads | {"do_rotary": 1, "local_window_size": 3, "softcap": 5.0}, outputs=3)
        yield Sample((f(2, 1, 64), None, None, *case(1, 6, 8)[3:]), heads, outputs=3, name="packed")
