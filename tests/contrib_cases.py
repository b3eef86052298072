"""Generated cases that hold operators against ONNX Runtime: how they are declared, run and compared.

A module `contrib_cases_<subject>.py` declares the cases of an operator with a generator:

    @cases("com.microsoft", "QuickGelu")
    def quick_gelu(r: Draw) -> Iterator[Case]:
        for shape in shapes(r, 20):
            yield Case([r.real(*shape)], {"alpha": r.pick(1.0, 1.702)})

`test_contrib.py` runs every case through ONNX Runtime, every third one through a compiled session and the others through the interpreter. Every second case has symbolic sizes only.
A case that ONNX Runtime refuses does not count. From the shell: `python tests/contrib_cases.py NAME...` compiles all cases of an operator and says how each fares;
`--interpret` only interprets them.
"""
from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST_CASES = 20
OPSETS = {"": 21, "com.microsoft": 1, "ai.onnx.ml": 3}
FED = frozenset("float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool object".split())  # NumPy types that ONNX Runtime takes as feeds


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Args:
        inputs: arrays, None where an optional input is absent.
        outputs: how many, or which (False where an optional output is not asked for).
        constants: positions of the inputs that are initialisers.
        opset: version of the operator's domain; by default the family's.
        dynamic: whether all sizes are symbolic; None takes turns.
        unchecked: outputs whose values are not compared, only type and shape.
        types: element types of the outputs for which ONNX Runtime cannot tell.
        part: takes from a result, given its number, what is compared; the rest is undefined.
    """

    inputs: Sequence[np.ndarray | np.generic | None]
    attributes: Mapping[str, object] = field(default_factory=dict)
    outputs: int | Sequence[bool] = 1
    constants: Sequence[int] = ()
    opset: int | None = None
    dynamic: bool | None = None
    unchecked: Sequence[int] = ()
    types: Mapping[int, int] = field(default_factory=dict)
    part: Callable[[int, np.ndarray], np.ndarray] | None = None

    def __repr__(self) -> str:
        def brief(a: np.ndarray | np.generic | None) -> str:
            return "-" if a is None else f"{np.asarray(a).dtype.name}{list(np.shape(a))}"
        attributes = {k: v if not isinstance(v, (onnx.TensorProto, onnx.GraphProto, np.ndarray)) else "..." for k, v in self.attributes.items()}
        return f"{', '.join(map(brief, self.inputs))} {attributes}{' const ' + str(list(self.constants)) if self.constants else ''}"


@dataclass(frozen=True)
class Family:
    """All cases of one operator, with what its arithmetic allows.

    Args:
        ulps: units in the last place, relative to a result's own and its tensor's root mean square size, that float32 and float64 may differ by.
        narrow_ulps: the same of narrower floats.
        steps: how far integers may differ: 1 where a real number is rounded to a code.
        least: how many cases ONNX Runtime must accept.
        elsewhere: the operator's definition in NumPy, for processors that ONNX Runtime has no kernel for; takes the inputs and attributes.
    """

    domain: str
    op: str
    generate: Callable[["Draw"], Iterator[Case]]
    ulps: float = 16
    narrow_ulps: float = 2
    steps: int = 0
    least: int = 10
    opset: int | None = None
    elsewhere: Callable[..., list[object]] | None = None

    def cases(self) -> list[Case]:
        return list(self.generate(Draw(np.random.default_rng(zlib.crc32(f"{self.domain}:{self.op}".encode())))))


FAMILIES: dict[tuple[str, str, str], Family] = {}


def cases(domain: str, op: str, **allowed: object) -> Callable[[Callable[["Draw"], Iterator[Case]]], Callable[["Draw"], Iterator[Case]]]:
    """Declare a generator of an operator's cases, which may have several; keywords are `Family`'s."""
    def declare(generate: Callable[["Draw"], Iterator[Case]]) -> Callable[["Draw"], Iterator[Case]]:
        key = domain, op, f"{generate.__module__}.{generate.__name__}"
        assert key not in FAMILIES, f"the cases {key[2]} of {op} are declared twice"
        FAMILIES[key] = Family(domain, op, generate, **allowed)  # type: ignore[arg-type]
        return generate
    return declare


def load_families() -> list[Family]:
    """All declared families, by domain and name."""
    for path in sorted(Path(__file__).parent.glob("contrib_cases_*.py")):
        importlib.import_module(path.stem)
    return [FAMILIES[k] for k in sorted(FAMILIES)]


# ------------------------------------------------------------------------------------------------------------------ drawing
class Draw:
    """Random inputs; the same for an operator in every run."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def real(self, *shape: int, dtype: object = np.float32, scale: float = 1.0) -> np.ndarray:
        """Normal numbers."""
        return np.asarray(self.rng.standard_normal(shape) * scale).astype(dtype)

    def uniform(self, low: float, high: float, *shape: int, dtype: object = np.float32) -> np.ndarray:
        return np.asarray(self.rng.uniform(low, high, shape)).astype(dtype)

    def ints(self, low: int, high: int, *shape: int, dtype: object = np.int64) -> np.ndarray:
        """Integers of [low, high)."""
        return np.asarray(self.rng.integers(low, high, shape)).astype(dtype)

    def codes(self, dtype: object, *shape: int) -> np.ndarray:
        """Integers over the type's whole range."""
        limits = np.iinfo(dtype)
        return np.asarray(self.rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True))

    def scale(self, *shape: int, dtype: object = np.float32) -> np.ndarray:
        """Positive numbers that suit as scales."""
        return self.uniform(0.004, 0.06, *shape, dtype=dtype)

    def flags(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.integers(0, 2, shape)).astype(np.bool_)

    def flag(self) -> int:
        return int(self.rng.integers(0, 2))

    def size(self, low: int = 1, high: int = 9) -> int:
        """A size of [low, high]."""
        return int(self.rng.integers(low, high, endpoint=True))

    def pick(self, *options: object) -> object:
        return options[int(self.rng.integers(len(options)))]


def shapes(r: Draw, count: int, low: int = 1, high: int = 4) -> Iterator[tuple[int, ...]]:
    """Shapes of `low` to `high` dimensions; of every eight, one has a size of 0 and one sizes of 1."""
    for k in range(count):
        shape = [r.size() for _ in range(low + k % (high - low + 1))]
        if shape and k % 8 in (5, 6):
            shape[r.size(0, len(shape) - 1)] = 0 if k % 8 == 5 else 1
        yield tuple(shape)


# ------------------------------------------------------------------------------------------------------------------ running
class Refused(Exception):
    """ONNX Runtime does not take a case."""


def element_type(a: np.ndarray) -> int:
    return TensorProto.STRING if a.dtype.kind in "OUS" else int(helper.np_dtype_to_tensor_dtype(a.dtype))


def onnx_model(family: Family, case: Case, dynamic: bool, as_constants: frozenset[int], casts: Mapping[int, int] | None = None) -> onnx.ModelProto:
    """The one-node model of a case; `casts` converts outputs to types that NumPy knows."""
    arrays = {k: np.asarray(a) for k, a in enumerate(case.inputs) if a is not None}
    wanted = [True] * case.outputs if isinstance(case.outputs, int) else list(case.outputs)
    names = [f"y{k}" if w else "" for k, w in enumerate(wanted)]
    attributes = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in case.attributes.items()}
    nodes = [helper.make_node(family.op, ["" if a is None else f"x{k}" for k, a in enumerate(case.inputs)], names, "node", domain=family.domain, **attributes)]
    nodes += [helper.make_node("Cast", [f"y{k}"], [f"c{k}"], to=to) for k, to in (casts or {}).items()]
    inputs = [helper.make_tensor_value_info(f"x{k}", element_type(a), [f"d{k}_{m}" if dynamic else d for m, d in enumerate(a.shape)])
              for k, a in arrays.items() if k not in as_constants]
    outputs = [helper.make_tensor_value_info(n, case.types[k], None) if k in case.types else onnx.ValueInfoProto(name=f"c{k}" if casts and k in casts else n)
               for k, n in enumerate(names) if n]
    constants = [numpy_helper.from_array(arrays[k], f"x{k}") for k in sorted(as_constants) if k in arrays]
    opset = case.opset or family.opset or OPSETS[family.domain]
    imports = {"": 21, family.domain: opset}
    return helper.make_model(helper.make_graph(nodes, "case", inputs, outputs, constants), opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()], ir_version=10)


def by_onnxruntime(family: Family, case: Case, dynamic: bool) -> list[object]:
    """What ONNX Runtime's CPU kernel gives.

    Raises:
        Refused: it does not take the case.
    """
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    arrays = {k: np.asarray(a) for k, a in enumerate(case.inputs) if a is not None}
    constants = frozenset(case.constants) | {k for k, a in arrays.items() if a.dtype.name not in FED and a.dtype.kind not in "US"}

    def session(casts: Mapping[int, int]) -> ort.InferenceSession:
        return ort.InferenceSession(onnx_model(family, case, dynamic, constants, casts).SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        made = session({})
        casts = {int(o.name[1:]): TensorProto.INT8 if "int" in o.type else TensorProto.FLOAT for o in made.get_outputs() if any(t in o.type for t in ("bfloat", "int4", "int2", "float8", "float4"))}
        if casts:
            made = session(casts)
        return made.run(None, {f"x{k}": a for k, a in arrays.items() if k not in constants})
    except Exception as e:  # ONNX Runtime's own exceptions derive from Exception alone
        raise Refused(str(e)) from e


def by_sardonyx(family: Family, case: Case, dynamic: bool) -> list[object]:
    """What a compiled session gives."""
    import sardonyx

    model = onnx_model(family, case, dynamic, frozenset(case.constants))
    session = sardonyx.InferenceSession(model.SerializeToString())
    return session.run(None, {f"x{k}": np.asarray(a) for k, a in enumerate(case.inputs) if a is not None and k not in case.constants})


def by_definition(family: Family, case: Case, dynamic: bool) -> list[object]:
    """What the operator's definition gives, interpreted."""
    from sardonyx.compiler.importer import import_model
    from sardonyx.ir.interpret import run_graph

    graph = import_model(onnx_model(family, case, dynamic, frozenset(case.constants)))
    return list(run_graph(graph, {f"x{k}": np.asarray(a) for k, a in enumerate(case.inputs) if a is not None and k not in case.constants}))


def compare(family: Family, got: object, want: object, values: bool = True) -> None:
    """Raise AssertionError unless a result agrees with ONNX Runtime's in kind, shape, type and, within what the family allows, value."""
    if isinstance(want, (list, dict)):
        assert type(got) is type(want) and len(got) == len(want), f"{got!r:.200}, expected {want!r:.200}"
        pairs = zip(got, want, strict=True) if isinstance(want, list) else ((got[k], v) for k, v in want.items())
        for g, w in pairs:
            compare(family, g, w, values)
        return
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    if want.dtype.kind in "OUT":
        assert got.tolist() == want.tolist(), f"{got.tolist()!r:.300}, expected {want.tolist()!r:.300}"
        return
    exact = got.dtype
    if exact.name not in FED and exact != want.dtype:
        got = got.astype(want.dtype)
    assert got.dtype == want.dtype, f"type {exact}, expected {want.dtype}"
    if not values or not got.size:
        return
    if want.dtype.kind == "c":
        compare(family, *(np.ascontiguousarray(a).reshape(-1).view(a.real.dtype) for a in (got, want)))
        return
    if want.dtype.kind in "iub":
        apart = np.abs(got.astype(object) - want.astype(object)) if want.dtype.kind != "b" else got != want
        assert np.all(apart <= family.steps), f"{np.sum(apart > family.steps)} of {got.size} integers differ, the first: {_first(got, want, apart > family.steps)}"
        return
    narrow = exact.kind == "V" or exact.itemsize < 4
    unit = float(_epsilon(exact)) * (family.narrow_ulps if narrow else family.ulps)
    g, w = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(w)
    typical = np.sqrt(np.mean(np.square(w[finite]))) if finite.any() else 0.0
    with np.errstate(invalid="ignore"):
        wrong = np.where(finite, ~(np.abs(g - w) <= unit * (np.abs(w) + typical)), ~((g == w) | (np.isnan(g) & np.isnan(w))))
    assert not wrong.any(), f"{wrong.sum()} of {got.size} differ, the first: {_first(g, w, wrong)}, within {unit:.2g} of it and of {typical:.3g}"


def _first(got: np.ndarray, want: np.ndarray, wrong: np.ndarray) -> str:
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{got[at]!s} at {list(at)}, expected {want[at]!s}"


def _epsilon(dtype: np.dtype) -> float:
    import ml_dtypes

    return ml_dtypes.finfo(dtype).eps


@dataclass(frozen=True)
class Verdict:
    """What became of a case: refused by ONNX Runtime, equal, or what is wrong."""

    case: Case
    dynamic: bool
    refused: str = ""
    wrong: str = ""

    @property
    def text(self) -> str:
        return f"{self.case!r}{' dynamic' if self.dynamic else ''}: {'refused: ' + self.refused if self.refused else self.wrong or 'equal'}"


def judge(family: Family, number: int, case: Case, compiled: bool = True) -> Verdict:
    """Run a case both ways; interpreted instead of compiled if asked, which takes a tenth of the time."""
    dynamic = bool(number % 2) if case.dynamic is None else case.dynamic
    try:
        want = by_onnxruntime(family, case, dynamic)
    except Refused as e:
        if family.elsewhere is None or "not yet supported on this hardware platform" not in str(e):
            return Verdict(case, dynamic, refused=str(e))
        want = family.elsewhere(*case.inputs, **case.attributes)
    try:
        got = (by_sardonyx if compiled else by_definition)(family, case, dynamic)
        assert len(got) == len(want), f"{len(got)} results, expected {len(want)}"
        for k, (g, w) in enumerate(zip(got, want, strict=True)):
            compare(family, g, w, k not in case.unchecked and case.part is None)
            if case.part is not None:
                compare(family, case.part(k, np.asarray(g)), case.part(k, np.asarray(w)))
    except Exception as e:  # all that goes wrong is reported together
        return Verdict(case, dynamic, wrong=f"{type(e).__name__}: {str(e)[:400]}")
    return Verdict(case, dynamic)


def main(names: Sequence[str]) -> None:
    """Print how the cases of the operators named fare; all operators in short without names."""
    compiled = "--interpret" not in names
    names = [n for n in names if n != "--interpret"]
    for family in load_families():
        if names and family.op not in names:
            continue
        verdicts = [judge(family, k, c, compiled) for k, c in enumerate(family.cases())]
        wrong = [v for v in verdicts if v.wrong]
        print(f"{family.domain}:{family.op}: {len(verdicts)} cases, {sum(not v.refused for v in verdicts)} accepted, {len(wrong)} wrong", flush=True)
        for v in verdicts:
            if v.wrong or (names and v.refused):
                print("  ", v.text[:700].replace("\n", " "))


if __name__ == "__main__":
    sys.modules["contrib_cases"] = sys.modules[__name__]
    main(sys.argv[1:])
