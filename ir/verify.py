"""Verification: what must hold of graphs and programs between the stages of the compiler. Used by tests after every stage."""
from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from . import dtypes as dt
from . import expr as ex
from . import integer
from .arrays import affine_terms
from .errors import SardonyxError
from .expr import Expr, Tensor
from .graph import Graph, Node, TensorType, Value
from .infer import label
from .loops import ContractionNest, HostNest, MapNest, Nest, NestProgram, Ref, RoutineNest, Store, reads, size_reads


class VerificationError(SardonyxError):
    """A stage of the compiler left something inconsistent: a fault of the compiler, not of the model."""


# ------------------------------------------------------------------------------------------------------------------ graphs
def verify_graph(graph: Graph, typed: bool = True) -> None:
    """Check a graph and its subgraphs: use lists, single assignment, order, unique names, types.

    Args:
        typed: demand a type for every value.

    Raises:
        VerificationError: what is wrong and where.
    """
    _verify_uses(graph)
    names: dict[str, Value] = {}
    _verify_order(graph, set(), names, typed)


def _verify_uses(graph: Graph) -> None:
    """Every input slot of every node is in its value's use list once, and the lists hold nothing else."""
    nodes = list(graph.all_nodes())
    if len(set(nodes)) != len(nodes):
        raise VerificationError("a node stands in the graph twice")
    slots: dict[Value, set[tuple[Node, int]]] = {}
    for n in nodes:
        for k, v in enumerate(n.inputs):
            if v is not None:
                slots.setdefault(v, set()).add((n, k))
    for v in {*slots, *(o for n in nodes for o in n.outputs if o is not None), *graph.inputs}:
        listed = v.uses
        for n, k in listed:
            if (n, k) not in slots.get(v, ()):
                raise VerificationError(f"%{v.name} lists a use by {label(n)}, input {k}, which is not there")
        if len(listed) != len(slots.get(v, ())):
            missing = slots.get(v, set()) - set(listed)
            where = ", ".join(f"{label(n)} input {k}" for n, k in missing) or "one use is listed twice"
            raise VerificationError(f"%{v.name}: its use list lacks or repeats uses: {where}")


def _verify_order(graph: Graph, outer: set[Value], names: dict[str, Value], typed: bool) -> None:
    known = set(outer)

    def define(v: Value, where: str) -> None:
        if v in known:
            raise VerificationError(f"%{v.name} is defined twice, again {where}")
        if names.setdefault(v.name, v) is not v:
            raise VerificationError(f"two values are called %{v.name}, the second {where}")
        known.add(v)
        if typed and v.type is None:
            raise VerificationError(f"%{v.name} has no type ({where})")
        _verify_elements(v)

    def use(v: Value, where: str) -> None:
        if v not in known and v.constant is not None and v.producer is None:
            define(v, where)
        if v not in known:
            raise VerificationError(f"%{v.name} is used before it is computed ({where})")

    for v in graph.inputs:
        define(v, f"as an input of {graph.name}")
    for n in graph.nodes:
        for v in n.inputs:
            if v is not None:
                use(v, f"by {label(n)}")
        for s in n.subgraphs():
            _verify_order(s, known, names, typed)
        for o in n.outputs:
            if o is not None:
                if o.producer is not n:
                    raise VerificationError(f"%{o.name} is an output of {label(n)} but names {o.producer and label(o.producer)} as its producer")
                define(o, f"by {label(n)}")
    for o in graph.outputs:
        use(o, f"as an output of {graph.name}")


def _verify_elements(v: Value) -> None:
    """Constants and contents fit the type."""
    t = v.type
    if not isinstance(t, TensorType) or t.shape is None:
        return
    if not all(d.dtype is dt.int64 for d in t.shape):
        raise VerificationError(f"%{v.name}: a dimension of {t} is no int64 expression")
    if v.constant is not None:
        _verify_array(v.name, t.dtype, t.shape, v.constant)
    if v.content is not None:
        count = integer.as_int(ex.product(t.shape))
        if count != len(v.content) or any(e.dtype is not t.dtype for e in v.content):
            raise VerificationError(f"%{v.name}: {t} cannot have the content ({', '.join(e.text for e in v.content)})")


def _verify_array(name: str, dtype: dt.DType, shape: Sequence[Expr], array: object) -> None:
    found = np.asarray(array)
    if found.ndim != len(shape) or any(d.is_const and d.value != n for d, n in zip(shape, found.shape, strict=True)):
        raise VerificationError(f"%{name}: shape ({', '.join(d.text for d in shape)}) but an array of shape {found.shape}")
    if found.dtype != dtype.numpy:
        raise VerificationError(f"%{name}: elements of {dtype} but an array of {found.dtype}")


# ---------------------------------------------------------------------------------------------------------------- programs
def verify_program(program: NestProgram) -> None:
    """Check a program: tensors computed before they are read and by one nest each, expressions well typed, axes bound, stores distinct and in range.

    Raises:
        VerificationError: what is wrong and in which nest.
    """
    known: set[Ref] = set()
    for r in (*program.inputs, *program.constants):
        if r in known:
            raise VerificationError(f"%{r.name} is given twice")
        known.add(r)
    for t, array in program.constants.items():
        _verify_array(t.name, t.dtype, t.shape, array)
    for nest in program.nests:
        own = set(nest.outputs)
        for r in (*reads(nest), *size_reads(nest)):
            if r not in known and not (r in own and isinstance(nest, MapNest)):
                raise VerificationError(f"{_where(nest)}: %{r.name} is read before it is computed")
        for o in nest.outputs:
            if o in known:
                raise VerificationError(f"{_where(nest)}: %{o.name} is computed twice")
        verify_nest(nest)
        known |= own
    for c in program.checks:
        if c.condition.dtype is not dt.boolean:
            raise VerificationError(f"the check {c.condition.text} is no condition")
        _verify_expr(c.condition, frozenset(), None, "a check")
    for o in program.outputs:
        if o not in known:
            raise VerificationError(f"the output %{o.name} is never computed")
        if isinstance(o, Tensor):
            for e in ex.loads(o.shape):
                if ex.load_tensor(e) not in known:
                    raise VerificationError(f"the size %{ex.load_tensor(e).name} of the output %{o.name} is never computed")


def verify_nest(nest: Nest) -> None:
    """Check one nest by itself.

    Raises:
        VerificationError: what is wrong.
    """
    where = _where(nest)
    for o in nest.outputs:
        if isinstance(o, Tensor):
            _verify_sizes(o.shape, f"{where}: the shape of %{o.name}")
    if isinstance(nest, RoutineNest):
        _verify_sizes((*nest.parameters, nest.units, nest.scratch_bytes), where)
    elif isinstance(nest, (MapNest, ContractionNest)):
        axes = nest.axes + (nest.reduced if isinstance(nest, ContractionNest) else ())
        if len(set(axes)) != len(axes) or any(a.op != "axis" for a in axes):
            raise VerificationError(f"{where}: its axes are not distinct axes")
        _verify_sizes([a.extent for a in axes], f"{where}: an extent")
        if isinstance(nest, ContractionNest):
            _verify_operands(nest, where)
        written: set[Tensor] = set()
        for s in nest.stores:
            _verify_store(nest, s, where)
            written.add(s.tensor)
            later = {ex.load_tensor(e) for e in ex.loads(s.value)} & (set(nest.outputs) - written)
            if later:
                raise VerificationError(f"{where}: {s!r} reads %{next(iter(later)).name}, which a later store writes")
    elif not isinstance(nest, HostNest):
        raise VerificationError(f"{type(nest).__name__} is no kind of nest")


def _where(nest: Nest) -> str:
    return f"{type(nest).__name__} of {', '.join(f'%{o.name}' for o in nest.outputs)}"


def _verify_sizes(sizes: Iterable[Expr], where: str) -> None:
    for e in sizes:
        if e.dtype is not dt.int64:
            raise VerificationError(f"{where}: {e.text} is {e.dtype}, sizes are i64")
        _verify_expr(e, frozenset(), None, where)


def _verify_operands(nest: ContractionNest, where: str) -> None:
    for name, e, allowed in (("a", nest.a, nest.batch + nest.rows + nest.reduced), ("b", nest.b, nest.batch + nest.columns + nest.reduced)):
        if e.dtype is not nest.dtype:
            raise VerificationError(f"{where}: operand {name} is {e.dtype}, the accumulator {nest.dtype}")
        _verify_expr(e, frozenset(allowed), None, f"{where}, operand {name}")
    if not nest.reduced:
        raise VerificationError(f"{where}: a contraction without reduced axes")


def _verify_store(nest: MapNest | ContractionNest, s: Store, where: str) -> None:
    where = f"{where}, {s!r}"
    if len(s.index) != s.tensor.rank:
        raise VerificationError(f"{where}: {len(s.index)} indices for rank {s.tensor.rank}")
    if s.value.dtype is not s.tensor.dtype:
        raise VerificationError(f"{where}: a value of {s.value.dtype} is stored in a tensor of {s.tensor.dtype}")
    axes = frozenset(nest.axes)
    accumulator = nest.dtype if isinstance(nest, ContractionNest) else None
    _verify_expr(s.value, axes, accumulator, where)
    for i in s.index:
        if i.dtype is not dt.int64:
            raise VerificationError(f"{where}: the index {i.text} is {i.dtype}")
        _verify_expr(i, axes, None, where)
    needed = frozenset(nest.axes) if isinstance(nest, ContractionNest) else s.value.axes
    lost = needed - frozenset().union(*(i.axes for i in s.index)) if s.index else needed
    lost = frozenset(a for a in lost if integer.as_int(a.extent) != 1)
    if lost:
        raise VerificationError(f"{where}: the value changes along {', '.join(sorted(a.text for a in lost))}, the index does not")
    _verify_distinct(s, where)


def _verify_distinct(s: Store, where: str) -> None:
    """An affine index with constant factors must give every point of its axes a place of its own, inside the tensor."""
    forms = [affine_terms(i) for i in s.index]
    axes = frozenset().union(*(i.axes for i in s.index)) if s.index else frozenset()
    extents = {a: integer.as_int(a.extent) for a in axes}
    if any(f is None for f in forms) or any(n is None or n <= 0 for n in extents.values()):
        return
    if not _is_injective([f[0] for f in forms], extents):
        raise VerificationError(f"{where}: two points of the axes store at the same place")
    for k, (factors, offset) in enumerate(forms):
        low = offset + sum(min(0, c * (extents[a] - 1)) for a, c in factors.items())
        high = offset + sum(max(0, c * (extents[a] - 1)) for a, c in factors.items())
        size = integer.as_int(s.tensor.shape[k])
        if low < 0 or (size is not None and high >= size):
            raise VerificationError(f"{where}: index {k} runs from {low} to {high}, the dimension has {s.tensor.shape[k].text}")


def _is_injective(rows: Sequence[dict[Expr, int]], extents: dict[Expr, int]) -> bool:
    """Whether sum(factor * axis), dimension by dimension, is different at every point; axes that several dimensions share are decided by any of these."""
    left = {a for a, n in extents.items() if n > 1}
    changed = True
    while left and changed:
        changed = False
        for factors in rows:
            mine = sorted((abs(c), a.text, a) for a, c in factors.items() if a in left and c)
            span, ok = 0, True
            for c, _, a in mine:
                ok = ok and c > span
                span += c * (extents[a] - 1)
            if mine and ok:
                left -= {a for _, _, a in mine}
                changed = True
    return not left


def _verify_expr(root: Expr, axes: frozenset[Expr], accumulator: dt.DType | None, where: str) -> None:
    """Axes bound, operands of the right types, loads of the right rank."""
    loose = root.axes - axes
    if loose:
        raise VerificationError(f"{where}: the axis {min(a.text for a in loose)} is not bound")
    for e in ex.walk(root):
        reason = _fault(e, accumulator)
        if reason is not None:
            raise VerificationError(f"{where}: {reason} in {e.text[:200]}")


def _fault(e: Expr, accumulator: dt.DType | None) -> str | None:
    """What is wrong with one expression node, or None."""
    types = [a.dtype for a in e.args]
    if e.op == "const":
        return None
    if e.op == "acc":
        return None if e.dtype is accumulator else "the accumulator is used where there is none of its type"
    if e.op == "load":
        t = ex.load_tensor(e)
        if len(e.args) != t.rank:
            return f"{len(e.args)} indices for rank {t.rank}"
        if e.dtype is not t.dtype:
            return f"a load of {e.dtype} from a tensor of {t.dtype}"
        return None if all(d is dt.int64 for d in types) else "an index that is not i64"
    if e.op in ("sym", "axis"):
        return None if e.dtype is dt.int64 else f"{e.op} of {e.dtype}"
    if e.op == "poly":
        return None if all(a.dtype is dt.int64 for a in ex.children(e)) else "a polynomial over other than i64"
    if e.op == "reduce":
        if ex.reduce_kind(e).startswith("arg"):
            return None if e.dtype is dt.int64 and len(ex.reduce_axes(e)) == 1 else "a position along other than one axis, or not i64"
        if ex.reduce_kind(e) in ("any", "all") and types[0] is not dt.boolean:
            return f"{ex.reduce_kind(e)} of {types[0]}"
        return None if e.dtype is types[0] else f"a reduction of {types[0]} to {e.dtype}"
    if e.op == "cast":
        return None
    if e.op == "bitcast":
        return None if e.dtype.bits == types[0].bits else "a bitcast between widths"
    if e.op == "where":
        return None if types[0] is dt.boolean and types[1] is types[2] is e.dtype else f"where over {types}"
    if e.op not in ex.UNARY | ex.BINARY or len(e.args) != (1 if e.op in ex.UNARY else 2):
        return f"no operator {e.op} of {len(e.args)} operands"
    if len(set(types)) > 1:
        return f"operands of {types}"
    return None if e.dtype is (dt.boolean if e.op in ex.PREDICATES else types[0]) else f"a result of {e.dtype} from operands of {types[0]}"
