"""com.microsoft: a recurrent layer that looks at a memory after every step. What it finds there is a further input of the next step."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, ExprLike, Tensor
from ..loops import Routine
from .base import Lowering, Sample, register
from .recurrent import INITIAL_C, INITIAL_H, KEEP, LENGTHS, LSTM, LSTM_ROUTINE, REVERSE, Layer, hyperbolic_tangent, lstm_cell

DOMAIN = "com.microsoft"
QUERY, MEMORY_KEYS, SCORES, MEMORY, MEMORY_LENGTHS, ATTENTION_LAYER = range(8, 14)  # inputs
# Constants of a call; a call gives its own values.
MEMORY_LIMITED, LAYERED = False, False


def add_row(total, at, state, first, weights, base, size, columns):
    """total[at + j] += sum over k < size of state[first + k] * weights[base + k * columns + j]."""
    for k in range(size):
        s = state[first + k]
        row = base + k * columns
        for j in range(columns):
            total[at + j] += s * weights[row + j]


def attend(shares, first, question, asked, keys, key, scores, score, count, depth):
    """shares[first:first + count] = softmax over memory steps of scores . tanh(key of the step + question)."""
    for t in range(count):
        shares[first + t] = 0
        for a in range(depth):
            shares[first + t] += scores[score + a] * hyperbolic_tangent(keys[key + t * depth + a] + question[asked + a])
    if count > 0:
        most = shares[first]
        for t in range(1, count):
            most = max(most, shares[first + t])
        whole = 0.0
        for t in range(count):
            shares[first + t] = math.exp(shares[first + t] - most)
            whole += shares[first + t]
        for t in range(count):
            shares[first + t] = shares[first + t] / whole


def attended_lstm(x, wa, r, h_first, c_first, lengths, peep, keys, memory, memory_lengths, query, scores, layer, y, h, c, work, found, context, question, shares,
                  steps, batch, size, y_step, y_direction, y_row, h_direction, h_row, attention, depth, memory_steps, memory_depth, lo, hi):
    """`lstm` with what was found in the memory as an input; wa and r lie [direction, k, 4 * size]. A unit is one row of one direction."""
    width = 4 * size
    for unit in range(lo, hi):
        d = unit // batch
        b = unit % batch
        at = d * h_direction + b * h_row
        w = unit * width
        for j in range(size):
            h[at + j] = h_first[at + j] if INITIAL_H else 0
            c[at + j] = c_first[at + j] if INITIAL_C else 0
        for j in range(attention):
            found[unit * attention + j] = 0
        known = min(memory_lengths[b], memory_steps) if MEMORY_LIMITED else memory_steps
        count = lengths[b] if LENGTHS else steps
        for step in range(count):
            t = count - 1 - step if REVERSE or d > 0 else step
            source = ((d * steps + t) * batch + b) * width
            for j in range(width):
                work[w + j] = x[source + j]
            add_row(work, w, found, unit * attention, wa, d * attention * width, attention, width)
            add_row(work, w, h, at, r, d * size * width, size, width)
            lstm_cell(d, work, w, h, c, at, peep, size)
            if KEEP:
                to = t * y_step + d * y_direction + b * y_row
                for j in range(size):
                    y[to + j] = h[at + j]
            for a in range(depth):
                question[unit * depth + a] = 0
            add_row(question, unit * depth, h, at, query, d * size * depth, size, depth)
            attend(shares, unit * memory_steps, question, unit * depth, keys, unit * memory_steps * depth, scores, d * depth, known, depth)
            for j in range(memory_depth):
                context[unit * memory_depth + j] = 0
            add_row(context, unit * memory_depth, shares, unit * memory_steps, memory, b * memory_steps * memory_depth, known, memory_depth)
            for j in range(attention):
                found[unit * attention + j] = 0 if LAYERED else context[unit * memory_depth + j]
            if LAYERED:
                base = d * (size + memory_depth) * attention
                add_row(found, unit * attention, h, at, layer, base, size, attention)
                add_row(found, unit * attention, context, unit * memory_depth, layer, base + size * attention, memory_depth, attention)
        if KEEP:
            for step in range(count, steps):
                for j in range(size):
                    y[step * y_step + d * y_direction + b * y_row + j] = 0


@register
class AttnLSTM(LSTM):
    """LSTM with additive attention over a memory, perhaps with a dense layer after it. Source: com.microsoft AttnLSTM-1; Bahdanau et al. 2014."""

    domain, name, versions = DOMAIN, "AttnLSTM", (1,)
    routine = Routine("attended_lstm", attended_lstm, (*LSTM_ROUTINE.helpers, add_row, attend))

    def check(self, n: Lowering, layer: Layer, attention: Expr) -> None:
        """Demand shapes that fit together.

        Raises:
            ModelError: they certainly do not, or an input is missing.
        """
        def demand(what: str, t: Tensor, wanted: Sequence[ExprLike]) -> None:
            dims = [ex.as_expr(d) for d in wanted]
            if t.rank != len(dims):
                raise n.error(f"{what} of rank {t.rank} was given, {len(dims)} was expected")
            fits = ex.const(True, dt.boolean)
            for have, want in zip(t.shape, dims):
                fits = ex.logical_and(fits, ex.equal(have, want))
            n.require(fits, f"{what} of shape [{', '.join(d.text for d in t.shape)}] was given, [{', '.join(d.text for d in dims)}] was expected")
        memory, depth = n.input(MEMORY), n.input(MEMORY_KEYS).shape[2]
        demand("W", n.input(1), (layer.directions, layer.hidden * 4, layer.features + attention))
        demand("R", n.input(2), (layer.directions, layer.hidden * 4, layer.hidden))
        demand("QW", n.input(QUERY), (layer.directions, layer.hidden, depth))
        demand("MW", n.input(MEMORY_KEYS), (layer.directions, memory.shape[2], depth))
        demand("V", n.input(SCORES), (layer.directions, depth))
        demand("M", memory, (layer.batch, *memory.shape[1:]))
        if n.has(ATTENTION_LAYER):
            demand("AW", n.input(ATTENTION_LAYER), (layer.directions, layer.hidden + memory.shape[2], attention))

    def lower(self, n: Lowering) -> list[Tensor | None]:
        for index, what in ((QUERY, "QW"), (MEMORY_KEYS, "MW"), (SCORES, "V"), (MEMORY, "M")):
            if not n.has(index):
                raise n.error(f"the input {what} is missing, which attention needs")
        for index in (MEMORY_KEYS, MEMORY, *([ATTENTION_LAYER] if n.has(ATTENTION_LAYER) else [])):
            if n.input(index).rank != 3:
                raise n.error(f"input {index} of rank {n.input(index).rank} was given, 3 was expected")
        layer, (batch, memory_steps, memory_depth), dense = self.layer(n), n.input(MEMORY).shape, n.optional(ATTENTION_LAYER)
        attention = memory_depth if dense is None else dense.shape[2]
        self.check(n, layer, attention)
        directions, hidden, kind, w, r = layer.directions, layer.hidden, layer.kind, n.input(1), n.input(2)
        product = self.input_product(n, layer)
        memory, query, scores = (self.wide(n, k, layer, product) for k in (MEMORY, QUERY, SCORES))
        depth = query.shape[2]
        keys = n.contract((directions,), (layer.batch, memory_steps), (depth,), (memory_depth,),
                          lambda d, i, k: memory[(*i, k[0])], lambda d, j, k: n.input(MEMORY_KEYS)[d[0], k[0], j[0]],
                          (directions, batch, memory_steps, depth), lambda d, i, j: (d[0], *i, j[0]), dtype=kind)
        of_found = n.map((directions, attention, hidden * 4), lambda d, k, j: w[d, j, layer.features + k], kind)
        of_state = n.map((directions, hidden, hidden * 4), lambda d, k, j: r[d, j, k], kind)
        inputs = [product, of_found, of_state, self.wide(n, 5, layer, product), self.wide(n, 6, layer, product), self.lengths(n), self.wide(n, 7, layer, product), keys, memory,
                  n.optional(MEMORY_LENGTHS) or self.lengths(n), query, scores, self.wide(n, ATTENTION_LAYER, layer, product)]
        work = [(directions, batch, k) for k in (hidden * 4, attention, memory_depth, depth, memory_steps)]
        outputs = [(kind, layer.sequence() if n.wants(0) else (1,)), (kind, layer.state()), (kind, layer.state()), *((kind, s) for s in work)]
        flags = {"INITIAL_C": n.has(6), "PEEPHOLES": n.has(7), "INPUT_FORGET": bool(n.attr("input_forget", 0)),
                 "MEMORY_LIMITED": n.has(MEMORY_LENGTHS), "LAYERED": dense is not None}
        made = n.routine(self.routine, inputs, outputs, [layer.steps, layer.batch, hidden, *layer.strides(), attention, depth, memory_steps, memory_depth],
                         units=layer.batch * directions, constants={**self.constants(n, layer), **flags})
        return [self.narrow(n, t, n.input(0).dtype) if n.wants(k) else None for k, t in enumerate(made[:3])]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return (rng.standard_normal(s) * 0.5).astype(np.float32)
        lengths = np.array([4, 2, 3], np.int32)
        yield Sample((f(4, 3, 2), f(1, 24, 7), f(1, 24, 6), None, None, None, None, None, f(1, 6, 4), f(1, 5, 4), f(1, 4), f(3, 7, 5)), {"hidden_size": 6}, outputs=3)
        yield Sample((f(4, 3, 2), f(2, 24, 5), f(2, 24, 6), f(2, 48), lengths, f(2, 3, 6), f(2, 3, 6), f(2, 18), f(2, 6, 4), f(2, 5, 4), f(2, 4), f(3, 7, 5), lengths, f(2, 11, 3)),
                     {"hidden_size": 6, "direction": "bidirectional"}, outputs=3)
