"""What compiled results depend on besides model and target: versions, and this package's own sources."""
from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


EVERYTHING = ("ir", "ir/ops", "compiler", "codegen", "runtime")
CODE_ONLY = ("codegen",)  # what turns a kernel's text into an object


def version(package: str) -> str:
    """An installed package's version without importing it: read off the name of its metadata's folder; `importlib.metadata` loads much of the standard library."""
    spec = find_spec(package)
    if spec is not None and spec.origin is not None:
        found = [p.name for p in Path(spec.origin).parent.parent.glob(f"{package}-*.dist-info")]
        if len(found) == 1:
            return found[0][len(package) + 1:-len(".dist-info")]
    from importlib import metadata

    return metadata.version(package)


@lru_cache(maxsize=4)
def toolchain_key(folders: tuple[str, ...] = EVERYTHING) -> str:
    """Key of the versions and of this package's sources in `folders`; imports none of them."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((_PACKAGE / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return f"numba {version('numba')}, llvmlite {version('llvmlite')}, numpy {version('numpy')}, sources {digest.hexdigest()[:24]}"
