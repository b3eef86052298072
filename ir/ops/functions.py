"""Scalar functions that routines call by name, such as `exp_f32`: here with their meaning on NumPy scalars; kernels get vectorisable code of the same name."""
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
