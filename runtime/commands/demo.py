"""`sardonyx demo`: handwritten digits, recognised."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from ...ir.plan import KernelStep
from ..model import CompiledModel
from ..session import InferenceSession
from .common import heading, is_terminal, open_session, plural, seconds_text

DATA = Path(__file__).parent.parent / "data"
MODEL, SAMPLES = DATA / "digits.onnx", DATA / "samples.npz"
COLUMNS, GAP = 4, 3  # digits beside each other, blanks between them
SHADES = " .:-=+*#%@"


def run_demo(samples: int) -> None:
    """Draw digits, say what the network sees in them, and what was fused to do it."""
    start = time.perf_counter()
    session = open_session(str(MODEL))
    ready = time.perf_counter() - start
    with np.load(SAMPLES) as stored:
        images, labels = stored["images"], stored["labels"]
    probabilities, digits = (np.asarray(r) for r in session.run(None, {"image": images}))
    chosen = list(range(min(samples, len(images))))
    for at in range(0, len(chosen), COLUMNS):
        row = chosen[at:at + COLUMNS]
        click.echo()
        draw(images[row], [caption(int(digits[k]), int(labels[k]), float(probabilities[k].max())) for k in row])
    right = int((digits == labels).sum())
    click.echo(f"\n{right} of {len(images)} stored digits are right ({right / len(images):.1%}); none of them was seen in training")
    show_fusion(session._model)
    show_times(session, images, ready)


def caption(seen: int, true: int, confidence: float) -> tuple[str, bool]:
    """The line below a digit, and whether the digit was recognised."""
    return (f"{seen}  {confidence:.0%}" if seen == true else f"{seen}  {confidence:.0%}, is {true}"), seen == true


def draw(images: np.ndarray, captions: Sequence[tuple[str, bool]]) -> None:
    """Images beside each other, two characters a pixel: grey blocks on a terminal, characters in a pipe or where blocks cannot be written."""
    if is_terminal() and (sys.stdout.encoding or "").lower().startswith("utf"):
        from rich.console import Console
        from rich.style import Style
        from rich.text import Text

        console = Console(highlight=False)
        for y in range(8):
            line = Text()
            for image in images:
                for value in image[y]:
                    grey = int(value) * 255 // 16
                    line.append("  ", Style(bgcolor=f"rgb({grey},{grey},{grey})"))
                line.append(" " * GAP)
            console.print(line)
    else:
        for y in range(8):
            click.echo((" " * GAP).join("".join(SHADES[int(v) * 9 // 16] * 2 for v in image[y]) for image in images).rstrip())
    caption = ""
    for text, right in captions:
        caption += click.style(text.ljust(16 + GAP), fg="green" if right else "red")
    click.echo(caption.rstrip())


def show_fusion(model: CompiledModel) -> None:
    """Which of the network's operators each kernel computes."""
    ops = {name: op for name, op, _ in model.report["nodes"]}
    steps = [s for s in model.plan.steps if isinstance(s, KernelStep)]
    heading(f"{plural(len(ops), 'operator')} became {plural(len(steps), 'kernel call')}")
    for step in steps:
        click.echo(f"  {model.plan.kernels[step.kernel].rpartition('_')[0]:<34}  {' + '.join(ops.get(o, o) for o in step.origin)}")


def show_times(session: InferenceSession, images: np.ndarray, ready: float) -> None:
    """How long loading and runs take."""
    origin = session._model.origin
    heading("time")
    click.echo(f"  {'compiled' if origin == 'compiled' else 'loaded from the ' + origin} in {seconds_text(ready)}"
               + (" (the next start takes it from the disk cache)" if origin == "compiled" else ""))
    for count in (1, len(images)):
        feed = {"image": images[:count]}
        session.run(None, feed)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - start)
        click.echo(f"  {plural(count, 'image'):<10}  {seconds_text(float(np.median(times)))} a run")
