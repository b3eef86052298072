"""Sums of products of 8-bit codes by half as many multiplications, on processors that add several vectors in the time in which they multiply one (AVX2 without VNNI).

Steps of two products each are taken in pairs: for words a0, a1 of a row and b0, b1 of a column, products of words being sums over their parts,

    a0 b0 + a1 b1  =  (a0 + b1) (a1 + b0) - a0 a1 - b0 b1

where b0 b1 is known when compiling and a0 a1 serves all columns. All numbers are exact: sums of two codes fit 16 bits, all sums 32. A last step without a partner, and
what follows it, are multiplied as they are. Source: Winograd, A New Algorithm for Inner Product, IEEE Transactions on Computers C-17 (1968).
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import MapNest, Store
from ..ir.target import Target
from .contraction import ZERO, Layouts, Product, extent_product, is_constant
from .contraction_text import kernel_source
from .dot_forms import CROSSED, PMADDWD
from .scalar import Scope, Writer

FOLD = 2  # products of a step
PAIR = 2 * FOLD  # of a pair of steps
LONGEST = 1 << 14  # terms of a sum: (2 * 255)^2 for each two of them surely fits 32 bits
SHORTEST = 16  # steps of the inner axis; fewer do not repay what is done for each row
FEWEST_ROWS, FEWEST_COLUMNS = 8, 32  # of the result, likewise


def crossed(p: Product, a: Expr, layouts: Layouts, constants: Collection[Tensor], target: Target) -> tuple[list[MapNest | KernelCall], Product] | None:
    """What computes the sums over rows and columns, and the product with stores that take them off; None where it would not pay or its operands do not suit.

    Args:
        a: the left operand's load, from the nest that became `p`.
    """
    if target.isa != "avx2" or p.form is not PMADDWD or p.channelwise or p.batch or p.inner is None or not is_constant(p.b, constants):
        return None
    inner, taps, rows, columns = (integer.as_int(e) for e in (p.inner.extent, extent_product(p.taps), extent_product(p.rows), extent_product(p.columns)))
    if inner is None or taps is None or columns is None or inner < SHORTEST or inner * taps > LONGEST or columns < FEWEST_COLUMNS or (rows is not None and rows < FEWEST_ROWS):
        return None
    run, tensor = run_of(a, p.inner, inner, layouts), ex.load_tensor(a)
    if run is None:
        return None
    pairs, name, fill = run.length // PAIR, p.stores[0].tensor.name, ex.load_fill(a)
    places = Tensor(f"{name}.places", dt.int32, tuple(tensor.shape[d] for d in run.order))
    made: list[MapNest | KernelCall] = [sums_of_places(p, tensor, tensor.shape[run.dim], places, pairs)]
    of_row = ex.load(places, run.index, None if fill is None else int(fill)**2 * FOLD * pairs)
    if p.taps or run.number is not None or fill is not None:
        of_row = stored(f"{name}.crossed_rows", of_row, p.rows, (*p.taps, *(() if run.number is None else (run.number,))), p, made)
    j, h = ex.axis(inner // PAIR, "j"), ex.axis(FOLD, "h")

    def weight(k: Expr) -> Expr:
        return ex.cast(ex.substitute_one(p.b, {p.inner: k}), dt.int32)
    of_column = stored(f"{name}.crossed_columns", weight(j * PAIR + h) * weight(j * PAIR + FOLD + h), p.columns, (*p.taps, j, h), p, made)
    acc = ex.acc(dt.int32)
    stores = tuple(replace(s, value=ex.substitute_one(s.value, {acc: acc - of_row - of_column})) for s in p.stores)
    return made, replace(p, form=CROSSED, stores=stores)


@dataclass(frozen=True)
class Run:
    """How an inner axis walks a tensor: along the whole of its dimension `dim`, `length` elements, in one place or in several one after another.

    Args:
        order, index: the other dimensions in the order of memory, and the place in them, over `number` where there are several.
    """

    dim: int
    length: int
    order: tuple[int, ...]
    index: tuple[Expr, ...]
    number: Expr | None


def run_of(a: Expr, inner: Expr, extent: int, layouts: Layouts) -> Run | None:
    """The run of a load's inner axis; None unless whole pairs of words lie in each place."""
    tensor = ex.load_tensor(a)
    for d, i in enumerate(a.args):
        length = extent if i is inner else integer.as_int(i.args[1]) if i.op == "mod" and i.args[0] is inner else None
        if not length or extent % length or (length < extent and length % PAIR):
            continue
        number = None if length == extent else ex.axis(extent // length, "m")
        order = tuple(k for k in layouts.get(tensor, range(tensor.rank)) if k != d)
        index = tuple(a.args[k] if number is None else ex.substitute_one(a.args[k], {inner // length: number}) for k in order)
        return None if any(inner in x.axes for x in index) else Run(d, length, order, index, number)
    return None


def stored(name: str, term: Expr, kept: tuple[Expr, ...], reduced: tuple[Expr, ...], p: Product, made: list[MapNest | KernelCall]) -> Expr:
    """The sum of `term` over the axes `reduced`, as an element of a tensor over the axes `kept`, which a new map writes."""
    fresh = {x: ex.axis(x.extent, "i") for x in (*kept, *reduced)}
    whole = ex.reduce("sum", tuple(fresh[x] for x in reduced), ex.substitute_one(term, fresh)) if reduced else ex.substitute_one(term, fresh)
    index = tuple(fresh[x] for x in kept)
    tensor = Tensor(name, dt.int32, tuple(x.extent for x in kept))
    made.append(MapNest(index, (Store(tensor, index, whole),), p.origin))
    return tensor[kept]


def sums_of_places(p: Product, source: Tensor, step: Expr, out: Tensor, pairs: int) -> KernelCall:
    """out[place] = the sum of a0 a1 over pairs of words of the run of `source` that starts at place * step in memory."""
    writer, root = Writer(), Scope(None)
    read, written = writer.buffer(source), writer.buffer(out)
    writer.written.add(out)
    writer.function("advanced", "advanced")
    writer.function("crossed_sum", "crossed_sum")
    n_step, n_pairs = writer.parameter(step, "step"), writer.parameter(ex.const(pairs), "pairs")
    unit = Scope(root)
    unit.lines.append(f"crossed_sum(advanced({read}, unit * {n_step}), {n_pairs}, advanced({written}, unit))")
    unit.close("for unit in range(lo, hi):")
    kernel = kernel_source("crossed_sums", writer, root)
    units = out.numel()
    return KernelCall(kernel, tuple(writer.buffers), tuple(writer.parameters), units, ZERO, p.origin, units * (PAIR * pairs), units * (step * FOLD + PAIR))
