"""`clinvk.run` and `clinvk.arun`: a prompt in, a `Result` out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clinvk.api.sync import run_blocking
from clinvk.disk.empty import EMPTY
from clinvk.dispatch.dispatcher import Dispatcher, own_unless
from clinvk.model.request import Request
from clinvk.model.result import Result


async def arun(
    prompt: str,
    *,
    backend: str | None = None,
    session: str | None = None,
    name: str | None = None,
    to: str | None = None,
    replay: bool = False,
    history: int = 0,
    planning: bool = False,
    memory: bool = False,
    fast_context: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    knowledge: bool | str | os.PathLike[str] = False,
    model: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
    approval: str | None = None,
    sandbox: str | None = None,
    system_prompt: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - of the program, which is ended when it is over
    ephemeral: bool = False,
    title: str | None = None,
    tags: Iterable[str] = (),
    args: Iterable[str] = (),
    fallback: str | Iterable[str] | None = None,
    on_limit: str | None = None,
    max_wait: float | None = None,
    ignore_limit: bool = False,
    worktree: bool | Mapping[str, Any] | None = None,
    dispatcher: Dispatcher | None = None,
    **options: Any,
) -> Result:
    """The answer of a backend to `prompt`; on asyncio or trio.

    `session` is an id, a unique prefix of one, or "last" for the newest of this directory; `name`
    is a session that is created at its first use; without either a new one is created, unless
    `ephemeral`. `to` hands the session over to another backend, `replay` starts its native session
    over from the transcript, `history` adds that many earlier sessions of the directory before the
    prompt. With `planning`, the backend makes a plan and changes nothing. `memory` adds the stored
    notes of the directory before the prompt, and `fast_context` the files below these directories,
    relative to the directory of the turn. `knowledge` adds passages that match the prompt: of the
    documents below that directory, or, if it is True, of earlier sessions. `cwd="none"` is an empty
    directory, which is deleted at the end. `timeout` is in seconds. At a rate limit, the turn continues on the next backend of
    `fallback`; with `on_limit="wait"` it waits for the end, for `max_wait` seconds at most; a limit
    that is remembered is tried with `ignore_limit`. With `worktree`, it works in a git worktree of its
    own: True, or a mapping with the keys `base`, `dirty`, `copy`, `setup`, `keep`; `result.worktree`
    says what has changed. `options` are the manifest's other options (`max_turns=3`,
    `add_dir=["../lib"]`). The failure of a program is in the result (`result.ok`, `result.error`);
    errors before it starts raise `ClinvkError`."""
    named = {"model": model, "approval": approval, "sandbox": sandbox,
             "system_prompt": system_prompt, "planning": planning or None,
             "memory": memory or None, "fast_context": _paths(fast_context),
             "knowledge": _knowledge(knowledge)}  # fmt: skip
    request = Request(
        prompt=prompt,
        backend=backend,
        session=session,
        name=name,
        to=to,
        replay=replay,
        history=history,
        options={k: v for k, v in {**named, **options}.items() if v is not None},
        args=tuple(args),
        cwd=Path(cwd) if cwd is not None and cwd != EMPTY else None,
        own_directory=cwd == EMPTY,
        ephemeral=ephemeral,
        timeout=timeout,
        title=title,
        tags=tuple(tags),
        fallback=_names(fallback),
        on_limit=on_limit,
        max_wait=max_wait,
        ignore_limit=ignore_limit,
    )
    with own_unless(dispatcher) as where:
        if not worktree:
            return await where.run(request)
        # Only in a worktree.
        from clinvk.engine.prompt_run import run_in_worktree

        return await run_in_worktree(where, request, worktree)


def _paths(given: Any) -> list[str] | None:
    """The names of one directory, or of several."""
    if given is None:
        return None
    return [
        os.fspath(path) for path in ([given] if isinstance(given, (str, os.PathLike)) else given)
    ]


def _knowledge(given: Any) -> Any:
    if given is None or given is False:
        return None
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _names(fallback: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if fallback is None:
        return None
    return (fallback,) if isinstance(fallback, str) else tuple(fallback)


def run(prompt: str, **options: Any) -> Result:
    """`arun` for code without an event loop: the same arguments, the same result."""
    return run_blocking(lambda: arun(prompt, **options), "clinvk.arun(...)")
