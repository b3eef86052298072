"""Map nests to kernel calls: chooses the schedule."""
from __future__ import annotations

from collections.abc import Mapping

from ..ir.expr import Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import MapNest
from ..ir.target import Target
from .flatten import flatten
from .map_loops import MapSchedule
from .transposes import TransposeSchedule, crossing, expand_small_reductions, unroll_small_axes
from .windows import expand_windows


def schedule_map(nest: MapNest, layouts: Mapping[Tensor, tuple[int, ...]], target: Target) -> KernelCall:
    """A kernel for a map nest.

    Args:
        nest: any map nest over numbers.
        layouts: tensor -> order of its dims from outermost to innermost in memory; missing means row-major.
        target: the machine.

    Returns:
        The launch. Its text depends on the structure of the nest and of its layouts; sizes and strides are parameters.

    Raises:
        UnsupportedError: element types that kernels do not handle yet.
    """
    del target  # vector widths are decided where intrinsics are built
    flat = expand_small_reductions(expand_windows(flatten(nest, layouts)))
    flat, literals = unroll_small_axes(flat)
    crossed = crossing(flat)
    schedule = MapSchedule(flat) if crossed is None else TransposeSchedule(flat, *crossed)
    schedule.emitter.literals = literals
    return schedule.call()
