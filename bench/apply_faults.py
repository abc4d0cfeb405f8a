"""`kill -9` of clinvk anywhere between the creation of worktrees and the end of `runs apply`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.measure import CLINVK, home

TASKS = 4
MANIFEST = """\
name: maker
command: {program}
argv: {{run: []}}
events:
  - {{when: "type == 'end'", emit: finished, set: {{text: text}}}}
"""
# One task commits, all change a file of their own and another part of the same file.
PROGRAM = """\
#!/bin/sh
n=$(cat)
[ -n "$n" ] || exit 1  # clinvk was killed before it had written the prompt
sleep 0.1
echo "made by $n" > "made-$n.txt"
sed -i "s/^part $n$/part $n, changed/" shared.txt
[ "$n" = 1 ] && git -c user.name=agent -c user.email=agent@localhost commit -qam "by the agent"
echo '{"type": "end", "text": "done"}'
"""
BETWEEN = "between\n" * 5
SHARED = "".join(f"part {n}\n{BETWEEN}" for n in range(1, TASKS + 1))


def main(rounds: int = 100) -> None:
    print(f"apply_faults: {rounds} x kill -9 between the creation of {TASKS} worktrees and the end of "
          "`runs apply`, each followed by the next commands: 0 commits lost, 0 user files changed, "
          "0 stale worktrees after `runs clean`")  # fmt: skip
    chance = random.Random(8)
    bad = killed = 0
    with home() as env:
        world = World(env)
        whole = world.seconds()
        for number in range(rounds):
            how = ("--stage", "--commit", "--branch")[number % 3]
            problems, was_killed = world.round(chance.uniform(0, whole), how)
            killed += was_killed
            bad += bool(problems)
            for problem in problems:
                print(f"  round {number} ({how}): {problem}")
    print(f"{rounds} rounds, {killed} of them killed in the middle, {bad} with a problem")
    if bad:
        raise SystemExit("something was lost or changed")


class World:
    """A repository of a user, with uncommitted work."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = {**env, "GIT_CONFIG_GLOBAL": "/dev/null"}
        self.root = Path(env["HOME"], "repo")
        self.home = Path(env["CLINVK_HOME"])
        program = Path(env["HOME"], "maker")
        program.write_text(PROGRAM)
        program.chmod(0o755)
        (self.home / "backends").mkdir(parents=True, exist_ok=True)
        (self.home / "backends" / "maker.yaml").write_text(MANIFEST.format(program=program))
        self.root.mkdir()
        (self.root / "shared.txt").write_text(SHARED)
        (self.root / "mine.txt").write_text("committed\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "user")
        self.git("config", "user.email", "user@localhost")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "start")
        self.start = self.git("rev-parse", "HEAD")
        self.tasks = Path(env["HOME"], "tasks.json")
        self.tasks.write_text(json.dumps({
            "tasks": [{"name": f"t{n}", "prompt": str(n)} for n in range(1, TASKS + 1)],
            "defaults": {"backend": "maker", "worktree": True}, "max_parallel": 2,
        }))  # fmt: skip
        self.reset()

    def reset(self) -> None:
        self.git("checkout", "--quiet", "--force", "-B", "main", self.start)
        self.git("clean", "-fdxq")
        for branch in self.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split():
            if branch != "main":
                self.git("branch", "-qD", branch)
        (self.root / "mine.txt").write_text("not committed\n")
        (self.root / "untracked.txt").write_text("untracked\n")
        (self.root / "staged.txt").write_text("staged\n")
        self.git("add", "staged.txt")

    def seconds(self) -> float:
        began = time.monotonic()
        self.clinvk("parallel", str(self.tasks), "-q")
        self.clinvk("runs", "apply", "--commit")
        took = time.monotonic() - began
        self.known = self.run_ids()
        self.reset()
        return took

    def round(self, after: float, how: str) -> tuple[list[str], bool]:
        """What went wrong, and whether it was killed in the middle."""
        before = self.files()
        deadline = time.monotonic() + after
        words = [how, f"b{os.urandom(3).hex()}"] if how == "--branch" else [how]
        problems = []
        killed = self.run_until(deadline, "parallel", str(self.tasks), "-q")
        if killed:
            if self.files() != before:
                problems.append("user files changed by the run")
            runs = json.loads(self.clinvk("runs", "list", "--json").stdout)["runs"]
            if runs and runs[0]["state"] not in ("done", "damaged"):
                self.clinvk("runs", "resume", runs[0]["id"], "--rerun-indeterminate", "-q")
            if not self.has_new_run(runs):  # killed before it had a run
                self.clinvk("parallel", str(self.tasks), "-q")
        elif self.run_until(deadline, "runs", "apply", *words):
            killed = True
        done = self.clinvk("runs", "apply", *words)
        if "exists already" in done.stderr:  # it was created before the end was recorded
            done = self.clinvk("runs", "apply", "--json")
        if done.returncode:
            problems.append(f"apply failed: {done.stderr}")
        found = self.check(before, how, words)
        if found:
            show = json.loads(self.clinvk("runs", "show", "--json").stdout)
            found.append(f"{done.stdout} {done.stderr}")
            found += [f"{t['name']}: {t['state']} {t['error']}" for t in show["results"]]
        problems += found
        self.clinvk("runs", "clean", "--older-than", "0")
        problems += self.stale()
        self.known = self.run_ids()
        self.reset()
        return problems, killed

    known: frozenset[str] = frozenset()

    def has_new_run(self, runs: list[dict[str, Any]]) -> bool:
        return bool({run["id"] for run in runs} - self.known)

    def run_ids(self) -> frozenset[str]:
        runs = json.loads(self.clinvk("runs", "list", "--json").stdout)["runs"]
        return frozenset(run["id"] for run in runs)

    def check(self, before: dict[str, str], how: str, words: list[str]) -> list[str]:
        problems = []
        now = self.files()
        revision = words[1] if how == "--branch" else "main" if how == "--commit" else ""
        expected = {f"made-{n}.txt": f"made by {n}\n" for n in range(1, TASKS + 1)}
        expected["shared.txt"] = "".join(
            line + (", changed\n" if line.startswith("part") else "\n")
            for line in SHARED.splitlines()
        )
        for name, content in expected.items():
            found = self.git("show", f"{revision}:{name}", strip=False)
            if found != content:
                problems.append(f"{name} is {found[:40]!r}")
        problems += [
            f"{name} was changed"
            for name in ("mine.txt", "untracked.txt", "staged.txt")
            if now.get(name) != before.get(name)
        ]
        others = now if how != "--branch" else {}
        for name, content in before.items():
            if how == "--branch" and now.get(name) != content:
                problems.append(f"{name} was changed")
        if others and set(others) - set(before) - set(expected):
            problems.append(
                f"unexpected files: {sorted(set(others) - set(before) - set(expected))}"
            )
        count = self.git("rev-list", "--count", f"{self.start}..{revision or 'HEAD'}")
        if count != str(0 if how == "--stage" else TASKS + 1):
            problems.append(f"{count} commits")
        staged = self.git("diff", "--cached", "--name-only").split()
        if "staged.txt" not in staged:
            problems.append("what was staged is not")
        if (self.root / ".git/index.lock").exists() or (self.root / ".git/clinvk/apply").exists():
            problems.append("something was left in .git")
        return problems

    def stale(self) -> list[str]:
        listed = self.git("worktree", "list", "--porcelain").count("worktree ")
        folder = self.home / "worktrees"
        # What a killed process had half written is removed a while later.
        left = [str(p) for p in folder.glob("*/*") if not p.name.startswith(".")]
        return ([f"{listed - 1} worktrees that git knows"] if listed > 1 else []) + left

    def files(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(self.root).parts
        }

    def run_until(self, deadline: float, *words: str) -> bool:
        """Run a command, and kill it then; whether it was killed."""
        process = subprocess.Popen(
            [*CLINVK, *words], env=self.env, cwd=self.root,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
        return False

    def clinvk(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLINVK, *words], env=self.env, cwd=self.root, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def git(self, *words: str, strip: bool = True) -> str:
        done = subprocess.run(
            ["git", *words],
            env=self.env,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() if strip else done.stdout


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:] if word != "--rounds"))
