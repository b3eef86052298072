"""Cases of com.microsoft's attention."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


def mask_of(r: Draw, kind: int, batch: int, queries: int, past: int) -> np.ndarray | None:
    """One of the forms of a mask over `past + queries` keys."""
    keys = past + queries
    if kind == 0:
        return None
    if kind == 1:
        return r.ints(1, keys + 1, batch, dtype=np.int32)
    if kind == 2:
        return np.concatenate([r.ints(max(1, keys - 1), keys + 1, batch), r.ints(0, 1 + keys // 3, batch)]).astype(np.int32)
    if kind == 3:
        return r.ints(0, 2, batch, keys, dtype=np.int32)
    return r.ints(0, 2, batch, queries, keys, dtype=np.int32)


def trimmed(inputs: list[np.ndarray | None]) -> list[np.ndarray | None]:
    while inputs[-1] is None:
        inputs.pop()
    return inputs


@cases(MS, "Attention", ulps=512)
def attention(r: Draw) -> Iterator[Case]:
    for k in range(24):
        batch, queries, heads, width, hidden = r.size(1, 3), r.size(1, 6), r.size(1, 4), r.size(1, 3) * 4, r.size(2, 12)
        cached = k % 3 == 2
        past = r.size(0, 4) if cached else 0
        value_width = width if cached or k % 4 else width * 2
        sizes = {"qkv_hidden_sizes": [heads * width, heads * width, heads * value_width]} if k % 4 == 0 else {}
        total = heads * (2 * width + value_width)
        attributes = {"num_heads": heads, **sizes, **({"unidirectional": 1} if k % 5 in (1, 2) else {}), **({"scale": 0.3} if k % 6 == 1 else {}),
                      **({"mask_filter_value": -5000.0} if k % 7 == 3 else {})}
        bias = r.real(r.pick(1, batch), r.pick(1, heads), queries, past + queries) if k % 4 == 3 else None
        inputs = [r.real(batch, queries, hidden), r.real(hidden, total, scale=0.4), r.real(total), mask_of(r, k % 5, batch, queries, past),
                  r.real(2, batch, heads, past, width) if cached else None, bias]
        yield Case(trimmed(inputs), attributes, 2 if cached else 1, constants=(1, 2) if k % 2 else ())


@cases(MS, "QAttention", ulps=512)
def quantised_attention(r: Draw) -> Iterator[Case]:
    for k in range(24):
        batch, queries, heads, width, hidden = r.size(1, 3), r.size(1, 6), r.size(1, 3), r.size(1, 3) * 4, r.size(2, 12)
        cached, total = k % 4 == 3, heads * width * 3
        past, signed = r.size(1, 3) if cached else 0, k % 2
        weights = r.ints(-60, 60, hidden, total, dtype=np.int8) if signed else r.ints(60, 190, hidden, total, dtype=np.uint8)
        by_column = k // 2 % 2
        zero = [np.zeros(total if by_column else (), np.int8)] if signed else [r.ints(100, 140, *([total] if by_column else []), dtype=np.uint8)]
        inputs = [r.ints(60, 190, batch, queries, hidden, dtype=np.uint8), weights, r.real(total), r.scale(), r.scale(total) if by_column else r.scale(),
                  mask_of(r, k % 4, batch, queries, past), r.ints(100, 140, dtype=np.uint8), *zero, r.real(2, batch, heads, past, width) if cached else None]
        yield Case(trimmed(inputs), {"num_heads": heads, **({"unidirectional": 1} if k % 3 == 1 else {})}, 2 if cached else 1, constants=(1,) if k % 5 == 0 else ())


@cases(MS, "MultiHeadAttention", ulps=512)
def multi_head(r: Draw) -> Iterator[Case]:
    for k in range(24):
        batch, queries, heads, width, form = r.size(1, 3), r.size(1, 6), r.size(1, 4), r.size(1, 3) * 4, 2 + k % 3  # the packed forms are not on its CPU
        past, keys, value_width = 0, queries, width
        if form == 2:  # keys and values of a cross attention, split by head
            keys = r.size(1, 6)
            inputs: list[np.ndarray | None] = [r.real(batch, queries, heads * width), r.real(batch, heads, keys, width), r.real(batch, heads, keys, width)]
        else:
            keys = queries if form == 4 else r.size(1, 6)
            value_width = width * 2 if form == 3 and k % 2 else width
            inputs = [r.real(batch, queries, heads * width), r.real(batch, keys, heads * width), r.real(batch, keys, heads * value_width)]
        cached = form == 4
        past = r.size(0, 4) if cached else 0
        total = past + keys
        bias = r.real(heads * (2 * width + value_width)) if k % 3 and form in (3, 4) else None
        mask = None
        if k % 4 == 1:
            mask = r.ints(0, 2, batch, total, dtype=np.int32) if k % 8 == 1 else r.ints(1, total + 1, batch, dtype=np.int32)
        added = r.real(r.pick(1, batch), r.pick(1, heads), queries, total) if k % 4 == 2 else None
        caches = [r.real(batch, heads, past, width), r.real(batch, heads, past, value_width)] if cached else []
        attributes = {"num_heads": heads, **({"unidirectional": 1} if form == 4 and k % 3 == 0 else {}), **({"scale": 0.25} if k % 6 == 1 else {})}
        yield Case(trimmed([*inputs, bias, mask, added, *caches]), attributes, 3 if cached else 1)


@cases(MS, "GroupQueryAttention", ulps=512, narrow_ulps=8)
def grouped(r: Draw) -> Iterator[Case]:
    for k in range(22):
        kv, per, width, batch = r.size(1, 2), r.size(1, 3), 16 if k % 3 == 0 else 8, r.size(1, 3)
        heads, prompt, packed = kv * per, k % 2 == 0, k % 5 == 4
        kind = np.float16 if k % 8 == 7 else np.float32
        rotary = k % 3 == 0
        queries = r.size(1, 6) if prompt else r.pick(1, 2) if batch == 1 else 1
        before = 0 if prompt else r.size(2, 5)
        total = queries + before
        ends = np.full(batch, total - 1, np.int32)
        if prompt and k % 4 == 0:
            ends = np.minimum(r.ints(0, total, batch, dtype=np.int32), total - 1)
            ends[0] = total - 1
        room = r.pick(total, total + 3) if not prompt else r.pick(0, total, total + 2)
        rows = [r.real(batch, queries, (heads + 2 * kv) * width, dtype=kind), None, None] if packed else [
            r.real(batch, queries, h * width, dtype=kind) for h in (heads, kv, kv)]
        caches = [r.real(batch, kv, room, width, dtype=kind) for _ in range(2)] if room or not prompt else [None, None]
        tables = [np.cos(r.real(24, width // 2)).astype(kind), np.sin(r.real(24, width // 2)).astype(kind)] if rotary else [None, None]
        sink = r.real(heads, dtype=kind) if k % 10 == 5 else None
        attributes = {"num_heads": heads, "kv_num_heads": kv, **({"do_rotary": 1, "rotary_interleaved": k // 3 % 2} if rotary else {}),
                      **({"local_window_size": r.size(1, 4)} if k % 4 == 1 else {}), **({"softcap": 4.0} if k % 7 == 2 else {}), **({"scale": 0.3} if k % 6 == 1 else {}),
                      **({"smooth_softmax": 1} if k % 10 == 6 else {})}

        def valid(number: int, result: np.ndarray, ends: np.ndarray = ends, prompt: bool = prompt) -> np.ndarray:
            """Rows are padded on the right: what belongs to tokens."""
            if number == 0 and prompt:
                return np.concatenate([row[:end + 1] for row, end in zip(result, ends)])
            return np.concatenate([row[:, :end + 1].reshape(-1) for row, end in zip(result, ends)]) if number else result
        ragged = bool((ends != total - 1).any())
        yield Case(trimmed([*rows, *caches, ends, np.array(total, np.int32), *tables, None, None, sink]), attributes, 3, constants=(6,) if k % 3 == 1 else (),
                   part=valid if ragged else None)
