"""InferenceSession: a compiled model behind ONNX Runtime's interface."""
from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ..ir import registrations
from ..ir.errors import InputError, UnknownRankError
from ..ir.plan import Plan, Port
from . import knobs
from .exceptions import Fail, InvalidArgument, NotImplemented, translated
from .feeds import InputChecker, describe
from .model import CompiledModel, CompileOptions, cut_model, declared_ports, host_target, obtain
from .options import RunOptions, SessionOptions, say_no_effect
from .parts import Parts
from .providers import CPU, check_providers
from .threads import default_threads
from .values import IOBinding, OrtValue

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

MOST_VARIANTS = 16  # that a session keeps; one that comes again later is found in the disk cache


class ShapeWarning(UserWarning):
    """A model has to be compiled for each combination of input shapes."""


class NodeArg:
    """An input or output: `name`, `type` (`tensor(float)`) and `shape` (int, symbolic name or None per dimension)."""

    __slots__ = ("name", "shape", "type")

    def __init__(self, port: Port) -> None:
        self.name, self.type = port.name, port.type
        self.shape = [] if port.shape is None else list(port.shape)

    def __repr__(self) -> str:
        return f"NodeArg(name='{self.name}', type='{self.type}', shape={self.shape})"


class ModelMetadata:
    """What the model says about itself."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        self.producer_name = facts.get("producer_name", "")
        self.graph_name = facts.get("graph_name", "")
        self.graph_description = facts.get("graph_description", "")
        self.domain = facts.get("domain", "")
        self.description = facts.get("description", "")
        version = facts.get("version", "0")
        self.version = int(version) if version.lstrip("-").isdigit() else 0
        self.custom_metadata_map = {k.removeprefix("custom:"): v for k, v in facts.items() if k.startswith("custom:")}


class InferenceSession:
    """A model ready to run. Any number of threads may run one session at the same time.

    Args:
        path_or_bytes: path of an .onnx or .sdx file, bytes of an ONNX model, or an onnx.ModelProto.
        sess_options: see SessionOptions.
        providers: accepted for scripts' sake; the CPU runs.

    Raises:
        NoSuchFile, InvalidProtobuf, InvalidGraph, NotImplemented: the model cannot be loaded; the text says why and where.
    """

    def __init__(self, path_or_bytes: object, sess_options: SessionOptions | None = None, providers: Sequence[object] | None = None,
                 provider_options: Sequence[object] | None = None, **kwargs: object) -> None:
        for name in kwargs:
            if name != "disabled_optimizers":
                say_no_effect(f"InferenceSession({name}=...)", "it configures ONNX Runtime's own engine")
        check_providers(providers)
        self._options = sess_options or SessionOptions()
        self._source = path_or_bytes
        self._disabled = frozenset(cast("Collection[str]", kwargs.get("disabled_optimizers") or ()))
        self._threads = self._options.intra_op_num_threads or knobs.THREADS.read_int() or default_threads()
        self._registered = registrations.current()  # variants made later know the same custom operators
        self._variants: dict[object, InferenceSession] = {}  # the most recently used one last
        self._undecided: set[object] = set()  # ranks of inputs that are not enough to compile for
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._part = False  # whether this is a part of another session's model
        self._execute: Callable[..., list[object]]
        self._start(self._compile_options(frozenset()))

    def _compile_options(self, as_inputs: frozenset[str]) -> CompileOptions:
        o = self._options
        dims = o.tune_dims
        tuning: dict[str, Any] = {} if dims is None else {"tune": self._threads, "tune_dims": dims}
        if self._part:
            return CompileOptions(o.level, disabled=self._disabled, precision=o.precision, **tuning)
        return CompileOptions(o.level, dict(o._free_by_name), dict(o._free_by_denotation), dict(o._initializers), self._disabled, as_inputs,
                              precision=o.precision, **tuning)

    def _start(self, options: CompileOptions) -> None:
        with translated(self._source), registrations.using(self._registered):
            try:
                model = obtain(self._source, options, host_target(), optimized_path=self._options.optimized_model_filepath)
            except UnknownRankError as e:
                if not options.input_shapes:
                    self._start_by_shape(e, options)
                    return
                if any(-1 in shape for _, shape in options.input_shapes):
                    raise
                cut = cut_model(self._source, options)
                if cut is None:
                    raise
                self._execute = Parts(cut, [n for n, _ in options.input_shapes], self._start_part).run
                return
        self._model: CompiledModel = model
        plan = self._model.plan
        self._executor = self._model.executor(self._threads)
        self._checker = InputChecker(plan)
        self._arrays = self._checker.arrays
        self._execute = self._executor.run
        self._output_names = [p.name for p in plan.outputs]
        self._positions = {n: k for k, n in enumerate(self._output_names)}
        self._profile = None
        if self._options.enable_profiling:
            from .profile import Profiler

            self._profile = Profiler(plan, self._executor, self._options.profile_file_prefix)
            self._execute = self._profile.run

    def _start_part(self, model: bytes) -> Callable[..., list[object]]:
        """Something that runs a part of this session's model."""
        part: InferenceSession = object.__new__(InferenceSession)
        part.__dict__.update(self.__dict__, _variants={}, _undecided=set(), _lock=threading.Lock(), _source=model, _part=True)
        part._start(part._compile_options(frozenset()))
        return part._execute

    def _start_by_shape(self, reason: UnknownRankError, options: CompileOptions) -> None:
        """The number of dimensions of something inside depends on the inputs' shapes: every new combination of shapes is compiled when it comes."""
        ports = declared_ports(self._source)
        plan = Plan("", [], [], [], [], 0, [], *ports, [], [], [], 0, 0)
        self._model = CompiledModel(plan, {}, (), "by shape", {"by_shape": str(reason)})
        if not self._part:
            warnings.warn(f"this model is compiled for each combination of input shapes when it first comes: {reason}", ShapeWarning, stacklevel=4)
        self._checker = InputChecker(plan)
        self._arrays = self._checker.arrays
        self._output_names = [p.name for p in plan.outputs]
        self._positions = {n: k for k, n in enumerate(self._output_names)}
        self._profile = None
        self._by_shape = options
        self._execute = self._run_by_shape

    def _run_by_shape(self, arrays: Sequence[object], outputs: Sequence[object] | None = None) -> list[object]:
        """Run the variant for the inputs' ranks, if it is they that were not known and if they are enough, else the one for their shapes."""
        ports = self._model.plan.inputs
        shapes = tuple((p.name, np.shape(a)) for p, a in zip(ports, arrays) if isinstance(a, np.ndarray))
        if any(p.shape is None for p in ports if p.type.startswith("tensor(")):
            ranks = tuple((name, (-1,) * len(shape)) for name, shape in shapes)
            if ranks not in self._undecided:
                try:
                    variant = self._variant(ranks, dataclasses.replace(self._by_shape, input_shapes=ranks))
                except NotImplemented as e:
                    if not isinstance(e.__cause__, UnknownRankError):
                        raise
                    self._undecided.add(ranks)
                else:
                    return variant._execute(arrays, outputs)
        return self._variant(shapes, dataclasses.replace(self._by_shape, input_shapes=shapes))._execute(arrays, outputs)

    def _variant(self, key: object, options: CompileOptions) -> "InferenceSession":
        """This session compiled with other options; the most recently used ones are kept."""
        with self._lock:
            found = self._variants.pop(key, None)
            if found is None:
                found = object.__new__(InferenceSession)
                found.__dict__.update(self.__dict__, _variants={}, _undecided=set(), _lock=threading.Lock())
                found._start(options)
            self._variants[key] = found
            while len(self._variants) > MOST_VARIANTS:
                del self._variants[next(iter(self._variants))]
        return found

    # ---- what the model is
    def get_inputs(self) -> list[NodeArg]:
        return [NodeArg(p) for p in self._model.plan.inputs]

    def get_outputs(self) -> list[NodeArg]:
        return [NodeArg(p) for p in self._model.plan.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Initialisers that are inputs as well: they may be fed."""
        return [NodeArg(Port(n, t, None if s is None else tuple(s), -1)) for n, t, s in self._model.report.get("overridable", [])]

    def get_modelmeta(self) -> ModelMetadata:
        return ModelMetadata(self._model.plan.metadata)

    def get_providers(self) -> list[str]:
        return [CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CPU: {}}

    def get_session_options(self) -> SessionOptions:
        return self._options

    def set_providers(self, providers: Sequence[object] | None = None, provider_options: object = None) -> None:
        check_providers(providers)

    # ---- running it
    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, object], run_options: RunOptions | None = None) -> list[object]:
        """Run the model.

        Args:
            output_names: outputs wanted, all of them if None (or empty).
            input_feed: name -> array (or scalar, list, OrtValue).

        Returns:
            Arrays (lists for sequences, dicts for maps), which belong to the caller.

        Raises:
            InvalidArgument: wrong name, type, rank or size.
        """
        if run_options is not None and run_options.terminate:
            raise Fail("the run was terminated: RunOptions.terminate is set")
        overridden = self._overridden(input_feed)
        if overridden:
            return overridden.run(output_names, input_feed, run_options)
        try:
            results = self._execute(self._arrays(input_feed))
        except InputError as e:
            raise InvalidArgument(str(e)) from e
        if not output_names:
            return results
        return [results[k] for k in self._select(output_names)]

    def _select(self, names: Sequence[str]) -> list[int]:
        try:
            return [self._positions[n] for n in names]
        except KeyError as e:
            raise InvalidArgument(f"Invalid output name: {e.args[0]!r}; the model's outputs are {', '.join(map(repr, self._output_names))}") from None

    def _overridden(self, feed: Mapping[str, object]) -> "InferenceSession | None":
        """The variant of this session whose fed initialisers are inputs."""
        extra = self._model.report.get("overridable")
        if not extra:
            return None
        wanted = frozenset(n for n, _, _ in extra if n in feed)
        if not wanted:
            return None
        variant = self._variant(wanted, self._compile_options(wanted))
        variant._model.report.pop("overridable", None)
        return variant

    def run_async(self, output_names: Sequence[str] | None, input_feed: Mapping[str, object], callback: Callable[[list[object], object, str], None],
                  user_data: object = None, run_options: RunOptions | None = None) -> None:
        """Run in another thread, then call `callback(results, user_data, error text)`."""
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(4, "sardonyx")

        def work() -> None:
            try:
                results = self.run(output_names, input_feed, run_options)
            except Exception as e:
                callback([], user_data, str(e))
                return
            callback(results, user_data, "")
        self._pool.submit(work)

    def run_with_ort_values(self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, OrtValue],
                            run_options: RunOptions | None = None) -> list[OrtValue]:
        results = self.run(output_names, {n: v._value for n, v in input_dict_ort_values.items()}, run_options)
        return [OrtValue(r) for r in results]

    def run_with_ortvaluevector(self, run_options: RunOptions | None, feed_names: Sequence[str], feeds: Sequence[OrtValue], fetch_names: Sequence[str],
                                fetches: list[OrtValue], fetch_devices: object = None) -> None:
        """Run, appending the results to `fetches`."""
        fetches[:] = self.run_with_ort_values(fetch_names, dict(zip(feed_names, feeds)), run_options)

    def io_binding(self) -> IOBinding:
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """Run on bound memory."""
        if run_options is not None and run_options.terminate:
            raise Fail("the run was terminated: RunOptions.terminate is set")
        try:
            iobinding._results = self._execute(*(iobinding._ready or iobinding._prepared(self._arrays)))
        except InputError as e:
            raise InvalidArgument(str(e)) from e

    # ---- profiling
    def end_profiling(self) -> str:
        """Write the profile of all runs so far; returns its file's name.

        Raises:
            Fail: profiling was not enabled.
        """
        if self._profile is None:
            raise Fail("profiling was not enabled: set SessionOptions.enable_profiling before the session is made")
        return self._profile.write()

    def get_profiling_start_time_ns(self) -> int:
        return 0 if self._profile is None else self._profile.start_ns

    def __repr__(self) -> str:
        inputs = ", ".join(f"{p.name}: {describe(p)}" for p in self._model.plan.inputs)
        outputs = ", ".join(f"{p.name}: {describe(p)}" for p in self._model.plan.outputs)
        precision = self._model.report.get("precision", self._options.precision)
        rounded = "" if precision == "float32" else f", products in {precision}"
        return f"InferenceSession({inputs} -> {outputs}; {len(self._model.plan.steps)} steps, {len(self._model.plan.kernels)} kernels{rounded})"

    # ---- ONNX Runtime's engine
    def disable_fallback(self) -> None:
        """There is no provider to fall back to: nothing to disable."""

    def enable_fallback(self) -> None:
        """There is no provider to fall back to."""

    def get_tuning_results(self) -> list[object]:
        """What was measured for this model (see `session.tune`), in ONNX Runtime's form: decisions by product, the number of the alternative taken."""
        measured = self._model.report.get("measured")
        return [] if measured is None else [{"ep": CPU, "results": measured, "validators": {"target": self._model.plan.target}}]

    def set_tuning_results(self, results: object, error_on_invalid: bool = False) -> None:
        say_no_effect("InferenceSession.set_tuning_results", "kernels are chosen when compiling")

    def set_ep_dynamic_options(self, options: object) -> None:
        say_no_effect("InferenceSession.set_ep_dynamic_options", "there are no provider options")

    def release_captured_graph(self, annotation: int = 0) -> None:
        say_no_effect("InferenceSession.release_captured_graph", "no device graph is captured on the CPU")

    def get_provider_graph_assignment_info(self) -> list[object]:
        raise NotImplementedError("provider assignments do not exist here; see `sardonyx explain` for what each node became")

    def get_input_memory_infos(self) -> list[object]:
        return ["Cpu"] * len(self._model.plan.inputs)

    def get_output_memory_infos(self) -> list[object]:
        return ["Cpu"] * len(self._model.plan.outputs)

    def get_input_epdevices(self) -> list[object]:
        return [None] * len(self._model.plan.inputs)

    def create_ortvalue_from_shape_and_type(self, shape: Sequence[int], element_type: npt.DTypeLike) -> OrtValue:
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type)


__all__ = ["InferenceSession", "ModelMetadata", "NodeArg"]
