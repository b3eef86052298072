"""Bodies of control flow stand alone before they are lowered: what they take from outside becomes inputs."""
from __future__ import annotations

from ..ir.graph import Graph, Node, Value
from ..ir.infer import infer
from ..ir.ops.control import CAPTURES


def close_bodies(graph: Graph) -> None:
    """Turn the values that the bodies of a graph's nodes capture into inputs of the nodes and of the bodies; the bodies lose their parent."""
    for node in graph.nodes:
        bodies = list(node.subgraphs())
        if not bodies:
            continue
        captured: dict[Value, None] = {}
        for body in bodies:
            captured.update(dict.fromkeys(body.captured()))
        for v in captured:
            node.inputs.append(v)
            v.uses.append((node, len(node.inputs) - 1))
        node.attributes[CAPTURES] = int(node.attributes.get(CAPTURES, 0)) + len(captured)  # type: ignore[call-overload]
        for body in bodies:
            for v in captured:
                own = body.input(v.name, v.type)
                _replace_inside(body, v, own)
            _detach(body, graph)
        if captured:
            infer(node)


def _detach(body: Graph, graph: Graph) -> None:
    """Make a body a model of its own; the bodies inside of it stay parts of it until it is compiled itself."""
    inner = [g for g in _graphs(body) if g is not body]
    for g in (body, *inner):
        if g in graph.bodies:
            graph.bodies.remove(g)
        g.bodies = inner
    body.parent = None
    body.opsets = dict(graph.opsets)


def _replace_inside(body: Graph, old: Value, new: Value) -> None:
    """Uses of an outer value inside a body become uses of the body's own input."""
    for node in body.all_nodes():
        for k, v in enumerate(node.inputs):
            if v is old:
                _exchange(node, k, old, new)
    for g in _graphs(body):
        g.outputs = [new if o is old else o for o in g.outputs]


def _exchange(node: Node, k: int, old: Value, new: Value) -> None:
    if (node, k) in old.uses:
        old.uses.remove((node, k))
    node.inputs[k] = new
    new.uses.append((node, k))


def _graphs(body: Graph) -> list[Graph]:
    found = [body]
    for n in body.nodes:
        for s in n.subgraphs():
            found += _graphs(s)
    return found
