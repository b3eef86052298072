"""Cases of com.microsoft's linear attention."""
from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"
RULES = ("linear", "gated", "delta", "gated_delta")


def gate(r: Draw, *shape: int, dtype: object = np.float32) -> np.ndarray:
    """Logarithms of decays."""
    return r.uniform(-2, 0, *shape, dtype=dtype)


def keys(r: Draw, *shape: int, dtype: object = np.float32) -> np.ndarray:
    """Vectors of length 1, as the delta rule needs them."""
    x = r.real(*shape)
    return (x / np.sqrt(np.square(x).sum(-1, keepdims=True))).astype(dtype)


@cases(MS, "LinearAttention", ulps=128)
def linear_attention(r: Draw) -> Iterator[Case]:
    for k in range(36):
        rule, batch, length = RULES[k % 4], r.size(1, 3), r.size(0 if k == 17 else 1, 6)
        heads, width, values = r.size(1, 3), r.size(2, 6), r.size(1, 6)
        query_heads = heads * r.size(1, 3)
        past = r.real(batch, heads, width, values) if k % 3 else None
        decay = gate(r, batch, length, heads * (width if k // 4 % 2 else 1)) if "gated" in rule else None
        beta = r.uniform(0, 1, batch, length, r.pick(1, heads)) if "delta" in rule else None
        rest = [past, decay, beta]
        while rest and rest[-1] is None:
            rest.pop()
        yield Case([r.real(batch, length, query_heads * width), keys(r, batch, length, heads, width).reshape(batch, length, -1), r.real(batch, length, heads * values), *rest],
                   {"q_num_heads": query_heads, "kv_num_heads": heads, **({"update_rule": rule} if k % 4 < 3 else {}), **({"scale": 0.7} if k % 5 == 0 else {})}, 2)


@cases(MS, "GatedDeltaNet", ulps=512, narrow_ulps=4)
def gated_delta_net(r: Draw) -> Iterator[Case]:
    for k in range(40):
        kind, rule = (np.float32, np.float32, np.float16, ml_dtypes.bfloat16)[k // 4 % 4], RULES[(k + 3) % 4]
        heads, width, values = r.size(1, 2), r.size(2, 6), r.size(1, 6)
        value_heads, rows, packed, ragged = heads * r.size(1, 2), r.size(1, 3), k % 7 == 6, k % 3 > 0
        lengths = [r.size(3, 5) for _ in range(rows)] if ragged else [r.size(3, 5)] * rows
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        lead = [rows, lengths[0]] if not ragged and k % 2 else [int(ends[-1])]
        q, key, v = r.real(*lead, heads, width, dtype=kind), keys(r, *lead, heads, width, dtype=kind), r.real(*lead, value_heads, values, dtype=kind)
        operands: list[np.ndarray | None] = [q, key, v]
        if packed:
            operands = [np.concatenate([x.reshape(*lead, -1) for x in (q, key, v)], -1), None, None]
        gated = np.float32 if k % 2 else kind
        activation = r.pick("none", "softplus", "sigmoid") if "gated" in rule else "none"
        wide = k % 5 > 2
        decay = gate(r, *lead, value_heads, *([width] if wide else []), dtype=gated) if "gated" in rule else None
        beta = r.uniform(0, 1, *lead, value_heads, dtype=gated) if "delta" in rule else None
        bias = r.real(value_heads, width) if wide else r.real(value_heads)
        captured = k % 4 == 1 and rule != "linear"
        yield Case([*operands, ends if ragged else None, decay, beta, r.real(rows, value_heads, values, width),
                    *((r.real(value_heads), bias) if activation != "none" else (None, None)), *([np.full(rows, 3, np.int32)] if captured else [])],
                   {"update_rule": rule, "gate_activation": activation, "beta_activation": r.pick("none", "sigmoid"), "qk_l2_norm": r.flag(),
                    **({"state_update_capacity": 3} if captured else {}), **({"scale": 0.5} if k % 6 == 0 else {})}, 3 if captured else 2)
