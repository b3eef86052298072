"""Cases of com.microsoft's fused products and convolutions."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"
ACTIVATIONS: tuple[tuple[str, list[float]], ...] = (("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.75]), ("HardSigmoid", [0.3, 0.4]))


def product(r: Draw, k: int) -> tuple[list[np.ndarray], dict[str, object]]:
    """Operands of a product of matrices or stacks of them, and which are transposed."""
    m, n, inner = r.size(1, 9), r.size(1, 20), 0 if k == 9 else r.size(1, 20)
    lead = [r.size(1, 3) for _ in range(k % 3)]
    turned = k // 2 % 2, k // 4 % 2
    dtype = (np.float32, np.float32, np.float64)[k // 3 % 3]
    a, b = [*lead, *((inner, m) if turned[0] else (m, inner))], [*lead[k % 2:], *((n, inner) if turned[1] else (inner, n))]
    return [r.real(*a, dtype=dtype), r.real(*b, dtype=dtype)], {"transA": turned[0], "transB": turned[1], **({"alpha": 0.25} if k % 3 else {})}


@cases(MS, "FusedMatMul", ulps=64)
def fused_matmul(r: Draw) -> Iterator[Case]:
    for k in range(28):
        yield Case(*product(r, k))
    for k in range(12):
        m, n, inner, lead = r.size(), r.size(), r.size(), [r.size(2, 3) for _ in range(1 + k % 2)]
        attributes = {"transBatchA": k // 2 % 2, "transBatchB": k // 4 % 2, "transA": k // 3 % 2, "transB": k % 2}

        def shape(rows: int, columns: int, turned: int, batch: int, lead: list[int] = lead) -> list[int]:
            rows, columns = (columns, rows) if turned else (rows, columns)
            return [rows, *lead, columns] if batch else [*lead, rows, columns]
        yield Case([r.real(*shape(m, inner, attributes["transA"], attributes["transBatchA"])), r.real(*shape(inner, n, attributes["transB"], attributes["transBatchB"]))], attributes)


@cases(MS, "TransposeMatMul", ulps=64)
def transpose_matmul(r: Draw) -> Iterator[Case]:
    for k in range(24):
        inputs, attributes = product(r, k)
        yield Case([x.astype(np.float32) for x in inputs], attributes)


@cases(MS, "FusedGemm", ulps=64)
def fused_gemm(r: Draw) -> Iterator[Case]:
    for k in range(28):
        m, n, inner = r.size(0 if k == 11 else 1, 9), r.size(1, 20), r.size(1, 20)
        turned, (name, numbers) = (k % 2, k // 2 % 2), ACTIVATIONS[k % 4]
        inputs = [r.real(*((inner, m) if turned[0] else (m, inner))), r.real(*((n, inner) if turned[1] else (inner, n)))]
        c = r.pick((m, n), (n,), (1,), (), (m, 1), (1, n))
        parameters = dict(zip(("activation_alpha", "activation_beta"), numbers))
        yield Case([*inputs, r.real(*c)] if k % 5 else inputs, {"transA": turned[0], "transB": turned[1], "activation": name, **parameters,
                                                               **({"alpha": 0.5, "beta": 2.0} if k % 3 else {})})


@cases(MS, "FusedConv", ulps=64)
def fused_conv(r: Draw) -> Iterator[Case]:
    for k in range(28):
        rank, group, inner, outer = (2, 1, 2, 3)[k % 4], (1, 2)[k // 3 % 2], r.size(1, 4), r.size(1, 5)
        kernel, (name, numbers) = [r.size(1, 3) for _ in range(rank)], ACTIVATIONS[k % 6]
        size = [r.size(4, 8) for _ in range(rank)]
        attributes = {"kernel_shape": kernel, "activation": name, **({"activation_params": numbers} if numbers else {}), **({"group": group} if group > 1 else {}),
                      **({"pads": [r.size(0, w - 1) for w in kernel * 2]} if k % 3 else {"auto_pad": r.pick("SAME_UPPER", "VALID")})}
        inputs = [r.real(r.size(1, 2), group * inner, *size), r.real(group * outer, inner, *kernel), r.real(group * outer) if k % 5 else None]
        if k % 4 == 2 and "pads" in attributes:
            pads = attributes["pads"]
            out = [d + pads[j] + pads[j + rank] - w + 1 for j, (d, w) in enumerate(zip(size, kernel))]
            inputs.append(r.real(inputs[0].shape[0], group * outer, *out))
        while inputs[-1] is None:
            inputs.pop()
        yield Case(inputs, attributes)
