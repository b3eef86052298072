"""Rules for models that spell quantised computation as DequantizeLinear -> operator -> QuantizeLinear: products over the codes themselves.

    products      Conv, MatMul, Gemm of dequantised operands  ->  the exact sum over codes, scaled
    few bits      MatMul with weights of 4 or 8 bits in blocks ->  MatMulNBits
    movement      movement of dequantised elements            ->  movement of codes
    requantising  the division by a result's scale            ->  into the scales of what it is made of

Sums over codes are exact, so results equal those of the spelled form up to the rounding of its float32 sums; each step of scaling rounds once, as it did there.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes as dt
from ..ir import integer
from ..ir.graph import Node, Value
from .rewrite import Declined, Edit, Match, Rule, producer, sole_use, tensor_type

NARROW = (dt.uint8, dt.int8)
OFFSETS = {dt.uint4: 0, dt.int4: 8, dt.uint8: 0, dt.int8: 128}  # what makes codes start at 0
LONGEST = 1 << 16  # products of 8-bit codes whose sum surely fits 32 bits
LARGEST = 1 << 16  # bytes of constants that are divided
# They move elements of their first input, or choose among them by order, whatever its type.
MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Expand", "Tile", "Split", "DepthToSpace", "SpaceToDepth", "MaxPool")
# f(x / s) = f(x) / s for s > 0 in their first input.
HOMOGENEOUS = (*MOVES, "Relu", "LeakyRelu", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "Identity")


@dataclass(frozen=True)
class Codes:
    """A float32 value as (x - zero) * scale.

    Args:
        node: the DequantizeLinear.
        axis: the axis of x along which the scale lies; None for one scale.
    """

    node: Node
    x: Value
    scale: Value
    zero: Value | None
    axis: int | None


def codes_of(value: Value | None) -> Codes | None:
    """A dequantised value with one scale for a tensor or an axis, or None."""
    node = producer(value, "DequantizeLinear")
    if node is None or node.attributes.get("block_size", 0):
        return None
    x, scale, result = tensor_type(node.inputs[0]), tensor_type(node.inputs[1]), tensor_type(node.outputs[0])
    if x is None or scale is None or result is None or scale.dtype is not dt.float32 or result.dtype is not dt.float32 or len(scale.shape) > 1:
        return None
    single = not scale.shape or integer.as_int(scale.shape[0]) == 1
    rank = len(x.shape)
    return Codes(node, node.inputs[0], node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None, None if single or not rank else node.attributes.get("axis", 1) % rank)


def same_numbers(a: Value | None, b: Value | None) -> bool:
    """Whether two scales or zero points are the same single number."""
    if a is b:
        return a is None or tensor_type(a) is not None
    known = [np.zeros(1) if v is None else v.constant for v in (a, b)]
    return all(k is not None and k.size == 1 for k in known) and known[0].reshape(-1)[0] == known[1].reshape(-1)[0]


# --------------------------------------------------------------------------------------------------------------- products
@dataclass(frozen=True)
class Operands(Match):
    """Both operands of a product as codes."""

    a: Codes | None = None
    b: Codes | None = None


class ProductOfCodes(Rule):
    """op(dequantise(a), dequantise(b), c) -> (a - za) op (b - zb) * (sa * sb) + c   for Conv, MatMul and Gemm of 8-bit codes, the sum in int32"""

    name, anchors = "product-of-codes", ("Conv", "MatMul", "Gemm")

    def check(self, node: Node) -> Match | Declined | None:
        a, b = codes_of(node.inputs[0]), codes_of(node.inputs[1])
        if a is None or b is None:
            return None
        if any(tensor_type(c.x).dtype not in NARROW for c in (a, b)):
            return Declined("codes are wider than 8 bits")
        if a.axis is not None:
            return Declined("the left operand has a scale for each slice")
        length, axis = self.length_and_axis(node, a, b)
        if b.axis is not None and b.axis != axis:
            return Declined("the right operand's scales do not lie along the result's columns")
        if length is None or length > LONGEST:
            return Declined("the sum may not fit 32 bits")
        if node.op == "Gemm" and node.version < 7:
            return Declined("this version has no broadcast bias")
        return Operands((a.node, b.node), a, b)

    @staticmethod
    def length_and_axis(node: Node, a: Codes, b: Codes) -> tuple[int | None, int]:
        """(terms of each sum, axis of b that becomes the result's channels or columns); the axis is -1 where there is none."""
        shape = tensor_type(b.x).shape
        if node.op == "Conv":
            sizes = [integer.as_int(d) for d in shape[1:]]
            return (None if None in sizes else int(np.prod(sizes))), 0
        left = tensor_type(a.x).shape
        if not left or not shape:
            return None, -1
        turned_a, turned_b = (node.op == "Gemm" and bool(node.attributes.get(f"trans{k}", 0)) for k in "AB")
        depth = [integer.as_int(left[0 if turned_a else -1]), integer.as_int(shape[0] if len(shape) == 1 else shape[-1 if turned_b else -2])]
        known = [d for d in depth if d is not None]
        return (known[0] if known else None), -1 if len(shape) != 2 else 0 if turned_b else 1

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Operands) and match.a is not None and match.b is not None
        a, b = match.a, match.b
        x, w, factor = a.x, b.x, edit.add("Mul", [_single(a.scale, edit), _single(b.scale, edit) if b.axis is None else b.scale])
        bias = _spelled(node.inputs[2], edit) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        if node.op == "Conv":
            total = edit.add("ConvInteger", [x, w, _single(a.zero, edit), b.zero if b.axis is not None else _single(b.zero, edit)], node.attributes)
            shape = (-1, *[1] * (len(dims(x)) - 2))
            factor = factor if b.axis is None else _shaped(factor, shape, edit)
            bias = None if bias is None else _shaped(bias, shape, edit)
        else:
            x = edit.add("Transpose", [x], {"perm": (1, 0)}) if node.attributes.get("transA", 0) else x
            w = edit.add("Transpose", [w], {"perm": (1, 0)}) if node.attributes.get("transB", 0) else w
            total = edit.add("MatMulInteger", [x, w, _single(a.zero, edit), b.zero if b.axis is not None else _single(b.zero, edit)])
            alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
            factor = factor if alpha == 1.0 else edit.add("Mul", [factor, edit.constant(np.float32(alpha))])
            if bias is not None and beta != 1.0:
                bias = edit.add("Mul", [bias, edit.constant(np.float32(beta))])
        real = edit.add("Mul", [edit.add("Cast", [total], {"to": dt.float32}), factor])
        return [real if bias is None else edit.add("Add", [real, bias])]


def dims(value: Value) -> tuple[object, ...]:
    found = tensor_type(value)
    assert found is not None
    return found.shape


def _shaped(value: Value, shape: tuple[int, ...], edit: Edit) -> Value:
    return edit.add("Reshape", [value, edit.constant(np.array(shape, np.int64))])


def _single(value: Value | None, edit: Edit) -> Value | None:
    """A scale or zero point of one element as a scalar."""
    if value is None or not tensor_type(value).shape:
        return value
    return edit.constant(value.constant.reshape(()), tensor_type(value).dtype) if value.constant is not None else _shaped(value, (), edit)


def _spelled(value: Value, edit: Edit) -> Value:
    """A dequantised constant as arithmetic, which is folded (dequantisation is not, for weights are better kept in few bits)."""
    found = codes_of(value)
    if found is None or found.x.constant is None:
        return value
    numbers = edit.add("Cast", [found.x], {"to": dt.float32})
    if found.zero is not None:
        numbers = edit.add("Sub", [numbers, edit.add("Cast", [found.zero], {"to": dt.float32})])
    return edit.add("Mul", [numbers, found.scale if found.axis is not None else _single(found.scale, edit)])


# ---------------------------------------------------------------------------------------------------------- few bits, blocks
@dataclass(frozen=True)
class Blocked(Match):
    """Weights in blocks along the reduced axis: what the node dequantises."""

    weights: Node | None = None


class ProductOfBlocks(Rule):
    """MatMul(a, dequantise(w)) -> MatMulNBits(a, w')   if w is known, [K, N], of 4 or 8 bits with scales for blocks along K"""

    name, anchors = "product-of-blocks", ("MatMul",)

    def check(self, node: Node) -> Match | Declined | None:
        weights = producer(node.inputs[1], "DequantizeLinear")
        if weights is None or not weights.attributes.get("block_size", 0):
            return None
        w, scale, a = tensor_type(weights.inputs[0]), tensor_type(weights.inputs[1]), tensor_type(node.inputs[0])
        if any(v is not None and v.constant is None for v in weights.inputs):
            return Declined("the weights are only known when running")
        real = (scale.dtype, tensor_type(weights.outputs[0]).dtype, None if a is None else a.dtype)
        if w.dtype not in OFFSETS or any(t is not dt.float32 for t in real) or len(a.shape) < 2:
            return Declined("the weights are not of 4 or 8 bits with float32 scales")
        block = int(weights.attributes["block_size"])
        if len(w.shape) != 2 or weights.attributes.get("axis", 1) % 2 != 0 or block < 16 or block & (block - 1):
            return Declined("blocks do not lie along the sum by powers of two")
        return Blocked((weights,), weights)

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Blocked) and match.weights is not None
        x, scale, *zero = match.weights.inputs
        block, dtype = int(match.weights.attributes["block_size"]), tensor_type(x).dtype
        length, columns = x.constant.shape
        blocks, offset = -(-length // block), OFFSETS[dtype]
        codes = np.zeros((blocks * block, columns), np.uint8)
        codes[:length] = x.constant.astype(np.int32) + offset
        packed = packed_bits(codes.T.reshape(columns, blocks, block), dtype.bits)
        inputs = [node.inputs[0], edit.constant(packed), edit.constant(np.ascontiguousarray(scale.constant.T))]
        zeros = zero[0].constant.astype(np.int32) if zero and zero[0] is not None else np.zeros((blocks, columns), np.int32)
        if (zeros + offset != 1 << dtype.bits - 1).any():
            inputs.append(edit.constant(packed_bits((zeros + offset).astype(np.uint8).T, dtype.bits)))
        return [edit.add("MatMulNBits", inputs, {"K": length, "N": columns, "block_size": block, "bits": dtype.bits}, domain="com.microsoft")]


def packed_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of 4 or 8 bits along the last axis in bytes, the lowest bits first, filled up with zeros."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    even = np.concatenate([codes, np.zeros((*codes.shape[:-1], codes.shape[-1] % 2), np.uint8)], -1)
    return np.ascontiguousarray(even[..., ::2] | even[..., 1::2] << 4)


# --------------------------------------------------------------------------------------------------------------- movement
@dataclass(frozen=True)
class Moved(Match):
    """What moves: the codes of its inputs."""

    codes: tuple[Codes, ...] = ()


class MovementOfCodes(Rule):
    """move(dequantise(x)) -> dequantise(move(x))   if there is one scale"""

    name, anchors = "movement-of-codes", (*MOVES, "Concat")

    def check(self, node: Node) -> Match | Declined | None:
        found = [codes_of(v) for v in (node.inputs if node.op == "Concat" else node.inputs[:1])]
        if not found or found[0] is None:
            return None
        first = found[0]
        if any(c is None or c.axis is not None for c in found):
            return Declined("scales belong to slices, or only some inputs are dequantised")
        if any(tensor_type(c.x).dtype is not tensor_type(first.x).dtype or not same_numbers(c.scale, first.scale) or not same_numbers(c.zero, first.zero) for c in found):
            return Declined("inputs have scales of their own")
        if node.op == "MaxPool" and (tensor_type(first.x).dtype not in NARROW or any(o is not None for o in node.outputs[1:])):
            return Declined("maxima of such codes, or their positions, are not computed")
        return Moved(tuple(c.node for c in found), tuple(found))

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Moved)
        first = match.codes[0]
        codes = [c.x for c in match.codes]
        version = None if node.op == "MaxPool" else node.version
        edit.add(node.op, codes if node.op == "Concat" else [codes[0], *node.inputs[1:]], node.attributes, version=version, outputs=len(node.outputs))
        moved = edit.added[-1]
        return [edit.add("DequantizeLinear", [o, _single(first.scale, edit), _single(first.zero, edit)], first.node.attributes, version=first.node.version)
                if old is not None else None for old, o in zip(node.outputs, moved.outputs, strict=True)]


class QuantizeOfDequantize(Rule):
    """quantise(dequantise(x)) -> x   if scale and zero point are the same single numbers"""

    name, anchors = "quantize-of-dequantize", ("QuantizeLinear",)

    def check(self, node: Node) -> Match | Declined | None:
        found = codes_of(node.inputs[0])
        if found is None or node.attributes.get("block_size", 0):
            return None
        if tensor_type(found.x).dtype not in NARROW or tensor_type(node.outputs[0]) is None or tensor_type(found.x).dtype is not tensor_type(node.outputs[0]).dtype:
            return Declined("codes are of other types")
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if found.axis is not None or not same_numbers(found.scale, node.inputs[1]) or not same_numbers(found.zero, zero):
            return Declined("scales differ")
        scale = found.scale.constant
        if scale is None or not np.isfinite(scale).all() or not (scale > 0).all():
            return Declined("the scale may be none")
        return Moved((found.node,), (found,))

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Moved)
        return [match.codes[0].x]


# ----------------------------------------------------------------------------------------------------------- requantising
class ScaleIntoOperands(Rule):
    """quantise(f(x * p + q), s) -> quantise(f(x * (p / s) + q / s), 1)   if p, q and s are known, s > 0 is one number, and f(x / s) = f(x) / s"""

    name, anchors = "quantize-scale-into-operands", ("QuantizeLinear",)

    def check(self, node: Node) -> Match | Declined | None:
        x, scale = tensor_type(node.inputs[0]), node.inputs[1]
        if x is None or x.dtype is not dt.float32 or scale is None or scale.constant is None or scale.constant.size != 1 or tensor_type(scale).dtype is not dt.float32:
            return None
        s = float(scale.constant.reshape(-1)[0])
        if s == 1.0:
            return None
        if not (np.finfo(np.float32).tiny <= s < float("inf")) or node.attributes.get("precision", 0) not in (0, dt.float32.code) or node.attributes.get("block_size", 0):
            return Declined("the scale is no ordinary number")
        inner = node.inputs[0].producer
        if inner is None or not divisible(node.inputs[0]):
            return None
        return Match((inner,))

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        s = float(node.inputs[1].constant.reshape(-1)[0])
        inputs = [divided(node.inputs[0], s, edit), edit.constant(np.float32(1)), *node.inputs[2:3]]
        attributes = {k: v for k, v in node.attributes.items() if k != "axis"}
        if len(inputs) > 2:
            inputs[2] = _single(inputs[2], edit)
        return [edit.add("QuantizeLinear", inputs, attributes, version=node.version)]


def divisible(value: Value | None) -> bool:
    """Whether a float32 value can be computed divided by a number without more work, by dividing constants."""
    t = tensor_type(value)
    if value is None or t is None or t.dtype is not dt.float32:
        return False
    if value.constant is not None:
        return value.constant.nbytes <= LARGEST and bool(np.isfinite(value.constant).all())
    found = codes_of(value)
    if found is not None:
        return found.scale.constant is not None
    node = producer(value, "Add", "Sub", "Mul", "Clip", *HOMOGENEOUS)
    if node is None or not sole_use(value) or node.attributes.get("broadcast", 0) or any(o is not None for o in node.outputs[1:]):
        return False
    if node.op == "Mul":
        return any(divisible(v) for v in node.inputs)
    if node.op == "Clip":
        return node.version >= 11 and divisible(node.inputs[0]) and all(v is None or v.constant is not None for v in node.inputs[1:])
    return all(divisible(v) for v in (node.inputs if node.op in ("Add", "Sub") else node.inputs[:1]))


def divided(value: Value, s: float, edit: Edit) -> Value:
    """value / s, of a divisible value."""
    if value.constant is not None:
        return edit.constant((value.constant.astype(np.float64) / s).astype(np.float32))
    found = codes_of(value)
    if found is not None:
        scale = edit.constant((found.scale.constant.astype(np.float64) / s).astype(np.float32))
        return edit.add("DequantizeLinear", [found.x, scale, found.zero], found.node.attributes, version=found.node.version)
    node = value.producer
    assert node is not None
    inputs = list(node.inputs)
    if node.op == "Mul":
        at = next(k for k in sorted(range(2), key=lambda k: inputs[k].constant is None) if divisible(inputs[k]))
        inputs[at] = divided(inputs[at], s, edit)
    elif node.op in ("Add", "Sub"):
        inputs = [divided(v, s, edit) for v in inputs]
    elif node.op == "Clip":
        inputs = [v if v is None else divided(v, s, edit) for v in inputs]
    else:
        inputs[0] = divided(inputs[0], s, edit)
    return edit.add(node.op, inputs, node.attributes, version=node.version, name=node.name)


PRODUCTS: tuple[Rule, ...] = (ProductOfCodes(), ProductOfBlocks(), MovementOfCodes(), QuantizeOfDequantize())
REQUANTISING: tuple[Rule, ...] = (ScaleIntoOperands(), QuantizeOfDequantize())
