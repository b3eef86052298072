"""Tree ensembles: a routine walks every tree for every row over flat tables made when compiling."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Tensor
from ..loops import Ref, Routine, load, store
from .base import Lowering, Op, Sample, register
from .ml import Scores, decide, post_transformed

MODES = {"LEAF": -1, "BRANCH_LEQ": 0, "BRANCH_LT": 1, "BRANCH_GTE": 2, "BRANCH_GT": 3, "BRANCH_EQ": 4, "BRANCH_NEQ": 5, "BRANCH_MEMBER": 6}
SUM, MINIMUM, MAXIMUM = 0, 1, 2
ROWS = 16  # rows of one unit
AGGREGATE = 0  # what a call's constant stands for


@dataclass
class Forest:
    """Trees as tables: nodes by position, leaves as nodes of mode -1 with a range of (target, weight) entries.

    Args:
        features, modes, values, yes, no, missing: of each node; `yes` and `no` are positions of nodes, of a leaf the range of its entries. A membership
            node's value is the position of its first set member; the count stands in `missing` above bit 0.
        targets, weights: entries of leaves.
        members: values of the sets of membership nodes.
        roots: positions of the trees' roots.
    """

    features: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    yes: list[int] = field(default_factory=list)
    no: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def add(self, feature: int, mode: int, value: float, yes: int, no: int, missing: int) -> int:
        """Append a node; returns its position."""
        for table, v in zip((self.features, self.modes, self.yes, self.no, self.missing), (feature, mode, yes, no, missing)):
            table.append(v)
        self.values.append(value)
        return len(self.modes) - 1


def walk_trees(x, features, modes, values, links, missing, targets, weights, members, roots, y, rows, columns, trees, outputs, lo, hi):
    """y[row, target]: sum, minimum or maximum of the weights of the leaves that a row reaches; 0 where it reaches none."""
    for unit in range(lo, hi):
        for row in range(unit * ROWS, min(unit * ROWS + ROWS, rows)):
            base = row * outputs
            for j in range(outputs):
                store(y, base + j, 0)
            for tree in range(trees):
                at = load(roots, tree)
                mode = load(modes, at)
                while mode >= 0:
                    v = load(x, row * columns + load(features, at))
                    limit = load(values, at)
                    flags = load(missing, at)
                    taken = False
                    if v != v:
                        taken = flags % 2 == 1 or mode == 5
                    elif mode == 0:
                        taken = v <= limit
                    elif mode == 1:
                        taken = v < limit
                    elif mode == 2:
                        taken = v >= limit
                    elif mode == 3:
                        taken = v > limit
                    elif mode == 4:
                        taken = v == limit
                    elif mode == 5:
                        taken = v != limit
                    else:
                        first = int(limit)
                        for k in range(first, first + flags // 2):
                            if load(members, k) == v:
                                taken = True
                    at = load(links, 2 * at) if taken else load(links, 2 * at + 1)
                    mode = load(modes, at)
                for k in range(load(links, 2 * at), load(links, 2 * at + 1)):
                    to = base + load(targets, k)
                    w = load(weights, k)
                    if AGGREGATE == 0:
                        store(y, to, load(y, to) + w)
                    elif AGGREGATE == 1:
                        if tree == 0 or w < load(y, to):
                            store(y, to, w)
                    elif tree == 0 or w > load(y, to):
                        store(y, to, w)


WALK_TREES = Routine("walk_trees", walk_trees)


def evaluate_forest(n: Lowering, x: Tensor, forest: Forest, outputs: int, aggregate: int, kind: DType) -> Tensor:
    """[rows, outputs] of `kind`: the aggregated leaf weights."""
    if x.rank not in (1, 2):
        raise n.error(f"an input of rank {x.rank} was given, [rows, features] was expected")
    matrix = n.map(x.shape if x.rank == 2 else (1, *x.shape), lambda i, j: x[i, j] if x.rank == 2 else x[j], kind)

    def integers(values: Sequence[int]) -> Tensor:
        return n.constant(np.asarray(list(values) or [0], np.int32))

    def numbers(values: Sequence[float]) -> Tensor:
        return n.constant(np.asarray(list(values) or [0], kind.numpy))
    links = [v for pair in zip(forest.yes, forest.no) for v in pair]
    inputs = [matrix, integers(forest.features), integers(forest.modes), numbers(forest.values), integers(links), integers(forest.missing), integers(forest.targets),
              numbers(forest.weights), numbers(forest.members), integers(forest.roots)]
    rows, columns = matrix.shape
    return n.routine(WALK_TREES, inputs, [(kind, (rows, outputs))], [rows, columns, len(forest.roots), outputs], units=ex.ceildiv(rows, ROWS),
                     constants={"AGGREGATE": aggregate})[0]


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
    trees, nodes = [int(v) for v in n.attr("nodes_treeids") or ()], [int(v) for v in n.attr("nodes_nodeids") or ()]
    modes = [str(m) for m in n.attr("nodes_modes") or ()]
    features, yes, no = ([int(v) for v in n.attr(name) or ()] for name in ("nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids"))
    values = attribute_values(n, "nodes_values")
    tracks = [int(v) for v in n.attr("nodes_missing_value_tracks_true") or ()] or [0] * len(nodes)
    if not len(trees) == len(nodes) == len(modes) == len(features) == len(yes) == len(no) == len(values) == len(tracks):
        raise n.error("the lists that describe the trees' nodes have different lengths")
    if unknown := set(modes) - set(MODES):
        raise n.error(f"node modes {sorted(unknown)} are unknown")
    position = {key: k for k, key in enumerate(zip(trees, nodes))}
    entries: dict[tuple[int, int], list[tuple[int, float]]] = {}
    ids, weights = [int(v) for v in n.attr(f"{prefix}_ids") or ()], attribute_values(n, f"{prefix}_weights")
    for tree, node, target, weight in zip(n.attr(f"{prefix}_treeids") or (), n.attr(f"{prefix}_nodeids") or (), ids, weights):
        entries.setdefault((int(tree), int(node)), []).append((target, float(weight)))
    forest = Forest()
    for k, key in enumerate(zip(trees, nodes)):
        if modes[k] == "LEAF":
            first = len(forest.targets)
            for target, weight in entries.get(key, ()):
                forest.targets.append(target)
                forest.weights.append(weight)
            forest.add(0, -1, 0.0, first, len(forest.targets), 0)
            continue
        links = [position.get((trees[k], child)) for child in (yes[k], no[k])]
        if None in links:
            raise n.error(f"node {nodes[k]} of tree {trees[k]} leads to a node that does not exist")
        forest.add(features[k], MODES[modes[k]], float(values[k]), links[0], links[1], tracks[k] & 1)
    forest.roots = [min(k for k, t in enumerate(trees) if t == tree) for tree in dict.fromkeys(trees)]
    return forest


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
        ids = sorted(set(forest.targets))
        raw = evaluate_forest(n, x, forest, max(classes, 1, *(t + 1 for t in ids or [0])), SUM, forest_type(n, x))
        base = attribute_values(n, "base_values")
        table = n.constant(base.astype(raw.dtype.numpy)) if base.size else None
        single = classes <= 2 and len(ids) <= 1
        positive = min(forest.weights, default=0.0) >= 0
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
        def numbers(name: str) -> list[float]:
            found = n.attr(name)
            return [] if found is None else np.asarray(found).astype(np.float64).reshape(-1).tolist()
        modes, splits, features = numbers("nodes_modes"), numbers("nodes_splits"), numbers("nodes_featureids")
        branches = len(modes)
        tracks = numbers("nodes_missing_value_tracks_true") or [0] * branches
        members = numbers("membership_values")
        forest = Forest()
        at = 0
        for k in range(branches):
            yes, no = (int(v[k]) + (branches if leaf[k] else 0) for v, leaf in ((numbers("nodes_truenodeids"), numbers("nodes_trueleafs")),
                                                                              (numbers("nodes_falsenodeids"), numbers("nodes_falseleafs"))))
            mode, value, count = int(modes[k]), splits[k], 0
            if mode == MODES["BRANCH_MEMBER"]:
                value = float(len(forest.members))
                while at < len(members) and not np.isnan(members[at]):
                    forest.members.append(members[at])
                    at, count = at + 1, count + 1
                at += 1
            forest.add(int(features[k]), mode, value, yes, no, (int(tracks[k]) & 1) + 2 * count)
        for k, (target, weight) in enumerate(zip(numbers("leaf_targetids"), numbers("leaf_weights"))):
            forest.targets.append(int(target))
            forest.weights.append(weight)
            forest.add(0, -1, 0.0, k, k + 1, 0)
        for root in numbers("tree_roots"):
            forest.roots.append(int(root))
        if any(link >= len(forest.modes) for k in range(branches) for link in (forest.yes[k], forest.no[k])):
            raise n.error("a node leads to a node or leaf that does not exist")
        return forest

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([1.2, 3.4, -0.12, 1.66, 4.14, 1.77], np.float32).reshape(3, 2),),
                     {"n_targets": 2, "tree_roots": (0,), "nodes_modes": np.array([0, 0, 0], np.uint8), "nodes_featureids": (0, 0, 0),
                      "nodes_splits": np.array([3.14, 1.2, 4.2], np.float32), "nodes_truenodeids": (1, 0, 1), "nodes_trueleafs": (0, 1, 1),
                      "nodes_falsenodeids": (2, 2, 3), "nodes_falseleafs": (0, 1, 1), "leaf_targetids": (0, 1, 0, 1),
                      "leaf_weights": np.array([5.23, 12.12, -12.23, 7.21], np.float32)})
