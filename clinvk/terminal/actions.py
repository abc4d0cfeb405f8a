"""Text in a log of GitHub Actions or Azure Pipelines, which obey commands in what is printed."""

from __future__ import annotations

import re
from collections.abc import Mapping


def is_log_obeyed(env: Mapping[str, str]) -> bool:
    """Whether whoever reads our output looks for commands in it."""
    return env.get("GITHUB_ACTIONS") == "true" or env.get("TF_BUILD", "").lower() == "true"


def literal(text: str) -> str:
    """`text` with a space in each command: `::add-mask::` at the beginning of a line, white space
    aside, and `##[group]` or `##vso[…]` anywhere."""
    if "##" in text:
        text = re.sub(r"##(?=\[|[A-Za-z]{1,20}\[)", "# #", text)
    return re.sub(r"(?m)^(\s*):(?=:)", r"\1: ", text) if "::" in text else text
