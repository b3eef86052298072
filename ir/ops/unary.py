"""Element-wise operators of one operand: mathematical functions and predicates; the base of all such operators."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr
from ..graph import Attribute, Value
from ..loops import Ref
from .base import Builder, Lowering, Op, Sample, register
from .elementwise import like, real_sample, wide


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
        raise b.unsupported(f"{self.name} has no gradient")

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        y = b.add(self.name, b.input(0), **b.node.attributes)
        return [b.add("Mul", upstream[0], self.slope(b, b.input(0), y))]

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4), self.domain_low, self.domain_high)
        for case in self.cases:
            yield Sample((x,), case)
        yield Sample((x.astype(np.float16),), self.cases[0], name="half")
        yield Sample((x.astype(np.float64)[:, :2],), self.cases[0], name="double")
        yield Sample((x[:0],), self.cases[0], name="empty")


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

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]


@register
class Floor(Unary):
    """The largest integer not above x. Source: ONNX Floor-13."""

    name, versions, op = "Floor", (1, 6, 13), "floor"

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]


@register
class Ceil(Unary):
    """The smallest integer not below x. Source: ONNX Ceil-13."""

    name, versions, op = "Ceil", (1, 6, 13), "ceil"

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None]


@register
class Round(Unary):
    """The nearest integer, halves to even. Source: ONNX Round-22."""

    name, versions, op = "Round", (11, 22), "round"

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
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


# ------------------------------------------------------------------------------------------------------- passing through
@register
class Identity(Op):
    """The input itself, of any type. Source: ONNX Identity-25."""

    name, versions = "Identity", (1, 13, 14, 16, 19, 21, 23, 24, 25)

    def lower(self, n: Lowering) -> Ref:
        if not n.has(0):
            raise n.error("input 0 of Identity is missing")
        return n.inputs[0]

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [upstream[0]]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3)),))
