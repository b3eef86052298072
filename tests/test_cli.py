"""The command line: every command on the demo's model, and what it says when something is wrong."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

MODEL = str(files("sardonyx.runtime").joinpath("data", "digits.onnx"))


def sardonyx(*arguments: str, folder: Path | None = None, status: int = 0) -> str:
    """What the command prints (errors included), its exit status checked."""
    done = subprocess.run([sys.executable, "-m", "sardonyx", *arguments], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("package") / "digits.sdx"
    assert "kernels" in sardonyx("compile", MODEL, "-o", str(path))
    return str(path)


def test_help_names_every_command() -> None:
    text = sardonyx("--help")
    assert all(c in text for c in ("compile", "run", "bench", "inspect", "explain", "profile", "cache", "doctor", "demo"))


def test_help_loads_no_compiler() -> None:
    code = "import sys, sardonyx.runtime.cli as c\ntry: c.cli(['--help'])\nexcept SystemExit: pass\nprint([m for m in ('numba', 'onnx', 'llvmlite') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.endswith("[]\n")


def test_demo_recognises_digits() -> None:
    text = sardonyx("demo", "--samples", "4")
    right, total = map(int, re.search(r"(\d+) of (\d+)", text).groups())
    assert right >= 0.95 * total and "Conv + Relu" in text


def test_run_prints_outputs_and_saves_them(tmp_path: Path, package: str) -> None:
    np.save(tmp_path / "image.npy", np.zeros((3, 8, 8), np.uint8))
    out = tmp_path / "out.npz"
    text = sardonyx("run", package, "-i", f"image={tmp_path / 'image.npy'}", "-o", str(out))
    assert "probabilities" in text and "[3, 10]" in text
    with np.load(out) as saved:
        assert saved["probabilities"].shape == (3, 10)
        np.testing.assert_allclose(saved["probabilities"].sum(1), 1, rtol=1e-5)


def test_run_makes_up_inputs_of_the_sizes_asked_for() -> None:
    assert "[5, 10]" in sardonyx("run", MODEL, "--dim", "batch=5")


def test_bench_reports_kernels() -> None:
    found = json.loads(sardonyx("bench", MODEL, "--seconds", "0.05", "--json"))
    assert found["median_ms"] > 0 and found["kernels"] and all(k["calls"] >= 1 for k in found["kernels"])
    assert "latency" in sardonyx("bench", MODEL, "--seconds", "0.05", "--streams", "2")


def test_explain_tells_every_node_and_suggests_names() -> None:
    assert "conv1 (Conv): step" in sardonyx("explain", MODEL)
    assert "computed in the contraction's epilogue" in sardonyx("explain", MODEL, "relu1")
    assert "did you mean conv1" in sardonyx("explain", MODEL, "conv11", status=1)


def test_profile_writes_a_trace_with_the_models_nodes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert "us" in sardonyx("profile", MODEL, "-o", str(trace), "--runs", "2")
    names = {e["name"] for e in json.loads(trace.read_text())}
    assert "model_run" in names and any(n.endswith("_kernel_time") for n in names)


def test_inspect_as_text_and_as_a_page(tmp_path: Path, package: str) -> None:
    text = sardonyx("inspect", MODEL, "--stage", "fuse")
    assert "parameters" in text and "stage fuse" in text
    page = tmp_path / "page.html"
    sardonyx("inspect", MODEL, "--html", str(page))
    written = page.read_text()
    assert written.count("<svg") == 2 and "def kernel(" in written.replace('<span class="k">def</span>', "def") and "http://" not in written and "https://" not in written
    assert "kernels" in sardonyx("inspect", package)


def test_inspect_gives_the_memory_as_a_formula_and_in_bytes() -> None:
    text = sardonyx("inspect", MODEL)
    name = next(iter(re.findall(r"\[(\w+), ", text)))
    assert re.search(rf"results +\(\d+\*{name}\) bytes", text) and "peak" not in text
    assert re.search(r"peak .* on one thread", sardonyx("inspect", MODEL, "--dim", f"{name}=3"))
    assert "no dimension named 'huh'" in sardonyx("inspect", MODEL, "--dim", "huh=3", status=1)


@pytest.mark.parametrize("stage", ["import", "simplify", "lower", "fuse", "layout", "kernels", "plan"])
def test_compile_dumps_stages(stage: str, tmp_path: Path) -> None:
    text = sardonyx("compile", MODEL, "-o", str(tmp_path / "m.sdx"), "--dump", stage)
    assert len(text.splitlines()) > 5


def test_compile_for_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "arm.sdx"
    assert "generic" in sardonyx("compile", MODEL, "-o", str(path), "--target", "aarch64")
    assert "compiled for aarch64" in sardonyx("run", str(path), status=1)


def test_doctor_and_cache() -> None:
    text = sardonyx("doctor")
    assert all(w in text for w in ("numba", "OpenMP", "SARDONYX_CACHE_DIR", "cores"))
    assert "kernels" in sardonyx("cache", "show")


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(Path(MODEL).read_bytes()[:1000])
    for arguments, words in ((("run", str(damaged)), "damaged"), (("run", MODEL, "--dim", "nope=3"), "batch"), (("run", MODEL, "-i", "image=" + __file__), "npz"),
                             (("compile", MODEL, "--target", "z80"), "unknown target"), (("inspect", MODEL, "--stage", "nope"), "stages")):
        text = sardonyx(*arguments, folder=tmp_path, status=2 if "nope" in arguments[-1] and arguments[0] == "inspect" else 1)
        assert words in text and "Traceback" not in text
    assert "does not exist" in sardonyx("run", str(tmp_path / "missing.onnx"), status=2)


def test_reading_ceilings_fall_with_size() -> None:
    """Every size has a ceiling, no smaller size a lower one; caches are measured apart from memory."""
    from sardonyx.runtime import probe
    rates = probe.reading()
    assert [r.level for r in rates][-1] == "memory" and rates[-1].size_bytes is None and all(r.bytes_per_second > 1e8 for r in rates)
    sizes = [1 << k for k in range(10, 34)]
    ceilings = [probe.read_bytes_per_second(s) for s in sizes]
    assert ceilings == sorted(ceilings, reverse=True) and ceilings[0] == max(r.bytes_per_second for r in rates)
    assert ceilings[-1] == rates[-1].bytes_per_second
