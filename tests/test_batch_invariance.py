"""A model with a symbolic batch gives a row the same bits in every batch: one kernel serves all sizes, and each sum keeps its order."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper
from sardonyx import InferenceSession, SessionOptions

make = helper.make_node
Weights = dict[str, np.ndarray]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / np.float32(4)


def dense() -> tuple[list, list, Weights]:
    """Products of 70, 33, 1 and 300 columns, norms and softmax between them."""
    nodes = [make("MatMul", ["x", "a"], ["h"]), make("LayerNormalization", ["h", "g"], ["n"]), make("Gelu", ["n"], ["e"]), make("Gemm", ["e", "b", "c"], ["s"], transB=1),
             make("Softmax", ["s"], ["p"]), make("MatMul", ["p", "d"], ["t"]), make("MatMul", ["p", "one"], ["z"]), make("Mul", ["t", "z"], ["y"])]
    return nodes, [90], {"a": normal(1, 90, 70), "g": normal(2, 70), "b": normal(3, 33, 70), "c": normal(4, 33), "d": normal(5, 33, 300), "one": normal(6, 33, 1)}


def picture() -> tuple[list, list, Weights]:
    """Winograd's, strided, depthwise and pointwise convolutions, pooling, a dense end."""
    nodes = [make("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]), make("Conv", ["h", "b"], ["s"], strides=[2, 2], pads=[1, 1, 1, 1]), make("Relu", ["s"], ["r"]),
             make("Conv", ["r", "d"], ["w"], group=32, pads=[1, 1, 1, 1]), make("Conv", ["w", "e"], ["p"]), make("GlobalAveragePool", ["p"], ["q"]), make("Flatten", ["q"], ["f"]),
             make("MatMul", ["f", "g"], ["y"])]
    return nodes, [64, 9, 11], {"a": normal(1, 64, 64, 3, 3), "b": normal(2, 32, 64, 3, 3), "d": normal(3, 32, 1, 3, 3), "e": normal(4, 24, 32, 1, 1), "g": normal(5, 24, 10)}


def attention() -> tuple[list, list, Weights]:
    """Two heads over 19 positions."""
    nodes = [make("MatMul", ["x", "a"], ["q"]), make("MatMul", ["x", "b"], ["k"]), make("MatMul", ["x", "c"], ["v"]), make("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2)]
    return nodes, [19, 48], {"a": normal(1, 48, 32), "b": normal(2, 48, 32), "c": normal(3, 48, 32)}


def recurrent() -> tuple[list, list, Weights]:
    """An LSTM over 7 steps, the batch its second axis."""
    nodes = [make("Transpose", ["x"], ["t"], perm=[1, 0, 2]), make("LSTM", ["t", "w", "r"], ["s", "h", "c"], hidden_size=20), make("Squeeze", ["h", "zero"], ["y"])]
    return nodes, [7, 24], {"w": normal(1, 1, 80, 24), "r": normal(2, 1, 80, 20), "zero": np.zeros(1, np.int64)}


def wide_recurrent() -> tuple[list, list, Weights]:
    """A GRU of more than one panel of columns."""
    nodes = [make("Transpose", ["x"], ["t"], perm=[1, 0, 2]), make("GRU", ["t", "w", "r"], ["s", "h"], hidden_size=140), make("Squeeze", ["h", "zero"], ["y"])]
    return nodes, [4, 24], {"w": normal(1, 1, 420, 24), "r": normal(2, 1, 420, 140), "zero": np.zeros(1, np.int64)}


def session_of(build: Callable[[], tuple[list, list, Weights]], threads: int) -> tuple[InferenceSession, Sequence[int]]:
    nodes, shape, weights = build()
    tensors = [onnx.numpy_helper.from_array(a, k) for k, a in weights.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", T.FLOAT, ["batch", *shape])], [helper.make_tensor_value_info("y", T.FLOAT, None)], tensors)
    options = SessionOptions()
    options.intra_op_num_threads = threads
    return InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11).SerializeToString(), options), shape


@pytest.mark.parametrize("build", [dense, picture, attention, recurrent, wide_recurrent])
def test_rows_do_not_depend_on_their_batch(build: Callable[[], tuple[list, list, Weights]]) -> None:
    alone, shape = session_of(build, 1)
    together, _ = session_of(build, 3)
    x = normal(9, 140, *shape)
    whole = np.asarray(together.run(None, {"x": x})[0])
    assert whole.shape[0] == 140 and np.isfinite(whole).all() and len(np.unique(whole)) > 140
    for first, last in ((0, 1), (139, 140), (3, 5), (6, 13), (1, 68), (12, 140)):
        np.testing.assert_array_equal(alone.run(None, {"x": x[first:last]})[0], whole[first:last])
