"""Which candidate of a comparison in worktrees is best."""

import json
from pathlib import Path
from typing import Any

import pytest

import clinvk as clinvk_package
from clinvk.model.checks.check import CheckResult
from clinvk.model.outcome import Outcome, RunResult
from clinvk.model.result import Failure, WorktreeResult
from clinvk.plans.ranking import last_number, rank, rank_candidates
from tests.applied_runs import FILES, Repository
from tests.conftest import CommandLine, Home
from tests.stores import keep


def candidate(
    index: int, lines: int | None, *, state: str = "done", check: str | None = None
) -> Outcome:
    made = None
    if lines is not None:
        made = WorktreeResult(
            path="/w", ref="r", commit=f"c{lines}" if lines else "base", base="base",
            files=1 if lines else 0, insertions=lines,
        )  # fmt: skip
    return Outcome(
        index=index, name=f"c{index}", state=state, worktree=made,
        error=None if state == "done" else Failure("check", "the check failed", None),
        check=CheckResult(state=check) if check else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("candidates", "scores", "lowest", "best", "decided_by", "order"),
    [
        # The check decides before the score, the score before the size.
        ([(9, "failed", "failed"), (90, "done", "passed")], {}, False, "c1", "check", "10"),
        ([(1, "done", "passed"), (90, "done", "passed")], {0: 1.5, 1: 2}, False, "c1", "score", "10"),
        ([(90, "done", None), (1, "done", None)], {0: 1.5, 1: 2}, True, "c0", "score", "01"),
        ([(90, "done", None), (1, "done", None)], {0: 0.0}, False, "c0", "score", "01"),
        ([(90, "done", None), (1, "done", None)], {}, False, "c1", "diff", "10"),
        ([(7, "done", None), (7, "done", None)], {}, False, "c0", None, "01"),
        # What changes nothing cannot win, whatever its check says.
        ([(0, "done", "passed"), (500, "done", "passed")], {0: 9}, False, "c1", "check", "10"),
        ([(0, "done", "passed"), (5, "failed", "failed")], {}, False, None, None, "01"),
        ([(None, "done", None), (5, "done", None), (4, "done", None)], {}, False, "c2", "diff", "210"),
    ],
)  # fmt: skip
def test_candidates_are_ranked_by_check_score_and_size(
    candidates: list[Any], scores: dict[int, float], lowest: bool, best: str | None,
    decided_by: str | None, order: str,
) -> None:  # fmt: skip
    made = [
        candidate(i, lines, state=state, check=check)
        for i, (lines, state, check) in enumerate(candidates)
    ]
    found = rank(RunResult(
        id="r1", kind="compare", state="done", results=tuple(made), seconds=1, scores=scores, lowest_wins=lowest,
    ))  # fmt: skip
    assert found is not None
    assert (found.best, found.decided_by) == (best, decided_by)
    assert "".join(str(c.index) for c in found.candidates) == order
    assert best is None or found.summary.startswith(f"{best} is ")


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([(0, "done", None)], "changed anything"),
        ([(0, "done", None), (5, "failed", "failed")], "succeeded and changed anything"),
        ([(5, "failed", "failed")], "succeeded"),
        ([], "succeeded"),
    ],
)
def test_a_summary_says_what_the_others_lack(others: list[Any], reason: str) -> None:
    made = [
        candidate(i, lines, state=state, check=check)
        for i, (lines, state, check) in enumerate([(3, "done", None), *others])
    ]
    assert rank_candidates(made, {}).summary == f"c0 is the only one that {reason}"


def test_the_last_number_of_an_output_is_the_score() -> None:
    texts = {
        "12": 12, "a 1\nb 2.5\n": 2.5, "passed 1,024 of 2,048 tests": 2048, "-3": -3, "1e3": 1000,
        "took .5 s": 0.5, "none": None, "": None,  "100%": 100,
    }  # fmt: skip
    assert {text: last_number(text) for text in texts} == texts


WORK = """#!/bin/bash
cat > /dev/null
for n in $(seq {lines}); do echo "line $n of {name}"; done > {file}
echo '{{"type": "end", "text": "done by {name}"}}'
"""


def write_backends(home: Home) -> None:
    home.backend("short", WORK.format(name="short", lines=1, file="made.txt"))
    home.backend("long", WORK.format(name="long", lines=9, file="made.txt"))
    home.backend("bad", WORK.format(name="bad", lines=1, file="broken.txt"))


def test_the_best_result_of_a_comparison_is_applied(clinvk: CommandLine, home: Home) -> None:
    repository = Repository(home.work, FILES)
    write_backends(home)
    words = ("compare", "-b", "long,short,bad", "--worktree", "--check", "test -e made.txt")
    done = clinvk(*words, "--score", "grep -c . made.txt", "--apply", "make it")
    assert done.returncode == 0, done
    assert "Ranking: long is best: its score is 9 (short: 1)" in done.stdout
    (folder,) = (home.path / "runs").iterdir()
    scored = json.loads((folder / "scores.json").read_text())["tasks"]
    assert [(s["score"], s["output"].split()[-1]) for s in scored.values()] == [(9, "9"), (1, "1")]
    assert "9" in (folder / "scores" / "0001.log").read_text()
    assert "3. bad: check failed" in done.stdout
    assert "long applied to" in done.stderr
    assert (home.work / "made.txt").read_text().count("long") == 9
    shown = clinvk("runs", "show")
    assert "Ranking: long is best" in shown.stdout
    assert "long: applied" in shown.stdout
    assert repository.git("for-each-ref", "refs/clinvk").count("\n") == 2  # the losers are kept

    repository.git("reset", "--quiet", "--hard")
    lowest = clinvk.json(
        *words, "--score", "grep -c . made.txt", "--lowest", "-o", "json", "make it"
    )
    assert (lowest["ranking"]["best"], lowest["ranking"]["decided_by"]) == ("short", "score")
    assert "short is best" in clinvk("runs", "apply").stderr
    assert repository.status() == "A  made.txt"
    for flags, message in ((("--apply",), "--worktree"), (("--worktree", "--lowest"), "--score")):
        assert message in clinvk("compare", "-b", "long,short", *flags, "x").stderr


def test_the_judge_sees_what_was_changed_and_decides_between_equals(
    clinvk: CommandLine, home: Home, tmp_path: Path
) -> None:
    Repository(home.work, FILES)
    write_backends(home)
    home.backend("other", WORK.format(name="other", lines=1, file="made.txt"))
    home.backend(
        "judge",
        f"""#!/bin/bash
cat > {tmp_path}/prompt-$$
answer=1
grep -B99 "+line 1 of other" {tmp_path}/prompt-$$ | grep -q "Answer 2 begins" && answer=2
printf '{{"type": "end", "text": "{{\\\\"best\\\\": %s, \\\\"why\\\\": \\\\"x\\\\"}}"}}\\n' $answer
""",
    )
    done = clinvk.json(
        "compare", "-b", "short,other", "--judge", "judge", "--worktree", "-o", "json", "make it"
    )
    assert done["verdict"]["best"] == "other", json.dumps(done["verdict"])
    assert (done["ranking"]["best"], done["ranking"]["decided_by"]) == ("other", "judge")


@pytest.mark.anyio
async def test_the_best_result_is_applied_from_python(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository(home.work, FILES)
    write_backends(home)
    monkeypatch.chdir(home.work)
    dispatcher = keep(
        clinvk_package.Dispatcher(clinvk_package.load({"CLINVK_HOME": str(home.path)}))
    )
    done = await clinvk_package.acompare(
        "make it", ["long", "short"], worktree=True, apply=True, dispatcher=dispatcher
    )
    assert done.ranking is not None
    assert (done.ranking.best, done.ranking.decided_by) == ("short", "diff")
    assert done.applied is not None
    assert repository.status() == "A  made.txt"
    with pytest.raises(clinvk_package.UsageError, match="results in worktrees"):
        await clinvk_package.acompare("x", ["long", "short"], score="echo 1", dispatcher=dispatcher)
