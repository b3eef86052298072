"""Sizes that a model leaves open may be 0 when it runs: what is computed from them as data, and what is cut by them, is compared with ONNX Runtime."""
from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import sardonyx
from onnx import TensorProto, parser

HEAD = '<ir_version: 9, opset_import: ["": 18]> g '
CASES = {
    "greater_where": """(float[N, 3] x, float[1] a, float[1] b) => (float[1] y)
        <int64[1] zero = {0}> { n = Shape<start = 0, end = 1>(x) c = Greater(n, zero) y = Where(c, a, b) }""",
    "equal_where": """(float[N, 3] x, float[1] a, float[1] b) => (float[1] y)
        <int64[1] zero = {0}> { n = Shape<start = 0, end = 1>(x) c = Equal(n, zero) y = Where(c, a, b) }""",
    "difference_below_zero": """(float[N, 3] x, float[1] a, float[1] b) => (float[1] y)
        <int64[1] one = {1}, int64[1] zero = {0}> { n = Shape<start = 0, end = 1>(x) m = Sub(n, one) c = Less(m, zero) y = Where(c, a, b) }""",
    "cast_bool_if": """(float[N, 3] x, float[1] a, float[1] b) => (float[1] y)
        { n = Size(x) c = Cast<to = 9>(n) y = If(c) <then_branch = t () => (float[1] p) { p = Add(a, b) }, else_branch = e () => (float[1] q) { q = Sub(a, b) }> }""",
    "size_greater_if": """(float[N, M] x, float[1] a, float[1] b) => (float[1] y)
        <int64 zero = {0}> { n = Size(x) c = Greater(n, zero) y = If(c) <then_branch = t () => (float[1] p) { p = Add(a, b) }, else_branch = e () => (float[1] q) { q = Sub(a, b) }> }""",
    "max": "(float[N, 3] x) => (int64[1] y) <int64[1] one = {1}> { n = Shape<start = 0, end = 1>(x) y = Max(n, one) }",
    "min": "(float[N, 3] x) => (int64[1] y) <int64[1] one = {1}> { n = Shape<start = 0, end = 1>(x) y = Min(n, one) }",
    "truncated": "(float[N, 3] x) => (int64[1] y) <int64[1] one = {1}, int64[1] two = {2}> { n = Shape<start = 0, end = 1>(x) m = Sub(n, one) y = Div(m, two) }",
    "remainder": "(float[N, 3] x) => (int64[1] y) <int64[1] one = {1}, int64[1] two = {2}> { n = Shape<start = 0, end = 1>(x) m = Sub(n, one) y = Mod<fmod = 1>(m, two) }",
    "mean_of_a_sum": """(float[N, 3] x) => (float[3] y) <int64[1] rows = {0}, float[1] one = {1}>
        { s = ReduceSum<keepdims = 0>(x, rows) n = Shape<start = 0, end = 1>(x) f = Cast<to = 1>(n) d = Max(f, one) y = Div(s, d) }""",
    "sum": "(float[N, 3] x) => (float[3] y) <int64[1] rows = {0}> { y = ReduceSum<keepdims = 0>(x, rows) }",
    "range": "(float[N, 3] x) => (int64[K] y) <int64 zero = {0}, int64 one = {1}> { n = Shape<start = 0, end = 1>(x) s = Squeeze(n) y = Range(zero, s, one) }",
    "range_of_one_more": """(float[N, 3] x) => (int64[K] y) <int64 zero = {0}, int64 one = {1}>
        { n = Shape<start = 0, end = 1>(x) s = Squeeze(n) m = Max(s, one) y = Range(zero, m, one) }""",
    "range_of_one_less": """(float[N, 3] x) => (int64[K] y) <int64 zero = {0}, int64 one = {1}>
        { n = Shape<start = 0, end = 1>(x) s = Squeeze(n) m = Sub(s, one) y = Range(zero, m, one) }""",
    "positions_after_a_past": """(float[N, 3] x, int64[4] ids) => (bool[4, 4] y) <int64[1] rows = {1}, int64[1] columns = {0}>
        { n = Shape<start = 0, end = 1>(x) r = Unsqueeze(ids, rows) c = Unsqueeze(ids, columns) p = Add(r, n) y = Less(c, p) }""",
    "first": "(float[N, 3] x) => (float[K, 3] y) <int64[1] a = {0}, int64[1] b = {1}, int64[1] axis = {0}> { y = Slice(x, a, b, axis) }",
    "all_but_the_last": "(float[N, 3] x) => (float[K, 3] y) <int64[1] a = {0}, int64[1] b = {-1}, int64[1] axis = {0}> { y = Slice(x, a, b, axis) }",
    "last": "(float[N, 3] x) => (float[K, 3] y) <int64[1] a = {-1}, int64[1] b = {9223372036854775807}, int64[1] axis = {0}> { y = Slice(x, a, b, axis) }",
    "backwards": "(float[N, 3] x) => (float[K, 3] y) <int64[1] a = {-1}, int64[1] b = {-9223372036854775808}, int64[1] axis = {0}> { y = Slice(x, a, b, axis, a) }",
    "up_to_a_size": """(float[N, 3] x, float[5, 2] z) => (float[K, 2] y) <int64[1] a = {0}, int64[1] one = {1}, int64[1] axis = {0}>
        { n = Shape<start = 0, end = 1>(x) b = Max(n, one) y = Slice(z, a, b, axis) }""",
    "from_a_size": """(float[N, 3] x, float[5, 2] z) => (float[K, 2] y) <int64[1] one = {1}, int64[1] b = {5}, int64[1] axis = {0}>
        { n = Shape<start = 0, end = 1>(x) a = Sub(n, one) y = Slice(z, a, b, axis) }""",
    "filled": "(float[N, 3] x) => (float[K] y) <int64[1] one = {1}> { n = Shape<start = 0, end = 1>(x) m = Max(n, one) y = ConstantOfShape(m) }",
    "expanded": "(float[N, 3] x, float[1] a) => (float[K] y) { n = Shape<start = 0, end = 1>(x) y = Expand(a, n) }",
    "heads": """(float[N, M, 12] x) => (float[N, 3, M, 4] y) <int64[2] tail = {3, 4}>
        { n = Shape<start = 0, end = 2>(x) s = Concat<axis = 0>(n, tail) r = Reshape(x, s) y = Transpose<perm = [0, 2, 1, 3]>(r) }""",
    "rows_joined": "(float[N, M, 12] x) => (float[K, 12] y) <int64[2] s = {-1, 12}> { y = Reshape(x, s) }",
    "joined_and_parted": """(float[N, M, 12] x) => (float[N, M, 12] y) <int64[2] s = {-1, 12}>
        { r = Reshape(x, s) q = Relu(r) n = Shape(x) y = Reshape<allowzero = 1>(q, n) }""",
    "first_before_all": """(float[N, 3] x) => (float[K, 3] y) <int64[1] a = {0}, int64[1] b = {1}, int64[1] axis = {0}, int64[1] end = {9223372036854775807}>
        { h = Slice(x, a, b, axis) c = Concat<axis = 0>(h, x) l = Slice(c, b, end, axis) r = Sub(l, x) y = Add(r, l) }""",
}
SIZES = [{"N": 0, "M": 2}, {"N": 2, "M": 0}, {"N": 0, "M": 0}, {"N": 1, "M": 1}, {"N": 4, "M": 3}]


def feeds_of(model, sizes):
    rng, feeds = np.random.default_rng(1), {}
    for i in model.graph.input:
        t = i.type.tensor_type
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in t.shape.dim]
        feeds[i.name] = rng.standard_normal(shape).astype(np.float32) if t.elem_type == TensorProto.FLOAT else np.arange(np.prod(shape, dtype=int)).reshape(shape)
    return feeds


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("case", CASES)
def test_empty_inputs_give_what_onnxruntime_gives(case, level):
    """One compilation serves all sizes, the empty ones among them."""
    model = parser.parse_model(HEAD + CASES[case])
    data = model.SerializeToString()
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = sardonyx.GraphOptimizationLevel(level)
    ours = sardonyx.InferenceSession(data, options)
    theirs = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for sizes in SIZES:
        feeds = feeds_of(model, sizes)
        found, wanted = ours.run(None, feeds)[0], theirs.run(None, feeds)[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-6, err_msg=f"{case} for {sizes}", strict=True)
