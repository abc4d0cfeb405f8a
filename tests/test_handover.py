"""A conversation that several backends took part in: what they are told, and how it is shown."""

from pathlib import Path

import pytest

from clinvk.model.session import Message
from tests.conftest import END, START, CommandLine, Home

KEEPS_PROMPT = 'cat >"$0.prompt"\n'  # beside the program


@pytest.fixture
def prompts(home: Home) -> Path:
    """The folder where claude, codex and gemini, made up, write what they are asked."""
    for name in ("claude", "codex", "gemini"):
        program = home.backend(name, KEEPS_PROMPT + START.replace("native", name) + END)
    return program.parent


def test_each_answer_names_the_backend_that_gave_it(clinvk: CommandLine, home: Home, prompts: Path):
    clinvk("-b", "claude", "--session", "talk", "one")
    for n, backend in enumerate(("codex", "gemini", "claude"), 2):
        assert clinvk("--session", "talk", "--to", backend, str(n)).returncode == 0

    shown = clinvk("sessions", "show", "talk").stdout
    heads = [line.split(" · ")[0].strip("─ ") for line in shown.splitlines() if line[:1] == "─"]
    answers = [f"Assistant ({name})" for name in ("claude", "codex", "gemini", "claude")]
    assert heads == [who for answer in answers for who in ("User", answer)]
    markdown = clinvk("sessions", "export", "talk").stdout
    assert [line[3:] for line in markdown.splitlines() if line[:3] == "## "] == heads
    page = clinvk("sessions", "export", "talk", "--format", "html").stdout
    assert [part.split(" <")[0] for part in page.split("<h2>")[1:]] == heads

    third = (prompts / "gemini.prompt").read_text()
    assert third.index("Assistant (claude)") < third.index("Assistant (codex)")
    assert "Assistant (gemini)" not in third


@pytest.mark.parametrize("recorded", [{}, {"backend": 7}, {"backend": "a\n## User"}])
def test_an_answer_without_a_usable_backend_is_the_assistants(recorded: dict[str, object]):
    assert Message("assistant", "hello", metadata=recorded).speaker == "Assistant"
    assert Message("user", "hello", metadata={"backend": "codex"}).speaker == "User"
