"""Optional packages, and what to install if one is missing."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clinvk.errors import ClinvkError


@contextmanager
def require_extra(extra: str, what: str) -> Iterator[None]:
    """A block of imports. Raises `ClinvkError` with the command that installs a missing package."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ClinvkError(
            f"{what} needs the Python package {error.name!r}, which is not installed",
            install_hint(extra),
        ) from error


def install_hint(extra: str) -> str:
    """How to add an extra to this clinvk."""
    return f"install it with: {install_command(extra, Path(sys.prefix), _read_origin())}"


def install_command(extra: str, prefix: Path, origin: str | None) -> str:
    """The command that adds an extra to the clinvk in `prefix`. `origin` is the `direct_url.json`
    of a clinvk that was not installed from a package index."""
    package, editable = _requirement(extra, origin)
    package = shlex.quote(package)
    if (prefix / "uv-receipt.toml").exists():
        return f"uv tool install --force {editable}{package}"
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx install --force {editable}{package}"
    if (prefix / "bin" / "pip").exists() and (prefix / "pyvenv.cfg").exists():
        return f"{shlex.quote(str(prefix / 'bin' / 'pip'))} install {editable}{package}"
    if (prefix / "pyvenv.cfg").exists():  # made by uv, without pip
        return f"uv pip install --python {shlex.quote(str(prefix))} {editable}{package}"
    return f"pip install {editable}{package}"


def _requirement(extra: str, origin: str | None) -> tuple[str, str]:
    """What to install, and the flag for a checkout that is used in place. It is the checkout that
    clinvk came from, if that is still there."""
    try:
        source = json.loads(origin or "{}")
        url = urlsplit(source.get("url", ""))
        path = unquote(url.path)
        if url.scheme == "file" and Path(path).is_dir():
            editable = "-e " if source.get("dir_info", {}).get("editable") else ""
            return f"{path.rstrip('/')}[{extra}]", editable
        if vcs := source.get("vcs_info", {}).get("vcs"):
            return f"clinvk[{extra}] @ {vcs}+{url.geturl()}", ""
    except (ValueError, AttributeError, TypeError):  # it is damaged
        pass
    return f"clinvk[{extra}]", ""


def _read_origin() -> str | None:
    from importlib.metadata import PackageNotFoundError, distribution  # slow, and only for a hint

    try:
        return distribution("clinvk").read_text("direct_url.json")
    except (PackageNotFoundError, OSError, UnicodeDecodeError):
        return None
