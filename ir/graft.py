"""Copies of graphs inside other graphs: what an operator that carries sub-graphs decomposes into."""
from __future__ import annotations

from collections.abc import Mapping

from .graph import Attribute, Graph, Node, Value
from .infer import infer


def graft(source: Graph, target: Graph, given: Mapping[Value, Value], owner: Node, before: Node | None = None) -> list[Value]:
    """Copy the nodes of a graph into another one and infer them there; the source stays as it is.

    Args:
        given: what takes the place of the source's inputs. Values of graphs around the source stand for themselves.
        owner: the node that carries the source; the copies have its name in front of theirs.
        before: where the copies go; None appends them.

    Returns:
        The values that correspond to the source's outputs.
    """
    return _Copy(source, dict(given), owner).nodes(source, target, before, typed=True)


class _Copy:
    def __init__(self, source: Graph, known: dict[Value, Value], owner: Node) -> None:
        self.source, self.known, self.owner = source, known, owner

    def nodes(self, source: Graph, target: Graph, before: Node | None, typed: bool) -> list[Value]:
        for n in source.nodes:
            attributes = {k: self.attribute(a, target) for k, a in n.attributes.items()}
            outputs = [None if o is None else target.value(o.name) for o in n.outputs]
            node = target.add(n.op, [self.value(v, target) for v in n.inputs], attributes, outputs=outputs, domain=n.domain, version=n.version,
                              name=f"{self.owner.name}/{n.name}", origin=n.origin or (n.name,), before=before)
            self.known.update((o, new) for o, new in zip(n.outputs, outputs, strict=True) if o is not None and new is not None)
            if typed:
                infer(node)
        found = [self.value(o, target) for o in source.outputs]
        return [v for v in found if v is not None]

    def value(self, v: Value | None, target: Graph) -> Value | None:
        if v is None or v in self.known:
            return None if v is None else self.known[v]
        if v.constant is not None and v.graph.is_inside(self.source):
            self.known[v] = copy = target.constant(v.name, v.constant)
            copy.type = v.type
            return copy
        return v

    def attribute(self, a: Attribute, target: Graph) -> Attribute:
        if isinstance(a, Graph):
            return self.body(a, target)
        if isinstance(a, tuple) and any(isinstance(g, Graph) for g in a):
            return tuple(self.body(g, target) for g in a)
        return a

    def body(self, source: Graph, parent: Graph) -> Graph:
        """A copy of a body inside the source; the operator that owns it infers it."""
        body = Graph(source.name, parent)
        self.known.update((v, body.input(v.name, v.type)) for v in source.inputs)
        body.outputs = self.nodes(source, body, None, typed=False)
        body.declared = dict(source.declared)
        return body
