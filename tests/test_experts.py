"""Mixtures of experts in the forms that ONNX Runtime's CPU kernels do not take: gate and linear part apart, or one after the other."""
from __future__ import annotations

import numpy as np
import pytest
from contrib_cases import Case, Family, by_sardonyx
from sardonyx.runtime.exceptions import InvalidGraph, NotImplemented

MOE = Family("com.microsoft", "MoE", lambda r: iter(()))


def run(inputs: list[np.ndarray | None], **attributes: object) -> np.ndarray:
    return by_sardonyx(MOE, Case(inputs, {"k": 2, "activation_type": "swiglu", "swiglu_limit": 1.0, **attributes}), False)[0]


def operands() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(s).astype(np.float32) for s in ((5, 6), (5, 4), (4, 8, 6), (4, 8), (4, 8, 6), (4, 8), (4, 6, 8)))


def test_the_three_layouts_of_swiglu_agree() -> None:
    x, router, gate, gate_bias, linear, linear_bias, last = operands()
    pairs = [np.stack(p, 2).reshape(4, 16, -1) for p in ((gate, linear), (gate_bias[..., None], linear_bias[..., None]))]
    want = run([x, router, pairs[0], pairs[1][..., 0], last], swiglu_fusion=1)
    halves = run([x, router, np.concatenate([gate, linear], 1), np.concatenate([gate_bias, linear_bias], 1), last], swiglu_fusion=2)
    apart = run([x, router, gate, gate_bias, last, None, linear, linear_bias])
    np.testing.assert_allclose(halves, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(apart, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attributes, error, text", [({"k": 5, "activation_type": "relu"}, InvalidGraph, "k = 5 of 4 experts"), ({"activation_type": "relu2"}, InvalidGraph, "'relu2' is unknown"),
                                                     ({}, InvalidGraph, "third layer are missing"), ({"use_sparse_mixer": 1}, NotImplemented, "use_sparse_mixer")])
def test_refusals_name_the_node(attributes: dict[str, object], error: type[Exception], text: str) -> None:
    x, router, gate, gate_bias, _, _, last = operands()
    with pytest.raises(error, match=text) as caught:
        run([x, router, gate, gate_bias, last], **attributes)
    assert "'node' (com.microsoft::MoE)" in str(caught.value)
