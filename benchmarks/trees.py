"""Tree ensembles against ONNX Runtime, float32 and float64: `python benchmarks/trees.py [part of a name] [--threads N] [--rows N,N,...]`.

Both run in one process, in turns; least times are shown, as what else the machine does only ever adds. Results are compared before anything is timed.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort
import sardonyx
from onnx import ModelProto, TensorProto, helper


@dataclass(frozen=True)
class Case:
    """A forest: `depth` of complete trees or, where `leaves` is given, the most leaves of trees that grow at random."""

    name: str
    trees: int
    depth: int
    features: int
    targets: int = 1
    leaves: int = 0
    classifier: bool = False
    double: bool = False
    mode: str = "BRANCH_LEQ"
    post: str = "NONE"
    missing: bool = False


CASES = (
    Case("regressor 500 x 8", 500, 8, 50),
    Case("classifier 500 x 8, 2 classes", 500, 8, 50, 1, classifier=True, post="LOGISTIC"),
    Case("classifier 500 x 8, 10 classes", 500, 8, 50, 10, classifier=True, post="SOFTMAX"),
    Case("regressor 500 x 6", 500, 6, 30),
    Case("regressor 100 x 10", 100, 10, 100),
    Case("regressor 10 x 8", 10, 8, 20),
    Case("boosted 500, 31 leaves", 500, 40, 50, leaves=31),
    Case("forest 100, 2000 leaves", 100, 40, 50, leaves=2000),
    Case("regressor 500 x 8, missing", 500, 8, 50, missing=True),
    Case("regressor 500 x 8, less than", 500, 8, 50, mode="BRANCH_LT"),
    Case("regressor 500 x 8, float64", 500, 8, 50, double=True),
    Case("regressor 200 x 8, 5 targets", 200, 8, 50, 5),
)


def grow(case: Case, rng: np.random.Generator) -> list[list[int]]:
    """[feature, yes, no] of one tree's nodes, feature -1 at leaves, breadth first or, with `leaves`, split at random leaves."""
    nodes = [[-1, 0, 0]]
    if not case.leaves:
        for k in range((1 << case.depth) - 1):
            nodes[k] = [int(rng.integers(case.features)), len(nodes), len(nodes) + 1]
            nodes += [[-1, 0, 0], [-1, 0, 0]]
        return nodes
    level, open_leaves = {0: 0}, [0]
    while len(open_leaves) < case.leaves:
        k = open_leaves.pop(int(rng.integers(len(open_leaves))))
        if level[k] == case.depth:
            continue
        nodes[k] = [int(rng.integers(case.features)), len(nodes), len(nodes) + 1]
        for child in (len(nodes), len(nodes) + 1):
            level[child] = level[k] + 1
            open_leaves.append(child)
            nodes.append([-1, 0, 0])
    return nodes


def model(case: Case, seed: int = 0) -> ModelProto:
    """One ensemble node; thresholds of float32 throughout, as version 1 of the operators has them."""
    rng = np.random.default_rng(seed)
    prefix = "class" if case.classifier else "target"
    nodes: dict[str, list] = {f"nodes_{k}": [] for k in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true")}
    ends: dict[str, list] = {f"{prefix}_{k}": [] for k in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(case.trees):
        for k, (feature, yes, no) in enumerate(grow(case, rng)):
            leaf = feature < 0
            row = (tree, k, max(feature, 0), "LEAF" if leaf else case.mode, 0.0 if leaf else float(np.float32(rng.standard_normal())), yes, no, int(case.missing and rng.integers(2)))
            for values, v in zip(nodes.values(), row, strict=True):
                values.append(v)
            if leaf:
                target = tree % case.targets if case.classifier else None
                for t in range(case.targets) if target is None else (target,):
                    for values, v in zip(ends.values(), (tree, k, t, float(rng.standard_normal())), strict=True):
                        values.append(v)
    kind = TensorProto.DOUBLE if case.double else TensorProto.FLOAT
    extra = {"classlabels_int64s": list(range(max(case.targets, 2)))} if case.classifier else {"n_targets": case.targets}
    names = ["label", "y"] if case.classifier else ["y"]
    node = helper.make_node("TreeEnsembleClassifier" if case.classifier else "TreeEnsembleRegressor", ["x"], names, domain="ai.onnx.ml", post_transform=case.post,
                            **nodes, **ends, **extra)
    outputs = [helper.make_tensor_value_info(n, TensorProto.INT64 if n == "label" else TensorProto.FLOAT, None) for n in names]
    graph = helper.make_graph([node], "trees", [helper.make_tensor_value_info("x", kind, ["n", case.features])], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)], ir_version=8)


def timed(*runs: Callable[[], object], seconds: float) -> list[float]:
    """Least seconds of each run, taken in turns."""
    times: list[list[float]] = [[] for _ in runs]
    while sum(map(sum, times)) < seconds or len(times[0]) < 5:
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return [min(t) for t in times]


def sessions(case: Case, threads: int) -> tuple[object, object, float]:
    """Ours, ONNX Runtime's, and the seconds that ours took to make."""
    data = model(case).SerializeToString()
    made = []
    start = time.perf_counter()
    for library in (sardonyx, ort):
        options = library.SessionOptions()
        options.intra_op_num_threads = threads
        made.append(library.InferenceSession(data, options, providers=["CPUExecutionProvider"]))
        if library is sardonyx:
            seconds = time.perf_counter() - start
    return made[0], made[1], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", default="1,32,10000")
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    for case in CASES:
        if given.name not in case.name:
            continue
        ours, theirs, seconds = sessions(case, given.threads)
        for rows in map(int, given.rows.split(",")):
            x = np.random.default_rng(1).standard_normal((rows, case.features)).astype(np.float64 if case.double else np.float32)
            if case.missing:
                x[np.random.default_rng(2).random(x.shape) < 0.1] = np.nan
            got, want = ours.run(None, {"x": x}), theirs.run(None, {"x": x})
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
            mine, other = timed(partial(ours.run, None, {"x": x}), partial(theirs.run, None, {"x": x}), seconds=given.seconds)
            print(f"{case.name:32s} {rows:6d} rows  {mine * 1e6:10.1f} us   ONNX Runtime {other * 1e6:10.1f} us   {other / mine:5.2f}x   made in {seconds:4.1f} s", flush=True)


if __name__ == "__main__":
    main()
