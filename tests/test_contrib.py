"""Operators against ONNX Runtime on generated attributes, optional inputs, types and shapes; see contrib_cases.py."""
from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from contrib_cases import LEAST_CASES, Case, Family, compare, judge, load_families
from sardonyx.ir.ops.base import find

FAMILIES = load_families()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f"{f.domain}:{f.op}")
@pytest.mark.filterwarnings("ignore")
def test_family(family: Family) -> None:
    assert find(family.domain, family.op) is not None, f"{family.op} has no definition"
    generated = family.cases()
    assert len(generated) >= LEAST_CASES
    verdicts = [judge(family, k, c, k % 3 == 0) for k, c in enumerate(generated)]
    accepted = [v for v in verdicts if not v.refused]
    assert len(accepted) >= max(1, family.least), f"ONNX Runtime accepts {len(accepted)}; it says of others: " + "\n".join(v.text[:300] for v in verdicts if v.refused)
    wrong = [v.text for v in accepted if v.wrong]
    assert not wrong, f"{len(wrong)} of {len(accepted)} are wrong\n" + "\n".join(wrong)


def test_comparison_finds_what_differs() -> None:
    family = Family("", "Add", lambda r: iter(()))
    compare(family, np.float32([1, np.nan, np.inf]), np.float32([1 + 1e-7, np.nan, np.inf]))
    for got, want in ((np.float32([1, 2]), np.float32([1, 2.001])), (np.float32([1]), np.float64([1])), (np.float32([1]), np.float32([[1]])), (np.float32([np.nan]), np.float32([1])),
                      (np.float32([1]), np.float32([np.nan])), (np.float32([np.inf]), np.float32([-np.inf])), (np.int64([1]), np.int64([2])), (np.array(["a"], object), np.array(["b"], object)),
                      (np.uint8([0]), np.uint8([255])), ([np.int64(1)], [np.int64(2)]), ({"a": 1.0}, {"a": 2.0})):
        with pytest.raises(AssertionError):
            compare(family, got, want)


def test_refused_cases_do_not_count() -> None:
    family = Family("", "Add", lambda r: iter(()))
    verdict = judge(family, 0, Case([np.zeros((2, 3), np.float32), np.zeros((4,), np.float32)]))
    assert verdict.refused and not verdict.wrong
    assert judge(family, 0, Case([np.zeros((2, 3), np.float32), np.zeros((3,), np.float32)])).text.endswith("equal")
