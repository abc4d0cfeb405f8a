"""Answers are validated against `--schema` on every backend, and corrected once by a further turn."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clinvk as api
from clinvk.dispatch.answer_schema import AnswerSchema
from clinvk.dispatch.series.schema_repair import RepairedTurn
from clinvk.errors import UsageError
from clinvk.testing import fake_backend
from clinvk.text.json_answer import NoJson, last_value
from tests.conftest import CommandLine, Home

SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
TEXT = json.dumps(SCHEMA)


def refused(clinvk: CommandLine, *args: str, code: int = 1) -> subprocess.CompletedProcess[str]:
    got = clinvk(*args)
    assert got.returncode == code, got.stderr
    return got


@pytest.fixture
def schema(home: Home) -> str:
    path = home.work / "schema.json"
    path.write_text(TEXT)
    return str(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        (" \n[1, 2]\n", [1, 2]),
        ("3", 3),
        ("null", None),
        ('Sure:\n\n```json\n{"a": 1}\n```\nThat was all.', {"a": 1}),
        ('```json\n{"a": 1}\n```\nor better\n```json\n{"a": 2}\n```\n', {"a": 2}),
        ('~~~\n{"a": "```"}\n~~~', {"a": "```"}),
        ('See [1] and {x}. {"a": {"b": [1]}} Done.', {"a": {"b": [1]}}),
        ('{"a": 1} {"a": 2', {"a": 1}),
        ('\ufeff{"a": "line\nbreak"}', {"a": "line\nbreak"}),
    ],
)  # fmt: skip
def test_the_last_json_value_of_an_answer_counts(text: str, value: Any):
    assert last_value(text) == value


@pytest.mark.parametrize("text", ["", "no", "{", "[" * 100_000, "{x} [y"])
def test_an_answer_without_json_has_no_value(text: str):
    with pytest.raises(NoJson):
        last_value(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES, st.sampled_from(["", "Sure: ", "[see] {this} ", '{"a": 1}\n']))
def test_a_value_is_found_behind_any_text(value: Any, before: str):
    if not before or isinstance(value, (dict, list)):
        assert last_value(before + json.dumps(value)) == value


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "list is not a schema"),
        ('{"type": "objekt"}', r"\$\.type: 'objekt'"),
        ('{"properties": {"a": {"minimum": "1"}}}', r"\$\.properties\.a\.minimum"),
        ('{"$ref": "#/$defs/x"}', r"\$ref: '#/\$defs/x' is not in the schema"),
        ('{"$ref": "http://127.0.0.1:9/x.json"}', "is not in the schema"),
    ],
)
def test_an_invalid_schema_is_refused_with_its_place(schema: str, problem: str):
    with pytest.raises(UsageError, match=problem):
        AnswerSchema(schema)


def test_schemas_of_other_drafts_and_references_inside_are_followed():
    newest = AnswerSchema(
        '{"$defs": {"x": {"type": "string"}}, "prefixItems": [{"$ref": "#/$defs/x"}]}'
    )
    assert newest.problem(["a"]) is None
    assert newest.problem([1]) == "$[0]: 1 is not of type 'string'"
    older = AnswerSchema(
        '{"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}'
    )
    assert older.problem([1]) is not None
    assert AnswerSchema('{"const": {"$ref": "nowhere"}}').problem({"$ref": "nowhere"}) is None


@pytest.mark.parametrize("backend", ["codex", "plain"])
def test_an_answer_that_does_not_match_is_asked_for_again(
    clinvk: CommandLine, home: Home, schema: str, backend: str
):
    """With a backend that takes a schema, and with one that can only be told."""
    fake = fake_backend(
        home.path, backend, answers=['Here: {"a": "x"}', 'Now:\n```\n{"a": 1}\n```']
    )
    if backend == "plain":  # its CLI has no option for it
        manifest = json.loads(fake.manifest.read_text())
        del manifest["options"]["schema"]
        fake.manifest.write_text(json.dumps(manifest))
    got = clinvk("-b", backend, "--schema", schema, "-o", "json", "count")
    answer = json.loads(got.stdout)
    assert (answer["structured"], answer["structured_attempts"]) == ({"a": 1}, 2)
    assert "$.a: 'x' is not of type 'integer'; asking again" in got.stderr
    assert "$.a: 'x' is not of type 'integer'" in fake.prompts[1]
    assert (TEXT in fake.prompts[0]) == (backend == "plain")
    assert home.record()["turns"] == 2
    assert next(m["content"] for m in home.transcript() if m["role"] == "user") == "count"


def test_only_an_answer_that_matches_is_printed(clinvk: CommandLine, home: Home, schema: str):
    fake_backend(home.path, "codex", answers=["no JSON", 'Here it is: {"a": 1}', '{"a":2}'])
    got = clinvk("-b", "codex", "--schema", schema, "count")
    assert json.loads(got.stdout) == {"a": 1}
    assert clinvk("-b", "codex", "--schema", schema, "count").stdout == '{"a":2}\n'


def test_an_answer_that_never_matches_is_a_failure(clinvk: CommandLine, home: Home, schema: str):
    fake = fake_backend(home.path, "codex", answers="no JSON")
    got = refused(clinvk, "-b", "codex", "--schema", schema, "-o", "json", "count")
    answer = json.loads(got.stdout)
    assert (answer["error"]["kind"], answer["structured"]) == ("schema", None)
    assert (answer["structured_attempts"], answer["content"]) == (2, "no JSON")
    refused(clinvk, "-b", "codex", "--schema", schema, "--schema-retries", "0", "count")
    refused(clinvk, "-b", "codex", "--schema", schema, "--schema-retries", "3", "count")
    home.config("unified_flags: {schema_retries: 0}")
    refused(clinvk, "-b", "codex", "--schema", schema, "count")
    assert len(fake.prompts) == 2 + 1 + 4 + 1


def test_without_a_session_an_answer_is_validated_but_not_asked_for_again(
    clinvk: CommandLine, home: Home, schema: str
):
    fake = fake_backend(home.path, "codex", answers=["no JSON"])
    got = refused(clinvk, "-b", "codex", "--schema", schema, "--ephemeral", "count")
    assert "the answer does not match the schema: there is no JSON in it" in got.stderr
    got = refused(
        clinvk, "-b", "codex", "--schema", schema, "--ephemeral", "--schema-retries", "1", "x"
    )
    assert "--schema-retries needs a session" in got.stderr
    assert len(fake.prompts) == 1


def test_a_failure_of_the_program_is_not_asked_about_again(
    clinvk: CommandLine, home: Home, schema: str
):
    fake = fake_backend(home.path, "codex", answers=api.Failure("server", "overloaded"))
    assert "overloaded" in refused(clinvk, "-b", "codex", "--schema", schema, "x").stderr
    assert len(fake.prompts) == 1


def test_an_invalid_schema_starts_nothing(clinvk: CommandLine, home: Home):
    fake = fake_backend(home.path, "codex", answers='{"a": 1}')
    path = home.work / "bad.json"
    path.write_text('{"type": "objekt"}')
    got = refused(clinvk, "-b", "codex", "--schema", str(path), "x")
    assert "schema: $.type: 'objekt' is not valid" in got.stderr
    assert fake.prompts == []
    assert json.loads(clinvk("sessions", "list", "--json").stdout)["sessions"] == []


def test_tasks_are_validated_and_corrected_too(clinvk: CommandLine, home: Home, schema: str):
    fake_backend(home.path, "codex", answers=["no JSON", '{"a": 1}'])
    tasks = {"tasks": [{"name": "n", "prompt": "count", "backend": "codex", "schema": schema}]}
    (home.work / "tasks.json").write_text(json.dumps(tasks))
    [result] = json.loads(clinvk("parallel", "-f", "tasks.json", "--json").stdout)["results"]
    assert json.loads(result["output"]) == {"a": 1}
    assert result["attempts"] == 1


@pytest.mark.anyio
async def test_from_python_a_schema_may_be_data(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLINVK_HOME", str(home.path))
    fake_backend(home.path, "codex", answers=["no JSON", '{"a": 1}'])
    result = await api.arun("count", backend="codex", schema=SCHEMA)
    assert (result.structured, result.structured_attempts) == ({"a": 1}, 2)


def test_a_schema_file_is_named_where_it_is_not_json(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    path = tmp_path / "x.json"
    path.write_text("{")
    assert f"{path}: not JSON" in refused(clinvk, "--schema", str(path), "x", code=3).stderr


@pytest.mark.anyio
async def test_an_answer_is_kept_if_its_session_is_gone_when_it_is_to_be_corrected(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLINVK_HOME", str(home.path))
    fake_backend(home.path, "codex", answers="no JSON")
    with api.Dispatcher() as dispatcher:

        def open_turn(request: api.Request, notify: Any) -> Any:
            if request.session is not None:
                raise api.SessionError("the session was deleted")
            return dispatcher._stream_limited(request, notify)

        request = api.Request(prompt="count", backend="codex", options={"schema": TEXT})
        async with RepairedTurn(open_turn, request, lambda _: None) as run:
            *_, last = [event async for event in run]
    assert isinstance(last, api.Failed)
    assert (run.result.text, run.result.error.kind) == ("no JSON", "schema")
    assert run.result.error.hint == "asking again failed: the session was deleted"


def test_a_file_named_like_the_built_in_schema_is_named_with_a_slash(
    home: Home, clinvk: CommandLine
):
    (home.work / "findings").write_text('{"type": "boolean"}')
    (home.work / "tasks.yaml").write_text(
        "tasks:\n- {name: own, backend: echo, schema: ./findings, prompt: hi}\n"
        "- {name: built, backend: echo, schema: findings, prompt: hi}\n"
    )
    # A quick prompt, and one that is read in full.
    for flags in ((), ("--timeout", "60")):
        for name, is_own in (("./findings", True), ("findings", False)):
            done = clinvk("-b", "echo", *flags, "--schema", name, "--dry-run", "--json", "hi")
            assert done.returncode == 0, done.stderr
            assert ("boolean" in done.stdout) == is_own
            assert ("severity" in done.stdout) != is_own
    done = clinvk("parallel", "tasks.yaml", "--dry-run", "--json")
    own, built = json.loads(done.stdout)["tasks"]
    assert "boolean" in json.dumps(own)
    assert "severity" in json.dumps(built)
