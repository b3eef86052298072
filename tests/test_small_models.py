"""Models of a few operators whose interplay once went wrong, against ONNX Runtime or closed forms."""
from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import TensorProto as T
from onnx import helper
from sardonyx.runtime.compile_worker import LENGTH, receive
from sardonyx.runtime.exceptions import InvalidArgument

ort = pytest.importorskip("onnxruntime")
node = helper.make_node


def model(nodes: list, inputs: list, outputs: list, opset: int = 17, initializers: dict[str, np.ndarray] | None = None) -> bytes:
    tensors = [onnx.numpy_helper.from_array(a, k) for k, a in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 2)], ir_version=8).SerializeToString()


def info(name: str, shape: list | None, kind: int = T.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def check(source: bytes, feeds: dict[str, object]) -> None:
    want = ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, feeds)
    for g, w in zip(sardonyx.InferenceSession(source).run(None, feeds), want, strict=True):
        assert g.dtype == w.dtype and g.shape == w.shape
        if w.dtype == object:
            assert g.tolist() == w.tolist()
        else:
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


def test_a_branch_known_when_compiling_gives_its_rank_and_elements() -> None:
    then = helper.make_graph([node("Constant", [], ["t"], value_ints=[1])], "then", [], [info("t", None, T.INT64)])
    other = helper.make_graph([node("Constant", [], ["o"], value_int=5)], "else", [], [info("o", None, T.INT64)])
    wide = helper.make_graph([node("Identity", ["x"], ["w"])], "wide", [], [info("w", None)])
    flat = helper.make_graph([node("ReduceSum", ["x"], ["f"], keepdims=0)], "flat", [], [info("f", None)])
    nodes = [node("If", ["yes"], ["d"], then_branch=then, else_branch=other), node("Equal", ["d", "one"], ["same"]), node("Squeeze", ["same"], ["c"]),
             node("If", ["c"], ["h"], then_branch=wide, else_branch=flat), node("Mul", ["h", "x"], ["y"])]
    check(model(nodes, [info("x", [2, 3])], [info("y", None)], initializers={"yes": np.array(True), "one": np.array([1])}), {"x": np.ones((2, 3), np.float32)})


def test_sizes_of_elements_of_a_sequence() -> None:
    sequence = helper.make_tensor_sequence_value_info("s", T.FLOAT, None)
    sequence.type.sequence_type.elem_type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(T.FLOAT, ["a", "b"]).tensor_type.shape)
    source = model([node("SequenceAt", ["s", "k"], ["x"]), node("Shape", ["x"], ["y"])], [sequence, info("k", [], T.INT64)], [info("y", [2], T.INT64)])
    got, = sardonyx.InferenceSession(source).run(None, {"s": [np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)], "k": np.array(1)})
    assert got.tolist() == [4, 5]


def test_scan_over_numbers() -> None:
    body = helper.make_graph([node("Add", ["s", "k"], ["t"]), node("Identity", ["t"], ["u"])], "body", [info("s", []), info("k", [])], [info("t", []), info("u", [])])
    source = model([node("Scan", ["start", "x"], ["y", "z"], num_scan_inputs=1, body=body)], [info("start", []), info("x", [5])], [info("y", []), info("z", [5])])
    check(source, {"start": np.array(0, np.float32), "x": np.arange(5, dtype=np.float32)})


@pytest.mark.filterwarnings("ignore::sardonyx.runtime.session.ShapeWarning")
@pytest.mark.parametrize("axes", [[1], [0, -1], []])
def test_axes_of_unknown_number(axes: list[int]) -> None:
    source = model([node("ReduceSum", ["x", "axes"], ["y"])], [info("x", [2, 3, 4]), info("axes", ["n"], T.INT64)], [info("y", None)])
    check(source, {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "axes": np.array(axes, np.int64)})


def test_one_scale_for_all_groups() -> None:
    source = model([node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)], [info("x", [1, 4, 3]), info("s", [1]), info("b", [2])], [info("y", None)], 18)
    x = np.random.default_rng(0).standard_normal((1, 4, 3)).astype(np.float32)
    check(source, {"x": x, "s": np.array([1.5], np.float32), "b": np.array([0.5, -2], np.float32)})


def test_nearest_resize_with_aligned_corners_goes_by_the_output_size() -> None:
    attributes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "align_corners"}
    source = model([node("Resize", ["x", "", "scales"], ["y"], **attributes)], [info("x", [1, 1, 2, 4])], [info("y", None)],
                   initializers={"scales": np.array([1, 1, 0.6, 0.6], np.float32)})
    check(source, {"x": np.arange(8, dtype=np.float32).reshape(1, 1, 2, 4)})


def test_a_linear_classifier_passes_over_further_coefficients() -> None:
    c = np.random.default_rng(0).standard_normal(12).astype(np.float32).tolist()
    source = model([node("LinearClassifier", ["x"], ["l", "p"], domain="ai.onnx.ml", coefficients=c, intercepts=[0.2, 0.5, -0.9], classlabels_ints=[0, 1, 2])],
                   [info("x", [3, 2])], [info("l", None, T.INT64), info("p", None)])
    check(source, {"x": np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32)})


def test_truth_as_text_and_back() -> None:
    nodes = [node("Cast", ["x"], ["s"], to=T.STRING), node("Cast", ["s"], ["y"], to=T.INT8)]
    check(model(nodes, [info("x", [2], T.BOOL)], [info("s", [2], T.STRING), info("y", [2], T.INT8)]), {"x": np.array([True, False])})
    source = model([node("Cast", ["s"], ["y"], to=T.INT8)], [info("s", [1], T.STRING)], [info("y", [1], T.INT8)])
    with pytest.raises(InvalidArgument, match="'many'"):
        sardonyx.InferenceSession(source).run(None, {"s": np.array(["many"], object)})


def test_a_scalar_may_be_fed_as_one_element() -> None:
    check(model([node("Add", ["x", "x"], ["y"])], [info("x", [])], [info("y", [])]), {"x": np.array(2, np.float32)})
    source = model([node("Add", ["x", "x"], ["y"])], [info("x", [])], [info("y", [])])
    assert sardonyx.InferenceSession(source).run(None, {"x": np.array([2], np.float32)})[0] == 4
    with pytest.raises(InvalidArgument):
        sardonyx.InferenceSession(source).run(None, {"x": np.array([2, 3], np.float32)})


def test_routines_take_complex_numbers_whole() -> None:
    source = model([node("ScatterElements", ["x", "i", "u"], ["y"])], [info("x", [4], T.COMPLEX64), info("i", [2], T.INT64), info("u", [2], T.COMPLEX64)],
                   [info("y", [4], T.COMPLEX64)])
    x, u = np.array([1j, 2, 3, 4], np.complex64), np.array([5 - 1j, 6], np.complex64)
    assert sardonyx.InferenceSession(source).run(None, {"x": x, "i": np.array([3, 1]), "u": u})[0].tolist() == [1j, 6, 3, 5 - 1j]


def test_a_truth_without_dimensions_is_negated_first_in_a_process() -> None:
    """In a process that compiled nothing before: what Numba resolved earlier must not hide what a new kernel needs."""
    code = ("import numpy as np, sardonyx; from onnx import parser; "
            "m = parser.parse_model('<ir_version: 10, opset_import: [\"\": 21]> g (bool x) => (bool y) { y = Not(x) }'); "
            "print(sardonyx.InferenceSession(m.SerializeToString()).run(None, {'x': np.array(True)}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "SARDONYX_CACHE_DIR": "off"}, check=False)
    assert done.returncode == 0 and "False" in done.stdout, done.stderr[-500:]


def test_softmax_of_float16_rounds_as_its_function_and_does_not_overflow() -> None:
    source = model([node("Softmax", ["x"], ["y"])], [info("x", ["n", "k"], T.FLOAT16)], [info("y", ["n", "k"], T.FLOAT16)])
    session = sardonyx.InferenceSession(source)
    x = np.array([[0.25, 1.5, -3, 0.1], [5, 5, 5, 5.004]], np.float16)
    power = np.exp(x.astype(np.float32) - x.max(1, keepdims=True).astype(np.float32)).astype(np.float16).astype(np.float32)
    want = (power / power.sum(1, keepdims=True).astype(np.float16).astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], want)
    np.testing.assert_array_equal(session.run(None, {"x": np.ones((1, 70000), np.float16)})[0], np.float16(1 / 70000))


class Dripping(io.BytesIO):
    """A pipe that gives a few bytes at a time."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 7))


def test_long_messages_arrive_in_parts() -> None:
    data = pickle.dumps("x" * 1000)
    assert receive(Dripping(LENGTH.pack(len(data)) + data)) == "x" * 1000
    with pytest.raises(EOFError):
        receive(Dripping(LENGTH.pack(len(data)) + data[:-1]))


def test_the_rank_of_what_a_cast_is_like_does_not_matter() -> None:
    condition, one, two = (helper.make_tensor_value_info(n, t, s) for n, t, s in (("c", T.BOOL, []), ("x", T.INT32, [3]), ("y", T.FLOAT, [3])))
    constants = [helper.make_node("Constant", [], [n], value=helper.make_tensor(n, T.FLOAT, d, [1.0] * 2)) for n, d in (("a", [2]), ("b", [2, 1]))]
    then, other = (helper.make_graph([c], c.output[0], [], [helper.make_tensor_value_info(c.output[0], T.FLOAT, None)]) for c in constants)
    nodes = [helper.make_node("If", ["c"], ["like"], then_branch=then, else_branch=other), helper.make_node("CastLike", ["x", "like"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [condition, one], [two]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    y, = sardonyx.InferenceSession(model.SerializeToString()).run(None, {"c": np.array(True), "x": np.array([1, 2, 3], np.int32)})
    assert y.dtype == np.float32 and y.tolist() == [1, 2, 3]


def test_an_epilogue_reads_rows_that_a_concatenation_gathered() -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s, np.float32) for n, s in (("table", (50, 64)), ("scale", (16, 64)), ("w", (64, 64)))}
    weights["w"] /= 8
    nodes = [node("Unsqueeze", ["x", "last"], ["column"]), node("Mul", ["column", "scale"], ["numbers"]), node("Gather", ["table", "k"], ["words"]),
             node("Concat", ["numbers", "words"], ["all"], axis=1), node("Tanh", ["all"], ["t"]), node("MatMul", ["t", "w"], ["p"]), node("Add", ["p", "all"], ["y"])]
    source = model(nodes, [info("x", [2, 16]), info("k", [2, 4], T.INT64)], [info("y", [2, 20, 64])], initializers=weights | {"last": np.array([2])})
    check(source, {"x": rng.standard_normal((2, 16), np.float32), "k": rng.integers(0, 50, (2, 4))})


@pytest.mark.parametrize("count", [2003, 2016, 2048])
def test_tied_weights_are_in_memory_once(count: int) -> None:
    """A table that both an embedding and the product behind it read, its last panel whole or not: the embedding reads the product's panels."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((count, 160), np.float32) / 16
    nodes = [node("Gather", ["table", "k"], ["e"]), node("LayerNormalization", ["e", "one"], ["h"]), node("Transpose", ["table"], ["t"], perm=[1, 0]),
             node("MatMul", ["h", "t"], ["y"]), node("Mul", ["e", "e"], ["z"])]
    source = model(nodes, [info("k", ["n"], T.INT64)], [info("y", None), info("z", None)], initializers={"table": table, "one": np.ones(160, np.float32)})
    check(source, {"k": np.array([0, count - 1, -1, -count, count - 17, 31, 32, 33])})
    session = sardonyx.InferenceSession(source)
    assert sum(a.nbytes for a in session._model.constants) < 1.1 * table.nbytes


@pytest.mark.parametrize("length", [5, 11, 12, 13, 16])
def test_half_spectra_shorter_and_longer_than_the_signal(length: int) -> None:
    """ONNX Runtime reads outside of the spectrum where it does not fit the signal: NumPy is the reference."""
    rng = np.random.default_rng(0)
    source = model([node("DFT", ["x", "length", "one"], ["y"], inverse=1, onesided=1)], [info("x", [2, 7, 3, 2])], [info("y", None)], opset=20,
                   initializers={"length": np.array(length), "one": np.array(1)})
    x = rng.standard_normal((2, 7, 3, 2), np.float32)
    got, = sardonyx.InferenceSession(source).run(None, {"x": x})
    np.testing.assert_allclose(got[..., 0], np.fft.irfft(x[..., 0] + 1j * x[..., 1], length, axis=1), atol=7 * 4 * np.finfo(np.float32).eps)


def test_states_that_products_read_are_computed_once() -> None:
    """h = a[t] * h + b[t]; y[t] = h @ w: each state is in memory for its product, so the next one reads it there and all steps are one kernel."""
    rng = np.random.default_rng(0)
    steps, nodes, state = 12, [], "h"
    nodes += [node("Split", [k], [f"{k}{t}" for t in range(12)], axis=0, num_outputs=12) for k in "ab"]
    for t in range(steps):
        nodes += [node("Mul", [f"a{t}", state], [f"m{t}"]), node("Add", [f"m{t}", f"b{t}"], [f"h{t}"]), node("MatMul", [f"h{t}", "w"], [f"y{t}"])]
        state = f"h{t}"
    nodes.append(node("Concat", [f"y{t}" for t in range(steps)], ["y"], axis=0))
    source = model(nodes, [info("a", [steps, 8, 16]), info("b", [steps, 8, 16]), info("h", [1, 8, 16])], [info("y", None)], opset=18,
                   initializers={"w": rng.standard_normal((16, 24), np.float32)})
    check(source, {"a": rng.random((steps, 8, 16), np.float32), "b": rng.standard_normal((steps, 8, 16), np.float32), "h": rng.standard_normal((1, 8, 16), np.float32)})
    session = sardonyx.InferenceSession(source)
    assert sum("mul_add" in k for k in session._model.plan.kernels) <= 3  # offsets 0 and 1 are spelled out
