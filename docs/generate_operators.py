"""Write docs/operators.md from the operator definitions: `python docs/generate_operators.py`."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir.errors import SardonyxError
from sardonyx.ir.graph import Graph, TensorType, Value
from sardonyx.ir.infer import infer, lower_node
from sardonyx.ir.loops import Ref
from sardonyx.ir.ops.base import Op, Sample, all_ops

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
             "flow, which are compiled plans themselves. How an operator runs is judged by its own samples; strings always go through the host.", ""]
    for domain in sorted({o.domain for o in ops}):
        lines += [f"## {domain or 'ai.onnx'}", "", "| operator | since versions | runs | what it does |", "|---|---|---|---|"]
        for o in ops:
            if o.domain == domain:
                first = (type(o).__doc__ or "").strip().split("\n")[0].replace("|", "\\|")
                lines.append(f"| {o.name} | {', '.join(map(str, o.versions))} | {', '.join(how[o])} | {first} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    (Path(__file__).parent / "operators.md").write_text(table(), encoding="utf-8")
