"""Sizes computed in floats and narrow integers come back to int64 arithmetic, and only where that changes no value."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.arrays import evaluate
from sardonyx.ir.sizes import whole

H = ex.sym("H")


def f32(e):
    return ex.cast(e, dt.float32)


def i64(e):
    return ex.cast(e, dt.int64)


@pytest.mark.parametrize(("given_size", "expected"), [
    (i64(ex.unary("floor", f32(H) * 2.0)), H * 2),
    (i64(f32(H) * 0.5), H // 2),
    (i64(ex.unary("ceil", f32(H) / 4.0)), (H + 3) // 4),
    (i64(ex.unary("floor", f32(H) / 3.0)), H // 3),
    (i64(f32(H * 3) * 1.5 + 0.5), (H * 9 + 1) // 2),
    (i64(ex.cast(H, dt.int32) * 2), H * 2),
    (i64(ex.cast(f32(H) * 0.25, dt.int32)) + 1, H // 4 + 1),
    (i64(ex.cast(ex.cast(H, dt.int32) / 2, dt.int32)), H // 2),
])
def test_detours_are_cut(given_size, expected):
    assert whole(given_size) is expected


@pytest.mark.parametrize("kept", [
    i64(f32(H) * 0.7),  # not exact in binary
    i64(f32(H) * 0.5 - 7.0),  # truncation differs from floor below zero
    i64(ex.cast(H, dt.float16) * 2.0),
    i64(ex.unary("sqrt", f32(H))),
    i64(ex.cast(ex.Tensor("x", dt.int64, (ex.const(1),))[0], dt.int32)),  # an element may be any number
])
def test_what_is_not_exact_stays(kept):
    assert whole(kept) is kept


floats = st.recursive(st.one_of(st.just(f32(H)), st.sampled_from([0.5, 2.0, 0.125, 3.0, 1.0, 7.0, 1.5]).map(lambda c: ex.const(c, dt.float32))),
                      lambda c: st.one_of(st.builds(ex.binary, st.sampled_from(["add", "sub", "mul", "div", "min", "max"]), c, c),
                                          st.builds(ex.unary, st.sampled_from(["floor", "ceil", "trunc", "neg"]), c)), max_leaves=5)


@settings(max_examples=300, deadline=None)
@given(floats)
def test_values_stay(e):
    size = i64(e)
    found = whole(size)
    if found is size:
        return
    values = np.concatenate([np.arange(1, 60), [127, 224, 255, 1000, 4095]])
    before = np.broadcast_to(evaluate(size, {H: values}), values.shape)
    after = np.broadcast_to(evaluate(found, {H: values}), values.shape)
    small = np.abs(after) < 1 << 20
    np.testing.assert_array_equal(before[small], after[small], err_msg=f"{size.text} -> {found.text}")
