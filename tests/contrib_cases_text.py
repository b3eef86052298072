"""Cases of com.microsoft's operators on words."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

MS = "com.microsoft"
WORDS = ("Hello World", "I love  computer science !", "", "  a b", "héé é\tä", "a,b;;c", "one", "日本 語")


@cases(MS, "Tokenizer")
def tokenizer(r: Draw) -> Iterator[Case]:
    ways = ({"separators": [" "]}, {"separators": [""]}, {"tokenexp": "[a-z]+"}, {"tokenexp": "."}, {"separators": [" ", "o"]}, {"separators": ["[,;]+", "\\s+"]}, {"tokenexp": "\\S+"})
    for k in range(35):
        shape = ([r.size(1, 5)], [r.size(1, 3), r.size(1, 3)], [0], [2, 0])[k % 4 if k % 7 == 3 else k % 2]
        strings = np.vectorize(lambda j: WORDS[j], otypes=[object])(r.ints(0, len(WORDS), *shape)) if 0 not in shape else np.zeros(shape, object)
        way = ways[k % 7]
        single = way in (ways[1], ways[3])
        yield Case([strings], {**way, "mark": r.flag(), "mincharnum": 1 if single else r.size(1, 3), "pad_value": "#"}, dynamic=False if 0 in shape else None)


@cases(MS, "WordConvEmbedding", ulps=64)
def word_conv(r: Draw) -> Iterator[Case]:
    for k in range(24):
        count, window, filters, features = r.size(3, 8), r.size(1, 3), r.size(1, 6), r.size(1, 5)
        words = r.ints(1 if k % 3 else 0, 9, 0 if k == 7 else r.size(1, 6), count, dtype=np.int32)
        for row in words:
            row[r.size(1, count):] = 0
        words[:, 0] = np.maximum(words[:, 0], 1)  # ONNX Runtime leaves the result of an empty word as it was
        sizes = {"embedding_size": filters, "conv_window_size": window, "char_embedding_size": features} if k % 2 else {}
        yield Case([words, r.real(filters, 1, window, features), r.real(filters), r.real(9, features)], sizes)
