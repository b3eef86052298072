"""Rewrite rules: the operators before and after, equal results on the interpreter, and cases that must stay as they are."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx.compiler.algebra import is_lossless
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.pipeline import Options
from sardonyx.compiler.recognise import recognise
from sardonyx.compiler.rewrite import all_graphs
from sardonyx.compiler.simplify import simplify
from sardonyx.ir import dtypes as dt
from sardonyx.ir.interpret import run_graph

node = helper.make_node
RNG = np.random.default_rng(7)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def build(nodes, inputs: dict, constants: dict | None = None, outputs=("y",), opset: int = 18):
    """A graph from nodes; `inputs` gives arrays, from which types are taken (symbolic first dims where a name is given instead)."""
    def info(name, value):
        shape, dtype = (value, np.dtype(np.float32)) if isinstance(value, tuple) else (value.shape, value.dtype)
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)
    graph = helper.make_graph(nodes, "g", [info(k, v) for k, v in inputs.items()], [onnx_output(o) for o in outputs],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()])
    return import_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


def onnx_output(name):
    out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    out.ClearField("type")
    return out


def ops(graph) -> list[str]:
    return [n.op for n in graph.nodes]


def consistent(graph) -> None:
    """Use lists say what the nodes say, and nodes come after what they read."""
    for g in all_graphs(graph):
        given = set(g.inputs)
        for n in g.nodes:
            for k, v in enumerate(n.inputs):
                assert v is None or (n, k) in v.uses
                assert v is None or v.constant is not None or v in given or v.graph is not g, f"{n.name} reads {v.name} too early"
            for o in n.outputs:
                if o is not None:
                    assert o.producer is n and o.graph is g
                    given.add(o)
                    for user, k in o.uses:
                        assert user.inputs[k] is o
        for o in g.outputs:
            assert o in given or o.constant is not None or o.graph is not g


def check(nodes, inputs, after, constants=None, outputs=("y",), opset=18, feeds=None, tolerance=1e-5, composites=False, disabled=(),
          expected=None):
    """Simplify; compare the operators with `after` and the results with `expected`, or with those of the graph as it was."""
    feeds = feeds or inputs
    expected = run_graph(build(nodes, inputs, constants, outputs, opset), feeds) if expected is None else expected
    graph = build(nodes, inputs, constants, outputs, opset)
    simplify(graph, Options(disabled=frozenset(disabled)))
    if composites:
        recognise(graph, Options(disabled=frozenset(disabled)))
    consistent(graph)
    assert ops(graph) == list(after)
    assert graph.output_names == list(outputs)
    for a, b in zip(run_graph(graph, feeds), expected, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)
    return graph


X = f(2, 3, 4)


# --------------------------------------------------------------------------------------------------- folding, sharing, unused
def test_known_inputs_are_folded():
    g = check([node("Add", ["a", "b"], ["c"]), node("Mul", ["x", "c"], ["y"])], {"x": X}, ["Mul"], {"a": f(4), "b": f(4)})
    assert any(j.rule == "fold-constants" and j.reason is None for j in g.journal)
    check([node("Shape", ["x"], ["s"]), node("Reshape", ["x", "t"], ["r"]), node("Gather", ["s", "i"], ["n"]), node("Unsqueeze", ["n", "z"], ["u"]),
           node("Concat", ["u", "m"], ["t"], axis=0), node("Relu", ["r"], ["y"])], {"x": X}, ["Reshape", "Relu"],
          {"i": np.array(0), "z": np.array([0]), "m": np.array([-1])})


def test_large_results_stay():
    g = check([node("ConstantOfShape", ["s"], ["c"]), node("Add", ["x", "c"], ["y"])], {"x": f(1, 1)}, ["ConstantOfShape", "Add"], {"s": np.array([600, 600])})
    assert g.nodes[0].outputs[0].constant is None


def test_folding_leaves_stored_bits_and_random_numbers_alone():
    check([node("DequantizeLinear", ["q", "s"], ["w"]), node("Add", ["x", "w"], ["y"])], {"x": f(2, 100)}, ["DequantizeLinear", "Add"],
          {"q": np.arange(100, dtype=np.int8), "s": np.float32(0.5)})
    g = build([node("RandomNormal", [], ["r"], shape=[100]), node("RandomNormal", [], ["s"], shape=[100]), node("Sub", ["r", "s"], ["y"])], {})
    simplify(g, Options())
    assert ops(g) == ["RandomNormal", "RandomNormal", "Sub"]


def test_equal_nodes_are_shared():
    check([node("Exp", ["x"], ["a"]), node("Exp", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])], {"x": X}, ["Exp", "Add"])
    check([node("Add", ["x", "p"], ["a"]), node("Add", ["x", "q"], ["b"]), node("Mul", ["a", "b"], ["y"])], {"x": X}, ["Add", "Mul"],
          {"p": np.full(4, 3, np.float32), "q": np.full(4, 3, np.float32)})
    check([node("LeakyRelu", ["x"], ["a"], alpha=0.1), node("LeakyRelu", ["x"], ["b"], alpha=0.2), node("Add", ["a", "b"], ["y"])], {"x": X},
          ["LeakyRelu", "LeakyRelu", "Add"])
    check([node("Exp", ["x"], ["a"]), node("Exp", ["x"], ["b"])], {"x": X}, ["Exp", "Exp"], outputs=("a", "b"))


def test_large_constants_are_shared_if_all_their_elements_are_equal():
    """Weights that an exporter wrote twice, and such that differ where no sample is taken, in the sign of a zero alone too."""
    w = f(70, 70)
    nodes = [node("MatMul", ["x", "p"], ["a"]), node("MatMul", ["x", "q"], ["b"]), node("Add", ["a", "b"], ["y"])]
    check(nodes, {"x": f(3, 70)}, ["MatMul", "Add"], {"p": w, "q": w.copy()})
    for value in (w[33, 35] + 1, -0.0):
        first, other = w.copy(), w.copy()
        first[33, 35], other[33, 35] = 0.0, value
        check(nodes, {"x": f(3, 70)}, ["MatMul", "MatMul", "Add"], {"p": first, "q": other})


def test_equal_bits_of_other_types_are_not_shared():
    check([node("Cast", ["x"], ["i"], to=TensorProto.INT32), node("Add", ["i", "p"], ["a"]), node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
           node("Add", ["b", "q"], ["y"])], {"x": X}, ["Cast", "Add", "Cast", "Add"], {"p": np.zeros(1, np.int32) + 1, "q": np.ones(1, np.float32)})


def test_unused_nodes_go():
    check([node("Exp", ["x"], ["a"]), node("Log", ["a"], ["b"]), node("Relu", ["x"], ["y"])], {"x": X}, ["Relu"])


def test_rules_can_be_disabled():
    nodes = [node("Identity", ["x"], ["a"]), node("Relu", ["a"], ["y"])]
    check(nodes, {"x": X}, ["Relu"])
    check(nodes, {"x": X}, ["Identity", "Relu"], disabled=["identity-to-input"])
    check([node("Exp", ["x"], ["a"]), node("Relu", ["x"], ["y"])], {"x": X}, ["Exp", "Relu"], disabled=["drop-unused"])


# ----------------------------------------------------------------------------------------------------------------- algebra
def test_nothing_is_left_of_nothing():
    check([node("Identity", ["x"], ["a"]), node("Dropout", ["a"], ["b"]), node("Relu", ["b"], ["y"])], {"x": X}, ["Relu"])
    check([node("Identity", ["x"], ["y"])], {"x": X}, [])
    check([node("Identity", ["x"], ["a"]), node("Identity", ["x"], ["b"])], {"x": X}, [], outputs=("a", "b"))
    check([node("Cast", ["x"], ["a"], to=TensorProto.FLOAT), node("Relu", ["a"], ["y"])], {"x": X}, ["Relu"])


def test_dropout_that_trains_or_gives_its_mask_stays():
    check([node("Dropout", ["x"], ["y", "m"])], {"x": X}, ["Dropout"], outputs=("y", "m"))
    g = build([node("Dropout", ["x", "r", "t"], ["y"])], {"x": X}, {"r": np.float32(0.5), "t": np.array(True)})
    simplify(g, Options())
    assert ops(g) == ["Dropout"]


@pytest.mark.parametrize(("op", "constant", "stays"), [
    ("Mul", 1.0, False), ("Div", 1.0, False), ("Sub", 0.0, False), ("Add", -0.0, False), ("Add", 0.0, True), ("Sub", -0.0, True), ("Mul", 2.0, True),
    ("Pow", 1.0, False), ("Mul", float("nan"), True)])
def test_neutral_elements(op, constant, stays):
    nodes = [node(op, ["x", "c"], ["a"]), node("Relu", ["a"], ["y"])]
    check(nodes, {"x": X}, [op, "Relu"] if stays else ["Relu"], {"c": np.float32(constant)})
    check(nodes, {"x": X}, [op, "Relu"], {"c": np.full((2, 2, 3, 4), constant, np.float32)})  # broadcasts


def test_neutral_elements_of_integers_and_booleans():
    i = np.arange(4, dtype=np.int64)
    check([node("Add", ["x", "c"], ["a"]), node("Neg", ["a"], ["y"])], {"x": i}, ["Neg"], {"c": np.array(0)})
    check([node("Div", ["c", "x"], ["a"]), node("Neg", ["a"], ["y"])], {"x": i + 1}, ["Div", "Neg"], {"c": np.array(1)})
    b = RNG.random(100) > 0.5
    check([node("And", ["x", "c"], ["a"]), node("Not", ["a"], ["y"])], {"x": b}, ["Not"], {"c": np.array(True)})
    check([node("Or", ["x", "c"], ["a"]), node("Not", ["a"], ["y"])], {"x": b}, ["Or", "Not"], {"c": np.array(True)})


def test_casts():
    half = X.astype(np.float16)
    check([node("Cast", ["x"], ["a"], to=TensorProto.FLOAT), node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16), node("Neg", ["b"], ["y"])], {"x": half},
          ["Neg"])
    check([node("Cast", ["x"], ["a"], to=TensorProto.FLOAT16), node("Cast", ["a"], ["y"], to=TensorProto.FLOAT)], {"x": X}, ["Cast", "Cast"])
    assert is_lossless(dt.uint8, dt.int16) and not is_lossless(dt.uint8, dt.int8) and not is_lossless(dt.int8, dt.uint16)
    assert is_lossless(dt.int16, dt.float32) and not is_lossless(dt.int32, dt.float32) and not is_lossless(dt.float16, dt.bfloat16)
    assert is_lossless(dt.boolean, dt.float16) and not is_lossless(dt.float32, dt.int64)


def test_transposes():
    def pair(p, q, after):
        check([node("Transpose", ["x"], ["a"], perm=p), node("Transpose", ["a"], ["b"], perm=q), node("Relu", ["b"], ["y"])], {"x": X}, after)
    pair([1, 2, 0], [2, 0, 1], ["Relu"])
    pair([1, 2, 0], [1, 2, 0], ["Transpose", "Relu"])
    check([node("Transpose", ["x"], ["a"]), node("Transpose", ["a"], ["b"]), node("Relu", ["b"], ["y"])], {"x": X}, ["Relu"])
    check([node("Transpose", ["x"], ["a"]), node("Transpose", ["a"], ["b"], perm=[0, 2, 1]), node("Add", ["a", "a"], ["c"])], {"x": X},
          ["Transpose", "Transpose", "Add"], outputs=("b", "c"))


def test_reshapes():
    c = {"s": np.array([6, 4]), "t": np.array([2, 3, 4]), "u": np.array([-1]), "z": np.array([1])}
    check([node("Reshape", ["x", "s"], ["a"]), node("Reshape", ["a", "t"], ["b"]), node("Relu", ["b"], ["y"])], {"x": X}, ["Relu"], c)
    check([node("Unsqueeze", ["x", "z"], ["a"]), node("Flatten", ["a"], ["b"]), node("Reshape", ["b", "u"], ["c"]), node("Relu", ["c"], ["y"])], {"x": X},
          ["Reshape", "Relu"], c)
    check([node("Unsqueeze", ["x", "z"], ["a"]), node("Squeeze", ["a", "z"], ["b"]), node("Relu", ["b"], ["y"])], {"x": ("N", "M", 4)}, ["Relu"], c,
          feeds={"x": X})
    check([node("Reshape", ["x", "t"], ["a"]), node("Relu", ["a"], ["y"])], {"x": X}, ["Relu"], c)


def test_views_that_keep_everything():
    c = {"one": np.array([1, 1, 1]), "s": np.array([2, 3, 4]), "b": np.array([0]), "e": np.array([99]), "ax": np.array([1]), "back": np.array([-1]),
         "end": np.array([-99]), "p": np.zeros(6, np.int64), "q": np.array([0, 1, 0, 0, -1, 0]), "top": np.array([9])}
    for n in (node("Tile", ["x", "one"], ["a"]), node("Expand", ["x", "s"], ["a"]), node("Concat", ["x"], ["a"], axis=1), node("Sum", ["x"], ["a"]),
              node("Slice", ["x", "b", "e", "ax"], ["a"]), node("Pad", ["x", "p"], ["a"]), node("Split", ["x"], ["a"], num_outputs=1)):
        check([n, node("Relu", ["a"], ["y"])], {"x": X}, ["Relu"], c)
    for n in (node("Slice", ["x", "top", "end", "ax", "back"], ["a"]), node("Pad", ["x", "q"], ["a"])):
        check([n, node("Relu", ["a"], ["y"])], {"x": X}, [n.op_type, "Relu"], c)


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_scattered_rows(reduction):
    x, u, at = f(5, 4), f(3, 4), np.array([[4], [0], [-3]], np.int32)
    shape, scatter = np.array([3, 4]), node("ScatterElements", ["x", "r", "u"], ["y"], reduction=reduction)
    given = {"x": x, "u": u, "at": at}
    check([node("Expand", ["at", "s"], ["r"]), scatter], given, ["Cast", "ScatterND"], {"s": shape})
    check([node("Expand", ["at", "s"], ["r"]), scatter, node("Add", ["r", "r"], ["z"])], given, ["Expand", "Cast", "ScatterND", "Add"], {"s": shape}, ("y", "z"))
    check([scatter], {"x": x, "u": u}, ["ScatterND"], {"r": np.repeat(at, 4, axis=1).astype(np.int64)})
    check([scatter], {"x": x, "u": u}, ["ScatterElements"], {"r": np.array([[0, 1, 2, 3], [1, 2, 3, 4], [4, 0, 1, 2]])})
    check([node("Expand", ["at", "s"], ["r"]), scatter], {"x": f(5, 6), "u": u, "at": at}, ["Expand", "ScatterElements"], {"s": shape})  # rows that are not filled
    across = node("ScatterElements", ["x", "r", "u"], ["y"], reduction=reduction, axis=1)
    check([node("Expand", ["at", "s"], ["r"]), across], {"x": f(3, 9), "u": u[:, :1], "at": at}, ["ScatterElements"], {"s": np.array([3, 1])})


def test_where_with_a_known_condition():
    nodes = [node("Where", ["c", "x", "z"], ["a"]), node("Relu", ["a"], ["y"])]
    check(nodes, {"x": X, "z": X + 1}, ["Relu"], {"c": np.array([True])})
    check(nodes, {"x": X, "z": X + 1}, ["Relu"], {"c": np.zeros((3, 4), bool)})
    check(nodes, {"x": X, "z": X + 1}, ["Where", "Relu"], {"c": np.array([True, False, True, True])})
    check(nodes, {"x": X[:1], "z": X}, ["Where", "Relu"], {"c": np.array([True])})  # broadcasts


def branches():
    def body(nodes, out):
        return helper.make_graph(nodes, f"body_{out}", [], [onnx_output(out)])
    return dict(then_branch=body([node("Relu", ["x"], ["t0"]), node("Neg", ["t0"], ["t"])], "t"), else_branch=body([node("Exp", ["x"], ["e"])], "e"))


@pytest.mark.parametrize(("known", "after"), [(True, ["Relu", "Neg", "Tanh"]), (False, ["Exp", "Tanh"])])
def test_a_known_branch_is_taken(known, after):
    taken = -np.maximum(X, 0) if known else np.exp(X)
    g = check([node("If", ["c"], ["a"], **branches()), node("Tanh", ["a"], ["y"])], {"x": X}, after, {"c": np.array(known)}, expected=[np.tanh(taken)])
    assert not g.bodies and all(v.graph is g for n in g.nodes for v in n.outputs)
    check([node("If", ["c"], ["y"], **branches())], {"x": X}, after[:-1], {"c": np.array(known)}, expected=[taken])


def test_an_unknown_branch_stays_and_is_simplified_inside():
    parts = branches()
    parts["else_branch"].node.add(op_type="Identity", input=["e"], output=["e2"])
    parts["else_branch"].output[0].name = "e2"
    g = build([node("If", ["c"], ["y"], **parts)], {"x": X, "c": np.array(True)})
    simplify(g, Options())
    consistent(g)
    assert ops(g) == ["If"] and ops(g.nodes[0].attributes["else_branch"]) == ["Exp"] and ops(g.nodes[0].attributes["then_branch"]) == ["Relu", "Neg"]


# ------------------------------------------------------------------------------------------------------------------ scales
def norm_constants(channels, variance=None):
    return {"g": f(channels), "b": f(channels), "m": f(channels), "v": np.abs(f(channels)) + 0.5 if variance is None else variance}


NORM = ["g", "b", "m", "v"]
IMAGE = f(1, 4, 6, 5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_batch_normalization_goes_into_convolutions(bias, group):
    c = norm_constants(8) | {"w": f(8, 4 // group, 3, 3), "cb": f(8)}
    check([node("Conv", ["x", "w", *(["cb"] if bias else [])], ["a"], group=group, pads=[1, 1, 1, 1]), node("BatchNormalization", ["a", *NORM], ["y"])],
          {"x": IMAGE}, ["Conv"], c, tolerance=1e-4)
    c["w"] = f(4, 8 // group, 3, 3)
    check([node("ConvTranspose", ["x", "w", *(["cb"] if bias else [])], ["a"], group=group, strides=[2, 2]), node("BatchNormalization", ["a", *NORM], ["y"])],
          {"x": IMAGE}, ["ConvTranspose"], c, tolerance=1e-4)


def test_batch_normalization_alone_becomes_scale_and_shift():
    check([node("BatchNormalization", ["x", *NORM], ["y"], epsilon=1e-3)], {"x": IMAGE}, ["Mul", "Add"], norm_constants(4), tolerance=1e-4)
    g = check([node("BatchNormalization", ["x", *NORM], ["y"])], {"x": IMAGE}, ["BatchNormalization"], norm_constants(4, -np.ones(4, np.float32)))
    assert [j.reason for j in g.journal if j.reason] == ["a variance is not positive"]


def test_batch_normalization_stays_where_it_must():
    c = norm_constants(4) | {"w": f(4, 4, 1, 1)}
    check([node("Conv", ["x", "w"], ["a"]), node("BatchNormalization", ["a", *NORM], ["y"])], {"x": IMAGE}, ["Conv", "Mul", "Add"], c, outputs=("a", "y"),
          tolerance=1e-4)
    v = c.pop("v")
    check([node("BatchNormalization", ["x", *NORM], ["y"])], {"x": IMAGE, "v": v}, ["BatchNormalization"], c)
    g = build([node("BatchNormalization", ["x", *NORM], ["y", "mo", "vo"], training_mode=1)], {"x": IMAGE}, c | {"v": v}, outputs=("y", "mo", "vo"))
    simplify(g, Options())
    assert ops(g) == ["BatchNormalization"]


def test_scales_and_shifts_by_channel_go_into_weights():
    c = {"w": f(8, 4, 3, 3), "s": f(8, 1, 1), "t": f(1, 8, 1, 1), "k": np.float32(3)}
    check([node("Conv", ["x", "w"], ["a"]), node("Mul", ["a", "s"], ["b"]), node("Add", ["t", "b"], ["d"]), node("Div", ["d", "k"], ["e"]),
           node("Sub", ["k", "e"], ["y"])], {"x": IMAGE}, ["Conv"], c, tolerance=1e-4)
    m = {"w": f(4, 5), "s": f(5), "t": f(5)}
    check([node("MatMul", ["x", "w"], ["a"]), node("Mul", ["a", "s"], ["b"]), node("Add", ["b", "t"], ["y"])], {"x": X}, ["MatMul", "Add"], m, tolerance=1e-4)
    check([node("Gemm", ["x", "w", "t"], ["a"]), node("Mul", ["a", "s"], ["b"]), node("Sub", ["b", "t"], ["y"])], {"x": X[0]}, ["Gemm"], m, tolerance=1e-4)
    m["w"] = f(5, 4)
    check([node("Gemm", ["x", "w"], ["a"], transB=1, alpha=0.5), node("Mul", ["a", "s"], ["y"])], {"x": X[0]}, ["Gemm"], m, tolerance=1e-4)
    check([node("Gemm", ["x", "w", "t"], ["y"], transB=1, alpha=0.5, beta=2.0)], {"x": X[0]}, ["Gemm"], m, tolerance=1e-4)


def test_scales_stay_where_they_must():
    c = {"w": f(8, 4, 3, 3), "s": f(8, 1, 1), "row": f(3), "more": f(2, 8, 1, 1), "z": np.zeros((8, 1, 1), np.float32)}
    conv = node("Conv", ["x", "w"], ["a"])
    check([conv, node("Mul", ["a", "row"], ["y"])], {"x": IMAGE}, ["Conv", "Mul"], c)  # not by channel
    check([conv, node("Mul", ["a", "more"], ["y"])], {"x": IMAGE}, ["Conv", "Mul"], c)  # broadcasts the batch
    check([conv, node("Div", ["s", "a"], ["y"])], {"x": IMAGE}, ["Conv", "Div"], c, tolerance=1e-3)
    check([conv, node("Div", ["a", "z"], ["y"])], {"x": IMAGE}, ["Conv", "Div"], c)
    check([conv, node("Mul", ["a", "s"], ["b"]), node("Add", ["a", "b"], ["y"])], {"x": IMAGE}, ["Conv", "Mul", "Add"], c)
    check([node("Conv", ["x", "v"], ["a"]), node("Mul", ["a", "s"], ["y"])], {"x": IMAGE, "v": c["w"]}, ["Conv", "Mul"], c)
    wide = {"w": f(200, 200), "s": f(200)}
    g = check([node("MatMul", ["x", "w"], ["a"]), node("Mul", ["a", "s"], ["p"]), node("MatMul", ["p", "w"], ["y"])], {"x": f(2, 200)},
              ["MatMul", "Mul", "MatMul"], wide, tolerance=1e-3)
    assert any(j.reason == "the weights have other uses" for j in g.journal)


# -------------------------------------------------------------------------------------------------------------- composites
def gelu_nodes(form):
    c = {"r": np.float32(np.sqrt(2)), "i": np.float32(np.sqrt(0.5)), "one": np.float32(1), "half": np.float32(0.5)}
    if form == 0:
        return [node("Div", ["x", "r"], ["a"]), node("Erf", ["a"], ["b"]), node("Add", ["b", "one"], ["d"]), node("Mul", ["x", "d"], ["e"]),
                node("Mul", ["e", "half"], ["y"])], c
    if form == 1:
        return [node("Mul", ["x", "i"], ["a"]), node("Erf", ["a"], ["b"]), node("Add", ["one", "b"], ["d"]), node("Mul", ["half", "d"], ["e"]),
                node("Mul", ["x", "e"], ["y"])], c
    return [node("Mul", ["x", "half"], ["h"]), node("Div", ["x", "r"], ["a"]), node("Erf", ["a"], ["b"]), node("Add", ["b", "one"], ["d"]),
            node("Mul", ["h", "d"], ["y"])], c


@pytest.mark.parametrize("form", [0, 1, 2])
def test_gelu(form):
    nodes, c = gelu_nodes(form)
    g = check(nodes, {"x": X}, ["Gelu"], c, composites=True)
    assert not g.nodes[0].attributes.get("approximate") and len(g.nodes[0].origin) == len(nodes)
    check(nodes, {"x": ("N", 3, 4)}, ["Gelu"], c, composites=True, feeds={"x": X})


def test_what_is_nearly_gelu_stays():
    nodes, c = gelu_nodes(0)
    for key, value in (("r", 1.5), ("one", 1.1), ("half", 0.4)):
        g = build(nodes, {"x": X}, c | {key: np.float32(value)})
        recognise(g, Options())
        assert "Gelu" not in ops(g)
    g = build([*nodes, node("Neg", ["b"], ["z"])], {"x": X}, c, outputs=("y", "z"))
    recognise(g, Options())
    assert "Gelu" not in ops(g)
    nodes[0].input[0] = "x2"  # erf of another value
    g = build([node("Neg", ["x"], ["x2"]), *nodes], {"x": X}, c)
    recognise(g, Options())
    assert "Gelu" not in ops(g)


def test_gelu_by_tanh():
    c = {"k": np.float32(0.044715), "s": np.float32(np.sqrt(2 / np.pi)), "one": np.float32(1), "half": np.float32(0.5), "three": np.float32(3)}
    nodes = [node("Pow", ["x", "three"], ["p"]), node("Mul", ["k", "p"], ["a"]), node("Add", ["x", "a"], ["b"]), node("Mul", ["s", "b"], ["d"]),
             node("Tanh", ["d"], ["t"]), node("Add", ["t", "one"], ["e"]), node("Mul", ["half", "x"], ["h"]), node("Mul", ["h", "e"], ["y"])]
    g = check(nodes, {"x": X}, ["Gelu"], c, composites=True)
    assert g.nodes[0].attributes["approximate"] == "tanh"


def test_other_activations():
    c = {"k": np.float32(1.702), "three": np.float32(3), "six": np.float32(6), "zero": np.float32(0)}
    g = check([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {"x": X}, ["Swish"], composites=True)
    assert g.nodes[0].attributes.get("alpha", 1.0) == 1.0
    g = check([node("Mul", ["x", "k"], ["a"]), node("Sigmoid", ["a"], ["s"]), node("Mul", ["x", "s"], ["y"])], {"x": X}, ["Swish"], c, composites=True)
    assert g.nodes[0].attributes["alpha"] == 1.702
    check([node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["b"]), node("Mul", ["x", "b"], ["d"]), node("Div", ["d", "six"], ["y"])],
          {"x": X * 4}, ["HardSwish"], c, composites=True)
    check([node("HardSigmoid", ["x"], ["b"], alpha=1 / 6), node("Mul", ["x", "b"], ["y"])], {"x": X * 4}, ["HardSwish"], composites=True)
    check([node("Softplus", ["x"], ["a"]), node("Tanh", ["a"], ["b"]), node("Mul", ["x", "b"], ["y"])], {"x": X}, ["Mish"], composites=True)
    check([node("Sigmoid", ["x"], ["s"]), node("Mul", ["z", "s"], ["y"])], {"x": X, "z": X + 1}, ["Sigmoid", "Mul"], composites=True)


def layer_norm(eps="e", axes=(-1,), power=True, reciprocal=False):
    nodes = [node("ReduceMean", ["x"], ["m"], axes=list(axes)), node("Sub", ["x", "m"], ["d"]),
             node("Pow", ["d", "two"], ["q"]) if power else node("Mul", ["d", "d"], ["q"]), node("ReduceMean", ["q"], ["v"], axes=list(axes)),
             node("Add", ["v", eps], ["ve"]), node("Sqrt", ["ve"], ["s"])]
    return nodes + ([node("Reciprocal", ["s"], ["i"]), node("Mul", ["d", "i"], ["n"])] if reciprocal else [node("Div", ["d", "s"], ["n"])])


LN = {"two": np.float32(2), "e": np.float32(1e-5), "g": f(4), "b": f(4), "wide": f(3, 1), "gg": f(3, 4)}


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("reciprocal", [True, False])
def test_layer_normalization(power, reciprocal):
    spelled = layer_norm(power=power, reciprocal=reciprocal)
    g = check([*spelled, node("Mul", ["n", "g"], ["a"]), node("Add", ["a", "b"], ["y"])], {"x": X}, ["LayerNormalization"], LN, composites=True, opset=17)
    assert g.nodes[0].attributes["axis"] == 2 and len(g.nodes[0].inputs) == 3
    check([*spelled, node("Relu", ["n"], ["y"])], {"x": X}, ["LayerNormalization", "Relu"], LN, composites=True, opset=17)


def test_layer_normalization_over_two_dimensions():
    nodes = layer_norm(axes=(1, 2))
    check([*nodes, node("Mul", ["gg", "n"], ["y"])], {"x": X}, ["LayerNormalization"], LN, composites=True, opset=17)
    check([*nodes, node("Mul", ["wide", "n"], ["y"])], {"x": X}, ["LayerNormalization"], LN, composites=True, opset=17)
    check([*layer_norm(), node("Mul", ["wide", "n"], ["y"])], {"x": X}, ["LayerNormalization", "Mul"], LN, composites=True, opset=17)


def test_what_is_no_layer_normalization_stays():
    for nodes in (layer_norm(axes=(0,)), layer_norm(axes=(0, 2)), layer_norm(eps="g")):
        g = build(nodes, {"x": X}, LN, outputs=("n",), opset=17)
        recognise(g, Options())
        assert "LayerNormalization" not in ops(g)
    mixed = layer_norm()
    mixed[3] = node("ReduceMean", ["q"], ["v"], axes=[1, 2])
    g = build(mixed, {"x": X}, LN, outputs=("n",), opset=17)
    recognise(g, Options())
    assert "LayerNormalization" not in ops(g)


GROUPED = {"by": np.array([0, 3, -1]), "g": f(3), "b": f(3), "back": np.array([0, 6, 4, 5])}


def group_norm(after="back"):
    return [node("Reshape", ["x", "by"], ["r"]), node("InstanceNormalization", ["r", "g", "b"], ["n"], epsilon=1e-3), node("Reshape", ["n", after], ["y"])]


def test_group_normalization():
    g = check(group_norm(), {"x": f(2, 6, 4, 5)}, ["GroupNormalization"], GROUPED, composites=True, opset=17, tolerance=1e-5)
    assert g.nodes[0].attributes["num_groups"] == 3 and g.nodes[0].attributes["epsilon"] == pytest.approx(1e-3)
    dynamic = [node("Shape", ["x"], ["s"]), *group_norm("s")]
    g = build(dynamic, {"x": ("N", 6, "H", "W")}, GROUPED, opset=17)
    recognise(g, Options())
    assert "GroupNormalization" in ops(g) and "InstanceNormalization" not in ops(g)


def test_what_is_no_group_normalization_stays():
    for after in ([0, 3, 8, 5], [0, 3, -1], [1, 12, 4, 5]):
        g = build(group_norm(), {"x": f(2, 6, 4, 5)}, GROUPED | {"back": np.array(after)}, opset=17)
        recognise(g, Options())
        assert "GroupNormalization" not in ops(g)


@pytest.mark.parametrize("swapped", [False, True])
def test_layer_normalization_with_gathered_factors(swapped):
    nodes = [*layer_norm(reciprocal=True)[:-1], node("Mul", ["i", "g"], ["f"]), node("Mul", ["x", "f"], ["xf"]), node("Mul", ["m", "f"], ["mf"]),
             node("Sub", ["b", "mf"], ["t"]), node("Add", ["xf", "t"], ["y"])]
    if swapped:
        nodes[1] = node("Sub", ["m", "x"], ["d"])
    check(nodes, {"x": X}, ["LayerNormalization"], LN, composites=True, opset=17, tolerance=1e-4)


@pytest.mark.parametrize("scaled", [True, False])
def test_rms_normalization(scaled):
    nodes = [node("Pow", ["x", "two"], ["q"]), node("ReduceMean", ["q"], ["v"], axes=[-1]), node("Add", ["v", "e"], ["ve"]), node("Sqrt", ["ve"], ["s"]),
             node("Reciprocal", ["s"], ["i"]), node("Mul", ["x", "i"], ["n" if scaled else "y"])]
    nodes += [node("Mul", ["n", "g"], ["y"])] if scaled else []
    check(nodes, {"x": ("N", "M", 4)}, ["RMSNormalization"], LN, composites=True, opset=17, feeds={"x": X})


def test_softmax():
    def spelled(axis, other):
        return [node("ReduceMax", ["x"], ["m"], axes=[axis]), node("Sub", ["x", "m"], ["d"]), node("Exp", ["d"], ["e"]),
                node("ReduceSum", ["e", "ax"], ["s"]), node("Div", ["e", "s"], ["y"])], {"ax": np.array([other])}
    nodes, c = spelled(1, 1)
    check(nodes, {"x": X}, ["Softmax"], c, composites=True, opset=17)
    nodes, c = spelled(1, 2)
    check(nodes, {"x": X}, ["ReduceMax", "Sub", "Exp", "ReduceSum", "Div"], c, composites=True, opset=17)


def test_operands_aligned_by_an_attribute_are_left_alone():
    square = f(4, 4)
    nodes = [*layer_norm(), node("Mul", ["n", "g"], ["y"], broadcast=1, axis=0)]
    check(nodes, {"x": square}, ["LayerNormalization", "Mul"], LN, composites=True, opset=6)
