"""Compiling kernels in parallel, each worker a process of its own.

Workers are started with the interpreter's own executable and talk over pipes: the user's main module is never imported again, threads and GPU contexts of this
process do not matter, and a crash inside LLVM is an error about one kernel. They stay a while for the next model.
"""
from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import cast

from ..ir.errors import CompileError, SardonyxError
from ..ir.kernel import KernelSource
from ..ir.target import Target
from .compile_worker import receive, send

Progress = Callable[[int, int, str], None]
FEW = 2  # so many kernels are compiled in this process

_LAUNCH = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {package}.runtime.compile_worker import main; main()"
_idle: list["_Worker"] = []
_LOCK = threading.Lock()


class _Worker:
    """One compiling process."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the worker)
        self._start()

    def _start(self) -> None:
        package = __package__.rpartition(".")[0]
        self._process = subprocess.Popen([sys.executable, "-P", "-c", _LAUNCH.format(package=package), json.dumps(sys.path)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=self._log, start_new_session=True)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def compile(self, kernel: KernelSource, target: Target) -> bytes:
        """One kernel's object.

        Raises:
            CompileError: it does not compile, or the process died of it.
        """
        for last in (False, True):
            try:
                send(self._process.stdin, (kernel, target))  # type: ignore[arg-type]
                image, error = cast("tuple[bytes, SardonyxError | None]", receive(self._process.stdout))
            except (EOFError, OSError) as e:
                code = self._process.wait()
                if code == 0 and not last:  # it left for lack of work just before the request
                    self._start()
                    continue
                self._log.seek(0)
                said = self._log.read().decode(errors="replace").strip()[-2000:]
                raise CompileError(kernel.name, kernel.text, f"the compiler process ended with status {code}" + (f": {said}" if said else "")) from e
            if error is not None:
                raise error
            return image
        raise AssertionError("unreachable")

    def kill(self) -> None:
        """End the process, whatever it does; a compilation that waits for it fails."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process and close what belongs to it."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def prewarm(processes: int) -> None:
    """Start workers now, so that they are ready when kernels are; returns at once. One process means this one, which needs no start."""
    if sys.executable and processes > 1:
        with _LOCK:
            _drop_dead()
            while len(_idle) < processes:
                _idle.append(_Worker())


class Ahead:
    """A kernel that one worker compiles while the others are not known yet; to be given to `compile_all`, or released."""

    def __init__(self, kernel: KernelSource, target: Target) -> None:
        self.kernel = kernel
        self.worker = _take(1)[0]
        self._answer: bytes | SardonyxError = b""
        self._thread = threading.Thread(target=self._compile, args=(target,), daemon=True)
        self._thread.start()

    def _compile(self, target: Target) -> None:
        try:
            self._answer = self.worker.compile(self.kernel, target)
        except SardonyxError as e:
            self._answer = e

    def answer(self) -> bytes | SardonyxError:
        """The object or what was wrong, once there is one."""
        self._thread.join()
        return self._answer

    def release(self) -> None:
        """End the worker: nobody wants the kernel any more."""
        self.worker.kill()
        self._thread.join()
        self.worker.stop()


def compile_all(kernels: Sequence[KernelSource], target: Target, processes: int | None = None, progress: Progress | None = None,
                ahead: Ahead | None = None) -> dict[str, bytes]:
    """Compile kernels.

    Args:
        kernels: equal ones are compiled once.
        processes: how many at a time; None for the target's cores. With one, or for a few kernels, no process is started.
        progress: called in this thread with (done, total, name) after each kernel.
        ahead: one of the kernels, begun before; its worker goes on with the others.

    Returns:
        Object files by `KernelSource.key`.

    Raises:
        CompileError: of the first kernel that failed; carries its name and text.
    """
    distinct = list({k.key: k for k in kernels}.values())
    processes = min(processes or target.cores, len(distinct))
    report = progress or (lambda done, total, name: None)
    alone = target.arch.startswith("wasm")  # whose code generator changes a default of all others in its process
    if ahead is None and (not sys.executable or (not alone and (processes <= 1 or (len(distinct) <= FEW and not _has_idle())))):
        return _compile_here(distinct, target, report)
    return _compile_apart(distinct, target, processes, report, alone, ahead)


def _compile_here(kernels: Sequence[KernelSource], target: Target, report: Progress) -> dict[str, bytes]:
    from ..codegen.numba_backend import compile_kernel

    made: dict[str, bytes] = {}
    for k in kernels:
        made[k.key] = compile_kernel(k, target)
        report(len(made), len(kernels), k.name)
    return made


def _compile_apart(kernels: Sequence[KernelSource], target: Target, processes: int, report: Progress, alone: bool, ahead: Ahead | None) -> dict[str, bytes]:
    """Largest kernels first, each to the next free worker. `alone`: by workers that compile for nothing else, before or after."""
    waiting: queue.SimpleQueue[KernelSource] = queue.SimpleQueue()
    for k in sorted(kernels, key=lambda k: -len(k.text)):
        if ahead is None or k.key != ahead.kernel.key:
            waiting.put(k)
    answers: queue.SimpleQueue[tuple[KernelSource, bytes | SardonyxError]] = queue.SimpleQueue()
    stopping = threading.Event()
    begun = [] if ahead is None else [ahead.worker]
    workers = [_Worker() for _ in range(processes)] if alone else begun + _take(processes - len(begun))

    def serve(worker: _Worker) -> None:
        if ahead is not None and worker is ahead.worker:
            answers.put((ahead.kernel, ahead.answer()))
            if not worker.alive:
                return
        while not stopping.is_set():
            try:
                k = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                answers.put((k, worker.compile(k, target)))
            except SardonyxError as e:
                answers.put((k, e))
                if not worker.alive:
                    return

    threads = [threading.Thread(target=serve, args=(w,), daemon=True) for w in workers]
    made: dict[str, bytes] = {}
    try:
        for t in threads:
            t.start()
        while len(made) < len(kernels):
            k, answer = answers.get()
            if isinstance(answer, SardonyxError):
                raise answer
            made[k.key] = answer
            report(len(made), len(kernels), k.name)
    except BaseException:  # also an interrupt: nobody will read what the workers still do
        stopping.set()
        for w in workers:
            w.kill()
        raise
    finally:
        for t in threads:
            t.join()
        if alone:
            for w in workers:
                w.stop()
        else:
            with _LOCK:
                _idle.extend(workers)
                _drop_dead()
    return made


# ------------------------------------------------------------------------------------------------------------------- workers
def _has_idle() -> bool:
    with _LOCK:
        _drop_dead()
        return bool(_idle)


def _drop_dead() -> None:
    """Forget workers that left after waiting in vain."""
    for w in [w for w in _idle if not w.alive]:
        _idle.remove(w)
        w.stop()


def _take(count: int) -> list[_Worker]:
    with _LOCK:
        _drop_dead()
        taken = [_idle.pop() for _ in range(min(count, len(_idle)))]
    return taken + [_Worker() for _ in range(count - len(taken))]


@atexit.register
def _stop_all() -> None:
    with _LOCK:
        while _idle:
            _idle.pop().stop()
