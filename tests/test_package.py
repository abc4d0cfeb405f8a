"""What is shipped: built here, looked into, and run."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from clinvk.config import keys, loading, schema
from tests.conftest import PROJECT, Home

MANIFESTS = ["claude", "codex", "echo", "gemini"]
SHIPPED = ["clinvk", "backends", "tests", "docs", "bench", "pyproject.toml", "README.md", "LICENSE",
           "Makefile", "config.example.yaml", "CHANGELOG.md"]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of a copy of this project."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    ignore = shutil.ignore_patterns("__pycache__", "recordings", "node_modules", ".*")
    for name in SHIPPED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, copy / name)
    code = (
        "import sys, hatchling.build as b; b.build_wheel(sys.argv[1]); b.build_sdist(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=copy, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_the_wheel_has_the_manifests_and_the_mark_of_types(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"clinvk/backends/{name}.yaml" for name in MANIFESTS} <= names
    assert {"clinvk/py.typed", "clinvk/backend/prepared.json"} <= names
    assert [n for n in names if n.endswith(".data/data/share/man/man1/clinvk.1")]
    assert not [n for n in names if not n.startswith(("clinvk/", "clinvk-"))]
    assert not [n for n in names if n.startswith("clinvk/backends/") and not n.endswith(".yaml")]


def test_the_wheel_has_every_module(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {str(p.relative_to(PROJECT)) for p in (PROJECT / "clinvk").rglob("*.py")}
    assert ours <= names


def test_the_sdist_has_what_building_and_testing_need(built: Path):
    (found,) = built.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {f"backends/{name}.yaml" for name in MANIFESTS} <= names
    assert {"clinvk/py.typed", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert "tests/conftest.py" in names


def run(home: Home, path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """clinvk from that place, and from nowhere else."""
    env = {**home.env, "PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, "-m", "clinvk", *args], env=env, cwd=home.work, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)  # fmt: skip


def test_the_unpacked_wheel_runs(wheel: Path, home: Home, tmp_path: Path):
    place = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(place)
    done = run(home, place, "backends", "show", "claude")
    assert done.returncode == 0, done.stderr
    assert str(place) in done.stdout
    done = run(home, place, "-b", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "(echo, no model) Turn 1. You said: hello\n"), done


def test_the_version_is_said_once(wheel: Path):
    import clinvk

    assert wheel.name.startswith(f"clinvk-{clinvk.__version__}-py3-none-any")


def test_no_python_file_lies_among_the_manifests():
    assert [p.name for p in (PROJECT / "backends").iterdir() if p.suffix != ".yaml"] == []


# What is said about it


def uncommented(text: str) -> str:
    """The example with the keys that it shows as comments."""
    return re.sub(r"(?m)^(\s*)# ?(\s*[\w-]+:(\s|$).*)$", r"\1\2", text)


@pytest.fixture
def example() -> str:
    return (PROJECT / "config.example.yaml").read_text()


def test_the_example_configuration_is_right_as_it_stands(example: str):
    loading.parse_config(example, Path("config.example.yaml"))


def test_the_example_configuration_names_every_key(example: str):
    defaults = schema.Config(backends={"claude": schema.BackendConfig()})
    words = set(re.findall(r"([a-z_]+):", example))
    for key, _ in keys.flatten(defaults):
        assert key.rsplit(".", 1)[-1] in words, f"{key} is not in config.example.yaml"


def test_the_example_configuration_shows_defaults(example: str):
    """Whoever copies it as it is changes nothing."""
    found = loading.parse_config(example, Path("config.example.yaml"))
    plain = schema.Config()
    for name in ("unified_flags", "session", "output", "parallel"):
        assert getattr(found, name) == getattr(plain, name)


def test_the_commands_of_the_readme_are_in_the_makefile():
    makefile = (PROJECT / "Makefile").read_text()
    wanted = set(re.findall(r"\bmake ([a-z]+)\b", (PROJECT / "README.md").read_text()))
    for name in wanted:
        assert re.search(rf"(?m)^{name}:", makefile), f"make {name}"


def test_the_project_says_nothing_of_the_folder_it_is_in():
    texts = [p for f in ("clinvk", "backends", "docs", "tests") for p in (PROJECT / f).rglob("*.*")]
    for path in [*texts, *PROJECT.glob("*.*")]:
        if path.suffix in (".py", ".yaml", ".md", ".sh", ".toml"):
            assert f"{PROJECT}/" not in path.read_text(), path


def test_every_yaml_file_is_yaml():
    for path in [*(PROJECT / "backends").glob("*.yaml"), *PROJECT.glob("*.yaml")]:
        assert yaml.safe_load(path.read_text()) is not None
