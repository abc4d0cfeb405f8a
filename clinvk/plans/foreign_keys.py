"""Keys of a task file that are not its own, but those of other tools, or of another place in the file: a
hint says where the setting is."""

from __future__ import annotations

import re

from clinvk.plans.schema import TaskEntry, TaskFile, WorktreeEntry
from clinvk.text.typed import ShapeError

# What other tools call a key of ours.
NAMES = {
    "prompt": "instructions instruction content message text query input task",
    "prompt_file": "file input_file",
    "needs": "depends_on depends dependencies after requires",
    "workdir": "cwd working_directory directory dir folder path",
    "backend": "agent provider engine cli assistant",
    "model": "model_name llm",
    "timeout": "timeout_minutes timeout_seconds timeout_secs max_time time_limit",
    "retries": "retry max_retries max_attempts",
    "env": "environment variables vars envs",
    "check": "verify test tests test_command validate after_script",
    "approval": "permission_mode approval_policy permissions auto_approve yolo",
    "sandbox": "sandbox_policy",
    "allowed_tools": "tools tool allow_tools",
    "labels": "runs_on node host machine worker label",
    "matrix": "strategy",
    "title": "description",
    "knowledge": "files documents docs",
    "max_parallel": "concurrency parallel parallelism workers max_workers jobs max_concurrency",
    "budget": "cost max_cost max_budget budget_cost budget_tokens",
    "output_dir": "output output_file output_path save_as",
    "repeat": "loop until while max_rounds",
}  # fmt: skip
KEYS = {name: key for key, names in NAMES.items() for name in names.split()}
# What needs a sentence.
SENTENCES = {
    **dict.fromkeys(
        ("env_file", "dotenv", "secrets", "secret"),
        "name each variable in env: {TOKEN: ${TOKEN}} takes it from the environment, and stores no value",
    ),
    **dict.fromkeys(
        ("run", "command", "commands", "script", "shell", "cmd", "exec"),
        "a task is a prompt for an AI CLI; a command that has to succeed afterwards is its check: CMD, one that "
        "prepares its worktree is worktree: {setup: CMD}",
    ),
    **dict.fromkeys(
        ("before", "before_script", "pre", "install", "init"),
        "a command that prepares the worktree of a task is worktree: {setup: CMD}",
    ),
    **dict.fromkeys(
        ("if", "when", "condition", "only_if"),
        "a task runs once those in needs have succeeded; a chain repeats steps until something holds, with repeat",
    ),
    **dict.fromkeys(
        ("branch", "commit", "ref", "checkout"),
        "what the worktree of a task begins with is worktree: {base: REVISION}",
    ),
    **dict.fromkeys(
        ("cluster", "cluster_url"), "pass --cluster URL, or set it: clinvk config set cluster.url URL"
    ),
    **dict.fromkeys(
        ("continue_on_error", "allow_failure", "ignore_errors"),
        "the others go on after a failure, except those that need it; with fail_fast: true, none starts",
    ),
    **dict.fromkeys(
        ("schedule", "cron"), "clinvk starts nothing by itself; use cron, or a timer of systemd"
    ),
}  # fmt: skip
FORMS = {
    "timeout": "timeout: 10m", "needs": "needs: [NAME]", "env": "env: {NAME: VALUE}",
    "matrix": "matrix: {NAME: [VALUE]}", "labels": "labels: [LABEL]", "check": "check: CMD",
    "budget": "budget: {cost: 5}", "repeat": "repeat: {steps: [NAME], until: check, max: 3}",
    "allowed_tools": "allowed_tools: [TOOL]", "approval": "approval: auto",
}  # fmt: skip
OF_TASK = {*TaskEntry.__struct_fields__, "matrix"}
OF_FILE = {*TaskFile.__struct_fields__}
PLACES = {"tasks", "steps", "defaults", "name", "description"}  # that explain themselves
OF_WORKTREE = WorktreeEntry.__struct_fields__


def with_hint(error: ShapeError, *, in_file: bool, entries: str) -> ShapeError:
    """The error with a hint, if it is about an unknown key that is known elsewhere. `in_file`: a key of the
    file, and not of one of its `entries`, such as tasks."""
    key = str(error.path[-1]) if error.path else ""
    if not error.problem.startswith("unknown key"):
        return error
    hint = find_hint(key, in_file=in_file, entries=entries)
    return error if hint is None else ShapeError(error.path, f"unknown key {key!r}", hint)


def find_hint(key: str, *, in_file: bool, entries: str) -> str | None:
    """Where the setting is that a key of another tool, or of another place, seems to mean."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).replace("-", "_").lower()
    own, others = (OF_FILE, OF_TASK) if in_file else (OF_TASK, OF_FILE)
    if name in OF_WORKTREE:
        return f"it is a key of worktree: write worktree: {{{name}: …}}"
    if name in SENTENCES:
        return SENTENCES[name]
    meant = name if name in own else KEYS.get(name, name)
    if meant == key or meant not in own | others:
        if key not in others - PLACES:
            return None
        meant = key
    if meant == "repeat" and entries == "tasks":
        return "tasks are not repeated, but the steps of a chain are: clinvk help chain"
    form = FORMS.get(meant, f"{meant}: …")
    if meant in own:
        return f"write {form}"
    if in_file:
        return f"it is a key of {entries}; for all of them, write defaults: {{{form}}}"
    return f"it is about all {entries}: write {form} beside them"
