"""Conversions between element types, exhaustively where the type is small, against ml_dtypes and NumPy."""
from __future__ import annotations

import numpy as np
import pytest
from sardonyx.codegen import conversions, mathlib
from sardonyx.ir import arrays
from sardonyx.ir import dtypes as dt
from scalar_harness import TARGETS, compiled

NARROW = [d for d in dt.ALL if conversions.is_narrow(d)]
# With and without float16 conversions and fused multiply-add in hardware.
BOTH = ("x86-64-v2", "x86-64-v3")


def interesting_floats() -> np.ndarray:
    """Random bit patterns, every value of every narrow type with its neighbours and midpoints, and special values."""
    rng = np.random.default_rng(5)
    out = [rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32), np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45])]
    with np.errstate(all="ignore"):
        for d in NARROW:
            values = np.arange(1 << d.itemsize_bytes * 8, dtype=conversions.stored_type(d).numpy).view(d.numpy).astype(np.float32)
            values = np.unique(values[np.isfinite(values)])
            middles = (values[1:].astype(np.float64) + values[:-1]) / 2
            for v in (values, middles.astype(np.float32)):
                out += [v, np.nextafter(v, np.float32(np.inf)), np.nextafter(v, np.float32(-np.inf))]
            out.append(values * np.float32(1.5))
    return np.concatenate(out)


FLOATS = interesting_floats()


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal patterns; NaN equals NaN whatever its payload."""
    nan = np.isnan(a) & np.isnan(b) if a.dtype.kind == "f" else False
    word = f"u{a.itemsize}"
    return bool(np.all((a.view(word) == b.view(word)) | nan))


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("dtype", NARROW, ids=repr)
def test_unpack_is_exact(dtype: dt.DType, target: str) -> None:
    stored = conversions.stored_type(dtype)
    patterns = np.arange(1 << stored.bits, dtype=stored.numpy)
    if dtype.bits < 8:
        patterns = patterns[:1 << dtype.bits]
    expected = patterns.view(dtype.numpy).astype(np.float32)
    assert same_bits(compiled(f"unpack_{dtype.short}", target)(patterns), expected)


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("dtype", NARROW, ids=repr)
def test_pack_rounds_as_ml_dtypes(dtype: dt.DType, target: str) -> None:
    with np.errstate(all="ignore"):
        expected = FLOATS.astype(dtype.numpy)
    got = compiled(f"pack_{dtype.short}", target)(FLOATS)
    wrong = (got != expected.view(got.dtype)) & ~np.isnan(FLOATS)
    assert not wrong.any(), [(FLOATS[k], got[k], expected.view(got.dtype)[k]) for k in np.flatnonzero(wrong)[:5]]
    special = got[np.isnan(FLOATS)].view(dtype.numpy).astype(np.float32)
    assert (special == 0).all() if dtype is dt.float4e2m1 else np.isnan(special).all()


@pytest.mark.parametrize("dtype", [d for d in NARROW if d is not dt.float8e8m0], ids=repr)
def test_saturation(dtype: dt.DType) -> None:
    largest = np.array(conversions.NARROW[dtype].largest, conversions.stored_type(dtype).numpy).view(dtype.numpy).astype(np.float32)
    finite = FLOATS[~np.isnan(FLOATS)]
    expected = np.clip(finite, -largest, largest).astype(dtype.numpy).astype(np.float32)
    assert same_bits(compiled(f"f32_to_{dtype.short}_sat")(finite), expected)


def test_powers_of_two_saturate() -> None:
    x = np.float32([0, -0.0, 1, 1.5, 3e38, 3.4e38, np.inf, 1e-45, np.nan])
    assert compiled("pack_f8e8m0_sat")(x).tolist() == [0, 0, 127, 128, 254, 254, 254, 0, 255]


@pytest.mark.parametrize("dtype", [dt.float16, dt.float8e5m2, dt.float8e4m3fn], ids=repr)
def test_float64_is_rounded_once(dtype: dt.DType) -> None:
    values = np.unique(np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64))
    values = values[np.isfinite(values)]
    middles = (values[1:] + values[:-1]) / 2
    x = np.concatenate([middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf), values])
    with np.errstate(all="ignore"):
        expected = x.astype(dtype.numpy).astype(np.float32)
    assert same_bits(compiled(f"f64_to_{dtype.short}")(x), expected)


@pytest.mark.parametrize("to", [*dt.INTEGERS, dt.int4, dt.uint4, dt.int2, dt.uint2], ids=repr)
@pytest.mark.parametrize("source", [dt.float32, dt.float64], ids=repr)
def test_float_to_integer_keeps_the_low_bits(source: dt.DType, to: dt.DType) -> None:
    edge = 2.0 ** to.bits
    x = np.array([0.0, -0.0, 0.9, -0.9, 1.5, -1.5, 3.7, edge, -edge, edge / 2, -edge / 2, edge / 2 - 1, edge - 1, 2.0**31, -(2.0**31), 3e9, 2.0**63, -(2.0**63), 1e30, -1e30,
                  np.inf, -np.inf, np.nan, 1e-40], source.numpy)
    held = 32 if to.bits < 32 or to is dt.int32 else 64

    def expected(v: float) -> int:
        if to is dt.uint64 and 2.0**63 <= v < 2.0**64:
            return int(v)
        if to is dt.uint64 and v >= 2.0**64:
            return 2**63
        whole = int(v) if -(2.0 ** (held - 1)) <= v < 2.0 ** (held - 1) else -(2 ** (held - 1))
        low = whole & ((1 << to.bits) - 1)
        return low - (1 << to.bits) if to.kind == "int" and low >> (to.bits - 1) else low
    wanted = [expected(v) for v in x.tolist()]
    assert compiled(f"{source.short}_to_{to.short}")(x).astype(object).tolist() == wanted
    assert arrays.convert(x, source, to).astype(object).tolist() == wanted


@pytest.mark.parametrize("name", ["i64_to_f32", "u64_to_f64", "i64_to_i8", "u8_to_i64", "i64_to_i4", "i64_to_u4", "i32_to_u2", "i32_to_f16", "u64_to_bf16",
                                  "i32_to_b1", "b1_to_f32", "b1_to_i64", "f32_to_b1", "f32_to_f64", "f64_to_f32", "f16_to_bf16", "bits_f32_to_i32",
                                  "round_f32_to_i32", "bits_i64_to_f64", "bits_f16_to_i16", "bits_u16_to_bf16", "bits_i4_to_u4", "bits_u8_to_f8e5m2"])
def test_compiled_means_python(name: str) -> None:
    entry = mathlib.signature(name)
    kind = entry.arguments[0]
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, 8 * 200, dtype=np.uint8).view(kind.numpy if kind is not dt.boolean else np.uint8)
    if kind is dt.boolean:
        x = (x & 1).view(bool)
    if name.startswith("bits_i4"):
        x = x % 8
    if "f16" in name.split("_to_", maxsplit=1)[0]:
        x = rng.integers(0, 1 << 16, 400, dtype=np.uint16).view(np.float16).astype(np.float32)
        x = x[~np.isnan(x)]
    got = compiled(name)(x)
    expected = np.array([mathlib.python_meaning(name)(v) for v in x], got.dtype)
    assert np.array_equal(got, expected, equal_nan=got.dtype.kind == "f")


@pytest.mark.parametrize("dtype", [d for d in dt.ALL if d.is_numeric and d.kind != "complex"], ids=repr)
def test_load_and_store_keep_values(dtype: dt.DType) -> None:
    stored = conversions.stored_type(dtype).numpy
    values = np.arange(-2, 2) if dtype is dt.int2 else np.arange(4)
    p = values.astype(np.float32).astype(dtype.numpy).view(stored)
    q = np.zeros_like(p)
    for i in range(4):
        mathlib.python_meaning(f"store_{dtype.short}")(q, i, mathlib.python_meaning(f"load_{dtype.short}")(p, i))
    assert p.tolist() == q.tolist()
    got = np.zeros_like(p)
    compiled(f"copy_{dtype.short}")(p, out=got)
    assert p.tolist() == got.tolist()


def test_targets_without_half_leave_nothing_undefined() -> None:
    for target in TARGETS:
        for name in ("pack_f16", "unpack_f16", "f64_to_f16"):
            compiled(name, target, run=False)
