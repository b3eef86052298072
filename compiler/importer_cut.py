"""Cutting a model where a rank is only known when running: what can be computed before, what decides it, and the rest.

A node stops the import because it needs a tensor whose number of dimensions only the run tells. Everything that does not depend on it becomes a model of
its own (`first`). If the node's own inputs are what is not known, the others follow as a second model (`rest`), compiled when their ranks are there. If the
node is an If or Loop that fails inside, its bodies become models, run one by one as they are chosen, and `rest` is what follows it.
"""
from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.errors import UnknownRankError, UnsupportedError
from ..ir.graph import TensorType, Type, Value
from .exporter import export_tensor
from .importer import ModelImporter, model_importer, read_model
from .importer_nodes import in_order, reads
from .importer_tensors import export_type, import_type

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Part:
    """A model of its own: its bytes, and the names of the values that go in and come out."""

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ControlPart:
    """An If or Loop that is run from outside.

    Args:
        inputs, outputs: names of the node's, '' where absent.
        types: of the outputs.
        bodies: models whose first inputs are the body's own; what it captures follows.
        given: numbers of dimensions of the iteration and the condition that a loop's body takes.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: tuple[Type, ...]
    bodies: tuple[Part, ...]
    given: tuple[int, ...]

    def own(self) -> int:
        """How many inputs a body has of its own."""
        return len(self.inputs) if self.kind == "Loop" else 0

    def needs(self) -> list[str]:
        """Names of the values that must be there before it runs."""
        return [n for n in (*self.inputs, *(n for b in self.bodies for n in b.inputs[self.own():])) if n]


@dataclass(frozen=True)
class Cut:
    """A model in parts, in the order in which they run; each may be absent.

    Args:
        outputs: names of the model's outputs, each given by one of the parts or by the caller.
    """

    first: Part | None
    control: ControlPart | None
    rest: Part | None
    outputs: tuple[str, ...]


def cut_model(source: object, *, free_dimensions: Mapping[str, int] | None = None, free_dimensions_by_denotation: Mapping[str, int] | None = None,
              as_inputs: Collection[str] = (), initializers: Mapping[str, np.ndarray] | None = None,
              input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Cut | None:
    """Cut a model at the first node that cannot be typed (see `compiler.importer.import_model` for the arguments); None if that does not help."""
    importer = model_importer(_inlined(source), free_dimensions=free_dimensions, free_dimensions_by_denotation=free_dimensions_by_denotation,
                              as_inputs=as_inputs, initializers=initializers, input_shapes=input_shapes)
    try:
        importer.build()
    except UnknownRankError:
        return _Cutter(importer).cut()
    return None


def _inlined(source: object) -> object:
    """The model without functions of its own, so that a cut may go through them."""
    import onnx
    from onnx import inliner
    if not read_model(source).functions:
        return source
    if isinstance(source, (str, os.PathLike)):
        return inliner.inline_local_functions(onnx.load(source))
    return inliner.inline_local_functions(source if isinstance(source, onnx.ModelProto) else onnx.ModelProto.FromString(bytes(cast(bytes, source))))


class _Cutter:
    """One cut of one model, at the first node that the importer could not type."""

    def __init__(self, importer: ModelImporter) -> None:
        self.proto, self.scope, self.dims = importer.proto, importer.scope, importer.dims
        self.inputs = {n for n, v in self.scope.names.items() if any(v is i for i in importer.graph.inputs)}
        self.done = importer.nodes.placed
        finished = {id(p) for p in self.done}
        nodes = [p for p in self.proto.graph.node if p.op_type != "Constant" or p.domain not in ("", "ai.onnx")]
        self.left = [p for p in in_order(nodes, self.scope) if id(p) not in finished]
        self.giver = {name: p for p in self.done for name in p.output if name}

    def cut(self) -> Cut | None:
        stopped, following = self.left[0], self.left
        control, results = None, dict[str, Type]()
        if not any(n in self.giver and _is_open(self.type(n)) for n in reads(stopped)):
            if stopped.op_type not in ("If", "Loop") or stopped.domain not in ("", "ai.onnx"):
                return None
            control, following = self.control(stopped), self.left[1:]
            results = dict(zip(stopped.output, control.types))
        outputs = [o.name for o in self.proto.graph.output]
        last = [o for o in outputs if any(o in p.output for p in following)]
        rest = self.part(following, last, results) if last else None
        needed = [*(control.needs() if control is not None else ()), *(rest.inputs if rest is not None else ()), *outputs]
        wanted = [n for n in dict.fromkeys(needed) if n not in self.inputs and n not in results and n not in last]
        return Cut(self.part(self.done, wanted, {}) if wanted else None, control, rest, tuple(outputs))

    def type(self, name: str) -> Type | None:
        v = self.scope.names.get(name)
        return None if v is None else v.type

    # ---- parts
    def part(self, nodes: "Sequence[onnx.NodeProto]", outputs: Sequence[str], results: Mapping[str, Type], own: Mapping[str, Type] | None = None,
             initializers: "Sequence[onnx.TensorProto]" = ()) -> Part:
        """A model of some nodes. What they read from before is a constant, or is computed again if it is about sizes, or is an input.

        Args:
            results: types of what the If or Loop in front of them gives.
            own, initializers: a body's inputs, which come first, and constants.
        """
        import onnx
        model = onnx.ModelProto(ir_version=self.proto.ir_version)
        model.opset_import.extend(self.proto.opset_import)
        model.graph.name = self.proto.graph.name
        inputs: dict[str, Type] = dict(own or {})
        seen = {*inputs, *(o for p in nodes for o in p.output), *(t.name for t in initializers)}
        again: list[onnx.NodeProto] = []
        constants: dict[str, Value] = {}

        def visit(name: str) -> None:
            if name in seen:
                return
            seen.add(name)
            v = self.scope.names.get(name)
            if name in results:
                inputs[name] = results[name]
                return
            if v is None or v.type is None:
                raise UnsupportedError(f"'{name}' has no type")
            if v.constant is not None:
                constants[name] = v
                return
            p = self.giver.get(name)
            if p is None or any(a.HasField("g") for a in p.attribute) or any(self._must_be_given(o) for o in p.output if o):
                inputs[name] = v.type
                return
            for n in reads(p):
                visit(n)
            seen.update(p.output)
            for o in p.output:
                inputs.pop(o, None)
            again.append(p)
        for name in (*(n for p in nodes for n in reads(p)), *outputs):
            visit(name)
        model.graph.node.extend([*again, *nodes])
        model.graph.initializer.extend(initializers)
        for name, v in constants.items():
            export_tensor(model.graph.initializer.add(), cast(np.ndarray, v.constant), name, v.type.dtype if isinstance(v.type, TensorType) else None)
        for name, t in inputs.items():
            export_type(model.graph.input.add(name=name).type, t)
        for name in outputs:
            model.graph.output.add(name=name)
        return Part(model.SerializeToString(), tuple(inputs), tuple(outputs))

    def _must_be_given(self, name: str) -> bool:
        """Whether a value cannot be computed again from what is known when compiling and from elements of small tensors."""
        v = self.scope.names.get(name)
        return v is None or (v.content is None and v.constant is None)

    def control(self, p: "onnx.NodeProto") -> ControlPart:
        """The If or Loop itself, with a model for each body."""
        graphs = {a.name: a.g for a in p.attribute if a.HasField("g")}
        protos = [graphs[k] for k in (("then_branch", "else_branch") if p.op_type == "If" else ("body",))]
        given: list[Type | None] = []
        if p.op_type == "Loop":
            given = [TensorType(dt.int64, ()), TensorType(dt.boolean, ()), *(_any_shape(self.type(n)) for n in p.input[2:])]
        bodies = []
        for g in protos:
            own = {i.name: self._declared(i, t) for i, t in zip(g.input, given)}
            bodies.append(self.part(g.node, [o.name for o in g.output], {}, own, g.initializer))
        skipped = 1 if p.op_type == "Loop" else 0
        types = [self._result(p, k, [g.output[skipped + k] for g in protos], given) for k in range(len(p.output))]
        ranks = tuple(len(t.shape or ()) if isinstance(t, TensorType) else 0 for t in map(self._declared, protos[0].input[:2], given[:2]))
        return ControlPart(p.op_type, tuple(p.input), tuple(p.output), tuple(types), tuple(bodies), ranks)

    def _declared(self, info: "onnx.ValueInfoProto", known: Type | None = None) -> Type:
        """The type that a body declares for an input or output, else what is known of it; sizes of tensors are left open but for the element counts of scalars."""
        declared = import_type(info.type, self.dims, info.name) if info.HasField("type") and not _says_nothing(info) else None
        if isinstance(known, TensorType) and known.shape == () and isinstance(declared, TensorType) and declared.shape is not None and len(declared.shape) == 1:
            return TensorType(known.dtype, (ex.const(1),))
        found = known if known is not None else _any_shape(declared)
        if found is None:
            raise UnsupportedError(f"'{info.name}' has no type")
        return found

    def _result(self, p: "onnx.NodeProto", k: int, infos: "Sequence[onnx.ValueInfoProto]", given: Sequence[Type | None]) -> Type:
        """The type of a result: what the bodies declare, else what goes into a loop for it, else what was inferred inside."""
        for info in infos:
            if info.HasField("type") and not _says_nothing(info):
                return self._declared(info)
        if k + 2 < len(given):
            carried = given[k + 2]
            if carried is not None:
                return carried
        for info in infos:
            v = self.scope.names.get(info.name)
            if v is not None and v.type is not None:
                return cast(Type, _any_shape(v.type))
        raise UnsupportedError(f"output {k} of {p.op_type} has a number of dimensions that only the run knows, and its body does not declare its type", p.name)


def _is_open(t: Type | None) -> bool:
    """Whether a value's rank or sizes say more once it is there."""
    return isinstance(t, TensorType) and (t.shape is None or not all(d.is_const for d in t.shape))


def _any_shape(t: Type | None) -> Type | None:
    return TensorType(t.dtype, None) if isinstance(t, TensorType) else t


def _says_nothing(info: "onnx.ValueInfoProto") -> bool:
    kind = info.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and not info.type.tensor_type.elem_type)


__all__ = ["ControlPart", "Cut", "Part", "cut_model"]
