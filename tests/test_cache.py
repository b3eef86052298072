"""The disk cache and containers under damage, races, killed writers and unusable folders."""
from __future__ import annotations

import dataclasses
import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import sardonyx as ort
from onnx import TensorProto, helper
from sardonyx.ir.target import parse
from sardonyx.runtime.cache import Cache, CacheWarning
from sardonyx.runtime.container import BLOCK_BYTES, PIECE_BYTES, ROW_BYTES, VERSION, Container, ContainerError, checksum, write
from sardonyx.runtime.model import CompileOptions, host_target, obtain
from sardonyx.runtime.package import from_container, save_package, used_features

RUN = ("import sys, numpy as np, sardonyx as s\nx = np.arange(5, dtype=np.float32)\n"
       "y, = s.InferenceSession(sys.argv[1]).run(None, {'x': x})\nassert (y == x + x).all(), y\n")


def model_bytes() -> bytes:
    """y = x + x over x: f32[N]"""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def check(source) -> str:
    """Run the model; returns where it came from."""
    x = np.arange(5, dtype=np.float32)
    s = ort.InferenceSession(source)
    np.testing.assert_array_equal(s.run(None, {"x": x})[0], x + x)
    return s._model.origin


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder that sessions use."""
    path = tmp_path / "cache"
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(path))
    return path


@pytest.fixture(scope="module")
def compiled():
    """The model, compiled once without a cache."""
    return obtain(model_bytes(), CompileOptions(), host_target(), Cache(None, 0))


@pytest.fixture
def package(compiled, tmp_path):
    path = tmp_path / "m.sdx"
    save_package(compiled, path)
    return path


def entries(folder):
    return sorted(folder.rglob("*.sdo")) + sorted(folder.rglob("*.sdx"))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1:]


@pytest.mark.parametrize("damage", [lambda d: flipped(d, len(d) // 2), lambda d: flipped(d, 3), lambda d: d[:len(d) // 2], lambda d: d[:7], lambda d: b""])
def test_damaged_entries_are_made_again(folder, damage):
    assert check(model_bytes()) == "compiled"
    assert check(model_bytes()) == "cache"
    for path in entries(folder):
        replacement = path.with_suffix(".new")  # damaged by a rename: the running process has the old file mapped
        replacement.write_bytes(damage(path.read_bytes()))
        os.replace(replacement, path)
    assert check(model_bytes()) == "compiled"
    assert check(model_bytes()) == "cache"


def test_processes_fill_one_cache(folder, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_bytes())
    running = [subprocess.Popen([sys.executable, "-c", RUN, str(path)], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for p in running:
        _, error = p.communicate(timeout=100)
        assert p.returncode == 0, error
    assert not list(folder.rglob("*.part"))
    assert check(path) == "cache"


def test_killed_writer(folder, tmp_path):
    program = ("import os, sys, signal\nfrom pathlib import Path\nfrom sardonyx.runtime import container\nfrom sardonyx.runtime.cache import Cache\n"
               "container.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
               "Cache(Path(sys.argv[1]), 1 << 30).save_model('k', {}, {'a': bytes(9999)})\n")
    assert check(model_bytes()) == "compiled"
    done = subprocess.run([sys.executable, "-c", program, str(folder)], cwd=tmp_path, timeout=60)
    assert done.returncode == -signal.SIGKILL
    left = list(folder.rglob("*.part"))
    assert len(left) == 1
    assert check(model_bytes()) == "cache"
    cache = Cache(folder, 1 << 30)
    assert cache.load_model("k") is None
    assert len(list(cache.entries())) == len(entries(folder))
    os.utime(left[0], (time.time() - 9999,) * 2)
    list(cache.entries())
    assert not list(folder.rglob("*.part"))


def test_path_under_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SARDONYX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(CacheWarning, match="cannot be made"):
        assert check(model_bytes()) == "compiled"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="the superuser writes everywhere")
def test_folder_that_cannot_be_written(tmp_path):
    path = tmp_path / "cache"
    Cache(path, 1 << 30)
    path.chmod(0o500)
    with pytest.warns(CacheWarning, match="cannot be written"):
        assert Cache(path, 1 << 30).folder is None


def test_write_that_fails_is_said(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache", 1 << 30)

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("sardonyx.runtime.cache.os.replace", full)
    with pytest.warns(CacheWarning, match="No space left"):
        cache.save_object("ab" * 8, b"code")
    assert not list(tmp_path.rglob("*.part"))
    assert cache.load_object("ab" * 8) is None


def test_cache_off(monkeypatch):
    monkeypatch.setenv("SARDONYX_CACHE_DIR", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        assert check(model_bytes()) == "compiled"
        assert check(model_bytes()) == "compiled"


def test_least_recently_used_goes_first(tmp_path):
    cache = Cache(tmp_path, 3000)
    for k in range(4):
        cache.save_object(f"{k}0", bytes(968))
        os.utime(tmp_path / "kernels" / f"{k}0" / f"{k}0.sdo", (1000 + (k if k else 9),) * 2)
    assert cache.trim() == 1000
    assert [cache.load_object(f"{k}0") is None for k in range(4)] == [False, True, False, False]
    assert cache.clear() == 3000
    assert list(cache.entries()) == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions of POSIX")
def test_folder_of_others_is_refused(tmp_path):
    path = tmp_path / "cache"
    Cache(path, 1 << 30)
    path.chmod(0o777)
    with pytest.warns(CacheWarning, match="other users"):
        assert Cache(path, 1 << 30).folder is None


# ---------------------------------------------------------------------------------------------------------------- containers
@pytest.fixture
def container(tmp_path):
    path = tmp_path / "c"
    write(path, {"kind": "test"}, {"a": bytes(range(200)), "b": b"", "c": b"\1" * 1000})
    return path


def test_container_round_trip(container):
    for source in (container, container.read_bytes()):
        found = Container(source)
        assert found.content == {"kind": "test"}
        assert {n: bytes(s) for n, s in found.sections.items()} == {"a": bytes(range(200)), "b": b"", "c": b"\1" * 1000}


def test_every_flipped_byte_is_found(container, tmp_path):
    whole = container.read_bytes()
    for at in [*range(56), *random.Random(1).sample(range(len(whole)), 200)]:
        (tmp_path / "d").write_bytes(flipped(whole, at))
        with pytest.raises(ContainerError):
            Container(tmp_path / "d")


def test_damage_of_large_sections_is_found(tmp_path):
    """Flipped bits anywhere, words, pages and blocks that changed places, a page of zeros; the sums do not depend on how the work is shared."""
    rng = np.random.default_rng(4)
    data = rng.integers(0, 256, 5 * PIECE_BYTES + 3 * BLOCK_BYTES + 7 * ROW_BYTES + 1001).astype(np.uint8)
    words, whole = data[:len(data) // 8 * 8].view(np.uint64), checksum(data.data)
    assert checksum(data.data, workers=1) == checksum(data.tobytes(), workers=3) == whole
    for at in [0, len(data) - 1, len(data) - 1002, *rng.integers(0, len(data), 40)]:
        bit = np.uint8(1 << rng.integers(8))
        data[at] ^= bit
        assert checksum(data.data) != whole
        data[at] ^= bit
    page, block, piece = 512, BLOCK_BYTES // 8, PIECE_BYTES // 8
    assert math.gcd(ROW_BYTES // 8, page) == 1 and block // page < ROW_BYTES // 8  # two pages of a block never lie in the same columns
    exchanged = [(7, 8, 1), (page, 3 * page, page), (page // 8, page, page // 8), (0, 5 * block, block), (0, piece, piece), (5 * piece, 5 * piece + 3 * page, page)]
    for one, other, size in exchanged:
        words[one:one + size], words[other:other + size] = words[other:other + size].copy(), words[one:one + size].copy()
        assert checksum(data.data) != whole
        words[one:one + size], words[other:other + size] = words[other:other + size].copy(), words[one:one + size].copy()
    assert checksum(data.data) == whole
    words[9 * page:10 * page] = 0
    assert checksum(data.data) != whole
    path = tmp_path / "large"
    write(path, {}, {"w": data.data})
    with open(path, "r+b") as f:
        f.seek(3 * BLOCK_BYTES)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 4]))
    with pytest.raises(ContainerError, match="section w does not match its checksum"):
        Container(path)


def test_every_cut_is_found(container, tmp_path):
    whole = container.read_bytes()
    for at in [0, 1, 55, 56, 57, len(whole) - 1, *random.Random(2).sample(range(len(whole)), 50)]:
        (tmp_path / "d").write_bytes(whole[:at])
        with pytest.raises(ContainerError):
            Container(tmp_path / "d")
    with pytest.raises(ContainerError, match="follow the last section"):
        Container(whole + b"x")


def test_versions_and_strangers(container):
    whole = container.read_bytes()
    with pytest.raises(ContainerError, match=f"format version {VERSION + 1}"):
        Container(whole[:8] + struct.pack("<I", VERSION + 1) + whole[12:])
    with pytest.raises(ContainerError, match="not a compiled model"):
        Container(b"\x7fELF" + whole[4:])


@pytest.mark.parametrize("manifest", [
    b"{", b"\xff\xff", b"[]", b"7", b"{}", b'{"sections":[],"content":3}', b'{"sections":{},"content":{}}', b'{"sections":[["a",-64,64,""]],"content":{}}',
    b'{"sections":[["a",0,1e9,""]],"content":{}}', b'{"sections":[["a",18446744073709551616,1,""]],"content":{}}', b'{"sections":[["a",0,8,""]],"content":{}}',
    b'{"sections":[["a",true,8,""]],"content":{}}', b'{"sections":[[]],"content":{}}', b"[" * 100000,
])
def test_manifests_of_strangers(manifest):
    import hashlib

    with pytest.raises(ContainerError):
        Container(struct.pack("<8sIIQ32s", b"SARDONYX", VERSION, 0, len(manifest), hashlib.sha256(manifest).digest()) + manifest)


def test_package_round_trip(package):
    assert check(package) == "package"
    assert check(str(package)) == "package"
    assert check(package.read_bytes()) == "package"


def test_damaged_packages_are_refused(package):
    whole = package.read_bytes()
    for at in [*range(60), *random.Random(3).sample(range(60, len(whole)), 440)]:  # the header, then anything
        package.write_bytes(flipped(whole, at))
        with pytest.raises(ort.SardonyxError):
            ort.InferenceSession(package)


def test_package_without_a_model(container, tmp_path):
    with pytest.raises(ContainerError, match="holds no model"):
        ort.InferenceSession(container)
    write(tmp_path / "e", {"kind": "model"}, {})
    with pytest.raises(ContainerError, match="compile the model again"):
        ort.InferenceSession(tmp_path / "e")


@pytest.mark.parametrize("target", ["sparc64-unknown-linux-gnu|generic|", "x86_64-unknown-linux-gnu|generic|+no-such-feature", "x86_64-pc-windows-gnu|x86-64|",
                                    "x86_64-unknown-linux-android21|x86-64|", "aarch64-unknown-linux-gnu|generic|"])
def test_package_for_another_machine(compiled, tmp_path, monkeypatch, target):
    monkeypatch.setattr(compiled.plan, "target", target)
    save_package(compiled, tmp_path / "other.sdx")
    with pytest.raises(ort.TargetError, match="compile it again"):
        ort.InferenceSession(tmp_path / "other.sdx")


def test_a_package_for_several_targets_gives_the_best_that_fits(tmp_path):
    names = ("aarch64", "x86-64-v2", "x86-64-v3", "host")
    models = [obtain(model_bytes(), CompileOptions(), parse(name, host_target())) for name in names]
    save_package(models, tmp_path / "all.sdx")
    container = Container(tmp_path / "all.sdx")
    for machine, wanted in (("aarch64", "aarch64"), ("x86-64-v2", "x86-64-v2"), ("x86-64-v3", "x86-64-v3"), ("host", "host")):
        target = parse(machine, host_target())
        features = ",".join(f"+{f}" for f in sorted(used_features(target.key))) if machine.startswith("x86-64") else target.features
        found = from_container(container, "package", dataclasses.replace(target, features=features))
        assert found.plan.target == parse(wanted, host_target()).key
    assert check(tmp_path / "all.sdx") == "package"
    with pytest.raises(ort.TargetError, match="this machine is riscv64"):
        from_container(container, "package", parse("riscv64"))


def test_equal_constants_are_held_once(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [100000], np.arange(100000, dtype=np.float32))
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [100000]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    save_package([obtain(data, CompileOptions(), parse(name, host_target())) for name in ("x86-64-v2", "x86-64-v3", "aarch64")], tmp_path / "three.sdx")
    assert 400_000 < (tmp_path / "three.sdx").stat().st_size < 500_000


def test_package_options_that_come_too_late(package):
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_name("N", 5)
    with pytest.raises(ort.SardonyxError, match="compiled already"):
        ort.InferenceSession(package, options)
