"""Element-wise operators of two and more operands: arithmetic, comparison, logic, bits, choice. Their bases serve the unary ones as well.

Floats narrower than 32 bits are computed in float32 and rounded once, when the result is stored.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Ref
from .base import Builder, Lowering, Op, Sample, broadcast_load, register
from .callbacks import choose_strings, compare_strings


def wide(x: Expr) -> Expr:
    """The value in its compute type: float32 for narrower floats, unchanged for all else."""
    return ex.cast(x, dt.compute_type(x.dtype))


def real(x: Expr) -> Expr:
    """The value as a float in which transcendental functions are computed: `wide` for floats, float64 for integers."""
    return wide(x) if x.dtype.is_float else ex.cast(x, dt.float64)


def unidirectional(n: Lowering, a: Tensor, b: Tensor) -> Tensor:
    """The second operand of an opset-1 or -6 operator, aligned by `axis` to the first one's dimensions."""
    if not n.attr("broadcast", 0) or b.rank == a.rank:
        return b
    at = n.attr("axis")
    at = a.rank - b.rank if at is None else n.axis(at, a.rank)
    after = a.rank - at - b.rank
    return n.map((*b.shape, *[ex.const(1)] * after), lambda *i: b[i[:b.rank]])


def variadic(n: Lowering) -> list[Tensor]:
    """All inputs of a node with one or more of them."""
    return [n.input(k) for k in range(max(1, len(n.inputs)))]


def sum_to(b: Builder, gradient: Value, target: Value) -> Value:
    """A gradient summed over the dimensions along which `target` was broadcast."""
    have, want = b.type(gradient).shape, b.type(target).shape
    lead = len(have) - len(want)
    axes = [k for k in range(len(have)) if k < lead or (want[k - lead] is not have[k] and want[k - lead].is_const and want[k - lead].value == 1)]
    if not axes:
        return gradient
    summed = b.add("ReduceSum", gradient, axes, keepdims=1)
    return b.add("Squeeze", summed, list(range(lead))) if lead else summed


def like(b: Builder, value: float, x: Value) -> Value:
    """A scalar constant of x's type."""
    return b.constant(value, b.type(x).dtype)


def real_sample(shape: tuple[int, ...], low: float = -3.0, high: float = 3.0, dtype: str = "float32") -> np.ndarray:
    """Evenly spread values in a scrambled order."""
    count = int(np.prod(shape, dtype=np.int64))
    order = np.argsort(np.sin(np.arange(count, dtype=np.float64) * 12.9898) % 0.7071, kind="stable")
    return np.linspace(low, high, count)[order].reshape(shape).astype(dtype)


class Binary(Op):
    """c[i] = f(a[i], b[i]) with NumPy broadcasting (axis/broadcast attributes before version 7)."""

    broadcast_since = 7
    divides = False  # whether whole numbers are divided, which by zero is an error

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        """f, on operands in their compute type."""
        raise NotImplementedError

    def result_type(self, a: Tensor) -> DType:
        return a.dtype

    def lower(self, n: Lowering) -> Ref:
        a, b = n.input(0), n.input(1)
        if n.version < self.broadcast_since:
            b = unidirectional(n, a, b)
        shape = n.broadcast(a, b)
        if self.divides and a.dtype.is_integer:
            forbid_zero(n, b)

        def body(*i: Expr) -> Expr:
            return self.value(n, wide(broadcast_load(a, shape, i)), wide(broadcast_load(b, shape, i)))
        return n.map(shape, body, self.result_type(a))

    def samples(self) -> Iterator[Sample]:
        a, b = real_sample((3, 4)), real_sample((4,), 0.5, 2.5)
        yield Sample((a, b), name="broadcast")
        yield Sample((a[:, :1].astype(np.float16), b.astype(np.float16)), name="half")
        yield Sample((a[:0], b), name="empty")
        yield Sample((np.arange(-6, 6, dtype=np.int32).reshape(3, 4), np.array([2, 3, 1, 5], np.int32)), name="int32")


def forbid_zero(n: Lowering, b: Tensor) -> None:
    """Demand divisors other than zero, but of sizes."""
    known = n.known(1)
    if n.content(1) is None if known is None else not known.all():
        n.demand(b.shape, lambda *i: ex.not_equal(b[i], 0), "a whole number is divided by zero")


# -------------------------------------------------------------------------------------------------------------- arithmetic
@register
class Add(Binary):
    """Sum. Source: ONNX Add-14."""

    name, versions = "Add", (1, 6, 7, 13, 14)

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        return a + b

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [sum_to(b, upstream[0], b.input(0)), sum_to(b, upstream[0], b.input(1))]


@register
class Sub(Binary):
    """Difference. Source: ONNX Sub-14."""

    name, versions = "Sub", (1, 6, 7, 13, 14)

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        return a - b

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [sum_to(b, upstream[0], b.input(0)), sum_to(b, b.add("Neg", upstream[0]), b.input(1))]


@register
class Mul(Binary):
    """Product. Source: ONNX Mul-14."""

    name, versions = "Mul", (1, 6, 7, 13, 14)

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        return a * b

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, y = b.input(0), b.input(1)
        return [sum_to(b, b.add("Mul", upstream[0], y), x), sum_to(b, b.add("Mul", upstream[0], x), y)]


@register
class Div(Binary):
    """Quotient; integers truncate towards zero. Source: ONNX Div-14."""

    name, versions = "Div", (1, 6, 7, 13, 14)
    divides = True

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        return a / b

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, y = b.input(0), b.input(1)
        to_x = b.add("Div", upstream[0], y)
        return [sum_to(b, to_x, x), sum_to(b, b.add("Neg", b.add("Mul", to_x, b.add("Div", x, y))), y)]


@register
class Mod(Binary):
    """Remainder with the divisor's sign, or with the dividend's where `fmod` is 1. Source: ONNX Mod-28."""

    name, versions = "Mod", (10, 13, 28)
    divides = True
    attributes = {"fmod": 0}

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        return ex.binary("rem" if n.attr("fmod") else "mod", a, b)


@register
class Pow(Binary):
    """a ** b in a's type. Small constant exponents become products and roots. Source: ONNX Pow-15."""

    name, versions = "Pow", (1, 7, 12, 13, 15)

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        known = n.known(1)
        if known is not None and known.size == 1 and a.dtype.is_float:
            short = self._by_exponent(a, float(known.reshape(-1)[0]))
            if short is not None:
                return short
        if a.dtype.is_integer and b.dtype.is_float:
            return ex.binary("pow", ex.cast(a, dt.float64), ex.cast(b, dt.float64))
        if a.dtype.is_float and b.dtype is dt.float64 and a.dtype is dt.float32:
            return ex.binary("pow", ex.cast(a, dt.float64), b)
        return ex.binary("pow", a, ex.cast(b, a.dtype))

    @staticmethod
    def _by_exponent(a: Expr, exponent: float) -> Expr | None:
        if exponent == 2.0:
            return a * a
        if exponent == 3.0:
            return a * a * a
        if exponent == 1.0:
            return a
        if exponent == -1.0:
            return 1 / a
        if exponent == 0.5:
            # pow(-inf, 0.5) is +inf and pow(-0.0, 0.5) is +0, which sqrt alone does not give
            return ex.where(ex.equal(a, -np.inf), np.inf, ex.unary("sqrt", a + 0.0))
        return None

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, y = b.input(0), b.input(1)
        exponent = b.add("CastLike", y, x)
        one = b.add("CastLike", b.constant(1.0), x)
        lower_power = b.add("Pow", x, b.add("Sub", exponent, one))
        to_x = b.add("Mul", upstream[0], b.add("Mul", exponent, lower_power))
        to_y = None
        if b.type(x).dtype.is_float and not y.is_constant and b.type(y).dtype.is_float:
            to_y = sum_to(b, b.add("Mul", upstream[0], b.add("Mul", b.add("Pow", x, y), b.add("Log", x))), y)
        return [sum_to(b, to_x, x), to_y]

    def samples(self) -> Iterator[Sample]:
        a, b = real_sample((3, 4), 0.3, 2.5), real_sample((4,), -1.5, 2.5)
        yield Sample((a, b), name="broadcast")
        yield Sample((a, np.array([2, 0, -1, 3])), name="int_exponent")
        yield Sample((np.arange(-3, 3, dtype=np.int32), np.array(2.0, np.float32)), name="int_base")
        yield Sample((a.astype(np.float16), b.astype(np.float16)), name="half")


@register
class PRelu(Op):
    """x where x >= 0, else slope * x; `slope` broadcasts to x (version 6 and below: one value, or one per channel). Source: ONNX PRelu-16."""

    name, versions = "PRelu", (1, 6, 7, 9, 16)

    def lower(self, n: Lowering) -> Ref:
        x, slope = n.input(0), n.input(1)
        if n.version < 7 and slope.rank == 1 and x.rank > 1:
            old = slope
            slope = n.map((*old.shape, *[ex.const(1)] * (x.rank - 2)), lambda *i: old[i[0]])

        def body(*i: Expr) -> Expr:
            v = wide(x[i])
            return ex.where(v < 0, v * wide(broadcast_load(slope, x.shape, i)), v)
        if slope.rank > x.rank:  # more than the operator promises, as in ONNX Runtime
            shape = n.broadcast(x, slope)
            y = n.map(shape, lambda *i: broadcast_load(x, shape, i))
            return n.map(shape, lambda *i: ex.where(wide(y[i]) < 0, wide(y[i]) * wide(broadcast_load(slope, shape, i)), wide(y[i])), x.dtype)
        return n.map(x.shape, body, x.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        if b.version < 7:
            raise b.unsupported("the gradient of PRelu below version 7 is not defined")
        x, slope = b.input(0), b.input(1)
        zero = b.add("CastLike", b.constant(0.0), x)
        below = b.add("Less", x, zero)
        to_x = b.add("Where", below, b.add("Mul", upstream[0], slope), upstream[0])
        return [to_x, sum_to(b, b.add("Where", below, b.add("Mul", upstream[0], x), zero), slope)]

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((2, 3, 4)), real_sample((3, 1), 0.1, 0.9)))
        yield Sample((real_sample((2, 3, 4)), real_sample((3,), 0.1, 0.9)), version=6, name="per_channel_6")


# ---------------------------------------------------------------------------------------------------- comparison and logic
class Comparison(Binary):
    """A binary operator with a bool result and without gradient."""

    op = ""
    swapped = False

    def result_type(self, a: Tensor) -> DType:
        return dt.boolean

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        return ex.binary(self.op, b, a) if self.swapped else ex.binary(self.op, a, b)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [None, None]


@register
class Equal(Comparison):
    """a == b; strings are compared by the host. Source: ONNX Equal-19."""

    name, versions, op = "Equal", (1, 7, 11, 13, 19), "eq"

    def lower(self, n: Lowering) -> Ref:
        if n.input(0).dtype is dt.string:
            return n.host(compare_strings, [(dt.boolean, n.broadcast(n.input(0), n.input(1)))], "strings are compared")[0]
        return super().lower(n)


@register
class Less(Comparison):
    """a < b. Source: ONNX Less-13."""

    name, versions, op = "Less", (1, 7, 9, 13), "lt"


@register
class LessOrEqual(Comparison):
    """a <= b. Source: ONNX LessOrEqual-16."""

    name, versions, op = "LessOrEqual", (12, 16), "le"


@register
class Greater(Comparison):
    """a > b. Source: ONNX Greater-13."""

    name, versions, op, swapped = "Greater", (1, 7, 9, 13), "lt", True


@register
class GreaterOrEqual(Comparison):
    """a >= b. Source: ONNX GreaterOrEqual-16."""

    name, versions, op, swapped = "GreaterOrEqual", (12, 16), "le", True


class Logical(Comparison):
    """A comparison of bools."""

    def samples(self) -> Iterator[Sample]:
        a, b = np.array([[False], [True]]), np.array([False, True])
        yield Sample((a, b))


@register
class And(Logical):
    """a and b. Source: ONNX And-7."""

    name, versions, op = "And", (1, 7), "and"


@register
class Or(Logical):
    """a or b. Source: ONNX Or-7."""

    name, versions, op = "Or", (1, 7), "or"


@register
class Xor(Logical):
    """a != b for bools. Source: ONNX Xor-7."""

    name, versions, op = "Xor", (1, 7), "xor"


# -------------------------------------------------------------------------------------------------------------------- bits
class Bitwise(Binary):
    """An operator on the bits of integers."""

    op = ""
    broadcast_since = 1

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        return ex.binary(self.op, a, b)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.arange(-6, 6, dtype=np.int32).reshape(3, 4), np.array([2, 3, 0, 5], np.int32)), name="int32")
        yield Sample((np.arange(12, dtype=np.uint8).reshape(3, 4) * 20, np.array([2, 3, 0, 7], np.uint8)), name="uint8")


@register
class BitwiseAnd(Bitwise):
    """a & b. Source: ONNX BitwiseAnd-18."""

    name, versions, op = "BitwiseAnd", (18,), "bitand"


@register
class BitwiseOr(Bitwise):
    """a | b. Source: ONNX BitwiseOr-18."""

    name, versions, op = "BitwiseOr", (18,), "bitor"


@register
class BitwiseXor(Bitwise):
    """a ^ b. Source: ONNX BitwiseXor-18."""

    name, versions, op = "BitwiseXor", (18,), "bitxor"


@register
class BitShift(Bitwise):
    """a shifted by b bits; signed values keep their sign to the right. Amounts outside the width leave only sign bits. Source: ONNX BitShift-28."""

    name, versions = "BitShift", (11, 28)

    def value(self, n: Lowering, a: Expr, b: Expr) -> Expr:
        left = n.attr("direction") == "LEFT"
        if n.attr("direction") not in ("LEFT", "RIGHT"):
            raise n.error(f"direction is '{n.attr('direction')}', 'LEFT' or 'RIGHT' was expected")
        bits = a.dtype.bits
        outside = ex.logical_or(b < 0, b >= bits) if b.dtype.kind == "int" else b >= bits
        shifted = ex.binary("shl" if left else "shr", a, ex.where(outside, 0, b))
        beyond = ex.where(a < 0, -1, ex.const(0, a.dtype)) if a.dtype.kind == "int" and not left else ex.const(0, a.dtype)
        return ex.where(outside, beyond, shifted)

    def samples(self) -> Iterator[Sample]:
        for direction in ("LEFT", "RIGHT"):
            yield Sample((np.array([1, 200, 16, 255], np.uint8), np.array([1, 2, 0, 9], np.uint8)), {"direction": direction}, name=f"{direction.lower()}_uint8")
            yield Sample((np.array([-1, -200, 16], np.int32), np.array([1, 40, -1], np.int32)), {"direction": direction}, name=f"{direction.lower()}_int32")


# ---------------------------------------------------------------------------------------------------------------- variadic
class Variadic(Op):
    """f over one or more inputs with NumPy broadcasting."""

    def value(self, n: Lowering, operands: list[Expr]) -> Expr:
        raise NotImplementedError

    def lower(self, n: Lowering) -> Ref:
        xs = variadic(n)
        if len(xs) == 1:
            return xs[0]
        shape = n.broadcast(*xs)
        return n.map(shape, lambda *i: self.value(n, [wide(broadcast_load(x, shape, i)) for x in xs]), xs[0].dtype)

    def samples(self) -> Iterator[Sample]:
        a, b = real_sample((3, 4)), real_sample((4,), -2, 2)
        yield Sample((a,), name="one")
        yield Sample((a, b, a[:, :1]), name="three")
        yield Sample((a.astype(np.float16), b.astype(np.float16)), name="half")


class Folded(Variadic):
    """A variadic operator that joins its operands one by one."""

    op = ""

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        """For the extremes: shared equally among the operands that attain it."""
        best = b.add(self.name, *b.inputs)
        hits = [b.add("CastLike", b.add("Equal", x, best), best) for x in b.inputs]
        share = b.add("Div", upstream[0], b.add("Sum", *hits))
        return [sum_to(b, b.add("Mul", share, h), x) for h, x in zip(hits, b.inputs)]

    def value(self, n: Lowering, operands: list[Expr]) -> Expr:
        out = operands[0]
        for x in operands[1:]:
            out = ex.binary(self.op, out, x)
        return out


@register
class Sum(Folded):
    """Sum of all inputs. Source: ONNX Sum-13."""

    name, versions, op = "Sum", (1, 6, 8, 13), "add"

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        return [sum_to(b, upstream[0], x) for x in b.inputs]


@register
class Max(Folded):
    """Largest of all inputs; NaN if any is. Source: ONNX Max-13."""

    name, versions, op = "Max", (1, 6, 8, 12, 13), "max"


@register
class Min(Folded):
    """Smallest of all inputs; NaN if any is. Source: ONNX Min-13."""

    name, versions, op = "Min", (1, 6, 8, 12, 13), "min"


@register
class Mean(Variadic):
    """Sum of all inputs over their number. Source: ONNX Mean-13."""

    name, versions = "Mean", (1, 6, 8, 13)

    def value(self, n: Lowering, operands: list[Expr]) -> Expr:
        out = operands[0]
        for x in operands[1:]:
            out = out + x
        return out / len(operands)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        share = b.add("Div", upstream[0], b.add("CastLike", b.constant(float(len(b.inputs))), upstream[0]))
        return [sum_to(b, share, x) for x in b.inputs]


# ------------------------------------------------------------------------------------------------------------------ choice
@register
class Where(Op):
    """a where the condition holds, else b, with NumPy broadcasting; strings are chosen by the host. Source: ONNX Where-16."""

    name, versions = "Where", (9, 16)

    def lower(self, n: Lowering) -> Ref:
        c, a, b = n.input(0), n.input(1), n.input(2)
        shape = n.broadcast(c, a, b)
        if a.dtype is dt.string:
            return n.host(choose_strings, [(dt.string, shape)], "strings are chosen")[0]
        return n.map(shape, lambda *i: ex.where(broadcast_load(c, shape, i), broadcast_load(a, shape, i), broadcast_load(b, shape, i)))

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        zero = b.add("CastLike", b.constant(0.0), upstream[0])
        to_a, to_b = b.add("Where", b.input(0), upstream[0], zero), b.add("Where", b.input(0), zero, upstream[0])
        return [None, sum_to(b, to_a, b.input(1)), sum_to(b, to_b, b.input(2))]

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[True], [False]]), real_sample((2, 3)), real_sample((3,))))
        yield Sample((np.array([True, False]), np.array([1, 2]), np.array([3, 4])), name="int64")


@register
class Clip(Op):
    """min(max(x, low), high), NaN kept; bounds are attributes before version 11, scalars from then on. Source: ONNX Clip-13."""

    name, versions = "Clip", (1, 6, 11, 12, 13)

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        kind = dt.compute_type(x.dtype)
        bounds: list[Expr | None]
        if n.version < 11:
            bounds = [None if n.attr(k) is None else ex.const(n.attr(k), kind) for k in ("min", "max")]
        else:
            bounds = [self._scalar(n, k) if n.has(k) else None for k in (1, 2)]

        def body(*i: Expr) -> Expr:
            v = wide(x[i])
            v = v if bounds[0] is None else ex.maximum(v, bounds[0])
            return v if bounds[1] is None else ex.minimum(v, bounds[1])
        return n.map(x.shape, body, x.dtype)

    @staticmethod
    def _scalar(n: Lowering, index: int) -> Expr:
        """A bound; a constant where it is known when compiling."""
        t, known = n.input(index), n.known(index)
        kind = dt.compute_type(t.dtype)
        if known is not None:
            return ex.const(known.reshape(-1)[0].item() if kind is t.dtype else float(known.reshape(-1)[0]), kind)
        return wide(t[(ex.const(0),) * t.rank])

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x = b.input(0)
        inside = b.add("Equal", x, b.add("Clip", *b.inputs, version=b.version, **b.node.attributes))
        zero = b.add("CastLike", b.constant(0.0), x)
        return [b.add("Where", inside, upstream[0], zero)] + [None] * (len(b.inputs) - 1)

    def samples(self) -> Iterator[Sample]:
        x = real_sample((3, 4))
        yield Sample((x, np.float32(-1), np.float32(2)), name="both")
        yield Sample((x, None, np.float32(2)), name="upper")
        yield Sample((x,), {"min": -1.0, "max": 0.5}, version=6, name="attributes")
        yield Sample((np.arange(-6, 6, dtype=np.int8), np.int8(-2), np.int8(3)), name="int8")
