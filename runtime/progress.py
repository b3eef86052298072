"""Progress of long work: a bar on a terminal, silence in a pipe."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import knobs

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """What compilation reports to; this one says nothing."""

    def stage(self, text: str) -> None:
        """A stage of unknown length begins."""

    def kernels(self, done: int, total: int, name: str) -> None:
        """`done` of `total` kernels are compiled, `name` the latest."""


class BarProgress(Progress):
    """A line with a bar on the terminal."""

    def __init__(self, bar: "RichProgress", task: "TaskID") -> None:
        self._bar, self._task = bar, task

    def stage(self, text: str) -> None:
        self._bar.update(self._task, description=text, total=None)

    def kernels(self, done: int, total: int, name: str) -> None:
        self._bar.update(self._task, description="compiling kernels", completed=done, total=total)


@contextmanager
def compile_progress() -> Iterator[Progress]:
    """The progress reporter that the environment asks for; the bar is gone when the work is done."""
    wanted = knobs.PROGRESS.read().strip().lower()
    if wanted == "off" or (wanted != "on" and not (sys.stderr is not None and sys.stderr.isatty())):
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield BarProgress(bar, bar.add_task("starting", total=None))
