"""clinvk on a terminal, as a person has it."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from clinvk.model.session import Session
from clinvk.store import open_store
from tests.screens import Screen
from tests.stores import keep

if TYPE_CHECKING:
    from tests.conftest import Home

WAIT = 60  # seconds

Terminal = Callable[..., pexpect.spawn]


@pytest.fixture
def terminal(home: Home) -> Iterator[Terminal]:
    """Start `clinvk` on a terminal of 80 columns, or of `width`."""
    running: list[pexpect.spawn] = []

    def start(*args: str, cwd: Path | None = None, width: int = 80, **env: str) -> pexpect.spawn:
        settings = {"encoding": "utf-8", "dimensions": (24, width), "timeout": WAIT}
        env = {**home.env, "TERM": "xterm", **env}
        argv = ["-m", "clinvk", *args]
        child = pexpect.spawn(
            sys.executable, argv, cwd=str(cwd or home.work), env=env,
            # A shell ignores it for what it runs in the background, such as these tests.
            preexec_fn=lambda: signal.signal(signal.SIGQUIT, signal.SIG_DFL), **settings,
        )  # fmt: skip
        running.append(child)
        return child

    yield start
    for child in running:
        child.close(force=True)


def ending(child: pexpect.spawn) -> tuple[str, int]:
    """The rest of what it shows, and its exit code."""
    child.expect(pexpect.EOF)
    child.close()
    return child.before, child.exitstatus


def past(home: Home, id_: str, **values: Any) -> None:
    """A session of the backend `fake` that had one turn."""
    values = {"backend": "fake", "cwd": os.path.realpath(home.work),
              "native_ids": {"fake": f"native-{id_}"}, **values}  # fmt: skip
    keep(open_store("file", home.path)).create(Session(id=id_, **values))
    (home.path.parent / "fakes").mkdir(exist_ok=True)
    (home.path.parent / "fakes" / f"turns-native-{id_}").write_text("1")


def on_terminal(home: Home, *args: str, columns: int = 80, rows: int = 24, first: str = "", **env: str) -> tuple[str, Screen]:  # fmt: skip
    """What the command writes, and the screen after it. `first` is Python that is run before it, in its
    process."""
    start = f"{first}\nfrom clinvk.__main__ import main\nmain()"
    argv = ["-c", start, *args] if first else ["-m", "clinvk", *args]
    child = pexpect.spawn(
        sys.executable, argv, cwd=str(home.work), env={**home.env, "TERM": "xterm-256color", **env},
        encoding="utf-8", dimensions=(rows, columns), timeout=60, echo=False,
    )  # fmt: skip
    child.logfile_read = io.StringIO()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0, child.before
    screen = Screen(columns, rows)
    written = child.logfile_read.getvalue()
    screen.feed(written)
    return written, screen
