"""An attempt, from its submission to its end, as the process sees it that has submitted it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import msgspec

from clinvk.cluster import payload
from clinvk.cluster.ledger.ledger import Ledger, News
from clinvk.cluster.limits.of_nodes import limit_failure, local_time
from clinvk.cluster.submitter.feed import Feed, Listener
from clinvk.cluster.submitter.sent import Sent
from clinvk.config.cluster_values import show_remote
from clinvk.engine.executor import Reporter, RunningRequest
from clinvk.model.result import EXIT_CODES, Failure, Result
from clinvk.process.threads import in_thread

# Seconds that a server gets to answer once the user has cancelled the run, and has done so again.
CANCEL_PATIENCE = 10.0
STOP_PATIENCE = 2.0
# Seconds for which the changes of an attempt are fetched then.
FETCH_PATIENCE = 5.0
UNANSWERED = "Redis does not answer, so a worker may still start it once it does"


class Submitter(Protocol):
    """What has submitted an attempt, and can send it to another worker."""

    ledger: Ledger
    feed: Feed

    def took(self, sent: Sent) -> None:
        """A worker has taken it."""

    def is_news(self, node: str, reason: str) -> bool:
        """Whether nothing was said yet of the refusals of a node for this reason."""
        ...

    async def elsewhere(self, sent: Sent, reporter: Reporter) -> bool:
        """Send an attempt that nodes have refused to one that has not; False if there is none."""
        ...


class Following:
    """An attempt of a worker, as the submitter sees it."""

    def __init__(
        self, submitter: Submitter, sent: Sent, reporter: Reporter, listener: Listener
    ) -> None:
        self.submitter = submitter
        self.sent = sent
        self.reporter = reporter
        self.listener = listener
        self.node = ""
        self.fetching = anyio.CancelScope(shield=True)  # in which its changes are fetched
        self._patience = float("inf")  # seconds for that
        self._started = False
        self._result: Result | None = None

    async def result(self) -> Result:
        """Its result, once it has ended."""
        while self._result is None:
            news = await self.listener.next()
            if news is None:
                return self._out_of_sight()
            await self._follow(news)
        return self._result

    def limit_fetching(self) -> None:
        """Let fetching its changes end soon, if the user has cancelled it."""
        end = anyio.current_time() + self._patience
        self.fetching.deadline = min(self.fetching.deadline, end)

    async def withdraw(self) -> None:
        """Cancel it; returns once it has ended, if it has started, or if the server does not answer. What it
        has changed is not fetched."""
        self.submitter.feed.hurry(CANCEL_PATIENCE)
        state = await self._ask_to_end()
        if state is None:
            self.reporter.on_notice(f"cancelled, but {UNANSWERED}")
        if state != "running":
            return
        while self._result is None and (news := await self.listener.next()) is not None:
            if news.kind in ("started", "notice", "ended", "lost", "killed"):
                await self._follow(news)
            elif news.kind == "refused" and await self._ask_to_end() != "running":
                return
        made = self._result.worktree if self._result is not None else None
        if made is not None and made.is_changed and self.sent.remote:
            where = show_remote(self.sent.remote)
            self.reporter.on_notice(
                f"its changes were not fetched; they are safe in {where}: git fetch {where} {made.ref}:{made.ref}"
            )

    async def _ask_to_end(self) -> str | None:
        """Its state: "withdrawn" if it will never be started; None if the server does not answer."""
        # The connection of the feed gives up early.
        feed = self.submitter.feed
        cancel = partial(feed.ledger.cancel, self.sent.attempt, "cancelled", now=False)
        return await feed.ask(self.listener, cancel)

    async def _withdraw_unless_taken(self) -> str:
        """Its state, as above. It goes on if a worker has it, such as one that has just joined."""
        ledger, attempt = self.submitter.ledger, self.sent.attempt
        return await in_thread(partial(ledger.withdraw, attempt))

    async def _follow(self, news: News) -> None:
        match news.kind:
            case "claimed":
                self.node = news.data.decode()
                self.submitter.took(self.sent)
                await self.reporter.on_node(self.node)
            case "started":
                self._start(msgspec.json.decode(news.data))
            case "event":
                event = payload.event_from_json_line(news.data)
                if event is not None:
                    await self.reporter.on_event(event)
            case "notice":
                self.reporter.on_notice(str(msgspec.json.decode(news.data)))
            case "refused":
                await self._on_refusal(msgspec.json.decode(news.data))
            case "ended":
                self._result = payload.result_from_json(news.data)
            case "lost":
                node = news.data.decode()
                self._result = self._lost(f"the worker {node} was lost while it ran")
            case "killed":
                node = news.data.decode()
                self._result = self._lost(f"the Celery worker that ran it on {node} was killed")

    def _start(self, said: dict[str, Any]) -> None:
        if self._started:
            return
        self._started = True
        cwd = said.get("cwd")
        self.reporter.on_started(
            RunningRequest(
                cancel=self._cancel, session_id=said.get("session"), cwd=Path(cwd) if cwd else None
            )
        )

    def _cancel(self, reason: str = "cancelled", *, now: bool = False) -> None:
        feed = self.submitter.feed
        feed.hurry(STOP_PATIENCE if now else CANCEL_PATIENCE)
        self._patience = min(self._patience, STOP_PATIENCE if now else FETCH_PATIENCE)
        if self._result is not None:
            self.limit_fetching()
        feed.request(partial(feed.ledger.cancel, self.sent.attempt, reason, now=now))

    async def _on_refusal(self, said: dict[str, Any]) -> None:
        node, reason = str(said.get("node")), str(said.get("reason"))
        if "limit" in said:
            self.sent.limited[node] = said["limit"]
        else:
            self.sent.refusals[node] = reason
        if self.submitter.is_news(node, reason):
            self.reporter.on_notice(f"not on {node}: {reason}")
        if await self.submitter.elsewhere(self.sent, self.reporter):
            await self.reporter.on_node("")
            return
        if await self._withdraw_unless_taken() != "withdrawn":
            return
        if self.sent.limited:
            self._result = await self._at_limit()
        else:
            reasons = "; ".join(f"{n}: {why}" for n, why in self.sent.refusals.items())
            failure = Failure("not_started", f"no worker can run it: {reasons}")
            self._result = Result(
                ok=False, text="", backend=self.sent.backend, exit_code=1, error=failure
            )

    async def _at_limit(self) -> Result:
        """The result of an attempt that all workers have refused, some of them because their accounts
        are at a rate limit."""
        sent, ledger = self.sent, self.submitter.ledger
        known = [until for until in sent.limited.values() if until is not None]
        until = await in_thread(lambda: local_time(ledger.client, min(known))) if known else None
        failure = limit_failure(sent.backend, until, sent.refusals)
        return Result(
            ok=False, text="", backend=sent.backend, exit_code=EXIT_CODES["limit"], error=failure
        )

    def _out_of_sight(self) -> Result:
        """The result if the server can no longer say it."""
        if not self.listener.is_forgotten:
            return self._lost("Redis cannot be reached any more, while it may be running")
        if self.node:
            return self._lost("Redis has lost its data, so the worker has stopped it")
        failure = Failure("not_started", "Redis has lost its data before a worker took it")
        return Result(ok=False, text="", backend=self.sent.backend, exit_code=1, error=failure)

    def _lost(self, what: str) -> Result:
        failure = Failure(
            "indeterminate", f"{what}; the work may be partly done",
            "check what it did; run it again with --rerun-indeterminate",
        )  # fmt: skip
        return Result(ok=False, text="", backend=self.sent.backend, exit_code=1, error=failure)
