"""`sardonyx demo`: a small trained network on handwritten digits."""
from __future__ import annotations

import time
from importlib.resources import files

import click
import numpy as np

from ..session import InferenceSession
from .common import shorten, step_name

SHADES = " ░▒▓█"
TIMED_RUNS = 200


def run_demo(count: int) -> None:
    """Recognise stored digits; see the command's help."""
    data = files("sardonyx.runtime").joinpath("data")
    samples = np.load(str(data.joinpath("samples.npz")))
    images, labels = samples["images"], samples["labels"]
    start = time.perf_counter()
    session = InferenceSession(str(data.joinpath("digits.onnx")))
    loaded = time.perf_counter() - start
    name = session.get_inputs()[0].name
    probabilities, guesses = (np.asarray(r) for r in session.run(["probabilities", "digit"], {name: images}))
    draw(images[:count], guesses[:count], labels[:count], probabilities.max(1)[:count])
    click.echo(f"{int((guesses == labels).sum())} of {len(labels)} stored digits are recognised")
    click.echo("")
    plan = session._model.plan
    nodes = dict.fromkeys(o for s in plan.steps for o in getattr(s, "origin", ()))
    click.echo(f"{len(nodes)} nodes run as {len(plan.steps)} steps:")
    for k, step in enumerate(plan.steps):
        click.echo(f"  {step_name(plan, k):28s} {shorten(list(getattr(step, 'origin', ())), 6)}")
    one = images[:1]
    times = []
    for _ in range(TIMED_RUNS):
        begin = time.perf_counter()
        session.run(None, {name: one})
        times.append(time.perf_counter() - begin)
    how = {"compiled": "compiled", "cache": "loaded from the cache"}[session._model.origin]
    click.echo("")
    click.echo(f"{how} in {loaded:.2f} s; one digit takes {np.median(times) * 1e6:.1f} us")


def draw(images: np.ndarray, guesses: np.ndarray, labels: np.ndarray, sure: np.ndarray) -> None:
    """Digits side by side, with what they were taken for."""
    pictures = [picture(i.reshape(8, 8)) for i in images]
    for begin in range(0, len(pictures), 4):
        row = pictures[begin:begin + 4]
        for lines in zip(*row):
            click.echo("   ".join(lines))
        captions = [f"{g} ({100 * s:.0f}%)" + ("" if g == t else f", is {t}") for g, t, s in zip(guesses[begin:], labels[begin:], sure[begin:])]
        click.echo("   ".join(c.ljust(16) for c in captions[:4]).rstrip())
        click.echo("")


def picture(image: np.ndarray) -> list[str]:
    """An image of 0..1 as lines of shaded blocks, two characters a pixel."""
    levels = np.clip(image / max(float(image.max()), 1e-6) * (len(SHADES) - 1), 0, len(SHADES) - 1).round().astype(int)
    return ["".join(SHADES[v] * 2 for v in row) for row in levels]
