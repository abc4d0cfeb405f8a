"""Open the store that an address names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clinvk.config.loading import check_address
from clinvk.errors import ConfigError
from clinvk.store.base import Store
from clinvk.text.addresses import STORES, mask_password


def open_store(
    url: str,
    home: Path,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    *,
    patient: bool = False,
) -> Store:
    """The store that `session.storage` names. Raises `ConfigError` for an unknown kind. `progress`
    is called with (done, total) during slow work. If `patient`, a server that is restarted is no
    error."""
    kind, slashes, place = url.partition("://")
    kind = kind.lower()
    check_address(url, "session.storage")
    if url == "file" or (kind == "file" and place.startswith("/")):
        # Each store imports libraries that the others do not need.
        from clinvk.store.files.store import FileStore

        return FileStore(Path(place) if place else home, progress)
    if kind == "sqlite" and place.strip("/"):
        # Each store imports libraries that the others do not need.
        from clinvk.store.sqlite.store import SqliteStore

        return SqliteStore(_sqlite_path(url, place))
    if kind in ("redis", "rediss") and slashes:
        # Each store imports libraries that the others do not need.
        from clinvk.store.redis.store import RedisStore

        return RedisStore(url, patient=patient)
    raise ConfigError(f"session.storage: unknown store {mask_password(url)!r}", STORES)


def _sqlite_path(url: str, place: str) -> Path:
    """The path as in SQLAlchemy: after the third slash, so that four of them make it absolute."""
    if not place.startswith("/"):
        raise ConfigError(
            f"session.storage: {mask_password(url)!r} names a host, but a SQLite file has none",
            "use sqlite:////absolute/path or sqlite:///relative/path",
        )
    return Path(place[1:]).expanduser().absolute()
