"""Element-wise operators on numbers."""
from __future__ import annotations

from .. import expr as ex
from ..expr import Expr, Tensor
from .base import Lowering, Op, broadcast_load, register


class Binary(Op):
    """c[i] = f(a[i], b[i]) with NumPy broadcasting (axis/broadcast attributes before version 7)."""

    def value(self, a: Expr, b: Expr) -> Expr:
        raise NotImplementedError

    def lower(self, n: Lowering) -> Tensor:
        a, b = n.input(0), n.input(1)
        if n.version < 7:
            b = unidirectional(n, a, b)
        shape = n.broadcast(a, b)
        return n.map(shape, lambda *i: self.value(broadcast_load(a, shape, i), broadcast_load(b, shape, i)))


def unidirectional(n: Lowering, a: Tensor, b: Tensor) -> Tensor:
    """The second operand of an opset-1 or -6 operator, aligned by `axis` to the first one's dimensions."""
    if not n.attr("broadcast", 0) or b.rank == a.rank:
        return b
    at = n.attr("axis")
    at = a.rank - b.rank if at is None else n.axis(at, a.rank)
    after = a.rank - at - b.rank
    return n.map((*b.shape, *[ex.const(1)] * after), lambda *i: b[i[:b.rank]])


@register
class Add(Binary):
    """Sum. Source: ONNX Add-14."""

    name, versions = "Add", (1, 6, 7, 13, 14)

    def value(self, a: Expr, b: Expr) -> Expr:
        return a + b


@register
class Relu(Op):
    """max(x, 0), NaN kept. Source: ONNX Relu-14."""

    name, versions = "Relu", (1, 6, 13, 14)

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        return n.map(x.shape, lambda *i: ex.where(x[i] < ex.const(0, x.dtype), ex.const(0, x.dtype), x[i]))
