"""Classical machine learning: linear models, feature transformations, and what all classifiers do with their scores."""
from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..graph import MapType, SequenceType, TensorType, Type
from ..loops import HostNest, Ref
from .base import REQUIRED, Lowering, Op, Sample, register
from .callbacks import take_strings
from .control import fresh
from .sequences import HostOp, input_type
from .strings import text_array, texts_of

DOMAIN = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
ZERO, ONE = ex.const(0), ex.const(1)


def matrix(n: Lowering, index: int = 0, kind: DType = dt.float32) -> Tensor:
    """An input as [rows, features] of `kind`."""
    x = n.input(index)
    if x.rank not in (1, 2):
        raise n.error(f"an input of rank {x.rank} was given, [rows, features] was expected")
    if x.rank == 2 and x.dtype is kind:
        return x
    return n.map(x.shape if x.rank == 2 else (1, *x.shape), lambda i, j: x[i, j] if x.rank == 2 else x[j], kind)


# ------------------------------------------------------------------------------------------------------------------ scores
def probit(p: Expr) -> Expr:
    """The quantile of the normal distribution, by Winitzki's approximation of the inverse error function."""
    x = p * 2.0 - 1.0
    log = ex.unary("log", (1.0 - x) * (1.0 + x))
    v = log * 0.5 + 2.0 / (math.pi * 0.147)
    size = ex.unary("sqrt", ex.unary("sqrt", v * v - log / 0.147) - v)
    return ex.where(x < 0.0, -size, size) * math.sqrt(2.0)


def post_transformed(n: Lowering, scores: Tensor, transform: str, dtype: DType) -> Tensor:
    """[rows, k] scores after a classifier's or regressor's post_transform."""
    if transform not in TRANSFORMS:
        raise n.error(f"post_transform '{transform}' is unknown")
    columns = scores.shape[1]

    def value(i: Expr, j: Expr) -> Expr:
        s = scores[i, j]
        if transform == "LOGISTIC":
            return ex.unary("sigmoid", s)
        if transform == "PROBIT":
            return probit(s)
        if transform == "NONE":
            return s
        largest = n.reduce("max", [columns], lambda k: scores[i, k])

        def weight(k: Expr) -> Expr:
            e = ex.unary("exp", scores[i, k] - largest)
            if transform == "SOFTMAX":
                return e
            small = ex.unary("abs", scores[i, k]) <= 1e-7
            return ex.where(small, scores[i, k] * ex.unary("exp", -largest), e)
        total = n.reduce("sum", [columns], weight)
        return weight(j) / total if transform == "SOFTMAX" else ex.where(ex.equal(total, 0.0), 0.5, weight(j) / ex.where(ex.equal(total, 0.0), 1.0, total))
    return n.map(scores.shape, value, dtype)


@dataclass(frozen=True)
class Scores:
    """What a classifier computed.

    Args:
        values: [rows, classes], or [rows, 1] for a single score that decides between two classes.
        integers, strings: names of the attributes that hold the labels.
        positive: whether a single score is a probability (weights all positive) rather than a signed distance.
    """

    values: Tensor
    integers: str
    strings: str
    positive: bool = False


def labelled(n: Lowering, scores: Scores, chosen: Tensor) -> Ref:
    """The labels at positions [rows]."""
    texts = [str(s) for s in n.attr(scores.strings) or ()]
    if texts:
        result = n.tensor(chosen.shape, dt.string, "labels")
        n.nests.append(HostNest(PickTexts(tuple(texts)), (chosen,), (result,), "labels are strings", n.origin))
        return result
    numbers = [int(v) for v in n.attr(scores.integers) or ()]
    if not numbers:
        return chosen
    if len(numbers) == 1:
        return n.map(chosen.shape, lambda i: ex.where(ex.equal(chosen[i], 0), 0, numbers[0]))
    table = n.constant(np.asarray(numbers, np.int64))
    return n.map(chosen.shape, lambda i: table[chosen[i]])


def decide(n: Lowering, scores: Scores, transform: str) -> Sequence[Ref | None]:
    """(labels, scores) of a classifier: the class of the largest score, or the side of the threshold on which a single score lies."""
    values = scores.values
    rows, columns = values.shape
    if not (columns.is_const and columns.value == 1):
        chosen = n.map((rows,), lambda i: n.reduce("argmax", [columns], lambda k: values[i, k]))
        return [labelled(n, scores, chosen), post_transformed(n, values, transform, dt.float32)]
    threshold = 0.5 if scores.positive else 0.0
    chosen = n.map((rows,), lambda i: ex.cast(values[i, ZERO] > threshold, dt.int64))
    if transform == "PROBIT":
        return [labelled(n, scores, chosen), post_transformed(n, values, transform, dt.float32)]
    other = 1.0 if scores.positive else 0.0
    pair = n.map((rows, 2), lambda i, j: ex.where(ex.equal(j, 1), values[i, ZERO], other - values[i, ZERO]))
    kept = "NONE" if scores.positive else transform
    return [labelled(n, scores, chosen), post_transformed(n, pair, kept, dt.float32)]


@dataclass(frozen=True)
class PickTexts:
    """The texts at positions."""

    texts: tuple[str, ...]

    @functools.cached_property
    def _table(self) -> np.ndarray:
        return text_array(self.texts, (len(self.texts),))

    def __call__(self, positions: np.ndarray) -> list[np.ndarray]:
        return [self._table.take(positions)]


# ----------------------------------------------------------------------------------------------------------- linear models
def linear_scores(n: Lowering, x: Tensor, outputs: int) -> Tensor:
    """x W' + b with the attributes `coefficients` [outputs, features] and `intercepts`."""
    w = np.asarray(n.attr("coefficients"), np.float32)
    features = ex.integer.as_int(x.shape[1])
    if features is None:
        if w.size % outputs:
            raise n.error(f"{w.size} coefficients do not make {outputs} rows")
        features = w.size // outputs
        n.require(ex.equal(x.shape[1], features), f"{w.size} coefficients for {outputs} outputs need {features} features")
    if w.size < outputs * features:
        raise n.error(f"{w.size} coefficients are given; {outputs} outputs of {features} features need {outputs * features}")
    weights = n.constant(w[:outputs * features].reshape(outputs, features))  # ONNX Runtime passes over what is left
    b = np.asarray(n.attr("intercepts") or (), np.float32)
    bias = n.constant(b) if b.size else None
    return n.contract((), (x.shape[0],), (outputs,), (x.shape[1],), lambda _, r, k: x[r[0], k[0]], lambda _, c, k: weights[c[0], k[0]], (x.shape[0], outputs),
                      lambda _, r, c: (r[0], c[0]), epilogue=lambda acc, _, r, c: acc if bias is None else acc + bias[c[0] if b.size > 1 else ZERO])


@register
class LinearRegressor(Op):
    """x W' + b. Source: ai.onnx.ml LinearRegressor-1."""

    domain, name, versions = DOMAIN, "LinearRegressor", (1,)
    attributes = {"post_transform": "NONE", "targets": 1, "coefficients": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        return post_transformed(n, linear_scores(n, matrix(n), int(n.attr("targets"))), str(n.attr("post_transform")), dt.float32)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
        yield Sample((x,), {"coefficients": (0.5, -1.0, 2.0, 1.0, 0.0, 3.0), "targets": 2, "intercepts": (1.0, -1.0)})


@register
class LinearClassifier(Op):
    """The class with the largest x W' + b. Source: ai.onnx.ml LinearClassifier-1."""

    domain, name, versions = DOMAIN, "LinearClassifier", (1,)
    attributes = {"post_transform": "NONE", "coefficients": REQUIRED}

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        x = matrix(n)
        labels = len(n.attr("classlabels_ints") or n.attr("classlabels_strings") or ())
        features, coefficients = ex.integer.as_int(x.shape[1]), len(n.attr("coefficients"))
        single = labels == 2 and features is not None and coefficients == features  # one score tells two classes apart
        outputs = len(n.attr("intercepts") or ()) or (1 if single else max(labels, 1))
        found = linear_scores(n, x, outputs)
        return decide(n, Scores(found, "classlabels_ints", "classlabels_strings"), str(n.attr("post_transform")))

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
        for transform in ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"):
            yield Sample((x,), {"coefficients": (0.5, -1.0, 2.0, 1.0, 0.0, 3.0), "intercepts": (1.0, -1.0, 0.5), "classlabels_ints": (3, 5, 8), "post_transform": transform},
                         outputs=2)
        yield Sample((x,), {"coefficients": (0.5, -1.0), "intercepts": (0.1,), "classlabels_ints": (0, 1), "post_transform": "LOGISTIC"}, outputs=2)
        yield Sample((x,), {"coefficients": (0.5, -1.0, 1.0, 0.3), "intercepts": (0.1, 0.2), "classlabels_strings": ("a", "b")}, outputs=2)


# -------------------------------------------------------------------------------------------------------- transformations
@register
class Normalizer(Op):
    """Rows divided by their largest element's, summed or Euclidean size. Source: ai.onnx.ml Normalizer-1."""

    domain, name, versions = DOMAIN, "Normalizer", (1,)
    attributes = {"norm": "MAX"}

    def lower(self, n: Lowering) -> Tensor:
        x, norm = n.input(0), str(n.attr("norm"))
        if norm not in ("MAX", "L1", "L2"):
            raise n.error(f"norm '{norm}' is unknown")

        def value(*i: Expr) -> Expr:
            def reduced(kind: str, f: str) -> Expr:
                def body(k: Expr) -> Expr:
                    e = ex.cast(x[(*i[:-1], k)], dt.float32)
                    return e * e if f == "square" else e if f == "same" else ex.unary("abs", e)
                return n.reduce(kind, [x.shape[-1]], body)
            size = reduced("max", "same") if norm == "MAX" else reduced("sum", "abs") if norm == "L1" else ex.unary("sqrt", reduced("sum", "square"))
            return ex.cast(x[i], dt.float32) / ex.where(ex.equal(size, 0.0), 1.0, size)
        return n.map(x.shape, value)

    def samples(self) -> Iterator[Sample]:
        x = np.array([[1, -2, 3], [0.5, 4, 2]], np.float32)
        for norm in ("MAX", "L1", "L2"):
            yield Sample((x,), {"norm": norm})


@register
class Scaler(Op):
    """(x - offset) * scale of the feature. Source: ai.onnx.ml Scaler-1."""

    domain, name, versions = DOMAIN, "Scaler", (1,)

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        tables = {k: np.asarray(n.attr(k) or (default,), np.float32) for k, default in (("offset", 0.0), ("scale", 1.0))}
        offset, scale = n.constant(tables["offset"]), n.constant(tables["scale"])

        def at(t: Tensor, j: Expr) -> Expr:
            return t[ZERO if t.shape[0] is ONE else j]
        return n.map(x.shape, lambda *i: (ex.cast(x[i], dt.float32) - at(offset, i[-1])) * at(scale, i[-1]))

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[1, 2], [3, 4]], np.float32),), {"offset": (1.0, 2.0), "scale": (2.0, 0.5)})


@register
class Binarizer(Op):
    """1 where x exceeds the threshold, else 0. Source: ai.onnx.ml Binarizer-1."""

    domain, name, versions = DOMAIN, "Binarizer", (1,)
    attributes = {"threshold": 0.0}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        kind = dt.compute_type(x.dtype) if x.dtype.is_float else dt.float32
        return n.map(x.shape, lambda *i: ex.cast(ex.cast(x[i], kind) > float(n.attr("threshold")), x.dtype), x.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[1, -2], [0, 4]], np.float32),), {"threshold": 0.5})


@register
class Imputer(Op):
    """A value that marks missing elements replaced by the feature's own. Source: ai.onnx.ml Imputer-1."""

    domain, name, versions = DOMAIN, "Imputer", (1,)
    attributes = {"replaced_value_float": 0.0, "replaced_value_int64": 0}

    def lower(self, n: Lowering) -> Tensor:
        x = n.input(0)
        kind = "float" if x.dtype.is_float else "int64"
        values = n.attr(f"imputed_value_{kind}s")
        if not values:
            raise n.error(f"attribute 'imputed_value_{kind}s' is missing")
        table, marker = n.constant(np.asarray(values, x.dtype.numpy)), n.attr(f"replaced_value_{kind}")

        def value(*i: Expr) -> Expr:
            e = x[i]
            gone = ex.unary("isnan", e) if x.dtype.is_float and math.isnan(float(marker)) else ex.equal(e, ex.const(marker, x.dtype))
            return ex.where(gone, table[ZERO if len(values) == 1 else i[-1]], e)
        return n.map(x.shape, value)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[1, np.nan], [np.nan, 4]], np.float32),), {"imputed_value_floats": (7.0, 8.0), "replaced_value_float": math.nan})


@register
class ArrayFeatureExtractor(Op):
    """Columns of the last dimension. Source: ai.onnx.ml ArrayFeatureExtractor-1."""

    domain, name, versions = DOMAIN, "ArrayFeatureExtractor", (1,)

    def lower(self, n: Lowering) -> Tensor:
        x, at = n.input(0), n.input(1)
        shape = (*(x.shape[:-1] or (ONE,)), at.numel())

        def value(*i: Expr) -> Expr:
            column = ex.minimum(ex.maximum(at[ex.unravel(i[-1], at.shape)], 0), x.shape[-1] - 1)
            return column if strings else x[(*i[:x.rank - 1], column)]
        strings = x.dtype is dt.string
        if not strings:
            return n.map(shape, value)
        places = n.map(shape, lambda *i: ex.linear_index((*i[:x.rank - 1], value(*i)), x.shape), dt.int64)
        n.nests.append(HostNest(take_strings, (places, x), (out := n.tensor(shape, dt.string),), "strings are chosen on the host", n.origin))
        return out

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.arange(12, dtype=np.float32).reshape(3, 4), np.array([3, 0], np.int64)))
        yield Sample((np.array([["a", "b", "c"], ["d", "e", "f"]], object), np.array([2, 0], np.int64)), name="strings")


@register
class OneHotEncoder(Op):
    """1 at the position of the element's category. Source: ai.onnx.ml OneHotEncoder-1."""

    domain, name, versions = DOMAIN, "OneHotEncoder", (1,)
    attributes = {"zeros": 1}

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        texts = [str(s) for s in n.attr("cats_strings") or ()]
        if x.dtype is dt.string:
            codes = {c: k for k, c in enumerate(texts)}  # equal categories have one
            step = NumberTexts(tuple(texts), bool(n.attr("zeros")))
            n.nests.append(HostNest(step, (x,), (found := n.tensor(x.shape, dt.int64),), "categories are strings", n.origin))
            wanted = n.constant(np.array([codes[c] for c in texts], np.int64))
            return n.map((*x.shape, len(texts)), lambda *i: ex.cast(ex.equal(found[i[:-1]], wanted[i[-1]]), dt.float32))
        numbers = np.asarray(n.attr("cats_int64s") or (), np.int64)
        table = n.constant(numbers)
        return n.map((*x.shape, numbers.size), lambda *i: ex.cast(ex.equal(ex.cast(x[i[:-1]], dt.int64), table[i[-1]]), dt.float32))

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([1, 3, 9], np.int64),), {"cats_int64s": (3, 1, 7)})


@dataclass(frozen=True)
class NumberTexts:
    """The place of each text among the categories, of equal ones the last; -1 of others, which have to be allowed."""

    categories: tuple[str, ...]
    others: bool

    @functools.cached_property
    def _codes(self) -> dict[str, int]:
        return {c: k for k, c in enumerate(self.categories)}

    def __call__(self, strings: np.ndarray) -> list[np.ndarray]:
        codes = self._codes
        found = [codes.get(t, -1) for t in texts_of(strings)]
        if not self.others and -1 in found:
            raise ValueError(f"a value is none of the categories {list(self.categories)}")
        return [np.array(found, np.int64).reshape(np.shape(strings))]


@register
class FeatureVectorizer(Op):
    """Inputs side by side, each cut or padded to its number of features. Source: ai.onnx.ml FeatureVectorizer-1."""

    domain, name, versions = DOMAIN, "FeatureVectorizer", (1,)
    attributes = {"inputdimensions": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        widths = [int(w) for w in n.attr("inputdimensions")]
        if len(widths) != len(n.inputs):
            raise n.error(f"inputdimensions has {len(widths)} entries for {len(n.inputs)} inputs")
        tensors = [matrix(n, k) for k in range(len(widths))]

        def value(i: Expr, j: Expr) -> Expr:
            out: Expr = ex.const(0.0, dt.float32)
            start = sum(widths)
            for t, w in zip(reversed(tensors), reversed(widths)):
                start -= w
                out = ex.where(ex.logical_and(j >= start, j < start + w), ex.load(t, (i, j - start), 0), out)
            return out
        return n.map((tensors[0].shape[0], sum(widths)), value)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.ones((2, 2), np.float32), np.full((2, 3), 2, np.float32)), {"inputdimensions": (2, 3)})


@register
class LabelEncoder(Op):
    """Keys looked up in a table. Source: ai.onnx.ml LabelEncoder-4."""

    domain, name = DOMAIN, "LabelEncoder"
    versions: ClassVar[tuple[int, ...]] = (1, 2, 4)
    attributes = {"default_int64": -1, "default_float": -0.0, "default_string": "_Unused"}

    def table(self, n: Lowering, x: Tensor) -> tuple[list[object], list[object], object, DType]:
        """(keys, values, default, type of the values)."""
        if n.version == 1:
            names = [str(s) for s in n.attr("classes_strings") or ()]
            if x.dtype is dt.string:
                return list(names), list(range(len(names))), int(n.attr("default_int64")), dt.int64
            return list(range(len(names))), list(names), str(n.attr("default_string")), dt.string
        tensors = {k: n.attr(f"{k}_tensor") for k in ("keys", "values")}
        keys = next((list(k) for k in (n.attr("keys_int64s"), n.attr("keys_strings"), n.attr("keys_floats")) if k), None)
        if keys is None:
            keys = np.asarray(tensors["keys"]).reshape(-1).tolist()
        default = n.attr("default_tensor")
        for name, given, kind in (("values_int64s", "default_int64", dt.int64), ("values_strings", "default_string", dt.string), ("values_floats", "default_float", dt.float32)):
            if n.attr(name):
                return keys, list(n.attr(name)), n.attr(given), kind
        values = np.asarray(tensors["values"])
        kind = dt.of_numpy(values.dtype)
        fallback = np.asarray(default).reshape(-1)[0] if default is not None else n.attr({"string": "default_string", "float": "default_float"}.get(kind.kind, "default_int64"))
        return keys, values.reshape(-1).tolist(), fallback, kind

    def lower(self, n: Lowering) -> Ref:
        x = n.input(0)
        keys, values, default, kind = self.table(n, x)
        if len(keys) != len(values):
            raise n.error(f"{len(keys)} keys and {len(values)} values were given")
        plain = default.item() if isinstance(default, np.generic) else default
        if x.dtype is dt.string or kind is dt.string:
            step = LookUp(tuple(_plain(k) for k in keys), tuple(_plain(v) for v in values), plain, kind.name, n.version >= 4)
            return n.host(step, [(kind, x.shape)], "keys or values are strings")[0]
        assert isinstance(plain, (int, float))
        otherwise: float = plain
        if not keys:
            return n.map(x.shape, lambda *i: ex.const(otherwise, kind))
        key_array = np.asarray(keys, x.dtype.numpy)
        key_table, value_table = n.constant(key_array), n.constant(np.asarray(values, kind.numpy))

        def value(*i: Expr) -> Expr:
            e = x[i]

            def same(k: Expr) -> Expr:
                found = ex.equal(e, key_table[k])
                if x.dtype.is_float and n.version >= 4:
                    found = ex.logical_or(found, ex.logical_and(ex.unary("isnan", e), ex.unary("isnan", key_table[k])))
                return ex.cast(found, dt.int32)
            place = n.reduce("argmax", [len(keys)], same)
            return ex.where(ex.equal(n.reduce("max", [len(keys)], same), 1), ex.cast(value_table[place], dt.compute_type(kind)), ex.const(otherwise, dt.compute_type(kind)))
        return n.map(x.shape, value, kind)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array([[1, 5], [2, 9]], np.int64),), {"keys_int64s": (1, 2, 5), "values_floats": (0.1, 0.2, 0.5), "default_float": 7.0})
        yield Sample((np.array([1, 5], np.int64),), {"keys_int64s": (1, 2), "values_strings": ("a", "b")})


def _plain(v: object) -> object:
    return v.decode() if isinstance(v, bytes) else v


@dataclass(frozen=True)
class LookUp:
    """values[k] where the element is keys[k] (or both are NaN, if that matches), else the default."""

    keys: tuple[object, ...]
    values: tuple[object, ...]
    default: object
    type_name: str
    nan_matches: bool

    @functools.cached_property
    def _table(self) -> tuple[dict[object, object], object, object]:
        """Values by key, what is found for other keys, what for NaN."""
        spelled = str if self.type_name == "string" else _plain
        pairs = [(k, spelled(v)) for k, v in zip(self.keys, self.values)]
        default = spelled(self.default)
        missing = next((v for k, v in pairs if k != k), default) if self.nan_matches else default
        return {k: v for k, v in pairs if k == k}, default, missing

    def __call__(self, a: np.ndarray) -> list[np.ndarray]:
        table, default, missing = self._table
        items = texts_of(a) if a.dtype.kind in "OUST" else a.reshape(-1).tolist()
        found = [table.get(i, default) if i == i else missing for i in items]
        kind = dt.BY_NAME[self.type_name]
        return [text_array(cast("list[str]", found), a.shape) if kind is dt.string else np.array(found, kind.numpy).reshape(a.shape)]


@register
class CategoryMapper(LabelEncoder):
    """Strings to integers or back. Source: ai.onnx.ml CategoryMapper-1."""

    domain, name, versions = DOMAIN, "CategoryMapper", (1,)
    attributes = {"default_int64": -1, "default_string": "_Unused", "cats_strings": REQUIRED, "cats_int64s": REQUIRED}

    def table(self, n: Lowering, x: Tensor) -> tuple[list[object], list[object], object, DType]:
        texts, numbers = [str(s) for s in n.attr("cats_strings")], [int(v) for v in n.attr("cats_int64s")]
        if x.dtype is dt.string:
            return list(texts), list(numbers), int(n.attr("default_int64")), dt.int64
        return list(numbers), list(texts), str(n.attr("default_string")), dt.string

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.array(["b", "x"], object),), {"cats_strings": ("a", "b"), "cats_int64s": (10, 20)})


# -------------------------------------------------------------------------------------------------------------------- maps
def zip_map(scores: np.ndarray, labels: Sequence[object]) -> list[object]:
    rows = scores.reshape(-1, len(labels)) if labels else scores
    return [[dict(zip(labels, row)) for row in rows.tolist()]]


@register
class ZipMap(HostOp):
    """Rows as dictionaries from label to score. Source: ai.onnx.ml ZipMap-1."""

    domain, name, versions = DOMAIN, "ZipMap", (1,)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        return [SequenceType(MapType(dt.string if n.attr("classlabels_strings") else dt.int64, TensorType(dt.float32, ())))]

    def step(self, n: Lowering):
        labels: list[object] = [str(s) for s in n.attr("classlabels_strings") or ()] or [int(v) for v in n.attr("classlabels_int64s") or ()]
        return functools.partial(zip_map, labels=labels)


def vectorize_map(entries: dict[object, object], vocabulary: Sequence[object], type_name: str) -> list[object]:
    return [np.asarray([[entries.get(k, 0) for k in vocabulary]], dt.BY_NAME[type_name].numpy)]


def map_type(n: Lowering) -> tuple[DType, DType]:
    """Key and value types of the map that is input 0."""
    t = input_type(n, 0)
    if not isinstance(t, MapType) or not isinstance(t.value, TensorType):
        raise n.error(f"input 0 of {n.op.name} is {t}, a map was expected")
    return t.key, t.value.dtype


@register
class DictVectorizer(HostOp):
    """The values of a map in the order of a vocabulary. Source: ai.onnx.ml DictVectorizer-1."""

    domain, name, versions = DOMAIN, "DictVectorizer", (1,)

    def vocabulary(self, n: Lowering) -> list[object]:
        return [str(s) for s in n.attr("string_vocabulary") or ()] or [int(v) for v in n.attr("int64_vocabulary") or ()]

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        return [TensorType(map_type(n)[1], (ONE, ex.const(len(self.vocabulary(n)))))]

    def step(self, n: Lowering):
        return functools.partial(vectorize_map, vocabulary=self.vocabulary(n), type_name=map_type(n)[1].name)


def cast_map(entries: dict[int, str | float], form: str, length: int, type_name: str) -> list[object]:
    """The values of a map with integer keys in key order; a sparse map has its keys as positions."""
    kind = dt.BY_NAME[type_name]
    keys = sorted(entries)
    if form == "SPARSE":
        values = [entries.get(k, "" if kind is dt.string else 0) for k in range(max(length, 1))]
    else:
        values = [entries[k] for k in keys]
    if kind is dt.string:
        return [text_array([str(v) for v in values], (1, len(values)))]
    return [np.asarray([[float(v) for v in values]]).astype(kind.numpy)]


@register
class CastMap(HostOp):
    """A map's values as a tensor. Source: ai.onnx.ml CastMap-1."""

    domain, name, versions = DOMAIN, "CastMap", (1,)
    attributes = {"cast_to": "TO_FLOAT", "map_form": "DENSE", "max_map": 1}

    def element_type(self, n: Lowering) -> DType:
        kinds = {"TO_FLOAT": dt.float32, "TO_INT64": dt.int64, "TO_STRING": dt.string}
        if n.attr("cast_to") not in kinds:
            raise n.error(f"cast_to '{n.attr('cast_to')}' is unknown")
        return kinds[str(n.attr("cast_to"))]

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        map_type(n)
        length = ex.const(int(n.attr("max_map"))) if n.attr("map_form") == "SPARSE" else fresh(n, 0, "entries")
        return [TensorType(self.element_type(n), (ONE, length))]

    def step(self, n: Lowering):
        return functools.partial(cast_map, form=str(n.attr("map_form")), length=int(n.attr("max_map")), type_name=self.element_type(n).name)
