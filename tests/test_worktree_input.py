"""Repositories that are unusual or damaged: a clear error before anything runs, or a right result."""

import os
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.errors import ClinvkError, UsageError
from clinvk.model.plan import Plan, Task, Worktree, with_keys
from clinvk.worktrees.create import Place, create_worktree, finish_worktree
from clinvk.worktrees.prepare import keep_starts, prepare_plan
from clinvk.worktrees.remove import remove_worktree
from clinvk.worktrees.result import Saved, current_result, save_result
from tests.needs import need
from tests.test_worktrees import git, new_repository

pytestmark = pytest.mark.once

need("git")

# Debian's git-lfs changes the configuration of the whole machine.
ENV = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null",
       "GIT_CONFIG_SYSTEM": "/dev/null"}  # fmt: skip


class Job:
    """A task in a worktree, without a CLI."""

    def __init__(self, folder: Path, home: Path, **wanted: object) -> None:
        self.told: list[str] = []
        task = Task(name="t", prompt="p", cwd=str(folder), worktree=Worktree(**wanted))  # type: ignore[arg-type]
        plan = with_keys(Plan(kind="parallel", tasks=(task,)))
        self.plan = prepare_plan(plan, ENV, self.told.append)
        keep_starts(self.plan, "r1", ENV)
        worktree = self.plan.tasks[0].worktree
        assert worktree is not None
        self.place = Place(home, "r1", worktree, ENV)

    def begin(self) -> Path:
        self.record = create_worktree(self.place, self.told.append)
        self.record = finish_worktree(self.place, self.record)
        return self.place.path / self.place.wanted.workdir

    def save(self) -> Saved:
        return save_result(self.place, self.record)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    return lambda folder, **wanted: Job(folder, tmp_path / "home", **wanted)


def bare(folder: Path) -> Path:
    git(folder.parent, "init", "-q", "--bare", str(folder))
    return folder


def empty(folder: Path) -> Path:
    git(folder.parent, "init", "-q", str(folder))
    return folder


def plain(folder: Path) -> Path:
    folder.mkdir()
    return folder


def dirty(folder: Path) -> Path:
    new_repository(folder, a="1")
    (folder / "a").write_text("2")
    return folder


def inside_git(folder: Path) -> Path:
    return new_repository(folder, a="1") / ".git" / "refs"


REFUSED = [
    (plain, {}, "is not in a git repository", "run it in a git repository"),
    (bare, {}, "is a bare repository, which has no files", "run it in a clone"),
    (empty, {}, "has no commits yet", "git commit --allow-empty"),
    (inside_git, {}, "is inside a git directory", "run it in a git repository"),
    (dirty, {"dirty": "refuse"}, "has 1 uncommitted change (a)", "commit or stash"),
    (dirty, {"base": "nowhere"}, "the base 'nowhere' is not a commit", "name a branch"),
    (dirty, {"base": "--all"}, "the base '--all' is not a commit", "name a branch"),
]


@pytest.mark.parametrize(("make", "wanted", "message", "hint"), REFUSED)
def test_what_can_have_no_worktree_is_an_error_before_anything_runs(
    job: Callable[..., Job], tmp_path: Path, make: Callable[[Path], Path],
    wanted: dict[str, str], message: str, hint: str,
):  # fmt: skip
    folder = make(tmp_path / "repo")
    with pytest.raises(ClinvkError) as raised:
        job(folder, **wanted)
    assert message in raised.value.message
    assert hint in (raised.value.hint or "")
    assert not (tmp_path / "home").exists()


def test_uncommitted_changes_are_told_or_included(job: Callable[..., Job], tmp_path: Path):
    folder = dirty(tmp_path / "repo")
    (folder / "new").write_text("n")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "x.log").write_text("ignored")
    before = git(folder, "status", "--short")
    told = job(folder)
    assert "has 3 uncommitted changes (a, .gitignore, new)" in told.told[0]
    included = job(folder, dirty="include")
    assert included.told == []
    there = included.begin()
    assert (there / "a").read_text() == "2"
    assert (there / "new").read_text() == "n"
    assert not (there / "x.log").exists()
    assert git(folder, "status", "--short") == before
    (there / "a").write_text("3")
    # The changes of the task are counted from there, and git keeps what it began with.
    assert included.save().result.files == 1
    git(folder, "gc", "--prune=now", "--quiet")
    assert git(folder, "rev-parse", "refs/clinvk/r1/t/0") == included.place.wanted.commit
    with pytest.raises(UsageError, match="only possible with the base HEAD"):
        git(folder, "commit", "-qam", "next")
        (folder / "a").write_text("4")
        job(folder, dirty="include", base="HEAD~1")


def test_a_directory_below_the_root_keeps_its_place(job: Callable[..., Job], tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1")
    (repo / "pkg").mkdir()
    (repo / "pkg" / "b").write_text("b")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "b")
    (repo / "empty").mkdir()
    for name in ("pkg", "empty"):
        task = job(repo / name)
        there = task.begin()
        assert there == task.place.path / name
        assert there.is_dir()
        remove_worktree(task.place)


def test_the_base_is_that_of_the_start_and_may_be_any_revision(
    job: Callable[..., Job], tmp_path: Path
):
    repo = new_repository(tmp_path / "repo", a="1")
    git(repo, "tag", "-a", "v1", "-m", "v1")
    (repo / "a").write_text("2")
    git(repo, "commit", "-qam", "two")
    late, tagged = job(repo), job(repo, base="v1")
    git(repo, "checkout", "-q", "--orphan", "other")
    git(repo, "commit", "-qm", "other", "--allow-empty")
    assert (late.begin() / "a").read_text() == "2"
    remove_worktree(late.place)
    assert (tagged.begin() / "a").read_text() == "1"


def test_a_base_that_is_gone_is_reported(job: Callable[..., Job], tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1")
    task = job(repo)
    git(repo, "commit", "-q", "--amend", "-m", "other")
    git(repo, "reflog", "expire", "--expire=now", "--all")
    git(repo, "gc", "--prune=now", "--quiet")
    with pytest.raises(ClinvkError, match="is no longer in"):
        task.begin()
    assert not task.place.path.exists()


def test_odd_files_are_part_of_the_result(job: Callable[..., Job], tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1\n")
    git(repo, "config", "core.autocrlf", "true")
    git(repo, "config", "core.safecrlf", "true")
    task = job(repo)
    there = task.begin()
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (there / composed).write_text("composed")
    (there / decomposed).write_text("decomposed")
    (there / "crlf.txt").write_bytes(b"a\r\nb\n")
    (there / "out").symlink_to("/etc/passwd")
    (there / "away").symlink_to("../../../..")
    (there / "run").write_text("#!/bin/sh\n")
    (there / "run").chmod(0o755)
    (there / os.fsdecode(b"\xff.bin")).write_bytes(bytes(range(256)))
    (there / "-n 'q\"\n").write_text("odd name")
    with (there / "large").open("wb") as file:
        file.truncate(5_000_000)
    (there / "a").unlink()
    saved = task.save().result
    assert saved.files == 10
    modes = git(repo, "ls-tree", "-r", saved.ref)
    assert sum("120000" in line for line in modes.splitlines()) == 2
    assert "100755" in modes
    assert git(repo, "cat-file", "-s", f"{saved.ref}:large") == "5000000"
    assert git(repo, "show", f"{saved.ref}:out") == "/etc/passwd"
    assert remove_worktree(task.place) is not None
    assert not task.place.path.exists()


def test_hooks_signing_and_a_missing_name_do_not_matter(job: Callable[..., Job], tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1")
    for hook in (
        "pre-commit",
        "commit-msg",
        "post-checkout",
        "reference-transaction",
        "post-commit",
    ):
        path = repo / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{hook}\nexit 1\n")
        path.chmod(0o755)
    git(repo, "config", "commit.gpgSign", "true")
    git(repo, "config", "gpg.program", "/bin/false")
    git(repo, "config", "user.useConfigOnly", "true")
    task = job(repo)
    (task.begin() / "a").write_text("2")
    saved = task.save().result
    assert git(repo, "log", "-1", "--format=%an <%ae>", saved.ref) == "clinvk <clinvk@localhost>"
    remove_worktree(task.place)
    assert list(tmp_path.glob("ran-*")) == []


def test_commits_of_the_agent_are_ancestors_of_the_result(job: Callable[..., Job], tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1")
    task = job(repo)
    there = task.begin()
    git(there, "checkout", "-qb", "feature")
    (there / "b").write_text("b")
    git(there, "add", "b")
    git(there, "commit", "-qm", "mine")
    (there / "c").write_text("c")
    saved = task.save().result
    subjects = git(repo, "log", "--format=%s", saved.ref).splitlines()
    assert subjects == ["r1 t, attempt 1", "mine", "start"]
    assert task.save().result == saved  # nothing has changed since
    # An index in the middle of something, and one that is locked.
    (there / "c").unlink()
    git(there, "rm", "-q", "--cached", "a")
    Path(task.record.admin, "index.lock").touch()
    again = task.save().result
    assert again.ref == "refs/clinvk/r1/t/2"
    assert git(repo, "ls-tree", "--name-only", again.ref).split() == ["a", "b"]


def test_a_worktree_is_repaired_when_its_home_or_its_git_file_is_gone(
    job: Callable[..., Job], tmp_path: Path
):
    repo = new_repository(tmp_path / "repo", a="1")
    task = job(repo)
    (task.begin() / "a").write_text("2")
    shutil.move(tmp_path / "home", tmp_path / "moved")
    place = Place(tmp_path / "moved", "r1", task.place.wanted, ENV)
    saved = current_result(place)
    assert saved is not None
    assert git(repo, "show", f"{saved.result.ref}:a") == "2"
    assert git(place.path, "status", "--short") == "M a"
    (place.path / ".git").unlink()
    (place.path / "b").write_text("b")
    again = current_result(place)
    assert again is not None
    assert again.result.files == 2
    # Git has forgotten it, as after months elsewhere.
    shutil.rmtree(repo / ".git" / "worktrees")
    (place.path / "c").write_text("c")
    last = current_result(place)
    assert last is not None
    assert last.result.files == 3
    assert remove_worktree(place) is not None
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1


def test_a_moved_repository_is_found_after_git_has_repaired_it(
    job: Callable[..., Job], tmp_path: Path
):
    repo = new_repository(tmp_path / "repo", a="1")
    task = job(repo)
    (task.begin() / "a").write_text("2")
    moved = tmp_path / "elsewhere"
    repo.rename(moved)
    place = Place(tmp_path / "home", "r1", task.place.wanted, ENV)
    with pytest.raises(ClinvkError) as raised:
        current_result(place)
    assert "git worktree repair" in (raised.value.hint or "")
    assert (place.path / "a").read_text() == "2"
    git(moved, "worktree", "repair", str(place.path))
    saved = current_result(place)
    assert saved is not None
    assert git(moved, "show", f"{saved.result.ref}:a") == "2"


def test_ignored_files_are_copied_on_request(job: Callable[..., Job], tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1")
    (repo / ".gitignore").write_text(".env\nsecret/\nlink\n*.local\nout\n")
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "ignore")
    (repo / "secret").mkdir()
    for name in (".env", "secret/key", "a.local", "untracked", "other.local"):
        (repo / name).write_text(name)
    (repo / "link").symlink_to("/etc/passwd")
    (repo / ".worktreeinclude").write_text("# as in .gitignore\n/a.local\nlink\nuntracked\n")
    there = job(repo, copy=(".env", "secret/")).begin()
    found = sorted(str(p.relative_to(there)) for p in there.rglob("*") if not p.is_dir())
    assert found == [".env", ".git", ".gitignore", "a", "a.local", "link", "secret/key"]
    assert (there / "link").is_symlink()


def test_a_full_disk_leaves_nothing_half_created(job: Callable[..., Job], tmp_path: Path):
    repo = new_repository(tmp_path / "repo", a="1")
    task = job(repo)
    wanted = replace(task.place.wanted, size=10**15)
    place = Place(tmp_path / "home", "r1", wanted, ENV)
    with pytest.raises(ClinvkError, match=r"a worktree needs .* GB, and .* left"):
        create_worktree(place, task.told.append)
    assert not place.path.exists()
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1


def submodules(folder: Path) -> Path:
    inner = new_repository(folder.parent / "inner", i="i")
    sub = new_repository(folder.parent / "sub", s="s")
    git(sub, "submodule", "add", "-q", str(inner), "inner")
    git(sub, "commit", "-qm", "inner")
    other = new_repository(folder.parent / "other", o="o")
    new_repository(folder, a="1")
    git(folder, "submodule", "add", "-q", str(sub), "lib/sub")
    git(folder, "submodule", "add", "-q", str(other), "gone")
    git(folder, "commit", "-qm", "sub")
    git(folder, "submodule", "update", "-q", "--init", "--recursive")
    git(folder, "submodule", "deinit", "-q", "-f", "gone")
    shutil.rmtree(folder / ".git" / "modules" / "gone")
    return folder


def test_submodules_are_checked_out_and_their_commits_are_kept(
    job: Callable[..., Job], tmp_path: Path
):
    repo = submodules(tmp_path / "repo")
    status = git(repo, "submodule", "status", "--recursive")
    task = job(repo)
    there = task.begin()
    assert any("the submodule gone is missing in the worktree" in text for text in task.told)
    assert (there / "lib/sub/inner/i").read_text() == "i"
    assert git(there, "status", "--short") == ""
    assert task.save().result.files == 0
    (there / "lib/sub/inner/i").write_text("changed")  # not committed
    git(there / "lib/sub", "checkout", "-q", "--detach")
    (there / "lib/sub/s").write_text("committed")
    git(there / "lib/sub", "commit", "-qam", "in the submodule")
    shutil.rmtree(there / "gone")
    git(there, "clone", "-q", str(tmp_path / "other"), "cloned")
    (there / "cloned/o").write_text("mine")
    git(there, "init", "-q", "unborn")
    (there / "unborn/u").write_text("u")
    saved = task.save()
    assert [text.split(" is a")[0] for text in saved.notices] == ["cloned", "unborn"]
    assert task.save().result == saved.result
    removed = remove_worktree(task.place)
    assert removed is not None
    assert removed.saved is not None
    assert removed.saved.result.commit == saved.result.commit
    assert not task.place.path.exists()
    # Everything is still there, in refs, after a clean-up.
    modules = repo / ".git" / "modules"
    sub, inner = modules / "lib" / "sub", modules / "lib" / "sub" / "modules" / "inner"
    for folder in (repo, sub, inner):
        git(folder, "reflog", "expire", "--expire=now", "--all")
        git(folder, "gc", "--prune=now", "--quiet")
        assert git(folder, "worktree", "list", "--porcelain").count("worktree ") == 1
    commit = git(repo, "rev-parse", f"{saved.result.ref}:lib/sub")
    assert git(sub, "show", f"{commit}:s") == "committed"
    assert git(inner, "show", f"{git(sub, 'rev-parse', f'{commit}:inner')}:i") == "changed"
    for name, text in (("cloned/o", "mine"), ("unborn/u", "u")):
        folder, file = name.split("/")
        assert (
            git(repo, "show", f"{git(repo, 'rev-parse', f'{saved.result.ref}:{folder}')}:{file}")
            == text
        )
    assert git(repo, "submodule", "status", "--recursive") == status


def test_shallow_and_sparse_repositories_have_worktrees(job: Callable[..., Job], tmp_path: Path):
    origin = new_repository(tmp_path / "origin", a="1")
    for name in ("in", "out"):
        (origin / name).mkdir()
        (origin / name / "file").write_text(name)
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "two")
    repo = tmp_path / "repo"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{origin}", str(repo))
    git(repo, "sparse-checkout", "set", "in")
    task = job(repo)
    there = task.begin()
    assert sorted(p.name for p in there.iterdir()) == [".git", "a", "in"]
    (there / "in/file").write_text("changed")
    saved = task.save().result
    assert saved.files == 1
    assert git(repo, "show", f"{saved.ref}:out/file") == "out"
    with pytest.raises(ClinvkError, match="is not a commit"):
        job(repo, base="HEAD~1")


def test_large_files_in_lfs_are_filtered_as_the_repository_says(
    job: Callable[..., Job], tmp_path: Path
):
    repo = new_repository(tmp_path / "repo", **{".gitattributes": "*.bin filter=lfs -text\n"})
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    (repo / "x.bin").write_text(pointer)
    git(repo, "add", ".")
    git(repo, "commit", "-qm", "lfs")
    task = job(repo)
    assert (task.begin() / "x.bin").read_text() == pointer
    assert any("git-lfs is not set up" in text for text in task.told)
    remove_worktree(task.place)
    git(repo, "config", "filter.lfs.smudge", "false")
    git(repo, "config", "filter.lfs.required", "true")
    with pytest.raises(ClinvkError) as raised:
        job(repo).begin()
    assert "git-lfs" in (raised.value.hint or "")
    git(repo, "config", "filter.lfs.smudge", "sed s/version/smudged/")
    git(repo, "config", "filter.lfs.clean", "sed s/smudged/version/")
    task = job(repo)
    assert (task.begin() / "x.bin").read_text().startswith("smudged")
    assert any("1 file in Git LFS" in text for text in task.told)
    assert task.save().result.files == 0


def test_large_files_are_not_read_again_each_time(job: Callable[..., Job], tmp_path: Path):
    """Git reads a file again if it was written in the same second as the index."""
    repo = new_repository(tmp_path / "repo", a="1", large="x" * 1000)
    task = job(repo)
    task.place.wanted = replace(task.place.wanted, size=10**8)
    there = task.begin()
    index = Path(task.record.admin, "index")
    assert int(index.stat().st_mtime) > int((there / "large").stat().st_mtime)
    (there / "large").write_text("y" * 1000)  # at once, and of the same size
    assert git(repo, "show", f"{task.save().result.ref}:large") == "y" * 1000


def test_a_variable_that_points_at_another_repository_is_ignored(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repo, other = (new_repository(tmp_path / name, a=name) for name in ("repo", "other"))
    monkeypatch.setitem(ENV, "GIT_DIR", str(other / ".git"))
    monkeypatch.setitem(ENV, "GIT_WORK_TREE", str(other))
    monkeypatch.setitem(ENV, "GIT_INDEX_FILE", str(other / "index"))
    task = job(repo)
    assert (task.begin() / "a").read_text() == "repo"
    (task.place.path / "b").write_text("b")
    assert git(repo, "show", f"{task.save().result.ref}:b") == "b"
    listed = subprocess.run(
        ["git", "-C", str(other), "for-each-ref"], capture_output=True, check=True
    )
    assert b"clinvk" not in listed.stdout
