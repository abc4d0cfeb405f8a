"""What is wrong in a manifest is told with its name, its place and the reason."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clinvk.backend.catalog import Catalog, read_manifest
from clinvk.backend.reading.expressions import check_expressions
from clinvk.backend.reading.parse import parse_manifest
from clinvk.config.paths import built_in_manifests
from clinvk.errors import ConfigError
from tests.conftest import CommandLine, Home

BUILT_IN = [
    "claude", "cline", "codex", "copilot", "echo", "gemini", "llm", "opencode", "pi", "qwen",
]  # fmt: skip
GOOD: dict[str, Any] = {"name": "mine", "command": "mine", "argv": {"run": ["$options"]}}


def problem(**change: Any) -> str:
    """What is said of a manifest with this in it."""
    data = {k: v for k, v in {**GOOD, **change}.items() if v is not ...}
    with pytest.raises(ConfigError) as caught:
        check_expressions(parse_manifest(yaml.safe_dump(data), Path("/home/mine.yaml")))
    assert caught.value.exit_code == 3
    return caught.value.message


def event(**rule: Any) -> dict[str, Any]:
    return {"events": [{"emit": "text"}, {"emit": "text"}, rule]}


MISTAKES = [
    ({"comand": "x"}, ["mine: ", "unknown key 'comand'", "did you mean 'command'?"]),
    ({"command": ...}, ["mine: ", "missing key 'command'"]),
    ({"argv": ...}, ["missing key 'argv'"]),
    ({"argv": {}}, ["argv: missing key 'run'"]),
    ({"argv": {"run": "exec"}}, ["argv.run: expected a list"]),
    ({"argv": {"run": [1]}}, ["argv.run[0]: expected text, found 1"]),
    ({"argv": {"run": [], "resme": []}}, ["argv.resme: not one of: run, resume, fork"]),
    ({"command": ["x"]}, ["command: expected text, found a list"]),
    ({"output": "xml"}, ["output: 'xml' is not one of: events, json, text"]),
    ({"stop": "SIGKILL"}, ["stop: 'SIGKILL' is not one of"]),
    ({"prompt": {"limit": 3}}, ["prompt.limit: unknown key 'limit'"]),
    ({"prompt": {"limit_chars": "many"}}, ["prompt.limit_chars: expected a whole number"]),
    ({"prompt": {"limit_chars": True}}, ["prompt.limit_chars: expected a whole number"]),
    ({"prompt": {"escape": [{"match": "(", "replace": ""}]}}, ["prompt.escape[0].match"]),
    ({"native_id": "("}, ["native_id: "]),
    ({"options": {"approval": {"maybe": []}}}, ["options.approval.maybe: not one of: default, auto"]),
    ({"options": {"sandbox": ["x"]}}, ["options.sandbox: expected some of: default, read-only"]),
    ({"options": {"model": {"arg": ["x"]}}}, ["options.model", "unknown key 'arg'", "'argv'"]),
    ({"options": {"model": "x"}}, ["options.model"]),
    ({"env": {"A": 1}}, ["env.A: expected text, found 1"]),
    ({"errors": [{"kind": "odd"}]}, ["errors[0].kind: 'odd' is not one of"]),
    ({"errors": [{"kind": "auth", "match": "["}]}, ["errors[0].match: "]),
    ({"errors": [{"kind": "auth", "status": ["x"]}]}, ["errors[0].status[0]: expected a whole number"]),
    (event(emit="txt"), ["events[2].emit: not one of: started"]),
    (event(when="a"), ["events[2]: neither 'emit' nor 'events'"]),
    (event(emit="text", when="type ==="), ["events[2].when: "]),
    (event(emit="text", set={"text": "a["}), ["events[2].set.text: "]),
    (event(each="a..", events=[{"emit": "text"}]), ["events[2].each: "]),
    (event(events=[{"emit": "text"}, {"emit": "x"}]), ["events[2].events[1].emit"]),
    (event(emit="text", wen="a"), ["events[2]", "unknown key 'wen'", "'when'"]),
]  # fmt: skip


def test_an_error_names_manifest_place_and_reason():
    for change, words in MISTAKES:
        message = problem(**change)
        assert message.startswith("mine: "), change
        for word in words:
            assert word in message, change


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "just text", "name: x\n  y: [", "a: b: c", "\t", "{{", "null"]
)
def test_what_is_no_manifest_is_refused(text: str):
    with pytest.raises(ConfigError, match="mine"):
        parse_manifest(text, Path("/home/mine.yaml"))


def test_broken_yaml_is_told_with_its_line():
    with pytest.raises(ConfigError, match=r"/home/mine\.yaml: line 3: "):
        parse_manifest("name: mine\ncommand: mine\n  argv: {}\n", Path("/home/mine.yaml"))


def test_yaml_that_would_make_objects_is_refused():
    text = "name: !!python/object/apply:os.system ['true']\ncommand: x\nargv: {run: []}"
    with pytest.raises(ConfigError):
        parse_manifest(text, Path("/home/mine.yaml"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_manifest_is_right(name: str, tmp_path: Path):
    manifest = Catalog(tmp_path).load(name)
    check_expressions(manifest)
    assert manifest.resumes is (name != "cline")
    assert manifest.title
    assert manifest.command == "$python" or manifest.install


def test_these_manifests_are_built_in(tmp_path: Path):
    assert Catalog(tmp_path).names() == BUILT_IN
    assert sorted(p.stem for p in built_in_manifests().glob("*.yaml")) == BUILT_IN


# Where they are found


def test_a_users_manifest_replaces_a_built_in_one(home: Home):
    home.manifest("claude", {**GOOD, "name": "claude", "title": "Mine"})
    catalog = Catalog(home.path)
    assert catalog.load("claude").title == "Mine"
    assert catalog.names() == BUILT_IN


def test_a_users_manifest_adds_a_backend(home: Home):
    home.manifest("mine", GOOD)
    assert Catalog(home.path).names() == [*BUILT_IN, "mine"]
    assert Catalog(home.path).load("mine").command == "mine"


def test_no_manifest_is_read_from_the_current_folder(clinvk: CommandLine, home: Home):
    for folder in (home.work, home.work / "backends", home.work / ".clinvk" / "backends"):
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "evil.yaml").write_text(yaml.safe_dump({**GOOD, "name": "evil"}))
    assert clinvk("-b", "evil", "x").returncode == 2
    assert "evil" not in clinvk("backends", "list").stdout


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "", ".hidden", ".."])
def test_a_name_does_not_lead_out_of_the_folder(home: Home, name: str):
    with pytest.raises(ConfigError, match="unknown backend"):
        Catalog(home.path).load(name)


def test_a_manifest_has_the_name_of_its_file(home: Home):
    home.manifest("mine", {**GOOD, "name": "other"})
    with pytest.raises(ConfigError, match="'other' does not match"):
        Catalog(home.path).load("mine")


def test_a_manifest_that_cannot_be_read_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        read_manifest(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="directory"):
        read_manifest(tmp_path)


# The command


def test_a_broken_manifest_hurts_nobody_else(clinvk: CommandLine, home: Home):
    home.manifest("bad", "name: bad\n  x: [")
    home.backend("fake")
    assert clinvk("-b", "fake", "x").returncode == 0
    done = clinvk("backends", "list")
    assert done.returncode == 0
    assert "broken" in done.stdout
    assert clinvk("doctor").returncode == 0
    done = clinvk("-b", "bad", "x")
    assert done.returncode == 3
    assert "bad.yaml" in done.stderr


def test_check_tells_of_every_manifest(clinvk: CommandLine, home: Home):
    assert clinvk("backends", "check").stdout.count(": OK") == len(BUILT_IN)
    home.manifest("bad", {**GOOD, "name": "bad", "events": [{"emit": "text", "when": "a ="}]})
    done = clinvk("backends", "check")
    assert done.returncode == 3
    assert done.stdout.count(": OK") == len(BUILT_IN)
    assert "events[0].when" in done.stderr


def test_check_shows_the_events_of_a_recording(clinvk: CommandLine, home: Home):
    recording = Path(__file__).parent / "recordings" / "claude" / "tool-stream" / "stdout"
    done = clinvk("backends", "check", str(built_in_manifests() / "claude.yaml"), str(recording))
    assert done.returncode == 0
    assert [yaml.safe_load(line)["type"] for line in done.stdout.splitlines()] == [
        "started", "tool", "tool_result", "text", "finished",
    ]  # fmt: skip
    cut = recording.parent.parent / "sigkill-in-tool" / "stdout"
    done = clinvk("backends", "check", str(built_in_manifests() / "claude.yaml"), str(cut))
    assert done.returncode == 1
    assert "no event says how the run ended" in done.stderr


def test_show_says_how_a_backend_is_called(clinvk: CommandLine):
    text = clinvk("backends", "show", "codex").stdout
    assert "codex" in text
    assert "resume" in text
    assert "-c model_reasoning_effort" in text
    assert clinvk("backends", "show", "nobody").returncode == 2
