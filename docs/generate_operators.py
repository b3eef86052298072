"""Write docs/operators.md from the operator definitions: `python docs/generate_operators.py`."""
from __future__ import annotations

from pathlib import Path

from sardonyx.ir.ops import all_ops

HOW = {"lower": "compiled", "decompose": "as other operators", "host": "host"}


def table() -> str:
    """The page's text."""
    ops = all_ops()
    lines = ["# Operators", "", "Generated from the definitions in `ir/ops/` by `docs/generate_operators.py`.", "",
             f"{len(ops)} operators. *Compiled*: loop nests and routines, fused where it pays (control flow, strings and sequences run as host steps of the plan, which "
             "`sardonyx explain` reports). *As other operators*: decomposed before lowering. Operators of ai.onnx that have a function body in the standard and no line here are "
             "expanded from that body.", ""]
    for domain in sorted({o.domain for o in ops}):
        lines += [f"## {domain or 'ai.onnx'}", "", "| operator | since versions | runs | what it does |", "|---|---|---|---|"]
        for o in ops:
            if o.domain == domain:
                first = (type(o).__doc__ or "").strip().split("\n")[0].replace("|", "\\|")
                lines.append(f"| {o.name} | {', '.join(map(str, o.versions))} | {HOW[o.kind()]} | {first} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    (Path(__file__).parent / "operators.md").write_text(table(), encoding="utf-8")
