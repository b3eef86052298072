"""The interpreter: the fast evaluator against the definition, nests against NumPy, routines, graphs, and the speed of views and packing."""
from __future__ import annotations

import time

import ml_dtypes
import numpy as np
import pytest
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.arrays import Grid, chunks, convert, evaluate
from sardonyx.ir.errors import ModelError
from sardonyx.ir.expr import Tensor
from sardonyx.ir.graph import Graph, TensorType
from sardonyx.ir.infer import infer
from sardonyx.ir.interpret import CHUNK_ELEMS, run_graph, run_nest, run_nests, run_node
from sardonyx.ir.loops import ContractionNest, HostNest, HostRef, MapNest, NestProgram, Routine, RoutineNest, Store, identity_map

RNG = np.random.default_rng(7)


def tensor(name, dtype, *shape):
    return Tensor(name, dtype, tuple(ex.as_expr(d) for d in shape))


def random(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def run_map(out, value, arrays, sizes=None):
    env = dict(arrays)
    run_nest(identity_map(out, value), env, sizes)
    return env[out]


# ------------------------------------------------------------------------------------------------------------------- loads
@pytest.mark.parametrize("index", [
    lambda i, j: (i, j),
    lambda i, j: (j, i),
    lambda i, j: (5 - i, 2 * j % 6),
    lambda i, j: (ex.const(3), ex.const(4)),
    lambda i, j: (i, i),
    lambda i, j: ((i * 6 + j) // 4 % 6, (i * 6 + j) % 6),
    lambda i, j: ex.unravel(i * 6 + j, (6, 6)),
    lambda i, j: (ex.minimum(i, j), ex.maximum(i, j)),
    lambda i, j: (i - 2, j + 3),
    lambda i, j: (i * 3 - 7, j),
    lambda i, j: (i, (i + j) % 6),
    lambda i, j: (i + j - 5, j),
    lambda i, j: (i - 20, j),
])
@pytest.mark.parametrize("fill", [None, 7.5])
def test_loads_agree_with_the_definition(index, fill):
    x = tensor("x", dt.float32, 6, 6)
    arrays = {x: random(6, 6)}
    i, j = ex.axis(6), ex.axis(6)
    e = ex.load(x, index(i, j), fill)
    got = Grid([i, j], {i: 6, j: 6}, arrays).value(e)
    expected = evaluate(e, {i: np.arange(6)[:, None], j: np.arange(6)[None, :]}, arrays)
    full = np.broadcast_to(got.array.reshape([6 if a in got.axes else 1 for a in (i, j)]), (6, 6))
    expected = np.broadcast_to(expected, (6, 6))
    if fill is None:  # what is out of range has no meaning
        valid = [evaluate(k, {i: np.arange(6)[:, None], j: np.arange(6)[None, :]}) for k in e.args]
        mask = np.broadcast_to(np.logical_and.reduce(np.broadcast_arrays(*[(v >= 0) & (v < 6) for v in valid])), (6, 6))
        full, expected = full[mask], expected[mask]
    np.testing.assert_array_equal(full, expected)


def test_gathers_and_scatters():
    x, ids = tensor("x", dt.float32, 10, 8), tensor("ids", dt.int64, 3, 4)
    arrays = {x: random(10, 8), ids: RNG.integers(-2, 12, (3, 4))}
    out = tensor("out", dt.float32, 3, 4, 8)
    got = run_map(out, lambda i, j, k: ex.load(x, (ids[i, j], k), 0.0), arrays)
    inside = (arrays[ids] >= 0) & (arrays[ids] < 10)
    np.testing.assert_array_equal(got, np.where(inside[..., None], arrays[x][np.clip(arrays[ids], 0, 9)], 0))
    order = tensor("order", dt.int64, 8)
    arrays[order] = RNG.permutation(8)
    got = run_map(tensor("out", dt.float32, 8, 10), lambda j, i: x[i, order[j]], arrays)
    np.testing.assert_array_equal(got, arrays[x][:, arrays[order]].T)
    scattered = tensor("scattered", dt.float32, 8)
    i = ex.axis(8)
    run_nest(MapNest((i,), (Store(scattered, (order[i],), x[0, i]),)), arrays)
    expected = np.empty(8, np.float32)
    expected[arrays[order]] = arrays[x][0]
    np.testing.assert_array_equal(arrays[scattered], expected)


def test_an_outside_store_is_an_error():
    order, out = tensor("order", dt.int64, 4), tensor("out", dt.float32, 4)
    i = ex.axis(4)
    with pytest.raises(ModelError, match="stores outside %out"):
        run_nest(MapNest((i,), (Store(out, (order[i],), ex.const(1.0, dt.float32)),)), {order: np.array([0, 1, 2, 4])})


def test_branches_not_taken_may_be_out_of_range():
    x, y, out = tensor("x", dt.int32, 3), tensor("y", dt.int32, 4), tensor("out", dt.int32, 7)
    arrays = {x: np.arange(3, dtype=np.int32), y: np.arange(10, 14, dtype=np.int32)}
    np.testing.assert_array_equal(run_map(out, lambda i: ex.where(i < 3, x[i], y[i - 3]), arrays), [0, 1, 2, 10, 11, 12, 13])


# ----------------------------------------------------------------------------------------------------------- maps, reductions
def test_symbolic_sizes_and_softmax():
    n = ex.sym("N")
    x, out = tensor("x", dt.float32, n, 9), tensor("out", dt.float32, n, 9)

    def softmax(i, j):
        r, s = ex.axis(9, "r"), ex.axis(9, "s")
        top = ex.reduce("max", (r,), x[i, r])
        return ex.unary("exp", x[i, j] - top) / ex.reduce("sum", (s,), ex.unary("exp", x[i, s] - top))
    program = NestProgram([x], {}, [identity_map(out, softmax)], [out])
    a = random(5, 9)
    e = np.exp(a - a.max(1, keepdims=True))
    np.testing.assert_allclose(run_nests(program, {x: a})[0], e / e.sum(1, keepdims=True), rtol=1e-6)
    with pytest.raises(ModelError, match="rank 2"):
        run_nests(program, {x: a[0]})
    with pytest.raises(ModelError, match="dimension 1 of %x"):
        run_nests(program, {x: a[:, :8]})
    with pytest.raises(ModelError, match="no value"):
        run_nests(program, {})


@pytest.mark.parametrize("kind", ex.REDUCTIONS)
@pytest.mark.parametrize("extent", [1, 5])
def test_reductions_agree_with_the_definition(kind, extent):
    dtype = dt.boolean if kind in ("any", "all") else dt.int32
    x = tensor("x", dtype, 4, extent)
    arrays = {x: RNG.integers(-2, 2, (4, extent)).astype(dtype.numpy)}
    i, r = ex.axis(4), ex.axis(extent, "r")
    e = ex.reduce(kind, (r,), x[i, r])
    got = Grid([i, r], {i: 4, r: extent}, arrays).value(e).array
    np.testing.assert_array_equal(got, evaluate(e, {i: np.arange(4)}, arrays))


@pytest.mark.parametrize(("kind", "expected"), [("sum", 0.0), ("prod", 1.0), ("max", -np.inf), ("min", np.inf), ("argmax", 0)])
def test_empty_reductions(kind, expected):
    x = tensor("x", dt.float32, 2, 0)
    out = tensor("out", dt.int64 if kind == "argmax" else dt.float32, 2)

    def value(i):
        r = ex.axis(0, "r")
        return ex.reduce(kind, (r,), x[i, r])
    np.testing.assert_array_equal(run_map(out, value, {x: np.zeros((2, 0), np.float32)}), [expected] * 2)


def test_reducing_what_does_not_depend_on_the_axis():
    x, out = tensor("x", dt.int64, 3), tensor("out", dt.int64, 3)

    def value(i):
        r = ex.axis(4, "r")
        return ex.reduce("sum", (r,), x[i]) + ex.reduce("max", (r,), r)
    np.testing.assert_array_equal(run_map(out, value, {x: np.array([1, 2, 3])}), [7, 11, 15])


def test_later_stores_read_earlier_ones():
    x, total, out = tensor("x", dt.int64, 3, 4), tensor("total", dt.int64, 3), tensor("out", dt.int64, 3, 4)
    i, j, r = ex.axis(3), ex.axis(4), ex.axis(4, "r")
    arrays = {x: np.arange(12).reshape(3, 4)}
    stores = (Store(total, (i,), ex.reduce("sum", (r,), x[i, r])), Store(out, (i, j), x[i, j] + total[i]))
    run_nest(MapNest((i, j), stores), arrays)
    np.testing.assert_array_equal(arrays[out], arrays[x] + arrays[x].sum(1, keepdims=True))


def test_chunked_maps_agree(monkeypatch):
    import sardonyx.ir.interpret as module
    x, y, out = tensor("x", dt.float32, 12, 7), tensor("y", dt.float32, 7, 5), tensor("out", dt.float32, 12, 5)
    arrays = {x: random(12, 7), y: random(7, 5)}

    def value(i, j):
        r = ex.axis(7, "r")
        return ex.reduce("max", (r,), x[i, r] * y[r, j])
    whole = run_map(out, value, arrays)
    monkeypatch.setattr(module, "CHUNK_ELEMS", 40)
    np.testing.assert_array_equal(run_map(out, value, arrays), whole)
    np.testing.assert_allclose(whole, (arrays[x][:, :, None] * arrays[y]).max(1), rtol=1e-6)


def test_chunks_cover_everything():
    boxes = list(chunks([5, 6], 30 * 100, 400))
    assert sum((a[1] - a[0]) * (b[1] - b[0]) for a, b in boxes) == 30
    assert max((a[1] - a[0]) * (b[1] - b[0]) for a, b in boxes) * 100 <= 600
    assert list(chunks([], 10, 100)) == [()]


# ------------------------------------------------------------------------------------------------------------- contractions
def product_nest(a, b, out, m, n, k, dtype, epilogue=lambda acc: acc):
    i, j, r = ex.axis(m, "m"), ex.axis(n, "n"), ex.axis(k, "k")
    value = epilogue(ex.acc(dtype))
    return ContractionNest((), (i,), (j,), (r,), ex.cast(a[i, r], dtype), ex.cast(b[r, j], dtype), dtype, (Store(out, (i, j), ex.cast(value, out.dtype)),))


@pytest.mark.parametrize(("kind", "accumulator"), [(dt.float32, dt.float32), (dt.float64, dt.float64), (dt.int8, dt.int32), (dt.int64, dt.int64),
                                                    (dt.float16, dt.float32), (dt.bfloat16, dt.float32)])
def test_matrix_products(kind, accumulator):
    a, b, out = tensor("a", kind, 6, 9), tensor("b", kind, 9, 4), tensor("out", kind if kind.is_float else accumulator, 6, 4)
    left, right = RNG.integers(-100, 100, (6, 9)), RNG.integers(-100, 100, (9, 4))
    scale = 64 if kind.is_float else 1
    arrays = {a: (left / scale).astype(kind.numpy), b: (right / scale).astype(kind.numpy)}
    nest = product_nest(a, b, out, 6, 4, 9, accumulator, lambda acc: acc + ex.const(1, accumulator))
    run_nest(nest, arrays)
    expected = (arrays[a].astype(accumulator.numpy) @ arrays[b].astype(accumulator.numpy) + 1).astype(out.dtype.numpy)
    np.testing.assert_allclose(arrays[out].astype(np.float64), expected.astype(np.float64), rtol=1e-6)
    plain = dict(arrays)
    del plain[out]
    run_nest(nest.as_map(), plain)
    np.testing.assert_allclose(plain[out].astype(np.float64), expected.astype(np.float64), rtol=1e-6)


def test_integer_products_wrap():
    a, b, out = tensor("a", dt.int64, 2, 3), tensor("b", dt.int64, 3, 2), tensor("out", dt.int64, 2, 2)
    arrays = {a: np.full((2, 3), 2**62), b: np.full((3, 2), 3)}
    run_nest(product_nest(a, b, out, 2, 2, 3, dt.int64), arrays)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(arrays[out], arrays[a] @ arrays[b])


def convolution(x, w, out, stride, pad):
    n, c, _, _ = x.shape
    o, _, kh, kw = w.shape
    bn, p, q, f = ex.axis(n), ex.axis(out.shape[2]), ex.axis(out.shape[3]), ex.axis(o)
    rc, rh, rw = ex.axis(c), ex.axis(kh), ex.axis(kw)
    left = ex.load(x, (bn, rc, p * stride + rh - pad, q * stride + rw - pad), 0.0)
    return ContractionNest((), (bn, p, q), (f,), (rc, rh, rw), left, w[f, rc, rh, rw], dt.float32, (Store(out, (bn, f, p, q), ex.acc(dt.float32)),))


@pytest.mark.parametrize("limit", [CHUNK_ELEMS, 2000])
def test_convolution(limit, monkeypatch):
    import sardonyx.ir.interpret as module
    monkeypatch.setattr(module, "CHUNK_ELEMS", limit)
    x, w, out = tensor("x", dt.float32, 2, 3, 9, 11), tensor("w", dt.float32, 5, 3, 3, 3), tensor("out", dt.float32, 2, 5, 5, 6)
    arrays = {x: random(2, 3, 9, 11), w: random(5, 3, 3, 3)}
    run_nest(convolution(x, w, out, 2, 1), arrays)
    padded = np.pad(arrays[x], ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    np.testing.assert_allclose(arrays[out], np.einsum("nchwij,ocij->nohw", windows, arrays[w]), rtol=1e-4, atol=1e-5)


def test_depthwise_convolution_is_a_map_of_sums():
    x, w, out = tensor("x", dt.float32, 1, 4, 8, 8), tensor("w", dt.float32, 4, 3, 3), tensor("out", dt.float32, 1, 4, 6, 6)
    arrays = {x: random(1, 4, 8, 8), w: random(4, 3, 3)}

    def value(n, c, p, q):
        i, j = ex.axis(3), ex.axis(3)
        return ex.reduce("sum", (i, j), x[n, c, p + i, q + j] * w[c, i, j])
    windows = np.lib.stride_tricks.sliding_window_view(arrays[x], (3, 3), (2, 3))
    np.testing.assert_allclose(run_map(out, value, arrays), np.einsum("nchwij,cij->nchw", windows, arrays[w]), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ element types
@pytest.mark.parametrize("dtype", dt.INTEGERS)
def test_integers_wrap(dtype):
    x, out = tensor("x", dtype, 5), tensor("out", dtype, 5)
    info = np.iinfo(dtype.numpy)
    a = np.array([info.min, info.max, 1, 7, 100], dtype.numpy)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run_map(out, lambda i: x[i] * x[i] + x[i], {x: a}), a * a + a)


@pytest.mark.parametrize("dtype", [dt.float16, dt.bfloat16])
def test_narrow_floats_round_at_the_store(dtype):
    x, out = tensor("x", dtype, 3), tensor("out", dtype, 3)
    a = np.array([1.0, 3.0, 0.1], dtype.numpy)
    wide = a.astype(np.float32)
    got = run_map(out, lambda i: x[i] * x[i] + x[i], {x: a})
    assert got.dtype == dtype.numpy
    np.testing.assert_array_equal(got, (wide * wide + wide).astype(dtype.numpy))


def test_sub_byte_integers():
    x, out = tensor("x", dt.int4, 4), tensor("out", dt.int4, 4)
    a = np.array([-8, 7, 3, -1]).astype(ml_dtypes.int4)
    got = run_map(out, lambda i: x[i] + x[i], {x: a})
    assert got.astype(np.int8).tolist() == [0, -2, 6, -2]
    wide = tensor("wide", dt.float32, 4)
    assert run_map(wide, lambda i: ex.cast(x[i], dt.float32), {x: a}).tolist() == [-8, 7, 3, -1]


def test_conversions():
    a = np.array([1.7, -1.7, 300.0, 1e6, np.nan, np.inf], np.float32)
    assert convert(a[:3], dt.float32, dt.int32).tolist() == [1, -1, 300]
    assert convert(a, dt.float32, dt.boolean).all()
    assert convert(a[2:4], dt.float32, dt.float8e4m3fn).tolist() == [288, 448]
    assert np.isnan(convert(a[3:4], dt.float32, dt.float8e4m3fn, False))[0]
    assert convert(np.array([2**63 + 2**20], np.float64), dt.float64, dt.uint64)[0] == 2**63 + 2**20
    assert convert(np.array([300, -1]), dt.int64, dt.uint8).tolist() == [44, 255]
    assert convert(np.array([9, -9]), dt.int64, dt.int4).tolist() == [-7, 7]


def test_bitcast():
    x, out = tensor("x", dt.float16, 2), tensor("out", dt.uint16, 2)
    assert run_map(out, lambda i: ex.bitcast(x[i], dt.uint16), {x: np.array([1, -2], np.float16)}).tolist() == [0x3C00, 0xC000]


# ------------------------------------------------------------------------------------------------------- routines, host, sizes
def running_sum(src, dst, n, lo, hi):
    for u in range(lo, hi):
        total = 0.0
        for k in range(n):
            total = add(total, load(src, u * n + k))  # noqa: F821 (given to routines)
            store(dst, u * n + k, total * SCALE)  # noqa: F821


def add(a, b):
    return a + b


@pytest.mark.parametrize("dtype", [dt.float32, dt.bfloat16])
def test_routines(dtype):
    x, out = tensor("x", dtype, 3, 4), tensor("out", dtype, 3, 4)
    a = RNG.integers(0, 9, (3, 4)).astype(dtype.numpy)
    arrays = {x: a}
    nest = RoutineNest(Routine("running_sum", running_sum, (add,)), (x,), (out,), (ex.const(4),), ex.const(3), constants=(("SCALE", 2.0),))
    run_nest(nest, arrays)
    np.testing.assert_array_equal(arrays[out].astype(np.float32), np.cumsum(a.astype(np.float32), 1) * 2)


def test_sizes_from_elements():
    x, count, out = tensor("x", dt.float32, 6), tensor("count", dt.int64, 1), None
    i = ex.axis(1)
    r = ex.axis(6, "r")
    counting = MapNest((i,), (Store(count, (i,), ex.reduce("sum", (r,), ex.where(x[r] > 0.0, ex.const(1), ex.const(0)))),))
    out = Tensor("out", dt.int64, (count[0] * 2,))
    filling = identity_map(out, lambda k: k + count[0])
    assert run_nests(NestProgram([x], {}, [counting, filling], [out]), {x: np.array([1, -1, 2, 3, -1, 0], np.float32)})[0].tolist() == [3, 4, 5, 6, 7, 8]


def test_host_nests():
    x, h = tensor("x", dt.float32, 2), HostRef("h")
    out = tensor("out", dt.float32, 2)
    nests = [HostNest(lambda a, b: [[a, b]], (x, None), (h,), "a list"), HostNest(lambda s: [s[0] + 1], (h,), (out,), "its element")]
    a = np.array([1, 2], np.float32)
    assert run_nests(NestProgram([x], {}, nests, [out, h]), {x: a})[0].tolist() == [2, 3]


# ------------------------------------------------------------------------------------------------------------------- graphs
def test_graphs_run_node_by_node():
    graph = Graph("test")
    x = graph.input("x", TensorType(dt.float32, (ex.sym("N"), ex.const(3))))
    y = graph.add("Add", [x, graph.constant("c", np.array([1, -10, 0], np.float32))], version=14)
    infer(y)
    z = graph.add("Relu", [y.outputs[0]], version=14)
    infer(z)
    graph.outputs = [z.outputs[0]]
    a = random(4, 3)
    expected = np.maximum(a + np.array([1, -10, 0], np.float32), 0)
    np.testing.assert_array_equal(run_graph(graph, {"x": a})[0], expected)
    np.testing.assert_array_equal(run_node(z, [a + np.float32(1)])[0], np.maximum(a + np.float32(1), 0))
    with pytest.raises(ModelError, match="input 'x' has no value"):
        run_graph(graph, {})


# -------------------------------------------------------------------------------------------------------------------- speed
def timed(action):
    best = 1e9
    for _ in range(5):
        begin = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - begin)
    return best


def test_packing_is_quick():
    w, out = tensor("w", dt.float32, 3072, 760), tensor("out", dt.float32, 12, 3072, 64)
    a = random(3072, 760)

    def value(p, k, j):
        return ex.load(w, (k, p * 64 + j), 0.0)
    expected = np.pad(a, ((0, 0), (0, 8))).reshape(3072, 12, 64).transpose(1, 0, 2)
    np.testing.assert_array_equal(run_map(out, value, {w: a}), expected)
    assert timed(lambda: run_map(out, value, {w: a})) < 0.2


def test_reshape_is_quick():
    x, out = tensor("x", dt.float32, 64, 12, 128, 64), tensor("out", dt.float32, 64 * 128, 12 * 64)
    a = random(64, 12, 128, 64)

    def value(i, j):
        return x[i // 128, j // 64, i % 128, j % 64]
    np.testing.assert_array_equal(run_map(out, value, {x: a}), a.transpose(0, 2, 1, 3).reshape(64 * 128, 12 * 64))
    assert timed(lambda: run_map(out, value, {x: a})) < 2


def test_sizes_that_do_not_fit_are_named():
    from sardonyx.compiler.lower import lower
    graph = Graph("test")
    x, y = graph.input("x", TensorType(dt.float32, (ex.sym("N"),))), graph.input("y", TensorType(dt.float32, (ex.sym("M"),)))
    node = graph.add("Add", [x, y], version=14, name="sum")
    infer(node)
    graph.outputs = node.outputs
    program = lower(graph)

    def run(n, m):
        return run_nests(program, {r: np.ones(k, np.float32) for r, k in zip(program.inputs, (n, m), strict=True)})[0].tolist()
    assert run(3, 3) == run(3, 1) == run(1, 3) == [2, 2, 2]
    with pytest.raises(ModelError, match=r"'sum' \(Add\): shapes .* do not broadcast: N against M"):
        run(3, 2)


def body_of(graph, name, dtypes):
    from sardonyx.ir.graph import Graph as Body
    body = Body(name, graph)
    return body, [body.input(f"{name}_{k}", TensorType(d, tuple(map(ex.as_expr, shape)))) for k, (d, shape) in enumerate(dtypes)]


def test_loops_carry_and_stack():
    graph = Graph("test")
    trips, x, step = (graph.input(n, TensorType(d, tuple(map(ex.as_expr, s)))) for n, d, s in
                      (("trips", dt.int64, ()), ("x", dt.float32, (2,)), ("step", dt.float32, (2,))))
    body, (_, going, state) = body_of(graph, "body", [(dt.int64, ()), (dt.boolean, ()), (dt.float32, (2,))])
    total = body.add("Add", [state, step], version=14)
    infer(total)
    body.outputs = [going, total.outputs[0], total.outputs[0]]
    loop = graph.add("Loop", [trips, None, x], {"body": body}, outputs=2, version=16)
    infer(loop)
    graph.outputs = loop.outputs
    feeds = {"x": np.array([1, 2], np.float32), "step": np.array([10, 20], np.float32)}
    final, stack = run_graph(graph, {**feeds, "trips": np.array(3)})
    assert final.tolist() == [31, 62] and stack.tolist() == [[11, 22], [21, 42], [31, 62]]
    final, stack = run_graph(graph, {**feeds, "trips": np.array(0)})
    assert final.tolist() == [1, 2] and stack.shape == (0, 2)


def test_branches():
    graph = Graph("test")
    c, x = graph.input("c", TensorType(dt.boolean, ())), graph.input("x", TensorType(dt.float32, (ex.sym("N"),)))
    bodies = []
    for k, name in enumerate(("Relu", "Add")):
        body, _ = body_of(graph, f"branch{k}", [])
        node = body.add(name, [x] * (k + 1), version=14)
        infer(node)
        body.outputs = node.outputs
        bodies.append(body)
    choice = graph.add("If", [c], {"then_branch": bodies[0], "else_branch": bodies[1]}, version=16)
    infer(choice)
    graph.outputs = choice.outputs
    a = np.array([1, -2], np.float32)
    assert run_graph(graph, {"c": np.array(True), "x": a})[0].tolist() == [1, 0]
    assert run_graph(graph, {"c": np.array(False), "x": a})[0].tolist() == [2, -4]


def test_scans_go_both_ways():
    graph = Graph("test")
    start, xs = graph.input("start", TensorType(dt.float32, ())), graph.input("xs", TensorType(dt.float32, (ex.const(2), ex.const(3))))
    body, (state, item) = body_of(graph, "body", [(dt.float32, ()), (dt.float32, (2,))])
    scaled = body.add("Add", [item, state], version=14)
    infer(scaled)
    body.outputs = [state, scaled.outputs[0]]
    attributes = {"body": body, "num_scan_inputs": 1, "scan_input_axes": (1,), "scan_input_directions": (1,), "scan_output_axes": (1,)}
    scan = graph.add("Scan", [start, xs], attributes, outputs=2, version=16)
    infer(scan)
    graph.outputs = scan.outputs
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    final, out = run_graph(graph, {"start": np.float32(10), "xs": a})
    assert final == 10
    np.testing.assert_array_equal(out, a[:, ::-1] + 10)
