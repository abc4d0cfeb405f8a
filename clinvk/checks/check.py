"""Run a check: shell commands in a directory, one after another, until one fails."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import anyio
from msgspec.structs import replace

from clinvk.checks.output import CheckOutput
from clinvk.errors import ClinvkError
from clinvk.model.checks.check import NOT_RUN_CODES, CheckResult
from clinvk.process.child import Child, start
from clinvk.process.command import Command
from clinvk.process.leftovers import find_leftovers
from clinvk.process.marker import MARKER, new_marker
from clinvk.text.duration import format_duration

DEFAULT_TIMEOUT = 600.0  # seconds
SHELL = "/bin/sh"
# Both streams of the command go into one, in order. The line numbers in messages of the shell stay.
ARGV = (SHELL, "-c", 'exec "$0" -c "$1" 2>&1', SHELL)
SIGNALLED = 128  # a shell's exit code for a command that a signal ended is this and its number


class CheckRun:
    """One run of a check. All its programs carry a marker below `marker`, and are ended with it."""

    def __init__(
        self,
        commands: tuple[str, ...],
        cwd: Path,
        env: Mapping[str, str],
        marker: str,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self.commands = commands
        self.cwd = cwd
        self.timeout = timeout
        self._env = dict(env)
        self.marker = new_marker({MARKER: marker})
        self._child: Child | None = None

    async def run(self, output: CheckOutput) -> CheckResult:
        """The result: `passed`, `failed` or `could_not_run`. Cancelling it ends its programs."""
        began = time.monotonic()
        deadline = anyio.current_time() + self.timeout
        check = CheckResult(state="passed", exit_code=0)
        try:
            for command in self.commands:
                output.begin(command)
                check = await self._run_command(command, output, deadline)
                if not check.ok:
                    break
            text = await output.end()
        finally:
            output.close()
        if check.ok:
            check = CheckResult(state="passed", command=" && ".join(self.commands), exit_code=0)
        return replace(check, seconds=time.monotonic() - began, output=text)

    def kill_now(self) -> None:
        """Kill its programs, if they are being stopped."""
        if self._child is not None:
            self._child.kill_now()

    async def _run_command(self, text: str, output: CheckOutput, deadline: float) -> CheckResult:
        command = Command((*ARGV, text), self._env, self.cwd, b"", {})
        began = time.time()
        code: int | None = None
        try:
            async with start(command, self.marker, stop_signal=signal.SIGTERM) as child:
                self._child = child
                with anyio.CancelScope(deadline=deadline) as scope:
                    while (piece := await child.read()) is not None:
                        await output.add(piece)
                    code = await child.wait()
                if scope.cancelled_caught:
                    for line in await child.stop(signal.SIGTERM):
                        await output.add(line + b"\n")
                await self._end_leftovers(child, began)
        except ClinvkError as error:
            return CheckResult(
                state="could_not_run", command=text, message=f"check could not run: {error.message}"
            )
        if code is None:
            took = format_duration(self.timeout)
            message = f"check did not end within {took}: {text}"
            return CheckResult(state="failed", command=text, message=message)
        return _of_exit_code(text, code)

    async def _end_leftovers(self, child: Child, began: float) -> None:
        """End what the command left running in the background."""
        if not find_leftovers(child.pid, child.marker, child.exited_at_monotonic):
            return
        # psutil, 10 ms, and rarely needed.
        from clinvk.process.tree import CLOCK_TOLERANCE, ProcessTree

        with anyio.CancelScope(shield=True):
            family = ProcessTree(child.pid, child.marker, began - CLOCK_TOLERANCE)
            family.refresh()
            await family.terminate_then_kill()


def _of_exit_code(command: str, code: int) -> CheckResult:
    """The result of a command that ended by itself, or by a signal."""
    if code == 0:
        return CheckResult(state="passed", command=command, exit_code=0)
    if code in NOT_RUN_CODES:
        why = {126: "it is not executable", 127: "it was not found"}[code]
        message = f"check could not run: {command}: {why} (exit code {code})"
        return CheckResult(state="could_not_run", command=command, exit_code=code, message=message)
    if code < 0:
        message = f"check was ended by {_signal_name(-code)}: {command}"
        return CheckResult(state="failed", command=command, message=message)
    name = _signal_name(code - SIGNALLED) if code > SIGNALLED else None
    by = f", {name}" if name else ""
    message = f"check failed: {command} (exit code {code}{by})"
    return CheckResult(state="failed", command=command, exit_code=code, message=message)


def _signal_name(number: int) -> str | None:
    with suppress(ValueError):
        return signal.Signals(number).name
    return None
