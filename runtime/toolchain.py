"""What compiled results depend on besides model and target: versions, and this package's own sources."""
from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


@lru_cache(maxsize=1)
def toolchain_key() -> str:
    """Key of everything that turns models into objects; imports none of it."""
    digest = hashlib.sha256()
    for folder in ("ir", "ir/ops", "compiler", "codegen", "runtime"):
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return f"numba {version('numba')}, llvmlite {version('llvmlite')}, numpy {version('numpy')}, sources {digest.hexdigest()[:24]}"
