"""The news about the attempts of a run, for those who wait for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel

from clinvk.cluster.ledger.ledger import News
from clinvk.cluster.recorded import RecordedTasks
from clinvk.process.threads import in_thread

if TYPE_CHECKING:
    from clinvk.cluster.ledger.ledger import Ledger

BLOCK = 0.2  # seconds for which the server is asked to wait for news: a request waits that long
EXPIRE_INTERVAL = 1.0  # seconds between looks for leases that have expired
START = "0-0"  # of a stream
MAX_SILENCE = 300.0  # seconds without the server, after which its attempts count as interrupted
RETRY_PAUSE = 0.5  # seconds
MOST_EARLY = 64 * 1024 * 1024  # bytes of news that are kept for attempts that nobody listens to yet

Request = Callable[[], object]
T = TypeVar("T")


class Listener:
    """Waits for the news about one attempt."""

    def __init__(self, feed: Feed, member: str) -> None:
        self.member = member
        self.news: deque[News] = deque()
        self.is_forgotten = False  # the server has lost its data
        self.wake: anyio.Event | None = None  # while it waits
        self.waits_for_answer = False  # to a request
        self._feed = feed

    async def next(self) -> News | None:
        """The next news; None if the server has not answered for long, or has lost its data. May be
        cancelled."""
        while not self.news:
            if self._feed.is_silent or self.is_forgotten:
                return None
            await self._feed.wait(self)
        return self.news.popleft()

    def tell(self, news: News) -> None:
        self.news.append(news)
        self.stir()

    def stir(self) -> None:
        if self.wake is not None:
            self.wake.set()


class EarlyNews:
    """News about attempts that nobody listens to yet: those of a run that another process has begun, which
    are joined one after the other. So the stream is read once, not once for each of them."""

    def __init__(self) -> None:
        self._kept: dict[str, list[News]] = {}
        self._incomplete: set[str] = set()  # attempts of which not all early news are kept
        self._size = 0

    def keep(self, news: News) -> None:
        if news.member in self._incomplete:
            return
        if self._size > MOST_EARLY:
            self.drop(news.member)
            return
        self._kept.setdefault(news.member, []).append(news)
        self._size += len(news.data)

    def take(self, member: str) -> list[News] | None:
        """All early news about an attempt that has a listener now; None if they have to be read again."""
        found = self._kept.pop(member, [])
        self._size -= sum(len(each.data) for each in found)
        return None if member in self._incomplete else found

    def drop(self, member: str) -> None:
        """Keep no news about an attempt, of which some are gone."""
        self.take(member)
        self._incomplete.add(member)


class Feed:
    """The stream of one run. One of those who wait reads it for all of them, in a thread."""

    def __init__(self, ledger: Ledger, run: str) -> None:
        self.ledger = ledger
        self.run = run
        self.position = START  # the last news that was passed on
        self.is_silent = False
        self.is_begun = False  # something was submitted
        self.chore: Callable[[], None] = lambda: None  # called in a thread, now and then
        self.after_read: Callable[[], None] = lambda: None  # called on the event loop
        # What the server refused the last time, or why it was silent.
        self.trouble: Exception | None = None
        self._trouble_since = 0.0
        self._refusal: Exception | None = None  # what it refused when it was last looked after
        self.recorded = RecordedTasks(ledger, run)
        self.early = EarlyNews()
        self._is_wiped = False
        self._listeners: dict[str, Listener] = {}
        self._requests: deque[Request] = deque()
        self._is_reading = False
        self._answered_at = time.monotonic()
        self._gives_up_at = float("inf")  # if the server does not answer
        self._expired_at = 0.0

    def listen(self, member: str) -> Listener:
        """Get the news about an attempt from now on. The reverse is `leave`."""
        made = self._listeners[member] = Listener(self, member)
        return made

    def leave(self, listener: Listener) -> None:
        if self._listeners.get(listener.member) is listener:
            del self._listeners[listener.member]
            self.early.drop(listener.member)

    def request(self, call: Request) -> None:
        """Have something sent to the server soon, in order; it is repeated until it succeeds."""
        self._requests.append(call)

    def hurry(self, seconds: float) -> None:
        """Give up a server that does not answer so many seconds from now: the user waits for the end."""
        self._gives_up_at = min(self._gives_up_at, time.monotonic() + seconds)

    async def ask(self, listener: Listener, call: Callable[[], T]) -> T | None:
        """The value of such a request; None if the server does not answer."""
        answers: list[T] = []
        self.request(lambda: answers.append(call()))
        listener.waits_for_answer = True
        try:
            while not (answers or self.is_silent or listener.is_forgotten):
                await self.wait(listener)
        finally:
            listener.waits_for_answer = False
        return answers[0] if answers else None

    async def wait(self, listener: Listener) -> None:
        """Wait until there may be news for this listener."""
        if self._has_reader():
            listener.wake = wake = anyio.Event()
            try:
                await wake.wait()
            except BaseException:
                if wake.is_set() and not self._has_reader():  # it was to read on, but is cancelled
                    self._appoint_next(listener)
                raise
            finally:
                listener.wake = None
            return
        await anyio.lowlevel.checkpoint_if_cancelled()  # reading itself cannot be cancelled
        if self._has_reader():
            return
        self._is_reading = True
        try:
            self._pass_on(await in_thread(self._read))
        finally:
            self._is_reading = False
            self._appoint_next(listener)

    @property
    def trouble_lasts(self) -> float:
        """Seconds for which there has been trouble with the server."""
        return time.monotonic() - self._trouble_since if self.trouble is not None else 0.0

    def _note_trouble(self, error: Exception | None) -> None:
        if self.trouble is None:
            self._trouble_since = time.monotonic()
        self.trouble = error

    def _has_reader(self) -> bool:
        return self._is_reading

    def _appoint_next(self, last: Listener) -> None:
        """Somebody else reads on, since the last one may be about to leave."""
        for each in self._listeners.values():
            if each is not last and each.wake is not None and not each.wake.is_set():
                each.wake.set()
                return

    def _pass_on(self, found: list[News]) -> None:
        self.after_read()
        if self._is_wiped:
            self._is_wiped, self.is_begun, self.position = False, False, START
            self.early = EarlyNews()
            self.recorded.start_over()
            for each in self._listeners.values():
                each.is_forgotten = True
        for news in found:
            self.position = news.id
            self.recorded.see(news)
            if listener := self._listeners.get(news.member):
                listener.tell(news)
            elif not self.recorded.has(news):
                self.early.keep(news)
        for each in self._listeners.values():
            if self.is_silent or each.is_forgotten or each.waits_for_answer:
                each.stir()

    def _read(self) -> list[News]:
        """In a thread: do what was asked for, and wait for news."""
        try:
            while self._requests:
                self._requests[0]()
                self._requests.popleft()
            now = time.monotonic()
            if now - self._expired_at >= EXPIRE_INTERVAL:
                self._expired_at = now
                self._refusal = self._look_after()
                if self.is_begun and not self.ledger.knows(self.run):
                    self._is_wiped = True
                    return []
            found = self.ledger.read_news(self.run, self.position, wait=BLOCK)
        except Exception as error:  # noqa: BLE001 - the server is asked again
            self._note_trouble(error)
            if time.monotonic() < min(self._answered_at + MAX_SILENCE, self._gives_up_at):
                time.sleep(RETRY_PAUSE)
                return []
            self.is_silent = True
            return []
        self._answered_at, self._gives_up_at = time.monotonic(), float("inf")
        self.is_silent = False
        self._note_trouble(self._refusal)
        return found

    def _look_after(self) -> Exception | None:
        """What is done now and then; the error if the server refuses it, as when its memory is full.
        There may be news all the same."""
        try:
            self.recorded.delete()  # which makes room, too
            self.ledger.expire(self.run)
            self.chore()
        except Exception as error:  # noqa: BLE001 - it is tried again
            return error
        return None
