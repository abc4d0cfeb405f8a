"""`python -m clinvk`, and the console script."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    # What imports leave behind is not worth collecting in a program that lives for a moment: 4 ms.
    # `cmd.run` turns collecting on again before it reads a stream.
    gc.disable()
    if sys.platform == "win32":
        sys.exit("clinvk: Windows is not supported; use it in WSL")
    from clinvk.cmd.main import main as commands

    sys.exit(commands(sys.argv[1:]))


if __name__ == "__main__":
    main()
