"""Whole models against ONNX Runtime, side by side in one process: `python benchmarks/models.py FOLDER_OR_MODEL... [--threads 1] [--filter TEXT] [--below 0.95]`.

With `--dim NAME=SIZE` symbolic dimensions have these sizes; with `--twin` the other side is Sardonyx itself with the sizes of this run's inputs fixed when compiling.

Inputs come from NAME.npz beside NAME.onnx where there is one (an array for each input, by name), else they are random. The runtimes take turns in short blocks;
the ratio is the other side's median time over Sardonyx's, so more than 1 is faster.
"""
from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import sardonyx
from sardonyx.runtime.random_inputs import random_feeds

BLOCK_SECONDS = 0.04
LEAST_BLOCKS = 5


@dataclass(frozen=True)
class Row:
    """Medians of one model, seconds; the peer is ONNX Runtime or the model's twin of fixed sizes."""

    name: str
    peer: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.peer / self.ours


def models(places: Sequence[str], part: str) -> Iterator[Path]:
    """The .onnx files at and below the places."""
    for place in map(Path, places):
        for path in [place] if place.is_file() else sorted(place.rglob("*.onnx")):
            if part in str(path):
                yield path


def feeds_of(path: Path, session: sardonyx.InferenceSession, dims: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The stored inputs of a model where there are any and no sizes are asked for, else random ones."""
    names = [i.name for i in session.get_inputs()]
    stored = path.with_suffix(".npz")
    if stored.exists() and not dims:
        with np.load(stored, allow_pickle=False) as arrays:
            return {n: arrays[n] for n in names if n in arrays.files}
    return random_feeds(session._model.plan.inputs, dims, 0)


def twin_of(path: Path, session: sardonyx.InferenceSession, feed: Mapping[str, np.ndarray], options: sardonyx.SessionOptions) -> sardonyx.InferenceSession:
    """The same model compiled for the sizes of these inputs."""
    for port in session.get_inputs():
        for name, size in zip(port.shape, feed[port.name].shape, strict=True):
            if isinstance(name, str):
                options.add_free_dimension_override_by_name(name, size)
    return sardonyx.InferenceSession(str(path), options)


def measured(path: Path, threads: int, seconds: float, dims: Mapping[str, int], twin: bool) -> Row:
    """Both sides on one model."""
    ours, fixed, peer = sardonyx.SessionOptions(), sardonyx.SessionOptions(), ort.SessionOptions()
    ours.intra_op_num_threads = fixed.intra_op_num_threads = peer.intra_op_num_threads = threads
    peer.log_severity_level = 3
    session = sardonyx.InferenceSession(str(path), ours)
    feed = feeds_of(path, session, dims)
    other = twin_of(path, session, feed, fixed) if twin else ort.InferenceSession(str(path), peer, providers=["CPUExecutionProvider"])
    runs = (lambda: other.run(None, feed), lambda: session.run(None, feed))
    return Row(str(path), *(statistics.median(t) for t in alternating(runs, seconds)))


def alternating(runs: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Times of single runs, in blocks by turns; the first run of a block, whose caches the other emptied, is not counted where there are others."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    end, blocks = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or blocks < LEAST_BLOCKS:
        blocks += 1
        for run, found in zip(runs, times, strict=True):
            block: list[float] = []
            stop = time.perf_counter() + BLOCK_SECONDS
            while not block or time.perf_counter() < stop:
                start = time.perf_counter()
                run()
                block.append(time.perf_counter() - start)
            found += block[1:] or block
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--filter", default="")
    parser.add_argument("--seconds", type=float, default=1.0, help="a model")
    parser.add_argument("--below", type=float, default=0.95, help="mark what is slower than this")
    parser.add_argument("--dim", dest="dims", action="append", default=[], metavar="NAME=SIZE", help="size of a symbolic dimension; may be repeated")
    parser.add_argument("--twin", action="store_true", help="compare with the same model compiled for fixed sizes")
    options = parser.parse_args()
    dims = {name: int(size) for name, _, size in (d.partition("=") for d in options.dims)}
    rows = []
    print(f"{'model':70s} {'fixed ms' if options.twin else 'ORT ms':>10s} {'ours ms':>10s} {'ratio':>7s}")
    for path in models(options.places, options.filter):
        try:
            row = measured(path, options.threads, options.seconds, dims, options.twin)
        except (sardonyx.SardonyxError, ort.capi.onnxruntime_pybind11_state.Fail, ort.capi.onnxruntime_pybind11_state.InvalidArgument) as e:
            print(f"{path}: {type(e).__name__}: {e}", file=sys.stderr)
            continue
        rows.append(row)
        print(f"{row.name[-70:]:70s} {row.peer * 1e3:10.4f} {row.ours * 1e3:10.4f} {row.ratio:7.2f}{'  <' if row.ratio < options.below else ''}", flush=True)
    if rows:
        mean = math.exp(statistics.fmean(math.log(r.ratio) for r in rows))
        print(f"\n{len(rows)} models, geometric mean {mean:.3f}, least {min(r.ratio for r in rows):.2f}, {sum(r.ratio < options.below for r in rows)} below {options.below}")


if __name__ == "__main__":
    main()
