"""What the host does with strings: plain functions over NumPy arrays, named so that a compiled plan can refer to them."""
from __future__ import annotations

import numpy as np

from .. import dtypes as dt
from ..dtypes import DType
from ..errors import InputError


def compare_strings(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """Whether strings are equal, element by element."""
    return [np.equal(a, b).astype(np.bool_)]


def choose_strings(condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """a where the condition holds, else b."""
    return [np.where(condition, a, b)]


def take_strings(positions: np.ndarray, *strings: np.ndarray) -> list[np.ndarray]:
    """The strings at positions of all arrays' elements laid one after another."""
    flat = np.concatenate([np.asarray(s, object).reshape(-1) for s in strings]) if len(strings) > 1 else np.asarray(strings[0], object).reshape(-1)
    return [flat[positions]]


def take_or_empty(positions: np.ndarray, *strings: np.ndarray) -> list[np.ndarray]:
    """`take_strings` of positions counted from 1; the empty string at 0."""
    if positions.all():
        return take_strings(positions - 1, *strings)
    return take_strings(positions, np.array([""], object), *strings)


def rank_strings(strings: np.ndarray) -> list[np.ndarray]:
    """Integers that compare as the strings do."""
    texts = np.asarray(strings, object).reshape(-1).tolist()
    rank = {s: k for k, s in enumerate(sorted(set(texts)))}
    return [np.array([rank[s] for s in texts], np.int64).reshape(np.shape(strings))]


def spell_numbers(a: np.ndarray) -> list[np.ndarray]:
    """Numbers as their shortest decimal spelling."""
    flat = np.asarray(a).reshape(-1)
    out = np.empty(flat.size, object)
    out[:] = [_spell(v) for v in flat]
    return [out.reshape(np.shape(a))]


def _spell(v: np.generic) -> str:
    if isinstance(v, np.bool_):
        return "1" if v else "0"  # as ONNX Runtime; the standard leaves it open
    if isinstance(v, np.integer):
        return str(int(v))
    number = float(v)
    if np.isnan(number):
        return "NaN"
    if np.isinf(number):
        return "INF" if number > 0 else "-INF"
    if number != 0 and not 1e-5 <= abs(number) < 1e16:
        return repr(number)
    return np.format_float_positional(v if isinstance(v, np.floating) else np.float32(number), trim="-")


def parse_numbers(type_name: str, a: np.ndarray) -> list[np.ndarray]:
    """Decimal spellings as numbers of the ONNX element type named; INF, -INF and NaN in any case."""
    to = dt.BY_NAME[type_name]
    texts = [s.decode() if isinstance(s, bytes) else str(s) for s in np.asarray(a, object).reshape(-1)]
    try:
        values = [_parse(t, to) for t in texts]
    except ValueError as e:
        raise InputError(f"a string cannot be read as {type_name}: {e}") from e
    wide = np.uint64 if to is dt.uint64 else np.int64 if to.is_integer else np.bool_ if to is dt.boolean else np.float64
    return [np.array(values, wide).astype(to.numpy).reshape(np.shape(a))]


def _parse(text: str, to: DType) -> float | int | bool:
    if to is dt.boolean:
        lowered = text.strip().lower()
        return lowered == "true" or (lowered != "false" and float(text) != 0)
    if to.is_integer:
        return int(text) if text.strip().lstrip("+-").isdigit() else int(float(text))
    return float(text)
