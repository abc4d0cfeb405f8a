"""`--storage-backend` and `--storage-path`: another store than the configured one, for one
command."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec.structs import replace

from clinvk.config.schema import Loaded
from clinvk.errors import UsageError
from clinvk.text.addresses import mask_password

F = TypeVar("F", bound=Callable[..., Any])

_storage_options: ContextVar[tuple[str | None, Path | None]] = ContextVar(
    "storage", default=(None, None)
)


@cache
def storage_flags() -> dict[str, Any]:
    """The types of the two parameters, as typer wants them."""
    import typer  # a plain prompt is read without it

    return {
        "storage_backend": Annotated[
            str | None,
            typer.Option(
                "--storage-backend",
                metavar="STORE",
                help="Where sessions are stored: file, sqlite or redis://HOST.",
            ),
        ],
        "storage_path": Annotated[
            Path | None,
            typer.Option(
                "--storage-path", metavar="PATH", help="Directory or SQLite file of the store."
            ),
        ],
    }


def with_storage_options(command: F) -> F:
    """The command with these two options, which `options.load` reads."""

    @wraps(command)
    def wrapper(*args: Any, **params: Any) -> Any:
        backend, path = (params.pop(name, None) for name in ("storage_backend", "storage_path"))
        if backend is None and path is None:  # as of the prompt at which it was typed
            return command(*args, **params)
        before = _storage_options.set((backend, path))
        try:
            return command(*args, **params)
        finally:
            _storage_options.reset(before)

    # A plain prompt is read without signatures.
    from clinvk.cmd.options.parameters import new_parameter, parameters_of, set_parameters

    more = [new_parameter(name, hint) for name, hint in storage_flags().items()]
    set_parameters(wrapper, [*parameters_of(command), *more])
    return wrapper  # type: ignore[return-value]


def apply_storage_options(loaded: Loaded) -> Loaded:
    """The configuration, with the store named on the command line. Raises `UsageError`."""
    backend, path = _storage_options.get()
    if backend is None and path is None:
        return loaded
    kind = backend or loaded.config.session.storage.partition("://")[0]
    session = replace(loaded.config.session, storage=build_storage_url(kind, path, loaded.home))
    return replace(
        loaded,
        config=replace(loaded.config, session=session),
        origins=loaded.origins | {"session.storage": "command line"},
    )


def build_storage_url(kind: str, path: Path | None, home: Path) -> str:
    """The address of a store, as in `session.storage`. Raises `UsageError`."""
    if path is not None and kind not in ("file", "sqlite"):
        raise UsageError(
            "--storage-path is a directory or a SQLite file, and "
            f"{mask_password(kind).partition('://')[0]} has none",
            "use: --storage-backend sqlite --storage-path PATH",
        )
    if kind == "file":
        return f"file://{path.expanduser().absolute()}" if path else "file"
    if kind == "sqlite":
        return f"sqlite:///{(path or home / 'sessions.db').expanduser().absolute()}"
    if kind in ("redis", "rediss"):
        return f"{kind}://localhost:6379/0"
    return kind
