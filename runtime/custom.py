"""`register_op`: custom operators, with the compiler that tells whether a function can be native code."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..ir import registrations
from ..ir.errors import CompileError
from ..ir.kernel import KernelSource
from ..ir.loops import RoutineNest


def register_op(domain: str, name: str, function: Callable[..., Any], *, kind: str = "scalar", mode: str = "auto", shape: Callable[..., Any] | None = None, dtypes: Any = None,
                outputs: int | None = None, attributes: Mapping[str, Any] | None = None, gradient: Callable[..., Any] | None = None, versions: Sequence[int] = (1,),
                samples: Sequence[Any] = ()) -> None:
    """Make a plain Python function an operator of ONNX models loaded from now on.

    Args:
        domain, name: as nodes of models spell them. A model's own function of that name comes first; registering again replaces.
        function: inputs are its positional parameters (with default None where optional), attributes its keyword-only ones.
        kind: `scalar`, numbers in and out, applied element by element with broadcasting; or `array`, NumPy arrays in and out.
        mode: how it must run: `fused` (an expression, fused with its neighbours), `native` (compiled by Numba), `host` (called), or `auto`, the first that works.
        shape: of an array function: from the inputs' shapes to the output's shape, or a list of them; None in a shape is a size that only the call tells.
        dtypes: output types (ONNX or NumPy names), or a function of the inputs' NumPy types; by default the inputs' common type or what an expression gives.
        outputs: their number, where `dtypes` does not tell it.
        attributes: defaults, added to those of keyword-only parameters.
        gradient: a scalar function of the inputs and the outputs' upstream gradients that gives a gradient for each input; derived where it is not given.
        versions: opset versions of the domain since which the operator exists.
        samples: `ir.ops.Sample`s for tests.

    Raises:
        ValueError: an argument is not allowed, or the operator is one of ONNX's own that this package defines.
    """
    from ..ir.ops.base import built_in
    from ..ir.ops.custom import make

    domain = "" if domain == "ai.onnx" else domain
    if built_in(domain, name) is not None:
        raise ValueError(f"{domain or 'ai.onnx'}::{name} is an operator of this package and cannot be replaced; use a domain of your own")
    for op in make(domain, name, function, kind=kind, mode=mode, shape=shape, dtypes=dtypes, outputs=outputs, attributes=attributes, gradient=gradient, versions=versions,
                   samples=samples, probe=why_not_native):
        registrations.add((domain, op.name), op)


def unregister_op(domain: str, name: str) -> None:
    """Forget a custom operator; sessions that use it are unaffected."""
    domain = "" if domain == "ai.onnx" else domain
    for spelled in (name, f"{name}.gradient"):
        registrations.remove((domain, spelled))


def why_not_native(nest: RoutineNest) -> str:
    """Why a routine does not compile, or an empty string."""
    from ..codegen.routines import routine_call
    from .model import host_target

    try:
        return _why_not(routine_call(nest, host_target()).kernel)
    except CompileError as e:
        return e.reason


@lru_cache(maxsize=256)
def _why_not(kernel: KernelSource) -> str:
    from ..codegen.numba_backend import compile_kernel
    from .model import host_target

    try:
        compile_kernel(kernel, host_target())
    except CompileError as e:
        return " ".join(e.reason.split())[:400]
    return ""
