"""`sardonyx profile`."""
from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping

import click

from ..exceptions import NotImplemented
from ..profile import Profiler
from ..random_inputs import random_feeds
from .common import check_dims, heading, open_session, shorten, show_table, step_name

SHOWN = 15


def profile_model(model: str, output: str | None, dims: Mapping[str, int], threads: int, runs: int) -> None:
    """Time every kernel; see the command's help."""
    session = open_session(model, threads)
    if "by_shape" in session._model.report:
        raise NotImplemented(f"this model is compiled for each combination of input shapes and cannot be profiled as one: {session._model.report['by_shape']}")
    plan = session._model.plan
    check_dims(session._model.plan.inputs, dims)
    arrays = session._arrays(random_feeds(plan.inputs, dims, 0))
    session._execute(arrays)
    profiler = Profiler(plan, session._executor, "sardonyx_profile_")
    for _ in range(runs):
        profiler.run(arrays)
    path = profiler.write()
    if output is not None:
        os.replace(path, output)
        path = output
    spent: dict[str, list[float]] = defaultdict(list)
    nodes: dict[str, list[str]] = defaultdict(list)
    for event in profiler._events:
        if event["cat"] == "Node":
            position = int(event["args"]["node_index"])
            name = step_name(plan, position)
            spent[name].append(event["dur"] / runs)
            nodes[name] += [n for n in event["args"]["nodes"] if n not in nodes[name]]
    total = sum(map(sum, spent.values()))
    ranked = sorted(spent, key=lambda n: -sum(spent[n]))
    rows = [[n, len(spent[n]) // runs, f"{sum(spent[n]):.1f}", f"{100 * sum(spent[n]) / total:.1f}", shorten(nodes[n])] for n in ranked[:SHOWN]]
    heading(f"{os.path.basename(model)}: {total / 1000:.3f} ms a run in {len(plan.steps)} steps ({runs} runs)")
    show_table(["kernel", "calls", "us", "%", "nodes"], rows, right=(1, 2, 3))
    click.echo(f"trace written to {path}; open it in chrome://tracing or ui.perfetto.dev")
