"""The importer: everything that a model may say, and everything that may be wrong with it."""
from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sardonyx.compiler.exporter import export_model
from sardonyx.compiler.external_data import ExternalData
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.importer_tensors import DimReader, import_type, tensor_array
from sardonyx.compiler.wire import WireError, split
from sardonyx.ir import dtypes as dt
from sardonyx.ir.errors import ModelError, UnsupportedError
from sardonyx.ir.graph import MapType, OptionalType, SequenceType, TensorType

FLOAT = TensorProto.FLOAT
NO_FILES = ExternalData(())


def info(name: str, shape=("N", 3), kind: int = FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs=None, outputs=None, initializers=(), opset: int = 17, ir: int = 9, functions=(), opsets=None, value_info=()):
    graph = helper.make_graph(nodes, "g", inputs if inputs is not None else [info("x")], outputs if outputs is not None else [info("y")], list(initializers),
                              value_info=list(value_info))
    imports = opsets or [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def relu(x="x", y="y", name="r"):
    return helper.make_node("Relu", [x], [y], name)


def weight(name="w", shape=(3,), seed=0):
    return numpy_helper.from_array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), name)


def refuse(m, *fragments: str, kind: type[ModelError] = ModelError) -> ModelError:
    with pytest.raises(kind) as caught:
        import_model(m)
    for f in fragments:
        assert f in str(caught.value), str(caught.value)
    return caught.value


# ------------------------------------------------------------------------------------------------------------------- shape
def test_a_small_model():
    m = model([helper.make_node("Add", ["x", "w"], ["s"], "add"), relu("s")], initializers=[weight()])
    m.producer_name, m.model_version, m.doc_string = "tester", 7, "words"
    m.metadata_props.add(key="k", value="v")
    g = import_model(m)
    assert [n.op for n in g.nodes] == ["Add", "Relu"] and [n.version for n in g.nodes] == [14, 14]
    assert [v.name for v in g.inputs] == ["x"] and [v.name for v in g.outputs] == ["y"] == g.output_names
    assert str(g.outputs[0].type) == "f32[N, 3]" and g.nodes[0].origin == ("add",)
    assert g.metadata["producer_name"] == "tester" and g.metadata["version"] == "7" and g.metadata["custom:k"] == "v" and g.metadata["description"] == "words"


@pytest.mark.parametrize("opset", range(1, 24))
def test_versions_follow_the_opset(opset):
    g = import_model(model([relu()], opset=opset))
    assert g.nodes[0].version == onnx.defs.get_schema("Relu", opset).since_version


def test_sources_agree(tmp_path):
    m = model([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", (2, 700))], [info("y", (2, 700))], [weight(shape=(700,))])
    path = tmp_path / "m.onnx"
    onnx.save(m, path)
    graphs = [import_model(s) for s in (m, m.SerializeToString(), path, str(path))]
    values = [g.nodes[0].inputs[1].constant for g in graphs]
    for v in values:
        np.testing.assert_array_equal(v, numpy_helper.to_array(m.graph.initializer[0]))
    assert not values[1].flags.writeable and not values[2].flags.owndata


def test_importing_the_package_loads_no_onnx():
    code = "import sys, sardonyx, sardonyx.compiler.importer, sardonyx.compiler.exporter; assert 'onnx' not in sys.modules, 'onnx'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.expanduser("~"))


def test_dimensions():
    x = info("x", ("batch", None, 3, "seq"))
    x.type.tensor_type.shape.dim[3].denotation = "TIME"
    m = model([relu()], [x], [info("y", None)])
    g = import_model(m)
    shape = g.inputs[0].type.shape
    assert [d.text for d in shape] == ["batch", "?x.1", "3", "seq"] and g.outputs[0].type.shape == shape
    fixed = import_model(m, free_dimensions={"batch": 4}, free_dimensions_by_denotation={"TIME": 9})
    assert [d.text for d in fixed.outputs[0].type.shape] == ["4", "?x.1", "3", "9"]
    with pytest.raises(ModelError, match="-4"):
        import_model(m, free_dimensions={"batch": -4})


def test_unknown_rank_and_other_types():
    x = helper.make_tensor_value_info("x", FLOAT, None)
    read = DimReader({}, {})
    assert import_type(x.type, read, "x") == TensorType(dt.float32, None)
    t = helper.make_tensor_type_proto(TensorProto.INT64, [2])
    assert import_type(helper.make_sequence_type_proto(t), read, "s") == SequenceType(import_type(t, read, "s"))
    assert isinstance(import_type(helper.make_optional_type_proto(t), read, "o"), OptionalType)
    assert import_type(helper.make_map_type_proto(TensorProto.STRING, t), read, "m") == MapType(dt.string, import_type(t, read, "m"))
    assert import_type(onnx.TypeProto(), read, "n") is None
    assert import_type(helper.make_sparse_tensor_type_proto(FLOAT, [2]), read, "p") == import_type(helper.make_tensor_type_proto(FLOAT, [2]), read, "p")
    opaque = onnx.TypeProto()
    opaque.opaque_type.name = "x"
    with pytest.raises(UnsupportedError):
        import_type(opaque, read, "o")
    deep = t
    for _ in range(40):
        deep = helper.make_sequence_type_proto(deep)
    with pytest.raises(ModelError, match="deep"):
        import_type(deep, read, "d")


def test_declared_types_are_kept_and_compared():
    m = model([relu()], value_info=[], outputs=[info("y", ("N", 5))])
    g = import_model(m)
    assert [d.text for d in g.outputs[0].type.shape] == ["N", "3"] and [d.text for d in g.declared["y"].shape] == ["N", "5"]
    assert len(g.remarks) == 1 and "'y'" in g.remarks[0]
    refuse(model([relu()], outputs=[info("y", ("N", 3), TensorProto.INT32)]), "'y'", "int32", "float")


# ----------------------------------------------------------------------------------------------------------------- tensors
def test_every_element_type_from_raw_and_typed_data():
    rng = np.random.default_rng(1)
    for d in dt.ALL:
        if d is dt.string:
            continue
        patterns = rng.integers(0, 1 << min(d.bits, 8), 7 * d.itemsize_bytes, dtype=np.uint8)
        if d is dt.boolean:
            patterns &= 1
        array = patterns.view(d.numpy).reshape(7, 1)
        with np.errstate(all="ignore"):
            raw = numpy_helper.from_array(array, "t")
            found = tensor_array(raw, NO_FILES)
            assert found.dtype == d.numpy and found.shape == (7, 1)
            assert _bits(found) == _bits(array), d
            typed = helper.make_tensor("t", d.code, [7, 1], array.reshape(-1).tolist() if d.kind in ("int", "uint", "bool") else array.reshape(-1))
            assert _bits(tensor_array(typed, NO_FILES)) == _bits(array), d


def _bits(array: np.ndarray) -> list:
    array = np.where(np.isnan(array), np.zeros_like(array), array) if array.dtype.kind in "fc" or array.dtype.name.startswith(("bfloat", "float")) else array
    return np.ascontiguousarray(array).view(np.uint8).tolist()


def test_strings_scalars_and_empties():
    t = helper.make_tensor("t", TensorProto.STRING, [2], ["a", "ä"])
    assert tensor_array(t, NO_FILES).tolist() == ["a", "ä"]
    t.string_data[0] = b"\xff"
    with pytest.raises(ModelError, match="UTF-8"):
        tensor_array(t, NO_FILES)
    assert tensor_array(numpy_helper.from_array(np.float32(3), "s"), NO_FILES).shape == ()
    assert tensor_array(TensorProto(data_type=FLOAT, dims=[0, 4], name="e"), NO_FILES).shape == (0, 4)


@pytest.mark.parametrize(("change", "words"), [
    (dict(dims=[2, -3]), "negative"), (dict(dims=[1 << 40, 1 << 40]), "address"), (dict(dims=[1 << 33]), "needs"), (dict(dims=[4]), "needs 16 bytes"),
    (dict(dims=[0, 1 << 62]), "address"), (dict(data_type=0), "no element type"), (dict(data_type=99), "99"), (dict(data_type=TensorProto.STRING), "strings"),
    (dict(data_type=TensorProto.INT4), "needs 2 bytes"), (dict(dims=[1] * 70), "70 dimensions"),
])
def test_damaged_tensors(change, words):
    t = weight()
    for key, value in change.items():
        if key == "dims":
            del t.dims[:]
            t.dims.extend(value)
        else:
            setattr(t, key, value)
    refuse(model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[t]), "'w'", words)


def test_typed_data_of_the_wrong_length():
    t = TensorProto(name="w", data_type=FLOAT, dims=[3], float_data=[1.0, 2.0])
    refuse(model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[t]), "'w'", "3 elements", "2 are there")
    refuse(model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[TensorProto(name="w", data_type=FLOAT, dims=[1 << 34])]), "0 are there")


def test_sparse_initialisers():
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    sound, unsound = [[1, 5], [[0, 1], [1, 2]]], [[1, 6], [1, 2, 3], [-1, 2], [[0, 1], [2, 0]]]
    for indices, good in [(i, True) for i in sound] + [(i, False) for i in unsound] + [([0, 1], True)]:
        sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices, np.int64), "i"), [2, 3])
        m = model([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", (2, 3))], [info("y", (2, 3))])
        m.graph.sparse_initializer.append(sparse)
        if good:
            dense = np.zeros(6, np.float32)
            dense[np.ravel_multi_index(np.array(indices).T, (2, 3)) if np.ndim(indices) == 2 else indices] = [5, 7]
            assert import_model(m).nodes[0].inputs[1].constant.reshape(-1).tolist() == dense.tolist()
        else:
            refuse(m, "'w'")
    m.graph.sparse_initializer[0].dims[0] = 1 << 40
    refuse(m, "dense", kind=UnsupportedError)


def test_constants():
    for key, value, expected in (("value_float", 2.0, np.float32(2)), ("value_ints", [1, 2], np.array([1, 2])), ("value_int", 4, np.int64(4)),
                                 ("value_floats", [1.0], np.array([1], np.float32)), ("value_string", "s", np.array("s", object)),
                                 ("value_strings", ["a", "b"], np.array(["a", "b"], object)), ("value", weight(), numpy_helper.to_array(weight()))):
        m = model([helper.make_node("Constant", [], ["y"], **{key: value})], [], [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(
            expected.dtype), None)])
        y = import_model(m).outputs[0]
        assert y.is_constant and y.constant.dtype == expected.dtype and np.array_equal(y.constant, expected)
    empty = model([helper.make_node("Constant", [], ["y"])], [])
    refuse(empty, "exactly one attribute")


# ---------------------------------------------------------------------------------------------------------- external data
@pytest.fixture
def external(tmp_path):
    m = model([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", (2, 300))], [info("y", (2, 300))], [weight(shape=(300,))])
    original = numpy_helper.to_array(m.graph.initializer[0])
    onnx.save(m, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return tmp_path / "m.onnx", original


def relocate(path, **entries):
    m = onnx.load(path, load_external_data=False)
    t = m.graph.initializer[0]
    del t.external_data[:]
    for k, v in entries.items():
        t.external_data.add(key=k, value=v)
    path.write_bytes(m.SerializeToString())


def test_external_data_is_mapped(external):
    path, original = external
    w = import_model(path).nodes[0].inputs[1].constant
    np.testing.assert_array_equal(w, original)
    assert not w.flags.owndata and not w.flags.writeable
    m = onnx.load(path, load_external_data=False)
    np.testing.assert_array_equal(import_model(m, folder=path.parent).nodes[0].inputs[1].constant, w)
    with pytest.raises(ModelError, match="folder"):
        import_model(m)


@pytest.mark.parametrize(("entries", "words"), [
    (dict(location="nothing.data"), "'nothing.data'"), (dict(location="../m.data"), "leaves"), (dict(location="a/../../m.data"), "leaves"),
    (dict(location="/etc/passwd"), "leaves"), (dict(location="..\\m.data"), "leaves"), (dict(location="C:\\m.data"), "leaves"), (dict(location=""), "location"),
    (dict(location="m.data", offset="4"), "too short"), (dict(location="m.data", offset="-4"), "offset"), (dict(location="m.data", offset="x"), "offset"),
    (dict(location="m.data", length="8"), "says 8"), (dict(location="m.data", offset="9" * 30), "offset"), (dict(location="."), "regular"),
    (dict(location="a\0b"), "leaves"), (dict(location="m" * 5000), "read"),
])
def test_bad_external_data(external, entries, words):
    path, _ = external
    relocate(path, **entries)
    error = refuse(path, words)
    assert "'w'" in str(error)


def test_links_stay_inside_the_folder(external, tmp_path_factory):
    path, original = external
    outside = tmp_path_factory.mktemp("outside")
    (path.parent / "m.data").rename(outside / "m.data")
    (path.parent / "m.data").symlink_to(outside / "m.data")
    refuse(path, "link", "'w'")
    # a folder of links, as caches of model hubs make them: model and data are links into one store
    path.rename(outside / "m.onnx")
    path.symlink_to(outside / "m.onnx")
    np.testing.assert_array_equal(import_model(path).nodes[0].inputs[1].constant, original)
    fifo = path.parent / "pipe.data"
    os.mkfifo(fifo)
    with pytest.raises(ModelError, match="regular"):
        import_model(fifo)


# ----------------------------------------------------------------------------------------------------------- names, order
def test_wrong_names():
    refuse(model([relu("nowhere")]), "'nowhere' is not defined", "r")
    refuse(model([relu(), relu()]), "'y' is defined more than once")
    refuse(model([relu("x", "x")]), "'x' is defined more than once")
    refuse(model([relu()], outputs=[info("z")]), "'z' is not defined")
    refuse(model([relu()], [info("x"), info("x")]), "'x'")
    refuse(model([relu()], initializers=[weight("w"), weight("w")]), "'w' is defined more than once")
    refuse(model([relu()], outputs=[]), "no outputs")
    m = model([relu()])
    m.graph.input[0].ClearField("type")
    refuse(m, "'x'", "no type")


def test_nodes_out_of_order_and_in_circles():
    g = import_model(model([relu("b", "y", "last"), relu("a", "b", "mid"), relu("x", "a", "first")]))
    assert [n.name for n in g.nodes] == ["first", "mid", "last"]
    refuse(model([relu("b", "a", "one"), relu("a", "b", "two"), relu()]), "themselves", "one", "two")
    refuse(model([relu("y", "y", "self")]), "self")


def test_names_that_are_not_text():
    data = model([relu(name="zzzz")]).SerializeToString().replace(b"zzzz", b"\xff\xfezz")
    refuse(data, "UTF-8")


def test_nodes_without_names_are_called_by_their_output():
    g = import_model(model([relu(name="")]))
    assert g.nodes[0].origin == ("y",)


# ------------------------------------------------------------------------------------------------------- attributes, checks
def test_attributes_are_checked():
    def pool(**attributes):
        return model([helper.make_node("LeakyRelu", ["x"], ["y"], "p", **attributes)])
    assert import_model(pool(alpha=0.5)).nodes[0].attributes == {"alpha": 0.5}
    refuse(pool(alpha=[1.0, 2.0]), "alpha", "p")
    refuse(pool(alpha="text"), "alpha")
    refuse(pool(beta=1.0), "no attribute 'beta'")
    m = pool(alpha=0.5)
    m.graph.node[0].attribute.append(m.graph.node[0].attribute[0])
    refuse(m, "more than once")
    m = pool(alpha=0.5)
    m.graph.node[0].attribute[0].type = 0
    assert import_model(m).nodes[0].attributes == {"alpha": 0.5}
    m.graph.node[0].attribute[0].ref_attr_name = "outer"
    refuse(m, "function")
    refuse(model([helper.make_node("Concat", ["x", "x"], ["y"])]), "axis", "missing")


def test_numbers_and_types_of_inputs():
    refuse(model([helper.make_node("Relu", ["x", "x"], ["y"])]), "takes 1 inputs, 2")
    refuse(model([helper.make_node("Relu", ["x"], ["y", "z"])]), "outputs")
    refuse(model([relu()], [info("x", (2,), TensorProto.STRING)]), "tensor(string)")
    refuse(model([helper.make_node("Add", ["x", "k"], ["y"])], [info("x"), info("k", (3,), TensorProto.INT32)]), "same type")


def test_missing_operators_are_listed_together():
    nodes = [helper.make_node("Nope", ["x"], ["a"], "first", domain="there"), helper.make_node("Nope", ["a"], ["b"], "second", domain="there"),
             helper.make_node("Another", ["b"], ["c"], "third"), relu("c")]
    refuse(model(nodes, opsets=[helper.make_opsetid("", 17), helper.make_opsetid("there", 3)]), "there::Nope(3): first, second", "Another(17): third",
           kind=UnsupportedError)


def test_opsets():
    refuse(model([relu()], opset=9999), "9999", kind=UnsupportedError)
    refuse(model([relu()], opset=-3), "-3")
    m = model([relu()])
    del m.opset_import[:]
    refuse(m, "no opset")
    m.ir_version = 2
    assert import_model(m).nodes[0].version == 1
    refuse(model([helper.make_node("Mish", ["x"], ["y"], "m")], opset=9), "Mish(9): m", kind=UnsupportedError)


# ------------------------------------------------------------------------------------------------------------------ damage
def test_damaged_files(tmp_path):
    good = model([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", (2, 700))], [info("y", (2, 700))], [weight(shape=(700,))]).SerializeToString()
    refuse(b"", "empty")
    refuse(b"hello there, this is no model at all")
    refuse(onnx.ModelProto().SerializeToString())
    refuse(onnx.ModelProto(ir_version=8).SerializeToString(), "no graph")
    for cut in range(1, len(good), 97):
        with pytest.raises(ModelError):
            import_model(good[:cut])
    refuse(tmp_path / "absent.onnx", "absent.onnx")
    refuse(tmp_path, str(tmp_path.name))
    with pytest.raises(TypeError):
        import_model(3)


def test_random_damage_gives_model_errors():
    good = model([helper.make_node("Add", ["x", "w"], ["s"], "add"), relu("s"), helper.make_node("LeakyRelu", ["s"], ["z"], alpha=0.1)], [info("x", (2, 300))],
                 [info("y", (2, 300)), info("z", (2, 300))], [weight(shape=(300,))]).SerializeToString()
    head = len(good) - 1300
    for seed in range(400):
        rng = random.Random(seed)
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(head) if rng.random() < 0.5 else rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        with contextlib.suppress(ModelError):
            import_model(bytes(data))


def test_split_leaves_weights_where_they_are():
    m = model([relu()], initializers=[weight("a", (5,)), weight("b", (400,)), weight("c", (500,))])
    data = m.SerializeToString()
    outline = split(memoryview(data))
    assert sorted(outline.places) == [1, 2] and len(outline.message) < 400
    for k, (at, size) in outline.places.items():
        assert data[at:at + size] == m.graph.initializer[k].raw_data
    parsed = onnx.ModelProto.FromString(outline.message)
    assert [len(t.raw_data) for t in parsed.graph.initializer] == [20, 0, 0]
    whole = split(memoryview(data), 1 << 30)
    assert whole.message == data and not whole.places
    with pytest.raises(WireError):
        split(memoryview(data[:-3]))


# --------------------------------------------------------------------------------------------------------- initialisers
def test_overridable_initialisers():
    m = model([helper.make_node("Add", ["x", "w"], ["y"])], [info("x"), info("w", (3,))], initializers=[weight()])
    g = import_model(m)
    assert [v.name for v in g.inputs] == ["x"] and list(g.overridable) == ["w"] and g.overridable["w"].is_constant
    fed = import_model(m, as_inputs=["w"])
    assert [v.name for v in fed.inputs] == ["x", "w"] and not fed.nodes[0].inputs[1].is_constant
    with pytest.raises(ModelError, match="initialiser v"):
        import_model(m, as_inputs=["v"])
    m.ir_version = 3
    assert not import_model(m).overridable
    m.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    refuse(m, "'w'", "int64")


# ------------------------------------------------------------------------------------------------------------- functions
def function(name="Twice", nodes=None, inputs=("a",), outputs=("b",), attributes=(), defaults=(), domain="mine"):
    return helper.make_function(domain, name, list(inputs), list(outputs), nodes or [helper.make_node("Add", ["a", "a"], ["b"], "inner")],
                                [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)], list(attributes), list(defaults))


MINE = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]


def test_functions_are_expanded():
    m = model([helper.make_node("Twice", ["x"], ["t"], "call", domain="mine"), relu("t")], functions=[function()], opsets=MINE)
    g = import_model(m)
    assert [(n.op, n.origin) for n in g.nodes] == [("Add", ("call",)), ("Relu", ("r",))] and g.nodes[0].outputs[0].name == "t"
    outer = function("Outer", [helper.make_node("Twice", ["a"], ["m"], "q", domain="mine"), helper.make_node("Twice", ["m"], ["b"], domain="mine")])
    g = import_model(model([helper.make_node("Outer", ["x"], ["y"], "call", domain="mine")], functions=[function(), outer], opsets=MINE))
    assert [n.op for n in g.nodes] == ["Add", "Add"] and all(n.origin == ("call",) for n in g.nodes)
    passing = function("Pass", [relu("a", "unused")], outputs=("a",))
    g = import_model(model([helper.make_node("Pass", ["x"], ["t"], domain="mine"), relu("t")], functions=[passing], opsets=MINE))
    assert g.nodes[-1].inputs[0] is g.inputs[0]


def test_attributes_of_functions():
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    reference = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    node.attribute.append(reference)
    for f, given, expected in ((function("F", [node], attributes=["slope"]), {"slope": 0.25}, {"alpha": 0.25}),
                               (function("F", [node], attributes=["slope"]), {}, {}),
                               (function("F", [node], defaults=[helper.make_attribute("slope", 0.5)]), {}, {"alpha": 0.5})):
        g = import_model(model([helper.make_node("F", ["x"], ["y"], domain="mine", **given)], functions=[f], opsets=MINE))
        assert g.nodes[0].attributes == expected


def test_functions_that_never_end():
    loop = function("Twice", [helper.make_node("Twice", ["a"], ["b"], domain="mine")])
    refuse(model([helper.make_node("Twice", ["x"], ["y"], "call", domain="mine")], functions=[loop], opsets=MINE), "calls itself")
    bomb = [function("F0")] + [function(f"F{k}", [helper.make_node(f"F{k - 1}", ["a"], ["m"], domain="mine"), helper.make_node(f"F{k - 1}", ["m"], ["b"],
            domain="mine")]) for k in range(1, 80)]
    refuse(model([helper.make_node("F79", ["x"], ["y"], domain="mine")], functions=bomb, opsets=MINE), "deep")
    refuse(model([helper.make_node("Twice", ["x", "x"], ["y"], domain="mine")], functions=[function()], opsets=MINE), "1 inputs")
    refuse(model([relu()], functions=[function(), function()], opsets=MINE), "more than once")


# ------------------------------------------------------------------------------------------------------------- subgraphs
def branch(nodes, output, name="body"):
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)])


def conditional(then, other, **more):
    return model([helper.make_node("If", ["c"], ["y"], "if", then_branch=then, else_branch=other)], [info("c", (), TensorProto.BOOL), info("x", (2, 3))],
                 [info("y", (2, 3))], **more)


def test_bodies_see_outer_names():
    g = import_model(conditional(branch([relu("x", "t")], "t"), branch([relu("x", "s"), relu("s", "e")], "e")))
    then, other = g.nodes[0].attributes["then_branch"], g.nodes[0].attributes["else_branch"]
    assert then.parent is g and then.nodes[0].inputs[0] is g.inputs[1] and len(other.nodes) == 2
    assert then.captured() == [g.inputs[1]]
    refuse(conditional(branch([relu("x", "t")], "t"), branch([relu("lost", "e")], "e")), "'lost'")
    refuse(conditional(branch([relu("x", "t")], "t"), branch([relu("x", "e")], "f")), "'f'")


def nested(depth):
    """A model with If in If in If..., built in place, since copying is what limits the depth of a message."""
    m = conditional(branch([relu("x", "t")], "t"), branch([relu("x", "t")], "t"))
    node = m.graph.node[0]
    for k in range(depth):
        inner = node.attribute[0].g.node.add(op_type="If", name=f"n{k}", input=["c"], output=["q"])
        for key in ("then_branch", "else_branch"):
            a = inner.attribute.add(name=key, type=onnx.AttributeProto.GRAPH)
            a.g.name = key
            a.g.node.add(op_type="Relu", input=["x"], output=["t"])
            a.g.output.add(name="t")
        node = inner
    return m


def test_deep_nesting_is_refused():
    assert len(list(import_model(nested(20)).all_nodes())) == 1 + 2 + 20 * 3
    refuse(nested(200), "deep")


# --------------------------------------------------------------------------------------------------------------- exporter
def test_export_and_import_again():
    m = model([helper.make_node("Add", ["x", "w"], ["s"], "add"), helper.make_node("LeakyRelu", ["s"], ["y"], "l", alpha=0.25)], initializers=[weight()])
    g = import_model(m)
    again = export_model(g)
    onnx.checker.check_model(again, full_check=True)
    h = import_model(again)
    assert [n.op for n in h.nodes] == [n.op for n in g.nodes] and h.nodes[1].attributes == {"alpha": 0.25}
    assert h.output_names == ["y"] and str(h.outputs[0].type) == str(g.outputs[0].type)
    np.testing.assert_array_equal(h.nodes[0].inputs[1].constant, g.nodes[0].inputs[1].constant)


def test_exported_outputs_keep_their_names():
    g = import_model(model([relu("x", "a"), relu("a", "y")], outputs=[info("y"), info("a")]))
    g.replace_all_uses(g.outputs[0], g.nodes[0].outputs[0])  # both outputs are one value now
    g.remove(g.nodes[1])
    again = export_model(g)
    onnx.checker.check_model(again)
    assert [o.name for o in again.graph.output] == ["y", "a"]
    passed = import_model(model([relu()]))
    passed.replace_all_uses(passed.outputs[0], passed.inputs[0])
    passed.remove(passed.nodes[0])
    assert [o.name for o in export_model(passed).graph.output] == ["y"]


def test_sub_byte_tensors_survive():
    for d in (ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn):
        array = np.arange(7, dtype=np.uint8).view(d) if np.dtype(d).name.startswith("float") else (np.arange(7) % 2).astype(d)
        g = import_model(model([relu(), helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(array, "k"))],
                               outputs=[info("y"), helper.make_tensor_value_info("k", helper.np_dtype_to_tensor_dtype(array.dtype), [7])]))
        h = import_model(export_model(g))
        assert h.outputs[1].constant.dtype == array.dtype and (h.outputs[1].constant.view(np.uint8) == array.view(np.uint8)).all()
