"""`clinvk doctor`: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import anyio
from msgspec import Struct

from clinvk import __version__
from clinvk.backend import catalog as catalogs
from clinvk.backend.command_line import changed_env
from clinvk.backend.login_lock import login_files
from clinvk.backend.manifest import Manifest
from clinvk.cmd.app import new_app
from clinvk.cmd.backends import capabilities
from clinvk.cmd.options import request as opt
from clinvk.errors import ClinvkError, NotInstalledError
from clinvk.process.child import start
from clinvk.process.command import Command
from clinvk.process.marker import new_marker
from clinvk.process.tree import ProcessTree
from clinvk.terminal import printer
from clinvk.text.sanitize import one_line

app = new_app()
VERSION_TIMEOUT = 20  # seconds for a `--version`


class BackendStatus(Struct, frozen=True):
    """One backend as it was found. `login` is yes, no or unknown; nothing was called to tell."""

    name: str
    state: str
    path: str | None = None
    version: str | None = None
    login: str = "unknown"
    can: tuple[str, ...] = ()
    advice: str | None = None


@app.command()
def doctor(as_json: opt.Json = False, config: opt.Config = None) -> int:
    """See which AI CLIs are installed, logged in and usable. Calls no model."""
    loaded = opt.load_config(config)
    catalog = catalogs.Catalog(loaded.home)
    findings = [probe_backend(catalog, name, loaded) for name in catalog.names()]
    problem = _find_store_problem(loaded.home)
    if as_json:
        printer.print_json(_report_json(findings, loaded, problem))
    else:
        _print_report(findings, loaded, problem)
    return 0 if problem is None else 4


def probe_backend(catalog: catalogs.Catalog, name: str, loaded: Any) -> BackendStatus:
    try:
        manifest = catalog.load(name)
    except ClinvkError as error:
        return BackendStatus(name, "broken manifest", advice=error.message)
    if not loaded.backend(name).enabled:
        return BackendStatus(
            name, "disabled", advice=f"clinvk config set backends.{name}.enabled true"
        )
    env = os.environ | loaded.backend(name).env
    try:
        path = catalogs.find_program(manifest, env)
    except catalogs.NotExecutable as error:
        return BackendStatus(name, "broken", advice=f"{error.message}; {error.hint}")
    except NotInstalledError:
        return BackendStatus(name, "not installed", advice=manifest.install)
    version, problem = _read_version(manifest, path, env)
    login = (
        "not needed" if not _needs_login(manifest) else "yes" if _has_login(manifest, env) else "no"
    )
    advice = problem or (manifest.login.hint if login == "no" else None)
    can = tuple(capabilities(manifest))
    return BackendStatus(
        name, "broken" if problem else "installed", path, version, login, can, advice
    )


def _read_version(
    manifest: Manifest, path: str, env: dict[str, str]
) -> tuple[str | None, str | None]:
    """What it says of its version, or why it cannot say it."""
    if manifest.command == "$python":
        return __version__, None
    command = Command(
        argv=(path, *manifest.version), env=changed_env(env, manifest.env), cwd=Path(), stdin=b"",
        env_changes={},
    )  # fmt: skip
    asked = " ".join(manifest.version)
    try:
        code, said = anyio.run(_run_program, command)
    except ClinvkError as error:
        return None, error.message
    except TimeoutError:
        return None, f"it did not answer {asked} within {VERSION_TIMEOUT} s"
    if code != 0:
        return None, f"{asked} ends with code {code}"
    numbered = [line for line in said if any(c.isdigit() for c in line)]  # warnings may come first
    return one_line((numbered or said or ["-"])[0]), None


async def _run_program(command: Command) -> tuple[int, list[str]]:
    """The exit code of a program, and the lines that it says. All that it started is ended then."""
    began, marker = time.time(), new_marker(command.env)
    said: list[bytes] = []
    try:
        with anyio.fail_after(VERSION_TIMEOUT):
            async with start(command, marker, stop_signal=signal.SIGTERM) as child:
                while (lines := await child.lines()) is not None:
                    said += lines
                code = await child.wait()
    finally:
        with anyio.CancelScope(shield=True):
            if (left := ProcessTree.left_behind(marker, began)).alive:
                await left.terminate_then_kill()
    return code, b"\n".join(said).decode("utf-8", "replace").strip().splitlines()


def _needs_login(manifest: Manifest) -> bool:
    return bool(manifest.login.env or manifest.login.files)


def _has_login(manifest: Manifest, env: dict[str, str]) -> bool:
    """Whether something is there that it would log in with; whether that is still good, only a
    paid call would tell."""
    if any(env.get(name) for name in manifest.login.env):
        return True
    return any(os.path.exists(path) for path in login_files(manifest, env))


def _find_store_problem(home: Path) -> str | None:
    """Why sessions cannot be kept; nothing where they can."""
    folder = home
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if not os.access(folder, os.W_OK):
        return f"{folder} cannot be written; set CLINVK_HOME, or use --ephemeral"
    return None


def _print_report(findings: list[BackendStatus], loaded: Any, problem: str | None) -> None:
    rows = [
        [f.name, f.state, f.version or "-", f.login, ", ".join(f.can) or "-", f.path or "-"]
        for f in findings
    ]
    printer.print_table(
        ["BACKEND", "STATE", "VERSION", "LOGIN", "CAN", "PROGRAM"], rows,
        shrinks=["PROGRAM", "CAN", "VERSION"], spared=["CAN", "PROGRAM", "VERSION", "LOGIN"],
    )  # fmt: skip
    print()
    for f in findings:
        if f.advice:
            print(f"{f.name}: {one_line(f.advice)}")
    print(
        f"clinvk {__version__}; sessions in {one_line(str(loaded.home))}"
        + (f": {one_line(problem)}" if problem else "")
    )
    configuration = loaded.path if loaded.path.exists() else f"{loaded.path} (not there: defaults)"
    print(f"configuration: {one_line(str(configuration))}")


def _report_json(findings: list[BackendStatus], loaded: Any, problem: str | None) -> dict[str, Any]:
    rows = [
        {"name": f.name, "state": f.state, "path": f.path, "version": f.version,
         "login": f.login, "can": list(f.can), "advice": f.advice}
        for f in findings
    ]  # fmt: skip
    return {
        "version": 1,
        "clinvk": __version__,
        "home": str(loaded.home),
        "config": str(loaded.path),
        "problem": problem,
        "backends": rows,
    }
