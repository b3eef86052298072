"""Sardonyx compiles ONNX models to fused native kernels and runs them behind ONNX Runtime's interface.

    import sardonyx as ort
    session = ort.InferenceSession("model.onnx")
    outputs = session.run(None, {"input": array})

Names are loaded when they are first used, so importing the package is quick.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME: dict[str, str] = {}
_HOME.update(dict.fromkeys(("InferenceSession", "ModelMetadata", "NodeArg"), "runtime.session"))
_HOME.update(dict.fromkeys(("SessionOptions", "RunOptions", "NoEffectWarning"), "runtime.options"))
_HOME.update(dict.fromkeys(("OrtValue", "OrtDevice", "SparseTensor", "IOBinding"), "runtime.values"))
_HOME.update(dict.fromkeys(("get_all_providers", "get_available_providers", "get_device"), "runtime.providers"))
_HOME.update(dict.fromkeys((
    "GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder", "OrtAllocatorType", "OrtMemType", "OrtDeviceMemoryType", "OrtMemoryInfoDeviceType",
    "OrtHardwareDeviceType", "OrtSparseFormat", "OrtCompileApiFlags", "OrtExecutionProviderDevicePolicy", "OrtDeviceVendorId",
    "AdapterFormat", "ModelPackageWriteMode"), "runtime.enums"))
_HOME.update(dict.fromkeys((
    "Fail", "InvalidArgument", "NoSuchFile", "NoModel", "EngineError", "RuntimeException", "InvalidProtobuf", "ModelLoaded", "NotImplemented", "InvalidGraph",
    "EPFail", "ModelLoadCanceled", "ModelRequiresCompilation", "NotFound", "DeviceReset"), "runtime.exceptions"))
_HOME.update(dict.fromkeys(("register_op", "unregister_op"), "runtime.custom"))
_HOME.update(dict.fromkeys(("SardonyxError", "ModelError", "UnsupportedError", "TargetError"), "ir.errors"))
_HOME.update(dict.fromkeys((
    "LoraAdapter", "ModelCompiler", "ModelPackage", "ModelPackageComponentContext", "ModelPackageContext", "ModelPackageOptions",
    "OrtArenaCfg", "OrtEpAssignedNode", "OrtEpAssignedSubgraph", "OrtEpContextData", "OrtEpContextDataBuffer", "OrtEpDevice",
    "OrtExternalInitializerInfo", "OrtHardwareDevice", "OrtMemoryInfo", "OrtSyncStream", "SessionIOBinding", "copy_tensors", "create_and_register_allocator",
    "create_and_register_allocator_v2", "cuda_version", "disable_telemetry_events", "enable_telemetry_events", "get_build_info", "get_ep_devices",
    "get_version_string", "has_collective_ops", "import_capi_exception", "onnxruntime_validation", "package_name", "preload_dlls", "print_debug_info",
    "register_execution_provider_library", "set_default_logger_callback", "set_default_logger_severity", "set_default_logger_verbosity",
    "set_global_thread_pool_sizes", "set_seed", "unregister_execution_provider_library", "version"), "runtime.compat"))
_MODULES = {"capi": "runtime.capi", "contextlib": "contextlib"}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604  (names, from a table)

if TYPE_CHECKING:
    from .runtime.session import InferenceSession as InferenceSession


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        target = _MODULES[name]
        value = importlib.import_module(target if "." not in target else f"{__name__}.{target}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
