"""A module imports only from the layers below its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clinvk"

LAYERS = [
    {
        "errors",
        "clean",
        "limits",
        "usage",
        "expression",
        "redact",
        "machine",
        "shape",
        "yamls",
        "places",
        "durations",
        "placeholders",
        "permissions",
        "pipes",
        "readfile",
        "values",
        "capacity",
        "survivors",
    },
    {"blocking", "extras", "config", "messages", "session", "jsons", "patterns", "turn_note"},
    {"page", "plan", "outcome", "mishaps"},
    {"halting", "pacing", "hiding", "linking", "spending", "taskkeys"},
    {"availability", "taskformats", "tasktexts", "folding"},
    {"analysis", "autosave", "context", "conversation", "sharing", "natives", "manifest"},
    {"command", "store", "catalog", "reader", "taskfile"},
    {"process", "scratch", "forget", "chooser", "finder", "templates", "export", "settings"},
    {"comparison", "columns", "differences"},
    {"comparison_page"},
    {"family", "eventlog", "outputs", "reports", "runs", "logins", "checkpoints"},
    {"journal"},
    {"recovery"},
    {"waiting", "recorder"},
    {"adopt", "running"},
    {"dispatcher"},
    {"preflight"},
    {"taskrequest"},
    {"scheduler", "choosing"},
    {"planrun"},
    {"api", "fanout"},
    {"workflow"},
    {"manager"},
    {"cmd"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# On their own: a program that is started, and the public names.
ALONE = {"echo", "__init__"}

# What a module below may know of one above, with the reason.
UPWARD = {
    ("process", "family"): "two halves: the costly one is imported when something has to be ended",
    ("survivors", "family"): "the same: where there is no /proc",
    ("running", "dispatcher"): "for its types alone",
    ("session", "manager"): "a published name, loaded when somebody asks for it",
}

# Modules of `cmd` that the others share; what is one command's own is nobody else's.
SHARED = {
    "lazy",
    "show",
    "options",
    "drive",
    "main",
    "picker",
    "viewers",
    "out",
    "failing",
    "storage",
    "sessions_common",
    "interrupts",
    "ages",
    "runs_common",
    "plan_options",
    "many",
    "summary",
    "watching",
    "comparing",
    "board",
    "canvas",
    "rows",
}
BETWEEN_COMMANDS = {
    ("resume", "run"): "resuming is asking, once the session is known",
    ("run", "sessions"): "a slip may be meant for one of its commands",
    ("sessions_make", "templates"): "a session may be made from one",
    ("doctor", "backends"): "both tell what a backend can do",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a module imports, anywhere in it, by their dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            found = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in found:
            parts = name.split(".")
            if parts[0] == "clinvk" and exists(parts):
                yield name


def exists(parts: list[str]) -> bool:
    path = PACKAGE.parent.joinpath(*parts)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def layer_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_module_has_a_layer():
    found = {layer_of(name_of(path)) for path in modules()}
    assert found - ALONE <= set(RANK), "say in LAYERS what it may know"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_from_below(path: Path):
    mine = layer_of(name_of(path))
    if mine == "__init__":
        return  # the public names are loaded when somebody asks for them
    for name in imports(path):
        other = layer_of(name)
        if other in (mine, "__init__") or (mine, other) in UPWARD:
            continue
        assert mine != "echo", "the backend without a model is a program of its own"
        assert RANK[other] < RANK[mine], f"{name_of(path)} imports {name}, which is above it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cmd").glob("*.py")), ids=lambda p: p.stem)
def test_a_command_does_not_know_the_others(path: Path):
    for name in imports(path):
        parts = name.split(".")
        if parts[:2] != ["clinvk", "cmd"] or len(parts) < 3 or parts[2] in SHARED:
            continue
        assert (path.stem, parts[2]) in BETWEEN_COMMANDS, f"{path.stem} imports {name}"


def test_every_exception_is_still_needed():
    between = {
        (path.stem, name.split(".")[2])
        for path in (PACKAGE / "cmd").glob("*.py")
        for name in imports(path)
        if name.startswith("clinvk.cmd.") and len(name.split(".")) > 2
    }
    assert set(BETWEEN_COMMANDS) <= between
    upward = {
        (layer_of(name_of(path)), layer_of(name)) for path in modules() for name in imports(path)
    }
    assert set(UPWARD) <= upward


def test_backends_are_started_through_anyio():
    """A choice of the project that is not open: `anyio.open_process` starts every backend, and
    nothing of ours calls `Popen` for that."""
    text = (PACKAGE / "process.py").read_text()
    assert "anyio.open_process(" in text, "backends are started with anyio.open_process: keep it"
    assert "Popen(" not in text, "backends are started with anyio.open_process, not with Popen"
