"""The pieces of the text form: lines, types, arrays and expressions (`ir.text` writes them)."""
from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from . import dtypes as dt
from . import expr as ex
from .dtypes import DType
from .errors import ModelError
from .expr import Expr, Tensor
from .graph import MapType, OptionalType, SequenceType, TensorType, Type
from .text import BARE, BINDING, INFIX

T = TypeVar("T")

_TOKEN = re.compile(r"""
    (?P<space>\s+)
  | (?P<tensor>%(?:[A-Za-z_][\w./$-]*|"(?:[^"\\]|\\.)*"))
  | (?P<size>\?"(?:[^"\\]|\\.)*")
  | (?P<bytes>b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*")
  | (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<number>(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|\d+|inf\b|nan\b))
  | (?P<hash>\#[0-9a-f]{12})
  | (?P<word>[A-Za-z_]\w*)
  | (?P<sign>//|<=|>=|==|!=|::|[-+*/%<>&|()\[\]{},:=;?@.!$])
""", re.VERBOSE)

_OPERATORS = {sign: op for op, sign in INFIX.items()}


@dataclass(frozen=True)
class Literal:
    """A number whose type its neighbour gives."""

    value: int | float | bool


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    begin: int


class Line:
    """The tokens of one line, read from left to right."""

    def __init__(self, text: str, number: int) -> None:
        self.number, self.text = number, text
        self.tokens: list[Token] = []
        at = 0
        while at < len(text) and not text.startswith("  ; ", max(0, at - 2)):
            m = _TOKEN.match(text, at)
            if m is None:
                raise self.error(f"unexpected {text[at]!r}")
            if m.lastgroup != "space":
                self.tokens.append(Token(m.lastgroup, m.group(), at))
            at = m.end()
        self.at = 0

    def error(self, reason: str) -> ModelError:
        return ModelError(f"line {self.number}: {reason} in {self.text.strip()!r}")

    def peek(self, ahead: int = 0) -> str:
        k = self.at + ahead
        return self.tokens[k].text if k < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        k = self.at + ahead
        return self.tokens[k].kind if k < len(self.tokens) else ""

    def next(self) -> str:
        if self.at >= len(self.tokens):
            raise self.error("the line ends too early")
        self.at += 1
        return self.tokens[self.at - 1].text

    def accept(self, text: str) -> bool:
        if self.peek() == text and self.kind() != "string":
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(f"{text!r} was expected before {self.peek()!r}")

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise self.error(f"{self.peek()!r} is left over")

    def name(self) -> str:
        """A bare or quoted name."""
        if self.kind() == "string":
            return json.loads(self.next())
        m = BARE.match(self.text, self.tokens[self.at].begin) if self.peek() else None
        if m is None:
            raise self.error(f"a name was expected before {self.peek()!r}")
        while self.at < len(self.tokens) and self.tokens[self.at].begin < m.end():
            self.at += 1
        return m.group()

    def reference(self) -> str:
        """The name of `%name`."""
        if self.kind() != "tensor":
            raise self.error(f"a %name was expected before {self.peek()!r}")
        name = self.next()[1:]
        return json.loads(name) if name.startswith('"') else name

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        return sign * int(self.next())

    def items(self, close: str, read: Callable[[], T]) -> list[T]:
        """What `read` gives, separated by commas, up to `close`; a trailing comma is allowed."""
        out: list[T] = []
        while not self.accept(close):
            out.append(read())
            if not self.accept(","):
                self.expect(close)
                break
        return out


def _lines(text: str) -> list[Line]:
    """The lines that say something; remarks are dropped. Elements in a data section are not tokens."""
    out: list[Line] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line and not line.startswith(";"):
            out.append(Line(line.split("] ", 1)[0] + "]" if line.startswith("#") else line, number))
            out[-1].text = line
    return out


# ------------------------------------------------------------------------------------------------------------------ reader
class Reader:
    """What graphs and programs share: lines, sizes, types, arrays, expressions."""

    def __init__(self, text: str, arrays: Mapping[str, np.ndarray] | None) -> None:
        self.lines = _lines(text)
        self.position = 0
        self.arrays = {**_data(self.lines), **(arrays or {})}
        self.sizes: dict[str, Expr] = {}
        self.names: dict[str, Expr] = {}  # axes and repeated values of the present nest
        self.accumulator: DType | None = None

    def line(self) -> Line:
        if self.position >= len(self.lines):
            raise ModelError("the text ends before its last }")
        self.position += 1
        return self.lines[self.position - 1]

    def ahead(self) -> Line | None:
        return self.lines[self.position] if self.position < len(self.lines) else None

    def tensor(self, line: Line) -> Tensor:
        """The tensor that an expression loads from."""
        raise NotImplementedError

    def size_line(self, line: Line) -> None:
        name = json.loads(line.next()[1:]) if line.kind() == "size" else line.next()
        line.expect(">=")
        least = line.integer()
        if line.accept("="):
            self.names = {}
            definition = self.expr(line)
            self.sizes[name] = ex.make("sym", (definition,), dt.int64, (name, least))
        else:
            self.sizes[name] = ex.sym(name, least)

    # ---- types and arrays
    def type(self, line: Line) -> Type | None:
        if line.accept("?"):
            return None
        word = line.next()
        if word in ("seq", "optional"):
            line.expect("(")
            inner = self.type(line)
            line.expect(")")
            return SequenceType(inner) if word == "seq" else OptionalType(inner)
        if word == "map":
            line.expect("(")
            key = self.dtype(line, line.next())
            line.expect(",")
            inner = self.type(line)
            line.expect(")")
            return MapType(key, inner)
        dtype = self.dtype(line, word)
        line.expect("[")
        if line.accept("*"):
            line.expect("]")
            return TensorType(dtype, None)
        return TensorType(dtype, tuple(line.items("]", lambda: self.expr(line))))

    def dtype(self, line: Line, word: str) -> DType:
        found = dt.BY_SHORT.get(word)
        if found is None:
            raise line.error(f"{word!r} is no element type")
        return found

    def tensor_type(self, line: Line) -> TensorType:
        found = self.type(line)
        if not isinstance(found, TensorType) or found.shape is None:
            raise line.error("a tensor type of known rank was expected")
        return found

    def array(self, line: Line, dtype: DType, shape: Sequence[int]) -> np.ndarray:
        """Elements written out after `=`, or those of a hash."""
        if line.accept("="):
            value = self.number_list(line)
            return np.array(value, dtype.numpy).reshape(tuple(shape))
        if line.kind() != "hash":
            raise line.error("elements (= ...) or a hash (#...) were expected")
        key = line.next()[1:]
        if key not in self.arrays:
            raise line.error(f"the elements of #{key} are not given")
        return self.arrays[key]

    def number_list(self, line: Line) -> object:
        if line.accept("["):
            return line.items("]", lambda: self.number_list(line))
        return self.number(line)

    def number(self, line: Line) -> int | float | bool:
        sign = -1 if line.accept("-") else 1
        word = line.next()
        if word in ("True", "False"):
            return word == "True"
        if word in ("inf", "nan"):
            return sign * float(word)
        if not word[0].isdigit():
            raise line.error(f"a number was expected before {word!r}")
        return sign * (float(word) if "." in word or "e" in word else int(word))

    # ---- expressions
    def expr(self, line: Line, dtype: DType = dt.int64) -> Expr:
        """An expression; a bare number is of type `dtype`."""
        return typed(self.binary(line, 1), dtype)

    def binary(self, line: Line, level: int) -> Expr | Literal:
        left = self.primary(line)
        while True:
            op = _OPERATORS.get(line.peek()) if line.kind() == "sign" else None
            if op is None or BINDING[op] < level:
                return left
            line.next()
            right = self.binary(line, BINDING[op] + 1)
            a, b = _agree(left, right)
            left = ex.binary(op, a, b)

    def primary(self, line: Line) -> Expr | Literal:
        if line.accept("("):
            inner = self.binary(line, 1)
            line.expect(")")
            return inner
        if line.accept("-"):
            inner = self.primary(line)
            return Literal(-inner.value) if isinstance(inner, Literal) else self._product(line, ex.unary("neg", inner))
        if line.kind() == "number" or line.peek() in ("True", "False"):
            return Literal(self.number(line))
        if line.kind() == "tensor":
            return self.load(line)
        if line.kind() == "size":
            return self.size(line, json.loads(line.next()[1:]))
        if line.kind() != "word":
            raise line.error(f"an expression was expected before {line.peek()!r}")
        word = line.next()
        if line.peek() == "(" and word not in self.names and word not in self.sizes:
            return self.call(line, word)
        if word in self.names:
            return self.names[word]
        if word == "acc" and self.accumulator is not None:
            return ex.acc(self.accumulator)
        return self.size(line, word)

    def _product(self, line: Line, left: Expr) -> Expr:
        """The rest of a product that began with a sign."""
        while line.peek() == "*":
            line.next()
            a, b = _agree(left, self.primary(line))
            left = ex.binary("mul", a, b)
        return left

    def size(self, line: Line, name: str) -> Expr:
        if name not in self.sizes:
            raise line.error(f"{name!r} is neither a size nor an axis nor a value of this nest")
        return self.sizes[name]

    def load(self, line: Line) -> Expr:
        t = self.tensor(line)
        line.expect("[")
        index: list[Expr] = []
        fill = None
        while not line.accept("]"):
            index.append(self.expr(line))
            if line.accept("else"):
                fill = self.number(line)
            elif not line.accept(","):
                line.expect("]")
                break
        return ex.load(t, index, fill)

    def call(self, line: Line, word: str) -> Expr:
        line.expect("(")
        if word in ex.REDUCTIONS and self._is_reduction(line):
            axes = []
            while not line.accept(":"):
                axes.append(self.names[line.next()])
                line.accept(",")
            body = self.expr(line)
            line.expect(")")
            return ex.reduce(word, axes, body)
        args = line.items(")", lambda: self.binary(line, 1))
        for prefix, saturate in (("unsaturated_", False), ("bits_", True), ("", True)):
            if word.startswith(prefix) and word.removeprefix(prefix) in dt.BY_SHORT and len(args) == 1:
                return self._conversion(args[0], dt.BY_SHORT[word.removeprefix(prefix)], prefix == "bits_", saturate)
        if word == "where" and len(args) == 3:
            a, b = _agree(args[1], args[2])
            return ex.where(typed(args[0], dt.boolean), a, b)
        if word in ex.UNARY and len(args) == 1:
            return ex.unary(word, typed(args[0], dt.int64))
        if word in ex.BINARY and len(args) == 2:
            return ex.binary(word, *_agree(args[0], args[1]))
        raise line.error(f"{word!r} with {len(args)} operands is no operator")

    def _is_reduction(self, line: Line) -> bool:
        k = 0
        while line.kind(k) == "word" and line.peek(k) in self.names:
            if line.peek(k + 1) == ":":
                return True
            k += 2
        return False

    @staticmethod
    def _conversion(a: Expr | Literal, dtype: DType, bits: bool, saturate: bool) -> Expr:
        if isinstance(a, Literal):
            return ex.const(a.value, dtype)
        return ex.bitcast(a, dtype) if bits else ex.cast(a, dtype, saturate)

    def origin(self, line: Line) -> tuple[str, ...]:
        if not line.accept("from"):
            return ()
        names = [json.loads(line.next())]
        while line.accept(","):
            names.append(json.loads(line.next()))
        return tuple(names)


def typed(e: Expr | Literal, dtype: DType) -> Expr:
    if isinstance(e, Expr):
        return e
    return ex.const(e.value, dt.boolean if isinstance(e.value, bool) else dtype)


def _agree(a: Expr | Literal, b: Expr | Literal) -> tuple[Expr, Expr]:
    """Two operands, a bare number taking the type of the other."""
    if isinstance(a, Expr):
        return a, b if isinstance(b, Expr) else ex.const(b.value, a.dtype)
    if isinstance(b, Expr):
        return ex.const(a.value, b.dtype), b
    return typed(a, dt.int64), typed(b, dt.int64)


def _data(lines: list[Line]) -> dict[str, np.ndarray]:
    """The arrays of the data section."""
    out: dict[str, np.ndarray] = {}
    for line in lines:
        m = re.match(r"#([0-9a-f]{12}) (\w+)\[([\d, ]*)\] (\S+)$", line.text)
        if m is None:
            continue
        key, short, shape, text = m.groups()
        dtype = dt.BY_SHORT[short]
        raw = zlib.decompress(base64.b64decode(text))
        if dtype is dt.string:
            items = [x if isinstance(x, str) else bytes.fromhex(x["bytes"]) for x in json.loads(raw)]
            flat = np.array(items, object)
        else:
            flat = np.frombuffer(raw, dtype.numpy)
        out[key] = flat.reshape(tuple(int(d) for d in shape.split(",") if d.strip())).copy()
    return out
