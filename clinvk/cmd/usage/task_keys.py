"""The keys of a file of tasks or steps, for the help of the commands that read one.

Which keys there are is read from what parses them; the keys that are options have their help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clinvk.plans.schema import OPTIONS, TaskEntry, TaskFile

# In this order, the most important first; keys with one meaning share a line.
TASK = {
    "prompt, prompt_file": "The prompt, or a file that contains it.",
    "again": "The prompt from the second round of a loop on.",
    "name, id": "How other tasks refer to it.",
    "backend": "Backend to use.",
    "needs": "Names of tasks that have to succeed first.",
    "matrix": "Lists; creates one task for each combination.",
    "workdir": "Its directory; none: an empty one, deleted at the end.",
    "worktree": "true: a git worktree of its own; or {base, dirty, copy, setup, keep}.",
    "candidates": "Attempts of which the best counts: [claude, {backend: codex, model: m}], or 3.",
    "score, score_order": "Rank them by the last number that this prints; higher (default) or lower.",
    "judge": "Backend that chooses between candidates that are equally good.",
    "retries": "Retry this often after a temporary failure.",
    "options": "Other options of the backend: {effort: high}.",
    "args, extra": "Arguments passed to the CLI unchanged.",
    "env": "Environment variables of the CLI.",
    "timeout": "Stop after this long: 90, 90s, 5m or 2h.",
    "stall_timeout": "Stop after this long without output.",
    "idempotent": "Safe to run again if it was interrupted.",
    "labels": "Labels of the workers of a cluster that may run it: [gpu].",
    "tags": "Tags of its session.",
    "title": "Title of its session.",
    "meta": "Returned unchanged.",
    "stored_options": "Apply the options that are stored for later prompts.",
    "lenient": "Drop options that the backend does not support.",
    "dry_run": "Answer with the command line; run nothing.",
}
FILE = {
    "tasks": "The list of tasks.",
    "steps": "The list of steps.",
    "defaults": "Keys for all tasks that do not set them.",
    "matrix": "A matrix for all tasks.",
    "max_parallel": "Number of tasks at once.",
    "max_parallel_per_backend": "The same for one backend: {codex: 2}.",
    "fail_fast, halt": "When failures stop the run.",
    "check, check_timeout, rounds, protect, expect_change": "The same keys of tasks that do not set them.",
    "retries": "Retries of tasks that do not set them.",
    "retry_delay": "Time before the first retry; doubled each time.",
    "on_limit, limit_wait, max_wait": "What to do at a rate limit, and how long to wait.",
    "fallback": "Backends to use during a rate limit: [codex, gemini].",
    "ignore_limit": "Try even if a rate limit is remembered.",
    "budget": "Start nothing more beyond this: {cost: 5, tokens: 1000000}.",
    "stall_timeout": "Stop a task after this long without output.",
    "ephemeral": "Save no sessions and no journal.",
    "worktree": "The same for all tasks.",
    "output_dir": "Write each answer to a file in this directory.",
    "stop_on_failure": "false: run the next step after a failure, too.",
    "pass_working_dir": "Use the directory of the previous step.",
    "pass_session": "Continue the session of the previous step.",
    "repeat": "Repeat steps: {steps: [fix, review], until: check, max: 3}; until a check or an expression holds.",
}
IGNORED = {"verbose", "output_format", "description", "name"}  # accepted, and without effect
OF_CHAINS = {"steps", "stop_on_failure", "pass_working_dir", "pass_session", "repeat", "again"}
# Steps run one after another.
OF_PARALLEL = {"tasks", "matrix", "max_parallel", "max_parallel_per_backend", "fail_fast, halt"}


def sections(path: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The tables of keys that the help of a command has."""
    match path:
        case "clinvk parallel":
            title, others = "Keys of a task", OF_CHAINS
        case "clinvk chain":
            title, others = "Keys of a step", OF_PARALLEL
        case _:
            return []
    file = [(names, text) for names, text in FILE.items() if names not in others]
    own = [(names, text) for names, text in _task_keys() if names not in others]
    tables = [("Keys of the file", file), (title, own)]
    if path == "clinvk parallel":
        return tables
    return [
        (head, [(k, text.replace("task", "step")) for k, text in rows]) for head, rows in tables
    ]


def _task_keys() -> Iterator[tuple[str, str]]:
    for names, text in TASK.items():
        yield names, text
        if names == "backend":
            yield from _option_keys()


def _option_keys() -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys(option.name for option in OPTIONS.values()):
        option = OPTIONS[name]
        yield ", ".join(option.task_keys), option.help.replace(" (repeatable)", "")


def undocumented(documented: Iterable[str], kind: type[TaskEntry | TaskFile]) -> set[str]:
    """The keys of a task or a file that none of these lines has."""
    named = {name for names in documented for name in names.split(", ")}
    return {*kind.__struct_fields__} - named - IGNORED
