"""Placing buffers with known lifetimes in one arena."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import expr as ex
from ..ir.expr import Expr, Tensor

ALIGNMENT = 64
TYPICAL_SIZE = 128  # what a symbolic size is taken to be when slots are compared


@dataclass(frozen=True)
class Interval:
    """A tensor is written at step `first` and last touched at step `last`, both included."""

    tensor: Tensor
    first: int
    last: int

    def overlaps(self, other: "Interval") -> bool:
        return self.first <= other.last and other.first <= self.last


def align(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def place_static(intervals: Sequence[Interval], sizes_bytes: Sequence[int]) -> tuple[list[int], int]:
    """Offsets of buffers of known sizes, largest first, each in the tightest gap.

    Returns:
        Offsets in the order of the intervals, and the arena's size in bytes.
    """
    offsets = [0] * len(intervals)
    placed: list[int] = []
    total = 0
    for k in sorted(range(len(intervals)), key=lambda k: (-sizes_bytes[k], intervals[k].first)):
        size = align(sizes_bytes[k])
        taken = sorted((offsets[j], offsets[j] + align(sizes_bytes[j])) for j in placed if intervals[j].overlaps(intervals[k]))
        best, best_gap, end = -1, -1, 0
        for start, stop in taken:
            gap = start - end
            if gap >= size and (best < 0 or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, stop)
        offsets[k] = best if best >= 0 else end
        placed.append(k)
        total = max(total, offsets[k] + size)
    return offsets, total


def place_symbolic(intervals: Sequence[Interval], sizes_bytes: Sequence[Expr]) -> list[list[int]]:
    """Slots shared by buffers that never live together; a slot is as large as its largest buffer for any sizes.

    Returns:
        Slots as lists of positions in `intervals`.
    """
    typical = [_typical(s) for s in sizes_bytes]
    slots: list[list[int]] = []
    for k in sorted(range(len(intervals)), key=lambda k: (-typical[k], intervals[k].first)):
        fitting = [s for s in slots if not any(intervals[j].overlaps(intervals[k]) for j in s)]
        same = [s for s in fitting if sizes_bytes[s[0]] is sizes_bytes[k]]
        if same or fitting:
            (same or fitting)[-1].append(k)
        else:
            slots.append([k])
    return slots


def _typical(e: Expr) -> int:
    leaves = {n: ex.const(TYPICAL_SIZE, n.dtype) for n in ex.walk(e) if n.op in ("sym", "load")}
    value = ex.substitute_one(e, leaves)
    return int(value.value) if value.is_const else 1 << 20
