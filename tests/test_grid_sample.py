"""GridSample where peers disagree: held against ONNX's own reference."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator
from sardonyx import InferenceSession
from sardonyx.compiler.importer import import_model
from sardonyx.ir.interpret import run_graph


def model_of(x: np.ndarray, grid: np.ndarray, **attributes: object) -> ModelProto:
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], **attributes)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in (("x", x), ("grid", grid))]
    return helper.make_model(helper.make_graph([node], "g", inputs, [ValueInfoProto(name="y")]), opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_channels_share_positions(padding: str, channels: int, mode: str) -> None:
    """More positions than a unit has, for channels that fill no group of four."""
    rng = np.random.default_rng(3)
    x, grid = rng.standard_normal((2, channels, 6, 5)).astype(np.float32), rng.uniform(-1.4, 1.4, (2, 7, 11, 2)).astype(np.float32)
    model = model_of(x, grid, mode=mode, padding_mode=padding)
    want, = ReferenceEvaluator(model).run(None, {"x": x, "grid": grid})
    got, = InferenceSession(model.SerializeToString()).run(None, {"x": x, "grid": grid})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_volumes() -> None:
    rng = np.random.default_rng(3)
    x, grid = rng.standard_normal((1, 3, 4, 3, 5)).astype(np.float32), rng.uniform(-1.4, 1.4, (1, 3, 4, 6, 3)).astype(np.float32)
    model = model_of(x, grid)
    want, = ReferenceEvaluator(model).run(None, {"x": x, "grid": grid})
    got, = InferenceSession(model.SerializeToString()).run(None, {"x": x, "grid": grid})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_what_lies_outside_weighs_nothing() -> None:
    """Padding stands in for elements, whatever those that are read in their stead hold."""
    x = np.full((1, 2, 3, 3), np.inf, np.float32)
    grid = np.full((1, 2, 2, 2), 3.0, np.float32)
    got, = InferenceSession(model_of(x, grid).SerializeToString()).run(None, {"x": x, "grid": grid})
    np.testing.assert_array_equal(got, np.zeros((1, 2, 2, 2), np.float32))


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_cubic_outside_of_the_image(padding: str, corners: int) -> None:
    rng = np.random.default_rng(3)
    x, grid = rng.standard_normal((2, 2, 6, 5)).astype(np.float32), rng.uniform(-1.6, 1.6, (2, 4, 5, 2)).astype(np.float32)
    model = model_of(x, grid, mode="cubic", padding_mode=padding, align_corners=corners)
    want, = ReferenceEvaluator(model).run(None, {"x": x, "grid": grid})
    got, = run_graph(import_model(model), {"x": x, "grid": grid})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
