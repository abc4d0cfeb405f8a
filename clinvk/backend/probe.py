"""The status of a backend, found without calling a model: whether it is installed, its version, and
whether it is logged in."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anyio
from msgspec import Struct

from clinvk import __version__
from clinvk.backend import catalog as catalogs
from clinvk.backend.command.environment import changed_env, manifest_env
from clinvk.backend.files.login_lock import login_files
from clinvk.backend.manifest import Manifest, capabilities
from clinvk.backend.versions.installed import describe_range, remember_version
from clinvk.config.schema import Loaded
from clinvk.errors import ClinvkError, NotInstalledError
from clinvk.process.child import start
from clinvk.process.command import Command
from clinvk.process.marker import new_marker
from clinvk.process.tree import ProcessTree
from clinvk.text.sanitize import one_line

VERSION_TIMEOUT = 20.0  # seconds for a `--version`
ASKED_TIMEOUT = 5.0  # seconds for it before a prompt, which can be sent without knowing it


class BackendStatus(Struct, frozen=True):
    """The status of one backend. `state` is one of: installed, not installed, broken, broken
    manifest, disabled. `login` is yes, no, not needed or unknown: whether there are credentials;
    only a paid call would show whether they are still valid. `advice` says what is wrong, or what
    to do."""

    name: str
    state: str
    path: str | None = None  # of its program
    version: str | None = None
    login: str = "unknown"
    can: tuple[str, ...] = ()
    advice: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it can be used, as far as is known."""
        return self.state == "installed" and self.login != "no"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "path": self.path,
            "version": self.version,
            "login": self.login,
            "can": list(self.can),
            "advice": self.advice,
        }


async def probe_backends(
    catalog: catalogs.Catalog, names: Iterable[str], config: Loaded, env: Mapping[str, str]
) -> list[BackendStatus]:
    """The status of each backend, in this order. They are probed concurrently, and what they start
    has ended on return. Raises `NotInstalledError` for an unknown backend."""
    wanted = list(names)
    for name in wanted:
        if catalog.find(name) is None:
            raise NotInstalledError(
                f"unknown backend {name!r}", f"known: {', '.join(catalog.names())}"
            )
    found: dict[str, BackendStatus] = {}

    async def probe(name: str) -> None:
        found[name] = await probe_backend(catalog, name, config, env)

    async with anyio.create_task_group() as tasks:
        for name in dict.fromkeys(wanted):
            tasks.start_soon(probe, name)
    return [found[name] for name in wanted]


async def probe_backend(
    catalog: catalogs.Catalog, name: str, config: Loaded, env: Mapping[str, str]
) -> BackendStatus:
    """The status of one backend; errors are in it."""
    try:
        manifest = catalog.load(name)
    except ClinvkError as error:
        return BackendStatus(name, "broken manifest", advice=error.message)
    if not config.backend(name).enabled:
        return BackendStatus(
            name, "disabled", advice=f"clinvk config set backends.{name}.enabled true"
        )
    its_env = {**env, **config.backend(name).env}
    try:
        path = catalogs.find_program(manifest, its_env)
    except catalogs.NotExecutable as error:
        return BackendStatus(name, "broken", advice=f"{error.message}; {error.hint}")
    except NotInstalledError:
        return BackendStatus(name, "not installed", advice=manifest.install)
    version, problem = await _read_version(manifest, path, its_env)
    number = remember_version(path, version, config.home)
    login = _login_state(manifest, its_env)
    advice = _login_advice(manifest, login), describe_range(manifest, number)
    return BackendStatus(
        name, "broken" if problem else "installed", path, version, login,
        tuple(capabilities(manifest)), problem or "; ".join(filter(None, advice)) or None,
    )  # fmt: skip


def _login_advice(manifest: Manifest, login: str) -> str | None:
    return {"no": manifest.login.hint, "unknown": manifest.login.files_caveat}.get(login)


async def ask_version(
    manifest: Manifest, program: str, env: Mapping[str, str], home: Path
) -> str | None:
    """Ask a program for its version and remember it; None if it does not tell soon."""
    version, _ = await _read_version(manifest, program, dict(env), ASKED_TIMEOUT)
    return remember_version(program, version, home)


async def _read_version(
    manifest: Manifest, path: str, env: dict[str, str], seconds: float | None = None
) -> tuple[str | None, str | None]:
    """The version that it prints, or an error."""
    if manifest.command == "$python":
        return __version__, None
    command = Command(
        argv=(path, *manifest.version), env=changed_env(env, manifest_env(manifest, env)), cwd=Path(), stdin=b"",
        env_changes={},
    )  # fmt: skip
    asked = " ".join(manifest.version)
    seconds = seconds or VERSION_TIMEOUT
    try:
        code, printed = await _run_program(command, seconds)
    except ClinvkError as error:
        return None, error.message
    except TimeoutError:
        return None, f"no answer to {asked} within {seconds:g} s"
    if code != 0:
        return None, f"{asked} exits with code {code}"
    numbered = [line for line in printed if any(c.isdigit() for c in line)]  # after warnings
    return one_line((numbered or printed or ["-"])[0]), None


async def _run_program(command: Command, seconds: float) -> tuple[int, list[str]]:
    """The exit code of a program and the lines that it prints. All that it started is stopped."""
    began, marker = time.time(), new_marker(command.env)
    printed: list[bytes] = []
    try:
        with anyio.fail_after(seconds):
            async with start(command, marker, stop_signal=signal.SIGTERM) as child:
                while (lines := await child.lines()) is not None:
                    printed += lines
                code = await child.wait()
    finally:
        with anyio.CancelScope(shield=True):
            if (left := ProcessTree.left_behind(marker, began)).alive:
                await left.terminate_then_kill()
    return code, b"\n".join(printed).decode("utf-8", "replace").strip().splitlines()


def _login_state(manifest: Manifest, env: Mapping[str, str]) -> str:
    if not (manifest.login.env or manifest.login.files):
        return "not needed"
    if any(env.get(name) for name in manifest.login.env):
        return "yes"
    if not any(os.path.exists(path) for path in login_files(manifest, env)):
        return "no"
    return "unknown" if manifest.login.files_caveat else "yes"
