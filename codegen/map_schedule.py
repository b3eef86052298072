"""Schedules of map nests: element-wise work, views, reductions, normalisations.

One kernel computes its stores for the units `lo <= u < hi`. A unit is a block of consecutive elements where all axes have merged into one, else a point
of the outer axes (a row, whose inner axes are loops).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall, KernelSource
from ..ir.loops import MapNest
from ..ir.target import Target
from .flatten import FlatNest, FlatStore, flatten
from .scalar import Emitter, Scope, Writer

BLOCK = 4096  # elements of one unit of a flat loop


def schedule_map(nest: MapNest, layouts: Mapping[Tensor, tuple[int, ...]], target: Target) -> KernelCall:
    """A kernel for a map nest.

    Args:
        nest: any map nest over numbers.
        layouts: tensor -> order of its dims from outermost to innermost in memory; missing means row-major.
        target: the machine.

    Raises:
        UnsupportedError: element types that kernels do not handle yet.
    """
    del target
    return MapSchedule(flatten(nest, layouts)).call()


class MapSchedule:
    """One nest on its way to text."""

    def __init__(self, nest: FlatNest) -> None:
        self.nest = nest
        self.writer = Writer()
        order = {a: k for k, a in enumerate(nest.axes)}
        self.emitter = Emitter(self.writer, nest.buffers, nest.guarded, nest.size_loads, order)
        self.emitter.count(nest.roots())
        self.scratch_bytes: Expr = ex.const(0)
        self.least = 0

    def call(self) -> KernelCall:
        root = Scope(None)
        units = self.body(root)
        w = self.writer
        arguments = [*w.buffers.values(), *(f"p{k}" for k in range(len(w.parameters))), "lo", "hi", "scratch"]
        text = "\n".join([f"def kernel({', '.join(arguments)}):", *("    " + x for x in root.lines)]) + "\n"
        kernel = KernelSource(kernel_name(self.nest), text, tuple(t.dtype for t in w.buffers), tuple(t in w.written for t in w.buffers), len(w.parameters),
                              ("contract",), w.constant_list())
        flops, size = estimate(self.nest)
        return KernelCall(kernel, tuple(w.buffers), tuple(w.parameters), units, self.scratch_bytes, self.nest.origin, flops, size)

    def body(self, root: Scope) -> Expr:
        """Write the loops; returns the number of units."""
        axes = self.nest.axes
        self.least = len(axes)
        if not axes:
            unit = Scope(root)
            self.stores(unit, ())
            unit.close("for u in range(lo, hi):")
            return ex.const(1)
        if len(axes) == 1 and not any(e.op == "reduce" for e in ex.walk(self.nest.roots())):
            extent = self.writer.parameter(axes[0].extent, axes[0])
            name = self.writer.name("i")
            block = Scope(root, {axes[0]: name})
            self.stores(block, axes)
            block.close(f"for {name} in range(lo * {BLOCK}, min(hi * {BLOCK}, {extent})):")
            return ex.ceildiv(axes[0].extent, BLOCK)
        self.least = self.unit_depth()
        unit_axes = axes[:self.least]
        inner = axes[len(unit_axes):]
        names = [self.writer.name("i") for _ in unit_axes]
        unit = Scope(root, dict(zip(unit_axes, names)))
        header, step = self.odometer(root, unit_axes, names)
        self.loops(unit, unit_axes, inner)
        unit.lines += step
        unit.close(header)
        return ex.product(a.extent for a in unit_axes)

    def unit_depth(self) -> int:
        """Number of outer axes that are walked together: as many as leave one for the inner loop, and no more than every reduction and store depends on."""
        axes = self.nest.axes
        reductions = [e for e in ex.walk(self.nest.roots()) if e.op == "reduce"]
        if any(e.axes >= set(axes) for e in reductions):
            return len(axes)
        return min([max(1, len(axes) - 1), *(self.last(e.axes) for e in reductions), *(self.last(s.offset.axes) for s in self.nest.stores)])

    def last(self, used: frozenset[Expr]) -> int:
        """Number of axes that must be bound before all of `used` are."""
        return max((k + 1 for k, a in enumerate(self.nest.axes) if a in used), default=0)

    def odometer(self, root: Scope, axes: Sequence[Expr], names: Sequence[str]) -> tuple[str, list[str]]:
        """The header of the loop over units, and the statements that step the axes' names at its end."""
        if len(axes) == 1:
            return f"for {names[0]} in range(lo, hi):", []
        if not axes:
            return "for u in range(lo, hi):", []
        sizes = ["", *(self.writer.parameter(a.extent, a) for a in axes[1:])]
        root.lines.append(f"{names[-1]} = lo")
        for k in range(len(axes) - 1, 0, -1):
            root.lines += [f"{names[k - 1]} = {names[k]} // {sizes[k]}", f"{names[k]} %= {sizes[k]}"]
        return "for u in range(lo, hi):", odometer_step(names, sizes)

    def loops(self, scope: Scope, bound: tuple[Expr, ...], inner: tuple[Expr, ...]) -> None:
        """Nested loops over `inner`, each store in the loop where its last axis is bound."""
        self.stores(scope, bound)
        if not inner:
            return
        block, header = self.emitter.loop(inner[0], scope)
        self.loops(block, bound + inner[:1], inner[1:])
        block.close(header)

    def stores(self, scope: Scope, bound: tuple[Expr, ...]) -> None:
        for s in self.nest.stores:
            if self.depth(s) == len(bound):
                value = self.emitter.value(s.value, scope)
                scope.lines.append(self.emitter.store(s.tensor, self.emitter.value(s.offset, scope), value))

    def depth(self, store: FlatStore) -> int:
        """Number of axes that are bound where a store is done."""
        return max(self.last(store.offset.axes | store.value.axes), self.least)


def odometer_step(names: Sequence[str], sizes: Sequence[str]) -> list[str]:
    """Count up by one over digits `names`, the last one fastest."""
    out = [f"{names[0]} += 1"]
    for k in range(1, len(names)):
        out = [f"{names[k]} += 1", f"if {names[k]} == {sizes[k]}:", f"    {names[k]} = 0", *("    " + x for x in out)]
    return out


def kernel_name(nest: FlatNest) -> str:
    """`map_` or `reduce_`, the operators in order of evaluation, the element type of the first result."""
    roots = [s.value for s in nest.stores]
    reductions = [ex.reduce_kind(e) for e in ex.walk(roots) if e.op == "reduce"]
    words = [ex.reduce_kind(e) if e.op == "reduce" else e.op for e in ex.walk(roots)
             if e.op == "reduce" or e.op in ex.UNARY or e.op in ex.BINARY and e.args[0].dtype is not dt.int64]
    words = list(dict.fromkeys(w for w in words if w not in ("and", "or", "lt", "le")))[:5] or ["copy"]
    return "_".join(["reduce" if reductions else "map", *words, nest.stores[0].tensor.dtype.short])


def estimate(nest: FlatNest) -> tuple[Expr, Expr]:
    """(floating-point operations, bytes of all operands) of one launch."""
    flops: Expr = ex.const(0)
    counted: set[Expr] = set()
    stack = [(s.value, ex.product(a.extent for a in nest.axes if a in s.value.axes)) for s in nest.stores]
    while stack:
        e, points = stack.pop()
        if e in counted:
            continue
        counted.add(e)
        if e.op == "reduce":
            points = points * ex.product(a.extent for a in ex.reduce_axes(e))
        if e.dtype.is_float and (e.op in ex.UNARY or e.op in ex.BINARY or e.op == "reduce"):
            flops = flops + points
        stack.extend((c, points) for c in ex.children(e))
    tensors = dict.fromkeys([s.tensor for s in nest.stores] + [nest.buffers[ex.load_tensor(e)] for e in ex.loads(nest.roots()) if ex.load_tensor(e) in nest.buffers])
    return flops, ex.total(t.numel() * t.dtype.itemsize_bytes for t in tensors)
