"""The flags of a turn's options, made from their table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from clinvk.cmd.options.completions import (
    complete_models,
    complete_skills,
    complete_tags,
    complete_words,
)
from clinvk.cmd.options.parameters import new_parameter, parameters_of, set_parameters
from clinvk.cmd.options.prompt_flags import FROM_TABLE, TurnOptions
from clinvk.cmd.options.words import LITERAL_MARK
from clinvk.disk.empty import read_directory
from clinvk.model.option_table import OPTIONS, Option

__all__ = ["FROM_TABLE", "OF_ANY_BACKEND", "OF_RUNS", "TurnOptions", "flag_of", "with_turn_options"]

F = TypeVar("F", bound=Callable[..., Any])

COMPLETIONS: Mapping[str, Any] = {
    "model": complete_models,
    "tags": complete_tags,
    "skill_set": complete_skills,
}

OF_RUNS = [option for option in OPTIONS if option.flag_of_runs]
OF_ANY_BACKEND = [option for option in OF_RUNS if not option.backend_specific]


def with_turn_options(chosen: Iterable[Option] = OPTIONS) -> Callable[[F], F]:
    """The command with the flags of these options, whose values it gets as `options`. A flag that
    was not given is None."""
    flags = [option for option in chosen if option.flag]

    def decorate(command: F) -> F:
        @wraps(command)
        def wrapper(**params: Any) -> Any:
            options = {option.name: params.pop(option.name, None) for option in flags}
            for option in flags:
                if option.optional_value and str(options[option.name]) == LITERAL_MARK:
                    options[option.name] = True
            return command(options=options, **params)

        found = []
        names = {parameter.name for parameter in parameters_of(command)}
        for parameter in parameters_of(command):
            # `options` stands for those that follow no other parameter.
            place = None if parameter.name == "options" else parameter.name
            found += [parameter] if place else []
            found += [
                new_parameter(o.name, flag_of(o))
                for o in flags
                if (o.beside if o.beside in names else None) == place
            ]
        set_parameters(wrapper, found)
        return wrapper  # type: ignore[return-value]

    return decorate


def flag_of(option: Option, *, of_runs: bool = False) -> Any:
    """The type of the option's parameter, as typer wants it."""
    names = [word for word in (option.flag, option.short) if word]
    text = (of_runs and option.help_of_runs) or option.help
    if option.off_flag:
        return Annotated[bool | None, typer.Option(f"{option.flag}/{option.off_flag}", help=text)]
    if option.type is bool:
        return Annotated[bool, typer.Option(*names, help=text)]
    hint: Any = Path if option.path else option.type
    # These are checked later, with a better message; a task has paths as text.
    if option.choices or option.duration or option.optional_value or option.context:
        hint = str
    if option.repeatable:
        hint = list[hint]
    settings: dict[str, Any] = {"metavar": option.metavar, "help": text}
    if option.path == "file":  # as it was typed: ./NAME is a file, and NAME may be something else
        hint, settings["path_type"] = str, str
    if option.name == "workdir":
        settings["parser"] = read_directory
    if option.minimum is not None:
        settings["min"] = option.minimum
    if option.maximum is not None:
        settings["max"] = option.maximum
    if option.choices:
        settings["autocompletion"] = complete_words(option.choices)
    elif option.name in COMPLETIONS:
        settings["autocompletion"] = COMPLETIONS[option.name]
    return Annotated[hint | None, typer.Option(*names, **settings)]
