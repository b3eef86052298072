"""Cases of com.microsoft's hashes of runs of tokens."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"
KINDS = (np.int64, np.int32)


def tables(r: Draw, kind: type, longest: int, heads: int) -> list[np.ndarray]:
    """(multipliers, vocabulary sizes)"""
    return [r.ints(1, 2**30, longest, dtype=kind), r.ints(2, 500, (longest - 1) * heads, dtype=kind)]


def extras(r: Draw, k: int, kind: type, rows: int, longest: int, heads: int) -> list[np.ndarray | None]:
    """(past ids, head offsets, end of text)"""
    past = r.ints(0, 6, rows, longest - 1, dtype=kind) if k % 2 else None
    offsets = r.ints(0, 9999, (longest - 1) * heads, dtype=kind) if k % 3 else None
    return [past, offsets, np.array(3, kind) if k % 4 else None]


@cases(MS, "NGramHashMapping")
def ngram_hash(r: Draw) -> Iterator[Case]:
    for k in range(32):
        kind, batch, length, longest, heads = KINDS[k // 2 % 2], r.size(1, 3), r.size(0 if k % 11 == 10 else 1, 8), r.size(2, 4), r.size(1, 3)
        segments = [r.ints(0, 2, batch, length, dtype=np.int32)] if k % 5 else []
        yield Case([r.ints(0, 6, batch, length, dtype=kind), *tables(r, kind, longest, heads), *extras(r, k, kind, batch, longest, heads), *segments],
                   {"max_ngram_size": longest, "n_head_per_ngram": heads, "pad_id": 5, **({"reset_on_eos": r.flag()} if k % 3 else {})}, 1 + k % 2)


@cases(MS, "VarlenNGramHashMapping")
def varlen_ngram_hash(r: Draw) -> Iterator[Case]:
    for k in range(32):
        kind, rows, longest, heads = KINDS[k // 2 % 2], r.size(1, 4), r.size(2, 4), r.size(1, 3)
        ends = np.concatenate([[0], np.cumsum([r.size(1, 6) for _ in range(rows)])]).astype(np.int32)
        tokens, parted, captured = int(ends[-1]), k % 5 > 0, k % 3 == 2
        segments = r.ints(0, 2, tokens, dtype=np.int32) if parted else None
        before = r.ints(0, 2, rows, longest - 1, dtype=np.int32) if parted and k % 2 else None
        count = [r.ints(0, 6, rows, dtype=np.int32)] if captured else []
        yield Case([r.ints(0, 6, tokens, dtype=kind), *tables(r, kind, longest, heads), ends, *extras(r, k, kind, rows, longest, heads), segments, before, *count],
                   {"max_ngram_size": longest, "n_head_per_ngram": heads, "pad_id": 5, **({"reset_on_eos": r.flag()} if k % 3 else {}), **({"state_update_capacity": 4} if captured else {})},
                   [True, True, parted and k % 2 == 1, captured])
