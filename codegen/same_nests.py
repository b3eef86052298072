"""Map nests that differ in the names of their axes, tensors and sizes alone: the layers of a deep model, each scheduled once.

The form of a nest is its structure with axes, tensors and sizes numbered. Equal forms mean equal schedules: one call becomes another by exchange of tensors
and sizes.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import MapNest
from ..ir.target import Target
from .map_schedule import schedule_map

Layouts = Mapping[Tensor, tuple[int, ...]]
_NAMED = frozenset(("axis", "load", "acc", "sym"))


@dataclass
class NestForm:
    """The form of one map nest: its `key`, and what the key's numbers stand for.

    Args:
        nest: to describe.
        layouts: order of each tensor's dims in memory.

    Terms of polynomials and operands of integer min and max stand in the order of their colours, which do not depend on names either. Where two colours
    are equal the order is the nest's own: equal nests may then get different forms, never different nests equal ones.
    """

    nest: MapNest
    layouts: Layouts
    tensors: dict[Tensor, int] = field(default_factory=dict)
    sizes: list[Expr] = field(default_factory=list)
    key: tuple[object, ...] = ()
    _rows: list[tuple[object, ...]] = field(default_factory=list)
    _numbers: dict[Expr, int] = field(default_factory=dict)
    _colours: dict[Expr, int] = field(default_factory=dict)
    _nameless: dict[Expr, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for k, a in enumerate(self.nest.axes):
            self._colours[a] = hash(("axis", k))
        axes = tuple(self.number(a) for a in self.nest.axes)
        stores = tuple((self.tensor(s.tensor), tuple(map(self.number, s.index)), self.number(s.value)) for s in self.nest.stores)
        self.key = (axes, stores, tuple(self._rows))

    def colour(self, e: Expr) -> int:
        """A hash of the structure that no name enters."""
        found = self._colours.get(e)
        if found is None:
            if self._plain(e):
                found = hash(e)
            elif e.op == "sym":
                found = hash(("size", e.value[1]))
            elif e.op == "axis":
                found = hash(("axis", self.colour(e.extent)))
            elif e.op == "load":
                t = ex.load_tensor(e)
                found = hash((t.dtype.code, self.layouts.get(t), ex.load_fill(e), *map(self.colour, e.args)))
            elif e.op == "poly":
                found = hash(frozenset((frozenset(map(self.colour, m)), len(m), k) for m, k in e.value))
            else:
                payload = (ex.reduce_kind(e), *(self.colour(a.extent) for a in ex.reduce_axes(e))) if e.op == "reduce" else e.value
                operands = [self.colour(a) for a in e.args]
                found = hash((e.op, e.dtype.code, payload, *(sorted(operands) if _symmetric(e) else operands)))
            self._colours[e] = found
        return found

    def _plain(self, e: Expr) -> bool:
        """Whether an expression has no names in it, so that it stands for itself."""
        found = self._nameless.get(e)
        if found is None:
            found = self._nameless[e] = e.op not in _NAMED and all(map(self._plain, ex.children(e)))
        return found

    def number(self, e: Expr) -> int:
        """The row that describes an expression."""
        found = self._numbers.get(e)
        if found is None:
            row = self._row(e)
            found = self._numbers[e] = len(self._rows)
            self._rows.append(row)
        return found

    def _row(self, e: Expr) -> tuple[object, ...]:
        if self._plain(e):
            return (e,)
        if e.op == "sym":
            self.sizes.append(e)
            return ("size", e.value[1])
        if e.op == "axis":
            return ("axis", self.number(e.extent))
        if e.op == "load":
            return ("load", self.tensor(ex.load_tensor(e)), repr(ex.load_fill(e)), *map(self.number, e.args))
        if e.op == "poly":
            in_order = sorted((sorted(self.colour(a) for a in m), k, j) for j, (m, k) in enumerate(e.value))
            return ("poly", *((tuple(self.number(a) for a in sorted(e.value[j][0], key=self.colour)), k) for _, k, j in in_order))
        if e.op == "reduce":
            return ("reduce", ex.reduce_kind(e), tuple(map(self.number, ex.reduce_axes(e))), self.number(e.args[0]))
        return (e.op, e.dtype.code, e.value, *map(self.number, sorted(e.args, key=self.colour) if _symmetric(e) else e.args))

    def tensor(self, t: Tensor) -> int:
        """The row of a tensor: its type, shape and layout."""
        if t not in self.tensors:
            row = ("tensor", t.dtype.code, self.layouts.get(t), *map(self.number, t.shape))
            self._rows.append(row)
            self.tensors[t] = len(self._rows) - 1
        return self.tensors[t]


def _symmetric(e: Expr) -> bool:
    return e.op in ("min", "max") and e.dtype is dt.int64


class Opaque:
    """Expressions whose named sizes have lost their definitions, which schedules take as a whole anyway and need not walk through.

    Args:
        layouts: orders in memory of the tensors; those of the new tensors are added.
    """

    def __init__(self, layouts: dict[Tensor, tuple[int, ...]]) -> None:
        self.layouts = layouts
        self._made: dict[Expr, Expr] = {}
        self._tensors: dict[Tensor, Tensor] = {}

    def nest(self, nest: MapNest) -> MapNest:
        stores = tuple(replace(s, tensor=self.tensor(s.tensor), index=tuple(map(self.of, s.index)), value=self.of(s.value)) for s in nest.stores)
        return replace(nest, axes=tuple(map(self.of, nest.axes)), stores=stores)

    def tensor(self, t: Tensor) -> Tensor:
        if t not in self._tensors:
            shape = tuple(map(self.of, t.shape))
            new = self._tensors[t] = t if shape == t.shape else Tensor(t.name, t.dtype, shape)
            if t in self.layouts:
                self.layouts[new] = self.layouts[t]
        return self._tensors[t]

    def of(self, e: Expr) -> Expr:
        found = self._made.get(e)
        if found is None:
            found = self._made[e] = self._change(e)
        return found

    def _change(self, e: Expr) -> Expr:
        if e.op == "sym":
            return ex.make("sym", (), e.dtype, e.value)
        if e.op == "axis":
            extent = self.of(e.extent)
            return e if extent is e.extent else ex.axis(extent)
        if e.op == "poly":
            return integer.evaluate(e, {a: self.of(a) for a in ex.children(e)})
        args = tuple(map(self.of, e.args))
        if e.op == "load":
            return ex.load(self.tensor(ex.load_tensor(e)), args, ex.load_fill(e))
        if e.op == "reduce":
            return ex.reduce(ex.reduce_kind(e), tuple(map(self.of, ex.reduce_axes(e))), args[0])
        return e if args == e.args else ex.rebuild(e, args)


@dataclass(frozen=True)
class _Scheduled:
    """A schedule, with the tensors and sizes of its form in their order."""

    tensors: list[Tensor]
    sizes: list[Expr]
    call: KernelCall


class MapSchedules:
    """Schedules of map nests for one target and set of layouts; nests of equal form share the work.

    Args:
        layouts: tensor -> order of its dims from outermost to innermost in memory; missing means row-major.
        target: the machine.
    """

    def __init__(self, layouts: Layouts, target: Target) -> None:
        self.layouts, self.target = layouts, target
        self._opaque = Opaque(dict(layouts))
        self._known: dict[tuple[object, ...], _Scheduled] = {}

    def call(self, nest: MapNest) -> KernelCall:
        """The launch of a nest (see `schedule_map`)."""
        form = NestForm(nest, self.layouts)
        known = self._known.get(form.key)
        if known is None:
            plain = self._opaque.nest(nest)
            call = schedule_map(plain, self._opaque.layouts, self.target)
            known = _Scheduled([self._opaque.tensor(t) for t in form.tensors], [self._opaque.of(s) for s in form.sizes], call)
            self._known[form.key] = known
        return exchanged(known.call, dict(zip(known.tensors, form.tensors, strict=True)), dict(zip(known.sizes, form.sizes, strict=True)), nest.origin)


def exchanged(call: KernelCall, tensors: Mapping[Tensor, Tensor], sizes: Mapping[Expr, Expr], origin: tuple[str, ...]) -> KernelCall:
    """The same launch on other tensors and sizes."""
    def visit(e: Expr) -> Expr | None:
        return ex.load(tensors[ex.load_tensor(e)], e.args, ex.load_fill(e)) if e.op == "load" else sizes.get(e)

    roots: Sequence[Expr] = [*call.parameters, call.units, call.scratch_bytes, *(e for e in (call.flops, call.bytes) if e is not None)]
    changed = iter(ex.transform(roots, visit))
    return replace(call, buffers=tuple(tensors[b] for b in call.buffers), parameters=tuple(next(changed) for _ in call.parameters), units=next(changed),
                   scratch_bytes=next(changed), origin=origin, flops=None if call.flops is None else next(changed),
                   bytes=None if call.bytes is None else next(changed))
