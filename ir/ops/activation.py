"""Activation functions."""
from __future__ import annotations

import math
from collections.abc import Sequence

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr
from ..graph import Value
from ..loops import Ref
from .base import Builder, Lowering, NodeView, register
from .unary import Unary, like


@register
class Relu(Unary):
    """max(x, 0), NaN kept. Source: ONNX Relu-14."""

    name, versions = "Relu", (1, 6, 13, 14)

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.where(x < 0, 0, x)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        zero = like(b, 0.0, b.input(0))
        return [b.add("Where", b.add("Greater", b.input(0), zero), upstream[0], zero)]


@register
class LeakyRelu(Unary):
    """x where x >= 0, else alpha * x. Source: ONNX LeakyRelu-16."""

    name, versions = "LeakyRelu", (1, 6, 16)
    attributes = {"alpha": 0.01}
    cases = ({}, {"alpha": 0.2})

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.where(x < 0, x * n.attr("alpha"), x)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Where", b.add("Less", x, like(b, 0.0, x)), like(b, b.attr("alpha"), x), like(b, 1.0, x))


@register
class ThresholdedRelu(Unary):
    """x where x > alpha, else 0. Source: ONNX ThresholdedRelu-22."""

    name, versions = "ThresholdedRelu", (10, 22)
    attributes = {"alpha": 1.0}
    cases = ({}, {"alpha": 2.0})

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.where(x > n.attr("alpha"), x, 0)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("CastLike", b.add("Greater", x, like(b, b.attr("alpha"), x)), x)


@register
class Elu(Unary):
    """x where x >= 0, else alpha * (e ** x - 1). Source: ONNX Elu-22."""

    name, versions = "Elu", (1, 6, 22)
    attributes = {"alpha": 1.0}
    cases = ({}, {"alpha": 2.0})

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.where(x < 0, ex.unary("expm1", x) * n.attr("alpha"), x)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Where", b.add("Less", x, like(b, 0.0, x)), b.add("Add", y, like(b, b.attr("alpha"), x)), like(b, 1.0, x))


@register
class Selu(Unary):
    """gamma * x where x > 0, else gamma * alpha * (e ** x - 1). Source: ONNX Selu-22."""

    name, versions = "Selu", (1, 6, 22)
    cases = ({}, {"alpha": 2.0, "gamma": 3.0})

    @staticmethod
    def _factors(n: NodeView) -> tuple[float, float]:
        old = n.version < 6
        return n.attr("alpha", 1.6732 if old else 1.67326319217681884765625), n.attr("gamma", 1.0507 if old else 1.05070102214813232421875)

    def value(self, n: Lowering, x: Expr) -> Expr:
        alpha, gamma = self._factors(n)
        return ex.where(x > 0, x, ex.unary("expm1", x) * alpha) * gamma

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        alpha, gamma = self._factors(b)
        return b.add("Where", b.add("Greater", x, like(b, 0.0, x)), like(b, gamma, x), b.add("Add", y, like(b, alpha * gamma, x)))


@register
class Celu(Unary):
    """max(0, x) + min(0, alpha * (e ** (x / alpha) - 1)). Source: ONNX Celu-28."""

    name, versions = "Celu", (12, 28)
    attributes = {"alpha": 1.0}
    cases = ({}, {"alpha": 2.0})

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.where(x < 0, ex.unary("expm1", x / n.attr("alpha")) * n.attr("alpha"), x)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        below = b.add("Exp", b.add("Div", x, like(b, b.attr("alpha"), x)))
        return b.add("Where", b.add("Less", x, like(b, 0.0, x)), below, like(b, 1.0, x))


@register
class Sigmoid(Unary):
    """1 / (1 + e ** -x). Source: ONNX Sigmoid-13."""

    name, versions, op = "Sigmoid", (1, 6, 13), "sigmoid"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Mul", y, b.add("Sub", like(b, 1.0, x), y))


@register
class HardSigmoid(Unary):
    """max(0, min(1, alpha * x + beta)). Source: ONNX HardSigmoid-22."""

    name, versions = "HardSigmoid", (1, 6, 22)
    attributes = {"alpha": 0.2, "beta": 0.5}
    cases = ({}, {"alpha": 0.5, "beta": 0.6})

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.maximum(ex.minimum(x * n.attr("alpha") + n.attr("beta"), 1), 0)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        inside = b.add("And", b.add("Greater", y, like(b, 0.0, x)), b.add("Less", y, like(b, 1.0, x)))
        return b.add("Where", inside, like(b, b.attr("alpha"), x), like(b, 0.0, x))


@register
class HardSwish(Unary):
    """x * max(0, min(1, x / 6 + 0.5)). Source: ONNX HardSwish-22."""

    name, versions = "HardSwish", (14, 22)
    domain_low, domain_high = -4.0, 4.0

    def value(self, n: Lowering, x: Expr) -> Expr:
        return x * ex.maximum(ex.minimum(x * (1 / 6) + 0.5, 1), 0)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        third = b.add("Add", b.add("Mul", x, like(b, 1 / 3, x)), like(b, 0.5, x))
        above = b.add("Where", b.add("Greater", x, like(b, 3.0, x)), like(b, 1.0, x), third)
        return b.add("Where", b.add("Less", x, like(b, -3.0, x)), like(b, 0.0, x), above)


@register
class Swish(Unary):
    """x * sigmoid(alpha * x). Source: ONNX Swish-24."""

    name, versions = "Swish", (24,)
    attributes = {"alpha": 1.0}
    cases = ({}, {"alpha": 1.7})

    def value(self, n: Lowering, x: Expr) -> Expr:
        return x * ex.unary("sigmoid", x * n.attr("alpha"))

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        alpha = like(b, b.attr("alpha"), x)
        gate = b.add("Sigmoid", b.add("Mul", x, alpha))
        return b.add("Add", gate, b.add("Mul", b.add("Mul", alpha, y), b.add("Sub", like(b, 1.0, x), gate)))


def softplus(x: Expr) -> Expr:
    """log(1 + e ** x) without overflow."""
    return ex.maximum(x, 0) + ex.unary("log1p", ex.unary("exp", -ex.unary("abs", x)))


@register
class Softplus(Unary):
    """log(1 + e ** x). Source: ONNX Softplus-22."""

    name, versions = "Softplus", (1, 22)

    def value(self, n: Lowering, x: Expr) -> Expr:
        return softplus(x)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Sigmoid", x)


@register
class Softsign(Unary):
    """x / (1 + |x|). Source: ONNX Softsign-22."""

    name, versions = "Softsign", (1, 22)

    def value(self, n: Lowering, x: Expr) -> Expr:
        return x / (ex.unary("abs", x) + 1)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        width = b.add("Add", like(b, 1.0, x), b.add("Abs", x))
        return b.add("Reciprocal", b.add("Mul", width, width))


@register
class Mish(Unary):
    """x * tanh(log(1 + e ** x)). Source: ONNX Mish-22."""

    name, versions = "Mish", (18, 22)

    def value(self, n: Lowering, x: Expr) -> Expr:
        return x * ex.unary("tanh", softplus(x))

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        t = b.add("Tanh", b.add("Softplus", x))
        bend = b.add("Mul", b.add("Sub", like(b, 1.0, x), b.add("Mul", t, t)), b.add("Sigmoid", x))
        return b.add("Add", t, b.add("Mul", x, bend))


@register
class Gelu(Unary):
    """x * P(X <= x) for a normal X, by the error function or by tanh (approximate="tanh"). Source: ONNX Gelu-20."""

    name, versions = "Gelu", (20,)
    attributes = {"approximate": "none"}
    cases = ({}, {"approximate": "tanh"})

    def value(self, n: Lowering, x: Expr) -> Expr:
        if n.attr("approximate") == "tanh":
            inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
            return x * 0.5 * (ex.unary("tanh", inner) + 1)
        if n.attr("approximate") != "none":
            raise n.error(f"approximate is '{n.attr('approximate')}', 'none' or 'tanh' was expected")
        return x * 0.5 * (ex.unary("erf", x * math.sqrt(0.5)) + 1)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        half, one = like(b, 0.5, x), like(b, 1.0, x)
        if b.attr("approximate") == "tanh":
            scale, cubic = like(b, math.sqrt(2 / math.pi), x), like(b, 0.044715, x)
            square = b.add("Mul", x, x)
            t = b.add("Tanh", b.add("Mul", scale, b.add("Mul", x, b.add("Add", one, b.add("Mul", cubic, square)))))
            inner = b.add("Mul", scale, b.add("Add", one, b.add("Mul", like(b, 3 * 0.044715, x), square)))
            bend = b.add("Mul", b.add("Mul", half, x), b.add("Mul", b.add("Sub", one, b.add("Mul", t, t)), inner))
            return b.add("Add", b.add("Mul", half, b.add("Add", one, t)), bend)
        spread = b.add("Mul", half, b.add("Add", one, b.add("Erf", b.add("Mul", x, like(b, math.sqrt(0.5), x)))))
        density = b.add("Mul", like(b, 1 / math.sqrt(2 * math.pi), x), b.add("Exp", b.add("Mul", like(b, -0.5, x), b.add("Mul", x, x))))
        return b.add("Add", spread, b.add("Mul", x, density))


@register
class Shrink(Unary):
    """x + bias where x < -lambd, x - bias where x > lambd, else 0. Source: ONNX Shrink-9."""

    name, versions = "Shrink", (9,)
    attributes = {"bias": 0.0, "lambd": 0.5}
    cases = ({}, {"bias": 1.5, "lambd": 1.5})

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        kind = dt.compute_type(x.dtype) if x.dtype.is_float else dt.float64

        def body(*i: Expr) -> Expr:
            v = ex.cast(x[i], kind)
            bias, edge = n.attr("bias"), n.attr("lambd")
            return ex.where(v < -edge, v + bias, ex.where(v > edge, v - bias, 0))
        return n.map(x.shape, body, x.dtype)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("CastLike", b.add("Greater", b.add("Abs", x), like(b, b.attr("lambd"), x)), x)
