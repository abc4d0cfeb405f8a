"""Many tasks on claude, codex and gemini at once: each comes to its own end, and nothing is lost."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tests.forked import Server
from tests.models import Models
from tests.models.server import Request
from tests.real.conftest import Home
from tests.real.test_logins import ADDED_TO, OFFLINE, Watch, left_behind, own_files, write
from tests.real.user import BACKENDS, SHELLS, SOON, User, wait_for

pytestmark = pytest.mark.real

Task = dict[str, Any]
Line = tuple[float, dict[str, Any]]  # of `-o stream-json`, and when it came

# So often does each CLI ask, by itself, before it gives up.
OWN_TRIES = {
    "401": {"claude": 2, "codex": 2, "gemini": 1},
    "429 after 1": {"claude": 2, "codex": 2, "gemini": 1},
    "500": {"claude": 2, "codex": 4, "gemini": 1},
}
# Where each keeps its session.
KEPT = {
    "claude": ".claude/projects/*/{}.jsonl",
    "codex": ".codex/sessions/*/*/*/rollout-*-{}.jsonl",
    "gemini": ".gemini/tmp/*/chats/session-*-{:.8}.jsonl",
}


@pytest.fixture
def user(home: Home, models: Models, loaded_clinvk: Server) -> User:
    """Somebody who has all three, and lets them do everything unasked."""
    return User(home, models, "claude", loaded_clinvk).trusting


def task(name: str, backend: str, prompt: str = "hello", **keys: Any) -> Task:
    """A task whose prompt begins with its name, which tells whom a request is of."""
    return {"name": name, "backend": backend, "prompt": f"{name}: {prompt}", **keys}


def on_each(name: str, prompt: str = "hello", **keys: Any) -> list[Task]:
    return [task(f"{name}-{backend}", backend, prompt, **keys) for backend in BACKENDS]


def of_each(name: str) -> list[str]:
    return [f"{name}-{backend}" for backend in BACKENDS]


def written(user: User, tasks: list[Task], **rules: Any) -> str:
    file = user.home.project / "tasks.json"
    file.write_text(json.dumps({"tasks": tasks, **rules}))
    return str(file)


def asked(user: User, name: str) -> list[Request]:
    """The requests of a task."""
    return [request for request in user.asked if request.last.startswith(f"{name}:")]


def told(done: subprocess.CompletedProcess[str], code: int) -> dict[str, Any]:
    """What `-o json` of a run has printed, which has to end with `code`."""
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == code
    return found


def resumed(user: User, *words: str, code: int = 0) -> dict[str, Any]:
    return told(user.run("runs", "resume", "last", "-o", "json", *words), code)


def shown(user: User) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(user.run("runs", "show", "--json").stdout)
    return found


def by_name(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {outcome["name"]: outcome for outcome in result["results"]}


def in_state(result: Mapping[str, Any], state: str) -> set[str]:
    return {outcome["name"] for outcome in result["results"] if outcome["state"] == state}


def check_sessions(user: User, outcomes: list[dict[str, Any]]) -> None:
    """Each has a session of its own, and its CLI has one too."""
    sessions = {session["id"]: session for session in user.sessions()}
    found = [sessions[outcome["session_id"]] for outcome in outcomes]
    assert {session["status"] for session in found} == {"active"}
    assert len({session["native_id"] for session in found}) == len(outcomes)
    for session in found:
        pattern = KEPT[session["backend"]].format(session["native_id"])
        assert len(list(user.home.path.glob(pattern))) == 1, session


# All that can happen, in one run.


def mixed(user: User) -> list[Task]:
    """Of each CLI three run at a time. On claude and gemini a limit is met while one is being
    answered, and others wait for their turn."""
    folder = user.home.path / "elsewhere"
    folder.mkdir()
    limited, broken = (
        {b: f"<<status {status}>><<first {OWN_TRIES[status][b]}>>" for b in BACKENDS}
        for status in ("429 after 1", "500")
    )
    tool = {"approval_mode": "none", "workdir": str(folder)}
    relay = "what was said: {{tasks.NAME.output}}"
    return [
        *(task(f"limited-{b}", b, limited[b]) for b in ("claude", "gemini")),
        *(task(f"slow-{b}", b, "<<pause 2.5>>") for b in ("claude", "gemini")),
        *on_each("hanging", "<<wait 60>>", timeout="5s"),
        *on_each("silent", "<<pause 60>>", stall_timeout="3s", retries=3),
        *(task(f"broken-{b}", b, broken[b], retries=1) for b in BACKENDS),
        *on_each("refused", "<<status 401>>", retries=3),
        *on_each("cut", "<<cut>>"),
        *on_each("plain"),
        *on_each("tagged", tags=["mine"], system_prompt="always answer in rhymes"),
        *(task(f"tool-{b}", b, _touch(b), **tool) for b in BACKENDS),
        task("relay-codex", "codex", relay.replace("NAME", "plain-claude")),
        task("relay-gemini", "gemini", relay.replace("NAME", "relay-codex")),
        task("relay-claude", "claude", relay.replace("NAME", "relay-gemini")),
        task("slow-codex", "codex", "<<pause 1>>"),
        task("limited-codex", "codex", limited["codex"]),
        task("left-out", "codex", needs=["refused-gemini"]),
        task("left-out-too", "claude", needs=["left-out"]),
    ]


def _touch(backend: str) -> str:
    name, argument = SHELLS[backend]
    return (
        f"<<tool {name} {json.dumps({argument: f'echo made > by-{backend}; cat by-{backend}'})}>>"
    )


def test_thirty_five_tasks_on_three_clis_come_each_to_its_own_end(user: User) -> None:
    tasks = mixed(user)
    rules: dict[str, Any] = {
        "max_parallel": 9,
        "max_parallel_per_backend": dict.fromkeys(BACKENDS, 3),
        "limit_wait": "2s",
        "retry_delay": 0.2,
    }
    home = user.home.path
    files = write(
        home, {k: v for b in BACKENDS for k, v in own_files(replace(user, backend=b)).items()}
    )
    before = {file: file.read_bytes() for file in files}
    watch = Watch(files)

    with watch.going_on():
        code, lines = streamed(user, "parallel", written(user, tasks, **rules))

    assert code == 1
    assert user.processes() == []
    result = shown(user)
    outcomes = by_name(result)
    check_ends(user, result)
    check_answers(user, outcomes)
    check_limits(lines, result)
    check_sessions(user, [o for o in result["results"] if o["state"] == "done"])
    check_tags(user, result)
    for name in of_each("plain"):
        first = asked(user, name)[0].last
        answer = user.resumed(outcomes[name]["session_id"], "and now?")
        assert answer["content"] == f"answer 2 to: and now? | began with: {first}"
        assert user.asked[-1].users == [first, "and now?"]
    assert user.processes() == []
    watch.once()
    assert watch.wrong == set()
    changed = {str(f.relative_to(home)) for f, data in before.items() if f.read_bytes() != data}
    assert changed <= ADDED_TO
    # One whose time is over while it starts leaves the file that it was about to rename.
    assert [file for file in left_behind(home) if ".tmp" not in file] == []


def streamed(user: User, *words: str) -> tuple[int, list[Line]]:
    """The exit code, and the lines of `-o stream-json` with the moments at which they came."""
    offline = replace(
        user, env={**user.env, **OFFLINE, "ANTHROPIC_API_KEY": "", "LOOPBACK_API_KEY": ""}
    )
    with offline.running(*words, "-o", "stream-json") as clinvk:
        assert clinvk.stdout
        lines = [(time.time(), json.loads(line)) for line in clinvk.stdout]
        return clinvk.wait(timeout=60), lines


def check_ends(user: User, result: dict[str, Any]) -> None:
    """State, kind of error, exit code and attempts of each task; how often the model was asked."""
    outcomes = by_name(result)
    ended = {
        name: (o["state"], (o["error"] or {}).get("kind"), o["exit_code"], o["attempts"])
        for name, o in outcomes.items()
    }
    done = [*of_each("slow"), *of_each("plain"), *of_each("tagged"), *of_each("tool")]
    expected: dict[str, Any] = {
        **dict.fromkeys([*done, *of_each("relay")], ("done", None, 0, 1)),
        **dict.fromkeys([*of_each("broken"), *of_each("limited")], ("done", None, 0, 2)),
        **dict.fromkeys(of_each("hanging"), ("failed", "timeout", 6, 1)),
        **dict.fromkeys(of_each("silent"), ("failed", "timeout", 6, 1)),
        **dict.fromkeys(of_each("cut"), ("failed", "server", 1, 1)),
        **dict.fromkeys(of_each("refused"), ("failed", "auth", 1, 1)),
        "refused-gemini": ("failed", "auth", 145, 1),
        **dict.fromkeys(["left-out", "left-out-too"], ("skipped", "skipped", None, 0)),
    }
    assert ended == expected
    assert result["total_tasks"] == len(expected)
    assert (result["completed"], result["failed"], result["skipped"]) == (21, 12, 2)
    for backend in BACKENDS:
        times = {name: len(asked(user, f"{name}-{backend}")) for name in ("refused", "broken")}
        tries = OWN_TRIES["500"][backend] + 1
        assert times == {"refused": OWN_TRIES["401"][backend], "broken": tries}
        assert len(asked(user, f"limited-{backend}")) == OWN_TRIES["429 after 1"][backend] + 1
        assert len(asked(user, f"plain-{backend}")) == 1
    assert asked(user, "left-out") == asked(user, "left-out-too") == []


def check_answers(user: User, outcomes: dict[str, dict[str, Any]]) -> None:
    """What was said came from the right one, in the right folder, and went on to the right one."""
    for name in of_each("plain"):
        assert outcomes[name]["output"] == f"answer 1 to: {name}: hello | began with: {name}: hello"
    for before, name in pairwise(["plain-claude", "relay-codex", "relay-gemini", "relay-claude"]):
        (request,) = asked(user, name)
        assert outcomes[before]["output"] in request.last
    assert "plain-claude: hello" in outcomes["relay-claude"]["output"]  # it went round all three
    for backend in BACKENDS:
        (tagged,) = asked(user, f"tagged-{backend}")
        assert "always answer in rhymes" in tagged.system
        made = user.home.path / "elsewhere" / f"by-{backend}"
        assert made.read_text() == "made\n"
        assert "with the result" in outcomes[f"tool-{backend}"]["output"]
        assert outcomes[f"slow-{backend}"]["duration_seconds"] > 1


def check_limits(lines: list[Line], result: dict[str, Any]) -> None:
    """A limit holds back its own backend, until its end, and no other one."""
    others: set[str] = set()
    # Of the last attempts: after an earlier one in that time there would be a second limit. The line
    # that tells of a start comes a moment after it, and may come after that of a limit.
    starts = [
        (datetime.fromisoformat(o["started_at"]).timestamp(), o["backend"])
        for o in result["results"]
        if o["attempts"]
    ]
    for backend in BACKENDS:
        ((at, limit),) = [(at, line) for at, line in lines if is_limit(line, backend)]
        # Less what the two clocks that a pause follows may differ by in that time.
        until = datetime.fromisoformat(limit["until"]).timestamp() - 0.05
        meanwhile = {other for moment, other in starts if at < moment < until}
        assert backend not in meanwhile
        assert until > at
        others |= meanwhile
    assert others  # how many of them depends on who is how quick


def is_limit(line: dict[str, Any], backend: str) -> bool:
    return (line["type"], line.get("backend")) == ("task_limit", backend)


def check_tags(user: User, result: dict[str, Any]) -> None:
    begun = {o["session_id"] for o in result["results"] if o["attempts"]}
    tags = {session["id"]: session["tags"] for session in user.sessions()}
    assert begun <= {id_ for id_, its in tags.items() if f"run:{result['id']}" in its}
    mine = {by_name(result)[name]["session_id"] for name in of_each("tagged")}
    assert {id_ for id_, its in tags.items() if "mine" in its} == mine


# Cut off in the middle.


@pytest.fixture
def halfway(user: User) -> list[Task]:
    """Tasks of which a part ends at once, a part is in the middle of it, and a part cannot begin
    before those in the middle have ended."""
    hanging = on_each("hanging", "<<wait 60>><<first 1>>")
    again = task("again", "codex", "<<wait 60>><<first 1>>", idempotent=True)
    behind = task("behind", "codex", "from {{tasks.hanging-claude.session}}")
    return [task("early", "codex"), *hanging, again, behind, task("late", "codex")]


EARLY, HANGING, LATE = ["early"], of_each("hanging"), ["late"]


def is_halfway(user: User) -> bool:
    ended = [line for line in journal(user) if line["event"] == "ended"]
    underway = [bool(asked(user, name)) for name in [*HANGING, "again"]]
    return len(ended) == len(EARLY) and all(underway)


def journal(user: User) -> list[dict[str, Any]]:
    files = (user.home.path / ".clinvk" / "runs").glob("*/journal.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def times(user: User, *names: str) -> dict[str, int]:
    """How often the model was asked by each of these."""
    return {name: len(asked(user, name)) for name in names}


def test_a_killed_run_is_carried_on_and_nothing_is_lost_or_done_twice(
    user: User, halfway: list[Task]
) -> None:
    with user.running("parallel", written(user, halfway, max_parallel=4)) as clinvk:
        wait_for(lambda: is_halfway(user))
        os.kill(clinvk.pid, signal.SIGKILL)
        clinvk.wait()
    assert len(user.processes()) >= 4  # the CLIs have outlived it
    assert shown(user)["state"] == "interrupted"

    done = user.run("runs", "resume", "-o", "json")

    result = told(done, 1)
    assert "was killed" in done.stderr
    assert "3 of 7 tasks to run" in done.stderr
    assert user.processes() == []
    assert in_state(result, "done") == {*EARLY, *LATE, "again"}
    assert in_state(result, "indeterminate") == set(HANGING)
    assert in_state(result, "skipped") == {"behind"}
    once = times(user, *EARLY, *HANGING, *LATE)
    assert set(once.values()) == {1}
    assert times(user, "again", "behind") == {"again": 2, "behind": 0}
    assert "--rerun-indeterminate" in user.run("runs", "show").stderr

    assert in_state(resumed(user, code=1), "indeterminate") == set(HANGING)  # not by asking twice
    assert times(user, *EARLY, *HANGING, *LATE) == once

    result = resumed(user, "--rerun-indeterminate")

    assert result["state"] == "done"
    assert result["completed"] == len(halfway)
    assert times(user, *EARLY, *LATE, "behind") == dict.fromkeys([*EARLY, *LATE, "behind"], 1)
    assert times(user, *HANGING) == dict.fromkeys(HANGING, 2)
    first = by_name(result)["hanging-claude"]["session_id"]
    assert asked(user, "behind")[0].last == f"behind: from {first}"
    assert {o["attempts"] for o in result["results"] if o["name"] in HANGING} == {2}
    check_sessions(user, result["results"])
    assert user.processes() == []


def test_ctrl_c_ends_all_at_once_and_the_rest_is_run_later(user: User, halfway: list[Task]) -> None:
    with user.running("parallel", written(user, halfway, max_parallel=4)) as clinvk:
        wait_for(lambda: is_halfway(user))

        os.kill(clinvk.pid, signal.SIGINT)
        began = time.monotonic()
        stdout, stderr = clinvk.communicate(timeout=60)

        assert clinvk.returncode == 7
        assert time.monotonic() - began < SOON
        assert user.processes() == []
    assert "1 done" in stdout
    assert "6 cancelled" in stdout
    assert "clinvk runs resume" in stderr
    cancelled = shown(user)
    assert cancelled["state"] == "cancelled"
    assert in_state(cancelled, "done") == set(EARLY)

    result = resumed(user, code=1)

    assert in_state(result, "done") == {*EARLY, *LATE, "again"}
    assert in_state(result, "indeterminate") == set(HANGING)
    assert set(times(user, *EARLY, *HANGING, *LATE).values()) == {1}

    result = resumed(user, "--rerun-indeterminate")

    assert result["completed"] == len(halfway)
    assert times(user, *EARLY, *LATE) == dict.fromkeys([*EARLY, *LATE], 1)
    check_sessions(user, result["results"])
    assert user.processes() == []


# Limits.


def test_a_limit_of_claude_is_got_round_on_codex(user: User) -> None:
    tasks = [
        task("first", "claude", "<<status 429>><<first 2>>", model="made-up-model"),
        task("second", "claude", "from {{tasks.first.backend}}"),
        task("third", "gemini"),
    ]
    # Longer than this run may take: nobody waits for the end of the limit.
    file = written(user, tasks, on_limit="switch:codex", limit_wait="10m")

    done = user.run("parallel", file, "-o", "json")

    outcomes = by_name(told(done, 0))
    assert {name: o["backend"] for name, o in outcomes.items()} == {
        "first": "codex", "second": "codex", "third": "gemini",
    }  # fmt: skip
    assert [r.path for r in asked(user, "first")] == [*["/v1/messages"] * 2, "/v1/responses"]
    assert asked(user, "second")[0].last == "second: from codex"
    assert asked(user, "first")[-1].model == "gpt-5-codex"  # claude's is not asked of codex
    check_sessions(user, list(outcomes.values()))
    answer = user.resumed(outcomes["first"]["session_id"], "and now?")
    assert answer["backend"] == "codex"
    assert "began with: first:" in answer["content"]


def test_a_run_that_a_limit_has_ended_is_gone_on_with_later(user: User) -> None:
    tasks = [
        task("first", "codex", "<<status 429>><<first 1>>"),
        task("behind", "claude", needs=["first"]),
        task("other-claude", "claude"),
        task("other-codex", "codex"),
    ]
    rules = {"max_parallel_per_backend": {"codex": 1}}

    done = user.run("parallel", written(user, tasks, **rules), "--on-limit", "fail", "-o", "json")

    result = told(done, 75)
    assert by_name(result)["first"]["error"]["kind"] == "limit"
    assert in_state(result, "waiting") == {"other-codex"}
    assert in_state(result, "skipped") == {"behind"}
    assert in_state(result, "done") == {"other-claude"}
    never = dict.fromkeys(["behind", "other-codex"], 0)
    assert times(user, "first", *never) == {"first": 1, **never}

    result = resumed(user)

    assert result["completed"] == len(tasks)
    others = dict.fromkeys(["behind", "other-claude", "other-codex"], 1)
    assert times(user, "first", *others) == {"first": 2, **others}
    check_sessions(user, result["results"])


# The published format.

RESULTS = {"total_tasks", "completed", "failed", "cancelled", "total_duration_seconds", "results"}
OUTCOMES = {
    "index", "name", "backend", "session_id", "output", "error", "duration_seconds", "exit_code",
    "usage", "attempts",
}  # fmt: skip
EXTRA = {
    "claude": ["--effort", "low"],
    "codex": ["-c", 'model_reasoning_effort="low"'],
    "gemini": ["--debug"],
}


def test_the_published_format_runs_as_it_is(user: User) -> None:
    folder = user.home.path / "elsewhere"
    folder.mkdir()
    tasks = [
        {
            "backend": backend,
            "prompt": f"{backend}: hello",
            "model": "made-up-model",
            "workdir": str(folder),
            "approval_mode": "auto",
            "sandbox_mode": "full",
            "output_format": "json",
            "max_tokens": 1000,
            "max_turns": 5,
            "system_prompt": "always answer in rhymes",
            "verbose": True,
            "dry_run": False,
            "extra": EXTRA[backend],
            "id": f"id-{backend}",
            "name": f"name of {backend}",
            "tags": ["mine"],
            "meta": {"ticket": 7},
        }
        for backend in BACKENDS
    ]
    tasks.append({**tasks[0], "name": "dry", "id": "dry", "prompt": "dry: hello", "dry_run": True})
    rules = {"max_parallel": 3, "fail_fast": False, "output_dir": "answers"}

    done = user.run("parallel", "--file", written(user, tasks, **rules), "--json")

    result = told(done, 0)
    assert set(result) >= RESULTS
    assert (result["total_tasks"], result["completed"], result["failed"]) == (4, 4, 0)
    for backend in BACKENDS:
        outcome = by_name(result)[f"name of {backend}"]
        assert set(outcome) >= OUTCOMES
        assert outcome["output"].startswith("answer 1 to:")
        assert (outcome["tags"], outcome["meta"]) == (["mine"], {"ticket": 7})
        (request,) = asked(user, backend)
        assert request.model == "made-up-model"
        assert "always answer in rhymes" in request.system
        file = user.home.project / "answers" / f"name-of-{backend}.md"
        assert file.read_text() == outcome["output"] + "\n"
    assert {s["cwd"] for s in user.sessions()} == {str(folder)}
    assert asked(user, "dry") == []
    assert "--effort low" in by_name(result)["dry"]["output"]
    assert json.loads((user.home.project / "answers" / "results.json").read_text()) == result
