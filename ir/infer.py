"""Inference: types of every value, and the elements of small tensors as symbolic expressions.

There is one source of truth for an operator, its definition: its shapes are those of the tensors that it lowers to, and the elements of small results
follow by evaluating the lowered nests on symbols. So a chain Shape -> Gather -> Concat -> Reshape yields symbolic sizes without a rule of its own.

Sizes that only a run knows are `load`s of tensors in dims and contents. Such a tensor is known by its name: a value's tensor carries the value's name, a
tensor inside an operator `node.stem`; `lower_node` replaces them by the tensors of the real lowering through its `names`.
"""
from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import dtypes as dt
from . import expr as ex
from . import integer
from .errors import ModelError, SardonyxError, UnsupportedError
from .expr import Expr, Tensor
from .graph import Graph, Node, TensorType, Type, Value
from .loops import Check, ContractionNest, HostRef, MapNest, Nest, Ref, Store
from .ops.base import Builder, Lowering, Op, find
from .sizes import whole

CONTENT_ELEMS = 64  # the largest tensor whose elements are followed
REDUCE_TERMS = 64  # the longest reduction that is written out
STEP_LIMIT = 20_000  # expression nodes visited for one node's contents
_LONG_ELEMENT = 1024  # characters of an element's spelling that are followed

# What a definition may run into on damaged inputs or attributes; anything else is a fault of the definition.
DAMAGE = (TypeError, IndexError, KeyError, ValueError, ZeroDivisionError, OverflowError, AttributeError, AssertionError)


@dataclass(frozen=True, eq=False)
class Lowered:
    """What one node lowers to: a ref per output (None where it is not wanted), nests in order, constants of the definition itself, and checks of sizes."""

    outputs: tuple[Ref | None, ...]
    nests: tuple[Nest, ...]
    constants: dict[Tensor, np.ndarray]
    checks: tuple[Check, ...] = ()

    def names(self, node: Node) -> dict[str, Tensor]:
        """The tensors by the names under which inferred sizes and contents refer to them."""
        found = {t.name: t for n in self.nests for t in n.outputs if isinstance(t, Tensor)}
        found.update((t.name, t) for t in self.constants)
        found.update((v.name, t) for v, t in zip(node.outputs, self.outputs, strict=False) if v is not None and isinstance(t, Tensor))
        return found


# ----------------------------------------------------------------------------------------------------------------- entries
def infer(node: Node) -> None:
    """Set type and content of a node's outputs from its inputs' types, contents and constants.

    Raises:
        ModelError: inputs or attributes do not fit the operator.
        UnsupportedError: no definition of the operator, or one that does not cover this use.
    """
    op = definition(node)
    if type(op).infer is not Op.infer:
        _infer_by_rule(node, op)
    elif type(op).lower is not Op.lower:
        lowered = lower_node(node, input_refs(node))
        for v, ref in zip(node.outputs, lowered.outputs, strict=True):
            if v is not None and isinstance(ref, Tensor):
                set_type(v, TensorType(ref.dtype, ref.shape))
        _set_contents(node, lowered)
    elif type(op).decompose is not Op.decompose:
        _infer_by_decomposition(node, op)
    else:
        raise UnsupportedError(f"the definition of {node.qualified} gives neither a lowering nor types", label(node))


def infer_graph(graph: Graph) -> None:
    """Infer all nodes of a graph in order; bodies of control flow are inferred by the operators that own them."""
    for node in graph.nodes:
        infer(node)


def lower_node(node: Node, refs: Mapping[Value, Ref], names: Mapping[str, Tensor] | None = None) -> Lowered:
    """Run the definition's `lower`.

    Args:
        refs: a tensor (or host value) for every input of the node.
        names: tensors by name (`Lowered.names` of what was lowered before): contents found by inference refer to these. None during inference itself.

    Raises:
        ModelError, UnsupportedError: as `infer`.
    """
    op = definition(node)
    if type(op).lower is Op.lower:
        raise UnsupportedError(f"{node.qualified} has no lowering of its own; decompose it first", label(node))
    view = Lowering(node, op, refs, names)
    with _Boundary(node):
        result = op.lower(view)
    outputs: tuple[Ref | None, ...] = (result,) if isinstance(result, (Tensor, HostRef)) else tuple(result)
    if any(v is not None and (k >= len(outputs) or outputs[k] is None) for k, v in enumerate(node.outputs)):
        raise ModelError(f"{node.qualified} has no output {len(outputs)}; the model asks for {len(node.outputs)}", label(node))
    return Lowered(outputs[:len(node.outputs)], tuple(view.nests), view.constants, tuple(view.checks))


def definition(node: Node) -> Op:
    """The definition of a node's operator.

    Raises:
        UnsupportedError: there is none.
    """
    op = find(node.domain, node.op)
    if op is None:
        raise UnsupportedError(f"operator {node.qualified} is not known", label(node), "define it as a custom operator, or export the model without it")
    if not node.version:
        node.version = op.versions[-1]
    return op


def label(node: Node) -> str:
    """How errors call a node: the user's names for it and its operator."""
    return f"'{', '.join(node.origin) or node.name}' ({node.qualified})"


def tensor_of(value: Value) -> Tensor:
    """The tensor that stands for a value in inferred sizes and contents; the same one as long as the type stays."""
    t = value.type
    assert isinstance(t, TensorType) and t.shape is not None
    known = value.tensor
    if known is None or known.dtype is not t.dtype or known.shape != t.shape:
        known = value.tensor = Tensor(value.name, t.dtype, t.shape)
    return known


def input_refs(node: Node) -> dict[Value, Ref]:
    """The refs of a node's inputs by their types: tensors where the rank is known, host values otherwise."""
    refs: dict[Value, Ref] = {}
    for v in node.inputs:
        if v is not None and v not in refs:
            known = isinstance(v.type, TensorType) and v.type.shape is not None
            refs[v] = tensor_of(v) if known else HostRef(v.name)
    return refs


def set_type(value: Value, type: Type | None) -> None:
    """Set a value's type; a type that reads the same is kept, so that expressions over its sizes stay the same objects."""
    old = value.type
    if isinstance(old, TensorType) and isinstance(type, TensorType) and old.dtype is type.dtype and old.shape is not None and type.shape is not None:
        if len(old.shape) == len(type.shape) and all(a is b or a.text == b.text for a, b in zip(old.shape, type.shape)):
            return
    value.type = type


class _Boundary:
    """The one place where what a definition trips over on damaged input becomes an error about the node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SardonyxError):
            return
        if isinstance(error, NotImplementedError):
            raise UnsupportedError(f"{self.node.qualified} is not implemented for this use: {error}", label(self.node)) from error
        if isinstance(error, DAMAGE):
            types = ", ".join("-" if v is None else str(v.type) for v in self.node.inputs)
            raise ModelError(f"the inputs or attributes do not fit {self.node.qualified}-{self.node.version}: inputs {types}: {error}",
                             label(self.node), "check the model with onnx.checker") from error


# -------------------------------------------------------------------------------------------------- by rule, by decomposition
def _infer_by_rule(node: Node, op: Op) -> None:
    refs = input_refs(node)
    with _Boundary(node):
        types = tuple(op.infer(Lowering(node, op, refs)))
    if len(types) < len(node.outputs):
        raise ModelError(f"{node.qualified} has {len(types)} outputs; the model asks for {len(node.outputs)}", label(node))
    for v, t in zip(node.outputs, types, strict=False):
        if v is not None and t is not None:
            set_type(v, t)
    small = any(v is not None and is_small(v.type) for v in node.outputs)
    tensors = all(isinstance(r, Tensor) for r in refs.values())
    if small and tensors and type(op).lower is not Op.lower and not any(True for _ in node.subgraphs()):
        _set_contents(node, lower_node(node, refs))


def _infer_by_decomposition(node: Node, op: Op) -> None:
    """Types from a decomposition into a scratch graph, whose inputs mirror the node's, so that no use list of the real graph is touched."""
    scratch = Graph(node.name)
    owner = next((v.graph for v in (*node.outputs, *node.inputs) if v is not None), None)
    if owner is not None:
        scratch.opsets = owner.opsets
    mirrors: dict[Value, Value] = {}
    for v in node.inputs:
        if v is not None and v not in mirrors:
            m = mirrors[v] = scratch.value(v.name, v.type)
            m.constant, m.content = v.constant, v.content
            if isinstance(v.type, TensorType) and v.type.shape is not None:
                m.tensor = tensor_of(v)
    proxy = Node(node.domain, node.op, node.version, [None if v is None else mirrors[v] for v in node.inputs], list(node.outputs), node.attributes,
                 node.name, node.origin)
    with _Boundary(node):
        result = op.decompose(Builder(scratch, proxy, op))
    results = (result,) if isinstance(result, Value) else tuple(result)
    for k, v in enumerate(node.outputs):
        if v is None:
            continue
        found = results[k] if k < len(results) else None
        if found is None:
            raise ModelError(f"{node.qualified} has no output {k}", label(node))
        set_type(v, found.type)
        derived = v.content is not None
        v.content = found.content
        if found.constant is not None and is_small(found.type):
            v.constant = found.constant
        elif derived:
            v.constant = None


# ---------------------------------------------------------------------------------------------------------------- contents
def is_small(type: Type | None) -> bool:
    """Whether the elements of a value of this type are worth following."""
    return isinstance(type, TensorType) and type.shape is not None and type.dtype.kind not in ("string", "complex") and _count(type.shape) is not None


def _count(shape: Sequence[Expr]) -> int | None:
    """The number of elements if it is constant and small."""
    n = 1
    for d in shape:
        if not d.is_const:
            return None
        n *= max(d.value, 0)
    return n if n <= CONTENT_ELEMS else None


def _set_contents(node: Node, lowered: Lowered) -> None:
    """Evaluate the small outputs' elements on symbols; sets `content`, and `constant` where all of them are constants."""
    evaluator: _Evaluator | None = None
    for v, ref in zip(node.outputs, lowered.outputs, strict=True):
        if v is None or not isinstance(ref, Tensor):
            continue
        derived = v.content is not None
        v.content = None
        if derived:
            v.constant = None
        array = lowered.constants.get(ref)
        if array is not None:
            v.constant = array
        if not is_small(v.type):
            continue
        if ref.dtype.is_float and not all(i is None or i.constant is not None or i.content is not None or _is_integral(i) for i in node.inputs):
            continue
        evaluator = evaluator or _Evaluator(node, lowered)
        found = evaluator.tensor(ref)
        if found is None:
            continue
        v.content = found = tuple(map(whole, found))
        if v.constant is None and all(e.is_const for e in found) and not any(c.held for c in lowered.checks):  # which stay, for the run to tell
            v.constant = np.array([e.value for e in found], ref.dtype.numpy).reshape([d.value for d in ref.shape])


def _is_integral(value: Value) -> bool:
    return isinstance(value.type, TensorType) and (value.type.dtype.is_integer or value.type.dtype is dt.boolean)


class _Unknown(Exception):
    """The elements cannot be followed."""


class _Evaluator:
    """Elements of the tensors of one lowered node, as expressions over constants, sizes and loads of the node's integer inputs."""

    def __init__(self, node: Node, lowered: Lowered) -> None:
        self.known: dict[Tensor, Sequence[Expr] | np.ndarray | None] = dict(lowered.constants)
        self.runtime: set[Tensor] = set()  # integer inputs whose elements only the run knows
        self.own: set[Ref] = {o for n in lowered.nests for o in n.outputs}  # all others that are loaded hold sizes of earlier nodes
        for v in node.inputs:
            if v is None or not isinstance(v.type, TensorType) or v.type.shape is None:
                continue
            t = tensor_of(v)
            self.own.add(t)
            if v.constant is not None:
                self.known[t] = v.constant
            elif v.content is not None:
                self.known[t] = v.content
            elif _is_integral(v):
                self.runtime.add(t)
        self.stores: dict[Tensor, list[tuple[MapNest, Store]]] = {}
        for n in lowered.nests:
            nest: Nest = n.as_map() if isinstance(n, ContractionNest) and any(_count(o.shape) is not None for o in n.outputs) else n
            if not isinstance(nest, MapNest):
                continue
            for s in nest.stores:
                self.stores.setdefault(s.tensor, []).append((nest, s))
        self.steps = 0

    def tensor(self, t: Tensor) -> Sequence[Expr] | None:
        """The elements of a small tensor in row-major order, or None."""
        if t not in self.known:
            self.known[t] = None
            with contextlib.suppress(_Unknown):
                self.known[t] = self._computed(t)
        found = self.known[t]
        if isinstance(found, np.ndarray):
            return [ex.const(x, t.dtype) for x in found.reshape(-1).tolist()]
        return found

    def _computed(self, t: Tensor) -> list[Expr]:
        count = _count(t.shape)
        if count is None:
            raise _Unknown
        if t in self.runtime:
            return [t[ex.unravel(ex.const(k), t.shape)] for k in range(count)]
        if t not in self.stores:
            raise _Unknown
        out: list[Expr | None] = [None] * count
        for nest, store in self.stores[t]:
            extents = [self._constant(self.value(a.extent, {}, {})) for a in nest.axes]
            if math.prod(extents) > CONTENT_ELEMS:
                raise _Unknown
            for point in itertools.product(*(range(n) for n in extents)):
                binding = {a: ex.const(p) for a, p in zip(nest.axes, point, strict=True)}
                memo: dict[Expr, Expr] = {}
                position = _position([self._constant(self.value(i, binding, memo)) for i in store.index], t.shape)
                value = self.value(store.value, binding, memo)
                value = ex.shorten(value)
                if len(value.text) > _LONG_ELEMENT:
                    raise _Unknown
                out[position] = value
        if any(e is None for e in out):
            raise _Unknown
        return out

    @staticmethod
    def _constant(e: Expr) -> int:
        if not e.is_const:
            raise _Unknown
        return e.value

    def value(self, e: Expr, binding: Mapping[Expr, Expr], memo: dict[Expr, Expr]) -> Expr:
        """`e` with its axes bound and its loads replaced by elements; of a `where` with a known condition only the branch taken is looked at."""
        if e.op in ("const", "sym"):
            return e
        found = memo.get(e)
        if found is not None:
            return found
        self.steps += 1
        if self.steps > STEP_LIMIT:
            raise _Unknown
        if e.op == "axis":
            found = binding.get(e)
            if found is None:
                raise _Unknown
        elif e.op == "poly":
            found = integer.evaluate(e, {a: self.value(a, binding, memo) for a in ex.children(e)})
        elif e.op == "where":
            condition = self.value(e.args[0], binding, memo)
            if condition.is_const:
                found = self.value(e.args[1 if condition.value else 2], binding, memo)
            else:
                found = ex.where(condition, self.value(e.args[1], binding, memo), self.value(e.args[2], binding, memo))
        elif e.op == "load":
            found = self._element(e, [self.value(i, binding, memo) for i in e.args])
        elif e.op == "reduce":
            found = self._reduction(e, binding)
        elif e.op == "acc":
            raise _Unknown
        else:
            found = ex.rebuild(e, [self.value(a, binding, memo) for a in e.args])
        memo[e] = found
        return found

    def _element(self, e: Expr, index: list[Expr]) -> Expr:
        t, fill = ex.load_tensor(e), ex.load_fill(e)
        if t in self.runtime or (t not in self.own and t not in self.known):
            return ex.load(t, index, fill)
        if not all(i.is_const for i in index):
            raise _Unknown
        at = [i.value for i in index]
        source = self.known.get(t)
        shape = source.shape if isinstance(source, np.ndarray) else [d.value if d.is_const else None for d in t.shape]
        if any(n is None for n in shape):
            raise _Unknown
        if not all(0 <= i < n for i, n in zip(at, shape, strict=True)):
            if fill is None:
                raise _Unknown
            return ex.const(fill, t.dtype)
        if isinstance(source, np.ndarray):
            if t.dtype.kind in ("string", "complex"):
                raise _Unknown
            return ex.const(source[tuple(at)].item(), t.dtype)
        elements = self.tensor(t)
        if elements is None:
            raise _Unknown
        return elements[_position(at, t.shape)]

    def _reduction(self, e: Expr, binding: Mapping[Expr, Expr]) -> Expr:
        kind, axes = ex.reduce_kind(e), ex.reduce_axes(e)
        extents = [self._constant(self.value(a.extent, binding, {})) for a in axes]
        if math.prod(extents) > REDUCE_TERMS or (0 in extents and kind not in _EMPTY):
            raise _Unknown
        terms = []
        for point in itertools.product(*(range(n) for n in extents)):
            inner = {**binding, **{a: ex.const(p) for a, p in zip(axes, point, strict=True)}}
            terms.append(self.value(e.args[0], inner, {}))
        return _fold_terms(kind, terms) if terms else ex.const(_EMPTY[kind], e.dtype)


def _position(index: Iterable[int], shape: Sequence[Expr]) -> int:
    out = 0
    for i, d in zip(index, shape, strict=True):
        if not 0 <= i < d.value:
            raise _Unknown
        out = out * d.value + i
    return out


_EMPTY: dict[str, int | bool] = {"sum": 0, "prod": 1, "any": False, "all": True}
_JOIN = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


def _fold_terms(kind: str, terms: list[Expr]) -> Expr:
    """A reduction over written-out terms, in their order."""
    if kind in _JOIN:
        out = terms[0]
        for t in terms[1:]:
            out = ex.binary(_JOIN[kind], out, t)
        return out
    best, at = terms[0], ex.const(0)
    for k, t in enumerate(terms[1:], 1):
        low, high = (best, t) if kind.startswith("argmax") else (t, best)
        better = ex.binary("le" if kind.endswith("_last") else "lt", low, high)
        best, at = ex.where(better, t, best), ex.where(better, k, at)
    return at
