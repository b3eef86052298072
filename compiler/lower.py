"""Graph -> loop nests: every node becomes the nests of its definition; what nobody uses is dropped."""
from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.expr import Expr, Tensor
from ..ir.graph import Graph, Node, TensorType, Value
from ..ir.infer import lower_node
from ..ir.loops import Check, HostNest, HostRef, Nest, NestProgram, Ref, reads, size_reads, size_roots
from ..ir.ops.base import Builder, Op, find
from .rewrite import forget


def decompose(graph: Graph) -> None:
    """Replace, in place, every node whose definition decomposes by the operators that it decomposes into, until none is left."""
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            definition = find(node.domain, node.op)
            if definition is not None and definition.kind() == "decompose":
                _expand(graph, node, definition)
                changed = True


def _expand(graph: Graph, node: Node, definition: Op) -> None:
    builder = Builder(graph, node, definition, before=node)
    results = definition.decompose(builder)
    values = [results] if isinstance(results, Value) else list(results)
    for old, new in zip(node.outputs, values, strict=False):
        if old is not None and new is not None:
            if graph.is_output(old) or old.uses:
                new = _named(graph, node, old, new)
            graph.replace_all_uses(old, new)
    graph.remove(node)
    for s in node.subgraphs():
        forget(s)


def _named(graph: Graph, node: Node, old: Value, new: Value) -> Value:
    """Graph outputs keep their names: an output that would become an input, a constant or another output goes through Identity."""
    if not graph.is_output(old) or (new.producer is not None and not graph.is_output(new) and not new.is_constant):
        return new
    identity = graph.add("Identity", [new], version=1, before=node, origin=node.origin or (node.name,))
    identity.outputs[0].type = new.type
    return identity.outputs[0]


def missing_operators(graph: Graph) -> list[Node]:
    """The nodes (those of subgraphs included) whose operator has no definition."""
    return [n for n in graph.all_nodes() if find(n.domain, n.op) is None]


def lower(graph: Graph) -> NestProgram:
    """Lower a graph whose values are typed and whose decomposable nodes are gone.

    Raises:
        UnsupportedError: an operator, type or rank that cannot be lowered yet; names the node.
    """
    refs: dict[Value, Ref] = {}
    constants: dict[Tensor, np.ndarray] = {}
    nests: list[Nest] = []
    checks: dict[Expr, Check] = {}
    names: dict[str, Tensor] = {}  # the names under which inferred contents refer to tensors

    def ref(v: Value) -> Ref:
        found = refs.get(v)
        if found is None:
            assert v.constant is not None, f"{v.name} is used before it is computed"
            refs[v] = found = Tensor(v.name, _dtype_of(v), tuple(ex.const(d) for d in v.constant.shape))
            constants[found] = v.constant
            names[v.name] = found
        return found

    inputs = [refs.setdefault(v, _input_ref(v)) for v in graph.inputs]
    names.update((v.name, r) for v, r in refs.items() if isinstance(r, Tensor))
    for node in graph.nodes:
        for v in node.inputs:
            if v is not None:
                ref(v)
        lowered = lower_node(node, refs, names)
        nests += lowered.nests
        constants.update(lowered.constants)
        checks.update((c.condition, c) for c in lowered.checks if c.condition not in checks)
        names.update(lowered.names(node))
        refs.update((v, r) for v, r in zip(node.outputs, lowered.outputs, strict=True) if v is not None and r is not None)
    program = NestProgram(inputs, constants, nests, [ref(o) for o in graph.outputs], list(checks.values()))
    drop_dead(program)
    return program


def _dtype_of(v: Value) -> dt.DType:
    assert isinstance(v.type, TensorType)
    return v.type.dtype


def _input_ref(v: Value) -> Ref:
    if isinstance(v.type, TensorType) and v.type.shape is not None:
        return Tensor(v.name, v.type.dtype, v.type.shape)
    return HostRef(v.name)


def drop_dead(program: NestProgram) -> None:
    """Remove nests and constants that no output depends on."""
    live: set[Ref] = {*program.outputs, *program.held()}
    kept: list[Nest] = []
    for o in program.outputs:
        if isinstance(o, Tensor):
            live.update(ex.load_tensor(e) for e in ex.loads(o.shape))
    bound = {d for t in program.inputs if isinstance(t, Tensor) for d in t.shape}
    measured = {d for n in program.nests if isinstance(n, HostNest) for d in result_symbols(n)} - bound  # sizes that results of the host tell
    needed = symbols([d for o in program.outputs if isinstance(o, Tensor) for d in o.shape]) if measured else set()
    for nest in reversed(program.nests):
        if any(o in live for o in nest.outputs) or (measured and isinstance(nest, HostNest) and not needed.isdisjoint(measured & result_symbols(nest))):
            kept.append(nest)
            live.update(reads(nest))
            live.update(size_reads(nest))
            if measured:
                needed |= symbols([*size_roots(nest), *nest.values])
    kept.reverse()
    program.nests[:] = kept
    computed = {*program.inputs, *program.constants, *(o for n in kept for o in n.outputs)}
    program.checks[:] = [c for c in program.checks if all(ex.load_tensor(e) in computed for e in ex.loads(c.condition))]
    for t in [t for t in program.constants if t not in live]:
        del program.constants[t]


def result_symbols(nest: HostNest) -> set[Expr]:
    return {d for o in nest.outputs if isinstance(o, Tensor) for d in o.shape if d.op == "sym" and not d.args}  # those with a definition follow from it


def symbols(expressions: Iterable[Expr]) -> set[Expr]:
    return {e for e in ex.walk(expressions) if e.op == "sym"}


def toposort(program: NestProgram) -> None:
    """Restore execution order after nests were merged; keeps the present order where dependences allow.

    Raises:
        AssertionError: a merge made a cycle.
    """
    producer = program.producers()
    done: set[Nest] = set()
    order: list[Nest] = []

    def visit(roots: Iterable[Nest]) -> None:
        stack: list[tuple[Nest, bool]] = [(n, False) for n in reversed(list(roots))]
        active: set[Nest] = set()
        while stack:
            nest, ready = stack.pop()
            if nest in done:
                continue
            if ready:
                done.add(nest)
                order.append(nest)
                continue
            assert nest not in active, f"cycle at {nest.outputs}"
            active.add(nest)
            stack.append((nest, True))
            for r in reversed(reads(nest) + size_reads(nest)):
                p = producer.get(r)
                if p is not None and p is not nest and p not in done:
                    stack.append((p, False))
    visit(program.nests)
    program.nests[:] = order
