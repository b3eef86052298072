"""A Numba target whose only product is LLVM IR: no optimisation, no execution engine, no Python wrappers.

Numba's own CPU target optimises each function for this machine and loads it. Kernels are for any machine and are optimised once, whole, in
`numba_backend`; so this target keeps Numba's front end (bytecode to typed IR to LLVM) and drops what comes after it.
"""
from __future__ import annotations

import threading
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

import llvmlite.binding as llvm
from numba.core import compiler, cpu, fastmathpass, typed_passes, types, typing, untyped_passes
from numba.core.codegen import CPUCodegen, CPUCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.datamodel.models import PointerModel
from numba.core.datamodel.registry import register_default
from numba.core.descriptors import TargetDescriptor
from numba.core.dispatcher import Dispatcher
from numba.core.target_extension import CPU, JitDecorator, dispatcher_registry, jit_registry, target_override, target_registry

TARGET_NAME = "sardonyx"


class KernelTarget(CPU):
    """Place of this target in Numba's hierarchy: whatever is registered for the CPU serves."""


target_registry[TARGET_NAME] = KernelTarget


class Library(CPUCodeLibrary):
    """Collects the modules of one function and of what it calls, as they were lowered."""

    def _optimize_functions(self, ll_module: llvm.ModuleRef) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        """Left to the backend."""

    def _finalize_final_module(self) -> None:
        self._finalized = True

    @property
    def module(self) -> llvm.ModuleRef:
        """The linked module; valid as long as the library lives."""
        self._ensure_finalized()
        return self._final_module


class IRCodegen(CPUCodegen):
    """Gives modules a data layout; makes no engine."""

    _library_class = Library

    def _init(self, llvm_module: llvm.ModuleRef) -> None:
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
        self._tm = machine
        self._target_data = machine.target_data
        self._data_layout = str(self._target_data)

    def _add_module(self, module: llvm.ModuleRef) -> None:
        pass

    def _check_llvm_bugs(self) -> None:
        pass


class Buffer(types.CPointer):
    """A pointer to elements of `storage` that remembers which element type they stand for; indexing gives them raw."""

    def __init__(self, storage: types.Type, element: str) -> None:
        super().__init__(storage)
        self.element = element
        self.name = f"buffer({element})"

    @property
    def key(self) -> tuple[types.Type, str]:
        return self.dtype, self.element


register_default(Buffer)(PointerModel)


class Entry:
    """Stands for a compiled function in Numba's tables."""


_PLAIN = (types.Number, types.Boolean, types.CPointer, types.RangeType, types.RangeIteratorType)


class TypingContext(typing.BaseContext):
    """Numba's typing of numbers, pointers and `math`; without NumPy's functions, whose rules every operator would be matched against.

    What an operator or function gives for arguments of certain types never changes, so it is looked up once.
    """

    def init(self) -> None:
        super().init()
        self._resolved: dict[tuple[Any, tuple[types.Type, ...]], Any] = {}

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        if kws or not isinstance(func, (types.Function, BuiltinFunctionType)) or not all(isinstance(a, _PLAIN) for a in args):
            return super().resolve_function_type(func, args, kws)
        key = func, tuple(args)
        found = self._resolved.get(key)
        if found is None or not _knows(func, found):
            found = super().resolve_function_type(func, args, kws)
            if found is not None:
                self._resolved[key] = found
        return found

    def load_additional_registries(self) -> None:
        from numba.core.typing import cmathdecl, mathdecl

        self.install_registry(cmathdecl.registry)
        self.install_registry(mathdecl.registry)


def _knows(func: Any, signature: Any) -> bool:
    """Whether an object that stands for a function can give the implementation of a signature; each learns it only by resolving it itself."""
    if not isinstance(func, types.Function):
        return True
    try:
        func.get_impl_key(signature)
    except KeyError:
        return False
    return True


class KernelContext(cpu.CPUContext):
    """Numba's CPU lowering without its runtime system."""

    @global_compiler_lock
    def init(self) -> None:
        self.is32bit = False
        self._internal_codegen: Any = IRCodegen("sardonyx")

    def load_additional_registries(self) -> None:
        from numba.core import optional
        from numba.cpython import builtins, cmathimpl, mathimpl, numbers, rangeobj, tupleobj
        del builtins, numbers, rangeobj, tupleobj, optional  # imported for what they register
        self.install_registry(cmathimpl.registry)
        self.install_registry(mathimpl.registry)

    def get_function(self, fn: Any, sig: Any, _firstcall: bool = True) -> Any:
        if not _knows(fn, sig):  # another object stood for the function when the kernel was typed: more definitions of it were found since
            self.typing_context.resolve_function_type(fn, sig.args, {})
        return super().get_function(fn, sig, _firstcall)

    def post_lowering(self, mod: Any, library: Library) -> None:
        if self.fastmath:
            fastmathpass.rewrite_module(mod, self.fastmath)

    def get_executable(self, library: Library, fndesc: Any, env: Any) -> Entry:
        return Entry()


class KernelDescriptor(TargetDescriptor):
    """The contexts of this target, made when first needed."""

    options = cpu.CPUTargetOptions

    def __init__(self) -> None:
        super().__init__(TARGET_NAME)
        self._lock = threading.Lock()
        self._typing: TypingContext | None = None
        self._target: KernelContext | None = None

    @property
    def typing_context(self) -> TypingContext:
        with self._lock:
            if self._typing is None:
                self._typing = TypingContext()
            return self._typing

    @property
    def target_context(self) -> KernelContext:
        typing_context = self.typing_context
        with self._lock:
            if self._target is None:
                self._target = KernelContext(typing_context, TARGET_NAME)
            return self._target


DESCRIPTOR = KernelDescriptor()


class KernelCompiler(compiler.CompilerBase):
    """Numba's passes for plain numeric functions: no closures, context managers, literal unrolling, array expressions or parallel loops."""

    def define_pipelines(self) -> list[PassManager]:
        passes = PassManager("kernel")
        if self.state.func_ir is None:
            passes.add_pass(untyped_passes.TranslateByteCode, "read bytecode")
            passes.add_pass(untyped_passes.FixupArgs, "fix arguments")
        passes.add_pass(untyped_passes.IRProcessing, "make IR")
        passes.add_pass(untyped_passes.DeadBranchPrune, "prune branches on constants")
        passes.add_pass(untyped_passes.GenericRewrites, "rewrite static forms")
        passes.add_pass(untyped_passes.InlineInlinables, "inline")
        passes.add_pass(untyped_passes.ReconstructSSA, "single assignment")
        passes.add_pass(untyped_passes.DeadBranchPrune, "prune branches on constants")
        passes.add_pass(typed_passes.NopythonTypeInference, "infer types")
        passes.add_pass(typed_passes.PreLowerStripPhis, "remove phis")
        passes.add_pass(typed_passes.IRLegalization, "legalise")
        passes.add_pass(typed_passes.NativeLowering, "lower")
        passes.add_pass(typed_passes.NoPythonBackend, "collect")
        passes.finalize()
        return [passes]


class KernelDispatcher(Dispatcher):
    """A function that kernels call: compiled per signature into the caller's module, never callable from the host through Numba."""

    targetdescr = DESCRIPTOR

    def compile(self, sig: Any) -> Callable[..., Any]:
        with target_override(TARGET_NAME):
            return super().compile(sig)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        return super().get_call_template(tuple(map(types.unliteral, args)), {k: types.unliteral(v) for k, v in kws.items()})

    def add_overload(self, cres: Any) -> None:
        self.overloads[tuple(cres.signature.args)] = cres

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.py_func(*args, **kwargs)


class KernelJit(JitDecorator):
    """What Numba's own overloads are compiled by when a kernel uses them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args, self._kwargs = args, kwargs

    def __call__(self, *args: Callable) -> KernelDispatcher:
        function = args[0] if args else self._args[0]
        return device(function, **{k: v for k, v in self._kwargs.items() if k in ("inline", "fastmath")})


def device(function: Callable, *, inline: str = "never", fastmath: Any = False, forced: bool = True) -> KernelDispatcher:
    """Make a Python function callable from kernels.

    Args:
        inline: `always` to copy it into the caller before typing, `never` to lower it once per signature and let LLVM inline it.
        forced: LLVM must inline it; otherwise it does where that pays.
        fastmath: set of LLVM flags of its own floating-point operations (the caller's do not apply).
    """
    options = {"nopython": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False, "error_model": "numpy", "boundscheck": False,
               "fastmath": fastmath, "forceinline": forced, "inline": inline}
    return KernelDispatcher(function, targetoptions=options, pipeline_class=KernelCompiler)


dispatcher_registry[KernelTarget] = KernelDispatcher
jit_registry[KernelTarget] = KernelJit


def lower(function: Callable, arguments: tuple[Any, ...], fastmath: frozenset[str]) -> tuple[Library, str]:
    """Type and lower one void function.

    Returns:
        Its library (whose `module` is unoptimised IR with all callees) and its mangled name.
    """
    flags: Any = compiler.Flags()  # a metaclass of Numba turns its options into plain attributes
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.nrt = False
    flags.error_model = "numpy"
    flags.boundscheck = False
    flags.noalias = True
    if fastmath:
        flags.fastmath = cpu.FastMathOptions(set(fastmath))
    with global_compiler_lock, target_override(TARGET_NAME):
        context = DESCRIPTOR.target_context
        result = compiler.compile_extra(DESCRIPTOR.typing_context, context, function, arguments, types.void, flags, {}, pipeline_class=KernelCompiler)
        context.remove_user_function(result.entry_point)
        result.library.finalize()
    return result.library, result.fndesc.mangled_name
