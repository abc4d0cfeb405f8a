"""The kind of a failure, by the rules of a manifest."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import datetime

from clinvk.backend.manifest import ErrorRule, Manifest
from clinvk.backend.patterns import Patterns
from clinvk.errors import ConfigError
from clinvk.model import events as messages
from clinvk.model.result import Failure

LOOKED_AT = 65_536  # characters of a message that are searched for the patterns of `errors`

# Lines of stderr, or of a message, about a limit of something else: an MCP server's, a disk's.
_OF_OTHERS = re.compile(r"(?:\b|_|r)mcp(?:\b|_)", re.IGNORECASE)
_DISK_QUOTA = re.compile(r"\bEDQUOT\b:?|\bdisk quota( exceeded)?", re.IGNORECASE)


def classify_failure(
    manifest: Manifest,
    message: str,
    *,
    stderr: str = "",
    status: int | None = None,
    code: int | None = None,
    retry_at: datetime | None = None,
    limit: messages.RateLimit | None = None,
    zone: str | None = None,
    now: datetime | None = None,
) -> Failure:
    """The kind of a failure, by the manifest's rules, and when to retry.

    What the CLI reports in fields decides: the HTTP status, and `limit`, its last report of a rate
    limit. Then its message, its exit code, and `stderr`, which is passed only if the CLI reported
    no failure in its events. `zone` is the time zone of the CLI, if its environment names one."""
    patterns = Patterns(manifest.source)
    texts = [_ends_of(message), stderr]
    rule, slow = _find_rule(manifest, texts, status, code, patterns)
    if limit is not None and status in (None, 429) and (rule is None or rule.kind in _UNCERTAIN):
        rule = next((r for r in manifest.errors if r.kind == "limit"), ErrorRule("limit"))
    if rule is None:
        return Failure("backend", message, slow, retry_at, status)
    if rule.kind != "limit":
        return Failure(rule.kind, message, rule.hint, retry_at, status, rule.wait_factor)
    # Only at a rate limit.
    from clinvk.backend.output.retry_after import find_zone, parse_retry_at

    named = retry_at or (limit.retry_at if limit else None)
    if named is None:
        there = find_zone(zone)
        found = (parse_retry_at(_about_limits(t), now=now, zone=there) for t in texts)
        named = next((moment for moment in found if moment), None)
    model = limit.model if limit else None
    if model is None and rule.model is not None:
        with suppress(ConfigError):
            model = patterns.find_group(rule.model, "\n".join(texts))
    window = limit.window if limit else None
    return Failure("limit", message, rule.hint, named, status, window=window, model=model)


def without_noise(manifest: Manifest, text: str) -> str:
    """The text without the lines that the manifest calls noise."""
    if not manifest.noise or not text:
        return text
    patterns = Patterns(manifest.source)
    try:
        kept = [
            line
            for line in text.splitlines()
            if not any(patterns.search(noise, line) for noise in manifest.noise)
        ]
    except ConfigError:  # a pattern takes too long
        return text
    return "\n".join(kept)


def find_reason(manifest: Manifest, failure: Failure, text: str) -> str | None:
    """The line of the text by which a rule has classified the failure."""
    patterns = Patterns(manifest.source)
    about = (failure.kind, failure.hint)
    rules = [rule for rule in manifest.errors if rule.match and (rule.kind, rule.hint) == about]
    try:
        for rule in rules:
            for line in text.splitlines():
                if patterns.search(rule.match or "", _text_for(rule, line, is_stderr=True)):
                    return _plain_message(line.strip())
    except ConfigError:  # a pattern takes too long
        pass
    return None


def _plain_message(line: str) -> str:
    """The line; of one that is a message in an indented JSON object, the message."""
    found = re.fullmatch(r'"message": ("(?:[^"\\]|\\.)*"),?', line)
    if found is None:
        return line
    try:
        return str(json.loads(found[1]))
    except ValueError:
        return line


_UNCERTAIN = ("limit", "server", "backend")  # kinds of a message that a reported limit overrules


def _find_rule(
    manifest: Manifest, texts: list[str], status: int | None, code: int | None, patterns: Patterns
) -> tuple[ErrorRule | None, str | None]:
    """The rule of a failure, and a pattern that took too long."""
    if status is not None:
        for rule in manifest.errors:
            if status in rule.status:
                return rule, None
    slow = None
    for number, text in enumerate(texts):
        found, reason = _match_rule(manifest.errors, text, patterns, is_stderr=number > 0)
        slow = slow or reason
        if found is not None:
            return found, None
        if number == 0 and (by_code := _rule_of_code(manifest, code)):
            # What it printed may name the cause, but does not make it another kind of failure.
            same = [rule for rule in manifest.errors if rule.kind == by_code.kind]
            causes = (_match_rule(same, said, patterns, is_stderr=True)[0] for said in texts[1:])
            return next(filter(None, causes), by_code), None
    return None, slow


def _rule_of_code(manifest: Manifest, code: int | None) -> ErrorRule | None:
    return next((rule for rule in manifest.errors if code in rule.exit_code), None)


def _match_rule(
    rules: list[ErrorRule], text: str, patterns: Patterns, *, is_stderr: bool
) -> tuple[ErrorRule | None, str | None]:
    """The first rule that matches the text, and the first pattern that took too long."""
    slow = None
    for rule in rules:
        if rule.match is None:
            continue
        try:
            if patterns.search(rule.match, _text_for(rule, text, is_stderr=is_stderr)):
                return rule, None
        except ConfigError as error:
            slow = slow or f"the kind of this failure could not be determined: {error}"
    return None, slow


def _text_for(rule: ErrorRule, text: str, *, is_stderr: bool) -> str:
    if rule.kind == "limit":
        return _about_limits(text)
    return _without_others(text) if is_stderr else text


def _about_limits(text: str) -> str:
    """The text without what it says about limits of others."""
    return _DISK_QUOTA.sub("", _without_others(text))


def _without_others(text: str) -> str:
    if "mcp" not in text.lower():
        return text
    # Line by line: a pattern that begins with the rest of a line takes quadratic time.
    return "\n".join("" if _OF_OTHERS.search(line) else line for line in text.split("\n"))


def _ends_of(message: str) -> str:
    """The message, or the beginning and end of a long one."""
    half = LOOKED_AT // 2
    return message if len(message) <= LOOKED_AT else f"{message[:half]}\n{message[-half:]}"
