"""bfloat16 products on request: what is rounded, that results follow the interpreter's meaning, and how users see it."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper
from sardonyx import InferenceSession, SessionOptions
from sardonyx.compiler import pipeline
from sardonyx.compiler.importer import import_model
from sardonyx.ir import dtypes as dt
from sardonyx.ir.interpret import run_nests
from sardonyx.ir.loops import ContractionNest, NestProgram
from sardonyx.runtime.cli import cli
from sardonyx.runtime.exceptions import InvalidProtobuf
from sardonyx.runtime.options import PRECISION_KEY

RNG = np.random.default_rng(3)
EPS, UNIT = np.finfo(np.float32).eps, 2.0**-8  # half a unit of bfloat16's last place, relative


def options(precision: str = "bf16", threads: int = 1) -> SessionOptions:
    o = SessionOptions()
    o.intra_op_num_threads = threads
    o.add_session_config_entry(PRECISION_KEY, precision)
    return o


def model(nodes: list, inputs: Mapping[str, list], output: list, weights: Mapping[str, np.ndarray], kind: int = T.FLOAT) -> bytes:
    tensors = [onnx.numpy_helper.from_array(a, k) for k, a in weights.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(k, kind, s) for k, s in inputs.items()], [helper.make_tensor_value_info("y", kind, output)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10).SerializeToString()


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def layers(rows: int | str = 40) -> bytes:
    """Two dense layers, a product of activations between them, and a convolution behind."""
    make = helper.make_node
    nodes = [make("Gemm", ["x", "w", "b"], ["h"], transB=1), make("Gelu", ["h"], ["g"]), make("Transpose", ["g"], ["t"]), make("MatMul", ["g", "t"], ["s"]),
             make("Softmax", ["s"], ["p"]), make("MatMul", ["p", "g"], ["m"]), make("MatMul", ["m", "v"], ["y"])]
    return model(nodes, {"x": [rows, 50]}, [rows, 33], {"w": normal(48, 50) / 7, "b": normal(48), "v": normal(48, 33) / 7})


def picture() -> bytes:
    make = helper.make_node
    nodes = [make("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]), make("Relu", ["h"], ["r"]), make("Conv", ["r", "d"], ["e"], pads=[1, 1, 1, 1], group=32), make("Conv", ["e", "v"], ["y"], strides=[2, 2])]
    return model(nodes, {"x": [1, 5, 11, 9]}, [1, 20, 6, 5], {"w": normal(32, 5, 3, 3) / 7, "d": normal(32, 1, 3, 3) / 3, "v": normal(20, 32, 1, 1) / 6})


def program_of(source: bytes, precision: dt.DType) -> NestProgram:
    """The nests of a model behind all stages."""
    graph = import_model(source)
    chosen = pipeline.Options(precision=precision)
    pipeline.optimise(graph, chosen)
    return pipeline.lower_and_fuse(graph, chosen).program


def meaning(source: bytes, feeds: Mapping[str, np.ndarray], precision: dt.DType) -> np.ndarray:
    program = program_of(source, precision)
    return np.asarray(run_nests(program, {r: feeds[r.name] for r in program.inputs})[0])


@pytest.mark.parametrize("source,shape", [(layers(), (40, 50)), (layers(3), (3, 50)), (picture(), (1, 5, 11, 9))], ids=["layers", "few rows", "picture"])
def test_results_follow_the_interpreter(source: bytes, shape: tuple[int, ...]) -> None:
    """Where one sums in another order, a number between two products may round to the neighbour: by 2^-8 of itself. Seldom, and far below bfloat16's own error."""
    feeds = {"x": normal(*shape)}
    want, exact = meaning(source, feeds, dt.bfloat16), meaning(source, feeds, dt.float32)
    found = InferenceSession(source, options()).run(None, feeds)[0]
    scale = np.abs(exact).max()
    assert np.abs(found - want).max() <= UNIT * scale / 4
    assert np.median(np.abs(found - want)) <= 16 * EPS * scale
    assert 0 < np.abs(found - exact).max() <= 8 * UNIT * scale  # two roundings of operands in each of three products, and a margin
    plain = InferenceSession(source, options("float32")).run(None, feeds)[0]
    assert np.abs(plain - exact).max() <= 64 * EPS * scale


@pytest.mark.parametrize("rows", [1, 40, 150])
def test_threads_and_dynamic_rows_give_the_same_bits(rows: int) -> None:
    """Fixed and unknown numbers of rows may use different instructions, threads never do."""
    for source in (layers("n"), layers(rows)):
        feeds = {"x": normal(rows, 50)}
        one, two, three = (InferenceSession(source, options(threads=t)).run(None, feeds)[0] for t in (1, 2, 3))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def rounded_products(source: bytes) -> list[bool]:
    """Whether operands are rounded, of every product in order."""
    return [n.a.op == "cast" and n.b.op == "cast" for n in program_of(source, dt.bfloat16).nests if isinstance(n, ContractionNest)]


def test_products_with_weights_are_rounded_and_no_others() -> None:
    assert rounded_products(layers()) == [True, False, False, True]
    assert rounded_products(picture()) == [True, False, True]


@pytest.mark.parametrize("m,n,k", [(1, 40, 64), (5, 17, 33), (70, 48, 100)])
def test_one_product_is_the_rounded_one(m: int, n: int, k: int) -> None:
    w, x = normal(k, n), normal(m, k)
    source = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [m, k]}, [m, n], {"w": w})
    a, b = (v.astype(ml_dtypes.bfloat16).astype(np.float64) for v in (x, w))
    found = InferenceSession(source, options()).run(None, {"x": x})[0]
    assert np.all(np.abs(found - a @ b) <= (k + 1) * EPS * (np.abs(a) @ np.abs(b)))


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "Conv"])
@pytest.mark.parametrize("kind", [T.BFLOAT16, T.FLOAT16])
@pytest.mark.parametrize("constant", [True, False])
def test_models_of_narrow_types(operator: str, kind: int, constant: bool) -> None:
    """Narrow operands are multiplied as they are and summed in float32; results are rounded once."""
    dtype = ml_dtypes.bfloat16 if kind == T.BFLOAT16 else np.float16
    a, b = ((1, 24, 9, 9), (40, 24, 1, 1)) if operator == "Conv" else ((81, 24), (24, 40))
    x, w = normal(*a).astype(dtype), normal(*b).astype(dtype)
    shape = [1, 40, 9, 9] if operator == "Conv" else [81, 40]
    source = model([helper.make_node(operator, ["x", "w"], ["y"])], {"x": list(a)} | ({} if constant else {"w": list(b)}), shape, {"w": w} if constant else {}, kind)
    found = InferenceSession(source).run(None, {"x": x} | ({} if constant else {"w": w}))[0].astype(np.float64)
    wide = [v.astype(np.float64) for v in (x, w)]
    rows, columns = (wide[0].reshape(24, 81).T, wide[1].reshape(40, 24).T) if operator == "Conv" else wide
    want, size = rows @ columns, np.abs(rows) @ np.abs(columns)
    if operator == "Conv":
        found = found.reshape(40, 81).T
    assert np.all(np.abs(found - want) <= 25 * EPS * size + float(ml_dtypes.finfo(dtype).eps) * np.abs(want))


def test_the_choice_is_seen_checked_and_part_of_the_key() -> None:
    source = layers()
    o = SessionOptions()
    with pytest.raises(ValueError, match=r"session\.compute_precision = 'fp8': one of float32, bf16 was expected"):
        o.add_session_config_entry(PRECISION_KEY, "fp8")
    rounded, plain = InferenceSession(source, options()), InferenceSession(source)
    assert "products in bf16" in repr(rounded) and "bf16" not in repr(plain)
    feeds = {"x": normal(40, 50)}
    assert np.any(rounded.run(None, feeds)[0] != plain.run(None, feeds)[0])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, package = tmp_path / "m.onnx", tmp_path / "m.sdx"
    path.write_bytes(layers())

    def run(*arguments: str) -> str:
        cli([*arguments], standalone_mode=False)
        return capsys.readouterr().out
    assert "operands of 2 of 4 products are rounded to bf16" in run("explain", str(path), "--precision", "bf16")
    assert "rounded" not in run("explain", str(path))
    assert "differ from float32 by at most" in run("bench", str(path), "--precision", "bf16", "--seconds", "0.01")
    run("run", str(path), "--precision", "bf16")
    assert "bf16" in run("compile", str(path), "-o", str(package), "--precision", "bf16", "--dump", "precision")
    assert "products in bf16" in repr(InferenceSession(str(package)))
    assert "products in bf16" in repr(InferenceSession(str(package), options()))
    plain = tmp_path / "plain.sdx"
    run("compile", str(path), "-o", str(plain))
    with pytest.raises(InvalidProtobuf, match="compiled with precision float32, which cannot be changed to bf16"):
        InferenceSession(str(plain), options())
