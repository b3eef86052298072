"""Protobuf wire format, as far as it takes to leave a model's weights where they are.

An ONNX file is one message whose bulk is `raw_data` of initialisers. `split` walks the message's outline and gives a small message without those bytes,
which protobuf can parse, and where in the buffer the bytes lie, so that they can be viewed in a mapped file instead of being copied twice.
"""
from __future__ import annotations

from dataclasses import dataclass

MODEL_GRAPH = 7  # ModelProto.graph
GRAPH_INITIALIZER = 5  # GraphProto.initializer
TENSOR_RAW_DATA = 9  # TensorProto.raw_data
VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
MAX_OUTLINE_BYTES = (1 << 31) - 1  # protobuf's own limit on a message


class WireError(ValueError):
    """The bytes are no well-formed message."""


@dataclass(frozen=True)
class Outline:
    """A model without its big initialisers.

    Args:
        message: a ModelProto message; large `raw_data` fields are missing from it.
        places: (offset, bytes) in the buffer of the missing data, by position in `graph.initializer`.
    """

    message: bytes
    places: dict[int, tuple[int, int]]


def split(buffer: memoryview, threshold_bytes: int = 1024) -> Outline:
    """Take `raw_data` of at least `threshold_bytes` out of a model's initialisers.

    Args:
        buffer: the whole file, as bytes.
        threshold_bytes: smaller data stay in the message.

    Raises:
        WireError: a field runs past the end of the message that holds it, or a tag or a length is malformed.
    """
    places: dict[int, tuple[int, int]] = {}
    out: list[bytes | memoryview] = []
    count = 0
    for number, start, body, end in _fields(buffer, 0, len(buffer)):
        if number != MODEL_GRAPH or body < 0:
            out.append(buffer[start:end])
            continue
        parts: list[bytes | memoryview] = []
        kept = body
        for inner, inner_start, inner_body, inner_end in _fields(buffer, body, end):
            if inner != GRAPH_INITIALIZER or inner_body < 0:
                continue
            if inner_end - inner_body >= threshold_bytes:
                tensor = _without_raw_data(buffer, inner_body, inner_end, threshold_bytes, count, places)
                if tensor is not None:
                    parts += (buffer[kept:inner_start], _tag(GRAPH_INITIALIZER), _varint(len(tensor)), tensor)
                    kept = inner_end
            count += 1
        parts.append(buffer[kept:end])
        out += (_tag(MODEL_GRAPH), _varint(sum(map(len, parts))), *parts)
    return Outline(b"".join(out), places)


def _without_raw_data(buffer: memoryview, begin: int, end: int, threshold_bytes: int, index: int, places: dict[int, tuple[int, int]]) -> bytes | None:
    """The tensor's message without large raw data, whose place is noted; None where there is none."""
    parts: list[memoryview] = []
    kept = begin
    for number, start, body, stop in _fields(buffer, begin, end):
        if number == TENSOR_RAW_DATA and body >= 0:
            if stop - body < threshold_bytes:
                places.pop(index, None)  # of repeated fields the last one counts
                continue
            parts.append(buffer[kept:start])
            kept = stop
            places[index] = (body, stop - body)
    if not parts:
        return None
    parts.append(buffer[kept:end])
    return b"".join(parts)


def _fields(buffer: memoryview, at: int, end: int):
    """(field number, start of the tag, start of the payload or -1 if it is not length-delimited, end) of each field of a message."""
    while at < end:
        start = at
        tag, at = _read_varint(buffer, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {start}")
        if kind == BYTES:
            size, at = _read_varint(buffer, at, end)
            if size > end - at:
                raise WireError(f"field {number} at byte {start} claims {size} bytes, {end - at} are left")
            yield number, start, at, at + size
            at += size
            continue
        if kind == VARINT:
            _, at = _read_varint(buffer, at, end)
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
            if at > end:
                raise WireError(f"field {number} at byte {start} runs past the end")
        else:
            raise WireError(f"field {number} at byte {start} has wire type {kind}")
        yield number, start, -1, at


def _read_varint(buffer: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = buffer[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7
    raise WireError(f"unfinished number at byte {at}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | BYTES)
