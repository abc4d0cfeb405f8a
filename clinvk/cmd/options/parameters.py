"""Parameters that a decorator adds to a command's signature for typer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any


def parameters_of(command: Callable[..., Any]) -> list[inspect.Parameter]:
    """The command's parameters, with evaluated types."""
    # Typer does not evaluate them if a `__signature__` is set.
    return list(inspect.signature(command, eval_str=True).parameters.values())


def new_parameter(name: str, hint: Any) -> inspect.Parameter:
    """An optional parameter."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=None, annotation=hint)


def set_parameters(wrapper: Any, parameters: Iterable[inspect.Parameter]) -> None:
    """Give `wrapper` these parameters, whatever it wraps."""
    signature = inspect.Signature(list(parameters))
    wrapper.__signature__ = signature
    wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
