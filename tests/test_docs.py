"""What the README and the documentation show is what happens."""

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from clinvk.cmd.main import root
from clinvk.config.loading import parse_config
from clinvk.config.schema import BackendConfig, Config
from clinvk.model.events import EVENT_TYPES
from clinvk.model.result import EXIT_CODES
from tests.conftest import PROJECT, CommandLine, Home, write_program

EXAMPLE = PROJECT / "config.example.yaml"
README = PROJECT / "README.md"
PAGES = [README, *sorted((PROJECT / "docs").glob("*.md")), PROJECT / "CONTRIBUTING.md"]
BLOCK = re.compile(
    r"^(?P<in> *)```(?P<kind>\w+)\n(?P<text>.*?)^(?P=in)```$", re.MULTILINE | re.DOTALL
)


def blocks(page: Path, *kinds: str) -> list[str]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["text"] for match in found if match["kind"] in kinds]


def shell_lines(page: Path) -> Iterator[str]:
    """What a reader would type."""
    for text in blocks(page, "sh", "console"):
        lines = text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        yield from lines


def commands(line: str) -> Iterator[list[str]]:
    """The words behind each `clinvk` of a line of shell."""
    line = re.sub(r"\d?>+ ?&?\d?", " > ", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
    lexer.whitespace_split = True
    words: list[str] | None = None
    for word in lexer:
        if word == "clinvk" and words is None:
            words = []
        elif word and set(word) <= set(";&|<>()"):
            if words is not None:
                yield words
            words = None
        elif words is not None:
            words.append(word)
        elif "clinvk " in word:  # sh -c '…', or "$(…)"
            yield from commands(word.removeprefix("$(").removesuffix(")"))
    if words is not None:
        yield words


def parse(words: list[str]) -> None:
    """Raises where clinvk would not take them for one of its command lines."""
    command: Any = root()
    context = command.make_context("clinvk", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


SHELL = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)}")
    for page in PAGES
    for line in shell_lines(page)
    for words in commands(line)
]


def test_there_are_commands_to_look_at() -> None:
    assert len(SHELL) > 50


@pytest.mark.once
@pytest.mark.parametrize("words", SHELL)
def test_a_command_in_the_documentation_can_be_typed(words: list[str]) -> None:
    # Those that show what is refused are well-formed, too.
    parse(words)


def test_a_flag_that_does_not_exist_would_be_seen() -> None:
    with pytest.raises(Exception, match="--modle"):
        parse(["-b", "echo", "--modle", "x", "fix the bug"])
    with pytest.raises(Exception, match="--limits"):
        parse(["sessions", "list", "--limits", "3"])


PYTHON = [
    pytest.param(text, id=f"{page.stem} {i}")
    for page in PAGES
    for i, text in enumerate(blocks(page, "python"))
    if re.search(r"^(import|from) clinvk\b", text, re.MULTILINE)
]


@pytest.mark.parametrize("text", PYTHON)
def test_python_in_the_documentation_runs(text: str, home: Home) -> None:
    program = ["-W", "always::ResourceWarning", "-c", text]  # what is not closed
    if "import pytest" in text:
        (home.work / "test_example.py").write_text(text)
        program = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"]
    done = subprocess.run(
        [sys.executable, *program],
        env=home.env,
        cwd=home.work,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_example_configuration_is_right(clinvk: CommandLine) -> None:
    done = clinvk("config", "check", str(EXAMPLE))

    assert done.returncode == 0, done.stderr


def test_the_example_configuration_holds_the_defaults() -> None:
    config = parse_config(EXAMPLE.read_text(encoding="utf-8"), EXAMPLE)

    assert list(config.backends.values()) == [BackendConfig()]
    assert msgspec.structs.replace(config, backends={}) == Config()


def test_the_example_configuration_has_every_key() -> None:
    data = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))

    assert keys(data) == keys_of(Config()) | {
        f"backends.{name}.{key}" for name in data["backends"] for key in keys_of(BackendConfig())
    }


def test_every_key_of_the_example_configuration_is_explained() -> None:
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        assert "# " in line or not line or re.fullmatch(r"(backends|session|output):", line), line


def test_every_key_of_the_configuration_has_a_row_in_its_page() -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)

    wanted = {key.rsplit(".", 1)[-1] for key in keys_of(Config()) | keys_of(BackendConfig())}
    assert wanted <= set(documented)


OUTPUT = (PROJECT / "docs" / "output.md").read_text(encoding="utf-8")


def documented(begin: str, end: str) -> set[str]:
    """What the tables of a section name in their first columns, without what is inside of another."""
    section = OUTPUT.split(f"\n{begin}\n", 1)[1].split(f"\n{end}\n", 1)[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_field_of_the_json_is_documented(clinvk: CommandLine) -> None:
    result = clinvk.json("-b", "echo", "--session", "a", "-o", "json", "hello")
    session = clinvk.json("sessions", "show", "a", "--json")
    run = clinvk.json("parallel", "-b", "echo", "--format", "lines", "--json", stdin="hello\n")

    assert documented("## JSON", "## Events") == set(result)
    # The text says that these two are there, and when.
    assert documented("### Session object", "### Messages") == set(session) - {"version", "size"}
    fields = set(run) | set(run["results"][0])
    assert fields - {"error", "verdict"} <= documented("## JSON of runs", "## Exit codes")


def test_every_kind_of_failure_is_documented_with_its_exit_code() -> None:
    codes = OUTPUT.split("\n## Exit codes\n", 1)[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+|the CLI's, or 1) \|", codes, re.MULTILINE))

    told = {kind: int(code) for kind, code in rows.items() if code.isdigit()}
    assert {**told, "error": 1} == {**EXIT_CODES, "incomplete": 1}
    assert set(rows) - set(told) == {"auth", "backend"}


def test_every_event_is_documented() -> None:
    shown = {name for name in EVENT_TYPES if name != "nothing"}
    rows = re.findall(r"^\| (`.*?) \|", OUTPUT, re.MULTILINE)
    assert shown <= {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def run_script(name: str, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(PROJECT / "docs" / name), *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "script", ["backends_table.py", "man.py", "prepared_manifests.py", "reference.py"]
)
def test_what_is_generated_is_up_to_date(script: str) -> None:
    done = run_script(script, "--check")

    assert done.returncode == 0, done.stderr


WITH_CONSOLE = [page for page in PAGES if blocks(page, "console")]


@pytest.mark.once
@pytest.mark.parametrize("page", WITH_CONSOLE, ids=lambda page: page.stem)
def test_every_command_in_the_documentation_prints_what_is_shown(page: Path) -> None:
    done = run_script("consoles.py", str(page))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.once
def test_output_that_is_wrong_is_noticed_and_can_be_corrected(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        textwrap.dedent("""\
        <!-- setup
        clinvk config set output.show_tokens true
        -->
        <!-- file: prompt.txt -->
        ```text
        hello
        ```

        ```console
        $ clinvk -b echo --session a -f prompt.txt
        (echo, no model) Turn 1. You said: something else
        $ clinvk sessions branch a
        0123456789
        $ clinvk resume 0123 "more"
        ```
        """)
    )
    wrong = run_script("consoles.py", str(page))
    assert wrong.returncode == 1
    assert "+(echo, no model) Turn 1. You said: hello" in wrong.stdout
    assert run_script("consoles.py", "--write", str(page)).returncode == 0
    corrected = page.read_text()
    assert "said: hello\n" in corrected
    assert "tokens in, " in corrected
    assert "\n0123456789\n" in corrected
    assert "Turn 2. You said: more" in corrected
    assert run_script("consoles.py", str(page)).stdout == ""


def test_the_first_commands_of_the_readme_work_after_make_demo(home: Home) -> None:
    (block,) = [text for text in blocks(README, "sh") if "$PWD/.venv/bin" in text]
    write_program(
        home.work / ".venv" / "bin" / "clinvk", f'#!/bin/sh\nexec {sys.executable} -m clinvk "$@"\n'
    )
    done = subprocess.run(
        ["bash", "-e", "-c", block], stdin=subprocess.DEVNULL, cwd=home.work, env=home.env,
        text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert "Turn 2. You said: now add tests" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_link_leads_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in link or (page.parent / link).exists(), link


def keys(data: Any, prefix: str = "") -> set[str]:
    """The dotted keys of the leaves."""
    if isinstance(data, dict) and data:
        return {key for name, inner in data.items() for key in keys(inner, f"{prefix}.{name}")}
    return {prefix.removeprefix(".")}


def keys_of(struct: msgspec.Struct) -> set[str]:
    return keys(msgspec.to_builtins(struct)) - {"backends"}
