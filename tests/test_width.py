"""Text is measured, cut and filled by the cells that it takes on a terminal."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.terminal import columns
from clinvk.terminal.board.frame import truncate as board_truncate
from clinvk.terminal.printer import _fit_table, print_table
from clinvk.text.width import (
    clip,
    clip_start,
    display_width,
    pad,
    signs,
    split,
    truncate,
    truncate_start,
)

FLAGS = "🇩🇪🇫🇷🇯🇵"
FAMILY = "👨‍👩‍👧"
TEXTS = st.lists(
    st.sampled_from(
        ["a", " ", "漢", "é", "e\u0301", "🚀", "🇩🇪", "🇫🇷", FAMILY, "👍🏽", "❤\ufe0f", "\u200b"]
    ),
    max_size=40,
).map("".join)


def test_a_sign_of_several_characters_takes_the_cells_of_one():
    widths = {
        "": 0,
        "abc": 3,
        "漢字": 4,
        "e\u0301": 1,
        FLAGS: 6,
        FAMILY: 2,
        "👍🏽": 2,
        "a\u200bb": 2,
    }
    assert {text: display_width(text) for text in widths} == widths


def test_no_sign_is_cut_in_two():
    assert [clip(FLAGS, width) for width in range(5)] == ["", "", "🇩🇪", "🇩🇪", "🇩🇪🇫🇷"]
    assert split(FLAGS, 3) == ["🇩🇪", "🇫🇷", "🇯🇵"]
    assert columns.wrap(FLAGS * 2, 8) == ["🇩🇪🇫🇷🇯🇵🇩🇪", "🇫🇷🇯🇵"]
    assert truncate(FLAGS, 5) == "🇩🇪🇫🇷…"
    assert truncate_start(FLAGS, 5) == "…🇫🇷🇯🇵"
    assert [truncate_start("abc", width) for width in range(4)] == ["", "…", "…c", "abc"]
    assert split(FLAGS, 4, taken=1) == ["🇩🇪", "🇫🇷🇯🇵"]
    assert split(FLAGS, 4, taken=3) == ["", "🇩🇪🇫🇷", "🇯🇵"]
    assert clip_start(FLAGS, 5) == "🇯🇵"
    assert board_truncate is truncate


@given(TEXTS, st.integers(0, 30))
def test_what_is_cut_or_filled_has_the_width_that_was_asked_for(text: str, width: int):
    assert display_width(clip(text, width)) <= width
    assert text.startswith(clip(text, width))
    assert display_width(truncate(text, width)) <= width
    assert display_width(truncate_start(text, width)) <= width
    assert text.endswith(truncate_start(text, width).removeprefix("…"))
    assert display_width(pad(text, width)) == width
    assert text.endswith(clip_start(text, width))
    assert display_width(clip_start(text, width)) <= width


@given(TEXTS | st.text("ab", max_size=40), st.integers(1, 30), st.integers(0, 30))
def test_split_text_fits_and_loses_nothing(text: str, width: int, taken: int):
    assert "".join(split(text, width, taken=taken)) == text
    assert display_width(split(text, width, taken=taken)[0]) <= max(0, width - taken) or not taken
    pieces = split(text, width)
    assert "".join(pieces) == text
    assert all(display_width(piece) <= width for piece in pieces if len([*signs(piece)]) > 1)


def test_the_columns_of_a_table_begin_below_each_other(capsys: pytest.CaptureFixture[str]):
    rows = [["🇩🇪 flag", "1", "x"], ["漢字", "20", ""], [FAMILY, "300", "y"], ["plain", "", "z"]]
    print_table(["NAME", "COST", "LAST"], rows, right=["COST"])
    assert capsys.readouterr().out.split("\n") == [
        "NAME       COST  LAST",
        "🇩🇪 flag       1  x",
        "漢字         20",
        f"{FAMILY}          300  y",
        "plain            z",
        "",
    ]


def test_the_end_of_a_path_is_cut_by_its_cells():
    table = [["NAME", "DIRECTORY"], ["a", f"/{'漢字/' * 20}src"]]
    fitted = _fit_table(table, 30, ["DIRECTORY"], [], ["DIRECTORY"], 14)
    assert fitted[1][1].startswith("…")
    assert fitted[1][1].endswith("字/src")
    assert 20 <= display_width(fitted[1][1]) <= 22


def test_a_table_without_rows_has_its_headers(capsys: pytest.CaptureFixture[str]):
    print_table(["NAME", "COST"], [], right=["COST"])
    assert capsys.readouterr().out.split() == ["NAME", "COST"]


def test_a_table_of_plain_text_loads_no_tables_of_characters():
    code = (
        "import sys; from clinvk.process import ownership\n"
        "from clinvk.terminal.printer import print_table\n"
        "ownership.take_over()\n"
        "print_table(['A'], [['b']]); print('wcwidth' in sys.modules)\n"
        "print_table(['A'], [['漢']]); print('wcwidth' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["A", "b", "False", "A", "漢", "True"]
