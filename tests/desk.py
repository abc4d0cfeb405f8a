"""Somebody who runs many tasks from a shell, and sees what their made-up CLI did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from clinvk.api import tasks as fanout
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.outcome import RunResult
from clinvk.runs.folder import RunFolder, RunStore
from tests.conftest import CommandLine, Home, is_alive, pid_in, say, wait_for
from tests.stores import keep

# What it does is the first word of its prompt; `hold` and `deaf` wait for the file `go`, and `bad`
# fails, and `limited` meets a limit and makes the file `met`, until there is a file `repaired`.
SCRIPT = (
    r"""mode=$1
[ "$mode" = --version ] && { echo 1.0; exit; }
p=$(cat)
case "$p" in deaf*) trap '' TERM INT HUP ;; esac
echo "$p" >>FOLDER/log
echo "$mode $p" >>FOLDER/modes
pwd >>FOLDER/folders
cd FOLDER
echo $$ >"pid-${p%% *}"
echo $$ >>pids
[ "$mode" = resume ] && id=$2 || id=native-$$
printf '{"type":"start","id":"%s","model":"made-up-1"}\n' "$id"
"""
    + say(type="tool", id="1", name="Read", input={})
    + """case "$p" in hold* | deaf*) while [ ! -e go ]; do sleep 0.03; done ;; esac
if [ ! -e repaired ]; then
  case "$p" in
    bad*) """
    + say(type="end", error="boom")
    + """exit 1 ;;
    limited*) touch met
"""
    + say(type="end", error="usage limit", status=429)
    + r"""exit 1 ;;
  esac
fi
printf '{"type":"end","text":"<%s>","usage":{"input":10,"output":5}}\n' "${p##*$'\n'}"
"""
)


class Desk:
    def __init__(self, home: Home, clinvk: CommandLine, folder: Path) -> None:
        self.home = home
        self.clinvk = clinvk
        self.folder = folder
        self.drivers: list[subprocess.Popen[str]] = []
        folder.mkdir()
        home.config("default_backend: fake\n")
        for name in ("fake", "other"):
            home.backend(name, SCRIPT.replace("FOLDER", str(folder)))

    def dispatcher(self) -> Dispatcher:
        return keep(Dispatcher(loading.load(self.home.env), env=self.home.env))

    def run(self, tasks: Any, kind: str = "parallel", **rules: Any) -> RunResult:
        """A run of them, here and now."""
        run = fanout.chain if kind == "chain" else fanout.parallel
        rules = {"workdir": self.home.work, "cluster": self.home.cluster, **rules}
        return run(tasks, dispatcher=self.dispatcher(), **rules)

    def made(self, *tasks: Any, **rules: Any) -> str:
        """The id of such a run."""
        id_ = self.run(list(tasks), **rules).id
        assert id_
        return id_

    def file(self, data: Any, name: str = "tasks.yaml") -> str:
        """A file in the folder that they are in; JSON is YAML."""
        (self.home.work / name).write_text(json.dumps(data))
        return name

    def start(self, *args: str, **more: Any) -> subprocess.Popen[str]:
        self.drivers.append(driver := self.clinvk.start(*args, **more))
        return driver

    def begin(self, *tasks: Any, until: str, **rules: Any) -> tuple[subprocess.Popen[str], str]:
        """A run that another process drives, which has begun the task `until`; and its id."""
        path = self.file({"tasks": list(tasks), "max_parallel": 1, **rules})
        driver = self.start("parallel", path, "-q")
        self.wait_for(until)
        return driver, RunStore(self.home.path).find("last").id

    def cut_off(self, *tasks: Any, until: str, **rules: Any) -> str:
        """A run whose clinvk was killed when the task `until` had begun."""
        driver, id_ = self.begin(*tasks, until=until, **rules)
        kill(driver)
        return id_

    def wait_for(self, prompt: str, times: int = 1) -> None:
        wait_for(lambda: self.starts().count(prompt) >= times, f"the start of {prompt!r}", 60)

    def starts(self) -> list[str]:
        return self._lines("log")

    def modes(self) -> list[str]:
        return self._lines("modes")

    def folders(self) -> list[str]:
        """Where each was started."""
        return self._lines("folders")

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def repair(self) -> None:
        (self.folder / "repaired").touch()

    def pid(self, word: str) -> int:
        return pid_in(self.folder / f"pid-{word}")

    def at(self, id_: str) -> RunFolder:
        return RunStore(self.home.path).find(id_)

    def states(self, id_: str) -> list[str]:
        return [o.state for o in self.at(id_).result().results]

    def close(self) -> None:
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
            driver.communicate()
        for pid in map(int, self._lines("pids")):
            with suppress(ProcessLookupError):  # it may be ending
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def desk(home: Home, clinvk: CommandLine, tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(home, clinvk, tmp_path / "desk")) as made:
        yield made


def kill(driver: subprocess.Popen[str]) -> None:
    """As a power cut would, but for what it started."""
    driver.kill()
    driver.communicate()


def ends(driver: subprocess.Popen[str], seconds: float = 20) -> tuple[int, str, str]:
    """Its exit code, and what it printed."""
    out, err = driver.communicate(timeout=seconds)
    return driver.returncode, out, err
