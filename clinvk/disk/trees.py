"""Deletes directories with what is in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Delete a directory, directories without permission to write in it too. Raises `OSError`."""

    def retry(function: Callable[..., object], name: str, _: object) -> None:
        for each in (os.path.dirname(name), name):
            with suppress(OSError):
                if not os.path.islink(each):
                    os.chmod(each, 0o700)
        function(name)

    with suppress(FileNotFoundError):
        shutil.rmtree(path, onerror=retry)
