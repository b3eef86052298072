"""Relocatable objects of any system loaded by LLVM, where `runtime.elf_objects` does not take them."""
from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Sequence

import llvmlite.binding as llvm

from ..ir.errors import TargetError

_LOCK = threading.Lock()
_ready = False


def prepare() -> None:
    """Initialise LLVM for this machine and make libm's symbols visible, once."""
    global _ready
    if not _ready:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        for name in ("m", "c"):
            _load_library(name)
        _ready = True


def _load_library(name: str) -> None:
    """Make a system library's symbols visible, where the system has it as a library of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(RuntimeError):  # another libc than glibc; asking `find_library` first would start a process
            llvm.load_library_permanently(f"lib{name}.so.6")
            return
    import ctypes.util

    found = ctypes.util.find_library(name)
    if found is not None:
        llvm.load_library_permanently(found)


# Machine numbers of ELF, Mach-O and COFF objects by LLVM's architecture names.
_MACHINES = {"x86_64": (62, 0x01000007, 0x8664), "aarch64": (183, 0x0100000C, 0xAA64), "arm64": (183, 0x0100000C, 0xAA64), "riscv64": (243, 0, 0x5064)}


def is_native(image: bytes) -> bool:
    """Whether an object file is for this machine's architecture."""
    elf, mach, coff = _MACHINES.get(llvm.get_process_triple().split("-")[0], (0, 0, 0))
    if image[:4] == b"\x7fELF":
        return int.from_bytes(image[18:20], sys.byteorder) == elf
    if image[:4] == b"\xcf\xfa\xed\xfe":
        return int.from_bytes(image[4:8], "little") == mach
    return int.from_bytes(image[:2], "little") == coff


class EngineCode:
    """Objects in an LLVM engine's memory, which lasts as long as this.

    Args:
        images: object files for this machine; each may refer to libc and libm.
        symbols: the functions wanted.

    Raises:
        TargetError: an image is not an object of this machine.
    """

    def __init__(self, images: Iterable[bytes], symbols: Sequence[str]) -> None:
        with _LOCK:
            prepare()
            machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="default")
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            try:
                for image in images:
                    if not is_native(image):
                        raise TargetError(f"an object was compiled for another machine than this {llvm.get_process_triple()}")
                    self._engine.add_object_file(llvm.ObjectFileRef.from_data(image))
            except (RuntimeError, ValueError) as e:
                raise TargetError(f"an object cannot be loaded on this machine: {e}") from e
            self._engine.finalize_object()
            self.symbols = {s: self._engine.get_function_address(s) for s in symbols}
