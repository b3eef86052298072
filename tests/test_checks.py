"""Sizes that do not fit each other are refused before a run, with the node and both sizes, instead of being read past their ends."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
import sardonyx
from onnx import TensorProto, helper


def session(op, names, shapes, constants=(), **attributes):
    node = helper.make_node(op, names, ["y"], name="culprit", **attributes)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=False)]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants)
    return sardonyx.InferenceSession(helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(("op", "names", "shapes", "attributes", "good", "bad", "reason"), [
    ("Add", ["a", "b"], [["N"], ["M"]], {}, [ones(3), ones(1)], [ones(3), ones(2)], "'culprit' .*do not broadcast: N against M"),
    ("MatMul", ["a", "b"], [["N", "K"], ["L", "M"]], {}, [ones(3, 4), ones(4, 5)], [ones(3, 4), ones(3, 5)], "inner dimensions differ: K against L"),
    ("Concat", ["a", "b"], [["N", "K"], ["L", "M"]], {"axis": 0}, [ones(3, 4), ones(2, 4)], [ones(3, 4), ones(3, 5)], "dimension 1 of the parts differs"),
    ("Reshape", ["a", "s"], [["N", "K"]], {}, [ones(3, 4)], [ones(3, 5)], "elements do not fit the shape"),
])
def test_sizes_that_do_not_fit(op, names, shapes, attributes, good, bad, reason):
    constants = [helper.make_tensor("s", TensorProto.INT64, [2], [-1, 6])] if op == "Reshape" else []
    s = session(op, names, shapes, constants, **attributes)
    s.run(None, dict(zip(names, good, strict=False)))
    with pytest.raises(Exception, match=reason):
        s.run(None, dict(zip(names, bad, strict=False)))
    s.run(None, dict(zip(names, good, strict=False)))
