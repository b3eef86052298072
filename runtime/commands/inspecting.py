"""`sardonyx inspect`: a model before and after compilation, as text or as one HTML page."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ...ir import expr as ex
from ...ir import integer
from ...ir.errors import SardonyxError
from ...ir.graph import Graph
from ...ir.plan import ControlStep, HostStep, KernelStep
from ..exceptions import translated
from ..feeds import describe
from ..memory import memory_need
from ..model import CompiledModel, CompileOptions, host_target, is_package, obtain
from .common import bytes_text, check_dims, heading, shorten, show_table, step_name
from .packaging import STAGES, stage_text

TEXT_LIMIT = 400_000  # characters of a stage shown on a page


@dataclass
class Picture:
    """A graph to draw: boxes and arrows between them by position.

    Args:
        labels: (title, detail) of each box.
        edges: (from, to).
    """

    labels: list[tuple[str, str]] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Views:
    """What the compiler's stages looked like while the model was compiled."""

    before: Picture | None = None
    operators: Counter = field(default_factory=Counter)
    parameters: int = 0
    nodes: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    dims: Mapping[str, int] = field(default_factory=dict)

    def observe(self, stage: str, subject: object) -> None:
        if stage == "import" and isinstance(subject, Graph) and self.before is None:
            self.before = graph_picture(subject)
            self.operators = Counter(n.qualified for n in subject.nodes)
            self.nodes = len(subject.nodes)
            constants = {v for n in subject.nodes for v in n.inputs if v is not None and v.constant is not None}
            self.parameters = sum(v.constant.size for v in constants)
        if stage in self.wanted and stage not in self.texts:
            self.texts[stage] = stage_text(subject)


def inspect_model(model: str, html: str | None, stage: str, dims: Mapping[str, int]) -> None:
    """Show a model; see the command's help."""
    if stage not in STAGES:
        raise click.BadParameter(f"{stage!r} is no stage; stages: {', '.join(STAGES)}")
    package = is_package(model)
    if package and html is not None:
        raise SardonyxError(f"{model} is a package, which no longer holds the model's graph; give the .onnx file")
    views = Views(wanted=("import", stage), dims=dims)
    with translated(model):
        found = obtain(model, CompileOptions(), host_target(), observe=None if package else views.observe)
    check_dims(found.plan.inputs, dims)
    if html is None:
        print_summary(model, found, views)
        if not package:
            click.echo(f"\nstage {stage}\n")
            click.echo(views.texts.get(stage, ""))
        return
    from .page import page

    Path(html).write_text(page(model, found, views, stage), encoding="utf-8")
    click.echo(f"{html}: {bytes_text(os.path.getsize(html))}; open it in a browser")


def facts(model: str, found: CompiledModel, views: Views) -> list[tuple[str, str]]:
    """Name and value of what there is to say in one line each."""
    plan = found.plan
    rows = [("model", os.path.basename(model))]
    rows += [(f"input {p.name}", describe(p)) for p in plan.inputs]
    rows += [(f"output {p.name}", describe(p)) for p in plan.outputs]
    if views.nodes:
        rows += [("nodes", str(views.nodes)), ("parameters", f"{views.parameters:,}")]
    rows += [("steps", str(len(plan.steps))), ("kernels", str(len(plan.kernels))), ("code", bytes_text(sum(map(len, found.objects.values()))))]
    rows += memory_facts(found, views.dims)
    rows += [(k.replace("_", " "), v) for k, v in plan.metadata.items() if v]
    return rows


def memory_facts(found: CompiledModel, dims: Mapping[str, int]) -> list[tuple[str, str]]:
    """What a model and a run of it take, as formulas over the named sizes and, where all are given or fixed, in bytes.

    Args:
        dims: sizes of symbolic dimensions.
    """
    plan = found.plan
    need = memory_need(plan)
    weights = sum(a.nbytes for a in found.constants)
    rows = [("weights", f"{bytes_text(weights)}, held once and shared by all that map the same file")]
    late = len(plan.segments) > 1 or bool(plan.bodies)
    rows += [("workspace", f"{need.arena.text} + threads * {need.scratch.text} bytes a run" + (", and what control flow and sizes that depend on data need" if late else "")),
             ("results", f"{need.results.text} bytes a run")]
    known = {ex.sym(n): ex.const(v) for n, v in dims.items()}
    arena, scratch, results = (integer.as_int(e) for e in ex.substitute((need.arena, need.scratch, need.results), known))
    if arena is not None and scratch is not None and results is not None:
        rows += [("peak", f"{bytes_text(weights + arena + scratch + results)} on one thread ({weights + arena + scratch + results} bytes), "
                          f"{bytes_text(scratch)} more for each other; the process beside it is not counted")]
    return rows


def print_summary(model: str, found: CompiledModel, views: Views) -> None:
    rows = facts(model, found, views)
    width = max(len(n) for n, _ in rows)
    for name, value in rows:
        click.echo(f"{name:{width}s}  {value}")
    if views.operators:
        click.echo(f"{'operators':{width}s}  " + ", ".join(f"{n} {op}" for op, n in views.operators.most_common()))
    heading("steps")
    show_table(["step", "kernel", "nodes"], step_rows(found))


def step_rows(found: CompiledModel) -> list[list[Any]]:
    return [[k, step_name(found.plan, k), shorten(list(getattr(s, "origin", ())), 5)] for k, s in enumerate(found.plan.steps)]


def graph_picture(graph: Graph) -> Picture:
    """The model's own nodes and the values between them."""
    picture = Picture()
    position = {}
    for v in graph.inputs:
        position[v] = len(picture.labels)
        picture.labels.append((v.name, str(v.type)))
    for n in graph.nodes:
        at = len(picture.labels)
        picture.labels.append((n.qualified, n.name))
        picture.edges += [(position[v], at) for v in dict.fromkeys(n.inputs) if v in position]
        position.update((o, at) for o in n.outputs if o is not None)
    return picture


def plan_picture(found: CompiledModel) -> Picture:
    """Kernels with the model's nodes inside them; arrows follow memory."""
    plan = found.plan
    picture = Picture()
    writer: dict[int, int] = {}
    place = {}
    for port in plan.inputs:
        if port.buffer >= 0:
            writer[port.buffer] = len(picture.labels)
            picture.labels.append((port.name, describe(port)))
    for k, step in enumerate(plan.steps):
        if not isinstance(step, KernelStep):
            if isinstance(step, (HostStep, ControlStep)) and step.origin:
                picture.labels.append(("host", shorten(list(step.origin))))
            continue
        at = len(picture.labels)
        place[k] = at
        picture.labels.append((step_name(plan, k), shorten(list(step.origin), 6)))
        picture.edges += sorted({(writer[b], at) for b in step.buffers if b in writer})
        for b in step.buffers:
            if plan.buffers[b].storage in ("arena", "output", "host"):
                last = step.buffers[-1] if len(step.buffers) > 1 else step.buffers[0]
                if b == last or b not in writer:
                    writer[b] = at
    return picture
