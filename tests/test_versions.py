"""What a manifest says of the versions of its CLI, and what that changes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clinvk.backend.reading.parse import parse_manifest
from clinvk.backend.reading.variants import for_version
from clinvk.backend.versions.number import find_version, is_older, parse_version
from clinvk.errors import ConfigError
from tests.conftest import CommandLine, Home

OLD, NEW = "2.1.197", "2.1.329"

KEYS: dict[str, Any] = {
    "output": "text",
    "ephemeral": {},
    "versions": {"oldest": "2.0", "newest": NEW},
    "argv": {"run": ["go", "$options"], "resume": ["on", "$native_id", "$options"]},
    "options": {
        "system_prompt": ["--system", "$file", "--snapshot", "off"],
        "approval": {"auto": ["--mode", "auto"], "always": ["--mode", "manual"]},
        "effort": ["--effort", "$value"],
    },
    "by_version": [
        {
            "below": "2.1.250",
            "why": "it sends files named with @",
            "options": {
                "system_prompt": ["--system", "$file"],
                "approval": {"always": None},
                "effort": None,
            },
            "prompt": {"escape": [{"match": "@", "replace": "(at)"}]},
        },
        {"since": "2.1.300", "options": {"model": ["--model=$value"]}},
    ],
}
# It counts how often it was asked for its version.
SCRIPT = """\
if [ "$1" = --version ]; then echo x >>"$0.asked"; cat "$0.version"; exit; fi
shift; sed 's/$/ '"$(echo "$@" | sed 's,/[^ ]*,FILE,')"'/'
"""


def install(home: Home, version: str, script: str = SCRIPT, **keys: Any) -> Path:
    program = home.backend("mine", script, **{**KEYS, **keys})
    Path(f"{program}.version").write_text(f"{version}\n")
    return program


def asked(program: Path) -> int:
    path = Path(f"{program}.asked")
    return len(path.read_text().splitlines()) if path.exists() else 0


def ask(clinvk: CommandLine, *args: str) -> str:
    done = clinvk("-b", "mine", "--ephemeral", *args)
    return (done.stdout + done.stderr).strip()


def test_versions_are_compared_as_numbers():
    assert find_version("2.1.329 (Claude Code)") == "2.1.329"
    assert find_version("codex-cli 0.169.0") == "0.169.0"
    assert find_version("llm, version 0.36") == "0.36"
    assert find_version("v1.2.3-beta.4") == "1.2.3"
    assert find_version("node 5, no version") is None
    assert is_older("2.1.99", "2.1.197")
    assert is_older("0.9", "0.36")
    assert not is_older("2.1.0", "2.1")
    assert not is_older("2.10", "2.9.9")
    for text in ("", "x", "1.", "2.1.x", "1.2.3.4.5", "-1"):
        with pytest.raises(ValueError, match="is not a version"):
            parse_version(text)


@pytest.mark.parametrize(
    ("version", "prompt", "args", "answer"),
    [
        (OLD, "see @x", [], "see (at)x"),
        (NEW, "see @x", [], "see @x"),
        (OLD, "hello you", ["--system-prompt", "s"], "hello you --system FILE"),
        (NEW, "hello you", ["--system-prompt", "s"], "hello you --system FILE --snapshot off"),
        (OLD, "hello you", ["--approval", "auto"], "hello you --mode auto"),
        (NEW, "hello you", ["--approval", "always"], "hello you --mode manual"),
        (NEW, "hello you", ["-m", "big"], "hello you --model=big"),
        ("2.1.300", "hello you", ["-m", "big"], "hello you --model=big"),
    ],
)
def test_a_manifest_can_differ_by_version(
    clinvk: CommandLine, home: Home, version: str, prompt: str, args: list[str], answer: str
):
    install(home, version)
    assert ask(clinvk, *args, prompt) == answer


def test_what_a_version_lacks_is_refused_with_the_version(clinvk: CommandLine, home: Home):
    install(home, OLD)
    said = ask(clinvk, "--approval", "always", "hello you")
    assert "mine cannot enforce --approval always: mine has it since 2.1.250, and this is" in said
    assert OLD in said
    said = ask(clinvk, "--option", "effort=high", "hello you")
    assert "mine has it since 2.1.250, and this is 2.1.197" in said
    assert "mine has no option 'model'" in ask(clinvk, "-m", "x", "hello you") or "does not" in said


def test_the_version_is_asked_once_and_only_where_it_matters(clinvk: CommandLine, home: Home):
    program = install(home, OLD)
    assert ask(clinvk, "hello you") == "hello you"
    assert asked(program) == 0
    for _ in range(3):
        assert ask(clinvk, "see @x") == "see (at)x"
    assert asked(program) == 1
    Path(f"{program}.version").write_text(NEW)
    program.write_text(program.read_text() + "\n# updated\n")
    assert ask(clinvk, "see @x") == "see @x"
    assert asked(program) == 2
    done = clinvk("-b", "mine", "--dry-run", "-o", "json", "see @x")
    assert json.loads(done.stdout)["prompt"] == "see @x"
    assert asked(program) == 2


@pytest.mark.parametrize("script", ["echo no number", "exit 3", "cat >/dev/null; exec sleep 60"])
def test_a_program_that_does_not_tell_its_version_gets_no_prompt_that_the_oldest_would_expand(
    clinvk: CommandLine, home: Home, script: str
):
    install(home, OLD, SCRIPT.replace('cat "$0.version"; exit', script))
    assert ask(clinvk, "see @x") == "see (at)x"
    assert ask(clinvk, "--approval", "always", "hello you") == "hello you --mode manual"


def test_a_package_of_npm_is_not_asked(clinvk: CommandLine, home: Home):
    program = install(home, "9.9.9")
    package = home.path.parent / "node_modules" / "@x" / "mine"
    (package / "bin").mkdir(parents=True)
    real = package / "bin" / "mine.js"
    program.rename(real)
    program.symlink_to(real)
    (package / "package.json").write_text(
        json.dumps({"version": OLD, "bin": {"mine": "bin/mine.js"}})
    )
    assert ask(clinvk, "see @x") == "see (at)x"
    assert asked(program) == asked(real) == 0


def test_doctor_and_a_failure_name_a_version_that_was_not_tested(clinvk: CommandLine, home: Home):
    for version, words in (
        ("1.9", "mine 1.9 is older than 2.0, the oldest that its manifest supports"),
        (OLD, "mine 2.1.197 differs from newer versions: it sends files named with @"),
        ("3.0.1", f"mine 3.0.1 is newer than {NEW}, which its manifest was tested with"),
        (NEW, None),
    ):
        install(home, version, SCRIPT.replace("shift", "echo broken >&2; exit 3"))
        report = clinvk("doctor", "--json").stdout
        (mine,) = [b for b in json.loads(report)["backends"] if b["name"] == "mine"]
        said = ask(clinvk, "hello you")
        assert "broken" in said
        if words is None:
            assert mine["advice"] is None
            assert NEW not in said
        else:
            assert words in mine["advice"]
            assert words in said


def problem(**keys: Any) -> str:
    data = {"name": "mine", "command": "mine", **KEYS, **keys}
    with pytest.raises(ConfigError) as caught:
        manifest = parse_manifest(json.dumps(data), Path("/home/mine.yaml"))
        for version in ("1", "9"):
            for_version(manifest, version)
    return caught.value.message


def test_a_mistake_in_a_change_is_told_with_its_place():
    for keys, words in (
        ({"versions": {"oldest": "new"}}, "versions.oldest: 'new' is not a version"),
        ({"versions": {"from": "1"}}, "versions.from: unknown key 'from'"),
        ({"by_version": [{}]}, "by_version[0]: missing key 'below' or 'since'"),
        ({"by_version": [{"below": "x"}]}, "by_version[0].below: 'x' is not a version"),
        ({"by_version": [{"below": "2", "option": {}}]}, "by_version[0].option: unknown key"),
        (
            {"by_version": [{"below": "2", "options": {"approval": {"x": []}}}]},
            "by_version[0].options.approval.x: not one of",
        ),
        (
            {"by_version": [{"below": "2", "prompt": {"escap": []}}]},
            "by_version[0].prompt.escap: unknown key",
        ),
    ):
        assert words in problem(**keys)


def test_the_file_with_the_versions_may_be_broken(clinvk: CommandLine, home: Home):
    program = install(home, OLD)
    for text in ("", "[]", "{", '{"a": 1}', json.dumps({str(program): [[1], "x", 2]})):
        (home.path / "versions.json").write_text(text)
        assert ask(clinvk, "see @x") == "see (at)x"
    os.unlink(home.path / "versions.json")
