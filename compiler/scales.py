"""Rules that fold batch normalisation, and multiplication or addition of constants by channel, into the weights before them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import dtypes as dt
from ..ir.graph import Node, Value
from .rewrite import Declined, Edit, Match, Rule, producer, scalar, sole_use, tensor_type

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
COPIED_BYTES = 1 << 16  # weights with other uses are copied up to this size


@dataclass(frozen=True)
class Affine(Match):
    """y = weighted(x) * scale + shift along the channels of the result, in float64.

    Args:
        weighted: the node whose weights take the scale; None where the affine map stands alone.
        scale, shift: one element, or one per channel.
        source: what the map is applied to.
    """

    weighted: Node | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    source: Value | None = None


class FoldIntoWeights(Rule):
    """Conv(x, w, b) * s + t -> Conv(x, w * s, b * s + t)   if w, b, s, t are known and the product has no other use; Gemm and MatMul alike"""

    name, anchors = "fold-into-weights", ("Mul", "Div", "Add", "Sub")

    def check(self, node: Node) -> Match | Declined | None:
        if len(node.inputs) != 2 or node.version < 7:
            return None
        for k in (0, 1):
            weighted = producer(node.inputs[k], *WEIGHTED)
            c = node.inputs[1 - k]
            if weighted is None or c is None or c.constant is None:
                continue
            channels = _channels(weighted)
            vector = _by_channel(c.constant, node, weighted, channels) if channels is not None else None
            if vector is None or tensor_type(node.outputs[0]).dtype is not tensor_type(node.inputs[k]).dtype:
                return None
            one, zero = np.ones(1), np.zeros(1)
            if node.op == "Mul":
                scale, shift = vector, zero
            elif node.op == "Div":
                if k == 1 or not vector.all():
                    return None
                scale, shift = 1 / vector, zero
            elif node.op == "Add":
                scale, shift = one, vector
            else:
                scale, shift = (one, -vector) if k == 0 else (-one, vector)
            if weighted.op == "MatMul" and node.op != "Mul" and node.op != "Div":
                return None  # it has no bias to take a shift
            return _affine(weighted, scale, shift)
        return None

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Affine)
        return [_scaled(match, edit)]


class BatchNormalizationToWeights(Rule):
    """BatchNormalization(Conv(x, w, b)) -> Conv(x, w', b'), BatchNormalization(x) -> x * s + t otherwise   if its statistics are known (inference)"""

    name, anchors = "batch-normalization-to-weights", ("BatchNormalization",)

    def check(self, node: Node) -> Match | Declined | None:
        x = tensor_type(node.inputs[0])
        if x is None or len(node.inputs) != 5 or len(x.shape) < 2:
            return None
        if node.version < 7 or not node.attributes.get("spatial", 1):
            return Declined("an old form of the operator")
        if node.attributes.get("training_mode", 0) or any(o is not None for o in node.outputs[1:]):
            return Declined("the node is training")
        parameters = [v.constant if v is not None else None for v in node.inputs[1:]]
        if any(p is None for p in parameters):
            return Declined("scale, bias, mean or variance are only known when running")
        gamma, beta, mean, variance = (p.astype(np.float64).reshape(-1) for p in parameters)
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", float(np.float32(1e-5))))
            shift = beta - mean * scale
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return Declined("a variance is not positive")
        weighted = producer(node.inputs[0], *WEIGHTED)
        if weighted is not None and weighted.op != "MatMul" and (weighted.op != "Gemm" or len(x.shape) == 2):
            found = _affine(weighted, scale, shift)
            if isinstance(found, Affine):
                return found
        if x.dtype not in (dt.float32, dt.float64):
            return Declined("scale and shift by channel would be rounded to 16 bits")
        return Affine(scale=scale, shift=shift, source=node.inputs[0])

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        assert isinstance(match, Affine)
        if match.weighted is not None:
            return [_scaled(match, edit)]
        x = tensor_type(match.source)
        shape = (-1, *[1] * (len(x.shape) - 2))
        product = edit.add("Mul", [match.source, edit.constant(match.scale.astype(x.dtype.numpy).reshape(shape))])
        return [edit.add("Add", [product, edit.constant(match.shift.astype(x.dtype.numpy).reshape(shape))])]


def _channels(weighted: Node) -> int | None:
    """The number of channels of a weighted node's result, if its weights are known numbers."""
    w = weighted.inputs[1]
    if w is None or w.constant is None or tensor_type(w) is None or not tensor_type(w).dtype.is_float or tensor_type(weighted.outputs[0]) is None:
        return None
    shape = w.constant.shape
    if weighted.op == "Conv":
        return shape[0]
    if weighted.op == "ConvTranspose":
        return shape[1] * weighted.attributes.get("group", 1)
    if weighted.op == "Gemm":
        return shape[0 if weighted.attributes.get("transB", 0) else 1]
    return shape[1] if len(shape) == 2 else None


def _by_channel(c: np.ndarray, node: Node, weighted: Node, channels: int) -> np.ndarray | None:
    """A constant operand as a vector over the channels (or one element), or None where it is something else."""
    rank = len(tensor_type(weighted.outputs[0]).shape)
    out = tensor_type(node.outputs[0])
    if c.ndim > rank or out is None or len(out.shape) != rank:
        return None
    axis = 1 if weighted.op in ("Conv", "ConvTranspose") else rank - 1
    shape = (1,) * (rank - c.ndim) + c.shape
    if any(n != 1 for k, n in enumerate(shape) if k != axis) or shape[axis] not in (1, channels):
        return None
    return c.astype(np.float64).reshape(-1)


def _affine(weighted: Node, scale: np.ndarray, shift: np.ndarray) -> Affine | Declined:
    """A match for folding into `weighted`, or why not."""
    if _channels(weighted) is None:
        return Declined("the weights are only known when running")
    if not sole_use(weighted.outputs[0]):
        return Declined("the product has other uses")
    w = weighted.inputs[1]
    if len(w.uses) > 1 and w.constant.nbytes > COPIED_BYTES:
        return Declined("the weights have other uses")
    bias = weighted.inputs[2] if len(weighted.inputs) > 2 else None
    if bias is not None and bias.constant is None:
        return Declined("the bias is only known when running")
    if weighted.op == "Gemm" and bias is not None:
        if weighted.version < 7 or weighted.attributes.get("beta", 1.0) != 1.0:
            return Declined("the bias is scaled")
        if bias.constant.ndim and bias.constant.shape[-1] == 1 and bias.constant.size > 1:
            return Declined("the bias is one of rows")
    if weighted.op == "Gemm" and bias is None and weighted.version < 11:
        return Declined("this version has no optional bias")
    return Affine((weighted,), weighted, scale, shift)


def _scaled(match: Affine, edit: Edit) -> Value:
    """The weighted node again, with other weights and bias."""
    old = match.weighted
    w = old.inputs[1].constant
    wide = w.astype(np.float64)
    channels = _channels(old)
    scale = np.broadcast_to(match.scale, channels)
    if old.op == "Conv":
        wide = wide * scale.reshape(-1, *[1] * (w.ndim - 1))
    elif old.op == "ConvTranspose":
        groups = old.attributes.get("group", 1)
        by_group = wide.reshape(groups, -1, *w.shape[1:]) * scale.reshape(groups, 1, -1, *[1] * (w.ndim - 2))
        wide = by_group.reshape(w.shape)
    elif old.op == "Gemm" and old.attributes.get("transB", 0):
        wide = wide * scale[:, None]
    else:
        wide = wide * scale
    dtype = tensor_type(old.inputs[1]).dtype
    inputs: list[Value | None] = [old.inputs[0], edit.constant(wide.astype(w.dtype), dtype)]
    bias = old.inputs[2].constant if len(old.inputs) > 2 and old.inputs[2] is not None else None
    if bias is not None or match.shift.any():
        shifted = (np.zeros(channels) if bias is None else bias.astype(np.float64) * scale) + match.shift
        inputs.append(edit.constant(shifted.astype(w.dtype), dtype))
    return edit.add(old.op, inputs, old.attributes, version=old.version, name=old.name)


class ScalarIntoGemm(Rule):
    """Gemm(x, w, c) with alpha or beta -> Gemm(x, w * alpha, c * beta)   if w and c are known"""

    name, anchors = "scalar-into-gemm", ("Gemm",)

    def check(self, node: Node) -> Match | Declined | None:
        alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
        has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
        if (alpha == 1.0 and (beta == 1.0 or not has_bias)) or node.version < 7 or scalar(node.inputs[1]) is not None:
            return None
        operands = node.inputs[1:3] if has_bias else node.inputs[1:2]
        if any(v is None or v.constant is None or not tensor_type(v).dtype.is_float for v in operands):
            return Declined("weights or bias are only known when running")
        if any(len(v.uses) > 1 and v.constant.nbytes > COPIED_BYTES for v in operands):
            return Declined("the weights have other uses")
        return Match()

    def rewrite(self, node: Node, match: Match, edit: Edit) -> Sequence[Value | None]:
        inputs = [node.inputs[0]]
        for v, factor in zip(node.inputs[1:], (node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)), strict=False):
            if v is None:
                continue
            array = v.constant if factor == 1.0 else (v.constant.astype(np.float64) * factor).astype(v.constant.dtype)
            inputs.append(v if factor == 1.0 else edit.constant(array, tensor_type(v).dtype))
        attributes = {k: a for k, a in node.attributes.items() if k not in ("alpha", "beta")}
        return [edit.add("Gemm", inputs, attributes, version=node.version)]


SCALES: tuple[Rule, ...] = (BatchNormalizationToWeights(), FoldIntoWeights(), ScalarIntoGemm())
