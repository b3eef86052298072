"""Tree ensembles: what their attributes say becomes a forest of flat tables."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Tensor
from ..loops import Ref
from .base import Lowering, Op, Sample, register
from .forest import MAXIMUM, MINIMUM, MODES, SUM, Forest, evaluate_forest
from .ml import Scores, decide, post_transformed


def attribute_values(n: Lowering, name: str) -> np.ndarray:
    """A list of numbers given as floats or, since version 3, as a tensor."""
    tensor = n.attr(f"{name}_as_tensor")
    if isinstance(tensor, np.ndarray) and tensor.size:
        return tensor.reshape(-1)
    return np.asarray(n.attr(name) or (), np.float32)


def read_forest(n: Lowering, prefix: str) -> Forest:
    """The trees that the parallel lists of a classifier's (`class`) or regressor's (`target`) attributes describe.

    Raises:
        ModelError: lists of different lengths, unknown modes, or links to nodes that do not exist.
    """
    def integers(name: str) -> np.ndarray:
        return np.asarray(n.attr(name) or (), np.int64)
    trees, nodes, features, yes, no = (integers(f"nodes_{k}") for k in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids"))
    values, names = attribute_values(n, "nodes_values"), n.attr("nodes_modes") or ()
    tracks = integers("nodes_missing_value_tracks_true")
    tracks = tracks if tracks.size else np.zeros_like(nodes)
    if len({len(v) for v in (trees, nodes, names, features, yes, no, values, tracks)}) != 1:
        raise n.error("the lists that describe the trees' nodes have different lengths")
    if unknown := set(names) - set(MODES):
        raise n.error(f"node modes {sorted(unknown)} are unknown")
    modes = np.fromiter((MODES[m] for m in names), np.int64, len(names))
    leaf, count = modes < 0, len(nodes)
    ids, weights = integers(f"{prefix}_ids"), attribute_values(n, f"{prefix}_weights")
    owners, ends = integers(f"{prefix}_treeids"), integers(f"{prefix}_nodeids")
    entries = min(map(len, (ids, weights, owners, ends)))
    position = _positions(np.concatenate([trees, trees, trees, owners[:entries]]), np.concatenate([nodes, yes, no, ends[:entries]]), count)
    yes, no, at = position[count:2 * count], position[2 * count:3 * count], position[3 * count:]
    lost = np.flatnonzero(~leaf & ((yes < 0) | (no < 0)))
    if lost.size:
        raise n.error(f"node {nodes[lost[0]]} of tree {trees[lost[0]]} leads to a node that does not exist")
    kept = np.flatnonzero(at >= 0)
    kept = kept[leaf[at[kept]]]
    kept = kept[np.argsort(at[kept], kind="stable")]
    first, last = (np.searchsorted(at[kept], position[:count], side) for side in ("left", "right"))
    return Forest(np.where(leaf, 0, features), modes, np.where(leaf, 0.0, values.astype(np.float64)), np.where(leaf, first, yes), np.where(leaf, last, no),
                  np.where(leaf, 0, tracks & 1), ids[kept], weights[kept].astype(np.float64), np.zeros(0), np.sort(np.unique(trees, return_index=True)[1]))


def _positions(trees: np.ndarray, nodes: np.ndarray, count: int) -> np.ndarray:
    """Where among the first `count` pairs (tree, node) each pair stands last; -1 where it does not."""
    names, found = np.unique(nodes, return_inverse=True)
    keys = np.unique(trees, return_inverse=True)[1] * names.size + found
    order = np.argsort(keys[:count], kind="stable")
    place = np.searchsorted(keys[order], keys, "right") - 1
    if not count:
        return np.full(keys.size, -1)
    at = order[np.maximum(place, 0)]
    return np.where(keys[at] == keys, at, -1)


def forest_type(n: Lowering, x: Tensor) -> DType:
    """Doubles are walked as doubles, everything else in float32."""
    return dt.float64 if x.dtype is dt.float64 else dt.float32


@register
class TreeEnsembleRegressor(Op):
    """Sum, mean, minimum or maximum of the leaves that a row reaches, plus base values. Source: ai.onnx.ml TreeEnsembleRegressor-5."""

    domain, name, versions = "ai.onnx.ml", "TreeEnsembleRegressor", (1, 3, 5)
    attributes = {"aggregate_function": "SUM", "post_transform": "NONE", "n_targets": 1}

    def lower(self, n: Lowering) -> Tensor:
        x, outputs, function = n.input(0), int(n.attr("n_targets")), str(n.attr("aggregate_function"))
        kinds = {"SUM": SUM, "AVERAGE": SUM, "MIN": MINIMUM, "MAX": MAXIMUM}
        if function not in kinds:
            raise n.error(f"aggregate_function '{function}' is unknown")
        forest = read_forest(n, "target")
        raw = evaluate_forest(n, x, forest, outputs, kinds[function], forest_type(n, x))
        count = float(len(forest.roots)) if function == "AVERAGE" else 1.0
        base = attribute_values(n, "base_values")
        table = n.constant(base.astype(raw.dtype.numpy)) if base.size else None
        summed = n.map(raw.shape, lambda i, j: raw[i, j] / count + (table[j if base.size == outputs else ex.const(0)] if table is not None else ex.const(0, raw.dtype)))
        return post_transformed(n, summed, str(n.attr("post_transform")), dt.float32)

    def samples(self) -> Iterator[Sample]:
        x = np.array([[1.0, 5.0], [3.0, 2.0], [2.5, 3.0]], np.float32)
        yield Sample((x,), _small_trees("target") | {"n_targets": 2, "base_values": (0.5, -0.5)}, version=3)
        yield Sample((x,), _small_trees("target") | {"n_targets": 2, "aggregate_function": "AVERAGE"}, version=3)


@register
class TreeEnsembleClassifier(Op):
    """Labels and scores from the leaves that a row reaches. Source: ai.onnx.ml TreeEnsembleClassifier-5."""

    domain, name, versions = "ai.onnx.ml", "TreeEnsembleClassifier", (1, 3, 5)
    attributes = {"post_transform": "NONE"}

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        x = n.input(0)
        classes = len(n.attr("classlabels_int64s") or n.attr("classlabels_strings") or ())
        forest = read_forest(n, "class")
        ids = np.unique(forest.targets).tolist()
        raw = evaluate_forest(n, x, forest, max(classes, 1, *(t + 1 for t in ids or [0])), SUM, forest_type(n, x))
        base = attribute_values(n, "base_values")
        table = n.constant(base.astype(raw.dtype.numpy)) if base.size else None
        single = classes <= 2 and len(ids) <= 1
        positive = bool((forest.weights >= 0).all())
        if single:
            column = ex.const(ids[0] if ids else 0)
            start = ex.const(0, raw.dtype) if table is None else table[ex.const(base.size - 1)]
            score = n.map((raw.shape[0], 1), lambda i, j: raw[i, column] + start)
            return decide(n, Scores(score, "classlabels_int64s", "classlabels_strings", positive), str(n.attr("post_transform")))
        scores = n.map(raw.shape, lambda i, j: raw[i, j] + (table[j] if table is not None and base.size > 1 else ex.const(0, raw.dtype)))
        return decide(n, Scores(scores, "classlabels_int64s", "classlabels_strings", positive), str(n.attr("post_transform")))

    def samples(self) -> Iterator[Sample]:
        x = np.array([[1.0, 5.0], [3.0, 2.0], [2.5, 9.0], [0.0, 0.0]], np.float32)
        for transform in ("NONE", "SOFTMAX", "LOGISTIC"):
            yield Sample((x,), _small_trees("class", (0, 1, 2)) | {"classlabels_int64s": (7, 8, 9), "post_transform": transform}, outputs=2, version=3)
        yield Sample((x,), _small_trees("class", (0, 0, 0)) | {"classlabels_int64s": (0, 1), "post_transform": "LOGISTIC"}, outputs=2, version=3)
        yield Sample((x,), _small_trees("class", (0, 0, 0), 0.1) | {"classlabels_int64s": (0, 1)}, outputs=2, version=3)


def _small_trees(prefix: str, ids: tuple[int, int, int] = (0, 1, 1), scale: float = 1.0) -> dict[str, object]:
    """Two trees of one and two branches, for samples."""
    return {
        "nodes_treeids": (0, 0, 0, 1, 1, 1, 1, 1), "nodes_nodeids": (0, 1, 2, 0, 1, 2, 3, 4), "nodes_featureids": (0, 0, 0, 1, 0, 0, 0, 0),
        "nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LT", "BRANCH_GT", "LEAF", "LEAF", "LEAF"),
        "nodes_values": (2.0, 0.0, 0.0, 4.0, 0.5, 0.0, 0.0, 0.0), "nodes_truenodeids": (1, 0, 0, 1, 3, 0, 0, 0), "nodes_falsenodeids": (2, 0, 0, 2, 4, 0, 0, 0),
        f"{prefix}_treeids": (0, 0, 1, 1, 1), f"{prefix}_nodeids": (1, 2, 2, 3, 4), f"{prefix}_ids": (ids[0], ids[1], ids[2], ids[0], ids[1]),
        f"{prefix}_weights": (1.5 * scale, -2.0 * scale if scale == 1.0 else 2.0 * scale, 0.25 * scale, 3.0 * scale, 4.0 * scale),
    }


@register
class TreeEnsemble(Op):
    """Trees with separate leaf tables and set membership. Source: ai.onnx.ml TreeEnsemble-5."""

    domain, name, versions = "ai.onnx.ml", "TreeEnsemble", (5,)
    attributes = {"aggregate_function": 1, "post_transform": 0, "n_targets": 1}

    def lower(self, n: Lowering) -> Tensor:
        x, outputs = n.input(0), int(n.attr("n_targets"))
        function = int(n.attr("aggregate_function"))
        if function not in range(4):
            raise n.error(f"aggregate_function {function} is unknown")
        forest = self.read(n)
        raw = evaluate_forest(n, x, forest, outputs, (SUM, SUM, MINIMUM, MAXIMUM)[function], dt.compute_type(x.dtype))
        count = float(len(forest.roots)) if function == 0 else 1.0
        mean = n.map(raw.shape, lambda i, j: raw[i, j] / count)
        return post_transformed(n, mean, ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[int(n.attr("post_transform"))], x.dtype)

    @staticmethod
    def read(n: Lowering) -> Forest:
        """Branch nodes keep their positions; leaves follow them."""
        def numbers(name: str, kind: type = np.int64) -> np.ndarray:
            found = n.attr(name)
            return np.zeros(0, kind) if found is None else np.asarray(found).astype(kind).reshape(-1)
        modes, values, features = numbers("nodes_modes"), numbers("nodes_splits", np.float64), numbers("nodes_featureids")
        branches, leaves = len(modes), numbers("leaf_targetids").size
        tracks = numbers("nodes_missing_value_tracks_true")
        missing = tracks & 1 if tracks.size else np.zeros(branches, np.int64)
        members = numbers("membership_values", np.float64)
        yes, no = (numbers(f"nodes_{k}nodeids") + branches * (numbers(f"nodes_{k}leafs") != 0) for k in ("true", "false"))
        weights = numbers("leaf_weights", np.float64)
        if len({len(v) for v in (modes, values, features, missing, yes, no)}) != 1 or leaves != weights.size:
            raise n.error("the lists that describe the trees' nodes or leaves have different lengths")
        roots = numbers("tree_roots")
        if any(v.size and not 0 <= v.min() <= v.max() < branches + leaves for v in (yes, no, roots)):
            raise n.error("a node leads to a node or leaf that does not exist")
        values = values.copy()
        sets = np.flatnonzero(modes == MODES["BRANCH_MEMBER"])
        if sets.size:
            stops = np.append(np.flatnonzero(np.isnan(members)), members.size)
            starts = np.append(0, stops + 1)
            for k, node in enumerate(sets):
                start, stop = (starts[k], stops[k]) if k < stops.size else (0, 0)
                values[node], missing[node] = start, missing[node] + 2 * (stop - start)
        return Forest(np.append(features, np.zeros(leaves, np.int64)), np.append(modes, np.full(leaves, -1)), np.append(values, np.zeros(leaves)),
                      np.append(yes, np.arange(leaves)), np.append(no, np.arange(1, leaves + 1)), np.append(missing, np.zeros(leaves, np.int64)), numbers("leaf_targetids"),
                      weights, members, roots)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([1.2, 3.4, -0.12, 1.66, 4.14, 1.77], np.float32).reshape(3, 2),),
                     {"n_targets": 2, "tree_roots": (0,), "nodes_modes": np.array([0, 0, 0], np.uint8), "nodes_featureids": (0, 0, 0),
                      "nodes_splits": np.array([3.14, 1.2, 4.2], np.float32), "nodes_truenodeids": (1, 0, 1), "nodes_trueleafs": (0, 1, 1),
                      "nodes_falsenodeids": (2, 2, 3), "nodes_falseleafs": (0, 1, 1), "leaf_targetids": (0, 1, 0, 1),
                      "leaf_weights": np.array([5.23, 12.12, -12.23, 7.21], np.float32)})
