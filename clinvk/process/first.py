"""clinvk as process 1 of a container, which inherits all orphans there.

A tool that a CLI has left behind becomes a child of process 1 and stays a zombie until that waits for it;
at the limit of processes, no more can be started. The event loops wait for their own children only, and
must be the ones that do. So process 1 only passes on signals and waits, and clinvk is its child.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

FROM_KERNEL = 0x80  # SI_KERNEL: from a terminal, which sends it to the whole group


def leave_to_child() -> None:
    """Return in a child of this process. This process waits for all its children, and ends with the
    exit code of that one."""
    try:
        before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        child = os.fork()
    except OSError:  # no process left: everything else works without it
        return
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_wait(child))


def _wait(child: int) -> int:
    while True:
        if (code := _reap(child)) is not None:
            return code
        info = signal.sigwaitinfo(signal.valid_signals())
        if info.si_signo != signal.SIGCHLD and info.si_code != FROM_KERNEL:
            with suppress(ProcessLookupError):
                os.kill(child, info.si_signo)


def _reap(child: int) -> int | None:
    """The exit code of the child, if it has ended; all other children that have ended are gone."""
    code = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                found = os.waitstatus_to_exitcode(ended[1])
                code = found if found >= 0 else 128 - found
    return code
