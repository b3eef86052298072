"""Operands of products rounded to a narrower float, where a user asks for it: less work and half the weights, at the price of digits."""
from __future__ import annotations

from dataclasses import replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.dtypes import DType
from ..ir.expr import Expr
from ..ir.graph import Graph, JournalEntry
from ..ir.loops import ContractionNest, NestProgram
from .rewrite import outermost

RULE = "round-operands"
FEWEST = 16  # terms of a sum, and results that share an operand; smaller products gain nothing


def round_operands(program: NestProgram, precision: DType, graph: Graph) -> None:
    """acc += a * b  ->  acc += float32(precision(a)) * float32(precision(b))   if one operand is weights and the product is large enough

    Operands are rounded to the nearest, ties to even; sums and what is made of them stay float32.

    Args:
        program: changed in place.
        precision: float32 changes nothing.
        graph: whose journal tells of every product what was done, or why not.
    """
    if precision is dt.float32:
        return
    journal = outermost(graph).journal
    for at, nest in enumerate(program.nests):
        if isinstance(nest, ContractionNest):
            reason = why_not(nest, program)
            if reason is None:
                program.nests[at] = replace(nest, a=rounded(nest.a, precision), b=rounded(nest.b, precision))
            journal.append(JournalEntry(RULE, nest.origin, reason))


def rounded(e: Expr, precision: DType) -> Expr:
    return ex.cast(ex.cast(e, precision), e.dtype)


def why_not(nest: ContractionNest, program: NestProgram) -> str | None:
    """Why a product keeps its operands, or None if they are to be rounded."""
    if nest.dtype is not dt.float32 or any(e.op == "cast" for e in (nest.a, nest.b)):
        return f"its operands are not of float32 ({nest.a.text}, {nest.b.text})"
    weights = [e for e in (nest.a, nest.b) if e.op == "load" and ex.load_tensor(e) in program.constants]
    if len(weights) != 1:
        return "no operand is weights of float32: it is a product of two activations, or of weights of few bits"
    terms, shared = extent(nest.reduced), extent(nest.columns if weights[0] is nest.b else nest.rows)
    if any(n is not None and n < FEWEST for n in (terms, shared)):
        return f"it has fewer than {FEWEST} terms or columns"
    return None


def extent(axes: tuple[Expr, ...]) -> int | None:
    return integer.as_int(ex.product(x.extent for x in axes))
