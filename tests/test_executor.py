"""The executor and the native driver on plans written by hand."""
from __future__ import annotations

import struct
import threading

import numpy as np
import plans
import pytest
from sardonyx.ir.errors import InputError, TargetError
from sardonyx.ir.plan import BufferSpec, Instruction, KernelStep, Plan
from sardonyx.runtime import threads
from sardonyx.runtime.arrays import ALIGN_FROM_BYTES, ALIGNMENT
from sardonyx.runtime.executor import Executor
from sardonyx.runtime.threads import default_threads, find_openmp

THREADS = [1, 2] if find_openmp() is not None else [1]


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_chain_of_kernels(threads: int, length: int) -> None:
    e = plans.executor(plans.chain_plan(length), (plans.ADD, plans.SCALE), threads=threads)
    for n in (5, 1, 64, 0, 5, 300):
        x = rows(n)
        y, = e.run([x])
        np.testing.assert_array_equal(y, (x + x) * 2.0 ** length)


@pytest.mark.parametrize("threads", THREADS)
def test_known_shapes_take_the_short_way(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    e = plans.executor(plans.chain_plan(), (plans.ADD, plans.SCALE), threads=threads)
    e.run([rows(3)])
    monkeypatch.setattr(e, "_run_prepared", None)
    x = rows(3, seed=1)
    np.testing.assert_array_equal(e.run([x])[0], (x + x) * 4)


def test_results_do_not_alias() -> None:
    e = plans.executor(plans.chain_plan(), (plans.ADD, plans.SCALE))
    a, = e.run([rows(4)])
    before = a.copy()
    e.run([rows(4, seed=9)])
    np.testing.assert_array_equal(a, before)


def test_large_results_are_aligned() -> None:
    e = plans.executor(plans.chain_plan(), (plans.ADD, plans.SCALE))
    for _ in range(3):
        y, = e.run([rows(9999)])
        assert y.nbytes >= ALIGN_FROM_BYTES and y.ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("threads", THREADS)
def test_strided_and_byte_swapped_inputs(threads: int) -> None:
    e = plans.executor(plans.chain_plan(), (plans.ADD, plans.SCALE), threads=threads)
    x = rows(6)
    want = (x + x) * 4
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    wide = np.zeros((6, 32), np.float32)
    wide[:, ::2] = x
    for given in (x, np.asfortranarray(x), wide[:, ::2], unaligned, x.astype(">f4"), x):
        np.testing.assert_array_equal(e.run([given])[0], want)


def test_given_outputs_are_written() -> None:
    e = plans.executor(plans.chain_plan(), (plans.ADD, plans.SCALE))
    x, y = rows(6), np.zeros((6, 16), np.float32)
    assert e.run([x], outputs=[y])[0] is y
    np.testing.assert_array_equal(y, (x + x) * 4)
    for wrong in (np.zeros((5, 16), np.float32), np.zeros((6, 16), np.float64), np.zeros((16, 6), np.float32).T):
        with pytest.raises(InputError, match="output 'y'"):
            e.run([x], outputs=[wrong])
    np.testing.assert_array_equal(e.run([x])[0], (x + x) * 4)


def test_wrong_inputs_are_refused() -> None:
    e = plans.executor(plans.chain_plan(), (plans.ADD, plans.SCALE))
    e.run([rows(2)])
    with pytest.raises(InputError, match="dimension 1 of input 'x' is 15, 16 was expected"):
        e.run([np.zeros((2, 15), np.float32)])
    with pytest.raises(InputError, match="rank 1"):
        e.run([np.zeros(16, np.float32)])
    with pytest.raises(InputError, match="float64"):
        e.run([np.zeros((2, 16))])
    with pytest.raises(InputError, match="1 inputs"):
        e.run([])
    with pytest.raises(InputError, match="list"):
        e.run([[1.0]])
    np.testing.assert_array_equal(e.run([rows(2)])[0], rows(2) * 8)


@pytest.mark.parametrize("threads", THREADS)
def test_sizes_that_depend_on_data(threads: int) -> None:
    e = plans.executor(plans.compress_plan(), (plans.COUNT_POSITIVE, plans.TAKE_POSITIVE, plans.SCALE), threads=threads)
    for n, seed in ((10, 0), (1000, 1), (10, 2), (3, 3), (0, 4), (5000, 5)):
        x = np.random.default_rng(seed).standard_normal(n).astype(np.float32)
        np.testing.assert_array_equal(e.run([x])[0], x[x > 0] * 3)


def test_host_steps() -> None:
    seen = []

    def function(a: np.ndarray, s: object, absent: None) -> list[object]:
        seen.append((a.copy(), s, absent))
        return [a[::2], ["made", s]]
    e = plans.executor(plans.host_plan(function), (plans.ADD, plans.SCALE))
    for n in (7, 2, 7):
        x = np.arange(n, dtype=np.float32)
        y, v = e.run([x, "text"])
        np.testing.assert_array_equal(y, (x + x)[::2] * 2)
        assert v == ["made", "text"]
        np.testing.assert_array_equal(seen[-1][0], x + x)


def test_host_failures_leave_the_executor_usable() -> None:
    calls = []

    def function(a: np.ndarray, s: object, absent: None) -> list[object]:
        calls.append(s)
        if s == "bad":
            raise KeyError("no")
        return [a, s]
    e = plans.executor(plans.host_plan(function), (plans.ADD, plans.SCALE))
    x = np.ones(3, np.float32)
    with pytest.raises(KeyError):
        e.run([x, "bad"])
    np.testing.assert_array_equal(e.run([x, "good"])[0], x * 4)


@pytest.mark.parametrize("threads", THREADS)
def test_concurrent_runs(threads: int) -> None:
    e = plans.executor(plans.chain_plan(3), (plans.ADD, plans.SCALE), threads=threads)
    failures: list[str] = []

    def work(seed: int) -> None:
        for k in range(60):
            x = rows(1 + (seed + k) % 5 * 40, seed=seed * 100 + k)
            if not np.array_equal(e.run([x])[0], (x + x) * 8):
                failures.append(f"{seed} {k}")
    workers = [threading.Thread(target=work, args=(s,)) for s in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures


@pytest.mark.parametrize("threads", THREADS)
def test_profile_times_every_kernel(threads: int) -> None:
    e = plans.executor(plans.chain_plan(3), (plans.ADD, plans.SCALE), threads=threads)
    outputs, times = e.profile([rows(50)])
    np.testing.assert_array_equal(outputs[0], rows(50) * 16)
    assert [t.step for t in times] == [0, 1, 2, 3]
    assert all(t.end_ns >= t.start_ns > 0 for t in times)
    assert all(a.end_ns <= b.start_ns for a, b in zip(times, times[1:], strict=False))
    np.testing.assert_array_equal(e.run([rows(50)])[0], outputs[0])


@pytest.mark.parametrize("threads", THREADS)
def test_scratch_belongs_to_a_thread(threads: int) -> None:
    n = plans.Numbers()
    count, cols, scratch, zero, big = n.const(0), n.const(0), n.const(256), n.const(0), n.const(1 << 30)
    buffers = [BufferSpec("x", "f32", (count, cols), (0, 1), "input", 0), BufferSpec("y", "f32", (count,), (0,), "output", 0)]
    plan = Plan("", n.initial, [(0, 0, count), (0, 1, cols)], [], [], 0, buffers, [plans.port("x", 0)], [plans.port("y", 1)],
                [KernelStep(0, (0, 1), (cols,), count, flops=big, bytes=big)], [], [zero], 0, scratch)
    e = plans.executor(plan, (plans.THREAD_SUMS,), threads=threads)
    x = np.ones((37, 11), np.float32)
    np.testing.assert_array_equal(e.run([x])[0], np.full(37, 11, np.float32))


def test_constants_inputs_as_outputs_and_repeated_outputs() -> None:
    n = plans.Numbers()
    size, zero = n.const(4), n.const(0)
    buffers = [BufferSpec("x", "f32", (size,), (0,), "input", 0), BufferSpec("c", "f32", (size,), (0,), "constant", 0), BufferSpec("y", "f32", (size,), (0,), "output", 0)]
    plan = Plan("", n.initial, [], [], [], 0, buffers, [plans.port("x", 0)], [plans.port("y", 2), plans.port("x", 0), plans.port("c", 1), plans.port("y2", 2)],
                [KernelStep(0, (0, 1, 2), (size,), n.const(1))], [], [zero], 1, zero)
    c = np.arange(4, dtype=np.float32)
    e = plans.executor(plan, (plans.ADD,), [c])
    x = np.full(4, 5, np.float32)
    for _ in range(2):
        out = e.run([x])
        for got, want in zip(out, (x + c, x, c, x + c), strict=True):
            np.testing.assert_array_equal(got, want)
        out[1][:] = -1
        out[2][:] = -1
    assert x[0] == 5 and c[1] == 1


def test_permuted_buffers_come_out_row_major() -> None:
    n = plans.Numbers()
    a, b, one, zero, size = n.const(2), n.const(3), n.const(1), n.const(0), n.const(24)
    buffers = [BufferSpec("x", "f32", (b, a), (0, 1), "input", 0), BufferSpec("y", "f32", (a, b), (1, 0), "arena", 0, zero, size)]
    plan = Plan("", n.initial, [], [], [], 0, buffers, [plans.port("x", 0)], [plans.port("y", 1)], [KernelStep(0, (0, 1), (n.const(6), one), one)], [], [size], 0, zero)
    e = plans.executor(plan, (plans.SCALE,))
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(e.run([x])[0], x.T)


def bits(x: float) -> int:
    return struct.unpack("<q", struct.pack("<d", x))[0]


@pytest.mark.parametrize(("operator", "a", "b", "want"), [
    ("add", 5, -7, -2), ("sub", 5, -7, 12), ("mul", -3, 7, -21), ("floordiv", -7, 2, -4), ("floordiv", 7, -2, -4), ("floordiv", 7, 0, 0), ("mod", -7, 3, 2),
    ("mod", 7, -3, -2), ("mod", 7, 0, 0), ("div", -7, 2, -3), ("div", 7, 0, 0), ("rem", -7, 3, -1), ("rem", 7, -3, 1), ("rem", 7, 0, 0),
    ("floordiv", -2 ** 63, -1, -2 ** 63), ("mod", -2 ** 63, -1, 0), ("min", -1, 3, -1), ("max", -1, 3, 3), ("lt", -1, 3, 1), ("lt", 3, 3, 0), ("le", 3, 3, 1),
    ("eq", 3, 3, 1), ("ne", 3, 3, 0), ("and", 2, 1, 1), ("and", 2, 0, 0), ("or", 0, 2, 1), ("or", 0, 0, 0), ("not", 0, 0, 1), ("not", 5, 0, 0),
    ("abs", -4, 0, 4), ("sign", -4, 0, -1), ("sign", 0, 0, 0), ("sign", 9, 0, 1), ("itof", 3, 0, bits(3.0)), ("ftoi", bits(-2.7), 0, -2),
    ("ftoi", bits(float("nan")), 0, 0), ("ftoi", bits(1e30), 0, 2 ** 63 - 1), ("fadd", bits(0.5), bits(0.25), bits(0.75)), ("fsub", bits(0.5), bits(0.25), bits(0.25)),
    ("fmul", bits(0.5), bits(3.0), bits(1.5)), ("fdiv", bits(1.0), bits(4.0), bits(0.25)), ("ffloor", bits(-1.5), 0, bits(-2.0)), ("fceil", bits(1.2), 0, bits(2.0)),
    ("fround", bits(2.5), 0, bits(2.0)), ("fround", bits(3.5), 0, bits(4.0)), ("fmin", bits(1.0), bits(2.0), bits(1.0)), ("fmax", bits(1.0), bits(2.0), bits(2.0)),
    ("flt", bits(1.0), bits(2.0), 1), ("fle", bits(2.0), bits(2.0), 1), ("feq", bits(1.0), bits(2.0), 0),
])
def test_size_program(operator: str, a: int, b: int, want: int) -> None:
    got, = _evaluate([Instruction(operator, 2, 0, 1)], [a, b, 0], [2])
    assert got == want


def test_size_program_select_and_loads() -> None:
    assert _evaluate([Instruction("select", 3, 0, 1, 2)], [1, 10, 20, 0], [3]) == [10]
    assert _evaluate([Instruction("select", 3, 0, 1, 2)], [0, 10, 20, 0], [3]) == [20]
    for operator, array, want in (("load", np.array([5, -6], np.int64), -6), ("load_i32", np.array([5, -6], np.int32), -6),
                                  ("load_b1", np.array([False, True]), 1), ("load_f32", np.array([1, 0.5], np.float32), bits(0.5))):
        assert _evaluate([Instruction(operator, 1, 0, 0)], [1, 0], [1], array) == [want]


def _evaluate(program: list[Instruction], numbers: list[int], wanted: list[int], constant: np.ndarray | None = None) -> list[int]:
    """Run a size program natively, as a frame does when it is bound."""
    from sardonyx.runtime.frames import Frame

    zero = len(numbers)
    buffers = [] if constant is None else [BufferSpec("c", "f32", (), (), "constant", 0)]
    plan = Plan("", [*numbers, 0], [], [], program, len(program), buffers, [], [], [], [], [zero], len(buffers), zero)
    e = plans.executor(plan, (), [] if constant is None else [constant])
    frame = Frame(e.tables)
    frame.bind((), e._call)
    return [int(frame.numbers[w]) for w in wanted]


def test_missing_driver_and_foreign_objects() -> None:
    plan = plans.chain_plan()
    plan.kernels = [plans.ADD.symbol, plans.SCALE.symbol]
    with pytest.raises(TargetError, match="driver"):
        Executor(plan, {k.symbol: plans.image(k) for k in (plans.ADD, plans.SCALE)}, [])


def test_default_threads() -> None:
    assert default_threads() >= 1


def test_openmp_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARDONYX_OPENMP", "off")
    assert threads._find_openmp.__wrapped__() is None
    monkeypatch.setenv("SARDONYX_OPENMP", "libm.so.6")
    with pytest.raises(TargetError, match="libm"):
        threads._find_openmp.__wrapped__()
    monkeypatch.delenv("SARDONYX_OPENMP")
    assert threads._find_openmp.__wrapped__() is not None or find_openmp() is None


def test_missing_openmp_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_candidates", lambda: iter(["no-such-library"]))
    with pytest.warns(RuntimeWarning, match="libgomp"):
        assert threads._find_openmp.__wrapped__() is None


def test_memory_is_shared_between_shapes_and_given_back() -> None:
    e = plans.executor(plans.chain_plan(), (plans.ADD, plans.SCALE))
    for n in (1000, 10, 500, 3):
        e.run([rows(n)])
    assert len(e._arenas) == 1 and len(e._idle) == 4
    assert e.arena_bytes([(1000, 16)]) >= 2 * 64000
    e.release_memory()
    assert not e._arenas
    np.testing.assert_array_equal(e.run([rows(4)])[0], rows(4) * 8)


def test_work_is_shared_when_others_hold_the_processors() -> None:
    if find_openmp() is None:
        pytest.skip("one thread only")
    e = plans.executor(plans.chain_plan(40), (plans.ADD, plans.SCALE), threads=4)
    for n in (1, 3, 33, 1000):
        x = rows(n)
        for _ in range(20):
            np.testing.assert_array_equal(e.run([x])[0], (x + x) * np.float32(2.0 ** 40))
