"""Cases of com.microsoft's rotary embeddings."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


@cases(MS, "RotaryEmbedding")
def rotary(r: Draw) -> Iterator[Case]:
    # ONNX Runtime's CPU kernel takes `scale` and does not use it.
    for k in range(24):
        packed = k % 6 == 5  # then rows may be longer than the tables
        b, s, heads, half = r.size(1, 3), r.size(17, 20) if packed else r.size(1, 5), r.size(1, 4), r.pick(4, 8)
        x = r.real(b, heads, s, 2 * half) if k % 3 == 0 else r.real(b, s, heads * 2 * half)
        positions = r.ints(0, 10, 1) if k % 4 == 0 and not packed else r.ints(0, 16, b, s)
        yield Case([x, positions, r.real(16, half), r.real(16, half)], {"interleaved": r.flag()} | ({"scale": 2.0} if k % 5 == 0 else {}) | ({"is_packed_batching": 1} if packed else {}), constants=(2, 3))


@cases(MS, "MRotaryEmbedding")
def mrotary(r: Draw) -> Iterator[Case]:
    for k in range(24):
        b, s, heads, parts, kind = r.size(1, 3), r.size(1, 5), r.size(1, 4), [r.size(1, 2) for _ in range(3)], (np.float32, np.float16)[k // 3 % 2]
        half = sum(parts)
        partial = {"rotary_embedding_dim": 2 * half} if k % 4 == 3 else {}
        width = 2 * half + (4 if partial else 0)
        x = r.real(b, heads, s, width, dtype=kind) if k % 3 == 0 else r.real(b, s, heads * width, dtype=kind)
        yield Case([x, r.ints(0, 16, 3, b, s), r.real(16, half, dtype=kind), r.real(16, half, dtype=kind)],
                   {"mrope_section": parts, "num_heads": heads, "interleaved": r.flag(), "mrope_layout": k % 2, **partial})
