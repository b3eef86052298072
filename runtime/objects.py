"""Loading relocatable objects into this process."""
from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ir.errors import TargetError
from ..ir.target import Target
from . import elf_objects
from .arrays import aligned_empty

if TYPE_CHECKING:
    from ..ir.kernel import KernelSource
    from .llvm_objects import EngineCode


class LoadedObjects:
    """Machine code in memory; addresses are valid as long as this lives.

    Args:
        images: object files for this machine; each may refer to libc and libm.
        symbols: the functions wanted.

    Raises:
        TargetError: an image is not an object of this machine, or a symbol is in none of them.
    """

    def __init__(self, images: Iterable[bytes], symbols: Sequence[str]) -> None:
        images = list(images)
        self._code: elf_objects.PlacedCode | EngineCode = _placed(images) or _in_engine(images, symbols)
        self._addresses = {s: self._code.symbols.get(s, 0) for s in symbols}
        absent = [s for s, address in self._addresses.items() if not address]
        if absent:
            raise TargetError(f"no object defines {', '.join(absent)}")

    def address(self, symbol: str) -> int:
        """Where a function starts."""
        return self._addresses[symbol]


def _placed(images: Sequence[bytes]) -> elf_objects.PlacedCode | None:
    """Objects loaded without LLVM, where they hold nothing that needs it."""
    try:
        return elf_objects.PlacedCode(images) if elf_objects.is_served() else None
    except elf_objects.Unfit:
        return None


def _in_engine(images: Sequence[bytes], symbols: Sequence[str]) -> EngineCode:
    from .llvm_objects import EngineCode

    return EngineCode(images, symbols)


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
