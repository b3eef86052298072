"""Sliding windows: how kernel, stride, dilation and padding lay windows over the spatial dimensions of convolutions and pools."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import dtypes as dt
from .. import expr as ex
from .. import integer
from ..expr import Expr, ExprLike, Tensor
from .base import Lowering

ZERO, ONE = ex.const(0), ex.const(1)


@dataclass(frozen=True)
class Window:
    """Windows over `size`; position `o`, tap `k` reads `o * stride - begin + k * dilation`.

    Args:
        size: spatial sizes of the input.
        kernel: number of taps.
        strides, dilations: steps between windows and between taps.
        begin, end: padding before and after.
        out: number of windows.
    """

    size: tuple[Expr, ...]
    kernel: tuple[Expr, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[Expr, ...]
    end: tuple[Expr, ...]
    out: tuple[Expr, ...]

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def inside(self) -> bool:
        """Whether every tap certainly lies within the input."""
        return all(
            ex.integer.prove_nonnegative(-b) and ex.integer.prove_le((o - 1) * s - b + (k - 1) * d, n - 1)
            for n, k, s, d, b, o in zip(self.size, self.kernel, self.strides, self.dilations, self.begin, self.out)
        )

    @property
    def overlapping(self) -> bool:
        """Whether neighbouring windows may share elements along every dimension."""
        return all(integer.prove_lt(ex.const(s), k) for k, s in zip(self.kernel, self.strides))

    def tap(self, position: Sequence[Expr], taps: Sequence[Expr]) -> tuple[Expr, ...]:
        """Where tap `taps` of window `position` reads."""
        return tuple(o * s - b + k * d for o, s, b, k, d in zip(position, self.strides, self.begin, taps, self.dilations, strict=True))

    def valid_taps(self, position: Sequence[Expr], padded: bool) -> tuple[tuple[Expr, Expr], ...]:
        """First and last tap of each dimension that lie within the input, or with `padded` within input and padding."""
        found = []
        for o, n, k, s, d, b, e in zip(position, self.size, self.kernel, self.strides, self.dilations, self.begin, self.end):
            start = o * s - b
            first = ZERO if padded else ex.maximum(0, (d - 1 - start) // d)
            last = ex.minimum(k - 1, (n + (e if padded else 0) - 1 - start) // d)
            found.append((first, last))
        return tuple(found)


def spatial_attribute(n: Lowering, name: str, count: int, default: int, per_side: int = 1) -> tuple[int, ...]:
    """A list attribute with one entry for each spatial dimension (two for pads), checked."""
    given = n.attr(name)
    values = (default,) * (count * per_side) if not given else tuple(int(v) for v in given)
    if len(values) != count * per_side:
        raise n.error(f"attribute '{name}' has {len(values)} entries, {count * per_side} were expected for {count} spatial dimensions")
    return values


def window(n: Lowering, size: Sequence[Expr], kernel: Sequence[ExprLike], ceil_mode: bool = False) -> Window:
    """The windows that a node's attributes (`strides`, `dilations`, `pads`, `auto_pad`) lay over an input.

    Raises:
        ModelError: an attribute has the wrong length or value, or the kernel is larger than the padded input.
    """
    count = len(size)
    taps = [ex.as_expr(k) for k in kernel]
    if len(taps) != count:
        raise n.error(f"a kernel of {len(taps)} dimensions was given for {count} spatial dimensions")
    strides = spatial_attribute(n, "strides", count, 1)
    dilations = spatial_attribute(n, "dilations", count, 1)
    if min(strides + dilations, default=1) < 1:
        raise n.error("strides and dilations must be at least 1")
    mode = n.attr("auto_pad", "NOTSET") or "NOTSET"
    begin: list[Expr] = []
    end: list[Expr] = []
    out: list[Expr] = []
    pads = spatial_attribute(n, "pads", count, 0, 2) if mode == "NOTSET" else (0,) * (2 * count)
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise n.error(f"auto_pad '{mode}' is unknown")
    for k, (d, t, s, a) in enumerate(zip(size, taps, strides, dilations)):
        reach = (t - 1) * a + 1
        if mode.startswith("SAME"):
            windows = ex.ceildiv(d, s)
            padding = ex.maximum((windows - 1) * s + reach - d, 0)
            half = padding // 2
            first, last = (half, padding - half) if mode == "SAME_UPPER" else (padding - half, half)
        else:
            first, last = ex.const(pads[k]), ex.const(pads[k + count])
            room = d + first + last - reach
            windows = (ex.ceildiv(room, s) if ceil_mode else room // s) + 1
            if windows.is_const and windows.value < 1:
                raise n.error(f"a kernel reaching over {reach.text} elements is larger than the padded input of {(d + first + last).text}")
            if ceil_mode and s > 1:
                windows = ex.where((windows - 1) * s >= d + first, windows - 1, windows)
        begin.append(first)
        end.append(last)
        out.append(windows)
        padded = ex.integer.as_int(d + first + last)
        if padded is not None and t.is_const and windows is ONE:
            taps[k] = ex.minimum(t, -(-padded // a))  # further taps of the only window lie outside
    return Window(tuple(size), tuple(taps), strides, dilations, tuple(begin), tuple(end), tuple(out))


def split_image(n: Lowering, x: Tensor) -> tuple[tuple[Expr, Expr], tuple[Expr, ...]]:
    """(batch, channels) and spatial sizes of an image tensor.

    Raises:
        ModelError: rank below 3.
    """
    if x.rank < 3:
        raise n.error(f"an input of rank {x.rank} was given, [N, C, D1, ...] was expected")
    return (x.shape[0], x.shape[1]), x.shape[2:]


def vector(n: Lowering, index: int, count: int) -> tuple[Expr, ...]:
    """The `count` elements of an integer vector input, also where the length of that input is only declared by what it is used for."""
    t = n.input(index)
    if t.rank == 1 and not t.shape[0].is_const and n.known(index) is None:
        return tuple(ex.cast(t[ex.const(k)], dt.int64) for k in range(count))
    return n.ints(index)
