"""Whether two outputs are the same failure: times, paths and numbers do not matter."""

from __future__ import annotations

import hashlib
import re

from clinvk.model.checks.check import CheckResult

# In this order: a time is made of numbers, and a path may end in some.
_VARYING = re.compile(
    r"""
    (?P<time>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?
      |\b\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?\b)
    |(?P<path>(?:[A-Za-z]:)?(?:[\w.@~+-]*[/\\])+[\w.@~+-]*)
    |(?P<hex>\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}\b)
    |(?P<number>\d+(?:[.,]\d+)*)
    """,
    re.VERBOSE,
)


def failure_key(check: CheckResult) -> str:
    """The same for two failures if they are the same one."""
    about = f"{check.command}\n{check.exit_code}\n{_unvarying(check.output)}"
    return hashlib.blake2b(about.encode("utf-8", "replace"), digest_size=16).hexdigest()


def is_same_failure(one: CheckResult, other: CheckResult) -> bool:
    return failure_key(one) == failure_key(other)


def _unvarying(output: str) -> str:
    """The output without what differs between two runs, and without empty lines and the lengths of
    rulers, which depend on the width of a number."""
    lines = (_VARYING.sub(lambda m: f"<{m.lastgroup}>", line) for line in output.splitlines())
    collapsed = (re.sub(r"([=\-_.*#~ \t])\1+", r"\1", line).strip() for line in lines)
    return "\n".join(line for line in collapsed if line)
