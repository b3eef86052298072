"""com.microsoft: attention of one new token over a cache."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..graph import Value
from .base import REQUIRED, Builder, Op, Sample, register
from .elementwise import real_sample

DOMAIN = "com.microsoft"


@register
class DecoderMaskedMultiHeadAttention(Op):
    """MultiHeadAttention of one new token: over its cache, whose old keys may come from other beams, or over keys of another sequence.

    Source: com.microsoft DecoderMaskedMultiHeadAttention-1.
    """

    domain, name, versions = DOMAIN, "DecoderMaskedMultiHeadAttention", (1,)
    attributes = {"num_heads": REQUIRED, "past_present_share_buffer": 0, "mask_filter_value": -10000.0, "output_qk": 0}
    tolerance = 1e-4

    def decompose(self, b: Builder) -> list[Value | None]:
        q, k, v, mask, bias, past_key, past_value, before, _, table, offsets = (b.inputs[i] if i < len(b.inputs) else None for i in range(11))
        if k is None or v is None:
            raise b.unsupported("a packed query of DecoderMaskedMultiHeadAttention")
        if past_key is not None and (not b.attr("past_present_share_buffer") or before is None):
            raise b.unsupported("a cache of DecoderMaskedMultiHeadAttention that its results do not share (past_present_share_buffer 0, or no past_sequence_length)")
        if past_key is None and bias is not None:
            raise b.unsupported("attention_bias of DecoderMaskedMultiHeadAttention over keys of another sequence")
        kept = {name: b.node.attributes[name] for name in ("mask_filter_value", "scale") if name in b.node.attributes}
        cache = (past_key, past_value, before, table) if past_key is not None else ()
        found = b.add("MultiHeadAttention", q, k, v, offsets, mask, bias, *cache, outputs=4, domain=DOMAIN, num_heads=b.attr("num_heads"), **kept)
        return list(found[:3]) + [found[3] if b.attr("output_qk") else None]

    def samples(self) -> Iterator[Sample]:
        q, k, v, past = real_sample((4, 1, 6)), real_sample((4, 1, 6), -1, 1), real_sample((4, 1, 6), -2, 1), real_sample((4, 2, 5, 3), -1, 1)
        table = np.array([[[0, 1, 1, 0, 0], [1, 0, 1, 0, 0]], [[0, 0, 1, 0, 0], [1, 1, 0, 0, 0]]], np.int32)
        shared = {"num_heads": 2, "past_present_share_buffer": 1}
        yield Sample((q, k, v, None, None, past, past * 2, np.array([3], np.int32)), shared, outputs=3)
        yield Sample((q, k, v, None, None, past, past * 2, np.array([3], np.int32), np.array([2], np.int32), table), shared, outputs=3, name="beams")
        yield Sample((q, past, past * 2, np.array([[1, 1, 0, 1, 1]] * 4, np.int32)), {"num_heads": 2}, name="other sequence")
