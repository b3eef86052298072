"""Kernel calls -> plan: sizes become numbers and a size program, tensors become buffers in one arena a segment, calls become steps."""
from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.errors import UnsupportedError
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall, KernelSource
from ..ir.loops import Check, HostNest, HostRef, Ref
from ..ir.plan import BufferSpec, CheckStep, Condition, ControlStep, HostStep, Instruction, KernelStep, Plan, Port, Preparation, SegmentStep, SizeCheck, SizeStep, Step
from .arena import ALIGNMENT, Interval, place_static, place_symbolic
from .control import ends

EAGER = -2  # level of numbers that depend on input shapes alone; -1: on elements of inputs; k >= 0: on the result of item k


@dataclass(frozen=True)
class Alias:
    """`target` is `source` under another shape: same bytes, no work."""

    target: Tensor
    source: Tensor


Item = KernelCall | HostNest | Alias


class NumberTable:
    """Numbers of a plan, the instructions that compute them, and when each is known."""

    def __init__(self) -> None:
        self.initial: list[int] = []
        self.level: list[int] = []
        self.code: list[tuple[int, Instruction]] = []  # (level, instruction)
        self._known: dict[Expr, int] = {}
        self._constants: dict[int, int] = {}
        self.element_source: dict[str, tuple[int, int]] = {}  # name of a tensor -> (buffer, level); sizes know tensors by name

    def constant(self, value: int) -> int:
        if value not in self._constants:
            self._constants[value] = self._new(EAGER, value)
        return self._constants[value]

    def bind(self, symbol: Expr, level: int) -> int:
        """A number for a size that is read from an array."""
        self._known[symbol] = self._new(level)
        return self._known[symbol]

    def bound(self, e: Expr) -> bool:
        return e in self._known

    def _new(self, level: int, value: int = 0) -> int:
        self.initial.append(value)
        self.level.append(level)
        return len(self.initial) - 1

    def emit(self, operator: str, *args: int, level: int = EAGER) -> int:
        """A number computed by one instruction."""
        level = max([level, *(self.level[a] for a in args)])
        target = self._new(level)
        self.code.append((level, Instruction(operator, target, *args)))
        return target

    def number(self, e: Expr) -> int:
        """The position of an axis-free expression's value."""
        if e not in self._known:
            for n in ex.walk(e):
                if n not in self._known:
                    self._known[n] = self._compute(n)
        return self._known[e]

    def _compute(self, e: Expr) -> int:
        args = [self._known[c] for c in ex.children(e)]
        if e.op == "const":
            return self.constant(struct.unpack("<q", struct.pack("<d", e.value))[0] if e.dtype.is_float else int(e.value))
        if e.op == "poly":
            return self._polynomial(e)
        if e.op == "load":
            return self._load(e, args)
        if e.op == "sym" and e.args:
            return args[0]
        if e.op == "sym":
            raise UnsupportedError(f"the size '{e.text}' cannot be read from any input's shape",
                                   hint="give it a value through free-dimension overrides, or name it in an input's shape")
        if e.op == "where":
            return self.emit("select", *args)
        if e.op == "cast":
            return self._cast(e, args[0])
        operands = e.args[0].dtype
        if operands.is_float:
            return self._float_operation(e, args)
        if e.op == "neg":
            return self.emit("sub", self.constant(0), args[0])
        if e.op in ("floor", "ceil", "round", "trunc"):
            return args[0]
        if e.op in _INTEGER_OPERATORS:
            return self.emit(_INTEGER_OPERATORS[e.op], *args)
        raise UnsupportedError(f"a size depends on {e.op}, which sizes cannot use: {e.text}")

    def _polynomial(self, e: Expr) -> int:
        total = -1
        for mono, k in e.value:
            term = -1 if k == 1 and mono else self.constant(k)
            for atom in mono:
                term = self._known[atom] if term < 0 else self.emit("mul", term, self._known[atom])
            total = term if total < 0 else self.emit("add", total, term)
        return total

    def _load(self, e: Expr, args: list[int]) -> int:
        tensor = ex.load_tensor(e)
        if tensor.name not in self.element_source:
            raise UnsupportedError(f"a size depends on elements of '{tensor.name}', which is not in memory when the size is needed")
        buffer, level = self.element_source[tensor.name]
        operator = READABLE.get(tensor.dtype)
        if operator is None:
            raise UnsupportedError(f"a size depends on elements of '{tensor.name}' of type {tensor.dtype.name}; int64, int32, bool and float can be read")
        flat = self.constant(0)
        for index, size in zip(args, tensor.shape, strict=True):
            flat = self.emit("add", self.emit("mul", flat, self.number(size)), index)
        target = self.emit(operator, 0, flat, level=level)
        where, _instruction = self.code[-1]
        self.code[-1] = (where, Instruction(operator, target, buffer, flat))
        return target

    def _cast(self, e: Expr, arg: int) -> int:
        source = e.args[0].dtype
        if (source.is_float and e.dtype.is_float) or (not source.is_float and not e.dtype.is_float and e.dtype is not dt.boolean):
            return arg
        if e.dtype is dt.boolean:
            return self.emit("ne", arg, self.constant(0))
        return self.emit("itof" if e.dtype.is_float else "ftoi", arg)

    def _float_operation(self, e: Expr, args: list[int]) -> int:
        zero, one = self.constant(0), self.constant(struct.unpack("<q", struct.pack("<d", 1.0))[0])
        if e.op == "neg":
            return self.emit("fsub", zero, args[0])
        if e.op == "trunc":
            return self.emit("itof", self.emit("ftoi", args[0]))
        if e.op == "ne":
            return self.emit("not", self.emit("feq", *args))
        if e.op == "reciprocal":
            return self.emit("fdiv", one, args[0])
        if e.op in _FLOAT_OPERATORS:
            return self.emit(_FLOAT_OPERATORS[e.op], *args)
        raise UnsupportedError(f"a size depends on {e.op} of floating-point values, which sizes cannot use: {e.text}")


READABLE = {dt.int64: "load", dt.int32: "load_i32", dt.boolean: "load_b1", dt.float32: "load_f32"}  # what sizes can read, and how
_INTEGER_OPERATORS = {o: o for o in ("add", "sub", "mul", "floordiv", "mod", "min", "max", "lt", "le", "eq", "ne", "div", "rem", "and", "or", "not", "abs", "sign")}
_INTEGER_OPERATORS["xor"] = "ne"
_FLOAT_OPERATORS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "floor": "ffloor", "ceil": "fceil", "round": "fround", "min": "fmin", "max": "fmax",
                    "lt": "flt", "le": "fle", "eq": "feq"}


def not_negative(t: Tensor) -> list[Check]:
    """What a tensor's sizes must fulfil to be sizes, where that is not certain."""
    return [Check(ex.binary("le", ex.const(0), d), f"dimension {k} of '{t.name}' would be less than zero: {d.text}")
            for k, d in enumerate(t.shape) if not integer.prove_nonnegative(d)]


def in_buffer(ref: Ref) -> TypeGuard[Tensor]:
    """Whether a value lives in a buffer: tensors of numbers."""
    return not on_host(ref)


def on_host(ref: Ref) -> bool:
    """Whether a value lives on the host rather than in a buffer."""
    return isinstance(ref, HostRef) or ref.dtype is dt.string


class PlanBuilder:
    """Builds one plan; use `build_plan`."""

    def __init__(self, items: Sequence[Item], inputs: Sequence[Ref], outputs: Sequence[Ref], constants: Sequence[Tensor],
                 layouts: Mapping[Tensor, tuple[int, ...]], conditions: Sequence[Check] = (), native: Mapping[HostNest, tuple[int, ...]] | None = None) -> None:
        self.items, self.inputs, self.outputs, self.constants, self.layouts = items, list(inputs), list(outputs), list(constants), layouts
        self.native = native or {}
        self.numbers = NumberTable()
        self.buffers: list[BufferSpec] = []
        self.position: dict[Tensor, int] = {}
        self.values: dict[Ref, int] = {}
        self.root: dict[Tensor, Tensor] = {}
        self.kernels: dict[str, int] = {}
        self.sources: list[KernelSource] = []
        self.defined: dict[Tensor, int] = {}  # root -> item that first writes it
        self.last_use: dict[Tensor, int] = {}
        self.checks: list[SizeCheck] = []
        self.demanded = list(conditions)
        self.late: dict[int, list[int]] = {}  # item -> positions of the conditions that can be looked at after it
        self.late_conditions: list[Condition] = []
        self.conditions: list[Condition] = []
        self.later_scratch: list[int] = []  # scratch sizes that depend on data
        self.sizes: list[tuple[int, int, int]] = []
        self.host_functions: list[tuple[str, object]] = []
        self.host_sizes: dict[int, list[tuple[int, int, int]]] = {}

    # ---- aliases, lifetimes
    def resolve(self, t: Tensor) -> Tensor:
        while t in self.root:
            t = self.root[t]
        return t

    def link_aliases(self) -> None:
        outputs = {o for o in self.outputs if isinstance(o, Tensor)}
        for item in self.items:
            if isinstance(item, Alias):
                source = self.resolve(item.source)
                if item.target in outputs and source not in outputs:
                    self.root[source] = item.target
                else:
                    self.root[item.target] = source

    def measure_lifetimes(self) -> None:
        for k, item in enumerate(self.items):
            for t in self._tensors_of(item):
                r = self.resolve(t)
                self.defined.setdefault(r, k)
                self.last_use[r] = k
        for o in self.outputs:
            if isinstance(o, Tensor):
                self.last_use[self.resolve(o)] = len(self.items)

    def _tensors_of(self, item: Item) -> list[Tensor]:
        if isinstance(item, KernelCall):
            return list(item.buffers)
        if isinstance(item, Alias):
            return []
        return [r for r in (*item.inputs, *item.results) if isinstance(r, Tensor) and r.dtype is not dt.string]

    # ---- numbers
    def bind_inputs(self) -> None:
        pending: list[tuple[int, int, Expr]] = []
        for k, ref in enumerate(self.inputs):
            if isinstance(ref, Tensor):
                for d, size in enumerate(ref.shape):
                    if size.op == "sym" and not self.numbers.bound(size):
                        self.sizes.append((k, d, self.numbers.bind(size, EAGER)))
                    else:
                        pending.append((k, d, size))
        for k, d, size in pending:
            self.checks.append(SizeCheck(k, d, self.numbers.number(size)))
        self._bind_conditions(lambda c: not ex.loads(c.condition))

    def _bind_conditions(self, chosen: Callable[[Check], bool]) -> None:
        """Numbers for the chosen conditions whose sizes are known; looked at before the run, or after the item that decides them."""
        left = []
        for c in self.demanded:
            if not chosen(c) or not self._computable(c.condition):
                left.append(c)
                continue
            number = self.numbers.number(c.condition)
            level = self.numbers.level[number]
            if level == EAGER:
                self.conditions.append(Condition(number, c.reason))
            else:
                self.late.setdefault(level, []).append(len(self.late_conditions))
                self.late_conditions.append(Condition(number, c.reason))
        self.demanded = left

    def _computable(self, e: Expr) -> bool:
        """Whether the plan can compute a condition: its sizes are bound, and elements that it reads are in memory, of a type that sizes read."""
        return all(n.args or self.numbers.bound(n) for n in ex.walk(e) if n.op == "sym") and all(
            t.name in self.numbers.element_source and t.dtype in READABLE for t in map(ex.load_tensor, ex.loads(e)))

    def bind_host_results(self) -> None:
        for k, item in enumerate(self.items):
            if isinstance(item, HostNest):
                for j, ref in enumerate(item.results):
                    if isinstance(ref, Tensor):
                        for d, size in enumerate(ref.shape):
                            if size.op == "sym" and not size.args and not self.numbers.bound(size):  # what has a definition is computed from it
                                self.host_sizes.setdefault(k, []).append((j, d, self.numbers.bind(size, k)))

    def shape_numbers(self, t: Tensor) -> tuple[int, ...]:
        return tuple(self.numbers.number(d) for d in t.shape)

    # ---- buffers
    def add_buffer(self, t: Tensor, storage: str, index: int) -> int:
        self.position[t] = len(self.buffers)
        order = self.layouts.get(t, tuple(range(t.rank)))
        self.buffers.append(BufferSpec(t.name, t.dtype.short, (), order, storage, index))
        return self.position[t]

    def make_buffers(self) -> None:
        """Storage for every tensor; arena offsets and sizes follow once all sizes are numbers."""
        host = {r for item in self.items if isinstance(item, HostNest) for r in item.results if item not in self.native or not self._known_early(r)}
        for k, ref in enumerate(self.inputs):
            if in_buffer(ref):
                self.add_buffer(ref, "input", k)
        for k, t in enumerate(self.constants):
            self.add_buffer(t, "constant", k)
        for k, ref in enumerate(self.outputs):
            if in_buffer(ref) and ref not in self.position and ref not in host and self.resolve(ref) is ref:
                self.add_buffer(ref, "output", k)
        for item in self.items:
            for t in [*self._tensors_of(item), *([item.target, item.source] if isinstance(item, Alias) else [])]:
                r = self.resolve(t)
                if r not in self.position:
                    self.add_buffer(r, "host" if r in host else "arena", len(self.buffers) if r in host else 0)
                if t not in self.position:
                    same = self.buffers[self.position[r]]
                    self.add_buffer(t, same.storage, same.index)
        for k, item in enumerate(self.items):
            for t in self._written(item):
                self.numbers.element_source[t.name] = (self.position[t], k)
        for ref in self.inputs:
            if in_buffer(ref):
                self.numbers.element_source[ref.name] = (self.position[ref], -1)
        for t in self.constants:
            self.numbers.element_source[t.name] = (self.position[t], -1)

    def _known_early(self, ref: Ref) -> bool:
        """Whether the sizes of a tensor follow from the inputs' shapes."""
        given = {d for r in self.inputs if isinstance(r, Tensor) for d in r.shape if d.op == "sym"}
        return isinstance(ref, Tensor) and all(e.op != "load" and (e.op != "sym" or e in given) for e in ex.walk(ref.shape))

    def _written(self, item: Item) -> list[Tensor]:
        if isinstance(item, KernelCall):
            return [t for t, w in zip(item.buffers, item.kernel.written, strict=True) if w]
        if isinstance(item, Alias):
            return [item.target]
        return [r for r in item.results if isinstance(r, Tensor) and r.dtype is not dt.string]

    # ---- assembly
    def build(self) -> tuple[Plan, list[KernelSource]]:
        self.link_aliases()
        self.measure_lifetimes()
        self.make_buffers()
        self.bind_inputs()
        self.bind_host_results()
        self.demanded += [c for t in self.position for c in not_negative(t)]
        self._bind_conditions(lambda c: True)
        steps: list[tuple[int, Step]] = []
        scratch = self.numbers.constant(0)
        for k, item in enumerate(self.items):
            if isinstance(item, KernelCall):
                steps.append((k, self._kernel_step(item)))
                need = self.numbers.number(item.scratch_bytes)
                if self.numbers.level[need] == EAGER:
                    scratch = self.numbers.emit("max", scratch, need)
                else:
                    self.later_scratch.append(need)
            elif isinstance(item, HostNest):
                steps.append((k, self._control_step(k, item) if item in self.native else self._host_step(k, item)))
        self._size_buffers()
        segments, segment_at = self._place()
        segment_scratch = self._place_scratch(scratch, segment_at)
        program, eager, size_steps = self._program()
        ordered = self._interleave(steps, size_steps, segment_at)
        plan = Plan(target="", numbers=self.numbers.initial, sizes=self.sizes, checks=self.checks, program=program, eager=eager, buffers=self.buffers,
                    inputs=[], outputs=[], steps=ordered, kernels=[s.symbol for s in self.sources], segments=segments, constants=len(self.constants),
                    scratch=scratch, host_functions=list(self.host_functions), host_values=len(self.values), conditions=self.conditions,
                    segment_scratch=segment_scratch, late=self.late_conditions)
        return plan, self.sources

    def _place_scratch(self, scratch: int, segment_at: Mapping[int, int]) -> list[int]:
        """The scratch of each segment's steps: what is known at the start, and from each later segment on what it adds."""
        found = [scratch]
        for level in sorted(segment_at):
            for need in self.later_scratch:
                if self.numbers.level[need] == level:
                    scratch = self.numbers.emit("max", scratch, need)
            found.append(scratch)
        return found

    def kernel(self, call: KernelCall) -> int:
        symbol = call.kernel.symbol
        if symbol not in self.kernels:
            self.kernels[symbol] = len(self.sources)
            self.sources.append(call.kernel)
        return self.kernels[symbol]

    def preparation(self, call: KernelCall) -> Preparation:
        """A launch over constants alone, whose sizes are all known."""
        buffers = [self.position[t] for t in call.buffers]
        results = tuple(k for k, written in zip(buffers, call.kernel.written, strict=True) if written)
        return Preparation(self.kernel(call), tuple(buffers), results, tuple(int(p.value) for p in call.parameters), int(call.units.value), int(call.scratch_bytes.value))

    def _kernel_step(self, call: KernelCall) -> KernelStep:
        number = self.numbers.number
        return KernelStep(self.kernel(call), tuple(self.position[t] for t in call.buffers), tuple(number(p) for p in call.parameters), number(call.units),
                          call.origin, -1 if call.flops is None else number(call.flops), -1 if call.bytes is None else number(call.bytes))

    def host_value(self, ref: Ref) -> int:
        return self.values.setdefault(ref, len(self.values))

    def _host_step(self, k: int, nest: HostNest) -> HostStep:
        def port(ref: Ref) -> tuple[str, int]:
            return ("buffer", self.position[ref]) if in_buffer(ref) else ("value", self.host_value(ref))
        self.host_functions.append((type(nest.function).__name__, nest.function))
        return HostStep(len(self.host_functions) - 1, tuple(None if i is None else port(i) for i in nest.inputs), tuple(port(r) for r in nest.results),
                        nest.reason, nest.origin, tuple(self.host_sizes.get(k, ())))

    def _control_step(self, k: int, nest: HostNest) -> ControlStep:
        tied = ends(nest)
        sets = {number for _, _, number in self.host_sizes.get(k, ())}

        def buffer(ref: Ref | None) -> int:
            return self.position[ref] if isinstance(ref, Tensor) else -1

        def dims(ref: Ref | None) -> tuple[tuple[int, bool], ...]:
            numbers = [self.numbers.number(d) for d in ref.shape] if isinstance(ref, Tensor) else []
            return tuple((n if n in sets or self.numbers.level[n] < k else -1, n in sets) for n in numbers)
        inputs = tuple(i._replace(buffer=buffer(r)) for i, r in tied.inputs)
        outputs = tuple(o._replace(buffer=buffer(r), dims=dims(r)) for o, r in tied.outputs)
        return ControlStep(nest.function.kind, self.native[nest], buffer(tied.limit), buffer(tied.condition), inputs, outputs, nest.origin)  # type: ignore[attr-defined]

    def _size_buffers(self) -> None:
        for t, p in self.position.items():
            b = self.buffers[p]
            size = self.numbers.number(t.numel() * t.dtype.itemsize_bytes)
            self.buffers[p] = BufferSpec(b.name, b.dtype, self.shape_numbers(t), b.order, b.storage, b.index, 0, size)

    def _place(self) -> tuple[list[int], dict[int, int]]:
        """Arena offsets. Returns the numbers of the segments' sizes and level -> segment for those that come later than the start."""
        groups: dict[int, list[Tensor]] = {}
        for t, p in list(self.position.items()):
            b = self.buffers[p]
            if self.resolve(t) is not t:
                continue
            level = self.numbers.level[b.bytes]
            if b.storage == "output" and any(self.numbers.level[n] != EAGER for n in (b.bytes, *b.shape)):  # no elements may still have a late shape
                self._set(t, storage="arena")
                b = self.buffers[p]
            if b.storage == "arena":
                groups.setdefault(level, []).append(t)
        segments: list[int] = []
        segment_at: dict[int, int] = {}
        for level in sorted({EAGER, *groups, *(self.numbers.level[n] for n in self.later_scratch)}):
            if level != EAGER:
                segment_at[level] = len(segments)
            segments.append(self._place_segment(groups.get(level, []), len(segments)))
        for t in self.position:
            r = self.resolve(t)
            if r is not t:
                root = self.buffers[self.position[r]]
                self._set(t, storage=root.storage, index=root.index, offset=root.offset)
        return segments, segment_at

    def _set(self, t: Tensor, storage: str | None = None, index: int | None = None, offset: int | None = None) -> None:
        spec = self.buffers[self.position[t]]
        self.buffers[self.position[t]] = replace(spec, storage=spec.storage if storage is None else storage, index=spec.index if index is None else index,
                                                 offset=spec.offset if offset is None else offset)

    def _place_segment(self, tensors: list[Tensor], segment: int) -> int:
        # An output that became part of the arena lives to the end; so does what is only written.
        intervals = [Interval(t, self.defined.get(t, 0), self.last_use.get(t, self.defined.get(t, 0))) for t in tensors]
        sizes = [integer.as_int(t.numel() * t.dtype.itemsize_bytes) for t in tensors]
        if all(s is not None for s in sizes):
            offsets, total = place_static(intervals, [int(s or 0) for s in sizes])
            for t, o in zip(tensors, offsets, strict=True):
                self._set(t, index=segment, offset=self.numbers.constant(o))
            return self.numbers.constant(total)
        slots = place_symbolic(intervals, [t.numel() * t.dtype.itemsize_bytes for t in tensors])
        start = self.numbers.constant(0)
        for slot in slots:
            size = self.numbers.constant(0)
            for k in slot:
                self._set(tensors[k], index=segment, offset=start)
                size = self.numbers.emit("max", size, self.buffers[self.position[tensors[k]]].bytes)
            padded = self.numbers.emit("mul", self.numbers.emit("floordiv", self.numbers.emit("add", size, self.numbers.constant(ALIGNMENT - 1)),
                                                               self.numbers.constant(ALIGNMENT)), self.numbers.constant(ALIGNMENT))
            start = self.numbers.emit("add", start, padded)
        return start

    def _program(self) -> tuple[list[Instruction], int, dict[int, SizeStep]]:
        """Instructions ordered by when they can run: the eager ones, then one range a level."""
        program = [i for level, i in self.numbers.code if level == EAGER]
        eager = len(program)
        steps: dict[int, SizeStep] = {}
        for level in sorted({lv for lv, _ in self.numbers.code if lv != EAGER}):
            first = len(program)
            program += [i for lv, i in self.numbers.code if lv == level]
            steps[level] = SizeStep(first, len(program))
        return program, eager, steps

    def _interleave(self, steps: list[tuple[int, Step]], size_steps: dict[int, SizeStep], segment_at: dict[int, int]) -> list[Step]:
        out: list[Step] = []

        def after(level: int) -> None:
            if level in size_steps:
                out.append(size_steps[level])
            out.extend(CheckStep(self.late_conditions[c].number, c) for c in self.late.get(level, ()))
            if level in segment_at:
                out.append(SegmentStep(segment_at[level]))
        after(-1)
        by_item = dict(steps)
        for k in range(len(self.items)):
            if k in by_item:
                out.append(by_item[k])
            after(k)
        return out


def build_plan(items: Sequence[Item], inputs: Sequence[Ref], outputs: Sequence[Ref], constants: Mapping[Tensor, np.ndarray], layouts: Mapping[Tensor, tuple[int, ...]],
               input_ports: Sequence[Port], output_ports: Sequence[Port], checks: Sequence[Check] = (),
               native: Mapping[HostNest, tuple[int, ...]] | None = None, preparations: Sequence[KernelCall] = ()) -> tuple[Plan, list[KernelSource]]:
    """The plan of a scheduled program.

    Args:
        items: kernel calls, host nests and aliases in execution order.
        constants: what is known when compiling; the numeric ones become buffers in this order, strings part of the plan.
        input_ports, output_ports: names and types; their positions are filled in here.
        checks: what sizes must fulfil; those about elements that are not in memory are left out.
        native: positions of their bodies, for the control-flow nests that the driver runs itself.
        preparations: what computes constants before the first run.

    Returns:
        The plan (host functions as objects, to be named by the caller) and the distinct kernels that its steps number.

    Raises:
        UnsupportedError: a size that cannot be computed when running.
    """
    builder = PlanBuilder(items, inputs, outputs, [t for t in constants if not on_host(t)], layouts, checks, native)
    strings = [(builder.host_value(t), a.shape, [str(x) for x in a.reshape(-1)]) for t, a in constants.items() if on_host(t)]
    plan, sources = builder.build()
    plan.host_constants = strings
    plan.preparations = [builder.preparation(call) for call in preparations]
    plan.kernels = [s.symbol for s in sources]

    def place(port: Port, ref: Ref) -> Port:
        if in_buffer(ref):
            return Port(port.name, port.type, port.shape, builder.position[ref])
        return Port(port.name, port.type, port.shape, -1, builder.host_value(ref))
    plan.inputs = [place(p, r) for p, r in zip(input_ports, inputs, strict=True)]
    plan.outputs = [place(p, r) for p, r in zip(output_ports, outputs, strict=True)]
    plan.host_values = len(builder.values)
    return plan, sources
