"""Native libraries against the sessions they come from: the same bits, the time of a run, and sizes.

    python benchmarks/native.py MODEL.onnx ... [--threads 1] [--rounds 12] [--shape INPUT=D,D] [--value INPUT=X] [--folder F]

Inputs are those of MODEL.npz beside a model, where it is; else random ones of the shapes given. A C program runs the library and takes turns with the session, a round each, so that
what else the machine does meets both alike. Ratios are library to session: of the medians, of the least times, and of the medians of processor time, which others on the machine
change least.
"""
from __future__ import annotations

import argparse
import statistics
import struct
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sardonyx import InferenceSession, SessionOptions
from sardonyx.ir import dtypes as dt
from sardonyx.runtime.commands.common import bytes_text
from sardonyx.runtime.host import host_target
from sardonyx.runtime.model import CompiledModel, CompileOptions, declared_ports, obtain
from sardonyx.runtime.native.library import Library, write_library
from sardonyx.runtime.native.tables import c_name
from sardonyx.runtime.random_inputs import random_feeds

SOURCE = Path(__file__).parent / "native_timer.c"
TENSOR_FILES = Path(__file__).resolve().parent.parent / "tests" / "native"  # tensor_file.h
MAX_RANK, HEAD = 8, "<11q"
WARM_RUNS = 3
ROUND_SECONDS = 0.5


@dataclass(frozen=True)
class Result:
    """What one model gave: seconds of single runs of both, elapsed and of the processor, whether their outputs are equal to the last bit, and bytes."""

    session: list[tuple[float, float]]
    library: list[tuple[float, float]]
    equal: bool
    model_bytes: int
    weights_bytes: int
    library_bytes: int


class Timed:
    """A library in a process of its own."""

    def __init__(self, made: Library, feeds: Mapping[str, np.ndarray], names: list[str], threads: int, folder: Path) -> None:
        name = made.header.stem
        program, self.out = folder / f"{name}_timer", folder / f"{name}.out"
        subprocess.run(["cc", "-std=gnu11", "-O2", f"-DMODEL={name}", f'-DHEADER="{name}.h"', f"-I{folder}", f"-I{TENSOR_FILES}", str(SOURCE), str(made.path), "-o", str(program), f"-Wl,-rpath,{folder}"],
                       check=True)
        write_tensors(folder / f"{name}.in", [feeds[n] for n in names])
        self.process = subprocess.Popen([program, folder / f"{name}.in", self.out, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, times: int) -> list[tuple[float, float]]:
        """Seconds of so many runs, elapsed and of the processor."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        lines = [self.process.stdout.readline().split() for _ in range(times)]
        return [(int(elapsed) / 1e9, int(used) / 1e9) for elapsed, used in lines]

    def finish(self) -> list[tuple[tuple[int, ...], bytes]]:
        """Shapes and bytes of the last run's outputs."""
        self.process.communicate("0\n")
        return read_tensors(self.out)


def write_tensors(path: Path, arrays: list[np.ndarray]) -> None:
    with path.open("wb") as f:
        f.write(struct.pack("<q", len(arrays)))
        for a in arrays:
            code = next(d.code for d in dt.BY_NAME.values() if d.numpy == a.dtype)
            f.write(struct.pack(HEAD, code, a.ndim, a.nbytes, *a.shape, *[0] * (MAX_RANK - a.ndim)) + a.tobytes())


def read_tensors(path: Path) -> list[tuple[tuple[int, ...], bytes]]:
    data, at, found = path.read_bytes(), 8, []
    for _ in range(struct.unpack_from("<q", data)[0]):
        head = struct.unpack_from(HEAD, data, at)
        found.append((head[3:3 + head[1]], data[at + 88:at + 88 + head[2]]))
        at += 88 + head[2]
    return found


def session_of(model: Path, threads: int) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is compiled by shape is what --shape answers
        return InferenceSession(str(model), options)


def feeds_of(model: Path, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The arrays beside the model, or random ones."""
    ports, _ = declared_ports(str(model))
    beside = model.with_suffix(".npz")
    if beside.exists():
        with np.load(beside) as stored:
            return {p.name: np.ascontiguousarray(stored[p.name]) for p in ports}
    rng, given = np.random.default_rng(0), {}
    for p in ports:
        kind = dt.BY_NAME[p.type[7:-1]].numpy
        if p.name in values:
            given[p.name] = np.full(shapes.get(p.name, ()), values[p.name], kind)
        elif p.name in shapes:
            given[p.name] = rng.standard_normal(shapes[p.name]).astype(kind)
    return random_feeds(ports, {}, 0, given)


def measure(path: Path, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, float], threads: int, rounds: int, folder: Path) -> Result:
    session, feeds = session_of(path, threads), feeds_of(path, shapes, values)
    wanted = session.run(None, feeds)
    model = compiled(path, session, feeds)
    made = write_library(model, folder / f"lib{c_name(path.stem)}.so", host_target(), host_target())
    library = Timed(made, feeds, [p.name for p in session.get_inputs()], threads, folder)

    def run(times: int) -> list[tuple[float, float]]:
        found = []
        for _ in range(times):
            used, start = time.process_time(), time.perf_counter()
            session.run(None, feeds)
            elapsed = time.perf_counter() - start
            found.append((elapsed, time.process_time() - used))
        return found
    each = max(3, min(2000, round(ROUND_SECONDS / min(run(WARM_RUNS) + library.run(WARM_RUNS))[0])))
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for k in range(rounds):
        for turn in ((run, ours), (library.run, theirs))[::1 if k % 2 else -1]:
            turn[1].extend(turn[0](each))
    got = library.finish()
    equal = len(got) == len(wanted) and all(shape == np.shape(w) and data == np.asarray(w).tobytes() for (shape, data), w in zip(got, wanted, strict=True))
    return Result(ours, theirs, equal, path.stat().st_size, sum(a.nbytes for a in model.constants), made.path.stat().st_size)


def compiled(path: Path, session: InferenceSession, feeds: Mapping[str, np.ndarray]) -> CompiledModel:
    """The session's model; where it is compiled for each combination of shapes, for these."""
    given = tuple(sorted((n, a.shape) for n, a in feeds.items())) if "by_shape" in session._model.report else ()
    return obtain(str(path), CompileOptions(input_shapes=given, compact=True), host_target())


def parsed(texts: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (t.partition("=") for t in texts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=D,D", help="of a random input; used by the models that have it")
    parser.add_argument("--value", action="append", default=[], metavar="INPUT=X", help="every element of an input")
    parser.add_argument("--folder", type=Path, help="where the libraries go; by default one that is deleted")
    given = parser.parse_args()
    shapes = {n: tuple(int(d) for d in text.split(",")) for n, text in parsed(given.shape).items()}
    values = {n: float(text) for n, text in parsed(given.value).items()}
    print(f"{'model':20s} {'session':>10s} {'library':>10s} {'ratio':>7s} {'minima':>7s} {'cpu':>7s} {'bits':>7s} {'library':>10s} {'weights':>10s} {'above':>10s} {'.onnx':>10s}   (medians in ms, "
          f"{given.threads} thread{'s' * (given.threads > 1)})")
    with tempfile.TemporaryDirectory(prefix="sardonyx-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for path in given.models:
            r = measure(path.resolve(), shapes, values, given.threads, given.rounds, folder)
            (session, ours), (library, theirs) = ([statistics.median(t) for t in zip(*times, strict=True)] for times in (r.session, r.library))
            least = min(r.library)[0] / min(r.session)[0]
            print(f"{path.stem:20s} {session * 1e3:10.4f} {library * 1e3:10.4f} {library / session:7.3f} {least:7.3f} {theirs / ours:7.3f} {'equal' if r.equal else 'DIFFER':>7s} "
                  f"{bytes_text(r.library_bytes):>10s} {bytes_text(r.weights_bytes):>10s} {bytes_text(r.library_bytes - r.weights_bytes):>10s} {bytes_text(r.model_bytes):>10s}", flush=True)


if __name__ == "__main__":
    main()
