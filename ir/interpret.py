"""The interpreter: runs loop nests and graphs on NumPy arrays. What it computes is what compiled kernels are held against; it also folds constants.

`run_nests` runs a lowered program, `run_nest` one nest, `run_graph` a graph node by node, each node lowered with its actual shapes.
"""
from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import dtypes as dt
from . import expr as ex
from .arrays import Grid, affine_terms, chunks, computing_dtype, evaluate, interval, to_storage
from .errors import ModelError
from .expr import Expr, Tensor
from .graph import Graph, Node, TensorType, Value
from .infer import definition, lower_node
from .interpret_control import run_control
from .loops import Check, ContractionNest, HostNest, HostRef, MapNest, Nest, NestProgram, Ref, Routine, RoutineNest, Store, reads, size_reads
from .ops.base import Builder, Op
from .ops.control import ControlFlow

CHUNK_ELEMS = 1 << 24  # values held at once while a nest runs, so that temporaries stay below about 256 MB

Arrays = dict[Ref, object]  # arrays of tensors; lists, None, ... of host values



def _tensors(arrays: Mapping[Ref, object]) -> dict[Tensor, np.ndarray]:
    """The same mapping, seen as that of tensors: what stands under a tensor is an array."""
    return cast("dict[Tensor, np.ndarray]", arrays)


# --------------------------------------------------------------------------------------------------------------- programs
def run_nests(program: NestProgram, feeds: Mapping[Ref, object], sizes: Mapping[str, int] | None = None) -> list[object]:
    """Run a lowered program.

    Args:
        feeds: a value for every input: arrays in the elements' storage type, host values as they are.
        sizes: symbolic sizes by name; those that are a dimension of an input are found there.

    Returns:
        The outputs in order.

    Raises:
        ModelError: an input is missing or has another rank, type or size than declared.
    """
    arrays: Arrays = dict(program.constants.items())
    for r in program.inputs:
        if r not in feeds:
            raise ModelError(f"input %{r.name} has no value")
        arrays[r] = _checked(r, feeds[r]) if isinstance(r, Tensor) else feeds[r]
    known = bind_sizes(program.inputs, arrays, sizes)
    last: dict[Ref, int] = {}
    for k, nest in enumerate(program.nests):
        last.update(dict.fromkeys((*reads(nest), *size_reads(nest)), k))
    kept = {*program.inputs, *program.outputs}
    pending = _checked_sizes(program.checks, arrays, known)
    for k, nest in enumerate(program.nests):
        run_nest(nest, arrays, known)
        pending = _checked_sizes(pending, arrays, known)
        for r in (*reads(nest), *size_reads(nest)):
            if last[r] == k and r not in kept:
                arrays.pop(r, None)
    return [arrays[o] for o in program.outputs]


def _checked_sizes(checks: Sequence[Check], arrays: Arrays, sizes: Mapping[str, int]) -> list[Check]:
    """Hold the checks whose sizes are known against these; returns the others."""
    pending = []
    for c in checks:
        needed = [e for e in ex.walk(c.condition) if e.op == "load" or (e.op == "sym" and not e.args)]
        if not all(ex.load_tensor(e) in arrays if e.op == "load" else e.value[0] in sizes for e in needed):
            pending.append(c)
        elif not evaluate(c.condition, None, _tensors(arrays), sizes):
            raise ModelError(c.reason)
    return pending


def _checked(t: Tensor, value: object) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != t.rank:
        raise ModelError(f"%{t.name} has rank {t.rank}, an array of shape {array.shape} was given")
    if array.dtype != t.dtype.numpy and t.dtype is not dt.string:
        raise ModelError(f"%{t.name} holds {t.dtype}, an array of {array.dtype} was given")
    return array


def bind_sizes(inputs: Sequence[Ref], arrays: Mapping[Ref, object], sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """The symbolic sizes that the inputs' shapes give, with `sizes` taking precedence.

    Raises:
        ModelError: a dimension contradicts its declaration.
    """
    known = dict(sizes or {})
    pairs = [(t, k, d, np.shape(_tensors(arrays)[t])[k]) for t in inputs if isinstance(t, Tensor) for k, d in enumerate(t.shape)]
    for _, _, d, n in pairs:
        if d.op == "sym":
            known.setdefault(d.value[0], n)
    for t, k, d, n in pairs:
        if not any(e.op in ("load", "sym") and (e.op == "load" or (not e.args and e.value[0] not in known)) for e in ex.walk(d)):
            expected = int(evaluate(d, sizes=known))
            if expected != n:
                raise ModelError(f"dimension {k} of %{t.name} is {d.text} = {expected}, an array with {n} was given")
    return known


# ------------------------------------------------------------------------------------------------------------------- nests
def run_nest(nest: Nest, arrays: Arrays, sizes: Mapping[str, int] | None = None, scope: Mapping[Value, object] | None = None) -> None:
    """Run one nest: reads what it loads from `arrays` and adds its outputs there (in the elements' storage types).

    Args:
        sizes: symbolic sizes by name; those that a host call tells are added.
        scope: values of the enclosing graph, for bodies of control flow that capture them.
    """
    with np.errstate(all="ignore"):
        if isinstance(nest, HostNest):
            _run_host(nest, arrays, sizes, scope)
            return
        for o in nest.outputs:
            if o not in arrays:
                arrays[o] = np.zeros([max(0, size_of(d, arrays, sizes)) for d in o.shape], o.dtype.numpy)
        if isinstance(nest, RoutineNest):
            _run_routine(nest, arrays, sizes)
        elif isinstance(nest, ContractionNest):
            _run_contraction(nest, arrays, sizes)
        else:
            _run_map(nest, arrays, sizes)


def size_of(e: Expr, arrays: Mapping[Ref, object], sizes: Mapping[str, int] | None = None) -> int:
    """The value of a size expression."""
    return e.value if e.is_const else int(evaluate(e, None, _tensors(arrays), sizes))


def concrete(roots: Sequence[Expr], axes: Sequence[Expr], arrays: Mapping[Ref, object], sizes: Mapping[str, int] | None,
             written: Sequence[Ref] = ()) -> tuple[list[Expr], list[Expr], dict[Expr, int], list[Expr]]:
    """Expressions with all sizes made constant, also those loaded from tensors that are not being `written`.

    Returns:
        The rewritten roots, the axes, extents of all axes, and the axes of reductions; axes of symbolic extent are replaced by new ones.
    """
    nodes = list(ex.walk(roots))
    inner = list(dict.fromkeys(a for e in nodes if e.op == "reduce" for a in ex.reduce_axes(e)))
    mapping: dict[Expr, Expr] = {e: ex.const(_size_named(e, sizes)) for e in nodes if e.op == "sym" and not e.args}
    for e in nodes:
        if e.op == "load" and e.dtype is dt.int64 and all(i.is_const for i in e.args) and ex.load_tensor(e) in arrays and ex.load_tensor(e) not in written:
            mapping[e] = ex.const(int(evaluate(e, None, _tensors(arrays))))
    extents: dict[Expr, int] = {}
    for a in (*axes, *inner):
        n = max(0, size_of(a.extent, arrays, sizes))
        if not a.extent.is_const or a.extent.value < 0:
            mapping[a] = ex.axis(n)
        extents[mapping.get(a, a)] = n
    if not mapping:
        return list(roots), list(axes), extents, inner

    def visit(e: Expr) -> Expr | None:
        if e.op == "reduce":
            return ex.reduce(ex.reduce_kind(e), [mapping.get(a, a) for a in ex.reduce_axes(e)], e.args[0])
        return mapping.get(e)
    return ex.transform(roots, visit), [mapping.get(a, a) for a in axes], extents, [mapping.get(a, a) for a in inner]


def _size_named(e: Expr, sizes: Mapping[str, int] | None) -> int:
    if e.value[0] not in (sizes or {}):
        raise ModelError(f"the size {e.value[0]} has no value", hint="give it in `sizes`")
    return sizes[e.value[0]]


def _flat_stores(stores: Sequence[Store]) -> list[Expr]:
    return [e for s in stores for e in (s.value, *s.index)]


def _unflat_stores(stores: Sequence[Store], flat: Sequence[Expr]) -> list[Store]:
    out, at = [], 0
    for s in stores:
        n = len(s.index)
        out.append(Store(s.tensor, tuple(flat[at + 1:at + 1 + n]), flat[at]))
        at += 1 + n
    return out


def _run_map(nest: MapNest, arrays: Arrays, sizes: Mapping[str, int] | None) -> None:
    flat, axes, extents, inner = concrete(_flat_stores(nest.stores), nest.axes, arrays, sizes, nest.outputs)
    if any(extents[a] == 0 for a in axes):
        return
    grid = Grid([*axes, *inner], extents, _tensors(arrays))
    for s in _unflat_stores(nest.stores, flat):
        mine = grid.sort(s.value.axes.union(*(i.axes for i in s.index)))
        for box in chunks([extents[a] for a in mine], grid.elements(s.value), CHUNK_ELEMS):
            for a, (low, high) in zip(mine, box, strict=True):
                grid.restrict(a, low, high)
            _store(grid, s, arrays)
        for a in mine:
            grid.restrict(a, 0, extents[a])


def _run_contraction(nest: ContractionNest, arrays: Arrays, sizes: Mapping[str, int] | None) -> None:
    roots = [nest.a, nest.b, *_flat_stores(nest.stores)]
    flat, axes, extents, inner = concrete(roots, (*nest.axes, *nest.reduced), arrays, sizes, nest.outputs)
    outer, reduced = axes[:len(nest.axes)], axes[len(nest.axes):]
    if any(extents[a] == 0 for a in outer):
        return
    grid = Grid([*axes, *inner], extents, _tensors(arrays))
    a, b, stores = flat[0], flat[1], _unflat_stores(nest.stores, flat[2:])
    sums = ex.acc(nest.dtype)
    space = grid.sort(outer)
    matrices = grid.size(a.axes) + grid.size(b.axes) + grid.size(space)
    cost = grid.elements(a) + grid.elements(b) + matrices + sum(grid.size(space) for _ in stores)
    for box in chunks([extents[x] for x in space], cost, CHUNK_ELEMS):
        for x, (low, high) in zip(space, box, strict=True):
            grid.restrict(x, low, high)
        grid.bind(sums, grid.contract(grid.value(a), grid.value(b), reduced, nest.dtype))
        for s in stores:
            _store(grid, s, arrays)


def _store(grid: Grid, s: Store, arrays: Arrays) -> None:
    """Write the values of a store over the grid's present ranges."""
    found = grid.value(s.value)
    out = _tensors(arrays)[s.tensor]
    values = to_storage(found.array, s.tensor.dtype)
    forms = [affine_terms(i) for i in s.index]
    axes = grid.sort(frozenset(found.axes).union(*(i.axes for i in s.index)))
    shape = [grid.length(a) for a in axes]
    if 0 in shape:
        return
    shaped = values[tuple(slice(None) if a in found.axes else None for a in axes)]
    bounds = [interval(i, grid.extents) for i in s.index]
    inside = all(b is not None and b[0] >= 0 and b[1] < n for b, n in zip(bounds, out.shape, strict=True))
    if inside and all(f is not None for f in forms):
        start = [f[1] + sum(k * grid.ranges[a][0] for a, k in f[0].items()) for f in forms]
        strides = [sum(f[0].get(a, 0) * step for f, step in zip(forms, out.strides, strict=True)) for a in axes]
        place: tuple[slice | EllipsisType, ...] = (*(slice(i, i + 1) for i in start), ...)
        corner = out[place]
        if out.dtype.itemsize == 1:  # NumPy cannot describe every one-byte float to as_strided
            corner, shaped = corner.view(np.uint8), shaped.astype(out.dtype, copy=False).view(np.uint8)
        as_strided(corner, shape, strides)[...] = shaped
        return
    index = [grid.value(i) for i in s.index]
    _, aligned = grid.align([*index, found._replace(array=values)])
    *positions, values = aligned
    for i, n in zip(positions, out.shape, strict=True):
        if i.size and (i.min() < 0 or i.max() >= n):
            raise ModelError(f"a nest stores outside %{s.tensor.name} of shape {out.shape}: {s!r}")
    out[tuple(positions)] = values


# ---------------------------------------------------------------------------------------------------------------- routines
def _run_routine(nest: RoutineNest, arrays: Arrays, sizes: Mapping[str, int] | None) -> None:
    inputs = [np.ascontiguousarray(arrays[t]).reshape(-1) for t in nest.inputs]
    outputs = [_tensors(arrays)[t].reshape(-1) for t in nest.results]
    parameters = [size_of(p, arrays, sizes) for p in nest.parameters]
    scratch_bytes = size_of(nest.scratch_bytes, arrays, sizes)
    scratch = () if nest.scratch_bytes.is_const and not nest.scratch_bytes.value else (np.zeros(scratch_bytes, np.uint8),)
    units = size_of(nest.units, arrays, sizes)
    bind_routine(nest.routine, dict(nest.constants))(*inputs, *outputs, *parameters, 0, units, *scratch)


def bind_routine(routine: Routine, constants: Mapping[str, object]) -> Callable[..., None]:
    """The routine's plain function with its constants and the accessors `load` and `store` among its globals."""
    scope: dict[str, object] = {}
    for f in (*routine.helpers, routine.function):  # helpers of another module bring the numbers of theirs
        scope |= f.__globals__
    scope |= {"load": load_element, "store": store_element, **constants}
    for f in routine.helpers:
        scope[f.__name__] = _rescoped(f, scope)
    return _rescoped(routine.function, scope)


def _rescoped(f: Callable, scope: dict[str, object]) -> Callable:
    return types.FunctionType(f.__code__, scope, f.__name__, f.__defaults__, f.__closure__)


def load_element(buffer: np.ndarray, position: int) -> object:
    """An element of a routine's buffer; narrow floats come as float32."""
    value = buffer[position]
    kind = computing_dtype(dt.of_numpy(buffer.dtype))
    return value if buffer.dtype == kind else kind.type(value)


def store_element(buffer: np.ndarray, position: int, value: object) -> None:
    """Write an element of a routine's buffer, rounded or wrapped to its type."""
    buffer[position] = np.asarray(value).astype(buffer.dtype)


# --------------------------------------------------------------------------------------------------------------- host calls
def _run_host(nest: HostNest, arrays: Arrays, sizes: Mapping[str, int] | None, scope: Mapping[Value, object] | None) -> None:
    """Call the host; symbolic sizes that only its results tell are added to `sizes`. `scope` has what bodies of control flow capture."""
    inputs = [None if i is None else arrays[i] for i in nest.inputs]
    if isinstance(nest.function, ControlFlow):
        results = run_control(nest.function, inputs, _body_runner(scope or {}))
    else:
        results = list(nest.function(*inputs))
    if len(results) < len(nest.results):
        raise ModelError(f"the host function of {', '.join(nest.origin)} gave {len(results)} values, {len(nest.results)} were expected")
    for r, value in zip(nest.results, results, strict=False):
        if not isinstance(r, Tensor):
            arrays[r] = value
            continue
        array = arrays[r] = np.asarray(value, r.dtype.numpy)
        for d, n in zip(r.shape, array.shape, strict=True):
            if d.op == "sym" and isinstance(sizes, dict):
                sizes.setdefault(d.value[0], n)


def _body_runner(scope: Mapping[Value, object]) -> Callable[[Graph, Sequence[object]], list[object]]:
    def run(body: Graph, args: Sequence[object]) -> list[object]:
        return run_graph(body, {**scope, **dict(zip(body.inputs, args, strict=True))})
    return run


# ------------------------------------------------------------------------------------------------------------------ graphs
def run_graph(graph: Graph, feeds: Mapping[Value, object] | Mapping[str, object]) -> list[object]:
    """Run a graph node by node.

    Args:
        feeds: a value per graph input (by value or by name); for a subgraph also the values that it captures. Values of constants may be overridden.

    Returns:
        The outputs in order.
    """
    env: dict[Value, object] = {}
    given: dict[Value | str, object] = dict(feeds.items())
    for v in graph.inputs:
        key = v if v in given else v.name
        if key in given:
            env[v] = given[key]
        elif v.constant is None:
            raise ModelError(f"input '{v.name}' has no value")
    env.update((v, x) for v, x in given.items() if isinstance(v, Value))

    def read(v: Value) -> object:
        if v in env:
            return env[v]
        if v.constant is None:
            raise ModelError(f"'{v.name}' is used before it is computed")
        return v.constant

    left = {v: len(v.uses) for n in graph.nodes for v in n.outputs if v is not None}
    kept = {*graph.outputs, *(v for n in graph.nodes for s in n.subgraphs() for v in s.captured())}
    for node in graph.nodes:
        results = run_node(node, [None if v is None else read(v) for v in node.inputs], env)
        env.update((v, x) for v, x in zip(node.outputs, results, strict=False) if v is not None)
        for v in node.inputs:
            if v in left:
                left[v] -= 1
                if not left[v] and v not in kept:
                    env.pop(v, None)
    return [read(o) for o in graph.outputs]


def run_node(node: Node, inputs: Sequence[object], scope: Mapping[Value, object] | None = None) -> list[object]:
    """Run one operator on actual values: it is lowered (or decomposed) with their shapes and with all its inputs known.

    Args:
        inputs: an array, host value or None (absent) per input of the node.
        scope: values of the enclosing graph, for bodies of control flow that capture them.

    Returns:
        A value per output of the node, None where the node has no such output.
    """
    op = definition(node)
    scratch = Graph(node.name)
    scratch.opsets = next((v.graph.opsets for v in (*node.outputs, *node.inputs) if v is not None), {})
    mirrors = [None if v is None else _mirror(scratch, v, x) for v, x in zip(node.inputs, inputs, strict=True)]
    proxy = Node(node.domain, node.op, node.version, mirrors, list(node.outputs), node.attributes, node.name, node.origin)
    if type(op).lower is Op.lower and type(op).decompose is not Op.decompose:
        result = op.decompose(Builder(scratch, proxy, op))
        values = [result] if isinstance(result, Value) else list(result)
        scratch.outputs = [v for v in values if v is not None]
        known = {m: x for m, x in zip(mirrors, inputs, strict=True) if m is not None}
        found = iter(run_graph(scratch, known))
        return [None if v is None else next(found) for v in values]
    refs: dict[Value, Ref] = {}
    arrays: Arrays = {}
    for m, x in zip(mirrors, inputs, strict=True):
        if m is not None:
            t = m.type
            r = refs[m] = Tensor(m.name, t.dtype, t.shape) if isinstance(t, TensorType) and t.shape is not None else HostRef(m.name)
            arrays[r] = x
    lowered = lower_node(proxy, refs)
    arrays.update(lowered.constants.items())
    sizes: dict[str, int] = {}
    for nest in lowered.nests:
        run_nest(nest, arrays, sizes, scope)
    _checked_sizes([c for c in lowered.checks if c.held], arrays, sizes)
    return [None if r is None or v is None else arrays[r] for v, r in zip(node.outputs, lowered.outputs, strict=True)]


def _mirror(scratch: Graph, value: Value, x: object) -> Value:
    """A constant of the scratch graph that stands for an input with a known value."""
    if not isinstance(x, (np.ndarray, np.generic)):
        return scratch.value(value.name, value.type)
    array = np.asarray(x)
    dtype = value.type.dtype if isinstance(value.type, TensorType) else dt.of_numpy(array.dtype)
    return scratch.constant(value.name, array, dtype)
