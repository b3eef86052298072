"""com.microsoft: words: their tokens, and vectors of words from their characters."""
from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..loops import Ref
from .base import REQUIRED, Lowering, Op, Sample, register
from .strings import text_array, texts_of

DOMAIN = "com.microsoft"
START, END = "\x02", "\x03"


def tokenize(strings: np.ndarray, separators: Sequence[str] | None, pattern: str | None, shortest: int, mark: bool, pad: str) -> list[np.ndarray]:
    """Tokens of each string, padded to the longest row: [..., tokens].

    Args:
        separators: patterns between tokens, each in turn; one empty one separates all characters.
        pattern: what tokens look like, where no separators are given.
        shortest: least number of characters of a token.
        mark: whether each row stands between two marks.
    """
    shape = np.shape(strings)
    by_character = list(separators or ()) == [""] or pattern == "."

    def parts(text: str) -> list[str]:
        if by_character:
            return list(text)
        if separators is None:
            return [found for found in re.findall(f"(?:{pattern})", text) if found]
        pieces = [text]
        for separator in separators:
            pieces = [q for p in pieces for q in re.split(f"(?:{separator})", p)]
        return pieces
    rows = [[p for p in parts(text) if len(p) >= max(shortest, 1)] for text in texts_of(strings)]
    longest = max(map(len, rows), default=0)
    if longest and mark:
        rows = [[START, *row, END] for row in rows]
        longest += 2
    padded = [t for row in rows for t in (*row, *[pad] * (longest - len(row)))]
    return [text_array(padded, (*shape, longest))]


@register
class Tokenizer(Op):
    """Strings cut at separators, or the parts of them that match a pattern of Python's re. Source: com.microsoft Tokenizer-1."""

    domain, name, versions = DOMAIN, "Tokenizer", (1,)
    attributes = {"mark": REQUIRED, "mincharnum": REQUIRED, "pad_value": REQUIRED}

    def lower(self, n: Lowering) -> Ref:
        x, separators, pattern = n.input(0), n.attr("separators"), n.attr("tokenexp")
        if (separators is None) == (pattern is None):
            raise n.error("one of separators and tokenexp was expected")
        if x.rank not in (1, 2):
            raise n.error(f"strings of rank {x.rank} were given, [C] or [N, C] was expected")
        if any(d.is_const and d.value == 0 for d in x.shape):
            return x  # nothing to cut: ONNX Runtime adds no dimension for tokens
        shortest = int(n.attr("mincharnum"))
        if shortest > 1 and (list(separators or ()) == [""] or pattern == "."):
            raise n.error(f"mincharnum is {shortest}, but each token has one character")
        call = functools.partial(tokenize, separators=None if separators is None else tuple(separators), pattern=pattern, shortest=shortest, mark=bool(n.attr("mark")),
                                 pad=str(n.attr("pad_value")))
        return n.host(call, [(dt.string, (*x.shape, ex.sym(f"{n.node.name}.tokens", 0)))], "strings are cut on the host")[0]

    def samples(self) -> Iterator[Sample]:
        x = np.array(["Hello World", "I love  computer science !", "", "  a b"], object)
        rest = {"mark": 1, "mincharnum": 1, "pad_value": "#"}
        yield Sample((x,), {"separators": (" ",), **rest})
        yield Sample((x,), {"tokenexp": "[a-z]+", **rest, "mark": 0, "mincharnum": 2})


@register
class WordConvEmbedding(Op):
    """The greatest tanh of a convolution over each word's characters; 0 for words that begin with character 0. Source: com.microsoft WordConvEmbedding-1.

    words: int32[W, characters], 0 where a word has ended; kernels: [filters, 1, window, features]; table: [characters, features].
    """

    domain, name, versions = DOMAIN, "WordConvEmbedding", (1,)
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Tensor:
        words, kernels, bias, table = n.input(0), n.input(1), n.input(2), n.input(3)
        if kernels.rank != 4 or words.rank != 2:
            raise n.error(f"words of rank {words.rank} and kernels of rank {kernels.rank} were given, [words, characters] and [filters, 1, window, features] were expected")
        for name, have in (("embedding_size", kernels.shape[0]), ("conv_window_size", kernels.shape[2]), ("char_embedding_size", table.shape[1])):
            if n.attr(name) is not None:
                n.require(ex.equal(have, int(n.attr(name))), f"{name} is {n.attr(name)}, but the operands have {have.text}")
        width, count = kernels.shape[2], words.shape[1]
        n.require(width <= count, f"a window of {width.text} characters is longer than words of {count.text}")
        zero = ex.const(0, words.dtype)

        def length(w: Expr) -> Expr:
            return n.reduce("sum", [count], lambda c: ex.where(ex.not_equal(words[w, c], zero), ex.const(1), ex.const(0)))
        lengths = n.map((words.shape[0],), length, dt.int64)
        places = count - width + 1
        sums = n.contract((), (words.shape[0], places), (kernels.shape[0],), (width, table.shape[1]),
                          lambda b, r, k: table[ex.cast(words[r[0], r[1] + k[0]], dt.int64), k[1]], lambda b, f, k: kernels[f[0], ex.const(0), k[0], k[1]],
                          (words.shape[0], places, kernels.shape[0]), lambda b, r, f: (*r, *f), epilogue=lambda acc, b, r, f: acc + bias[f[0]])

        def value(w: Expr, f: Expr) -> Expr:
            last = ex.maximum(lengths[w] - width, 0)
            best = n.reduce("max", [places], lambda p: ex.where(p <= last, sums[w, p, f], float("-inf")))
            return ex.where(ex.equal(words[w, ex.const(0)], zero), 0.0, ex.unary("tanh", best))
        return n.map((words.shape[0], kernels.shape[0]), value)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((np.array([[3, 4, 5, 6, 0], [1, 2, 0, 0, 0]], np.int32), f(4, 1, 3, 3), f(4), f(9, 3)))
