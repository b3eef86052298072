"""Attention as one kernel: scores, softmax and mixing of a block of queries, one after another while the scores are in the cache.

Three nests that stand in a row are scheduled together:

    scores[batch, query, key] = epilogue(sum of q * k)        contraction
    weights[batch, query, key] = softmax over the keys        map
    result = epilogue(sum over keys of weights * v)           contraction

A unit of work is some queries of one batch:

    for each panel of keys, for each block of queries: register tile, which writes its part of the rows of scores in scratch memory
    for each query: epilogue and exponentials in place, and one over their sum
    for each panel of columns of v, for each block of queries: register tile over the rows; stores, scaled by one over the sum

Scores never go to memory, whatever their number; rows stay whole, so that every sum has the order that its length alone gives.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.expr import Expr, Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import ContractionNest, MapNest, NestProgram, Store
from ..ir.target import Target
from .blocking import ADDRESS_REGISTERS, FEW, MODERATE, ROWS_OF_UNIT, Blocking, reads_b_in_place, sizes_text
from .contraction import (
    Layouts,
    Product,
    blend_choices,
    decline_in_place,
    extent_product,
    is_regular,
    packed_tensor,
    regroup,
    rewrite,
    split_axes,
    to_product,
)
from .contraction_text import kernel_source, unravel
from .gemm import ProductText, packing
from .scalar import Scope
from .tile_shapes import TileShape, tile_shapes

CACHE_SHARE = 2  # the scores of a unit fill at most 1/CACHE_SHARE of the second-level cache
UNKNOWN_ROWS = 64  # queries of a unit where only the run knows how many there are


@dataclass(frozen=True, eq=False)
class Attention:
    """Three nests to be scheduled as one.

    Args:
        scores, softmax, mix: the nests.
        masked: whether a row without any finite score weighs nothing (else it is NaN).
    """

    scores: ContractionNest
    softmax: MapNest
    mix: ContractionNest
    logits: Expr
    key: Expr
    masked: bool


# --------------------------------------------------------------------------------------------------------------------- recognition
def find(program: NestProgram) -> list[Attention]:
    """The attentions of a program whose scores and weights nobody else reads."""
    producers, consumers = program.producers(), program.consumers()
    kept = set(program.outputs)
    found = []
    for nest in program.nests:
        if not isinstance(nest, MapNest) or len(nest.stores) != 1 or nest.stores[0].tensor in kept:
            continue
        matched = match_softmax(nest)
        if matched is None:
            continue
        logits, key, masked = matched
        raw = [e for e in ex.loads([logits]) if isinstance(producers.get(ex.load_tensor(e)), ContractionNest) and e.args == nest.stores[0].index]
        users = consumers.get(nest.stores[0].tensor, [])
        if len(raw) != 1 or len(users) != 1 or not isinstance(users[0], ContractionNest):
            continue
        tensor = ex.load_tensor(raw[0])
        scores, mix = producers[tensor], users[0]
        assert isinstance(scores, ContractionNest)
        if tensor in kept or len(scores.stores) != 1 or consumers.get(tensor) != [nest] or ex.load_fill(raw[0]) is not None or nest.stores[0].index != nest.axes:
            continue
        weights = nest.stores[0].tensor
        if mix.a.op == "load" and ex.load_tensor(mix.a) is weights and ex.load_fill(mix.a) is None and weights not in [ex.load_tensor(e) for e in ex.loads([mix.b])]:
            found.append(Attention(scores, nest, mix, logits, key, masked))
    return found


def match_softmax(nest: MapNest) -> tuple[Expr, Expr, bool] | None:
    """(logits, key axis, masked) of a map that stores e^(logits - largest) * (1 / sum over the keys), as `ir.ops` writes softmax."""
    value = nest.stores[0].value
    if value.op != "mul" or value.dtype is not dt.float32 or nest.stores[0].tensor.dtype is not dt.float32:
        return None
    for e, inverse in (value.args, value.args[::-1]):
        if inverse.op != "div" or not inverse.args[0].is_const or inverse.args[0].value != 1:
            continue
        total, masked = inverse.args[1], False
        if total.op == "where":
            masked, total = True, total.args[2]
        shifted = decayed(e)
        if shifted is None or shifted.op != "sub" or total.op != "reduce" or ex.reduce_kind(total) != "sum":
            continue
        logits, largest = shifted.args
        if masked:
            largest = largest.args[2] if largest.op == "where" else largest
        if largest.op != "reduce" or ex.reduce_kind(largest) != "max":
            continue
        summed, compared, key = ex.reduce_axes(total), ex.reduce_axes(largest), nest.axes[-1] if nest.axes else None
        if key is None or len(summed) != 1 or len(compared) != 1:
            continue
        if ex.substitute_one(largest.args[0], {compared[0]: key}) is logits and ex.substitute_one(total.args[0], {summed[0]: key}) is e:
            return logits, key, masked
    return None


def decayed(e: Expr) -> Expr | None:
    """x, if e is `ir.expr.decay(x)`."""
    if e.op != "where" or e.args[2].op != "exp" or e.args[2].args[0].op != "where":
        return None
    x = e.args[2].args[0].args[2]
    return x if ex.decay(x) is e else None


# ------------------------------------------------------------------------------------------------------------------------ schedule
def schedule(found: Attention, layouts: Layouts, constants: Collection[Tensor], target: Target) -> list[MapNest | KernelCall] | None:
    """Packing of keys and values as needed, then the kernel; None where the nests do not fit it."""
    aligned = align(found)
    if aligned is None:
        return None
    scores, mix = aligned
    if scores.dtype is not dt.float32 or mix.dtype is not dt.float32 or decline_in_place(scores, layouts) is not None or ex.load_fill(scores.a) is not None:
        return None
    halves = []
    for nest in (scores, mix):
        if len(nest.rows) != 1 or len(nest.columns) != 1 or len(nest.reduced) != 1:
            return None
        in_place = any(ex.load_tensor(e) not in constants for e in ex.loads([nest.b])) and is_regular(nest.b, nest, layouts)
        halves.append(to_product(nest, layouts, in_place))
    first, second = halves
    queries, keys, width = integer.as_int(first.rows[0].extent), integer.as_int(first.columns[0].extent), integer.as_int(second.columns[0].extent)
    if (queries is not None and queries <= FEW) or width is None or width < target.lanes(4) or (keys is not None and keys < target.lanes(4)):
        return None
    product = f"attention {sizes_text((queries, keys, width))}"
    height = unit_height(queries, keys, target)
    heights = (height, -(-height // 2), 2 * height if queries is None else min(2 * height, queries))
    wanted = target.choice("attention", product)
    height = heights[wanted] if wanted < len(heights) else height
    directs = [reads_b_in_place(p, target) for p in (first, second)]
    tiles = [choose_tile(target, None if queries is None else height, n, d) for n, d in zip((keys, width), directs)]
    height = -(-height // tiles[0].rows) * tiles[0].rows
    cuts = [Blocking(t, d or (n is not None and n >= t.columns), height, 1 << 20, None) for t, d, n in zip(tiles, directs, (keys, width))]
    packed = [None if d else packed_tensor(p, c.tile.columns) for p, c, d in zip((first, second), cuts, directs)]
    before = [packing(p, t, c) for p, t, c in zip((first, second), packed, cuts) if t is not None]
    return [*before, replace(AttentionText(first, second, cuts, packed, found.masked, layouts, target).call(), product=product)]


def align(found: Attention) -> tuple[ContractionNest, ContractionNest] | None:
    """Scores (with the logits as what they store) and mix over the same axes; None where their positions do not correspond one to one."""
    softmax, store = found.softmax, found.scores.stores[0]
    at = dict(zip(softmax.axes, store.index))
    logits = ex.substitute_one(found.logits, at)
    raw = ex.load(store.tensor, store.index)
    scores = replace(found.scores, stores=(Store(store.tensor, store.index, ex.substitute_one(logits, {raw: store.value})),))
    scores, mix = (regroup(split_axes(blend_choices(n))) for n in (scores, found.mix))
    mapping: dict[Expr, Expr] = {}
    for here, there in zip(scores.stores[0].index, mix.a.args, strict=True):
        if here.op == "axis" and there.op == "axis" and here.extent is there.extent:
            mapping[there] = here
        elif not (here.is_const and there.is_const):
            return None
    mix = rewrite(replace(mix, batch=renamed(mix.batch, mapping), rows=renamed(mix.rows, mapping), reduced=renamed(mix.reduced, mapping)), mapping)
    if set(mix.batch) != set(scores.batch) or set(mix.rows) != set(scores.rows) or mix.reduced != scores.columns:
        return None
    return scores, replace(mix, batch=scores.batch, rows=scores.rows)


def renamed(axes: Iterable[Expr], mapping: Mapping[Expr, Expr]) -> tuple[Expr, ...]:
    return tuple(mapping.get(x, x) for x in axes)


def unit_height(queries: int | None, keys: int | None, target: Target) -> int:
    """Queries of a unit: their scores stay in the second-level cache, and all units are about equally high."""
    most = UNKNOWN_ROWS if queries is None else ROWS_OF_UNIT
    if keys is not None:
        most = min(most, max(MODERATE, target.l2_bytes // CACHE_SHARE // (4 * keys)))
    return most if queries is None else -(-queries // -(-queries // most))


def choose_tile(target: Target, rows: int | None, columns: int | None, direct: bool) -> TileShape:
    """The tile that takes the fewest cycles for products of this size."""
    fitting = [s for s in tile_shapes(target, dt.float32) if s.rows > FEW and (rows is not None or s.rows <= MODERATE)]
    usable = [s for s in fitting if not direct or columns is None or s.columns <= columns] or [TileShape(s.rows, 1, s.lanes) for s in fitting]

    def cycles(s: TileShape) -> float:
        step = (max(s.rows * s.vectors, s.vectors + s.rows / 2) + 0.7) * (1 + 0.025 * max(0, s.rows - ADDRESS_REGISTERS))
        return -(-(rows or ROWS_OF_UNIT) // s.rows) * (1 / s.columns if columns is None else -(-columns // s.columns)) * step
    return min(usable, key=cycles)


# ------------------------------------------------------------------------------------------------------------------------ emission
class ScoresText(ProductText):
    """The half whose sums lie in scratch memory, whole rows of them."""

    def finish_row(self, row: Scope, n_keys: str) -> None:
        """The epilogue of the scores that start at `line`."""
        p = self.p
        if self.values[0] is ex.acc(p.dtype):
            return
        key = Scope(row, {p.columns[0]: "c"})
        key.names[ex.acc(p.dtype)] = "scores[line + c]"
        key.lines.append(f"scores[line + c] = {self.emitter.value(self.values[0], key)}")
        key.close(f"for c in range({n_keys}):")


class MixText(ProductText):
    """The half that reads weights from scratch memory."""

    reads_a = False

    def element(self, scope: Scope, acc: str) -> None:
        super().element(scope, f"({acc} * scale)")


class AttentionText:
    """Writes the kernel and its call: both halves into one text."""

    def __init__(self, first: Product, second: Product, cuts: Sequence[Blocking], packed: Sequence[Tensor | None], masked: bool, layouts: Layouts, target: Target) -> None:
        self.first = ScoresText(first, packed[0], cuts[0], layouts)
        self.second = MixText(second, packed[1], cuts[1], layouts, beside=self.first)
        self.masked, self.lanes = masked, target.lanes(4)
        self.height = cuts[0].height

    def call(self) -> KernelCall:
        first, second, p = self.first, self.second, self.first.p
        writer, root, height = first.writer, first.root, self.height
        keys = p.columns[0].extent
        line = ex.ceildiv(keys, self.lanes) * self.lanes
        if not first.blocking.shifted:
            line = ex.ceildiv(keys, first.blocking.tile.columns) * first.blocking.tile.columns
        for name, half in (("score_tile", first), ("mix_tile", second)):
            t = half.blocking.tile
            writer.function(name, "register_tile", t.rows, t.vectors, t.lanes, p.dtype.short, half is second or half.unit_step)
        writer.function("weigh", "weigh_row", self.lanes, self.masked)
        for name in ("advanced", "address"):
            writer.function(name, name)
        tiles = [h.blocking.tile for h in (first, second)]
        tall = height + max(t.rows for t in tiles)
        first.view("acc", tiles[1].rows * tiles[1].columns, first.number)
        first.view("row_at", tall, "int64")
        first.view("scales", height, first.number)
        first.view("scores", line * (-(-height // tiles[0].rows) * tiles[0].rows), first.number)
        root.lines.append(f"base = address({first.a})")
        groups = ex.ceildiv(first.rows, height)
        n_groups, n_height, n_rows = first.parameter(groups, "groups"), first.parameter(height, "height"), first.parameter(first.rows, "rows")
        n_line, n_keys = first.parameter(line, "line"), first.parameter(keys, "keys")
        unit = Scope(root)
        unit.lines.append(f"first_row = unit % {n_groups} * {n_height}")
        if p.batch:
            unit.lines.append(f"batch = unit // {n_groups}")
            unravel(writer, unit, "batch", p.batch, "g")
        unit.lines.append(f"count = min({n_height}, {n_rows} - first_row)")
        self.start_rows(unit, n_rows)
        self.half(unit, first, "score_tile", f"advanced(scores, block * {tiles[0].rows} * {n_line} + first_column), {n_line}")
        row = Scope(unit, {p.rows[0]: "r0"})
        row.lines += ["r0 = first_row + i", f"line = i * {n_line}"]
        first.finish_row(row, n_keys)
        row.lines.append(f"scales[i] = weigh(advanced(scores, line), {n_keys})")
        row.close("for i in range(count):")
        unit.lines += [f"for i in range(count + {tiles[1].rows - 1}):", f"    row_at[i] = address(scores) + min(i, count - 1) * {n_line} * {first.size_bytes}"]
        self.half(unit, second, "mix_tile", f"acc, {tiles[1].columns}")
        unit.close("for unit in range(lo, hi):")
        batches = extent_product(p.batch)
        flops = 2 * batches * first.rows * keys * (first.steps + second.columns)
        moved = (p.a.numel() + first.packed.numel() + second.packed.numel() + batches * first.rows * second.columns) * first.size_bytes
        name = f"attention_{tiles[0].rows}x{tiles[0].columns}_{tiles[1].rows}x{tiles[1].columns}_{p.dtype.short}"
        source = kernel_source(name, writer, root)
        return KernelCall(source, tuple(writer.buffers), tuple(writer.parameters), batches * groups, first.scratch_bytes, second.p.origin, flops, moved)

    def start_rows(self, unit: Scope, n_rows: str) -> None:
        """Where each query starts; those past the last repeat it."""
        first, p = self.first, self.first.p
        row = Scope(unit, {p.rows[0]: "r0"})
        row.lines.append(f"r0 = min(first_row + i, {n_rows} - 1)")
        start = integer.coefficient(p.a_offset, p.reduced[0])[1]
        row.lines.append(f"row_at[i] = base + {first.emitter.value(start, row)} * {first.size_bytes}")
        row.close(f"for i in range(count + {first.blocking.tile.rows - 1}):")

    def half(self, unit: Scope, half: ProductText, tile_name: str, sums: str) -> None:
        """All panels of columns of a product, block by block of the unit's rows; `sums` are where a tile writes and the step between its rows."""
        tile, p = half.blocking.tile, half.p
        panel = Scope(unit)
        b_step = half.panel_start(panel)
        step = half.emitter.value(integer.coefficient(p.a_offset, p.reduced[0])[0] * half.size_bytes, half.root) if half is self.first else str(half.size_bytes)
        steps = half.parameter(half.steps, "steps")
        panels, line = half.parameter(ex.ceildiv(half.columns, tile.columns), "panels"), tile.columns * half.size_bytes
        panel.lines += [f"blocks = (count + {tile.rows - 1}) // {tile.rows}", f"more = panel + 1 < {panels}"]
        if half.direct:  # the next panel lies beside this one: the first block of rows fetches it line by line
            panel.lines.append(f"ahead = address(columns) + ({line} if more else 0)")
            fetch = f"ahead, {b_step} * {half.size_bytes} if more & (block == 0) else 0"
        else:  # it lies behind this one: each block fetches a part
            panel.lines += [f"share = ({line} + blocks - 1) // blocks if more else 0", f"rest = {line} - share",
                            f"ahead = address(columns) + ({steps} * {line} if more else 0)"]
            fetch = f"ahead + min(block * share, rest) * {steps}, share"
        block = Scope(panel)
        block.lines.append(f"{tile_name}(advanced(row_at, block * {tile.rows}), 1, 0, {step}, {steps}, columns, {b_step}, {sums}, True, {fetch})")
        if half is self.second:
            row = Scope(block)
            row.lines += [f"at = (i - block * {tile.rows}) * {tile.columns}", "r0 = first_row + i", "scale = scales[i]"]
            row.axes[p.rows[0]] = "r0"
            half.store_columns(row, half.width)
            row.close(f"for i in range(block * {tile.rows}, min(count, block * {tile.rows} + {tile.rows})):")
        block.close("for block in range(blocks):")
        panel.close(f"for panel in range({panels}):")


__all__ = ["Attention", "find", "schedule"]
