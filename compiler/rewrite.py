"""Rewriting: small rules, a driver that applies them to a fixed point, and a journal of what was done, and what was not and why.

Laws for rules: a rule is directional and never makes more work; the meaning, types and NaN behaviour of what it replaces stay; it decides on what the graph
says (types, constants, uses), never on what is likely.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir.dtypes import DType
from ..ir.graph import Attribute, Graph, JournalEntry, Node, TensorType, Value
from ..ir.infer import infer
from ..ir.ops.base import find


class Edit:
    """Adds the nodes of a replacement in front of the node that is being replaced; they inherit its origin and that of the other nodes matched."""

    def __init__(self, graph: Graph, node: Node, origin: tuple[str, ...]) -> None:
        self.graph, self.node, self.origin = graph, node, origin
        self.added: list[Node] = []

    def add(self, op: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute] | None = None, *, domain: str = "", version: int | None = None,
            outputs: int = 1, name: str = "") -> Value:
        """Add an operator (its newest version unless told otherwise) and infer its types; returns its first output."""
        if version is None:
            definition = find(domain, op)
            assert definition is not None, f"{op} is not defined"
            version = definition.versions[-1]
        node = self.graph.add(op, inputs, dict(attributes or {}), outputs=outputs, domain=domain, version=version, name=name or self.node.name,
                              origin=self.origin, before=self.node)
        self.added.append(node)
        infer(node)
        return node.outputs[0]

    def constant(self, array: np.ndarray | np.generic, dtype: DType | None = None) -> Value:
        return self.graph.constant(f"{self.node.name}/const", np.asarray(array), dtype)


@dataclass(frozen=True)
class Declined:
    """A rule's answer for a node that has its pattern, but must not be rewritten."""

    reason: str


@dataclass(frozen=True)
class Match:
    """What a rule found: base of the rules' own records.

    Args:
        nodes: the other nodes that the replacement stands for; their origins are kept.
    """

    nodes: tuple[Node, ...] = ()


class Rule:
    """One rewrite.

    `anchors` are the operators (of ai.onnx) at which it looks. `check` answers with a match, with `Declined` where the pattern is there but must stay, or with
    None where the rule has nothing to say. `rewrite` gives one value per output of the node, to be used in its place (None keeps that output, which must be
    unused then), and changes nothing else.
    """

    name: ClassVar[str]
    anchors: ClassVar[tuple[str, ...]]

    def check(self, node: Node) -> Match | Declined | None:
        raise NotImplementedError

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        raise NotImplementedError


def apply_rules(graph: Graph, rules: Iterable[Rule], disabled: Collection[str] = ()) -> int:
    """Apply rules to a graph and its subgraphs until none applies.

    Returns:
        The number of rewrites. They are written into the outermost graph's journal, as are reasons of rules that declined.
    """
    by_anchor: dict[str, list[Rule]] = {}
    for r in rules:
        if r.name not in disabled:
            for a in r.anchors:
                by_anchor.setdefault(a, []).append(r)
    return _Driver(graph, by_anchor).run()


def outermost(graph: Graph) -> Graph:
    while graph.parent is not None:
        graph = graph.parent
    return graph


def all_graphs(graph: Graph) -> list[Graph]:
    """The graphs of the model that a graph belongs to, the outermost last."""
    return [*graph.bodies, outermost(graph)]


def graphs_within(graph: Graph, outermost_first: bool = False) -> Iterator[Graph]:
    """A graph and those nested in it. One that is forgotten while others are visited does not come."""
    found = all_graphs(graph)
    for g in reversed(found) if outermost_first else found:
        if g.is_inside(graph) and (g.parent is None or g in g.bodies):
            yield g


def merged_origin(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(o for n in nodes for o in (n.origin or (n.name,))))


class _Driver:
    """Applies rules node by node; a rewrite puts its surroundings back on the list."""

    def __init__(self, graph: Graph, rules: Mapping[str, Sequence[Rule]]) -> None:
        self.root, self.rules = graph, rules
        self.home = {n: g for g in graphs_within(graph) for n in g.nodes}
        self.declined: dict[tuple[str, Node], str] = {}
        self.count = 0

    def run(self) -> int:
        queue = deque(self.home)
        waiting = set(queue)
        limit = 64 * len(queue) + 1024
        while queue:
            node = queue.popleft()
            waiting.discard(node)
            if node not in self.home:
                continue
            for near in self._visit(node):
                if near not in waiting and near in self.home:
                    waiting.add(near)
                    queue.append(near)
            assert self.count <= limit, "rewriting does not come to an end"
        journal = outermost(self.root).journal
        journal += [JournalEntry(rule, node.origin or (node.name,), reason) for (rule, node), reason in self.declined.items() if node in self.home]
        return self.count

    def _visit(self, node: Node) -> list[Node]:
        """Try the rules of one node; returns nodes to look at again."""
        if node.domain:
            return []
        for rule in self.rules.get(node.op, ()):
            match = rule.check(node)
            if isinstance(match, Declined):
                self.declined[rule.name, node] = match.reason
            elif match is not None:
                self.declined.pop((rule.name, node), None)
                return self._replace(node, rule, match)
        return []

    def _replace(self, node: Node, rule: Rule, match: Match) -> list[Node]:
        graph = self.home[node]
        origin = merged_origin((*match.nodes, node))
        edit = Edit(graph, node, origin)
        results = rule.rewrite(node, match, edit)
        self.count += 1
        outermost(graph).journal.append(JournalEntry(rule.name, origin, None))
        for n in edit.added:
            self.home[n] = graph
        near = list(edit.added)
        for old, new in zip(node.outputs, results, strict=False):
            if old is not None and new is not None and new is not old:
                near += [n for n, _ in old.uses]
                replace_uses(old, new)
        near += self._sweep(node)
        return near

    def _sweep(self, node: Node) -> list[Node]:
        """Remove a node if nothing uses it any more, and what only it used; returns the nodes whose outputs lost a use."""
        near: list[Node] = []
        stack = [node]
        while stack:
            n = stack.pop()
            if n not in self.home:
                continue
            if any(o is not None and is_used(o) for o in n.outputs):
                near.append(n)
                continue
            stack += [v.producer for v in n.inputs if v is not None and v.producer is not None]
            for inner in n.subgraphs():
                for gone in inner.all_nodes():
                    self.home.pop(gone, None)
                forget(inner)
            self.home.pop(n).remove(n)
        return near


def replace_uses(old: Value, new: Value) -> None:
    """Every use of `old`, as an output of any graph included, becomes a use of `new`."""
    for node, k in old.uses:
        node.inputs[k] = new
        new.uses.append((node, k))
    old.uses.clear()
    for g in all_graphs(old.graph):
        if any(o is old for o in g.outputs):
            g.outputs = [new if o is old else o for o in g.outputs]


def is_output(value: Value) -> bool:
    """Whether a graph gives a value as its output."""
    return any(o is value for g in all_graphs(value.graph) for o in g.outputs)


def is_used(value: Value) -> bool:
    """Whether a node reads a value or a graph gives it as its output."""
    return bool(value.uses) or is_output(value)


def forget(graph: Graph) -> None:
    """A body that is being removed: its nodes read nothing any more."""
    if graph in graph.bodies:
        graph.bodies.remove(graph)
    for n in graph.nodes:
        for k, v in enumerate(n.inputs):
            if v is not None:
                v.uses.remove((n, k))
        for s in n.subgraphs():
            forget(s)


# ------------------------------------------------------------------------------------------------------- looking at graphs
def producer(value: Value | None, *ops: str) -> Node | None:
    """The node that gives a value, if it is one of these operators of ai.onnx and the value its first output."""
    node = value.producer if value is not None else None
    return node if node is not None and not node.domain and node.op in ops and node.outputs[0] is value else None


def sole_use(value: Value) -> bool:
    """Whether exactly one node reads a value, once, and no graph gives it as an output."""
    return len(value.uses) == 1 and not is_output(value)


def scalar(value: Value | None) -> float | int | bool | None:
    """The only element of a constant, or None."""
    if value is None or value.constant is None or value.constant.size != 1 or value.constant.dtype == object or value.constant.dtype.kind == "c":
        return None
    return value.constant.reshape(-1)[0].item()


def tensor_type(value: Value | None) -> TensorType | None:
    """A value's type if it is a tensor of known rank."""
    t = value.type if value is not None else None
    return t if isinstance(t, TensorType) and t.shape is not None else None


def same_type(a: Value, b: Value) -> bool:
    """Whether two values are certainly tensors of equal element type and shape."""
    x, y = tensor_type(a), tensor_type(b)
    return x is not None and y is not None and x.dtype is y.dtype and len(x.shape) == len(y.shape) and all(
        p is q or p.text == q.text for p, q in zip(x.shape, y.shape))


def static_shape(value: Value | None) -> tuple[int, ...] | None:
    """The dims of a tensor if all of them are known."""
    t = tensor_type(value)
    return tuple(d.value for d in t.shape) if t is not None and all(d.is_const for d in t.shape) else None
