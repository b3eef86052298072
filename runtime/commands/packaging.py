"""`sardonyx compile`."""
from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import click

from ...ir.errors import SardonyxError
from ...ir.target import parse
from ..exceptions import translated
from ..host import host_target
from ..model import CompileOptions, obtain, save_package
from .common import bytes_text

STAGES = ("import", "simplify", "recognise", "decompose", "lower", "fuse", "layout")
CODE = ("kernels", "plan", "assembly")


def compile_package(model: str, output: str | None, target: str | None, level: int, dims: Mapping[str, int], dump: str | None) -> None:
    """Compile a model to a package; see the command's help."""
    if dump is not None and dump not in STAGES + CODE:
        raise click.BadParameter(f"{dump!r} is no stage; stages: {', '.join(STAGES + CODE)}")
    machine = parse(target or "host", host_target())
    path = Path(output) if output else Path(model).with_suffix(".sdx")
    start = time.perf_counter()
    with translated(model):
        found = obtain(model, CompileOptions(level, dims), machine, observe=_printer(dump) if dump in STAGES else None)
    if found.origin == "package":
        raise SardonyxError(f"{model} is a package already")
    save_package(found, path)
    if dump in CODE:
        _print_code(found, dump, machine)
    plan = found.plan
    click.echo(f"{path}: {bytes_text(os.path.getsize(path))}, {len(plan.steps)} steps, {len(plan.kernels)} kernels for {machine.cpu}, "
               f"{time.perf_counter() - start:.2f} s ({found.origin})")


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
