"""Maps of one 8-bit code through costly functions become a look-up in a table of 256 results, computed when compiling."""
from __future__ import annotations

from dataclasses import replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.expr import Expr, Tensor
from ..ir.loops import MapNest, Nest, NestProgram, Store

# Functions that cost more for each element than a look-up does.
COSTLY = (ex.UNARY - ex.CHEAP - frozenset(("sign", "sqrt", "rsqrt", "isnan", "isinf"))) | frozenset(("pow", "atan2", "mod", "floordiv"))
CODES = (dt.uint8, dt.int8)
ENTRIES = 256


def tabulate(program: NestProgram) -> None:
    """y[i] = f(code[g(i)])  ->  y[i] = table[code[g(i)]]   if f reads nothing else that the run knows and has costly functions"""
    nests: list[Nest] = []
    for nest in program.nests:
        if isinstance(nest, MapNest) and len(nest.stores) == 1:
            found = as_table(nest.stores[0], program)
            if found is not None:
                table, value = found
                nests.append(replace(table, origin=nest.origin))
                nest = replace(nest, stores=(replace(nest.stores[0], value=value),))
        nests.append(nest)
    program.nests[:] = nests


def as_table(store: Store, program: NestProgram) -> tuple[MapNest, Expr] | None:
    """(map that writes the table, the look-up) for a store's value, or None where it is not a costly function of one code."""
    value = store.value
    nodes = list(ex.walk([value]))
    if not any(e.op in COSTLY and e.dtype.is_float for e in nodes) or any(e.op == "reduce" for e in nodes):
        return None
    varying = [e for e in ex.loads([value]) if e.axes]
    if len(varying) != 1 or varying[0].dtype not in CODES:
        return None
    code = varying[0]
    entry = ex.axis(ENTRIES, "e")
    lowest = -128 if code.dtype is dt.int8 else 0
    at = ex.substitute_one(value, {code: ex.cast(entry + lowest, code.dtype)})
    if at.axes != {entry} or any(e.op == "sym" or (e.op == "load" and ex.load_tensor(e) not in program.constants) for e in ex.walk([at])):
        return None
    table = Tensor(f"{store.tensor.name}.table", value.dtype, (ex.const(ENTRIES),))
    return MapNest((entry,), (Store(table, (entry,), at),)), table[ex.cast(code, dt.int64) - lowest]
