"""Cases of com.microsoft's attention over caches that have room for more."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"
FLOATS = {3: 1}  # the scores


def cached(r: Draw, k: int, prompts: int, beams: int, heads: int, width: int, queries: int = 1) -> tuple[list[np.ndarray], dict[str, np.ndarray | None]]:
    """Query, key and value of new tokens, and what belongs to a cache, by name."""
    batch, room = prompts * beams, r.size(2, 9)
    before = r.size(0, room - queries)
    new = [r.real(batch, queries, heads * width) for _ in range(3)]
    rest: dict[str, np.ndarray | None] = {
        "mask": np.concatenate([r.flags(batch, before), np.ones((batch, queries), np.bool_)], 1).astype(np.int32) if k % 4 == 1 else None,
        "bias": r.real(r.pick(1, batch), heads if beams > 1 else r.pick(1, heads), queries, before + queries) if k % 5 == 2 else None,
        "key": r.real(batch, heads, room, width), "value": r.real(batch, heads, room, width), "before": np.full((1,), before, np.int32),
        "table": r.ints(0, beams, prompts, beams, room, dtype=np.int32) if beams > 1 else None, "offsets": r.real(3 * heads * width) if k % 3 == 1 else None}
    return new, rest


def other_sequence(r: Draw, batch: int, heads: int, width: int) -> list[np.ndarray]:
    length = r.size(1, 9)
    return [r.real(batch, 1, heads * width), r.real(batch, heads, length, width), r.real(batch, heads, length, width)]


@cases(MS, "DecoderMaskedMultiHeadAttention", ulps=64)
def decoder_masked_multi_head_attention(r: Draw) -> Iterator[Case]:
    for k in range(32):
        prompts, beams, heads, width = r.size(1, 3), r.size(1, 3), r.size(1, 3), r.size(1, 8)
        attributes: dict[str, object] = {"num_heads": heads} | ({"scale": 0.4} if k % 6 == 5 else {}) | ({"mask_filter_value": -50.0} if k % 8 == 1 else {})
        if k % 4 == 3:
            q, key, value = other_sequence(r, prompts, heads, width)
            mask = r.flags(prompts, key.shape[2]).astype(np.int32) if k % 8 == 3 else None
            qk = k % 12 == 7
            offsets = r.real(3 * heads * width) if k % 3 == 1 else None
            yield Case([q, key, value, mask, *[None] * 6, offsets], attributes | {"output_qk": int(qk)}, [True, False, False, True] if qk else 1, types=FLOATS)
            continue
        new, rest = cached(r, k, prompts, beams, heads, width)
        count = np.full((1,), beams, np.int32) if beams > 1 else None
        yield Case([*new, rest["mask"], rest["bias"], rest["key"], rest["value"], rest["before"], count, rest["table"], rest["offsets"]],
                   attributes | {"past_present_share_buffer": 1, "output_qk": int(k % 5 < 3)}, 4 if k % 5 < 3 else 3, constants=[7] if k % 3 == 0 else [], types=FLOATS)


@cases(MS, "MultiHeadAttention", ulps=64)
def multi_head_attention(r: Draw) -> Iterator[Case]:
    for k in range(32):
        prompts, beams, heads, width = r.size(1, 3), r.size(1, 3), r.size(1, 3), r.size(1, 8)
        attributes: dict[str, object] = {"num_heads": heads} | ({"scale": 0.4} if k % 6 == 5 else {}) | ({"unidirectional": 1} if k % 7 in (2, 3) else {})
        if k % 4 == 3:
            q, key, value = other_sequence(r, prompts, heads, width)
            table = [None] * 4 + [np.ones(1, np.int32), r.ints(0, 2, prompts, 1, 5, dtype=np.int32)] if k % 8 == 3 else []
            yield Case([q, key, value, r.real(3 * heads * width) if k % 3 else None, *table], attributes, [True, False, False, True] if k % 3 else 1, types=FLOATS)
            continue
        new, rest = cached(r, k, prompts, beams, heads, width, queries=1 if k % 2 else r.size(1, 2))
        yield Case([*new, rest["offsets"], rest["mask"], rest["bias"], rest["key"], rest["value"], rest["before"], rest["table"] if k % 3 else None], attributes,
                   4 if k % 5 < 3 else 3, constants=[8] if k % 3 == 0 else [], types=FLOATS)
