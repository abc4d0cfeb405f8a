"""No page that clinvk writes runs or loads anything, in a real browser, whatever a model says."""

import json
import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import pytest

from clinvk import reports
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.plan import Plan, Task
from clinvk.model.result import Failure
from clinvk.model.session import Message, Session
from clinvk.reports import comparison_page
from clinvk.sessions import export
from tests.browsers import dom, need_chromium, served

pytestmark = pytest.mark.once

WHEN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RUN = "document.title='RAN';new Image().src='/leak/NUMBER'"
PAYLOADS = [
    "<script>RUN</script>",
    "<ScRiPt >RUN</sCrIpT>",
    "<script src=/leak/NUMBER></script>",
    '"><script>RUN</script>',
    "'><script>RUN</script>",
    "</title><script>RUN</script>",
    "</style><script>RUN</script>",
    "</pre></code></details></section><script>RUN</script>",
    "--><script>RUN</script><!--",
    "]]><script>RUN</script>",
    '<img src=x onerror="RUN">',
    "<img src=/leak/NUMBER>",
    '<img src="x" srcset="/leak/NUMBER 2x">',
    '<svg onload="RUN"></svg>',
    "<svg><script>RUN</script></svg>",
    '<svg><animate onbegin="RUN" attributeName=x dur=1s></svg>',
    '<math><mtext><table><mglyph><style><img src=x onerror="RUN">',
    '<body onload="RUN">',
    '<iframe src="javascript:RUN"></iframe>',
    "<iframe src=/leak/NUMBER></iframe>",
    '<iframe srcdoc="<script>RUN</script>"></iframe>',
    "<object data=/leak/NUMBER></object>",
    "<embed src=/leak/NUMBER>",
    "<link rel=stylesheet href=/leak/NUMBER>",
    "<style>@import '/leak/NUMBER';</style>",
    "<p style=\"background:url('/leak/NUMBER')\">x</p>",
    '<meta http-equiv=refresh content="0;url=/leak/NUMBER">',
    "<base href=/leak/>",
    '<input autofocus onfocus="RUN">',
    '<details open ontoggle="RUN">',
    '<video><source onerror="RUN"></video>',
    '" onmouseover="RUN" x="',
    "[click](javascript:RUN) [click](<javascript:RUN>) <javascript:RUN> [x](\x01javascript:RUN)",
    "[click](data:text/html,<script>RUN</script>) [c][1]\n\n[1]: vbscript:RUN",
    "![x](/leak/NUMBER) ![x](http://127.0.0.1:1/leak/NUMBER 'x\" onerror=\"RUN')",
    '```"><script>RUN</script>\n</code></pre><script>RUN</script>\n```\n\n~~~html onload=RUN\nx\n~~~',
    '| a |\n|---|\n| <img src=x onerror="RUN"> |\n\n<!-- --!><script>RUN</script>',
    "+ADw-script+AD4-RUN+ADw-/script+AD4- \ufeff\x00<script\x00>RUN</script>",
]  # fmt: skip
# Everything that a person may touch is touched; links to elsewhere lead there by right.
TOUCH = """<pre id=found></pre><script>
addEventListener('load', () => setTimeout(() => {
  const frames = [...document.querySelectorAll('iframe')];
  for (const frame of frames)
    for (const e of frame.contentDocument.querySelectorAll('*')) {
      for (const kind of ['mouseover', 'focus', 'toggle']) e.dispatchEvent(new Event(kind));
      if (!/^https?:/.test(e.href || e.closest('a')?.href || '')) e.dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}));
    }
  setTimeout(() => {
    found.textContent = JSON.stringify(frames.map(f => [f.name, f.contentDocument.title]));
  }, 500);
}, 500));
</script>"""


def attacks() -> list[str]:
    return [p.replace("RUN", RUN).replace("NUMBER", str(i)) for i, p in enumerate(PAYLOADS)]


def conversation(texts: list[str]) -> str:
    everything = " ".join(texts)
    session = Session(
        id="s", title=everything, backend="claude", model=everything, cwd=everything, tags=texts,
        metadata={text: text for text in texts},
        messages=[Message("user" if i % 2 else "assistant", text, WHEN, {text: text})
                  for i, text in enumerate(texts)],
    )  # fmt: skip
    options = export.read_options(include_metadata=True, include_tokens=True)
    return export.export_session(session, "html", options, Path("/no/such"))


def a_run(texts: list[str]) -> tuple[RunResult, Plan]:
    outcomes = tuple(
        Outcome(
            index=i, name=text, state="failed" if i % 3 == 0 else "done", backend=text, model=text,
            output=text, error=Failure("server", text, text) if i % 3 == 0 else None, seconds=1.0,
            started_at=WHEN, session_id=text, attempts=1,
        )
        for i, text in enumerate(texts)
    )  # fmt: skip
    result = RunResult(id="r1", kind="parallel", state="failed", results=outcomes, seconds=2.0,
                       started_at=WHEN, source=texts[0], why=texts[0])  # fmt: skip
    return result, Plan(kind="parallel", tasks=tuple(Task(name=t, prompt=t) for t in texts))


def test_no_page_runs_or_loads_anything_with_its_policy_and_without(tmp_path: Path):
    need_chromium()
    texts = attacks()
    result, plan = a_run(texts)
    pages = {
        "session": conversation(texts),
        "report": reports.render("html", result, plan),
        "comparison": comparison_page.render(" ".join(texts), result),
    }
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    for name, page in list(pages.items()):
        assert len(policy.findall(page)) == 1, name
        pages[f"{name} without a policy"] = policy.sub("", page)
    # Shows that what runs would be seen.
    pages["control"] = f"<title>x</title>{texts[0]}"
    titles = {
        name: re.findall(r"(?s)<title>(.*?)</title>", page)[0] for name, page in pages.items()
    }
    paths = {f"/page/{i}": page for i, page in enumerate(pages.values())}
    frames = "".join(f'<iframe name="{escape(name)}" src="/page/{i}"></iframe>'
                     for i, name in enumerate(pages))  # fmt: skip
    with served({"/": f"<title>all</title>{frames}{TOUCH}", **paths}) as (address, asked):
        seen = dom(address + "/", tmp_path / "profile")
    found = json.loads(re.findall(r'<pre id="found">(.*?)</pre>', seen)[0].replace("&amp;", "&"))
    ran = [name for name, title in found if title == "RAN"]
    assert ran == ["control"]
    assert len(found) == len(titles) == 7
    assert {p for p in asked if p not in paths} - {"/", "/favicon.ico"} == {"/leak/0"}
