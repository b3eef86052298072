"""Every setting that comes from the environment, in one place; `sardonyx doctor` lists them."""
from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..ir.errors import SardonyxError


class Knob(NamedTuple):
    """An environment variable: its name, its default as text and what it does."""

    name: str
    default: str
    help: str

    def read(self) -> str:
        return os.environ.get(self.name, self.default)

    def read_int(self, minimum: int = 0) -> int:
        """The value as a whole number.

        Raises:
            SardonyxError: not a whole number, or below `minimum`.
        """
        text = self.read()
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise SardonyxError(f"environment variable {self.name}={text!r}: a whole number of at least {minimum} was expected")
        return value

    def read_flag(self) -> bool:
        """The value as on or off.

        Raises:
            SardonyxError: none of 0, 1, on, off, true, false.
        """
        text = self.read().strip().lower()
        if text in ("1", "on", "true", "yes"):
            return True
        if text in ("0", "off", "false", "no", ""):
            return False
        raise SardonyxError(f"environment variable {self.name}={text!r}: 0 or 1 was expected")


CACHE_DIR = Knob("SARDONYX_CACHE_DIR", "", "folder of the disk cache; empty: sardonyx inside the user's cache folder; 'off': no cache")
CACHE_MEGABYTES = Knob("SARDONYX_CACHE_MB", "4096", "size that the disk cache is kept below, in MiB")
THREADS = Knob("SARDONYX_THREADS", "0", "threads of a session that does not say; 0: one per available core")
COMPILE_PROCESSES = Knob("SARDONYX_COMPILE_PROCESSES", "0", "processes that compile kernels; 0: one per available core, 1: in this process")
TARGET = Knob("SARDONYX_TARGET", "host", "target to compile for, as --target of the command line")
PROGRESS = Knob("SARDONYX_PROGRESS", "auto", "progress bar while compiling: auto (on a terminal), on, off")
OPENMP = Knob("SARDONYX_OPENMP", "", "OpenMP library to load instead of the first one found; 'off': one thread")

ALL: tuple[Knob, ...] = (CACHE_DIR, CACHE_MEGABYTES, THREADS, COMPILE_PROCESSES, TARGET, PROGRESS, OPENMP)


def user_cache_folder() -> Path:
    """Where this system keeps a user's caches."""
    import sys

    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
