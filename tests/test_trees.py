"""Tree ensembles of random shape against a plain walk over their nodes, compiled and interpreted, in every mode of comparison."""
from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import sardonyx  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from operator_harness import interpret, sample_graph  # noqa: E402
from sardonyx.ir.errors import ModelError  # noqa: E402
from sardonyx.ir.ops.base import Sample, find  # noqa: E402
from sardonyx.ir.ops.forest import Forest, lay_out  # noqa: E402

COMPARE = {"BRANCH_LEQ": np.less_equal, "BRANCH_LT": np.less, "BRANCH_GTE": np.greater_equal, "BRANCH_GT": np.greater, "BRANCH_EQ": np.equal, "BRANCH_NEQ": np.not_equal}
FEATURES, TREES = 4, 7


def grow(modes: list[str], leaves: int, targets: int, missing: bool, seed: int = 0) -> dict[str, tuple]:
    """Attributes of trees that split at random leaves, thresholds of few values so that rows hit them exactly; one tree is a lone leaf."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, list] = {f"nodes_{k}": [] for k in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true")}
    ends: dict[str, list] = {f"target_{k}": [] for k in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(TREES):
        links, free = [[-1, 0, 0]], [0]
        while tree != 3 and len(free) < leaves:
            k = free.pop(int(rng.integers(len(free))))
            below = [len(links), len(links) + 1]
            links[k] = [int(rng.integers(FEATURES)), *(below if rng.integers(2) else below[::-1])]
            links += [[-1, 0, 0], [-1, 0, 0]]
            free += below
        for k, (feature, yes, no) in enumerate(links):
            mode = "LEAF" if feature < 0 else modes[int(rng.integers(len(modes)))]
            row = (10 * tree, k, max(feature, 0), mode, float(rng.integers(-2, 3)), yes, no, int(missing and rng.integers(2)))
            for values, v in zip(nodes.values(), row, strict=True):
                values.append(v)
            for target in range(targets if mode == "LEAF" else 0):
                for values, v in zip(ends.values(), (10 * tree, k, target, float(np.float32(rng.standard_normal()))), strict=True):
                    values.append(v)
    return {k: tuple(v) for k, v in (nodes | ends).items()}


def walked(x: np.ndarray, a: dict[str, tuple], targets: int, how: str) -> np.ndarray:
    """The specification, a row and a tree at a time, in the input's type; summed in the order of the trees."""
    at = {key: k for k, key in enumerate(zip(a["nodes_treeids"], a["nodes_nodeids"], strict=True))}
    found = np.zeros((len(x), TREES, targets), x.dtype)
    for i, row in enumerate(x):
        for j, tree in enumerate(dict.fromkeys(a["nodes_treeids"])):
            k = at[tree, 0]
            while a["nodes_modes"][k] != "LEAF":
                v = row[a["nodes_featureids"][k]]
                yes = COMPARE[a["nodes_modes"][k]](v, x.dtype.type(a["nodes_values"][k])) or (np.isnan(v) and a["nodes_missing_value_tracks_true"][k])
                k = at[tree, a["nodes_truenodeids" if yes else "nodes_falsenodeids"][k]]
            for t, n, target, w in zip(*(a[f"target_{name}"] for name in ("treeids", "nodeids", "ids", "weights")), strict=True):
                if (t, n) == (tree, a["nodes_nodeids"][k]):
                    found[i, j, target] = w
    if how in ("MIN", "MAX"):
        return (found.min(1) if how == "MIN" else found.max(1)).astype(np.float32)
    total = np.zeros((len(x), targets), x.dtype)
    for j in range(TREES):
        total += found[:, j]
    return (total / x.dtype.type(TREES) if how == "AVERAGE" else total).astype(np.float32)


def rows(count: int, dtype: type) -> np.ndarray:
    """Values that meet the thresholds, some missing, some infinite."""
    rng = np.random.default_rng(count)
    x = rng.integers(-3, 4, (count, FEATURES)).astype(dtype)
    x[rng.random(x.shape) < 0.15] = np.nan
    x[rng.random(x.shape) < 0.05] = np.inf
    x[rng.random(x.shape) < 0.05] = -np.inf
    return x


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modes", [*([m] for m in COMPARE), list(COMPARE)], ids=lambda m: m[0] if len(m) == 1 else "all")
def test_every_comparison(modes: list[str], missing: bool) -> None:
    a, x = grow(modes, 12, 1, missing), rows(19, np.float32)
    graph, feeds, _ = sample_graph(find("ai.onnx.ml", "TreeEnsembleRegressor"), Sample((x,), a | {"n_targets": 1}, version=3))
    np.testing.assert_array_equal(interpret(graph, feeds)[0], walked(x, a, 1, "SUM"))


@pytest.mark.parametrize(("targets", "how", "missing", "dtype", "mode"), [
    (1, "SUM", False, np.float32, "BRANCH_LEQ"), (1, "SUM", True, np.float64, "BRANCH_LT"), (3, "SUM", True, np.float32, "BRANCH_NEQ"), (2, "MIN", False, np.float32, "BRANCH_GT"),
    (1, "MAX", False, np.float64, "BRANCH_GTE"), (1, "AVERAGE", False, np.float32, "BRANCH_EQ")])
def test_compiled_blocks_of_rows(targets: int, how: str, missing: bool, dtype: type, mode: str) -> None:
    """Counts of rows about the eight that go in step and the block's 64."""
    a = grow([mode], 20, targets, missing)
    kind = TensorProto.DOUBLE if dtype is np.float64 else TensorProto.FLOAT
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=targets, aggregate_function=how, **a)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, ["n", FEATURES])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)
    session = sardonyx.InferenceSession(made.SerializeToString())
    for count in (0, 1, 7, 8, 9, 64, 65, 79):
        x = rows(count, dtype)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], walked(x, a, targets, how), rtol=1e-6, atol=0)


def test_rows_without_the_features_are_refused() -> None:
    a = grow(["BRANCH_LEQ"], 12, 1, False)
    with pytest.raises(ModelError, match="fewer features"):
        sample_graph(find("ai.onnx.ml", "TreeEnsembleRegressor"), Sample((np.zeros((2, 1), np.float32),), a | {"n_targets": 1}, version=3))


def test_targets_beyond_the_result_are_refused() -> None:
    a = grow(["BRANCH_LEQ"], 4, 3, False)
    with pytest.raises(ModelError, match="targets 0 to 2, of 2"):
        sample_graph(find("ai.onnx.ml", "TreeEnsembleRegressor"), Sample((np.zeros((2, FEATURES), np.float32),), a | {"n_targets": 2}, version=3))


def forest(yes: list[int], no: list[int], modes: list[int]) -> Forest:
    none, count = np.zeros(0), len(modes)
    return Forest(np.zeros(count, np.int64), np.array(modes), np.zeros(count), np.array(yes), np.array(no), np.zeros(count, np.int64), none, none, none, np.array([0]))


def test_layout_keeps_children_together() -> None:
    found = lay_out(forest([4, 0, 0, 0, 3], [1, 0, 0, 0, 2], [0, -1, -1, -1, 0]))
    assert found is not None
    assert found.nodes.tolist() == [0, 4, 1, 3, 2] and found.children.tolist() == [1, 3, -1, -1, -1] and found.depths.tolist() == [2]


def test_cycles_have_no_layout() -> None:
    assert lay_out(forest([0, 0], [1, 0], [0, -1])) is None
