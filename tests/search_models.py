"""Small random language models, as the sub-graphs that com.microsoft's search operators carry."""
from __future__ import annotations

import numpy as np
import onnx
from contrib_cases import Draw
from onnx import TensorProto, helper, numpy_helper

HEADS, WIDTH = 2, 3
EMBEDDING = HEADS * WIDTH
I32, F32 = TensorProto.INT32, TensorProto.FLOAT


class Sketch:
    """A graph being written: constants and nodes with names of their own."""

    def __init__(self, r: Draw) -> None:
        self.r, self.nodes, self.constants, self.count = r, [], [], 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def constant(self, value: np.ndarray | np.generic | list[int]) -> str:
        array = np.asarray(value, np.int64 if isinstance(value, list) else None)
        self.constants.append(numpy_helper.from_array(array, self.name("c")))
        return self.constants[-1].name

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant(self.r.real(*shape, scale=scale))

    def add(self, op: str, *inputs: str, out: str | None = None, outputs: int = 1, domain: str = "", **attributes: object) -> str:
        names = [out or self.name(op.lower())] + [self.name(op.lower()) for _ in range(outputs - 1)]
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0]

    def graph(self, inputs: list[tuple[str, int, list[object]]], outputs: list[tuple[str, int, list[object]]]) -> onnx.GraphProto:
        infos = [[helper.make_tensor_value_info(n, t, s) for n, t, s in side] for side in (inputs, outputs)]
        return helper.make_graph(self.nodes, "model", infos[0], infos[1], self.constants)

    # ---- layers
    def split_heads(self, x: str, out: str | None = None) -> str:
        """[N, s, E] -> [N, H, s, D]"""
        return self.add("Transpose", self.add("Reshape", x, self.constant([0, 0, HEADS, WIDTH])), out=out, perm=[0, 2, 1, 3])

    def attend(self, query: str, key: str, value: str, mask: str | None = None) -> str:
        """[N, s, E] from heads; `mask` [N, t] is 0 where nothing is to be seen."""
        scores = self.add("MatMul", query, self.add("Transpose", key, perm=[0, 1, 3, 2]))
        if mask is not None:
            hidden = self.add("Mul", self.add("Sub", self.constant(np.float32(1)), self.add("Cast", mask, to=F32)), self.constant(np.float32(-1e4)))
            scores = self.add("Add", scores, self.add("Unsqueeze", hidden, self.constant([1, 2])))
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), value)
        return self.add("Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), self.constant([0, 0, EMBEDDING]))


def gpt(r: Draw, vocabulary: int, layers: int = 1, longest: int = 32, endless: int | None = None) -> onnx.GraphProto:
    """A decoder with a past state for each layer; its last row never chooses token `endless`."""
    s = Sketch(r)
    x = s.add("Add", s.add("Gather", s.weight(vocabulary, EMBEDDING), "input_ids"), s.add("Gather", s.weight(longest, EMBEDDING), "position_ids"))
    for k in range(layers):
        mixed = s.name("mixed")
        s.nodes.append(helper.make_node("Attention", [x, s.weight(EMBEDDING, 3 * EMBEDDING), s.weight(3 * EMBEDDING), "attention_mask", f"past_{k}"], [mixed, f"present_{k}"],
                                        domain="com.microsoft", num_heads=HEADS, unidirectional=1))
        x = s.add("Add", x, s.add("Tanh", s.add("MatMul", mixed, s.weight(EMBEDDING, EMBEDDING))))
    plain = s.add("MatMul", x, s.weight(EMBEDDING, vocabulary, scale=0.7), out="logits" if endless is None else None)
    if endless is not None:
        rows = s.add("Squeeze", s.add("Shape", "input_ids", end=1), s.constant([0]))
        row = s.add("Range", s.constant(np.int64(0)), rows, s.constant(np.int64(1)))
        last = s.add("Cast", s.add("Equal", row, s.add("Sub", rows, s.constant(np.int64(1)))), to=F32)
        never = s.constant(np.where(np.arange(vocabulary) == endless, np.float32(-1e4), np.float32(0)))
        s.add("Add", plain, s.add("Mul", s.add("Unsqueeze", last, s.constant([1, 2])), never), out="logits")
    pasts = [(f"past_{k}", F32, [2, "batch", HEADS, "past", WIDTH]) for k in range(layers)]
    presents = [(f"present_{k}", F32, [2, "batch", HEADS, "total", WIDTH]) for k in range(layers)]
    return s.graph([("input_ids", I32, ["batch", "length"]), ("position_ids", I32, ["batch", "length"]), ("attention_mask", I32, ["batch", "total"]), *pasts],
                   [("logits", F32, ["batch", "length", vocabulary]), *presents])


class T5:
    """An encoder and a decoder that share the decoder's weights.

    Args:
        parts: which optional inputs the decoder has: `ids` (of the encoder), `hidden` (states), `all` (it takes the whole sequence).
        apart: whether the encoder gives the cross states alone.
        features: 0, or how many features of sound the encoder takes (as Whisper's does) in place of prompts and mask.
    """

    def __init__(self, r: Draw, vocabulary: int, layers: int = 1, parts: frozenset[str] = frozenset(), apart: bool = False, features: int = 0) -> None:
        self.r, self.vocabulary, self.layers, self.parts, self.apart, self.features = r, vocabulary, layers, parts, apart, features
        self.weights = {name: [r.real(*shape) for _ in range(layers)] for name, shape in (("self", (EMBEDDING, 3 * EMBEDDING)), ("query", (EMBEDDING, EMBEDDING)))}
        self.table, self.head = r.real(vocabulary, EMBEDDING), r.real(EMBEDDING, vocabulary, scale=0.7)

    def step(self, s: Sketch, ids: str, mask: str | None, past: list[str], cross: list[str]) -> list[tuple[str, int, list[object]]]:
        """The decoder's layers for tokens [N, 1]; gives the graph's outputs."""
        x = s.add("Gather", s.constant(self.table), ids)
        outputs = []
        for k in range(self.layers):
            parts = [s.name("part") for _ in range(3)]
            s.nodes.append(helper.make_node("Split", [s.add("MatMul", x, s.constant(self.weights["self"][k]))], parts, axis=2, num_outputs=3))
            query = s.split_heads(parts[0])
            present = []
            for j, kind in enumerate(("key", "value")):
                name = f"present_{kind}_self_{k}"
                if past:
                    s.add("Concat", past[2 * k + j], s.split_heads(parts[1 + j]), out=name, axis=2)
                else:
                    s.split_heads(parts[1 + j], out=name)
                present.append(name)
                outputs.append((name, F32, ["batch", HEADS, "grown", WIDTH]))
            x = s.add("Add", x, s.add("Tanh", s.attend(query, *present)))
            asked = s.split_heads(s.add("MatMul", x, s.constant(self.weights["query"][k])))
            x = s.add("Add", x, s.attend(asked, cross[2 * k], cross[2 * k + 1], mask))
        s.add("MatMul", x, s.constant(self.head), out="logits")
        return [("logits", F32, ["batch", "first" if self.features and not past else 1, self.vocabulary]), *outputs]

    def encoder(self) -> onnx.GraphProto:
        s = Sketch(self.r)
        if self.features:
            seen = s.add("MatMul", s.add("Transpose", "encoder_input_ids", perm=[0, 2, 1]), s.weight(self.features, EMBEDDING))
        else:
            seen = s.add("Gather", s.weight(self.vocabulary, EMBEDDING), "encoder_input_ids")
        hidden = s.add("Tanh", seen, out="encoder_hidden_states")
        cross, outputs = [], []
        for k in range(self.layers):
            for kind in ("key", "value"):
                cross.append(s.split_heads(s.add("MatMul", hidden, s.weight(EMBEDDING, EMBEDDING)), out=f"present_{kind}_cross_{k}"))
                outputs.append((cross[-1], F32, ["batch", HEADS, "encoded", WIDTH]))
        inputs = [("encoder_input_ids", I32, ["batch", "encoded"]), ("encoder_attention_mask", I32, ["batch", "encoded"])]
        if self.features:
            inputs = [("encoder_input_ids", F32, ["batch", self.features, "encoded"])]
        if not self.apart:
            first, *own = self.step(s, "decoder_input_ids", None if self.features else "encoder_attention_mask", [], cross)
            outputs = [first, ("encoder_hidden_states", F32, ["batch", "encoded", EMBEDDING]), *own, *outputs]
            inputs.append(("decoder_input_ids", I32, ["batch", "first" if self.features else 1]))
        return s.graph(inputs, outputs)

    def decoder(self) -> onnx.GraphProto:
        s = Sketch(self.r)
        pasts = [f"past_{kind}_self_{k}" for k in range(self.layers) for kind in ("key", "value")]
        cross = [f"past_{kind}_cross_{k}" for k in range(self.layers) for kind in ("key", "value")]
        ids = s.add("Gather", "input_ids", s.constant([-1]), axis=1) if "all" in self.parts else "input_ids"
        outputs = self.step(s, ids, None if self.features else "encoder_attention_mask", pasts, cross)
        inputs: list[tuple[str, int, list[object]]] = [("input_ids", I32, ["batch", "length" if "all" in self.parts else 1])]
        logits = s.nodes[-1]
        extra = []
        if "ids" in self.parts:
            inputs.append(("encoder_input_ids", I32, ["batch", "encoded"]))
            extra.append(s.add("ReduceMean", s.add("Cast", "encoder_input_ids", to=F32), s.constant([1]), keepdims=1))
        if not self.features:
            inputs.append(("encoder_attention_mask", I32, ["batch", "encoded"]))
        if "hidden" in self.parts:
            inputs.append(("encoder_hidden_states", F32, ["batch", "encoded", EMBEDDING]))
            extra.append(s.add("ReduceMean", "encoder_hidden_states", s.constant([1, 2]), keepdims=0))
            extra[-1] = s.add("Unsqueeze", extra[-1], s.constant([1]))
        if extra:
            logits.output[0] = "plain_logits"
            total = extra[0] if len(extra) == 1 else s.add("Add", *extra)
            tilt = s.add("Mul", s.add("Unsqueeze", total, s.constant([2])), s.weight(self.vocabulary, scale=0.3))
            s.add("Add", "plain_logits", tilt, out="logits")
        inputs += [(p, F32, ["batch", HEADS, "past", WIDTH]) for p in pasts] + [(c, F32, ["batch", HEADS, "encoded", WIDTH]) for c in cross]
        return s.graph(inputs, outputs)
