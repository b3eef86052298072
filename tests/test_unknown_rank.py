"""Numbers of dimensions that only a run tells: branches of different ranks, loops whose values grow, shapes of a length that depends on data."""
from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sardonyx
from onnx import parser
from sardonyx.ir.errors import SardonyxError
from sardonyx.runtime.commands.packaging import CompileRequest, compile_model
from sardonyx.runtime.exceptions import InvalidArgument, NotImplemented
from sardonyx.runtime.session import ShapeWarning

ort = pytest.importorskip("onnxruntime")
HEAD = '<ir_version: 10, opset_import: ["": 21]>\n'
LEVELS = [sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL, sardonyx.GraphOptimizationLevel.ORT_ENABLE_ALL]

BRANCHES = """g (bool c, float[n, m] x, float[m] b) => (float[] y, float[k] s) <float[1] half = {0.5}> {
   scaled = Mul(x, half)
   r = If (c) <then_branch = t () => (float[t1] tv) { axes = Constant<value_ints = [0]>() tv = ReduceSum<keepdims = 0>(scaled, axes) },
               else_branch = f () => (float[f1, f2] fv) { fv = Tanh(scaled) }>
   shape = Shape(x)
   one = Constant<value_int = 1>()
   width = Gather(shape, one)
   row = Constant<value_ints = [-1]>()
   flat = Reshape(width, row)
   wide = Expand(b, flat)
   y = Add(r, wide)
   last = Constant<value_ints = [-1]>()
   s = ReduceMean<keepdims = 0>(y, last)
}"""
GROWING = """g (int64 m, float[n] x) => (float[] y, int64[t] sizes) {
   y, sizes = Loop (m, , x) <body = b (int64 i, bool ci, float[] v) => (bool co, float[] w, int64 o) {
      first = Constant<value_ints = [0]>()
      u = Unsqueeze(v, first)
      w = Concat<axis = 0>(u, u)
      o = Size(w)
      co = Identity(ci)
   }>
}"""
SHAPES = """g (float[n] x, int64[4] dims, int64[1] count) => (float[] y, float[] z) {
   zero = Constant<value_ints = [0]>()
   shape = Slice(dims, zero, count)
   y = Reshape(x, shape)
   z = Exp(y)
}"""
INSIDE = """g (int64[1] count, float[n] x, int64[3] dims) => (float[] z) {
   y = If (c) <then_branch = t () => (float[] tv) { shape = Slice(dims, zero, count) r = Reshape(x, shape) tv = Neg(r) },
               else_branch = f () => (float[] fv) { fv = Identity(x) }>
   z = Add(y, one)
}"""


def session(text: str, level: Any = None) -> sardonyx.InferenceSession:
    options = sardonyx.SessionOptions()
    if level is not None:
        options.graph_optimization_level = level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShapeWarning)
        return sardonyx.InferenceSession(parser.parse_model(HEAD + text).SerializeToString(), options)


def reference(text: str, feeds: dict[str, Any]) -> list[Any]:
    return ort.InferenceSession(parser.parse_model(HEAD + text).SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("level", LEVELS)
def test_branches_of_different_ranks(level: Any) -> None:
    s = session(BRANCHES, level)
    for n, m in ((2, 3), (4, 5), (1, 1)):
        for c in (True, False):
            feeds = {"c": np.array(c), "x": np.linspace(-2, 2, n * m, dtype=np.float32).reshape(n, m), "b": np.arange(m, dtype=np.float32)}
            kept = {k: v.copy() for k, v in feeds.items()}
            got, want = s.run(None, feeds), reference(BRANCHES, feeds)
            for g, w in zip(got, want, strict=True):
                assert g.shape == w.shape
                np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
            assert all(np.array_equal(feeds[k], kept[k]) for k in feeds)


def test_a_loop_whose_value_gains_a_dimension_each_time() -> None:
    s = session(GROWING)
    x = np.arange(3, dtype=np.float32)
    for m in (0, 1, 3):
        y, sizes = s.run(None, {"m": np.array(m), "x": x})
        want = x
        for _ in range(m):
            want = np.stack([want, want])
        np.testing.assert_array_equal(y, want)
        assert sizes.dtype == np.int64 and sizes.tolist() == [3 * 2 ** (k + 1) for k in range(m)]
    assert not np.shares_memory(s.run(None, {"m": np.array(0), "x": x})[0], x)


def test_a_shape_whose_length_depends_on_data() -> None:
    s = session(SHAPES)
    x = np.arange(24, dtype=np.float32) / 24
    for count in (1, 2, 4):
        dims = np.array([24, 1, 1, 1] if count == 1 else [4, 6, 1, 1])
        feeds = {"x": x, "dims": dims, "count": np.array([count])}
        for g, w in zip(s.run(None, feeds), reference(SHAPES, feeds), strict=True):
            assert g.shape == w.shape
            np.testing.assert_allclose(g, w, rtol=1e-6)
    with pytest.raises(InvalidArgument):
        s.run(None, {"x": x, "dims": np.array([5, 5, 1, 1]), "count": np.array([2])})


def test_what_is_squeezed_where_no_axes_are_named_follows_from_the_shape() -> None:
    text = "g (float[a, b, c] x) => (float[] y) { z = Squeeze(x) y = Exp(z) }"
    s = session(text)
    for shape in ((1, 3, 1), (2, 3, 1), (2, 3, 4), (1, 1, 1)):
        x = np.ones(shape, np.float32)
        got, = s.run(None, {"x": x})
        want, = reference(text, {"x": x})
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want)


@pytest.mark.parametrize("text", ["g (float[a, b] x, int64[p, q] i) => (float[] y) { y = GatherND(x, i) }",
                                  "g (float[a, b] x, int64[p, q] i) => (float[] y) { u = GatherND(x, i) y = ScatterND(x, i, u) }"])
def test_index_tuples_of_any_length(text: str) -> None:
    s = session(text)
    for i in ([[0, 1], [1, 2]], [[1], [0]]):
        feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "i": np.array(i)}
        np.testing.assert_array_equal(s.run(None, feeds)[0], reference(text, feeds)[0])


def test_nothing_may_be_wanted_of_a_size_that_only_the_run_knows() -> None:
    text = "g (float[a, 3] x) => (float[p, q] y) { s = Constant<value_ints = [4, 0]>() y = Reshape<allowzero = 1>(x, s) }"
    assert session(text).run(None, {"x": np.zeros((0, 3), np.float32)})[0].shape == (4, 0)


WRONG = [
    ("g (float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }", {"x": (24,), "s": [5, 5]}),
    ("g (float[n] x, int64[2] s) => (float[a, b] y) { y = Reshape(x, s) }", {"x": (24,), "s": [5, -1]}),
    ("g (float[n, 4] x, int64[2] s) => (float[a, b] y) { y = Expand(x, s) }", {"x": (3, 4), "s": [2, 4]}),
    ("g (float[n] x, int64[2] s) => (float[a] y, float[b] z) { y, z = Split(x, s) }", {"x": (6,), "s": [4, 4]}),
    ("g (int64[2] s) => (float[a, b] y) { y = ConstantOfShape(s) }", {"s": [2, -2]}),
    ("g (float[n] x, int64[1] s) => (float[a] y) { z = Tile(x, s) y = Exp(z) }", {"x": (4,), "s": [-3]}),
    ("g (float[1] x, int64[1] s) => (float[a] y) { z = Expand(x, s) y = Exp(z) }", {"x": (1,), "s": [-3]}),
    ("g (float[n] x, int64[2] s) => (float[a] y) { y = Pad(x, s) }", {"x": (4,), "s": [-3, -2]}),
    ("g (float[1, 1, n, m] x, float[1, 1, 3, 3] w) => (float[1, 1, a, b] y) { y = Conv(x, w) }", {"x": (1, 1, 1, 1), "w": (1, 1, 3, 3)}),
    ("g (float[n] x, int64[2] s, float[3] w) => (float[a] y) { z = Reshape(x, s) y = MatMul(z, w) }", {"x": (24,), "s": [6, 4], "w": (3,)}),
]


@pytest.mark.parametrize(("text", "given"), WRONG)
def test_sizes_that_are_data_and_do_not_fit_are_refused(text: str, given: dict[str, Any]) -> None:
    feeds = {k: np.ones(v, np.float32) if isinstance(v, tuple) else np.array(v) for k, v in given.items()}
    with pytest.raises(InvalidArgument):
        session(text).run(None, feeds)


def test_a_branch_that_needs_a_rank_inside() -> None:
    text = INSIDE.replace("   y = If", "   zero = Constant<value_ints = [0]>()\n   one = Constant<value_float = 1.0>()\n   two = Constant<value_ints = [2]>()\n"
                          "   less = Less(count, two)\n   c = Squeeze(less)\n   y = If")
    s = session(text)
    x = np.arange(6, dtype=np.float32)
    for count in (1, 2, 3):
        feeds = {"count": np.array([count]), "x": x, "dims": np.array([6, 1, 1])}
        got, = s.run(None, feeds)
        want, = reference(text, feeds)
        assert got.shape == want.shape
        np.testing.assert_array_equal(got, want)


def test_outputs_go_where_they_are_bound() -> None:
    s = session(BRANCHES)
    binding = s.io_binding()
    feeds = {"c": np.array(False), "x": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("y")
    binding.bind_output("s")
    s.run_with_iobinding(binding)
    for g, w in zip(binding.copy_outputs_to_cpu(), reference(BRANCHES, feeds), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6)


def test_threads_share_a_session_of_unknown_rank() -> None:
    s = session(BRANCHES)

    def work(c: bool) -> None:
        feeds = {"c": np.array(c), "x": np.full((2, 3), 1 + c, np.float32), "b": np.zeros(3, np.float32)}
        want = reference(BRANCHES, feeds)
        for _ in range(20):
            np.testing.assert_allclose(s.run(None, feeds)[0], want[0], rtol=1e-6)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, (True, False, True)))


def test_a_scan_that_cannot_be_typed_is_refused() -> None:
    text = """g (float[n] s, float[k, n] x) => (float[] y) {
       y = Scan <num_scan_inputs = 1, body = b (float[] v, float[n] e) => (float[] w) { first = Constant<value_ints = [0]>() u = Unsqueeze(v, first) w = Identity(u) }> (s, x)
    }"""
    s = session(text)
    with pytest.raises(NotImplemented, match="known rank"):
        s.run(None, {"s": np.ones(2, np.float32), "x": np.ones((3, 2), np.float32)})


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_a_size_inside_the_branch_that_is_known_to_be_taken(level: str) -> None:
    """The result's length is an element that the branch computes; the branch is known from x's shape."""
    model = parser.parse_model("""<ir_version: 9, opset_import: ["" : 18]>
        g (float[2, N] x) => (float[M] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] minus = {-1}> {
          sizes = Shape (x)
          first = Slice (sizes, zero, one)
          known = Equal (first, two)
          y = If (known) <
            then_branch = g1 () => (float[A] a) { s = ReduceSum <keepdims = 0> (x)  n = Cast <to = 7> (s)  k = Reshape (n, one)  a = ConstantOfShape (k) },
            else_branch = g2 () => (float[K] b) { b = Reshape (x, minus) }>
        }""")
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = getattr(sardonyx.GraphOptimizationLevel, level)
    session = sardonyx.InferenceSession(model, options)
    for n in (3, 5):
        assert session.run(None, {"x": np.ones((2, n), np.float32)})[0].tolist() == [0.0] * (2 * n)


# ------------------------------------------------------------------------------------------------------ variants and packages
SQUEEZED = "g (float[a, b, 3] x) => (float[] y) { z = Squeeze(x) y = Exp(z) }"


def test_the_variants_kept_are_those_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sardonyx.runtime.session.MOST_VARIANTS", 2)
    s = session(SQUEEZED)

    def run(a: int, b: int) -> None:
        x = np.arange(a * b * 3, dtype=np.float32).reshape(a, b, 3) / 9
        np.testing.assert_allclose(s.run(None, {"x": x})[0], np.exp(x.squeeze()), rtol=1e-6)
    for shape in ((1, 2), (2, 1), (1, 2), (2, 2), (2, 1)):
        run(*shape)
    assert [dict(key)["x"][:2] for key in s._variants] == [(2, 2), (2, 1)]


def compiled(text: str, folder: Path, ending: str, shapes: dict[str, tuple[int, ...]]) -> Path:
    source = folder / "model.onnx"
    source.write_bytes(parser.parse_model(HEAD + text).SerializeToString())
    compile_model(CompileRequest(str(source), str(folder / f"model{ending}"), shapes=shapes))
    return folder / f"model{ending}"


def test_a_package_for_the_shapes_that_decide_a_rank(tmp_path: Path) -> None:
    s = sardonyx.InferenceSession(str(compiled(SQUEEZED, tmp_path, ".sdx", {"x": (1, 2, 3)})))
    assert s.get_inputs()[0].shape == [1, 2, 3]
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    got, = s.run(None, {"x": x})
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, np.exp(x[0]), rtol=1e-6)
    with pytest.raises(InvalidArgument, match="index: 1 Got: 4 Expected: 2"):
        s.run(None, {"x": np.ones((1, 4, 3), np.float32)})


REFUSED = {
    "the shapes might decide": (SQUEEZED, {}, r"node 'z' \(Squeeze\).*--shape INPUT=D,D,\.\.\.; open so far: x$"),
    "one shape is left": (BRANCHES, {"x": (2, 3)}, r"node 'y' .*open so far: b$"),
    "data decides": (SHAPES, {"x": (6,)}, r"node 'y' \(Reshape\).*What the inputs hold decides"),
    "no such input": (SQUEEZED, {"z": (1, 2, 3)}, "shapes were given for 'z'; the model's inputs are x"),
    "another rank": (SQUEEZED, {"x": (1, 2)}, "input 'x' is .*which the shape 1, 2 does not fit"),
    "another size": (SQUEEZED, {"x": (1, 2, 4)}, "input 'x' is .*which the shape 1, 2, 4 does not fit"),
}


@pytest.mark.parametrize("ending", [".sdx", ".so"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_packaged_is_refused(what: str, ending: str, tmp_path: Path) -> None:
    text, shapes, message = REFUSED[what]
    with pytest.raises(SardonyxError, match=message):
        compiled(text, tmp_path, ending, shapes)
    assert not (tmp_path / f"model{ending}").exists()
