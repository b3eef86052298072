"""Mach-O objects, as far as libraries for macOS need it. Source: Apple's mach-o/loader.h and nlist.h."""
from __future__ import annotations

import struct

_MAGIC = 0xFEEDFACF  # 64 bits, little-endian
_SYMBOL_TABLE = 2  # load command LC_SYMTAB
_DEBUGGING, _PRIVATE, _KIND, _EXTERNAL = 0xE0, 0x10, 0x0E, 0x01  # of a symbol's type: N_STAB, N_PEXT, N_TYPE, N_EXT


def hidden(image: bytes) -> bytes:
    """The same object with its symbols for the objects that it is linked with alone: the linker of package ziglang knows no list of what a library shows.

    Raises:
        ValueError: no 64-bit Mach-O object.
    """
    if len(image) < 32 or struct.unpack_from("<I", image)[0] != _MAGIC:
        raise ValueError("a 64-bit Mach-O object was expected")
    out, at = bytearray(image), 32
    for _ in range(struct.unpack_from("<I", image, 16)[0]):
        command, size = struct.unpack_from("<II", image, at)
        if command == _SYMBOL_TABLE:
            table, count = struct.unpack_from("<II", image, at + 8)
            for place in range(table + 4, table + 16 * count, 16):
                kind = out[place]
                if kind & _EXTERNAL and kind & _KIND and not kind & _DEBUGGING:
                    out[place] |= _PRIVATE
        at += size
    return bytes(out)
