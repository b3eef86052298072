"""Kernel source to object code: Numba's front end, LLVM's optimiser and code generator for any target.

The text of a kernel is executed to get its function, lowered by `numba_target` to unoptimised IR, linked with a C wrapper, given the target's triple and
data layout, optimised once as a whole and emitted. Everything but the kernel's symbol is internal, so objects of one model never clash.

Names a kernel's text may use without a constant: `math`, `np`, NumPy's scalar types by their names (`float32`, `int64`, ...), what its constants name, and the
decorator `device` for helper functions in the text itself.
"""
from __future__ import annotations

import hashlib
import linecache
import math
import re
import struct
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from ..ir.dtypes import DType
from ..ir.errors import CompileError
from ..ir.kernel import KernelSource
from ..ir.target import Target
from . import intrinsics

FASTMATH_FLAGS = frozenset(("fast", "nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc"))
SCALAR_NAMES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "complex64", "complex128")
# What a libc and its libm give; code generation itself may call the first group.
LIBRARY_SYMBOLS = frozenset(
    "memcpy memmove memset bzero "
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs floor fma fmax fmin fmod frexp hypot ldexp lgamma log "
    "log10 log1p log2 modf nearbyint pow remainder rint round roundeven scalbn sin sincos sinh sqrt tan tanh tgamma trunc clock_gettime".split()
)


def storage_name(dtype: DType) -> str:
    """Scalar type of a buffer's elements in memory: float16 and bfloat16 are uint16, other narrow floats and bool uint8, sub-byte integers a byte each;
    the rest is natural."""
    if dtype.kind == "float" and dtype.bits < 32:
        return f"uint{max(8, dtype.bits)}"
    if dtype.kind == "bool":
        return "uint8"
    if dtype.is_integer and dtype.bits < 8:
        return f"{dtype.kind}8"
    return dtype.numpy_name


def compile_kernel(kernel: KernelSource, target: Target) -> bytes:
    """The relocatable object that defines `kernel.symbol` for `target`.

    Equal kernels give equal bytes in every process, but one that compiled for WebAssembly before: LLVM's code generator for it changes a default of all others.

    Raises:
        CompileError: the text does not compile, or needs a symbol that neither libc nor libm has; carries the kernel's text.
    """
    module, machine = _optimised(kernel, target)
    found = machine.emit_object(module)
    missing = [s for s in undefined_symbols(found) if not _is_library_symbol(s)]
    if missing:
        raise CompileError(kernel.name, kernel.text, f"the object for {target.triple} needs {', '.join(missing)}, which no system library defines")
    return found


def emit_assembly(kernel: KernelSource, target: Target) -> str:
    """The kernel's assembly text."""
    module, machine = _optimised(kernel, target)
    return machine.emit_assembly(module)


def emit_llvm(kernel: KernelSource, target: Target, optimised: bool = True) -> str:
    """The kernel's LLVM IR, before or after optimisation."""
    return str(_optimised(kernel, target)[0] if optimised else _linked(kernel, target)[0])


@lru_cache(maxsize=1)
def toolchain_key() -> str:
    """What object code depends on besides kernel and target: versions of Numba, llvmlite and LLVM, and this package's own sources of code."""
    import llvmlite
    import numba

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    version = ".".join(map(str, llvm.llvm_version_info))
    return f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, LLVM {version}, codegen {digest.hexdigest()[:16]}"


def warm_up() -> None:
    """Import and initialise everything that the first compilation needs."""
    from . import numba_target

    _initialise()
    numba_target.lower(_nothing, (), frozenset())


def _nothing() -> None:
    """What `warm_up` compiles."""


# ----------------------------------------------------------------------------------------------------------------- front end
def python_function(kernel: KernelSource, target: Target) -> Callable[..., None]:
    """The kernel's text as a Python function over its constants."""
    from . import numba_target

    filename = f"<kernel {kernel.name} {kernel.key[:12]}>"
    linecache.cache[filename] = (len(kernel.text), None, kernel.text.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": "sardonyx_kernel", "math": math, "np": np}
    namespace.update((n, getattr(np, n)) for n in SCALAR_NAMES)
    namespace["device"] = numba_target.device
    namespace["shared_device"] = partial(numba_target.device, forced=False)
    for name, build, arguments in kernel.constants:
        namespace[name] = intrinsics.resolve(build, arguments, target)
    exec(compile(kernel.text, filename, "exec"), namespace)
    return namespace["kernel"]


def _lowered(kernel: KernelSource, target: Target) -> tuple[Any, str]:
    """Unoptimised library of the kernel's function, and the function's name in it."""
    from numba.core import errors, types

    from . import numba_target

    unknown = set(kernel.fastmath) - FASTMATH_FLAGS
    if unknown:
        raise CompileError(kernel.name, kernel.text, f"unknown fastmath flags {sorted(unknown)}")
    buffers = tuple(numba_target.Buffer(getattr(types, storage_name(b)), b.name) for b in kernel.buffers)
    arguments = buffers + (types.int64,) * (kernel.parameters + 2) + (types.CPointer(types.uint8),)
    try:
        function = python_function(kernel, target)
        if function.__code__.co_argcount != len(arguments):
            raise CompileError(kernel.name, kernel.text, f"it takes {function.__code__.co_argcount} arguments, {len(arguments)} are passed")
        return numba_target.lower(function, arguments, frozenset(kernel.fastmath))
    except (errors.NumbaError, SyntaxError, KeyError, NameError) as e:
        raise CompileError(kernel.name, kernel.text, re.sub(r"\x1b\[[0-9;]*m", "", str(e)).strip()) from e


# ------------------------------------------------------------------------------------------------------------------ back end
_INITIALISE_LOCK = threading.Lock()
_initialised = False


def _initialise() -> None:
    """Make LLVM's code generators available, once."""
    global _initialised
    with _INITIALISE_LOCK:
        if not _initialised:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
            _initialised = True


def target_machine(target: Target) -> llvm.TargetMachine:
    """LLVM's code generator for a target: position-independent code, full optimisation, whole vectors."""
    _initialise()
    features = target.features
    if target.isa == "avx512" and "prefer-256-bit" not in features:
        features = f"{features},-prefer-256-bit".lstrip(",")
    try:
        found = llvm.Target.from_triple(target.triple)
    except RuntimeError as e:
        raise CompileError(target.triple, "", f"LLVM has no code generator for it: {e}") from e
    return found.create_target_machine(cpu=target.cpu, features=features, opt=3, reloc="pic", codemodel="default", abiname="lp64d" if target.arch == "riscv64" else "")


def _linked(kernel: KernelSource, target: Target) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """The kernel, its callees and its wrapper in one module for the target, unoptimised."""
    machine = target_machine(target)
    library, body = _lowered(kernel, target)
    module = library.module.clone()
    module.name = kernel.name
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    wrapper = llvm.parse_assembly(_wrapper(kernel, body))
    wrapper.triple, wrapper.data_layout = module.triple, module.data_layout
    module.link_in(wrapper)
    for k, symbol in enumerate(_defined(module)):
        if symbol.name != kernel.symbol:
            symbol.linkage = "internal"
            symbol.name = "body" if symbol.name == body else f"local.{k}"
    module.verify()
    return module, machine


def _defined(module: llvm.ModuleRef) -> Iterator[llvm.ValueRef]:
    for group in (module.global_variables, module.functions):
        yield from [g for g in group if not g.is_declaration]


def _optimised(kernel: KernelSource, target: Target) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    module, machine = _linked(kernel, target)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    options.slp_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    for function in module.functions:
        if function.is_declaration and not function.name.startswith("llvm.") and not _is_library_symbol(function.name):
            raise CompileError(kernel.name, kernel.text, f"it calls {function.name}, which is neither an intrinsic nor in libc or libm")
    return module, machine


def _wrapper(kernel: KernelSource, body: str) -> str:
    """IR of the C function that unpacks buffers and parameters and calls the body."""
    count = len(kernel.buffers)
    arguments = ["ptr %ret", "ptr %exc"] + [f"ptr %b{k}" for k in range(count)] + [f"i64 %p{k}" for k in range(kernel.parameters)]
    arguments += ["i64 %lo", "i64 %hi", "ptr %scratch"]
    types = ", ".join(a.split()[0] for a in arguments)
    lines = [f'declare i32 @"{body}"({types})', f'define void @"{kernel.symbol}"(ptr %buffers, ptr %parameters, i64 %lo, i64 %hi, ptr %scratch) nounwind {{',
             "  %ret = alloca ptr", "  %exc = alloca ptr"]
    for names, base, kind, number in (("b", "buffers", "ptr", count), ("p", "parameters", "i64", kernel.parameters)):
        for k in range(number):
            lines += [f"  %{names}{k}.at = getelementptr {kind}, ptr %{base}, i64 {k}", f"  %{names}{k} = load {kind}, ptr %{names}{k}.at"]
    lines += [f'  %status = call i32 @"{body}"({", ".join(arguments)}) noinline', "  ret void", "}"]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------------- objects
def _is_library_symbol(name: str) -> bool:
    return name in LIBRARY_SYMBOLS or (name[-1] in "fl" and name[:-1] in LIBRARY_SYMBOLS) or name == "_GLOBAL_OFFSET_TABLE_"


def undefined_symbols(image: bytes) -> list[str]:
    """Names that an ELF64 object needs from elsewhere; empty for other formats, whose declarations are checked before emission."""
    if image[:5] != b"\x7fELF\x02":
        return []
    order = "<" if image[5] == 1 else ">"
    start, = struct.unpack_from(order + "Q", image, 40)
    size, count = struct.unpack_from(order + "HH", image, 58)
    sections = [struct.unpack_from(order + "IIQQQQIIQQ", image, start + k * size) for k in range(count)]
    found = []
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        names = sections[link][4]
        for at in range(offset + 24, offset + length, 24):
            name, _, _, section = struct.unpack_from(order + "IBBH", image, at)
            if section == 0 and name:
                found.append(image[names + name:image.index(b"\0", names + name)].decode())
    return found
