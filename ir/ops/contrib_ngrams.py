"""com.microsoft: operators on runs of tokens."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import expr as ex
from ..expr import Expr, Tensor
from .base import REQUIRED, Lowering, Op, Sample, register
from .elementwise import real_sample

DOMAIN = "com.microsoft"


@register
class NGramRepeatBlock(Op):
    """Scores, -inf for tokens that would repeat a run of ngram_size tokens of the row. Source: com.microsoft NGramRepeatBlock-1."""

    domain, name, versions = DOMAIN, "NGramRepeatBlock", (1,)
    attributes = {"ngram_size": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        ids, scores, size = n.input(0), n.input(1), int(n.attr("ngram_size"))
        if size < 1:
            raise n.error(f"ngram_size is {size}, at least 1 was expected")
        length = ids.shape[1]
        starts = ex.maximum(length - (size - 1), 0)

        def value(b: Expr, v: Expr) -> Expr:
            def repeats(start: Expr) -> Expr:
                same = ex.equal(ex.load(ids, (b, start + (size - 1)), -1), v)
                for k in range(size - 1):
                    same = ex.logical_and(same, ex.equal(ex.load(ids, (b, start + k), -1), ex.load(ids, (b, length - (size - 1) + k), -1)))
                return ex.where(same, ex.const(1), ex.const(0))
            return ex.where(n.reduce("sum", [starts], repeats) > 0, ex.const(float("-inf"), scores.dtype), scores[b, v])
        return n.map(scores.shape, value, scores.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[1, 2, 3, 1, 2], [4, 4, 4, 4, 4]]), real_sample((2, 6))), {"ngram_size": 3})
