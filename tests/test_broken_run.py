"""What is known of a run that an error has ended comes with the error, and not on it."""

import json
from typing import Any

import pytest

import clinvk
from clinvk.cmd.options.json_errors import BrokenRun, with_run_json_errors
from clinvk.errors import ClinvkError, ConfigError, SessionError
from clinvk.runs.folder import RunFolder, RunStore
from clinvk.testing import FakeExecutor, temporary_home


def shown(problem: Exception, output_format: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """What is printed of it, and that the error itself is raised."""

    @with_run_json_errors
    def command(**_: Any) -> None:
        raise problem

    error = problem.error if isinstance(problem, BrokenRun) else problem
    with pytest.raises(ClinvkError) as caught:
        command(output_format=output_format)
    assert caught.value is error
    assert vars(error).keys() == {"message", "hint"}
    return json.loads(capsys.readouterr().out or "null")


def broken(folder: RunFolder | None) -> BrokenRun:
    return BrokenRun(SessionError("the disk is full", "make room"), folder)


def test_a_broken_run_is_shown_with_what_is_known_of_its_tasks(
    capsys: pytest.CaptureFixture[str],
):
    with temporary_home() as home:
        ended = clinvk.parallel(["a", "b"], backend="echo", executor=FakeExecutor("yes"))
        folder = RunStore(home).find(ended.id)
        data = shown(broken(folder), "json", capsys)
        last = shown(broken(folder), "stream-json", capsys)
    assert (data["id"], [r["output"] for r in data["results"]]) == (ended.id, ["yes", "yes"])
    assert (data["why"], data["exit_code"]) == ("the disk is full", 4)
    assert data["error"] == {**data["error"], "kind": "session", "hint": "make room"}
    assert (last["type"], last["id"], "results" in last) == ("end", ended.id, False)


def test_an_error_before_a_run_has_begun_knows_of_no_tasks(capsys: pytest.CaptureFixture[str]):
    for problem in (broken(None), ConfigError("no such key", "make room")):
        data = shown(problem, "json", capsys)
        assert (data["id"], data["results"], data["error"]["hint"]) == (None, [], "make room")
    assert shown(broken(None), "text", capsys) is None
