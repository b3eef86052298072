"""The rest of ONNX Runtime's public names: what has a meaning here works, what has none says so when it is used."""
from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .exceptions import InvalidArgument, NotImplemented
from .options import say_no_effect
from .values import IOBinding, OrtValue

if TYPE_CHECKING:
    from .options import SessionOptions

package_name = "sardonyx"
cuda_version = ""
_log = logging.getLogger("sardonyx")
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def _version() -> str:
    from importlib.metadata import version as installed

    return installed("sardonyx")


version = _version()


def get_version_string() -> str:
    """This package's version."""
    return version


def get_build_info() -> str:
    """Versions of what compiles and runs models."""
    from .toolchain import toolchain_key

    return f"Sardonyx {version}; Python {platform.python_version()}; {toolchain_key()}"


def print_debug_info() -> None:
    """Print versions, processor and settings (what `sardonyx doctor` shows)."""
    from .commands.housekeeping import doctor_report

    print(doctor_report())


def has_collective_ops() -> bool:
    return False


def set_default_logger_severity(severity: int) -> None:
    """Level of the `sardonyx` logger: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal."""
    if not 0 <= severity < len(_LEVELS):
        raise InvalidArgument(f"severity {severity}: 0 (verbose) to 4 (fatal) was expected")
    _log.setLevel(_LEVELS[severity])


def set_default_logger_verbosity(verbosity: int) -> None:
    say_no_effect("set_default_logger_verbosity", "the logger has levels only")


def set_default_logger_callback(callback: Callable[..., None]) -> None:
    """Send log records to `callback(severity, category, logger id, location, message)`."""
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            severity = max(k for k, v in enumerate(_LEVELS) if v <= max(record.levelno, logging.DEBUG))
            callback(severity, record.name, "", f"{record.pathname}:{record.lineno}", record.getMessage())
    _log.addHandler(Handler())


def disable_telemetry_events() -> None:
    """There is no telemetry."""


def enable_telemetry_events() -> None:
    """There is no telemetry to enable."""
    say_no_effect("enable_telemetry_events", "Sardonyx sends nothing anywhere")


def set_seed(seed: int) -> None:
    """Accepted for scripts' sake: an operator without a seed makes one from its node's name, so that results repeat."""
    say_no_effect("set_seed", "a random operator's seed is its attribute `seed`, else made from the node's name")


def set_global_thread_pool_sizes(intra_op: int, inter_op: int) -> None:
    say_no_effect("set_global_thread_pool_sizes", "threads belong to OpenMP; set SessionOptions.intra_op_num_threads")


def preload_dlls(*args: object, **kwargs: object) -> None:
    say_no_effect("preload_dlls", "no other library is needed")


def import_capi_exception() -> None:
    """What ONNX Runtime's own import raised: nothing."""


def get_ep_devices() -> list[object]:
    """Devices of execution providers: none beyond the CPU."""
    return []


def register_execution_provider_library(name: str, path: str) -> None:
    raise NotImplemented(f"{path}: execution-provider libraries are built against ONNX Runtime's C API and cannot be loaded")


def unregister_execution_provider_library(name: str) -> None:
    raise NotImplemented(f"no execution-provider library {name!r} is registered: they cannot be loaded here")


def copy_tensors(source: Sequence[OrtValue], target: Sequence[OrtValue], stream: object = None) -> None:
    """Copy values into the memory of others of the same shapes and types."""
    if len(source) != len(target):
        raise InvalidArgument(f"{len(source)} tensors cannot be copied to {len(target)}")
    for s, t in zip(source, target):
        t.update_inplace(s.numpy())


def create_and_register_allocator(*args: object) -> None:
    say_no_effect("create_and_register_allocator", "each session has its own arena")


def create_and_register_allocator_v2(*args: object) -> None:
    say_no_effect("create_and_register_allocator_v2", "each session has its own arena")


class OrtMemoryInfo:
    """Where memory lies: always on the CPU."""

    def __init__(self, name: str = "Cpu", allocator_type: object = None, device_id: int = 0, memory_type: object = None) -> None:
        self.name, self.device_id, self.mem_type, self.allocator_type = name, device_id, memory_type, allocator_type


class OrtArenaCfg:
    """Limits of ONNX Runtime's arena; a plan's arena has exactly the size that it needs."""

    def __init__(self, *args: object) -> None:
        say_no_effect("OrtArenaCfg", "a plan's arena has exactly the size that it needs")


class ModelCompiler:
    """Compile a model to a package file.

    Args:
        sess_options: as for a session.
        input_model_path_or_bytes: the ONNX model.
    """

    def __init__(self, sess_options: "SessionOptions", input_model_path_or_bytes: object, *args: object, **kwargs: object) -> None:
        self._options, self._source = sess_options, input_model_path_or_bytes

    def compile_to_file(self, output_model_path: str | None = None) -> None:
        """Write the package; without a path, beside the model as NAME.sdx."""
        import os
        from pathlib import Path

        from .model import CompileOptions, host_target, obtain
        from .package import save_package

        if output_model_path is None:
            if not isinstance(self._source, (str, os.PathLike)):
                raise InvalidArgument("a model given as bytes needs output_model_path")
            output_model_path = str(Path(os.fspath(self._source)).with_suffix(".sdx"))
        save_package(obtain(self._source, CompileOptions(level=self._options.level, precision=self._options.precision), host_target()), output_model_path)

    def compile_to_bytes(self) -> bytes:
        """The package's bytes."""
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.sdx"
            self.compile_to_file(str(path))
            return path.read_bytes()


def _unavailable(name: str, why: str) -> type:
    """A class that exists by name and says why it does not apply when somebody makes one."""
    def init(self: object, *args: object, **kwargs: object) -> None:
        raise NotImplemented(f"{name} does not apply to Sardonyx: {why}")
    return type(name, (), {"__init__": init, "__doc__": f"ONNX Runtime's {name}. Does not apply here: {why}.", "__module__": __name__})


_PACKAGES = "its packages are folders of variants for execution providers; compile a model to an .sdx package instead"
_PROVIDERS = "it describes execution-provider plug-ins, which do not exist here"
ModelPackage = _unavailable("ModelPackage", _PACKAGES)
ModelPackageComponentContext = _unavailable("ModelPackageComponentContext", _PACKAGES)
ModelPackageContext = _unavailable("ModelPackageContext", _PACKAGES)
ModelPackageOptions = _unavailable("ModelPackageOptions", _PACKAGES)
LoraAdapter = _unavailable("LoraAdapter", "merge the adapter into the model's weights before compiling")
OrtEpAssignedNode = _unavailable("OrtEpAssignedNode", _PROVIDERS)
OrtEpAssignedSubgraph = _unavailable("OrtEpAssignedSubgraph", _PROVIDERS)
OrtEpContextData = _unavailable("OrtEpContextData", _PROVIDERS)
OrtEpContextDataBuffer = _unavailable("OrtEpContextDataBuffer", _PROVIDERS)
OrtEpDevice = _unavailable("OrtEpDevice", _PROVIDERS)
OrtHardwareDevice = _unavailable("OrtHardwareDevice", _PROVIDERS)
OrtExternalInitializerInfo = _unavailable("OrtExternalInitializerInfo", "packages always keep their weights inside")
OrtSyncStream = _unavailable("OrtSyncStream", "the CPU has no streams")


class SessionIOBinding(IOBinding):
    """ONNX Runtime's internal binding object; use `InferenceSession.io_binding()`."""


class _Validation:
    """What `onnxruntime_validation` offers: checks of the platform."""

    @staticmethod
    def check_distro_info() -> None:
        if sys.platform not in ("linux", "darwin", "win32"):
            raise NotImplemented(f"platform {sys.platform} was never tried")

    has_ortmodule = False
    package_name = package_name
    version = version


onnxruntime_validation = _Validation()
