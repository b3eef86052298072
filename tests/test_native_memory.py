"""Native libraries under the sanitizers: random shapes and values, wrong ones among them, each buffer against a page that nobody may touch."""
from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper, parser
from sardonyx.runtime.host import host_target
from sardonyx.runtime.model import CompileOptions, obtain
from sardonyx.runtime.native.tables import HERE, sources

HOST = host_target()
SOURCE = Path(__file__).parent / "native" / "random_runs.c"
RUNS = 400  # of each model
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")

CONVOLUTIONS = """g (float[2, 3, 20, 18] x) => (float[2, 5] y, float[2, 8, 10, 9] p) {
   h = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w1, b1)
   r = Relu(h)
   p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
   d = Conv<kernel_shape = [3, 3], group = 8, strides = [2, 2]>(p, w2)
   m = GlobalAveragePool(d)
   f = Flatten(m)
   y = Gemm(f, w3, b3)
}"""
TRANSFORMER = """g (float[batch, length, 24] x, bool[batch, length] keep) => (float[batch, length, 24] y, float[batch, 24] pooled) {
   heads = Constant<value_ints = [0, 0, 3, 8]>()
   joined = Constant<value_ints = [0, 0, 24]>()
   q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
   q1 = Reshape(q0, heads)  k1 = Reshape(k0, heads)  v1 = Reshape(v0, heads)
   q = Transpose<perm = [0, 2, 1, 3]>(q1)  k = Transpose<perm = [0, 2, 3, 1]>(k1)  v = Transpose<perm = [0, 2, 1, 3]>(v1)
   s0 = MatMul(q, k)
   axes = Constant<value_ints = [1, 2]>()
   mask = Unsqueeze(keep, axes)
   low = Constant<value_float = -10000.0>()
   s1 = Where(mask, s0, low)
   a = Softmax<axis = -1>(s1)
   o0 = MatMul(a, v)
   o1 = Transpose<perm = [0, 2, 1, 3]>(o0)
   o = Reshape(o1, joined)
   r = Add(x, o)
   y = LayerNormalization<axis = -1>(r, scale, shift)
   one = Constant<value_ints = [1]>()
   pooled = ReduceMean<keepdims = 0>(y, one)
}"""
RECURRENCE = """g (bool first, int64 count, float[steps, batch, 6] x, float[1, batch, 8] h) => (float[steps, 1, batch, 8] y, float[times, batch, 8] all, float[1, batch, 8] last) {
   y0, h0, c0 = LSTM<hidden_size = 8>(x, w, r, b, , h, h)
   chosen = If (first) <then_branch = t () => (float[1, batch, 8] a) { a = Tanh(h0) }, else_branch = e () => (float[1, batch, 8] c) { c = Sigmoid(c0) }>
   last, all = Loop (count, , chosen) <body = body (int64 i, bool go, float[1, batch, 8] before) => (bool on, float[1, batch, 8] after, float[batch, 8] each) {
      after = Add(before, h0)
      zero = Constant<value_ints = [0]>()
      each = Squeeze(after, zero)
      on = Identity(go)
   }>
   y = Identity(y0)
}"""
WEIGHTS = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "w3": (8, 5), "b3": (5,), "wq": (24, 24), "wk": (24, 24), "wv": (24, 24), "scale": (24,), "shift": (24,),
           "w": (1, 32, 6), "r": (1, 32, 8), "b": (1, 64)}
MODELS = {"convolutions": CONVOLUTIONS, "transformer": TRANSFORMER, "recurrence": RECURRENCE}


def serialised(name: str) -> bytes:
    model = parser.parse_model('<ir_version: 9, opset_import: ["": 18]>\n' + MODELS[name])
    used = {n for node in model.graph.node for n in node.input} - {n for node in model.graph.node for n in node.output}
    rng = np.random.default_rng(0)
    model.graph.initializer.extend(numpy_helper.from_array((rng.standard_normal(shape) / 4).astype(np.float32), n) for n, shape in WEIGHTS.items() if n in used)
    return model.SerializeToString()


def build(name: str, folder: Path) -> Path:
    """The program over a model's library, whose C is instrumented as well."""
    model = obtain(serialised(name), CompileOptions(), HOST)
    made = sources(model, name, HOST, None, threads=True)
    (folder / f"{name}.h").write_text(made.header)
    (folder / "tables.h").write_text(made.tables)
    (folder / "weights.bin").write_bytes(made.weights)
    for symbol in made.symbols:
        (folder / f"{symbol}.o").write_bytes(model.objects[symbol])
    command = ["cc", "-std=gnu11", *SANITIZERS, "-Wall", "-Wextra", "-Werror", "-I.", f"-DMODEL={name}", f'-DHEADER="{name}.h"', str(SOURCE), str(HERE / "library.c"),
               *(f"{s}.o" for s in made.symbols), "-o", "program", "-ldl", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "program"


@pytest.mark.parametrize("name", MODELS)
def test_random_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run([build(name, tmp_path), str(RUNS), "1", "0", "19", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    right, refused = map(int, re.fullmatch(r"(\d+) right, (\d+) refused\n", done.stdout).groups())
    assert right + refused == RUNS and refused >= RUNS // 8
