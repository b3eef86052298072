"""`sardonyx compile`."""
from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from ...ir.errors import SardonyxError, UnknownRankError, UnsupportedError
from ...ir.plan import Plan
from ...ir.plan_numbers import fixed_shapes, numbers
from ...ir.target import Target, parse
from .. import knobs
from ..exceptions import translated
from ..host import host_target
from ..instruction_sets import described
from ..model import CompiledModel, CompileOptions, declared_ports, obtain
from ..native.library import SUFFIXES, is_library, workspace_bytes, write_library
from ..package import save_package
from ..threads import default_threads
from .common import bytes_text

STAGES = ("import", "simplify", "recognise", "decompose", "lower", "fuse", "layout", "precision")
CODE = ("kernels", "plan", "assembly")


@dataclass(frozen=True)
class CompileRequest:
    """What the command line asks for; see the command's help."""

    model: str
    output: str | None = None
    target: str | None = None
    level: int = 3
    dims: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: str = "inside"
    bare: bool = False
    dump: str | None = None
    precision: str = "float32"
    tune: Mapping[str, int] | None = None


def compile_model(request: CompileRequest) -> None:
    """Compile a model to a package or to a native library; the output's ending chooses."""
    dump = request.dump
    if dump is not None and dump not in STAGES + CODE:
        raise click.BadParameter(f"{dump!r} is no stage; stages: {', '.join(STAGES + CODE)}")
    host = host_target()
    machines = [described(parse(name.strip(), host)) for name in (request.target or "host").split(",")]
    path = Path(request.output) if request.output else Path(request.model).with_suffix(".sdx")
    library = is_library(path)
    if library:
        if len(machines) > 1:
            raise click.BadParameter(f"{path}: a native library is for one target; packages ({Path(request.model).stem}.sdx) may be for several")
    if not library and (request.weights != "inside" or request.bare):
        raise click.BadParameter(f"{path} is a package; --weights and --bare are for native libraries ({', '.join(SUFFIXES)})")
    start = time.perf_counter()
    found = [_compiled(request, machine, dump) for machine in machines]
    if dump in CODE:
        _print_code(found[0], dump, machines[0])
    if library:
        made = write_library(found[0], path, machines[0], host, request.weights == "beside", request.bare)
        others = [made.header.name, *([made.imports.name] if made.imports else [])]
        others += [f"{made.weights.name} ({bytes_text(made.weights.stat().st_size)})"] if made.weights else []
        kind = f" and {', '.join(others)}, by {made.compiler}"
        click.echo(_workspace(found[0].plan))
    else:
        save_package(found, path)
        kind = ""
    plan = found[0].plan
    click.echo(f"{path}{kind}: {bytes_text(os.path.getsize(path))}, {len(plan.steps)} steps, {len(plan.kernels)} kernels for {', '.join(m.cpu for m in machines)}, "
               f"{time.perf_counter() - start:.2f} s ({found[0].origin})")
    if request.tune is not None:
        click.echo(measured_text(found[0]))


def measured_text(found: CompiledModel) -> str:
    """How many products measurements changed."""
    measured: Mapping[str, int] = found.report["measured"]
    products = {key.partition(" ")[2] for key in measured}
    changed = {key.partition(" ")[2] for key, k in measured.items() if k}
    return f"measured: {len(changed)} of {len(products)} products run otherwise than the cost model would have them"


def _workspace(plan: Plan) -> str:
    """Memory that a run on one thread needs beside inputs, outputs and weights, where all sizes are known."""
    shapes = fixed_shapes(plan)
    if shapes is None:
        return "workspace: depends on the inputs' shapes (NAME_prepare, then NAME_workspace_bytes tell)"
    size = workspace_bytes(plan, numbers(plan, shapes), 1)
    late = len(plan.segments) > 1 or bool(plan.bodies)
    return f"workspace: {size} bytes on one thread" + (", and what control flow and sizes that depend on data allocate" if late else "")


def _compiled(request: CompileRequest, machine: Target, dump: str | None) -> CompiledModel:
    with translated(request.model):
        options = CompileOptions(request.level, request.dims, input_shapes=tuple(sorted(request.shapes.items())), precision=request.precision,
                                 compact=is_library(request.output or "") and not request.bare)
        if request.tune is not None:
            options = replace(options, tune=knobs.THREADS.read_int() or default_threads(), tune_dims=tuple(sorted(request.tune.items())))
        try:
            found = obtain(request.model, options, machine, observe=_printer(dump) if dump in STAGES else None)
        except UnknownRankError as e:
            raise UnsupportedError(f"{e}. {_rank_hint(request)}") from e
    if found.origin == "package":
        raise SardonyxError(f"{request.model} is a package already")
    return found


def _rank_hint(request: CompileRequest) -> str:
    """What can be done about a rank that is not known when compiling."""
    inputs, _ = declared_ports(request.model)
    left = [p.name for p in inputs if p.type.startswith("tensor(") and p.name not in request.shapes and (p.shape is None or not all(isinstance(d, int) for d in p.shape))]
    if left:
        return f"If the shapes of the inputs decide, name them with --shape INPUT=D,D,...; open so far: {', '.join(left)}"
    return "What the inputs hold decides, so the model can be run by a session of the .onnx file alone, which compiles the rest when it is known"


def _printer(stage: str | None):
    def observe(name: str, subject: object) -> None:
        if name == stage:
            click.echo(stage_text(subject))
    return observe


def stage_text(subject: object) -> str:
    """The text form of a graph or program."""
    from ...ir.graph import Graph
    from ...ir.loops import NestProgram
    from ...ir.text import graph_text, program_text

    if isinstance(subject, Graph):
        return graph_text(subject)
    assert isinstance(subject, NestProgram)
    return program_text(subject)


def _print_code(found, what: str, machine) -> None:
    from ...codegen.numba_backend import emit_assembly

    if what == "plan":
        for k, step in enumerate(found.plan.steps):
            click.echo(f"{k:4d}  {step}")
        return
    for symbol, text in found.report.get("kernels", {}).items():
        click.echo(f"# {symbol}\n{text}")
        if what == "assembly":
            source = found.sources.get(symbol)
            if source is None:
                raise SardonyxError("assembly is shown for freshly compiled models; clear the cache first: sardonyx cache clear")
            click.echo(emit_assembly(source, machine))
