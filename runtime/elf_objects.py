"""Relocatable ELF objects of x86-64 put into memory: sections laid out, references filled in.

LLVM's loader takes 45 MiB of memory, and longer to import than all else that starts a small model; it serves where this one does not (`runtime.llvm_objects`).
Source: System V Application Binary Interface, AMD64 Architecture Processor Supplement, chapter 4; Tool Interface Standard, Executable and Linking Format 1.2.
"""
from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..ir.errors import TargetError

HEADER = struct.Struct("<4s5B7xHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")
RELOCATABLE, X86_64 = 1, 62
PROGBITS, SYMTAB, RELA, UNWIND = 1, 2, 4, 0x70000001  # types of sections
WRITE, ALLOC, THREAD_LOCAL = 1, 2, 0x400  # flags of sections
UNDEFINED, FIRST_RESERVED, ABSOLUTE = 0, 0xFF00, 0xFFF1  # numbers of sections in symbols
# Relocations: S + A in 8 bytes; S + A - P in 4, to a function too far away by way of a trampoline, and in 8; a slot that holds S, less P, in 4.
DIRECT, NEAR, CALL, FAR, SLOTS = 1, 2, 4, 24, (9, 41, 42)
JUMP = b"\xff\x25\x02\x00\x00\x00\x0f\x0b"  # jmp [rip + 2]; ud2; the slot with the address follows
TRAMPOLINE_BYTES = len(JUMP) + 8


class Section(NamedTuple):
    """A section header's fields that count here, and its name's position."""

    name: int
    kind: int
    flags: int
    start: int
    size: int
    link: int
    info: int
    alignment: int


class Symbol(NamedTuple):
    """A symbol: its name, whether other objects see it, and the number and offset of its section."""

    name: str
    is_global: bool
    section: int
    value: int


class Unfit(Exception):
    """An object holds what this loader does not take."""


class Object:
    """A relocatable object's tables.

    Raises:
        Unfit: it is of another kind, or has sections, symbols or references that are not taken.
        TargetError: it contradicts itself.
    """

    def __init__(self, image: bytes) -> None:
        self.image = image
        if len(image) < HEADER.size:
            raise Unfit
        magic, width, order, _, _, _, kind, machine, _, _, _, at, _, _, _, _, size, count, _ = HEADER.unpack_from(image)
        if (magic, width, order, kind, machine) != (b"\x7fELF", 2, 1, RELOCATABLE, X86_64):
            raise Unfit
        if size != SECTION.size or at + count * size > len(image):
            raise TargetError("an object's table of sections does not lie in it")
        self.sections = [Section(name, kind, flags, start, size, link, info, alignment)
                         for name, kind, flags, _, start, size, link, info, alignment, _ in SECTION.iter_unpack(image[at:at + count * size])]
        self.placed = {k: s for k, s in enumerate(self.sections) if s.flags & ALLOC and s.size and s.kind != UNWIND and not self.is_unwind_table(k)}
        for s in self.placed.values():
            if s.kind != PROGBITS or s.flags & (WRITE | THREAD_LOCAL) or s.alignment > mmap.PAGESIZE or s.alignment & (s.alignment - 1):
                raise Unfit
            self.data(s)
        self.symbols = [s for section in self.sections if section.kind == SYMTAB for s in self.read_symbols(section)]

    def is_unwind_table(self, k: int) -> bool:
        """Whether a section tells how to unwind frames: no exception passes through kernels."""
        return self.text(self.names, self.sections[k].name) == ".eh_frame"

    @property
    def names(self) -> Section:
        """The table of the sections' names."""
        number = HEADER.unpack_from(self.image)[-1]
        if number >= len(self.sections):
            raise TargetError("an object names its sections by a table that it does not have")
        return self.sections[number]

    def data(self, section: Section) -> bytes:
        if section.start + section.size > len(self.image):
            raise TargetError("an object's section does not lie in it")
        return self.image[section.start:section.start + section.size]

    def text(self, table: Section, at: int) -> str:
        data = self.data(table)
        end = data.find(b"\0", at)
        if end < 0:
            raise TargetError("an object's name does not end")
        return data[at:end].decode(errors="replace")

    def read_symbols(self, table: Section) -> Iterator[Symbol]:
        if table.link >= len(self.sections) or table.size % SYMBOL.size:
            raise TargetError("an object's table of symbols is damaged")
        for name, info, _, section, value, _ in SYMBOL.iter_unpack(self.data(table)):
            if section >= FIRST_RESERVED and section != ABSOLUTE:
                raise Unfit
            if section in self.placed and value > self.placed[section].size:
                raise TargetError("an object's symbol does not lie in its section")
            yield Symbol(self.text(self.sections[table.link], name), info >> 4 != 0, section, value)

    def relocations(self) -> Iterator[tuple[int, int, int, Symbol, int]]:
        """(section, offset, kind, symbol, addend) of every reference in placed sections."""
        for table in self.sections:
            if table.kind != RELA or table.info not in self.placed:
                continue
            if table.size % RELOCATION.size:
                raise TargetError("an object's table of references is damaged")
            for offset, info, addend in RELOCATION.iter_unpack(self.data(table)):
                if info >> 32 >= len(self.symbols):
                    raise TargetError("an object refers to a symbol that it does not have")
                yield table.info, offset, info & 0xFFFFFFFF, self.symbols[info >> 32], addend


class PlacedCode:
    """Objects in executable memory, which lasts as long as this.

    Args:
        images: object files that may refer to each other, to libc and to libm.

    Raises:
        Unfit: one is no object of x86-64, or holds what is not taken.
        TargetError: one is damaged, refers to what is nowhere, or the system gives no executable memory.
    """

    def __init__(self, images: Sequence[bytes]) -> None:
        objects = [Object(i) for i in images]
        offsets: list[dict[int, int]] = []
        end = 0
        for o in objects:
            offsets.append({})
            for k, s in o.placed.items():
                end = -(-end // max(1, s.alignment)) * max(1, s.alignment)
                offsets[-1][k] = end
                end += s.size
        trampolines_at = -(-end // TRAMPOLINE_BYTES) * TRAMPOLINE_BYTES
        trampolines = {s.name: 0 for o in objects for s in o.symbols if s.section == UNDEFINED and s.name}
        self._memory = mmap.mmap(-1, max(1, trampolines_at + TRAMPOLINE_BYTES * len(trampolines)), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.symbols: dict[str, int] = {}
        for o, places in zip(objects, offsets, strict=True):
            for k, at in places.items():
                self._memory[at:at + o.placed[k].size] = o.data(o.placed[k])
            for symbol in o.symbols:
                if symbol.is_global and symbol.section in places:
                    self.symbols.setdefault(symbol.name, self._base + places[symbol.section] + symbol.value)
        for n, name in enumerate(trampolines):
            at = trampolines_at + n * TRAMPOLINE_BYTES
            trampolines[name] = self._base + at
            self._memory[at:at + TRAMPOLINE_BYTES] = JUMP + struct.pack("<Q", self.symbols.get(name) or system_function(name))
        for o, places in zip(objects, offsets, strict=True):
            self._refer(o, places, trampolines)
        self._protect()

    def _refer(self, o: Object, places: Mapping[int, int], trampolines: Mapping[str, int]) -> None:
        """Fill in an object's references."""
        for section, offset, kind, symbol, addend in o.relocations():
            if symbol.section in places and kind not in SLOTS:
                value = self._base + places[symbol.section] + symbol.value
            elif symbol.section == UNDEFINED and kind in (CALL, *SLOTS) and symbol.name:
                value = trampolines[symbol.name] + (0 if kind == CALL else len(JUMP))
            else:
                raise Unfit
            size = 8 if kind in (DIRECT, FAR) else 4
            if offset + size > o.placed[section].size:
                raise TargetError("an object's reference does not lie in its section")
            at = places[section] + offset
            number = value + addend - (0 if kind == DIRECT else self._base + at)
            if kind not in (DIRECT, NEAR, CALL, FAR, *SLOTS) or (size == 4 and not -1 << 31 <= number < 1 << 31):
                raise Unfit
            self._memory[at:at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")

    def _protect(self) -> None:
        """Memory that was written is executed from now on, and written no more."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mprotect(ctypes.c_void_p(self._base), ctypes.c_size_t(len(self._memory)), mmap.PROT_READ | mmap.PROT_EXEC):
            raise TargetError(f"the system gives no executable memory: {os.strerror(ctypes.get_errno())}")


def is_served() -> bool:
    """Whether this machine's objects are of the kind that is taken."""
    return sys.platform == "linux" and os.uname().machine == "x86_64" and sys.maxsize > 1 << 32


@lru_cache
def _libraries() -> list[ctypes.CDLL]:
    found = [ctypes.CDLL(None)]
    for name in ("libm.so.6", "libc.so.6"):  # where there is another libc than glibc, both are in the process already
        try:
            found.append(ctypes.CDLL(name))
        except OSError:
            continue
    return found


def system_function(name: str) -> int:
    """Address of a function of libc or libm.

    Raises:
        TargetError: there is none of that name.
    """
    for library in _libraries():
        try:
            return ctypes.cast(library[name], ctypes.c_void_p).value or 0
        except AttributeError:
            continue
    raise TargetError(f"an object refers to {name}, which neither another object nor the system's libraries have")
