"""Support vector machines."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..loops import Ref, Routine, load, store
from .base import REQUIRED, Lowering, Op, Sample, register
from .ml import DOMAIN, ZERO, Scores, decide, labelled, matrix, post_transformed

F32 = dt.float32


def kernel_values(n: Lowering, x: Tensor, vectors: np.ndarray, kind: str) -> Tensor:
    """[rows, vectors]: the kernel of every row with every vector."""
    if kind not in ("LINEAR", "POLY", "RBF", "SIGMOID"):
        raise n.error(f"kernel_type '{kind}' is unknown")
    gamma, offset, degree = (float(v) for v in (*(n.attr("kernel_params") or ()), 0.0, 0.0, 0.0)[:3])
    table = n.constant(vectors)
    shape = (x.shape[0], vectors.shape[0])
    if kind == "RBF":
        def distance(i: Expr, j: Expr) -> Expr:
            def square(k: Expr) -> Expr:
                d = x[i, k] - table[j, k]
                return d * d
            return ex.unary("exp", n.reduce("sum", [x.shape[1]], square) * -gamma)
        return n.map(shape, distance)

    def finish(acc: Expr) -> Expr:
        if kind == "LINEAR":
            return acc
        s = acc * gamma + offset
        return ex.binary("pow", s, ex.const(degree, s.dtype)) if kind == "POLY" else ex.unary("tanh", s)
    return n.contract((), (x.shape[0],), (vectors.shape[0],), (x.shape[1],), lambda _, r, k: x[r[0], k[0]], lambda _, c, k: table[c[0], k[0]], shape,
                      lambda _, r, c: (r[0], c[0]), value=finish)


def weighted(n: Lowering, values: Tensor, weights: np.ndarray, bias: np.ndarray) -> Tensor:
    """values W + bias, W [vectors, columns]."""
    table, offset = n.constant(np.ascontiguousarray(weights, np.float32)), n.constant(np.asarray(bias, np.float32))
    columns = weights.shape[1]
    return n.contract((), (values.shape[0],), (columns,), (values.shape[1],), lambda _, r, k: values[r[0], k[0]], lambda _, c, k: table[k[0], c[0]],
                      (values.shape[0], columns), lambda _, r, c: (r[0], c[0]), epilogue=lambda acc, _, r, c: acc + offset[c[0] if offset.shape[0].value > 1 else ZERO])


def floats(n: Lowering, name: str) -> np.ndarray:
    return np.asarray(n.attr(name) or (), np.float32)


@register
class SVMRegressor(Op):
    """Kernel expansion plus rho; the sign of it for a one-class machine. Source: ai.onnx.ml SVMRegressor-1."""

    domain, name, versions = DOMAIN, "SVMRegressor", (1,)
    attributes = {"kernel_type": "LINEAR", "post_transform": "NONE", "n_supports": 0, "one_class": 0, "coefficients": REQUIRED, "rho": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        x, supports, weights = matrix(n), int(n.attr("n_supports")), floats(n, "coefficients")
        if supports:
            values, column = kernel_values(n, x, floats(n, "support_vectors").reshape(supports, -1), str(n.attr("kernel_type"))), weights.reshape(supports, 1)
        else:
            values, column = x, weights.reshape(-1, 1)
        score = weighted(n, values, column, floats(n, "rho")[:1])
        if n.attr("one_class"):
            return n.map(score.shape, lambda i, j: ex.where(score[i, j] > 0.0, 1.0, ex.const(-1.0, F32)))
        return post_transformed(n, score, str(n.attr("post_transform")), F32)

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
        for kind in ("LINEAR", "RBF", "POLY", "SIGMOID"):
            yield Sample((x,), {"n_supports": 3, "support_vectors": (0.0, 1.0, 1.0, 0.5, -1.0, 2.0), "coefficients": (0.5, -1.0, 2.0), "rho": (0.3,), "kernel_type": kind,
                                "kernel_params": (0.5, 1.0, 3.0)})


def couple(r, p, q, product, classes, lo, hi):
    """Class probabilities from pairwise ones r[row, i, j] by the iteration of Wu, Lin and Weng (2004), algorithm 2."""
    for row in range(lo, hi):
        base = row * classes * classes
        at = row * classes
        for t in range(classes):
            store(p, at + t, 1.0 / classes)
            total = 0.0
            for j in range(classes):
                if j != t:
                    total += load(r, base + j * classes + t) * load(r, base + j * classes + t)
                    store(q, base + t * classes + j, -load(r, base + j * classes + t) * load(r, base + t * classes + j))
            store(q, base + t * classes + t, total)
        step = 0
        searching = True
        while searching and step < max(100, classes):
            whole = 0.0
            for t in range(classes):
                total = 0.0
                for j in range(classes):
                    total += load(q, base + t * classes + j) * load(p, at + j)
                store(product, at + t, total)
                whole += total * load(p, at + t)
            largest = 0.0
            for t in range(classes):
                largest = max(largest, abs(load(product, at + t) - whole))
            if largest < 0.005 / classes:
                searching = False
            else:
                for t in range(classes):
                    own = load(q, base + t * classes + t)
                    change = (whole - load(product, at + t)) / own
                    store(p, at + t, load(p, at + t) + change)
                    whole = (whole + change * (change * own + 2.0 * load(product, at + t))) / (1.0 + change) / (1.0 + change)
                    for j in range(classes):
                        store(product, at + j, (load(product, at + j) + change * load(q, base + t * classes + j)) / (1.0 + change))
                        store(p, at + j, load(p, at + j) / (1.0 + change))
            step += 1


COUPLE = Routine("couple_probabilities", couple)


@register
class SVMClassifier(Op):
    """Votes of pairwise machines, with probabilities where they are calibrated; or linear scores. Source: ai.onnx.ml SVMClassifier-1."""

    domain, name, versions = DOMAIN, "SVMClassifier", (1,)
    attributes = {"kernel_type": "LINEAR", "post_transform": "NONE", "coefficients": REQUIRED, "rho": REQUIRED}

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        x, transform = matrix(n), str(n.attr("post_transform"))
        classes = max(len(n.attr("classlabels_ints") or n.attr("classlabels_strings") or ()), 1)
        counts = [int(v) for v in n.attr("vectors_per_class") or ()]
        weights, rho = floats(n, "coefficients"), floats(n, "rho")
        if not sum(counts):
            scores = weighted(n, x, weights.reshape(classes, -1).T, rho[:1])
            return decide(n, Scores(scores, "classlabels_ints", "classlabels_strings", bool(weights.min(initial=0.0) >= 0)), transform)
        vectors = floats(n, "support_vectors").reshape(sum(counts), -1)
        decisions = weighted(n, kernel_values(n, x, vectors, str(n.attr("kernel_type"))), self.pairs(weights, counts), rho)
        chosen = self.votes(n, decisions, classes)
        names = Scores(decisions, "classlabels_ints", "classlabels_strings")
        if n.attr("prob_a"):
            found = self.probabilities(n, decisions, classes)  # the label still follows the votes
            return [labelled(n, names, chosen), post_transformed(n, found, transform, F32)]
        if classes == 2:
            pair = n.map((x.shape[0], 2), lambda i, j: ex.where(ex.equal(j, 1), decisions[i, ZERO], -decisions[i, ZERO]))
            return [labelled(n, names, chosen), post_transformed(n, pair, transform, F32)]
        return [labelled(n, names, chosen), post_transformed(n, decisions, transform, F32)]

    @staticmethod
    def pairs(weights: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        """[vectors, pairs]: the weight of every vector in the machine that tells class i from class j > i."""
        total = sum(counts)
        rows = weights.reshape(-1, total)
        start = np.concatenate([[0], np.cumsum(counts)])
        columns = []
        for i in range(len(counts)):
            for j in range(i + 1, len(counts)):
                column = np.zeros(total, np.float32)
                column[start[i]:start[i + 1]] = rows[j - 1, start[i]:start[i + 1]]
                column[start[j]:start[j + 1]] = rows[i, start[j]:start[j + 1]]
                columns.append(column)
        return np.stack(columns, 1)

    @staticmethod
    def places(classes: int) -> np.ndarray:
        """[classes, classes]: the pair that tells two classes apart."""
        table = np.zeros((classes, classes), np.int64)
        k = 0
        for i in range(classes):
            for j in range(i + 1, classes):
                table[i, j] = table[j, i] = k
                k += 1
        return table

    def votes(self, n: Lowering, decisions: Tensor, classes: int) -> Tensor:
        """The class that wins most pairs."""
        place = n.constant(self.places(classes))

        def value(row: Expr) -> Expr:
            def count(c: Expr) -> Expr:
                def vote(other: Expr) -> Expr:
                    s = decisions[row, place[c, other]]
                    won = ex.where(c < other, s > 0.0, s <= 0.0)
                    return ex.where(ex.equal(c, other), 0, ex.cast(won, dt.int64))
                return n.reduce("sum", [classes], vote)
            return n.reduce("argmax", [classes], count)
        return n.map((decisions.shape[0],), value)

    def probabilities(self, n: Lowering, decisions: Tensor, classes: int) -> Tensor:
        a, b, place = n.constant(floats(n, "prob_a")), n.constant(floats(n, "prob_b")), n.constant(self.places(classes))

        def pairwise(row: Expr, i: Expr, j: Expr) -> Expr:
            k = place[i, j]
            p = ex.unary("sigmoid", -(decisions[row, k] * a[k] + b[k]))
            p = ex.minimum(ex.maximum(p, 1e-7), 1.0 - 1e-7)
            return ex.where(i < j, p, 1.0 - p)
        rows = decisions.shape[0]
        r = n.map((rows, classes, classes), pairwise)
        return n.routine(COUPLE, [r], [(F32, (rows, classes)), (F32, (rows, classes, classes)), (F32, (rows, classes))], [classes], units=rows)[0]

    def samples(self) -> Iterator[Sample]:
        x = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
        three = {"vectors_per_class": (1, 2, 1), "support_vectors": (0.0, 1.0, 1.0, 0.5, -1.0, 2.0, 0.3, -1.0), "coefficients": (0.5, -1.0, 2.0, 1.0, 0.2, 0.7, -0.4, -1.5),
                 "rho": (0.3, -0.2, 0.1), "kernel_type": "RBF", "kernel_params": (0.5, 0.0, 3.0), "classlabels_ints": (0, 1, 2)}
        yield Sample((x,), three, outputs=2)
        yield Sample((x,), three | {"prob_a": (-1.0, -0.5, -2.0), "prob_b": (0.1, -0.1, 0.2)}, outputs=2)
        yield Sample((x,), {"coefficients": (0.5, -1.0, 2.0, 1.0, 0.0, 3.0), "rho": (0.5,), "kernel_params": (0.0, 0.0, 0.0), "classlabels_ints": (0, 1, 2),
                            "post_transform": "SOFTMAX"}, outputs=2)
