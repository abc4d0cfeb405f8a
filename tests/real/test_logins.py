"""Many runs of one CLI at once share a home: neither its login nor its configuration suffers."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backend import catalog
from clinvk.backend.files.login_lock import login_lock
from clinvk.config.paths import built_in_manifests
from tests.real.user import User, result, unique

pytestmark = pytest.mark.real

# So many begin at the same moment. claude and gemini work for a second or two before they ask the
# model, so that eight on two cores meet as often as twenty of codex.
RUNS = {"claude": 8, "codex": 20, "gemini": 8}
YEARS = 10 * 365 * 24 * 3600
# Whatever a login makes a CLI want from the internet ends at a closed port of this machine.
OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}

CODEX = """\
# A comment that has to survive.
{config}
[projects."/home/ada/app"]
trust_level = "trusted"  # and so has this one

[mcp_servers.mine]
command = "true"
enabled = false
"""


def own_files(user: User) -> dict[str, Any]:
    """The files of somebody who has used the CLI for a while: by their paths, as text or as JSON."""
    home, later = user.home.path, int((time.time() + YEARS) * 1000)
    if user.backend == "claude":
        tokens = {"accessToken": "sk-ant-oat01-fake", "refreshToken": "sk-ant-ort01-fake"}
        scopes = ["user:inference", "user:profile"]
        return {
            ".claude.json": {
                "numStartups": 7,
                "mcpServers": {"mine": {"type": "stdio", "command": "true", "args": []}},
                "projects": {f"/home/ada/{n}": {"allowedTools": ["Read"]} for n in range(200)},
                "unknown": {"key": 1},
            },
            ".claude/settings.json": {"permissions": {"allow": ["Read"]}},
            ".claude/.credentials.json": {
                "claudeAiOauth": {**tokens, "expiresAt": later, "scopes": scopes},
                "mcpOAuth": {"mine": {"accessToken": "fake"}},
            },
        }
    if user.backend == "codex":
        config = (home / ".codex" / "config.toml").read_text()
        config = config.replace('env_key = "LOOPBACK_API_KEY"', "requires_openai_auth = true")
        return {
            ".codex/config.toml": CODEX.format(config=config),
            ".codex/auth.json": {"OPENAI_API_KEY": "sk-fake"},
        }
    settings = json.loads((home / ".gemini" / "settings.json").read_text())
    return {
        ".gemini/settings.json": {**settings, "unknown": {"key": 1}},
        ".gemini/projects.json": {"projects": {f"/home/ada/{n}": f"p-{n}" for n in range(200)}},
        ".gemini/oauth_creds.json": {
            "access_token": "ya29.fake",
            "refresh_token": "1//fake",
            "expiry_date": later,
        },
        ".gemini/google_accounts.json": {"active": "ada@example.org", "old": []},
        ".gemini/installation_id": "6c6f6f70-6261-4b63-8b00-000000000000",
    }


# What a CLI adds to; in the other files nothing changes at all.
ADDED_TO = {".claude.json", ".gemini/projects.json"}


def write(home: Path, files: Mapping[str, Any]) -> dict[Path, Any]:
    """Write them, and return what a reader has to find from now on."""
    for name, content in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, indent=2)
        (home / name).write_text(text)
        (home / name).chmod(0o600)
    return {home / name: read(home / name) for name in files}


def read(file: Path) -> Any:
    """What the file says. Raises `OSError` or `ValueError` where it says nothing."""
    text = file.read_text()
    if not text:
        raise ValueError("it is empty")
    if file.suffix == ".toml":
        tomllib.loads(text)
    return json.loads(text) if file.suffix == ".json" else text


def holds(new: Any, old: Any) -> bool:
    """Whether all that was in the old is in the new."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and holds(new[key], value) for key, value in old.items())
    return bool(new == old)


@dataclass
class Watch:
    """Reads files over and over, as one more program would that begins just now."""

    files: Mapping[Path, Any]
    wrong: set[str] = field(default_factory=set)
    rounds: int = 0

    @contextmanager
    def going_on(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self, over: threading.Event) -> None:
        while not over.wait(0.002):
            self.rounds += 1
            self.once()

    def once(self) -> None:
        for file, old in self.files.items():
            try:
                if not holds(read(file), old):
                    self.wrong.add(f"{file.name} has lost something")
            except (OSError, ValueError) as reason:
                self.wrong.add(f"{file.name}: {type(reason).__name__}: {reason}")


def test_many_at_once_leave_login_and_configuration_as_they_were(user: User) -> None:
    home = user.home.path
    files = write(home, own_files(user))
    before = {file: file.read_bytes() for file in files}
    env = {**OFFLINE, "ANTHROPIC_API_KEY": "", "LOOPBACK_API_KEY": ""}  # the login has to do
    runs = RUNS[user.backend]
    words = [unique() for _ in range(runs)]
    watch = Watch(files)

    with watch.going_on():
        answers = at_once(user, words, env)

    assert [word in answer["content"] for word, answer in zip(words, answers, strict=True)] == [
        True
    ] * runs
    assert len({answer["native_id"] for answer in answers}) == runs
    watch.once()
    assert watch.wrong == set()
    assert watch.rounds > 100
    changed = {str(f.relative_to(home)) for f, data in before.items() if f.read_bytes() != data}
    assert changed <= ADDED_TO
    assert left_behind(home) == []


def at_once(user: User, words: list[str], env: Mapping[str, str]) -> list[dict[str, Any]]:
    """The answers to prompts that so many clinvks ask at the same time."""
    command = [sys.executable, "-m", "clinvk", "-b", user.backend, "-o", "json"]
    running = [
        subprocess.Popen(
            [*command, word],
            cwd=user.home.project,
            env=user.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for word in words
    ]
    try:
        # None of them says enough to fill a pipe.
        said = [process.communicate(timeout=200) for process in running]
    finally:
        for process in running:
            process.kill()
    return [
        result(subprocess.CompletedProcess([], process.returncode, *texts))
        for process, texts in zip(running, said, strict=True)
    ]


def left_behind(home: Path) -> list[str]:
    """What CLIs put aside when they could not read a file, or did not get to rename."""
    found = [f for f in home.rglob("*") if "corrupt" in f.name.lower()]
    found += [f for f in home.glob(".claude.json.*") if not f.is_dir()]
    found += [*home.glob(".gemini/*.tmp"), *home.glob(".codex/auth*.tmp*")]
    return [str(f.relative_to(home)) for f in found]


def test_a_file_that_is_written_in_place_is_noticed(tmp_path: Path) -> None:
    """Without this, the test above might see nothing because it cannot see."""
    files = write(tmp_path, {"login.json": {"token": "a" * 1000}})
    watch = Watch(files)
    until = time.monotonic() + 60

    with watch.going_on():
        while not watch.wrong and time.monotonic() < until:
            with (tmp_path / "login.json").open("w") as file:
                time.sleep(0.001)
                file.write(json.dumps({"token": "a" * 1000}))

    assert "login.json: ValueError: it is empty" in watch.wrong


# A login that is over: each codex renews it, with a refresh token that counts once.


def jwt(expires: float) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"exp": int(expires), "https://api.openai.com/auth": {"chatgpt_account_id": "a"}}
    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2ln"


@dataclass
class Service:
    """It renews logins. Who hands in a refresh token that was used before is refused."""

    url: str = ""
    valid: str = "refresh-0"
    asked: list[bool] = field(default_factory=list)  # and whether it was granted
    together: int = 1  # the first is answered when so many have asked
    arrived: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def renew(self, token: str) -> dict[str, str] | None:
        with self.lock:
            self.arrived += 1
        time.sleep(0.3)  # on its way
        until = time.monotonic() + 60
        while self.arrived < self.together and time.monotonic() < until:
            time.sleep(0.02)
        with self.lock:
            self.asked.append(token == self.valid)
            if token != self.valid:
                return None
            self.valid = f"refresh-{len(self.asked)}"
            new = jwt(time.time() + YEARS)
            return {"access_token": new, "id_token": new, "refresh_token": self.valid}

    @contextmanager
    def going_on(self) -> Iterator["Service"]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                new = service.renew(json.loads(body)["refresh_token"])
                answer = json.dumps(new or {"error": {"code": "refresh_token_reused"}}).encode()
                self.send_response(200 if new else 401)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

        with Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}/oauth/token"
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    with Service().going_on() as service:
        yield service


@pytest.mark.parametrize("waits", [True, False], ids=["one alone", "all at once"])
@pytest.mark.parametrize("backend", ["codex"], indirect=True)
def test_one_codex_that_begins_alone_renews_the_login_for_all(
    waits: bool, user: User, service: Service
) -> None:
    """All at once hand in the same refresh token: when that fails, nobody has to wait any more."""
    write(user.home.path, {**own_files(user), ".codex/auth.json": login_that_is_over()})
    service.together = 1 if waits else 2
    login, config = (user.home.path / ".codex" / name for name in ("auth.json", "config.toml"))
    before = config.read_bytes()
    os.utime(login, (0, 0))
    env = user.environment({**OFFLINE, "CODEX_REFRESH_TOKEN_URL_OVERRIDE": service.url})
    manifest = catalog.read_manifest(built_in_manifests() / "codex.yaml")
    codes = list[int]()

    async def run() -> None:
        home = user.home.path / ".clinvk" if waits else login  # where nothing can be locked
        async with login_lock(manifest, env, home) as begun:
            codes.append(await codex(user, env, begun))

    async def all_at_once() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(run)

    anyio.run(all_at_once)

    assert codes == [0] * 8
    assert service.asked.count(True) == 1
    assert (len(service.asked) == 1) == waits
    assert read(login)["tokens"]["refresh_token"] == service.valid
    assert config.read_bytes() == before


def login_that_is_over() -> dict[str, Any]:
    token = jwt(time.time() - 3600)
    tokens = {"id_token": token, "access_token": token, "account_id": "a"}
    return {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {**tokens, "refresh_token": "refresh-0"},
        "last_refresh": "2026-01-01T00:00:00Z",
    }


async def codex(user: User, env: Mapping[str, str], begun: Callable[[], None]) -> int:
    """Its exit code; `begun` is called when it has a session."""
    command = ["codex", "exec", "--json", "--skip-git-repo-check", "hello"]
    async with await anyio.open_process(
        command, cwd=user.home.project, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        async for piece in process.stdout:
            if b"thread.started" in piece:
                begun()
        return await process.wait()


@pytest.mark.parametrize("backend", ["codex"], indirect=True)
def test_twenty_clinvks_at_once_renew_the_login_once(user: User, service: Service) -> None:
    write(user.home.path, {**own_files(user), ".codex/auth.json": login_that_is_over()})
    login = user.home.path / ".codex" / "auth.json"
    os.utime(login, (0, 0))
    env = {**OFFLINE, "CODEX_REFRESH_TOKEN_URL_OVERRIDE": service.url}

    at_once(user, [unique() for _ in range(RUNS["codex"])], env)

    assert service.asked == [True]
    assert read(login)["tokens"]["refresh_token"] == service.valid
