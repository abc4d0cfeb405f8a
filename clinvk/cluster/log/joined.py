"""Runs that are recorded in several places, as if they were in one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

from clinvk.errors import ClinvkError, SessionError
from clinvk.model.plan import Plan
from clinvk.runs.log import RunLog, RunNotFound, Runs, find_id

LAST = "last"


class JoinedRuns(Runs):
    """New runs are recorded in the first place."""

    def __init__(
        self,
        places: Sequence[Runs],
        unlisted: Sequence[Runs] = (),
        *,
        is_own: Callable[[RunLog], bool] = lambda _: True,
        where: str = "",
    ) -> None:
        """A run in the places `unlisted` is found by its id; as the last one only if there are no
        others. One that is not one's own is found by its id only, too. `where` are the flags with which
        a command finds these runs."""
        self._places = places
        self._unlisted = unlisted
        self._is_own = is_own
        self._where = where

    def create(self, plan: Plan) -> RunLog:
        return self._places[0].create(plan)

    def ids(self) -> list[str]:
        return [run_id for place in self._places for run_id in place.ids()]

    def find(self, text: str) -> RunLog:
        if text == LAST and next(self.newest_first(), None) is not None:
            own = next(self.may_be_last(), None)
            if own is None:
                raise RunNotFound(
                    "there are no runs of this machine yet; those of the cluster are of others",
                    f"name one of them; see them all: clinvk runs list{self._where}",
                )
            return own
        places = [*self._places, *self._unlisted]
        ids = [place.ids() for place in places]
        known = [i for some in ids for i in some]
        try:
            found = find_id(text, known, lambda: self._unlisted[0].find(LAST).id, self._where)
        except RunNotFound as error:
            raise next(filter(None, (p.why_missing(text) for p in places)), error) from error
        place = next(p for p, some in zip(places, ids, strict=True) if found in some)
        return place.find(found)

    def newest_first(self) -> Iterator[RunLog]:
        runs = (place.newest_first() for place in self._places)
        return heapq.merge(*runs, key=lambda run: run.created_at(), reverse=True)

    def may_be_last(self) -> Iterator[RunLog]:
        return filter(self._is_own, self.newest_first())

    def remove_remains(self) -> None:
        for place in self._places:
            place.remove_remains()


class CutOffRuns(Runs):
    """The runs of this machine, while the cluster cannot be reached. That is said once a list is asked
    for, or the last run, which may be another one; and of a run that is not on this machine."""

    def __init__(
        self, here: Runs, why: ClinvkError, warn: Callable[[str, str | None], None]
    ) -> None:
        self._here = here
        self._why = why
        self._warn: Callable[[str, str | None], None] | None = warn

    def create(self, plan: Plan) -> RunLog:
        return self._here.create(plan)

    def ids(self) -> list[str]:
        self._tell()
        return self._here.ids()

    def find(self, text: str) -> RunLog:
        if text == LAST:
            self._tell()
        try:
            return self._here.find(text)
        except RunNotFound as error:
            what = "no run" if text == LAST else f"no run {text[:100]!r}"
            raise SessionError(
                f"{what} on this machine, and the cluster cannot be asked: {self._why.message}",
                self._why.hint,
            ) from error

    def newest_first(self) -> Iterator[RunLog]:
        self._tell()
        return self._here.newest_first()

    def remove_remains(self) -> None:
        self._here.remove_remains()

    def _tell(self) -> None:
        if self._warn is not None:
            self._warn(f"only runs of this machine: {self._why.message}", self._why.hint)
            self._warn = None
