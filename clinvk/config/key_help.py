"""The effect of each key of the configuration: for the reference and config.example.yaml."""

from __future__ import annotations

from msgspec import Struct

from clinvk.model.option_table import ALL_OPTIONS, Option


class KeyHelp(Struct, frozen=True):
    effect: str  # in the reference, in Markdown
    comment: str  # in the example file
    type: str | None = None  # if the schema's type says too little
    default: str | None = None  # in words


_KEYS = {
    "default_backend": KeyHelp(
        "the backend if neither `-b` nor a session names one. If it is not set and claude is not "
        "installed, the first installed one of claude, codex, gemini, opencode, qwen, copilot, "
        "cline, pi, llm",
        "if neither -b nor a session names one",
    ),
    "backends.NAME.enabled": KeyHelp("`false` refuses to run it", "false: refuse to run it"),
    "backends.NAME.extra_flags": KeyHelp(
        "arguments for the CLI on every run, before those after `--`",
        "arguments for the CLI on every run, like those after --",
    ),
    "backends.NAME.env": KeyHelp(
        "variables for the CLI; `config show` and `--dry-run` hide their values",
        "variables for the CLI; their values are not shown",
    ),
    "unified_flags.exit_timeout_secs": KeyHelp(
        "seconds after which a CLI that has reported its result, and does not exit, is ended. Each "
        "event starts the time again. The result counts",
        "end a CLI that does not exit so long after its result",
        default="the backend's, 15",
    ),
    "session.auto_resume": KeyHelp(
        "a plain prompt continues the last session of the directory, and of `-b`; `--new` does not",
        "true: a plain prompt continues this directory's last session",
    ),
    "session.retention_days": KeyHelp(
        "the age for `clinvk sessions clean`; 0 deletes nothing. Nothing is ever deleted without "
        "that command",
        "the age for `clinvk sessions clean`; 0: it deletes nothing",
    ),
    "session.store_token_usage": KeyHelp(
        "`false`: token counts are not stored", "false: no token counts in records and transcripts"
    ),
    "session.store_messages": KeyHelp(
        "`false`: no transcripts, and no prompts in lists",
        "false: no transcripts, and no prompts in lists",
    ),
    "session.redact": KeyHelp(
        "what looks like a key or a password is stored as `[redacted: github token]`; `false` keeps "
        "them unchanged. [What counts as one](stores.md#keys-and-passwords)",
        "remove keys and passwords before anything is stored",
    ),
    "session.default_tags": KeyHelp(
        "on every new session", "on every new session, in addition to --tag"
    ),
    "session.storage": KeyHelp(
        "where sessions are stored: `file`, `file:///directory`, `sqlite:////path`, "
        "`redis://host:6379/0`, `rediss://…`; as `--storage-backend` and `--storage-path`. "
        "[Stores](stores.md)",
        "or sqlite:////path, or redis://host:6379/0; as --storage-backend",
        type="address",
    ),
    "output.format": KeyHelp("as `-o`", "text, json or stream-json; as -o"),
    "output.show_tokens": KeyHelp(
        "a line on stderr below the answer: tokens, and the cost if reported",
        "tokens and cost on stderr, below an answer",
    ),
    "output.show_timing": KeyHelp(
        "the seconds, on the same line", "seconds on stderr, below an answer"
    ),
    "output.color": KeyHelp(
        "color of clinvk's own output, on stdout and stderr. `auto`: on a terminal, unless "
        "`NO_COLOR` is set; as `--color`",
        "auto, always or never; as --color",
    ),
    "output.render": KeyHelp(
        "render the Markdown of answers on a terminal; `false` prints the source, like `--plain`",
        "render Markdown on a terminal; false: print the source, like --plain",
    ),
    "parallel.max_workers": KeyHelp("tasks at once", "tasks at once"),
    "parallel.max_parallel_per_backend": KeyHelp(
        "tasks at once of one backend, such as `{claude: 2}`",
        "tasks at once of one backend, such as {claude: 2}",
    ),
    "parallel.fail_fast": KeyHelp(
        "the first failure stops the run: no more tasks are started, and those running are cancelled",
        "true: the first failure stops the run",
    ),
    "parallel.aggregate_output": KeyHelp(
        "the answers together, at the end, in the order of the tasks; `false`: each as soon as it "
        "is complete",
        "false: show each answer as soon as it is complete",
    ),
    "cluster.url": KeyHelp(
        "run the tasks of `parallel`, `chain` and `compare` on the workers of this cluster, "
        "`redis://:PASSWORD@HOST:6379/0`; as `--cluster`. [Clusters](cluster.md)",
        "run tasks on the workers of this cluster; as --cluster",
        type="address",
    ),
    "cluster.git": KeyHelp(
        "a git remote that all machines reach, a URL or the name of a remote of each repository. The "
        "files of tasks in git repositories go to the workers through it, and their results come back. "
        "[Files](cluster.md#files)",
        "a git remote that all machines of a cluster reach: a URL, or a name such as origin",
        default="none",
    ),
    "cluster.shared": KeyHelp(
        "directories that all machines of the cluster have under the same path. Tasks there run in place, "
        "unless they have a worktree and `cluster.git` is set",
        "directories that all machines of a cluster share",
    ),
    "cluster.cache_gb": KeyHelp(
        "what `clinvk worker` keeps of git repositories and of worktrees whose tasks have ended, in "
        "gigabytes; the oldest are deleted first",
        "gigabytes of git repositories and worktrees that a worker keeps",
    ),
    "worker.allow.backends": KeyHelp(
        "the only backends that `clinvk worker` runs here; empty: all",
        "the only backends that a worker runs here",
    ),
    "worker.allow.directories": KeyHelp(
        "the only directories, of those in `cluster.shared`, in which `clinvk worker` runs tasks; "
        "empty: all",
        "the only directories in which a worker runs tasks",
    ),
    "worker.allow.git": KeyHelp(
        "the only git remotes from which a worker takes the files of tasks: patterns such as "
        "`ssh://git@server/srv/*`; empty: all",
        "the only git remotes of tasks: patterns such as ssh://git@server/srv/*",
    ),
    "worker.allow.approval": KeyHelp(
        "the most that tasks may do without approval: `always`, `default`, `auto` or `none`, from the least "
        "to the most. A task that asks for more is refused",
        "the most that tasks may do without approval: always, default, auto, none",
    ),
    "worker.allow.sandbox": KeyHelp(
        "the most that tasks may change: `read-only`, `default`, `workspace` or `full`. A task that asks for "
        "more is refused",
        "the most that tasks may change: read-only, default, workspace, full",
    ),
    "worker.allow.commands": KeyHelp(
        "whether tasks may bring commands of their own, which no sandbox holds: `check`, `setup`, `score`, "
        "and words after `--`. Without it, only if `approval` and `sandbox` are not set either",
        "whether tasks may have a check, a setup, a score, and words after --",
    ),
    "worker.allow.env": KeyHelp(
        "variables that tasks may set though these choose programs or homes: patterns such as "
        "`PYTHONPATH`. Other names are free",
        "variables that tasks may set though they choose programs, such as PYTHONPATH",
    ),
}

# For the options of a turn, the comments of the example in addition to the flag.
_COMMENTS = {
    "model": "the CLI's own default, or $CLINVK_CLAUDE_MODEL",
    "verbose": "show tool calls and thinking on stderr",
    "dry_run": "print commands and run nothing",
    "max_turns": "model calls of a turn, if supported",
    "max_tokens": "output tokens of each model call, if supported",
    "timeout": "stop every turn after this many seconds",
    "allowed_tools": "tools that need no approval",
    "system_prompt": "extra system instructions",
}


def _option_help(option: Option, section: str) -> KeyHelp:
    flag = option.short if option.short and not option.choices else option.flag
    effect = f"as `{flag}`"
    if section == "backends" and "unified_flags" in option.config:
        comment = f"overrides unified_flags.{option.config_key}"
    elif option.choices:
        *others, last = option.choices
        comment = f"{', '.join(others)} or {last}; as {flag}"
    else:
        comment = f"{_COMMENTS.get(option.name) or option.help.rstrip('.')}; as {flag}"
    default = "the CLI's" if option.name == "model" else None
    return KeyHelp(effect, comment, default=default)


def key_help() -> dict[str, KeyHelp]:
    """The help of each key; those of a backend are below `backends.NAME`."""
    of_options = {
        f"{prefix}.{option.config_key}": _option_help(option, section)
        for section, prefix in (("unified_flags", "unified_flags"), ("backends", "backends.NAME"))
        for option in ALL_OPTIONS
        if section in option.config
    }
    return of_options | _KEYS
