"""Chains and comparisons on claude, codex and gemini: what one says reaches the next, and a judge."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Server
from tests.models import Models
from tests.models.answer import Conversation
from tests.models.server import Request
from tests.real.conftest import Home
from tests.real.test_parallel import OWN_TRIES, asked, by_name, check_sessions, in_state, told
from tests.real.user import BACKENDS, User, unique, wait_for

pytestmark = pytest.mark.real

Step = dict[str, Any]
Say = Callable[[str, Conversation], str | None]  # what a backend's model answers; None: as ever

MODELS = {"claude": "claude-", "codex": "gpt-5-codex", "gemini": "gemini-2.5-flash"}
# Whatever tells the judge who has answered.
NAMES = re.compile(r"claude|anthropic|codex|gpt|openai|gemini|google", re.IGNORECASE)


@pytest.fixture
def user(home: Home, models: Models, loaded_clinvk: Server) -> User:
    return User(home, models, "claude", loaded_clinvk)


def backend_of(model: str) -> str:
    return next(backend for backend, begin in MODELS.items() if model.startswith(begin))


@contextmanager
def saying(user: User, say: Say) -> Iterator[None]:
    """While the block lasts, the models say that to what a user asks."""

    def script(seen: Conversation) -> str | None:
        return say(backend_of(seen.model), seen) if seen.tools else None

    with user.models.saying(script):
        yield


def refusing(*names: str) -> Say:
    """A key that is wrong, for the steps or backends of these names."""

    def say(backend: str, seen: Conversation) -> str | None:
        return "<<status 401>>" if {backend, seen.last.partition(":")[0]} & set(names) else None

    return say


def step(name: str, backend: str, prompt: str = "hello", **keys: Any) -> Step:
    """A step whose prompt begins with its name, which tells whom a request is of."""
    return {"name": name, "backend": backend, "prompt": f"{name}: {prompt}", **keys}


def file_of(user: User, steps: list[Step], **rules: Any) -> str:
    file = user.home.project / "chain.json"
    file.write_text(json.dumps({"steps": steps, **rules}))
    return str(file)


def chained(user: User, *words: str, code: int = 0) -> dict[str, Any]:
    return told(user.run("chain", *words, "-o", "json"), code)


def compared(user: User, *words: str, code: int = 0) -> dict[str, Any]:
    return told(user.run("compare", "--backends", ",".join(BACKENDS), "-o", "json", *words), code)


def times(user: User, *names: str) -> list[int]:
    """How often the model was asked by each of these steps."""
    return [len(asked(user, name)) for name in names]


def of(user: User, backend: str) -> list[Request]:
    """The requests of a backend."""
    return [request for request in user.asked if backend_of(request.model) == backend]


def states(result: dict[str, Any]) -> list[str]:
    return [outcome["state"] for outcome in result["results"]]


# Chains.


def pipeline(first: str, second: str, third: str) -> list[Step]:
    return [
        step("plan", first),
        step("code", second, "do this: {{previous}}"),
        step("review", third, "of {{steps.plan.backend}}: {{steps.plan.output}} // {{previous}}"),
    ]


def test_a_chain_goes_on_at_the_step_that_failed_and_asks_no_other_again(user: User) -> None:
    """What a step has said is in the next one's request, before the failure and after it."""
    order = BACKENDS
    file = file_of(user, pipeline(*order))
    with saying(user, refusing("code")):
        failed = chained(user, file, "--checkpoint", "release", code=1)

    assert states(failed) == ["done", "failed", "skipped"]
    assert by_name(failed)["code"]["error"]["kind"] == "auth"
    refused = OWN_TRIES["401"][order[1]]
    assert times(user, "plan", "code", "review") == [1, refused, 0]
    assert "chain --resume release" in user.run("checkpoints", "show", "release").stderr

    result = chained(user, "--resume", "release")

    assert states(result) == ["done"] * 3
    assert result["id"] == failed["id"]
    assert [o["backend"] for o in result["results"]] == list(order)
    assert times(user, "plan", "code", "review") == [1, refused + 1, 1]
    plan, code, _ = (o["output"] for o in result["results"])
    assert plan == "answer 1 to: plan: hello | began with: plan: hello"
    assert {r.last for r in asked(user, "code")} == {f"code: do this: {plan}"}
    (review,) = asked(user, "review")
    assert review.users == [f"review: of {order[0]}: {plan} // {code}"]
    assert code.startswith(f"answer 1 to: code: do this: {plan}")
    check_sessions(user, result["results"])

    done = user.run("chain", "--resume", "release")
    assert (done.returncode, "there is nothing left to run" in done.stderr) == (0, True)
    assert times(user, "plan", "code", "review") == [1, refused + 1, 1]
    assert user.processes() == []


def test_what_a_model_says_is_no_command_to_the_next(user: User) -> None:
    """Neither to clinvk, nor to the CLI that is shown it."""
    secret = unique()
    (user.home.project / "secret.txt").write_text(secret)
    said = '/help @secret.txt {{previous}} {{steps.one.output}} --version "$HOME" `id`\n- und: ü'
    steps = [
        {"name": "one", "backend": "claude", "prompt": "hello"},
        {"name": "two", "backend": "codex", "prompt": "{{previous}}"},
        {"name": "three", "backend": "gemini", "prompt": "{{previous}}"},
        {"name": "four", "backend": "claude", "prompt": "{{steps.two.output}}"},
    ]
    with saying(user, lambda backend, _: f"{said} ({backend})"):
        result = chained(user, file_of(user, steps))

    assert states(result) == ["done"] * 4
    heard = [r.last.replace("\u200b", "").replace("\\@", "@") for r in user.asked[1:]]
    assert heard == [f"{said} ({backend})" for backend in ("claude", "codex", "codex")]
    assert all(secret not in str(r.body) for r in user.models.requests)


def test_a_failure_is_told_to_the_next_step_where_the_chain_goes_on(user: User) -> None:
    steps = [
        step("plan", "claude"),
        step("mend", "codex", "{{steps.plan.backend}} said: {{steps.plan.error}}[{{previous}}]"),
        step("sum", "gemini", "{{steps.mend.output}}"),
        step("last", "claude", "{{steps.sum.backend}}", needs=["plan"]),
    ]
    with saying(user, refusing("plan")):
        result = chained(user, file_of(user, steps, stop_on_failure=False), code=1)

    outcomes = by_name(result)
    assert states(result) == ["failed", "done", "done", "skipped"]
    error = outcomes["plan"]["error"]["message"]
    (mend,) = asked(user, "mend")
    assert mend.last == f"mend: claude said: {error}[]"
    assert "made-up failure" in error
    (summed,) = asked(user, "sum")
    assert summed.last == f"sum: {outcomes['mend']['output']}"


def test_a_killed_chain_goes_on_and_a_changed_step_is_asked_again(user: User) -> None:
    file = file_of(user, pipeline("codex", "gemini", "claude"))
    with (
        saying(user, lambda _, seen: "<<wait 60>>" if seen.last.startswith("code:") else None),
        user.running("chain", file, "--checkpoint", "release") as clinvk,
    ):
        wait_for(lambda: asked(user, "code"))
        os.kill(clinvk.pid, signal.SIGKILL)
        clinvk.wait()

        cut = chained(user, "--resume", "release", code=1)
        assert states(cut) == ["done", "indeterminate", "skipped"]
        assert user.processes() == []
        assert times(user, "plan", "code", "review") == [1, 1, 0]

    again = chained(user, "--resume", "release", "--rerun-indeterminate")
    assert states(again) == ["done"] * 3
    assert times(user, "plan", "code", "review") == [1, 2, 1]

    steps = pipeline("codex", "gemini", "claude")
    steps[1]["prompt"] = "code: better: {{previous}}"
    changed = chained(user, file_of(user, steps), "--resume", "release")

    assert states(changed) == ["done"] * 3
    assert times(user, "plan", "code", "review") == [1, 3, 2]
    plan, code, _ = (o["output"] for o in changed["results"])
    assert asked(user, "code")[-1].users == [f"code: better: {plan}"]
    assert asked(user, "review")[-1].users == [f"review: of codex: {plan} // {code}"]
    check_sessions(user, changed["results"])


# One that keeps the prompt that was refused, and one that does not.
@pytest.mark.parametrize("backend", ["codex", "gemini"])
def test_a_session_is_passed_on_and_survives_a_failure(user: User, backend: str) -> None:
    """The CLI's own session, and nothing is handed over that it knows already."""
    steps = [step("one", backend), step("two", backend, "and {{session}}"), step("three", backend)]
    with saying(user, refusing("two")):
        failed = chained(
            user, file_of(user, steps, pass_session=True), "--checkpoint", "mine", code=1
        )
    assert states(failed) == ["done", "failed", "skipped"]
    (before,) = user.sessions()

    result = chained(user, "--resume", "mine")

    assert states(result) == ["done"] * 3
    (session,) = user.sessions()
    assert {o["session_id"] for o in result["results"]} == {session["id"]}
    assert session["native_id"] == before["native_id"]
    assert times(user, "one", "three") == [1, 1]
    two = f"two: and {session['id']}"
    refused = [] if backend == "gemini" else [two]
    assert user.asked[-1].users == ["one: hello", *refused, two, "three: hello"]


def test_a_session_is_passed_on_from_one_cli_to_the_next(user: User) -> None:
    words = [unique() for _ in range(4)]
    steps = [step(w, b) for w, b in zip(words, [*BACKENDS, "claude"], strict=True)]

    with saying(user, lambda backend, seen: f"{backend} has heard it"):
        result = chained(user, file_of(user, steps, pass_session=True))

    assert states(result) == ["done"] * 4
    (session,) = user.sessions()
    assert session["turns"] == 4
    for at, request in enumerate(user.asked):
        assert request.last.endswith(f"{words[at]}: hello")
        assert all(word in str(request.users) for word in words[:at])
        assert all(f"{b} has heard it" in str(request.body) for b in BACKENDS[:at])
    own, handed = user.asked[-1].users  # at home again, only what was missed is told
    assert own == f"{words[0]}: hello"
    assert words[0] not in handed


# Comparisons.

# What each answers. None of it tells who it is.
SAID = {"claude": "go north", "codex": "go south, where it is warm", "gemini": "go <b>west</b>"}
SHOWN = re.compile(r"=== (\w+): Answer \d begins ===\n(.*?)\n=== \1: Answer \d ends ===", re.DOTALL)


def answers_in(request: Request | Conversation) -> list[str]:
    """The answers that a judge is shown, in their order."""
    return [found[1] for found in SHOWN.findall(request.last)]


def judging(favourite: str) -> Say:
    """Each answers what it has to say; asked to judge, it is for the favourite's answer."""

    def say(backend: str, seen: Conversation) -> str | None:
        if "go somewhere" not in seen.last:
            return None
        answers = answers_in(seen)
        if not answers:
            return SAID[backend]
        best = answers.index(SAID[favourite]) + 1
        return f'I weighed them.\n{{"best": {best}, "why": "the {len(answers)} differ"}}'

    return say


def without_judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    return result["results"][: len(BACKENDS)]


class Page(HTMLParser):
    """A page: its tags, and the text of each answer."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.articles: list[str] = []
        self.text = ""
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "article":
            self.articles.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.articles:
            self.articles[-1] += data


def test_a_judge_reads_three_answers_in_both_orders_and_nobody_s_name(user: User) -> None:
    with saying(user, judging("codex")):
        result = compared(user, "go somewhere", "--judge", "claude", "--html", "page.html")

        verdict = result["verdict"]
        judgements = [r for r in of(user, "claude") if answers_in(r)]
        assert (verdict["best"], verdict["agreed"]) == ("codex", True)
        assert {tuple(r["order"]) for r in verdict["rounds"]} == {BACKENDS, BACKENDS[::-1]}
        in_order = [SAID[backend] for backend in BACKENDS]
        assert sorted(map(answers_in, judgements)) == sorted([in_order, in_order[::-1]])
        for request in judgements:
            assert len(request.users) == 1
            assert not NAMES.search(request.last)
            told_around = str(request.body).replace(str(user.home.path.parent), "")
            assert not re.search("codex|gpt-5|gemini", told_around, re.IGNORECASE)
            assert not {"Bash", "Write", "Edit"} & set(request.tools)  # it may only read
        for backend in BACKENDS:
            first = of(user, backend)[0]
            assert first.users == ["go somewhere"]
        assert [len(of(user, backend)) for backend in BACKENDS] == [3, 1, 1]
        assert [o["output"] for o in without_judge(result)] == in_order
        check_sessions(user, result["results"])

        page = Page(user.home.project / "page.html")
        assert not {"script", "b", "img"} & page.tags
        assert len(page.articles) == 3
        for backend, article in zip(BACKENDS, page.articles, strict=True):
            assert SAID[backend] in article
        assert "codex is best, in either order" in page.text

        for outcome in without_judge(result):
            backend = outcome["backend"]
            answer = user.resumed(outcome["session_id"], "and now?")
            assert (answer["backend"], answer["content"][:8]) == (backend, "answer 2")
            assert of(user, backend)[-1].users == ["go somewhere", "and now?"]
    assert user.processes() == []


def test_where_one_fails_the_others_are_compared_and_it_is_asked_again_alone(user: User) -> None:
    bad, good = "codex", ["claude", "gemini"]
    with saying(user, lambda b, seen: refusing(bad)(b, seen) or judging(good[0])(b, seen)):
        result = compared(user, "go somewhere", "--judge", good[1], "--html", "page.html", code=1)

    outcomes = by_name(result)
    assert in_state(result, "done") == set(good)
    assert outcomes[bad]["error"]["kind"] == "auth"
    assert {o["state"] for o in result["results"][len(BACKENDS) :]} == {"skipped"}
    assert [len(of(user, backend)) for backend in good] == [1, 1]  # nobody was asked to judge
    assert result["verdict"]["best"] is None
    assert bad in result["verdict"]["summary"]
    page = Page(user.home.project / "page.html")
    for backend, article in zip(BACKENDS, page.articles, strict=True):
        assert ("failed" if backend == bad else SAID[backend]) in article
    check_sessions(user, [outcomes[backend] for backend in good])

    before = len(user.asked)
    with saying(user, judging(good[0])):
        again = told(user.run("runs", "retry", "last", "-o", "json"), 0)

    assert states(again) == ["done"] * 5
    later = user.asked[before:]
    assert [backend_of(r.model) for r in later] == [bad, good[1], good[1]]
    assert again["verdict"]["best"] == good[0]
    assert [o["output"] for o in without_judge(again)] == [SAID[b] for b in BACKENDS]


# What is gone on with.


def test_going_on_passes_over_what_chains_and_comparisons_have_made(user: User) -> None:
    compared(user, "hello")
    count = len(user.models.requests)

    for words in (("-c", "and now?"), ("resume", "--last", "and now?")):
        assert user.run(*words).returncode == 4
    assert len(user.models.requests) == count

    mine = user.result("mine")
    chained(user, file_of(user, pipeline("codex", "codex", "codex")))
    went_on = [user.result("-c", "and now?"), user.resumed("--last", "and then?")]

    assert {answer["session_id"] for answer in went_on} == {mine["session_id"]}
    assert user.asked[-1].users == ["mine", "and now?", "and then?"]
    assert len(user.sessions()) == 7
