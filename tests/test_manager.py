"""`SessionManager`, as a Python program uses it."""

import json
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from clinvk import Message, MessageRole, Session, SessionManager, SessionNotFound
from clinvk.dispatch import recovery
from clinvk.errors import ClinvkError, ConfigError, SessionError, UsageError
from clinvk.process.marker import MARKER, new_marker
from clinvk.sessions.analysis import analyze_with_model
from clinvk.sessions.autosave import Autosave
from tests.stores import keep


@pytest.fixture(params=["file", "sqlite"])
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> SessionManager:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    if request.param == "sqlite":
        (home / "config.yaml").write_text(f"session: {{storage: 'sqlite:///{tmp_path}/s.db'}}\n")
    return keep(SessionManager(home=home))


def user(text: str, **metadata: object) -> Message:
    return Message("user", text, metadata=metadata)


def agent(text: str) -> Message:
    return Message("assistant", text)


def filled(sessions: SessionManager, *texts: str, **settings: object) -> str:
    """A session of prompts and answers in turn."""
    id_ = sessions.create_session(**settings)
    for i, text in enumerate(texts):
        sessions.add_message(id_, agent(text) if i % 2 else user(text))
    return id_


def words(sessions: SessionManager, id_: str) -> list[str]:
    return [m.content for m in sessions.get_messages(id_)]


def test_the_public_names_are_where_the_documents_say():
    from clinvk import session

    assert session.SessionManager is SessionManager
    assert (session.Session, session.Message, session.MessageRole) == (
        Session,
        Message,
        MessageRole,
    )
    message = Message(MessageRole.USER, "hi")
    assert (message.role, message.metadata, message.tokens) == ("user", {}, None)
    assert message.timestamp.tzinfo is not None
    made = Session(id="s", messages=[message], metadata={"a": 1}, template="coding", title="T")
    assert (made.messages, made.created_at.tzinfo) == ([message], UTC)


def test_a_time_without_a_zone_is_local():
    naive = datetime(2026, 3, 1, 12)  # noqa: DTZ001
    assert Message("user", "x", naive).timestamp == naive.astimezone()


# Making and reading.


def test_a_session_is_read_as_it_was_made(sessions: SessionManager):
    id_ = sessions.create_session(title="T", metadata={"ticket": 7})
    sessions.add_message(id_, user("hello", user="ada"))
    found = sessions.get_session(id_)
    assert (found.title, found.metadata, found.counts) == ("T", {"ticket": 7}, {"user": 1})
    assert [m.content for m in found.messages] == ["hello"]
    assert found.messages[0].metadata == {"user": "ada"}
    assert found.prompt == "hello"
    assert sessions.load_session(id_) == found


def test_messages_are_in_the_transcript_and_not_in_the_record(tmp_path: Path):
    id_ = filled(keep(SessionManager(home=tmp_path)), "hello")
    record = json.loads((tmp_path / "sessions" / f"{id_}.json").read_text())
    assert "messages" not in record
    assert record["counts"] == {"user": 1}


@pytest.mark.parametrize("id_", ["nobody", "../x", "a b", "", "last"])
def test_a_missing_session_is_a_missing_file(sessions: SessionManager, id_: str):
    for call in (
        lambda: sessions.get_session(id_),
        lambda: sessions.load_session(id_),
        lambda: sessions.save_session(id_),
        lambda: sessions.add_message(id_, user("x")),
        lambda: sessions.get_messages(id_),
        lambda: sessions.update_title(id_, "x"),
        lambda: sessions.update_metadata(id_, {}),
        lambda: sessions.update_message_metadata(id_, message_index=0, metadata={}),
        lambda: sessions.update_session_messages(id_, []),
        lambda: sessions.branch_session(id_),
        lambda: sessions.merge_sessions(id_, id_),
        lambda: sessions.export_session(id_),
        lambda: sessions.get_session_stats(id_),
        lambda: sessions.delete_session(id_),
    ):
        with pytest.raises(SessionNotFound) as raised:
            call()
        assert isinstance(raised.value, FileNotFoundError)
    assert not (sessions.home / "locks" / id_).is_file()


def test_a_name_is_taken_once(sessions: SessionManager):
    assert sessions.create_session(name="demo") == "demo"
    with pytest.raises(SessionError, match="already exists"):
        sessions.create_session(name="Demo")


def test_sessions_are_listed_by_their_metadata(sessions: SessionManager):
    a = sessions.create_session(metadata={"project": "x", "n": 1})
    b = sessions.create_session(metadata={"project": "x", "n": 2})
    sessions.create_session(metadata={"n": "1"})

    def ids(**wanted: object) -> set[str]:
        return {s.id for s in sessions.list_sessions(filter_metadata=wanted)}

    assert len(sessions.list_sessions()) == 3
    assert ids(project="x") == {a, b}
    assert ids(project="x", n=1) == {a}
    assert ids(project="y") == set()
    assert len(sessions.list_sessions(limit=2)) == 2


def test_sessions_are_found_by_what_was_said(sessions: SessionManager):
    id_ = filled(sessions, "where are the tables of the parser", "in read.py")
    filled(sessions, "something else")
    assert [s.id for s in sessions.search_sessions("TABLES parser")] == [id_]
    assert sessions.search_sessions("nowhere") == []


def test_messages_are_the_last_ones_of_a_role_since_a_moment(sessions: SessionManager):
    id_ = sessions.create_session()
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for i in range(6):
        role = MessageRole.ASSISTANT if i % 2 else MessageRole.USER
        sessions.add_message(id_, Message(role, str(i), start + timedelta(hours=i)))

    def got(**wanted: object) -> str:
        return "".join(m.content for m in sessions.get_messages(id_, **wanted))

    assert got() == "012345"
    assert got(limit=2) == "45"
    assert got(limit=0) == ""
    assert got(limit=99) == "012345"
    assert got(role="user") == "024"
    assert got(role=MessageRole.ASSISTANT, limit=1) == "5"
    assert got(since=start + timedelta(hours=3)) == "345"
    with pytest.raises(ValueError, match="robot"):
        got(role="robot")


# Changing.


def test_metadata_is_merged_and_the_title_is_replaced(sessions: SessionManager):
    id_ = sessions.create_session(title="Old", metadata={"a": 1, "b": 1})
    sessions.update_metadata(id_, {"b": 2, "c": 3})
    sessions.update_title(id_, "New")
    found = sessions.get_session(id_)
    assert (found.title, found.metadata) == ("New", {"a": 1, "b": 2, "c": 3})
    sessions.update_title(id_, None)
    assert sessions.get_session(id_).title is None


def test_naming_a_session_is_not_using_it(sessions: SessionManager):
    id_ = filled(sessions, "x")
    before = sessions.get_session(id_).updated_at
    sessions.edit_session(id_, title="T", tags=["t"], status="archived")
    found = sessions.get_session(id_)
    assert (found.updated_at, found.tags, found.status) == (before, ("t",), "archived")


def test_a_status_that_none_is_to_set_is_refused(sessions: SessionManager):
    id_ = sessions.create_session()
    for status in ("error", "running", "done"):
        with pytest.raises(UsageError, match="invalid status"):
            sessions.edit_session(id_, status=status)


def test_one_message_gets_metadata(sessions: SessionManager):
    id_ = filled(sessions, "a", "b", "c")
    sessions.update_message_metadata(id_, message_index=1, metadata={"good": True})
    sessions.update_message_metadata(id_, message_index=-1, metadata={"last": 1})
    sessions.update_message_metadata(id_, message_index=1, metadata={"more": 2})
    said = sessions.get_messages(id_)
    assert [m.metadata for m in said] == [{}, {"good": True, "more": 2}, {"last": 1}]
    with pytest.raises(SessionError, match="no message 3"):
        sessions.update_message_metadata(id_, message_index=3, metadata={})


def test_a_transcript_is_replaced(sessions: SessionManager):
    id_ = filled(sessions, "a", "b", "c")
    sessions.update_session_messages(id_, [user("only")])
    found = sessions.get_session(id_)
    assert ([m.content for m in found.messages], found.counts) == (["only"], {"user": 1})
    assert found.prompt == "only"
    assert [s.id for s in sessions.search_sessions("only")] == [id_]


def test_a_backend_that_knows_what_is_gone_is_left_behind(sessions: SessionManager):
    id_ = filled(sessions, "a", "b")
    sessions.store.update(id_, lambda s: replace(s, native_ids={"claude": "n"}))
    sessions.update_message_metadata(id_, 0, {"x": 1})
    said = sessions.get_messages(id_)
    sessions.update_session_messages(id_, [*said, user("c")])
    assert sessions.get_session(id_).native_ids == {"claude": "n"}
    sessions.update_session_messages(id_, said[:1])
    assert sessions.get_session(id_).native_ids == {}


def test_what_looks_like_a_key_is_not_stored(sessions: SessionManager):
    key = "ghp_" + "aB3dE6gH9" * 4
    id_ = filled(sessions, f"use {key}", title=f"with {key}")
    sessions.update_session_messages(id_, [*sessions.get_messages(id_), user(key)])
    sessions.update_title(id_, key)
    assert key not in sessions.export_session(id_, "json")
    assert "redacted" in sessions.export_session(id_, "json")


def test_a_session_is_saved_as_it_is_given(sessions: SessionManager):
    made = Session(id="mine", messages=[user("a")], title="T", metadata={"x": 1})
    sessions.save_session(made)
    found = sessions.load_session("mine")
    assert (found.title, found.metadata, found.counts) == ("T", {"x": 1}, {"user": 1})
    found.messages.append(agent("b"))
    sessions.save_session(replace(found, title="U"))
    found.messages.append(user("c"))
    sessions.save_session(found)  # what it lacks is nothing that was said
    assert words(sessions, "mine") == ["a", "b", "c"]


def test_saving_loses_no_message_of_somebody_else(sessions: SessionManager):
    id_ = filled(sessions, "a")
    mine = sessions.load_session(id_)
    time.sleep(0.002)  # times are kept in milliseconds
    sessions.add_message(id_, agent("b"))
    mine.messages.append(user("mine"))
    with pytest.raises(SessionError, match="changed since it was read"):
        sessions.save_session(mine)
    assert words(sessions, id_) == ["a", "b"]


def test_a_session_that_runs_is_not_rewritten(sessions: SessionManager):
    id_ = filled(sessions, "a")
    turn = sessions.store.acquire_turn(id_)
    assert turn is not None
    for call in (
        lambda: sessions.update_session_messages(id_, []),
        lambda: sessions.update_message_metadata(id_, 0, {}),
        lambda: sessions.save_session(sessions.get_session(id_)),
        lambda: sessions.edit_session(id_, status="archived"),
        lambda: sessions.delete_session(id_),
    ):
        with pytest.raises(SessionError, match="is running"):
            call()
    sessions.add_message(id_, agent("b"))
    sessions.update_title(id_, "T")
    turn.close()
    assert words(sessions, id_) == ["a", "b"]


def test_what_a_killed_turn_left_is_still_there_after_a_rewrite(sessions: SessionManager):
    id_ = filled(sessions, "a")
    turn = sessions.store.acquire_turn(id_)
    assert turn is not None
    turn.note({"run": "x"})
    turn.abandon()
    sessions.update_session_messages(id_, [user("b")])
    turn = sessions.store.acquire_turn(id_)
    assert turn is not None
    assert turn.leftover == {"run": "x"}
    turn.close()


def test_a_session_is_deleted(sessions: SessionManager):
    id_ = filled(sessions, "a")
    sessions.delete_session(id_)
    with pytest.raises(SessionNotFound):
        sessions.get_session(id_)


# Two writers.


def _write(home: Path, id_: str, who: str, count: int) -> None:
    sessions = keep(SessionManager(home=home))
    for i in range(count):
        sessions.add_message(id_, user(f"{who}{i}"))
        sessions.update_metadata(id_, {f"{who}{i}": i})


def _mark(home: Path, id_: str, count: int) -> None:
    sessions = keep(SessionManager(home=home))
    done = 0
    while done < count:
        try:
            sessions.update_message_metadata(id_, 0, {f"m{done}": 1})
        except SessionError:  # another one has its turn
            continue
        done += 1


def test_no_message_and_no_change_is_lost_with_several_writers(sessions: SessionManager):
    id_ = filled(sessions, "first")
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(sessions.home, id_, w, 15)) for w in "ab"]
    writers += [spawn.Process(target=_mark, args=(sessions.home, id_, 15)) for _ in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    found = sessions.get_session(id_)
    said = [m.content for m in found.messages]
    assert sorted(said[1:]) == sorted(f"{w}{i}" for w in "ab" for i in range(15))
    assert found.counts == {"user": 31}
    assert len(found.metadata) == 30
    assert len(found.messages[0].metadata) == 15


# Shared sessions.


def test_a_shared_session_takes_messages_of_its_participants_alone(sessions: SessionManager):
    id_ = sessions.create_session(metadata={"type": "shared", "participants": ["ada", "bob"]})
    sessions.add_message(id_, user("hi", user="ada"))
    sessions.add_message(id_, agent("hello"))
    with pytest.raises(PermissionError, match="eve") as raised:
        sessions.add_message(id_, user("me too", user="eve"))
    assert isinstance(raised.value, SessionError)
    with pytest.raises(PermissionError):
        sessions.update_session_messages(id_, [user("x", user="eve")])
    with pytest.raises(PermissionError):
        sessions.update_message_metadata(id_, 0, {"user": "eve"})
    assert words(sessions, id_) == ["hi", "hello"]
    sessions.update_metadata(id_, {"participants": ["eve"]})
    sessions.add_message(id_, user("now", user="eve"))


def test_a_session_that_is_not_shared_takes_all(sessions: SessionManager):
    id_ = sessions.create_session(metadata={"participants": ["ada"]})
    sessions.add_message(id_, user("x", user="eve"))


# Templates.


@pytest.mark.parametrize("name", ["coding", "analysis", "creative"])
def test_a_built_in_template_begins_with_instructions(sessions: SessionManager, name: str):
    id_ = sessions.create_session(template=name, metadata={"x": 1})
    found = sessions.get_session(id_)
    assert [m.role for m in found.messages] == ["system"]
    assert found.template == name
    assert found.metadata["x"] == 1
    assert [s.id for s in sessions.list_sessions(filter_metadata={"template": name})] == [id_]


def test_a_registered_template_is_used_by_every_later_session(sessions: SessionManager):
    sessions.register_template(
        "review",
        {
            "system_message": "Review what you see.",
            "default_metadata": {"kind": "review", "x": 1},
            "suggested_parameters": {"model": "opus", "sandbox": "read-only"},
        },
    )
    again = keep(SessionManager(home=sessions.home))
    found = again.get_session(again.create_session(template="review", metadata={"x": 2}))
    assert found.messages[0].content == "Review what you see."
    assert found.metadata == {"kind": "review", "x": 2}
    assert found.options == {"model": "opus", "sandbox": "read-only"}
    assert found.model == "opus"
    path = sessions.home / "templates" / "review.yaml"
    assert yaml.safe_load(path.read_text())["system_message"] == "Review what you see."
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_template_of_the_users_replaces_a_built_in_one(sessions: SessionManager):
    sessions.register_template("coding", {"system_message": "Mine."})
    found = sessions.get_session(sessions.create_session(template="coding"))
    assert found.messages[0].content == "Mine."
    assert sessions.list_templates() == ["coding", "analysis", "creative"]


def test_a_template_that_does_not_exist_or_is_none_is_refused(sessions: SessionManager):
    with pytest.raises(ConfigError, match="unknown template 'nope'"):
        sessions.create_session(template="nope")
    with pytest.raises(ConfigError, match="unknown template"):
        sessions.create_session(template="../../x")
    with pytest.raises(ConfigError, match="did you mean 'system_message'"):
        sessions.register_template("x", {"system_mesage": "x"})
    with pytest.raises(SessionError):
        sessions.register_template("../x", {})
    path = sessions.home / "templates" / "bad.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        sessions.create_session(template="bad")


# Autosave.


def test_messages_wait_until_they_are_saved(sessions: SessionManager):
    sessions.configure_autosave(enabled=False)
    id_ = filled(sessions, "a", "b")
    other = keep(SessionManager(home=sessions.home))
    assert words(other, id_) == []
    assert words(sessions, id_) == ["a", "b"]
    assert len(sessions.get_session(id_).messages) == 2
    sessions.save_session(id_)
    assert words(other, id_) == ["a", "b"]
    assert words(sessions, id_) == ["a", "b"]
    assert other.get_session(id_).counts == {"user": 1, "assistant": 1}


def test_what_waits_is_in_the_session_that_is_saved_and_only_once(sessions: SessionManager):
    sessions.configure_autosave(enabled=False)
    id_ = filled(sessions, "a")
    found = sessions.get_session(id_)
    found.messages.append(agent("b"))
    sessions.save_session(found)
    assert words(sessions, id_) == ["a", "b"]


def test_enabling_autosave_writes_what_waits(sessions: SessionManager):
    sessions.configure_autosave(enabled=False)
    id_ = filled(sessions, "a")
    sessions.configure_autosave(enabled=True)
    assert words(keep(SessionManager(home=sessions.home)), id_) == ["a"]


def test_leaving_the_block_writes_what_waits(tmp_path: Path):
    with SessionManager(home=tmp_path) as sessions:
        sessions.configure_autosave(enabled=True, interval=1000)
        id_ = filled(sessions, "a", "b")
        assert words(keep(SessionManager(home=tmp_path)), id_) == []
    assert words(keep(SessionManager(home=tmp_path)), id_) == ["a", "b"]


def test_what_waited_longer_than_the_interval_is_written_with_the_next_message():
    written: list[tuple[str, int]] = []
    saving = Autosave(lambda id_, said: written.append((id_, len(said))))
    saving.configure(enabled=True, interval=0.5)
    saving.add("a", user("1"))
    assert written == []
    time.sleep(0.6)
    saving.add("b", user("2"))
    assert written == [("a", 1), ("b", 1)]


def test_a_negative_interval_is_refused(sessions: SessionManager):
    with pytest.raises(UsageError, match="negative"):
        sessions.configure_autosave(enabled=True, interval=-1)


# Conversations out of conversations.


def test_a_branch_is_a_session_of_its_own(sessions: SessionManager):
    id_ = filled(sessions, "a", "b", "c", title="T")
    new = sessions.branch_session(id_, from_message_index=1, title="Other way")
    sessions.add_message(new, user("d"))
    assert words(sessions, new) == ["a", "b", "d"]
    assert words(sessions, id_) == ["a", "b", "c"]
    found = sessions.get_session(new)
    assert (found.title, found.parents) == ("Other way", (id_,))
    assert found.metadata["branched_from"] == id_


def test_branches_merge_again(sessions: SessionManager):
    id_ = filled(sessions, "a", "b")
    new = sessions.branch_session(id_)
    sessions.add_message(id_, user("c"))
    sessions.add_message(new, user("d"))
    merged = sessions.merge_sessions(
        primary_session_id=id_, secondary_session_id=new, strategy="chronological"
    )
    assert words(sessions, merged) == ["a", "b", "c", "d"]
    manual = sessions.merge_sessions(id_, new, "manual", order=[(new, 2), (id_, 2)])
    assert words(sessions, manual) == ["d", "c"]
    assert sessions.get_session(merged).parents == (id_, new)


def test_stats_are_those_of_the_stored_session(sessions: SessionManager):
    found = sessions.get_session_stats(filled(sessions, "a", "b", "c"))
    assert (found["message_count"], found["user_assistant_ratio"]) == (3, 2.0)
    assert found["avg_response_time"] >= 0


def test_a_flow_has_topics_and_a_mood_for_each_message(sessions: SessionManager):
    id_ = filled(sessions, "I love this parser, it is wonderful.", "The parser crashes horribly.")
    flow = sessions.analyze_conversation_flow(id_)
    assert "parser" in flow["topics"]
    first, second = flow["sentiment_over_time"]
    assert first["sentiment"] > 0 > second["sentiment"]
    assert (first["index"], first["role"]) == (0, "user")
    assert sessions.analyze_conversation_flow(sessions.create_session())["topics"] == []


def test_a_model_can_be_asked_what_a_conversation_is_about():
    session = Session(id="s", messages=[Message("system", "x"), user("good {x}"), agent("bad")])
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return 'Here:\n{"topics": ["weather"], "sentiment": [1, -7]}'

    flow = analyze_with_model(session, ask)
    assert "good {x}" in asked[0]
    assert flow["topics"] == ["weather"]
    assert [m["sentiment"] for m in flow["sentiment_over_time"]] == [1, -1]
    for answer in ("I cannot", '{"topics": []}', '{"topics": [], "sentiment": [1]}', "{"):
        with pytest.raises(ClinvkError, match="cannot be read"):
            analyze_with_model(session, lambda _, answer=answer: answer)


# Deleting what is damaged, waits, or was cut off.


def test_what_a_killed_turn_left_is_ended_before_its_session_is_deleted(sessions: SessionManager):
    id_ = filled(sessions, "a")
    made = (
        "import json, clinvk.dispatch.recovery as r, clinvk.process.marker as s;"
        f"print(json.dumps(r.turn_facts(s.new_marker({{}}), {id_!r})))"
    )
    note = json.loads(subprocess.check_output([sys.executable, "-c", made]))  # and it is gone
    left = subprocess.Popen(["sleep", "300"], env={**os.environ, MARKER: note["run"]})
    turn = sessions.store.acquire_turn(id_)
    assert turn is not None
    turn.note(note)
    turn.abandon()
    sessions.delete_session(id_)
    assert left.wait(60)
    with pytest.raises(SessionNotFound):
        sessions.get_session(id_)


def test_what_runs_elsewhere_keeps_its_session(sessions: SessionManager):
    id_ = filled(sessions, "a")
    turn = sessions.store.acquire_turn(id_)
    assert turn is not None
    turn.note({**recovery.turn_facts(new_marker({}), id_), "host": "elsewhere"})
    turn.abandon()
    with pytest.raises(SessionError, match="elsewhere"):
        sessions.delete_session(id_)
    assert sessions.get_session(id_).id == id_


def test_a_damaged_session_can_be_deleted(tmp_path: Path):
    sessions = keep(SessionManager(home=tmp_path))
    id_ = filled(sessions, "a")
    (tmp_path / "sessions" / f"{id_}.json").write_text("{")
    sessions.delete_session(id_)
    with pytest.raises(SessionNotFound):
        sessions.delete_session(id_)


def test_a_refused_delete_loses_no_waiting_message(sessions: SessionManager):
    id_ = filled(sessions, "a")
    sessions.configure_autosave(interval=1000)
    sessions.add_message(id_, agent("b"))
    turn = sessions.store.acquire_turn(id_)
    assert turn is not None
    with pytest.raises(SessionError):
        sessions.delete_session(id_)
    turn.close()
    assert words(sessions, id_) == ["a", "b"]


def test_a_session_that_fails_keeps_no_other_from_being_saved():
    written = []

    def write(id_: str, _: list[Message]) -> None:
        if id_ == "bad":
            raise SessionError("full")
        written.append(id_)

    saving = Autosave(write)
    saving.configure(enabled=False, interval=0)
    for id_ in ("bad", "good"):
        saving.add(id_, user("x"))
    with pytest.raises(SessionError, match="full"):
        saving.flush()
    assert written == ["good"]
    assert len(saving.pending("bad")) == 1


def test_a_template_may_contain_its_own_name_and_no_other(sessions: SessionManager):
    template = {"name": "research", "system_message": "Cite your sources."}
    sessions.register_template("research", template)
    made = sessions.get_session(sessions.create_session(template="research"))
    assert made.messages[0].content == "Cite your sources."
    with pytest.raises(ConfigError, match="is not its name"):
        sessions.register_template("search", template)
    (sessions.home / "templates" / "other.yaml").write_text("name: research\n")
    with pytest.raises(ConfigError, match=r"other\.yaml: line 1: name: 'research' is not its name"):
        sessions.create_session(template="other")


def test_an_export_template_sees_the_messages_of_its_session(sessions: SessionManager):
    sessions.register_export_template(
        "custom",
        "{{ session.messages|length }} {% for message in session.messages %}"
        "{{ message.role|title }} {{ message.timestamp[:2] }}: {{ message.content }}. {% endfor %}",
    )
    id_ = filled(sessions, "one", "two")
    exported = sessions.export_session(id_, export_format="custom")
    assert exported == "2 User 20: one. Assistant 20: two. "
    page = sessions.export_session(id_, export_format="html", theme="default")
    assert page == sessions.export_session(id_, export_format="html", theme="auto")
