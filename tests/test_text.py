"""The text form of graphs and programs: readable, and equal after reading it back."""
from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.errors import ModelError
from sardonyx.ir.expr import Tensor
from sardonyx.ir.graph import Graph, MapType, OptionalType, SequenceType, TensorType, TypeValue
from sardonyx.ir.interpret import run_nests
from sardonyx.ir.loops import Check, ContractionNest, HostNest, HostRef, MapNest, NestProgram, Routine, RoutineNest, Store, identity_map
from sardonyx.ir.parse import parse_graph, parse_program
from sardonyx.ir.text import graph_text, nest_text, program_text


def tensor(name, dtype, *shape):
    return Tensor(name, dtype, tuple(ex.as_expr(d) for d in shape))


def small_graph():
    g = Graph("main")
    g.opsets = {"": 17, "com.example": 1}
    g.metadata["producer"] = 'a "tool"'
    n = ex.sym("N")
    x = g.input("x", TensorType(dt.float32, (n, ex.const(4))))
    w = g.constant("layer/weights:0", np.arange(40, dtype=np.float32).reshape(4, 10))
    axes = g.constant("axes", np.array([0, -1]))
    y = g.add("MatMul", [x, w], version=13, name="/layer/MatMul", origin=["/layer/MatMul", 'odd "name"  ; x'])
    y.outputs[0].type = TensorType(dt.float32, (n, ex.const(10)))
    z = g.add("Odd", [y.outputs[0], None, axes], {"alpha": 0.5, "mode": "constant", "list": (1, 2, 3), "one": (1.5,), "none": (), "raw": b"\x00'\"",
              "value": np.array([[1.5]], np.float64), "to": dt.bfloat16, "type": TypeValue(SequenceType(TensorType(dt.int64, None)))},
              domain="com.example", version=1, outputs=2)
    z.outputs[0].type = OptionalType(TensorType(dt.string, ()))
    z.outputs[1].type = MapType(dt.int64, TensorType(dt.float32, (n * 2 + 1,)))
    g.outputs = [z.outputs[0], y.outputs[0], x]
    return g


GOLDEN = '''graph main {
  opset ai.onnx 17
  opset com.example 1
  metadata "producer" "a \\"tool\\""
  size N >= 0
  input %x: f32[N, 4]
  const %"layer/weights:0": f32[4, 10] #7bafe81fa27b
  const %axes: i64[2] = [0, -1]
    0  %"/layer/MatMul_out": f32[N, 10] = MatMul-13(%x, %"layer/weights:0")  @ "/layer/MatMul" from "/layer/MatMul", "odd \\"name\\"  ; x"
    1  %Odd_0: optional(str[]), %Odd_1: map(i64, f32[2*N + 1]) = com.example::Odd-1(%"/layer/MatMul_out", -, %axes) '''


def test_a_graph_reads_well():
    text = graph_text(small_graph())
    head = text[:len(GOLDEN)]
    import re
    mask = re.compile(r"#[0-9a-f]{12}")
    assert mask.sub("#", head) == mask.sub("#", GOLDEN)
    assert '{alpha=0.5, mode="constant", list=(1, 2, 3,), one=(1.5,), none=(), ' in text


def test_graphs_round_trip():
    text = graph_text(small_graph(), data=True)
    again = parse_graph(text)
    assert graph_text(again, data=True) == text
    node = again.nodes[1]
    assert node.attributes["raw"] == b"\x00'\"" and node.attributes["to"] is dt.bfloat16 and node.attributes["none"] == ()
    assert node.attributes["value"].tolist() == [[1.5]] and node.attributes["value"].dtype == np.float64
    assert again.nodes[0].inputs[1].constant.shape == (4, 10)
    assert again.nodes[0].outputs[0].uses == [(node, 0)]
    assert again.metadata == {"producer": 'a "tool"'} and again.opsets == {"": 17, "com.example": 1}


def test_elements_may_come_from_elsewhere():
    graph = small_graph()
    text = graph_text(graph)
    with pytest.raises(ModelError, match=r"line 7: the elements of #\w+ are not given"):
        parse_graph(text)
    key = text.split("#")[1][:12]
    assert graph_text(parse_graph(text, {key: graph.nodes[0].inputs[1].constant})) == text


@pytest.mark.parametrize("array", [np.array(["a", "bc"], object), np.array([1 + 2j], np.complex64), np.zeros((2, 3), ml_dtypes.bfloat16),
                                   np.array([1, -2]).astype(ml_dtypes.int4), np.array(3.5), np.array([np.nan, np.inf], np.float32), np.zeros((0, 2), np.int8)])
def test_every_kind_of_constant(array):
    g = Graph("g")
    g.outputs = [g.constant("c", array)]
    found = parse_graph(graph_text(g, data=True)).outputs[0].constant
    assert found.dtype == array.dtype and found.shape == array.shape
    assert repr(found.tolist()) == repr(array.tolist())


def test_subgraphs_and_captured_values():
    g = Graph("outer")
    c, x = g.input("c", TensorType(dt.boolean, ())), g.input("x", TensorType(dt.float32, (ex.const(2),)))
    branches = []
    for k in range(2):
        s = Graph(f"branch{k}", g)
        y = s.add("Relu", [x], version=14)
        y.outputs[0].type = x.type
        s.outputs = [y.outputs[0], x]
        branches.append(s)
    out = g.add("If", [c], {"then_branch": branches[0], "else_branch": branches[1]}, version=16)
    g.outputs = out.outputs
    g.output_names = ['the "result"']
    text = graph_text(g)
    assert 'output %If_out as "the \\"result\\""' in text
    again = parse_graph(text)
    assert graph_text(again) == text and again.output_names == g.output_names
    inner = again.nodes[0].attributes["else_branch"]
    assert inner.outputs[1] is again.inputs[1] and inner.outputs[0] is inner.nodes[0].outputs[0] and inner.parent is again


def test_sizes_that_only_a_run_knows():
    g = Graph("g")
    count, x = Tensor("inner.count", dt.int64, (ex.const(1),)), g.input("x", TensorType(dt.int64, (ex.const(3),)))
    a = g.input("a", TensorType(dt.float32, (count[0], ex.sym("a size", 0))))
    g.outputs = [a, x]
    text = graph_text(g)
    assert "tensor %inner.count: i64[1]" in text and 'size ?"a size" >= 0' in text
    again = parse_graph(text)
    assert graph_text(again) == text and again.inputs[1].type.shape[1] is ex.sym("a size", 0)


def softmax_program():
    n = ex.sym("N")
    x, w, y, z = tensor("x", dt.float32, n, 8), tensor("w", dt.float32, 8, 5), tensor("y", dt.float32, n, 8), tensor("z", dt.float16, n, 5)

    def softmax(i, j):
        r, s = ex.axis(8, "r"), ex.axis(8, "s")
        top = ex.reduce("max", (r,), x[i, r] * ex.const(0.5, dt.float32))
        return ex.unary("exp", x[i, j] - top) / ex.reduce("sum", (s,), ex.unary("exp", x[i, s] - top))
    i, j, k = ex.axis(n), ex.axis(5), ex.axis(8)
    value = ex.cast(ex.where(ex.acc(dt.float32) < 0.25, ex.const(0, dt.float32), -ex.acc(dt.float32)), dt.float16)
    product = ContractionNest((), (i,), (j,), (k,), y[i, k], w[k, j], dt.float32, (Store(z, (i, j), value),), ("product",))
    return NestProgram([x], {w: np.arange(40, dtype=np.float32).reshape(8, 5)}, [identity_map(y, softmax, ("soft",)), product], [z, y])


def test_a_program_reads_well():
    text = program_text(softmax_program())
    assert '''  map i0 < N, i1 < 8 from "soft"
    r0 < 8
    r1 < 8
    t0 = max(r0: 0.5 * %x[i0, r0])
    %y: f32[N, 8]
    %y[i0, i1] = exp(%x[i0, i1] - t0) / sum(r1: exp(%x[i0, r1] - t0))
  contraction f32 rows i0 < N; columns i1 < 5; reduced k0 < 8 from "product"
    a = %y[i0, k0]
    b = %w[k0, i1]
    %z: f16[N, 5]
    %z[i0, i1] = f16(where(acc < 0.25, 0.0, neg(acc)))
'''.replace("0.5 * %x[i0, r0]", "%x[i0, r0] * 0.5") in text


def test_programs_round_trip():
    program = softmax_program()
    text = program_text(program, data=True)
    again = parse_program(text)
    assert program_text(again, data=True) == text
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    for a, b in zip(run_nests(program, {program.inputs[0]: x}), run_nests(again, {again.inputs[0]: x}), strict=True):
        np.testing.assert_array_equal(a, b)


def test_expressions_of_every_kind_round_trip():
    n, odd = ex.sym("N"), ex.sym("odd name")
    x, f, c = tensor("x", dt.float32, n, 64), tensor("f", dt.float16, 4), tensor("a", dt.int32, odd, 3)
    out = tensor("out", dt.float32, n, 64)
    twin = tensor("x", dt.boolean, 7)
    i, j, r = ex.axis(n), ex.axis(64), ex.axis(3, "r")
    k = ex.cast(c[0, 2], dt.int64)
    values = [
        ex.load(x, (i - 1, (j * 3 + i * 64) % 64), -np.inf),
        ex.cast(ex.load(f, ((i * 64 + j) // 7 % 4,)), dt.float32) * 2.0 - ex.const(1.5, dt.float32) / x[i, j],
        ex.cast(ex.cast(x[i, j], dt.float8e4m3fn, saturate=False), dt.float32),
        ex.where(ex.logical_or(ex.logical_and(i < j, twin[j % 7]), ex.equal(k, 3)), x[i, j], ex.const(-1, dt.float32)),
        ex.cast(ex.bitcast(x[i, j], dt.int32), dt.float32),
        ex.cast(ex.reduce("argmax_last", (r,), c[j % odd, r]) * k + n * 2 - i * j + odd, dt.float32),
        ex.binary("pow", x[i, j], ex.binary("atan2", x[i, j], ex.const(np.nan, dt.float32))),
        ex.cast(ex.binary("shl", ex.cast(j, dt.uint32), 3), dt.float32),
        ex.cast(ex.minimum(i * j, k) // ex.maximum(k, 1) % 5 - (i - k) * 3, dt.float32),
        ex.unary("neg", x[i, j] - (x[i, 0] - x[i, 1])) + ex.const(np.inf, dt.float32),
        ex.cast(ex.logical_not(ex.binary("xor", twin[0], twin[1])), dt.float32),
        ex.cast(ex.cast(ex.const(1.5, dt.float32), dt.float8e5m2), dt.float32),
    ]
    nests = [MapNest((i, j), (Store(out, (i, j), v),), (f"v{k}",)) for k, v in enumerate(values)]
    text = program_text(NestProgram([x, f, c, twin], {}, nests, [out]))
    assert '%x.2: b1[7]' in text and '?"odd name"' in text
    again = parse_program(text)
    assert program_text(again) == text
    assert [[s.value.dtype for s in n.stores] for n in again.nests] == [[dt.float32]] * len(nests)


def test_text_does_not_depend_on_how_axes_are_called():
    texts = set()
    for skip in (0, 3, 90, 900):
        for _ in range(skip):
            ex.axis(2)
        x, out = tensor("x", dt.int64, 40, 40), tensor("out", dt.int64, 6, 6, 6)
        texts.add(nest_text(identity_map(out, lambda i, j, k, x=x: x[i * 3 + j * 2 + k, k // 2 + j + i] + i * j + k)))
    assert len(texts) == 1


def routine(src, dst, n, lo, hi):
    for u in range(lo, hi):
        dst[u] = src[u] * n + OFFSET  # noqa: F821 (given to routines)


def test_routines_and_host_functions_are_given_by_name():
    x, y, h, z = tensor("x", dt.int64, 4), tensor("y", dt.int64, 4), HostRef("h"), tensor("z", dt.int64, 4)
    scale = Routine("scale", routine)

    def wrap(a, b):
        return [[a]]

    def unwrap(a):
        return a
    nests = [RoutineNest(scale, (x,), (y,), (x[0],), ex.const(4), ex.const(64) * 2, (("OFFSET", -3),), ("a", "b")),
             HostNest(wrap, (y, None), (h,), "a list"), HostNest(unwrap, (h,), (z,), "an element")]
    text = program_text(NestProgram([x], {}, nests, [z]))
    assert 'routine "scale"(%x) parameters (%x[0]) units 4 scratch 128 constants {OFFSET=-3} from "a", "b"' in text
    functions = {f.__qualname__: f for f in (wrap, unwrap)}
    again = parse_program(text, routines={"scale": scale}, functions=functions)
    assert program_text(again) == text
    with pytest.raises(ModelError, match="the routine scale is not given"):
        parse_program(text)
    with pytest.raises(ModelError, match=r"host function .*wrap is not given"):
        parse_program(text, routines={"scale": scale})


@pytest.mark.parametrize(("text", "reason"), [
    ("program {\n  input %x: f32[2]\n", "ends before its last }"),
    ("program {\n  input %x: f33[2]\n}", "line 2: 'f33' is no element type"),
    ("program {\n  output %x\n}", "line 2: %x is not defined"),
    ("program {\n  input %x: f32[M]\n}", "line 2: 'M' is neither a size"),
    ("program {\n  input %x: f32[2] extra\n}", "line 2: 'extra' is left over"),
    ("program {\n  input %x: f32[2]\n  input %x: f32[2]\n}", "line 3: %x is defined twice"),
    ("program {\n  const %x: host\n}", "line 2: %x is no tensor"),
    ("program {\n  size ~ >= 1\n}", "line 2: unexpected '~'"),
    ("graph g {\n  nothing %x\n}", "line 2: 'nothing' begins no line of a graph"),
    ("graph g {\n    0  %y: f32[] = Relu-14(%x)  @ r\n}", "line 2: %x is not defined"),
])
def test_errors_name_the_line(text, reason):
    with pytest.raises(ModelError, match=reason):
        (parse_graph if text.startswith("graph") else parse_program)(text)


def test_checks_round_trip():
    n, m = ex.sym("N"), ex.sym("M")
    x, y = tensor("x", dt.float32, n), tensor("y", dt.float32, m)
    program = NestProgram([x, y], {}, [], [x], [Check(ex.logical_or(ex.equal(n, m), ex.equal(m, 1)), 'sizes "differ"')])
    text = program_text(program)
    assert '  check N == M | M == 1 "sizes \\"differ\\""' in text
    assert program_text(parse_program(text)) == text


def test_sizes_with_a_definition():
    n = ex.sym("N")
    x = tensor("x", dt.int64, n)
    plain, loaded = (ex.make("sym", (e,), dt.int64, (name, 0)) for e, name in ((n * 2 + 1, "?~a"), (x[0] + n, "?~b")))
    y, z = tensor("y", dt.int64, plain), tensor("z", dt.int64, loaded, plain)
    nests = [identity_map(y, lambda i: i), identity_map(z, lambda i, j: i + j)]
    text = program_text(NestProgram([x], {}, nests, [y, z]))
    assert '  size ?"?~a" >= 0 = 2*N + 1\n' in text and '  size ?"?~b" >= 0 = N + %x[0]\n' in text
    again = parse_program(text)
    assert program_text(again) == text
    feeds = np.array([3, 0])
    assert [a.shape for a in run_nests(again, {again.inputs[0]: feeds})] == [(5,), (5, 5)]
    g = Graph("g")
    g.input("x", TensorType(dt.int64, (n,)))
    g.outputs = [g.input("y", TensorType(dt.int64, (plain,)))]
    assert graph_text(parse_graph(graph_text(g))) == graph_text(g)
