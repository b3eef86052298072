"""Plans: a compiled model as pure data. A session, a package and a native library execute the same plan.

All sizes live in one vector of int64 *numbers*; constants first, then the model's symbolic sizes, then derived values, which a small program
(`Instruction`s) computes. Steps name buffers and numbers by position.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

# Operators of the size program: dst = op(a, b, c), all positions of numbers; LOAD: dst = int64 element numbers[b] of buffer a.
# LOAD_I32, LOAD_B1 and LOAD_F32 read elements of those types. Floating-point values are float64 bit patterns; their operators start with f.
OPERATORS = (
    "add", "sub", "mul", "floordiv", "mod", "min", "max", "lt", "le", "eq", "ne", "select", "load", "div", "rem", "and", "or", "not", "abs", "sign",
    "load_i32", "load_b1", "load_f32", "itof", "ftoi", "fadd", "fsub", "fmul", "fdiv", "ffloor", "fceil", "fround", "fmin", "fmax", "flt", "fle", "feq",
)
OPCODE = {name: i for i, name in enumerate(OPERATORS)}


class Instruction(NamedTuple):
    """`numbers[target] = operator(numbers[a], numbers[b], numbers[c])`; division and remainder by zero give zero."""

    operator: str
    target: int
    a: int
    b: int = 0
    c: int = 0


@dataclass(frozen=True)
class BufferSpec:
    """A tensor in memory.

    Args:
        name: the value's name in the model, or one derived from it.
        dtype: short name of the element type.
        shape: positions of the sizes in the numbers.
        order: dimensions from outermost to innermost in memory.
        storage: `input`, `output`, `constant`, `arena` or `host` (its address is set by the host or control step that fills it).
        index: position among inputs, outputs, constants; for `arena` the segment; for `host` the buffer that the step fills (aliases name it too).
        offset: position of the number that holds the byte offset in its segment's arena (arena only).
        bytes: position of the number that holds its size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    storage: str
    index: int
    offset: int = 0
    bytes: int = 0


class KernelStep(NamedTuple):
    """Launch a kernel: `lo, hi` over `units`, split evenly among threads."""

    kernel: int
    buffers: tuple[int, ...]
    parameters: tuple[int, ...]
    units: int
    origin: tuple[str, ...] = ()
    flops: int = -1
    bytes: int = -1


class Preparation(NamedTuple):
    """A launch that computes constants before the first run, where a model is kept as small as possible.

    Args:
        kernel: position among the kernels.
        buffers: positions of the kernel's buffers, all of them constants.
        results: those of `buffers` that it writes; they have no array.
        parameters, units, scratch: values.
    """

    kernel: int
    buffers: tuple[int, ...]
    results: tuple[int, ...]
    parameters: tuple[int, ...]
    units: int
    scratch: int


class SizeStep(NamedTuple):
    """Run instructions first <= k < last of the size program (those that depend on elements computed before)."""

    first: int
    last: int


class CheckStep(NamedTuple):
    """End the run if number `number` is zero: what condition `condition` of the plan's `late` ones says does not hold."""

    number: int
    condition: int


class SegmentStep(NamedTuple):
    """Reserve the arena of a segment, whose size is now known."""

    segment: int


class HostStep(NamedTuple):
    """Call host function `function` on host values; the driver returns to the host for it.

    Inputs and outputs are (`buffer`, position) or (`value`, position); an absent input is None. `sizes` are (output, dim, number): sizes that are
    only known from the arrays that came back.
    """

    function: int
    inputs: tuple[tuple[str, int] | None, ...]
    outputs: tuple[tuple[str, int], ...]
    reason: str
    origin: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int, int], ...] = ()


class BodyInput(NamedTuple):
    """What an input of a body is.

    Args:
        kind: `captured` (an outer buffer), `carried` (what the iteration before gave; an outer buffer at first), `slice` (of an outer buffer along an axis,
            that many iterations from its start or end), `iteration` (its number, int64) or `condition` (bool).
        buffer: the outer buffer; -1 for `iteration` and `condition`.
        axis, backwards: of slices.
    """

    kind: str
    buffer: int = -1
    axis: int = 0
    backwards: bool = False


class BodyOutput(NamedTuple):
    """What becomes of an output of a body.

    Args:
        kind: `result` (of If), `carried` (to the input of the same number among those carried), `stack` (one entry of an axis) or `condition` (to go on).
        buffer: the outer buffer that it ends in, -1 where nothing wants it.
        axis, backwards: of stacks.
        dims: for each dimension of the outer buffer (number, whether this step sets it, else it must agree); a number that is not known by then is -1.
    """

    kind: str
    buffer: int = -1
    axis: int = 0
    backwards: bool = False
    dims: tuple[tuple[int, bool], ...] = ()


class ControlStep(NamedTuple):
    """Run bodies: `If` one of two, `Loop` one while a condition holds and up to a limit, `Scan` one for each entry of its slices.

    Args:
        bodies: positions in the whole plan's `bodies`; each belongs to this step alone.
        limit, condition: buffers of the most iterations and of the condition that If chooses by or Loop starts with; -1 if absent.
        inputs, outputs: those of each body (the branches of If have the same).
    """

    kind: str
    bodies: tuple[int, ...]
    limit: int
    condition: int
    inputs: tuple[BodyInput, ...]
    outputs: tuple[BodyOutput, ...]
    origin: tuple[str, ...] = ()


Step = KernelStep | SizeStep | CheckStep | SegmentStep | HostStep | ControlStep


class Port(NamedTuple):
    """A model input or output.

    Args:
        name: as in the model.
        type: ONNX Runtime's spelling (`tensor(float)`, `seq(tensor(int64))`).
        shape: int, or symbolic name, or None per dimension; None for what has no shape.
        buffer: position among the buffers, -1 for a host value.
        value: position among host values, -1 for a tensor.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None
    buffer: int
    value: int = -1


class SizeCheck(NamedTuple):
    """Dimension `dim` of input `input` equals number `number` (guards checked before a run)."""

    input: int
    dim: int
    number: int


class Condition(NamedTuple):
    """Number `number` is not zero, else the inputs' sizes do not fit the model: `reason` (guards checked before a run)."""

    number: int
    reason: str


@dataclass
class Plan:
    """Everything needed to run a compiled model, but its objects' and constants' bytes.

    Args:
        target: text form of the target's key.
        numbers: initial values of all numbers (0 where computed).
        sizes: (input, dim, number): sizes read from the inputs before a run.
        checks: dimensions that must equal numbers.
        conditions: what the operators demand of sizes that the inputs give.
        late: what they demand of sizes that depend on elements; `CheckStep`s look at it.
        program: the size program; the first `eager` instructions run before step 0.
        kernels: symbols, in the order steps refer to them; each is an object of the package.
        segments: position of the number holding each arena segment's bytes; segment 0 is known after the eager program.
            Outputs whose buffer's storage is not `output` are copied out after the last step.
        constants: number of constant arrays.
        scratch: position of the number with the largest scratch of any step.
        segment_scratch: position of the number with the scratch of the steps from each segment on (that of the first is `scratch`).
        host_functions: (name, callback): as in `HostNest`, or the settings of a control-flow operator that the host runs.
        host_values: number of host values.
        host_constants: (host value, shape, elements) of string tensors known when compiling.
        metadata: producer, graph name, description, version, custom entries; `broken` says why a body must not be run.
        bodies: plans that control steps run, those of nested ones too. Their steps name kernels and constants of the whole plan, their inputs and outputs are
            tensors, and they have no host steps.
        preparations: what computes constants before the first run; native libraries alone have some.
    """

    target: str
    numbers: list[int]
    sizes: list[tuple[int, int, int]]
    checks: list[SizeCheck]
    program: list[Instruction]
    eager: int
    buffers: list[BufferSpec]
    inputs: list[Port]
    outputs: list[Port]
    steps: list[Step]
    kernels: list[str]
    segments: list[int]
    constants: int
    scratch: int
    host_functions: list[tuple[str, object]] = field(default_factory=list)
    host_values: int = 0
    host_constants: list[tuple[int, tuple[int, ...], list[str]]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)
    late: list[Condition] = field(default_factory=list)
    segment_scratch: list[int] = field(default_factory=list)
    bodies: list["Plan"] = field(default_factory=list)
    preparations: list[Preparation] = field(default_factory=list)
