"""Reports of a run: read back by what reads such files."""

import io
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk import reports
from clinvk.cmd.options.plan import requested_reports
from clinvk.errors import UsageError
from clinvk.model.outcome import STATES, Outcome, RunResult
from clinvk.model.plan import Plan, Task
from clinvk.model.result import Failure
from clinvk.model.usage import Usage
from clinvk.reports import markdown, timeline

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NASTY = (
    "before\n```python\nprint('`````')\n```\n| a | b |\n|---|---|\n]]> </details></pre></svg>\n"
    "<script>alert(1)</script> <b onclick=x> &amp; \x1b[31mred\x1b[0m \x00\x08\x0b\x9b2J \ud800 \ufffe end"
)
FORMATS = ("html", "markdown", "junit", "json")
VOID = {"meta", "br", "hr", "img", "link", "input"}


def task(index: int = 0, state: str = "done", **given) -> Outcome:
    begun = state not in ("skipped", "waiting", "queued")
    some = {
        "name": f"task {index}",
        "backend": "claude",
        "model": "a-model" if begun else None,
        "session_id": f"r1.task-{index}" if begun else None,
        "output": f"answer {index}" if state == "done" else "",
        "error": None if state == "done" else Failure("server", "it broke", "try again"),
        "seconds": 2.0 if begun else 0.0,
        "usage": Usage(100, 10) if begun else None,
        "cost": 0.25 if begun else None,
        "attempts": 1 if begun else 0,
        "started_at": BEGAN + timedelta(seconds=index) if begun else None,
    }
    return Outcome(index=index, state=state, **{**some, **given})


def run(*outcomes: Outcome, **given) -> tuple[RunResult, Plan]:
    some = {
        "id": "r12ab34",
        "kind": "parallel",
        "state": "done" if all(o.ok for o in outcomes) else "failed",
        "seconds": 12.5,
        "started_at": BEGAN,
        "source": "tasks.yaml",
    }
    result = RunResult(results=outcomes, **{**some, **given})
    return result, Plan(
        kind="parallel", tasks=tuple(Task(name=o.name, prompt="?") for o in outcomes)
    )


def every_state() -> tuple[RunResult, Plan]:
    return run(*(task(i, state) for i, state in enumerate(STATES)))


class Page(HTMLParser):
    """What is in a page. Fails where an element is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if name in (a.get("class") or "").split()]


def bars(page: Page) -> list[tuple[float, float, float]]:
    """From where to where, in percent, and how far from the top."""
    inside = [a for a in page.of_class("bar") if (a["x"] or "").endswith("%")]
    return [
        (percent(a["x"]), percent(a["x"]) + percent(a["width"]), float(a["y"] or 0)) for a in inside
    ]


def percent(text: str | None) -> float:
    return float((text or "").removesuffix("%"))


def html(result: RunResult, plan: Plan) -> Page:
    return Page(reports.render("html", result, plan))


def junit(result: RunResult, plan: Plan) -> ET.Element:
    return ET.fromstring(reports.render("junit", result, plan))


# Where they are written.


@pytest.mark.parametrize("name", ["report.txt", "report", "report.html.gz"])
def test_a_suffix_that_is_no_format_is_refused_before_anything_runs(tmp_path: Path, name: str):
    with pytest.raises(UsageError) as error:
        reports.check_report(tmp_path / name)
    assert name in error.value.message
    assert "use .html, .md, .xml or .json" in error.value.message


def test_a_folder_that_does_not_exist_is_named_with_the_way_out(tmp_path: Path):
    with pytest.raises(UsageError) as error:
        reports.check_report(tmp_path / "no" / "report.html")
    assert f"no such directory: {tmp_path / 'no'}" in error.value.message
    assert f"mkdir -p {tmp_path / 'no'}" in error.value.hint


def test_a_report_cannot_take_the_place_of_a_folder(tmp_path: Path):
    (tmp_path / "a.html").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        reports.check_report(tmp_path / "a.html")


@pytest.mark.parametrize("suffix", [".html", ".md", ".xml", ".json", ".HTML"])
def test_the_suffix_decides_what_is_written(tmp_path: Path, suffix: str):
    path = tmp_path / f"report{suffix}"
    result, plan = every_state()
    reports.check_report(path)
    reports.write_report(path, result, plan)
    assert path.read_text() == reports.render(reports.SUFFIXES[suffix.lower()], result, plan)
    assert list(tmp_path.iterdir()) == [path]


def test_junit_is_junit_whatever_its_suffix(tmp_path: Path):
    path = tmp_path / "results.md"
    wanted = requested_reports(path, [tmp_path / "report.md"])
    assert not reports.write_reports(wanted, *every_state())
    assert ET.parse(path).getroot().tag == "testsuites"
    assert (tmp_path / "report.md").read_text().startswith("# ")


def test_junit_without_a_folder_is_refused_too(tmp_path: Path):
    with pytest.raises(UsageError, match="no such directory"):
        requested_reports(tmp_path / "no" / "results", None)


def test_a_report_that_cannot_be_written_does_not_lose_the_others(tmp_path: Path):
    places = [tmp_path / "gone" / "a.html", tmp_path / "b.md", tmp_path / "c.json"]
    places[0].parent.mkdir()
    wanted = [reports.check_report(path) for path in places]
    places[0].parent.rmdir()
    (problem,) = reports.write_reports(wanted, *every_state())
    assert str(places[0]) in problem.message
    assert "clinvk runs show r12ab34" in (problem.hint or "")
    assert places[1].exists()
    assert places[2].exists()


def test_the_report_before_stays_whole_where_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    path.write_text("the one before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clinvk.disk.atomic.write_all", full)
    with pytest.raises(UsageError, match="No space left"):
        reports.write_report(path, *every_state())
    assert path.read_text() == "the one before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_gets_the_report_and_stays_a_pipe(tmp_path: Path):
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        reports.write_report(reports.check_report(path).path, *run(task()))
        assert json.loads(os.read(reader, 65_536))["id"] == "r12ab34"
    finally:
        os.close(reader)
    assert path.is_fifo()


@pytest.mark.parametrize("places", ["good", "gone"])
def test_reports_are_written_at_the_end_of_a_run(tmp_path: Path, places: str):
    """With the command itself: both flags, the exit code, GitHub's annotations."""
    (tmp_path / "tasks.yaml").write_text(
        "tasks:\n- {name: good, backend: echo, prompt: hello}\n"
        "- {name: bad, backend: echo, prompt: break, options: {fail: 500}}\n"
    )
    summary, junit_file = tmp_path / "summary", tmp_path / "results"
    page = tmp_path / ("report.html" if places == "good" else "gone/report.html")
    env = {
        "PATH": os.environ["PATH"],
        "CLINVK_HOME": str(tmp_path / "home"),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    command = [sys.executable, "-m", "clinvk", "parallel", "tasks.yaml", "--json"]
    ran = subprocess.run(
        [*command, "--junit", str(junit_file), "--report", str(page)],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    if places == "gone":
        assert f"no such directory: {page.parent}" in ran.stderr
        assert not (tmp_path / "home" / "runs").exists()
        return
    assert json.loads(ran.stdout)["failed"] == 1
    assert "::error title=bad%3A failed on echo::" in ran.stderr
    assert ET.parse(junit_file).getroot().get("failures") == "1"
    assert "You said: hello" in Page(page.read_text()).text
    assert len(bars(Page(page.read_text()))) == 2
    assert "You said: hello" in summary.read_text()


def test_an_unknown_format_names_those_there_are():
    with pytest.raises(UsageError) as error:
        reports.render("pdf", *every_state())
    assert "junit" in (error.value.hint or "")


def test_json_is_the_result_itself():
    result, plan = every_state()
    assert json.loads(reports.render("json", result, plan)) == result.to_json()


def test_json_drives_no_terminal_and_is_utf_8_whatever_it_holds():
    result, plan = run(task(output=NASTY))
    text = reports.render("json", result, plan)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert json.loads(text.encode())["results"][0]["output"] == NASTY


# JUnit.


def test_junit_says_of_each_task_how_it_ended():
    root = junit(*every_state())
    found = {
        c.get("name"): [e.tag for e in c if e.tag != "properties"] for c in root.iter("testcase")
    }
    by_state = {state: found[f"task {i}"] for i, state in enumerate(STATES)}
    assert by_state == {
        "done": ["system-out"],
        "failed": ["failure"],
        "indeterminate": ["error"],
        "skipped": ["skipped"],
        "cancelled": ["skipped"],
        "waiting": ["skipped"],
        "queued": ["skipped"],
        "running": ["skipped"],
    }


def test_junit_counts_what_it_lists():
    root = junit(*every_state())
    for element in (root, root.find("testsuite")):
        assert element is not None
        assert element.get("tests") == str(len(STATES))
        assert element.get("failures") == "1"
        assert element.get("errors") == "1"
        assert element.get("skipped") == "5"
        assert element.get("time") == "12.500"
    suite = root.find("testsuite")
    assert suite is not None
    assert datetime.fromisoformat(suite.get("timestamp") or "") == BEGAN


def test_junit_says_why_a_task_failed_and_what_to_do():
    failure = junit(*run(task(state="failed"))).find(".//failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("server", "it broke")
    assert failure.text == "it broke\nhint: try again"


def test_junit_says_what_a_task_took():
    case = junit(*run(task(attempts=3, output="42"))).find(".//testcase")
    assert case is not None
    assert (case.get("classname"), case.get("time")) == ("claude", "2.000")
    assert case.findtext("system-out") == "42"
    values = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert values["session"] == "r1.task-0"
    assert values["model"] == "a-model"
    assert values["tokens"] == "110"
    assert values["cost_usd"] == "0.250000"
    assert values["attempts"] == "3"


def test_junit_leaves_out_what_is_unknown():
    root = junit(*run(task(state="skipped"), id=None, started_at=None))
    names = {p.get("name") for p in root.iter("property")}
    assert not names & {"run", "cost_usd", "tokens", "session"}


def test_two_tasks_of_one_name_are_two_tests():
    same = [task(i, name=name) for i, name in enumerate(["a", "a", "a (2)", "a"])]
    names = [c.get("name") for c in junit(*run(*same)).iter("testcase")]
    assert len(set(names)) == 4
    assert names[:2] == ["a", "a (2)"]


@given(st.text(), st.text(min_size=1))
def test_junit_is_xml_whatever_is_said(said: str, name: str):
    failed = task(1, "failed", name=name, error=Failure(said or "x", said, said))
    root = junit(*run(task(name=name, output=said), failed, why=said, source=said))
    assert len(list(root.iter("testcase"))) == 2


def test_junit_keeps_an_answer_but_for_what_xml_cannot_say():
    said = junit(*run(task(output=NASTY))).findtext(".//system-out")
    assert said is not None
    assert "]]> </details></pre></svg>\n<script>alert(1)</script> <b onclick=x> &amp; red" in said
    assert said.endswith(" end")


# Markdown.


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_has_a_row_for_each_task():
    head, *found = rows(reports.render("markdown", *every_state()))
    assert head == ["Task", "Backend", "State", "Time", "Tokens", "Cost", "Session"]
    assert [row[0] for row in found] == [f"task {i}" for i in range(len(STATES))]
    assert found[0] == ["task 0", "claude", "✓ done", "2.0 s", "110", r"\$0.2500", "`r1.task-0`"]


def test_the_worker_of_each_task_is_named_if_the_run_had_any():
    ran, plan = run(task(0, node="w|1"), task(1, "queued"))
    head, *found = rows(reports.render("markdown", ran, plan))
    assert (head[-1], [row[-1] for row in found]) == ("Node", [r"w\|1", "–"])
    page = Page(reports.render("html", ran, plan)).text
    assert "Node" in page
    assert "w|1" in page
    assert "Node" not in Page(reports.render("html", *run(task()))).text
    named = [p.get("value") for p in junit(ran, plan).iter("property") if p.get("name") == "node"]
    assert named == ["w|1"]


@given(st.text(min_size=1))
def test_a_name_stays_in_its_cell(name: str):
    text = reports.render("markdown", *run(task(name=name, output="")))
    assert [len(row) for row in rows(text)] == [7, 7]


def test_nothing_in_a_cell_is_markup():
    assert markdown.escape_markdown("a|b\n*c* <img> `d` [e](f)\x1b[1m") == (
        r"a\|b \*c\* \<img\> \`d\` \[e\](f)"
    )


def test_tasks_that_failed_for_one_reason_share_it():
    same = [task(i, "failed") for i in range(30)]
    text = reports.render("markdown", *run(*same, task(30, "failed", error=None)))
    assert text.count("it broke") == 1
    assert "**task 9** and 20 more: failed (server): it broke" in text
    assert "Next: try again" in text
    assert "no reason was given" in text


@given(st.text(alphabet="`~a\n <>/details", max_size=60).map(str.strip).filter(bool))
def test_an_answer_stays_in_its_fence(answer: str):
    text = reports.render("markdown", *run(task(output=answer)))
    lines = text[text.index("<details>") :].splitlines()
    fence = lines[3].removesuffix("markdown")
    assert set(fence) == {"`"}
    inside = lines[4 : len(lines) - 1 - lines[::-1].index(fence)]
    assert all(not line.strip().startswith(fence) for line in inside)
    assert "\n".join(inside).split("\n") == answer.split("\n")
    assert lines[-1] == "</details>"


def test_a_structured_answer_is_shown_as_json():
    text = reports.render("markdown", *run(task(output="", structured={"a": [1]})))
    assert '```json\n{\n  "a": [\n    1\n  ]\n}\n```' in text


@given(
    st.lists(st.integers(0, 3_000), min_size=1, max_size=30),
    st.integers(16_000, 40_000),
    st.sampled_from(["x", "`", "é", "\U0001f600"]),
)
def test_a_report_takes_no_more_than_its_room(sizes: list[int], room: int, letter: str):
    result, _ = run(*(task(i, output=letter * n, name="<" * 300) for i, n in enumerate(sizes)))
    assert len(markdown.render(result, room).encode()) <= room


def test_a_report_without_enough_room_says_what_is_missing():
    result, _ = run(*(task(i, output=f"{i} " * 40_000) for i in range(5)), task(5, output="short"))
    text = markdown.render(result, 100_000)
    assert text.count("*Cut here: the first ") == 5
    assert "Full answer: `clinvk runs show r12ab34`" in text
    assert "\nshort\n" in text
    many, _ = run(*(task(i, output="x" * 5_000) for i in range(500)))
    assert "more answers are left out" in markdown.render(many, 100_000)
    assert "more tasks are not listed" in markdown.render(many, 20_000)


# HTML.


def test_a_page_needs_nothing_from_elsewhere():
    text = reports.render("html", *every_state())
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"script", "img", "link", "iframe", "object"}
    assert not re.search(r"@import|url\((?!#)|src=", text)
    assert all((a.get("href") or "#").startswith("#") for _, a in page.elements)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("room", [1_000_000, 0], ids=["rendered", "as written"])
def test_nothing_that_is_said_becomes_part_of_the_page(room: int, monkeypatch):
    monkeypatch.setattr("clinvk.reports.html.MAX_RENDERED_LENGTH", room)
    said = Failure("<kind>", NASTY, NASTY)
    result, plan = run(
        task(0, name=NASTY, output=NASTY, backend="<i>", model="<i>", session_id="<i>"),
        task(1, "failed", name='"><script>', error=said),
        why=NASTY,
        source="<i>",
    )
    page = html(result, plan)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "b", "i"}
    assert not any("onclick" in attributes for _, attributes in page.elements)
    assert "<script>alert(1)</script> <b onclick=x>" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page.text)


def test_an_answer_is_rendered():
    text = reports.render("html", *run(task(output="some *emphasis*")))
    assert "some <em>emphasis</em>" in text


@given(st.text(), st.text(min_size=1))
def test_a_page_is_sound_whatever_is_said(said: str, name: str):
    failed = task(1, "failed", name=name, error=Failure(said or "x", said, said))
    html(*run(task(0, name=name, output=said, backend=said), failed, why=said, source=said))


def test_a_page_links_each_answer_to_its_task():
    page = html(*every_state())
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert links == ["#task-1"]
    assert "task-1" in ids


def test_an_id_stands_for_one_thing():
    page = html(*every_state())
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("format_", FORMATS)
def test_a_run_of_which_nothing_began_has_a_report(format_: str):
    result, plan = run(*(task(i, "skipped") for i in range(3)))
    text = reports.render(format_, result, plan)
    assert "it broke" in text
    assert "<svg" not in text


# What it cost.


def test_a_cost_that_is_known_in_part_is_the_least_that_it_was():
    result, plan = run(task(0), task(1, cost=None))
    assert "at least $0.2500" in html(result, plan).text
    assert "1 of 2 tasks did not report it" in html(result, plan).text
    assert r"at least \$0.2500" in reports.render("markdown", result, plan)
    values = {p.get("name"): p.get("value") for p in junit(result, plan).iter("property")}
    assert values["cost_source"] == "partly reported"


def test_a_sum_of_nothing_and_an_unknown_cost_is_unknown():
    result, plan = run(task(0, cost=0.0), task(1, cost=None))
    assert "cost unknown: 1 of 2 tasks did not report it" in html(result, plan).text
    assert "cost unknown" in reports.render("markdown", result, plan)


def test_a_cost_that_is_unknown_is_not_called_nothing():
    result, plan = run(task(cost=None))
    for format_ in ("html", "markdown", "junit"):
        assert "$" not in reports.render(format_, result, plan)


# The picture.


def test_bars_lie_in_the_picture_in_the_order_in_which_they_began():
    result, plan = run(task(0, seconds=5), task(1, seconds=0.1), task(2, "failed", seconds=9))
    page = html(result, plan)
    found = bars(page)
    (picture,) = page.of_class("timeline")
    assert all(timeline.LABEL_WIDTH <= begin < end <= 100 for begin, end, _ in found)
    assert all(0 < y < float(picture["height"] or 0) for _, _, y in found)
    assert [b for b, _, _ in found] == sorted(b for b, _, _ in found)
    assert [y for _, _, y in found] == sorted({y for _, _, y in found})
    scale = found[2][1] - timeline.LABEL_WIDTH  # 11 seconds
    assert found[0][1] - found[0][0] == pytest.approx(scale * 5 / 11, abs=0.01)
    assert found[2][0] - timeline.LABEL_WIDTH == pytest.approx(scale * 2 / 11, abs=0.01)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e5), st.sampled_from(STATES)),
        min_size=1,
        max_size=40,
    )
)
def test_no_bar_leaves_the_picture(times: list[tuple[float, float, str]]):
    outcomes = [
        task(i, state, started_at=BEGAN + timedelta(seconds=begin), seconds=took)
        for i, (begin, took, state) in enumerate(times)
    ]
    found = bars(html(*run(*outcomes)))
    assert len(found) == len(times)
    assert all(0 <= begin < end <= 100 for begin, end, _ in found)


def test_a_long_pause_leaves_room_for_what_ran():
    later = BEGAN + timedelta(days=1)
    result, plan = run(task(0, seconds=10), task(1, seconds=10, started_at=later))
    first, second = bars(html(result, plan))
    assert first[1] - first[0] == pytest.approx(second[1] - second[0], abs=0.01)
    assert first[1] - first[0] > 20
    assert "nothing ran for 23h 59m" in html(result, plan).text


def test_many_tasks_share_rows_and_none_covers_another():
    result, plan = run(
        *(
            task(i, started_at=BEGAN + timedelta(seconds=i // 4 * 3), seconds=2 + i % 2 / 2)
            for i in range(400)
        )
    )
    by_row: dict[float, list[tuple[float, float]]] = {}
    for begin, end, y in bars(html(result, plan)):
        by_row.setdefault(y, []).append((begin, end))
    assert len(by_row) == 4
    for row in by_row.values():
        assert all(a[1] <= b[0] + 0.001 for a, b in pairwise(row))


def test_rows_are_told_apart_by_the_parts_of_names_that_differ():
    names = [f"review src/a_long_package/module_{i}.py" for i in (1, 2)]
    text = html(*run(*(task(i, name=name) for i, name in enumerate(names)))).text
    assert "✓ …1.py" in text
    assert "✓ …2.py" in text


def test_a_state_is_not_told_by_colour_alone():
    result, plan = every_state()
    page = html(result, plan)
    patterns = {(a.get("fill") or "") for a in page.of_class("state")}
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    assert {"url(#failed)", "url(#indeterminate)"} <= patterns
    assert {p.removeprefix("url(#").removesuffix(")") for p in patterns} <= ids


def test_the_picture_says_in_words_what_it_shows():
    page = html(*run(task(0, attempts=2)))
    (picture,) = page.of_class("timeline")
    ids = {a["id"] for _, a in page.elements if a.get("id")}
    assert set((picture["aria-labelledby"] or "").split()) <= ids
    assert "the last of 2 attempts\n110 tokens\n$0.2500" in page.text


def test_a_thousand_tasks_take_no_time():
    result, plan = run(*(task(i, output="Some *text*.\n\n```\ncode\n```\n") for i in range(1_000)))
    began = time.process_time()
    for format_ in FORMATS:
        reports.render(format_, result, plan)
    assert time.process_time() - began < 5


# GitHub.


def on_github(result: RunResult, **env: str) -> list[str]:
    stream = io.StringIO()
    reports.publish_to_github(result, env, stream)
    return stream.getvalue().splitlines()


def test_github_is_told_of_what_failed_and_warned_of_what_is_left():
    levels = [line.split(" ")[0] for line in on_github(every_state()[0])]
    assert sorted(levels) == ["::error", "::warning", "::warning", "::warning"]


def test_an_annotation_says_which_task_and_why():
    said = Failure("server", "100% broken:\nreally, \x1b[31myes", "try again")
    (line,) = on_github(run(task(0, "failed", name="a: b, c", error=said))[0])
    assert line == (
        "::error title=a%3A b%2C c%3A failed on claude::100%25 broken:%0Areally, yes%0Atry again"
    )


@given(st.text(), st.text(min_size=1))
def test_an_annotation_is_one_line_whatever_is_said(said: str, name: str):
    failed = task(0, "failed", name=name, error=Failure("server", said))
    stream = io.StringIO()
    reports.publish_to_github(run(failed)[0], {}, stream)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 2
    assert re.fullmatch(r"::error title=[^:,\r\n]*::[^\r\n]*", lines[0])


def test_what_github_would_not_show_is_counted_on_one_line():
    failed = [task(i, "failed") for i in range(14)]
    skipped = [task(i, "skipped") for i in range(14, 30)]
    lines = on_github(run(*failed, *skipped)[0])
    assert sum(line.startswith("::error") for line in lines) == 10
    assert sum(line.startswith("::warning") for line in lines) == 10
    assert [line for line in lines if line.startswith("::notice")] == [
        "::notice title=4 more tasks::not listed here: 4 failed; see them all: clinvk runs show r12ab34",
        "::notice title=6 more tasks::not listed here: 6 skipped; see them all: clinvk runs show r12ab34",
    ]


def test_the_summary_of_a_step_gets_the_report_behind_what_is_there(tmp_path: Path):
    path = tmp_path / "summary"
    path.write_text("# Before\n")
    result, plan = every_state()
    on_github(result, GITHUB_STEP_SUMMARY=str(path))
    assert path.read_text() == f"# Before\n\n{reports.render('markdown', result, plan)}\n"


def test_the_summary_is_never_larger_than_github_takes(tmp_path: Path):
    path = tmp_path / "summary"
    path.write_text("x" * 300_000)
    large = [task(i, output="y" * 50_000) for i in range(60)]
    on_github(run(*large)[0], GITHUB_STEP_SUMMARY=str(path))
    assert 900_000 < path.stat().st_size <= 1024 * 1024
    assert "*Cut here: the first " in path.read_text()


def test_a_full_summary_is_said_and_left_as_it_is(tmp_path: Path):
    path = tmp_path / "summary"
    path.write_text("x" * (1024 * 1024 - 100))
    with pytest.raises(UsageError, match="is full"):
        on_github(every_state()[0], GITHUB_STEP_SUMMARY=str(path))
    assert path.stat().st_size == 1024 * 1024 - 100


def test_a_summary_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot write the summary"):
        on_github(every_state()[0], GITHUB_STEP_SUMMARY=str(tmp_path))


def test_pages_and_markdown_say_the_same_of_a_run():
    result, plan = run(task(0), task(1, "failed"))
    for format_ in ("html", "markdown"):
        assert "2 tasks: 1 done, 1 failed" in reports.render(format_, result, plan)
