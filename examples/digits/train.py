"""Train the network of `sardonyx demo` on scikit-learn's handwritten digits, with NumPy alone, and write it as ONNX.

    pip install scikit-learn onnx
    python train.py [FOLDER]        writes digits.onnx and samples.npz; FOLDER is runtime/data by default

The network takes 8 x 8 images of whole numbers 0 to 16 and gives ten probabilities and the likeliest digit:

    scale -> conv 3x3, 16 -> relu -> max pool -> conv 3x3, 32 -> relu -> max pool -> dense 10 -> softmax, argmax

A fifth of the 1,797 images is held back for testing and never trained on; the samples are some of those.
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

CHANNELS, CLASSES, EPOCHS, BATCH, RATE = (1, 16, 32), 10, 30, 32, 2e-3
SAMPLES = 200
Parameters = dict[str, np.ndarray]


# ------------------------------------------------------------------------------------------------------------------ layers
def patches(x: np.ndarray) -> np.ndarray:
    """f32[N, C, H, W] -> f32[N, H, W, C * 9]: the 3 x 3 surroundings of every pixel, zeros beyond the edge."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [padded[:, :, i:i + h, j:j + w] for i in range(3) for j in range(3)]
    return np.stack(taps, 2).transpose(0, 3, 4, 1, 2).reshape(n, h, w, c * 9)


def unpatch(g: np.ndarray, channels: int) -> np.ndarray:
    """The gradient of `patches`: every pixel collects what its nine copies got."""
    n, h, w, _ = g.shape
    taps = g.reshape(n, h, w, channels, 3, 3).transpose(0, 3, 4, 5, 1, 2)
    out = np.zeros((n, channels, h + 2, w + 2), g.dtype)
    for i in range(3):
        for j in range(3):
            out[:, :, i:i + h, j:j + w] += taps[:, :, i, j]
    return out[:, :, 1:-1, 1:-1]


def pool(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest of every 2 x 2 block, and a mask of where it stood."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
    best = blocks.max((3, 5), keepdims=True)
    mask = blocks == best
    return best[:, :, :, 0, :, 0], mask / mask.sum((3, 5), keepdims=True)


def forward(p: Parameters, images: np.ndarray) -> tuple[np.ndarray, list]:
    """Scores f32[N, 10] of images f32[N, 8, 8], and what the backward pass needs."""
    x, kept = images[:, None] / np.float32(16) - np.float32(0.5), []
    for layer in (1, 2):
        columns = patches(x)
        y = (columns @ p[f"w{layer}"].reshape(CHANNELS[layer], -1).T + p[f"b{layer}"]).transpose(0, 3, 1, 2)
        positive = y > 0
        x, mask = pool(y * positive)
        kept += [columns, positive, mask]
    flat = x.reshape(len(x), -1)
    kept.append(flat)
    return flat @ p["w3"] + p["b3"], kept


def gradients(p: Parameters, images: np.ndarray, labels: np.ndarray) -> tuple[float, Parameters]:
    """Mean cross-entropy of a batch and its derivative by every parameter."""
    scores, (*kept, flat) = forward(p, images)
    odds = np.exp(scores - scores.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    loss = float(-np.log(odds[np.arange(len(labels)), labels] + 1e-9).mean())
    g = odds
    g[np.arange(len(labels)), labels] -= 1
    g /= np.float32(len(labels))
    found = {"w3": flat.T @ g, "b3": g.sum(0)}
    g = (g @ p["w3"].T).reshape(len(images), CHANNELS[2], 2, 2)
    for layer in (2, 1):
        columns, positive, mask = kept[3 * layer - 3:3 * layer]
        g = (g[:, :, :, None, :, None] * mask).reshape(positive.shape) * positive
        g = g.transpose(0, 2, 3, 1)
        found[f"w{layer}"] = np.tensordot(g, columns, ((0, 1, 2), (0, 1, 2))).reshape(p[f"w{layer}"].shape)
        found[f"b{layer}"] = g.sum((0, 1, 2))
        if layer == 2:
            g = unpatch(g @ p["w2"].reshape(CHANNELS[2], -1), CHANNELS[1])
    return loss, found


# ---------------------------------------------------------------------------------------------------------------- training
def train(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Parameters:
    """Parameters after `EPOCHS` passes of Adam."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, fan_in: int) -> np.ndarray:
        return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    p = {"w1": normal(CHANNELS[1], 1, 3, 3, fan_in=9), "w2": normal(CHANNELS[2], CHANNELS[1], 3, 3, fan_in=9 * CHANNELS[1]),
         "w3": normal(CHANNELS[2] * 4, CLASSES, fan_in=CHANNELS[2] * 4)}
    p |= {f"b{k}": np.zeros(n, np.float32) for k, n in ((1, CHANNELS[1]), (2, CHANNELS[2]), (3, CLASSES))}
    mean, square = {k: np.zeros_like(v) for k, v in p.items()}, {k: np.zeros_like(v) for k, v in p.items()}
    step = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        losses = []
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        for at in range(0, len(order), BATCH):
            chosen = order[at:at + BATCH]
            loss, found = gradients(p, images[chosen], labels[chosen])
            losses.append(loss)
            step += 1
            for k, g in found.items():
                mean[k] = 0.9 * mean[k] + 0.1 * g
                square[k] = 0.999 * square[k] + 0.001 * g * g
                p[k] -= (rate * (mean[k] / (1 - 0.9**step)) / (np.sqrt(square[k] / (1 - 0.999**step)) + 1e-8)).astype(np.float32)
        print(f"epoch {epoch + 1:2d}: loss {np.mean(losses):.4f}")
    return p


# ------------------------------------------------------------------------------------------------------------------ export
def to_onnx(p: Parameters) -> object:
    """The network as an ONNX model: uint8[batch, 8, 8] -> probabilities f32[batch, 10], digit i64[batch]."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def constant(name: str, array: object) -> object:
        return numpy_helper.from_array(np.asarray(array), name)

    def node(op: str, inputs: str, output: str, **attributes: object) -> object:
        return helper.make_node(op, inputs.split(), [output], name=output, **attributes)

    nodes = [
        node("Cast", "image", "cast", to=TensorProto.FLOAT), node("Div", "cast sixteen", "scaled"), node("Sub", "scaled half", "centred"),
        node("Unsqueeze", "centred one", "channel"),
        node("Conv", "channel w1 b1", "conv1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Relu", "conv1", "relu1"),
        node("MaxPool", "relu1", "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "pool1 w2 b2", "conv2", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), node("Relu", "conv2", "relu2"),
        node("MaxPool", "relu2", "pool2", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "pool2", "flat"),
        node("Gemm", "flat w3 b3", "scores"), node("Softmax", "scores", "probabilities", axis=1),
        node("ArgMax", "scores", "digit", axis=1, keepdims=0),
    ]
    constants = [constant("sixteen", np.float32(16)), constant("half", np.float32(0.5)), constant("one", np.array([1]))]
    constants += [constant(k, v) for k, v in p.items()]
    graph = helper.make_graph(
        nodes, "digits", [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES]),
         helper.make_tensor_value_info("digit", TensorProto.INT64, ["batch"])], constants)
    model = helper.make_model(graph, producer_name="sardonyx examples/digits", opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def main() -> None:
    from sklearn.datasets import load_digits

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "runtime" / "data"
    digits = load_digits()
    images, labels = digits.images.astype(np.float32), digits.target.astype(np.int64)
    order = np.random.default_rng(1).permutation(len(images))
    test, rest = order[:len(order) // 5], order[len(order) // 5:]
    p = train(images[rest], labels[rest])
    scores, _ = forward(p, images[test])
    print(f"accuracy on {len(test)} images never trained on: {np.mean(scores.argmax(1) == labels[test]):.4f}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digits.onnx").write_bytes(to_onnx(p).SerializeToString())
    np.savez_compressed(folder / "samples.npz", images=images[test[:SAMPLES]].astype(np.uint8), labels=labels[test[:SAMPLES]].astype(np.uint8))


if __name__ == "__main__":
    main()
