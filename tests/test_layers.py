"""Backends are started through anyio: a choice of the project that is not open."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "clinvk"


def test_backends_are_started_through_anyio():
    text = (PACKAGE / "process" / "child.py").read_text()
    assert "anyio.open_process(" in text, "backends are started with anyio.open_process: keep it"
    assert "Popen(" not in text, "backends are started with anyio.open_process, not with Popen"
