"""Layouts: in which order each tensor's dimensions lie in memory.

Model inputs, outputs, constants and what routines and the host touch are row-major. Convolutions and windows want channels last; orders that fusion relied on
are fixed; every other map takes the order of what it reads, so that layout changes drift to the graph's edges, where a copy makes them.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.loops import ContractionNest, HostNest, MapNest, Nest, NestProgram, RoutineNest, Store, centred_load, identity_map, reads
from . import profit
from .lower import toposort

Layouts = dict[Tensor, tuple[int, ...]]
DIRECT_CHANNELS = 4  # a convolution gathers patches itself up to this many channels, so that its input may keep any order


def assign(program: NestProgram, required: Layouts) -> Layouts:
    """Choose an order for every tensor; inserts copies where a fixed order meets a convolution.

    Args:
        required: orders that must hold.

    Returns:
        Tensor -> dims from outermost to innermost; tensors that are missing are row-major.
    """
    fixed = {t for t in [*program.inputs, *program.constants] if isinstance(t, Tensor)}
    outputs = {t for t in program.outputs if isinstance(t, Tensor)}
    for n in program.nests:
        if isinstance(n, (RoutineNest, HostNest)):
            fixed.update(r for r in (*reads(n), *n.outputs) if isinstance(r, Tensor))
    detach_outputs(program, outputs, fixed)
    fixed |= outputs
    layouts: Layouts = dict(required)
    for n in list(program.nests):
        if profit.is_convolution(n):
            assert isinstance(n, ContractionNest)
            _channels_last_input(program, n, fixed, layouts)
    _reach_back(program, fixed, layouts)
    for n in program.nests:
        if not isinstance(n, (MapNest, ContractionNest)):
            continue
        for store in n.stores:
            if store.tensor in fixed or store.tensor in layouts:
                continue
            order = result_order(program, n, store) if isinstance(n, ContractionNest) else followed_order(n, store, layouts)
            if order is not None:
                layouts[store.tensor] = order
    toposort(program)
    return {t: o for t, o in layouts.items() if o != tuple(range(t.rank))}


def result_order(program: NestProgram, nest: ContractionNest, store: Store) -> tuple[int, ...] | None:
    """The order in which a contraction's columns lie next to each other; None where row-major is as good.

    A product's result that other contractions read index by index has its innermost columns last, as an operand whose sums walk adjacent elements; where one may
    read it as a matrix of another shape, it keeps its order.
    """
    convolution = profit.is_convolution(nest)
    columns = set(nest.columns)
    if convolution:
        columns.update(x for x in nest.batch if x in nest.b.axes)
    along = [d for d, i in enumerate(store.index) if i.axes & columns]
    rest = [d for d in range(store.tensor.rank) if d not in along]
    if not along or store.tensor.rank - 1 in along:
        return None
    loads = [e for n in program.nests if isinstance(n, ContractionNest) for e in ex.loads([n.a, n.b]) if ex.load_tensor(e) is store.tensor]
    if convolution or not loads:
        return (*rest, *along)
    if not all(i.op in ("axis", "const") for e in loads for i in e.args):
        return None
    return (*(d for d in range(store.tensor.rank) if d != along[-1]), along[-1])


def _reach_back(program: NestProgram, fixed: set[Tensor], layouts: Layouts) -> None:
    """A tensor that only maps with one wanted order of outputs read takes that order, so that its own producer makes the change (or needs none)."""
    users = program.consumers()
    for n in reversed(program.nests):
        if not isinstance(n, MapNest):
            continue
        for store in n.stores:
            order = layouts.get(store.tensor)
            if order is None:
                continue
            for e in ex.loads([store.value]):
                source = ex.load_tensor(e)
                if source in fixed or source in layouts or source.rank != store.tensor.rank or len(users.get(source, ())) != 1:
                    continue
                axes = [_leading_axis(i) for i in e.args]
                wanted = [axes.index(store.index[d]) if store.index[d] in axes else -1 for d in order]
                if sorted(wanted) == list(range(source.rank)):
                    layouts[source] = tuple(wanted)


def channels_last(nest: ContractionNest, load: Expr) -> tuple[int, ...]:
    """The order of a convolution's input in which its channels lie side by side."""
    channel = channel_dimension(nest, load)
    return (*(d for d in range(len(load.args)) if d != channel), channel)


def channel_dimension(nest: ContractionNest, load: Expr) -> int:
    """The dimension that a convolution's input has for channels: 1, or where a transposition has become part of the read, the only one that sums alone walk."""
    rows, reduced = set(nest.rows), set(nest.reduced)
    found = [d for d, i in enumerate(load.args) if i.axes & reduced and not i.axes & rows]
    return found[0] if len(found) == 1 else 1


def operand_load(e: Expr) -> Expr:
    found = centred_load(e)
    assert found is not None
    return found[0]


def _channels_last_input(program: NestProgram, nest: ContractionNest, fixed: set[Tensor], layouts: Layouts) -> None:
    load = operand_load(nest.a)
    tensor = ex.load_tensor(load)
    if tensor.rank < 3:
        return
    order = channels_last(nest, load)
    channels = integer.as_int(tensor.shape[order[-1]])
    if tensor in fixed:
        if (channels is not None and channels <= DIRECT_CHANNELS) or order == tuple(range(tensor.rank)) or _spatial_is_one(tensor, order[-1]):
            return
        copy = Tensor(f"{tensor.name}.channels_last", tensor.dtype, tensor.shape)
        layouts[copy] = order
        program.nests.append(identity_map(copy, lambda *i: tensor[i], nest.origin))

        def visit(e: Expr) -> Expr | None:
            return ex.load(copy, e.args, ex.load_fill(e)) if e.op == "load" and ex.load_tensor(e) is tensor else None
        for user in list(program.nests):
            if isinstance(user, ContractionNest) and profit.is_convolution(user) and ex.load_tensor(operand_load(user.a)) is tensor:
                changed = replace(user, a=ex.transform([user.a], visit)[0])
                program.nests[program.nests.index(user)] = changed
    elif tensor not in layouts:
        layouts[tensor] = order


def _spatial_is_one(tensor: Tensor, channel: int) -> bool:
    return all(integer.as_int(n) == 1 for d, n in enumerate(tensor.shape) if d not in (0, channel))


def followed_order(nest: MapNest, store: Store, layouts: Layouts) -> tuple[int, ...] | None:
    """The order that makes a map's writes follow its largest read; None where nothing speaks for one."""
    best: tuple[int, tuple[int, ...]] | None = None
    for e in ex.loads([store.value]):
        source = ex.load_tensor(e)
        order = layouts.get(source)
        if order is None:
            continue
        axes = [_leading_axis(e.args[d]) for d in order]
        wanted = [store.index.index(a) for a in axes if a is not None and a in store.index]
        if len(set(wanted)) != len(wanted) or len(wanted) < 2:
            continue
        missing = [d for d in range(store.tensor.rank) if d not in wanted]
        full = _insert_missing(wanted, missing)
        if best is None or len(wanted) > best[0]:
            best = (len(wanted), full)
    return best[1] if best else None


def _insert_missing(order: list[int], missing: Sequence[int]) -> tuple[int, ...]:
    """Dimensions that the source lacks go where they stand in row-major order, outermost when in doubt."""
    out = list(order)
    for d in missing:
        at = next((k for k, o in enumerate(out) if o > d), len(out))
        out.insert(0 if d == 0 else at, d)
    return tuple(out)


def _leading_axis(index: Expr) -> Expr | None:
    """The single axis that an index walks along, if it is affine in one."""
    if index.op == "axis":
        return index
    nest_axes = [a for a in index.axes]
    if len(nest_axes) == 1 and integer.coefficient(index, nest_axes[0]) is not None:
        return nest_axes[0]
    if nest_axes and index.op == "poly":  # windows: output position + tap
        firsts = [a for mono, _ in index.value for a in mono if a.op == "axis"]
        return firsts[0] if firsts else None
    return None


def detach_outputs(program: NestProgram, outputs: set[Tensor], fixed: set[Tensor]) -> None:
    """Give model outputs that convolutions write or read a row-major copy of their own, so that the convolution keeps its order."""
    for nest in list(program.nests):
        if not profit.is_convolution(nest) or not isinstance(nest, ContractionNest):
            continue
        for store in nest.stores:
            if store.tensor in outputs and store.tensor.rank >= 3 and integer.as_int(store.tensor.shape[1]) != 1:
                inner = Tensor(f"{store.tensor.name}.channels_last", store.tensor.dtype, store.tensor.shape)
                _replace_tensor(program, store.tensor, inner)
                program.nests.append(identity_map(store.tensor, lambda *i, t=inner: t[i], nest.origin))


def _replace_tensor(program: NestProgram, old: Tensor, new: Tensor) -> None:
    from ..ir.loops import rename

    def touches(n: Nest) -> bool:  # routines and the host keep to the row-major one
        return isinstance(n, (MapNest, ContractionNest)) and (old in n.outputs or old in reads(n))
    program.nests[:] = [rename(n, {old: new}) if touches(n) else n for n in program.nests]


__all__ = ["Layouts", "assign", "channels_last"]
