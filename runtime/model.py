"""Getting a runnable model: from a package, from the cache, or by compiling and then caching.

A model compiled before is found by the digest of its bytes, the options and the target; loading it imports neither onnx nor numba.
"""
from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np

from ..ir import registrations
from ..ir.dtypes import PRECISIONS
from ..ir.errors import ModelError
from ..ir.plan import KernelStep, Plan, Port
from ..ir.target import Target, parse
from . import knobs
from .cache import Cache, default_cache
from .container import MAGIC, Container, ContainerError, chunk_digest

if TYPE_CHECKING:
    from ..compiler.importer_cut import Cut
    from .compile_pool import Ahead
    from .package import ControlSettings

CACHE_FORMAT = 5


@dataclass(frozen=True)
class CompileOptions:
    """What a compiled model depends on besides the model.

    Args:
        level: optimisation level 0 to 3.
        free_dimensions, free_denotations: symbolic sizes fixed by name or by denotation.
        initializers: arrays that replace initialisers of these names.
        disabled: rewrite rules that must not run.
        as_inputs: overridable initialisers that are inputs.
        input_shapes: shapes of inputs that the model is compiled for.
        precision: to which operands of float32 products are rounded, a name of `ir.dtypes.PRECISIONS`.
        tune: threads to measure alternatives with (see `runtime.tune`); 0: the cost model decides.
        tune_dims: sizes of symbolic dimensions to measure with.
        compact: constants that are larger than what they are computed from are left to the first run; for native libraries.
    """

    level: int = 3
    free_dimensions: Mapping[str, int] = field(default_factory=dict)
    free_denotations: Mapping[str, int] = field(default_factory=dict)
    initializers: Mapping[str, np.ndarray] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    as_inputs: frozenset[str] = frozenset()
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    precision: str = "float32"
    tune: int = 0
    tune_dims: tuple[tuple[str, int], ...] = ()
    compact: bool = False

    def changes_model(self) -> bool:
        """Whether a model compiled before could be another one under these options."""
        return bool(self.free_dimensions or self.free_denotations or self.initializers or self.as_inputs or self.input_shapes)

    def key(self) -> str:
        """Digest of the options."""
        initializers = {n: [str(a.dtype), list(a.shape), hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()] for n, a in self.initializers.items()}
        facts = [self.level, dict(self.free_dimensions), dict(self.free_denotations), initializers, sorted(self.disabled), sorted(self.as_inputs), self.input_shapes,
                 self.precision, self.tune, sorted(self.tune_dims), self.compact]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass
class CompiledModel:
    """A plan with its object code and constants.

    Args:
        plan: what to run.
        objects: object code by kernel symbol.
        constants: arrays (or mapped bytes) in the plan's order.
        origin: `compiled`, `cache` or `package`.
        report: JSON-able facts for `explain` and `inspect` (see `runtime.report`).
        seconds: time spent in each part of getting it.
    """

    plan: Plan
    objects: dict[str, bytes]
    constants: Sequence[np.ndarray]
    origin: str
    report: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)  # kernel sources by symbol, where the model was compiled just now
    products: dict[int, str] = field(default_factory=dict)  # step -> its product's sizes and types, where the model was compiled just now
    keep: object = None  # what the constants' memory belongs to
    bodies: dict[int, list["CompiledModel"]] = field(default_factory=dict)  # host function -> its control-flow bodies; their objects are this model's

    def executor(self, threads: int | None) -> Any:
        """Something that runs the model (`runtime.executor.Executor`)."""
        return make_executor(self, self.objects, threads)


def import_executor() -> None:
    """Import what a model runs by, LLVM's library among it: most of the time that a stored model takes to load, beside its checksums."""
    from . import control, executor  # noqa: F401


def make_executor(model: CompiledModel, objects: Mapping[str, bytes], threads: int | None) -> Any:
    """An executor of a model whose objects may belong to an enclosing one."""
    from .control import ControlRunner, Refusal
    from .executor import Executor

    assert not model.plan.preparations, "a model compiled for a native library has no executor"
    if "broken" in model.plan.metadata:
        return Refusal(model.plan.metadata["broken"])

    functions: list[Any] = []
    for k, (_, function) in enumerate(model.plan.host_functions):
        if k in model.bodies:
            operator = cast("ControlSettings", function)  # or the lowering's own record, of the same fields
            kind, settings = operator.kind, dict(operator.settings)
            functions.append(ControlRunner(kind, tuple(make_executor(b, objects, threads).run for b in model.bodies[k]), settings))
        else:
            functions.append(function)
    return Executor(model.plan, objects, model.constants, threads, functions)


def host_target() -> Target:
    """The target that the environment asks for, by default this machine."""
    from .host import host_target as probe

    host = probe()
    found = parse(knobs.TARGET.read(), host)
    if found is host:
        return host
    from .instruction_sets import described

    return described(found)


# ------------------------------------------------------------------------------------------------------------ load or build
def obtain(source: object, options: CompileOptions, target: Target, cache: Cache | None = None,
           observe: Callable[[str, object], None] | None = None, optimized_path: str = "") -> CompiledModel:
    """A runnable model.

    Args:
        source: path of an .onnx or .sdx file, bytes of either, or an onnx.ModelProto.
        optimized_path: where to write the optimised graph as ONNX; forces compilation.
        observe: sees every compiler stage; forces compilation.

    Raises:
        ModelError: the model is damaged or inconsistent.
        UnsupportedError: it uses something that is not implemented.
        SardonyxError: a package is damaged or for another machine.
        FileNotFoundError: no such file.
    """
    import time

    from .package import from_container, to_sections

    start = time.perf_counter()
    if is_package(source):
        if options.changes_model():
            raise ModelError("a package is compiled already: dimensions, initialisers and input shapes cannot be changed; give the ONNX model instead")
        container = Container(source, meanwhile=import_executor)
        model = from_container(container, "package", target)
        if options.tune:
            raise ModelError("a package is compiled already: what was measured for it was measured then; give the ONNX model to tune it")
        stored_precision = model.report.get("precision", "float32")
        if options.precision not in ("float32", stored_precision):
            raise ModelError(f"the package was compiled with precision {stored_precision}, which cannot be changed to {options.precision}; give the ONNX model instead")
        model.seconds["load"] = time.perf_counter() - start
        return model
    cache = cache if cache is not None else default_cache()
    data, folder = read_source(source)
    key = model_key(data, options, target, cache)
    if optimized_path:
        observe = _exporting(optimized_path, observe)
    stored = cache.load_model(key, import_executor) if observe is None else None
    if stored is not None and _external_files_unchanged(stored.content.get("external", []), folder):
        with contextlib.suppress(ContainerError):  # one that another version wrote is compiled again
            model = from_container(stored, "cache", target)
            model.seconds["load"] = time.perf_counter() - start
            return model
    given = source if folder is not None else data
    if options.tune:
        from .tune import measured_target

        target = measured_target(given, options, target, cache)
    model, external = compile_model(given, options, target, cache, observe)
    content, sections = to_sections([model])
    content["external"] = [[os.path.relpath(path, folder), *_file_facts(path)] for path in external] if folder is not None else []
    if cache.save_model(key, content, sections):
        with contextlib.suppress(OSError, ContainerError):  # another process may have dropped it already
            stored = Container(cache.model_path(key), verify=False)
            _use_stored(model, from_container(stored, "cache", target))
    model.seconds["total"] = time.perf_counter() - start
    return model


def _use_stored(model: CompiledModel, stored: CompiledModel) -> None:
    """Take a model's constants from the mapped file that they were just written to: aligned, and shared with other processes."""
    model.constants, model.keep = stored.constants, stored.keep
    for k, children in model.bodies.items():
        for child, twin in zip(children, stored.bodies[k], strict=True):
            _use_stored(child, twin)


def _exporting(path: str, observe: Callable[[str, object], None] | None) -> Callable[[str, object], None]:
    """An observer that also writes the graph as it is before lowering."""
    def watch(stage: str, subject: object) -> None:
        if observe is not None:
            observe(stage, subject)
        if stage == "recognise" or (stage == "simplify" and not Path(path).exists()):
            from ..compiler.exporter import export_model
            from ..ir.graph import Graph
            assert isinstance(subject, Graph)
            Path(path).write_bytes(export_model(subject).SerializeToString())
    return watch


def declared_ports(source: object) -> tuple[list[Port], list[Port]]:
    """A model's inputs and outputs as it declares them."""
    from ..compiler.importer import read_interface
    from .build import port

    inputs, outputs = read_interface(source)
    return [port(n, t) for n, t in inputs], [port(n, t) for n, t in outputs]


def cut_model(source: object, options: CompileOptions) -> "Cut | None":
    """A model in parts, cut where a rank is only known when running; None if that does not help."""
    from ..compiler import importer_cut

    return importer_cut.cut_model(source, free_dimensions=options.free_dimensions, free_dimensions_by_denotation=options.free_denotations,
                                  as_inputs=options.as_inputs, initializers=options.initializers, input_shapes=dict(options.input_shapes))


def is_package(source: object) -> TypeGuard[str | os.PathLike[str] | bytes | bytearray | memoryview]:
    """Whether a source is a compiled container rather than an ONNX model."""
    if isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as f:
                return f.read(len(MAGIC)) == MAGIC
        except IsADirectoryError as e:
            raise ModelError(f"{os.fspath(source)} is a folder, a model file was expected") from e
    return isinstance(source, (bytes, bytearray, memoryview)) and bytes(source[:len(MAGIC)]) == MAGIC


def read_source(source: object) -> tuple[bytes | memoryview, Path | None]:
    """The model's bytes, and the folder that external data may lie in."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), None
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fspath(source))
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise ModelError(f"{path} is empty")
            return memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)), path.parent
    serialize = getattr(source, "SerializeToString", None)
    if serialize is not None:
        return serialize(), None
    raise TypeError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")


def model_key(data: bytes | memoryview, options: CompileOptions, target: Target, cache: Cache) -> str:
    """Cache key of a compiled model: content, options, target, toolchain."""
    from .toolchain import toolchain_key

    digest = chunk_digest([data])
    mapping = data.obj if isinstance(data, memoryview) else None
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)  # so that the file's pages do not count beside those of the compiled model
    facts = [CACHE_FORMAT, digest, options.key(), repr(target), toolchain_key(cache=cache), registrations.facts(data)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _file_facts(path: Path) -> list[object]:
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        return [size, chunk_digest([memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))]) if size else ""]


def _external_files_unchanged(facts: Sequence[Sequence[object]], folder: Path | None) -> bool:
    for name, *expected in facts:
        if folder is None:
            return False
        try:
            if _file_facts(folder / str(name)) != list(expected):
                return False
        except OSError:
            return False
    return True


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection meanwhile: compiling makes many small objects that live to its end, and looking through them takes a quarter of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def compile_model(source: object, options: CompileOptions, target: Target, cache: Cache,
                  observe: Callable[[str, object], None] | None = None) -> tuple[CompiledModel, list[Path]]:
    """Compile from scratch (kernels found in the cache excepted); returns the model and its external data files."""
    import time

    from ..codegen.driver import driver_kernel
    from ..compiler.importer import import_model
    from .build import build_graph
    from .compile_pool import Ahead, prewarm
    from .progress import compile_progress
    from .report import Recorder

    start = time.perf_counter()
    processes = knobs.COMPILE_PROCESSES.read_int() or target.cores
    prewarm(processes)
    with collection_paused(), compile_progress() as progress:
        progress.stage("reading the model")
        graph = import_model(source, free_dimensions=options.free_dimensions, free_dimensions_by_denotation=options.free_denotations,
                             as_inputs=options.as_inputs, initializers=options.initializers,
                             input_shapes=dict(options.input_shapes))
        external = list(graph.external_files)
        imported = time.perf_counter()
        progress.stage("fusing")
        overridable = _overridable(graph)
        recorder = Recorder(graph, observe)
        ahead: Ahead | None = None
        simple = driver_kernel(False)
        if processes > 1 and sys.executable and not target.arch.startswith("wasm") and not graph.bodies and not _is_cached(simple, target, cache):
            ahead = Ahead(simple, target)  # it is the largest kernel of most models, and does not depend on them
        try:
            built = build_graph(graph, target, options.level, recorder, options.disabled, PRECISIONS[options.precision], options.compact)
            lowered = time.perf_counter()
            driver = driver_kernel(built.has_control())
            begun = ahead if ahead is not None and driver.key == ahead.kernel.key else None
            objects = compile_kernels([*built.all_sources(), driver], target, cache, progress.kernels, begun)
            if begun is not None:
                ahead = None
        finally:
            if ahead is not None:
                ahead.release()
    report = {**recorder.report(built), "overridable": overridable, "precision": options.precision}
    if options.tune:
        report["measured"] = dict(target.measured)
    seconds = {"import": imported - start, "compile": lowered - imported, "kernels": time.perf_counter() - lowered}
    model = _compiled(built)
    model.objects, model.report, model.seconds = objects, report, seconds
    model.sources = {s.symbol: s for s in built.all_sources()}
    kernel_steps = [k for k, s in enumerate(built.plan.steps) if isinstance(s, KernelStep)]
    model.products = {k: c.product for k, c in zip(kernel_steps, built.calls, strict=True) if c.product}
    return model, external


def _compiled(built: Any) -> CompiledModel:
    bodies = {k: [_compiled(b) for b in children] for k, children in built.bodies.items()}
    return CompiledModel(built.plan, {}, built.constants, "compiled", bodies=bodies)


def _overridable(graph: Any) -> list[tuple[str, str, list[int]]]:
    """(name, type, shape) of the initialisers that may be fed."""
    from .build import type_name

    return [(n, type_name(v.type), [int(d.value) for d in v.type.shape]) for n, v in graph.overridable.items()]


def _object_key(source: Any, target: Target) -> str:
    """Where the cache keeps a kernel's object."""
    from .toolchain import CODE_ONLY, toolchain_key

    return source.key + hashlib.sha256(f"{target.key}|{toolchain_key(CODE_ONLY)}".encode()).hexdigest()[:16]


def _is_cached(source: Any, target: Target, cache: Cache) -> bool:
    return cache.load_object(_object_key(source, target)) is not None


def compile_kernels(sources: Sequence[Any], target: Target, cache: Cache, progress: Callable[[int, int, str], None] | None = None,
                    ahead: "Ahead | None" = None) -> dict[str, bytes]:
    """Objects by symbol: from the cache, the rest compiled in parallel and cached. `ahead`: one of them that is being compiled already."""
    found: dict[str, bytes] = {}
    missing = []
    for s in sources:
        data = None if ahead is not None and s.key == ahead.kernel.key else cache.load_object(_object_key(s, target))
        if data is None:
            missing.append(s)
        else:
            found[s.symbol] = data
    if missing:
        from .compile_pool import compile_all

        made = compile_all(missing, target, knobs.COMPILE_PROCESSES.read_int() or target.cores, progress, ahead)
        for s in missing:
            found[s.symbol] = made[s.key]
            cache.save_object(_object_key(s, target), made[s.key])
    return found
