"""The outcome of each task of a run, and the result of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from clinvk.model.candidates.ranking import Ranking
from clinvk.model.conversion import convert
from clinvk.model.result import EXIT_CODES, NOT_NEEDED, Failure, WorktreeResult, plain
from clinvk.model.usage import Usage, rfc3339

if TYPE_CHECKING:
    from clinvk.model.checks.check import CheckResult
    from clinvk.model.checks.progress import CheckProgress

VERSION = 1  # of the JSON objects below

# The states of a task. `waiting`: a rate limit was reached, and the run did not wait for its end.
# `indeterminate`: it was interrupted, and how far it got is unknown. `skipped`: a task that it
# needs failed.
ENDED_STATES = ("done", "failed", "skipped", "cancelled", "waiting", "indeterminate")
ACTIVE_STATES = ("queued", "running")
STATES = (*ENDED_STATES, *ACTIVE_STATES)
MARKS = {"done": "✓", "failed": "✗", "skipped": "–", "cancelled": "–", "waiting": "…",
         "indeterminate": "?", "running": "▸", "queued": "·"}  # fmt: skip

COST_SOURCES = {True: "reported", False: "partly reported"}


class Outcome(Struct, frozen=True, kw_only=True):
    """The state of a task. `output` is only set on request: see `RunResult`."""

    index: int  # its place in the plan, from 0
    name: str
    key: str = ""  # its name as the end of that of its session, and of its file
    state: str = "queued"
    backend: str | None = None
    node: str | None = None  # the worker of a cluster that has taken its last attempt
    model: str | None = None
    session_id: str | None = None
    output: str = ""
    structured: Any = None
    error: Failure | None = None
    seconds: float = 0.0  # of its last attempt
    exit_code: int | None = None
    usage: Usage | None = None  # of all its attempts
    cost: float | None = None  # US dollars, of all its attempts, where all were reported
    attempts: int = 0
    started_at: datetime | None = None  # its last attempt
    ended_at: datetime | None = None
    tags: tuple[str, ...] = ()
    meta: Any = None
    worktree: WorktreeResult | None = None  # of its last attempt, if it ran in one
    check: CheckResult | None = None  # of its work, after its last turn
    check_progress: CheckProgress | None = None  # of a task that is not done yet
    candidate_of: str | None = None  # the name of the task that chooses between it and others
    decision: Ranking | None = None  # of its candidates, if it has chosen between them
    is_sent: bool = False  # to the workers of a cluster, though none has taken it yet

    @property
    def ok(self) -> bool:
        return self.state == "done"

    @property
    def is_free(self) -> bool:
        """Whether it chose between candidates without asking a judge."""
        return self.decision is not None and self.usage is None and self.cost is None

    @property
    def is_not_needed(self) -> bool:
        """Whether it was skipped because its loop had ended before."""
        return self.state == "skipped" and self.error is not None and self.error.kind == NOT_NEEDED

    @property
    def is_settled(self) -> bool:
        """Whether nothing is wrong or left to do."""
        return self.ok or self.is_not_needed

    def to_json(self) -> dict[str, Any]:
        cost = None if self.cost is None else {"usd": self.cost, "source": "reported"}
        return {
            "index": self.index,
            "name": self.name,
            "key": self.key,
            "state": self.state,
            "backend": self.backend,
            "model": self.model,
            "session_id": self.session_id,
            "output": self.output,
            "structured": self.structured,
            "error": plain(self.error),
            "check": plain(self.check),
            "duration_seconds": round(self.seconds, 3),
            "exit_code": self.exit_code,
            "usage": plain(self.usage),
            "cost": cost,
            "attempts": self.attempts,
            "started_at": rfc3339(self.started_at) if self.started_at else None,
            "ended_at": rfc3339(self.ended_at) if self.ended_at else None,
            "tags": list(self.tags),
            "meta": self.meta,
            **({"node": self.node} if self.node is not None else {}),
            **({"worktree": self.worktree.to_json()} if self.worktree else {}),
            **({"candidate_of": self.candidate_of} if self.candidate_of is not None else {}),
            **({"decision": self.decision.to_json()} if self.decision else {}),
        }


class RunResult(Struct, frozen=True, kw_only=True):
    """The result of a run. `state` is one of: done, failed, cancelled, waiting, interrupted (its
    clinvk was killed), running, queued (a detached one, which no worker has begun)."""

    id: str | None  # None if the run is ephemeral
    kind: str
    state: str
    results: tuple[Outcome, ...]
    seconds: float
    why: str | None = None  # why it stopped early
    source: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    # Of the candidates of a comparison, by their position: what `--score` has printed for them. Set
    # as `output` is.
    scores: Mapping[int, float] = {}
    lowest_wins: bool = False
    where: str = ""  # the flags with which a command finds the run, to be shown

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def tasks(self) -> tuple[Outcome, ...]:
        """The results without those of candidates: the task that chooses between them counts."""
        return without_candidates(self.results)

    @property
    def settled_candidates(self) -> frozenset[int]:
        """The positions of candidates whose task has chosen one of them."""
        return frozenset(
            c.index for o in self.results if o.ok and o.decision for c in o.decision.candidates
        )

    @property
    def listed(self) -> tuple[Outcome, ...]:
        """The results that people see: without those of candidates for a round of a loop that was not
        needed, of which the step itself says so."""
        return tuple(o for o in self.results if o.candidate_of is None or not o.is_not_needed)

    @property
    def answers(self) -> tuple[Outcome, ...]:
        """The results without those of candidates whose task has chosen one of them: it has the same
        answer."""
        settled = self.settled_candidates
        return tuple(o for o in self.results if o.index not in settled)

    @property
    def counts(self) -> dict[str, int]:
        """The number of tasks in each state, without states that have none, and without
        candidates."""
        return count_states(outcome.state for outcome in self.tasks)

    @property
    def has_nodes(self) -> bool:
        """Whether workers of a cluster ran some of it."""
        return any(outcome.node is not None for outcome in self.results)

    @property
    def usage(self) -> Usage | None:
        known = [o.usage for o in self.results if o.usage is not None]
        return sum(known[1:], known[0]) if known else None

    @property
    def cost(self) -> float | None:
        """The reported US dollars; None if none were reported."""
        known = [o.cost for o in self.results if o.cost is not None]
        return sum(known) if known else None

    @property
    def is_cost_whole(self) -> bool:
        """Whether each task that was started reported its cost."""
        return all(o.cost is not None for o in self.results if o.attempts and not o.is_free)

    @property
    def exit_code(self) -> int:
        """The exit code: 0 all succeeded, 1 any failed, 7 cancelled, 65 the only failures are failed
        checks, 75 the rest waits for a rate limit."""
        return run_exit_code(self.state, self.results)

    def to_json(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "version": VERSION,
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "why": self.why,
            "source": self.source,
            "started_at": rfc3339(self.started_at) if self.started_at else None,
            "ended_at": rfc3339(self.ended_at) if self.ended_at else None,
            "total_tasks": len(self.tasks),
            "completed": counts.get("done", 0),
            **{state: counts.get(state, 0) for state in ENDED_STATES[1:]},
            "total_duration_seconds": round(self.seconds, 3),
            "usage": plain(self.usage),
            "cost": None
            if self.cost is None
            else {"usd": self.cost, "source": COST_SOURCES[self.is_cost_whole]},
            "exit_code": self.exit_code,
            "results": [outcome.to_json() for outcome in self.results],
        }


def until_taken(outcome: Outcome) -> Outcome:
    """The outcome as it is shown: a task that was sent to the workers of a cluster has not started
    before one of them has taken it."""
    if not (outcome.is_sent and outcome.state == "running"):
        return outcome
    return replace(outcome, state="queued", attempts=max(0, outcome.attempts - 1), seconds=0.0)


def with_node(outcome: Outcome, node: str, at: datetime) -> Outcome:
    """The outcome of a running task once a worker of a cluster has taken it; or, without a `node`, has
    passed it on."""
    if not node:
        return replace(outcome, node=None, started_at=None, is_sent=True)
    return replace(outcome, node=node, started_at=outcome.started_at or at, is_sent=False)


def without_candidates(outcomes: Iterable[Outcome]) -> tuple[Outcome, ...]:
    return tuple(o for o in outcomes if o.candidate_of is None)


def count_states(states: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = dict.fromkeys(STATES, 0)
    for state in states:
        counts[state] += 1
    return {state: n for state, n in counts.items() if n}


def format_counts(counts: Mapping[str, int]) -> str:
    """`2 done, 1 failed`."""
    return ", ".join(f"{n:,} {state}" for state, n in counts.items())


def run_exit_code(state: str, outcomes: Iterable[Outcome]) -> int:
    if state == "cancelled":
        return EXIT_CODES["cancelled"]
    bad = [o for o in without_candidates(outcomes) if not o.is_settled]
    if not bad:
        return 0
    if all(_is_goal_failure(o) or o.state == "skipped" for o in bad) and any(
        map(_is_goal_failure, bad)
    ):
        return EXIT_CODES["check"]
    limited = all(o.state == "waiting" or _is_limit_failure(o) or o.state == "skipped" for o in bad)
    waits = any(o.state == "waiting" or _is_limit_failure(o) for o in bad)
    return EXIT_CODES["limit"] if limited and waits else 1


def _is_goal_failure(outcome: Outcome) -> bool:
    """Whether only its check failed, or the loop that ended with it."""
    kind = outcome.error.kind if outcome.error else None
    return outcome.state == "failed" and kind in ("check", "loop")


def state_label(outcome: Outcome) -> str:
    """The state for people: `failed check` if only its check failed."""
    if _is_goal_failure(outcome) and outcome.error is not None:
        return f"failed {outcome.error.kind}"
    if outcome.is_not_needed:
        return "not needed"
    if outcome.ok and outcome.check is not None and outcome.check.state == "failed":
        return "done (check failed)"  # and the next round of its loop goes on from there
    if outcome.ok and outcome.check is not None and outcome.check.state == "unchanged":
        return "done (unchanged)"
    return outcome.state


def _is_limit_failure(outcome: Outcome) -> bool:
    return outcome.state == "failed" and outcome.error is not None and outcome.error.kind == "limit"


def outcome_summary(outcome: Outcome) -> dict[str, Any]:
    """The outcome as stored in a journal: everything except its output."""
    line = outcome.to_json()
    for name in ("index", "name", "key", "tags", "meta", "output", "structured"):
        del line[name]
    line.pop("candidate_of", None)  # the plan says that
    if outcome.error is not None:
        line["error"]["status"] = outcome.error.status
    return line


def outcome_from_summary(base: Outcome, line: Mapping[str, Any]) -> Outcome:
    """The reverse. Raises `ValueError`."""
    cost = line.get("cost")
    error = line.get("error")
    return replace(
        base,
        state=str(line["state"]),
        backend=line.get("backend"),
        node=line.get("node"),
        model=line.get("model"),
        session_id=line.get("session_id"),
        error=convert(error, Failure) if error else None,
        check=_read_check(line.get("check")),
        seconds=float(line.get("duration_seconds") or 0),
        exit_code=line.get("exit_code"),
        usage=Usage.from_json(line["usage"]) if line.get("usage") else None,
        cost=float(cost["usd"]) if cost else None,
        attempts=int(line.get("attempts") or 0),
        started_at=_parse_time(line.get("started_at")),
        ended_at=_parse_time(line.get("ended_at")),
        worktree=convert(line["worktree"], WorktreeResult) if line.get("worktree") else None,
        decision=convert(line["decision"], Ranking) if line.get("decision") else None,
    )


def outcome_from_json(line: Mapping[str, Any]) -> Outcome:
    """What `Outcome.to_json` made the object of. Raises `ValueError`, `KeyError`, `TypeError`."""
    base = Outcome(
        index=int(line["index"]), name=str(line["name"]), key=str(line.get("key") or ""),
        output=str(line.get("output") or ""), structured=line.get("structured"),
        tags=tuple(line.get("tags") or ()), meta=line.get("meta"),
        candidate_of=line.get("candidate_of"),
    )  # fmt: skip
    return outcome_from_summary(base, line)


def add_usage(before: Outcome, usage: Usage | None, cost: float | None) -> Outcome:
    """The outcome with the usage of its last attempt added to earlier ones. The total cost is
    unknown if one did not report it."""
    known = [u for u in (before.usage, usage) if u is not None]
    paid = cost
    if before.attempts > 1:
        paid = None if before.cost is None or cost is None else before.cost + cost
    return replace(before, usage=sum(known[1:], known[0]) if known else None, cost=paid)


def outcome_from_result(before: Outcome, result: Mapping[str, Any]) -> Outcome:
    """The outcome of a task whose last attempt ended with this result, an object of `-o json`.
    Raises `ValueError`."""
    said = outcome_from_summary(
        before, {**result, "state": "failed" if result.get("error") else "done"}
    )
    seconds = timedelta(seconds=said.seconds)
    return replace(
        add_usage(before, said.usage, said.cost),
        state=said.state, model=said.model, error=said.error, exit_code=said.exit_code,
        check=said.check,
        seconds=said.seconds, ended_at=before.started_at and before.started_at + seconds,
        worktree=said.worktree, decision=said.decision,
        backend=said.backend if said.decision else before.backend,
        session_id=said.session_id if said.decision else before.session_id,
    )  # fmt: skip


def _read_check(data: Any) -> CheckResult | None:
    if data is None:
        return None
    # Only for a task with a check.
    from clinvk.model.checks.check import check_from_json

    return check_from_json(data)


def _parse_time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
