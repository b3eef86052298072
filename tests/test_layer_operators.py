"""Products, convolutions, pools, recurrent layers, resampling, signals, quantisation: the interpreter's results against ONNX's own cases and against oracles."""
from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from operator_harness import LAYER_FAMILIES, equal, failures, family, interpret, interpret_lowered, official_cases, oracle, sample_graph  # noqa: E402
from sardonyx.ir import dtypes as dt  # noqa: E402
from sardonyx.ir import expr as ex  # noqa: E402
from sardonyx.ir import infer  # noqa: E402
from sardonyx.ir.errors import ModelError  # noqa: E402
from sardonyx.ir.graph import Graph, TensorType  # noqa: E402
from sardonyx.ir.ops.base import Op, Sample, all_ops, find  # noqa: E402

OPS = [o for o in all_ops() if family(o) in LAYER_FAMILIES and not o.domain]
NAMES = {o.name for o in OPS}
CASES = ("affinegrid", "attention", "averagepool", "blackmanwindow", "conv", "convinteger", "convtranspose", "deformconv", "dequantizelinear", "det", "dft",
         "dynamicquantizelinear", "einsum", "gemm", "globalaveragepool", "globalmaxpool", "gridsample", "gru", "hammingwindow", "hannwindow", "lppool", "lstm",
         "matmul", "matmulinteger", "maxpool", "maxunpool", "melweightmatrix", "nonmaxsuppression", "qlinearconv", "qlinearmatmul", "quantizelinear", "resize", "rnn",
         "roialign", "rotaryembedding", "stft")
# Expected values that are rounding noise of NumPy's single-precision transform, or draws of NumPy's generator.
NOT_REPRODUCIBLE = ("test_dft_inverse", "test_dft_inverse_opset19")
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def of_operator(name: str) -> list:
    return [c for c in official_cases(CASES) if {n.op_type for n in c.model.graph.node} == {name} and c.name not in NOT_REPRODUCIBLE]


@pytest.mark.parametrize("name", sorted(NAMES - RANDOM - {"ImageDecoder"}))
@pytest.mark.filterwarnings("ignore")
def test_official_cases(name: str) -> None:
    problems = failures(of_operator(name))
    assert not problems, "\n".join(problems)


def test_official_cases_are_found() -> None:
    assert sum(len(of_operator(name)) for name in NAMES) > 350


# ----------------------------------------------------------------------------------------------------------------- samples
@pytest.mark.parametrize("op", [o for o in OPS if o.name not in RANDOM], ids=lambda o: o.name)
@pytest.mark.filterwarnings("ignore")
def test_samples(op: Op) -> None:
    for s in op.samples():
        want = oracle(op, s)
        graph, feeds, _ = sample_graph(op, s)
        got = interpret(graph, feeds)
        for g, w in zip(got, want or [], strict=want is not None):
            if np.asarray(w).dtype.kind in "iu" and np.asarray(w).dtype.itemsize == 1:  # scales multiply in another order: half a unit may round the other way
                np.testing.assert_allclose(np.asarray(g, np.int64), np.asarray(w, np.int64), atol=1)
            else:
                equal(g, w, 1e-4, 1e-5)


def is_size(k: int, m: int, array: np.ndarray) -> bool:
    """Dimensions that may be symbolic in any operator: batch sizes and lengths, but neither vectors that spell shapes nor channels tied to
    weights nor the parts of complex numbers."""
    return not (array.dtype == np.int64 and array.ndim == 1) and k == 0 and m != 1 and array.shape[m:] not in ((1,), (2,))


@pytest.mark.parametrize("op", [o for o in OPS if o.name not in ("Det",)], ids=lambda o: o.name)
@pytest.mark.filterwarnings("ignore")
def test_samples_with_symbolic_sizes(op: Op) -> None:
    for s in op.samples():
        graph, feeds, _ = sample_graph(op, s)
        want = interpret(graph, feeds)
        graph, feeds, sizes = sample_graph(op, s, is_size)
        for g, w in zip(interpret_lowered(graph, feeds, sizes), want, strict=True):
            equal(g, w, 1e-5, 1e-6)


def test_every_operator_has_samples() -> None:
    assert [o.name for o in OPS if not list(o.samples()) and o.name != "ImageDecoder"] == []


def test_versions_are_those_of_onnx() -> None:
    history = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history[schema.name].add(schema.since_version)
    assert {o.name: sorted(history[o.name]) for o in OPS if history[o.name] and set(o.versions) != history[o.name]} == {}


# ---------------------------------------------------------------------------------------------------------- random numbers
def draw(op: str, *inputs: np.ndarray, **attributes: object) -> np.ndarray:
    graph, feeds, _ = sample_graph(find("", op), Sample(inputs, attributes))
    return interpret(graph, feeds)[0]


def test_random_numbers_have_their_distribution() -> None:
    shape = (200, 500)
    u = draw("RandomUniform", shape=shape, low=-1.0, high=3.0, seed=7.0)
    assert -1 <= u.min() < -0.99 and 2.99 < u.max() < 3 and abs(u.mean() - 1) < 0.02
    g = draw("RandomNormal", shape=shape, mean=2.0, scale=3.0, seed=7.0)
    assert abs(g.mean() - 2) < 0.05 and abs(g.std() - 3) < 0.05 and abs(np.corrcoef(g[:, 0], g[:, 1])[0, 1]) < 0.3
    b = draw("Bernoulli", np.full(shape, 0.3, np.float32), seed=1.0)
    assert set(np.unique(b)) == {0, 1} and abs(b.mean() - 0.3) < 0.01
    m = draw("Multinomial", np.log(np.array([[0.1, 0.2, 0.7]], np.float32)), sample_size=20000, seed=3.0)
    np.testing.assert_allclose(np.bincount(m[0]) / 20000, [0.1, 0.2, 0.7], atol=0.02)
    assert m.dtype == np.int32


def test_seeds_matter() -> None:
    first, again, other = (draw("RandomUniform", shape=(100,), seed=s) for s in (1.0, 1.0, 2.0))
    assert (first == again).all() and (first != other).mean() > 0.9


# ------------------------------------------------------------------------------------------------------------------ shapes
def shapes(op: str, types: list, constants: list = [], **attributes: object) -> list[str]:  # noqa: B006
    g = Graph("g")
    values = [g.input(f"x{k}", TensorType(t, tuple(ex.as_expr(d) for d in s))) if t else None for k, (t, s) in enumerate(types)]
    values += [None if c is None else g.constant(f"c{k}", c) for k, c in enumerate(constants)]
    node = g.add(op, values, attributes, version=find("", op).versions[-1], name="n")
    infer.infer(node)
    return [str(v.type) for v in node.outputs]


def test_symbolic_shapes() -> None:
    b, s = ex.sym("B"), ex.sym("S")
    f = dt.float32
    assert shapes("MatMul", [(f, (b, s, 768)), (f, (768, 3072))]) == ["f32[B, S, 3072]"]
    assert shapes("Conv", [(f, (b, 3, s, 224)), (f, (64, 3, 7, 7))], strides=(2, 2), pads=(3, 3, 3, 3)) == ["f32[B, 64, floordiv((S + 1), 2), 112]"]
    assert shapes("MaxPool", [(f, (b, 3, 112, 112))], kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)) == ["f32[B, 3, 56, 56]"]
    assert shapes("Conv", [(f, (b, 3, s, s)), (f, (8, 3, 3, 3))], auto_pad="SAME_UPPER") == ["f32[B, 8, S, S]"]
    assert shapes("ConvTranspose", [(f, (b, 8, s, 4)), (f, (8, 3, 2, 2))], strides=(2, 2)) == ["f32[B, 3, (2*S), 8]"]
    assert shapes("Resize", [(f, (b, 3, s, 7))], [None, np.array([1, 1, 2, 2], np.float32)]) == ["f32[B, 3, (2*S), 14]"]
    assert shapes("Einsum", [(f, (b, s, 12, 64)), (f, (b, 9, 12, 64))], equation="bqhd,bkhd->bhqk") == ["f32[B, 12, S, 9]"]


def test_wrong_nodes_are_refused() -> None:
    f = dt.float32
    for op, types, attributes in (
            ("MatMul", [(f, (2, 3)), (f, (4, 5))], {}),
            ("MatMul", [(f, ()), (f, (4, 5))], {}),
            ("Gemm", [(f, (2, 3, 4)), (f, (4, 5))], {}),
            ("Einsum", [(f, (2, 3)), (f, (3, 4))], {"equation": "ij,jk,kl->il"}),
            ("Einsum", [(f, (2, 3))], {"equation": "ijk->i"}),
            ("Conv", [(f, (1, 4, 8, 8)), (f, (8, 3, 3, 3))], {}),
            ("Conv", [(f, (1, 3, 2, 2)), (f, (8, 3, 3, 3))], {}),
            ("Conv", [(f, (1, 3, 8, 8)), (f, (8, 3, 3, 3))], {"strides": (1, 1, 1)}),
            ("MaxPool", [(f, (1, 3, 8, 8))], {}),
            ("LSTM", [(f, (1, 3, 8)), (f, (1, 8, 8)), (f, (1, 8, 2))], {"activations": ("Tanh",)}),
            ("Attention", [(f, (1, 3, 8)), (f, (1, 3, 8)), (f, (1, 3, 8))], {}),
            ("GridSample", [(f, (1, 3, 8, 8)), (f, (1, 2, 2, 2))], {"mode": "quintic"})):
        with pytest.raises(ModelError, match="'n'"):
            shapes(op, types, **attributes)
