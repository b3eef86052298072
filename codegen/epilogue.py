"""Epilogues that tiles compute themselves, on sums that stand in registers: what they are, and how a kernel's text hands them to a tile.

An epilogue qualifies where one tensor of the sums' type is stored, along adjacent columns and at regular steps of one row axis, and where what is stored
follows from the sum, constants, and elements that lie at such steps too: biases, scales, residuals, activations. `codegen.finish` writes it as LLVM IR.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.target import Target
from .contraction import ONE, ZERO
from .contraction_text import ContractionText
from .scalar import Scope

Tree = tuple[Union[str, int, "Tree"], ...]

LOGIC = frozenset(("lt", "le", "eq", "ne", "and", "or", "not"))
ARITHMETIC = frozenset(("add", "sub", "mul", "div", "neg"))
FUNCTIONS = frozenset(("min", "max", "abs", "exp", "exp2", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sqrt", "floor", "ceil", "round"))
COSTLY = FUNCTIONS - {"min", "max", "abs", "floor", "ceil", "round"}
MOST_NODES = 40  # of a tree
MOST_OPERANDS = 4
WRITTEN_OUT = 12  # nodes; longer epilogues are a loop over a tile's rows


@dataclass(frozen=True)
class Form:
    """What a tile's code depends on.

    Args:
        tree: the stored value: ("acc",), ("load", operand), ("number", hexadecimal), ("flag", 0 or 1), or (operator, operands...).
        operands: of each operand, whether it differs from row to row, and whether from column to column.
    """

    tree: Tree
    operands: tuple[tuple[bool, bool], ...]

    @property
    def is_written_out(self) -> bool:
        """Whether the code stands once for each vector of a tile, which then never leaves its register."""
        return _count(self.tree) <= WRITTEN_OUT and not _has(self.tree, COSTLY)


@dataclass(frozen=True, eq=False)
class Place:
    """Elements at regular steps.

    Args:
        tensor: what they belong to.
        start: position of that of row and column 0.
        row: from one row to the next.
    """

    tensor: Tensor
    start: Expr
    row: Expr


@dataclass(frozen=True, eq=False)
class Epilogue:
    """The form, the result, and the operands."""

    form: Form
    out: Place
    operands: tuple[Place, ...]


def finishes(target: Target) -> bool:
    """Whether a target's tiles compute epilogues."""
    return target.isa == "avx2"


def find(text: ContractionText) -> Epilogue | None:
    """The epilogue of a kernel, None where it does not qualify."""
    p = text.p
    if p.form is not None or not p.dtype.is_float or len(p.stores) != 1 or len(p.columns) != 1 or p.stores[0].tensor.dtype is not p.dtype:
        return None
    if len(p.rows) > 1 and text.row is None:
        return None
    row = text.row if text.row is not None else p.rows[0] if p.rows else None
    column = p.columns[0]
    out = _place(p.stores[0].tensor, text.offsets[0], row, column)
    if out is None or not out[1]:
        return None
    operands: dict[Expr, tuple[Place, bool]] = {}

    def tree(e: Expr) -> Tree | None:
        if e is ex.acc(p.dtype):
            return ("acc",)
        if e.op == "const" and (e.dtype is p.dtype or e.dtype.kind == "bool"):
            return ("flag", int(e.value)) if e.dtype.kind == "bool" else ("number", float(e.value).hex())
        if e.op == "load":
            if e not in operands:
                tensor = ex.load_tensor(e)
                found = None if text.emitter.is_guarded(e) or tensor.dtype is not p.dtype or tensor.rank != 1 else _place(tensor, e.args[0], row, column)
                if found is None:
                    return None
                operands[e] = found
            return ("load", list(operands).index(e))
        if e.op == "cast" and e.dtype is e.args[0].dtype:
            return tree(e.args[0])
        whole = e.dtype is p.dtype and e.op in (*ARITHMETIC, *FUNCTIONS, "where")
        if not whole and not (e.dtype.kind == "bool" and e.op in LOGIC):
            return None
        if any(a.dtype is not p.dtype and a.dtype.kind != "bool" for a in e.args):
            return None
        parts = [tree(a) for a in e.args]
        return None if any(a is None for a in parts) else (e.op, *(a for a in parts if a is not None))

    value = tree(text.values[0])
    if value is None or _count(value) > MOST_NODES or len(operands) > MOST_OPERANDS:
        return None
    form = Form(value, tuple((place.row is not ZERO, along) for place, along in operands.values()))
    return Epilogue(form, out[0], tuple(place for place, _ in operands.values()))


def _place(tensor: Tensor, offset: Expr, row: Expr | None, column: Expr) -> tuple[Place, bool] | None:
    """Where elements lie, and whether they are adjacent along the columns; None unless they are that or equal in all columns."""
    along = integer.coefficient(offset, column)
    across = None if along is None else (ZERO, along[1]) if row is None else integer.coefficient(along[1], row)
    if along is None or across is None or along[0] not in (ZERO, ONE) or across[0].axes:
        return None
    return Place(tensor, across[1], across[0]), along[0] is ONE


def _count(tree: Tree) -> int:
    return 1 + sum(_count(a) for a in tree[1:] if isinstance(a, tuple))


def _has(tree: Tree, operators: frozenset[str]) -> bool:
    return tree[0] in operators or any(_has(a, operators) for a in tree[1:] if isinstance(a, tuple))


def place_arguments(text: ContractionText, epilogue: Epilogue, unit: Scope) -> str:
    """What a tile is told beside rows and columns, separated by commas: the address of row and column 0 and the step between rows, of the result and of each
    operand. Addresses are computed in `unit`."""
    text.writer.function("address", "address")
    found = []
    for place in (epilogue.out, *epilogue.operands):
        tensor = text.emitter.buffers.get(place.tensor, place.tensor)
        if place is epilogue.out:
            text.writer.written.add(tensor)
        name = text.writer.name("at")
        unit.lines.append(f"{name} = address({text.writer.buffer(tensor)}) + {text.emitter.value(place.start, unit)} * {text.p.dtype.itemsize_bytes}")
        found += [name, text.emitter.value(place.row, text.root)]
    return ", ".join(found)
