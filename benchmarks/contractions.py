"""Products and convolutions against ONNX Runtime, one thread: `python benchmarks/contractions.py [part of a name]`.

`python benchmarks/contractions.py squares` prints the table of docs/performance.md: products of square matrices, beside ONNX Runtime, OpenVINO and NumPy.
"""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is loaded

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import onnxruntime as ort
import sardonyx
from contraction_oracle import Scheduled, size
from onnx import TensorProto, helper, numpy_helper
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.expr import Tensor
from sardonyx.ir.loops import ContractionNest, Store
from sardonyx.runtime.probe import fma_flops
from test_contraction import CHANNELS_LAST, convolution

PEAK_FLOPS = fma_flops()  # of one core, measured now
RNG = np.random.default_rng(0)
PRODUCTS = ((384, 3072, 768), (128, 768, 768), (128, 3072, 768), (128, 768, 3072), (197, 768, 768), (128, 50257, 768), (1, 768, 2048), (1, 3072, 768), (4, 768, 768), (16, 768, 768))
BATCHED = (("bmk,bkn->bmn", 12, 128, 128, 64), ("bmk,bnk->bmn", 12, 128, 128, 64), ("bmk,bkn->bmn", 12, 128, 64, 128), ("bmk,bkn->bmn", 12, 384, 64, 384),
           ("bmk,bnk->bmn", 12, 384, 384, 64), ("bmk,bnk->bmn", 12, 1, 384, 64))
SQUARES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
BATCH_SECONDS = 1e-3  # runs between two readings of the clock take about this long
# image, channels in, channels out, kernel, stride, groups
LAYERS = ((56, 64, 64, 3, 1, 1), (28, 128, 128, 3, 1, 1), (56, 128, 128, 3, 2, 1), (14, 256, 256, 3, 1, 1), (7, 512, 512, 3, 1, 1), (14, 512, 512, 3, 2, 1),
          (56, 64, 256, 1, 1, 1), (56, 256, 64, 1, 1, 1), (28, 512, 128, 1, 1, 1), (14, 1024, 256, 1, 1, 1), (7, 2048, 512, 1, 1, 1), (7, 512, 2048, 1, 1, 1), (56, 256, 512, 1, 2, 1),
          (224, 3, 64, 7, 2, 1), (224, 3, 32, 3, 2, 1), (112, 32, 32, 3, 1, 32), (112, 64, 64, 3, 2, 64), (14, 384, 384, 5, 1, 384), (14, 576, 576, 3, 1, 576), (7, 960, 960, 5, 1, 960),
          (56, 128, 128, 3, 1, 32))


def timed(*runs: Callable[[], object], seconds: float = 0.6) -> list[float]:
    """Least seconds of each run, taken in turns: what else the machine does only ever adds."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    while sum(map(sum, times)) < seconds or len(times[0]) < 8:
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return [min(t) for t in times]


def cpu_seconds(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Least CPU time of a run of each, taken in turns: other processes take time away from it, but add none to it."""
    counts, best = {}, dict.fromkeys(runs, float("inf"))
    for name, run in runs.items():
        run()
        start = time.process_time()
        run()
        counts[name] = max(1, int(BATCH_SECONDS / max(time.process_time() - start, 1e-6)))
    end = time.monotonic() + seconds * len(runs)
    while time.monotonic() < end:
        for name, run in runs.items():
            start = time.process_time()
            for _ in range(counts[name]):
                run()
            best[name] = min(best[name], (time.process_time() - start) / counts[name])
    return best


def reference(node_inputs: list[tuple[str, tuple[int, ...]]], nodes: list[object], constants: dict[str, np.ndarray]) -> Callable[[], object]:
    """ONNX Runtime on the same computation."""
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in node_inputs],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(a, n) for n, a in constants.items()])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString(), options)
    feeds = {n: RNG.standard_normal(s).astype(np.float32) for n, s in node_inputs}
    return lambda: session.run(None, feeds)


def report(name: str, nest: ContractionNest, arrays: dict[Tensor, np.ndarray], layouts: dict[Tensor, tuple[int, ...]], constants: set[Tensor], flops: float,
           other: Callable[[], object]) -> None:
    """Run both and print a line."""
    start = time.perf_counter()
    scheduled = Scheduled(nest, arrays, layouts, constants)
    compiled = time.perf_counter() - start
    prepared = scheduled.prepared()
    ours, theirs = timed(prepared, other)
    kernel = scheduled.ready[-1][0]
    print(f"{name:34s} {kernel.kernel.name:24s} {ours * 1e6:9.1f} us {flops / ours / 1e9:6.1f} GFLOP/s {flops / ours / PEAK_FLOPS:5.0%}   ONNX Runtime {theirs * 1e6:9.1f} us "
          f"{flops / theirs / 1e9:6.1f}   {theirs / ours:5.2f}x   compiled in {compiled * 1e3:4.0f} ms, {len(scheduled.ready)} calls, {size(kernel.units, {})} units", flush=True)


def product(m: int, n: int, k: int) -> None:
    rows, columns, inner = ex.axis(m, "m"), ex.axis(n, "n"), ex.axis(k, "k")
    a, b, c, bias = (Tensor(t, dt.float32, tuple(map(ex.const, s))) for t, s in (("a", (m, k)), ("b", (k, n)), ("c", (m, n)), ("bias", (n,))))
    nest = ContractionNest((), (rows,), (columns,), (inner,), a[rows, inner], b[inner, columns], dt.float32, (Store(c, (rows, columns), ex.acc(dt.float32) + bias[columns]),))
    arrays = {t: RNG.standard_normal([int(d.value) for d in t.shape]).astype(np.float32) for t in (a, b, bias)}
    other = reference([("x", (m, k))], [helper.make_node("Gemm", ["x", "w", "z"], ["y"])], {"w": arrays[b], "z": arrays[bias]})
    report(f"product {m}x{n}x{k}", nest, arrays, {}, {b, bias}, 2 * m * n * k, other)


def batched(equation: str, batch: int, m: int, n: int, k: int) -> None:
    axes = {s: ex.axis(d, s) for s, d in zip("bmnk", (batch, m, n, k))}
    (left, right), out = equation.split("->", maxsplit=1)[0].split(","), equation.split("->")[1]
    a, b, c = (Tensor(t, dt.float32, tuple(axes[s].extent for s in labels)) for t, labels in (("a", left), ("b", right), ("c", out)))
    nest = ContractionNest((axes["b"],), (axes["m"],), (axes["n"],), (axes["k"],), a[tuple(axes[s] for s in left)], b[tuple(axes[s] for s in right)], dt.float32,
                           (Store(c, tuple(axes[s] for s in out), ex.acc(dt.float32)),))
    arrays = {t: RNG.standard_normal([int(d.value) for d in t.shape]).astype(np.float32) for t in (a, b)}
    shapes = [("x", arrays[a].shape), ("w", arrays[b].shape)]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if right == "bnk":
        nodes = [helper.make_node("Transpose", ["w"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    report(f"{equation} {batch}x{m}x{n}x{k}", nest, arrays, {}, set(), 2 * batch * m * n * k, reference(shapes, nodes, {}))


def layer(image: int, channels: int, out: int, kernel: int, stride: int, groups: int) -> None:
    pad, shape, weights = kernel // 2, (1, channels, image, image), (out, channels // groups, kernel, kernel)
    nest, (x, w, b, y), result = convolution(shape, weights, (stride,) * 2, (1, 1), (pad,) * 4, groups)
    arrays = {t: RNG.standard_normal([int(d.value) for d in t.shape]).astype(np.float32) for t in (x, w, b)}
    layouts = {t: CHANNELS_LAST[4] for t in (x, y) if t is y or channels > 4}
    nodes = [helper.make_node("Conv", ["x", "w", "z"], ["c"], pads=[pad] * 4, strides=[stride] * 2, group=groups), helper.make_node("Relu", ["c"], ["y"])]
    flops = 2 * int(np.prod(result)) * weights[1] * kernel * kernel
    report(f"conv {image}x{image} {channels}->{out} {kernel}x{kernel} /{stride} g{groups}", nest, arrays, layouts, {w, b}, flops,
           reference([("x", shape)], nodes, {"w": arrays[w], "z": arrays[b]}))


def square(size: int) -> None:
    """One line of the table: x @ w for a constant w, each program through its own Python interface."""
    import openvino

    x, w = (RNG.standard_normal((size, size)).astype(np.float32) for _ in range(2))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)], [numpy_helper.from_array(w, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    ours_options, options = sardonyx.SessionOptions(), ort.SessionOptions()
    ours_options.intra_op_num_threads = options.intra_op_num_threads = 1
    ours, theirs = sardonyx.InferenceSession(model, ours_options), ort.InferenceSession(model, options)
    core = openvino.Core()
    request = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    out = np.empty_like(x)
    runs = {"Sardonyx": lambda: ours.run(None, {"x": x}), "ONNX Runtime": lambda: theirs.run(None, {"x": x}), "OpenVINO": request.infer, "NumPy": lambda: np.matmul(x, w, out=out)}
    rates = [2 * size ** 3 / s for s in cpu_seconds(runs, 1.0).values()]
    print(f"| {size} | {' | '.join(f'{r / 1e9:.0f}' for r in rates)} | {rates[0] / PEAK_FLOPS:.0%} |", flush=True)


def squares() -> None:
    print(f"Ceiling of one core: {PEAK_FLOPS / 1e9:.0f} GFLOP/s\n\n| size | Sardonyx | ONNX Runtime | OpenVINO | NumPy | of the ceiling |\n|---|---|---|---|---|---|")
    for n in SQUARES:
        square(n)


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if wanted == "squares":
        squares()
        return
    for name, function, cases in (("product", product, PRODUCTS), ("batched", batched, BATCHED), ("layer", layer, LAYERS)):
        for case in cases:
            if wanted in f"{name} {' '.join(map(str, case))}":
                function(*case)


if __name__ == "__main__":
    main()
