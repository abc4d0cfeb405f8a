"""What every store of sessions does, whatever it keeps them in."""

import random
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clinvk.errors import ConfigError, SessionError, SessionNotFound
from clinvk.model.events import Usage
from clinvk.model.session import STATUSES, Message, MessageRole, Session
from clinvk.store import open_store
from clinvk.store.base import Query, Store
from tests.conftest import PROJECT
from tests.stores import KINDS, keep, store_url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request.param, tmp_path / "home", request)


@pytest.fixture
def reopen(url: str, tmp_path: Path) -> Callable[[], Store]:
    """The same store, as another process would see it."""
    return lambda: keep(open_store(url, tmp_path / "home"))


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Store:
    return reopen()


def changed(**values: Any) -> Callable[[Session], Session]:
    return lambda session: Session.from_json(session.to_json() | values)


def said(text: str, role: str = "user") -> Message:
    return Message(MessageRole(role), text)


def same(session: Session) -> Session:
    return session


def ids(store: Store) -> list[str]:
    return sorted(s.id for s in store.select(Query()))


FULL = {
    "backend": "claude",
    "model": "opus",
    "cwd": "/some/where",
    "title": "A title with é, 😀, \u2028 and\nlines",
    "prompt": "explain this",
    "native_ids": {"claude": "x-1", "codex": "y-2"},
    "turns": 3,
    "counts": {"user": 3, "assistant": 3},
    "usage": Usage(10, 5, 4, 3, 2),
    "cost": 0.25,
    "totals": {"y-2": {"usage": {"input": 5}}},
    "tags": ("a", "b c"),
    "metadata": {"ticket": 7, "deep": {"er": [1, None]}},
    "options": {"model": "opus", "add_dir": ["/x"]},
    "template": "coding",
    "parents": ("before",),
    "task": "run-1",
    "error": {"kind": "limit", "message": "later"},
    "created_at": datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC),
}


def test_a_new_store_is_empty(store: Store):
    assert store.select(Query()) == []
    assert ids(store) == []


def test_a_session_comes_back_as_it_was_kept(store: Store, reopen: Callable[[], Store]):
    session = store.create(Session(id="full", **FULL))
    assert reopen().get("full").to_json() == session.to_json()
    assert [s.to_json() for s in reopen().select(Query())] == [session.to_json()]
    assert ids(reopen()) == ["full"]


def test_a_taken_id_is_replaced_by_a_free_one(store: Store):
    first = store.create(Session(id="taken", title="first"))
    second = store.create(Session(id="taken", title="second"))
    assert second.id != first.id
    assert store.get(first.id).title == "first"
    assert store.get(second.id).title == "second"


@pytest.mark.parametrize("name", ["taken", "TAKEN", "Taken"])
def test_a_name_that_is_asked_for_is_given_once_whatever_its_case(store: Store, name: str):
    store.create(Session(id="taken"), exact=True)
    with pytest.raises(SessionError, match="already exists"):
        store.create(Session(id=name), exact=True)
    assert ids(store) == ["taken"]


WRONG = ["../../x", "..", ".", ".hidden", "a/b", "/etc/passwd", "a\\b/c", "x" * 300, "", " ", "a b",
         "a\nb", "a\0b", "é", "-x", "_x", "last", "LAST", "Last", "x" * 129]  # fmt: skip


def test_no_name_leaves_the_store(store: Store, tmp_path: Path):
    acts: list[Callable[[str], object]] = [
        lambda name: store.create(Session(id=name), exact=True),
        lambda name: store.create(Session(id=name)),
        store.get,
        lambda name: store.update(name, same),
        lambda name: store.append(name, [said("x")], same),
        store.messages,
        store.size,
        store.delete,
        store.acquire_turn,
    ]
    for name in WRONG:
        for act in acts:
            with pytest.raises(SessionError):
                act(name)
        assert [p.name for p in tmp_path.iterdir() if p.name != "home"] == [], repr(name)
        assert ids(store) == [], repr(name)


def test_a_good_name_is_kept_as_it_is(store: Store):
    for name in ("a", "0", "A.b_c-D", "x" * 128, "lastly", "con", "a..b"):
        store.create(Session(id=name), exact=True)
        assert store.get(name).id == name


def test_an_unknown_session_is_not_found(store: Store):
    for act in (
        lambda: store.get("nobody"),
        lambda: store.update("nobody", same),
        lambda: store.append("nobody", [said("x")], same),
        lambda: store.delete("nobody"),
    ):
        with pytest.raises(SessionNotFound):
            act()
        with pytest.raises(FileNotFoundError):
            act()
    assert store.messages("nobody") == []
    assert ids(store) == []


def test_an_update_sees_the_newest_record(store: Store, reopen: Callable[[], Store]):
    store.create(Session(id="s"))
    reopen().update("s", changed(turns=5))
    seen = []
    store.update("s", lambda s: seen.append(s.turns) or s)
    assert seen == [5]


def test_an_update_that_fails_changes_nothing(store: Store):
    store.create(Session(id="s", title="before"))

    def fail(session: Session) -> Session:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.update("s", fail)
    with pytest.raises(RuntimeError):
        store.append("s", [said("lost")], fail)
    assert store.get("s").title == "before"
    assert store.messages("s") == []
    store.update("s", changed(title="after"))  # the lock is free
    assert store.get("s").title == "after"


def test_messages_come_back_in_their_order_and_as_they_were(
    store: Store, reopen: Callable[[], Store]
):
    store.create(Session(id="s"))
    first = Message(
        MessageRole.SYSTEM, "be\u2028brief\n😀\x1b[0m", metadata={"a": [1]}, tokens=7
    )  # fmt: skip
    store.append("s", [first, said("two")], changed(turns=1))
    store.append("s", [said("three", "assistant")], changed(turns=2))
    found = reopen().messages("s")
    assert [m.content for m in found] == [first.content, "two", "three"]
    assert (found[0].role, found[0].metadata, found[0].tokens) == ("system", {"a": [1]}, 7)
    assert abs(found[0].timestamp - first.timestamp) < timedelta(milliseconds=1)
    assert reopen().get("s").turns == 2


def test_any_text_can_be_said(store: Store):
    store.create(Session(id="s"))
    texts = ["", "\0", "\ud83d", "x" * 2_000_000, '"}\n{"', "\r\n", "\u2029"]
    store.append("s", [said(text) for text in texts], same)
    found = [m.content for m in store.messages("s")]
    assert len(found) == len(texts)
    assert found[3] == texts[3]
    assert found[4:] == texts[4:]


def test_unknown_fields_of_a_record_are_kept(store: Store):
    record = Session(id="s").to_json() | {"colour": "blue", "nested": {"x": [1]}}
    store.create(Session.from_json(record))
    store.update("s", changed(turns=1))
    kept = store.get("s").to_json()
    assert kept["colour"] == "blue"
    assert kept["nested"] == {"x": [1]}


def test_a_session_takes_more_room_with_more_messages(store: Store):
    store.create(Session(id="s"))
    before = store.size("s")
    store.append("s", [said("x" * 1000)], same)
    assert store.size("s") >= before + 1000 > 1000


def test_a_deleted_session_is_gone_with_all_it_had(store: Store):
    store.create(Session(id="s"))
    store.append("s", [said("x")], same)
    store.delete("s")
    assert ids(store) == []
    assert store.messages("s") == []
    with pytest.raises(SessionNotFound):
        store.get("s")
    store.create(Session(id="s"), exact=True)
    assert store.messages("s") == []


def test_a_transcript_can_be_replaced(store: Store, reopen: Callable[[], Store]):
    store.create(Session(id="s"), [said("one"), said("two")])
    store.rewrite("s", [said("three")], changed(title="new"))
    assert [m.content for m in reopen().messages("s")] == ["three"]
    assert reopen().get("s").title == "new"
    assert [h.session.id for h in store.search("three")] == ["s"]
    assert store.search("two") == []


def test_a_session_can_begin_with_messages(store: Store):
    store.create(Session(id="s"), [said("one"), said("two", "assistant")])
    assert [m.content for m in store.messages("s")] == ["one", "two"]


# Which sessions


def some_sessions(count: int, seed: int) -> Iterator[Session]:
    chance = random.Random(seed)
    for i in range(count):
        yield Session(
            id=f"s{i}",
            backend=chance.choice(["claude", "codex", None]),
            status=chance.choice(STATUSES),
            cwd=chance.choice(["/a", "/b", None]),
            tags=tuple(chance.sample(["x", "y", "z"], chance.randrange(3))),
            metadata=chance.choice([{}, {"ticket": 7}, {"ticket": "8", "who": "me"}]),
            native_ids=chance.choice([{}, {"claude": f"n{i % 5}"}, {"codex": "n1", "gemini": "g"}]),
            counts=chance.choice([{}, {"user": 1}, {"user": 0}]),
            task=chance.choice([None, None, "run-1"]),
            updated_at=datetime(2026, 1, 1 + i % 28, 12, i % 60, tzinfo=UTC),
        )


QUERIES = [
    {}, {"limit": 3}, {"backend": "claude"}, {"backend": "gemini"}, {"status": "active"},
    {"cwd": "/a"}, {"tag": "x"}, {"tag": "X"}, {"metadata": {"ticket": "7"}},
    {"metadata": {"ticket": "8", "who": "me"}}, {"metadata": {"none": "None"}},
    {"resumable": True}, {"tasks": False},
    {"before": "2026-01-15T12:00:00.000Z"}, {"before": "2026-01-15T12:14:00.000Z"},
    {"backend": "codex", "cwd": "/b", "resumable": True, "tasks": False, "limit": 1},
    {"status": "damaged"}, {"status": "error", "tag": "y", "before": "2026-01-20T00:00:00.000Z"},
    {"tag": "' OR 1=1 --"}, {"backend": "%"}, {"limit": 0},
]  # fmt: skip


def test_a_query_selects_what_fits_the_newest_first(store: Store, reopen: Callable[[], Store]):
    sessions = list(some_sessions(60, seed=7))
    for session in sessions:
        store.create(session)
    for query in QUERIES:
        wanted = Query(**query)
        fitting = [s for s in sessions if wanted.matches(s)]
        fitting.sort(key=lambda s: (-s.updated_at.timestamp(), s.id))
        expected = [s.id for s in fitting[: wanted.limit]]
        assert [s.id for s in reopen().select(wanted)] == expected, query
        assert reopen().count(wanted) == len(fitting), query


def test_a_query_sees_what_was_changed_a_moment_ago(store: Store, reopen: Callable[[], Store]):
    other = reopen()
    store.create(Session(id="s", status="active", tags=("a",)))
    assert len(other.select(Query(tag="a"))) == 1
    other.update("s", changed(status="error", tags=["b"]))
    assert store.select(Query(tag="a")) == []
    assert [s.status for s in store.select(Query(tag="b"))] == ["error"]
    store.delete("s")
    assert other.select(Query()) == []


def test_ids_are_matched_by_their_beginning(store: Store):
    for name in ("abc1", "ABC2", "b_d", "bxd"):
        store.create(Session(id=name))
    for text, found in {
        "abc": ["ABC2", "abc1"], "ABC": ["ABC2", "abc1"], "abc1": ["abc1"], "x": [], "%": [], "_": [],
        "": ["ABC2", "abc1", "b_d", "bxd"], "b_": ["b_d"], "*": [], "'": [],
    }.items():  # fmt: skip
        assert sorted(store.find_ids(text)) == found, text


def test_a_native_id_leads_to_its_sessions(store: Store):
    store.create(Session(id="a", native_ids={"claude": "n1", "codex": "n2"}))
    store.create(Session(id="b", native_ids={"codex": "n1"}))
    assert sorted(store.find_by_native_id(None, "n1")) == ["a", "b"]
    assert store.find_by_native_id("codex", "n1") == ["b"]
    assert store.find_by_native_id("claude", "n2") == []
    store.update("a", changed(native_ids={"claude": "n3"}))
    assert store.find_by_native_id(None, "n1") == ["b"]
    assert store.find_by_native_id("claude", "n3") == ["a"]


def test_who_runs_is_listed(store: Store, reopen: Callable[[], Store]):
    for name in ("a", "b"):
        store.create(Session(id=name))
    turn = store.acquire_turn("b")
    turn.note({"run": "x"})
    assert reopen().running_ids() == ["b"]
    turn.close()
    assert store.running_ids() == []


def test_clean_takes_what_is_old_and_does_not_run(store: Store):
    for day in (1, 2, 3):
        when = datetime(2026, 1, day, tzinfo=UTC)
        store.create(Session(id=f"d{day}", updated_at=when), [said("x")])
    turn = store.acquire_turn("d1")
    before = "2026-01-03T00:00:00.000Z"
    assert store.clean(before, dry_run=True) == ["d2"]
    assert ids(store) == ["d1", "d2", "d3"]
    assert store.clean(before) == ["d2"]
    turn.close()
    assert ids(store) == ["d1", "d3"]
    assert store.messages("d2") == []
    assert store.clean(before) == ["d1"]


# Search


@pytest.fixture
def library(store: Store) -> Store:
    store.create(
        Session(id="review", title="Code-review of the parser"),
        [said("Look at this PARSER, please")],
    )
    store.create(Session(id="naive"), [said("a naïve café question"), said("Straße", "assistant")])
    store.create(
        Session(id="other", prompt="nothing"), [said('quotes " and (brackets) AND OR NOT')]
    )
    return store


def test_search_finds_all_words_whatever_their_case(library: Store):
    for text, found in {
        "parser": ["review"], "PARSER": ["review"], "parser look": ["review"], "pars": ["review"],
        "code-review": ["review"], "cafe": ["naive"], "café": ["naive"], "parser café": [],
        "AND": ["other"], "NOT": ["other"], "brackets": ["other"], "absent": [],
    }.items():  # fmt: skip
        assert sorted(h.session.id for h in library.search(text)) == found, text


def test_search_finds_words_of_scripts_without_spaces(store: Store):
    texts = {
        "zh": "你好 这个解析器有问题，调用parse_file函数时\n出错",
        "ja": "エラーがﾃｽﾄで発生しました。ガラス",
        "ko": "전문검색을 지원합니다",
        "ko-nfd": unicodedata.normalize("NFD", "파일이름"),
        "th": "ค้นหาข้อความภาษาไทย",
        "wide": "ＡＰＩ１２３ has ﬁve 𠮷野家",
        "en": "the parser is fine",
    }
    for id_, text in texts.items():
        store.create(Session(id=id_), [said(text)])
    store.create(Session(id="title", title="搜索引擎"), [said("x")])
    for query, found in {
        "解析器": ["zh"], "这个": ["zh"], "析": ["zh"], "器有": ["zh"], "解析 问题": ["zh"], "解器": [],
        "器析": [], "parse_file": ["zh"], "用parse_file函": ["zh"], "解析器。": ["zh"], "时出错": ["zh"],
        "テスト": ["ja"], "ﾃｽﾄ": ["ja"], "ｴﾗｰ": ["ja"], "発生": ["ja"], "ガラス": ["ja"], "カラス": [],
        "검색": ["ko"], "검색을 전문": ["ko"], "색": ["ko"], "파일": ["ko-nfd"], "이름": ["ko-nfd"],
        "ข้อความ": ["th"], "api123": ["wide"], "ＰＡＲＳＥＲ": ["en"], "five": ["wide"], "野家": ["wide"],
        "𠮷": ["wide"], "引擎": ["title"], "搜 擎": ["title"], "搜索x": [], "解析 parser": [],
    }.items():  # fmt: skip
        assert [h.session.id for h in store.search(query)] == found, query
    (hit,) = store.search("解析器")
    assert "解析器" in hit.text


def test_any_text_is_a_valid_query(library: Store):
    for text in ('"', "a OR", "(", ")", "*", "^", ":", "title:x", "-", "--", "'", "", " ", "a AND (", 'x"y',
                 "NEAR(a b)", "a\0b", "x\ud83d", "{user}", "x" * 10_000):  # fmt: skip
        library.search(text)
        library.search(text, role="user", limit=1)
        assert library.find_ids(text) in ([], library.find_ids("")), text
        assert library.find_by_native_id(None, text) == [], text
        library.select(Query(tag=text, cwd=text))


def test_search_can_be_narrowed_to_a_role(library: Store):
    assert [h.session.id for h in library.search("straße", role="assistant")] == ["naive"]
    assert library.search("straße", role="user") == []


def test_a_hit_shows_the_word_in_its_surroundings(store: Store):
    store.create(Session(id="s"), [said("before " * 200 + "the needle is here " + "after " * 200)])
    (hit,) = store.search("needle")
    assert "the needle is here" in hit.text
    assert len(hit.text) < 300
    assert (hit.role, hit.words) == ("user", ("needle",))


def test_search_sees_what_was_said_a_moment_ago_and_nothing_that_is_gone(library: Store):
    library.append("other", [said("a brand new thing", "assistant")], same)
    assert [h.session.id for h in library.search("brand")] == ["other"]
    library.delete("other")
    assert library.search("brand") == []


def test_reindexing_changes_no_answer(library: Store):
    before = [h.session.id for h in library.search("parser")], ids(library)
    seen = []
    assert library.reindex(lambda done, of: seen.append((done, of))) == 3
    assert ([h.session.id for h in library.search("parser")], ids(library)) == before


# Turns


def test_a_session_has_one_turn_at_a_time(store: Store, reopen: Callable[[], Store]):
    store.create(Session(id="s"))
    turn = store.acquire_turn("s")
    assert reopen().acquire_turn("s") is None
    turn.close()
    again = reopen().acquire_turn("s")
    assert again is not None
    again.close()


def test_turns_of_different_sessions_do_not_meet(store: Store):
    turns = [store.acquire_turn(name) for name in ("a", "b", "c")]
    assert None not in turns
    for turn in turns:
        turn.close()


def test_who_runs_is_seen_with_what_it_noted(store: Store, reopen: Callable[[], Store]):
    store.create(Session(id="s"))
    assert store.running_turn("s") is None
    turn = store.acquire_turn("s")
    turn.note({"run": "x", "group": 7})
    assert reopen().running_turn("s") == {"run": "x", "group": 7}
    turn.close()
    assert store.running_turn("s") is None


def test_a_running_session_is_not_deleted(store: Store, reopen: Callable[[], Store]):
    store.create(Session(id="s"))
    turn = store.acquire_turn("s")
    with pytest.raises(SessionError, match="is running"):
        reopen().delete("s")
    assert store.get("s")
    turn.close()
    store.delete("s")


def test_a_turn_that_closed_leaves_nothing_for_the_next(store: Store):
    turn = store.acquire_turn("s")
    turn.note({"run": "x"})
    turn.close()
    after = store.acquire_turn("s")
    assert after.leftover is None
    after.close()


def test_a_turn_that_was_abandoned_leaves_its_note(store: Store):
    turn = store.acquire_turn("s")
    turn.note({"run": "a long note " * 20})
    turn.note({"run": "x"})
    turn.abandon()
    after = store.acquire_turn("s")
    assert after.leftover == {"run": "x"}
    after.close()


def test_a_turn_of_a_killed_process_is_free_and_leaves_its_note(
    store: Store, url: str, tmp_path: Path
):
    script = f"""
import os
from pathlib import Path
from clinvk.store import open_store
turn = open_store({url!r}, Path({str(tmp_path / "home")!r})).acquire_turn("s")
turn.note({{"run": "x"}})
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=False).returncode == -9
    assert store.running_turn("s") is None
    turn = store.acquire_turn("s")
    assert turn.leftover == {"run": "x"}
    turn.close()


def test_looking_at_a_session_does_not_take_its_turn(store: Store):
    """`sessions list` in one window must not make a run in another one fail."""
    store.create(Session(id="s"))
    for _ in range(200):
        store.running_turn("s")
        turn = store.acquire_turn("s")
        assert turn is not None
        turn.close()


# Many at once

# Processes of their own that share what was loaded before: loading takes longer than what they do.
# They open the store themselves.
PROCESSES = """
import os, sys
from pathlib import Path
import redis
from clinvk.errors import SessionError
from clinvk.session import Message, Session
from clinvk.store import open_store
url, home, count = sys.argv[1:]
def in_processes(work):
    pids = []
    for n in range(int(count)):
        if not (pid := os.fork()):
            status = 1
            try:
                work(open_store(url, Path(home)), f"w{n}")
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)
"""
WRITERS = """
def write(store, name):
    for i in range(%d):
        store.append(
            "s", [Message("user", f"{name}-{i}")],
            lambda s: Session.from_json(s.to_json() | {"turns": s.turns + 1}),
        )
in_processes(write)
"""
CREATORS = """
def create(store, name):
    try:
        store.create(Session(id="same", title=name), exact=True)
        os.write(1, b"made\\n")
    except SessionError:
        os.write(1, b"taken\\n")
in_processes(create)
"""


def processes(count: int, work: str, url: str, tmp_path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROCESSES + work, url, str(tmp_path / "home"), str(count)],
        cwd=PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_twenty_writers_at_once_lose_nothing(store: Store, url: str, tmp_path: Path):
    store.create(Session(id="s"))
    with processes(20, WRITERS % 10, url, tmp_path) as writers:
        assert writers.wait(60) == 0
    assert store.get("s").turns == 200
    found = [m.content for m in store.messages("s")]
    assert sorted(found) == sorted(f"w{n}-{i}" for n in range(20) for i in range(10))
    for n in range(20):  # each writer's own in their order
        mine = [text for text in found if text.startswith(f"w{n}-")]
        assert mine == [f"w{n}-{i}" for i in range(10)]


def test_two_creators_of_a_name_make_one_session(url: str, tmp_path: Path):
    with processes(8, CREATORS, url, tmp_path) as creators:
        out, _ = creators.communicate(timeout=60)
    assert creators.returncode == 0
    assert sorted(out.split()) == ["made"] + 7 * ["taken"]


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from clinvk.session import Message, Session
from clinvk.store import open_store
url, home, seed = sys.argv[1:]
random.seed(int(seed))
store = open_store(url, Path(home))
for _ in range(40):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        own = open_store(url, Path(home))
        while True:
            size = random.choice((10, 5_000, 300_000))
            own.append(
                "s", [Message("user", "x" * size)],
                lambda s: Session.from_json(
                    s.to_json() | {"turns": s.turns + 1, "metadata": {"x": "y" * size}}
                ),
            )
            os.write(write, b".")
    os.close(write)
    acknowledged = os.read(read, 1)
    time.sleep(random.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while piece := os.read(read, 65_536):
        acknowledged += piece
    os.close(read)
    print(len(acknowledged), flush=True)
    store.get("s"), store.messages("s")
"""


def test_forty_kills_in_the_middle_of_writes_damage_nothing(store: Store, url: str, tmp_path: Path):
    store.create(Session(id="s"))
    seed = random.randrange(10_000)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, url, str(tmp_path / "home"), str(seed)],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (seed, done.stderr)
    acknowledged = sum(map(int, done.stdout.split()))
    assert acknowledged >= 40
    found = store.messages("s")
    assert acknowledged <= len(found) <= acknowledged + 40, seed
    assert acknowledged <= store.get("s").turns <= acknowledged + 40, seed
    assert {len(m.content) for m in found} <= {10, 5_000, 300_000}
    store.append("s", [said("after")], same)
    assert store.messages("s")[-1].content == "after"


def test_a_reader_never_sees_half_a_record(store: Store, url: str, tmp_path: Path):
    store.create(Session(id="s"))
    with processes(1, WRITERS % 300, url, tmp_path) as writer:
        seen = 0
        while writer.poll() is None:
            session = store.get("s")
            assert session.turns >= seen
            seen = session.turns
            store.messages("s")
    assert store.get("s").turns == 300


# Which store


@pytest.mark.parametrize("url", ["", "files", "mysql://x", "redis", "~/x"])
def test_an_unknown_kind_of_store_is_an_error(url: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown store"):
        keep(open_store(url, tmp_path))


def test_a_session_that_was_cut_off_is_neither_deleted_nor_cleaned(store: Store):
    store.create(Session(id="s", updated_at=datetime(2026, 1, 1, tzinfo=UTC)), [said("x")])
    turn = store.acquire_turn("s")
    turn.note({"run": "x"})
    turn.abandon()
    with pytest.raises(SessionError, match="was interrupted"):
        store.delete("s")
    before = "2026-01-03T00:00:00.000Z"
    assert store.clean(before, dry_run=True) == store.clean(before) == []
    store.acquire_turn("s").close()
    assert store.clean(before) == ["s"]
