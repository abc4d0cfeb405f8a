"""Why a turn failed, by what its program reported and how it exited."""

from __future__ import annotations

import signal
from contextlib import suppress
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from clinvk.backend.manifest import Manifest
from clinvk.backend.output.failures import classify_failure, find_reason, without_noise
from clinvk.backend.patterns import Patterns
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.errors import ConfigError
from clinvk.model.events import Failed, Finished, RateLimit
from clinvk.model.result import Denial, Failure
from clinvk.model.usage import Usage
from clinvk.process.pipes import LONGEST
from clinvk.text.sanitize import sanitize

SIGNALS = (1, 2, 3, 6, 9, 11, 15)  # that a program may report as an exit code above 128
MAX_STDERR_LENGTH = 600  # characters of stderr in a message


class Exit(Struct, frozen=True, kw_only=True):
    """How the program exited, and its output other than events."""

    code: int  # below 0: the signal that killed it
    stderr: str = ""  # the end of it
    noise: tuple[str, ...] = ()  # lines of stdout that were not JSON, a few of them
    recognized: int = 0  # objects on stdout that the manifest's rules could read
    unrecognized: int = 0  # those that they could not
    ends_unrecognized: bool = False  # the last one was among those
    release: str | None = None  # of the program, if it was asked for
    native_id: str | None = None  # the last one that any line named
    model: str | None = None  # the last one that a line named other than at the start
    # Of the steps after the last event that reported success or failure.
    steps_usage: Usage = Usage()
    steps_costs: tuple[float | None, ...] = ()
    unfinished: str | None = None  # why the CLI cannot have finished, though it exited
    skipped_lines: bool = False  # some were too long to read
    seconds: float = 0.0


class Reported(Struct, frozen=True, kw_only=True):
    """What the events of a turn say about its success."""

    terminal: Finished | Failed | None  # the event that reported success or failure
    is_settled: bool  # the program was ended after it had reported its result
    exit_excused: bool  # its exit code does not count
    limit: RateLimit | None  # the last rate limit that it reported
    last_notice: str
    has_begun: bool  # anything was answered
    denied: tuple[Denial, ...]
    mismatch: str | None  # why the answer does not match the schema


def find_failure(plan: TurnPlan, reported: Reported, end: Exit) -> Failure | None:
    """Why the turn failed, which was not stopped; None if the stream reported success and the exit code agrees."""
    terminal, manifest, code = reported.terminal, plan.manifest, end.code
    stderr = without_noise(manifest, end.stderr)
    noise = without_noise(manifest, "\n".join(end.noise))
    if reported.is_settled:
        code = 0  # its exit code is that of the signal that ended it
    classify = partial(
        classify_failure, manifest, limit=reported.limit, zone=plan.command.env.get("TZ")
    )
    if isinstance(terminal, Failed):
        message = sanitize(terminal.message) or reported.last_notice
        return classify(
            message or f"{manifest.name} failed", stderr="" if message else stderr,
            status=terminal.status, code=code, retry_at=terminal.retry_at,
        )  # fmt: skip
    said = _message_on_stderr(manifest, stderr) or _shorten_output(noise)
    if isinstance(terminal, Finished) and end.unfinished is not None:
        return _unfinished_failure(manifest, end.unfinished)
    if isinstance(terminal, Finished):
        if terminal.incomplete:
            return _unfinished_failure(manifest, terminal.incomplete)
        if code == 0 or (code > 0 and reported.exit_excused):
            return _denial_failure(plan, reported) or _schema_failure(reported.mismatch)
        message = f"{manifest.name} reported success but {_describe_exit(code)}"
        failure = classify_failure(manifest, message, stderr=stderr, code=code)
        reason = _find_reason(manifest, failure, stderr) or said
        message = _append_detail(message, reason)
        return replace(failure, message=message, hint=failure.hint or _memory_hint(code, stderr))
    if code == 0 and end.unfinished is not None:
        return _unfinished_failure(manifest, end.unfinished)
    if code == 0 and is_format_unknown(reported.terminal, end):
        return Failure("backend", format_message(manifest, end), _format_hint(manifest))
    if code == 0:
        message = f"{manifest.name} exited without reporting success or failure"
        if end.skipped_lines:
            message += f"; a line of more than {LONGEST:,} bytes was skipped"
        if reported.limit is not None:
            return classify(message)
        return Failure(
            "incomplete",
            _append_detail(message, said),
            "its answer may be incomplete; try again",
        )
    failure = classify("", stderr=stderr or noise, code=code)
    if is_format_unknown(reported.terminal, end):
        message = _append_detail(format_message(manifest, end), said)
        return replace(failure, message=message, hint=failure.hint or _format_hint(manifest))
    message = f"{manifest.name} {_describe_exit(code)}"
    if reason := _find_reason(manifest, failure, stderr or noise):
        message = reason
    elif _signal_of(code):
        message = _append_detail(message, said)
    elif said:
        message = said
    elif not reported.has_begun:
        message += " without output"
    hint = failure.hint or _memory_hint(code, stderr or noise)
    return replace(failure, message=message, hint=hint)


def is_format_unknown(terminal: Finished | Failed | None, end: Exit) -> bool:
    """Whether the output has another format than the manifest describes, rather than being
    incomplete: no rule could read it, or not the line that ended it."""
    if terminal is not None or end.code < 0:
        return False
    return end.unrecognized > 0 and (end.recognized == 0 or end.ends_unrecognized)


def format_message(manifest: Manifest, end: Exit) -> str:
    """How much of the output the manifest does not recognize, and which versions it is for."""
    name = manifest.name
    lines = f"{end.unrecognized:,} line{'s' * (end.unrecognized > 1)}"
    if end.recognized:
        lines = f"{end.unrecognized:,} of {end.unrecognized + end.recognized:,} lines"
    tested = _describe_versions(manifest, end.release)
    return f"{name} printed {lines} that its manifest does not recognize{tested}"


def wrong_session_failure(plan: TurnPlan, native_id: str) -> Failure:
    return Failure(
        "session",
        f"asked {plan.manifest.name} to resume {plan.resumes}, and it answered from {native_id}",
        "the CLI has lost its session, or its release gives a new id to each resumed one (see "
        "clinvk doctor); update it, or start over from the transcript with --replay",
    )


def _find_reason(manifest: Manifest, failure: Failure, text: str) -> str:
    """The line that a rule has found on stderr, unless the manifest says where the message is."""
    if manifest.stderr_message:
        return ""
    return _shorten_output(find_reason(manifest, failure, sanitize(text)) or "")


def _message_on_stderr(manifest: Manifest, stderr: str) -> str:
    """The error message on stderr, if the manifest says where it is; otherwise all of it,
    shortened."""
    found = None
    if manifest.stderr_message and stderr:
        with suppress(ConfigError):  # the pattern takes too long
            found = Patterns(manifest.source).find(manifest.stderr_message, sanitize(stderr))
    return _shorten_output(found or "") or _shorten_output(stderr)


def _unfinished_failure(manifest: Manifest, why: str) -> Failure:
    return Failure(
        "incomplete",
        f"{manifest.name} stopped before it was done: {sanitize(why)}",
    )


def _denial_failure(plan: TurnPlan, reported: Reported) -> Failure | None:
    if not (plan.request.fail_on_denied and reported.denied):
        return None
    names = ", ".join(dict.fromkeys(d.name for d in reported.denied))
    general = (
        "allow edits with --approval auto, these tools with --allowed-tools, or everything "
        "with --approval none"
    )
    hints = dict.fromkeys(denied.hint or general for denied in reported.denied)
    return Failure("denied", f"tools were denied: {names}", "; ".join(hints))


def _schema_failure(mismatch: str | None) -> Failure | None:
    """The failure of an answer that does not match the schema, whatever the CLI reports."""
    if mismatch is None:
        return None
    message = f"the answer does not match the schema: {sanitize(mismatch)}"
    return Failure("schema", message, "try again, or use another model")


def _describe_versions(manifest: Manifest, version: str | None) -> str:
    """` (tested with 0.169.0 to 0.171.0, this is 0.144.0)`, as far as that is known."""
    tested = dict.fromkeys(filter(None, (manifest.versions.oldest, manifest.versions.newest)))
    parts = [f"tested with {' to '.join(tested)}"] if tested else []
    if version:
        parts.append(f"this is {version}")
    return f" ({', '.join(parts)})" if parts else ""


def _format_hint(manifest: Manifest) -> str:
    """What to do about a CLI whose output has another format."""
    install = f"{manifest.install}; or " if manifest.install else ""
    return (
        f"install a release that it was tested with: {install}update clinvk, or describe the new "
        f"format in ~/.clinvk/backends/{manifest.name}.yaml (see: clinvk backends show {manifest.name})"
    )


def _describe_exit(code: int) -> str:
    number = _signal_of(code)
    return f"was terminated by signal {number}" if number else f"exited with code {code}"


def _signal_of(code: int) -> int:
    """The signal that ended a program; 0 if there was none. Some catch it, and exit as a shell
    reports it."""
    if code < 0:
        return -code
    return code - 128 if code - 128 in SIGNALS else 0


def _memory_hint(code: int, stderr: str) -> str | None:
    """What to do if memory is the likely reason: the system ends a program by SIGKILL then, and
    node reports it."""
    if _signal_of(code) != signal.SIGKILL and "heap out of memory" not in stderr:
        return None
    return "there may not be enough memory: run fewer tasks at once (-j), or allow more memory"


def _append_detail(message: str, said: str) -> str:
    return f"{message}: {said}" if said else message


def _shorten_output(text: str) -> str:
    """The first line and the end of stderr, as much as fits in a message: the reason is in one of
    them, and a page of usage may be between them."""
    text = "\n".join(line for line in sanitize(text).splitlines() if line.strip())
    if len(text) <= MAX_STDERR_LENGTH:
        return text
    first = text.split("\n", 1)[0][: MAX_STDERR_LENGTH // 2]
    return f"{first}\n…{text[len(first) - MAX_STDERR_LENGTH :]}"
