"""Regular expressions of manifests, which must not block clinvk.

`re` cannot be interrupted, and a pattern such as `(a+)+b` takes forever on a short text. Built-in
patterns are known to be fast; a user's own run in the package `regex`, which has a timeout."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from clinvk.config.paths import built_in_manifests
from clinvk.errors import ConfigError

SECONDS = 1.0  # of CPU time, for all patterns of one match


class TooSlow(ConfigError):  # noqa: N818 - reads as what it says
    """A pattern did not finish in time."""


class Patterns:
    """Matches patterns of the manifest that is in the file `source`, for `SECONDS` at most in all.
    Its methods raise `TooSlow`, and `ConfigError` for a pattern that only `re` knows."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._is_ours = _is_built_in(source)
        self._until = 0.0 if self._is_ours else time.process_time() + SECONDS

    def search(self, pattern: str, text: str) -> bool:
        """Whether the text contains it, ignoring case."""
        return bool(self._do("search", pattern, text, flags=re.IGNORECASE))

    def find(self, pattern: str, text: str) -> str | None:
        """The last match in the text, or its first group if it has one."""
        found: list[str | tuple[str, ...]] = self._do("findall", pattern, text, flags=re.MULTILINE)
        last = found[-1] if found else None
        return last if last is None or isinstance(last, str) else last[0]

    def find_group(self, pattern: str, text: str) -> str | None:
        """The first group that matched, ignoring case; None if there is none."""
        found = self._do("search", pattern, text, flags=re.IGNORECASE)
        return next((str(group) for group in found.groups() if group), None) if found else None

    def fullmatch(self, pattern: str, text: str) -> bool:
        return bool(self._do("fullmatch", pattern, text))

    def replace(self, pattern: str, replacement: str, text: str) -> tuple[str, int]:
        """The text with each match replaced, and how many there were."""
        done: tuple[str, int] = self._do("subn", pattern, replacement, text)
        return done

    def _do(self, name: str, pattern: str, *args: Any, flags: int = 0) -> Any:
        if self._is_ours:
            return getattr(re, name)(pattern, *args, flags=flags)
        import regex  # 15 ms: only for a user's own patterns, and only when they are needed

        function: Callable[..., Any] = getattr(regex, name)
        left = max(0.001, self._until - time.process_time())
        try:
            return function(pattern, *args, flags=int(flags), timeout=left)
        except TimeoutError:
            raise TooSlow(
                f"{self.source}: the pattern {pattern[:80]!r} takes longer than {SECONDS:g} s",
                "avoid a repetition inside a repetition, such as (a+)+",
            ) from None
        except regex.error as error:
            raise ConfigError(f"{self.source}: the pattern {pattern[:80]!r}: {error}") from error


@lru_cache(64)
def _is_built_in(source: str) -> bool:
    return bool(source) and Path(source).parent == built_in_manifests()
