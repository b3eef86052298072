"""Cases of com.microsoft's operators on codes."""
from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from contrib_cases import Case, Draw, cases, shapes

MS = "com.microsoft"
BYTES = (np.uint8, np.int8)


def small(r: Draw, dtype: object, *shape: int) -> np.ndarray:
    """Codes whose products ONNX Runtime adds without saturating on any processor."""
    return r.ints(-60, 60, *shape, dtype=np.int8) if dtype is np.int8 else r.ints(60, 190, *shape, dtype=np.uint8)


def parameters(r: Draw, kind: type) -> list[np.ndarray]:
    return [r.scale(), r.codes(kind)]


def binary(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28)):
        kind = BYTES[k % 2]
        other = [d if r.flag() else 1 for d in shape][r.size(0, len(shape) - 1):]
        pair = [shape, other] if k % 4 else [other, shape]
        yield Case([r.codes(kind, *pair[0]), *parameters(r, kind), r.codes(kind, *pair[1]), *parameters(r, kind), *parameters(r, kind)], constants=(1, 2, 4, 5, 6, 7) if k % 3 else ())


cases(MS, "QLinearAdd", steps=1)(binary)
cases(MS, "QLinearMul", steps=1)(binary)


def unary(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28)):
        kind = BYTES[k % 2]
        yield Case([r.codes(kind, *shape), *parameters(r, kind), *parameters(r, kind)], constants=(1, 2, 3, 4) if k % 3 else ())


cases(MS, "QLinearSigmoid", steps=1)(unary)


@cases(MS, "QLinearLeakyRelu", steps=1)
def leaky_relu(r: Draw) -> Iterator[Case]:
    for k, case in enumerate(unary(r)):
        yield Case(case.inputs, {"alpha": 0.3} if k % 3 else {}, constants=case.constants)


@cases(MS, "QLinearSoftmax", steps=1)
def softmax(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 30)):
        kind = BYTES[k % 2]
        yield Case([r.codes(kind, *shape), *parameters(r, kind), np.float32(1 / 256), np.array(-128 if kind is np.int8 else 0, kind)],
                   {"opset": r.pick(12, 13), "axis": r.size(-len(shape), len(shape) - 1)}, constants=(1, 2, 3, 4))


@cases(MS, "QLinearConcat", steps=1)
def concat(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28)):
        kind, axis = BYTES[k % 2], r.size(0, len(shape) - 1)
        parts = [x for _ in range(r.size(1, 4)) for x in (r.codes(kind, *shape[:axis], r.size(1, 5), *shape[axis + 1:]), *parameters(r, kind))]
        yield Case([*parameters(r, kind), *parts], {"axis": axis - (len(shape) if k % 3 == 0 else 0)}, constants=[j for j in range(len(parts) + 2) if j < 2 or (j - 2) % 3])


@cases(MS, "QLinearWhere", steps=1)
def where(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28)):
        kind = BYTES[k % 2]
        picked = [[d if r.flag() else 1 for d in shape] for _ in range(2)]
        yield Case([r.flags(*picked[0]), r.codes(kind, *shape), *parameters(r, kind), r.codes(kind, *picked[1]), *parameters(r, kind), *parameters(r, kind)], constants=(2, 3, 5, 6, 7, 8))


def pooled(r: Draw, k: int, rank: int) -> tuple[list[np.ndarray], dict[str, object]]:
    kind, last = BYTES[k % 2], k // 2 % 2
    size = [r.size(4, 8) for _ in range(rank)]
    shape = [r.size(1, 2), *size, r.size(1, 4)] if last else [r.size(1, 2), r.size(1, 4), *size]
    return [r.codes(kind, *shape), *parameters(r, kind), *parameters(r, kind)], {"channels_last": last}


@cases(MS, "QLinearAveragePool", steps=1)
def average_pool(r: Draw) -> Iterator[Case]:
    for k in range(28):
        rank = (2, 1, 2, 3)[k % 4]
        inputs, attributes = pooled(r, k, rank)
        kernel = [r.size(1, 3) for _ in range(rank)]
        yield Case(inputs, {**attributes, "kernel_shape": kernel, "strides": [r.size(1, 2) for _ in range(rank)], **({"count_include_pad": r.flag()} if k % 2 else {}),
                            **({"pads": [r.size(0, w - 1) for w in kernel * 2]} if k % 3 else {}), **({"ceil_mode": 1} if k % 5 == 0 else {})}, constants=(1, 2, 3, 4))


@cases(MS, "QLinearGlobalAveragePool", steps=1)
def global_average_pool(r: Draw) -> Iterator[Case]:
    for k in range(24):
        yield Case(*pooled(r, k, 2 - k % 3 % 2), constants=(1, 2, 3, 4))


@cases(MS, "MatMulIntegerToFloat", ulps=64)
def integer_to_float(r: Draw) -> Iterator[Case]:
    for k in range(28):
        kinds, m, n, inner = (BYTES[k % 2], BYTES[k // 2 % 2]), r.size(), r.size(1, 20), 0 if k == 9 else r.size(1, 40)
        lead = [r.size(1, 3) for _ in range(k % 3)]
        by_column = k // 3 % 2
        zeros = [small(r, kinds[0]), small(r, kinds[1], n) if by_column else small(r, kinds[1])] if k % 4 else []
        bias = [r.real(n)] if zeros and k % 3 else []
        yield Case([small(r, kinds[0], *lead, m, inner), small(r, kinds[1], inner, n), r.scale(), r.scale(n) if by_column else r.scale(), *zeros, *bias], constants=(1,) if k % 5 == 0 else ())


@cases(MS, "DynamicQuantizeMatMul", ulps=64)
def dynamic_quantize(r: Draw) -> Iterator[Case]:
    for k in range(28):
        kind, m, n, inner = BYTES[k % 2], r.size(), r.size(1, 20), r.size(1, 40)
        lead, by_column = [r.size(1, 3) for _ in range(k % 3)], k // 2 % 2
        zero = (small(r, kind, n) if by_column else small(r, kind)) if k % 4 else None
        bias = [r.real(n)] if k % 3 else []
        rest = [zero, *bias] if zero is not None or bias else []
        yield Case([r.real(*lead, m, inner), small(r, kind, inner, n), r.scale(n) if by_column else r.scale(), *rest], constants=(1,) if k % 5 == 0 else ())


@cases(MS, "QGemm", steps=1, ulps=64)
def qgemm(r: Draw) -> Iterator[Case]:
    for k in range(30):
        kinds, m, n, inner = (BYTES[k % 2], BYTES[k // 2 % 2]), r.size(), r.size(1, 20), r.size(1, 40)
        turned, by_column, coded = (k // 3 % 2, k // 4 % 2), k // 5 % 2, k % 3
        c = r.ints(-900, 900, *r.pick((m, n), (n,), (1,)), dtype=np.int32) if k % 4 else None
        rest = [c, *([r.uniform(0.5, 2), r.codes(kinds[0])] if coded else [])]
        yield Case([small(r, kinds[0], *((inner, m) if turned[0] else (m, inner))), r.scale(), small(r, kinds[0]), small(r, kinds[1], *((n, inner) if turned[1] else (inner, n))),
                    r.scale(n) if by_column else r.scale(), small(r, kinds[1], n) if by_column else small(r, kinds[1]), *(rest if coded or c is not None else [])],
                   {"transA": turned[0], "transB": turned[1], **({"alpha": 0.5} if k % 2 else {})})


@cases(MS, "MatMulNBits", ulps=4096, narrow_ulps=8)
def n_bits(r: Draw) -> Iterator[Case]:
    for k in range(32):
        bits, block, inner, columns = (4, 8, 2, 4)[k % 4], (16, 32, 64)[k % 3], 16 * r.size(1, 6), r.size(1, 12)
        kind = (np.float32, np.float32, np.float16)[k // 3 % 3]
        blocks = -(-inner // block)
        zeros = None if k % 3 == 0 else r.codes(np.uint8, columns, -(-blocks * bits // 8))
        bias = r.uniform(-1, 1, columns, dtype=kind) if k % 5 == 1 else None
        inputs = [r.real(*[r.size(1, 3) for _ in range(k % 3)], 0 if k == 13 else r.size(1, 5), inner, dtype=kind), r.codes(np.uint8, columns, blocks, block * bits // 8),
                  r.scale(columns, blocks, dtype=kind), zeros, None, bias]
        while inputs[-1] is None:
            inputs.pop()
        yield Case(inputs, {"K": inner, "N": columns, "bits": bits, "block_size": block}, constants=(1, 2, 3))


@cases(MS, "GatherBlockQuantized", narrow_ulps=2)
def gather_block(r: Draw) -> Iterator[Case]:
    for k in range(36):
        kind = (ml_dtypes.int4, ml_dtypes.uint4, np.uint8)[k % 3]
        block, bits, out = 16, (4, 8)[k // 3 % 2] if kind is np.uint8 else 4, (np.float32, np.float16)[k // 2 % 2]
        rows, width = r.size(2, 6), 16 * r.size(1, 3)
        middle = [r.size(1, 3)] if k % 4 == 1 else []
        shape = [rows, *middle, width]
        axis = len(shape) - 1
        packed = [rows, *middle, width * bits // 8] if kind is np.uint8 else shape
        data = r.codes(np.uint8, *packed) if kind is np.uint8 else r.ints(-8 if kind is ml_dtypes.int4 else 0, 8, *packed).astype(kind)
        groups = [rows, *middle, width // block]
        zeros = []
        if k % 2:
            zeros = [r.codes(np.uint8, *groups[:-1], -(-groups[-1] * bits // 8)) if kind is np.uint8 else r.ints(-4 if kind is ml_dtypes.int4 else 0, 8, *groups).astype(kind)]
        index = r.ints(-rows, rows, *[r.size(0 if k == 20 else 1, 3) for _ in range(k % 3)], dtype=(np.int64, np.int32)[k % 2])
        yield Case([data, index, r.scale(*groups, dtype=out), *zeros], {"block_size": block, "quantize_axis": axis - (len(shape) if k % 5 == 0 else 0), "gather_axis": 0,
                                                                        **({"bits": bits} if kind is np.uint8 else {})}, constants=(0, 2, 3) if zeros else (0, 2))


@cases(MS, "QuantizeLinear")
def quantize(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28)):
        kind, axis = (np.uint8, np.int8, np.uint16, np.int16)[k % 4], r.size(0, len(shape) - 1)
        of = () if k % 3 == 0 else (shape[axis],)
        yield Case([r.real(*shape, scale=3), r.scale(*of), *([r.codes(kind, *of)] if kind is not np.uint8 or k % 5 else [])], {"axis": axis} if of else {})


@cases(MS, "DequantizeLinear")
def dequantize(r: Draw) -> Iterator[Case]:
    for k, shape in enumerate(shapes(r, 28)):
        kind, axis = (np.uint8, np.int8, np.uint16, np.int16, np.int32)[k % 5], r.size(0, len(shape) - 1)
        of = () if k % 3 == 0 else (shape[axis],)
        yield Case([r.codes(kind, *shape), r.scale(*of), *([np.zeros(of, kind) if kind is np.int32 else r.codes(kind, *of)] if k % 4 else [])], {"axis": axis} if of else {})
