"""Case distinctions moved out of loops: conditions on outer axes become branches around a loop, conditions on its own axis cut it into segments.

    where(i < n, a[i], b[i - n])  over i     ->  a loop over a, then a loop over b
    a load with padding                      ->  fill, copy, fill
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr

MAX_SEGMENTS = 6  # parts of a loop, whatever is in them
MAX_PIECES = 64  # parts of a loop of which each does little, as in the concatenation of so many tensors
MAX_PIECEWORK = 400  # distinct expressions of all such parts
_LOADS = frozenset(("load",))
_CONDITIONS = frozenset(("lt", "le", "eq", "ne", "and", "or", "not", "xor", "load", "cast"))  # operators of what `with_facts` may be told of
Facts = Mapping[Expr, bool]


def with_facts(e: Expr, facts: Facts) -> Expr:
    """`e` where the conditions of `facts` are known. Reductions are left alone: they are computed apart."""
    known = {c: ex.const(v, dt.boolean) for c, v in facts.items()}
    done: dict[Expr, Expr] = {}
    plain = all(c.op in _CONDITIONS for c in known)  # then what holds none of them stays as it is

    def visit(n: Expr) -> Expr:
        if n in known:
            return known[n]
        if n not in done:
            if n.op == "reduce" or (not n.args and n.op != "poly") or (plain and not any(c in known for c in ex.below(n, _CONDITIONS))):
                done[n] = n
            elif n.op == "poly":
                done[n] = integer.evaluate(n, {a: visit(a) for a in ex.children(n)})
            else:
                args = [visit(a) for a in n.args]
                done[n] = n if all(a is b for a, b in zip(args, n.args)) else ex.rebuild(n, args)
        return done[n]
    return visit(e)


def choices(roots: Iterable[Expr]) -> Iterator[Expr]:
    """Every `where` outside of reductions and indices whose branches load something, outermost first."""
    pending, seen = list(roots)[::-1], set()
    while pending:
        e = pending.pop()
        if e in seen or e.op in ("reduce", "load"):
            continue
        seen.add(e)
        if e.op == "where" and any(ex.below(a, _LOADS) for a in e.args[1:]):
            yield e
        pending.extend(ex.children(e)[::-1])


def conjuncts(c: Expr) -> list[Expr]:
    """The conditions that all must hold for `c`."""
    return [x for a in c.args for x in conjuncts(a)] if c.op == "and" else [c]


def outer_condition(roots: Iterable[Expr], bound: frozenset[Expr]) -> tuple[Expr, Facts, Facts] | None:
    """The first condition of a choice that is known once `bound` axes are.

    Returns:
        The condition, what is known where it holds, and what is known where it does not; None if there is none.
    """
    for e in choices(roots):
        parts = [c for c in conjuncts(e.args[0]) if c.axes <= bound and not c.is_const]
        if parts:
            whole = parts[0]
            for p in parts[1:]:
                whole = ex.logical_and(whole, p)
            return whole, dict.fromkeys(parts, True), {e.args[0]: False}
    return None


@dataclass(frozen=True)
class Cut:
    """A position of an axis where a condition changes: before `at` it is `before`, from there on the opposite."""

    condition: Expr
    at: Expr
    before: bool


@dataclass(frozen=True)
class Segment:
    """A part of a loop that ends at `end` (None: where the loop ends) and what is known in it."""

    end: Expr | None
    facts: Facts


def segments(roots: Sequence[Expr], axis: Expr, bound: frozenset[Expr]) -> list[Segment]:
    """The parts of a loop over `axis` in which all conditions of choices are known, in order; one part without facts where that is not possible."""
    cuts = _cuts(roots, axis, bound)
    plain = [Segment(None, {})]
    if not cuts:
        return plain
    ordered = _ordered(cuts)
    positions = [] if ordered is None else list(dict.fromkeys(c.at for c in ordered))
    if ordered is not None and len(positions) < MAX_PIECES:
        at = {p: k for k, p in enumerate(positions)}
        out = [Segment(p, {c.condition: c.before == (k <= at[c.at]) for c in ordered}) for k, p in enumerate([*positions, None])]
        if len(out) <= MAX_SEGMENTS or sum(1 for part in out for _ in ex.walk([with_facts(r, part.facts) for r in roots])) <= MAX_PIECEWORK:
            return out
    starts = [c.at for c in cuts if not c.before]
    ends = [c.at for c in cuts if c.before]
    first = _fold("max", starts)
    last = _fold("min", ends)
    if first is None:
        return [Segment(last, {c.condition: True for c in cuts}), Segment(None, {})]
    if last is None:
        return [Segment(first, {}), Segment(None, {c.condition: True for c in cuts})]
    return [Segment(first, {}), Segment(last, {c.condition: True for c in cuts}), Segment(None, {})]


def _fold(op: str, items: Sequence[Expr]) -> Expr | None:
    out: Expr | None = None
    for i in items:
        out = i if out is None else ex.binary(op, out, i)
    return out


def _cuts(roots: Sequence[Expr], axis: Expr, bound: frozenset[Expr]) -> list[Cut]:
    found: dict[Expr, Cut] = {}
    for e in choices(roots):
        for c in _comparisons(e.args[0]):
            cut = cut_of(c, axis, bound)
            if cut is not None:
                found[c] = cut
    return list(found.values())


def _comparisons(c: Expr) -> Iterator[Expr]:
    if c.op in ("and", "or", "not"):
        for a in c.args:
            yield from _comparisons(a)
    elif c.op in ("lt", "le"):
        yield c


def cut_of(c: Expr, axis: Expr, bound: frozenset[Expr]) -> Cut | None:
    """Where a comparison of integers changes along `axis`, if it is affine in it with a constant step."""
    if c.op not in ("lt", "le") or c.args[0].dtype is not dt.int64 or axis not in c.axes:
        return None
    split = integer.coefficient(c.args[1] - c.args[0] - (1 if c.op == "lt" else 0), axis)
    if split is None or not split[0].is_const or not split[1].axes <= bound:
        return None
    step, rest = split[0].value, split[1]  # holds where step * axis + rest >= 0
    if step > 0:
        return Cut(c, (step - 1 - rest) // step, False)
    return Cut(c, rest // -step + 1, True)


def _ordered(cuts: Sequence[Cut]) -> list[Cut] | None:
    """The cuts by rising position, or None where the order is not certain."""
    out: list[Cut] = []
    for c in cuts:
        k = len(out)
        while k > 0 and not integer.prove_le(out[k - 1].at, c.at):
            if not integer.prove_le(c.at, out[k - 1].at):
                return None
            k -= 1
        out.insert(k, c)
    return out
