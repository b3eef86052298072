"""Dequantise -> operator -> quantise as computation over codes: operators before and after, results against the spelled form, and cases that must stay."""
from __future__ import annotations

import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.pipeline import Options, lower_and_fuse, optimise
from sardonyx.compiler.recognise import recognise
from sardonyx.compiler.simplify import simplify
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.interpret import run_graph

RNG = np.random.default_rng(5)
node = helper.make_node


def codes(dtype: type, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


def model(nodes: list, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)) -> object:
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()]
    ends = []
    for name in outputs:
        ends.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        ends[-1].ClearField("type")
    graph = helper.make_graph(nodes, "g", infos, ends, [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def after(proto: object, disabled: tuple[str, ...] = ()) -> list[str]:
    """Operators after the rules; those of constants are folded."""
    graph, options = import_model(proto), Options(disabled=frozenset(disabled))
    simplify(graph, options)
    recognise(graph, options)
    simplify(graph, options)
    return [n.op for n in graph.nodes]


def check(proto: object, feeds: dict[str, np.ndarray], off: float = 0.02) -> None:
    """The compiled model against the spelled form in the interpreter.

    Codes may differ by one step where a sum falls next to the middle between two: of each element's value two float32 roundings differ, a share of about 1e-4
    of a step here; `off` is the share of elements that may. Floats may differ by the rounding of sums of up to 576 products.
    """
    expected = run_graph(import_model(proto), feeds)
    session = sardonyx.InferenceSession(proto.SerializeToString())  # type: ignore[attr-defined]
    for got, want in zip(session.run(None, feeds), expected, strict=True):
        got, want = np.asarray(got), np.asarray(want)
        assert got.dtype == want.dtype and got.shape == want.shape
        if want.dtype.kind in "iu":
            distance = np.abs(got.astype(np.int64) - want.astype(np.int64))
            assert distance.max(initial=0) <= 1 and (distance > 0).mean() <= off
        else:
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max(initial=1.0) * 24)


def convolution(left: type, weights: tuple[int, ...], groups: int, by_channel: bool, tail: list, zero: int = 3, **attributes: object) -> tuple[object, dict[str, np.ndarray]]:
    x = codes(left, 2, weights[1] * groups, 9, 8)
    w = codes(np.int8, *weights)
    m = weights[0]
    scale = (RNG.random(m) * 0.01 + 0.001).astype(np.float32) if by_channel else np.float32(0.004)
    constants = {"x_scale": np.float32(0.02), "x_zero": left(zero), "w": w, "w_scale": scale, "w_zero": np.zeros(np.shape(scale), np.int8),
                 "b": RNG.integers(-3000, 3000, m).astype(np.int32), "b_scale": (np.float32(0.02) * scale).astype(np.float32), "y_scale": np.float32(0.11), "y_zero": np.uint8(121)}
    nodes = [node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["xf"]), node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
             node("DequantizeLinear", ["b", "b_scale"], ["bf"], axis=0), node("Conv", ["xf", "wf", "bf"], ["c"], group=groups, **attributes), *tail]
    return model(nodes, {"x": x}, constants), {"x": x}


QUANTISE = [node("QuantizeLinear", ["c", "y_scale", "y_zero"], ["y"])]
RELU_QUANTISE = [node("Relu", ["c"], ["r"]), node("QuantizeLinear", ["r", "y_scale", "y_zero"], ["y"])]


@pytest.mark.parametrize("left,weights,groups,by_channel,attributes", [
    (np.uint8, (40, 16, 3, 3), 1, True, {"pads": (1, 1, 1, 1)}), (np.int8, (33, 21, 1, 1), 1, True, {"strides": (2, 2)}), (np.uint8, (24, 1, 3, 3), 24, True, {"pads": (1, 1, 1, 1)}),
    (np.uint8, (8, 4, 3, 3), 2, False, {"auto_pad": "SAME_UPPER"}), (np.int8, (20, 3, 5, 5), 1, False, {"pads": (2, 2, 2, 2), "strides": (2, 2)})])
@pytest.mark.parametrize("tail", [QUANTISE, RELU_QUANTISE])
def test_convolutions(left: type, weights: tuple[int, ...], groups: int, by_channel: bool, attributes: dict, tail: list) -> None:
    proto, feeds = convolution(left, weights, groups, by_channel, tail, **attributes)
    found = after(proto)
    assert "ConvInteger" in found and "Conv" not in found and "DequantizeLinear" not in found
    check(proto, feeds)


def test_the_scale_of_the_result_is_no_division() -> None:
    proto, _ = convolution(np.uint8, (40, 16, 3, 3), 1, True, RELU_QUANTISE)
    assert after(proto) == ["ConvInteger", "Cast", "Mul", "Add", "Relu", "QuantizeLinear"]
    found = after(proto, ("product-of-codes",))
    assert "Conv" in found and "ConvInteger" not in found


def residual(scales: tuple[float, float], kept: bool) -> tuple[object, dict[str, np.ndarray]]:
    a, b = codes(np.uint8, 2, 5, 6, 7), codes(np.uint8, 2, 5, 6, 7)
    constants = {"sa": np.float32(scales[0]), "sb": np.float32(scales[1]), "za": np.uint8(7), "zb": np.uint8(200), "s": np.float32(0.07), "z": np.uint8(30)}
    nodes = [node("DequantizeLinear", ["a", "sa", "za"], ["af"]), node("DequantizeLinear", ["b", "sb", "zb"], ["bf"]), node("Add", ["af", "bf"], ["t"]),
             node("Relu", ["t"], ["r"]), node("QuantizeLinear", ["r", "s", "z"], ["y"])]
    return model(nodes, {"a": a, "b": b}, constants, ("y", "t") if kept else ("y",)), {"a": a, "b": b}


@pytest.mark.parametrize("kept", [False, True])
def test_sums_of_codes(kept: bool) -> None:
    proto, feeds = residual((0.03, 0.05), kept)
    check(proto, feeds)
    graph = import_model(proto)
    simplify(graph, Options())
    recognise(graph, Options())
    scale = next(n for n in graph.nodes if n.op == "QuantizeLinear").inputs[1]
    assert scale is not None and scale.constant is not None and (float(scale.constant) == 1.0) == (not kept)


def product(left: type, right: type, a_shape: tuple[int, ...], b_shape: tuple[int, ...], constant: bool, by_column: bool) -> tuple[object, dict[str, np.ndarray]]:
    a, b = codes(left, *a_shape), codes(right, *b_shape)
    n = b_shape[-1]
    constants = {"sa": np.float32(0.01), "za": left(17), "sb": (RNG.random(n) * 0.01 + 0.01).astype(np.float32) if by_column else np.float32(0.02),
                 "zb": codes(right, n) if by_column else right(9), "s": np.float32(0.9), "z": np.uint8(128)}
    nodes = [node("DequantizeLinear", ["a", "sa", "za"], ["af"]), node("DequantizeLinear", ["b", "sb", "zb"], ["bf"], axis=len(b_shape) - 1),
             node("MatMul", ["af", "bf"], ["c"]), node("QuantizeLinear", ["c", "s", "z"], ["y"])]
    if constant:
        return model(nodes, {"a": a}, {**constants, "b": b}), {"a": a}
    return model(nodes, {"a": a, "b": b}, constants), {"a": a, "b": b}


@pytest.mark.parametrize("left,right", [(np.uint8, np.int8), (np.int8, np.int8), (np.int8, np.uint8)])
@pytest.mark.parametrize("a_shape,b_shape,constant,by_column", [
    ((3, 17, 70), (70, 40), True, True), ((3, 17, 70), (70, 40), True, False), ((2, 3, 9, 20), (2, 3, 20, 33), False, False), ((1, 64), (64, 100), True, True)])
def test_products(left: type, right: type, a_shape: tuple[int, ...], b_shape: tuple[int, ...], constant: bool, by_column: bool) -> None:
    proto, feeds = product(left, right, a_shape, b_shape, constant, by_column)
    assert after(proto) == ["MatMulInteger", "Cast", "Mul", "QuantizeLinear"]
    check(proto, feeds)


def test_scales_along_rows_stay_in_float() -> None:
    proto, feeds = product(np.uint8, np.int8, (3, 40), (40, 40), True, True)
    next(n for n in proto.graph.node if n.output[0] == "bf").attribute[0].i = 0  # type: ignore[attr-defined]
    assert "MatMul" in after(proto)
    check(proto, feeds, 0.05)


@pytest.mark.parametrize("turned", [{}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}])
def test_gemm(turned: dict) -> None:
    a, b = codes(np.uint8, *((30, 7) if turned.get("transA") else (7, 30))), codes(np.int8, *((20, 30) if turned.get("transB") else (30, 20)))
    constants = {"b": b, "sa": np.float32(0.01), "za": np.uint8(90), "sb": (RNG.random(20) * 0.01 + 0.01).astype(np.float32), "c": RNG.standard_normal(20).astype(np.float32)}
    nodes = [node("DequantizeLinear", ["a", "sa", "za"], ["af"]), node("DequantizeLinear", ["b", "sb"], ["bf"], axis=0 if turned.get("transB") else 1),
             node("Gemm", ["af", "bf", "c"], ["y"], **turned)]
    proto = model(nodes, {"a": a}, constants)
    assert "MatMulInteger" in after(proto) and "Gemm" not in after(proto)
    check(proto, {"a": a})


@pytest.mark.parametrize("moves,shape", [
    ([node("MaxPool", ["xf"], ["m"], kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))], (2, 3, 9, 8)), ([node("Transpose", ["xf"], ["m"], perm=(0, 2, 3, 1))], (2, 3, 4, 5)),
    ([node("Transpose", ["xf"], ["t"], perm=(1, 0)), node("Reshape", ["t", "shape"], ["m"])], (6, 4)), ([node("Gather", ["xf", "rows"], ["m"])], (6, 4)),
    ([node("Concat", ["xf", "xf"], ["m"], axis=1)], (6, 4)), ([node("Split", ["xf"], ["m", "other"], axis=0, num_outputs=2)], (6, 4))])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_movement(moves: list, shape: tuple[int, ...], dtype: type) -> None:
    x = codes(dtype, *shape)
    constants = {"s": np.float32(0.37), "z": dtype(11), "shape": np.array([2, -1], np.int64), "rows": np.array([[1, 5], [0, 0]], np.int64)}
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["xf"]), *moves, node("QuantizeLinear", ["m", "s", "z"], ["y"])]
    proto = model(nodes, {"x": x}, constants)
    assert after(proto) == [n.op_type for n in moves]
    check(proto, {"x": x}, off=0)


def test_other_scales_are_requantised() -> None:
    x = codes(np.uint8, 6, 4)
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["xf"]), node("Transpose", ["xf"], ["t"]), node("QuantizeLinear", ["t", "s2", "z"], ["y"])]
    proto = model(nodes, {"x": x}, {"s": np.float32(0.37), "s2": np.float32(0.5), "z": np.uint8(11)})
    assert after(proto) == ["Transpose", "DequantizeLinear", "QuantizeLinear"]
    check(proto, {"x": x})


def test_rows_of_a_dequantised_table_are_gathered_as_codes() -> None:
    table, rows = codes(np.int8, 50, 16), RNG.integers(0, 50, (2, 7))
    nodes = [node("DequantizeLinear", ["table", "s", "z"], ["tf"]), node("Gather", ["tf", "rows"], ["y"])]
    proto = model(nodes, {"rows": rows}, {"table": table, "s": np.float32(0.02), "z": np.int8(0)})
    assert after(proto) == ["Gather", "DequantizeLinear"]
    check(proto, {"rows": rows})


def test_wide_codes_stay_in_float() -> None:
    a, b = codes(np.int16, 4, 9), codes(np.int16, 9, 5)
    nodes = [node("DequantizeLinear", ["a", "s"], ["af"]), node("DequantizeLinear", ["b", "s"], ["bf"]), node("MatMul", ["af", "bf"], ["y"])]
    proto = model(nodes, {"a": a, "b": b}, {"s": np.float32(0.001)})
    proto.opset_import[0].version = 21  # type: ignore[attr-defined]
    proto.ir_version = 10  # type: ignore[attr-defined]
    assert after(proto) == ["DequantizeLinear", "DequantizeLinear", "MatMul"]


@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(7), np.int8(-3), np.int16(100)])
def test_codes_that_are_read_again_are_the_same_at_every_level(zero: np.generic) -> None:
    """Rounding to codes and back within one kernel, of numbers beyond the codes and of none as well."""
    x = np.array([0.0, 0.5, 1.5, -0.5, -1.5, 1e9, -1e9, 3e38, np.inf, -np.inf, np.nan, 25.25, 126.5, 127.5, -128.5, -129.0, 254.5, 255.5, 32767.5, -32769.0], np.float32)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["f"]), node("Add", ["f", "one"], ["t"]),
             node("QuantizeLinear", ["t", "s2", "z"], ["y"])]
    proto = model(nodes, {"x": x}, {"s": np.float32(1), "s2": np.float32(0.7), "z": zero, "one": np.float32(0.25)})
    proto.opset_import[0].version = 21  # type: ignore[attr-defined]
    proto.ir_version = 10  # type: ignore[attr-defined]
    results = []
    for level in (sardonyx.GraphOptimizationLevel.ORT_DISABLE_ALL, sardonyx.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = sardonyx.SessionOptions()
        options.graph_optimization_level = level
        results.append(sardonyx.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0])  # type: ignore[attr-defined]
    low, high = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
    with np.errstate(invalid="ignore"):
        codes = np.clip(np.where(np.isnan(x), -np.inf, np.rint(x.astype(np.float64))) + float(zero), low, high) - float(zero)
    expected = np.clip(np.rint((codes + 0.25).astype(np.float32) / np.float32(0.7)) + float(zero), low, high)
    np.testing.assert_array_equal(results[0], expected.astype(zero.dtype))
    assert np.abs(results[0].astype(np.int64) - results[1].astype(np.int64)).max() <= 1 and (results[0] != results[1]).mean() <= 0.1


def test_a_chain_of_codes_stays_float_within_a_kernel() -> None:
    x = codes(np.uint8, 4, 6)
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["xf"]), node("Add", ["xf", "one"], ["t"]), node("QuantizeLinear", ["t", "s2", "z"], ["q"]),
             node("DequantizeLinear", ["q", "s2", "z"], ["f"]), node("Mul", ["f", "one"], ["u"]), node("QuantizeLinear", ["u", "s", "z"], ["y"])]
    proto = model(nodes, {"x": x}, {"s": np.float32(0.37), "s2": np.float32(0.5), "z": np.uint8(11), "one": np.float32(1.25)})
    graph = import_model(proto)
    optimise(graph, Options())
    values = [v for n in lower_and_fuse(graph, Options()).program.nests for v in n.values]  # type: ignore[union-attr]
    narrowed = [e for e in ex.walk(values) if e.op == "cast" and e.dtype is dt.uint8]
    assert len(narrowed) == 1 and sum(e.op == "round" for e in ex.walk(values)) == 2
    check(proto, {"x": x})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("coded", [True, False])
def test_costly_functions_of_a_code_are_tables(dtype: type, coded: bool) -> None:
    x = np.arange(256).astype(np.uint8).view(dtype).reshape(2, 16, 8)
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["xf"]), node("Erf", ["xf"], ["e"]), node("Mul", ["xf", "e"], ["g"]), node("Transpose", ["g"], ["y"], perm=(2, 0, 1))]
    if coded:
        nodes[-1] = node("QuantizeLinear", ["g", "s", "z"], ["y"])
    proto = model(nodes, {"x": x}, {"s": np.float32(0.03), "z": dtype(5)})
    graph = import_model(proto)
    optimise(graph, Options())
    program = lower_and_fuse(graph, Options()).program
    costly = [n for n in program.nests if any(e.op == "erf" for e in ex.walk(n.values))]  # type: ignore[union-attr]
    assert len(program.nests) == 2 and len(costly) == 1 and [a.extent.value for a in costly[0].axes] == [256]  # type: ignore[union-attr]
    check(proto, {"x": x})


def test_functions_of_a_code_and_something_else_are_no_tables() -> None:
    x, w = codes(np.uint8, 4, 6), RNG.standard_normal(6).astype(np.float32)
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["xf"]), node("Add", ["xf", "w"], ["t"]), node("Exp", ["t"], ["y"])]
    proto = model(nodes, {"x": x}, {"s": np.float32(0.03), "z": np.uint8(5), "w": w})
    graph = import_model(proto)
    optimise(graph, Options())
    assert len(lower_and_fuse(graph, Options()).program.nests) == 1
    check(proto, {"x": x})


def test_a_small_negative_number_becomes_the_zero_without_sign() -> None:
    x = np.array([-0.3, 0.3, -0.0, 0.0, -0.7], np.float32)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["f"]), node("Div", ["one", "f"], ["y"])]
    proto = model(nodes, {"x": x}, {"s": np.float32(1), "z": np.uint8(9), "one": np.float32(1)})
    np.testing.assert_array_equal(sardonyx.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0], np.array([np.inf] * 4 + [-1], np.float32))  # type: ignore[attr-defined]
