"""Scalar functions of kernels against mpmath, NumPy and the meaning of `ir.expr`: accuracy, special values, vectorisation."""
from __future__ import annotations

import ctypes
import re

import llvmlite.binding as llvm
import mpmath
import numpy as np
import pytest
from llvmlite import ir
from sardonyx.codegen import conversions, mathlib, numba_backend
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import target as targets
from scalar_harness import RUNNABLE, assembly, compiled, loop

# Largest error in units in the last place: float32 and float64, with fused multiply-add.
BOUNDS: dict[str, tuple[float, float]] = {
    "exp": (1.0, 1.0), "exp2": (1.0, 1.0), "expm1": (1.5, 1.7), "log": (1.0, 1.0), "log1p": (1.5, 1.5), "tanh": (1.6, 1.6), "sigmoid": (2.5, 2.5),
    "erf": (1.2, 1.5), "sin": (1.6, 1.0), "cos": (1.6, 1.0), "tan": (2.6, 1.0), "asin": (2.0, 2.0), "acos": (1.5, 1.5), "atan": (1.5, 1.5),
    "sinh": (1.8, 1.8), "cosh": (1.5, 1.5), "asinh": (2.0, 2.2), "acosh": (2.6, 2.6), "atanh": (2.2, 2.2), "sqrt": (0.5, 0.5), "rsqrt": (1.6, 1.6),
}
# What multiplication and addition rounded apart add to that.
WITHOUT_FMA = 0.9
POW_BOUND, ATAN2_BOUND = (0.6, 1.0), (1.6, 1.6)
EXACT = {name: getattr(mpmath, name, None) for name in BOUNDS} | {
    "exp2": lambda x: mpmath.power(2, x), "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)), "rsqrt": lambda x: 1 / mpmath.sqrt(x)}
# Arguments beyond which float64 is reference enough, and mpmath slow.
FAR = {"sin": np.inf, "cos": np.inf, "tan": np.inf, "erf": 50, "tanh": 50} | dict.fromkeys(("exp", "exp2", "expm1", "sigmoid", "sinh", "cosh"), 2000)
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-40, -1e-40, 1.5, -1.5, 0.5, -0.5, 88.7, 89.5, -87.0, -103.5, 1e30, -1e30, 710.0, -745.0]
VECTORISED_F64 = ("exp", "exp2", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sinh", "cosh", "asinh", "acosh", "atanh", "asin", "acos", "atan")


def points(dtype: dt.DType, count: int) -> np.ndarray:
    """Values of every size and sign, denser where functions bend."""
    rng = np.random.default_rng(11)
    word = f"u{dtype.itemsize_bytes}"
    parts = [rng.integers(0, np.iinfo(word).max, count // 4, dtype=word).view(dtype.numpy)]
    parts += [rng.uniform(-s, s, count // 8) for s in (1, 3, 10, 100)]
    parts += [1 + rng.normal(0, 0.1, count // 8), rng.normal(0, 1, count // 8) * 2.0 ** rng.integers(-30, 0, count // 8), SPECIAL]
    with np.errstate(all="ignore"):
        return np.concatenate([np.asarray(p).astype(dtype.numpy) for p in parts])


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    """Largest distance in units in the last place of the exact result; infinite where infinities, NaN or signs differ.

    `exact` holds mpmath numbers or float64 that is much more precise than `got`.
    """
    worst = 0.0
    for g, e in zip(got.tolist(), exact, strict=True):
        with np.errstate(over="ignore"):
            rounded = got.dtype.type(float(e))
        if np.isnan(rounded) or np.isnan(g):
            worst = max(worst, 0.0 if np.isnan(rounded) and np.isnan(g) else np.inf)
        elif np.isinf(rounded) or np.isinf(g):
            worst = max(worst, 0.0 if g == rounded else np.inf)
        else:
            worst = max(worst, float(abs(mpmath.mpf(g) - e)) / float(np.spacing(abs(rounded))))
    return worst


def exactly(op: str, x: np.ndarray) -> list[mpmath.mpf]:
    """The operator on each element to 100 digits; NaN where NumPy gives NaN, NumPy's infinities."""
    with np.errstate(all="ignore"):
        limit = ex.evaluate_op(op, [x.astype(np.float64)]).tolist()
    out = []
    with mpmath.workdps(100 if x.itemsize == 4 else 60):
        for v, near in zip(x.tolist(), limit, strict=True):
            trivial = not np.isfinite(v) or not np.isfinite(near) or abs(near) > 1e300
            far = abs(v) > FAR.get(op, 1e5)
            if trivial or far:
                out.append(mpmath.mpf(near))
            else:
                out.append(mpmath.re(EXACT[op](mpmath.mpf(v))))
    return out


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64], ids=repr)
@pytest.mark.parametrize("op", BOUNDS)
def test_error_against_mpmath(op: str, dtype: dt.DType) -> None:
    x = points(dtype, 1200)
    bound = BOUNDS[op][dtype is dt.float64]
    exact = exactly(op, x)
    for target in RUNNABLE:
        assert ulps(compiled(f"{op}_{dtype.short}", target)(x), exact) <= bound + (WITHOUT_FMA if target == "x86-64-v2" else 0), target


@pytest.mark.parametrize("op", BOUNDS)
def test_float32_densely(op: str) -> None:
    x = points(dt.float32, 400_000)
    with np.errstate(all="ignore"):
        exact = ex.evaluate_op(op, [x.astype(np.float64)])
        rounded = exact.astype(np.float32)
        got = compiled(f"{op}_f32")(x)
        finite = np.isfinite(rounded)
        assert np.array_equal(got[~finite], rounded[~finite], equal_nan=True)
        assert np.array_equal(np.signbit(got[finite]), np.signbit(rounded[finite]))
        error = np.abs(got[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite])).astype(np.float64)
    assert error.max() <= BOUNDS[op][0], (x[finite][error.argmax()], error.max())


@pytest.mark.parametrize("op", ["sin", "cos", "tan"])
def test_arguments_near_multiples_of_half_pi(op: str) -> None:
    with mpmath.workdps(60):
        turns = [float(mpmath.mpf(k) * mpmath.pi / 2) for k in [*range(1, 200), *(3 ** n for n in range(5, 80)), 5 ** 50, 7 ** 40]]
    x = np.float32(turns)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), -x])
    assert ulps(compiled(f"{op}_f32")(x), exactly(op, x)) <= BOUNDS[op][0]


def pairs(dtype: dt.DType) -> tuple[np.ndarray, np.ndarray]:
    x = points(dtype, 30_000)
    rng = np.random.default_rng(2)
    small = [np.abs(x), rng.uniform(0, 7, x.size)]
    special = np.array([*SPECIAL, 2.0, -2.0, 3.0, -3.0, 16777216.0, 16777215.0], dtype.numpy)
    with np.errstate(all="ignore"):
        a = np.concatenate([x, *small, np.repeat(special, special.size)])
        b = np.concatenate([rng.permutation(x), rng.uniform(-20, 20, x.size), rng.integers(-9, 9, x.size), np.tile(special, special.size)])
        return a.astype(dtype.numpy), b.astype(dtype.numpy)


@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize(("op", "bound"), [("pow", POW_BOUND), ("atan2", ATAN2_BOUND)])
def test_two_arguments(op: str, bound: tuple[float, float], target: str) -> None:
    with np.errstate(all="ignore"):
        a, b = pairs(dt.float32)
        exact = ex.evaluate_op(op, [a.astype(np.float64), b.astype(np.float64)])
        rounded = exact.astype(np.float32)
        got = compiled(f"{op}_f32", target)(a, b)
        finite = np.isfinite(rounded)
        assert np.array_equal(got[~finite], rounded[~finite], equal_nan=True)
        assert np.array_equal(np.signbit(got[finite]), np.signbit(rounded[finite]))
        error = np.abs(got[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite])).astype(np.float64)
        assert error.max() <= bound[0]
        a, b = pairs(dt.float64)
        expected = ex.evaluate_op(op, [a, b])
        got = compiled(f"{op}_f64", target)(a, b)
        finite = np.isfinite(expected)
        assert np.array_equal(got[~finite], expected[~finite], equal_nan=True)
        error = np.abs(got[finite] - expected[finite]) / np.spacing(np.abs(expected[finite]))
        assert error.max() <= bound[1] + 1.0


# ------------------------------------------------------------------------------------------------------------- other operators
@pytest.mark.parametrize("dtype", [dt.float32, dt.float64], ids=repr)
@pytest.mark.parametrize("op", ["neg", "abs", "sign", "floor", "ceil", "round", "trunc", "isnan", "isinf", "not", "add", "sub", "mul", "div", "mod", "rem",
                                "floordiv", "min", "max", "lt", "le", "eq", "ne", "and", "or", "xor"])
def test_plain_float_operators(op: str, dtype: dt.DType) -> None:
    a, b = pairs(dtype)
    operands = (a,) if op in ex.UNARY else (a, b)
    with np.errstate(all="ignore"):
        expected = ex.evaluate_op(op, operands)
    assert np.array_equal(compiled(f"{op}_{dtype.short}")(*operands), expected, equal_nan=expected.dtype.kind == "f")


INTEGER_OPERATORS = ["neg", "abs", "sign", "floor", "round", "isnan", "isinf", "not", "bitnot", "add", "sub", "mul", "div", "mod", "rem", "floordiv",
                     "pow", "min", "max", "lt", "le", "eq", "ne", "and", "or", "xor", "bitand", "bitor", "bitxor", "shl", "shr"]


@pytest.mark.parametrize("dtype", [dt.int8, dt.int32, dt.int64, dt.uint8, dt.uint64], ids=repr)
@pytest.mark.parametrize("op", INTEGER_OPERATORS)
def test_integer_operators(op: str, dtype: dt.DType) -> None:
    info = np.iinfo(dtype.numpy)
    edges = [0, 1, 2, 3, 5, 7, 8, 31, 63, 64, 100, info.max, info.min, info.max - 1] + ([-1, -2, -3, -7, info.min + 1] if dtype.kind == "int" else [])
    values = np.concatenate([np.array(edges, dtype.numpy), np.random.default_rng(1).integers(info.min, info.max, 40, dtype=dtype.numpy, endpoint=True)])
    a, b = np.repeat(values, values.size), np.tile(values, values.size)
    if op in ("shl", "shr"):
        a, b = a[b >= 0], b[b >= 0]
    operands = (a,) if op in ex.UNARY else (a, b)
    with np.errstate(all="ignore"):
        expected = ex.evaluate_op(op, operands)
    got = compiled(f"{op}_{dtype.short}")(*operands)
    wrong = np.flatnonzero(got != expected)
    assert not wrong.size, [(*(o[k] for o in operands), got[k], expected[k]) for k in wrong[:4]]


@pytest.mark.parametrize("op", ["not", "and", "or", "xor", "eq", "ne", "lt", "le", "min", "max", "add", "mul", "bitand", "bitor", "bitxor"])
def test_bool_operators(op: str) -> None:
    a, b = np.array([False, False, True, True]), np.array([False, True, False, True])
    operands = (a,) if op in ex.UNARY else (a, b)
    assert compiled(f"{op}_b1")(*operands).tolist() == ex.evaluate_op(op, operands).astype(bool).tolist()


def test_names_outside_the_grammar_are_refused() -> None:
    for name in ("exp_i32", "exp", "frobnicate_f32", "load_str", "f32_to_i32_sat", "bits_f32_to_i64", "atan2_c64"):
        assert not mathlib.is_name(name)
        with pytest.raises(KeyError, match=name):
            mathlib.needed(name)


def test_names_of_narrow_types_compute_in_float32() -> None:
    assert mathlib.function("exp", dt.bfloat16, targets.NAMED["aarch64"]) == ("exp_f32", "math", ("exp_f32",))


# ------------------------------------------------------------------------------------------------------------ generated code
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "aarch64"])
@pytest.mark.parametrize("op", [*BOUNDS, "pow", "atan2", "min", "max", "sign"])
def test_float32_loops_are_vectorised(op: str, target: str) -> None:
    text = assembly(f"{op}_f32", target)
    register = {"x86-64-v3": "ymm", "x86-64-v4": "zmm", "aarch64": r"v\d+\.4s"}[target]
    assert len(re.findall(register, text)) > 2
    if op not in ("sqrt", "rsqrt", "min", "max", "sign"):
        assert re.search(r"vfn?m(add|sub)\w+ps|fml[as]\tv" if op != "pow" else r"vfn?m(add|sub)\w+pd|fml[as]\tv", text)
    callees = set(re.findall(r"^\s+(?:callq?|bl)\s+(\S+)", text, re.M)) - {"body"}
    assert not callees


@pytest.mark.parametrize("op", VECTORISED_F64)
def test_float64_loops_are_vectorised(op: str) -> None:
    text = assembly(f"{op}_f64", "x86-64-v4")
    assert "zmm" in text
    assert set(re.findall(r"^\s+callq?\s+(\S+)", text, re.M)) <= {"body"}


@pytest.mark.parametrize("op", ["exp", "log", "log1p", "tanh", "erf", "sin"])
def test_fast_math_of_the_kernel_changes_nothing(op: str) -> None:
    flags = ("reassoc", "contract", "nsz", "arcp", "nnan", "ninf", "afn")
    x = points(dt.float32, 4000)
    x = x[np.isfinite(x)]
    assert np.array_equal(compiled(f"{op}_f32")(x), compiled(f"{op}_f32", fastmath=flags)(x), equal_nan=True)


def test_minimum_is_few_instructions() -> None:
    text = assembly("min_f32", "x86-64-v4")
    assert text.count("vminps") >= 1
    body = re.search(r"vminps.*?\n\s+(?:jne|jb|jl)", text, re.S)
    assert body is not None
    assert numba_backend.emit_llvm(loop("min_f32"), targets.NAMED["x86-64-v4"], optimised=False).count("llvm.minimum") >= 1


@pytest.mark.parametrize("name", ["exp_f32", "floordiv_i32", "f32_to_f8e4m3fn_sat", "bits_f32_to_i32", "round_f32_to_i32", "not_b1", "f64_to_i8", "round_f64", "pow_i64"])
def test_python_meaning_gives_numpy_scalars(name: str) -> None:
    entry = mathlib.signature(name)
    out = mathlib.python_meaning(name)(*[a.numpy.type(1) for a in entry.arguments])
    assert np.asarray(out).dtype == (np.bool_ if entry.result is dt.boolean else entry.result.numpy)


@pytest.mark.parametrize("name", ["exp_f32", "sin_f32", "tanh_f64", "pow_f64", "f32_to_f8e4m3fn_sat", "f32_to_i8", "pack_f16", "floordiv_i32"])
def test_whole_vectors(name: str) -> None:
    entry, lanes = mathlib.signature(name), 4
    kinds = [ir.VectorType(conversions.llvm_type(a), lanes) for a in entry.arguments]
    result = ir.VectorType(conversions.llvm_type(entry.result), lanes)
    module = ir.Module("vectors")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [k.as_pointer() for k in [*kinds, result]]), "apply")
    b = ir.IRBuilder(function.append_basic_block())
    out = mathlib.emit(name, b, [b.load(p, align=1) for p in function.args[:-1]], targets.NAMED["x86-64-v3"])
    b.store(out, function.args[-1], align=1)
    b.ret_void()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), llvm.Target.from_default_triple().create_target_machine(features="+avx2,+fma,+f16c"))
    engine.finalize_object()
    inputs = [np.array([1, 7, -3, 20] if k == 0 else [3, -2, 2, 7], a.numpy) for k, a in enumerate(entry.arguments)]
    got = np.zeros(lanes, entry.result.numpy)
    pointers = [a.ctypes.data for a in (*inputs, got)]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers))(engine.get_function_address("apply"))(*pointers)
    assert np.array_equal(got, compiled(name)(*inputs), equal_nan=True)


def test_a_kernel_runs_as_plain_python() -> None:
    kernel = loop("exp_f16")
    namespace = {name: mathlib.python_meaning(arguments[0]) for name, _, arguments in kernel.constants}
    exec(kernel.text, namespace)
    x, y = np.linspace(-2, 2, 9, dtype=np.float32), np.zeros(9, np.float32)
    namespace["kernel"](x, y, 0, 9, None)
    assert np.array_equal(y, np.exp(x))
