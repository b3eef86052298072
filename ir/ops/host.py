"""Naming host callbacks, so that a plan can be stored as data and its callbacks found again.

A callback is a function of this package's operator modules, a `functools.partial` of one with JSON-able arguments, or an instance of a frozen dataclass of
these modules with JSON-able fields and a `__call__`. Nothing else can be stored, and nothing outside of these modules is ever called by name.
"""
from __future__ import annotations

import dataclasses
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

from ..errors import SardonyxError

_PACKAGE = __name__.rpartition(".")[0]


def host_function_to_data(function: object) -> Any:
    """JSON-able name of a callback.

    Raises:
        SardonyxError: it is not one of the forms above.
    """
    if isinstance(function, functools.partial):
        return [*host_function_to_data(function.func)[:2], "partial", list(function.args), dict(function.keywords)]
    if isinstance(function, types.FunctionType) and function.__module__.startswith(_PACKAGE + ".") and function.__qualname__ == function.__name__:
        return [function.__module__.removeprefix(_PACKAGE + "."), function.__name__, "function", [], {}]
    kind = type(function)
    if dataclasses.is_dataclass(function) and kind.__module__.startswith(_PACKAGE + ".") and callable(function):
        return [kind.__module__.removeprefix(_PACKAGE + "."), kind.__name__, "object", [getattr(function, f.name) for f in dataclasses.fields(function)], {}]
    raise SardonyxError(f"host callback {function!r} is not a function of an operator module and cannot be stored")


def host_function_from_data(data: Any) -> Callable[..., Any]:
    """The callback that `host_function_to_data` named.

    Raises:
        SardonyxError: there is no such function.
    """
    module, name, form, arguments, keywords = data
    if not all(part.isidentifier() for part in (module, name)) or form not in ("function", "partial", "object"):
        raise SardonyxError(f"host callback {module}.{name} is not a name")
    try:
        found = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name)
    except (ModuleNotFoundError, AttributeError) as e:
        raise SardonyxError(f"host callback {module}.{name} is not part of this version; compile the model again") from e
    if isinstance(found, types.FunctionType):
        return functools.partial(found, *arguments, **keywords) if form == "partial" else found
    if isinstance(found, type) and dataclasses.is_dataclass(found) and form == "object":
        made: object = found(*(tuple(a) if isinstance(a, list) else a for a in arguments))
        if callable(made):
            return made
    raise SardonyxError(f"host callback {module}.{name} cannot be called")
