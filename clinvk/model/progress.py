"""The changes of a run of many tasks, and their JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

from msgspec import Struct

from clinvk.model.events import Event, event_from_json
from clinvk.model.outcome import VERSION, Outcome, outcome_from_json, outcome_from_summary

Kind = Literal["started", "node", "event", "retry", "limit", "ended", "notice"]
KINDS: tuple[str, ...] = get_args(Kind)
WAITS = ("retry", "limit")  # kinds that a journal keeps
PREFIX = "task_"  # of the `type` of a line of `-o stream-json`
WAITING_FOR_ONE = "waiting for one"  # the end of the notice that no worker can run a task


class Change(Struct, frozen=True, kw_only=True):
    """A change of a run. `outcome` is the new state of the task; `event` an event of its backend;
    `node`: a worker of a cluster has taken it, or, if there is none, has passed it on; `until` when it or its backend is retried. `position` is set on changes of a run that is
    followed, which can be followed again from there."""

    kind: Kind
    outcome: Outcome | None = None
    event: Event | None = None
    until: datetime | None = None
    message: str = ""
    instead: str = ""  # what is done instead of waiting for the end of a rate limit
    position: str = ""

    def to_json(self, run_id: str | None = None) -> dict[str, Any]:
        """A line of `-o stream-json`. It names the task; all that is known of it is in the line
        of its end."""
        line: dict[str, Any] = {"version": VERSION, "type": PREFIX + self.kind, "run": run_id}
        if (o := self.outcome) is not None:
            line |= {"index": o.index, "name": o.name, "backend": o.backend, "attempt": o.attempts}
            if self.kind == "node":
                line["node"] = o.node
            if self.kind == "ended":
                line["result"] = o.to_json()
        if self.event is not None:
            line["event"] = self.event.to_json()
            del line["event"]["version"]
        if self.until is not None:
            line["until"] = self.until.isoformat()
        if self.message:
            line["message"] = self.message
        return line

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Change:
        """What such a line says; of an event of a kind that is not known, only that there was one.
        Raises `ValueError` if it is not the line of a change."""
        kind = str(line.get("type")).removeprefix(PREFIX)
        if kind not in KINDS or not str(line["type"]).startswith(PREFIX):
            raise ValueError(f"not a change of a run: {line.get('type')!r}")
        try:
            return cls(
                kind=kind,  # type: ignore[arg-type]  # it is one of KINDS
                outcome=_parse_outcome(kind, line),
                event=event_from_json(line["event"]) if "event" in line else None,
                until=datetime.fromisoformat(line["until"]) if "until" in line else None,
                message=str(line.get("message", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"invalid change of a run: {error!r}") from error

    def wait_to_json(self) -> dict[str, Any] | None:
        """What a journal keeps of a wait, in the line that tells where the task stands; None for
        other changes."""
        if self.kind not in WAITS or self.until is None:
            return None
        return {
            "kind": self.kind, "until": self.until.isoformat(), "message": self.message,
            "instead": self.instead,
        }  # fmt: skip

    @classmethod
    def wait_from_json(cls, line: Mapping[str, Any], outcome: Outcome) -> Change | None:
        """The wait that a line of a journal tells of; None if it tells of none, or of one of a
        newer kind. `outcome` is any of the same task."""
        wait = line.get("wait")
        if not isinstance(wait, dict) or wait.get("kind") not in WAITS:
            return None
        try:
            return cls(
                kind=wait["kind"],
                outcome=outcome_from_summary(outcome, line),
                until=datetime.fromisoformat(wait["until"]),
                message=str(wait.get("message") or ""),
                instead=str(wait.get("instead") or ""),
            )
        except (KeyError, TypeError, ValueError):
            return None


def is_lonely(change: Change) -> bool:
    """Whether it says that no worker can run a task. It is worth being said once, not for each task."""
    return change.kind == "notice" and change.message.endswith(WAITING_FOR_ONE)


def _parse_outcome(kind: str, line: Mapping[str, Any]) -> Outcome | None:
    if "index" not in line:
        return None
    if kind == "ended":
        return outcome_from_json(line["result"])
    is_queued = kind == "retry" or (kind == "node" and line.get("node") is None)
    return Outcome(
        index=int(line["index"]), name=str(line["name"]), backend=line.get("backend"),
        attempts=int(line.get("attempt") or 0), node=line.get("node"), state="queued" if is_queued else "running",
    )  # fmt: skip


def why_sent_wait(
    outcomes: Sequence[Outcome], ask: Callable[[Sequence[Outcome]], Mapping[int, str]]
) -> dict[int, str]:
    """Why the tasks that were sent to a cluster wait for a worker; nothing is asked if there are none."""
    sent = {o.index for o in outcomes if o.is_sent}
    return {i: why for i, why in ask(outcomes).items() if i in sent} if sent else {}
