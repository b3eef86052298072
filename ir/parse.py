"""Reads the text form of graphs and of programs of loop nests (`ir.text` writes it)."""
from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from . import dtypes as dt
from . import expr as ex
from .expr import Expr, Tensor
from .graph import Attribute, Graph, TensorType, TypeValue, Value
from .infer import tensor_of
from .loops import Check, ContractionNest, HostNest, HostRef, MapNest, Nest, NestProgram, Ref, Routine, RoutineNest, Store
from .parse_expr import Line, Reader, typed
from .text import BINDING


# ------------------------------------------------------------------------------------------------------------------ graphs
def parse_graph(text: str, arrays: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that a text describes; types are taken from the text, contents are left to inference.

    Args:
        arrays: elements of constants by hash (`ir.text.digest`), where the text has no data section.

    Raises:
        ModelError: the text does not follow the form, or elements are missing; names the line.
    """
    reader = _GraphReader(text, arrays)
    line = reader.line()
    return reader.graph(line, None)


class _GraphReader(Reader):
    def __init__(self, text: str, arrays: Mapping[str, np.ndarray] | None) -> None:
        super().__init__(text, arrays)
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}

    def tensor(self, line: Line) -> Tensor:
        name = line.reference()
        if name in self.tensors:
            return self.tensors[name]
        if name in self.values:
            return tensor_of(self.values[name])
        raise line.error(f"%{name} is not declared")

    def graph(self, line: Line, parent: Graph | None) -> Graph:
        line.expect("graph")
        g = Graph(line.name(), parent)
        line.expect("{")
        while True:
            line = self.line()
            if line.accept("}"):
                break
            if line.kind() == "word":
                self._declaration(line, g)
            else:
                self._node(line, g)
        return g

    def _declaration(self, line: Line, g: Graph) -> None:
        word = line.next()
        if word == "opset":
            domain = line.name()
            g.opsets["" if domain == "ai.onnx" else domain] = line.integer()
        elif word == "metadata":
            key = json.loads(line.next())
            g.metadata[key] = json.loads(line.next())
        elif word == "size":
            self.size_line(line)
        elif word == "tensor":
            name = line.reference()
            line.expect(":")
            t = self.tensor_type(line)
            self.tensors[name] = Tensor(name, t.dtype, t.shape)
        elif word in ("input", "const"):
            v = self._value(line, g)
            if word == "input":
                g.inputs.append(v)
            if line.peek():
                if not isinstance(v.type, TensorType):
                    raise line.error(f"%{v.name} is no tensor")
                v.constant = self.array(line, v.type.dtype, [d.value for d in v.type.shape])
        elif word == "output":
            g.outputs.append(self._use(line))
            g.output_names.append(line.name() if line.accept("as") else g.outputs[-1].name)
        elif word == "overridable":
            value = self._use(line)
            g.overridable[value.name] = value
        else:
            raise line.error(f"{word!r} begins no line of a graph")
        line.end()

    def _value(self, line: Line, g: Graph) -> Value:
        name = line.reference()
        line.expect(":")
        v = g.value(name, self.type(line))
        if v.name != name:
            raise line.error(f"%{name} is defined twice")
        self.values[name] = v
        return v

    def _use(self, line: Line) -> Value:
        name = line.reference()
        if name not in self.values:
            raise line.error(f"%{name} is not defined")
        return self.values[name]

    def _node(self, line: Line, g: Graph) -> None:
        if line.kind() == "number":
            line.next()
        outputs: list[Value | None] = []
        while not line.accept("="):
            outputs.append(None if line.accept("-") else self._value(line, g))
            line.accept(",")
        domain = ""
        op = line.name()
        if line.accept("::"):
            domain, op = op, line.name()
        op, _, version = op.rpartition("-")
        line.expect("(")
        inputs = line.items(")", lambda: None if line.accept("-") else self._use(line))
        attributes: dict[str, Attribute] = {}
        pending: list[tuple[str, int | None]] = []
        if line.accept("{"):
            for key, value in line.items("}", lambda: self._attribute(line, pending)):
                attributes[key] = value
        line.expect("@")
        name = line.name()
        node = g.add(op, inputs, attributes, outputs=outputs, domain=domain, version=int(version), name=name, origin=self.origin(line))
        if node.name != name:
            raise line.error(f"a second node is called {name}")
        line.end()
        graphs = [self.graph(self.line(), g) for _ in pending]
        if graphs:
            node.attributes = {k: _with_graphs(a, graphs) for k, a in attributes.items()}

    def _attribute(self, line: Line, pending: list) -> tuple[str, Attribute]:
        key = line.name()
        line.expect("=")
        return key, self._attribute_value(line, pending)

    def _attribute_value(self, line: Line, pending: list) -> Attribute:
        if line.accept("("):
            return tuple(line.items(")", lambda: self._attribute_value(line, pending)))
        if line.kind() == "string":
            return json.loads(line.next())
        if line.kind() == "bytes":
            return ast.literal_eval(line.next())
        if line.accept("array"):
            dtype = self.dtype(line, line.next())
            line.expect("[")
            return self.array(line, dtype, line.items("]", line.integer))
        if line.accept("type"):
            return TypeValue(self.type(line))
        if line.accept("dtype"):
            return self.dtype(line, line.next())
        if line.accept("graph"):
            index = line.integer()
            pending.append(index)
            return _GraphNumber(index)
        return self.number(line)


@dataclass(frozen=True)
class _GraphNumber:
    """Stands for a subgraph whose text follows its node's line."""

    index: int


def _with_graphs(a: Attribute, graphs: Sequence[Graph]) -> Attribute:
    if isinstance(a, _GraphNumber):
        return graphs[a.index]
    return tuple(_with_graphs(x, graphs) for x in a) if isinstance(a, tuple) else a


# ---------------------------------------------------------------------------------------------------------------- programs
def parse_program(text: str, arrays: Mapping[str, np.ndarray] | None = None, routines: Mapping[str, Routine] | None = None,
                  functions: Mapping[str, Callable[..., Sequence[object]]] | None = None) -> NestProgram:
    """The program of loop nests that a text describes.

    Args:
        arrays: elements of constants by hash, where the text has no data section.
        routines: the routines that the text names.
        functions: the host functions that the text names.

    Raises:
        ModelError: the text does not follow the form, or something that it names is not given; names the line.
    """
    return _ProgramReader(text, arrays, routines or {}, functions or {}).program()


class _ProgramReader(Reader):
    def __init__(self, text: str, arrays: Mapping[str, np.ndarray] | None, routines: Mapping[str, Routine],
                 functions: Mapping[str, Callable[..., Sequence[object]]]) -> None:
        super().__init__(text, arrays)
        self.refs: dict[str, Ref] = {}
        self.routines, self.functions = routines, functions

    def tensor(self, line: Line) -> Tensor:
        found = self.use(line)
        if not isinstance(found, Tensor):
            raise line.error(f"%{found.name} is no tensor")
        return found

    def use(self, line: Line) -> Ref:
        name = line.reference()
        if name not in self.refs:
            raise line.error(f"%{name} is not defined")
        return self.refs[name]

    def declared(self, line: Line) -> Ref:
        name = line.reference()
        line.expect(":")
        if name in self.refs:
            raise line.error(f"%{name} is defined twice")
        if line.accept("host"):
            self.refs[name] = HostRef(name)
        else:
            t = self.tensor_type(line)
            self.refs[name] = Tensor(name, t.dtype, t.shape)
        return self.refs[name]

    def program(self) -> NestProgram:
        program = NestProgram([], {}, [], [])
        line = self.line()
        line.expect("program")
        line.expect("{")
        while True:
            line = self.line()
            if line.accept("}"):
                return program
            word = line.next()
            if word == "size":
                self.size_line(line)
            elif word == "input":
                program.inputs.append(self.declared(line))
            elif word == "const":
                t = self.declared(line)
                if not isinstance(t, Tensor):
                    raise line.error(f"%{t.name} is no tensor")
                program.constants[t] = self.array(line, t.dtype, [d.value for d in t.shape])
            elif word in ("check", "demand"):
                program.checks.append(Check(self.expr(line), json.loads(line.next()), word == "demand"))
            elif word == "output":
                program.outputs.append(self.use(line))
            elif word in _NESTS:
                program.nests.append(_NESTS[word](self, line))
            else:
                raise line.error(f"{word!r} begins no line of a program")
            line.end()

    def _axes(self, line: Line) -> tuple[Expr, ...]:
        """`i0 < N, i1 < 4`"""
        out = []
        while line.kind() == "word" and line.peek(1) == "<":
            name = line.next()
            line.next()
            out.append(self.names.setdefault(name, ex.axis(typed(self.binary(line, BINDING["lt"] + 1), dt.int64), name.rstrip("0123456789"))))
            line.accept(",")
        return tuple(out)

    def map(self, line: Line) -> Nest:
        self.names, self.accumulator = {}, None
        axes = self._axes(line)
        origin = self.origin(line)
        return MapNest(axes, tuple(self._body()[1]), origin)

    def contraction(self, line: Line) -> Nest:
        self.names, self.accumulator = {}, self.dtype(line, line.next())
        groups: dict[str, tuple[Expr, ...]] = {}
        while line.peek() in ("batch", "rows", "columns", "reduced"):
            word = line.next()
            groups[word] = self._axes(line)
            line.accept(";")
        origin = self.origin(line)
        values, stores = self._body()
        if not {"a", "b"} <= values.keys():
            raise line.error("a contraction needs lines for a and b")
        batch, rows, columns, reduced = (groups.get(k, ()) for k in ("batch", "rows", "columns", "reduced"))
        return ContractionNest(batch, rows, columns, reduced, values["a"], values["b"], self.accumulator, tuple(stores), origin)

    def _body(self) -> tuple[dict[str, Expr], list[Store]]:
        """The lines of a map or contraction: reduced axes, repeated values, operands, declarations and stores."""
        values: dict[str, Expr] = {}
        stores: list[Store] = []
        while True:
            line = self.ahead()
            if line is None or line.kind() not in ("tensor", "word") or (line.kind() == "word" and line.peek(1) not in ("<", "=")):
                return values, stores
            self.position += 1
            if line.kind() == "tensor" and line.peek(1) == ":":
                self.declared(line)
            elif line.kind() == "tensor":
                t = self.tensor(line)
                line.expect("[")
                index = line.items("]", partial(self.expr, line))
                line.expect("=")
                stores.append(Store(t, tuple(index), self.expr(line, t.dtype)))
            elif line.peek(1) == "<":
                self._axes(line)
            else:
                name = line.next()
                line.expect("=")
                values[name] = self.expr(line)
                if name not in ("a", "b"):
                    self.names[name] = values[name]
            line.end()

    def routine(self, line: Line) -> Nest:
        self.names = {}
        name = json.loads(line.next())
        if name not in self.routines:
            raise line.error(f"the routine {name} is not given")
        line.expect("(")
        inputs = line.items(")", lambda: self.tensor(line))
        parameters: list[Expr] = []
        units, scratch, constants = ex.const(1), ex.const(0), []
        if line.accept("parameters"):
            line.expect("(")
            parameters = line.items(")", lambda: self.expr(line))
        if line.accept("units"):
            units = self.expr(line)
        if line.accept("scratch"):
            scratch = self.expr(line)
        if line.accept("constants"):
            line.expect("{")
            constants = line.items("}", lambda: self._constant(line))
        origin = self.origin(line)
        results = self._results()
        tensors = [r for r in results if isinstance(r, Tensor)]
        if len(tensors) != len(results):
            raise line.error("a routine writes tensors only")
        return RoutineNest(self.routines[name], tuple(inputs), tuple(tensors), tuple(parameters), units, scratch, tuple(constants), origin)

    def _constant(self, line: Line) -> tuple[str, int | float | bool]:
        name = line.next()
        line.expect("=")
        return name, self.number(line)

    def host(self, line: Line) -> Nest:
        self.names = {}
        name = json.loads(line.next())
        if name not in self.functions:
            raise line.error(f"the host function {name} is not given")
        line.expect("(")
        inputs = line.items(")", lambda: None if line.accept("-") else self.use(line))
        line.expect("reason")
        reason = json.loads(line.next())
        origin = self.origin(line)
        return HostNest(self.functions[name], tuple(inputs), tuple(self._results()), reason, origin)

    def _results(self) -> list[Ref]:
        out = []
        while (line := self.ahead()) is not None and line.kind() == "tensor":
            self.position += 1
            out.append(self.declared(line))
            line.end()
        return out


_NESTS: dict[str, Callable[[_ProgramReader, Line], Nest]] = {
    "map": _ProgramReader.map, "contraction": _ProgramReader.contraction, "routine": _ProgramReader.routine, "host": _ProgramReader.host,
}
