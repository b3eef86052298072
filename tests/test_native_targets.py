"""Native libraries for other machines, made by the compiler of package ziglang: the same numbers under an emulator, and in Node.js."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import sardonyx
from sardonyx.ir.target import NAMED, parse
from sardonyx.runtime.host import host_target
from sardonyx.runtime.model import CompileOptions, obtain
from sardonyx.runtime.native.library import Library, write_library
from test_native import SOURCE, read_tensors, write_tensors

HOST = host_target()
DIGITS = str(files("sardonyx.runtime").joinpath("data", "digits.onnx"))
LOADER = files("sardonyx.runtime").joinpath("native", "sardonyx.mjs")
EMULATED = {"aarch64": ("qemu-aarch64", "aarch64-linux-musl"), "armv7": ("qemu-arm", "arm-linux-musleabihf"), "riscv64": ("qemu-riscv64", "riscv64-linux-musl")}
pytest.importorskip("ziglang")


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (5, 8, 8)).astype(np.uint8)


def expected() -> list[np.ndarray]:
    return sardonyx.InferenceSession(DIGITS).run(None, {"image": images()})


def build(target: str, path: Path) -> Library:
    machine = parse(target, HOST)
    return write_library(obtain(DIGITS, CompileOptions(), machine), path, machine, HOST)


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Probabilities within the rounding of another order of additions: the network sums some 800 products and exponentiates."""
    return bool(np.abs(got - wanted).max() <= 64 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("target", EMULATED)
def test_under_an_emulator(target: str, tmp_path: Path) -> None:
    emulator, triple = EMULATED[target]
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not installed (Debian's qemu-user)")
    made = build(target, tmp_path / "libdigits.a")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-O1", "-static", "-DMODEL=digits", '-DHEADER="digits.h"', f"-I{tmp_path}", str(SOURCE), str(made.path),
               "-o", str(tmp_path / "program")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    write_tensors(tmp_path / "in", [(2, images())])
    options = ["-cpu", "rv64,v=true"] if target == "riscv64" else []
    subprocess.run([emulator, *options, tmp_path / "program", tmp_path / "in", tmp_path / "out", "1", "2"], check=True, capture_output=True)
    for (shape, data), wanted in zip(read_tensors(tmp_path / "out"), expected(), strict=True):
        assert shape == wanted.shape
        assert close(np.frombuffer(data, wanted.dtype).reshape(shape), wanted)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_in_node(tmp_path: Path) -> None:
    made = build("wasm32", tmp_path / "digits.wasm")
    program = tmp_path / "main.mjs"
    program.write_text(f"""
import fs from "fs";
import {{ Model }} from "{LOADER}";
const module = await WebAssembly.compile(fs.readFileSync("{made.path}"));
const model = await Model.load(fs.readFileSync("{made.path}"), "digits");
const data = Uint8Array.from({images().reshape(-1).tolist()});
const out = model.run({{ image: {{ data, dims: [5, 8, 8] }} }});
const failures = [];
for (const bad of [{{}}, {{ image: {{ data, dims: [5, 8, 7] }} }}, {{ image: {{ data: new Float32Array(320), dims: [5, 8, 8] }} }}, {{ image: {{ data, dims: [320] }} }}])
  try {{ model.run(bad); }} catch (e) {{ failures.push(e.message); }}
const again = model.run({{ image: {{ data: data.slice(0, 64), dims: [1, 8, 8] }} }});
model.close();
console.log(JSON.stringify({{ imports: WebAssembly.Module.imports(module).length, inputs: model.inputs, dims: out.probabilities.dims, probabilities: [...out.probabilities.data],
  digits: [...out.digit.data].map(Number), again: [...again.probabilities.data], failures }}));
""")
    done = subprocess.run(["node", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    probabilities, digits = expected()
    assert found["imports"] == 0
    assert found["inputs"] == [{"name": "image", "type": 2, "itemSize": 1, "dims": ["batch", 8, 8]}]
    assert found["dims"] == [5, 10] and found["digits"] == digits.tolist()
    assert close(np.array(found["probabilities"]).reshape(5, 10), probabilities)
    assert close(np.array(found["again"]), probabilities[0])
    assert [text.split(";")[0] for text in found["failures"]] == ["input 'image' is missing", "dimension 2 of input 'image' is 7, 8 was expected", "input 'image' must be a Uint8Array",
                                                                  "input 'image' has rank 1, the model takes rank 3"]


def test_every_named_target_has_a_kind_of_library() -> None:
    from sardonyx.runtime.native.toolchain import platform, zig_triple

    assert {platform(t) for t in NAMED.values()} == {"linux", "windows", "macos", "wasm"}
    assert zig_triple(NAMED["armv7"]) == "arm-linux-gnueabihf" and zig_triple(NAMED["macos-arm64"]) == "aarch64-macos"
