"""Matrix products and Einstein sums."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from ..graph import Value
from ..loops import Routine, load, store
from .base import REQUIRED, Builder, Lowering, Op, Sample, broadcast_index, broadcast_load, broadcast_shapes, register
from .elementwise import like, sum_to
from .quantisation import is_zero, requantize

ONE = ex.const(1)
At = Callable[[tuple[Expr, ...]], Expr]  # an operand's element at an index
Epilogue = Callable[[Expr, tuple[Expr, ...]], Expr]  # (acc, index of the result) -> result


def widen(e: Expr) -> Expr:
    """`e` in the type in which arithmetic on it is done."""
    return ex.cast(e, dt.compute_type(e.dtype))


def same_size(n: Lowering, a: Expr, b: Expr, what: str) -> Expr:
    """The common size of two dimensions; a constant one wins.

    Raises:
        ModelError: both are constants and differ.
    """
    if a is not b:
        n.require(ex.equal(a, b), f"{what} differ: {a.text} against {b.text}")
    return a if a.is_const else b if b.is_const else a


def matrix_product(n: Lowering, a_shape: tuple[Expr, ...], b_shape: tuple[Expr, ...], a_at: At, b_at: At, dtype: DType | None = None, accumulate: DType | None = None,
                   epilogue: Epilogue | None = None) -> Tensor:
    """numpy.matmul of two operands given by their elements.

    A leading dimension that only one operand has joins that operand's rows or columns, so that [B, S, K] x [K, N] is one product of B*S rows.

    Args:
        a_shape, b_shape: shapes, rank 1 or more.
        a_at, b_at: element at an index of that shape.
        epilogue: result from the sum and the output index.
    """
    if not a_shape or not b_shape:
        raise n.error(f"{n.op.name} needs operands of rank 1 or more")
    inner = same_size(n, a_shape[-1], b_shape[-2] if len(b_shape) > 1 else b_shape[0], "inner dimensions")
    lead_a, lead_b = a_shape[:-2], b_shape[:-2]
    lead = broadcast_shapes([lead_a, lead_b], n)
    sizes_a = (ONE,) * (len(lead) - len(lead_a)) + lead_a
    sizes_b = (ONE,) * (len(lead) - len(lead_b)) + lead_b
    rows_of = [k for k in range(len(lead)) if sizes_b[k] is ONE]
    columns_of = [k for k in range(len(lead)) if sizes_a[k] is ONE and k not in rows_of]
    batch_of = [k for k in range(len(lead)) if k not in rows_of and k not in columns_of]
    m, c = a_shape[-2:-1], b_shape[-1:] if len(b_shape) > 1 else ()

    def gather(axes: Sequence[tuple[int, Expr]], sizes: tuple[Expr, ...], keep: int) -> tuple[Expr, ...]:
        at = dict(axes)
        return tuple(broadcast_index(sizes[k], lead[k], at[k]) if k in at else ex.const(0) for k in range(len(lead) - keep, len(lead)))

    def a(batch: tuple[Expr, ...], rows: tuple[Expr, ...], reduced: tuple[Expr, ...]) -> Expr:
        at = [*zip(batch_of, batch), *zip(rows_of, rows)]
        return a_at((*gather(at, sizes_a, len(lead_a)), *rows[len(rows_of):], *reduced))

    def b(batch: tuple[Expr, ...], columns: tuple[Expr, ...], reduced: tuple[Expr, ...]) -> Expr:
        at = [*zip(batch_of, batch), *zip(columns_of, columns)]
        return b_at((*gather(at, sizes_b, len(lead_b)), *reduced, *columns[len(columns_of):]))

    def store(batch: tuple[Expr, ...], rows: tuple[Expr, ...], columns: tuple[Expr, ...]) -> tuple[Expr, ...]:
        at = dict([*zip(batch_of, batch), *zip(rows_of, rows), *zip(columns_of, columns)])
        return (*(at[k] for k in range(len(lead))), *rows[len(rows_of):], *columns[len(columns_of):])

    def finish(acc: Expr, batch: tuple[Expr, ...], rows: tuple[Expr, ...], columns: tuple[Expr, ...]) -> Expr:
        return acc if epilogue is None else epilogue(acc, store(batch, rows, columns))

    return n.contract([lead[k] for k in batch_of], [*(lead[k] for k in rows_of), *m], [*(lead[k] for k in columns_of), *c], [inner],
                      a, b, (*lead, *m, *c), store, dtype=dtype, accumulate=accumulate, epilogue=finish)


def transposed(b: Builder, x: Value) -> Value:
    """A matrix, or a stack of them, with rows for columns."""
    rank = len(b.type(x).shape or ())
    result: Value = b.add("Transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))
    return result


@register
class MatMul(Op):
    """Matrix product with NumPy's rules for vectors and leading dimensions; narrow floats accumulate in float32. Source: ONNX MatMul-13."""

    name, versions = "MatMul", (1, 9, 13)

    def lower(self, n: Lowering) -> Tensor:
        a, b = n.input(0), n.input(1)
        return matrix_product(n, a.shape, b.shape, lambda i: a[i], lambda i: b[i], a.dtype)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, y, g = b.input(0), b.input(1), upstream[0]
        row, column = len(b.type(x).shape or ()) == 1, len(b.type(y).shape or ()) == 1
        if column:
            y, g = b.add("Unsqueeze", y, [1]), b.add("Unsqueeze", g, [-1])
        if row:
            x, g = b.add("Unsqueeze", x, [0]), b.add("Unsqueeze", g, [-2])
        left = sum_to(b, b.add("MatMul", g, transposed(b, y)), x)
        right = sum_to(b, b.add("MatMul", transposed(b, x), g), y)
        return [b.add("Squeeze", left, [0]) if row else left, b.add("Squeeze", right, [1]) if column else right]

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        for p, q in (((4, 5), (5, 3)), ((2, 4, 5), (5, 3)), ((2, 4, 5), (2, 5, 3)), ((5,), (2, 5, 3)), ((2, 1, 4, 5), (3, 5, 1)), ((5,), (5,)), ((17, 40), (40, 65))):
            yield Sample((rng.standard_normal(p).astype(np.float32), rng.standard_normal(q).astype(np.float32)))


@register
class Gemm(Op):
    """alpha * A' * B' + beta * C, C broadcast to the result (only if asked before version 7). Source: ONNX Gemm-13."""

    name, versions = "Gemm", (1, 6, 7, 9, 11, 13)
    attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, "broadcast": 0}

    def lower(self, n: Lowering) -> Tensor:
        a, b, c = n.input(0), n.input(1), n.optional(2)
        if a.rank != 2 or b.rank != 2:
            raise n.error(f"operands of rank {a.rank} and {b.rank} were given, 2 was expected", "flatten them first")
        alpha, beta = float(n.attr("alpha")), float(n.attr("beta"))
        a_shape = a.shape[::-1] if n.attr("transA") else a.shape
        b_shape = b.shape[::-1] if n.attr("transB") else b.shape
        out = (a_shape[0], b_shape[1])
        if c is not None:
            broadcast_shapes([out, c.shape], n)

        def epilogue(acc: Expr, index: tuple[Expr, ...]) -> Expr:
            bias = None if c is None or beta == 0.0 else widen(broadcast_load(c, out, index))
            if acc.dtype.is_float or alpha == beta == 1.0:
                result = acc if alpha == 1.0 else acc * alpha
                return result if bias is None else result + (bias if beta == 1.0 else bias * beta)
            result = ex.cast(acc, dt.float64) * alpha
            return ex.cast(result if bias is None else result + ex.cast(bias, dt.float64) * beta, acc.dtype)

        return matrix_product(n, a_shape, b_shape, lambda i: a[i[::-1] if n.attr("transA") else i], lambda i: b[i[::-1] if n.attr("transB") else i], a.dtype,
                              epilogue=epilogue)

    def gradient(self, b: Builder, upstream: Sequence[Value | None]) -> list[Value | None]:
        x, y = (transposed(b, b.input(k)) if b.attr(name) else b.input(k) for k, name in ((0, "transA"), (1, "transB")))
        scaled = b.add("Mul", upstream[0], like(b, float(b.attr("alpha")), x))
        left, right = b.add("MatMul", scaled, transposed(b, y)), b.add("MatMul", transposed(b, x), scaled)
        found = [transposed(b, g) if b.attr(name) else g for g, name in ((left, "transA"), (right, "transB"))]
        if b.has(2):
            found.append(b.add("Mul", sum_to(b, upstream[0], b.input(2)), like(b, float(b.attr("beta")), x)))
        return found

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(1)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((f(4, 5), f(5, 3), f(3)))
        yield Sample((f(5, 4), f(3, 5), f(4, 1)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0})
        yield Sample((f(4, 5), f(5, 3), None))
        yield Sample((f(4, 5), f(5, 3), f(1, 1)), {"beta": 0.0})


# --------------------------------------------------------------------------------------------------------- integer products
def along(t: Tensor, index: tuple[Expr, ...], shape: tuple[Expr, ...], position: int) -> Expr:
    """A scale or zero point for element `index` of an operand of `shape`: scalar, one per row or column (`position` from the end), or broadcast."""
    if t.rank == 0:
        return t[()]
    if t.rank == 1:
        if t.shape[0] is ONE or len(index) < -position:
            return t[ex.const(0)]
        return t[broadcast_index(t.shape[0], shape[position], index[position])]
    return broadcast_load(t, shape, index)


def centred(t: Tensor, zero: Tensor | None, position: int, shape: tuple[Expr, ...], kind: DType) -> At:
    """Elements of `t` less their zero point, as `kind`."""
    def at(index: tuple[Expr, ...]) -> Expr:
        e = ex.cast(t[index], kind)
        return e if zero is None else e - ex.cast(along(zero, index, shape, position), kind)
    return at


@register
class MatMulInteger(Op):
    """int32 product of 8-bit operands less their zero points (scalar, per row of A, per column of B). Source: ONNX MatMulInteger-10."""

    name, versions = "MatMulInteger", (10,)

    def lower(self, n: Lowering) -> Tensor:
        a, b = n.input(0), n.input(1)
        a_zero = None if is_zero(n, 2) else n.optional(2)
        b_zero = None if is_zero(n, 3) else n.optional(3)
        return matrix_product(n, a.shape, b.shape, centred(a, a_zero, -2, a.shape, dt.int32), centred(b, b_zero, -1, b.shape, dt.int32), dt.int32, dt.int32)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(2)
        a, b = rng.integers(0, 255, (4, 70)).astype(np.uint8), rng.integers(-64, 64, (70, 5)).astype(np.int8)  # ONNX Runtime adds pairs in 16 bits on AVX2
        yield Sample((a, b))
        yield Sample((a, b, np.uint8(120), np.arange(5, dtype=np.int8)))


@register
class QLinearMatMul(Op):
    """Quantised product: int32 sum, scaled and rounded half to even to the output's scale, saturated. Source: ONNX QLinearMatMul-21."""

    name, versions = "QLinearMatMul", (10, 21)

    def lower(self, n: Lowering) -> Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (n.input(k) for k in range(8))
        kind = dt.float32 if a.dtype.is_float else dt.int32
        shape = broadcast_shapes([a.shape[:-2], b.shape[:-2]], n) + a.shape[-2:-1] + (b.shape[-1:] if b.rank > 1 else ())

        def epilogue(acc: Expr, index: tuple[Expr, ...]) -> Expr:
            row = (*index[:-1], ex.const(0)) if b.rank > 1 else (*index, ex.const(0))
            column = (*index[:-2], ex.const(0), *index[-1:]) if a.rank > 1 else index
            scale = ex.cast(along(a_scale, row, (*shape[:-1], ONE), -2), dt.float32) * ex.cast(along(b_scale, column, shape[:-2] + (ONE,) + shape[-1:], -1), dt.float32)
            return requantize(ex.cast(acc, dt.float32) * scale / ex.cast(along(y_scale, index, shape, -2), dt.float32), along(y_zero, index, shape, -2), y_zero.dtype)

        a_at = centred(a, None if is_zero(n, 2) else a_zero, -2, a.shape, kind)
        b_at = centred(b, None if is_zero(n, 5) else b_zero, -1, b.shape, kind)
        return matrix_product(n, a.shape, b.shape, a_at, b_at, y_zero.dtype, kind, epilogue)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(3)
        a, b = rng.integers(0, 255, (3, 20)).astype(np.uint8), rng.integers(0, 255, (20, 5)).astype(np.uint8)
        yield Sample((a, np.float32(0.01), np.uint8(113), b, np.float32(0.02), np.uint8(128), np.float32(0.05), np.uint8(118)))


# ------------------------------------------------------------------------------------------------------------ Einstein sums
@dataclass(frozen=True)
class Term:
    """An operand of an Einstein sum: a label for each dimension, and its elements."""

    labels: tuple[str, ...]
    shape: tuple[Expr, ...]
    at: At
    dtype: DType

    def load(self, position: dict[str, Expr], sizes: dict[str, Expr]) -> Expr:
        return self.at(tuple(broadcast_index(d, sizes[s], position[s]) for s, d in zip(self.labels, self.shape)))


def parse_equation(n: Lowering, equation: str, ranks: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Labels of each operand and of the result; dimensions under an ellipsis are labelled `.0` (last), `.1`, ...

    Raises:
        ModelError: malformed equation, or it does not fit the operands' ranks.
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise n.error(f"equation '{equation}' names {len(parts)} operands, {len(ranks)} were given")
    widest = 0

    def labels(part: str, rank: int | None) -> tuple[str, ...]:
        before, dots, after = part.partition("...")
        if not all(s.isalpha() for s in before + after):
            raise n.error(f"equation '{equation}' has an unexpected character in '{part}'")
        count = (widest if rank is None else rank - len(before) - len(after)) if dots else 0
        if (rank is not None and len(before) + len(after) + count != rank) or count < 0:
            raise n.error(f"'{part}' of equation '{equation}' does not fit an operand of rank {rank}")
        return (*before, *(f".{count - 1 - k}" for k in range(count)), *after)

    operands = [labels(p, r) for p, r in zip(parts, ranks)]
    widest = max((sum(s[0] == "." for s in o) for o in operands), default=0)
    if arrow:
        return operands, labels(right, None)
    letters = [s for o in operands for s in o if s[0] != "."]
    return operands, (*(f".{widest - 1 - k}" for k in range(widest)), *sorted(s for s in set(letters) if letters.count(s) == 1))


@register
class Einsum(Op):
    """Einstein sum over any number of operands, contracted from left to right. Source: ONNX Einsum-12."""

    name, versions = "Einsum", (12, 28)
    attributes = {"equation": REQUIRED}

    def lower(self, n: Lowering) -> Tensor:
        tensors = [n.input(k) for k in range(len(n.inputs))]
        labels, out = parse_equation(n, n.attr("equation"), [t.rank for t in tensors])
        sizes: dict[str, Expr] = {}
        for term_labels, t in zip(labels, tensors):
            for s, d in zip(term_labels, t.shape):
                sizes[s] = broadcast_shapes([(sizes[s],), (d,)], n)[0] if s in sizes else d
        unknown = [s for s in out if s not in sizes]
        if unknown or len(set(out)) != len(out):
            raise n.error(f"the result of equation '{n.attr('equation')}' repeats a label or has one that no operand has")
        terms = [Term(s, t.shape, t.__getitem__, t.dtype) for s, t in zip(labels, tensors)]
        dtype = tensors[0].dtype
        while len(terms) > 2:
            kept = tuple(dict.fromkeys(s for t in terms[:2] for s in t.labels if s in out or any(s in o.labels for o in terms[2:])))
            product = self.contract(n, terms[0], terms[1], kept, sizes, dt.compute_type(dtype))
            terms[:2] = [Term(kept, product.shape, product.__getitem__, product.dtype)]
        if len(terms) == 2:
            return self.contract(n, terms[0], terms[1], out, sizes, dtype)
        return self.sum(n, terms[0], out, sizes, dtype)

    @staticmethod
    def sum(n: Lowering, term: Term, out: tuple[str, ...], sizes: dict[str, Expr], dtype: DType) -> Tensor:
        """The operand's elements summed over the labels that `out` lacks."""
        gone = [s for s in dict.fromkeys(term.labels) if s not in out]

        def value(*index: Expr) -> Expr:
            def body(*r: Expr) -> Expr:
                return widen(term.load(dict([*zip(out, index), *zip(gone, r)]), sizes))
            return n.reduce("sum", [sizes[s] for s in gone], body)
        return n.map([sizes[s] for s in out], value, dtype)

    def contract(self, n: Lowering, p: Term, q: Term, out: tuple[str, ...], sizes: dict[str, Expr], dtype: DType) -> Tensor:
        """The product of two operands summed over the labels that `out` lacks."""
        def alone(t: Term, other: Term) -> Term:
            kept = tuple(s for s in dict.fromkeys(t.labels) if s in out or s in other.labels)
            if len(kept) == len(set(t.labels)):
                return t
            summed = self.sum(n, t, kept, {s: d for s, d in sizes.items()}, dt.compute_type(dtype))
            return Term(kept, summed.shape, summed.__getitem__, summed.dtype)

        p, q = alone(p, q), alone(q, p)
        batch = [s for s in out if s in p.labels and s in q.labels]
        rows = [s for s in out if s in p.labels and s not in batch]
        columns = [s for s in out if s in q.labels and s not in batch]
        reduced = [s for s in dict.fromkeys(p.labels) if s in q.labels and s not in out]

        def position(names: Sequence[str], axes: Sequence[Expr]) -> dict[str, Expr]:
            return dict(zip(names, axes, strict=True))

        kind = dt.compute_type(dtype)
        return n.contract([sizes[s] for s in batch], [sizes[s] for s in rows], [sizes[s] for s in columns], [sizes[s] for s in reduced],
                          lambda b, r, k: p.load(position([*batch, *rows, *reduced], [*b, *r, *k]), sizes),
                          lambda b, c, k: q.load(position([*batch, *columns, *reduced], [*b, *c, *k]), sizes),
                          [sizes[s] for s in out], lambda b, r, c: [position([*batch, *rows, *columns], [*b, *r, *c])[s] for s in out], dtype=dtype, accumulate=kind)

    def samples(self) -> Iterator[Sample]:
        rng = np.random.default_rng(4)

        def f(*s: int) -> np.ndarray:
            return rng.standard_normal(s).astype(np.float32)
        yield Sample((f(2, 3, 4), f(2, 4, 5)), {"equation": "bij,bjk->bik"})
        yield Sample((f(2, 4, 3, 8), f(2, 5, 3, 8)), {"equation": "bqhd,bkhd->bhqk"})
        yield Sample((f(3, 3),), {"equation": "ii->i"})
        yield Sample((f(3), f(4), f(3, 4, 2)), {"equation": "i,j,ijk"})
        yield Sample((f(2, 3, 4), f(3, 4)), {"equation": "...ij,...ij->...i"})


# -------------------------------------------------------------------------------------------------------------- elimination
def pivot_row(work, base, size, k):
    """The row, from row k on, with the largest element of column k of a matrix [size, size] at `base`."""
    pivot = k
    for i in range(k + 1, size):
        if abs(load(work, base + i * size + k)) > abs(load(work, base + pivot * size + k)):
            pivot = i
    return pivot


def determinant(x, y, work, size, lo, hi):
    """Determinants of matrices [size, size] by elimination with partial pivoting."""
    for m in range(lo, hi):
        base = m * size * size
        for j in range(size * size):
            store(work, base + j, load(x, base + j))
        value = 1.0
        for k in range(size):
            pivot = pivot_row(work, base, size, k)
            head = load(work, base + pivot * size + k)
            value = value * head
            if pivot != k:
                value = -value
                for j in range(k, size):
                    moved = load(work, base + k * size + j)
                    store(work, base + k * size + j, load(work, base + pivot * size + j))
                    store(work, base + pivot * size + j, moved)
            if head != 0:
                for i in range(k + 1, size):
                    ratio = load(work, base + i * size + k) / head
                    for j in range(k, size):
                        store(work, base + i * size + j, load(work, base + i * size + j) - ratio * load(work, base + k * size + j))
        store(y, m, value)


DETERMINANT = Routine("determinant", determinant, (pivot_row,))


def by_elimination(n: Lowering, routine: Routine, whole: bool) -> Tensor:
    """What a routine over float64 gives for each matrix of the input: a matrix if `whole`, else a number; rounded to the input's type."""
    x = n.input(0)
    if x.rank < 2:
        raise n.error(f"an input of rank {x.rank} was given, square matrices were expected")
    size = same_size(n, x.shape[-2], x.shape[-1], "sides of the matrices")
    shape = x.shape if whole else x.shape[:-2]
    wide = x if x.dtype is dt.float64 else n.map(x.shape, lambda *i: x[i], dt.float64)
    y, _ = n.routine(routine, [wide], [(dt.float64, shape), (dt.float64, x.shape)], [size], units=ex.product(x.shape[:-2]))
    return y if x.dtype is dt.float64 else n.map(shape, lambda *i: y[i], x.dtype)


@register
class Det(Op):
    """Determinants of square matrices, eliminated in float64. Source: ONNX Det-22."""

    name, versions = "Det", (11, 22)

    def lower(self, n: Lowering) -> Tensor:
        return by_elimination(n, DETERMINANT, whole=False)

    def samples(self) -> Iterator[Sample]:
        yield Sample((np.random.default_rng(5).standard_normal((2, 3, 4, 4)).astype(np.float32),))
        yield Sample((np.array([[0, 1], [1, 0]], np.float32),))
