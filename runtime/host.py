"""Facts about this machine, gathered once."""
from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from functools import lru_cache
from pathlib import Path

from ..ir.target import Target

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_SUFFIX = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
AVX2 = ("avx2", "fma", "f16c")
TILES = ("amx-tile", "amx-int8", "amx-bf16", "amx-fp16", "amx-complex")  # what needs the system's leave
CPUINFO_BYTES = 1 << 14  # more than one processor's description takes
CHANGING = frozenset(("processor", "hart", "cpu mhz", "bogomips", "physical id", "siblings", "core id", "cpu cores", "apicid", "initial apicid"))
ARCH_PRCTL, REQUEST_STATE, TILE_DATA = 158, 0x1023, 18  # Linux on x86-64: system call, code and component of extended processor state


@lru_cache(maxsize=1)
def host_target() -> Target:
    """The target that describes this machine: processor, its features, caches, and the cores this process may use."""
    triple, cpu, features = _processor()
    if any(f"+{f}" in features for f in TILES) and not may_use_tiles():
        features = [f"-{f[1:]}" if f[1:] in TILES else f for f in features]
    isa, vector_bytes, registers = "scalar", 8, 16
    if triple.startswith(("x86_64", "amd64")):
        isa, vector_bytes, registers = x86_family(frozenset(f[1:] for f in features if f.startswith("+")))
    elif triple.startswith(("aarch64", "arm64")):
        isa, vector_bytes, registers = "neon", 16, 32
    caches = cache_sizes()
    return Target(triple, cpu, ",".join(features), isa, vector_bytes, registers,
                  caches.get(1, 32 << 10), caches.get(2, 1 << 20), caches.get(3, 16 << 20), usable_cores())


def _processor() -> tuple[str, str, list[str]]:
    """LLVM's triple of this machine, its processor's name and instruction sets (`+name` or `-name`).

    The cache remembers them for as long as the system describes the processor in the same words: LLVM takes longer to import than all else that starts a small model.
    """
    from .cache import default_cache
    from .toolchain import version

    words = processor_words()
    if not words:
        return _processor_of_llvm()
    key = hashlib.sha256(json.dumps(["processor", version("llvmlite"), *os.uname()[:1], *os.uname()[2:], words]).encode()).hexdigest()
    cache = default_cache()
    known = cache.load_object(key)
    if known is None:
        known = json.dumps(_processor_of_llvm()).encode()
        cache.save_object(key, known)
    triple, cpu, features = json.loads(known)
    return triple, cpu, features


def _processor_of_llvm() -> tuple[str, str, list[str]]:
    import llvmlite.binding as llvm

    return llvm.get_process_triple(), llvm.get_host_cpu_name(), [f for f in llvm.get_host_cpu_features().flatten().split(",") if f]


def processor_words(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """How the system describes the first processor, without what changes from moment to moment or from core to core; empty where it does not."""
    try:
        with open(path, "rb", buffering=0) as f:
            text = f.read(CPUINFO_BYTES).decode(errors="replace")
    except OSError:
        return []
    first, blank, _ = text.partition("\n\n")
    return [line for line in first.splitlines() if line.partition(":")[0].strip().lower() not in CHANGING] if blank else []


def x86_family(has: frozenset[str]) -> tuple[str, int, int]:
    """Family, bytes and number of vector registers that schedules choose by (see `ir.target.Target`)."""
    return ("avx512", 64, 32) if has.issuperset(AVX512) else ("avx2", 32, 16) if has.issuperset(AVX2) else ("sse2", 16, 16)


def may_use_tiles() -> bool:
    """Ask the system for the tile registers of AMX, for all threads of this process; whether it gives them. Source: Linux, Documentation/arch/x86/xstate.rst."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_STATE, TILE_DATA) == 0)


def has_tiles(target: Target) -> bool:
    """Whether code for a target may use tile registers, which its process must ask the system for."""
    return any(f"+{f}" in target.features.split(",") for f in TILES)


def cache_sizes(root: Path = _CACHES) -> dict[int, int]:
    """Bytes of the data cache at each level, as far as the system tells."""
    found: dict[int, int] = {}
    for index in sorted(root.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            size = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and size[:-1].isdigit():
            found[level] = int(size[:-1]) * _SUFFIX[size[-1]] if size[-1] in _SUFFIX else int(size)
    return found


def usable_cores() -> int:
    """Cores that this process may use: its affinity mask, and the processor quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, allowed if quota is None else min(allowed, int(quota + 0.999)))


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors' worth of time that the control group grants, None without limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return limit_us / period_us if limit_us > 0 else None
