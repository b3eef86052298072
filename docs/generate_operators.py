"""Write docs/operators.md from the operator definitions: `python docs/generate_operators.py`."""
from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import defs
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.errors import SardonyxError
from sardonyx.ir.graph import Graph, TensorType, Value
from sardonyx.ir.infer import infer, lower_node
from sardonyx.ir.loops import Ref
from sardonyx.ir.ops.base import Op, Sample, all_ops

GROUPS = {"integers": [d.name for d in (dt.int8, dt.int16, dt.int32, dt.int64, dt.uint8, dt.uint16, dt.uint32, dt.uint64)],
          "floats": [d.name for d in (dt.float16, dt.bfloat16, dt.float32, dt.float64)]}
FLOAT8 = "float8e"
KINDS = {"MapNest": "compiled", "ContractionNest": "compiled", "RoutineNest": "native routine", "HostNest": "host"}
HOST_WITHOUT_SAMPLES = frozenset({"ConcatFromSequence", "If", "ImageDecoder", "Loop", "Optional", "OptionalGetElement", "OptionalHasElement", "Scan", "SequenceAt",
                                  "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SplitToSequence",
                                  "CastMap", "DictVectorizer", "ZipMap"})


def steps(op: Op, sample: Sample) -> set[str]:
    """How the nests of one sample of an operator run."""
    graph = Graph("sample")
    values: list[Value | None] = []
    refs: dict[Value, Ref] = {}
    for k, a in enumerate(sample.inputs):
        array = None if a is None else np.asarray(a)
        values.append(None if array is None else graph.input(f"x{k}", TensorType(dt.of_numpy(array.dtype), tuple(ex.const(d) for d in array.shape))))
        if array is not None and array.dtype.kind in "iu" and array.size <= 16:
            values[-1].constant = array
    node = graph.add(op.name, values, dict(sample.attributes), outputs=sample.outputs, domain=op.domain, version=sample.version or op.versions[-1], name="n")
    infer(node)
    for v in values:
        if v is not None:
            refs[v] = ex.Tensor(v.name, v.type.dtype, v.type.shape)
    return {KINDS[type(nest).__name__] for nest in lower_node(node, refs, {v.name: r for v, r in refs.items()}).nests}


def runs(op: Op) -> list[str]:
    """How an operator runs, judged by the nests that its own samples lower to."""
    if op.kind() == "decompose":
        return ["as other operators"]
    if op.kind() == "host":
        return ["host"]
    found: set[str] = set()
    samples = list(op.samples())
    if not samples:
        if op.name not in HOST_WITHOUT_SAMPLES:
            raise RuntimeError(f"{op.name} has no samples to judge by")
        return ["host"]
    for sample in samples:
        try:
            found |= steps(op, sample)
        except SardonyxError as e:
            raise RuntimeError(f"a sample of {op.name} does not lower: {e}") from e
    return [k for k in ("compiled", "native routine", "host") if k in found] or ["compiled"]


def spelled(names: Iterable[str]) -> str:
    """Element types in short: whole groups by their names."""
    left = list(dict.fromkeys(names))
    out = []
    for group, members in GROUPS.items():
        if all(m in left for m in members):
            out.append(group)
            left = [t for t in left if t not in members]
    if sum(t.startswith(FLOAT8) for t in left) > 3:
        left = [t for t in left if not t.startswith(FLOAT8)] + ["float8"]
    return ", ".join([*out, *left])


def types(op: Op) -> str:
    """Element types of the first input: those of the standard, all of which are tested to lower; for other domains that of the first sample and the floats with which it lowers."""
    if op.domain in ("", "ai.onnx.ml"):
        version = max(v for v in op.versions)
        schema = defs.get_schema(op.name, version, op.domain) if defs.has(op.name, version, op.domain) else None
        allowed = next((c.allowed_type_strs for c in schema.type_constraints if schema.inputs and c.type_param_str == schema.inputs[0].type_str), ()) if schema else ()
        named = [t[7:-1] for t in allowed if t.startswith("tensor(") and t[7:-1] in dt.BY_NAME]
        if named or schema is not None:
            return spelled(named)
    sample = next(iter(op.samples()), None)
    if sample is None or not sample.inputs or sample.inputs[0] is None:
        return ""
    first = np.asarray(sample.inputs[0])
    if first.dtype == object:
        return "string"
    own = dt.of_numpy(first.dtype)
    if not own.is_float:
        return own.name
    with np.errstate(over="ignore"):
        return spelled(n for n in GROUPS["floats"] if n == own.name or lowers(op, sample, own, dt.BY_NAME[n]))


def lowers(op: Op, sample: Sample, own: dt.DType, to: dt.DType) -> bool:
    """Whether a sample lowers with the inputs of type `own` converted to another."""
    inputs = tuple(a if a is None or np.asarray(a).dtype != own.numpy else np.asarray(a).astype(to.numpy) for a in sample.inputs)
    try:
        if op.kind() == "decompose":
            graph, values = Graph("sample"), []
            for k, a in enumerate(inputs):
                shape = tuple(ex.const(d) for d in np.shape(a))
                values.append(None if a is None else graph.input(f"x{k}", TensorType(dt.of_numpy(np.asarray(a).dtype), shape)))
            infer(graph.add(op.name, values, dict(sample.attributes), outputs=sample.outputs, domain=op.domain, version=op.versions[-1], name="n"))
        else:
            steps(op, replace(sample, inputs=inputs))
    except SardonyxError:
        return False
    return True


def limits(op: Op) -> str:
    """What the definition says it does not take: the texts of its `unsupported` errors, … for what only a node tells."""
    found = []
    for cls in type(op).__mro__:
        if not issubclass(cls, Op) or cls is Op:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node in (n for part in body.body if getattr(part, "name", "") != "gradient" for n in ast.walk(part)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "unsupported" and node.args:
                found.append(text_of(node.args[0]))
    return "; ".join(dict.fromkeys(t for t in found if "gradient" not in t)).replace("|", "\\|")


def text_of(e: ast.expr) -> str:
    if isinstance(e, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in e.values)
    return str(e.value) if isinstance(e, ast.Constant) else "…"


def table() -> str:
    """The page's text."""
    ops = all_ops()
    how = {o: runs(o) for o in ops}
    host = [o for o in ops if how[o] == ["host"]]
    share = f"{len(host)} of {len(ops)} operators ({100 * len(host) / len(ops):.0f}%) run on the host alone"
    lines = ["# Operators", "", "Generated from the definitions in `ir/ops/` by `docs/generate_operators.py`.", "",
             f"{len(ops)} operators. *Compiled*: loop nests, fused where it pays. *Native routine*: a compiled Python function over whole buffers (sorting, recurrence, "
             "elimination). *As other operators*: decomposed before lowering. *Host*: a Python step of the plan, which `sardonyx explain` reports. "
             "Operators of ai.onnx that have a function body in the standard and no line here are expanded from that body.", "",
             f"{share}: their values are strings, sequences, optionals, maps or encoded images, which hold no numbers to compile, or they run bodies of control "
             "flow, which are compiled plans themselves. How an operator runs is judged by its own samples; strings always go through the host.", "",
             "*Types* are those of the first input: what the standard allows, or, for operators outside of it, that of its sample and, if that is a float, "
             "the others with which the sample lowers. "
             "*Limits* are what the definition refuses, … standing for what only a node tells.", ""]
    for domain in sorted({o.domain for o in ops}):
        lines += [f"## {domain or 'ai.onnx'}", "", "| operator | since versions | types | runs | limits | what it does |", "|---|---|---|---|---|---|"]
        for o in ops:
            if o.domain == domain:
                first = (type(o).__doc__ or "").strip().split("\n")[0].replace("|", "\\|")
                lines.append(f"| {o.name} | {', '.join(map(str, o.versions))} | {types(o)} | {', '.join(how[o])} | {limits(o)} | {first} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    (Path(__file__).parent / "operators.md").write_text(table(), encoding="utf-8")
