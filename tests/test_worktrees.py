"""Tasks in git worktrees of their own: created, committed to refs, found again, removed."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

import clinvk as api
from clinvk.errors import ConfigError, UsageError
from clinvk.model.plan import Worktree
from clinvk.plans.parse import parse_plan
from clinvk.plans.schema import TaskDefaults
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.process.leftovers import find_working_in
from clinvk.runs.folder import RunStore
from tests.conftest import END, START, CommandLine, Home, wait_for
from tests.needs import need

need("git")


def git(folder: Path, *words: str, **more: Any) -> str:
    env = {**os.environ, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
           "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}  # fmt: skip
    argv = ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *words]
    done = subprocess.run(argv, capture_output=True, env=env, text=True, check=True, **more)
    return done.stdout.strip()


def new_repository(folder: Path, **files: str) -> Path:
    git(folder.parent, "init", "-q", "-b", "main", str(folder))
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "--allow-empty", "-m", "start")
    return folder


@pytest.fixture
def shell(home: Home) -> Home:
    """A CLI that runs its prompt as a shell script, and answers with what that printed."""
    home.backend(
        "shell",
        f'p=$(cat)\n{START}said=$(sh -c "$p" 2>&1)\n'
        'printf \'{"type":"end","text":"%s"}\\n\' "$(printf %s "$said" | tr \'\\n\' \' \')"\n',
    )
    return home


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo", a="one\n", b="two\n")


def tasks(*prompts: str, **more: Any) -> str:
    entries = [{"prompt": p, "name": f"t{n}"} for n, p in enumerate(prompts, 1)]
    more.setdefault("worktree", True)
    return json.dumps({"tasks": entries, "defaults": {"backend": "shell"}, **more})


def test_each_task_has_a_worktree_and_its_result_is_a_commit_in_a_ref(
    clinvk: CommandLine, shell: Home, repo: Path
):
    base = git(repo, "rev-parse", "HEAD")
    script = tasks(
        "echo 1 > a; pwd", "git rm -q b; echo new > c; git status --short | wc -l", "true"
    )
    done = clinvk("parallel", "--json", cwd=repo, stdin=script)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    first, second, third = run["results"]
    worktrees = shell.path / "worktrees" / run["id"]
    assert first["output"].strip() == str(worktrees / "t1")
    found = first["worktree"]
    assert found["ref"] == f"refs/clinvk/{run['id']}/t1/1"
    assert found["base"] == base
    assert (found["files"], found["insertions"], found["deletions"]) == (1, 1, 1)
    assert git(repo, "show", f"{found['ref']}:a") == "1"
    assert git(repo, "rev-parse", f"{found['ref']}^") == base
    assert git(repo, "ls-tree", "--name-only", second["worktree"]["ref"]).split() == ["a", "c"]
    assert third["worktree"]["commit"] == base
    # Nothing of the user's has changed.
    assert git(repo, "status", "--short") == ""
    assert git(repo, "rev-parse", "HEAD") == base
    assert git(repo, "branch", "--format=%(refname)") == "refs/heads/main"
    kept = json.loads((shell.path / "runs" / run["id"] / "plan.json").read_text())
    assert kept["tasks"][0]["worktree"]["commit"] == base
    session = shell.record(f"{run['id']}.t1")
    assert (session["cwd"], session["started_in"]) == (str(worktrees / "t1"), str(repo))


def test_a_run_of_many_tasks_ends_by_saying_how_to_look_at_the_results(
    clinvk: CommandLine, shell: Home, repo: Path
):
    done = clinvk("parallel", cwd=repo, stdin=tasks("echo x >> a", "echo y >> b", "true"))
    assert done.returncode == 0, done.stderr
    (run,) = [p.name for p in (shell.path / "runs").iterdir()]
    end = f"2 results are not applied; see: clinvk runs diff {run}; then: clinvk runs apply {run}"
    assert done.stderr.splitlines()[-1] == f"clinvk: {end}"


def test_the_command_that_applies_what_a_failed_prompt_has_changed_is_named(
    clinvk: CommandLine, shell: Home, repo: Path
):
    failed = clinvk("--worktree", "--check", "false", "-b", "shell", "echo x >> a", cwd=repo)
    assert failed.returncode == 65
    found = re.search(r"apply it here: clinvk (runs apply \S+ prompt);", failed.stderr)
    assert found, failed.stderr
    assert clinvk(*found[1].split(), "--keep", cwd=repo).returncode == 0
    assert git(repo, "status", "--short") == "M  a"
    git(repo, "commit", "-q", "-m", "applied")
    later = clinvk("-c", "echo y >> b", cwd=repo)  # the task has failed all the same
    found = re.search(r"apply it here: clinvk (runs apply \S+ prompt);", later.stderr)
    assert found, later.stderr
    assert clinvk(*found[1].split(), cwd=repo).returncode == 0
    assert git(repo, "status", "--short") == "M  b"


def test_a_worktree_stays_while_a_turn_of_its_session_runs_in_it(
    clinvk: CommandLine, shell: Home, repo: Path
):
    clinvk("--worktree", "-b", "shell", "echo x >> a", cwd=repo)
    (run,) = (shell.path / "worktrees").glob("r*")
    worktree, go = run / "prompt", repo.parent / "go"
    script = f"echo 1 > c; while [ ! -e {go} ]; do sleep 0.05; done; echo 2 > d"
    later = clinvk.start("-c", script, cwd=repo)
    wait_for((worktree / "c").exists)
    dropped = clinvk("runs", "drop", "--yes", cwd=repo)
    assert dropped.returncode == 4
    assert "a turn of a session is running in the worktree" in dropped.stderr
    applied = clinvk("runs", "apply", cwd=repo)
    assert applied.returncode == 0, applied.stderr
    assert f"the worktree {worktree} was not removed: a turn" in applied.stderr
    assert f"{worktree} was kept: a turn" in clinvk("runs", "clean", cwd=repo).stderr
    go.touch()
    later.communicate(timeout=60)
    assert later.returncode == 0
    assert {"c", "d"} <= set(git(repo, "ls-tree", "--name-only", f"refs/clinvk/{run.name}/prompt/2").split())  # fmt: skip
    clinvk("runs", "clean", cwd=repo)
    assert not run.exists()


def test_a_prompt_in_a_worktree_ends_by_saying_what_changed(
    clinvk: CommandLine, shell: Home, repo: Path
):
    done = clinvk("--worktree", "-b", "shell", "echo x >> a; pwd", cwd=repo)
    assert done.returncode == 0, done.stderr
    (run,) = [p.name for p in (shell.path / "runs").iterdir()]
    assert done.stdout.strip() == str(shell.path / "worktrees" / run / "prompt")
    assert f"1 file changed (+1 -0) in a worktree; see what: clinvk runs diff {run}" in done.stderr
    assert f"clinvk runs apply {run}" in done.stderr
    assert f"clinvk runs drop {run}" in done.stderr
    assert git(repo, "show", f"refs/clinvk/{run}/prompt/1:a") == "one\nx"
    # The same directory continues it, in the worktree; what changes there is another attempt.
    again = clinvk("-c", "--json", "cat a; echo y >> a", cwd=repo)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["content"] == "one x"
    assert found["worktree"]["ref"] == f"refs/clinvk/{run}/prompt/2"
    assert git(repo, "show", f"refs/clinvk/{run}/prompt/2:a") == "one\nx\ny"
    assert git(repo, "status", "--short") == ""


def test_all_steps_of_a_chain_share_a_worktree_and_each_has_its_own_changes(
    clinvk: CommandLine, shell: Home, repo: Path
):
    prompts = {"one": "echo 1 > new", "two": "cat new; git log --oneline | wc -l; echo 2 > a"}
    steps = [{"name": n, "prompt": p, "backend": "shell"} for n, p in prompts.items()]
    steps.append({"name": "three", "prompt": "true", "backend": "shell"})
    done = clinvk("chain", "--worktree", "--json", cwd=repo, stdin=json.dumps({"steps": steps}))
    assert done.returncode == 0, done.stderr
    one, two, three = (task["worktree"] for task in json.loads(done.stdout)["results"])
    assert one["path"] == two["path"]
    assert Path(one["path"]).name == "chain"
    assert json.loads(done.stdout)["results"][1]["output"].split() == ["1", "2"]
    assert two["base"] == one["commit"]
    assert (two["files"], three["files"]) == (1, 0)
    assert three["commit"] == two["commit"]


def test_the_rounds_of_a_loop_share_a_worktree_whose_changes_are_applied_together(
    clinvk: CommandLine, shell: Home, repo: Path
):
    steps = [
        {"name": "fix", "prompt": "echo x >> new", "check": 'test "$(wc -l < new)" -ge 2'},
        {"name": "look", "prompt": "wc -l < new; echo '{{steps.fix.diff}}' | grep -c '^+x'"},
    ]
    steps = [{**step, "backend": "shell"} for step in steps]
    repeat = {"steps": ["fix", "look"], "until": "check", "max": 3}
    data = json.dumps({"steps": steps, "repeat": repeat})
    done = clinvk("chain", "--worktree", "--json", cwd=repo, stdin=data)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert [task["state"] for task in run["results"]] == ["done"] * 4 + ["skipped"] * 2
    assert [run["results"][i]["output"].split() for i in (1, 3)] == [["1", "1"], ["2", "1"]]
    assert not (repo / "new").exists()
    assert "+x" in clinvk("runs", "diff", cwd=repo).stdout
    applied = clinvk("runs", "apply", cwd=repo)
    assert applied.returncode == 0, applied.stderr
    assert (repo / "new").read_text() == "x\nx\n"


def test_a_judge_needs_no_worktree_but_each_compared_backend_has_one(
    clinvk: CommandLine, shell: Home, repo: Path
):
    args = ("--worktree", "--json", "-b", "shell:a,shell:b", "--judge", "echo", "echo x > a; pwd")
    done = clinvk("compare", *args, cwd=repo)
    found = json.loads(done.stdout)["results"]
    assert [Path(task["output"].strip()).name for task in found[:2]] == ["shell-a", "shell-b"]
    assert "worktree" not in found[2]


def test_a_killed_run_continues_in_its_worktrees(
    clinvk: CommandLine, shell: Home, repo: Path, tmp_path: Path
):
    script = f"cat a c 2>/dev/null; echo half >> c; test -e {tmp_path}/again || kill -9 $CLINVK"
    shell.backend(
        "shell",
        f'CLINVK=$PPID; export CLINVK; p=$(cat)\n{START}said=$(sh -c "$p" 2>&1)\n'
        'printf \'{"type":"end","text":"%s"}\\n\' "$(printf %s "$said" | tr \'\\n\' \' \')"\n',
    )
    started = clinvk.start("parallel", cwd=repo, stdin=subprocess.PIPE)
    started.communicate(tasks(script))
    assert started.returncode == -9
    (run,) = [p.name for p in (shell.path / "runs").iterdir()]
    git(repo, "gc", "--prune=now", "--quiet")
    clinvk("runs", "cancel", run)
    (half,) = clinvk.json("runs", "diff", run, "--json", cwd=repo)["tasks"]
    assert (half["state"], half["ref"]) == ("indeterminate", f"refs/clinvk/{run}/t1/1")
    assert "no runs to clean" in clinvk("runs", "clean").stderr  # it may be resumed
    (tmp_path / "again").touch()
    done = clinvk("runs", "resume", run, "--rerun-indeterminate", "--json", cwd=repo)
    assert done.returncode == 0, done.stderr
    (task,) = json.loads(done.stdout)["results"]
    assert task["output"].strip() == "one half"
    assert task["worktree"]["ref"] == f"refs/clinvk/{run}/t1/2"
    git(repo, "gc", "--prune=now", "--quiet")
    assert git(repo, "show", f"refs/clinvk/{run}/t1/2:c") == "half\nhalf"


def test_a_session_whose_worktree_is_gone_continues_from_its_transcript(
    clinvk: CommandLine, shell: Home, repo: Path
):
    clinvk("--worktree", "-b", "shell", "pwd", cwd=repo)
    (run,) = [p.name for p in (shell.path / "runs").iterdir()]
    git(repo, "worktree", "remove", "-f", "-f", str(shell.path / "worktrees" / run / "prompt"))
    done = clinvk("-c", "--dry-run", "-o", "json", "pwd", cwd=repo)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["workdir"] == str(repo)
    assert json.loads(done.stdout)["native_id"] is None
    done = clinvk("-c", "true", cwd=repo)
    assert f"no longer exists: the conversation continues in {repo}" in done.stderr


def test_clean_removes_worktrees_and_keeps_results_until_they_are_taken(
    clinvk: CommandLine, shell: Home, repo: Path
):
    script = tasks("echo x > a; mkdir sub", "true")
    run = json.loads(clinvk("parallel", "--json", cwd=repo, stdin=script).stdout)["id"]
    worktrees = shell.path / "worktrees" / run
    (worktrees / "t2" / "later").write_text("by hand")
    listed = json.loads(clinvk("runs", "list", "--wide", "--json").stdout)["runs"][0]
    assert listed["worktrees"]["count"] == 2
    assert listed["worktrees"]["bytes"] > 4096
    assert "worktrees: 2 of 1 run, " in clinvk("doctor").stdout
    assert "2 (" in clinvk("runs", "list", "--wide").stdout
    would = clinvk("runs", "clean", "--dry-run")
    assert "Would remove 2 worktrees." in would.stdout
    assert worktrees.is_dir()
    done = clinvk("runs", "clean", "--older-than", "0d")
    assert "Removed 2 worktrees (" in done.stdout
    assert f"kept 1 run with results that were neither applied nor dropped: {run}" in done.stderr
    assert not worktrees.exists()
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1
    assert git(repo, "show", f"refs/clinvk/{run}/t2/2:later") == "by hand"
    refused = clinvk("runs", "delete", "--yes", run)
    assert refused.returncode == 4
    assert "results that were neither applied nor dropped: t1, t2" in refused.stderr
    dropped = clinvk("runs", "drop", "--yes", run, cwd=repo)
    assert dropped.returncode == 0, dropped.stderr
    assert clinvk("runs", "delete", "--yes", run).returncode == 0
    assert git(repo, "for-each-ref", "refs/clinvk") == ""


def test_setup_runs_first_and_its_failure_starts_nothing(
    clinvk: CommandLine, shell: Home, repo: Path
):
    args = ("--worktree", "-b", "shell", "cat made", "--setup")
    done = clinvk(*args, "pwd; echo yes > made", cwd=repo)
    assert done.stdout == "yes\n", done.stderr
    failed = clinvk(*args, "echo no network; exit 3", cwd=repo)
    assert failed.returncode == 1
    assert "the setup of the worktree failed (exit code 3): no network" in failed.stderr
    assert len(list((shell.path / "runs").iterdir())) == 1  # nothing is left of the other
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 2
    dry = clinvk("--worktree", "--base", "main", "--dry-run", "-b", "shell", "true", cwd=repo)
    assert "# worktree: begins with main  (command line)" in dry.stdout
    refused = clinvk("--setup", "x", "-b", "shell", "true", cwd=repo)
    assert "--setup needs a worktree" in refused.stderr
    # In a run, only the task fails.
    script = tasks("true", worktree={"setup": "exit 9"})
    task = json.loads(clinvk("parallel", "--json", cwd=repo, stdin=script).stdout)["results"][0]
    assert task["error"]["message"].startswith("the setup of the worktree failed (exit code 9)")


def test_flags_and_tasks_add_to_the_worktree_of_all_tasks():
    whole = {"base": "main", "setup": "npm ci"}
    flags = Defaults(task=TaskDefaults(worktree={"base": "v1"}), flags={"worktree": "--worktree"})
    entries = [
        ("a", Worktree(base="v1", setup="npm ci")),
        ({"prompt": "b", "worktree": True}, Worktree(base="v1", setup="npm ci")),
        ({"prompt": "c", "worktree": {"base": 123, "copy": ".env"}},
         Worktree(base="123", setup="npm ci", copy=(".env",))),
        ({"prompt": "d", "worktree": False}, None),
    ]  # fmt: skip
    data = {"tasks": [entry for entry, _ in entries], "worktree": whole}
    plan = parse_plan(data, "t.yaml", "parallel", flags)
    assert [task.worktree for task in plan.tasks] == [wanted for _, wanted in entries]
    for bad, message in [
        ({"dirty": "maybe"}, "t.yaml: worktree.dirty: "),
        ({"copy": ["../x"]}, "worktree.copy[0]: '../x' is not a pattern"),
        ({"copy": [""]}, "worktree.copy[0]: '' is not a pattern"),
        ({"setup": " "}, "worktree.setup: the command is empty"),
        ({"bas": "x"}, "unknown key 'bas'; did you mean 'base'?"),
        ("yes", "worktree"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(message)):
            parse_plan({"tasks": ["a"], "worktree": bad}, "t.yaml", "parallel", Defaults())


def test_a_session_of_another_directory_continues_in_a_new_worktree(
    clinvk: CommandLine, shell: Home, repo: Path
):
    shell.backend("shell", f'p=$(tail -n 1)\n{START}sh -c "$p"\n{END}')  # after the transcript
    first = json.loads(clinvk("-b", "shell", "--json", "echo x > c", cwd=repo).stdout)
    session = first["session_id"]
    again = clinvk("resume", session, "--worktree", "--json", "echo y > a", cwd=repo)
    found = json.loads(again.stdout)
    assert found["session_id"] == session
    assert found["worktree"]["files"] == 1
    assert f"session {session} continues in a worktree, from its transcript" in again.stderr
    assert "repo has 1 uncommitted change (c), which the worktrees do not have" in again.stderr
    assert (repo / "a").read_text() == "one\n"
    later = json.loads(clinvk("-c", "--json", "echo z > b", cwd=repo).stdout)
    assert later["worktree"]["ref"] == found["worktree"]["ref"].replace("/1", "/2")


def test_a_prompt_in_a_worktree_from_python(
    shell: Home, repo: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLINVK_HOME", str(shell.path))
    done = api.run("echo x > a", backend="shell", cwd=repo, worktree={"base": "HEAD"})
    assert done.worktree is not None
    assert done.worktree.files == 1
    more = api.run("echo y > b", session=done.session_id, cwd=None)
    assert more.worktree is not None
    assert more.worktree.ref.endswith("/prompt/2")
    run = api.parallel(["true"], backend="shell", workdir=str(repo), worktree=True)
    assert run.results[0].worktree is not None
    assert not run.results[0].worktree.is_changed
    with pytest.raises(UsageError, match=r"worktree\.x: unknown key"):
        api.run("p", backend="shell", cwd=repo, worktree={"x": 1})


def test_tasks_without_worktrees_load_nothing_of_them(clinvk: CommandLine, shell: Home):
    argv = [sys.executable, "-X", "importtime", "-m", "clinvk", "parallel", "-b", "shell", "-q",
            "--format", "lines", "-"]  # fmt: skip
    done = subprocess.run(
        argv, input=b"true\n", env=shell.env, cwd=shell.work, capture_output=True, check=True
    )
    assert b"clinvk.engine" in done.stderr
    assert b"clinvk.worktrees" not in done.stderr


def test_a_git_command_that_hangs_can_be_cancelled(clinvk: CommandLine, shell: Home, repo: Path):
    """A filter, such as that of Git LFS, may wait for a server."""
    (repo / ".gitattributes").write_text("a filter=slow\n")
    git(repo, "add", ".gitattributes")
    git(repo, "commit", "-qm", "filter")
    git(repo, "config", "filter.slow.smudge", f"touch {repo.parent}/waiting; sleep 600")
    process = clinvk.start("--worktree", "-b", "shell", "true", cwd=repo)
    wait_for((repo.parent / "waiting").exists)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 7, stderr
    assert git(repo, "worktree", "list", "--porcelain").count("worktree ") == 1
    left = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "600"]]
    assert not [p for p in left if p.environ().get("CLINVK_HOME") == str(shell.path)]


def test_a_worktree_is_never_part_of_the_files_that_it_was_made_from(
    clinvk: CommandLine, shell: Home, repo: Path
):
    inside = {"CLINVK_HOME": str(repo / "home")}
    shutil.copytree(shell.path, repo / "home")
    done = clinvk("--worktree", "-b", "shell", "pwd", cwd=repo, env=inside)
    assert "would be inside the working tree" in done.stderr
    (repo / ".gitignore").write_text("/home/\n")
    done = clinvk("--worktree", "-b", "shell", "pwd", cwd=repo, env=inside)
    assert done.stdout.startswith(f"{repo}/home/worktrees/"), done.stderr


@pytest.mark.anyio
async def test_a_setup_can_be_cancelled_on_any_event_loop(
    shell: Home, repo: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CLINVK_HOME", str(shell.path))
    started = repo.parent / "started"
    wanted = {"setup": f"touch {started}; exec sleep 600"}
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(api.arun, "true", backend="shell", cwd=repo, worktree=wanted))
            await anyio.to_thread.run_sync(wait_for, started.exists)
            scope.cancel()
    assert scope.cancelled_caught
    done = await api.arun("pwd", backend="shell", cwd=repo, worktree=True)
    assert done.worktree is not None
    assert done.text.strip() == done.worktree.path


def test_a_worktree_stays_while_what_a_killed_clinvk_left_works_in_it(
    clinvk: CommandLine, shell: Home, repo: Path
):
    clinvk("--worktree", "-b", "shell", "echo x >> a", cwd=repo)
    (run,) = (shell.path / "worktrees").glob("r*")
    worktree = run / "prompt"
    later = clinvk.start("-c", "touch begun; exec sleep 600", cwd=repo)
    wait_for((worktree / "begun").exists, "its beginning", 60)
    later.kill()
    later.communicate()
    try:
        why = f", which a turn has started, works in the worktree {worktree}"
        assert why in clinvk("runs", "clean", cwd=repo).stderr
        dropped = clinvk("runs", "drop", "--yes", cwd=repo)
        assert (dropped.returncode, why in dropped.stderr) == (4, True)
        applied = clinvk("runs", "apply", cwd=repo)
        assert (applied.returncode, why in applied.stderr) == (0, True)
        assert worktree.exists()
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(worktree):
                    process.kill()
        wait_for(lambda: find_working_in(str(worktree)) is None, "the end of it", 60)
    clinvk("runs", "clean", cwd=repo)
    assert not worktree.exists()


def test_a_worktree_is_not_removed_under_a_run_that_another_process_drives(
    clinvk: CommandLine, shell: Home, repo: Path
):
    clinvk("--worktree", "-b", "shell", "echo x >> a", cwd=repo)
    (run,) = (shell.path / "worktrees").glob("r*")
    with RunStore(shell.path).find(run.name).lock():  # as `runs retry` does before it says so
        applied = clinvk("runs", "apply", cwd=repo)
    assert applied.returncode == 0, applied.stderr
    assert (run / "prompt").exists()
    clinvk("runs", "clean", cwd=repo)
    assert not run.exists()
