"""Random models, built node by node: every node is run by the interpreter as it is added, so that later choices know shapes and values.

`Generator` holds the graph and the values there are; `random_operators` has what may be added. A model may have symbolic sizes; then every value has an array for
each of two choices of the sizes.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.dtypes import DType
from sardonyx.ir.graph import Attribute, Graph, Node, TensorType, Value
from sardonyx.ir.infer import infer
from sardonyx.ir.interpret import run_node
from sardonyx.ir.ops.base import find, since_version

MOST_ELEMS = 20_000  # of one value
OPSETS = (17, 18, 20, 21, 21, 22, 23)
SIZES = ((3, 5), (1, 4), (2, 7), (6, 1), (16, 9), (4, 2), (3, 33), (3, 0))

Dim = tuple[int, ...]  # one size for each run


class Discard(Exception):
    """A choice that leads to no sensible node: the generator tries another."""


class Refused(Exception):
    """A node that is valid was refused, or failed, while the model was being built."""

    def __init__(self, generator: "Generator", node: str, reason: Exception) -> None:
        super().__init__(f"{node}: {type(reason).__name__}: {reason}")
        self.generator, self.reason = generator, reason


@dataclass(eq=False)
class Known:
    """A value of the model with its elements in each run."""

    value: Value
    arrays: tuple[np.ndarray, ...]

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def rank(self) -> int:
        return self.arrays[0].ndim

    @property
    def dims(self) -> tuple[Dim, ...]:
        return tuple(zip(*(a.shape for a in self.arrays), strict=True))

    @property
    def numel(self) -> int:
        return max(a.size for a in self.arrays)

    @property
    def least(self) -> int:
        return min(a.size for a in self.arrays)

    @property
    def is_static(self) -> bool:
        return self.value.is_constant or all(d.is_const for d in self.value.type.shape)

    @property
    def top(self) -> float:
        """The largest magnitude of its elements."""
        return max((float(np.max(np.abs(a.astype(np.float64)))) for a in self.arrays if a.size), default=0.0)


def fixed(d: Dim) -> bool:
    return all(n == d[0] for n in d)


def limit(dtype: DType) -> float:
    """Magnitude that values are kept below."""
    return 300.0 if dtype is dt.float16 else 2e4


class Generator:
    """A model under construction.

    Args:
        rng: where all choices come from.
        opset: of ai.onnx.
        dtypes: element types of inputs, most likely first.
        symbols: the sizes in each run by name; empty for a model without symbolic sizes (one run).
    """

    def __init__(self, rng: random.Random, opset: int, dtypes: Sequence[DType], symbols: Mapping[str, Dim]) -> None:
        self.rng, self.opset, self.dtypes = rng, opset, tuple(dtypes)
        self.symbols = dict(symbols)
        self.runs = 2 if symbols else 1
        self.numbers = np.random.default_rng(rng.randrange(1 << 31))
        self.graph = Graph("random")
        self.graph.opsets = {"": opset}
        self.pool: list[Known] = []
        self.initialisers: dict[tuple[DType, tuple[Dim, ...]], Known] = {}  # some serve several nodes

    # ---- choices
    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def one(self, options: Sequence):
        return options[self.rng.randrange(len(options))]

    def pick(self, where: Callable[[Known], bool] = lambda k: True) -> Known:
        """A value there is, the latest ones most likely.

        Raises:
            Discard: none fits.
        """
        found = [k for k in self.pool if where(k)]
        if not found:
            raise Discard("no value fits")
        return found[int(len(found) * self.rng.random() ** 0.6)]

    def pick_float(self, ranks: Sequence[int] = range(7), where: Callable[[Known], bool] = lambda k: True) -> Known:
        return self.pick(lambda k: k.dtype.is_float and k.rank in ranks and where(k))

    # ---- sources
    def dim(self, biggest: int = 40) -> Dim:
        """A size for a new dimension, symbolic where the model has symbols."""
        if self.symbols and self.chance(0.35):
            return self.one(list(self.symbols.values()))
        n = self.one((1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8, 16, 17, 33))
        return (min(n, biggest),) * self.runs

    def shape(self, rank: int) -> tuple[Dim, ...]:
        dims = tuple(self.dim() for _ in range(rank))
        while max(np.prod([d[r] for d in dims]) if dims else 1 for r in range(self.runs)) > 4000:
            k = max(range(rank), key=lambda j: dims[j])
            dims = (*dims[:k], (2,) * self.runs, *dims[k + 1:])
        return dims

    def numbers_of(self, dtype: DType, shape: Sequence[int]) -> np.ndarray:
        """Elements of a tame range."""
        rng = self.numbers
        if dtype is dt.boolean:
            return rng.random(shape) < 0.5
        if dtype.is_integer:
            low = 0 if dtype.kind == "uint" else -9
            return rng.integers(low, 10, shape).astype(dtype.numpy)
        kind = rng.random()
        a = rng.standard_normal(shape) if kind < 0.7 else np.round(rng.uniform(-3, 3, shape) * 2) / 2 if kind < 0.85 else rng.uniform(-2, 2, shape)
        return np.asarray(a).astype(dtype.numpy)

    def source(self, dtype: DType, dims: Sequence[Dim], constant: bool | None = None, make: Callable[[Sequence[int]], np.ndarray] | None = None) -> Known:
        """A new graph input or constant.

        Args:
            constant: None leaves it to chance; sizes that differ between runs make an input in any case.
            make: elements of a shape, where they must not be just any.
        """
        dims = tuple(dims)
        any_will_do = make is None
        make = make or (lambda shape: self.numbers_of(dtype, shape))
        static = all(map(fixed, dims))
        if static and (self.chance(0.5) if constant is None else constant):
            if any_will_do and (dtype, dims) in self.initialisers and self.chance(0.3):
                return self.initialisers[dtype, dims]
            made = self.constant(np.asarray(make([d[0] for d in dims]), dtype.numpy))
            if any_will_do:
                self.initialisers[dtype, dims] = made
            return made
        shape = tuple(ex.const(d[0]) if fixed(d) and d not in self.symbols.values() else ex.sym(self.symbol(d)) for d in dims)
        value = self.graph.input(self.graph.fresh_name("x0"), TensorType(dtype, shape))
        known = Known(value, tuple(np.asarray(make([d[r] for d in dims]), dtype.numpy) for r in range(self.runs)))
        self.pool.append(known)
        return known

    def symbol(self, sizes: Dim) -> str:
        """The name of a symbolic size, made if there is none with these sizes."""
        for name, s in self.symbols.items():
            if s == sizes:
                return name
        name = f"D{len(self.symbols)}"
        self.symbols[name] = sizes
        return name

    def constant(self, array: np.ndarray | Sequence[int] | int | float, dtype: DType | None = None) -> Known:
        array = np.asarray(array, dtype.numpy if dtype else None)
        if dtype is None and array.dtype == np.float64 and not isinstance(array, np.ndarray):
            array = array.astype(np.float32)
        return Known(self.graph.constant("c", array), (array,) * self.runs)

    def scalar(self, value: float, like: Known) -> Known:
        return self.constant(np.asarray(value, like.dtype.numpy))

    def partner(self, k: Known, dtype: DType | None = None) -> Known:
        """A value that broadcasts with `k`."""
        dtype = dtype or k.dtype
        if self.chance(0.6):
            found = [p for p in self.pool if p.dtype is dtype and broadcasts(p, k)]
            if found:
                return found[int(len(found) * self.rng.random() ** 0.5)]
        dims = [d if self.chance(0.7) else (1,) * self.runs for d in k.dims]
        if self.chance(0.4) and dims:
            dims = dims[self.rng.randrange(len(dims) + 1):]
        elif self.chance(0.15) and k.rank < 5 and k.numel < 2000:
            dims = [(self.one((1, 2, 3)),) * self.runs, *dims]
        return self.source(dtype, dims)

    # ---- nodes
    def version_of(self, op: str) -> int:
        return since_version(find("", op), self.opset)

    def infer_within(self, node: Node) -> None:
        """Types of a node of a body.

        Raises:
            Refused: it cannot be typed.
        """
        try:
            infer(node)
        except Exception as e:  # whatever it is, it is a finding
            raise Refused(self, str(node), e) from e

    def add(self, op: str, *inputs: Known | np.ndarray | list[int] | None, outputs: int = 1, domain: str = "", **attributes: Attribute):
        """Append a node and run it; returns its output or the list of them.

        Raises:
            Discard: the operator does not exist yet or takes no such types, or its results are no sane numbers; the graph is as before.
            Refused: a valid node that the project cannot take.
        """
        attributes = {k: float(np.float32(a)) if isinstance(a, float) else a for k, a in attributes.items()}  # as a file would hold them
        definition = find(domain, op)
        version = 1 if domain else since_version(definition, self.opset)
        if version is None:
            raise Discard(f"{op} is not in opset {self.opset}")
        known = [self.constant(np.asarray(i, np.int64) if isinstance(i, list) else i) if isinstance(i, (list, np.ndarray, np.generic)) else i for i in inputs]
        while known and known[-1] is None:
            known.pop()
        if not domain:
            check_types(op, self.opset, known, attributes)
        node = self.graph.add(op, [None if k is None else k.value for k in known], attributes, outputs=outputs, domain=domain, version=version)
        try:
            infer(node)
            results = [run_node(node, [None if k is None else k.arrays[r] for k in known], {p.value: p.arrays[r] for p in self.pool}) for r in range(self.runs)]
        except Exception as e:  # whatever it is, it is a finding
            raise Refused(self, str(node), e) from e
        made = [Known(v, arrays) for v, arrays in zip(node.outputs, zip(*results, strict=True), strict=False)]  # an operator may have more outputs than are asked for
        if not all(sane(m) for m in made):
            self.graph.remove(node)
            raise Discard("results are not sane")
        self.pool.extend(made)
        return made[0] if outputs == 1 else made

    def finish(self) -> None:
        """Choose outputs: everything unused, and some of what is used."""
        sinks = [k.value for k in self.pool if not k.value.uses and k.value.producer is not None]
        inner = [k.value for k in self.pool if k.value.uses and k.value.producer is not None and self.chance(0.06)]
        given = [v for v in self.graph.inputs if self.chance(0.05)]
        captured = {v for n in self.graph.nodes for s in n.subgraphs() for v in s.captured()}
        self.graph.outputs = sinks + inner + given
        self.graph.inputs = [v for v in self.graph.inputs if v.uses or v in self.graph.outputs or v in captured]

    def feeds(self) -> list[dict[str, np.ndarray]]:
        known = {k.value: k for k in self.pool}
        return [{v.name: known[v].arrays[r] for v in self.graph.inputs} for r in range(self.runs)]


def broadcasts(a: Known, b: Known) -> bool:
    """Whether two values broadcast in every run, to a result of bounded size."""
    for x, y in zip(a.arrays, b.arrays, strict=True):
        try:
            if np.prod(np.broadcast_shapes(x.shape, y.shape)) > MOST_ELEMS:
                return False
        except ValueError:
            return False
    return True


def sane(k: Known) -> bool:
    for a in k.arrays:
        if a.size > MOST_ELEMS or a.ndim > 7:
            return False
        if k.dtype.is_float and a.size:
            f = a.astype(np.float64)
            if not np.isfinite(f).all() or np.abs(f).max() > limit(k.dtype):
                return False
    return True


_TYPES: dict[tuple[str, int], tuple[list[frozenset[str]], bool]] = {}


def check_types(op: str, opset: int, inputs: Sequence[Known | None], attributes: Mapping[str, Attribute]) -> None:
    """Raise Discard unless the operator's schema takes inputs of these types and has these attributes."""
    schema = onnx.defs.get_schema(op, opset, "")
    if schema.deprecated:
        raise Discard(f"{op} is deprecated in opset {opset}")
    for k, i in enumerate(inputs):
        formal = schema.inputs[min(k, len(schema.inputs) - 1)]
        if k >= len(schema.inputs) and formal.option != onnx.defs.OpSchema.FormalParameterOption.Variadic:
            raise Discard(f"{op} has no input {k}")
        if i is not None and f"tensor({i.dtype.name})" not in formal.types:
            raise Discard(f"{op} takes no {i.dtype}")
    for name in attributes:
        if name not in schema.attributes:
            raise Discard(f"{op} has no attribute {name}")


def generate(rng: random.Random, fewest: int = 5, most: int = 60) -> Generator:
    """A random model of so many operators."""
    from random_operators import TEMPLATES

    float_kinds = rng.choices([[dt.float32], [dt.float64], [dt.float16], [dt.bfloat16], [dt.float32, dt.float16], [dt.float32, dt.float64]], [60, 10, 8, 8, 7, 7])[0]
    integers = [dt.int64, rng.choice(dt.INTEGERS)]
    symbols = {name: rng.choice(SIZES) for name in rng.choice([[], [], ["N"], ["N", "M"]])}
    g = Generator(rng, rng.choice(OPSETS), [*float_kinds, *integers, dt.boolean], symbols)
    target = min(most, fewest + int((most - fewest) * rng.random() ** 2.5))
    for _ in range(rng.choice((1, 1, 2, 3))):
        dtype = rng.choice(float_kinds) if rng.random() < 0.8 else rng.choice(g.dtypes)
        g.source(dtype, g.shape(rng.choice((0, 1, 2, 2, 3, 3, 4, 4))), constant=False)
    functions, weights = zip(*TEMPLATES, strict=True)
    misses = 0
    while len(g.graph.nodes) < target and misses < 400:
        template = rng.choices(functions, weights)[0]
        try:
            template(g)
        except Discard:
            misses += 1
    g.finish()
    return g
