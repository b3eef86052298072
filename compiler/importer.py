"""ONNX models to Graphs. The importer's own files, and the exporter, are the only ones that load `onnx`, and do so when called.

A model's text is not trusted: whatever is wrong with it becomes one `ModelError` that says what and where.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..ir.errors import ModelError, UnsupportedError
from ..ir.expr import const, sym
from ..ir.graph import Graph, TensorType, Type, Value
from .external_data import ExternalData, map_file
from .importer_nodes import NodeImporter, Scope, read_opsets, unsupported_opset
from .importer_tensors import UNKNOWN, DimReader, import_type, text
from .wire import WireError, split

if TYPE_CHECKING:
    import onnx

_log = logging.getLogger(__name__)

FIRST_IR_WITH_OPSETS = 3
FIRST_IR_WITH_OVERRIDES = 4  # before, every initialiser had to be an input as well


def import_model(source: object, *, free_dimensions: Mapping[str, int] | None = None,
                 free_dimensions_by_denotation: Mapping[str, int] | None = None, as_inputs: Collection[str] = (),
                 initializers: Mapping[str, np.ndarray] | None = None, input_shapes: Mapping[str, tuple[int, ...]] | None = None,
                 folder: str | os.PathLike[str] | None = None) -> Graph:
    """Read an ONNX model.

    Args:
        source: a file, its bytes, or a ModelProto.
        free_dimensions: sizes for symbolic dimensions, by name.
        free_dimensions_by_denotation: sizes for symbolic dimensions, by their denotation.
        as_inputs: overridable initialisers that become real inputs, because the caller feeds them.
        initializers: arrays that take the place of the model's initialisers of these names.
        input_shapes: shapes of inputs, where they are to be compiled for one shape; a size of -1 is left open.
        folder: where external data lie, for models that do not come from a file.

    Returns:
        A graph with types inferred. Initialisers and Constant nodes are constants, which view the file's bytes where they can (read-only, perhaps
        unaligned); functions are expanded. `overridable` has the initialisers that are inputs as well, `declared` what the model says about inputs,
        outputs and values between, `output_names` the model's names of the outputs, `metadata` producer_name, producer_version, domain, version,
        description, graph_name, graph_description, ir_version and `custom:*`. Dimensions without a name are symbols that start with `?`.

    Raises:
        ModelError: the model is damaged or breaks the ONNX specification.
        UnsupportedError: it is sound but uses what is not implemented; lists all operators that are missing.
    """
    importer = model_importer(source, free_dimensions=free_dimensions, free_dimensions_by_denotation=free_dimensions_by_denotation, as_inputs=as_inputs,
                              initializers=initializers, input_shapes=input_shapes, folder=folder)
    graph = importer.build()
    graph.external_files = importer.nodes.external.files()
    return graph


def model_importer(source: object, *, free_dimensions: Mapping[str, int] | None = None, free_dimensions_by_denotation: Mapping[str, int] | None = None,
                   as_inputs: Collection[str] = (), initializers: Mapping[str, np.ndarray] | None = None,
                   input_shapes: Mapping[str, tuple[int, ...]] | None = None, folder: str | os.PathLike[str] | None = None) -> "ModelImporter":
    """What `import_model` builds its graph with; the model is read, its nodes are not."""
    for name, size in {**(free_dimensions or {}), **(free_dimensions_by_denotation or {})}.items():
        if size < 0:
            raise ModelError(f"free dimension '{name}' is set to {size}")
    external = ExternalData(()) if folder is None else ExternalData((Path(folder).absolute(), Path(folder).resolve()))
    buffer: memoryview | None = None
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        buffer = memoryview(map_file(path, f"model '{path}'"))
        if folder is None:
            external = ExternalData.beside(path)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        buffer = memoryview(source).cast("B")
    raw: dict[int, memoryview] = {}
    if buffer is not None:
        proto, places = _parse(buffer)
        raw = {k: buffer[at:at + size] for k, (at, size) in places.items()}
    else:
        proto = _given_model(source)
    dims = DimReader(dict(free_dimensions or {}), dict(free_dimensions_by_denotation or {}))
    importer = ModelImporter(proto, external, dims, raw, frozenset(as_inputs), dict(initializers or {}))
    importer.input_shapes = dict(input_shapes or {})
    return importer


def _parse(buffer: memoryview) -> "tuple[onnx.ModelProto, dict[int, tuple[int, int]]]":
    import onnx
    from google.protobuf.message import DecodeError
    if not len(buffer):
        raise ModelError("the model is empty: 0 bytes")
    try:
        outline = split(buffer)
        return onnx.ModelProto.FromString(outline.message), outline.places
    except (WireError, DecodeError) as e:
        raise ModelError(f"the model cannot be read: {e}", hint="the file is damaged, cut short, or no ONNX model") from e


def read_interface(source: object) -> tuple[list[tuple[str, Type]], list[tuple[str, Type | None]]]:
    """(name, declared type) of a model's inputs and outputs, nothing of its graph read.

    Raises:
        ModelError: the model cannot be read.
    """
    proto = read_model(source)
    dims = DimReader({}, {})
    known = {t.name for t in proto.graph.initializer}
    inputs = [(i.name, import_type(i.type, dims, i.name)) for i in proto.graph.input if i.name not in known]
    return inputs, [(o.name, import_type(o.type, dims, o.name) if o.HasField("type") else None) for o in proto.graph.output]


def read_model(source: object) -> "onnx.ModelProto":
    """A model's message; data of large tensors may be left out.

    Raises:
        ModelError: the model cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        return _parse(memoryview(map_file(Path(source), f"model '{source}'")))[0]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parse(memoryview(source).cast("B"))[0]
    return _given_model(source)


def _given_model(source: object) -> "onnx.ModelProto":
    import onnx
    if not isinstance(source, onnx.ModelProto):
        raise TypeError(f"a path, bytes or a ModelProto is expected, not {type(source).__name__}")
    return source


class ModelImporter:
    """One model on its way to a graph."""

    def __init__(self, proto: "onnx.ModelProto", external: ExternalData, dims: DimReader, raw: Mapping[int, memoryview], as_inputs: frozenset[str],
                 replacements: dict[str, np.ndarray]) -> None:
        self.proto, self.dims, self.raw, self.as_inputs, self.replacements = proto, dims, raw, as_inputs, replacements
        if not proto.HasField("graph"):
            raise ModelError("the model has no graph", hint="the file is damaged, cut short, or no ONNX model")
        self.input_shapes: dict[str, tuple[int, ...]] = {}
        self.functions: dict[tuple[str, str, str], onnx.FunctionProto] = {}
        for f in proto.functions:
            key = (text(f.domain, "a domain"), text(f.name, "a function's name"), text(f.overload, "an overload's name"))
            if key in self.functions:
                raise ModelError(f"function {key[0]}::{key[1]} is defined more than once")
            self.functions[key] = f
        self.opsets = self._read_opsets()
        self.nodes = NodeImporter(self.functions, external, dims)
        self.graph = Graph(text(proto.graph.name, "the graph's name"))
        self.graph.opsets.update(self.opsets)
        self.scope = Scope(self.opsets)

    def _read_opsets(self) -> dict[str, int]:
        if self.proto.ir_version < 1:
            raise ModelError("the model has no IR version" if not self.proto.ir_version else f"the model has IR version {self.proto.ir_version}")
        opsets = read_opsets(self.proto.opset_import, "the model")
        if not opsets:
            if self.proto.ir_version >= FIRST_IR_WITH_OPSETS:
                raise ModelError("the model imports no opset")
            opsets = {"": 1}
        too_new = unsupported_opset(opsets)
        if too_new is not None:
            raise UnsupportedError(too_new, hint="export for an older opset")
        return opsets

    def build(self) -> Graph:
        proto, graph = self.proto.graph, self.graph
        self._metadata()
        initializers = {t.name for t in proto.initializer} | {s.values.name for s in proto.sparse_initializer}
        both = []
        for i in proto.input:
            name = text(i.name, "the name of an input")
            if not name:
                raise ModelError("an input of the model has no name")
            declared = import_type(i.type, self.dims, name) if i.HasField("type") else None
            if name in graph.declared:
                raise ModelError(f"input '{name}' is declared more than once")
            if declared is not None:
                graph.declared[name] = declared
            if name in initializers:
                both.append(name)
                continue
            if declared is None:
                raise ModelError(f"input '{name}' of the model has no type")
            if name in self.input_shapes and isinstance(declared, TensorType):
                declared = graph.declared[name] = _with_sizes(declared, name, self.input_shapes[name])
            self.scope.define(name, graph.input(name, declared))
        unknown = sorted(set(self.input_shapes) - set(graph.declared))
        if unknown:
            raise ModelError(f"shapes were given for {', '.join(map(repr, unknown))}; the model's inputs are {', '.join(v.name for v in graph.inputs) or 'none'}")
        self.nodes.initializers(graph, self.scope, proto, self.raw)
        self._replace_initializers()
        self._overridable(both)
        self._declared()
        self.nodes.nodes(graph, self.scope, proto.node)
        if self.nodes.missing:
            listed = "; ".join(f"{op}: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
                               for op, names in sorted(self.nodes.missing.items()))
            raise UnsupportedError(f"the model uses operators that are not implemented: {listed}")
        self._outputs()
        self._compare_declared()
        graph.remarks += self.nodes.remarks
        for name in sorted(set(self.dims.by_name) - self.dims.used):
            _log.warning("the model has no free dimension '%s'", name)
        return graph

    def _metadata(self) -> None:
        m, metadata = self.proto, self.graph.metadata
        entries = {"producer_name": m.producer_name, "producer_version": m.producer_version, "domain": m.domain, "description": m.doc_string,
                   "graph_name": m.graph.name, "graph_description": m.graph.doc_string}
        metadata.update({k: text(v, f"the model's {k}") for k, v in entries.items()})
        metadata["version"] = str(m.model_version)
        metadata["ir_version"] = str(m.ir_version)
        metadata.update({f"custom:{text(p.key, 'a metadata key')}": text(p.value, "a metadata value") for p in m.metadata_props})

    def _replace_initializers(self) -> None:
        for name, array in self.replacements.items():
            value = self.scope.names.get(name)
            if value is None or value.constant is None:
                raise ModelError(f"the model has no initialiser '{name}' to replace")
            if array.shape != value.constant.shape or array.dtype != value.constant.dtype:
                raise ModelError(f"initialiser '{name}' is {value.constant.dtype}{list(value.constant.shape)}, its replacement {array.dtype}{list(array.shape)}")
            value.constant = array

    def _overridable(self, both: list[str]) -> None:
        """Initialisers that are inputs too: constants, unless the caller wants to feed them."""
        graph = self.graph
        for name in both:
            value = self.scope.names[name]
            declared = graph.declared.get(name)
            if isinstance(declared, TensorType) and isinstance(value.type, TensorType):
                if declared.dtype is not value.type.dtype:
                    raise ModelError(f"input '{name}' is declared {declared.dtype.name}, its initialiser is {value.type.dtype.name}")
            if self.proto.ir_version < FIRST_IR_WITH_OVERRIDES and name not in self.as_inputs:
                continue
            graph.overridable[name] = value
            if name in self.as_inputs:
                value.constant = None
                value.type = declared or value.type
                graph.inputs.append(value)
        unknown = self.as_inputs - set(graph.overridable) - {v.name for v in graph.inputs}
        if unknown:
            raise ModelError(f"the model has no input or overridable initialiser {', '.join(sorted(unknown))}")

    def _declared(self) -> None:
        """What the model says about outputs and values in between; entries without an element type say nothing."""
        for i in (*self.proto.graph.output, *self.proto.graph.value_info):
            name = text(i.name, "the name of a declared value")
            if not i.HasField("type") or (i.type.WhichOneof("value") == "tensor_type" and not i.type.tensor_type.elem_type):
                continue
            read = import_type(i.type, self.dims, name)
            if read is not None:
                self.graph.declared.setdefault(name, read)

    def _outputs(self) -> None:
        graph = self.graph
        for o in self.proto.graph.output:
            name = text(o.name, "the name of an output")
            found = self.scope.find(name, "the graph's outputs")
            if found is None:
                raise ModelError(f"output '{name}' is an absent argument of a function")
            graph.outputs.append(found)
            graph.output_names.append(name)
        if not graph.outputs:
            raise ModelError("the model has no outputs")

    def _compare_declared(self) -> None:
        """Hold what the model declares against what was inferred: wrong element types are errors, wrong sizes are remarks."""
        for name, declared in self.graph.declared.items():
            value = self.scope.names.get(name)
            if value is None or value.type is None:
                continue
            _compare(name, declared, value, self.graph)


def _with_sizes(declared: TensorType, name: str, shape: tuple[int, ...]) -> TensorType:
    """A declared type with sizes filled in; those of -1 stay as they are declared.

    Raises:
        ModelError: the type has another rank, or another size.
    """
    known = declared.shape if declared.shape is not None else tuple(sym(f"{UNKNOWN}{name}.{k}") for k in range(len(shape)))
    if len(known) != len(shape) or any(d.is_const and size >= 0 and d.value != size for d, size in zip(known, shape)):
        raise ModelError(f"input '{name}' is {declared}, which the shape {', '.join(map(str, shape)) or '()'} does not fit")
    return TensorType(declared.dtype, tuple(d if size < 0 else const(size) for d, size in zip(known, shape, strict=True)))


def _compare(name: str, declared: Type, value: Value, graph: Graph) -> None:
    found = value.type
    if not isinstance(declared, TensorType) or not isinstance(found, TensorType):
        if type(declared) is not type(found):
            raise ModelError(f"'{name}' is declared {declared}, but is {found}")
        return
    if declared.dtype is not found.dtype and not value.is_constant:
        raise ModelError(f"'{name}' is declared {declared.dtype.name}, but is {found.dtype.name}")
    if declared.shape is None or found.shape is None:
        return
    wrong = declared.dtype is not found.dtype or len(declared.shape) != len(found.shape) or any(
        a.is_const and b.is_const and a.value != b.value for a, b in zip(declared.shape, found.shape))
    if wrong:
        graph.remarks.append(f"'{name}' is declared {declared}, but is {found}")
