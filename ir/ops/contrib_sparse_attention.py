"""com.microsoft: attention over blocks of keys that a table allows."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from .attention import Element, Operands, masked, mix, probabilities, rotated, scores
from .base import REQUIRED, Lowering, Op, Sample, register
from .contrib_attention import GroupQueryAttention, element_of, scale_of, table

DOMAIN = "com.microsoft"
ZERO = ex.const(0)


def whole(e: Expr) -> Expr:
    return ex.cast(e, dt.int64)


@register
class SparseAttention(Op):
    """Causal attention with grouped heads over a cache, where tables say which blocks of keys a block of queries sees. Source: com.microsoft SparseAttention-1.

    block_row_indices, block_col_indices: for each layout, the blocks of keys of each block of queries in rows of compressed form; heads take layouts by turns.
    """

    domain, name, versions = DOMAIN, "SparseAttention", (1,)
    attributes = {"num_heads": REQUIRED, "kv_num_heads": REQUIRED, "sparse_block_size": REQUIRED, "do_rotary": 0, "rotary_interleaved": 0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        q, past_key, past_value, lengths = n.input(0), n.input(3), n.input(4), n.input(8)
        heads, kv_heads = ex.const(int(n.attr("num_heads"))), ex.const(int(n.attr("kv_num_heads")))
        batch, queries = q.shape[0], q.shape[1]
        packed = not n.has(1)
        width = q.shape[2] // (heads + kv_heads * 2) if packed else q.shape[2] // heads
        q_at, k_at, v_at = GroupQueryAttention.operands(n, packed, heads, kv_heads, width)
        keys, first = past_key.shape[2], ex.equal(n.ints(7, 1)[0], queries)  # a prompt: nothing is cached, rows are padded on the right

        def before(b: Expr) -> Expr:
            return ex.where(first, 0, whole(lengths[b]) - queries)
        if n.attr("do_rotary"):
            cosines, sines = n.input(9), n.input(10)
            size = cosines.shape[1] * 2
            full = size.is_const and width.is_const and size.value == width.value
            cosine, sine = (table(t, lambda b, s: before(b) + s, q.dtype) for t in (cosines, sines))
            q_at, k_at = (rotated(at, cosine, sine, size, full, bool(n.attr("rotary_interleaved"))) for at in (q_at, k_at))
            q_at = element_of(n.map((batch, heads, queries, width), q_at, q.dtype))
        caches = [n.map((batch, kv_heads, keys, width), self.written(past, at, before, queries), q.dtype) for past, at in ((past_key, k_at), (past_value, v_at))]
        o = Operands(batch, kv_heads, heads // kv_heads, queries, keys, width, width, q_at, element_of(caches[0]), element_of(caches[1]), q.dtype)
        kind = dt.compute_type(q.dtype)
        raw = scores(n, o, scale_of(n, width, kind))
        seen, block = self.blocks(n), int(n.attr("sparse_block_size"))

        def allowed(b: Expr, h: Expr, s: Expr, t: Expr) -> Expr:
            last = before(b) + s
            return ex.logical_and(t <= last, ex.load(seen, (h % seen.shape[0], last // block, t // block), False))
        logits = masked(raw, 0.0, lambda *_: None, allowed)
        weights = probabilities(n, o, logits, kind, True, kind)
        return [mix(n, o, weights, True), *caches]

    @staticmethod
    def written(past: Tensor, fresh: Element, before: Callable[[Expr], Expr], count: Expr) -> Element:
        """The cache with the new elements behind each row's own."""
        def at(b: Expr, h: Expr, t: Expr, d: Expr) -> Expr:
            start = before(b)
            new = fresh(b, h, ex.minimum(ex.maximum(t - start, 0), count - 1), d)
            return ex.where(ex.logical_and(t >= start, t < start + count), new, ex.cast(past[b, h, t, d], new.dtype))
        return at

    @staticmethod
    def blocks(n: Lowering) -> Tensor:
        """[layout, block of queries, block of keys]: whether it is seen."""
        rows, columns = n.input(5), n.input(6)
        count = rows.shape[1] - 1

        def value(layout: Expr, i: Expr, j: Expr) -> Expr:
            def found(k: Expr) -> Expr:
                inside = ex.logical_and(k >= whole(rows[layout, i]), k < whole(rows[layout, i + 1]))
                return ex.logical_and(inside, ex.equal(whole(columns[layout, k]), j))
            return n.reduce("any", [columns.shape[1]], found)
        return n.map((rows.shape[0], count, count), value, dt.boolean)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        rows, columns = np.array([[0, 1, 3, 5, 8], [0, 1, 3, 6, 9]], np.int32), np.array([[0, 0, 1, 1, 2, 1, 2, 3, -1], [0, 0, 1, 0, 1, 2, 0, 2, 3]], np.int32)
        sizes = {"num_heads": 4, "kv_num_heads": 2, "sparse_block_size": 16}

        def case(queries: int, total: int) -> tuple[np.ndarray, ...]:
            new = f(2, queries, 32), f(2, queries, 16), f(2, queries, 16)
            return (*new, f(2, 2, 64, 8), f(2, 2, 64, 8), rows, columns, np.array([total], np.int32), np.full(2, total, np.int32))
        yield Sample(case(40, 40), sizes, outputs=3)
        yield Sample(case(1, 50), sizes, outputs=3)
