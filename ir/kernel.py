"""Kernels: readable Python source with a C ABI, and their calls. What codegen makes, plans hold and the runtime loads.

Compiled symbol: `void NAME(void **buffers, int64_t *parameters, int64_t lo, int64_t hi, void *scratch)`.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .dtypes import DType
from .expr import Expr, Tensor


@dataclass(frozen=True)
class KernelSource:
    """A kernel in canonical form: equal text and types mean equal code, whatever model it came from.

    Args:
        name: what it does, for people (`map_add_relu_f32`); also the stem of its symbol.
        text: source of `def kernel(b0, ..., p0, ..., lo, hi, scratch)`, buffers first, then parameters.
        buffers: element type of each buffer, in the in-memory form of `codegen`'s storage types.
        written: which buffers the kernel writes. Distinct buffers never overlap.
        parameters: number of int64 parameters.
        fastmath: LLVM flags its floating-point operations may use.
        constants: further names the text refers to, each a (name, builder, arguments) triple that codegen resolves to an intrinsic, so that
            the text stays short and the identity complete.
    """

    name: str
    text: str
    buffers: tuple[DType, ...]
    written: tuple[bool, ...]
    parameters: int
    fastmath: tuple[str, ...] = ()
    constants: tuple[tuple[str, str, tuple], ...] = ()

    @property
    def key(self) -> str:
        """Content hash (hex) of everything the object code depends on but target and toolchain."""
        parts = (self.name, self.text, [b.short for b in self.buffers], self.written, self.parameters, self.fastmath, self.constants)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def symbol(self) -> str:
        return f"{self.name}_{self.key[:12]}"


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One launch: which tensors and sizes a kernel gets.

    Args:
        buffers: tensors in the order of the kernel's buffers.
        parameters: int64 expressions over sizes (no axes).
        units: independent pieces of work; the kernel's `lo, hi` range over them, and any split among threads gives the same results.
        scratch_bytes: private scratch of each thread, 64-byte aligned.
        origin: the user's nodes inside.
        flops, bytes: work of one launch, for reports and the roofline.
        product: sizes and types of a product, under which measurements of it are kept; empty for other work.
    """

    kernel: KernelSource
    buffers: tuple[Tensor, ...]
    parameters: tuple[Expr, ...]
    units: Expr
    scratch_bytes: Expr
    origin: tuple[str, ...] = ()
    flops: Expr | None = None
    bytes: Expr | None = None
    product: str = ""
