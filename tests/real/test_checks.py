"""A check that fails is fixed by the CLI itself, in a second turn of its session."""

import shlex

import pytest

from tests.real.user import NO_LIMITS, User

pytestmark = pytest.mark.real


def test_a_second_round_fixes_what_the_check_reports(user: User) -> None:
    """The first turn writes the wrong text. The check prints the prompt by which the model writes
    the right one, so that this only happens if the CLI gets the output of the check."""
    made, fix = user.home.project / "made", user.home.path / "fix"
    fix.write_text(user.write(made, "right"))
    check = f"grep right made || {{ cat {shlex.quote(str(fix))}; exit 1; }}"

    answer = user.trusting.result(
        *NO_LIMITS, "--check", check, "--rounds", "2", "--protect", "tests/**",
        user.write(made, "wrong"),
    )  # fmt: skip

    assert made.read_text() == "right"
    found = answer["check"]
    assert (found["state"], found["rounds"], found["output"]) == ("passed", 1, "right")
    (session,) = user.sessions()
    assert session["turns"] == 2
    assert session["native_id"] == answer["native_id"]
    assert user.processes() == []
