"""A request becomes events and a result, and leaves a session behind."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher, NoSessionHere
from clinvk.errors import (
    ClinvkError,
    ConfigError,
    NotInstalledError,
    SessionError,
    SessionNotFound,
    UsageError,
)
from clinvk.model.events import Event
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.model.session import Session
from tests.conftest import END, FAKES, READ, START, Home, is_alive, living, pid_in, say, stubborn
from tests.stores import keep

TURNS = (FAKES / "turns.sh").read_text()


pytestmark = pytest.mark.anyio

FOREVER = "while :; do sleep 0.1; done\n"


@pytest.fixture
def dispatcher(home: Home) -> Callable[[], Dispatcher]:
    """A new dispatcher of this home, as each command has its own."""
    return lambda: keep(Dispatcher(loading.load(home.env), env=home.env))


class Asks:
    def __init__(self, home: Home) -> None:
        self.home = home
        self.events: list[Event] = []

    def dispatcher(self) -> Dispatcher:
        return keep(Dispatcher(loading.load(self.home.env), env=self.home.env))

    def request(self, prompt: str = "hello", **more: Any) -> Request:
        return Request(prompt=prompt, **{"backend": "fake", "cwd": self.home.work, **more})

    async def __call__(self, prompt: str = "hello", **more: Any) -> Result:
        """What comes of a request; its events are in `events`."""
        async with self.dispatcher().stream(self.request(prompt, **more)) as run:
            self.events = [event async for event in run]
        return run.result

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def notices(self) -> str:
        return "\n".join(e.message for e in self.events if e.type == "notice")


@pytest.fixture
def ask(home: Home) -> Asks:
    return Asks(home)


def everything_in(home: Home) -> list[str]:
    return sorted(
        str(p.relative_to(home.path))
        for p in home.path.rglob("*")
        if p.is_file() and "backends" not in p.parts
    )


# A turn and what it leaves


async def test_a_run_leaves_a_session_with_its_conversation(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    result = await ask("hello there", title="My title", tags=("a", "b"))
    assert result.ok
    assert (result.text, result.exit_code, result.model) == ("turn 1: hello there", 0, "made-up-1")
    record = home.record(result.session_id)
    assert record["native_ids"] == {"fake": result.native_id}
    assert record["cwd"] == os.path.realpath(home.work)
    assert (record["status"], record["turns"], record["title"]) == ("active", 1, "My title")
    assert record["tags"] == ["a", "b"]
    assert record["prompt"] == "hello there"
    assert [(m["role"], m["content"]) for m in home.transcript()] == [
        ("user", "hello there"),
        ("assistant", "turn 1: hello there"),
    ]


async def test_the_last_event_is_finished_and_carries_the_answer(ask: Asks, home: Home):
    home.backend("fake")
    await ask()
    assert ask.types == ["started", "finished"]
    assert ask.events[-1].text == "It is done."


async def test_a_result_is_not_there_before_the_end(ask: Asks, home: Home):
    home.backend("fake")
    async with ask.dispatcher().stream(ask.request()) as run:
        with pytest.raises(RuntimeError):
            _ = run.result


async def test_a_session_goes_on_by_its_id(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    first = await ask("one")
    second = await ask("two", session=first.session_id, backend=None)
    assert second.text == "turn 2: two"
    assert (second.session_id, second.native_id) == (first.session_id, first.native_id)
    assert home.record()["turns"] == 2
    assert [m["content"] for m in home.transcript()] == ["one", "turn 1: one", "two", "turn 2: two"]


async def test_a_session_goes_on_by_a_prefix_and_by_its_native_id(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    first = await ask("one")
    assert (await ask("two", session=first.session_id[:6])).text == "turn 2: two"
    assert (await ask("three", session=first.native_id)).text == "turn 3: three"


async def test_an_ambiguous_prefix_names_the_candidates(ask: Asks, home: Home):
    home.backend("fake")
    store = ask.dispatcher().store
    for name in ("alpha-1", "alpha-2"):
        store.create(Session(id=name, backend="fake", prompt=f"the {name} one"))
    with pytest.raises(SessionError) as caught:
        await ask(session="alpha")
    assert "alpha-1" in str(caught.value)
    assert "the alpha-2 one" in str(caught.value)


async def test_an_unknown_session_is_not_found(ask: Asks, home: Home):
    home.backend("fake")
    with pytest.raises(SessionNotFound):
        await ask(session="nothing-like-it")


async def test_a_session_goes_on_in_its_own_folder_with_its_own_settings(
    ask: Asks, home: Home, tmp_path: Path
):
    program = home.backend("fake", TURNS)
    options = {"model": "big", "approval": "auto", "sandbox": "read-only", "max_turns": 3}
    first = await ask("one", options=options)
    await ask("two", session=first.session_id, cwd=None)
    argv = (program.parent / "argv").read_text()
    assert "--model big" in argv
    assert "--auto" in argv
    assert "--ro" in argv
    assert "--max-turns" not in argv  # of that turn alone
    assert (program.parent / "cwd").read_text().strip() == os.path.realpath(home.work)


async def test_what_is_said_on_resume_goes_before_what_the_session_keeps(ask: Asks, home: Home):
    program = home.backend("fake", TURNS)
    first = await ask("one", options={"model": "big", "approval": "auto"})
    await ask("two", session=first.session_id, options={"model": "small", "approval": "default"})
    argv = (program.parent / "argv").read_text()
    assert "--model small" in argv
    assert "--auto" not in argv


async def test_a_session_whose_folder_is_gone_says_so(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    first = await ask("one")
    home.work.rmdir()
    with pytest.raises(UsageError, match="no such directory") as caught:
        await ask("two", session=first.session_id, cwd=None)
    assert first.session_id in caught.value.hint


# The last session of a folder


async def test_last_is_the_newest_of_the_same_real_folder(ask: Asks, home: Home, tmp_path: Path):
    home.backend("fake", TURNS)
    other, link = tmp_path / "other", tmp_path / "link"
    other.mkdir()
    link.symlink_to(home.work)
    older = await ask("one")
    newer = await ask("two")
    await ask("three", cwd=other)
    assert (await ask("more", session="last", cwd=link)).session_id == newer.session_id
    assert (await ask("more", session=older.session_id)).ok
    assert (await ask("more", session="last")).session_id == older.session_id


async def test_last_of_a_folder_without_one_tells_where_the_newest_is(
    ask: Asks, home: Home, tmp_path: Path
):
    home.backend("fake", TURNS)
    first = await ask("one")
    with pytest.raises(NoSessionHere) as caught:
        await ask("more", session="last", cwd=tmp_path)
    assert caught.value.elsewhere.id == first.session_id
    assert f"clinvk resume {first.session_id}" in caught.value.hint
    went_on = await ask("more", session="last", cwd=tmp_path, anywhere=True)
    assert went_on.session_id == first.session_id


async def test_last_with_a_backend_is_the_newest_of_that_backend(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    home.backend("other", TURNS)
    mine = await ask("one")
    await ask("two", backend="other")
    assert (await ask("more", session="last")).session_id == mine.session_id


@pytest.mark.parametrize("status", ["completed", "archived"])
async def test_last_passes_over_what_is_finished_and_the_tasks_of_a_fan_out(
    ask: Asks, home: Home, status: str
):
    home.backend("fake", TURNS)
    real = os.path.realpath(home.work)
    store = ask.dispatcher().store
    common = {"backend": "fake", "cwd": real, "native_ids": {"fake": "native-x"}}
    store.create(Session(id="finished", status=status, **common))
    store.create(Session(id="task", task="run-1", **common))
    with pytest.raises(NoSessionHere):
        await ask("more", session="last")


async def test_auto_resume_goes_on_in_the_same_folder_with_the_same_backend(
    ask: Asks, home: Home, tmp_path: Path
):
    home.backend("fake", TURNS)
    home.backend("other", TURNS)
    home.config("session: {auto_resume: true}")
    first = await ask("one")
    assert (await ask("two")).session_id == first.session_id
    assert (await ask("three", cwd=tmp_path)).session_id != first.session_id
    assert (await ask("four", backend="other")).session_id != first.session_id
    assert (await ask("five", new=True)).session_id != first.session_id


async def test_without_auto_resume_every_prompt_has_a_session_of_its_own(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    assert (await ask("one")).session_id != (await ask("two")).session_id


# Nothing is left behind


async def test_an_ephemeral_run_writes_nothing(ask: Asks, home: Home):
    home.backend("fake", TURNS, ephemeral={"argv": ["--forget"]})
    result = await ask("one", ephemeral=True)
    assert result.ok
    assert result.session_id is None
    assert everything_in(home) == []
    assert not (home.path / "sessions").exists()


async def test_an_ephemeral_run_tells_the_program(ask: Asks, home: Home):
    program = home.backend("fake", TURNS, ephemeral={"argv": ["--forget"]})
    await ask("one", ephemeral=True)
    assert "--forget" in (program.parent / "argv").read_text()


async def test_an_ephemeral_run_takes_away_its_own_file_and_no_other(
    ask: Asks, home: Home, tmp_path: Path
):
    chats = tmp_path / "user" / "chats"
    chats.mkdir()
    (chats / "session-other.json").write_text('{"id": "native-2"}')
    script = READ + f'echo \'{{"id": "native-1"}}\' >{chats}/session-mine.json\n' + START + END
    remove = [{"glob": "~/chats/session-*.json", "owner": "id"}]
    home.backend("fake", script, native_id="native-[0-9]+", ephemeral={"remove": remove})
    assert (await ask("one", ephemeral=True)).ok
    assert [p.name for p in chats.iterdir()] == ["session-other.json"]


async def test_an_ephemeral_run_of_a_program_that_cannot_forget_is_refused(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    with pytest.raises(UsageError, match="fake cannot run without saving a session"):
        await ask("one", ephemeral=True)


async def test_an_ephemeral_run_of_a_session_is_refused(ask: Asks, home: Home):
    home.backend("fake", TURNS, ephemeral={})
    with pytest.raises(UsageError):
        await ask("one", ephemeral=True, session="last")


async def test_a_task_of_a_run_is_known_as_one(ask: Asks, home: Home):
    home.backend("fake")
    await ask(task="run-1")
    assert home.record()["task"] == "run-1"


async def test_a_plan_starts_and_writes_nothing(ask: Asks, home: Home):
    program = home.backend("fake", TURNS)
    plan = ask.dispatcher().plan(ask.request("one", options={"system_prompt": "be brief"}))
    assert plan.command.argv[0] == str(program)
    assert everything_in(home) == []
    assert not (program.parent / "argv").exists()
    assert list(Path(home.env["TMPDIR"]).iterdir()) == []


async def test_private_files_are_there_while_the_program_runs_and_gone_after(ask: Asks, home: Home):
    script = READ + 'stat -c "%a" "$(dirname "$3")" "$3" >"$0.modes"; cp "$3" "$0.copy"\n' + START
    program = home.backend("fake", script + END)
    assert (await ask(options={"system_prompt": "be\nbrief"})).ok
    assert program.with_name("fake.modes").read_text().split() == ["700", "600"]
    assert program.with_name("fake.copy").read_text() == "be\nbrief"
    assert list(Path(home.env["TMPDIR"]).iterdir()) == []


async def test_a_session_that_never_began_leaves_no_record(ask: Asks, home: Home):
    program = home.backend("fake", TURNS)
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(ClinvkError):
        await ask()
    assert home.ids() == []


async def test_a_prompt_that_is_refused_leaves_no_record(ask: Asks, home: Home):
    home.backend("fake", TURNS, prompt={"limit_chars": 3})
    with pytest.raises(UsageError, match="takes at most 3 characters"):
        await ask("four")
    assert home.ids() == []


async def test_a_store_that_cannot_be_written_is_met_before_anything_is_paid_for(
    ask: Asks, home: Home
):
    program = home.backend("fake", TURNS)
    (home.path / "sessions").write_text("a file where a folder should be")
    with pytest.raises(SessionError):
        await ask()
    assert not (program.parent / "argv").exists()


# Tokens and money


async def test_tokens_of_the_whole_session_become_those_of_each_turn(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    result = await ask("one")
    for n in (1, 2, 3):
        assert (result.usage.input, result.usage.output, result.usage.cached) == (100, 10, 20)
        assert home.record()["usage"]["input"] == 100 * n
        assert home.record()["usage"]["total"] == 110 * n
        result = await ask("more", session=result.session_id)


async def test_tokens_of_the_turn_itself_are_added_up(ask: Asks, home: Home):
    program = home.backend("fake", TURNS)
    (program.parent / "own").touch()
    result = await ask("one")
    result = await ask("two", session=result.session_id)
    assert result.usage.input == 100
    assert home.record()["usage"]["input"] == 200


async def test_tokens_are_unknown_where_what_went_before_is(ask: Asks, home: Home):
    program = home.backend("fake", TURNS)
    (program.parent / "turns-native-old").write_text("5")
    session = Session(id="old", backend="fake", native_ids={"fake": "native-old"})
    ask.dispatcher().store.create(session)
    result = await ask("one", session="old")
    assert result.text.startswith("turn 6")
    assert result.usage is None
    assert result.cost is None
    again = await ask("two", session="old")  # from here on it is known
    assert again.usage.input == 100
    assert again.cost == 1


async def test_money_of_the_whole_session_becomes_that_of_each_turn(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    result = await ask("one")
    assert result.cost == 1
    assert (await ask("two", session=result.session_id)).cost == 1
    assert home.record()["cost"] == 2


async def test_money_that_is_only_known_of_a_first_turn_is_unknown_afterwards(
    ask: Asks, home: Home
):
    home.backend("fake", READ + START + say(type="end", text="x", cost_first=0.5))
    result = await ask("one")
    assert result.cost == 0.5
    assert (await ask("two", session=result.session_id)).cost is None
    assert home.record()["cost"] is None


async def test_store_token_usage_false_stores_none(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    home.config("session: {store_token_usage: false}")
    result = await ask("one")
    assert result.usage.input == 100
    record = home.record()
    assert record["usage"] is None
    assert record["cost"] is None
    assert all("tokens" not in m for m in home.transcript())


async def test_store_messages_false_stores_none_of_what_was_said(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    home.config("session: {store_messages: false}")
    result = await ask("my secret words")
    assert (
        await ask("my other secret", session=result.session_id)
    ).text == "turn 2: my other secret"
    stored = "".join(p.read_text() for p in (home.path / "sessions").iterdir())
    assert "secret" not in stored
    assert not (home.path / "transcripts").exists() or home.transcript() == []


async def test_default_tags_go_on_every_new_session(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    home.config("session: {default_tags: [mine, b]}")
    await ask("one", tags=("b", "c"))
    assert home.record()["tags"] == ["mine", "b", "c"]


# Whether it succeeded


OUTCOMES = {
    "exit 0 without a word of success": (READ + START, "incomplete", 1),
    "exit 0 and nothing at all": (READ, "incomplete", 1),
    "success and exit 1": (READ + START + END + "exit 1\n", "backend", 1),
    "success and exit 9": (READ + START + END + "exit 9\n", "backend", 9),
    "a stream that is cut in a line": (
        READ + START + """printf '{"type": "end", "text": "It is'\n""", "incomplete", 1,
    ),
    "exit 8": (READ + "exit 8\n", "backend", 8),
    "exit 200": (READ + "exit 200\n", "backend", 200),
    "exit 7": (READ + "exit 7\n", "backend", 1),
    "exit 2": (READ + "exit 2\n", "backend", 1),
    "exit 75": (READ + "exit 75\n", "backend", 1),
    "killed by SIGKILL": (READ + START + "kill -9 $$\n", "backend", 137),
    "killed by SIGTERM": (READ + START + "kill -15 $$\n", "backend", 143),
    "401": (READ + say(type="end", error="who?", status=401) + "exit 1\n", "auth", 1),
    "429": (READ + say(type="end", error="slow down", status=429) + "exit 1\n", "limit", 75),
    "500": (READ + say(type="end", error="sorry", status=500) + "exit 99\n", "server", 1),
    "a limit on stderr": (READ + "echo usage limit reached >&2; exit 3\n", "limit", 75),
    "no such session": (READ + "echo no such session >&2; exit 1\n", "session", 4),
    "failure and exit 0": (READ + say(type="end", error="no") + "exit 0\n", "backend", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
async def test_failure_has_a_kind_and_an_exit_code(ask: Asks, home: Home, name: str):
    script, kind, code = OUTCOMES[name]
    home.backend("fake", script)
    result = await ask()
    assert not result.ok
    assert (result.error.kind, result.exit_code) == (kind, code)
    assert ask.types[-1] == "failed"
    assert ask.events[-1].kind == kind
    record = home.record()
    assert record["status"] == "error"
    assert record["error"]["kind"] == kind


SUCCESSES = {
    "noise behind the end": READ + START + END + 'echo bye; echo \'{"type": "other"}\'\n',
    "noise before the start": "echo Welcome!\n" + READ + START + END,
    "null, lists, numbers, text and empty lines": (
        READ + START + "printf 'null\\n[1]\\n3\\n\"x\"\\ntrue\\n\\n   \\n'\n" + END
    ),
    "invalid UTF-8 in a line of noise": READ + START + "printf '\\xff\\xfe\\n'\n" + END,
    "control characters": READ + START + "printf '\\x00\\x01\\n'\n" + END,
    "unknown types": READ + START + say(type="brand_new", x=[1]) + say(no="type") + END,
    "a type that is no text": READ + START + say(type=["x"]) + say(type=None) + END,
    "windows line ends": READ + START.replace("\\n", "\\r\\n") + END.replace("\\n", "\\r\\n"),
    "no newline at the end": READ + START + END.replace("\\n", ""),
    "noise on stderr": READ + "echo warning: odd >&2\n" + START + END,
}


@pytest.mark.parametrize("name", SUCCESSES)
async def test_what_is_odd_in_a_stream_does_not_hide_its_success(ask: Asks, home: Home, name: str):
    home.backend("fake", SUCCESSES[name])
    result = await ask()
    assert result.ok, result.error
    assert result.text == "It is done."
    assert result.native_id == "native-1"


async def test_invalid_utf8_inside_of_a_line_is_replaced(ask: Asks, home: Home):
    broken = """printf '{"type": "text", "text": "a\\xffb"}\\n'\n"""
    home.backend("fake", READ + START + broken + say(type="end"))
    assert (await ask()).text == "a\ufffdb"
    assert home.transcript()[-1]["content"] == "a\ufffdb"


async def test_lone_surrogates_of_a_stream_are_kept_as_something(ask: Asks, home: Home):
    line = """printf '%s\\n' '{"type": "end", "text": "a\\ud83db"}'\n"""
    home.backend("fake", READ + START + line)
    result = await ask()
    assert result.ok
    assert home.record()["status"] == "active"
    assert len(home.transcript()) == 2


async def test_a_whole_text_replaces_its_pieces(ask: Asks, home: Home):
    script = (
        READ + START
        + say(type="delta", text="It ") + say(type="delta", text="is")
        + say(type="text", text="It is 1.") + say(type="tool", name="t")
        + say(type="delta", text="It is 2.") + say(type="end")
    )  # fmt: skip
    home.backend("fake", script)
    result = await ask()
    assert result.text == "It is 2."
    assert home.transcript()[-1]["content"] == "It is 1.\n\nIt is 2."


async def test_what_was_said_before_a_failure_is_kept(ask: Asks, home: Home):
    script = READ + START + say(type="delta", text="half an ans") + "exit 1\n"
    home.backend("fake", script)
    result = await ask()
    assert result.text == "half an ans"
    assert home.transcript()[-1]["content"] == "half an ans"


async def test_a_retry_time_is_taken_from_the_message_of_a_limit(ask: Asks, home: Home):
    home.backend("fake", READ + say(type="end", error="usage limit reached|1900000000"))
    result = await ask()
    assert result.error.retry_at.timestamp() == 1_900_000_000
    assert home.record()["error"]["retry_at"].startswith("2030-")


async def test_denied_tools_are_listed_and_are_no_failure(ask: Asks, home: Home):
    denied = say(type="denied", name="Bash", reason="not allowed")
    home.backend("fake", READ + START + denied + END)
    result = await ask()
    assert result.ok
    assert [(d.name, d.reason) for d in result.denied] == [("Bash", "not allowed")]
    assert "denied" in ask.types


async def test_fail_on_denied_makes_a_denied_tool_a_failure(ask: Asks, home: Home):
    home.backend("fake", READ + START + say(type="denied", name="Bash") + END)
    result = await ask(fail_on_denied=True)
    assert (result.ok, result.error.kind, result.exit_code) == (False, "denied", 1)
    assert "Bash" in result.error.message


async def test_an_answer_that_a_schema_does_not_fit_is_a_failure(ask: Asks, home: Home):
    home.backend("fake", READ + START + END)
    result = await ask(options={"schema": '{"type": "object"}'})
    assert (result.ok, result.error.kind, result.exit_code) == (False, "schema", 1)


@pytest.mark.parametrize("line", [
    say(type="end", text='{"a": 1}'), say(type="end", text="x", structured={"a": 1}),
])  # fmt: skip
async def test_the_answer_to_a_schema_is_an_object(ask: Asks, home: Home, line: str):
    home.backend("fake", READ + START + line)
    result = await ask(options={"schema": '{"type": "object"}'})
    assert result.ok
    assert result.structured == {"a": 1}


@pytest.mark.parametrize(("lost", "kept"), [(True, {}), (False, {"fake": "native-1"})])
async def test_a_first_turn_that_was_refused_may_leave_no_native_session(
    ask: Asks, home: Home, lost: bool, kept: dict
):
    script = READ + START + say(type="end", error="sorry", status=500) + "exit 1\n"
    home.backend("fake", script, lost_after_error=lost)
    await ask()
    assert home.record()["native_ids"] == kept


async def test_a_first_turn_that_was_refused_can_be_tried_again(ask: Asks, home: Home):
    script = READ + START + say(type="end", error="sorry", status=500) + "exit 1\n"
    home.backend("fake", script, lost_after_error=True)
    first = await ask("one")
    home.backend("fake", TURNS)
    again = await ask("two", session=first.session_id)
    assert again.text.startswith("turn 1: ")  # what was asked before may go along
    assert again.text.endswith("two")


async def test_a_turn_that_was_killed_keeps_its_native_id(ask: Asks, home: Home):
    home.backend("fake", READ + START + "kill -9 $$\n", lost_after_error=True)
    await ask()
    assert home.record()["native_ids"] == {"fake": "native-1"}


async def test_a_program_that_answers_from_another_session_is_ended(
    ask: Asks, home: Home, tmp_path: Path
):
    program = home.backend("fake", TURNS)
    first = await ask("one")
    pid = tmp_path / "pid"
    program.write_text(f"#!/bin/bash\necho $$ >{pid}\n{READ}{START}{FOREVER}")
    with anyio.fail_after(60):
        second = await ask("two", session=first.session_id)
    assert (second.ok, second.error.kind, second.exit_code) == (False, "session", 4)
    assert first.native_id in second.error.message
    assert not is_alive(pid_in(pid))
    assert home.record()["native_ids"] == {"fake": first.native_id}


async def test_another_session_that_answers_at_the_end_is_a_failure_too(ask: Asks, home: Home):
    """Some say who they are only when they have finished."""
    program = home.backend("fake", TURNS)
    first = await ask("one")
    program.write_text(f"#!/bin/bash\n{READ}" + say(type="end", id="native-other", text="hello"))
    second = await ask("two", session=first.session_id)
    assert (second.ok, second.exit_code) == (False, 4)
    assert home.record()["native_ids"] == {"fake": first.native_id}


async def test_a_native_id_that_only_the_end_tells_is_kept(ask: Asks, home: Home):
    home.backend("fake", READ + say(type="end", id="native-7", text="hello"))
    result = await ask()
    assert result.native_id == "native-7"
    assert home.record()["native_ids"] == {"fake": "native-7"}


async def test_a_native_id_that_two_sessions_have_is_told(ask: Asks, home: Home):
    home.backend("fake")
    first = await ask("one")
    await ask("two")
    assert f"native id native-1, which session {first.session_id} also has" in ask.notices
    await ask("three")
    assert ask.notices.count("native-1") == 1
    assert "and 1 more also have" in ask.notices


# Which backend


async def test_an_unknown_backend_names_the_known_ones(ask: Asks, home: Home):
    home.backend("fake")
    with pytest.raises(ClinvkError, match="unknown backend 'claud'") as caught:
        await ask(backend="claud")
    assert "claude" in caught.value.hint
    assert "fake" in caught.value.hint


async def test_a_program_that_is_not_installed_is_told_with_the_way_to_get_it(
    ask: Asks, home: Home
):
    home.manifest("gone", {"name": "gone", "command": "no-such-program", "install": "brew gone",
                           "argv": {"run": []}})  # fmt: skip
    with pytest.raises(NotInstalledError) as caught:
        await ask(backend="gone")
    assert caught.value.exit_code == 2
    assert "brew gone" in caught.value.hint


async def test_the_first_installed_of_the_three_is_taken_where_none_was_chosen(
    ask: Asks, home: Home, tmp_path: Path
):
    home.backend("gemini")
    home.env["PATH"] = str(tmp_path / "fakes")
    program = tmp_path / "fakes" / "gemini"
    program.write_text("#!/bin/bash\nPATH=/usr/bin:/bin\n" + program.read_text())
    result = await ask(backend=None)
    assert result.backend == "gemini"
    assert "claude is not installed" in ask.notices


async def test_a_default_that_was_chosen_is_not_replaced(ask: Asks, home: Home, tmp_path: Path):
    home.backend("gemini")
    home.config("default_backend: codex")
    home.env["PATH"] = str(tmp_path / "fakes")
    with pytest.raises(NotInstalledError, match="codex"):
        await ask(backend=None)


async def test_without_any_cli_the_way_out_is_told(ask: Asks, home: Home, tmp_path: Path):
    home.env["PATH"] = str(tmp_path)
    with pytest.raises(NotInstalledError) as caught:
        await ask(backend=None)
    assert "npm install" in caught.value.hint
    assert "-b echo" in caught.value.hint


async def test_a_disabled_backend_does_not_run(ask: Asks, home: Home):
    home.backend("fake")
    home.config("backends: {fake: {enabled: false}}")
    with pytest.raises(ConfigError, match="'fake' is disabled"):
        await ask()


async def test_a_session_of_another_backend_is_not_gone_on_with_by_mistake(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    home.backend("other", TURNS)
    first = await ask("one")
    with pytest.raises(SessionError, match="fake, not"):
        await ask("two", session=first.session_id, backend="other")


async def test_a_program_that_cannot_resume_refuses_before_it_starts(ask: Asks, home: Home):
    home.backend("fake", argv={"run": ["run", "$options"]})
    first = await ask("one")
    with pytest.raises(SessionError, match="cannot resume"):
        await ask("two", session=first.session_id)


async def test_an_option_that_a_program_lacks_is_refused_by_its_name(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    with pytest.raises(UsageError, match="fake has no option 'effort'"):
        await ask(options={"effort": "high"})
    assert home.ids() == []


async def test_lenient_drops_what_a_program_lacks_with_a_notice(ask: Asks, home: Home):
    home.backend("fake", TURNS)
    assert (await ask(options={"effort": "high"}, lenient=True)).ok
    assert "effort" in ask.notices


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
async def test_an_empty_prompt_is_refused(ask: Asks, home: Home, text: str):
    home.backend("fake", TURNS)
    with pytest.raises(UsageError, match="empty"):
        await ask(text)


# Ended early


async def test_a_timeout_ends_the_tree_and_says_so(ask: Asks, home: Home, tree: Path):
    home.backend("fake", stubborn(tree))
    for seconds in (1, 8, 60):  # a busy machine takes long to begin
        with anyio.fail_after(120):
            result = await ask(timeout=seconds)
        assert (result.error.kind, result.exit_code) == ("timeout", 6)
        if home.record(result.session_id)["native_ids"]:
            break
    assert living(tree) == []
    assert home.record(result.session_id)["error"]["kind"] == "timeout"
    assert home.record(result.session_id)["native_ids"] == {"fake": "native-1"}


async def test_the_timeout_of_the_configuration_holds(ask: Asks, home: Home):
    home.backend("fake", READ + START + FOREVER)
    home.config("unified_flags: {command_timeout_secs: 0.5}")
    with anyio.fail_after(60):
        assert (await ask()).exit_code == 6


async def test_a_timeout_holds_while_the_program_talks_without_pause(ask: Asks, home: Home):
    home.backend("fake", READ + START + 'yes \'{"type": "delta", "text": "x"}\'\n')
    with anyio.fail_after(60):
        async with ask.dispatcher().stream(ask.request(timeout=0.5)) as run:
            async for _ in run:
                pass
    assert run.result.exit_code == 6


async def test_a_cancelled_run_ends_its_tree_and_says_so(ask: Asks, home: Home, tree: Path):
    home.backend("fake", stubborn(tree))
    events = []
    with anyio.fail_after(60):
        async with ask.dispatcher().stream(ask.request()) as run:
            async for event in run:
                events.append(event.type)
                run.cancel("somebody said so")
    assert events == ["started", "failed"]
    assert (run.result.error.kind, run.result.exit_code) == ("cancelled", 7)
    assert run.result.error.message == "somebody said so"
    assert living(tree) == []


async def test_leaving_the_block_ends_the_run_and_the_record_says_so(
    ask: Asks, home: Home, tree: Path
):
    home.backend("fake", stubborn(tree))
    async with ask.dispatcher().stream(ask.request()) as run:
        async for _ in run:
            break
    assert living(tree) == []
    assert home.record()["error"]["kind"] == "cancelled"
    assert home.record()["status"] == "error"


async def test_cancellation_from_outside_ends_the_run_and_the_record_says_so(
    ask: Asks, home: Home, tree: Path
):
    home.backend("fake", stubborn(tree))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        with anyio.fail_after(60):
            while not (home.ids() and home.record()["native_ids"]):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        tasks.cancel_scope.cancel()
    assert living(tree) == []
    assert home.record()["error"]["kind"] == "cancelled"


async def test_a_cancelled_session_can_go_on(ask: Asks, home: Home):
    program = home.backend("fake", TURNS)
    first = await ask("one")
    text = program.read_text()
    program.write_text(f"#!/bin/bash\n{READ}{say(type='start', id=first.native_id)}{FOREVER}")
    assert (await ask("two", session=first.session_id, timeout=0.5)).exit_code == 6
    program.write_text(text)
    assert (await ask("three", session=first.session_id)).text == "turn 2: three"


async def test_an_exception_in_the_block_comes_out_as_it_was(ask: Asks, home: Home):
    home.backend("fake", READ + START + FOREVER)
    with pytest.raises(ZeroDivisionError):
        async with ask.dispatcher().stream(ask.request()) as run:
            async for _ in run:
                _ = 1 / 0


async def test_who_survives_a_normal_end_is_told_and_lives_on(
    ask: Asks, home: Home, ended: Callable[[str], Path]
):
    daemon = ended("daemon")
    home.backend("fake", READ + f"sleep 300 >/dev/null 2>&1 & echo $! >{daemon}\n" + START + END)
    assert (await ask()).ok
    assert str(pid_in(daemon)) in ask.notices
    assert is_alive(pid_in(daemon))


async def test_a_daemon_that_holds_the_pipes_does_not_hold_the_answer(
    ask: Asks, home: Home, ended: Callable[[str], Path]
):
    daemon = ended("daemon")
    home.backend("fake", READ + f"sleep 300 & echo $! >{daemon}\n" + START + END)
    with anyio.fail_after(60):
        result = await ask()
    assert (result.ok, result.text) == (True, "It is done.")


async def test_another_cli_is_taken_if_none_of_the_three_is_installed(
    ask: Asks, home: Home, tmp_path: Path
):
    home.manifest("broken", "name: [")
    home.backend("qwen2")
    home.env["PATH"] = str(tmp_path)
    result = await ask(backend=None)
    assert result.backend == "qwen2"
    assert "claude is not installed; using qwen2" in str(ask.notices)
