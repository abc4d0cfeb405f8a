"""A command in a terminal that a person could look at: keys in, the screen out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.needs import need

if TYPE_CHECKING:
    from tests.conftest import Home

WAIT = 60.0  # seconds


class Tmux:
    def __init__(self, env: Mapping[str, str], cwd: Path, socket: Path) -> None:
        self.env, self.cwd, self.socket = env, cwd, socket

    def start(self, *args: str, columns: int = 80, rows: int = 24, **env: str) -> None:
        """Start clinvk; its exit code is the last thing on the screen."""
        said = {**self.env, "TERM": "tmux-256color", **env}
        settings = " ".join(f"{k}={shlex.quote(v)}" for k, v in said.items())
        # With CI set, what is on a terminal is as plain as in a pipe.
        line = f"env -u CI {settings} {sys.executable} -m clinvk {shlex.join(args)}; echo exit $?; sleep 60"
        self.socket = self.socket.with_suffix(
            f".{time.monotonic_ns()}"
        )  # the last server may be ending
        size = ["-x", str(columns), "-y", str(rows)]
        self.tmux("new-session", "-d", *size, "-c", str(self.cwd), line)

    def tmux(self, *args: str, stdin: str | None = None) -> str:
        argv = ["tmux", "-S", str(self.socket), "-f", "/dev/null", *args]
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout

    def keys(self, *keys: str) -> None:
        """Press keys by their names: `Enter`, `C-c`."""
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type the text, and send it once it is on the screen."""
        self.tmux("send-keys", "-l", text)
        self.shows(text.splitlines()[-1][-30:])
        self.keys("Enter")

    def paste(self, text: str) -> None:
        self.tmux("load-buffer", "-", stdin=text)
        self.tmux("paste-buffer", "-p")

    def screen(self) -> str:
        """What is visible, without the empty rows at its end."""
        return self.tmux("capture-pane", "-p").rstrip("\n")

    def history(self) -> str:
        """All of it, with what was scrolled off; lines that the terminal has wrapped are joined."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-").rstrip("\n")

    def shows(self, text: str | re.Pattern[str]) -> None:
        self.waits(lambda: re.search(text, self.screen()) if isinstance(text, re.Pattern) else text in self.screen(), text)  # fmt: skip

    def waits(self, check: Callable[[], object], what: object) -> None:
        until = time.monotonic() + WAIT
        while not check():
            assert time.monotonic() < until, f"no {what!r} on the screen:\n{self.screen()}"
            time.sleep(0.02)

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def pid(self) -> int:
        """The process that the terminal has started."""
        return int(self.tmux("display-message", "-p", "#{pane_pid}"))

    def close(self) -> None:
        """Close the terminal, as a person closes its window."""
        self.tmux("kill-server")


@pytest.fixture
def tmux(home: Home, tmp_path: Path) -> Iterator[Tmux]:
    need("tmux")
    found = Tmux(home.env, home.work, tmp_path / "tmux")
    yield found
    if os.path.exists(found.socket):
        subprocess.run(
            ["tmux", "-S", str(found.socket), "kill-server"], capture_output=True, check=False
        )
