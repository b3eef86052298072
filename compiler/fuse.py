"""Fusion: nests merge by substituting expressions. Legality is decided here, profit in `compiler.profit`.

Three merges, run in this order until nothing changes:

    views into consumers      y[i] = x[f(i)]; z[j] = g(y[h(j)])                 ->  z[j] = g(x[f(h(j))])
    epilogues                 t = contraction; z[j] = g(t[h(j)]), h invertible  ->  the contraction stores g(acc) at h's inverse
    producers into maps       y[i] = f(i); z[j] = g(y[h(j)])                    ->  z[j] = g(f(h(j))), reductions included
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.loops import ContractionNest, MapNest, Nest, NestProgram, Ref, Store, map_values, reads, size_reads
from ..ir.ops.quantisation import recoded
from . import profit
from .inverse import invert
from .lower import drop_dead, toposort
from .operands import acceptable_operand


@dataclass
class Fusion:
    """The program being fused, with its def-use relations and a log of what was decided.

    Args:
        decisions: (origin of producer, origin of consumer, verdict) lines for reports.
        layouts: orders of dimensions that inlined operands rely on.
    """

    program: NestProgram
    decisions: list[tuple[tuple[str, ...], tuple[str, ...], str]] = field(default_factory=list)
    layouts: dict[Tensor, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        self.producer: dict[Ref, Nest] = self.program.producers()
        self.users: dict[Ref, dict[Nest, None]] = {}
        self.sized: set[Ref] = set()
        for n in self.program.nests:
            self._link(n)
        self.kept: set[Ref] = {*self.program.outputs, *self.program.held()}

    def _link(self, nest: Nest) -> None:
        for r in reads(nest):
            self.users.setdefault(r, {})[nest] = None
        self.sized.update(size_reads(nest))

    def consumers(self, ref: Ref) -> list[Nest]:
        return list(self.users.get(ref, ()))

    def replace(self, old: Nest, new: Nest) -> None:
        """Put `new` in the place of `old`."""
        self.program.nests[self.program.nests.index(old)] = new
        for r in reads(old):
            self.users.get(r, {}).pop(old, None)
        self._link(new)
        for o in new.outputs:
            self.producer[o] = new

    def discard(self, nest: Nest) -> None:
        """Remove a nest that nobody reads any more."""
        self.program.nests.remove(nest)
        for r in reads(nest):
            self.users.get(r, {}).pop(nest, None)
        for o in nest.outputs:
            if self.producer.get(o) is nest:
                del self.producer[o]

    def needed(self, ref: Ref) -> bool:
        """Whether a tensor must exist in memory whoever else inlines it."""
        return ref in self.kept or ref in self.sized or bool(self.users.get(ref))

    def __contains__(self, ref: object) -> bool:
        """Whether the order of a tensor's dimensions may still be chosen: nests write and read it, and it is no output. Routines, the host and callers see row-major."""
        if not isinstance(ref, Tensor) or ref in self.kept or not isinstance(self.producer.get(ref), (MapNest, ContractionNest)):
            return False
        return all(isinstance(n, (MapNest, ContractionNest)) for n in self.users.get(ref, ()))

    def say(self, producer: Nest, consumer: Nest, verdict: str) -> None:
        self.decisions.append((producer.origin, consumer.origin, verdict))


def fuse(program: NestProgram) -> Fusion:
    """Fuse in place; returns the record of decisions and of the layouts that operands rely on."""
    drop_dead(program)
    state = Fusion(program)
    inline_maps(state, views_only=True)
    for _ in range(4):
        before = len(program.nests)
        fuse_epilogues(state)
        inline_maps(state, views_only=False)
        if len(program.nests) == before:
            break
    drop_dead(program)
    shorten_requantisation(program)
    toposort(program)
    return state


def shorten_requantisation(program: NestProgram) -> None:
    """Codes that are made and read again within one nest stay floats."""
    for k, nest in enumerate(program.nests):
        if isinstance(nest, (MapNest, ContractionNest)) and any(e.op == "round" for e in ex.walk(nest.values)):
            program.nests[k] = map_values(nest, lambda values: ex.transform(values, recoded))


# ------------------------------------------------------------------------------------------------------ inlining of maps
def definition(nest: Nest, ref: Ref) -> tuple[tuple[Expr, ...], Expr] | None:
    """(axes, value) with `ref[axes] = value`, if the nest is a map that only does that."""
    if not isinstance(nest, MapNest) or len(nest.stores) != 1:
        return None
    store = nest.stores[0]
    if store.tensor is not ref or store.index != nest.axes:
        return None
    return nest.axes, store.value


def inline_maps(state: Fusion, views_only: bool) -> None:
    """Substitute producers into the maps (and views into the contractions) that load them, latest producer first."""
    for nest in list(reversed(state.program.nests)):
        if nest not in state.program.nests or not isinstance(nest, MapNest) or len(nest.stores) != 1:
            continue
        ref = nest.stores[0].tensor
        found = definition(nest, ref)
        if found is None:
            continue
        axes, value = found
        is_view = profit.is_view(value)
        if views_only and not is_view:
            continue
        consumers = state.consumers(ref)
        if not is_view and not profit.may_duplicate(value) and len(consumers) + (ref in state.kept or ref in state.sized) > 1:
            for c in consumers:
                state.say(nest, c, "kept in memory: computing it again for each of its users costs more than reading it")
            continue
        if len(ex.loads(value)) > 1 and not is_view and (ref in state.kept or ref in state.sized or any(reads_memory(c, ref) for c in consumers)):
            for c in consumers:
                state.say(nest, c, "kept in memory: one of its users needs it there, and reading it is cheaper than what it is made of")
            continue
        for consumer in consumers:
            new, verdict = substitute_producer(state, consumer, ref, axes, value, is_view)
            state.say(nest, consumer, verdict)
            if new is not None:
                state.replace(consumer, new)
        if not state.needed(ref):
            state.discard(nest)


def reads_memory(consumer: Nest, ref: Tensor) -> bool:
    """Whether a nest reads a tensor that is no view of another from memory, whatever its value: as an operand of a product, or as a whole buffer."""
    if isinstance(consumer, ContractionNest):
        return any(ex.load_tensor(e) is ref for e in ex.loads((consumer.a, consumer.b)))
    return not isinstance(consumer, MapNest)


def substitute_producer(state: Fusion, consumer: Nest, ref: Tensor, axes: tuple[Expr, ...], value: Expr, is_view: bool) -> tuple[Nest | None, str]:
    """The consumer with every load of `ref` replaced by `value`, or None and the reason why not."""
    if isinstance(consumer, MapNest):
        if not keeps_bounds(axes, value, ref, consumer.values):
            return None, "kept in memory: it is read with padding"
        reason = profit.decline_inline(consumer, ref, axes, value)
        if reason is not None:
            return None, reason
        new = map_values(consumer, lambda values: replace_loads(values, ref, axes, value))
        if profit.too_large(new):
            return None, "kept in memory: the fused kernel would grow too large"
        return merge_origin(new, state.producer[ref]), "fused into its consumer"
    if isinstance(consumer, ContractionNest):
        return _into_contraction(state, consumer, ref, axes, value, is_view)
    return None, f"kept in memory: {type(consumer).__name__} reads whole buffers"


def _into_contraction(state: Fusion, consumer: ContractionNest, ref: Tensor, axes: tuple[Expr, ...], value: Expr, is_view: bool) -> tuple[Nest | None, str]:
    in_operand = any(ex.load_tensor(e) is ref for e in ex.loads((consumer.a, consumer.b)))
    if in_operand:
        if not is_view or value.op not in ("load", "cast"):
            return None, "kept in memory: operands of contractions are plain elements"
    elif not is_view and not profit.cheap_epilogue_operand(value):
        return None, "kept in memory: a contraction's epilogue reads it once per element"
    if not keeps_bounds(axes, value, ref, consumer.values):
        return None, "kept in memory: it is read with padding"
    new = map_values(consumer, lambda values: replace_loads(values, ref, axes, value))
    assert isinstance(new, ContractionNest)
    if in_operand:
        orders: dict[Tensor, tuple[int, ...]] = {}
        for operand, own in ((new.a, new.rows), (new.b, new.columns)):
            reason = acceptable_operand(operand, new.batch + own + new.reduced, new.reduced, state.layouts | orders, state, orders)
            if reason is not None:
                return None, "kept in memory: " + reason
        state.layouts.update(orders)
    return merge_origin(new, state.producer[ref]), "read in place by the contraction"


def replace_loads(values: Sequence[Expr], ref: Tensor, axes: tuple[Expr, ...], value: Expr) -> list[Expr]:
    """Every load of `ref` in `values` replaced by `value` at the load's index."""
    def visit(e: Expr) -> Expr | None:
        if e.op != "load" or ex.load_tensor(e) is not ref:
            return None
        inner = ex.substitute_one(value, dict(zip(axes, e.args, strict=True)))
        fill = ex.load_fill(e)
        if fill is not None:
            inner = _with_fill(inner, fill)
        return inner

    value_axes = {a for n in ex.walk(value) if n.op == "reduce" for a in ex.reduce_axes(n)}
    if any(value_axes & e.axes for e in ex.loads(values) if ex.load_tensor(e) is ref):
        value = ex.fresh_reductions(value)  # an index may not be captured by the reductions it is put into
    return ex.transform(values, visit)


def _with_fill(e: Expr, fill: ex.Scalar) -> Expr:
    if e.op == "cast":
        return ex.cast(_with_fill(e.args[0], fill), e.dtype, bool(e.value))
    return ex.load(ex.load_tensor(e), e.args, fill)


def keeps_bounds(axes: tuple[Expr, ...], value: Expr, ref: Tensor, readers: Sequence[Expr]) -> bool:
    """Whether every padded read of `ref` in `readers` is out of range exactly where it is for the tensor that `value` loads (transposes and unit dims).

    A unit dim of `ref` has no index in that tensor: reads must stay inside of it.
    """
    padded = [e for e in ex.loads(readers) if ex.load_tensor(e) is ref and ex.load_fill(e) is not None]
    if not padded:
        return True
    if value.op != "load" or ex.load_fill(value) is not None:
        return False
    source = ex.load_tensor(value)
    used = []
    for index, size in zip(value.args, source.shape, strict=True):
        if index.op == "axis" and index in axes and ref.shape[axes.index(index)] is size:
            used.append(index)
        elif not (index.is_const and index.value == 0 and size.is_const and size.value == 1):
            return False
    lost = [k for k, a in enumerate(axes) if a not in used]
    return len(set(used)) == len(used) and all(integer.as_int(axes[k].extent) == 1 and all(integer.as_int(e.args[k]) == 0 for e in padded) for k in lost)


def merge_origin(nest: Nest, other: Nest) -> Nest:
    return replace(nest, origin=tuple(dict.fromkeys(other.origin + nest.origin)))


# ------------------------------------------------------------------------------------------------------------- epilogues
def fuse_epilogues(state: Fusion) -> None:
    """Let contractions compute the element-wise maps that follow them."""
    for nest in list(state.program.nests):
        while isinstance(nest, ContractionNest) and nest in state.program.nests:
            merged = _one_epilogue(state, nest)
            if merged is None:
                break
            nest = merged


def _one_epilogue(state: Fusion, nest: ContractionNest) -> ContractionNest | None:
    for store in nest.stores:
        consumers = state.consumers(store.tensor)
        if len(consumers) != 1 or store.tensor in state.sized:
            continue
        consumer = consumers[0]
        new, verdict = absorb(nest, store, consumer, keep=store.tensor in state.kept)
        state.say(nest, consumer, verdict)
        if new is None or _reaches(state, nest, consumer, store.tensor):
            continue
        state.discard(nest)
        state.replace(consumer, new)
        return new
    return None


def _reaches(state: Fusion, nest: Nest, consumer: Nest, direct: Tensor) -> bool:
    """Whether `consumer` depends on `nest` by another way than `direct`: merging would make a cycle."""
    position = {n: k for k, n in enumerate(state.program.nests)}
    targets = {o for o in nest.outputs if o is not direct}
    pending = [r for r in reads(consumer) + size_reads(consumer) if r is not direct]
    seen: set[Ref] = set()
    while pending:
        r = pending.pop()
        if r in targets or r is direct:
            return True
        if r in seen:
            continue
        seen.add(r)
        p = state.producer.get(r)
        if p is nest:
            return True
        if p is not None and p in position:
            pending.extend(reads(p) + size_reads(p))
    return False


def absorb(nest: ContractionNest, store: Store, consumer: Nest, keep: bool) -> tuple[ContractionNest | None, str]:
    """The contraction with the map `consumer` of what `store` writes as an epilogue, or None and the reason why not."""
    if not isinstance(consumer, MapNest):
        return None, f"stored: {type(consumer).__name__} reads whole buffers"
    if any(e.op == "reduce" for e in ex.walk(consumer.values)):
        return None, "stored: its consumer reduces over it"
    hits = [e for e in ex.loads(consumer.values) if ex.load_tensor(e) is store.tensor]
    if len(hits) != 1 or ex.load_fill(hits[0]) is not None:
        return None, "stored: its consumer reads several elements of it at each point"
    if any(e.op in ("acc",) for e in ex.walk(consumer.values)):
        return None, "stored: its consumer is an epilogue already"
    solution = invert(hits[0].args, consumer.axes, store.index, store.tensor.shape)
    if solution is None:
        return None, "stored: its consumer's order of elements cannot be inverted"
    if any(s.dtype is not dt.int64 for s in solution.values()):
        return None, "stored: its consumer's index is not an integer expression"
    mapping: dict[Expr, Expr] = dict(solution)
    mapped_stores = []
    for s in consumer.stores:
        value, *index = ex.substitute([_mark(s.value, hits[0], store.value), *s.index], mapping)
        mapped_stores.append(Store(s.tensor, tuple(index), value))
    if profit.heavy_epilogue(mapped_stores):
        return None, "stored: the epilogue would cost more than a kernel of its own"
    kept = tuple(s for s in nest.stores if s is not store or keep)
    new = replace(nest, stores=kept + tuple(mapped_stores), origin=tuple(dict.fromkeys(nest.origin + consumer.origin)))
    return new, "computed in the contraction's epilogue"


def _mark(value: Expr, hit: Expr, stored: Expr) -> Expr:
    return ex.substitute_one(value, {hit: stored})


__all__ = ["Fusion", "fuse"]
