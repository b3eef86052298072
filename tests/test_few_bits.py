"""MatMulNBits over codes as they are: bits, blocks, zero points, ends of blocks and panels, few and many rows, numbers that are none."""
from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import sardonyx
from onnx import TensorProto, helper, numpy_helper
from sardonyx.codegen import few_bits
from sardonyx.codegen.numba_backend import compile_kernel
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.pipeline import Options, lower_and_fuse, optimise
from sardonyx.ir import dtypes as dt
from sardonyx.ir import target as targets
from sardonyx.ir.interpret import run_graph
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import ContractionNest, MapNest

RNG = np.random.default_rng(3)
TARGETS = {
    "avx512vnni": targets.Target("x86_64-unknown-linux-gnu", "x86-64-v4", "+avx512vnni,-prefer-256-bit", "avx512", 64, 32),
    "avxvnni": targets.Target("x86_64-unknown-linux-gnu", "x86-64-v3", "+avxvnni", "avx2", 32, 16),
    "avx512": targets.parse("x86-64-v4"),
    "avx2": targets.parse("x86-64-v3"),
}


def fields(packed: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of `bits` bits along the last axis, lowest bits first."""
    per = 8 // bits
    return ((packed[..., None] >> (np.arange(per) * bits).astype(np.uint8)) & ((1 << bits) - 1)).reshape(*packed.shape[:-1], -1)


def coded(a: np.ndarray, block: int) -> np.ndarray:
    """What accuracy level 4 makes of rows: int8 codes times a step for each block, in float64."""
    m, k = a.shape
    blocks = np.zeros((m, -(-k // block), block), np.float32)
    blocks.reshape(m, -1)[:, :k] = a
    largest = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return (np.rint(blocks * inverse).astype(np.float64) * (largest * np.float32(1 / 127))).reshape(m, -1)[:, :k]


def made(k: int, n: int, block: int, bits: int, zeros: str, rows: int | str, level: int = 0, kind: int = TensorProto.FLOAT) -> tuple[bytes, np.ndarray, np.ndarray]:
    """(model, weights [k, n] in float64, what bounds each weight's parts); `kind` is the type of rows and results."""
    blocks = -(-k // block)
    packed = RNG.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8)
    scales = (RNG.random((n, blocks)) * 0.02 + 0.001).astype(np.float32)
    constants = {"w": packed, "s": scales}
    zero = np.full((n, blocks), float(1 << bits - 1))
    if zeros == "codes":
        stored = RNG.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
        constants["z"], zero = stored, fields(stored, bits)[:, :blocks].astype(np.float64)
    elif zeros == "floats":
        constants["z"] = RNG.random((n, blocks)).astype(np.float32) * (1 << bits)
        zero = constants["z"].astype(np.float64)
    codes = fields(packed, bits).astype(np.float64)
    weights = ((codes - zero[..., None]) * scales[..., None]).reshape(n, -1)[:, :k].T
    bounds = np.repeat(scales.astype(np.float64) * 2.0 * (1 << bits), block, 1)[:, :k].T
    node = helper.make_node("MatMulNBits", ["a", *constants], ["y"], domain="com.microsoft", K=k, N=n, block_size=block, bits=bits, accuracy_level=level)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("a", kind, [rows, k])], [helper.make_tensor_value_info("y", kind, None)],
                              [numpy_helper.from_array(v, name) for name, v in constants.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=9)
    return proto.SerializeToString(), weights, bounds


def close(y: np.ndarray, a: np.ndarray, weights: np.ndarray, bounds: np.ndarray) -> None:
    """Half a step of 2^-23 of a row's largest for each number, and the rounding of float32 sums."""
    wide = a.astype(np.float64)
    largest = np.abs(wide).max(1, keepdims=True) * bounds.sum(0)
    allowed = 2.0**-24 * (2 * largest + (len(weights) + 8) * (np.abs(wide) @ bounds))
    assert y.dtype == np.float32 and y.shape == allowed.shape and (np.abs(y - wide @ weights) <= allowed).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", ["", "codes", "floats"])
@pytest.mark.parametrize("m,k,n,block", [(1, 256, 64, 32), (3, 70, 100, 16), (7, 300, 33, 64), (130, 96, 130, 32)])
def test_results(m: int, k: int, n: int, block: int, bits: int, zeros: str) -> None:
    proto, weights, bounds = made(k, n, block, bits, zeros, m)
    a = RNG.standard_normal((m, k)).astype(np.float32) * np.exp(RNG.standard_normal((m, 1)) * 4).astype(np.float32)
    close(sardonyx.InferenceSession(proto).run(None, {"a": a})[0], a, weights, bounds)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", ["", "codes", "floats"])
@pytest.mark.parametrize("m,k,n,block", [(1, 256, 160, 32), (2, 70, 100, 16), (3, 128, 32, 128), (5, 300, 33, 64), (130, 96, 130, 32)])
def test_rows_rounded_to_codes(m: int, k: int, n: int, block: int, bits: int, zeros: str) -> None:
    """Accuracy level 4: products of the rounded rows, each number of which is off by half a step at most."""
    proto, weights, bounds = made(k, n, block, bits, zeros, m, 4)
    a = RNG.standard_normal((m, k)).astype(np.float32) * np.exp(RNG.standard_normal((m, 1)) * 4).astype(np.float32)
    a[:, :block] *= 1e-3
    rounded = coded(a, block)
    y = sardonyx.InferenceSession(proto).run(None, {"a": a})[0]
    close(y, rounded, weights, bounds)
    steps = np.repeat([np.abs(a[:, b:b + block]).max(1) / 127 for b in range(0, k, block)], block, 0).T[:, :k]
    assert (np.abs(rounded - a) <= steps * (0.5 + 2.0**-15)).all()


@pytest.mark.parametrize("k", [64, 70])
def test_rounding_is_part_of_the_meaning(k: int) -> None:
    """The interpreter rounds the rows too."""
    proto, weights, bounds = made(k, 5, 32, 4, "codes", 3, 4)
    a = RNG.standard_normal((3, k)).astype(np.float32)
    close(np.asarray(run_graph(import_model(proto), {"a": a})[0]), coded(a, 32), weights, bounds)


@pytest.mark.parametrize("kind,exact", [(TensorProto.FLOAT, 0.0), (TensorProto.FLOAT16, 2.0**-11)])
def test_coded_rows_that_only_the_run_knows(kind: int, exact: float) -> None:
    proto, weights, bounds = made(160, 176, 32, 4, "codes", "rows", 4, kind)
    session = sardonyx.InferenceSession(proto)
    for m in (1, 2, 3, 4, 5, 9, 131):
        a = RNG.standard_normal((m, 160)).astype(helper.tensor_dtype_to_np_dtype(kind))
        y, rounded = session.run(None, {"a": a})[0], coded(a.astype(np.float32), 32)
        if exact:
            assert y.dtype == a.dtype and (np.abs(y - rounded @ weights) <= 1.01 * exact * np.abs(rounded @ weights) + 1e-5 * (np.abs(rounded) @ bounds)).all()
        else:
            close(y, rounded, weights, bounds)


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_largest_sums_of_a_block_are_exact(sign: int, bits: int, level: int) -> None:
    """Codes at their end by digits at theirs: each is -128 or 127, so that a narrow sum would overflow first here."""
    m, k, n, block = 5, 256, 96, 64
    largest = 127 * 65536
    a = np.full((m, k), largest if level else 64 * 65536 - 128 * 256 - 128, np.float32)
    a[:, ::block] = largest
    constants = {"w": np.full((n, k // block, block * bits // 8), 255, np.uint8), "s": np.ones((n, k // block), np.float32), "z": np.zeros((n, -(-k // block * bits // 8)), np.uint8)}
    node = helper.make_node("MatMulNBits", ["a", *constants], ["y"], domain="com.microsoft", K=k, N=n, block_size=block, bits=bits, accuracy_level=level)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("a", TensorProto.FLOAT, [m, k])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v, name) for name, v in constants.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=9)
    y = sardonyx.InferenceSession(proto.SerializeToString()).run(None, {"a": sign * a})[0]
    want = sign * a.astype(np.float64).sum(1) * ((1 << bits) - 1)
    assert (np.abs(y - want[:, None]) <= 2.0**-22 * np.abs(want[:, None])).all()


def scheduled(proto: bytes, target: targets.Target) -> list[MapNest | KernelCall] | None:
    """What the target's schedule of weights of few bits makes of a model of one product."""
    graph = import_model(proto)
    optimise(graph, Options())
    lowered = lower_and_fuse(graph, Options())
    nest = next(n for n in lowered.program.nests if isinstance(n, ContractionNest))
    return few_bits.schedule(nest, lowered.layouts, set(lowered.program.constants), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("zeros,size", [("codes", 1), ("floats", 4)])
def test_what_is_read_stays_packed(zeros: str, size: int, target: str) -> None:
    """What a run of one row reads: codes, scales, and zero points (as bytes where they are codes), for 128 columns of 8 blocks."""
    parts = scheduled(made(256, 128, 32, 4, zeros, 1)[0], TARGETS[target])
    assert parts is not None
    call, = (p for p in parts if isinstance(p, KernelCall))
    read = {t.name.rpartition(".")[2]: int(t.numel().value) * t.dtype.itemsize_bytes for t in call.buffers}
    assert (read["codes"], read["scales"], read["zeros"]) == (128 * 8 * 16, 128 * 8 * 4, 128 * 8 * size)


@pytest.mark.parametrize("target", ["x86-64-v2", "aarch64", "riscv64"])
def test_targets_without_such_products(target: str) -> None:
    assert scheduled(made(256, 128, 32, 4, "", 1)[0], targets.parse(target)) is None


@pytest.mark.parametrize("target", TARGETS)
def test_coded_rows_are_read_as_they_are(target: str) -> None:
    """The only copy is that to 16 bits, where the processor multiplies such numbers."""
    parts = scheduled(made(256, 128, 32, 4, "codes", 2, 4)[0], TARGETS[target])
    assert parts is not None
    call, = (p for p in parts if isinstance(p, KernelCall))
    digits = [t for t in call.buffers if t.dtype is (dt.int16 if target == "avx512" else dt.int8)]
    assert [int(t.numel().value) for t in digits] == [2 * 256]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits,level", [(2, 0), (4, 0), (8, 0), (2, 4), (4, 4), (8, 4)])
def test_kernels_compile(bits: int, level: int, target: str) -> None:
    """Objects for every processor that takes weights as they are, whatever this machine is."""
    parts = scheduled(made(256, 128, 32, bits, "codes", "rows", level)[0], TARGETS[target])
    assert parts is not None
    for part in parts:
        if isinstance(part, KernelCall):
            assert compile_kernel(part.kernel, TARGETS[target])


@pytest.mark.parametrize("digits", [few_bits.BYTES, few_bits.SHORT_SUMS, few_bits.PAIRS])
def test_digits_hold_the_largest_multiple(digits: few_bits.Digits) -> None:
    """No digit leaves its type, so no rounding of a row's largest number carries out of the last one; 2^23 steps or nearly so."""
    left, half = digits.largest, digits.base // 2
    for _ in range(digits.count - 1):
        digit = ((left + half) & (digits.base - 1)) - half
        left = (left - digit) >> digits.bits
    assert 0 <= left < half and digits.bits <= digits.stored.bits and digits.largest >= 0.99 * 2**23
    assert digits.fits(8, 128) and not digits.fits(8, 1 << 20)


def test_rows_that_only_the_run_knows() -> None:
    proto, weights, bounds = made(160, 96, 32, 4, "codes", "rows")
    session = sardonyx.InferenceSession(proto)
    for m in (1, 5, 6, 7, 20, 127, 300):
        a = RNG.standard_normal((m, 160)).astype(np.float32)
        close(session.run(None, {"a": a})[0], a, weights, bounds)


@pytest.mark.parametrize("level", [0, 4])
def test_zeros_and_numbers_that_are_none(level: int) -> None:
    proto, weights, bounds = made(128, 64, 32, 4, "", 5, level)
    a = RNG.standard_normal((5, 128)).astype(np.float32)
    a[0] = 0
    a[1, 40], a[2, 3] = np.nan, np.inf
    y = sardonyx.InferenceSession(proto).run(None, {"a": a})[0]
    assert not y[0].any() and np.isnan(y[1]).all() and not np.isfinite(y[2]).any()
    close(y[3:], coded(a[3:], 32) if level else a[3:], weights, bounds)


@pytest.mark.parametrize("dtype,zeros", [("int4", False), ("int4", True), ("uint4", False), ("uint4", True), ("int8", True), ("uint8", False)])
@pytest.mark.parametrize("k,block", [(128, 32), (70, 16)])
def test_dequantised_blocks(dtype: str, zeros: bool, k: int, block: int) -> None:
    """The same products spelled as DequantizeLinear in blocks and MatMul."""
    n, blocks = 48, -(-k // block)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    bits = 4 if "4" in dtype else 8
    low = 0 if dtype[0] == "u" else -(1 << bits - 1)
    w, z = (RNG.integers(low, low + (1 << bits), shape) for shape in ((k, n), (blocks, n)))
    scales = (RNG.random((blocks, n)) * 0.02 + 0.001).astype(np.float32)
    constants = {"w": w.astype(kind), "s": scales, **({"z": z.astype(kind)} if zeros else {})}
    nodes = [helper.make_node("DequantizeLinear", list(constants), ["f"], axis=0, block_size=block), helper.make_node("MatMul", ["a", "f"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 3, k])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(v, name) for name, v in constants.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    typed = import_model(proto)
    optimise(typed, Options())
    assert [x.op for x in typed.nodes] == ["MatMulNBits"]
    expanded = np.repeat(scales.astype(np.float64), block, 0)[:k]
    weights = (w - (np.repeat(z, block, 0)[:k] if zeros else 0)) * expanded
    a = RNG.standard_normal((2, 3, k)).astype(np.float32)
    y = sardonyx.InferenceSession(proto.SerializeToString()).run(None, {"a": a})[0]
    assert y.shape == (2, 3, n)
    close(y.reshape(6, n), a.reshape(6, k), weights, expanded * 2.0 * (1 << bits))
