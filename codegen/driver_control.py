"""The driver's control flow: entering and leaving bodies. Part of the kernel that `codegen.driver` makes; run by one thread at a time.

A body's buffers are tied to what is outside: inputs point to outer buffers, to what the iteration before gave, or into the arrays that are scanned; outputs are
written where they go if their size is known before, else they are copied there. Carried values change between two blocks, so that no iteration writes what it reads.
Sizes of a body are computed anew only when those of its inputs change.
"""
from __future__ import annotations

from ..ir.driver_abi import (
    ALIGNMENT,
    BODIES,
    BODY,
    BODY_WORDS,
    BROKEN,
    BROKEN_BRANCH,
    CARRIED_DIMS,
    CHECKS_COUNT,
    CHECKS_FIRST,
    CONDITION,
    CONDITION_GIVEN,
    CONDITIONS_COUNT,
    CONDITIONS_FIRST,
    EAGER,
    FIRST_BYTES,
    FIRST_ENTRIES,
    GIVEN,
    IN_AXIS,
    IN_BACKWARDS,
    IN_BLOCK,
    IN_BUFFER,
    IN_DIMS,
    IN_ITEM,
    IN_KIND,
    IN_RANK,
    IN_SHAPE,
    IN_SLOT_COUNT,
    IN_SLOTS,
    IN_STATE,
    INPUT_CAPTURED,
    INPUT_CARRIED,
    INPUT_COUNT,
    INPUT_ITERATION,
    INPUT_SLICE,
    INPUT_WORDS,
    ITERATION,
    KNOWN,
    LIMIT,
    LOOP,
    NOT_ONE_CONDITION,
    NOT_ONE_GIVEN,
    NOT_ONE_LIMIT,
    NUMBERS,
    OUT_AXIS,
    OUT_BACKWARDS,
    OUT_BLOCK,
    OUT_BOUND,
    OUT_BUFFER,
    OUT_BYTES,
    OUT_DIMS,
    OUT_FIXED,
    OUT_ITEM,
    OUT_KIND,
    OUT_OUTER,
    OUT_OUTER_COUNT,
    OUT_RANK,
    OUT_SHAPE,
    OUT_SLOT_COUNT,
    OUT_SLOTS,
    OUT_STATE,
    OUT_TARGET,
    OUTPUT_CARRIED,
    OUTPUT_CONDITION,
    OUTPUT_COUNT,
    OUTPUT_RESULT,
    OUTPUT_STACK,
    OUTPUT_WORDS,
    PARENT_STEP,
    PLACED,
    POINTERS,
    PROGRAM,
    SCRATCH,
    SCRATCH_NUMBER,
    SCRATCH_STRIDE,
    SELF,
    SIZES_COUNT,
    SIZES_FIRST,
    STACK_BYTES,
    STACK_DIMS,
    STEP_IF,
    STEP_LOOP,
    STEP_SCAN,
    STEP_WORDS,
    STEPS,
    THREADS,
    UNEQUAL_ENTRIES,
    UNEQUAL_SLICES,
    WRONG_INPUT,
    WRONG_RESULT,
    WRONG_SIZES,
)
from .driver_memory import fail, place_buffers, reserve


# The functions below are compiled, never run by Python. Names that are not defined here are `driver.INTRINSICS`.
# ruff: noqa: F821
# mypy: ignore-errors
def place_body(child, changed):
    """Give a body scratch and its first segment."""
    table = words(child[BODY])
    numbers = words(child[NUMBERS])
    if changed:
        child[PLACED] = 0
    stride = ((numbers[table[SCRATCH_NUMBER]] + ALIGNMENT - 1) & -ALIGNMENT) + ALIGNMENT
    base = reserve(child, 0, child[THREADS] * stride + numbers[table[FIRST_BYTES]], 0)
    if base < 0:
        return -1
    child[SCRATCH] = base
    child[SCRATCH_STRIDE] = stride
    if base != child[PLACED]:
        place_buffers(child, 0, base + child[THREADS] * stride)
        child[PLACED] = base
    return 0


# ---------------------------------------------------------------------------------------------------------------------- stacks and slices
def extent(table, shape, numbers, first, last):
    """Product of sizes first <= d < last, which are numbers listed at `shape`."""
    n = 1
    for d in range(first, last):
        n *= numbers[table[shape + d]]
    return n


def find_slice(context, child, row):
    """Where entry ITERATION of a scanned array is: inside it, or gathered."""
    table = words(child[BODY])
    numbers = words(context[NUMBERS])
    axis = table[row + IN_AXIS]
    shape = table[row + IN_SHAPE]
    source = words(context[POINTERS])[table[row + IN_BUFFER]]
    outer = extent(table, shape, numbers, 0, axis)
    inner = extent(table, shape, numbers, axis + 1, table[row + IN_RANK] + 1) * table[row + IN_ITEM]
    count = numbers[table[shape + axis]]
    at = words(child[LOOP])[ITERATION]
    if table[row + IN_BACKWARDS]:
        at = count - 1 - at
    if outer == 1:
        return source + at * inner
    to = reserve(context, table[row + IN_BLOCK], outer * inner, 0)
    if to > 0:
        for o in range(outer):
            copy_bytes(to + o * inner, source + (o * count + at) * inner, inner)
    return to


def outer_entries(child, row):
    """How often an entry's elements stand apart in a stack: the product of the sizes before its axis."""
    table = words(child[BODY])
    return extent(table, table[row + OUT_SHAPE], words(child[NUMBERS]), 0, table[row + OUT_AXIS])


def prepare_stack(context, child, row, k):
    """Make room for one more entry; all entries have one size."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    numbers = words(child[NUMBERS])
    state = table[row + OUT_STATE]
    bytes_ = numbers[table[row + OUT_BYTES]]
    shape = table[row + OUT_SHAPE]
    at = loop[ITERATION]
    for d in range(table[row + OUT_RANK]):
        size = numbers[table[shape + d]]
        if at == 0:
            loop[state + STACK_DIMS + d] = size
        elif loop[state + STACK_DIMS + d] != size:
            return fail(child, UNEQUAL_ENTRIES, k, d, size)
    loop[state + STACK_BYTES] = bytes_
    if table[row + OUT_FIXED]:
        if at == 0:
            if check_result(context, child, row, k, 0) < 0:
                return -1
            loop[state] = words(context[POINTERS])[table[row + OUT_TARGET]]
        return 0
    entries = loop[LIMIT]
    if words(context[STEPS])[child[PARENT_STEP] * STEP_WORDS] == STEP_LOOP:
        entries = min(entries, max(at + 1, FIRST_ENTRIES))
    base = reserve(context, table[row + OUT_BLOCK], entries * bytes_, at * bytes_)
    loop[state] = base
    return 0 if base > 0 else -1


def stack_position(child, row):
    """The place of this iteration's entry in its stack."""
    loop = words(child[LOOP])
    return loop[LIMIT] - 1 - loop[ITERATION] if words(child[BODY])[row + OUT_BACKWARDS] else loop[ITERATION]


def spread_entry(child, row, source):
    """Copy an entry into its stack."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    outer = outer_entries(child, row)
    at = stack_position(child, row)
    state = table[row + OUT_STATE]
    if outer > 0:
        inner = loop[state + STACK_BYTES] // outer
        for o in range(outer):
            copy_bytes(loop[state] + (o * loop[LIMIT] + at) * inner, source + o * inner, inner)


# ---------------------------------------------------------------------------------------------------------------------- results
def result_size(context, child, row, d):
    """Size d of what an output ends as."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    state = table[row + OUT_STATE]
    if table[row + OUT_KIND] == OUTPUT_RESULT:
        return words(child[NUMBERS])[table[table[row + OUT_SHAPE] + d]]
    if table[row + OUT_KIND] == OUTPUT_CARRIED:
        return loop[state + CARRIED_DIMS + d]
    axis = table[row + OUT_AXIS]
    if d == axis:
        return loop[LIMIT] if words(context[STEPS])[child[PARENT_STEP] * STEP_WORDS] == STEP_SCAN else loop[ITERATION]
    return loop[state + STACK_DIMS + (d if d < axis else d - 1)]


def check_result(context, child, row, k, setting):
    """Hold a result's sizes against those that the plan knows; set the others if `setting`."""
    table = words(child[BODY])
    numbers = words(context[NUMBERS])
    rank = table[row + OUT_RANK] + (1 if table[row + OUT_KIND] == OUTPUT_STACK else 0)
    for d in range(rank):
        size = result_size(context, child, row, d)
        number = table[table[row + OUT_DIMS] + 2 * d]
        if number >= 0:
            if table[table[row + OUT_DIMS] + 2 * d + 1]:
                if setting:
                    numbers[number] = size
            elif numbers[number] != size:
                return fail(child, WRONG_RESULT, k, d, size)
    return 0


def set_result(context, child, row, address):
    """Point the outer buffers of a result to where it is."""
    table = words(child[BODY])
    pointers = words(context[POINTERS])
    for s in range(table[row + OUT_OUTER], table[row + OUT_OUTER] + table[row + OUT_OUTER_COUNT]):
        pointers[table[s]] = address


def finish_result(context, child, row, k, address, bytes_):
    """A value of so many bytes at `address` becomes a result."""
    table = words(child[BODY])
    if table[row + OUT_TARGET] < 0:
        return 0
    if check_result(context, child, row, k, 1) < 0:
        return -1
    if table[row + OUT_FIXED]:
        to = words(context[POINTERS])[table[row + OUT_TARGET]]
        if to != address:
            copy_bytes(to, address, bytes_)
    else:
        set_result(context, child, row, address)
    return 0


def finish_loop(context, child):
    """What carried values and stacks are after the last iteration becomes the results."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    for k in range(table[OUTPUT_COUNT]):
        row = BODY_WORDS + table[INPUT_COUNT] * INPUT_WORDS + k * OUTPUT_WORDS
        state = table[row + OUT_STATE]
        if table[row + OUT_KIND] == OUTPUT_CARRIED:
            bytes_ = table[row + OUT_ITEM]
            for d in range(table[row + OUT_RANK]):
                bytes_ *= loop[state + CARRIED_DIMS + d]
            address = loop[state]
            if loop[ITERATION] == 0 and not table[row + OUT_FIXED]:
                address = reserve(context, table[row + OUT_BLOCK], bytes_, 0)
                if address < 0:
                    return -1
                copy_bytes(address, loop[state], bytes_)
            if finish_result(context, child, row, k, address, bytes_) < 0:
                return -1
        elif table[row + OUT_KIND] == OUTPUT_STACK and table[row + OUT_TARGET] >= 0:
            if loop[ITERATION] == 0:
                if empty_stack(context, child, row) < 0:
                    return -1
            if check_result(context, child, row, k, 1) < 0:
                return -1
            if not table[row + OUT_FIXED]:
                set_result(context, child, row, loop[state])
    return 0


def empty_stack(context, child, row):
    """The stack of a loop that never ran: sizes that the plan does not know are zero."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    numbers = words(context[NUMBERS])
    axis = table[row + OUT_AXIS]
    for d in range(table[row + OUT_RANK] + 1):
        number = table[table[row + OUT_DIMS] + 2 * d]
        size = 0 if number < 0 or table[table[row + OUT_DIMS] + 2 * d + 1] else numbers[number]
        if d != axis:
            loop[table[row + OUT_STATE] + STACK_DIMS + (d if d < axis else d - 1)] = size
    base = 0
    if not table[row + OUT_FIXED]:
        base = reserve(context, table[row + OUT_BLOCK], 0, 0)
        loop[table[row + OUT_STATE]] = base
    return base


# ---------------------------------------------------------------------------------------------------------------------- one run of a body
def set_inputs(context, child):
    """Point a body's inputs to what they are in this iteration; 1 if a size changed, -1 if it cannot be."""
    table = words(child[BODY])
    given = words(child[GIVEN])
    loop = words(child[LOOP])
    numbers = words(context[NUMBERS])
    pointers = words(child[POINTERS])
    changed = 1 - child[KNOWN]
    for k in range(table[INPUT_COUNT]):
        row = BODY_WORDS + k * INPUT_WORDS
        kind = table[row + IN_KIND]
        if kind == INPUT_CAPTURED and loop[ITERATION] > 0:
            continue
        to = table[row + IN_DIMS]
        shape = table[row + IN_SHAPE]
        rank = table[row + IN_RANK]
        at = 0
        if kind == INPUT_CARRIED:
            state = table[row + IN_STATE]
            at = loop[state]
            for d in range(rank):
                size = loop[state + CARRIED_DIMS + d]
                if given[to + d] != size:
                    given[to + d] = size
                    changed = 1
        elif kind in (INPUT_CAPTURED, INPUT_SLICE):
            axis = rank
            if kind == INPUT_CAPTURED:
                at = words(context[POINTERS])[table[row + IN_BUFFER]]
            else:
                axis = table[row + IN_AXIS]
                at = find_slice(context, child, row)
                if at < 0:
                    return -1
            if loop[ITERATION] == 0:
                for d in range(rank):
                    size = numbers[table[shape + (d if d < axis else d + 1)]]
                    if given[to + d] != size:
                        given[to + d] = size
                        changed = 1
        else:
            at = child[LOOP] + 8 * (ITERATION if kind == INPUT_ITERATION else CONDITION)
            for d in range(rank):
                given[to + d] = 1
        for s in range(table[row + IN_SLOTS], table[row + IN_SLOTS] + table[row + IN_SLOT_COUNT]):
            pointers[table[s]] = at
    return changed


def compute_sizes(child):
    """Run a body's size program for the sizes given, and check them."""
    table = words(child[BODY])
    given = words(child[GIVEN])
    numbers = words(child[NUMBERS])
    child[KNOWN] = 0
    for k in range(table[SIZES_COUNT]):
        at = table[SIZES_FIRST] + 2 * k
        numbers[table[at + 1]] = given[table[at]]
    evaluate(child[PROGRAM], child[NUMBERS], child[POINTERS], 0, child[EAGER])
    for k in range(table[CHECKS_COUNT]):
        at = table[CHECKS_FIRST] + 2 * k
        if given[table[at]] != numbers[table[at + 1]]:
            return fail(child, WRONG_INPUT, k, numbers[table[at + 1]], given[table[at]])
    for k in range(table[CONDITIONS_COUNT]):
        if numbers[table[table[CONDITIONS_FIRST] + k]] == 0:
            return fail(child, WRONG_SIZES, k, 0, 0)
    child[KNOWN] = 1
    return 0


def destination(context, child, row, k):
    """Where a body's output of known size is to be written."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    bytes_ = words(child[NUMBERS])[table[row + OUT_BYTES]]
    kind = table[row + OUT_KIND]
    if kind == OUTPUT_CONDITION:
        if bytes_ != 1:
            return fail(child, NOT_ONE_GIVEN, k, 0, bytes_)
        return child[LOOP] + 8 * CONDITION_GIVEN
    if kind == OUTPUT_RESULT and table[row + OUT_FIXED]:
        if check_result(context, child, row, k, 0) < 0:
            return -1
        return words(context[POINTERS])[table[row + OUT_TARGET]]
    if kind == OUTPUT_STACK:
        if prepare_stack(context, child, row, k) < 0:
            return -1
        if outer_entries(child, row) == 1:
            return loop[table[row + OUT_STATE]] + stack_position(child, row) * bytes_
        return reserve(context, table[row + OUT_BLOCK] + 1, bytes_, 0)
    second = loop[ITERATION] & 1 if kind == OUTPUT_CARRIED else 0
    return reserve(context, table[row + OUT_BLOCK] + second, bytes_, 0)


def start_body(context, child):
    """Make a body ready to run; its context's address, or -1."""
    table = words(child[BODY])
    pointers = words(child[POINTERS])
    if table[BROKEN]:
        return fail(child, BROKEN_BRANCH, 0, 0, 0)
    changed = set_inputs(context, child)
    if changed < 0:
        return -1
    if changed > 0:
        if compute_sizes(child) < 0:
            return -1
    if place_body(child, changed) < 0:
        return -1
    for k in range(table[OUTPUT_COUNT]):
        row = BODY_WORDS + table[INPUT_COUNT] * INPUT_WORDS + k * OUTPUT_WORDS
        if table[row + OUT_BOUND]:
            at = destination(context, child, row, k)
            if at < 0:
                return -1
            for s in range(table[row + OUT_SLOTS], table[row + OUT_SLOTS] + table[row + OUT_SLOT_COUNT]):
                pointers[table[s]] = at
    return child[SELF]


def take_output(context, child, row, k):
    """Bring an output of a body that has run to where it belongs."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    numbers = words(child[NUMBERS])
    address = words(child[POINTERS])[table[row + OUT_BUFFER]]
    bytes_ = numbers[table[row + OUT_BYTES]]
    kind = table[row + OUT_KIND]
    if kind == OUTPUT_RESULT:
        return finish_result(context, child, row, k, address, bytes_)
    if kind == OUTPUT_STACK:
        if table[row + OUT_BOUND]:
            if outer_entries(child, row) != 1:
                spread_entry(child, row, address)
            return 0
        if prepare_stack(context, child, row, k) < 0:
            return -1
        spread_entry(child, row, address)
        return 0
    if not table[row + OUT_BOUND]:
        to = destination(context, child, row, k)
        if to < 0:
            return -1
        copy_bytes(to, address, bytes_)
        address = to
    if kind == OUTPUT_CARRIED:
        state = table[row + OUT_STATE]
        loop[state] = address
        for d in range(table[row + OUT_RANK]):
            loop[state + CARRIED_DIMS + d] = numbers[table[table[row + OUT_SHAPE] + d]]
    return 0


def leave_body(context, child):
    """Take a body's outputs; 1 if it is to run once more (and is ready to), 0 if its step is done, -1 if something is wrong."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    for k in range(table[OUTPUT_COUNT]):
        if take_output(context, child, BODY_WORDS + table[INPUT_COUNT] * INPUT_WORDS + k * OUTPUT_WORDS, k) < 0:
            return -1
    kind = words(context[STEPS])[child[PARENT_STEP] * STEP_WORDS]
    if kind == STEP_IF:
        return 0
    loop[ITERATION] += 1
    if kind == STEP_LOOP:
        loop[CONDITION] = octets(child[LOOP] + 8 * CONDITION_GIVEN)[0]
    if loop[ITERATION] < loop[LIMIT] and (kind == STEP_SCAN or loop[CONDITION] != 0):
        return 1 if start_body(context, child) > 0 else -1
    return finish_loop(context, child)


# ---------------------------------------------------------------------------------------------------------------------- control steps
def one_element(context, step, number, bytes_, failure):
    """Whether a buffer that decides something is one element."""
    if number >= 0 and words(context[NUMBERS])[number] != bytes_:
        return fail(context, failure, step, 0, words(context[NUMBERS])[number])
    return 0


def enter_control(context, k):
    """Begin a control step: the address of the body's context to run, 0 if there is none to run, -1 if something is wrong."""
    steps = words(context[STEPS])
    pointers = words(context[POINTERS])
    bodies = words(context[BODIES])
    row = k * STEP_WORDS
    kind = steps[row]
    condition = 1
    if kind != STEP_SCAN and steps[row + 1] >= 0:
        if one_element(context, k, steps[row + 4], 1, NOT_ONE_CONDITION) < 0:
            return -1
        condition = 1 if octets(pointers[steps[row + 1]])[0] else 0
    if kind == STEP_IF:
        child = words(bodies[steps[row + 2] if condition else steps[row + 3]])
        words(child[LOOP])[ITERATION] = 0
        return start_body(context, child)
    child = words(bodies[steps[row + 2]])
    loop = words(child[LOOP])
    loop[ITERATION] = 0
    loop[CONDITION] = condition
    loop[CONDITION_GIVEN] = 0
    loop[LIMIT] = 0x7FFFFFFFFFFFFFFF
    if kind == STEP_LOOP and steps[row + 3] >= 0:
        if one_element(context, k, steps[row + 5], 8, NOT_ONE_LIMIT) < 0:
            return -1
        loop[LIMIT] = words(pointers[steps[row + 3]])[0]
    if begin_loop(context, child, kind) < 0:
        return -1
    if loop[LIMIT] <= 0 or condition == 0:
        return finish_loop(context, child)
    return start_body(context, child)


def begin_loop(context, child, kind):
    """Enter the first carried values and, for scans, how many entries there are."""
    table = words(child[BODY])
    loop = words(child[LOOP])
    numbers = words(context[NUMBERS])
    pointers = words(context[POINTERS])
    found = 0
    for j in range(table[INPUT_COUNT]):
        row = BODY_WORDS + j * INPUT_WORDS
        if table[row + IN_KIND] == INPUT_CARRIED:
            state = table[row + IN_STATE]
            loop[state] = pointers[table[row + IN_BUFFER]]
            for d in range(table[row + IN_RANK]):
                loop[state + CARRIED_DIMS + d] = numbers[table[table[row + IN_SHAPE] + d]]
        elif table[row + IN_KIND] == INPUT_SLICE:
            count = numbers[table[table[row + IN_SHAPE] + table[row + IN_AXIS]]]
            if found and count != loop[LIMIT]:
                return fail(child, UNEQUAL_SLICES, j, loop[LIMIT], count)
            loop[LIMIT] = count
            found = 1
    return 0


HELPERS = (place_body, extent, find_slice, outer_entries, result_size, check_result, prepare_stack, stack_position,
           spread_entry, set_result, finish_result, empty_stack, finish_loop, set_inputs, compute_sizes, destination, start_body, take_output, leave_body,
           one_element, begin_loop, enter_control)
