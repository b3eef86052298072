"""Cases of the mixtures of experts of com.microsoft."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


def settings(r: Draw, k: int, experts: int) -> tuple[dict[str, object], int]:
    """(attributes, rows of the first layer for each of its results)."""
    kind = ("relu", "gelu", "silu", "swiglu", "identity")[k % 5]
    found: dict[str, object] = {"k": r.size(1, experts), "activation_type": kind, "normalize_routing_weights": r.flag()}
    if kind == "swiglu":
        found |= {"swiglu_fusion": 1} | ({"activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": r.pick(0.7, 7.0)} if r.flag() else {})
    return found, 2 if kind == "swiglu" else 1


@cases(MS, "MoE", ulps=64)
def moe(r: Draw) -> Iterator[Case]:
    for k in range(30):
        lead, experts, width, inner = (r.size(1, 6),) if k % 3 else (r.size(1, 3), r.size(1, 4)), r.size(1, 5), r.size(1, 20), r.size(1, 20)
        attributes, fused = settings(r, k, experts)
        biases = [r.real(experts, fused * inner), r.real(experts, width)] if k % 4 else [None, None]
        yield Case([r.real(*lead, width), r.real(int(np.prod(lead)), experts), r.real(experts, fused * inner, width, scale=0.5), biases[0],
                    r.real(experts, width, inner, scale=0.5), *biases[1:]], attributes, constants=(2, 4) if k % 2 else ())
