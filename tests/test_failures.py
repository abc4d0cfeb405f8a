"""What the built-in manifests make of failures that were reported from the field: their kind, and
when to retry."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clinvk.backend.catalog import Catalog
from clinvk.backend.output.event_parser import EventParser
from clinvk.dispatch.folding.fold import TurnFold
from clinvk.dispatch.folding.turn_failure import Exit
from clinvk.dispatch.turn_plan import TurnPlan
from clinvk.model.request import Request
from clinvk.model.result import Result
from clinvk.process.command import Command
from tests.conftest import PROJECT

CATALOG = Catalog(PROJECT / "no-such-home")
RESETS_AT = 1795239180
MOMENT = datetime.fromtimestamp(RESETS_AT, UTC)


def result_of(
    backend: str, *lines: dict[str, Any], stderr: str = "", code: int = 1, env: Any = None
) -> Result:
    """The result of a CLI that prints these lines."""
    manifest = CATALOG.load(backend)
    command = Command(("x",), env or {}, Path("/"), b"", {})
    fold = TurnFold(
        TurnPlan(Request(prompt="p"), manifest, None, None, None, {}, {}, command, None, ())
    )
    parser = EventParser(manifest, is_first_turn=True)
    for line in lines:
        for event in parser.parse_line(json.dumps(line).encode()):
            fold.add(event)
    return fold.finish(Exit(code=code, stderr=stderr, noise=tuple(parser.noise)))


def claude(text: str | None, status: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "result", "subtype": "success", "is_error": True, "result": text,
        "api_error_status": status, **more,
    }  # fmt: skip


def codex(text: str) -> dict[str, Any]:
    return {"type": "turn.failed", "error": {"message": text}}


def gemini(text: str) -> dict[str, Any]:
    return {"type": "result", "status": "error", "error": {"type": "unknown", "message": text}}


def rate_limit(status: str, **info: Any) -> dict[str, Any]:
    return {"type": "rate_limit_event", "rate_limit_info": {"status": status, **info}}


FAILURES = {
    "server": [
        ("claude", claude("API Error: The response stopped arriving. The response above may be incomplete.")),
        ("claude", claude("API Error: Request timed out.")),
        ("claude", claude("API Error: fetch failed")),
        ("claude", claude("API Error: Connection error.")),
        ("claude", claude('API Error: 500 {"type":"error","error":{"type":"api_error"}}')),
        ("claude", claude("API Error: 502 Bad Gateway")),
        ("claude", claude("unexpected end", status=503)),
        ("claude", claude("API Error: Premature close")),
        ("claude", claude("API Error: Response stalled mid-stream")),
        ("codex", codex("unexpected status 503 Service Unavailable: x, url: http://x")),
        ("codex", codex("stream disconnected before completion: error sending request for url")),
        ("codex", codex("Request timed out")),
        ("gemini", gemini("[API Error: fetch failed]")),
        ("gemini", gemini('[API Error: {"error":{"code":503,"message":"try later"}}]')),
    ],
    "capacity": [
        ("claude", claude('API Error: 529 {"type":"error","error":{"type":"overloaded_error"}}')),
        ("claude", claude("Repeated 529 Overloaded errors")),
        ("claude", claude("x", status=529)),
        ("claude", claude("We're experiencing high demand right now")),
        ("codex", codex("Selected model is at capacity. Please try a different model.")),
        ("codex", codex("We're currently experiencing high demand, which may cause temporary errors.")),
        ("gemini", gemini("[API Error: No capacity available for model gemini-3-pro on the server]")),
        ("gemini", gemini('{"code":429,"status":"RESOURCE_EXHAUSTED","reason":"MODEL_CAPACITY_EXHAUSTED"}')),
        ("gemini", gemini('[API Error: {"error":{"code":503,"status":"UNAVAILABLE"}}]')),
    ],
    "limit": [
        ("claude", claude("5-hour limit reached ∙ resets 3pm")),
        ("claude", claude("Weekly limit reached ∙ resets Mon 9am")),
        ("claude", claude("Session limit reached ∙ resets 8pm")),
        ("claude", claude("Opus weekly limit reached ∙ resets Nov 24, 5pm")),
        ("claude", claude("Fable limit reached ∙ resets 8pm")),
        ("claude", claude("You've hit your session limit · resets 5:10pm (Europe/Paris)")),
        ("claude", claude("You're out of extra usage · resets 3pm (Europe/Berlin)")),
        ("claude", claude("You're out of usage credits. Run /usage-credits to keep using")),
        ("claude", claude("You've hit your monthly spend limit · your session limit resets 3pm")),
        ("claude", claude("API Error: Request rejected (429) - Insufficient balance")),
        ("claude", claude('API Error: 429 {"type":"rate_limit_error"}')),
        ("claude", claude("whatever", status=429)),
        ("claude", claude("You've reached your usage limit · resets at 11:30 PM (Asia/Kolkata)")),
        ("claude", claude("API Error: Server is temporarily limiting requests · Rate limited")),
        ("claude", claude("Too many requests, please wait before trying again. Retry-After: 120")),
        ("codex", codex("You've reached your weekly limit. Try again in 2 days 3 hours.")),
        ("codex", codex("Too many requests. Please retry in 6m0s.")),
        ("gemini", gemini("Too Many Requests")),
        ("gemini", gemini("You have reached your daily limit; it resets at midnight")),
        ("codex", codex("You’ve hit your usage limit for GPT-6. Try again at 5:13 AM.")),
        ("codex", codex("exceeded retry limit, last status: 429 Too Many Requests")),
        ("codex", codex("Rate limit reached for gpt-6 in organization x on tokens per min. Please try again in 6m0s.")),
        ("codex", codex("Quota exceeded. Check your plan and billing details.")),
        ("codex", codex("Your workspace is out of credits. Add credits to continue.")),
        ("gemini", gemini("[API Error: You have exhausted your capacity on this model. Your quota will reset after 1h30m15s.]")),
        ("gemini", gemini("[API Error: You exceeded your current quota. Please retry in 2h39m52s.]")),
        ("gemini", gemini("[API Error: x]\nPlease wait and try again later. To increase your limits, request a quota increase")),
    ],
    "backend": [
        ("gemini", gemini("EDQUOT: disk quota exceeded, write")),
        ("gemini", gemini("write: Disk quota exceeded")),
        ("codex", codex("EDQUOT: Disk quota exceeded (os error 122)")),
        ("codex", codex("invalid model gpt-9")),
        ("codex", codex("required MCP server github failed: API rate limit exceeded")),
        ("claude", claude("Context limit reached · /compact or /clear to continue")),
        ("claude", claude("You have reached your context limit")),
        ("codex", codex("You've hit your maximum turn limit.")),
        ("claude", claude(None, subtype="error_max_turns")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILURES)
def test_failures_from_the_field_have_the_right_kind(kind: str) -> None:
    for backend, line in FAILURES[kind]:
        error = result_of(backend, line).error
        assert error is not None
        found = "capacity" if error.kind == "server" and error.wait_factor > 1 else error.kind
        assert found == kind, (backend, line)


def test_the_words_of_others_do_not_make_a_rate_limit() -> None:
    noisy = "mcp github: API rate limit exceeded, usage limit reached, 429 Too Many Requests\n"
    for backend, line in FAILURES["backend"] + FAILURES["server"]:
        error = result_of(backend, line, stderr=noisy.replace("mcp ", "")).error
        assert error is not None
        assert error.kind in ("backend", "server"), (backend, line)
    for backend in ("claude", "codex", "gemini"):
        # Without a failure in its events, its stderr counts, but not that of its MCP servers.
        for text, kind in [
            (noisy + "invalid model gpt-9", "backend"),
            ("[rmcp::transport] worker quit: rate limit\nbad option", "backend"),
            ("cannot write: EDQUOT: disk quota exceeded", "backend"),
            ("usage limit reached" if backend != "gemini" else "Quota exceeded", "limit"),
        ]:
            error = result_of(backend, stderr=text).error
            assert error is not None
            assert error.kind == kind, (backend, text)
            assert text.splitlines()[-1] in error.message
    said = {
        "type": "item.completed",
        "item": {"type": "agent_message", "text": "usage limit reached"},
    }
    tool = {
        "type": "item.completed",
        "item": {
            "type": "command_execution",
            "exit_code": 1,
            "aggregated_output": "429 Too Many Requests",
        },
    }
    error = result_of("codex", said, tool, codex("it broke")).error
    assert error is not None
    assert error.kind == "backend"


@pytest.mark.parametrize("code", [1, 41])
def test_a_login_that_gemini_no_longer_accepts_is_told_with_what_works_instead(code: int) -> None:
    text = (
        "IneligibleTierError: This client is no longer supported for Gemini Code Assist for "
        "individuals. To continue, migrate to the Antigravity suite of products"
    )
    shown = {"ineligibleTiers": [{"reasonCode": "UNSUPPORTED_CLIENT", "tierId": "free-tier"}]}
    stderr = [
        (
            f"Error authenticating: {text}\n    at throwIneligible (file:///gemini.js:1:2) {{\n"
            "  ineligibleTiers: [ { reasonCode: 'UNSUPPORTED_CLIENT' } ]\n}\n"
        ),
        f"Loaded cached credentials.\nFailed to login. Message: {text.partition(': ')[2]}\n",
        f"Error authenticating: {json.dumps(shown)}\n",
    ]
    found = [result_of("gemini", stderr=said, code=code) for said in stderr]
    found.append(result_of("gemini", gemini(text), code=code))
    for result in found:
        assert result.error is not None
        assert result.error.kind == "auth", result.error
        assert result.error.hint is not None
        assert "GEMINI_API_KEY" in result.error.hint
        assert "Antigravity" in result.error.hint
    other = result_of("gemini", stderr="Error: UNAUTHENTICATED").error
    assert other is not None
    assert (other.kind, "Antigravity" in (other.hint or "")) == ("auth", False)


def test_a_locked_database_of_codex_is_retried() -> None:
    stderr = "Error: failed to initialize sqlite local db at /x/state.sqlite: error returned from database: (code: 5) database is locked"
    error = result_of("codex", stderr=stderr).error
    assert error is not None
    assert (error.kind, error.wait_factor) == ("server", 1)


@pytest.mark.parametrize(
    ("info", "line", "kind", "retry_at"),
    [
        ({"status": "rejected", "resetsAt": RESETS_AT}, claude("x", status=429), "limit", MOMENT),
        ({"status": "rejected", "resetsAt": RESETS_AT * 1000}, claude("x"), "limit", MOMENT),
        ({"status": "rejected", "resetsAt": str(RESETS_AT)}, claude("x"), "limit", MOMENT),
        ({"status": "rejected"}, claude("x"), "limit", None),
        # The number counts, not the text.
        ({"status": "rejected", "resetsAt": RESETS_AT}, claude("limit reached · resets 3pm"), "limit", MOMENT),
        # Another failure is one, whatever the last report said.
        ({"status": "rejected", "resetsAt": RESETS_AT}, claude("x", status=401), "auth", None),
        ({"status": "rejected", "resetsAt": RESETS_AT}, claude("Invalid API key"), "auth", None),
        ({"status": "rejected", "isUsingOverage": True}, claude("x"), "backend", None),
        ({"status": "allowed", "overageStatus": "rejected", "resetsAt": RESETS_AT}, claude("x"), "backend", None),
        ({"status": "allowed_warning", "resetsAt": RESETS_AT}, claude("x", status=429), "limit", None),
    ],
)  # fmt: skip
def test_a_reported_rate_limit_counts_before_the_text(
    info: dict[str, Any], line: dict[str, Any], kind: str, retry_at: datetime | None
) -> None:
    event = {"type": "rate_limit_event", "rate_limit_info": info}
    error = result_of("claude", event, line).error
    assert error is not None
    assert (error.kind, error.retry_at) == (kind, retry_at)


def test_a_rate_limit_that_is_over_does_not_count() -> None:
    lines = rate_limit("rejected", resetsAt=RESETS_AT), rate_limit("allowed")
    error = result_of("claude", *lines, claude("x")).error
    assert error is not None
    assert error.kind == "backend"
    success = {"type": "result", "subtype": "success", "is_error": False, "result": "yes"}
    assert result_of("claude", lines[0], success, code=0).ok
    error = result_of("claude", lines[0], code=0).error  # and then nothing more
    assert error is not None
    assert (error.kind, error.retry_at) == ("limit", MOMENT)


def test_a_time_without_a_zone_is_in_that_of_the_cli() -> None:
    for env, zone in [({"TZ": "Asia/Kolkata"}, timedelta(hours=5.5)), ({"TZ": "UTC"}, timedelta())]:
        later = (
            datetime.now(UTC) + zone + timedelta(hours=5)
        )  # what has just passed is tried again soon
        error = result_of("claude", claude(f"limit reached · resets {later:%I%p}"), env=env).error
        assert error is not None
        assert error.retry_at is not None
        local = error.retry_at + zone
        assert (local.hour, local.minute) == (later.hour, 0)
