"""Winograd's convolution against direct sums in float64, and which convolutions are given to it."""
from __future__ import annotations

import numpy as np
import pytest
from contraction_oracle import Scheduled
from sardonyx.runtime.host import host_target
from test_contraction import CHANNELS_LAST, convolution, convolve

LANES = host_target().lanes(4)
EPS = float(np.finfo(np.float32).eps)


def scheduled(x_shape: tuple[int, ...], columns: int, pads: tuple[int, ...], seed: int = 0) -> tuple[Scheduled, np.ndarray, np.ndarray]:
    """A 3x3 convolution with bias and ReLU: its kernels, the expected results and a bound on rounding errors."""
    rng = np.random.default_rng(seed)
    w_shape = (columns, x_shape[1], 3, 3)
    nest, (tx, tw, tb, ty), _ = convolution(x_shape, w_shape, (1, 1), (1, 1), pads)
    x, w, bias = (rng.standard_normal(s).astype(np.float32) for s in (x_shape, w_shape, (columns,)))
    found = Scheduled(nest, {tx: x, tw: w, tb: bias}, {t: CHANNELS_LAST[4] for t in (tx, ty)}, {tw, tb})
    expected = np.maximum(convolve(x, w, (1, 1), (1, 1), pads, 1) + bias[:, None, None], 0)
    # a square's transforms add up to 4 inputs, 3 weights along each side and 9 products; all of a square's inputs enter each of its results
    spread = np.pad(np.abs(x), [(0, 0), (0, 0), (1, 1), (1, 1)])
    spread = np.max([np.roll(spread, (i, j), (2, 3)) for i in (-1, 0, 1) for j in (-1, 0, 1)], 0)[:, :, 1:-1, 1:-1]
    bound = 4 * (x_shape[1] + 16) * EPS * (convolve(spread, np.abs(w), (1, 1), (1, 1), pads, 1) + np.abs(bias)[:, None, None] + 1)
    return found, expected, bound


@pytest.mark.parametrize("height", (6, 7, 8, 13))
@pytest.mark.parametrize("width", (6, 9, 14))
@pytest.mark.parametrize("pads", ((1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 2, 1)))
def test_images_and_paddings(height: int, width: int, pads: tuple[int, ...]) -> None:
    found, expected, bound = scheduled((2, 64, height, width), 64, pads)  # enough channels to repay the transforms on every machine
    call = found.ready[-1][0]
    assert call.kernel.name.startswith("winograd")
    found.run()
    assert np.all(np.abs(found.get(call.buffers[-1]) - expected) <= bound)


@pytest.mark.parametrize("columns", (2 * LANES, 2 * LANES + 1, 3 * LANES, 5 * LANES + 3))
@pytest.mark.parametrize("channels", (2, 3, 5))
def test_channels(columns: int, channels: int) -> None:
    found, expected, bound = scheduled((1, channels * LANES, 12, 12), columns, (1, 1, 1, 1))
    call = found.ready[-1][0]
    found.run()
    assert np.all(np.abs(found.get(call.buffers[-1]) - expected) <= bound)


def test_results_do_not_depend_on_the_split_of_units() -> None:
    results = []
    for split in (1, 2, 5):
        found, _, _ = scheduled((3, 4 * LANES, 15, 15), 8 * LANES, (1, 1, 1, 1))
        found.run(split=split)
        results.append(found.get(found.ready[-1][0].buffers[-1]).copy())
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_few_channels_and_odd_numbers_of_them_are_computed_directly() -> None:
    for channels, columns in ((LANES + 1, 64), (3, 64), (4 * LANES, LANES)):
        found, _, _ = scheduled((1, channels, 12, 12), columns, (1, 1, 1, 1))
        assert not found.ready[-1][0].kernel.name.startswith("winograd")
