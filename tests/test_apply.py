"""Results of tasks, applied to the files, the branch, or a new branch of a user."""

import json
import os
import signal
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import clinvk as clinvk_package
from clinvk.errors import ClinvkError
from clinvk.worktrees.results.commits import CommitError
from clinvk.worktrees.results.merge import ConflictError
from clinvk.worktrees.results.target import BlockedError
from tests.applied_runs import (
    FILES,
    LINES,
    Applying,
    Repository,
    line,
    make_run,
    remove,
    write,
    write_all,
)
from tests.conftest import END, READ, START, CommandLine, Home, is_alive, wait_for
from tests.stores import keep
from tests.terminals import Terminal, ending


def test_results_are_merged_in_the_order_of_the_plan_and_staged(
    repository: Repository, apply: Applying
) -> None:
    folder = apply.run(
        {
            "one": repository.result(line(1, "one"), write("new/f", "f\n")),
            "two": repository.result(line(20, "two"), remove("b.txt")),
        }
    )
    repository.commit({"a.txt": LINES.replace("line 10\n", "mine\n")})
    write_all(repository.root, {"dir/c.txt": "not committed\n", "untracked": "u\n"})
    repository.git("add", "dir/c.txt")
    before = repository.state()

    assert [t.state for t in apply.preview(folder).tasks] == ["applied", "applied"]
    assert repository.state() == before
    done = apply(folder)

    assert [(t.name, t.files, t.insertions, t.deletions) for t in done.tasks] == [
        ("one", 2, 2, 1), ("two", 2, 1, 2),
    ]  # fmt: skip
    assert repository.status().splitlines() == [
        "M  a.txt", "D  b.txt", "M  dir/c.txt", "A  new/f", "?? untracked",
    ]  # fmt: skip
    lines = (repository.root / "a.txt").read_text().splitlines()
    assert (lines[0], lines[9], lines[19]) == ("one", "mine", "two")
    assert repository.state()["refs"] == before["refs"]
    assert [t.state for t in apply(folder).tasks] == ["already applied"] * 2


def test_a_conflict_names_the_files_and_the_tasks_and_changes_nothing(
    repository: Repository, apply: Applying
) -> None:
    folder = apply.run(
        {
            "one": repository.result(line(5, "one")),
            "two": repository.result(line(5, "two"), write("x", "x")),
        }
    )
    before = repository.state()
    for do, how in ((apply.preview, "stage"), (apply, "commit"), (apply, "branch")):
        with pytest.raises(ConflictError, match=r"'two' conflicts with task 'one': a\.txt"):
            do(folder, how=how, branch="new")
    assert repository.state() == before
    apply(folder, "two")
    repository.git("commit", "--quiet", "-m", "two")
    with pytest.raises(ConflictError, match="what has been committed since its base"):
        apply(folder, "one")


def test_own_commits_of_the_agent_are_kept_and_the_rest_is_a_commit_of_the_task(
    repository: Repository, apply: Applying
) -> None:
    one = repository.result(
        line(1, "first"), "First\n\nWhy.", line(1, "second"), "Second", line(3, "x")
    )
    two = repository.result(line(20, "y"))
    folder = apply.run({"one": one, "two": two})
    repository.commit({"mine": "mine\n"})
    write_all(repository.root, {"b.txt": "staged\n"})
    repository.git("add", "b.txt")

    apply(folder, how="branch", branch="try/it")
    log = "log", "--reverse", "--format=%an|%cn|%s"
    expected = [
        "Agent|Ada|First", "Agent|Ada|Second", "Ada|Ada|one: Please do one.", "Ada|Ada|two: Please do two.",
    ]  # fmt: skip
    assert repository.git(*log, "main..try/it").splitlines() == expected
    assert repository.status() == "M  b.txt"

    head = repository.head
    done = apply(folder, how="commit", again=True)
    assert repository.git(*log, f"{head}..main").splitlines() == expected
    assert repository.git("diff", "main", "try/it") == ""
    assert repository.status() == "M  b.txt"  # what was staged is still only staged
    assert [len(t.commits) for t in done.tasks] == [3, 1]
    assert "clinvk run" in repository.git("log", "-1", "--format=%B")
    assert repository.git("log", "-1", "--format=%ai", done.tasks[0].commits[0]).startswith(
        "2026-01-02 03:04:05 +0100"
    )


def test_the_steps_of_a_chain_are_applied_on_each_other(
    repository: Repository, apply: Applying
) -> None:
    first = repository.result(line(5, "first"))
    second = repository.result(line(5, "second"), base=first)
    folder = apply.run({"one": first, "two": second}, kind="chain")
    apply(folder, how="commit")
    assert (repository.root / "a.txt").read_text().splitlines()[4] == "second"
    assert len(repository.git("log", "--format=%s", f"{repository.base}..").splitlines()) == 2


def test_a_later_attempt_is_built_on_what_was_applied_before(
    repository: Repository, apply: Applying
) -> None:
    first = repository.result(line(5, "first"), write("x", "1\n"))
    apply(apply.run({"one": first}), how="commit")
    second = repository.result(line(5, "second"), base=first)
    folder = apply.run({"one": first, "two": second})
    apply(folder, "one", how="commit")  # it is there already
    apply(folder, "two", how="commit")
    assert (repository.root / "a.txt").read_text().splitlines()[4] == "second"


def test_an_attempt_in_the_same_worktree_is_merged_from_what_was_applied_before(
    clinvk: CommandLine, home: Home
) -> None:
    repository = Repository(home.work, FILES)
    home.backend("shell", f'p=$(cat)\n{START}eval "$p"\n{END}')
    clinvk("-b", "shell", "--worktree", "echo 1 > new; echo 2 > a.txt")
    (run,) = (home.path / "worktrees").glob("r*")
    assert clinvk("runs", "apply", "--keep").returncode == 0
    assert (run / "prompt").is_dir()
    repository.git("commit", "-q", "-m", "taken")
    clinvk("-b", "shell", "-c", "echo 2 >> new; git checkout -q a.txt")
    again = clinvk("runs", "apply")
    assert again.returncode == 0, again.stderr
    assert (repository.root / "new").read_text() == "1\n2\n"
    assert repository.status() == "M  a.txt\nM  new"  # the first change of it was taken back
    assert not run.exists()


@pytest.mark.parametrize("how", ["stage", "commit"])
def test_a_task_that_changed_nothing_is_unchanged_the_second_time_too(
    clinvk: CommandLine, home: Home, how: str
) -> None:
    repository = Repository(home.work, FILES)
    results = {"one": repository.result(write("x", "x")), "same": repository.result(write("x", "x")),
               "none": repository.base}  # fmt: skip
    make_run(home.path, repository, results)
    states = []
    for _ in range(2):
        done = clinvk.json("runs", "apply", f"--{how}", "--json")["tasks"]
        states.append([(t["state"], t["why"]) for t in done][1:])
    assert states == [
        [("unchanged", "what it changed is there already"), ("unchanged", "it changed no file")],
        [("unchanged", "what it changed was there already"), ("unchanged", "it changed no file")],
    ]
    shown = clinvk("runs", "show").stdout
    assert "same: unchanged (20" in shown
    assert "none: unchanged (20" in shown


def test_nothing_to_apply_is_said(clinvk: CommandLine, home: Home) -> None:
    repository = Repository(home.work, FILES)
    folder = make_run(home.path, repository, {"one": repository.base})
    done = clinvk("runs", "apply", folder.id)
    assert (done.returncode, done.stdout) == (
        0, "= one: unchanged: it changed no file\nNothing to apply.\n",
    )  # fmt: skip
    again = clinvk("runs", "apply", folder.id)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "Nothing to apply.")


def test_what_was_discarded_after_it_was_applied_is_applied_again(
    repository: Repository, apply: Applying
) -> None:
    folder = apply.run({"one": repository.result(line(5, "x"))})
    apply(folder)
    repository.git("reset", "--quiet", "--hard")
    assert apply(folder).tasks[0].state == "already applied"
    assert repository.status() == ""
    assert apply(folder, again=True).tasks[0].state == "applied"
    assert repository.status() == "M  a.txt"


def test_every_kind_of_change_is_transferred(repository: Repository, apply: Applying) -> None:
    root = repository.root
    write_all(root, {"tool.sh": "#!/bin/sh\n", "bin": b"\0\1\2", "crlf.txt": b"a\r\nb\r\n", "old name": LINES,
                     "becomes-dir": "x", "was-dir/f": "f", "link-to-file": "x"})  # fmt: skip
    (root / "link").symlink_to("a.txt")
    (root / ".gitattributes").write_text("*.auto text eol=crlf\n")
    repository.git("config", "core.quotePath", "true")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "-m", "kinds")
    repository.base = repository.head

    def edit(tree: Path) -> None:
        (tree / "tool.sh").chmod(0o755)
        (tree / "bin").write_bytes(bytes(range(256)))
        (tree / "crlf.txt").write_bytes(b"a\r\nB\r\n")
        (tree / "old name").rename(tree / "neuer Näme 名.txt")
        (tree / "becomes-dir").unlink()
        write_all(tree, {"becomes-dir/inner/f": "f"})
        (tree / "was-dir/f").unlink()
        (tree / "was-dir").rmdir()
        (tree / "was-dir").write_text("file")
        (tree / "link").unlink()
        (tree / "link").symlink_to("b.txt")
        (tree / "link-to-file").unlink()
        (tree / "link-to-file").symlink_to("dir")
        (tree / "dir/c.txt").unlink()
        write_all(
            tree, {"x.auto": "1\r\n2\r\n", "nfd-e\u0301": "1", "nfc-\u00e9": "2", "a\tb\nc": "odd"}
        )
        (tree / os.fsdecode(b"latin-\xe9")).write_text("bytes")

    result = repository.result(edit)
    folder = apply.run({"one": result})
    for how in ("stage", "commit", "branch"):
        apply(folder, how=how, branch="copy", again=True)
        changed = {"stage": ("diff", "--cached", result), "commit": ("diff", "HEAD", result)}
        assert repository.git(*changed.get(how, ("diff", "copy", result))) == ""
        if how == "branch":
            continue
        assert repository.git("diff") == ""
        assert repository.git("ls-files", "--others", "--exclude-standard") == ""
        assert stat.S_IMODE((root / "tool.sh").stat().st_mode) & 0o111
        assert (root / "x.auto").read_bytes() == b"1\r\n2\r\n"
        assert os.readlink(root / "link") == "b.txt"
        assert not (root / "dir").exists()
        if how == "stage":
            repository.git("reset", "--quiet", "--hard")
    assert repository.git("fsck", "--strict") == ""


def test_changes_of_the_user_in_touched_files_block_and_others_do_not(
    repository: Repository, apply: Applying
) -> None:
    folder = apply.run(
        {
            "one": repository.result(
                line(1, "x"), remove("b.txt"), write("dir/new", "n"), write("top/f", "f")
            )
        }
    )
    root = repository.root
    (root / ".git/info/exclude").write_text("ignored*\ndir/new\n")
    ways: dict[str, tuple[Callable[[], Any], str]] = {
        "modified": (lambda: (root / "a.txt").write_text("mine"), "uncommitted changes in a.txt"),
        "staged": (lambda: (write_all(root, {"a.txt": "mine"}), repository.git("add", "-A")), "a.txt"),
        "deleted": ((root / "a.txt").unlink, "a.txt"),
        "mode": (lambda: (root / "a.txt").chmod(0o755), "a.txt"),
        "hidden": (
            lambda: (repository.git("update-index", "--assume-unchanged", "b.txt"), (root / "b.txt").write_text("m")),
            "b.txt",
        ),
        "hidden as sparse": (
            lambda: (repository.git("update-index", "--skip-worktree", "b.txt"), (root / "b.txt").write_text("m")),
            "b.txt",
        ),
        "ignored": (lambda: (root / "dir/new").write_text("mine"), "untracked files in the way: dir/new"),
        "parent": (lambda: (root / "top").write_text("mine"), "in the way: top"),
        "linked parent": (lambda: (root / "top").symlink_to(root / "dir"), "in the way: top"),
        "directory": (lambda: write_all(root, {"top/f/deep": "mine"}), "in the way: top/f/deep"),
        "staged only": (
            lambda: (write_all(root, {"top": "m"}), repository.git("add", "top"), (root / "top").unlink()), "top",
        ),
        "became a directory": (lambda: ((root / "b.txt").unlink(), write_all(root, {"b.txt/f": "x"})), "b.txt"),
    }  # fmt: skip
    for name, (change, message) in ways.items():
        change()
        before = repository.state()
        how = "commit" if name == "staged" else "stage"
        with pytest.raises(BlockedError, match=message):
            (apply if name in ("staged", "parent", "hidden") else apply.preview)(folder, how=how)
        assert repository.state() == before, name
        for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
            repository.git("update-index", flag, "b.txt")
        repository.git("clean", "-ffdxq")
        repository.git("reset", "--quiet", "--hard")
    write_all(root, {"dir/c.txt": "mine", "ignored": "x", "other": "y", "top/other": "z"})
    apply(folder)
    assert (root / "dir/c.txt").read_text() == "mine"


def test_a_hook_that_fails_leaves_everything_as_it_was_and_its_output_is_shown(
    repository: Repository, apply: Applying
) -> None:
    folder = apply.run(
        {
            "one": repository.result(line(1, "x"), write("n/f", "f")),
            "two": repository.result(line(20, "y")),
        }
    )
    hook = repository.root / ".git/hooks/pre-commit"
    hook.write_text(
        "#!/bin/sh\n[ $(git rev-list --count HEAD) = 1 ] && exit 0\necho 'no tests, no commit'; echo formatted > n/f; exit 3\n"
    )
    hook.chmod(0o755)
    write_all(repository.root, {"dir/c.txt": "mine"})
    before = repository.state()
    with pytest.raises(CommitError, match="no tests, no commit") as caught:
        apply(folder, how="commit")
    assert "task 'two'" in str(caught.value)
    assert repository.state() == before
    hook.write_text("#!/bin/sh\necho formatted > n/f; git add n/f\n")
    apply(folder, how="commit")
    assert repository.git("show", "HEAD:n/f") == "formatted"
    assert repository.status() == " M dir/c.txt"


def test_commits_are_signed_as_the_user_has_configured(
    repository: Repository, apply: Applying, tmp_path: Path
) -> None:
    folder = apply.run({"one": repository.result(line(1, "x"))})
    repository.git("config", "commit.gpgSign", "true")
    repository.git("config", "gpg.program", "/bin/false")
    before = repository.state()
    with pytest.raises(CommitError, match=r"failed to sign|gpg failed"):
        apply(folder, how="commit")
    assert repository.state() == before
    apply(folder, how="branch", branch="unsigned")
    assert repository.state()["files"] == before["files"]


def in_the_middle(repository: Repository, name: str) -> None:
    root = repository.root
    match name:
        case "a merge":
            repository.git("checkout", "-qb", "other")
            repository.commit({"b.txt": "other\n"})
            repository.git("checkout", "-q", "main")
            repository.commit({"b.txt": "main\n"})
            with pytest.raises(AssertionError):
                repository.git("merge", "other")
        case "a bare repository":
            repository.git("config", "core.bare", "true")
        case "no commit yet":
            repository.git("checkout", "--quiet", "--orphan", "new")
        case "another git command":
            (root / ".git/index.lock").touch()
        case "moved or deleted":
            root.rename(root.with_name("gone"))


@pytest.mark.parametrize(
    "name",
    ["a merge", "a bare repository", "no commit yet", "another git command", "moved or deleted"],
)
def test_a_repository_in_the_middle_of_something_is_left_as_it_is(
    repository: Repository, apply: Applying, name: str
) -> None:
    folder = apply.run({"one": repository.result(line(1, "x"))})
    in_the_middle(repository, name)
    with pytest.raises(ClinvkError, match=name):
        apply(folder)
    if name == "moved or deleted":  # it is found by the commits in it
        repository.root = repository.root.with_name("gone")
        apply(folder)
    elif name != "no commit yet":
        apply(folder, how="branch", branch="results")
        assert repository.git("diff", "--stat", "main", "results").startswith(" a.txt")


def test_a_result_or_base_that_is_gone_is_named(repository: Repository, apply: Applying) -> None:
    folder = apply.run({"one": repository.result(line(1, "x"))})
    lost = apply.run({"one": repository.base})
    for run in (folder, lost):
        journal = run.path / "journal.jsonl"
        text = journal.read_text().replace(repository.base, "f" * 40)
        journal.write_text(text)
    with pytest.raises(ClinvkError, match="the commit that task 'one' began with is gone"):
        apply(folder)
    with pytest.raises(ClinvkError, match="the result of task 'one' is gone"):
        apply(lost)


def test_a_detached_head_and_a_linked_worktree_of_the_user_work(
    repository: Repository, apply: Applying, tmp_path: Path
) -> None:
    folder = apply.run({"one": repository.result(line(1, "x"))})
    repository.git("checkout", "--quiet", "--detach")
    apply(folder, how="commit")
    assert repository.git("log", "-1", "--format=%s") == "one: Please do one."
    linked = tmp_path / "linked"
    repository.git("worktree", "add", "--quiet", str(linked), "main")
    apply(folder, here=linked, again=True)
    assert repository.git("status", "--porcelain", cwd=linked) == "M  a.txt"
    assert repository.status() == ""


def test_files_outside_of_a_sparse_checkout_change_only_in_the_index(
    repository: Repository, apply: Applying
) -> None:
    folder = apply.run(
        {"one": repository.result(line(1, "x"), write("dir/c.txt", "new"), write("dir/n", "n"))}
    )
    repository.git("sparse-checkout", "set", "--cone", "other")
    assert not (repository.root / "dir").exists()
    apply(folder, how="commit")
    assert repository.status() == ""
    assert not (repository.root / "dir").exists()
    assert repository.git("show", "HEAD:dir/c.txt") == "new"


def test_the_pointer_of_a_submodule_is_transferred(
    repository: Repository, apply: Applying, tmp_path: Path
) -> None:
    inner = Repository(tmp_path / "inner", {"i": "1"})
    allow = ("-c", "protocol.file.allow=always")
    repository.git(*allow, "submodule", "--quiet", "add", str(inner.root), "sub")
    repository.git("commit", "--quiet", "-m", "with a submodule")
    repository.base = repository.head
    newer = inner.commit({"i": "2"})

    def edit(tree: Path) -> None:
        repository.git("update-index", "--cacheinfo", f"160000,{newer},sub", cwd=tree)
        repository.git("commit", "--quiet", "-m", "newer", cwd=tree)

    folder = apply.run({"one": repository.result(edit)})
    done = apply(folder)
    assert done.tasks[0].submodules == ("sub",)
    assert repository.git("ls-files", "--stage", "sub").startswith(f"160000 {newer}")
    assert (repository.root / "sub/i").read_text() == "1"


def test_the_commands_show_apply_and_drop(clinvk: CommandLine, home: Home, tmp_path: Path) -> None:
    repository = Repository(home.work, FILES)
    folder = make_run(
        home.path, repository,
        {"one": repository.result(line(1, "\x1b[2Jx")), "two": repository.result(write("b.txt", b"\0")),
         "bad": repository.result(write("c", "c"))},
        states={"bad": "failed"},
    )  # fmt: skip
    shown = clinvk("runs", "diff", "last", "one")
    assert shown.stdout.startswith("diff --git a/a.txt b/a.txt")
    (tmp_path / "patch").write_text(shown.stdout)
    repository.git("apply", "--check", str(tmp_path / "patch"))
    assert (
        clinvk("--color", "always", "runs", "diff", "last", "one").stdout.count("\x1b[31m-line 1")
        == 1
    )
    assert "^[[2Jx" in clinvk("--color", "always", "runs", "diff").stdout
    found = clinvk.json("runs", "diff", "--stat", "--json")["tasks"]
    assert [(t["name"], t["files"][0]["path"], t["files"][0]["insertions"]) for t in found] == [
        ("one", "a.txt", 1), ("two", "b.txt", None), ("bad", "c", 1),
    ]  # fmt: skip

    assert "task 'onee'; did you mean 'one'?" in clinvk("runs", "apply", "last", "onee").stderr
    dry = clinvk("runs", "apply", "--dry-run")
    assert "✓ one: 1 file, +1 -1" in dry.stdout
    why = f"its state is failed; to apply it anyway: clinvk runs apply {folder.id} bad"
    assert f"– bad: skipped: {why}" in " ".join(dry.stdout.split())
    assert repository.status() == ""
    done = clinvk.json("runs", "apply", "--json")
    assert [(t["name"], t["state"]) for t in done["tasks"]] == [
        ("one", "applied"), ("two", "applied"), ("bad", "skipped"),
    ]  # fmt: skip
    assert repository.status() == "M  a.txt\nM  b.txt"
    shown = clinvk("runs", "show")
    assert "one: applied 20" in shown.stdout
    assert "not applied" not in shown.stderr  # a failed one is applied only if it is named
    assert clinvk.json("runs", "show", "--json")["results"][0]["applied"]["how"] == "stage"
    assert "2 done, 1 failed, 2 applied" in clinvk("runs", "list").stdout

    assert clinvk("runs", "drop", "last", "bad").returncode == 1
    dropped = clinvk("runs", "drop", "last", "bad", "--yes").stdout
    commit = dropped.rstrip().rpartition(" ")[2]
    assert "bad: 1 file, +1 -0, not applied; undo: git branch NAME" in dropped
    assert repository.git("cat-file", "-t", commit) == "commit"
    assert repository.git("for-each-ref", f"refs/clinvk/{folder.id}/bad") == ""
    assert "dropped" in clinvk("runs", "apply", "last", "bad").stdout
    shown = clinvk("runs", "diff", "last", "bad")
    assert shown.stdout.startswith("diff --git a/c b/c")
    assert "clinvk: task 'bad': dropped 20" in shown.stderr
    assert json.loads(clinvk("runs", "diff", "last", "bad", "--json").stdout)["tasks"][0]["dropped"]


def test_tasks_in_worktrees_are_applied_and_their_worktrees_removed(
    clinvk: CommandLine, home: Home, tmp_path: Path
) -> None:
    repository = Repository(home.work, FILES)
    home.backend("maker", READ + 'echo done >> "$(basename $PWD).txt"\n' + START + END)
    (tmp_path / "tasks.yaml").write_text(
        "defaults: {backend: maker, worktree: true}\n"
        "tasks:\n- {name: one, prompt: x}\n- {name: two, prompt: y, worktree: {keep: true}}\n"
        "- {name: three, prompt: z}\n"
    )
    assert clinvk("parallel", str(tmp_path / "tasks.yaml")).returncode == 0
    run = clinvk.json("runs", "show", "--json")["id"]
    worktrees = home.path / "worktrees" / run
    write_all(worktrees / "three", {"later.txt": "by hand"})
    done = clinvk("runs", "apply", "last", "one", "two", "three")
    assert (done.returncode, repository.status()) == (0, "A  one.txt\nA  three.txt\nA  two.txt")
    assert "had changes that are not part of its result; they are in refs/clinvk/" in done.stderr
    assert sorted(p.name for p in worktrees.iterdir()) == ["two", "two.json"]
    repository.git("commit", "--quiet", "-m", "applied")
    assert "✓ three: 1 file, +1 -0" in clinvk("runs", "apply").stdout  # only what was added later
    assert repository.status() == "A  later.txt"
    shown = clinvk("runs", "drop", "last", "--yes")
    assert shown.stdout.count("applied before; undo: git branch NAME") == 3
    assert repository.git("for-each-ref", "refs/clinvk") == ""
    assert not worktrees.exists()


@pytest.mark.anyio
async def test_results_are_shown_applied_and_dropped_from_python(
    repository: Repository, home: Home
) -> None:
    two = repository.result(write("b.txt", b"\0\1"), remove("dir/c.txt"))
    folder = make_run(home.path, repository, {"one": repository.result(line(1, "x")), "two": two})
    dispatcher = keep(
        clinvk_package.Dispatcher(clinvk_package.load({"CLINVK_HOME": str(home.path)}))
    )
    more: dict[str, Any] = {"dispatcher": dispatcher, "directory": repository.root}
    one, two_diff = await clinvk_package.arun_diff(folder.id, **more)
    assert (one, two_diff) == clinvk_package.run_diff(folder.id, **more)
    assert (one.name, one.insertions, one.deletions, one.applied) == ("one", 1, 1, None)
    assert "-line 1\n+x\n" in one.patch
    assert [(f.path, f.status, f.insertions) for f in two_diff.files] == [
        ("b.txt", "modified", None), ("dir/c.txt", "deleted", 0),
    ]  # fmt: skip
    with pytest.raises(clinvk_package.UsageError, match="an event loop is running"):
        clinvk_package.apply_run(folder.id, **more)
    plan = await clinvk_package.aapply_run(folder.id, dry_run=True, **more)
    assert (plan.is_preview, repository.status()) == (True, "")
    done = await clinvk_package.aapply_run(folder.id, "one", branch="one", **more)
    assert done.how == "branch"
    assert repository.git("show", "one:a.txt").startswith("x\n")
    assert clinvk_package.run_diff(folder.id, "one", **more)[0].applied
    repository.git("switch", "--quiet", "one")
    other = make_run(home.path, repository, {"z": repository.result(line(1, "z"))})
    with pytest.raises(clinvk_package.ConflictError):
        await clinvk_package.aapply_run(other.id, **more)
    dropped = await clinvk_package.adrop_run(folder.id, "two", **more)
    assert [d.commit for d in dropped] == [two]


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["check", "resolve", "filter"])
async def test_an_apply_that_is_cancelled_puts_back_what_is_not_complete(
    repository: Repository, home: Home, what: str
) -> None:
    begun = home.work / "begun"
    slow = f"touch {begun}; exec sleep 600"
    home.backend("slow", slow)
    dispatcher = keep(clinvk_package.Dispatcher(clinvk_package.load(home.env), env=home.env))
    results = {"one": repository.result(line(1, "x")), "two": repository.result(line(1, "y"))}
    chosen = ("one", "two") if what == "resolve" else ("one",)
    if what == "filter":
        repository.git("config", "filter.slow.smudge", slow)
        (repository.root / ".git/info/attributes").write_text("a.txt filter=slow\n")
    folder = make_run(home.path, repository, results)
    more: dict[str, Any] = {"check": slow} if what == "check" else {}
    more |= {"resolve": "slow"} if what == "resolve" else {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            partial(
                clinvk_package.aapply_run, folder.id, *chosen, dispatcher=dispatcher,
                directory=repository.root, **more,
            )
        )  # fmt: skip
        await anyio.to_thread.run_sync(lambda: wait_for(begun.exists, "its beginning", 60))
        tasks.cancel_scope.cancel()
    assert repository.status() == ""
    assert list((repository.root / ".git/clinvk").glob("*.json")) == []
    assert not (repository.root / ".git/index.lock").exists()
    (repository.root / ".git/info/attributes").unlink(missing_ok=True)
    done = await clinvk_package.aapply_run(
        folder.id, "one", dispatcher=dispatcher, directory=repository.root
    )
    assert [task.state for task in done.tasks] == ["applied"]


def test_a_file_that_is_edited_during_a_check_that_fails_is_kept_and_named(
    clinvk: CommandLine, home: Home
) -> None:
    repository = Repository(home.work, FILES)
    make_run(home.path, repository, {"one": repository.result(line(1, "one"))})
    done = clinvk("runs", "apply", "--check", "echo mine > a.txt; false")
    assert (done.returncode, repository.status()) == (1, ""), done
    said = " ".join(done.stderr.split())
    assert "changed while results were being applied, and put back: a.txt" in said
    kept = Path(said.partition("the changed files are in ")[2])
    assert (kept / "a.txt").read_text() == "mine\n"


def test_the_next_apply_ends_the_check_that_a_killed_one_left(
    clinvk: CommandLine, home: Home, tmp_path: Path
) -> None:
    repository = Repository(home.work, FILES)
    make_run(home.path, repository, {"one": repository.result(line(1, "one"))})
    running = tmp_path / "running"
    killed = clinvk.start(
        "runs", "apply", "--check", f"echo $$ > {running}; sleep 300; echo no > a.txt"
    )
    wait_for(lambda: running.exists() and running.read_text().strip() != "", "the check")
    killed.kill()
    killed.communicate()
    pid = int(running.read_text())
    assert is_alive(pid)
    done = clinvk("runs", "apply", "--check", "true")
    assert done.returncode == 0, done
    assert not is_alive(pid)
    said = " ".join(done.stderr.split())
    assert "the check of an apply was interrupted" in said
    assert "its changes were undone" in said
    assert repository.status() == "M  a.txt"
    assert not list((repository.root / ".git/clinvk").glob("check.json"))


def test_ctrl_c_in_a_check_says_what_is_applied_already(
    clinvk: CommandLine, home: Home, tmp_path: Path
) -> None:
    repository = Repository(home.work, FILES)
    results = {name: repository.result(line(n, name)) for n, name in ((1, "one"), (20, "two"))}
    make_run(home.path, repository, results)
    check = f"test $CLINVK_TASK = one || {{ echo $$ > {tmp_path}/pid; sleep 300; }}"
    process = clinvk.start("runs", "apply", "--check", check)
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the check")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 7
    assert "applied before that, and still there: one" in said
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert repository.status() == "M  a.txt"
    assert (repository.root / "a.txt").read_text().splitlines()[19] == "line 20"


@pytest.mark.parametrize("how", ["stage", "commit", "branch"])
def test_results_are_applied_one_by_one_with_a_check_in_between(
    clinvk: CommandLine, home: Home, how: str
) -> None:
    repository = Repository(home.work, FILES)
    bad = repository.result(write("new/bad", "bad\n"), line(3, "bad"), remove("b.txt"))
    results = {
        "one": repository.result(line(1, "one")),
        "bad": bad,
        "two": repository.result(line(20, "two")),
        "conflicting": repository.result(line(1, "uno")),
        "after-bad": repository.result(write("x", "x"), base=bad),
    }
    make_run(home.path, repository, results)
    words = ["--branch", "new"] if how == "branch" else [f"--{how}"]
    check = "echo checking $CLINVK_TASK; test ! -e new/bad"
    assert (
        clinvk("runs", "apply", *words, "--check", check, "--dry-run").returncode == 1
    )  # a conflict
    assert repository.status() == ""
    done = clinvk("runs", "apply", *words, "--check", check)
    assert done.returncode == 1, done
    found = [
        (text.partition(": ")[0], text.partition(": ")[2])
        for text in done.stdout.splitlines()
        if text[0] in "✓✗–"
    ]
    assert [(name, text.partition(":")[0]) for name, text in found] == [
        ("✓ one", "1 file, +1 -1" + text_of(found, "✓ one")),
        ("✗ bad", "check failed"),
        ("✓ two", "1 file, +1 -1" + text_of(found, "✓ two")),
        ("✗ conflicting", "conflict"),
        ("– after-bad", "skipped"),
    ]
    assert dict(found)["✗ bad"] == f"check failed: {check} (exit code 1)"
    assert "conflicts with task 'one' and task 'two': a.txt" in " ".join(done.stdout.split())
    assert "  │ checking bad" in done.stdout
    revision = {"stage": "", "commit": "main", "branch": "new"}[how]
    lines = repository.git("show", f"{revision}:a.txt").splitlines()
    assert (lines[0], lines[2], lines[19]) == ("one", "line 3", "two")
    assert repository.status() == ("M  a.txt" if how == "stage" else "")
    assert (repository.root / "b.txt").exists()
    if how != "stage":
        branch = "new" if how == "branch" else "main"
        assert repository.git("log", "--format=%s", f"{repository.base}..{branch}").count("\n") == 1
    assert repository.git("worktree", "list").count("\n") == 0


def text_of(found: list[tuple[str, str]], name: str) -> str:
    """The ids of commits after the figures."""
    return dict(found)[name].removeprefix("1 file, +1 -1")


MERGER = """#!/usr/bin/env -S python3 -SE
import json, pathlib, sys
prompt = sys.stdin.read()
assert "- a.txt" in prompt and "CONFLICT (content)" in prompt and "Please do two." in prompt
path = pathlib.Path("a.txt")
text = path.read_text()
assert "<<<<<<< " in text and text.count("one") and text.count("two")
if "keep" not in sys.argv[0]:
    lines = [x for x in text.splitlines() if x[:7] not in ("<" * 7, "=" * 7, ">" * 7)]
    path.write_text("\\n".join(lines) + "\\n")
print(json.dumps({"type": "start", "id": "native-1"}))
print(json.dumps({"type": "end", "text": "Merged."}))
"""


def test_a_backend_resolves_a_conflict_in_a_worktree_of_its_own(
    clinvk: CommandLine, home: Home
) -> None:
    repository = Repository(home.work, FILES)
    results = {"one": repository.result(line(5, "one")), "two": repository.result(line(5, "two"))}
    folder = make_run(home.path, repository, results)
    home.backend("merger", MERGER)
    home.backend("keeper", MERGER)
    left = clinvk("runs", "apply", folder.id, "--resolve", "keeper")
    assert "keeper left conflict markers of task 'two' in a.txt" in left.stderr
    failed = clinvk(
        "runs", "apply", folder.id, "--resolve", "merger", "--check", "test ! -e README"
    )
    assert (failed.returncode, repository.status()) == (0, "M  a.txt"), failed
    assert (repository.root / "a.txt").read_text().splitlines()[4:6] == ["one", "two"]
    assert "task 'two' conflicts with task 'one': a.txt" in failed.stderr
    repository.git("reset", "--quiet", "--hard")
    refused = clinvk(
        "runs", "apply", folder.id, "--again", "--resolve", "merger", "--check", "false"
    )
    assert (refused.returncode, repository.status()) == (1, "")
    done = clinvk("runs", "apply", folder.id, "--again", "--resolve", "merger", "--commit")
    assert (done.returncode, repository.status()) == (0, ""), done
    assert repository.git("log", "--format=%s", "-2").splitlines() == [
        "two: Please do two.", "one: Please do one.",
    ]  # fmt: skip
    assert "resolving it with merger" in done.stderr
    assert clinvk("runs", "apply", "--resolve", "mergr").returncode == 2


@pytest.mark.parametrize("kind", ["binary", "deleted", "directory"])
def test_a_conflict_without_markers_is_not_resolved_by_doing_nothing(
    clinvk: CommandLine, home: Home, kind: str
) -> None:
    """Git keeps one side of it, or gives it another name."""
    repository = Repository(home.work, {**FILES, "bin": b"\0one"})
    one, two = {
        "binary": (write("bin", b"\0two"), write("bin", b"\0three")),
        "deleted": (write("a.txt", "changed\n"), remove("a.txt")),
        "directory": (_become_link, write("dir/c.txt", "changed\n")),
    }[kind]
    results = {"one": repository.result(one), "two": repository.result(two)}
    folder = make_run(home.path, repository, results)
    home.backend("lazy", READ + START + END)
    home.backend("tidy", READ + "rm -rf bin a.txt dir*; echo tidy > both\n" + START + END)
    lazy = clinvk("runs", "apply", "--resolve", "lazy")
    assert (lazy.returncode, repository.status()) == (1, "")
    said = "left what git has moved aside" if kind == "directory" else "changed nothing"
    assert f"lazy {said} for task 'two'" in lazy.stderr
    newest = clinvk.json("runs", "list", "--json")["runs"][0]["id"]
    assert f"clinvk runs diff {newest}" in lazy.stderr
    by_itself = clinvk("runs", "apply")
    assert by_itself.returncode == 1
    assert f"run {newest} has resolved a conflict of run {folder.id}" in by_itself.stderr
    assert f"clinvk runs apply {folder.id}" in by_itself.stderr
    tidy = clinvk("runs", "apply", folder.id, "--resolve", "tidy")
    assert tidy.returncode == 0, tidy
    assert (repository.root / "both").read_text() == "tidy\n"
    assert not list(repository.root.glob("*~*"))


def _become_link(root: Path) -> None:
    (root / "dir/c.txt").unlink()
    (root / "dir").rmdir()
    (root / "dir").symlink_to("a.txt")


def test_what_stands_in_the_way_is_said_before_a_backend_resolves_anything(
    clinvk: CommandLine, home: Home
) -> None:
    repository = Repository(home.work, FILES)
    results = {
        "one": repository.result(line(5, "one"), write("b.txt", "B\n")),
        "two": repository.result(line(5, "two")),
    }
    make_run(home.path, repository, results)
    home.backend("merger", MERGER)
    apply = ("runs", "apply", "--resolve", "merger")
    write_all(repository.root, {"b.txt": "mine\n"})
    for more in ([], ["--commit"]):
        done = clinvk(*apply, *more)
        assert done.returncode == 1
        assert "uncommitted changes in b.txt" in done.stdout + done.stderr
    write_all(repository.root, {"b.txt": "b\n", "a.txt": f"{LINES}mine\n"})
    blocked = clinvk(*apply)
    assert (blocked.returncode, "uncommitted changes in a.txt" in blocked.stderr) == (1, True)
    repository.git("checkout", "--quiet", ".")
    for key in ("name", "email"):
        repository.git("config", "--unset", f"user.{key}")
    repository.git("config", "user.useConfigOnly", "true")
    nameless = clinvk(*apply, "--commit")
    assert nameless.returncode != 0
    assert "git does not know in whose name to commit; nothing was changed" in nameless.stderr
    assert "user.email" in nameless.stderr
    assert clinvk.json("runs", "list", "--json")["runs"][1:] == []  # nothing has run
    assert (clinvk(*apply).returncode, repository.status()) == (0, "M  a.txt\nM  b.txt")


@pytest.mark.parametrize("said", ["in its events", "only in its session"])
def test_a_task_that_had_ended_when_clinvk_was_killed_has_its_changes_after_a_resume(
    clinvk: CommandLine, home: Home, tmp_path: Path, said: str
) -> None:
    repository = Repository(home.work, FILES)
    home.backend("maker", READ + "echo done > made.txt\n" + START + END)
    (tmp_path / "tasks.yaml").write_text(
        "defaults: {backend: maker, worktree: true}\ntasks:\n- {name: one, prompt: x}\n"
    )
    assert clinvk("parallel", str(tmp_path / "tasks.yaml")).returncode == 0
    (folder,) = (home.path / "runs").iterdir()
    for path, event in ((folder / "journal.jsonl", "event"), (folder / "tasks/0001.jsonl", "type")):
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        cut = ("ended", "end", "result") if said != "in its events" else ("ended", "end")
        kept = [found for found in lines if found[event] not in cut]
        for found in kept:  # killed before the changes were committed
            found.pop("worktree", None)
        path.write_text("".join(json.dumps(found) + "\n" for found in kept))
    for ref in repository.git("for-each-ref", "--format=%(refname)", "refs/clinvk").split():
        repository.git("update-ref", "-d", ref)
    resumed = clinvk("runs", "resume", folder.name)
    assert resumed.returncode == 0, resumed
    assert clinvk.json("runs", "show", "--json")["results"][0]["attempts"] == 1
    assert "✓ one: 1 file, +1 -0" in clinvk("runs", "apply").stdout
    assert repository.status() == "A  made.txt"


def test_a_diff_on_a_terminal_is_in_color_and_goes_through_the_pager_of_git(
    home: Home, terminal: Terminal
) -> None:
    repository = Repository(home.work, FILES)
    long = "".join(f"changed {n}\n" for n in range(40))
    make_run(home.path, repository, {"one": repository.result(write("a.txt", long))})
    shown, code = ending(terminal("runs", "diff", GIT_PAGER="sed s/^/PAGED:/"))
    assert code == 0
    assert "PAGED:\x1b[31m-line 1\x1b[0m" in shown
    assert "PAGED:\x1b[32m+changed 39\x1b[0m" in shown
    plain, _ = ending(terminal("runs", "diff", "--stat", NO_COLOR="1", GIT_PAGER="cat"))
    assert "a.txt | 60 +++" in plain
    assert "\x1b" not in plain


def test_a_run_whose_clinvk_was_killed_after_its_end_is_cleaned(
    clinvk: CommandLine, home: Home
) -> None:
    repository = Repository(home.work, FILES)
    folder = make_run(home.path, repository, {"one": repository.result(write("b.txt", "B\n"))})
    lock = folder.lock()
    lock.note({"pid": 1})
    lock.abandon()
    assert clinvk("runs", "apply").returncode == 0
    cleaned = clinvk("runs", "clean", "--older-than", "0")
    assert (cleaned.returncode, cleaned.stderr) == (0, "")
    assert clinvk.json("runs", "list", "--json")["runs"] == []
