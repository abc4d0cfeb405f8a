"""`python -m clinvk`, and the console script."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # What imports leave behind is not worth collecting in a program that lives for a moment: 4 ms.
    # `cmd.drive` turns collecting on again before it reads a stream.
    gc.disable()
    if sys.platform == "win32":
        sys.exit("clinvk: Windows is not supported; use it in WSL")
    from clinvk.cmd.main import main as commands

    code = commands(sys.argv[1:])
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    # Everything is written and closed by now: `commands` flushes what it printed. Taking the
    # interpreter apart, module by module, would be 16 ms of every call.
    os._exit(code)


if __name__ == "__main__":
    main()
