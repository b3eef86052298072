"""Operators that move elements, compiled: complex numbers and strings go where the real numbers of the same case go."""
from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import defs, helper
from operator_harness import interpret, sample_graph
from sardonyx.ir.ops.base import Op, Sample, all_ops
from sardonyx.ir.ops.views import View

MOVERS = [o for o in all_ops() if o.domain == "" and isinstance(o, View) and list(o.samples())]


def allowed(op: Op, kind: str) -> frozenset[int]:
    """Which inputs may hold elements of a kind."""
    s = defs.get_schema(op.name, op.versions[-1])
    types = {c.type_param_str: c.allowed_type_strs for c in s.type_constraints}
    last = len(s.inputs) - 1  # which may stand for many
    return frozenset(k for k in range(last + 8) if f"tensor({kind})" in types.get(s.inputs[min(k, last)].type_str, ()))


def chosen(op: Op, kind: str) -> list[Sample]:
    """Samples of the newest version that neither compute nor give numbers of other types."""
    found = [s for s in op.samples() if s.version is None and s.attributes.get("reduction", "none") == "none"]
    return found if allowed(op, kind) else []


def model(op: Op, s: Sample, inputs: tuple) -> onnx.ModelProto:
    names = ["" if a is None else f"x{k}" for k, a in enumerate(inputs)]
    attributes = {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in s.attributes.items()}
    node = helper.make_node(op.name, names, [f"y{k}" for k in range(s.outputs)], **attributes)
    given = [helper.make_tensor_value_info(n, onnx.TensorProto.STRING if a.dtype == object else helper.np_dtype_to_tensor_dtype(a.dtype), [f"{n}_{m}" if m == 0 and k == 0 else d for m, d in enumerate(a.shape)])
             for k, (n, a) in enumerate(zip(names, inputs)) if a is not None]
    graph = helper.make_graph([node], "g", given, [onnx.ValueInfoProto(name=o) for o in node.output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", op.versions[-1])], ir_version=10)


def run(op: Op, s: Sample, moved: frozenset[int], change: Callable[[int, np.ndarray], np.ndarray]) -> list[np.ndarray]:
    inputs = tuple(None if a is None else change(k, np.asarray(a)) if k in moved else np.asarray(a) for k, a in enumerate(s.inputs))
    return sardonyx.InferenceSession(model(op, s, inputs).SerializeToString()).run(None, {f"x{k}": a for k, a in enumerate(inputs) if a is not None})


def reference(op: Op, s: Sample, moved: frozenset[int], change: Callable[[int, np.ndarray], np.ndarray]) -> list[np.ndarray]:
    inputs = tuple(change(k, np.asarray(a)) if k in moved and a is not None else a for k, a in enumerate(s.inputs))
    graph, feeds, _ = sample_graph(op, Sample(inputs, s.attributes, s.outputs, s.version))
    return [np.asarray(v) for v in interpret(graph, feeds)]


def numbers(seed: int, k: int, a: np.ndarray) -> np.ndarray:
    return np.random.default_rng([seed, k]).integers(1, 1000, a.shape).astype(np.float64)


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
@pytest.mark.filterwarnings("ignore:this model is compiled")
@pytest.mark.parametrize("op", [o for o in MOVERS if chosen(o, "complex64")], ids=lambda o: o.name)
def test_complex_numbers(op: Op, kind: str) -> None:
    moved, real, imaginary = allowed(op, kind), functools.partial(numbers, 1), functools.partial(numbers, 2)
    for s in chosen(op, kind):
        got = run(op, s, moved, lambda k, a: (real(k, a) + 1j * imaginary(k, a)).astype(kind))
        for g, r, i in zip(got, reference(op, s, moved, real), reference(op, s, moved, imaginary), strict=True):
            np.testing.assert_array_equal(g, r + 1j * i if g.dtype.kind == "c" else r)


def spelled(a: np.ndarray) -> np.ndarray:
    out = np.empty(a.size, object)
    out[:] = [f"s{int(v)}" if v else "" for v in a.reshape(-1)]
    return out.reshape(a.shape)


@pytest.mark.filterwarnings("ignore:this model is compiled")
@pytest.mark.parametrize("op", [o for o in MOVERS if chosen(o, "string")], ids=lambda o: o.name)
def test_strings(op: Op) -> None:
    moved, whole = allowed(op, "string"), functools.partial(numbers, 3)
    for s in chosen(op, "string"):
        for g, w in zip(run(op, s, moved, lambda k, a: spelled(whole(k, a))), reference(op, s, moved, whole), strict=True):
            assert g.tolist() == (spelled(w) if g.dtype == object else w).tolist()


@pytest.mark.parametrize("product", [False, True])
def test_complex_numbers_are_added_and_multiplied_where_they_are_scattered(product: bool) -> None:
    op, = (o for o in MOVERS if o.name == "ScatterElements")
    x, u = np.array([1 + 2j, 3 - 1j]), np.array([2j, 1 - 1j, 4.0])
    s = Sample((x, np.array([0, 1, 0]), u), {"reduction": "mul" if product else "add"})
    got, = run(op, s, frozenset(), lambda k, a: a)
    np.testing.assert_allclose(got, [x[0] * u[0] * u[2], x[1] * u[1]] if product else [x[0] + u[0] + u[2], x[1] + u[1]])


@pytest.mark.parametrize("shape", [[-1, 3], [2, 0, 1], [6, 1]])
def test_strings_take_a_shape_that_only_the_run_knows(shape: list[int]) -> None:
    op, = (o for o in MOVERS if o.name == "Reshape")
    x = spelled(np.arange(6.0).reshape(2, 3))
    got, = run(op, Sample((x, np.array(shape, np.int64)), {}), frozenset(), lambda k, a: a)
    assert got.tolist() == x.reshape([d or x.shape[k] for k, d in enumerate(shape)]).tolist()


@pytest.mark.parametrize(("start", "end", "step"), [(-7, -1000, -2), (-3, -9, -1), (5, 0, -2)])
def test_slices_backwards_begin_inside(start: int, end: int, step: int) -> None:
    """A start before the first element stands for the first one."""
    op, = (o for o in MOVERS if o.name == "Slice")
    x, one = np.arange(2.0), lambda v: np.array([v], np.int64)
    got, = run(op, Sample((x, one(start), one(end), one(0), one(step)), {}), frozenset(), lambda k, a: a)
    assert got.tolist() == ([0.0] if start < 0 else [1.0])
