"""Passages of documents and of earlier sessions, as `--knowledge` adds them to a prompt."""

import os
import sqlite3
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.api.prompt import arun
from clinvk.backend.permissions import INSTRUCTION
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.errors import SessionError, UsageError
from clinvk.knowledge.documents import documents_part, index_path
from clinvk.knowledge.found import MAX_BYTES, MAX_PASSAGES
from clinvk.knowledge.index import Document, no_progress, open_index
from clinvk.knowledge.notes import Notes
from clinvk.knowledge.passages import LONGEST, Passage, split_passages
from clinvk.knowledge.query import MAX_TERMS, index_text, match_of
from tests.conftest import END, START, CommandLine, Home
from tests.stores import keep
from tests.terminals import on_terminal

MARKDOWN = """\
Some words before the first heading.

# Guide

How to begin, in a few words.

## Limits ##

What a backend reports is stored.

```
# this is no heading
```

Setext
------

Text below an underlined heading.
"""
PROGRAM = '''\
import os

LIMIT = 3  # of what is remembered


# Says hello.
@decorated
async def greet(name):
    return f"hello {name}"


class Store:
    """Keeps it."""

    def put(self, value):
        self.value = value
'''
DOCS = {
    "limits.md": "# Rate limits\n\nA remembered limit ends at a time that the backend reported.\n",
    "src/parser.py": "def parseFile(path):\n    return open(path).read().splitlines()\n",
    "zh.md": "# 指南\n\n解析器错误的处理方法在这里说明，请先阅读。\n",
    "ja.md": "# ガイド\n\nセッションの再開には識別子が必要です。\n",
    "other.txt": "Nothing of interest, but enough to be a passage.\n",
}


def write(root: Path, contents: Mapping[str, str]) -> None:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def ask(home: Home, prompt: str, **more: Any) -> tuple[list[str], str]:
    """The first lines of what is found below `docs`, and what the user is told."""
    work = os.path.realpath(home.work)
    part = documents_part(home.path, f"{work}/docs", work, prompt, **more)
    return [piece.what for piece in part.pieces], part.notice


@pytest.mark.parametrize(
    ("name", "text", "passages"),
    [
        ("a.md", MARKDOWN, [
            (1, "", "Some words before the first heading."),
            (3, "Guide", "# Guide\n\nHow to begin, in a few words."),
            (7, "Guide › Limits", "## Limits ##\n\nWhat a backend"),
            (15, "Guide › Setext", "Setext\n------\n\nText"),
        ]),
        ("a.py", PROGRAM, [
            (1, "", "import os\n\nLIMIT = 3  # of what is remembered"),
            (6, "async def greet(name):", "# Says hello.\n@decorated\nasync def greet"),
            (12, "class Store:", 'class Store:\n    """Keeps it."""'),
            (15, "def put(self, value):", "    def put(self, value):"),
        ]),
        ("a.txt", "class action lawsuits\nare no program\n", [(1, "", "class action lawsuits\nare")]),
        ("a.go", "{\n\nfunc (s *Store) Put(v int) {\n\ts.v = v\n}\n", [
            (3, "func (s *Store) Put(v int) {", "func (s *Store) Put(v int) {\n\ts.v = v"),
        ]),
        ("empty.md", "\n \n***\n# Only a heading\n\n## Another\n\nx\n", [
            (6, "Only a heading › Another", "## Another\n\nx"),
        ]),
    ],
)  # fmt: skip
def test_a_document_is_split_at_sections_and_functions(name, text, passages) -> None:
    found = list(split_passages(text, name))

    assert [(one.line, one.heading) for one in found] == [one[:2] for one in passages]
    for one, (_, _, begin) in zip(found, passages, strict=True):
        assert one.text.startswith(begin)


@given(st.lists(st.text(max_size=300), max_size=60), st.sampled_from(["a.md", "a.py", "a"]))
def test_passages_are_bounded_and_lose_no_long_line(lines: list[str], name: str) -> None:
    lines = [" ".join(line.split()) + " and the end" for line in lines]
    text = "\n".join(lines)
    found = list(split_passages(text, name))

    assert all(len(one.text) <= LONGEST + 400 for one in found)
    assert all(
        any(line in one.text for one in found) for line in lines if any(map(str.isalnum, line))
    )


def test_a_text_without_spaces_or_lines_is_cut() -> None:
    text = "".join(f"第{n}句话说明了一件事情。" for n in range(1000))

    found = list(split_passages(text, "a.txt"))

    assert "".join(one.text for one in found) == text
    assert all(one.text.endswith("。") and len(one.text) <= LONGEST for one in found)


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        ("Where does parseFile do it?", '"parsefile" OR "parse" OR "file"'),
        ("parse_name", '"parse_name" OR "parse" OR "name"'),
        ("HTTPServer", '"httpserver" OR "http" OR "server"'),
        ("the", '"the"'),
        ('say "hello" AND (x OR y)*', '"say" OR "hello"'),
        ("解析器", '"解 析" OR "析 器"'),
        ("器", '"器"'),
        ("Café", '"cafe"'),
        ("!? …", None),
    ],
)
def test_a_prompt_is_a_query_for_its_words(prompt: str, match: str | None) -> None:
    assert match_of(prompt) == match


def test_the_query_of_a_long_prompt_is_bounded() -> None:
    assert (match_of(" ".join(f"word{n}" for n in range(5000))) or "").count(" OR ") < MAX_TERMS


@given(st.text(max_size=200), st.text(max_size=60))
def test_any_text_can_be_indexed_and_any_prompt_is_valid(text: str, prompt: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE VIRTUAL TABLE t USING fts5 (x, tokenize='porter unicode61')")
        db.execute(
            "INSERT INTO t VALUES (?)", (index_text(text).encode("utf-8", "replace").decode(),)
        )
        if match := match_of(prompt):
            db.execute("SELECT * FROM t WHERE t MATCH ?", (match,)).fetchall()


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("How long is a limit remembered?", "docs/limits.md, from line 1, Rate limits"),
        ("fix the file parser", "docs/src/parser.py, from line 1, def parseFile(path):"),
        ("解析器错误怎么处理", "docs/zh.md, from line 1, 指南"),
        ("再開に必要な識別子", "docs/ja.md, from line 1, ガイド"),
    ],
)
def test_the_best_passage_comes_first(home: Home, prompt: str, found: str) -> None:
    write(home.work / "docs", DOCS)

    names, notice = ask(home, prompt)

    assert names[0] == found
    assert "other.txt" not in " ".join(names)
    assert notice.startswith("knowledge: 1 passage of 1 document added before the prompt (")
    assert notice.endswith(f"searched 5 documents below {os.path.realpath(home.work)}/docs")


def test_a_second_call_reads_only_what_changed(home: Home) -> None:
    write(home.work / "docs", DOCS)
    read: list[tuple[int, int]] = []
    ask(home, "limits")

    def count(done: int, total: int) -> None:
        read.append((done, total))

    assert ask(home, "limits", progress=count)[1].endswith(", 0 of them new or changed")
    assert read == []
    write(home.work / "docs", {"new.md": "A new page about limits of a rate.\n"})
    (home.work / "docs" / "limits.md").unlink()
    os.utime(home.work / "docs" / "zh.md", ns=(1, 1))
    names, notice = ask(home, "limits", progress=count)

    assert names == ["docs/new.md, from line 1"]
    assert notice.endswith(", 2 of them new or changed")
    assert read == [(0, 2), (1, 2), (2, 2)]


def test_the_index_is_private_and_holds_no_secret(home: Home) -> None:
    key = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
    write(home.work / "docs", {"a.md": f"The key of the limits is {key}\n", ".env": "limits=1234"})

    part = documents_part(home.path, str(home.work / "docs"), "/", "key of the limits")

    (path,) = (home.path / "knowledge").glob("*.db")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert key.encode() not in path.read_bytes()
    assert [piece.text for piece in part.pieces] == [
        "The key of the limits is [redacted: github token]"
    ]
    assert part.notice.endswith("skipped: 1 possible secret")


def set_version(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA user_version=9")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not a database"),
        lambda path: path.write_bytes(path.read_bytes()[:5000] + b"\xff" * 9000),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        set_version,
    ],
)
@pytest.mark.parametrize("writes", [True, False])
def test_an_index_that_is_damaged_or_deleted_is_rebuilt(home: Home, damage, writes) -> None:
    write(home.work / "docs", DOCS)
    before, _ = ask(home, "limits")
    damage(index_path(home.path, os.path.realpath(home.work / "docs")))

    names, notice = ask(home, "limits", writes=writes)

    assert names == before
    assert "new or changed" not in notice  # all of them


@pytest.mark.parametrize("writes", [True, False])
def test_damage_that_only_a_search_meets_is_repaired(tmp_path: Path, writes: bool) -> None:
    path = tmp_path / "index.db"
    documents = [Document(f"document {i}", "1") for i in range(50)]

    def read(document: Document) -> list[Passage]:
        return [Passage(1, "heading", f"limit of {document.name}")]

    with open_index(path) as index:
        index.update(documents, read, no_progress)
        before = index.search('"limit"', 5)
    whole = path.read_bytes()
    for start in range(4096, len(whole), 4096):
        path.write_bytes(whole[:start] + b"\xff" * 4096 + whole[start + 4096 :])
        with open_index(path, writes=writes) as index:
            index.update(documents, read, no_progress)
            assert index.search('"limit"', 5) == before


def test_an_index_that_cannot_be_written_is_reported(home: Home) -> None:
    write(home.work / "docs", DOCS)
    home.path.mkdir(parents=True)
    (home.path / "knowledge").write_text("")

    with pytest.raises(SessionError, match="knowledge"):
        ask(home, "limits")


def test_processes_that_use_an_index_at_the_same_time_wait(home: Home) -> None:
    write(home.work / "docs", DOCS)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: ask(home, "limits")[0], range(8)))

    assert found == [["docs/limits.md, from line 1, Rate limits"]] * 8


def test_a_reader_that_fails_leaves_what_was_read_before(tmp_path: Path) -> None:
    documents = [Document(f"{n}", "1") for n in range(500)]

    def read(document: Document) -> list[Passage]:
        if document.name == "450":
            raise KeyboardInterrupt
        return [Passage(1, "", f"the word number{document.name}")]

    with open_index(tmp_path / "k" / "i.db") as index, pytest.raises(KeyboardInterrupt):
        index.update(documents, read, lambda _done, _total: None)
    with open_index(tmp_path / "k" / "i.db") as index:
        assert index.update(documents[:450], read, lambda _done, _total: None) == 50
        assert [match.name for match in index.search('"number7"', 9)] == ["7"]


def test_what_is_added_is_bounded(home: Home) -> None:
    write(home.work / "docs", {f"{n}.md": f"Rate limits {'and more ' * 150}{n}" for n in range(90)})

    part = documents_part(home.path, str(home.work / "docs"), "/", "rate limits")

    assert 10 < len(part.pieces) <= MAX_PASSAGES
    assert sum(len(piece.text) for piece in part.pieces) <= MAX_BYTES


def test_a_prompt_gets_passages_of_documents(clinvk: CommandLine, home: Home) -> None:
    write(home.work / "docs", DOCS)

    dry = clinvk.json("-b", "echo", "--dry-run", "-o", "json", "--knowledge=docs", "rate limits")
    assert not (home.path / "knowledge").exists()  # a dry run writes nothing
    done = clinvk("-b", "echo", "--knowledge=docs", "rate limits")

    assert "A remembered limit ends" in dry["prompt"]
    assert "other.txt" not in dry["prompt"]
    assert dry["settings"]["knowledge"]["from"] == "command line"
    assert "knowledge: 1 passage of 1 document added before the prompt (75 bytes)" in done.stderr
    assert home.transcript()[0]["content"] == "rate limits"


def test_a_prompt_gets_passages_of_earlier_sessions(clinvk: CommandLine, home: Home) -> None:
    elsewhere = home.path.parent / "elsewhere"
    elsewhere.mkdir()
    clinvk(
        "-b", "echo", "--session", "old", "The release is on the day of the tulips", cwd=elsewhere
    )
    clinvk("-b", "echo", "--session", "mine", "When do the tulips bloom?")

    for words in (
        ("--knowledge", "on which day is the release?"),
        ("on which day is the release?", "--knowledge"),
        ("--knowledge", "on which day is the release?", "--plain"),  # read by typer
    ):
        found = clinvk.json("-b", "echo", "--dry-run", "-o", "json", *words)
        assert "from message 1 of the session old" in found["prompt"]
        assert found["prompt"].endswith("\n\non which day is the release?")
    again = clinvk.json("--session", "mine", "--dry-run", "-o", "json", "tulips", "--knowledge")
    assert "of the session old" in again["prompt"]
    assert "of the session mine" not in again["prompt"]


def test_a_deleted_session_is_deleted_from_the_index(clinvk: CommandLine, home: Home) -> None:
    clinvk("-b", "echo", "--session", "old", "The release is on the day of the tulips")
    clinvk("-b", "echo", "--session", "new", "--knowledge", "tulips")
    (path,) = (home.path / "knowledge").glob("sessions-*.db")
    assert b"day of the tulips" in path.read_bytes()

    clinvk("sessions", "delete", "old", "--yes")

    assert b"day of the tulips" not in path.read_bytes()
    path.write_bytes(b"damaged")
    assert clinvk("sessions", "delete", "new", "--yes").returncode == 0


def test_tasks_and_files_say_it_their_way(clinvk: CommandLine, home: Home) -> None:
    write(home.work / "docs", DOCS)
    clinvk("-b", "echo", "--session", "old", "The release is on the day of the tulips")
    (home.work / "tasks.yaml").write_text(
        "defaults: {backend: echo}\ntasks:\n- {prompt: remembered limit, knowledge: docs}\n"
        "- {prompt: tulips, knowledge: true}\n- {prompt: tulips, knowledge: false}\n"
    )
    wrong = home.work / "wrong.yaml"
    wrong.write_text("tasks: [{prompt: x, backend: echo, knowledge: no-such}]\n")

    results = clinvk.json("parallel", "tasks.yaml", "--json")["results"]
    refused = clinvk("parallel", "wrong.yaml")

    found = [one["output"] for one in results]
    assert "docs/limits.md" in found[0]
    assert "session old" in found[1]
    assert "session old" not in found[2]
    assert refused.returncode == 3
    assert "tasks[0].knowledge: no-such: no such directory" in refused.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--knowledge=no-such", "x"], "--knowledge: no-such: no such directory"),
        (["--knowledge=", "x"], "--knowledge: '': no such directory"),
        (["--knowledge=/", "x"], "the files of the whole system"),
        (["--knowledge", "--knowledge=docs", "..."], "the prompt has no words"),
        (["--knowledge", "..."], "the prompt has no words to search for"),
        (["--knowledge", "hello"], "nothing in 0 earlier sessions matches the prompt"),
    ],
)
def test_what_finds_nothing_is_explained(
    clinvk: CommandLine, home: Home, words: list[str], problem: str
) -> None:
    (home.work / "docs").mkdir()

    assert problem in clinvk("-b", "echo", *words).stderr


@pytest.mark.anyio
@pytest.mark.parametrize("ephemeral", [True, False])
async def test_python_has_the_same(home: Home, ephemeral: bool) -> None:
    dispatcher = keep(Dispatcher(loading.load(home.env), env=home.env))
    write(home.work, {"src/a.py": "# a file\n"} | {f"docs/{k}": v for k, v in DOCS.items()})
    home.backend("keeps", "cat >prompt\n" + START + END, ephemeral={"argv": ["--no-session"]})
    Notes(home.path).add(os.path.realpath(home.work), "a note")

    result = await arun(
        "rate limits",
        backend="keeps",
        planning=True,
        memory=True,
        fast_context="src",
        knowledge=Path("docs"),
        cwd=home.work,
        ephemeral=ephemeral,
        dispatcher=dispatcher,
    )

    assert result.ok, result.error
    prompt = (home.work / "prompt").read_text()
    for text in ("a note", "# a file", "A remembered limit ends", INSTRUCTION):
        assert text in prompt
    assert prompt.endswith("rate limits")
    for wrong in (
        {"knowledge": 3},
        {"memory": "yes"},
        {"fast_context": "no-such"},
        {"knowledge": ""},
        {"fast_context": [""]},
    ):
        with pytest.raises(UsageError):
            await arun("x", backend="echo", cwd=home.work, dispatcher=dispatcher, **wrong)


def test_thousands_of_files_show_progress_on_a_terminal(home: Home) -> None:
    docs = home.work / "docs"
    for folder in map(str, range(30)):
        (docs / folder).mkdir(parents=True)
        for n in range(100):
            (docs / folder / f"{n}.md").write_text(
                f"# Page {n}\n\nWhat {folder} of {n} is about.\n"
            )

    words = ("-b", "echo", "--knowledge=docs", "page 77")
    # However quick the machine is.
    at_once = "from clinvk.terminal.printer import ProgressBar as p; p.SHOW_AFTER = 0"
    written, screen = on_terminal(home, *words, columns=100, first=at_once)
    (docs / "5" / "5.md").write_text("# Another page\n")
    again, _ = on_terminal(home, *words, columns=100)

    assert "reading documents ███" in written
    assert "/3,000" in written
    assert "░" not in "\n".join(screen.lines)
    assert "searched 3,000 documents" in " ".join(again.split())
    assert "1 of them new or changed" in " ".join(again.split())
    assert "/3,000" not in again
