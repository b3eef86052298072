"""Inference: types by lowering, symbolic contents, decomposition without touching use lists, errors."""
from __future__ import annotations

import time

import numpy as np
import pytest
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.errors import ModelError, UnsupportedError
from sardonyx.ir.graph import Graph, TensorType
from sardonyx.ir.infer import infer, infer_graph, lower_node
from sardonyx.ir.ops.base import Op, register

DOMAIN = "test.infer"


class TestOp(Op):
    __test__ = False
    domain, versions = DOMAIN, (1,)


@register
class Shape(TestOp):
    name = "Shape"

    def lower(self, n):
        x = n.input(0)

        def element(i):
            out = ex.const(0)
            for k, d in enumerate(x.shape):
                out = ex.where(ex.equal(i, k), d, out)
            return out
        return n.map([x.rank], element)


@register
class Gather(TestOp):
    name = "Gather"

    def lower(self, n):
        x, at = n.input(0), n.input(1)
        return n.map([*at.shape, *x.shape[1:]], lambda *i: x[(ex.cast(at[i[:at.rank]], dt.int64), *i[at.rank:])])


@register
class Concat(TestOp):
    name = "Concat"

    def lower(self, n):
        parts = [n.input(k) for k in range(len(n.inputs))]

        def element(i):
            out, begin = ex.const(0), ex.const(0)
            for p in parts:
                inside = ex.logical_and(begin <= i, i < begin + p.shape[0])
                out = ex.where(inside, p[ex.where(inside, i - begin, 0)], out)
                begin = begin + p.shape[0]
            return out
        return n.map([ex.total(p.shape[0] for p in parts)], element)


@register
class Reshape(TestOp):
    name = "Reshape"

    def lower(self, n):
        x, shape = n.input(0), n.ints(1)
        return n.map(shape, lambda *i: x[ex.unravel(ex.linear_index(i, shape), x.shape)])


@register
class Cast(TestOp):
    name = "Cast"

    def lower(self, n):
        x = n.input(0)
        return n.map(x.shape, lambda *i: ex.cast(x[i], n.attr("to")))


@register
class Mul(TestOp):
    name = "Mul"

    def lower(self, n):
        x, y = n.input(0), n.input(1)
        return n.map(x.shape, lambda *i: x[i] * y[i])


@register
class Reduce(TestOp):
    name = "Reduce"

    def lower(self, n):
        x = n.input(0)
        return n.map([], lambda: n.reduce(n.attr("kind"), x.shape, lambda *r: x[r]))


@register
class Count(TestOp):
    """Number of elements above zero, as a size only the run knows, and that many zeros."""

    name = "Count"

    def lower(self, n):
        x = n.input(0)
        count = n.map([1], lambda i: n.reduce("sum", x.shape, lambda *r: ex.where(x[r] > 0.0, ex.const(1), ex.const(0))), stem="count")
        return n.map([count[0]], lambda i: ex.const(0))


@register
class FlatSize(TestOp):
    name = "FlatSize"

    def decompose(self, b):
        return b.add("Reduce", b.add("Shape", b.input(0), domain=DOMAIN), domain=DOMAIN, kind="prod")


@register
class Damaged(TestOp):
    name = "Damaged"

    def lower(self, n):
        return n.map([len(n.attr("missing"))], lambda i: i)


@register
class Nothing(TestOp):
    name = "Nothing"


def op(graph, name, *inputs, **attributes):
    node = graph.add(name, inputs, attributes, domain=DOMAIN)
    infer(node)
    return node.outputs[0]


@pytest.fixture
def graph():
    return Graph("test")


def tensor(graph, name, dtype, *shape):
    return graph.input(name, TensorType(dtype, tuple(ex.as_expr(d) for d in shape)))


def ints(graph, *values):
    return graph.constant("c", np.array(values, np.int64))


def test_types_come_from_the_lowering(graph):
    n = ex.sym("N")
    y = op(graph, "Cast", tensor(graph, "x", dt.float32, n, 4), to=dt.float16)
    assert y.type == TensorType(dt.float16, (n, ex.const(4)))
    assert y.content is None and y.constant is None


def test_shape_chains_stay_symbolic(graph):
    n, s = ex.sym("N"), ex.sym("S")
    x = tensor(graph, "x", dt.float32, n, s, 768)
    shape = op(graph, "Shape", x)
    assert shape.content == (n, s, ex.const(768))
    batch = op(graph, "Gather", shape, ints(graph, 0))
    target = op(graph, "Concat", batch, ints(graph, -1, 12, 64))
    assert [e.text for e in target.content] == ["N", "-1", "12", "64"]
    joined = op(graph, "Concat", op(graph, "Gather", shape, ints(graph, 0, 1)), ints(graph, 12, 64))
    assert op(graph, "Reshape", x, joined).type.shape == (n, s, ex.const(12), ex.const(64))


def test_constant_contents_become_constants(graph):
    x = tensor(graph, "x", dt.float32, 2, 3)
    shape = op(graph, "Shape", x)
    assert shape.constant.tolist() == [2, 3] and shape.constant.dtype == np.int64
    assert op(graph, "Reduce", shape, kind="prod").constant == 6
    assert op(graph, "Reduce", shape, kind="argmax").constant == 1
    assert op(graph, "Reduce", shape, kind="argmin").constant == 0


def test_a_scalar_has_one_element(graph):
    shape = op(graph, "Shape", tensor(graph, "x", dt.float32))
    assert shape.type.shape == (ex.const(0),) and shape.constant.shape == (0,)
    assert op(graph, "Reduce", shape, kind="prod").constant == 1


def test_sums_of_symbols(graph):
    n = ex.sym("N")
    assert op(graph, "Reduce", op(graph, "Shape", tensor(graph, "x", dt.float32, n, 3, n)), kind="prod").content == (n * n * 3,)


def test_floats_of_sizes_are_followed(graph):
    shape = op(graph, "Cast", op(graph, "Shape", tensor(graph, "x", dt.float32, 5, 7)), to=dt.float32)
    scaled = op(graph, "Mul", shape, graph.constant("s", np.array([2.0, 0.5], np.float32)))
    assert scaled.constant.tolist() == [10.0, 3.5]
    assert op(graph, "Cast", scaled, to=dt.int64).constant.tolist() == [10, 3]


def test_unknown_floats_are_not_followed(graph):
    x = tensor(graph, "x", dt.float32, 2)
    assert op(graph, "Mul", x, x).content is None
    assert op(graph, "Cast", x, to=dt.int64).content is None


def test_runtime_integers_are_loads(graph):
    x, want = tensor(graph, "x", dt.float32, 6, 4), tensor(graph, "want", dt.int64, 2)
    y = op(graph, "Reshape", x, want)
    assert [d.text for d in y.type.shape] == ["%want[0]", "%want[1]"]
    doubled = op(graph, "Mul", want, ints(graph, 2, 2))
    assert [e.text for e in doubled.content] == ["(2*%want[0])", "(2*%want[1])"]


def test_sizes_of_the_run_follow_by_name(graph):
    x = tensor(graph, "x", dt.float32, 8)
    zeros = op(graph, "Count", x)
    before = zeros.type
    infer(zeros.producer)
    assert zeros.type is before, "a type that reads the same is kept"
    shape = op(graph, "Shape", zeros)
    assert [e.text for e in shape.content] == ["%Count.count0[0]"]
    out = op(graph, "Reshape", zeros, shape)
    refs = {x: ex.Tensor("x", dt.float32, (ex.const(8),))}
    first = lower_node(zeros.producer, refs, {})
    refs[zeros] = first.outputs[0]
    names = first.names(zeros.producer)
    second = lower_node(shape.producer, refs, names)
    refs[shape] = second.outputs[0]
    third = lower_node(out.producer, refs, {**names, **second.names(shape.producer)})
    real = first.nests[0].outputs[0]
    assert third.outputs[0].shape == (real[0],)


def test_a_size_that_nobody_computes_is_an_error(graph):
    zeros = op(graph, "Count", tensor(graph, "x", dt.float32, 8))
    out = op(graph, "Reshape", zeros, op(graph, "Shape", zeros))
    refs = {v: ex.Tensor(v.name, v.type.dtype, v.type.shape) for v in out.producer.inputs}
    with pytest.raises(ModelError, match=r"%Count.count0, which is not computed"):
        lower_node(out.producer, refs, {})


def test_decomposition_leaves_the_graph_alone(graph):
    n = ex.sym("N")
    x = tensor(graph, "x", dt.float32, n, 4)
    size = op(graph, "FlatSize", x)
    assert size.type == TensorType(dt.int64, ()) and size.content == (n * 4,)
    assert len(graph.nodes) == 1 and x.uses == [(size.producer, 0)]


def test_contents_are_refreshed(graph):
    x = tensor(graph, "x", dt.float32, 2)
    y = op(graph, "Shape", x)
    x.type = TensorType(dt.float32, (ex.sym("N"),))
    infer_graph(graph)
    assert y.constant is None and [e.text for e in y.content] == ["N"]


def test_damage_names_the_node(graph):
    with pytest.raises(ModelError, match=r"'Damaged' \(test.infer::Damaged\).*do not fit") as caught:
        op(graph, "Damaged", tensor(graph, "x", dt.float32, 2))
    assert isinstance(caught.value.__cause__, TypeError)


def test_missing_input_names_the_node(graph):
    with pytest.raises(ModelError, match="input 1 of Gather is missing"):
        op(graph, "Gather", tensor(graph, "x", dt.float32, 2))


def test_unknown_operators_and_missing_semantics(graph):
    with pytest.raises(UnsupportedError, match="NoSuchOperator is not known"):
        op(graph, "NoSuchOperator")
    with pytest.raises(UnsupportedError, match="neither a lowering nor types"):
        op(graph, "Nothing")


def test_unknown_rank_is_named(graph):
    x = graph.input("x", TensorType(dt.float32, None))
    with pytest.raises(UnsupportedError, match="a tensor of known rank was expected"):
        op(graph, "Shape", x)


def test_a_large_graph_is_quick(graph):
    n, s = ex.sym("N"), ex.sym("S")
    x = tensor(graph, "x", dt.float32, n, s, 768)
    y = x
    for _ in range(300):
        shape = op(graph, "Shape", y)
        target = op(graph, "Concat", op(graph, "Gather", shape, ints(graph, 0, 1)), ints(graph, 768))
        y = op(graph, "Mul", op(graph, "Reshape", y, target), x)
    begin = time.perf_counter()
    infer_graph(graph)
    assert time.perf_counter() - begin < 10
    assert y.type == x.type
