"""Reductions over few constant positions (pooling windows) written out, and ranges of reductions cut to where their operand is not padding."""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr
from .cases import Cut, conjuncts, cut_of, with_facts
from .flatten import FlatNest, substitute_free

WINDOW = 25  # positions of a window
WRITTEN_OUT = 400  # operations that a window may be written out to
_WRITABLE = ex.CHEAP | {"load", "poly", "axis", "const", "sym", "floordiv", "mod"}
FOLDS = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


def is_window(r: Expr) -> bool:
    """Whether a reduction covers few, constant positions."""
    count = integer.as_int(ex.product(a.extent for a in ex.reduce_axes(r)))
    return count is not None and 0 < count <= WINDOW


def is_cheap(r: Expr) -> bool:
    """Whether a window's operand may be written out for every position: no inner reduction, nothing dear, and few operations in all."""
    operations = list(outside_of_loads(r.args[0]))
    return all(n.op in _WRITABLE for n in operations) and len(operations) * int(ex.product(a.extent for a in ex.reduce_axes(r)).value) <= WRITTEN_OUT


def outside_of_loads(e: Expr) -> Iterator[Expr]:
    """Distinct nodes of an expression, without the arithmetic of indices."""
    pending, seen = [e], {e}
    while pending:
        n = pending.pop()
        yield n
        if n.op in ("load", "poly"):
            continue
        for c in ex.children(n):
            if c not in seen:
                seen.add(c)
                pending.append(c)


def expand_windows(nest: FlatNest) -> FlatNest:
    """max(r < 3: a[2 * i + r - 1 else -inf])  ->  where(all inside, max(a[2 * i - 1], a[2 * i], a[2 * i + 1]), as before)

    for windows of cheap operands that move along the nest's innermost axis or aside of it, so that the innermost loop does the same at each step.
    """
    inner = nest.axes[-1] if nest.axes else None

    def visit(e: Expr) -> Expr | None:
        if e.op != "reduce" or ex.reduce_kind(e) not in FOLDS or inner not in e.axes or not is_window(e) or not is_cheap(e):
            return None
        positions = itertools.product(*(range(int(a.extent.value)) for a in ex.reduce_axes(e)))
        values = [substitute_free(e.args[0], dict(zip(ex.reduce_axes(e), map(ex.const, p)))) for p in positions]
        guards = strongest([c for v in values for c in guards_of(v)])
        if not guards:
            return fold(ex.reduce_kind(e), values)
        inside = guards[0]
        for g in guards[1:]:
            inside = ex.logical_and(inside, g)
        return ex.make("where", (inside, fold(ex.reduce_kind(e), [without_guards(v) for v in values]), e), e.dtype)
    return nest.rewritten(lambda roots: ex.transform(roots, visit), nest.axes)


def fold(kind: str, values: Sequence[Expr]) -> Expr:
    """The reduction of given values, first to last."""
    out = values[0]
    for v in values[1:]:
        out = ex.binary(FOLDS[kind], out, v)
    return out


def guards_of(value: Expr) -> list[Expr]:
    """Conditions under which a value takes no padding. Those in indices choose no padding, and may be over axes that a reduction there binds."""
    return [c for e in outside_of_loads(value) if e.op == "where" and e.args[2].is_const for c in conjuncts(e.args[0]) if c.op in ("lt", "le")]


def without_guards(value: Expr) -> Expr:
    return with_facts(value, dict.fromkeys(guards_of(value), True))


def strongest(conditions: Sequence[Expr]) -> list[Expr]:
    """Conditions from which all the given ones follow."""
    kept: list[Expr] = []
    for c in dict.fromkeys(conditions):
        if not any(implies(k, c) for k in kept):
            kept = [k for k in kept if not implies(c, k)] + [c]
    return kept


def implies(a: Expr, b: Expr) -> bool:
    """Whether a comparison of integers follows from another."""
    if a.args[0].dtype is not dt.int64 or b.args[0].dtype is not dt.int64:
        return a is b
    return integer.prove_le(_margin(a), _margin(b))


def _margin(c: Expr) -> Expr:
    """A number that is not negative exactly where the comparison holds."""
    return c.args[1] - c.args[0] - (1 if c.op == "lt" else 0)


def clip(r: Expr, identity: ex.Scalar, bound: frozenset[Expr]) -> tuple[dict[Expr, list[Cut]], Expr]:
    """Conditions of a padded operand as bounds of the reduced axes.

    Returns:
        axis -> its cuts, and the operand without those conditions.
    """
    body, axes = r.args[0], ex.reduce_axes(r)
    cuts: dict[Expr, list[Cut]] = {}
    if body.op != "where" or not body.args[2].is_const or body.args[2].value != identity:
        return cuts, body
    decided = {}
    for c in conjuncts(body.args[0]):
        touched = [a for a in axes if a in c.axes]
        if len(touched) == 1:
            cut = cut_of(c, touched[0], bound)
            if cut is not None:
                cuts.setdefault(touched[0], []).append(cut)
                decided[c] = True
    return cuts, with_facts(body, decided)
