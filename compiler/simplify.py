"""Simplification: what is known is computed, what is equal is shared, what is unused is dropped, what does nothing disappears, scales join weights."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ir import expr as ex
from ..ir.dtypes import DType
from ..ir.errors import ModelError
from ..ir.expr import Expr
from ..ir.graph import Attribute, Graph, JournalEntry, Node, TensorType, Type, Value
from ..ir.infer import infer_graph
from ..ir.interpret import run_node
from .algebra import ALGEBRA, IfOfConstant
from .rewrite import all_graphs, apply_rules, forget, graphs_within, is_output, is_used, outermost, replace_uses
from .scales import SCALES

if TYPE_CHECKING:
    from .pipeline import Options

GROWTH_BYTES = 1 << 20  # a folded result may be this large, or as large as what it is computed from
SHARED_BYTES = 4096  # constants up to this size are told apart by their whole content at once, attributes compared up to it
SAMPLES = 5  # elements along each dimension by which large constants are told apart at first
MAX_ROUNDS = 8

# Each run gives other values.
RANDOM = frozenset(("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"))
# Folding these would hide from later stages that a weight is stored in few bits.
KEPT = frozenset(("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"))


def simplify(graph: Graph, options: "Options") -> None:
    """Simplify a typed graph and its subgraphs, in place, until nothing changes.

    Args:
        options: `disabled` names rules (and the passes `fold-constants`, `share-equal`, `drop-unused`) that must not run.
    """
    for _ in range(MAX_ROUNDS):
        changed = 0
        if "drop-unused" not in options.disabled:
            changed += drop_unused(graph)
        if "fold-constants" not in options.disabled:
            changed += fold_constants(graph)
        changed += apply_rules(graph, (*ALGEBRA, *SCALES), options.disabled)
        if "share-equal" not in options.disabled:
            changed += share_equal(graph)
        if not changed:
            break
    if any(_has_loads(v.type, v.content) for g in all_graphs(graph) for n in g.nodes for v in n.outputs if v is not None):
        infer_graph(graph)  # sizes may refer to tensors of nodes that are gone


def take_decided_branches(graph: Graph) -> None:
    """Put the taken branch in the place of every If whose condition is known: its results were typed by that branch alone, with sizes that lie inside it."""
    while apply_rules(graph, (IfOfConstant(),), frozenset()):
        infer_graph(graph)


def _has_loads(type: Type | None, content: tuple[Expr, ...] | None) -> bool:
    dims = type.shape if isinstance(type, TensorType) and type.shape is not None else ()
    return any(not d.is_const and d.op != "sym" and bool(ex.loads(d)) for d in (*dims, *(content or ())))


# --------------------------------------------------------------------------------------------------------------- constants
def fold_constants(graph: Graph) -> int:
    """Compute nodes whose inputs are all known, unless the result is much larger than they are. Returns the number of nodes folded.

    Nodes whose results inference knows already (sizes, mostly) go as well.
    """
    folded = 0
    for g in graphs_within(graph):
        kept: list[Node] = []
        for node in g.nodes:
            if _fold(node):
                _detach(node)
                folded += 1
                outermost(g).journal.append(JournalEntry("fold-constants", node.origin or (node.name,)))
            else:
                kept.append(node)
        g.nodes[:] = kept
    return folded


def _fold(node: Node) -> bool:
    """Make a node's outputs constants if that is possible and worth it."""
    outputs = [o for o in node.outputs if o is not None]
    if any(not isinstance(o.type, TensorType) for o in outputs) or node.op in RANDOM:
        return False
    if all(o.constant is not None for o in outputs):
        return True
    if node.op in KEPT or any(v is not None and v.constant is None for v in node.inputs) or any(True for _ in node.subgraphs()):
        return False
    sizes = [_bytes(o.type) for o in outputs]
    given = sum(v.constant.nbytes for v in node.inputs if v is not None)
    if any(s is None for s in sizes) or sum(sizes) > max(GROWTH_BYTES, given):
        return False
    if node.op == "Transpose" and given > GROWTH_BYTES and len(node.inputs[0].uses) > 1:
        return False  # its other users would keep it in memory a second time; schedules read it as it is
    try:
        results = _rearranged(node) or run_node(node, [None if v is None else v.constant for v in node.inputs])
    except (ModelError, ArithmeticError, ValueError, IndexError, MemoryError):
        return False  # the run will say what is wrong, if it ever gets there
    for o, r in zip(node.outputs, results, strict=False):
        if o is not None and not isinstance(r, (np.ndarray, np.generic)):
            return False
    for o, r in zip(node.outputs, results, strict=False):
        if o is not None:
            o.constant = np.asarray(r)
            assert isinstance(o.type, TensorType)
            o.type = TensorType(o.type.dtype, tuple(ex.const(d) for d in o.constant.shape))
    return True


def _rearranged(node: Node) -> list[np.ndarray] | None:
    """The result of an operator that only moves elements, as a view of its input where NumPy can give one; None for other operators."""
    x = node.inputs[0].constant if node.inputs and node.inputs[0] is not None else None
    if x is None or node.domain:
        return None
    result = node.outputs[0].type
    assert isinstance(result, TensorType)
    shape = [d.value for d in result.shape]
    if node.op == "Transpose":
        return [x.transpose(node.attributes.get("perm"))]
    if node.op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"):
        return [x.reshape(shape)]
    if node.op == "Concat":
        return [np.concatenate([v.constant for v in node.inputs], node.attributes.get("axis", 1))]
    return None


def _bytes(type: Type) -> int | None:
    """The size of a tensor if all dims are known."""
    if not isinstance(type, TensorType) or type.shape is None or not all(d.is_const for d in type.shape):
        return None
    return int(np.prod([max(d.value, 0) for d in type.shape], dtype=object)) * type.dtype.itemsize_bytes


def _detach(node: Node) -> None:
    """Take a node's edges away; its outputs live on as constants. The caller takes it out of the list of nodes."""
    for k, v in enumerate(node.inputs):
        if v is not None:
            v.uses.remove((node, k))
    for o in node.outputs:
        if o is not None:
            o.producer = None
    for s in node.subgraphs():
        forget(s)


# ------------------------------------------------------------------------------------------------------------------ unused
def drop_unused(graph: Graph) -> int:
    """Remove nodes whose results nobody needs, and outputs of nodes that nobody reads where they are optional. Returns the number of nodes removed."""
    removed = 0
    for g in graphs_within(graph, outermost_first=True):
        dead: set[Node] = set()
        for node in reversed(g.nodes):
            if any(o is not None and is_used(o) for o in node.outputs):
                continue
            _detach(node)
            dead.add(node)
        if dead:
            g.nodes[:] = [n for n in g.nodes if n not in dead]
            removed += len(dead)
    return removed


# ----------------------------------------------------------------------------------------------------------------- sharing
def share_equal(graph: Graph) -> int:
    """Compute equal things once: constants with the same elements, then nodes with the same operator, attributes and inputs.

    Returns:
        The number of nodes removed.
    """
    removed = 0
    for g in graphs_within(graph):
        _share_constants(g)
        removed += _share_nodes(g)
    return removed


def _share_constants(graph: Graph) -> None:
    first: dict[object, list[Value]] = {}
    done: set[Value] = set()
    for node in graph.nodes:
        for v in node.inputs:
            if v is None or v.constant is None or v.producer is not None or v in done or v in outermost(graph).inputs:
                continue
            done.add(v)
            alike = first.setdefault(_constant_key(v), [])
            known = next((k for k in alike if _same_elements(k, v)), None)
            if known is None:
                alike.append(v)
            elif not is_output(v) and v.name not in outermost(graph).overridable and known.graph is v.graph:
                replace_uses(v, known)


def _constant_key(v: Value) -> object:
    """Type, shape and elements of a constant, of a large one a few of them."""
    a = v.constant
    if a.dtype == object:
        return v
    kind = (a.dtype.str, a.dtype.name, a.shape)
    if a.nbytes <= SHARED_BYTES:
        return (*kind, a.tobytes())
    return (*kind, a[tuple(slice(None, None, -(-n // SAMPLES) or 1) for n in a.shape)].tobytes())


def _same_elements(a: Value, b: Value) -> bool:
    """Whether two constants of one key have the same bits."""
    x, y = a.constant, b.constant
    if x is y or x is None or y is None or x.nbytes <= SHARED_BYTES:
        return True
    if x.__array_interface__["data"][0] == y.__array_interface__["data"][0] and x.strides == y.strides:
        return True
    rows = range(len(x)) if x.ndim > 1 else (slice(None),)
    return all(x[k].tobytes() == y[k].tobytes() for k in rows)


def _share_nodes(graph: Graph) -> int:
    first: dict[object, Node] = {}
    dead: set[Node] = set()
    for node in graph.nodes:
        key = _node_key(node)
        if key is None:
            continue
        known = first.setdefault(key, node)
        if known is node or any(o is not None and is_output(o) for o in node.outputs):
            continue
        for mine, theirs in zip(node.outputs, known.outputs, strict=True):
            if mine is not None:
                replace_uses(mine, theirs)
        _detach(node)
        dead.add(node)
        known.origin = tuple(dict.fromkeys((*known.origin, *node.origin)))
        outermost(graph).journal.append(JournalEntry("share-equal", node.origin or (node.name,)))
    if dead:
        graph.nodes[:] = [n for n in graph.nodes if n not in dead]
    return len(dead)


def _node_key(node: Node) -> object:
    """What two nodes have in common if they give the same results; None for nodes that are never shared."""
    if node.op in RANDOM or any(True for _ in node.subgraphs()):
        return None
    attributes = []
    for key, value in sorted(node.attributes.items()):
        hashed = _attribute_key(value)
        if hashed is None:
            return None
        attributes.append((key, hashed))
    return (node.domain, node.op, node.version, tuple(node.inputs), tuple(o is None for o in node.outputs), tuple(attributes))


def _attribute_key(value: Attribute) -> object:
    if isinstance(value, np.ndarray):
        return None if value.dtype == object or value.nbytes > SHARED_BYTES else (value.dtype.name, value.shape, value.tobytes())
    if isinstance(value, (bool, int, float, str, bytes, DType)):
        return type(value), repr(value)
    if isinstance(value, tuple):
        parts = tuple(_attribute_key(v) for v in value)
        return None if None in parts else parts
    return None
