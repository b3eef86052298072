"""`sardonyx bench`."""
from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import click
import numpy as np

from ...ir.plan import KernelStep
from ..random_inputs import random_feeds
from ..session import InferenceSession
from .common import bytes_text, check_dims, heading, open_session, show_table, step_name

WARM_RUNS = 3
MIN_RUNS = 5
PROFILED_RUNS = 5
SHOWN = 15


def bench_model(model: str, dims: Mapping[str, int], threads: int, seconds: float, streams: int, as_json: bool, precision: str = "float32",
                tune: bool = False) -> None:
    """Measure a model; see the command's help."""
    start = time.perf_counter()
    session = open_session(model, threads, precision=precision, tune=dims if tune else None)
    loaded = time.perf_counter() - start
    check_dims(session._model.plan.inputs, dims)
    feed = random_feeds(session._model.plan.inputs, dims, 0)
    first = timed(session, feed)
    for _ in range(WARM_RUNS):
        timed(session, feed)
    times = latencies(session, feed, seconds)
    facts: dict[str, Any] = {
        "model": os.path.basename(model), "origin": session._model.origin, "threads": session._threads, "load_s": loaded,
        "parts_s": session._model.seconds, "first_run_ms": first * 1e3, "runs": len(times), "median_ms": statistics.median(times) * 1e3,
        "p90_ms": sorted(times)[int(0.9 * (len(times) - 1))] * 1e3, "min_ms": min(times) * 1e3,
        "throughput_per_s": throughput(session, feed, seconds, streams), "streams": streams,
        "peak_memory_bytes": peak_memory_bytes(), "weights_bytes": sum(a.nbytes for a in session._model.constants),
    }
    if precision != "float32":
        facts |= {"precision": precision, "difference": worst_difference(session.run(None, feed), open_session(model, threads).run(None, feed))}
    if "by_shape" not in session._model.report:
        facts["ceilings"] = ceilings()
        facts["kernels"] = kernel_shares(session, feed, facts["ceilings"]["flops"])
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    print_facts(facts)


def worst_difference(found: Sequence[object], exact: Sequence[object]) -> float:
    """The largest difference between results of float type, as a share of the largest number of its tensor."""
    worst = 0.0
    for a, b in zip(found, exact, strict=True):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.size and np.issubdtype(a.dtype, np.floating):
            scale = float(np.max(np.abs(b)))
            worst = max(worst, float(np.max(np.abs(a.astype(np.float64) - b))) / (scale or 1.0))
    return worst


def timed(session: InferenceSession, feed: Mapping[str, object]) -> float:
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start


def latencies(session: InferenceSession, feed: Mapping[str, object], seconds: float) -> list[float]:
    """Times of single runs, one after another."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < MIN_RUNS:
        times.append(timed(session, feed))
    return times


def throughput(session: InferenceSession, feed: Mapping[str, object], seconds: float, streams: int) -> float:
    """Runs a second with `streams` Python threads on one session."""
    counts = [0] * streams
    end = time.perf_counter() + seconds

    def work(k: int) -> None:
        while time.perf_counter() < end or not counts[k]:
            session.run(None, feed)
            counts[k] += 1
    start = time.perf_counter()
    workers = [threading.Thread(target=work, args=(k,)) for k in range(streams)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return sum(counts) / (time.perf_counter() - start)


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def ceilings() -> dict[str, Any]:
    """What one core of this machine reaches: float32 multiply-adds in registers, and reading of memory and of each cache."""
    from ..probe import fma_flops, reading

    rates = {r.level: r.bytes_per_second for r in reading()}
    return {"flops": fma_flops(), "bytes_per_s": rates["memory"], "reading_bytes_per_s": rates}


def kernel_shares(session: InferenceSession, feed: Mapping[str, object], flop_rate: float) -> list[dict[str, Any]]:
    """Time, rates and share of the roofline per kernel, slowest first (best of a few runs a step).

    The roofline of a call is `flop_rate` a core, or reading its data at the rate of the fastest cache that could hold them.
    """
    from ..probe import read_bytes_per_second

    plan, executor = session._model.plan, session._executor
    arrays = session._arrays(feed)
    best: dict[int, int] = {}
    for _ in range(PROFILED_RUNS):
        for t in executor.profile(arrays)[1]:
            best[t.step] = min(best.get(t.step, t.end_ns - t.start_ns), t.end_ns - t.start_ns)
    numbers = executor.numbers([np.shape(a) for a in arrays if isinstance(a, np.ndarray)])
    groups: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0, 0.0])
    scale = executor.threads
    for position, spent in best.items():
        step = plan.steps[position]
        g = groups[step_name(plan, position)]
        g[0] += 1
        g[1] += spent / 1e9
        if isinstance(step, KernelStep):
            flops = int(numbers[step.flops]) if step.flops >= 0 else 0
            bytes_ = int(numbers[step.bytes]) if step.bytes >= 0 else 0
            g[2] += flops
            g[3] += bytes_
            g[4] += max(flops / (flop_rate * scale), bytes_ / (read_bytes_per_second(bytes_ / scale) * scale))
    rows = []
    for name, (calls, seconds, work, moved, bound) in sorted(groups.items(), key=lambda kv: -kv[1][1]):
        rows.append({"kernel": name, "calls": int(calls), "ms": seconds * 1e3, "gflops": work / seconds / 1e9 if seconds else 0.0,
                     "gbytes_per_s": moved / seconds / 1e9 if seconds else 0.0, "roofline": bound / seconds if seconds else 0.0})
    return rows


def print_facts(f: Mapping[str, Any]) -> None:
    parts = ", ".join(f"{k} {v:.2f} s" for k, v in f["parts_s"].items())
    click.echo(f"{f['model']}: {f['threads']} thread(s)")
    click.echo(f"  load        {f['load_s']:.3f} s ({f['origin']}; {parts})")
    click.echo(f"  first run   {f['first_run_ms']:.3f} ms")
    click.echo(f"  latency     median {f['median_ms']:.3f} ms, 90% {f['p90_ms']:.3f} ms, least {f['min_ms']:.3f} ms ({f['runs']} runs)")
    click.echo(f"  throughput  {f['throughput_per_s']:.1f} runs a second ({f['streams']} stream(s))")
    click.echo(f"  memory      peak {bytes_text(f['peak_memory_bytes'])} of the process, weights {bytes_text(f['weights_bytes'])}")
    if "difference" in f:
        click.echo(f"  precision   {f['precision']}: results differ from float32 by at most {f['difference']:.2e} of each output's largest number")
    if "kernels" not in f:
        return
    c = f["ceilings"]
    reads = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in c["reading_bytes_per_s"].items())
    click.echo(f"  ceilings    {c['flops'] / 1e9:.0f} GFLOP/s a core; reading, GB/s a core: {reads}")
    rows = [[k["kernel"], k["calls"], f"{k['ms']:.3f}", f"{k['gflops']:.1f}", f"{k['gbytes_per_s']:.1f}", f"{100 * k['roofline']:.0f}%"] for k in f["kernels"][:SHOWN]]
    heading("kernels")
    show_table(["kernel", "calls", "ms", "GFLOP/s", "GB/s", "of roofline"], rows, right=(1, 2, 3, 4, 5))
