"""Every stage of the compiler leaves what verification accepts, what reads back from its text, and what computes the same as the model."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.pipeline import Options, lower_and_fuse, optimise
from sardonyx.ir import expr as ex
from sardonyx.ir import integer
from sardonyx.ir.graph import Graph
from sardonyx.ir.interpret import run_graph, run_nests
from sardonyx.ir.loops import NestProgram, RoutineNest
from sardonyx.ir.parse import parse_graph, parse_program
from sardonyx.ir.text import graph_text, program_text
from sardonyx.ir.verify import verify_graph, verify_program

RNG = np.random.default_rng(11)


class Model:
    """A small ONNX model written node by node."""

    def __init__(self, shapes):
        self.nodes, self.constants = [], []
        self.inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    def __call__(self, op, *inputs, outputs=1, **attributes):
        names = [i if isinstance(i, str) else self.constant(np.asarray(i)) for i in inputs]
        outs = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, names, outs, name=f"node{len(self.nodes)}", **attributes))
        return outs[0] if outputs == 1 else outs

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name))
        return name

    def graph(self, *outputs):
        found = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        proto = helper.make_graph(self.nodes, "small", self.inputs, found, self.constants)
        return import_model(helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32) * 0.3


def attention():
    m = Model({"x": ["B", "S", 16], "mask": ["B", 1, 1, "S"]})
    shape = m("Shape", "x")
    heads = m("Concat", m("Slice", shape, np.array([0]), np.array([2])), np.array([4, 4]), axis=0)
    q, k, v = (m("Transpose", m("Reshape", m("Add", m("MatMul", "x", weights(16, 16)), weights(16)), heads), perm=[0, 2, 1, 3]) for _ in range(3))
    scores = m("Add", m("Div", m("MatMul", q, m("Transpose", k, perm=[0, 1, 3, 2])), np.float32(2)), "mask")
    context = m("Transpose", m("MatMul", m("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    joined = m("Add", m("MatMul", m("Reshape", context, np.array([0, 0, -1])), weights(16, 16)), "x")
    return m.graph(m("LayerNormalization", joined, weights(16), weights(16))), {"x": (2, 5, 16), "mask": (2, 1, 1, 5)}


def convolutions():
    m = Model({"x": ["N", 3, 12, 12]})
    y = m("Relu", m("Conv", "x", weights(8, 3, 3, 3), weights(8), pads=[1, 1, 1, 1], strides=[2, 2]))
    y = m("BatchNormalization", y, weights(8), weights(8), weights(8), np.abs(weights(8)) + 1)
    z = m("Sigmoid", m("Conv", y, weights(8, 1, 3, 3), pads=[1, 1, 1, 1], group=8))
    y = m("Concat", m("Add", y, z), m("MaxPool", y, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), axis=1)
    pooled = m("Flatten", m("GlobalAveragePool", m("Pad", y, np.array([0, 0, 1, 0, 0, 0, 0, 1]))))
    return m.graph(m("Gemm", pooled, weights(16, 5), weights(5))), {"x": (3, 3, 12, 12)}


def shuffles():
    m = Model({"x": ["N", 6], "y": ["M", 6]})
    rows = m("Gather", "x", np.array([[0, 1], [1, 0]]))
    a, b = m("Split", m("Concat", "x", "y", axis=0), axis=1, outputs=2)
    best = m("ReduceMax", m("Mul", m("Tanh", a), b), axes=[0], keepdims=0)
    values, order = m("TopK", best, np.array([2]), outputs=2)
    spread = m("Mul", m("Tile", values, np.array([3])), m("Cast", m("CumSum", m("Range", np.int64(0), np.int64(6), np.int64(1)), np.int64(0)), to=1))
    assert order
    return m.graph(m("ReduceSum", m("Add", rows, spread), np.array([0]), keepdims=0), best), {"x": (4, 6), "y": (3, 6)}


@pytest.mark.parametrize("build", [attention, convolutions, shuffles])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_every_stage(build, level):
    graph, shapes = build()
    feeds = {n: RNG.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    expected = run_graph(graph, feeds)
    seen = []

    def same(found):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)

    def watch(stage, subject):
        seen.append(stage)
        if isinstance(subject, Graph):
            verify_graph(subject)
            same(run_graph(subject, feeds))
            again = parse_graph(graph_text(subject, data=True))
            verify_graph(again)
            same(run_graph(again, feeds))
        elif isinstance(subject, NestProgram):
            verify_program(subject)
            same(run_nests(subject, {r: feeds[r.name] for r in subject.inputs}))
            routines = {n.routine.name: n.routine for n in subject.nests if isinstance(n, RoutineNest)}
            text = program_text(subject, data=True)
            again = parse_program(text, routines=routines)
            assert program_text(again, data=True) == text
            verify_program(again)
            same(run_nests(again, {r: feeds[r.name] for r in again.inputs}))
    options = Options(level)
    optimise(graph, options, watch)
    lower_and_fuse(graph, options, watch)
    assert {"decompose", "lower", "fuse"} <= set(seen)


def test_reductions_stay_where_they_run_once():
    """A normalisation whose result is read in other groups than its own is stored: within its reader it would run again for each element."""
    m = Model({"x": [2, 3, 40]})
    normal = m("InstanceNormalization", "x", weights(3), weights(3))
    y = m("Relu", m("Reshape", normal, np.array([1, 12, 4, 5])))
    graph, x = m.graph(y), RNG.standard_normal((2, 3, 40)).astype(np.float32)
    expected = run_graph(graph, {"x": x})
    optimise(graph, Options(3))
    program = lower_and_fuse(graph, Options(3)).program
    reducing = [n for n in program.nests if any(e.op == "reduce" for e in ex.walk(n.values))]
    assert [[integer.as_int(a.extent) for a in n.axes] for n in reducing] == [[2, 3, 40]]
    np.testing.assert_allclose(run_nests(program, {r: x for r in program.inputs})[0], expected[0], rtol=1e-5, atol=1e-6)
