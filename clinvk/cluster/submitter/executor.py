"""Runs the attempts of a run on the workers of a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from msgspec.structs import replace

from clinvk import __version__
from clinvk.cluster import payload
from clinvk.cluster.files.exchange import Exchange
from clinvk.cluster.keys import AttemptId, native_session, queue_of
from clinvk.cluster.ledger.ledger import Ledger, News
from clinvk.cluster.nodes import Nodes, NodeState, why_waiting
from clinvk.cluster.server_errors import Outage
from clinvk.cluster.submitter.feed import MAX_SILENCE, RETRY_PAUSE, Feed, Listener
from clinvk.cluster.submitter.following import Following
from clinvk.cluster.submitter.sent import Sent
from clinvk.config.cluster_values import show_remote
from clinvk.engine.executor import Allowance, LocalExecutor, Reporter
from clinvk.errors import ClinvkError, SessionError
from clinvk.model.progress import WAITING_FOR_ONE
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result
from clinvk.model.session_ref import SessionById
from clinvk.process.threads import in_thread
from clinvk.worktrees.git import stopping_git

if TYPE_CHECKING:
    from celery import Celery

    from clinvk.dispatch.dispatcher import Dispatcher

RESEND_AFTER = 3.0  # seconds in which no worker has taken an attempt though its queue is empty
TROUBLE_AFTER = 5.0  # seconds without the server, after which that is reported
NOBODY_AFTER = 5.0  # seconds without a worker for a backend, after which that is reported
LOOK_INTERVAL = 3.0  # seconds between looks at the nodes for that
# Of the node that has the native session of a task.
GONE = "which is not connected; another worker starts it over from the transcript"


class ClusterExecutor:
    """Runs requests on the workers. An attempt that is known already, from a process that was
    killed, is joined, not started again."""

    waits_for_workers = True

    def __init__(
        self,
        ledger: Ledger,
        news: Ledger,
        app: Celery,
        dispatcher: Dispatcher,
        run: str | None,
        exchange: Exchange,
        outage: Outage,
    ) -> None:
        """`news` is the same ledger on a connection that gives up early. `run` is the id of the run;
        None if it is ephemeral. `exchange` is for files that come by git."""
        self.ledger = ledger
        self.app = app
        self.dispatcher = dispatcher
        self.run_id = run or f"e{os.urandom(8).hex()}"
        self.feed = Feed(news, self.run_id)
        self.feed.chore = self._look_after_waiting
        self.feed.after_read = self._pass_notices_on
        self._waiting: dict[str, tuple[Sent, Reporter]] = {}
        self._notices: list[tuple[Reporter, str]] = []
        self._allowance: Allowance | None = None  # that workers know, or will
        self._told: set[tuple[str, str]] = set()
        self._looked_at = 0.0  # at the nodes
        self._count = 0
        self._exchange = exchange
        self._outage = outage
        self._is_refused = False  # the last attempt that was submitted
        self._reporters: dict[str, Reporter] = {}  # of the attempts that are followed
        self._submitting: anyio.CapacityLimiter | None = None
        self._exchange_limit: anyio.CapacityLimiter | None = None

    async def describe(self, request: Request) -> str:
        return await LocalExecutor(self.dispatcher).describe(request)

    def share_allowance(self, allowance: Allowance) -> None:
        if allowance == self._allowance:
            return
        self._allowance = allowance
        data = msgspec.json.encode(allowance)
        self.feed.request(partial(self.feed.ledger.set_allowance, self.run_id, data))

    async def run(self, request: Request, reporter: Reporter) -> Result:
        attempt = self._attempt_of(request)
        request = await self._publish(request)
        listener = self.feed.listen(attempt.member)
        self._reporters[attempt.member] = reporter
        try:
            following = await self._submit(attempt, request, reporter, listener)
            if isinstance(following, Result):
                return following
            try:
                result = await following.result()
                return await self._collect(request, result, reporter, following)
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await following.withdraw()
                raise
        finally:
            self._waiting.pop(attempt.member, None)
            self._reporters.pop(attempt.member, None)
            self.feed.leave(listener)

    def forget(self, task: int) -> None:
        """The task is recorded, with all attempts at it, so nobody needs the news about them."""
        self.feed.recorded.record(task)

    async def close(self) -> None:
        """The run has ended. What cannot be deleted now is deleted by the server, in a week."""
        with suppress(Exception):  # whatever it is, the run is complete
            await in_thread(self.feed.recorded.delete)

    async def _publish(self, request: Request) -> Request:
        """The request, whose files are in the remote if they come by git. Raises `ClinvkError`."""
        task = request.worktree
        if task is None or not task.wanted.remote:
            return request
        async with self._exchanging():
            published = await stopping_git(lambda: self._exchange.publish(task))
        return request.replace(worktree=published)

    async def _collect(
        self, request: Request, result: Result, reporter: Reporter, following: Following
    ) -> Result:
        """The result, whose changes are in the user's repository. If they cannot be fetched, the task
        has failed, and the message says where they are. If the user does not want to wait for that, they
        are fetched once they are needed."""
        task, saved = request.worktree, result.worktree
        if task is None or saved is None or not task.wanted.remote:
            return result
        following.limit_fetching()
        with following.fetching as scope:
            try:
                async with self._exchanging():
                    await stopping_git(lambda: self._exchange.collect(task, saved))
            except ClinvkError as error:
                if result.error is not None:
                    reporter.on_notice(error.message)
                    return result
                failure = Failure("error", error.message, error.hint)
                return replace(result, ok=False, error=failure, exit_code=error.exit_code)
        if scope.cancelled_caught:
            reporter.on_notice(
                f"its changes were not fetched, since the run was cancelled; they are safe in "
                f"{show_remote(task.wanted.remote)}, and fetched by: clinvk runs diff {self.run_id}"
            )
        return result

    def _exchanging(self) -> anyio.CapacityLimiter:
        """Held while files are exchanged, one after the other: waiting for that needs no thread."""
        if self._exchange_limit is None:
            self._exchange_limit = anyio.CapacityLimiter(1)
        return self._exchange_limit

    def _attempt_of(self, request: Request) -> AttemptId:
        """Which attempt a request is: it says so, unless the run is ephemeral."""
        if request.attempt is not None:
            return AttemptId(self.run_id, *request.attempt)
        self._count += 1
        return AttemptId(self.run_id, self._count - 1, 1)

    async def _submit(
        self, attempt: AttemptId, request: Request, reporter: Reporter, listener: Listener
    ) -> Following | Result:
        """Put it into the ledger and the queue, or join it; the result if the server does not accept
        it."""
        # 60 ms, and an extra.
        from redis import RedisError

        if request.cwd is None and not isinstance(request.session_ref, SessionById):
            request = request.replace(cwd=Path.cwd())
        data = payload.request_to_json(request)
        backend = request.to or request.backend or ""
        position, early = self.feed.position, self.feed.early.take(attempt.member)
        is_sent = True

        def submit() -> tuple[str, str | None, list[News]]:
            nonlocal is_sent
            said = self.ledger.submit(
                attempt, data, payload.PROTOCOL, __version__, is_first=not self.feed.is_begun
            )
            node = self._home_of(request, reporter, backend)
            queue = queue_of(backend, node, request.labels)
            if said in ("new", "queued"):
                is_sent = self._has_sent(attempt, queue)
            if said == "new" or early is not None:
                return said, node, [] if said == "new" else early or []
            first = self.ledger.first_news(attempt)
            if first is None or _order(first) > _order(position):
                return said, node, []
            earlier = self.ledger.news_between(self.run_id, first, position, attempt.member)
            return said, node, earlier

        try:
            said, node, earlier = await self._patiently(submit, reporter)
        except RedisError as error:
            failure = self._outage.failure(error)
            return Result(ok=False, text="", backend=backend, exit_code=1, error=failure)
        if said == "busy":
            raise SessionError(
                "an earlier attempt at this task may still be running on a worker",
                "wait until it has ended, or its lease has expired",
            )
        if said == "stale":
            raise SessionError(
                "a later attempt at this task was started", "another process may drive the run"
            )
        self.feed.is_begun = True
        listener.news.extendleft(reversed(earlier))
        queue = queue_of(backend, node, request.labels)
        remote = request.worktree.wanted.remote if request.worktree else ""
        sent = Sent(attempt, backend, queue, node, request.labels, remote)
        sent.is_sent = is_sent
        if said in ("new", "queued"):
            self._waiting[attempt.member] = sent, reporter
        return Following(self, sent, reporter, listener)

    def _home_of(self, request: Request, reporter: Reporter, backend: str) -> str | None:
        """The node whose CLI has the session that the request continues, if it is there."""
        if not isinstance(request.session_ref, SessionById):
            return None
        node = self.ledger.home_of(native_session(request.session_ref.text, backend))
        if node is None or node in self.ledger.live_nodes(backend):
            return node
        self._notices.append((reporter, f"its session is on {node}, {GONE}"))
        return None

    async def _in_turn(self, call: Callable[[], Any]) -> Any:
        """The value of a call, made in a thread, after those before it: workers get attempts in the
        order of the plan."""
        if self._submitting is None:
            self._submitting = anyio.CapacityLimiter(1)
        async with self._submitting:
            return await in_thread(call)  # once it has begun, it is not cancelled

    async def _patiently(self, call: Callable[[], Any], reporter: Reporter) -> Any:
        """The same, repeated for a while if the server does not take it."""
        # 60 ms, and an extra.
        from redis import RedisError

        deadline = time.monotonic() + MAX_SILENCE
        while True:
            try:
                found = await self._in_turn(call)
                self._is_refused = False
                return found
            except RedisError as error:
                if time.monotonic() > deadline:
                    raise
                self._is_refused = True
                self._outage.tell(error, reporter.on_notice)
            await anyio.sleep(RETRY_PAUSE)

    def _send(self, attempt: AttemptId, queue: str) -> None:
        # Celery, 0.4 s.
        from clinvk.cluster.app import send

        send(self.app, attempt, queue)

    def _has_sent(self, attempt: AttemptId, queue: str) -> bool:
        """Send it; False if that has to be repeated."""
        try:
            self._send(attempt, queue)
        except Exception:  # noqa: BLE001 - of Celery and its transport
            return False
        return True

    def took(self, sent: Sent) -> None:
        """A worker has taken it."""
        self._waiting.pop(sent.attempt.member, None)

    async def elsewhere(self, sent: Sent, reporter: Reporter) -> bool:
        """Send an attempt that nodes have refused to one that has not; False if there is none."""

        def resend() -> bool:
            others = [
                node
                for node in self._fitting_nodes(sent)
                if node not in sent.refusals and node not in sent.limited
            ]
            if others:
                node = others[sent.attempt.task % len(others)]  # not all of them on one
                sent.node, sent.target = None, node
                sent.queue = queue_of(sent.backend, node)
                sent.at = time.monotonic()
                sent.is_sent = self._has_sent(sent.attempt, sent.queue)
            return bool(others)

        self._waiting[sent.attempt.member] = sent, reporter
        return bool(await self._in_turn(resend))

    def _fitting_nodes(self, sent: Sent) -> list[str]:
        """The nodes that are there, and run such tasks."""
        live = self.ledger.live_nodes(sent.backend)
        if not sent.labels:
            return live
        known = {state.name: state.node.labels for state in self._nodes()}
        return [name for name in live if set(sent.labels) <= set(known.get(name, ()))]

    def _nodes(self) -> list[NodeState]:
        return Nodes(self.ledger.client, self.ledger.keys).read_facts()

    def is_news(self, node: str, reason: str) -> bool:
        """Whether the user has not been told yet that this node refuses tasks for this reason."""
        is_new = (node, reason) not in self._told
        self._told.add((node, reason))
        return is_new

    def _pass_notices_on(self) -> None:
        """Pass on what was noticed in a thread."""
        while self._notices:
            reporter, text = self._notices.pop()
            reporter.on_notice(text)
        trouble = self.feed.trouble
        if trouble is None and not self._is_refused:
            self._outage.end()
        elif trouble is not None and self._reporters and self.feed.trouble_lasts > TROUBLE_AFTER:
            self._outage.tell(trouble, next(iter(self._reporters.values())).on_notice)

    def _look_after_waiting(self) -> None:
        """In a thread: send attempts again whose message was lost with a worker that was killed; the
        ledger lets only one of two messages count. Notice those that no worker will ever take."""
        now = time.monotonic()
        late = [pair for pair in list(self._waiting.values()) if now - pair[0].at > RESEND_AFTER]
        for queue in {sent.queue for sent, _ in late}:
            is_empty = not self.ledger.waiting(queue)
            for sent, _ in late:
                is_due = is_empty or not sent.is_sent or now - sent.at > sent.patience
                if sent.queue == queue and is_due:
                    if not is_empty and sent.is_sent:
                        sent.patience *= 2  # a queue may be hours long, with all its messages there
                    self._send(sent.attempt, sent.queue)
                    sent.at, sent.is_sent = now, True
        for sent, reporter in late:
            self._leave_gone_node(sent, reporter)
        lonely = [pair for pair in late if now - pair[0].since > NOBODY_AFTER]
        if not lonely or now - self._looked_at < LOOK_INTERVAL:
            return
        self._looked_at = now
        there = self._nodes()
        for sent, reporter in lonely:
            waiting = why_waiting(sent.need, there)
            reason = waiting.reason if waiting and waiting.for_good else ""
            if reason and reason != sent.told:
                self._notices.append((reporter, f"{reason}; {WAITING_FOR_ONE}"))
            sent.told = reason

    def _leave_gone_node(self, sent: Sent, reporter: Reporter) -> None:
        """Send an attempt to all nodes if it waits in the queue of one that is gone."""
        if sent.target is None or sent.target in self.ledger.live_nodes(sent.backend):
            return
        if sent.node is not None:
            self._notices.append((reporter, f"its session is on {sent.node}, {GONE}"))
        sent.node = sent.target = None
        sent.limited.clear()
        sent.queue = queue_of(sent.backend, None, sent.labels)
        self._send(sent.attempt, sent.queue)
        sent.at, sent.is_sent = time.monotonic(), True


def _order(place: str) -> tuple[int, int]:
    """A place in a stream, to be compared."""
    milliseconds, _, number = place.partition("-")
    return int(milliseconds), int(number or 0)
