"""What a session may permit, by who can have written its record."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from clinvk import SessionManager
from clinvk.backend import permissions
from clinvk.config import loading
from clinvk.dispatch.dispatcher import Dispatcher
from clinvk.model.request import Request
from clinvk.model.session import Message, MessageRole, Session, distrust_options
from clinvk.store import open_store
from tests.conftest import READ, START, CommandLine, Home, say
from tests.needs import need_root
from tests.stores import KINDS, keep, store_url

SAYS_ARGV = READ + 'echo "$@" >"$0.argv"\n' + START + say(type="end", text="It is done.")
ALL = {"approval": "none", "sandbox": "full", "add_dir": ["/"], "allowed_tools": ["Bash"]}
FLAGS = "--approval none --sandbox full --add-dir / --allowed-tools Bash"


@pytest.mark.parametrize(
    ("options", "granted", "more"),
    [
        ({}, {}, {}),
        ({"approval": "default", "sandbox": "default"}, {}, {}),
        ({"approval": "always", "sandbox": "read-only"}, {}, {}),
        ({"approval": "auto"}, {}, {"approval": "auto"}),
        ({"approval": "auto"}, {"approval": "none"}, {}),
        ({"approval": "none"}, {"approval": "auto"}, {"approval": "none"}),
        ({"approval": "default"}, {"approval": "always"}, {"approval": "default"}),
        ({"approval": None}, {"approval": "always"}, {"approval": None}),
        ({"approval": None}, {}, {}),
        ({"approval": ["none"]}, {"approval": "none"}, {"approval": ["none"]}),
        ({"approval": "yolo"}, {"approval": "none"}, {"approval": "yolo"}),
        ({"sandbox": "workspace"}, {}, {"sandbox": "workspace"}),
        ({"sandbox": "workspace"}, {"sandbox": "full"}, {}),
        ({"sandbox": "full"}, {"sandbox": "workspace"}, {"sandbox": "full"}),
        ({"sandbox": "default"}, {"sandbox": "read-only"}, {"sandbox": "default"}),
        ({"add_dir": ["/a", "/b"]}, {"add_dir": ["/a"]}, {"add_dir": ["/b"]}),
        ({"add_dir": "/a"}, {}, {"add_dir": ["/a"]}),
        ({"add_dir": []}, {}, {}),
        ({"allowed_tools": ["Read"]}, {"allowed_tools": ["Read", "Bash"]}, {}),
        ({"model": "m", "system_prompt": "s"}, {}, {}),
        ({"args": ["--yolo"]}, {}, {"args": ["--yolo"]}),
        ({"max_turns": 3}, {"max_turns": 3}, {}),
    ],
)
def test_what_permits_more_is_what_the_user_has_not_granted(
    options: dict[str, Any], granted: dict[str, Any], more: dict[str, Any]
):
    assert permissions.elevated(options, granted) == more


def test_what_is_left_of_an_option_is_what_was_granted():
    more = permissions.elevated({**ALL, "add_dir": ["/a", "/"]}, {"add_dir": ["/a"]})
    assert permissions.without("add_dir", ["/a", "/"], more) == ["/a"]
    assert permissions.without("allowed_tools", ["Bash"], more) is None
    assert permissions.without("approval", "none", more) is None
    assert permissions.without("model", "m", more) == "m"


def test_what_was_dropped_is_told_with_the_flags_that_grant_it():
    assert permissions.describe(ALL) == "approval none, sandbox full, add_dir /, allowed_tools Bash"
    assert permissions.flags(ALL) == FLAGS
    assert permissions.flags({"add_dir": ["/a b"], "x": 1}) == "--add-dir '/a b' --option x=1"


class Asked:
    """A session with options of its own in some store, and the made-up CLI that resumes it."""

    def __init__(self, clinvk: CommandLine, home: Home, url: str) -> None:
        self.clinvk, self.home = clinvk, home
        self.store = keep(open_store(url, home.path))
        self.program = home.backend("fake", SAYS_ARGV)
        home.config(f"default_backend: fake\nsession: {{storage: '{url}'}}\n")

    def make(self, id_: str = "r", **options: Any) -> None:
        about = Session(id=id_, backend="fake", cwd=str(self.home.work), counts={"user": 1})
        self.store.create(replace(about, native_ids={"fake": "native-1"}, options=options))

    def argv(self) -> str:
        return self.program.with_name("fake.argv").read_text()


@pytest.fixture(params=KINDS)
def asked(clinvk: CommandLine, home: Home, request: pytest.FixtureRequest) -> Asked:
    home.path.mkdir(mode=0o700)
    return Asked(clinvk, home, store_url(request.param, home.path, request))


WAYS = {
    "resume": ("resume", "r", "x"),
    "-c": ("-c", "x"),
    "--session": ("--session", "r", "x"),
    "auto_resume": ("x",),
}


@pytest.mark.parametrize("way", WAYS)
def test_permissions_of_a_session_are_announced_or_dropped(asked: Asked, way: str):
    asked.make(**ALL)
    if way == "auto_resume":
        config = asked.home.path / "config.yaml"
        config.write_text(config.read_text().replace("{storage", "{auto_resume: true, storage"))
    done = asked.clinvk(*WAYS[way])
    assert done.returncode == 0, done
    said = "session r {} approval none, sandbox full, add_dir /, allowed_tools Bash"
    if asked.store.is_own("r"):
        assert said.format("runs with") + " (set when it was created)" in done.stderr
        assert "--yolo --full --add-dir / --tools Bash" in _sorted(asked.argv())
    else:
        assert said.format("asks for") + ", which was dropped" in done.stderr
        assert FLAGS in done.stderr
        assert asked.argv().split() == ["resume", "native-1"]


def _sorted(argv: str) -> str:
    order = ["--yolo", "--full", "--add-dir /", "--tools Bash"]
    return " ".join(flag for flag in order if flag in argv)


def test_what_the_command_line_grants_holds_in_any_store(asked: Asked):
    asked.make(approval="none")
    done = asked.clinvk("resume", "r", "x", "--approval", "none")
    assert (done.returncode, "dropped" in done.stderr, "runs with" in done.stderr) == (
        0,
        False,
        False,
    )
    assert "--yolo" in asked.argv()


def test_what_the_configuration_grants_holds_in_any_store(asked: Asked):
    config = asked.home.path / "config.yaml"
    config.write_text(config.read_text() + "unified_flags: {approval_mode: none}\n")
    asked.make(approval="auto", sandbox="read-only")
    done = asked.clinvk("resume", "r", "x")
    assert (done.returncode, "dropped" in done.stderr, "runs with" in done.stderr) == (
        0,
        False,
        False,
    )
    assert "--auto" in asked.argv()
    assert "--ro" in asked.argv()


def test_what_was_dropped_falls_back_to_the_configuration(asked: Asked):
    config = asked.home.path / "config.yaml"
    config.write_text(config.read_text() + "unified_flags: {sandbox_mode: read-only}\n")
    asked.make(sandbox="full")
    done = asked.clinvk("resume", "r", "x")
    assert done.returncode == 0, done
    assert ("--full" in asked.argv()) == asked.store.is_own("r")
    assert ("--ro" in asked.argv()) != asked.store.is_own("r")


def test_steps_of_a_chain_keep_what_the_chain_gave_them(asked: Asked):
    steps = [{"prompt": "a", "approval": "none"}, {"prompt": "b"}]
    chain = {"pass_session": True, "steps": steps}
    (asked.home.work / "chain.yaml").write_text(json.dumps(chain))
    done = asked.clinvk("chain", "chain.yaml")
    assert done.returncode == 0, done
    assert asked.argv().split()[0] == "resume"
    assert "--yolo" in asked.argv()
    assert "dropped" not in done.stderr
    assert "runs with" not in done.stderr


@pytest.mark.parametrize("kind", ["file", "sqlite"])
@pytest.mark.parametrize("how", ["owner", "mode"])
def test_a_record_that_others_can_have_written_is_not_trusted(
    clinvk: CommandLine, home: Home, kind: str, how: str, request: pytest.FixtureRequest
):
    home.path.mkdir(mode=0o700)
    asked = Asked(clinvk, home, store_url(kind, home.path, request))
    asked.make(approval="none")
    path = home.path / ("sessions/r.json" if kind == "file" else "sessions.db")
    if how == "mode":
        path.chmod(0o666)
    else:
        need_root()
        os.chown(path, 12345, 12345)
    done = clinvk("resume", "r", "x")
    assert (done.returncode, "was dropped" in done.stderr) == (0, True), done
    assert "--yolo" not in asked.argv()


CHANGES = {"resume": ("resume", "r", "x"), "edit": ("sessions", "edit", "r", "--title", "t")}


@pytest.mark.parametrize(("change", "way"), [("resume", "resume"), ("edit", "-c")])
def test_a_change_of_ours_does_not_make_trusted_what_others_could_write(
    clinvk: CommandLine, home: Home, change: str, way: str
):
    home.path.mkdir(mode=0o700)
    asked = Asked(clinvk, home, "file")
    asked.make(**ALL)
    (home.path / "sessions/r.json").chmod(0o666)
    done = clinvk(*CHANGES[change])
    assert done.returncode == 0, done
    assert (home.path / "sessions/r.json").stat().st_mode & 0o777 == 0o600
    for _ in range(2):
        done = clinvk(*WAYS[way])
        assert (done.returncode, "was dropped" in done.stderr) == (0, True), done
        assert FLAGS in done.stderr
        assert asked.argv().split() == ["resume", "native-1"]
    assert asked.store.get("r").options == ALL


@pytest.mark.parametrize("how", ["branch", "merge", "rewrite", "save"])
def test_what_is_made_of_a_session_that_others_could_write_is_not_trusted_either(
    clinvk: CommandLine, home: Home, how: str
):
    home.path.mkdir(mode=0o700)
    asked = Asked(clinvk, home, "file")
    asked.make(**ALL)
    with SessionManager(home=home.path) as sessions:
        sessions.add_message("r", Message(MessageRole.USER, "Hello."))
        known = sessions.list_sessions()[0]
        (home.path / "sessions/r.json").chmod(0o666)
        if how == "branch":
            made = sessions.branch_session("r")
        elif how == "merge":
            made = sessions.merge_sessions("r", sessions.create_session())
        elif how == "rewrite":
            made = "r"
            sessions.update_session_messages("r", [Message(MessageRole.USER, "Bye.")])
        else:
            made = "r"
            sessions.save_session(replace(known, messages=sessions.get_messages("r"), title="t"))
    assert asked.store.get(made).options == ALL
    assert not asked.store.is_own(made)
    done = clinvk("resume", made, "x")
    assert (done.returncode, "was dropped" in done.stderr) == (0, True), done
    assert "--yolo" not in asked.argv()


@pytest.mark.parametrize("target", ["file", "sqlite"])
def test_a_copy_of_a_session_that_others_could_write_is_not_trusted(
    asked: Asked, target: str, tmp_path: Path
):
    asked.make(**ALL)
    asked.make("plain", model="m")
    trusted = asked.store.is_own("r")
    if target == "file":
        url, other = f"file://{tmp_path}/other", tmp_path / "other"
        other.mkdir(mode=0o700)
    else:
        url = f"sqlite:///{tmp_path}/other.db"
    for copied in (["plain", "r"], []):
        done = asked.clinvk("sessions", "migrate", "--to", url, "--json")
        assert sorted(json.loads(done.stdout)["copied"]) == copied, done
    asked.home.config(f"default_backend: fake\nsession: {{storage: '{url}'}}\n")
    done = asked.clinvk("resume", "r", "x")
    assert (done.returncode, "was dropped" in done.stderr) == (0, not trusted), done
    assert ("--yolo" in asked.argv()) == trusted


def test_a_record_behind_a_symbolic_link_is_not_trusted(
    clinvk: CommandLine, home: Home, tmp_path: Path
):
    home.path.mkdir(mode=0o700)
    asked = Asked(clinvk, home, "file")
    asked.make(approval="none")
    record = home.path / "sessions/r.json"
    elsewhere = tmp_path / "r.json"
    record.rename(elsewhere)
    record.symlink_to(elsewhere)
    assert not asked.store.get("r").options_trusted
    assert not asked.store.is_own("r")
    done = clinvk("resume", "r", "x")
    assert (done.returncode, "was dropped" in done.stderr) == (0, True), done
    assert not asked.store.get("r").options_trusted


def test_only_a_session_that_is_not_trusted_says_so_in_its_record():
    options = {"approval": "none"}
    session = Session(id="r", options=options)
    assert "options_trusted" not in session.to_json()
    told = distrust_options(session).to_json()
    assert told == session.to_json() | {"options_trusted": False}
    assert not Session.from_json(told).options_trusted
    assert distrust_options(Session(id="r")).options_trusted


@pytest.mark.anyio
async def test_a_dispatcher_that_lives_long_keeps_no_prompts(asked: Asked):
    with Dispatcher(loading.load(asked.home.env), env=asked.home.env) as dispatcher:
        plain = {"system_prompt": "a secret", "model": "m"}
        for options in (plain, {}, {**plain, "approval": "none"}):
            result = await dispatcher.run(Request(prompt="x", cwd=asked.home.work, options=options))
            assert result.ok, result
        assert list(dispatcher._created.values()) == [{"approval": "none"}]
        again = Request(prompt="y", cwd=asked.home.work, session=result.session_id)
        plan = dispatcher.plan(again)
        assert plan.settings["approval"].value == "none"
        assert not any("dropped" in text for text in plan.notices)


def test_a_dry_run_shows_what_would_hold(asked: Asked, tmp_path: Path):
    asked.make(approval="none")
    done = asked.clinvk("resume", "r", "x", "--dry-run")
    assert ("--yolo" in done.stdout) == asked.store.is_own("r"), done
