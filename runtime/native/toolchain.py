"""C compilers for native libraries: the system's for this machine, else the one of the PyPI package `ziglang`, which has libc headers for every target."""
from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import TargetError
from ...ir.target import Target

# LLVM's spelling of a platform -> zig's, which has no headers for Android's libc: those of musl declare what libraries use of it alike on 64-bit machines, where both
# pass the kernel's own structures and constants on.
_ZIG = {"linux-android": "linux-musl", "linux-gnu": "linux-gnu", "linux-gnueabihf": "linux-gnueabihf", "windows-gnu": "windows-gnu",
        "macosx": "macos", "darwin": "macos", "wasi": "wasi"}
_ARCH = {"armv7": "arm", "armv7a": "arm", "arm64": "aarch64"}


@dataclass(frozen=True)
class CCompiler:
    """How to call a C compiler and an archiver for one target.

    Args:
        command, archiver: with the options that choose the target.
        name: for messages.
    """

    command: tuple[str, ...]
    archiver: tuple[str, ...]
    name: str

    def compile(self, source: Path, output: Path, options: Sequence[str], folder: Path) -> None:
        _run([*self.command, "-c", str(source), "-o", str(output), *options], folder, self.name)

    def link(self, objects: Sequence[Path], output: Path, options: Sequence[str], folder: Path) -> None:
        arguments = folder / "objects.txt"  # long command lines do not exist everywhere
        arguments.write_text("\n".join(f'"{p.as_posix()}"' for p in objects))
        _run([*self.command, f"@{arguments}", "-o", str(output), *options], folder, self.name)

    def archive(self, objects: Sequence[Path], output: Path, folder: Path) -> None:
        output.unlink(missing_ok=True)
        _run([*self.archiver, "rcsD", str(output), *map(str, objects)], folder, self.name)


def _run(command: Sequence[str], folder: Path, name: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TargetError(f"{name} failed with status {done.returncode}: {done.stderr.strip()[-2000:]}")


def platform(target: Target) -> str:
    """The target's system, for which native libraries can be made.

    Raises:
        TargetError: they cannot.
    """
    if target.system == "unknown":
        raise TargetError(f"native libraries are not made for {target.triple}; known systems: Linux, Android, Windows, macOS, WebAssembly")
    return target.system


def find_compiler(target: Target, host: Target) -> CCompiler:
    """The C compiler for a target.

    Raises:
        TargetError: there is none; says what to install.
    """
    if target.arch == host.arch and platform(target) == platform(host):
        for name in ("cc", "gcc", "clang"):
            path = shutil.which(name)
            if path is not None and shutil.which("ar") is not None:
                return CCompiler((path,), (str(shutil.which("ar")),), name)
    if importlib.util.find_spec("ziglang") is None:
        raise TargetError(f"a native library for {target.triple} needs a C compiler: pip install 'sardonyx[aot]' brings one for every target")
    zig = (sys.executable, "-m", "ziglang")
    return CCompiler((*zig, "cc", "-target", zig_triple(target), *_cpu(target)), (*zig, "ar"), "zig cc")


def zig_triple(target: Target) -> str:
    """Zig's name of a target's platform.

    Raises:
        TargetError: zig has no libc for it.
    """
    arch = _ARCH.get(target.arch, target.arch)
    for ours, theirs in _ZIG.items():
        if ours in target.triple and not (ours == "linux-gnu" and "eabi" in target.triple):
            return f"{arch}-{theirs}"
    raise TargetError(f"the C compiler of package ziglang has no libc for {target.triple}")


def _cpu(target: Target) -> tuple[str, ...]:
    return ("-mcpu=baseline+simd128",) if target.arch == "wasm32" else ()
