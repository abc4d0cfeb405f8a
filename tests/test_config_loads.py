"""A command reads the configuration once, so that all of it acts on the same one."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from clinvk.cmd.main import main
from clinvk.config import loading
from tests.conftest import CommandLine

COMMANDS = """
sessions start first -b echo --title Lexer
--dry-run -b echo hello
resume first --dry-run hello
sessions list
sessions show first
sessions search lexer
sessions stats first
sessions edit first --tag a
sessions options --session first
sessions export first
sessions branch first
sessions clean --dry-run
sessions import --dry-run
sessions reindex
sessions archive first
sessions delete first --yes
runs list
config show
templates list
checkpoints list
""".strip().splitlines()


def test_a_command_reads_the_configuration_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("CLINVK_HOME", str(home))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    loads, load = [], loading.load
    monkeypatch.setattr(loading, "load", lambda *args: (loads.append(args), load(*args))[1])
    counts = {}
    for command in COMMANDS:
        loads.clear()
        assert main(command.split()) == 0, (command, capfd.readouterr().err)
        counts[command] = len(loads)
    assert counts == dict.fromkeys(COMMANDS, 1)


def test_a_fifo_is_read_once_also_by_a_prompt_that_fails(clinvk: CommandLine, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    line = f"echo 'output: {{format: json}}' >{tmp_path}/fifo"
    with subprocess.Popen(["bash", "-c", line]):
        done = clinvk("-b", "nosuch", "--config", f"{tmp_path}/fifo", "hi")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "not_installed"
