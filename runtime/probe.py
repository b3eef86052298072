"""What this machine reaches, measured once a process: the ceilings that reports compare with."""
from __future__ import annotations

import ctypes
import time
from functools import lru_cache

import numpy as np

from .host import host_target

ROUNDS = 7
CHAINS = 24  # independent accumulators: more than latency times throughput of any processor's multiply-add
STEPS = 400_000
READ_BYTES = 128 << 20


@lru_cache(maxsize=1)
def fma_flops() -> float:
    """float32 operations a second of one core doing nothing but vector multiply-adds in registers (two operations each)."""
    import llvmlite.binding as llvm

    from .objects import _prepare

    _prepare()
    lanes = host_target().lanes(4)
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_chains(lanes)), machine)
    engine.finalize_object()
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


@lru_cache(maxsize=1)
def read_bytes_per_second() -> float:
    """Bytes a second that one core reads from memory, by summing an array far larger than the caches."""
    data = np.ones(READ_BYTES // 4, np.float32)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - start)
    return READ_BYTES / best
