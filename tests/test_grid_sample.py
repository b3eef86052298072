"""GridSample where peers disagree: held against ONNX's own reference."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, ValueInfoProto, helper
from onnx.reference import ReferenceEvaluator
from sardonyx.compiler.importer import import_model
from sardonyx.ir.interpret import run_graph


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_cubic_outside_of_the_image(padding: str, corners: int) -> None:
    rng = np.random.default_rng(3)
    x, grid = rng.standard_normal((2, 2, 6, 5)).astype(np.float32), rng.uniform(-1.6, 1.6, (2, 4, 5, 2)).astype(np.float32)
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="cubic", padding_mode=padding, align_corners=corners)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in (("x", x), ("grid", grid))]
    model = helper.make_model(helper.make_graph([node], "g", inputs, [ValueInfoProto(name="y")]), opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    want, = ReferenceEvaluator(model).run(None, {"x": x, "grid": grid})
    got, = run_graph(import_model(model), {"x": x, "grid": grid})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
