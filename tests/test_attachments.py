"""What a run stores of images and of long outputs of tools."""

import base64
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinvk.runs.attachments import MAX_OUTPUT_LENGTH, shorten_output
from tests.conftest import END, READ, START, CommandLine, Home

BYTES = os.urandom(60_000)
DATA = base64.b64encode(BYTES).decode()
NOTE = "[image/png: 60,000 bytes, not stored]"


@pytest.mark.parametrize(
    ("output", "stored"),
    [
        # claude, MCP, OpenAI, Gemini, and texts
        ([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}],
         [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": NOTE}}]),
        ({"content": [{"type": "image", "data": DATA, "mimeType": "image/png"}, {"type": "text", "text": "a"}]},
         {"content": [{"type": "image", "data": NOTE, "mimeType": "image/png"}, {"type": "text", "text": "a"}]}),
        ({"resource": {"blob": DATA, "mimeType": "application/pdf"}},
         {"resource": {"blob": "[application/pdf: 60,000 bytes, not stored]", "mimeType": "application/pdf"}}),
        ({"image_url": {"url": f"data:image/png;base64,{DATA}"}}, {"image_url": {"url": NOTE}}),
        ({"inlineData": {"mimeType": "image/png", "data": DATA}}, {"inlineData": {"mimeType": "image/png", "data": NOTE}}),
        (f"see data:image/png;charset=utf-8;base64,{DATA} there", f"see {NOTE} there"),
        (json.dumps({"x": DATA}), '{"x": "[base64: 60,000 bytes, not stored]"}'),
        # a newline after each 76 characters
        ({"type": "image", "data": base64.encodebytes(BYTES).decode()}, {"type": "image", "data": "[image: 60,000 bytes, not stored]"}),
        ({"type": "image", "media_type": "image/png", "data": "A" * 80_000},
         {"type": "image", "media_type": "image/png", "data": NOTE}),
        # no attachments
        ({"type": "image", "data": "short"}, {"type": "image", "data": "short"}),
        ({"data": "words " * 400, "type": "text"}, {"data": "words " * 400, "type": "text"}),
        ("x" * 20_000, "x" * 20_000),
        (None, None), (17, 17), ([], []),
    ],
)  # fmt: skip
def test_an_attachment_is_a_note_with_its_type_and_size(output: object, stored: object):
    found, cut = shorten_output(output)
    assert cut == 0
    assert found == stored


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab \n", max_size=40), max_size=4))
def test_no_more_than_the_limit_is_stored(short: list[str]):
    texts = [text * 9000 for text in short]
    stored, cut = shorten_output(texts)
    assert sum(map(len, texts)) - cut == min(sum(map(len, texts)), MAX_OUTPUT_LENGTH)
    assert all(b.startswith(a[:100]) for a, b in zip(texts[:1], stored[:1], strict=True))
    assert sum(map(len, stored)) < MAX_OUTPUT_LENGTH + 200


def test_screenshots_do_not_fill_the_folder_of_a_run(clinvk: CommandLine, home: Home):
    big = home.work / "big"
    image = [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": DATA * 60},
        }
    ]
    lines = [
        {"type": "tool", "id": "t", "name": "shot"},
        {"type": "result", "id": "t", "output": image},
        {"type": "result", "id": "u", "output": "line of a log\n" * 50_000},
        {"type": "result", "id": "v", "output": "line of a log\n" * 50_000},
    ]
    big.write_text("".join(json.dumps(line) + "\n" for line in lines))
    home.backend("fake", READ + START + f"cat {big}\n" + END)
    path = home.path / "backends" / "fake.yaml"
    path.write_text(
        path.read_text().replace(
            "events:\n",
            "events:\n- {when: type == 'result', emit: tool_result, set: {id: id, output: output}}\n",
        )
    )
    (home.work / "tasks.json").write_text(json.dumps([{"prompt": "a"}]))
    done = clinvk("parallel", "tasks.json", "-b", "fake")
    assert done.returncode == 0, done.stderr
    (log,) = (home.path / "runs").rglob("tasks/*.jsonl")
    logged = [f for f in (home.path / "runs").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in logged) < 3 * MAX_OUTPUT_LENGTH
    events = [json.loads(line) for line in log.read_text().splitlines()]
    texts = json.dumps(events)
    assert "[image/png: " in texts
    assert texts.count("more characters were not stored") == 2
    assert [e["message"] for e in events if e.get("type") == "notice"] == [
        "of a tool's input or output, 262,144 characters are stored at most"
    ]
