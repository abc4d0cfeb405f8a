"""`clinvk init`: the first configuration, in two questions."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from clinvk.backend.catalog import PREFERRED_BACKENDS, Catalog
from clinvk.backend.command.effects import explain_unsupported
from clinvk.backend.probe import BackendStatus, probe_backends
from clinvk.cmd.app import new_app
from clinvk.cmd.options import request as opt
from clinvk.cmd.options.completions import complete_words
from clinvk.cmd.setup.doctor import MODELLESS_BACKEND
from clinvk.config import editing, keys, loading
from clinvk.config.schema import Config, Loaded
from clinvk.errors import NotInstalledError, UsageError
from clinvk.model.option_table import BY_NAME
from clinvk.terminal import printer, questions
from clinvk.text.addresses import mask_password
from clinvk.text.sanitize import one_line
from clinvk.text.suggest import did_you_mean

app = new_app()

VERSION = 1  # of the JSON
BACKEND_KEY, APPROVAL_KEY = "default_backend", "unified_flags.approval_mode"
MODES = BY_NAME["approval"].choices


@app.command()
def init(
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            "-b",
            metavar="NAME",
            help="Default backend, instead of asking.",
            autocompletion=opt.complete_backends,
        ),
    ] = None,
    approval: Annotated[
        str | None,
        typer.Option(
            "--approval",
            metavar="MODE",
            help="Approval mode, such as default or auto, instead of asking.",
            autocompletion=complete_words(MODES),
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing, and take the default answers.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Change an existing file without asking.")
    ] = False,
    as_json: opt.Json = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Write the configuration to FILE."),
    ] = None,
) -> None:
    """Choose the default backend and write the configuration.

    Detects the installed CLIs without calling a model, and asks which one is the default and
    whether CLIs may edit files. An existing file keeps its comments and other settings, and is
    changed only after asking, or with --force."""
    if approval is not None and approval not in MODES:
        raise UsageError(f"--approval: {approval!r} is not one of: {', '.join(MODES)}")
    if not yes and not questions.can_ask():
        raise UsageError(
            "init asks questions, and there is no terminal",
            "pass --yes to take the default answers; --backend and --approval give others",
        )
    file = editing.path_in_use(os.environ, config)
    loaded = _load_file(file)
    catalog = Catalog(loaded.home)
    found = anyio.run(probe_backends, catalog, catalog.names(), loaded, os.environ)
    chosen = _choose_backend(found, loaded, backend, ask=not yes)
    settings = {
        BACKEND_KEY: chosen.name,
        APPROVAL_KEY: _choose_approval(chosen.name, loaded, catalog, approval, ask=not yes),
    }
    written = {
        key: value
        for key, value in settings.items()
        if loaded.origin(key) == "default" or keys.get_value(loaded, key) != value
    }
    if written:
        if os.path.lexists(file) and not force:
            _confirm_change(loaded, written, ask=not yes)
        editing.change_settings(file, written, header=editing.EXAMPLE)
    _warn(chosen, loaded, settings)
    if as_json:
        printer.print_json(_report_json(loaded, settings, written, found))
    else:
        _print_report(loaded, settings, written)


def _load_file(file: Path) -> Loaded:
    """What the file says, without what the environment says instead of it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CLINVK_")}
    if home := os.environ.get("CLINVK_HOME"):
        env["CLINVK_HOME"] = home
    if os.path.exists(file):
        return loading.load(env, file)
    return Loaded(Config(), loading.find_home(env), file)


def _choose_backend(
    found: list[BackendStatus], loaded: Loaded, wanted: str | None, *, ask: bool
) -> BackendStatus:
    """The default backend: the one that is wanted, else the answer, else the best of what is
    installed. Raises `NotInstalledError` if the wanted one cannot be used."""
    if wanted is not None:
        return _installed(wanted, found)
    usable = sorted((f for f in found if f.state == "installed"), key=_preference)
    clis = [f for f in usable if f.name != MODELLESS_BACKEND]
    if not clis:
        printer.Printer.for_errors().notice(
            "no AI CLI is installed, so the default backend is echo, which calls no model; "
            "clinvk doctor says how to install one; then run clinvk init again"
        )
        return _installed(MODELLESS_BACKEND, found)
    configured = loaded.config.default_backend
    is_configured = loaded.origin(BACKEND_KEY) != "default"
    best = next((f for f in clis if is_configured and f.name == configured), None)
    best = best or next((f for f in clis if f.ok), clis[0])
    if ask:
        _say(_list_backends(clis))
    if ask and len(clis) > 1:
        name = questions.choose("Default backend?", [f.name for f in clis], best.name)
        best = next(f for f in clis if f.name == name)
    return best


def _preference(status: BackendStatus) -> int:
    names = PREFERRED_BACKENDS
    return names.index(status.name) if status.name in names else len(names)


def _installed(name: str, found: list[BackendStatus]) -> BackendStatus:
    status = next((f for f in found if f.name == name), None)
    if status is None:
        names = [f.name for f in found]
        raise NotInstalledError(
            f"unknown backend {name!r}{did_you_mean(name, names)}", f"known: {', '.join(names)}"
        )
    if status.state == "not installed":
        raise NotInstalledError(f"{name} is not installed", status.advice)
    if status.state != "installed":
        raise NotInstalledError(f"{name} cannot be used: {status.state}", status.advice)
    return status


def _list_backends(clis: list[BackendStatus]) -> str:
    width = max(len(f.name) for f in clis)
    lines = ["Installed CLIs:"]
    for number, f in enumerate(clis, 1):
        login = "  (not logged in)" if f.login == "no" else ""
        lines.append(f"  {number}  {f.name:<{width}}  {one_line(f.version or '-')}{login}")
    return "\n".join(lines)


def _choose_approval(
    backend: str, loaded: Loaded, catalog: Catalog, wanted: str | None, *, ask: bool
) -> str:
    """The approval mode that is wanted, else the answer, else the one in the file. Raises
    `UsageError` if the backend does not have the wanted one."""
    manifest = catalog.load(backend)
    if wanted is not None:
        if problem := explain_unsupported(manifest, "approval", wanted, "--approval"):
            raise UsageError(problem, "choose another mode, or another backend with --backend")
        return wanted
    current = str(loaded.config.unified_flags.approval_mode or "default")
    can_choose = explain_unsupported(manifest, "approval", "auto") is None
    if not ask or not can_choose or current not in ("default", "auto"):
        return current
    _say(
        "A CLI cannot ask you while clinvk runs it: with approval_mode default it usually edits no "
        "files; with auto it edits them without asking."
    )
    is_auto = questions.confirm_or_cancel(
        "May CLIs edit files without asking?", default=current == "auto"
    )
    return "auto" if is_auto else "default"


def _confirm_change(loaded: Loaded, written: Mapping[str, str], *, ask: bool) -> None:
    """Raise `typer.Abort` if the user does not want the file changed, and `UsageError` without a
    terminal to ask on."""
    path = one_line(str(loaded.path))
    if not ask:
        raise UsageError(
            f"{path} exists, and {' and '.join(written)} would change", "pass --force to change it"
        )
    lines = [f"{printer.short_path(path)} exists. It would change:"]
    for key, value in written.items():
        is_new = loaded.origin(key) == "default"
        before = "not set" if is_new else keys.get_value(loaded, key)
        lines.append(f"  {key}: {before} -> {value}")
    _say("\n".join(lines))
    if not questions.confirm_or_cancel("Change it?", default=True):
        raise typer.Abort


def _warn(chosen: BackendStatus, loaded: Loaded, settings: Mapping[str, str]) -> None:
    """Say what keeps the settings from taking effect."""
    errors = printer.Printer.for_errors()
    if chosen.login == "no":
        errors.notice(f"{chosen.name} is not logged in: {chosen.advice}")
    if (name := os.environ.get("CLINVK_BACKEND")) and name != chosen.name:
        errors.notice(f"CLINVK_BACKEND={name} overrides {BACKEND_KEY} as long as it is set")
    own = loaded.backend(chosen.name).approval_mode
    if own is not None and own != settings[APPROVAL_KEY]:
        errors.notice(f"backends.{chosen.name}.approval_mode: {own} overrides {APPROVAL_KEY}")


def _print_report(loaded: Loaded, settings: Mapping[str, str], written: Mapping[str, str]) -> None:
    path = printer.short_path(one_line(str(loaded.path)))
    print(f"Wrote {path}:" if written else f"{path} needs no change:")
    for key, value in settings.items():
        print(f"  {key}: {value}")
    printer.print_wrapped(f"Sessions are stored in {printer.short_path(one_line(_store(loaded)))}.")
    print('Next: clinvk "explain this directory"')


def _report_json(
    loaded: Loaded,
    settings: Mapping[str, str],
    written: Mapping[str, str],
    found: list[BackendStatus],
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "path": str(loaded.path),
        "written": written,
        "settings": settings,
        "sessions": _store(loaded),
        "backends": [f.to_json() for f in found],
    }


def _store(loaded: Loaded) -> str:
    """The directory or the address of the store."""
    address = loaded.config.session.storage
    return str(loaded.home) if address == "file" else mask_password(address)


def _say(text: str) -> None:
    """Tell the person who is asked; stdout is for the result."""
    # Only on a terminal.
    from clinvk.terminal.columns import wrap

    lines = [part for line in text.split("\n") for part in wrap(line, printer.terminal_width())]
    printer.Printer(sys.stderr, color=False).line("\n".join(lines))
    sys.stderr.flush()
