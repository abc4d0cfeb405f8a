"""When a limit ends, from the sentences in which the CLIs and the providers say it."""

import time
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backend.output.retry_after import find_zone, parse_retry_at
from clinvk.text.duration import parse_duration, span, span_seconds

NOW = datetime(2026, 11, 21, 5, 12, 28, tzinfo=UTC)  # a Saturday

# As codex 0.169.0 prints it, up to the time.
CODEX = (
    "You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit "
    "https://chatgpt.com/settings/usage to purchase more credits or try again at "
)

TEXTS = {
    # times of day
    CODEX + "5:13 AM.": "2026-11-21T05:13",
    CODEX + "4:10 AM.": "2026-11-22T04:10",
    "You've hit your 5-hour limit · resets 7:11am (UTC)": "2026-11-21T07:11",  # claude 2.1.329
    "You've hit your limit · resets 3pm": "2026-11-21T15:00",
    "5-hour limit reached ∙ resets 3 p.m.": "2026-11-21T15:00",
    "resets 14:30": "2026-11-21T14:30",
    "resets at 04:30:15": "2026-11-22T04:30:15",
    "resets at midnight": "2026-11-22T00:00",
    "try again after noon": "2026-11-21T12:00",
    "Tried in 2 days of messages; resets 3pm": "2026-11-21T15:00",
    "used up after 3 hours of work; try again at 6pm": "2026-11-21T18:00",
    # dates
    CODEX + "Nov 24th, 2026 5:12 AM.": "2026-11-24T05:12",
    CODEX + "Jan 2nd, 2027 12:05 PM.": "2027-01-02T12:05",
    "You've hit your weekly limit · resets Nov 24, 5:41am (UTC)": "2026-11-24T05:41",
    "You've hit your weekly limit · resets Nov 26 at 5pm": "2026-11-26T17:00",
    "resets Jan 3, 1am": "2027-01-03T01:00",
    "resets on 24 November at 05:30": "2026-11-24T05:30",
    "resets Dec 1": "2026-12-01T00:00",
    "Weekly limit reached ∙ resets Mon 9am": "2026-11-23T09:00",
    "resets Saturday at 5am": "2026-11-28T05:00",
    "resets on Monday, Nov 30 at 9am": "2026-11-30T09:00",
    "resets tomorrow at 9:30am": "2026-11-22T09:30",
    "resets at 2026-11-21T08:00:00Z": "2026-11-21T08:00",
    "anthropic-ratelimit-requests-reset: 2026-11-21T08:00:00+01:00": "2026-11-21T07:00",
    "resets 2026-11-24 05:00:00 +0000 UTC": "2026-11-24T05:00",
    "Retry-After: Sat, 21 Nov 2026 07:28:00 GMT": "2026-11-21T07:28",
    # durations
    "try again in 1 hour and 30 minutes": "2026-11-21T06:42:28",
    "Your quota will reset after 1h30m15s.": "2026-11-21T06:42:43",
    "Please retry in 2h39m52s": "2026-11-21T07:52:20",
    "Please try again in 6m0s.": "2026-11-21T05:18:28",
    "x-ratelimit-reset-tokens: 28ms": "2026-11-21T05:12:28.028",
    "Please try again in 373.801628ms.": "2026-11-21T05:12:28.373802",
    "Please retry in 59.44s.": "2026-11-21T05:13:27.440",
    "Limit reached; resets in 5 days 23 hours": "2026-11-27T04:12:28",
    "You can continue in about an hour": "2026-11-21T06:12:28",
    "Please wait 20 seconds and try again": "2026-11-21T05:12:48",
    "resets in 1:30:00": "2026-11-21T06:42:28",
    '"retryDelay": "34s"': "2026-11-21T05:13:02",
    # numbers
    "Retry-After: 120": "2026-11-21T05:14:28",
    "retry-after-ms: 1500": "2026-11-21T05:12:29.500",
    "Too Many Requests: retry after 35": "2026-11-21T05:13:03",
    '{"error":{"type":"usage_limit_reached","resets_in_seconds":300}}': "2026-11-21T05:17:28",
    "Claude AI usage limit reached|1795239180": "2026-11-21T05:33",
    '"resets_at": 1795239180': "2026-11-21T05:33",
    "resetsAt=1795239180000": "2026-11-21T05:33",
    # zones
    "You've hit your session limit · resets 5:10pm (Europe/Paris)": "2026-11-21T16:10",
    "resets 10:20pm (America/Edmonton)": "2026-11-21T05:20",
    "resets Nov 24 at 5pm (Asia/Kolkata)": "2026-11-24T11:30",
    "resets Mon 9am (America/Argentina/Buenos_Aires)": "2026-11-23T12:00",
    "resets 3pm PST": "2026-11-21T23:00",
    "resets 15:00 (UTC+2)": "2026-11-21T13:00",
    "resets 3pm (Mars/Olympus)": "2026-11-21T15:00",
    "resets 3pm (../../etc/passwd)": "2026-11-21T15:00",
    "resets 3pm (your time)": "2026-11-21T15:00",
}

NO_TIMES = [
    "no time", "again at 13:00 pm", "resets Foo 3 at 5pm", "again at Feb 31st, 2027 1 AM",
    "in 2 days of messages", "try again in a few minutes", "resets 25:00",
    "try again in 99999999999 days", "resets in 3 % of cases", "5-hour limit reached",
]  # fmt: skip


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock of this machine, which is what they mean."""
    yield from in_zone("UTC", monkeypatch)


def in_zone(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", name)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("text", TEXTS)
def test_the_end_of_a_limit_is_read_from_the_message(text: str) -> None:
    assert parse_retry_at(text, now=NOW) == datetime.fromisoformat(TEXTS[text]).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_text_without_a_valid_time_has_none(text: str) -> None:
    assert parse_retry_at(text, now=NOW) is None


def test_a_limit_that_is_met_again_in_its_last_minute_does_not_last_until_tomorrow() -> None:
    """The time is 5:12:58, and codex says 5:12."""
    moment = parse_retry_at(CODEX + "5:12 AM.", now=NOW)

    assert moment is not None
    assert NOW < moment <= NOW + timedelta(minutes=1)


def test_a_time_without_a_zone_is_in_the_zone_of_the_cli() -> None:
    paris = find_zone(":Europe/Paris")
    for text, expected in {
        "resets 5:10pm": "2026-11-21T16:10",
        "resets 5:10pm (America/New_York)": "2026-11-21T22:10",
        "resets Mon 9am": "2026-11-23T08:00",
        "resets Jul 2 at 9am": "2027-07-02T07:00",
    }.items():
        moment = parse_retry_at(text, now=NOW, zone=paris)
        assert moment == datetime.fromisoformat(expected).replace(tzinfo=UTC), text


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    ("now", "text", "expected"),
    [
        ("2026-03-28T20:00", "resets 9am", "2026-03-29T07:00"),  # the night has 23 hours
        ("2026-10-24T20:00", "resets 9am", "2026-10-25T08:00"),  # and this one 25
        ("2026-10-24T22:00", "resets 2:30am", "2026-10-25T00:30"),
        ("2026-10-25T00:45", "resets 2:30am", "2026-10-25T01:30"),  # the second one
        ("2026-03-28T20:00", "resets Mon 9am", "2026-03-30T07:00"),
        ("2026-10-24T20:00", "resets in 24h", "2026-10-25T20:00"),
    ],
)
def test_clocks_that_change_are_followed(
    now: str, text: str, expected: str, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    steps = in_zone("Europe/Berlin" if local else "UTC", monkeypatch)
    next(steps)
    zone = None if local else find_zone("Europe/Berlin")
    found = parse_retry_at(text, now=moment, zone=zone)
    next(steps, None)
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_zones_are_known_without_those_of_the_system() -> None:
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(())
    zoneinfo.ZoneInfo.clear_cache()
    try:
        moment = parse_retry_at("resets 5:10pm (Europe/Paris)", now=NOW)
    finally:
        zoneinfo.reset_tzpath(before)
    assert moment == datetime(2026, 11, 21, 16, 10, tzinfo=UTC)


UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
SPELLED = {
    "w": ["w", " week", " weeks"], "d": ["d", " day", " days"], "h": ["h", " hr", " hours"],
    "m": ["m", " min", " minutes"], "s": ["s", " sec", " seconds"], "ms": ["ms", " milliseconds"],
}  # fmt: skip


@given(
    parts=st.dictionaries(st.sampled_from(sorted(UNITS)), st.integers(0, 5000), min_size=1),
    spelling=st.integers(0, 2), between=st.sampled_from(["", " ", ", ", " and "]),
    before=st.sampled_from(["try again in ", "Retry-After: ", "resets after ", "wait "]),
    after=st.sampled_from(["", ".", "; see https://x.test", ")"]),
)  # fmt: skip
def test_a_duration_is_read_however_it_is_spelled(
    parts: dict[str, int], spelling: int, between: str, before: str, after: str
) -> None:
    ordered = [unit for unit in UNITS if unit in parts]
    names = {unit: SPELLED[unit][min(spelling, len(SPELLED[unit]) - 1)] for unit in ordered}
    text = between.join(f"{parts[unit]}{names[unit]}" for unit in ordered)
    if not between and len(ordered) > 1 and spelling:
        return  # "3 hours2 minutes"
    seconds = sum(parts[unit] * UNITS[unit] for unit in ordered)
    assert span().fullmatch(text)
    assert span_seconds(text) == pytest.approx(seconds)
    moment = parse_retry_at(before + text + after, now=NOW)
    assert moment is not None
    assert (moment - NOW).total_seconds() == pytest.approx(seconds, abs=1e-5)


@given(
    moment=st.datetimes(datetime.fromisoformat("2026-11-22"), datetime.fromisoformat("2027-10-01")),
    zone=st.sampled_from(["UTC", "Europe/Paris", "America/Edmonton", "Asia/Kolkata", "Etc/GMT+5"]),
    form=st.sampled_from([
        "resets {0:%b} {0.day} at {0:%I:%M%p} ({1})", "resets {0.day} {0:%B} {0:%H:%M} ({1})",
        "try again at {0:%b} {0.day}, {0:%Y} {0:%I:%M %p} ({1})", "resets {0:%Y-%m-%d %H:%M} {1}",
    ]),
)  # fmt: skip
def test_a_date_is_read_in_its_zone(moment: datetime, zone: str, form: str) -> None:
    moment = moment.replace(second=0, microsecond=0)
    expected = moment.replace(tzinfo=zoneinfo.ZoneInfo(zone)).astimezone(UTC)
    assert parse_retry_at(form.format(moment, zone), now=NOW) == expected


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["resets", "again", "retry", "in", "at", "|", "3", "pm", ":", "30", "Nov",
                             "Mon", "(", ")", "Europe/", "Paris", "2026-", "9" * 12, "h", " ", " "]),
            st.text(max_size=3),
        ),
        max_size=12,
    ).map("".join)
)  # fmt: skip
def test_any_text_is_a_time_or_none(text: str) -> None:
    moment = parse_retry_at(text, now=NOW)
    assert moment is None or moment.tzinfo is UTC


@pytest.mark.parametrize(("text", "seconds"), [("1h30m", 5400), ("2m 5s", 125), ("1.5h", 5400)])
def test_an_option_takes_a_duration_in_several_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
