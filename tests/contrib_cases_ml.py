"""Cases of the operators of ai.onnx.ml."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contrib_cases import Case, Draw, cases

ML = "ai.onnx.ml"
NUMBERS = (np.float32, np.float64, np.int64, np.int32)
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def numbers(r: Draw, k: int, *shape: int) -> np.ndarray:
    kind = NUMBERS[k % 4]
    return r.real(*shape, dtype=kind, scale=2) if np.dtype(kind).kind == "f" else r.ints(-4, 5, *shape, dtype=kind)


def rows(r: Draw, k: int) -> list[int]:
    """[rows, features]; sometimes no rows."""
    return [0 if k % 13 == 12 else r.size(1, 6), r.size(1, 6)]


def words(r: Draw, *shape: int) -> np.ndarray:
    return np.vectorize(lambda j: ("cat", "dog", "élan", "", "x y", "9")[j], otypes=[object])(r.ints(0, 6, *shape))


def reals(r: Draw, count: int) -> list[float]:
    return [float(v) for v in r.real(count)]


@cases(ML, "ArrayFeatureExtractor")
def extractor(r: Draw) -> Iterator[Case]:
    for k in range(25):
        shape = [r.size(1, 5), *([r.size(1, 4)] if k % 3 else []), r.size(1, 6)]
        x = words(r, *shape) if k % 5 == 4 else numbers(r, k, *shape)
        yield Case([x, r.ints(0, shape[-1], *([1] if k % 2 else []), r.size(1, 4))])


@cases(ML, "Binarizer")
def binarizer(r: Draw) -> Iterator[Case]:
    for k in range(20):
        yield Case([r.real(*rows(r, k))], {"threshold": float(r.real())} if k % 4 else {})


@cases(ML, "CategoryMapper")
def mapper(r: Draw) -> Iterator[Case]:
    pairs = {"cats_strings": ["cat", "dog", "x y"], "cats_int64s": [3, 1, 2]}
    for k in range(20):
        x = words(r, *rows(r, k)) if k % 2 else r.ints(0, 6, *rows(r, k))
        yield Case([x], {**pairs, **({"default_int64": -7, "default_string": "none"} if k % 3 else {})})


@cases(ML, "FeatureVectorizer")
def vectorizer(r: Draw) -> Iterator[Case]:
    for k in range(20):
        count, widths = r.size(1, 4), [r.size(1, 4) for _ in range(r.size(1, 3))]
        yield Case([numbers(r, k, count, w) for w in widths], {"inputdimensions": widths})


@cases(ML, "Imputer")
def imputer(r: Draw) -> Iterator[Case]:
    for k in range(24):
        shape, whole = rows(r, k), k % 3 == 2
        each = 1 if k % 2 else shape[1]
        if whole:
            yield Case([r.ints(0, 4, *shape)], {"imputed_value_int64s": [int(v) for v in r.ints(7, 99, each)], "replaced_value_int64": 2})
        else:
            x = r.ints(0, 4, *shape).astype(np.float32)
            missing = float("nan") if k % 4 == 1 else 2.0
            yield Case([np.where(x == 2, np.float32(missing), x)], {"imputed_value_floats": reals(r, each), "replaced_value_float": missing})


@cases(ML, "LabelEncoder")
def encoder(r: Draw) -> Iterator[Case]:
    keys = {"keys_strings": ["cat", "dog", "x y"], "keys_int64s": [0, 2, -1], "keys_floats": [0.0, 2.0, float("nan")]}
    values = {"values_strings": ["a", "b", "c"], "values_int64s": [5, 6, 7], "values_floats": [0.5, -1.5, 2.5]}
    ways = [("keys_strings", "values_int64s"), ("keys_int64s", "values_strings"), ("keys_int64s", "values_floats"), ("keys_floats", "values_int64s"),
            ("keys_strings", "values_floats"), ("keys_floats", "values_strings"), ("keys_strings", "values_strings"), ("keys_int64s", "values_int64s")]
    for k in range(32):
        source, to = ways[k % 8]
        shape = rows(r, k)
        x = words(r, *shape) if source == "keys_strings" else r.ints(-2, 4, *shape).astype(np.int64 if source == "keys_int64s" else np.float32)
        if source == "keys_floats":
            x = np.where(x == 3, np.float32("nan"), x)
        default = {"values_int64s": {"default_int64": -9}, "values_strings": {"default_string": "none"}, "values_floats": {"default_float": 9.5}}[to] if k % 3 else {}
        yield Case([x], {source: keys[source], to: values[to], **default}, opset=2 if k % 5 == 0 else 4)


@cases(ML, "LinearRegressor", ulps=64)
def regressor(r: Draw) -> Iterator[Case]:
    for k in range(24):
        shape, targets = rows(r, k), r.size(1, 4)
        transform = r.pick("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO") if targets > 1 else "NONE"  # ONNX Runtime leaves single targets as they are
        yield Case([r.real(*shape)], {"coefficients": reals(r, targets * shape[1]), "targets": targets, "post_transform": transform, **({"intercepts": reals(r, targets)} if k % 3 else {})})


@cases(ML, "LinearClassifier", ulps=64)
def classifier(r: Draw) -> Iterator[Case]:
    for k in range(36):
        shape, classes = rows(r, k), r.size(1, 4)
        labels = {"classlabels_ints": [3, 1, 7, 2][:max(classes, 1)]} if k % 2 else {"classlabels_strings": ["a", "b", "c", "d"][:max(classes, 1)]}
        yield Case([numbers(r, k // 2, *shape)], {"coefficients": reals(r, classes * shape[1]), "intercepts": reals(r, classes), "post_transform": TRANSFORMS[k % 4 if classes > 1 else 0],
                                                  **labels, **({"multi_class": 1} if k % 3 else {})}, 2)


@cases(ML, "Normalizer")
def normalizer(r: Draw) -> Iterator[Case]:
    for k in range(24):
        shape = rows(r, k)
        yield Case([numbers(r, k, *(shape if k % 4 else shape[1:]))], {"norm": ("MAX", "L1", "L2")[k % 3]} if k % 5 else {})


@cases(ML, "OneHotEncoder")
def one_hot(r: Draw) -> Iterator[Case]:
    for k in range(24):
        shape, zeros = rows(r, k), {"zeros": 1} if k % 2 else {}
        if k % 3 == 2:
            yield Case([words(r, *shape)], {"cats_strings": ["cat", "dog", "", "x y", "élan", "9"], **zeros})
        else:
            yield Case([r.ints(0, 6, *shape).astype(NUMBERS[k % 4])], {"cats_int64s": [2, 0, 1, 5, 4, 3] if k % 5 else [2, 0], **zeros})


@cases(ML, "Scaler")
def scaler(r: Draw) -> Iterator[Case]:
    for k in range(24):
        shape = rows(r, k)
        count = 1 if k % 3 == 0 else shape[1]
        yield Case([numbers(r, k, *shape)], {"scale": reals(r, count), "offset": reals(r, count)})


@cases(ML, "ZipMap")
def zip_map(r: Draw) -> Iterator[Case]:
    for k in range(20):
        shape = rows(r, k)
        yield Case([r.real(*shape)], {"classlabels_int64s": list(range(5, 5 + shape[1]))} if k % 2 else {"classlabels_strings": [f"c{j}" for j in range(shape[1])]})


def kernel(r: Draw, k: int) -> dict[str, object]:
    return {"kernel_type": ("LINEAR", "POLY", "RBF", "SIGMOID")[k % 4], "kernel_params": [0.3, 0.5, 2.0]}


@cases(ML, "SVMRegressor", ulps=256)
def svm_regressor(r: Draw) -> Iterator[Case]:
    for k in range(24):
        shape, supports = rows(r, k), r.size(1, 5)
        extra = {"one_class": 1} if k % 3 == 1 else {}
        yield Case([r.real(*shape)], {**kernel(r, k), "coefficients": reals(r, supports), "support_vectors": reals(r, supports * shape[1]), "n_supports": supports, "rho": reals(r, 1), **extra})


@cases(ML, "SVMClassifier", ulps=512)
def svm_classifier(r: Draw) -> Iterator[Case]:
    for k in range(28):
        shape, classes = rows(r, k), r.size(2, 4)
        per = [r.size(1, 3) for _ in range(classes)]
        supports, pairs = sum(per), classes * (classes - 1) // 2
        labels = {"classlabels_ints": [3, 1, 7, 2][:classes]} if k % 2 else {"classlabels_strings": ["a", "b", "c", "d"][:classes]}
        likely = {"prob_a": reals(r, pairs), "prob_b": reals(r, pairs)} if k % 3 == 2 else {}
        yield Case([numbers(r, k // 4 * 2 % 2, *shape)], {**kernel(r, k), **labels, "coefficients": reals(r, supports * (classes - 1)), "support_vectors": reals(r, supports * shape[1]),
                                                          "vectors_per_class": per, "rho": reals(r, pairs), **likely}, 2)


def forest(r: Draw, trees: int, features: int, weights: int, classes: bool) -> dict[str, object]:
    """Attributes of random trees of depth up to 3; `weights` targets or classes."""
    nodes: dict[str, list] = {n: [] for n in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids", "missing_value_tracks_true")}
    leaves: dict[str, list] = {n: [] for n in ("treeids", "nodeids", "ids", "weights")}
    modes = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
    mode = r.pick(*modes) if r.flag() else None
    for tree in range(trees):
        pending, number = [(0, 0)], 1
        while pending:
            node, depth = pending.pop()
            leaf = depth == 3 or (depth > 0 and r.flag())
            true, false = (0, 0) if leaf else (number, number + 1)
            row = (tree, node, r.size(0, features - 1), float(np.float32(round(float(r.real()), 1))), "LEAF" if leaf else mode or r.pick(*modes), true, false, r.flag())
            for column, value in zip(nodes.values(), row):
                column.append(value)
            if leaf:
                for target in range(weights):  # all: ONNX Runtime adds no base value where a row meets no weight
                    for column, value in zip(leaves.values(), (tree, node, target, float(r.real()))):
                        column.append(value)
            else:
                number += 2
                pending += [(true, depth + 1), (false, depth + 1)]
    part = "class" if classes else "target"
    return {**{f"nodes_{n}": v for n, v in nodes.items()}, **{f"{part}_{n}": v for n, v in leaves.items()}}


def samples(r: Draw, k: int, features: int) -> np.ndarray:
    x = np.round(r.real(0 if k % 13 == 12 else r.size(1, 12), features), 1)
    return np.where(r.uniform(0, 1, *x.shape) < 0.1, np.float32("nan"), x).astype((np.float32, np.float32, np.float64)[k % 3])


@cases(ML, "TreeEnsembleRegressor", ulps=64)
def tree_regressor(r: Draw) -> Iterator[Case]:
    for k in range(24):
        features, targets = r.size(1, 5), r.size(1, 3)
        extra = {"aggregate_function": r.pick("SUM", "AVERAGE", "MIN", "MAX")} if k % 2 else {}
        yield Case([samples(r, k, features)], {**forest(r, r.size(1, 5), features, targets, False), "n_targets": targets, **extra, **({"base_values": reals(r, targets)} if k % 3 else {})})


@cases(ML, "TreeEnsembleClassifier", ulps=64)
def tree_classifier(r: Draw) -> Iterator[Case]:
    for k in range(28):
        features, classes = r.size(1, 5), r.size(3, 4)  # of two, ONNX Runtime takes the second where its score is above 0
        labels = {"classlabels_int64s": [3, 1, 7, 2][:classes]} if k % 2 else {"classlabels_strings": ["a", "b", "c", "d"][:classes]}
        yield Case([samples(r, k, features)], {**forest(r, r.size(1, 5), features, classes, True), **labels, "post_transform": TRANSFORMS[k % 4]}, 2)
