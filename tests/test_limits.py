"""When a limit ends, from the sentences in which the CLIs say it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from clinvk.backend.retry_after import parse_retry_at

NOW = datetime(2026, 11, 21, 5, 12, 28, tzinfo=UTC)

# As codex 0.169.0 prints it, up to the time.
CODEX = (
    "You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit "
    "https://chatgpt.com/settings/usage to purchase more credits or try again at "
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock of this machine, which is what they mean."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (CODEX + "5:13 AM.", "2026-11-21T05:13"),
        (CODEX + "4:10 AM.", "2026-11-22T04:10"),
        (CODEX + "Nov 24th, 2026 5:12 AM.", "2026-11-24T05:12"),
        (CODEX + "Jan 2nd, 2027 12:05 PM.", "2027-01-02T12:05"),
        (
            "You've hit your 5-hour limit · resets 7:11am (UTC)",
            "2026-11-21T07:11",
        ),  # claude 2.1.329
        ("You've hit your weekly limit · resets Nov 24, 5:41am (UTC)", "2026-11-24T05:41"),
        ("You've hit your limit · resets 3pm", "2026-11-21T15:00"),
        ("You've hit your weekly limit · resets Nov 26 at 5pm", "2026-11-26T17:00"),
        ("resets Jan 3, 1am", "2027-01-03T01:00"),
        ("Claude AI usage limit reached|1795239180", "2026-11-21T05:33"),
        ("try again in 1 hour and 30 minutes", "2026-11-21T06:42:28"),
    ],
)
def test_the_end_of_a_limit_is_read_from_what_is_said(said: str, expected: str) -> None:
    moment = parse_retry_at(said, now=NOW)

    assert moment == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "said", ["no time", "again at 13:00 pm", "resets Foo 3 at 5pm", "again at Feb 31st, 2027 1 AM"]
)
def test_what_is_no_time_is_not_taken_for_one(said: str) -> None:
    assert parse_retry_at(said, now=NOW) is None


def test_a_limit_that_is_met_again_in_its_last_minute_does_not_last_until_tomorrow() -> None:
    """The moment is 5:12:58, and codex says 5:12."""
    moment = parse_retry_at(CODEX + "5:12 AM.", now=NOW)

    assert moment is not None
    assert NOW < moment <= NOW + timedelta(minutes=1)
