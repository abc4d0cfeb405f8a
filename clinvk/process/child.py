"""Start a program, read its lines, stop it and everything that it started."""

from __future__ import annotations

import os
import re
import selectors
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from functools import partial

import anyio
from anyio.abc import Process

from clinvk.errors import ClinvkError, NotInstalledError
from clinvk.process.command import Command
from clinvk.process.marker import MARKER, PATIENCE, leaders
from clinvk.process.pipes import LineSplitter, Pipes

STDERR_KEPT = 64 * 1024  # bytes, the last ones
CHUNK_SIZE = 64 * 1024  # bytes: what a pipe holds
MUCH = CHUNK_SIZE // 4  # bytes of one read, after which the next one is not delayed
POLL_INTERVAL = 0.05  # seconds between checks of a program whose exit is not signalled
DRAIN_TIMEOUT = (
    0.25  # seconds without data on a pipe that is still open though the program has exited
)
MAX_LINGER = 2.0  # seconds in total to wait for other processes that keep writing to it
MAX_SHEBANG_LENGTH = 4096  # bytes of a script that are searched for its interpreter
MAX_DRAINED = 8 * 1024 * 1024  # bytes of stdout that are still read while the program is stopping


class Child:
    """A running program. Use `start`.

    Its stdout, stderr, exit and stdin are waited for in one place, by the reader of its lines: so a
    run needs no task of its own, and a thousand of them cost little more than starting their
    programs."""

    def __init__(
        self,
        process: Process,
        pipes: Pipes,
        selector: selectors.DefaultSelector,
        prompt: bytes,
        marker: str,
        stop_timeout: float,
        *,
        holds_prompt: bool,
        read_interval: float,
    ) -> None:
        self.pid = process.pid
        self.marker = marker
        self.stop_timeout = stop_timeout
        self.is_stopping = False
        self._process = process
        self._pipes = pipes
        self._selector = selector
        self._splitter = LineSplitter()
        self._read_interval = read_interval
        self._next_read = anyio.current_time() + read_interval
        self._stdout_ended = False
        self._stop_scope: anyio.CancelScope | None = None
        self._exited_at = float("inf")  # when the program was seen to have exited
        self.exited_at_monotonic = float("inf")  # the same, on `time.monotonic`
        self._waited = 0.0  # seconds, since then
        self._stderr_chunks: deque[bytes] = deque()  # of stderr
        self._stderr_size = 0
        self._prompt = memoryview(prompt)
        self._pidfd = _open_pidfd(process.pid)
        self._register_pipes()
        if not holds_prompt:
            self.send_prompt()

    @property
    def has_exited(self) -> bool:
        """Whether the program is known to have exited."""
        return self._exited_at < float("inf") or self._process.returncode is not None

    @property
    def stderr(self) -> str:
        """The end of its stderr (64 KiB at most)."""
        return b"".join(self._stderr_chunks)[-STDERR_KEPT:].decode("utf-8", "replace")

    @property
    def skipped(self) -> int:
        """The number of lines of stdout that were too long to keep."""
        return self._splitter.skipped

    @property
    def has_unread_output(self) -> bool:
        """Whether `lines` would find something on stdout at once."""
        if self._stdout_ended:
            return False
        return any(key.fileobj == self._pipes.stdout for key, _ in self._selector.select(0))

    async def lines(self) -> list[bytes] | None:
        """The next lines, at least one; None at the end. Raises nothing but cancellation."""
        while not self._stdout_ended:
            piece = await self._receive()
            if piece is None:
                self._stdout_ended = True
                return self._splitter.finish() or None
            if lines := self._splitter.feed(piece):
                return lines
        return None

    async def read(self) -> bytes | None:
        """The next piece of stdout as it is, in place of `lines`; None at the end."""
        if self._stdout_ended:
            return None
        piece = await self._receive()
        self._stdout_ended = piece is None
        return piece

    async def wait(self) -> int:
        """Its exit code, or minus the signal that killed it. Its stderr is complete then, unless a
        process that it left behind keeps it open."""
        with self._ignore_stdout():
            while not self.has_exited:
                await self._wait_for_event()
            code = await self._process.wait()
            with anyio.move_on_after(DRAIN_TIMEOUT):
                while self._is_watched(self._pipes.stderr):
                    await self._wait_for_event()
        return code

    async def stop(self, stop_signal: signal.Signals, *, now: bool = False) -> list[bytes]:
        """Terminate, wait, kill: the program and all that it started. Returns its last lines.

        Shielded, and done within three seconds, so that a cancelled run leaves nothing behind."""
        # psutil, 10 ms, and only needed to stop a program.
        from clinvk.process.tree import ProcessTree

        self.is_stopping = True
        said: list[bytes] = []
        with anyio.CancelScope(shield=True):
            family = ProcessTree.of_program(self.pid, self.marker)
            family.send_signal(signal.SIGKILL if now else stop_signal)
            with anyio.move_on_after(0 if now else self.stop_timeout) as self._stop_scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._drain, said)
                    await family.wait_until_gone()
            await family.kill_all()
            await self.wait()
            if not self._stdout_ended:
                with anyio.move_on_after(DRAIN_TIMEOUT):
                    await self._drain(said)
            self._stdout_ended = True
        return said

    def kill_now(self) -> None:
        """Kill at once, if a `stop` is still waiting."""
        if self._stop_scope is not None:
            self._stop_scope.cancel()

    def close(self) -> None:
        """Release its resources; it has exited."""
        if self._pidfd is not None:
            os.close(self._pidfd)

    async def _drain(self, said: list[bytes]) -> None:
        size = 0
        while size < MAX_DRAINED and (lines := await self.lines()):
            said += lines
            size += sum(map(len, lines))

    async def _receive(self) -> bytes | None:
        """The next piece of stdout; empty at its end, or if the program has exited and a process
        that it left behind keeps the pipe open without writing to it."""
        if self._read_interval:
            await self._let_output_gather()
        began, gone = anyio.current_time(), self._exited_at
        heard = False
        while not heard:
            if self._exited_at == float("inf"):  # it may be silent for as long as it likes
                heard = await self._wait_for_event()
                continue
            with anyio.CancelScope(deadline=max(began, self._exited_at) + DRAIN_TIMEOUT) as silence:
                heard = await self._wait_for_event()
            if silence.cancelled_caught:
                return None
        piece = os.read(self._pipes.stdout, CHUNK_SIZE)
        if not piece:
            self._selector.unregister(self._pipes.stdout)
            return None
        if gone <= began:
            self._waited += anyio.current_time() - began
        if len(piece) < MUCH:
            self._next_read = anyio.current_time() + self._read_interval
        return piece if self._waited < MAX_LINGER else None

    async def _let_output_gather(self) -> None:
        """Wait for the time of the next read, but not after the program has exited."""
        rest = self._next_read - anyio.current_time()
        if rest <= 0 or self.has_exited or self.is_stopping:
            return
        with self._ignore_stdout(), anyio.move_on_after(rest):
            while not self.has_exited:
                await self._wait_for_event()

    # Events.

    def _register_pipes(self) -> None:
        self._selector.register(self._pipes.stdout, selectors.EVENT_READ)
        self._selector.register(self._pipes.stderr, selectors.EVENT_READ, self._read_stderr)
        if self._pidfd is not None:
            self._selector.register(self._pidfd, selectors.EVENT_READ, self._check_exited)

    def send_prompt(self) -> None:
        """Write the prompt to stdin, if there is one, and close that."""
        stdin = self._pipes.stdin
        if stdin is None:
            return
        if self._write_stdin(stdin):  # most prompts fit into a pipe
            self._pipes.close_stdin()
        else:
            self._selector.register(
                stdin, selectors.EVENT_WRITE, partial(self._on_stdin_writable, stdin)
            )

    def _is_watched(self, fd: int) -> bool:
        return fd in self._selector.get_map()

    async def _wait_for_event(self) -> bool:
        """Wait for an event and handle it; return whether stdout can be read."""
        with anyio.move_on_after(POLL_INTERVAL) if self._pidfd is None else nullcontext():
            await anyio.wait_readable(self._selector)
        heard = False
        for key, _ in self._selector.select(0):
            if key.data is None:
                heard = True
            else:
                key.data()
        if self._pidfd is None:
            self._check_exited()
        return heard

    def _check_exited(self) -> None:
        """Whether it has exited."""
        if self._pidfd is not None:
            self._selector.unregister(self._pidfd)
        elif self._process.returncode is None:
            return
        if self._exited_at == float("inf"):
            self._exited_at, self.exited_at_monotonic = anyio.current_time(), time.monotonic()

    def _read_stderr(self) -> None:
        piece = os.read(self._pipes.stderr, CHUNK_SIZE)
        if not piece:
            self._selector.unregister(self._pipes.stderr)
            return
        self._stderr_chunks.append(piece)
        self._stderr_size += len(piece)
        while self._stderr_size - len(self._stderr_chunks[0]) > STDERR_KEPT:
            self._stderr_size -= len(self._stderr_chunks.popleft())

    def _on_stdin_writable(self, stdin: int) -> None:
        """Its stdin is writable again."""
        if self._write_stdin(stdin):
            self._selector.unregister(stdin)
            self._pipes.close_stdin()

    def _write_stdin(self, stdin: int) -> bool:
        """Write as much of its prompt as fits; return whether that was all. A program that does not
        read its prompt is not an error here: it will report one, or hang."""
        try:
            self._prompt = self._prompt[os.write(stdin, self._prompt) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self._prompt = self._prompt[:0]
        return not self._prompt

    @contextmanager
    def _ignore_stdout(self) -> Iterator[None]:
        """Stop watching stdout: it is not read now, so it would be reported continuously."""
        stdout = self._pipes.stdout
        if not self._is_watched(stdout):
            yield
            return
        self._selector.unregister(stdout)
        try:
            yield
        finally:
            self._selector.register(stdout, selectors.EVENT_READ)


@asynccontextmanager
async def start(
    command: Command,
    marker: str,
    *,
    stop_signal: signal.Signals,
    stop_timeout: float = PATIENCE,
    holds_prompt: bool = False,
    read_interval: float = 0.0,
) -> AsyncIterator[Child]:
    """The running program of `command`; stopped with all that it started if the block is left
    before it exits. Raises `ClinvkError` if it cannot be started.

    The prompt goes through stdin, which is then closed: some CLIs wait forever otherwise. With
    `holds_prompt`, the caller does that: `Child.send_prompt`. Its output is read every
    `read_interval` seconds at most: waking up for each line costs more than reading several."""
    with ExitStack() as held:
        with translate_start_errors(command):
            ready = held.enter_context(selectors.DefaultSelector())
            pipes = held.enter_context(closing(Pipes(stdin=bool(command.stdin))))
            process = await _open_process(command, pipes, marker)
        pipes.close_child_ends()
        leaders.add(process.pid)
        child = held.enter_context(
            closing(
                Child(
                    process,
                    pipes,
                    ready,
                    command.stdin,
                    marker,
                    stop_timeout,
                    holds_prompt=holds_prompt,
                    read_interval=read_interval,
                )
            )
        )
        try:
            yield child
        finally:
            try:
                if not child.has_exited and not child.is_stopping:
                    await child.stop(stop_signal)
                if process.returncode is None:
                    with anyio.CancelScope(shield=True):
                        await process.wait()
            finally:
                leaders.discard(child.pid)


async def _open_process(command: Command, pipes: Pipes, marker: str) -> Process:
    """Start the program; cancellation has to wait, since a partial start could not be undone.
    Raises `OSError`."""
    with anyio.CancelScope(shield=True):
        return await anyio.open_process(
            command.argv,
            stdin=pipes.child_stdin,
            stdout=pipes.child_stdout,
            stderr=pipes.child_stderr,
            cwd=command.cwd,
            env={**command.env, MARKER: marker},
            start_new_session=True,  # a group of its own, without a terminal
        )
    raise AssertionError("unreachable: the scope is never cancelled")


@contextmanager
def translate_start_errors(command: Command) -> Iterator[None]:
    """Translate the system's errors at the start into clinvk's."""
    try:
        yield
    except OSError as error:
        if not os.path.isdir(command.cwd):
            raise ClinvkError(f"{command.cwd}: no such directory") from error
        program = command.argv[0]
        if isinstance(error, FileNotFoundError) and (missing := _missing_interpreter(program)):
            raise NotInstalledError(
                f"{program}: cannot be started: {missing!r}, the interpreter in its first line, does not exist",
                "install it, or fix the first line",
            ) from error
        problem = f"{program}: cannot be started: {error.strerror}"
        if isinstance(error, (FileNotFoundError, PermissionError)):
            raise NotInstalledError(problem, "see: clinvk doctor") from error
        raise ClinvkError(problem) from error


def _missing_interpreter(program: str) -> str | None:
    """The interpreter of a script, if it does not exist."""
    try:
        with open(program, "rb") as file:
            first = file.readline(MAX_SHEBANG_LENGTH)
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    # The name ends at a blank or the end of the line: a stray \r is part of it.
    name = re.split(r"[ \t]", os.fsdecode(first[2:]).strip(" \t\n"), maxsplit=1)[0]
    return name if name and not os.path.exists(name) else None


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that is readable when the process has exited; None if the system has none."""
    with suppress(AttributeError, OSError):  # macOS, and some containers
        return os.pidfd_open(pid)
    return None
