"""Each option of a turn is defined once, and everything else follows."""

import re
from typing import Any

import pytest

from clinvk.cmd.main import root
from clinvk.cmd.options.words import OPTIONAL_VALUE
from clinvk.cmd.usage import task_keys
from clinvk.config.schema import BackendConfig, UnifiedFlags
from clinvk.model.option_table import FLAGS, OPTIONS, Option, options_in
from clinvk.plans.schema import TaskEntry
from tests.conftest import PROJECT, CommandLine, Home

FLAGGED = [option for option in OPTIONS if option.flag]
TYPES = {str: "text", int: "number", float: "number"}
SECTIONS = {"unified_flags": UnifiedFlags, "backends": BackendConfig}
KEYS = [(section, option) for section in SECTIONS for option in options_in(section)]

BARE = """\
name: bare
command: cat
argv: {run: []}
output: text
"""


def params(*names: str) -> dict[str, Any]:
    command: Any = root()
    context = command.make_context("clinvk", ["version"])
    for name in names:
        command = command.get_command(context, name)
    return {param.name: param for param in command.params}


@pytest.mark.parametrize("command", ["ask", "resume"])
@pytest.mark.parametrize("option", FLAGGED, ids=lambda option: option.name)
def test_a_prompt_has_a_flag_for_each_option(option: Option, command: str) -> None:
    param = params(command)[option.name]

    assert param.opts == [word for word in (option.flag, option.short) if word]
    assert param.help == option.help
    assert param.multiple == option.repeatable
    assert getattr(param.type, "min", None) == option.minimum


def test_the_command_line_knows_which_options_may_stand_alone() -> None:
    assert {option.flag for option in FLAGGED if option.optional_value} == {*OPTIONAL_VALUE}


@pytest.mark.parametrize("command", ["parallel", "chain"])
def test_many_tasks_have_the_flags_that_are_for_them(command: str) -> None:
    wanted = {option.name for option in OPTIONS if option.flag_of_runs}

    assert params(command).keys() & FLAGS.keys() == wanted


@pytest.mark.parametrize(
    "option", [option for option in FLAGGED if option.choices], ids=lambda option: option.name
)
def test_a_shell_completes_the_choices_of_an_option(option: Option, clinvk: CommandLine) -> None:
    env = {"_CLINVK_COMPLETE": "complete_bash", "COMP_WORDS": f"clinvk ask {option.flag} "}

    done = clinvk(env={**env, "COMP_CWORD": "3"})

    assert tuple(done.stdout.split()) == option.choices


@pytest.mark.parametrize(
    "option",
    # Of answers that have to match a schema, clinvk itself takes care.
    [o for o in FLAGGED if o.name != "schema" and not (o.own or o.everywhere)],
    ids=lambda option: option.name,
)
def test_an_option_that_is_not_supported_is_named_as_it_was_typed(
    option: Option, home: Home, clinvk: CommandLine
) -> None:
    home.manifest("bare", BARE)
    (home.work / "s.json").write_text("{}")
    values = {"file": "s.json", "directory": ".", None: "1"}
    value = option.choices[-1] if option.choices else values[option.path]
    words = [] if option.type is bool else [value]

    done = clinvk("-b", "bare", option.flag, *words, "hello")

    assert done.returncode == 1
    assert re.match(rf"clinvk: bare (does not support|cannot enforce) {option.flag}\b", done.stderr)


def test_an_option_that_was_not_typed_is_named_by_its_name(
    clinvk: CommandLine,
) -> None:
    done = clinvk("-b", "echo", "--option", "effort=high", "hello")

    assert done.stderr.startswith("clinvk: echo has no option 'effort'")


def test_a_flag_that_is_dropped_for_many_tasks_is_named_as_it_was_typed(
    home: Home, clinvk: CommandLine
) -> None:
    home.manifest("bare", BARE)

    done = clinvk("parallel", "-b", "bare", "-m", "big", "--prompt", "{{line}}", stdin="a\n")

    assert "bare does not support --model; dropped" in done.stderr


@pytest.mark.parametrize(("section", "option"), KEYS)
def test_the_configuration_has_each_key_of_an_option(section: str, option: Option) -> None:
    assert option.config_key in SECTIONS[section].__struct_fields__


def test_a_task_has_each_key_of_an_option() -> None:
    for option in OPTIONS:
        assert set(option.task_keys) <= set(TaskEntry.__struct_fields__)


@pytest.mark.parametrize(("section", "option"), KEYS)
def test_the_page_of_the_configuration_has_the_row_of_each_option(
    section: str, option: Option
) -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
    title = "backends.NAME" if section == "backends" else section
    part = page.split(f"### `{title}`")[1].split("\n### ")[0]
    kind = ", ".join(f"`{c}`" for c in option.choices) or TYPES[option.type]
    if option.repeatable:
        kind = "list"
    kinds = [kind, "as above"] if section == "backends" and option.choices else [kind]

    rows = re.findall(
        rf"^\| `{option.config_key}` \| (.+?) \| (.+?) \| (.+) \|$", part, re.MULTILINE
    )

    assert len(rows) == 1
    said, default, effect = rows[0]
    assert said in kinds
    real = getattr(SECTIONS[section](), option.config_key)
    assert default in (["none", "the CLI's"] if real is None else [f"`{real}`"])
    if option.flag:
        assert re.match(rf"as `({option.flag}|{option.short})`", effect)


@pytest.mark.parametrize(("section", "option"), KEYS)
def test_the_example_configuration_names_the_flag_of_each_option(
    section: str, option: Option
) -> None:
    text = (PROJECT / "config.example.yaml").read_text(encoding="utf-8")
    part = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)
    lines = next(p for p in part if p.startswith(f"{section}:")).splitlines()

    [line] = [line for line in lines if line.strip().startswith(f"{option.config_key}:")]

    if option.choices and section == "unified_flags":
        *others, last = option.choices
        assert f"# {', '.join(others)} or {last};" in line
    if option.flag and f"unified_flags.{option.config_key}" not in line:
        assert re.search(rf"\bas ({option.flag}|{option.short})\b", line)


def test_the_page_of_tasks_has_each_key_of_an_option() -> None:
    page = (PROJECT / "docs" / "parallel.md").read_text(encoding="utf-8")
    [row] = [line for line in page.splitlines() if line.startswith("| `backend`, `model`")]

    named = re.findall(r"`(\w+)`", row)

    assert set(named) - {"backend"} == {o.name for o in OPTIONS if o.task_key and o.flag}


def test_the_page_of_tasks_has_each_key_of_the_help_and_no_other() -> None:
    page = (PROJECT / "docs" / "parallel.md").read_text(encoding="utf-8")
    synonyms = {key for option in OPTIONS for key in option.task_keys if key != option.name}
    for title, keys in task_keys.sections("clinvk parallel"):
        table = page.split(f"| {title.lower().replace('keys', 'key')} | |")[1]
        rows = table.partition("\n\n")[0].splitlines()[2:]
        named = [key for row in rows for key in re.findall(r"`(\w+)`", row.split(" | ")[0])]
        known = [key for names, _ in keys for key in names.split(", ")]
        assert sorted(named) == sorted({*known} - (synonyms - {*named}))
