"""Does a compiled model give what its graph means? Comparison with tolerances that follow from rounding, text files of failures, and shrinking.

**Tolerance.** The interpreter runs the graph as it is, and then again with roundings changed: every operand and result of an arithmetic operator is moved by up to a few units in
the last place of its type (all up, all down, and at random). How far an element moves is how far rounding can move it, cancellation, depth and discontinuities included
(Monte Carlo arithmetic: Parker 1997). What is compiled may deviate by a small multiple of that. Operators that only move or choose elements are exact and perturb nothing.
"""
from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import sardonyx
from sardonyx.compiler.exporter import export_model
from sardonyx.compiler.importer import import_model
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.graph import Graph, Node, TensorType, Value
from sardonyx.ir.infer import infer_graph
from sardonyx.ir.interpret import run_nests, run_node
from sardonyx.ir.parse import parse_graph
from sardonyx.ir.parse_expr import Line, _data
from sardonyx.ir.text import graph_text, payload, quoted
from sardonyx.runtime.build import build_graph
from sardonyx.runtime.host import host_target

Arrays = Mapping[str, np.ndarray]
UNITS = 4  # in the last place: how far operands and results are moved
MARGIN = 8  # times what the perturbed runs deviate
PERTURBED = 5  # runs
EXACT = frozenset("""Abs ArgMax ArgMin And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Compress Concat ConstantOfShape DepthToSpace Equal Expand EyeLike
Flatten Floor Gather GatherElements GatherND GlobalMaxPool Greater GreaterOrEqual Hardmax Identity IsInf IsNaN LeakyRelu Less LessOrEqual Max MaxPool Min Neg NonZero Not OneHot Or Pad
Range ReduceMax ReduceMin Relu Reshape ReverseSequence Round Shape Sign Size Slice SpaceToDepth Split Squeeze ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where
Xor""".split())
FLOAT32 = 2.0**-24  # its unit roundoff
CANCELLING = frozenset(("Gelu", "FastGelu", "BiasGelu"))  # x * (1 + f(x)) with f near -1: they round to a part of their operands
SINGLE = frozenset(("Resize", "Shrink", "Gelu", "GroupNormalization", "HardSwish"))  # ONNX Runtime computes in float32, doubles too
GATED = frozenset(("LSTM", "GRU"))  # (1 - z) * h rounds to a part of one
SATURATING = frozenset(("Sigmoid", "QuickGelu", "FusedConv", "FusedGemm", "LSTM", "GRU"))  # its approximation of the logistic function is good to a part of one, not of the result


# ------------------------------------------------------------------------------------------------------------------ meaning
def bits_of(dtype: np.dtype) -> float:
    """The unit roundoff of a float type, 0 of others."""
    if dtype.kind not in "fV" or (dtype.kind == "V" and dtype.name != "bfloat16"):
        return 0.0
    return 2.0**-8 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps) / 2


def is_float(array: object) -> bool:
    return isinstance(array, np.ndarray) and bits_of(array.dtype) > 0


def moved(array: np.ndarray, run: int, rng: np.random.Generator, least: float = 0.0, absolute: float | np.ndarray = 0.0) -> np.ndarray:
    """An array with every element moved by up to UNITS roundoffs, of `least` if that is larger, and by `absolute`: away from zero in run 1, towards it in run 2, at random in others."""
    sign = 1.0 if run == 1 else -1.0 if run == 2 else rng.choice([-1.0, 1.0], array.shape)
    wide = array.astype(np.float64)
    return np.asarray(wide + sign * np.copysign(np.abs(wide) * UNITS * 2 * max(least, bits_of(array.dtype)) + absolute, wide)).astype(array.dtype)


def meaning(graph: Graph, feeds: Arrays, run: int = 0, peer: bool = False) -> dict[Value, object]:
    """All values of the graph by the interpreter; with `run` above 0, roundings are changed.

    Args:
        peer: whether operators of SINGLE and SATURATING round as ONNX Runtime's do.
    """
    rng = np.random.default_rng(run)
    env: dict[Value, object] = {v: np.asarray(feeds[v.name]) for v in graph.inputs}

    def read(v: Value | None) -> object:
        return None if v is None else env.get(v, v.constant)
    for node in graph.nodes:
        inputs = [read(v) for v in node.inputs]
        perturbed = run and node.op not in EXACT
        if perturbed:
            rounds = {v for v in node.inputs if v in env and v.constant is None and is_float(env[v])}
            scales = node.op.startswith("QLinear") or not rounds  # constants, whose products round
            inputs = [moved(x, run, rng) if is_float(x) and (scales or v in rounds) else x for v, x in zip(node.inputs, inputs, strict=True)]
        results = run_node(node, inputs, env)
        if perturbed:
            least = FLOAT32 if peer and node.op in SINGLE else 0.0
            results = [moved(x, run, rng, least, UNITS * 2 * lost(node, inputs, x, peer)) if is_float(x) else x for x in results]
        env.update((v, x) for v, x in zip(node.outputs, results, strict=False) if v is not None)
    for v in graph.outputs:
        env.setdefault(v, v.constant)
    return env


def lost(node: Node, inputs: Sequence[object], result: np.ndarray, peer: bool) -> float | np.ndarray:
    """What one rounding inside a node may take from its result, beyond a part of the result itself."""
    op, unit = node.op, bits_of(result.dtype)
    if op in CANCELLING:
        return unit * sum(np.abs(np.asarray(x, np.float64)) for x in inputs if x is not None)
    if op == "InstanceNormalization" and peer:  # as x * a + b, whose parts are larger than their sum
        x, scale = (np.asarray(i, np.float64) for i in inputs[:2])
        spread = np.sqrt(x.var(axis=tuple(range(2, x.ndim)), keepdims=True) + float(node.attributes.get("epsilon", 1e-5)))
        return max(unit, FLOAT32) * np.abs(x) * np.abs(scale).reshape(-1, *[1] * (x.ndim - 2)) / spread
    return max(unit if op in GATED else 0.0, FLOAT32 if peer and op in SATURATING else 0.0)


@dataclass
class Expected:
    """What a run should give, and (worked out when it is asked for) how far rounding may move it."""

    graph: Graph
    feeds: Arrays
    values: dict[Value, object] = field(default_factory=dict)
    bounds: list[np.ndarray | None] | None = None
    peer: bool = False

    def __post_init__(self) -> None:
        self.values = meaning(self.graph, self.feeds)

    @property
    def outputs(self) -> list[np.ndarray]:
        return [np.asarray(self.values[o]) for o in self.graph.outputs]

    def bound(self, k: int) -> np.ndarray | None:
        """How far each element of output k may be off; None where its very shape hangs on rounding."""
        if self.bounds is None:
            runs = [meaning(self.graph, self.feeds, r, self.peer) for r in range(1, PERTURBED + 1)]
            self.bounds = [tolerance(np.asarray(self.values[o]), [np.asarray(r[o]) for r in runs]) for o in self.graph.outputs]
        return self.bounds[k]


def tolerance(clean: np.ndarray, runs: Sequence[np.ndarray]) -> np.ndarray | None:
    if any(r.shape != clean.shape for r in runs):
        return None
    wide = clean.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.max([np.abs(r.astype(np.float64) - wide) for r in runs], axis=0, initial=0.0)
    off = np.where(np.isnan(off), np.inf, off)
    usual = float(np.median(off)) if off.size else 0.0
    u = bits_of(clean.dtype)
    least = float(np.finfo(clean.dtype).tiny) if clean.dtype.kind == "f" else 2.0**-126 if u else 0.0
    return MARGIN * (off + (usual if np.isfinite(usual) else 0.0)) + 2 * UNITS * u * np.abs(wide) + least


def difference(got: np.ndarray, expected: Expected, k: int, slack: float = 1.0) -> str | None:
    """What is wrong with output k, or None."""
    got, want = np.asarray(got), expected.outputs[k]
    if got.dtype != want.dtype:
        return f"type {got.dtype}, expected {want.dtype}"
    if got.shape == want.shape and (got == want).all():
        return None
    bound = expected.bound(k)
    if bound is None:
        return None
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    with np.errstate(invalid="ignore"):
        off = np.abs(got.astype(np.float64) - want.astype(np.float64))
        bad = ~(off <= slack * bound) & ~((got != got) & (want != want)) & ~(got == want)
    if not bad.any():
        return None
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{int(bad.sum())} of {got.size} elements differ, first at {at}: {got[at]} instead of {want[at]} (rounding allows {bound[at]:.3g})"


# -------------------------------------------------------------------------------------------------------------------- check
@dataclass(frozen=True)
class Failure:
    """`kind` names the comparison (`level3`, `level0`, `threads`, `onnxruntime`, `error`, `slow`)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What comparing one model found, and whether ONNX Runtime took part."""

    failure: Failure | None
    with_peer: bool = False


def session(model: bytes, level: int, threads: int) -> "sardonyx.InferenceSession":
    options = sardonyx.SessionOptions()
    options.graph_optimization_level = sardonyx.GraphOptimizationLevel(level)
    options.intra_op_num_threads = threads
    return sardonyx.InferenceSession(model, options)


def check(graph: Graph, feeds: Sequence[Arrays], levels: Sequence[int] = (3, 0), ort: bool = True, seconds: float = 60.0) -> Failure | None:
    """Compile the graph, run it on each of the feeds and compare; what differs, or None."""
    return judge(graph, feeds, levels, ort, seconds).failure


def judge(graph: Graph, feeds: Sequence[Arrays], levels: Sequence[int] = (3, 0), ort: bool = True, seconds: float = 60.0) -> Verdict:
    """As `check`, with how far the comparison went."""
    model = export_model(graph).SerializeToString()
    expected = [Expected(graph, f) for f in feeds]
    for level in levels:
        begin = time.process_time()
        try:
            compiled = session(model, level, 1)
            results = [compiled.run(None, dict(f)) for f in feeds]
        except Exception as e:  # any exception on a valid model is a failure
            return Verdict(Failure("error", f"level {level}: {type(e).__name__}: {e}"))
        spent = time.process_time() - begin
        for found, want in zip(results, expected, strict=True):
            for k, got in enumerate(found):
                wrong = difference(got, want, k)
                if wrong:
                    return Verdict(Failure(f"level{level}", f"output {k} ({graph.outputs[k].name}): {wrong}"))
        if spent > seconds:
            return Verdict(Failure("slow", f"level {level} took {spent:.1f} s of processor time"))
        if level == levels[0]:
            other = session(model, level, 2)
            for found, f in zip(results, feeds, strict=True):
                for k, (a, b) in enumerate(zip(found, other.run(None, dict(f)), strict=True)):
                    if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                        return Verdict(Failure("threads", f"output {k} differs between one and two threads"))
    return with_onnxruntime(graph, model, feeds, expected) if ort else Verdict(None)


def judge_nests(graph: Graph, feeds: Sequence[Arrays], level: int = 3) -> Verdict:
    """As `judge`, without compiling kernels: their text is made, but it is the fused nests that are run, by the interpreter. ONNX Runtime is compared all the same."""
    model = export_model(graph).SerializeToString()
    expected = [Expected(graph, f) for f in feeds]
    found: list[list[object]] = []

    def observe(stage: str, subject: object) -> None:
        if stage == "layout" and not found:  # the first is the whole model's, bodies come later
            found.extend(run_nests(subject, {r: np.asarray(f[r.name]) for r in subject.inputs}) for f in feeds)
    try:
        build_graph(import_model(model), host_target(), level, observe)
    except Exception as e:  # any exception on a valid model is a failure
        return Verdict(Failure("error", f"nests of level {level}: {type(e).__name__}: {e}"))
    for results, want in zip(found, expected, strict=True):
        for k, got in enumerate(results):
            wrong = difference(np.asarray(got), want, k)
            if wrong:
                return Verdict(Failure("nests", f"output {k} ({graph.outputs[k].name}): {wrong}"))
    return with_onnxruntime(graph, model, feeds, expected)


def with_onnxruntime(graph: Graph, model: bytes, feeds: Sequence[Arrays], expected: Sequence[Expected]) -> Verdict:
    """Compare the interpreter with ONNX Runtime, where that has all operators for the types."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    if any("bfloat16" in str(v.type.dtype.name) for v in (*graph.inputs, *graph.outputs)):
        return Verdict(None)  # it takes no such arrays
    try:
        other = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # its exceptions derive from Exception alone
        text = str(e)
        missing = "NOT_IMPLEMENTED" in text or "Could not find an implementation" in text
        return Verdict(None if missing else Failure("onnxruntime", text[:400]))
    if any(n.op in SATURATING or n.op == "InstanceNormalization" or (n.op in SINGLE and n.outputs[0].type.dtype is dt.float64) for n in graph.nodes):
        expected = [replace(e, bounds=None, peer=True) for e in expected]
    for f, want in zip(feeds, expected, strict=True):
        try:
            results = other.run(None, dict(f))
        except Exception as e:
            return Verdict(Failure("onnxruntime", f"run: {str(e)[:400]}"), True)
        for k, got in enumerate(results):
            wrong = difference(got, want, k, slack=4.0)
            if wrong:
                return Verdict(Failure("onnxruntime", f"output {k} ({graph.outputs[k].name}): interpreter against ONNX Runtime: {wrong}"), True)
    return Verdict(None, True)


# -------------------------------------------------------------------------------------------------------------------- files
def case_text(graph: Graph, feeds: Sequence[Arrays], remark: str) -> str:
    """A graph with its feeds as text."""
    remarks = "".join(f"; {line}\n" for line in remark.splitlines())
    runs = "".join("run {\n" + "".join(f"  {quoted(n)} {payload(np.asarray(a))}\n" for n, a in f.items()) + "}\n" for f in feeds)
    return remarks + graph_text(graph, data=True) + runs


def read_case(text: str) -> tuple[Graph, list[dict[str, np.ndarray]]]:
    """The graph and feeds of `case_text`."""
    head, *runs = re.split(r"^run \{\n", text, flags=re.MULTILINE)
    graph = parse_graph(head)
    infer_graph(graph)
    feeds = []
    for run in runs:
        lines = [m for m in (re.match(r"\s+(\S+) (\w+\[[\d, ]*\] \S+)$", line) for line in run.splitlines()) if m]
        feeds.append({m[1].strip('"'): next(iter(_data([Line(f"#000000000000 {m[2]}", 0)]).values())) for m in lines})
    return graph, feeds


# ------------------------------------------------------------------------------------------------------------------- shrink
def copied(graph: Graph, feeds: Sequence[Arrays]) -> tuple[Graph, list[dict[str, np.ndarray]]]:
    return read_case(case_text(graph, feeds, ""))


def pruned(graph: Graph) -> None:
    """Drop what no output needs."""
    while True:
        dead = [n for n in graph.nodes if all(o is None or (not o.uses and o not in graph.outputs and not captured_by(graph, o)) for o in n.outputs)]
        if not dead:
            break
        for n in reversed(dead):
            for k, v in enumerate(n.inputs):
                if v is not None:
                    v.uses.remove((n, k))
            graph.nodes.remove(n)
    graph.inputs = [v for v in graph.inputs if v.uses or v in graph.outputs or captured_by(graph, v)]


def captured_by(graph: Graph, value: Value) -> bool:
    return any(value in s.captured() for n in graph.nodes for s in n.subgraphs())


def cut(graph: Graph, feeds: Sequence[Arrays], names: set[str]) -> tuple[Graph, list[dict[str, np.ndarray]]]:
    """The graph without these nodes: what they gave is fed instead (or constant, where it is a small integer that does not change)."""
    g, f = copied(graph, feeds)
    values = [meaning(g, x) for x in f]
    for n in [n for n in g.nodes if n.name in names]:
        for o in n.outputs:
            if o is None:
                continue
            arrays = [np.asarray(v[o]) for v in values]
            o.producer = None
            if arrays[0].dtype.kind == "i" and arrays[0].size < 9 and all(np.array_equal(a, arrays[0]) for a in arrays):
                o.constant = arrays[0]
                o.type = TensorType(o.type.dtype, tuple(ex.const(d) for d in arrays[0].shape))
                continue
            o.constant = o.content = None
            dims = []
            for k, d in enumerate(o.type.shape):
                sizes = {a.shape[k] for a in arrays}
                plain = d.is_const or (d.op == "sym" and not d.args)
                dims.append(d if plain and not d.text.startswith("?") else ex.const(sizes.pop()) if len(sizes) == 1 else ex.sym(re.sub(r"\W", "_", f"{o.name}_{k}")))
            o.type = TensorType(o.type.dtype, tuple(dims))
            g.inputs.append(o)
            for x, a in zip(f, arrays, strict=True):
                x[o.name] = a
        for k, v in enumerate(n.inputs):
            if v is not None:
                v.uses.remove((n, k))
        g.nodes.remove(n)
    pruned(g)
    return copied(g, [{v.name: x[v.name] for v in g.inputs} for x in f])


def only_output(graph: Graph, feeds: Sequence[Arrays], keep: Sequence[int]) -> tuple[Graph, list[dict[str, np.ndarray]]]:
    g, f = copied(graph, feeds)
    g.outputs = [g.outputs[k] for k in keep]
    g.output_names = [v.name for v in g.outputs]
    pruned(g)
    return g, [{v.name: x[v.name] for v in g.inputs} for x in f]


def shrink(graph: Graph, feeds: Sequence[Arrays], fails: Callable[[Graph, Sequence[Arrays]], bool], seconds: float = 120.0) -> tuple[Graph, list[dict[str, np.ndarray]]]:
    """A smaller graph that fails alike."""
    end = time.monotonic() + seconds
    best = (graph, list(feeds))

    def attempt(make: Callable[[], tuple[Graph, list[dict[str, np.ndarray]]]]) -> bool:
        nonlocal best
        if time.monotonic() > end:
            return False
        try:
            candidate = make()
            if not fails(*candidate):
                return False
        except Exception:  # a cut that makes no valid graph is no candidate
            return False
        best = candidate
        return True
    for k in range(len(graph.outputs)):
        if attempt(lambda k=k: only_output(graph, feeds, [k])):
            break
    if len(feeds) > 1:
        attempt(lambda: (best[0], best[1][:1])) or attempt(lambda: (best[0], best[1][1:]))
    size = max(1, len(best[0].nodes) // 2)
    while True:
        changed, k = False, 0
        while k < len(best[0].nodes):
            names = {n.name for n in best[0].nodes[k:k + size]}
            if len(names) < len(best[0].nodes) and attempt(lambda names=names: cut(*best, names)):
                changed = True
            else:
                k += size
        if (size == 1 and not changed) or time.monotonic() > end:
            return best
        size = max(1, size // 2)
