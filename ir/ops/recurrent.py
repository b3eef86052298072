"""Recurrent layers: the input product of all time steps as one contraction, then the recurrence as a routine.

A unit of the routines is one direction and a block of batch rows. The recurrent weights of gates that take the same state lie in panels of PANEL columns,
[direction, panel, hidden, PANEL], and steps go through the panels up and down in turn, so that those that the cache still holds from the step before come first.
Sums of a row have room for whole panels.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, ExprLike, Tensor
from ..loops import Routine
from .base import Lowering, Op, Sample, register
from .functions import add_panel_product, sigmoid_f32, sigmoid_f64, tanh_f32, tanh_f64

ROWS = 4  # that `add_panel_product` takes
PANEL = 128  # columns
SLICE = 64  # columns of which the weights stay in the cache for all rows of a unit
LARGE = 1 << 18  # recurrent weights that the second-level cache does not hold beside all else: then a unit has more rows
# Constants of a call; a call gives its own values.
DOUBLE, REVERSE, LENGTHS, INITIAL_H, INITIAL_C, PEEPHOLES, KEEP, CLIP, INPUT_FORGET, RESET_AFTER = False, False, False, False, False, False, True, 0.0, False, False
F0, F0_ALPHA, F0_BETA, G0, G0_ALPHA, G0_BETA, H0, H0_ALPHA, H0_BETA = 0, 0.0, 0.0, 0, 0.0, 0.0, 0, 0.0, 0.0
F1, F1_ALPHA, F1_BETA, G1, G1_ALPHA, G1_BETA, H1, H1_ALPHA, H1_BETA = 0, 0.0, 0.0, 0, 0.0, 0.0, 0, 0.0, 0.0

# Name in the model -> (code in `activate`, default alpha, default beta); None where the function does not use it.
ACTIVATIONS: dict[str, tuple[int, float | None, float | None]] = {
    "sigmoid": (0, None, None), "tanh": (1, None, None), "relu": (2, None, None), "affine": (3, 1.0, 0.0), "leakyrelu": (4, 0.01, None),
    "thresholdedrelu": (5, 1.0, None), "scaledtanh": (6, 1.0, 1.0), "hardsigmoid": (7, 0.2, 0.5), "elu": (8, 1.0, None), "softsign": (9, None, None),
    "softplus": (10, None, None),
}


# ------------------------------------------------------------------------------------------------------------------ helpers
def hyperbolic_tangent(x):
    if DOUBLE:
        return tanh_f64(x)
    return tanh_f32(x)


def logistic(x):
    if DOUBLE:
        return sigmoid_f64(x)
    return sigmoid_f32(x)


def activate(kind, alpha, beta, x):
    """Activation `kind` of x; the kind is a constant wherever this is called."""
    if kind == 0:
        return logistic(x)
    if kind == 1:
        return hyperbolic_tangent(x)
    if kind == 2:
        return x if x > 0 else x * 0
    if kind == 3:
        return alpha * x + beta
    if kind == 4:
        return x if x >= 0 else alpha * x
    if kind == 5:
        return x if x > alpha else x * 0
    if kind == 6:
        return alpha * hyperbolic_tangent(beta * x)
    if kind == 7:
        return max(0.0, min(1.0, alpha * x + beta))
    if kind == 8:
        return x if x >= 0 else alpha * math.expm1(x)
    if kind == 9:
        return x / (1.0 + abs(x))
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def narrowed(x):
    """An activation's value in the layer's own type: the kinds together are of float64, since alpha and beta are."""
    if DOUBLE:
        return x
    return np.float32(x)


def activate_f(d, x):
    return narrowed(activate(F1, F1_ALPHA, F1_BETA, x) if d > 0 else activate(F0, F0_ALPHA, F0_BETA, x))


def activate_g(d, x):
    return narrowed(activate(G1, G1_ALPHA, G1_BETA, x) if d > 0 else activate(G0, G0_ALPHA, G0_BETA, x))


def activate_h(d, x):
    return narrowed(activate(H1, H1_ALPHA, H1_BETA, x) if d > 0 else activate(H0, H0_ALPHA, H0_BETA, x))


def clipped(x):
    if CLIP > 0:
        return max(min(x, CLIP), -CLIP)
    return x


def whole_panels(columns):
    return (columns + PANEL - 1) // PANEL * PANEL


def add_products(total, at, between, state, first, apart, rows, weights, base, size, columns, step):
    """total[row, j] += sum over k < size of state[row, k] * weight[j, k], for `rows` states and all columns of panels that start at `base`.

    Args:
        between, apart: elements from row to row of the totals and of the states.
        step: even ones go through the panels upwards, odd ones downwards.
    """
    panels = (columns + PANEL - 1) // PANEL
    wide = PANEL if rows <= ROWS else SLICE
    for q in range(panels):
        p = panels - 1 - q if step % 2 == 1 else q
        for column in range(p * PANEL, min(columns, p * PANEL + PANEL), wide):
            start = base + p * PANEL * (size - 1) + column
            for i in range(0, rows, ROWS):
                add_panel_product(total, at + i * between + column, between, state, first + i * apart, apart, min(ROWS, rows - i), weights, start, PANEL, size,
                                  min(wide, columns - column))


def lstm_cell(d, gates, w, h, c, at, peep, size):
    """One row's cell and hidden state at `at` after a step, from its four gates before their activations at `w`."""
    p = 3 * size * d
    for j in range(size):
        before = c[at + j]
        gate_i = gates[w + j]
        gate_o = gates[w + size + j]
        gate_f = gates[w + 2 * size + j]
        if PEEPHOLES:
            gate_i += peep[p + j] * before
            gate_f += peep[p + 2 * size + j] * before
        gate_i = activate_f(d, clipped(gate_i))
        gate_f = 1 - gate_i if INPUT_FORGET else activate_f(d, clipped(gate_f))
        after = gate_f * before + gate_i * activate_g(d, clipped(gates[w + 3 * size + j]))
        if PEEPHOLES:
            gate_o += peep[p + size + j] * after
        c[at + j] = after
        h[at + j] = activate_f(d, clipped(gate_o)) * activate_h(d, after)


# ----------------------------------------------------------------------------------------------------------------- routines
def lstm(x, r, h_first, c_first, lengths, peep, y, h, c, work, steps, batch, size, y_step, y_direction, y_row, h_direction, h_row, block, blocks, lo, hi):
    """Gates i, o, f, c: x holds the input products [direction, step, row, 4 * size], r the recurrent weights in panels."""
    width = 4 * size
    room = whole_panels(width)
    for unit in range(lo, hi):
        d = unit // blocks
        low = unit % blocks * block
        high = min(low + block, batch)
        for b in range(low, high):
            at = d * h_direction + b * h_row
            begins = lengths[b] > 0 if LENGTHS else True
            for j in range(size):
                h[at + j] = h_first[at + j] if INITIAL_H and begins else 0
                c[at + j] = c_first[at + j] if INITIAL_C and begins else 0
        for step in range(steps):
            for b in range(low, high):
                count = lengths[b] if LENGTHS else steps
                w = (d * batch + b) * room
                if step < count:
                    t = count - 1 - step if REVERSE or d > 0 else step
                    source = ((d * steps + t) * batch + b) * width
                    for j in range(width):
                        work[w + j] = x[source + j]
                else:
                    for j in range(width):
                        work[w + j] = 0
            add_products(work, (d * batch + low) * room, room, h, d * h_direction + low * h_row, h_row, high - low, r, d * room * size, size, width, step)
            for b in range(low, high):
                count = lengths[b] if LENGTHS else steps
                at = d * h_direction + b * h_row
                if step < count:
                    t = count - 1 - step if REVERSE or d > 0 else step
                    lstm_cell(d, work, (d * batch + b) * room, h, c, at, peep, size)
                    if KEEP:
                        to = t * y_step + d * y_direction + b * y_row
                        for j in range(size):
                            y[to + j] = h[at + j]
                elif KEEP:
                    for j in range(size):
                        y[step * y_step + d * y_direction + b * y_row + j] = 0


def gru(x, r, q, h_first, lengths, bias, y, h, work, own, kept, steps, batch, size, y_step, y_direction, y_row, h_direction, h_row, block, blocks, lo, hi):
    """Gates z, r, h; with RESET_AFTER the reset gate multiplies the recurrent product plus its bias, else the state.

    r holds the weights of all gates with RESET_AFTER, else those of z and r, and q those of h; `own` is for the sums of h then, `kept` for the states that r lets through.
    """
    width = 3 * size
    gates = 3 * size if RESET_AFTER else 2 * size
    room = whole_panels(gates)
    part = whole_panels(size)
    for unit in range(lo, hi):
        d = unit // blocks
        low = unit % blocks * block
        high = min(low + block, batch)
        first = d * h_direction + low * h_row
        for b in range(low, high):
            at = d * h_direction + b * h_row
            begins = lengths[b] > 0 if LENGTHS else True
            for j in range(size):
                h[at + j] = h_first[at + j] if INITIAL_H and begins else 0
        for step in range(steps):
            for b in range(low, high):
                count = lengths[b] if LENGTHS else steps
                w = (d * batch + b) * room
                if step < count:
                    t = count - 1 - step if REVERSE or d > 0 else step
                    source = ((d * steps + t) * batch + b) * width
                    for j in range(2 * size):
                        work[w + j] = x[source + j]
                    if not RESET_AFTER:
                        for j in range(size):
                            own[(d * batch + b) * part + j] = x[source + 2 * size + j]
                else:
                    for j in range(2 * size):
                        work[w + j] = 0
                    if not RESET_AFTER:
                        for j in range(size):
                            own[(d * batch + b) * part + j] = 0
                if RESET_AFTER:
                    for j in range(size):
                        work[w + 2 * size + j] = bias[d * size + j]
            add_products(work, (d * batch + low) * room, room, h, first, h_row, high - low, r, d * room * size, size, gates, step)
            if not RESET_AFTER:
                for b in range(low, high):
                    w = (d * batch + b) * room
                    at = d * h_direction + b * h_row
                    for j in range(size):
                        kept[(d * batch + b) * size + j] = activate_f(d, clipped(work[w + size + j])) * h[at + j]
                add_products(own, (d * batch + low) * part, part, kept, (d * batch + low) * size, size, high - low, q, d * part * size, size, size, step)
            for b in range(low, high):
                count = lengths[b] if LENGTHS else steps
                w = (d * batch + b) * room
                at = d * h_direction + b * h_row
                if step < count:
                    t = count - 1 - step if REVERSE or d > 0 else step
                    source = ((d * steps + t) * batch + b) * width
                    for j in range(size):
                        if RESET_AFTER:
                            candidate = x[source + 2 * size + j] + activate_f(d, clipped(work[w + size + j])) * work[w + 2 * size + j]
                        else:
                            candidate = own[(d * batch + b) * part + j]
                        update = activate_f(d, clipped(work[w + j]))
                        h[at + j] = (1 - update) * activate_g(d, clipped(candidate)) + update * h[at + j]
                    if KEEP:
                        to = t * y_step + d * y_direction + b * y_row
                        for j in range(size):
                            y[to + j] = h[at + j]
                elif KEEP:
                    for j in range(size):
                        y[step * y_step + d * y_direction + b * y_row + j] = 0


def rnn(x, r, h_first, lengths, y, h, work, steps, batch, size, y_step, y_direction, y_row, h_direction, h_row, block, blocks, lo, hi):
    """One gate: h = f(input product + h R')."""
    room = whole_panels(size)
    for unit in range(lo, hi):
        d = unit // blocks
        low = unit % blocks * block
        high = min(low + block, batch)
        for b in range(low, high):
            at = d * h_direction + b * h_row
            begins = lengths[b] > 0 if LENGTHS else True
            for j in range(size):
                h[at + j] = h_first[at + j] if INITIAL_H and begins else 0
        for step in range(steps):
            for b in range(low, high):
                count = lengths[b] if LENGTHS else steps
                w = (d * batch + b) * room
                if step < count:
                    t = count - 1 - step if REVERSE or d > 0 else step
                    source = ((d * steps + t) * batch + b) * size
                    for j in range(size):
                        work[w + j] = x[source + j]
                else:
                    for j in range(size):
                        work[w + j] = 0
            add_products(work, (d * batch + low) * room, room, h, d * h_direction + low * h_row, h_row, high - low, r, d * room * size, size, size, step)
            for b in range(low, high):
                count = lengths[b] if LENGTHS else steps
                at = d * h_direction + b * h_row
                w = (d * batch + b) * room
                if step < count:
                    t = count - 1 - step if REVERSE or d > 0 else step
                    for j in range(size):
                        h[at + j] = activate_f(d, clipped(work[w + j]))
                    if KEEP:
                        to = t * y_step + d * y_direction + b * y_row
                        for j in range(size):
                            y[to + j] = h[at + j]
                elif KEEP:
                    for j in range(size):
                        y[step * y_step + d * y_direction + b * y_row + j] = 0


SINGLE_HELPERS = (hyperbolic_tangent, logistic, activate, narrowed, activate_f, clipped, whole_panels, add_products)
SCALAR_HELPERS = (*SINGLE_HELPERS, activate_g, activate_h)
LSTM_ROUTINE = Routine("lstm", lstm, (*SCALAR_HELPERS, lstm_cell))
GRU_ROUTINE = Routine("gru", gru, tuple(f for f in SCALAR_HELPERS if f is not activate_h))
RNN_ROUTINE = Routine("rnn", rnn, SINGLE_HELPERS)


# ---------------------------------------------------------------------------------------------------------------- operators
@dataclass(frozen=True)
class Layer:
    """Sizes of a recurrent layer and where its elements lie."""

    steps: Expr
    batch: Expr
    features: Expr
    hidden: Expr
    directions: int
    batch_first: bool
    kind: DType

    def state(self) -> tuple[ExprLike, ...]:
        return (self.batch, self.directions, self.hidden) if self.batch_first else (self.directions, self.batch, self.hidden)

    def sequence(self) -> tuple[ExprLike, ...]:
        return (self.batch, self.steps, self.directions, self.hidden) if self.batch_first else (self.steps, self.directions, self.batch, self.hidden)

    def strides(self) -> tuple[Expr, ...]:
        """y_step, y_direction, y_row, h_direction, h_row of the routines."""
        if self.batch_first:
            return self.hidden * self.directions, self.hidden, self.steps * self.hidden * self.directions, self.hidden, self.hidden * self.directions
        return self.batch * self.hidden * self.directions, self.batch * self.hidden, self.hidden, self.batch * self.hidden, self.hidden


class Recurrent(Op):
    """Common parts of RNN, GRU and LSTM. All results of a row of length 0 are 0, its last states as well: ONNX leaves them open, ONNX Runtime gives that."""

    gates: int
    functions: tuple[str, ...]  # default activation of each slot f, g, h
    routine: Routine
    whole_batch = False  # whether a unit of the routine has all rows

    def hidden(self, n: Lowering) -> Expr:
        return n.input(2).shape[2]

    def recurrent_weight(self, n: Lowering, d: Expr, j: Expr, k: Expr) -> Expr:
        """What column `j` of all gates takes of element `k` of the state."""
        return n.input(2)[d, j, k]

    def layer(self, n: Lowering) -> Layer:
        x, w, r = n.input(0), n.input(1), n.input(2)
        if x.rank != 3 or w.rank != 3 or r.rank != 3:
            raise n.error(f"X, W, R of ranks {x.rank}, {w.rank}, {r.rank} were given, 3 was expected for each")
        direction = str(n.attr("direction", "forward")).lower()
        if direction not in ("forward", "reverse", "bidirectional"):
            raise n.error(f"direction '{direction}' is unknown")
        first = bool(n.attr("layout", 0))
        steps, batch = (x.shape[1], x.shape[0]) if first else x.shape[:2]
        return Layer(steps, batch, x.shape[2], self.hidden(n), 2 if direction == "bidirectional" else 1, first, dt.compute_type(x.dtype))

    def constants(self, n: Lowering, layer: Layer) -> dict[str, int | float | bool]:
        """Activations of each slot and direction, and the flags that all layers have.

        Raises:
            ModelError: unknown activation, or too few of them.
        """
        slots = len(self.functions)
        names = [str(a).lower() for a in n.attr("activations") or self.functions * layer.directions]
        if len(names) < slots * layer.directions:
            raise n.error(f"{len(names)} activations were given, {slots * layer.directions} were expected")
        alphas, betas = list(n.attr("activation_alpha") or ()), list(n.attr("activation_beta") or ())
        found: dict[str, int | float | bool] = {}
        for k in range(slots * layer.directions):
            if names[k] not in ACTIVATIONS:
                raise n.error(f"activation '{names[k]}' is unknown", f"known are {', '.join(ACTIVATIONS)}")
            code, alpha, beta = ACTIVATIONS[names[k]]
            slot = "FGH"[k % slots] + str(k // slots)
            found[slot] = code
            found[slot + "_ALPHA"] = float(alphas.pop(0) if alpha is not None and alphas else alpha or 0.0)
            found[slot + "_BETA"] = float(betas.pop(0) if beta is not None and betas else beta or 0.0)
        if layer.directions == 1:
            found.update({slot[0] + "1" + slot[2:]: v for slot, v in list(found.items())})
        return found | {"DOUBLE": layer.kind is dt.float64, "REVERSE": str(n.attr("direction", "forward")).lower() == "reverse", "CLIP": float(n.attr("clip") or 0.0),
                        "LENGTHS": n.has(4), "INITIAL_H": n.has(5), "KEEP": n.wants(0)}

    def recurrent_bias_within(self, n: Lowering, j: Expr, hidden: Expr) -> Expr:
        """Whether column `j` of the input product may take the recurrent bias at once."""
        return ex.const(True, dt.boolean)

    def input_product(self, n: Lowering, layer: Layer) -> Tensor:
        """X W' + bias of all steps: [direction, step, row, gates * hidden]."""
        x, w, bias = n.input(0), n.input(1), n.optional(3)
        columns = layer.hidden * self.gates
        batch = () if layer.directions == 1 else (ex.const(layer.directions),)

        def direction(b: tuple[Expr, ...]) -> Expr:
            return b[0] if b else ex.const(0)

        def epilogue(acc: Expr, b: tuple[Expr, ...], rows: tuple[Expr, ...], j: tuple[Expr, ...]) -> Expr:
            if bias is not None:
                whole = acc + ex.cast(bias[direction(b), j[0]], acc.dtype)
                second = ex.cast(bias[direction(b), columns + j[0]], acc.dtype)
                return ex.where(self.recurrent_bias_within(n, j[0], layer.hidden), whole + second, whole)
            return acc

        return n.contract(batch, (layer.steps, layer.batch), (columns,), (layer.features,),
                          lambda b, r, k: x[(r[1], r[0], k[0]) if layer.batch_first else (r[0], r[1], k[0])],
                          lambda b, j, k: w[direction(b), j[0], k[0]],
                          (layer.directions, layer.steps, layer.batch, columns), lambda b, r, j: (direction(b), *r, *j), dtype=layer.kind, epilogue=epilogue)

    @staticmethod
    def wide(n: Lowering, index: int, layer: Layer, absent: Tensor) -> Tensor:
        """A floating-point input in the compute type; any tensor of that type where it is absent."""
        t = n.optional(index)
        if t is None:
            return absent
        return t if t.dtype is layer.kind else n.map(t.shape, lambda *i: t[i], layer.kind)

    @staticmethod
    def lengths(n: Lowering) -> Tensor:
        """The number of valid steps of each row; any int32 tensor where all are."""
        return n.optional(4) or n.constant(np.zeros(1, np.int32))

    def panels(self, n: Lowering, layer: Layer, first: int, gates: int) -> Tensor:
        """The recurrent weights of `gates` gates from `first` on, in panels: [direction, panel, hidden, PANEL]."""
        columns = layer.hidden * gates
        return n.map((layer.directions, ex.ceildiv(columns, PANEL), layer.hidden, PANEL),
                     lambda d, p, k, j: self.recurrent_weight(n, d, layer.hidden * first + ex.minimum(p * PANEL + j, columns - 1), k), layer.kind)

    @staticmethod
    def room(layer: Layer, gates: int) -> tuple[ExprLike, ...]:
        """Shape of the sums of `gates` gates."""
        return (layer.directions, layer.batch, ex.ceildiv(layer.hidden * gates, PANEL) * PANEL)

    def run(self, n: Lowering, layer: Layer, inputs: Sequence[Tensor], states: int, work: Sequence[Sequence[ExprLike]],
            flags: Mapping[str, int | float | bool]) -> list[Tensor | None]:
        """Call the routine; returns Y and the final states in the input's type.

        Args:
            inputs: the routine's inputs.
            states: number of final states.
            work: shapes of working memory.
            flags: constants beyond those that all layers have.
        """
        x = n.input(0)
        outputs = [(layer.kind, layer.sequence() if n.wants(0) else (1,)), *((layer.kind, layer.state()) for _ in range(states)), *((layer.kind, s) for s in work)]
        block = layer.batch if self.whole_batch else ex.where(layer.hidden * layer.hidden * self.gates <= LARGE, ROWS, 2 * ROWS)
        blocks = ex.const(1) if self.whole_batch else ex.ceildiv(layer.batch, block)
        found = n.routine(self.routine, inputs, outputs, [layer.steps, layer.batch, layer.hidden, *layer.strides(), block, blocks],
                          units=blocks * layer.directions, constants={**self.constants(n, layer), **flags})
        return [self.narrow(n, t, x.dtype) if n.wants(k) else None for k, t in enumerate(found[:1 + states])]

    @staticmethod
    def narrow(n: Lowering, t: Tensor, dtype: DType) -> Tensor:
        return t if t.dtype is dtype else n.map(t.shape, lambda *i: t[i], dtype)

    def cases(self, outputs: int) -> Iterator[Sample]:
        """Samples for a layer of so many outputs."""
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return (rng.standard_normal(s) * 0.5).astype(np.float32)
        g = self.gates
        lengths = np.array([4, 2, 0, 1, 4], np.int32)
        yield Sample((f(4, 5, 3), f(1, g * 6, 3), f(1, g * 6, 6)), {"hidden_size": 6}, outputs=outputs)
        yield Sample((f(4, 5, 3), f(2, g * 6, 3), f(2, g * 6, 6), f(2, 2 * g * 6), lengths, f(2, 5, 6), *([f(2, 5, 6), f(2, 18)] if g == 4 else [])),
                     {"hidden_size": 6, "direction": "bidirectional"}, outputs=outputs)
        last = (f(5, 4, 3), f(1, g * 7, 3), f(1, g * 7, 7), f(1, 2 * g * 7))
        yield Sample(last, {"hidden_size": 7, "direction": "reverse", "clip": 0.3}, outputs=outputs)
        yield Sample(last, {"hidden_size": 7, "layout": 1}, outputs=outputs)


@register
class LSTM(Recurrent):
    """Long short-term memory layer with peepholes, masks and two directions. Source: ONNX LSTM-22; Hochreiter and Schmidhuber 1997."""

    name = "LSTM"
    versions: ClassVar[tuple[int, ...]] = (1, 7, 14, 22)
    gates, functions, routine = 4, ("sigmoid", "tanh", "tanh"), LSTM_ROUTINE

    def lower(self, n: Lowering) -> list[Tensor | None]:
        layer = self.layer(n)
        product = self.input_product(n, layer)
        inputs = [product, self.panels(n, layer, 0, 4), self.wide(n, 5, layer, product), self.wide(n, 6, layer, product), self.lengths(n), self.wide(n, 7, layer, product)]
        flags = {"INITIAL_C": n.has(6), "PEEPHOLES": n.has(7), "INPUT_FORGET": bool(n.attr("input_forget", 0))}
        return self.run(n, layer, inputs, 2, [self.room(layer, 4)], flags)

    def samples(self) -> Iterator[Sample]:
        return self.cases(3)


@register
class GRU(Recurrent):
    """Gated recurrent unit layer. Source: ONNX GRU-22; Cho et al. 2014."""

    name, versions = "GRU", (1, 3, 7, 14, 22)
    gates, functions, routine = 3, ("sigmoid", "tanh"), GRU_ROUTINE

    def recurrent_bias_within(self, n: Lowering, j: Expr, hidden: Expr) -> Expr:
        return j < hidden * 2 if n.attr("linear_before_reset", 0) else ex.const(True, dt.boolean)

    def lower(self, n: Lowering) -> list[Tensor | None]:
        layer = self.layer(n)
        product = self.input_product(n, layer)
        bias, after = n.optional(3), bool(n.attr("linear_before_reset", 0))
        rest, weights, own = product, self.panels(n, layer, 0, 3 if after else 2), product
        if after:
            rest = n.map((layer.directions, layer.hidden),
                         lambda d, j: ex.const(0, layer.kind) if bias is None else bias[d, layer.hidden * 5 + j], layer.kind)
            work = [self.room(layer, 3), (1,), (1,)]
        else:
            own = self.panels(n, layer, 2, 1)
            work = [self.room(layer, 2), self.room(layer, 1), (layer.directions, layer.batch, layer.hidden)]
        return self.run(n, layer, [product, weights, own, self.wide(n, 5, layer, product), self.lengths(n), rest], 1, work, {"RESET_AFTER": after})

    def samples(self) -> Iterator[Sample]:
        yield from self.cases(2)
        rng = np.random.default_rng(1)
        w, r, b = (rng.standard_normal(s).astype(np.float32) * 0.5 for s in ((1, 15, 3), (1, 15, 5), (1, 30)))
        yield Sample((rng.standard_normal((3, 2, 3)).astype(np.float32), w, r, b), {"hidden_size": 5, "linear_before_reset": 1}, outputs=2)


@register
class RNN(Recurrent):
    """Elman layer: h = f(W x + R h + b). Source: ONNX RNN-22."""

    name, versions = "RNN", (1, 7, 14, 22)
    gates, functions, routine = 1, ("tanh",), RNN_ROUTINE

    def lower(self, n: Lowering) -> list[Tensor | None]:
        layer = self.layer(n)
        product = self.input_product(n, layer)
        return self.run(n, layer, [product, self.panels(n, layer, 0, 1), self.wide(n, 5, layer, product), self.lengths(n)], 1, [self.room(layer, 1)], {})

    def samples(self) -> Iterator[Sample]:
        return self.cases(2)
