"""Execution providers: what this build runs on, under the names scripts ask for."""
from __future__ import annotations

from collections.abc import Sequence

from .exceptions import InvalidArgument
from .options import say_no_effect

CPU = "CPUExecutionProvider"
KNOWN = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "MIGraphXExecutionProvider", "OpenVINOExecutionProvider", "DnnlExecutionProvider",
         "VitisAIExecutionProvider", "QNNExecutionProvider", "NnapiExecutionProvider", "CoreMLExecutionProvider", "XnnpackExecutionProvider",
         "DmlExecutionProvider", "WebGpuExecutionProvider", "WebNNExecutionProvider", "ROCMExecutionProvider", "ArmNNExecutionProvider",
         "ACLExecutionProvider", "AzureExecutionProvider", "CANNExecutionProvider", "NvTensorRTRTXExecutionProvider", CPU)


def get_all_providers() -> list[str]:
    """Provider names that scripts may ask for, in ONNX Runtime's order of preference."""
    return list(KNOWN)


def get_available_providers() -> list[str]:
    """Providers that run here."""
    return [CPU]


def get_device() -> str:
    """What sessions run on."""
    return "CPU"


def check_provider(name: str) -> None:
    """Accept a provider; one that is known but not here says that the CPU runs instead.

    Raises:
        InvalidArgument: no provider has this name.
    """
    if name == CPU:
        return
    if name not in KNOWN:
        raise InvalidArgument(f"unknown execution provider {name!r}; available: {', '.join(get_available_providers())}")
    say_no_effect(f"provider {name}", f"it is not available, {CPU} runs instead")


def check_providers(providers: Sequence[object] | None) -> None:
    """Check a session's `providers` argument: names or (name, options) pairs."""
    for p in providers or ():
        check_provider(p[0] if isinstance(p, (tuple, list)) else str(p))
