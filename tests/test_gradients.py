"""Gradients of operators against central differences, in float64."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import infer
from sardonyx.ir.errors import UnsupportedError
from sardonyx.ir.graph import Graph, Node, TensorType, Value
from sardonyx.ir.interpret import run_graph
from sardonyx.ir.ops.base import Builder, Op, Sample, all_ops

NO_FLOAT_GRADIENT = {
    "Equal", "Not", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Shape", "Size",
    "ConstantOfShape", "EyeLike", "Range", "ArgMax", "ArgMin",
    "NonZero", "Unique", "OneHot", "Sign", "Floor", "Ceil", "Round", "Cast", "CastLike", "BitCast",
}
OPS = [o for o in all_ops() if type(o).gradient is not Op.gradient and o.name not in NO_FLOAT_GRADIENT]
STEP = 1e-6
FIRST_OUTPUT_ONLY = {"LayerNormalization", "BatchNormalization", "Dropout", "TopK"}  # only the first output has an upstream gradient here


def is_real(a: object) -> bool:
    return a is not None and np.asarray(a).dtype.kind == "f"


@dataclass
class Case:
    """An operator on a sample in float64, alone and with its gradient."""

    alone: Graph
    both: Graph
    feeds: dict[str, np.ndarray]
    gradients: list[Value | None]
    upstream: list[str]

    def loss(self, name: str, x: np.ndarray) -> float:
        """The outputs weighted by their upstream gradients, with input `name` replaced."""
        outputs = run_graph(self.alone, {**self.feeds, name: x})
        return sum(float((y * self.feeds[u]).sum()) for y, u in zip(outputs, self.upstream, strict=True))

    def slope(self, name: str, direction: np.ndarray) -> float:
        x = self.feeds[name]
        return (self.loss(name, x + STEP * direction) - self.loss(name, x - STEP * direction)) / (2 * STEP)


def node_of(op: Op, s: Sample) -> tuple[Graph, Node, dict[str, np.ndarray]]:
    graph, feeds, values = Graph("sample"), {}, []
    for k, a in enumerate(s.inputs):
        if a is None:
            values.append(None)
            continue
        array = np.asarray(a)
        if is_real(a):
            values.append(graph.input(f"x{k}", TensorType(dt.float64, tuple(ex.const(d) for d in array.shape))))
            feeds[f"x{k}"] = array.astype(np.float64)
        else:
            values.append(graph.constant(f"x{k}", array))
    node = graph.add(op.name, values, dict(s.attributes), outputs=s.outputs, version=s.version or op.versions[-1], name="n")
    infer.infer(node)
    graph.outputs = node.outputs[:1] if op.name in FIRST_OUTPUT_ONLY else list(node.outputs)
    return graph, node, feeds


def differentiated(op: Op, s: Sample) -> Case:
    alone, _, _ = node_of(op, s)
    both, node, feeds = node_of(op, s)
    upstream = [both.input(f"u{k}", v.type) for k, v in enumerate(both.outputs)]
    for u in upstream:
        shape = [d.value for d in u.type.shape]
        feeds[u.name] = np.cos(np.arange(np.prod(shape, dtype=int)) + 1.0).reshape(shape)
    gradients = list(op.gradient(Builder(both, node, op), [*upstream, *[None] * (s.outputs - len(upstream))]))
    both.outputs = [g for g in gradients if g is not None]
    return Case(alone, both, feeds, gradients, [u.name for u in upstream])


def is_covered(s: Sample) -> bool:
    """Whether a sample is small, and all its real inputs are float32."""
    arrays = [np.asarray(a) for a in s.inputs if a is not None]
    reals = [a for a in arrays if a.dtype.kind == "f"]
    return bool(reals) and all(a.dtype == np.float32 for a in reals) and all(0 < a.size < 100 for a in arrays)


@pytest.mark.parametrize("op", OPS, ids=lambda o: o.name)
@pytest.mark.filterwarnings("ignore")
def test_gradient(op: Op) -> None:
    checked = 0
    for s in op.samples():
        if not is_covered(s):
            continue
        try:
            case = differentiated(op, s)
        except UnsupportedError:
            continue
        found = iter(run_graph(case.both, case.feeds))
        for k, g in enumerate(case.gradients):
            if g is None:
                continue
            got, name = next(found), f"x{k}"
            if name in case.feeds:
                direction = np.random.default_rng(k).standard_normal(case.feeds[name].shape)
                assert got.shape == direction.shape
                want = case.slope(name, direction)
                np.testing.assert_allclose((got * direction).sum(), want, rtol=1e-5, atol=1e-6, err_msg=f"{op.name} {s.name} input {k}")
                checked += 1
    assert checked, f"no gradient of {op.name} was checked"
