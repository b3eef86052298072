"""Reverse-mode differentiation: the nodes of a value's gradients, from each operator's own rule, appended to its graph."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..ir.errors import ModelError, UnsupportedError
from ..ir.graph import Graph, Node, TensorType, Value
from ..ir.infer import definition, infer, label
from ..ir.ops.base import Builder, Op

TRAINING_DOMAIN = "ai.onnx.preview.training"


class Differentiator:
    """Gradients of values of one graph, appended to it for a node that asks for them.

    Args:
        graph: whose nodes are differentiated.
        asking: the name under which errors and reports show what is added.
    """

    def __init__(self, graph: Graph, asking: str) -> None:
        self.graph, self.asking = graph, asking

    def gradients(self, y: Value, xs: Sequence[Value]) -> list[Value]:
        """The gradient of the sum of y's elements for each of `xs`; zeros where y does not depend on it.

        Raises:
            ModelError: y is no tensor of floats.
            UnsupportedError: an operator on the way has no gradient.
        """
        if not isinstance(y.type, TensorType) or not y.type.dtype.is_float:
            raise ModelError(f"'{y.name}' is {y.type}; a tensor of floats can be differentiated", self.asking)
        found: dict[Value, Value] = {y: self._filled(y, 1)}
        self._pull(self._between(y, xs), found, frozenset(xs))
        return [found[x] if x in found else self._filled(x, 0) for x in xs]

    def copied(self, y: Value, substitutes: Mapping[Value, Value]) -> Value:
        """y computed anew, with other values in the place of some that it depends on."""
        copies = dict(substitutes)
        for node in self._between(y, list(substitutes)):
            if any(True for _ in node.subgraphs()):
                raise UnsupportedError(f"{label(node)} cannot be computed at other values: it has bodies", self.asking)
            copy = self.graph.add(node.op, [v if v is None else copies.get(v, v) for v in node.inputs], dict(node.attributes), outputs=len(node.outputs),
                                  domain=node.domain, version=node.version, name=f"{self.asking}/{node.name}", origin=(self.asking,))
            infer(copy)
            copies.update((a, b) for a, b in zip(node.outputs, copy.outputs, strict=True) if a is not None and b is not None and a not in substitutes)
        return copies.get(y, y)

    def _between(self, y: Value, xs: Sequence[Value]) -> list[Node]:
        """The nodes on the ways from `xs` to y, in the graph's order; what lies before an x does not count."""
        needed: set[Value] = set()
        waiting = [y]
        while waiting:
            v = waiting.pop()
            if v in needed or v in xs:
                continue
            needed.add(v)
            if v.producer is not None:
                waiting.extend(i for i in v.producer.inputs if i is not None)
        moved, nodes = set(xs), []
        for node in self.graph.nodes:
            if any(o in needed for o in node.outputs) and any(i in moved for i in node.inputs):
                moved.update(o for o in node.outputs if o is not None)
                nodes.append(node)
        return nodes

    def _pull(self, nodes: Iterable[Node], found: dict[Value, Value], leaves: frozenset[Value]) -> None:
        """Add the gradients of the nodes' inputs, given those of their outputs."""
        for node in reversed(list(nodes)):
            upstream = [None if o is None else found.get(o) for o in node.outputs]
            if all(u is None for u in upstream):
                continue
            op = definition(node)
            builder = self._builder(node, op)
            if type(op).gradient is Op.gradient and type(op).decompose is not Op.decompose:
                made = op.decompose(builder)
                parts = [made] if isinstance(made, Value) else list(made)
                for part, u in zip(parts, upstream):
                    if part is not None and u is not None:
                        self._accumulate(found, part, u)
                self._pull(list(builder.added), found, leaves)
                continue
            for v, g in zip(node.inputs, op.gradient(builder, upstream)):
                if v is not None and g is not None:
                    self._accumulate(found, v, g)

    def _accumulate(self, found: dict[Value, Value], value: Value, gradient: Value) -> None:
        before = found.get(value)
        found[value] = gradient if before is None else self._helper().add("Add", before, gradient)

    def _filled(self, like: Value, number: int) -> Value:
        assert isinstance(like.type, TensorType)
        b = self._helper()
        filled: Value = b.add("ConstantOfShape", b.add("Shape", like), value=np.full(1, number, like.type.dtype.numpy))
        return filled

    def _builder(self, node: Node, op: Op) -> Builder:
        return Builder(self.graph, Node(node.domain, node.op, node.version, node.inputs, node.outputs, node.attributes, f"{self.asking}/{node.name}",
                                        (self.asking,)), op)

    def _helper(self) -> Builder:
        node = Node(TRAINING_DOMAIN, "Gradient", 1, [], [], {}, self.asking, (self.asking,))
        return Builder(self.graph, node, Op())


def gradient_of(graph: Graph, asking: str, y: Value, xs: Sequence[Value], zs: Sequence[Value], inputs: Sequence[Value | None]) -> list[Value]:
    """What ai.onnx.preview.training's Gradient gives: dy/dx for each of `xs`, at the inputs' values.

    Args:
        y, xs, zs: the values that the node's attributes name; y is a function of `xs` and `zs`.
        inputs: the values to be taken for `xs` and then `zs`; the named ones, or others.

    Raises:
        ModelError: the node does not fit the graph.
        UnsupportedError: the gradient cannot be derived.
    """
    named = [*xs, *zs]
    if len(inputs) != len(named) or any(i is None for i in inputs):
        raise ModelError(f"Gradient names {len(named)} tensors in xs and zs and has {len(inputs)} inputs; one for each was expected", asking)
    if any(v.graph is not graph for v in (y, *named) if v.constant is None):
        raise UnsupportedError("Gradient of values of an enclosing graph is not implemented", asking)
    work = Differentiator(graph, asking)
    other = {v: i for v, i in zip(named, inputs) if i is not None and i is not v}
    if not other:
        return work.gradients(y, xs)
    at = [other.get(x, x) for x in xs]
    return work.gradients(work.copied(y, {v: i for v, i in zip(named, inputs) if i is not None}), at)
