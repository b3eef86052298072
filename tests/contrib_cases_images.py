"""Cases of com.microsoft's operators on images."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"


@cases(MS, "GridSample", ulps=64)
def grid_sample(r: Draw) -> Iterator[Case]:
    for k in range(28):
        mode, padding = ("bilinear", "nearest", "bicubic")[k % 3], ("zeros", "border", "reflection")[k // 3 % 3]
        images = r.size(1, 3)
        x = r.real(images, r.size(1, 3), r.size(1 + (k % 5 > 0), 7), r.size(2, 7))
        grid = r.uniform(-1.4, 1.4, images, r.size(1, 5), r.size(1, 5), 2)
        yield Case([x, grid], {"align_corners": k // 9 % 2, **({"mode": mode} if k % 3 else {}), **({"padding_mode": padding} if k // 3 % 3 else {})})


def windows(r: Draw, k: int, rank: int) -> dict[str, object]:
    """Attributes of a window; all ways to give padding take turns."""
    taps = [r.size(1, 3) for _ in range(rank)]
    found: dict[str, object] = {"kernel_shape": taps}
    if k % 4 == 1:
        found["pads"] = [r.size(0, t - 1) for t in taps * 2]
    if k % 4 in (2, 3):
        found["auto_pad"] = ("SAME_UPPER", "SAME_LOWER", "VALID")[k // 4 % 3]
    if k % 3:
        found["strides"] = [r.size(1, 3) for _ in range(rank)]
    if k % 5 == 1 and "auto_pad" not in found:
        found["dilations"] = [r.size(1, 2) for _ in range(rank)]
    return found


@cases(MS, "QLinearConv", steps=1)
def qlinear_conv(r: Draw) -> Iterator[Case]:
    for k in range(28):
        rank, last = (2, 2, 1, 3)[k % 4 if k % 8 > 3 else 0], k // 2 % 2
        kind, weights = ((np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8))[k % 3]
        window, group = windows(r, k, rank), (1, 1, 2, 3)[k % 4]
        inner, outer = r.size(1, 4), group * r.size(1, 3)
        size = [r.size(6, 9) for _ in range(rank)]
        x = r.codes(kind, *([r.size(1, 2), *size, inner * group] if last else [r.size(1, 2), inner * group, *size]))
        per_channel = k % 2
        scales = r.scale(outer) if per_channel else r.scale()
        zeros = np.zeros(outer if per_channel else (), weights) if weights is np.int8 or per_channel else r.codes(weights)
        shape = outer, inner, *window["kernel_shape"]
        w = r.codes(weights, *shape) if weights is np.uint8 else r.ints(-64, 64, *shape, dtype=weights)  # ONNX Runtime adds pairs of products with int8 in 16 bits on AVX2
        inputs = [x, r.scale(), r.codes(kind), w, scales, zeros, r.uniform(0.2, 0.9), r.codes(kind)]
        yield Case([*inputs, r.ints(-900, 900, outer, dtype=np.int32)] if k % 3 else inputs, {**window, **({"group": group} if group > 1 else {}), **({"channels_last": last} if k % 4 else {})},
                   constants=[1, 2, 3, 4, 5, 6, 7, 8] if k % 5 else [])


@cases(MS, "NhwcMaxPool")
def nhwc_max_pool(r: Draw) -> Iterator[Case]:
    for k in range(28):
        rank = 1 + k % 3
        yield Case([r.codes((np.int8, np.uint8)[k // 3 % 2], r.size(1, 2), *(r.size(6, 9) for _ in range(rank)), r.size(1, 40))],
                   {**windows(r, k, rank), **({"ceil_mode": r.flag()} if k % 2 else {})})


@cases(MS, "CropAndResize", ulps=64)
def crop_and_resize(r: Draw) -> Iterator[Case]:
    for k in range(28):
        images, regions = r.size(1, 3), r.size(1, 4)
        x = r.real(images, r.size(1, 3), r.size(1 + (k % 5 > 0), 7), r.size(1 + (k % 7 > 0), 7))
        rois = np.float32([[0, 0, 1, 1]] * regions) if k % 6 == 5 else r.uniform(-0.2, 1.2, regions, 4)
        inputs = [x, rois, r.ints(0, images, regions, dtype=np.int32), r.ints(1, 6, 2, dtype=np.int32)]
        yield Case(inputs, {**({"mode": ("bilinear", "nearest")[k % 2]} if k % 3 else {}), **({"extrapolation_value": 1.75} if k % 4 else {})}, constants=[3] if k % 3 else [], dynamic=bool(k // 3 % 2) and k % 3 > 0)


@cases(MS, "MaxpoolWithMask")
def maxpool_with_mask(r: Draw) -> Iterator[Case]:
    for k in range(24):
        rank = (2, 1, 3, 2)[k % 4]
        images, channels, size, attributes = r.size(1, 2), r.size(1, 3), [r.size(4, 8) for _ in range(rank)], windows(r, k, rank)
        attributes.pop("dilations", None)
        mask = (r.uniform(0, 1, 1, 1, *size) < 0.7).astype(np.int32)  # ONNX Runtime's kernel takes masks of several channels from wrong places
        yield Case([r.real(images, channels, *size), mask], attributes)


@cases(MS, "ConvTransposeWithDynamicPads", ulps=64)
def conv_transpose_with_dynamic_pads(r: Draw) -> Iterator[Case]:
    for k in range(24):
        rank, group, inner, outer = (2, 1, 2)[k % 3], (1, 2)[k // 3 % 2], r.size(1, 3), r.size(1, 3)
        strides, kernel = [r.size(1, 3) for _ in range(rank)], [r.size(2, 3) for _ in range(rank)]
        attributes = {"strides": strides, **({"group": group} if group > 1 else {}), **({"dilations": [r.size(1, 2) for _ in range(rank)]} if k % 4 == 0 else {}),
                      **({"output_padding": [r.size(0, s - 1) for s in strides]} if k % 3 else {}), **({"kernel_shape": kernel} if k % 2 else {})}
        inputs = [r.real(r.size(1, 2), group * inner, *(r.size(3, 6) for _ in range(rank))), r.real(group * inner, outer, *kernel), r.ints(0, 2, 2 * rank)]
        yield Case([*inputs, r.real(group * outer)] if k % 5 else inputs, attributes, constants=[2] if k % 4 == 3 else [])
