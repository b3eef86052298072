"""Operators on strings, and n-gram counts: host steps over NumPy arrays."""
from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr
from ..loops import Ref
from .base import REQUIRED, Lowering, Op, Sample, register
from .control import fresh


def text_array(texts: Sequence[str], shape: Sequence[int]) -> np.ndarray:
    """An object array of strings."""
    out = np.empty(len(texts), object)
    out[:] = texts
    return out.reshape(shape)


def texts_of(strings: np.ndarray) -> list[str]:
    """The elements as `str`, row-major."""
    return [s if type(s) is str else s.decode("utf-8") if isinstance(s, bytes) else str(s) for s in np.asarray(strings, object).reshape(-1).tolist()]


# -------------------------------------------------------------------------------------------------------------- host steps
def concatenate_strings(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    a, b = np.broadcast_arrays(np.asarray(a, object), np.asarray(b, object))
    return [text_array([p + q for p, q in zip(texts_of(a), texts_of(b))], a.shape)]


def split_strings(strings: np.ndarray, delimiter: str = "", maxsplit: int = -1) -> list[np.ndarray]:
    """Parts of each string, padded with empty ones to the longest, and their numbers."""
    parts = [s.split(delimiter or None, maxsplit) for s in texts_of(strings)]
    longest = max(map(len, parts), default=0)
    shape = np.shape(strings)
    padded = [t for p in parts for t in (*p, *[""] * (longest - len(p)))]
    return [text_array(padded, (*shape, longest)), np.array([len(p) for p in parts], np.int64).reshape(shape)]


def normalize_strings(strings: np.ndarray, case: str = "NONE", sensitive: bool = False, stopwords: Sequence[str] = ()) -> list[np.ndarray]:
    """Strings that are no stop word, in the asked case; one empty string where none is left."""
    stops = set(stopwords) if sensitive else {w.lower() for w in stopwords}
    kept = [s for s in texts_of(strings) if (s if sensitive else s.lower()) not in stops] or [""]
    changed = [s.lower() if case == "LOWER" else s.upper() if case == "UPPER" else s for s in kept]
    return [text_array(changed, (1, len(changed)) if np.ndim(strings) == 2 else (len(changed),))]


POSIX = {"alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f", "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~",
         "punct": r"!-/:-@\[-`{-~", "space": r"\t\n\v\f\r ", "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f"}
SPELLED = re.compile(r"\\Q(?P<literal>.*?)(?:\\E|$)|\[:(?P<posix>[a-z]+):\]|"
                     r"\\(?P<sign>[pP])(?:\{(?P<long>\^?\w+)\}|(?P<short>\w))|(?P<end>\\z)|(?P<name>\(\?<(?=[A-Za-z_]))|\\.", re.S)


def python_pattern(pattern: str) -> str:
    """A regular expression in RE2's syntax as Python has it.

    Raises:
        re.error: a class that is none of POSIX's, or letters of a script.
    """
    def translated(m: re.Match[str]) -> str:
        if m["literal"] is not None:
            return re.escape(m["literal"])
        if m["posix"]:
            if m["posix"] not in POSIX:
                raise re.error(f"the class {m[0]} is unknown")
            return POSIX[m["posix"]]
        if m["sign"]:
            name = m["long"] or m["short"]
            return letters(name.removeprefix("^"), (m["sign"] == "P") != name.startswith("^"))
        return r"\Z" if m["end"] else "(?P<" if m["name"] else m[0]
    return _in_classes(SPELLED.sub(translated, pattern))


@functools.cache
def letters(category: str, others: bool) -> str:
    """What stands in a class for all characters whose Unicode category begins with `category`, or for all others. In marks that `_in_classes` completes."""
    held = np.array([unicodedata.category(chr(c)).startswith(category) for c in range(sys.maxunicode + 1)])
    if not held.any():
        raise re.error(f"the Unicode category {category} is unknown")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held != others, [False]]).astype(np.int8)))
    return OPEN + "".join(f"\\U{a:08x}-\\U{b - 1:08x}" for a, b in edges.reshape(-1, 2).tolist()) + SHUT


OPEN, SHUT = "\ufdd0", "\ufdd1"  # no characters of any text


def _in_classes(pattern: str) -> str:
    """Marked ranges in brackets of their own where they stand outside of a class."""
    if OPEN not in pattern:
        return pattern
    out, inside, escaped = [], False, False
    for c in pattern:
        marks = c in (OPEN, SHUT)
        out.append("" if marks and inside else {OPEN: "[", SHUT: "]"}.get(c, c))
        if not escaped and not marks and c in "[]":
            inside = c == "["
        escaped = c == "\\" and not escaped
    return "".join(out)


def match_strings(strings: np.ndarray, pattern: str) -> list[np.ndarray]:
    expression = re.compile(python_pattern(pattern), re.ASCII)
    return [np.array([expression.fullmatch(s) is not None for s in texts_of(strings)], np.bool_).reshape(np.shape(strings))]


def count_ngrams(items: np.ndarray, mode: str, shortest: int, longest: int, skips: int, counts: Sequence[int], indexes: Sequence[int], pool: Sequence[int | str],
                 weights: Sequence[float]) -> list[np.ndarray]:
    """How often each n-gram of a pool occurs in each row, or its weight.

    Args:
        counts: where the pool's n-grams of length 1, 2, ... begin.
        indexes: the output column of each n-gram.
    """
    table: dict[tuple[int | str, ...], int] = {}
    number = 0
    for k, start in enumerate(counts):
        size, end = k + 1, counts[k + 1] if k + 1 < len(counts) else len(pool)
        for at in range(start, end - size + 1, size):
            if shortest <= size <= longest:
                table[tuple(pool[at:at + size])] = indexes[number]
            number += 1
    array = np.asarray(items)
    rows = array.reshape(-1, array.shape[-1]) if array.ndim == 2 else array.reshape(1, -1)
    found = np.zeros((len(rows), max(indexes, default=-1) + 1), np.float32)
    for r, row in enumerate(rows):
        values = texts_of(row) if array.dtype.kind in "OUST" else row.tolist()
        for step in range(1, skips + 2):
            for size in range(shortest, longest + 1):
                if size == 1 and step > 1:
                    continue
                for first in range(len(values) - step * (size - 1)):
                    column = table.get(tuple(values[first:first + step * (size - 1) + 1:step]))
                    if column is not None:
                        found[r, column] += 1
    if mode != "TF" and (mode == "IDF" or weights):
        present = (found > 0).astype(np.float32) if mode == "IDF" else found
        found = present * np.asarray(weights, np.float32) if weights else present
    return [found if array.ndim == 2 else found[0]]


# --------------------------------------------------------------------------------------------------------------- operators
@register
class StringConcat(Op):
    """Strings joined element by element, with broadcasting. Source: ONNX StringConcat-20."""

    name, versions = "StringConcat", (20,)

    def lower(self, n: Lowering) -> Ref:
        return n.host(concatenate_strings, [(dt.string, n.broadcast(n.input(0), n.input(1)))], "strings are joined")[0]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array(["a", "bc"], object), np.array([["x"], ["y"]], object)))


@register
class StringSplit(Op):
    """The parts of strings between delimiters (white space if none is given), and their numbers. Source: ONNX StringSplit-20."""

    name, versions = "StringSplit", (20,)

    def lower(self, n: Lowering) -> Sequence[Ref]:
        x, most = n.input(0), n.attr("maxsplit")
        step = functools.partial(split_strings, delimiter=str(n.attr("delimiter") or ""), maxsplit=-1 if most is None else int(most))
        return n.host(step, [(dt.string, (*x.shape, fresh(n, 0, "parts"))), (dt.int64, x.shape)], "strings are split")

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array(["a,b,c", "d"], object),), {"delimiter": ","}, outputs=2)


@register
class StringNormalizer(Op):
    """Stop words removed and case changed. Source: ONNX StringNormalizer-10."""

    name, versions = "StringNormalizer", (10,)
    attributes = {"case_change_action": "NONE", "is_case_sensitive": 0}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        if x.rank not in (1, 2):
            raise n.error(f"an input of rank {x.rank} was given, [C] or [1, C] was expected")
        step = functools.partial(normalize_strings, case=str(n.attr("case_change_action")), sensitive=bool(n.attr("is_case_sensitive")),
                                 stopwords=[str(w) for w in n.attr("stopwords") or ()])
        count: Expr = fresh(n, 0, "kept")
        return n.host(step, [(dt.string, (count,) if x.rank == 1 else (ex.const(1), count))], "strings are normalised")[0]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array(["Monday", "tuesday"], object),), {"case_change_action": "UPPER", "stopwords": ("monday",)})


@register
class RegexFullMatch(Op):
    """Whether a regular expression of RE2's syntax matches the whole string; without scripts (`\\p{Greek}`) and flags in the middle. Source: ONNX RegexFullMatch-20."""

    name, versions = "RegexFullMatch", (20,)
    attributes = {"pattern": REQUIRED}

    def lower(self, n: Lowering) -> Ref:
        pattern = str(n.attr("pattern"))
        try:
            re.compile(python_pattern(pattern), re.ASCII)
        except re.error as e:
            raise n.error(f"pattern {pattern!r} is no regular expression: {e}") from e
        return n.host(functools.partial(match_strings, pattern=pattern), [(dt.boolean, n.input(0).shape)], "strings are matched")[0]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array(["www.a.com", "b"], object),), {"pattern": r"www\.[a-z]+\.com"})
        words = np.array(["été", "Ab", "a1", "a.b", "", "9", "é9"], object)
        for pattern in (r"\w+", r"\p{L}+", r"[\pL\d]+", r"[^\p{Ll}]*", r"\P{Lu}+", r"[[:alpha:].]+", r"\Qa.b\E\z", r"(?i)AB"):
            yield Sample((words,), {"pattern": pattern}, name=pattern)


@register
class TfIdfVectorizer(Op):
    """Counts or weights of the n-grams of a pool in each row of strings or integers. Source: ONNX TfIdfVectorizer-9."""

    name, versions = "TfIdfVectorizer", (9,)
    attributes = {"mode": REQUIRED, "min_gram_length": REQUIRED, "max_gram_length": REQUIRED, "max_skip_count": REQUIRED, "ngram_counts": REQUIRED,
                  "ngram_indexes": REQUIRED}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        if x.rank not in (1, 2):
            raise n.error(f"an input of rank {x.rank} was given, [C] or [N, C] was expected")
        pool = [str(s) for s in n.attr("pool_strings") or ()] if x.dtype is dt.string else [int(v) for v in n.attr("pool_int64s") or ()]
        indexes = [int(k) for k in n.attr("ngram_indexes")]
        step = functools.partial(count_ngrams, mode=str(n.attr("mode")), shortest=int(n.attr("min_gram_length")), longest=int(n.attr("max_gram_length")),
                                 skips=int(n.attr("max_skip_count")), counts=[int(k) for k in n.attr("ngram_counts")], indexes=indexes, pool=pool,
                                 weights=[float(w) for w in n.attr("weights") or ()])
        return n.host(step, [(dt.float32, (*x.shape[:-1], ex.const(max(indexes, default=-1) + 1)))], "n-grams are counted")[0]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([1, 1, 3, 3, 3, 7, 8, 6, 7, 5, 6, 8], np.int32),),
                     {"mode": "TF", "min_gram_length": 2, "max_gram_length": 2, "max_skip_count": 0, "ngram_counts": (0, 4), "ngram_indexes": (0, 1, 2, 3, 4, 5, 6),
                      "pool_int64s": (2, 3, 5, 4, 5, 6, 7, 8, 6, 7)})
