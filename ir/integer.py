"""Canonical int64 arithmetic: polynomials over sizes, axes and opaque atoms, with floor division, remainder, bounds and proofs.

A `poly` node's payload is a tuple of (monomial, coefficient); a monomial is a tuple of atoms ordered by their spelling, `()` for the constant.
Simplification assumes what loops guarantee, 0 <= axis < extent, that a size is at least its minimum (0 for those of inputs), and that nothing is divided by zero.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from . import dtypes as dt
from . import expr as ex
from .expr import Expr, const, make

Monomial = tuple[Expr, ...]
Terms = dict[Monomial, int]
REMEMBERED = 1 << 17  # answers kept of each question about expressions


def terms(e: Expr) -> Terms:
    """The polynomial of an int64 expression."""
    if e.op == "const":
        return {(): e.value} if e.value else {}
    if e.op == "poly":
        return dict(e.value)
    return {(e,): 1}


def from_terms(t: Terms) -> Expr:
    """The canonical expression of a polynomial; joins `(a // n) * n + a % n` into `a`."""
    t = _join_remainders({m: k for m, k in t.items() if k})
    if not t:
        return const(0)
    if len(t) == 1:
        (mono, k), = t.items()
        if not mono:
            return const(k)
        if k == 1 and len(mono) == 1:
            return mono[0]
    return make("poly", (), dt.int64, tuple(sorted(t.items(), key=_term_order)))


def _term_order(item: tuple[Monomial, int]) -> tuple[int, tuple[str, ...]]:
    return (-len(item[0]), tuple(a.order for a in item[0]))


def _merge(a: Monomial, b: Monomial) -> Monomial:
    return tuple(sorted(a + b, key=lambda x: x.order)) if a and b else a or b


def add_terms(a: Terms, b: Terms, scale: int = 1) -> Terms:
    out = dict(a)
    for m, k in b.items():
        out[m] = out.get(m, 0) + scale * k
    return out


def mul_terms(a: Terms, b: Terms) -> Terms:
    out: Terms = {}
    for ma, ka in a.items():
        for mb, kb in b.items():
            m = _merge(ma, mb)
            out[m] = out.get(m, 0) + ka * kb
    return out


def _join_remainders(t: Terms) -> Terms:
    """c * rest * (a % n) + c * rest * n * (a // n)  ->  c * rest * a"""
    for mono in list(t):
        for pos, atom in enumerate(mono):
            if atom.op != "mod" or mono not in t:
                continue
            a, n = atom.args
            rest = mono[:pos] + mono[pos + 1:]
            partner = mul_terms(mul_terms({rest: t[mono]}, terms(n)), terms(ex.binary("floordiv", a, n)))
            if partner and all(t.get(m) == k for m, k in partner.items()):
                out = {m: k for m, k in t.items() if m != mono and m not in partner}
                return _join_remainders({m: k for m, k in add_terms(out, mul_terms({rest: t[mono]}, terms(a))).items() if k})
    return t


def evaluate(poly: Expr, values: Mapping[Expr, Expr]) -> Expr:
    """The polynomial with its atoms replaced."""
    if all(values[a] is a for m, _ in poly.value for a in m):
        return poly
    out: Terms = {}
    for mono, k in poly.value:
        t: Terms = {(): k}
        for a in mono:
            t = mul_terms(t, terms(values[a]))
        out = add_terms(out, t)
    return from_terms(out)


# ---------------------------------------------------------------------------------------------------------- simplification
@lru_cache(maxsize=REMEMBERED)
def simplify(op: str, a: Expr, b: Expr) -> Expr | None:
    """Canonical form of a binary int64 operator, or None where the plain node is canonical already."""
    if op == "add":
        return from_terms(add_terms(terms(a), terms(b)))
    if op == "sub":
        return from_terms(add_terms(terms(a), terms(b), -1))
    if op == "mul":
        return from_terms(mul_terms(terms(a), terms(b)))
    if op == "floordiv":
        return _floordiv(a, b)
    if op == "mod":
        return _mod(a, b)
    if op in ("div", "rem") and prove_nonnegative(a) and prove_positive(b):
        return ex.binary("floordiv" if op == "div" else "mod", a, b)
    if op in ("min", "max"):
        if a is b:
            return a
        if op == "min" and (shorter := _whether_zero(a, b)) is not None:
            return shorter
        for x, y in ((a, b), (b, a)):
            if prove_le(x, y):
                return x if op == "min" else y
        if (a.is_const, a.order) > (b.is_const, b.order):
            return make(op, (b, a), a.dtype)
    if op in ("lt", "le", "eq", "ne"):
        return _compare(op, a, b)
    return None


def _whether_zero(a: Expr, b: Expr) -> Expr | None:
    """min(p, 1) -> min(q, 1)   where fewer terms q tell whether p is zero: n + min(n, 1) -> n, 2 * n + n * m -> n; None where none can go."""
    for p, one in ((a, b), (b, a)):
        if p.op != "poly" or not (one.is_const and one.value == 1) or not all(k > 0 and all(map(prove_nonnegative, m)) for m, k in p.value):
            continue
        factors = {frozenset(x.args[0] if x.op == "min" and x.args[1] is one and x.args[0].op != "poly" else x for x in m) for m, _ in p.value}
        least = [m for m in factors if not any(other < m for other in factors)]
        q = from_terms({tuple(sorted(m, key=lambda x: x.order)): 1 for m in least})
        return None if q is p else ex.binary("min", q, one)
    return None


def _compare(op: str, a: Expr, b: Expr) -> Expr | None:
    if a is b:
        return const(op in ("le", "eq"), dt.boolean)
    if op == "lt":
        if prove_lt(a, b):
            return const(True, dt.boolean)
        if prove_le(b, a):
            return const(False, dt.boolean)
    elif op == "le":
        if prove_le(a, b):
            return const(True, dt.boolean)
        if prove_lt(b, a):
            return const(False, dt.boolean)
    elif prove_lt(a, b) or prove_lt(b, a):
        return const(op == "ne", dt.boolean)
    return None


def where_equal(x: Expr, y: Expr, a: Expr, b: Expr) -> Expr:
    """What `where(x == y, a, b)` chooses if the two are equal, with the size that they tell put in; `b` itself where that is no different.

    where(n == 1, min(n, 512), n) -> n
    """
    size, value = (x, y) if x.op == "sym" else (y, x)
    if size.op != "sym" or not value.is_const:
        return a
    known = {size: value}
    chosen, other = ex.substitute([a, b], known)
    return b if chosen is other else chosen


def divide_terms(t: Terms, d: Expr) -> tuple[Terms, Terms]:
    """Split a polynomial into (quotient, rest) with t = quotient * d + rest, dividing term by term where d divides exactly; the rest is all of t where d is 0."""
    dt_ = terms(d)
    if not dt_:
        return {}, dict(t)
    if len(dt_) != 1:
        return _divide_by_sum(t, dt_)
    (dm, dk), = dt_.items()
    quotient: Terms = {}
    rest: Terms = {}
    for m, k in t.items():
        left = list(m)
        ok = True
        for atom in dm:
            if atom in left:
                left.remove(atom)
            else:
                ok = False
                break
        if not ok:
            rest[m] = k
            continue
        q, r = divmod(k, dk) if dk > 0 else (0, k)
        if q:
            quotient[tuple(left)] = quotient.get(tuple(left), 0) + q
        if r:
            rest[m] = r
    return quotient, rest


def _divide_by_sum(t: Terms, d: Terms) -> tuple[Terms, Terms]:
    """Division by a polynomial of several terms: recognises c * mono * d only."""
    lead = max(d, key=lambda m: (len(m), tuple(a.order for a in m)))
    for m, k in t.items():
        left = list(m)
        try:
            for atom in lead:
                left.remove(atom)
        except ValueError:
            continue
        if k % d[lead]:
            continue
        factor = {tuple(left): k // d[lead]}
        rest = {mm: kk for mm, kk in add_terms(t, mul_terms(factor, d), -1).items() if kk}
        if len(rest) < len(t):
            q, r = _divide_by_sum(rest, d)
            return add_terms(q, factor), r
    return {}, t


def is_divisor(n: Expr, e: Expr) -> bool:
    """Whether `n` is positive wherever `e` is divided by it: never negative is enough, since division by zero has no value that simplification could change.

    A size that data decide is never negative below an axis over it: the axis would not run.
    """
    if prove_nonnegative(n):
        return True
    factors = terms(n)
    if len(factors) != 1:
        return any(_divides(n, a.extent) for a in e.axes)
    (mono, k), = factors.items()
    return k > 0 and all(prove_nonnegative(x) or any(_divides(x, a.extent) for a in e.axes) for x in mono)


def _divides(n: Expr, e: Expr) -> bool:
    """Whether `e` is a multiple of `n` by its spelling."""
    quotient, rest = divide_terms(terms(e), n)
    return bool(quotient) and not any(rest.values())


def _is_remainder(a: Expr, b: Expr) -> bool:
    """Whether 0 <= a < b wherever something is divided by b: a product of sizes is at least its constant factor then."""
    if not prove_nonnegative(a):
        return False
    factors = list(terms(b).items())
    return prove_lt(a, b) or (len(factors) == 1 and is_divisor(b, a) and prove_lt(a, const(factors[0][1])))


@lru_cache(maxsize=REMEMBERED)
def _floordiv(a: Expr, b: Expr) -> Expr | None:
    if b.is_const and b.value == 1:
        return a
    if a is b and is_divisor(b, a):
        return const(1)
    if b.is_const and b.value <= 0:
        return None
    quotient, rest = divide_terms(terms(a), b)
    if quotient and is_divisor(b, a):
        r = from_terms(rest)
        q = from_terms(quotient)
        if _is_remainder(r, b):
            return q
        return from_terms(add_terms(quotient, terms(ex.binary("floordiv", r, b))))
    if _is_remainder(a, b):
        return const(0)
    if a.op == "floordiv" and is_divisor(b, a) and is_divisor(a.args[1], a):
        return ex.binary("floordiv", a.args[0], a.args[1] * b)
    if a.op == "mod" and is_divisor(b, a):
        inner, rest = divide_terms(terms(a.args[1]), b)
        if inner and not rest:
            return ex.binary("mod", ex.binary("floordiv", a.args[0], b), from_terms(inner))
    common = _common_factor(a, b)
    if common is not None:
        return ex.binary("floordiv", *common)
    parts = _by_factor(a, b)
    if parts is not None:
        return ex.binary("floordiv", parts.quotient, parts.divisor)
    return None


@lru_cache(maxsize=REMEMBERED)
def _mod(a: Expr, b: Expr) -> Expr | None:
    if (b.is_const and b.value == 1) or a is b:
        return const(0)
    if b.is_const and b.value <= 0:
        return None
    quotient, rest = divide_terms(terms(a), b)
    if quotient and is_divisor(b, a):
        return ex.binary("mod", from_terms(rest), b)
    if _is_remainder(a, b):
        return a
    if a.op == "mod" and is_divisor(b, a):
        inner, rest = divide_terms(terms(a.args[1]), b)
        if inner and not rest:
            return ex.binary("mod", a.args[0], b)
    common = _common_factor(a, b)
    if common is not None:
        g = divide_terms(terms(b), common[1])[0]
        return ex.binary("mod", *common) * from_terms(g)
    parts = _by_factor(a, b)
    if parts is not None:
        return ex.binary("mod", parts.quotient, parts.divisor) * parts.factor + parts.rest
    return None


class Parts(NamedTuple):
    """a = quotient * factor + rest with 0 <= rest < factor, and b = divisor * factor."""

    quotient: Expr
    rest: Expr
    divisor: Expr
    factor: Expr


def _by_factor(a: Expr, b: Expr) -> Parts | None:
    """The parts of a // b and a % b by a factor that b shares with a term of a, where the other terms stay below it: (16 * i + j) // 64 -> i // 4 for j < 16."""
    tb = terms(b)
    if len(tb) != 1 or not is_divisor(b, a):
        return None
    (atoms, count), = tb.items()
    tried = {b, const(1)}
    for mono, k in terms(a).items():
        left, shared = list(mono), []
        for atom in atoms:
            if atom in left:
                left.remove(atom)
                shared.append(atom)
        factor = from_terms({tuple(shared): math.gcd(k, count)})
        if factor in tried:
            continue
        tried.add(factor)
        quotient, rest = divide_terms(terms(a), factor)
        if rest and quotient and is_divisor(factor, a) and _is_remainder(from_terms(rest), factor):
            return Parts(from_terms(quotient), from_terms(rest), from_terms(divide_terms(tb, factor)[0]), factor)
    return None


def _common_factor(a: Expr, b: Expr) -> tuple[Expr, Expr] | None:
    """(a / g, b / g) for a common monomial factor g > 1 of every term, or None."""
    ta, tb = terms(a), terms(b)
    if not ta or not tb:
        return None
    everything = list(ta.items()) + list(tb.items())
    g = 0
    for _, k in everything:
        g = math.gcd(g, k)
    shared = list(everything[0][0])
    for m, _ in everything[1:]:
        left = list(m)
        kept = []
        for atom in shared:
            if atom in left:
                left.remove(atom)
                kept.append(atom)
        shared = kept
    shared = [s for s in shared if is_divisor(s, a)]
    if g <= 1 and not shared:
        return None

    def cut(t: Terms) -> Expr:
        out: Terms = {}
        for m, k in t.items():
            left = list(m)
            for s in shared:
                left.remove(s)
            out[tuple(left)] = k // g
        return from_terms(out)
    return cut(ta), cut(tb)


# ------------------------------------------------------------------------------------------------------------------ bounds
@lru_cache(maxsize=REMEMBERED)
def upper(e: Expr) -> Expr | None:
    """A bound from above, over sizes alone, or None."""
    return _bound(e, True)


def lower(e: Expr) -> Expr | None:
    """A bound from below, over sizes alone, or None."""
    return _bound(e, False)


@lru_cache(maxsize=REMEMBERED)
def _bound(e: Expr, up: bool) -> Expr | None:
    if e.op in ("const", "sym"):
        return e
    if e.op == "axis":
        return _axis_upper(e) if up else const(0)
    if e.op == "mod":
        if not is_divisor(e.args[1], e.args[0]):
            return None
        return upper_minus_one(e.args[1]) if up else const(0)
    if e.op == "floordiv":
        a = _bound(e.args[0], up)
        if a is None or e.args[1].axes or not is_divisor(e.args[1], e.args[0]):
            return None
        return ex.binary("floordiv", a, e.args[1])
    if e.op in ("min", "max"):
        a, b = _bound(e.args[0], up), _bound(e.args[1], up)
        if a is not None and b is not None:
            return ex.binary(e.op, a, b)
        if (e.op == "min") == up:
            return a if a is not None else b
        return None
    if e.op == "where":
        a, b = _bound(e.args[1], up), _bound(e.args[2], up)
        if a is None or b is None:
            return None
        return ex.binary("max" if up else "min", a, b)
    if e.op == "cast" and e.args[0].dtype is dt.boolean:
        return const(1 if up else 0)
    if e.op != "poly":
        return None
    out: Terms = {}
    for mono, k in e.value:
        t: Terms = {(): k}
        for atom in mono:
            side = _bound(atom, up if k > 0 else not up)
            if side is None:
                return None
            if len(mono) > 1 and not prove_nonnegative(atom):
                return None
            t = mul_terms(t, terms(side))
        out = add_terms(out, t)
    return from_terms(out)


def _axis_upper(e: Expr) -> Expr | None:
    return upper_minus_one(e.extent)


def upper_minus_one(n: Expr) -> Expr | None:
    u = upper(n)
    return None if u is None else u - 1


def _minimum_of_symbols(e: Expr) -> bool:
    """Whether a polynomial over positive atoms is provably >= 0: shift every size by its minimum, then look at the signs."""
    t: Terms = {}
    for mono, k in terms(e).items():
        part: Terms = {(): k}
        for atom in mono:
            least = _least(atom)
            if least is None:
                return False
            part = mul_terms(part, {(atom,): 1, (): least} if least else {(atom,): 1})
        t = add_terms(t, part)
    return all(k >= 0 for k in t.values())


def _least(atom: Expr) -> int | None:
    if atom.op == "sym":
        return atom.value[1]
    low = lower(atom)
    if low is not None and low is not atom and low.is_const:
        return low.value
    if low is not None and low is not atom and _minimum_of_symbols(low):
        return 0
    if atom.op in ("min", "max"):
        bounds = [_least_value(a) for a in atom.args]
        if atom.op == "max" or None not in bounds:
            return max((b for b in bounds if b is not None), default=None) if atom.op == "max" else min(bounds)
    if atom.op == "floordiv" and prove_nonnegative(atom.args[0]) and is_divisor(atom.args[1], atom.args[0]):
        return 0
    return None


def _least_value(e: Expr) -> int | None:
    """A constant that a size expression certainly reaches: the constant itself, the least value of an atom, or 0 where that is certain."""
    if e.is_const:
        return e.value
    least = _least(e) if e.op != "poly" else None
    return least if least is not None else 0 if prove_nonnegative(e) else None


MOST_CHOICES = 8  # minima, maxima and choices in an expression whose cases are gone through


@lru_cache(maxsize=REMEMBERED)
def prove_nonnegative(e: Expr) -> bool:
    """Whether e >= 0 is certain."""
    if e.is_const:
        return e.value >= 0
    low = lower(e)
    if low is not None and _minimum_of_symbols(low):
        return True
    return _by_cases(e)


def _by_cases(e: Expr) -> bool:
    """Whether e >= 0 follows from putting the operands of a min, max or where in its place.

    +max(a, b), -min(a, b): enough if it holds for one operand;   -max(a, b), +min(a, b), where(c, a, b): it must hold for both.
    Cases double with each of them: more than MOST_CHOICES are left unproved.
    """
    if sum(n.op in ("min", "max", "where") for n in ex.walk(e)) > MOST_CHOICES:
        return False
    for mono, k in terms(e).items():
        for pos, atom in enumerate(mono):
            if atom.op not in ("min", "max", "where") or (atom.op == "where" and atom.axes):
                continue
            others = mono[:pos] + mono[pos + 1:]
            if not all(prove_nonnegative(o) for o in others):
                continue
            rest = {m: c for m, c in terms(e).items() if m != mono}
            cases = (from_terms(add_terms(rest, mul_terms({others: k}, terms(a)))) for a in atom.args[-2:])
            enough = any if atom.op == ("max" if k > 0 else "min") else all
            return enough(prove_nonnegative(c) for c in cases)
    return False


def prove_positive(e: Expr) -> bool:
    return prove_nonnegative(e - 1)


def prove_le(a: Expr, b: Expr) -> bool:
    return prove_nonnegative(b - a)


def prove_lt(a: Expr, b: Expr) -> bool:
    return _within(a, b) or prove_nonnegative(b - a - 1)


def _within(a: Expr, b: Expr) -> bool:
    """i < n, and i // d < n   for an axis i of extent n, of extent n * d: whatever is known of n, the axis has no other values."""
    if a.op == "axis":
        return a.extent is b
    return a.op == "floordiv" and a.args[0].op == "axis" and a.args[0].extent is b * a.args[1] and prove_positive(a.args[1])


# ------------------------------------------------------------------------------------------------------------- affine forms
def coefficient(e: Expr, axis: Expr) -> tuple[Expr, Expr] | None:
    """(c, rest) with e = c * axis + rest, neither containing the axis; None where e is not affine in it."""
    if axis not in e.axes:
        return const(0), e
    if e is axis:
        return const(1), const(0)
    if e.op != "poly":
        return None
    factor: Terms = {}
    rest: Terms = {}
    for mono, k in e.value:
        count = mono.count(axis)
        others = tuple(a for a in mono if a is not axis)
        if any(axis in a.axes for a in others) or count > 1:
            return None
        if count:
            factor[others] = factor.get(others, 0) + k
        else:
            rest[mono] = k
    return from_terms(factor), from_terms(rest)


def affine(e: Expr, axes: tuple[Expr, ...]) -> tuple[tuple[Expr, ...], Expr] | None:
    """(coefficients, offset) with e = sum(c_k * axis_k) + offset, all free of `axes`; None where e is not affine in them."""
    out = []
    for a in axes:
        split = coefficient(e, a)
        if split is None or any(x in split[0].axes for x in axes):
            return None
        out.append(split[0])
        e = split[1]
    return tuple(out), e


def certain_factor(e: Expr) -> int:
    """The largest number that divides an expression for certain: the common factor of its terms."""
    return math.gcd(*terms(e).values())


def as_int(e: Expr) -> int | None:
    """The value of a constant size, else None."""
    return e.value if e.is_const else None
