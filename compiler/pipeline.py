"""The pipeline: every stage of the compiler, in order. Each stage can be dumped as text and is verified in tests.

    import     ONNX -> typed graph                                       compiler.importer
    simplify   fold, share, algebra, scales into weights                 compiler.simplify
    recognise  composites that exporters spell out                       compiler.recognise
    decompose  operators that are made of others                         compiler.lower
    lower      graph -> loop nests                                       compiler.lower
    fuse       nests merge by substitution; tables of costly functions   compiler.fuse, tabulate
    layout     order of dimensions in memory                             compiler.layout
    precision  operands of products rounded, where a user asks for it    compiler.precision
    alias      reshapes that need no work                                compiler.pipeline
    (schedule  nests -> kernels                                          codegen)
    plan       sizes, buffers, steps                                     compiler.plan
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir.dtypes import DType
from ..ir.expr import Expr, Tensor
from ..ir.graph import Graph
from ..ir.loops import ContractionNest, HostNest, MapNest, NestProgram, Ref, Store, identity_map
from .control import close_bodies
from .fuse import Fusion, fuse
from .layout import Layouts, assign
from .lower import decompose, lower
from .operands import flat_offset
from .plan import Alias
from .precision import round_operands
from .tabulate import tabulate

Observer = Callable[[str, object], None]


@dataclass(frozen=True)
class Options:
    """What a user may choose about compilation.

    Args:
        level: 0 no rewriting and no fusion; 1 folding and sharing; 2 fusion; 3 everything (ONNX Runtime's four levels).
        disabled: names of rewrite rules that must not run.
        precision: to which operands of float32 products are rounded (`compiler.precision`).
    """

    level: int = 3
    disabled: frozenset[str] = frozenset()
    precision: DType = dt.float32


@dataclass
class Lowered:
    """A fused program with its layouts, ready for scheduling.

    Args:
        program: nests in execution order.
        layouts: orders of dimensions of tensors that are not row-major.
        decisions: what fusion did and why not.
    """

    program: NestProgram
    layouts: Layouts
    decisions: list[tuple[tuple[str, ...], tuple[str, ...], str]] = field(default_factory=list)


def ignore(stage: str, subject: object) -> None:
    """The observer that looks at nothing."""


def optimise(graph: Graph, options: Options, observe: Observer = ignore) -> None:
    """Graph stages, in place: simplify, recognise, decompose."""
    from .recognise import recognise
    from .simplify import simplify, take_decided_branches

    observe("import", graph)
    if options.level >= 1:
        simplify(graph, options)
        observe("simplify", graph)
    else:
        take_decided_branches(graph)
    if options.level >= 2:
        recognise(graph, options)
        observe("recognise", graph)
    decompose(graph)
    if options.level >= 1:
        simplify(graph, options)
    close_bodies(graph)
    observe("decompose", graph)


def lower_and_fuse(graph: Graph, options: Options, observe: Observer = ignore) -> Lowered:
    """Nest stages: lower, fuse, layout, precision."""
    program = lower(graph)
    separate_outputs(program)
    observe("lower", program)
    fusion = fuse(program) if options.level >= 2 else Fusion(program)
    if options.level >= 2:
        tabulate(program)
    observe("fuse", program)
    layouts = assign(program, fusion.layouts) if options.level >= 2 else {}
    observe("layout", program)
    round_operands(program, options.precision, graph)
    observe("precision", program)
    return Lowered(program, layouts, fusion.decisions)


def separate_outputs(program: NestProgram) -> None:
    """Give every output a tensor of its own: an input, a constant or another output that is returned as well is copied."""
    seen: set[Ref] = set()
    for k, out in enumerate(program.outputs):
        if isinstance(out, Tensor) and out.dtype.is_numeric and (out in seen or out in program.inputs or out in program.constants):
            copy = Tensor(f"{out.name}.out{k}", out.dtype, out.shape)
            program.nests.append(identity_map(copy, lambda *i, t=out: t[i]))
            program.outputs[k] = copy
        seen.add(program.outputs[k])


def find_aliases(program: NestProgram, layouts: Mapping[Tensor, tuple[int, ...]]) -> dict[MapNest, Alias]:
    """The maps that only rename memory: every element is read where it would be written."""
    inputs_and_constants = set(program.inputs) | set(program.constants)
    host = {r for n in program.nests if isinstance(n, HostNest) for r in n.outputs}
    fixed: set[Ref] = set(program.outputs)
    root: dict[Tensor, Tensor] = {}
    found: dict[MapNest, Alias] = {}
    for nest in program.nests:
        if not isinstance(nest, MapNest) or len(nest.stores) != 1:
            continue
        store = nest.stores[0]
        source = alias_source(store, layouts)
        if source is None:
            continue
        base = root.get(source, source)
        if store.tensor in fixed and (base in inputs_and_constants or base in fixed or base in host):
            continue
        if store.tensor in fixed:
            fixed.add(base)  # lives in the output's memory from now on
        root[store.tensor] = base
        found[nest] = Alias(store.tensor, source)
    return found


def alias_source(store: Store, layouts: Mapping[Tensor, tuple[int, ...]]) -> Tensor | None:
    """The tensor whose memory a store would copy byte for byte, or None."""
    value = store.value
    if value.op != "load" or ex.load_fill(value) is not None:
        return None
    source = ex.load_tensor(value)
    if source.dtype is not store.tensor.dtype or not source.dtype.is_numeric or source.numel() is not store.tensor.numel():
        return None
    written = flat_offset(ex.load(store.tensor, store.index), layouts.get(store.tensor))
    return source if flat_offset(value, layouts.get(source)) is written else None


def depends_only_on(nest: MapNest | ContractionNest, tensors: Mapping[Tensor, object]) -> bool:
    """Whether a nest reads nothing but the given tensors and no symbolic size, so that it can be evaluated when compiling."""
    roots: list[Expr] = [*nest.values, *(a.extent for a in nest.axes)]
    return all(e.op != "sym" and (e.op != "load" or ex.load_tensor(e) in tensors) for e in _walk_with_extents(roots))


def _walk_with_extents(roots: list[Expr]) -> list[Expr]:
    nodes = list(ex.walk(roots))
    extents = [a.extent for e in nodes if e.op == "reduce" for a in ex.reduce_axes(e)] + [e.extent for e in nodes if e.op == "axis"]
    return nodes + list(ex.walk(extents))
