"""A turn that asks again if the answer does not match its schema."""

from __future__ import annotations

from msgspec.structs import replace

from clinvk.dispatch.series.turn_series import NextTurn, TurnSeries
from clinvk.errors import ClinvkError
from clinvk.model.events import Failed
from clinvk.model.result import Failure, Result
from clinvk.model.session_ref import SessionById

DEFAULT_RETRIES = 1  # further turns for an answer that matches


class RepairedTurn(TurnSeries):
    """Looks like a `Turn`. An answer that does not match is followed by a turn of the same session
    that says what is wrong with it, as often as `schema_retries` allows."""

    kind = "schema"

    def _choose_next(self, event: Failed, result: Result) -> NextTurn | None:
        plan = self._current.plan
        setting = plan.settings.get("schema_retries")
        retries = DEFAULT_RETRIES if setting is None else setting.value
        is_kept = result.session_id is not None and plan.manifest.resumes
        if len(self._ended) >= retries or not is_kept or plan.schema is None:
            return None
        request = self._request.replace(
            prompt=plan.schema.repair_prompt(event.message),
            session=SessionById(result.session_id or ""),
            backend=None, to=None, replay=False, title=None, tags=(),
            options=self._request.options_of_follow_up,
        )  # fmt: skip
        return NextTurn(request, "asking again")

    def _explain(self, error: ClinvkError, last: Result) -> Failure | None:
        return last.error and replace(last.error, hint=f"asking again failed: {error.message}")

    def _combine(self, result: Result) -> Result:
        combined = super()._combine(result)
        if result.structured_attempts is None:
            return combined
        return replace(combined, structured_attempts=len(self._ended) + 1)
