"""com.microsoft: operators on images, over ONNX's own where they only differ in layout or in a name."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..graph import Value
from .base import REQUIRED, Builder, Op, Sample, register
from .elementwise import real_sample

DOMAIN = "com.microsoft"


def channels_moved(b: Builder, x: Value, first: bool) -> Value:
    """[N, *S, C] as [N, C, *S] (`first`), or back."""
    rank = len(b.type(x).shape or ())
    if rank < 3:
        raise b.error(f"a tensor of rank {rank} was given, [N, *S, C] was expected")
    spatial = list(range(2, rank)) if not first else list(range(1, rank - 1))
    return b.add("Transpose", x, perm=(0, rank - 1, *spatial) if first else (0, *spatial, 1))


@register
class NhwcMaxPool(Op):
    """ONNX MaxPool of [N, *S, C]. Source: com.microsoft NhwcMaxPool-1."""

    domain, name, versions = DOMAIN, "NhwcMaxPool", (1,)
    attributes = {"kernel_shape": REQUIRED, "auto_pad": "NOTSET", "ceil_mode": 0}

    def decompose(self, b: Builder) -> Value:
        return channels_moved(b, b.add("MaxPool", channels_moved(b, b.input(0), first=True), **b.node.attributes), first=False)

    def samples(self) -> Iterator[Sample]:
        yield Sample(((real_sample((2, 7, 6, 3)) * 40).astype(np.int8),), {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 0)})
