"""A prompt that is read without typer is the one that typer reads."""

import random
import subprocess
import sys

import pytest

from clinvk.cmd import ask as asking
from clinvk.cmd.main import ALIASES, COMMANDS, root
from clinvk.cmd.options.quick import FLAGS, QuickPrompt, _flags_of_table, read_quickly
from clinvk.model.option_table import BY_FLAG

NAMES = (*COMMANDS, *ALIASES)


def by_quick(argv: list[str]) -> "asking.Asked | None":
    found: QuickPrompt | None = read_quickly(argv, NAMES)
    return found and asking.Asked(
        flags=found.flags, words=found.words, commands=NAMES, **found.choosing
    )


@pytest.fixture
def by_typer(monkeypatch: pytest.MonkeyPatch):
    seen: list[asking.Asked] = []
    monkeypatch.setattr(asking, "ask", lambda asked: seen.append(asked) or 0)

    def read(argv: list[str]) -> asking.Asked:
        root().main(list(argv), prog_name="clinvk", standalone_mode=False)
        return seen[-1]

    return read


def words_for(name: str) -> list[str]:
    flag = (FLAGS | _flags_of_table())[name]
    if not flag.takes_value:
        return [name]
    choices = BY_FLAG[name].choices if name in BY_FLAG else ()
    return [name, choices[0] if choices else "5" if "timeout" in name else "a value=1"]


@pytest.mark.parametrize("name", FLAGS | _flags_of_table())
def test_each_flag_means_the_same_to_both(by_typer, name: str):
    for argv in (["a b c", *words_for(name)], [*words_for(name), "a b c"]):
        found = by_quick(argv)
        assert found is not None
        assert found == by_typer(argv)


def test_flags_together_mean_the_same_to_both(by_typer):
    chance = random.Random(7)
    names = sorted(FLAGS | _flags_of_table())
    read = 0
    for _ in range(150):
        chosen = chance.sample(names, chance.randint(0, 5))
        parts = [words_for(name) for name in chosen]
        parts.insert(chance.randint(0, len(parts)), ["the prompt, in words"])
        argv = [word for part in parts for word in part]
        if (found := by_quick(argv)) is not None:
            read += 1
            assert found == by_typer(argv), argv
    assert read > 50


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["list", "of", "words"],
        ["sessions", "list"],
        ["session"],
        ["p", "-"],
        ["-"],
        ["p", "--", "--more"],
        ["p", "--modle", "x"],
        ["p", "--model=x"],
        ["p", "-bclaude"],
        ["p", "-b"],
        ["p", "-b", ""],
        ["p", "-b", "-c"],
        ["p", "-b", "a", "-b", "b"],
        ["p", "--max-turns", "2"],
        ["p", "--history", "2"],
        ["--config", "x", "p"],
        ["--color", "never", "p"],
        ["-fix this", "p"],
        ["-h"],
        ["-qc", "p"],
        [""],
        ["p", "--add-dir", "."],
        ["p", "--file", "x"],
        ["p", "--plain"],
    ],
)
def test_everything_else_is_left_to_typer(argv: list[str]):
    assert read_quickly(argv, NAMES) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["-b", "echo", "-q", "a plain prompt"],
        ["-b", "echo", "--json", "--new", "-c", "a plain prompt"],
        ["-b", "no-such", "-o", "json", "a plain prompt"],
        ["-b", "echo", "sesions"],
    ],
)
def test_a_prompt_without_typer_ends_as_with_it(clinvk, argv: list[str]):
    quick, with_typer = clinvk(*argv), clinvk(*argv, "--plain")

    assert quick.returncode == with_typer.returncode
    assert (quick.stdout, quick.stderr) == (with_typer.stdout, with_typer.stderr)


def test_a_plain_prompt_does_not_load_typer(tmp_path):
    code = (
        "import sys; from clinvk.cmd.main import main; main(['-b', 'echo', 'hi there']); "
        "sys.exit('typer' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
