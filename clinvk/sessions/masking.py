"""Texts as a store may keep them: without secrets, and without what looks like a key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clinvk.config.schema import SessionConfig
from clinvk.text.redact import everywhere, redact, replace_secrets


def redact_for_store(text: str, settings: SessionConfig, secrets: tuple[str, ...] = ()) -> str:
    """A text as the store may have it: without these secrets, and without what looks like a key,
    unless that is wanted."""
    text = replace_secrets(text, secrets)
    return redact(text) if settings.redact else text


def kept_data(data: Any, settings: SessionConfig, secrets: tuple[str, ...] = ()) -> Any:
    """A structure of mappings and lists as the store may have it: see `kept`."""
    return everywhere(data, lambda text: redact_for_store(text, settings, secrets))


def kept_tags(tags: Iterable[str], settings: SessionConfig) -> tuple[str, ...]:
    """The tags as the store may have them, each once."""
    return tuple(dict.fromkeys(redact_for_store(tag, settings) for tag in tags))
