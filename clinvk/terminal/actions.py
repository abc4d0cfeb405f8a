"""Text in a log of GitHub Actions or Azure Pipelines, which execute commands found in the
output."""

from __future__ import annotations

import re
from collections.abc import Mapping


def is_log_obeyed(env: Mapping[str, str]) -> bool:
    """Whether the output is a CI log that is searched for commands."""
    return env.get("GITHUB_ACTIONS") == "true" or env.get("TF_BUILD", "").lower() == "true"


def literal(text: str) -> str:
    """`text` with a space in each command: `::add-mask::` at the beginning of a line, even after
    white space, and `##[group]` or `##vso[…]` anywhere."""
    if "##" in text:
        text = re.sub(r"##(?=\[|[A-Za-z]{1,20}\[)", "# #", text)
    return re.sub(r"(?m)^(\s*):(?=:)", r"\1: ", text) if "::" in text else text
