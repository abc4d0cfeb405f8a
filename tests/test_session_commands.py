"""`clinvk sessions start`, `edit`, `archive`, `branch`, `merge`, `stats`, `export`; `templates`."""

import json
from pathlib import Path

import pytest

from clinvk.model.session import Message, Session
from clinvk.store import open_store
from clinvk.store.base import Store
from tests.stores import keep

from .conftest import CommandLine, Home


@pytest.fixture
def store(home: Home) -> Store:
    return keep(open_store("file", home.path))


def past(store: Store, id_: str, *texts: str, **values: object) -> Session:
    """A session of prompts and answers in turn."""
    said = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    counts = {"user": (len(said) + 1) // 2, "assistant": len(said) // 2}
    return store.create(Session(id=id_, counts=counts, **values), said)


def words(home: Home, id_: str) -> list[str]:
    return [line["content"] for line in home.transcript(id_)]


# start


@pytest.mark.parametrize("command", ["start", "create"])
def test_a_session_is_made_under_its_name(clinvk: CommandLine, home: Home, command: str):
    done = clinvk("sessions", command, "demo", "--title", "T", "--metadata", '{"ticket": 7}',
                  "--tag", "x", "--backend", "echo", "--model", "m", "--template", "coding")  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "demo\n", "")
    record = home.record("demo")
    assert (record["title"], record["tags"], record["template"]) == ("T", ["x"], "coding")
    assert record["metadata"] == {"purpose": "coding", "ticket": 7}
    assert (record["backend"], record["options"]) == ("echo", {"model": "m"})
    assert [line["role"] for line in home.transcript("demo")] == ["system"]


def test_a_session_without_a_name_gets_an_id(clinvk: CommandLine, home: Home):
    done = clinvk("sessions", "start")
    assert home.ids() == [done.stdout.strip()]
    assert clinvk.json("sessions", "start", "--json")["id"] in home.ids()


def test_a_made_session_is_gone_on_with_under_its_name(clinvk: CommandLine, home: Home):
    home.backend("fake")
    clinvk("sessions", "start", "demo", "--backend", "fake")
    done = clinvk("--session", "demo", "hello")
    assert done.returncode == 0, done.stderr
    assert home.ids() == ["demo"]
    assert words(home, "demo") == ["hello", "It is done."]


def test_a_taken_name_exits_with_4(clinvk: CommandLine):
    clinvk("sessions", "start", "demo")
    done = clinvk("sessions", "start", "DEMO")
    assert (done.returncode, done.stdout) == (4, "")
    assert "already exists" in done.stderr


WRONG = {
    ("start", "a/b"): 4, ("start", "last"): 4, ("start", "--template", "nope"): 3,
    ("start", "--metadata", "{"): 1, ("start", "--metadata", "[1]"): 1, ("start", "--backend", "nobody"): 2,
    ("edit", "s"): 1, ("edit", "s", "--status", "error"): 1, ("edit", "s", "--status", "gone"): 1,
    ("edit", "nobody", "--title", "x"): 4, ("archive", "nobody"): 4,
    ("branch", "s", "--at", "9"): 4, ("branch", "nobody"): 4,
    ("merge", "s", "nobody"): 4, ("merge", "s", "s", "--strategy", "x"): 1,
    ("merge", "s", "s", "--strategy", "manual", "--order", "c:1"): 1,
    ("merge", "s", "s", "--order", "a:0"): 1,
    ("stats", "nobody"): 4, ("export", "nobody"): 4, ("export", "s", "--format", "pdf"): 1,
    ("export", "s", "--theme", "pink"): 1, ("export", "s", "--output", "/no/such/file"): 1,
}  # fmt: skip


@pytest.mark.parametrize("args", WRONG, ids=" ".join)
def test_what_is_wrong_is_said_with_its_exit_code(
    clinvk: CommandLine, home: Home, store: Store, args: tuple[str, ...]
):
    past(store, "s", "hi", "hello")
    done = clinvk("sessions", *args)
    assert (done.returncode, done.stdout) == (WRONG[args], "")
    assert done.stderr.startswith("clinvk: ")
    assert "unexpected" not in done.stderr
    assert home.ids() == ["s"]


# edit, archive


def test_a_session_is_edited(clinvk: CommandLine, home: Home, store: Store):
    past(store, "s", "hi", tags=("a", "b"), metadata={"x": 1})
    done = clinvk("sessions", "edit", "s", "--title", "T", "--tag", "c", "--untag", "a",
                  "--status", "paused", "--metadata", '{"y": 2}')  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "Session s changed.\n")
    record = home.record("s")
    assert (record["title"], record["tags"], record["status"]) == ("T", ["b", "c"], "paused")
    assert record["metadata"] == {"x": 1, "y": 2}
    clinvk("sessions", "edit", "s", "--title", "")
    assert home.record("s")["title"] is None


def test_archived_sessions_are_not_gone_on_with_until_they_are_active_again(
    clinvk: CommandLine, home: Home
):
    home.backend("fake")
    clinvk("-b", "fake", "hello")
    (id_,) = home.ids()
    done = clinvk("sessions", "archive", id_[:6])
    assert (done.returncode, done.stdout) == (0, f"Session {id_} archived.\n")
    assert clinvk("resume", id_, "go on").returncode == 4
    clinvk("sessions", "edit", id_, "--status", "active")
    assert clinvk("resume", id_, "go on").returncode == 0


def test_archiving_goes_on_after_one_that_is_not_there(
    clinvk: CommandLine, home: Home, store: Store
):
    past(store, "s", "hi")
    done = clinvk("sessions", "archive", "nobody", "s")
    assert (done.returncode, done.stdout) == (4, "Session s archived.\n")


def test_a_running_session_is_not_archived(clinvk: CommandLine, home: Home, store: Store):
    past(store, "s", "hi")
    turn = store.acquire_turn("s")
    assert turn is not None
    done = clinvk("sessions", "archive", "s")
    turn.close()
    assert (done.returncode, home.record("s")["status"]) == (4, "active")
    assert "is running" in done.stderr


# branch, merge


def test_a_branch_is_begun_with_what_was_said_up_to_there(
    clinvk: CommandLine, home: Home, store: Store
):
    past(store, "s", "a", "b", "c", "d", title="T")
    done = clinvk("sessions", "branch", "s", "--at", "1", "--title", "Other")
    id_ = done.stdout.strip()
    assert words(home, id_) == ["a", "b"]
    assert (home.record(id_)["parents"], home.record(id_)["title"]) == (["s"], "Other")
    assert f"2 messages of s; resume with: clinvk resume {id_}" in done.stderr
    data = clinvk.json("sessions", "branch", "s", "--json")
    assert (data["messages"], data["metadata"]["branched_from"]) == (
        {"user": 2, "assistant": 2},
        "s",
    )


def test_a_branch_knows_what_was_said_before(clinvk: CommandLine, home: Home):
    clinvk("-b", "echo", "the word is cucumber")
    (source,) = home.ids()
    id_ = clinvk("sessions", "branch", source).stdout.strip()
    done = clinvk("resume", id_, "what was the word")
    assert done.returncode == 0, done.stderr
    assert "cucumber" in done.stdout
    assert len(words(home, source)) == 2
    assert home.record(id_)["native_ids"] != home.record(source)["native_ids"]


def test_two_sessions_become_one(clinvk: CommandLine, home: Home, store: Store):
    past(store, "one", "a", "b", "c", "d")
    past(store, "two", "a", "b", "x", "y")
    for strategy in ("chronological", "smart", "manual"):
        id_ = clinvk("sessions", "merge", "one", "two", "--strategy", strategy).stdout.strip()
        assert words(home, id_) == ["a", "b", "c", "d", "x", "y"]
    id_ = clinvk(
        "sessions", "merge", "one", "two", "--strategy", "manual", "--order", "b:2-3,a:0"
    ).stdout.strip()
    assert words(home, id_) == ["x", "y", "a"]


# stats


def test_stats_are_shown(clinvk: CommandLine, store: Store):
    past(store, "s", "how are you", "fine", "good")
    lines = clinvk("sessions", "stats", "s").stdout.splitlines()
    assert "Messages:         3 (user 2, assistant 1)" in lines
    assert "User/Agent:       2.00" in lines
    assert "Tokens:           -" in lines
    data = clinvk.json("sessions", "stats", "s", "--json")
    assert (data["id"], data["message_count"], data["words"]) == ("s", 3, 5)
    assert data["first_message_at"].endswith("Z")


def test_topics_are_shown_where_they_are_asked_for(clinvk: CommandLine, store: Store):
    past(store, "s", "The parser is wonderful, I love the parser.")
    done = clinvk("sessions", "stats", "s", "--topics")
    assert "parser" in done.stdout, done.stderr
    data = clinvk.json("sessions", "stats", "s", "--topics", "--json")
    assert data["sentiment_over_time"][0]["sentiment"] > 0


# export


def test_an_export_is_printed_or_written(clinvk: CommandLine, home: Home, store: Store):
    past(store, "s", "hi", "hello", title="T")
    assert clinvk("sessions", "export", "s").stdout.startswith("# T\n\n## User\n\nhi\n")
    data = clinvk.json("sessions", "export", "s", "--format", "json")
    assert [m["content"] for m in data["messages"]] == ["hi", "hello"]
    done = clinvk("sessions", "export", "s", "--output", "x.html")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "",
        "clinvk: session written to x.html\n",
    )
    assert (home.work / "x.html").read_text().startswith("<!DOCTYPE html>")


def test_an_export_says_as_much_as_it_is_asked_to(clinvk: CommandLine, store: Store):
    past(store, "s", "hi", metadata={"ticket": 7})
    plain = clinvk("sessions", "export", "s").stdout
    assert "ticket" not in plain
    assert "UTC" not in plain
    more = clinvk("sessions", "export", "s", "--include-metadata", "--include-timestamps").stdout
    assert "- ticket: 7" in more
    assert "UTC" in more


def test_an_export_goes_through_a_template_of_the_users(
    clinvk: CommandLine, home: Home, store: Store
):
    past(store, "s", "hi", "hello")
    (home.path / "export").mkdir()
    (home.path / "export" / "count.j2").write_text("{{ messages | length }} messages\n")
    assert clinvk("sessions", "export", "s", "--format", "count").stdout == "2 messages"


# templates, help


def test_templates_are_listed_and_shown(clinvk: CommandLine, home: Home):
    (home.path / "templates").mkdir(parents=True)
    (home.path / "templates" / "mine.yaml").write_text("system_message: Be brief.\n")
    listed = clinvk("templates", "list").stdout
    for name in ("coding", "analysis", "creative", "mine"):
        assert name in listed
    assert "Be brief." in clinvk("templates", "show", "mine").stdout
    data = clinvk.json("templates", "show", "mine", "--json")
    assert (data["system_message"], data["name"]) == ("Be brief.", "mine")
    names = [t["name"] for t in clinvk.json("templates", "list", "--json")["templates"]]
    assert names == ["coding", "analysis", "creative", "mine"]
    assert clinvk("templates", "show", "nope").returncode == 3


def test_a_broken_template_hides_no_other(clinvk: CommandLine, home: Home):
    (home.path / "templates").mkdir(parents=True)
    (home.path / "templates" / "bad.yaml").write_text("nonsense: 1\n")
    done = clinvk("templates", "list")
    assert (done.returncode, "coding" in done.stdout) == (3, True)
    assert "bad.yaml" in done.stderr


def test_help_is_the_help_of_the_group_or_of_one_of_its_commands(clinvk: CommandLine):
    assert (
        clinvk("sessions", "help").stdout.rstrip() == clinvk("sessions", "--help").stdout.rstrip()
    )
    done = clinvk("sessions", "help", "merge")
    assert done.stdout.rstrip() == clinvk("sessions", "merge", "--help").stdout.rstrip()


def test_an_export_is_private_and_of_the_store_that_was_named(clinvk: CommandLine, tmp_path: Path):
    elsewhere = ("--storage-path", str(tmp_path / "other"))
    assert clinvk("sessions", "start", "s", *elsewhere).returncode == 0
    assert clinvk("sessions", "export", "s").returncode == 4
    done = clinvk("sessions", "export", "s", "--output", str(tmp_path / "s.md"), *elsewhere)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.md").stat().st_mode & 0o777 == 0o600


def test_an_age_longer_than_time_takes_nothing(clinvk: CommandLine, store: Store):
    store.create(Session(id="s"))
    assert clinvk("sessions", "clean", "--older-than", "999999999d").returncode == 0
    assert store.get("s").id == "s"


def test_a_search_without_a_hit_fails_in_json_too(clinvk: CommandLine, store: Store):
    store.create(Session(id="s"))
    done = clinvk("sessions", "search", "absent", "--json")
    assert (done.returncode, json.loads(done.stdout)["hits"]) == (1, [])
