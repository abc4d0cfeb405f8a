"""Releases of claude that differ: what the manifest says about them is what is sent."""

import json
from pathlib import Path

import pytest

from clinvk.backend.catalog import Catalog
from clinvk.backend.command_line import build_command
from clinvk.backend.versions.installed import fitting_manifest, remember_version
from tests.conftest import CommandLine, Home, say

CLAUDE = Catalog(Path("/nowhere")).load("claude")
MENTIONS = [
    "see @s.txt now", "@s.txt", '@"a b.txt"', "。@s.txt", "é@s.txt", "a\n@~/s.txt", "(@s.txt)",
    "-@s.txt @./s.txt#L1", "see @server:uri", "看@s.txt",
]  # fmt: skip


@pytest.fixture
def sent(tmp_path: Path):
    program = tmp_path / "claude"
    program.touch()

    def command(release: str, prompt: str, **options: str) -> tuple[str, list[str]]:
        remember_version(str(program), release, tmp_path)
        manifest = fitting_manifest(
            CLAUDE, str(program), tmp_path, options=options, prompt=prompt, ephemeral=False,
            expand=False,
        )  # fmt: skip
        made = build_command(
            manifest, "claude", prompt=prompt, options=options, cwd=Path("/"), env={},
            temp_dir=Path("/tmp/private"),
        )  # fmt: skip
        return made.stdin.decode(), list(made.argv)

    return command


def test_an_old_claude_gets_no_mention_of_a_file(sent):
    for prompt in MENTIONS:
        for release in ("2.1.197 (Claude Code)", "2.1.296", "1.0.120", "unknown"):
            assert sent(release, prompt)[0] == prompt.replace("@", "\\@")
        for release in ("2.1.299", "2.1.332 (Claude Code)", "2.2.0", "3.0"):
            assert sent(release, prompt)[0] == prompt


@pytest.mark.parametrize("text", ["mail ada@example.org", "a @ b", "\\@s.txt", "plain"])
def test_what_no_claude_takes_for_a_file_is_left_as_it_is(sent, text: str):
    assert sent("2.1.197", text)[0] == text


def test_options_of_an_old_claude(sent):
    assert "--system-prompt-snapshot" in sent("2.1.257", "x", system_prompt="s")[1]
    assert "--system-prompt-snapshot" not in sent("2.1.252", "x", system_prompt="s")[1]
    assert sent("2.1.200", "x", approval="always")[1][-1] == "manual"
    assert sent("2.1.199", "x", approval="always")[1][-1] == "default"
    assert sent("unknown", "x", approval="always")[1][-1] == "manual"


def test_the_cost_of_a_later_turn_is_that_of_its_run(clinvk: CommandLine, home: Home):
    """Since 2.1.277, what claude calls the total is the session's, and no cost of the turn."""
    folder = home.path.parent / "bin"
    folder.mkdir()
    program = folder / "claude"
    id_ = '{"session_id":"65754ce3-ef40-4fde-8795-29a250cf7823"'
    result = (
        ',"type":"result","result":"x","total_cost_usd":0.25,"usage":{"input_tokens":10,"output_tokens":2},'
        '"modelUsage":{"a":{"inputTokens":15,"outputTokens":3,"costUSD":0.25}}}'
    )
    env = {"PATH": f"{folder}:{home.env['PATH']}"}
    for words, version, cost, tokens in (
        ((), "2.1.277", 0.25, 15),
        (("-c",), "2.1.276", 0.25, 15),
        (("-c",), "2.1.277", None, 10),
        (("-c",), "?", None, 10),
    ):
        program.unlink(missing_ok=True)
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\ncat >/dev/null\n'
            f'echo \'{id_},"type":"system","subtype":"init"}}\'\necho \'{id_}{result}\'\n'
        )
        program.chmod(0o755)
        turn = clinvk.json("-b", "claude", "-o", "json", *words, "hello", env=env)
        assert (turn["cost"] and turn["cost"]["usd"]) == cost, version
        assert turn["usage"]["input"] == tokens


def test_the_installed_release_decides(clinvk: CommandLine, home: Home):
    folder = home.path.parent / "bin"
    folder.mkdir()
    program = folder / "claude"
    init = say(type="system", subtype="init", session_id="65754ce3-ef40-4fde-8795-29a250cf7823")
    env = {"PATH": f"{folder}:{home.env['PATH']}"}
    for version, prompt in (("2.1.197", "see \\@s"), ("2.1.299", "see @s"), ("?", "see \\@s")):
        program.unlink(missing_ok=True)
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\n{init}'
            "read -r said\n"
            'printf \'{"type":"result","result":"%s"}\\n\' "$(printf %s "$said" | sed \'s/\\\\/\\\\\\\\/\')"\n'
        )
        program.chmod(0o755)
        done = clinvk("-b", "claude", "-o", "json", "see @s", env=env)
        assert json.loads(done.stdout)["content"] == prompt, done.stderr
        assert ("@ is passed as text" in done.stderr) == (prompt != "see @s")
