"""Rounding errors of whole models: `python benchmarks/accuracy.py FOLDER_OR_MODEL... [--filter TEXT]`.

The reference is the same model in float64: every float32 tensor, constant and type in it becomes float64 (but the scales of Resize, which the standard wants in
float32), and it is run once, by Sardonyx without optimisation. Errors are the largest difference of any output, relative to that output's largest magnitude.
OpenVINO is compared where it is installed; nan: the runtime refuses the model.
"""
from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import sardonyx
from models import feeds_of, models
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
TYPE_ATTRIBUTES = ("to", "dtype", "stash_type", "softmax_precision")
SINGLE_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}  # positions that are float32 whatever the data
Arrays = Sequence[np.ndarray]
Run = Callable[[Path, Mapping[str, np.ndarray]], Arrays]


def doubled(path: Path) -> ModelProto:
    """The model at `path` in float64."""
    model = onnx.load(str(path))
    single = {n.input[k] for n in model.graph.node for k in SINGLE_INPUTS.get(n.op_type, ()) if k < len(n.input) and n.input[k]}
    double_graph(model.graph, single)
    for f in model.functions:
        for node in f.node:
            double_node(node, single)
    return model


def double_graph(graph: GraphProto, single: set[str]) -> None:
    for v in (*graph.input, *graph.output, *graph.value_info):
        if v.type.tensor_type.elem_type == FLOAT and v.name not in single:
            v.type.tensor_type.elem_type = DOUBLE
    for t in graph.initializer:
        if t.name not in single:
            double_tensor(t)
    for node in graph.node:
        if not (node.op_type == "Constant" and node.output[0] in single):
            double_node(node, single)


def double_node(node: NodeProto, single: set[str]) -> None:
    for a in node.attribute:
        if a.type == AttributeProto.TENSOR:
            double_tensor(a.t)
        elif a.type == AttributeProto.GRAPH:
            double_graph(a.g, single)
        elif a.name in TYPE_ATTRIBUTES and a.i == FLOAT:
            a.i = DOUBLE
        elif node.op_type == "Constant" and a.name in ("value_float", "value_floats"):
            value = a.f if a.name == "value_float" else list(a.floats)
            a.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(np.asarray(value, np.float64))))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def double_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def double_run(path: Path, feed: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs of the model in float64."""
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = sardonyx.InferenceSession(doubled(path).SerializeToString(), options)
    return session.run(None, {k: a.astype(np.float64) if a.dtype == np.float32 else a for k, a in feed.items()})


def onnxruntime_run(path: Path, feed: Mapping[str, np.ndarray]) -> Arrays:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, dict(feed))


def openvino_run(path: Path, feed: Mapping[str, np.ndarray]) -> Arrays:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(dict(feed)).values())


def peer_error(run: Run, path: Path, feed: Mapping[str, np.ndarray], exact: Arrays) -> float:
    """Error of a runtime, not a number where it refuses the model."""
    try:
        return error(run(path, feed), exact)
    except (RuntimeError, ort.capi.onnxruntime_pybind11_state.Fail, ort.capi.onnxruntime_pybind11_state.NotImplemented) as e:
        print(f"{path.stem}: {run.__name__}: {str(e).splitlines()[0]}", file=sys.stderr)
        return math.nan


def sardonyx_run(path: Path, feed: Mapping[str, np.ndarray]) -> Arrays:
    return sardonyx.InferenceSession(str(path)).run(None, dict(feed))


def error(found: Arrays, exact: Arrays) -> float:
    """Largest difference relative to the output's largest magnitude."""
    worst = 0.0
    for a, b in zip(found, exact, strict=True):
        if b.size and b.dtype == np.float64:
            worst = max(worst, float(np.abs(a.astype(np.float64) - b).max() / max(float(np.abs(b).max()), np.finfo(np.float32).tiny)))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+")
    parser.add_argument("--filter", default="", help="part of a model's path")
    arguments = parser.parse_args()
    runs: dict[str, Run] = {"Sardonyx": sardonyx_run, "ONNX Runtime": onnxruntime_run}
    if find_spec("openvino") is not None:
        runs["OpenVINO"] = openvino_run
    print(f"{'model':32s}" + "".join(f"{name:>14s}" for name in runs))
    worst = dict.fromkeys(runs, 0.0)
    for path in models(arguments.places, arguments.filter):
        feed = feeds_of(path, sardonyx.InferenceSession(str(path)), {})
        exact = double_run(path, feed)
        errors = {name: peer_error(run, path, feed, exact) for name, run in runs.items()}
        worst = {name: max(worst[name], 0.0 if math.isnan(e) else e) for name, e in errors.items()}
        print(f"{path.stem:32s}" + "".join(f"{e:14.1e}" for e in errors.values()), flush=True)
    print(f"{'worst':32s}" + "".join(f"{e:14.1e}" for e in worst.values()))


if __name__ == "__main__":
    main()
