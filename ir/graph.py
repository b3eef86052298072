"""Graphs: nodes in single-assignment form over typed values with use lists. All change goes through `Graph`'s methods.

Every node keeps the names of the model's own nodes that it came from (`origin`), so that errors, profiles and reports speak of what the user wrote.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .dtypes import DType
from .expr import Expr, Tensor


@dataclass(frozen=True)
class TensorType:
    """`shape` is None while the rank is unknown; dims are int64 expressions over symbolic sizes and loads of size tensors."""

    dtype: DType
    shape: tuple[Expr, ...] | None

    def __repr__(self) -> str:
        return f"{self.dtype.short}[{', '.join(d.text for d in self.shape) if self.shape is not None else '*'}]"


@dataclass(frozen=True)
class SequenceType:
    element: "Type"

    def __repr__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True)
class OptionalType:
    element: "Type"

    def __repr__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True)
class MapType:
    key: DType
    value: "Type"

    def __repr__(self) -> str:
        return f"map({self.key.short}, {self.value})"


Type = TensorType | SequenceType | OptionalType | MapType
Attribute = Any  # int, float, str, bytes, np.ndarray, Graph, TypeValue, DType or a tuple of one of these


class Value:
    """An edge: produced once, used anywhere later. Made by `Graph`, compared by identity."""

    __slots__ = ("constant", "content", "graph", "name", "producer", "tensor", "type", "uses")

    def __init__(self, name: str, type: Type | None, graph: "Graph") -> None:
        self.name = name
        self.type = type
        self.producer: Node | None = None
        self.uses: list[tuple[Node, int]] = []
        self.constant: np.ndarray | None = None  # known elements (initialiser or folded)
        self.content: tuple[Expr, ...] | None = None  # elements of a small integer tensor, known symbolically, row-major
        self.graph = graph
        self.tensor: Tensor | None = None  # stands for the value in inferred sizes; kept by `ir.infer`

    @property
    def is_constant(self) -> bool:
        return self.constant is not None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(eq=False)
class Node:
    """One operator application.

    Args:
        domain, op: the operator (`""` for ai.onnx).
        version: the since-version whose semantics apply.
        inputs: values, None where an optional input is absent.
        outputs: values, None where an optional output is not wanted.
        attributes: as written; defaults are the operator definition's business.
        name: unique in its graph; the user's own where there was one.
        origin: names of the model's nodes this one stands for.
    """

    domain: str
    op: str
    version: int
    inputs: list[Value | None]
    outputs: list[Value | None]
    attributes: dict[str, Attribute]
    name: str
    origin: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        return f"{self.domain}::{self.op}" if self.domain else self.op

    def subgraphs(self) -> Iterator["Graph"]:
        for a in self.attributes.values():
            if isinstance(a, Graph):
                yield a
            elif isinstance(a, tuple):
                yield from (g for g in a if isinstance(g, Graph))

    def __repr__(self) -> str:
        return f"{self.name}: {self.qualified}"


@dataclass(frozen=True)
class JournalEntry:
    """What a rewrite rule did, or (with a `reason`) why it left alone what it looks for."""

    rule: str
    origin: tuple[str, ...]
    reason: str | None = None


class Graph:
    """Nodes in execution order, inputs, outputs and constants.

    A subgraph (the body of If, Loop, Scan) has a `parent`; its nodes may use values of enclosing graphs.
    """

    def __init__(self, name: str, parent: "Graph | None" = None) -> None:
        self.name = name
        self.parent = parent
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self.opsets: dict[str, int] = {} if parent is None else parent.opsets
        self.metadata: dict[str, str] = {}
        self.overridable: dict[str, Value] = {}  # initialisers that are inputs as well
        self.broken = ""  # why a body cannot run with the types that it gets; taking that branch is an error when running
        self.declared: dict[str, Type] = {}  # what the model says about inputs, outputs and values in between; for reports, never trusted
        self.output_names: list[str] = []  # the model's names of `outputs`, which rewriting keeps
        self.remarks: list[str] = []  # what is odd about the model but does no harm
        self.external_files: list[Path] = []  # of the outermost graph: what was read beside the model
        self.journal: list[JournalEntry] = []  # of the outermost graph: what rewriting did
        self.bodies: list[Graph] = [] if parent is None else parent.bodies  # every subgraph of the model, at any depth
        if parent is not None:
            self.bodies.append(self)
        self._names: set[str] = set() if parent is None else parent._names  # unique throughout a model: sizes refer to tensors by name
        self._count = 0

    # ---- construction
    def fresh_name(self, stem: str) -> str:
        """A value or node name not used in this graph."""
        name = stem
        while name in self._names or not name:
            self._count += 1
            name = f"{stem}.{self._count}"
        self._names.add(name)
        return name

    def value(self, name: str, type: Type | None = None) -> Value:
        return Value(self.fresh_name(name), type, self)

    def input(self, name: str, type: Type | None) -> Value:
        v = self.value(name, type)
        self.inputs.append(v)
        return v

    def constant(self, name: str, array: np.ndarray, dtype: DType | None = None) -> Value:
        """A value whose elements are known; `array` is kept, not copied."""
        from . import dtypes
        from .expr import const
        v = self.value(name, TensorType(dtype or dtypes.of_numpy(array.dtype), tuple(const(d) for d in array.shape)))
        v.constant = array
        return v

    def add(self, op: str, inputs: Sequence[Value | None], attributes: dict[str, Attribute] | None = None, *, outputs: int | Sequence[Value | None] = 1,
            domain: str = "", version: int | None = None, name: str = "", origin: Iterable[str] = (), before: Node | None = None) -> Node:
        """Append a node (or insert it before another). `version` None means the newest that the registry knows.

        Returns:
            The node; its outputs are fresh untyped values unless given.
        """
        node = Node(domain, op, version or 0, list(inputs), [], dict(attributes or {}), self.fresh_name(name or op), tuple(origin))
        outs = [self.value(f"{node.name}_{k}" if outputs != 1 else node.name + "_out") for k in range(outputs)] if isinstance(outputs, int) else list(outputs)
        node.outputs = outs
        for o in outs:
            if o is not None:
                o.producer = node
        for k, v in enumerate(node.inputs):
            if v is not None:
                v.uses.append((node, k))
        if before is None:
            self.nodes.append(node)
        else:
            self.nodes.insert(self.nodes.index(before), node)
        return node

    # ---- change
    def replace_input(self, node: Node, index: int, new: Value | None) -> None:
        old = node.inputs[index]
        if old is not None:
            old.uses.remove((node, index))
        node.inputs[index] = new
        if new is not None:
            new.uses.append((node, index))

    def replace_all_uses(self, old: Value, new: Value) -> None:
        """Every use of `old`, graph outputs included, becomes a use of `new`."""
        for node, k in list(old.uses):
            node.inputs[k] = new
            new.uses.append((node, k))
        old.uses.clear()
        for g in self.enclosing(old):
            g.outputs = [new if o is old else o for o in g.outputs]

    def enclosing(self, value: Value) -> Iterator["Graph"]:
        """This graph and its subgraphs: wherever `value` might be an output."""
        yield self
        for n in self.nodes:
            for s in n.subgraphs():
                yield from s.enclosing(value)

    def remove(self, node: Node) -> None:
        """Delete a node whose outputs nobody uses."""
        for o in node.outputs:
            assert o is None or (not o.uses and o not in self.outputs), f"{node.name} is still used"
        for k, v in enumerate(node.inputs):
            if v is not None:
                v.uses.remove((node, k))
        self.nodes.remove(node)

    def is_output(self, value: Value) -> bool:
        return any(o is value for o in self.outputs)

    # ---- inspection
    def all_nodes(self) -> Iterator[Node]:
        """Nodes of this graph and of its subgraphs."""
        for n in self.nodes:
            yield n
            for s in n.subgraphs():
                yield from s.all_nodes()

    def captured(self) -> list[Value]:
        """Values of enclosing graphs that this subgraph uses, in order of first use."""
        found: dict[Value, None] = {}

        def visit(g: Graph) -> None:
            for n in g.nodes:
                for v in n.inputs:
                    if v is not None and v.constant is None and not v.graph.is_inside(self):
                        found[v] = None
                for s in n.subgraphs():
                    visit(s)
            for o in g.outputs:
                if o.constant is None and not o.graph.is_inside(self):
                    found[o] = None
        visit(self)
        return list(found)

    def is_inside(self, other: "Graph") -> bool:
        """Whether this graph is `other` or nested in it."""
        g: Graph | None = self
        while g is not None:
            if g is other:
                return True
            g = g.parent
        return False


@dataclass(frozen=True)
class TypeValue:
    """A type given as an attribute (`type_proto`)."""

    type: Type = field()
