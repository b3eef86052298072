"""Products and convolutions of 8-bit numbers against exact integer sums: sizes around the tile, signs, zero points, extremes, layouts, targets."""
from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from contraction_oracle import Scheduled, run
from sardonyx.codegen.contraction import schedule_contraction
from sardonyx.codegen.dot_forms import AMX, PMADDWD, SDOT, VPDPBUSD, WIDEN, dot_form, has_feature, matrix_form
from sardonyx.codegen.numba_backend import compile_kernel
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import target as targets
from sardonyx.ir.dtypes import DType
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import ContractionNest, MapNest, Store
from sardonyx.runtime.host import host_target

RNG = np.random.default_rng(11)
NARROW = (dt.uint8, dt.int8)
FIRST_VNNI = targets.Target("x86_64-unknown-linux-gnu", "x86-64-v4", "+avx512vnni,-prefer-256-bit", "avx512", 64, 32)
NARROW_VNNI = targets.Target("x86_64-unknown-linux-gnu", "x86-64-v3", "+avxvnni", "avx2", 32, 16)
TILES = targets.Target("x86_64-unknown-linux-gnu", "x86-64-v4", "+avx512vnni,+amx-tile,+amx-int8,-prefer-256-bit", "avx512", 64, 32)
HERE = host_target()
HOSTS = {"tiles": HERE, "vectors": replace(HERE, features=HERE.features.replace("+amx", "-amx"))} if has_feature(HERE, "amx-int8") else {"vectors": HERE}
DOTPROD = targets.Target("aarch64-unknown-linux-gnu", "generic", "+neon,+fp-armv8,+dotprod", "neon", 16, 32)


def codes(dtype: DType, *shape: int) -> np.ndarray:
    """Random codes, the least and greatest among them often."""
    info = np.iinfo(dtype.numpy)
    drawn = RNG.integers(info.min, info.max + 1, shape)
    return np.where(RNG.random(shape) < 0.3, RNG.choice([info.min, info.max], shape), drawn).astype(dtype.numpy)


def operand(t: Tensor, index: tuple[Expr, ...], zero: Expr | None, fill: int | None = None) -> Expr:
    code = ex.cast(ex.load(t, index, fill), dt.int32)
    return code if zero is None else code - zero


def product(m: int | Expr, n: int, k: int, left: DType, right: DType, a_zero: Expr | None = None, b_zero: bool = False, turned: tuple[bool, bool] = (False, False)
            ) -> tuple[ContractionNest, Tensor, Tensor, Tensor]:
    i, j, r = ex.axis(m, "m"), ex.axis(n, "n"), ex.axis(k, "k")
    sizes = [tuple(map(ex.as_expr, s)) for s in ((m, k), (k, n))]
    a, b = Tensor("a", left, sizes[0][::-1] if turned[0] else sizes[0]), Tensor("b", right, sizes[1][::-1] if turned[1] else sizes[1])
    z = Tensor("z", right, (ex.const(n),))
    c = Tensor("c", dt.int32, (ex.as_expr(m), ex.const(n)))
    a_at, b_at = (r, i) if turned[0] else (i, r), (j, r) if turned[1] else (r, j)
    nest = ContractionNest((), (i,), (j,), (r,), operand(a, a_at, a_zero), operand(b, b_at, ex.cast(z[(j,)], dt.int32) if b_zero else None), dt.int32,
                           (Store(c, (i, j), ex.acc(dt.int32)),))
    return nest, a, b, z


@pytest.mark.parametrize("left,right", list(itertools.product(NARROW, NARROW)))
@pytest.mark.parametrize("m,n,k", [(1, 1, 1), (2, 63, 3), (5, 64, 4), (6, 65, 5), (7, 16, 31), (13, 130, 33), (131, 17, 64), (1, 200, 257), (12, 31, 12), (33, 33, 129), (49, 100, 300)])
@pytest.mark.parametrize("host", HOSTS)
def test_every_sign_and_size(left: DType, right: DType, m: int, n: int, k: int, host: str) -> None:
    nest, a, b, _ = product(m, n, k, left, right)
    x, y = codes(left, m, k), codes(right, k, n)
    np.testing.assert_array_equal(run(nest, {a: x, b: y}, constants={b}, target=HOSTS[host])[0], x.astype(np.int32) @ y.astype(np.int32))


@pytest.mark.parametrize("left,right", list(itertools.product(NARROW, NARROW)))
@pytest.mark.parametrize("turned", list(itertools.product((False, True), (False, True))))
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("m", [9, 40])
def test_zero_points(left: DType, right: DType, turned: tuple[bool, bool], constant: bool, m: int) -> None:
    zero = ex.const(77, dt.int32)
    nest, a, b, z = product(m, 70, 21, left, right, zero, True, turned)
    x, y, zeros = codes(left, m, 21), codes(right, 21, 70), codes(right, 70)
    arrays = {a: np.ascontiguousarray(x.T) if turned[0] else x, b: np.ascontiguousarray(y.T) if turned[1] else y, z: zeros}
    expected = (x.astype(np.int32) - 77) @ (y.astype(np.int32) - zeros.astype(np.int32))
    np.testing.assert_array_equal(run(nest, arrays, constants={b, z} if constant else ())[0], expected)


@pytest.mark.parametrize("zero", [0, 77, 255, 70000])
def test_weights_that_only_the_run_knows_are_not_summed(zero: int) -> None:
    """Where the left operand is copied anyway, its zero point leaves it there, if 16 bits hold what remains."""
    nest, a, b, _ = product(9, 40, 33, dt.uint8, dt.int8, ex.const(zero, dt.int32))
    x, y = codes(dt.uint8, 9, 33), codes(dt.int8, 33, 40)
    target = targets.parse("x86-64-v3")
    maps = [m for m in schedule_contraction(nest, {}, (), target) if isinstance(m, MapNest)]
    assert any(e.op == "reduce" for m in maps for e in ex.walk(m.values)) == (zero == 70000)
    np.testing.assert_array_equal(run(nest, {a: x, b: y}, target=target)[0], (x.astype(np.int32) - zero) @ y.astype(np.int32))


@pytest.mark.parametrize("rows", [3, 17])
def test_extremes(rows: int) -> None:
    nest, a, b, _ = product(rows, 20, 65000, dt.uint8, dt.int8)
    x, y = np.full((rows, 65000), 255, np.uint8), np.full((65000, 20), -128, np.int8)
    np.testing.assert_array_equal(run(nest, {a: x, b: y}, constants={b})[0], np.full((rows, 20), 255 * -128 * 65000, np.int32))


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("host", HOSTS)
def test_units_may_be_shared(split: int, host: str) -> None:
    nest, a, b, _ = product(300, 200, 100, dt.uint8, dt.int8)
    x, y = codes(dt.uint8, 300, 100), codes(dt.int8, 100, 200)
    scheduled = Scheduled(nest, {a: x, b: y}, constants={b}, target=HOSTS[host])
    scheduled.run(split=split)
    np.testing.assert_array_equal(scheduled.get(nest.outputs[0]), x.astype(np.int32) @ y.astype(np.int32))


@pytest.mark.parametrize("m", [1, 2, 15, 40, 100])
def test_rows_that_only_the_run_knows(m: int) -> None:
    rows = ex.sym("m")
    nest, a, b, _ = product(rows, 48, 70, dt.uint8, dt.int8)
    x, y = codes(dt.uint8, m, 70), codes(dt.int8, 70, 48)
    np.testing.assert_array_equal(run(nest, {a: x, b: y}, constants={b}, sizes={"m": m})[0], x.astype(np.int32) @ y.astype(np.int32))


def convolution(shape: tuple[int, ...], weights: tuple[int, ...], stride: int, pad: int, left: DType, zero: int, groups: int = 1) -> tuple[ContractionNest, Tensor, Tensor]:
    """Channels first in logical order; `weights` are [out, in of a group, kernel, kernel]."""
    images, _, height, width = shape
    out, inner, kernel, _ = weights
    size = [(d + 2 * pad - kernel) // stride + 1 for d in (height, width)]
    n, g, m, c = (ex.axis(d) for d in (images, groups, out // groups, inner))
    p, q, u, v = (ex.axis(d) for d in (*size, kernel, kernel))
    x, w, y = (Tensor(t, d, tuple(map(ex.const, s))) for t, d, s in (("x", left, shape), ("w", dt.int8, weights), ("y", dt.int32, (images, out, *size))))
    channel, to = (c, m) if groups == 1 else (g * inner + c, g * (out // groups) + m)
    a = operand(x, (n, channel, p * stride + u - pad, q * stride + v - pad), ex.const(zero, dt.int32), zero if pad else None)
    b = operand(w, (to, c, u, v), None)
    return ContractionNest((n,) if groups == 1 else (n, g), (p, q), (m,), (c, u, v), a, b, dt.int32, (Store(y, (n, to, p, q), ex.acc(dt.int32)),)), x, w


def convolved(x: np.ndarray, w: np.ndarray, stride: int, pad: int, zero: int, groups: int) -> np.ndarray:
    wide = np.pad(x.astype(np.int64) - zero, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    kernel, inner = w.shape[2], w.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(wide, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    parts = [np.einsum("nchwuv,mcuv->nmhw", windows[:, g * inner:(g + 1) * inner], part.astype(np.int64)) for g, part in enumerate(np.split(w, groups))]
    return np.concatenate(parts, 1)


@pytest.mark.parametrize("left", NARROW)
@pytest.mark.parametrize("shape,weights,stride,pad,groups", [
    ((2, 16, 9, 8), (33, 16, 3, 3), 1, 1, 1), ((1, 3, 21, 20), (40, 3, 7, 7), 2, 3, 1), ((1, 24, 7, 7), (70, 24, 1, 1), 2, 0, 1), ((1, 40, 9, 9), (40, 1, 3, 3), 1, 1, 40),
    ((1, 18, 9, 9), (18, 1, 5, 5), 2, 2, 18), ((1, 8, 9, 9), (8, 4, 3, 3), 1, 1, 2), ((1, 21, 6, 6), (16, 21, 3, 3), 1, 1, 1)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("host", HOSTS)
def test_convolutions(left: DType, shape: tuple[int, ...], weights: tuple[int, ...], stride: int, pad: int, groups: int, last: bool, host: str) -> None:
    zero = 128 if left is dt.uint8 else -5
    nest, x, w = convolution(shape, weights, stride, pad, left, zero, groups)
    values, kernel = codes(left, *shape), codes(dt.int8, *weights)
    layouts = {t: (0, 2, 3, 1) for t in (x, nest.outputs[0])} if last else {}
    np.testing.assert_array_equal(run(nest, {x: values, w: kernel}, layouts=layouts, constants={w}, target=HOSTS[host])[0], convolved(values, kernel, stride, pad, zero, groups))


def test_features_decide() -> None:
    forms = [dot_form(t) for t in (FIRST_VNNI, NARROW_VNNI, DOTPROD, targets.parse("x86-64-v4"), targets.parse("x86-64-v3"), targets.parse("x86-64-v2"), targets.parse("aarch64"))]
    assert forms == [VPDPBUSD, VPDPBUSD, SDOT, PMADDWD, PMADDWD, PMADDWD, WIDEN]


def test_tiles_are_for_many_rows() -> None:
    assert matrix_form(TILES, 64, 64, dt.uint8) is AMX[dt.uint8] and matrix_form(TILES, None, None, dt.int8) is AMX[dt.int8]
    assert matrix_form(TILES, 1, 64, dt.int8) is None and matrix_form(TILES, 64, 3, dt.int8) is None and matrix_form(FIRST_VNNI, 64, 64, dt.int8) is None


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("left,right", list(itertools.product(NARROW, NARROW)))
def test_older_processors_give_the_same(name: str, left: DType, right: DType) -> None:
    if host_target().arch != "x86_64" or (name == "x86-64-v4") > (host_target().isa == "avx512"):
        pytest.skip("this processor lacks the instructions")
    nest, a, b, _ = product(15, 40, 27, left, right, ex.const(3, dt.int32))
    x, y = codes(left, 15, 27), codes(right, 27, 40)
    found = run(nest, {a: x, b: y}, constants={b}, target=targets.parse(name))[0]
    np.testing.assert_array_equal(found, (x.astype(np.int32) - 3) @ y.astype(np.int32))


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("left", NARROW)
@pytest.mark.parametrize("shape,weights,stride,pad", [((1, 16, 9, 8), (33, 16, 3, 3), 1, 1), ((1, 3, 11, 10), (20, 3, 7, 7), 2, 3), ((1, 21, 6, 6), (16, 21, 1, 1), 1, 0)])
def test_convolutions_on_older_processors(name: str, left: DType, shape: tuple[int, ...], weights: tuple[int, ...], stride: int, pad: int) -> None:
    if HERE.isa not in ("avx512", "avx2"):
        pytest.skip("this processor lacks the instructions")
    zero = 128 if left is dt.uint8 else -5
    nest, x, w = convolution(shape, weights, stride, pad, left, zero)
    values, kernel = codes(left, *shape), codes(dt.int8, *weights)
    found = run(nest, {x: values, w: kernel}, constants={w}, target=targets.parse(name))[0]
    np.testing.assert_array_equal(found, convolved(values, kernel, stride, pad, zero, 1))


def kernels(nest: ContractionNest, target: targets.Target, constant: bool = True) -> set[str]:
    """Names of the kernels of a product, without the sizes of tiles."""
    parts = schedule_contraction(nest, {}, {ex.load_tensor(e) for e in ex.loads([nest.b])} if constant else set(), target)
    return {part.kernel.name.partition("_")[0] for part in parts if isinstance(part, KernelCall)}


AVX2 = targets.parse("x86-64-v3")
ON_AVX2 = pytest.mark.skipif(HERE.isa not in ("avx512", "avx2"), reason="this processor lacks the instructions")


@ON_AVX2
@pytest.mark.parametrize("left,right", list(itertools.product(NARROW, NARROW)))
@pytest.mark.parametrize("m,n,k", [(8, 32, 16), (9, 33, 17), (33, 64, 18), (10, 40, 19), (40, 70, 131), (12, 48, 8191), (50, 35, 16384)])
def test_half_the_products(left: DType, right: DType, m: int, n: int, k: int) -> None:
    """Sums of words of two steps, with and without a last step and a part of one, in one chunk and in several."""
    nest, a, b, z = product(m, n, k, left, right, ex.const(3, dt.int32), True)
    x, y, zeros = codes(left, m, k), codes(right, k, n), codes(right, n)
    assert "crossed" in kernels(nest, AVX2)
    found = run(nest, {a: x, b: y, z: zeros}, constants={b, z}, target=AVX2)[0]
    np.testing.assert_array_equal(found, (x.astype(np.int32) - 3) @ (y.astype(np.int32) - zeros))


@ON_AVX2
@pytest.mark.parametrize("left,right", list(itertools.product(NARROW, NARROW)))
@pytest.mark.parametrize("end", [0, 1])
def test_extremes_of_half_the_products(left: DType, right: DType, end: int) -> None:
    """The longest sums of the numbers farthest from zero, in every pair of signs."""
    least, most = ([np.iinfo(d.numpy).min, np.iinfo(d.numpy).max] for d in (left, right))
    nest, a, b, _ = product(9, 33, 16384, left, right)
    x, y = np.full((9, 16384), least[end], left.numpy), np.full((16384, 33), most[1], right.numpy)
    y[:, ::2] = most[0]
    np.testing.assert_array_equal(run(nest, {a: x, b: y}, constants={b}, target=AVX2)[0], x.astype(np.int32) @ y.astype(np.int32))


@ON_AVX2
@pytest.mark.parametrize("left", NARROW)
@pytest.mark.parametrize("shape,weights,stride,pad,halved", [
    ((2, 16, 9, 8), (33, 16, 3, 3), 1, 1, True), ((1, 24, 7, 7), (70, 24, 1, 1), 2, 0, True), ((1, 20, 8, 7), (40, 20, 1, 1), 1, 1, True), ((2, 36, 11, 9), (32, 36, 3, 3), 2, 1, True),
    ((1, 18, 9, 9), (32, 18, 3, 3), 1, 0, False)])
@pytest.mark.parametrize("last", [False, True])
def test_convolutions_by_half_the_products(left: DType, shape: tuple[int, ...], weights: tuple[int, ...], stride: int, pad: int, halved: bool, last: bool) -> None:
    """Runs of one place and of several; where pairs of words would reach from one place into the next, products stay whole."""
    zero = 128 if left is dt.uint8 else -5
    nest, x, w = convolution(shape, weights, stride, pad, left, zero)
    values, kernel = codes(left, *shape), codes(dt.int8, *weights)
    layouts = {t: (0, 2, 3, 1) for t in (x, nest.outputs[0])} if last else {}
    assert not last or ("crossed" in kernels(nest, AVX2)) == halved
    found = run(nest, {x: values, w: kernel}, layouts=layouts, constants={w}, target=AVX2)[0]
    np.testing.assert_array_equal(found, convolved(values, kernel, stride, pad, zero, 1))


@ON_AVX2
@pytest.mark.parametrize("m", [1, 2, 3, 40, 129])
def test_half_the_products_of_rows_that_only_the_run_knows(m: int) -> None:
    nest, a, b, _ = product(ex.sym("m"), 48, 70, dt.uint8, dt.int8)
    assert "crossed" in kernels(nest, AVX2)
    x, y = codes(dt.uint8, m, 70), codes(dt.int8, 70, 48)
    np.testing.assert_array_equal(run(nest, {a: x, b: y}, constants={b}, sizes={"m": m}, target=AVX2)[0], x.astype(np.int32) @ y.astype(np.int32))


def test_where_products_stay_whole() -> None:
    """Other processors, weights that only the run knows, few rows or columns, short or very long sums."""
    usual = product(40, 64, 64, dt.uint8, dt.int8)[0]
    assert "crossed" in kernels(usual, AVX2) and "crossed" not in kernels(usual, AVX2, constant=False)
    assert all("crossed" not in kernels(usual, t) for t in (FIRST_VNNI, NARROW_VNNI, TILES, DOTPROD, targets.parse("x86-64-v4"), targets.parse("x86-64-v2")))
    for m, n, k in ((4, 64, 64), (40, 20, 64), (40, 64, 12), (40, 64, 20000)):
        assert "crossed" not in kernels(product(m, n, k, dt.uint8, dt.int8)[0], AVX2)


@pytest.mark.parametrize("target", [FIRST_VNNI, NARROW_VNNI, TILES, DOTPROD, targets.parse("aarch64")], ids=["vnni", "avx-vnni", "tiles", "dotprod", "neon"])
def test_other_targets_compile(target: targets.Target) -> None:
    for nest in (product(15, 40, 27, dt.uint8, dt.int8)[0], convolution((1, 40, 9, 9), (40, 1, 3, 3), 1, 1, dt.uint8, 3, 40)[0]):
        for part in schedule_contraction(nest, {}, {ex.load_tensor(e) for e in ex.loads([nest.b])}, target):
            if isinstance(part, KernelCall):
                assert compile_kernel(part.kernel, target)
