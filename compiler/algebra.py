"""Rules that make nodes disappear: operators that do nothing, inverse pairs, chains of one kind, branches that are known."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes as dt
from ..ir.dtypes import DType
from ..ir.graph import Graph, Node, TensorType, Value
from .rewrite import Declined, Edit, Match, Rule, is_output, producer, replace_uses, same_type, scalar, tensor_type


@dataclass(frozen=True)
class Source(Match):
    """A match that replaces the node's first output by a value that exists."""

    value: Value | None = None


class ToSource(Rule):
    """A rule whose replacement is `Source.value`."""

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Source)
        return [match.value]


def _passes(node: Node, value: Value | None) -> Source | Declined | None:
    """A match that lets a value pass; what is no number cannot be returned twice, so it stays behind Identity as a graph's output."""
    if value is None or any(o is not None and (o.uses or is_output(o)) for o in node.outputs[1:]):
        return None
    number = isinstance(value.type, TensorType) and value.type.dtype.is_numeric
    if not number and is_output(node.outputs[0]):
        return Declined("an output that is not a tensor of numbers stands for itself")
    return Source(value=value)


class IdentityToInput(ToSource):
    """Identity(x) -> x   Dropout(x) -> x when not training"""

    name, anchors = "identity-to-input", ("Identity", "Dropout")

    def check(self, node: Node) -> Match | Declined | None:
        if node.outputs[0] is None:
            return None
        if node.op == "Dropout" and node.version >= 12 and len(node.inputs) > 2 and node.inputs[2] is not None and scalar(node.inputs[2]) is not False:
            return Declined("the node may be training")
        return _passes(node, node.inputs[0])


class CastToInput(ToSource):
    """Cast(x) -> x   if x has that type"""

    name, anchors = "cast-to-input", ("Cast", "CastLike")

    def check(self, node: Node) -> Match | Declined | None:
        return _passes(node, node.inputs[0]) if same_type(node.inputs[0], node.outputs[0]) else None


def is_lossless(source: DType, target: DType) -> bool:
    """Whether every value of one element type is a value of the other."""
    if source is target:
        return True
    if source is dt.boolean:
        return target.is_integer or (target.is_float and target.bits >= 16)
    if source.is_integer and target.is_integer:
        if source.kind == target.kind:
            return source.bits < target.bits
        return source.kind == "uint" and source.bits < target.bits
    digits = {dt.float16: 11, dt.bfloat16: 8, dt.float32: 24, dt.float64: 53}
    if source.is_integer and target in digits:
        return source.bits - (source.kind == "int") <= digits[target] and not (target is dt.float16 and source.bits > 11)
    return (source, target) in ((dt.float16, dt.float32), (dt.float16, dt.float64), (dt.bfloat16, dt.float32), (dt.bfloat16, dt.float64),
                                (dt.float32, dt.float64))


class CastOfCast(Rule):
    """Cast(Cast(x, wide), narrow) -> Cast(x, narrow)   if every value of x is a value of `wide`"""

    name, anchors = "cast-of-cast", ("Cast",)

    def check(self, node: Node) -> Match | Declined | None:
        inner = producer(node.inputs[0], "Cast")
        x, middle = (tensor_type(inner.inputs[0]), tensor_type(inner.outputs[0])) if inner is not None else (None, None)
        if x is None or middle is None or not is_lossless(x.dtype, middle.dtype):
            return None
        return Match((inner,))

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        return [edit.add("Cast", [match.nodes[0].inputs[0]], node.attributes, version=node.version)]


class ArithmeticIdentity(ToSource):
    """x * 1 -> x   x / 1 -> x   x ** 1 -> x   x - 0 -> x   x + 0 -> x   if the result has x's type; for floats the zero must keep the sign of x"""

    name, anchors = "arithmetic-identity", ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or")

    def check(self, node: Node) -> Match | Declined | None:
        if len(node.inputs) != 2:
            return None
        sides = (0, 1) if node.op in ("Add", "Mul", "And", "Or") else (1,)
        for k in sides:
            c, x = node.inputs[k], node.inputs[1 - k]
            if c is None or x is None or c.constant is None or not same_type(x, node.outputs[0]) or not c.constant.size or c.constant.dtype == object:
                continue
            assert isinstance(x.type, TensorType)
            if self._is_neutral(node.op, c.constant, x.type.dtype):
                return _passes(node, x)
        return None

    @staticmethod
    def _is_neutral(op: str, c: np.ndarray, dtype: DType) -> bool:
        if op in ("And", "Or"):
            return bool((c == (op == "And")).all())
        if op in ("Mul", "Div", "Pow"):
            return bool((c == 1).all())
        return bool((c == 0).all()) and (dtype.is_integer or bool((np.signbit(c.astype(np.float64)) == (op == "Add")).all()))


class ViewToInput(ToSource):
    """Reshape, Expand, Squeeze, Unsqueeze, Flatten, Tile, Concat, Slice, Pad, Sum, Max, ... of x -> x   if nothing changes"""

    name = "view-to-input"
    anchors = ("Reshape", "Expand", "Squeeze", "Unsqueeze", "Flatten", "Tile", "Concat", "Slice", "Pad", "Sum", "Max", "Min", "Mean", "Split", "Transpose")

    def check(self, node: Node) -> Match | Declined | None:
        x = node.inputs[0] if node.inputs else None
        if x is None or node.outputs[0] is None or not same_type(x, node.outputs[0]):
            return None
        return _passes(node, x) if self._keeps(node, x) else None

    @staticmethod
    def _keeps(node: Node, x: Value) -> bool:
        op = node.op
        if op in ("Concat", "Sum", "Max", "Min", "Mean"):
            return len(node.inputs) == 1
        if op == "Split":
            return len(node.outputs) == 1
        if op == "Transpose":
            rank = len(tensor_type(x).shape)
            return tuple(node.attributes.get("perm", range(rank - 1, -1, -1))) == tuple(range(rank))
        if op == "Slice":
            steps = node.inputs[4] if len(node.inputs) > 4 else None
            return node.version == 1 or steps is None or (steps.constant is not None and bool((steps.constant == 1).all()))
        if op == "Pad":
            written = node.attributes.get("pads", node.attributes.get("paddings"))
            pads = node.inputs[1].constant if len(node.inputs) > 1 and node.inputs[1] is not None else written
            return pads is not None and not np.any(pads)
        return True


class TransposeOfTranspose(Rule):
    """Transpose(Transpose(x, p), q) -> Transpose(x, p[q])   or x, if that is the identity"""

    name, anchors = "transpose-of-transpose", ("Transpose",)

    def check(self, node: Node) -> Match | Declined | None:
        inner = producer(node.inputs[0], "Transpose")
        return Match((inner,)) if inner is not None and tensor_type(inner.inputs[0]) is not None else None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        inner = match.nodes[0]
        rank = len(tensor_type(inner.inputs[0]).shape)
        first = inner.attributes.get("perm", tuple(range(rank - 1, -1, -1)))
        second = node.attributes.get("perm", tuple(range(rank - 1, -1, -1)))
        perm = tuple(first[p] for p in second)
        if perm == tuple(range(rank)):
            return [inner.inputs[0]]
        return [edit.add("Transpose", [inner.inputs[0]], {"perm": perm}, version=node.version)]


RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


class ReshapeOfReshape(Rule):
    """Reshape(Reshape(x)) -> Reshape(x)   if all resulting dims are known but one at most; Flatten, Squeeze and Unsqueeze count as Reshape"""

    name, anchors = "reshape-of-reshape", RESHAPES

    def check(self, node: Node) -> Match | Declined | None:
        inner = producer(node.inputs[0], *RESHAPES)
        out = tensor_type(node.outputs[0])
        if inner is None or out is None or tensor_type(inner.inputs[0]) is None:
            return None
        if same_type(inner.inputs[0], node.outputs[0]):
            return Match((inner,))
        if sum(not d.is_const for d in out.shape) > 1 or any(d.is_const and d.value <= 0 for d in out.shape):
            return Declined("several of the resulting dims are only known when running")
        return Match((inner,))

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        x = match.nodes[0].inputs[0]
        if same_type(x, node.outputs[0]):
            return [x]
        shape = np.array([d.value if d.is_const else -1 for d in tensor_type(node.outputs[0]).shape], np.int64)
        return [edit.add("Reshape", [x, edit.constant(shape)], version=14)]


class WhereOfConstant(ToSource):
    """Where(c, a, b) -> a or b   if c is the same everywhere and the result has that type"""

    name, anchors = "where-of-constant", ("Where",)

    def check(self, node: Node) -> Match | Declined | None:
        c = node.inputs[0].constant if len(node.inputs) == 3 and node.inputs[0] is not None else None
        if c is None or not c.size or not (c.all() or not c.any()):
            return None
        chosen = node.inputs[1 if c.all() else 2]
        return _passes(node, chosen) if chosen is not None and same_type(chosen, node.outputs[0]) else None


@dataclass(frozen=True)
class ScatteredRows(Match):
    """Which row of the data each row of the updates goes to: a value whose dims are 1 but for the first."""

    rows: Value | np.ndarray | None = None


class ScatterOfRows(Rule):
    """ScatterElements(x, Expand(at), u) along axis 0 -> ScatterND(x, at, u)   if all elements of a row of u go to the same row of x, and fill it

    Messages in graph networks are summed so. Indices that are known may be equal along rows as well.
    """

    name, anchors = "scatter-of-rows", ("ScatterElements", "Scatter")

    def check(self, node: Node) -> Match | Declined | None:
        x, at, updates = (tensor_type(v) for v in node.inputs)
        if x is None or at is None or updates is None or len(x.shape) < 2 or node.attributes.get("axis", 0) not in (0, -len(x.shape)):
            return None
        if not all(a is b and a is c for a, b, c in zip(x.shape[1:], at.shape[1:], updates.shape[1:])):
            return None
        known = node.inputs[1].constant
        if known is not None:
            row = known.reshape(len(known), -1)
            return ScatteredRows(rows=row[:, :1]) if row.size and (row == row[:, :1]).all() else None
        expand = producer(node.inputs[1], "Expand")
        given = None if expand is None else tensor_type(expand.inputs[0])
        if given is None or len(given.shape) != len(x.shape) or given.shape[0] is not at.shape[0] or not all(d.is_const and d.value == 1 for d in given.shape[1:]):
            return None
        return ScatteredRows((expand,), expand.inputs[0])

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, ScatteredRows)
        rows = edit.constant(match.rows) if isinstance(match.rows, np.ndarray) else edit.add("Reshape", [match.rows, edit.constant(np.array([-1, 1]))], version=14)
        if tensor_type(node.inputs[1]).dtype is not dt.int64:
            rows = edit.add("Cast", [rows], {"to": dt.int64.code}, version=13)
        return [edit.add("ScatterND", [node.inputs[0], rows, node.inputs[2]], {"reduction": node.attributes.get("reduction", "none")}, version=18)]


@dataclass(frozen=True)
class Branch(Match):
    """The body of the branch that is taken."""

    body: Graph | None = None


def _decided(condition: Value | None) -> bool | None:
    """Whether a condition holds, as far as constants or inference tell."""
    if condition is not None and condition.constant is None and condition.content is not None and len(condition.content) == 1 and condition.content[0].is_const:
        return bool(condition.content[0].value)
    found = scalar(condition)
    return None if found is None else bool(found)


class IfOfConstant(Rule):
    """If(c) -> the branch taken   if c is known"""

    name, anchors = "if-of-constant", ("If",)

    def check(self, node: Node) -> Match | Declined | None:
        taken = _decided(node.inputs[0]) if node.inputs else None
        body = node.attributes.get("then_branch" if taken else "else_branch")
        if taken is None or not isinstance(body, Graph):
            return None
        if any(o is not None and is_output(o) and not isinstance(inner.type, TensorType) for o, inner in zip(node.outputs, body.outputs)):
            return Declined("an output that is not a tensor stands for itself")
        return Branch(body=body)

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Branch)
        return inline(match.body, edit)


def inline(body: Graph, edit: Edit) -> list[Value]:
    """Move a body in front of the node that owns it; its inputs are the node's last ones. Returns the values that were its outputs."""
    graph = edit.graph
    given = edit.node.inputs[len(edit.node.inputs) - len(body.inputs):]
    for inner, outer in zip(body.inputs, given, strict=True):
        replace_uses(inner, outer)
    moved = list(body.nodes)
    for n in moved:
        for o in n.outputs:
            if o is not None:
                o.graph = graph
        for v in n.inputs:
            if v is not None and v.graph is body:
                v.graph = graph
        for subgraph in n.subgraphs():
            subgraph.parent = graph
        n.origin = n.origin or edit.origin
    at = graph.nodes.index(edit.node)
    graph.nodes[at:at] = moved
    body.nodes.clear()
    outputs = list(body.outputs)
    for o in outputs:
        if o.graph is body:
            o.graph = graph
    body.outputs.clear()
    edit.added += moved
    return outputs


ALGEBRA: tuple[Rule, ...] = (IdentityToInput(), CastToInput(), CastOfCast(), ArithmeticIdentity(), ViewToInput(), TransposeOfTranspose(), ReshapeOfReshape(),
                             WhereOfConstant(), ScatterOfRows(), IfOfConstant())
