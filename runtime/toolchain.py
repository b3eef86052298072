"""What compiled results depend on besides model and target: versions, and this package's own sources."""
from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache import Cache

_PACKAGE = Path(__file__).parent.parent


EVERYTHING = ("ir", "ir/ops", "compiler", "codegen", "runtime")
CODE_ONLY = ("codegen",)  # what turns a kernel's text into an object


def version(package: str) -> str:
    """An installed package's version without importing it: read off the name of its metadata's folder; `importlib.metadata` loads much of the standard library."""
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:
        found = [n for n in os.listdir(Path(spec.origin).parent.parent) if n.startswith(f"{package}-") and n.endswith(".dist-info")]
        if len(found) == 1:
            return found[0][len(package) + 1:-len(".dist-info")]
    from importlib import metadata

    return metadata.version(package)


_keys: dict[tuple[str, ...], str] = {}


def toolchain_key(folders: tuple[str, ...] = EVERYTHING, cache: Cache | None = None) -> str:
    """Key of the versions and of this package's sources in `folders`; imports none of them.

    Args:
        cache: remembers the sources' digest for as long as no file's name, size, times or place on disk change; reading them takes longer than all else in
            starting a small model.
    """
    if folders not in _keys:
        _keys[folders] = f"numba {version('numba')}, llvmlite {version('llvmlite')}, numpy {version('numpy')}, sources {_known_digest(folders, cache)}"
    return _keys[folders]


def _known_digest(folders: tuple[str, ...], cache: Cache | None) -> str:
    if cache is None:
        return _digest(folders)
    entries = sorted((f"{folder}/{e.name}", s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev)
                     for folder in folders for e in os.scandir(_PACKAGE / folder) if e.name.endswith(".py") for s in [e.stat()])
    key = hashlib.sha256(repr(entries).encode()).hexdigest()
    known = cache.load_object(key)
    if known is None:
        known = _digest(folders).encode()
        cache.save_object(key, known)
    return known.decode()


def _digest(folders: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]
