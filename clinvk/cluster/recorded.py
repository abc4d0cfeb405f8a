"""Deletes from the server what a run has recorded elsewhere: the news about tasks that have ended, and
their results. What it has not recorded stays, for a process that resumes it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from clinvk.cluster.keys import AttemptId

if TYPE_CHECKING:
    from clinvk.cluster.ledger.ledger import Ledger, News

BATCH = 5000  # news that are deleted at a time


class RecordedTasks:
    """Of one run. `delete` is called in a thread, by one at a time."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self._ledger = ledger
        self._run = run
        self._recorded: set[int] = set()
        self._seen: dict[int, list[tuple[str, AttemptId | None]]] = {}  # by task
        self._doomed: deque[tuple[str, AttemptId | None]] = deque()

    def see(self, news: News) -> None:
        """Remember the news, to be deleted once its task is recorded."""
        task, _, number = news.member.partition(".")
        index = int(task)
        attempt = AttemptId(self._run, index, int(number)) if news.kind == "ended" else None
        if index in self._recorded:
            self._doomed.append((news.id, attempt))
        else:
            self._seen.setdefault(index, []).append((news.id, attempt))

    def has(self, news: News) -> bool:
        """Whether its task is recorded, so that nobody will listen to it."""
        return int(news.member.partition(".")[0]) in self._recorded

    def record(self, task: int) -> None:
        """The task has ended, and that is recorded."""
        self._recorded.add(task)
        self._doomed.extend(self._seen.pop(task, ()))

    def start_over(self) -> None:
        """The server has lost its data."""
        self._seen.clear()
        self._doomed.clear()

    def delete(self) -> None:
        """Raises the errors of redis-py; the rest is deleted the next time then."""
        while self._doomed:
            some = [self._doomed.popleft() for _ in range(min(BATCH, len(self._doomed)))]
            try:
                attempts = [attempt for _, attempt in some if attempt is not None]
                self._ledger.forget(self._run, [place for place, _ in some], attempts)
            except BaseException:
                self._doomed.extendleft(reversed(some))
                raise
