"""Inverting index maps: which consumer point reads what a producer stores."""
from __future__ import annotations

from collections.abc import Sequence

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr


def invert(read: Sequence[Expr], axes: Sequence[Expr], stored: Sequence[Expr], shape: Sequence[Expr]) -> dict[Expr, Expr] | None:
    """Solve read(axes) = stored for the axes.

    Args:
        read: index at which a consumer with `axes` loads a tensor.
        axes: the consumer's axes; every point must read another element, and all elements must be read.
        stored: index (over the producer's axes) at which the producer stores.
        shape: of the tensor.

    Returns:
        The axes as expressions over the producer's axes, or None where there is no such form. What is returned was verified by substitution.
    """
    if ex.product(a.extent for a in axes) is not ex.product(shape):
        return None
    solved: dict[Expr, Expr] = {a: ex.const(0) for a in axes if integer.as_int(a.extent) == 1}
    for dim, e in enumerate(read):
        free = [a for a in axes if a in e.axes and a not in solved]
        if free:
            digits = _split(e, free, stored[dim])
            if digits is not None:
                solved.update(digits)
    for a in axes:
        if a not in solved:
            joined = _join(a, axes, read, stored, shape)
            if joined is None:
                return None
            solved[a] = joined
    check = ex.substitute(list(read), solved)
    return solved if all(c is s for c, s in zip(_without_units(check), _without_units(stored), strict=True)) else None


def _without_units(index: Sequence[Expr]) -> list[Expr]:
    """Axes of one iteration are always 0."""
    units = {a: ex.const(0) for e in index for a in e.axes if integer.as_int(a.extent) == 1}
    return ex.substitute(list(index), units)


def _split(e: Expr, free: list[Expr], value: Expr) -> dict[Expr, Expr] | None:
    """e = sum of radix-weighted axes -> each axis as a digit of `value`."""
    form = integer.affine(e, tuple(free))
    if form is None or form[1] is not ex.const(0):
        return None
    left = dict(zip(free, form[0], strict=True))
    out: dict[Expr, Expr] = {}
    weight: Expr = ex.const(1)
    while left:
        axis = next((a for a, c in left.items() if c is weight), None)
        if axis is None:
            return None
        del left[axis]
        digit = value // weight
        weight = weight * axis.extent
        out[axis] = digit % axis.extent if left else digit
    return out


def _join(axis: Expr, axes: Sequence[Expr], read: Sequence[Expr], stored: Sequence[Expr], shape: Sequence[Expr]) -> Expr | None:
    """An axis that is spread over several dimensions by division and remainder -> their row-major combination."""
    dims = [d for d, e in enumerate(read) if axis in e.axes]
    if not dims or any(set(read[d].axes) & set(axes) != {axis} for d in dims):
        return None
    position: Expr = ex.const(0)
    for d in dims:
        position = position * shape[d] + stored[d]
    return position
