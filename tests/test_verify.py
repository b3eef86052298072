"""Verification accepts what the compiler makes and rejects, with a reason, each way in which it could be wrong."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.expr import Tensor
from sardonyx.ir.graph import Graph, TensorType
from sardonyx.ir.infer import infer
from sardonyx.ir.loops import ContractionNest, MapNest, NestProgram, Store, identity_map
from sardonyx.ir.verify import VerificationError, verify_graph, verify_nest, verify_program


def tensor(name, dtype, *shape):
    return Tensor(name, dtype, tuple(ex.as_expr(d) for d in shape))


@pytest.fixture
def graph():
    g = Graph("g")
    x = g.input("x", TensorType(dt.float32, (ex.sym("N"), ex.const(3))))
    y = g.add("Add", [x, g.constant("c", np.zeros(3, np.float32))], version=14)
    z = g.add("Relu", [y.outputs[0]], version=14)
    for n in (y, z):
        infer(n)
    g.outputs = [z.outputs[0]]
    return g


def test_a_sound_graph_passes(graph):
    verify_graph(graph)


def drop_use(g): g.nodes[0].outputs[0].uses.clear()
def repeat_use(g): g.inputs[0].uses *= 2
def stale_use(g): g.inputs[0].uses.append((g.nodes[1], 0))
def swap_nodes(g): g.nodes.reverse()
def untype(g): g.outputs[0].type = None
def wrong_producer(g): g.nodes[1].outputs[0].producer = g.nodes[0]
def same_name(g): g.nodes[1].outputs[0].name = "x"
def wrong_constant(g): g.nodes[0].inputs[1].constant = np.zeros(4, np.float32)
def wrong_elements(g): g.nodes[0].inputs[1].constant = np.zeros(3, np.float64)
def wrong_content(g): g.inputs[0].content = (ex.const(1),)
def foreign_output(g): g.outputs = [Graph("h").input("other", TensorType(dt.float32, ()))]
def two_nodes(g): g.nodes.append(g.nodes[0])


@pytest.mark.parametrize(("damage", "reason"), [
    (drop_use, "lacks or repeats uses"), (repeat_use, "listed twice"), (stale_use, "which is not there"), (swap_nodes, "used before it is computed"),
    (untype, "has no type"), (wrong_producer, "as its producer"), (same_name, "two values are called %x"), (wrong_constant, r"array of shape \(4,\)"),
    (wrong_elements, "array of float64"), (wrong_content, "cannot have the content"), (foreign_output, "%other is used before"), (two_nodes, "twice"),
])
def test_damaged_graphs_are_named(graph, damage, reason):
    damage(graph)
    with pytest.raises(VerificationError, match=reason):
        verify_graph(graph)


X = tensor("x", dt.float32, 4, 6)
OUT = tensor("out", dt.float32, 4, 6)
P, Q, R = ex.axis(4), ex.axis(6), ex.axis(5)


def map_of(*stores, axes=(P, Q)):
    return MapNest(axes, stores)


def test_sound_nests_pass():
    r = ex.axis(6, "r")
    verify_nest(map_of(Store(OUT, (P, Q), X[P, Q] - ex.reduce("max", (r,), X[P, r]))))
    verify_nest(map_of(Store(tensor("flat", dt.float32, 24), (P * 6 + Q,), X[P, Q])))
    verify_nest(map_of(Store(tensor("down", dt.float32, 4), (3 - P,), X[P, 0])))
    n = ex.sym("N")
    verify_nest(identity_map(tensor("s", dt.float32, n), lambda i: X[0, 0] * ex.cast(i, dt.float32)))


@pytest.mark.parametrize(("nest", "reason"), [
    (map_of(Store(OUT, (P, Q), ex.cast(X[P, Q], dt.float16))), "a value of f16 is stored in a tensor of f32"),
    (map_of(Store(OUT, (P,), X[P, Q])), "1 indices for rank 2"),
    (map_of(Store(OUT, (P, Q), X[P, R])), "axis i.* is not bound"),
    (map_of(Store(tensor("o", dt.float32, 4), (P,), X[P, Q])), "the value changes along"),
    (map_of(Store(tensor("o", dt.float32, 30), (P * 4 + Q,), X[P, Q])), "store at the same place"),
    (map_of(Store(tensor("o", dt.float32, 20), (P * 6 + Q,), X[P, Q])), "index 0 runs from 0 to 23"),
    (map_of(Store(OUT, (P - 1, Q), X[P, Q])), "index 0 runs from -1 to 2"),
    (map_of(Store(OUT, (P, Q), ex.acc(dt.float32))), "the accumulator is used"),
    (map_of(Store(OUT, (P, Q), ex.make("add", (X[P, Q], ex.const(1)), dt.float32))), "operands of"),
    (map_of(Store(OUT, (P, Q), ex.make("frobnicate", (X[P, Q],), dt.float32))), "no operator frobnicate"),
    (map_of(Store(OUT, (P, Q), ex.make("load", (P,), dt.float32, (X, None)))), "1 indices for rank 2"),
    (map_of(Store(OUT, (P, Q), X[P, Q]), axes=(P, Q, P)), "not distinct axes"),
    (map_of(Store(OUT, (P, Q), tensor("late", dt.float32, 4)[P]), Store(tensor("late2", dt.float32, 4), (P,), X[P, 0])), None),
])
def test_damaged_nests_are_named(nest, reason):
    if reason is None:
        verify_nest(nest)
        return
    with pytest.raises(VerificationError, match=reason):
        verify_nest(nest)


def test_a_store_may_not_read_what_a_later_one_writes():
    late = tensor("late", dt.float32, 4)
    with pytest.raises(VerificationError, match="which a later store writes"):
        verify_nest(map_of(Store(OUT, (P, Q), late[P]), Store(late, (P,), X[P, 0])))


def test_contractions():
    w, out = tensor("w", dt.float32, 5, 6), tensor("o", dt.float32, 4, 5)
    nest = ContractionNest((), (P,), (R,), (Q,), X[P, Q], w[R, Q], dt.float32, (Store(out, (P, R), ex.acc(dt.float32)),))
    verify_nest(nest)
    for damaged, reason in ((replace(nest, a=w[R, Q]), "axis .* is not bound"), (replace(nest, dtype=dt.float64), "operand a is f32, the accumulator f64"),
                            (replace(nest, reduced=(), a=X[P, 0], b=w[R, 0]), "without reduced axes")):
        with pytest.raises(VerificationError, match=reason):
            verify_nest(damaged)


def test_programs():
    y, z = tensor("y", dt.float32, 4, 6), tensor("z", dt.float32, 4, 6)
    first, second = identity_map(y, lambda i, j: X[i, j]), identity_map(z, lambda i, j: y[i, j])
    program = NestProgram([X], {}, [first, second], [z])
    verify_program(program)
    for damaged, reason in ((replace(program, nests=[second, first]), "%y is read before"), (replace(program, nests=[first, second, second]), "computed twice"),
                            (replace(program, outputs=[OUT]), "%out is never computed"), (replace(program, inputs=[X, X]), "given twice"),
                            (replace(program, inputs=[], constants={X: np.zeros((4, 5), np.float32)}), "an array of shape")):
        with pytest.raises(VerificationError, match=reason):
            verify_program(damaged)
