"""Cases of com.microsoft's packed matrices and tables."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases
from sardonyx.ir.ops.contrib_packed import FORMATS

MS = "com.microsoft"


@cases(MS, "MatMulBnb4", ulps=64)
def bnb4(r: Draw) -> Iterator[Case]:
    for k in range(20):
        inner, columns, block = r.size(1, 40) * 2, r.size(1, 9), (16, 32, 64)[k % 3]
        # ONNX Runtime's CPU kernel reads out of bounds where transB is 0.
        a = r.real(*[r.size(1, 3) for _ in range(k % 3)], r.size(1, 4), inner)
        yield Case([a, r.codes(np.uint8, inner * columns // 2), r.uniform(0.1, 2, -(-inner * columns // block))],
                   {"K": inner, "N": columns, "block_size": block, "quant_type": k % 2}, constants=[1, 2] if k % 5 else [])


def fp_q4_product(a: np.ndarray, blob: np.ndarray, shape: np.ndarray, blk_quant_type: int = 1) -> list[object]:
    """a @ b of MatMulFpQ4: column by column, blocks of 32 codes behind a scale and, for type 1, a zero point."""
    inner, columns = (int(d) for d in shape)
    blocks = blob.reshape(columns, inner // 32, -1)
    scales = np.ascontiguousarray(blocks[:, :, :4]).view(np.float32)
    zeros = blocks[:, :, 4:5].astype(np.float64) if blk_quant_type == 1 else 8.0
    pairs = blocks[:, :, -16:]
    codes = np.concatenate([pairs & 15, pairs >> 4], 2)
    return [(a.astype(np.float64) @ ((codes - zeros) * scales).reshape(columns, inner).T).astype(np.float32)]


@cases(MS, "MatMulFpQ4", ulps=64, elsewhere=fp_q4_product)
def fp_q4(r: Draw) -> Iterator[Case]:
    for k in range(20):
        inner, columns, kind = 32 * r.size(1, 3), r.size(1, 9), k % 2
        blob = r.codes(np.uint8, inner // 32 * columns, 20 + kind)
        blob[:, :4] = r.uniform(0.1, 1, len(blob), 1).view(np.uint8)
        if kind:
            blob[:, 4] %= 16
        yield Case([r.real(*[r.size(1, 3) for _ in range(k % 3)], r.size(1, 4), inner), blob.reshape(-1), np.array([inner, columns])], {} if kind and k % 3 else {"blk_quant_type": kind},
                   constants=[1, 2])


@cases(MS, "GatherPacked")
def gather_packed(r: Draw) -> Iterator[Case]:
    for k, (kind, form) in enumerate([*FORMATS.items()] * 3):
        width = form.count * r.size(1, 3) if form.count > 1 else 256
        data = r.codes(np.uint8, r.size(2, 5), width // form.count * form.size_bytes)
        for at in {13: (0, 2), 14: (208,)}.get(kind, (form.size_bytes - 2 if form.count == 1 else 0,)):
            data[:, at + 1::form.size_bytes] = r.ints(0x28, 0x40, dtype=np.uint8)  # scales that are finite
        index = r.ints(-2, len(data) + 2, *[r.size(0 if k == 25 else 1, 3) for _ in range(k % 3)], dtype=(np.int64, np.int32)[k % 2])
        yield Case([data, index], {"packed_type": kind, "K": width, **({"output_dtype": (1, 10, 16)[k // 3 % 3]})})
