"""ai.onnx.preview.training: optimisers against ONNX's reference evaluator, Gradient against closed forms."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import TensorProto, helper
from operator_harness import equal, interpret, oracle, sample_graph
from sardonyx.ir.ops.base import all_ops
from sardonyx.runtime.exceptions import InvalidGraph, NotImplemented

DOMAIN = "ai.onnx.preview.training"
OPTIMISERS = [o for o in all_ops() if o.domain == DOMAIN]


@pytest.mark.parametrize("op", OPTIMISERS, ids=lambda o: o.name)
def test_optimisers(op) -> None:
    count = 0
    for s in op.samples():
        graph, feeds, _ = sample_graph(op, s)
        for got, want in zip(interpret(graph, feeds), oracle(op, s), strict=True):
            assert got.dtype == s.inputs[2].dtype
            tolerance = 1e-12 if got.dtype == np.float64 else 1e-5
            equal(got, want.astype(got.dtype), tolerance, tolerance)  # the evaluator widens some single results
            count += 1
    assert count >= 10


def session(nodes: list, inputs: dict[str, list], outputs: list[str], kind: int = TensorProto.DOUBLE) -> sardonyx.InferenceSession:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(k, kind, s) for k, s in inputs.items()], [onnx.ValueInfoProto(name=o) for o in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)], ir_version=8)
    return sardonyx.InferenceSession(model.SerializeToString())


def gradient(inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Gradient", inputs, outputs, "ask", domain=DOMAIN, **attributes)


A, B = np.linspace(0.5, 2, 6).reshape(2, 3), np.linspace(-1, 1, 12).reshape(3, 4)


def test_gradient_through_a_product_and_broadcasting() -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["h"]), helper.make_node("Exp", ["h"], ["y"]), gradient(["a", "b"], ["da", "db"], xs=["a", "b"], y="y")]
    da, db = session(nodes, {"a": [2, 3], "b": [3, "n"]}, ["da", "db"]).run(None, {"a": A, "b": B})
    np.testing.assert_allclose(da, np.exp(A @ B) @ B.T, rtol=1e-12)
    np.testing.assert_allclose(db, A.T @ np.exp(A @ B), rtol=1e-12)


def test_gradient_of_intermediates_and_skipped_outputs() -> None:
    nodes = [helper.make_node("Mul", ["a", "a"], ["h"]), helper.make_node("Mul", ["h", "a"], ["y"]), gradient(["h", "a"], ["", "da"], xs=["h", "a"], y="y"),
             gradient(["h"], ["dh"], xs=["h"], y="y")]
    da, dh = session(nodes, {"a": [2, 3]}, ["da", "dh"]).run(None, {"a": A})
    np.testing.assert_allclose(da, A * A, rtol=1e-12)  # h is held fixed
    np.testing.assert_allclose(dh, A, rtol=1e-12)


def test_gradient_at_other_values() -> None:
    nodes = [helper.make_node("Mul", ["a", "a"], ["h"]), helper.make_node("Mul", ["h", "z"], ["y"]), gradient(["b", "z2"], ["da"], xs=["a"], zs=["z"], y="y")]
    shapes = {k: [2, 3] for k in ("a", "b", "z", "z2")}
    da, = session(nodes, shapes, ["da"]).run(None, {"a": A, "b": A + 1, "z": A, "z2": A + 3})
    np.testing.assert_allclose(da, 2 * (A + 1) * (A + 3), rtol=1e-12)


def test_gradient_of_gradient_and_of_independent_values() -> None:
    nodes = [helper.make_node("Mul", ["a", "a"], ["h"]), helper.make_node("Mul", ["h", "a"], ["y"]), gradient(["a"], ["d1"], xs=["a"], y="y"),
             gradient(["a", "b"], ["d2", "d0"], xs=["a", "b"], y="d1")]
    d2, d0 = session(nodes, {"a": [2, 3], "b": [3, 4]}, ["d2", "d0"]).run(None, {"a": A, "b": B})
    np.testing.assert_allclose(d2, 6 * A, rtol=1e-12)
    assert d0.shape == B.shape and not d0.any()


def test_gradient_refuses() -> None:
    with pytest.raises(NotImplemented, match="no gradient"):
        session([helper.make_node("Det", ["a"], ["y"]), gradient(["a"], ["da"], xs=["a"], y="y")], {"a": [3, 3]}, ["da"])
    with pytest.raises(InvalidGraph, match="attribute 'y' of Gradient-1 is missing"):
        session([helper.make_node("Exp", ["a"], ["y"]), gradient(["a"], ["da"], xs=["a"])], {"a": [3, 3]}, ["da"])
    with pytest.raises(InvalidGraph, match="2 tensors in xs and zs and has 1 inputs"):
        session([helper.make_node("Mul", ["a", "a"], ["y"]), gradient(["a"], ["da"], xs=["a", "a"], y="y")], {"a": [3, 3]}, ["da"])
