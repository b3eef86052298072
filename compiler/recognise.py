"""Recognition: composites that exporters spell out in small operators become the operators they are."""
from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.graph import Graph
from .composites import COMPOSITES
from .quantised import PRODUCTS, REQUANTISING
from .rewrite import apply_rules
from .simplify import drop_unused

if TYPE_CHECKING:
    from .pipeline import Options


def recognise(graph: Graph, options: "Options") -> None:
    """Replace spelled-out composites in a typed graph and its subgraphs, in place.

    Args:
        options: `disabled` names rules that must not run.
    """
    if sum([apply_rules(graph, rules, options.disabled) for rules in (COMPOSITES, PRODUCTS, REQUANTISING)]):
        drop_unused(graph)
