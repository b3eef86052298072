"""The steps that text generation by beams, greedily or by drawing is made of; `contrib_search` puts them around a decoder.

Shapes: B prompts, K beams a prompt, N = B * K rows, V tokens, M the longest sequence. Tokens are int32. A beam's finished sequences are `kept`: tokens int32[B, K, M],
scores f32[B, K] from the best down, lengths int32[B, K], and `progress` int32[B, 2]: how many are kept, and whether the prompt needs no more.
"""
from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..loops import Routine, load, store
from .base import REQUIRED, Lowering, Op, Sample, register
from .dropout import counted_uniform
from .elementwise import real_sample

DOMAIN = "sardonyx"
LOWEST = float(np.finfo(np.float32).min)  # the score of a token that must not come next
NOT_YET = -1e9  # the first score of all beams but the first, which start alike
# Constants of a call; a call gives its own values.
END, PAD, EARLY, NGRAM, TOP_P, LEAST, FILTERED, DESCENDING = -1, 0, False, 0, 0.0, 0, 0.0, False
BEGIN, NONE, LANGUAGE_MODEL, TRANSLATE, TRANSCRIBE, START = 0, -1, -1, -1, -1, -1


def token_row(*tokens: int) -> np.ndarray:
    return np.array([tokens], np.int32)


@register
class RepeatRows(Op):
    """Every row of x that often, one after the other: [B, ...] -> [B * times, ...]."""

    domain, name, versions = DOMAIN, "RepeatRows", (1,)

    def lower(self, n: Lowering) -> Tensor:
        x, times = n.input(0), n.ints(1)[0]
        return n.map([x.shape[0] * times, *x.shape[1:]], lambda i, *rest: x[(i // times, *rest)], x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)), np.array([3])))


@register
class StartBeams(Op):
    """(ids [B, S], max_length, beams) -> sequences [N, M] that begin with the ids, scores [N], and nothing kept."""

    domain, name, versions = DOMAIN, "StartBeams", (1,)
    attributes = {"pad": 0}

    def lower(self, n: Lowering) -> list[Tensor]:
        ids, longest, beams = n.input(0), n.ints(1)[0], n.ints(2)[0]
        prompts, length = ids.shape
        n.require(longest > length, f"max_length {longest.text} was given for a prompt of {length.text} tokens; more was expected")
        n.require(beams >= 1, f"num_beams is {beams.text}, at least 1 was expected")
        sequences = n.map([prompts * beams, longest], lambda r, j: ex.where(j < length, ex.load(ids, (r // beams, j), 0), ex.const(int(n.attr("pad")), dt.int32)), dt.int32)
        scores = n.map([prompts * beams], lambda r: ex.where(ex.equal(r % beams, 0), ex.const(0.0, dt.float32), ex.const(NOT_YET, dt.float32)))
        kept = [n.map([prompts, beams, longest], lambda *_: ex.const(0, dt.int32)), n.map([prompts, beams], lambda *_: ex.const(LOWEST, dt.float32)),
                n.map([prompts, beams], lambda *_: ex.const(0, dt.int32))]
        return [sequences, scores, *kept, n.map([prompts, 2], lambda *_: ex.const(0, dt.int32))]

    def samples(self) -> Iterator[Sample]:
        yield Sample((token_row(3, 1, 4), np.array([6]), np.array([2])), {"pad": 9}, outputs=6)


def discourage(scores, sequences, length, penalty, out, vocabulary, room, lo, hi):
    """Tokens of a row's own sequence lose by the penalty; tokens that would repeat a run of NGRAM tokens get the lowest score. One unit is one row."""
    used, factor = load(length, 0), load(penalty, 0)
    for row in range(lo, hi):
        base, first = row * vocabulary, row * room
        for v in range(vocabulary):
            store(out, base + v, load(scores, base + v))
        if factor != 1:
            for j in range(used):
                token = load(sequences, first + j)
                if token >= 0 and token < vocabulary:
                    score = load(scores, base + token)
                    store(out, base + token, score * factor if score < 0 else score / factor)
        if NGRAM > 0:
            for j in range(used - NGRAM + 1):
                same = True
                for k in range(NGRAM - 1):
                    if load(sequences, first + j + k) != load(sequences, first + used - NGRAM + 1 + k):
                        same = False
                        break
                token = load(sequences, first + j + NGRAM - 1)
                if same and token >= 0 and token < vocabulary:
                    store(out, base + token, LOWEST)


DISCOURAGE = Routine("discourage_repeats", discourage)


@register
class DiscourageRepeats(Op):
    """(scores [N, V], sequences [N, M], length, penalty) -> scores: those of tokens of the sequence times the penalty (over it if positive); runs of `ngram` never repeat."""

    domain, name, versions = DOMAIN, "DiscourageRepeats", (1,)
    attributes = {"ngram": 0}

    def lower(self, n: Lowering) -> Tensor:
        scores, sequences = n.input(0), n.input(1)
        found, = n.routine(DISCOURAGE, [scores, sequences, n.input(2), n.input(3)], [(dt.float32, scores.shape)], [scores.shape[1], sequences.shape[1]], units=scores.shape[0],
                           constants={"NGRAM": int(n.attr("ngram")), "LOWEST": LOWEST})
        return found

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((1, 6)), token_row(1, 2, 3, 1, 2, 0), np.array([5]), np.array([1.5], np.float32)), {"ngram": 3})


@register
class AdjustScores(Op):
    """(scores [N, V], length, min_length?, vocab_mask? [V], first?, prefix_mask? [B, V], presence? [B, V], beam_scores? [N], temperature?) -> scores of what may come next.

    The lowest score goes to tokens that a mask forbids (the prefix mask only in the first step) and to the end before min_length; then all are divided by the
    temperature, those that are present lose `presence_penalty`, and the beams' own scores come on top.
    """

    domain, name, versions = DOMAIN, "AdjustScores", (1,)
    attributes = {"end": REQUIRED, "temperature": 1.0, "presence_penalty": 0.0}

    def lower(self, n: Lowering) -> Tensor:
        scores, length = n.input(0), n.elements(1)[0]
        least = n.elements(2)[0] if n.has(2) else None
        vocabulary, prefix, presence, own = n.optional(3), n.optional(5), n.optional(6), n.optional(7)
        for mask in (vocabulary, prefix, presence):
            if mask is not None:
                n.require(ex.equal(mask.shape[-1], scores.shape[1]), f"a mask of {mask.shape[-1].text} tokens was given for {scores.shape[1].text}")
        for mask in (prefix, presence):
            if mask is not None:
                rows = mask.shape[0] * (scores.shape[0] // mask.shape[0])
                n.require(ex.equal(rows, scores.shape[0]), f"a mask of {mask.shape[0].text} rows was given for {scores.shape[0].text}")
        temperature, penalty = float(n.attr("temperature")), float(n.attr("presence_penalty"))
        given = n.optional(8)
        heat = None if given is None else given[(ex.const(0),) * given.rank]

        def row(mask: Tensor, r: Expr) -> Expr:
            return r // (scores.shape[0] // mask.shape[0])

        def value(r: Expr, v: Expr) -> Expr:
            found = scores[r, v]
            forbidden: list[Expr] = []
            if vocabulary is not None:
                forbidden.append(ex.equal(vocabulary[v], 0))
            if prefix is not None:
                forbidden.append(ex.logical_and(ex.equal(prefix[row(prefix, r), v], 0), n.elements(4)[0]))
            if least is not None:
                forbidden.append(ex.logical_and(ex.equal(v, int(n.attr("end"))), ex.cast(length, dt.int64) < ex.cast(least, dt.int64)))
            for f in forbidden:
                found = ex.where(f, ex.const(LOWEST, dt.float32), found)
            if temperature != 1.0:
                found = found / ex.const(temperature, dt.float32)
            if heat is not None:
                found = ex.where(heat > 0.0, found / heat, found)
            if presence is not None and penalty:
                found = found - ex.cast(presence[row(presence, r), v], dt.float32) * ex.const(penalty, dt.float32)
            return found if own is None else found + own[r]
        return n.map(scores.shape, value, dt.float32)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 4)), np.array([3]), np.array([5]), np.array([1, 1, 0, 1], np.int32), np.array(True), np.array([[1, 0, 1, 1]], np.int32),
                      np.array([[0, 0, 0, 1]], np.int32), real_sample((2,)), np.array([0.7], np.float32)), {"end": 0, "temperature": 0.5, "presence_penalty": 0.25})


FIRST_TIMES = 50  # how far the first timestamp may lie behind the beginning


def keep_times(scores, sequences, length, wanted, out, vocabulary, room, lo, hi):
    """Whisper's rules of timestamps, which are the tokens from BEGIN on; one unit is one row. Where none are wanted, scores stay.

    They come in pairs but for the first, never decrease, and are taken instead of text where together they are likelier than each text token.
    """
    used, active = load(length, 0), load(wanted, 0) != 0
    for row in range(lo, hi):
        base, first = row * vocabulary, row * room
        for v in range(vocabulary):
            store(out, base + v, load(scores, base + v))
        if active:
            begun = used
            last = -1
            for j in range(used):
                token = load(sequences, first + j)
                if token >= BEGIN:
                    begun = min(begun, j + 1)
                    last = token
            for v in range(vocabulary):
                if v in (NONE, LANGUAGE_MODEL) or (used > begun and v in (START, TRANSLATE, TRANSCRIBE)):
                    store(out, base + v, LOWEST)
            ends = used > 0 and load(sequences, first + used - 1) >= BEGIN
            before = used <= begun or load(sequences, first + used - 2) >= BEGIN
            if ends:
                low, high = (BEGIN, vocabulary) if before else (0, END)
                for v in range(low, high):
                    store(out, base + v, LOWEST)
            if last >= 0:
                for v in range(BEGIN, last if ends and not before else last + 1):
                    store(out, base + v, LOWEST)
            if used == begun:
                for v in range(BEGIN + FIRST_TIMES + 1, vocabulary):
                    store(out, base + v, LOWEST)
            text, time = LOWEST, LOWEST
            for v in range(vocabulary):
                score = load(out, base + v)
                if v < BEGIN:
                    text = max(text, score)
                else:
                    time = max(time, score)
            together = 0.0
            for v in range(BEGIN, vocabulary):
                if load(out, base + v) > LOWEST:
                    together += math.exp(load(out, base + v) - time)
            if together > 0 and math.log(together) + time > text:
                for v in range(BEGIN):
                    store(out, base + v, LOWEST)


KEEP_TIMES = Routine("keep_times", keep_times)


@register
class KeepTimes(Op):
    """(scores [N, V], sequences [N, M], length, wanted, beam_scores [N]) -> scores by Whisper's rules of timestamps if they are wanted, the beams' own on top.

    Tokens are known by number: `end`, `begin` (the first timestamp), and those that are never taken or only at the beginning.
    """

    domain, name, versions = DOMAIN, "KeepTimes", (1,)
    attributes = {"end": REQUIRED, "begin": REQUIRED, "none": -1, "language_model": -1, "translate": -1, "transcribe": -1}

    def lower(self, n: Lowering) -> Tensor:
        scores, sequences, own = n.input(0), n.input(1), n.input(4)
        tokens = {name.upper(): int(n.attr(name)) for name in self.attributes}
        found, = n.routine(KEEP_TIMES, [scores, sequences, n.input(2), n.input(3)], [(dt.float32, scores.shape)], [scores.shape[1], sequences.shape[1]], units=scores.shape[0],
                           constants={**tokens, "START": tokens["END"] + 1, "LOWEST": LOWEST, "FIRST_TIMES": FIRST_TIMES})
        return n.map(scores.shape, lambda r, v: found[r, v] + own[r])

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((1, 8)), token_row(1, 6, 0), np.array([2]), np.array([1]), np.zeros(1, np.float32)), {"end": 2, "begin": 5, "none": 4})


# -------------------------------------------------------------------------------------------------------------------- beams
def norm(n: Lowering, length: int, exponent: int) -> Tensor:
    """What the score of a sequence is divided by: its length to the power of the length penalty, in float32 as all scores, so that equal ones stay equal."""
    base, power = ex.cast(n.elements(length)[0], dt.float32), n.input(exponent)
    return n.map([1], lambda _: ex.binary("pow", base, power[(ex.const(0),) * power.rank]), dt.float32)


def keep(tokens, scores, lengths, progress, batch, beams, room, sequences, row, length, score):
    """Add a finished sequence to a prompt's kept ones if it is among the best; of equal scores the earlier stays in front."""
    at = load(progress, 2 * batch)
    base = batch * beams
    if at == beams:
        at -= 1
        if score <= load(scores, base + at):
            return
    else:
        store(progress, 2 * batch, at + 1)
    while at > 0 and score > load(scores, base + at - 1):
        store(scores, base + at, load(scores, base + at - 1))
        store(lengths, base + at, load(lengths, base + at - 1))
        for j in range(room):
            store(tokens, (base + at) * room + j, load(tokens, (base + at - 1) * room + j))
        at -= 1
    store(scores, base + at, score)
    store(lengths, base + at, length)
    for j in range(length):
        store(tokens, (base + at) * room + j, load(sequences, row * room + j))


def copy_kept(old_tokens, old_scores, old_lengths, old_progress, tokens, scores, lengths, progress, batch, beams, room):
    """The kept sequences of a prompt as they were."""
    for k in range(2):
        store(progress, 2 * batch + k, load(old_progress, 2 * batch + k))
    for k in range(batch * beams, (batch + 1) * beams):
        store(scores, k, load(old_scores, k))
        store(lengths, k, load(old_lengths, k))
        for j in range(load(old_lengths, k)):
            store(tokens, k * room + j, load(old_tokens, k * room + j))


def advance(top, places, sequences, length, norm, old_tokens, old_scores, old_lengths, old_progress, chosen, rows, scores, longer, tokens, kept, lengths, progress,
            beams, vocabulary, room, lo, hi):
    """One step of beam search; one unit is one prompt. Of its 2 * beams best continuations those that end are kept, the others go on."""
    used = load(length, 0)
    for batch in range(lo, hi):
        copy_kept(old_tokens, old_scores, old_lengths, old_progress, tokens, kept, lengths, progress, batch, beams, room)
        base, candidates = batch * beams, batch * 2 * beams
        if load(progress, 2 * batch + 1):
            for k in range(beams):
                store(chosen, base + k, PAD)
                store(rows, base + k, base if beams == 1 else 0)
                store(scores, base + k, 0)
                for j in range(used):
                    store(longer, (base + k) * room + j, load(sequences, (base + k) * room + j))
                for j in range(used, room):
                    store(longer, (base + k) * room + j, PAD)
            continue
        share, going = load(norm, 0), 0
        for c in range(2 * beams):
            if going == beams:
                break
            place = load(places, candidates + c)
            token, source = place % vocabulary, base + place // vocabulary
            score = load(top, candidates + c)
            if END >= 0 and token == END:
                if c < beams:
                    keep(tokens, kept, lengths, progress, batch, beams, room, sequences, source, used, score / share)
                continue
            store(chosen, base + going, token)
            store(rows, base + going, source)
            store(scores, base + going, score)
            for j in range(used):
                store(longer, (base + going) * room + j, load(sequences, source * room + j))
            store(longer, (base + going) * room + used, token)
            for j in range(used + 1, room):
                store(longer, (base + going) * room + j, PAD)
            going += 1
        if load(progress, 2 * batch) == beams and (EARLY or load(kept, base + beams - 1) >= load(top, candidates) / share):
            store(progress, 2 * batch + 1, 1)


ADVANCE = Routine("advance_beams", advance, (keep, copy_kept))


@register
class AdvanceBeams(Op):
    """(best scores [B, 2K], their places [B, 2K] among K * V, sequences, length, length_penalty, kept..., scores [N, V]) -> one token more.

    Gives tokens [N], the rows they continue [N], scores [N], sequences [N, M], the kept sequences as they are now, and whether any prompt needs more.
    """

    domain, name, versions = DOMAIN, "AdvanceBeams", (1,)
    attributes = {"end": REQUIRED, "pad": REQUIRED, "early": 0}

    def lower(self, n: Lowering) -> list[Tensor]:
        inputs = [n.input(k) if k != 4 else norm(n, 3, 4) for k in range(9)]
        sequences, kept = inputs[2], inputs[5:9]
        rows, room = sequences.shape
        prompts, beams = kept[1].shape
        outputs = [(dt.int32, [rows]), (dt.int32, [rows]), (dt.float32, [rows]), (dt.int32, [rows, room]), *((t.dtype, t.shape) for t in kept)]
        found = n.routine(ADVANCE, inputs, outputs, [beams, n.input(9).shape[1], room], units=prompts,
                          constants={"END": int(n.attr("end")), "PAD": int(n.attr("pad")), "EARLY": bool(n.attr("early"))})
        progress = found[-1]
        more = n.map([], lambda: n.reduce("any", [prompts], lambda b: ex.equal(progress[b, 1], 0)), dt.boolean)
        return [*found, more]

    def samples(self) -> Iterator[Sample]:
        top, places = np.array([[-0.1, -0.2, -0.3, -0.4]], np.float32), np.array([[1, 5, 2, 0]])
        kept = (np.zeros((1, 2, 4), np.int32), np.full((1, 2), LOWEST, np.float32), np.zeros((1, 2), np.int32), np.zeros((1, 2), np.int32))
        yield Sample((top, places, np.array([[3, 0, 0, 0], [2, 0, 0, 0]], np.int32), np.array([1]), np.array([1.0], np.float32), *kept, real_sample((2, 4))),
                     {"end": 1, "pad": 0}, outputs=9)


def finish(sequences, length, norm, final, old_tokens, old_scores, old_lengths, old_progress, result, result_scores, tokens, kept, lengths, progress,
           beams, returned, room, lo, hi):
    """Keep what a prompt has not finished, and give its best sequences, filled up with PAD; one unit is one prompt."""
    used, share = load(length, 0), load(norm, 0)
    for batch in range(lo, hi):
        copy_kept(old_tokens, old_scores, old_lengths, old_progress, tokens, kept, lengths, progress, batch, beams, room)
        base = batch * beams
        if not load(progress, 2 * batch + 1):
            for k in range(beams):
                keep(tokens, kept, lengths, progress, batch, beams, room, sequences, base + k, used, load(final, base + k) / share)
        for k in range(returned):
            size = load(lengths, base + k)
            at = batch * returned + k
            store(result_scores, at, load(kept, base + k))
            for j in range(room):
                store(result, at * room + j, load(tokens, (base + k) * room + j) if j < size else PAD)


FINISH = Routine("finish_beams", finish, (keep, copy_kept))


@register
class FinishBeams(Op):
    """(sequences [N, M], length, length_penalty, scores [N], kept..., num_return_sequences R) -> the best sequences [B, R, M] and their scores [B, R]."""

    domain, name, versions = DOMAIN, "FinishBeams", (1,)
    attributes = {"pad": REQUIRED}

    def lower(self, n: Lowering) -> list[Tensor]:
        inputs, returned = [n.input(k) if k != 2 else norm(n, 1, 2) for k in range(8)], n.ints(8)[0]
        room = inputs[0].shape[1]
        prompts, beams = inputs[5].shape
        n.require(ex.logical_and(returned >= 1, returned <= beams), f"num_return_sequences is {returned.text}; 1 to num_beams ({beams.text}) was expected")
        outputs = [(dt.int32, [prompts, returned, room]), (dt.float32, [prompts, returned]), *((t.dtype, t.shape) for t in inputs[4:8])]
        return n.routine(FINISH, inputs, outputs, [beams, returned, room], units=prompts, constants={"PAD": int(n.attr("pad"))})[:2]

    def samples(self) -> Iterator[Sample]:
        kept = (np.array([[[5, 6, 0], [0, 0, 0]]], np.int32), np.array([[-0.5, LOWEST]], np.float32), np.array([[2, 0]], np.int32), np.array([[1, 0]], np.int32))
        own = np.array([-1.2, -1.8], np.float32)
        yield Sample((np.array([[1, 2, 3], [1, 3, 3]], np.int32), np.array([3]), np.array([1.0], np.float32), own, *kept, np.array([2])), {"pad": 9}, outputs=2)


# ------------------------------------------------------------------------------------------------------- one sequence a prompt
@register
class AppendTokens(Op):
    """(tokens [B], sequences [B, M], length, ended bool[B]) -> the same with one token more, which is PAD where a sequence has ended or ends now; whether any goes on."""

    domain, name, versions = DOMAIN, "AppendTokens", (1,)
    attributes = {"end": REQUIRED, "pad": REQUIRED}

    def lower(self, n: Lowering) -> list[Tensor]:
        chosen, sequences, length, before = n.input(0), n.input(1), ex.cast(n.elements(2)[0], dt.int64), n.input(3)
        ended = n.map(before.shape, lambda b: ex.logical_or(before[b], ex.equal(ex.cast(chosen[b], dt.int64), int(n.attr("end")))), dt.boolean)
        tokens = n.map(before.shape, lambda b: ex.where(ended[b], ex.const(int(n.attr("pad")), dt.int32), ex.cast(chosen[b], dt.int32)), dt.int32)
        longer = n.map(sequences.shape, lambda b, j: ex.where(ex.equal(j, length), tokens[b], sequences[b, j]), dt.int32)
        more = n.map([], lambda: n.reduce("any", [before.shape[0]], lambda b: ex.logical_not(ended[b])), dt.boolean)
        return [tokens, longer, ended, more]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([4, 7]), np.array([[1, 9, 9], [2, 9, 9]], np.int32), np.array([1]), np.array([False, False])), {"end": 4, "pad": 9}, outputs=4)



def draw(top, places, chances, tokens, chosen, vocabulary, lo, hi):
    """A token for every row, by its share among those that the nucleus keeps; scores come sorted. One unit is one row.

    Descending, a token is left out if those before it have more than TOP_P together; ascending, if those up to it have at most 1 - TOP_P, but for the last LEAST.
    """
    for row in range(lo, hi):
        base = row * vocabulary
        best = load(top, base) if DESCENDING else load(top, base + vocabulary - 1)
        total = 0.0
        for v in range(vocabulary):
            total += math.exp(load(top, base + v) - best)
        share, highest = 0.0, -math.inf
        for v in range(vocabulary):
            before = share
            share += math.exp(load(top, base + v) - best) / total
            if DESCENDING:
                left = v > 0 and before > TOP_P
            else:
                left = share <= 1 - TOP_P and (v == 0 or v < vocabulary - LEAST)
            score = FILTERED if left else load(top, base + v)
            store(chosen, base + v, score)
            highest = max(highest, score)
        total = 0.0
        for v in range(vocabulary):
            total += math.exp(load(chosen, base + v) - highest)
        goal, reached, token = load(chances, row) * total, 0.0, vocabulary - 1
        for v in range(vocabulary):
            reached += math.exp(load(chosen, base + v) - highest)
            if reached > goal:
                token = v
                break
        store(tokens, row, load(places, base + token))


DRAW = Routine("draw_token", draw)


@register
class DrawTokens(Op):
    """(sorted scores [B, V], their tokens [B, V], seed, step) -> one token a row, drawn from the softmax of what top_p leaves; the numbers follow from seed, step and row alone."""

    domain, name, versions = DOMAIN, "DrawTokens", (1,)
    attributes = {"top_p": 0.0, "least": 0, "filtered": -math.inf, "descending": 0}

    def lower(self, n: Lowering) -> Tensor:
        top, places = n.input(0), n.input(1)
        seed, step = (ex.cast(ex.cast(n.elements(k)[0], dt.int64), dt.uint32) for k in (2, 3))
        chances = n.map([top.shape[0]], lambda b: counted_uniform((seed * 0x9E3779B1 + step) * 0x85EBCA77 + ex.cast(b, dt.uint32), 0), dt.float32)
        tokens, _ = n.routine(DRAW, [top, places, chances], [(dt.int64, [top.shape[0]]), (dt.float32, top.shape)], [top.shape[1]], units=top.shape[0],
                              constants={"TOP_P": float(n.attr("top_p")), "LEAST": int(n.attr("least")), "FILTERED": float(n.attr("filtered")),
                                         "DESCENDING": bool(n.attr("descending"))})
        return tokens

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[2.0, 1.0, -3.0]], np.float32), np.array([[1, 0, 2]]), np.array([7]), np.array([0])), {"top_p": 0.9, "descending": 1})
