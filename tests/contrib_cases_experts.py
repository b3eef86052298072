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


def coded_layer(r: Draw, experts: int, rows: int, columns: int, bits: int, block: int, shifted: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Codes, scales and zero points of a layer; of whole rows if `block` is 0."""
    lead = (experts, rows, columns // block) if block else (experts, rows)
    codes, scales = r.codes(np.uint8, experts, rows, columns * bits // 8), r.scale(*lead) * np.float32(16 / 2 ** bits)
    return codes, scales, r.codes(np.uint8, *lead[:-1], -(-lead[-1] * bits // 8)) if shifted else None


@cases(MS, "QMoE", ulps=64)
def qmoe(r: Draw) -> Iterator[Case]:
    # ONNX Runtime rounds activations to 8 bits where the weights are constants of 8 bits in blocks: those are inputs here.
    for k in range(32):
        bits, block, experts, tokens = (4, 8)[k % 2], (0, 16, 32)[k // 2 % 3], r.size(1, 4), r.size(1, 5)
        width, inner = 32 * r.size(1, 2), 32 * r.size(1, 2)
        attributes, fused = settings(r, k, experts)
        first, second = (coded_layer(r, experts, *size, bits, block, k % 3 == 0) for size in ((fused * inner, width), (width, inner)))
        biases = [r.real(experts, fused * inner), r.real(experts, width)] if k % 4 else [None, None]
        inputs = [r.real(tokens, width), r.real(tokens, experts), *first[:2], biases[0], *second[:2], biases[1], None, None, None, first[2], second[2]]
        if k % 5 in (1, 3):
            inputs += [None, r.uniform(0.1, 1.0, tokens, experts)]
        yield Case(inputs, attributes | {"expert_weight_bits": bits} | ({"block_size": block} if block else {}), constants=(2, 3, 5, 6) if k % 4 < 2 and not (bits == 8 and block) else ())
