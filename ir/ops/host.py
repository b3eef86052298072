"""How a plan names what runs on the host.

A host callback is a module-level function of this package, or `functools.partial` of one with arguments that JSON can hold. It takes one value per input of its
node (NumPy array, list, None, ...) and returns one per output. A container keeps its module's name, its own name and the bound arguments.
"""
from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Sequence

from ..errors import ModelError, UnsupportedError

HostCallback = Callable[..., Sequence[object]]
_PACKAGE = __name__.rpartition(".")[0]


def host_function_to_data(function: object) -> list[object]:
    """JSON-able form of a callback: [module, name, positional arguments, keyword arguments].

    Raises:
        UnsupportedError: the callback is no function of this package, or its arguments are no JSON data.
    """
    bound, positional, keywords = function, [], {}
    if isinstance(function, functools.partial):
        bound, positional, keywords = function.func, list(function.args), dict(function.keywords)
    package, _, module = getattr(bound, "__module__", "").rpartition(".")
    name = getattr(bound, "__qualname__", type(bound).__name__)
    if package != _PACKAGE or "." in name:
        raise UnsupportedError(f"the host step '{name}' cannot be written to a file", hint="keep the ONNX model and compile it where it runs")
    data = [module, name, positional, keywords]
    try:
        json.dumps(data)
    except TypeError as e:
        raise UnsupportedError(f"the arguments of the host step '{name}' cannot be written to a file: {e}") from e
    return data


def host_function_from_data(data: Sequence[object]) -> HostCallback:
    """The callback that `host_function_to_data` described.

    Raises:
        ModelError: the data name no function of this package.
    """
    module, name, positional, keywords = data
    if not isinstance(module, str) or not isinstance(name, str) or not module.isidentifier() or not name.isidentifier():
        raise ModelError(f"a host step is named {module!r}.{name!r}, which is no function of this package")
    try:
        found = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name, None)
    except ModuleNotFoundError as e:
        raise ModelError(f"the host step {module}.{name} is unknown", hint="the file was written by another version") from e
    if not callable(found) or getattr(found, "__module__", None) != f"{_PACKAGE}.{module}":
        raise ModelError(f"the host step {module}.{name} is unknown", hint="the file was written by another version")
    return functools.partial(found, *positional, **keywords) if positional or keywords else found
