"""What compilation reports for `explain` and `inspect`: fusion's decisions, rewrites, kernels, and the fate of every node. JSON-able."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir import expr as ex
from ..ir.graph import Graph, Node
from ..ir.loops import MapNest, NestProgram

# Fates of nodes that no step computes.
SIZES, FOLDED, MEMORY, EVALUATED, REWRITTEN, UNUSED = "sizes", "folded", "memory", "evaluated", "rewritten", "unused"
FATES = {
    SIZES: "size arithmetic: part of the plan's size program, which runs before the kernels",
    FOLDED: "folded into a constant when compiling",
    MEMORY: "no work: its result is its input's memory, or is read through an index by those that use it",
    EVALUATED: "depends on constants alone: evaluated when compiling",
    REWRITTEN: "rewritten into other operators",
    UNUSED: "dropped: nothing that is left needs its result",
}


class Recorder:
    """Observes a compilation and says afterwards what became of every node.

    Args:
        graph: as imported, before any stage.
        observe: told of the stages as well.
    """

    def __init__(self, graph: Graph, observe: Callable[[str, object], None] | None) -> None:
        self.graph, self.observe = graph, observe
        self.nodes = list(graph.all_nodes())
        self.program: NestProgram | None = None

    def __call__(self, stage: str, subject: object) -> None:
        if stage == "layout" and self.program is None:
            self.program = subject  # type: ignore[assignment]
        if self.observe is not None:
            self.observe(stage, subject)

    def report(self, built: Any) -> dict[str, Any]:
        """Facts about the compiled model.

        Returns:
            `decisions`: [origin of producer, origin of consumer, verdict] of fusion; `journal`: [rule, origin, reason or None] of rewriting;
            `nodes`: [name, operator, fate] of every node of the model, fate "" for those that a step computes; `kernels`: texts by symbol.
        """
        journal = dict.fromkeys((j.rule, j.origin, j.reason) for j in self.graph.journal)
        return {
            "decisions": [[list(a), list(b), why] for a, b, why in dict.fromkeys(built.decisions)],
            "journal": [[rule, list(origin), reason] for rule, origin, reason in journal],
            "nodes": self._nodes(built),
            "kernels": {s.symbol: s.text for s in built.all_sources()},
        }

    def _nodes(self, built: Any) -> list[list[str]]:
        computed = steps_origins(built)
        moved: dict[str, str] = {}
        for nest in self.program.nests if self.program is not None else ():
            if isinstance(nest, MapNest):
                is_view = len(nest.stores) == 1 and nest.stores[0].value.op == "load" and not set(nest.outputs) & set(self.program.outputs)
                known = all(ex.load_tensor(e) in self.program.constants for e in ex.loads(nest.values))
                moved.update(dict.fromkeys(nest.origin, EVALUATED if known else MEMORY if is_view else EVALUATED))
        applied: dict[str, str] = {}
        for j in self.graph.journal:
            if j.reason is None:
                applied.update(dict.fromkeys(j.origin, j.rule))
        fused = {n for a, b, _ in built.decisions for n in (*a, *b)}
        rows: dict[str, list[str]] = {}
        for node in self.nodes:
            for name in node.origin or (node.name,):
                if name not in rows:
                    rows[name] = [name, node.qualified, "" if name in computed else self._fate(node, name, moved, applied, fused)]
        return list(rows.values())

    @staticmethod
    def _fate(node: Node, name: str, moved: dict[str, str], applied: dict[str, str], fused: set[str]) -> str:
        outputs = [o for o in node.outputs if o is not None]
        if (outputs and all(o.constant is not None for o in outputs)) or applied.get(name) == "fold-constants":
            return FOLDED
        if any(o.content is not None for o in outputs):
            return SIZES
        if name in moved:
            return moved[name]
        if name in applied:
            return REWRITTEN
        return MEMORY if name in fused else UNUSED


def steps_origins(built: Any) -> set[str]:
    """Names of the nodes that the steps of a compiled model and of its bodies compute."""
    found = {o for p in (built.plan, *built.plan.bodies) for s in p.steps for o in getattr(s, "origin", ())}
    for children in built.bodies.values():
        for c in children:
            found |= steps_origins(c)
    return found
