"""Custom operators: Python functions as operators of models, fused as expressions, compiled as routines, or called on the host."""
from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from .. import registrations
from ..captured import Captured, capture
from ..derivatives import gradients
from ..dtypes import DType
from ..errors import SardonyxError, UnsupportedError
from ..expr import Expr, Tensor
from ..graph import Attribute, JournalEntry, Value
from ..loops import Ref, Routine, RoutineNest, load, store
from ..scalar_functions import NotExpressible, trace
from .base import REQUIRED, Builder, Lowering, Op, Sample, broadcast_load
from .control import fresh
from .elementwise import sum_to, wide

MODES = ("auto", "fused", "native", "host")
KINDS = ("scalar", "array")
BLOCK = 4096  # elements of one unit of a native scalar function
Probe = Callable[[RoutineNest], str]  # why a routine does not compile, or an empty string


@dataclass(frozen=True)
class Definition:
    """What `register_op` was told.

    Args:
        function, gradient: as captured.
        defaults: attributes; REQUIRED where a node must give them.
        dtypes: output types, a function of the inputs' NumPy types that gives them, or None.
        shape: a function of the inputs' shapes that gives the output's shape (or a list of shapes), or None for broadcasting.
        probe: tries to compile a routine.
    """

    function: Captured
    kind: str
    mode: str
    inputs: tuple[int, int]
    outputs: int
    defaults: Mapping[str, Attribute]
    dtypes: Any
    shape: Callable[..., Any] | None
    gradient: Captured | None
    probe: Probe
    samples: tuple[Sample, ...] = ()


class CustomOp(Op):
    """An operator that a program registered."""

    definition: ClassVar[Definition]
    fingerprint: ClassVar[str]

    # ---- what a node says
    def keywords(self, n: "Lowering | Builder") -> dict[str, Attribute]:
        """The attributes that the function gets."""
        unknown = set(n.node.attributes) - set(self.attributes)
        if unknown:
            raise n.error(f"{self.name} has no attribute {', '.join(sorted(unknown))}; it was registered with {', '.join(sorted(self.attributes)) or 'none'}")
        return {name: n.attr(name) for name in self.attributes}

    def operands(self, n: Lowering) -> list[Tensor | None]:
        low, high = self.definition.inputs
        if not low <= len(n.inputs) <= high:
            raise n.error(f"{self.name} takes {low if low == high else f'{low} to {high}'} inputs, {len(n.inputs)} are given")
        return [n.optional(k) for k in range(len(n.inputs))]

    def types(self, n: Lowering, operands: Sequence[Tensor | None]) -> list[DType]:
        """Types of the outputs of a function that is no expression."""
        given = [t.dtype.numpy for t in operands if t is not None]
        found = output_types(self.definition.dtypes, given)
        if found:
            return found
        kind = given[0] if len(set(given)) == 1 else np.result_type(*given) if given else None
        if kind is None:
            raise n.error(f"the output types of {self.name} are not known; register it with dtypes=")
        return [dt.of_numpy(kind)] * self.definition.outputs

    def shapes(self, n: Lowering, operands: Sequence[Tensor | None], keywords: Mapping[str, Attribute]) -> list[tuple[Expr, ...]]:
        present = [t for t in operands if t is not None]
        if self.definition.shape is None:
            return [n.broadcast(*present)] * self.definition.outputs
        known = [None if t is None else tuple(int(d.value) if d.is_const else d for d in t.shape) for t in operands]
        made = self.rule(known, keywords)
        return [tuple(fresh(n, k, j) if d is None else ex.as_expr(d) for j, d in enumerate(s)) for k, s in enumerate(made)]

    def rule(self, shapes: Sequence[tuple[Any, ...] | None], keywords: Mapping[str, Attribute]) -> list[tuple[Any, ...]]:
        """Output shapes by the shape rule, or by broadcasting."""
        function = self.definition.shape
        if function is None:
            return [np.broadcast_shapes(*(s for s in shapes if s is not None))] * self.definition.outputs
        names = inspect.signature(function).parameters
        made = function(*shapes, **{k: v for k, v in keywords.items() if k in names})
        return [tuple(s) for s in made] if isinstance(made, list) else [tuple(made)] * self.definition.outputs

    # ---- lowering
    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        d = self.definition
        operands, keywords = self.operands(n), self.keywords(n)
        reasons = []
        if d.kind == "scalar" and d.mode in ("auto", "fused"):
            try:
                return self.fused(n, operands, keywords)
            except NotExpressible as e:
                reasons.append(f"not fused: {e}")
        if d.mode in ("auto", "native") and d.kind == "scalar":
            try:
                found = self.native(n, operands, keywords)
                self.remark(n, reasons)
                return found
            except NotExpressible as e:
                reasons.append(f"not native: {e}")
        elif d.mode == "native" or (d.kind == "array" and d.mode == "fused"):
            reasons.append("array functions run on the host")
        if d.mode in ("fused", "native"):
            raise n.error(f"{self.name} is registered with mode='{d.mode}', but it is {'; '.join(reasons)}")
        self.remark(n, reasons)
        call = HostCall(self.domain, self.name, self.fingerprint, tuple((k, v) for k, v in keywords.items()))
        why = "a custom operator" + ("" if not reasons else "; " + "; ".join(reasons))
        return n.host(call, list(zip(self.types(n, operands), self.shapes(n, operands, keywords))), why)

    def remark(self, n: Lowering, reasons: Iterable[str]) -> None:
        """Reasons go into the graph's journal, which `explain` shows."""
        graph = next((v.graph for v in (*n.node.outputs, *n.node.inputs) if v is not None), None)
        while graph is not None and graph.parent is not None:
            graph = graph.parent
        if graph is not None:
            graph.journal += [e for r in reasons if (e := JournalEntry(f"custom operator {self.name}", n.origin, r)) not in graph.journal]

    def expressions(self, operands: Sequence[Tensor | None], keywords: Mapping[str, Attribute]) -> tuple[list[Expr | None], tuple[Expr, ...]]:
        """Placeholders for the inputs' elements, and the function's results as expressions of them."""
        leaves = [None if t is None else Tensor(f"argument{k}", dt.compute_type(t.dtype), ())[()] for k, t in enumerate(operands)]
        if any(e is not None and (not e.dtype.is_numeric or e.dtype.kind == "complex") for e in leaves):
            raise NotExpressible("its inputs are no real numbers")
        return leaves, trace(self.definition.function, leaves, keywords)

    def fused(self, n: Lowering, operands: Sequence[Tensor | None], keywords: Mapping[str, Attribute]) -> list[Ref | None]:
        leaves, results = self.expressions(operands, keywords)
        present = [t for t in operands if t is not None]
        shape = n.broadcast(*present)
        floats = {t.dtype for t in present if t.dtype.is_float}
        narrow = next(iter(floats)) if len(floats) == 1 else dt.float32
        wanted = output_types(self.definition.dtypes, [t.dtype.numpy for t in present])
        kinds = wanted or [narrow if e.dtype is dt.float32 else e.dtype for e in results]
        if len(kinds) != len(results):
            raise n.error(f"{self.name} returns {len(results)} values, {len(kinds)} types are registered")

        def element(e: Expr) -> Callable[..., Expr]:
            return lambda *i: ex.substitute_one(e, {leaf: wide(broadcast_load(t, shape, i)) for leaf, t in zip(leaves, operands) if leaf is not None and t is not None})
        return [n.map(shape, element(e), kind) for e, kind in zip(results, kinds)]

    def native(self, n: Lowering, operands: Sequence[Tensor | None], keywords: Mapping[str, Attribute]) -> list[Ref | None]:
        present = [t for t in operands if t is not None]
        shape, kinds = n.broadcast(*present), self.types(n, operands)
        if any(not k.is_numeric or k.kind == "complex" or k.bits < 8 or (k.is_float and k.bits < 16) for k in (*kinds, *(t.dtype for t in present))):
            raise NotExpressible("its values are no real numbers of at least 8 bits")
        routine = element_routine(self.definition.function, [t is not None for t in operands], keywords, len(kinds))
        count = ex.product(shape)
        full = [t if t.shape == shape else n.map(shape, lambda *i, t=t: broadcast_load(t, shape, i)) for t in present]
        outs = n.routine(routine, full, [(k, shape) for k in kinds], [count], units=ex.ceildiv(count, BLOCK))
        nest = n.nests[-1]
        assert isinstance(nest, RoutineNest)
        why = self.definition.probe(nest)
        if why:
            del n.nests[-1]
            raise NotExpressible(f"Numba: {why}")
        return list(outs)

    # ---- gradient
    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> Sequence[Value | None]:
        if self.definition.kind != "scalar":
            raise UnsupportedError(f"{self.name} is registered as an array function, which has no gradient")
        outputs = [g if g is not None else b.constant(np.zeros((), b.type(v).dtype.numpy)) for g, v in zip(upstream, b.node.outputs) if v is not None]
        real = [k for k in range(len(b.inputs)) if b.has(k) and b.type(b.input(k)).dtype.is_float]
        made = b.add(f"{self.name}.gradient", *b.inputs, *outputs, domain=self.domain, outputs=len(b.inputs), **self.keywords(b))
        made = made if isinstance(made, list) else [made]
        return [sum_to(b, made[k], b.input(k)) if k in real else None for k in range(len(b.inputs))]

    def samples(self) -> Iterator[Sample]:
        return iter(self.definition.samples)


class CustomGradient(CustomOp):
    """Gradients of a scalar custom operator: (inputs, upstream of each output) -> what reaches each input, in the broadcast shape."""

    def fused(self, n: Lowering, operands: Sequence[Tensor | None], keywords: Mapping[str, Attribute]) -> list[Ref | None]:
        forward = len(n.node.outputs)
        leaves = [None if t is None else Tensor(f"argument{k}", dt.compute_type(t.dtype), ())[()] for k, t in enumerate(operands)]
        inputs, upstream = leaves[:forward], [g for g in leaves[forward:] if g is not None]
        if self.definition.gradient is not None:
            results: Sequence[Expr] = trace(self.definition.gradient, leaves, keywords)
            if len(results) != forward:
                raise n.error(f"the gradient of {self.name.removesuffix('.gradient')} returns {len(results)} values, one for each of {forward} inputs is expected")
        else:
            ys = trace(self.definition.function, inputs, keywords)
            wanted = [e for e in inputs if e is not None]
            parts = iter(gradients(ys, upstream, wanted))
            results = [ex.const(0, dt.float32) if e is None else next(parts) for e in inputs]
        shape = n.broadcast(*(t for t in operands if t is not None))

        def element(e: Expr) -> Callable[..., Expr]:
            return lambda *i: ex.substitute_one(e, {leaf: wide(broadcast_load(t, shape, i)) for leaf, t in zip(leaves, operands) if leaf is not None and t is not None})
        kinds = [t.dtype if t is not None and t.dtype.is_float else dt.float32 for t in operands[:forward]]
        return [n.map(shape, element(e), k) for e, k in zip(results, kinds)]


def output_types(given: Any, inputs: Sequence[np.dtype]) -> list[DType]:
    """Registered output types as DTypes; empty where none are registered."""
    found = given(*inputs) if callable(given) and not isinstance(given, type) else given
    if found is None:
        return []
    return [dt.BY_NAME[f] if isinstance(f, str) and f in dt.BY_NAME else dt.of_numpy(np.dtype(f)) for f in (found if isinstance(found, (tuple, list)) else (found,))]


# ------------------------------------------------------------------------------------------------------------------ native
_MATH = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "power": "pow"}


def element_routine(captured: Captured, present: Sequence[bool], keywords: Mapping[str, Attribute], outputs: int) -> Routine:
    """A loop over flat buffers that calls a scalar function for every element.

    Raises:
        NotExpressible: the function raises exceptions, or refers to what a kernel cannot have.
    """
    helpers = NativeSource()
    name = helpers.add(captured)
    xs, ys = [f"x{k}" for k, p in enumerate(present) if p], [f"y{k}" for k in range(outputs)]
    values = ", ".join([*(f"load(x{k}, i)" if p else "None" for k, p in enumerate(present)), *(f"{k}={literal(v)}" for k, v in keywords.items())])
    results = [f"r{k}" for k in range(outputs)]
    lines = [f"def custom_{captured.name.strip('<>')}({', '.join([*xs, *ys, 'count', 'lo', 'hi'])}):", f"    for i in range(lo * {BLOCK}, min(hi * {BLOCK}, count)):",
             f"        {', '.join(results)} = {name}({values})", *(f"        store({y}, i, {r})" for y, r in zip(ys, results))]
    text = "\n\n".join([*helpers.texts.values(), "\n".join(lines)]) + "\n"
    scope = define(text)
    return Routine(f"custom_{captured.name.strip('<>')}", scope[f"custom_{captured.name.strip('<>')}"], tuple(scope[h] for h in helpers.texts))


def define(text: str) -> dict[str, Any]:
    """Run a text of definitions whose source `inspect` finds again."""
    filename = f"<custom operator {hash(text) & 0xFFFFFFFFFFFF:x}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {"math": math, "load": load, "store": store}
    exec(compile(text, filename, "exec"), scope)
    return scope


def literal(v: object) -> str:
    """A number or tuple of numbers as source.

    Raises:
        NotExpressible: it is something else.
    """
    if isinstance(v, np.generic):
        v = v.item()
    if isinstance(v, float) and not math.isfinite(v):
        return "math.nan" if math.isnan(v) else "math.inf" if v > 0 else "(-math.inf)"
    if v is None or isinstance(v, (bool, int, float, str)):
        return repr(v)
    if isinstance(v, np.ndarray):
        v = tuple(v.tolist())
    if isinstance(v, tuple):
        return f"({', '.join(map(literal, v))}{',' if len(v) == 1 else ''})"
    raise NotExpressible(f"{v!r} is neither a number nor a tuple of numbers")


class NativeSource:
    """Functions as text that needs nothing from outside but `math`: values they refer to become local constants."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._names: dict[int, str] = {}

    def add(self, captured: Captured) -> str:
        """The name of a function's text."""
        if id(captured) in self._names:
            return self._names[id(captured)]
        if captured.tree is None:
            raise NotExpressible(f"{captured.name}: its source is not available")
        name = self._names[id(captured)] = f"function{len(self._names)}_{captured.name.strip('<>')}"
        tree = ast.parse(ast.unparse(ast.fix_missing_locations(captured.tree))).body[0]
        assert isinstance(tree, ast.FunctionDef)
        for node, original in zip(ast.walk(tree), ast.walk(captured.tree)):
            if isinstance(node, (ast.Raise, ast.Assert, ast.Try, ast.With)):
                raise NotExpressible(f"line {captured.line(original)} of {captured.name}: exceptions cannot leave compiled code")
        constants: list[str] = []
        tree = _Rename(self, captured, constants).visit(tree)
        tree.name, tree.returns = name, None
        for a in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs):
            a.annotation = None
        tree.args.args += tree.args.kwonlyargs  # compiled functions take keywords for any argument
        tree.args.defaults += [d for d in tree.args.kw_defaults if d is not None]
        tree.args.kwonlyargs, tree.args.kw_defaults = [], []
        tree.body = [*ast.parse("\n".join(constants)).body, *tree.body]
        self.texts[name] = ast.unparse(ast.fix_missing_locations(tree))
        return name


class _Rename(ast.NodeTransformer):
    def __init__(self, texts: NativeSource, captured: Captured, constants: list[str]) -> None:
        self.texts, self.captured, self.constants = texts, captured, constants
        self.defined: set[str] = set()

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """np.tanh -> math.tanh; the module's own name does not matter."""
        owner = self.captured.values.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if owner is math or owner is np:
            if isinstance(getattr(owner, node.attr, None), float):
                return ast.Constant(getattr(owner, node.attr))
            found = node.attr if owner is math else _MATH.get(node.attr, node.attr)
            if found in ("abs", "absolute"):
                return ast.Name("abs", ast.Load())
            if hasattr(math, found):
                return ast.Attribute(ast.Name("math", ast.Load()), found, ast.Load())
        raise NotExpressible(f"line {self.captured.line(node)} of {self.captured.name}: `{ast.unparse(node)}` cannot be compiled")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        value = self.captured.values.get(node.id)
        if node.id not in self.captured.values:
            return node
        if isinstance(value, Captured):
            return ast.Name(self.texts.add(value), node.ctx)
        if isinstance(value, types.BuiltinFunctionType) and value.__module__ == "math":
            return ast.Attribute(ast.Name("math", ast.Load()), value.__name__, ast.Load())
        if node.id not in self.defined:
            self.defined.add(node.id)
            self.constants.append(f"{node.id} = {literal(value)}")
        return node


# -------------------------------------------------------------------------------------------------------------------- host
@dataclass(frozen=True)
class HostCall:
    """A registered function as a host step; finds the function when it is made, so that later registrations do not change it.

    Raises:
        SardonyxError: the operator is not registered, or with another function.
    """

    domain: str
    name: str
    fingerprint: str
    keywords: tuple[tuple[str, Attribute], ...]

    def __post_init__(self) -> None:
        op = registrations.current().get((self.domain, self.name))
        spelled = f"{self.domain}::{self.name}" if self.domain else self.name
        if not isinstance(op, CustomOp):
            raise SardonyxError(f"the model calls custom operator {spelled} on the host: register it first, with sardonyx.register_op({self.domain!r}, {self.name!r}, function)")
        if op.fingerprint != self.fingerprint:
            raise SardonyxError(f"the model was compiled with another function for custom operator {spelled} than the one registered now; compile the model again")
        object.__setattr__(self, "op", op)

    def __call__(self, *inputs: object) -> list[np.ndarray]:
        op: CustomOp = self.op  # type: ignore[attr-defined]
        d, keywords = op.definition, {k: v for k, v in self.keywords}
        given = [None if x is None else np.asarray(x) for x in inputs]
        shapes = op.rule([None if x is None else x.shape for x in given], keywords)
        kinds = output_types(d.dtypes, [x.dtype for x in given if x is not None])
        if d.kind == "array":
            made = d.function.function(*given, **keywords)
            results = [np.asarray(r) for r in (made if isinstance(made, (tuple, list)) else (made,))]
        else:
            results = each_element(d.function.function, given, keywords, d.outputs, [k.numpy for k in kinds])
        if len(results) < d.outputs:
            raise SardonyxError(f"custom operator {self.name} returned {len(results)} arrays, {d.outputs} were expected")
        for r, shape in zip(results, shapes):
            if r.ndim != len(shape) or any(w is not None and int(w) != h for w, h in zip(shape, r.shape)):
                raise SardonyxError(f"custom operator {self.name} returned an array of shape {list(r.shape)}, its shape rule says {list(shape)}")
        return [r.astype(k.numpy) for r, k in zip(results, kinds)] if kinds else results


def each_element(function: Callable[..., Any], inputs: Sequence[np.ndarray | None], keywords: Mapping[str, Any], outputs: int, kinds: Sequence[np.dtype]) -> list[np.ndarray]:
    """A scalar function applied to broadcast arrays, element by element."""
    present = [x for x in inputs if x is not None]
    whole = np.broadcast_arrays(*present)
    default = np.result_type(*(x.dtype for x in present)) if len({x.dtype for x in present}) > 1 else present[0].dtype
    made = [np.empty(whole[0].shape, k) for k in (kinds or [default] * outputs)]
    for at in np.ndindex(whole[0].shape):
        values = iter(x[at] for x in whole)
        found = function(*(None if x is None else next(values) for x in inputs), **keywords)
        for y, v in zip(made, found if isinstance(found, tuple) else (found,), strict=True):
            y[at] = v
    return made


# ------------------------------------------------------------------------------------------------------------ registration
def make(domain: str, name: str, function: Callable[..., Any], *, kind: str, mode: str, shape: Callable[..., Any] | None, dtypes: Any, outputs: int | None,
         attributes: Mapping[str, Attribute] | None, gradient: Callable[..., Any] | None, versions: Sequence[int], samples: Sequence[Sample], probe: Probe) -> list[CustomOp]:
    """The operator and, for scalar functions, the operator of its gradient.

    Raises:
        ValueError: an argument is none of the allowed ones.
    """
    if kind not in KINDS or mode not in MODES:
        raise ValueError(f"kind is one of {', '.join(KINDS)} and mode one of {', '.join(MODES)}; {kind!r} and {mode!r} are given")
    if kind == "scalar" and shape is not None:
        raise ValueError("a scalar function is applied element by element: a shape rule needs kind='array'")
    signature = inspect.signature(function).parameters.values()
    defaults: dict[str, Attribute] = {p.name: REQUIRED if p.default is p.empty else p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    defaults.update(attributes or {})
    positional = [p for p in signature if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in defaults]
    many = any(p.kind is p.VAR_POSITIONAL for p in signature)
    low, high = sum(p.default is p.empty for p in positional), 1 << 20 if many else len(positional)
    count = outputs if outputs is not None else len(dtypes) if isinstance(dtypes, (tuple, list)) else 1
    captured, slope = capture(function), None if gradient is None else capture(gradient)
    rules = [capture(f).fingerprint if inspect.isfunction(f) else repr(f) for f in (shape, dtypes)]
    facts = [captured.fingerprint, slope and slope.fingerprint, rules, kind, mode, count, sorted(defaults.items(), key=str), list(versions)]
    print_ = hashlib.sha256(repr(facts).replace(repr(REQUIRED), "required").encode()).hexdigest()
    shared = (captured, kind, mode)
    d = Definition(*shared, (low, high), count, defaults, dtypes, shape, slope, probe, tuple(samples))
    made = [_class(CustomOp, domain, name, versions, d, print_)]
    if kind == "scalar":
        g = Definition(captured, kind, "fused", (0, 1 << 20), low, defaults, None, None, slope, probe)
        made.append(_class(CustomGradient, domain, f"{name}.gradient", versions, g, print_))
    return made


def _class(base: type[CustomOp], domain: str, name: str, versions: Sequence[int], d: Definition, fingerprint: str) -> CustomOp:
    values = {"domain": domain, "name": name, "versions": tuple(versions), "attributes": d.defaults, "definition": d, "fingerprint": fingerprint, "__doc__": base.__doc__}
    return type(name.replace(".", "_"), (base,), values)()
