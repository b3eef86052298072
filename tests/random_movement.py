"""What random models may be made of, continued: views, indexing, sorting, shapes and control flow."""
from __future__ import annotations

import numpy as np
from random_models import Dim, Discard, Generator, Known, broadcasts, check_types, fixed
from random_operators import swapped, template
from sardonyx.ir import dtypes as dt
from sardonyx.ir.graph import Graph, Value
from sardonyx.ir.infer import infer
from sardonyx.ir.ops.base import find, since_version

FAR = (1 << 63) - 1


def axis_of(g: Generator, x: Known, signed: bool = True) -> int:
    if not x.rank:
        raise Discard("a scalar has no axis")
    return g.rng.randrange(-x.rank if signed else 0, x.rank)


# -------------------------------------------------------------------------------------------------------------------- views
@template(6)
def transpose(g: Generator) -> None:
    x = g.pick(lambda k: k.rank >= 2)
    perm = list(range(x.rank))
    g.rng.shuffle(perm)
    g.add("Transpose", x, **({"perm": tuple(perm)} if g.chance(0.9) else {}))


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


@template(6)
def reshape(g: Generator) -> None:
    x = g.pick()
    counts = [a.size for a in x.arrays]
    if min(counts) == 0:
        raise Discard("zero sizes")
    kind = g.rng.random()
    if kind < 0.2 and x.rank >= 2:
        g.add("Flatten", x, axis=g.rng.randrange(-x.rank, x.rank + 1))
    elif kind < 0.45 and x.rank >= 2:  # two neighbours become one
        k = g.rng.randrange(x.rank - 1)
        g.add("Reshape", x, [*([0] * k), -1, *(d[0] for d in x.dims[k + 2:])] if all(map(fixed, x.dims[k + 2:])) else merged(g, x, k))
    elif kind < 0.8 and any(map(fixed, x.dims)):  # one becomes two
        k = g.one([j for j, d in enumerate(x.dims) if fixed(d)])
        part = g.one(divisors(x.dims[k][0]))
        rest = x.dims[k + 1:]
        if len([d for d in rest if not fixed(d)]) > 1 or x.rank > 5:
            raise Discard("two open sizes")
        g.add("Reshape", x, [*([0] * k), part, x.dims[k][0] // part, *(d[0] if fixed(d) else -1 for d in rest)])
    else:
        n = g.one([k for k in divisors(int(np.gcd.reduce(counts)))])
        g.add("Reshape", x, g.one(([-1], [n, -1], [-1, n], [1, n, -1])))


def merged(g: Generator, x: Known, k: int) -> Known:
    """The shape of x with two dimensions merged, computed in the graph."""
    shape = g.add("Shape", x)
    head = g.add("Slice", shape, [0], [k])
    tail = g.add("Slice", shape, [k + 2], [FAR])
    return g.add("Concat", head, g.constant(np.array([-1])), tail, axis=0)


@template(4)
def squeeze(g: Generator) -> None:
    if g.chance(0.5):
        x = g.pick(lambda k: any(d == (1,) * g.runs and k.value.type.shape[j].is_const for j, d in enumerate(k.dims)))
        ones = [j for j, d in enumerate(x.dims) if d == (1,) * g.runs and x.value.type.shape[j].is_const]
        some = [j for j in ones if g.chance(0.7)] or ones[:1]
        g.add("Squeeze", x, None if some == ones and all(1 not in d for j, d in enumerate(x.dims) if j not in ones) and g.chance(0.3) and x.is_static else
              [j - x.rank if g.chance(0.3) else j for j in some])
    else:
        x = g.pick(lambda k: k.rank < 5)
        count = g.one((1, 1, 2))
        axes = g.rng.sample(range(x.rank + count), count)
        g.add("Unsqueeze", x, [a - x.rank - count if g.chance(0.3) else a for a in axes])


@template(7)
def sliced(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0)
    axes = [k for k in range(x.rank) if g.chance(0.5)] or [g.rng.randrange(x.rank)]
    starts, ends, steps = [], [], []
    for a in axes:
        n = min(x.dims[a])
        step = g.one((1, 1, 1, 2, -1, -1, -2, 3))
        lo, hi = sorted((g.rng.randint(0, n), g.rng.randint(0, n)))
        if lo == hi and g.chance(0.9):
            lo, hi = 0, n
        if step > 0:
            start, end = g.one((lo, lo, lo - n if n else 0)), g.one((hi, hi, FAR)) if fixed(x.dims[a]) or hi == n else hi
            if start < 0 and not fixed(x.dims[a]):
                start = lo
        else:
            start, end = g.one((hi - 1, -1, FAR)) if hi else -1, g.one((lo - 1 if lo else -FAR - 1, -FAR - 1))
        starts.append(start)
        ends.append(end)
        steps.append(step)
    named = [a - x.rank if g.chance(0.2) else a for a in axes]
    g.add("Slice", x, starts, ends, named, *([steps] if any(s != 1 for s in steps) or g.chance(0.5) else []))


@template(5)
def concat(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0 and k.numel < 6000)
    axis = axis_of(g, x)
    at = axis % x.rank
    alike = [k for k in g.pool if k.dtype is x.dtype and k.rank == x.rank and all(a == b for j, (a, b) in enumerate(zip(k.dims, x.dims, strict=True)) if j != at)]
    parts = [x]
    for _ in range(g.one((1, 1, 2, 3))):
        parts.append(g.one(alike) if g.chance(0.7) else g.source(x.dtype, [*x.dims[:at], g.dim(8), *x.dims[at + 1:]]))
    g.rng.shuffle(parts)
    g.add("Concat", *parts, axis=axis)


@template(4)
def split(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0 and any(fixed(d) and d[0] > 1 for d in k.dims))
    axis = g.one([j for j, d in enumerate(x.dims) if fixed(d) and d[0] > 1])
    n = x.dims[axis][0]
    signed = axis - x.rank if g.chance(0.3) else axis
    kind = g.rng.random()
    if kind < 0.5:
        cut = g.rng.randint(1, n - 1)
        parts = [cut, n - cut] if g.chance(0.7) or n - cut < 2 else [cut, 1, n - cut - 1]
        g.add("Split", x, parts, outputs=len(parts), axis=signed)
    elif g.opset >= 18:
        count = g.rng.randint(2, min(4, n))
        if -(-n // count) * (count - 1) >= n:
            raise Discard("an empty last part")
        g.add("Split", x, outputs=count, axis=signed, num_outputs=count)
    elif n % 2 == 0:
        g.add("Split", x, outputs=2, axis=signed)


@template(4)
def expand(g: Generator) -> None:
    x = g.pick(lambda k: k.numel < 1500 and k.rank < 5)
    if g.chance(0.4):
        like = g.pick(lambda k: broadcasts(k, x))
        g.add("Expand", x, g.add("Shape", like))
    elif g.chance(0.5):
        dims = [g.one((2, 3, 5)) if d == (1,) * g.runs and x.value.type.shape[k].is_const else 1 for k, d in enumerate(x.dims)]
        g.add("Expand", x, [*([g.one((1, 2, 3))] if g.chance(0.4) else []), *dims])
    elif x.rank:
        g.add("Tile", x, [g.one((1, 1, 2, 3)) for _ in range(x.rank)])


@template(5)
def pad(g: Generator) -> None:
    x = g.pick(lambda k: 0 < k.rank <= 4 and k.least > 0 and k.numel < 6000)
    mode = g.one(("constant", "constant", "reflect", "edge", "wrap"))
    if mode == "wrap" and g.opset < 19:
        raise Discard("no wrap yet")
    chosen = [k for k in range(x.rank) if g.chance(0.5)] or [x.rank - 1]
    amounts = {}
    for k in chosen:
        most = min(min(x.dims[k]) - (mode == "reflect"), 3)
        amounts[k] = [g.rng.randint(0, max(0, most)) for _ in "be"]
        if mode == "constant" and g.chance(0.2) and min(x.dims[k]) > 2:
            amounts[k][g.one((0, 1))] = -1
    named = g.opset >= 18 and g.chance(0.5)
    order = chosen if named else range(x.rank)
    pads = [amounts.get(k, [0, 0])[e] for e in (0, 1) for k in order]
    value = g.scalar(2 if x.dtype is not dt.boolean else 1, x) if mode == "constant" and g.chance(0.5) else None
    g.add("Pad", x, pads, value, [k - x.rank if g.chance(0.3) else k for k in chosen] if named else None, mode=mode)


@template(2)
def depth_and_space(g: Generator) -> None:
    x = g.pick(lambda k: k.rank == 4 and k.dtype is not dt.boolean)
    if g.chance(0.6) and all(c % 4 == 0 for c in x.dims[1]):
        g.add("DepthToSpace", x, blocksize=2, mode=g.one(("DCR", "CRD")))
    elif all(n % 2 == 0 for d in x.dims[2:] for n in d):
        g.add("SpaceToDepth", x, blocksize=2)
    else:
        raise Discard("no such sizes")


# ----------------------------------------------------------------------------------------------------------------- indexing
def indices(g: Generator, dims: tuple[Dim, ...], size: Dim) -> Known:
    """New indices into a dimension, valid in every run."""
    n = min(size)
    if not n:
        raise Discard("nothing to take from")
    kind = g.one((dt.int64, dt.int64, dt.int32))
    return g.source(kind, dims, make=lambda s: g.numbers.integers(-n if g.chance(0.4) else 0, n, s))


@template(4)
def gather(g: Generator) -> None:
    x = g.pick(lambda k: 0 < k.rank < 5 and k.least > 0 and k.numel < 3000)
    axis = axis_of(g, x)
    dims = tuple(g.dim(5) for _ in range(g.one((0, 1, 1, 2))))
    if g.chance(0.2):
        found = [k for k in g.pool if k.dtype is dt.int64 and k.rank <= 2 and k.numel < 40 and all(a.size == 0 or (a.min() >= 0 and a.max() < n)
                 for a, n in zip(k.arrays, x.dims[axis], strict=True))]
        if found:
            g.add("Gather", x, g.one(found), axis=axis)
            return
    g.add("Gather", x, indices(g, dims, x.dims[axis]), axis=axis)


@template(2)
def gather_elements(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0 and k.least > 0)
    axis = axis_of(g, x)
    at = axis % x.rank
    g.add("GatherElements", x, indices(g, (*x.dims[:at], g.dim(6), *x.dims[at + 1:]), x.dims[at]), axis=axis)


def tuples(g: Generator, x: Known, count: int, batch: int, unique: bool) -> Known:
    """Index tuples into the dimensions of x behind `batch`."""
    limits = [min(d) for d in x.dims[batch:batch + count]]
    rows = g.rng.randint(1, 4)
    most = int(np.prod(limits))
    if not most or (unique and most < rows):
        raise Discard("too few places")

    def make(shape: list[int]) -> np.ndarray:
        flat = g.numbers.choice(most, shape[-2], replace=False) if unique else g.numbers.integers(0, most, shape[:-1])
        return np.stack(np.unravel_index(flat, limits), -1)
    return g.source(dt.int64, [*x.dims[:batch], (rows,) * g.runs, (count,) * g.runs], make=make)


@template(2)
def gather_nd(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0 and k.least > 0)
    batch = g.one((0, 0, 1)) if x.rank > 1 else 0
    count = g.rng.randint(1, x.rank - batch)
    g.add("GatherND", x, tuples(g, x, count, batch, False), **({"batch_dims": batch} if batch else {}))


def reduction_of(g: Generator, x: Known) -> str:
    names = ("none", "none", "add", "mul") + (("max", "min") if g.opset >= 18 else ())
    return g.one(names) if x.dtype is not dt.boolean and x.dtype.bits >= 32 else "none"


@template(3)
def scatter(g: Generator) -> None:
    x = g.pick(lambda k: 0 < k.rank < 5 and k.least > 0 and k.numel < 3000)
    how = reduction_of(g, x)
    further = {} if how == "none" else {"reduction": how}
    if g.chance(0.5):
        count = g.rng.randint(1, x.rank)
        places = tuples(g, x, count, 0, how == "none")
        g.add("ScatterND", x, places, g.source(x.dtype, [*places.dims[:-1], *x.dims[count:]]), **further)
        return
    axis = g.rng.randrange(x.rank)
    n = min(x.dims[axis])
    taken = g.rng.randint(1, n)
    dims = (*x.dims[:axis], (taken,) * g.runs, *x.dims[axis + 1:])

    def make(shape: list[int]) -> np.ndarray:
        if how != "none":
            return g.numbers.integers(-n, n, shape)
        lines = np.argsort(g.numbers.random([*shape[:axis], n, *shape[axis + 1:]]), axis)
        return np.take(lines, np.arange(taken), axis)
    g.add("ScatterElements", x, g.source(dt.int64, dims, make=make), g.source(x.dtype, dims), axis=axis if g.chance(0.7) else axis - x.rank, **further)


# ---------------------------------------------------------------------------------------------------------------- searching
@template(3)
def top(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0 and k.least > 0 and k.dtype is not dt.boolean)
    axis = axis_of(g, x)
    g.add("TopK", x, [g.rng.randint(1, min(x.dims[axis]))], outputs=2, axis=axis, largest=g.one((0, 1)))


@template(3)
def arg(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0 and k.least > 0 and k.dtype is not dt.boolean)
    g.add(g.one(("ArgMax", "ArgMin")), x, axis=axis_of(g, x), keepdims=g.one((0, 1)), **({"select_last_index": 1} if g.chance(0.3) else {}))


@template(3)
def cumulated(g: Generator) -> None:
    x = g.pick(lambda k: k.rank > 0 and k.dtype in (dt.float32, dt.float64, dt.int32, dt.int64))
    g.add("CumSum", x, g.constant(np.asarray(axis_of(g, x), g.one((np.int64, np.int32)))), **({"exclusive": 1} if g.chance(0.3) else {}), **({"reverse": 1} if g.chance(0.3) else {}))


@template(2)
def one_hot(g: Generator) -> None:
    x = g.pick(lambda k: k.dtype in (dt.int64, dt.int32) and 0 < k.rank < 4 and k.numel < 500)
    values = g.source(g.one(g.dtypes), [(2,) * g.runs], True)
    g.add("OneHot", x, g.constant(np.asarray(g.one((1, 3, 7)), np.int64)), values, axis=g.rng.randrange(-x.rank - 1, x.rank + 1))


@template(2)
def triangular(g: Generator) -> None:
    x = g.pick(lambda k: k.rank >= 2)
    g.add("Trilu", x, *([g.constant(np.asarray(g.one((-1, 0, 1, 2)), np.int64))] if g.chance(0.6) else []), upper=g.one((0, 1)))


@template(1)
def reversed_sequences(g: Generator) -> None:
    x = g.pick(lambda k: k.rank >= 2 and k.least > 0)
    time = g.one((0, 1))
    n = min(x.dims[time])
    g.add("ReverseSequence", x, g.source(dt.int64, [x.dims[1 - time]], make=lambda s: g.numbers.integers(1, n + 1, s)), batch_axis=1 - time, time_axis=time)


@template(2)
def found(g: Generator) -> None:
    """Sizes that depend on values."""
    x = g.pick(lambda k: k.numel < 500 and k.rank > 0)
    op = g.one(("NonZero", "Compress", "Unique"))
    if op == "NonZero":
        g.add(op, x)
    elif op == "Unique":
        if x.dtype is dt.boolean or x.least == 0:
            raise Discard("no order")
        g.add(op, x, outputs=g.one((1, 4)))
    else:
        axis = g.rng.randrange(x.rank)
        g.add(op, x, g.source(dt.boolean, [x.dims[axis]]), axis=axis)


# ------------------------------------------------------------------------------------------------------------------- shapes
@template(3)
def shapes(g: Generator) -> None:
    x = g.pick()
    kind = g.rng.random()
    if kind < 0.3:
        g.add("Shape", x, **({"start": g.one((0, 1, -1))} if g.chance(0.4) else {}))
    elif kind < 0.45:
        g.add("Size", x)
    elif kind < 0.65 and x.numel < 3000:
        g.add("ConstantOfShape", g.add("Shape", x), value=np.asarray([2], g.one(g.dtypes).numpy))
    elif kind < 0.85 and x.rank:
        n = g.add("Squeeze", g.add("Gather", g.add("Shape", x), [axis_of(g, x)]), [0])
        g.add("Range", g.constant(np.asarray(0)), n, g.constant(np.asarray(g.one((1, 2)))))
    else:
        g.add("EyeLike", g.pick(lambda k: k.rank == 2), k=g.one((0, 1, -1)), dtype=dt.float32.code)


# ------------------------------------------------------------------------------------------------------------- control flow
SMALL = ("Relu", "Tanh", "Neg", "Abs", "Sigmoid", "Identity", "Softsign")


def inner(g: Generator, body: Graph, op: str, *inputs: Value) -> Value:
    check_types(op, g.opset, [Known(v, ()) for v in inputs], {})
    node = body.add(op, list(inputs), version=since_version(find("", op), g.opset))
    infer(node)
    return node.outputs[0]


@template(0.7)
def branch(g: Generator) -> None:
    x = g.pick_float()
    condition = g.add("Greater", g.add("ReduceMax", x, keepdims=0), g.scalar(g.one((-1.0, 0.5, 2.0)), x)) if x.least else g.source(dt.boolean, ())
    bodies = []
    for name in ("then", "else"):
        body = Graph(name, g.graph)
        v = inner(g, body, g.one(SMALL), x.value)
        if g.chance(0.5):
            v = inner(g, body, "Add", v, x.value)
        if g.chance(0.5):
            v = inner(g, body, g.one(SMALL), v)
        body.outputs = [v]
        bodies.append(body)
    g.add("If", condition, then_branch=bodies[0], else_branch=bodies[1])


@template(0.5)
def loop(g: Generator) -> None:
    x = g.pick_float(where=lambda k: k.numel < 2000)
    body = Graph("body", g.graph)
    body.input(g.graph.fresh_name("k"), x.value.type.__class__(dt.int64, ()))
    going = body.input(g.graph.fresh_name("going"), x.value.type.__class__(dt.boolean, ()))
    v = body.input(g.graph.fresh_name("carried"), x.value.type)
    new = inner(g, body, "Tanh", inner(g, body, "Add", v, x.value))
    scanned = inner(g, body, g.one(SMALL), new)
    body.outputs = [inner(g, body, "Identity", going), new, scanned]
    trips = g.source(dt.int64, (), make=lambda s: np.asarray(g.one((1, 2, 3))))
    g.add("Loop", trips, g.constant(np.asarray(True)), x, outputs=2, body=body)


@template(0.5)
def scan(g: Generator) -> None:
    x = g.pick_float((1, 2, 3), lambda k: k.least > 0)
    state = g.source(x.dtype, x.dims[1:])
    body = Graph("body", g.graph)
    kind = x.value.type.__class__(x.dtype, x.value.type.shape[1:])
    s, each = (body.input(g.graph.fresh_name(n), kind) for n in ("state", "each"))
    new = inner(g, body, "Tanh", inner(g, body, g.one(("Add", "Mul", "Max")), *swapped(g, s, each)))
    body.outputs = [new, inner(g, body, g.one(SMALL), new)]
    g.add("Scan", state, x, outputs=2, body=body, num_scan_inputs=1, **({"scan_input_directions": (1,)} if g.chance(0.3) else {}))
