"""Cases of com.microsoft's RotaryEmbedding."""
from __future__ import annotations

from collections.abc import Iterator

from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


@cases(MS, "RotaryEmbedding")
def rotary(r: Draw) -> Iterator[Case]:
    # ONNX Runtime's CPU kernel takes `scale` and does not use it.
    for k in range(24):
        b, s, heads, half = r.size(1, 3), r.size(1, 5), r.size(1, 4), r.pick(4, 8)
        x = r.real(b, heads, s, 2 * half) if k % 3 == 0 else r.real(b, s, heads * 2 * half)
        positions = r.ints(0, 10, 1) if k % 4 == 0 else r.ints(0, 16, b, s)
        yield Case([x, positions, r.real(16, half), r.real(16, half)], {"interleaved": r.flag()} | ({"scale": 2.0} if k % 5 == 0 else {}), constants=(2, 3))
