"""What commands read from their flags has types: every flag of a prompt is in one of them."""

from typing import Any

import pytest
from msgspec.structs import fields

from clinvk.cmd.main import root
from clinvk.cmd.options.plan import RuleFlags, override_rules
from clinvk.cmd.options.prompt_flags import PromptFlags
from clinvk.cmd.options.storage import storage_flags
from clinvk.errors import UsageError
from clinvk.model.option_table import OPTIONS
from clinvk.model.plan import Budget, Halt, Plan, Rules

# What is read by itself: the prompt, which session, and what is in force.
PROMPT = {"words", "file", "edit", "plain", "config"}
ASK = PROMPT | {
    "continue_",
    "anywhere",
    "session",
    "auto_save",
    "history",
    "new",
    "template",
    "native",
}
RESUME = PROMPT | {"session_id", "last", "interactive", "here", "with_tag", "native"}


def params(name: str) -> set[str]:
    command: Any = root()
    found = command.get_command(command.make_context("clinvk", ["version"]), name)
    return {param.name for param in found.params}


@pytest.mark.parametrize(
    ("command", "own", "lacks"), [("ask", ASK, set()), ("resume", RESUME, {"title", "tag"})]
)
def test_every_flag_of_a_prompt_is_read(command: str, own: set[str], lacks: set[str]):
    of_table = {option.name for option in OPTIONS if option.flag}
    typed = {field.name for field in fields(PromptFlags)} - {"options"} - lacks
    assert params(command) == own | typed | of_table | set(storage_flags())


@pytest.mark.parametrize(
    ("flags", "rules"),
    [
        (RuleFlags(), {"retries": 2, "budget": Budget(cost=1.0, tokens=9)}),
        (RuleFlags(retries=0, budget_tokens=5), {"budget": Budget(cost=1.0, tokens=5)}),
        (RuleFlags(max_parallel=7), {"max_parallel": 7}),
        (RuleFlags(fail_fast=True), {"halt": Halt(when="now", count=1)}),
        (RuleFlags(fail_fast=True, halt="never"), {"halt": Halt()}),
        (RuleFlags(ephemeral=True), {"ephemeral": True}),
    ],
)
def test_a_rule_of_the_plan_stays_unless_a_flag_says_otherwise(flags: RuleFlags, rules: dict):
    plan = Plan(kind="parallel", tasks=(), rules=Rules(retries=2, budget=Budget(1.0, 9)))
    changed = override_rules(plan, flags).rules
    assert {name: getattr(changed, name) for name in rules} == rules


def test_a_rule_that_is_wrong_names_its_flag():
    plan = Plan(kind="parallel", tasks=())
    for flags, name in (
        (RuleFlags(halt="maybe"), "--halt"),
        (RuleFlags(on_limit="cry"), "--on-limit"),
        (RuleFlags(max_wait="soon"), "--max-wait"),
        (RuleFlags(budget_cost=0.0), "--budget-cost"),
    ):
        with pytest.raises(UsageError, match=f"^{name}: "):
            override_rules(plan, flags)
