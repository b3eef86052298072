"""Kernels and routines to objects: types, targets, determinism, errors, processes."""
from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import plans
import pytest
from sardonyx.codegen import numba_backend as backend
from sardonyx.codegen.driver import driver_kernel
from sardonyx.codegen.routines import routine_call
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.errors import CompileError, TargetError
from sardonyx.ir.loops import Routine, RoutineNest
from sardonyx.ir.target import NAMED, Target
from sardonyx.runtime import compile_pool, host
from sardonyx.runtime.host import cache_sizes, host_target, usable_cores
from sardonyx.runtime.objects import LoadedObjects, call_kernel, load_kernel, run_kernel

BIAS = 0.5
MODES = (1, 2)


# -------------------------------------------------------------------------------------------------------------------- kernels
def test_runs_on_arrays() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)
    c = np.zeros_like(a)
    run_kernel(plans.ADD, [a, b, c], [8], units=5)
    np.testing.assert_array_equal(c, a + b)


def test_any_split_of_units() -> None:
    a = np.arange(100, dtype=np.float32)
    c = np.zeros_like(a)
    address = load_kernel(plans.ADD).address(plans.ADD.symbol)
    for lo, hi in ((0, 3), (3, 3), (3, 9), (9, 10)):
        call_kernel(address, [a, a, c], [10], lo, hi)
    np.testing.assert_array_equal(c, a + a)


@pytest.mark.parametrize("dtype", [d for d in dt.ALL if d is not dt.string], ids=lambda d: d.short)
def test_storage_of_every_type(dtype: dt.DType) -> None:
    copy = plans.kernel("copy", "def kernel(a, c, n, lo, hi, scratch):\n    for i in range(n):\n        c[i] = a[i]\n", (dtype, dtype), parameters=1)
    raw = np.random.default_rng(1).integers(0, 256, 16 * dtype.itemsize_bytes, np.uint8)
    out = np.zeros_like(raw)
    run_kernel(copy, [raw, out], [16])
    np.testing.assert_array_equal(out, raw)


def test_signs_of_narrow_integers() -> None:
    widen = "def kernel(a, c, n, lo, hi, scratch):\n    for i in range(n):\n        c[i] = a[i]\n"
    for dtype, want in ((dt.int4, -3), (dt.uint4, 253), (dt.int8, -3), (dt.uint8, 253), (dt.boolean, 253), (dt.float8e5m2, 253)):
        c = np.zeros(1, np.int64)
        run_kernel(plans.kernel("widen", widen, (dtype, dt.int64), parameters=1), [np.array([253], np.uint8), c], [1])
        assert c[0] == want, dtype


def test_fastmath_is_what_the_kernel_says() -> None:
    text = "def kernel(a, c, n, lo, hi, scratch):\n    s = float32(0)\n    for i in range(n):\n        s += a[i]\n    c[0] = s\n"
    strict = plans.kernel("sum", text, (dt.float32, dt.float32), parameters=1)
    loose = plans.kernel("sum", text, (dt.float32, dt.float32), parameters=1, fastmath=("reassoc", "contract"))
    target = NAMED["x86-64-v3"]
    assert " x float>" not in backend.emit_llvm(strict, target)
    assert "fadd reassoc contract <8 x float>" in backend.emit_llvm(loose, target)
    with pytest.raises(CompileError, match="fastmath"):
        backend.compile_kernel(plans.kernel("sum", text, (dt.float32, dt.float32), parameters=1, fastmath=("quick",)), target)


def test_buffers_do_not_alias_and_vectors_are_whole() -> None:
    assert "%zmm" in backend.emit_assembly(plans.ADD, NAMED["x86-64-v4"])
    assert "%ymm" in backend.emit_assembly(plans.ADD, NAMED["x86-64-v3"])
    text = backend.emit_llvm(plans.ADD, NAMED["x86-64-v4"])
    assert "vector.memcheck" not in text and "<16 x float>" in text


# WebAssembly is compiled by processes of its own (`test_web_assembly`), since LLVM's code generator for it changes others.
NATIVE = [t for t in NAMED.values() if not t.arch.startswith("wasm")]


@pytest.mark.parametrize("target", [*NATIVE, Target("riscv64-unknown-linux-gnu", "generic-rv64", "+m,+a,+d", "scalar", 8, 16)], ids=lambda t: f"{t.arch}-{t.isa}")
def test_every_target_gives_objects(target: Target) -> None:
    for source in (plans.ADD, plans.THREAD_SUMS, driver_kernel()):
        image = backend.compile_kernel(source, target)
        assert source.symbol.encode() in image
        assert set(backend.undefined_symbols(image)) <= {"memcpy", "memset"}
    assert f'target triple = "{target.triple}"' in backend.emit_llvm(plans.ADD, target)


def test_web_assembly() -> None:
    for target in (Target("wasm32-unknown-unknown", "", "+simd128", "scalar", 16, 16), NAMED["wasm32"]):
        for kernels in ([plans.ADD, plans.THREAD_SUMS, driver_kernel()], [plans.ADD]):
            made = compile_pool.compile_all(kernels, target, 1)
            assert all(image.startswith(b"\0asm") for image in made.values())


def test_objects_define_one_symbol() -> None:
    two = LoadedObjects([plans.image(plans.ADD), plans.image(plans.SCALE), plans.image(driver_kernel())], [plans.ADD.symbol, plans.SCALE.symbol])
    assert two.address(plans.ADD.symbol) != two.address(plans.SCALE.symbol)
    with pytest.raises(TargetError, match="nothing_here"):
        LoadedObjects([plans.image(plans.ADD)], ["nothing_here"])
    with pytest.raises(TargetError):
        LoadedObjects([backend.compile_kernel(plans.ADD, NAMED["aarch64" if host_target().arch == "x86_64" else "x86-64-v2"])], [plans.ADD.symbol])
    with pytest.raises(TargetError):
        LoadedObjects([b"not an object"], ["x"])


def test_library_functions_resolve() -> None:
    k = plans.kernel("tanh", "def kernel(a, c, n, lo, hi, scratch):\n    for i in range(n):\n        c[i] = math.tanh(math.atan2(a[i], 3.0))\n",
                     (dt.float64, dt.float64), parameters=1)
    a = np.linspace(-9, 9, 50)
    c = np.zeros_like(a)
    run_kernel(k, [a, c], [50])
    np.testing.assert_allclose(c, np.tanh(np.arctan2(a, 3.0)), rtol=1e-14)


@pytest.mark.parametrize(("text", "reason"), [
    ("def kernel(a, lo, hi, scratch):\n    a[0] = missing\n", "missing"),
    ("def kernel(a, lo, hi, scratch):\n    a[0] = 'text'\n", "text|unicode"),
    ("def kernel(a, lo, hi, scratch)\n    a[0] = 1\n", "expected"),
    ("def kernel(a, lo, hi):\n    a[0] = 1\n", "takes 3 arguments, 4"),
])
def test_errors_name_the_kernel_and_show_its_text(text: str, reason: str) -> None:
    with pytest.raises(CompileError, match=reason) as e:
        backend.compile_kernel(plans.kernel("broken", text, (dt.float32,)), host_target())
    assert e.value.kernel == "broken" and text in str(e.value)


def test_unknown_constants_are_errors() -> None:
    k = plans.kernel("odd", "def kernel(a, lo, hi, scratch):\n    a[0] = f(1)\n", (dt.float32,), constants=(("f", "no_such_builder", ()),))
    with pytest.raises(CompileError, match="no_such_builder"):
        backend.compile_kernel(k, host_target())


def test_needed_symbols_are_checked() -> None:
    k = plans.kernel("halves", "def kernel(a, lo, hi, scratch):\n    f(0)\n", (dt.float32,), constants=(("f", "test_calls_outside", ()),))

    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic
    from sardonyx.codegen.intrinsics import builder

    @builder("test_calls_outside")
    def calls_outside(target: Target) -> object:
        @intrinsic
        def f(context: object, x: types.Integer) -> object:
            def lower(ctx: object, b: ir.IRBuilder, _: object, arguments: object) -> object:
                b.call(ir.Function(b.module, ir.FunctionType(ir.VoidType(), []), "somewhere_else"), [])
                return ctx.get_dummy_value()
            return types.void(types.int64), lower
        return f
    with pytest.raises(CompileError, match="somewhere_else"):
        backend.compile_kernel(k, host_target())


def test_the_same_kernel_gives_the_same_bytes_everywhere() -> None:
    program = """
        import hashlib, sys
        sys.path[:0] = sys.argv[1:]
        import plans
        from sardonyx.codegen.driver import driver_kernel
        from sardonyx.codegen.numba_backend import compile_kernel
        from sardonyx.ir.target import NAMED
        compile_kernel(plans.SCALE, NAMED["x86-64-v2"])
        for k in (plans.ADD, driver_kernel()):
            print(hashlib.sha256(compile_kernel(k, NAMED["x86-64-v3"])).hexdigest())
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program), plans.__file__.rpartition("/")[0]], capture_output=True, text=True, check=True)
    here = [hashlib.sha256(backend.compile_kernel(k, NAMED["x86-64-v3"])).hexdigest() for k in (plans.ADD, driver_kernel())]
    assert run.stdout.split() == here


def test_threads_may_compile_at_once() -> None:
    kernels = [plans.ADD, plans.SCALE, plans.COUNT_POSITIVE, plans.TAKE_POSITIVE, plans.THREAD_SUMS] * 2
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda k: backend.compile_kernel(k, host_target()), kernels))
    assert made == [plans.image(k) for k in kernels]


def test_toolchain_key_names_versions() -> None:
    assert "numba" in backend.toolchain_key() and "LLVM" in backend.toolchain_key()


def test_running_needs_neither_compiler_nor_numba() -> None:
    program = "import json, sys, sardonyx.runtime.executor; print(json.dumps(sorted(m for m in sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout)
    for absent in ("numba", "onnx", "sardonyx.codegen", "sardonyx.compiler"):
        assert absent not in loaded


# ------------------------------------------------------------------------------------------------------------------- routines
def scaled(value: float) -> float:
    """A helper with annotations and a docstring."""
    return value * FACTOR + BIAS  # noqa: F821


def running_sum(x, y, n: int, lo, hi):
    """A routine without scratch."""
    for r in range(lo, hi):
        s: float = 0.0
        for i in range(n):
            s += load(x, r * n + i)  # noqa: F821
            store(y, r * n + i, scaled(s))  # noqa: F821


def sort_rows(x, y, n, lo, hi, scratch):
    for r in range(lo, hi):
        for i in range(n):
            v = x[r * n + i]
            j = i
            while j > 0 and (y[r * n + j - 1] > v) != DESCENDING:  # noqa: F821
                y[r * n + j] = y[r * n + j - 1]
                j -= 1
            y[r * n + j] = v
        scratch[0] = 1


def nest(function: object, dtype: dt.DType, helpers: tuple = (), constants: tuple = (), parameters: Sequence[int] = (8,), results: int = 1) -> RoutineNest:
    shape = (ex.const(4), ex.const(8))
    tensors = [ex.Tensor(f"t{k}", dtype, shape) for k in range(1 + results)]
    return RoutineNest(Routine("r", function, helpers), (tensors[0],), tuple(tensors[1:]), tuple(map(ex.const, parameters)), ex.const(4), ex.const(64), constants)


@pytest.mark.parametrize(("dtype", "tolerance"), [(dt.float16, 2e-3), (dt.bfloat16, 2e-2), (dt.float32, 1e-6), (dt.float64, 1e-13)], ids=lambda d: getattr(d, "short", ""))
def test_routines_read_and_write_values(dtype: dt.DType, tolerance: float) -> None:
    call = routine_call(nest(running_sum, dtype, (scaled,), (("FACTOR", 3.0),)), host_target())
    x = np.random.default_rng(2).random((4, 8)).astype(dtype.numpy)
    y = np.zeros_like(x)
    run_kernel(call.kernel, [x, y], [8], units=4)
    np.testing.assert_allclose(y.astype(np.float64), np.cumsum(x.astype(np.float64), 1) * 3 + 0.5, rtol=tolerance)


@pytest.mark.parametrize("descending", [False, True])
def test_routine_constants_are_part_of_the_kernel(descending: bool) -> None:
    call = routine_call(nest(sort_rows, dt.int32, (), (("DESCENDING", descending),)), host_target())
    x = np.random.default_rng(3).integers(-50, 50, (4, 8)).astype(np.int32)
    y = np.zeros_like(x)
    run_kernel(call.kernel, [x, y], [8], units=4, scratch_bytes=64)
    want = np.sort(x, 1)
    np.testing.assert_array_equal(y, want[:, ::-1] if descending else want)
    other = routine_call(nest(sort_rows, dt.int32, (), (("DESCENDING", not descending),)), host_target())
    assert other.kernel.key != call.kernel.key


def test_routine_text_is_free_of_comments_and_annotations() -> None:
    text = routine_call(nest(running_sum, dt.float32, (scaled,), (("FACTOR", 3.0),)), host_target()).kernel.text
    assert text.startswith("BIAS = 0.5\nFACTOR = 3.0\n") and '"""' not in text and ": float" not in text and "def kernel(x, y, n, lo, hi, scratch)" in text


def test_routines_say_what_they_lack() -> None:
    with pytest.raises(CompileError, match="FACTOR"):
        routine_call(nest(running_sum, dt.float32, (scaled,)), host_target())
    with pytest.raises(CompileError, match="scaled"):
        routine_call(nest(running_sum, dt.float32), host_target())
    with pytest.raises(CompileError, match="takes 5 arguments"):
        routine_call(nest(running_sum, dt.float32, (scaled,), (("FACTOR", 1.0),), (8, 8)), host_target())


def special_copy(x, y, n, lo, hi):
    for i in range(n):
        y[i] = x[i] if x[i] != LIMIT else 0.0  # noqa: F821


def test_infinite_constants() -> None:
    call = routine_call(nest(special_copy, dt.float32, (), (("LIMIT", float("inf")),)), host_target())
    x = np.array([1, np.inf, -np.inf], np.float32)
    y = np.zeros_like(x)
    run_kernel(call.kernel, [x, y], [3])
    np.testing.assert_array_equal(y, [1, 0, -np.inf])


def round_trip(x, y, n, lo, hi):
    for i in range(n):
        store(y, i, load(x, i))  # noqa: F821


@pytest.mark.parametrize("narrow", [dt.float16, dt.bfloat16], ids=lambda d: d.short)
def test_narrow_floats_convert_exactly(narrow: dt.DType) -> None:
    def convert(source: dt.DType, target: dt.DType, x: np.ndarray) -> np.ndarray:
        a, b = ex.Tensor("x", source, (ex.const(1),)), ex.Tensor("y", target, (ex.const(1),))
        call = routine_call(RoutineNest(Routine("round_trip", round_trip), (a,), (b,), (ex.const(1),)), host_target())
        y = np.zeros(x.shape, target.numpy)
        run_kernel(call.kernel, [x, y], [x.size])
        return y
    every = np.arange(65536, dtype=np.uint16).view(narrow.numpy)
    wide = convert(narrow, dt.float32, every)
    nan = np.isnan(every.astype(np.float32))
    np.testing.assert_array_equal(wide[~nan], every.astype(np.float32)[~nan])
    assert np.isnan(wide[nan]).all()
    finite = np.sort(every.astype(np.float32)[np.isfinite(every.astype(np.float32))])
    ties = (finite[1:].astype(np.float64) + finite[:-1]) / 2
    x = np.concatenate([ties, np.nextafter(ties.astype(np.float32), np.float32(np.inf)), [np.inf, -np.inf, 1e38, 65519, 65520, 1e-30, -0.0]]).astype(np.float32)
    with np.errstate(over="ignore"):
        want = x.astype(narrow.numpy)
    np.testing.assert_array_equal(convert(dt.float32, narrow, x).view(np.uint16), want.view(np.uint16))
    assert np.isnan(convert(dt.float32, narrow, np.array([np.nan], np.float32)).astype(np.float32)).all()


# ------------------------------------------------------------------------------------------------------------------ processes
def test_pool_compiles_what_this_process_would() -> None:
    kernels = [plans.ADD, plans.SCALE, plans.COUNT_POSITIVE, plans.TAKE_POSITIVE, plans.ADD]
    seen: list[tuple[int, int]] = []
    made = compile_pool.compile_all(kernels, host_target(), 2, lambda done, total, name: seen.append((done, total)))
    assert made == {k.key: plans.image(k) for k in kernels}
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_pool_reports_broken_kernels_and_goes_on() -> None:
    bad = plans.kernel("broken", "def kernel(a, lo, hi, scratch):\n    a[0] = missing\n", (dt.float32,))
    with pytest.raises(CompileError, match="missing") as e:
        compile_pool.compile_all([plans.ADD, plans.SCALE, bad, plans.TAKE_POSITIVE], host_target(), 2)
    assert e.value.kernel == "broken"
    assert len(compile_pool.compile_all([plans.ADD, plans.SCALE, plans.TAKE_POSITIVE], host_target(), 2)) == 3


def test_pool_survives_the_death_of_a_worker() -> None:
    kernels = [plans.ADD, plans.SCALE, plans.TAKE_POSITIVE]
    compile_pool.compile_all(kernels, host_target(), 2)
    for worker in list(compile_pool._idle):
        worker.kill()
    assert len(compile_pool.compile_all(kernels, host_target(), 2)) == 3


@pytest.mark.parametrize("killed", [False, True])
def test_pool_takes_over_what_was_begun_ahead(killed: bool) -> None:
    ahead = compile_pool.Ahead(plans.SCALE, host_target())
    if killed:
        assert ahead.answer() == plans.image(plans.SCALE)
        ahead.worker.kill()
    made = compile_pool.compile_all([plans.ADD, plans.SCALE, plans.TAKE_POSITIVE], host_target(), 2, ahead=ahead)
    assert made == {k.key: plans.image(k) for k in (plans.ADD, plans.SCALE, plans.TAKE_POSITIVE)}


def test_what_was_begun_ahead_fails_or_is_dropped() -> None:
    bad = plans.kernel("broken", "def kernel(a, lo, hi, scratch):\n    a[0] = missing\n", (dt.float32,))
    with pytest.raises(CompileError, match="missing"):
        compile_pool.compile_all([plans.ADD, bad], host_target(), 2, ahead=compile_pool.Ahead(bad, host_target()))
    ahead = compile_pool.Ahead(plans.SCALE, host_target())
    ahead.release()
    assert not ahead.worker.alive


def test_few_kernels_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_pool, "_has_idle", lambda: False)
    monkeypatch.setattr(compile_pool, "_Worker", None)
    assert compile_pool.compile_all([plans.ADD], host_target(), 2) == {plans.ADD.key: plans.image(plans.ADD)}
    assert len(compile_pool.compile_all([plans.ADD, plans.SCALE, plans.TAKE_POSITIVE], host_target(), 1)) == 3


# ------------------------------------------------------------------------------------------------------------------- machine
def test_host_target() -> None:
    t = host_target()
    assert t.cores == usable_cores() >= 1 and t.l1_bytes >= 8192 and t.l2_bytes > t.l1_bytes


def test_tile_registers_need_the_systems_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "may_use_tiles", lambda: False)
    assert "+amx" not in host_target.__wrapped__().features


def test_cache_sizes(tmp_path: object) -> None:
    for k, (level, kind, size) in enumerate(((1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2M"), (3, "Unified", "odd"))):
        folder = tmp_path / f"index{k}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    assert cache_sizes(tmp_path) == {1: 48 << 10, 2: 2 << 20}
