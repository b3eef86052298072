"""The driver's memory: blocks that grow, segments whose size is known late; and what it says of failures. Part of the kernel that `codegen.driver` makes."""
from __future__ import annotations

from ..ir.driver_abi import (
    ALIGNMENT,
    ALLOCATE,
    BLOCKS,
    FAILED_A,
    FAILED_AT,
    FAILED_B,
    FAILED_IN,
    FAILURE,
    IDENTITY,
    NO_CONTROL,
    NO_MEMORY,
    NUMBERS,
    POINTERS,
    RELEASE,
    SCRATCH,
    SCRATCH_STRIDE,
    SEGMENT_COUNT,
    SEGMENT_WORDS,
    SEGMENTS,
    STATE,
    THREADS,
)


# The functions below are compiled, never run by Python. Names that are not defined here are `driver.INTRINSICS`.
# ruff: noqa: F821
# mypy: ignore-errors
def fail(context, what, at, a, b):
    """Say what is wrong; -1."""
    state = words(context[STATE])
    state[FAILURE] = what
    state[FAILED_IN] = context[IDENTITY]
    state[FAILED_AT] = at
    state[FAILED_A] = a
    state[FAILED_B] = b
    return -1


# ---------------------------------------------------------------------------------------------------------------------- memory
def reserve(context, block, bytes_, kept):
    """The aligned address of a block of at least so many bytes, whose first `kept` are what they were; -1 if there is no memory."""
    blocks = words(context[BLOCKS])
    old = blocks[2 * block]
    if old == 0 or blocks[2 * block + 1] < bytes_:
        if old != 0 and kept == 0:
            call_release(context[RELEASE], old)
            blocks[2 * block] = 0
        wanted = max(bytes_, blocks[2 * block + 1] + blocks[2 * block + 1] // 2, ALIGNMENT)
        new = call_allocate(context[ALLOCATE], wanted + ALIGNMENT)
        if new == 0:
            return fail(context, NO_MEMORY, block, 0, wanted)
        if old != 0 and kept > 0:
            copy_bytes((new + ALIGNMENT - 1) & -ALIGNMENT, (old + ALIGNMENT - 1) & -ALIGNMENT, kept)
            call_release(context[RELEASE], old)
        blocks[2 * block] = new
        blocks[2 * block + 1] = wanted
        old = new
    return (old + ALIGNMENT - 1) & -ALIGNMENT


def place_buffers(context, segment, base):
    """Point a segment's buffers into its memory."""
    segments = words(context[SEGMENTS])
    pointers = words(context[POINTERS])
    numbers = words(context[NUMBERS])
    first = segments[segment * SEGMENT_WORDS + 2]
    for j in range(segments[segment * SEGMENT_WORDS + 3]):
        pointers[segments[first + 2 * j]] = base + numbers[segments[first + 2 * j + 1]]


def place_segment(context, segment):
    """Place a later segment, whose size is known by now, and more scratch if its steps need it."""
    segments = words(context[SEGMENTS])
    numbers = words(context[NUMBERS])
    base = reserve(context, segment, numbers[segments[segment * SEGMENT_WORDS]], 0)
    if base < 0:
        return -1
    place_buffers(context, segment, base)
    stride = ((numbers[segments[segment * SEGMENT_WORDS + 1]] + ALIGNMENT - 1) & -ALIGNMENT) + ALIGNMENT
    if stride > context[SCRATCH_STRIDE]:
        base = reserve(context, context[SEGMENT_COUNT] + segment, context[THREADS] * stride, 0)
        if base < 0:
            return -1
        context[SCRATCH] = base
        context[SCRATCH_STRIDE] = stride
    return 0


def enter_control(context, k):
    """A driver compiled without control flow met a control step."""
    return fail(context, NO_CONTROL, k, 0, 0)


def leave_body(context, child):
    """A driver compiled without control flow is in no body."""
    return fail(context, NO_CONTROL, 0, 0, 0)


HELPERS = (fail, reserve, place_buffers, place_segment)
