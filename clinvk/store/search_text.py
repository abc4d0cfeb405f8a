"""Text as it is searched: the same for an index and for a scan.

Chinese, Japanese, Korean and some other scripts have no spaces between words. Each of their characters
is a word here, and a word of a query a phrase: `解析器` is found inside a sentence, and so is `器`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Thai, Lao, Tibetan, Myanmar; Khmer; radicals, kana, bopomofo, jamo, Han; Hangul; Han.
_WITHOUT_SPACES = (
    "\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029"
    "\u3031-\u3035\u3041-\u30fa\u30fc-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_VOICED = "\u3099\u309a"  # which make other letters of kana, such as ガ of カ


def separate_characters(text: str) -> str:
    """The text with spaces around each character of a script without them. Half-width and
    full-width forms are the usual ones."""
    if text.isascii():
        return text
    return _character().sub(r" \g<0> ", unicodedata.normalize("NFKC", text))


def normalize_text(text: str) -> str:
    """The text for comparison: without case and accents."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        kept = (c for c in parts if c in _VOICED or not unicodedata.combining(c))
        text = unicodedata.normalize("NFC", "".join(kept))
    return text.casefold()


def comparable_text(text: str) -> str:
    """The same, with the characters separated as they are in an index."""
    text = normalize_text(text)
    return text if text.isascii() else " ".join(separate_characters(text).split())


def comparable_word(word: str) -> str:
    """A word of a query, without the punctuation around it, which no index has."""
    text = comparable_text(word)
    start, end = 0, len(text)
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return text[start:end]


@cache
def _character() -> re.Pattern[str]:
    """Compiled when it is needed: most text is ASCII."""
    return re.compile(f"[{_WITHOUT_SPACES}]")
