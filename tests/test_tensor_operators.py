"""Element-wise, reduction, normalisation, movement, indexing and selection operators: the interpreter's results against ONNX's own cases."""
from __future__ import annotations

import functools
import importlib
import math
import pkgutil
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from operator_harness import TENSOR_FAMILIES, equal, failures, family, interpret_lowered, sample_graph  # noqa: E402
from sardonyx.compiler.lower import lower  # noqa: E402
from sardonyx.ir import dtypes as dt  # noqa: E402
from sardonyx.ir import expr as ex  # noqa: E402
from sardonyx.ir import infer  # noqa: E402
from sardonyx.ir.errors import ModelError, UnknownRankError  # noqa: E402
from sardonyx.ir.graph import Graph, TensorType  # noqa: E402
from sardonyx.ir.interpret import run_graph, run_nests  # noqa: E402
from sardonyx.ir.ops.base import Op, Sample, all_ops, find  # noqa: E402
from sardonyx.ir.ops.indexing import progression  # noqa: E402

OPS = [o for o in all_ops() if family(o) in TENSOR_FAMILIES]
NAMES = {o.name for o in OPS}


def softmax_of(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def flattened(f, x: np.ndarray) -> list[np.ndarray]:
    return [f(x.reshape(x.shape[0], -1)).reshape(x.shape)]


def windowed(x: np.ndarray, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> list[np.ndarray]:
    before, after = (size - 1) // 2, size // 2
    padded = np.pad(x * x, ((0, 0), (before, after), (0, 0), (0, 0)))
    total = sum(padded[:, k:k + x.shape[1]] for k in range(size))
    return [(x / (bias + alpha / size * total) ** beta).astype(np.float32)]


# Samples on which ONNX's reference evaluator departs from the specification or has no implementation: the expected values in NumPy.
EXPECTED = {
    ("BatchNormalization", "version_9"): lambda x, s, b, m, v: [((x - m[:, None, None]) / np.sqrt(v + 1e-5)[:, None, None] * s[:, None, None]
                                                                + b[:, None, None]).astype(np.float32)],
    ("Hardmax", "flattened"): lambda x: flattened(lambda t: np.eye(t.shape[1], dtype=np.float32)[t.argmax(axis=1)], x),
    ("LogSoftmax", "flattened"): lambda x: flattened(lambda t: np.log(softmax_of(t)), x),
    ("Softmax", "flattened"): lambda x: flattened(softmax_of, x),
    ("LRN", ""): lambda x: windowed(x, 3),
    ("LRN", "even"): lambda x: windowed(x, 4, 0.5, 0.5, 2.0),
    ("LpNormalization", "zero_row"): lambda x: [x / np.maximum(np.abs(x).sum(axis=1, keepdims=True), 1e-30)],
    ("OneHot", "axis"): lambda at, depth, values: [np.moveaxis(np.where(at[..., None] == np.arange(3), values[1], values[0]), -1, 1)],
    ("Pad", "constant"): lambda x, pads, value: [np.pad(x, ((1, 2), (0, 0)), constant_values=value)[:, :-1]],
    **{("Pad", f"{mode}_of_what_is_left"): lambda x, pads, mode=mode: [np.pad(x[:-1, 2:], ((0, 0), (0, 3)), mode)] for mode in ("reflect", "edge", "wrap")},
    **{("MeanVarianceNormalization", f"rank_{rank}"): lambda x, axes=axes: [(x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9)]
       for rank, axes in ((3, (0, 2)), (2, (0,)), (1, (0,)))},
    ("Scatter", ""): lambda x, at, u: [np.where(np.arange(3)[:, None] == at, u, x)],
    ("Upsample", "linear"): None,
}


@functools.cache
def official_cases() -> dict[str, list]:
    """The official single-operator cases by the first of their operators; the modules of pools and attention, which take long to load, are left out."""
    from onnx.backend.test.case import node
    found = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__):
            if "pool" not in module.name and "attention" not in module.name:
                importlib.import_module(f"{node.__name__}.{module.name}")
        for case in node._NodeTestCases:
            ops = sorted({n.op_type for n in case.model.graph.node})
            if set(ops) <= NAMES and not any(n.domain for n in case.model.graph.node):
                found[ops[0]].append(case)
    return found


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.filterwarnings("ignore")
def test_official_cases(name: str) -> None:
    problems = failures(official_cases()[name])
    assert not problems, "\n".join(problems)


def test_official_cases_are_found() -> None:
    assert sum(map(len, official_cases().values())) > 900


# ----------------------------------------------------------------------------------------------------------------- samples
def symbolic_graph(op: Op, s: Sample) -> tuple[Graph, dict[str, np.ndarray], dict[str, int]]:
    """As `sample_graph`, with a symbol for every dimension above 1 of inputs that are no shapes or axes; those are constants."""
    def is_size(k: int, m: int, array: np.ndarray) -> bool:
        tuples = op.name.endswith("ND") and k == 1 and m == array.ndim - 1
        return not tuples and not (array.dtype == np.int64 and array.ndim == 1)
    return sample_graph(op, s, is_size, lambda k, array: k > 0 and array.dtype == np.int64 and array.ndim <= 1)


def reference(op: Op, s: Sample) -> Sequence[object] | None:
    """The results of ONNX's reference evaluator, or those of EXPECTED."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator
    if (op.name, s.name) in EXPECTED:
        f = EXPECTED[op.name, s.name]
        return None if f is None else f(*s.inputs)
    names = ["" if a is None else f"x{k}" for k, a in enumerate(s.inputs)]
    attributes = {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in s.attributes.items()}
    node = helper.make_node(op.name, names, [f"y{k}" for k in range(s.outputs)], **attributes)
    feeds = {n: np.asarray(a) for n, a in zip(names, s.inputs, strict=True) if a is not None}
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None) for n, a in feeds.items()]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=o) for o in node.output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", s.version or op.versions[-1])])
    return ReferenceEvaluator(model).run(None, feeds)


@pytest.mark.parametrize("op", OPS, ids=lambda o: o.name)
@pytest.mark.filterwarnings("ignore")
def test_samples(op: Op) -> None:
    for s in op.samples():
        graph, feeds, _ = sample_graph(op, s)
        got, want = run_graph(graph, feeds), reference(op, s)
        for g, w in zip(got, want or [], strict=want is not None):
            narrow = np.asarray(w).dtype.itemsize < 4 and np.asarray(w).dtype.kind not in "iub"
            equal(g, w, 4e-3 if narrow else 1e-5, 2e-3 if narrow else 1e-6)


@pytest.mark.parametrize("op", OPS, ids=lambda o: o.name)
@pytest.mark.filterwarnings("ignore")
def test_samples_with_symbolic_sizes(op: Op) -> None:
    for s in op.samples():
        if any(a is not None and np.asarray(a).size == 0 and np.asarray(a).dtype != np.int64 for a in s.inputs):
            continue
        graph, feeds, _ = sample_graph(op, s)
        want = run_graph(graph, feeds)
        try:
            graph, feeds, sizes = symbolic_graph(op, s)
        except UnknownRankError:  # that the sizes decide; sessions compile for shapes then
            continue
        for g, w in zip(interpret_lowered(graph, feeds, sizes), want, strict=True):
            equal(g, w, 1e-6, 1e-7)


def test_every_operator_has_samples() -> None:
    assert [o.name for o in OPS if not list(o.samples())] == []


def test_versions_are_those_of_onnx() -> None:
    history = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history[schema.name].add(schema.since_version)
    history["LayerNormalization"].add(1)  # exporters wrote it into ai.onnx before it was standard, and ONNX Runtime takes it
    wrong = {o.name: sorted(history[o.name]) for o in OPS if set(o.versions) != history[o.name]}
    assert not wrong


# ------------------------------------------------------------------------------------------------------------------ shapes
def shapes(op: str, types: Sequence[tuple[dt.DType, tuple]], constants: Sequence[np.ndarray] = (), outputs: int = 1, **attributes) -> list[str]:
    """Inferred types, as text, of an operator on typed inputs followed by constants."""
    g = Graph("g")
    values = [g.input(f"x{k}", TensorType(t, tuple(d if isinstance(d, ex.Expr) else ex.const(d) for d in s))) for k, (t, s) in enumerate(types)]
    values += [g.constant(f"c{k}", c) for k, c in enumerate(constants)]
    node = g.add(op, values, attributes, outputs=outputs, version=find("", op).versions[-1], name="n")
    infer.infer(node)
    return [str(v.type) for v in node.outputs]


def test_symbolic_shapes() -> None:
    b, s = ex.sym("B"), ex.sym("S")
    x = (dt.float32, (b, s, 768))
    assert shapes("Reshape", [x], [np.array([0, 0, 12, 64])]) == ["f32[B, S, 12, 64]"]
    assert shapes("Reshape", [x], [np.array([0, -1])]) == ["f32[B, (768*S)]"]
    assert shapes("Reshape", [x], [np.array([-1, 768])]) == ["f32[(B*S), 768]"]
    assert shapes("Slice", [x], [np.array([0]), np.array([-1]), np.array([1])]) == ["f32[B, max((S - 1), 0), 768]"]
    assert shapes("Slice", [x], [np.array([0]), np.array([2**63 - 1]), np.array([1]), np.array([1])]) == ["f32[B, S, 768]"]
    assert shapes("Split", [x], [np.array([512, 256])], outputs=2, axis=-1) == ["f32[B, S, 512]", "f32[B, S, 256]"]
    assert shapes("Concat", [x, (dt.float32, (b, 3, 768))], axis=1) == ["f32[B, (S + 3), 768]"]
    assert shapes("Gather", [x, (dt.int64, ())], axis=1) == ["f32[B, 768]"]
    assert shapes("ReduceMean", [x], [np.array([-1])]) == ["f32[B, S, 1]"]
    assert shapes("Flatten", [x]) == ["f32[B, (768*S)]"]


def test_wrong_nodes_are_refused() -> None:
    x = (dt.float32, (2, 3))
    for op, types, constants, attributes in (
            ("Add", [x, (dt.float32, (2, 4))], [], {}),
            ("Reshape", [x], [np.array([4, 2])], {}),
            ("Reshape", [x], [np.array([-1, -1])], {}),
            ("Transpose", [x], [], {"perm": (0, 0)}),
            ("Squeeze", [x], [np.array([0])], {}),
            ("Unsqueeze", [x], [np.array([0, 0])], {}),
            ("Concat", [x, (dt.float32, (2,))], [], {"axis": 0}),
            ("Softmax", [x], [], {"axis": 2}),
            ("Split", [x], [np.array([1, 1])], {"axis": 1}),
            ("TopK", [x], [np.array([4])], {}),
            ("Pad", [x], [np.array([1, 1])], {}),
            ("Cast", [x], [], {}),
            ("BitShift", [(dt.uint8, (2,)), (dt.uint8, (2,))], [], {"direction": "UP"})):
        with pytest.raises(ModelError, match="'n'"):
            shapes(op, types, constants, outputs=2 if op in ("Split", "TopK") else 1, **attributes)


def test_reads_stay_inside() -> None:
    """Indices out of range are errors; what runs before the check finds them is clamped when reading and ignored when writing."""
    x = np.arange(6, dtype=np.float32).reshape(3, 2)

    def unchecked(op: str, *inputs: np.ndarray) -> list:
        graph, feeds, sizes = sample_graph(find("", op), Sample(inputs))
        with pytest.raises(ModelError, match="out of range"):
            run_graph(graph, feeds)
        program = lower(graph)
        program.checks.clear()
        return run_nests(program, {r: feeds[r.name] for r in program.inputs}, sizes)[0].tolist()
    assert unchecked("Gather", x, np.array([7, -9, 1])) == [[4, 5], [0, 1], [2, 3]]
    assert unchecked("ScatterND", x, np.array([[5], [-4], [0]]), np.full((3, 2), 9, np.float32)) == [[9, 9], [2, 3], [4, 5]]


@pytest.mark.parametrize("indices,steps", [
    ([3, 5, 7], [2]), ([3, 5, 8], None), (4, []), ([[7]], [0, 0]), ([[0, 1, 2], [2, 3, 4]], [2, 1]), ([[0, 1, 2], [2, 3, 5]], None), ([[9], [6], [3]], [-3, 0]),
])
def test_known_indices_in_progression(indices: list, steps: list[int] | None) -> None:
    assert progression(np.array(indices)) == steps


def test_special_values() -> None:
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32)

    def run(op: str, *inputs: np.ndarray, **attributes) -> np.ndarray:
        graph, feeds, _ = sample_graph(find("", op), Sample(inputs, attributes))
        return run_graph(graph, feeds)[0]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run("Relu", special), [np.nan, np.inf, 0, 0, 0])
        np.testing.assert_array_equal(run("Sign", special), [np.nan, 1, -1, 0, 0])
        np.testing.assert_array_equal(run("Max", special, np.zeros(5, np.float32)), [np.nan, np.inf, 0, 0, 0])
        np.testing.assert_array_equal(run("Clip", special, np.float32(-1), np.float32(1)), [np.nan, 1, -1, 0, 0])
        np.testing.assert_array_equal(run("Softplus", np.array([1000, -1000], np.float32)), [1000, 0])
        assert run("ReduceLogSumExp", np.full(3, -np.inf, np.float32)).tolist() == [-math.inf]
        assert run("Pow", special, np.array(0.5, np.float32)).tolist()[1:] == [math.inf, math.inf, 0, 0]


def test_default_attributes_are_those_of_a_file() -> None:
    """A default is a float32, as the same value would be if it were written, which results in float64 show."""
    inputs = np.linspace(-1, 1, 12).reshape(2, 3, 2), *(np.linspace(0.001, 0.002, 3) for _ in range(4))
    graph, feeds, _ = sample_graph(find("", "BatchNormalization"), Sample(inputs))
    written, _, _ = sample_graph(find("", "BatchNormalization"), Sample(inputs, {"epsilon": float(np.float32(1e-5))}))
    np.testing.assert_array_equal(run_graph(graph, feeds)[0], run_graph(written, feeds)[0])


# ---------------------------------------------------------------------------------------------------------------- compiled
ROUTINES = ("Compress", "CumProd", "CumSum", "Dropout", "NonZero", "ScatterElements", "ScatterND", "TopK", "Unique")


@pytest.mark.parametrize("name", ROUTINES)
@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.filterwarnings("ignore")
def test_routines_compile(name: str, kind: str) -> None:
    """What a session computes by routines agrees with their plain Python meaning, narrow floats included."""
    import sardonyx
    from onnx import helper

    op = find("", name)
    samples = [s for s in op.samples() if s.version is None and any(a is not None and np.asarray(a).dtype == np.float32 for a in s.inputs)]
    for s in samples[:3]:
        inputs = tuple(np.asarray(a).astype(kind) if np.asarray(a).dtype == np.float32 else np.asarray(a) for a in s.inputs)
        graph, feeds, _ = sample_graph(op, replace(s, inputs=inputs))
        want = run_graph(graph, feeds)
        node = helper.make_node(name, list(feeds), [f"y{k}" for k in range(s.outputs)], **s.attributes)
        ports = [[helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), shape) for n, a, shape in group] for group in (
            [(n, a, a.shape) for n, a in feeds.items()], [(n, np.asarray(a), None) for n, a in zip(node.output, want, strict=True)])]
        model = helper.make_model(helper.make_graph([node], "g", *ports), opset_imports=[helper.make_opsetid("", op.versions[-1])], ir_version=10)
        for g, w in zip(sardonyx.InferenceSession(model.SerializeToString()).run(None, feeds), want, strict=True):
            equal(g, w, 1e-6, 1e-7)
