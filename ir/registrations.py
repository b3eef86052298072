"""Which custom operators are registered. A registration replaces the table, so whoever holds an older one is unaffected."""
from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import ClassVar, Protocol


class Registered(Protocol):
    """What this module needs to know of an operator."""

    name: ClassVar[str]
    fingerprint: ClassVar[str]


Table = Mapping[tuple[str, str], Registered]
_lock = threading.Lock()
_table: Table = {}
_used: ContextVar[Table | None] = ContextVar("registrations", default=None)


def current() -> Table:
    """The operators in force here: those of the enclosing `using`, else the latest."""
    found = _used.get()
    return _table if found is None else found


def add(key: tuple[str, str], op: Registered) -> None:
    global _table
    with _lock:
        _table = {**_table, key: op}


def remove(key: tuple[str, str]) -> None:
    global _table
    with _lock:
        _table = {k: v for k, v in _table.items() if k != key}


@contextlib.contextmanager
def using(table: Table) -> Iterator[None]:
    """Within the block, `table` is in force."""
    token = _used.set(table)
    try:
        yield
    finally:
        _used.reset(token)


def facts(model: bytes | memoryview) -> list[list[str]]:
    """What a compiled model depends on: the registered operators whose names occur in the model's bytes, with fingerprints."""
    return sorted([*key, op.fingerprint] for key, op in current().items() if re.search(re.escape(op.name.encode()), model))
