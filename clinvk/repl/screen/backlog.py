"""What was typed at the prompt and is still to be done, in its order."""

from __future__ import annotations

from collections import deque

import anyio

from clinvk.repl.actions import Action, Exit


class Backlog:
    """Holds lines as they were typed, and what follows from lines that were read already."""

    def __init__(self) -> None:
        self._items: deque[str | Action] = deque()
        self._added = anyio.Event()

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def texts(self) -> list[str]:
        """The lines that have not been read."""
        return [item for item in self._items if isinstance(item, str)]

    @property
    def has_exit(self) -> bool:
        return any(isinstance(item, Exit) for item in self._items)

    def add(self, item: str | Action) -> None:
        self._items.append(item)
        self._added.set()

    def add_first(self, action: Action) -> None:
        """To be done before all others."""
        self._items.appendleft(action)
        self._added.set()

    def clear(self) -> None:
        self._items.clear()

    async def take(self) -> str | Action:
        """The next one, once there is one."""
        while not self._items:
            self._added = anyio.Event()  # of the event loop that runs now
            await self._added.wait()
        return self._items.popleft()
