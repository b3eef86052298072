"""Interpolated reads between the elements of a tensor, shared by deformable convolution, grid sampling and region pooling."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr


def clamp(x: Expr, low: Expr, high: Expr) -> Expr:
    """`x` between two bounds; NaN gives the lower one."""
    return ex.where(low < x, ex.where(x < high, x, high), low)


def to_index(x: Expr) -> Expr:
    """The integer below a (clamped) coordinate."""
    return ex.cast(ex.unary("floor", x), dt.int64)


def near(x: Expr, size: Expr, margin: int = 2) -> Expr:
    """A coordinate kept within `margin` elements of the tensor, where reads give the fill value anyway, so that it converts to an integer."""
    return clamp(x, ex.const(-margin, x.dtype), ex.cast(size + (margin - 1), x.dtype))


def sample_linear(load: Callable[[tuple[Expr, ...]], Expr], at: Sequence[Expr], size: Sequence[Expr]) -> Expr:
    """Multilinear interpolation at a position; `load` gives what lies outside."""
    low, weights = [], []
    for x, d in zip(at, size, strict=True):
        x = near(x, d)
        i = to_index(x)
        low.append(i)
        weights.append(x - ex.unary("floor", x))
    total: Expr | None = None
    for corner in itertools.product((0, 1), repeat=len(low)):
        term = load(tuple(i + c for i, c in zip(low, corner)))
        for c, f in zip(corner, weights):
            term = term * (f if c else 1.0 - f)
        total = term if total is None else total + term
    assert total is not None
    return total
