"""The configuration: where each value comes from, what is wrong in it, and what it does."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clinvk.config import extras, keys, loading, schema
from clinvk.errors import ConfigError
from tests.conftest import END, READ, START, CommandLine, Home, say

FORM = READ + 'echo "$@" >"$0.argv"\nenv >"$0.env"\npwd >"$0.cwd"\n' + START + END


def load(text: str = "", **env: str) -> schema.Loaded:
    folder = Path(env["CLINVK_HOME"])
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(text)
    return loading.load(env)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"CLINVK_HOME": str(tmp_path / "home")}


# Where a value comes from


def test_without_a_file_the_defaults_hold(env: dict):
    loaded = loading.load(env)
    assert loaded.config.default_backend == "claude"
    assert loaded.config.session.retention_days == 30
    assert loaded.config.session.auto_resume is False
    assert loaded.config.parallel.max_workers == 3
    assert loaded.origin("default_backend") == "default"


@given(
    st.sampled_from([None, "from-file"]), st.sampled_from([None, "from-env"]),
    st.sampled_from([None, "from-session"]), st.sampled_from([None, "from-flag"]),
)  # fmt: skip
def test_the_higher_source_wins(
    file: str | None, variable: str | None, session: str | None, flag: str | None
):
    from clinvk.backend.options import resolve_settings
    from clinvk.model.request import Request
    from clinvk.model.session import Session

    origins = {"backends.fake.model": "$CLINVK_FAKE_MODEL" if variable else "a file"}
    model = variable or file
    loaded = schema.Loaded(
        schema.Config(backends={"fake": schema.BackendConfig(model=model)}), Path(), Path(), origins
    )
    request = Request(prompt="x", options={"model": flag} if flag else {})
    kept = Session(id="s", options={"model": session}) if session else None
    found = resolve_settings(request, kept, loaded, "fake").get("model")
    wanted = flag or session or variable or file
    assert (found.value if found else None) == wanted


def test_the_environment_goes_before_the_file(env: dict, home: Home):
    home.backend("my-own")
    env = {**env, "CLINVK_HOME": str(home.path), "CLINVK_NOBODYS_MODEL": "somebody else's"}
    loaded = load("default_backend: codex\nbackends: {claude: {model: opus}}", **env,
                  CLINVK_BACKEND="gemini", CLINVK_CLAUDE_MODEL="haiku", CLINVK_MY_OWN_MODEL="x")  # fmt: skip
    assert loaded.config.default_backend == "gemini"
    assert loaded.config.backends["claude"].model == "haiku"
    assert loaded.config.backends["my-own"].model == "x"
    assert "nobodys" not in loaded.config.backends
    assert loaded.origin("default_backend") == "$CLINVK_BACKEND"
    assert loaded.origin("backends.claude.model") == "$CLINVK_CLAUDE_MODEL"


def test_a_value_of_the_file_comes_from_the_file(env: dict):
    loaded = load("session: {retention_days: 7}", **env)
    assert loaded.origin("session.retention_days") == str(loaded.path)
    assert loaded.origin("session.auto_resume") == "default"


def test_the_variables_name_the_folder_and_the_file(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    other = tmp_path / "other.yaml"
    other.write_text("default_backend: codex")
    home.config("default_backend: gemini")
    assert clinvk("config", "get", "default_backend").stdout == "gemini\n"
    env = {"CLINVK_CONFIG": str(other)}
    assert clinvk("config", "get", "default_backend", env=env).stdout == "codex\n"
    assert clinvk("config", "path", env=env).stdout == f"{other}\n"
    third = tmp_path / "third.yaml"
    third.write_text("default_backend: echo")
    args = ["config", "get", "default_backend", "--config", str(third)]
    assert clinvk(*args, env=env).stdout == "echo\n"
    assert clinvk("--config", str(third), "config", "get", "default_backend").stdout == "echo\n"
    moved = {"CLINVK_HOME": str(tmp_path / "moved")}
    assert clinvk("config", "path", env=moved).stdout == f"{tmp_path}/moved/config.yaml\n"


# What is wrong


@pytest.mark.parametrize(("text", "line", "words"), [
    ("sesion: {}", 1, ["unknown key 'sesion'", "did you mean 'session'?"]),
    ("output:\n  format: text\nparallel:\n  max_worker: 3", 4, ["parallel", "'max_worker'", "'max_workers'"]),
    ("backends:\n  claude:\n    modle: x", 3, ["backends.claude", "'modle'", "'model'"]),
    ("session:\n  retention_days: soon", 2, ["session.retention_days", "whole number", "'soon'"]),
    ("session:\n  retention_days: 1.5", 2, ["session.retention_days", "whole number"]),
    ("session:\n  retention_days: true", 2, ["session.retention_days", "whole number"]),
    ("session:\n  auto_resume: 1", 2, ["session.auto_resume", "true or false"]),
    ("session:\n  auto_resume: 'yes'", 2, ["session.auto_resume", "true or false"]),
    ("session:\n  default_tags: mine", 2, ["session.default_tags", "a list"]),
    ("session:\n  default_tags:\n    - a\n    - 3", 4, ["session.default_tags[1]", "text"]),
    ("output:\n  format: xml", 2, ["output.format", "'xml' is not one of: text, json"]),
    ("output:\n  color: blue", 2, ["output.color", "auto, always, never"]),
    ("unified_flags:\n  approval_mode: perhaps", 2, ["unified_flags.approval_mode", "default, auto"]),
    ("unified_flags:\n  command_timeout_secs: long", 2, ["unified_flags.command_timeout_secs", "a number"]),
    ("backends:\n  claude: opus", 2, ["backends.claude", "keys and values"]),
    ("backends:\n  claude:\n    env:\n      A: 1", 4, ["backends.claude.env.A", "text"]),
    ("backends: [claude]", 1, ["backends", "keys and values"]),
    ("default_backend: [x]", 1, ["default_backend", "text"]),
    ("# one\n\nsession: true", 3, ["session", "keys and values"]),
    ("a: [", 2, []), ("a: b\n c: d\n", 2, []), ("\tx: 1", 1, []), ("- a\n- b", 1, ["keys and values"]),
    ("just words", 1, ["keys and values"]),
])  # fmt: skip
def test_what_is_wrong_is_told_with_file_line_and_key(
    clinvk: CommandLine, home: Home, text: str, line: int, words: list[str]
):
    home.backend("fake")
    path = home.path / "config.yaml"
    path.write_text(text)
    for args in (["config", "check"], ["-b", "fake", "x"]):
        done = clinvk(*args)
        assert done.returncode == 3, done
        assert f"{path}: line {line}: " in done.stderr
        for word in words:
            assert word in done.stderr
    assert home.ids() == []


@pytest.mark.parametrize("args", [["sessions", "list"], ["config", "show"], ["doctor"], ["backends", "list"],
                                  ["resume", "--last", "x"], ["-c", "x"], ["config", "set", "output.color", "never"]])  # fmt: skip
def test_a_broken_file_is_never_replaced_by_defaults(
    clinvk: CommandLine, home: Home, args: list[str]
):
    path = home.config("session: {retention_days: soon}")
    before = path.read_text()
    assert clinvk(*args).returncode == 3
    assert path.read_text() == before


def test_a_key_that_stands_twice_is_told(clinvk: CommandLine, home: Home):
    home.config("session: {auto_resume: true}\nsession: {retention_days: 5}\n")
    assert clinvk("config", "check").returncode == 3


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_what_is_no_text_file_is_told(clinvk: CommandLine, home: Home, content: bytes | None):
    path = home.path / "config.yaml"
    home.path.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    for args in (
        ["config", "show"],
        ["config", "check"],
        ["config", "set", "output.color", "never"],
    ):
        done = clinvk(*args)
        assert done.returncode == 3, done
        assert str(path) in done.stderr


def test_a_file_that_was_asked_for_has_to_be_there(clinvk: CommandLine, home: Home):
    for args, env in ((["--config", "/no/such.yaml", "config", "show"], {}),
                      (["config", "show"], {"CLINVK_CONFIG": "/no/such.yaml"})):  # fmt: skip
        done = clinvk(*args, env=env)
        assert done.returncode == 3
        assert "/no/such.yaml: no such file" in done.stderr


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "session:\n", "---\n", "output: {}\nbackends:\n", "null"]
)
def test_nothing_is_as_good_as_no_file(clinvk: CommandLine, home: Home, text: str):
    home.config("")
    (home.path / "config.yaml").write_text(text)
    assert clinvk("config", "check").returncode == 0
    assert clinvk("config", "get", "session.retention_days").stdout == "30\n"


# The command


def test_show_tells_every_setting_and_with_origin_where_from(clinvk: CommandLine, home: Home):
    home.backend("fake")
    path = home.config("session: {retention_days: 7}\nbackends: {fake: {env: {TOKEN: secret}}}")
    text = clinvk("config", "show").stdout
    shown = set(re.findall(r"^([\w.]+):", text, re.MULTILINE))
    assert {key for key, _ in keys.flatten(schema.Config()) if key != "backends"} <= shown
    assert "session.retention_days: 7" in text
    rows = clinvk("config", "show", "--origin", env={"CLINVK_BACKEND": "fake"}).stdout
    assert re.search(rf"session.retention_days +7 +{path}", rows)
    assert re.search(r"session.auto_resume +false +default", rows)
    assert re.search(r"default_backend +fake +\$CLINVK_BACKEND", rows)


@pytest.mark.parametrize("args", [["show"], ["show", "--origin"], ["show", "--json"], ["get", "backends"],
                                  ["get", "backends.fake"], ["get", "backends", "--json"]])  # fmt: skip
def test_values_of_an_environment_are_masked(clinvk: CommandLine, home: Home, args: list[str]):
    home.backend("fake")
    home.config("backends: {fake: {env: {TOKEN: secret}}}")
    done = clinvk("config", *args)
    assert done.returncode == 0
    assert "secret" not in done.stdout + done.stderr
    assert "secret" not in clinvk("-b", "fake", "--dry-run", "x").stdout


def test_set_keeps_comments_order_and_quotes(clinvk: CommandLine, home: Home):
    path = home.config("""\
        # my own words
        session:
          retention_days: 7   # a week

        # the end
        default_backend: "codex"
    """)
    assert clinvk("config", "set", "session.retention_days", "14").returncode == 0
    assert clinvk("config", "set", "output.color", "never").returncode == 0
    text = path.read_text()
    assert re.match(
        r"# my own words\nsession:\n  retention_days: 14 +# a week\n\n# the end\n", text
    )
    assert 'default_backend: "codex"' in text
    assert yaml.safe_load(text)["output"] == {"color": "never"}


def test_set_never_bakes_the_environment_in(clinvk: CommandLine, home: Home):
    env = {"CLINVK_BACKEND": "gemini", "CLINVK_CLAUDE_MODEL": "opus"}
    assert clinvk("config", "set", "session.retention_days", "14", env=env).returncode == 0
    text = (home.path / "config.yaml").read_text()
    assert yaml.safe_load(text) == {"session": {"retention_days": 14}}


@pytest.mark.parametrize(("key", "value", "stored"), [
    ("session.auto_resume", "true", True), ("session.default_tags", "[a, b]", ["a", "b"]),
    ("backends.fake.model", "4", "4"), ("backends.fake.model", "opus: 1", "opus: 1"),
    ("backends.fake.env.A", "x", "x"), ("unified_flags.command_timeout_secs", "2.5", 2.5),
    ("unified_flags.max_turns", "3", 3), ("parallel.max_parallel_per_backend.claude", "4", 4),
    ("backends.fake.extra_flags", "[--x]", ["--x"]), ("default_backend", "echo", "echo"),
])  # fmt: skip
def test_set_knows_the_type_of_a_key(
    clinvk: CommandLine, home: Home, key: str, value: str, stored: Any
):
    home.backend("fake")
    done = clinvk("config", "set", key, value)
    assert done.returncode == 0, done
    found: Any = yaml.safe_load((home.path / "config.yaml").read_text())
    for step in key.split("."):
        found = found[step]
    assert found == stored


@pytest.mark.parametrize(("key", "value", "words"), [
    ("sesion.auto_resume", "true", "did you mean 'session'"), ("session.auto_resum", "true", "'auto_resume'"),
    ("session.auto_resume", "perhaps", "true or false"), ("output.format", "xml", "text, json"),
    ("session.retention_days.x", "1", "no keys"), ("session", "x", "keys and values"), ("", "x", "unknown key"),
])  # fmt: skip
def test_set_refuses_what_would_be_wrong(
    clinvk: CommandLine, home: Home, key: str, value: str, words: str
):
    path = home.config("output: {color: never}\n")
    done = clinvk("config", "set", key, value)
    assert done.returncode == 3, done
    assert words in done.stderr
    assert path.read_text() == "output: {color: never}\n"


def test_unset_takes_a_key_out_and_the_default_holds_again(clinvk: CommandLine, home: Home):
    path = home.config("# mine\nsession:\n  retention_days: 7\noutput:\n  color: never # x\n")
    assert clinvk("config", "unset", "session.retention_days").returncode == 0
    assert clinvk("config", "get", "session.retention_days").stdout == "30\n"
    assert "# mine" in path.read_text()
    assert "color: never # x" in path.read_text()
    assert clinvk("config", "unset", "session.retention_days").returncode == 0  # twice is fine
    assert clinvk("config", "unset", "session.retention_dais").returncode == 3


def test_a_file_that_is_a_link_stays_one(clinvk: CommandLine, home: Home, tmp_path: Path):
    (tmp_path / "dotfile").write_text("output: {color: never}\n")
    home.path.mkdir()
    (home.path / "config.yaml").symlink_to(tmp_path / "dotfile")
    assert clinvk("config", "set", "session.retention_days", "7").returncode == 0
    assert (home.path / "config.yaml").is_symlink()
    assert "retention_days: 7" in (tmp_path / "dotfile").read_text()


def editor(tmp_path: Path, line: str) -> dict[str, str]:
    program = tmp_path / "my editor"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    return {"EDITOR": f"'{program}' --wait"}


def test_edit_opens_the_file_in_the_editor_and_checks_it(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    env = editor(tmp_path, 'echo "default_backend: codex" >>"$2"')
    assert clinvk("config", "edit", env=env).returncode == 0
    assert clinvk("config", "get", "default_backend").stdout == "codex\n"
    done = clinvk("config", "edit", env=editor(tmp_path, 'echo "x: 1" >>"$2"'))
    assert done.returncode == 3
    assert "unknown key 'x'" in done.stderr


def test_edit_opens_a_broken_file_too(clinvk: CommandLine, home: Home, tmp_path: Path):
    home.config("x: [")
    env = editor(tmp_path, 'echo "default_backend: codex" >"$2"')
    assert clinvk("config", "edit", env=env).returncode == 0
    assert clinvk("config", "check").returncode == 0


def test_an_editor_that_is_not_there_is_told(clinvk: CommandLine):
    done = clinvk("config", "edit", env={"EDITOR": "/no/such/editor"})
    assert done.returncode == 3
    assert "/no/such/editor" in done.stderr


def test_check_takes_another_file(clinvk: CommandLine, home: Home, tmp_path: Path):
    (tmp_path / "good.yaml").write_text("default_backend: codex")
    (tmp_path / "bad.yaml").write_text("default_backed: codex")
    assert clinvk("config", "check", str(tmp_path / "good.yaml")).returncode == 0
    assert clinvk("config", "check", str(tmp_path / "bad.yaml")).returncode == 3
    assert clinvk("config", "check", str(tmp_path / "none.yaml")).returncode == 3


# What each key does


def argv(home: Home) -> str:
    return (home.path.parent / "fakes" / "fake.argv").read_text()


def environment(home: Home) -> list[str]:
    return (home.path.parent / "fakes" / "fake.env").read_text().splitlines()


EFFECTS: dict[str, tuple[str, list[str], Any]] = {
    "default_backend": (
        "default_backend: fake", ["x"], lambda h, d: (d.stdout, d.stderr) == ("It is done.\n", "")),
    "unified_flags.approval_mode": (
        "unified_flags: {approval_mode: auto}", [], lambda h, d: "--auto" in argv(h)),
    "unified_flags.sandbox_mode": (
        "unified_flags: {sandbox_mode: read-only}", [], lambda h, d: "--ro" in argv(h)),
    "unified_flags.verbose": (
        "unified_flags: {verbose: true}", [], lambda h, d: "ls -l" in d.stderr),
    "unified_flags.dry_run": (
        "unified_flags: {dry_run: true}", [], lambda h, d: "# backend: fake" in d.stdout and not h.ids()),
    "unified_flags.max_turns": (
        "unified_flags: {max_turns: 3}", [], lambda h, d: "--max-turns 3" in argv(h)),
    "unified_flags.max_tokens": (
        "unified_flags: {max_tokens: 3}", [], lambda h, d: "no option 'max_tokens'" in d.stderr),
    "unified_flags.command_timeout_secs": (
        "unified_flags: {command_timeout_secs: 0.2}", ["slow"], lambda h, d: d.returncode == 6),
    "backends.fake.model": (
        "backends: {fake: {model: big}}", [], lambda h, d: "--model big" in argv(h)),
    "backends.fake.allowed_tools": (
        "backends: {fake: {allowed_tools: [a, b]}}", [], lambda h, d: "--tools a --tools b" in argv(h)),
    "backends.fake.approval_mode": (
        "unified_flags: {approval_mode: auto}\nbackends: {fake: {approval_mode: none}}", [],
        lambda h, d: "--yolo" in argv(h) and "--auto" not in argv(h)),
    "backends.fake.sandbox_mode": (
        "backends: {fake: {sandbox_mode: full}}", [], lambda h, d: "--full" in argv(h)),
    "backends.fake.enabled": (
        "backends: {fake: {enabled: false}}", [], lambda h, d: d.returncode == 3 and "disabled" in d.stderr),
    "backends.fake.system_prompt": (
        "backends: {fake: {system_prompt: be brief}}", [], lambda h, d: "--system /" in argv(h)),
    "backends.fake.extra_flags": (
        "backends: {fake: {extra_flags: [--odd, a b]}}", [], lambda h, d: "--odd a b" in argv(h)),
    "backends.fake.env": (
        "backends: {fake: {env: {COLOUR: blue}}}", [], lambda h, d: "COLOUR=blue" in environment(h)),
    "session.store_token_usage": (
        "session: {store_token_usage: false}", [], lambda h, d: h.record()["usage"] is None),
    "session.redact": (
        "session: {redact: false}", ["password=" + "Tr0ub4dor9x"],
        lambda h, d: "Tr0ub4dor9x" in h.record()["prompt"]),
    "session.store_messages": (
        "session: {store_messages: false}", [], lambda h, d: h.record()["prompt"] is None),
    "session.default_tags": (
        "session: {default_tags: [mine]}", [], lambda h, d: h.record()["tags"] == ["mine"]),
    "session.storage": (
        "session: {storage: nowhere}", [], lambda h, d: d.returncode == 3 and "nowhere" in d.stderr),
    "output.format": ("output: {format: json}", [], lambda h, d: '"content"' in d.stdout),
    "output.show_tokens": ("output: {show_tokens: true}", [], lambda h, d: "10 tokens in" in d.stderr),
    "output.show_timing": (
        "output: {show_timing: true}", [], lambda h, d: re.search(r"\d\.\d s", d.stderr)),
    "output.color": (
        "output: {color: always, show_tokens: true}", [], lambda h, d: "\x1b[" in d.stderr),
}  # fmt: skip
ELSEWHERE = {
    "output.render": "test_rendering.py",
    "unified_flags.exit_timeout_secs": "test_lingering.py",
    "unified_flags.schema_retries": "test_schema.py",
    "unified_flags.rounds": "test_checks.py",
    "unified_flags.check_timeout_secs": "test_checks.py",
    "unified_flags.on_limit": "test_remembered_limits.py",
    "unified_flags.max_wait_secs": "test_remembered_limits.py",
    "unified_flags.fallback": "test_remembered_limits.py",
    "session.auto_resume": "test_dispatcher.py",
    "session.retention_days": "test_cli.py",
    "parallel.max_workers": "test_parallel.py",
    "parallel.max_parallel_per_backend": "test_parallel.py",
    "parallel.fail_fast": "test_parallel.py",
    "parallel.aggregate_output": "test_parallel.py",
    "cluster.url": "test_cluster.py",
    "cluster.shared": "test_cluster.py",
    "cluster.git": "test_cluster_git.py",
    "cluster.cache_gb": "test_cluster_git.py",
    "worker.allow.backends": "test_cluster.py",
    "worker.allow.directories": "test_cluster.py",
    "worker.allow.git": "test_cluster_allow.py",
    "worker.allow.approval": "test_cluster_allow.py",
    "worker.allow.sandbox": "test_cluster_allow.py",
    "worker.allow.commands": "test_cluster_allow.py",
    "worker.allow.env": "test_cluster_allow.py",
}


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_has_an_effect(clinvk: CommandLine, home: Home, key: str):
    text, args, seen = EFFECTS[key]
    tool = say(type="tool", name="Bash", input={"command": "ls -l"})
    home.backend(
        "fake", FORM.replace(START, START + tool + ("sleep 5\n" if args == ["slow"] else ""))
    )
    args = args or ["hello"]
    flags = [] if key == "default_backend" else ["-b", "fake"]
    before = clinvk(*flags, *args) if args != ["slow"] else None
    if before is not None:
        assert not seen(home, before), "it looks so without the key, too"
    for id_ in home.ids():
        (home.path / "sessions" / f"{id_}.json").unlink()
    home.config(text)
    done = clinvk(*flags, *args)
    assert seen(home, done), done


def test_every_key_has_such_a_test():
    defaults = schema.Config(backends={"fake": schema.BackendConfig()})
    known = {key for key, _ in keys.flatten(defaults)}
    assert known == set(EFFECTS) | set(ELSEWHERE)


@pytest.mark.parametrize(("text", "args"), [
    ("unified_flags: {max_turns: 3}", ["--max-turns", "5"]), ("backends: {fake: {model: big}}", ["-m", "small"]),
    ("backends: {fake: {approval_mode: auto}}", ["--approval", "none"]),
])  # fmt: skip
def test_a_flag_goes_before_the_file(clinvk: CommandLine, home: Home, text: str, args: list[str]):
    home.backend("fake", FORM)
    home.config(text)
    assert clinvk("-b", "fake", *args, "x").returncode == 0
    words = {"5": "--max-turns 5", "small": "--model small", "none": "--yolo"}
    assert words[args[1]] in argv(home)
    assert not {"3", "big", "--auto"} & set(argv(home).split())


def test_the_environment_of_a_backend_does_not_reach_another(clinvk: CommandLine, home: Home):
    home.backend("fake", FORM)
    home.backend("other", FORM)
    home.config("backends: {other: {env: {COLOUR: blue}}}")
    assert clinvk("-b", "fake", "x").returncode == 0
    assert not [line for line in environment(home) if line.startswith("COLOUR")]


def test_a_path_in_the_environment_of_a_backend_finds_its_program(clinvk: CommandLine, home: Home):
    program = home.backend("fake", FORM)
    home.manifest("fake", home_manifest(home) | {"command": "fake"})
    assert clinvk("-b", "fake", "x").returncode == 2
    home.config(f"backends: {{fake: {{env: {{PATH: '{program.parent}:{os.environ['PATH']}'}}}}}}")
    assert clinvk("-b", "fake", "x").returncode == 0


def home_manifest(home: Home) -> dict[str, Any]:
    return yaml.safe_load((home.path / "backends" / "fake.yaml").read_text())


@pytest.mark.parametrize(("text", "place"), [
    ("backends: {cluade: {model: x}}", "unknown key 'cluade'; did you mean 'claude'"),
    ("parallel: {max_workers: -4}", "parallel.max_workers: -4 is too small"),
    ("unified_flags: {command_timeout_secs: -1}", "command_timeout_secs: -1.0 is not greater than 0"),
    ("session: {retention_days: -1}", "session.retention_days: -1 is too small"),
])  # fmt: skip
def test_a_value_that_means_nothing_is_told(clinvk: CommandLine, home: Home, text: str, place: str):
    home.config(text)
    done = clinvk("config", "check")
    assert done.returncode == 3
    assert place in done.stderr


# What can be used, and what cannot


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("session.storage", "nonsense", "unknown store 'nonsense'"),
        ("session.storage", "[redis://bob:Secret@h:1/0]", "unknown store"),
        ("session.storage", "sqlite://", "unknown store"),
        ("session.storage", "redis://h:1/abc", "the database, after the host, is not a number"),
        ("session.storage", "redis://h:1/0/1", "the database, after the host, is not a number"),
        ("session.storage", "redis://h:99999/0", "the port is greater than 65535"),
        ("session.storage", "redis://h:1/0#Secret", "a # has no meaning in it"),
        ("session.storage", "redis://:…@h:1/0", "the password is hidden"),
        ("session.storage", "redis://bob:…@h:1/0", "the password is hidden"),
        ("default_backend", "nosuch", "unknown backend 'nosuch'; known: claude, cline, codex"),
        ("cluster.url", "foo", "malformed address 'foo': it is not one of a Redis server"),
        ("cluster.url", "redis://bob:Secret@h:99999/0", "the port is greater than 65535"),
        ("cluster.url", "redis://h/0?nmae=x", "unknown parameter 'nmae'; did you mean 'name'?"),
        ("cluster.url", "redis://h/0?name=a%20b", "invalid name of a cluster: 'a b'"),
        ("cluster.url", "redis://:…@h:1/0", "the password is hidden"),
        ("cluster.git", "ext::sh -c x", "'ext::sh -c x' is not a URL that git can use here"),
        ("cluster.git", "https://bob:Secret@h/x.git", "contains a password"),
        ("cluster.shared", ["projects"], "shared[0]: 'projects' is not an absolute path"),
        ("cluster.cache_gb", -1, "-1 is too small; the minimum is 0"),
        ("worker.allow.backends", ["clade"], "unknown backend 'clade'; did you mean 'claude'?"),
        ("worker.allow.directories", ["x"], "directories[0]: 'x' is not an absolute path"),
        ("worker.allow.git", [""], "git[0]: is empty"),
        ("worker.allow.env", ["A=b"], "'A=b' is not the name of a variable"),
    ],
)
def test_set_and_check_refuse_what_no_command_could_use(
    clinvk: CommandLine, home: Home, key: str, value: Any, told: str
):
    done = clinvk("config", "set", key, value if isinstance(value, str) else json.dumps(value))
    assert done.returncode == 3
    assert told in done.stderr
    assert "Secret" not in done.stderr
    assert not (home.path / "config.yaml").exists()
    for step in reversed(key.split(".")):
        value = {step: value}
    home.config(json.dumps(value))
    done = clinvk("config", "check")
    assert done.returncode == 3
    assert told in done.stderr
    assert "Secret" not in done.stderr
    good = {"default_backend": "echo", "session.storage": "file", "cluster.url": "redis://h:1/0",
            "cluster.git": "origin", "cluster.shared": "[/srv]", "cluster.cache_gb": "0"}  # fmt: skip
    fix = ("set", key, good[key]) if key in good else ("set", key, "[]")
    if key.startswith(("cluster", "worker")):
        told_first = clinvk("config", "show").stderr
        assert told in told_first
        assert "fix it with: clinvk config edit" in told_first
    assert clinvk("config", *fix).returncode == 0
    assert clinvk("config", "check").returncode == 0
    assert clinvk("config", "show").returncode == 0


def test_another_setting_can_be_changed_while_the_default_backend_is_unknown(
    clinvk: CommandLine, home: Home
):
    home.config("default_backend: removed\n")
    assert clinvk("config", "set", "output.color", "never").returncode == 0
    done = clinvk("hi")
    assert done.returncode == 3
    assert f"{home.path / 'config.yaml'}: default_backend: unknown backend 'removed'" in done.stderr


@pytest.mark.parametrize("digits", [200, 3000, 6000])
def test_a_long_number_is_not_printed_whole(clinvk: CommandLine, home: Home, digits: int):
    for key, value in (
        ("output.color", "9" * digits),
        ("parallel.max_workers", "0." + "9" * digits),
    ):
        done = clinvk("config", "set", key, value)
        assert done.returncode == 3
        assert len(done.stderr) < 400
        assert "whole number, found '9" not in done.stderr
    home.config(f"parallel: {{max_workers: -{'9' * digits}}}\n")
    done = clinvk("config", "check")
    assert done.returncode == 3
    assert len(done.stderr) < 400


def test_a_date_is_called_one(clinvk: CommandLine, home: Home):
    home.config("backends: {echo: {model: 2020-01-01}}\n")
    done = clinvk("config", "check")
    assert "expected text, found the date 2020-01-01; put it in quotes" in done.stderr


def test_a_rejected_value_is_not_looked_for_in_the_file(clinvk: CommandLine, home: Home):
    home.config("output: {color: never}\n")
    done = clinvk("config", "set", "parallel.max_workers", "0")
    assert done.stderr == (
        "clinvk: parallel.max_workers: 0 is too small; the minimum is 1; nothing was changed\n"
    )


def test_a_home_that_is_a_file_is_named(clinvk: CommandLine, tmp_path: Path):
    (tmp_path / "file").touch()
    done = clinvk("-b", "echo", "hi", env={"CLINVK_HOME": str(tmp_path / "file")})
    assert done.returncode == 3
    assert f"{tmp_path / 'file'} is not a directory" in done.stderr
    assert "set CLINVK_HOME to a directory" in done.stderr


def test_an_empty_home_variable_means_the_home_of_the_user():
    import pwd

    assert loading.find_home({"HOME": ""}) == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".clinvk"
    assert loading.find_home({}) == loading.find_home({"HOME": ""})


def test_a_fifo_that_nothing_writes_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loading, "FIFO_PATIENCE", 0.2)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="a FIFO without a writer") as refused:
        loading.load(home.env, tmp_path / "fifo")
    assert refused.value.exit_code == 3


def test_a_fifo_that_is_written_later_is_read(clinvk: CommandLine, tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    line = f"(sleep 0.5; echo 'output: {{color: never}}') >{tmp_path}/fifo"
    with subprocess.Popen(["bash", "-c", line]):
        assert (
            clinvk("config", "get", "output.color", "--config", f"{tmp_path}/fifo").stdout
            == "never\n"
        )


def test_a_home_that_everyone_can_write_draws_a_warning(clinvk: CommandLine, home: Home):
    home.path.mkdir(exist_ok=True)
    home.path.chmod(0o777)
    done = clinvk("-b", "echo", "hi")
    assert done.returncode == 0
    assert done.stderr.count("can be written by every user of this machine (mode 0777)") == 1
    assert "can be written by every user" in clinvk("doctor").stdout
    home.path.chmod(0o700)
    assert clinvk("-b", "echo", "hi").stderr == ""
    assert "can be written by every user" not in clinvk("doctor").stdout


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (["uv-receipt.toml", "pyvenv.cfg", "bin/pip"], "uv tool install --force"),
        (["pipx_metadata.json", "pyvenv.cfg", "bin/pip"], "pipx install --force"),
        (["pyvenv.cfg", "bin/pip"], "{prefix}/bin/pip install"),
        (["pyvenv.cfg"], "uv pip install --python {prefix}"),
        (["bin/pip"], "pip install"),
    ],
)
def test_an_extra_is_installed_with_what_clinvk_was_installed_with(
    tmp_path: Path, files: list[str], command: str
):
    prefix, checkout = tmp_path / "prefix", tmp_path / "my checkout"
    for name in files:
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).touch()
    checkout.mkdir()
    command = command.format(prefix=prefix)
    sources = {
        json.dumps({"url": checkout.as_uri(), "dir_info": {}}): f"{checkout}[export]",
        json.dumps({"url": "https://git.example/x", "vcs_info": {"vcs": "git"}}):
            "clinvk[export] @ git+https://git.example/x",
        json.dumps({"url": "file:///no/such/folder", "dir_info": {}}): "clinvk[export]",
        "[1]": "clinvk[export]",
    }  # fmt: skip
    for origin, package in sources.items():
        made = extras.install_command("export", prefix, origin)
        assert made == f"{command} '{package}'"
    assert extras.install_command("export", prefix, None) == f"{command} 'clinvk[export]'"
