"""Random inputs for a model: to run it, to measure it."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir import dtypes as dt
from ..ir.errors import SardonyxError
from ..ir.plan import Port


def symbolic_dims(ports: Sequence[Port]) -> list[str]:
    """Names of the symbolic dimensions of inputs."""
    return list(dict.fromkeys(d for p in ports for d in p.shape or () if isinstance(d, str)))


def random_feeds(ports: Sequence[Port], dims: Mapping[str, int], seed: int, given: Mapping[str, object] | None = None) -> dict[str, Any]:
    """An array for every input that is not given.

    Floats are normal, whole numbers 0 or 1 (they may be positions in tables of any size), booleans and everything called a mask true. A symbolic dimension has the
    size that `dims` says, else that of a given array, else 1.
    """
    rng = np.random.default_rng(seed)
    feeds = dict(given or {})
    sizes = {}
    for p in ports:
        fed = feeds.get(p.name)
        if p.shape is not None and isinstance(fed, np.ndarray):
            sizes.update({d: n for d, n in zip(p.shape, fed.shape) if isinstance(d, str)})
    sizes.update(dims)
    for p in ports:
        if p.name not in feeds:
            feeds[p.name] = random_array(p, sizes, rng)
    return feeds


def random_array(port: Port, sizes: Mapping[str, int], rng: np.random.Generator) -> Any:
    """A random value for one input.

    Raises:
        SardonyxError: the input is not a tensor.
    """
    if not port.type.startswith("tensor("):
        raise SardonyxError(f"input {port.name} is a {port.type}: random values are made for tensors only; run the model from Python")
    dtype = dt.BY_NAME[port.type[7:-1]]
    shape = [d if isinstance(d, int) else sizes.get(str(d), 1) for d in port.shape or ()]
    if dtype is dt.string:
        return np.array([f"text {k}" for k in range(int(np.prod(shape)))], object).reshape(shape)
    if "mask" in port.name.lower() and dtype.kind != "float":
        return np.ones(shape, dtype.numpy)
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return rng.integers(0, 2, shape).astype(dtype.numpy)
    if dtype.kind == "complex":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    return rng.standard_normal(shape).astype(np.float32).astype(dtype.numpy)
