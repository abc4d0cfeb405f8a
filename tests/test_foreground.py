"""Programs that have the terminal for themselves: the user's editor, and a pager."""

import shlex
import sys
import threading
from pathlib import Path

import pexpect
import pytest

from clinvk.process.foreground import run_in_foreground
from tests.conftest import Home, write_program
from tests.terminals import WAIT, Terminal, ending, on_terminal, past


@pytest.mark.parametrize("key", ["c", "\\"])
@pytest.mark.parametrize("args", [["-b", "echo", "-e"], ["config", "edit"]])
def test_keys_that_interrupt_are_for_the_editor(terminal: Terminal, tmp_path: Path, key: str, args: list[str]):  # fmt: skip
    saving = """'echo "# saved after the key" > "$1"; echo SAVED; exit 0'"""
    program = tmp_path / "editor"
    write_program(
        program, f"#!/bin/sh\ntrap {saving} INT QUIT\necho READY\nwhile :; do sleep 0.1; done\n"
    )
    child = terminal(*args, EDITOR=str(program))
    child.expect("READY")
    child.sendcontrol(key)
    child.expect("SAVED")
    said, code = ending(child)
    assert code == 0
    assert ("saved after the key" in said) == ("-e" in args)


def test_an_editor_can_read_keys_after_a_pipe_was_read(home: Home, tmp_path: Path):
    program = tmp_path / "editor"
    write_program(program, '#!/bin/sh\necho READY\nread line\necho "and $line" >> "$1.new"\ncat "$1" >> "$1.new"\nmv "$1.new" "$1"\n')  # fmt: skip
    clinvk = f"{shlex.quote(sys.executable)} -m clinvk"
    child = pexpect.spawn(
        "/bin/sh", ["-c", f"echo from the pipe | {clinvk} -b echo -e -"], timeout=WAIT, encoding="utf-8",
        cwd=str(home.work), env={**home.env, "TERM": "xterm", "EDITOR": str(program)},
    )  # fmt: skip
    child.expect("READY")
    child.sendline("typed words")
    said, code = ending(child)
    assert code == 0
    assert "and typed words" in said
    assert "from the pipe" in said


def test_a_pager_is_started_with_its_signals_as_they_were(home: Home):
    code = "import signal, sys; sys.stdin.read(); print(signal.getsignal(signal.SIGINT))"
    pager = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    past(home, "talk")
    written, _ = on_terminal(home, "sessions", "show", "talk", rows=5, PAGER=pager)
    assert "default_int_handler" in written


def test_a_program_can_be_started_outside_the_main_thread():
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_in_foreground(["false"])))
    thread.start()
    thread.join()
    assert codes == [1]
