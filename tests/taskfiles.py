"""Reads task files for tests: the plan, or the error that the user gets."""

import textwrap
from typing import Any

import pytest

from clinvk.errors import ConfigError
from clinvk.model.plan import Plan
from clinvk.plans import formats, parse
from clinvk.plans.schema import TaskDefaults
from clinvk.plans.taskfile.defaults import Defaults


def plan_of(
    text: str, path: str | None = "t.yaml", form: str | None = None, **defaults: Any
) -> Plan:
    kind = defaults.pop("kind", "parallel")
    defaults["task"] = TaskDefaults(**defaults.get("task", {}))
    text = textwrap.dedent(text)
    data, form = formats.parse_text(path, text, form)
    lined = text if form in ("yaml", "json") else ""
    return parse.parse_plan(data, path or "stdin", kind, Defaults(**defaults), lined)


def mistake(text: str, path: str | None = "t.yaml", **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_of(text, path, **more)
    assert caught.value.exit_code == 3
    return str(caught.value)


def prompts(plan: Plan) -> list[str]:
    return [task.prompt for task in plan.tasks]


def names(plan: Plan) -> list[str]:
    return [task.name for task in plan.tasks]
