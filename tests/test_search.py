"""Search operators where generated cases against ONNX Runtime do not reach: many prompts, early ends, random draws, refusals, and the steps on their own."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as reference
import pytest
import sardonyx
from contrib_cases import Case, Draw, Family, onnx_model
from operator_harness import equal, interpret, interpret_lowered, sample_graph
from sardonyx.compiler.importer import import_model
from sardonyx.ir.interpret import run_graph
from sardonyx.ir.ops.base import all_ops
from sardonyx.ir.plan import HostStep
from search_models import T5, gpt

STEPS = [o for o in all_ops() if o.domain == "sardonyx"]
END, WORDS = 2, 8


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SARDONYX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SARDONYX_COMPILE_PROCESSES", "1")
        yield


def one(value: float, dtype: object = np.int32) -> np.ndarray:
    return np.full((1,), value, dtype)


def model(op: str, rest: list[np.ndarray | None], attributes: Mapping[str, object], outputs: int = 1) -> bytes:
    """A model whose only input is the prompts, of any number and length."""
    case = Case([np.zeros((2, 3), np.int32), *rest], {"eos_token_id": END, "pad_token_id": 0, **attributes}, outputs)
    return onnx_model(Family("com.microsoft", op, lambda r: iter(())), case, True, frozenset(range(1, 1 + len(rest)))).SerializeToString()


def draw(seed: int) -> Draw:
    return Draw(np.random.default_rng(seed))


def answering(seed: int) -> dict[str, object]:
    found = T5(draw(seed), WORDS)
    return {"model_type": 1, "decoder_start_token_id": 1, "encoder": found.encoder(), "decoder": found.decoder()}


def beams(count: int, longest: int, penalty: float = 1.0) -> list[np.ndarray | None]:
    return [one(longest), one(0), one(count), one(count), one(penalty, np.float32)]


@pytest.mark.parametrize(("op", "rest", "attributes"), [
    ("BeamSearch", beams(3, 9), {"decoder": gpt(draw(1), WORDS)}), ("BeamSearch", beams(3, 9), answering(1)), ("GreedySearch", [one(9)], {"decoder": gpt(draw(1), WORDS)}),
    ("Sampling", [one(9)], {"decoder": gpt(draw(1), WORDS), "top_p": 0.9, "custom": 1})], ids=["gpt", "t5", "greedy", "sampling"])
def test_searches_run_without_the_host_and_as_the_interpreter(op, rest, attributes) -> None:
    written = model(op, rest, attributes)
    session = sardonyx.InferenceSession(written)
    plan = session._model.plan
    assert not any(isinstance(s, HostStep) for p in (plan, *plan.bodies) for s in p.steps)
    prompts = draw(2).ints(0, WORDS, 2, 4, dtype=np.int32)
    assert np.array_equal(session.run(None, {"x0": prompts})[0], run_graph(import_model(written), {"x0": prompts})[0])


@pytest.mark.parametrize("init", [False, True])
def test_decoders_see_values_around_them(init: bool) -> None:
    """A decoder (and the one of the first step) that reads an input of the model around it, on one thread and on two."""
    def leaning() -> onnx.GraphProto:
        graph = gpt(draw(2), WORDS)
        graph.node[-1].output[0] = "plain"
        graph.node.append(onnx.helper.make_node("Mul", ["plain", "lean"], ["logits"]))
        return graph
    attributes = {"decoder": leaning()} | ({"init_decoder": leaning()} if init else {})
    written = onnx.load_from_string(model("BeamSearch", beams(3, 9), attributes, 2))
    written.graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [WORDS]))
    written.graph.node.insert(0, onnx.helper.make_node("Exp", ["x"], ["lean"]))
    data, feeds = written.SerializeToString(), {"x0": draw(2).ints(0, WORDS, 2, 4, dtype=np.int32), "x": draw(3).real(WORDS)}
    want = reference.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)
    for threads in (1, 2):
        options = sardonyx.SessionOptions()
        options.intra_op_num_threads = threads
        got = sardonyx.InferenceSession(data, options).run(None, feeds)
        assert np.array_equal(got[0], want[0])
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5)


@pytest.mark.parametrize(("count", "penalty", "early"), [(1, 1.0, 0), (2, 2.0, 1), (3, -1.0, 0), (4, 0.5, 1)])
def test_many_prompts_as_onnx_runtime(count: int, penalty: float, early: int) -> None:
    """Prompts that end at different times. One at a time where ONNX Runtime would take the scores of another prompt for the end of one (early_stopping 0)."""
    written = model("BeamSearch", beams(count, 12, penalty), {"decoder": gpt(draw(count), WORDS), "early_stopping": early}, 2)
    ours, theirs = sardonyx.InferenceSession(written), reference.InferenceSession(written, providers=["CPUExecutionProvider"])
    r, ended = draw(7), 0
    for _ in range(40):
        prompts = r.ints(0, WORDS, r.size(1, 3) if early else 1, r.size(1, 5), dtype=np.int32)
        got, want = ours.run(None, {"x0": prompts}), theirs.run(None, {"x0": prompts})
        assert np.array_equal(got[0], want[0])
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6)
        ended += int(np.sum(want[0][..., -1] == 0))
    assert ended > 10


def test_sequences_that_have_all_ended_are_filled_up() -> None:
    """What ONNX Runtime leaves to chance there is padding here."""
    written = model("GreedySearch", [one(14)], {"decoder": gpt(draw(5), WORDS)})
    ours, theirs = sardonyx.InferenceSession(written), reference.InferenceSession(written, providers=["CPUExecutionProvider"])
    r, early = draw(3), 0
    for _ in range(30):
        prompts = r.ints(1, WORDS, 1, 3, dtype=np.int32)
        got, want = ours.run(None, {"x0": prompts})[0][0], theirs.run(None, {"x0": prompts})[0][0]
        count = 14 - int(np.argmax(got[::-1] != 0)) if got.any() else 0
        assert np.array_equal(got[:count], want[:count]) and not got[count:].any()
        early += count < 13 and want[count] == 0
    assert early > 3


def test_chance_of_silence_is_the_encoders() -> None:
    """The softmax of the first logits; ONNX Runtime's CPU kernel does not compute it."""
    found = T5(draw(3), WORDS, features=3)
    graph = found.encoder()
    attributes = {"decoder_start_token_id": 1, "no_speech_token_id": 4, "encoder": graph, "decoder": found.decoder(), "eos_token_id": END, "pad_token_id": 0}
    sound = draw(4).real(2, 3, 5)
    case = Case([sound, *beams(2, 6)], attributes, [True, False, False, False, True], range(1, 6), types={4: 1})
    written = onnx_model(Family("com.microsoft", "WhisperBeamSearch", lambda r: iter(())), case, True, frozenset(case.constants)).SerializeToString()
    encoder = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = reference.InferenceSession(encoder.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"encoder_input_ids": sound, "decoder_input_ids": np.full((2, 1), 1, np.int32)})[0][:, -1].astype(np.float64)
    want = np.exp(logits[:, 4]) / np.exp(logits).sum(1)
    np.testing.assert_allclose(sardonyx.InferenceSession(written).run(None, {"x0": sound})[1], want, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------------ drawing
def next_tokens(seed: int | None, **attributes: object) -> np.ndarray:
    """4000 draws of the token after one prompt."""
    rest = [one(4), None, None, None, None, None, None, *([] if seed is None else [one(seed)])]
    session = sardonyx.InferenceSession(model("Sampling", rest, {"decoder": gpt(draw(6), WORDS), **attributes}))
    return session.run(None, {"x0": np.tile(np.int32([[1, 5, 3]]), (4000, 1))})[0][:, 3]


def chances() -> np.ndarray:
    """The probabilities of the tokens after that prompt: scores of one step of beam search are log-probabilities."""
    session = sardonyx.InferenceSession(model("BeamSearch", [one(4), one(0), one(1), one(1), one(1.0, np.float32)], {"decoder": gpt(draw(6), WORDS)}, 3))
    return np.exp(session.run(None, {"x0": np.int32([[1, 5, 3]])})[2][0, 0, 0].astype(np.float64))


@pytest.mark.parametrize("attributes", [{"custom": 1, "top_p": 1.0}, {"custom": 1, "top_p": 0.6}, {"top_p": 0.7, "min_tokens_to_keep": 1}, {"top_p": 0.2, "min_tokens_to_keep": 3},
                                        {"custom": 1, "top_p": 1.0, "temperature": 2.0}, {"custom": 1, "top_p": 0.5, "filter_value": 0.0}], ids=str)
def test_draws_follow_the_distribution(attributes) -> None:
    p = chances() ** (1 / attributes.get("temperature", 1.0))
    p /= p.sum()
    order = np.argsort(-p)
    if attributes.get("custom"):
        kept = order[:1 + int(np.sum(np.cumsum(p[order])[:-1] <= attributes["top_p"]))]
    else:
        rising = order[::-1]
        left = np.cumsum(p[rising]) <= 1 - attributes["top_p"]
        left[1:] &= np.arange(1, WORDS) < WORDS - attributes["min_tokens_to_keep"]
        kept = rising[~left]
    if "filter_value" in attributes:  # a filtered token still has its chance by the score that it gets
        logits = reference_logits()
        weights = np.exp(np.where(np.isin(np.arange(WORDS), kept), logits, attributes["filter_value"]))
    else:
        weights = np.where(np.isin(np.arange(WORDS), kept), p, 0)
    expected = weights / weights.sum()
    tokens = next_tokens(11, **attributes)
    counts = np.bincount(tokens, minlength=WORDS).astype(np.float64)
    merged = expected.copy()
    merged[0], merged[END] = merged[0] + merged[END], 0  # the end itself is written as padding, token 0
    assert np.all(np.abs(counts / 4000 - merged) < 4 * np.sqrt(merged * (1 - merged) / 4000) + 1e-9)


def reference_logits() -> np.ndarray:
    """The logits after that prompt, by ONNX Runtime."""
    decoder = gpt(draw(6), WORDS)
    written = onnx.helper.make_model(decoder, opset_imports=[onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    feeds = {"input_ids": np.int32([[1, 5, 3]]), "position_ids": np.int32([[0, 1, 2]]), "attention_mask": np.ones((1, 3), np.int32), "past_0": np.zeros((2, 1, 2, 0, 3), np.float32)}
    return reference.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"]).run(["logits"], feeds)[0][0, -1].astype(np.float64)


def test_seeds_tell_draws_apart() -> None:
    attributes = {"custom": 1, "top_p": 1.0}
    first, again, other, none = (next_tokens(s, **attributes) for s in (4, 4, 5, None))
    assert np.array_equal(first, again) and np.mean(first != other) > 0.3 and np.array_equal(none, next_tokens(0, **attributes))


def test_present_tokens_lose_the_penalty() -> None:
    """Every present token does; ONNX Runtime's CPU kernel takes all of it from the first score."""
    present = np.zeros((1, WORDS), np.int32)
    present[0, [1, 3, 4]] = 1
    rest = [one(9), None, None, None, None, None, present]
    session = sardonyx.InferenceSession(model("Sampling", rest, {"decoder": gpt(draw(6), WORDS), "custom": 1, "top_p": 1.0, "presence_penalty": 1e6}))
    drawn = session.run(None, {"x0": np.int32([[1, 3, 4]])})[0][0, 3:]
    assert not np.isin(drawn, [1, 3, 4]).any()


# ------------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(("op", "rest", "attributes", "outputs", "message"), [
    ("BeamSearch", beams(2, 9), {"decoder": gpt(draw(1), WORDS), "model_type": 2}, 1, "model_type 2"),
    ("BeamSearch", [*beams(2, 9), None, None, None, None, np.zeros((1, 1), np.int32)], {"decoder": gpt(draw(1), WORDS)}, 1, "decoder_input_ids"),
    ("BeamSearch", beams(2, 9), {**answering(1), "decoder": gpt(draw(1), WORDS)}, 1, "a decoder of 4 inputs"),
    ("BeamSearch", beams(2, 9), {"decoder": answering(1)["decoder"]}, 1, "a decoder of 6 inputs"),
    ("BeamSearch", [*beams(2, 9), None, None, None, None, None, one(1)], {"decoder": gpt(draw(1), WORDS)}, 1, "logits_processor"),
    ("Sampling", [one(9)], {"decoder": gpt(draw(1), WORDS)}, 2, "filtered_logits"),
    ("GreedySearch", [one(9)], {"decoder": gpt(draw(1), WORDS), "model_type": 1}, 1, "model_type 1")], ids=lambda x: x if isinstance(x, str) else "")
def test_what_is_not_supported_is_refused_by_name(op, rest, attributes, outputs, message) -> None:
    with pytest.raises(Exception, match=r"node.*" + message) as caught:
        sardonyx.InferenceSession(model(op, rest, attributes, outputs))
    assert "NotImplemented" in type(caught.value).__name__


@pytest.mark.parametrize(("rest", "message"), [([one(3), *beams(2, 9)[1:]], "max_length"), ([*beams(2, 9)[:3], one(3), one(1.0, np.float32)], "num_return_sequences")])
def test_sizes_that_do_not_fit_are_errors(rest, message: str) -> None:
    with pytest.raises(Exception, match=r"node.*" + message):
        sardonyx.InferenceSession(model("BeamSearch", rest, {"decoder": gpt(draw(1), WORDS)})).run(None, {"x0": np.ones((1, 3), np.int32)})


# -------------------------------------------------------------------------------------------------------------------- steps
@pytest.mark.parametrize("op", STEPS, ids=lambda o: o.name)
def test_steps_run_lowered_as_node_by_node(op) -> None:
    for s in op.samples():
        graph, feeds, _ = sample_graph(op, s)
        alone = interpret(graph, feeds)
        graph, feeds, sizes = sample_graph(op, s, lambda k, m, a: a.ndim > 1 and a.dtype != np.bool_ and not (op.name == "AdvanceBeams" and k < 2))
        for got, want in zip(interpret_lowered(graph, feeds, sizes), alone, strict=True):
            equal(got, want, 1e-6, 0)
