"""A process that compiles kernels: reads pickled requests from its standard input, writes answers to what was its standard output.

Each message is eight bytes of length, then a pickle. A request is (kernel, target); an answer is (object bytes or None, error or None). The process ends when its
input closes or nothing was asked for a while.
"""
from __future__ import annotations

import gc
import os
import pickle
import select
import struct
import sys
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ..ir.kernel import KernelSource
    from ..ir.target import Target

IDLE_SECONDS = 30.0
LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: object) -> None:
    """Write one message."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> object:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    size, = LENGTH.unpack(_read(stream, LENGTH.size))
    return pickle.loads(_read(stream, size))


def _read(stream: IO[bytes], size: int) -> bytes:
    """Exactly `size` bytes; an unbuffered pipe gives at most what it holds at a time."""
    data = bytearray()
    while len(data) < size:
        part = stream.read(size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def main() -> None:
    """Serve until the parent leaves."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not mix with answers
    requests = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    from ..codegen.numba_backend import compile_kernel, warm_up
    from ..ir.errors import SardonyxError

    warm_up()
    gc.freeze()  # what is loaded stays; looking through it again and again would take a tenth of the time
    gc.set_threshold(100_000, 50, 50)
    while _wait(requests):
        try:
            kernel, target = cast("tuple[KernelSource, Target]", receive(requests))
        except EOFError:
            return
        try:
            send(answers, (compile_kernel(kernel, target), None))
        except SardonyxError as e:
            send(answers, (None, e))


def _wait(requests: IO[bytes]) -> bool:
    """Whether a request came in time; where the system cannot wait on pipes with a limit, there is none."""
    try:
        return bool(select.select([requests], [], [], IDLE_SECONDS)[0])
    except OSError:
        return True
