"""Custom operators: how functions become expressions, routines or host calls, and what the cache and packages keep of them."""
from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import sardonyx
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import infer, registrations
from sardonyx.ir.captured import capture
from sardonyx.ir.graph import Graph, TensorType
from sardonyx.ir.interpret import run_graph
from sardonyx.ir.ops.base import Builder, find
from sardonyx.ir.scalar_functions import NotExpressible, trace
from sardonyx.runtime.package import save_package

ROOT = Path(__file__).resolve().parent.parent
OFFSET = 3.0


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "cache"))
    before = registrations.current()
    yield
    registrations._table = before


def model(op: str = "Op", attributes: str = "", inputs: str = "float[N, 4] x", output: str = "float[N, 4]", arguments: str = "a") -> onnx.ModelProto:
    """Relu, the custom operator, Neg."""
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17, "test" : 1]> g ({inputs}) => ({output} y) {{
        a = Relu (x)
        b = test.{op} {attributes} ({arguments})
        y = Neg (b) }}""")


X = np.linspace(-2, 4, 12, dtype=np.float32).reshape(3, 4)


def branches(x: float) -> float:
    if x > 2.0:
        return x * 2.0
    if x > 1.0:
        y = x + 1.0
    elif x < 0.25:
        return -x
    else:
        y = 7.0
    return y * 3.0


def broken_loop(x: float) -> float:
    total = 0.0
    for k in range(6):
        if k == 1:
            continue
        if total > x:
            break
        total = total + 0.75 * k
    else:
        total = total + 100.0
    return total


def helper(x: float, by: float) -> float:
    return x * by + OFFSET


def calls(x: float) -> float:
    a, b = helper(x, 2.0), min(x, 1.5, 0.5 * x)
    return max(a, b) if 0.5 < x <= 3.0 or not x else math.tanh(a) - abs(b)


def powers(x: float) -> float:
    table = (0.5, 0.25, -1.0)
    found = 0.0
    for c in table:
        found = found * x + c
    return found ** 2 + sum(t * x for t in (1.0, 2.0)) if False else found ** 2 + x ** 1.5


def whole(x: float) -> float:
    n = int(x * 3.0)
    return (n % 4) * 0.5 + n // 2 + math.floor(x)


def chosen(x: float) -> float:
    n = 0
    for limit in (0.5, 1.0, 2.5):
        if x > limit:
            n += 1
    return n * 0.5 * (1 if x > 1 else -1)


@pytest.mark.parametrize("function", [branches, broken_loop, calls, whole, chosen], ids=lambda f: f.__name__)
def test_expression_means_what_the_function_says(function: Callable[[float], float]) -> None:
    sardonyx.register_op("test", "Op", function, mode="fused", dtypes="float" if function is whole else None)
    session = sardonyx.InferenceSession(model())
    assert len(session._model.plan.steps) == 1, "one kernel with its neighbours"
    want = -np.vectorize(function, otypes=[np.float64])(np.maximum(X, 0).astype(np.float64))
    np.testing.assert_allclose(session.run(None, {"x": X})[0], want, rtol=2e-6, atol=1e-6)


def unbound(x: float) -> float:
    if x > 1.0:
        y = 2.0
    return y


def endless(x: float) -> float:
    while x > 1.0:
        x = x / 2.0
    return x


def falls_off(x: float) -> float | None:
    if x > 1.0:
        return 1.0


def raising(x: float) -> float:
    if x > 1e30:
        raise ValueError(x)
    return x


@pytest.mark.parametrize(("function", "offset", "reason"), [
    (unbound, 3, "y is not set"), (endless, 1, "how often the loop runs depends on the inputs"), (falls_off, 0, "can end without returning"), (raising, 2, "is no arithmetic"), (powers, 5, "GeneratorExp")])
def test_what_is_no_expression_says_line_and_reason(function: Callable[[float], float], offset: int, reason: str) -> None:
    if function is powers:
        assert trace(capture(function), [ex.sym("x")], {}), "the branch that is never taken does not count"
        return
    sardonyx.register_op("test", "Op", function, mode="fused")
    with pytest.raises(sardonyx.SardonyxError, match=reason) as e:
        sardonyx.InferenceSession(model())
    assert f"line {function.__code__.co_firstlineno + offset} of {function.__name__}" in str(e.value)


def test_loop_over_data_is_native() -> None:
    sardonyx.register_op("test", "Op", endless)
    session = sardonyx.InferenceSession(model())
    names = session._model.plan.kernels
    assert any(n.startswith("routine_custom_endless") for n in names) and not session._model.plan.host_functions
    np.testing.assert_allclose(session.run(None, {"x": X})[0], -np.vectorize(endless)(np.maximum(X, 0)), rtol=1e-6)
    assert "not fused: line" in str(session._model.report["journal"])


def test_what_raises_runs_on_the_host_and_says_so() -> None:
    sardonyx.register_op("test", "Op", raising)
    session = sardonyx.InferenceSession(model())
    step, = [s for s in session._model.plan.steps if hasattr(s, "reason")]
    assert "not fused" in step.reason and "exceptions cannot leave compiled code" in step.reason
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], -np.maximum(X, 0))
    with pytest.raises(ValueError):
        session.run(None, {"x": X + np.float32(2e30)})


def test_modes_are_demands() -> None:
    sardonyx.register_op("test", "Op", raising, mode="native")
    with pytest.raises(sardonyx.SardonyxError, match="mode='native'.*exceptions"):
        sardonyx.InferenceSession(model())
    sardonyx.register_op("test", "Op", branches, mode="host")
    assert sardonyx.InferenceSession(model())._model.plan.host_functions
    with pytest.raises(ValueError, match="mode"):
        sardonyx.register_op("test", "Op", branches, mode="gpu")
    with pytest.raises(ValueError, match="cannot be replaced"):
        sardonyx.register_op("", "Relu", branches)


def scaled(x: float, by: float | None = None, *, factor: float = 2.0) -> float:
    return x * factor if by is None else x * by * factor


def test_attributes_and_optional_inputs() -> None:
    sardonyx.register_op("test", "Op", scaled, mode="fused")
    relu = np.maximum(X, 0)
    for attributes, factor in (("", 2.0), ("<factor: float = 0.5>", 0.5)):
        np.testing.assert_array_equal(sardonyx.InferenceSession(model(attributes=attributes)).run(None, {"x": X})[0], -relu * np.float32(factor))
    both = model(inputs="float[N, 4] x, float[4] c", arguments="a, c")
    np.testing.assert_array_equal(sardonyx.InferenceSession(both).run(None, {"x": X, "c": X[2]})[0], -relu * X[2] * 2)
    with pytest.raises(sardonyx.SardonyxError, match="has no attribute wrong"):
        sardonyx.InferenceSession(model(attributes="<wrong: float = 0.5>"))
    with pytest.raises(sardonyx.SardonyxError, match="takes 1 to 2 inputs, 3 are given"):
        sardonyx.InferenceSession(model(arguments="a, a, a"))


def test_narrow_floats_and_integers() -> None:
    sardonyx.register_op("test", "Op", lambda x: x * 3)
    for name, dtype in (("float16", np.float16), ("double", np.float64), ("int32", np.int32)):
        session = sardonyx.InferenceSession(model(inputs=f"{name}[N, 4] x", output=f"{name}[N, 4]"))
        y, = session.run(None, {"x": X.astype(dtype)})
        assert y.dtype == dtype
        np.testing.assert_allclose(y, -3 * np.maximum(X.astype(dtype), 0), rtol=2e-3 if dtype is np.float16 else 1e-6)


def test_array_function_and_its_shape_rule() -> None:
    sardonyx.register_op("test", "Op", lambda x, *, count=2: x[:, :count].copy(), kind="array", shape=lambda x, count: (x[0], count))
    session = sardonyx.InferenceSession(model(output="float[N, K]"))
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], -np.maximum(X, 0)[:, :2])
    sardonyx.register_op("test", "Op", lambda x: x[:1], kind="array")
    with pytest.raises(sardonyx.SardonyxError, match="shape rule says"):
        sardonyx.InferenceSession(model()).run(None, {"x": X})
    sardonyx.register_op("test", "Op", lambda x: x[x > 1.0], kind="array", shape=lambda x: (None,))
    assert sardonyx.InferenceSession(model(output="float[K]")).run(None, {"x": X})[0].shape == (int((X > 1).sum()),)


def test_registering_again_never_gives_an_old_result() -> None:
    made = []
    for factor in (2.0, 5.0):
        for mode in ("fused", "native", "host"):
            sardonyx.register_op("test", "Op", lambda x: x * factor, mode=mode)  # noqa: B023  (captured when registered)
            made.append((factor, sardonyx.InferenceSession(model())))
    sardonyx.unregister_op("test", "Op")
    for factor, session in made:
        np.testing.assert_array_equal(session.run(None, {"x": X})[0], -np.maximum(X, 0) * np.float32(factor))
    with pytest.raises(sardonyx.SardonyxError, match="not implemented: test::Op"):
        sardonyx.InferenceSession(model())


def test_the_cache_serves_equal_functions() -> None:
    for _ in range(2):
        sardonyx.register_op("test", "Op", branches)
        session = sardonyx.InferenceSession(model())
    assert session._model.origin == "cache"
    assert capture(helper).fingerprint == capture(helper).fingerprint
    opaque = object()
    assert capture(lambda: opaque).fingerprint != capture(lambda: opaque).fingerprint


@pytest.mark.parametrize("mode", ["fused", "native", "host"])
def test_packages(mode: str, tmp_path: Path) -> None:
    sardonyx.register_op("test", "Op", branches, mode=mode)
    save_package(sardonyx.InferenceSession(model())._model, tmp_path / "m.sdx")
    program = f"import numpy as np, sardonyx; print(sardonyx.InferenceSession({str(tmp_path / 'm.sdx')!r}).run(None, {{'x': np.full((1, 4), 3, np.float32)}})[0])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if mode == "host":
        assert "register it first, with sardonyx.register_op('test', 'Op', function)" in done.stderr
        sardonyx.register_op("test", "Op", calls, mode=mode)
        with pytest.raises(sardonyx.SardonyxError, match="another function"):
            sardonyx.InferenceSession(str(tmp_path / "m.sdx"))
    else:
        assert done.stdout.strip() == "[[-6. -6. -6. -6.]]", done.stderr


def smooth(x: float, b: float) -> float:
    inner = math.exp(-x * x) / (1.0 + b ** 2) + math.sin(x * b)
    return inner * math.sqrt(x) if x > 0.5 else math.log1p(x * x) * math.atan(b) + (x - b) ** 3


@pytest.mark.parametrize("given", [False, True])
def test_gradient_against_differences(given: bool) -> None:
    function, slope = (smooth, None) if not given else (lambda x, b: x * x * b, lambda x, b, g: (2.0 * x * b * g, x * x * g))
    sardonyx.register_op("test", "Op", function, gradient=slope)
    graph = Graph("g")
    feeds = {"x": np.array([[-1.0, 0.2, 0.9], [1.7, 0.6, -0.3]]), "b": np.array([0.7, -1.2, 0.4]), "g": np.array([[1.0, -2.0, 0.5], [0.3, 1.5, -1.0]])}
    x, b, g = (graph.input(k, TensorType(dt.float64, tuple(map(ex.const, v.shape)))) for k, v in feeds.items())
    op = find("test", "Op")
    node = graph.add("Op", [x, b], {}, outputs=1, domain="test", version=1, name="n")
    infer.infer(node)
    graph.outputs = [node.outputs[0], *op.gradient(Builder(graph, node, op), [g])]
    _, dx, db = run_graph(graph, feeds)

    def loss(**changed: np.ndarray) -> float:
        return float((run_graph(graph, {**feeds, **changed})[0] * feeds["g"]).sum())
    for name, got in (("x", dx), ("b", db)):
        for at in np.ndindex(feeds[name].shape):
            step = np.zeros_like(feeds[name])
            step[at] = 1e-6
            want = (loss(**{name: feeds[name] + step}) - loss(**{name: feeds[name] - step})) / 2e-6
            assert got[at] == pytest.approx(want, rel=1e-6, abs=1e-8)


def test_untaken_branch_gives_no_nan() -> None:
    sardonyx.register_op("test", "Op", lambda x: math.sqrt(x) if x > 0 else 0.0)
    graph = Graph("g")
    x, g = (graph.input(k, TensorType(dt.float32, (ex.const(2),))) for k in "xg")
    node = graph.add("Op", [x], {}, outputs=1, domain="test", version=1, name="n")
    infer.infer(node)
    graph.outputs = list(find("test", "Op").gradient(Builder(graph, node, find("test", "Op")), [g]))
    found, = run_graph(graph, {"x": np.array([0, 4], np.float32), "g": np.ones(2, np.float32)})
    np.testing.assert_array_equal(found, np.array([0, 0.25], np.float32))


def test_a_models_own_function_comes_first() -> None:
    sardonyx.register_op("test", "Op", lambda x: x * 100.0)
    m = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "test" : 1]> g (float[4] x) => (float[4] y) { y = test.Op (x) }
        <domain: "test", opset_import: ["" : 17]> Op (a) => (b) { b = Neg (a) }""")
    np.testing.assert_array_equal(sardonyx.InferenceSession(m).run(None, {"x": X[0]})[0], -X[0])


def test_onnx_runtimes_way_says_what_to_do() -> None:
    with pytest.raises(NotImplementedError, match="sardonyx.register_op"):
        sardonyx.SessionOptions().register_custom_ops_library("ops.so")


def test_the_pages_programs_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "custom_operators.md").read_text(encoding="utf-8")
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), encoding="utf-8")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_not_expressible_is_an_error_of_its_own() -> None:
    with pytest.raises(NotExpressible, match="more than 20000 steps"):
        trace(capture(lambda x: sum(tuple(range(9)) * 9) + long(x)), [ex.sym("x")], {})


def long(x: float) -> float:
    for _ in range(30_000):
        x = x + 1
    return x
