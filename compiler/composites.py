"""Rules for composites: normalisations and softmax by their structure, activations by their structure and their values."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes as dt
from ..ir.errors import ModelError
from ..ir.graph import Attribute, Node, Value
from ..ir.interpret import run_node
from .rewrite import Declined, Edit, Match, Rule, is_output, producer, same_type, scalar, sole_use, tensor_type


# ------------------------------------------------------------------------------------------------------------- structure
def either(node: Node) -> Iterator[tuple[Value, Value]]:
    """The operands of a binary node in both orders; none for the old form that aligns the second one by an attribute."""
    if not node.attributes.get("broadcast", 0) and len(node.inputs) == 2 and node.inputs[0] is not None and node.inputs[1] is not None:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The axes over which a reduction runs, not negative; None where they are not known or the reduced dims are dropped."""
    x = tensor_type(node.inputs[0])
    if x is None or not node.attributes.get("keepdims", 1):
        return None
    rank = len(x.shape)
    given = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        if node.inputs[1].constant is None:
            return None
        given = tuple(node.inputs[1].constant.reshape(-1).tolist())
    if not given:
        return None if node.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(a % rank for a in given))


def trailing_mean(value: Value, of: Value | None = None) -> tuple[Node, int] | None:
    """(node, first axis) of a ReduceMean over the last dimensions, of a certain value if one is given."""
    node = producer(value, "ReduceMean")
    if node is None or (of is not None and node.inputs[0] is not of):
        return None
    axes, rank = reduced_axes(node), len(tensor_type(node.inputs[0]).shape) if tensor_type(node.inputs[0]) is not None else 0
    return (node, axes[0]) if axes and axes == tuple(range(axes[0], rank)) else None


def square_of(value: Value) -> tuple[Node, Value] | None:
    """(node, x) where the value is x * x or x ** 2."""
    node = producer(value, "Mul", "Pow")
    if node is None or len(node.inputs) != 2:
        return None
    if node.op == "Mul":
        return (node, node.inputs[0]) if node.inputs[0] is node.inputs[1] else None
    return (node, node.inputs[0]) if scalar(node.inputs[1]) == 2 else None


def plus_scalar(value: Value) -> tuple[Node, Value, float] | None:
    """(node, x, c) where the value is x + c."""
    node = producer(value, "Add")
    for x, c in either(node) if node is not None else ():
        if scalar(c) is not None and x.constant is None and same_type(x, value):
            return node, x, float(scalar(c))
    return None


def root_of(value: Value) -> tuple[Node, Value] | None:
    """(node, x) where the value is the square root of x."""
    node = producer(value, "Sqrt", "Pow")
    if node is None or (node.op == "Pow" and scalar(node.inputs[1]) != 0.5):
        return None
    return node, node.inputs[0]


@dataclass(frozen=True)
class Deviation:
    """sqrt(mean + epsilon), or its inverse.

    Args:
        nodes: that compute it from `mean`.
        mean: what is under the root without epsilon.
    """

    nodes: tuple[Node, ...]
    mean: Value
    epsilon: float


def deviation(value: Value) -> Deviation | None:
    root = root_of(value)
    shifted = plus_scalar(root[1]) if root is not None else None
    return Deviation((root[0], shifted[0]), shifted[1], shifted[2]) if root is not None and shifted is not None and shifted[2] >= 0 else None


def inverse_deviation(value: Value) -> Deviation | None:
    """1 / sqrt(mean + epsilon), spelled as Reciprocal, 1 / s or a power of -0.5."""
    node = producer(value, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op == "Pow":
        shifted = plus_scalar(node.inputs[0]) if scalar(node.inputs[1]) == -0.5 else None
        return Deviation((node, shifted[0]), shifted[1], shifted[2]) if shifted is not None and shifted[2] >= 0 else None
    if node.op == "Div" and scalar(node.inputs[0]) != 1:
        return None
    inner = deviation(node.inputs[-1])
    return Deviation((node, *inner.nodes), inner.mean, inner.epsilon) if inner is not None else None


def normalised(node: Node) -> Iterator[tuple[Value, Deviation]]:
    """(x, s) where the node is x / s or x * (1 / s)."""
    if node.op == "Div":
        found = deviation(node.inputs[1]) if len(node.inputs) == 2 else None
        if found is not None:
            yield node.inputs[0], found
    elif node.op == "Mul":
        for x, s in either(node):
            found = inverse_deviation(s)
            if found is not None:
                yield x, found


# --------------------------------------------------------------------------------------------------------- normalisations
@dataclass(frozen=True)
class Normalisation(Match):
    """What LayerNormalization or RMSNormalization computes on `x` from dimension `axis` on."""

    x: Value | None = None
    axis: int = 0
    epsilon: float = 0.0
    scale: Value | None = None
    bias: Value | None = None


def _one(match: Normalisation, edit: Edit) -> Value:
    t = tensor_type(match.x)
    return edit.constant(np.ones(1, t.dtype.numpy), t.dtype)


def _normalised_dims(x: Value, axis: int) -> bool:
    """Whether the dims from `axis` on are known and the element type is one that the composites take."""
    t = tensor_type(x)
    return t is not None and t.dtype in dt.FLOATS and all(d.is_const for d in t.shape[axis:])


class LayerNormalizationSpelled(Rule):
    """(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + e) -> LayerNormalization(x, 1)   if the means are over known last dimensions"""

    name, anchors = "layer-normalization", ("Div", "Mul")

    def check(self, node: Node) -> Match | Declined | None:
        for d, s in normalised(node):
            sub = producer(d, "Sub")
            x = sub.inputs[0] if sub is not None else None
            mean = trailing_mean(sub.inputs[1], x) if x is not None else None
            variance = trailing_mean(s.mean)
            square = square_of(variance[0].inputs[0]) if variance is not None else None
            if mean is None or square is None or square[1] is not d or mean[1] != variance[1] or not same_type(x, node.outputs[0]):
                continue
            if not _normalised_dims(x, mean[1]):
                return Declined("the normalised dimensions are only known when running")
            return Normalisation((sub, mean[0], variance[0], square[0], *s.nodes), x, mean[1], s.epsilon)
        return None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Normalisation)
        attributes: dict[str, Attribute] = {"axis": match.axis, "epsilon": match.epsilon}
        return [edit.add("LayerNormalization", [match.x, _one(match, edit)], attributes, name="LayerNormalization")]


class LayerNormalizationFactored(Rule):
    """x * s + (b - mean(x) * s), s = g / sqrt(variance + e) -> LayerNormalization(x, g, b)   the same computation with its factors gathered"""

    name, anchors = "layer-normalization-factored", ("Add",)

    def check(self, node: Node) -> Match | Declined | None:
        for left, right in either(node):
            product, sub = producer(left, "Mul"), producer(right, "Sub")
            if product is None or sub is None or not same_type(left, node.outputs[0]):
                continue
            for x, s in either(product):
                found = self._match(node, product, sub, x, s)
                if found is not None:
                    return found
        return None

    @staticmethod
    def _match(node: Node, product: Node, sub: Node, x: Value, s: Value) -> Match | Declined | None:
        bias, shift = sub.inputs
        shifted, factor = producer(shift, "Mul"), producer(s, "Mul")
        if shifted is None or factor is None or s not in shifted.inputs or bias is None:
            return None
        mean = trailing_mean(next((v for v in shifted.inputs if v is not s), s), x)
        if mean is None:
            return None
        for inverse, gain in either(factor):
            d = inverse_deviation(inverse)
            variance = trailing_mean(d.mean) if d is not None else None
            square = square_of(variance[0].inputs[0]) if variance is not None else None
            centred = producer(square[1], "Sub") if square is not None else None
            if centred is None or {*centred.inputs} != {x, mean[0].outputs[0]} or variance[1] != mean[1]:
                continue
            if not (_normalised_dims(x, mean[1]) and _fits(gain, x, mean[1]) and _fits(bias, x, mean[1])):
                return Declined("scale or bias are not of the normalised dimensions")
            nodes = (product, sub, shifted, factor, mean[0], variance[0], square[0], centred, *d.nodes)
            return Normalisation(nodes, x, mean[1], d.epsilon, gain, bias)
        return None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Normalisation)
        attributes: dict[str, Attribute] = {"axis": match.axis, "epsilon": match.epsilon}
        return [edit.add("LayerNormalization", [match.x, match.scale, match.bias], attributes, name="LayerNormalization")]


class RmsNormalizationSpelled(Rule):
    """x / sqrt(mean(x ** 2) + e) -> RMSNormalization(x, 1)   if the mean is over known last dimensions"""

    name, anchors = "rms-normalization", ("Div", "Mul")

    def check(self, node: Node) -> Match | Declined | None:
        for x, s in normalised(node):
            mean = trailing_mean(s.mean)
            square = square_of(mean[0].inputs[0]) if mean is not None else None
            if square is None or square[1] is not x or not same_type(x, node.outputs[0]):
                continue
            if not _normalised_dims(x, mean[1]):
                return Declined("the normalised dimensions are only known when running")
            return Normalisation((mean[0], square[0], *s.nodes), x, mean[1], s.epsilon)
        return None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Normalisation)
        return [edit.add("RMSNormalization", [match.x, _one(match, edit)], {"axis": match.axis, "epsilon": match.epsilon}, name="RMSNormalization")]


def _fits(value: Value, x: Value, axis: int) -> bool:
    """Whether a value has x's element type and broadcasts to x's dimensions from `axis` on."""
    t, whole = tensor_type(value), tensor_type(x)
    if t is None or t.dtype is not whole.dtype or len(t.shape) > len(whole.shape) - axis:
        return False
    inner = whole.shape[len(whole.shape) - len(t.shape):]
    return all(a is b or (a.is_const and a.value == 1) for a, b in zip(t.shape, inner))


class ScaleIntoNormalization(Rule):
    """LayerNormalization(x, 1) * g -> LayerNormalization(x, g)   RMSNormalization alike   if g is of the normalised dimensions"""

    name, anchors = "scale-into-normalization", ("Mul",)

    def check(self, node: Node) -> Match | Declined | None:
        for y, g in either(node):
            norm = producer(y, "LayerNormalization", "RMSNormalization")
            if norm is None or len([o for o in norm.outputs if o is not None]) > 1 or (len(norm.inputs) > 2 and norm.inputs[2] is not None):
                continue
            scale = norm.inputs[1]
            if scale.constant is None or not (scale.constant == 1).all() or not same_type(y, node.outputs[0]):
                continue
            if not sole_use(y):
                return Declined("the normalised value has other uses")
            x, axis = norm.inputs[0], int(norm.attributes.get("axis", -1)) % len(tensor_type(norm.inputs[0]).shape)
            if _fits(g, x, axis):
                return Normalisation((norm,), x, axis, scale=g)
        return None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Normalisation)
        norm = match.nodes[0]
        return [edit.add(norm.op, [match.x, match.scale], norm.attributes, version=norm.version, name=norm.op)]


class BiasIntoNormalization(Rule):
    """LayerNormalization(x, g) + b -> LayerNormalization(x, g, b)   if b is of the normalised dimensions"""

    name, anchors = "bias-into-normalization", ("Add",)

    def check(self, node: Node) -> Match | Declined | None:
        for y, b in either(node):
            norm = producer(y, "LayerNormalization")
            if norm is None or len([o for o in norm.outputs if o is not None]) > 1 or (len(norm.inputs) > 2 and norm.inputs[2] is not None):
                continue
            x, axis = norm.inputs[0], int(norm.attributes.get("axis", -1)) % len(tensor_type(norm.inputs[0]).shape)
            if not _fits(b, x, axis) or not same_type(y, node.outputs[0]):
                continue
            if not sole_use(y):
                return Declined("the normalised value has other uses")
            return Normalisation((norm,), x, axis, bias=b)
        return None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Normalisation)
        norm = match.nodes[0]
        return [edit.add(norm.op, [match.x, norm.inputs[1], match.bias], norm.attributes, version=norm.version, name=norm.op)]


@dataclass(frozen=True)
class GroupedNormalisation(Match):
    """Instance normalisation of `x` with its channels gathered in groups."""

    x: Value | None = None
    norm: Node | None = None
    groups: int = 0


class GroupNormalizationSpelled(Rule):
    """reshape(InstanceNormalization(reshape(x, [N, G, rest]), g, b), shape of x) -> GroupNormalization(x, g, b)   if G divides x's channels"""

    name, anchors = "group-normalization", ("Reshape",)

    def check(self, node: Node) -> Match | Declined | None:
        norm = producer(node.inputs[0], "InstanceNormalization")
        gather = producer(norm.inputs[0], "Reshape") if norm is not None else None
        if norm is None or gather is None:
            return None
        x, whole = gather.inputs[0], tensor_type(node.outputs[0])
        source, grouped = tensor_type(x), tensor_type(norm.inputs[0])
        if source is None or grouped is None or whole is None or len(source.shape) < 3 or len(grouped.shape) != 3:
            return None
        if source.shape != whole.shape or source.shape[0] is not grouped.shape[0]:
            return Declined("the result has another shape than the operand, or instances are regrouped")
        channels, groups = source.shape[1], grouped.shape[1]
        if not channels.is_const or not groups.is_const or channels.value % groups.value:
            return Declined("channels are not split into whole groups")
        if not sole_use(norm.outputs[0]):
            return Declined("the normalised value has other uses")
        return GroupedNormalisation((norm, gather), x, norm, int(groups.value))

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, GroupedNormalisation) and match.norm is not None
        attributes: dict[str, Attribute] = {"num_groups": match.groups, "epsilon": match.norm.attributes.get("epsilon", 1e-5)}
        return [edit.add("GroupNormalization", [match.x, *match.norm.inputs[1:3]], attributes, version=18, name="GroupNormalization")]


@dataclass(frozen=True)
class SoftmaxMatch(Match):
    """Softmax of `x` along `axis`."""

    x: Value | None = None
    axis: int = 0


class SoftmaxSpelled(Rule):
    """e / sum(e), e = exp(x - max(x)) -> Softmax(x)   along one axis"""

    name, anchors = "softmax", ("Div",)

    def check(self, node: Node) -> Match | Declined | None:
        e = producer(node.inputs[0], "Exp")
        total = producer(node.inputs[1], "ReduceSum") if len(node.inputs) == 2 else None
        sub = producer(e.inputs[0], "Sub") if e is not None else None
        if sub is None or total is None or total.inputs[0] is not e.outputs[0]:
            return None
        top = producer(sub.inputs[1], "ReduceMax")
        x = sub.inputs[0]
        if top is None or top.inputs[0] is not x or not same_type(x, node.outputs[0]) or tensor_type(x).dtype not in dt.FLOATS:
            return None
        axes = reduced_axes(total)
        if axes is None or len(axes) != 1 or reduced_axes(top) != axes:
            return None
        return SoftmaxMatch((e, total, sub, top), x, axes[0])

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, SoftmaxMatch)
        return [edit.add("Softmax", [match.x], {"axis": match.axis}, name="Softmax")]


# ------------------------------------------------------------------------------------------------------------ activations
ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Neg", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Exp", "Reciprocal", "Clip", "HardSigmoid",
                         "Softplus"))
CONE_NODES = 16
_ERF = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


@dataclass(frozen=True)
class Activation:
    """A function of one variable that has an operator of its own.

    Args:
        core: the operators that a spelling contains, each once, besides arithmetic.
        meaning: the function in float64.
    """

    op: str
    attributes: tuple[tuple[str, Attribute], ...]
    core: tuple[str, ...]
    meaning: Callable[[np.ndarray], np.ndarray]


ACTIVATIONS = (
    Activation("Gelu", (), ("Erf",), lambda x: 0.5 * x * (1 + _ERF(x / math.sqrt(2)))),
    Activation("Gelu", (("approximate", "tanh"),), ("Tanh",), lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))),
    Activation("Swish", (), ("Sigmoid",), lambda x: x * _sigmoid(x)),
    Activation("Swish", (("alpha", 1.702),), ("Sigmoid",), lambda x: x * _sigmoid(1.702 * x)),
    Activation("HardSwish", (), ("HardSigmoid",), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    Activation("HardSwish", (), ("Clip",), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    Activation("Mish", (), ("Softplus", "Tanh"), lambda x: x * np.tanh(np.logaddexp(0, x))),
)
ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Div", "Neg", "Pow"))


def _points() -> np.ndarray:
    """Where functions are compared: densely where they bend, and far out."""
    near = np.linspace(-8, 8, 257)
    far = np.array([-60, -30, -12.5, 12.5, 30, 60], np.float64)
    return np.concatenate([near, near * 0.01, far])


@dataclass(frozen=True)
class Cone(Match):
    """Nodes that compute a value from one other value and scalars."""

    x: Value | None = None
    activation: Activation | None = None


class ActivationSpelled(Rule):
    """x * (1 + erf(x / sqrt 2)) / 2 -> Gelu(x), x * sigmoid(x) -> Swish(x), ...   if the function's operators are there, and its values at many points"""

    name, anchors = "activation", ("Mul", "Div")

    def check(self, node: Node) -> Match | Declined | None:
        t = tensor_type(node.outputs[0])
        if t is None or t.dtype not in (dt.float32, dt.float64, dt.float16):
            return None
        for x in self._factors(node, 3):
            if not same_type(x, node.outputs[0]):
                continue
            nodes = self._cone(node, x)
            if nodes is None:
                continue
            kinds = sorted(n.op for n in nodes if n.op not in ARITHMETIC)
            wanted = [a for a in ACTIVATIONS if kinds == sorted(a.core)]
            if not wanted:
                continue
            values = _evaluate(node, nodes, x)
            for a in wanted:
                if values is not None and _agree(values, a.meaning(_points()), t.dtype):
                    return Cone(tuple(n for n in nodes if n is not node), x, a)
        return None

    def _factors(self, node: Node, depth: int) -> Iterator[Value]:
        """What is multiplied in a product of products."""
        for v in node.inputs if node.op == "Mul" else node.inputs[:1]:
            if v is None or v.constant is not None:
                continue
            yield v
            inner = producer(v, "Mul", "Div")
            if inner is not None and depth and sole_use(v):
                yield from self._factors(inner, depth - 1)

    @staticmethod
    def _cone(root: Node, x: Value) -> list[Node] | None:
        """The nodes between `x` and the root in order, if nothing else goes in but scalars, and nothing comes out but the root."""
        found: dict[Node, None] = {}

        def visit(node: Node) -> bool:
            if node in found:
                return True
            if len(found) >= CONE_NODES or node.domain or node.op not in ELEMENTWISE:
                return False
            for v in node.inputs:
                if v is None or v is x or scalar(v) is not None:
                    continue
                if v.constant is not None or v.producer is None or not same_type(v, x) or not visit(v.producer):
                    return False
            found[node] = None
            return True
        if not visit(root) or not any(x in n.inputs for n in found):
            return None
        inside = set(found)
        if any(user not in inside for n in found if n is not root for o in n.outputs if o is not None for user, _ in o.uses):
            return None
        return list(found) if not any(n is not root and is_output(n.outputs[0]) for n in found) else None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Cone)
        return [edit.add(match.activation.op, [match.x], dict(match.activation.attributes), name=match.activation.op)]


def _evaluate(root: Node, nodes: Sequence[Node], x: Value) -> np.ndarray | None:
    """The root's values where `x` has those of `_points`."""
    known: dict[Value, np.ndarray] = {x: _points().astype(tensor_type(x).dtype.numpy)}
    for n in nodes:
        inputs = [None if v is None else known[v] if v in known else v.constant.reshape(()) for v in n.inputs]
        try:
            known[n.outputs[0]] = np.asarray(run_node(n, inputs)[0])
        except ModelError:
            return None
    return known[root.outputs[0]]


def _agree(values: np.ndarray, expected: np.ndarray, dtype: dt.DType) -> bool:
    """Whether two functions are equal up to the rounding of constants and steps in `dtype`."""
    tolerance = {dt.float16: 4e-3, dt.float32: 2e-6, dt.float64: 1e-7}[dtype]
    found = values.astype(np.float64)
    return bool(np.isfinite(found).all()) and bool((np.abs(found - expected) <= tolerance * (1 + np.abs(_points()))).all())


COMPOSITES: tuple[Rule, ...] = (GroupNormalizationSpelled(), LayerNormalizationSpelled(), LayerNormalizationFactored(), RmsNormalizationSpelled(), ScaleIntoNormalization(),
                                BiasIntoNormalization(), SoftmaxSpelled(), ActivationSpelled())
