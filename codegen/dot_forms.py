"""How a target multiplies narrow numbers into 32-bit sums: facts alone, so that schedules can choose without loading a compiler."""
from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir import dtypes as dt
from ..ir.dtypes import DType
from ..ir.target import Target


@dataclass(frozen=True)
class DotForm:
    """One way to compute sums of products of 8-bit numbers, exact in int32, or of bfloat16 numbers, in float32.

    Args:
        name: the instruction: `vpdpbusd`, `sdot`, `pmaddwd`, `crossed` (that of sums), `widen` (multiplication of widened elements), `vdpbf16ps`, `pairs` (multiplication of both
            halves of a word as float32), `vpmaddubsw` (for weights of few bits alone: pairs of bytes into 16 bits), or `amx` (products of whole tiles, see `codegen.matrix_tiles`).
        fold: neighbouring products that one lane adds up.
        stored: element type of packed weights.
        a: the element type that the left operand must have; the other 8-bit type becomes it by flipping the top bit. None: either.
        widened: what the left operand is copied as, where spreading its elements in registers costs more than multiplying them; None: it is read as it is.
    """

    name: str
    fold: int
    stored: DType
    a: DType | None
    widened: DType | None = None

    @property
    def is_float(self) -> bool:
        """Whether sums are float32, of bfloat16 products."""
        return self.stored.is_float

    @property
    def step(self) -> int:
        """Products that an instruction over whole tiles adds to each sum: a row of a tile register."""
        return TILE_ROW_BYTES // self.stored.itemsize_bytes

    def flips(self, dtype: DType) -> bool:
        """Whether the left operand's top bits are flipped."""
        return self.a is not None and dtype is not self.a

    def a_shift(self, dtype: DType) -> int:
        """What flipping adds to elements of the left operand."""
        if not self.flips(dtype):
            return 0
        return 128 if self.a is dt.uint8 else -128

    def b_shift(self, dtype: DType) -> int:
        """What packing adds to weights so that they fit the stored type."""
        return -128 if dtype is dt.uint8 and self.stored is dt.int8 else 0


VPDPBUSD = DotForm("vpdpbusd", 4, dt.int8, dt.uint8)
VPMADDUBSW = DotForm("vpmaddubsw", 4, dt.int8, dt.uint8)
SDOT = DotForm("sdot", 4, dt.int8, dt.int8)
PMADDWD = DotForm("pmaddwd", 2, dt.int16, None, dt.int16)
CROSSED = replace(PMADDWD, name="crossed")  # the same operands, half the products (see `codegen.crossed`)
WIDEN = DotForm("widen", 1, dt.int16, None)
VDPBF16PS = DotForm("vdpbf16ps", 2, dt.bfloat16, None)
PAIRS = DotForm("pairs", 2, dt.bfloat16, None)
AMX_BF16 = DotForm("amx", 2, dt.bfloat16, None)
AMX = {stored: DotForm("amx", 4, stored, None) for stored in (dt.int8, dt.uint8)}  # every pair of signs has an instruction
TILE_ROW_BYTES = 64
FEWEST_ROWS, SHORTEST = 12, 12  # rows and terms of sums that repay whole tiles


def has_feature(target: Target, name: str) -> bool:
    return f"+{name}" in target.features.split(",")


def matrix_form(target: Target, rows: int | None, terms: int | None, stored: DType) -> DotForm | None:
    """The form that multiplies whole tiles, if the target has it and the product is large enough; sizes are None where only the run knows them."""
    if not has_feature(target, "amx-int8") or target.isa != "avx512" or (rows is not None and rows < FEWEST_ROWS) or (terms is not None and terms < SHORTEST):
        return None
    return AMX[stored]


def dot_form(target: Target) -> DotForm:
    """The fastest exact form that the target's features give."""
    if target.arch in ("aarch64", "arm64"):
        return SDOT if has_feature(target, "dotprod") else WIDEN
    if target.isa == "avx512":
        return VPDPBUSD if has_feature(target, "avx512vnni") else PMADDWD
    if target.isa == "avx2":
        return VPDPBUSD if has_feature(target, "avxvnni") else PMADDWD
    return PMADDWD if target.isa == "sse2" else WIDEN


def bfloat_form(target: Target, rows: int | None, terms: int | None) -> DotForm:
    """The fastest form for products of bfloat16 numbers; sizes are None where only the run knows them."""
    if target.isa == "avx512" and has_feature(target, "avx512bf16"):
        few = (rows is not None and rows < FEWEST_ROWS) or (terms is not None and terms < SHORTEST)
        return AMX_BF16 if has_feature(target, "amx-bf16") and not few else VDPBF16PS
    return PAIRS
