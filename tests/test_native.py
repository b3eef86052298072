"""Native libraries on this machine: the same bits as the session, errors as codes, memory of the caller, nothing but libc."""
from __future__ import annotations

import ctypes
import platform
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
import sardonyx
from native_client import RANK, NativeModel, Options, StatusError
from onnx import TensorProto, helper
from sardonyx.ir.errors import SardonyxError, TargetError, UnsupportedError
from sardonyx.ir.plan_numbers import numbers
from sardonyx.ir.target import NAMED, Target, parse
from sardonyx.runtime.host import host_target
from sardonyx.runtime.instruction_sets import described
from sardonyx.runtime.model import CompileOptions, obtain
from sardonyx.runtime.native import processor
from sardonyx.runtime.native.library import Library, workspace_bytes, write_library
from sardonyx.runtime.package import missing_features

HOST = host_target()
DIGITS = str(files("sardonyx.runtime").joinpath("data", "digits.onnx"))
SOURCE = Path(__file__).parent / "native" / "run_model.c"
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")


def value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: Sequence[onnx.NodeProto], inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
          weights: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    initializers = [onnx.numpy_helper.from_array(a, n) for n, a in (weights or {}).items()]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, initializers), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def dense() -> onnx.ModelProto:
    """Two products around a softmax, with a symbolic number of rows."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((40, 33)).astype(np.float32), "v": rng.standard_normal((33, 7)).astype(np.float32), "b": rng.standard_normal(7).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Softmax", ["h"], ["s"]), helper.make_node("Gemm", ["s", "v", "b"], ["y"])]
    return model(nodes, [value("x", TensorProto.FLOAT, ["rows", 40])], [value("y", TensorProto.FLOAT, ["rows", 7])], weights)


def loop() -> onnx.ModelProto:
    """x + x + ... as often as `count` says, and every partial sum; a branch by the sum's sign."""
    body = helper.make_graph([helper.make_node("Add", ["carried", "x"], ["next"]), helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["next"], ["each"])],
                             "body", [value("k", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("carried", TensorProto.FLOAT, ["n"])],
                             [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, ["n"]), value("each", TensorProto.FLOAT, ["n"])])
    yes = helper.make_graph([helper.make_node("Exp", ["last"], ["a"])], "yes", [], [value("a", TensorProto.FLOAT, ["n"])])
    no = helper.make_graph([helper.make_node("Neg", ["last"], ["c"])], "no", [], [value("c", TensorProto.FLOAT, ["n"])])
    nodes = [helper.make_node("Loop", ["count", "", "x"], ["last", "all"], body=body), helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
             helper.make_node("Greater", ["sum", "zero"], ["positive"]), helper.make_node("If", ["positive"], ["y"], then_branch=yes, else_branch=no)]
    return model(nodes, [value("x", TensorProto.FLOAT, ["n"]), value("count", TensorProto.INT64, [])],
                 [value("y", TensorProto.FLOAT, ["n"]), value("all", TensorProto.FLOAT, ["t", "n"])], {"zero": np.float32(0).reshape(())})


def places() -> onnx.ModelProto:
    """An output whose size depends on data, one in another order than its memory, one that is an input, one that is a constant."""
    nodes = [helper.make_node("NonZero", ["x"], ["where"]), helper.make_node("Transpose", ["x"], ["turned"], perm=[2, 0, 1]), helper.make_node("Identity", ["x"], ["same"]),
             helper.make_node("Identity", ["c"], ["known"]), helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16)]
    outputs = [value("where", TensorProto.INT64, [3, "found"]), value("turned", TensorProto.FLOAT, [5, "n", 4]), value("same", TensorProto.FLOAT, ["n", 4, 5]),
               value("known", TensorProto.INT32, [3]), value("half", TensorProto.FLOAT16, ["n", 4, 5])]
    return model(nodes, [value("x", TensorProto.FLOAT, ["n", 4, 5])], outputs, {"c": np.array([3, -1, 2], np.int32)})


def codes() -> onnx.ModelProto:
    """Products of 8-bit codes, by tile registers where the machine has them, and their scale."""
    weights = {"w": np.random.default_rng(0).integers(-128, 128, (80, 48)).astype(np.int8), "zero": np.array(7, np.uint8), "scale": np.float32(0.01).reshape(())}
    nodes = [helper.make_node("MatMulInteger", ["x", "w", "zero"], ["h"]), helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT), helper.make_node("Mul", ["f", "scale"], ["y"])]
    return model(nodes, [value("x", TensorProto.UINT8, ["rows", 80])], [value("y", TensorProto.FLOAT, ["rows", 48])], weights)


def sparse_values(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return (rng.standard_normal(shape) * (rng.random(shape) < 0.5)).astype(np.float32)


def windows() -> onnx.ModelProto:
    """Two 3x3 convolutions of enough channels for Winograd's method, whose weights a library transforms when it is opened."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((64, 64, 3, 3)).astype(np.float32) / 24, "v": rng.standard_normal((64, 64, 3, 3)).astype(np.float32) / 24}
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["h"], ["r"]), helper.make_node("Conv", ["r", "v"], ["y"], pads=[1, 1, 1, 1])]
    return model(nodes, [value("x", TensorProto.FLOAT, ["n", 64, 9, 14])], [value("y", TensorProto.FLOAT, ["n", 64, 9, 14])], weights)


def dense_feeds(n: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(n).standard_normal((n, 40)).astype(np.float32)}


def loop_feeds(n: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(n).standard_normal(n + 1).astype(np.float32), "count": np.array(n % 5, np.int64)}


def places_feeds(n: int) -> dict[str, np.ndarray]:
    return {"x": sparse_values(np.random.default_rng(n), (n, 4, 5))}


def codes_feeds(n: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(n).integers(0, 256, (n, 80)).astype(np.uint8)}


def windows_feeds(n: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(n).standard_normal((n, 64, 9, 14)).astype(np.float32)}


MODELS = {"windows": (windows, windows_feeds), "dense": (dense, dense_feeds), "loop": (loop, loop_feeds), "places": (places, places_feeds), "codes": (codes, codes_feeds)}


def build(source: object, path: Path, target: Target = HOST, **options: bool) -> Library:
    machine = described(target)
    return write_library(obtain(source, CompileOptions(compact="bare" not in options), machine), path, machine, HOST, **options)


def session(source: object, threads: int = 1) -> sardonyx.InferenceSession:
    options = sardonyx.SessionOptions()
    options.intra_op_num_threads = threads
    return sardonyx.InferenceSession(source, options)


def serialised(name: str) -> bytes:
    return MODELS[name][0]().SerializeToString()


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Library]:
    folder = tmp_path_factory.mktemp("native")
    return {name: build(serialised(name), folder / f"lib{name}.so") for name in MODELS}


def test_instances_opened_at_once_share_the_computed_weights(tmp_path: Path) -> None:
    path = build(serialised("windows"), tmp_path / "libwindows.so").path
    feeds = windows_feeds(2)
    wanted, = session(serialised("windows")).run(None, feeds)

    def work(_: int) -> bytes:
        opened = NativeModel(path)
        try:
            return opened.run(feeds)[0].tobytes()
        finally:
            opened.close()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(32))) == {wanted.tobytes()}


def test_weights_that_grow_are_computed_when_opening(libraries: dict[str, Library], tmp_path: Path) -> None:
    weights = 2 * 64 * 64 * 9 * 4
    small, large = (path.stat().st_size for path in (libraries["windows"].path, build(serialised("windows"), tmp_path / "libwindows.a", bare=True).path))
    assert weights < small < weights + (1 << 18) and large > weights * 16 // 9
    with pytest.raises(UnsupportedError, match="bare"):
        write_library(obtain(serialised("windows"), CompileOptions(compact=True), HOST), tmp_path / "libother.a", HOST, HOST, bare=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_same_bits_as_the_session(name: str, threads: int, libraries: dict[str, Library]) -> None:
    ours, native = session(serialised(name), threads), NativeModel(libraries[name].path, Options(threads=threads))
    for n in (1, 3, 17, 3, 0, 64):
        feeds = MODELS[name][1](n)
        for expected, got in zip(ours.run(None, feeds), native.run(feeds), strict=True):
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            assert got.tobytes() == expected.tobytes()
    native.close()


def test_same_bits_with_operands_rounded_to_bfloat16(tmp_path: Path) -> None:
    """By tile registers where the machine has them for bfloat16."""
    options = sardonyx.SessionOptions()
    options.add_session_config_entry("session.compute_precision", "bf16")
    ours = sardonyx.InferenceSession(serialised("dense"), options)
    made = write_library(obtain(serialised("dense"), CompileOptions(precision="bf16"), HOST), tmp_path / "libdense.so", HOST, HOST)
    native, exact = NativeModel(made.path), session(serialised("dense"))
    for n in (1, 17, 64):
        got, = native.run(dense_feeds(n))
        assert got.tobytes() == ours.run(None, dense_feeds(n))[0].tobytes()
        assert got.tobytes() != exact.run(None, dense_feeds(n))[0].tobytes()
    native.close()


def test_ports(libraries: dict[str, Library]) -> None:
    native = NativeModel(libraries["places"].path)
    x, = native.inputs
    assert (x.name, x.type, x.item_size, x.rank, list(x.dims[:3]), x.dim_names[0]) == (b"x", TensorProto.FLOAT, 4, 3, [-1, 4, 5], b"n")
    assert [p.name.decode() for p in native.outputs] == ["where", "turned", "same", "known", "half"]
    native.prepare(places_feeds(6))
    assert [native.output_dims(k) for k in range(5)] == [[3, -1], [5, 6, 4], [6, 4, 5], [3], [6, 4, 5]]
    assert not native.function("input")(1) and not native.function("output")(-1)
    native.close()


def test_two_instances_side_by_side(libraries: dict[str, Library]) -> None:
    a, b = (NativeModel(libraries["dense"].path) for _ in range(2))
    one, two = dense_feeds(3), dense_feeds(5)
    before = a.run(one)[0]
    b.run(two)
    b.close()
    assert a.run(one)[0].tobytes() == before.tobytes()
    a.close()


def test_workspace_and_outputs_of_the_caller(libraries: dict[str, Library]) -> None:
    native, feeds = NativeModel(libraries["dense"].path), dense_feeds(9)
    expected = session(serialised("dense")).run(None, feeds)[0]
    size = native.prepare(feeds)
    assert native.output_dims(0) == [9, 7]
    workspace = np.full(size + 64, 255, np.uint8)
    native.check(native.function("set_workspace")(native.handle, ctypes.c_void_p(workspace.ctypes.data), ctypes.c_size_t(size)))
    out = np.zeros((9, 7), np.float32)
    native.run(feeds, [out])
    assert out.tobytes() == expected.tobytes()
    assert (workspace[size:] == 255).all()
    native.check(native.function("set_workspace")(native.handle, ctypes.c_void_p(workspace.ctypes.data), ctypes.c_size_t(size - 1)))
    with pytest.raises(StatusError, match=rf"takes {size} bytes, {size - 1} were given") as e:
        native.run(feeds)
    assert e.value.status == 3
    native.close()


def test_the_workspace_is_known_when_compiling(libraries: dict[str, Library]) -> None:
    plan = obtain(serialised("dense"), CompileOptions(), HOST).plan
    native = NativeModel(libraries["dense"].path)
    for n in (1, 7, 64):
        assert workspace_bytes(plan, numbers(plan, {0: (n, 40)}), 1) == native.prepare(dense_feeds(n))
    native.close()


def test_an_instance_in_memory_of_the_caller(libraries: dict[str, Library]) -> None:
    native, feeds = NativeModel(libraries["dense"].path), dense_feeds(4)
    size = native.function("instance_bytes")()
    memory = np.zeros(size, np.uint8)
    inside = ctypes.c_void_p()
    open_in = native.function("open_in")
    assert open_in(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(size - 1), None, ctypes.byref(inside)) == 3
    assert open_in(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(size), None, ctypes.byref(inside)) == 0
    expected = native.run(feeds)[0]
    native.close()
    native.handle = inside
    workspace, out = np.zeros(native.prepare(feeds), np.uint8), np.zeros((4, 7), np.float32)
    native.check(native.function("set_workspace")(inside, ctypes.c_void_p(workspace.ctypes.data), ctypes.c_size_t(workspace.size)))
    native.run(feeds, [out])
    assert out.tobytes() == expected.tobytes()


BAD_INPUTS = {
    "type": (1, "has type 11, the model takes type 1", lambda t: setattr(t, "type", TensorProto.DOUBLE)),
    "rank": (1, "has rank 1, the model takes rank 2", lambda t: setattr(t, "rank", 1)),
    "huge rank": (1, "has rank 99, the model takes rank 2", lambda t: setattr(t, "rank", 99)),
    "size": (2, "dimension 1 of input 'x' is 41, 40 was expected", lambda t: (t.dims.__setitem__(1, 41), setattr(t, "bytes", 1000))),
    "negative size": (2, "dimension 0 of input 'x' is -3", lambda t: t.dims.__setitem__(0, -3)),
    "overflow": (2, "dimension 1 of input 'x' is ", lambda t: (t.dims.__setitem__(0, 1 << 40), t.dims.__setitem__(1, 1 << 40))),
    "short buffer": (3, "takes 480 bytes, its buffer has 479", lambda t: setattr(t, "bytes", 479)),
    "no data": (1, "input 'x' has no data", lambda t: setattr(t, "data", None)),
}


@pytest.mark.parametrize("what", BAD_INPUTS)
def test_bad_inputs_are_errors(what: str, libraries: dict[str, Library]) -> None:
    status, text, spoil = BAD_INPUTS[what]
    native, feeds = NativeModel(libraries["dense"].path), dense_feeds(3)
    good = native.run(feeds)[0]
    given, _ = native.feeds(feeds)
    spoil(given[0])
    results = (type(given[0]) * 1)()
    assert native.function("run")(native.handle, given, 1, results, 1) == status
    assert text in native.function("error")(native.handle).decode()
    assert native.run(feeds)[0].tobytes() == good.tobytes()
    native.close()


def test_null_pointers_and_counts_are_errors(libraries: dict[str, Library]) -> None:
    native, feeds = NativeModel(libraries["dense"].path), dense_feeds(3)
    given, _ = native.feeds(feeds)
    results = (type(given[0]) * 1)()
    run, handle = native.function("run"), native.handle
    assert run(None, given, 1, results, 1) == 1
    assert run(handle, None, 1, results, 1) == 1
    assert run(handle, given, 2, results, 1) == 1
    assert run(handle, given, 1, None, 1) == 1
    assert run(handle, given, 1, results, 0) == 1
    assert native.function("open")(None, None) == 1
    assert native.function("output_dims")(handle, 0, None) == 1
    assert native.function("prepare")(None, given, 1) == 1
    assert native.function("workspace_bytes")(None) == 0
    native.function("close")(None)
    short = np.zeros((2, 7), np.float32)
    with pytest.raises(StatusError, match="output 'y' takes 84 bytes, its buffer has 56") as e:
        native.run(feeds, [short])
    assert e.value.status == 3
    native.close()


def test_control_flow_that_does_not_fit(tmp_path: Path) -> None:
    """What is stacked has another size in every iteration."""
    body = helper.make_graph([helper.make_node("Concat", ["c", "c"], ["next"], axis=0), helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["c"], ["each"])],
                             "body", [value("k", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("c", TensorProto.FLOAT, ["n"])],
                             [value("on", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, ["m"]), value("each", TensorProto.FLOAT, ["n"])])
    grow = model([helper.make_node("Loop", ["count", "", "x"], ["last", "all"], body=body, name="grow")], [value("x", TensorProto.FLOAT, ["n"]), value("count", TensorProto.INT64, [])],
                 [value("last", TensorProto.FLOAT, ["l"]), value("all", TensorProto.FLOAT, ["t", "n"])])
    native = NativeModel(build(grow.SerializeToString(), tmp_path / "libgrow.so").path)
    x = np.arange(2, dtype=np.float32)
    last, entries = native.run({"x": x, "count": np.array(1, np.int64)})
    assert last.tolist() == [0, 1, 0, 1] and entries.tolist() == [[0, 1]]
    with pytest.raises(StatusError, match="Loop 'grow': results of the iterations have different shapes") as e:
        native.run({"x": x, "count": np.array(2, np.int64)})
    assert e.value.status == 6
    assert native.run({"x": x, "count": np.array(1, np.int64)})[0].tolist() == [0, 1, 0, 1]
    native.close()


def test_weights_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build(serialised("dense"), tmp_path / "libdense_b.so", weights_beside=True)
    assert made.weights == tmp_path / "dense_b.weights"
    feeds = dense_feeds(3)
    expected = session(serialised("dense")).run(None, feeds)[0]
    monkeypatch.chdir(tmp_path)
    for options in (None, Options(weights_path=str(made.weights).encode())):
        native = NativeModel(made.path, options)
        assert native.run(feeds)[0].tobytes() == expected.tobytes()
        native.close()
    data = made.weights.read_bytes()
    for spoilt, text in ((data[:-1], "cut short"), (b"X" + data[1:], "not those"), (b"", "cut short")):
        (tmp_path / "spoilt").write_bytes(spoilt)
        with pytest.raises(StatusError, match=text) as e:
            NativeModel(made.path, Options(weights_path=str(tmp_path / "spoilt").encode()))
        assert e.value.status == 5
    with pytest.raises(StatusError, match="'missing' cannot be read"):
        NativeModel(made.path, Options(weights_path=b"missing"))
    given = np.zeros(len(data) + 64, np.uint8)
    start = -given.ctypes.data % 64
    given[start:start + len(data)] = np.frombuffer(data, np.uint8)
    native = NativeModel(made.path, Options(weights=given.ctypes.data + start, weights_bytes=len(data)))
    assert native.run(feeds)[0].tobytes() == expected.tobytes()
    native.close()


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for ending in ("so", "a"):
            found.append(build(serialised("dense"), tmp_path / folder / f"libsame.{ending}").path.read_bytes())
    assert found[0] == found[2] and found[1] == found[3]


def test_needs_libc_alone(libraries: dict[str, Library]) -> None:
    nm = shutil.which("nm")
    assert nm is not None
    for made in libraries.values():
        lines = subprocess.run([nm, "-D", "--undefined-only", str(made.path)], capture_output=True, text=True, check=True).stdout.split("\n")
        needed = {line.split()[-1].split("@")[0] for line in lines if line.strip()}
        assert needed <= {"dlopen", "dlsym", "free", "madvise", "malloc", "memcmp", "memcpy", "memmove", "memset", "sched_yield", "__cxa_finalize", "__gmon_start__", "_ITM_deregisterTMCloneTable",
                          "_ITM_registerTMCloneTable", "__stack_chk_fail"}, needed
        defined = subprocess.run([nm, "-D", "--defined-only", str(made.path)], capture_output=True, text=True, check=True).stdout.split()[2::3]
        assert all(d.startswith(made.path.stem.removeprefix("lib") + "_") for d in defined), defined


def test_what_python_must_run_is_refused_by_name() -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="lower", case_change_action="LOWER")
    words = model([node], [value("x", TensorProto.STRING, [3])], [value("y", TensorProto.STRING, ["n"])])
    with pytest.raises(UnsupportedError, match="lower"):
        build(words.SerializeToString(), Path("never.so"))
    assert not Path("never.so").exists()


def test_wrong_endings_and_missing_compilers_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match=r"libraries for linux end in \.so or \.a"):
        build(serialised("dense"), tmp_path / "dense.dll")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arm = parse("aarch64", HOST)
    with pytest.raises(TargetError, match=r"pip install 'sardonyx\[aot\]'"):
        write_library(obtain(serialised("dense"), CompileOptions(), HOST), tmp_path / "libdense.so", arm, HOST)
    assert not list(tmp_path.iterdir())


def test_a_failed_compiler_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "libdense.so"
    path.write_bytes(b"before")
    monkeypatch.setattr("sardonyx.runtime.native.tables._parts_text", lambda *_: ["this is no C"])
    with pytest.raises(SardonyxError, match="failed with status 1"):
        build(serialised("dense"), path)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_a_bare_library_needs_nothing(tmp_path: Path) -> None:
    """No allocation, files or threads: what is left is what compilers themselves call."""
    made = build(serialised("dense"), tmp_path / "libdense.a", bare=True)
    members = subprocess.run(["nm", str(made.path)], capture_output=True, text=True, check=True).stdout.split("\n")
    kinds = [line.split()[-2:] for line in members if len(line.split()) >= 2]
    defined = {name for kind, name in kinds if kind != "U"}
    assert {name for kind, name in kinds if kind == "U"} - defined <= {"memcpy", "memset", "memmove", "memcmp", "_GLOBAL_OFFSET_TABLE_"}
    source = tmp_path / "bare.c"
    source.write_text(BARE)
    compile_c(["cc", "-std=c99"], made, tmp_path / "program", source)
    rows = [np.float32(x) for x in subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True).stdout.split()]
    x = (np.arange(80) % 13 - 6).astype(np.float32).reshape(2, 40)
    assert rows == session(serialised("dense")).run(None, {"x": x})[0].reshape(-1).tolist()
    with pytest.raises(UnsupportedError, match="bare library"):
        build(serialised("loop"), tmp_path / "libloop.a", bare=True)


BARE = """
#include HEADER
#include <stdio.h>
static char instance[1 << 16], workspace[1 << 20];
int main(void) {
    dense *model;
    float x[80], y[14];
    for (int k = 0; k < 80; k++) x[k] = (float)(k % 13) - 6;
    if (dense_open_in(instance, sizeof(instance), NULL, &model)) return 1;
    sardonyx_tensor in = {x, sizeof(x), SARDONYX_FLOAT, 2, {2, 40}}, out = {y, sizeof(y), 0, 0, {0}}, none = {NULL, 0, 0, 0, {0}};
    if (dense_run(model, &in, 1, &out, 1) != SARDONYX_NO_MEMORY) return 2;
    if (dense_set_workspace(model, workspace, sizeof(workspace)) || dense_run(model, &in, 1, &none, 1) != SARDONYX_NO_MEMORY) return 3;
    if (dense_run(model, &in, 1, &out, 1)) return 4;
    for (int k = 0; k < 14; k++) printf("%.9g\\n", y[k]);
    return 0;
}
"""


# ------------------------------------------------------------------------------------------------------------------ in C and C++
def write_tensors(path: Path, arrays: Sequence[tuple[int, np.ndarray]]) -> None:
    rows = [struct.pack("<11q", code, a.ndim, a.nbytes, *a.shape, *[0] * (RANK - a.ndim)) + a.tobytes() for code, a in arrays]
    path.write_bytes(struct.pack("<q", len(rows)) + b"".join(rows))


def read_tensors(path: Path) -> list[tuple[tuple[int, ...], bytes]]:
    data, at, found = path.read_bytes(), 8, []
    for _ in range(struct.unpack_from("<q", data)[0]):
        head = struct.unpack_from("<11q", data, at)
        found.append((head[3:3 + head[1]], data[at + 88:at + 88 + head[2]]))
        at += 88 + head[2]
    return found


def compile_c(command: Sequence[str], made: Library, program: Path, source: Path = SOURCE) -> None:
    name = made.header.stem
    arguments = [*command, "-Wall", "-Wextra", "-Werror", f"-DMODEL={name}", f'-DHEADER="{name}.h"', f"-I{made.header.parent}", str(source), str(made.path), "-o", str(program),
                 f"-Wl,-rpath,{made.path.parent}", "-ldl", "-lm"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def program_of(name: str, ending: str, folder: Path, target: Target = HOST) -> tuple[Path, list[np.ndarray]]:
    """A C program that runs a model of these tests on the file `in` beside it, and what the session makes of that."""
    made = build(serialised(name), folder / f"lib{name}.{ending}", target)
    compile_c(["cc", "-std=c99", "-pedantic"], made, folder / "program")
    feeds = MODELS[name][1](37)
    write_tensors(folder / "in", [(helper.np_dtype_to_tensor_dtype(a.dtype), a) for a in feeds.values()])
    return folder / "program", session(serialised(name)).run(None, feeds)


@pytest.mark.parametrize("ending", ["so", "a"])
@pytest.mark.parametrize("name", ["loop", "codes"])
def test_a_c_program_gives_the_same_bits(name: str, ending: str, tmp_path: Path) -> None:
    program, wanted = program_of(name, ending, tmp_path)
    subprocess.run([program, tmp_path / "in", tmp_path / "out", "2", "3"], check=True)
    for expected, (shape, data) in zip(wanted, read_tensors(tmp_path / "out"), strict=True):
        assert (shape, data) == (expected.shape, expected.tobytes())


@pytest.mark.parametrize("target", ["x86-64-v3", "x86_64-unknown-linux-gnu:haswell"])
@pytest.mark.parametrize(("emulated", "lacking"), [("Nehalem", "avx"), ("Haswell", None)])
def test_processors_without_what_a_library_uses_are_an_error(emulated: str, lacking: str | None, target: str, tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("processors of x86-64")
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("qemu-x86_64 is not installed (Debian's qemu-user)")
    program, wanted = program_of("codes", "so", tmp_path, parse(target))
    done = subprocess.run(["qemu-x86_64", "-cpu", emulated, program, tmp_path / "in", tmp_path / "out", "1", "1"], capture_output=True, text=True, check=False)
    memory = subprocess.run(["qemu-x86_64", "-cpu", emulated, in_memory_of_the_caller(tmp_path)], capture_output=True, text=True, check=False)
    if lacking:
        assert done.returncode == 4 and f"compiled for processors with {lacking}" in done.stderr, done
        assert memory.returncode == 8, memory
    else:
        assert (done.returncode, memory.returncode) == (0, 0), (done, memory)
        assert [shape for shape, _ in read_tensors(tmp_path / "out")] == [a.shape for a in wanted]


def test_every_instruction_set_is_looked_for_where_the_processor_tells() -> None:
    """What this processor has, by LLVM's account, passes; so libraries for this machine open on it."""
    assert {name for name, *_ in processor.checks(NAMED["x86-64-v2"])} == {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"}
    assert {"avx2", "fma", "bmi2", "lzcnt"} <= {name for name, *_ in processor.checks(NAMED["x86-64-v3"])} and not processor.checks(NAMED["aarch64"])
    assert [processor.saved_state(NAMED[f"x86-64-v{k}"]) for k in (2, 3, 4)] == [0, processor.AVX_STATE, processor.AVX512_STATE]


def test_instruction_sets_of_a_processor_by_name() -> None:
    """Those that LLVM knows: the level of the same instruction sets is part of them, and packages and libraries ask for them."""
    haswell, skylake, nehalem = (described(parse(f"x86_64-unknown-linux-gnu:{name}")) for name in ("haswell", "skylake-avx512", "nehalem"))
    assert set(processor.checks(NAMED["x86-64-v3"])) <= set(processor.checks(haswell)) and processor.saved_state(haswell) == processor.AVX_STATE
    assert set(processor.checks(NAMED["x86-64-v4"])) <= set(processor.checks(skylake)) and processor.saved_state(skylake) == processor.AVX512_STATE
    assert [t.isa for t in (haswell, skylake, nehalem)] == ["avx2", "avx512", "sse2"] and not processor.saved_state(nehalem)
    assert not missing_features(nehalem.key, haswell) and "avx512f" in missing_features(skylake.key, haswell)
    assert described(NAMED["x86-64-v3"]) is NAMED["x86-64-v3"] and described(NAMED["aarch64"]) is NAMED["aarch64"] and described(HOST) is HOST
    with pytest.raises(TargetError, match="abacus"):
        described(parse("x86_64-unknown-linux-gnu:abacus"))


def in_memory_of_the_caller(folder: Path) -> Path:
    """A program whose status is what `open_in` returns."""
    source = folder / "memory.c"
    source.write_text("#include HEADER\nstatic char memory[1 << 20];\nint main(void) {\n    codes *model;\n    return codes_open_in(memory, sizeof(memory), 0, &model);\n}\n")
    compile_c(["cc", "-std=c99"], Library(folder / "libcodes.so", folder / "codes.h", None, None, ""), folder / "memory", source)
    return folder / "memory"


def test_random_shapes_under_the_sanitizers(tmp_path: Path) -> None:
    made = build(serialised("dense"), tmp_path / "libdense.a")
    source = tmp_path / "shapes.c"
    source.write_text(RANDOM_SHAPES)
    compile_c(["cc", "-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"], made, tmp_path / "program", source)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1000", "runs"]


RANDOM_SHAPES = """
#include HEADER
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    dense *model;
    unsigned seed = 1;
    if (dense_open(NULL, &model)) return 1;
    for (int k = 0; k < 1000; k++) {
        seed = seed * 1103515245u + 12345u;
        int64_t rows = (seed >> 16) % 50;
        float *x = malloc((size_t)rows * 160 + 1), *y = malloc((size_t)rows * 28 + 1);
        for (int64_t j = 0; j < rows * 40; j++) x[j] = (float)(j % 13) - 6;
        sardonyx_tensor in = {x, (size_t)rows * 160, SARDONYX_FLOAT, 2, {rows, 40}}, out = {k % 2 ? y : NULL, (size_t)rows * 28, 0, 0, {0}};
        if (k % 5 == 4) in.bytes -= rows > 0;
        int status = dense_run(model, &in, 1, &out, 1);
        if (status != (k % 5 == 4 && rows ? SARDONYX_SHORT_BUFFER : SARDONYX_OK)) return 2;
        if (!status && (out.rank != 2 || out.dims[0] != rows || out.dims[1] != 7)) return 3;
        free(x);
        free(y);
    }
    dense_close(model);
    puts("1000 runs");
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
def test_the_header_is_valid_cplusplus(libraries: dict[str, Library], tmp_path: Path) -> None:
    source = tmp_path / "main.cc"
    source.write_text('#include HEADER\n#include "places.h"\nint main() { MODEL *m = nullptr; return places_input_count() == 1 && m == nullptr ? 0 : 1; }\n')
    both = Library(libraries["dense"].path, libraries["dense"].header, None, None, "")
    done = subprocess.run(["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", "-DMODEL=dense", '-DHEADER="dense.h"', f"-I{both.header.parent}", str(source), str(both.path),
                           str(libraries["places"].path), "-o", str(tmp_path / "program"), f"-Wl,-rpath,{both.path.parent}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    subprocess.run([tmp_path / "program"], check=True)
