"""Nests that differ in names alone share one schedule, others never do."""
from __future__ import annotations

from collections.abc import Callable

import pytest
from sardonyx.codegen import same_nests
from sardonyx.codegen.map_schedule import schedule_map
from sardonyx.codegen.same_nests import MapSchedules, NestForm
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import MapNest, Store
from sardonyx.runtime.host import host_target

TARGET = host_target()


def layer(k: int, rows: Expr | int, columns: Expr | int, scale: float = 2.0, dtype: dt.DType = dt.float32) -> MapNest:
    """softmax-like rows of x * scale + bias, under names of its own."""
    n, m = ex.as_expr(rows), ex.as_expr(columns)
    x, bias, out = Tensor(f"x{k}", dtype, (n, m)), Tensor(f"bias{k}", dtype, (m,)), Tensor(f"out{k}", dtype, (n, m))
    i, j, r = ex.axis(n), ex.axis(m), ex.axis(m, "r")
    def value(at: Expr) -> Expr:
        return x[i, at] * ex.const(scale, dtype) + bias[at]
    return MapNest((i, j), (Store(out, (i, j), value(j) - ex.reduce("max", (r,), value(r))),), (f"node{k}",))


@pytest.fixture
def scheduled(monkeypatch: pytest.MonkeyPatch) -> list[MapNest]:
    """The nests that were really scheduled."""
    seen: list[MapNest] = []

    def counting(nest: MapNest, *rest: object) -> KernelCall:
        seen.append(nest)
        return schedule_map(nest, *rest)  # type: ignore[arg-type]
    monkeypatch.setattr(same_nests, "schedule_map", counting)
    return seen


def named_size(k: int) -> Expr:
    """A size with a name of its own, whose definition differs from layer to layer."""
    e = ex.sym("n") + k
    for j in range(30):
        e = (e * (k + 5 + j) + j) % (ex.sym("m") + 100 + j)
    e = ex.shorten(e)
    assert e.op == "sym" and e.args
    return e


@pytest.mark.parametrize("size", [lambda k: ex.const(48), lambda k: ex.sym(f"s{k}"), named_size])
def test_layers_share_one_schedule(scheduled: list[MapNest], size: Callable[[int], Expr]) -> None:
    schedules = MapSchedules({}, TARGET)
    for k in range(5):
        nest = layer(k, size(k), 48)
        call, alone = schedules.call(nest), schedule_map(nest, {}, TARGET)
        assert call.kernel == alone.kernel and call.origin == (f"node{k}",)
        assert [b.name for b in call.buffers] == [b.name for b in alone.buffers]
        assert (*call.parameters, call.units, call.scratch_bytes, call.flops, call.bytes) == (
            *alone.parameters, alone.units, alone.scratch_bytes, alone.flops, alone.bytes)
    assert len(scheduled) == 1


def test_sizes_that_the_run_reads_belong_to_each_nest() -> None:
    schedules = MapSchedules({}, TARGET)
    for k in range(3):
        counts = Tensor(f"counts{k}", dt.int64, (ex.const(2),))
        call = schedules.call(layer(k, counts[1], 48))
        read = {ex.load_tensor(e) for e in ex.loads([*call.parameters, call.units])}
        assert read == {counts}


DIFFERENT = {
    "constant": layer(9, 48, 48, scale=3.0),
    "signed zero": layer(9, 48, 48, scale=-0.0),
    "size": layer(9, 48, 64),
    "symbol": layer(9, ex.sym("n"), 48),
    "symbol's minimum": layer(9, ex.sym("n", 0), 48),
    "type": layer(9, 48, 48, dtype=dt.float64),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_other_nests_have_other_forms(what: str) -> None:
    keys = [NestForm(n, {}).key for n in (layer(1, 48, 48), layer(1, 48, 48, scale=0.0), layer(1, ex.sym("n", 2), 48), DIFFERENT[what])]
    assert keys[-1] not in keys[:-1]


def test_one_tensor_read_twice_is_not_two_tensors() -> None:
    n = ex.const(16)
    a, b, out = (Tensor(name, dt.float32, (n,)) for name in ("a", "b", "out"))
    i = ex.axis(n)
    def add(x: Tensor, y: Tensor) -> MapNest:
        return MapNest((i,), (Store(out, (i,), x[i] + ex.unary("exp", y[i])),))
    assert NestForm(add(a, b), {}).key == NestForm(add(b, a), {}).key
    assert NestForm(add(a, b), {}).key != NestForm(add(a, a), {}).key


def test_one_size_twice_is_not_two_sizes() -> None:
    assert NestForm(layer(1, ex.sym("n"), ex.sym("n")), {}).key != NestForm(layer(1, ex.sym("n"), ex.sym("m")), {}).key


def test_layouts_are_part_of_the_form() -> None:
    nest = layer(1, 48, 32)
    x, = (t for t in NestForm(nest, {}).tensors if t.name == "x1")
    assert NestForm(nest, {}).key != NestForm(nest, {x: (1, 0)}).key
