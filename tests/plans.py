"""Small kernels and plans written by hand, for tests of the backend and the executor."""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from sardonyx.codegen.driver import driver_kernel
from sardonyx.codegen.numba_backend import compile_kernel
from sardonyx.ir import dtypes as dt
from sardonyx.ir.kernel import KernelSource
from sardonyx.ir.plan import BufferSpec, HostStep, Instruction, KernelStep, Plan, Port, SegmentStep, SizeCheck, SizeStep
from sardonyx.runtime.executor import Executor
from sardonyx.runtime.host import host_target

F32, I64 = dt.float32, dt.int64


def kernel(name: str, text: str, buffers: Sequence[dt.DType], written: int = 1, parameters: int = 0, fastmath: tuple[str, ...] = (),
           constants: tuple = ()) -> KernelSource:
    """A kernel whose last `written` buffers are outputs."""
    count = len(buffers)
    return KernelSource(name, text, tuple(buffers), tuple(k >= count - written for k in range(count)), parameters, fastmath, constants)


ADD = kernel("add", """def kernel(a, b, c, n, lo, hi, scratch):
    for i in range(lo * n, hi * n):
        c[i] = a[i] + b[i]
""", (F32, F32, F32), parameters=1)

SCALE = kernel("scale", """def kernel(a, c, n, k, lo, hi, scratch):
    for i in range(lo * n, hi * n):
        c[i] = a[i] * float32(k)
""", (F32, F32), parameters=2)

COUNT_POSITIVE = kernel("count_positive", """def kernel(a, count, n, lo, hi, scratch):
    total = 0
    for i in range(n):
        if a[i] > float32(0):
            total += 1
    count[0] = total
""", (F32, I64), parameters=1)

TAKE_POSITIVE = kernel("take_positive", """def kernel(a, c, n, lo, hi, scratch):
    at = 0
    for i in range(n):
        if a[i] > float32(0):
            c[at] = a[i]
            at += 1
""", (F32, F32), parameters=1)

THREAD_SUMS = kernel("row_sums", """def kernel(a, c, n, lo, hi, scratch):
    for r in range(lo, hi):
        for i in range(8):
            scratch[i] = uint8(0)
        s = float32(0)
        for i in range(n):
            s += a[r * n + i]
            scratch[i & 7] = uint8(i)
        c[r] = s
""", (F32, F32), parameters=1)


@lru_cache(maxsize=64)
def image(source: KernelSource) -> bytes:
    return compile_kernel(source, host_target())


def executor(plan: Plan, kernels: Sequence[KernelSource], constants: Sequence[np.ndarray] = (), threads: int = 1) -> Executor:
    plan.kernels = [k.symbol for k in kernels]
    objects = {k.symbol: image(k) for k in (*kernels, driver_kernel(control=False))}
    return Executor(plan, objects, constants, threads)


class Numbers:
    """Collects numbers and a size program."""

    def __init__(self) -> None:
        self.initial: list[int] = []
        self.program: list[Instruction] = []

    def const(self, value: int) -> int:
        self.initial.append(value)
        return len(self.initial) - 1

    def op(self, operator: str, *args: int) -> int:
        target = self.const(0)
        self.program.append(Instruction(operator, target, *args))
        return target


def port(name: str, buffer: int, shape: tuple | None = None, value: int = -1) -> Port:
    return Port(name, "tensor(float)", shape, buffer, value)


def chain_plan(length: int = 2) -> Plan:
    """y = ((x + c) * 2) * 2 ... for x of (rows, 16) with symbolic rows; c constant of 16 x 16 is added row by row, intermediates alternate in the arena.

    Steps: ADD over x and x, then `length` SCALE steps.
    """
    n = Numbers()
    rows, cols, two, zero, minus = n.const(0), n.const(16), n.const(2), n.const(0), n.const(1 << 40)
    size = n.op("mul", rows, cols)
    size = n.op("mul", size, n.const(4))
    padded = n.op("mul", n.op("floordiv", n.op("add", size, n.const(63)), n.const(64)), n.const(64))
    arena = n.op("mul", padded, two)
    shape = (rows, cols)
    buffers = [BufferSpec("x", "f32", shape, (0, 1), "input", 0, bytes=size), BufferSpec("y", "f32", shape, (0, 1), "output", 0, bytes=size),
               BufferSpec("t0", "f32", shape, (0, 1), "arena", 0, zero, size), BufferSpec("t1", "f32", shape, (0, 1), "arena", 0, padded, size)]
    steps: list = [KernelStep(0, (0, 0, 2), (cols,), rows, ("add",), minus, minus)]
    for k in range(length):
        source, target = 2 + k % 2, 1 if k == length - 1 else 2 + (k + 1) % 2
        steps.append(KernelStep(1, (source, target), (cols, two), rows, (f"scale{k}",), minus, minus))
    return Plan("", n.initial, [(0, 0, rows)], [SizeCheck(0, 1, cols)], n.program, len(n.program), buffers, [port("x", 0)], [port("y", 1)], steps, [], [arena], 0, zero)


def compress_plan() -> Plan:
    """y = the positive elements of x, times 3: the size of y is known only after a first kernel."""
    n = Numbers()
    rows, one, zero, eight, three = n.const(0), n.const(1), n.const(0), n.const(8), n.const(3)
    size = n.op("mul", rows, n.const(4))
    first = n.const(64)
    eager = len(n.program)
    count = n.op("load", 1, zero)
    bytes_ = n.op("mul", count, n.const(4))
    padded = n.op("mul", n.op("floordiv", n.op("add", bytes_, n.const(63)), n.const(64)), n.const(64))
    total = n.op("add", padded, padded)
    buffers = [BufferSpec("x", "f32", (rows,), (0,), "input", 0, bytes=size), BufferSpec("count", "i64", (one,), (0,), "arena", 0, zero, eight),
               BufferSpec("taken", "f32", (count,), (0,), "arena", 1, zero, bytes_), BufferSpec("y", "f32", (count,), (0,), "arena", 1, padded, bytes_)]
    steps = [KernelStep(0, (0, 1), (rows,), one), SizeStep(eager, len(n.program)), SegmentStep(1), KernelStep(1, (0, 2), (rows,), one),
             KernelStep(2, (2, 3), (one, three), count)]
    return Plan("", n.initial, [(0, 0, rows)], [], n.program, eager, buffers, [port("x", 0)], [port("y", 3)], steps, [], [first, total], 0, zero)


def host_plan(function: object) -> Plan:
    """y = 2 * function(x + x): a host step of unknown result size between two kernels; the second output is a host value."""
    n = Numbers()
    rows, one, zero, two = n.const(0), n.const(1), n.const(0), n.const(2)
    size = n.op("mul", rows, n.const(4))
    found = n.const(0)
    eager = len(n.program)
    bytes_ = n.op("mul", found, n.const(4))
    buffers = [BufferSpec("x", "f32", (rows,), (0,), "input", 0, bytes=size), BufferSpec("t", "f32", (rows,), (0,), "arena", 0, zero, size),
               BufferSpec("h", "f32", (found,), (0,), "host", 2, bytes=bytes_), BufferSpec("h2", "f32", (found,), (0,), "host", 2, bytes=bytes_),
               BufferSpec("y", "f32", (found,), (0,), "arena", 1, zero, bytes_)]
    steps = [KernelStep(0, (0, 0, 1), (one,), rows), HostStep(0, (("buffer", 1), ("value", 0), None), (("buffer", 2), ("value", 1)), "test", ("node",), ((0, 0, found),)),
             SizeStep(eager, len(n.program)), SegmentStep(1), KernelStep(1, (3, 4), (one, two), found)]
    return Plan("", n.initial, [(0, 0, rows)], [], n.program, eager, buffers, [port("x", 0), port("s", -1, value=0)], [port("y", 4), port("v", -1, value=1)], steps, [],
                [size, bytes_], 0, zero, [("f", function)], 2)  # type: ignore[list-item]
