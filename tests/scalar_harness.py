"""Loops over single scalar functions, compiled for a target and, where it is this machine's, callable on arrays."""
from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from sardonyx.codegen import mathlib, numba_backend
from sardonyx.ir import dtypes as dt
from sardonyx.ir import target as targets
from sardonyx.ir.kernel import KernelSource

TARGETS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64")
# Those of them that this machine can run, with their different code paths.
RUNNABLE = TARGETS[:3] if llvm.get_host_cpu_features().get("avx512vl") else TARGETS[:2]
_ENGINES: list[object] = []


def loop(name: str, fastmath: tuple[str, ...] = ()) -> KernelSource:
    """A kernel that applies function `name` to whole buffers of values as they stand in variables; `copy_T` loads and stores."""
    if name.startswith("copy_"):
        short = name.removeprefix("copy_")
        arguments, result, value = (dt.BY_SHORT[short],), dt.BY_SHORT[short], f"load_{short}(b0, i)"
        names = [f"load_{short}", f"store_{short}"]
    else:
        entry = mathlib.signature(name)
        arguments, result = entry.arguments, entry.result
        loads = [f"load_{a.short}" for a in arguments]
        value = f"{name}({', '.join(f'{f}(b{k}, i)' for k, f in enumerate(loads))})"
        names = [name, f"store_{result.short}", *loads]
    last = len(arguments)
    text = (f"def kernel({', '.join(f'b{k}' for k in range(last + 1))}, lo, hi, scratch):\n"
            f"    for i in range(lo, hi):\n        store_{result.short}(b{last}, i, {value})\n")
    return KernelSource(name, text, (*arguments, result), (False,) * last + (True,), 0, fastmath, tuple(mathlib.needed(n) for n in dict.fromkeys(names)))


def assembly(name: str, target: str, fastmath: tuple[str, ...] = ()) -> str:
    return numba_backend.emit_assembly(loop(name, fastmath), targets.NAMED[target])


@cache
def compiled(name: str, target: str = "x86-64-v3", fastmath: tuple[str, ...] = (), run: bool = True) -> Callable[..., np.ndarray]:
    """The loop as a function from arrays to an array (`out` may be given)."""
    kernel = loop(name, fastmath)
    image = numba_backend.compile_kernel(kernel, targets.NAMED[target])
    if not run:
        return np.asarray
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), llvm.Target.from_default_triple().create_target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(image))
    engine.finalize_object()
    _ENGINES.append(engine)
    pointer = ctypes.c_void_p
    native = ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_int64, ctypes.c_int64, pointer)(engine.get_function_address(kernel.symbol))

    def call(*arrays: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            arrays = tuple(np.ascontiguousarray(a, d.numpy) for a, d in zip(arrays, kernel.buffers, strict=False))
            out = np.empty(arrays[0].shape, kernel.buffers[-1].numpy)
        native((pointer * (len(arrays) + 1))(*(a.ctypes.data for a in (*arrays, out))), None, 0, out.size, None)
        return out
    return call
