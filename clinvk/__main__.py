"""`python -m clinvk`, and the console script."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from clinvk import __version__
from clinvk.process.ownership import take_over

if TYPE_CHECKING:
    from typing import Any


def _exit_on_interrupt(*_: object) -> None:
    """Ctrl-C while modules are loaded: there is nothing to undo yet, nor a place to raise to."""
    os.write(2, b"clinvk: cancelled\n")
    os._exit(7)


def _replace_interrupt_handler(before: object, now: Any) -> None:
    """Change what Ctrl-C does, unless it is ignored, as under nohup."""
    with suppress(ValueError):  # in a thread, to which no signal comes
        if signal.getsignal(signal.SIGINT) is before:
            signal.signal(signal.SIGINT, now)


def _relax_output_encoding() -> None:
    """A character that the terminal does not know is no reason to fail."""
    if sys.stdin is None:  # closed by the caller
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(_closed_output(), "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _closed_output() -> int:
    """Descriptor 1 as one that refuses what is written, as the closed one does: an answer that
    cannot be written is a failure. It is taken, so that no file is opened as it."""
    fd = os.open(os.devnull, os.O_RDONLY)
    if fd != 1:
        os.dup2(fd, 1)
        os.close(fd)
    return 1


def _print_version() -> bool:
    """Whether all that was asked for is the version, and it is printed. Scripts ask for it, and it
    needs nothing of the command line, of which typer alone takes 35 ms to load. If it cannot be
    printed, the command says why."""
    if sys.argv[1:] not in (["version"], ["--version"], ["-V"]):
        return False
    with suppress(OSError, ValueError):
        print(f"clinvk {__version__}", flush=True)  # noqa: T201 - what was asked for
        return True
    return False


def _load_msgspec() -> None:
    """Load msgspec without typing_extensions, which takes 5 ms more, and which only anyio needs: on
    the versions of Python that clinvk supports, `typing` has all that msgspec looks for there."""
    hidden = "typing_extensions" not in sys.modules
    if hidden:
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        # The version is printed without it.
        import msgspec  # noqa: F401
    finally:
        if hidden:
            del sys.modules["typing_extensions"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    if os.getpid() == 1 and sys.platform == "linux":
        # Only in a container that has no other init.
        from clinvk.process.first import leave_to_child

        leave_to_child()
    take_over()
    _replace_interrupt_handler(signal.default_int_handler, _exit_on_interrupt)
    if sys.platform == "win32":
        sys.exit("clinvk: Windows is not supported; use it in WSL")
    _relax_output_encoding()
    if _print_version():
        os._exit(0)
    _load_msgspec()
    # Ctrl-C is already handled while this, the bulk of the start, is loaded.
    from clinvk.cmd.main import main as commands

    _replace_interrupt_handler(_exit_on_interrupt, signal.default_int_handler)
    code = commands(sys.argv[1:])
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    # Everything is written and closed by now: `commands` flushes what it printed. Taking the
    # interpreter apart, module by module, would be 16 ms of every call.
    os._exit(code)


if __name__ == "__main__":
    main()
