"""What this machine reaches, measured once a process: the ceilings that reports compare with."""
from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from functools import lru_cache

import llvmlite.binding as llvm
import numpy as np

from .arrays import aligned_empty
from .host import cache_sizes, host_target
from .llvm_objects import prepare

ROUNDS = 7
CHAINS = 24  # independent accumulators: more than latency times throughput of any processor's multiply-add
STEPS = 400_000
READ_BYTES = 128 << 20
SWEPT = 16  # vectors that a reading loop adds up side by side
SWEEP_BYTES = 256 << 20  # read by one measurement


@lru_cache(maxsize=1)
def fma_flops() -> float:
    """float32 operations a second of one core doing nothing but vector multiply-adds in registers (two operations each)."""
    lanes = host_target().lanes(4)
    engine = _compiled(_chains(lanes))
    run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address("chains"))
    memory = np.zeros(lanes * (CHAINS + 1), np.float32)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run(STEPS, memory.ctypes.data)
        best = min(best, time.perf_counter() - start)
    return STEPS * CHAINS * lanes * 2 / best


def _chains(lanes: int) -> str:
    """LLVM IR of `chains(steps, memory)`: x = memory[0]; each accumulator c = x * x + c, stored at the end."""
    vector = f"<{lanes} x float>"
    phis = [f"  %c{k} = phi {vector} [ zeroinitializer, %entry ], [ %d{k}, %loop ]" for k in range(CHAINS)]
    sums = [f"  %d{k} = call {vector} @llvm.fma.v{lanes}f32({vector} %x, {vector} %x, {vector} %c{k})" for k in range(CHAINS)]
    stores = [f"  %q{k} = getelementptr {vector}, ptr %memory, i64 {k + 1}\n  store {vector} %d{k}, ptr %q{k}, align 4" for k in range(CHAINS)]
    return "\n".join([
        f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})", "define void @chains(i64 %steps, ptr %memory) {", "entry:",
        f"  %x = load {vector}, ptr %memory, align 4", "  br label %loop", "loop:", "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]", *phis, *sums,
        "  %next = add i64 %i, 1", "  %more = icmp slt i64 %next, %steps", "  br i1 %more, label %loop, label %done", "done:", *stores, "  ret void", "}"])


@dataclass(frozen=True)
class Reading:
    """How fast one core reads again and again what is no larger than `size_bytes` (None: however large)."""

    level: str
    size_bytes: int | None
    bytes_per_second: float


@lru_cache(maxsize=1)
def reading() -> tuple[Reading, ...]:
    """Rates of reading, measured for data that lie in each cache and for data far larger than most, smallest first."""
    found, inner = [], READ_BYTES
    for level, size in sorted(cache_sizes().items()):
        found.append(Reading(f"L{level}", size, _read_rate(min(size // 2, 4 * inner))))  # a share of what others use as well may be far smaller than it says
        inner = size
    return (*found, Reading("memory", None, _read_rate(READ_BYTES)))


def read_bytes_per_second(working_set_bytes: float) -> float:
    """Bytes a second that one core reads at most of data of this size: no kernel that touches so much can be faster, wherever its data lie."""
    return max(r.bytes_per_second for r in reading() if r.size_bytes is None or working_set_bytes <= r.size_bytes)


def _read_rate(size: int) -> float:
    """Bytes a second of a loop that does nothing but load `size` bytes, over and over."""
    lanes = host_target().lanes(4)
    block = SWEPT * lanes * 4
    blocks = max(1, size // block)
    engine = _compiled(_sweep(lanes))
    run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("sweep"))
    data, sums = aligned_empty(blocks * block), aligned_empty(block)
    data[:] = 1
    rounds = max(1, SWEEP_BYTES // (blocks * block))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run(rounds, blocks, data.ctypes.data, sums.ctypes.data)
        best = min(best, time.perf_counter() - start)
    return rounds * blocks * block / best


def _sweep(lanes: int) -> str:
    """LLVM IR of `sweep(rounds, blocks, data, sums)`: adds up the vectors of all blocks, `SWEPT` of them side by side."""
    vector = f"<{lanes} x i32>"
    numbers = range(SWEPT)
    return "\n".join([
        "define void @sweep(i64 %rounds, i64 %blocks, ptr %data, ptr %sums) {", "entry:", "  br label %round", "round:",
        "  %r = phi i64 [ 0, %entry ], [ %rn, %rounded ]",
        *(f"  %s{k} = phi {vector} [ zeroinitializer, %entry ], [ %d{k}, %rounded ]" for k in numbers), "  br label %loop", "loop:",
        "  %i = phi i64 [ 0, %round ], [ %next, %loop ]", *(f"  %c{k} = phi {vector} [ %s{k}, %round ], [ %d{k}, %loop ]" for k in numbers),
        f"  %at = mul i64 %i, {SWEPT}", f"  %block = getelementptr {vector}, ptr %data, i64 %at",
        *(f"  %p{k} = getelementptr {vector}, ptr %block, i64 {k}\n  %v{k} = load {vector}, ptr %p{k}, align 4\n  %d{k} = add {vector} %c{k}, %v{k}" for k in numbers),
        "  %next = add i64 %i, 1", "  %more = icmp slt i64 %next, %blocks", "  br i1 %more, label %loop, label %rounded", "rounded:",
        "  %rn = add i64 %r, 1", "  %again = icmp slt i64 %rn, %rounds", "  br i1 %again, label %round, label %done", "done:",
        *(f"  %q{k} = getelementptr {vector}, ptr %sums, i64 {k}\n  store {vector} %d{k}, ptr %q{k}, align 4" for k in numbers), "  ret void", "}"])


def _compiled(text: str) -> llvm.ExecutionEngine:
    """LLVM IR as machine code of this machine."""
    prepare()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    return engine
