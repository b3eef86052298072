"""Convolutions that are not products: each channel by itself."""
from __future__ import annotations

from collections.abc import Collection

from ..ir.expr import Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import ContractionNest, MapNest
from ..ir.target import Target
from .contraction import Layouts


def schedule_depthwise(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor], target: Target) -> list[MapNest | KernelCall] | None:
    """A kernel for a convolution of single channels, or None if it is not one."""
    return None
