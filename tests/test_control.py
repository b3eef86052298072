"""Control flow that the driver runs itself, held against ONNX's definition (through ONNX Runtime) and against the host path."""
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as reference
import pytest
import sardonyx
from onnx import parser
from sardonyx.ir.plan import ControlStep, HostStep
from sardonyx.runtime.model import CompiledModel, CompileOptions, host_target, obtain
from sardonyx.runtime.threads import find_openmp

THREADS = [1, 2] if find_openmp() is not None else [1]
HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
Feeds = Mapping[str, Any]

REPEAT = """g (int64 m, bool c, float[n] x) => (float[k] y, float[p, q] s) {
   y, s = Loop (m, c, x) <body = b (int64 i, bool ci, float[a] v) => (bool co, float[b] w, float[d] o) {
      one = Constant<value_float = 1.0>()
      w = Add(v, one)
      o = Mul(w, v)
      co = Identity(ci)
   }>
}"""
UNTIL = """g (int64 m, float[n] x, float limit) => (float[k] y, int64[p] s) {
   yes = Constant<value_int = 1>()
   c = Cast<to = 9>(yes)
   y, s = Loop (m, c, x) <body = b (int64 i, bool ci, float[a] v) => (bool co, float[b] w, int64 o) {
      w = Add(v, v)
      top = ReduceMax<keepdims = 0>(w)
      co = Less(top, limit)
      o = Identity(i)
   }>
}"""
GROWING = """g (int64 m, float[n] x) => (float[k] y, int64[p, q] s) {
   y, s = Loop (m, , x) <body = b (int64 i, bool ci, float[a] v) => (bool co, float[b] w, int64[o1] o) {
      head = Constant<value_ints = [0]>()
      one = Constant<value_ints = [1]>()
      first = Slice(v, head, one)
      w = Concat<axis = 0>(v, first)
      o = Shape(w)
      co = Identity(ci)
   }>
}"""
DATA_DEPENDENT = """g (int64 m, float[n] x) => (float[k] y) {
   y = Loop (m, , x) <body = b (int64 i, bool ci, float[a] v) => (bool co, float[b] w) {
      zero = Constant<value_float = 0.0>()
      one = Constant<value_float = 1.0>()
      lower = Sub(v, one)
      keep = Greater(lower, zero)
      w = Compress<axis = 0>(lower, keep)
      co = Identity(ci)
   }>
}"""
CAPTURED = """g (int64 m, float[n, 3] x, float[3, 3] a) => (float[k, 3] y) {
   shift = ReduceSum<keepdims = 0>(x)
   y = Loop (m, , x) <body = b (int64 i, bool ci, float[r, 3] v) => (bool co, float[t, 3] w) {
      p = MatMul(v, a)
      q = Add(p, shift)
      w = Tanh(q)
      co = Identity(ci)
   }>
}"""
NESTED = """g (int64 m, float[n] x, float[2] z) => (float[k] y, float[p, q] s) {
   y, s = Loop (m, , x) <body = b (int64 i, bool ci, float[a] v) => (bool co, float[b] w, float[e] o) {
      two = Constant<value_int = 2>()
      rest = Mod(i, two)
      odd = Cast<to = 9>(rest)
      w = If (odd) <then_branch = t () => (float[t1] tv) { tv = Concat<axis = 0>(v, z) },
                    else_branch = f () => (float[f1] fv) {
                        three = Constant<value_int = 3>()
                        fv = Loop (three, , v) <body = inner (int64 j, bool cj, float[h] u) => (bool cm, float[h2] uu) {
                           half = Constant<value_float = 0.5>()
                           scaled = Mul(u, half)
                           fj = Cast<to = 1>(j)
                           uu = Add(scaled, fj)
                           cm = Identity(cj)
                        }>
                    }>
      o = Identity(z)
      co = Identity(ci)
   }>
}"""
SWAP = """g (int64 m, float[n] x, float[k] z) => (float[a] y, float[b] w) {
   y, w = Loop (m, , x, z) <body = b (int64 i, bool ci, float[a1] u, float[b1] v) => (bool co, float[a2] p, float[b2] q) {
      p = Identity(v)
      q = Identity(u)
      co = Identity(ci)
   }>
}"""
SCAN = """g (float[3] h, float[4, 3] x, float[4, 2] z) => (float[3] y, float[4, 3] s, float[2, 4] t) {
   y, s, t = Scan (h, x, z) <num_scan_inputs = 2, %s body = b (float[3] v, float[3] a, float[2] c) => (float[3] w, float[3] o, float[2] r) {
      w = Add(v, a)
      sum = ReduceSum<keepdims = 0>(a)
      o = Mul(w, a)
      r = Add(c, sum)
   }>
}"""
SCAN_COLUMNS = """g (float[m, 3] h, float[m, 5, 3] x) => (float[m, 3] y, float[m, 5, 3] s, float[m, 3, 5] t) {
   y, s, t = Scan (h, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1, -1], scan_input_directions = [1], scan_output_directions = [0, 1],
      body = b (float[p, 3] v, float[p, 3] a) => (float[p, 3] w, float[p, 3] o, float[p, 3] r) {
      w = Add(v, a)
      o = Neg(w)
      r = Mul(a, v)
   }>
}"""
SCAN_EMPTY = """g (float[3] h, float[n, 3] x) => (float[3] y, float[n, 3] s) {
   y, s = Scan (h, x) <num_scan_inputs = 1, body = b (float[3] v, float[3] a) => (float[3] w, float[3] o) {
      w = Add(v, a)
      o = Neg(w)
   }>
}"""
BRANCH = """g (bool c, float[n, 4] x) => (float[k, j] y, int64[d] z) {
   y, z = If (c) <then_branch = t () => (float[t1, t2] a, int64[t3] b) { a = Relu(x)
                                                                         b = Shape(x) },
                  else_branch = f () => (float[f1, f2] a2, int64[f3] b2) { a2 = Transpose<perm = [1, 0]>(x)
                                                                           b2 = NonZero1(x) }>
}"""
ALIKE = """g (bool c, float[8, 4] x) => (float[8, 4] y, float[8, 4] z) {
   y = If (c) <then_branch = t () => (float[8, 4] a) { a = Relu(x) }, else_branch = f () => (float[8, 4] b) { b = Neg(x) }>
   z = Add(y, x)
}"""
BATCHED = """g (int64 m, float[n, 64] x, float[64, 64] a) => (float[k, 64] y, float[p, q, 64] s) {
   y, s = Loop (m, , x) <body = b (int64 i, bool ci, float[r, 64] v) => (bool co, float[t, 64] w, float[u, 64] o) {
      z = MatMul(v, a)
      w = Tanh(z)
      o = Softmax(w)
      co = Identity(ci)
   }>
}"""


def source(text: str) -> bytes:
    return parser.parse_model(HEAD + text).SerializeToString()


def compiled(text: str) -> CompiledModel:
    return obtain(source(text), CompileOptions(), host_target())


def session(text: str, threads: int = 1) -> Any:
    options = sardonyx.SessionOptions()
    options.intra_op_num_threads = threads
    return sardonyx.InferenceSession(source(text), options)


def check(text: str, runs: Sequence[Feeds], threads: int = 1) -> None:
    """Each run agrees with ONNX Runtime; all control flow of the model is the driver's."""
    model = compiled(text)
    assert any(isinstance(s, ControlStep) for s in model.plan.steps)
    assert not any(isinstance(s, HostStep) for p in (model.plan, *model.plan.bodies) for s in p.steps)
    ours, theirs = session(text, threads), reference.InferenceSession(source(text))
    for feeds in runs:
        for got, want in zip(ours.run(None, feeds), theirs.run(None, feeds), strict=True):
            assert got.dtype == want.dtype
            assert got.shape == want.shape, feeds
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(n: int) -> np.ndarray:
    return np.array(n, np.int64)


@pytest.mark.parametrize("threads", THREADS)
def test_trip_counts(threads: int) -> None:
    check(REPEAT, [{"m": whole(m), "c": np.array(c), "x": floats(n, seed=n)} for m, c, n in
                   ((0, True, 4), (1, True, 4), (3, True, 4), (100, True, 4), (5, False, 4), (2, True, 1), (3, True, 0), (17, True, 300), (-3, True, 2))], threads)


def test_early_exit_by_condition() -> None:
    check(UNTIL, [{"m": whole(m), "x": np.array([1, 0.5], np.float32), "limit": np.array(top, np.float32)} for m, top in ((50, 100.0), (3, 100.0), (50, 1.0), (9, 1e9))])


@pytest.mark.parametrize("threads", THREADS)
def test_carried_values_grow(threads: int) -> None:
    check(GROWING, [{"m": whole(m), "x": floats(n)} for m, n in ((0, 3), (1, 3), (40, 3), (7, 1), (40, 3), (200, 90))], threads)


def test_carried_values_of_sizes_that_depend_on_data() -> None:
    check(DATA_DEPENDENT, [{"m": whole(m), "x": np.arange(n, dtype=np.float32)} for m, n in ((0, 5), (1, 5), (3, 50), (60, 50), (2, 1000), (4, 1))])


@pytest.mark.parametrize("threads", THREADS)
def test_values_of_the_graph_around(threads: int) -> None:
    check(CAPTURED, [{"m": whole(m), "x": floats(n, 3), "a": floats(3, 3, seed=1)} for m, n in ((3, 4), (10, 700), (0, 2), (3, 4))], threads)


@pytest.mark.parametrize("threads", THREADS)
def test_nested_control_flow(threads: int) -> None:
    check(NESTED, [{"m": whole(m), "x": floats(n), "z": floats(2, seed=3)} for m, n in ((0, 2), (1, 2), (2, 2), (9, 5), (4, 1))], threads)


def test_carried_values_change_places() -> None:
    check(SWAP, [{"m": whole(m), "x": floats(3), "z": floats(5, seed=1)} for m in (0, 1, 2, 7)])


@pytest.mark.parametrize("settings", [
    "", "scan_input_directions = [1, 0],", "scan_output_directions = [1, 0],", "scan_input_directions = [1, 1], scan_output_directions = [0, 1],"])
def test_scans(settings: str) -> None:
    text = SCAN % (settings + "scan_output_axes = [0, 1],")
    check(text, [{"h": floats(3, seed=k), "x": floats(4, 3, seed=k + 1), "z": floats(4, 2, seed=k + 2)} for k in range(3)])


def test_scans_along_other_axes() -> None:
    check(SCAN_COLUMNS, [{"h": floats(m, 3), "x": floats(m, 5, 3, seed=1)} for m in (1, 2, 6)])
    shapes = [a.shape for a in session(SCAN_COLUMNS).run(None, {"h": floats(0, 3), "x": floats(0, 5, 3)})]  # ONNX Runtime divides by zero here
    assert shapes == [(0, 3), (0, 5, 3), (0, 3, 5)]


@pytest.mark.parametrize("threads", THREADS)
def test_branches_of_other_shapes(threads: int) -> None:
    text = BRANCH.replace("b2 = NonZero1(x)", "nz = NonZero(x)\n flat = Constant<value_ints = [-1]>()\n b2 = Reshape(nz, flat)")
    check(text, [{"c": np.array(c), "x": np.round(floats(n, 4, seed=n))} for c in (True, False, True) for n in (3, 1, 900)], threads)


def test_branches_write_results_of_known_size_in_place() -> None:
    check(ALIKE, [{"c": np.array(c), "x": floats(8, 4)} for c in (True, False)])
    plan = compiled(ALIKE).plan
    assert all(b.storage != "host" for p in (plan, *plan.bodies) for b in p.buffers)


def test_results_do_not_depend_on_threads() -> None:
    feeds = [{"m": whole(5), "x": floats(n, 64, seed=n), "a": floats(64, 64, seed=1) / 8} for n in (3, 500, 2000)]
    one = [session(BATCHED, 1).run(None, f) for f in feeds]
    for threads in THREADS + [4]:
        s = session(BATCHED, threads)
        for _ in range(3):
            for f, want in zip(feeds, one, strict=True):
                for got, w in zip(s.run(None, f), want, strict=True):
                    np.testing.assert_array_equal(got, w)


@pytest.mark.parametrize("threads", THREADS)
def test_runs_of_one_session_at_once(threads: int) -> None:
    s = session(NESTED, threads)
    cases = [{"m": whole(m), "x": floats(n), "z": floats(2, seed=m)} for m, n in ((3, 2), (8, 50), (0, 4), (5, 400))]
    want = [s.run(None, f) for f in cases]
    failures: list[int] = []

    def work(start: int) -> None:
        for k in range(40):
            at = (start + k) % len(cases)
            if not all(np.array_equal(a, b) for a, b in zip(s.run(None, cases[at]), want[at], strict=True)):
                failures.append(at)
    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures


def test_native_and_host_paths_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from sardonyx.compiler import control
    from sardonyx.runtime.cache import Cache

    cases: list[tuple[str, Callable[[], Feeds]]] = [
        (CAPTURED, lambda: {"m": whole(6), "x": floats(40, 3), "a": floats(3, 3)}), (NESTED, lambda: {"m": whole(5), "x": floats(4), "z": floats(2)}),
        (GROWING, lambda: {"m": whole(0), "x": floats(4)}), (SCAN_EMPTY, lambda: {"h": floats(3), "x": floats(0, 3)}),
        (SCAN_COLUMNS, lambda: {"h": floats(2, 3), "x": floats(2, 5, 3)}), (ALIKE, lambda: {"c": np.array(False), "x": floats(8, 4)})]
    native = [session(text).run(None, feeds()) for text, feeds in cases]
    monkeypatch.setattr(control, "obstacle", lambda nest, bodies: "the test says so")
    for (text, feeds), want in zip(cases, native, strict=True):
        model = obtain(source(text), CompileOptions(), host_target(), Cache(tmp_path, 1 << 30))
        assert any(isinstance(s, HostStep) and "the test says so" in s.reason for s in model.plan.steps)
        given = feeds()
        for got, w in zip(model.executor(1).run([given[p.name] for p in model.plan.inputs]), want, strict=True):
            np.testing.assert_array_equal(got, w)


def test_packages_hold_bodies(tmp_path: Any) -> None:
    from sardonyx.runtime.package import save_package

    feeds = {"m": whole(4), "x": floats(6), "z": floats(2)}
    save_package(compiled(NESTED), tmp_path / "nested.sdx")
    for got, want in zip(sardonyx.InferenceSession(str(tmp_path / "nested.sdx")).run(None, feeds), session(NESTED).run(None, feeds), strict=True):
        np.testing.assert_array_equal(got, want)


def test_given_outputs_and_profiles() -> None:
    model = compiled(ALIKE)
    e = model.executor(1)
    x, y, z = floats(8, 4), np.zeros((8, 4), np.float32), np.zeros((8, 4), np.float32)
    e.run([np.array(True), x], [y, z])
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    _, times = e.profile([np.array(True), x])
    control = next(k for k, s in enumerate(model.plan.steps) if isinstance(s, ControlStep))
    assert any(t.step == control and t.end_ns > t.start_ns > 0 for t in times)


def test_stacks_of_unequal_entries_are_refused() -> None:
    text = GROWING.replace("o = Shape(w)", "o = Cast<to = 7>(w)")
    s = session(text)
    with pytest.raises(Exception, match="different shapes.*cannot be stacked"):
        s.run(None, {"m": whole(3), "x": floats(2)})
    y, stack = s.run(None, {"m": whole(1), "x": floats(2)})
    assert y.shape == (3,) and stack.shape == (1, 3)


def test_scans_of_unequal_lengths_are_refused() -> None:
    text = SCAN.replace("float[4, 3] x, float[4, 2] z", "float[n, 3] x, float[k, 2] z").replace("float[4, 3] s, float[2, 4] t", "float[n, 3] s, float[n, 2] t") % ""
    with pytest.raises(Exception, match="4 and 5 elements along their axes"):
        session(text).run(None, {"h": floats(3), "x": floats(4, 3), "z": floats(5, 2)})


def test_body_sizes_that_do_not_fit_are_refused() -> None:
    text = SWAP.replace("p = Identity(v)", "p = Add(u, v)")
    with pytest.raises(Exception, match="(?i)loop|broadcast|dimension"):
        session(text).run(None, {"m": whole(2), "x": floats(3), "z": floats(5)})


def test_conditions_are_one_element() -> None:
    text = ALIKE.replace("bool c,", "bool[n] c,")
    s = session(text)
    x = floats(8, 4)
    np.testing.assert_array_equal(s.run(None, {"c": np.array([True]), "x": x})[0], np.maximum(x, 0))
    with pytest.raises(Exception, match="2 elements, one was expected"):
        s.run(None, {"c": np.array([True, False]), "x": x})


def test_sequences_stay_on_the_host_and_say_so() -> None:
    text = """g (int64 m, float[n] x) => (float[k] y) {
       empty = SequenceEmpty<dtype = 1>()
       all = Loop (m, , empty) <body = b (int64 i, bool ci, seq(float[a]) v) => (bool co, seq(float[a]) w) {
          w = SequenceInsert(v, x)
          co = Identity(ci)
       }>
       y = ConcatFromSequence<axis = 0>(all)
    }"""
    model = compiled(text)
    reasons = [s.reason for s in model.plan.steps if isinstance(s, HostStep)]
    assert any("the driver cannot run it because its input 2 is a string, a sequence" in r for r in reasons)
    x = floats(3)
    np.testing.assert_array_equal(session(text).run(None, {"m": whole(2), "x": x})[0], np.concatenate([x, x]))
