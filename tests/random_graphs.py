"""Random models against the interpreter, ONNX Runtime and each other: a strategy for Hypothesis, and a command.

    python tests/random_graphs.py --count 2000 --seed 0 --jobs 1

Every model runs in a child process, so that a crash or a hang is a finding like any other. `--seed S --count 1 --shrink DIR` shrinks what model S finds to a text file there; such files
belong into tests/regressions once the fault is mended.
"""
from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

from graph_oracle import Failure, case_text, check, shrink
from hypothesis import strategies as st
from random_models import Generator, Refused, generate

HANG_SECONDS = 300.0


def models(fewest: int = 3, most: int = 12) -> st.SearchStrategy[Generator]:
    """Random models; Hypothesis makes the choices, and shrinks them."""
    return st.randoms(use_true_random=False).map(lambda rng: generate(rng, fewest, most))


def examine(seed: int, fewest: int, most: int, unoptimised: bool, seconds: float, folder: Path | None) -> tuple[Failure | None, int]:
    """The failure of one model, and its number of nodes."""
    try:
        g = generate(random.Random(seed), fewest, most)
    except Refused as e:
        return Failure("build", str(e)), len(e.generator.graph.nodes)
    levels = (3, 0) if unoptimised else (3,)
    failure = check(g.graph, g.feeds(), levels, seconds=seconds)
    if failure and folder:
        def fails(graph, feeds):
            again = check(graph, feeds, levels, seconds=seconds)
            return again is not None and again.kind == failure.kind and (failure.kind != "error" or again.text[:40] == failure.text[:40])
        small = shrink(g.graph, g.feeds(), fails)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{failure.kind}_{seed}.txt").write_text(case_text(*small, f"{failure.kind}: {check(*small, levels).text}"))
    return failure, len(g.graph.nodes)


def work(pipe, options: argparse.Namespace) -> None:
    while (seed := pipe.recv()) is not None:
        begin = time.process_time()
        try:
            result = examine(seed, options.fewest, options.most, seed % options.unoptimised_every == 0, options.seconds, options.shrink)
        except Exception as e:  # a fault of the oracles themselves
            import traceback
            result = (Failure("oracle", f"{type(e).__name__}: {e} {traceback.format_exc(limit=-3)}"), 0)
        pipe.send((*result, time.process_time() - begin))


class Worker:
    """A child process with the seed it is at."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, self.options), daemon=True)
        self.process.start()
        other.close()
        self.seed: int | None = None

    def give(self, seed: int) -> None:
        self.seed, self.begin = seed, time.monotonic()
        self.pipe.send(seed)

    def poll(self) -> tuple[Failure | None, int, float] | None:
        """The result, if there is one; a dead or hanging child is replaced."""
        if self.pipe.poll(0.05):
            try:
                return self.pipe.recv()
            except EOFError:
                self.process.join()
                failure = Failure("crash", f"the process ended with {self.process.exitcode}")
        elif time.monotonic() - self.begin > HANG_SECONDS:
            self.process.kill()
            failure = Failure("hang", f"no end within {HANG_SECONDS:.0f} s")
        else:
            return None
        self.start()
        return failure, 0, 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first model; the others follow")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fewest", type=int, default=5, help="operators")
    parser.add_argument("--most", type=int, default=60, help="operators")
    parser.add_argument("--seconds", type=float, default=30.0, help="processor time that compiling and running may take")
    parser.add_argument("--unoptimised-every", type=int, default=1, help="run level 0 only for every so many models")
    parser.add_argument("--shrink", type=Path, help="folder for shrunk failures")
    options = parser.parse_args()
    os.environ.setdefault("SARDONYX_COMPILE_PROCESSES", "1")
    seeds = iter(range(options.seed, options.seed + options.count))
    workers = [Worker(options) for _ in range(options.jobs)]
    idle, failed, done, nodes, begin = list(workers), 0, 0, 0, time.monotonic()
    while True:
        while idle and (seed := next(seeds, None)) is not None:
            idle.pop().give(seed)
        busy = [w for w in workers if w not in idle]
        if not busy:
            break
        for w in busy:
            seed, found = w.seed, w.poll()
            if found is None:
                continue
            failure, count, spent = found
            idle.append(w)
            done, nodes = done + 1, nodes + count
            if failure:
                failed += 1
                print(f"{seed}: {count} operators, {spent:.1f} s: {failure.kind}: {failure.text}", flush=True)
            if done % 50 == 0:
                print(f"; {done} models, {nodes} operators, {failed} failures, {time.monotonic() - begin:.0f} s", flush=True)
    for w in workers:
        w.pipe.send(None)
    print(f"{done} models, {nodes} operators, {failed} failures, {time.monotonic() - begin:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
