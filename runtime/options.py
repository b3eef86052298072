"""Session and run options with ONNX Runtime's names. What is accepted but has no effect here says so once."""
from __future__ import annotations

import warnings
from typing import SupportsInt, cast

import numpy as np

from ..ir.dtypes import PRECISIONS
from .enums import ExecutionMode, ExecutionOrder, GraphOptimizationLevel


class NoEffectWarning(UserWarning):
    """An ONNX Runtime setting that means nothing to a compiled plan."""


_said: set[str] = set()


def say_no_effect(name: str, why: str) -> None:
    """Tell, once a process, that a setting has no effect."""
    if name not in _said:
        _said.add(name)
        warnings.warn(f"{name} has no effect in Sardonyx: {why}", NoEffectWarning, stacklevel=4)


_NO_EFFECT = {
    "enable_mem_pattern": "a plan always has fixed memory positions",
    "enable_mem_reuse": "a plan always reuses memory",
    "enable_cpu_mem_arena": "a plan always runs in one arena",
    "execution_mode": "a plan has one order of steps",
    "execution_order": "a plan has one order of steps",
    "inter_op_num_threads": "steps run one after another, each on intra_op_num_threads threads",
    "use_per_session_threads": "threads belong to OpenMP, which shares them",
    "use_deterministic_compute": "results never depend on threads or timing",
    "logid": "there is no log",
    "log_verbosity_level": "there is no log",
}


PRECISION_KEY = "session.compute_precision"
TUNE_KEY = "session.tune"


class SessionOptions:
    """How a session compiles and runs.

    Attributes:
        intra_op_num_threads: threads of a run; 0: one per available core.
        graph_optimization_level: see GraphOptimizationLevel.
        enable_profiling, profile_file_prefix: write a Chrome trace of every run.
        optimized_model_filepath: write the optimised graph as ONNX.
        log_severity_level: 0 verbose to 4 fatal; warnings are shown up to 2.
    """

    intra_op_num_threads: int
    graph_optimization_level: "GraphOptimizationLevel"
    optimized_model_filepath: str
    enable_profiling: bool
    profile_file_prefix: str

    def __init__(self) -> None:
        self.__dict__.update(intra_op_num_threads=0, inter_op_num_threads=0, graph_optimization_level=GraphOptimizationLevel.ORT_ENABLE_ALL,
                             execution_mode=ExecutionMode.ORT_SEQUENTIAL, execution_order=ExecutionOrder.DEFAULT, enable_profiling=False,
                             profile_file_prefix="sardonyx_profile_", optimized_model_filepath="", log_severity_level=2, log_verbosity_level=0, logid="",
                             enable_mem_pattern=True, enable_mem_reuse=True, enable_cpu_mem_arena=True, use_deterministic_compute=False,
                             use_per_session_threads=True)
        self._free_by_name: dict[str, int] = {}
        self._free_by_denotation: dict[str, int] = {}
        self._initializers: dict[str, np.ndarray] = {}
        self._config: dict[str, str] = {}

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        if name not in self.__dict__:
            raise AttributeError(f"SessionOptions has no option {name!r}; it has {', '.join(n for n in self.__dict__ if not n.startswith('_'))}")
        if name in ("intra_op_num_threads", "inter_op_num_threads") and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise ValueError(f"{name} = {value!r}: a whole number of at least 0 was expected")
        if name == "graph_optimization_level":
            value = GraphOptimizationLevel(int(cast(SupportsInt, value)))
        if name in _NO_EFFECT and value != self.__dict__[name]:
            say_no_effect(f"SessionOptions.{name}", _NO_EFFECT[name])
        self.__dict__[name] = value

    @property
    def level(self) -> int:
        """The compiler's optimisation level, 0 to 3."""
        return min(3, int(self.graph_optimization_level))

    @property
    def precision(self) -> str:
        """To which operands of float32 products are rounded, a name of `ir.dtypes.PRECISIONS`."""
        return self._config.get(PRECISION_KEY, "float32")

    @property
    def tune_dims(self) -> tuple[tuple[str, int], ...] | None:
        """Sizes of symbolic dimensions to measure alternatives with; None: the cost model decides."""
        return parse_tune(self._config.get(TUNE_KEY, "0"))

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Fix the symbolic dimension `name` of all inputs."""
        self._free_by_name[name] = _size(name, size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Fix all dimensions with a denotation."""
        self._free_by_denotation[denotation] = _size(denotation, size)

    def add_initializer(self, name: str, value: object) -> None:
        """Replace the initialiser `name`; `value` is an OrtValue or array."""
        self._initializers[name] = value.numpy() if hasattr(value, "numpy") else np.asarray(value)

    def add_external_initializers(self, names: list[str], values: list[object]) -> None:
        """Replace several initialisers."""
        if len(names) != len(values):
            raise ValueError(f"{len(names)} names for {len(values)} values")
        for n, v in zip(names, values):
            self.add_initializer(n, v)

    def add_external_initializers_from_files_in_memory(self, *_: object) -> None:
        """Not available: give the values with add_external_initializers."""
        raise NotImplementedError("external initialisers from memory are not implemented; pass the arrays to add_external_initializers")

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Set a configuration entry; those of ONNX Runtime that mean nothing here say so once.

        `session.compute_precision` is `float32` (the default) or `bf16`: operands of float32 products with weights are rounded to bfloat16, sums stay float32.
        `session.tune` is `0` (the default), `1`, or sizes of the model's symbolic dimensions (`batch=4,sequence=128`): alternatives of the kernels are measured on
        this machine when the model is first compiled, which takes about ten times as long, and what was found is remembered in the cache.

        Raises:
            ValueError: an unknown precision, or a size that is none.
        """
        if key == PRECISION_KEY:
            if value not in PRECISIONS:
                raise ValueError(f"{key} = {value!r}: one of {', '.join(PRECISIONS)} was expected")
        elif key == TUNE_KEY:
            parse_tune(value)
        elif not key.startswith("sardonyx."):
            say_no_effect(f"session config entry {key!r}", "it configures ONNX Runtime's own engine")
        self._config[str(key)] = str(value)

    def get_session_config_entry(self, key: str) -> str:
        if key not in self._config:
            raise KeyError(f"there is no session config entry {key!r}")
        return self._config[key]

    def register_custom_ops_library(self, path: str) -> None:
        """Not available: ONNX Runtime's custom-operator libraries are built against its C API."""
        raise NotImplementedError(f"{path}: libraries of custom operators for ONNX Runtime cannot be loaded; they are compiled against its own C API; "
                                  "write the operator as a Python function and register it with sardonyx.register_op(domain, name, function)")

    def add_provider(self, name: str, options: dict[str, str] | None = None) -> None:
        """Accepted for scripts' sake; the CPU is what runs."""
        from .providers import check_provider
        check_provider(name)

    def add_provider_for_devices(self, devices: object, options: object = None) -> None:
        say_no_effect("SessionOptions.add_provider_for_devices", "the target of compilation chooses the device")

    def has_providers(self) -> bool:
        return False

    def set_provider_selection_policy(self, policy: object) -> None:
        say_no_effect("SessionOptions.set_provider_selection_policy", "the target of compilation chooses the device")

    def set_provider_selection_policy_delegate(self, delegate: object) -> None:
        say_no_effect("SessionOptions.set_provider_selection_policy_delegate", "the target of compilation chooses the device")

    def set_load_cancellation_flag(self, cancel: bool) -> None:
        say_no_effect("SessionOptions.set_load_cancellation_flag", "loading is interrupted with Ctrl-C")

    def set_ep_context_data_read_func(self, function: object) -> None:
        say_no_effect("SessionOptions.set_ep_context_data_read_func", "there are no provider contexts")

    def clear_ep_context_data_read_func(self) -> None:
        say_no_effect("SessionOptions.clear_ep_context_data_read_func", "there are no provider contexts")


def parse_tune(value: str) -> tuple[tuple[str, int], ...] | None:
    """What a value of `session.tune` says: sizes by dimension, or None for no tuning."""
    if value in ("0", "1"):
        return () if value == "1" else None
    pairs = [p.partition("=") for p in value.split(",")]
    if not all(name.strip() and size.strip().isdecimal() for name, _, size in pairs):
        raise ValueError(f"{TUNE_KEY} = {value!r}: 0, 1 or NAME=SIZE,... was expected")
    return tuple(sorted((name.strip(), int(size)) for name, _, size in pairs))


def _size(name: str, size: int) -> int:
    if isinstance(size, bool) or int(size) != size or size < 0:
        raise ValueError(f"size of dimension {name!r} is {size!r}: a whole number of at least 0 was expected")
    return int(size)


class RunOptions:
    """Options of one run.

    Attributes:
        terminate: set from another thread, the next run with these options raises instead of starting.
    """

    def __init__(self) -> None:
        self.terminate = False
        self.only_execute_path_to_fetches = False
        self.log_severity_level = 2
        self.log_verbosity_level = 0
        self.logid = ""
        self._config: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self._config[str(key)] = str(value)
        say_no_effect(f"run config entry {key!r}", "it configures ONNX Runtime's own engine")

    def get_run_config_entry(self, key: str) -> str:
        return self._config.get(key, "")

    def add_active_adapter(self, adapter: object) -> None:
        raise NotImplementedError("LoRA adapters are not implemented; merge the adapter into the model's weights before compiling")
