"""`Agent`: a conversation with a backend, as an object.

    from clinvk import Agent, MemoryConfig

    agent = Agent(name="Reviewer", backend="claude", memory=MemoryConfig(auto_save="my-project"))
    print(agent.start("Analyze this code"))
    print(agent.start("Now in one sentence"))

The second prompt continues the conversation of the first.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from msgspec import Struct

from clinvk.api.prompt import arun
from clinvk.api.sync import run_blocking
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import UsageError
from clinvk.model.result import Result, raise_failure

CONTEXT_SESSIONS = 5  # earlier sessions that `context=True` adds
_OTHER = re.compile(r"[^a-z0-9]+")


class MemoryConfig(Struct, frozen=True):
    """What an agent remembers. `auto_save` is the name of the session that keeps its conversation,
    also for later programs; `history` is how many earlier sessions of the directory it is told
    about at the beginning."""

    auto_save: str | None = None
    history: int = 0


class Agent:
    """A conversation with a backend. Each `start` continues it.

    With `memory`, the conversation is kept in a session: that of `MemoryConfig(auto_save=NAME)`, or,
    with True, one named after the agent. Without, it lasts as long as this object. `context` adds
    earlier sessions of the directory before the first prompt: 5 of them, or the given number.
    `instructions` are its system prompt; other keywords are options of the backend. After each
    call, `result` is the whole `Result`."""

    def __init__(
        self,
        name: str = "Agent",
        *,
        instructions: str | None = None,
        backend: str | None = None,
        model: str | None = None,
        memory: bool | MemoryConfig | None = None,
        context: bool | int = False,
        dispatcher: Dispatcher | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.result: Result | None = None
        self._memory = _read_memory(memory, name)
        self._history = _read_context(context) or self._memory.history
        self._dispatcher = dispatcher
        self._session: str | None = None  # of a conversation without a name
        self._options = {
            "system_prompt": instructions, "backend": backend, "model": model, **options
        }  # fmt: skip

    async def astart(self, prompt: str) -> str:
        """`start` for an event loop, asyncio or trio."""
        name = self._memory.auto_save
        begins = name is not None or self._session is None
        self.result = await arun(
            prompt,
            name=name,
            session=None if name else self._session,
            history=self._history if begins else 0,
            dispatcher=self._dispatcher,
            **self._options,
        )
        self._session = self.result.session_id
        raise_failure(self.result)
        return self.result.text

    def start(self, prompt: str) -> str:
        """The answer. Raises `ClinvkError` if nothing could be started, and `TurnError`, with the
        result, if the turn failed; the conversation can be continued after that."""
        return run_blocking(lambda: self.astart(prompt), "agent.astart(...)")


def _read_memory(given: bool | MemoryConfig | None, name: str) -> MemoryConfig:
    if isinstance(given, MemoryConfig):
        return given
    return MemoryConfig(auto_save=session_name(name)) if given else MemoryConfig()


def _read_context(given: bool | int) -> int:
    if isinstance(given, bool):
        return CONTEXT_SESSIONS if given else 0
    if given < 0:
        raise UsageError(f"context: {given} is less than 0", "use a number of sessions, or True")
    return given


def session_name(agent: str) -> str:
    """The name of the session of an agent: `Code Reviewer` has `code-reviewer`."""
    plain = unicodedata.normalize("NFKD", agent).encode("ascii", "ignore").decode().lower()
    return _OTHER.sub("-", plain).strip("-")[:100] or "agent"
