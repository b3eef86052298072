"""What ONNX itself says about operators: which exist, what a node may look like, and function bodies to expand."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, cast

from ..ir.errors import ModelError
from ..ir.graph import MapType, OptionalType, SequenceType, TensorType, Type
from .importer_tensors import export_type

if TYPE_CHECKING:
    import onnx


class AttributeTypeMember(Protocol):
    """A member of ONNX's enumeration of attribute types, which its stubs leave empty."""

    name: str
    value: int


class DefiningSchema(Protocol):
    """The part of ONNX's OpSchema, absent from its stubs, that defines an operator by others."""

    has_function: bool
    has_context_dependent_function: bool
    function_opset_versions: Sequence[int]
    context_dependent_function_opset_versions: Sequence[int]

    def get_function_with_opset_version(self, version: int, /) -> bytes: ...
    def get_context_dependent_function_with_opset_version(self, version: int, node: bytes, input_types: Sequence[bytes], /) -> bytes: ...


def defining(found: "onnx.defs.OpSchema") -> DefiningSchema:
    """The same schema, seen as what defines the operator."""
    return cast(DefiningSchema, found)


@lru_cache(maxsize=4096)
def schema(domain: str, op: str, opset: int) -> "onnx.defs.OpSchema | None":
    """The operator schema in force at an opset, or None where ONNX does not know the operator."""
    from onnx import defs
    if not 0 < opset < 1 << 31 or not defs.has(op, domain):
        return None
    try:
        return defs.get_schema(op, max_inclusive_version=opset, domain=domain)
    except defs.SchemaError:
        return None


@lru_cache(maxsize=64)
def newest_opset(domain: str) -> int | None:
    """The newest opset of a domain that ONNX has operators of, or None for a domain that it does not know."""
    from onnx import defs
    if domain == "":
        return defs.onnx_opset_version()
    return max((s.since_version for s in defs.get_all_schemas_with_history() if s.domain == domain), default=None)


def check_node(found: "onnx.defs.OpSchema", attributes: Mapping[str, "onnx.AttributeProto"], inputs: int, outputs: int, label: str) -> None:
    """Numbers of inputs and outputs, names and types of attributes.

    Raises:
        ModelError: the node is not one of this operator.
    """
    name = f"{found.name}-{found.since_version}"
    if not found.min_input <= inputs <= found.max_input:
        raise ModelError(f"{name} takes {_range(found.min_input, found.max_input)} inputs, {inputs} are given", label)
    if not found.min_output <= outputs <= found.max_output:
        raise ModelError(f"{name} has {_range(found.min_output, found.max_output)} outputs, {outputs} are given", label)
    for key, value in attributes.items():
        declared = found.attributes.get(key)
        if declared is None:
            if not key.startswith("__"):
                raise ModelError(f"{name} has no attribute '{key}'", label)
        elif value.type and (expected := cast(AttributeTypeMember, declared.type)).value and value.type != expected.value:
            raise ModelError(f"attribute '{key}' of {name} is of type {_attribute_type(value.type)}, {expected.name} is expected", label)
    for key, declared in found.attributes.items():
        if declared.required and key not in attributes:
            raise ModelError(f"attribute '{key}' of {name} is missing", label)


def check_types(found: "onnx.defs.OpSchema", types: Sequence[Type | None], label: str) -> None:
    """Element types of the inputs, as far as they are known.

    Raises:
        ModelError: a type that the operator does not take, or two types where one is expected.
    """
    formal = found.inputs
    if not formal:
        return
    bound: dict[str, str] = {}
    for k, t in enumerate(types):
        parameter = formal[min(k, len(formal) - 1)]
        if t is None:
            continue
        spelled = spell(t)
        if parameter.types and spelled not in parameter.types:
            raise ModelError(f"input {k} of {found.name}-{found.since_version} is {spelled}, which it does not take", label,
                             f"it takes {', '.join(sorted(parameter.types)[:12])}")
        if parameter.is_homogeneous and bound.setdefault(parameter.type_str, spelled) != spelled:
            raise ModelError(f"input {k} of {found.name}-{found.since_version} is {spelled}, but an earlier input, which must be of the same type, is "
                             f"{bound[parameter.type_str]}", label)


def spell(type: Type) -> str:
    """A type in ONNX's spelling, as `tensor(float)`, `seq(tensor(int64))`."""
    if isinstance(type, TensorType):
        return f"tensor({type.dtype.name})"
    if isinstance(type, SequenceType):
        return f"seq({spell(type.element)})"
    if isinstance(type, OptionalType):
        return f"optional({spell(type.element)})"
    assert isinstance(type, MapType)
    return f"map({type.key.name},{spell(type.value)})"


def function_body(found: "onnx.defs.OpSchema", opset: int, node: "onnx.NodeProto", types: Sequence[Type | None]) -> "onnx.FunctionProto | None":
    """The body of an operator that ONNX defines by others, for this node; None where there is none or an input's type is missing.

    Args:
        node: the operator's node, without references to a surrounding function's attributes.
        types: of its inputs.
    """
    import onnx
    defined = defining(found)
    if defined.has_function:
        version = _pick(defined.function_opset_versions, opset)
        return onnx.FunctionProto.FromString(defined.get_function_with_opset_version(version))
    if defined.has_context_dependent_function:
        version = _pick(defined.context_dependent_function_opset_versions, opset)
        protos = []
        for name, t in zip(node.input, types, strict=True):
            if t is None and name:
                return None
            proto = onnx.TypeProto()
            protos.append((proto if t is None else export_type(proto, t)).SerializeToString())
        try:
            body = defined.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), protos)
        except (RuntimeError, ValueError):  # how its builders decline
            return None
        return onnx.FunctionProto.FromString(body) if body else None
    return None


def _pick(versions: Sequence[int], opset: int) -> int:
    return max((v for v in versions if v <= opset), default=min(versions))


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"at least {low}" if high >= 1 << 30 else f"{low} to {high}"


def _attribute_type(code: int) -> str:
    import onnx
    return onnx.AttributeProto.AttributeType.Name(code) if code in onnx.AttributeProto.AttributeType.values() else str(code)
