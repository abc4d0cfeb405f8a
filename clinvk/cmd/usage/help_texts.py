"""Help texts that belong to no single option: groups, examples, exit codes."""

from __future__ import annotations

# Every option of a command that has many is in one of these groups. The options of the table in
# `model.option_table` name their group there; these are the others, by their flags.
OTHER = "Other options"
GROUPS = {
    "Input": (
        "--file --edit --prompt --format --null --workdir --worktree --base --dirty --setup --expand"
    ),
    "Session": (
        "--continue --anywhere --session --auto-save --native --to --replay --new --template "
        "--title --tag --ephemeral --no-wait --last --interactive --here --checkpoint --resume "
        "--storage-backend --storage-path --skill-set --list --clear --reset"
    ),
    "Context": "--history",
    "Model and options": "--backend --backends --all-backends --judge --option --lenient",
    "Safety": "--dry-run --fail-on-denied --rerun-indeterminate",
    "Checks": "--candidates --score --lowest --apply",
    "Limits": (
        "--max-parallel --sequential --fail-fast --halt --retries --on-limit --max-wait "
        "--budget-cost --budget-tokens"
    ),
    "Cluster": "--cluster --detach --insecure --name --label --drain-timeout --lease --drive",
    "Output": (
        "--output-format --json --raw --plain --quiet --verbose --color --output-dir --junit --report "
        "--html --force"
    ),
    OTHER: "--config --help -h",
}

# Of many options, `-h` shows these.
USUAL = {
    *("--continue", "--session", "--backend", "--model", "--approval", "--file", "--edit"),
    *("--workdir", "--worktree", "--output-format", "--json", "--quiet", "--timeout", "--dry-run", "-h", "--help"),
    *("--last", "--to", "--max-parallel", "--fail-fast", "--judge", "--html", "--checkpoint"),
    *("--resume", "--report", "--backends", "--check", "--rounds"),
}  # fmt: skip

# Second names of commands, which lists leave out.
SECOND_NAMES = ("chat", "create")

ROOT = [
    "One CLI for every AI coding agent: claude, codex, gemini, or your own.",
    (
        "Sends a prompt and streams the answer. Every conversation is a session, which can be "
        "continued, handed to another backend, searched and exported."
    ),
]

USAGE = {
    "clinvk": ['clinvk [OPTIONS] "PROMPT" [-] [-- BACKEND ARGS]', "clinvk COMMAND [OPTIONS] ..."],
    "clinvk ask": ['clinvk ask [OPTIONS] "PROMPT" [-] [-- BACKEND ARGS]'],
    "clinvk chat": ['clinvk chat [OPTIONS] "PROMPT" [-] [-- BACKEND ARGS]'],
    "clinvk repl": ['clinvk repl [OPTIONS] ["PROMPT"] [-- BACKEND ARGS]'],
    "clinvk resume": [
        'clinvk resume [OPTIONS] ID ["PROMPT"] [-] [-- BACKEND ARGS]',
        'clinvk resume [OPTIONS] --last ["PROMPT"]',
    ],
    "clinvk compare": ['clinvk compare [OPTIONS] -b A,B "PROMPT" [-]'],
}

COMMAND_GROUPS = {
    "clinvk": {
        "Prompts": ("ask", "repl", "resume", "last", "compare"),
        "Many tasks": ("parallel", "chain", "runs", "checkpoints", "worker", "workers"),
        "Conversations": ("sessions", "memory", "templates", "skills"),
        "Setup": ("init", "doctor", "backends", "limits", "config", "completion"),
        "Information": ("help", "version"),
    },
    "clinvk sessions": {
        "Read": ("list", "show", "search", "stats", "options", "export"),
        "Continue and change": (
            *("resume", "start", "rename", "edit", "archive", "branch", "merge"),
        ),
        "Clean up and move": ("delete", "clean", "import", "reindex", "migrate"),
        "Information": ("help",),
    },
}

_ASK = [
    ("Ask about this directory", 'clinvk "explain the error handling in this package"'),
    ("Let it edit files", 'clinvk --approval auto "fix the failing test"'),
    ("Continue the last session in this directory", 'clinvk -c "now add a test"'),
    ("Append standard input to the prompt", 'git diff | clinvk "review this" -'),
    ("Choose the backend, and get JSON", 'clinvk -b codex --json "summarize the changes"'),
]

EXAMPLES = {
    "clinvk": [
        *_ASK,
        ("Hand the conversation over to another backend", 'clinvk -c --to codex "check this"'),
        ("Run many tasks, and resume them after a crash", "clinvk parallel tasks.yaml"),
    ],
    "clinvk ask": [(text, command.replace("clinvk ", "clinvk ask ", 1)) for text, command in _ASK],
    "clinvk repl": [
        ("Have a conversation at a prompt", "clinvk repl -b codex"),
        ("Continue the last one in this directory", "clinvk repl -c"),
        ("Send each line of a file", "clinvk repl < questions.txt"),
    ],
    "clinvk resume": [
        ("Resume a session by its id", 'clinvk resume 0f75bc8f "and the tests?"'),
        ("Pick a session from a list", "clinvk resume"),
        ("Resume the session used last, in any directory", 'clinvk resume --last "continue"'),
        ("Hand it over to another backend", 'clinvk resume parser --to gemini "review it"'),
    ],
    "clinvk parallel": [
        ("Run the tasks of a file, four at once", "clinvk parallel tasks.yaml -j 4"),
        ("One task for each line of standard input",
         "git ls-files -z '*.py' | clinvk parallel -0 --prompt 'review {{line}}'"),
        ("Stop at the first failure, and write a report",
         "clinvk parallel tasks.yaml --fail-fast --report report.html"),
    ],
    "clinvk chain": [
        ("Run the steps of a file, and save a checkpoint",
         "clinvk chain steps.yaml --checkpoint release"),
        ("Resume at the first unfinished step", "clinvk chain --resume release"),
    ],
    "clinvk compare": [
        ("Compare two backends", 'clinvk compare -b claude,codex "find the bug in parser.py"'),
        ("Let a third one pick the best answer",
         'clinvk compare -b claude,codex --judge gemini "name this function"'),
        ("Write the answers to a page, side by side",
         'clinvk compare --all-backends --html answers.html "explain main.py"'),
    ],
    "clinvk sessions": [
        ("List the sessions in this directory", "clinvk sessions list --here"),
        ("Find a conversation", "clinvk sessions search parser"),
        ("Save one as a web page", "clinvk sessions export parser --output parser.html"),
    ],
    "clinvk sessions list": [
        ("The last ten sessions in this directory", "clinvk sessions list --here -n 10"),
    ],
    "clinvk sessions search": [("Find a conversation", "clinvk sessions search parser")],
    "clinvk sessions edit": [
        ("Set a title and add a tag",
         'clinvk sessions edit 0f75bc8f --title "The parser" --tag work'),
    ],
    "clinvk sessions rename": [
        ("Give a session a title", 'clinvk sessions rename 0f75bc8f "The parser"'),
    ],
    "clinvk sessions export": [
        ("Save a session as a web page", "clinvk sessions export parser --output parser.html"),
    ],
    "clinvk sessions branch": [
        ("Copy a session up to its fourth message", "clinvk sessions branch parser --at 3"),
    ],
    "clinvk sessions clean": [
        ("See what would be deleted", "clinvk sessions clean --older-than 90d --dry-run"),
    ],
    "clinvk sessions import": [
        ("Import this week's sessions of claude", "clinvk sessions import -b claude --since 7d"),
    ],
    "clinvk sessions migrate": [
        ("Copy all sessions to SQLite", "clinvk sessions migrate --to sqlite:////srv/clinvk.db"),
    ],
    "clinvk runs": [
        ("Show the last run", "clinvk runs show"),
        ("Run the tasks that never started", "clinvk runs resume"),
        ("Run the failed tasks again", "clinvk runs retry"),
    ],
    "clinvk runs show": [
        ("Show the last run, with all answers", "clinvk runs show --answers"),
        ("Show one task of it", "clinvk runs show last 3"),
    ],
    "clinvk runs report": [
        ("Write a report of the last run", "clinvk runs report --format html --output run.html"),
    ],
    "clinvk init": [
        ("Answer two questions, and write the configuration", "clinvk init"),
        ("Ask nothing, for a script", "clinvk init --yes --backend codex --approval auto"),
    ],
    "clinvk config": [
        ("Choose the default backend", "clinvk config set default_backend codex"),
        ("Always let backends edit files", "clinvk config set unified_flags.approval_mode auto"),
        ("See where each value comes from", "clinvk config show --origin"),
    ],
    "clinvk backends": [
        ("What a backend supports", "clinvk backends show claude"),
        ("Check a manifest of your own", "clinvk backends check mine.yaml"),
    ],
}  # fmt: skip

_PROMPT_CODES = [
    (0, "success"),
    (1, "the task failed, or the command line is wrong"),
    (2, "the backend is not installed"),
    (3, "the configuration or a file is invalid"),
    (4, "the session is missing, ambiguous, damaged or busy, or could not be saved"),
    (6, "timed out"),
    (7, "cancelled"),
    (65, "the check failed, or a protected file was changed"),
    (75, "rate limit reached; try again later"),
]
_OTHER_CODE = ("8–255", "the backend's own exit code")
_WITH_PROMPTS = ("clinvk", "clinvk ask", "clinvk chat", "clinvk resume", "clinvk sessions resume")
# One task may fail by a timeout, another by its backend: how each did is in the results.
_RUN_CODES = [
    (0, "all tasks succeeded"),
    (1, "a task failed, or the command line is wrong"),
    (2, "a backend is not installed"),
    (3, "the configuration or the file is invalid"),
    (4, "the run is missing, ambiguous, damaged or busy, or could not be saved"),
    (7, "cancelled"),
    (65, "checks failed, or a loop did not reach its goal"),
    (75, "all remaining tasks wait for a rate limit; resume the run later"),
]
READ_TASKS = ("clinvk parallel", "clinvk chain")
_WITH_RUNS = (
    *READ_TASKS, "clinvk compare", "clinvk runs resume", "clinvk runs retry", "clinvk runs watch",
)  # fmt: skip

FILES = [
    ("~/.clinvk/config.yaml", "The configuration."),
    ("~/.clinvk/backends/*.yaml", "Backends of your own."),
    ("CLINVK_HOME", "Directory to use instead of ~/.clinvk."),
]


def exit_codes(path: str) -> list[tuple[object, str]]:
    """The exit codes of a command and their meaning; none if it only prints or changes
    something."""
    if path in _WITH_RUNS:
        return [*_RUN_CODES]
    if path in _WITH_PROMPTS:
        return [*_PROMPT_CODES, _OTHER_CODE]
    return []


def documentation() -> str:
    """Where the documentation is: the URL, if the package has one."""
    # Only for help: 5 ms.
    from importlib import metadata

    try:
        urls = metadata.metadata("clinvk").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        urls = []
    for label in ("documentation", "homepage", "repository"):
        for url in urls:
            name, _, address = str(url).partition(", ")
            if name.lower() == label:
                return address
    return "docs/ in the source, starting with docs/getting-started.md"
