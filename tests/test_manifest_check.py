"""`clinvk backends check` finds what could not work, each with its place, and reads recordings."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import clinvk as package
from clinvk.backend.authoring.problems import find_problems
from clinvk.backend.reading.parse import parse_manifest
from clinvk.config.paths import built_in_manifests
from clinvk.text.typed import format_path
from tests.conftest import PROJECT, CommandLine, Home

GOOD: dict[str, Any] = {
    "name": "mine",
    "command": "mine",
    "argv": {"run": ["$options"], "resume": ["-r", "$native_id", "$options"]},
    "options": {"model": ["-m", "$value"]},
    "events": [
        {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id"}},
        {"when": "type == 'text'", "emit": "text", "set": {"text": "text"}},
        {"when": "type == 'end'", "emit": "finished", "set": {"usage": "usage"}},
    ],
    "errors": [{"kind": "auth", "match": "log in"}],
}


def problems(**change: Any) -> list[str]:
    data = {k: v for k, v in {**GOOD, **change}.items() if v is not ...}
    manifest = parse_manifest(yaml.safe_dump(data), Path("/home/mine.yaml"))
    return [
        f"{format_path(at)}: {text}"
        for at, text in find_problems(manifest, Path("/home/mine.yaml"))
    ]


def rule(emit: str | None = "text", **more: Any) -> dict[str, Any]:
    extra = {"when": "type == 'x'", **({"emit": emit} if emit else {}), **more}
    return {"events": [*GOOD["events"], extra]}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    # Words that stand for nothing.
    ({"options": {"model": ["--model", "$vlaue"]}}, "options.model[1]: '$vlaue' is not a placeholder; did you mean '$value'?"),
    ({"options": {"model": ["--model", "x=$valu"]}}, "options.model[1]: '$valu' is not"),
    ({"options": {"effort": {"env": {"E": "$vale"}}}}, "options.effort.env.E: '$vale' is not"),
    ({"options": {"model": ["-m", "$prompt", "$value"]}}, "options.model[1]: '$prompt' is not a placeholder"),
    ({"options": {"approval": {"auto": ["$mode"]}}}, "options.approval.auto[0]: '$mode' is not"),
    ({"argv": {"run": ["$option", "$options"]}}, "argv.run[0]: '$option' is not a placeholder; did you mean '$options'?"),
    ({"argv": {"run": ["$native_id", "$options"]}}, "argv.run[0]: '$native_id' is not"),
    ({"argv": {"run": ["--x=$options", "$options"]}}, "argv.run[0]: $options can only be a word of its own"),
    ({"argv": {"run": ["$options", "$options"]}}, "argv.run: $options is there more than once"),
    ({"env": {"A": "$HOME/x"}}, "env.A: '$HOME' is not"),
    ({"ephemeral": {"env": {"T": "$tmp"}}}, "ephemeral.env.T: '$tmp' is not"),
    # Options that are dropped.
    ({"argv": {"run": ["x"]}}, "argv.run: $options is missing"),
    ({"argv": {"run": ["$options"], "resume": ["$native_id"]}}, "argv.resume: $options is missing"),
    ({"options": {"model": ["--model"]}}, "options.model: its value is not used"),
    ({"options": {"a": {"env": {"X": "$value"}}, "b": {"env": {"X": "$json"}}}}, "options.b.env.X: a sets X too"),
    ({"options": {"approval": {"auto": {"env": {"X": "1"}}}, "sandbox": {"full": {"env": {"X": "2"}}}}}, "options.sandbox.full.env.X: approval sets X too"),
    ({"options": {"approval": {"auto": {"argv": [], "implies": {"sandbox": "full"}}}}}, "options.approval.auto.implies.sandbox: sandbox full is no option"),
    # Sessions that cannot be resumed.
    ({"argv": {"run": ["$options"], "resume": ["-r", "$options"]}}, "argv.resume: $native_id is missing"),
    ({"argv": {**GOOD["argv"], "fork": ["$options"]}}, "argv.fork: $native_id is missing"),
    ({"events": [{"when": "a", "emit": "started"}, {"when": "b", "emit": "finished"}]}, "argv.resume: no rule sets native_id"),
    (rule("started", set={"model": "model"}), "events[3]: started needs native_id"),
    ({"argv": {"run": ["$new_id", "$options"]}, "native_id": "[0-9]+"}, "native_id: does not match the UUID"),
    # Fields without a meaning.
    (rule(set={"txt": "text"}), "events[3].set.txt: text has no field 'txt'; did you mean 'text'?"),
    (rule(set={"usage": "tokens"}), "events[3].set.usage: text has no field 'usage'"),
    (rule("finished", set={"usage": "tokens.{in: a}"}), "events[3].set.usage: unknown key 'in'"),
    (rule("finished", set={"usage": "x && t.{output: b, inputs: a} || null"}), "events[3].set.usage: unknown key 'inputs'; did you mean 'input'?"),
    (rule("finished", set={"denied": "d[].{tool: a}"}), "events[3].set.denied: unknown key 'tool'"),
    (rule("nothing", set={"text": "text"}), "events[3].set.text: nothing has no field 'text'"),
    (rule(None, set={"text": "text"}, events=[{"emit": "text"}]), "events[3].set.text: 'text' needs 'emit'"),
    (rule(each="parts"), "events[3].each: needs 'events'"),
    (rule(None, each="a", events=[{"emit": "text", "set": {"txt": "t"}}]), "events[3].events[0].set.txt"),
    # Rules without effect.
    ({"events": [{"emit": "finished"}, {"when": "a", "emit": "text"}]}, "events[1]: never used: events[0] has no 'when'"),
    ({"events": GOOD["events"][:2]}, "events: no rule emits 'finished'"),
    ({"events": ...}, "output: no rule emits 'finished'"),
    ({"output": "text"}, "events: not used"),
    ({"errors": [{"kind": "auth"}]}, "errors[0]: never matches"),
    ({"prompt": {"escape": [{"match": "@", "replace": "\\1"}]}}, "prompt.escape[0].replace: invalid group"),
    ({"name": "other"}, "name: 'other' does not match the file's name, mine.yaml"),
    ({"by_version": [{"below": "2", "options": {"model": ["$vale"]}}]}, "by_version[0].options.model[0]: '$vale'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_what_cannot_be_right_is_found_with_its_place(change: dict[str, Any], said: str):
    assert any(text.startswith(said) for text in problems(**change)), problems(**change)


def test_what_is_right_has_no_problem():
    for change in (
        {},
        {"env": {"A": "${A} $scratch/x", "B": None}},
        {"options": {"schema": ["@$file"], "x": ["$scratch/x", "k=$json"], "quiet": []}},
        {"options": {"a": {"env": {"X": "$value"}}, "b": {"env": {"X": "$value"}, "overrides": ["a"]}}},
        {"argv": {"run": ["-d", "$state", "$options"], "resume": ["-d", "$state", "-c", "$options"]}, "state": "x", "events": ..., "output": "text"},
        {"argv": {"run": ["--id=$new_id", "$options"], "resume": ["$native_id", "$options"]}, "events": ..., "output": "text"},
        {"events": [{"emit": "finished", "set": {"message": "shared by an anchor", "usage": "a || b.{input: c}"}}], "argv": {"run": ["$options"]}},
        rule("unfinished", set={"message": "x", "usage_add": "y.{input: z}", "cost_add": "c", "model": "m"}),
        rule(set={"text": "text", "native_id": "id"}),
        rule("denied", set={"id": "id", "reason": "r"}),
    ):  # fmt: skip
        assert problems(**change) == []


@pytest.mark.parametrize("path", sorted(built_in_manifests().glob("*.yaml")), ids=lambda p: p.stem)
def test_a_built_in_manifest_has_no_problem(path: Path):
    assert package.check_manifest(path).problems == []


def test_problems_are_printed_with_file_and_line(clinvk: CommandLine, home: Home):
    text = """\
name: mine
command: mine
argv: {run: [$options]}
options:
  model:
    [--model,
     $vlaue]
output: text
errors:
  - {kind: auth, match: x}
  - kind: limit
"""
    path = home.manifest("mine", text)
    done = clinvk("backends", "check", str(path))
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"clinvk: {path}:7: options.model[1]: '$vlaue' is not a placeholder; did you mean '$value'?",
        f"clinvk: {path}:11: errors[1]: never matches: it needs 'status', 'exit_code' or 'match'",
    ]
    assert clinvk("backends", "check").returncode == 3
    (one,) = clinvk.json("backends", "check", str(path), "--json")["manifests"]
    assert [(p["line"], p["place"]) for p in one["problems"]] == [
        (7, "options.model[1]"),
        (11, "errors[1]"),
    ]
    assert [str(p) for p in package.check_manifest(path).problems] == [
        f"{p['place']}: {p['problem']}" for p in one["problems"]
    ]


@pytest.mark.parametrize(
    "text",
    [
        "name: mine\ncommand: x\nargv: {run: &a [*a]}\n",
        "name: mine\ncommand: x\nevents: &x\n  - emit: text\n    events: *x\n",
        "name: mine\noptions: &o\n  model: {env: {A: *o}}\n",
        "&all\nname: mine\noptions: {<<: *all}\n",
    ],
)
def test_an_anchor_that_contains_itself_is_told_with_file_and_line(
    clinvk: CommandLine, home: Home, text: str
):
    path = home.manifest("mine", text)
    for args in (["backends", "check", str(path)], ["-b", "mine", "hello you"]):
        done = clinvk(*args)
        assert done.returncode == 3
        assert f"clinvk: {path}: line " in done.stderr
        assert "refers to itself" in done.stderr


# Recordings


LINES = """\
Warning: slow
{"type": "start", "id": "n-1"}
{"type": "odd", "x": 1}

{"type": "text", "text": "hi"}
[{"type": "odd"}]
{"type": "end", "usage": {"input": 1, "output": 2}}
"""


def record(folder: Path, stdout: str, stderr: str = "", code: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "stdout").write_text(stdout)
    (folder / "stderr").write_text(stderr)
    if code is not None:
        (folder / "rc").write_text(code)
    return folder


def test_a_recording_shows_its_events_and_the_lines_that_no_rule_used(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    path = home.manifest("mine", GOOD)
    folder = record(tmp_path / "ok", LINES, code="0\n")
    for recording in (folder, folder / "stdout"):
        done = clinvk("backends", "check", str(path), str(recording))
        assert done.returncode == 0
        types = [json.loads(line)["type"] for line in done.stdout.splitlines()]
        assert types == ["started", "text", "finished"]
        assert "2 of 7 lines matched no rule:" in done.stderr
        assert '  line 3: {"type": "odd", "x": 1}' in done.stderr
        assert '  line 6: [{"type": "odd"}]' in done.stderr
        assert "1 of 7 lines are not JSON:" in done.stderr
        assert "  line 1: Warning: slow" in done.stderr


def test_a_recorded_failure_is_classified_by_the_rules_for_errors(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    path = home.manifest("mine", GOOD)
    record(tmp_path / "all" / "auth", "", "please log in first\n", "1")
    record(tmp_path / "all" / "other", '{"type": "start"}\n', "broken\n", "3")
    record(tmp_path / "all" / "ok", LINES, code="0")
    checked = package.check_manifest(path, tmp_path / "all")
    assert checked.ok
    by_name = {one.path.name: one for one in checked.recordings}
    kinds = {name: one.result.error and one.result.error.kind for name, one in by_name.items()}
    assert kinds == {"auth": "auth", "other": "backend", "ok": None}
    assert by_name["other"].problems == [
        "started has no native_id, so this session could not be resumed",
        "no rule of errors matches: broken",
    ]
    assert by_name["auth"].unused_rules == ["events[0]", "events[1]", "events[2]"]
    done = clinvk("backends", "check", str(path), str(tmp_path / "all"))
    assert done.stdout.splitlines() == [
        "auth: failed (auth); 0 of 0 lines matched no rule",
        "ok: finished; 2 of 7 lines matched no rule",
        "other: failed (backend); 0 of 1 lines matched no rule",
    ]


def test_a_recording_that_does_not_say_how_it_ended_fails(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    path = home.manifest("mine", GOOD)
    folder = record(tmp_path / "cut", LINES.rsplit("{", 2)[0], code="0")
    done = clinvk("backends", "check", str(path), str(folder))
    assert done.returncode == 1
    assert "no event says how the run ended" in done.stderr
    assert not package.check_manifest(path, folder).ok


def test_figures_that_are_not_found_in_a_recording_are_told(home: Home, tmp_path: Path):
    end = {"when": "type == 'end'", "emit": "finished", "set": {"usage": "tokens"}}
    path = home.manifest("mine", {**GOOD, "events": [*GOOD["events"][:2], end]})
    (one,) = package.check_manifest(path, record(tmp_path / "a", LINES)).recordings
    assert one.problems == ["no figure of usage was found, though a rule sets it"]


def test_what_is_no_recording_is_refused(clinvk: CommandLine, home: Home, tmp_path: Path):
    path = home.manifest("mine", GOOD)
    (tmp_path / "empty").mkdir()
    for recording, words in (
        (tmp_path / "empty", "no recording"),
        (tmp_path / "none", "No such file"),
        (record(tmp_path / "odd", "", code="x"), "'x' is not an exit code"),
    ):
        done = clinvk("backends", "check", str(path), str(recording))
        assert done.returncode == 3
        assert words in done.stderr


def test_all_recordings_of_the_built_in_manifests_are_read():
    """Each is a directory with stdout, stderr and rc, so all of them are read at once."""
    for path in sorted(built_in_manifests().glob("*.yaml")):
        folder = Path(__file__).parent / "recordings" / path.stem
        if folder.is_dir():
            checked = package.check_manifest(path, folder)
            assert len(checked.recordings) >= 3
            assert all(
                "no native_id" not in text for one in checked.recordings for text in one.problems
            )


def test_a_backend_can_be_checked_by_its_name(clinvk: CommandLine, home: Home):
    home.backend("fake")

    for name in ("fake", "codex"):
        done = clinvk("backends", "check", name)
        assert (done.returncode, done.stdout.endswith(f"{name}.yaml: OK\n")) == (0, True), (
            done.stderr
        )
    recording = PROJECT / "tests" / "recordings" / "codex" / "add-dir"
    assert clinvk("backends", "check", "codex", str(recording)).returncode == 0
    done = clinvk("backends", "check", "codx")
    assert (done.returncode, done.stdout) == (3, "")
    assert "codx: No such file or directory" in done.stderr
