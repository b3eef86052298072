"""com.microsoft: causal depthwise convolutions that carry their last inputs from call to call."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from .base import Lowering, Op, Sample, register

DOMAIN = "com.microsoft"


def activated(n: Lowering, x: Expr) -> Expr:
    """The attribute activation of x."""
    name = str(n.attr("activation")).lower()
    if name not in ("none", "silu", "swish"):
        raise n.error(f"activation '{name}' is unknown, none, silu or swish was expected")
    return x if name == "none" else x * ex.unary("sigmoid", x)


def reach(n: Lowering, weight: Tensor) -> tuple[Expr, int, Expr]:
    """(taps, dilation, positions before the present one that the taps see)"""
    dilation = int(n.attr("dilation"))
    if dilation < 1:
        raise n.error(f"dilation is {dilation}, at least 1 was expected")
    taps = weight.shape[-1]
    return taps, dilation, (taps - 1) * dilation


def convolved(n: Lowering, weight: Tensor, channel: Expr, bias: Tensor | None, at: Callable[[Expr], Expr]) -> Expr:
    """The activated sum of taps; `at(k)` is the input that lies k positions before the present one."""
    taps, dilation, _ = reach(n, weight)
    kind = dt.compute_type(weight.dtype)
    total = n.reduce("sum", [taps], lambda k: ex.cast(weight[(channel, *(ex.const(0),) * (weight.rank - 2), k)], kind) * ex.cast(at((taps - 1 - k) * dilation), kind))
    return activated(n, total if bias is None else total + ex.cast(bias[channel], kind))


@register
class CausalConvWithState(Op):
    """Depthwise convolution over the present and earlier positions, and the last inputs for the next call. Source: com.microsoft CausalConvWithState-1.

    x: [batch, channels, length], or [batch, length, d1, ...] with channels_last; state: [batch, channels, (taps - 1) * dilation], in the same order;
    with state_window W, the states after each of the last W positions, [W, ...].
    """

    domain, name, versions = DOMAIN, "CausalConvWithState", (1,)
    attributes = {"activation": "none", "dilation": 1, "ndim": 1, "channels_last": 0, "state_window": 0}

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        x, weight, bias, past = n.input(0), n.input(1), n.optional(2), n.optional(3)
        for name in ("state_update_capacity", "state_length", "input_channels", "input_channel_offset"):
            if n.attr(name, 0):
                raise n.unsupported(f"{name} of CausalConvWithState")
        if int(n.attr("ndim")) != 1:
            raise n.unsupported(f"CausalConvWithState over {n.attr('ndim')} dimensions; 1 is known")
        last, window = bool(n.attr("channels_last")), int(n.attr("state_window"))
        if weight.rank != 3 or (not last and x.rank != 3) or x.rank < 3:
            raise n.error(f"an input of rank {x.rank} and weights of rank {weight.rank} were given, [batch, channels, length] and [channels, 1, taps] were expected")
        _, _, before = reach(n, weight)
        time = 1 if last else 2
        length = x.shape[time]
        inner = x.shape[2:] if last else (x.shape[1],)

        def element(b: Expr, c: Sequence[Expr], t: Expr) -> Expr:
            """The input at a time that may be before this call's first."""
            index = (b, t, *c) if last else (b, *c, t)
            fresh = ex.load(x, index, 0)
            if past is None:
                return fresh
            held = (b, t + before, *c) if last else (b, *c, t + before)
            lead = (ex.const(window - 1),) if window else ()
            return ex.where(t >= 0, fresh, ex.load(past, (*lead, *held), 0))

        def split(i: Sequence[Expr]) -> tuple[Expr, tuple[Expr, ...], Expr]:
            return (i[0], tuple(i[2:]), i[1]) if last else (i[0], (i[1],), i[2])

        def value(*i: Expr) -> Expr:
            b, c, t = split(i)
            channel: Expr = ex.const(0)
            for j, d in zip(c, inner):
                channel = channel * d + j
            return convolved(n, weight, channel, bias, lambda back: element(b, c, t - back))
        y = n.map(x.shape, value, x.dtype)

        def state(*i: Expr) -> Expr:
            lead, (b, c, k) = (i[0], split(i[1:])) if window else (ex.const(0), split(i))
            end = length - window + lead + 1 if window else length
            return element(b, c, end - before + k)
        held = (x.shape[0], before, *inner) if last else (x.shape[0], *inner, before)
        return [y, n.map((*((window,) if window else ()), *held), state, x.dtype) if n.wants(1) else None]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((f(2, 3, 5), f(3, 1, 4), f(3), f(2, 3, 3)), {"activation": "silu"}, outputs=2)
        yield Sample((f(2, 5, 3), f(3, 1, 3), None, f(2, 4, 3)), {"channels_last": 1, "dilation": 2}, outputs=2)


@register
class VarlenCausalConvWithState(Op):
    """The same of packed rows [tokens, channels], with the first inputs of each row if asked for. Source: com.microsoft VarlenCausalConvWithState-1."""

    domain, name, versions = DOMAIN, "VarlenCausalConvWithState", (1,)
    attributes = {"activation": "none", "dilation": 1, "state_update_capacity": 0}

    def lower(self, n: Lowering) -> Sequence[Tensor | None]:
        x, weight, ends, bias, past = n.input(0), n.input(1), n.input(2), n.optional(3), n.input(4)
        if n.has(6) or n.has(7):
            raise n.unsupported("kernel_delta and previous_mask of VarlenCausalConvWithState")
        _, _, before = reach(n, weight)
        rows, channels = ends.shape[0] - 1, x.shape[1]

        def start(row: Expr) -> Expr:
            return ex.cast(ends[row], dt.int64)

        def row_of(t: Expr) -> Expr:
            return n.reduce("sum", [rows], lambda r: ex.where(start(r) <= t, ex.const(1), ex.const(0))) - 1

        def element(row: Expr, c: Expr, place: Expr) -> Expr:
            return ex.where(place >= 0, ex.load(x, (start(row) + place, c), 0), ex.load(past, (row, c, place + before), 0))
        row_table = n.map((x.shape[0],), row_of, dt.int64)

        def value(t: Expr, c: Expr) -> Expr:
            row = row_table[t]
            return convolved(n, weight, c, bias, lambda back: element(row, c, t - start(row) - back))
        y = n.map(x.shape, value, x.dtype)

        def length(row: Expr) -> Expr:
            return start(row + 1) - start(row)
        state = n.map((rows, channels, before), lambda r, c, k: element(r, c, length(r) - before + k), x.dtype) if n.wants(1) else None
        update = None
        if n.wants(2):
            count = n.input(5)
            zero = ex.const(0, x.dtype)
            update = n.map((rows, int(n.attr("state_update_capacity")), channels),
                           lambda r, k, c: ex.where(k < ex.minimum(ex.cast(count[r], dt.int64), length(r)), ex.load(x, (start(r) + k, c), 0), zero), x.dtype)
        return [y, state, update]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        ends = np.array([0, 2, 7], np.int32)
        yield Sample((f(7, 3), f(3, 1, 4), ends, f(3), f(2, 3, 3)), {"activation": "silu"}, outputs=2)
        yield Sample((f(7, 3), f(3, 1, 3), ends, None, f(2, 3, 4), np.array([1, 3], np.int32)), {"dilation": 2, "state_update_capacity": 2}, outputs=3)
