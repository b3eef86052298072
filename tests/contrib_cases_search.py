"""Cases of the search operators of com.microsoft, around small random models."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases
from search_models import T5, gpt

MS = "com.microsoft"


def one(value: float, dtype: object = np.int32, rank: int = 1) -> np.ndarray:
    return np.full((1,) * rank, value, dtype)


def allowed(r: Draw, *shape: int) -> np.ndarray:
    """A mask that leaves at least half of the tokens."""
    mask = np.ones(shape, np.int32)
    mask[..., r.rng.permutation(shape[-1])[:shape[-1] // 2]] = 0
    return mask


def prompts(r: Draw, batch: int, length: int, vocabulary: int, pad: int) -> np.ndarray:
    """Tokens, some rows with padding on the left."""
    ids = r.ints(0, vocabulary, batch, length, dtype=np.int32)
    for row in range(1, batch):
        ids[row, :r.size(0, length - 1)] = pad
    return ids


def beam_inputs(r: Draw, k: int, ids: np.ndarray, vocabulary: int, begin: int) -> tuple[list[np.ndarray | None], list[int]]:
    """The inputs of BeamSearch and which are initialisers."""
    beams, longest = r.size(1, min(4, vocabulary // 2)), begin + r.size(3, 9)
    least = longest - 1 if k % 6 == 5 else r.size(0, longest - 1)  # what ONNX Runtime gives as scores of steps that were not needed is left to chance
    inputs: list[np.ndarray | None] = [ids, one(longest), one(least), one(beams), one(r.size(1, beams)), one(r.pick(0.5, 1.0, 2.0, -1.0, 0.0), np.float32),
                                       one(r.pick(1.0, 1.4, 0.7), np.float32) if k % 3 != 1 else None, allowed(r, vocabulary) if k % 5 == 2 else None,
                                       allowed(r, len(ids), vocabulary) if k % 5 == 3 else None]
    fixed = [1, 3, 4] if k % 3 == 0 else [2] if k % 3 == 1 else []
    return inputs, fixed


@cases(MS, "BeamSearch", ulps=64)
def beam_search(r: Draw) -> Iterator[Case]:
    for k in range(32):
        vocabulary, batch, length = r.size(6, 24), r.size(1, 3), r.size(1, 5)
        pad, end = 0, r.size(0, vocabulary - 1)
        ids = prompts(r, batch, length, vocabulary, pad)
        answering = k % 2 == 1
        inputs, fixed = beam_inputs(r, k, ids, vocabulary, 1 if answering else length)
        attributes: dict[str, object] = {"eos_token_id": end, "pad_token_id": pad, "early_stopping": int(k % 3 == 0), "no_repeat_ngram_size": r.pick(0, 0, 1, 2, 3) if k % 4 else 0}
        if k % 7 == 4:
            inputs += [np.where(r.flags(batch, length), 1, ids != pad).astype(np.int32)]
        if answering:
            parts = frozenset((("ids",), ("all",), (), ("ids", "all"))[k // 2 % 4])
            model = T5(r, vocabulary, r.size(1, 2), parts, apart=k % 8 == 5)
            attributes |= {"model_type": 1, "decoder_start_token_id": r.size(0, vocabulary - 1), "encoder": model.encoder(), "decoder": model.decoder()}
        else:
            attributes |= {"model_type": 0, "decoder": gpt(r, vocabulary, r.size(1, 2))}
            if k % 8 == 6:
                attributes["init_decoder"] = gpt(r, vocabulary, len(attributes["decoder"].output) - 1)
        yield Case(inputs, attributes, 3 if k % 6 == 5 else 2, fixed, dynamic=k // 2 % 2 == 1)


@cases(MS, "WhisperBeamSearch", ulps=64)
def whisper_beam_search(r: Draw) -> Iterator[Case]:
    for k in range(24):
        vocabulary, batch, features, first = r.size(6, 24), r.size(1, 3), r.size(1, 4), 1 if k % 3 else r.size(1, 3)
        sound = r.real(batch, features, r.size(1, 6))
        inputs, fixed = beam_inputs(r, k, np.zeros((batch, 1), np.int32), vocabulary, first)
        inputs[0] = sound
        inputs += [None] * (10 - len(inputs))
        inputs += [r.ints(0, vocabulary, batch, first, dtype=np.int32) if k % 3 == 0 else None, np.zeros(1, np.int32) if k % 4 == 0 else None, None, None,
                   one(r.pick(0.5, 1.0, 2.0), np.float32) if k % 4 == 1 else None]
        model = T5(r, vocabulary, r.size(1, 2), features=features)
        attributes: dict[str, object] = {
            "eos_token_id": r.size(0, vocabulary - 1), "pad_token_id": 0, "early_stopping": int(batch > 1), "no_repeat_ngram_size": r.pick(0, 0, 2, 3), "decoder_start_token_id": 1,
            "no_speech_token_id": 2, "beginning_timestamp_token_id": vocabulary - 1, "encoder": model.encoder(), "decoder": model.decoder()}
        wanted = [True, True, k % 6 == 5, False, k % 5 == 2]
        yield Case(inputs, attributes, wanted, [*fixed, *([11] if inputs[11] is not None else [])], dynamic=k // 2 % 2 == 1, types={1: 1, 2: 1, 4: 1},
                   unchecked=[sum(wanted[:4])] if wanted[4] else [])  # ONNX Runtime's CPU kernel leaves the chance of silence to chance


@cases(MS, "WhisperBeamSearch", ulps=512)
def whisper_timestamps(r: Draw) -> Iterator[Case]:
    """Small vocabularies with all of Whisper's special tokens; most of them are timestamps. Logits are large against the scores that their differences make."""
    for k in range(40):
        text, times, batch, features, first = r.size(2, 6), r.size(6, 20) if k % 4 else 60, r.size(1, 3), r.size(1, 4), r.size(1, 3)
        end = text
        begin, vocabulary = end + 6, end + 6 + times
        inputs, fixed = beam_inputs(r, 0 if k % 3 else 1, np.zeros((batch, 1), np.int32), vocabulary, first)
        inputs[0] = r.real(batch, features, r.size(1, 6))
        inputs += [None] * (10 - len(inputs))
        started = r.ints(0, vocabulary, batch, first, dtype=np.int32)
        inputs += [np.where(r.flags(batch, first), started, end + 1).astype(np.int32), np.full(1, k % 5 > 0, np.int32)]
        model = T5(r, vocabulary, r.size(1, 2), features=features)
        attributes: dict[str, object] = {
            "eos_token_id": end, "pad_token_id": 0, "early_stopping": int(batch > 1), "decoder_start_token_id": end + 1, "translate_token_id": end + 2, "transcribe_token_id": end + 3,
            "start_of_lm_token_id": end + 4, "no_timestamps_token_id": end + 5, "beginning_timestamp_token_id": begin, "encoder": model.encoder(), "decoder": model.decoder()}
        yield Case(inputs, attributes, 2, [*fixed, *([11] if k % 2 else [])], dynamic=k // 2 % 2 == 1, types={1: 1})


def chains(r: Draw, k: int, ids: np.ndarray, vocabulary: int) -> tuple[list[np.ndarray | None], dict[str, object]]:
    """Inputs and attributes that GreedySearch and Sampling share. One row never ends: what ONNX Runtime gives after the end of all is left to chance."""
    layers, end = r.size(1, 2), r.size(0, vocabulary - 1)
    attributes: dict[str, object] = {"eos_token_id": end, "pad_token_id": 0, "no_repeat_ngram_size": r.pick(0, 0, 2, 3), "decoder": gpt(r, vocabulary, layers, endless=end)}
    if k % 8 == 6:
        attributes["init_decoder"] = gpt(r, vocabulary, layers, endless=end)
    return single_inputs(r, k, ids, vocabulary), attributes


def single_inputs(r: Draw, k: int, ids: np.ndarray, vocabulary: int) -> list[np.ndarray | None]:
    """The inputs that GreedySearch and Sampling share."""
    batch, length = ids.shape
    longest = length + r.size(2, 9)
    return [ids, one(longest), one(r.size(0, longest - 1)) if k % 4 else None, one(r.pick(1.0, 1.5, 0.8), np.float32) if k % 3 else None, allowed(r, vocabulary) if k % 5 == 2 else None,
            allowed(r, batch, vocabulary) if k % 5 == 3 else None, (r.flags(batch, length) | (ids != 0)).astype(np.int32) if k % 7 == 4 else None]


@cases(MS, "GreedySearch")
def greedy_search(r: Draw) -> Iterator[Case]:
    for k in range(24):
        vocabulary, batch, length = r.size(6, 24), r.size(1, 3), r.size(1, 5)
        inputs, attributes = chains(r, k, prompts(r, batch, length, vocabulary, 0), vocabulary)
        yield Case(inputs, attributes, constants=[1] if k % 3 == 0 else [], dynamic=k // 2 % 2 == 1)


@cases(MS, "Sampling")
def sampling(r: Draw) -> Iterator[Case]:
    """Only the best token is left to be drawn: the draws themselves differ."""
    for k in range(24):
        vocabulary, batch, length = r.size(6, 24), r.size(1, 3), r.size(1, 5)
        inputs, attributes = chains(r, k, prompts(r, batch, length, vocabulary, 0), vocabulary)
        custom = k % 2
        attributes |= {"custom": custom, "top_p": 0.0 if custom else 1e-4, "min_tokens_to_keep": 1, "temperature": r.pick(1.0, 0.6, 2.0)}
        yield Case([*inputs, None, one(k)] if k % 4 == 3 else inputs, attributes, constants=[1] if k % 3 == 0 else [], dynamic=k // 2 % 2 == 1)
