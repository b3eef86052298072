"""Nodes of a model to nodes of a Graph: name scopes, order, attributes, bodies of control flow, functions expanded in place."""
from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..ir import dtypes as dt
from ..ir.errors import ModelError
from ..ir.expr import const
from ..ir.graph import Attribute, Graph, SequenceType, TensorType, Type, TypeValue, Value
from ..ir.infer import infer
from ..ir.ops.base import all_ops, find, since_version
from .external_data import ExternalData
from .gradient import TRAINING_DOMAIN, gradient_of
from .importer_schema import check_node, check_types, defining, function_body, newest_opset, schema
from .importer_tensors import DimReader, import_type, sparse_array, tensor_array, text

if TYPE_CHECKING:
    import onnx

SUBGRAPH_DEPTH = 32  # bodies of control flow in each other
FUNCTION_DEPTH = 48  # functions that call functions
MAX_NODES = 500_000  # after functions are expanded

# AttributeProto.AttributeType -> field that holds the value
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs", 11: "sparse_tensor", 12: "sparse_tensors",
           13: "tp", 14: "type_protos"}
_SCALARS = frozenset((1, 2, 3))


@dataclass
class Scope:
    """Where names mean something: a graph, the body of a function, or the body of control flow inside one of them.

    Args:
        opsets: version of each imported domain.
        parent: the scope whose names are visible as well (None at the outside of a graph or function).
        prefix: put before names of values and nodes that a function brings in.
        origin: the user's node that a function's nodes stand for.
        arguments: attributes given to the enclosing function with the scope that they were written in; None outside of functions.
        preset: values that stand ready for certain outputs.
        constants: names of Constant nodes and initialisers.
        depth: functions entered so far.
    """

    opsets: Mapping[str, int]
    parent: "Scope | None" = None
    prefix: str = ""
    origin: tuple[str, ...] = ()
    arguments: "Mapping[str, tuple[onnx.AttributeProto, Scope]] | None" = None
    preset: dict[str, Value] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    names: dict[str, Value | None] = field(default_factory=dict)
    depth: int = 0
    calls: tuple[tuple[str, str, str], ...] = ()

    def find(self, name: str, what: str) -> Value | None:
        """The value of a name; None for an absent optional argument of a function."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        raise ModelError(f"'{name}' is not defined: no input, initialiser or node gives it", what)

    def define(self, name: str, value: Value | None) -> None:
        if name in self.names:
            raise ModelError(f"'{name}' is defined more than once")
        self.names[name] = value


class NodeImporter:
    """Builds the nodes of one model.

    Args:
        functions: the model's own, by domain, name and overload.
        external: where tensor data outside the model are found.
        dims: reads declared dimensions.
    """

    def __init__(self, functions: "Mapping[tuple[str, str, str], onnx.FunctionProto]", external: ExternalData, dims: DimReader) -> None:
        self.functions, self.external, self.dims = functions, external, dims
        self.missing: dict[str, list[str]] = {}  # operator(version) -> the user's nodes
        self.remarks: list[str] = []
        self.placed: list[onnx.NodeProto] = []  # nodes of the model's own graph that were typed
        self.count = 0

    # ---- nodes
    def nodes(self, graph: Graph, scope: Scope, protos: "Sequence[onnx.NodeProto]") -> None:
        """Append nodes to a graph in an order in which each reads what earlier ones give; their outputs become names of the scope.

        Raises:
            ModelError: undefined or repeated names, a cycle, or a node that does not fit its operator.
        """
        others = []
        for p in protos:
            what = _label(p)
            outputs = _trimmed(_names(p.output, what))
            if not outputs:
                self.remarks.append(f"node '{what}' has no outputs; it is left out")
                continue
            constant = p.op_type == "Constant" and p.domain in ("", "ai.onnx")
            for name in outputs:
                if not name:
                    continue
                if name in scope.names and not (constant and name in scope.constants):
                    raise ModelError(f"'{name}' is defined more than once", what)
                if name not in scope.names:
                    scope.names[name] = scope.preset.get(name) or graph.value(scope.prefix + name)
                else:
                    self.remarks.append(f"constant '{name}' is defined more than once; the last one counts")
            if constant:
                scope.constants.update(outputs)
                self._constant(scope.names[outputs[0]], self._arguments(p, scope, what), what)
            else:
                others.append(p)
        for p in in_order(others, scope):
            self._node(graph, scope, p)
            if graph.parent is None and not scope.calls:
                self.placed.append(p)

    def _node(self, graph: Graph, scope: Scope, p: "onnx.NodeProto") -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise ModelError(f"the model has more than {MAX_NODES} nodes once its functions are expanded")
        what = _label(p)
        op, domain = text(p.op_type, what), _domain(text(p.domain, what))
        given = _trimmed(_names(p.input, what))
        inputs = [scope.find(name, what) if name else None for name in given]
        while inputs and inputs[-1] is None:
            inputs.pop()
        wanted = _trimmed(_names(p.output, what))
        attributes = self._arguments(p, scope, what)
        key = (domain, op, text(p.overload, what))
        own = self.functions.get(key)
        if own is not None:
            return self._call(graph, scope, p, own, key, inputs, wanted, attributes)
        # A domain that is not imported counts as imported in its newest version, as in ONNX Runtime.
        opset = scope.opsets.get(domain) or newest_opset(domain) or newest_definition(domain) or 1
        known = schema(domain, op, opset)
        if known is not None:
            check_node(known, {k: a for k, (a, _) in attributes.items()}, len(inputs), len(wanted), what)
            check_types(known, [None if v is None else v.type for v in inputs], what)
        if (domain, op) == (TRAINING_DOMAIN, "Gradient") and not self.missing:
            return self._gradient(graph, scope, what, inputs, wanted, attributes)
        definition = find(domain, op)
        version = since_version(definition, opset) if definition is not None else None
        if definition is None or version is None:
            if definition is None and known is not None and self._expand(graph, scope, p, known, opset, inputs, wanted, attributes):
                return None
            origin = scope.origin or (what,)
            spelled = f"{domain + '::' if domain else ''}{op}({known.since_version if known is not None else opset})"
            self.missing.setdefault(spelled, []).extend(o for o in origin if o not in self.missing.get(spelled, ()))
            return None
        outputs = [scope.names[name] if name else None for name in wanted]
        converted = self._attributes(graph, op, inputs, attributes, what)
        node = graph.add(op, inputs, converted, outputs=outputs, domain=domain, version=version, name=scope.prefix + text(p.name, what),
                         origin=scope.origin or (what,))
        if self.missing:
            return None  # its inputs' types may be missing as well
        if graph.parent is None:
            infer(node)
        else:  # the ranks of a body's values may follow only from the operator that owns it, whose inference comes back here
            with contextlib.suppress(ModelError):
                infer(node)
        return None

    def _gradient(self, graph: Graph, scope: Scope, what: str, inputs: Sequence[Value | None], wanted: Sequence[str],
                  attributes: "Mapping[str, tuple[onnx.AttributeProto, Scope]]") -> None:
        """Exchange a Gradient, whose attributes name values of its scope, for the nodes that compute it."""
        def named(key: str) -> list[Value]:
            if key not in attributes:
                return []
            a, written = attributes[key]
            found = [written.find(text(s, what), what) for s in ([a.s] if key == "y" else a.strings)]
            return [v for v in found if v is not None]
        y, = named("y")  # the schema demands the attribute
        results = gradient_of(graph, what, y, named("xs"), named("zs"), inputs)
        if len(wanted) > len(results):
            raise ModelError(f"Gradient has {len(wanted)} outputs for {len(results)} tensors in xs", what)
        for name, value in zip(wanted, results, strict=False):
            if name:
                scope.names[name] = value

    def _constant(self, value: Value, attributes: "Mapping[str, tuple[onnx.AttributeProto, Scope]]", what: str) -> None:
        if len(attributes) != 1:
            raise ModelError(f"a Constant has exactly one attribute, {len(attributes)} are given", what)
        (key, (a, _)), = attributes.items()
        if key == "value":
            array = tensor_array(self._present(a, "t", what), self.external, f"the value of constant '{value.name}'")
        elif key == "sparse_value":
            array = sparse_array(self._present(a, "sparse_tensor", what), self.external, f"the value of constant '{value.name}'")
        elif key in ("value_float", "value_floats"):
            array = np.array(a.f if key == "value_float" else list(a.floats), np.float32)
        elif key in ("value_int", "value_ints"):
            array = np.array(a.i if key == "value_int" else list(a.ints), np.int64)
        elif key in ("value_string", "value_strings"):
            strings = [text(s, f"the value of constant '{value.name}'") for s in ([a.s] if key == "value_string" else a.strings)]
            array = np.empty(len(strings), object)
            array[:] = strings
            array = array.reshape(()) if key == "value_string" else array
        else:
            raise ModelError(f"a Constant has no attribute '{key}'", what)
        set_constant(value, array)

    # ---- attributes
    def _arguments(self, p: "onnx.NodeProto", scope: Scope, what: str) -> "dict[str, tuple[onnx.AttributeProto, Scope]]":
        """The node's attributes with the scopes they were written in; references to attributes of the enclosing function are followed."""
        out: dict[str, tuple[onnx.AttributeProto, Scope]] = {}
        for a in p.attribute:
            name = text(a.name, what)
            if not name or name in out:
                raise ModelError(f"attribute '{name}' is given more than once" if name else "an attribute has no name", what)
            if not a.ref_attr_name:
                out[name] = (a, scope)
                continue
            if scope.arguments is None:
                raise ModelError(f"attribute '{name}' refers to attribute '{a.ref_attr_name}' of a function, but is not inside one", what)
            found = scope.arguments.get(text(a.ref_attr_name, what))
            if found is not None:
                out[name] = found
        return out

    def _attributes(self, graph: Graph, op: str, inputs: Sequence[Value | None], arguments: "Mapping[str, tuple[onnx.AttributeProto, Scope]]",
                    what: str) -> dict[str, Attribute]:
        out: dict[str, Attribute] = {}
        later = []
        for name, (a, written) in arguments.items():
            if (a.type or _guess_type(a)) in (5, 10):
                later.append((name, a, written))
            else:
                out[name] = self._attribute(graph, a, written, name, what, ())
        for name, a, written in later:
            out[name] = self._attribute(graph, a, written, name, what, body_types(op, inputs, out))
        return out

    def _attribute(self, graph: Graph, a: "onnx.AttributeProto", scope: Scope, name: str, what: str, hints: Sequence[Type | None]) -> Attribute:
        kind = a.type or _guess_type(a)
        key = _FIELDS.get(kind)
        where = f"attribute '{name}' of {what}"
        if key is None:
            raise ModelError(f"attribute '{name}' has unknown type {kind}", what)
        if kind in _SCALARS and not a.HasField(key) and _guess_type(a):
            raise ModelError(f"attribute '{name}' says it has a value in field '{key}', but the value is in '{_FIELDS[_guess_type(a)]}'", what)
        if key in ("f", "i"):
            return getattr(a, key)
        if key == "s":
            return _string(a.s)
        if key == "strings":
            return tuple(_string(s) for s in a.strings)
        if key in ("floats", "ints"):
            return tuple(getattr(a, key))
        if key == "t":
            return tensor_array(self._present(a, key, what), self.external, where)
        if key == "tensors":
            return tuple(tensor_array(t, self.external, where) for t in a.tensors)
        if key == "sparse_tensor":
            return sparse_array(self._present(a, key, what), self.external, where)
        if key == "sparse_tensors":
            return tuple(sparse_array(t, self.external, where) for t in a.sparse_tensors)
        if key == "g":
            return self.subgraph(graph, scope, self._present(a, key, what), where, hints)
        if key == "graphs":
            return tuple(self.subgraph(graph, scope, g, where, ()) for g in a.graphs)
        types = [self._present(a, key, what)] if key == "tp" else a.type_protos
        read = []
        for t in types:
            converted = import_type(t, self.dims, where)
            if converted is None:
                raise ModelError(f"attribute '{name}' is an empty type", what)
            read.append(TypeValue(converted))
        return read[0] if key == "tp" else tuple(read)

    @staticmethod
    def _present(a: "onnx.AttributeProto", key: str, what: str):
        if not a.HasField(key):
            raise ModelError(f"attribute '{text(a.name, what)}' has no value in field '{key}', which its type says", what)
        return getattr(a, key)

    # ---- bodies
    def subgraph(self, graph: Graph, scope: Scope, proto: "onnx.GraphProto", what: str, hints: Sequence[Type | None]) -> Graph:
        """The body of a control-flow operator; names of enclosing scopes are visible in it.

        Args:
            hints: types of its inputs as far as the operator's own inputs tell them.
        """
        if _depth(graph) >= SUBGRAPH_DEPTH:
            raise ModelError(f"graphs are nested more than {SUBGRAPH_DEPTH} deep", what)
        body = Graph(text(proto.name, what), graph)
        inner = Scope(scope.opsets, scope, scope.prefix, scope.origin, scope.arguments, depth=scope.depth, calls=scope.calls)
        for k, i in enumerate(proto.input):
            name = text(i.name, what)
            declared = import_type(i.type, self.dims, name) if i.HasField("type") else None
            v = body.input(scope.prefix + name, _merged(declared, hints[k] if k < len(hints) else None, name, what))
            inner.define(name, v)
        self.initializers(body, inner, proto, {})
        self.nodes(body, inner, proto.node)
        for o in proto.output:
            name = text(o.name, what)
            found = inner.find(name, what)
            if found is None:
                raise ModelError(f"output '{name}' of {what} is an absent argument", what)
            body.outputs.append(found)
        return body

    def initializers(self, graph: Graph, scope: Scope, proto: "onnx.GraphProto", raw: Mapping[int, memoryview]) -> None:
        """Constants of a graph become names of the scope; `raw` has data that were left out of the message, by position."""
        for k, t in enumerate(proto.initializer):
            name = text(t.name, "the name of an initialiser")
            array = tensor_array(t, self.external, f"initialiser '{name}'", raw.get(k))
            self._initializer(graph, scope, name, array)
        for s in proto.sparse_initializer:
            name = text(s.values.name, "the name of a sparse initialiser")
            self._initializer(graph, scope, name, sparse_array(s, self.external))

    @staticmethod
    def _initializer(graph: Graph, scope: Scope, name: str, array: np.ndarray) -> None:
        if not name:
            raise ModelError("an initialiser has no name")
        scope.define(name, None)
        scope.constants.add(name)
        scope.names[name] = v = graph.value(scope.prefix + name)
        set_constant(v, array)

    # ---- functions
    def _call(self, graph: Graph, scope: Scope, p: "onnx.NodeProto", f: "onnx.FunctionProto", key: tuple[str, str, str], inputs: Sequence[Value | None],
              wanted: Sequence[str], attributes: "Mapping[str, tuple[onnx.AttributeProto, Scope]]") -> None:
        """Expand a function in place of a node."""
        what = _label(p)
        if key in scope.calls:
            raise ModelError(f"function {key[0]}::{key[1]} calls itself", what)
        if scope.depth >= FUNCTION_DEPTH:
            raise ModelError(f"functions call each other more than {FUNCTION_DEPTH} deep", what)
        formal_in, formal_out = _names(f.input, what), _names(f.output, what)
        if len(inputs) > len(formal_in) or len(wanted) > len(formal_out):
            raise ModelError(f"function {key[0]}::{key[1]} has {len(formal_in)} inputs and {len(formal_out)} outputs, "
                             f"{len(inputs)} and {len(wanted)} are given", what)
        arguments = dict(attributes)
        for a in f.attribute_proto:
            arguments.setdefault(text(a.name, what), (a, scope))
        opsets = dict(scope.opsets) | read_opsets(f.opset_import, f"function {key[0]}::{key[1]}")
        inner = Scope(opsets, None, f"{scope.prefix}{text(p.name, what) or key[1]}/", scope.origin or (what,), arguments, depth=scope.depth + 1,
                      calls=(*scope.calls, key))
        for k, name in enumerate(formal_in):
            inner.define(name, inputs[k] if k < len(inputs) else None)
        for name, outer in zip(formal_out, wanted, strict=False):
            if outer:
                inner.preset[name] = scope.names[outer]
        self.nodes(graph, inner, f.node)
        for name, outer in zip(formal_out, wanted, strict=False):
            if outer:
                scope.names[outer] = inner.find(name, what)

    def _expand(self, graph: Graph, scope: Scope, p: "onnx.NodeProto", known: "onnx.defs.OpSchema", opset: int, inputs: Sequence[Value | None],
                wanted: Sequence[str], attributes: "Mapping[str, tuple[onnx.AttributeProto, Scope]]") -> bool:
        """Expand an operator that ONNX defines by others; False where it does not."""
        defined = defining(known)
        if not (defined.has_function or defined.has_context_dependent_function) or self.missing or any(a.type in (5, 10) for a, _ in attributes.values()):
            return False
        import onnx
        node = onnx.NodeProto(op_type=p.op_type, domain=p.domain, name=p.name)
        node.input.extend("" if v is None else f"input_{k}" for k, v in enumerate(inputs))
        node.output.extend(wanted)
        for key, (a, _) in attributes.items():
            copy = node.attribute.add()
            copy.CopyFrom(a)
            copy.name = key
        body = function_body(known, opset, node, [None if v is None else v.type for v in inputs])
        if body is None:
            return False
        # the operator's defaults are attributes like any other; its own name is not a call of itself
        arguments = {k: (d.default_value, scope) for k, d in known.attributes.items() if d.default_value.type}
        self._call(graph, scope, p, body, (known.domain, known.name, "expanded"), inputs, wanted, arguments | dict(attributes))
        return True


def set_constant(value: Value, array: np.ndarray) -> None:
    """Make a value a constant."""
    value.constant = array
    value.type = TensorType(dt.of_numpy(array.dtype), tuple(const(d) for d in array.shape))


def read_opsets(imports: "Iterable[onnx.OperatorSetIdProto]", what: str) -> dict[str, int]:
    """Imported domains and their versions.

    Raises:
        ModelError: a version is not positive.
    """
    out: dict[str, int] = {}
    for i in imports:
        domain = _domain(text(i.domain, what))
        if i.version < 1:
            raise ModelError(f"{what} imports version {i.version} of opset '{domain or 'ai.onnx'}'")
        out[domain] = i.version  # of several the last one counts, as in ONNX Runtime
    return out


def newest_definition(domain: str) -> int | None:
    """The newest version of any operator of a domain, or None for a domain without operators."""
    return max((o.versions[-1] for o in all_ops() if o.domain == domain), default=None)


def unsupported_opset(opsets: Mapping[str, int]) -> str | None:
    """What is too new in `opsets`, or None."""
    for domain, version in opsets.items():
        newest = newest_opset(domain)
        if newest is not None and version > newest:
            return f"version {version} of opset '{domain or 'ai.onnx'}' is newer than {newest}, the newest that is known"
    return None


def body_types(op: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute]) -> list[Type | None]:
    """What the inputs of a control-flow operator tell about its body's inputs: element types, and shapes that cannot change between iterations."""
    types = [None if v is None else v.type for v in inputs]
    if op == "Loop":
        return [TensorType(dt.int64, None), TensorType(dt.boolean, None), *(_any_shape(t) for t in types[2:])]
    if op == "Scan":
        count = attributes.get("num_scan_inputs")
        if isinstance(count, int) and 0 < count <= len(types):
            return [_any_shape(t) for t in types]
    if op == "SequenceMap":
        return [t.element if isinstance(t, SequenceType) else t for t in types]
    return []


def _any_shape(type: Type | None) -> Type | None:
    return TensorType(type.dtype, None) if isinstance(type, TensorType) else type


def _merged(declared: Type | None, hint: Type | None, name: str, what: str) -> Type | None:
    """A body input's type from what is declared and what is known."""
    if declared is None or hint is None:
        return hint if declared is None else declared
    if isinstance(declared, TensorType) and isinstance(hint, TensorType):
        if declared.dtype is not hint.dtype:
            raise ModelError(f"input '{name}' of {what} is declared {declared.dtype.name}, {hint.dtype.name} comes in")
        return declared if hint.shape is None else hint
    if type(declared) is not type(hint):
        raise ModelError(f"input '{name}' of {what} is declared {declared}, {hint} comes in")
    return hint


# ---- names and order
def _names(items: Iterable[str | bytes], what: str) -> list[str]:
    return [text(s, f"a name in {what}") for s in items]


def _trimmed(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names.pop()
    return names


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _label(p: "onnx.NodeProto") -> str:
    """The user's name for a node: its own, else its first output's."""
    name = text(p.name, "the name of a node")
    return name or next((text(o, "a name") for o in p.output if o), "") or text(p.op_type, "an operator's name")


def _string(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _guess_type(a: "onnx.AttributeProto") -> int:
    """The type of an attribute by the field that is set, 0 where none or several are: the first IR version did not write types."""
    found = [kind for kind, key in _FIELDS.items() if (a.HasField(key) if key in ("f", "i", "s", "t", "g", "sparse_tensor", "tp") else len(getattr(a, key)))]
    return found[0] if len(found) == 1 else 0


def _depth(graph: Graph) -> int:
    depth = 0
    while graph.parent is not None:
        graph, depth = graph.parent, depth + 1
    return depth


def reads(p: "onnx.NodeProto", depth: int = 0) -> Iterator[str]:
    """Names that a node needs from its scope: inputs, and what its bodies use without defining it."""
    for name in p.input:
        if name:
            yield text(name, "a name")
    if p.op_type == "Gradient" and p.domain == TRAINING_DOMAIN:  # its attributes name values as well
        for a in p.attribute:
            yield from (text(s, "a name") for s in ([a.s] if a.name == "y" else a.strings))
    for a in p.attribute:
        for g in ([a.g] if a.HasField("g") else []) + list(a.graphs):
            if depth > SUBGRAPH_DEPTH:
                raise ModelError(f"graphs are nested more than {SUBGRAPH_DEPTH} deep", _label(p))
            own = {i.name for i in g.input} | {i.name for i in g.initializer} | {s.values.name for s in g.sparse_initializer}
            own.update(o for n in g.node for o in n.output)
            for n in g.node:
                yield from (name for name in reads(n, depth + 1) if name not in own)
            yield from (text(o.name, "a name") for o in g.output if o.name not in own)


def in_order(protos: "Sequence[onnx.NodeProto]", scope: Scope) -> "list[onnx.NodeProto]":
    """The nodes, each after what it reads; as given where that holds already.

    Raises:
        ModelError: some nodes depend on themselves.
    """
    giver = {name: k for k, p in enumerate(protos) for name in p.output if name}
    needs = [{giver[name] for name in reads(p) if name in giver} for p in protos]
    if all(n < k for k, needed in enumerate(needs) for n in needed):
        return list(protos)
    users: list[list[int]] = [[] for _ in protos]
    for k, needed in enumerate(needs):
        for n in needed:
            users[n].append(k)
    waiting = [len(needed) for needed in needs]
    ready = [k for k, w in enumerate(waiting) if not w]
    order = []
    while ready:
        k = heapq.heappop(ready)
        order.append(k)
        for u in users[k]:
            waiting[u] -= 1
            if not waiting[u]:
                heapq.heappush(ready, u)
    if len(order) < len(protos):
        stuck = [_label(protos[k]) for k, w in enumerate(waiting) if w]
        raise ModelError(f"nodes depend on themselves: {', '.join(stuck[:8])}{', ...' if len(stuck) > 8 else ''}")
    return [protos[k] for k in order]
