"""The Python interface: what a session takes, refuses and gives back."""
from __future__ import annotations

import json
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import onnx
import pytest
import sardonyx as ort
from onnx import TensorProto, helper, numpy_helper

F, I = TensorProto.FLOAT, TensorProto.INT64


def info(name, shape, kind=F):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in initializers])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests")
    made.model_version = 7
    helper.set_model_props(made, {"colour": "red"})
    return made


def affine(fed_weight=False):
    """y = x * w + x, z = -x over x: f32[N, 3]"""
    nodes = [helper.make_node("Mul", ["x", "w"], ["t"], name="mul"), helper.make_node("Add", ["t", "x"], ["y"], name="add"), helper.make_node("Neg", ["x"], ["z"], name="neg")]
    inputs = [info("x", ["N", 3])] + ([info("w", [3])] if fed_weight else [])
    return model(nodes, inputs, [info("y", ["N", 3]), info("z", ["N", 3])], [("w", np.float32([1, 2, 3]))])


def two():
    """y = a + b with a common symbolic size"""
    return model([helper.make_node("Add", ["a", "b"], ["y"], name="sum")], [info("a", ["N"]), info("b", ["N"])], [info("y", ["N"])])


def rows(n=2, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3)).astype(np.float32)


def wanted(x):
    return x * np.float32([1, 2, 3]) + x


@pytest.fixture(scope="module")
def session():
    return ort.InferenceSession(affine().SerializeToString())


def test_sources(tmp_path):
    made, x = affine(), rows()
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    for source in (path, str(path), made.SerializeToString(), made):
        np.testing.assert_allclose(ort.InferenceSession(source).run(["y"], {"x": x})[0], wanted(x), rtol=1e-6)


def test_outputs_are_selected(session):
    x = rows()
    z, y = session.run(["z", "y"], {"x": x})
    np.testing.assert_array_equal(z, -x)
    np.testing.assert_allclose(y, wanted(x), rtol=1e-6)
    with pytest.raises(ort.InvalidArgument, match="'nothing'.*'y', 'z'"):
        session.run(["nothing"], {"x": x})


@pytest.mark.parametrize(("feed", "text"), [
    ({}, r"\['x'\].*missing"),
    ({"x": rows(), "q": rows()}, "'q'.*'x'"),
    ({"x": rows().astype(np.float64)}, r"tensor\(double\).*tensor\(float\)"),
    ({"x": np.ones(3, np.float32)}, "rank.*Got: 1 Expected: 2"),
    ({"x": np.ones((2, 4), np.float32)}, "index: 1 Got: 4 Expected: 3"),
    ({"x": [[1, 2, 3], [4]]}, "different lengths"),
    ({"x": object()}, "a object came"),
    ({"x": None}, "a NoneType came"),
    ({"x": "text"}, "x"),
])
def test_wrong_feeds(session, feed, text):
    with pytest.raises(ort.InvalidArgument, match=text):
        session.run(None, feed)


def test_kinds_of_feeds(session):
    x = rows()
    for given in (x.tolist(), tuple(map(tuple, x.tolist())), ort.OrtValue.ortvalue_from_numpy(x), np.asfortranarray(x), np.repeat(x, 2, 0)[::2], x.astype(">f4"), x[::-1][::-1]):
        np.testing.assert_allclose(session.run(["y"], {"x": given})[0], wanted(x), rtol=1e-6)


def test_scalars_and_bfloat16():
    s = ort.InferenceSession(model([helper.make_node("Neg", ["x"], ["y"])], [info("x", [])], [info("y", [])]))
    for given in (2, 2.0, np.float32(2), np.array(2, np.float32)):
        assert s.run(None, {"x": given})[0] == -2
    b = ort.InferenceSession(model([helper.make_node("Neg", ["x"], ["y"])], [info("x", ["N"], TensorProto.BFLOAT16)], [info("y", ["N"], TensorProto.BFLOAT16)]))
    y, = b.run(None, {"x": np.array([1, -2], ml_dtypes.bfloat16)})
    assert y.dtype == ml_dtypes.bfloat16
    assert y.tolist() == [-1, 2]


def test_symbolic_sizes_need_one_compilation():
    s = ort.InferenceSession(two())
    kernels = list(s._model.plan.kernels)
    for n in (1, 0, 7, 64, 1000):
        a = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(s.run(None, {"a": a, "b": a})[0], a + a)
    assert s._model.plan.kernels == kernels
    with pytest.raises(ort.InvalidArgument):
        s.run(None, {"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)})


def test_free_dimension_override():
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_name("N", 2)
    s = ort.InferenceSession(affine(), options)
    assert s.get_inputs()[0].shape == [2, 3]
    np.testing.assert_allclose(s.run(["y"], {"x": rows()})[0], wanted(rows()), rtol=1e-6)
    with pytest.raises(ort.InvalidArgument, match="index: 0 Got: 5 Expected: 2"):
        s.run(None, {"x": rows(5)})


def test_initializers_replaced_and_fed():
    options = ort.SessionOptions()
    options.add_initializer("w", ort.OrtValue.ortvalue_from_numpy(np.float32([0, 0, 5])))
    x = rows()
    np.testing.assert_allclose(ort.InferenceSession(affine(), options).run(["y"], {"x": x})[0], x * np.float32([0, 0, 5]) + x, rtol=1e-6)
    s = ort.InferenceSession(affine(fed_weight=True))
    assert [(a.name, a.type, a.shape) for a in s.get_overridable_initializers()] == [("w", "tensor(float)", [3])]
    for _ in range(2):
        np.testing.assert_allclose(s.run(["y"], {"x": x})[0], wanted(x), rtol=1e-6)
        np.testing.assert_array_equal(s.run(["y"], {"x": x, "w": np.zeros(3, np.float32)})[0], x)


def test_io_binding(session):
    x, by_value, by_pointer = rows(), ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32), np.empty((2, 3), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_ortvalue_output("y", by_value)
    binding.bind_output("z", "cpu", 0, np.float32, [2, 3], by_pointer.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(by_value.numpy(), wanted(x), rtol=1e-6)
    np.testing.assert_array_equal(by_pointer, -x)
    copies = binding.copy_outputs_to_cpu()
    np.testing.assert_array_equal(copies[1], -x)
    binding.clear_binding_outputs()
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], -x)
    binding.bind_ortvalue_output("z", ort.OrtValue.ortvalue_from_shape_and_type([5, 3], np.float32))
    with pytest.raises(ort.InvalidArgument, match="z"):
        session.run_with_iobinding(binding)
    with pytest.raises(ort.InvalidArgument, match="nothing"):
        binding.bind_output("nothing")


def test_a_binding_runs_again_and_takes_other_memory(session):
    """What is checked once is kept: new contents are read, another array or size is seen, and what does not fit is refused after good runs as before."""
    x, y, z = rows(), np.empty((2, 3), np.float32), np.empty((2, 3), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    for name, array in (("y", y), ("z", z)):
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    for k in range(3):
        x += k
        session.run_with_iobinding(binding)
        np.testing.assert_allclose(y, wanted(x), rtol=1e-6)
        np.testing.assert_array_equal(z, -x)
    strided = np.asfortranarray(rows() * 7)
    for k in range(2):
        strided += k
        binding.bind_cpu_input("x", strided)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(z, -strided)
    binding.bind_cpu_input("x", np.ones((5, 3), np.float32))
    for _ in range(2):
        with pytest.raises(ort.InvalidArgument, match=r"output 'y'.*\[5, 3\]"):
            session.run_with_iobinding(binding)
    binding.bind_cpu_input("x", x)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(z, -x)
    binding.bind_ortvalue_output("z", ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float64))
    with pytest.raises(ort.InvalidArgument, match="output 'z'"):
        session.run_with_iobinding(binding)
    fixed = np.zeros((2, 3), np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ort.InvalidArgument, match="read-only"):
        binding.bind_ortvalue_output("z", ort.OrtValue.ortvalue_from_numpy(fixed))


def test_run_async(session):
    done, got = threading.Event(), []

    def callback(results, data, error):
        got.append((results, data, error))
        done.set()
    session.run_async(["z"], {"x": rows()}, callback, "data")
    assert done.wait(20)
    np.testing.assert_array_equal(got[0][0][0], -rows())
    assert got[0][1:] == ("data", "")
    done.clear()
    session.run_async(None, {}, callback)
    assert done.wait(20)
    assert "missing" in got[1][2]


def test_ort_values(session):
    x = rows()
    value = ort.OrtValue.ortvalue_from_numpy(x)
    z, = session.run_with_ort_values(["z"], {"x": value})
    np.testing.assert_array_equal(z.numpy(), -x)
    assert (value.data_type(), value.shape(), value.element_type(), value.is_tensor(), value.device_name()) == ("tensor(float)", [2, 3], 1, True, "cpu")
    shared = ort.OrtValue.from_dlpack(value)
    assert np.shares_memory(shared.numpy(), x)
    np.testing.assert_array_equal(np.from_dlpack(value), x)
    value.update_inplace(np.zeros((2, 3), np.float32))
    assert not x.any()
    with pytest.raises(ort.InvalidArgument, match="in place"):
        value.update_inplace(np.zeros((3, 3), np.float32))


def test_what_a_session_tells(session):
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("x", "tensor(float)", ["N", 3])]
    assert [o.name for o in session.get_outputs()] == ["y", "z"]
    assert session.get_providers() == ["CPUExecutionProvider"]
    meta = session.get_modelmeta()
    assert (meta.producer_name, meta.graph_name, meta.version, meta.custom_metadata_map) == ("tests", "graph", 7, {"colour": "red"})


def test_profile(tmp_path):
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "trace_")
    s = ort.InferenceSession(affine(), options)
    s.run(None, {"x": rows()})
    with open(s.end_profiling(), encoding="utf-8") as f:
        events = json.load(f)
    assert any(e["name"].endswith("_kernel_time") and e["dur"] >= 0 for e in events)
    assert any(e["name"] == "model_run" for e in events)


def test_profile_must_be_enabled(session):
    with pytest.raises(ort.Fail, match="enable_profiling"):
        session.end_profiling()


def test_optimized_model(tmp_path):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(affine(), options)
    onnx.checker.check_model(onnx.load(options.optimized_model_filepath))
    np.testing.assert_allclose(ort.InferenceSession(options.optimized_model_filepath).run(["y"], {"x": rows()})[0], wanted(rows()), rtol=1e-6)


def test_levels_agree():
    results = []
    for level in (0, 99):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel(level)
        results.append(ort.InferenceSession(affine(), options).run(None, {"x": rows()}))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_damaged_models(tmp_path):
    whole = affine().SerializeToString()
    for data in (b"not a model at all" * 9, whole[:len(whole) // 2], b""):
        with pytest.raises((ort.InvalidProtobuf, ort.InvalidGraph)):
            ort.InferenceSession(data)
        (tmp_path / "m.onnx").write_bytes(data)
        with pytest.raises((ort.InvalidProtobuf, ort.InvalidGraph)):
            ort.InferenceSession(tmp_path / "m.onnx")
    with pytest.raises(ort.NoSuchFile, match="absent"):
        ort.InferenceSession(tmp_path / "absent.onnx")


def test_unknown_operators_are_listed_at_once():
    nodes = [helper.make_node("Foo", ["x"], ["t"], domain="mine"), helper.make_node("Bar", ["t"], ["y"], domain="mine")]
    made = model(nodes, [info("x", [3])], [info("y", [3])])
    made.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(ort.NotImplemented, match=r"(?s)(Foo.*Bar|Bar.*Foo)"):
        ort.InferenceSession(made)


def test_every_public_name_of_onnxruntime_exists():
    theirs = pytest.importorskip("onnxruntime")
    names = [n for n in dir(theirs) if not n.startswith("_")]
    assert [n for n in names if not hasattr(ort, n)] == []
    for name in ("ModelPackage", "LoraAdapter", "OrtEpDevice", "OrtSyncStream", "OrtHardwareDevice"):
        with pytest.raises(NotImplementedError, match=f"{name} does not apply"):
            getattr(ort, name)()


def test_threads_share_a_session(session):
    def work(seed):
        for n in range(1, 30):
            x = rows(n * 3 % 11, seed)
            y, z = session.run(None, {"x": x})
            np.testing.assert_allclose(y, wanted(x), rtol=1e-6)
            np.testing.assert_array_equal(z, -x)
        return True
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_imports_are_lazy(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(affine().SerializeToString())
    ort.InferenceSession(path)
    program = ("import sys, numpy as np, sardonyx as s\nassert not {'numba', 'onnx', 'llvmlite'} & set(sys.modules)\n"
               "p = s.InferenceSession(sys.argv[1])\np.run(None, {'x': np.ones((2, 3), np.float32)})\n"
               "assert p._model.origin == 'cache', p._model.origin\nassert not {'numba', 'onnx'} & set(sys.modules)\n"
               "from sardonyx.runtime.elf_objects import is_served\nassert sys.argv[2] == 'first' or not is_served() or 'llvmlite' not in sys.modules\n")
    for which in ("first", "again"):  # the first may ask LLVM what processor this is
        done = subprocess.run([sys.executable, "-c", program, str(path), which], capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stderr


def test_if():
    then = helper.make_graph([helper.make_node("Neg", ["x"], ["r"])], "then", [], [info("r", ["N"])])
    other = helper.make_graph([helper.make_node("Add", ["x", "x"], ["r"])], "else", [], [info("r", ["N"])])
    s = ort.InferenceSession(model([helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)], [info("x", ["N"]), info("c", [], TensorProto.BOOL)],
                                   [info("y", ["N"])]))
    x = np.float32([1, 2])
    assert s.run(None, {"x": x, "c": np.array(True)})[0].tolist() == [-1, -2]
    assert s.run(None, {"x": x, "c": np.array(False)})[0].tolist() == [2, 4]


def test_loop():
    body = helper.make_graph([helper.make_node("Add", ["v", "v"], ["v2"]), helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v2"], ["s"])], "body",
                             [info("i", [], I), info("c", [], TensorProto.BOOL), info("v", ["N"])], [info("c2", [], TensorProto.BOOL), info("v2", ["N"]), info("s", ["N"])])
    s = ort.InferenceSession(model([helper.make_node("Loop", ["n", "", "x"], ["y", "all"], body=body)], [info("n", [], I), info("x", ["N"])], [info("y", ["N"]), info("all", None)]))
    y, stack = s.run(None, {"n": np.array(3), "x": np.float32([1, 2])})
    assert y.tolist() == [8, 16]
    assert stack.tolist() == [[2, 4], [4, 8], [8, 16]]


def test_settings_without_effect_say_so_once():
    options = ort.SessionOptions()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        options.log_verbosity_level = 3
        options.log_verbosity_level = 4
    assert len([w for w in said if w.category is ort.NoEffectWarning]) <= 1
    with pytest.raises(AttributeError, match="intra_op_num_threads"):
        options.no_such_option = 1


def test_terminated_run(session):
    options = ort.RunOptions()
    options.terminate = True
    with pytest.raises(ort.Fail, match="terminate"):
        session.run(None, {"x": rows()}, options)


def test_set_seed_says_what_seeds_come_from(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("sardonyx.runtime.compat.say_no_effect", lambda name, why: said.append(f"{name}: {why}"))
    ort.set_seed(3)
    assert said == ["set_seed: a random operator's seed is its attribute `seed`, else made from the node's name"]


def test_products_over_nothing_are_zero() -> None:
    """Inner sizes that are 0 only when running."""
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["m", "k"]), helper.make_tensor_value_info("b", TensorProto.FLOAT, ["k", "n"])]
    model = helper.make_model(helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", "n"])]),
                              opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    s = ort.InferenceSession(model.SerializeToString())
    np.testing.assert_array_equal(s.run(None, {"a": np.ones((4, 5), np.float32), "b": np.ones((5, 13), np.float32)})[0], np.full((4, 13), 5, np.float32))
    np.testing.assert_array_equal(s.run(None, {"a": np.ones((4, 0), np.float32), "b": np.ones((0, 13), np.float32)})[0], np.zeros((4, 13), np.float32))
