"""The private files of turns: gone after them, also after those that were killed."""

import fcntl
import os
from pathlib import Path

from clinvk.backend.files import tempfiles
from tests.conftest import CommandLine, Home, wait_for
from tests.needs import need_root

READS_SYSTEM = 'cat >/dev/null; while [ "$1" != --system ]; do shift; done\necho "$2" >"$0.file"\n'
FOREVER = "exec sleep 300\n"


def folders(home: Home) -> list[str]:
    return sorted(
        p.name for p in Path(home.env["TMPDIR"]).iterdir() if p.name.startswith("clinvk-")
    )


def test_what_a_killed_turn_left_goes_with_the_next_turn_and_what_is_in_use_stays(
    clinvk: CommandLine, home: Home
):
    home.backend("plain")
    programs = {name: home.backend(name, READS_SYSTEM + FOREVER) for name in ("killed", "living")}
    turns = {}
    for name, program in programs.items():
        turns[name] = clinvk.start("-b", name, "--system-prompt", f"secret of {name}", "x")
        wait_for(lambda p=program: Path(f"{p}.file").exists() and Path(f"{p}.file").read_text())
    paths = {n: Path(Path(f"{p}.file").read_text().strip()) for n, p in programs.items()}
    assert {n: p.read_text() for n, p in paths.items()} == {n: f"secret of {n}" for n in programs}
    turns["killed"].kill()
    turns["killed"].communicate()
    assert paths["killed"].exists()
    assert clinvk("-b", "plain", "hi").returncode == 0  # has no private files, and looks for none
    assert paths["killed"].exists()
    assert clinvk("-b", "plain", "--system-prompt", "x", "hi").returncode == 0
    assert not paths["killed"].parent.exists()
    assert paths["living"].read_text() == "secret of living"
    turns["living"].terminate()
    turns["living"].communicate(timeout=60)
    assert folders(home) == []
    home.backend("killed")
    clinvk("resume", "--last", "-b", "killed", "x")  # which ends what was left running


def test_only_folders_of_ours_that_are_not_in_use_are_removed(tmp_path: Path):
    names = {
        "left": "clinvk-turn-" + "a" * 16, "used": "clinvk-turn-" + "b" * 16,
        "link": "clinvk-turn-" + "c" * 16, "file": "clinvk-turn-" + "d" * 16,
        "new": "clinvk-turn-" + "e" * 16, "old": "clinvk-" + "a" * 16,
        "recent": "clinvk-" + "b" * 16, "other": "clinvk-turn-" + "a" * 15, "mine": "clinvk-notes",
    }  # fmt: skip
    real = tmp_path / "real"
    for path in [real, *(tmp_path / n for k, n in names.items() if k not in ("link", "file"))]:
        path.mkdir()
        if path.name != names["new"]:
            (path / "0.txt").write_text("secret")
    (tmp_path / names["link"]).symlink_to(real)
    (tmp_path / names["file"]).write_text("mine")
    os.utime(tmp_path / names["old"], (1e9, 1e9))
    used = os.open(tmp_path / names["used"], os.O_RDONLY)
    fcntl.flock(used, fcntl.LOCK_EX)
    tempfiles.remove_leftovers(tmp_path)
    os.close(used)
    gone = {kind for kind, name in names.items() if not os.path.lexists(tmp_path / name)}
    assert gone == {"left", "old"}
    assert (real / "0.txt").exists()


def test_a_folder_of_another_user_is_left_alone(tmp_path: Path):
    need_root()
    path = tmp_path / ("clinvk-turn-" + "a" * 16)
    path.mkdir()
    (path / "0.txt").touch()
    os.chown(path, 12345, 12345)
    tempfiles.remove_leftovers(tmp_path)
    assert (path / "0.txt").exists()
