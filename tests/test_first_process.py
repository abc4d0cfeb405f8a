"""clinvk as process 1 of a container."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ANSWER, CommandLine, Home, wait_for
from tests.needs import need

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture(autouse=True)
def namespace() -> None:
    need("unshare")
    tried = subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True)
    if tried.returncode != 0 and not os.environ.get("CI"):
        pytest.skip("no PID namespace can be created here")


def test_orphans_do_not_stay_as_zombies(clinvk: CommandLine, home: Home, tmp_path: Path):
    # The last task looks at the zombies: what earlier ones left has ended by then. On a busy machine
    # it may take a while until they are collected, too.
    home.backend("leaves", "(sleep .1 &)\n" + ANSWER)
    home.backend(
        "looks",
        "for i in {1..100}; do sleep .4\n"
        f"for s in /proc/[0-9]*/stat; do cat $s; done > {tmp_path}/stat 2>/dev/null\n"
        f"grep -qE '\\) Z |\\(sleep\\)' {tmp_path}/stat || break\ndone\n" + ANSWER,
    )
    names = [f"t{i}" for i in range(6)]
    tasks = "\n".join(f"- {{name: {n}, prompt: x, backend: leaves}}" for n in names)
    tasks += f"\n- {{prompt: y, backend: looks, needs: [{', '.join(names)}]}}\n"
    run = subprocess.run(
        [*NAMESPACE, *clinvk.program, "parallel", "-"],
        input=tasks, env=home.env, cwd=home.work, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    states = [
        line.rpartition(")")[2].split()[0] for line in (tmp_path / "stat").read_text().splitlines()
    ]
    assert len(states) >= 3
    assert "Z" not in states


def test_the_exit_code_is_that_of_clinvk(clinvk: CommandLine, home: Home):
    for args, code in ((["-b", "echo", "hi"], 0), (["-b", "nothing", "hi"], None)):
        alone = clinvk(*args)
        run = subprocess.run(
            [*NAMESPACE, *clinvk.program, *args],
            env=home.env, cwd=home.work, text=True, capture_output=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert run.returncode == alone.returncode
        assert code in (None, run.returncode)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_clinvk(
    clinvk: CommandLine, home: Home, tmp_path: Path, number: signal.Signals
):
    home.backend("slow", f"touch {tmp_path}/began; sleep 30")
    # `kill 1` from inside: the signal for process 1 of a container that is stopped.
    home.backend("kills", f"kill -{number.value} 1; sleep 30")
    alone = clinvk.start("-b", "slow", "hi")
    wait_for((tmp_path / "began").exists)
    alone.send_signal(number)
    alone.communicate(timeout=60)
    run = subprocess.run(
        [*NAMESPACE, *clinvk.program, "-b", "kills", "hi"],
        env=home.env, cwd=home.work, text=True, capture_output=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert run.returncode == alone.returncode, run.stderr
