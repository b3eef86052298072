"""Element-wise operators of one operand: mathematical functions, predicates and activations."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr
from ..graph import Attribute, Value
from ..loops import Ref
from .base import Builder, Lowering, NodeView, Op, Sample, register
from .elementwise import real_sample, wide


class Unary(Op):
    """y[i] = f(x[i]), in the compute type. `op` names the expression operator; other functions override `value`."""

    op = ""
    domain_low, domain_high = -3.0, 3.0  # where samples are taken
    cases: tuple[Mapping[str, Attribute], ...] = ({},)  # attributes of samples

    def value(self, n: Lowering, x: Expr) -> Expr:
        """f, on an operand in its compute type."""
        return ex.unary(self.op, x)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        return n.map(x.shape, lambda *i: self.value(n, wide(x[i])), x.dtype)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        """The derivative at x, given y = f(x)."""
        return super().gradient(b, [])

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        y = b.add(self.name, b.input(0), **b.node.attributes)
        return [b.add("Mul", upstream[0], self.slope(b, b.input(0), y))]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4), self.domain_low, self.domain_high)
        for case in self.cases:
            yield Sample((x,), case)
        yield Sample((x.astype(np.float16),), self.cases[0], name="half")
        yield Sample((x.astype(np.float64)[:, :2],), self.cases[0], name="double")
        yield Sample((x[:0],), self.cases[0], name="empty")


def like(b: Builder, value: float, x: Value) -> Value:
    """A scalar constant of x's type."""
    return b.constant(value, b.type(x).dtype)


def reciprocal_root(b: Builder, x: Value) -> Value:
    return b.add("Reciprocal", b.add("Sqrt", x))


# --------------------------------------------------------------------------------------------------- mathematical functions
@register
class Abs(Unary):
    """|x|. Source: ONNX Abs-13."""

    name, versions, op = "Abs", (1, 6, 13), "abs"

    def value(self, n: Lowering, x: Expr) -> Expr:
        return x if x.dtype.kind == "uint" else ex.unary("abs", x)

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Sign", x)


@register
class Neg(Unary):
    """-x. Source: ONNX Neg-13."""

    name, versions, op = "Neg", (1, 6, 13), "neg"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return like(b, -1.0, x)


@register
class Sign(Unary):
    """-1, 0 or 1; NaN kept. Source: ONNX Sign-13."""

    name, versions, op = "Sign", (9, 13), "sign"

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]


@register
class Floor(Unary):
    """The largest integer not above x. Source: ONNX Floor-13."""

    name, versions, op = "Floor", (1, 6, 13), "floor"

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]


@register
class Ceil(Unary):
    """The smallest integer not below x. Source: ONNX Ceil-13."""

    name, versions, op = "Ceil", (1, 6, 13), "ceil"

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]


@register
class Round(Unary):
    """The nearest integer, halves to even. Source: ONNX Round-22."""

    name, versions, op = "Round", (11, 22), "round"

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [None]


@register
class Sqrt(Unary):
    """Square root. Source: ONNX Sqrt-13."""

    name, versions, op = "Sqrt", (1, 6, 13), "sqrt"
    domain_low, domain_high = 0.1, 9.0

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Div", like(b, 0.5, x), y)


@register
class Reciprocal(Unary):
    """1 / x. Source: ONNX Reciprocal-13."""

    name, versions = "Reciprocal", (1, 6, 13)
    domain_low, domain_high = 0.3, 5.0

    def value(self, n: Lowering, x: Expr) -> Expr:
        return 1 / x

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Neg", b.add("Mul", y, y))


@register
class Exp(Unary):
    """e ** x. Source: ONNX Exp-13."""

    name, versions, op = "Exp", (1, 6, 13), "exp"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return y


@register
class Log(Unary):
    """Natural logarithm. Source: ONNX Log-13."""

    name, versions, op = "Log", (1, 6, 13), "log"
    domain_low, domain_high = 0.1, 9.0

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Reciprocal", x)


@register
class Erf(Unary):
    """The error function. Source: ONNX Erf-13."""

    name, versions, op = "Erf", (9, 13), "erf"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Mul", like(b, 2 / math.sqrt(math.pi), x), b.add("Exp", b.add("Neg", b.add("Mul", x, x))))


@register
class Sin(Unary):
    """Sine. Source: ONNX Sin-22."""

    name, versions, op = "Sin", (7, 22), "sin"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Cos", x)


@register
class Cos(Unary):
    """Cosine. Source: ONNX Cos-22."""

    name, versions, op = "Cos", (7, 22), "cos"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Neg", b.add("Sin", x))


@register
class Tan(Unary):
    """Tangent. Source: ONNX Tan-22."""

    name, versions, op = "Tan", (7, 22), "tan"
    domain_low, domain_high = -1.4, 1.4

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Add", like(b, 1.0, x), b.add("Mul", y, y))


@register
class Asin(Unary):
    """Inverse sine. Source: ONNX Asin-22."""

    name, versions, op = "Asin", (7, 22), "asin"
    domain_low, domain_high = -0.95, 0.95

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return reciprocal_root(b, b.add("Sub", like(b, 1.0, x), b.add("Mul", x, x)))


@register
class Acos(Unary):
    """Inverse cosine. Source: ONNX Acos-22."""

    name, versions, op = "Acos", (7, 22), "acos"
    domain_low, domain_high = -0.95, 0.95

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Neg", reciprocal_root(b, b.add("Sub", like(b, 1.0, x), b.add("Mul", x, x))))


@register
class Atan(Unary):
    """Inverse tangent. Source: ONNX Atan-22."""

    name, versions, op = "Atan", (7, 22), "atan"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Reciprocal", b.add("Add", like(b, 1.0, x), b.add("Mul", x, x)))


@register
class Sinh(Unary):
    """Hyperbolic sine. Source: ONNX Sinh-22."""

    name, versions, op = "Sinh", (9, 22), "sinh"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Cosh", x)


@register
class Cosh(Unary):
    """Hyperbolic cosine. Source: ONNX Cosh-22."""

    name, versions, op = "Cosh", (9, 22), "cosh"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Sinh", x)


@register
class Tanh(Unary):
    """Hyperbolic tangent. Source: ONNX Tanh-13."""

    name, versions, op = "Tanh", (1, 6, 13), "tanh"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Sub", like(b, 1.0, x), b.add("Mul", y, y))


@register
class Asinh(Unary):
    """Inverse hyperbolic sine. Source: ONNX Asinh-22."""

    name, versions, op = "Asinh", (9, 22), "asinh"

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return reciprocal_root(b, b.add("Add", like(b, 1.0, x), b.add("Mul", x, x)))


@register
class Acosh(Unary):
    """Inverse hyperbolic cosine. Source: ONNX Acosh-22."""

    name, versions, op = "Acosh", (9, 22), "acosh"
    domain_low, domain_high = 1.1, 9.0

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return reciprocal_root(b, b.add("Sub", b.add("Mul", x, x), like(b, 1.0, x)))


@register
class Atanh(Unary):
    """Inverse hyperbolic tangent. Source: ONNX Atanh-22."""

    name, versions, op = "Atanh", (9, 22), "atanh"
    domain_low, domain_high = -0.9, 0.9

    def slope(self, b: Builder, x: Value, y: Value) -> Value:
        return b.add("Reciprocal", b.add("Sub", like(b, 1.0, x), b.add("Mul", x, x)))


# -------------------------------------------------------------------------------------------------------------- predicates
@register
class Not(Op):
    """Negation of bools. Source: ONNX Not-1."""

    name, versions = "Not", (1,)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        return n.map(x.shape, lambda *i: ex.logical_not(x[i]))

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[True, False], [False, True]]),))


@register
class BitwiseNot(Op):
    """All bits of an integer inverted. Source: ONNX BitwiseNot-18."""

    name, versions = "BitwiseNot", (18,)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        return n.map(x.shape, lambda *i: ex.unary("bitnot", x[i]))

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.arange(-4, 4, dtype=np.int32),))
        yield Sample((np.arange(8, dtype=np.uint8),), name="uint8")


@register
class IsNaN(Op):
    """Whether x is NaN. Source: ONNX IsNaN-20."""

    name, versions = "IsNaN", (9, 13, 20)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        return n.map(x.shape, lambda *i: ex.unary("isnan", wide(x[i])))

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([0, np.nan, np.inf, -np.inf, 1], np.float32),))


@register
class IsInf(Op):
    """Whether x is an infinity of a sign asked for. Source: ONNX IsInf-20."""

    name, versions = "IsInf", (10, 20)
    attributes = {"detect_negative": 1, "detect_positive": 1}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)

        def body(*i: Expr) -> Expr:
            v = wide(x[i])
            if n.attr("detect_negative") and n.attr("detect_positive"):
                return ex.unary("isinf", v)
            sides = [s for s, wanted in ((-math.inf, n.attr("detect_negative")), (math.inf, n.attr("detect_positive"))) if wanted]
            return ex.equal(v, sides[0]) if sides else ex.const(False, dt.boolean)
        return n.map(x.shape, body)

    def samples(self) -> Iterator[Sample]:
        x = np.array([0, np.nan, np.inf, -np.inf, 1], np.float32)
        for case in ({}, {"detect_negative": 0}, {"detect_positive": 0}, {"detect_negative": 0, "detect_positive": 0}):
            yield Sample((x,), case)


# ------------------------------------------------------------------------------------------------------------- activations
@register
class Relu(Unary):
    """max(x, 0), NaN kept. Source: ONNX Relu-14."""

    name, versions = "Relu", (1, 6, 13, 14)

    def value(self, n: Lowering, x: Expr) -> Expr:
        return ex.where(x < 0, 0, x)

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
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


# ------------------------------------------------------------------------------------------------------- passing through
@register
class Identity(Op):
    """The input itself, of any type. Source: ONNX Identity-25."""

    name, versions = "Identity", (1, 13, 14, 16, 19, 21, 23, 24, 25)

    def lower(self, n: Lowering) -> Ref:
        if not n.has(0):
            raise n.error("input 0 of Identity is missing")
        return n.inputs[0]

    def gradient(self, b: Builder, upstream: list[Value | None]) -> list[Value | None]:
        return [upstream[0]]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)),))
