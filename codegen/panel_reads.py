"""Reading weights where a product packed them, so that weights with two uses (an embedding tied to the output's product) are in memory once."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..ir import expr as ex
from ..ir.expr import Expr, Tensor
from ..ir.loops import ContractionNest, MapNest, Nest, Store

WORTHWHILE = 1 << 20  # bytes; elements of a row lie in panels at wide steps, so that small weights are rather held twice


class Panel:
    """Where each element of a constant stands in a packed copy of it.

    Args:
        packed: the copy.
        source: the constant.
        index: of the copy, as expressions over `position`.
        position: an axis for each dimension of the constant.
    """

    def __init__(self, packed: Tensor, source: Tensor, index: tuple[Expr, ...], position: tuple[Expr, ...]) -> None:
        self.packed, self.source, self.index, self.position = packed, source, index, position

    def read(self, at: tuple[Expr, ...]) -> Expr:
        """The element of the constant at an index, as a load of the copy."""
        return ex.load(self.packed, ex.substitute(self.index, dict(zip(self.position, at, strict=True))))


def find_panel(packing: MapNest) -> Panel | None:
    """The inverse of a packing (see `contraction.pack_b`); None where the map is something else, which substitution shows."""
    if len(packing.stores) != 1 or not packing.axes:
        return None
    store, = packing.stores
    value, width = store.value, packing.axes[-1].extent
    if value.op != "load" or ex.load_fill(value) is not None or store.index != packing.axes or not width.is_const:
        return None
    source = ex.load_tensor(value)
    if store.tensor.dtype is not source.dtype or source.numel().value * source.dtype.itemsize_bytes < WORTHWHILE:
        return None
    lane = packing.axes[-1]
    position = tuple(ex.axis(d) for d in source.shape)
    direct = {e: p for e, p in zip(value.args, position) if e.op == "axis"}
    among = [(e, p) for e, p in zip(value.args, position) if lane in e.axes]
    rest = [a for a in packing.axes[:-1] if a not in direct]
    if len(among) != 1 or len(rest) != 1:
        return None
    (column, place), panel = among[0], rest[0]
    first = ex.substitute_one(column, {panel: place // width, lane: ex.const(0)})
    inverse = {**direct, panel: place // width, lane: place - first}
    if ex.substitute(value.args, inverse) != list(position):
        return None
    return Panel(store.tensor, source, tuple(inverse[a] for a in packing.axes), position)


def read_panels(nest: Nest, panels: Mapping[Tensor, Panel]) -> Nest:
    """The same nest, with elements of the constants in `panels` read from their packed copies; what a product multiplies stays."""
    if not isinstance(nest, (MapNest, ContractionNest)):
        return nest
    roots = [e for s in nest.stores for e in (*s.index, s.value)]
    if not any(ex.load_tensor(e) in panels for e in ex.loads(roots)):
        return nest

    def visit(e: Expr) -> Expr | None:
        found = panels.get(ex.load_tensor(e)) if e.op == "load" and ex.load_fill(e) is None else None
        return None if found is None else found.read(e.args)
    changed = iter(ex.transform(roots, visit))
    return replace(nest, stores=tuple(Store(s.tensor, tuple(next(changed) for _ in s.index), next(changed)) for s in nest.stores))
