"""Targets: frozen facts about a machine. Always passed, never global; parsed from strings such as `x86-64-v4` or `aarch64-linux-gnu:cortex-a76`."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import TargetError


@dataclass(frozen=True)
class Target:
    """A machine that kernels are compiled for.

    Args:
        triple: LLVM target triple.
        cpu: LLVM processor name.
        features: LLVM feature string (`+avx2,+fma`), empty for what `cpu` implies.
        isa: instruction-set family the schedules choose by: `avx512`, `avx2`, `sse2`, `neon`, `rvv`, `simd128`, `scalar`.
        vector_bytes: width of one vector register.
        vector_registers: number of vector registers.
        l1_bytes, l2_bytes, l3_bytes: data cache of one core, its second level, and the shared last level.
        cores: cores that one process may use.
        measured: which alternative was fastest here, by `KIND PRODUCT` (see `KernelCall.product`), or by `KIND` for all that are not named.
    """

    triple: str
    cpu: str
    features: str
    isa: str
    vector_bytes: int
    vector_registers: int
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20
    l3_bytes: int = 16 << 20
    cores: int = 1
    measured: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def arch(self) -> str:
        return self.triple.split("-")[0]

    @property
    def system(self) -> str:
        """`linux`, `android`, `windows`, `macos`, `wasm`, or `unknown`."""
        return system_of(self.triple)

    @property
    def key(self) -> str:
        """What object code depends on: everything but sizes of caches and number of cores."""
        return f"{self.triple}|{self.cpu}|{self.features}"

    def choice(self, kind: str, product: str) -> int:
        """Which of a schedule's alternatives measurements found best; 0, the cost model's own, where nothing was measured."""
        return self.measured.get(f"{kind} {product}", self.measured.get(kind, 0))

    def lanes(self, itemsize_bytes: int) -> int:
        """Elements of `itemsize_bytes` in one vector register."""
        return max(1, self.vector_bytes // itemsize_bytes)


_SYSTEMS = (("wasm", "wasm"), ("windows", "windows"), ("macos", "macos"), ("darwin", "macos"), ("android", "android"), ("linux", "linux"))


def system_of(triple: str) -> str:
    """The operating system that an LLVM triple names: `linux`, `android`, `windows`, `macos`, `wasm`, or `unknown`."""
    return next((name for key, name in _SYSTEMS if key in triple), "unknown")


_LINUX = "unknown-linux-gnu"
NAMED: dict[str, Target] = {
    "x86-64-v2": Target(f"x86_64-{_LINUX}", "x86-64-v2", "", "sse2", 16, 16),
    "x86-64-v3": Target(f"x86_64-{_LINUX}", "x86-64-v3", "", "avx2", 32, 16),
    "x86-64-v4": Target(f"x86_64-{_LINUX}", "x86-64-v4", "-prefer-256-bit", "avx512", 64, 32),
    "aarch64": Target(f"aarch64-{_LINUX}", "generic", "+neon,+fp-armv8", "neon", 16, 32),
    "armv7": Target("armv7-unknown-linux-gnueabihf", "generic", "+neon,+vfp4,+fp16", "neon", 16, 16),
    "riscv64": Target(f"riscv64-{_LINUX}", "generic-rv64", "+m,+a,+f,+d,+c,+v", "rvv", 16, 32),
    "windows-x86-64": Target("x86_64-pc-windows-gnu", "x86-64-v3", "", "avx2", 32, 16),
    "macos-arm64": Target("arm64-apple-macosx11.0.0", "apple-m1", "", "neon", 16, 32),
    "android-aarch64": Target("aarch64-unknown-linux-android21", "generic", "+neon,+fp-armv8", "neon", 16, 32),
    "android-x86-64": Target("x86_64-unknown-linux-android21", "x86-64-v2", "", "sse2", 16, 16),
    "wasm32": Target("wasm32-unknown-wasi", "generic", "+simd128", "simd128", 16, 16),
}
ABOUT = {
    "host": "this machine",
    "x86-64-v2": "Linux on any 64-bit Intel or AMD processor since 2009 (SSE4.2)",
    "x86-64-v3": "Linux on those since 2013 (AVX2)",
    "x86-64-v4": "Linux on those with AVX-512",
    "aarch64": "Linux on 64-bit ARM",
    "armv7": "Linux on 32-bit ARM with NEON (hard float)",
    "riscv64": "Linux on 64-bit RISC-V with vectors",
    "windows-x86-64": "Windows on 64-bit processors with AVX2",
    "macos-arm64": "macOS on Apple silicon",
    "android-aarch64": "Android 5 and later on 64-bit ARM",
    "android-x86-64": "Android 5 and later on 64-bit Intel and AMD processors (emulators, Chromebooks)",
    "wasm32": "WebAssembly with SIMD, for browsers and Node.js",
}


def parse(text: str, host: Target | None = None) -> Target:
    """The target a user names.

    Args:
        text: `host`, one of the names above, or `TRIPLE:CPU`.
        host: what `host` stands for; probing is the runtime's business.

    Raises:
        TargetError: unknown name, or `host` where no host was probed.
    """
    if text == "host":
        if host is None:
            raise TargetError("target 'host' is only known where the machine was probed; name a target such as x86-64-v3")
        return host
    if text in NAMED:
        return NAMED[text]
    triple, _, cpu = text.partition(":")
    arch = triple.split("-")[0]
    if cpu and arch in ("aarch64", "arm64"):
        return Target(triple, cpu, "+neon", "neon", 16, 32)
    if cpu and arch == "x86_64":
        return Target(triple, cpu, "", "sse2", 16, 16)
    raise TargetError(f"unknown target {text!r}; known: host, {', '.join(NAMED)}, or TRIPLE:CPU such as aarch64-linux-gnu:cortex-a76")
