"""A disk that is soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.needs import lack


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes, with room for 400 files and folders."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=4m,nr_inodes=400,mode=700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "clinvk-test", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        lack(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_bytes(disk: Path) -> None:
    with open(disk / "filler", "ab", buffering=0) as file:
        for size in (65_536, 4096, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    assert os.statvfs(disk).f_bavail == 0
