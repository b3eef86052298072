"""com.microsoft: routers of mixtures of experts apart from their layers."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..loops import Routine, load, store
from .base import REQUIRED, Lowering, Op, Sample, register
from .matmul import matrix_product

DOMAIN = "com.microsoft"
F32 = dt.float32
GROUPS, OPEN_GROUPS, IN_GROUP, CHOSEN = 1, 1, 1, 1  # what a call's constants stand for


def choose(ranked, taken, totals, count, lo, hi):
    """One token a unit: marks the CHOSEN experts of greatest rank in the OPEN_GROUPS groups whose IN_GROUP best experts have the greatest sum. Earlier ones win ties.

    taken: 2 for a chosen expert, 1 for others that were looked at, else 0; totals: sums of the groups.
    """
    size = count // GROUPS
    for token in range(lo, hi):
        base = token * count
        for j in range(count):
            store(taken, base + j, 0)
        for g in range(GROUPS):
            total = load(ranked, base) * 0
            for _ in range(min(IN_GROUP, size)):
                best = -1
                for j in range(g * size, (g + 1) * size):
                    if load(taken, base + j) == 0:
                        if best < 0 or load(ranked, base + j) > load(ranked, base + best):
                            best = j
                total += load(ranked, base + best)
                store(taken, base + best, 1)
            store(totals, token * GROUPS + g, total)
        for j in range(count):
            store(taken, base + j, 1)
        for _ in range(OPEN_GROUPS):
            open_group = -1
            for g in range(GROUPS):
                if load(taken, base + g * size) == 1:
                    if open_group < 0 or load(totals, token * GROUPS + g) > load(totals, token * GROUPS + open_group):
                        open_group = g
            if open_group >= 0:
                for j in range(open_group * size, (open_group + 1) * size):
                    store(taken, base + j, 0)
        for _ in range(CHOSEN):
            best = -1
            for j in range(count):
                if load(taken, base + j) == 0:
                    if best < 0 or load(ranked, base + j) > load(ranked, base + best):
                        best = j
            if best >= 0:
                store(taken, base + best, 2)


CHOOSE = Routine("choose_experts", choose)


@register
class MoEGroupRouter(Op):
    """Logarithms of the chosen experts' sigmoid scores, chosen within the best groups by score plus bias; or all scores.

    Source: com.microsoft MoEGroupRouter-1; DeepSeek-V3 2024.
    """

    domain, name, versions = DOMAIN, "MoEGroupRouter", (1,)
    attributes = {"top_k": REQUIRED, "n_group": 1, "topk_group": 1, "group_topk": 2, "router_sentinel": -10000.0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        x, bias, projection = n.input(0), n.input(1), n.optional(2)
        groups, open_groups, in_group, chosen = (int(n.attr(a)) for a in ("n_group", "topk_group", "group_topk", "top_k"))
        if min(groups, open_groups, in_group, chosen) < 1:
            raise n.error(f"n_group {groups}, topk_group {open_groups}, group_topk {in_group} and top_k {chosen} were given, positive numbers were expected")
        if n.wants(0) and (n.wants(1) or projection is not None):
            raise n.error("router_probs stands beside selection_scores or a projection, which exclude it")
        experts = bias.shape[0]
        n.require(ex.equal(experts % groups, 0), f"{experts.text} experts do not divide into {groups} groups")
        logits = x
        if projection is not None:
            logits = matrix_product(n, x.shape, projection.shape[::-1], lambda i: x[i], lambda i: projection[i[::-1]], F32, F32)
        tokens = ex.product(logits.shape[:-1])
        scores = n.map((tokens, experts), lambda t, e: ex.unary("sigmoid", ex.cast(logits[(*ex.unravel(t, logits.shape[:-1]), e)], F32)))
        ranked = n.map((tokens, experts), lambda t, e: scores[t, e] + bias[e])
        if not n.wants(0):
            return [None, ranked, scores]
        taken, _ = n.routine(CHOOSE, [ranked], [(dt.uint8, (tokens, experts)), (F32, (tokens, groups))], [experts], units=tokens,
                             constants={"GROUPS": groups, "OPEN_GROUPS": open_groups, "IN_GROUP": in_group, "CHOSEN": chosen})

        def value(t: Expr, e: Expr) -> Expr:
            return ex.where(ex.equal(taken[t, e], ex.const(2, dt.uint8)), ex.unary("log", ex.maximum(scores[t, e], 1e-20)), float(n.attr("router_sentinel")))
        return [n.map((tokens, experts), value, x.dtype), None, None]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        x, bias = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
        yield Sample((x, bias), {"top_k": 2, "n_group": 4, "topk_group": 2})
        yield Sample((x, bias), {"top_k": 3})
