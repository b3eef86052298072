"""The memory that the native driver and its callers share: tables, contexts and states, all of int64 words.

The driver reads two things: a *context* of addresses and counts, and a word that says what to do. Its C prototype is that of kernels, but it reads the first argument
only: the address of the pair (address of the context, address of the mode), which is what OpenMP hands to each thread as well.

    steps       STEP_WORDS each: kind, kernel or first, operands or last, buffers, parameters, units, flops, bytes (the last three are numbers; -1: not known)
    operands    positions of buffers, then of parameters, of each kernel step
    program     INSTRUCTION_WORDS each: opcode, target, a, b, c
    counters    threads + 1 each: parts of the step that are done, then for each thread's share the parts that were begun
    bindings    BINDING_WORDS each: first and count in `slots`, rank, first in `dims`, identity of the NumPy dtype; one a host array
"""
from __future__ import annotations

# Words of a context.
(STEPS, STEP_COUNT, OPERANDS, PROGRAM, EAGER, NUMBERS, POINTERS, KERNELS, THREADS, START, STATE, SCRATCH, SCRATCH_STRIDE, ARGUMENTS, ARGUMENT_STRIDE, DRIVER, TEAM,
 PARALLEL, YIELD, THREAD_NUMBER, COUNTERS, CLOCK, TIMES, OBJECTS, BINDINGS, BINDING_COUNT, SLOTS, DIMS, DATA_OFFSET, CONTEXT_WORDS) = range(30)
# What to do: run from START, be one thread of a team, evaluate the eager part of the size program.
MODE_RUN, MODE_TEAM, MODE_EVALUATE = range(3)
# Kinds of steps.
STEP_KERNEL, STEP_SIZE, STEP_SEGMENT, STEP_HOST = range(4)
STEP_WORDS, INSTRUCTION_WORDS, BINDING_WORDS = 8, 5, 5
# Words of the state: the step that the host must do (the number of steps when done, -1 - k if array k does not fit).
STOPPED, STATE_WORDS = range(2)
# A thread's argument area is one step's pointers and parameters, then SPARE_WORDS: a timespec, and a line's distance to the next thread.
SPARE_WORDS = 10
# Parts that each thread's share of a step is done in, so that others can take over what a slow thread has not begun.
PARTS = 4
# Looks at a counter before a waiting thread offers its processor to others.
SPINS = 1000
# A step below both is not worth waking other threads for.
SMALL_BYTES, SMALL_FLOPS = 32768, 131072
# NumPy's array object, in words from its data pointer, and its flags C_CONTIGUOUS | ALIGNED.
ARRAY_RANK, ARRAY_DIMS, ARRAY_DTYPE, ARRAY_FLAGS, FLAGS_NEEDED = 1, 2, 5, 6, 0x101
