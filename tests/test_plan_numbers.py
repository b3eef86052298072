"""The size program in Python against the size program in the driver."""
from __future__ import annotations

import random

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper
from sardonyx.codegen.driver import driver_kernel
from sardonyx.codegen.numba_backend import compile_kernel
from sardonyx.ir.plan import OPERATORS, Instruction, Plan, Port
from sardonyx.ir.plan_numbers import fixed_shapes, numbers
from sardonyx.runtime.executor import Executor
from sardonyx.runtime.host import host_target

EDGES = [0, 1, -1, 2, -2, 7, -7, 64, (1 << 62) + 3, -(1 << 62), (1 << 63) - 1, -(1 << 63)]
REALS = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 1e9, -7.25]


@pytest.fixture(scope="module")
def driver() -> dict[str, bytes]:
    kernel = driver_kernel(False)
    return {kernel.symbol: compile_kernel(kernel, host_target())}


def bits(x: float) -> int:
    return int(np.float64(x).view(np.int64))


@pytest.mark.parametrize("operator", [o for o in OPERATORS if not o.startswith("load")])
def test_every_operator_as_in_the_driver(operator: str, driver: dict[str, bytes]) -> None:
    rng = random.Random(operator)
    real = operator.startswith("f")
    for _ in range(40):
        values = [bits(rng.choice(REALS)) if real else rng.choice([*EDGES, rng.randrange(-1000, 1000)]) for _ in range(3)]
        plan = Plan(host_target().key, [*values, 0, 0], [], [], [Instruction(operator, 3, 0, 1, 2)], 1, [], [], [], [], [], [], 0, 4)
        ours, theirs = numbers(plan, {})[3], int(Executor(plan, driver, []).numbers([])[3])
        both_nan = real and np.isnan(np.array([ours, theirs], np.int64).view(np.float64)).all()  # whose sign and payload no standard fixes
        assert ours == theirs or both_nan, (operator, values)


def test_a_models_numbers_as_in_the_driver() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]), helper.make_node("Flatten", ["c"], ["f"]), helper.make_node("Softmax", ["f"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k"])],
                              [helper.make_tensor("w", TensorProto.FLOAT, [8, 3, 3, 3], [0.1] * 216)])
    session = sardonyx.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())
    for shape in ((1, 3, 8, 8), (2, 3, 31, 17), (5, 3, 3, 64)):
        assert numbers(session._model.plan, {0: shape}) == session._executor.numbers([shape]).tolist()


def test_fixed_shapes() -> None:
    def plan(*shapes: tuple[int | str | None, ...] | None) -> Plan:
        return Plan("", [], [], [], [], 0, [], [Port(str(k), "tensor(float)", s, k) for k, s in enumerate(shapes)], [], [], [], [], 0, 0)
    assert fixed_shapes(plan((2, 3), ())) == {0: (2, 3), 1: ()}
    assert fixed_shapes(plan((2, "n"))) is None and fixed_shapes(plan(None)) is None and fixed_shapes(plan((None,))) is None
