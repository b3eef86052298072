"""Which dimension of a convolution's input is taken for its channels."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import helper
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.layout import channels_last
from sardonyx.compiler.pipeline import Options, lower_and_fuse, optimise
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.expr import Tensor
from sardonyx.ir.loops import ContractionNest, Store
from sardonyx.ir.plan import KernelStep

N, X, O, C, K = ex.axis(2, "n"), ex.axis(10, "x"), ex.axis(8, "o"), ex.axis(16, "c"), ex.axis(3, "k")


def tensor(name: str, *shape: int) -> Tensor:
    return Tensor(name, dt.float32, tuple(map(ex.const, shape)))


@pytest.mark.parametrize("shape,index,order", [((2, 16, 12), (N, C, X + K), (0, 2, 1)), ((2, 12, 16), (N, X + K, C), (0, 1, 2)), ((16, 2, 12), (C, N, X + K), (1, 2, 0))])
def test_channels_are_what_sums_alone_walk(shape: tuple[int, ...], index: tuple[ex.Expr, ...], order: tuple[int, ...]) -> None:
    w, y = tensor("w", 8, 16, 3), tensor("y", 2, 8, 10)
    load = ex.load(tensor("x", *shape), index)
    nest = ContractionNest((), (N, X), (O,), (C, K), load, w[O, C, K], dt.float32, (Store(y, (N, O, X), ex.acc(dt.float32)),))
    assert channels_last(nest, load) == order


def test_channels_of_a_depthwise_convolution() -> None:
    """No sum walks them."""
    load = ex.load(tensor("x", 2, 16, 12), (N, C, X + K))
    nest = ContractionNest((C,), (N, X), (), (K,), load, tensor("w", 16, 3)[C, K], dt.float32, (Store(tensor("y", 2, 16, 10), (N, C, X), ex.acc(dt.float32)),))
    assert channels_last(nest, load) == (0, 2, 1)


def test_a_transposed_activation_is_convolved_as_it_lies() -> None:
    """The transposition becomes part of the convolution's read, and nothing is copied between the two."""
    rng = np.random.default_rng(3)
    w, x = rng.standard_normal((24, 32, 5)).astype(np.float32), rng.standard_normal((1, 40, 32)).astype(np.float32)
    nodes = [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Transpose", ["t"], ["u"], perm=[0, 2, 1]), helper.make_node("Conv", ["u", "w"], ["y"])]
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", [1, 40, 32]), ("y", [1, 24, 36]))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [onnx.numpy_helper.from_array(w, "w")])
    session = sardonyx.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    plan = session._model.plan
    kinds = [plan.kernels[s.kernel].split("_")[:2] for s in plan.steps if isinstance(s, KernelStep)]
    assert kinds[0] == ["map", "tanh"] and kinds[1][0] in ("product", "convolution")
    t = np.tanh(x.astype(np.float64))
    expected = sum(np.einsum("xc,oc->ox", t[0, k:k + 36], w[:, :, k]) for k in range(5))
    np.testing.assert_allclose(session.run(None, {"x": x})[0][0], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("perm,order", [((0, 2, 3, 1), (0, 1, 3, 2)), ((0, 2, 1, 3), None)])
def test_keys_lie_along_their_sums(perm: tuple[int, ...], order: tuple[int, ...] | None) -> None:
    """A projection whose result is transposed and scaled is written along its columns, which the product that reads it sums over."""
    rng = np.random.default_rng(3)
    x, w, q = (rng.standard_normal(s).astype(np.float32) for s in ((2, 20, 24), (24, 32), (2, 4, 20, 8)))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Reshape", ["p", "s"], ["r"]), helper.make_node("Transpose", ["r"], ["t"], perm=perm),
             helper.make_node("Mul", ["t", "c"], ["k"]), helper.make_node("MatMul", ["q", "k"] if order else ["k", "v"], ["y"])]
    v = rng.standard_normal((2, 4, 8, 20)).astype(np.float32)
    inputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, a.shape) for n, a in (("x", x), ("q", q), ("v", v))]
    constants = [onnx.numpy_helper.from_array(a, n) for n, a in (("w", w), ("s", np.array([2, 20, 4, 8])), ("c", np.float32(0.5)))]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (2, 4, 20, 20))], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    imported = import_model(model)
    optimise(imported, Options())
    assert list(lower_and_fuse(imported, Options()).layouts.values()) == ([order] if order else [])
    k = (x.astype(np.float64) @ w).reshape(2, 20, 4, 8).transpose(perm) * 0.5
    got, = sardonyx.InferenceSession(model.SerializeToString()).run(None, {"x": x, "q": q, "v": v})
    np.testing.assert_allclose(got, q @ k if order else k @ v, rtol=1e-5, atol=1e-4)
