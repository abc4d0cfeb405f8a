"""What a task has answered, for the prompts and the rules of others."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from clinvk.model.outcome import Outcome
from clinvk.model.plan import Task
from clinvk.text.json_answer import NoJson, last_value


def output_for_prompts(outcome: Outcome) -> str:
    """The answer as text; some CLIs report a structured answer beside the text."""
    if outcome.structured is None:
        return outcome.output
    with suppress(NoJson):
        if last_value(outcome.output) == outcome.structured:
            return outcome.output
    said = json.dumps(outcome.structured, ensure_ascii=False)
    return f"{outcome.output}\n\n{said}" if outcome.output.strip() else said


def structured_answer(task: Task, outcome: Outcome) -> Any:
    """The structured answer. One that was recovered from a session is only text."""
    if outcome.structured is None and task.options.get("schema"):
        with suppress(NoJson):
            return last_value(outcome.output)
    return outcome.structured
