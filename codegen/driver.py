"""The native driver: walks a plan's steps without returning to Python.

It is a kernel like any other, over the two buffers that `ir.driver_abi` describes. One thread at a time holds the *baton*: it alone decides what comes next, does
what is too small to share, and publishes the next step that is not. All threads do parts of the published step; who does its last part has the baton. So nobody
waits for a thread that has begun nothing, and control flow (`codegen.driver_control`) is the business of one thread. A waiting thread looks at one cache line, which
also says what to do.
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
    AT_PLAN,
    AT_STEP,
    BINDING_COUNT,
    BINDING_WORDS,
    BINDINGS,
    CLOCK,
    CREW,
    CREW_WORDS,
    DATA_OFFSET,
    DIMS,
    DONE,
    DRIVER,
    EAGER,
    FAILED,
    FAILURE,
    FIRST_SCRATCH,
    FIRST_STRIDE,
    FLAGS_NEEDED,
    JOB_PLAN,
    JOB_STEP,
    KERNELS,
    LATE_SIZES,
    LINE_WORDS,
    MODE_EVALUATE,
    MODE_TEAM,
    NUMBERS,
    OBJECTS,
    OPERANDS,
    PARALLEL,
    PARENT,
    PARENT_STEP,
    PARTS,
    POINTERS,
    PROGRAM,
    RUN_OVER,
    SCRATCH,
    SCRATCH_STRIDE,
    SELF,
    SHARED,
    SLOTS,
    SMALL_BYTES,
    SMALL_FLOPS,
    SPARE_WORDS,
    SPINS,
    START,
    STATE,
    STEP_CHECK,
    STEP_COUNT,
    STEP_HOST,
    STEP_KERNEL,
    STEP_SEGMENT,
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
from . import driver_control, driver_memory
from .driver_control import enter_control, leave_body
from .driver_memory import place_segment
from .routines import routine_text

INTRINSICS: tuple[tuple[str, str, tuple], ...] = (
    ("words", "pointer_to", ("int64",)),
    ("octets", "pointer_to", ("uint8",)),
    ("put_pointer", "put_pointer", ()),
    ("call_kernel", "call_address", ("v", "ppllp")),
    ("call_parallel", "call_address", ("v", "ppii")),
    ("call_yield", "call_address", ("i", "")),
    ("call_thread_number", "call_address", ("i", "")),
    ("call_clock", "call_address", ("i", "ip")),
    ("call_allocate", "call_address", ("p", "l")),
    ("call_release", "call_address", ("v", "p")),
    ("copy_bytes", "copy_bytes", ()),
    ("evaluate", "size_program", ()),
    ("fetch_add", "fetch_add", ()),
    ("compare_exchange", "compare_exchange", ()),
    ("load_acquire", "load_acquire", ()),
    ("store_release", "store_release", ()),
    ("pause", "pause", ()),
)


@lru_cache(maxsize=2)
def driver_kernel(control: bool = True) -> KernelSource:
    """The driver as a kernel to compile; its symbol starts with `driver_`.

    Args:
        control: whether it can run control steps; one that cannot compiles in a fraction of the time.
    """
    steps = driver_control.HELPERS if control else (driver_memory.enter_control, driver_memory.leave_body)
    helpers = (*driver_memory.HELPERS, *steps, bind_arrays, now, run_kernel_step, do_part, is_small, publish, stop, advance, take_parts, work, run)
    text = routine_text(drive, helpers, {}, 2, [name for name, _, _ in INTRINSICS], "shared_device" if control else "device")
    used = tuple(i for i in INTRINSICS if f"{i[0]}(" in text)
    return KernelSource("driver", text, (dt.int64, dt.int64), (False, False), 0, (), used)


# The functions below are compiled, never run by Python. Names that are not defined here are `INTRINSICS`.
# ruff: noqa: F821
# mypy: ignore-errors
def drive(context, mode, lo, hi, scratch):
    if mode[0] == MODE_TEAM:
        work(words(context[SELF]), call_thread_number(context[THREAD_NUMBER]))
    elif mode[0] == MODE_EVALUATE:
        evaluate(context[PROGRAM], context[NUMBERS], context[POINTERS], 0, context[EAGER])
    else:
        run(words(context[SELF]))


def run(root):
    """Run from START on until the plan's end, a failure, or what the host must do; other threads join at the first step worth sharing."""
    wrong = bind_arrays(root)
    state = words(root[STATE])
    if wrong >= 0:
        state[STOPPED] = -1 - wrong
        return
    state[FAILURE] = 0
    if root[START] == 0:
        root[SCRATCH] = root[FIRST_SCRATCH]
        root[SCRATCH_STRIDE] = root[FIRST_STRIDE]
    crew = words(root[CREW])
    crew[AT_PLAN] = root[SELF]
    crew[AT_STEP] = root[START]
    if advance(root, 0):
        call_parallel(root[PARALLEL], root[DRIVER], root[TEAM], root[THREADS], 0)


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


def advance(root, thread):
    """Go on from where the walk is; 1 when a step was published for all threads, 0 when the run stops. Only for the thread that holds the baton."""
    crew = words(root[CREW])
    context = words(crew[AT_PLAN])
    k = crew[AT_STEP]
    while True:
        if k >= context[STEP_COUNT]:
            if context[PARENT] == 0:
                return stop(root, k)
            child = context
            context = words(child[PARENT])
            k = child[PARENT_STEP]
            again = leave_body(context, child)
            if again < 0:
                return stop(root, FAILED)
            if again > 0:
                context = child
                k = 0
            else:
                if context[CLOCK] != 0:
                    words(context[TIMES])[2 * k + 1] = now(context, context[CLOCK], thread)
                k += 1
            continue
        steps = words(context[STEPS])
        row = k * STEP_WORDS
        kind = steps[row]
        if kind == STEP_KERNEL:
            numbers = words(context[NUMBERS])
            units = numbers[steps[row + 5]]
            if context[THREADS] > 1 and not is_small(steps, numbers, row, units):
                publish(root, context, k, thread)
                return 1
            do_part(context, steps, k, thread, 0, units)
        elif kind == STEP_SIZE:
            evaluate(context[PROGRAM], context[NUMBERS], context[POINTERS], steps[row + 1], steps[row + 2])
        elif kind == STEP_CHECK:
            if words(context[NUMBERS])[steps[row + 1]] == 0:
                fail(context, LATE_SIZES, steps[row + 2], 0, 0)
                return stop(root, FAILED)
        elif kind == STEP_SEGMENT:
            if place_segment(context, steps[row + 1]) < 0:
                return stop(root, FAILED)
        elif kind == STEP_HOST:
            return stop(root, k)
        else:
            if context[CLOCK] != 0:
                words(context[TIMES])[2 * k] = now(context, context[CLOCK], thread)
            entered = enter_control(context, k)
            if entered < 0:
                return stop(root, FAILED)
            if entered > 0:
                context = words(entered)
                k = 0
                continue
            if context[CLOCK] != 0:
                words(context[TIMES])[2 * k + 1] = now(context, context[CLOCK], thread)
        k += 1


def stop(root, stopped):
    """End the run: tell all threads, and the host where."""
    words(root[STATE])[STOPPED] = stopped
    if root[THREADS] > 1:
        for owner in range(root[THREADS]):
            store_release(root[CREW] + 8 * (CREW_WORDS + owner * LINE_WORDS), RUN_OVER)
    return 0


def is_small(steps, numbers, row, units):
    """Whether a step is for one thread: it is one piece, or not worth sharing."""
    return units <= 1 or (steps[row + 6] >= 0 and steps[row + 7] >= 0 and numbers[steps[row + 6]] < SMALL_FLOPS and numbers[steps[row + 7]] < SMALL_BYTES)


def publish(root, context, k, thread):
    """Offer a step's parts to all threads, to this one last."""
    crew = words(root[CREW])
    threads = root[THREADS]
    crew[AT_PLAN] = context[SELF]
    crew[AT_STEP] = k + 1
    crew[SHARED] += 1
    crew[DONE] = 0
    for v in range(1, threads + 1):
        line = root[CREW] + 8 * (CREW_WORDS + (thread + v) % threads * LINE_WORDS)
        words(line)[JOB_PLAN] = context[SELF]
        words(line)[JOB_STEP] = k
        store_release(line, crew[SHARED] << 8)


def work(root, thread):
    """Be one thread of a team until the run stops."""
    line = root[CREW] + 8 * (CREW_WORDS + thread * LINE_WORDS)
    last = 0
    spins = 0
    while True:
        seen = load_acquire(line)
        if seen & 255 == RUN_OVER:
            return
        if seen >> 8 != last:
            last = seen >> 8
            spins = 0
            if take_parts(root, thread):
                advance(root, thread)
        else:
            pause()
            spins += 1
            if spins > SPINS and root[YIELD] != 0:
                call_yield(root[YIELD])


def take_parts(root, thread):
    """Do parts of the shared step, first of this thread's share, then of others'; whether that finished it.

    A line says what the step is, and says so as long as a part that was begun there is not done. While this thread has begun parts there is no other step, so that
    all parts of one call belong together.
    """
    threads = root[THREADS]
    total = threads * PARTS
    done = 0
    for v in range(threads):
        owner = (thread + v) % threads
        line = root[CREW] + 8 * (CREW_WORDS + owner * LINE_WORDS)
        seen = load_acquire(line)
        while seen & 255 < PARTS:
            if compare_exchange(line, seen, seen + 1):
                context = words(words(line)[JOB_PLAN])
                k = words(line)[JOB_STEP]
                steps = words(context[STEPS])
                units = words(context[NUMBERS])[steps[k * STEP_WORDS + 5]]
                at = owner * PARTS + (seen & 255)
                do_part(context, steps, k, thread, units * at // total, units * (at + 1) // total)
                done += 1
            seen = load_acquire(line)
    return done > 0 and fetch_add(root[CREW] + 8 * DONE, done) + done == total


def do_part(context, steps, k, thread, lo, hi):
    """Units lo <= u < hi of a kernel step, timed if there is a clock."""
    clock = context[CLOCK]
    times = words(context[TIMES])
    if clock != 0 and times[2 * k] == 0:
        times[2 * k] = now(context, clock, thread)
    if lo < hi:
        run_kernel_step(context, steps, k * STEP_WORDS, thread, lo, hi)
    if clock != 0:
        times[2 * k + 1] = now(context, clock, thread)


def run_kernel_step(context, steps, row, thread, lo, hi):
    """Gather a kernel's pointers and parameters, then call it."""
    operands = words(context[OPERANDS] + 8 * steps[row + 2])
    pointers = words(context[POINTERS])
    numbers = words(context[NUMBERS])
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
