"""A judge between candidates that are equally good. It is asked twice, the second time with the
candidates in reverse order, and is not told which backend made which of them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from clinvk.engine.executor import Executor, Reporter, RunningRequest
from clinvk.model.events import Event
from clinvk.model.fence import random_word
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session_ref import NewSession
from clinvk.model.usage import Usage
from clinvk.plans.comparison import NO_VERDICT, ROUNDS, judge_prompt, parse_verdict
from clinvk.text import template
from clinvk.text.sanitize import one_line


class Judgment(Struct, frozen=True, kw_only=True):
    """What the judge said. `best` is the position of its choice, if it chose the same one twice;
    otherwise `problem` says why not. `stopped` is the result of a turn after which the task cannot
    end now."""

    best: int | None = None
    problem: str = ""
    usage: Usage | None = None
    cost: float | None = None
    stopped: Result | None = None


class Judge:
    """Asks with the executor; `request` is what it is asked with, apart from the prompt."""

    def __init__(
        self, executor: Executor, request: Request, reporter: Reporter, *, tasks: int, waits: bool
    ) -> None:
        """`tasks` is the number of tasks in the plan. `waits`: at a rate limit, the run decides what
        follows."""
        self.executor = executor
        self.request = request
        self.reporter = _Reports(reporter)
        self._tasks = tasks
        self._stopping = ("cancelled", "limit") if waits else ("cancelled",)

    async def ask(self, answers: Sequence[tuple[str, str]]) -> Judgment:
        """Choose between these answers, each with its patch."""
        order = list(range(len(answers)))
        results: list[Result] = []
        choices: list[int | None] = []
        for number in range(1, ROUNDS + 1):
            result = await self.executor.run(self._request(number, order, answers), self.reporter)
            results.append(result)
            judged = _sum(results)
            if result.error is not None and result.error.kind in self._stopping:
                return replace(
                    judged, stopped=replace(result, usage=judged.usage, cost=judged.cost)
                )
            if not result.ok:
                why = result.error.message if result.error else "it failed"
                return replace(judged, problem=f"the judge did not answer: {one_line(why)}")
            verdict = parse_verdict(result.text, len(order))
            if verdict is None:
                return replace(judged, problem=NO_VERDICT)
            choices.append(order[verdict[0] - 1] if verdict[0] else None)
            order.reverse()
        judged = _sum(results)
        if len(set(choices)) > 1:
            return replace(judged, problem="the judge's choice changed with the order")
        if choices[0] is None:
            return replace(judged, problem="so says the judge")
        return replace(judged, best=choices[0])

    def _request(
        self, number: int, order: Sequence[int], answers: Sequence[tuple[str, str]]
    ) -> Request:
        values = {
            f"tasks.{i + 1}.{what}": text
            for i, pair in enumerate(answers)
            for what, text in zip(("output", "diff"), pair, strict=True)
        }
        asked = judge_prompt(
            self.request.prompt, [str(i + 1) for i in order], random_word(), with_diffs=True
        )
        chosen = self.request.chosen_id
        return self.request.replace(
            prompt=template.render(asked, values.__getitem__),
            session=NewSession(f"{chosen}.judge-{number}" if chosen else None),
            attempt=self._attempt(number),
        )

    def _attempt(self, number: int) -> tuple[int, int] | None:
        """A cluster runs each attempt at a task once, so each turn but the first counts as one at a task
        that the plan does not have."""
        if self.request.attempt is None:
            return None
        task, attempt = self.request.attempt
        return task + (number - 1) * self._tasks, attempt


def _sum(results: Sequence[Result]) -> Judgment:
    known = [r.usage for r in results if r.usage is not None]
    costs = [r.cost for r in results if r.cost is not None]
    return Judgment(
        usage=sum(known[1:], known[0]) if known else None,
        cost=sum(costs) if len(costs) == len(results) else None,
    )


class _Reports:
    """Passes on what is reported about a turn of the judge, but its session, which is not that of the
    task."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def on_notice(self, message: str) -> None:
        self._reporter.on_notice(message)

    async def on_node(self, node: str) -> None: ...

    def on_started(self, running: RunningRequest) -> None:
        self._reporter.on_started(replace(running, session_id=None))

    async def on_event(self, event: Event) -> None:
        await self._reporter.on_event(event)

    def may_continue(self, result: Result) -> str | None:
        return self._reporter.may_continue(result)
