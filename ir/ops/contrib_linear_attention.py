"""com.microsoft: linear attention, a recurrence over a matrix of each head, with decay and the delta rule."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..loops import Routine, load, store
from .base import REQUIRED, Lowering, Op, Sample, register
from .functions import exp_f32

DOMAIN = "com.microsoft"
F32 = dt.float32
EPSILON = 1e-6  # added to squared lengths
RULES = ("linear", "gated", "delta", "gated_delta")
DECAYS, DELTA, INITIAL, WINDOW, CAPTURE = False, False, False, 0, 0  # what a call's constants stand for


def recur(q, k, v, decay, beta, first, starts, scale, y, state, update, heads, key_heads, query_heads, width, values, rows, across, along, spread, lo, hi):
    """One (row, value head) a unit: S = exp(g) S + k (beta (v - exp(g) S' k))', y = scale S' q, token by token.

    q, k: [token, head, width]; v, y: [token, head, values]; decay: [token, head, spread], spread being 1 or width; beta: [token, head]; starts: the first token of
    each row, and the number of tokens; state: [row, head] matrices of width times values, `across` and `along` apart, of which WINDOW - 1 earlier ones come first;
    update: what is added for each of a row's first CAPTURE tokens, [row, CAPTURE, head, values].
    """
    area = width * values
    for unit in range(lo, hi):
        row = unit // heads
        h = unit % heads
        base = unit * area
        if WINDOW > 0:
            base += (WINDOW - 1) * rows * heads * area
        for i in range(area):
            store(state, base + i, load(first, base + i) if INITIAL else 0.0)
        begin = load(starts, row)
        end = load(starts, row + 1)
        per = max(query_heads // heads, 1)
        for t in range(begin, end):
            key = (t * key_heads + h * key_heads // heads) * width
            value = (t * heads + h) * values
            if DECAYS:
                for i in range(width):
                    factor = exp_f32(load(decay, (t * heads + h) * spread + (i if spread > 1 else 0)))
                    for j in range(values):
                        place = base + i * across + j * along
                        store(state, place, load(state, place) * factor)
            for j in range(values):
                found = load(v, value + j)
                if DELTA:
                    seen = found * 0
                    for i in range(width):
                        seen += load(state, base + i * across + j * along) * load(k, key + i)
                    found = (found - seen) * load(beta, t * heads + h)
                if CAPTURE > 0:
                    if t - begin < CAPTURE:
                        store(update, ((row * CAPTURE + t - begin) * heads + h) * values + j, found)
                for i in range(width):
                    place = base + i * across + j * along
                    store(state, place, load(state, place) + load(k, key + i) * found)
            for g in range(per):
                head = h * per + g if query_heads >= heads else h * query_heads // heads
                for j in range(values):
                    total = load(v, value + j) * 0
                    for i in range(width):
                        total += load(state, base + i * across + j * along) * load(q, (t * query_heads + head) * width + i)
                    store(y, ((t * heads + h) * per + g) * values + j, total * load(scale, 0))
            if WINDOW > 1:
                slot = WINDOW - end + t
                if slot >= 0 and slot < WINDOW - 1:
                    for i in range(area):
                        store(state, (slot * rows * heads + unit) * area + i, load(state, base + i))
        if WINDOW > 1:
            for slot in range(min(WINDOW - (end - begin), WINDOW - 1)):
                for i in range(area):
                    store(state, (slot * rows * heads + unit) * area + i, 0.0)


RECUR = Routine("linear_attention", recur)


def as_single(n: Lowering, t: Tensor) -> Tensor:
    """The tensor in float32."""
    return t if t.dtype is F32 else n.map(t.shape, lambda *i: ex.cast(t[i], F32))


def as_type(n: Lowering, t: Tensor, dtype: dt.DType) -> Tensor:
    return t if t.dtype is dtype else n.map(t.shape, lambda *i: t[i], dtype)


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), without overflow."""
    return ex.maximum(x, 0.0) + ex.unary("log", 1.0 + ex.unary("exp", -ex.unary("abs", x)))


def scale_table(n: Lowering, width: Expr) -> Tensor:
    """The factor of results, a tensor of one element: the attribute scale, or 1 / sqrt(width) where it is absent or 0."""
    given = float(n.attr("scale") or 0.0)
    return n.map((1,), lambda _: ex.const(given, F32) if given else 1.0 / ex.unary("sqrt", ex.cast(width, F32)))


def rule_of(n: Lowering) -> tuple[bool, bool]:
    """(decays, takes back what is there)"""
    rule = str(n.attr("update_rule"))
    if rule not in RULES:
        raise n.error(f"update_rule '{rule}' is unknown, {', '.join(RULES)} are known")
    return "gated" in rule, "delta" in rule


@register
class LinearAttention(Op):
    """Linear attention over rows of equal length, and the state behind it. Source: com.microsoft LinearAttention-1; Yang et al. 2024 (gated delta networks).

    query [B, T, heads * d_k], key and value likewise by kv_num_heads; state [B, kv heads, d_k, d_v].
    """

    domain, name, versions = DOMAIN, "LinearAttention", (1,)
    attributes = {"q_num_heads": REQUIRED, "kv_num_heads": REQUIRED, "scale": 0.0, "update_rule": "gated_delta", "state_window": 0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        q, k, v, past, decay, beta = n.input(0), n.input(1), n.input(2), n.optional(3), n.optional(4), n.optional(5)
        query_heads, heads, window = (int(n.attr(a)) for a in ("q_num_heads", "kv_num_heads", "state_window"))
        decays, delta = rule_of(n)
        if q.rank != 3 or k.rank != 3 or v.rank != 3:
            raise n.error(f"inputs of ranks {q.rank}, {k.rank}, {v.rank} were given, [batch, length, heads * width] was expected for each")
        if (decays and decay is None) or (delta and beta is None):
            raise n.error(f"update_rule '{n.attr('update_rule')}' needs {'decay' if decays and decay is None else 'beta'}, which is missing")
        if query_heads % heads and heads % query_heads:
            raise n.error(f"{query_heads} query heads and {heads} key heads were given, a multiple was expected")
        batch, length = q.shape[:2]
        width, values = q.shape[2] // query_heads, v.shape[2] // heads
        key_heads = k.shape[2] // width
        starts = n.map((batch + 1,), lambda b: b * length)
        rates = None if beta is None else n.map((batch, length, heads), lambda b, t, h: ex.cast(beta[b, t, ex.where(ex.equal(beta.shape[2], 1), 0, h)], F32))
        inputs = [as_single(n, t) for t in (q, k, v)]
        inputs += [inputs[0] if t is None else as_single(n, t) for t in (decay if decays else None, rates if delta else None, past)]
        out = max(query_heads, heads)
        held = (*((window,) if window else ()), batch, heads, width, values)
        spread = ex.const(1) if decay is None else decay.shape[2] // heads
        y, state, _ = n.routine(RECUR, [*inputs, starts, scale_table(n, width)], [(F32, (batch, length, out * values)), (F32, held), (F32, (1,))],
                                [heads, key_heads, query_heads, width, values, batch, values, 1, spread], units=batch * heads,
                                constants={"DECAYS": decays, "DELTA": delta, "INITIAL": past is not None, "WINDOW": window, "CAPTURE": 0})
        kept = q.dtype if past is None else past.dtype
        return [as_type(n, y, q.dtype), as_type(n, state, kept)]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return (rng.standard_normal(s) * 0.5).astype(np.float32)
        yield Sample((f(2, 3, 8), f(2, 3, 8), f(2, 3, 6), f(2, 2, 4, 3), -abs(f(2, 3, 2)), f(2, 3, 2)), {"q_num_heads": 2, "kv_num_heads": 2}, outputs=2)
        yield Sample((f(1, 4, 16), f(1, 4, 8), f(1, 4, 6), None, -abs(f(1, 4, 8))), {"q_num_heads": 4, "kv_num_heads": 2, "update_rule": "gated"}, outputs=2)


@register
class GatedDeltaNet(Op):
    """The same over packed rows, with gates made from their logits, keys of length 1 and the changes of the first tokens, if asked for. Source: com.microsoft GatedDeltaNet-1.

    query, key, value: [tokens, heads, width] (or [batch, length, heads, width], or all in one); state: [rows, heads, values, width].
    """

    domain, name, versions = DOMAIN, "GatedDeltaNet", (1,)
    attributes = {"scale": 0.0, "update_rule": "gated_delta", "gate_activation": "none", "beta_activation": "none", "gate_lower_bound": -5.0, "qk_l2_norm": 0,
                  "state_update_capacity": 0}
    tolerance = 1e-4

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        first = n.optional(6)
        decays, delta = rule_of(n)
        q, k, v, lead = self.operands(n, first)
        tokens, query_heads, width = q.shape
        heads, values = v.shape[1:]
        if not n.has(3) and first is None:
            raise n.error("initial_state is missing, which gives the number of rows where cu_seqlens is absent")
        rows = n.input(3).shape[0] - 1 if n.has(3) else first.shape[0]
        starts = n.map((rows + 1,), (lambda r: ex.cast(n.input(3)[r], dt.int64)) if n.has(3) else (lambda r: r * (tokens // rows)))
        gates, spread = self.decay(n, tokens, heads, width) if decays else (q, ex.const(1))
        rates = self.rates(n, tokens, heads) if delta else q
        capacity = int(n.attr("state_update_capacity"))
        kinds = [(F32, (tokens, heads, values)), (F32, (rows, heads, values, width)), (F32, (rows, max(capacity, 1), heads, values))]
        y, state, changes = n.routine(RECUR, [q, k, v, gates, rates, q if first is None else first, starts, scale_table(n, width)], kinds,
                                      [heads, k.shape[1], query_heads, width, values, rows, 1, width, spread], units=rows * heads,
                                      constants={"DECAYS": decays, "DELTA": delta, "INITIAL": first is not None, "WINDOW": 0, "CAPTURE": capacity})
        result = n.map((*lead, heads, values), lambda *i: y[i if len(lead) == 1 else (i[0] * lead[1] + i[1], *i[2:])], n.input(0).dtype)
        return [result, state if n.wants(1) else None, self.update(n, capacity, starts, k, gates if decays else None, spread, changes) if n.wants(2) else None]

    def operands(self, n: Lowering, first: Tensor | None) -> tuple[Tensor, Tensor, Tensor, tuple[Expr, ...]]:
        """Queries, keys (of length 1 if asked for) and values, [tokens, heads, width] in float32, and the leading sizes of the result."""
        x = n.input(0)
        if n.has(1):
            shapes = [n.input(j).shape[-2:] for j in range(3)]
            lead = x.shape[:-2]
            given = [n.input(j) for j in range(3)]
            if any(t.rank not in (3, 4) for t in given):
                raise n.error(f"operands of ranks {', '.join(str(t.rank) for t in given)} were given, [tokens, heads, width] was expected for each")

            def at(j: int, t: Expr, h: Expr, d: Expr) -> Expr:
                return given[j][t, h, d] if len(lead) == 1 else given[j][t // lead[1], t % lead[1], h, d]
        else:
            if first is None:
                raise n.error("initial_state is missing, which packed operands need")
            lead = x.shape[:-1]
            _, heads, values, width = first.shape
            count = (x.shape[-1] - heads * values) // (width * 2)
            shapes = [(count, width), (count, width), (heads, values)]

            def at(j: int, t: Expr, h: Expr, d: Expr) -> Expr:
                column = (count * width * j if j else 0) + h * shapes[j][1] + d
                return x[t, column] if len(lead) == 1 else x[t // lead[1], t % lead[1], column]
        tokens = ex.product(lead)

        def part(j: int) -> Tensor:
            plain = n.map((tokens, *shapes[j]), lambda t, h, d: ex.cast(at(j, t, h, d), F32))
            if j == 2 or not n.attr("qk_l2_norm"):
                return plain
            squares = n.map((tokens, shapes[j][0]), lambda t, h: n.reduce("sum", [shapes[j][1]], lambda d: plain[t, h, d] * plain[t, h, d]))
            return n.map((tokens, *shapes[j]), lambda t, h, d: plain[t, h, d] / ex.unary("sqrt", squares[t, h] + EPSILON))
        return part(0), part(1), part(2), lead

    def decay(self, n: Lowering, tokens: Expr, heads: Expr, width: Expr) -> tuple[Tensor, Expr]:
        """The logarithms of decays, [tokens, heads * spread], and whether there is one for a head (1) or for each of its features (width)."""
        given, name = n.input(4), str(n.attr("gate_activation"))
        wide = given.rank > (3 if n.input(0).rank == 4 or (n.input(0).rank == 3 and not n.has(1)) else 2)
        spread = width if wide else ex.const(1)
        if name not in ("none", "softplus", "qwen", "sigmoid", "kda"):
            raise n.error(f"gate_activation '{name}' is unknown")

        def flat(t: Tensor, place: Expr) -> Expr:
            return ex.cast(t[ex.unravel(place, t.shape)], F32)

        def value(t: Expr, h: Expr, i: Expr) -> Expr:
            x = flat(given, (t * heads + h) * spread + i)
            if name == "none":
                return x
            bias, strength = n.input(8), ex.unary("exp", n.input(7)[h])
            narrow = bias.rank == 1 and not wide
            x = x + (bias[h] if narrow else flat(bias, ex.where(ex.equal(bias.numel(), heads), h, h * spread + i)))
            if name in ("softplus", "qwen"):
                return -strength * softplus(x)
            return float(n.attr("gate_lower_bound")) * ex.unary("sigmoid", strength * x)
        return n.map((tokens, heads, spread), value), spread

    def rates(self, n: Lowering, tokens: Expr, heads: Expr) -> Tensor:
        given, name = n.input(5), str(n.attr("beta_activation"))
        if name not in ("none", "sigmoid"):
            raise n.error(f"beta_activation '{name}' is unknown, none or sigmoid was expected")

        def value(t: Expr, h: Expr) -> Expr:
            x = ex.cast(given[ex.unravel(t * heads + h, given.shape)], F32)
            return ex.unary("sigmoid", x) if name == "sigmoid" else x
        return n.map((tokens, heads), value)

    @staticmethod
    def update(n: Lowering, capacity: int, starts: Tensor, k: Tensor, gates: Tensor | None, spread: Expr, changes: Tensor) -> Tensor:
        """[rows, capacity decays, then keys, then changes]; zero where a row has fewer tokens."""
        rows, heads, values = changes.shape[0], changes.shape[2], changes.shape[3]
        sizes = [heads * spread, k.shape[1] * k.shape[2], heads * values]
        active = n.optional(10)

        def value(row: Expr, e: Expr) -> Expr:
            def step(start: Expr, size: Expr) -> tuple[Expr, Expr, Expr]:
                at = ex.maximum(e - start, 0)
                return at // size, at % size, ex.minimum(starts[row] + at // size, k.shape[0] - 1)
            t, r, token = step(ex.const(0), sizes[0])
            factor = ex.const(1.0, F32) if gates is None else ex.unary("exp", ex.load(gates, (token, r // spread, r % spread), 0))
            u, r2, token2 = step(sizes[0] * capacity, sizes[1])
            key = ex.load(k, (token2, r2 // k.shape[2], r2 % k.shape[2]), 0)
            w, r3, _ = step((sizes[0] + sizes[1]) * capacity, sizes[2])
            change = ex.load(changes, (row, w, r3 // values, r3 % values), 0)
            early = e < sizes[0] * capacity
            middle = e < (sizes[0] + sizes[1]) * capacity
            place = ex.where(early, t, ex.where(middle, u, w))
            count = ex.minimum(ex.cast(n.input(9)[row], dt.int64), starts[row + 1] - starts[row])
            held = place < count
            if active is not None:
                held = ex.logical_and(held, ex.not_equal(active[ex.const(0)], ex.const(0, active.dtype)))
            return ex.where(held, ex.where(early, factor, ex.where(middle, key, change)), 0.0)
        return n.map((rows, ex.total(sizes) * capacity), value)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)

        def f(*s: int) -> np.ndarray:
            return (rng.standard_normal(s) * 0.5).astype(np.float32)
        ends = np.array([0, 2, 7], np.int32)
        yield Sample((f(7, 2, 4), f(7, 2, 4), f(7, 4, 3), ends, -abs(f(7, 4)), f(7, 4), f(2, 4, 3, 4)), {"qk_l2_norm": 1}, outputs=2)
        yield Sample((f(7, 2, 4), f(7, 2, 4), f(7, 4, 3), ends, f(7, 4), f(7, 4), f(2, 4, 3, 4), f(4), f(4), np.array([2, 2], np.int32)),
                     {"gate_activation": "softplus", "beta_activation": "sigmoid", "state_update_capacity": 2}, outputs=3)
