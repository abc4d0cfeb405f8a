"""Sessions that codex has archived or compressed are imported, too."""

import shutil
from pathlib import Path

import pytest
import zstandard

from tests.conftest import PROJECT, CommandLine, Home

RECORDED = PROJECT / "tests" / "recordings" / "native" / "codex" / ".codex"


@pytest.fixture
def codex(home: Home) -> Path:
    path = Path(home.env["HOME"]) / ".codex"
    shutil.copytree(RECORDED, path)
    (file,) = path.glob("sessions/*/*/*/*.jsonl")
    shutil.copy(file, str(file).removesuffix(".jsonl")[:-12] + "0123456789ab.jsonl")
    return path


def compress(file: Path, *, frames: int = 1) -> None:
    data = file.read_bytes()
    size = len(data) // frames + 1
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    file.with_name(f"{file.name}.zst").write_bytes(
        b"".join(zstandard.ZstdCompressor().compress(piece) for piece in pieces)
    )
    file.unlink()


def test_compressed_and_archived_sessions_are_the_same_as_others(clinvk: CommandLine, codex: Path):
    plain = clinvk.json("sessions", "import", "-b", "codex", "--dry-run", "--json")
    first, second = sorted(codex.glob("sessions/*/*/*/*.jsonl"))
    compress(first, frames=3)
    (codex / "archived_sessions").mkdir()
    second = second.rename(codex / "archived_sessions" / second.name)
    compress(second)
    found = clinvk.json("sessions", "import", "-b", "codex", "--yes", "--json")
    assert found["problems"] == plain["problems"]

    def about(data: dict[str, object]) -> dict[str, dict[str, object]]:
        keys = ("title", "prompt", "counts", "cwd", "usage")
        return {s["id"]: {k: s.get(k) for k in keys} for s in data["sessions"]}  # type: ignore[attr-defined, index]

    assert about(found) == about(plain)
    statuses = [s["status"] for s in clinvk.json("sessions", "list", "--json", "--all")["sessions"]]
    assert statuses.count("archived") == 1


def test_compressed_sessions_that_cannot_be_read_are_counted(
    clinvk: CommandLine, codex: Path, tmp_path: Path
):
    for file in list(codex.glob("sessions/*/*/*/*.jsonl")):
        compress(file)
    count = len(list(codex.glob("sessions/*/*/*/*.zst")))
    (tmp_path / "zstandard.py").write_text("raise ModuleNotFoundError(name='zstandard')")
    env = {"PYTHONPATH": f"{tmp_path}:{PROJECT}"}
    run = clinvk("sessions", "import", "-b", "codex", "--yes", env=env)
    assert f"{count} compressed session(s) were skipped; install it with:" in run.stderr
    assert "nothing to import" in run.stderr


def test_a_damaged_archive_stops_no_other(clinvk: CommandLine, codex: Path):
    file = min(codex.glob("sessions/*/*/*/*.jsonl"))
    file.with_name(f"{file.name}.zst").write_bytes(b"no archive")
    file.unlink()
    run = clinvk.json("sessions", "import", "-b", "codex", "--yes", "--json")
    assert "damaged: not valid Zstandard data" in run["problems"][0]
    assert run["sessions"]
