"""Keys and passwords in texts, by their shapes: what is stored says `[redacted: github token]`.

Only shapes that are secrets whenever they occur are taken away: a hash, a UUID or a picture in
base64 stays, and so does `password=` with a variable behind it. A text is looked through for the
few characters that a shape begins with, or stands behind; an expression is compiled only once they
are found, so that a text without them costs some 20 ms per megabyte, and a start nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from msgspec import Struct

Check = Callable[[str], bool]


def redact(text: str) -> str:
    """The text with a note in place of each secret; without any, the very text."""
    while spans := _disjoint(sorted(_spans(text))):
        text = _replaced(text, spans)
    return text


def without(text: str, secrets: Iterable[str]) -> str:
    """The text with a note in place of each of these."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "[redacted: from the environment]")
    return text


def throughout(data: Any, change: Callable[[str], str]) -> Any:
    """A structure of mappings and lists with every text in it changed."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, dict):
        return {key: throughout(value, change) for key, value in data.items()}
    return [throughout(value, change) for value in data] if isinstance(data, list) else data


def _mixed(value: str) -> bool:
    """Whether it may be a key rather than a name or `sk-xxxxxxxx`."""
    digits = any(c.isdigit() for c in value)
    cases = value.lower() != value != value.upper()
    return (digits or cases) and len(set(value)) >= 8


def _random(value: str) -> bool:
    """Whether a value was drawn rather than written: its characters change their kind all the
    time, where those of a path or a name do so at its words."""
    word = max(re.split(r"[._:/-]", value), key=len)
    digits = sum(c.isdigit() for c in word)
    changes = sum(map(_changes, pairwise(word)))
    return len(word) >= 8 and 2 <= digits < len(word) and changes >= 0.3 * (len(word) - 1)


def _changes(pair: tuple[str, str]) -> bool:
    """Not from an upper to a lower letter: so begins a word."""
    first, second = map(_kind, pair)
    return first != second and (first, second) != ("upper", "lower")


def _kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    return "upper" if character.isupper() else "lower" if character.isalpha() else "other"


def _assigned(value: str) -> bool:
    """Not a path, a variable, a call or a place to fill in."""
    return value[0] not in "/~.$%<{[(" and not set(value) & set("(){}[]<>$") and _random(value)


def _is_password(value: str) -> bool:
    """Not what a manual writes where one has to put a password."""
    plain = value.strip("*xX.").lower()
    return plain not in ("", "pass", "passwd", "password", "pwd", "secret", "token", "changeme")


def _is_block(value: str) -> bool:
    """Not the two lines around a key in a program that looks for them."""
    return re.search(r"[A-Za-z0-9+/=]{32}", value) is not None


class Rule(Struct, frozen=True):
    """A shape: one of `begins` is found first, then the expression has to match there. What is
    taken away is its group `secret`, else all of it."""

    label: str
    begins: tuple[str, ...]
    pattern: str
    check: Check = _mixed
    folded: bool = False  # `begins` are found in whatever case
    behind: str = "_-"  # characters that it cannot stand behind, beside letters and digits


_END = r"(?![A-Za-z0-9_])"
_VALUE = (
    r"""\\?["']?\s{0,3}(?:=>|:=|[:=])\s{0,3}"""
    r"""(?:\\?["'`](?P<secret>[^\s"'`\\]{8,512}+)\\?["'`]|(?P<bare>[^\s"'`\\,;&]{8,512}+)(?![^\s"'`\\,;&]))"""
)
# Those that say more come first: of two that begin at one place the first is named.
RULES = (
    Rule("private key", ("-----BEGIN ",),
         r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
         r"(?:(?:[^-]|-(?!----)){0,20000}+-----END [A-Z ]{1,60}-----"
         r"|(?:(?:\s|\\[nr]){0,4}+[A-Za-z0-9+/=]{20,}+)++)",
         _is_block, behind=""),
    Rule("anthropic key", ("sk-ant-",), r"sk-ant-[\w-]{20,}"),
    Rule("openrouter key", ("sk-or-",), r"sk-or-[\w-]{20,}"),
    Rule("openai key", ("sk-",), r"sk-(?:(?:proj|svcacct|admin|None)-[\w-]{20,}|[A-Za-z0-9]{32,}" + _END + ")"),
    Rule("google key", ("AIza",), r"AIza[\w-]{35}(?![\w-])"),
    Rule("google token", ("ya29.",), r"ya29\.[\w-]{30,}"),
    Rule("github token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,255}" + _END),
    Rule("github token", ("github_pat_",), r"github_pat_\w{40,255}"),
    Rule("gitlab token", ("glpat-",), r"glpat-[\w-]{20,}(?:\.[\w-]{2,20}\.[\w-]{5,20})?"),
    Rule("aws access key", ("AKIA", "ASIA"), r"A(?:KIA|SIA)[A-Z2-7]{16}" + _END),
    Rule("aws secret key", ("secret",),
         r"""(?i:secret_?access_?key)\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])""",
         folded=True, behind=""),
    Rule("slack token", ("xox", "xapp-"), r"(?:xox[abeoprs]|xapp)-[\w.-]{16,}"),
    Rule("slack webhook", ("hooks.slack.com/",), r"hooks\.slack\.com/(?P<secret>(?:services|workflows|triggers)/[\w/]{20,})", behind=""),
    Rule("stripe key", ("sk_live_", "rk_live_"), r"[sr]k_live_[A-Za-z0-9]{16,}"),
    Rule("npm token", ("npm_",), r"npm_[A-Za-z0-9]{36}" + _END),
    Rule("pypi token", ("pypi-AgE",), r"pypi-AgE[\w-]{50,}"),
    Rule("hugging face token", ("hf_",), r"hf_[A-Za-z0-9]{30,}" + _END),
    Rule("groq key", ("gsk_",), r"gsk_[A-Za-z0-9]{40,}" + _END),
    Rule("xai key", ("xai-",), r"xai-[A-Za-z0-9]{40,}" + _END),
    Rule("sendgrid key", ("SG.",), r"SG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),
    Rule("digitalocean token", ("doo_v1_", "dop_v1_", "dor_v1_"), r"do[opr]_v1_[0-9a-f]{64}" + _END),
    Rule("jwt", ("eyJ",), r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{16,}", behind="_-."),
    Rule("authorization", ("bearer ",), r"(?i:bearer) {1,3}(?P<secret>[\w.~+/-]{16,4096}={0,2})", _random, folded=True),
    Rule("authorization", ("authorization",),
         r"""(?i:authorization\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?basic) {1,3}(?P<secret>[A-Za-z0-9+/]{8,4096}={0,2})""",
         folded=True, behind=""),
    Rule("password", ("://",), r"""://[^\s/:@"'<>\[\]]{0,100}:(?P<secret>[^\s/@"'<>\[\]{}$]{1,200})@""", _is_password, behind=""),
    Rule("password", ("passw", "pwd"), r"(?i:passw(?:or)?d|pwd)" + _VALUE, _assigned, folded=True, behind=""),
    Rule("secret", ("secret", "token", "api", "access", "accountkey"),
         r"(?i:secret(?:[_-]?(?:access[_-]?)?key)?|token|api[_-]?(?:key|secret)|access[_-]?key|accountkey)" + _VALUE,
         _assigned, folded=True, behind=""),
)  # fmt: skip


def _spans(text: str) -> Iterator[tuple[int, int, int]]:
    """(start, rule's number, end) of every secret."""
    # İ alone becomes two characters, and what is found in one has to be at that place in the other.
    folded = text.replace("İ", "i").lower()
    for number, rule in enumerate(RULES):
        within = folded if rule.folded else text
        for begin in rule.begins:
            if begin in within:  # mostly not, and then nothing else is done
                for start, end in _matches(rule, begin, text, within):
                    yield start, number, end


def _matches(rule: Rule, begin: str, text: str, within: str) -> Iterator[tuple[int, int]]:
    at = within.find(begin)
    while at >= 0:
        after = at + len(begin)
        if not _stands_behind(rule, text, at) and (
            found := _compiled(rule.pattern).match(text, at)
        ):
            names = found.groupdict()
            group = next((name for name in names if names[name] is not None), 0)
            after = found.end()
            if rule.check(found.group(group)):
                yield found.span(group)
        at = within.find(begin, after)


def _stands_behind(rule: Rule, text: str, at: int) -> bool:
    """Whether this is the middle of a word, such as "task-…" or a picture in base64."""
    before = text[at - 1 : at]
    return bool(rule.behind and before and (before.isalnum() or before in rule.behind))


def _disjoint(spans: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    kept: list[tuple[int, int, int]] = []
    for span in spans:
        if not kept or span[0] >= kept[-1][2]:
            kept.append(span)
    return kept


def _replaced(text: str, spans: list[tuple[int, int, int]]) -> str:
    pieces, at = [], 0
    for start, number, end in spans:
        pieces += [text[at:start], f"[redacted: {RULES[number].label}]"]
        at = end
    return "".join([*pieces, text[at:]])


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)
