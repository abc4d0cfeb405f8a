"""What tests need of the machine. Without it they are skipped on a user's machine, and fail in CI.

`report` says in one line what was skipped and what to install.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from typing import NoReturn

import pytest

SERVERS = "/usr/local/sbin:/usr/sbin:/sbin"
PROGRAM_IS_MISSING = re.compile(r"^(\S+) is not installed$")


def missing(program: str) -> str:
    return f"{program} is not installed"


def need(program: str) -> str:
    """The path of a program that the test starts."""
    # Servers are in directories that may not be on a user's PATH.
    return shutil.which(program) or shutil.which(program, path=SERVERS) or lack(missing(program))


def need_root() -> None:
    """For what only root can do: mount, become another user, give a file away."""
    if os.geteuid() != 0:
        lack("the tests do not run as root")


def lack(reason: str) -> NoReturn:
    """Leave the test, for want of something that every machine in CI has."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and in CI no test is skipped for that")
    pytest.skip(reason)


def report(skipped: Iterable[pytest.TestReport]) -> str:
    """One line about all skipped tests; empty if there are none."""
    reasons = Counter(map(_reason, skipped))
    if not reasons:
        return ""
    counts = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    programs = [match[1] for match in map(PROGRAM_IS_MISSING.match, reasons) if match]
    advice = f"; install {', '.join(sorted(programs))} to run everything" if programs else ""
    return f"skipped {_tests(reasons.total())}: {counts}{advice}"


def _reason(report: pytest.TestReport) -> str:
    if not isinstance(report.longrepr, tuple):
        return str(report.longrepr)
    return report.longrepr[2].removeprefix("Skipped: ").partition("\n")[0]


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"
