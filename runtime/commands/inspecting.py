"""`sardonyx inspect`: a model before and after compilation, as text or as one HTML page."""
from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ...ir.errors import SardonyxError
from ...ir.graph import Graph
from ...ir.plan import ControlStep, HostStep, KernelStep
from ..exceptions import translated
from ..feeds import describe
from ..model import CompiledModel, CompileOptions, host_target, is_package, obtain
from .common import bytes_text, heading, shorten, show_table, step_name
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

    def observe(self, stage: str, subject: object) -> None:
        if stage == "import" and isinstance(subject, Graph) and self.before is None:
            self.before = graph_picture(subject)
            self.operators = Counter(n.qualified for n in subject.nodes)
            self.nodes = len(subject.nodes)
            constants = {v for n in subject.nodes for v in n.inputs if v is not None and v.constant is not None}
            self.parameters = sum(v.constant.size for v in constants)
        if stage in self.wanted and stage not in self.texts:
            self.texts[stage] = stage_text(subject)


def inspect_model(model: str, html: str | None, stage: str) -> None:
    """Show a model; see the command's help."""
    if stage not in STAGES:
        raise click.BadParameter(f"{stage!r} is no stage; stages: {', '.join(STAGES)}")
    package = is_package(model)
    if package and html is not None:
        raise SardonyxError(f"{model} is a package, which no longer holds the model's graph; give the .onnx file")
    views = Views(wanted=("import", stage))
    with translated(model):
        found = obtain(model, CompileOptions(), host_target(), observe=None if package else views.observe)
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
    rows += [("steps", str(len(plan.steps))), ("kernels", str(len(plan.kernels))), ("code", bytes_text(sum(map(len, found.objects.values())))),
             ("weights", bytes_text(sum(a.nbytes for a in found.constants)))]
    rows += [("memory", arena_text(found))]
    rows += [(k.replace("_", " "), v) for k, v in plan.metadata.items() if v]
    return rows


def arena_text(found: CompiledModel) -> str:
    """Bytes of intermediates: a number where sizes are fixed, else how they follow from the sizes."""
    plan = found.plan
    if not plan.segments:
        return "none"
    target = plan.segments[0]
    instructions = {i.target: i for i in plan.program}
    if target not in instructions:
        return bytes_text(plan.numbers[target]) + " of intermediates"
    names = {number: _size_name(found, port, dim) for port, dim, number in plan.sizes}

    def spell(n: int, depth: int = 0) -> str:
        if n in names:
            return names[n]
        i = instructions.get(n)
        if i is None:
            return str(plan.numbers[n])
        if depth > 40:
            return "..."
        signs = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}
        a, b = spell(i.a, depth + 1), spell(i.b, depth + 1)
        return f"({a} {signs[i.operator]} {b})" if i.operator in signs else f"{i.operator}({a}, {b})"
    text = spell(target)
    return (text if len(text) <= 600 else text[:600] + " ...") + " bytes of intermediates"


def _size_name(found: CompiledModel, port: int, dim: int) -> str:
    shape = found.plan.inputs[port].shape
    name = shape[dim] if shape is not None else None
    return name if isinstance(name, str) else f"{found.plan.inputs[port].name}.shape[{dim}]"


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
