"""SparseAttention against ONNX Runtime, which takes it only where each cache is written in place: both are bound to the same memory there."""
from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, ValueInfoProto, helper

ort = pytest.importorskip("onnxruntime")

import sardonyx  # noqa: E402
from sardonyx.compiler.importer import import_model  # noqa: E402
from sardonyx.ir.interpret import run_graph  # noqa: E402

BLOCKS, BLOCK = 4, 16
NAMES = ("query", "key", "value", "past_key", "past_value", "rows", "columns", "total", "lengths", "cos", "sin")


def layouts(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of random lower triangles of blocks, whose diagonals are seen."""
    rows, columns = [], []
    for _ in range(count):
        seen = np.tril(rng.integers(0, 2, (BLOCKS, BLOCKS))) | np.eye(BLOCKS, dtype=np.int64)
        rows.append(np.concatenate([[0], np.cumsum(seen.sum(1))]))
        columns.append(np.nonzero(seen)[1])
    width = max(map(len, columns))
    return np.array(rows, np.int32), np.array([[*c, *[-1] * (width - len(c))] for c in columns], np.int32)


def case(number: int) -> tuple[dict[str, np.ndarray | None], dict[str, object]]:
    rng = np.random.default_rng(number)

    def f(*s: int) -> np.ndarray:
        return rng.standard_normal(s).astype(np.float32)
    kv, per, batch, width = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.integers(1, 3)), 16
    heads, prompt, packed, rotary = kv * per, number % 2 == 0, number % 5 == 4, number % 3 == 2
    total = int(rng.integers(5, BLOCKS * BLOCK))
    queries = total if prompt else 1
    lengths = np.full(batch, total, np.int32)  # ONNX Runtime gives zeros for rows that are shorter than the longest
    counts = (heads + 2 * kv, None, None) if packed else (heads, kv, kv)
    new = [None if c is None else f(batch, queries, c * width) for c in counts]
    caches = [f(batch, kv, BLOCKS * BLOCK, width) for _ in range(2)]
    angles = rng.random((BLOCKS * BLOCK, width // 2))
    tables = [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)] if rotary else [None, None]
    inputs = [*new, *caches, *layouts(rng, per), np.array([total], np.int32), lengths, *tables]
    attributes: dict[str, object] = {"num_heads": heads, "kv_num_heads": kv, "sparse_block_size": BLOCK, **({"scale": 0.3} if number % 4 == 1 else {}),
                                     **({"do_rotary": 1, "rotary_interleaved": number // 3 % 2} if rotary else {})}
    return dict(zip(NAMES, inputs)), attributes


def model_of(inputs: dict[str, np.ndarray | None], attributes: dict[str, object], dynamic: bool) -> bytes:
    given = {k: v for k, v in inputs.items() if v is not None}
    infos = [helper.make_tensor_value_info(k, TensorProto.FLOAT if v.dtype == np.float32 else TensorProto.INT32, [f"{k}{j}" if dynamic else d for j, d in enumerate(v.shape)])
             for k, v in given.items()]
    node = helper.make_node("SparseAttention", [k if v is not None else "" for k, v in inputs.items()], ["y", "present_key", "present_value"], "node", domain="com.microsoft", **attributes)
    graph = helper.make_graph([node], "g", infos, [ValueInfoProto(name=o) for o in node.output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10).SerializeToString()


def by_onnxruntime(model: bytes, inputs: dict[str, np.ndarray | None]) -> list[np.ndarray]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    copies = {k: v.copy() for k, v in inputs.items() if v is not None}  # whose memory the values share
    values = {k: ort.OrtValue.ortvalue_from_numpy(v) for k, v in copies.items()}
    for k, v in values.items():
        binding.bind_ortvalue_input(k, v)
    binding.bind_output("y")
    for k in ("key", "value"):
        binding.bind_ortvalue_output(f"present_{k}", values[f"past_{k}"])
    session.run_with_iobinding(binding)
    return [binding.get_outputs()[0].numpy().copy(), copies["past_key"], copies["past_value"]]


@pytest.mark.parametrize("number", range(24))
def test_sparse_attention(number: int) -> None:
    inputs, attributes = case(number)
    model = model_of(inputs, attributes, number % 4 > 1)
    want = by_onnxruntime(model, inputs)
    given = {k: v for k, v in inputs.items() if v is not None}
    if number % 6 == 0:
        got = sardonyx.InferenceSession(model).run(None, given)
    else:
        got = run_graph(import_model(model), given)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)
