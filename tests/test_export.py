"""Conversations as markdown, JSON, HTML, and what templates make of them."""

import json
import re
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinvk.config.extras import install_hint
from clinvk.errors import ClinvkError, SessionError, UsageError
from clinvk.model.session import Message, Session
from clinvk.sessions import export
from clinvk.sessions.markdown import close_code_blocks

WHEN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
NASTY = '<script>alert("x")</script> <img src=x onerror=alert(1)> &amp; "quotes" \'single\''
CODE = "Look:\n\n```python\ndef f(x):\n    return x < 1\n```\n\nThat is all."


@pytest.fixture
def session() -> Session:
    return Session(
        id="demo",
        title="A demo",
        backend="claude",
        metadata={"ticket": 7},
        messages=[
            Message("system", "Be kind.", WHEN),
            Message("user", "Show me code", WHEN, {"user": "ada"}),
            Message("assistant", CODE, WHEN, {}, 1234),
        ],
    )


def rendered(
    session: Session, format_: str, home: Path = Path("/no/such"), **options: object
) -> str:
    return export.export_session(session, format_, export.read_options(**options), home)


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.found}


# Markdown.


def test_markdown_has_a_title_roles_and_what_was_said(session: Session):
    text = rendered(session, "markdown")
    assert text.startswith(
        "# A demo\n\n## System\n\nBe kind.\n\n## User\n\nShow me code\n\n## Assi"
    )
    assert CODE in text
    assert "2026" not in text
    assert "ticket" not in text


def test_markdown_says_more_where_it_is_asked_to(session: Session):
    options = {"include_metadata": True, "include_tokens": True, "include_timestamps": True}
    text = rendered(session, "markdown", **options)
    assert "- ticket: 7\n" in text
    assert "- Backend: claude\n" in text
    assert "## User · 2026-03-01 12:30:00 UTC · user: ada\n" in text
    assert "1,234 tokens" in text


@pytest.mark.parametrize("opened", ["```py\nx", "~~~\nx", "````\n```\nx", "x\n  ```\n"])
def test_code_that_was_not_closed_swallows_nothing_behind_it(opened: str):
    from markdown_it import MarkdownIt

    session = Session(id="s", messages=[Message("user", opened), Message("assistant", "hello")])
    tokens = MarkdownIt("commonmark").parse(rendered(session, "markdown"))
    assert [t.content for t in tokens if t.type == "inline"][-1] == "hello"


@pytest.mark.parametrize("text", [CODE, "plain", "```a`b\nx", "```\nx\n```", "~~~\n```\n~~~"])
def test_what_is_closed_stays_as_it_is(text: str):
    assert close_code_blocks(text) == text


# JSON.


def test_json_says_everything(session: Session):
    data = json.loads(rendered(session, "json"))
    assert (data["id"], data["title"], data["version"]) == ("demo", "A demo", 1)
    assert data["metadata"] == {"ticket": 7}
    assert data["messages"][2] == {
        "role": "assistant", "content": CODE, "timestamp": "2026-03-01T12:30:00.000Z",
        "tokens": 1234, "metadata": {},
    }  # fmt: skip


def test_json_leaves_out_what_is_not_wanted(session: Session):
    options = {"include_metadata": False, "include_tokens": False, "include_timestamps": False}
    data = json.loads(rendered(session, "json", **options))
    assert "metadata" not in data
    assert data["messages"][1] == {"role": "user", "content": "Show me code"}


def test_json_is_one_line_where_it_need_not_be_pretty(session: Session):
    assert rendered(session, "json", pretty_print=False).count("\n") == 1
    assert rendered(session, "json").count("\n") > 10


# HTML.


def test_a_page_has_roles_times_and_highlighted_code(session: Session):
    page = rendered(session, "html")
    tags = Tags(page)
    roles = [a["class"] for tag, a in tags.found if tag == "article"]
    assert roles == ["message system", "message user", "message assistant"]
    assert "2026-03-01 12:30:00 UTC" in page
    assert '<span class="k">def</span>' in page
    assert "<title>A demo</title>" in page
    assert page.endswith("</html>\n")


def test_a_page_needs_nothing_but_itself(session: Session):
    session.messages.append(Message("user", "![pixel](https://example.org/x.png)"))
    page = rendered(session, "html", include_metadata=True)
    tags = Tags(page)
    assert not tags.names & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not [a for _, a in tags.found if "src" in a or any(k.startswith("on") for k in a)]
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_a_page_follows_the_readers_system_unless_a_theme_is_chosen(session: Session):
    auto = rendered(session, "html")
    assert "prefers-color-scheme: dark" in auto
    assert 'data-theme="auto"' in auto
    dark = rendered(session, "html", theme="dark")
    assert "prefers-color-scheme" not in dark
    assert 'data-theme="dark"' in dark
    assert "<style>" not in rendered(session, "html", include_css=False)


def test_everything_in_a_page_is_escaped():
    session = Session(
        id="s",
        title=NASTY,
        metadata={NASTY: NASTY},
        messages=[
            Message("user", NASTY, metadata={NASTY: NASTY}),
            Message("assistant", f"```{NASTY}\n{NASTY}\n```\n\n```html\n{NASTY}\n```\n"),
            Message("user", "[x](javascript:alert(1)) [y](data:text/html,x) <javascript:alert(1)>"),
        ],
    )
    tags = Tags(rendered(session, "html", include_metadata=True))
    assert not tags.names & {"script", "img"}
    assert not [a["href"] for tag, a in tags.found if tag == "a"]


@settings(deadline=None)  # the first one imports what makes pages
@given(st.text(alphabet=st.sampled_from("<>&\"'`[]()!*_ \n\\/scriptonjavascript:=#~|-")))
def test_no_text_makes_a_page_run_anything(text: str):
    session = Session(id="s", title=text, messages=[Message("assistant", text)])
    tags = Tags(rendered(session, "html"))
    assert not tags.names & {"script", "img", "iframe"}
    assert not [a for _, a in tags.found if any(k.startswith("on") for k in a)]
    links = [a["href"] or "" for tag, a in tags.found if tag == "a"]
    assert not [href for href in links if re.match(r"\s*(javascript|data|vbscript):", href)]


def test_an_empty_session_has_a_page_too():
    assert "No messages yet." in rendered(Session(id="s"), "html")
    assert rendered(Session(id="s"), "markdown") == "# Session s\n"


# Templates.


def test_a_registered_template_is_a_format(session: Session, tmp_path: Path):
    export.register_template(
        tmp_path,
        "lines",
        "{{ title }}{% for m in messages %}\n{{ m.role }}: {{ m.content[:4] }}{% endfor %}",
    )
    assert export.formats(tmp_path) == ["markdown", "json", "html", "lines"]
    text = rendered(session, "lines", tmp_path)
    assert text == "A demo\nsystem: Be k\nuser: Show\nassistant: Look"


def test_a_template_of_a_page_escapes_and_one_of_text_does_not(tmp_path: Path):
    session = Session(id="s", title="<b>")
    export.register_template(tmp_path, "page", "<p>{{ title }}</p>")
    export.register_template(tmp_path, "text", "{{ title }}")
    assert rendered(session, "page", tmp_path) == "<p>&lt;b&gt;</p>"
    assert rendered(session, "text", tmp_path) == "<b>"
    export.register_template(tmp_path, "late", "{# a page #}<p>{{ title }}</p>")
    assert rendered(session, "late", tmp_path) == "<p>&lt;b&gt;</p>"
    export.register_template(tmp_path, "notes.md", "<details>{{ title }}</details>")
    assert rendered(session, "notes.md", tmp_path) == "<details><b></details>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ session.__init__.__globals__ }}",
        "{{ title.format.__globals__['x'] }}",
        "{% include '/etc/passwd' %}",
        "{% for x in range(10000000) %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_stays_in_its_sandbox(session: Session, tmp_path: Path, template: str):
    export.register_template(tmp_path, "bad", template)
    with pytest.raises(UsageError, match="export template bad"):
        rendered(session, "bad", tmp_path)


def test_a_template_that_is_none_is_not_kept(tmp_path: Path):
    with pytest.raises(UsageError, match="line 2"):
        export.register_template(tmp_path, "bad", "x\n{% for %}")
    with pytest.raises(UsageError, match="built in"):
        export.register_template(tmp_path, "html", "x")
    with pytest.raises(SessionError):
        export.register_template(tmp_path, "../x", "x")
    assert export.formats(tmp_path) == ["markdown", "json", "html"]


# What is wrong.


def test_an_unknown_format_or_option_is_refused_with_the_known_ones(session: Session):
    with pytest.raises(UsageError) as raised:
        rendered(session, "pdf")
    assert "markdown, json, html" in (raised.value.hint or "")
    with pytest.raises(UsageError, match="did you mean 'include_metadata'"):
        export.read_options(include_metdata=True)
    with pytest.raises(UsageError, match="theme: 'pink'"):
        export.read_options(theme="pink")


def test_only_templates_need_another_package(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    export.register_template(tmp_path, "lines", "{{ title }}")
    for name in [name for name in sys.modules if name.split(".")[0] in ("jinja2", "markupsafe")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ClinvkError, match="jinja2") as raised:
        rendered(session, "lines", tmp_path)
    assert raised.value.hint == install_hint("export")
    assert all(rendered(session, name) for name in export.BUILT_IN)


def test_tasks_have_boxes_and_every_time_is_written_alike(session: Session):
    session.messages.append(Message("assistant", "- [ ] open\n- [x] done\n- [y] none", WHEN))
    page = rendered(session, "html", include_metadata=True)
    assert '<li class="task">☐ open</li>\n<li class="task">☑ done</li>\n<li>[y] none</li>' in page
    assert not re.search(r"\d\dT\d\d:", page)
