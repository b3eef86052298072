"""Loop nests: the closed set of computation kinds between graphs and kernels.

Every numeric operator becomes nests over `Tensor`s in single-assignment order:

    MapNest          for every point of its axes, stores; values may hold `reduce` nodes, so that element-wise work, reductions and whole
                     normalisations (softmax, layer norm) are one kind and fuse by substitution
    ContractionNest  sum over reduced axes of a * b (matrix product, convolution, einsum), then stores of expressions over `acc`
    RoutineNest      a plain Python function over flat buffers (sort, scan, scatter, recurrence): never fused, compiled as it stands
    HostNest         a NumPy callback for values without numbers in them (strings, sequences) and for control flow

Operators are open, kinds are closed: fusion, scheduling and emission know these classes only.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np

from . import expr as ex
from .dtypes import DType
from .expr import Expr, Tensor


@dataclass(frozen=True)
class Store:
    """`tensor[index] = value`; the indices of one store are distinct at every point of its nest's axes."""

    tensor: Tensor
    index: tuple[Expr, ...]
    value: Expr

    def __repr__(self) -> str:
        return f"%{self.tensor.name}[{', '.join(i.text for i in self.index)}] = {self.value.text}"


@dataclass(frozen=True, eq=False)
class MapNest:
    """For every point of `axes` (outermost first, all parallel): each store in order.

    A store whose value does not depend on the last axes is done once per point of the axes that it does depend on.
    """

    axes: tuple[Expr, ...]
    stores: tuple[Store, ...]
    origin: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(dict.fromkeys(s.tensor for s in self.stores))

    @property
    def values(self) -> tuple[Expr, ...]:
        return tuple(s.value for s in self.stores)


@dataclass(frozen=True, eq=False)
class ContractionNest:
    """acc[batch, rows, columns] = sum over reduced of a * b, then `stores`, whose values may use `acc` and load anything else.

    Args:
        batch, rows, columns, reduced: axes; `a` depends on batch, rows and reduced, `b` on batch, columns and reduced.
        a, b: operand expressions, in the accumulator's dtype. For a convolution `a` is one load with a fill value (the padding), affine in
            output positions and kernel taps, and rows are the output positions.
        dtype: of the accumulator (float32, float64, int32, int64, ...).
        stores: over batch + rows + columns axes.
    """

    batch: tuple[Expr, ...]
    rows: tuple[Expr, ...]
    columns: tuple[Expr, ...]
    reduced: tuple[Expr, ...]
    a: Expr
    b: Expr
    dtype: DType
    stores: tuple[Store, ...]
    origin: tuple[str, ...] = ()

    @property
    def axes(self) -> tuple[Expr, ...]:
        return self.batch + self.rows + self.columns

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(dict.fromkeys(s.tensor for s in self.stores))

    @property
    def values(self) -> tuple[Expr, ...]:
        return (self.a, self.b) + tuple(s.value for s in self.stores)

    def as_map(self) -> MapNest:
        """The same computation as an unscheduled map nest: its meaning."""
        summed = ex.reduce("sum", self.reduced, self.a * self.b)
        stores = tuple(replace(s, value=ex.substitute_one(s.value, {ex.acc(self.dtype): summed})) for s in self.stores)
        return MapNest(self.axes, stores, self.origin)


@dataclass(frozen=True, eq=False)
class Routine:
    """A kernel written as a plain Python function over flat buffers.

    The function takes the input buffers, the output buffers, the integer parameters, then `lo, hi` (its share of `units`) and, when
    `scratch_bytes` is given, `scratch` (a uint8 buffer private to the thread). It may use arithmetic, comparisons, `range`, `while`, `math` and the
    helpers of the same module named in `helpers`; it must not allocate. Buffers of float16 and bfloat16 are presented as float32 values through the
    accessor functions `load(p, i)` and `store(p, i, v)`.
    """

    name: str
    function: Callable[..., None]
    helpers: tuple[Callable, ...] = ()


def load(buffer: np.ndarray, index: int) -> int:
    """The element of a routine's buffer, a number of any kind; compiled, float16 and bfloat16 elements come as float32."""
    return buffer[index]


def store(buffer: np.ndarray, index: int, value: object) -> None:
    """Write an element of a routine's buffer, rounded or wrapped to its type."""
    buffer[index] = value


@dataclass(frozen=True, eq=False)
class RoutineNest:
    """One call of a routine.

    Args:
        units: independent pieces of work, split among threads; 1 means that it runs on one thread.
        parameters: int64 values handed to the function after its buffers.
        scratch_bytes: per-thread scratch, 64-byte aligned.
        constants: compile-time names substituted in the function's source (`dict` of name to int, float or bool), part of the kernel's identity.
    """

    routine: Routine
    inputs: tuple[Tensor, ...]
    results: tuple[Tensor, ...]
    parameters: tuple[Expr, ...] = ()
    units: Expr = field(default_factory=lambda: ex.const(1))
    scratch_bytes: Expr = field(default_factory=lambda: ex.const(0))
    constants: tuple[tuple[str, int | float | bool], ...] = ()
    origin: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.results

    @property
    def values(self) -> tuple[Expr, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class HostRef:
    """A value that only the host can hold: a sequence, an optional, a map, or a tensor whose rank is known when running."""

    name: str


Ref = Tensor | HostRef


@dataclass(frozen=True, eq=False)
class HostNest:
    """A Python callback over host values; the driver returns to the host for it.

    The callback gets one argument per input (NumPy array, list, None, ...) and returns a sequence with one value per output. Outputs that are
    `Tensor`s may have shapes unknown before the call: their sizes are `load`s of the tensors' shape vectors.
    """

    function: Callable[..., Sequence[object]]
    inputs: tuple[Ref | None, ...]
    results: tuple[Ref, ...]
    reason: str
    origin: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[Ref, ...]:
        return self.results

    @property
    def values(self) -> tuple[Expr, ...]:
        return ()


Nest = MapNest | ContractionNest | RoutineNest | HostNest


def reads(nest: Nest) -> tuple[Ref, ...]:
    """The tensors (and host values) that a nest loads, in order of first use."""
    if isinstance(nest, (RoutineNest, HostNest)):
        return tuple(dict.fromkeys(i for i in nest.inputs if i is not None))
    return tuple(dict.fromkeys(ex.load_tensor(e) for e in ex.loads(nest.values)))


def size_roots(nest: Nest) -> list[Expr]:
    """The sizes of a nest: of its outputs and axes, and its parameters."""
    found: list[Expr] = [d for o in nest.outputs if isinstance(o, Tensor) for d in o.shape]
    if isinstance(nest, (MapNest, ContractionNest)):
        axes = nest.axes + (nest.reduced if isinstance(nest, ContractionNest) else ())
        found += [a.extent for a in axes]
        found += [a.extent for e in ex.walk(nest.values) if e.op == "reduce" for a in ex.reduce_axes(e)]
    elif isinstance(nest, RoutineNest):
        found += [*nest.parameters, nest.units, nest.scratch_bytes]
    return found


def size_reads(nest: Nest) -> tuple[Tensor, ...]:
    """The tensors whose elements size the nest (data-dependent extents, indices of stores and parameters)."""
    return tuple(dict.fromkeys(ex.load_tensor(e) for e in ex.loads(size_roots(nest))))


@overload
def map_values(nest: MapNest, change: Callable[[Sequence[Expr]], Sequence[Expr]]) -> MapNest: ...
@overload
def map_values(nest: ContractionNest, change: Callable[[Sequence[Expr]], Sequence[Expr]]) -> ContractionNest: ...
@overload
def map_values(nest: Nest, change: Callable[[Sequence[Expr]], Sequence[Expr]]) -> Nest: ...
def map_values(nest: Nest, change: Callable[[Sequence[Expr]], Sequence[Expr]]) -> Nest:
    """The nest with all its value expressions rewritten together by `change`."""
    if isinstance(nest, MapNest):
        new = change(nest.values)
        return replace(nest, stores=tuple(replace(s, value=v) for s, v in zip(nest.stores, new, strict=True)))
    if isinstance(nest, ContractionNest):
        new = change(nest.values)
        stores = tuple(replace(s, value=v) for s, v in zip(nest.stores, new[2:], strict=True))
        return replace(nest, a=new[0], b=new[1], stores=stores)
    return nest


@dataclass(frozen=True)
class Check:
    """What must hold of sizes and elements for a program to be right; `condition` is boolean, `reason` says what is wrong otherwise.

    Args:
        held: whether what the condition reads is computed for it alone, and stays in memory whatever fusion does.
    """

    condition: Expr
    reason: str
    held: bool = False


@dataclass
class NestProgram:
    """A lowered model: inputs and constants, nests in execution order, outputs.

    Args:
        inputs: model inputs in order.
        constants: arrays of the tensors that are known when compiling.
        outputs: model outputs in order (may repeat, may be inputs or constants).
        checks: conditions on sizes that only the run knows.
    """

    inputs: list[Ref]
    constants: dict[Tensor, np.ndarray]
    nests: list[Nest]
    outputs: list[Ref]
    checks: list[Check] = field(default_factory=list)

    def held(self) -> set[Ref]:
        """Tensors that exist for checks."""
        return {ex.load_tensor(e) for c in self.checks if c.held for e in ex.loads(c.condition)}

    def producers(self) -> dict[Ref, Nest]:
        return {o: n for n in self.nests for o in n.outputs}

    def consumers(self) -> dict[Ref, list[Nest]]:
        used: dict[Ref, list[Nest]] = {}
        for n in self.nests:
            for r in dict.fromkeys(reads(n) + size_reads(n)):
                used.setdefault(r, []).append(n)
        return used


def identity_map(target: Tensor, value: Callable[..., Expr], origin: Iterable[str] = ()) -> MapNest:
    """`target[i...] = value(i...)` for every index of the target."""
    axes = tuple(ex.axis(n) for n in target.shape)
    return MapNest(axes, (Store(target, axes, value(*axes)),), tuple(origin))


def centred_load(e: Expr) -> tuple[Expr, Expr | None] | None:
    """(load, zero point) where an operand is the cast of an element, less a value that does not come from an element along with it; else None."""
    zero = None
    if e.op == "sub":
        e, zero = e.args
    while e.op == "cast":
        e = e.args[0]
    return (e, zero) if e.op == "load" else None


def rename(nest: Nest, tensors: Mapping[Tensor, Tensor]) -> Nest:
    """The nest with tensors exchanged for others of the same dtype and rank."""
    def visit(e: Expr) -> Expr | None:
        if e.op == "load" and ex.load_tensor(e) in tensors:
            return ex.load(tensors[ex.load_tensor(e)], e.args, ex.load_fill(e))
        return None

    def swap(t: Ref) -> Ref:
        return tensors.get(t, t) if isinstance(t, Tensor) else t

    if isinstance(nest, RoutineNest):
        return replace(nest, inputs=tuple(tensors.get(t, t) for t in nest.inputs), results=tuple(tensors.get(t, t) for t in nest.results))
    if isinstance(nest, HostNest):
        return replace(nest, inputs=tuple(i if i is None else swap(i) for i in nest.inputs), results=tuple(map(swap, nest.results)))
    out = map_values(nest, lambda values: ex.transform(values, visit))
    return replace(out, stores=tuple(replace(s, tensor=tensors.get(s.tensor, s.tensor)) for s in out.stores))
