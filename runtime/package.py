"""Compiled models as containers: cache entries, and packages (`.sdx`) for one or several targets."""
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..ir.errors import TargetError
from ..ir.target import Target, system_of
from .container import Container, ContainerError, chunk_digest, write
from .model import CompiledModel
from .plan_data import plan_from_data, plan_to_data


def to_sections(models: Sequence[CompiledModel]) -> tuple[dict[str, Any], dict[str, bytes | memoryview]]:
    """(content, sections) of a container that holds a model compiled for each of some targets; constants that several have alike are held once."""
    writer = _Writer()
    variants = []
    for k, model in enumerate(models):
        table = []
        blob = bytearray()
        for symbol, code in model.objects.items():
            table.append([symbol, len(blob), len(code)])
            blob += code
        writer.sections[f"objects{k}"] = bytes(blob)
        variants.append({"target": model.plan.target, "objects": table, "report": model.report, "model": writer.model_data(model)})
    return {"kind": "model", "variants": variants}, writer.sections


class _Writer:
    """Sections as they come together."""

    def __init__(self) -> None:
        self.sections: dict[str, bytes | memoryview] = {}
        self._names: dict[tuple[int, str], str] = {}

    def model_data(self, model: CompiledModel) -> dict[str, Any]:
        """A model's plan, bodies and the names of its constants' sections."""
        constants = [self._constant(a) for a in model.constants]
        bodies = [[k, [self.model_data(b) for b in children]] for k, children in model.bodies.items()]
        return {"plan": plan_to_data(model.plan, _function_data), "constants": constants, "bodies": bodies}

    def _constant(self, array: np.ndarray) -> str:
        data: bytes | memoryview = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""
        key = (len(data), chunk_digest([data]) if data else "")
        if key not in self._names:
            self._names[key] = f"c{len(self._names)}"
            self.sections[self._names[key]] = data
        return self._names[key]


def _function_data(function: object) -> Any:
    from ..ir.ops.host import host_function_to_data

    kind = getattr(function, "kind", None)
    return ["", kind, "control", [list(x) for x in cast(ControlSettings, function).settings]] if isinstance(kind, str) else host_function_to_data(function)


@dataclass(frozen=True)
class ControlSettings:
    """What a stored plan keeps of a control-flow operator; its bodies are beside it."""

    kind: str
    settings: tuple[tuple[str, tuple[int, ...]], ...]


def _function_from_data(data: Any) -> Any:
    from ..ir.ops.host import host_function_from_data

    if data[2] == "control":
        return ControlSettings(data[1], tuple((name, tuple(values)) for name, values in data[3]))
    return host_function_from_data(data)


def from_container(container: Container, origin: str, target: Target) -> CompiledModel:
    """The model in a container; of several targets', that which uses most of what `target` has.

    Raises:
        ContainerError: the container holds something else.
        TargetError: the model in it is for other machines.
    """
    content = container.content
    if content.get("kind") != "model":
        raise ContainerError(f"{container.path}: this container holds no model")
    try:
        variants = list(enumerate(content["variants"]))
        k, variant = _best(variants, target, container.path) if origin == "package" else variants[0]
        blob = container.sections[f"objects{k}"]
        objects = {symbol: bytes(blob[at:at + size]) for symbol, at, size in variant["objects"]}
        model = _model_from_data(variant["model"], container, origin)
        model.objects, model.report = objects, variant["report"]
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise ContainerError(f"{container.path}: the model in this container cannot be read ({type(e).__name__}: {e}); it was written by another version of "
                             "Sardonyx, compile the model again") from e
    return model


def _model_from_data(data: Any, container: Container, origin: str) -> CompiledModel:
    plan = plan_from_data(data["plan"], _function_from_data)
    constants = [np.frombuffer(container.sections[name], np.uint8) for name in data["constants"]]
    bodies = {k: [_model_from_data(b, container, origin) for b in children] for k, children in data["bodies"]}
    return CompiledModel(plan, {}, constants, origin, keep=container, bodies=bodies)


def save_package(models: CompiledModel | Sequence[CompiledModel], path: str | os.PathLike[str]) -> None:
    """Write a package (`.sdx`) that loads without compiling.

    Args:
        models: one model, compiled for each target that the package is for.

    Raises:
        OSError: no space or no permission; an older file stays as it was.
    """
    write(path, *to_sections([models] if isinstance(models, CompiledModel) else models))


# ---------------------------------------------------------------------------------------------------------------- targets
_LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
_ADDED = (("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"), ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"),
          ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))
_LEVEL_FEATURES = {level: tuple(f for added in _ADDED[:k + 1] for f in added) for k, level in enumerate(_LEVELS)}  # Source: System V ABI, AMD64 supplement, 3.1.1


def _best(variants: Sequence[tuple[int, Any]], target: Target, source: object) -> tuple[int, Any]:
    """The variant whose code fits the machine and uses most of its instruction sets.

    Raises:
        TargetError: none fits.
    """
    fitting = [v for v in variants if not list(_obstacles(v[1]["target"], target))]
    if not fitting:
        found = "; ".join(dict.fromkeys(o for _, v in variants for o in _obstacles(v["target"], target)))
        raise TargetError(f"{source}: {found}; compile it again with --target host")
    return max(fitting, key=lambda v: _rank(v[1]["target"]))


def _obstacles(key: str, target: Target) -> Iterator[str]:
    triple = key.split("|", maxsplit=1)[0]
    if triple.split("-")[0] != target.arch or system_of(triple) != target.system:
        yield f"compiled for {triple}, this machine is {target.triple}"
    else:
        missing = missing_features(key, target)
        if missing:
            yield f"compiled for a processor with {', '.join(missing)}, which this one lacks"


def _rank(key: str) -> tuple[int, int]:
    """Order of targets of one architecture by what their code may use."""
    _, cpu, features = (key.split("|") + ["", ""])[:3]
    has = set(features.split(","))
    named = _LEVELS.index(cpu) if cpu in _LEVELS else sum(all(f"+{f}" in has for f in needed) for needed in _LEVEL_FEATURES.values()) - 1
    return named, len(has)


def missing_features(key: str, target: Target) -> list[str]:
    """Instruction sets that code for `key` uses and `target` lacks."""
    has = {f[1:] for f in target.features.split(",") if f.startswith("+")}
    if not has:
        return []
    return sorted(used_features(key) - has)


def used_features(key: str) -> set[str]:
    """Instruction sets that code for a target's `key` may use, as LLVM names them."""
    _, cpu, features = (key.split("|") + ["", ""])[:3]
    return set(_LEVEL_FEATURES.get(cpu, ())) | {f[1:] for f in features.split(",") if f.startswith("+")}
