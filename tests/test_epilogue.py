"""Epilogues that tiles compute on sums in registers: each form beside NumPy in float64, and what does not qualify."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from contraction_oracle import run
from sardonyx.codegen.contraction import schedule_contraction
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import target as targets
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import ContractionNest
from test_contraction import CHANNELS_LAST, close, convolution, product, sized, values

TARGET = targets.parse("x86-64-v3")
Form = Callable[[Expr, Expr, Expr, Expr], Expr]


def number(value: float) -> Expr:
    return ex.const(value, dt.float32)


def relu(x: Expr) -> Expr:
    return ex.where(x < number(0.0), number(0.0), x)


# (sum, bias of the column, factor of the row, residual) -> what is stored, and the same in NumPy
FORMS: dict[str, tuple[Form, Callable[..., np.ndarray]]] = {
    "sum": (lambda s, b, f, r: s, lambda s, b, f, r: s),
    "relu": (lambda s, b, f, r: relu(s + b), lambda s, b, f, r: np.maximum(s + b, 0)),
    "clip": (lambda s, b, f, r: ex.minimum(ex.maximum(s + b, number(-1.0)), number(2.0)), lambda s, b, f, r: np.clip(s + b, -1, 2)),
    "residual": (lambda s, b, f, r: relu(s + b + r), lambda s, b, f, r: np.maximum(s + b + r, 0)),
    "factor": (lambda s, b, f, r: s * f - r / number(3.0), lambda s, b, f, r: s * f - r / 3),
    "chosen": (lambda s, b, f, r: ex.where(ex.logical_and(r < b, ex.logical_not(ex.equal(s, number(0.0)))), -s, ex.unary("abs", s) + f), lambda s, b, f, r: np.where((r < b) & (s != 0), -s, abs(s) + f)),
    "silu": (lambda s, b, f, r: (s + b) * ex.unary("sigmoid", s + b), lambda s, b, f, r: (s + b) / (1 + np.exp(-(s + b)))),
    "gelu": (lambda s, b, f, r: s * number(0.5) * (ex.unary("tanh", s * number(0.79788456) + s * s * s * number(0.035677408)) + number(1.0)) + r,
             lambda s, b, f, r: s * 0.5 * (1 + np.tanh(s * 0.79788456 + s ** 3 * 0.035677408)) + r),
}


def calls(nest: ContractionNest, layouts: dict[Tensor, tuple[int, ...]], constants: set[Tensor]) -> list[KernelCall]:
    return [c for c in schedule_contraction(nest, layouts, constants, TARGET) if isinstance(c, KernelCall)]


def with_form(nest: ContractionNest, form: str) -> tuple[ContractionNest, list[Tensor]]:
    """A product c[m, n] whose sums are stored after one of the forms above, and its operands."""
    store = nest.stores[0]
    m, n = store.index
    bias, factor, residual = sized("bias", dt.float32, n.extent), sized("factor", dt.float32, m.extent), sized("residual", dt.float32, m.extent, n.extent)
    value = FORMS[form][0](ex.acc(dt.float32), bias[n], factor[m], residual[m, n])
    return replace(nest, stores=(replace(store, value=value),)), [bias, factor, residual]


@pytest.mark.parametrize("m,n,k", [(1, 24, 5), (5, 16, 7), (6, 40, 30), (13, 48, 9), (130, 70, 33), (257, 24, 3)])
@pytest.mark.parametrize("form", FORMS)
def test_products(form: str, m: int, n: int, k: int) -> None:
    nest, a, b = product(m, n, k)
    nest, (bias, factor, residual) = with_form(nest, form)
    arrays = {a: values(dt.float32, m, k), b: values(dt.float32, k, n), bias: values(dt.float32, n), factor: values(dt.float32, m), residual: values(dt.float32, m, n)}
    if m > 4:
        assert any("finished_tile" in c.kernel.text for c in calls(nest, {}, {b}))
    wide = [arrays[t].astype(np.float64) for t in (a, b, bias, factor, residual)]
    close(run(nest, arrays, constants={b}, target=TARGET)[0], FORMS[form][1](wide[0] @ wide[1], wide[2], wide[3][:, None], wide[4]))


@pytest.mark.parametrize("form", ["relu", "residual", "silu"])
def test_products_of_unknown_rows(form: str) -> None:
    """Few rows that are left are computed one by one."""
    nest, a, b = product(ex.sym("M"), 40, 12)
    nest, (bias, factor, residual) = with_form(nest, form)
    assert "row_tile" in calls(nest, {}, {b})[-1].kernel.text and "finished_tile" in calls(nest, {}, {b})[-1].kernel.text
    for m in (1, 2, 3, 8, 129):
        arrays = {a: values(dt.float32, m, 12), b: values(dt.float32, 12, 40), bias: values(dt.float32, 40), factor: values(dt.float32, m), residual: values(dt.float32, m, 40)}
        found, = run(nest, arrays, constants={b}, sizes={"M": m}, target=TARGET)
        close(found, FORMS[form][1](arrays[a].astype(np.float64) @ arrays[b], arrays[bias], arrays[factor][:, None], arrays[residual]))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [8, 20, 64])
@pytest.mark.parametrize("form", FORMS)
def test_depthwise_convolutions(form: str, channels: int, stride: int) -> None:
    """Tiles that overlap, beside the padding and away from it."""
    nest, (x, w, b, y), shape = convolution((2, channels, 19, 23), (channels, 1, 3, 3), (stride,) * 2, (1, 1), (1,) * 4, channels)
    store = nest.stores[0]
    residual = sized("residual", dt.float32, *shape)
    value = FORMS[form][0](ex.acc(dt.float32), b[store.index[1]], ex.const(0.5, dt.float32), residual[store.index])
    nest = replace(nest, stores=(replace(store, value=value),))
    arrays = {x: values(dt.float32, 2, channels, 19, 23), w: values(dt.float32, channels, 1, 3, 3), b: values(dt.float32, channels), residual: values(dt.float32, *shape)}
    layouts = {t: CHANNELS_LAST[4] for t in (x, y, residual)}
    text = calls(nest, layouts, {w, b})[-1].kernel.text
    assert "line_tile" in text or "gathered_tile" in text
    assert "acc[" not in text
    padded = np.pad(arrays[x].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    sums = np.einsum("nchwij,cij->nchw", windows, arrays[w][:, 0])
    found, = run(nest, arrays, layouts=layouts, constants={w, b}, target=TARGET)
    close(found, FORMS[form][1](sums, arrays[b][:, None, None], 0.5, arrays[residual]))


def test_numbers_that_differ_in_sign_alone_are_different_forms() -> None:
    """0.0 and -0.0 are equal and hash alike."""
    for zero in (0.0, -0.0):
        nest, a, b = product(8, 24, 4)
        value = ex.where(ex.acc(dt.float32) < number(1e30), number(zero), ex.acc(dt.float32))
        nest = replace(nest, stores=(replace(nest.stores[0], value=value),))
        found, = run(nest, {a: values(dt.float32, 8, 4), b: values(dt.float32, 4, 24)}, constants={b}, target=TARGET)
        assert np.array_equal(np.signbit(found), np.full((8, 24), np.signbit(zero)))


def test_what_keeps_sums_in_memory() -> None:
    """Results in another type, across rows, or of few columns are stored from memory."""
    nest, _, b = product(60, 24, 8)
    narrow = replace(nest, stores=(replace(nest.stores[0], tensor=sized("c", dt.float16, 60, 24), value=ex.cast(ex.acc(dt.float32), dt.float16)),))
    across = replace(nest, stores=(replace(nest.stores[0], tensor=sized("c", dt.float32, 24, 60), index=nest.stores[0].index[::-1]),))
    few, _, narrow_b = product(60, 5, 8)
    for n, weights in ((narrow, b), (few, narrow_b)):
        assert "acc[" in calls(n, {}, {weights})[-1].kernel.text
    assert "finished_tile" in calls(across, {}, {b})[-1].kernel.text  # rows become columns
