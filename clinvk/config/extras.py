"""Optional packages, and what to install if one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clinvk.errors import ClinvkError


@contextmanager
def require_extra(extra: str, what: str) -> Iterator[None]:
    """A block of imports. Raises `ClinvkError` with the command that installs a missing package."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ClinvkError(
            f"{what} needs the Python package {error.name!r}, which is not installed",
            f"install it with: pip install 'clinvk[{extra}]'",
        ) from error
