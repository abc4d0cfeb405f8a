"""The flags of a turn's options, made from their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import typer

from clinvk.cmd.options.completions import complete_models, complete_words
from clinvk.cmd.options.parameters import new_parameter, parameters_of, set_parameters
from clinvk.model.option_table import OPTIONS, Option

F = TypeVar("F", bound=Callable[..., Any])

# A command's parameter `options: TurnOptions = FROM_TABLE` stands for all of them.
TurnOptions = Mapping[str, Any]
FROM_TABLE: TurnOptions = MappingProxyType({})

OF_RUNS = [option for option in OPTIONS if option.flag_of_runs]
OF_ANY_BACKEND = [option for option in OF_RUNS if not option.backend_specific]


def with_turn_options(chosen: Iterable[Option] = OPTIONS) -> Callable[[F], F]:
    """The command with the flags of these options, whose values it gets as `options`: those of
    flags that were not given are None."""
    flags = [option for option in chosen if option.flag]

    def decorate(command: F) -> F:
        @wraps(command)
        def wrapper(**params: Any) -> Any:
            options = {option.name: params.pop(option.name, None) for option in flags}
            return command(options=options, **params)

        found = []
        for parameter in parameters_of(command):
            # `options` stands for those that follow no other parameter.
            place = None if parameter.name == "options" else parameter.name
            found += [parameter] if place else []
            found += [new_parameter(o.name, flag_of(o)) for o in flags if o.beside == place]
        set_parameters(wrapper, found)
        return wrapper  # type: ignore[return-value]

    return decorate


def flag_of(option: Option) -> Any:
    """The type of the option's parameter, as typer wants it."""
    hint: Any = Path if option.path else str if option.choices else option.type
    if option.repeatable:
        hint = list[hint]
    names = [word for word in (option.flag, option.short) if word]
    settings: dict[str, Any] = {"metavar": option.metavar, "help": option.help}
    if option.minimum is not None:
        settings["min"] = option.minimum
    if option.choices:
        settings["metavar"] = "|".join(option.choices)
        settings["autocompletion"] = complete_words(option.choices)
    elif option.name == "model":
        settings["autocompletion"] = complete_models
    return Annotated[hint | None, typer.Option(*names, **settings)]
