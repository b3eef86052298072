"""OpenMP found in this process or among installed libraries, and how many threads to use."""
from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..ir.errors import TargetError
from . import knobs
from .host import usable_cores

# Names under which loaders know the GNU, LLVM and Intel runtimes; all three export GNU's entry points.
NAMES = ("libgomp.so.1", "libomp.so.5", "libomp.so", "libiomp5.so", "libomp.dylib", "libiomp5.dylib", "libiomp5md.dll")
_SYMBOLS = ("GOMP_parallel", "omp_get_thread_num")
_LOCK = threading.Lock()


class OpenMP(NamedTuple):
    """Addresses of an OpenMP runtime's entry points.

    Args:
        name: the library they come from.
        parallel: `void GOMP_parallel(void (*)(void *), void *, unsigned threads, unsigned flags)`.
        thread_number: `int omp_get_thread_num(void)`.
        yield_: libc's `int sched_yield(void)`; 0 where there is none.
    """

    name: str
    parallel: int
    thread_number: int
    yield_: int


def find_openmp() -> OpenMP | None:
    """The OpenMP runtime to use: what the knob names, else one that this process has loaded, else the system's, else a copy that an installed package brings.

    Returns:
        None if there is none (which is said once), or if the knob says `off`.

    Raises:
        TargetError: the library that the knob names cannot be loaded, or is no OpenMP runtime with GNU's entry points.
    """
    with _LOCK:
        return _find_openmp()


@lru_cache(maxsize=1)
def _find_openmp() -> OpenMP | None:
    wanted = knobs.OPENMP.read().strip()
    if wanted.lower() == "off":
        return None
    if wanted:
        named = _open(wanted)
        if named is None:
            raise TargetError(f"{knobs.OPENMP.name} names '{wanted}', which is no loadable library with {', '.join(_SYMBOLS)}")
        return named
    for name in _candidates():
        found = _open(name)
        if found is not None:
            return found
    warnings.warn("no OpenMP runtime was found (libgomp, libomp, libiomp5): models run on one thread. Install one, for example with the system's package libgomp1",
                  RuntimeWarning, stacklevel=4)
    return None


def _candidates() -> Iterator[str | None]:
    yield None  # the process itself
    yield from _loaded_libraries()
    yield from NAMES
    import ctypes.util

    for stem in ("gomp", "omp", "iomp5"):
        found = ctypes.util.find_library(stem)
        if found is not None:
            yield found
    yield from _installed_copies()


def _loaded_libraries() -> list[str]:
    """OpenMP runtimes that other modules of this process have loaded: a second one would bring a second set of threads."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split()[-1] for line in lines if "/" in line)
    return [p for p in paths if Path(p).name.startswith(("libgomp", "libomp", "libiomp5"))]


def _installed_copies() -> Iterator[str]:
    for root in dict.fromkeys(p for p in sys.path if p.endswith("-packages")):
        for pattern in ("*.libs/lib*omp*.so*", "*/lib/lib*omp*.so*", "*/.dylibs/lib*omp*.dylib"):
            yield from (str(p) for p in sorted(Path(root).glob(pattern)))


def _open(name: str | None) -> OpenMP | None:
    try:
        library = ctypes.CDLL(name)
        parallel, thread_number = (_address(library, s) for s in _SYMBOLS)
    except (OSError, AttributeError, TypeError):
        return None
    return OpenMP(name or "this process", parallel, thread_number, _sched_yield())


def _address(library: ctypes.CDLL, symbol: str) -> int:
    return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0


def _sched_yield() -> int:
    try:
        return _address(ctypes.CDLL(None), "sched_yield")
    except (OSError, AttributeError, TypeError):
        return 0


def default_threads() -> int:
    """Threads to use when the user names no number: physical cores that the process may use, within its quota; 1 without OpenMP."""
    return min(usable_cores(), physical_cores()) if find_openmp() is not None else 1


def physical_cores(root: Path = Path("/sys/devices/system/cpu")) -> int:
    """Distinct cores among the processors of the affinity mask; hardware threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    cores = set()
    for cpu in allowed:
        try:
            cores.add((root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            return len(allowed)
    return max(1, len(cores))
