"""Choose the backend of a request."""

from __future__ import annotations

import time
from collections.abc import Mapping

from msgspec import Struct

from clinvk.backend import catalog as catalogs
from clinvk.backend.catalog import Catalog
from clinvk.backend.inherited import expand_homes
from clinvk.backend.manifest import Manifest
from clinvk.config.schema import Loaded
from clinvk.errors import ConfigError, NotInstalledError
from clinvk.text.suggest import did_you_mean

CACHE_SECONDS = 1.0  # seconds
MODELLESS_BACKEND = "echo"  # always installed, and not an AI CLI


class SelectedBackend(Struct, frozen=True):
    """An installed backend: its manifest, the path of its program, notices about the choice."""

    manifest: Manifest
    program: str
    notices: tuple[str, ...] = ()


class BackendSelector:
    is_remote = False  # whether the backends and the variables are those of other machines

    def __init__(self, catalog: Catalog, config: Loaded, env: Mapping[str, str]) -> None:
        self.catalog = catalog
        self.config = config
        self.env = env
        self._cache: dict[str | None, tuple[float, SelectedBackend]] = {}

    def select(self, name: str | None) -> SelectedBackend:
        """The backend of this name, otherwise the default one; if that was never chosen and is not
        installed, the first that is. Cached briefly, since thousands of tasks may ask. Raises
        `ClinvkError`."""
        now = time.monotonic()
        asked, choice = self._cache.get(name, (0.0, None))
        if choice is None or now - asked > CACHE_SECONDS:
            choice = self._select(name)
            self._cache[name] = now, choice
        return choice

    def _select(self, name: str | None) -> SelectedBackend:
        default = self.config.config.default_backend
        if name is None and self.config.origin("default_backend") == "default":
            return self._first_installed(default)
        chosen = name or default
        if not self.config.backend(chosen).enabled:
            raise ConfigError(
                f"backend {chosen!r} is disabled in {self.config.path}",
                f"enable it: clinvk config set backends.{chosen}.enabled true",
            )
        if self.catalog.find(chosen) is None and name is not None:
            names = self.catalog.names()
            raise NotInstalledError(
                f"unknown backend {chosen!r}{did_you_mean(chosen, names)}",
                f"known: {', '.join(names)}",
            )
        if self.catalog.find(chosen) is None:
            origin = self.config.origin("default_backend")
            where = origin if origin.startswith("$") else f"{origin}: default_backend"
            raise ConfigError(
                f"{where}: unknown backend {chosen!r}",
                f"known: {', '.join(self.catalog.names())}; "
                f"add one as {self.config.home / 'backends'}/NAME.yaml",
            )
        manifest = self.catalog.load(chosen)
        return SelectedBackend(manifest, catalogs.find_program(manifest, self.child_env(chosen)))

    def installed(self) -> list[str]:
        """The names of the backends that are installed and enabled. Raises `ConfigError` for a
        broken manifest."""
        return [name for name in self.catalog.names() if self._is_installed(name)]

    def _is_installed(self, name: str) -> bool:
        if not self.config.backend(name).enabled:
            return False
        try:
            catalogs.find_program(self.catalog.load(name), self.child_env(name))
        except NotInstalledError:
            return False
        return True

    def child_env(self, name: str) -> dict[str, str]:
        """This process's environment, with what the config file adds for this backend."""
        given = self.config.backend(name).env
        return {**self.env, **expand_homes(given, {**self.env, **given})}

    def _first_installed(self, default: str) -> SelectedBackend:
        others = (name for name in self.catalog.names() if name != MODELLESS_BACKEND)
        for name in dict.fromkeys((*catalogs.PREFERRED_BACKENDS, *others)):
            if not self.config.backend(name).enabled:
                continue
            try:
                manifest = self.catalog.load(name)
                program = catalogs.find_program(manifest, self.child_env(name))
            except NotInstalledError:
                continue
            except ConfigError:  # the broken manifest of another backend is no reason to stop
                if name in catalogs.PREFERRED_BACKENDS:
                    raise
                continue
            told = (
                f"{default} is not installed; using {name} (choose with -b, or: clinvk config set "
                f"default_backend {name})"
            )
            return SelectedBackend(manifest, program, () if name == default else (told,))
        installs = [self.catalog.load(name).install or name for name in catalogs.SUGGESTED_BACKENDS]
        raise NotInstalledError(
            "no AI CLI is installed",
            "install one of them:\n    "
            + "\n    ".join(installs)
            + "\n  or another (clinvk doctor lists all), or try clinvk without one: clinvk -b echo hello",
        )
