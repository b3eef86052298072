"""Errors of the compiler: each names the stage, the node, what was wrong and what to do."""
from __future__ import annotations


class SardonyxError(Exception):
    """Base of every error that this package raises on purpose."""


class ModelError(SardonyxError):
    """The model is damaged, inconsistent or breaks the ONNX specification."""

    def __init__(self, reason: str, node: str | None = None, hint: str | None = None) -> None:
        self.reason, self.node, self.hint = reason, node, hint
        where = f"node {node}: " if node else ""
        super().__init__(where + reason + (f" ({hint})" if hint else ""))


class UnsupportedError(ModelError, NotImplementedError):
    """The model is well-formed but uses something that is not implemented yet."""


class UnknownRankError(UnsupportedError):
    """An operator needs a tensor whose number of dimensions is only known when running; shapes of the model's inputs may tell."""


class TargetError(SardonyxError):
    """A target is unknown, or what was compiled does not fit the machine."""


class InputError(SardonyxError, ValueError):
    """What was given to a run does not fit the model: count, type, rank or size of an input, or a buffer given for an output."""


class CompileError(SardonyxError):
    """A kernel could not be turned into object code: a fault of this package or of a custom operator's source."""

    def __init__(self, kernel: str, text: str, reason: str) -> None:
        self.kernel, self.text, self.reason = kernel, text, reason
        super().__init__(f"kernel {kernel}: {reason}" + (f"\n{text}" if text else ""))

    def __reduce__(self) -> tuple:
        return CompileError, (self.kernel, self.text, self.reason)
