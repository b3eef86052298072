"""The formula of a model's memory against what an executor reserves and what runs return."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
import sardonyx
from sardonyx.ir import expr as ex
from sardonyx.ir import integer
from sardonyx.runtime.memory import memory_need

MODELS = {
    "perceptron": """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 40] x) => (float[N, 40] y)
        <float[40, 300] w, float[300, 40] v> { a = MatMul (x, w)  b = Relu (a)  y = MatMul (b, v) }""",
    "attention": """<ir_version: 8, opset_import: ["" : 17]> g (float[B, S, 24] q, float[B, T, 24] k) => (float[B, S, 24] y, float[B, S] m)
        { t = Transpose <perm = [0, 2, 1]> (k)  s = MatMul (q, t)  p = Softmax (s)  y = MatMul (p, k)  m = ReduceMax <axes = [2], keepdims = 0> (s) }""",
    "fixed": """<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3, 9, 9] x) => (float[2, 5, 9, 9] y)
        <float[5, 3, 3, 3] w> { c = Conv <pads = [1, 1, 1, 1]> (x, w)  s = Softmax <axis = 1> (c)  y = Softmax <axis = 3> (s) }""",
}


def parsed(text: str) -> onnx.ModelProto:
    """A model whose declared values (between the outputs and the nodes) are weights."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for declared in model.graph.value_info:
        shape = [d.dim_value for d in declared.type.tensor_type.shape.dim]
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), declared.name))
    del model.graph.value_info[:]
    return model


def value(e: ex.Expr, sizes: dict[str, int]) -> int:
    found = integer.as_int(ex.substitute_one(e, {ex.sym(n): ex.const(v) for n, v in sizes.items()}))
    assert found is not None, e.text
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("threads", [1, 2])
def test_formula_gives_what_is_reserved(name: str, threads: int) -> None:
    options = sardonyx.SessionOptions()
    options.intra_op_num_threads = threads
    session = sardonyx.InferenceSession(parsed(MODELS[name]), options)
    need = memory_need(session._model.plan)
    symbols = {d for i in session.get_inputs() for d in i.shape if isinstance(d, str)}
    for sizes in ({n: k + s for k, n in enumerate(sorted(symbols))} for s in (0, 1, 7, 64, 100)):
        shapes = [tuple(sizes.get(d, d) for d in i.shape) for i in session.get_inputs()]
        assert session._executor.arena_bytes(shapes) == value(need.arena, sizes) + session._executor.tables.threads * value(need.scratch, sizes)
        results = session.run(None, {i.name: np.ones(s, np.float32) for i, s in zip(session.get_inputs(), shapes, strict=True)})
        assert sum(np.asarray(r).nbytes for r in results) == value(need.results, sizes)


def test_formula_is_short() -> None:
    """Equal sizes are counted as one: the arena of a stack of layers is no longer than that of one layer."""
    layers = " ".join(f"h{k} = MatMul (x{k}, w)  x{k + 1} = Softmax (h{k})" for k in range(30))
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N, 40] x0) => (float[N, 40] x30) <float[40, 40] w> {{ {layers} }}"""
    need = memory_need(sardonyx.InferenceSession(parsed(text))._model.plan)
    assert need.results.text == "(160*N)"
    assert len(need.arena.text) < 80, need.arena.text
