"""Tensor data in files beside the model, mapped into memory, never read whole.

A model's text is not trusted with paths: data files must be regular files inside the model's folder, once symbolic links are followed.
"""
from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ..ir.errors import ModelError


def map_file(path: Path, what: str) -> mmap.mmap | bytes:
    """A read-only view of a regular file; empty files give `b""`.

    Raises:
        ModelError: `what` does not exist, cannot be read, or is no regular file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as e:
        raise ModelError(f"{what} cannot be read: {e.strerror if isinstance(e, OSError) else e}", hint=f"looked for {path}") from e
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise ModelError(f"{what} is not a regular file: {path}")
        return mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if info.st_size else b""
    finally:
        os.close(handle)


class ExternalData:
    """The data files of one model; each is mapped once.

    Args:
        folders: where locations are looked up (the first) and folders that files may lie in; none for a model that came without a folder.
    """

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self.folders = folders
        self._files: dict[Path, memoryview] = {}

    @classmethod
    def beside(cls, model: Path) -> "ExternalData":
        """For a model file: its folder, and the folder of what it links to."""
        given = model.absolute().parent
        return cls((given, given.resolve(), model.resolve().parent))

    def find(self, entries: Mapping[str, str], size_bytes: int, tensor: str) -> memoryview:
        """The bytes of a tensor.

        Args:
            entries: `location`, and optionally `offset` and `length`, as in TensorProto.external_data.
            size_bytes: what the tensor's type and dims need.
            tensor: its name, for errors.

        Raises:
            ModelError: the location leaves the model's folder, the file is missing or too short, or a number is malformed.
        """
        location = entries.get("location", "")
        if not location:
            raise ModelError(f"tensor '{tensor}' is said to lie in another file, but no location is given")
        path = self._resolve(location, tensor)
        what = f"data file '{location}' of tensor '{tensor}'"
        data = self._files.get(path)
        if data is None:
            data = self._files[path] = memoryview(map_file(path, what))
        offset = self._number(entries, "offset", 0, tensor)
        length = self._number(entries, "length", size_bytes, tensor)
        if length != size_bytes:
            raise ModelError(f"tensor '{tensor}' needs {size_bytes} bytes, its entry in '{location}' says {length}")
        if offset + length > len(data):
            raise ModelError(f"{what} is too short: bytes {offset} to {offset + length} are wanted, it has {len(data)}")
        return data[offset:offset + length]

    def files(self) -> list[Path]:
        """The files that were read, as absolute paths."""
        return list(self._files)

    def _resolve(self, location: str, tensor: str) -> Path:
        if not self.folders:
            raise ModelError(f"tensor '{tensor}' lies in '{location}', but the model came without a folder", hint="load it by path, or give folder=")
        # Backslashes are separators on one system and characters on the other: models that use them to climb are refused on both.
        parts = location.replace("\\", "/").split("/")
        if "\0" in location or location.startswith(("/", "\\")) or ".." in parts or location[1:2] == ":":
            raise ModelError(f"tensor '{tensor}' lies in '{location}', which leaves the model's folder")
        try:
            path = (self.folders[0] / location).resolve()
        except (OSError, RuntimeError) as e:
            raise ModelError(f"data file '{location}' of tensor '{tensor}' cannot be read: {e}") from e
        if not any(path.is_relative_to(f) for f in self.folders[1:] or self.folders):
            raise ModelError(f"tensor '{tensor}' lies in '{location}', a link that leaves the model's folder")
        return path

    @staticmethod
    def _number(entries: Mapping[str, str], key: str, default: int, tensor: str) -> int:
        text = entries.get(key)
        if text is None or not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise ModelError(f"tensor '{tensor}': external data {key} '{text[:40]}' is not a number of bytes")
        return int(text)
