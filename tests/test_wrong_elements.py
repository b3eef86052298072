"""Elements that an operator cannot take, known when compiling or only when running, are errors that name the node; nothing is left unwritten."""
from __future__ import annotations

import numpy as np
import pytest
import sardonyx
from onnx import ValueInfoProto, helper, numpy_helper, parser
from sardonyx.runtime.exceptions import InvalidArgument, InvalidGraph

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CASES = [("Div", (np.int32([7, 5]), np.int32([1, 0])), {}, "divided by zero"), ("Mod", (whole(7), whole(0)), {}, "divided by zero"), ("Mod", (np.uint8([7]), np.uint8([0])), {"fmod": 1}, "divided by zero"),
         ("Gather", (X, whole(0, 3)), {"axis": 0}, "out of range"), ("Gather", (X, np.array(-5, np.int64)), {"axis": 1}, "out of range"), ("GatherElements", (X, whole(0, 3).reshape(1, 2)), {}, "out of range"),
         ("GatherND", (X, whole(2, 4, 0, 0).reshape(2, 2)), {}, "out of range"), ("ScatterElements", (X, whole(0, -4).reshape(1, 2), X[:1, :2]), {}, "out of range"),
         ("ScatterND", (X, whole(3).reshape(1, 1), X[:1]), {}, "out of range"), ("Unsqueeze", (X, whole(3)), {}, "axis"), ("CumSum", (X, np.array(2, np.int64)), {}, "axis"),
         ("Slice", (X, whole(0), whole(2), whole(0), whole(0)), {}, "step"), ("Range", (np.array(0), np.array(5), np.array(0)), {}, "delta is 0"),
         ("ReverseSequence", (X, whole(1, 4, 1, 1)), {}, "longer"), ("TopK", (X, whole(5)), {}, "k is")]


def model(op: str, inputs: tuple[np.ndarray, ...], attributes: dict, constants: frozenset[int], dynamic: bool) -> bytes:
    outputs = ["y", "z"] if op == "TopK" else ["y"]
    given = [helper.make_tensor_value_info(f"x{k}", helper.np_dtype_to_tensor_dtype(a.dtype), [f"d{k}_{m}" if dynamic else d for m, d in enumerate(a.shape)])
             for k, a in enumerate(inputs) if k not in constants]
    graph = helper.make_graph([helper.make_node(op, [f"x{k}" for k in range(len(inputs))], outputs, "culprit", **attributes)], "g", given, [ValueInfoProto(name=o) for o in outputs],
                              [numpy_helper.from_array(inputs[k], f"x{k}") for k in sorted(constants)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


@pytest.mark.parametrize("known", ["nothing", "what is wrong", "everything"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("op", "inputs", "attributes", "reason"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_each_is_an_error(op: str, inputs: tuple[np.ndarray, ...], attributes: dict, reason: str, known: str, dynamic: bool) -> None:
    constants = frozenset({"nothing": (), "what is wrong": range(1, len(inputs)), "everything": range(len(inputs))}[known])
    with pytest.raises((InvalidArgument, InvalidGraph), match=f"culprit.*({reason}|out of range)"):
        sardonyx.InferenceSession(model(op, inputs, attributes, constants, dynamic)).run(None, {f"x{k}": a for k, a in enumerate(inputs) if k not in constants})


@pytest.mark.parametrize("level", [sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL, sardonyx.GraphOptimizationLevel.ORT_ENABLE_ALL])
def test_what_no_run_reaches_is_none(level: object) -> None:
    """Indices that do not fit stand in a branch that is not taken, and in a loop that stops before."""
    source = parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
    g (float[n, 4] x, bool c, int64 m) => (float[a, 4] y, float[k, 4] z) {
       y = If (c) <then_branch = t () => (float[p, 4] tv) { far = Constant<value_ints = [9]>()
                                                            tv = Gather(x, far) },
                   else_branch = f () => (float[q, 4] fv) { near = Constant<value_ints = [1]>()
                                                            fv = Gather(x, near) }>
       yes = Constant<value = bool {1}>()
       z = Loop (m, yes) <body = b (int64 i, bool ci) => (bool co, float[4] row) { row = Gather(x, i)
                                                                                  co = Identity(ci) }>
    }""")
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = level
    session = sardonyx.InferenceSession(source.SerializeToString(), options)
    y, z = session.run(None, {"x": X, "c": np.array(False), "m": np.array(3)})
    assert y.tolist() == X[1:2].tolist() and z.tolist() == X.tolist()
    for taken, turns in ((True, 3), (False, 4)):
        with pytest.raises(InvalidArgument, match="out of range"):
            session.run(None, {"x": X, "c": np.array(taken), "m": np.array(turns)})
    assert session.run(["z"], {"x": X, "c": np.array(False), "m": np.array(2)})[0].tolist() == X[:2].tolist()


def test_what_lies_beyond_the_data_is_not_taken() -> None:
    """A condition of Compress may be longer than the data."""
    inputs = X, np.array([True, False, True, True])
    got, = sardonyx.InferenceSession(model("Compress", inputs, {"axis": 0}, frozenset(), True)).run(None, {"x0": inputs[0], "x1": inputs[1]})
    assert got.tolist() == X[[0, 2]].tolist()
