"""The container of compiled models: one file, checksummed, memory-mapped, never unpickled.

Layout, little endian:

    0   8 bytes   magic "SARDONYX"
    8   u32       format version
    12  u32       reserved, 0
    16  u64       length of the manifest in bytes
    24  32 bytes  SHA-256 of the manifest
    56  manifest  UTF-8 JSON: {"sections": [[name, offset, bytes, digest], ...], "content": any JSON}
    ... sections  each at a multiple of 64 bytes; digest: `checksum` (hex)
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..ir.errors import SardonyxError

MAGIC = b"SARDONYX"
VERSION = 4
HEADER = struct.Struct("<8sIIQ32s")
ALIGNMENT = 64
CHUNK_BYTES = 4 << 20
LARGE_BYTES = 1 << 20  # sections from here on are summed
BLOCK_ROWS, BLOCK_COLUMNS = 256, 521  # of 64-bit words; a prime, so that no two pages of a block lie in the same columns
ROW_BYTES = BLOCK_COLUMNS * 8
BLOCK_BYTES = BLOCK_ROWS * ROW_BYTES
PIECE_BYTES = 8 * BLOCK_BYTES  # summed at once
MAX_MANIFEST_BYTES = 1 << 28


class ContainerError(SardonyxError):
    """A container is damaged, of another version, or not a container."""


def chunk_digest(parts: Sequence[memoryview | bytes], workers: int = 2) -> str:
    """SHA-256 (hex) over the SHA-256s of 4 MiB chunks of the parts laid end to end; parts must be multiples of a chunk, the last one excepted."""
    chunks = [memoryview(p).cast("B")[k:k + CHUNK_BYTES] for p in parts for k in range(0, len(memoryview(p).cast("B")), CHUNK_BYTES)]
    digests = _side_by_side(lambda c: hashlib.sha256(c).digest(), chunks, workers)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def checksum(section: memoryview | bytes, workers: int = 2) -> str:
    """What tells a damaged section from a whole one: SHA-256 (hex), for large sections over their sums, which are read at memory's speed.

    Sections of less than 1 MiB (code among them) are hashed as they are. Larger ones are taken as rows of 521 little-endian 64-bit words; every 256 rows, and those
    that remain, count by their sums along columns, modulo 2**64, and the bytes after the last whole row as they are. Any change of one word is found, pages of
    4 KiB that changed places are, and any other change that does not cancel in every column. It is no protection against intent.
    """
    return checksums([section], workers)[0]


def checksums(sections: Sequence[memoryview | bytes], workers: int = 2, meanwhile: Callable[[], object] | None = None) -> list[str]:
    """The `checksum` of each section, the sums of all of them side by side, and beside what `meanwhile` does."""
    views = [memoryview(s).cast("B") for s in sections]
    wholes = [0 if len(v) < LARGE_BYTES else len(v) - len(v) % ROW_BYTES for v in views]
    pieces = [[v[k:min(k + PIECE_BYTES, whole)] for k in range(0, whole, PIECE_BYTES)] for v, whole in zip(views, wholes, strict=True)]
    sums = iter(_side_by_side(_block_sums, [p for of_one in pieces for p in of_one], workers, meanwhile))
    return [hashlib.sha256(b"".join([*islice(sums, len(of_one)), v[whole:]])).hexdigest() for v, whole, of_one in zip(views, wholes, pieces, strict=True)]


def _block_sums(piece: memoryview) -> bytes:
    """Sums of each block along its columns, then of the rows that remain, as little-endian 64-bit words."""
    rows = np.frombuffer(piece, "<u8").reshape(-1, BLOCK_COLUMNS)
    whole = len(rows) - len(rows) % BLOCK_ROWS
    sums = rows[:whole].reshape(-1, BLOCK_ROWS, BLOCK_COLUMNS).sum(axis=1, dtype="<u8").tobytes()
    return sums if whole == len(rows) else sums + rows[whole:].sum(axis=0, dtype="<u8").tobytes()


def _side_by_side(work: Callable[[memoryview], bytes], pieces: Sequence[memoryview], workers: int, meanwhile: Callable[[], object] | None = None) -> list[bytes]:
    """`work` of each piece, by as many threads; this one does something else before it waits for them."""
    found: list[bytes | None] = [None] * len(pieces)
    waiting = iter(range(len(pieces)))

    def share() -> None:
        for k in waiting:
            found[k] = work(pieces[k])
    threads = [threading.Thread(target=share) for _ in range(workers if len(pieces) >= 4 and workers > 1 else 0)]
    for t in threads:
        t.start()
    if meanwhile is not None:
        meanwhile()
    for t in threads:
        t.join()
    return [work(p) if f is None else f for f, p in zip(found, pieces, strict=True)]  # where a thread failed, this one fails alike


def write(path: str | os.PathLike[str], content: object, sections: Mapping[str, bytes | memoryview], durable: bool = True) -> None:
    """Write a container so that readers see the old file or the whole new one, nothing between.

    Args:
        durable: also when the system itself stops at any moment; where not, a damaged file may be what is left, which its checksums tell.
        content: a dict of what JSON can hold.
        sections: name -> bytes-like, contiguous.

    Raises:
        OSError: no space or no permission; nothing is left behind.
    """
    views = {name: memoryview(data).cast("B") if memoryview(data) else memoryview(b"") for name, data in sections.items()}
    digests = dict(zip(views, checksums(list(views.values())), strict=True))
    table: list[tuple[str, int, int, str]] = []
    manifest = b""
    for _ in range(8):  # offsets depend on the manifest's length, which depends on the offsets' digits
        start = HEADER.size + len(manifest)
        table = []
        for name, view in views.items():
            start = -(-start // ALIGNMENT) * ALIGNMENT
            table.append((name, start, view.nbytes, digests[name]))
            start += view.nbytes
        new = json.dumps({"sections": table, "content": content}, separators=(",", ":"), ensure_ascii=False).encode()
        new += b" " * (-len(new) % 256)
        if len(new) == len(manifest):
            manifest = new
            break
        manifest = new
    with whole_file(path, durable=durable) as f:
        f.write(HEADER.pack(MAGIC, VERSION, 0, len(manifest), hashlib.sha256(manifest).digest()))
        f.write(manifest)
        for (_, start, *_), view in zip(table, views.values(), strict=True):
            f.write(bytes(start - f.tell()))
            f.write(view)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], mode: int = 0o600, durable: bool = True) -> Iterator[BinaryIO]:
    """A file that stands at `path` only once it is written: until then, and if writing fails, what was there stays.

    Args:
        mode: its permissions.
        durable: wait until the disk has it.

    Raises:
        OSError: no space or no permission; nothing is left behind.
    """
    import tempfile

    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            if durable:
                os.fsync(f.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            os.unlink(temporary)


class Container:
    """An open container: `content` and memory-mapped `sections`.

    Args:
        source: path of the file, or its bytes.
        verify: check the digest of every section now; otherwise only the manifest's.
        meanwhile: what to do while the sections are summed by other threads.

    Raises:
        ContainerError: not a container, another version, cut short, or damaged; names what was found.
        OSError: the file cannot be opened.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes | bytearray | memoryview, verify: bool = True,
                 meanwhile: Callable[[], object] | None = None) -> None:
        if isinstance(source, (bytes, bytearray, memoryview)):
            self.path = "package given as bytes"
            self._view = memoryview(source).cast("B")
        else:
            self.path = os.fspath(source)
            self._view = _mapped(self.path)
        size = len(self._view)
        if size < HEADER.size:
            raise ContainerError(f"{self.path}: {size} bytes are too few for a compiled model; was the file cut short?")
        magic, version, reserved, length, digest = HEADER.unpack_from(self._view)
        if magic != MAGIC:
            raise ContainerError(f"{self.path}: not a compiled model (it does not start with {MAGIC.decode()})")
        if version != VERSION:
            raise ContainerError(f"{self.path}: format version {version}, this Sardonyx reads version {VERSION}; compile the model again")
        if reserved:
            raise ContainerError(f"{self.path}: the header's reserved field is {reserved}, 0 was expected; the file is damaged")
        if length > min(size - HEADER.size, MAX_MANIFEST_BYTES):
            raise ContainerError(f"{self.path}: the manifest is said to have {length} bytes, the file has {size}; the file is damaged or cut short")
        manifest = bytes(self._view[HEADER.size:HEADER.size + length])
        if hashlib.sha256(manifest).digest() != digest:
            raise ContainerError(f"{self.path}: the manifest does not match its checksum; the file is damaged, compile the model again")
        self.content, table = self._parsed(manifest)
        self.sections: dict[str, memoryview] = {}
        end = HEADER.size + length
        for name, offset, nbytes, _ in table:
            if offset + nbytes > size:
                raise ContainerError(f"{self.path}: section {name} ends beyond the end of the file; the file was cut short")
            if offset < end or any(self._view[end:offset]):
                raise ContainerError(f"{self.path}: there is something other than padding before section {name}; the file is damaged")
            end = offset + nbytes
            self.sections[name] = self._view[offset:end]
        if verify:
            for (name, *_, section_digest), found in zip(table, checksums(list(self.sections.values()), meanwhile=meanwhile), strict=True):
                if found != section_digest:
                    raise ContainerError(f"{self.path}: section {name} does not match its checksum; the file is damaged, compile the model again")
        if end != size:
            raise ContainerError(f"{self.path}: {size - end} bytes follow the last section; the file is damaged")

    def _parsed(self, manifest: bytes) -> tuple[dict[str, Any], list[tuple[str, int, int, str]]]:
        """The manifest's content and its checked table of sections."""
        try:
            parsed = json.loads(manifest)
        except (ValueError, RecursionError) as e:
            raise ContainerError(f"{self.path}: the manifest cannot be read ({e}); the file is damaged or was not written by Sardonyx") from e
        rows = parsed.get("sections") if isinstance(parsed, dict) else None
        if not isinstance(rows, list) or not isinstance(parsed.get("content"), dict):
            raise ContainerError(f"{self.path}: the manifest has no content or no table of sections; the file was not written by Sardonyx")
        for row in rows:
            if not isinstance(row, list) or [type(x) for x in row] != [str, int, int, str] or row[1] < 0 or row[2] < 0:
                raise ContainerError(f"{self.path}: {row!r} describes no section; the file was not written by Sardonyx")
        if len({row[0] for row in rows}) != len(rows):
            raise ContainerError(f"{self.path}: two sections have the same name; the file was not written by Sardonyx")
        return parsed["content"], [tuple(row) for row in rows]


def _mapped(path: str) -> memoryview:
    with open(path, "rb") as f:
        if os.fstat(f.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
