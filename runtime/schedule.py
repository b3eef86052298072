"""Nests -> kernel calls: every nest is scheduled, or evaluated where all that it reads is known."""
from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING

import numpy as np

from ..ir import expr as ex
from ..ir.expr import Tensor
from ..ir.kernel import KernelCall
from ..ir.loops import ContractionNest, HostNest, MapNest, Nest, NestProgram, Ref, RoutineNest
from ..ir.target import Target

if TYPE_CHECKING:
    from ..codegen.panel_reads import Panel
    from ..compiler.plan import Alias

    Part = MapNest | KernelCall | HostNest | Alias


GROWTH, WORTHWHILE = 1.25, 1 << 16  # times, bytes: constants that grow by more are left to the first run, where a model is to be small


def schedule(program: NestProgram, layouts: dict[Tensor, tuple[int, ...]], target: Target, compact: bool = False) \
        -> tuple[list[KernelCall | HostNest | Alias], dict[Tensor, np.ndarray], list[KernelCall]]:
    """Kernel calls for every nest; nests whose inputs are all known are evaluated instead.

    Weights that a product packed and something else reads as they are would be in memory twice: the others read the packed ones, where they can.

    Args:
        compact: leave constants that are much larger than what they are computed from to the first run.

    Returns:
        Plan items in order, the constants that they use, and what computes those without elements before the first run.
    """
    from ..codegen.panel_reads import read_panels
    from ..codegen.same_nests import MapSchedules

    schedules = Schedules(program, layouts, target, compact)
    first = [schedules.parts(nest) for nest in program.nests]
    parts, left = first, schedules.used(first)
    twice = {t: p for t, p in schedules.panels.items() if t in left}
    while twice:
        nests = [nest if schedules.fixed(nest) else read_panels(nest, twice) for nest in program.nests]
        parts = [before if new is old else schedules.parts(new) for before, old, new in zip(first, program.nests, nests)]
        left = schedules.used(parts)
        if not any(t in left for t in twice):
            break
        twice = {t: p for t, p in twice.items() if t not in left}
        parts = first
    maps = MapSchedules(layouts, target)
    items = [maps.call(part) if isinstance(part, MapNest) else part for some in parts for part in some]
    left = used_tensors(items, program)
    preparations = [maps.call(nest) for nest in schedules.delayed if any(o in left for o in nest.outputs)]
    left |= used_tensors(preparations, program)
    return items, {t: a for t, a in schedules.constants.items() if t in left}, preparations


class Schedules:
    """Schedules of a program's nests, maps left as they are.

    Args:
        constants: what is known when compiling; grows by what is evaluated.
        panels: constants that a product packed, and where their elements are now.
        delayed: maps that compute constants before the first run; these stand in `constants` without elements.
    """

    def __init__(self, program: NestProgram, layouts: dict[Tensor, tuple[int, ...]], target: Target, compact: bool) -> None:
        from ..codegen import attention
        from ..compiler import pipeline

        self.program, self.layouts, self.target, self.compact = program, layouts, target, compact
        self.constants: dict[Tensor, np.ndarray] = dict(program.constants)
        self.panels: dict[Tensor, Panel] = {}
        self.delayed: list[MapNest] = []
        self.aliases = pipeline.find_aliases(program, layouts)
        self.together: dict[Nest, list[MapNest | KernelCall]] = {}  # what nests that are scheduled with others become, at the place of the last of them
        for found in attention.find(program):
            scheduled = attention.schedule(found, layouts, self.constants.keys(), target)
            if scheduled is not None:
                self.together.update({found.scores: [], found.softmax: [], found.mix: scheduled})

    def fixed(self, nest: Nest) -> bool:
        """Whether a nest is scheduled as it stands: with others, or as another name of memory."""
        return nest in self.together or (isinstance(nest, MapNest) and nest in self.aliases)

    def parts(self, nest: Nest) -> list[Part]:
        """What a nest becomes, without what is evaluated now."""
        return [part for part in self._parts(nest) if not (isinstance(part, MapNest) and self.evaluated(part))]

    def _parts(self, nest: Nest) -> Iterable[Part]:
        from ..codegen.contraction import schedule_contraction
        from ..codegen.routines import routine_call

        if nest in self.together:
            return self.together[nest]
        if isinstance(nest, MapNest) and nest in self.aliases:
            a = self.aliases[nest]
            if a.source not in self.constants:
                return [a]
            self.constants[a.target] = self.constants[a.source].reshape([int(d.value) for d in a.target.shape])
            return []
        if isinstance(nest, ContractionNest):
            return schedule_contraction(nest, self.layouts, self.constants.keys(), self.target)
        return [routine_call(nest, self.target)] if isinstance(nest, RoutineNest) else [nest]

    def evaluated(self, nest: MapNest) -> bool:
        """Compute a map if all that it reads is known."""
        from ..codegen.panel_reads import find_panel
        from ..compiler import pipeline
        from ..ir.interpret import run_nest

        if any(o in self.program.outputs for o in nest.outputs) or not pipeline.depends_only_on(nest, self.constants):
            return False
        sources = list(dict.fromkeys(ex.load_tensor(e) for e in ex.loads(nest.values)))
        if self.compact and total_bytes(nest.outputs) > GROWTH * total_bytes(sources) + WORTHWHILE and not any(t in d.outputs for t in sources for d in self.delayed):
            self.delayed.append(nest)
            self.constants.update((o, np.empty(0, o.dtype.numpy)) for o in nest.outputs)
            return True
        env: dict[Ref, object] = {t: self.constants[t] for t in sources}
        run_nest(nest, env)
        self.constants.update((o, np.asarray(env[o])) for o in nest.outputs)
        panel = find_panel(nest)
        if panel is not None:
            self.panels.setdefault(panel.source, panel)
        return True

    def used(self, parts: Iterable[list[Part]]) -> Set[object]:
        """Tensors that parts read or write."""
        flat = [p for some in parts for p in some]
        read: dict[object, None] = dict.fromkeys(ex.load_tensor(e) for p in flat if isinstance(p, MapNest) for e in ex.loads(p.values))
        return used_tensors([p for p in flat if not isinstance(p, MapNest)], self.program) | read.keys()


def total_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(int(t.numel().value) * t.dtype.itemsize_bytes for t in tensors)


def used_tensors(items: Iterable[KernelCall | HostNest | Alias], program: NestProgram) -> Set[object]:
    """Tensors that plan items, outputs and checks need in memory."""
    from ..compiler.plan import Alias

    used: dict[object, None] = {}
    for i in items:
        if isinstance(i, KernelCall):
            used.update(dict.fromkeys(i.buffers))
        elif isinstance(i, HostNest):
            used.update(dict.fromkeys(i.inputs))
        elif isinstance(i, Alias):
            used[i.source] = None
        if isinstance(i, (KernelCall, HostNest)):
            sizes = (*i.parameters, i.units, i.scratch_bytes) if isinstance(i, KernelCall) else ()
            used.update(dict.fromkeys(ex.load_tensor(e) for e in ex.loads(sizes)))
    used.update(dict.fromkeys((*program.outputs, *program.held())))
    return used.keys()
