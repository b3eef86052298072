"""`sardonyx run`."""
from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping, Sequence

import click
import numpy as np

from ..exceptions import InvalidArgument
from .common import open_session, random_inputs


def run_once(model: str, inputs: Sequence[str], dims: Mapping[str, int], output: str | None, threads: int, seed: int) -> None:
    """Run a model once; see the command's help."""
    session = open_session(model, threads)
    ports = session._model.plan.inputs
    given = read_inputs(inputs, [p.name for p in ports])
    feed = random_inputs([p for p in ports if p.name not in given], {n: s for n, s in dims.items()}, seed) | given
    start = time.perf_counter()
    results = session.run(None, feed)
    seconds = time.perf_counter() - start
    for port, value in zip(session.get_outputs(), results):
        click.echo(f"{port.name}: {describe(value)}")
    click.echo(f"ran in {seconds * 1e3:.3f} ms" + (f"; made up: {', '.join(n for n in feed if n not in given)}" if len(given) < len(feed) else ""))
    if output is not None:
        np.savez(output, **{p.name: np.asarray(v) for p, v in zip(session.get_outputs(), results)})
        click.echo(f"outputs written to {output}")


def read_inputs(items: Sequence[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays from NAME=FILE options; an .npz file gives several."""
    found: dict[str, np.ndarray] = {}
    for item in items:
        name, _, path = item.partition("=")
        if not path:
            name, path = "", item
        try:
            data = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as e:
            raise InvalidArgument(f"{path} holds no NumPy array that can be read: {e}") from e
        arrays = {k: data[k] for k in data.files} if hasattr(data, "files") else {name: data}
        if name and hasattr(data, "files"):
            arrays = {name: arrays[name] if name in arrays else next(iter(arrays.values()))}
        found.update({k: v for k, v in arrays.items() if name or k in names})
    unknown = set(found) - set(names)
    if unknown:
        raise InvalidArgument(f"the model has no input {', '.join(sorted(unknown))}; its inputs are {', '.join(names)}")
    return found


def describe(value: object) -> str:
    """Type, shape and spread of a result."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        text = f"{value.dtype}{list(value.shape)}"
        if value.size and value.dtype.kind not in "c":
            wide = value.astype(np.float64)
            text += f"  min {wide.min():.6g}  mean {wide.mean():.6g}  max {wide.max():.6g}"
        return text
    return f"{type(value).__name__} {str(value)[:200]}"
