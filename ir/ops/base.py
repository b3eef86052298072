"""Operator definitions: the one place where an operator lives.

An operator is a subclass of `Op` registered with `@register`. It says its domain, name, since-versions and attribute defaults, how older versions differ,
and exactly one of

    lower(n)       loop nests, through `n.map`, `n.contract`, `n.routine`; works for numeric tensors. Types and shapes follow from it.
    decompose(b)   other operators, through the graph builder `b`
    host(n)        a Python callback, for values without numbers in them

and, where they exist, `gradient` and `samples`. `n` is a `Lowering`: the node as its definition sees it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from .. import registrations
from ..dtypes import DType
from ..errors import ModelError, UnknownRankError, UnsupportedError
from ..expr import Expr, ExprLike, Tensor
from ..graph import Attribute, Graph, Node, TensorType, Type, Value
from ..loops import Check, ContractionNest, HostNest, HostRef, MapNest, Nest, Ref, Routine, RoutineNest, Store
from ..sizes import whole

REQUIRED = object()  # default of an attribute that must be given


@dataclass(frozen=True)
class Sample:
    """A case from which the harness makes tests: attribute values and inputs (arrays; None where absent)."""

    inputs: tuple[np.ndarray | np.generic | None, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    outputs: int = 1
    version: int | None = None
    name: str = ""


class Op:
    """Base of all operator definitions; see the module's docstring."""

    domain: ClassVar[str] = ""
    name: ClassVar[str]
    versions: ClassVar[tuple[int, ...]]
    attributes: ClassVar[Mapping[str, Attribute]] = {}
    tolerance: ClassVar[float] = 1e-5  # relative error of float32 results that the arithmetic allows

    def lower(self, n: "Lowering") -> "Ref | Sequence[Ref | None]":
        """Nests that compute the outputs; returns the output tensors in order (None for outputs that are not wanted)."""
        raise NotImplementedError

    def decompose(self, b: "Builder") -> "Value | Sequence[Value | None]":
        """The same computation as other operators; returns the output values."""
        raise NotImplementedError

    def infer(self, n: "Lowering") -> Sequence[Type | None]:
        """Output types, where neither `lower` nor `decompose` gives them (sequences, control flow)."""
        raise NotImplementedError

    def gradient(self, b: "Builder", upstream: Sequence[Value | None]) -> Sequence[Value | None]:
        """Gradients for each input, None where there is none."""
        raise UnsupportedError(f"{self.name} has no gradient")

    def samples(self) -> Iterator[Sample]:
        """Cases for the test harness."""
        return iter(())

    @classmethod
    def kind(cls) -> str:
        """`lower`, `decompose` or `host`: how it runs."""
        if cls.lower is not Op.lower:
            return "lower"
        return "decompose" if cls.decompose is not Op.decompose else "host"


_REGISTRY: dict[tuple[str, str], Op] = {}


def register(cls: type[Op]) -> type[Op]:
    """Make an operator known."""
    key = (cls.domain, cls.name)
    assert key not in _REGISTRY, f"{key} is defined twice"
    _REGISTRY[key] = cls()
    return cls


def find(domain: str, name: str) -> Op | None:
    """The definition of an operator, or None: one of this package, else one that the program registered."""
    found = built_in(domain, name)
    if found is None:
        custom = registrations.current().get(("" if domain == "ai.onnx" else domain, name))
        found = custom if isinstance(custom, Op) else None
    return found


def built_in(domain: str, name: str) -> Op | None:
    """This package's own definition of an operator, or None."""
    _load()
    return _REGISTRY.get(("" if domain == "ai.onnx" else domain, name))


def all_ops() -> list[Op]:
    _load()
    return sorted(_REGISTRY.values(), key=lambda o: (o.domain, o.name))


_loaded = False


def _load() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        import importlib
        import pkgutil

        package = __name__.rpartition(".")[0]
        for m in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{m.name}")


def since_version(op: Op, opset: int) -> int | None:
    """The version of `op` in force at `opset`, or None where it did not exist yet."""
    return max((v for v in op.versions if v <= opset), default=None)


class NodeView:
    """What both lowering and decomposition see of a node."""

    def __init__(self, node: Node, op: Op) -> None:
        self.node, self.op, self.version = node, op, node.version
        self.checks: list[Check] = []

    def attr(self, name: str, default: Attribute = None) -> Attribute:
        """An attribute: as written, else the definition's default, else `default`. Strings come as `str`, lists as tuples, defaults as the float32 that a file would hold."""
        if name in self.node.attributes:
            return self.node.attributes[name]
        found = self.op.attributes.get(name, default)
        if found is REQUIRED:
            raise self.error(f"attribute '{name}' of {self.op.name} is missing")
        return float(np.float32(found)) if isinstance(found, float) else found

    def require(self, condition: Expr, reason: str) -> None:
        """Demand something of sizes: an error now where it is certainly wrong, a check when running where only the run can tell."""
        if condition.is_const:
            if not condition.value:
                raise self.error(reason)
        elif all(c.condition is not condition for c in self.checks):
            self.checks.append(Check(condition, f"node {self.label}: {reason}"))

    def error(self, reason: str, hint: str | None = None) -> ModelError:
        """An error about this node; raise it."""
        return ModelError(reason, self.label, hint)

    def unsupported(self, reason: str) -> UnsupportedError:
        return UnsupportedError(reason, self.label)

    @property
    def label(self) -> str:
        names = ", ".join(self.node.origin) or self.node.name
        return f"'{names}' ({self.node.qualified})"


class Lowering(NodeView):
    """A node while it is lowered: inputs as tensors, and the means to make nests."""

    def __init__(self, node: Node, op: Op, refs: Mapping[Value, Ref], names: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(node, op)
        self._values = node.inputs
        self._names = names  # what tensors in inferred contents stand for, by name; None while inferring
        self.inputs: list[Ref | None] = [None if v is None else refs[v] for v in node.inputs]
        self.nests: list[Nest] = []
        self.constants: dict[Tensor, np.ndarray] = {}

    # ---- inputs
    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def input(self, index: int) -> Tensor:
        """Input `index` as a tensor; an error names the node if it is absent or no tensor of known rank."""
        if not self.has(index):
            raise self.error(f"input {index} of {self.op.name} is missing")
        found = self.inputs[index]
        if not isinstance(found, Tensor):
            raise UnknownRankError(f"input {index} of {self.op.name} is {self._values[index].type}, a tensor of known rank was expected", self.label)
        return found

    def optional(self, index: int) -> Tensor | None:
        return self.input(index) if self.has(index) else None

    def wants(self, index: int) -> bool:
        """Whether output `index` is used."""
        return index < len(self.node.outputs) and self.node.outputs[index] is not None

    def known(self, index: int) -> np.ndarray | None:
        """The elements of input `index` if they are known when compiling."""
        return self._values[index].constant if self.has(index) else None

    def content(self, index: int) -> tuple[Expr, ...] | None:
        """The elements of input `index` if they are sizes or follow from sizes."""
        return self._values[index].content if self.has(index) else None

    def elements(self, index: int, count: int | None = None) -> tuple[Expr, ...]:
        """The elements of an integer vector (or scalar) input, as expressions: constants, symbolic sizes, or loads where only the run knows.

        Args:
            count: how many there must be, if other inputs tell. Where only the run knows that it is another number, they are zeros.
        """
        v, t = self._values[index], self.input(index)
        if v.constant is not None:
            return tuple(ex.const(x, t.dtype if t.dtype is not dt.boolean else dt.boolean) for x in v.constant.reshape(-1).tolist())
        if v.content is not None:
            return v.content if self._names is None else rename_loads(v.content, self._names)
        length = ex.integer.as_int(t.numel())
        if length is None and count is not None:
            self.require(ex.equal(t.numel(), count), f"input {index} has {t.numel().text} elements, {count} were expected")
        count = count if length is None else length
        if count is None:
            raise UnknownRankError(f"the length of input {index} ('{v.name}') of {self.op.name} is only known when running", self.label)
        found = tuple(t[ex.unravel(ex.const(k), t.shape)] for k in range(count))
        return found if length is not None else tuple(ex.where(ex.equal(t.numel(), count), e, ex.const(0, e.dtype)) for e in found)

    def ints(self, index: int, count: int | None = None) -> tuple[Expr, ...]:
        """`elements` as int64 expressions."""
        return tuple(whole(ex.cast(e, dt.int64)) for e in self.elements(index, count))

    def number(self, index: int) -> Expr:
        """The only element of an integer input as int64, whatever its shape is declared to be."""
        t = self.input(index)
        if self.known(index) is not None:
            return self.ints(index)[0]
        return whole(ex.cast(t[(ex.const(0),) * t.rank], dt.int64))

    def static_ints(self, index: int) -> list[int] | None:
        """`ints` if all of them are known when compiling."""
        if not self.has(index):
            return None
        found = [ex.integer.as_int(e) for e in self.ints(index)]
        return None if any(f is None for f in found) else found

    # ---- computation
    def tensor(self, shape: Sequence[ExprLike], dtype: DType, stem: str = "") -> Tensor:
        """A new tensor, to be written by one of this node's nests."""
        return Tensor(f"{self.node.name}.{stem or 't'}{len(self.nests)}", dtype, sizes(shape))

    def map(self, shape: Sequence[ExprLike], value: Callable[..., Expr], dtype: DType | None = None, stem: str = "") -> Tensor:
        """out[i...] = value(i...), element by element. `value` gets one index expression per dimension."""
        shape = sizes(shape)
        axes = tuple(ex.axis(d) for d in shape)
        body = value(*axes)
        out = self.tensor(shape, dtype or body.dtype, stem)
        if body.dtype is not out.dtype:
            body = ex.cast(body, out.dtype)
        self.nests.append(MapNest(axes, (Store(out, axes, body),), self.origin))
        return out

    def reduce(self, kind: str, extents: Sequence[ExprLike], body: Callable[..., Expr]) -> Expr:
        """A reduction to be used inside the value of `map`: `body` gets one index per reduced extent."""
        axes = tuple(ex.axis(d, "r") for d in extents)
        return ex.reduce(kind, axes, body(*axes))

    def contract(self, batch: Sequence[ExprLike], rows: Sequence[ExprLike], columns: Sequence[ExprLike], reduced: Sequence[ExprLike],
                 a: Callable[[tuple[Expr, ...], tuple[Expr, ...], tuple[Expr, ...]], Expr],
                 b: Callable[[tuple[Expr, ...], tuple[Expr, ...], tuple[Expr, ...]], Expr],
                 shape: Sequence[ExprLike], store: Callable[[tuple[Expr, ...], tuple[Expr, ...], tuple[Expr, ...]], Sequence[Expr]],
                 value: Callable[[Expr], Expr] = lambda acc: acc, dtype: DType | None = None, accumulate: DType | None = None,
                 epilogue: Callable[[Expr, tuple[Expr, ...], tuple[Expr, ...], tuple[Expr, ...]], Expr] | None = None) -> Tensor:
        """out[store(batch, rows, columns)] = value(sum over reduced of a(batch, rows, reduced) * b(batch, columns, reduced)).

        Operands are converted to the accumulator's type (`accumulate`, by default the compute type of `a`). `epilogue(acc, batch, rows, columns)` is
        `value` for results that also depend on the position, such as a bias.
        """
        ab, ar, ac, ak = (tuple(ex.axis(d, s) for d in sizes(dims)) for dims, s in ((batch, "b"), (rows, "m"), (columns, "n"), (reduced, "k")))
        left, right = a(ab, ar, ak), b(ab, ac, ak)
        kind = accumulate or dt.compute_type(left.dtype)
        result = value(ex.acc(kind)) if epilogue is None else epilogue(ex.acc(kind), ab, ar, ac)
        out = self.tensor(shape, dtype or (left.dtype if result.dtype is kind else result.dtype))
        stores = (Store(out, tuple(store(ab, ar, ac)), ex.cast(result, out.dtype)),)
        self.nests.append(ContractionNest(ab, ar, ac, ak, ex.cast(left, kind), ex.cast(right, kind), kind, stores, self.origin))
        return out

    def demand(self, shape: Sequence[ExprLike], holds: Callable[..., Expr], reason: str) -> None:
        """Demand something of every element: `holds` gets one index per dimension of `shape`. An error when running, for the node may stand where no run comes."""
        broken = self.map([], lambda: self.reduce("max", shape, lambda *i: ex.where(holds(*i), 0, 1)), dt.int64, "broken")
        self.checks.append(Check(broken[()] <= 0, f"node {self.label}: {reason}", held=True))

    def routine(self, routine: Routine, inputs: Sequence[Tensor], outputs: Sequence[tuple[DType, Sequence[ExprLike]]], parameters: Sequence[ExprLike] = (),
                units: ExprLike = 1, scratch_bytes: ExprLike = 0, constants: Mapping[str, int | float | bool] | None = None) -> list[Tensor]:
        """Call a routine; returns its output tensors. Extra outputs may carry sizes: a later shape can `load` from them."""
        outs = [Tensor(f"{self.node.name}.{routine.name}{len(self.nests)}_{k}", d, sizes(s)) for k, (d, s) in enumerate(outputs)]
        self.nests.append(RoutineNest(routine, tuple(inputs), tuple(outs), tuple(ex.as_expr(p) for p in parameters), ex.as_expr(units),
                                      ex.as_expr(scratch_bytes), tuple(sorted((constants or {}).items())), self.origin))
        return outs

    def host(self, function: Callable[..., Sequence[object]], results: Sequence[tuple[DType, Sequence[ExprLike] | None] | None], reason: str) -> list[Ref]:
        """Call Python on the host: all inputs of the node go in; one result per entry, None for a value that is not a tensor of known rank."""
        refs: list[Ref] = [HostRef(f"{self.node.name}.h{k}") if r is None or r[1] is None else self.tensor(r[1], r[0], f"h{k}_") for k, r in enumerate(results)]
        self.nests.append(HostNest(function, tuple(self.inputs), tuple(refs), reason, self.origin))
        return refs

    def constant(self, array: np.ndarray, stem: str = "c") -> Tensor:
        """A tensor whose elements the definition itself knows (tables, windows)."""
        t = Tensor(f"{self.node.name}.{stem}{len(self.constants)}", dt.of_numpy(array.dtype), tuple(ex.const(d) for d in array.shape))
        self.constants[t] = array
        return t

    @property
    def origin(self) -> tuple[str, ...]:
        return self.node.origin or (self.node.name,)

    # ---- shapes
    def axis(self, value: int, rank: int, inclusive: bool = False) -> int:
        """A possibly negative axis, checked against the rank."""
        top = rank + (1 if inclusive else 0)
        if not -top <= value < top:
            raise self.error(f"axis {value} is out of range for rank {rank}")
        return value % top if top else 0

    def broadcast(self, *tensors: Tensor) -> tuple[Expr, ...]:
        """The NumPy broadcast of the tensors' shapes."""
        return broadcast_shapes([t.shape for t in tensors], self)


def sizes(shape: Sequence[ExprLike]) -> tuple[Expr, ...]:
    """A shape's dims as expressions, long ones by short names."""
    return tuple(ex.shorten(ex.as_expr(d)) for d in shape)


def rename_loads(values: tuple[Expr, ...], names: Mapping[str, Tensor]) -> tuple[Expr, ...]:
    """The expressions with every tensor they load exchanged for the one of the same name."""
    def visit(e: Expr) -> Expr | None:
        if e.op != "load":
            return None
        known = names.get(ex.load_tensor(e).name)
        if known is None:
            raise ModelError(f"a size comes from %{ex.load_tensor(e).name}, which is not computed before", hint="infer the graph again after changing it")
        return None if known is ex.load_tensor(e) else ex.load(known, e.args, ex.load_fill(e))
    return tuple(ex.transform(values, visit)) if ex.loads(values) else values


def broadcast_shapes(shapes: Sequence[tuple[Expr, ...]], n: NodeView | None = None) -> tuple[Expr, ...]:
    """Multidirectional broadcast. Two different symbolic sizes are taken to be equal unless one of them is 1 (checked when running)."""
    rank = max(map(len, shapes), default=0)
    out: list[Expr] = []
    for k in range(rank):
        dims = [s[k - rank + len(s)] for s in shapes if k - rank + len(s) >= 0]
        chosen = ex.const(1)
        for d in dims:
            if d is chosen or (d.is_const and d.value == 1):
                continue
            before = chosen
            if chosen.is_const and chosen.value == 1:
                chosen = d
                continue
            reason = f"shapes {', '.join(str([x.text for x in s]) for s in shapes)} do not broadcast: {chosen.text} against {d.text}"
            if chosen.is_const and d.is_const:
                raise n.error(reason) if n is not None else ModelError(reason)
            if d.is_const:
                chosen = d
            elif not chosen.is_const:
                chosen = ex.where(ex.equal(chosen, 1), d, chosen)  # not the greater one, which is wrong of 0 and 1
            if n is not None:
                n.require(ex.logical_or(ex.equal(before, d), ex.logical_or(ex.equal(before, 1), ex.equal(d, 1))), reason)
        out.append(chosen)
    return tuple(out)


def broadcast_load(t: Tensor, shape: Sequence[Expr], index: Sequence[Expr]) -> Expr:
    """The element of `t` at a position of the broadcast shape."""
    lead = len(shape) - t.rank
    return t[tuple(broadcast_index(d, shape[lead + k], index[lead + k]) for k, d in enumerate(t.shape))]


def broadcast_index(size: Expr, out: Expr, index: Expr) -> Expr:
    """Index along one dimension of `size` that is broadcast to `out`; a symbolic size that may be 1 is decided when running."""
    if size.is_const:
        return ex.const(0) if size.value == 1 else index
    return index if size is out else ex.where(ex.equal(size, 1), 0, index)


class Builder(NodeView):
    """Adds the nodes that an operator decomposes into, in front of (or instead of) the node."""

    def __init__(self, graph: Graph, node: Node, op: Op, before: Node | None = None) -> None:
        super().__init__(node, op)
        self.graph, self.before = graph, before
        self.added: list[Node] = []

    @property
    def inputs(self) -> list[Value | None]:
        return self.node.inputs

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> Value:
        if not self.has(index):
            raise self.error(f"input {index} of {self.op.name} is missing")
        return self.node.inputs[index]

    def wants(self, index: int) -> bool:
        return index < len(self.node.outputs) and self.node.outputs[index] is not None

    def type(self, value: Value) -> TensorType:
        """The tensor type of a value; its rank must be known."""
        if not isinstance(value.type, TensorType) or value.type.shape is None:
            raise UnknownRankError(f"'{value.name}' is {value.type}, a tensor of known rank was expected", self.label)
        return value.type

    def add(self, op: str, *inputs: "Value | np.ndarray | int | float | Sequence[int] | None", outputs: int = 1, domain: str = "", version: int | None = None,
            **attributes: Attribute) -> Any:
        """Append an operator; arrays and lists become constants (int64 for lists). Types are inferred at once.

        Returns:
            The output value, or the list of them if `outputs` is not 1.
        """
        definition = find(domain, op)
        assert definition is not None, f"{self.op.name} decomposes into {op}, which is not defined"
        values = [v if v is None or isinstance(v, Value) else self.constant(v) for v in inputs]
        node = self.graph.add(op, values, attributes, outputs=outputs, domain=domain, version=version or definition.versions[-1], name=f"{self.node.name}/{op}",
                              origin=self.node.origin or (self.node.name,), before=self.before)
        self.added.append(node)
        infer_node(node)
        return node.outputs[0] if outputs == 1 else node.outputs

    def constant(self, value: "np.ndarray | int | float | Sequence[int]", dtype: DType | None = None) -> Value:
        array = np.asarray(value, dtype.numpy if dtype else None)
        if dtype is None and not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return self.graph.constant(f"{self.node.name}/const", array)


def infer_node(node: Node) -> None:
    """Set the types (and known contents) of a node's outputs.

    Raises:
        ModelError: the inputs do not fit the operator.
    """
    from ..infer import infer
    infer(node)
