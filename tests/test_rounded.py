"""Products of bfloat16 numbers, by whole tiles, by pairs in vectors, and by halves of words on processors without such instructions, against sums in float64."""
from __future__ import annotations

import itertools
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from contraction_oracle import Scheduled, run
from sardonyx.codegen.contraction import schedule_contraction
from sardonyx.codegen.dot_forms import AMX_BF16, PAIRS, VDPBF16PS, bfloat_form, has_feature
from sardonyx.codegen.numba_backend import compile_kernel
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import target as targets
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import ContractionNest, Store
from sardonyx.runtime.host import host_target

RNG = np.random.default_rng(5)
TILES = targets.Target("x86_64-unknown-linux-gnu", "x86-64-v4", "+avx512vnni,+avx512bf16,+amx-tile,+amx-int8,+amx-bf16,-prefer-256-bit", "avx512", 64, 32)
VECTORS = replace(TILES, features="+avx512bf16,-prefer-256-bit")
HERE = host_target()
HOSTS = {"here": HERE}
if has_feature(HERE, "amx-bf16"):
    HOSTS["vectors"] = replace(HERE, features=HERE.features.replace("+amx", "-amx"))
if HERE.arch == "x86_64":
    HOSTS["words"] = targets.parse("x86-64-v2")
    if HERE.isa in ("avx2", "avx512"):
        HOSTS["fused words"] = targets.parse("x86-64-v3")


def rounded(x: np.ndarray) -> np.ndarray:
    """The numbers rounded to bfloat16, as float32."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def as_operand(load: Expr) -> Expr:
    """A float32 operand rounded to bfloat16, or one of that type."""
    return ex.cast(ex.cast(load, dt.bfloat16), dt.float32)


def product(m: int | Expr, n: int, k: int, left: dt.DType = dt.float32, right: dt.DType = dt.float32, turned: tuple[bool, bool] = (False, False)
            ) -> tuple[ContractionNest, Tensor, Tensor]:
    i, j, r = ex.axis(m, "m"), ex.axis(n, "n"), ex.axis(k, "k")
    sizes = [tuple(map(ex.as_expr, s)) for s in ((m, k), (k, n))]
    a, b = Tensor("a", left, sizes[0][::-1] if turned[0] else sizes[0]), Tensor("b", right, sizes[1][::-1] if turned[1] else sizes[1])
    c = Tensor("c", dt.float32, (ex.as_expr(m), ex.const(n)))
    return ContractionNest((), (i,), (j,), (r,), as_operand(a[(r, i) if turned[0] else (i, r)]), as_operand(b[(j, r) if turned[1] else (r, j)]), dt.float32,
                           (Store(c, (i, j), ex.acc(dt.float32)),)), a, b


def check(found: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Products of rounded numbers are exact in float32, so errors are those of k sums: at most k units in the last place of the sum of magnitudes."""
    a, b = rounded(x).astype(np.float64), rounded(y).astype(np.float64)
    bound = (x.shape[-1] + 1) * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(b))
    assert np.all(np.abs(found - a @ b) <= bound)


def numbers(dtype: dt.DType, *shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32).astype(dtype.numpy)


@pytest.mark.parametrize("m,n,k", [(1, 1, 1), (2, 63, 3), (5, 64, 4), (7, 16, 31), (13, 130, 33), (131, 17, 64), (1, 200, 257), (12, 31, 12), (33, 33, 129), (49, 100, 300), (20, 40, 13)])
@pytest.mark.parametrize("left,right", list(itertools.product((dt.float32, dt.bfloat16), repeat=2)))
@pytest.mark.parametrize("host", HOSTS)
def test_every_size(m: int, n: int, k: int, left: dt.DType, right: dt.DType, host: str) -> None:
    nest, a, b = product(m, n, k, left, right)
    x, y = numbers(left, m, k), numbers(right, k, n)
    check(run(nest, {a: x, b: y}, constants={b}, target=HOSTS[host])[0], x.astype(np.float32), y.astype(np.float32))


@pytest.mark.parametrize("turned", list(itertools.product((False, True), (False, True))))
@pytest.mark.parametrize("constant", ["a", "b", ""])
@pytest.mark.parametrize("m", [9, 70])
@pytest.mark.parametrize("dtype", [dt.float32, dt.bfloat16])
def test_turned_operands(turned: tuple[bool, bool], constant: str, m: int, dtype: dt.DType) -> None:
    nest, a, b = product(m, 70, 21, dtype, dtype, turned)
    x, y = numbers(dtype, m, 21), numbers(dtype, 21, 70)
    arrays = {a: np.ascontiguousarray(x.T) if turned[0] else x, b: np.ascontiguousarray(y.T) if turned[1] else y}
    known = {"a": {a}, "b": {b}, "": set()}[constant]
    check(run(nest, arrays, constants=known)[0], x.astype(np.float32), y.astype(np.float32))


@pytest.mark.parametrize("split", [2, 3, 7])
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("m", [5, 300])
def test_units_may_be_shared(split: int, host: str, m: int) -> None:
    nest, a, b = product(m, 200, 100)
    x, y = numbers(dt.float32, m, 100), numbers(dt.float32, 100, 200)
    scheduled = Scheduled(nest, {a: x, b: y}, constants={b}, target=HOSTS[host])
    scheduled.run()
    whole = scheduled.get(nest.outputs[0]).copy()
    scheduled.get(nest.outputs[0])[...] = 0
    scheduled.run(split=split)
    np.testing.assert_array_equal(scheduled.get(nest.outputs[0]), whole)
    check(whole, x, y)


@pytest.mark.parametrize("m", [1, 2, 15, 40, 100])
def test_rows_that_only_the_run_knows(m: int) -> None:
    nest, a, b = product(ex.sym("m"), 48, 70)
    x, y = numbers(dt.float32, m, 70), numbers(dt.float32, 70, 48)
    check(run(nest, {a: x, b: y}, constants={b}, sizes={"m": m})[0], x, y)


@pytest.mark.parametrize("m", [3, 40])
@pytest.mark.parametrize("host", HOSTS)
def test_numbers_that_are_not_finite_stay_in_their_row(m: int, host: str) -> None:
    """Padding of the last step must not turn an infinity into NaN, nor touch other rows."""
    nest, a, b = product(m, 40, 13)
    x, y = np.abs(numbers(dt.float32, m, 13)), np.abs(numbers(dt.float32, 13, 40))
    x[0, 12], x[2, 0] = np.inf, np.nan
    found = run(nest, {a: x, b: y}, constants={b}, target=HOSTS[host])[0]
    assert np.all(found[0] == np.inf) and np.all(np.isnan(found[2]))
    check(found[1:2], x[1:2], y)


def test_halves_round_to_even() -> None:
    """1 + 2^-8 lies in the middle: down to 1; 1 + 3 * 2^-8 up to 1 + 2^-6."""
    nest, a, b = product(16, 16, 16)
    x = np.zeros((16, 16), np.float32)
    np.fill_diagonal(x, np.where(np.arange(16) % 2, 1 + 2.0**-8, 1 + 3 * 2.0**-8))
    found = run(nest, {a: x, b: np.eye(16, dtype=np.float32)}, constants={b})[0]
    np.testing.assert_array_equal(np.diag(found), np.where(np.arange(16) % 2, 1, 1 + 2.0**-6))


def convolution(shape: tuple[int, ...], weights: tuple[int, ...], stride: int, pad: int) -> tuple[ContractionNest, Tensor, Tensor]:
    images, _, height, width = shape
    out, inner, kernel, _ = weights
    size = [(d + 2 * pad - kernel) // stride + 1 for d in (height, width)]
    n, m, c = (ex.axis(d) for d in (images, out, inner))
    p, q, u, v = (ex.axis(d) for d in (*size, kernel, kernel))
    x, w, y = (Tensor(t, dt.float32, tuple(map(ex.const, s))) for t, s in (("x", shape), ("w", weights), ("y", (images, out, *size))))
    a = as_operand(ex.load(x, (n, c, p * stride + u - pad, q * stride + v - pad), 0.0 if pad else None))
    return ContractionNest((n,), (p, q), (m,), (c, u, v), a, as_operand(w[(m, c, u, v)]), dt.float32, (Store(y, (n, m, p, q), ex.acc(dt.float32)),)), x, w


@pytest.mark.parametrize("shape,weights,stride,pad", [
    ((2, 16, 9, 8), (33, 16, 3, 3), 1, 1), ((1, 3, 21, 20), (40, 3, 7, 7), 2, 3), ((1, 24, 7, 7), (70, 24, 1, 1), 2, 0), ((1, 21, 6, 6), (16, 21, 3, 3), 1, 1), ((1, 5, 3, 3), (20, 5, 3, 3), 1, 0)])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("host", HOSTS)
def test_convolutions(shape: tuple[int, ...], weights: tuple[int, ...], stride: int, pad: int, last: bool, host: str) -> None:
    nest, x, w = convolution(shape, weights, stride, pad)
    values, kernel = numbers(dt.float32, *shape), numbers(dt.float32, *weights)
    layouts = {t: (0, 2, 3, 1) for t in (x, nest.outputs[0])} if last else {}
    found = run(nest, {x: values, w: kernel}, layouts=layouts, constants={w}, target=HOSTS[host])[0]
    size = weights[2]
    padded = np.pad(values, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride].transpose(0, 2, 3, 1, 4, 5)
    rows = windows.reshape(-1, int(np.prod(weights[1:])))
    check(found.transpose(0, 2, 3, 1).reshape(len(rows), -1), rows, kernel.reshape(len(kernel), -1).T)


def test_features_decide() -> None:
    assert bfloat_form(TILES, 64, 64) is AMX_BF16 and bfloat_form(TILES, None, None) is AMX_BF16
    assert bfloat_form(TILES, 1, 64) is VDPBF16PS and bfloat_form(TILES, 64, 3) is VDPBF16PS and bfloat_form(VECTORS, 64, 64) is VDPBF16PS
    assert bfloat_form(targets.parse("x86-64-v4"), 64, 64) is PAIRS and bfloat_form(targets.parse("aarch64"), 64, 64) is PAIRS


@pytest.mark.parametrize("target", [TILES, VECTORS, targets.parse("x86-64-v4"), targets.parse("aarch64")], ids=["tiles", "vectors", "v4", "neon"])
@pytest.mark.parametrize("left", [dt.float32, dt.bfloat16])
@pytest.mark.parametrize("m", [4, 40])
def test_other_targets_compile(target: targets.Target, left: dt.DType, m: int) -> None:
    nest, _, b = product(m, 40, 27, left)
    for part in schedule_contraction(nest, {}, {b}, target):
        if isinstance(part, KernelCall):
            assert compile_kernel(part.kernel, target)
