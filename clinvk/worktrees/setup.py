"""The command that prepares a new worktree, such as `npm ci`."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

from clinvk.errors import ClinvkError
from clinvk.process.child import start
from clinvk.process.command import Command
from clinvk.process.marker import new_marker
from clinvk.text.sanitize import one_line

SHELL = "/bin/sh"
SHOWN = 3  # lines at the end of its output that the error shows


async def run_setup(text: str, cwd: Path, env: Mapping[str, str]) -> None:
    """Run the shell command; cancelling this ends all that it started. Raises `ClinvkError` if it
    fails."""
    argv = (SHELL, "-c", 'exec "$0" -c "$1" 2>&1', SHELL, text)
    command = Command(argv, dict(env), cwd, b"", {})
    last: list[str] = []
    async with start(command, new_marker(env), stop_signal=signal.SIGTERM) as child:
        while (lines := await child.lines()) is not None:
            shown = (one_line(line.decode("utf-8", "replace")) for line in lines[-SHOWN:])
            last = [*last, *filter(None, shown)][-SHOWN:]
        code = await child.wait()
    if code:
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        said = f": {' / '.join(last)}" if last else ""
        raise ClinvkError(
            f"the setup of the worktree failed ({how}){said}", f"fix the command: {one_line(text)}"
        )
