"""A person at the command line, who has one of the three CLIs and types clinvk's commands."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import psutil

from tests.forked import Server
from tests.models import Models
from tests.models.server import Request
from tests.real.conftest import Home

BACKENDS = ("claude", "codex", "gemini")
CLINVK = (sys.executable, "-m", "clinvk")
SHELLS = {  # the tool that runs a command, and its argument
    "claude": ("Bash", "command"),
    "codex": ("exec_command", "cmd"),
    "gemini": ("run_shell_command", "command"),
}
WRITERS = {"claude": "Write", "gemini": "write_file"}  # codex writes by its shell
NO_LIMITS = ("--approval", "none")

SOON = 40  # seconds; less than the pauses that are ended, on a machine that is busy

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class User:
    home: Home
    models: Models
    backend: str
    server: Server  # runs `clinvk` without loading it each time
    env: Mapping[str, str] = field(default_factory=dict)  # beside what every program here gets

    def run(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Done:
        """`clinvk WORDS`, to its end."""
        return self.server.run(
            words,
            input_=None,
            env=self.environment(env),
            cwd=cwd or self.home.project,
            timeout=150,
        )

    def ask(self, *words: str, **where: Any) -> Done:
        return self.run("-b", self.backend, *words, **where)

    def result(self, *words: str, code: int = 0, **where: Any) -> dict[str, Any]:
        """The object that `clinvk -b BACKEND -o json WORDS` prints, which has to end with `code`."""
        return result(self.ask("-o", "json", *words, **where), code)

    def resumed(self, id_: str, *words: str, code: int = 0, **where: Any) -> dict[str, Any]:
        """The same of `clinvk resume ID WORDS`."""
        return result(self.run("resume", id_, "-o", "json", *words, **where), code)

    def sessions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("sessions", "list", "--json").stdout)[
            "sessions"
        ]
        return found

    def show(self, id_: str, *words: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(
            self.run("sessions", "show", id_, "--json", *words).stdout
        )
        return shown

    @contextmanager
    def running(self, *words: str, **popen: Any) -> Iterator[subprocess.Popen[str]]:
        """`clinvk WORDS`, going on while the block does."""
        with subprocess.Popen(
            [*CLINVK, *words],
            cwd=self.home.project,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **popen,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def in_mid_run(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A clinvk whose question has reached the model, which keeps it waiting."""
        with self.running("-b", self.backend, *words) as process:
            wait_for(lambda: self.asked and self.recorded_native_id())
            yield process

    def recorded_native_id(self) -> str | None:
        for file in (self.home.path / ".clinvk" / "sessions").glob("*.json"):
            return next(iter(json.loads(file.read_text())["native_ids"].values()), None)
        return None

    @property
    def trusting(self) -> Self:
        """The same, who lets a CLI do all unasked; claude would refuse that to root otherwise."""
        return replace(self, env={**self.env, "IS_SANDBOX": "1"})

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """A variable that is empty here is taken out."""
        return {k: v for k, v in {**self.home.env, **self.env, **(more or {})}.items() if v}

    @property
    def asked(self) -> list[Request]:
        """What reached the model, but for the titles and the like that a CLI asks for itself."""
        return [r for r in self.models.requests if r.tools and not r.path.endswith("count_tokens")]

    def shell(self, command: str, *, more: Mapping[str, Any] | None = None) -> str:
        """A prompt that makes the model run a command."""
        name, argument = SHELLS[self.backend]
        return f"<<tool {name} {json.dumps({argument: command, **(more or {})})}>>"

    def write(self, file: Path, text: str) -> str:
        """A prompt that makes the model write a file, with the tool that is for that."""
        if self.backend not in WRITERS:
            return self.shell(f"printf %s {text} > {file}")
        arguments = {"file_path": str(file), "content": text}
        return f"<<tool {WRITERS[self.backend]} {json.dumps(arguments)}>>"

    def processes(self) -> list[str]:
        """What runs in this user's name, clinvk among it."""
        return [
            f"{process.info['pid']} {process.info['name']}"
            for process in psutil.process_iter(["pid", "name", "environ", "status"])
            if (process.info["environ"] or {}).get("HOME") == str(self.home.path)
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def files_with(self, text: str) -> list[str]:
        """The files of this user that hold the text, in their bytes or in their names."""
        return [
            str(file.relative_to(self.home.path.parent))
            for folder in (self.home.path, self.home.project)
            for file in folder.rglob("*")
            if file.is_file()
            and not file.is_symlink()
            and (text.encode() in file.read_bytes() or text in file.name)
        ]


def result(done: Done, code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == code
    return found


def wait_for(true: Callable[[], Any], seconds: float = 120) -> None:
    """A machine with other work may take long to start a CLI."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def unique() -> str:
    """A word that is found nowhere by accident."""
    return f"w{uuid.uuid4().hex}"


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, float, str]:
    """Its exit code, the seconds that its end took, and its last words."""
    began = time.monotonic()
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - began, stderr
