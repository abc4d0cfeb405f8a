"""Answers on a terminal, rendered as Markdown while they stream."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pexpect
import pytest
import wcwidth
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it.parser_inline import ParserInline

from clinvk.cmd.options.request import OutputOptions
from clinvk.cmd.views import rendered
from clinvk.cmd.views.rendered import RenderedViewer
from clinvk.model.events import Delta
from clinvk.terminal.columns import split_wide_characters
from clinvk.terminal.printer import Printer
from clinvk.terminal.rendering import code, layout, lines
from clinvk.terminal.rendering.blocks import Block
from clinvk.terminal.rendering.lines import without_style
from clinvk.terminal.rendering.stream import AnswerRenderer
from clinvk.text.sanitize import StreamSanitizer
from clinvk.text.width import WIDE, split
from tests.conftest import CommandLine, Home, write_program
from tests.needs import need
from tests.screens import SEQUENCE, Screen
from tests.terminals import on_terminal

MARKDOWN = """\
# The title is **bold**

Some prose with `code`, *emphasis*, **strong words**, a [link](https://example.org/a) and more words
than any of these terminals has room for on a line, so that it is wrapped between two of them.

Steps:
1. First do `this`
2. Then:
   ```bash
   make install
   ```
3. Done
   - a part of it
   - another one

- [ ] open
- [x] finished

| File | Why | Lines |
|---|:--|--:|
| a.py | because it is **old** and has a very long explanation, which is wrapped in its own column of the table | 12 |
| b.py | new | 3 |

```python
def f(x: int) -> str:
    return f"{x + 1}"  # more
```

> A quote
> on two lines

---

5 &lt; 6, and 日本語の文章です。
"""
SCREENS = {
    60: """\
# The title is bold

Some prose with code, emphasis, strong words, a link
(https://example.org/a) and more words
than any of these terminals has room for on a line, so that
it is wrapped between two of them.

Steps:
1. First do this
2. Then:
     make install
3. Done
   ◦ a part of it
   ◦ another one

☐ open
☑ finished

File │ Why                                          │ Lines
─────┼──────────────────────────────────────────────┼──────
a.py │ because it is old and has a very long        │    12
     │ explanation, which is wrapped in its own     │
     │ column of the table                          │
─────┼──────────────────────────────────────────────┼──────
b.py │ new                                          │     3

  def f(x: int) -> str:
      return f"{x + 1}"  # more

│ A quote
│ on two lines

───────────────────────────────────────────────────────────

5 < 6, and 日本語の文章です。""",
}
PROSE = MARKDOWN.replace("\n", " ")

SPEAK = """\
#!{python}
import json, os, sys, time
sys.stdin.read()
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n"); sys.stdout.flush()
text = open({text!r}).read()
say(type="start", id="native-" + str(os.getpid()))
for at in range(0, len(text), {piece}):
    say(type="delta", text=text[at : at + {piece}])
    time.sleep({pause})
    {between}
say(type="end", text=text)
"""


def plain(lines: list) -> str:
    return "\n".join(without_style(line).text.rstrip() for line in lines)


def streamed(text: str, pieces: list[int], columns: int, rows: int = 24, *, cut: bool = False) -> Screen:  # fmt: skip
    """The screen on which a text is shown piece by piece; lines are cut off where others print."""
    size = os.terminal_size((columns, rows))
    renderer, screen, at = AnswerRenderer(lambda: size, color=True), Screen(columns, rows), 0
    for i, piece in enumerate(pieces):
        renderer.feed(text[at : at + piece])
        at += piece
        screen.feed(renderer.draw())
        if cut and not i % 5:
            screen.feed(renderer.end_line())
    renderer.feed(text[at:])
    screen.feed(renderer.end_block())
    return screen


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("rows", [24, 9])
def test_however_an_answer_arrives_the_screen_ends_up_the_same(columns: int, rows: int):
    expected = plain(layout.render_text(MARKDOWN, layout.text_width(columns)))
    for seed in range(3):
        chance = random.Random(seed)
        pieces = [chance.choice([1, 3, 7, 40, 200]) for _ in range(2 * len(MARKDOWN))]
        assert streamed(MARKDOWN, pieces, columns, rows).text == expected
    assert max(map(len, expected.splitlines())) < columns
    assert expected == SCREENS.get(columns, expected)


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet=st.sampled_from("a1 \n\n`*_~-+#>|[](){}!&;:=.\\\tö漢"), max_size=120),
       st.integers(1, 9))  # fmt: skip
@example("- a\n\n  ```\n  x\nb\n```\nc", 1)
@example("a | b\n--|--\n", 2)
@example("1. a\n1. b\n\n1) c", 3)
def test_no_markdown_breaks_the_screen(text: str, piece: int):
    expected = plain(layout.render_text(text, layout.text_width(60))).strip("\n")
    assert streamed(text, [piece] * len(text), 60).text == expected


def test_no_word_is_lost_or_said_twice_if_others_print_in_between():
    words = [f"word{n}" for n in range(400)]
    text = "".join(f"{w}{'.' if n % 7 else '.' + chr(10) * 2}" + " " for n, w in enumerate(words))
    for seed in range(2):
        chance = random.Random(seed)
        pieces = [chance.choice([2, 9, 50]) for _ in range(len(text))]
        shown = streamed(text, pieces, 60, 10, cut=True).text
        assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)


def test_what_has_not_changed_is_not_written_again():
    size = os.terminal_size((80, 24))
    renderer = AnswerRenderer(lambda: size, color=True)
    renderer.feed("# A title\n\nA first line\nand the second")
    renderer.draw()
    renderer.feed(" one")
    assert renderer.draw() == " one"
    renderer.feed(" is `long")
    assert "first" not in renderer.draw()


def test_numbers_and_addresses_stay_as_they_are():
    shown = plain(layout.render_text("1. a\n1. b\n\n7. c\n\nsee [x] and <https://e.org/y>\n\n[x]: https://e.org/x", 60))  # fmt: skip
    assert shown == "1. a\n2. b\n\n3. c\n\nsee [x] and https://e.org/y\n\n[x]: https://e.org/x"


def test_a_table_without_room_for_its_columns_becomes_lists():
    names = [f"column{n}" for n in range(12)]
    text = "\n".join(["|".join(names), "|".join("---" for _ in names), "|".join("value" for _ in names)])  # fmt: skip
    assert plain(layout.render_text(text, 59)).splitlines()[3] == "column3: value"


def test_long_code_is_not_cut_so_that_it_can_be_copied():
    command = "curl " + "x" * 200
    assert command in plain(layout.render_text(f"```sh\n{command}\n```", 59))
    screen = streamed(f"```sh\n{command}\n```\ndone", [3] * 90, 60)
    assert screen.text.replace("\n", "") == f"  {command}done"


@pytest.mark.parametrize("text", ["x" * 60_000, "日" * 20_000, "x日" * 20_000, "_a" * 20_000])
def test_a_long_word_costs_its_length(text: str, monkeypatch: pytest.MonkeyPatch):
    looked_at = 0

    def counting(text: str, *args: Any, **named: Any) -> list[str]:
        nonlocal looked_at
        looked_at += len(text)
        return split(text, *args, **named)

    monkeypatch.setattr(lines, "split", counting)
    shown = layout.render_text(text, 79)
    assert looked_at <= 3 * len(text)
    assert re.sub(r"\s", "", plain(shown)) == text
    assert max(line.width for line in shown) <= 79


@pytest.mark.parametrize("fence", ["```json\n", "- a\n  ```json\n  "])
def test_a_long_line_of_code_is_not_rendered_again_for_each_piece_of_it(
    fence: str, monkeypatch: pytest.MonkeyPatch
):
    drawn = lexed = 0

    def counting(block: Block, width: int) -> list[lines.Line]:
        nonlocal drawn
        drawn += len(block.text)
        return render_block(block, width)

    def highlighting(code: list[str], language: str, context: tuple[str, ...] = ()) -> Any:
        nonlocal lexed
        lexed += sum(map(len, context)) if language else 0
        return highlight(code, language, context)

    render_block, highlight = layout.render_block, code.highlight
    monkeypatch.setattr(layout, "render_block", counting)
    monkeypatch.setattr(code, "highlight", highlighting)
    row = ",".join(f'{{"n":{n}}}' for n in range(15_000))
    text = f"{fence}{row}\n" + '  {"m": 1}\n' * 50
    screen = streamed(text, [1000] * (len(text) // 1000), 80)
    assert row in re.sub(r"\s", "", screen.text)
    assert screen.text.count('"m"') == 50
    assert drawn < 8 * len(text)
    assert lexed < 2 * len(text)


@pytest.mark.parametrize("text", ["[", "![", "![[]", "[a](", "x ["])
def test_brackets_that_are_no_links_are_not_searched_for_them_again_and_again(
    text: str, monkeypatch: pytest.MonkeyPatch
):
    steps, skip = 0, ParserInline.skipToken

    def counting(parser: ParserInline, state: Any) -> None:
        nonlocal steps
        steps += 1
        skip(parser, state)

    monkeypatch.setattr(ParserInline, "skipToken", counting)
    text = (text * 16_000)[:16_000]
    for ending in ("", "\n"):  # at its end, a line is cut like one that has none yet
        shown = plain(layout.render_text(text + ending, 79))
        assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)
        assert steps < 20 * len(text)
    links = "[a](https://e.org/x) " * 300
    assert plain(layout.render_text(links, 79)).count("a (https://e.org/x)") == 300


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b5m&#27;[31m&#x1b;]8;;&#x202e; <https://e.org/%1b[31m>"


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 50))
@example(10_000)
def test_nothing_of_an_answer_drives_the_terminal(piece: int):
    text = f"{HOSTILE}\n\n```sh\n{HOSTILE}\n```\n\n`{HOSTILE}` [{HOSTILE}]({HOSTILE})\n\n|a|\n|-|\n|{HOSTILE}|\n"  # fmt: skip
    size = os.terminal_size((80, 24))
    renderer, sanitizer = AnswerRenderer(lambda: size, color=True), StreamSanitizer()
    written = ""
    for at in range(0, len(text), piece):
        renderer.feed(sanitizer.feed(text[at : at + piece]))
        written += renderer.draw()
    written += renderer.end_block()
    ours = re.sub(r"\x1b\[(?:[0-9;]*m|\?2026[hl]|\d*A|[KJ])", "", written)
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", ours)
    assert "\x1b[2J" not in written


# The command.


Answer = Callable[..., None]


@pytest.fixture
def answer(home: Home) -> Answer:
    """Let the backend answer a text in pieces, with `pause` seconds and statements in between."""
    home.config("default_backend: fake\n")

    def make(text: str, piece: int = 20, pause: float = 0.001, between: str = "pass") -> None:
        path = home.path.parent / "answer.txt"
        path.write_text(text)
        program = home.backend("fake")
        values = {"text": str(path), "piece": piece, "pause": pause, "between": between}
        write_program(program, SPEAK.format(python=sys.executable, **values))

    return make


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_an_answer_is_rendered_on_a_terminal(answer: Answer, home: Home, columns: int):
    answer(MARKDOWN)
    written, screen = on_terminal(home, "x", columns=columns)
    assert screen.text == plain(layout.render_text(MARKDOWN, layout.text_width(columns)))
    assert "\x1b[35mdef\x1b[0m" in written


@pytest.mark.parametrize("how", ["--plain", "output.render", "TERM=dumb", "--raw"])
def test_an_answer_is_shown_as_it_is_written_on_request(answer: Answer, home: Home, how: str):
    answer(MARKDOWN)
    if how == "output.render":
        home.config("default_backend: fake\noutput: {render: false}\n")
    env = {"TERM": "dumb"} if how == "TERM=dumb" else {}
    written, _ = on_terminal(home, *([how] if how.startswith("--") else []), "x", **env)
    assert written.replace("\r\n", "\n").endswith(MARKDOWN)


def test_a_pipe_gets_an_answer_as_it_is_written(answer: Answer, clinvk: CommandLine):
    answer(MARKDOWN)
    assert clinvk("x").stdout == MARKDOWN


def test_without_colors_the_layout_stays(answer: Answer, home: Home):
    answer(MARKDOWN)
    written, screen = on_terminal(home, "x", columns=60, NO_COLOR="1")
    assert screen.text == SCREENS[60]
    assert not [found for found in SEQUENCE.findall(written) if found[2] == "m"]


def test_tools_are_told_between_the_lines(answer: Answer, home: Home):
    answer(
        "One **two** three four. " * 8,
        between='say(type="tool", name="Bash", input={"command": "ls"})',
    )
    _, screen = on_terminal(home, "-v", "x")
    lines = screen.text.splitlines()
    assert '· Bash: {"command": "ls"}' in lines
    said = " ".join(line for line in lines if "Bash" not in line)
    assert re.sub(r"\s", "", said) == "Onetwothreefour." * 8


def test_an_answer_that_comes_too_fast_is_not_rendered_to_its_end(answer: Answer, home: Home):
    answer(f"# A title\n\n{'**prose** ' * 200_000}\n\nThe end.", piece=500_000, pause=0)
    written, _ = on_terminal(home, "x")
    assert "the rest is plain text" in " ".join(written.split())
    assert len(written.replace("\r\n", "")) > 2_000_000
    assert written.rstrip().endswith("The end.")


def test_ctrl_c_keeps_what_was_shown(answer: Answer, home: Home):
    answer("A **first** part. " * 3, piece=60, between="time.sleep(60)")
    child = pexpect.spawn(sys.executable, ["-m", "clinvk", "x"], cwd=str(home.work), timeout=60,
                          env={**home.env, "TERM": "xterm"}, encoding="utf-8", echo=False)  # fmt: skip
    child.expect("first.*first.*first")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 7
    assert "part." in child.before


def test_a_real_terminal_shows_it_and_may_be_resized_meanwhile(answer: Answer, home: Home, tmp_path: Path):  # fmt: skip
    if shutil.which("tmux") is None:
        need("tmux")
    answer(MARKDOWN + "\n" + PROSE, piece=15, pause=0.01)
    env = {**home.env, "TERM": "xterm-256color", "TMUX_TMPDIR": str(tmp_path), "LC_ALL": "C.UTF-8"}

    def tmux(*args: str) -> str:
        command = ["tmux", "-f", "/dev/null", *args]
        return subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout

    def shown() -> str:
        return tmux("capture-pane", "-p", "-J", "-S", "-", "-t", "t")

    program = f"cd {home.work}; {sys.executable} -m clinvk x; echo THE END; sleep 60"
    tmux("new-session", "-d", "-s", "t", "-x", "80", "-y", "20", program)
    try:
        deadline = time.monotonic() + 60
        resized = False
        while "THE END" not in (text := shown()) and time.monotonic() < deadline:
            if "Steps" in text and not resized:
                tmux("resize-window", "-t", "t", "-x", "100", "-y", "20")
                resized = True
            time.sleep(0.05)
    finally:
        tmux("kill-server")
    assert resized
    assert text.count("The title is bold") == 2
    for words in ("1. First do this", "☑ finished", "def f(x: int) -> str:", "on two lines"):
        assert text.count(words) >= 1, text


class Terminal:
    """What a viewer writes to; it may be gone."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error, self.written = error, ""

    def write(self, text: str) -> None:
        self.written += text

    async def flush(self) -> None:
        if self.error:
            raise self.error

    def give_up(self) -> None: ...


def viewer_on(terminal: Terminal) -> RenderedViewer:
    plan: Any = SimpleNamespace(manifest=SimpleNamespace(name="x"), settings={}, request=None)
    viewer = RenderedViewer(OutputOptions(), Printer(sys.stderr, color=False), plan)
    viewer.out = terminal  # type: ignore[assignment]
    return viewer


@pytest.mark.anyio
async def test_a_backend_does_not_wait_for_a_terminal_that_is_gone():
    viewer = viewer_on(Terminal(OSError(5, "Input/output error")))
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def tell() -> None:
                with pytest.raises(OSError, match="Input/output error"):
                    await viewer.show(Delta(text="x" * (rendered.MAX_HELD + 1_000_000)))

            group.start_soon(tell)
            await anyio.lowlevel.checkpoint()
            group.start_soon(viewer.work)


@pytest.mark.anyio
async def test_text_is_drawn_even_if_the_wait_for_it_ends_too_early(
    monkeypatch: pytest.MonkeyPatch,
):
    terminal = Terminal()
    viewer = viewer_on(terminal)
    viewer._next_drawing = time.monotonic() + 60
    monkeypatch.setattr(rendered.anyio, "sleep", lambda _: anyio.lowlevel.checkpoint())
    await viewer.show(Delta(text="some words"))
    await viewer._do_jobs()
    assert "some words" in terminal.written


@pytest.mark.anyio
async def test_nothing_is_rendered_while_there_is_something_to_read_but_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
):
    terminal, unread = Terminal(), True
    viewer = viewer_on(terminal)
    viewer.has_unread_output = lambda: unread
    await viewer.show(Delta(text="the first words\n\n"))
    await viewer._do_jobs()
    assert "the first words" in terminal.written  # they do not wait

    monkeypatch.setattr(rendered, "MAX_PRECEDENCE", 30)
    for _ in range(30):
        await viewer.show(Delta(text="some more words\n\n" * 300))
    with anyio.move_on_after(0.2):
        await viewer._do_jobs()
    assert "some more words" not in terminal.written
    unread = False
    await viewer._draw()
    assert "some more words" in terminal.written

    unread = True
    before = terminal.written.count("some more words")
    monkeypatch.setattr(rendered, "MAX_PRECEDENCE", 0.01)
    await viewer.show(Delta(text="some more words\n\n" * 300))
    await viewer._do_jobs()
    assert terminal.written.count("some more words") > before


def test_each_character_of_a_text_without_spaces_is_measured_and_wrapped_as_any_text():
    wide = [chr(i) for i in range(0x3000, 0x10000) if re.fullmatch(f"[{WIDE}]", chr(i))]
    assert len(wide) > 20_000
    assert {wcwidth.width(sign) for sign in wide} == {2}
    assert all(len([*wcwidth.iter_graphemes(f"日{sign}日")]) == 3 for sign in wide)
    text = "これは、「日本語」の文章です。っとー！"
    assert [*split_wide_characters(text)] == [*split_wide_characters(f"{text}a")][:-1]


def test_json_is_not_touched(answer: Answer, clinvk: CommandLine):
    answer(MARKDOWN)
    assert json.loads(clinvk("-o", "json", "x").stdout)["content"] == MARKDOWN
