"""What random models may be made of, continued: fused operators of com.microsoft, quantised chains, recurrent layers, attention and nested control flow."""
from __future__ import annotations

import numpy as np
from random_models import Discard, Generator, Known, fixed
from random_movement import SMALL, inner
from random_operators import image, template, window
from sardonyx.ir import dtypes as dt
from sardonyx.ir.dtypes import DType
from sardonyx.ir.graph import Graph, TensorType

MICROSOFT = "com.microsoft"


def single(g: Generator, ranks: tuple[int, ...], most: int = 4000) -> Known:
    """A float32 value that is not empty, of at most so many elements."""
    return g.pick(lambda k: k.dtype is dt.float32 and k.rank in ranks and k.least > 0 and k.numel <= most)


def whole(g: Generator, x: Known, axis: int) -> int:
    """The size of a dimension that is the same in every run and known to the model."""
    if not fixed(x.dims[axis]) or not (x.value.is_constant or x.value.type.shape[axis].is_const):
        raise Discard("an open size")
    return x.dims[axis][0]


# --------------------------------------------------------------------------------------------------------------------- fused
@template(3)
def fused_activation(g: Generator) -> None:
    op = g.one(("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "ScaledSiLU"))
    x = single(g, (1, 2, 3, 4))
    bias = [g.source(dt.float32, x.dims[-1:])] if op == "BiasGelu" or (op == "FastGelu" and g.chance(0.5)) else []
    g.add(op, x, *bias, domain=MICROSOFT, **({"alpha": g.one((1.0, 1.702))} if op in ("QuickGelu", "ScaledSiLU") else {}))


@template(3)
def skip_normalised(g: Generator) -> None:
    x = single(g, (3,))
    skip = g.add("Add", x, x) if g.chance(0.3) else g.source(dt.float32, x.dims)
    if g.chance(0.5):
        extra = [g.source(dt.float32, x.dims[-1:]) for _ in range(g.one((1, 2, 3)))]
        g.add("SkipLayerNormalization", x, skip, *extra, domain=MICROSOFT, epsilon=1e-5)
    else:
        g.add("SkipSimplifiedLayerNormalization", x, skip, g.source(dt.float32, x.dims[-1:]), domain=MICROSOFT, epsilon=1e-5)


@template(3)
def fused_product(g: Generator) -> None:
    x = single(g, (2, 3, 4))
    left, right = g.one((0, 1)), g.one((0, 1))
    inner_dim, columns = x.dims[-2 if left else -1], g.dim()
    lead = x.dims[:-2] if g.chance(0.5) else ()
    w = g.source(dt.float32, [*lead, *((columns, inner_dim) if right else (inner_dim, columns))])
    g.add("FusedMatMul", x, w, domain=MICROSOFT, transA=left, transB=right, alpha=g.one((1.0, 0.5, 0.125)))


@template(2)
def fused_dense(g: Generator) -> None:
    x = single(g, (2,))
    columns = g.dim()
    op = g.one(("FusedGemm", "MatMulNBits"))
    if op == "FusedGemm":
        g.add(op, x, g.source(dt.float32, [x.dims[1], columns]), g.source(dt.float32, [columns]), domain=MICROSOFT, activation=g.one(("Relu", "Tanh", "Sigmoid")))
        return
    k, n, block = whole(g, x, 1), g.one((1, 3, 8, 17)), 16
    blocks = -(-k // block)
    codes = g.constant(g.numbers.integers(0, 256, (n, blocks, block // 2)).astype(np.uint8))
    scales = g.constant(g.numbers.uniform(0.01, 0.1, n * blocks).astype(np.float32))
    points = [g.constant(g.numbers.integers(0, 256, n * -(-blocks // 2)).astype(np.uint8))] if g.chance(0.5) else []
    g.add(op, x, codes, scales, *points, domain=MICROSOFT, K=k, N=n, block_size=block, bits=4)


@template(2)
def fused_convolution(g: Generator) -> None:
    x = image(g, (4,))
    if x.dtype is not dt.float32:
        raise Discard("float32 only")
    w, channels = window(g, x), whole(g, x, 1)
    outputs = g.one((1, 3, 8))
    weights = g.source(dt.float32, [(outputs,) * g.runs, (channels,) * g.runs, *((k,) * g.runs for k in w["kernel_shape"])], constant=True)
    g.add("FusedConv", x, weights, g.source(dt.float32, [(outputs,) * g.runs], constant=True), domain=MICROSOFT, activation=g.one(("Relu", "Tanh", "Sigmoid")), **w)


@template(2)
def attention(g: Generator) -> None:
    x = single(g, (3,), 1500)
    heads, each = g.one((1, 2, 3)), g.one((4, 8))
    width = (heads * each,) * g.runs
    if g.chance(0.4):
        packed = g.source(dt.float32, [x.dims[2], (3 * heads * each,) * g.runs], constant=True)
        g.add("Attention", x, packed, g.source(dt.float32, [(3 * heads * each,) * g.runs], constant=True), domain=MICROSOFT, num_heads=heads, unidirectional=g.one((0, 1)))
        return
    q, k, v = (g.add("MatMul", x, g.source(dt.float32, [x.dims[2], width], constant=True)) for _ in range(3))
    if g.chance(0.4) and g.opset >= 23:
        g.add("Attention", q, k, v, q_num_heads=heads, kv_num_heads=heads, is_causal=g.one((0, 1)))
    else:
        g.add("MultiHeadAttention", q, k, v, domain=MICROSOFT, num_heads=heads)


@template(1)
def recurrent(g: Generator) -> None:
    x = single(g, (3,), 1500)
    op, directions, size = g.one(("LSTM", "GRU", "RNN")), g.one((1, 1, 2)), g.one((1, 4, 7))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    both, rows, hidden = ((n,) * g.runs for n in (directions, gates * size, size))
    parts = [g.source(dt.float32, [both, rows, x.dims[2]], constant=True), g.source(dt.float32, [both, rows, hidden], constant=True)]
    if g.chance(0.5):
        parts.append(g.source(dt.float32, [both, (2 * gates * size,) * g.runs], constant=True))
    further = {"linear_before_reset": 1} if op == "GRU" and g.chance(0.5) else {}
    g.add(op, x, *parts, outputs=3 if op == "LSTM" else 2, hidden_size=size, direction=g.one(("forward", "reverse")) if directions == 1 else "bidirectional", **further)


# ----------------------------------------------------------------------------------------------------------------- quantised
def scale_for(g: Generator, top: float) -> Known:
    """A scale that spreads values up to `top` over 8 bits; odd, so that results seldom lie halfway between two codes."""
    return g.constant(np.asarray(max(top, 0.5) / 121.7, np.float32))


def codes(g: Generator, x: Known, kind: DType) -> tuple[Known, Known, Known]:
    """Codes, scale and zero point of a float32 value."""
    scale, point = scale_for(g, x.top), g.constant(np.asarray(g.rng.randint(0, 20) if kind is dt.int8 else g.rng.randint(110, 140), kind.numpy))
    return g.add("QuantizeLinear", x, scale, point), scale, point


@template(4)
def quantised_chain(g: Generator) -> None:
    """DequantizeLinear around operators, as quantising tools write them."""
    x = single(g, (2, 3, 4))
    kind = g.one((dt.uint8, dt.int8))
    y = g.add("DequantizeLinear", *codes(g, x, kind))
    for _ in range(g.one((1, 2, 3))):
        step = g.one(("MatMul", "Relu", "Add", "Transpose", "MaxPool", "Conv", "Sigmoid"))
        if step == "MatMul":
            w, scale, point = weights(g, [y.dims[-1], g.dim(17)])
            y = g.add(step, y, g.add("DequantizeLinear", w, scale, point))
        elif step in ("MaxPool", "Conv"):
            if y.rank != 4 or min(min(d) for d in y.dims[2:]) < 2:
                continue
            if step == "MaxPool":
                y = g.add(step, y, kernel_shape=(2, 2), strides=g.one(((1, 1), (2, 2))))
            else:
                w, scale, point = weights(g, [(g.one((1, 4)),) * g.runs, (whole(g, y, 1),) * g.runs, (2,) * g.runs, (2,) * g.runs])
                y = g.add(step, y, g.add("DequantizeLinear", w, scale, point), pads=g.one(((0, 0, 0, 0), (1, 1, 0, 0))))
        elif step == "Add":
            y = g.add(step, y, g.partner(y))
        else:
            y = g.add(step, y)
        y = g.add("DequantizeLinear", *codes(g, y, kind))


def weights(g: Generator, dims: list[tuple[int, ...]]) -> tuple[Known, Known, Known]:
    codes = g.source(dt.int8, dims, True, lambda s: g.numbers.integers(-127, 128, s))
    return codes, g.constant(np.asarray(0.0117, np.float32)), g.constant(np.asarray(0, np.int8))


@template(2)
def quantised_operator(g: Generator) -> None:
    x = single(g, (2, 3, 4))
    kind = g.one((dt.uint8, dt.int8))
    a = codes(g, x, kind)
    op = g.one(("QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearConcat"))
    result = [scale_for(g, x.top * 2.13), a[2]]  # no simple multiple of the first scale: sums would lie halfway between codes
    if op in ("QLinearAdd", "QLinearMul"):
        y = g.add(op, *a, *codes(g, g.source(dt.float32, x.dims), kind), *result, domain=MICROSOFT)
    elif op in ("QLinearSigmoid", "QLinearLeakyRelu"):
        y = g.add(op, *a, *result, domain=MICROSOFT)
    elif op == "QLinearConcat":
        y = g.add(op, *result, *a, *codes(g, g.add("Tanh", x), kind), domain=MICROSOFT, axis=g.rng.randrange(x.rank))
    else:
        w, scale, point = weights(g, [x.dims[-1], g.dim(17)])
        if op == "DynamicQuantizeMatMul":
            g.add(op, x, w, scale, point, domain=MICROSOFT)
            return
        if op == "MatMulIntegerToFloat":
            g.add(op, a[0], w, a[1], scale, a[2], point, domain=MICROSOFT)
            return
        y = g.add(op, *a, w, scale, point, *result)
    if g.chance(0.7):
        g.add("DequantizeLinear", y, *result)


# -------------------------------------------------------------------------------------------------------------- control flow
def body_of(g: Generator, name: str, carried: list[Known]) -> tuple[Graph, list]:
    """The body of a Loop with its inputs: the iteration, the condition, and what is carried."""
    body = Graph(name, g.graph)
    kinds = [TensorType(dt.int64, ()), TensorType(dt.boolean, ()), *(TensorType(k.dtype, k.value.type.shape) for k in carried)]
    return body, [body.input(g.graph.fresh_name("in"), k) for k in kinds]


@template(0.5)
def loop_that_ends_itself(g: Generator) -> None:
    """A Loop with two carried values and a branch inside; it ends when a counter says so."""
    x = g.pick_float(where=lambda k: k.numel < 1000)
    count = g.source(dt.int64, (), make=lambda s: np.asarray(0))
    body, (k, _, v, n) = body_of(g, "body", [x, count])
    one, most = g.constant(np.asarray(1)).value, g.constant(np.asarray(g.one((1, 2, 4)))).value
    stepped = inner(g, body, "Add", n, one)
    branches = []
    for name in ("then", "else"):
        b = Graph(name, body)
        b.outputs = [inner(g, b, g.one(SMALL), inner(g, b, g.one(("Add", "Max")), v, x.value))]
        branches.append(b)
    first = inner(g, body, "Less", k, one)
    chosen = body.add("If", [first], {"then_branch": branches[0], "else_branch": branches[1]}, version=g.version_of("If"))
    g.infer_within(chosen)
    new = inner(g, body, "Tanh", chosen.outputs[0])
    body.outputs = [inner(g, body, "Less", stepped, most), new, stepped, inner(g, body, "Neg", stepped)]
    g.add("Loop", g.constant(np.asarray(6)), g.constant(np.asarray(True)), x, count, outputs=3, body=body)


@template(0.5)
def scan_of_two(g: Generator) -> None:
    """A Scan over two sequences with a product by an outer value."""
    x = g.pick_float((3,), lambda k: k.least > 0 and k.numel < 1000)
    other = g.source(x.dtype, x.dims)
    w = g.source(x.dtype, [x.dims[2], x.dims[2]])
    state = g.source(x.dtype, x.dims[1:])
    body = Graph("body", g.graph)
    kind = TensorType(x.dtype, x.value.type.shape[1:])
    s, a, b = (body.input(g.graph.fresh_name(n), kind) for n in ("state", "a", "b"))
    new = inner(g, body, "Tanh", inner(g, body, "Add", inner(g, body, "MatMul", s, w.value), inner(g, body, g.one(("Mul", "Sub")), a, b)))
    body.outputs = [new, inner(g, body, g.one(SMALL), new)]
    g.add("Scan", state, x, other, outputs=2, body=body, num_scan_inputs=2, **({"scan_output_directions": (1,)} if g.chance(0.3) else {}))
