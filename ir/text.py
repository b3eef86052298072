"""The text form of graphs and loop nests: numbered, typed, made to be read; `ir.parse` reads it back.

A graph:

    graph main {
      opset ai.onnx 17
      size N >= 1
      input %x: f32[N, 768]
      const %w: f32[768, 64] #0f3a91c2d4e5
      const %axes: i64[2] = [0, 1]
        0  %y: f32[N, 64] = MatMul-13(%x, %w)  @ matmul_1 from "/layer/MatMul"
        1  %z: i64[2] = Shape-15(%y)  @ Shape  ; = (N, 64)
      output %z
    }

A program:

    program {
      size N >= 1
      input %x: f32[N, 768]
      map i0 < N, i1 < 768 from "/softmax"
        r0 < 768
        t0 = max(r0: %x[i0, r0])
        %y: f32[N, 768]
        %y[i0, i1] = exp(%x[i0, i1] - t0)
      output %y
    }

Lines starting with `;` and what follows `  ; ` are remarks. Constants of more than a few elements are named by the hash of their content; their elements
stand in a `data` section where it is asked for. `t0` names a value that is used several times.
"""
from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from . import dtypes as dt
from . import expr as ex
from .dtypes import DType
from .expr import Expr, Tensor
from .graph import Attribute, Graph, MapType, Node, OptionalType, SequenceType, TensorType, Type, TypeValue, Value
from .loops import ContractionNest, HostNest, HostRef, MapNest, Nest, NestProgram, Ref, RoutineNest

INLINE_ELEMS = 16  # constants of up to so many elements are written out
INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "lt": "<", "le": "<=", "eq": "==", "ne": "!=", "and": "&", "or": "|"}
BINDING = {"or": 1, "and": 2, "lt": 3, "le": 3, "eq": 3, "ne": 3, "add": 4, "sub": 4, "mul": 5, "div": 5, "floordiv": 5, "mod": 5}
_LEAVES = ("const", "sym", "axis", "acc")
BARE = re.compile(r"[A-Za-z_]\w*(?:[./$-]\w+)*")  # a name that needs no quotes
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")


# ------------------------------------------------------------------------------------------------------------------- names
def quoted(name: str) -> str:
    """A name as it stands if it reads as one, else as a JSON string."""
    return name if BARE.fullmatch(name) else json.dumps(name)


def digest(array: np.ndarray) -> str:
    """Hash of an array's type, shape and elements."""
    h = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    h.update(repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes())
    return h.hexdigest()[:12]


def payload(array: np.ndarray) -> str:
    """An array as text: `TYPE[SHAPE] BASE64` of its compressed elements."""
    raw = json.dumps([x if isinstance(x, str) else {"bytes": x.hex()} for x in array.reshape(-1)]).encode() if array.dtype == object else \
        np.ascontiguousarray(array).tobytes()
    return f"{dt.of_numpy(array.dtype).short}[{', '.join(map(str, array.shape))}] {base64.b64encode(zlib.compress(raw, 6)).decode()}"


def literal(value: object) -> str:
    """A number, text or list of them as Python writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def shows_inline(array: np.ndarray) -> bool:
    """Whether an array is written out: small, and of numbers that Python has."""
    return array.size <= INLINE_ELEMS and array.dtype.name in _EXACT


_EXACT = frozenset(("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"))


def array_text(array: np.ndarray, data: dict[str, np.ndarray]) -> str:
    """What stands behind a constant's type: its elements, or the hash under which they stand in `data`."""
    if shows_inline(array):
        return f"= {literal(array.tolist())}"
    key = digest(array)
    data[key] = array
    return f"#{key}"


def data_section(data: Mapping[str, np.ndarray]) -> Iterator[str]:
    if data:
        yield "data {"
        yield from (f"  #{key} {payload(array)}" for key, array in data.items())
        yield "}"


# ------------------------------------------------------------------------------------------------------------- expressions
class ExprPrinter:
    """Writes expressions with infix operators, axes numbered from 0 and repeated values named.

    Args:
        tensor: how a tensor that is loaded is written.
        reserved: identifiers that axes and named values must not take (sizes).
    """

    def __init__(self, tensor: Callable[[Tensor], str], reserved: Iterable[str] = ()) -> None:
        self.tensor = tensor
        self.taken = set(reserved)
        self.names: dict[Expr, str] = {}  # of axes and repeated values
        self._prints: dict[Expr, bytes] = {}
        self._count = {"i": 0, "r": 0, "k": 0, "t": 0}

    def fresh(self, stem: str) -> str:
        while True:
            name = f"{stem}{self._count[stem]}"
            self._count[stem] += 1
            if name not in self.taken:
                return name

    def declare(self, axes: Sequence[Expr], stem: str) -> str:
        """Name axes; returns `i0 < N, i1 < 4`."""
        for a in axes:
            self.names[a] = self.fresh(stem)
        return ", ".join(f"{self.names[a]} < {self.show(a.extent)}" for a in axes)

    def ordered(self, e: Expr) -> tuple[Expr, ...]:
        """Operands in an order that does not depend on how axes happen to be called."""
        return tuple(dict.fromkeys(a for mono, _ in self._terms(e) for a in mono)) if e.op == "poly" else e.args

    def _terms(self, e: Expr) -> list[tuple[tuple[Expr, ...], int]]:
        found = [(tuple(sorted(mono, key=self._print)), k) for mono, k in e.value]
        return sorted(found, key=lambda t: (-len(t[0]), [self._print(a) for a in t[0]]))

    def _print(self, e: Expr) -> bytes:
        """A fingerprint of the structure; axes count by their place in the nest."""
        for n in ex.walk(e):
            if n in self._prints:
                continue
            if n in self.names and n.op == "axis":
                text = self.names[n]
            elif n.op == "axis":
                text = f"axis {n.value.name.rstrip('0123456789')}"
            elif n.op == "poly":
                parts = sorted((sorted(self._prints[a] for a in mono), k) for mono, k in n.value)
                text = f"poly {parts}"
            elif n.op == "load":
                text = f"load {self.tensor(ex.load_tensor(n))} {ex.load_fill(n)} {[self._prints[a] for a in n.args]}"
            else:
                payload_text = n.value[0] if n.op in ("sym", "reduce") else n.value
                text = f"{n.op} {n.dtype} {payload_text} {[self._prints[a] for a in n.args]}"
            rank = b"0" if n.op == "axis" else b"1" if n.op == "sym" else b"2"
            self._prints[n] = rank + (text.encode() if n.op in ("axis", "sym") else hashlib.sha1(text.encode()).digest())
        return self._prints[e]

    def shared(self, roots: Sequence[Expr]) -> list[Expr]:
        """Values other than leaves that several of the nodes below `roots` use and that are worth a name, operands first."""
        uses: dict[Expr, int] = {}
        order: list[Expr] = []
        stack = [(r, False) for r in reversed(roots)]
        seen: set[Expr] = set()
        while stack:
            e, ready = stack.pop()
            if ready:
                order.append(e)
                continue
            uses[e] = uses.get(e, 0) + 1
            if e in seen:
                continue
            seen.add(e)
            stack.append((e, True))
            stack += [(c, False) for c in reversed(self.ordered(e))]
        return [e for e in order if uses[e] > 1 and e.op not in _LEAVES and not self._is_small(e)]

    @staticmethod
    def _is_small(e: Expr) -> bool:
        parts = list(ex.walk(e))
        return len(parts) <= 4 or (e.op == "load" and len(parts) <= 8)

    def show(self, e: Expr, outer: int = 0) -> str:
        """The text of an expression inside an operator that binds as tightly as `outer`."""
        if e in self.names:
            return self.names[e]
        if e.op == "const":
            return literal(e.value) if e.dtype in (dt.int64, dt.boolean) else f"{e.dtype.short}({literal(e.value)})"
        if e.op == "sym":
            return size_name(e.value[0])
        if e.op == "poly":
            text = self._polynomial(e)
            return f"({text})" if outer > 4 or (outer == 4 and len(e.value) > 1) or (outer and text.startswith("-")) else text
        if e.op == "load":
            fill = "" if ex.load_fill(e) is None else f" else {literal(ex.load_fill(e))}"
            return f"{self.tensor(ex.load_tensor(e))}[{', '.join(map(self.show, e.args))}{fill}]"
        if e.op == "reduce":
            return f"{ex.reduce_kind(e)}({', '.join(self.names[a] for a in ex.reduce_axes(e))}: {self.show(e.args[0])})"
        if e.op in ("cast", "bitcast"):
            prefix = "bits_" if e.op == "bitcast" else "" if e.value else "unsaturated_"
            return f"{prefix}{e.dtype.short}({self.show(e.args[0])})"
        if e.op in INFIX:
            level = BINDING[e.op]
            text = f"{self._operand(e.args[0], e.args[1], level)} {INFIX[e.op]} {self._operand(e.args[1], e.args[0], level + 1)}"
            return f"({text})" if level < outer or (level == 3 and outer == 3) else text
        if e.op == "where":
            c, a, b = e.args
            return f"where({self.show(c)}, {self._operand(a, b)}, {self._operand(b, a)})"
        if len(e.args) == 2:
            return f"{e.op}({self._operand(e.args[0], e.args[1])}, {self._operand(e.args[1], e.args[0])})"
        return f"{e.op}({', '.join(map(self.show, e.args))})" if e.args else e.op

    def _operand(self, e: Expr, other: Expr, outer: int = 0) -> str:
        """An operand; a constant needs no type where the other operand has it."""
        if e.is_const and not other.is_const:
            text = literal(e.value)
            return f"({text})" if outer and text.startswith("-") else text
        return self.show(e, outer)

    def _polynomial(self, e: Expr) -> str:
        out = ""
        for mono, k in self._terms(e):
            factors = [self.show(a, 6) for a in mono]
            if abs(k) != 1 or not mono:
                factors.insert(0, str(abs(k)))
            sign = "-" if k < 0 else "+"
            term = "*".join(factors)
            out += f" {sign} {term}" if out else term if k > 0 else f"-{term}"
        return out


def size_name(name: str) -> str:
    """A symbolic size as it stands in expressions."""
    return name if _IDENTIFIER.match(name) and name not in _KEYWORDS else f"?{json.dumps(name)}"


_KEYWORDS = frozenset(
    {*ex.UNARY, *ex.BINARY, *ex.REDUCTIONS, *dt.BY_SHORT, "where", "else", "acc", "True", "False", "inf", "nan", "from", "seq", "optional", "map"}
)


def type_text(type: Type | None, show: Callable[[Expr], str]) -> str:
    """A type as text; `?` where nothing is known."""
    if type is None:
        return "?"
    if isinstance(type, TensorType):
        return f"{type.dtype.short}[{', '.join(map(show, type.shape)) if type.shape is not None else '*'}]"
    if isinstance(type, MapType):
        return f"map({type.key.short}, {type_text(type.value, show)})"
    return f"{'seq' if isinstance(type, SequenceType) else 'optional'}({type_text(type.element, show)})"


def dims_of(type: Type | None) -> tuple[Expr, ...]:
    """The sizes in a type."""
    if isinstance(type, TensorType):
        return type.shape or ()
    if isinstance(type, MapType):
        return dims_of(type.value)
    return dims_of(type.element) if isinstance(type, (SequenceType, OptionalType)) else ()


def size_lines(roots: Iterable[Expr]) -> tuple[list[str], list[str]]:
    """(names of all symbols below the roots, `size` declarations of those without a definition)."""
    symbols = [e for e in ex.walk(roots) if e.op == "sym"]
    plain = sorted({e.value for e in symbols if not e.args})
    return [e.value[0] for e in symbols], [f"size {size_name(n)} >= {least}" for n, least in plain]


def defined_sizes(roots: Iterable[Expr], declared: set[Expr], show: Callable[[Expr], str]) -> Iterator[str]:
    """`size` lines of the symbols with a definition below the roots that were not declared before, operands first."""
    for e in ex.walk(roots):
        if e.op == "sym" and e.args and e not in declared:
            declared.add(e)
            yield f"size {size_name(e.value[0])} >= {e.value[1]} = {show(e.args[0])}"


def origin_text(origin: Sequence[str]) -> str:
    return f" from {', '.join(json.dumps(o) for o in origin)}" if origin else ""


# ------------------------------------------------------------------------------------------------------------------ graphs
def graph_text(graph: Graph, data: bool = False) -> str:
    """The text form of a graph.

    Args:
        data: append the elements of large constants, so that the text stands for itself.
    """
    printer = _GraphPrinter()
    lines = list(printer.graph(graph, 0))
    return "\n".join([*lines, *(data_section(printer.data) if data else ())]) + "\n"


class _GraphPrinter:
    def __init__(self) -> None:
        self.data: dict[str, np.ndarray] = {}
        self.defined: set[Expr] = set()
        self.exprs = ExprPrinter(lambda t: f"%{quoted(t.name)}")

    def graph(self, g: Graph, depth: int) -> Iterator[str]:
        pad = "  " * depth
        constants = _constants(g)
        yield f"{pad}graph {quoted(g.name)} {{"
        if depth == 0:
            yield from (f"{pad}  opset {quoted(domain or 'ai.onnx')} {version}" for domain, version in g.opsets.items())
            yield from (f"{pad}  metadata {json.dumps(k)} {json.dumps(v)}" for k, v in g.metadata.items())
            yield from (f"{pad}  {line}" for line in self._sizes(g))
        for v in g.inputs:
            yield from (f"{pad}  {line}" for line in defined_sizes(dims_of(v.type), self.defined, self.exprs.show))
            default = "" if v.constant is None else " " + array_text(v.constant, self.data)
            yield f"{pad}  input %{quoted(v.name)}: {self.type(v.type)}{default}"
        yield from (f"{pad}  const %{quoted(v.name)}: {self.type(v.type)} {array_text(v.constant, self.data)}" for v in constants)
        yield from (f"{pad}  overridable %{quoted(v.name)}" for v in g.overridable.values() if v in constants)
        width = len(str(max(0, len(g.nodes) - 1)))
        for k, n in enumerate(g.nodes):
            dims = [d for o in n.outputs if o is not None for d in dims_of(o.type)]
            yield from (f"{pad}  {line}" for line in defined_sizes(dims, self.defined, self.exprs.show))
            yield f"{pad}    {k:>{width}}  {self.node(n)}"
            for s in n.subgraphs():
                yield from self.graph(s, depth + 3)
        names = g.output_names if len(g.output_names) == len(g.outputs) else [o.name for o in g.outputs]
        yield from (f"{pad}  output {self.ref(o)}{f' as {quoted(n)}' if n != o.name else ''}" for o, n in zip(g.outputs, names, strict=True))
        yield f"{pad}}}"

    def _sizes(self, g: Graph) -> list[str]:
        values = list(_all_values(g))
        dims = [d for v in values for d in dims_of(v.type)]
        dims += [d for n in g.all_nodes() for a in n.attributes.values() if isinstance(a, TypeValue) for d in dims_of(a.type)]
        names = {v.name for v in values}
        tensors = dict.fromkeys(ex.load_tensor(e) for e in ex.loads(dims))
        _, lines = size_lines([*dims, *(d for t in tensors for d in t.shape)])
        foreign = [t for t in tensors if t.name not in names]
        return lines + [f"tensor %{quoted(t.name)}: {self.type(TensorType(t.dtype, t.shape))}" for t in foreign]

    def type(self, type: Type | None) -> str:
        return type_text(type, self.exprs.show)

    @staticmethod
    def ref(v: Value | None) -> str:
        """A use of a value; names are unique throughout a model."""
        return "-" if v is None else f"%{quoted(v.name)}"

    def node(self, n: Node) -> str:
        outs = ", ".join("-" if o is None else f"%{quoted(o.name)}: {self.type(o.type)}" for o in n.outputs)
        attributes = ""
        if n.attributes:
            count = iter(range(len(list(n.subgraphs()))))
            attributes = f" {{{', '.join(f'{k}={self.attribute(a, count)}' for k, a in n.attributes.items())}}}"
        op = f"{quoted(n.domain)}::{n.op}" if n.domain else n.op
        known = next((o.content for o in n.outputs if o is not None and o.content is not None), None)
        remark = "" if known is None else f"  ; = ({', '.join(e.text for e in known)})"
        return f"{outs or '-'} = {op}-{n.version}({', '.join(map(self.ref, n.inputs))}){attributes}  @ {quoted(n.name)}{origin_text(n.origin)}{remark}"

    def attribute(self, a: Attribute, graphs: Iterator[int]) -> str:
        if isinstance(a, Graph):
            return f"graph {next(graphs)}"
        if isinstance(a, tuple):
            return f"({''.join(self.attribute(x, graphs) + ', ' for x in a).rstrip()})" if a else "()"
        if isinstance(a, np.ndarray):
            return f"array {dt.of_numpy(a.dtype).short}[{', '.join(map(str, a.shape))}] {array_text(a, self.data)}"
        if isinstance(a, TypeValue):
            return f"type {self.type(a.type)}"
        if isinstance(a, DType):
            return f"dtype {a.short}"
        return json.dumps(a) if isinstance(a, str) else literal(a)


def _constants(g: Graph) -> list[Value]:
    """Values with known elements that the graph owns and uses, in order of first use."""
    found: dict[Value, None] = {}
    given = set(g.inputs)

    def visit(inner: Graph) -> None:
        for n in inner.nodes:
            for v in n.inputs:
                if v is not None and v.producer is None and v.constant is not None and v.graph is g and v not in given:
                    found[v] = None
            for s in n.subgraphs():
                visit(s)
        for o in inner.outputs:
            if o.producer is None and o.constant is not None and o.graph is g and o not in given:
                found[o] = None
    visit(g)
    return list(found)


def _all_values(g: Graph) -> Iterator[Value]:
    yield from g.inputs
    yield from _constants(g)
    for n in g.nodes:
        yield from (o for o in n.outputs if o is not None)
        for s in n.subgraphs():
            yield from _all_values(s)


# ---------------------------------------------------------------------------------------------------------------- programs
def program_text(program: NestProgram, data: bool = False) -> str:
    """The text form of a lowered program.

    Args:
        data: append the elements of large constants.
    """
    printer = _ProgramPrinter(program)
    lines = list(printer.lines())
    return "\n".join([*lines, *(data_section(printer.data) if data else ())]) + "\n"


def nest_text(nest: Nest) -> str:
    """One nest, as it stands in a program."""
    return "\n".join(_ProgramPrinter(NestProgram([], {}, [nest], [])).nest(nest)) + "\n"


class _ProgramPrinter:
    def __init__(self, program: NestProgram) -> None:
        self.program = program
        self.data: dict[str, np.ndarray] = {}
        self.names: dict[Ref, str] = {}
        self.taken: set[str] = set()
        self.declared: set[Ref] = {*program.inputs, *program.constants}
        self.tensors = _tensors(program)
        roots = [d for t in self.tensors for d in t.shape] + [e for n in program.nests for e in (*_expressions(n), *_extents(n))]
        roots += [c.condition for c in program.checks]
        self.sizes, self.declarations = size_lines(roots)
        self.defined: set[Expr] = set()
        self.plain = ExprPrinter(self.tensor, self.sizes)

    def tensor(self, r: Ref) -> str:
        """The reference of a tensor or host value; a second one of the same name gets a number."""
        name = self.names.get(r)
        if name is None:
            name, k = r.name, 1
            while name in self.taken:
                k += 1
                name = f"{r.name}.{k}"
            self.taken.add(name)
            self.names[r] = name
        return f"%{quoted(name)}"

    def declaration(self, r: Ref, show: Callable[[Expr], str] | None = None) -> str:
        if isinstance(r, HostRef):
            return f"{self.tensor(r)}: host"
        return f"{self.tensor(r)}: {type_text(TensorType(r.dtype, r.shape), show or self.plain.show)}"

    def lines(self) -> Iterator[str]:
        p = self.program
        yield "program {"
        yield from (f"  {line}" for line in self.declarations)
        yield from self._definitions([d for r in (*p.inputs, *p.constants) if isinstance(r, Tensor) for d in r.shape])
        yield from (f"  input {self.declaration(r)}" for r in p.inputs)
        yield from (f"  const {self.declaration(t)} {array_text(np.asarray(a), self.data)}" for t, a in p.constants.items())
        for nest in p.nests:
            shapes = [d for o in nest.outputs if isinstance(o, Tensor) for d in o.shape]
            yield from self._definitions((*shapes, *_expressions(nest), *_extents(nest)))
            yield from (f"  {line}" for line in self.nest(nest))
        yield from self._definitions([c.condition for c in p.checks])
        yield from (f"  {'demand' if c.held else 'check'} {self.plain.show(c.condition)} {json.dumps(c.reason)}" for c in p.checks)
        yield from (f"  output {self.tensor(o)}" for o in p.outputs)
        yield "}"

    def _definitions(self, roots: Iterable[Expr]) -> Iterator[str]:
        return (f"  {line}" for line in defined_sizes(roots, self.defined, self.plain.show))

    def nest(self, nest: Nest) -> Iterator[str]:
        printer = ExprPrinter(self.tensor, self.sizes)
        if isinstance(nest, MapNest):
            yield f"map {printer.declare(nest.axes, 'i')}".rstrip() + origin_text(nest.origin)
        elif isinstance(nest, ContractionNest):
            groups = (("batch", nest.batch, "i"), ("rows", nest.rows, "i"), ("columns", nest.columns, "i"), ("reduced", nest.reduced, "k"))
            head = "; ".join(f"{word} {printer.declare(axes, stem)}" for word, axes, stem in groups if axes)
            yield f"contraction {nest.dtype.short} {head}".rstrip() + origin_text(nest.origin)
        elif isinstance(nest, RoutineNest):
            yield self._routine(nest)
            yield from self._results(nest, printer)
            return
        else:
            inputs = ", ".join("-" if r is None else self.tensor(r) for r in nest.inputs)
            name = getattr(nest.function, "__qualname__", type(nest.function).__name__)
            yield f"host {json.dumps(name)}({inputs}) reason {json.dumps(nest.reason)}{origin_text(nest.origin)}"
            yield from self._results(nest, printer)
            return
        roots = list(_expressions(nest))
        inner = list(dict.fromkeys(a for e in ex.walk(roots) if e.op == "reduce" for a in ex.reduce_axes(e)))
        yield from (f"  {printer.declare([a], 'r')}" for a in inner)
        for e in printer.shared(roots):
            text = printer.show(e)
            printer.names[e] = printer.fresh("t")
            yield f"  {printer.names[e]} = {text}"
        if isinstance(nest, ContractionNest):
            yield f"  a = {printer.show(nest.a)}"
            yield f"  b = {printer.show(nest.b)}"
        for s in nest.stores:
            if s.tensor not in self.declared:
                self.declared.add(s.tensor)
                yield f"  {self.declaration(s.tensor, printer.show)}"
            yield f"  {self.tensor(s.tensor)}[{', '.join(map(printer.show, s.index))}] = {printer.show(s.value)}"

    def _routine(self, nest: RoutineNest) -> str:
        show = self.plain.show
        text = f"routine {json.dumps(nest.routine.name)}({', '.join(map(self.tensor, nest.inputs))})"
        if nest.parameters:
            text += f" parameters ({', '.join(map(show, nest.parameters))})"
        text += f" units {show(nest.units)}"
        if not (nest.scratch_bytes.is_const and nest.scratch_bytes.value == 0):
            text += f" scratch {show(nest.scratch_bytes)}"
        if nest.constants:
            text += f" constants {{{', '.join(f'{k}={literal(v)}' for k, v in nest.constants)}}}"
        return text + origin_text(nest.origin)

    def _results(self, nest: RoutineNest | HostNest, printer: ExprPrinter) -> Iterator[str]:
        for r in nest.results:
            self.declared.add(r)
            yield f"  {self.declaration(r, printer.show)}"


def _expressions(nest: Nest) -> Iterator[Expr]:
    """All expressions of a nest that its body shows."""
    if isinstance(nest, RoutineNest):
        yield from (*nest.parameters, nest.units, nest.scratch_bytes)
    elif isinstance(nest, (MapNest, ContractionNest)):
        if isinstance(nest, ContractionNest):
            yield from (nest.a, nest.b)
        for s in nest.stores:
            yield from (*s.index, s.value)


def _extents(nest: Nest) -> Iterator[Expr]:
    """The extents of all axes of a nest, those of its reductions included."""
    if isinstance(nest, (MapNest, ContractionNest)):
        yield from (a.extent for a in nest.axes + (nest.reduced if isinstance(nest, ContractionNest) else ()))
        yield from (a.extent for e in ex.walk(_expressions(nest)) if e.op == "reduce" for a in ex.reduce_axes(e))


def _tensors(program: NestProgram) -> list[Tensor]:
    refs = [*program.inputs, *program.constants, *(o for n in program.nests for o in n.outputs)]
    return [r for r in refs if isinstance(r, Tensor)]
