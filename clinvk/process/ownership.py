"""Process-wide settings, which only the `clinvk` command may change.

A program that uses clinvk as a library has settings of its own, so nothing is changed there.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress

MAX_OPEN_FILES = 8_192  # open at a time; a running task takes about eight

_needs_pidfd_watcher = sys.version_info < (3, 12) and sys.platform == "linux"
_owned = False  # whether this process is the `clinvk` command


def take_over() -> None:
    """Declare this process to be the `clinvk` command; called first by the entry point."""
    global _owned  # noqa: PLW0603 - a process has one owner
    _owned = True
    # Collecting the garbage of imports, 4 ms, is not worth it in a short-lived program.
    gc.disable()


def is_owned() -> bool:
    """Whether this process is the `clinvk` command."""
    return _owned


def prepare_for_turn() -> None:
    """Call it before an event loop is started to run programs."""
    if _owned:
        _watch_by_pidfd()


def prepare_for_stream() -> None:
    """Call it when the program has been started: from now on, memory is allocated repeatedly."""
    if _owned:
        gc.freeze()  # skips the garbage of imports: 5 ms
        gc.enable()


def prepare_for_many() -> None:
    """Call it before an event loop is started to run many programs."""
    if _owned:
        _watch_by_pidfd()
        gc.enable()
        gc.freeze()  # skips the garbage of imports
        _raise_open_files_limit()


def prepare_loop() -> None:
    """Call it in the event loop that is to run programs, if that is not in the main thread."""
    if _needs_pidfd_watcher:
        # Only on asyncio.
        import asyncio

        watcher = asyncio.get_event_loop_policy().get_child_watcher()
        watcher.attach_loop(asyncio.get_running_loop())


def _raise_open_files_limit() -> None:
    """Raise the limit of open files: each running task needs some, and the default is low."""
    # Only a run of many tasks needs it.
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _watch_by_pidfd() -> None:
    """On 3.11 asyncio watches each child with a thread; a pidfd costs a third less. Later versions
    do so by themselves."""
    if _needs_pidfd_watcher:
        # Only on asyncio.
        import asyncio

        with suppress(OSError, NotImplementedError):
            asyncio.get_event_loop_policy().set_child_watcher(asyncio.PidfdChildWatcher())
