"""Shell completion of the values of options and arguments.

Each function takes the beginning of a value and returns the values that start with it, or pairs of
a value and its description, for shells that show one. Problems, such as an invalid configuration,
complete to nothing: a completing shell has no place for a message. All imports are inside the
functions, since only a completing shell needs them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clinvk.errors import ClinvkError

if TYPE_CHECKING:
    # Only to complete.
    from clinvk.model.session import Session
    from clinvk.runs.folder import RunFolder
    from clinvk.store.base import Query, Store

MAX_COMPLETIONS = 200  # ids that are offered
MAX_RECENT = 50  # sessions that are offered before anything is typed

Offer = str | tuple[str, str]


def complete_words(words: Iterable[str]) -> Callable[[str], list[str]]:
    """The completion of a parameter that takes one of these."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def complete_sessions(incomplete: str) -> list[Offer]:
    """Sessions, most recently used first."""
    # Only to complete.
    from clinvk.store.base import Query

    with suppress(ClinvkError), _open_store() as store:
        if incomplete:
            ids = set(store.find_ids(incomplete, MAX_COMPLETIONS))
            recent = {s.id: _describe(s) for s in _sessions(store, Query(limit=MAX_COMPLETIONS))}
            others = sorted(ids - recent.keys())
            return [*((i, text) for i, text in recent.items() if i in ids), *others]
        found = _sessions(store, Query(limit=MAX_RECENT, tasks=False))
        return [(s.id, _describe(s)) for s in found]
    return []


def complete_tags(incomplete: str) -> list[str]:
    """The tags of sessions, without those that name a run."""
    # Only to complete.
    from clinvk.store.base import Query

    with suppress(ClinvkError), _open_store() as store:
        found = _sessions(store, Query(limit=MAX_COMPLETIONS, tasks=False))
        tags = dict.fromkeys(tag for s in found for tag in s.tags if not tag.startswith("run:"))
        return [tag for tag in tags if tag.startswith(incomplete)]
    return []


def complete_models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Models of the configuration and of sessions; only those of the backend, if one is named."""
    # Only to complete.
    from clinvk.store.base import Query

    backend = ctx.params.get("backend")
    with suppress(ClinvkError), _open_store() as store:
        found = _sessions(store, Query(limit=MAX_COMPLETIONS, backend=backend))
        names = [*_configured_models(backend), *(s.model for s in found if s.model)]
        return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
    return []


def complete_option_pairs(ctx: typer.Context, incomplete: str) -> list[str]:
    """`KEY=` for each option of the backend."""
    # Only to complete.
    from clinvk.backend.catalog import Catalog
    from clinvk.config import loading

    with suppress(ClinvkError):
        loaded = loading.load(os.environ)
        name = ctx.params.get("backend") or loaded.config.default_backend
        options = Catalog(loaded.home).load(name).options
        return [f"{key}=" for key in options if key.startswith(incomplete)]
    return []


def complete_results(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """The tasks of the named run, by default of the newest of this repository."""
    # Only to complete.
    from clinvk.config import loading
    from clinvk.worktrees.results.reading import find_run

    with suppress(ClinvkError, OSError):
        named = ctx.params.get("run_id") or "last"
        return _offer_tasks(find_run(loading.find_home(os.environ), named, Path.cwd()), incomplete)
    return []


def complete_tasks(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """The tasks of the named run, by the names of their files."""
    # Only to complete.
    from clinvk.config import loading
    from clinvk.runs.folder import RunStore

    with suppress(ClinvkError):
        folder = RunStore(loading.find_home(os.environ)).find(ctx.params.get("run_id") or "last")
        return _offer_tasks(folder, incomplete)
    return []


def _offer_tasks(folder: RunFolder, incomplete: str) -> list[Offer]:
    tasks = [t for t in folder.plan().tasks if t.key.startswith(incomplete)]
    return [(task.key, task.name) for task in tasks[:MAX_COMPLETIONS]]


def complete_limit_actions(incomplete: str) -> list[str]:
    """`wait`, `fail`, and `switch:BACKEND` for each backend."""
    # Only to complete.
    from clinvk.backend.catalog import Catalog
    from clinvk.config import loading

    names: list[str] = []
    with suppress(ClinvkError):
        names = Catalog(loading.find_home(os.environ)).names()
    words = ["wait", "fail", *(f"switch:{name}" for name in names)]
    return [word for word in words if word.startswith(incomplete)]


def complete_config_keys(incomplete: str) -> list[str]:
    # Only to complete.
    from clinvk.backend.catalog import Catalog
    from clinvk.config import keys, loading

    backends: list[str] = []
    with suppress(ClinvkError):
        backends = Catalog(loading.find_home(os.environ)).names()
    return [key for key in keys.names(backends) if key.startswith(incomplete)]


def complete_config_values(ctx: typer.Context, incomplete: str) -> list[str]:
    # Only to complete.
    from clinvk.backend.catalog import Catalog
    from clinvk.config import keys, loading

    key = str(ctx.params.get("key") or "")
    with suppress(ClinvkError):
        words: Iterable[str] = keys.choices(key)
        if key == "default_backend":
            words = Catalog(loading.find_home(os.environ)).names()
        return [word for word in words if word.startswith(incomplete)]
    return []


def complete_commands(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """The commands; after a command with subcommands, those."""
    group: Any = ctx.parent.command if ctx.parent else ctx.command
    for word in ctx.params.get("command") or []:
        group = group.get_command(ctx, word) if hasattr(group, "get_command") else None
    modules: dict[str, tuple[str, str]] = getattr(group, "modules", {})
    if modules:
        return [(name, text) for name, (_, text) in modules.items() if name.startswith(incomplete)]
    names = group.list_commands(ctx) if hasattr(group, "list_commands") else []
    offered: list[Offer] = [name for name in names if name.startswith(incomplete)]
    return offered


def _open_store() -> Store:
    # Only to complete.
    from clinvk.config import loading
    from clinvk.store import open_store

    loaded = loading.load(os.environ)
    return open_store(loaded.config.session.storage, loaded.home)


def _sessions(store: Store, query: Query) -> list[Session]:
    # Only to complete.
    from clinvk.model.session import Session

    return [s for s in store.select(query) if isinstance(s, Session)]


def _configured_models(backend: str | None) -> list[str]:
    # Only to complete.
    from clinvk.config import loading

    found = loading.load(os.environ).config.backends
    return [c.model for name, c in found.items() if c.model and backend in (None, name)]


def _describe(session: Session) -> str:
    # Only to complete.
    from clinvk.text.sanitize import one_line

    return one_line(session.label)[:60] or session.backend or "-"


def complete_skills(incomplete: str) -> list[str]:
    # Only a shell that completes needs it.
    from clinvk.config import loading
    from clinvk.sessions.skills import skill_names, skill_places

    places = skill_places(loading.find_home(os.environ), os.getcwd())
    return [name for name in skill_names(places) if name.startswith(incomplete)]


def complete_labels(ctx: typer.Context, incomplete: str) -> list[str]:
    """The labels of the workers that are there."""
    # Only to complete, with a cluster.
    from clinvk.cmd.drive.cluster import cluster_url
    from clinvk.config import loading

    with suppress(ClinvkError, OSError):
        url = cluster_url(ctx.params.get("cluster"), loading.load(os.environ))
        if url is None:
            return []
        # The same.
        from clinvk.cluster.address import parse
        from clinvk.cluster.nodes import read_nodes

        found = read_nodes(parse(url, insecure=True), patient=False)
        labels = {label for state in found if state.takes_tasks for label in state.node.labels}
        return sorted(label for label in labels if label.startswith(incomplete))
    return []
