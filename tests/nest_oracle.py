"""A NumPy meaning of map nests for tests of schedules: every axis is a dimension of the arrays, nothing is clever."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.expr import Expr, Tensor
from sardonyx.ir.loops import MapNest

Sizes = Mapping[str, int]


def size(e: Expr, sizes: Sizes) -> int:
    """The value of a size."""
    return int(ex.substitute_one(e, {n: ex.const(sizes[n.value[0]]) for n in ex.walk(e) if n.op == "sym"}).value)


class Oracle:
    """Evaluates one nest on arrays."""

    def __init__(self, nest: MapNest, arrays: Mapping[Tensor, np.ndarray], sizes: Sizes) -> None:
        self.nest, self.arrays, self.sizes = nest, arrays, sizes
        axes = dict.fromkeys(nest.axes)
        for e in ex.walk(nest.values):
            if e.op == "reduce":
                axes.update(dict.fromkeys(ex.reduce_axes(e)))
        self.dims = {a: k for k, a in enumerate(axes)}
        self.values: dict[Expr, np.ndarray] = {}

    def run(self) -> dict[Tensor, np.ndarray]:
        out = {t: np.zeros([size(d, self.sizes) for d in t.shape], t.dtype.numpy) for t in self.nest.outputs}
        parallel = [size(a.extent, self.sizes) for a in self.nest.axes]
        full = tuple(parallel) + (1,) * (len(self.dims) - len(parallel))
        with np.errstate(all="ignore"):
            for s in self.nest.stores:
                index = tuple(np.broadcast_to(self.value(i), full) for i in s.index)
                found = np.broadcast_to(self.value(s.value), full).astype(s.tensor.dtype.numpy)
                out[s.tensor][index] = found if index else found.reshape(-1)[0]
        return out

    def value(self, e: Expr) -> np.ndarray:
        if e not in self.values:
            self.values[e] = self._value(e)
        return self.values[e]

    def _value(self, e: Expr) -> np.ndarray:
        one = (1,) * max(1, len(self.dims))
        kind = dt.compute_type(e.dtype).numpy
        if e.op == "const":
            return np.full(one, e.value, kind)
        if e.op == "sym":
            return np.full(one, self.sizes[e.value[0]], np.int64)
        if e.op == "axis":
            n = size(e.extent, self.sizes)
            return np.arange(n).reshape([n if k == self.dims[e] else 1 for k in range(len(self.dims))])
        if e.op == "poly":
            out = np.zeros(one, np.int64)
            for mono, k in e.value:
                term = np.full(one, k, np.int64)
                for a in mono:
                    term = term * self.value(a)
                out = out + term
            return out
        if e.op == "load":
            return self._load(e).astype(kind)
        if e.op == "reduce":
            return self._reduce(e)
        a = [self.value(x) for x in e.args]
        if e.op == "cast":
            if e.args[0].dtype.is_float and e.dtype.is_integer:
                return np.trunc(a[0]).astype(np.int64).astype(e.dtype.numpy)
            return a[0].astype(e.dtype.numpy).astype(kind)
        if e.op == "bitcast":
            return a[0].view(e.dtype.numpy)
        return ex.evaluate_op(e.op, a).astype(np.bool_ if e.dtype is dt.boolean else kind)

    def _load(self, e: Expr) -> np.ndarray:
        array, fill = self.arrays[ex.load_tensor(e)], ex.load_fill(e)
        index = np.broadcast_arrays(*map(self.value, e.args)) if e.args else []
        inside = np.ones(index[0].shape if e.args else (1,) * max(1, len(self.dims)), bool)
        for i, n in zip(index, array.shape):
            inside &= (i >= 0) & (i < n)
        if array.size == 0 or not e.args:
            return np.where(inside, array.reshape(-1)[:1] if array.size else np.zeros(1, array.dtype), np.asarray(fill or 0, array.dtype))
        found = array[tuple(np.clip(i, 0, n - 1) for i, n in zip(index, array.shape))]
        return found if fill is None else np.where(inside, found, np.asarray(fill, array.dtype))

    def _reduce(self, e: Expr) -> np.ndarray:
        kind, axes = ex.reduce_kind(e), ex.reduce_axes(e)
        body = self.value(e.args[0])
        dims = tuple(self.dims[a] for a in axes)
        full = [size(next(a for a in axes if self.dims[a] == k).extent, self.sizes) if k in dims else n for k, n in enumerate(body.shape)]
        body = np.broadcast_to(body, full)
        if kind.startswith("arg"):
            flipped = np.flip(body, dims[0]) if kind.endswith("last") else body
            at = np.expand_dims(getattr(np, kind[:6])(flipped, dims[0]), dims[0])
            return body.shape[dims[0]] - 1 - at if kind.endswith("last") else at
        if kind in ("max", "min"):
            low = -np.inf if body.dtype.kind == "f" else np.iinfo(body.dtype).min
            high = np.inf if body.dtype.kind == "f" else np.iinfo(body.dtype).max
            return getattr(np, kind)(body, axis=dims, keepdims=True, initial=low if kind == "max" else high)
        wide = {"sum": np.float64, "prod": np.float64}.get(kind) if body.dtype.kind == "f" else None
        return getattr(np, kind)(body, axis=dims, keepdims=True, **({"dtype": wide or body.dtype} if kind in ("sum", "prod") else {})).astype(body.dtype)
