"""What `--help` and `-h` print, for each command."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from clinvk.cmd.main import COMMANDS, root
from clinvk.cmd.usage import help_texts, task_keys
from clinvk.cmd.usage.help_page import MANY, group_of, render_page
from clinvk.model import option_table
from clinvk.model.result import EXIT_CODES
from clinvk.plans import schema
from tests.conftest import PROJECT, CommandLine
from tests.test_docs import commands as commands_of_line
from tests.test_docs import parse

# Phrases of the library that reads the command line.
CLICK = re.compile(
    r"not a valid|not in the range|[Ee]xtra argument|Missing|Invalid value|No such (option|command)"
    r"|Possible options|requires an argument|does not take a value|int range|<\w+>"
)


def contexts(command: Any, path: str, parent: Any = None) -> Iterator[Any]:
    """A context of each command, as its own `--help` has it."""
    words = ["version"] if parent is None else []
    context = command.make_context(path, words, parent=parent, resilient_parsing=parent is not None)
    yield context
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from contexts(command.get_command(context, name), name, context)


ALL = list(contexts(root(), "clinvk"))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_help_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))

    for context in ALL:
        for full in (True, False):
            page = render_page(context.command, context, full=full)

            assert [line for line in page.splitlines() if len(line) > min(width, 100)] == []
            assert not CLICK.search(page)
            assert context.command_path in page


def test_every_option_and_argument_is_explained_in_one_style() -> None:
    for context, param in ((c, p) for c in ALL for p in c.command.get_params(c) if not p.hidden):
        where = f"{context.command_path} {param.opts}"
        assert param.help, where
        assert re.match(r"[A-Za-z].*[.)]$", param.help, re.DOTALL), (where, param.help)
        if param.param_type_name == "option" and not param.is_flag:
            assert param.metavar, where
            assert param.metavar == param.metavar.upper() or "=" in param.metavar, where
            assert re.fullmatch(r"[A-Z][A-Z:,=\[\]|]*|WHEN,fail=N", param.metavar), where


def test_many_options_are_in_groups() -> None:
    grouped = []
    for context in ALL:
        params = context.command.get_params(context)
        options = [p for p in params if p.param_type_name == "option" and not p.hidden]
        if len(options) > MANY:
            others = [p for p in options if group_of(p) == help_texts.OTHER]
            assert {flag for p in others for flag in p.opts} <= {"--config", "--help", "-h"}
            grouped.append(context.info_name)
    assert {"ask", "resume", "parallel", "chain", "compare"} <= {*grouped}


def test_a_command_has_a_summary_that_is_not_cut() -> None:
    for context in ALL:
        summary = render_page(context.command, context, full=False).partition("\n\n")[0]

        assert re.fullmatch(r"[A-Z].*\.", summary, re.DOTALL), context.command_path
        assert "..." not in summary


def test_an_example_can_be_typed() -> None:
    assert {*help_texts.EXAMPLES} <= {context.command_path for context in ALL}
    for examples in help_texts.EXAMPLES.values():
        for _, line in examples:
            [words] = commands_of_line(line)
            parse(words)


def test_the_help_has_groups_examples_and_exit_codes(clinvk: CommandLine) -> None:
    page = clinvk("--help").stdout

    titles = re.findall(r"^(\w[\w ]*):$", page, re.MULTILINE)
    wanted = [
        "Usage",
        "Prompts",
        "Many tasks",
        "Session",
        "Model and options",
        "Safety",
        "Checks",
        "Limits",
    ]
    assert titles == sorted(titles, key=titles.index)
    assert {*wanted, "Output", "Examples", "Exit codes", "Files"} <= {*titles}
    codes = re.findall(r"^  (\d+) ", page.split("Exit codes:")[1], re.MULTILINE)
    assert {int(code) for code in codes} == {0, *EXIT_CODES.values()}
    for name in COMMANDS:
        assert name in help_texts.SECOND_NAMES or re.search(rf"^  {name} ", page, re.MULTILINE)
    assert "Documentation: " in page


def test_a_hint_about_a_key_leads_to_help_that_has_all_keys(clinvk: CommandLine) -> None:
    for command, kind in (("parallel", "task"), ("chain", "step")):
        said = clinvk(command, stdin=f"{kind}s: [{{prompt: x}}]\nmax_paralel: 2\n")
        assert said.returncode == 3
        assert said.stderr.endswith(f"see the keys of the file: clinvk help {command}\n")
        page = clinvk("help", command).stdout
        keys = page.split(f"Keys of a {kind}:")[1].partition("\n\n")[0]
        for option in option_table.OPTIONS:
            found = re.search(rf"^  {option.name}\b", keys, re.MULTILINE)
            assert bool(found) == option.task_key, option.name
        assert f"  {kind}s " in page.split("Keys of the file:")[1]
        codes = page.split("Exit codes:")[1]
        assert "timed out" not in codes  # of one prompt
        assert "a task failed" in codes
    assert not task_keys.undocumented(task_keys.TASK.keys() | {*schema.OPTIONS}, schema.TaskEntry)
    assert not task_keys.undocumented(task_keys.FILE, schema.TaskFile)


def test_the_exit_codes_in_the_help_are_those_of_the_documentation(clinvk: CommandLine) -> None:
    table = (PROJECT / "docs" / "parallel.md").read_text().split("## Exit codes")[1]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    for command in ("parallel", "chain", "compare", "runs retry", "runs resume", "runs watch"):
        codes = help_texts.exit_codes(f"clinvk {command}")
        assert {code for code, _ in codes} == documented
    assert (6, "timed out") in help_texts.exit_codes("clinvk resume")


def test_the_short_help_is_a_summary_of_the_long_one(clinvk: CommandLine) -> None:
    for command in ([], ["ask"], ["resume"], ["parallel"], ["sessions", "list"]):
        short, full = clinvk(*command, "-h").stdout, clinvk(*command, "--help").stdout
        assert len(short) < len(full)
        assert short.split("\n\n")[0] == full.split("\n\n")[0]
        assert "--help" in short
        assert "Examples:" not in short


def test_help_is_the_same_however_it_is_asked_for(clinvk: CommandLine) -> None:
    for words in ([], ["sessions"], ["sessions", "list"], ["config"], ["parallel"]):
        pages = {clinvk(*words, "--help").stdout, clinvk("help", *words).stdout}
        assert len(pages) == 1, words


def test_headings_are_bold_if_color_is_wanted(clinvk: CommandLine) -> None:
    assert "\x1b[1mUsage:\x1b[0m" in clinvk("--color", "always", "--help").stdout
    assert "\x1b" not in clinvk("--help").stdout
