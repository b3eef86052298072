"""Writing a compiled model as a native library with a C interface and, beside it, its header."""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import SardonyxError, TargetError
from ...ir.plan import Plan
from ...ir.target import Target
from ..container import whole_file
from ..frames import round_up
from ..host import has_tiles
from ..model import CompiledModel
from . import android, macho
from .tables import ALIGNMENT, HERE, Sources, c_name, sources
from .toolchain import CCompiler, find_compiler, platform

SUFFIXES = (".so", ".dll", ".dylib", ".a", ".wasm")
MOST_INSIDE = 1 << 30  # bytes of weights that code reaches inside a library


@dataclass(frozen=True)
class Library:
    """What was written.

    Args:
        path, header: the library and its C header.
        weights: the file of weights beside it, None if they are inside.
        imports: the library that programs for Windows are linked with instead, None for other systems.
        compiler: the C compiler that was used.
    """

    path: Path
    header: Path
    weights: Path | None
    imports: Path | None
    compiler: str


def is_library(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is that of a native library."""
    return Path(path).suffix in SUFFIXES


def workspace_bytes(plan: Plan, numbers: Sequence[int], threads: int) -> int:
    """What `NAME_workspace_bytes` of a library gives for the shapes behind a plan's numbers."""
    first = numbers[plan.segments[0]] if plan.segments else 0
    return threads * (round_up(numbers[plan.scratch]) + ALIGNMENT) + round_up(first) + ALIGNMENT


def write_library(model: CompiledModel, path: str | os.PathLike[str], target: Target, host: Target, weights_beside: bool = False, bare: bool = False) -> Library:
    """Write a library, its header, and its weights if they lie beside it.

    Args:
        model: compiled for `target`.
        path: `libNAME.so`, `NAME.dll`, `libNAME.dylib`, `libNAME.a` or `NAME.wasm`; the functions in it start with NAME.
        host: this machine, whose own compiler makes libraries for it.
        weights_beside: put weights into NAME.weights, which is mapped when the library is opened.
        bare: a library without allocation, threads and files.

    Raises:
        UnsupportedError: the model needs Python while it runs; names the node.
        TargetError: no compiler for the target, the kind of file is not the target's, or it has tile registers that a library cannot ask for.
        OSError: no space or permission; files that were there before stay as they were.
    """
    path = Path(path)
    system = platform(target)
    if has_tiles(target) and system != "linux":
        raise TargetError(f"how to ask for the tile registers of AMX is known on Linux alone, not on {system}; compile for a target without them")
    _check_suffix(path, system)
    name = c_name(path.stem.removeprefix("lib"))
    beside = path.with_name(f"{name}.weights") if weights_beside else None
    compiler = find_compiler(target, host)
    made = sources(model, name, target, beside.name if beside is not None else None, threads=system != "wasm" and not bare, bare=bare)
    if beside is None and len(made.weights) > MOST_INSIDE:
        raise SardonyxError(f"{len(made.weights) / 2**30:.1f} GB of weights do not fit inside a library; put them beside it (--weights beside)")
    with tempfile.TemporaryDirectory(prefix="sardonyx-") as folder:
        built = _build(model, made, name, path, system, compiler, Path(folder), bare)
        header = path.with_name(f"{name}.h")
        if beside is not None:
            _place(beside, made.weights)
        _place(header, made.header.encode())
        imports = path.with_suffix(".lib") if path.suffix == ".dll" else None
        if imports is not None:
            _place(imports, built.with_suffix(".lib").read_bytes())
        _place(path, built.read_bytes())
    return Library(path, header, beside, imports, compiler.name)


def _check_suffix(path: Path, system: str) -> None:
    allowed = {"linux": (".so", ".a"), "android": (".so", ".a"), "windows": (".dll", ".a"), "macos": (".dylib", ".a"), "wasm": (".wasm",)}[system]
    if path.suffix not in allowed:
        raise TargetError(f"{path}: libraries for {system} end in {' or '.join(allowed)}")


def _build(model: CompiledModel, made: Sources, name: str, path: Path, system: str, compiler: CCompiler, folder: Path, bare: bool) -> Path:
    (folder / f"{name}.h").write_text(made.header)
    (folder / "tables.h").write_text(made.tables)
    (folder / "weights.bin").write_bytes(made.weights)
    shutil.copy(HERE / "library.c", folder / "library.c")
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", f"-I{folder}", "-g0", f"-ffile-prefix-map={folder}=."]
    options += [] if system in ("windows", "wasm") else ["-fPIC"]
    options += ["-Wno-c23-extensions"] if system == "wasm" else []
    options += ["-DSARDONYX_BARE"] if bare else []
    objects = [folder / f"{name}.o"]
    compiler.compile(folder / "library.c", objects[0], options, folder)
    for symbol in made.symbols:
        objects.append(folder / f"{symbol}.o")
        objects[-1].write_bytes(macho.hidden(model.objects[symbol]) if system == "macos" else model.objects[symbol])
    out = folder / "out" / path.name  # a Windows library holds the name it is written under
    out.parent.mkdir()
    if path.suffix == ".a":
        compiler.archive(objects, out, folder)
    else:
        options = _link_options(made, out, system, folder)
        compiler.link(objects, out, options + (android.link_options(compiler, folder) if system == "android" else []), folder)
    return out


def _link_options(made: Sources, out: Path, system: str, folder: Path) -> list[str]:
    """Options that make a shared library whose bytes depend on its inputs alone and which shows its interface alone."""
    if system in ("linux", "android"):
        (folder / "exports.map").write_text("{ global: " + "; ".join(made.exports) + "; local: *; };\n")
        return ["-shared", f"-Wl,-soname,{out.name}", f"-Wl,--version-script={folder / 'exports.map'}", "-Wl,--build-id=none", "-Wl,-s", "-Wl,--gc-sections",
                "-Wl,-z,noexecstack", *(["-lm", "-ldl"] if system == "linux" else [])]
    if system == "macos":
        return ["-shared", f"-Wl,-install_name,@rpath/{out.name}", "-Wl,-dead_strip", "-s"]
    if system == "windows":
        return ["-shared", "-s", "-Wl,/Brepro", f"-Wl,--out-implib,{out.with_suffix('.lib')}"]  # Brepro: a digest where the time would stand
    return ["-mexec-model=reactor", "-s", *(f"-Wl,--export={e}" for e in [*made.exports, "malloc", "free"])]


def _place(path: Path, data: bytes) -> None:
    with whole_file(path, 0o644) as f:
        f.write(data)
