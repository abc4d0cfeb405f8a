"""Runs that are recorded in several places, as if they were in one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

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
