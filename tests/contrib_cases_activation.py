"""Cases of com.microsoft's activations."""
from __future__ import annotations

from collections.abc import Iterator

from contrib_cases import Case, Draw, cases, shapes

MS = "com.microsoft"


@cases(MS, "Gelu", ulps=32)
def gelu(r: Draw) -> Iterator[Case]:
    for shape in shapes(r, 24, low=0):
        yield Case([r.real(*shape, scale=3)])


@cases(MS, "BiasGelu", ulps=32)
def bias_gelu(r: Draw) -> Iterator[Case]:
    for shape in shapes(r, 24):
        yield Case([r.real(*shape, scale=2), r.real(shape[-1])])


@cases(MS, "FastGelu", ulps=32)
def fast_gelu(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 24)):
        yield Case([r.real(*shape, scale=2), r.real(shape[-1]) if k % 3 else None][:1 + (k % 3 > 0)])


@cases(MS, "QuickGelu", ulps=32)
def quick_gelu(r: Draw) -> Iterator[Case]:
    for shape in shapes(r, 24):
        yield Case([r.real(*shape, scale=2)], {} if r.flag() else {"alpha": float(r.pick(1.0, 1.702, -0.5))})
