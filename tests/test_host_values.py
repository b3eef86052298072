"""Sequences and optionals through control flow, against ONNX's own definition and ONNX Runtime."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import helper, parser
from onnx.reference import ReferenceEvaluator
from sardonyx.runtime.package import save_package

HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
GATHER = """g (int64 m, optional(seq(float[n])) s, float[k] x) => (seq(float[j]) y) {
   y = Loop (m, , s) <body = b (int64 i, bool ci, optional(seq(float[a])) v) => (bool co, seq(float[c]) w) {
      has = OptionalHasElement(v)
      old = If (has) <then_branch = t () => (seq(float[d]) tv) { tv = OptionalGetElement(v) },
                      else_branch = f () => (seq(float[e]) fv) { fv = SequenceConstruct(x) }>
      w = SequenceInsert(old, x)
      co = Identity(ci)
   }>
}"""


@pytest.mark.parametrize("given", [None, [], [np.ones(2, np.float32)]])
def test_an_optional_goes_round_a_loop_and_comes_out_as_what_it_holds(given: list[np.ndarray] | None) -> None:
    x = np.arange(4, dtype=np.float32)
    got, = sardonyx.InferenceSession(parser.parse_model(HEAD + GATHER).SerializeToString()).run(None, {"m": np.array(3), "s": given, "x": x})
    assert [a.tolist() for a in got] == [a.tolist() for a in [*([x] if given is None else given), x, x, x]]


SHIFTED = """g (int64 m, float[n, 3] x, float[3] s) => (float[k, 2, 3] y) {
   yes = Constant<value = bool {1}>()
   y = Loop (m, yes) <body = b (int64[1] i, bool ci) => (bool co, float[2, p] w) {
      one = Constant<value_ints = [1]>()
      next = Add(i, one)
      axis = Constant<value_ints = [0]>()
      row = Slice(x, i, next, axis)
      two = Concat<axis = 0>(row, row)
      w = Add(two, s)
      ten = Constant<value_int = 10>()
      under = Less(i, ten)
      last = And(under, ci)
      co = Squeeze(last)
   }>
}"""


@pytest.mark.parametrize("level", [sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL, sardonyx.GraphOptimizationLevel.ORT_ENABLE_ALL])
def test_a_body_may_take_the_iteration_as_one_element(level: Any) -> None:
    """What is sliced has as many axes as `axes` says, though the lengths of starts and ends are only known when running."""
    ort = pytest.importorskip("onnxruntime")
    source = parser.parse_model(HEAD + SHIFTED).SerializeToString()
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = level
    feeds = {"m": np.array(4), "x": np.arange(15, dtype=np.float32).reshape(5, 3), "s": np.ones(3, np.float32)}
    got, = sardonyx.InferenceSession(source, options).run(None, feeds)
    want, = ort.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_array_equal(got, want)


SPLIT_STARTS = """g (float[n, 4] x, int64[2] k, int64 i) => (float[a, b] y) {
   zero = Constant<value_ints = [0]>()
   flat = Reshape(i, zero_d)
   j = Add(i, one)
   after = Reshape(j, zero_d)
   first = Slice(k, flat, after)
   more = Add(first, first)
   axis = Constant<value_ints = [1]>()
   y = Slice(x, first, more, axis)
}"""


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_starts_of_a_length_that_only_the_run_knows(kind: str) -> None:
    nodes = SPLIT_STARTS.replace("   zero = ", "   one = Constant<value_int = 1>()\n   zero_d = Constant<value_ints = [1]>()\n   zero = ")
    nodes = nodes.replace("int64[2] k", f"{kind}[2] k").replace("value_ints = [1]>()\n   y", f"value = {kind}[1] {{1}}>()\n   y")
    x, k = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([1, 2], kind)
    model = onnx.parser.parse_model(HEAD + nodes)
    session = sardonyx.InferenceSession(model.SerializeToString())
    for i in (0, 1):
        feeds = {"x": x, "k": k, "i": np.array(i)}
        np.testing.assert_array_equal(session.run(None, feeds)[0], ReferenceEvaluator(model).run(None, feeds)[0])


def test_strings_between_arrays_serve_every_run() -> None:
    """Inputs and outputs that are arrays take the short way from the second run on; host values inside have their places there too."""
    numbers, encoded = helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["n"]), helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["n"])
    nodes = [helper.make_node("Cast", ["x"], ["s"], to=onnx.TensorProto.STRING),
             helper.make_node("LabelEncoder", ["s"], ["z"], domain="ai.onnx.ml", keys_strings=["1", "2"], values_int64s=[10, 20]), helper.make_node("Mul", ["z", "z"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [numbers], [encoded]), opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 4)])
    session = sardonyx.InferenceSession(model)
    for x in ([1, 2, 1], [2, 2, 2], [1]):
        np.testing.assert_array_equal(session.run(None, {"x": np.array(x)})[0], [{1: 100, 2: 400}[v] for v in x])


MIXED = """<ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 3]>
g (float[n, 2] x) => (seq(map(int64, float)) first, float[n, 2] doubled, string[n, 2] texts, float[n, 2] shifted) {
   doubled = Add(x, x)
   first = ai.onnx.ml.ZipMap<classlabels_int64s = [7, 8]>(doubled)
   texts = Cast<to = 8>(x)
   one = Constant<value_float = 1.0>()
   shifted = Add(x, one)
}"""


def test_outputs_of_every_sort_keep_their_order() -> None:
    session = sardonyx.InferenceSession(parser.parse_model(MIXED).SerializeToString())
    for rows in (1, 3, 3, 0):
        x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
        first, doubled, texts, shifted = session.run(None, {"x": x})
        assert first == [{7: 2 * a, 8: 2 * b} for a, b in x.tolist()]
        assert texts.tolist() == [[f"{v:g}" for v in row] for row in x.tolist()]
        np.testing.assert_array_equal(doubled, 2 * x)
        np.testing.assert_array_equal(shifted, x + 1)
    last = session.run(["shifted", "first"], {"x": np.zeros((1, 2), np.float32)})
    assert last[0].tolist() == [[1, 1]] and last[1] == [{7: 0, 8: 0}]


def test_a_host_step_copies_a_tensor_of_any_order() -> None:
    """A host step reads row-major copies, whatever the order in which a convolution left its result."""
    source = """<ir_version: 10, opset_import: ["": 21]>
    g (float[1, 3, 5, 4] x, float[8, 3, 3, 3] w) => (string[1, 8, 3, 2] t, float[1, 8, 3, 2] y) { y = Conv(x, w)  z = Round(y)  t = Cast<to = 8>(z) }"""
    rng = np.random.default_rng(0)
    feeds = {"x": rng.integers(-3, 4, (1, 3, 5, 4)).astype(np.float32), "w": rng.integers(-3, 4, (8, 3, 3, 3)).astype(np.float32)}
    session = sardonyx.InferenceSession(parser.parse_model(source).SerializeToString())
    for _ in range(2):
        texts, y = session.run(None, feeds)
        assert texts.tolist() == [[[[f"{v:g}" for v in row] for row in plane] for plane in y[0].tolist()]]


TABLES = """<ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 3]>
g (string[n, m] s, float[n, 2] x) => (float[n, m, 4] y, string[n, m] t, string[n] label) {
   y = ai.onnx.ml.OneHotEncoder<cats_strings = ["a", "b", "a", ""], zeros = 1>(s)
   t = ai.onnx.ml.LabelEncoder<keys_strings = ["a", ""], values_strings = ["first", "none"], default_string = "other">(s)
   label, scores = ai.onnx.ml.LinearClassifier<coefficients = [1.0, 0.0, 0.0, 1.0], intercepts = [0.0, 0.0], classlabels_strings = ["left", "right"]>(x)
}"""


def test_tables_of_texts_are_kept_in_packages(tmp_path: Path) -> None:
    """The tables are made at the first run, from what a package holds as well; equal categories are all marked."""
    (tmp_path / "m.onnx").write_bytes(parser.parse_model(TABLES).SerializeToString())
    save_package(sardonyx.InferenceSession(str(tmp_path / "m.onnx"))._model, tmp_path / "m.sdx")
    row = {"a": [1, 0, 1, 0], "b": [0, 1, 0, 0], "": [0, 0, 0, 1], "c": [0, 0, 0, 0]}
    for name in ("m.onnx", "m.sdx"):
        session = sardonyx.InferenceSession(str(tmp_path / name))
        for s in ([["a", "b", "c"]], [["c", ""], ["", "a"]], np.zeros((0, 2))):
            strings = np.array(s, object)
            x = np.arange(2.0 * len(s), dtype=np.float32).reshape(len(s), 2) * [[1, -1]]
            y, t, label = session.run(None, {"s": strings, "x": x.astype(np.float32)})
            assert y.tolist() == [[row[v] for v in r] for r in strings.tolist()] and y.shape == (*strings.shape, 4)
            assert t.tolist() == [[{"a": "first", "": "none"}.get(v, "other") for v in r] for r in strings.tolist()]
            assert label.tolist() == ["left" if a >= b else "right" for a, b in x.tolist()]
