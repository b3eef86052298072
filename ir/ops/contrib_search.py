"""com.microsoft: generation of text. The search is a Loop around the decoder that the node carries; its steps are those of `search_steps`."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr
from ..graft import graft
from ..graph import Attribute, Graph, TensorType, Type, Value
from .base import REQUIRED, Builder, Lowering, Op, register
from .control import body_type
from .search_steps import DOMAIN as STEPS

DOMAIN = "com.microsoft"
GPT, T5, WHISPER = 0, 1, 2
Body = Callable[[Builder, Value, Sequence[Value]], tuple[Value, Sequence[Value], Sequence[Value]]]  # (inside, turn, carried) -> (goes on, carried, stacked)


# ------------------------------------------------------------------------------------------------------------------ helpers
def whole(b: Builder, x: Value) -> Value:
    """A scalar of any integer type as int64[1]."""
    return b.add("Reshape", b.add("Cast", x, to=dt.int64.code), [1])


def scalar(b: Builder, x: Value) -> Value:
    return b.add("Reshape", x, np.zeros(0, np.int64))


def size(b: Builder, x: Value, axis: int) -> Value:
    """A size as int64[1]."""
    return b.add("Shape", x, start=axis, end=axis + 1)


def last_logits(b: Builder, logits: Value) -> Value:
    """[N, L, V] -> [N, V] of the last position."""
    if len(b.type(logits).shape or ()) != 3:
        raise b.error(f"the logits are {logits.type}, [batch, length, vocabulary] was expected")
    return b.add("Gather", logits, np.array(-1, np.int64), axis=1)


def repeated(b: Builder, x: Value, times: Value) -> Value:
    return b.add("RepeatRows", x, times, domain=STEPS)


def column(b: Builder, x: Value) -> Value:
    """[N] -> [N, 1]"""
    return b.add("Unsqueeze", x, [1])


def subgraph(b: Builder | Lowering, name: str) -> Graph | None:
    found = b.attr(name)
    return found if isinstance(found, Graph) else None


def loop(b: Builder, limit: Value, condition: Value | None, carried: Sequence[Value], make: Body) -> list[Value]:
    """A Loop whose body `make` builds, for at most `limit` turns."""
    body = Graph(f"{b.node.name}/body", b.graph)
    inside = Builder(body, b.node, b.op)
    turn = body.input(f"{b.node.name}/turn", TensorType(dt.int64, ()))
    body.input(f"{b.node.name}/going", TensorType(dt.boolean, ()))
    given = [body.input(v.name, body_type(v.type, f"{body.name}/{v.name}")) for v in carried]
    more, after, stacked = make(inside, turn, given)
    body.outputs = [more, *after, *stacked]
    found = b.add("Loop", scalar(b, limit), condition, *carried, outputs=len(after) + len(stacked), body=body)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def past_type(b: Builder, v: Value, heads: int, width: int) -> tuple[int, int]:
    """(heads, head size) as the decoder declares them for a past state.

    Raises:
        ModelError: it does not.
    """
    shape = v.type.shape if isinstance(v.type, TensorType) else None
    if shape is None or len(shape) <= width or not (shape[heads].is_const and shape[width].is_const):
        raise b.error(f"the decoder's past '{v.name}' is {v.type}; a fixed number of heads and a fixed head size were expected")
    return int(shape[heads].value), int(shape[width].value)


# ------------------------------------------------------------------------------------------------------------------- models
@dataclass(frozen=True)
class Feeds:
    """What a decoder gets in its next run: the values that change, in a form that a Loop can carry."""

    values: tuple[Value, ...]


class Gpt:
    """A decoder alone: (input_ids, position_ids, attention_mask, past...) -> (logits, present...).

    Args:
        ids: the prompts [B, S].
        beams: rows a prompt, int64[1].
    """

    past_axis = 1

    def __init__(self, b: Builder, ids: Value, beams: Value, mask: Value | None, decoder: Graph) -> None:
        self.decoder, self.beams = decoder, beams
        self.layers = len(decoder.outputs) - 1
        if self.layers < 1 or len(decoder.inputs) != self.layers + 3:
            raise b.unsupported(f"a decoder of {len(decoder.inputs)} inputs and {len(decoder.outputs)} outputs; input_ids, position_ids, attention_mask and a past for each "
                                "present state were expected, without shared buffers")
        pad = np.array(b.attr("pad_token_id"), np.int32)
        shown = b.add("Cast", b.add("Not", b.add("Equal", ids, pad)), to=dt.int32.code)
        places = b.add("Mul", b.add("Sub", b.add("CumSum", shown, np.array(1, np.int64)), np.array(1, np.int32)), shown)
        self.lengths = repeated(b, b.add("ReduceSum", shown, [1], keepdims=1), beams)
        self.ones = b.add("ConstantOfShape", b.add("Shape", self.lengths), value=np.ones(1, np.int32))
        rows = size(b, self.lengths, 0)
        heads, width = past_type(b, decoder.inputs[3], 2, 4)
        past = b.add("ConstantOfShape", b.add("Concat", np.array([2]), rows, np.array([heads, 0, width]), axis=0))
        self.start = Feeds((repeated(b, ids, beams), repeated(b, places, beams), repeated(b, mask or shown, beams), *[past] * self.layers))

    def run(self, b: Builder, feeds: Feeds, decoder: Graph | None = None) -> tuple[Value, list[Value]]:
        """(logits, present...)"""
        graph = decoder or self.decoder
        if len(graph.inputs) != len(self.decoder.inputs) or len(graph.outputs) != len(self.decoder.outputs):
            raise b.error(f"init_decoder has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, the decoder {len(self.decoder.inputs)} and {len(self.decoder.outputs)}")
        logits, *present = graft(graph, b.graph, dict(zip(graph.inputs, feeds.values, strict=True)), b.node, b.before)
        return logits, present

    def next(self, b: Builder, feeds: Feeds, present: Sequence[Value], tokens: Value, rows: Value | None, turn: Value, sequences: Value, length: Value) -> Feeds:
        """The feeds after a step: the new tokens, their places, a longer mask, and the states of the rows that go on."""
        places = b.add("Add", self.lengths, b.add("Cast", turn, to=dt.int32.code))
        mask = b.add("Concat", feeds.values[2], self.ones, axis=1)
        kept = [p if rows is None else b.add("Gather", p, rows, axis=self.past_axis) for p in present]
        return Feeds((column(b, tokens), places, mask, *kept))


class EncoderDecoder:
    """An encoder and a decoder: (input_ids, encoder_input_ids?, encoder_attention_mask?, encoder_hidden_states?, past self..., past cross...) -> (logits, present self...).

    The encoder gives (logits, hidden states, present self..., present cross...) of the first step, or the cross states alone.

    Args:
        given: what the encoder takes: prompts and mask, or features; then the first tokens, if it makes the first step.
        shared: the integers among them, which the decoder may take as well.
        first: the sequences before the first step [B, S].
    """

    past_axis = 0

    def __init__(self, b: Builder, given: Sequence[Value], shared: Sequence[Value], beams: Value, encoder: Graph, decoder: Graph, first: Value) -> None:
        self.decoder = decoder
        self.layers = (len(decoder.outputs) - 1) // 2
        head = len(decoder.inputs) - 4 * self.layers
        if self.layers < 1 or len(decoder.outputs) != 1 + 2 * self.layers or not min(1, len(shared)) < head <= 2 + len(shared):
            raise b.unsupported(f"a decoder of {len(decoder.inputs)} inputs and {len(decoder.outputs)} outputs; input_ids, what the encoder knows and four past states "
                                "for each two present ones were expected, without shared buffers")
        if len(encoder.inputs) not in (len(given), 2):
            raise b.error(f"the encoder has {len(encoder.inputs)} inputs; {len(given)} were expected")
        stepping = len(encoder.inputs) == len(given)
        found = graft(encoder, b.graph, dict(zip(encoder.inputs, given[:len(encoder.inputs)], strict=True)), b.node, b.before)
        self.logits = found[0] if stepping else None
        states = found[2:] if stepping else found
        expected = 4 * self.layers if stepping else 2 * self.layers
        if len(states) != expected:
            raise b.error(f"the encoder gives {len(states)} states, {expected} were expected for {self.layers} layers of the decoder")
        states = [repeated(b, s, beams) for s in states]
        self.cross = states[-2 * self.layers:]
        own = states[:-2 * self.layers]
        tokens = repeated(b, first, beams)
        if not own:
            heads, width = past_type(b, decoder.inputs[head], 1, 3)
            empty = b.add("ConstantOfShape", b.add("Concat", size(b, tokens, 0), np.array([heads, 0, width]), axis=0))
            own = [empty] * (2 * self.layers)
        self.fixed = self._fixed(b, head, [repeated(b, x, beams) for x in shared], repeated(b, found[1], beams) if stepping else None)
        declared = decoder.inputs[0].type
        shape = declared.shape if isinstance(declared, TensorType) else None
        self.whole_sequence = not (shape is not None and len(shape) == 2 and shape[1].is_const and shape[1].value == 1)
        self.start = Feeds((tokens, *own))

    def _fixed(self, b: Builder, head: int, shared: Sequence[Value], hidden: Value | None) -> list[Value]:
        """The inputs between input_ids and the past: told apart by their types."""
        kinds = [v.type.dtype if isinstance(v.type, TensorType) else None for v in self.decoder.inputs[1:head]]
        floats = [k for k in kinds if k is not None and k.is_float]
        if floats and hidden is None:
            raise b.error("the decoder takes encoder_hidden_states, which the encoder does not give")
        count = len(kinds) - len(floats)
        integers = shared[len(shared) - count:]
        if not min(1, len(shared)) <= count <= len(shared) or len(floats) > 1:
            raise b.unsupported(f"a decoder with inputs of types {', '.join(str(v.type) for v in self.decoder.inputs[:head])} before its past")
        return [*integers, *([hidden] if floats and hidden is not None else [])]

    def run(self, b: Builder, feeds: Feeds, decoder: Graph | None = None) -> tuple[Value, list[Value]]:
        """(logits, present...)"""
        tokens, *own = feeds.values
        given = dict(zip(self.decoder.inputs, [tokens, *self.fixed, *own, *self.cross], strict=True))
        logits, *present = graft(self.decoder, b.graph, given, b.node, b.before)
        return logits, present

    def next(self, b: Builder, feeds: Feeds, present: Sequence[Value], tokens: Value, rows: Value | None, turn: Value, sequences: Value, length: Value) -> Feeds:
        """The feeds after a step: the new tokens (or all so far), and the states of the rows that go on."""
        ids = column(b, tokens)
        if self.whole_sequence:
            ids = b.add("Slice", sequences, [0], b.add("Add", length, [1]), [1])
        return Feeds((ids, *(p if rows is None else b.add("Gather", p, rows, axis=self.past_axis) for p in present)))


# ------------------------------------------------------------------------------------------------------------------- search
class Scores:
    """How logits become scores of the next token.

    Args:
        inputs: of the node, by the names of `Search.inputs`.
    """

    def __init__(self, b: Builder, inputs: dict[str, Value | None], beams: Value | None) -> None:
        self.end = int(b.attr("eos_token_id"))
        self.ngram = int(b.attr("no_repeat_ngram_size", 0))
        self.temperature, self.penalty = float(b.attr("temperature", 1.0)), float(b.attr("presence_penalty", 0.0))
        if self.temperature <= 0:
            self.temperature = 1.0
        least, factor = inputs.get("min_length"), inputs.get("repetition_penalty")
        self.least = None if least is None else whole(b, least)
        self.factor = None if factor is None else b.add("Reshape", factor, [1])
        self.vocabulary, self.prefix, self.presence = inputs.get("vocab_mask"), inputs.get("prefix_vocab_mask"), inputs.get("presence_mask")
        self.heat, self.wanted = inputs.get("temperature"), inputs.get("logits_processor")
        self.times = timestamps(b, self.wanted)

    def __call__(self, b: Builder, scores: Value, sequences: Value, length: Value, first: Value, own: Value | None = None) -> Value:
        """Scores [N, V] by the rules, `own` added to each row."""
        if self.factor is not None or self.ngram > 0:
            factor = self.factor if self.factor is not None else b.constant(np.ones(1, np.float32))
            scores = b.add("DiscourageRepeats", scores, sequences, length, factor, domain=STEPS, ngram=self.ngram)
        adjusted = b.add("AdjustScores", scores, length, self.least, self.vocabulary, first, self.prefix, self.presence, None if self.times else own, self.heat, domain=STEPS,
                         end=self.end, temperature=self.temperature, presence_penalty=self.penalty)
        return b.add("KeepTimes", adjusted, sequences, length, self.wanted, own, domain=STEPS, end=self.end, **self.times) if self.times else adjusted


def timestamps(b: Builder, wanted: Value | None) -> dict[str, Attribute]:
    """The tokens that Whisper's rules of timestamps tell apart; empty where the rules are never wanted."""
    if wanted is None or (wanted.constant is not None and not np.any(wanted.constant)) or int(b.attr("model_type")) != WHISPER:
        return {}
    begin = int(b.attr("beginning_timestamp_token_id", -1))
    if begin <= 0:
        raise b.error(f"beginning_timestamp_token_id is {begin}; a token was expected where a logits_processor is given")
    names = {"none": "no_timestamps_token_id", "language_model": "start_of_lm_token_id", "translate": "translate_token_id", "transcribe": "transcribe_token_id"}
    return {"begin": begin, **{k: int(b.attr(v, -1)) for k, v in names.items()}}


@dataclass(frozen=True)
class State:
    """What a search carries from step to step: sequences [N, M], then for beams scores [N] and what is kept (see `search_steps`), else which sequences have ended."""

    values: tuple[Value, ...]

    @property
    def sequences(self) -> Value:
        return self.values[0]


@dataclass(frozen=True)
class Step:
    """What a step of a search gives: the state, the new tokens, the rows they continue (None: each its own), whether any goes on, the scores of all tokens."""

    state: State
    tokens: Value
    rows: Value | None
    more: Value
    scores: Value


class BeamSteps:
    """Steps of beam search."""

    carried = 6

    def __init__(self, b: Builder, scores: Scores, beams: Value, exponent: Value) -> None:
        self.scores, self.beams, self.exponent = scores, beams, exponent
        self.best = b.add("Mul", beams, [2])
        self.settings: dict[str, Attribute] = {"end": int(b.attr("eos_token_id")), "pad": int(b.attr("pad_token_id")), "early": int(b.attr("early_stopping") == 1)}

    def step(self, b: Builder, logits: Value, state: State, length: Value, turn: Value) -> Step:
        sequences, own, *kept = state.values
        first = b.add("Equal", turn, np.array(0, np.int64))
        scores = self.scores(b, b.add("LogSoftmax", last_logits(b, logits), axis=-1), sequences, length, first, own)
        flat = b.add("Reshape", scores, b.add("Concat", size(b, kept[1], 0), np.array([-1]), axis=0))
        top, places = b.add("TopK", flat, self.best, outputs=2, axis=1)
        tokens, rows, own, sequences, *kept, more = b.add("AdvanceBeams", top, places, sequences, length, self.exponent, *kept, scores, outputs=9, domain=STEPS,
                                                          **self.settings)
        by_beam = b.add("Reshape", scores, b.add("Concat", b.add("Shape", kept[1]), np.array([-1]), axis=0))
        return Step(State((sequences, own, *kept)), tokens, rows, more, by_beam)


class SingleSteps:
    """Steps that choose one token a prompt: the best, or (with a seed) one drawn from the best."""

    carried = 2

    def __init__(self, b: Builder, scores: Scores, seed: Value | None) -> None:
        self.scores, self.seed = scores, seed
        self.settings: dict[str, Attribute] = {"end": int(b.attr("eos_token_id")), "pad": int(b.attr("pad_token_id"))}

    def step(self, b: Builder, logits: Value, state: State, length: Value, turn: Value) -> Step:
        sequences, ended = state.values
        first = b.add("Equal", turn, np.array(0, np.int64))
        scores = self.scores(b, last_logits(b, logits), sequences, length, first)
        chosen = b.add("ArgMax", scores, axis=1, keepdims=0) if self.seed is None else self.drawn(b, scores, turn, self.seed)
        tokens, sequences, ended, more = b.add("AppendTokens", chosen, sequences, length, ended, outputs=4, domain=STEPS, **self.settings)
        return Step(State((sequences, ended)), tokens, None, more, scores)

    @staticmethod
    def drawn(b: Builder, scores: Value, turn: Value, seed: Value) -> Value:
        descending = int(b.attr("custom"))
        top, places = b.add("TopK", scores, size(b, scores, 1), outputs=2, axis=1, largest=descending)
        return b.add("DrawTokens", top, places, seed, turn, domain=STEPS, top_p=float(b.attr("top_p")), least=int(b.attr("min_tokens_to_keep")),
                     filtered=float(b.attr("filter_value")), descending=descending)


@dataclass(frozen=True)
class Setup:
    """A search about to begin.

    Args:
        begin: tokens of a sequence before the first step, int64[1].
        limit: steps, int64[1].
        stacked: whether the scores of all tokens are wanted, step by step.
    """

    model: Gpt | EncoderDecoder
    steps: BeamSteps | SingleSteps
    begin: Value
    limit: Value
    stacked: bool = False


def first_step(b: Builder, setup: Setup, state: State, init: Graph | None) -> tuple[Step, Feeds, Value | None]:
    """The step that the encoder or `init` makes: what it gives, the feeds after it, and what decides whether the next one is made (None: it always is)."""
    model, feeds, turn = setup.model, setup.model.start, b.constant(np.array(0, np.int64))
    if isinstance(model, EncoderDecoder):
        assert model.logits is not None and isinstance(setup.steps, BeamSteps)
        found = setup.steps.step(b, repeated(b, model.logits, setup.steps.beams), state, setup.begin, turn)
        return found, model.next(b, feeds, feeds.values[1:], found.tokens, None, turn, found.state.sequences, setup.begin), None
    logits, present = model.run(b, feeds, init)
    found = setup.steps.step(b, logits, state, setup.begin, turn)
    return found, model.next(b, feeds, present, found.tokens, found.rows, turn, found.state.sequences, setup.begin), found.more


def search(b: Builder, setup: Setup, state: State, init: Graph | None = None) -> tuple[State, list[Value]]:
    """Run a search: a first step apart if the encoder or `init` makes it, the others in a Loop.

    Returns:
        The last state, and the scores of all tokens in parts along their first axis if they are wanted.
    """
    model, steps, feeds = setup.model, setup.steps, setup.model.start
    offset, limit, going, stacks = 0, setup.limit, None, []
    if init is not None or (isinstance(model, EncoderDecoder) and model.logits is not None):
        found, feeds, going = first_step(b, setup, state, init)
        state, offset, limit = found.state, 1, b.add("Sub", limit, [1])
        if setup.stacked:
            stacks.append(b.add("Unsqueeze", found.scores, [0]))

    def body(inside: Builder, i: Value, carried: Sequence[Value]) -> tuple[Value, Sequence[Value], Sequence[Value]]:
        now, fed = State(tuple(carried[:steps.carried])), Feeds(tuple(carried[steps.carried:]))
        turn = inside.add("Add", i, np.array(offset, np.int64)) if offset else i
        length = inside.add("Add", setup.begin, turn)
        logits, present = model.run(inside, fed)
        found = steps.step(inside, logits, now, length, turn)
        after = model.next(inside, fed, present, found.tokens, found.rows, turn, found.state.sequences, length)
        return found.more, [*found.state.values, *after.values], [found.scores] if setup.stacked else []
    results = loop(b, limit, going, [*state.values, *feeds.values], body)
    if setup.stacked:
        stacks.append(results.pop())
    return State(tuple(results[:steps.carried])), stacks


class Search(Op):
    """What the operators have in common: their inputs by name, and the sizes of their results."""

    domain = DOMAIN
    versions = (1,)
    names: Sequence[str] = ()

    def given(self, b: Builder) -> dict[str, Value | None]:
        return {name: b.inputs[k] if k < len(b.inputs) else None for k, name in enumerate(self.names)}

    def decoder(self, b: Builder) -> Graph:
        found = subgraph(b, "decoder")
        if found is None:
            raise b.error(f"attribute 'decoder' of {self.name} is missing")
        return found

    @staticmethod
    def refuse(b: Builder, inputs: dict[str, Value | None], names: Iterable[str]) -> None:
        for name in names:
            if inputs.get(name) is not None:
                raise b.unsupported(f"input '{name}' of {b.op.name}")
        processor = inputs.get("logits_processor")
        if processor is not None and (processor.constant is None or np.any(processor.constant)) and int(b.attr("model_type")) != WHISPER:
            raise b.unsupported(f"a logits_processor of {b.op.name} other than the constant 0 (none)")


@register
class BeamSearch(Search):
    """The likeliest continuations of prompts (GPT-2), or answers to them (T5), by beam search around the decoder. Source: com.microsoft BeamSearch-1.

    Whether a prompt is done depends on that prompt alone; ONNX Runtime's CPU kernel compares with scores of other prompts of the batch (early_stopping 0).
    Scores of steps that no prompt needed are zero.
    """

    name = "BeamSearch"
    names: Sequence[str] = ("input_ids", "max_length", "min_length", "num_beams", "num_return_sequences", "length_penalty", "repetition_penalty", "vocab_mask", "prefix_vocab_mask",
             "attention_mask", "decoder_input_ids", "logits_processor")
    attributes = {"eos_token_id": REQUIRED, "pad_token_id": REQUIRED, "decoder_start_token_id": -1, "no_repeat_ngram_size": 0, "early_stopping": 0, "model_type": GPT,
                  "vocab_size": -1}

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        ids = n.input(0)
        longest, beams, returned = n.number(1), n.number(3), n.number(4)
        if ids.rank != 2:
            raise n.error(f"input_ids of rank {ids.rank} were given, [batch, length] was expected")
        begin: Expr = ids.shape[1] if n.attr("model_type") == GPT else ex.const(1)
        found: list[Type | None] = [TensorType(dt.int32, (ids.shape[0], returned, longest)), TensorType(dt.float32, (ids.shape[0], returned))]
        if n.wants(2):
            found.append(TensorType(dt.float32, (longest - begin, ids.shape[0], beams, ex.sym(f"?{n.node.name}.vocabulary", 0))))
        return found

    def model(self, b: Builder, inputs: dict[str, Value | None], beams: Value) -> tuple[Gpt | EncoderDecoder, Value]:
        """The model, and the sequences before the first step [B, S]."""
        self.refuse(b, inputs, ("decoder_input_ids",))
        kind, ids, mask = int(b.attr("model_type")), b.input(0), inputs["attention_mask"]
        if kind not in (GPT, T5):
            raise b.unsupported(f"model_type {kind}; 0 (GPT-2) or 1 (T5) was expected")
        if kind == GPT:
            return Gpt(b, ids, beams, mask, self.decoder(b)), ids
        if mask is None:
            shown = b.add("Cast", b.add("Not", b.add("Equal", ids, np.array(b.attr("pad_token_id"), np.int32))), to=dt.int32.code)
            mask = b.add("Cast", b.add("Greater", b.add("CumSum", shown, np.array(1, np.int64)), np.array(0, np.int32)), to=dt.int32.code)  # only padding on the left
        first = self.first_tokens(b, ids)
        return EncoderDecoder(b, (ids, mask, first), (ids, mask), beams, self.encoder(b), self.decoder(b), first), first

    def encoder(self, b: Builder) -> Graph:
        found = subgraph(b, "encoder")
        if found is None:
            raise b.error(f"attribute 'encoder' of {self.name} is missing, which model_type {b.attr('model_type')} needs")
        return found

    @staticmethod
    def first_tokens(b: Builder, prompts: Value) -> Value:
        """[B, 1] of the token that decoding starts with."""
        token = int(b.attr("decoder_start_token_id"))
        if token < 0:
            raise b.error(f"decoder_start_token_id is {token}; a token was expected for model_type {b.attr('model_type')}")
        return b.add("ConstantOfShape", b.add("Concat", size(b, prompts, 0), np.array([1]), axis=0), value=np.array([token], np.int32))

    def decompose(self, b: Builder) -> list[Value | None]:
        return self.searched(b)[1]

    def searched(self, b: Builder) -> tuple[Gpt | EncoderDecoder, list[Value | None]]:
        """The model, and the results of the search."""
        inputs, pad = self.given(b), int(b.attr("pad_token_id"))
        beams, longest, exponent = whole(b, b.input(3)), whole(b, b.input(1)), inputs["length_penalty"]
        steps = BeamSteps(b, Scores(b, inputs, beams), beams, b.constant(np.ones(1, np.float32)) if exponent is None else b.add("Reshape", exponent, [1]))
        model, first = self.model(b, inputs, beams)
        begin = size(b, first, 1)
        start = b.add("StartBeams", first, longest, beams, outputs=6, domain=STEPS, pad=pad)
        setup = Setup(model, steps, begin, b.add("Sub", longest, begin), b.wants(2))
        state, stacks = search(b, setup, State(tuple(start)), subgraph(b, "init_decoder") if isinstance(model, Gpt) else None)
        last, own, *kept = state.values
        sequences, scores = b.add("FinishBeams", last, longest, steps.exponent, own, *kept, whole(b, b.input(4)), outputs=2, domain=STEPS, pad=pad)
        return model, [sequences, scores, self.padded(b, stacks, setup.limit) if b.wants(2) else None]

    @staticmethod
    def padded(b: Builder, stacks: Sequence[Value], limit: Value) -> Value:
        """The scores of all steps that there may be: zero for those that were not needed."""
        found = stacks[0] if len(stacks) == 1 else b.add("Concat", *stacks, axis=0)
        missing = b.add("Sub", limit, size(b, found, 0))
        return b.add("Pad", found, b.add("Concat", np.zeros(4, np.int64), missing, np.zeros(3, np.int64), axis=0))


@register
class WhisperBeamSearch(BeamSearch):
    """Transcripts of sound features by beam search: BeamSearch with Whisper's encoder, rules of timestamps (logits_processor 1), and the chance that nobody speaks.

    Source: com.microsoft WhisperBeamSearch-1.

    ONNX Runtime's CPU kernel does not compute that chance.
    """

    name = "WhisperBeamSearch"
    names = (*BeamSearch.names, "cross_qk_layer_head", "extra_decoding_ids", "temperature")
    attributes = {**BeamSearch.attributes, "model_type": WHISPER, "decoder_output_cross_qk": 0, "no_speech_token_id": -1}

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        if n.wants(3):
            raise n.unsupported("output 'cross_qk' of WhisperBeamSearch")
        if n.input(0).rank != 3:
            raise n.error(f"input features of rank {n.input(0).rank} were given, [batch, features, frames] was expected")
        longest, beams, batch = n.number(1), n.number(3), n.input(0).shape[0]
        begin = n.input(10).shape[1] if n.has(10) else ex.const(1)
        vocabulary = ex.sym(f"?{n.node.name}.vocabulary", 0)
        scores = TensorType(dt.float32, (longest - begin, batch, beams, vocabulary)) if n.wants(2) else None
        return [TensorType(dt.int32, (batch, n.number(4), longest)), TensorType(dt.float32, (batch, n.number(4))), scores, None, TensorType(dt.float32, (batch,))]

    def model(self, b: Builder, inputs: dict[str, Value | None], beams: Value) -> tuple[Gpt | EncoderDecoder, Value]:
        self.refuse(b, inputs, ("attention_mask", "cross_qk_layer_head", "extra_decoding_ids"))
        if b.attr("model_type") != WHISPER or b.attr("decoder_output_cross_qk"):
            raise b.unsupported("a model_type of WhisperBeamSearch other than 2, or decoder_output_cross_qk")
        given = inputs["decoder_input_ids"]
        first = self.first_tokens(b, b.input(0)) if given is None else given
        return EncoderDecoder(b, (b.input(0), first), (), beams, self.encoder(b), self.decoder(b), first), first

    def decompose(self, b: Builder) -> list[Value | None]:
        model, found = self.searched(b)
        if not b.wants(4):
            return found
        token = int(b.attr("no_speech_token_id"))
        if token < 0:
            raise b.error(f"no_speech_token_id is {token}; a token was expected for output 'non_speech_probs'")
        assert isinstance(model, EncoderDecoder) and model.logits is not None
        chances = b.add("Softmax", last_logits(b, model.logits), axis=-1)
        return [*found, None, b.add("Gather", chances, np.array(token, np.int64), axis=1)]


class SingleSearch(Search):
    """One sequence a prompt."""

    names: Sequence[str] = ("input_ids", "max_length", "min_length", "repetition_penalty", "vocab_mask", "prefix_vocab_mask", "attention_mask")

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        ids = n.input(0)
        if ids.rank != 2:
            raise n.error(f"input_ids of rank {ids.rank} were given, [batch, length] was expected")
        return [TensorType(dt.int32, (ids.shape[0], n.number(1)))]

    def seed(self, b: Builder, inputs: dict[str, Value | None]) -> Value | None:
        """What random choices start from; None where there are none."""
        return None

    def decompose(self, b: Builder) -> list[Value | None]:
        inputs, kind = self.given(b), int(b.attr("model_type"))
        if kind != GPT:
            raise b.unsupported(f"model_type {kind}; 0 (GPT-2) was expected")
        ids, longest, one = b.input(0), whole(b, b.input(1)), b.constant(np.array([1]))
        begin = size(b, ids, 1)
        steps = SingleSteps(b, Scores(b, inputs, None), self.seed(b, inputs))
        model = Gpt(b, ids, one, inputs["attention_mask"], self.decoder(b))
        start = b.add("StartBeams", ids, longest, one, outputs=6, domain=STEPS, pad=int(b.attr("pad_token_id")))
        ended = b.add("ConstantOfShape", size(b, ids, 0), value=np.zeros(1, np.bool_))
        setup = Setup(model, steps, begin, b.add("Sub", longest, begin))
        state, _ = search(b, setup, State((start[0], ended)), subgraph(b, "init_decoder"))
        return [state.sequences]


@register
class GreedySearch(SingleSearch):
    """The continuation of prompts by the likeliest next token, again and again. Source: com.microsoft GreedySearch-1."""

    name = "GreedySearch"
    attributes = {"eos_token_id": REQUIRED, "pad_token_id": REQUIRED, "decoder_start_token_id": -1, "no_repeat_ngram_size": 0, "model_type": GPT, "vocab_size": -1}


@register
class Sampling(SingleSearch):
    """The continuation of prompts by tokens drawn from the likeliest; the draws are not ONNX Runtime's. Source: com.microsoft Sampling-1.

    Every present token loses the presence penalty; ONNX Runtime's CPU kernel takes the sum of all penalties from the very first score.
    """

    name = "Sampling"
    names = (*SingleSearch.names, "presence_mask", "seed")
    attributes = {"eos_token_id": REQUIRED, "pad_token_id": REQUIRED, "decoder_start_token_id": -1, "no_repeat_ngram_size": 0, "model_type": GPT, "vocab_size": -1,
                  "temperature": 1.0, "top_p": 0.0, "filter_value": -math.inf, "min_tokens_to_keep": 0, "presence_penalty": 0.0, "custom": 0}

    def seed(self, b: Builder, inputs: dict[str, Value | None]) -> Value | None:
        given = inputs["seed"]
        return b.constant(np.zeros(1, np.int64)) if given is None else whole(b, given)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        if n.wants(1):
            raise n.unsupported("output 'filtered_logits' of Sampling, which serves debugging")
        return super().infer(n)
