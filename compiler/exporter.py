"""Graphs back to ONNX models: for files of what the compiler made of a model, and for cutting a model in pieces to find a fault."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ir import dtypes as dt
from ..ir.dtypes import DType
from ..ir.errors import UnsupportedError
from ..ir.graph import Attribute, Graph, Node, TensorType, TypeValue, Value
from .importer_tensors import export_type

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
_METADATA = {"producer_name": "producer_name", "producer_version": "producer_version", "domain": "domain", "description": "doc_string"}


def export_model(graph: Graph) -> "onnx.ModelProto":
    """Write a graph as a model with equal meaning.

    Returns:
        A model whose inputs and outputs have the original's names. Opset imports are the graph's own, raised where a node is of a later version.

    Raises:
        UnsupportedError: an attribute or type that ONNX cannot carry.
    """
    import onnx
    model = onnx.ModelProto(ir_version=IR_VERSION)
    for key, field in _METADATA.items():
        setattr(model, field, graph.metadata.get(key, ""))
    model.model_version = int(graph.metadata.get("version", "0"))
    for key, value in graph.metadata.items():
        if key.startswith("custom:"):
            model.metadata_props.add(key=key.removeprefix("custom:"), value=value)
    opsets = dict(graph.opsets)
    for node in graph.all_nodes():
        opsets[node.domain] = max(opsets.get(node.domain, 1), node.version)
    for domain, version in sorted(opsets.items()):
        model.opset_import.add(domain=domain, version=version)
    model.graph.name = graph.metadata.get("graph_name") or graph.name or "graph"
    _Exporter().graph(graph, model.graph)
    return model


class _Exporter:
    """Writes graphs; a constant is written once, in the outermost graph that is being written when it is met first."""

    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.scopes: list[set[Value]] = []

    def graph(self, graph: Graph, proto: "onnx.GraphProto") -> None:
        self.scopes.append(set())
        renamed = [] if graph.parent is not None else self._name_outputs(graph)
        for v in graph.inputs:
            self._declare(proto.input.add(), v, self.name(v))
        for node in graph.nodes:
            self._node(graph, node, proto)
        for v, name in renamed:
            self._constant(v, proto)
            proto.node.add(op_type="Identity", input=[self.name(v)], output=[name], name=f"{name}/output")
        for k, v in enumerate(graph.outputs):
            self._constant(v, proto)
            self._declare(proto.output.add(), v, graph.output_names[k] if k < len(graph.output_names) else self.name(v))
        self.scopes.pop()

    def _name_outputs(self, graph: Graph) -> list[tuple[Value, str]]:
        """Give outputs the model's names; returns those that need a copy, because they have another name already."""
        copies = []
        taken = {v.name: v for v in graph.inputs} | {v.name: v for n in graph.nodes for v in n.outputs if v is not None}
        for v, name in zip(graph.outputs, graph.output_names, strict=False):
            if v in self.names or v in graph.inputs or v.is_constant or taken.get(name, v) is not v:
                if self.names.get(v, v.name) != name:
                    copies.append((v, name))
            else:
                self.names[v] = name
        return copies

    def name(self, value: Value | None) -> str:
        return "" if value is None else self.names.get(value, value.name)

    def _declare(self, info: "onnx.ValueInfoProto", value: Value, name: str) -> None:
        info.name = name
        if value.type is not None:
            export_type(info.type, value.type)

    def _node(self, graph: Graph, node: Node, proto: "onnx.GraphProto") -> None:
        for v in node.inputs:
            if v is not None:
                self._constant(v, proto)
        written = proto.node.add(op_type=node.op, domain=node.domain, name=node.name)
        written.input.extend(self.name(v) for v in node.inputs)
        written.output.extend(self.name(v) for v in node.outputs)
        for key, value in node.attributes.items():
            self._attribute(written.attribute.add(name=key), value, node)

    def _constant(self, value: Value, proto: "onnx.GraphProto") -> None:
        if value.constant is None or value.producer is not None or any(value in s for s in self.scopes):
            return
        self.scopes[-1].add(value)
        export_tensor(proto.initializer.add(), value.constant, self.name(value), value.type.dtype if isinstance(value.type, TensorType) else None)

    def _attribute(self, proto: "onnx.AttributeProto", value: Attribute, node: Node) -> None:
        many = isinstance(value, tuple)
        first = value[0] if many and value else value
        kinds = proto.AttributeType
        if isinstance(first, (bool, int, np.integer)) or (many and not value):
            proto.type = kinds.INTS if many else kinds.INT
            _put(proto, "ints", "i", value, int)
        elif isinstance(first, (float, np.floating)):
            proto.type = kinds.FLOATS if many else kinds.FLOAT
            _put(proto, "floats", "f", value, float)
        elif isinstance(first, (str, bytes)):
            proto.type = kinds.STRINGS if many else kinds.STRING
            _put(proto, "strings", "s", value, lambda s: s.encode() if isinstance(s, str) else s)
        elif isinstance(first, np.ndarray):
            proto.type = kinds.TENSORS if many else kinds.TENSOR
            for a in value if many else (value,):
                export_tensor(proto.tensors.add() if many else proto.t, a)
        elif isinstance(first, Graph):
            proto.type = kinds.GRAPHS if many else kinds.GRAPH
            for g in value if many else (value,):
                target = proto.graphs.add() if many else proto.g
                target.name = g.name or "body"
                self.graph(g, target)
        elif isinstance(first, TypeValue):
            proto.type = kinds.TYPE_PROTOS if many else kinds.TYPE_PROTO
            for t in value if many else (value,):
                export_type(proto.type_protos.add() if many else proto.tp, t.type)
        elif isinstance(first, DType):
            proto.type = kinds.INTS if many else kinds.INT
            _put(proto, "ints", "i", value, lambda d: d.code)
        else:
            raise UnsupportedError(f"attribute '{proto.name}' of type {type(value).__name__} has no ONNX form", node.name)


def _put(proto: "onnx.AttributeProto", plural: str, single: str, value: Attribute, convert) -> None:
    if isinstance(value, tuple):
        getattr(proto, plural).extend(convert(v) for v in value)
    else:
        setattr(proto, single, convert(value))


def export_tensor(proto: "onnx.TensorProto", array: np.ndarray, name: str = "", dtype: DType | None = None) -> None:
    """Write an array into a TensorProto; sub-byte types are packed."""
    dtype = dtype or dt.of_numpy(array.dtype)
    proto.name, proto.data_type = name, dtype.code
    proto.dims.extend(array.shape)
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype is dt.string:
        proto.string_data.extend(str(s).encode() for s in flat)
    elif dtype.bits < 8:
        per_byte = 8 // dtype.bits
        patterns = np.zeros(-(-flat.size // per_byte) * per_byte, np.uint8)
        patterns[:flat.size] = flat.view(np.uint8) & np.uint8((1 << dtype.bits) - 1)
        shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(dtype.bits)
        proto.raw_data = np.bitwise_or.reduce(patterns.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8).tobytes()
    else:
        proto.raw_data = flat.tobytes()
