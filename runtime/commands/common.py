"""What several commands share: sessions, random inputs, tables."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir import dtypes as dt
from ...ir.plan import HostStep, KernelStep, Plan, Port
from ..exceptions import InvalidArgument
from ..options import SessionOptions
from ..session import InferenceSession

INTEGER_RANGE = 4  # random integers stay small: they are often indices


def open_session(model: str, threads: int = 0, level: int = 3, dims: Mapping[str, int] | None = None) -> InferenceSession:
    """A session of a model or package; `dims` fixes symbolic dimensions when compiling."""
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = level if level < 3 else 99
    for name, size in (dims or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return InferenceSession(model, options)


def random_inputs(ports: Sequence[Port], dims: Mapping[str, int], seed: int) -> dict[str, object]:
    """Inputs that fit: normal floats, small non-negative integers, zeros and ones, the string "a"; symbolic sizes from `dims`, else 1.

    Raises:
        InvalidArgument: a size is given that no input has.
    """
    known = {s for p in ports for s in p.shape or () if isinstance(s, str)}
    unknown = set(dims) - known
    if unknown:
        listed = ", ".join(sorted(known)) or "none"
        raise InvalidArgument(f"no input has a dimension named {', '.join(sorted(unknown))}; symbolic dimensions: {listed}")
    rng = np.random.default_rng(seed)
    return {p.name: random_array(p, dims, rng) for p in ports}


def random_array(port: Port, dims: Mapping[str, int], rng: np.random.Generator) -> object:
    if not port.type.startswith("tensor("):
        raise InvalidArgument(f"input {port.name} is a {port.type}; only tensors can be made up")
    dtype = dt.BY_NAME[port.type[7:-1]]
    shape = tuple(s if isinstance(s, int) else dims.get(s, 1) if isinstance(s, str) else 1 for s in port.shape or ())
    if dtype is dt.string:
        return np.full(shape, "a", object)
    if dtype is dt.boolean:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return rng.integers(0, min(INTEGER_RANGE, 1 << (dtype.bits - 1)), shape).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(dtype.numpy)


def step_name(plan: Plan, position: int) -> str:
    """What a step is called in reports: its kernel without the digest, or `host`."""
    step = plan.steps[position]
    if isinstance(step, KernelStep):
        return plan.kernels[step.kernel].rpartition("_")[0]
    return "host" if isinstance(step, HostStep) else type(step).__name__


def shorten(items: Sequence[str], count: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")


def size_text(size_bytes: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> None:
    """A table: with lines on a terminal, aligned columns in a pipe. `right` are columns to align right."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        texts = [[str(c) for c in columns], *[[str(c) for c in r] for r in rows]]
        widths = [max(len(r[k]) for r in texts) for k in range(len(columns))]
        print(title)
        for r in texts:
            print("  ".join(c.rjust(w) if k in right else c.ljust(w) for k, (c, w) in enumerate(zip(r, widths))).rstrip())
        return
    table = Table(title=title, title_justify="left")
    for k, c in enumerate(columns):
        table.add_column(c, justify="right" if k in right else "left")
    for r in rows:
        table.add_row(*[str(c) for c in r])
    console.print(table)
