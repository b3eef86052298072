"""Routine nests to kernel calls: the Python source of a routine becomes the kernel's text."""
from __future__ import annotations

import ast
import builtins
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..ir.errors import CompileError
from ..ir.kernel import KernelCall, KernelSource
from ..ir.loops import RoutineNest
from ..ir.target import Target
from . import mathlib

NAMESPACE = frozenset(
    ["math", "np", "device", "load", "store", "add_panel_product",
     "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "complex64", "complex128"]
)
INTRINSICS = (("load", "load", ()), ("store", "store", ()), ("add_panel_product", "panel_product", ()))
Number = int | float | bool


def routine_call(nest: RoutineNest, target: Target) -> KernelCall:
    """The launch of a routine: buffers are row-major, inputs then outputs.

    Raises:
        CompileError: the routine's source is not available, or uses a name that is neither a constant nor one of its helpers.
    """
    buffers = (*nest.inputs, *nest.results)
    text = routine_text(nest.routine.function, nest.routine.helpers, dict(nest.constants), len(buffers) + len(nest.parameters))
    types = tuple(t.dtype for t in buffers)
    written = (False,) * len(nest.inputs) + (True,) * len(nest.results)
    name = "_".join(("routine", nest.routine.name, *dict.fromkeys(t.short for t in types)))
    constants = tuple(c for c in INTRINSICS if f"{c[0]}(" in text)
    called = dict.fromkeys(n.func.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    constants += tuple(mathlib.needed(name) for name in called if mathlib.is_name(name))
    kernel = KernelSource(name, text, types, written, len(nest.parameters), ("contract",), constants)
    return KernelCall(kernel, buffers, nest.parameters, nest.units, nest.scratch_bytes, nest.origin)


def routine_text(function: Callable, helpers: Sequence[Callable], constants: Mapping[str, Number], arguments: int, intrinsics: Iterable[str] = (),
                 decorator: str = "device") -> str:
    """One kernel text: constants, helpers, then the routine as `kernel`.

    Args:
        arguments: number of buffers and parameters, which come before `lo, hi` and, optionally, `scratch`.
        decorator: of the helpers: `device`, or `shared_device` for those that need not be inlined.
        intrinsics: names that the kernel's own constants will define.
    """
    parts = {f.__name__: _definition(f) for f in helpers}
    main = _definition(function)
    names = [a.arg for a in main.args.args]
    if len(names) == arguments + 2:
        main.args.args.append(ast.arg("scratch"))
    elif len(names) != arguments + 3:
        wanted = f"{arguments} buffers and parameters, then lo, hi and perhaps scratch"
        raise CompileError(function.__name__, ast.unparse(main), f"takes {len(names)} arguments, but its nest passes {wanted}")
    known = dict(constants)
    for part, source in ((main, function), *((parts[h.__name__], h) for h in helpers)):
        _collect_globals(part, source, known, NAMESPACE.union(intrinsics, parts))
    main.name = "kernel"
    lines = [f"{name} = {_literal(value)}" for name, value in sorted(known.items())]
    blocks = ["\n".join(lines)] if lines else []
    blocks += [f"@{decorator}\n" + ast.unparse(p) for p in parts.values()]
    blocks.append(ast.unparse(main))
    return "\n\n\n".join(blocks) + "\n"


def _definition(function: Callable) -> ast.FunctionDef:
    """The function's syntax tree without decorators, annotations and docstring."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as e:
        raise CompileError(function.__name__, "", "its source is not available; define it in a file, not interactively") from e
    tree = ast.parse(source).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise CompileError(function.__name__, source, "a routine must be a plain function written with def")
    tree.decorator_list, tree.returns = [], None
    for a in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs):
        a.annotation = None
    first = tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        tree.body = tree.body[1:] or [ast.Pass()]
    return _StripAnnotations().visit(tree)


class _StripAnnotations(ast.NodeTransformer):
    """x: T = v  ->  x = v"""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)


def _collect_globals(tree: ast.FunctionDef, function: Callable, known: dict[str, Number], defined: frozenset[str]) -> None:
    """Add the module-level numbers that a function refers to; complain about anything else that the kernel would not have."""
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {a.arg for a in tree.args.args}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name) or node.id in bound or node.id in known or node.id in defined:
            continue
        if mathlib.is_name(node.id):
            continue
        value = function.__globals__.get(node.id)
        if isinstance(value, (bool, int, float)):
            known[node.id] = value
        elif not hasattr(builtins, node.id):
            what = f"{function.__name__} uses {node.id}, which is neither a constant of the nest, a number of its module nor among the routine's helpers"
            raise CompileError(function.__name__, ast.unparse(tree), what)


def _literal(value: Number) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    return repr(value)
