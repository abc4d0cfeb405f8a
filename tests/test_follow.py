"""Following a run from Python: from its beginning, from any point, and from now on."""

import json
import time
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from clinvk import Change, PlanRun, afollow_run, aresume, follow_run, plan_of
from clinvk.errors import SessionError, UsageError
from clinvk.runs.log import RunNotFound
from tests.conftest import END, READ, START, say
from tests.desk import Desk, desk, ends, kill

__all__ = ["desk"]

pytestmark = pytest.mark.anyio


def with_shaky(desk: Desk) -> Desk:
    """It fails at its first try, for a reason that may pass."""
    flag = desk.folder / "tried"
    shaky = f"if [ ! -e {flag} ]; then touch {flag}\n{say(type='end', error='overloaded', status=529)}exit 1; fi\n"
    desk.home.backend("shaky", READ + START + say(type="tool", id="1", name="Read") + shaky + END)
    return desk


def kinds(changes: list[Change]) -> list[tuple[str, str]]:
    return [(c.kind, c.outcome.name) for c in changes if c.outcome and c.kind != "event"]


def lines(changes: list[Change], run_id: str) -> list[dict[str, Any]]:
    """What a program would be told."""
    return [json.loads(json.dumps(change.to_json(run_id))) for change in changes]


def all_of(desk: Desk, run_id: str, after: str = "") -> list[Change]:
    return list(follow_run(run_id, after=after, dispatcher=desk.dispatcher()))


def eventful(desk: Desk) -> str:
    """The id of a run in which something of everything happened."""
    with_shaky(desk)
    tasks = [
        "a", {"prompt": "b", "backend": "shaky"}, {"name": "c", "prompt": "bad c"}, "d",
        {"prompt": "e", "needs": "c"}, {"prompt": "limited f", "backend": "other"},
    ]  # fmt: skip
    return desk.made(*tasks, retries=1, retry_delay=0.1, on_limit="fail", max_parallel=2)


async def test_a_run_of_another_process_is_followed_from_its_middle(desk: Desk):
    driver, run_id = desk.begin("a", "hold b", "bad c", until="hold b")
    seen: list[Change] = []
    async for change in afollow_run(run_id, after="now", dispatcher=desk.dispatcher()):
        if not seen:
            assert driver.poll() is None
            desk.let_go()
        seen.append(change)
    assert kinds(seen) == [("ended", "2"), ("started", "3"), ("ended", "3")]
    events = [(c.outcome.name, c.event.type) for c in seen if c.event and c.outcome]
    assert events == [("2", "started"), ("2", "tool"), ("3", "started"), ("3", "tool")]
    assert [c.outcome.output for c in seen if c.kind == "ended" and c.outcome] == ["<hold b>", ""]
    assert ends(driver)[0] == 1


async def test_from_the_beginning_is_told_what_the_run_itself_tells(desk: Desk):
    with_shaky(desk)
    tasks = ["a", {"prompt": "b", "backend": "shaky"}, "hold c", "bad d", {"prompt": "e", "needs": "4"}]  # fmt: skip
    path = desk.file({"tasks": tasks, "max_parallel": 1, "retries": 1, "retry_delay": 0.1})
    driver = desk.start("parallel", path, "-o", "stream-json")
    desk.wait_for("hold c")
    seen: list[Change] = []
    async for change in afollow_run(dispatcher=desk.dispatcher()):
        seen.append(change)
        desk.let_go()
    _, out, _ = ends(driver)
    first, *told, _ = map(json.loads, out.splitlines())
    unkept = ("delta", "finished", "failed")  # a journal has the result instead
    told = [x for x in told if x["type"] != "task_event" or x["event"]["type"] not in unkept]
    read = lines(seen, first["run"])
    for line in (*told, *read):  # a journal has thousandths of a second, and little of a skip
        if line["attempt"] == 0:
            del line["backend"]
        if "result" in line:
            line["result"] = {
                k: line["result"][k] for k in ("state", "output", "error", "attempts")
            }
    # A journal has what was skipped at the end, and the run tells of it as soon as it is known.
    for was_tried in (True, False):
        assert [x for x in read if (x["attempt"] > 0) == was_tried] == [
            x for x in told if (x["attempt"] > 0) == was_tried
        ]


def test_afterwards_a_run_can_be_followed_from_any_of_its_points(desk: Desk):
    run_id = eventful(desk)
    whole = all_of(desk, run_id)
    assert {c.kind for c in whole} == {"started", "event", "retry", "limit", "ended"}
    assert len({c.position for c in whole}) == len(whole)
    for n, change in enumerate(whole):
        assert all_of(desk, run_id, change.position) == whole[n + 1 :], change
    assert all_of(desk, run_id, "now") == []


async def test_a_follower_that_was_interrupted_continues_from_there(desk: Desk):
    driver, run_id = desk.begin("a", "hold b", "c", "d", max_parallel=2, until="hold b")
    desk.wait_for("d")
    before: list[Change] = []
    async with aclosing(afollow_run(run_id, dispatcher=desk.dispatcher())) as changes:
        async for change in changes:
            before.append(change)
            if change.outcome and (change.kind, change.outcome.name) == ("started", "3"):
                break
    desk.let_go()
    assert ends(driver)[0] == 0
    after = await rest(desk, run_id, before[-1].position)
    assert sorted(kinds(before + after)) == sorted(kinds(await rest(desk, run_id, "")))
    events = [c for c in before + after if c.event]
    assert len(events) == 2 * 4


async def rest(desk: Desk, run_id: str, after: str) -> list[Change]:
    return [c async for c in afollow_run(run_id, after=after, dispatcher=desk.dispatcher())]


async def test_no_change_is_lost_where_waiting_for_it_is_cancelled(desk: Desk):
    driver, run_id = desk.begin("a", "hold b", "c", until="hold b")
    changes = afollow_run(run_id, dispatcher=desk.dispatcher())
    seen: list[Change] = []
    began = time.monotonic()
    while time.monotonic() - began < 60:
        with anyio.move_on_after(0.01):
            try:
                seen.append(await anext(changes))
            except StopAsyncIteration:
                break
        if len(seen) == 6:
            desk.let_go()
    assert seen == await rest(desk, run_id, "")
    assert ends(driver)[0] == 0


async def test_other_tasks_continue_while_a_run_is_followed(desk: Desk):
    driver, run_id = desk.begin("hold a", until="hold a")

    async def let_go() -> None:
        await anyio.sleep(0.5)
        desk.let_go()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(let_go)
        seen = await rest(desk, run_id, "")
    assert kinds(seen) == [("started", "1"), ("ended", "1")]
    assert ends(driver)[0] == 0


async def test_a_run_that_is_killed_is_followed_to_that_end(desk: Desk):
    driver, run_id = desk.begin("a", "hold b", "c", until="hold b")
    seen: list[Change] = []
    async for change in afollow_run(run_id, dispatcher=desk.dispatcher()):
        seen.append(change)
        if len(seen) == 5:
            kill(driver)
    last = seen[-1]
    assert (last.kind, last.outcome and last.outcome.state) == ("ended", "indeterminate")
    assert kinds(seen) == [("started", "1"), ("ended", "1"), ("started", "2"), ("ended", "2")]
    assert await rest(desk, run_id, last.position) == []
    assert await rest(desk, run_id, seen[-2].position) == [last]
    desk.let_go()
    await aresume(run_id, rerun_indeterminate=True, dispatcher=desk.dispatcher())
    more = await rest(desk, run_id, last.position)
    assert kinds(more) == [("started", "2"), ("ended", "2"), ("started", "3"), ("ended", "3")]


async def test_a_run_that_is_about_to_begin_is_followed_from_its_beginning(desk: Desk):
    where = desk.dispatcher()
    plan = plan_of(["a"], "parallel", where, {"workdir": desk.home.work})
    run = PlanRun(where, plan)
    folder = run.create_folder()
    assert folder
    seen: list[Change] = []

    async def follow() -> None:
        seen.extend(await rest(desk, folder.id, ""))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await anyio.sleep(0.4)
        await run.run()
    assert kinds(seen) == [("started", "1"), ("ended", "1")]


async def test_following_a_run_that_never_began_ends(desk: Desk):
    where = desk.dispatcher()
    plan = plan_of(["a"], "parallel", where, {"workdir": desk.home.work})
    folder = PlanRun(where, plan).create_folder()
    assert folder
    with anyio.fail_after(60):
        assert await rest(desk, folder.id, "") == []


def test_a_run_that_was_retried_is_told_with_each_answer(desk: Desk):
    run_id = desk.made("a", {"name": "b", "prompt": "bad b"}, max_parallel=1)
    desk.repair()
    assert desk.clinvk("runs", "retry", run_id, "-q").returncode == 0
    told = [c.outcome for c in all_of(desk, run_id) if c.kind == "ended" and c.outcome]
    assert [(o.name, o.state, o.output, o.attempts) for o in told] == [
        ("1", "done", "<a>", 1), ("b", "failed", "", 1), ("b", "done", "<bad b>", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "position", ["x", "1", "-1.0", "1.0-", "999999.0", "1.0-1:", "0.0-1:2?", "1.0\n"]
)
def test_a_position_that_the_run_does_not_have_is_refused(desk: Desk, position: str):
    run_id = desk.made("a")
    with pytest.raises(UsageError, match="has no position"):
        all_of(desk, run_id, position)


async def test_a_run_that_cannot_be_followed_says_why(desk: Desk):
    with pytest.raises(RunNotFound, match="no run 'r1'"):
        await anext(afollow_run("r1", dispatcher=desk.dispatcher()))
    with pytest.raises(UsageError) as told:
        next(follow_run("last", dispatcher=desk.dispatcher()))
    assert "async for change in clinvk.afollow_run(...)" in str(told.value.hint)


def test_a_damaged_run_is_not_followed(desk: Desk):
    run_id = desk.made("a")
    with open(desk.at(run_id).journal_path, "a") as journal:
        journal.write('{"version":1,"at":"2026-01-01T00:00:00Z","event":"started","task":7}\n')
    with pytest.raises(SessionError, match="is damaged"):
        all_of(desk, run_id)
    with pytest.raises(SessionError, match="is damaged"):
        all_of(desk, run_id, "now")


def test_what_was_torn_or_is_of_a_newer_kind_is_left_out(desk: Desk):
    run_id = desk.made("a")
    folder, whole = desk.at(run_id), all_of(desk, run_id)
    path = folder.events_path(0)
    path.write_bytes(b'{"type":"song"}\nnot JSON\n[1]\n' + path.read_bytes() + b'{"type":"te')
    with open(folder.journal_path, "a") as journal:
        journal.write('{"version":1,"at":"2026-01-01T00:00:00Z","event":"song"}\n{"version":1,')
    assert lines(all_of(desk, run_id), run_id) == lines(whole, run_id)


def test_a_run_can_be_followed_from_a_program_without_an_event_loop(desk: Desk):
    driver, run_id = desk.begin("hold a", until="hold a")
    seen = []
    for change in follow_run(run_id, dispatcher=desk.dispatcher()):
        seen.append(change)
        desk.let_go()
    assert kinds(seen) == [("started", "1"), ("ended", "1")]
    assert ends(driver)[0] == 0
