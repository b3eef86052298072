"""Choices by measurement: a model is compiled with the alternatives of its schedules in turn, run, and each product gets what was fastest for it.

A trial takes the same alternative of every product, so a few trials measure all of them, each among the steps that it really stands between. What was found is kept
in the cache by the product's sizes and types, so that other models with the same products need no measuring.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir.errors import SardonyxError
from ..ir.target import Target
from .cache import Cache
from .host import host_target as probe
from .package import missing_features
from .progress import compile_progress
from .random_inputs import random_feeds, symbolic_dims
from .toolchain import toolchain_key

if TYPE_CHECKING:
    from .model import CompiledModel, CompileOptions

KINDS = ("blocking", "squares", "attention")  # decisions that have several alternatives; `windows` (Winograd's convolution or the direct one) has two
ALTERNATIVES = 9  # of a decision, at most; fewer are tried where none has as many
ROUNDS = 5  # runs of a trial
WORTHWHILE = 0.97  # of the cost model's time: what is not clearly faster is not taken

Decisions = Mapping[str, int]
Trial = tuple[int, int]  # whether convolutions are direct; which alternative


def measured_target(source: object, options: "CompileOptions", target: Target, cache: Cache) -> Target:
    """The target with what measurements find best for the products of a model.

    Products inside bodies of control flow stay as the cost model has them.

    Args:
        options: `tune` is the number of threads to measure with, `tune_dims` the sizes of symbolic dimensions.

    Raises:
        SardonyxError: this machine cannot run the target's code, a symbolic dimension has no size, or the model fails on random inputs.
    """
    from .model import compile_model

    host = probe()
    if (target.arch, target.system) != (host.arch, host.system):
        raise SardonyxError(f"tuning measures on this machine, which cannot run code for {target.triple}; compile for it without tuning, or tune on such a machine")
    missing = missing_features(target.key, host)
    if missing:
        raise SardonyxError(f"tuning measures on this machine, which lacks {', '.join(missing)} of {target.cpu}; compile for it without tuning, or tune on such a machine")
    plain = replace(options, tune=0, tune_dims=())
    table = Table(cache, target, options.tune)

    def compiled(decisions: Decisions) -> "CompiledModel":
        return compile_model(source, plain, replace(target, measured={**decisions, **table.decisions()}), cache)[0]

    first = compiled({})
    unknown = set(first.products.values()) - table.known()
    if not unknown:
        return replace(target, measured=table.decisions(first.products.values()))
    times: dict[Trial, dict[str, float]] = {(0, 0): measure(first, options)}
    convolutions = (0, 1) if any(name.startswith("winograd") for name in first.objects) else (0,)
    trials = [(direct, k) for direct in convolutions for k in range(ALTERNATIVES) if (direct, k) != (0, 0)]
    seen = {facts(first)}
    for at, (direct, k) in enumerate(trials):
        with compile_progress() as progress:
            progress.stage(f"measuring alternatives, {at + 1} of {len(trials)}")
        model = compiled(trial_decisions(direct, k))
        if facts(model) in seen:  # no product has as many alternatives
            continue
        seen.add(facts(model))
        times[direct, k] = measure(model, options)
    again = measure(compiled({}), options)  # the machine may have been slower or faster in the beginning
    base = {p: min(t, again.get(p, t)) for p, t in times[0, 0].items()}
    for product in sorted(unknown):
        best = min(times, key=lambda t: times[t].get(product, float("inf")))
        if times[best].get(product, float("inf")) >= WORTHWHILE * base.get(product, 0.0):
            best = (0, 0)
        table.add(product, {kind: k for kind, k in trial_decisions(*best).items() if (kind == "attention") == product.startswith("attention")})
    table.save()
    return replace(target, measured=table.decisions(first.products.values()))


def trial_decisions(direct: int, k: int) -> dict[str, int]:
    return {"windows": direct, **dict.fromkeys(KINDS, k)}


def facts(model: "CompiledModel") -> str:
    """What tells compiled variants of one model apart: kernels, and the sizes that they get."""
    plan = model.plan
    return repr((plan.kernels, plan.steps, plan.numbers))


def measure(model: "CompiledModel", options: "CompileOptions") -> dict[str, float]:
    """Seconds of each product's steps, the least of a few runs on random inputs."""
    missing = [d for d in symbolic_dims(model.plan.inputs) if d not in dict(options.tune_dims)]
    if missing:
        raise SardonyxError(f"tuning needs a size for each symbolic dimension of the inputs; there is none for {', '.join(missing)} "
                            "(session.tune = 'NAME=SIZE,...'; --tune-dim NAME=SIZE)")
    feeds = random_feeds(model.plan.inputs, dict(options.tune_dims), 0)
    executor = model.executor(options.tune)
    arrays = [feeds[p.name] for p in model.plan.inputs]
    least: dict[int, float] = {}
    for _ in range(ROUNDS):
        try:
            _, times = executor.profile(arrays)
        except SardonyxError as e:
            raise SardonyxError(f"tuning runs the model on random inputs, and this one cannot be run on them: {e}") from e
        for t in times:
            least[t.step] = min(least.get(t.step, float("inf")), (t.end_ns - t.start_ns) / 1e9)
    found: dict[str, float] = {}
    for step, product in model.products.items():
        found[product] = found.get(product, 0.0) + least[step]
    return found


class Table:
    """What was measured on a machine with a number of threads: decisions by product, kept in the cache."""

    def __init__(self, cache: Cache, target: Target, threads: int) -> None:
        self._cache = cache
        self._key = hashlib.sha256(json.dumps(["measured", repr(target), threads, toolchain_key()]).encode()).hexdigest()
        self._found = self._stored()

    def _stored(self) -> dict[str, dict[str, int]]:
        data = self._cache.load_object(self._key)
        return {} if data is None else json.loads(data)

    def known(self) -> set[str]:
        return set(self._found)

    def add(self, product: str, decisions: Decisions) -> None:
        self._found[product] = dict(decisions)

    def decisions(self, products: Iterable[str] | None = None) -> dict[str, int]:
        """As `Target.measured` has them: those of some products, or all."""
        wanted = self._found.keys() if products is None else sorted(set(products))
        return {f"{kind} {p}": k for p in wanted for kind, k in self._found.get(p, {}).items()}

    def save(self) -> None:
        """Store it, with what other processes stored meanwhile."""
        self._cache.save_object(self._key, json.dumps(self._stored() | self._found, sort_keys=True).encode())
