"""Functions that routines call by name, such as `exp_f32`: here with their meaning in NumPy; kernels get vectorised code of the same name."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import expr as ex


def _meaning(op: str, kind: type[np.floating]) -> Callable[..., np.floating]:
    def function(*arguments: object) -> np.floating:
        return kind(ex.evaluate_op(op, [np.asarray(a, kind) for a in arguments]))
    function.__name__ = f"{op}_{'f32' if kind is np.float32 else 'f64'}"
    return function


exp_f32, exp_f64 = _meaning("exp", np.float32), _meaning("exp", np.float64)
log_f32, log_f64 = _meaning("log", np.float32), _meaning("log", np.float64)
tanh_f32, tanh_f64 = _meaning("tanh", np.float32), _meaning("tanh", np.float64)
sigmoid_f32, sigmoid_f64 = _meaning("sigmoid", np.float32), _meaning("sigmoid", np.float64)


def add_panel_product(total: np.ndarray, at: int, between: int, state: np.ndarray, first: int, apart: int, rows: int, weights: np.ndarray, base: int, panel: int, size: int,
                      columns: int) -> None:
    """total[at + i * between + j] += sum over k < size of state[first + i * apart + k] * weights[base + k * panel + j], for i < rows and j < columns.

    At most four rows, at least one element and column. Kernels may go on to the panel's end, a multiple of 128: totals and weights must reach there.
    """
    block = weights[base + np.arange(size)[:, None] * panel + np.arange(columns)]
    for i in range(rows):
        total[at + i * between:at + i * between + columns] += state[first + i * apart:first + i * apart + size] @ block
