"""Sequences and optionals through control flow, against ONNX's own definition and ONNX Runtime."""
from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import parser
from onnx.reference import ReferenceEvaluator

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
