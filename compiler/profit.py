"""When fusing pays. Nothing here decides whether it is correct."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.loops import ContractionNest, MapNest, Nest, Store, centred_load

MAX_NODES = 160  # of one fused kernel's expressions
MAX_LOADS = 24
DUPLICATED_OPERATIONS = 6  # cheap operations that may be computed again for each user
DUPLICATED_LOADS = 2
EXPENSIVE_EPILOGUE_LOADS = 12


def scalar_operations(e: Expr) -> tuple[int, int]:
    """(cheap, expensive) operations on values, index arithmetic and reductions' trip counts left out."""
    cheap = expensive = 0
    for n in ex.walk(_value_roots(e)):
        if n.op in ex.UNARY or n.op in ex.BINARY or n.op in ("where", "cast", "bitcast"):
            if n.op in ex.CHEAP:
                cheap += 1
            else:
                expensive += 1
        elif n.op == "poly":
            cheap += 1
    return cheap, expensive


def _value_roots(e: Expr) -> list[Expr]:
    return [e]


def is_view(value: Expr) -> bool:
    """Whether an expression only moves elements: a load (through one cast), a constant, or a choice between such."""
    if value.op == "cast":
        value = value.args[0]
    if value.op == "load":
        return all(not _has_load(i) for i in value.args)
    return value.is_const or (value.op == "where" and _choice_count(value) <= 4 and _only_choices(value))


def _has_load(e: Expr) -> bool:
    return any(n.op == "load" for n in ex.walk(e))


def _only_choices(value: Expr) -> bool:
    if value.op == "where":
        return not _has_load(value.args[0]) and _only_choices(value.args[1]) and _only_choices(value.args[2])
    return value.is_const or (value.op == "load" and all(not _has_load(i) for i in value.args))


def _choice_count(value: Expr) -> int:
    return 1 + _choice_count(value.args[1]) + _choice_count(value.args[2]) if value.op == "where" else 0


def may_duplicate(value: Expr) -> bool:
    """Whether computing a value once more for each of its users is cheaper than storing and loading it."""
    if any(n.op == "reduce" for n in ex.walk(value)):
        return False
    cheap, expensive = scalar_operations(value)
    return expensive == 0 and cheap <= DUPLICATED_OPERATIONS and len(ex.loads(value)) <= DUPLICATED_LOADS


def decline_inline(consumer: MapNest, ref: Tensor, axes: tuple[Expr, ...], value: Expr) -> str | None:
    """Why a producer should stay in memory rather than be computed inside the map `consumer`, or None."""
    reduces = any(n.op == "reduce" for n in ex.walk(value))
    _cheap, expensive = scalar_operations(value)
    heavy = reduces or expensive > 0
    for load, bound in _loads_with_bound(consumer, ref):
        if reduces and _multiplies_reductions(dict(zip(axes, load.args, strict=True)), value):
            return "kept in memory: its reduction would be repeated for elements that share it"
        repeated = [a for a in bound if a not in load.axes and integer.as_int(a.extent) != 1]
        if not repeated:
            if reduces and any(a not in consumer.axes for a in load.axes):
                return "kept in memory: its reduction would be repeated inside another one"
            if heavy and _overlapping(load):
                return "kept in memory: overlapping windows would compute it again"
            continue
        if not heavy:
            continue
        # what stays constant over the innermost loops is computed once, outside of them
        trailing = list(bound)
        while trailing and (trailing[-1] in repeated or integer.as_int(trailing[-1].extent) == 1):
            trailing.pop()
        if any(a in repeated for a in trailing):
            return "kept in memory: it would be computed again for every broadcast element"
        if reduces and any(a not in consumer.axes for a in load.axes):
            return "kept in memory: its reduction would be repeated inside another one"
    return None


def _multiplies_reductions(index: Mapping[Expr, Expr], value: Expr) -> bool:
    """Whether a reduction within `value`, read at `index`, is not known to run at most as often as where it is defined.

    y[g] = sum(x[g, r]) read at y[i // 8] runs eight times as often; read at y[8 * i + k], k < 8, as often as before.
    """
    for r in ex.walk(value):
        if r.op != "reduce":
            continue
        free = [a for a in index if a in r.axes]
        walked = frozenset(a for f in free for a in index[f].axes)
        if not all(index[f].op == "axis" for f in free) and not integer.prove_le(_points(walked), _points(free)):
            return True
    return False


def _points(axes: Iterable[Expr]) -> Expr:
    return ex.product(a.extent for a in sorted(axes, key=lambda a: a.text))


def _loads_with_bound(consumer: MapNest, ref: Tensor) -> list[tuple[Expr, list[Expr]]]:
    """Loads of `ref`, each with the axes bound where it stands: the nest's, then those of the reductions around it."""
    found: list[tuple[Expr, list[Expr]]] = []
    seen: set[tuple[Expr, tuple[Expr, ...]]] = set()

    def visit(e: Expr, bound: tuple[Expr, ...]) -> None:
        if (e, bound) in seen:
            return
        seen.add((e, bound))
        if e.op == "load" and ex.load_tensor(e) is ref:
            found.append((e, list(bound)))
        inner = bound
        if e.op == "reduce":
            inner = bound + ex.reduce_axes(e)
        for c in ex.children(e):
            visit(c, inner)
    for v in consumer.values:
        visit(v, consumer.axes)
    return found


def _overlapping(load: Expr) -> bool:
    """Whether some index adds two axes, so that neighbouring points read the same element."""
    for index in load.args:
        form = integer.affine(index, tuple(sorted(index.axes, key=lambda a: a.text)))
        if form is None:
            continue
        steps = [c for c in form[0] if c.is_const]
        if len(steps) > 1 and sum(1 for c in steps if abs(int(c.value)) <= 4) > 1:
            return True
    return False


def too_large(nest: Nest) -> bool:
    nodes = sum(1 for _ in ex.walk(nest.values))
    return nodes > MAX_NODES or len(ex.loads(nest.values)) > MAX_LOADS


def cheap_epilogue_operand(value: Expr) -> bool:
    """Whether a value may be computed inside an epilogue instead of being loaded there."""
    cheap, expensive = scalar_operations(value)
    return expensive == 0 and cheap <= DUPLICATED_OPERATIONS and not any(n.op == "reduce" for n in ex.walk(value)) and len(ex.loads(value)) <= 2


def heavy_epilogue(stores: Sequence[Store]) -> bool:
    return len(ex.loads([s.value for s in stores])) > EXPENSIVE_EPILOGUE_LOADS


def is_convolution(nest: Nest) -> bool:
    """Whether a contraction slides over its input [N, C, *S]: some index of `a` adds a row axis and a reduced axis, or it is padded.

    Where dimension 1 walks rows alone there are no channels: then heads of attention lie side by side in one dimension.
    """
    if not isinstance(nest, ContractionNest):
        return False
    found = centred_load(nest.a)
    if found is None:
        return False
    a = found[0]
    if ex.load_fill(a) is not None:
        return True
    rows, reduced = set(nest.rows), set(nest.reduced)
    if len(a.args) > 1 and a.args[1].axes & rows and not a.args[1].axes & reduced:
        return False
    return any(i.axes & rows and i.axes & reduced for i in a.args)
