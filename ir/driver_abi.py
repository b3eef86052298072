"""The memory that the native driver and its callers share: tables, contexts and states, all of int64 words.

The driver reads two things: a *context* of addresses and counts, and a word that says what to do. Its C prototype is that of kernels, but it reads the first argument
only: the address of the pair (address of the context, address of the mode), which is what OpenMP hands to each thread as well.

Each body of control flow has a context of its own beside that of the whole plan (the root). What is one for all (threads, kernels, state, crew, argument areas,
allocation) stands in every context.

    steps       STEP_WORDS each: kind, kernel or first, operands or last, buffers, parameters, units, flops, bytes (the last three are numbers; -1: not known);
                of a segment: its position; of a check: number, condition; of If: condition, body if true, body if false, number of the condition's bytes;
                of Loop: condition, body, limit (buffers or -1), numbers of the condition's and the limit's bytes; of Scan: unused, body
    operands    positions of buffers, then of parameters, of each kernel step
    program     INSTRUCTION_WORDS each: opcode, target, a, b, c
    segments    SEGMENT_WORDS each: number of bytes, number of scratch bytes, where its (buffer, number of the offset) pairs start in this table, how many they are
    blocks      BLOCK_WORDS each: address, bytes; of segments, of the scratch of segments, then of what control steps keep. The driver allocates, the owner releases
    bindings    BINDING_WORDS each: first and count in `slots`, rank, first in `dims`, identity of the NumPy dtype; one a host array
    crew        CREW_WORDS, then a line for each thread's share of a step: a count of shared steps in the upper bits, how many parts are begun in the lowest 8
    body        BODY_WORDS, then INPUT_WORDS for each input, OUTPUT_WORDS for each output, then lists that the rows name by their start
"""
from __future__ import annotations

# Words of a context.
(SELF, STEPS, STEP_COUNT, OPERANDS, PROGRAM, EAGER, NUMBERS, POINTERS, KERNELS, THREADS, START, STATE, SCRATCH, SCRATCH_STRIDE, FIRST_SCRATCH, FIRST_STRIDE, ARGUMENTS,
 ARGUMENT_STRIDE, DRIVER, TEAM, PARALLEL, YIELD, THREAD_NUMBER, CREW, CLOCK, TIMES, OBJECTS, BINDINGS, BINDING_COUNT, SLOTS, DIMS, DATA_OFFSET, ALLOCATE, RELEASE,
 BLOCKS, SEGMENTS, SEGMENT_COUNT, BODIES, BODY, GIVEN, KNOWN, PLACED, LOOP, PARENT, PARENT_STEP, IDENTITY, CONTEXT_WORDS) = range(47)
# What to do: run from START, be one thread of a team, evaluate the eager part of the size program.
MODE_RUN, MODE_TEAM, MODE_EVALUATE = range(3)
# Kinds of steps.
STEP_KERNEL, STEP_SIZE, STEP_SEGMENT, STEP_HOST, STEP_IF, STEP_LOOP, STEP_SCAN, STEP_CHECK = range(8)
STEP_WORDS, INSTRUCTION_WORDS, BINDING_WORDS, SEGMENT_WORDS, BLOCK_WORDS = 8, 5, 5, 4, 2
# Words of the state: the step that the host must do (the number of steps when done, -1 - k if array k does not fit, FAILED); what failed, in which context, at which
# of its inputs, outputs, conditions or steps, and two numbers that say more.
STOPPED, FAILURE, FAILED_IN, FAILED_AT, FAILED_A, FAILED_B, STATE_WORDS = range(7)
FAILED = -(1 << 62)
# Failures: no memory; a branch that cannot run; a size that does not fit a body's input; a condition on sizes that does not hold; a result of another size than the plan
# says; entries of a stack of different sizes; slices of different counts; a condition, a limit, or a condition that a body gives, that is not one element; a
# control step in a driver that was compiled without; a condition on sizes that depend on elements. FAILED_A: dimension; FAILED_B: its size.
(NO_MEMORY, BROKEN_BRANCH, WRONG_INPUT, WRONG_SIZES, WRONG_RESULT, UNEQUAL_ENTRIES, UNEQUAL_SLICES, NOT_ONE_CONDITION, NOT_ONE_LIMIT,
 NOT_ONE_GIVEN, NO_CONTROL, LATE_SIZES) = range(1, 13)
# Words of the crew: parts of the shared step that are done, how many steps were shared, where the walk is. Words of a line: parts begun (RUN_OVER there ends the run for
# its thread), then what the shared step is: context and step.
DONE, SHARED, AT_PLAN, AT_STEP, CREW_WORDS = 0, 8, 9, 10, 16
BEGUN, JOB_PLAN, JOB_STEP, LINE_WORDS = 0, 1, 2, 8
RUN_OVER = 255
# Words of a body's table.
(INPUT_COUNT, OUTPUT_COUNT, SIZES_FIRST, SIZES_COUNT, CHECKS_FIRST, CHECKS_COUNT, CONDITIONS_FIRST, CONDITIONS_COUNT, SCRATCH_NUMBER, FIRST_BYTES, BROKEN,
 BODY_WORDS) = range(12)
# Inputs: kind, outer buffer, carried value's place among the loop's words, axis, backwards, rank, first of its sizes among the given ones; lists: body's buffers that it
# is, numbers of the outer buffer's sizes; bytes of an element, outer block for gathering slices.
(IN_KIND, IN_BUFFER, IN_STATE, IN_AXIS, IN_BACKWARDS, IN_RANK, IN_DIMS, IN_SLOTS, IN_SLOT_COUNT, IN_SHAPE, IN_ITEM, IN_BLOCK, INPUT_WORDS) = range(13)
INPUT_CAPTURED, INPUT_CARRIED, INPUT_SLICE, INPUT_ITERATION, INPUT_CONDITION = range(5)
# Outputs: kind; whether its size is known when the body starts, so that it is written where it goes; the body's buffer, rank and number of bytes; lists: body's buffers that
# it is, numbers of its sizes; outer buffer or -1, whether its memory is planned outside; list of outer buffers that it is; list of (number, sets) pairs for the outer
# sizes; first outer block; place among the loop's words; axis, backwards, bytes of an element.
(OUT_KIND, OUT_BOUND, OUT_BUFFER, OUT_RANK, OUT_BYTES, OUT_SLOTS, OUT_SLOT_COUNT, OUT_SHAPE, OUT_TARGET, OUT_FIXED, OUT_OUTER, OUT_OUTER_COUNT, OUT_DIMS, OUT_BLOCK,
 OUT_STATE, OUT_AXIS, OUT_BACKWARDS, OUT_ITEM, OUTPUT_WORDS) = range(19)
OUTPUT_RESULT, OUTPUT_CARRIED, OUTPUT_STACK, OUTPUT_CONDITION = range(4)
# Words of a loop: number of the iteration, how many at most, the condition that the body gets and gives; then for each carried value its address and sizes, for each stack
# its address, bytes of an entry and sizes of an entry.
ITERATION, LIMIT, CONDITION, CONDITION_GIVEN, LOOP_WORDS = range(5)
CARRIED_DIMS, STACK_BYTES, STACK_DIMS = 1, 1, 2
# A thread's argument area is one step's pointers and parameters, then SPARE_WORDS: a timespec, and a line's distance to the next thread.
SPARE_WORDS = 10
# Parts that each thread's share of a step is done in, so that others can take over what a slow thread has not begun.
PARTS = 4
# Looks at a counter before a waiting thread offers its processor to others.
SPINS = 1000
# A step below both is not worth waking other threads for.
SMALL_BYTES, SMALL_FLOPS = 32768, 131072
# What blocks are aligned to, and how many entries a stack of unknown length starts with.
ALIGNMENT, FIRST_ENTRIES = 64, 16
# NumPy's array object, in words from its data pointer, and its flags C_CONTIGUOUS | ALIGNED.
ARRAY_RANK, ARRAY_DIMS, ARRAY_DTYPE, ARRAY_FLAGS, FLAGS_NEEDED = 1, 2, 5, 6, 0x101
