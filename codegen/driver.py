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
    BARRIER,
    BINDING_COUNT,
    BINDING_WORDS,
    BINDINGS,
    CLOCK,
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
    POINTERS,
    PROGRAM,
    SCRATCH,
    SCRATCH_STRIDE,
    SLOTS,
    SMALL_BYTES,
    SMALL_FLOPS,
    START,
    STATE,
    STEP_COUNT,
    STEP_KERNEL,
    STEP_SIZE,
    STEP_WORDS,
    STEPS,
    STOPPED,
    TEAM,
    THREAD_NUMBER,
    THREADS,
    TIME_NANOSECONDS,
    TIME_SECONDS,
    TIMES,
)
from ..ir.kernel import KernelSource
from .routines import routine_text

INTRINSICS: tuple[tuple[str, str, tuple], ...] = (
    ("words", "pointer_to", ("int64",)),
    ("put_pointer", "put_pointer", ()),
    ("call_kernel", "call_address", ("v", "ppllp")),
    ("call_parallel", "call_address", ("v", "ppii")),
    ("call_barrier", "call_address", ("v", "")),
    ("call_thread_number", "call_address", ("i", "")),
    ("call_clock", "call_address", ("i", "ip")),
    ("evaluate", "size_program", ()),
)


@lru_cache(maxsize=1)
def driver_kernel() -> KernelSource:
    """The driver as a kernel to compile; its symbol starts with `driver_`."""
    text = routine_text(drive, (bind_arrays, run_kernel_step, now, walk), {}, 2, [name for name, _, _ in INTRINSICS])
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
    """Do steps from START on until the host is needed; every thread of a team walks all steps and does its share of each."""
    steps = words(context[STEPS])
    numbers = words(context[NUMBERS])
    count = context[STEP_COUNT]
    threads = context[THREADS]
    clock = context[CLOCK]
    times = words(context[TIMES])
    shared = False  # other threads may still be busy
    single = False  # thread 0 may still be busy
    k = context[START]
    while k < count:
        row = k * STEP_WORDS
        kind = steps[row]
        if kind == STEP_KERNEL:
            units = numbers[steps[row + 5]]
            small = steps[row + 6] >= 0 and steps[row + 7] >= 0 and numbers[steps[row + 6]] < SMALL_FLOPS and numbers[steps[row + 7]] < SMALL_BYTES
            alone = threads == 1 or units <= 1 or small
            if shared or (single and not alone):
                call_barrier(context[BARRIER])
                shared = False
                single = False
            if clock != 0 and thread == 0:
                times[2 * k] = now(clock, context[STATE])
            if alone:
                if thread == 0 and units > 0:
                    run_kernel_step(context, steps, numbers, row, thread, 0, units)
                single = threads > 1
            else:
                run_kernel_step(context, steps, numbers, row, thread, units * thread // threads, units * (thread + 1) // threads)
                shared = True
            if clock != 0:
                if shared:
                    call_barrier(context[BARRIER])
                    shared = False
                if thread == 0:
                    times[2 * k + 1] = now(clock, context[STATE])
        elif kind == STEP_SIZE:
            if shared:
                call_barrier(context[BARRIER])
            if thread == 0:
                evaluate(context[PROGRAM], context[NUMBERS], context[POINTERS], steps[row + 1], steps[row + 2])
            if threads > 1:
                call_barrier(context[BARRIER])
            shared = False
            single = False
        else:
            break
        k += 1
    if thread == 0:
        words(context[STATE])[STOPPED] = k


def run_kernel_step(context, steps, numbers, row, thread, lo, hi):
    """Gather a kernel's pointers and parameters, then call it."""
    if lo >= hi:
        return
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


def now(clock, state):
    """Nanoseconds of the monotonic clock."""
    call_clock(clock, 1, state + 8 * TIME_SECONDS)
    return words(state)[TIME_SECONDS] * 1000000000 + words(state)[TIME_NANOSECONDS]
