"""Loading relocatable objects into this process with llvmlite alone."""
from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import llvmlite.binding as llvm
import numpy as np

from ..ir.errors import TargetError
from ..ir.target import Target
from .arrays import aligned_empty

if TYPE_CHECKING:
    from ..ir.kernel import KernelSource

_LOCK = threading.Lock()
_ready = False


def _prepare() -> None:
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


class LoadedObjects:
    """Machine code in memory; addresses are valid as long as this lives.

    Args:
        images: object files for this machine; each may refer to libc and libm.
        symbols: the functions wanted.

    Raises:
        TargetError: an image is not an object of this machine, or a symbol is in none of them.
    """

    def __init__(self, images: Iterable[bytes], symbols: Sequence[str]) -> None:
        with _LOCK:
            _prepare()
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
            self._addresses = {s: self._engine.get_function_address(s) for s in symbols}
        absent = [s for s, address in self._addresses.items() if not address]
        if absent:
            raise TargetError(f"no object defines {', '.join(absent)}")

    def address(self, symbol: str) -> int:
        """Where a function starts."""
        return self._addresses[symbol]


KERNEL_PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


def call_kernel(address: int, arrays: Sequence[np.ndarray], parameters: Sequence[int], lo: int, hi: int, scratch_bytes: int = 0) -> None:
    """Run units lo <= u < hi of a loaded kernel on arrays in memory order (C-contiguous, in their storage type or one of its width)."""
    for k, a in enumerate(arrays):
        if not a.flags.c_contiguous:
            raise ValueError(f"array {k} is not contiguous")
    pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
    numbers = (ctypes.c_int64 * max(1, len(parameters)))(*parameters)
    scratch = aligned_empty(scratch_bytes + 64)
    KERNEL_PROTOTYPE(address)(ctypes.addressof(pointers), ctypes.addressof(numbers), lo, hi, scratch.ctypes.data)


def run_kernel(kernel: KernelSource, arrays: Sequence[np.ndarray], parameters: Sequence[int] = (), units: int = 1, scratch_bytes: int = 0,
               target: Target | None = None) -> None:
    """Compile, load and run a kernel once: for tests and experiments.

    Args:
        arrays: one per buffer, contiguous, written in place.
        target: this machine by default; it must be able to run here.
    """
    call_kernel(load_kernel(kernel, target).address(kernel.symbol), arrays, parameters, 0, units, scratch_bytes)


_LOADED: dict[tuple[str, str], LoadedObjects] = {}


def load_kernel(kernel: KernelSource, target: Target | None = None) -> LoadedObjects:
    """The loaded kernel; kept for the life of the process."""
    from ..codegen.numba_backend import compile_kernel
    from .host import host_target

    target = target or host_target()
    key = (kernel.key, target.key)
    if key not in _LOADED:
        _LOADED[key] = LoadedObjects([compile_kernel(kernel, target)], [kernel.symbol])
    return _LOADED[key]
