"""Cases of com.microsoft's recurrent layers."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"
FUNCTIONS = ("Sigmoid", "Tanh", "Relu", "HardSigmoid", "LeakyRelu", "Elu", "Softsign")


def layer(r: Draw, k: int, directions: int, hidden: int) -> dict[str, object]:
    """Attributes of layer number `k`."""
    found: dict[str, object] = {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else ("forward", "reverse")[k % 2]}
    if k % 5 == 2:
        found["clip"] = 0.8
    if k % 7 == 3:
        found["input_forget"] = 1
    if k % 6 == 4:
        found["activations"] = [str(r.pick(*FUNCTIONS)) for _ in range(3 * directions)]
    return found


def optional(r: Draw, k: int, directions: int, steps: int, batch: int, hidden: int) -> list[np.ndarray | None]:
    """B, sequence_lens, initial_h, initial_c and P."""
    lengths = r.ints(0 if k % 8 == 5 else 1, steps + 1, batch, dtype=np.int32) if k % 4 == 1 and steps else None
    states = [r.uniform(-0.9, 0.9, directions, batch, hidden) if k % 3 == 2 else None for _ in range(2)]
    return [r.real(directions, 8 * hidden, scale=0.4) if k % 4 else None, lengths, *states, r.real(directions, 3 * hidden, scale=0.4) if k % 5 == 1 else None]


def coded_weights(r: Draw, directions: int, rows: int, columns: int, kind: type, by_column: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes with their scale and zero point; ONNX Runtime takes one zero point only where scales differ by column, and that is 0 of int8."""
    codes = r.ints(-60, 60, directions, rows, columns, dtype=np.int8) if kind is np.int8 else r.ints(60, 190, directions, rows, columns, dtype=np.uint8)
    lead = (directions, columns) if by_column else (directions,)
    zero = np.zeros(lead, kind) if kind is np.int8 and by_column else np.full(lead, r.ints(100, 140), kind) if by_column else r.ints(*((-9, 9) if kind is np.int8 else (100, 140)), *lead, dtype=kind)
    return codes, r.uniform(0.004, 0.02, *lead), zero


@cases(MS, "DynamicQuantizeLSTM", ulps=64)
def dynamic_quantize_lstm(r: Draw) -> Iterator[Case]:
    # ONNX Runtime leaves results undefined without steps or features, and ends the process without rows.
    for k in range(32):
        directions, steps, batch, features, hidden = 1 + k % 3 // 2, r.size(1, 5), r.size(1, 6), r.size(1, 9), r.pick(1, 5, 8, 17) if k % 9 else 130
        kind, by_column = (np.uint8, np.int8)[k % 2], k % 4 > 1
        w, r_ = (coded_weights(r, directions, rows, 4 * hidden, kind, by_column) for rows in (features, hidden))
        inputs = [r.real(steps, batch, features), w[0], r_[0], *optional(r, k, directions, steps, batch, hidden), *w[1:], *r_[1:]]
        yield Case(inputs, layer(r, k, directions, hidden), outputs=3 if k % 4 else (True, False, True), constants=(1, 2, 8, 9, 10, 11) if k % 3 else ())


@cases(MS, "AttnLSTM", ulps=64)
def attention_lstm(r: Draw) -> Iterator[Case]:
    # ONNX Runtime ends the process where a size is 0, and needs the first output. It takes no rows without steps.
    for k in range(32):
        directions, steps, batch, features, hidden = 1 + k % 3 // 2, r.size(1, 5), r.size(1, 4), r.size(1, 9), r.pick(1, 5, 8, 17)
        memory_steps, memory_depth, depth, dense = r.size(1, 6), r.size(1, 6), r.size(1, 6), r.size(1, 6) if k % 2 else 0
        rest = optional(r, k, directions, steps, batch, hidden)
        if rest[1] is not None:
            rest[1] = np.maximum(rest[1], 1)
        inputs = [r.real(steps, batch, features), r.real(directions, 4 * hidden, features + (dense or memory_depth), scale=0.4), r.real(directions, 4 * hidden, hidden, scale=0.4), *rest,
                  r.real(directions, hidden, depth), r.real(directions, memory_depth, depth), r.real(directions, depth), r.real(batch, memory_steps, memory_depth),
                  r.ints(1, memory_steps + 1, batch, dtype=np.int32) if k % 4 > 1 else None, r.real(directions, hidden + memory_depth, dense, scale=0.4) if dense else None]
        yield Case(inputs, layer(r, k, directions, hidden), outputs=(3, (True, False, True), 2)[k % 3], constants=(1, 2, 8, 9, 10) if k % 3 else ())
