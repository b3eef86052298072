"""Integer expressions: whatever simplification does, the value stays; bounds and proofs hold for every point."""
from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import integer
from sardonyx.ir.arrays import evaluate

N, M, Z = ex.sym("N"), ex.sym("M", 2), ex.sym("Z")
I, J, K = ex.axis(N), ex.axis(6), ex.axis(M)
POINTS = [{N: n, M: m, Z: z, I: i, J: j, K: k} for n, m, z in ((1, 2, 0), (1, 2, 1), (3, 4, 5), (5, 3, 0)) for i, j, k in itertools.product(range(n), range(6), range(m))]
BINDINGS = {leaf: np.array([p[leaf] for p in POINTS]) for leaf in (N, M, Z, I, J, K)}


class Both:
    """A value computed twice: as an expression, simplified on the way, and plainly in Python for every point; None where it is divided by an empty size."""

    def __init__(self, expr, values):
        self.expr, self.values = expr, values


def plain(op, a, b, size):
    if a is None or b is None or (size and b == 0 and op in ("floordiv", "mod", "div", "rem")):
        return None
    if op in ("floordiv", "mod", "div", "rem") and b == 0:
        return 0
    if op == "div":
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    if op == "rem":
        return abs(a) % abs(b) * (1 if a >= 0 else -1)
    return {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "floordiv": lambda: a // b, "mod": lambda: a % b,
            "min": lambda: min(a, b), "max": lambda: max(a, b)}[op]()


def leaf(e):
    return Both(e, [p[e] for p in POINTS])


leaves = st.one_of(st.sampled_from([I, J, K, N, M, Z]).map(leaf), st.integers(-7, 70).map(lambda c: Both(ex.const(c), [c] * len(POINTS))))


def combine(children):
    plain_ops = st.sampled_from(["add", "sub", "mul", "min", "max"])
    divisions = st.sampled_from(["floordiv", "mod", "div", "rem"])
    divisors = st.one_of(st.integers(1, 12).map(lambda c: Both(ex.const(c), [c] * len(POINTS))), st.sampled_from([N, M]).map(leaf),
                         st.sampled_from([N * 6, M * 3, N * M]).map(lambda e: Both(e, evaluate(e, BINDINGS).tolist())), children)

    def make(op, a, b):
        return Both(ex.binary(op, a.expr, b.expr), [plain(op, x, y, integer.is_divisor(b.expr, a.expr)) for x, y in zip(a.values, b.values, strict=True)])

    def choose(op, a, b, c, d):
        condition = ex.binary(op, a.expr, b.expr)
        compare = {"lt": lambda x, y: x < y, "le": lambda x, y: x <= y, "eq": lambda x, y: x == y, "ne": lambda x, y: x != y}[op]
        taken = [None if x is None or y is None else compare(x, y) for x, y in zip(a.values, b.values, strict=True)]
        return Both(ex.where(condition, c.expr, d.expr), [None if t is None else x if t else y for t, x, y in zip(taken, c.values, d.values, strict=True)])
    comparisons = st.sampled_from(["lt", "le", "eq", "ne"])
    return st.one_of(st.builds(make, plain_ops, children, children), st.builds(make, plain_ops, children, children),
                     st.builds(make, divisions, children, divisors), st.builds(choose, comparisons, children, children, children, children))


expressions = st.recursive(leaves, combine, max_leaves=10).filter(lambda b: all(v is None or abs(v) < 1 << 60 for v in b.values))


def known(*columns):
    """The rows of columns that have a value everywhere."""
    return [row for row in zip(*columns, strict=True) if None not in row]


def values_of(e):
    return np.broadcast_to(evaluate(e, BINDINGS), (len(POINTS),)).tolist()


@settings(max_examples=150, deadline=None)
@given(expressions)
def test_simplified_expressions_keep_their_value(both):
    assert all(x == y for x, y in known(values_of(both.expr), both.values)), both.expr.text


def test_a_choice_by_a_size_knows_the_size():
    """where(n == c, a, b): `a` is taken for n = c alone, and a choice without a difference is none. So sizes that are broadcast against each other stay plain."""
    n = ex.sym("n")
    assert ex.where(ex.equal(n, 1), ex.minimum(n, 512), n) is n
    assert ex.where(ex.equal(3, n), n * 2, n + 3) is n + 3
    assert ex.where(ex.equal(n, 4), n * I, 0) is ex.where(ex.equal(n, 4), 4 * I, 0)
    assert ex.where(ex.equal(n, 1), ex.minimum(n, 0), n) is not n


@settings(max_examples=150, deadline=None)
@given(expressions)
def test_bounds_hold(both):
    for bound, holds in ((integer.lower(both.expr), lambda b, v: b <= v), (integer.upper(both.expr), lambda b, v: v <= b)):
        if bound is not None:
            assert all(holds(b, v) for b, v in known(values_of(bound), both.values)), (both.expr.text, bound.text)


@settings(max_examples=150, deadline=None)
@given(expressions, expressions)
def test_proofs_hold(a, b):
    if integer.prove_nonnegative(a.expr):
        assert all(x >= 0 for x, in known(a.values)), a.expr.text
    if integer.prove_lt(a.expr, b.expr):
        assert all(x < y for x, y in known(a.values, b.values)), (a.expr.text, b.expr.text)
    for op, same in (("lt", lambda x, y: x < y), ("le", lambda x, y: x <= y), ("eq", lambda x, y: x == y), ("ne", lambda x, y: x != y)):
        found = ex.binary(op, a.expr, b.expr)
        if found.is_const:
            assert all(same(x, y) == found.value for x, y in known(a.values, b.values)), (op, a.expr.text, b.expr.text)


@settings(max_examples=150, deadline=None)
@given(expressions)
def test_substitution_keeps_the_value(both):
    point = POINTS[-1]
    found = ex.substitute_one(both.expr, {leaf: ex.const(v) for leaf, v in point.items()})
    assert both.values[-1] is None or (found.is_const and found.value == both.values[-1]), both.expr.text


@settings(max_examples=150, deadline=None)
@given(expressions)
def test_affine_forms_add_up(both):
    form = integer.affine(both.expr, (I, J, K))
    if form is not None:
        assert not any(f.axes for f in form[0])
        again = ex.total([*(f * a for f, a in zip(form[0], (I, J, K), strict=True)), form[1]])
        assert all(x == y for x, y in known(values_of(again), both.values))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=4), st.lists(st.sampled_from([N, M]), max_size=2))
def test_unravelling_a_linear_index_gives_it_back(constants, symbols):
    shape = [ex.const(c) for c in constants] + symbols
    index = tuple(ex.axis(n) for n in shape)
    assert ex.unravel(ex.linear_index(index, shape), shape) == index


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_linearising_an_unravelled_position_joins_it(constants):
    position = ex.axis(int(np.prod(constants)))
    assert ex.linear_index(ex.unravel(position, constants), constants) is position


def test_divisors_are_positive_and_other_sizes_may_be_zero():
    p = ex.sym("P")
    j = ex.axis(3 * p * 4)
    assert ex.linear_index(ex.unravel(j, [ex.const(3), p, ex.const(4)]), [ex.const(3), p, ex.const(4)]) is j
    assert integer.is_divisor(p, I) and integer.is_divisor(p + N, I) and not integer.is_divisor(p - 1, I)
    assert p * 12 // p is ex.const(12) and (J * p * 2 + 1) // (p * 2) is J and ex.binary("div", p - 1, 2).op == "div"
    assert (p > 0).op == "lt" and ex.maximum(p, 1).op == "max" and (p >= 0).value is True


def test_whether_a_size_is_zero_is_asked_once():
    p, q = ex.sym("P"), ex.sym("Q")
    first = ex.minimum(p, 1)
    assert ex.minimum(p + first, 1) is first and ex.minimum(2 * p + p * q, 1) is first and ex.minimum(p * first * q, 1) is ex.minimum(p * q, 1)
    assert ex.minimum(p + q, 1) is not first and ex.minimum(p - q, 1).args[0] is p - q and ex.minimum(2 * p, 3).args[0] is 2 * p


def test_equal_expressions_are_the_same_object():
    assert I * 6 + J is J + 6 * I
    assert (I + J) * (I - J) is I * I - J * J
    assert I * N // N is I and (I * N) % N is ex.const(0)
    assert (I * 6 + J) // 6 is I and (I * 6 + J) % 6 is J
    assert (J // 3) * 3 + J % 3 is J
    assert N - N is ex.const(0)


def test_quotients_by_a_shared_factor():
    """What reshapes of reshapes ask: the rest below the factor falls away from the quotient."""
    i, j = ex.axis(64), ex.axis(16)
    assert (16 * i + j) // 64 is i // 4 and (16 * i + j) % 64 is 16 * (i % 4) + j
    assert (16 * (i // 4) + j) // 32 is i // 8
    n, k = ex.sym("K"), ex.axis(ex.sym("K"))
    assert (n * i + k) // (4 * n) is i // 4 and (n * i + k) % (4 * n) is n * (i % 4) + k
    wide = ex.axis(17)
    assert ((16 * i + wide) // 64).args[0] is 16 * i + wide and ((12 * i + j) // 64).args[0] is 12 * i + j  # rests that may reach the factor


def test_quotients_and_remainders_keep_their_values():
    """Every combination of few factors, at every point of two loops."""
    i, j, n = ex.axis(6), ex.axis(5), ex.sym("n", 1)
    forms = [a * i + b * j + c for a in (-8, 1, 4, 6, 12) for b in (-3, 1, 3, 4) for c in (-5, 0, 2)] + [n * 4 * i + j, n * i + 3 * j, n * 8 * i + 4 * j + 1, n * 4 * (i // 2) + j % 4]
    for form, d in itertools.product(forms, [ex.const(k) for k in (2, 3, 8, 12, 24)] + [n, 4 * n, 16 * n]):
        results = [form, d, form // d, form % d]
        for at in itertools.product(range(6), range(5), (1, 2, 5)):
            whole, divisor, quotient, rest = (e.value for e in ex.substitute(results, dict(zip((i, j, n), map(ex.const, at), strict=True))))
            assert (quotient, rest) == divmod(whole, divisor), (form, d, at)


def test_proofs_know_loops_and_sizes():
    assert integer.prove_lt(I, N) and integer.prove_nonnegative(K) and not integer.prove_positive(N) and integer.prove_le(ex.const(2), M)
    assert integer.prove_lt(I * 6 + J, N * 6)
    assert not integer.prove_lt(I, M) and not integer.prove_positive(I)


def test_axes_stay_within_extents_that_only_the_run_knows():
    count = ex.Tensor("count", dt.int64, (ex.const(1),))[(ex.const(0),)]
    rows, joined = ex.axis(count * 6), ex.axis(3 * count * N)
    assert integer.prove_lt(ex.axis(count), count) and integer.prove_lt(rows // 6, count)
    assert not integer.prove_lt(rows // 5, count) and not integer.prove_lt(rows, count)
    assert ex.linear_index(ex.unravel(joined, [ex.const(3), count, N]), [ex.const(3), count, N]) is joined
    more = ex.axis((count + 3) * M)
    assert ex.linear_index(ex.unravel(more, [count + 3, M]), [count + 3, M]) is more and integer.is_divisor(count + 3, more)
    assert integer.is_divisor(count * N, joined) and not integer.is_divisor(count, I) and not integer.is_divisor(count, ex.axis(count + N))


def test_proofs_over_many_choices_end():
    largest = [ex.maximum(ex.sym(f"A{k}"), ex.sym(f"B{k}")) for k in range(40)]
    assert not integer.prove_nonnegative(ex.total(largest) - 1000)
    assert integer.prove_nonnegative(largest[0] - ex.sym("B0")) and integer.prove_nonnegative(ex.total(largest))


def test_constants_wrap_and_round():
    assert ex.const(300, dt.uint8).value == 44 and ex.const(200, dt.int8).value == -56 and ex.const(9, dt.int4).value == -7
    assert ex.const(0.1, dt.float16).value == float(np.float16(0.1))
    assert (ex.const(7, dt.int32) / ex.const(-2, dt.int32)).value == -3
    assert ex.binary("rem", ex.const(-7), ex.const(2)).value == -1 and (ex.const(-7) % 2).value == 1
    assert (ex.const(5) // 0).value == 0
    assert ex.const(0.0, dt.float32) is not ex.const(-0.0, dt.float32)


def test_float_rules_keep_signed_zeros_and_nan():
    x = ex.load(ex.Tensor("x", dt.float32, (ex.const(1),)), (0,))
    assert x * 1.0 is x and x / 1.0 is x and x - 0.0 is x
    assert x + 0.0 is not x and x * 0.0 is not ex.const(0.0, dt.float32)


def test_fresh_reductions_rename_their_axes():
    x = ex.Tensor("x", dt.float32, (ex.const(4),))
    r = ex.axis(4, "r")
    e = ex.reduce("sum", (r,), x[r])
    other = ex.fresh_reductions(e)
    assert other is not e and ex.reduce_axes(other)[0] is not r and not other.axes
    arrays = {x: np.arange(4, dtype=np.float32)}
    assert evaluate(other, arrays=arrays) == evaluate(e, arrays=arrays) == 6


def test_the_error_function_is_exact_enough():
    import math
    x = np.concatenate([np.linspace(-7, 7, 40001), [np.nan, np.inf, -np.inf, 1e-300, -0.0]])
    found = ex.evaluate_op("erf", [x])
    expected = np.array([math.erf(v) for v in x])
    np.testing.assert_allclose(found, expected, rtol=4e-15, atol=0)
    assert np.isnan(found[-5]) and found.dtype == np.float64
