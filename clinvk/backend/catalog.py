"""Find manifests: the ones that come with clinvk, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from clinvk.backend.manifest import Manifest
from clinvk.backend.prepared import load_prepared
from clinvk.backend.reading.expressions import check_expressions
from clinvk.backend.reading.parse import parse_manifest
from clinvk.config.paths import backend_names, built_in_manifests
from clinvk.disk.reading import read_file
from clinvk.errors import ConfigError, NotInstalledError

# Tried in this order if none was chosen. Those at the end act unasked, or have no tools.
PREFERRED_BACKENDS = (
    "claude", "codex", "gemini", "opencode", "qwen", "copilot", "cline", "pi", "llm",
)  # fmt: skip
SUGGESTED_BACKENDS = PREFERRED_BACKENDS[:3]  # to someone who has none


class NotExecutable(NotInstalledError):  # noqa: N818 - reads as what it says
    """The program exists, but is not executable."""


class Catalog(Struct, frozen=True):
    """The available manifests. A file of the user replaces a built-in one of the same name.

    A manifest names a program to run, so none is ever read from the current directory."""

    home: Path

    def names(self) -> list[str]:
        """The names of all backends, built-in ones first."""
        return backend_names(self.home)

    def find(self, name: str) -> Path | None:
        """The manifest file of `name`, if there is one."""
        if not name or os.sep in name or name.startswith("."):
            return None
        for folder in (self.home / "backends", built_in_manifests()):
            path = folder / f"{name}.yaml"
            if path.is_file():
                return path
        return None

    def load(self, name: str) -> Manifest:
        """The manifest named `name`. Raises `ConfigError` if it does not exist or is invalid."""
        path = self.find(name)
        if path is None:
            raise ConfigError(
                f"unknown backend {name!r}",
                f"known: {', '.join(self.names())}; add one as {self.home / 'backends'}/NAME.yaml",
            )
        manifest = _read_cached(path, _file_state(path))
        if manifest.name != name:
            raise ConfigError(f"{path}: name: {manifest.name!r} does not match the file's name")
        return manifest

    def all(self) -> Iterator[Manifest]:
        for name in self.names():
            yield self.load(name)


def read_manifest(path: Path) -> Manifest:
    try:
        return parse_manifest(read_file(path), path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _file_state(path: Path) -> tuple[int, int, int]:
    """A value that changes when the file is written or replaced."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@lru_cache(64)
def _read_cached(path: Path, _state: tuple[int, int, int]) -> Manifest:
    """`read`, cached per state of the file, since a process may run thousands of requests."""
    if path.parent == built_in_manifests():  # these are checked by the tests
        return _read_built_in(path)
    manifest = read_manifest(path)
    check_expressions(manifest)
    return manifest


def _read_built_in(path: Path) -> Manifest:
    try:
        text = read_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return load_prepared(path.stem, text, path) or parse_manifest(text, path)


def find_program(manifest: Manifest, env: Mapping[str, str]) -> str:
    """The path of the program. Raises `NotInstalledError`."""
    if manifest.command == "$python":
        # Only manifests that need Python use it.
        import sys

        return sys.executable
    command, path = os.path.expanduser(manifest.command), env.get("PATH", os.defpath)
    found = _which(command, path, os.F_OK | os.X_OK)
    if found is None:
        if there := _which(command, path, os.F_OK):
            import shlex  # only for the hint

            raise NotExecutable(
                f"{manifest.name}: the program {there} cannot be executed",
                f"make it executable: chmod +x {shlex.quote(there)}",
            )
        how = f"install it with: {manifest.install}" if manifest.install else None
        raise NotInstalledError(
            f"{manifest.name}: the program {manifest.command!r} is not installed",
            f"{how}; or try clinvk without any AI CLI: clinvk -b echo hello" if how else None,
        )
    return os.path.abspath(found)  # the CLI may run in another directory


def _which(command: str, path: str, mode: int) -> str | None:
    """`shutil.which`, without the compression libraries that shutil loads."""
    folders = [""] if os.path.dirname(command) else path.split(os.pathsep) if path else []
    for folder in folders:
        file = os.path.join(folder, command)
        if os.path.exists(file) and os.access(file, mode) and not os.path.isdir(file):
            return file
    return None
