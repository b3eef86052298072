"""Products of float32 rows with weights of 2, 4 or 8 bits in blocks, read as they are: dot products of codes with the digits of the rows.

A row's numbers are whole multiples of a step for each block, 2^23 steps to its largest, and each multiple is written with signed digits: three of 8 bits where the
processor multiplies bytes (VNNI; AVX2, where sums of codes of up to 4 bits fit 16 bits for a while), two of 12 bits where it multiplies pairs of 16-bit numbers. Rows that
are rounded to 8 bits anyway are one digit. So, for digits to the base B,

    sum a * (code - zero) * scale  =  step * scale * (... + B D1 + D0) + scale * (middle - zero) * sum a,      Dn = sum digit_n * (code - middle)

with exact sums D. The rounding of the rows, half a step an element, is no larger than that of float32 sums. Many rows at once of several digits are multiplied in float32
instead, by panels of weights that are unpacked where the cache holds them.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.dtypes import DType
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import ContractionNest, MapNest, Store
from ..ir.target import Target
from .blocking import Blocking
from .contraction import ONE, Layouts, Product, decline_in_place, extent_product, flat_offset, is_constant, merge_axes, ordered, regroup, to_product
from .dot_forms import PMADDWD, VPDPBUSD, VPMADDUBSW, DotForm, dot_form
from .gemm import ProductText
from .scalar import Scope
from .tile_shapes import ABREAST, TileShape, tile_shapes

TILE_ROWS = 6
FEW = 6  # rows; up to here those of several digits are multiplied by the codes themselves
TALLEST = 4  # rows of a tile of codes
ACCUMULATORS = 8  # vectors of sums of such a tile where there are 16 registers, at most
FEWEST_REGISTERS = 16
HEIGHT = 126  # rows of a unit
CHUNK = 256  # steps between two visits of a block of many rows
COLUMNS = 32  # fewer are not worth a panel


@dataclass(frozen=True)
class Digits:
    """How rows are written: `count` signed digits of `bits` bits for each number, multiplied as `form` says.

    Args:
        stored: integers that hold a digit, as many to a word of 32 bits as the form adds up.
    """

    form: DotForm
    count: int
    bits: int
    stored: DType

    @property
    def base(self) -> int:
        return 1 << self.bits

    @property
    def largest(self) -> int:
        """The largest multiple of a step: its digits never pass those of `base`'s half."""
        return (self.base // 2 - 1) * self.base ** (self.count - 1)

    def fits(self, bits: int, block: int) -> bool:
        """Whether the sums over a block, and those less the middle, surely fit 32 bits."""
        return self.base // 2 * (1 << bits) * block < 1 << 31


BYTES = Digits(VPDPBUSD, 3, 8, dt.int8)
SHORT_SUMS = Digits(VPMADDUBSW, 3, 8, dt.int8)
PAIRS = Digits(PMADDWD, 2, 12, dt.int16)


def digits_for(target: Target, bits: int) -> Digits | None:
    """The digits that the target multiplies fastest by codes of so many bits; None where it has no such products beside fused multiply-adds of float32."""
    if target.isa not in ("avx512", "avx2"):
        return None
    if dot_form(target) is PMADDWD:
        return SHORT_SUMS if target.isa == "avx2" and bits <= 4 else PAIRS
    return BYTES


def tile_for(target: Target) -> TileShape:
    """Panels as wide as the float32 tile of many rows."""
    return next(s for s in tile_shapes(target, dt.float32) if s.rows == TILE_ROWS)


@dataclass(frozen=True)
class Weights:
    """b[k, column] = (code - zero) * scale.

    Args:
        code: int32, from 0 to 2^bits - 1.
        block: steps of k that share a scale and a zero point.
        scale: float32, over the column and the block's number `at`.
        zero: over the same, an integer that fits a byte or any float32; None: the zero point is `middle`.
        middle: whole number that is taken off the codes exactly.
    """

    code: Expr
    bits: int
    block: int
    at: Expr
    scale: Expr
    zero: Expr | None
    middle: int

    @property
    def zeros(self) -> str:
        """How zero points are packed: as bytes, as what they add to float32 weights, or (empty) not at all."""
        return "" if self.zero is None else dt.float32.short if self.zero.dtype.is_float else dt.uint8.short


def schedule(nest: ContractionNest, layouts: Layouts, constants: Collection[Tensor], target: Target) -> list[MapNest | KernelCall] | None:
    """Maps that pack the weights and write the rows' digits, and the product; None where the nest is something else, or the target has no packed products of integers."""
    if nest.dtype is not dt.float32 or len(nest.reduced) != 1 or len(nest.columns) != 1 or not is_constant(nest.b, constants):
        return None
    column, k = nest.columns[0], nest.reduced[0]
    columns, depth, weights = integer.as_int(column.extent), integer.as_int(k.extent), weights_of(nest.b, k)
    if weights is None or depth is None or columns is None or columns < COLUMNS:
        return None
    coded, digits = coded_rows(nest.a, weights, k, layouts), digits_for(target, weights.bits)
    operand = nest.a if coded is None else coded.codes
    if digits is None or not digits.fits(weights.bits, weights.block) or operand.op != "load" or ex.load_fill(operand) is not None:
        return None
    rows = ordered(merge_axes(regroup(replace(nest, a=operand, b=ONE)), layouts), layouts)
    if rows.batch or rows.columns != (column,) or rows.reduced != (k,):
        return None
    p = to_product(rows, layouts, False)
    if coded is not None:
        if p.a_offset is not ex.linear_index(p.rows, [x.extent for x in p.rows]) * (weights.at.extent * weights.block) + k:
            return None
        digits = replace(digits, count=1, bits=8)
        written = digits_of_codes(p, coded, weights, digits)
    else:
        if decline_in_place(rows, layouts) is not None or p.inner is not k or integer.coefficient(p.a_offset, k)[0] is not ONE:
            return None
        written = digits_of(p, rows.a, weights, digits, k)
    blocking = blocking_of(p, weights, digits, target)
    packed = pack(p, weights, digits, blocking.tile.columns, column, k)
    text = FewBitsText(p, weights, digits, packed.tensors, written.tensors, blocking, tile_rows(p, blocking.tile, digits, target), layouts)
    return [*packed.maps, *written.maps, text.call()]


# -------------------------------------------------------------------------------------------------------------- recognition
def weights_of(b: Expr, k: Expr) -> Weights | None:
    """An operand as codes less a zero point times a scale that whole blocks of `k` share, or None."""
    if b.op != "mul" or b.dtype is not dt.float32:
        return None
    for value, scale in (b.args, b.args[::-1]):
        block = block_of(scale, k)
        found = centred(value)
        if block is None or found is None:
            continue
        code, zero = found
        bits = bits_of(code)
        if bits is None or block % (4 * (8 // bits)):
            continue
        at = ex.axis(ex.ceildiv(k.extent, block), "g")
        scale_at = by_block(scale, k, block, at)
        zero_at = by_block(zero, k, block, at)
        if k in scale_at.axes or k in zero_at.axes:
            continue
        whole = int(zero_at.value) if zero_at.is_const and float(zero_at.value).is_integer() and abs(zero_at.value) <= 255 else None
        zero_at = zero_at if bits_of(zero_at) is not None else ex.cast(zero_at, dt.float32)
        return Weights(code, bits, block, at, scale_at, None if whole is not None else zero_at, 1 << bits - 1 if whole is None else whole)
    return None


@dataclass(frozen=True)
class CodedRows:
    """a[row, k] = codes * step, one for each block of `k`: loads of int8 and float32 elements, whose rows lie densely, filled up to whole blocks."""

    codes: Expr
    steps: Expr


def coded_rows(a: Expr, w: Weights, k: Expr, layouts: Layouts) -> CodedRows | None:
    """An operand as codes times steps of the weights' blocks, or None."""
    if a.op != "mul":
        return None
    for codes, steps in (a.args, a.args[::-1]):
        if codes.op != "cast" or codes.args[0].op != "load" or codes.args[0].dtype is not dt.int8 or steps.op != "load":
            continue
        in_row, row = integer.coefficient(flat_offset(codes.args[0], layouts), k)
        in_steps, row_of_steps = integer.coefficient(by_block(flat_offset(steps, layouts), k, w.block, w.at), w.at)
        if in_row is ONE and in_steps is ONE and row * w.at.extent is row_of_steps * (w.at.extent * w.block):
            return CodedRows(codes.args[0], steps)
    return None


def centred(value: Expr) -> tuple[Expr, Expr] | None:
    """(code, zero) of float32(code - zero) or float32(code) - zero."""
    if value.op == "cast" and value.args[0].dtype is dt.int32:
        inner = value.args[0]
        return (inner.args[0], inner.args[1]) if inner.op == "sub" else (inner, ex.const(0, dt.int32))
    if value.op == "sub" and value.args[0].op == "cast" and value.args[0].args[0].dtype is dt.int32:
        return value.args[0].args[0], value.args[1]
    return None


def bits_of(code: Expr) -> int | None:
    """2, 4 or 8 where a code surely fits as many bits."""
    if code.op == "bitand" and code.args[1].is_const:
        bits = int(code.args[1].value).bit_length()
        return bits if bits in (2, 4, 8) and code.args[1].value == (1 << bits) - 1 else None
    return 8 if code.op == "cast" and code.args[0].dtype is dt.uint8 else None


def block_of(scale: Expr, k: Expr) -> int | None:
    """The steps that share a scale: the least divisor of `k` in its indices, the whole of `k` where there is none."""
    divisors = [int(e.args[1].value) for e in ex.walk([scale]) if e.op == "floordiv" and e.args[0] is k and e.args[1].is_const]
    return min(divisors, default=None)


def by_block(e: Expr, k: Expr, block: int, at: Expr) -> Expr:
    """`e` with the number of a block for k // block."""
    def visit(x: Expr) -> Expr | None:
        if x.op == "floordiv" and x.args[0] is k and x.args[1].is_const and x.args[1].value % block == 0:
            return at // (x.args[1].value // block)
        return None
    return ex.transform([e], visit)[0]


# ------------------------------------------------------------------------------------------------------------------ operands
@dataclass(frozen=True)
class Made:
    """Tensors and the maps that write them."""

    maps: tuple[MapNest, ...]
    tensors: tuple[Tensor, ...]


def pack(p: Product, w: Weights, d: Digits, width: int, column: Expr, k: Expr) -> Made:
    """Codes as words [panel, block, group, column]: part i of the `fold` equal parts of a word holds, lowest bits first, the codes of steps i, i + fold, ... of its
    group; then scales, and zero points, as bytes or as scales times (middle - zero), as [panel, block, column]."""
    fold, steps = d.form.fold, 32 // w.bits
    columns, blocks = column.extent, w.at.extent
    panels = ex.ceildiv(columns, width)
    panel, block, group, lane = ex.axis(panels, "p"), ex.axis(blocks, "b"), ex.axis(w.block // steps, "q"), ex.axis(width, "l")
    shifted = columns.is_const and columns.value >= width
    at = ex.minimum(panel * width, columns - width) + lane if shifted else ex.minimum(panel * width + lane, columns - 1)
    word = ex.const(0, dt.uint32)
    for f in range(steps // fold):
        for part in range(fold):
            step = ex.minimum(block * w.block + group * steps + (fold * f + part), k.extent - 1)
            code = ex.cast(ex.substitute_one(w.code, {column: at, k: step}), dt.uint32)
            word = ex.binary("bitor", word, ex.binary("shl", code, ex.const(32 // fold * part + w.bits * f, dt.uint32)))
    name = p.stores[0].tensor.name
    words = Tensor(f"{name}.codes", dt.uint32, (panels, blocks, group.extent, ex.const(width)))
    maps = [MapNest((panel, block, group, lane), (Store(words, (panel, block, group, lane), word),), p.origin)]
    tensors = [words]
    place = {column: at, w.at: block}
    values = [("scales", ex.substitute_one(w.scale, place))]
    if w.zero is not None:
        taken = ex.cast(w.zero, dt.uint8) if w.zeros == dt.uint8.short else w.scale * (ex.const(float(w.middle), dt.float32) - w.zero)
        values.append(("zeros", ex.substitute_one(taken, place)))
    for what, value in values:
        tensor = Tensor(f"{name}.{what}", value.dtype, (panels, blocks, ex.const(width)))
        maps.append(MapNest((panel, block, lane), (Store(tensor, (panel, block, lane), value),), p.origin))
        tensors.append(tensor)
    return Made(tuple(maps), tuple(tensors))


def digits_of_codes(p: Product, coded: CodedRows, w: Weights, d: Digits) -> Made:
    """`digits_of` for rows that are one digit already."""
    count, blocks, name = extent_product(p.rows), w.at.extent, p.stores[0].tensor.name
    given, steps = ex.load_tensor(coded.codes), ex.load_tensor(coded.steps)
    row, block, part, at = ex.axis(count, "r"), ex.axis(blocks, "b"), ex.axis(w.block, "t"), ex.axis(blocks * w.block, "k")
    maps = []

    def element(t: Tensor, inner: Expr) -> Expr:
        return t[(*ex.unravel(row, t.shape[:-1]), inner)]
    digits = given
    if d.stored is not given.dtype:
        digits = Tensor(f"{name}.digits", d.stored, (count, at.extent))
        maps.append(MapNest((row, at), (Store(digits, (row, at), ex.cast(element(given, at), d.stored)),), p.origin))
    total = ex.reduce("sum", (part,), ex.cast(element(given, block * w.block + part), dt.int32))
    starts = Tensor(f"{name}.starts", dt.int32, (count, blocks))
    stores, tensors = [Store(starts, (row, block), total * ex.const(-w.middle, dt.int32))], [digits, starts, steps]
    if w.zero is not None:
        sums = Tensor(f"{name}.sums", dt.float32, (count, blocks))
        stores.append(Store(sums, (row, block), ex.cast(total, dt.float32) * element(steps, block)))
        tensors.append(sums)
    maps.append(MapNest((row, block), tuple(stores), p.origin))
    return Made(tuple(maps), tuple(tensors))


def digits_of(p: Product, a: Expr, w: Weights, d: Digits, k: Expr) -> Made:
    """The rows' digits [row, digit, step], zero past the last step; what their sums start from [row, block, digit]; steps [row, block]; the sums of rows [row, block]
    where zero points need them."""
    rows = tuple(ex.axis(x.extent, "r") for x in p.rows)
    row = ex.linear_index(rows, [x.extent for x in p.rows])
    count, blocks, name = extent_product(p.rows), w.at.extent, p.stores[0].tensor.name
    block, part = ex.axis(blocks, "b"), ex.axis(w.block, "t")
    padded = blocks * w.block

    def element(at: Expr) -> Expr:
        value = ex.substitute_one(a, {**dict(zip(p.rows, rows)), k: at})
        if k.extent is padded:
            return value
        value = ex.substitute_one(a, {**dict(zip(p.rows, rows)), k: ex.minimum(at, k.extent - 1)})
        return ex.where(at < k.extent, value, ex.const(0.0, dt.float32))
    largest = ex.reduce("max", (part,), ex.unary("abs", element(block * w.block + part)))
    steps = Tensor(f"{name}.steps", dt.float32, (count, blocks))
    inverse = Tensor(f"{name}.inverse", dt.float32, (count, blocks))
    none = ex.equal(largest, 0.0)
    maps = [MapNest((*rows, block), (Store(steps, (row, block), largest * (1.0 / d.largest)),
                                     Store(inverse, (row, block), ex.where(none, 0.0, ex.const(float(d.largest), dt.float32) / largest))), p.origin)]
    at = ex.axis(padded, "k")
    left = ex.cast(ex.unary("round", element(at) * inverse[row, at // w.block]), dt.int32)
    digits = Tensor(f"{name}.digits", d.stored, (count, ex.const(d.count), padded))
    stores, half = [], ex.const(d.base // 2, dt.int32)
    for n in range(d.count):
        digit = left if n == d.count - 1 else ex.binary("bitand", left + half, ex.const(d.base - 1, dt.int32)) - half
        stores.append(Store(digits, (row, ex.const(n), at), ex.cast(digit, d.stored)))
        left = ex.binary("shr", left - digit, ex.const(d.bits, dt.int32))
    maps.append(MapNest((*rows, at), tuple(stores), p.origin))
    sums = [ex.reduce("sum", (part,), ex.cast(digits[row, ex.const(n), block * w.block + part], dt.int32)) for n in range(d.count)]
    starts = Tensor(f"{name}.starts", dt.int32, (count, blocks, ex.const(d.count)))
    stores = [Store(starts, (row, block, ex.const(n)), s * ex.const(-w.middle, dt.int32)) for n, s in enumerate(sums)]
    tensors = [digits, starts, steps]
    if w.zero is not None:
        totals = Tensor(f"{name}.sums", dt.float32, (count, blocks))
        whole = ex.cast(sums[0], dt.float32)
        for n in range(1, d.count):
            whole = ex.cast(sums[n], dt.float32) * float(d.base**n) + whole
        stores.append(Store(totals, (row, block), whole * steps[row, block]))
        tensors.append(totals)
    maps.append(MapNest((*rows, block), tuple(stores), p.origin))
    return Made(tuple(maps), tuple(tensors))


def tile_rows(p: Product, tile: TileShape, d: Digits, target: Target) -> int:
    """Rows of a tile of codes, which share the codes' unpacking: as many as have room, 1 where only one by one was found to be fast."""
    if d.count > 1 and d.form is not VPMADDUBSW:
        return 1
    most, rows = max(1, min(TALLEST, ACCUMULATORS * target.vector_registers // FEWEST_REGISTERS // (tile.vectors * d.count))), integer.as_int(extent_product(p.rows))
    return most if not rows else -(-rows // -(-rows // most))


def blocking_of(p: Product, w: Weights, d: Digits, target: Target) -> Blocking:
    """Units of some panels, enough for every core."""
    rows, columns = integer.as_int(extent_product(p.rows)), integer.as_int(p.columns[0].extent)
    assert columns is not None
    tile = tile_for(target)
    height = HEIGHT if rows is None else -(-min(rows, HEIGHT) // tile.rows) * tile.rows
    panels = -(-columns // tile.columns)
    wanted = 2 * target.cores if target.cores > 1 else 1
    abreast = max(1, min(ABREAST, ACCUMULATORS // (tile.vectors * d.count))) if d.form is VPMADDUBSW and (rows is None or rows == 1) else 1
    return Blocking(tile, columns >= tile.columns, height, -(-panels // min(panels, wanted)), max(w.block, CHUNK // w.block * w.block), abreast)


# ------------------------------------------------------------------------------------------------------------------ emission
class FewBitsText(ProductText):
    """Writes the kernel and its call.

    Args:
        weights: what `b` is.
        form: how the rows are written.
        packed: codes, scales, and offsets where zero points differ.
        digits: digits, starts, steps, and sums.
        tall: rows of a tile of codes.
    """

    def __init__(self, p: Product, weights: Weights, form: Digits, packed: tuple[Tensor, ...], digits: tuple[Tensor, ...], blocking: Blocking, tall: int,
                 layouts: Layouts) -> None:
        super().__init__(p, packed[0], blocking, layouts)
        self.weights, self.form, self.tall = weights, form, tall
        self.scales, *self.zeros = [self.writer.buffer(t) for t in packed[1:]]
        self.digits, self.starts, self.sizes, *self.sums = [self.writer.buffer(t) for t in digits]

    @property
    def by_row(self) -> bool:
        return False

    @property
    def many(self) -> bool:
        """Whether there may be so many rows that they are multiplied in float32."""
        rows = integer.as_int(self.rows)
        return self.form.count > 1 and (rows is None or rows > FEW)

    @property
    def abreast_rows(self) -> int:
        return 1

    def declare(self) -> None:
        w, d, tile = self.weights, self.form, self.blocking.tile
        shapes = {"row_of_codes": (1, 1), "rows_of_codes": (self.tall, 1), "codes_abreast": (1, self.blocking.abreast)}
        for name, shape in shapes.items():
            if name == "row_of_codes" or shape != (1, 1):
                self.writer.function(name, "rows_of_codes", *shape, tile.vectors, tile.lanes, w.bits, w.block, d.form.name, d.count, d.bits, w.middle, w.zeros)
        if self.many:
            self.writer.function("register_tile", "register_tile", tile.rows, tile.vectors, tile.lanes, self.p.dtype.short, self.unit_step)
            self.writer.function("unpack_codes", "unpack_codes", tile.vectors, tile.lanes, w.bits, w.block, d.form.fold, w.middle, w.zeros)

    def prologue(self) -> None:
        super().prologue()
        if self.many:
            self.view("unpacked", self.blocking.chunk * self.blocking.tile.columns, self.number)

    def panels_abreast(self, unit: Scope) -> None:
        """Whole groups of panels, side by side, where there are too few rows for a tile; `start` is the first panel that is left."""
        abreast, width = self.blocking.abreast, self.blocking.tile.columns
        few = Scope(unit, conditional=True)
        group = Scope(few)
        self.panel_operands(group)
        row = Scope(group)
        row.lines.append(self.tile_call("codes_abreast", "i"))
        panel = Scope(row)
        self.panel_columns(panel, "(panel + beside)")
        panel.lines.append(f"at = beside * {width}")
        self.store_row(panel)
        panel.close(f"for beside in range({abreast}):")
        row.close("for i in range(count):")
        group.close(f"for panel in range(start, stop - {abreast - 1}, {abreast}):")
        few.lines.append(f"start += (stop - start) // {abreast} * {abreast}")
        few.close(f"if count < {max(2, self.tall)}:")

    def panel_operands(self, panel: Scope) -> None:
        """Where the codes, scales and zero points of a panel are."""
        w, width, blocks = self.weights, self.blocking.tile.columns, self.n_blocks
        panel.lines += [f"codes = advanced({self.b}, panel * {blocks} * {self.block_words})", f"scales = advanced({self.scales}, panel * {blocks} * {width})",
                        f"zeros = advanced({self.zeros[0]}, panel * {blocks} * {width})" if w.zeros else "zeros = scales"]

    @property
    def n_blocks(self) -> str:
        return self.parameter(self.weights.at.extent, "blocks of steps")

    @property
    def block_words(self) -> int:
        """Words of the codes of a block of a panel."""
        return self.weights.block * self.weights.bits // 32 * self.blocking.tile.columns

    def panel(self, panel: Scope) -> None:
        self.panel_columns(panel, "panel")
        self.panel_operands(panel)
        few = Scope(panel, conditional=True)
        self.few_rows(few)
        if not self.many:
            panel.lines += few.lines
            return
        few.close(f"if count <= {FEW}:")
        many = Scope(panel, conditional=True)
        self.many_rows(many)
        many.close("else:")

    def few_rows(self, few: Scope) -> None:
        """Tiles of codes, the last of which starts early; rows one by one where there are too few for one."""
        width, tall = self.blocking.tile.columns, self.tall
        single = Scope(few, conditional=tall > 1)
        row = Scope(single)
        row.lines += [self.tile_call("row_of_codes", "i"), "at = 0"]
        self.store_row(row)
        row.close("for i in range(count):")
        if tall == 1:
            few.lines += single.lines
            return
        single.close(f"if count < {tall}:")
        several = Scope(few, conditional=True)
        tile = Scope(several)
        tile.lines += [f"top = min(done, count - {tall})", self.tile_call("rows_of_codes", "top")]
        row = Scope(tile)
        row.lines.append(f"at = (i - top) * {width}")
        self.store_row(row)
        row.close(f"for i in range(done, top + {tall}):")
        tile.close(f"for done in range(0, count, {tall}):")
        several.close("else:")

    def tile_call(self, name: str, row: str) -> str:
        """The sums of some rows of a unit, from `row` on, by the panel."""
        depth, count, blocks = self.parameter(self.weights.at.extent * self.weights.block, "steps in whole blocks"), self.form.count, self.n_blocks
        at = f"(first_row + {row})"
        sums = f"advanced({self.sums[0]}, {at} * {blocks})" if self.sums else "scales"
        return (f"{name}(advanced({self.digits}, {at} * {count} * {depth}), advanced({self.starts}, {at} * {blocks} * {count}), "
                f"advanced({self.sizes}, {at} * {blocks}), {sums}, codes, scales, zeros, {blocks}, acc)")

    def many_rows(self, many: Scope) -> None:
        w, width, words = self.weights, self.blocking.tile.columns, self.block_words
        total, chunk = self.parameter(self.steps, "steps"), self.parameter(self.blocking.chunk, "chunk")
        walk = Scope(many)
        walk.lines += [f"length = min({chunk}, {total} - k)", f"g = k // {w.block}",
                       f"unpack_codes(advanced(codes, g * {words}), advanced(scales, g * {width}), advanced(zeros, g * {width}), "
                       f"(length + {w.block - 1}) // {w.block}, unpacked)"]
        block = Scope(walk)
        acc_at = f"block * {self.blocking.tile.rows * width}"
        block.lines.append(f"register_tile(advanced(row_at, block * {self.blocking.tile.rows}), 1, k * {self.size_bytes}, {self.size_bytes}, length, unpacked, {width}, "
                           f"advanced(acc, {acc_at}), {width}, k == 0, base, 0)")
        last = Scope(block, conditional=True)
        self.stores(last, acc_at)
        last.close(f"if k + length == {total}:")
        block.close("for block in range(blocks):")
        walk.close(f"for k in range(0, {total}, {chunk}):")
