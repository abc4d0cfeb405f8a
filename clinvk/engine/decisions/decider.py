"""Chooses between the candidates of a task, in place of running a prompt: it scores them, ranks them,
asks the judge if they are equally good, and ends with the result of the best one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager

from msgspec.structs import replace

from clinvk.engine.decisions.judge import Judge
from clinvk.engine.decisions.score import score_result
from clinvk.engine.executor import Executor, Reporter
from clinvk.model.candidates.ranking import Ranking
from clinvk.model.outcome import Outcome
from clinvk.model.plan import Decision, Plan, Worktree
from clinvk.model.request import Request
from clinvk.model.result import Failure, Result, WorktreeResult, exit_code
from clinvk.plans.ranking import equally_good, rank_candidates
from clinvk.process.threads import in_thread
from clinvk.runs.log import RunLog
from clinvk.text.sanitize import one_line
from clinvk.worktrees.results.prompt_text import diff_text

MAX_REASON_LENGTH = 200  # characters of the reason why a candidate failed


class Decider:
    """An `Executor` of the task `i`, whose candidates have all ended."""

    def __init__(
        self,
        plan: Plan,
        i: int,
        outcomes: Sequence[Outcome],
        executor: Executor,
        *,
        with_output: Callable[[Outcome], Outcome],
        env: Mapping[str, str],
        log: RunLog | None,
    ) -> None:
        """`outcomes` holds the state of each task. `executor` runs the turns of a judge. All programs
        that are started carry the marker in `env`."""
        self.plan = plan
        self.i = i
        self.task = plan.tasks[i]
        self.outcomes = outcomes
        self.executor = executor
        self.with_output = with_output
        self.env = env
        self.log = log

    @property
    def decision(self) -> Decision:
        assert self.task.decides is not None  # noqa: S101 - others are run by another executor
        return self.task.decides

    @property
    def candidates(self) -> list[Outcome]:
        return [self.outcomes[c] for c in self.decision.candidates]

    async def describe(self, request: Request) -> str:  # noqa: ARG002 - of the protocol
        return f"choose between {', '.join(o.name for o in self.candidates)}"

    async def run(self, request: Request, reporter: Reporter) -> Result:
        began = time.monotonic()
        scores = await self._scores(request, reporter)
        ranking = self._rank(scores)
        if ranking.winner is None:
            return self._failed(ranking, time.monotonic() - began)
        asked = None
        alike = equally_good(ranking)
        if self.decision.judge is not None and len(alike) > 1:
            waits = self.plan.rules.limits.action != "fail"
            judge = Judge(self.executor, request, reporter, tasks=len(self.plan.tasks), waits=waits)
            # Git, and the answers on the disk or in Redis.
            answers = await in_thread(lambda: [self._answer(c.index) for c in alike])
            asked = await judge.ask(answers)
            if asked.stopped is not None:
                return asked.stopped
            chosen = alike[asked.best].name if asked.best is not None else None
            ranking = self._rank(scores, chosen)
            if asked.problem:
                ranking = replace(ranking, summary=f"{ranking.summary}; {asked.problem}")
        result = await in_thread(lambda: self._result(ranking, time.monotonic() - began))
        return replace(result, usage=asked.usage, cost=asked.cost) if asked else result

    def _rank(self, scores: Mapping[int, float], chosen: str | None = None) -> Ranking:
        changed = [o for o in self.candidates if o.ok and o.worktree and o.worktree.is_changed]
        return rank_candidates(
            self.candidates, scores, lowest_wins=self.decision.lowest_wins, chosen=chosen,
            may_be_unchanged=not changed,
        )  # fmt: skip

    async def _scores(self, request: Request, reporter: Reporter) -> dict[int, float]:
        """The number that the score prints for each candidate that succeeded, one after another."""
        scores: dict[int, float] = {}
        for outcome in self.candidates if self.decision.score else ():
            wanted, made = self.plan.tasks[outcome.index].worktree, outcome.worktree
            if not outcome.ok or wanted is None or made is None or self.log is None:
                continue
            folder = self.log.checks_path(self.i)
            log = folder / f"score-{outcome.index + 1}.log" if folder else None
            env = {**self.env, **(request.env or {})}
            async with self._repository(self.log, wanted, made) as there:
                score = await score_result(
                    made, there, str(self.decision.score), env, log, home=self.log.home,
                    secrets=request.secrets, tell=reporter.on_notice,
                )  # fmt: skip
            if score.number is not None:
                scores[outcome.index] = score.number
            else:
                reporter.on_notice(f"{outcome.name} has no score: {score.problem}")
        return scores

    @asynccontextmanager
    async def _repository(
        self, log: RunLog, wanted: Worktree, made: WorktreeResult
    ) -> AsyncIterator[Worktree]:
        """The worktree with a repository that has its result."""
        with ExitStack() as stack:
            opened = log.open_repository(wanted, (made.base, made.commit), self.env)
            repository = await in_thread(lambda: stack.enter_context(opened))
            is_own = repository == wanted.repository
            yield wanted if is_own else replace(wanted, repository=repository, root="")

    def _answer(self, i: int) -> tuple[str, str]:
        """What a candidate answered, and what it changed."""
        outcome, wanted = self.outcomes[i], self.plan.tasks[i].worktree
        made = outcome.worktree
        answer = self.with_output(outcome).output
        if wanted is None or made is None or self.log is None:
            return answer, ""
        with self.log.open_repository(wanted, (made.base, made.commit), self.env) as repository:
            return answer, diff_text(repository, made, self.env)

    def _result(self, ranking: Ranking, seconds: float) -> Result:
        """The result of the best one, as that of the task."""
        best = self.with_output(self.outcomes[ranking.candidates[0].index])
        return Result(
            ok=True, text=best.output, structured=best.structured, backend=best.backend or "",
            exit_code=0, session_id=best.session_id, model=best.model, seconds=seconds,
            worktree=best.worktree, check=best.check, decision=ranking,
        )  # fmt: skip

    def _failed(self, ranking: Ranking, seconds: float) -> Result:
        failures = [o.error for o in self.candidates if o.error is not None]
        kinds = {failure.kind for failure in failures}
        kind = next(iter(kinds)) if kinds in ({"check"}, {"limit"}) else "error"
        reasons = "; ".join(
            f"{o.name}: {one_line(o.error.message if o.error else o.state)[:MAX_REASON_LENGTH]}"
            for o in self.candidates
        )
        count = len(self.candidates)
        none = f"none of the {count} candidates succeeded" if count > 1 else "the candidate failed"
        hint = None
        if self.log is not None:
            hint = f"run them all again: clinvk runs retry {self.log.id} {self.task.key}{self.log.where}"
        times = [failure.retry_at for failure in failures if failure.retry_at is not None]
        failure = Failure(kind, f"{none}: {reasons}", hint, min(times, default=None))
        return Result(
            ok=False, text="", backend="", exit_code=exit_code(kind, None), seconds=seconds,
            error=failure, decision=ranking,
        )  # fmt: skip
