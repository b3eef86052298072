"""com.microsoft: operators on matrices: products of 16-bit integers, inverses, distances, alignment."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..expr import Expr, Tensor
from ..loops import Routine, load, store
from .base import Lowering, Op, Sample, register
from .elementwise import real_sample
from .matmul import by_elimination, matrix_product, pivot_row, same_size

DOMAIN = "com.microsoft"


@register
class MatMulInteger16(Op):
    """int32 product of int16 operands, modulo 2**32. Source: com.microsoft MatMulInteger16-1."""

    domain, name, versions = DOMAIN, "MatMulInteger16", (1,)

    def lower(self, n: Lowering) -> Tensor:
        a, b = n.input(0), n.input(1)
        if a.dtype is not dt.int16 or b.dtype is not dt.int16:
            raise n.unsupported(f"MatMulInteger16 of {a.dtype} and {b.dtype}; int16 is known")
        return matrix_product(n, a.shape, b.shape, lambda i: ex.cast(a[i], dt.int32), lambda i: ex.cast(b[i], dt.int32), dt.int32, dt.int32)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)
        a, b = rng.integers(-3000, 3000, (4, 70)).astype(np.int16), rng.integers(-3000, 3000, (70, 5)).astype(np.int16)
        yield Sample((a, b))


@register
class SparseToDenseMatMul(Op):
    """alpha * A B, transposed if asked, of a sparse matrix A, which is held in dense form here. Source: com.microsoft SparseToDenseMatMul-1."""

    domain, name, versions = DOMAIN, "SparseToDenseMatMul", (1,)
    attributes = {"alpha": 1.0, "transA": 0, "transB": 0}

    def lower(self, n: Lowering) -> Tensor:
        a, b, alpha = n.input(0), n.input(1), float(n.attr("alpha"))
        if a.rank != 2 or b.rank != 2:
            raise n.error(f"operands of ranks {a.rank} and {b.rank} were given, matrices were expected")
        turned = [bool(n.attr(f"trans{k}")) for k in "AB"]
        shapes = [t.shape[::-1] if k else t.shape for t, k in zip((a, b), turned)]

        def scaled(acc: Expr, i: tuple[Expr, ...]) -> Expr:
            if alpha == 1.0:
                return acc
            return acc * alpha if acc.dtype.is_float else ex.cast(ex.cast(acc, dt.float64) * alpha, acc.dtype)
        return matrix_product(n, shapes[0], shapes[1], lambda i: a[i[::-1] if turned[0] else i], lambda i: b[i[::-1] if turned[1] else i], b.dtype, epilogue=scaled)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.diag(np.arange(4, dtype=np.float32)), real_sample((4, 3))), {"alpha": 0.5})


@register
class CDist(Op):
    """Distances, squared or not, of all rows of A to all rows of B. Source: com.microsoft CDist-1.

    Squares of differences are summed, not the terms of their expansion, so that near rows keep their digits.
    """

    domain, name, versions = DOMAIN, "CDist", (1,)
    attributes = {"metric": "sqeuclidean"}

    def lower(self, n: Lowering) -> Tensor:
        a, b, metric = n.input(0), n.input(1), str(n.attr("metric"))
        if metric not in ("sqeuclidean", "euclidean"):
            raise n.unsupported(f"metric '{metric}' of CDist; sqeuclidean and euclidean are known")
        if a.rank != 2 or b.rank != 2:
            raise n.error(f"inputs of ranks {a.rank} and {b.rank} were given, matrices were expected")
        count = same_size(n, a.shape[1], b.shape[1], "columns of both inputs")

        def value(i: Expr, j: Expr) -> Expr:
            total = n.reduce("sum", [count], lambda k: (a[i, k] - b[j, k]) * (a[i, k] - b[j, k]))
            return ex.unary("sqrt", total) if metric == "euclidean" else total
        return n.map((a.shape[0], b.shape[0]), value, a.dtype)

    def samples(self) -> Iterator[Sample]:
        yield Sample((real_sample((4, 7)), real_sample((5, 7)) * 2))
        yield Sample((real_sample((4, 7)), real_sample((5, 7)) * 2), {"metric": "euclidean"})


# ----------------------------------------------------------------------------------------------------------------- inverses
def invert(x, y, work, size, lo, hi):
    """Inverses of matrices [size, size] by Gauss-Jordan elimination with partial pivoting; infinite or NaN where there is none."""
    for m in range(lo, hi):
        base = m * size * size
        for i in range(size):
            for j in range(size):
                store(work, base + i * size + j, load(x, base + i * size + j))
                store(y, base + i * size + j, 1.0 if i == j else 0.0)
        for k in range(size):
            pivot = pivot_row(work, base, size, k)
            scale = 1.0 / load(work, base + pivot * size + k)
            for j in range(size):
                left, right = load(work, base + pivot * size + j), load(y, base + pivot * size + j)
                store(work, base + pivot * size + j, load(work, base + k * size + j))
                store(y, base + pivot * size + j, load(y, base + k * size + j))
                store(work, base + k * size + j, left * scale)
                store(y, base + k * size + j, right * scale)
            for i in range(size):
                ratio = load(work, base + i * size + k)
                if i != k and ratio != 0:
                    for j in range(size):
                        store(work, base + i * size + j, load(work, base + i * size + j) - ratio * load(work, base + k * size + j))
                        store(y, base + i * size + j, load(y, base + i * size + j) - ratio * load(y, base + k * size + j))


INVERT = Routine("invert", invert, (pivot_row,))


@register
class Inverse(Op):
    """Inverses of square matrices, eliminated in float64. Source: com.microsoft Inverse-1."""

    domain, name, versions = DOMAIN, "Inverse", (1,)

    def lower(self, n: Lowering) -> Tensor:
        return by_elimination(n, INVERT, whole=True)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.random.default_rng(5).standard_normal((2, 3, 4, 4)).astype(np.float32) + 3 * np.eye(4, dtype=np.float32),))
        yield Sample((np.array([[0, 2], [1, 0]], np.float32),))


# ---------------------------------------------------------------------------------------------------------------- alignment
def warp(cost, path, length, best, moves, rows, columns, lo, hi):
    """Cheapest path from the first to the last cell by steps right, down and diagonal, written from its end; see `DynamicTimeWarping`."""
    for r in range(rows):
        for c in range(columns):
            at = r * columns + c
            move = 0
            if r == 0:
                move = 2 if c > 0 else 0
            elif c == 0:
                move = 1
            else:
                diagonal, up, left = load(best, at - columns - 1), load(best, at - columns), load(best, at - 1)
                if not (diagonal < up and diagonal < left):
                    move = 1 if up < diagonal and up < left else 2
            before = at - (columns + 1 if move == 0 else columns if move == 1 else 1)
            store(best, at, load(cost, at) + (load(best, before) if at > 0 else load(cost, at) * 0))
            store(moves, at, move)
    r, c, found = rows - 1, columns - 1, 0
    while r >= 0 and c >= 0:
        store(path, 2 * found, r)
        store(path, 2 * found + 1, c)
        found += 1
        move = load(moves, r * columns + c)
        if move != 2:
            r -= 1
        if move != 1:
            c -= 1
    store(length, 0, found)


WARP = Routine("warp", warp)


@register
class DynamicTimeWarping(Op):
    """The cheapest path through a cost matrix: int32 rows and columns of its cells, [2, length]. Among equals a step right comes before others.

    Source: com.microsoft DynamicTimeWarping-1; Sakoe and Chiba 1978.
    """

    domain, name, versions = DOMAIN, "DynamicTimeWarping", (1,)

    def lower(self, n: Lowering) -> Tensor:
        cost = n.input(0)
        if cost.rank not in (2, 3):
            raise n.error(f"costs of rank {cost.rank} were given, [M, N] or [1, M, N] was expected")
        if cost.rank == 3:
            n.require(ex.equal(cost.shape[0], 1), f"{cost.shape[0].text} cost matrices were given, 1 was expected")
        rows, columns = cost.shape[-2:]
        results = [(dt.int64, (rows + columns, 2)), (dt.int64, (1,)), (cost.dtype, (rows, columns)), (dt.int64, (rows, columns))]
        path, length, _, _ = n.routine(WARP, [cost], results, [rows, columns])
        count = length[(0,)]
        return n.map([2, count], lambda k, t: path[length[(0,)] - 1 - t, k], dt.int32)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.abs(real_sample((5, 7))),))
        yield Sample((np.abs(real_sample((1, 4, 3))),))
