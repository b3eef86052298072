"""Contraction schedules against NumPy: products, batches, Einstein sums, convolutions of every kind, epilogues, layouts, targets."""
from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from contraction_oracle import Scheduled, run
from contraction_oracle import size as size_of
from sardonyx.codegen.blocking import NARROWEST, PADDING_SHARE, balanced, even_strip, padding
from sardonyx.codegen.contraction import describe, schedule_contraction
from sardonyx.codegen.numba_backend import compile_kernel
from sardonyx.codegen.tile_shapes import tile_shapes
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import target as targets
from sardonyx.ir.dtypes import DType
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import ContractionNest, MapNest, Store
from sardonyx.runtime.host import host_target

RNG = np.random.default_rng(7)


def sized(name: str, dtype: DType, *shape: int | Expr) -> Tensor:
    return Tensor(name, dtype, tuple(ex.as_expr(d) for d in shape))


def values(dtype: DType, *shape: int) -> np.ndarray:
    if dtype.is_integer:
        return RNG.integers(0 if dtype.kind == "uint" else -20, 20, shape).astype(dtype.numpy)
    return RNG.standard_normal(shape).astype(dtype.numpy)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    assert found.shape == expected.shape
    wide = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance * max(1.0, np.abs(wide[1]).max(initial=0)))


def product(m: int | Expr, n: int | Expr, k: int | Expr, dtype: DType = dt.float32, left: str = "mk", right: str = "kn", relu: bool = False,
            storage: DType | None = None) -> tuple[ContractionNest, Tensor, Tensor]:
    """A matrix product whose operands lie as `left` and `right` say."""
    storage = storage or dtype
    axes = {"m": ex.axis(m, "m"), "n": ex.axis(n, "n"), "k": ex.axis(k, "k")}
    a, b = (Tensor(name, storage, tuple(axes[x].extent for x in how)) for name, how in (("a", left), ("b", right)))
    c = sized("c", storage, m, n)
    value = ex.acc(dtype)
    if relu:
        value = ex.where(value < ex.const(0, dtype), ex.const(0, dtype), value)
    store = Store(c, (axes["m"], axes["n"]), ex.cast(value, storage))
    a_value, b_value = (ex.cast(t[tuple(axes[x] for x in how)], dtype) for t, how in ((a, left), (b, right)))
    return ContractionNest((), (axes["m"],), (axes["n"],), (axes["k"],), a_value, b_value, dtype, (store,)), a, b


TILES = tile_shapes(host_target(), dt.float32)
TILE, WIDEST = max(TILES, key=lambda t: t.rows * t.columns), max(t.columns for t in TILES)  # the tile of most sums has several rows


def test_tiles_of_many_rows_are_chosen_by_the_padding_of_panels() -> None:
    """AVX2: four rows by 24 columns where these fill panels, six by 16 where those do."""
    target = targets.parse("x86-64-v3")
    for columns, expected in ((24, (4, 24)), (144, (4, 24)), (16, (6, 16)), (64, (6, 16))):
        nest, _, b = product(120, columns, 24)
        call = next(c for c in schedule_contraction(nest, {}, {b}, target) if isinstance(c, KernelCall))
        assert call.kernel.name.startswith(f"product_{expected[0]}x{expected[1]}_"), (columns, call.kernel.name)


@pytest.mark.parametrize("m", sorted({1, 2, TILE.rows - 1, TILE.rows, TILE.rows + 1, 131}))
@pytest.mark.parametrize("n", sorted({1, *(c + d for c in (TILE.columns, WIDEST) for d in (-1, 0, 1))}))
@pytest.mark.parametrize("k", [1, 37])
def test_product_sizes(m: int, n: int, k: int) -> None:
    """Around the edges of the tiles."""
    assert TILE.rows > 2
    nest, a, b = product(m, n, k)
    x, y = values(dt.float32, m, k), values(dt.float32, k, n)
    close(run(nest, {a: x, b: y}, constants={b})[0], x @ y)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("n", [5, 32, 64, 100, 130, 144, 300])
def test_products_of_few_rows_read_little_padding(m: int, n: int) -> None:
    """Tiles are as wide as the columns need, and no narrower one of at least half as many vectors would save what matters."""
    nest, a, b = product(m, n, 37)
    x, y = values(dt.float32, m, 37), values(dt.float32, 37, n)
    close(run(nest, {a: x, b: y}, constants={b})[0], x @ y)
    for tile in tile_shapes(host_target(), dt.float32):
        chosen = balanced(tile, n)
        assert chosen.rows == tile.rows and chosen.lanes == tile.lanes and chosen.vectors <= max(1, -(-n // tile.lanes))
        others = [replace(tile, vectors=v) for v in range(NARROWEST, tile.vectors + 1) if chosen.vectors != v >= min(tile.vectors, -(-n // tile.lanes)) / 2]
        assert padding(chosen, n) <= n / PADDING_SHARE or all(padding(chosen, n) <= padding(s, n) for s in others)


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [768, 1000, 1024, 1152, 2048, 3072, 5120, 11008, 32000, 50257])
def test_weights_of_few_rows_hardly_grow_by_packing(m: int, n: int, name: str) -> None:
    from sardonyx.codegen.contraction import schedule_contraction

    nest, _, b = product(m, n, 256)
    packing = schedule_contraction(nest, {}, {b}, targets.parse(name))[0]
    assert isinstance(packing, MapNest)
    assert size_of(packing.outputs[0].numel(), {}) <= 1.01 * n * 256


SMALL_CACHE = replace(targets.parse("x86-64-v3"), l2_bytes=1 << 14)  # which the weights below exceed
RUNS_AVX2 = pytest.mark.skipif(host_target().isa not in ("avx2", "avx512"), reason="an x86 processor with AVX2 runs these")


@RUNS_AVX2
@pytest.mark.parametrize("dtype", [dt.float32, dt.float64])
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("n", [63, 64, 65, 100, 128, 200])
def test_panels_side_by_side_give_the_bits_of_panels_one_after_another(m: int, n: int, dtype: DType) -> None:
    nest, a, b = product(m, n, 131, dtype, relu=True)
    x, y = values(dtype, m, 131), values(dtype, 131, n)
    beside = Scheduled(nest, {a: x, b: y}, constants={b}, target=SMALL_CACHE)
    assert "abreast_tile" in beside.ready[-1][0].kernel.text
    beside.run(split=2)
    after, = run(nest, {a: x, b: y}, constants={b}, target=targets.parse("x86-64-v3"))
    close(after, np.maximum(x @ y, 0))
    np.testing.assert_array_equal(beside.get(nest.outputs[0]), after)


@RUNS_AVX2
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("large", [False, True])
def test_transposed_weights_of_one_or_two_rows_are_packed_if_large(m: int, large: bool) -> None:
    """Sums along adjacent weights read one stream; weights that the cache holds stay as they lie."""
    nest, a, b = product(m, 70, 150, right="nk")
    x, y = values(dt.float32, m, 150), values(dt.float32, 70, 150)
    scheduled = Scheduled(nest, {a: x, b: y}, constants={b}, target=SMALL_CACHE if large else targets.parse("x86-64-v3"))
    assert ("abreast_tile" in scheduled.ready[-1][0].kernel.text) == large and bool(scheduled.once) == large
    scheduled.run()
    close(scheduled.get(nest.outputs[0]), x @ y.T)


@RUNS_AVX2
@pytest.mark.parametrize("m", [0, 1, 2, 3, 7, 130])
@pytest.mark.parametrize("n", [49, 64, 150, 1000])
def test_few_rows_of_an_unknown_number_walk_panels_side_by_side(m: int, n: int) -> None:
    nest, a, b = product(ex.sym("M"), n, 150)
    x, y = values(dt.float32, m, 150), values(dt.float32, 150, n)
    scheduled = Scheduled(nest, {a: x, b: y}, constants={b}, target=SMALL_CACHE, sizes={"M": m})
    assert "abreast_tile" in scheduled.ready[-1][0].kernel.text
    scheduled.run()
    found = scheduled.get(nest.outputs[0])
    close(found, x @ y)
    if m:
        alone = Scheduled(nest, {a: x[:1], b: y}, constants={b}, target=SMALL_CACHE, sizes={"M": 1})
        alone.run()
        np.testing.assert_array_equal(alone.get(nest.outputs[0]), found[:1])


@RUNS_AVX2
@pytest.mark.parametrize("image,pad", [(3, 0), (2, 1)])
def test_a_convolution_of_few_places_walks_panels_side_by_side(image: int, pad: int) -> None:
    """Taps, and padding that some of them meet."""
    nest, (tx, tw, tb, ty), _ = convolution((1, 32, image, 3), (70, 32, 3, 3), (1, 1), (1, 1), (pad, 0, pad, 0))
    x, w, bias = values(dt.float32, 1, 32, image, 3), values(dt.float32, 70, 32, 3, 3), values(dt.float32, 70)
    scheduled = Scheduled(nest, {tx: x, tw: w, tb: bias}, {t: CHANNELS_LAST[4] for t in (tx, ty)}, {tw, tb}, target=SMALL_CACHE)
    assert "abreast_tile" in scheduled.ready[-1][0].kernel.text
    scheduled.run()
    close(scheduled.get(ty), np.maximum(convolve(x, w, (1, 1), (1, 1), (pad, 0, pad, 0), 1) + bias[:, None, None], 0))


@pytest.mark.parametrize("m,n,k", [(0, 40, 5), (9, 0, 5), (9, 40, 0), (0, 1, 3), (1, 0, 3)])
def test_products_of_nothing(m: int, n: int, k: int) -> None:
    nest, a, b = product(m, n, k)
    x, y = values(dt.float32, m, k), values(dt.float32, k, n)
    close(run(nest, {a: x, b: y}, constants={b})[0], x @ y)


@pytest.mark.parametrize("left,right", list(itertools.product(("mk", "km"), ("kn", "nk"))))
@pytest.mark.parametrize("constant", ["", "a", "b"])
def test_transposed_operands(left: str, right: str, constant: str) -> None:
    nest, a, b = product(33, 50, 20, left=left, right=right, relu=True)
    x, y = values(dt.float32, 33, 20), values(dt.float32, 20, 50)
    arrays = {a: x if left == "mk" else x.T, b: y if right == "kn" else y.T}
    close(run(nest, arrays, constants={t for t in (a, b) if t.name == constant})[0], np.maximum(x @ y, 0))


@pytest.mark.parametrize("dtype,storage", [(dt.float64, dt.float64), (dt.int32, dt.int32), (dt.int64, dt.int64), (dt.uint32, dt.uint32), (dt.float32, dt.float16),
                                           (dt.float32, dt.bfloat16), (dt.int32, dt.int8), (dt.int32, dt.uint8)])
def test_element_types(dtype: DType, storage: DType) -> None:
    nest, a, b = product(19, 35, 23, dtype, storage=storage)
    x, y = values(storage, 19, 23), values(storage, 23, 35)
    expected = x.astype(dtype.numpy) @ y.astype(dtype.numpy)
    close(run(nest, {a: x, b: y})[0], expected.astype(storage.numpy), 1e-5 if storage is dtype else 1e-2)


def test_symbolic_sizes_and_shares() -> None:
    """Any split of the units gives the same bits."""
    m, n = ex.sym("M"), ex.sym("N")
    nest, a, b = product(m, n, 300)
    x, y = values(dt.float32, 301, 300), values(dt.float32, 300, 333)
    s = Scheduled(nest, {a: x, b: y}, sizes={"M": 301, "N": 333})
    s.run()
    whole = s.get(nest.outputs[0]).copy()
    close(whole, x @ y)
    s.get(nest.outputs[0])[...] = 0
    s.run(split=5)
    np.testing.assert_array_equal(s.get(nest.outputs[0]), whole)


def test_rows_do_not_depend_on_their_number() -> None:
    x, y = values(dt.float32, 61, 70), values(dt.float32, 70, 90)
    found = []
    for m in (61, 7):
        nest, a, b = product(m, 90, 70)
        found.append(run(nest, {a: x[:m], b: y})[0][:7])
    np.testing.assert_array_equal(*found)


def test_long_sums_are_cut_into_chunks() -> None:
    nest, a, b = product(40, 70, 9000)
    x, y = values(dt.float32, 40, 9000), values(dt.float32, 9000, 70)
    close(run(nest, {a: x, b: y})[0], x.astype(np.float64) @ y, 1e-4)


EQUATIONS = ["bij,bjk->bik", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "ij,bjk->bik", "bij,jk->bik", "i,j->ij", "ij,kj->ki", "abi,bci->abc", "bi,bi->b", "i,i->",
             "bijc,cde->bdije", "bhwc,hkc->bhwk"]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einstein_sums(equation: str) -> None:
    sizes = {"b": 3, "i": 17, "j": 9, "k": 21, "h": 4, "q": 13, "d": 8, "a": 5, "c": 11, "e": 2, "w": 6}
    (left, right), out = equation.split("->", maxsplit=1)[0].split(","), equation.split("->")[1]
    axes = {s: ex.axis(sizes[s], s) for s in dict.fromkeys(left + right)}
    a, b, c = (sized(n, dt.float32, *(sizes[s] for s in labels)) for n, labels in (("a", left), ("b", right), ("c", out)))
    groups = ([s for s in axes if s in left and s in right and s in out], [s for s in axes if s not in right], [s for s in axes if s not in left],
              [s for s in axes if s not in out])
    nest = ContractionNest(*(tuple(axes[s] for s in g) for g in groups), a[tuple(axes[s] for s in left)], b[tuple(axes[s] for s in right)], dt.float32,
                           (Store(c, tuple(axes[s] for s in out), ex.acc(dt.float32)),))
    x, y = values(dt.float32, *(sizes[s] for s in left)), values(dt.float32, *(sizes[s] for s in right))
    close(run(nest, {a: x, b: y})[0], np.einsum(equation, x, y))


def test_broadcast_batch() -> None:
    """A batch dimension of symbolic size that may be 1 for one operand."""
    s = ex.sym("S")
    b_axis, m, n, k = ex.axis(6, "b"), ex.axis(20, "m"), ex.axis(30, "n"), ex.axis(15, "k")
    a, b, c = sized("a", dt.float32, 6, 20, 15), sized("b", dt.float32, s, 15, 30), sized("c", dt.float32, 6, 20, 30)
    at = ex.where(ex.equal(s, 1), 0, b_axis)
    nest = ContractionNest((b_axis,), (m,), (n,), (k,), a[b_axis, m, k], b[at, k, n], dt.float32, (Store(c, (b_axis, m, n), ex.acc(dt.float32)),))
    for size in (1, 6):
        x, y = values(dt.float32, 6, 20, 15), values(dt.float32, size, 15, 30)
        close(run(nest, {a: x, b: y}, sizes={"S": size})[0], x @ y)


def test_epilogue_splits_heads_and_adds() -> None:
    """Stores through // and %, with a bias, a residual, and the position as a value."""
    m, n, k = ex.axis(26, "m"), ex.axis(48, "n"), ex.axis(40, "k")
    a, b, bias = sized("a", dt.float32, 26, 40), sized("b", dt.float32, 40, 48), sized("bias", dt.float32, 48)
    rest, out, plain = sized("rest", dt.float32, 26, 48), sized("out", dt.float32, 2, 6, 13, 8), sized("plain", dt.float32, 26, 48)
    acc = ex.acc(dt.float32)
    masked = ex.where(n <= m, acc + bias[n] + rest[m, n], ex.const(-1.0, dt.float32))
    nest = ContractionNest((), (m,), (n,), (k,), a[m, k], b[k, n], dt.float32,
                           (Store(out, (m // 13, n // 8, m % 13, n % 8), acc * bias[n]), Store(plain, (m, n), masked)))
    x, y, z, r = (values(dt.float32, *s) for s in ((26, 40), (40, 48), (48,), (26, 48)))
    first, second = run(nest, {a: x, b: y, bias: z, rest: r}, constants={b, bias})
    close(first, ((x @ y) * z).reshape(2, 13, 6, 8).transpose(0, 2, 1, 3))
    close(second, np.where(np.arange(48) <= np.arange(26)[:, None], x @ y + z + r, -1))


@pytest.mark.parametrize("m", [1, 9, 131, 300])
@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("order", ["mn", "nm"])
def test_results_of_few_columns(m: int, n: int, order: str) -> None:
    """Columns that fill no vector, lying along either axis, with operands along rows and along columns."""
    rows, columns, k = ex.axis(m, "m"), ex.axis(n, "n"), ex.axis(37, "k")
    a, b, bias, rest = sized("a", dt.float32, m, 37), sized("b", dt.float32, 37, n), sized("bias", dt.float32, n), sized("rest", dt.float32, m, n)
    index = (rows, columns) if order == "mn" else (columns, rows)
    out = Tensor("out", dt.float32, tuple(i.extent for i in index))
    value = ex.unary("sigmoid", ex.acc(dt.float32) + bias[columns]) + rest[rows, columns]
    nest = ContractionNest((), (rows,), (columns,), (k,), a[rows, k], b[k, columns], dt.float32, (Store(out, index, value),))
    x, y, z, r = (values(dt.float32, *s) for s in ((m, 37), (37, n), (n,), (m, n)))
    expected = 1 / (1 + np.exp(-(x @ y + z))) + r
    close(run(nest, {a: x, b: y, bias: z, rest: r}, constants={b, bias})[0], expected if order == "mn" else expected.T)


@pytest.mark.parametrize("images", [1, 3])
def test_results_of_few_columns_on_several_axes(images: int) -> None:
    """A transposed convolution of stride 2: one pixel gives a square of two by two."""
    batch, y, x, i, j, k = (ex.axis(n, s) for n, s in ((images, "b"), (7, "y"), (11, "x"), (2, "i"), (2, "j"), (24, "k")))
    a, b, out = sized("a", dt.float32, images, 7, 11, 24), sized("b", dt.float32, 24, 2, 2), sized("out", dt.float32, images, 14, 22)
    nest = ContractionNest((), (batch, y, x), (i, j), (k,), a[batch, y, x, k], b[k, i, j], dt.float32, (Store(out, (batch, 2 * y + i, 2 * x + j), ex.acc(dt.float32)),))
    p, q = values(dt.float32, images, 7, 11, 24), values(dt.float32, 24, 2, 2)
    close(run(nest, {a: p, b: q}, constants={b})[0], np.einsum("byxk,kij->byixj", p, q).reshape(images, 14, 22))


@pytest.mark.parametrize("last", [1, 2, 5])
def test_epilogue_over_many_short_column_axes(last: int) -> None:
    """Columns of four axes, whose innermost stretches are shorter than a vector and end within panels."""
    m, c = ex.axis(19, "m"), tuple(ex.axis(n, f"c{n}") for n in (3, 2, 4, last))
    k = ex.axis(11, "k")
    shape = tuple(int(x.extent.value) for x in c)
    a, b, out = sized("a", dt.float32, 19, 11), sized("b", dt.float32, 11, *shape), sized("out", dt.float32, 19, *shape)
    scale, rest = sized("scale", dt.float32, 2, last), sized("rest", dt.float32, 19, 3, 4)
    value = ex.acc(dt.float32) / scale[c[1], c[3]] + rest[m, c[0], c[2]]
    nest = ContractionNest((), (m,), c, (k,), a[m, k], b[(k, *c)], dt.float32, (Store(out, (m, *c), value),))
    x, y, s, r = values(dt.float32, 19, 11), values(dt.float32, 11, *shape), 1 + abs(values(dt.float32, 2, last)), values(dt.float32, 19, 3, 4)
    expected = np.einsum("mk,kabcd->mabcd", x, y) / s[:, None, :] + r[:, :, None, :, None]
    close(run(nest, {a: x, b: y, scale: s, rest: r}, constants={b})[0], expected)


def test_epilogues_choose_without_branches() -> None:
    """A slope is read whatever the sign: a branch around the read would keep the loop from being vectorised."""
    nest, a, b = product(19, 40, 23)
    slope, (n,) = sized("slope", dt.float32, 40), nest.columns
    sum_ = ex.acc(dt.float32)
    nest = replace(nest, stores=(replace(nest.stores[0], value=ex.where(sum_ < ex.const(0.0, dt.float32), sum_ * slope[n], sum_)),))
    x, y, z = values(dt.float32, 19, 23), values(dt.float32, 23, 40), values(dt.float32, 40)
    close(run(nest, {a: x, b: y, slope: z}, constants={b, slope})[0], np.where(x @ y < 0, x @ y * z, x @ y))
    text, = (p.kernel.text for p in schedule_contraction(nest, {}, {b}, targets.parse("x86-64-v4")) if isinstance(p, KernelCall))  # AVX2's tiles choose by themselves
    assert "select_float32(" in text and " if (" not in text


# --------------------------------------------------------------------------------------------------------------------- convolutions
CHANNELS_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}


def convolution(x: tuple[int, ...], w: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], pads: tuple[int, ...], group: int = 1,
                storage: DType = dt.float32, epilogue: bool = True) -> tuple[ContractionNest, list[Tensor], tuple[int, ...]]:
    """ONNX Conv as its definition lowers it: batch = group, rows = image and positions, columns = channels out, reduced = channels in and taps."""
    rank = len(x) - 2
    spatial = tuple((x[2 + d] + pads[d] + pads[rank + d] - dilation[d] * (w[2 + d] - 1) - 1) // stride[d] + 1 for d in range(rank))
    out_shape = (x[0], w[0], *spatial)
    tx, tw, tb, ty = (sized(n, storage, *s) for n, s in (("x", x), ("w", w), ("bias", (w[0],)), ("y", out_shape)))
    g, image, channel, inner = (ex.axis(n, s) for n, s in ((group, "g"), (x[0], "n"), (w[0] // group, "o"), (w[1], "c")))
    at, taps = [ex.axis(n, "y") for n in spatial], [ex.axis(n, "t") for n in w[2:]]
    index = [o * s + t * d - p for o, s, t, d, p in zip(at, stride, taps, dilation, pads)]
    a = ex.cast(ex.load(tx, (image, g * w[1] + inner, *index), 0.0 if any(pads) else None), dt.float32)
    out = g * (w[0] // group) + channel
    b = ex.cast(tw[(out, inner, *taps)], dt.float32)
    value = ex.acc(dt.float32)
    if epilogue:
        value = ex.maximum(value + ex.cast(tb[out], dt.float32), ex.const(0, dt.float32))
    nest = ContractionNest((g,), (image, *at), (channel,), (inner, *taps), a, b, dt.float32, (Store(ty, (image, out, *at), ex.cast(value, storage)),))
    return nest, [tx, tw, tb, ty], out_shape


def convolve(x: np.ndarray, w: np.ndarray, stride: tuple[int, ...], dilation: tuple[int, ...], pads: tuple[int, ...], group: int) -> np.ndarray:
    rank = x.ndim - 2
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *((pads[d], pads[rank + d]) for d in range(rank))])
    spatial = [(x.shape[2 + d] - dilation[d] * (w.shape[2 + d] - 1) - 1) // stride[d] + 1 for d in range(rank)]
    out = np.zeros((x.shape[0], w.shape[0], *spatial))
    per_in, per_out = w.shape[1], w.shape[0] // group
    for tap in itertools.product(*map(range, w.shape[2:])):
        window = x[(slice(None), slice(None), *(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilation, spatial, stride)))]
        for g in range(group):
            part = np.tensordot(w[(slice(g * per_out, (g + 1) * per_out), slice(None), *tap)].astype(np.float64), window[:, g * per_in:(g + 1) * per_in], ([1], [1]))
            out[:, g * per_out:(g + 1) * per_out] += np.moveaxis(part, 0, 1)
    return out


CASES = {
    "1x1": ((2, 24, 5, 7), (40, 24, 1, 1), (1, 1), (1, 1), (0,) * 4, 1),
    "1x1 stride": ((1, 24, 6, 7), (40, 24, 1, 1), (2, 2), (1, 1), (0,) * 4, 1),
    "3x3": ((1, 32, 9, 10), (33, 32, 3, 3), (1, 1), (1, 1), (1,) * 4, 1),
    "3x3 no padding": ((2, 18, 9, 10), (20, 18, 3, 3), (1, 1), (1, 1), (0,) * 4, 1),
    "3x3 stride, uneven pads": ((1, 20, 9, 10), (16, 20, 3, 3), (2, 1), (1, 1), (0, 1, 2, 0), 1),
    "dilated": ((1, 17, 11, 12), (19, 17, 3, 2), (1, 1), (2, 3), (2, 3, 2, 3), 1),
    "few channels": ((1, 3, 20, 21), (18, 3, 7, 7), (2, 2), (1, 1), (3,) * 4, 1),
    "few channels, no padding": ((1, 3, 12, 13), (18, 3, 3, 3), (2, 2), (1, 1), (0,) * 4, 1),
    "groups": ((1, 12, 8, 9), (8, 3, 3, 3), (1, 1), (1, 1), (1,) * 4, 4),
    "groups of four": ((2, 32, 8, 9), (32, 4, 3, 3), (2, 2), (1, 1), (1,) * 4, 8),
    "groups of eight": ((1, 40, 8, 9), (40, 8, 3, 3), (1, 1), (1, 1), (1,) * 4, 5),
    "groups of two": ((1, 18, 6, 5), (18, 2, 1, 1), (1, 1), (1, 1), (0,) * 4, 9),
    "large groups": ((1, 64, 8, 9), (64, 32, 3, 3), (1, 1), (1, 1), (1,) * 4, 2),
    "depthwise": ((2, 37, 9, 8), (37, 1, 3, 3), (1, 1), (1, 1), (1,) * 4, 37),
    "depthwise stride": ((1, 48, 9, 8), (48, 1, 5, 5), (2, 2), (1, 1), (2,) * 4, 48),
    "depthwise no padding": ((1, 16, 9, 8), (16, 1, 3, 3), (1, 2), (1, 1), (0,) * 4, 16),
    "depthwise dilated": ((1, 20, 12, 12), (20, 1, 3, 3), (1, 1), (2, 2), (2,) * 4, 20),
    "depthwise many channels": ((1, 70, 9, 20), (70, 1, 3, 3), (1, 1), (1, 1), (1,) * 4, 70),
    "depthwise long lines": ((1, 16, 3, 405), (16, 1, 3, 3), (1, 1), (1, 1), (1,) * 4, 16),
    "depthwise longer taps": ((1, 24, 5, 50), (24, 1, 2, 7), (1, 3), (1, 2), (1, 6, 0, 5), 24),
    "depthwise taps down the image": ((2, 16, 30, 7), (16, 1, 5, 1), (1, 2), (1, 1), (2, 0, 2, 0), 16),
    "depthwise stride beyond the taps": ((1, 16, 10, 41), (16, 1, 2, 2), (3, 4), (1, 1), (0, 1, 0, 1), 16),
    "depthwise window larger than the image": ((1, 16, 2, 2), (16, 1, 5, 5), (1, 1), (1, 1), (2,) * 4, 16),
    "depthwise single taps": ((1, 16, 5, 6), (16, 1, 1, 1), (1, 1), (1, 1), (0,) * 4, 16),
    "depthwise multiplied": ((1, 10, 7, 7), (20, 1, 3, 3), (1, 1), (1, 1), (1,) * 4, 10),
    "1d": ((2, 20, 30), (24, 20, 5), (2,), (1,), (2, 2), 1),
    "1d depthwise long": ((2, 20, 1000), (20, 1, 9), (1,), (1,), (8, 0), 20),
    "1d depthwise, taps beyond unrolling": ((1, 20, 90), (20, 1, 40), (1,), (1,), (20, 19), 20),
    "1d depthwise": ((2, 20, 30), (20, 1, 4), (1,), (1,), (3, 0), 20),
    "3d": ((1, 16, 5, 6, 7), (18, 16, 3, 2, 3), (1, 2, 1), (1, 1, 1), (1, 0, 1, 1, 0, 1), 1),
    "3d depthwise": ((1, 18, 5, 6, 7), (18, 1, 3, 2, 3), (1, 2, 1), (1, 1, 1), (1, 0, 1, 1, 0, 1), 18),
    "one channel": ((1, 1, 12, 12), (20, 1, 5, 5), (1, 1), (1, 1), (2,) * 4, 1),
    "window larger than the image": ((1, 16, 2, 2), (16, 16, 5, 5), (1, 1), (1, 1), (2,) * 4, 1),
    "taps far apart": ((1, 20, 14, 13), (18, 20, 3, 3), (1, 1), (9, 8), (9, 8, 9, 8), 1),
    "taps far apart of one channel": ((2, 1, 30, 13), (18, 1, 4, 3), (1, 1), (9, 8), (9, 8, 9, 8), 1),
    "taps beyond the image": ((2, 16, 5, 5), (40, 16, 3, 3), (1, 1), (6, 6), (6,) * 4, 1),
    "results of padding alone": ((1, 17, 3, 30), (18, 17, 2, 2), (1, 1), (1, 1), (3, 20, 3, 20), 1),
}


@pytest.mark.parametrize("layout", ["last", "first", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_convolution(case: str, layout: str) -> None:
    xs, ws, stride, dilation, pads, group = CASES[case]
    nest, (tx, tw, tb, ty), _ = convolution(xs, ws, stride, dilation, pads, group)
    x, w, b = values(dt.float32, *xs), values(dt.float32, *ws), values(dt.float32, ws[0])
    order = CHANNELS_LAST[len(xs)]
    layouts = {t: order for t in {"last": (tx, ty), "first": (), "mixed": (ty,)}[layout]}
    expected = np.maximum(convolve(x, w, stride, dilation, pads, group) + b.reshape(-1, *[1] * (len(xs) - 2)), 0)
    close(run(nest, {tx: x, tw: w, tb: b}, layouts=layouts, constants={tw, tb})[0], expected)


DEPTHWISE = [case for case, (xs, _, _, _, _, group) in CASES.items() if group == xs[1] > 1]


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_bits_depend_on_no_choice(case: str) -> None:
    """Sums keep their order whatever the tile, the cut, the strip, and the share of a thread."""
    xs, ws, stride, dilation, pads, group = CASES[case]
    nest, (tx, tw, tb, ty), _ = convolution(xs, ws, stride, dilation, pads, group)
    arrays = {tx: values(dt.float32, *xs), tw: values(dt.float32, *ws), tb: values(dt.float32, ws[0])}
    layouts = {t: CHANNELS_LAST[len(xs)] for t in (tx, ty)}
    found = set()
    for choice in range(9):
        for split in (1, 3):
            s = Scheduled(nest, arrays, layouts, {tw, tb}, target=replace(host_target(), measured={"blocking": choice}))
            s.run(split=split)
            found.add(s.get(ty).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("length", [1, 2, 7, 40, 405])
@pytest.mark.parametrize("pad", [0, 1])
def test_depthwise_of_symbolic_sizes(length: int, pad: int) -> None:
    """Lines may turn out shorter than a tile, or long enough for several segments."""
    n = ex.sym("N", 1)
    nest, (tx, tw, tb, ty), _ = convolution((1, 24, 3, n + 2), (24, 1, 3, 3), (1, 1), (1, 1), (1, pad, 1, pad), 24)
    x, w, b = values(dt.float32, 1, 24, 3, length + 2), values(dt.float32, 24, 1, 3, 3), values(dt.float32, 24)
    expected = np.maximum(convolve(x, w, (1, 1), (1, 1), (1, pad, 1, pad), 24) + b.reshape(-1, 1, 1), 0)
    layouts = {t: CHANNELS_LAST[4] for t in (tx, ty)}
    close(run(nest, {tx: x, tw: w, tb: b}, layouts=layouts, constants={tw, tb}, sizes={"N": length})[0], expected)


@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise_reads_within_its_input(case: str) -> None:
    """Neighbours of the image are not numbers; nothing of them comes into a result."""
    xs, ws, stride, dilation, pads, group = CASES[case]
    nest, (tx, tw, tb, ty), _ = convolution(xs, ws, stride, dilation, pads, group)
    order = CHANNELS_LAST[len(xs)]
    arrays = {tx: values(dt.float32, *xs), tw: values(dt.float32, *ws), tb: values(dt.float32, ws[0])}
    s = Scheduled(nest, arrays, {t: order for t in (tx, ty)}, {tw, tb})
    inside = s.memory[tx]
    around = np.full(inside.size + 2048, np.nan, np.float32)
    around[1024:-1024] = inside.reshape(-1)
    s.memory[tx] = around[1024:-1024].reshape(inside.shape)
    s.run()
    assert np.isfinite(s.get(ty)).all()


@pytest.mark.parametrize("storage", [dt.float16, dt.bfloat16])
@pytest.mark.parametrize("case", ["3x3", "few channels", "depthwise"])
def test_convolution_of_narrow_floats(case: str, storage: DType) -> None:
    xs, ws, stride, dilation, pads, group = CASES[case]
    nest, (tx, tw, tb, ty), _ = convolution(xs, ws, stride, dilation, pads, group, storage)
    x, w, b = values(storage, *xs), values(storage, *ws), values(storage, ws[0])
    layouts = {tx: (0, 2, 3, 1), ty: (0, 2, 3, 1)}
    expected = np.maximum(convolve(x, w, stride, dilation, pads, group) + b.astype(np.float64).reshape(-1, 1, 1), 0)
    close(run(nest, {tx: x, tw: w, tb: b}, layouts=layouts, constants={tw, tb})[0], expected, 2e-2)


def test_operands_that_move_with_the_batch_are_read_in_place() -> None:
    """A transposed convolution of stride 2: where a row of the operand starts depends on the phase r, but not by equal steps."""
    tx, tw, ty = sized("x", dt.float32, 1, 32, 9, 10), sized("w", dt.float32, 32, 20, 4), sized("y", dt.float32, 1, 20, 18, 10)
    r, i, j, o, c, t = (ex.axis(n, s) for n, s in ((2, "r"), (9, "i"), (10, "j"), (20, "o"), (32, "c"), (2, "t")))
    first = (r + 1) % 2
    a = ex.load(tx, (ex.const(0), c, i - t + (r + first + 1) // 2 - first, j), 0.0)
    nest = ContractionNest((r,), (i, j), (o,), (c, t), a, tw[c, o, 2 * t + first], dt.float32, (Store(ty, (ex.const(0), o, 2 * i + r, j), ex.acc(dt.float32)),))
    layouts = {tx: (0, 2, 3, 1), ty: (0, 2, 3, 1)}
    assert describe(nest, layouts) is None
    x, w = values(dt.float32, 1, 32, 9, 10), values(dt.float32, 32, 20, 4)
    whole = np.zeros((20, 20, 10))
    for k in range(4):
        whole[:, k:k + 18:2] += np.einsum("cij,co->oij", x[0].astype(np.float64), w[:, :, k])
    close(run(nest, {tx: x, tw: w}, layouts=layouts, constants={tw})[0], whole[None, :, 1:19])


# -------------------------------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_kernels_compile_for_every_target(name: str) -> None:
    xs, ws, stride, dilation, pads, group = CASES["3x3"]
    for nest in (product(100, 100, 100)[0], convolution(xs, ws, stride, dilation, pads, group)[0]):
        target = targets.parse(name)
        for part in schedule_contraction(nest, {}, (), target):
            if isinstance(part, KernelCall):
                assert compile_kernel(part.kernel, target)


@RUNS_AVX2
@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
def test_lesser_targets_run_here(name: str) -> None:
    nest, a, b = product(33, 50, 20, relu=True)
    x, y = values(dt.float32, 33, 20), values(dt.float32, 20, 50)
    close(run(nest, {a: x, b: y}, target=targets.parse(name))[0], np.maximum(x @ y, 0))


def test_kernels_are_shared_between_sizes() -> None:
    keys = set()
    for m, n, k in ((128, 768, 768), (128, 3072, 768), (256, 768, 3072)):
        nest, _, b = product(m, n, k)
        parts = schedule_contraction(nest, {}, {b}, host_target())
        keys |= {p.kernel.key for p in parts if isinstance(p, KernelCall)}
    assert len(keys) == 1


@pytest.mark.parametrize("panels", [1, 3, 6, 7, 16, 43, 48, 64, 1047])
@pytest.mark.parametrize("most", [1, 2, 7, 13])
@pytest.mark.parametrize("cores", [1, 2, 4, 16])
def test_strips_are_even(panels: int, most: int, cores: int) -> None:
    """With some strips for each core, none does much more than its share; one core takes the fewest strips."""
    strip = even_strip(panels, min(most, panels), 1, cores)
    assert 1 <= strip <= min(most, panels)
    if cores == 1:
        assert strip == min(most, panels)
    elif panels >= 4 * cores:
        strips = math.ceil(panels / strip)
        assert math.ceil(strips / cores) * strip <= 1.15 * panels / cores


def test_images_of_a_batch_of_any_size_are_cut_like_one_image() -> None:
    """The kernel is the one of a known batch, and its results are right for every batch."""
    def pointwise(batch: int | Expr) -> tuple[ContractionNest, Tensor, Tensor]:
        image, at, channel, k = ex.axis(batch, "b"), ex.axis(49, "p"), ex.axis(40, "n"), ex.axis(24, "k")
        a, b, c = sized("a", dt.float32, batch, 49, 24), sized("b", dt.float32, 24, 40), sized("c", dt.float32, batch, 49, 40)
        return ContractionNest((), (image, at), (channel,), (k,), a[image, at, k], b[k, channel], dt.float32, (Store(c, (image, at, channel), ex.acc(dt.float32)),)), a, b
    keys = set()
    for batch in (0, 1, 3):
        x, y = values(dt.float32, batch, 49, 24), values(dt.float32, 24, 40)
        nest, a, b = pointwise(ex.sym("B"))
        s = Scheduled(nest, {a: x, b: y}, sizes={"B": batch})
        s.run()
        close(s.get(nest.outputs[0]), x @ y)
        keys.add(s.ready[-1][0].kernel.key)
    nest, a, b = pointwise(1)
    keys.add(Scheduled(nest, {a: values(dt.float32, 1, 49, 24), b: y}).ready[-1][0].kernel.key)
    assert len(keys) == 1


@pytest.mark.parametrize("least", [0, 1])
@pytest.mark.parametrize("batch", [1, 2])
def test_sums_of_nothing_are_zero_where_only_the_run_knows_their_length(batch: int, least: int) -> None:
    """A size that simplification takes for at least 1 may be zero all the same."""
    k = ex.sym("K", least)
    axes = ex.axis(batch, "b"), ex.axis(6, "m"), ex.axis(35, "n"), ex.axis(k, "k")
    a, b, c = sized("a", dt.float32, 6, k), sized("b", dt.float32, batch, k, 35), sized("c", dt.float32, batch, 6, 35)
    bs, m, n, i = axes
    nest = ContractionNest((bs,), (m,), (n,), (i,), a[m, i], b[bs, i, n], dt.float32, (Store(c, (bs, m, n), ex.acc(dt.float32) + 1.0),))
    for length in (0, 1, 5):
        x, y = values(dt.float32, 6, length), values(dt.float32, batch, length, 35)
        close(run(nest, {a: x, b: y}, sizes={"K": length})[0], x @ y + 1)


class Place:
    """An address counted from the start of its buffer, in elements; those that nobody wrote are zeros."""

    def __init__(self, at: int = 0, written: dict[int, object] | None = None) -> None:
        self.at, self.written = at, {} if written is None else written

    def __getitem__(self, index: int) -> object:
        return self.written.get(self.at + index, 0)

    def __setitem__(self, index: int, value: object) -> None:
        self.written[self.at + index] = value


@dataclass(frozen=True)
class TileCall:
    """What a register tile was asked for: taps, steps of each, and the bytes that it fetches ahead, from the start of the weights."""

    taps: int
    length: int
    ahead: int
    ahead_end: int


def tile_calls(call: KernelCall) -> list[TileCall]:
    """The calls of register tiles that a kernel makes, run as Python."""
    found: list[TileCall] = []

    def register_tile(table: object, taps: int, start: object, step: object, length: int, b: object, b_step: int, c: object, c_step: int, first: bool,
                      ahead: int, ahead_step: int) -> None:
        found.append(TileCall(taps, length, ahead, ahead + (taps * length - 1) * ahead_step + 1))

    def finished_tile(table: object, taps: int, step: object, length: int, b: object, b_step: int, ahead: int, share: int, rest: int, row: int, column: int, count: int,
                      *places: int) -> None:
        for block in range(-(-count // rows)):
            register_tile(table, taps, 0, step, length, b, b_step, None, 0, True, ahead + min(block * share, rest) * taps * length, share)

    rows = next((arguments[0] for _, builder, arguments in call.kernel.constants if builder == "finished_tile"), 1)
    names: dict[str, object] = {name: lambda *_: Place() for name, _, _ in call.kernel.constants}
    names |= {"advanced": lambda place, n: Place(place.at + n, place.written), "address": lambda place: place.at * 4, "register_tile": register_tile,
              "finished_tile": finished_tile, "float32": float}
    exec(call.kernel.text, names)
    names["kernel"](*(Place() for _ in call.buffers), *(size_of(p, {}) for p in call.parameters), 0, size_of(call.units, {}), Place())
    return found


def fetched(call: KernelCall) -> tuple[int, int]:
    """The first byte that the register tiles of a kernel fetch ahead of their sums, counted from the start of the weights, and the end of the last one."""
    calls = tile_calls(call)
    return min(c.ahead for c in calls), max(c.ahead_end for c in calls)


@pytest.mark.parametrize("image,taps,dilation,share", [(24, 3, 12, 0.45), (24, 3, 6, 0.7), (9, 5, 1, 0.9)])
def test_taps_that_are_padding_are_skipped(image: int, taps: int, dilation: int, share: float) -> None:
    """Where all rows of a tile would multiply zeros by the weights of a tap."""
    nest, (tx, tw, tb, ty), _ = convolution((1, 32, image, image), (64, 32, taps, taps), (1, 1), (dilation,) * 2, (taps // 2 * dilation,) * 4)
    call, = (c for c in schedule_contraction(nest, {t: CHANNELS_LAST[4] for t in (tx, ty)}, {tw, tb}, targets.parse("x86-64-v3")) if isinstance(c, KernelCall))
    rows, columns = (int(n) for n in call.kernel.name.split("_")[1].split("x"))
    assert sum(c.taps for c in tile_calls(call)) <= share * -(-image * image // rows) * -(-64 // columns) * taps * taps


@pytest.mark.parametrize("n", [3, 40, 64, 200])
@pytest.mark.parametrize("m", [12, 70, 700])
def test_products_fetch_ahead_within_their_weights(m: int, n: int) -> None:
    """Looking up pages of no memory is many times as slow as the sums."""
    nest, a, b = product(m, n, 37)
    scheduled = Scheduled(nest, {a: values(dt.float32, m, 37), b: values(dt.float32, 37, n)}, constants={b})
    first, end = fetched(scheduled.ready[-1][0])
    assert first >= 0 and end <= scheduled.memory[scheduled.ready[-1][0].buffers[1]].nbytes


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 40])
def test_depthwise_fetches_ahead_within_its_input(size: int, stride: int, pad: int) -> None:
    """Most of the input where it does not stay in the cache; nothing otherwise."""
    nest, (tx, tw, tb, ty), _ = convolution((2, 64, size, size), (64, 1, 3, 3), (stride,) * 2, (1, 1), (pad,) * 4, 64)
    target = replace(host_target(), l2_bytes=2 * 64 * 20 * 20 * 4, cores=1)
    call = next(c for c in schedule_contraction(nest, {t: CHANNELS_LAST[4] for t in (tx, ty)}, {tw, tb}, target) if isinstance(c, KernelCall))
    found: list[tuple[int, int]] = []

    def fetch_lines(start: int, length: int) -> None:
        if length > 0:
            found.append((start, start + length))

    def fetch_by_tiles(count: int, panels: int, ahead: int, share: int, end: int) -> None:
        for at in range(ahead, ahead + count * panels * share, share or 1):
            fetch_lines(at, min(share, end - at))

    def gathered_tile(table: object, places: object, count: int, start: int, outer: int, b: object, row: int, column: int, panels: int, last: int, *rest: int) -> None:
        fetch_by_tiles(count, panels, *rest[:3])

    def line_tile(starts: object, start: int, step: int, outer: int, b: object, first: int, count: int, *rest: int) -> None:
        fetch_by_tiles(count, rest[3], *rest[5:8])

    outside = -1 << 40
    names: dict[str, object] = {name: lambda *_: defaultdict(int) for name, _, _ in call.kernel.constants}
    if "fetch_lines" not in names:  # tiles fetch, as they compute their epilogues
        names |= {"line_tile": line_tile, "gathered_tile": gathered_tile}
    names |= {"address": lambda place: place.at * 4 if isinstance(place, Place) else outside, "advanced": lambda *_: None, "float32": float, "fetch_lines": fetch_lines}
    exec(call.kernel.text, names)
    names["kernel"](*(Place() for _ in call.buffers), *(size_of(p, {}) for p in call.parameters), 0, size_of(call.units, {}), Place())
    assert bool(found) == (size == 40)
    if found:
        row = size * 64 * 4
        assert min(start for start, _ in found) >= row and max(end for _, end in found) <= 2 * size * row
        assert sum(end - start for start, end in found) > size * row


SCATTERED = [(16, 2304, 768), (131, 100, 300), (16, 100, 1000), (13, 64, 513), (40, 2305, 70)]  # rows, columns, steps


@pytest.mark.parametrize("m,n,k", SCATTERED)
def test_scattered_operands_are_copied_in_chunks(m: int, n: int, k: int) -> None:
    """An activation read in place whose rows share few cache lines; what is fetched ahead lies within it."""
    target = targets.parse("x86-64-v3")
    nest, a, b = product(m, n, k)
    arrays = {a: values(dt.float32, m, k), b: values(dt.float32, k, n)}
    call, = (p for p in schedule_contraction(nest, {}, (), target) if isinstance(p, KernelCall))
    assert "part" in call.kernel.text
    first, end = fetched(call)
    assert first >= 0 and end <= arrays[b].nbytes
    close(run(nest, arrays)[0], arrays[a] @ arrays[b])


def test_scattered_operands_of_unknown_rows_are_copied_in_chunks() -> None:
    """Where only the run knows how many rows there are, a pass of its own over the other operand would often cost more than the product."""
    nest, a, b = product(ex.sym("M"), 768, 300)
    call, = (p for p in schedule_contraction(nest, {}, (), targets.parse("x86-64-v3")) if isinstance(p, KernelCall))
    assert "part" in call.kernel.text
    for rows in (1, 16, 131):
        arrays = {a: values(dt.float32, rows, 300), b: values(dt.float32, 300, 768)}
        close(run(nest, arrays, sizes={"M": rows})[0], arrays[a] @ arrays[b])


@pytest.mark.parametrize("columns", [3, 16, 64, 70])
def test_convolutions_fetch_ahead_within_their_weights(columns: int) -> None:
    """As above, with taps, and by Winograd's method where the columns suffice."""
    nest, (tx, tw, tb, ty), _ = convolution((1, 64, 20, 20), (columns, 64, 3, 3), (1, 1), (1, 1), (1,) * 4)
    arrays = {tx: values(dt.float32, 1, 64, 20, 20), tw: values(dt.float32, columns, 64, 3, 3), tb: values(dt.float32, columns)}
    scheduled = Scheduled(nest, arrays, {t: CHANNELS_LAST[4] for t in (tx, ty)}, {tw, tb})
    call = scheduled.ready[-1][0]
    weights, = (t for t in call.buffers if t.name.endswith((".panels", ".points")))
    first, end = fetched(call)
    assert first >= 0 and end <= scheduled.memory[weights].nbytes
