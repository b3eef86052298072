"""What commands share: printing, units, sessions and random inputs."""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click

from ...ir.errors import SardonyxError
from ...ir.plan import ControlStep, HostStep, KernelStep, Plan, Port
from ..options import PRECISION_KEY, TUNE_KEY, SessionOptions
from ..random_inputs import symbolic_dims
from ..session import InferenceSession

Row = Sequence[object]


# ---------------------------------------------------------------------------------------------------------------- printing
def is_terminal() -> bool:
    """Whether results go to a person's terminal rather than to a pipe or file."""
    return sys.stdout.isatty()


def heading(text: str) -> None:
    """A line above a table."""
    click.echo()
    click.secho(text, bold=True)


def show_table(headers: Sequence[str], rows: Sequence[Row], right: Sequence[int] = ()) -> None:
    """Print rows under headers.

    Args:
        right: columns aligned to the right.
    """
    cells = [[str(c) for c in row] for row in rows]
    if is_terminal():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for k, h in enumerate(headers):
            table.add_column(h, justify="right" if k in right else "left", overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        Console(highlight=False).print(table)
        return
    widths = [max(len(row[k]) for row in [list(headers), *cells]) for k in range(len(headers))]
    for row in [list(headers), *cells]:
        click.echo("  ".join(c.rjust(w) if k in right else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths))).rstrip())


def show_facts(facts: Mapping[str, object]) -> None:
    """Print `name  value` lines."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{click.style(name.ljust(width), bold=True) if is_terminal() else name.ljust(width)}  {value}")


# ------------------------------------------------------------------------------------------------------------------- units
def bytes_text(size: float) -> str:
    """`1.5 MiB`"""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def seconds_text(seconds: float) -> str:
    """`1.23 ms`"""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 100 else f"{seconds * factor:.0f} {unit}"
    raise AssertionError


def count_text(number: int) -> str:
    """`25.6 M`"""
    for factor, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return str(number)


def shape_text(shape: Sequence[object] | None) -> str:
    return "?" if shape is None else f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def plural(count: int, noun: str) -> str:
    """`1 kernel`, `2 kernels`"""
    return f"{count} {noun}{'' if count == 1 else 's'}"


# ---------------------------------------------------------------------------------------------------------------- sessions
def open_session(path: str, threads: int = 0, profile_prefix: str = "", precision: str = "float32", tune: Mapping[str, int] | None = None) -> InferenceSession:
    """A session of a model or package.

    Args:
        tune: sizes of symbolic dimensions to measure with; None: nothing is measured.

    Raises:
        SardonyxError: it cannot be loaded.
    """
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(PRECISION_KEY, precision)
    if tune is not None:
        options.add_session_config_entry(TUNE_KEY, ",".join(f"{n}={s}" for n, s in tune.items()) or "1")
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return InferenceSession(path, options)


def session_for(session: InferenceSession, feeds: Mapping[str, object]) -> InferenceSession:
    """The session itself, or, where every combination of shapes is compiled by itself, the one for these feeds."""
    if "by_shape" not in session._model.report:
        return session
    session.run(None, feeds)
    return next(reversed(session._variants.values()))


def check_dims(ports: Sequence[Port], dims: Mapping[str, int]) -> None:
    """Refuse sizes of dimensions that the model does not have.

    Raises:
        SardonyxError: an unknown name; lists those there are.
    """
    known = symbolic_dims(ports)
    unknown = [n for n in dims if n not in known]
    if unknown:
        has = f"its symbolic dimensions are {', '.join(known)}" if known else "it has no symbolic dimensions"
        raise SardonyxError(f"the inputs have no dimension named {', '.join(map(repr, unknown))}; {has}")


# ------------------------------------------------------------------------------------------------------------------- steps
def step_name(plan: Plan, position: int) -> str:
    """What a step is called in reports: its kernel without the digest, or `host`."""
    step = plan.steps[position]
    if isinstance(step, KernelStep):
        return plan.kernels[step.kernel].rpartition("_")[0]
    if isinstance(step, ControlStep):
        return step.kind
    return "host" if isinstance(step, HostStep) else type(step).__name__


def shorten(items: Sequence[str], count: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")
