"""The needs of tasks: what can start, what is skipped. No process, no clock."""

from hypothesis import given
from hypothesis import strategies as st

from clinvk.engine.scheduling.graph import Step, TaskGraph
from clinvk.model.plan import Task

ENDS = ["done", "failed", "indeterminate", "cancelled", "waiting"]


def tasks_of(*needs: tuple[int, ...], soft: bool = False) -> list[Task]:
    return [Task(name=str(i), prompt="p", needs=n, soft=soft) for i, n in enumerate(needs)]


def graph_of(tasks: list[Task], states: list[str] | None = None) -> TaskGraph:
    return TaskGraph(tasks, states or ["queued"] * len(tasks))


def test_tasks_without_needs_can_start_at_once():
    step = graph_of(tasks_of((), (0,), ())).begin()
    assert (step.ready, step.skipped) == ((0, 2), ())


def test_a_task_is_ready_when_the_last_of_its_needs_is_done():
    graph = graph_of(tasks_of((), (), (0, 1)))
    graph.begin()
    assert graph.finish(0, "done").ready == ()
    assert graph.finish(1, "done").ready == (2,)


def test_a_failure_skips_all_that_need_it_and_names_the_need():
    graph = graph_of(tasks_of((), (0,), (1,), ()))
    graph.begin()
    assert graph.finish(0, "failed").skipped == ((1, 0), (2, 1))


def test_a_failure_skips_a_task_whose_other_needs_still_run():
    graph = graph_of(tasks_of((), (), (0, 1)))
    graph.begin()
    assert graph.finish(0, "failed").skipped == ((2, 0),)
    assert graph.finish(1, "done") == Step()


def test_a_soft_task_runs_although_its_need_failed():
    graph = graph_of([*tasks_of((), soft=True), *tasks_of((0,), soft=True)])
    graph.begin()
    step = graph.finish(0, "failed")
    assert (step.ready, step.skipped) == ((1,), ())


def test_a_soft_task_is_skipped_when_its_turn_comes_if_a_strict_need_failed():
    first, second = tasks_of((), ())
    last = Task(name="2", prompt="p", needs=(0, 1), strict=(0,), soft=True)
    graph = graph_of([first, second, last])
    graph.begin()
    assert graph.finish(0, "failed").skipped == ()
    assert graph.finish(1, "done").skipped == ((2, 0),)


def test_a_task_whose_worker_was_lost_skips_what_needs_it():
    graph = graph_of(tasks_of((), (0,), (1,), ()))
    graph.begin()
    assert graph.finish(0, "indeterminate").skipped == ((1, 0), (2, 1))


def test_a_task_that_waits_for_a_limit_decides_nothing():
    graph = graph_of(tasks_of((), (0,)))
    graph.begin()
    step = graph.finish(0, "waiting")
    assert (step.ready, step.skipped) == ((), ())


def test_what_was_done_in_an_earlier_run_counts():
    graph = graph_of(tasks_of((), (0,), (1,)), ["done", "queued", "queued"])
    assert graph.begin().ready == (1,)


def test_what_failed_in_an_earlier_run_skips_what_needs_it():
    graph = graph_of(tasks_of((), (0,), (1,)), ["indeterminate", "queued", "queued"])
    step = graph.begin()
    assert (step.ready, step.skipped) == ((), ((1, 0), (2, 1)))


@st.composite
def plans(draw: st.DrawFn) -> list[Task]:
    """Tasks that need some of those before them; some run whatever came before."""
    tasks = []
    for i in range(draw(st.integers(1, 12))):
        needs = tuple(draw(st.sets(st.integers(0, i - 1), max_size=4))) if i else ()
        soft = draw(st.booleans())
        strict = tuple(n for n in needs if draw(st.booleans())) if soft else ()
        tasks.append(Task(name=str(i), prompt="p", needs=needs, soft=soft, strict=strict))
    return tasks


@given(plans(), st.data())
def test_every_task_is_decided_once_and_only_after_its_needs(
    tasks: list[Task], data: st.DataObject
):
    """Whatever order tasks end in: each is started or skipped at most once, none before what it
    needs has ended, none without what it must have, and none is forgotten."""
    graph = graph_of(tasks)
    ended: dict[int, str] = {}
    started: list[int] = []
    running: list[int] = []
    step = graph.begin()
    while True:
        for i, need in step.skipped:
            assert i not in ended
            assert ended.get(need) not in (None, "done")
            assert need in tasks[i].required_needs
            ended[i] = "skipped"
        for i in step.ready:
            assert i not in started
            assert i not in ended
            assert all(n in ended for n in tasks[i].needs)
            assert all(ended[n] == "done" for n in tasks[i].required_needs)
            started.append(i)
            running.append(i)
        if not running:
            break
        i = running.pop(data.draw(st.integers(0, len(running) - 1)))
        ended[i] = data.draw(st.sampled_from(ENDS))
        step = graph.finish(i, ended[i])
    undecided = {n for n, state in ended.items() if state in ("cancelled", "waiting")}
    for i, task in enumerate(tasks):
        if i not in ended:  # then something it needs, directly or not, may still succeed
            assert any(n in undecided or n not in ended for n in task.needs)


@given(plans())
def test_if_all_succeed_all_run(tasks: list[Task]):
    graph = graph_of(tasks)
    pending = list(graph.begin().ready)
    done: set[int] = set()
    while pending:
        i = pending.pop()
        done.add(i)
        pending += graph.finish(i, "done").ready
    assert done == set(range(len(tasks)))
