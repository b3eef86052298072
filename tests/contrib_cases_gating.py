"""Cases of the gates and branch mixing of com.microsoft."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases, shapes

MS = "com.microsoft"
HALVES = (np.float32, np.float16)


@cases(MS, "SampleOp")
def sample_op(r: Draw) -> Iterator[Case]:
    for shape in shapes(r, 20):
        yield Case([r.real(*shape)])


@cases(MS, "ScaledSiLU")
def scaled_silu(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 24)):
        scale = [r.uniform(0.5, 2.0, *(() if k % 6 else (1,)), dtype=r.pick(*HALVES))] if k % 3 == 0 else []
        yield Case([r.real(*shape, dtype=HALVES[k // 2 % 2]), *scale], {"alpha": r.pick(1.0, 1.702, -0.5)} if k % 2 else {})


@cases(MS, "GatedAdd")
def gated_add(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 24)):
        kind = HALVES[k // 2 % 2]
        yield Case([r.real(*shape, dtype=kind), r.real(*shape, dtype=kind), r.real(*shape[:-1], 1, dtype=kind)])


@cases(MS, "GatedRMSNorm")
def gated_rms_norm(r: Draw) -> Iterator[Case]:
    for k, (*lead, width) in enumerate(shapes(r, 28)):
        kind, groups = HALVES[k // 2 % 2], r.size(1, 3)
        width = max(width, 1)
        shape = (*lead, width * groups)
        attributes = {} if k % 3 == 0 else {"activation": r.pick("silu", "swish", "sigmoid"), "epsilon": r.pick(1e-5, 0.1)}
        yield Case([r.real(*shape, dtype=kind), r.real(width, dtype=kind), r.real(*shape, dtype=kind)], attributes)


@cases(MS, "BranchwiseRMSNorm")
def branchwise_rms_norm(r: Draw) -> Iterator[Case]:
    for k, lead in enumerate(shapes(r, 28, 1, 2)):
        kind, count, width, flat = HALVES[k // 2 % 2], r.size(1, 4), r.size(2, 9), k % 3 == 0
        shape = (*lead, count * width) if flat else (*lead, count, width)
        scale = r.pick(None, (count * width,), (count, width), (width,))
        yield Case([r.real(*shape, dtype=kind), *([] if scale is None else [r.real(*scale, dtype=r.pick(*HALVES))])],
                   ({"num_branches": count} if flat else {}) | ({"epsilon": 0.01} if k % 4 == 0 else {}))


@cases(MS, "HyperConnectionPreMix")
def hyper_connection_pre_mix(r: Draw) -> Iterator[Case]:
    for k, lead in enumerate(shapes(r, 28, 1, 2)):
        kind, count, width, flat = HALVES[k // 2 % 2], r.size(1, 4), r.size(2, 9), k % 3 == 0
        shape = (*lead, count * width) if flat else (*lead, count, width)
        mixes = [(count,), (count, 1), (count, width), (count * width,)]
        mix = mixes[k % (4 if flat else 3)]
        yield Case([r.real(*shape, dtype=kind), r.real(*lead, *mix, dtype=r.pick(*HALVES))], ({"num_branches": count} if flat else {}) | ({"reduction_scale": 0.3} if k % 4 == 0 else {}))


@cases(MS, "HyperConnectionPostMix")
def hyper_connection_post_mix(r: Draw) -> Iterator[Case]:
    for k, lead in enumerate(shapes(r, 28, 1, 2)):
        kind, mixed, count, width, flat = HALVES[k // 2 % 2], r.pick(*HALVES), r.size(1, 4), r.size(2, 9), k % 3 == 0
        shape = (*lead, count * width) if flat else (*lead, count, width)
        mix = [(count,), (count, 1), (count, width)][k % 3]
        stream = [r.real(*lead, count, count, dtype=mixed)] if r.flag() else []
        yield Case([r.real(*shape, dtype=kind), r.real(*lead, width, dtype=kind), r.real(*lead, *mix, dtype=mixed), *stream], {"num_branches": count} if flat else {})


@cases(MS, "LinearAttentionGate")
def linear_attention_gate(r: Draw) -> Iterator[Case]:
    for k in range(24):
        b, t, h, kind = r.size(1, 3), r.size(0 if k % 5 == 0 else 1, 6), r.size(1, 9), HALVES[k // 2 % 2]
        both = k % 3 > 0
        rest = [r.real(b, t, h, dtype=kind)] if both else []
        yield Case([r.real(b, t, h, dtype=kind, scale=4), r.real(h), r.real(h), *rest], {}, 2 if both else 1)


@cases(MS, "EngramGate")
def engram_gate(r: Draw) -> Iterator[Case]:
    for k in range(24):
        b, s, m, h, kind = r.size(1, 3), r.size(0 if k % 5 == 0 else 1, 5), r.size(1, 4), r.size(2, 17), HALVES[k // 2 % 2]
        normed = k % 3 > 0
        rest = [r.real(m, h, dtype=kind)] if normed else []
        yield Case([r.real(b, s, m, h, dtype=kind), r.real(b, s, m, h, dtype=kind), r.real(b, s, h, dtype=kind), r.real(m, h, dtype=kind), r.real(m, h, dtype=kind), *rest],
                   {"epsilon": 0.01} if k % 4 == 0 else {}, 2 if normed else 1)
