"""Files that are deleted together."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clinvk.disk.removal import BATCH, Removal

MANY = BATCH * 20


def made(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{i:04}" for i in range(count)]
    for path in paths:
        path.write_bytes(b"x" * 5000)
    return paths


def held_below(folder: Path) -> list[str]:
    """The files of the directory that this process has open, deleted ones too."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # it was that of the list
            continue
    return [name for name in found if name.startswith(str(folder))]


@pytest.mark.parametrize("count", [0, 1, BATCH, MANY])
def test_all_files_are_gone_and_none_is_held_open_at_the_end(tmp_path: Path, count: int):
    with Removal() as removal:
        for path in made(tmp_path, count):
            removal.unlink(str(path))
            assert not path.exists()
    assert os.listdir(tmp_path) == []
    assert not [t for t in threading.enumerate() if t.name == "clinvk-removal"]
    if sys.platform == "linux":
        assert held_below(tmp_path) == []


def test_what_cannot_be_deleted_raises_the_error_of_unlink(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").touch()
    with Removal() as removal:
        with pytest.raises(FileNotFoundError):
            removal.unlink(str(tmp_path / "missing"))
        with pytest.raises((IsADirectoryError, PermissionError)):
            removal.unlink(str(tmp_path / "folder"))
        removal.unlink(str(tmp_path / "link"))
        removal.unlink(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["folder"]


def test_an_error_in_the_middle_leaves_no_file_open_and_no_thread(tmp_path: Path):
    paths = made(tmp_path, MANY)
    with pytest.raises(KeyboardInterrupt), Removal() as removal:
        for path in paths[:-1]:
            removal.unlink(str(path))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == [paths[-1].name]
    assert not [t for t in threading.enumerate() if t.name == "clinvk-removal"]
    if sys.platform == "linux":
        assert held_below(tmp_path) == []


def test_where_no_more_files_may_be_open_they_are_deleted_one_by_one(tmp_path: Path):
    made(tmp_path, MANY)
    code = (
        "import os, resource, sys\n"
        "from clinvk.disk.removal import Removal\n"
        "removal = Removal()\n"
        "limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit))\n"
        "names = sorted(os.listdir(sys.argv[1]))\n"
        "while True:\n"
        "    try: os.open(os.devnull, os.O_RDONLY)\n"
        "    except OSError: break\n"
        "for name in names: removal.unlink(f'{sys.argv[1]}/{name}')\n"
        "removal.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path) == []


def test_where_no_thread_can_be_started_the_caller_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Removal() as removal:
        for path in made(tmp_path, MANY):
            removal.unlink(str(path))
    assert os.listdir(tmp_path) == []
    if sys.platform == "linux":
        assert held_below(tmp_path) == []
