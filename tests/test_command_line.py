"""How the command line is read: what is wrong is said in our words, and a guess is no prompt."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinvk.cmd.main import ALIASES, COMMANDS, click_exception
from clinvk.cmd.options.words import OPTIONAL_VALUE
from clinvk.cmd.sessions import group
from clinvk.cmd.usage.guesses import GUESSES, check_words
from clinvk.cmd.usage.wording import describe
from clinvk.errors import UsageError
from clinvk.text.suggest import similar
from tests.conftest import CommandLine, Home
from tests.terminals import past
from tests.test_config import FORM
from tests.test_help import ALL, CLICK


@pytest.fixture
def fake(home: Home) -> Path:
    home.config("default_backend: fake\n")
    return home.backend("fake", FORM)


def numbers() -> list[tuple[Any, Any]]:
    """Each option that is a number, with the context of its command."""
    return [
        (context, param)
        for context in ALL
        for param in context.command.params
        if param.type.name.split()[0] in ("integer", "int", "float")
        and param.param_type_name == "option"
    ]


def test_a_number_that_is_none_is_told_with_the_flag_that_was_typed() -> None:
    assert len(numbers()) > 20
    for context, param in numbers():
        for flag in param.opts:
            for words in ([flag, "x"], [f"{flag}=x"] if flag.startswith("--") else [f"{flag}x"]):
                with pytest.raises(click_exception()) as caught:
                    context.command.make_context(context.info_name, words, parent=context.parent)
                said = describe(caught.value).message
                assert said.startswith(f"{flag}: 'x' is not a "), (context.command_path, said)


def test_a_flag_without_its_value_says_what_it_needs() -> None:
    for context in ALL[1:]:
        for param in context.command.get_params(context):
            if param.param_type_name != "option" or param.is_flag:
                continue
            if not OPTIONAL_VALUE.isdisjoint(param.opts):
                continue
            with pytest.raises(click_exception()) as caught:
                context.command.make_context(
                    context.info_name, [param.opts[0]], parent=context.parent
                )
            said = describe(caught.value)
            assert said.message == f"{param.opts[0]} needs a value: {param.opts[0]} {param.metavar}"
            assert said.hint == f"see: {context.command_path} --help"


MISTAKES = {
    "parallel -j 0": ["-j: 0 is too small; the minimum is 1", "see: clinvk parallel --help"],
    "sessions list --limit=-3": ["--limit: -3 is too small"],
    "sessions list extra": ["unexpected argument 'extra'", "usage: clinvk sessions list [OPTIONS]"],
    "sessions show": ["no ID given"],
    "sessions migrate": ["--to URL is required"],
    "sessions merge a": ["no B given"],
    "version --json=yes": ["--json takes no value"],
    "sessions --color never": ["no command given", "see: clinvk sessions --help"],
    "config sett a b": ["unknown command 'sett'; did you mean: clinvk config set?"],
    "sessions lsit": ["unknown command 'lsit'; did you mean: clinvk sessions list?"],
    "sessions nothing-like-it": ["unknown command 'nothing-like-it'\n"],
    "runs tasks.yaml": ["did you mean: clinvk parallel tasks.yaml?"],
    "run tasks.yaml": ["did you mean: clinvk parallel tasks.yaml?"],
    "search foo": ["did you mean: clinvk sessions search foo?"],
    "sesions show x": ["did you mean: clinvk sessions show x?"],
    "fix the bug": ["unexpected argument 'the' after the prompt 'fix'", 'clinvk "fix the bug"'],
    "ask fix the bug": ["unexpected argument 'the' after the prompt 'fix'"],
    "--modle x hi": ["unknown option '--modle'; did you mean --model?", "see: clinvk --help"],
    "--max_turns 3 hi": ["did you mean --max-turns?"],
    "--output x hi": ["did you mean --output-format?"],
    "--list": ["unknown option '--list'\n"],
    "--no-color hi": ["did you mean: --color never?"],
    "--timeout soon hi": ["--timeout: invalid duration 'soon'; use e.g. 90, 90s, 5m or 2h"],
    "--stall-timeout inf hi": ["--stall-timeout: invalid duration 'inf'"],
    "compare --timeout 0 hi": ["--timeout: invalid duration '0'"],
    "--color maybe hi": ["--color: 'maybe' is not one of: auto, always, never"],
    "-c --template coding hi": ["-c and --template cannot be used together"],
    "--ephemeral --template coding hi": ["--template and --ephemeral cannot be used together"],
}  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_plain_words(
    clinvk: CommandLine, home: Home, fake: Path, line: str
) -> None:
    done = clinvk(*line.split())

    assert (done.returncode, done.stdout, home.ids()) == (1, "", [])
    for text in MISTAKES[line]:
        assert text in done.stderr
    assert not CLICK.search(done.stderr)


def test_only_what_resembles_a_word_is_suggested() -> None:
    flags = ["--model", "--lenient", "--to", "--history", "--replay", "--file", "--session"]

    assert similar("--modle", flags) == ["--model"]
    assert similar("--sesion", flags) == ["--session"]
    assert [similar(word, flags) for word in ("--list", "--json", "--template", "--x", "--")] == [
        []
    ] * 5
    assert similar("--output", ["--output-dir", "--output-format", "--ouput"]) == ["--ouput"]


# Words that are no prompts


def test_an_undocumented_name_is_not_suggested_and_an_option_of_a_prompt_makes_one(
    clinvk: CommandLine, home: Home, fake: Path
) -> None:
    assert refused("what") is None
    assert refused("chta") is None
    assert "is not a command" in str(refused("comparee"))
    done = clinvk("--history", "2", "comparee")
    assert (done.returncode, len(home.ids())) == (0, 1)
    assert clinvk("--history", "2", "compare").returncode == 1
    assert clinvk("--new", "what").returncode == 0


def test_values_and_names_that_almost_fit_are_taken_or_explained(
    clinvk: CommandLine, home: Home
) -> None:
    wrong = clinvk("config", "set", "session.retention_days", "-1")
    assert (wrong.returncode, "unknown option" in wrong.stderr) == (3, False), wrong.stderr
    assert "session.retention_days" in wrong.stderr
    assert "unknown option '--x'" in clinvk("config", "set", "output.format", "--x").stderr
    for word in ("lst", "list", "ls"):
        assert "did you mean: clinvk config show?" in clinvk("config", word).stderr
    assert clinvk("parallel", "-q", stdin="tasks: [x]\ndefaults: {backend: echo}").returncode == 0
    (run,) = os.listdir(home.path / "runs")
    for command in ("show", "retry"):
        said = clinvk("runs", command, "last", "nope")
        assert f"see its tasks: clinvk runs show {run}\n" in said.stderr
    short, long = (clinvk("runs", "report", "--format", form).stdout for form in ("md", "markdown"))
    assert short == long != ""


def refused(*words: str, new: bool = True) -> str | None:
    try:
        check_words([*words], [*COMMANDS, *ALIASES], group.COMMANDS, new=new)
    except UsageError as error:
        return f"{error.message} {error.hint}"
    return None


def test_no_guess_is_a_prompt() -> None:
    for word in (*GUESSES, *group.COMMANDS, "LS", "Sessions", "sesion", "parralel", "chekpoints"):
        said = refused(word)
        assert said, word
        assert f"to send it as a prompt: clinvk ask {word}" in said
    assert "log in with the CLI itself" in (refused("login") or "")


def test_a_guess_suggests_only_commands_that_exist() -> None:
    known = [context.command_path for context in ALL]
    for word, instead in GUESSES.items():
        for form in instead.format(word=word).split(" or ") if instead.startswith("clinvk") else ():
            words = form.split()
            while words[-1].isupper() or words[-1].startswith(("-", '"', "A,B")):
                words.pop()
            assert " ".join(words) in known, word


def test_a_prompt_of_one_word_is_a_prompt() -> None:
    for word in (
        "hello",
        "slow",
        "Fix",
        "why?",
        "2+2",
        "listen",
        "/init",
        "ls -l",
        "continued",
        "é",
    ):
        assert refused(word) is None, word
    # In a conversation, these answer a question of the model.
    assert [refused(word, new=False) for word in ("continue", "confirm", "status")] == [None] * 3
    assert refused("sesions", new=False)


def test_a_guess_costs_nothing_and_can_be_sent_by_ask(
    clinvk: CommandLine, home: Home, fake: Path
) -> None:
    done = clinvk("ls")

    assert (done.returncode, done.stdout, home.ids()) == (1, "", [])
    assert "did you mean: clinvk sessions list?" in done.stderr
    assert clinvk("ask", "ls").returncode == 0
    assert clinvk("-c", "status").returncode == 0
    assert len(home.ids()) == 1


# Short names, and options of every command


def test_short_names_of_commands(clinvk: CommandLine, home: Home) -> None:
    past(home, "one", title="The first")

    assert "The first" in clinvk("sessions", "ls").stdout
    assert clinvk("sessions", "rename", "one", "Another").returncode == 0
    assert home.record("one")["title"] == "Another"
    assert clinvk("sessions", "rm", "one", "--yes").returncode == 0
    assert home.ids() == []
    assert clinvk("templates", "ls").stdout == clinvk("templates", "list").stdout
    assert clinvk("-V").stdout == clinvk("version").stdout


def test_color_can_be_chosen_before_and_after_the_command(clinvk: CommandLine, home: Home) -> None:
    past(home, "one")
    wrong = ["sessions", "show", "no such session"]

    for words in (
        ["--color", "always", *wrong],
        ["--color=always", *wrong],
        [*wrong, "--color", "always"],
    ):
        assert "\x1b[31mclinvk:" in clinvk(*words).stderr
    home.config("output: {color: always}")
    assert "\x1b[31mclinvk:" in clinvk(*wrong).stderr
    assert "\x1b" not in clinvk(*wrong, "--color", "never").stderr
    shown = json.loads(clinvk("config", "show", "--origin", "--json", "--color", "never").stdout)
    assert shown["settings"]["output.color"] == {"value": "never", "origin": "command line"}


# Options of a prompt


def test_quiet_leaves_the_answer_and_errors(clinvk: CommandLine, home: Home, fake: Path) -> None:
    home.config("default_backend: fake\noutput: {show_tokens: true, show_timing: true}\n"
                "unified_flags: {max_turns: 3, verbose: true}\n")  # fmt: skip
    loud, quiet = clinvk("hello"), clinvk("-q", "hello")

    assert loud.stderr
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, loud.stdout, "")
    assert "clinvk: " in clinvk("-q", "-c", "--anywhere", "--session", "x", "hi").stderr


def test_json_is_the_same_as_its_output_format(clinvk: CommandLine, home: Home, fake: Path) -> None:
    assert json.loads(clinvk("--json", "hello").stdout)["exit_code"] == 0
    assert json.loads(clinvk("resume", "--last", "--json", "hello").stdout)["exit_code"] == 0
    assert json.loads(clinvk("--json", "-b", "nobody", "hello").stdout)["exit_code"] == 2
    both = clinvk("--json", "-o", "text", "hello")
    assert "--json and -o text cannot be used together" in both.stderr


def test_a_timeout_may_be_a_duration(clinvk: CommandLine, fake: Path) -> None:
    for text, seconds in (("90", 90), ("1.5m", 90), ("2h", 7200), ("5m", 300)):
        done = clinvk("--timeout", text, "--dry-run", "-o", "json", "hello")
        assert json.loads(done.stdout)["timeout_seconds"] == seconds


@pytest.fixture
def editor(tmp_path: Path) -> Callable[[str], str]:
    """An editor that does to its file, `$1`, what a line of shell says."""

    def make(line: str) -> str:
        program = tmp_path / "editor"
        program.write_text(f"#!/bin/sh\nshift $(($# - 1))\n{line}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return f"{program} --wait"

    return make


def test_a_prompt_can_be_written_in_an_editor(
    clinvk: CommandLine, home: Home, fake: Path, editor: Callable[[str], str], tmp_path: Path
) -> None:
    copy = tmp_path / "seen"
    line = f'cp "$1" {copy}; echo "$1" > {copy}.name; {{ echo "# A heading"; echo; cat {copy}; }} > "$1"'
    env = {"VISUAL": editor(line), "EDITOR": "false"}

    done = clinvk("-e", "and the rest", env=env)

    assert (done.returncode, done.stderr) == (0, "")
    assert home.record()["prompt"].startswith("# A heading")
    assert copy.read_text().startswith("and the rest\n")
    assert "Write the prompt above the line" in copy.read_text()
    name = Path(copy.with_name("seen.name").read_text().strip())
    assert name.suffix == ".md"
    assert not name.parent.exists()
    assert clinvk("resume", "--last", "--edit", env=env).returncode == 0


@pytest.mark.parametrize(("line", "said"), [
    ("exit 3", "the editor exited with 3; nothing was sent"), (":", "the prompt is empty; nothing was sent"),
])  # fmt: skip
def test_an_editor_that_fails_or_writes_nothing_sends_nothing(
    clinvk: CommandLine, home: Home, fake: Path, editor: Callable[[str], str], line: str, said: str
) -> None:
    done = clinvk("-e", env={"EDITOR": editor(line)})

    assert (done.returncode, home.ids()) == (1, [])
    assert said in done.stderr


def test_a_prompt_that_was_written_is_not_lost(
    clinvk: CommandLine, home: Home, editor: Callable[[str], str]
) -> None:
    env = {"EDITOR": editor('echo "a long text" > "$1"'), "TMPDIR": str(home.work)}

    done = clinvk("-b", "nobody", "-e", env=env)

    assert done.returncode == 2
    [path] = home.work.glob("clinvk-*/PROMPT.md")
    assert path.read_text() == "a long text\n"
    assert f"clinvk -f {path}" in done.stderr
    assert os.stat(path.parent).st_mode & 0o77 == 0


def test_a_dry_run_keeps_the_prompt_that_was_written(
    clinvk: CommandLine, home: Home, fake: Path, editor: Callable[[str], str]
) -> None:
    env = {"EDITOR": editor('echo "a long text" > "$1"'), "TMPDIR": str(home.work)}
    assert clinvk("a session", env=env).returncode == 0

    for count, args in enumerate((["-e"], ["resume", "--last", "-e"]), 1):
        done = clinvk(*args, "--dry-run", env=env)
        assert done.returncode == 0
        paths = list(home.work.glob("clinvk-*/PROMPT.md"))
        assert [path.read_text() for path in paths] == ["a long text\n"] * count
        assert any(f"clinvk -f {path}" in done.stderr for path in paths)


def test_without_an_editor_no_draft_is_left(clinvk: CommandLine, home: Home) -> None:
    done = clinvk("-e", "words", env={"EDITOR": "/no/such/editor", "TMPDIR": str(home.work)})

    assert (done.returncode, list(home.work.glob("clinvk-*"))) == (1, [])
    assert "/no/such/editor" in done.stderr


def test_a_prompt_can_start_from_a_template(clinvk: CommandLine, home: Home, fake: Path) -> None:
    done = clinvk("--template", "coding", "--title", "Mine", "--tag", "t", "hello")

    assert done.returncode == 0, done.stderr
    record = home.record()
    assert (record["template"], record["title"], record["tags"]) == ("coding", "Mine", ["t"])
    assert record["turns"] == 1
    for words in (["--template", "coding", "--dry-run", "x"], ["--template", "nope", "x"],
                  ["--template", "coding", "-b", "nobody", "x"]):  # fmt: skip
        clinvk(*words)
    assert len(home.ids()) == 1
    named = ("--session", "mine", "--template", "coding", "hello")
    assert [clinvk(*named).returncode, clinvk(*named).returncode] == [0, 4]
    assert home.record("mine")["turns"] == 1


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("fail=boom", "--option fail: 'boom' is not an HTTP status of a failure, such as 429"),
        ("fail=200", "--option fail: '200' is not an HTTP status of a failure, such as 429"),
        ("delay=-1", "--option delay: '-1' is not a number of seconds from 0 to 3600"),
        ("delay=nan", "--option delay: 'nan' is not a number of seconds from 0 to 3600"),
    ],
)
def test_an_invalid_option_of_echo_is_one_line(clinvk: CommandLine, option: str, problem: str):
    done = clinvk("-b", "echo", "--option", option, "hi")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"clinvk: echo: {problem}\n"
