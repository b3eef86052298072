"""What compiled results depend on besides model and target: versions, and this package's own sources."""
from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


EVERYTHING = ("ir", "ir/ops", "compiler", "codegen", "runtime")
CODE_ONLY = ("codegen",)  # what turns a kernel's text into an object


@lru_cache(maxsize=4)
def toolchain_key(folders: tuple[str, ...] = EVERYTHING) -> str:
    """Key of the versions and of this package's sources in `folders`; imports none of them."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return f"numba {version('numba')}, llvmlite {version('llvmlite')}, numpy {version('numpy')}, sources {digest.hexdigest()[:24]}"
