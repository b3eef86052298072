"""Schedules of map nests against a NumPy meaning of the same nests."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from nest_oracle import Oracle, size
from sardonyx.codegen.map_schedule import schedule_map
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.dtypes import DType
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import MapNest, Store, identity_map, reads
from sardonyx.runtime.host import host_target
from sardonyx.runtime.objects import call_kernel, load_kernel

TARGET = host_target()
Layouts = Mapping[Tensor, tuple[int, ...]]


def tensor(name: str, shape: Sequence[int | Expr], dtype: DType = dt.float32) -> Tensor:
    return Tensor(name, dtype, tuple(map(ex.as_expr, shape)))


def random_array(t: Tensor, sizes: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    shape = [size(d, sizes) for d in t.shape]
    if t.dtype is dt.boolean:
        return rng.random(shape) < 0.5
    if t.dtype.is_integer:
        return rng.integers(0 if t.dtype.kind == "uint" else -20, 20, shape).astype(t.dtype.numpy)
    return rng.standard_normal(shape).astype(t.dtype.numpy)


def stored(array: np.ndarray, t: Tensor, layouts: Layouts) -> np.ndarray:
    """The array as it lies in memory."""
    return np.ascontiguousarray(array.transpose(layouts.get(t, tuple(range(t.rank)))))


def check(nest: MapNest, layouts: Layouts | None = None, sizes: Mapping[str, int] | None = None, tolerance: float = 2e-6,
          arrays: Mapping[Tensor, np.ndarray] | None = None) -> KernelCall:
    """Run the scheduled nest, whole and in pieces, against the oracle."""
    layouts, sizes, rng = layouts or {}, sizes or {}, np.random.default_rng(7)
    inputs = {t: random_array(t, sizes, rng) for t in reads(nest)} | dict(arrays or {})
    expected = Oracle(nest, inputs, sizes).run()
    call = schedule_map(nest, layouts, TARGET)
    numbers = [size(p, sizes) for p in call.parameters]
    units, scratch = size(call.units, sizes), size(call.scratch_bytes, sizes)
    address = load_kernel(call.kernel, TARGET).address(call.kernel.symbol)
    results = []
    for pieces in ([(0, units)], [(k, k + 1) for k in range(units)] if units <= 64 else [(0, units // 3), (units // 3, units)]):
        memory = {t: stored(inputs[t] if t in inputs else np.full(expected[t].shape, 77).astype(t.dtype.numpy), t, layouts) for t in call.buffers}
        for lo, hi in pieces:
            call_kernel(address, [memory[t] for t in call.buffers], numbers, lo, hi, scratch)
        results.append(memory)
    for t in nest.outputs:
        want = stored(expected[t], t, layouts)
        first, second = (r[t] for r in results)
        assert first.tobytes() == second.tobytes(), f"units of {call.kernel.name} are not independent\n{call.kernel.text}"
        if t.dtype.is_float:
            narrow = {16: 1e-2, 8: 0.13}.get(t.dtype.bits, tolerance)
            np.testing.assert_allclose(first.astype(np.float64), want.astype(np.float64), narrow, narrow, err_msg=call.kernel.text)
        else:
            np.testing.assert_array_equal(first, want, err_msg=call.kernel.text)
    return call


def reduced(kind: str, extents: Sequence[int | Expr], body: Callable[..., Expr]) -> Expr:
    axes = tuple(ex.axis(n, "r") for n in extents)
    return ex.reduce(kind, axes, body(*axes))


# ------------------------------------------------------------------------------------------------------------- element-wise
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 4095, 4097, 10007])
def test_flat_sum(n: int) -> None:
    a, b, c = (tensor(x, (n,)) for x in "abc")
    check(identity_map(c, lambda i: a[i] + b[i]))


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (3, 1, 7), (3, 5, 1), (1, 1, 1), (2, 0, 3), (4, 16, 17)])
@pytest.mark.parametrize("keep", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2), ()])
def test_broadcast(shape: tuple[int, ...], keep: tuple[int, ...]) -> None:
    a, c = tensor("a", shape), tensor("c", shape)
    b = tensor("b", [shape[k] for k in keep])
    check(identity_map(c, lambda *i: a[i] * 2.0 + b[tuple(i[k] for k in keep)]))


@pytest.mark.parametrize("added", [False, True])
def test_a_stride_across_that_data_give(added: bool) -> None:
    """How far columns are apart is an element of a tensor: a number that the kernel reads, no parameter."""
    x, n, b, y = tensor("x", (600,)), tensor("n", (1,), dt.int64), tensor("b", (24,)), tensor("y", (20, 24))
    check(identity_map(y, lambda i, j: x[i + j * n[0]] + b[j] if added else x[i + j * n[0]]), arrays={n: np.array([22])})


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 0, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 33, 40), (1, 17, 64)])
def test_transpose(order: tuple[int, ...], shape: tuple[int, ...]) -> None:
    a = tensor("a", shape)
    c = tensor("c", [shape[k] for k in order])
    back = [order.index(k) for k in range(3)]
    check(identity_map(c, lambda *i: a[tuple(i[k] for k in back)]))


@pytest.mark.parametrize("store", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)])
@pytest.mark.parametrize("load", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_layouts(store: tuple[int, ...], load: tuple[int, ...]) -> None:
    a, s, c = tensor("a", (2, 19, 5, 6)), tensor("s", (19,)), tensor("c", (2, 19, 5, 6))
    check(identity_map(c, lambda n, k, h, w: a[n, k, h, w] * s[k]), {c: store, a: load})


def test_reshape_is_a_copy() -> None:
    a, c = tensor("a", (6, 35)), tensor("c", (2, 21, 5))
    call = check(identity_map(c, lambda *i: a[ex.unravel(ex.linear_index(i, c.shape), a.shape)]))
    assert "//" not in call.kernel.text and call.kernel.text.count("for") == 1


def test_split_heads() -> None:
    a, c = tensor("a", (2, 10, 3 * 4 * 8)), tensor("c", (2, 4, 10, 8))
    call = check(identity_map(c, lambda b, h, s, d: a[b, s, 32 + h * 8 + d]))
    assert "//" not in call.kernel.text.split("for u")[1]


def test_merge_heads() -> None:
    a, c = tensor("a", (2, 4, 10, 8)), tensor("c", (2, 10, 32))
    call = check(identity_map(c, lambda b, s, k: a[b, k // 8, s, k % 8]))
    assert "//" not in call.kernel.text.split("for u")[1]


def test_slice_with_steps() -> None:
    a, c = tensor("a", (9, 20)), tensor("c", (4, 7))
    check(identity_map(c, lambda i, j: a[8 - i * 2, j * 2 + 3]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat(axis: int) -> None:
    shape = [3, 5, 18]
    sizes = [4, 1, 17]
    parts = [tensor(f"a{k}", [n if d == axis else s for d, s in enumerate(shape)]) for k, n in enumerate(sizes)]
    c = tensor("c", [sum(sizes) if d == axis else s for d, s in enumerate(shape)])

    def value(*i: Expr) -> Expr:
        def at(k: int, start: int) -> Expr:
            return parts[k][tuple(x - start if d == axis else x for d, x in enumerate(i))]
        return ex.where(i[axis] < 4, at(0, 0), ex.where(i[axis] < 5, at(1, 4), at(2, 5)))
    check(identity_map(c, value))


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 2, 3, 0), (2, 0, 0, 0)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_pad(pads: tuple[int, int, int, int], order: tuple[int, ...]) -> None:
    a = tensor("a", (3, 6, 21))
    c = tensor("c", (3, 6 + pads[0] + pads[1], 21 + pads[2] + pads[3]))
    check(identity_map(c, lambda k, i, j: ex.load(a, (k, i - pads[0], j - pads[2]), 0.5)), {a: order, c: order})


def test_gather_rows() -> None:
    table, index, c = tensor("t", (50, 24)), tensor("i", (3, 7), dt.int64), tensor("c", (3, 7, 24))

    def row(a: Expr, b: Expr) -> Expr:
        k = index[a, b]
        return ex.minimum(ex.maximum(ex.where(k < 0, k + 50, k), 0), 49)
    call = check(identity_map(c, lambda a, b, d: table[row(a, b), d]))
    inner = call.kernel.text.rsplit("for ", 1)[1]
    assert "min" not in inner, "index arithmetic belongs outside of the inner loop"


def test_one_hot_and_range() -> None:
    index, c = tensor("i", (5,), dt.int64), tensor("c", (5, 9))
    check(identity_map(c, lambda a, k: ex.where(ex.equal(index[a], k - 3), ex.const(2.0, dt.float32), ex.const(-1.0, dt.float32))))
    d = tensor("d", (100,), dt.int64)
    check(identity_map(d, lambda i: i * 3 - 7))


@pytest.mark.parametrize("dtype", [dt.float64, dt.int32, dt.int64, dt.int8, dt.uint8, dt.float16, dt.bfloat16, dt.boolean])
def test_types(dtype: DType) -> None:
    a, b, c = (tensor(x, (3, 21), dtype) for x in "abc")
    d = tensor("d", (3, 21), dt.boolean)
    if dtype is dt.boolean:
        check(identity_map(c, lambda *i: ex.logical_and(a[i], ex.logical_not(b[i]))))
    else:
        check(identity_map(c, lambda *i: a[i] * b[i] - a[i]))
        check(identity_map(d, lambda *i: a[i] < b[i]))
        check(identity_map(tensor("e", (3, 21)), lambda *i: ex.cast(a[i], dt.float32) + 1.0))


# --------------------------------------------------------------------------------------------------------------- reductions
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("kind", ["sum", "max", "prod"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 37, 65)])
def test_reduce(kind: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    a = tensor("a", shape)
    kept = [k for k in range(3) if k not in axes]
    c = tensor("c", [shape[k] for k in kept])

    def value(*i: Expr) -> Expr:
        def body(*r: Expr) -> Expr:
            index = dict(zip(kept, i)) | dict(zip(axes, r))
            return a[tuple(index[k] for k in range(3))]
        return reduced(kind, [shape[k] for k in axes], body)
    check(identity_map(c, value), tolerance=1e-5)


@pytest.mark.parametrize("kind", ["argmax", "argmin", "argmax_last", "argmin_last"])
@pytest.mark.parametrize("dtype", [dt.float32, dt.int64])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_argument(kind: str, dtype: DType, n: int) -> None:
    a, c, d = tensor("a", (6, n, 3), dtype), tensor("c", (6, 3), dt.int64), tensor("d", (n, 3), dt.int64)
    check(identity_map(c, lambda i, k: reduced(kind, (n,), lambda r: a[i, r, k])))
    check(identity_map(d, lambda i, k: reduced(kind, (6,), lambda r: a[r, i, k])))


def softmax(x: Callable[..., Expr], extent: Expr | int) -> Callable[..., Expr]:
    def value(*i: Expr) -> Expr:
        def e(k: Expr) -> Expr:
            return ex.unary("exp", x(*i[:-1], k) - reduced("max", (extent,), lambda r: x(*i[:-1], r)))
        return e(i[-1]) / reduced("sum", (extent,), e)
    return value


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_reduction_over_several_sources(kind: str) -> None:
    """Each part of the loop over the reduced axis reads its own source."""
    a, b, c, w = tensor("a", (40, 5)), tensor("b", (40, 5)), tensor("c", (40, 2, 5)), tensor("w", (4, 5))

    def body(i: Expr, r: Expr, k: Expr) -> Expr:
        rest = ex.load(c, (i, r - 2, k), 0)
        return ex.where(r < 1, ex.load(a, (i, k)), ex.where(r < 2, ex.load(b, (i, k)), rest)) * w[r, k]
    call = check(identity_map(tensor("d", (40,)), lambda i: reduced(kind, (4, 5), lambda r, k: body(i, r, k))))
    assert "select" not in call.kernel.text and "else" not in call.kernel.text


@pytest.mark.parametrize("shape", [(5, 1), (4, 15), (3, 16), (7, 33), (2, 3, 128)])
def test_softmax(shape: tuple[int, ...]) -> None:
    a, c = tensor("a", shape), tensor("c", shape)
    call = check(identity_map(c, softmax(lambda *i: a[i], shape[-1])))
    assert call.kernel.text.count("exp_f32(") <= 1


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_softmax_of_short_rows_goes_along_them(n: int) -> None:
    """Two or six exponentials are no loop."""
    x, y = tensor("x", (3, 70, n)), tensor("y", (3, 70, n))
    call = check(identity_map(y, softmax(lambda *i: x[i], n)))
    assert call.kernel.text.count("for ") == 1
    assert call.kernel.text.count("exp_f32(") == n


@pytest.mark.parametrize("shape", [(3, 10, 21), (1, 8, 8), (3, 7, 6), (2, 24, 4)])
def test_softmax_over_the_middle(shape: tuple[int, int, int]) -> None:
    """Nested reductions over a short axis are not written out: each of the sums would repeat the maximum, for each of the results again."""
    a, c = tensor("a", shape), tensor("c", shape)

    def value(i: Expr, j: Expr, k: Expr) -> Expr:
        def e(r: Expr) -> Expr:
            return ex.unary("exp", a[i, r, k] - reduced("max", (shape[1],), lambda s: a[i, s, k]))
        return e(j) / reduced("sum", (shape[1],), e)
    call = check(identity_map(c, value))
    assert len(call.kernel.text) < 6000


def layer_norm(x: Callable[..., Expr], extent: Expr | int, count: Expr, scale: Tensor, bias: Tensor) -> Callable[..., Expr]:
    def value(*i: Expr) -> Expr:
        mean = reduced("sum", (extent,), lambda r: x(*i[:-1], r)) / count
        variance = reduced("sum", (extent,), lambda r: (x(*i[:-1], r) - mean) * (x(*i[:-1], r) - mean)) / count
        return (x(*i) - mean) * ex.unary("rsqrt", variance + 1e-5) * scale[i[-1]] + bias[i[-1]]
    return value


@pytest.mark.parametrize("shape", [(5, 1), (4, 15), (2, 3, 100)])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    a, b, c, s, t = tensor("a", shape), tensor("b", shape), tensor("c", shape), tensor("s", shape[-1:]), tensor("t", shape[-1:])
    count = ex.const(float(shape[-1]), dt.float32)
    check(identity_map(c, layer_norm(lambda *i: a[i] + b[i], shape[-1], count, s, t)), tolerance=1e-5)
    check(identity_map(c, layer_norm(lambda *i: ex.unary("tanh", a[i]), shape[-1], count, s, t)), tolerance=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(dt.float32, 1e-5), (dt.float64, 1e-5), (dt.float16, 4e-3)])
def test_means_of_rows_of_all_lengths_are_one_kernel(dtype: DType, tolerance: float) -> None:
    kernels = set()
    for length in (16, 100, 640):
        a, c, s, t = (tensor(name, shape, dtype) for name, shape in (("a", (3, length)), ("c", (3, length)), ("s", (length,)), ("t", (length,))))
        value = layer_norm(lambda *i, a=a: a[i], length, ex.const(float(length), dtype), s, t)
        kernels.add(check(identity_map(c, value), tolerance=tolerance).kernel.key)
    assert len(kernels) == 1


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_instance_norm(order: tuple[int, ...]) -> None:
    a, c = tensor("a", (2, 20, 6, 5)), tensor("c", (2, 20, 6, 5))

    def value(n: Expr, k: Expr, h: Expr, w: Expr) -> Expr:
        mean = reduced("sum", (6, 5), lambda y, x: a[n, k, y, x]) / 30.0
        variance = reduced("sum", (6, 5), lambda y, x: (a[n, k, y, x] - mean) * (a[n, k, y, x] - mean)) / 30.0
        return (a[n, k, h, w] - mean) / ex.unary("sqrt", variance + 1e-5)
    check(identity_map(c, value), {a: order, c: order}, tolerance=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_pooling(order: tuple[int, ...]) -> None:
    a, c, d = tensor("a", (2, 20, 7, 9)), tensor("c", (2, 20, 3, 4)), tensor("d", (2, 20, 1, 1))
    check(identity_map(c, lambda n, k, h, w: reduced("max", (3, 3), lambda y, x: ex.load(a, (n, k, h * 2 + y - 1, w * 2 + x - 1), -np.inf))), {a: order, c: order})
    check(identity_map(d, lambda n, k, h, w: reduced("sum", (7, 9), lambda y, x: a[n, k, y, x]) / 63.0), {a: order, d: order}, tolerance=1e-5)


def test_not_a_number_survives() -> None:
    a, c = tensor("a", (4, 40)), tensor("c", (4,))
    x = np.random.default_rng(1).standard_normal((4, 40)).astype(np.float32)
    x[1, 17] = np.nan
    x[2, 3], x[3, :] = np.inf, -np.inf
    for kind in ("max", "min", "sum"):
        check(identity_map(c, lambda i, kind=kind: reduced(kind, (40,), lambda r: a[i, r])), arrays={a: x}, tolerance=1e-5)
    for kind in ("argmax", "argmin"):
        check(identity_map(tensor("d", (4,), dt.int64), lambda i, kind=kind: reduced(kind, (40,), lambda r: a[i, r])), arrays={a: x})


def test_several_stores() -> None:
    a, c, d, e = tensor("a", (6, 30)), tensor("c", (6, 30)), tensor("d", (6,)), tensor("e", (6, 30), dt.boolean)
    i, j = ex.axis(6), ex.axis(30)
    mean = reduced("sum", (30,), lambda r: a[i, r]) / 30.0
    check(MapNest((i, j), (Store(d, (i,), mean), Store(c, (i, j), a[i, j] - mean), Store(e, (i, j), mean < a[i, j]))), tolerance=1e-5)


# ------------------------------------------------------------------------------------------------------------ symbolic sizes
def nests(b: Expr | int, s: Expr | int, h: Expr | int) -> list[MapNest]:
    a, c, t = tensor("a", (b, s, h)), tensor("c", (b, s, h)), tensor("t", (b, h, s))
    v, w = tensor("v", (h,)), tensor("w", (h,))
    p, q = tensor("p", (b, s + 3, h)), tensor("q", (b, s, h * 2))
    count = ex.cast(ex.as_expr(h), dt.float32)
    return [
        identity_map(c, lambda *i: ex.unary("tanh", a[i] * v[i[2]] + w[i[2]])),
        identity_map(c, softmax(lambda *i: a[i], ex.as_expr(h))),
        identity_map(c, layer_norm(lambda *i: a[i], ex.as_expr(h), count if not isinstance(h, int) else ex.cast(ex.sym("H"), dt.float32), v, w)),
        identity_map(t, lambda i, k, j: a[i, j, k]),
        identity_map(p, lambda i, j, k: ex.load(a, (i, j - 1, k), 0.0)),
        identity_map(q, lambda i, j, k: ex.where(k < h, a[i, j, k], c[i, j, k - h])),
        identity_map(v, lambda k: reduced("sum", (b, s), lambda i, j: a[i, j, k])),
    ]


@pytest.mark.parametrize("which", range(7))
def test_symbolic_sizes(which: int) -> None:
    symbols = [ex.sym(n) for n in "BSH"]
    nest = nests(*symbols)[which]
    texts = {check(nest, sizes=dict(zip("BSH", values)), tolerance=1e-5).kernel.text for values in ((2, 9, 35), (1, 1, 16), (3, 20, 1))}
    texts |= {schedule_map(nests(*values)[which], {}, TARGET).kernel.text for values in ((2, 29, 35), (4, 384, 768), (2, 29, 29))}
    assert len(texts) == 1, "\n".join(texts)


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64, dt.float16, dt.int8, dt.boolean])
@pytest.mark.parametrize("shape", [(15, 16), (16, 17), (33, 300), (1, 40), (70, 3)])
def test_square_tiles(dtype: DType, shape: tuple[int, int]) -> None:
    a, b, c = tensor("a", shape, dtype), tensor("b", shape[::-1], dtype), tensor("c", shape[::-1], dtype)
    check(identity_map(c, lambda i, j: a[j, i]))
    combine = (lambda x, y: ex.logical_and(x, y)) if dtype is dt.boolean else (lambda x, y: x * y)
    check(identity_map(c, lambda i, j: combine(a[j, i], b[i, j])))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_small_axes(count: int) -> None:
    a, c, d, s = tensor("a", (2, count, 90)), tensor("c", (2, 90, count)), tensor("d", (2, count, 90)), tensor("s", (count,))
    check(identity_map(c, lambda n, i, k: a[n, k, i] * s[k]))
    check(identity_map(d, lambda n, k, i: c[n, i, k] - s[k]))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
@pytest.mark.parametrize("kernel, stride, pad", [((3, 3), 2, 1), ((2, 2), 2, 0), ((1, 3), 1, 1), ((5, 5), 1, 2)])
def test_windows(order: tuple[int, ...], kernel: tuple[int, int], stride: int, pad: int) -> None:
    h, w = (9 + 2 * pad - kernel[0]) // stride + 1, (11 + 2 * pad - kernel[1]) // stride + 1
    a, c = tensor("a", (2, 18, 9, 11)), tensor("c", (2, 18, h, w))

    def window(kind: str, fill: float) -> Callable[..., Expr]:
        return lambda n, k, y, x: reduced(kind, kernel, lambda p, q: ex.load(a, (n, k, y * stride + p - pad, x * stride + q - pad), fill))
    check(identity_map(c, window("max", -np.inf)), {a: order, c: order})
    check(identity_map(c, window("sum", 0.0)), {a: order, c: order}, tolerance=1e-5)
    check(identity_map(c, window("sum", 1.0)), {a: order, c: order}, tolerance=1e-5)


def test_concat_of_many() -> None:
    parts = [tensor(f"a{k}", (4, 3, n)) for k, n in enumerate((5, 8, 1, 16))]
    c = tensor("c", (4, 3, 30))

    def value(*i: Expr) -> Expr:
        out, start = parts[-1][i[0], i[1], i[2] - 14], 14
        for p in parts[-2::-1]:
            start -= int(p.shape[2].value)
            out = ex.where(i[2] < start + p.shape[2], p[i[0], i[1], i[2] - start], out)
        return ex.unary("neg", out)
    call = check(identity_map(c, value))
    assert "if" not in call.kernel.text.split("for u")[-1].replace("if ", "", 0) or call.kernel.text.count("for") >= 5


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("width", [1, 3])
def test_concat_of_many_decides_nothing_for_each_element(width: int, across: bool) -> None:
    """Each piece is a loop, or a transposition, of its own."""
    count, rows = 24, 37
    parts = [tensor(f"a{k}", (rows, width)) for k in range(count)]
    c = tensor("c", (rows, count * width))

    def value(i: Expr, j: Expr) -> Expr:
        out = parts[-1][i, j - (count - 1) * width]
        for k in range(count - 2, -1, -1):
            out = ex.where(j < (k + 1) * width, parts[k][i, j - k * width], out)
        return out
    text = check(identity_map(c, value), {p: (1, 0) for p in parts} if across else None).kernel.text
    assert " if " not in text and "select" not in text
    if not across:
        assert text.count("for ") > count


def bilinear(x: Tensor, p: Expr, q: Expr) -> Expr:
    """Four guarded loads at a data-dependent place, mixed: about 60 expressions."""
    total: Expr = ex.const(0.0, x.dtype)
    for i in (0, 1):
        for j in (0, 1):
            total = total + ex.load(x, (p + i, q + j), 0) * ex.cast(p * (1 + i) + q * (2 + j), x.dtype)
    return total


def test_conditions_do_not_multiply_code() -> None:
    """Every row decides four conditions by its own data: not each of their combinations gets a loop of its own."""
    x, at, y = tensor("x", (6, 7)), tensor("at", (5, 3), dt.int64), tensor("y", (5, 40))
    call = check(identity_map(y, lambda r, c: bilinear(x, at[r, ex.const(0)] % 9 - 1, at[r, ex.const(1)] % 9 - 1) + bilinear(x, at[r, ex.const(2)] % 9 - 1, c % 7)))
    assert call.kernel.text.count("\n") < 300


def test_only_small_bodies_are_written_out() -> None:
    """A short inner axis is written out where the body is small, not where its copies would be hundreds of variables."""
    x, at = tensor("x", (6, 7)), tensor("at", (5, 3), dt.int64)
    large = identity_map(tensor("y", (5, 5, 7)), lambda a, b, c: bilinear(x, ex.maximum(at[a, b % 3], c - b) % 9, ex.minimum(at[b, c % 3], a) % 9)
                         + bilinear(x, ex.maximum(at[b, b % 3], c - b) % 9, ex.minimum(at[a, c % 3], a) % 9))
    assert check(large).kernel.text.count("b2[") == 1
    small = check(identity_map(tensor("z", (50, 7)), lambda b, c: x[0, c] + ex.cast(b, dt.float32)))
    assert small.kernel.text.count("b1[") == 7


def test_pads_of_unknown_order() -> None:
    n, m = ex.sym("N"), ex.sym("M")
    a, b, c = tensor("a", (3, n)), tensor("b", (3, m)), tensor("c", (3, ex.sym("K")))
    nest = identity_map(c, lambda i, j: ex.load(a, (i, j - 2), 0.0) + ex.load(b, (i, j - 5), 1.0))
    for sizes in ({"N": 7, "M": 20, "K": 30}, {"N": 20, "M": 3, "K": 9}, {"N": 1, "M": 1, "K": 40}):
        check(nest, sizes=sizes)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 0, 1, 2), (1, 2, 3, 0)])
def test_rows_stored_across(order: tuple[int, ...]) -> None:
    a, c, s, t = tensor("a", (2, 5, 7, 33)), tensor("c", (2, 5, 7, 33)), tensor("s", (33,)), tensor("t", (33,))
    call = check(identity_map(c, layer_norm(lambda *i: a[i], 33, ex.const(33.0, dt.float32), s, t)), {c: order}, tolerance=1e-5)
    assert call.flops is not None
    check(identity_map(c, layer_norm(lambda *i: a[i], 33, ex.const(33.0, dt.float32), s, t)), {a: order}, tolerance=1e-5)
    check(identity_map(c, softmax(lambda *i: a[i], 33)), {a: order, c: order})


def test_indices_of_columns_that_are_read_across() -> None:
    """An index that is worth a row of its own is computed for the columns of one tile, not for all."""
    a, b, i, c = tensor("a", (2, 20, 300)), tensor("b", (2, 300, 20)), tensor("i", (300, 2), dt.int64), tensor("c", (2, 20, 300))

    def value(n: Expr, k: Expr, m: Expr) -> Expr:
        at = ex.where(i[m, n] < 0, i[m, n] + 300, i[m, n])
        return a[n, k, ex.minimum(ex.maximum(at, ex.const(0)), ex.const(299))] - b[n, m, k]
    check(identity_map(c, value), arrays={i: np.random.default_rng(3).integers(-310, 310, (300, 2))})


def test_concat_and_pad_across() -> None:
    a, b, c = tensor("a", (2, 20, 37)), tensor("b", (2, 9, 37)), tensor("c", (2, 37, 29))
    check(identity_map(c, lambda n, i, k: ex.where(k < 20, a[n, k, i], b[n, k - 20, i])))
    check(identity_map(c, lambda n, i, k: ex.where(k < 20, a[n, k, i] * 2.0, b[n, k - 20, i])))
    d = tensor("d", (2, 40, 25))
    check(identity_map(d, lambda n, i, k: ex.load(a, (n, k - 2, i - 1), 0.5)))
    check(identity_map(d, lambda n, i, k: ex.unary("neg", ex.load(a, (n, k - 2, i - 1), 0.5))))
    e = tensor("e", (4, 37, 20))
    check(identity_map(e, lambda n, i, k: ex.load(a, (n - 1, k, i), 0.5)))


def test_long_sums_over_several_axes_are_precise() -> None:
    a, b = tensor("a", (3, 256, 128, 3)), tensor("b", (3,))
    x = np.random.default_rng(0).random((3, 256, 128, 3), np.float32) + 1
    check(identity_map(b, lambda i: reduced("sum", (256, 128, 3), lambda j, k, r: a[i, j, k, 2 - r])), arrays={a: x}, tolerance=2.4e-5)  # (256 + 128 + 3) roundings


@pytest.mark.parametrize("dtype", [dt.float16, dt.bfloat16, dt.float64, dt.int8, dt.uint8, dt.int32, dt.int64, dt.uint64])
@pytest.mark.parametrize("axis", [0, 1])
def test_reduce_types(dtype: DType, axis: int) -> None:
    a, c = tensor("a", (30, 41), dtype), tensor("c", ((41, 30)[axis],), dtype)
    for kind in ("sum", "max", "min"):
        check(identity_map(c, lambda i, kind=kind: reduced(kind, ((30, 41)[axis],), lambda r: (a[r, i], a[i, r])[axis])))


@pytest.mark.parametrize("kind", ["any", "all"])
@pytest.mark.parametrize("axis", [0, 1])
def test_reduce_conditions(kind: str, axis: int) -> None:
    a, c = tensor("a", (4, 5), dt.boolean), tensor("c", ((5, 4)[axis],), dt.boolean)
    check(identity_map(c, lambda i: reduced(kind, ((4, 5)[axis],), lambda r: (a[r, i], a[i, r])[axis])))


def test_conversions_between_types() -> None:
    kinds = [dt.float32, dt.float16, dt.bfloat16, dt.float64, dt.int8, dt.uint8, dt.int32, dt.int64, dt.uint64, dt.boolean]
    for source in kinds:
        a, i = tensor("a", (40,), source), ex.axis(40)
        targets = [t for t in kinds if not (source.is_float and t.kind == "uint")]
        check(MapNest((i,), tuple(Store(tensor(f"to_{t.short}", (40,), t), (i,), ex.cast(a[i], t)) for t in targets)))


def test_reductions_behind_a_condition_along_the_axis_that_is_bound() -> None:
    """The rows come from a table, so that nothing is read where the condition does not hold; inside, the reduction goes along the axis of the loop around it."""
    x, rows, y = tensor("x", (4, 7)), tensor("rows", (6,), dt.int64), tensor("y", (6, 7))
    i, j, r = ex.axis(6), ex.axis(7), ex.axis(7, "r")
    value = ex.where(ex.equal(j, 3), ex.const(-1.0, dt.float32), x[rows[i], j] - ex.reduce("max", (r,), x[rows[i], r]))
    check(MapNest((i, j), (Store(y, (i, j), value),), ("row",)), arrays={rows: np.array([3, 0, 2, 2, 1, 0])})


def test_a_window_whose_index_is_a_reduction() -> None:
    """The condition inside the reduction that makes the index is none of the window's."""
    x, ends, out = tensor("x", (8, 12, 6)), tensor("ends", (4,), dt.int64), tensor("out", (10, 6))
    i, c, r, q = ex.axis(10), ex.axis(6), ex.axis(3, "r"), ex.axis(4, "q")
    row = ex.reduce("sum", (q,), ex.where(ends[q] <= i, ex.const(1), ex.const(0)))
    padded = ex.where(ex.as_expr(0) <= i + r - 2, x[row, i + r, c], ex.const(0.0, dt.float32))
    check(MapNest((i, c), (Store(out, (i, c), ex.reduce("sum", (r,), padded)),)))


@pytest.mark.parametrize("padded", [True, False])
def test_windows_in_windows_at_places_that_data_give(padded: bool) -> None:
    """The inner sum is one for each element, so that the outer one can be no sweep across rows of them."""
    x, places, y = tensor("x", (2, 3, 4, 5)), tensor("places", (2, 7, 2), dt.int64), tensor("y", (2, 3, 7))
    b, c, o, r, q = ex.axis(2), ex.axis(3), ex.axis(7), ex.axis(4, "r"), ex.axis(4, "q")
    row, column = places[b, o, 0] + r - 1, places[b, o, 1] + q - 1
    element = ex.load(x, (b, c, row, column), 0) if padded else x[b, c, ex.minimum(ex.maximum(row, 0), 3), ex.minimum(ex.maximum(column, 0), 4)]
    inner = ex.reduce("sum", (q,), element * ex.cast(q + 1, dt.float32))
    value = ex.reduce("sum", (r,), inner * ex.cast(r - 2, dt.float32))
    given = np.random.default_rng(3).integers(-1, 4, (2, 7, 2))
    check(MapNest((b, c, o), (Store(y, (b, c, o), value),)), tolerance=1e-5, arrays={places: given})
