"""Attention as one kernel: against NumPy in float64, and that it is one kernel where it should be."""
from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import sardonyx  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402


def model(batch: object, heads: int, queries: object, keys: object, width: int, values: int, mask: tuple[object, ...] | None) -> bytes:
    """softmax(q k' + mask) v with k transposed by a node, heads joined behind it."""
    inputs = [("q", (batch, heads, queries, width)), ("k", (batch, heads, keys, width)), ("v", (batch, heads, keys, values))]
    nodes = [helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]), helper.make_node("MatMul", ["q", "kt"], ["s"])]
    if mask is not None:
        inputs.append(("m", mask))
        nodes.append(helper.make_node("Add", ["s", "m"], ["s2"]))
    nodes += [helper.make_node("Softmax", ["s2" if mask is not None else "s"], ["p"], axis=-1), helper.make_node("MatMul", ["p", "v"], ["o"]),
              helper.make_node("Transpose", ["o"], ["y"], perm=[0, 2, 1, 3])]
    graph = helper.make_graph(nodes, "attention", [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, queries, heads, values])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def expected(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    s = q.astype(np.float64) @ k.astype(np.float64).swapaxes(2, 3)
    if mask is not None:
        s = s + mask
    with np.errstate(invalid="ignore"):
        e = np.exp(s - s.max(-1, keepdims=True))
        return (e / e.sum(-1, keepdims=True) @ v.astype(np.float64)).transpose(0, 2, 1, 3)


def kernels(session: sardonyx.InferenceSession) -> set[str]:
    return {name.split("_")[0] for name in session._model.plan.kernels}


def check(batch: int, heads: int, queries: int, keys: int, width: int, values: int, masked: bool = False, symbolic: bool = False, threads: int = 1) -> sardonyx.InferenceSession:
    rng = np.random.default_rng(queries * 1000 + keys)
    q, k = ((rng.standard_normal((batch, heads, n, width)) / width ** 0.25).astype(np.float32) for n in (queries, keys))
    v = rng.standard_normal((batch, heads, keys, values)).astype(np.float32)
    mask = np.where(rng.random((batch, 1, queries, keys)) < 0.3, -np.inf, rng.standard_normal((batch, 1, queries, keys))).astype(np.float32) if masked else None
    if mask is not None:
        mask[..., 0] = 0  # every query has a key
    names = ("B", "Q", "K") if symbolic else (batch, queries, keys)
    options = sardonyx.SessionOptions()
    options.intra_op_num_threads = threads
    session = sardonyx.InferenceSession(model(names[0], heads, names[1], names[2], width, values, None if mask is None else (names[0], 1, names[1], names[2])), options)
    feeds = {"q": q, "k": k, "v": v} | ({} if mask is None else {"m": mask})
    y, = session.run(None, feeds)
    bound = (width + keys + 16) * np.finfo(np.float32).eps * np.abs(v).max()
    np.testing.assert_allclose(y, expected(q, k, v, mask), rtol=0, atol=bound)
    return session


@pytest.mark.parametrize("queries", (5, 6, 7, 13, 129, 300))
@pytest.mark.parametrize("keys", (16, 17, 63, 64, 65, 257))
def test_sizes(queries: int, keys: int) -> None:
    assert "attention" in kernels(check(2, 3, queries, keys, 40, 24))


@pytest.mark.parametrize("width", (2, 8, 64, 100))
@pytest.mark.parametrize("values", (16, 17, 64, 130))
def test_widths(width: int, values: int) -> None:
    assert "attention" in kernels(check(1, 2, 33, 50, width, values, masked=True))


@pytest.mark.parametrize("threads", (1, 2))
def test_masks_and_symbolic_sizes(threads: int) -> None:
    for queries, keys in ((1, 1), (3, 20), (70, 5), (130, 200)):
        session = check(2, 2, queries, keys, 32, 32, masked=True, symbolic=True, threads=threads)
        assert "attention" in kernels(session)


def test_few_queries_and_narrow_values_keep_their_own_kernels() -> None:
    assert "attention" not in kernels(check(1, 2, 1, 64, 32, 32))
    assert "attention" not in kernels(check(1, 2, 30, 64, 32, 3))


def test_a_row_without_keys_is_nan_as_softmax_says() -> None:
    q = k = v = np.ones((1, 1, 8, 16), np.float32)
    mask = np.zeros((1, 1, 8, 8), np.float32)
    mask[0, 0, 3] = -np.inf
    session = sardonyx.InferenceSession(model(1, 1, 8, 8, 16, 16, (1, 1, 8, 8)))
    y, = session.run(None, {"q": q, "k": k, "v": v, "m": mask})
    assert np.isnan(y[0, 3]).all()
    assert not np.isnan(np.delete(y, 3, axis=1)).any()


def test_results_do_not_depend_on_threads() -> None:
    runs = []
    for threads in (1, 2):
        options = sardonyx.SessionOptions()
        options.intra_op_num_threads = threads
        rng = np.random.default_rng(0)
        feeds = {n: rng.standard_normal((2, 4, 150, 64)).astype(np.float32) for n in "qkv"}
        runs.append(sardonyx.InferenceSession(model(2, 4, 150, 150, 64, 64, None), options).run(None, feeds)[0])
    assert np.array_equal(*runs)


def test_projections_of_sequences_of_any_length_stay_row_major() -> None:
    """Heads lie side by side in one dimension there, which is not a window that slides over it."""
    from sardonyx.compiler import pipeline
    from sardonyx.compiler.importer import import_model

    inputs = [("x", ["batch", "length", 16]), ("past", [2, "batch", 2, "past", 8])]
    weights = [onnx.numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in (("w", (16, 48)), ("b", (48,)))]
    node = helper.make_node("Attention", ["x", "w", "b", "", "past"], ["y", "present"], domain="com.microsoft", num_heads=2, unidirectional=1)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "present")], weights)
    built = import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8))
    options = pipeline.Options()
    pipeline.optimise(built, options)
    assert not pipeline.lower_and_fuse(built, options).layouts
