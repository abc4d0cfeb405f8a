"""From what was asked for to the command that does it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clinvk.backend.catalog import Catalog
from clinvk.backend.command_line import build_command
from clinvk.backend.manifest import Manifest
from clinvk.backend.options import Setting, supported_settings
from clinvk.errors import SessionError, UsageError
from clinvk.process.command import Command

NONE = Path("/no/such/home")
UUID = "0f75bc8f-0ae3-4105-8b80-8280c1b89dbc"
NATIVE = {"claude": UUID, "codex": UUID, "gemini": UUID, "echo": "0123456789abcdef"}
BACKENDS = list(NATIVE)


def manifest(name: str) -> Manifest:
    return Catalog(NONE).load(name)


def command(name: str, prompt: str = "hello", **more: Any) -> Command:
    values = {
        "options": {},
        "cwd": Path("/folder"),
        "env": {},
        "temp_dir": Path("/tmp/private"),
    } | more
    return build_command(manifest(name), f"/bin/{name}", prompt=prompt, **values)


def flags(name: str, **options: Any) -> list[str]:
    """The words that options add to the command."""
    plain, mine = command(name).argv, list(command(name, options=options).argv)
    for word in plain:
        mine.remove(word)
    return mine


# Prompts


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1), st.sampled_from(BACKENDS), st.booleans(), st.booleans())
def test_no_prompt_ever_appears_in_the_arguments(
    prompt: str, name: str, resumed: bool, expand: bool
):
    marked = f"{prompt}\0MARK{prompt}"
    options = {"model": "m", "system_prompt": "s"}
    made = command(
        name, marked, options=options, native_id=NATIVE[name] if resumed else None, expand=expand
    )
    assert "MARK" in made.stdin.decode("utf-8", "surrogateescape")
    assert not any("MARK" in word for word in made.argv)
    assert not any("MARK" in word for word in made.env.values())
    assert "MARK" not in str(made)


@given(st.text(alphabet="@/?\\ab c\n.", min_size=1), st.sampled_from(BACKENDS))
def test_with_expand_a_prompt_goes_through_as_it_is(prompt: str, name: str):
    assert command(name, prompt, expand=True).stdin == prompt.encode()


@given(st.text(alphabet="@/?\\ab c\n.", min_size=1))
def test_what_nobody_would_expand_goes_through_as_it_is(prompt: str):
    assert command("codex", prompt).stdin == prompt.encode()
    assume(not prompt.startswith("/"))
    assert command("claude", prompt).stdin == prompt.encode()


@pytest.mark.parametrize(("name", "prompt", "stdin"), [
    ("claude", "/help", " /help"), ("claude", "/", " /"), ("claude", " /help", " /help"),
    ("claude", "a\n/help", "a\n/help"), ("claude", "see @file", "see @file"),
    ("gemini", "/help", "\u200b/help"), ("gemini", "?", "\u200b?"), ("gemini", "see @file.txt", "see \\@file.txt"),
    ("gemini", "@a @b", "\\@a \\@b"), ("gemini", "me@example.org", "me\\@example.org"),
    ("gemini", "an @ alone", "an @ alone"), ("gemini", "is \\@done", "is \\@done"),
    ("gemini", "a\n@b", "a\n\\@b"), ("gemini", '"@b" (@c)', '"\\@b" (\\@c)'),
    ("codex", "/help @x", "/help @x"), ("echo", "/help @x", "/help @x"),
])  # fmt: skip
def test_what_a_cli_would_expand_is_passed_as_text(name: str, prompt: str, stdin: str):
    assert command(name, prompt).stdin.decode() == stdin


def test_a_prompt_that_the_model_sees_differently_is_told():
    assert "2 places" in command("gemini", "@a and @b").notices[0]
    assert command("gemini", "nothing").notices == ()
    assert command("claude", "/help").notices == ()


@pytest.mark.parametrize(("name", "good", "bad"), [
    ("codex", "é" * 1_048_576, "é" * 1_048_577),
    ("claude", "x" * 8_000_000, "x" * 8_000_001),
    ("gemini", "x" * 8_388_608, "x" * 8_388_609),
    ("gemini", "é" * 4_194_304, "é" * 4_194_304 + "x"),
])  # fmt: skip
def test_a_prompt_beyond_the_limit_is_refused_and_none_is_cut(name: str, good: str, bad: str):
    assert len(command(name, good).stdin) == len(good.encode())
    with pytest.raises(UsageError, match=f"{name} takes at most"):
        command(name, bad)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_million_characters_are_taken_by_all(name: str):
    assert len(command(name, "x" * 1_000_000).stdin) == 1_000_000


def test_the_limit_counts_what_is_really_sent():
    with pytest.raises(UsageError):
        command("claude", "/" + "x" * 7_999_999)  # a space goes before it
    with pytest.raises(UsageError):
        command("gemini", "@x" + "x" * 8_388_606)


# Options


OPTIONS = {
    ("claude", "model", "opus"): ["--model", "opus"],
    ("claude", "approval", "auto"): ["--permission-mode", "acceptEdits"],
    ("claude", "approval", "none"): ["--permission-mode", "bypassPermissions"],
    ("claude", "approval", "always"): ["--permission-mode", "manual"],
    ("claude", "approval", "default"): [],
    ("claude", "sandbox", "read-only"): ["--tools", "Read,Grep,Glob", "--strict-mcp-config"],
    ("claude", "sandbox", "full"): [],
    ("claude", "planning", True): ["--permission-mode", "plan"],
    ("claude", "skill_set", ("/skills/a",)): ["--plugin-dir", "/skills/a"],
    ("claude", "max_turns", 3): ["--max-turns", "3"],
    ("claude", "max_tokens", 500): [],  # a variable, see below
    ("claude", "add_dir", ("/a", "/b c")): ["--add-dir", "/a", "--add-dir", "/b c"],
    ("claude", "allowed_tools", ("Bash(git *)", "Read")): [
        "--allowed-tools", "Bash(git *)", "--allowed-tools", "Read",
    ],
    ("claude", "schema", '{"a": 1}'): ["--json-schema", '{"a": 1}'],
    ("claude", "max_budget_usd", "2.5"): ["--max-budget-usd", "2.5"],
    ("claude", "effort", "high"): ["--effort", "high"],
    ("codex", "model", "gpt"): ["-m", "gpt"],
    ("codex", "sandbox", "read-only"): ["-s", "read-only"],
    ("codex", "sandbox", "workspace"): ["-s", "workspace-write"],
    ("codex", "sandbox", "full"): ["-s", "danger-full-access"],
    ("codex", "approval", "auto"): ["-s", "workspace-write"],
    ("codex", "approval", "none"): ["-s", "danger-full-access"],
    ("codex", "add_dir", ("/a", "/b")): ["--add-dir", "/a", "--add-dir", "/b"],
    ("codex", "effort", "high"): ["-c", 'model_reasoning_effort="high"'],
    ("codex", "profile", "work"): ["-p", "work"],
    ("codex", "system_prompt", 'say "no"\nalways'): ["-c", 'developer_instructions="say \\"no\\"\\nalways"'],
    ("gemini", "model", "flash"): ["--model", "flash"],
    ("gemini", "planning", True): ["--approval-mode", "plan"],
    ("gemini", "approval", "auto"): ["--approval-mode", "auto_edit"],
    ("gemini", "approval", "none"): ["--approval-mode", "yolo"],
    ("gemini", "approval", "always"): ["--approval-mode", "default"],
    ("gemini", "sandbox", "workspace"): ["--sandbox"],
    ("gemini", "sandbox", "full"): ["--sandbox=false"],
    ("gemini", "add_dir", ("/a", "/b")): ["--include-directories", "/a", "--include-directories", "/b"],
    ("gemini", "allowed_tools", ("x",)): ["--allowed-tools", "x"],
    ("echo", "model", "m"): ["--model", "m"],
    ("echo", "max_turns", 2): ["--max-turns", "2"],
    ("echo", "max_tokens", 500): ["--max-tokens", "500"],
    ("echo", "delay", "0.1"): ["--delay", "0.1"],
    ("echo", "fail", "429"): ["--fail", "429"],
}  # fmt: skip
IN_FILES = {("claude", "system_prompt"), ("codex", "schema"), ("gemini", "system_prompt"),
            ("echo", "system_prompt"), ("echo", "schema")}  # fmt: skip


def test_an_option_becomes_the_words_of_its_cli():
    for (name, option, value), words in OPTIONS.items():
        given = list(value) if isinstance(value, tuple) else value
        assert flags(name, **{option: given}) == words, (name, option)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_option_of_a_manifest_is_in_the_table_above(name: str):
    tested = {option for backend, option, _ in OPTIONS if backend == name}
    tested |= {option for backend, option in IN_FILES if backend == name}
    trivial = {"echo": {"approval", "sandbox", "add_dir", "allowed_tools"}}.get(name, set())
    assert set(manifest(name).options) - trivial == tested


@pytest.mark.parametrize(("name", "option"), sorted(IN_FILES))
def test_a_long_value_goes_into_a_private_file(name: str, option: str):
    made = command(name, options={option: "MARK\nof é"})
    ((path, text),) = made.files
    assert text == "MARK\nof é"
    assert path.parent == made.temp_dir == Path("/tmp/private")
    assert not any("MARK" in word for word in (*made.argv, *made.env.values()))
    assert str(path) in made.argv or str(path) in made.env.values()


def test_without_private_files_there_is_no_private_folder():
    assert command("claude", options={"model": "x"}).temp_dir is None


@pytest.mark.parametrize("sandbox", ["read-only", "workspace", "full"])
def test_an_implied_sandbox_gives_way_to_one_that_was_asked_for(sandbox: str):
    words = flags("codex", approval="none", sandbox=sandbox)
    assert words.count("-s") == 1
    assert words == flags("codex", sandbox=sandbox)


def test_codex_takes_its_options_before_the_word_resume():
    argv = list(command("codex", native_id=UUID, options={"sandbox": "full", "model": "m"}).argv)
    assert argv.index("-s") < argv.index("resume")
    assert argv.index("-m") < argv.index("resume")
    assert argv[argv.index("resume") :] == ["resume", UUID, "-"]


@pytest.mark.parametrize("name", BACKENDS)
def test_resume_names_the_native_session(name: str):
    assert NATIVE[name] in command(name, native_id=NATIVE[name]).argv


@pytest.mark.parametrize("name", BACKENDS)
def test_what_stands_behind_the_dashes_comes_behind_the_options(name: str):
    argv = list(command(name, options={"model": "m"}, args=["--odd", "x y"]).argv)
    assert argv.index("m") < argv.index("--odd")
    assert argv[argv.index("--odd") + 1] == "x y"


def test_a_limit_of_tokens_is_a_variable_of_claude():
    made = command("claude", options={"max_tokens": 500})

    assert made.env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "500"
    assert "CLAUDE_CODE_MAX_OUTPUT_TOKENS" not in command("claude").env


def given(origin: str, **values: Any) -> dict[str, Setting]:
    return {name: Setting(value, origin) for name, value in values.items()}


@pytest.mark.parametrize(("name", "option", "value"), [
    ("codex", "max_turns", 3), ("gemini", "schema", "{}"), ("codex", "allowed_tools", ["x"]),
    ("codex", "max_tokens", 500), ("gemini", "max_tokens", 500),
    ("gemini", "max_turns", 3), ("claude", "temperature", "1"), ("claude", "delay", "1"),
])  # fmt: skip
def test_an_option_that_a_cli_lacks_is_refused_by_name(name: str, option: str, value: Any):
    with pytest.raises(UsageError, match=f"{name} has no option {option!r}") as caught:
        supported_settings(given("command line", **{option: value}), manifest(name), lenient=False)
    assert "--lenient" in caught.value.hint
    kept, notices = supported_settings(
        given("command line", **{option: value}), manifest(name), lenient=True
    )
    assert kept == {}
    assert option in notices[0]
    kept, notices = supported_settings(
        given("/x/config.yaml", **{option: value}), manifest(name), lenient=False
    )
    assert kept == {}
    assert "config file" in notices[0]


@pytest.mark.parametrize("origin", ["command line", "/x/config.yaml", "session"])
@pytest.mark.parametrize(("name", "option", "value"), [
    ("claude", "sandbox", "workspace"), ("codex", "approval", "always"), ("gemini", "sandbox", "read-only"),
])  # fmt: skip
def test_an_approval_or_sandbox_that_cannot_be_kept_is_refused_wherever_it_comes_from(
    name: str, option: str, value: str, origin: str
):
    with pytest.raises(UsageError, match=f"{name} cannot enforce {option} {value!r}"):
        supported_settings(given(origin, **{option: value}), manifest(name), lenient=False)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_word_that_is_no_approval_is_refused(name: str):
    with pytest.raises(UsageError, match="is not one of: default, auto, none, always"):
        supported_settings(given("command line", approval="perhaps"), manifest(name), lenient=False)


# Native ids


@pytest.mark.parametrize("name", ["claude", "codex"])
@pytest.mark.parametrize("native", ["", "x", "last", "--help", "0f75bc8f", UUID + "x", f" {UUID}", "../x",
                                    UUID + "\n"])  # fmt: skip
def test_what_is_no_native_id_is_never_handed_over(name: str, native: str):
    if native == "":
        assert "resume" not in command(name, native_id=native or None).argv
        return
    with pytest.raises(SessionError, match="is not a session id"):
        command(name, native_id=native)


@pytest.mark.parametrize("native", ["1", "latest", "--help", "12345678 "])
def test_gemini_takes_no_index_for_a_session(native: str):
    with pytest.raises(SessionError):
        command("gemini", native_id=native)


# Ephemeral and the environment


@pytest.mark.parametrize(("name", "flag"), [
    ("claude", "--no-session-persistence"), ("codex", "--ephemeral"), ("echo", "--ephemeral"),
])  # fmt: skip
def test_an_ephemeral_run_tells_the_cli(name: str, flag: str):
    assert flag in command(name, ephemeral=True).argv
    assert flag not in command(name).argv


def test_an_ephemeral_gemini_leaves_its_reports_in_a_folder_that_goes():
    made = command("gemini", ephemeral=True)
    assert made.env["TMPDIR"] == "/tmp/private" == str(made.temp_dir)
    assert ("~/.gemini/tmp/*/chats/session-*.json*", "sessionId") in made.removals
    assert command("gemini").removals == ()


def test_the_environment_of_the_user_comes_through():
    made = command("gemini", env={"A": "b", "GEMINI_API_KEY": "k"}).env
    assert (made["A"], made["GEMINI_API_KEY"]) == ("b", "k")
    assert made["GEMINI_CLI_NO_RELAUNCH"] == "true"
    assert command("codex", env={"A": "b"}).env == {"A": "b"}


@pytest.mark.parametrize("name", BACKENDS)
def test_json_in_options_stays_json(name: str):
    schema = json.dumps({"type": "object", "title": "$value $file 'x'"})
    if "schema" in manifest(name).options:
        made = command(name, options={"schema": schema})
        assert schema in made.argv or made.files[0][1] == schema


OUTER = {  # what the real CLIs set for the commands that they run
    "claude": {
        "CLAUDECODE": "1", "CLAUDE_CODE_CHILD_SESSION": "1", "CLAUDE_CODE_CHILD_NOTES_DIR": "/n",
        "CLAUDE_CODE_ENTRYPOINT": "sdk-cli", "CLAUDE_CODE_EXECPATH": "/bin/claude",
        "CLAUDE_CODE_MESSAGING_SOCKET": "/s", "CLAUDE_CODE_MESSAGING_TOKEN": "t", "CLAUDE_PID": "9",
        "CLAUDE_CODE_SESSION_ID": "e68f", "CLAUDE_CODE_SESSION_ATTENDED": "0",
        "CLAUDE_CODE_SESSION_ACCESS_TOKEN": "t", "CLAUDE_EFFORT": "medium",
    },
    "codex": {
        "CODEX_CI": "1", "CODEX_SESSION_ID": "01a2", "CODEX_THREAD_ID": "01a2",
        "CODEX_TOOL_CALL_ID": "call_9", "CODEX_VERSION": "0.171.0", "CODEX_MANAGED_BY_NPM": "1",
        "CODEX_MANAGED_PACKAGE_ROOT": "/c",
    },
    "gemini": {"GEMINI_CLI": "1"},
}  # fmt: skip
SETTINGS = {
    "claude": ["CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_MAX_RETRIES", "CLAUDE_CODE_OAUTH_TOKEN",
               "CLAUDE_CONFIG_DIR", "ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "IS_SANDBOX",
               "CLAUDE_CODE_SESSIONEND_HOOKS_TIMEOUT_MS", "CLAUDE_CODE_MAX_OUTPUT_TOKENS"],
    "codex": ["CODEX_HOME", "CODEX_API_KEY", "CODEX_SANDBOX_NETWORK_DISABLED", "CODEX_CA_CERTIFICATE"],
    "gemini": ["GEMINI_API_KEY", "GEMINI_CLI_TRUST_WORKSPACE", "GEMINI_MODEL"],
}  # fmt: skip


@pytest.mark.parametrize("name", OUTER)
def test_a_cli_does_not_learn_of_the_session_that_started_clinvk(name: str):
    settings = dict.fromkeys(SETTINGS[name], "set")
    made = command(name, env={**OUTER[name], **settings})
    assert not OUTER[name].keys() & made.env.keys()
    assert settings.items() <= made.env.items()
    assert {k for k, v in made.env_changes.items() if v is None} == set(OUTER[name])
