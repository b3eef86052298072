"""com.microsoft: recurrent layers on quantised weights. Inputs and states are quantised by their own range, so that products are of whole numbers."""
from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..loops import Routine
from .base import Lowering, Sample, register
from .quantisation import requantize, saturate
from .recurrent import INITIAL_C, INITIAL_H, KEEP, LENGTHS, LSTM, LSTM_ROUTINE, REVERSE, Layer, add_products, lstm_cell, whole_panels

DOMAIN = "com.microsoft"
F32 = dt.float32
MOST = 255  # the largest code of a state


def half_even(x):
    """The whole number nearest to x, the even one of two."""
    low = math.floor(x)
    rest = x - low
    return low + 1 if rest > 0.5 or (rest == 0.5 and low % 2 == 1) else low


def code_states(h, codes, real, lengths, d, step, batch, size, h_direction, h_row):
    """The states of all rows as codes less their zero point, [direction, row, size]; what one of them is worth goes to real[2 * d].

    Rows whose steps were over before the last one have no part in the range.
    """
    least, most = 0.0, 0.0
    for b in range(batch):
        if not LENGTHS or step <= lengths[b]:
            at = d * h_direction + b * h_row
            for j in range(size):
                least = min(least, h[at + j])
                most = max(most, h[at + j])
    real[2 * d] = most - least
    real[2 * d] = real[2 * d] / MOST if most > least else 1.0
    real[2 * d + 1] = -least
    zero = half_even(real[2 * d + 1] / real[2 * d])
    for b in range(batch):
        at = d * h_direction + b * h_row
        for j in range(size):
            codes[(d * batch + b) * size + j] = min(max(half_even(h[at + j] / real[2 * d]), -zero), MOST - zero)


def coded_lstm(x, r, scales, h_first, c_first, lengths, peep, y, h, c, work, codes, real, steps, batch, size, y_step, y_direction, y_row, h_direction, h_row, block, blocks,
               lo, hi):
    """`lstm` with states in codes: r holds whole numbers in panels, scales what one of each column is worth. A unit is a direction."""
    width = 4 * size
    room = whole_panels(width)
    for d in range(lo, hi):
        for b in range(batch):
            at = d * h_direction + b * h_row
            for j in range(size):
                h[at + j] = h_first[at + j] if INITIAL_H else 0
                c[at + j] = c_first[at + j] if INITIAL_C else 0
        for step in range(steps):
            code_states(h, codes, real, lengths, d, step, batch, size, h_direction, h_row)
            for k in range(d * batch * room, (d + 1) * batch * room):
                work[k] = 0
            add_products(work, d * batch * room, room, codes, d * batch * size, size, batch, r, d * room * size, size, width, step)
            for b in range(batch):
                count = lengths[b] if LENGTHS else steps
                at = d * h_direction + b * h_row
                w = (d * batch + b) * room
                if step < count:
                    t = count - 1 - step if REVERSE or d > 0 else step
                    source = ((d * steps + t) * batch + b) * width
                    for j in range(width):
                        work[w + j] = x[source + j] + work[w + j] * (real[2 * d] * scales[d * width + j])
                    lstm_cell(d, work, w, h, c, at, peep, size)
                    if KEEP:
                        to = t * y_step + d * y_direction + b * y_row
                        for j in range(size):
                            y[to + j] = h[at + j]
                elif KEEP:
                    for j in range(size):
                        y[step * y_step + d * y_direction + b * y_row + j] = 0
        for b in range(batch):
            if LENGTHS and lengths[b] == 0:
                at = d * h_direction + b * h_row
                for j in range(size):
                    h[at + j] = 0
                    c[at + j] = 0


# ---------------------------------------------------------------------------------------------------------------- operators
def of_column(t: Tensor, d: Expr, j: Expr) -> Expr:
    """A parameter of direction `d`, or of its column `j`."""
    return t[d, j] if t.rank == 2 else t[d]


@register
class DynamicQuantizeLSTM(LSTM):
    """LSTM on 8-bit weights [direction, row, 4 * hidden]; X is quantised whole, the states of all rows at every step. Source: com.microsoft DynamicQuantizeLSTM-1."""

    domain, name, versions = DOMAIN, "DynamicQuantizeLSTM", (1,)
    routine = Routine("coded_lstm", coded_lstm, (*LSTM_ROUTINE.helpers, half_even, code_states))
    whole_batch = True

    def hidden(self, n: Lowering) -> Expr:
        return n.input(2).shape[1]

    def weight(self, n: Lowering, index: int, d: Expr, k: Expr, j: Expr, kind: dt.DType) -> Expr:
        """A code of W or R less its zero point."""
        return ex.cast(ex.cast(n.input(index)[d, k, j], dt.int32) - ex.cast(of_column(n.input(7 + 2 * index), d, j), dt.int32), kind)

    def recurrent_weight(self, n: Lowering, d: Expr, j: Expr, k: Expr) -> Expr:
        return self.weight(n, 2, d, k, j, F32)

    def check(self, n: Lowering, layer: Layer) -> None:
        """Demand shapes that fit together.

        Raises:
            ModelError: they certainly do not.
        """
        for index, rows in ((1, layer.features), (2, layer.hidden)):
            w = n.input(index)
            wanted = (ex.const(layer.directions), rows, layer.hidden * 4)
            fits = ex.const(True, dt.boolean)
            for have, want in zip(w.shape, wanted):
                fits = ex.logical_and(fits, ex.equal(have, want))
            n.require(fits, f"{'WR'[index - 1]} of shape [{', '.join(d.text for d in w.shape)}] was given, [{', '.join(d.text for d in wanted)}] was expected")
            for k in (6 + 2 * index, 7 + 2 * index):
                if n.input(k).rank not in (1, 2):
                    raise n.error(f"a scale or zero point of rank {n.input(k).rank} was given, 1 or 2 was expected")

    def coded_input(self, n: Lowering, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """X in codes, with their scale and zero point: from the range of the steps that any row has."""
        x, lengths = n.input(0), n.optional(4)
        longest = n.map((), lambda: layer.steps if lengths is None else ex.cast(n.reduce("max", lengths.shape, lambda b: lengths[b]), dt.int64), dt.int64)

        def extreme(kind: str) -> Tensor:
            def inside(*i: Expr) -> Expr:
                return ex.where(i[0] < longest[()], x[i], ex.const(0.0, F32))
            bound = ex.maximum if kind == "max" else ex.minimum
            return n.map((), lambda: bound(n.reduce(kind, x.shape, inside), 0.0), F32)
        low, high = extreme("min"), extreme("max")
        span = (high[()] - low[()]) / 255.0
        scale = n.map((), lambda: ex.where(ex.equal(span, 0.0), 1.0, span), F32)
        zero = n.map((), lambda: saturate(ex.unary("round", -low[()] / scale[()]), dt.uint8), dt.uint8)
        return n.map(x.shape, lambda *i: requantize(x[i] / scale[()], zero[()], dt.uint8), dt.uint8), scale, zero

    def input_product(self, n: Lowering, layer: Layer) -> Tensor:
        self.check(n, layer)
        codes, scale, zero = self.coded_input(n, layer)
        w_scale, bias, columns = n.input(8), n.optional(3), layer.hidden * 4

        def epilogue(acc: Expr, b: tuple[Expr, ...], _: tuple[Expr, ...], j: tuple[Expr, ...]) -> Expr:
            real = ex.cast(acc, F32) * (scale[()] * of_column(w_scale, b[0], j[0]))
            return real if bias is None else real + (bias[b[0], j[0]] + bias[b[0], columns + j[0]])
        return n.contract((layer.directions,), (layer.steps, layer.batch), (columns,), (layer.features,),
                          lambda b, r, k: ex.cast(codes[r[0], r[1], k[0]], dt.int32) - ex.cast(zero[()], dt.int32),
                          lambda b, j, k: self.weight(n, 1, b[0], k[0], j[0], dt.int32),
                          (layer.directions, layer.steps, layer.batch, columns), lambda b, r, j: (b[0], *r, *j), dtype=F32, accumulate=dt.int32, epilogue=epilogue)

    def lower(self, n: Lowering) -> list[Tensor | None]:
        layer = self.layer(n)
        product = self.input_product(n, layer)
        scales = n.map((layer.directions, layer.hidden * 4), lambda d, j: of_column(n.input(10), d, j), F32)
        inputs = [product, self.panels(n, layer, 0, 4), scales, self.wide(n, 5, layer, product), self.wide(n, 6, layer, product), self.lengths(n), self.wide(n, 7, layer, product)]
        flags = {"INITIAL_C": n.has(6), "PEEPHOLES": n.has(7), "INPUT_FORGET": bool(n.attr("input_forget", 0))}
        work = [self.room(layer, 4), (layer.directions, layer.batch, layer.hidden), (layer.directions, 2)]
        return self.run(n, layer, inputs, 2, work, flags)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((4, 5, 3)).astype(np.float32)
        w, r = (rng.integers(-60, 60, (2, k, 24)).astype(np.int8) for k in (3, 6))
        scale, zero = rng.uniform(0.01, 0.02, 2).astype(np.float32), np.zeros(2, np.int8)
        yield Sample((x, w, r, None, np.array([4, 2, 3, 1, 4], np.int32), None, None, None, scale, zero, scale, zero), {"hidden_size": 6, "direction": "bidirectional"}, outputs=3)
        columns, zeros = rng.uniform(0.01, 0.02, (1, 24)).astype(np.float32), np.full((1, 24), 120, np.uint8)
        coded = [rng.integers(60, 190, (1, k, 24)).astype(np.uint8) for k in (3, 6)]
        yield Sample((x, *coded, rng.standard_normal((1, 48)).astype(np.float32), None, None, None, None, columns, zeros, columns, zeros), {"hidden_size": 6}, outputs=3)
