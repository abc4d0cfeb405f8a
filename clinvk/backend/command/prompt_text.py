"""The text that a CLI gets as its prompt: escaped, and never longer than it takes."""

from __future__ import annotations

from clinvk.backend.manifest import Manifest, PromptSpec
from clinvk.backend.patterns import Patterns
from clinvk.errors import UsageError
from clinvk.text.values import sound

ARGUMENT_BYTES = 131_071  # Linux: MAX_ARG_STRLEN, 32 pages less the final NUL


def prompt_text(manifest: Manifest, prompt: str, *, expand: bool) -> tuple[str, list[str]]:
    """What is sent as the prompt, and notices about it. Raises `UsageError`."""
    valid = sound(prompt)
    text, notices = (
        (valid, []) if expand else escape_prompt(manifest.prompt, valid, manifest.source)
    )
    if valid != prompt:
        notices.append("the prompt had halves of characters, which were replaced by U+FFFD")
    check_length(manifest, text, to_bytes(text))
    return text, notices


def escape_prompt(prompt: PromptSpec, text: str, source: str) -> tuple[str, list[str]]:
    """The text escaped so that the CLI does not expand any of it, and notices about that. The rules
    are from the manifest in the file `source`. Raises `ConfigError` if they take too long."""
    notices = []
    patterns = Patterns(source)
    for rule in prompt.escape:
        text, count = patterns.replace(rule.match, rule.replace, text)
        if count and rule.notice:
            notices.append(f"{rule.what} is passed as text ({count} place{'s' * (count > 1)})")
    return text, notices


def check_length(manifest: Manifest, text: str, data: bytes) -> None:
    """Raise `UsageError` for text above the CLI's limit: it is refused, never truncated."""
    chars, size = manifest.prompt.limit_chars, manifest.prompt.limit_bytes
    if chars is not None and len(text) > chars:
        raise _too_long(manifest, f"{len(text):,} characters", f"{chars:,} characters")
    if size is not None and len(data) > size:
        raise _too_long(manifest, f"{len(data):,} bytes", f"{size:,} bytes")


def check_prompt_argument(manifest: Manifest, token: str, text: str) -> None:
    """Raise `UsageError` if the text cannot take the place of `$prompt` in this argument."""
    size = len(to_bytes(text))
    limit = ARGUMENT_BYTES - len(to_bytes(token.replace("$prompt", "")))
    if size > limit:
        raise _too_long(manifest, f"{size:,} bytes", f"{limit:,} bytes")
    if "\0" in text:
        raise UsageError(
            f"the prompt has a NUL character, and {manifest.name} takes it as an argument",
            "remove that character",
        )


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _too_long(manifest: Manifest, length: str, limit: str) -> UsageError:
    return UsageError(
        f"the prompt has {length}; {manifest.name} takes at most {limit}",
        "put the text in a file and name the file in the prompt",
    )
