"""Random models: compiled code gives what the interpreter gives. `random_graphs` runs any number of them from the command line."""
from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_oracle import Expected, case_text, check, difference, judge_nests, read_case
from random_models import generate
from sardonyx.compiler.exporter import export_model
from sardonyx.ir.text import graph_text

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.txt"))


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 6, 7, 8, 9])
def test_compiled_models_mean_what_their_graphs_mean(seed):
    g = generate(random.Random(seed))
    failure = check(g.graph, g.feeds(), levels=(3,))
    assert failure is None, failure


@pytest.mark.parametrize("seed", range(100, 112))
def test_fused_nests_mean_what_their_graphs_mean(seed):
    g = generate(random.Random(seed))
    verdict = judge_nests(g.graph, g.feeds())
    assert verdict.failure is None, verdict.failure


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda p: p.stem)
def test_mended_faults_stay_mended(path):
    graph, feeds = read_case(path.read_text())
    failure = check(graph, feeds)
    assert failure is None, failure


@pytest.mark.parametrize("seed", range(0, 60, 4))
def test_models_are_valid_and_read_back_from_text(seed):
    g = generate(random.Random(seed), 5, 30)
    onnx.checker.check_model(export_model(g.graph), full_check=True)
    graph, feeds = read_case(case_text(g.graph, g.feeds(), "a remark"))
    assert graph_text(graph, data=True) == graph_text(read_case(case_text(graph, feeds, ""))[0], data=True)
    for f, want in zip(feeds, g.feeds(), strict=True):
        assert f.keys() == want.keys() and all(f[n].tobytes() == want[n].tobytes() for n in f)


def test_the_oracle_sees_a_difference_beyond_rounding():
    g = generate(random.Random(1), 5, 20)
    expected = Expected(g.graph, g.feeds()[0])
    k = next(k for k, o in enumerate(expected.outputs) if o.size and o.dtype.kind == "f")
    assert difference(expected.outputs[k], expected, k) is None
    wrong = expected.outputs[k].copy()
    wrong.flat[0] += 1 + abs(wrong.flat[0])
    assert "elements differ" in difference(wrong, expected, k)
    assert "type" in difference(np.zeros(wrong.shape, np.int8), expected, k)
