"""Objects that hold something open: closed by `with` or `close`."""

from __future__ import annotations

from typing import Self


class Closing:
    """A context manager that calls `close` at its end; `close` may be called more than once."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
