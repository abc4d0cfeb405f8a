"""Requests that contradict themselves, or ask for what a backend cannot do."""

from __future__ import annotations

from collections.abc import Mapping

from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting
from clinvk.errors import UsageError
from clinvk.model.option_table import OPTIONS
from clinvk.model.option_values import value_problem
from clinvk.model.request import Request
from clinvk.text import values
from clinvk.text.typed import format_path

PATHS = [option.name for option in OPTIONS if option.path == "directory"]
TEXT_OPTIONS = [
    option.name
    for option in OPTIONS
    if not option.repeatable and not option.path and option.type not in (int, float, bool)
]


def check_request(request: Request) -> None:
    """Raise `UsageError` for requests that contradict themselves."""
    if not isinstance(request.prompt, str):
        raise UsageError(f"the prompt is {type(request.prompt).__name__}, not text")
    for name in ("timeout", "stall_timeout", "max_wait"):
        limit = getattr(request, name)
        if limit is not None and not (isinstance(limit, (int, float)) and 0 < limit < 1e9):
            raise UsageError(f"{name}: {limit!r} is not a number of seconds greater than 0")
    for name in request.options:
        if problem := value_problem(name, request.options[name]):
            raise UsageError(f"{request.spelled.get(name, name)}: {problem}")
    for name in TEXT_OPTIONS:
        if not isinstance(request.options.get(name) or "", str):
            raise UsageError(f"{name}: {request.options[name]!r} is not text")
    _check_values(request)
    if request.ephemeral and (request.session or request.name or request.chosen_id):
        raise UsageError(
            "an ephemeral run has no session to continue",
            "leave out --ephemeral or the session",
        )


def _check_values(request: Request) -> None:
    """Raise `UsageError` for a text that cannot be passed to a program."""
    for name, value in request.env.items():
        if problem := values.name_problem(str(name)):
            raise UsageError(f"env: {problem}: {name!r}", "use e.g. NAME")
        if not isinstance(value, str):
            raise UsageError(f"env.{name}: {value!r} is not text")
    cwd = str(request.cwd) if request.cwd else ""
    names = {name: getattr(request, name) for name in ("session", "name", "backend", "to")}
    given = {**names, "args": request.args, "env": request.env, "cwd": cwd, **request.options}
    for place, text in values.texts({name: value for name, value in given.items() if value}):
        is_replaced = place[0] in ("args", "env", *request.options) and place[0] not in PATHS
        if problem := (values.nul_problem if is_replaced else values.os_problem)(text):
            raise UsageError(f"{format_path(place)}: {problem}: {text[:40]!r}", "remove it")


def check_rounds(settings: Mapping[str, Setting], request: Request) -> None:
    """Raise `UsageError` for rounds or a timeout of a check if there is none."""
    for name in ("rounds", "check_timeout"):
        setting = settings.get(name)
        if setting is None or setting.origin != "command line" or request.options.get("check"):
            continue
        raise _no_check(name, setting.spelled)


def check_opening(request: Request) -> None:
    """The same for a request that only says what the messages of a prompt have in common."""
    for name in ("rounds", "check_timeout"):
        if request.options.get(name) is not None and not request.options.get("check"):
            raise _no_check(name, request.spelled.get(name))


def _no_check(name: str, spelled: str | None) -> UsageError:
    check = "--check CMD" if spelled else "check"
    name = spelled or name
    return UsageError(f"{name} needs a check", f"add {check}, or leave out {name}")


def check_further_turns(
    option: str, settings: Mapping[str, Setting], request: Request, manifest: Manifest
) -> None:
    """Raise `UsageError` if further turns were asked for where the conversation cannot be
    continued."""
    setting = settings.get(option)
    if setting is None or not setting.value or setting.origin != "command line":
        return
    name = setting.spelled or option
    if request.ephemeral:
        raise UsageError(
            f"{name} needs a session, and an ephemeral run has none",
            f"leave out {name} or --ephemeral",
        )
    if not manifest.resumes:
        raise UsageError(
            f"{name} needs a backend that can continue a conversation; {manifest.name} cannot",
            "leave it out, or choose another backend with -b",
        )
