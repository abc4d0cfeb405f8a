"""Of several runs that might renew a login, one begins alone."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from clinvk.backend.files import login_lock as login_locks
from clinvk.backend.files.login_lock import login_lock
from clinvk.backend.manifest import Manifest
from clinvk.backend.reading.parse import parse_manifest

pytestmark = pytest.mark.anyio

HOLD = """
import anyio, sys
from pathlib import Path
from clinvk.backend.files.login_lock import login_lock
from clinvk.backend.reading.parse import parse_manifest

async def hold():
    manifest = parse_manifest(Path(sys.argv[1]).read_text(), Path("mine.yaml"))
    async with login_lock(manifest, {"HOME": sys.argv[2]}, Path(sys.argv[3])):
        print("alone", flush=True)
        await anyio.sleep(60)

anyio.run(hold)
"""


def manifest(**login: Any) -> Manifest:
    login = {"files": ["$MINE/login.json", "~/login.json"], "fresh_minutes": 50, **login}
    return parse_manifest(yaml.safe_dump(text(login)), Path("mine.yaml"))


def text(login: dict[str, Any]) -> dict[str, Any]:
    return {"name": "mine", "command": "mine", "argv": {"run": []}, "login": login}


def old_login(folder: Path, minutes: float = 600) -> dict[str, str]:
    """The environment of somebody whose login was written so long ago."""
    file = folder / "login.json"
    file.write_text("{}")
    when = time.time() - minutes * 60
    os.utime(file, (when, when))
    return {"HOME": str(folder)}


class Crowd:
    """Runs that want to begin all at once. Each begins for a while, unless it was told to fail."""

    def __init__(self, folder: Path, env: dict[str, str], manifest: Manifest) -> None:
        self.folder, self.env, self.manifest = folder / "clinvk", env, manifest
        self.beginning, self.most, self.log = 0, 0, list[str]()

    async def come(self, runs: int = 5, *, takes: float = 0.5, fails: bool = False) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(runs):
                group.start_soon(self._run, takes, fails)

    async def _run(self, takes: float, fails: bool) -> None:
        async with login_lock(self.manifest, self.env, self.folder) as begun:
            self.beginning += 1
            self.most = max(self.most, self.beginning)
            self.log.append("begins")
            await anyio.sleep(takes)
            self.beginning -= 1
            if not fails:
                self.log.append("has begun")
                begun()
                await anyio.sleep(takes)  # and goes on


async def test_the_others_begin_when_the_first_has_begun(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, old_login(tmp_path), manifest())
    await crowd.come()
    assert crowd.log[:2] == ["begins", "has begun"]
    assert crowd.most == 4  # the others do not wait for each other


async def test_a_first_one_that_fails_lets_the_others_begin(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, old_login(tmp_path), manifest())
    await crowd.come(fails=True)
    assert crowd.most == 4


async def test_a_first_one_that_takes_too_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_locks, "BEGIN_TIMEOUT", 0.2)
    crowd = Crowd(tmp_path, old_login(tmp_path), manifest())
    await crowd.come(takes=2)
    assert crowd.log[:5] == ["begins"] * 5


async def test_nobody_waits_again_for_a_minute(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, old_login(tmp_path), manifest())
    await crowd.come(1)
    await crowd.come()
    assert crowd.most == 5

    note = tmp_path / "clinvk" / "logins" / "mine"
    minute_ago = time.time() - 61
    os.utime(note, (minute_ago, minute_ago))
    crowd.log.clear()
    await crowd.come()
    assert crowd.log[:2] == ["begins", "has begun"]


@pytest.mark.parametrize(
    ("minutes", "login"),
    [(600, {"fresh_minutes": None}), (49, {}), (600, {"files": ["~/other.json"]})],
    ids=["a CLI that knows how", "a login of just now", "no login in a file"],
)
async def test_else_all_begin_at_once(
    minutes: float, login: dict[str, Any], tmp_path: Path
) -> None:
    crowd = Crowd(tmp_path, old_login(tmp_path, minutes), manifest(**login))
    await crowd.come()
    assert crowd.most == 5
    assert not crowd.folder.exists()


async def test_the_login_that_counts_is_the_one_of_the_variable(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    env = {**old_login(tmp_path), "MINE": str(tmp_path / "other")}
    (tmp_path / "other" / "login.json").write_text("{}")
    crowd = Crowd(tmp_path, env, manifest())
    await crowd.come()
    assert crowd.most == 5


async def test_where_no_lock_can_be_had_all_begin_at_once(tmp_path: Path) -> None:
    (tmp_path / "clinvk").write_text("in the way")
    crowd = Crowd(tmp_path, old_login(tmp_path), manifest())
    await crowd.come()
    assert crowd.most == 5


async def test_another_clinvk_is_waited_for_until_it_is_killed(tmp_path: Path) -> None:
    env = old_login(tmp_path)
    page = tmp_path / "mine.yaml"
    page.write_text(yaml.safe_dump(text({"files": ["~/login.json"], "fresh_minutes": 50})))
    command = [sys.executable, "-c", HOLD, str(page), env["HOME"], str(tmp_path / "clinvk")]
    async with await anyio.open_process(command) as other:
        assert other.stdout
        assert (await other.stdout.receive()).startswith(b"alone")
        crowd = Crowd(tmp_path, env, manifest())
        async with anyio.create_task_group() as group:
            group.start_soon(crowd.come, 1)
            await anyio.sleep(0.3)
            assert crowd.log == []
            other.kill()
    assert crowd.log == ["begins", "has begun"]
