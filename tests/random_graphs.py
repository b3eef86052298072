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
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from graph_oracle import Arrays, Failure, Verdict, case_text, judge, judge_nests, shrink
from hypothesis import strategies as st
from random_models import Generator, Refused, generate
from sardonyx.ir.graph import Graph

HANG_SECONDS = 300.0


def models(fewest: int = 3, most: int = 12) -> st.SearchStrategy[Generator]:
    """Random models; Hypothesis makes the choices, and shrinks them."""
    return st.randoms(use_true_random=False).map(lambda rng: generate(rng, fewest, most))


@dataclass(frozen=True)
class Outcome:
    """One model: what was found, the operators it has, processor seconds, and whether level 0 and ONNX Runtime took part."""

    failure: Failure | None
    operators: tuple[str, ...] = ()
    seconds: float = 0.0
    unoptimised: bool = False
    with_peer: bool = False


def examine(seed: int, options: argparse.Namespace) -> Outcome:
    """Make a model, compare it, and shrink what fails."""
    begin, unoptimised = time.process_time(), seed % options.unoptimised_every == 0
    try:
        g = generate(random.Random(seed), options.fewest, options.most)
    except Refused as e:
        return Outcome(Failure("build", str(e)), operators_of(e.generator.graph))
    levels = (3, 0) if unoptimised else (3,)
    verdict = compared(g.graph, g.feeds(), levels, options)
    if verdict.failure and options.shrink:
        keep(g, seed, levels, verdict, options)
    return Outcome(verdict.failure, operators_of(g.graph), time.process_time() - begin, unoptimised and not options.nests, verdict.with_peer)


def compared(graph: Graph, feeds: Sequence[Arrays], levels: tuple[int, ...], options: argparse.Namespace) -> Verdict:
    return judge_nests(graph, feeds) if options.nests else judge(graph, feeds, levels, seconds=options.seconds)


def operators_of(graph: Graph) -> tuple[str, ...]:
    return tuple(f"{n.domain}.{n.op}" if n.domain else n.op for n in graph.nodes)


def keep(g: Generator, seed: int, levels: tuple[int, ...], verdict: Verdict, options: argparse.Namespace) -> None:
    """Write a small model that fails alike to a file."""
    failure = verdict.failure
    assert failure is not None

    def fails(graph: Graph, feeds: Sequence[Arrays]) -> bool:
        again = compared(graph, feeds, levels, options).failure
        return again is not None and again.kind == failure.kind and (failure.kind != "error" or again.text[:40] == failure.text[:40])
    small = shrink(g.graph, g.feeds(), fails)
    again = compared(*small, levels, options).failure
    options.shrink.mkdir(parents=True, exist_ok=True)
    (options.shrink / f"{failure.kind}_{seed}.txt").write_text(case_text(*small, f"{failure.kind}: {(again or failure).text}"))


def work(pipe: Connection, options: argparse.Namespace) -> None:
    while (seed := pipe.recv()) is not None:
        try:
            outcome = examine(seed, options)
        except Exception as e:  # a fault of the oracles themselves
            outcome = Outcome(Failure("oracle", f"{type(e).__name__}: {e} {traceback.format_exc(limit=-3)}"))
        pipe.send(outcome)


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

    def poll(self) -> Outcome | None:
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
        return Outcome(failure)


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Counts of what was done and found."""
    kinds = Counter(o.failure.kind for o in outcomes if o.failure)
    operators = Counter(n for o in outcomes for n in o.operators)
    lines = [f"{len(outcomes)} models, {operators.total()} nodes of {len(operators)} operators, {seconds:.0f} s ({sum(o.seconds for o in outcomes):.0f} s of processor time)",
             f"{sum(o.unoptimised for o in outcomes)} also without optimisation, {sum(o.with_peer for o in outcomes)} also by ONNX Runtime",
             f"{kinds.total()} failures" + "".join(f"; {n} {kind}" for kind, n in kinds.most_common())]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first model; the others follow")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fewest", type=int, default=5, help="operators")
    parser.add_argument("--most", type=int, default=60, help="operators")
    parser.add_argument("--seconds", type=float, default=30.0, help="processor time that compiling and running may take")
    parser.add_argument("--unoptimised-every", type=int, default=1, help="run level 0 only for every so many models")
    parser.add_argument("--nests", action="store_true", help="run the fused nests by the interpreter instead of compiling kernels: many times faster, and blind to kernels")
    parser.add_argument("--shrink", type=Path, help="folder for shrunk failures")
    options = parser.parse_args()
    os.environ.setdefault("SARDONYX_COMPILE_PROCESSES", "1")
    seeds = iter(range(options.seed, options.seed + options.count))
    workers = [Worker(options) for _ in range(options.jobs)]
    idle, outcomes, begin = list(workers), [], time.monotonic()
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
            idle.append(w)
            outcomes.append(found)
            if found.failure:
                print(f"{seed}: {len(found.operators)} operators, {found.seconds:.1f} s: {found.failure.kind}: {found.failure.text}", flush=True)
            if len(outcomes) % 50 == 0:
                print("; " + summary(outcomes, time.monotonic() - begin).replace("\n", "; "), flush=True)
    for w in workers:
        w.pipe.send(None)
    print(summary(outcomes, time.monotonic() - begin))
    return int(any(o.failure for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
