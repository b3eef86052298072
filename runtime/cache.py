"""The disk cache: compiled kernels and compiled models by content, shared by processes, private to the user, bounded.

    FOLDER/kernels/ab/<key>.sdo    one object each, and what was measured of products
    FOLDER/models/<key>.sdx        plan, objects and packed weights of one model

Entries are written to a temporary file and renamed, so a reader or a killed writer never leaves half an entry; each carries checksums, and one that does not
match is dropped and made again. A folder that somebody else could write to is not used.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from . import knobs
from .container import Container, ContainerError, write

TRIM_SECONDS = 300  # how often the folder is looked through for entries to drop
STALE_SECONDS = 3600  # temporary files older than this were left by killed processes


class CacheWarning(UserWarning):
    """The disk cache cannot be used; everything works, but is compiled again each time."""


class Entry(NamedTuple):
    """A file of the cache: path, bytes, time of last use (seconds since the epoch)."""

    path: Path
    size_bytes: int
    used: float


class Cache:
    """A folder of compiled things.

    Args:
        folder: made if it is missing; None for no cache.
        limit_bytes: the least recently used entries go when the sum is above it.
    """

    def __init__(self, folder: Path | None, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.reason = "" if folder is not None else "the cache is switched off"
        if folder is not None:
            self.reason = self._prepare(folder)
            if self.reason:
                warnings.warn(f"the disk cache is not used: {self.reason}; models are compiled at every start "
                              f"(set {knobs.CACHE_DIR.name} to another folder, or to 'off')", CacheWarning, stacklevel=3)
                self.folder = None

    @staticmethod
    def _prepare(folder: Path) -> str:
        """Make the folder; returns why it cannot be used, or an empty string."""
        try:
            for sub in ("kernels", "models"):
                (folder / sub).mkdir(mode=0o700, parents=True, exist_ok=True)
            info = folder.stat()
        except OSError as e:
            return f"{folder} cannot be made: {e.strerror or e}"
        if hasattr(os, "getuid") and (info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            return f"{folder} can be written by other users"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder} cannot be written"
        return ""

    # ---- kernels
    def load_object(self, key: str) -> bytes | None:
        """The object code stored under a key (hex), or None."""
        path = self._kernel_path(key)
        if path is None:
            return None
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if len(data) < 32 or hashlib.sha256(data[32:]).digest() != data[:32]:
            self._drop(path)
            return None
        return data[32:]

    def save_object(self, key: str, data: bytes) -> None:
        path = self._kernel_path(key)
        if path is None:
            return
        with self._reporting():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
            try:
                temporary.write_bytes(hashlib.sha256(data).digest() + data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _kernel_path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / "kernels" / key[:2] / f"{key}.sdo"

    # ---- models
    def model_path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / "models" / f"{key}.sdx"

    def load_model(self, key: str, meanwhile: Callable[[], object] | None = None) -> Container | None:
        """The compiled model stored under a key, verified, or None; `meanwhile` is done while large ones are verified."""
        path = self.model_path(key)
        if path is None or not path.exists():
            return None
        try:
            found = Container(path, meanwhile=meanwhile)
        except (ContainerError, ValueError, KeyError):
            self._drop(path)
            return None
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def save_model(self, key: str, content: object, sections: dict[str, bytes | memoryview]) -> bool:
        """Store a compiled model; False where the cache cannot take it."""
        path = self.model_path(key)
        size = sum(memoryview(s).nbytes for s in sections.values())
        if path is None or size > self.limit_bytes // 2:
            return False
        if size > self.limit_bytes // 16 or self._trim_is_due():
            self.trim(size)
        with self._reporting():
            write(path, content, sections, durable=False)
            return True
        return False

    # ---- upkeep
    def entries(self) -> Iterator[Entry]:
        """Everything stored, temporary files of running writers excepted."""
        if self.folder is None:
            return
        for root, _, names in os.walk(self.folder):
            for name in names:
                path = Path(root) / name
                with contextlib.suppress(FileNotFoundError):
                    info = path.stat()
                    if name.endswith(".part"):
                        if time.time() - info.st_mtime > STALE_SECONDS:
                            self._drop(path)
                        continue
                    if name.endswith((".sdo", ".sdx")):
                        yield Entry(path, info.st_size, info.st_mtime)

    def trim(self, incoming_bytes: int = 0) -> int:
        """Delete the least recently used entries until the limit holds; returns bytes freed."""
        found = sorted(self.entries(), key=lambda e: e.used)
        excess = sum(e.size_bytes for e in found) + incoming_bytes - self.limit_bytes
        freed = 0
        for e in found:
            if freed >= excess:
                break
            self._drop(e.path)
            freed += e.size_bytes
        return freed

    def _trim_is_due(self) -> bool:
        """Whether nobody looked through the whole folder lately; looking is slow where there are many entries."""
        assert self.folder is not None
        mark = self.folder / "trimmed"
        with contextlib.suppress(OSError):
            if time.time() - mark.stat().st_mtime < TRIM_SECONDS:
                return False
        with contextlib.suppress(OSError):
            mark.touch()
        return True

    def clear(self) -> int:
        """Delete every entry; returns bytes freed."""
        freed = 0
        for e in list(self.entries()):
            self._drop(e.path)
            freed += e.size_bytes
        return freed

    @staticmethod
    def _drop(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """A failing write is said once and then the cache is left alone."""
        try:
            yield
        except OSError as e:
            self.reason = f"{self.folder} cannot be written: {e.strerror or e}"
            warnings.warn(f"the disk cache is not used: {self.reason}; results are not affected, but the next start compiles again", CacheWarning, stacklevel=4)
            self.folder = None


_shared: tuple[tuple[str, str], Cache] | None = None


def default_cache() -> Cache:
    """The cache that the environment asks for; one object a process while the settings stay."""
    global _shared
    settings = (knobs.CACHE_DIR.read(), knobs.CACHE_MEGABYTES.read())
    if _shared is None or _shared[0] != settings:
        text = settings[0]
        folder = None if text.strip().lower() == "off" else Path(text) if text else knobs.user_cache_folder() / "sardonyx"
        _shared = settings, Cache(folder, knobs.CACHE_MEGABYTES.read_int() << 20)
    return _shared[1]
