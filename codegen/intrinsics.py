"""Names that kernel texts use beyond Python's own: builders by name, and the accessors of buffers.

A kernel's `constants` hold (name, builder, arguments); `resolve` gives the object that stands for `name` while the text is compiled: a Numba intrinsic or a
function marked with `device`. A builder registers itself at its definition:

    @builder("gemm_tile")
    def gemm_tile(target, rows, vectors): ...

`PROVIDERS` lists the modules of builders; each is imported when a name is first missing.
"""
from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from ..ir.target import Target

Builder = Callable[..., object]
B = TypeVar("B", bound=Builder)

PROVIDERS = ("accessors", "machine", "size_program", "mathlib", "tiles", "line_tiles", "dot_tiles", "matrix_tiles", "code_tiles", "accumulate", "softmax_row",
             "panels")
_BUILDERS: dict[str, Builder] = {}
_LOCK = threading.RLock()
_imported = 0


def builder(name: str) -> Callable[[B], B]:
    """Register `function(target, *arguments)`; arguments are those of the kernel's constant, so they must be hashable."""
    def register(function: B) -> B:
        assert name not in _BUILDERS, f"builder {name!r} is defined twice"
        _BUILDERS[name] = function
        return function
    return register


def find(name: str) -> Builder:
    """The builder of a name.

    Raises:
        KeyError: no module of `PROVIDERS` defines it.
    """
    global _imported
    with _LOCK:
        while name not in _BUILDERS and _imported < len(PROVIDERS):
            module = f"{__package__}.{PROVIDERS[_imported]}"
            _imported += 1
            if importlib.util.find_spec(module) is not None:
                importlib.import_module(module)
    if name not in _BUILDERS:
        raise KeyError(f"no builder {name!r}; known: {', '.join(sorted(_BUILDERS))}")
    return _BUILDERS[name]


@lru_cache(maxsize=4096)
def resolve(name: str, arguments: tuple, target: Target) -> object:
    """The object that a kernel's constant stands for; equal constants give the same object."""
    return find(name)(target, *arguments)
