"""Cases of com.microsoft's operators on runs of tokens."""
from __future__ import annotations

from collections.abc import Iterator

from contrib_cases import Case, Draw, cases


@cases("com.microsoft", "NGramRepeatBlock")
def ngram_repeat_block(r: Draw) -> Iterator[Case]:
    for k in range(30):
        batch, length, vocabulary = r.size(1, 4), r.size(1, 12), r.size(2, 9)
        yield Case([r.ints(0, min(vocabulary, 3) if k % 2 else vocabulary, batch, length), r.real(batch, vocabulary)], {"ngram_size": 1 + k % 4})
