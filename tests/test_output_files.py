"""Files that a user names for a result: one rule for their formats, and nothing is overwritten."""

import os
from pathlib import Path

import pytest

from tests.conftest import CommandLine, Home

TASKS = "tasks: [{prompt: hello, backend: echo}]\n"


@pytest.fixture
def made(clinvk: CommandLine, home: Home) -> str:
    """A run and a session; the id of the session."""
    (home.work / "tasks.yaml").write_text(TASKS)
    assert clinvk("parallel", "tasks.yaml", "-q").returncode == 0
    return home.ids()[0]


def commands(session: str) -> dict[str, tuple[str, ...]]:
    return {
        "sessions export": ("sessions", "export", session, "--output"),
        "runs report": ("runs", "report", "last", "--output"),
        "parallel": ("parallel", "tasks.yaml", "-q", "--report"),
        "runs resume": ("runs", "resume", "last", "-q", "--report"),
    }


def test_the_ending_of_a_file_is_its_format_whatever_writes_it(
    clinvk: CommandLine, home: Home, made: str
):
    begins = {".html": "<!doctype html", ".md": "# ", ".json": "{", ".HTM": "<!doctype html"}
    for number, command in enumerate(commands(made).values()):
        for ending, start in begins.items():
            file = home.work / f"{number}{ending}"
            done = clinvk(*command, file.name)
            assert done.returncode == 0, done
            assert file.read_text().lower().startswith(start), command
        for name in ("x.pdf", "x"):
            done = clinvk(*command, name)
            assert done.returncode == 1
            assert f"{name}: " in done.stderr
            assert "; use ." in done.stderr
            assert not (home.work / name).exists()
        named = [*command[:-1], "--format", "json", command[-1]]
        if command[-1] == "--output":  # the flag decides, and then any ending will do
            assert clinvk(*named, f"{number}.txt").returncode == 0
            assert (home.work / f"{number}.txt").read_text().startswith("{")


def test_no_file_is_overwritten_unless_it_is_forced(clinvk: CommandLine, home: Home, made: str):
    files = {**commands(made), "compare": ("compare", "hi", "-b", "echo:a,echo:b", "-q", "--html")}
    runs = len(os.listdir(home.path / "runs"))
    for command in files.values():
        file = home.work / "README.html"
        file.write_text("a page of mine")
        link = home.work / "link.html"
        link.unlink(missing_ok=True)
        link.symlink_to(file)
        for name in (file.name, link.name):
            done = clinvk(*command, name)
            assert (done.returncode, file.read_text()) == (1, "a page of mine")
            assert f"{name} already exists" in done.stderr
            assert "--force" in done.stderr
        assert len(os.listdir(home.path / "runs")) == runs  # refused before anything ran
    for command in files.values():
        file.write_text("a page of mine")
        assert clinvk(*command, file.name, "--force").returncode == 0
        assert file.read_text() != "a page of mine"
        file.write_text("")  # as mktemp makes it
        assert clinvk(*command, file.name).returncode == 0
        assert file.read_text()


def test_pipes_and_devices_have_nothing_to_lose(clinvk: CommandLine, home: Home, made: str):
    for command in list(commands(made).values())[:2]:
        assert clinvk(*command, "/dev/stdout").stdout.startswith("# ")
        assert clinvk(*command, "/dev/null").returncode == 0


def test_a_junit_report_replaces_the_one_before(clinvk: CommandLine, home: Home, made: str):
    for _ in range(2):
        assert clinvk("parallel", "tasks.yaml", "-q", "--junit", "results.xml").returncode == 0
    assert Path(home.work / "results.xml").read_text().startswith("<?xml")
