"""`sardonyx run`: one run, on files or random inputs."""
from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...ir.errors import SardonyxError
from ..random_inputs import random_feeds
from ..session import InferenceSession
from .common import check_dims, heading, open_session, seconds_text, shape_text, show_table


def run_once(model: str, inputs: Sequence[str], dims: Mapping[str, int], output: str | None, threads: int, seed: int, precision: str = "float32",
             tune: bool = False) -> None:
    """Run a model and print its outputs' types, shapes and ranges.

    Args:
        inputs: `NAME=FILE` of .npy or .npz files; an .npz file without a name gives every input that it holds.
        output: .npz file for the outputs.

    Raises:
        SardonyxError: the model, a name or a file is wrong.
    """
    session = open_session(model, threads, precision=precision, tune=dims if tune else None)
    check_dims(session._model.plan.inputs, dims)
    given = read_inputs(inputs, [p.name for p in session.get_inputs()])
    feeds = random_feeds(session._model.plan.inputs, dims, seed, given)
    start = time.perf_counter()
    results = session.run(None, feeds)
    elapsed = time.perf_counter() - start
    heading("inputs")
    show_table(("name", "type", "shape", "from"), [(p.name, p.type, shape_text(np.shape(feeds[p.name])), "file" if p.name in given else "random")
                                                   for p in session.get_inputs()])
    heading("outputs")
    show_table(("name", "type", "shape", "min", "mean", "max"), [output_row(p, r) for p, r in zip(session.get_outputs(), results)], right=(3, 4, 5))
    click.echo(f"\n{seconds_text(elapsed)} (first run)")
    if output:
        save_outputs(session, results, output)
        click.echo(f"written to {output}")


def output_row(port: Any, value: object) -> tuple[object, ...]:
    """Name, type, shape, smallest, mean and largest element."""
    if not isinstance(value, np.ndarray):
        return port.name, port.type, f"{len(value)} entries" if hasattr(value, "__len__") else "", "", "", ""
    shape = shape_text(value.shape)
    if value.dtype == object or value.dtype.kind == "c" or not value.size:
        return port.name, port.type, shape, "", "", ""
    wide = value.astype(np.float64)
    return port.name, port.type, shape, *(f"{f(wide):.6g}" for f in (np.min, np.mean, np.max))


def read_inputs(items: Sequence[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of `NAME=FILE` options, by input.

    Raises:
        SardonyxError: an unknown input, a missing or unreadable file, or an .npz file that does not hold what is wanted.
    """
    found: dict[str, np.ndarray] = {}
    for item in items:
        name, separator, file = item.partition("=")
        if not separator:
            name, file = "", item
        if name and name not in names:
            raise SardonyxError(f"--input {item}: the model has no input {name!r}; its inputs are {', '.join(names)}")
        loaded = load_file(file)
        if isinstance(loaded, np.ndarray):
            if not name and len(names) != 1:
                raise SardonyxError(f"--input {item}: say which input it is, as NAME={file}; the model's inputs are {', '.join(names)}")
            found[name or names[0]] = loaded
        elif name:
            if name not in loaded and len(loaded) != 1:
                raise SardonyxError(f"--input {item}: the file holds {', '.join(loaded)}, not {name}")
            found[name] = loaded[name] if name in loaded else next(iter(loaded.values()))
        else:
            here = {n: a for n, a in loaded.items() if n in names}
            if not here:
                raise SardonyxError(f"--input {item}: the file holds {', '.join(loaded)}, none of the model's inputs {', '.join(names)}")
            found.update(here)
    return found


def load_file(file: str) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file or the arrays of an .npz file."""
    if not Path(file).is_file():
        raise SardonyxError(f"{file}: no such file")
    try:
        loaded = np.load(file, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {n: loaded[n] for n in loaded.files}
    except (ValueError, EOFError, OSError) as e:
        raise SardonyxError(f"{file}: not a readable .npy or .npz file: {e}") from e


def save_outputs(session: InferenceSession, results: Sequence[object], output: str) -> None:
    """Write tensors to an .npz file, under the names of the outputs.

    Raises:
        SardonyxError: an output is not a tensor of numbers.
    """
    arrays: dict[str, Any] = {}
    for p, r in zip(session.get_outputs(), results):
        if not isinstance(r, np.ndarray) or r.dtype == object:
            raise SardonyxError(f"output {p.name} is a {p.type}: .npz files hold tensors of numbers only")
        arrays[p.name] = r
    np.savez(output, **arrays)
