"""Rate limits that are remembered: who may try, until when, and what is done instead."""

import json
import multiprocessing
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

import clinvk as package
from clinvk import Dispatcher, Failure, LimitError, Notice, Request
from clinvk.backend.catalog import Catalog
from clinvk.config import loading
from clinvk.dispatch.account import Account, find_account
from clinvk.dispatch.remembered_limits import LimitStore, RememberedLimit, list_limits
from clinvk.dispatch.series.limit_policy import LimitedTurn, LimitPolicy
from clinvk.errors import NotInstalledError, UsageError
from clinvk.model.usage import Usage
from clinvk.process.wall_clock import Clock
from clinvk.testing import Reply, fake_backend
from tests.conftest import PROJECT, CommandLine, Home

NOW = datetime(2026, 11, 21, 5, 12, 28, tzinfo=UTC)
HOUR = timedelta(hours=1)
ACCOUNT = Account("claude", "0123456789abcdef", "/home/x/.claude")
OTHER = Account("claude", "fedcba9876543210", None)
KEY = "sk-ant-api03-" + "x" * 80


class Watch:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def store(tmp_path: Path, watch: Watch) -> LimitStore:
    return LimitStore(tmp_path, watch)


def limit(until: datetime = NOW + HOUR, **more: Any) -> RememberedLimit:
    return RememberedLimit(until=until, **{"reported_at": NOW, **more})


# The store


def test_a_limit_is_remembered_for_its_account_until_it_ends(store: LimitStore, watch: Watch):
    assert not store.has_any("claude")
    store.record(ACCOUNT, limit())
    assert store.has_any("claude")
    assert not store.has_any("codex")
    assert store.find(ACCOUNT, None) == limit()
    assert store.find(OTHER, None) is None
    watch.now += HOUR
    assert store.find(ACCOUNT, None) is None
    assert not store.folder.exists()  # the next start looks at nothing else
    assert store.record(ACCOUNT, limit()) is None  # it has ended
    assert not store.folder.exists()


def test_what_is_stored_is_private_and_holds_no_key(store: LimitStore):
    store.record(ACCOUNT, limit(message=f"too many\nrequests for {KEY}\x1b[31m"))
    path = store.folder / ACCOUNT.file_name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    text = path.read_text()
    assert KEY not in text
    assert "\x1b" not in text
    assert list_limits(store)[0]["message"].startswith("too many requests for")


def test_the_limits_of_several_windows_and_models_are_kept_side_by_side(store: LimitStore):
    later = NOW + 5 * HOUR
    store.record(ACCOUNT, limit(window="five_hour"))
    store.record(
        ACCOUNT, limit(later, window="seven_day_opus", model="opus", requested_model="best")
    )
    store.record(ACCOUNT, limit(NOW + 2 * HOUR, window="five_hour"))  # in place of the first

    def until(model: str | None) -> datetime | None:
        found = store.find(ACCOUNT, model)
        return found.until if found else None

    assert len(list_limits(store)) == 2
    assert until(None) == until("sonnet") == NOW + 2 * HOUR
    assert until("claude-opus-4-5") == until("Opus") == until("best") == later
    store.clear_after_success(ACCOUNT, ("sonnet",), NOW)
    assert until("sonnet") is None
    assert until("opus") == later
    store.clear_after_success(ACCOUNT, ("opus",), NOW - HOUR)  # it started before the report
    assert until("opus") == later
    store.clear_after_success(ACCOUNT, (None, "claude-opus-4-5"), NOW)
    assert not store.folder.exists()


@pytest.mark.parametrize("end", [NOW + timedelta(days=8), datetime.max.replace(tzinfo=UTC)])
def test_an_end_that_is_not_plausible_is_capped_to_a_week(store: LimitStore, end: datetime):
    stored = store.record(ACCOUNT, limit(end))
    assert stored is not None
    assert (stored.until, stored.reported_until) == (NOW + timedelta(days=7), end)
    assert store.find(ACCOUNT, None) == stored


def test_a_clock_that_was_wrong_does_not_close_a_backend_forever(store: LimitStore, watch: Watch):
    watch.now = NOW + timedelta(days=9_000)
    store.record(ACCOUNT, limit(watch.now + HOUR, reported_at=watch.now))
    watch.now = NOW
    assert store.find(ACCOUNT, None) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"backend":"claude"}', b"\xff" * 9, b'{"backend":"x","account":"y","limits":[{"until":"2026-11-21T09:00:00","reported_at":"2026-11-21T05:00:00"}]}'])  # fmt: skip
def test_a_file_that_cannot_be_read_counts_as_empty(store: LimitStore, content: bytes):
    store.folder.mkdir()
    path = store.folder / ACCOUNT.file_name
    path.write_bytes(content)
    assert store.find(ACCOUNT, None) is None
    assert list_limits(store) == []
    store.record(ACCOUNT, limit())
    assert store.find(ACCOUNT, None) == limit()
    path.unlink()
    path.symlink_to("/dev/zero")
    assert store.find(ACCOUNT, None) is None
    store.record(ACCOUNT, limit())
    assert store.find(ACCOUNT, None) == limit()


def test_limits_are_cleared_by_backend(store: LimitStore):
    codex, longer = Account("codex", "0", None), Account("claude.work", "0", None)
    for account in (ACCOUNT, OTHER, codex, longer):
        store.record(account, limit())
    assert store.clear("claude") == 2
    assert [entry["backend"] for entry in list_limits(store)] == ["claude.work", "codex"]
    assert store.clear() == 2
    assert store.clear() == 0
    assert not store.folder.exists()


def _record_and_clear(home: str, number: int) -> None:
    store = LimitStore(Path(home))
    for i in range(25):
        now = datetime.now(UTC)
        entry = RememberedLimit(until=now + HOUR, reported_at=now, window=f"{number}-{i % 5}")
        store.record(ACCOUNT, entry)
        if number == 0:  # removes the directory when it is empty
            store.record(OTHER, entry)
            store.clear_after_success(OTHER, (None,), datetime.now(UTC))


def test_processes_that_write_at_the_same_time_lose_nothing(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_record_and_clear, args=(str(tmp_path), n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    windows = {entry["window"] for entry in list_limits(LimitStore(tmp_path))}
    assert windows == {f"{number}-{i}" for number in range(3) for i in range(5)}


# Accounts


def test_accounts_differ_by_directory_key_and_login(tmp_path: Path):
    catalog = Catalog(tmp_path)
    home = {"HOME": str(tmp_path)}

    def account(name: str, **env: str) -> str:
        return find_account(catalog.load(name), home | env).id

    def write(path: str, data: Any) -> None:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(data if isinstance(data, str) else json.dumps(data))

    seen = {account("claude"), account("claude", ANTHROPIC_API_KEY=KEY)}
    seen |= {account("claude", ANTHROPIC_API_KEY="sk-2"), account("claude", CLAUDE_CONFIG_DIR="/x")}
    seen |= {account("claude", ANTHROPIC_BASE_URL="https://x.test")}
    assert len(seen) == 5
    assert account("claude", UNRELATED="1") == account("claude")
    write(".claude/.credentials.json", {"accessToken": "a"})
    seen.add(first := account("claude"))
    write(".claude/.credentials.json", {"accessToken": "b"})
    seen.add(account("claude"))
    assert len(seen) == 7
    write(".claude.json", {"oauthAccount": {"accountUuid": "u1"}})
    known = account("claude")
    write(".claude/.credentials.json", {"accessToken": "renewed"})  # of the same account
    assert account("claude") == known
    write(".claude.json", {"oauthAccount": {"accountUuid": "u2"}})
    assert account("claude") not in {known, first}
    write(".claude.json", "{not JSON")
    assert account("claude") not in {known, first}
    write(".codex/auth.json", {"tokens": {"account_id": "1", "access_token": "a"}})
    one = account("codex")
    write(".codex/auth.json", {"tokens": {"account_id": "1", "access_token": "b"}})
    assert account("codex") == one
    write(".codex/auth.json", {"OPENAI_API_KEY": "sk-3"})
    assert account("codex") != one
    folder = find_account(catalog.load("claude"), home | {"CLAUDE_CONFIG_DIR": "/x"}).folder
    assert folder == "/x"


# The command line


@pytest.fixture
def limited(home: Home) -> Callable[..., None]:
    """Makes claude reach a limit, at the prompt `hit it` or as given, that ends in an hour."""

    def prepare(seconds: float = 3600, **more: Any) -> None:
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        failure = Failure("limit", "Weekly limit reached", retry_at=until)
        answers = {"hit it": [Reply(failure=failure, **more), "at last"], "*": "of claude"}
        fake_backend(home.path, "claude", answers)
        fake_backend(home.path, "codex", {"*": "of codex"})

    prepare()
    return prepare


def test_a_backend_at_a_remembered_limit_is_refused_without_being_started(
    home: Home, clinvk: CommandLine, limited: Any
):
    assert clinvk("-b", "claude", "hit it").returncode == 75
    for _ in range(2):
        done = clinvk("-b", "claude", "hello there", "-o", "json")
        assert done.returncode == 75
        error = json.loads(done.stdout)["error"]
        assert (error["kind"], bool(error["retry_at"])) == ("limit", True)
    assert "claude is at a rate limit until 20" in done.stderr
    assert "--ignore-limit" in done.stderr
    assert len((home.path / "fakes" / "claude.jsonl").read_text().splitlines()) == 1
    assert len(clinvk.json("sessions", "list", "--json")["sessions"]) == 1  # none was begun
    assert clinvk("-b", "claude", "hello there", "--dry-run").returncode == 0
    assert clinvk("-b", "claude", "-c", "more of it").returncode == 75
    assert clinvk("resume", "--last", "more of it").returncode == 75
    assert clinvk("-b", "claude", "--ephemeral", "hello there").returncode == 75
    assert clinvk("-b", "codex", "hello there").stdout == "of codex\n"

    shown = clinvk("limits").stdout
    assert "claude" in shown
    assert "Weekly limit reached" in shown
    [entry] = clinvk.json("limits", "--json")["limits"]
    assert (entry["backend"], entry["message"]) == ("claude", "Weekly limit reached")
    assert entry["until"] == error["retry_at"]
    assert clinvk.json("doctor", "--json")["limits"] == [entry]
    assert "rate limit: claude until" in clinvk("doctor").stdout

    assert clinvk("-b", "claude", "--ignore-limit", "hello there").stdout == "of claude\n"
    assert clinvk("limits").stderr == "no rate limits\n"  # that disproved it
    assert clinvk("-b", "claude", "hello there").returncode == 0


def test_limits_are_forgotten_on_request(clinvk: CommandLine, limited: Any):
    clinvk("-b", "claude", "hit it")
    assert clinvk("limits", "clear", "codex").stdout == "0 rate limits forgotten.\n"
    assert clinvk("-b", "claude", "hello there").returncode == 75
    assert clinvk("limits", "clear").stdout == "1 rate limit forgotten.\n"
    assert clinvk("-b", "claude", "hello there").returncode == 0


def test_another_backend_gets_the_conversation_at_a_limit(
    home: Home, clinvk: CommandLine, limited: Any
):
    calls = home.path / "fakes" / "codex.jsonl"
    clinvk("-b", "claude", "--session", "talk", "first words")
    done = clinvk("--session", "talk", "hit it", "--fallback", "gemini,codex", "-o", "json")
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert (result["backend"], result["content"], result["session_id"]) == (
        "codex",
        "of codex",
        "talk",
    )
    assert "Weekly limit reached; using gemini instead" in done.stderr
    assert "not using gemini" in done.stderr
    [call] = map(json.loads, calls.read_text().splitlines())
    assert call["prompt"].count("hit it") == 1
    assert (
        call["prompt"].index("first words")
        < call["prompt"].index("of claude")
        < call["prompt"].index("hit it")
    )
    said = [line["content"] for line in home.transcript("talk") if "content" in line]
    assert said == ["first words", "of claude", "hit it", "of codex"]

    # The next start knows it, and the configuration may name the backend.
    home.config("unified_flags: {fallback: [codex]}")
    done = clinvk("-b", "claude", "another one")
    assert (done.returncode, done.stdout) == (0, "of codex\n")
    assert "claude is at a rate limit until" in done.stderr
    assert clinvk("-b", "claude", "another one", "--on-limit", "fail").returncode == 75
    assert clinvk("-b", "claude", "another one", "--on-limit", "switch:codex").returncode == 0
    assert (
        "unknown backend 'nonsense'"
        in clinvk("-b", "claude", "another one", "--fallback", "nonsense").stderr
    )


def test_a_limit_stays_the_reason_if_nothing_else_can_be_used(clinvk: CommandLine, limited: Any):
    for _ in range(2):  # the second time it is remembered
        done = clinvk("-b", "claude", "hit it", "--fallback", "gemini")
        assert "not using gemini" in done.stderr
        assert (done.returncode, done.stdout) == (75, "")


def test_what_another_backend_does_not_get_is_named(clinvk: CommandLine, limited: Any):
    given = ["-b", "claude", "-m", "big", "--fallback", "codex"]
    for _ in range(2):
        done = clinvk(*given, "hit it", "--", "--verbose")
        assert "using codex instead, without --model and the words after --" in done.stderr
        assert (done.returncode, done.stdout) == (0, "of codex\n")


def test_a_limit_is_waited_for(clinvk: CommandLine, limited: Any):
    limited(0.5)
    done = clinvk("-b", "claude", "hit it", "--on-limit", "wait", "--max-wait", "1m")
    assert (done.returncode, done.stdout) == (0, "at last\n")
    assert "waiting until" in done.stderr
    limited(3600)
    for _ in range(2):
        done = clinvk("-b", "claude", "hit it", "--on-limit", "wait", "--max-wait", "1m")
        assert done.returncode == 75
    assert "more than 1m 00s ahead" in done.stderr
    assert "--max-wait" in done.stderr  # not the flag that was given
    assert "--on-limit" not in done.stderr
    assert (
        "--on-limit: 'sometimes' is not one of" in clinvk("x y", "--on-limit", "sometimes").stderr
    )


# From Python, on both event loops


@pytest.fixture
def dispatcher(home: Home) -> Iterator[Dispatcher]:
    with Dispatcher(loading.load(home.env), env=home.env) as opened:
        yield opened


@pytest.mark.anyio
async def test_python_switches_and_adds_up_the_usage(dispatcher: Dispatcher, limited: Any):
    limited(usage=Usage(input=3, output=1), cost=0.5)
    given: dict[str, Any] = {"backend": "claude", "dispatcher": dispatcher}
    result = await package.arun("hit it", fallback=["codex"], **given)
    assert (result.backend, result.text, result.ok) == ("codex", "of codex", True)
    assert (result.usage, result.cost) == (Usage(input=3, output=1), 0.5)
    limited(usage=Usage(input=3, output=1))
    result = await package.arun("hit it", fallback=["codex"], ignore_limit=True, **given)
    assert (result.usage, result.cost) == (Usage(input=3, output=1), None)  # its cost is unknown
    with pytest.raises(LimitError) as caught:
        await package.arun("hello", **given)
    assert caught.value.retry_at > datetime.now(UTC)
    assert (caught.value.exit_code, caught.value.backend) == (75, "claude")
    assert (await package.arun("hello", fallback="codex", **given)).backend == "codex"
    assert (
        await package.arun("hello", fallback="codex", ephemeral=True, **given)
    ).backend == "codex"
    assert (await package.arun("hello", ignore_limit=True, **given)).backend == "claude"
    with pytest.raises(UsageError):
        await package.arun("hello", on_limit="sometimes", **given)
    with pytest.raises(NotInstalledError):
        await package.arun("hello", fallback=["nonsense"], **given)


@pytest.mark.anyio
async def test_all_backends_at_a_limit_are_named(home: Home, dispatcher: Dispatcher, limited: Any):
    until = datetime.now(UTC) + timedelta(minutes=5)
    fake_backend(home.path, "codex", Failure("limit", "too many", retry_at=until))
    given: dict[str, Any] = {"backend": "claude", "dispatcher": dispatcher, "fallback": ["codex"]}
    result = await package.arun("hit it", **given)
    assert (result.ok, result.exit_code, result.backend) == (False, 75, "codex")
    with pytest.raises(
        LimitError, match="claude, codex are at a rate limit; that of codex"
    ) as caught:
        await package.arun("hello", **given)
    assert caught.value.backend == "codex"


@pytest.mark.anyio
async def test_a_wait_for_a_limit_can_be_cancelled(dispatcher: Dispatcher, limited: Any):
    request = Request(prompt="hit it", backend="claude", on_limit="wait")
    kinds: list[str] = []
    waiting = anyio.Event()
    with anyio.fail_after(60):
        async with dispatcher.stream(request) as turn, anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await waiting.wait()
                await anyio.sleep(0.05)
                turn.cancel("enough")

            tasks.start_soon(cancel)
            async for event in turn:
                kinds.append(event.type)
                if "waiting until" in getattr(event, "message", ""):
                    waiting.set()
    assert kinds == ["started", "notice", "failed"]
    assert turn.result.error is not None
    assert (turn.result.error.kind, turn.result.exit_code) == ("cancelled", 7)
    assert turn.result.error.message == "enough"


@pytest.mark.anyio
async def test_a_wait_ends_on_time_on_a_machine_that_was_suspended(
    dispatcher: Dispatcher, limited: Any, monkeypatch: pytest.MonkeyPatch
):
    from clinvk.process import wall_clock

    monkeypatch.setattr(wall_clock, "LONGEST_SLEEP", 0.02)
    asleep = [0.0]
    clock = Clock(
        lambda: wall_clock.SYSTEM.now() + asleep[0], lambda: wall_clock.since_boot() + asleep[0]
    )
    request = Request(prompt="hit it", backend="claude", ignore_limit=True)
    policy = LimitPolicy(waits=True)
    with anyio.fail_after(60):
        async with LimitedTurn(dispatcher._stream, request, policy, lambda _: None, clock) as turn:
            async for event in turn:
                if event.type == "notice":
                    asleep[0] = 2 * 3600  # the lid is closed
    assert turn.result.text == "at last"


@pytest.mark.anyio
async def test_an_end_that_is_not_plausible_is_reported(dispatcher: Dispatcher, limited: Any):
    limited(9_000 * 86_400)
    notices = []
    async with dispatcher.stream(Request(prompt="hit it", backend="claude")) as turn:
        notices += [e.message async for e in turn if isinstance(e, Notice)]
    assert len(notices) == 1
    assert "which is not plausible; it is remembered until" in notices[0]
    with pytest.raises(LimitError) as caught:
        await package.arun("hello", backend="claude", dispatcher=dispatcher)
    assert caught.value.retry_at < datetime.now(UTC) + timedelta(days=7)


@pytest.mark.anyio
async def test_a_limit_without_a_time_is_not_remembered(home: Home, dispatcher: Dispatcher):
    fake_backend(home.path, "claude", Failure("limit", "slow down"))
    result = await package.arun("hello", backend="claude", dispatcher=dispatcher)
    assert result.exit_code == 75
    assert not (home.path / "limits").exists()


def test_a_start_without_limits_reads_nothing_for_them(home: Home, clinvk: CommandLine):
    assert clinvk("-b", "echo", "hello").returncode == 0
    assert not (home.path / "limits").exists()
    code = "import sys, clinvk.dispatch.dispatcher; print(*(m for m in sys.modules if 'limits' in m or 'account' in m or 'policy' in m))"
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert done.stdout.split() == []


# Runs of many tasks

TASKS = {"tasks": [{"prompt": "a", "backend": "claude"}, {"prompt": "b", "backend": "codex"}]}


@pytest.fixture
def of_claude(home: Home, limited: Any, dispatcher: Dispatcher) -> Dispatcher:
    """A dispatcher, with a limit of claude that was remembered."""
    fake_backend(home.path, "gemini", {"*": "of gemini"})
    store = LimitStore(home.path)
    now = datetime.now(UTC)
    account = find_account(dispatcher.catalog.load("claude"), home.env)
    store.record(account, RememberedLimit(until=now + HOUR, reported_at=now))
    return dispatcher


def ends(result: Any) -> list[tuple[str, str | None]]:
    return [(o.state, o.backend) for o in result.results]


@pytest.mark.anyio
async def test_a_run_begins_with_the_limits_that_are_remembered(home: Home, of_claude: Dispatcher):
    given: dict[str, Any] = {"dispatcher": of_claude, "max_parallel": 1}
    result = await package.aparallel(TASKS, **given)
    assert (ends(result), result.exit_code) == ([("waiting", "claude"), ("done", "codex")], 75)
    assert result.results[0].attempts == 0
    assert result.results[0].error.retry_at > datetime.now(UTC)
    for rules in (
        {"fallback": ["codex"]},
        {"fallback": "gemini,codex"},
        {"on_limit": "switch:codex"},
    ):
        result = await package.aparallel(TASKS, **given, **rules)
        assert [o.state for o in result.results] == ["done", "done"], rules
        assert result.results[0].backend in ("codex", "gemini")
    result = await package.aparallel(TASKS, **given, on_limit="wait", max_wait="1m")
    assert ends(result)[0] == ("waiting", "claude")
    steps = ["x", "{{previous}} y"]
    result = await package.achain(steps, backend="claude", dispatcher=of_claude, fallback=["codex"])
    assert ends(result) == [("done", "codex")] * 2
    home.config("unified_flags: {fallback: [gemini]}")
    with Dispatcher(loading.load(home.env), env=home.env) as configured:
        result = await package.aparallel(TASKS, dispatcher=configured)
        assert ends(result)[0] == ("done", "gemini")
    result = await package.aparallel(TASKS, **given, ignore_limit=True)
    assert ends(result) == [("done", "claude"), ("done", "codex")]
    assert not (home.path / "limits").exists()


@pytest.mark.anyio
async def test_a_comparison_says_who_answered_in_place_of_another(
    clinvk: CommandLine, of_claude: Dispatcher
):
    given: dict[str, Any] = {"dispatcher": of_claude}
    compared = await package.acompare("hi", ["claude", "codex"], **given)
    assert ends(compared.result) == [("waiting", "claude"), ("done", "codex")]
    compared = await package.acompare("hi", ["claude", "codex"], fallback=["gemini"], **given)
    assert ends(compared.result) == [("done", "gemini"), ("done", "codex")]
    shown = clinvk("compare", "-b", "claude,codex", "--fallback", "gemini", "hi there").stdout
    assert shown.count("claude (answered by gemini)") == 2
    assert "codex (answered" not in shown
    done = clinvk("compare", "-b", "claude,codex", "--fallback", "codex", "hi there")
    assert (done.returncode, "codex is compared itself" in done.stderr) == (3, True)


def test_a_run_waits_for_a_remembered_limit_if_it_is_to(
    home: Home, clinvk: CommandLine, of_claude: Dispatcher, tmp_path: Path
):
    file = tmp_path / "t.json"
    file.write_text(json.dumps(TASKS))
    done = clinvk("parallel", str(file), "-q")
    assert done.returncode == 75
    assert "claude is at a rate limit until" in done.stderr
    assert "--on-limit wait" in done.stderr
    done = clinvk("runs", "resume", "-q", "--fallback", "codex")
    assert done.returncode == 0
    store, now = LimitStore(home.path), datetime.now(UTC)
    account = find_account(of_claude.catalog.load("claude"), home.env)
    store.record(account, RememberedLimit(until=now + timedelta(seconds=1.5), reported_at=now))
    done = clinvk("parallel", str(file), "-q", "--on-limit", "wait")
    assert (done.returncode, "waiting for it to end" in done.stderr) == (0, True)
