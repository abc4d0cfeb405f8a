"""The events of a turn."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import UNSET, Struct, UnsetType

from clinvk.model.result import VERSION, Result, plain
from clinvk.model.usage import Usage

if TYPE_CHECKING:
    from clinvk.model.checks.check import CheckResult

# Fields that say how events belong together: the result depends on them, and no reader of events.
INTERNAL = ("raw", "message_id", "turns", "ended", "retrying", "result", "failure", "again")


class Event(Struct, frozen=True, kw_only=True):
    """An event of a turn. `raw` is the line that the backend printed, if it printed one."""

    type: ClassVar[str] = ""
    raw: Any = None

    def __repr__(self) -> str:
        said = (
            f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "raw"
        )
        return f"{type(self).__name__}({', '.join(said)})"

    def to_json(self, *, raw: bool = False) -> dict[str, Any]:
        """One line of `-o stream-json`."""
        line: dict[str, Any] = {"version": VERSION, "type": self.type}
        for name in self.__struct_fields__:
            if name not in INTERNAL and (value := getattr(self, name)) is not UNSET:
                line[name] = plain(value)
        if raw:
            line["raw"] = self.raw
        return line


class Started(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "started"
    native_id: str | None = None
    model: str | None = None


class Delta(Event, frozen=True, kw_only=True):
    """A piece of an answer. The `Text` that follows, if there is one, contains all of it."""

    type: ClassVar[str] = "delta"
    text: str = ""
    message_id: str | None = None  # of the message that it is a piece of


class Text(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "text"
    text: str = ""
    message_id: str | None = None  # several blocks of one message are one text


class Thinking(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "thinking"
    text: str = ""


class Tool(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "tool"
    id: str | None = None
    name: str = ""
    input: Any = None
    ended: bool = False  # it is reported when it has ended, so no result follows


class ToolResult(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "tool_result"
    id: str | None = None
    ok: bool | None = None
    output: Any = None


class Denied(Event, frozen=True, kw_only=True):
    """A tool that was denied. If only its `id` is known, the rest comes from its `Tool`."""

    type: ClassVar[str] = "denied"
    id: str | None = None
    name: str = ""
    input: Any = None
    reason: str | None = None
    hint: str | None = None  # how to allow it, if the CLI has a way of its own


class Notice(Event, frozen=True, kw_only=True):
    """A message that is not a failure, shown on stderr."""

    type: ClassVar[str] = "notice"
    message: str = ""
    retrying: bool = False  # the model service is asked again, maybe after a pause


class RateLimit(Event, frozen=True, kw_only=True):
    """A report on a rate limit: `reached`, or not any longer. It does not end the turn."""

    type: ClassVar[str] = "rate_limit"
    reached: bool = True
    retry_at: datetime | None = None  # its end
    window: str | None = None  # which limit, if there are several: "five_hour"
    model: str | None = None  # the only model that it applies to


class Checking(Event, frozen=True, kw_only=True):
    """The turn has succeeded, and its work is checked now. The last event is still to come."""

    type: ClassVar[str] = "checking"
    round: int = 0  # 0 after the first turn
    command: str = ""
    changed: bool = True  # whether the turns so far have changed a file
    result: Result | None = None  # of the turn; None if a check is done again after a crash


class Checked(Event, frozen=True, kw_only=True):
    """The result of a check. If it failed, a `Round` may follow."""

    type: ClassVar[str] = "checked"
    round: int = 0
    check: CheckResult | None = None
    failure: str | None = None  # the same for two failures that are the same one
    again: bool = False  # it was recorded by an earlier attempt


class Round(Event, frozen=True, kw_only=True):
    """A further turn of the session begins, to fix what the check has reported."""

    type: ClassVar[str] = "round"
    round: int = 1
    rounds: int = 1  # how many there may be
    message: str = ""  # what the check has reported


class Finished(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "finished"
    text: str | None = None
    usage: Usage | None = None
    cost: float | None = None  # US dollars, as the backend reported them
    structured: Any = None  # the answer to a schema
    incomplete: str | UnsetType = UNSET  # why the turn is not done, although this is no failure


class Failed(Event, frozen=True, kw_only=True):
    type: ClassVar[str] = "failed"
    kind: str = "backend"
    message: str = ""
    hint: str | None = None
    retry_at: datetime | None = None
    status: int | None = None
    usage: Usage | None = None
    cost: float | None = None
    turns: int | None = None  # the model calls since the last result


EVENT_TYPES: dict[str, type[Event]] = {
    cls.type: cls
    for cls in (
        Started, Delta, Text, Thinking, Tool, ToolResult, Denied, Notice, RateLimit,
        Checking, Checked, Round, Finished, Failed,
    )
}  # fmt: skip


def event_from_json(line: Mapping[str, Any]) -> Event | None:
    """The event of a line that `to_json` wrote; None for a line of another kind."""
    cls = EVENT_TYPES.get(str(line.get("type")))
    if cls is None:
        return None
    fields = {name: line[name] for name in cls.__struct_fields__ if name in line}
    if isinstance(fields.get("usage"), dict):
        fields["usage"] = Usage.from_json(fields["usage"])
    if isinstance(fields.get("check"), dict):
        # Only for a task with a check.
        from clinvk.model.checks.check import check_from_json

        fields["check"] = check_from_json(fields["check"])
    if isinstance(fields.get("retry_at"), str):
        fields["retry_at"] = datetime.fromisoformat(fields["retry_at"])
    return cls(**fields)
