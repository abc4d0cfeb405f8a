"""What a manifest can express, tried with small CLIs that need it."""

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from clinvk.backend.command.prompt_text import ARGUMENT_BYTES
from clinvk.backend.command_line import build_command, new_native_id
from clinvk.backend.reading.parse import parse_manifest
from clinvk.errors import ConfigError, UsageError
from clinvk.process.command import Command
from tests.conftest import READ, START, CommandLine, Home, say

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def manifest(**keys: Any) -> Any:
    data = {"name": "mine", "command": "mine", "argv": {"run": ["$options"]}, **keys}
    return parse_manifest(json.dumps(data), Path("/home/mine.yaml"))


def command(prompt: str = "hello", *, of: dict[str, Any], **more: Any) -> Command:
    values = {"options": {}, "cwd": Path("/"), "env": {}, "temp_dir": Path("/tmp/private")} | more
    return build_command(manifest(**of), "/bin/mine", prompt=prompt, **values)


# The prompt as an argument


def test_a_prompt_can_be_part_of_an_argument_and_is_no_option_then():
    for shape, words in (
        (["--prompt=$prompt", "$options"], ["--prompt=-x --y"]),
        (["-p$prompt", "$options"], ["-p-x --y"]),
        (["$options", "--", "$prompt"], ["--", "-x --y"]),
        (["$options", "--", "Task: $prompt."], ["--", "Task: -x --y."]),
    ):
        made = command("-x --y", of={"argv": {"run": shape}})
        assert list(made.argv[1:]) == words
        assert made.stdin == b""
        assert "-x" not in str(made), "the shown command has the placeholder"


@pytest.mark.parametrize(
    "shape",
    [["$prompt"], ["-p", "$prompt", "$options"], ["$prompt", "--"], ["$prompt.", "$options"]],
)
def test_a_prompt_that_could_be_taken_for_an_option_is_refused(shape: list[str]):
    with pytest.raises(ConfigError, match=r"argv\.run\[\d\]: .* could be taken for an option"):
        manifest(argv={"run": shape})


def test_options_after_the_dashes_would_be_part_of_the_prompt():
    with pytest.raises(ConfigError, match=r"argv\.run\[2\]: \$options comes after '--'"):
        manifest(argv={"run": ["--", "$prompt", "$options"]})


def test_a_prompt_is_never_cut_to_fit_an_argument():
    of = {"argv": {"run": ["--prompt=$prompt", "$options"]}}
    most = ARGUMENT_BYTES - len("--prompt=")
    assert len(command("x" * most, of=of).argv[1]) == ARGUMENT_BYTES
    for prompt in ("x" * (most + 1), "é" * (most // 2 + 1)):
        with pytest.raises(UsageError, match=rf"at most {most:,} bytes"):
            command(prompt, of=of)
    with pytest.raises(UsageError, match="at most 10 bytes"):
        command("x" * 11, of={**of, "prompt": {"limit_bytes": 10}})
    with pytest.raises(UsageError, match="NUL"):
        command("a\0b", of=of)


def test_an_argument_can_be_fixed_while_the_prompt_is_on_stdin():
    made = command("hello", of={"argv": {"run": ["--json", "$options", "--", " "]}})
    assert made.argv[1:] == ("--json", "--", " ")
    assert made.stdin == b"hello"


def test_a_prompt_does_not_fill_other_placeholders():
    made = command("$new_id $scratch $options", of={"argv": {"run": ["--p=$prompt", "$options"]}})
    assert made.argv[1] == "--p=$new_id $scratch $options"


def test_no_option_is_dropped_silently():
    """Words for which a manifest has no place are refused, wherever they come from."""
    for keys, more in (
        ({"options": {"model": ["-m", "$value"]}}, {"options": {"model": "big"}}),
        ({}, {"args": ["-c"]}),
        ({"ephemeral": {"argv": ["--no-save"]}}, {"ephemeral": True}),
    ):
        with pytest.raises(ConfigError, match="no place for the arguments '-"):
            command(of={"argv": {"run": ["go"]}, **keys}, **more)
    environment = {"options": {"model": {"env": {"MODEL": "$value"}}}}
    made = command(of={"argv": {"run": ["go"]}, **environment}, options={"model": "big"})
    assert made.env == {"MODEL": "big"}


# An id that clinvk chooses


def test_a_new_id_is_a_random_uuid():
    ids = {new_native_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(UUID, one) for one in ids)


CHOSEN: dict[str, Any] = {
    "argv": {
        "run": ["--session-id", "$new_id", "$options"],
        "resume": ["--resume=$native_id", "$options"],
    },
    "native_id": UUID,
    "output": "text",
}


def test_a_new_id_is_recorded_before_the_start_so_that_a_crash_loses_nothing(
    clinvk: CommandLine, home: Home
):
    home.backend("mine", 'echo "$@"; cat >/dev/null; [ "$1" = --session-id ] && sleep 60', **CHOSEN)
    running = clinvk.start("-b", "mine", "hello")
    until = time.monotonic() + 60
    while not home.ids() and time.monotonic() < until:
        time.sleep(0.02)
    (chosen,) = home.record()["native_ids"].values()
    assert re.fullmatch(UUID, chosen)
    running.send_signal(signal.SIGKILL)
    running.communicate()

    done = clinvk("-c", "-b", "mine", "second")
    assert done.stdout.strip() == f"--resume={chosen}"


def test_a_chosen_id_is_forgotten_if_the_cli_did_not_begin(clinvk: CommandLine, home: Home):
    home.backend("mine", 'echo "$@"; cat', **CHOSEN)
    assert clinvk("-b", "mine", "first").returncode == 0
    (chosen,) = home.record()["native_ids"].values()
    home.backend("mine", "echo no such flag >&2; exit 2", **CHOSEN)
    assert clinvk("-c", "--replay", "second").returncode != 0
    assert home.record()["native_ids"] == {"mine": chosen}, "the old session is still there"
    assert clinvk("-b", "mine", "third one").returncode != 0
    fresh = next(i for i in home.ids() if not home.record(i)["native_ids"])
    assert home.record(fresh)["status"] == "error"


def test_an_ephemeral_run_can_have_a_command_line_of_its_own(clinvk: CommandLine, home: Home):
    argv = {**CHOSEN["argv"], "ephemeral": ["--no-session", "$options"]}
    home.backend("mine", 'echo "$@"', **{**CHOSEN, "argv": argv, "ephemeral": {}})
    assert clinvk("-b", "mine", "--ephemeral", "hello").stdout == "--no-session\n"


# An id that is in no event


@pytest.mark.parametrize(
    ("where", "script"),
    [
        ({"stderr": r"^Session (\S+) "}, "echo 'a'>&2; echo 'Session n-1 saved' >&2; echo hi"),
        ({"stderr": r"n-\d"}, "echo hi; echo 'in n-0 or n-1.' >&2"),
        ({"file": "$scratch/id"}, 'echo hi; echo n-1 >"$1"'),
        (
            {"file": "$scratch/id", "match": '"id": "(.*?)"'},
            'echo hi; echo \'{"id": "n-1"}\' >"$1"',
        ),
    ],
)
def test_the_id_can_be_on_stderr_or_in_a_file(
    clinvk: CommandLine, home: Home, where: dict[str, str], script: str
):
    argv = {"run": ["$scratch/id", "$options"], "resume": ["$scratch/id", "$native_id", "$options"]}
    keys = {"argv": argv, "output": "text", "native_id_in": where}
    home.backend("mine", f"cat >/dev/null; echo $2; {script}", **keys)
    assert clinvk("-b", "mine", "hello").returncode == 0
    assert home.record()["native_ids"] == {"mine": "n-1"}
    assert clinvk("-c", "again").stdout.splitlines()[0] == "n-1"


def test_another_id_than_the_resumed_one_is_an_error_there_too(clinvk: CommandLine, home: Home):
    argv = {"run": ["$options"], "resume": ["$native_id", "$options"]}
    keys = {"argv": argv, "output": "text", "native_id_in": {"stderr": "id (.*)"}}
    home.backend("mine", "cat >/dev/null; echo hi; echo id $$ >&2", **keys)
    assert clinvk("-b", "mine", "hello").returncode == 0
    assert clinvk("-c", "again").returncode == 4


def test_a_file_of_another_run_is_never_read_for_an_id():
    with pytest.raises(ConfigError, match=r"native_id_in\.file: expected \$scratch/NAME"):
        manifest(native_id_in={"file": "~/.mine/last"})
    with pytest.raises(ConfigError, match="native_id_in: expected one of 'stderr' and 'file'"):
        manifest(native_id_in={})


# A conversation that clinvk keeps


KEPT: dict[str, Any] = {
    "argv": {"run": ["-d", "$state", "$options"], "resume": ["-d", "$state", "-c", "$options"]},
    "state": "log.db",
    "output": "text",
}
REMEMBERS = """\
prompt=$(cat); [ "$prompt" = fail ] && exit 1
printf '%s\\n' "$prompt" >>"$2"; tr '\\n' ' ' <"$2"; echo "($3)"
"""


def kept(home: Home) -> list[Path]:
    return sorted((home.path / "state").glob("*/*/*")) if (home.path / "state").exists() else []


def test_a_cli_without_ids_gets_a_file_for_each_session(clinvk: CommandLine, home: Home):
    home.backend("mine", REMEMBERS, **KEPT)
    assert clinvk("-b", "mine", "one").stdout == "one ()\n"
    assert clinvk("-c", "two").stdout == "one two (-c)\n"
    assert clinvk("-b", "mine", "other").stdout == "other ()\n"
    assert len(kept(home)) == 2
    assert all(path.parent.stat().st_mode & 0o77 == 0 for path in kept(home))
    assert clinvk("-b", "mine", "--ephemeral", "third").stdout == "third ()\n"
    assert len(kept(home)) == 2


def test_the_file_is_deleted_with_its_session(clinvk: CommandLine, home: Home):
    home.backend("mine", REMEMBERS, **KEPT)
    for prompt in ("one", "two", "three"):
        assert clinvk("-b", "mine", prompt).returncode == 0
    first = home.ids()[0]
    assert clinvk("sessions", "delete", "--yes", first).returncode == 0
    assert len(kept(home)) == 2
    assert clinvk("sessions", "clean", "--older-than", "0", "--dry-run").returncode == 0
    assert len(kept(home)) == 2
    assert clinvk("sessions", "clean", "--older-than", "0").returncode == 0
    assert home.ids() == []
    assert list((home.path / "state").glob("*")) == []


def test_a_missing_file_is_a_session_that_is_gone(clinvk: CommandLine, home: Home):
    home.backend("mine", REMEMBERS, **KEPT)
    assert clinvk("-b", "mine", "one").returncode == 0
    (path,) = kept(home)
    path.unlink()
    done = clinvk("-c", "two")
    assert done.returncode == 4
    assert "does not exist or is empty" in done.stderr
    assert "--replay" in done.stderr
    again = clinvk("-c", "--replay", "two")
    assert again.returncode == 0
    assert again.stdout.endswith("two ()\n")
    assert len(kept(home)) == 1
    assert kept(home) != [path]


def test_a_first_turn_that_fails_leaves_no_file_and_a_replaced_one_is_deleted(
    clinvk: CommandLine, home: Home
):
    home.backend("mine", REMEMBERS, **KEPT)
    assert clinvk("-b", "mine", "fail").returncode == 1
    assert kept(home) == []
    assert home.record()["native_ids"] == {}
    assert clinvk("-c", "one").returncode == 0
    before = kept(home)
    assert clinvk("-c", "--replay", "fail").returncode == 1 or kept(home) != before
    assert len(kept(home)) == 1


def test_a_changed_record_leads_to_no_other_file(clinvk: CommandLine, home: Home):
    home.backend("mine", REMEMBERS, **KEPT)
    assert clinvk("-b", "mine", "one").returncode == 0
    (id_,) = home.ids()
    victim = home.path / "state" / "victim"
    victim.mkdir()
    (victim / "log.db").write_text("x")
    path = home.path / "sessions" / f"{id_}.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"native_ids": {"mine": "../victim"}})
    )
    assert "'../victim' is not a session id of mine" in clinvk("-c", "two").stderr
    clinvk("sessions", "delete", "--yes", id_)
    assert (victim / "log.db").exists()


def test_where_a_session_is_kept_is_said_once():
    for keys, words in (
        ({"state": "../x"}, "state: '../x' is not the name of a file"),
        ({"state": "x", "native_id": "y"}, "it has no native id to read"),
        (
            {"argv": {"run": ["$state", "$options"]}},
            r"argv.run\[0\]: \$state needs the key 'state'",
        ),
        ({"argv": {"run": ["$options"], "resume": ["$new_id"]}}, r"argv.resume\[0\]: \$new_id"),
    ):
        with pytest.raises(ConfigError, match=words):
            manifest(**keys)


# Sums, a state, and what no line says


def step(reason: str, **part: Any) -> str:
    return say(type="step_finish", part={"reason": reason, **part})


STEPS: dict[str, Any] = {
    "events": [
        {"when": "type == 'start'", "emit": "started", "set": {"native_id": "id"}},
        {"when": "type == 'text'", "emit": "text", "set": {"text": "text"}},
        {
            "when": "type == 'step_finish' && part.reason == 'stop'",
            "emit": "finished",
            "set": {"usage_add": "part.tokens", "cost_add": "part.cost", "model": "part.model"},
        },
        {
            "when": "type == 'step_finish'",
            "emit": "unfinished",
            "set": {
                "message": "join(' ', ['its last step ended with', part.reason])",
                "usage_add": "part.tokens",
                "cost_add": "part.cost",
            },
        },
        {"when": "type == 'error'", "emit": "failed", "set": {"message": "text"}},
    ],
    "errors": [],
}
FIRST = step("tool-calls", tokens={"input": 100, "output": 10, "cached": 7}, cost=0.25)
SECOND = step("stop", tokens={"input": 120, "output": 20}, cost=0.5, model="big-1")


def result(clinvk: CommandLine, *args: str) -> dict[str, Any]:
    return clinvk.json("-b", "mine", "-o", "json", "--ephemeral", *args, "hello there")


STEPS["ephemeral"] = {}


def test_the_usage_of_several_steps_is_added_up(clinvk: CommandLine, home: Home):
    home.backend("mine", READ + START + FIRST + say(type="text", text="done") + SECOND, **STEPS)
    said = result(clinvk)
    assert said["exit_code"] == 0
    assert said["content"] == "done"
    assert said["usage"] == {
        "input": 220, "output": 30, "cached": 7, "cache_write": None, "reasoning": None,
        "total": 250,
    }  # fmt: skip
    assert said["cost"] == {"usd": 0.75, "source": "reported"}
    assert said["model"] == "big-1"


@pytest.mark.parametrize(
    ("script", "cost"),
    [
        (FIRST, 0.25),
        (step("tool-calls", cost=0), 0.0),
        (FIRST + SECOND + FIRST, 1.0),
        (SECOND + step("tool-calls"), None),
    ],
)
def test_a_cli_that_ends_between_two_steps_has_not_succeeded(
    clinvk: CommandLine, home: Home, script: str, cost: float | None
):
    home.backend("mine", READ + START + script, **STEPS)
    said = result(clinvk)
    assert said["exit_code"] == 1
    assert said["error"]["kind"] == "incomplete"
    assert "its last step ended with tool-calls" in said["error"]["message"]
    assert said["cost"] == (None if cost is None else {"usd": cost, "source": "reported"})


def test_usage_is_known_of_a_turn_that_fails_after_some_steps(clinvk: CommandLine, home: Home):
    home.backend("mine", READ + START + FIRST + say(type="error", text="broken"), **STEPS)
    said = result(clinvk)
    assert (said["error"]["kind"], said["error"]["message"]) == ("backend", "broken")
    assert said["usage"]["total"] == 110
    home.backend("mine", READ + START + FIRST + "exec sleep 60", **STEPS)
    said = result(clinvk, "--timeout", "1")
    assert (said["error"]["kind"], said["usage"]["total"]) == ("timeout", 110)


def test_a_figure_that_is_not_reported_is_null_and_not_0(clinvk: CommandLine, home: Home):
    for figures, known in (
        ({"output": 5}, {"output": 5}),
        ({"input": 5, "output": 0}, {"input": 5, "output": 0, "total": 5}),
        ({"input": None, "reasoning": "7"}, None),
        ({"in": 5}, None),
    ):
        home.backend("mine", READ + START + say(type="step_finish", part={"reason": "stop", "tokens": figures}), **STEPS)  # fmt: skip
        empty = dict.fromkeys(("input", "output", "cached", "cache_write", "reasoning", "total"))
        assert result(clinvk)["usage"] == (known and empty | known)


def test_the_message_can_be_a_part_of_stderr(clinvk: CommandLine, home: Home):
    noise = "echo 'Warning: true color'; echo 'Error: first'; echo 'Error: no such model'; echo at x.js:1"
    script = f"{READ}{{ {noise}; }} >&2; exit 3"
    for pattern, message in (
        (r"^Error: (.*)$", "no such model"),
        (r"Error: .*", "Error: no such model"),
        (
            r"nothing like this",
            "Warning: true color\nError: first\nError: no such model\nat x.js:1",
        ),
    ):
        home.backend("mine", script, **STEPS, stderr_message=pattern)
        assert result(clinvk)["error"]["message"] == message


def test_a_model_that_no_line_names_can_have_a_default(clinvk: CommandLine, home: Home):
    keys = {"output": "text", "ephemeral": {}, "default_model": ["$MINE_MODEL", "small-1"]}
    options = {"options": {"model": ["-m", "$value"]}, "argv": {"run": ["$options"]}}
    home.backend("mine", "cat", **keys, **options)
    assert result(clinvk)["model"] == "small-1"
    assert result(clinvk, "-m", "x")["model"] == "x"
    home.env["MINE_MODEL"] = "medium-1"
    assert result(clinvk)["model"] == "medium-1"


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ('[{"type":"start","id":"a"},{"type":"text","text":"hi"},{"type":"step_finish","part":{"reason":"stop"}}]', "hi"),
        ('[3,null,[{"type":"text"}],{"type":"step_finish","part":{"reason":"stop"}}]', ""),
        ('{"type":"step_finish","part":{"reason":"stop"}}', ""),
        ('Warning: [x]\n[warn] slow\n[{"type":"text","text":"hi"},\n{"type":"step_finish","part":{"reason":"stop"}}]', "hi"),
        ("[]", None),
        ("not JSON", None),
    ],
)  # fmt: skip
def test_one_json_value_can_be_a_list(
    clinvk: CommandLine, home: Home, printed: str, text: str | None
):
    home.backend("mine", f"{READ}cat <<'END'\n{printed}\nEND\n", **STEPS, output="json")
    said = result(clinvk)
    if text is None:
        assert said["error"]["kind"] == "incomplete"
        assert printed == "[]" or "not JSON" in said["error"]["message"]
    else:
        assert (said["exit_code"], said["content"]) == (0, text)


def test_a_session_that_is_named_for_each_step_begins_once(clinvk: CommandLine, home: Home):
    text = say(type="text", text="done")
    home.backend("mine", READ + START + FIRST + START + text + SECOND, **STEPS)
    done = clinvk("-b", "mine", "-o", "stream-json", "--ephemeral", "hello there")
    types = [json.loads(line)["type"] for line in done.stdout.splitlines()]
    assert types == ["started", "text", "finished"]
