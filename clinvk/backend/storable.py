"""Which options can be stored for later prompts, and what their backends make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clinvk.backend.catalog import Catalog
from clinvk.backend.command.effects import EVERYWHERE
from clinvk.config.stored_options import STORABLE
from clinvk.errors import ClinvkError, UsageError
from clinvk.model.option_table import BY_NAME, FLAGS
from clinvk.text import values
from clinvk.text.suggest import did_you_mean

NUMBERS = [option for option in BY_NAME.values() if option.type in (int, float)]
LONGEST = 1_000  # characters of a value


def check_option(name: str, value: Any, catalog: Catalog) -> None:
    """Raise `UsageError` for an option that cannot be stored, or a value that it cannot have."""
    known = _known_options(catalog)
    if name in BY_NAME and name not in STORABLE:
        keys = BY_NAME[name].config
        place = f"{keys[0]}.{BY_NAME[name].config_key}" if "unified_flags" in keys else None
        raise UsageError(
            f"{name} cannot be stored with the options of a session",
            f"set it in the configuration: clinvk config set {place} VALUE" if place
            else "give it on the command line of each prompt, or see: clinvk config show",
        )  # fmt: skip
    if name not in STORABLE and name not in known:
        every = [*STORABLE, *known]
        raise UsageError(
            f"unknown option {name[:40]!r}{did_you_mean(name, every)}",
            "see the options of each backend: clinvk backends show NAME",
        )
    if not isinstance(value, (str, bool)) and BY_NAME.get(name) not in NUMBERS:
        raise UsageError(f"{name}: {value!r} is not text")
    if isinstance(value, str):
        flag = FLAGS.get(name, f"--option {name}")
        if not value.strip():
            raise UsageError(f"{flag}: the value is empty", f"clear it with: --clear {flag}")
        if len(value) > LONGEST:
            raise UsageError(f"{flag}: the value has more than {LONGEST:,} characters")
        if problem := values.os_problem(value):
            raise UsageError(f"{flag}: {problem}: {value[:40]!r}", "remove it")


def explain_lacking(options: Mapping[str, Any], backend: str, catalog: Catalog) -> Iterator[str]:
    """A notice about the options that this backend lacks: they are dropped there."""
    try:
        manifest = catalog.load(backend)
    except ClinvkError:
        return
    lacking = [n for n in options if n not in EVERYWHERE and n not in manifest.options]
    for name in lacking:
        others = [one for one in catalog.names() if _has(catalog, one, name)]
        where = f"; it applies to {', '.join(others)}" if others else "; no backend has it"
        yield f"{backend} has no {name}, so it is dropped there{where}"


def _has(catalog: Catalog, backend: str, option: str) -> bool:
    try:
        return option in catalog.load(backend).options
    except ClinvkError:  # a broken manifest has nothing to say here
        return False


def _known_options(catalog: Catalog) -> list[str]:
    """The options of all backends that are not in the table."""
    found: dict[str, None] = {}
    for backend in catalog.names():
        try:
            found |= dict.fromkeys(catalog.load(backend).options)
        except ClinvkError:
            continue
    return [name for name in found if name not in BY_NAME]
