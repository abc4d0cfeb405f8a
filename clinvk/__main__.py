"""`python -m clinvk`, and the console script."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import Any


def _cancelled(*_: Any) -> None:
    """Ctrl-C while modules are loaded: there is nothing to undo yet, nor a place to raise to."""
    os.write(2, b"clinvk: cancelled\n")
    os._exit(7)


with suppress(ValueError):  # somebody loads us in a thread
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not under nohup
        signal.signal(signal.SIGINT, _cancelled)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # What imports leave behind is not worth collecting in a program that lives for a moment: 4 ms.
    # `cmd.drive` turns collecting on again before it reads a stream.
    gc.disable()
    if sys.platform == "win32":
        sys.exit("clinvk: Windows is not supported; use it in WSL")
    from clinvk.cmd.main import main as commands

    if signal.getsignal(signal.SIGINT) is _cancelled:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = commands(sys.argv[1:])
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    # Everything is written and closed by now: `commands` flushes what it printed. Taking the
    # interpreter apart, module by module, would be 16 ms of every call.
    os._exit(code)


if __name__ == "__main__":
    main()
