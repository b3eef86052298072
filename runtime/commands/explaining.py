"""`sardonyx explain`."""
from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

import click

from ...ir.errors import SardonyxError
from ...ir.plan import ControlStep, HostStep, KernelStep
from ..exceptions import translated
from ..model import CompiledModel, CompileOptions, host_target, obtain
from .common import shorten, step_name

ROUNDING = "round-operands"  # the journal's name for it


def explain_model(model: str, node: str | None, precision: str = "float32") -> None:
    """Say what became of each node; see the command's help."""
    with translated(model):
        found = obtain(model, CompileOptions(precision=precision), host_target())
    nodes = {name: op for name, op, _ in found.report["nodes"]}
    if node is None:
        click.echo(f"{os.path.basename(model)}: {len(nodes)} nodes became {len(found.plan.steps)} steps with {len(found.plan.kernels)} kernels{precision_text(found)}")
        for name, op in nodes.items():
            click.echo(f"{name} ({op}): {fate(found, name)}")
        return
    if node not in nodes:
        close = difflib.get_close_matches(node, nodes, 3) or [n for n in nodes if node.lower() in n.lower()][:3]
        raise SardonyxError(f"the model has no node {node!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))
    click.echo(f"{node} ({nodes[node]})")
    click.echo(f"  {fate(found, node)}")
    for line in dict.fromkeys([*rewrites(found, node), *decisions(found, node)]):
        click.echo(f"  {line}")


def precision_text(found: CompiledModel) -> str:
    """How many products have rounded operands, where a user asked for it."""
    precision = found.report.get("precision", "float32")
    if precision == "float32":
        return ""
    products = {tuple(origin): reason for rule, origin, reason in found.report.get("journal", []) if rule == ROUNDING}
    return f"; operands of {sum(r is None for r in products.values())} of {len(products)} products are rounded to {precision}"


def steps_of(found: CompiledModel, node: str) -> list[int]:
    return [k for k, s in enumerate(found.plan.steps) if node in getattr(s, "origin", ())]


def fate(found: CompiledModel, node: str) -> str:
    """What computes a node."""
    positions = steps_of(found, node)
    if not positions:
        return next(f for name, _, f in found.report["nodes"] if name == node) or "computed in the body of a control-flow operator"
    parts = []
    for k in positions:
        step = found.plan.steps[k]
        if isinstance(step, HostStep):
            parts.append(f"step {k} on the host: {step.reason}")
            continue
        if isinstance(step, ControlStep):
            inside = " and ".join(f"{len(found.plan.bodies[b].steps)} steps" for b in step.bodies)
            parts.append(f"step {k}, {step.kind} by the driver itself, {'branches' if step.kind == 'If' else 'a body'} of {inside}")
            continue
        assert isinstance(step, KernelStep)
        others = [o for o in step.origin if o != node]
        parts.append(f"step {k}, kernel {step_name(found.plan, k)}" + (f", fused with {shorten(others, 4)}" if others else ", alone"))
    return "; ".join(parts)


def decisions(found: CompiledModel, node: str) -> Iterable[str]:
    """What fusion decided about a node and its neighbours."""
    for producer, consumer, verdict in found.report.get("decisions", []):
        if node in producer or node in consumer:
            yield f"{shorten(producer)} -> {shorten(consumer)}: {verdict}"


def rewrites(found: CompiledModel, node: str) -> Iterable[str]:
    """Rules that changed a node, and those that declined."""
    for rule, origin, declined in found.report.get("journal", []):
        if node in origin and rule.startswith("custom operator "):
            yield f"{rule}: {declined}"
        elif node in origin:
            yield f"rule {rule}: " + (f"declined: {declined}" if declined else f"applied to {shorten(origin)}")
