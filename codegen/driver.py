"""The native driver: walks a plan's steps without returning to Python.

It is a kernel like any other, over the two buffers that `ir.driver_abi` describes.
"""
from __future__ import annotations

from functools import lru_cache

from ..ir import dtypes as dt
from ..ir.driver_abi import (
    ARGUMENT_STRIDE,
    ARGUMENTS,
    ARRAY_DIMS,
    ARRAY_DTYPE,
    ARRAY_FLAGS,
    ARRAY_RANK,
    BINDING_COUNT,
    BINDING_WORDS,
    BINDINGS,
    CLOCK,
    COUNTERS,
    DATA_OFFSET,
    DIMS,
    DRIVER,
    EAGER,
    FLAGS_NEEDED,
    KERNELS,
    MODE_EVALUATE,
    MODE_TEAM,
    NUMBERS,
    OBJECTS,
    OPERANDS,
    PARALLEL,
    PARTS,
    POINTERS,
    PROGRAM,
    SCRATCH,
    SCRATCH_STRIDE,
    SLOTS,
    SMALL_BYTES,
    SMALL_FLOPS,
    SPARE_WORDS,
    SPINS,
    START,
    STATE,
    STEP_COUNT,
    STEP_SIZE,
    STEP_WORDS,
    STEPS,
    STOPPED,
    TEAM,
    THREAD_NUMBER,
    THREADS,
    TIMES,
    YIELD,
)
from ..ir.kernel import KernelSource
from .routines import routine_text

INTRINSICS: tuple[tuple[str, str, tuple], ...] = (
    ("words", "pointer_to", ("int64",)),
    ("put_pointer", "put_pointer", ()),
    ("call_kernel", "call_address", ("v", "ppllp")),
    ("call_parallel", "call_address", ("v", "ppii")),
    ("call_yield", "call_address", ("i", "")),
    ("call_thread_number", "call_address", ("i", "")),
    ("call_clock", "call_address", ("i", "ip")),
    ("evaluate", "size_program", ()),
    ("fetch_add", "fetch_add", ()),
    ("load_acquire", "load_acquire", ()),
    ("pause", "pause", ()),
)


@lru_cache(maxsize=1)
def driver_kernel() -> KernelSource:
    """The driver as a kernel to compile; its symbol starts with `driver_`."""
    text = routine_text(drive, (bind_arrays, now, run_kernel_step, do_part, row_is_small, share_step, walk), {}, 2, [name for name, _, _ in INTRINSICS])
    return KernelSource("driver", text, (dt.int64, dt.int64), (False, False), 0, (), INTRINSICS)


# The functions below are compiled, never run by Python. Names that are not defined here are `INTRINSICS`.
# ruff: noqa: F821
# mypy: ignore-errors
def drive(context, mode, lo, hi, scratch):
    if mode[0] == MODE_TEAM:
        walk(context, call_thread_number(context[THREAD_NUMBER]))
    elif mode[0] == MODE_EVALUATE:
        evaluate(context[PROGRAM], context[NUMBERS], context[POINTERS], 0, context[EAGER])
    else:
        wrong = bind_arrays(context)
        if wrong >= 0:
            words(context[STATE])[STOPPED] = -1 - wrong
        elif context[THREADS] > 1:
            counters = words(context[COUNTERS])
            for k in range(context[START] * (context[THREADS] + 1), context[STEP_COUNT] * (context[THREADS] + 1)):
                counters[k] = 0
            call_parallel(context[PARALLEL], context[DRIVER], context[TEAM], context[THREADS], 0)
        else:
            walk(context, 0)


def bind_arrays(context):
    """Enter the host arrays' addresses; the position of the first array that does not fit what was bound, or -1."""
    objects = words(context[OBJECTS])
    bindings = words(context[BINDINGS])
    slots = words(context[SLOTS])
    pointers = words(context[POINTERS])
    for k in range(context[BINDING_COUNT]):
        if objects[k] != 0:
            array = words(objects[k] + context[DATA_OFFSET])
            row = k * BINDING_WORDS
            rank = bindings[row + 2]
            if array[ARRAY_DTYPE] != bindings[row + 4] or array[ARRAY_RANK] & 0xFFFFFFFF != rank or array[ARRAY_FLAGS] & FLAGS_NEEDED != FLAGS_NEEDED:
                return k
            sizes = words(array[ARRAY_DIMS])
            dims = words(context[DIMS] + 8 * bindings[row + 3])
            for d in range(rank):
                if sizes[d] != dims[d]:
                    return k
            for s in range(bindings[row], bindings[row] + bindings[row + 1]):
                pointers[slots[s]] = array[0]
    return -1


def walk(context, thread):
    """Do steps from START on until the host is needed; every thread of a team walks all steps."""
    steps = words(context[STEPS])
    numbers = words(context[NUMBERS])
    count = context[STEP_COUNT]
    threads = context[THREADS]
    k = context[START]
    while k < count and steps[k * STEP_WORDS] <= STEP_SIZE:
        row = k * STEP_WORDS
        units = numbers[steps[row + 5]]
        if threads == 1:
            do_part(context, steps, numbers, k, 0, 0, units)
        else:
            share = 1 if row_is_small(steps, numbers, row, units) else PARTS
            share_step(context, steps, numbers, k, thread, threads, units, share)
        k += 1
    words(context[STATE])[STOPPED] = k


def row_is_small(steps, numbers, row, units):
    """Whether a step is for one thread: it is one piece, a piece of the size program, or not worth sharing."""
    if steps[row] == STEP_SIZE or units <= 1:
        return True
    return steps[row + 6] >= 0 and steps[row + 7] >= 0 and numbers[steps[row + 6]] < SMALL_FLOPS and numbers[steps[row + 7]] < SMALL_BYTES


def share_step(context, steps, numbers, k, thread, threads, units, parts):
    """Do parts of a step, first of this thread's share, then of others', and wait until all are done.

    Nobody waits for a thread that has begun nothing: one that the system keeps from running finds its share done by the others.
    """
    counters = context[COUNTERS] + 8 * k * (threads + 1)
    shares = threads if parts == PARTS else 1
    total = shares * parts
    if load_acquire(counters) >= total:
        return
    done = 0
    for v in range(shares):
        owner = (thread + v) % shares
        begun = counters + 8 * (owner + 1)
        while load_acquire(begun) < parts:
            part = fetch_add(begun, 1)
            if part < parts:
                at = owner * parts + part
                do_part(context, steps, numbers, k, thread, units * at // total, units * (at + 1) // total)
                done += 1
    if done > 0:
        fetch_add(counters, done)
    spins = 0
    while load_acquire(counters) < total:
        pause()
        spins += 1
        if spins > SPINS and context[YIELD] != 0:
            call_yield(context[YIELD])


def do_part(context, steps, numbers, k, thread, lo, hi):
    """Units lo <= u < hi of a step, timed if there is a clock."""
    row = k * STEP_WORDS
    clock = context[CLOCK]
    times = words(context[TIMES])
    if clock != 0 and times[2 * k] == 0:
        times[2 * k] = now(context, clock, thread)
    if steps[row] == STEP_SIZE:
        evaluate(context[PROGRAM], context[NUMBERS], context[POINTERS], steps[row + 1], steps[row + 2])
    elif lo < hi:
        run_kernel_step(context, steps, numbers, row, thread, lo, hi)
    if clock != 0:
        times[2 * k + 1] = now(context, clock, thread)


def run_kernel_step(context, steps, numbers, row, thread, lo, hi):
    """Gather a kernel's pointers and parameters, then call it."""
    operands = words(context[OPERANDS] + 8 * steps[row + 2])
    pointers = words(context[POINTERS])
    area = context[ARGUMENTS] + 8 * thread * context[ARGUMENT_STRIDE]
    buffers = steps[row + 3]
    for j in range(buffers):
        put_pointer(area, j, pointers[operands[j]])
    parameters = words(area + 8 * buffers)
    for j in range(steps[row + 4]):
        parameters[j] = numbers[operands[buffers + j]]
    kernels = words(context[KERNELS])
    call_kernel(kernels[steps[row + 1]], area, area + 8 * buffers, lo, hi, context[SCRATCH] + thread * context[SCRATCH_STRIDE])


def now(context, clock, thread):
    """Nanoseconds of the monotonic clock."""
    at = context[ARGUMENTS] + 8 * ((thread + 1) * context[ARGUMENT_STRIDE] - SPARE_WORDS)
    call_clock(clock, 1, at)
    return words(at)[0] * 1000000000 + words(at)[1]
