"""Files that are written: nothing that others have planted is followed, waited for or replaced."""

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from clinvk.disk import atomic
from clinvk.disk.jsonl import decode_lines
from clinvk.errors import SessionError
from clinvk.model.session import Message, MessageRole, Session
from clinvk.store import open_store
from tests.conftest import CommandLine, Home
from tests.desk import Desk, desk
from tests.needs import need_root
from tests.stores import keep

__all__ = ["desk"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_link_at_the_name_that_a_temporary_file_once_had_leads_nowhere(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".report.md.{os.getpid()}").symlink_to(victim)
    for write in (atomic.replace_file, atomic.replace_own):
        write(tmp_path / "report.md", b"new", durable=True)
    assert victim.read_text() == "mine"
    assert (tmp_path / "report.md").read_text() == "new"


def test_a_file_that_a_link_leads_to_is_written_and_the_link_stays(tmp_path: Path):
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "config"
    real.write_text("old")
    real.chmod(0o640)
    (tmp_path / "first").symlink_to("dotfiles/config")
    (tmp_path / "second").symlink_to("first")
    atomic.replace_file(tmp_path / "second", b"new", durable=False)
    assert (tmp_path / "second").is_symlink()
    assert (real.read_text(), mode(real)) == ("new", 0o640)
    (tmp_path / "nowhere").symlink_to("dotfiles/made")
    atomic.replace_file(tmp_path / "nowhere", b"new", durable=False)
    assert (tmp_path / "dotfiles" / "made").read_text() == "new"
    assert mode(tmp_path / "dotfiles" / "made") == 0o600
    assert sorted(os.listdir(tmp_path / "dotfiles")) == ["config", "made"]


def test_a_link_of_another_user_in_a_folder_that_is_open_to_all_is_not_followed(tmp_path: Path):
    need_root()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "victim").write_text("mine")
    (shared / "report.md").symlink_to(tmp_path / "victim")
    os.lchown(shared / "report.md", 12345, 12345)
    with pytest.raises(OSError, match="of another user"):
        atomic.write_for_user(shared / "report.md", b"new")
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("way", ["{}/reports/x.md", "{}/own/../reports/x.md", "{}/to/x.md"])
def test_a_link_of_another_user_on_the_way_to_a_file_is_not_followed(tmp_path: Path, way: str):
    need_root()
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    for folder in (shared, victim, shared / "own"):
        folder.mkdir()
    shared.chmod(0o1777)
    (victim / "x.md").write_text("mine")
    (shared / "reports").symlink_to(victim)
    os.lchown(shared / "reports", 12345, 12345)
    (shared / "to").symlink_to("reports")  # ours, and leads to the other one
    path = way.format(shared)
    for write in (atomic.write_for_user, atomic.replace_file):
        with pytest.raises(OSError, match="of another user"):
            write(path, b"new", durable=False)
        with pytest.raises(OSError, match="of another user"):
            write(path.replace("x.md", "new/y.md"), b"new", durable=False)
    for folder in (shared / "reports", shared / "reports" / "new"):
        with pytest.raises(OSError, match="of another user"):
            atomic.make_folder(folder)
    assert ((victim / "x.md").read_text(), os.listdir(victim)) == ("mine", ["x.md"])
    os.lchown(shared / "reports", 0, 0)
    atomic.write_for_user(path, b"new")
    assert (victim / "x.md").read_text() == "new"


def test_folders_on_the_way_may_be_links_of_the_user(tmp_path: Path, monkeypatch):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    (tmp_path / "again").symlink_to(tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    for path in ("again/a", "./link/../b", f"{tmp_path}//link/./c", "again/../../d"):
        atomic.write_for_user(path, b"new")
    assert sorted(os.listdir(tmp_path / "real" / "deep")) == ["a", "c"]
    assert sorted(os.listdir(tmp_path / "real")) == ["b", "deep"]
    assert (tmp_path / "d").exists()
    with pytest.raises(FileNotFoundError):
        atomic.write_for_user("link/missing/e", b"new")
    with pytest.raises(NotADirectoryError):
        atomic.write_for_user("d/e", b"new")
    with pytest.raises(NotADirectoryError):
        atomic.write_for_user("d/", b"new")


def as_user(uid: int, script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """What becomes of a script that `atomic` is imported in, as a user who is not root."""
    code = f"import os, sys; from clinvk.disk import atomic; os.setgroups([]); os.setgid({uid}); "
    code += f"os.setuid({uid}); {script}"
    call = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_a_file_keeps_its_owner_its_group_and_its_mode(tmp_path: Path):
    need_root()
    path = tmp_path / "report.md"
    path.write_text("old and longer")
    path.chmod(0o666)
    os.chown(path, 12345, 12346)
    atomic.replace_file(path, b"new", durable=True)
    found = path.stat()
    assert (found.st_uid, found.st_gid, mode(path)) == (12345, 12346, 0o666)
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["report.md"])


@pytest.mark.parametrize("case", ["another user's", "another group's", "a closed directory"])
def test_a_file_that_cannot_be_replaced_as_it_is_is_written_in_place(case: str):
    need_root()
    with tempfile.TemporaryDirectory() as folder:  # others can reach it
        path = Path(folder) / "report.md"
        os.chmod(folder, 0o755 if case == "a closed directory" else 0o777)
        path.write_text("old and longer")
        path.chmod(0o664 if case == "another group's" else 0o666)
        owner = 12345 if case == "another user's" else 23456
        group = 12345 if case == "another group's" else 23456
        os.chown(path, owner, group)
        before = path.stat().st_ino
        done = as_user(23456, "atomic.replace_file(sys.argv[1], b'new', durable=True)", path)
        assert done.returncode == 0, done
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_ino) == (owner, group, before)
        assert (path.read_text(), os.listdir(folder)) == ("new", ["report.md"])
        path.chmod(0o444)
        os.chown(path, 12345, 12345)
        done = as_user(23456, "atomic.replace_file(sys.argv[1], b'more', durable=True)", path)
        assert "PermissionError" in done.stderr
        assert (path.read_text(), os.listdir(folder)) == ("new", ["report.md"])


def test_a_link_that_leads_to_itself_is_an_error(tmp_path: Path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic"):
        atomic.replace_file(tmp_path / "a", b"", durable=False)


@pytest.mark.parametrize("write", [atomic.replace_file, atomic.replace_own])
def test_what_is_not_a_regular_file_is_not_replaced(tmp_path: Path, write):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        before = os.lstat(tmp_path / name)
        with pytest.raises(OSError):
            write(tmp_path / name, b"new", durable=False)
        assert os.lstat(tmp_path / name).st_ino == before.st_ino
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder"]


def test_a_link_in_our_own_store_is_replaced_and_not_followed(tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "r.json").symlink_to("victim")
    atomic.replace_own(tmp_path / "r.json", b"new", durable=False)
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "r.json").is_symlink()


def test_a_name_as_long_as_a_file_system_takes_can_be_written(tmp_path: Path):
    path = tmp_path / ("é" * 127)
    atomic.replace_file(path, b"new", durable=False)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == [path.name]


def test_a_pipe_is_written_into_and_a_file_behind_stdout_too(tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    atomic.write_for_user(fifo, b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_leftovers_of_killed_writers_go_when_they_are_old(tmp_path: Path):
    old = [".r.json.4711", ".r.jsonl.4711", ".r.json.0123456789abcdef.tmp"]
    others = ["r.json", ".r.json", ".gitignore", ".notes.2024", ".r.json.0123.tmp"]
    for name in [*old, *others]:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / ".new.json.4711").touch()
    (tmp_path / ".new.json.fedcba9876543210.tmp").touch()
    atomic.remove_leftovers(tmp_path)
    kept = {*others, ".new.json.4711", ".new.json.fedcba9876543210.tmp"}
    assert set(os.listdir(tmp_path)) == kept
    atomic.remove_leftovers(tmp_path / "missing")


def test_a_look_for_room_that_was_killed_leaves_what_is_removed_later(tmp_path: Path):
    code = (
        "import os, sys; from clinvk.disk import atomic; "
        "atomic.write_all = lambda *_: os._exit(3); atomic.has_room(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = os.listdir(tmp_path)
    assert done.returncode == 3
    os.utime(tmp_path / left, (1e9, 1e9))
    atomic.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
    assert atomic.has_room(tmp_path)
    assert os.listdir(tmp_path) == []


def test_clean_removes_what_a_killed_writer_left(clinvk: CommandLine, home: Home):
    assert clinvk("-b", "echo", "hi").returncode == 0
    left = [
        home.path / ".config.yaml.0123456789abcdef.tmp",
        home.path / "sessions" / ".r.json.4711",
        home.path / "transcripts" / ".r.jsonl.0123456789abcdef.tmp",
    ]
    for path in left:
        path.touch()
        os.utime(path, (1e9, 1e9))
    assert clinvk("sessions", "clean").returncode == 0
    assert [path for path in left if path.exists()] == []
    assert len(home.ids()) == 1


# Commands


def test_config_set_leaves_a_device_as_it_is(clinvk: CommandLine, tmp_path: Path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        pytest.skip("no device can be made here")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("null")
    for name in ("null", "link"):
        done = clinvk("--config", str(tmp_path / name), "config", "set", "output.format", "json")
        assert done.returncode == 3, done
        assert "not a regular file" in done.stderr
        assert "--config" in done.stderr
        assert stat.S_ISCHR(device.stat().st_mode)
    assert clinvk("--config", str(device), "config", "get", "output.format").stdout == "text\n"


def test_a_configuration_that_is_the_null_device_is_empty(clinvk: CommandLine, home: Home):
    home.path.mkdir(exist_ok=True)
    (home.path / "config.yaml").unlink(missing_ok=True)
    (home.path / "config.yaml").symlink_to(os.devnull)
    done = clinvk("config", "get", "output.format")
    assert (done.returncode, done.stdout) == (0, "text\n")


def test_a_configuration_that_is_no_file_is_refused_with_what_to_do(
    clinvk: CommandLine, home: Home
):
    home.path.mkdir(exist_ok=True)
    (home.path / "config.yaml").unlink(missing_ok=True)
    os.mkfifo(home.path / "config.yaml")
    done = clinvk("config", "get", "output.format")
    assert done.returncode == 3
    assert "not a regular file" in done.stderr
    assert "put a readable file there" in done.stderr


def test_a_prompt_may_come_from_stdin_by_its_name(clinvk: CommandLine, home: Home):
    (home.work / "t.json").write_text('[{"prompt_file": "/dev/stdin"}]')
    done = clinvk("parallel", "t.json", "-b", "echo", "--json", stdin="from a pipe")
    assert done.returncode == 0, done.stderr
    assert "from a pipe" in done.stdout
    os.mkfifo(home.work / "fifo")
    (home.work / "t.json").write_text(f'[{{"prompt_file": "{home.work}/fifo"}}]')
    done = clinvk("parallel", "t.json", "-b", "echo")
    assert done.returncode != 0
    assert "name a regular file or /dev/stdin" in done.stderr


def test_export_replaces_its_file_as_a_whole_and_keeps_its_mode(clinvk: CommandLine, home: Home):
    assert clinvk("-b", "echo", "hi").returncode == 0
    to = ("sessions", "export", home.ids()[0])
    out = home.work / "out.md"
    out.write_text("old")
    out.chmod(0o644)
    before = out.stat().st_ino
    with out.open() as reader:
        assert clinvk(*to, "--output", "out.md", "--force").returncode == 0
        assert reader.read() == "old"
    assert "hi" in out.read_text()
    assert (mode(out), out.stat().st_ino != before) == (0o644, True)
    assert os.listdir(home.work) == ["out.md"]


def test_export_to_a_device_writes_into_it(clinvk: CommandLine, home: Home):
    assert clinvk("-b", "echo", "hi").returncode == 0
    to = ("sessions", "export", home.ids()[0], "--output", "/dev/stdout")
    assert "hi" in clinvk(*to).stdout
    with (home.work / "redirected").open("wb") as file:
        subprocess.run([*clinvk.program, *to], stdout=file, env=home.env, cwd=home.work, check=True)
    assert "hi" in (home.work / "redirected").read_text()
    assert Path("/dev/stdout").is_symlink()


def test_reports_follow_no_planted_temporary_name_and_refuse_no_pipe(desk: Desk, tmp_path: Path):
    path = desk.file({"tasks": ["a"]})
    desk.home.work.joinpath("real.md").write_text("old")
    desk.home.work.joinpath("report.md").symlink_to("real.md")
    done = desk.clinvk(
        "parallel", path, "-q", "--report", "report.md", "--force", "--junit", "/dev/stdout"
    )
    assert done.returncode == 0, done
    assert desk.home.work.joinpath("report.md").is_symlink()
    assert "<a>" in desk.home.work.joinpath("real.md").read_text()
    assert "<testsuite" in done.stdout


@pytest.mark.parametrize("what", ["link", "fifo"])
@pytest.mark.parametrize("place", ["locks/r", "transcripts/r.jsonl", "lock"])
def test_a_link_or_a_fifo_in_the_store_is_refused_at_once(
    clinvk: CommandLine, home: Home, tmp_path: Path, place: str, what: str
):
    store = keep(open_store("file", home.path))
    about = Session(id="r", backend="echo", cwd=str(home.work), counts={"user": 1}, prompt="p")
    store.create(about, [Message(MessageRole.USER, "p")])
    path, victim = home.path / place, tmp_path / "victim"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    victim.write_text("mine")
    if what == "link":
        path.symlink_to(victim)
    else:
        os.mkfifo(path)
    done = clinvk("resume", "r", "x", timeout=60)
    assert done.returncode == 4, done
    assert str(path) in done.stderr
    assert victim.read_text() == "mine"


def test_a_fifo_in_place_of_a_record_is_damage_and_hangs_nothing(clinvk: CommandLine, home: Home):
    assert clinvk("-b", "echo", "hi").returncode == 0
    os.mkfifo(home.path / "sessions" / "r.json")
    done = clinvk("sessions", "list", "--json", timeout=60)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["sessions"]) >= 1
    assert clinvk("sessions", "show", "r", timeout=60).returncode == 4
    assert clinvk("sessions", "delete", "r", "--yes", timeout=60).returncode == 0
    assert clinvk("sessions", "list", timeout=60).returncode == 0


def test_a_fifo_in_place_of_a_database_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "s.db")
    began = time.monotonic()
    with pytest.raises(SessionError, match="regular file"):
        keep(open_store(f"sqlite:///{tmp_path}/s.db", tmp_path)).create(Session(id="r"))
    assert time.monotonic() - began < 20


# Lines


def test_a_torn_line_spoils_no_other(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'{"a": 1}\n[2]\n\n' + deep + b'\n{"b": "\xff"}\n{"c"')
    fd = atomic.open_to_append(path)
    atomic.write_all(fd, b'{"d": 4}\n')
    os.close(fd)
    assert decode_lines(path.read_bytes()) == [{"a": 1}, {"d": 4}]
    atomic.append_file(path, b'{"e": 5}\n{"f')
    atomic.append_file(path, b'{"g": 6}\n')
    assert decode_lines(path.read_bytes())[2:] == [{"e": 5}, {"g": 6}]
    assert path.read_bytes().count(b"\n\n") == 1
