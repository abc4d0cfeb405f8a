"""Texts for a store, without secrets and without what looks like a key."""

from __future__ import annotations

from typing import Any

from clinvk.config.schema import SessionConfig
from clinvk.text.redact import everywhere, redact, replace_secrets


def redact_for_store(text: str, settings: SessionConfig, secrets: tuple[str, ...] = ()) -> str:
    """The text without these secrets and, if requested, without what looks like a key."""
    text = replace_secrets(text, secrets)
    return redact(text) if settings.redact else text


def redact_data_for_store(data: Any, settings: SessionConfig, secrets: tuple[str, ...] = ()) -> Any:
    """A structure of mappings and lists, redacted like a text: see `redact_for_store`."""
    return everywhere(data, lambda text: redact_for_store(text, settings, secrets))
