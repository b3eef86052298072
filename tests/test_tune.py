"""Alternatives of schedules: each gives the right results, measurements choose among them, and what was measured is remembered."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto as T
from onnx import helper
from sardonyx import InferenceSession, SessionOptions
from sardonyx.ir.errors import SardonyxError
from sardonyx.ir.target import NAMED
from sardonyx.runtime import tune
from sardonyx.runtime.cache import default_cache
from sardonyx.runtime.cli import cli
from sardonyx.runtime.model import CompiledModel, CompileOptions, compile_model, host_target, obtain
from sardonyx.runtime.options import TUNE_KEY
from sardonyx.runtime.package import used_features

EPS = float(np.finfo(np.float32).eps)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(nodes: list, inputs: Mapping[str, list], output: list, weights: Mapping[str, np.ndarray]) -> bytes:
    tensors = [onnx.numpy_helper.from_array(a, k) for k, a in weights.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(k, T.FLOAT, s) for k, s in inputs.items()], [helper.make_tensor_value_info("y", T.FLOAT, output)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10).SerializeToString()


def dense(rows: int | str = 150, depth: int = 1200, columns: int = 70) -> bytes:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return model(nodes, {"x": [rows, depth]}, [rows, columns], {"w": normal(1, depth, columns)})


def picture() -> bytes:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]), helper.make_node("Conv", ["h", "v"], ["g"], strides=[2, 2]), helper.make_node("Relu", ["g"], ["y"])]
    return model(nodes, {"x": [1, 64, 20, 20]}, [1, 40, 10, 10], {"w": normal(2, 64, 64, 3, 3), "v": normal(3, 40, 64, 1, 1)})


def attention() -> bytes:
    make = helper.make_node
    nodes = [make("Transpose", ["k"], ["t"], perm=[0, 2, 1]), make("MatMul", ["q", "t"], ["s"]), make("Softmax", ["s"], ["p"]), make("MatMul", ["p", "v"], ["y"])]
    return model(nodes, {"q": [3, 200, 32], "k": [3, 90, 32], "v": [3, 90, 48]}, [3, 200, 48], {})


def chosen(source: bytes, decisions: Mapping[str, int]) -> CompiledModel:
    return compile_model(source, CompileOptions(), replace(host_target(), measured=dict(decisions)), default_cache())[0]


def feeds_of(found: CompiledModel) -> list[np.ndarray]:
    return [normal(9 + k, *(d if isinstance(d, int) else 37 for d in p.shape or ())) for k, p in enumerate(found.plan.inputs)]


@pytest.mark.parametrize("source", [dense(), dense("n"), dense(7), picture(), attention()], ids=["dense", "any rows", "few rows", "picture", "attention"])
def test_every_alternative_gives_the_same_bits_and_several_differ(source: bytes) -> None:
    """All add a sum's terms in one order; only direct convolutions add other numbers than Winograd's."""
    for direct in (0, 1):
        models = [chosen(source, tune.trial_decisions(direct, k)) for k in range(tune.ALTERNATIVES)]
        results = [np.asarray(m.executor(2).run(feeds_of(m))[0]) for m in models]
        for r in results[1:]:
            np.testing.assert_array_equal(r, results[0])
        assert len({tune.facts(m) for m in models}) >= 3


def test_direct_convolution_stays_near_winograds() -> None:
    winograd, direct = chosen(picture(), {}), chosen(picture(), {"windows": 1})
    assert any(k.startswith("winograd") for k in winograd.objects)
    assert not any(k.startswith("winograd") for k in direct.objects)
    a, b = (np.asarray(m.executor(1).run(feeds_of(m))[0]) for m in (winograd, direct))
    assert np.abs(a - b).max() <= 64 * EPS * np.abs(a).max()  # two sums of 576 and 64 terms whose errors do not all add up


def test_the_cost_model_is_the_first_alternative() -> None:
    assert tune.facts(chosen(dense(), {})) == tune.facts(chosen(dense(), tune.trial_decisions(0, 0)))
    assert tune.facts(chosen(dense(), {"blocking": 1000})) == tune.facts(chosen(dense(), {}))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def options(value: str, threads: int = 1) -> SessionOptions:
    o = SessionOptions()
    o.intra_op_num_threads = threads
    o.add_session_config_entry(TUNE_KEY, value)
    return o


def pretend(monkeypatch: pytest.MonkeyPatch, best: str) -> list[str]:
    """Measurements in which one variant is fastest by far; returns the list that what was measured is added to."""
    measured: list[str] = []

    def measure(found: CompiledModel, _: CompileOptions) -> dict[str, float]:
        measured.append(tune.facts(found))
        return dict.fromkeys(found.products.values(), 0.1 if tune.facts(found) == best else 1.0)
    monkeypatch.setattr(tune, "measure", measure)
    return measured


@pytest.mark.usefixtures("empty_cache")
def test_the_fastest_alternative_is_taken_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tune.facts(chosen(dense(), tune.trial_decisions(0, 3)))
    assert wanted != tune.facts(chosen(dense(), {}))
    measured = pretend(monkeypatch, wanted)
    session = InferenceSession(dense(), options("1"))
    assert session._model.origin == "compiled" and tune.facts(session._model) == wanted and len(set(measured)) >= 4
    results = session.get_tuning_results()
    assert results[0]["results"]["blocking 1x150x70x1x1200 f32"] == 3  # type: ignore[index]
    assert all(not key.startswith("attention") for key in results[0]["results"])  # type: ignore[index]
    count = len(measured)
    again = InferenceSession(dense(), options("1"))
    assert again._model.origin == "cache" and again.get_tuning_results() == results and tune.facts(again._model) == wanted
    other = onnx.load_from_string(dense())  # the same product in another model
    other.producer_name = "another"
    assert tune.facts(InferenceSession(other.SerializeToString(), options("1"))._model) == wanted
    assert len(measured) == count
    assert tune.facts(InferenceSession(dense())._model) == tune.facts(chosen(dense(), {})) != wanted  # who did not ask gets the cost model's
    InferenceSession(dense(), options("1", threads=2))
    assert len(measured) > count  # measured for each number of threads


@pytest.mark.usefixtures("empty_cache")
def test_what_is_hardly_faster_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tune.facts(chosen(dense(), {}))
    monkeypatch.setattr(tune, "measure", lambda found, _: dict.fromkeys(found.products.values(), 1.0 if tune.facts(found) == base else 0.98))
    assert tune.facts(InferenceSession(dense(), options("1"))._model) == base


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("source", [dense(40, 64, 32), picture(), attention()], ids=["dense", "picture", "attention"])
def test_tuned_models_are_right(source: bytes) -> None:
    tuned, plain = InferenceSession(source, options("1")), InferenceSession(source)
    feeds = {p.name: normal(4, *p.shape) for p in plain.get_inputs()}
    a, b = (np.asarray(s.run(None, feeds)[0]) for s in (tuned, plain))
    assert np.abs(a - b).max() <= 64 * EPS * np.abs(b).max()
    assert tuned.get_tuning_results() and not plain.get_tuning_results()


@pytest.mark.usefixtures("empty_cache")
def test_symbolic_dimensions_need_sizes() -> None:
    with pytest.raises(SardonyxError, match="size for each symbolic dimension .* none for n .*session.tune"):
        InferenceSession(dense("n"), options("1"))
    session = InferenceSession(dense("n"), options("n=60"))
    for rows in (1, 60, 77):
        feeds = {"x": normal(5, rows, 1200)}
        np.testing.assert_array_equal(session.run(None, feeds)[0], InferenceSession(dense("n")).run(None, feeds)[0])


@pytest.mark.parametrize("value", ["", "yes", "n", "n=", "n=-1", "n=1;m=2"])
def test_values_that_mean_nothing_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="session.tune.*NAME=SIZE"):
        options(value)


def test_another_machine_cannot_be_measured(empty_cache: Path) -> None:
    with pytest.raises(SardonyxError, match="cannot run code for aarch64"):
        obtain(dense(), CompileOptions(tune=1), NAMED["aarch64"])


def test_a_better_processor_than_this_cannot_be_measured(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code would be run, and die of illegal instructions."""
    old = NAMED["x86-64-v2"]
    old = replace(old, features=",".join(f"+{f}" for f in sorted(used_features(old.key))))
    monkeypatch.setattr(tune, "probe", lambda: old)
    with pytest.raises(SardonyxError, match="this machine, which lacks .*avx2.* of x86-64-v3"):
        obtain(dense(), CompileOptions(tune=1), NAMED["x86-64-v3"])


def test_command_line(empty_cache: Path, tmp_path: Path) -> None:
    path, package = tmp_path / "m.onnx", tmp_path / "m.sdx"
    path.write_bytes(dense("n", 64, 32))
    runner = CliRunner()
    done = runner.invoke(cli, ["compile", str(path), "-o", str(package), "--tune"])
    assert done.exit_code == 1 and "--tune-dim" in str(done.exception)
    done = runner.invoke(cli, ["compile", str(path), "-o", str(package), "--tune", "--tune-dim", "n=20"])
    assert done.exit_code == 0 and "of 1 products run otherwise" in done.output, done.output
    assert runner.invoke(cli, ["run", str(path), "--tune", "--dim", "n=20"]).exit_code == 0
    done = runner.invoke(cli, ["run", str(package), "--tune"])
    assert done.exit_code == 1 and "compiled already" in str(done.exception)
