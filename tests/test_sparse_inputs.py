"""Sparse tensors as inputs, held against ONNX Runtime: SparseToDenseMatMul takes nothing else there."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

ort = pytest.importorskip("onnxruntime")

import sardonyx  # noqa: E402


def product(dtype: type, attributes: dict[str, object], dynamic: bool) -> bytes:
    kind = int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    sizes = {"a": ["m", "k"] if dynamic else [5, 4], "b": ["p", "q"] if dynamic else None}
    a = onnx.ValueInfoProto(name="a", type=helper.make_sparse_tensor_type_proto(kind, sizes["a"]))
    inputs = [a, helper.make_tensor_value_info("b", kind, sizes["b"] or [None, None])]
    node = helper.make_node("SparseToDenseMatMul", ["a", "b"], ["y"], "node", domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", kind, [None, None])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10).SerializeToString()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint32, np.uint64])
def test_sparse_products(dtype: type) -> None:
    rng = np.random.default_rng(4)
    ort.set_default_logger_severity(4)
    compared = 0
    for case in range(4):
        turned_a, turned_b = case % 2, case // 2
        attributes = {"transA": turned_a, "transB": turned_b} | ({"alpha": 2.0} if case else {})
        dense = np.where(rng.random((5, 4)) < 0.4, rng.integers(1, 9, (5, 4)), 0).astype(dtype)
        inner = dense.shape[0 if turned_a else 1]
        b = rng.integers(0, 9, (3, inner) if turned_b else (inner, 3)).astype(dtype)
        at = np.ascontiguousarray(np.argwhere(dense))
        model = product(dtype, attributes, bool(case % 2))
        session = sardonyx.InferenceSession(model)
        sparse = sardonyx.SparseTensor.sparse_coo_from_numpy(dense.shape, dense[tuple(at.T)], at)
        got = session.run_with_ort_values(["y"], {"a": sardonyx.OrtValue.ort_value_from_sparse_tensor(sparse), "b": sardonyx.OrtValue.ortvalue_from_numpy(b)})[0].numpy()
        np.testing.assert_array_equal(got, session.run(None, {"a": sparse, "b": b})[0])
        np.testing.assert_array_equal(got, (dense.T if turned_a else dense) @ (b.T if turned_b else b) * dtype(attributes.get("alpha", 1)))
        theirs = ort.SparseTensor.sparse_coo_from_numpy(np.array(dense.shape, np.int64), dense[tuple(at.T)], at, ort.OrtDevice.make("cpu", 0))
        values = {"a": ort.OrtValue.ort_value_from_sparse_tensor(theirs), "b": ort.OrtValue.ortvalue_from_numpy(b)}
        plain = product(dtype, {**attributes, "alpha": 1.0}, bool(case % 2))  # its kernel does not look at alpha
        want = ort.InferenceSession(plain, providers=["CPUExecutionProvider"]).run_with_ort_values(["y"], values)[0].numpy()
        np.testing.assert_array_equal(got, want * dtype(attributes.get("alpha", 1)))
        compared += 1
    assert compared == 4
