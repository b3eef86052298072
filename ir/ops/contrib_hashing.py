"""com.microsoft: hashes of runs of tokens (n-gram embeddings), of whole batches and of packed ones."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from .base import REQUIRED, Lowering, Op, Sample, register

DOMAIN = "com.microsoft"
Token = Callable[[int], Expr]  # the token (or segment) some steps before the present one
ZERO = ex.const(0)


def long(e: Expr) -> Expr:
    return ex.cast(e, dt.int64)


class Hashes(Op):
    """Common parts: xor of products of tokens and multipliers for runs of 2 to max_ngram_size tokens, modulo the size of each head's vocabulary."""

    domain, versions = DOMAIN, (1,)
    attributes = {"max_ngram_size": REQUIRED, "n_head_per_ngram": REQUIRED, "pad_id": REQUIRED, "reset_on_eos": 0}

    @staticmethod
    def sizes(n: Lowering) -> tuple[int, int]:
        """(longest run, heads of each length)"""
        longest, heads = int(n.attr("max_ngram_size")), int(n.attr("n_head_per_ngram"))
        if longest < 2 or heads < 1:
            raise n.error(f"max_ngram_size {longest} and n_head_per_ngram {heads} were given, at least 2 and 1 were expected")
        return longest, heads

    @staticmethod
    def missing(n: Lowering, eos: Tensor | None) -> Expr:
        """What stands for tokens before the first one."""
        ids = n.input(0)
        return ex.const(int(n.attr("pad_id")), ids.dtype) if eos is None else eos[(ZERO,) * eos.rank]

    def visible(self, n: Lowering, token: Token, eos: Tensor | None, boundary: Token | None) -> list[Expr]:
        """The tokens 0, 1, ... steps back, where nothing is seen beyond an end of text or a boundary of segments."""
        longest, _ = self.sizes(n)
        blank = self.missing(n, eos)
        out = [token(0)]
        cut: Expr = ex.const(False, dt.boolean)
        for back in range(1, longest):
            found = token(back)
            if eos is not None and n.attr("reset_on_eos"):
                cut = ex.logical_or(cut, ex.equal(found, blank))
            if boundary is not None:
                cut = ex.logical_or(cut, boundary(back - 1))
            out.append(found if cut.is_const else ex.where(cut, blank, found))
        return out

    def hash(self, n: Lowering, tokens: Sequence[Expr], column: Expr, offsets: Tensor | None) -> Expr:
        longest, heads = self.sizes(n)
        multipliers, vocabulary = n.input(1), n.input(2)
        kind = n.input(0).dtype
        mixed: Expr = tokens[0] * multipliers[ZERO]
        chosen: Expr | None = None
        for size in range(2, longest + 1):
            mixed = ex.binary("bitxor", mixed, tokens[size - 1] * multipliers[ex.const(size - 1)])
            chosen = mixed if chosen is None else ex.where(column >= (size - 2) * heads, mixed, chosen)
        assert chosen is not None
        out = ex.binary("mod", chosen, vocabulary[column])
        return ex.cast(out if offsets is None else out + offsets[column], kind)


@register
class NGramHashMapping(Hashes):
    """Hashes of the runs of tokens that end at each position of each row: [batch, length, runs * heads], and the last tokens. Source: com.microsoft NGramHashMapping-1."""

    name = "NGramHashMapping"

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        ids, past, offsets, eos, segments = n.input(0), n.optional(3), n.optional(4), n.optional(5), n.optional(6)
        if ids.rank != 2:
            raise n.error(f"tokens of rank {ids.rank} were given, [batch, length] was expected")
        longest, heads = self.sizes(n)
        blank = self.missing(n, eos)

        def at(b: Expr, place: Expr) -> Expr:
            """The token at a place that may be before the first one."""
            before = blank if past is None else ex.load(past, (b, place + (longest - 1)), 0)
            return ex.where(place >= 0, ex.load(ids, (b, place), 0), before)

        def value(b: Expr, s: Expr, column: Expr) -> Expr:
            def boundary(back: int) -> Expr:
                inside = s - back >= 1
                return ex.logical_and(inside, ex.not_equal(ex.load(segments, (b, s - back), 0), ex.load(segments, (b, s - back - 1), 0)))
            seen = self.visible(n, lambda back: at(b, s - back), eos, boundary if segments is not None else None)
            return self.hash(n, seen, column, offsets)
        hashes = n.map((*ids.shape, (longest - 1) * heads), value, ids.dtype)
        last = n.map((ids.shape[0], longest - 1), lambda b, k: at(b, ids.shape[1] - (longest - 1) + k), ids.dtype) if n.wants(1) else None
        return [hashes, last]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        ids, multipliers, sizes = rng.integers(0, 50, (2, 6)), rng.integers(1, 2**40, 3) | 1, np.array([101, 103, 107, 109])
        numbers = {"max_ngram_size": 3, "n_head_per_ngram": 2, "pad_id": 7}
        yield Sample((ids, multipliers, sizes), numbers, outputs=2)
        rest = rng.integers(0, 5, (2, 2)), rng.integers(0, 999, 4), np.array(3), (ids % 2).astype(np.int32)
        yield Sample((ids % 5, multipliers, sizes, *rest), numbers | {"reset_on_eos": 1}, outputs=2)


@register
class VarlenNGramHashMapping(Hashes):
    """The same of packed rows, with the segments before each row, and the state after each of its first tokens. Source: com.microsoft VarlenNGramHashMapping-1."""

    name = "VarlenNGramHashMapping"
    attributes = {**Hashes.attributes, "state_update_capacity": 0}

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        ids, ends, past, offsets, eos = n.input(0), n.input(3), n.optional(4), n.optional(5), n.optional(6)
        segments, past_segments = n.optional(7), n.optional(8)
        longest, heads = self.sizes(n)
        blank, rows = self.missing(n, eos), ends.shape[0] - 1

        def start(row: Expr) -> Expr:
            return long(ends[row])

        def row_of(t: Expr) -> Expr:
            return n.reduce("sum", [rows], lambda r: ex.where(start(r) <= t, ex.const(1), ex.const(0))) - 1

        def at(row: Expr, place: Expr) -> Expr:
            """The token at a place of a row, which may be before its first one."""
            before = blank if past is None else ex.load(past, (row, place + (longest - 1)), 0)
            return ex.where(place >= 0, ex.load(ids, (start(row) + place,), 0), before)

        def segment(row: Expr, place: Expr) -> Expr:
            assert segments is not None
            first = ex.load(segments, (start(row),), 0)
            before = first if past_segments is None else ex.load(past_segments, (row, place + (longest - 1)), 0)
            return ex.where(place >= 0, ex.load(segments, (start(row) + place,), 0), before)
        row_table = n.map((ids.shape[0],), row_of, dt.int64)

        def value(t: Expr, column: Expr) -> Expr:
            row = row_table[t]
            place = t - start(row)

            def boundary(back: int) -> Expr:
                return ex.not_equal(segment(row, place - back), segment(row, place - back - 1))
            return self.hash(n, self.visible(n, lambda back: at(row, place - back), eos, boundary if segments is not None else None), column, offsets)
        hashes = n.map((ids.shape[0], (longest - 1) * heads), value, ids.dtype)

        def tail(row: Expr, end: Expr, k: Expr) -> Expr:
            return at(row, end - (longest - 1) + k)

        def length(row: Expr) -> Expr:
            return start(row + 1) - start(row)
        kept = (rows, ex.const(longest - 1))
        last = n.map(kept, lambda r, k: tail(r, length(r), k), ids.dtype) if n.wants(1) else None
        last_segments = None
        if n.wants(2):
            if segments is None:
                raise n.error("present_segment_ids is asked for, but segment_ids is missing")
            last_segments = n.map(kept, lambda r, k: segment(r, length(r) - (longest - 1) + k), dt.int32)
        return [hashes, last, last_segments, self.states(n, kept, length, tail)]

    @staticmethod
    def states(n: Lowering, kept: tuple[Expr, ...], length: Callable[[Expr], Expr], tail: Callable[[Expr, Expr, Expr], Expr]) -> Tensor | None:
        """The last tokens after each of a row's first ones, pad_id where none is asked for."""
        if not n.wants(3):
            return None
        capacity, count, kind = int(n.attr("state_update_capacity")), n.input(9), n.input(0).dtype
        pad = ex.const(int(n.attr("pad_id")), kind)

        def value(row: Expr, step: Expr, k: Expr) -> Expr:
            wanted = ex.minimum(long(count[row]), length(row))
            return ex.where(step < wanted, tail(row, step + 1, k), pad)
        return n.map((kept[0], capacity, kept[1]), value, kind)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)
        ids, multipliers, sizes, ends = rng.integers(0, 6, 9), rng.integers(1, 2**40, 3) | 1, np.array([101, 103, 107, 109]), np.array([0, 2, 9], np.int32)
        numbers = {"max_ngram_size": 3, "n_head_per_ngram": 2, "pad_id": 7}
        yield Sample((ids, multipliers, sizes, ends), numbers, outputs=2)
        yield Sample((ids, multipliers, sizes, ends, rng.integers(0, 5, (2, 2)), rng.integers(0, 999, 4), np.array(3), (ids // 3).astype(np.int32), np.ones((2, 2), np.int32),
                      np.array([5, 3], np.int32)), numbers | {"reset_on_eos": 1, "state_update_capacity": 4}, outputs=4)
