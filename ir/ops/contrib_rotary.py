"""com.microsoft: rotary embedding by several streams of positions."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from .attention import rotated
from .base import REQUIRED, Lowering, Op, Sample, register
from .contrib_attention import MultiHeadAttention, element_of, table

DOMAIN = "com.microsoft"


@register
class MRotaryEmbedding(Op):
    """Rotary embedding whose pairs turn by the position in time, height or width, in three runs or by turns. Source: com.microsoft MRotaryEmbedding-1; Wang et al. 2024 (M-RoPE).

    positions: [3, batch, sequence]; mrope_section: the number of pairs of each stream. As in ONNX Runtime, the attribute scale has no effect.
    """

    domain, name, versions = DOMAIN, "MRotaryEmbedding", (1,)
    attributes = {"mrope_section": REQUIRED, "mrope_layout": 0, "interleaved": 0, "num_heads": 0, "rotary_embedding_dim": 0}

    def lower(self, n: Lowering) -> Tensor:
        x, positions, cosines, sines = n.input(0), n.input(1), n.input(2), n.input(3)
        sections = [int(s) for s in n.attr("mrope_section")]
        if len(sections) != 3 or min(sections) < 0:
            raise n.error(f"mrope_section is {sections}, three numbers of pairs were expected")
        if positions.rank != 3:
            raise n.error(f"positions of rank {positions.rank} were given, [3, batch, sequence] was expected")
        n.require(ex.equal(cosines.shape[1], sum(sections)), f"mrope_section {sections} does not add up to the {cosines.shape[1].text} pairs of the tables")
        heads, given = int(n.attr("num_heads")), int(n.attr("rotary_embedding_dim"))
        if not heads and x.rank == 3:
            raise n.error("num_heads is missing, which an input of rank 3 needs")
        width = x.shape[3] if x.rank == 4 else x.shape[2] // heads
        element = element_of(x) if x.rank == 4 else MultiHeadAttention.by_width(x, width)
        size = ex.const(given) if given else width

        def turned_by(t: Tensor) -> Callable[[Expr, Expr, Expr], Expr]:
            def at(b: Expr, s: Expr, pair: Expr) -> Expr:
                stream = self.stream(pair, sections, bool(n.attr("mrope_layout")))
                return table(t, lambda b, s: ex.cast(positions[stream, b, s], dt.int64), x.dtype)(b, s, pair)
            return at
        turn = rotated(element, turned_by(cosines), turned_by(sines), size, size is width, bool(n.attr("interleaved")))
        if x.rank == 4:
            return n.map(x.shape, turn, x.dtype)
        return n.map(x.shape, lambda b, s, j: turn(b, j // width, s, j % width), x.dtype)

    @staticmethod
    def stream(pair: Expr, sections: list[int], by_turns: bool) -> Expr:
        """Which of the three positions a pair turns by."""
        if by_turns:
            def takes(k: int) -> Expr:
                return ex.logical_and(ex.equal(pair % 3, k), pair < 3 * sections[k])
            return ex.where(takes(1), 1, ex.where(takes(2), ex.const(2), 0))
        return ex.where(pair < sections[0], 0, ex.where(pair < sections[0] + sections[1], ex.const(1), 2))

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)
        x, places, tables = rng.standard_normal((2, 4, 24)).astype(np.float32), rng.integers(0, 50, (3, 2, 4)), rng.standard_normal((2, 50, 4)).astype(np.float32)
        yield Sample((x, places, tables[0], tables[1]), {"mrope_section": (2, 1, 1), "num_heads": 3})
        yield Sample((x, places, tables[0], tables[1]), {"mrope_section": (2, 1, 1), "mrope_layout": 1, "interleaved": 1, "num_heads": 3})
        yield Sample((x.reshape(2, 4, 3, 8).transpose(0, 2, 1, 3).copy(), places, tables[0][:, :2], tables[1][:, :2]),
                     {"mrope_section": (1, 0, 1), "rotary_embedding_dim": 4, "num_heads": 3})
