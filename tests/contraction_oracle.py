"""Running contractions' schedules on arrays, for tests and measurements."""
from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Mapping

import numpy as np
from sardonyx.codegen.contraction import schedule_contraction
from sardonyx.codegen.map_schedule import schedule_map
from sardonyx.ir import expr as ex
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.kernel import KernelCall
from sardonyx.ir.loops import ContractionNest, MapNest
from sardonyx.ir.target import Target
from sardonyx.runtime.arrays import aligned_empty
from sardonyx.runtime.host import host_target
from sardonyx.runtime.objects import KERNEL_PROTOTYPE, call_kernel, load_kernel

Sizes = Mapping[str, int]


def size(e: Expr, sizes: Sizes) -> int:
    """The value of a size."""
    found = ex.substitute_one(e, {n: ex.const(sizes[n.value[0]]) for n in ex.walk(e) if n.op == "sym"})
    assert found.is_const, f"{e.text} is {found.text}"
    return int(found.value)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros at the start of a cache line."""
    out = aligned_empty(shape, dtype)
    out[...] = np.zeros((), dtype)
    return out


class Scheduled:
    """A contraction's kernels with memory for every tensor, ready to run.

    Args:
        arrays: elements of the nest's inputs, in logical order.
        layouts: order of dims in memory.
        constants: inputs whose packing is not part of a run.
    """

    def __init__(self, nest: ContractionNest, arrays: Mapping[Tensor, np.ndarray], layouts: Mapping[Tensor, tuple[int, ...]] | None = None,
                 constants: Collection[Tensor] = (), sizes: Sizes | None = None, target: Target | None = None) -> None:
        self.layouts, self.sizes = dict(layouts or {}), dict(sizes or {})
        self.target = target or host_target()
        self.parts = schedule_contraction(nest, self.layouts, constants, self.target)
        self.memory: dict[Tensor, np.ndarray] = {}
        for t, a in arrays.items():
            self.put(t, a)
        known = set(constants)
        self.ready: list[tuple[KernelCall, int]] = []
        self.once: list[tuple[KernelCall, int]] = []
        for part in self.parts:
            call = part if isinstance(part, KernelCall) else schedule_map(part, self.layouts, self.target)
            fixed = isinstance(part, MapNest) and all(ex.load_tensor(e) in known for e in ex.loads(part.values))
            if fixed:
                known.update(part.outputs)
            for t in call.buffers:
                if t not in self.memory:
                    self.memory[t] = aligned(tuple(size(t.shape[d], self.sizes) for d in self.order(t)), t.dtype.numpy)
            address = load_kernel(call.kernel, self.target).address(call.kernel.symbol)
            (self.once if fixed else self.ready).append((call, address))
        self.run(self.once)

    def order(self, t: Tensor) -> tuple[int, ...]:
        return self.layouts.get(t, tuple(range(t.rank)))

    def put(self, t: Tensor, a: np.ndarray) -> None:
        stored = aligned(tuple(a.shape[d] for d in self.order(t)), a.dtype)
        stored[...] = a.transpose(self.order(t))
        self.memory[t] = stored

    def get(self, t: Tensor) -> np.ndarray:
        """A result's elements in logical order."""
        return self.memory[t].transpose(np.argsort(self.order(t)) if t.rank else ())

    def run(self, calls: list[tuple[KernelCall, int]] | None = None, split: int = 1) -> None:
        """Run the kernels, each in `split` shares of its units."""
        for call, address in self.ready if calls is None else calls:
            units = size(call.units, self.sizes)
            arrays = [self.memory[t] for t in call.buffers]
            numbers = [size(p, self.sizes) for p in call.parameters]
            scratch = size(call.scratch_bytes, self.sizes)
            cuts = [units * k // split for k in range(split + 1)]
            for lo, hi in zip(cuts, cuts[1:]):
                call_kernel(address, arrays, numbers, lo, hi, scratch)

    def prepared(self) -> Callable[[], None]:
        """A run with everything but the kernels done beforehand, for measurements."""
        calls = []
        for call, address in self.ready:
            pointers = (ctypes.c_void_p * len(call.buffers))(*(self.memory[t].ctypes.data for t in call.buffers))
            numbers = (ctypes.c_int64 * max(1, len(call.parameters)))(*(size(p, self.sizes) for p in call.parameters))
            scratch = aligned_empty((size(call.scratch_bytes, self.sizes) + 64,), np.dtype(np.uint8))
            arguments = (ctypes.addressof(pointers), ctypes.addressof(numbers), 0, size(call.units, self.sizes), scratch.ctypes.data)
            calls.append((KERNEL_PROTOTYPE(address), arguments, (pointers, numbers, scratch)))

        def once() -> None:
            for function, arguments, _ in calls:
                function(*arguments)
        return once


def run(nest: ContractionNest, arrays: Mapping[Tensor, np.ndarray], **options: object) -> list[np.ndarray]:
    """The results of a contraction, in order of its outputs."""
    scheduled = Scheduled(nest, arrays, **options)
    scheduled.run()
    return [scheduled.get(t) for t in nest.outputs]
