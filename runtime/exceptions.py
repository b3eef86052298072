"""Exception classes with ONNX Runtime's names, so that scripts that catch them keep working.

Each is also a `SardonyxError`; `NotImplemented` is a `NotImplementedError` as well, `InvalidArgument` a `ValueError`, `NoSuchFile` a `FileNotFoundError`.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..ir.errors import ModelError, SardonyxError, UnsupportedError


class Fail(SardonyxError, RuntimeError):
    """Something failed that none of the other classes describes."""


class InvalidArgument(SardonyxError, ValueError):
    """A feed, output name or option is wrong."""


class NoSuchFile(SardonyxError, FileNotFoundError):
    """The model file does not exist."""


class NoModel(SardonyxError):
    """There is no model to run."""


class EngineError(SardonyxError):
    """The execution engine failed."""


class RuntimeException(SardonyxError, RuntimeError):
    """A run failed."""


class InvalidProtobuf(SardonyxError):
    """The file is not an ONNX model, or is damaged."""


class ModelLoaded(SardonyxError):
    """A model is loaded already."""


class NotImplemented(SardonyxError, NotImplementedError):
    """The model uses something that is not implemented."""


class InvalidGraph(SardonyxError):
    """The model's graph breaks the ONNX specification."""


class EPFail(SardonyxError):
    """An execution provider failed."""


class ModelLoadCanceled(SardonyxError):
    """Loading was cancelled."""


class ModelRequiresCompilation(SardonyxError):
    """The model must be compiled first, and the options forbid it."""


class NotFound(SardonyxError):
    """Something that was named does not exist."""


class DeviceReset(SardonyxError):
    """The device was reset."""


@contextlib.contextmanager
def translated(source: object) -> Iterator[None]:
    """Raise ONNX Runtime's exception classes for errors of loading, their text and cause kept."""
    try:
        yield
    except UnsupportedError as e:
        raise NotImplemented(str(e)) from e
    except ModelError as e:
        raise (InvalidProtobuf if e.node is None else InvalidGraph)(str(e)) from e
    except FileNotFoundError as e:
        raise NoSuchFile(f"{source}: no such file") from e
