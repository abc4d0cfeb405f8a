"""The rounds of loops, written out as steps of the plan: `fix#1`, `review#1`, `fix#2` …"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from clinvk.model.plan import Loop, Task
from clinvk.plans.loops.reading import WrittenLoop


class _Place(Struct, frozen=True):
    """Where a step of the plan comes from."""

    step: int  # its position in the file
    loop: WrittenLoop | None = None
    number: int = 0  # of its round, from 0


class Expansion:
    """The steps of a chain with all rounds of its loops. `tasks` are the steps of the file, which
    refer to each other by their positions there; `later` are those of loops as they are from the
    second round on."""

    def __init__(
        self, tasks: Sequence[Task], later: Mapping[int, Task], loops: Sequence[WrittenLoop]
    ) -> None:
        self._written = tasks
        self._later = later
        self._loops = loops
        self._places = _places(len(tasks), loops)
        # The positions in the plan of each step of the file, by round.
        self._rounds: dict[int, list[int]] = {}
        for at, place in enumerate(self._places):
            self._rounds.setdefault(place.step, []).append(at)

    @property
    def origins(self) -> list[int]:
        """The position in the file of each step of the plan."""
        return [place.step for place in self._places]

    def tasks(self, *, pass_session: bool) -> list[Task]:
        """The steps in the order in which they run."""
        tasks = [self._task(at, place) for at, place in enumerate(self._places)]
        return self._with_sessions(tasks, pass_session=pass_session)

    def loops(self, places: Sequence[int]) -> tuple[Loop, ...]:
        """The loops; `places` are the final positions of the steps in the plan."""
        return tuple(
            Loop(
                names=tuple(self._written[i].name for i in loop.steps),
                until=loop.until,
                rounds=tuple(
                    tuple(places[self._rounds[i][number]] for i in loop.steps)
                    for number in range(loop.max)
                ),
            )
            for loop in self._loops
        )

    def _with_sessions(self, tasks: list[Task], *, pass_session: bool) -> list[Task]:
        """The steps with the ones whose sessions they continue. A step that begins a new session in
        each round of a loop takes no part in the conversation that `pass_session` passes on."""
        made, before = [], None
        for at, (task, place) in enumerate(zip(tasks, self._places, strict=True)):
            continues = before if pass_session else task.repeats
            keeps = place.loop is None or place.step in place.loop.keeps
            made.append(replace(task, continues=continues if keeps else None))
            before = at if keeps else before
        return made

    def _task(self, at: int, place: _Place) -> Task:
        task = self._written[place.step]
        if place.number > 0:
            task = self._later[place.step]
        known = {name: self._position(to, place) for name, to in task.known.items()}
        strict = tuple(at for to in task.strict for at in self._positions(to, place))
        needs = [*strict, *(self._position(to, place) for to in task.needs)]
        if at > 0:
            before = self._places[at - 1]
            needs += self._positions(before.step, place) if before.loop != place.loop else [at - 1]
        return replace(
            task,
            name=f"{task.name}#{place.number + 1}" if place.loop else task.name,
            known=known,
            strict=tuple(dict.fromkeys(strict)),
            needs=tuple(dict.fromkeys(needs)),
            previous=at - 1 if at > 0 else None,
            repeats=self._rounds[place.step][place.number - 1] if place.number > 0 else None,
        )

    def _positions(self, step: int, place: _Place) -> list[int]:
        """Where a step that `place` needs is: in all rounds of another loop, so that one that fails
        is enough."""
        loop = place.loop
        if loop is not None and step in loop.steps:
            return [self._position(step, place)]
        return self._rounds[step]

    def _position(self, step: int, place: _Place) -> int:
        """Where a step whose answer `place` uses is: earlier in the same round, otherwise in the
        round before; and in the last round of another loop."""
        loop, rounds = place.loop, self._rounds[step]
        if loop is None or step not in loop.steps:
            return rounds[-1]
        return rounds[place.number if step < place.step else place.number - 1]


def _places(count: int, loops: Sequence[WrittenLoop]) -> list[_Place]:
    starts = {loop.first: loop for loop in loops}
    inside = {step for loop in loops for step in loop.steps}
    places: list[_Place] = []
    for step in range(count):
        if loop := starts.get(step):
            places += [_Place(i, loop, n) for n in range(loop.max) for i in loop.steps]
        elif step not in inside:
            places.append(_Place(step))
    return places
