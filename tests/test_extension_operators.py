"""Operators of ai.onnx.ml and com.microsoft, sequences, optionals and strings: results against ONNX's own cases and against ONNX Runtime."""
from __future__ import annotations

import functools
import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import sardonyx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from operator_harness import LAYER_FAMILIES, TENSOR_FAMILIES, equal, failures, family, interpret, interpret_lowered, official_cases, oracle, sample_graph  # noqa: E402
from sardonyx.ir.errors import ModelError, SardonyxError  # noqa: E402
from sardonyx.ir.ops import sequences, strings  # noqa: E402
from sardonyx.ir.ops.base import Op, Sample, all_ops, find  # noqa: E402
from sardonyx.ir.ops.host import host_function_from_data, host_function_to_data  # noqa: E402

REST = [o for o in all_ops() if family(o) not in TENSOR_FAMILIES + LAYER_FAMILIES and "preview" not in o.domain]
OPS = [o for o in REST if list(o.samples())]
# Maps, not on ONNX Runtime's CPU, or around graphs; values of control and sequences are no tensors.
WITHOUT_SAMPLES = {"BeamSearch", "BiasAdd", "BiasSplitGelu", "CastMap", "DictVectorizer", "GreedySearch", "GroupNorm", "Sampling", "WhisperBeamSearch", "ZipMap"}
SPARSE = {"SparseAttention", "SparseToDenseMatMul"}  # ONNX Runtime takes sparse tensors alone, or caches in place, which samples are not
HOST_OPS = ("SequenceConstruct", "SequenceAt", "SequenceInsert", "SequenceErase", "SequenceEmpty", "SequenceLength", "SplitToSequence", "ConcatFromSequence", "SequenceMap",
            "Optional", "OptionalGetElement", "OptionalHasElement", "StringConcat", "StringSplit", "StringNormalizer", "RegexFullMatch", "TfIdfVectorizer",
            "ArrayFeatureExtractor", "Binarizer", "LabelEncoder", "TreeEnsemble", "FlexAttention")
MODULES = ("ai_onnx_ml", "flexattention", "optionalgetelement", "optionalhaselement", "regex_full_match", "sequence_map", "sequenceinsert", "splittosequence", "string_concat", "string_split",
           "stringnormalizer", "tfidfvectorizer")


def test_operators_without_samples_are_known() -> None:
    assert {o.name for o in REST if not list(o.samples()) and family(o) not in ("control", "sequences")} == WITHOUT_SAMPLES


def of_operators() -> list:
    return [c for c in official_cases(MODULES) if {n.op_type for n in c.model.graph.node} & set(HOST_OPS)]


@pytest.mark.filterwarnings("ignore")
def test_official_cases() -> None:
    cases = of_operators()
    assert len(cases) > 50
    problems = failures(cases)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("op", OPS, ids=lambda o: f"{o.domain}:{o.name}")
@pytest.mark.filterwarnings("ignore")
def test_samples(op: Op) -> None:
    pytest.importorskip("onnxruntime")
    for s in op.samples():
        want = None if op.name in SPARSE else oracle(op, s, 3 if op.domain == "ai.onnx.ml" and op.name not in ("TreeEnsemble", "LabelEncoder") else None)
        graph, feeds, _ = sample_graph(op, s)
        got = interpret(graph, feeds)
        for g, w in zip(got, want or [], strict=want is not None):
            if np.asarray(w).dtype.itemsize == 1:  # half a unit may round the other way
                np.testing.assert_allclose(np.asarray(g, np.int64), np.asarray(w, np.int64), atol=1)
            else:
                equal(g, w, 1e-4, 1e-5)


@pytest.mark.parametrize("op", [o for o in OPS if o.domain], ids=lambda o: f"{o.domain}:{o.name}")
@pytest.mark.filterwarnings("ignore")
def test_samples_with_symbolic_rows(op: Op) -> None:
    samples = list(op.samples())
    assert samples, "the operator has no samples"
    for s in samples:
        graph, feeds, _ = sample_graph(op, s)
        want = interpret(graph, feeds)
        graph, feeds, sizes = sample_graph(op, s, lambda k, m, a: k == 0 and m == 0 and a.ndim > 1)
        for g, w in zip(interpret_lowered(graph, feeds, sizes), want, strict=True):
            equal(g, w, 1e-5, 1e-6)


# ------------------------------------------------------------------------------------------------------------ by their parts
def run(domain: str, name: str, *inputs: np.ndarray | None, outputs: int = 1, **attributes: object) -> list[object]:
    graph, feeds, _ = sample_graph(find(domain, name), Sample(inputs, attributes, outputs))
    return interpret(graph, feeds)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_packed_queries_keys_and_values() -> None:
    packed = random(2, 3, 2, 3, 4)
    apart = [packed[:, :, :, k].reshape(2, 3, 8) for k in range(3)]
    np.testing.assert_allclose(run("com.microsoft", "MultiHeadAttention", packed, num_heads=2)[0], run("com.microsoft", "MultiHeadAttention", *apart, num_heads=2)[0], rtol=1e-5)
    pairs = np.stack([apart[1].reshape(2, 3, 2, 4), apart[2].reshape(2, 3, 2, 4)], 3)
    np.testing.assert_allclose(run("com.microsoft", "MultiHeadAttention", apart[0], pairs, num_heads=2)[0],
                               run("com.microsoft", "MultiHeadAttention", *apart, num_heads=2)[0], rtol=1e-5)


def test_a_cache_continues_a_prompt() -> None:
    """Attention over a prompt and then one more token is attention over all of them."""
    heads = {"num_heads": 4, "kv_num_heads": 2}
    q, k, v = random(1, 6, 32), random(1, 6, 16, seed=1), random(1, 6, 16, seed=2)
    empty = np.zeros((1, 2, 0, 8), np.float32)

    def attend(first: int, last: int, *past: np.ndarray) -> list[object]:
        return run("com.microsoft", "GroupQueryAttention", q[:, first:last], k[:, first:last], v[:, first:last], *past, np.array([last - 1], np.int32), np.array(last, np.int32),
                   outputs=3, **heads)
    whole = attend(0, 6, empty, empty)
    prompt = attend(0, 5, empty, empty)
    step = attend(5, 6, *prompt[1:])
    np.testing.assert_allclose(step[0][0, 0], whole[0][0, 5], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(step[1], whole[1])


def test_group_norm_of_channels_last() -> None:
    x, scale, bias = random(2, 3, 4, 6), random(6, seed=1), random(6, seed=2)
    got = run("com.microsoft", "GroupNorm", x, scale, bias, groups=2, activation=1)[0]
    g = x.reshape(2, 12, 2, 3)
    normal = ((g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-5)).reshape(x.shape) * scale + bias
    np.testing.assert_allclose(got, normal / (1 + np.exp(-normal)), rtol=1e-4, atol=1e-5)


def test_two_classes_by_the_larger_score() -> None:
    """Two classes with weights of their own: the label is that of the larger score, as the specification says."""
    found = run("ai.onnx.ml", "TreeEnsembleClassifier", np.array([[0.0], [1.0]], np.float32), outputs=2, classlabels_int64s=(5, 6), nodes_treeids=(0, 0, 0), nodes_nodeids=(0, 1, 2),
                nodes_featureids=(0, 0, 0), nodes_modes=("BRANCH_LEQ", "LEAF", "LEAF"), nodes_values=(0.5, 0.0, 0.0), nodes_truenodeids=(1, 0, 0), nodes_falsenodeids=(2, 0, 0),
                class_treeids=(0, 0, 0, 0), class_nodeids=(1, 1, 2, 2), class_ids=(0, 1, 0, 1), class_weights=(0.9, 0.1, 0.2, 0.8))
    assert found[0].tolist() == [5, 6]
    np.testing.assert_allclose(found[1], [[0.9, 0.1], [0.2, 0.8]], rtol=1e-6)


def test_one_score_tells_two_classes_apart_without_an_intercept() -> None:
    op, x = find("ai.onnx.ml", "LinearClassifier"), np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
    attributes = {"coefficients": (0.5, -1.0), "classlabels_ints": (3, 8), "post_transform": "LOGISTIC"}
    without, zero = (interpret(*sample_graph(op, Sample((x,), attributes | more, 2))[:2]) for more in ({}, {"intercepts": (0.0,)}))
    for a, b in zip(without, zero, strict=True):
        np.testing.assert_array_equal(a, b)


def test_damaged_trees_are_refused() -> None:
    with pytest.raises(ModelError, match="does not exist"):
        run("ai.onnx.ml", "TreeEnsembleRegressor", np.zeros((1, 1), np.float32), nodes_treeids=(0,), nodes_nodeids=(0,), nodes_featureids=(0,), nodes_modes=("BRANCH_LEQ",),
            nodes_values=(0.5,), nodes_truenodeids=(1,), nodes_falsenodeids=(2,))


# -------------------------------------------------------------------------------------------------------------- host steps
def test_host_steps_keep_their_names() -> None:
    step = functools.partial(strings.split_strings, delimiter=",", maxsplit=1)
    again = host_function_from_data(json.loads(json.dumps(host_function_to_data(step))))
    parts, counts = again(np.array(["a,b,c"], object))
    assert parts.tolist() == [["a", "b,c"]] and counts.tolist() == [2]
    assert host_function_from_data(host_function_to_data(sequences.count_elements)) is sequences.count_elements


def test_foreign_host_steps_are_refused() -> None:
    with pytest.raises(SardonyxError, match="cannot be stored"):
        host_function_to_data(len)
    for module, name in (("os.path", "join"), ("strings", "no_such_step"), ("no_such_module", "step"), ("strings", "np")):
        with pytest.raises(SardonyxError):
            host_function_from_data([module, name, "function", [], {}])


def test_sequence_positions() -> None:
    assert sequences.with_element([1, 2], 9, np.array(-1))[0] == [1, 9, 2]
    assert sequences.with_element([1, 2], 9, np.array(2))[0] == [1, 2, 9]
    assert sequences.without_element([1, 2, 3], np.array(-3))[0] == [2, 3]
    with pytest.raises(ModelError, match="out of range"):
        sequences.sequence_element([1], np.array(1))
    with pytest.raises(ModelError, match="empty optional"):
        sequences.required_value(None)


def lstm_reference(x: np.ndarray, w: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The hidden state after each step of an LSTM without biases, in float64: [steps, batch, hidden]."""
    size = r.shape[1]
    h = c = np.zeros((x.shape[1], size))
    out = []
    for row in x.astype(np.float64):
        i, o, f, g = np.split(row @ w.T.astype(np.float64) + h @ r.T.astype(np.float64), 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        out.append(h)
    return np.stack(out)


@pytest.mark.parametrize("hidden", (127, 128, 130, 257))
@pytest.mark.parametrize("batch", (1, 2, 3, 4, 6, 11))
def test_recurrent_layers_of_every_width_agree_with_their_formula(hidden: int, batch: int) -> None:
    rng = np.random.default_rng(hidden + batch)
    x = rng.standard_normal((3, batch, 5)).astype(np.float32)
    w, r = ((rng.standard_normal(s) / np.sqrt(hidden)).astype(np.float32) for s in ((4 * hidden, 5), (4 * hidden, hidden)))
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=hidden)
    model = helper.make_model(helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
                                                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                                                [numpy_helper.from_array(w[None], "w"), numpy_helper.from_array(r[None], "r")]),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    y, = sardonyx.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(y[:, 0], lstm_reference(x, w, r), rtol=0, atol=4 * hidden * np.finfo(np.float32).eps)


@pytest.mark.parametrize("after", (0, 1))
@pytest.mark.parametrize(("hidden", "batch"), ((5, 2), (100, 3), (130, 5), (300, 9)))
def test_gated_units_agree_with_their_formula(hidden: int, batch: int, after: int) -> None:
    rng = np.random.default_rng(hidden)
    x = rng.standard_normal((3, batch, 5)).astype(np.float32)
    w, r, b = ((rng.standard_normal(s) / np.sqrt(hidden)).astype(np.float32) for s in ((3 * hidden, 5), (3 * hidden, hidden), (6 * hidden,)))
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=hidden, linear_before_reset=after)
    model = helper.make_model(helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
                                                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                                                [numpy_helper.from_array(a[None], name) for a, name in ((w, "w"), (r, "r"), (b, "b"))]),
                              opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    y, = sardonyx.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    h = np.zeros((batch, hidden))
    (w_z, w_r, w_h), (r_z, r_r, r_h) = (np.split(a.astype(np.float64), 3) for a in (w, r))
    b_z, b_r, b_h, s_z, s_r, s_h = np.split(b.astype(np.float64), 6)
    for t, row in enumerate(x.astype(np.float64)):
        update, reset = (1 / (1 + np.exp(-(row @ m.T + h @ q.T + u + v))) for m, q, u, v in ((w_z, r_z, b_z, s_z), (w_r, r_r, b_r, s_r)))
        recurrent = reset * (h @ r_h.T + s_h) if after else (reset * h) @ r_h.T + s_h
        h = (1 - update) * np.tanh(row @ w_h.T + b_h + recurrent) + update * h
        np.testing.assert_allclose(y[t, 0], h, rtol=0, atol=4 * hidden * np.finfo(np.float32).eps)


def test_softmax_of_far_apart_elements_has_no_denormal_results() -> None:
    x = np.array([[0, -80, -88, -100, -np.inf, np.nan], [1, 2, 3, -np.inf, -200, -90]], np.float32)
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    model = helper.make_model(helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
                                                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    y, = sardonyx.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert np.isnan(y[0]).all()
    expected = np.exp(x[1].astype(np.float64) - 3) / np.exp(x[1].astype(np.float64) - 3).sum()
    assert np.all((y[1] == 0) | (y[1] >= np.finfo(np.float32).tiny))
    np.testing.assert_allclose(y[1], expected, rtol=1e-6, atol=2 * np.finfo(np.float32).tiny)
