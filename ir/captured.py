"""Python functions as data: syntax tree, the values they refer to, and a fingerprint of both."""
from __future__ import annotations

import ast
import hashlib
import inspect
import secrets
import textwrap
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Captured:
    """A function as it was when it was captured.

    Args:
        function: itself.
        tree: its definition without decorators and docstring, or None where the source is not available.
        values: globals and closure variables that it names; numbers, tuples and arrays are copies, functions are captured as well.
        fingerprint: digest of source (else bytecode), defaults and values; objects that cannot be digested make it unique.
    """

    function: Callable[..., Any]
    tree: ast.FunctionDef | None
    values: Mapping[str, object]
    fingerprint: str

    @property
    def name(self) -> str:
        return self.function.__name__

    def line(self, node: ast.AST) -> int:
        """Line of a node in the function's file."""
        return int(self.function.__code__.co_firstlineno + getattr(node, "lineno", 1) - 1)


def capture(function: Callable[..., Any], seen: dict[int, Captured] | None = None) -> Captured:
    """Take a function's source and the values it refers to; later changes of globals do not count."""
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"a plain Python function is expected, not {type(function).__name__}")
    seen = {} if seen is None else seen
    if id(function) in seen:
        return seen[id(function)]
    tree = _definition(function)
    values: dict[str, object] = {}
    found = Captured(function, tree, values, "")
    seen[id(function)] = found
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or ()))
    for name in sorted(_names(code)):
        if name in cells:
            values[name] = _frozen(cells[name].cell_contents, seen)
        elif name in function.__globals__:
            values[name] = _frozen(function.__globals__[name], seen)
    digest = hashlib.sha256(ast.dump(tree).encode() if tree is not None else _bytecode(code))
    for part in (function.__defaults__, function.__kwdefaults__, values):
        digest.update(_spelled(_frozen(part, seen)).encode())
    object.__setattr__(found, "fingerprint", digest.hexdigest())
    return found


def _names(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return {*code.co_names, *code.co_freevars}.union(*map(_names, inner))


def _bytecode(code: types.CodeType) -> bytes:
    constants = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c).encode() for c in code.co_consts]
    return b"|".join([code.co_code, repr((code.co_names, code.co_varnames)).encode(), *constants])


def _definition(function: types.FunctionType) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    if not isinstance(tree, ast.FunctionDef):
        lambdas = [n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and _is_code_of(n, function.__code__)]
        if function.__name__ != "<lambda>" or len({ast.dump(n) for n in lambdas}) != 1:
            return None
        body = ast.copy_location(ast.Return(lambdas[0].body), lambdas[0].body)
        tree = ast.copy_location(ast.FunctionDef("function", lambdas[0].args, [body], []), lambdas[0])
    tree.decorator_list = []
    first = tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        tree.body = tree.body[1:] or [ast.copy_location(ast.Pass(), first)]
    return tree


def _is_code_of(tree: ast.Lambda, code: types.CodeType) -> bool:
    """Whether a lambda of the same line has the same arguments, names and constants as the code."""
    made = next(c for c in compile(ast.Expression(tree), "", "eval").co_consts if isinstance(c, types.CodeType))
    return made.co_varnames == code.co_varnames and _names(made) == _names(code) and made.co_consts == code.co_consts


def _frozen(value: object, seen: dict[int, Captured]) -> object:
    if isinstance(value, (tuple, list)):
        return tuple(_frozen(v, seen) for v in value)
    if isinstance(value, dict):
        return {k: _frozen(v, seen) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        copy = value.copy()
        copy.flags.writeable = False
        return copy
    return capture(value, seen) if isinstance(value, types.FunctionType) and not _is_library(value.__module__) else value


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in ("numpy", "math")


def _spelled(value: object) -> str:
    """A text that is equal for equal values only."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_spelled, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_spelled(k)}: {_spelled(v)}' for k, v in value.items())}}}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Captured):
        return f"function {value.fingerprint or 'itself'}"
    if isinstance(value, types.ModuleType):
        path = getattr(value, "__file__", None)
        source = ""
        if path is not None:
            with open(path, "rb") as f:
                source = hashlib.sha256(f.read()).hexdigest()
        return f"module {value.__name__} {getattr(value, '__version__', '')} {source}"
    if isinstance(value, (type, types.BuiltinFunctionType, np.ufunc, types.FunctionType)) and _is_library(getattr(value, "__module__", None) or "numpy"):
        return f"{type(value).__name__} {value.__name__}"
    if isinstance(value, (type, types.BuiltinFunctionType)) and value.__module__ == "builtins":
        return f"builtin {value.__name__}"
    return f"object {secrets.token_hex(16)}"
