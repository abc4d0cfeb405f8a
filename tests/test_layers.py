"""Who may import whom: packages in layers, no cycles, and a reason for each late import."""

import ast
import graphlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once

PACKAGE = Path(__file__).parent.parent / "clinvk"

# A package imports only from those in lines above its own; those in one line do not know each other.
LAYERS = [
    ["text"],
    ["errors"],
    ["process", "model"],
    ["disk"],
    ["config"],
    ["html", "sessions.native", "checks"],
    ["backend", "store", "runs"],
    ["plans", "sessions", "worktrees"],
    ["knowledge"],
    ["dispatch", "reports"],
    ["engine"],
    ["cluster"],
    ["api", "terminal"],
    ["repl"],
    ["cmd"],
    ["__main__"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

# At the top of clinvk/, beside the packages: the public names, the entry point, and the backend
# without a model, which is a program of its own.
TOP = {"__init__", "__main__", "errors", "echo", "session", "testing"}
PUBLIC = {
    "clinvk",
    "clinvk.session",
    "clinvk.testing",
}  # they import from anywhere, and nothing inside imports them
ALONE = "clinvk.echo"
MOST = 15  # modules in a package, `__init__` aside

# Modules of `cmd` that belong to one command. What the others share is in packages of its own.
SHARED = {"app", "main", "drive", "interactive", "options", "usage", "views"}
BETWEEN_COMMANDS: dict[tuple[str, str], str] = {
    ("resume", "ask"): "resuming sends a prompt, once the session is known",
    ("ask_flags", "ask"): "typer reads the flags of one, which also works without typer",
    ("ask", "sessions"): "a typo may be one of its commands, and a template starts a session",
}


class Import(NamedTuple):
    module: str  # that imports
    line: int
    other: str  # that is imported


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> list[Import]:
    """Every import of ours, wherever it stands: in functions and under TYPE_CHECKING too."""
    return [
        Import(name, node.lineno, other)
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        for other in imported(name, node)
    ]


def imported(name: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules())
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{name}:{node.lineno}: relative import"
        for alias in node.names if (node.module or "").split(".")[0] == "clinvk" else ():
            full = f"{node.module}.{alias.name}"
            yield full if full in modules() else str(node.module)


def package_of(module: str) -> str:
    parts = module.split(".")[1:]
    return "sessions.native" if parts[:2] == ["sessions", "native"] else ".".join(parts[:1])


def where(found: Import) -> str:
    return f"{found.module}, line {found.line}, imports {found.other}"


def test_every_package_has_a_layer():
    packages = {package_of(name) for name in modules()} - {"", "echo", "session", "testing"}
    assert packages == set(RANK)


def test_only_public_modules_are_at_the_top():
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP


def test_a_package_imports_only_from_lower_layers():
    for found in imports():
        mine, other = package_of(found.module), package_of(found.other)
        if found.module in PUBLIC or mine == other or found.other == "clinvk":
            continue
        assert found.module != ALONE, f"{where(found)}: it is a program of its own"
        assert found.other not in PUBLIC, where(found)
        assert RANK[other] < RANK[mine], f"{where(found)}, which is not in a lower layer"


def test_no_modules_import_each_other():
    graph: dict[str, set[str]] = defaultdict(set)
    for found in imports():
        if found.module not in PUBLIC and found.other not in {*PUBLIC, found.module}:
            graph[found.module].add(found.other)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(reversed(error.args[1]))}")


def test_no_package_is_too_large_to_survey():
    sizes = Counter(
        name.rpartition(".")[0] for name, path in modules().items() if path.stem != "__init__"
    )
    large = {name: size for name, size in sizes.items() if size > MOST}
    assert large == {}


def test_no_module_hides_a_public_function():
    """Importing `clinvk.run` as a module would replace the function of that name."""
    import clinvk

    below = {name.split(".")[1] for name in modules() if name != "clinvk"}
    assert below & set(clinvk.__all__) == set()


def test_a_command_does_not_know_the_others():
    between = set()
    for found in imports():
        mine, other = found.module.split("."), found.other.split(".")
        if mine[1:2] != ["cmd"] or other[1:2] != ["cmd"] or len(mine) < 3 or len(other) < 3:
            continue
        if mine[2] == other[2] or other[2] in SHARED:
            continue
        if mine[2] in SHARED:
            assert found.module == "clinvk.cmd.main", where(found)
            continue
        between.add((mine[2], other[2]))
        assert (mine[2], other[2]) in BETWEEN_COMMANDS, where(found)
    assert between == set(BETWEEN_COMMANDS), "an exception that is not needed any more"


def late_imports() -> Iterator[tuple[Path, int, str]]:
    """The first line of each block of imports inside a function, with the line above it."""
    for path in modules().values():
        lines = path.read_text().splitlines()
        numbers = {
            inner.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for inner in ast.walk(node)
            if isinstance(inner, (ast.Import, ast.ImportFrom))
        }
        for number in sorted(numbers - {n + 1 for n in numbers}):
            yield path, number, "\n".join(lines[number - 2 : number])


def test_an_import_inside_a_function_says_why():
    silent = [
        f"{path.relative_to(PACKAGE.parent)}:{number}"
        for path, number, text in late_imports()
        if not re.search(r"# (?!noqa|type:|fmt:)\w", text)
    ]
    assert silent == []


def test_backends_are_started_through_anyio():
    """A choice of the project that is not open: `anyio.open_process` starts every backend, and
    nothing of ours calls `Popen` for that."""
    text = (PACKAGE / "process" / "child.py").read_text()
    assert "anyio.open_process(" in text, "backends are started with anyio.open_process: keep it"
    assert "Popen(" not in text, "backends are started with anyio.open_process, not with Popen"
