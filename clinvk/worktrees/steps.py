"""The worktree that all steps of a chain share: each step begins with the result of the one before."""

from __future__ import annotations

from msgspec.structs import replace

from clinvk.model.plan import Worktree
from clinvk.worktrees.create import Place
from clinvk.worktrees.git import Git
from clinvk.worktrees.names import is_shared, refs_of_run, refs_of_task
from clinvk.worktrees.record import Record, write_record


def begin_step(place: Place, record: Record, start: str | None = None) -> Record:
    """The record, for the next step: what the step before has left is committed in the worktree, so
    that the changes of each step can be told apart. Raises `ClinvkError`."""
    if not is_shared(place.wanted.directory):
        return _begin_candidate(place, record, start)
    git = Git.of(record.admin, place.path, place.env)
    if record.tip and git.run(
        "merge-base", "--is-ancestor", "HEAD", record.tip, ok=(0, 1, 128)
    ).returncode == 0:  # fmt: skip
        git.run("update-ref", "--no-deref", "HEAD", record.tip)
        git.run("read-tree", "HEAD")
    if place.wanted.slug in record.bases:  # another attempt
        return record
    base = git.text("rev-parse", "HEAD")
    record = replace(record, bases={**record.bases, place.wanted.slug: base})
    write_record(place.path, record)
    return record


def _begin_candidate(place: Place, record: Record, start: str | None) -> Record:
    """The record, for a candidate in a worktree of its own: what the steps before it have changed is
    no part of its result."""
    if start is None or place.wanted.slug in record.bases:
        return record
    record = replace(record, bases={**record.bases, place.wanted.slug: start})
    write_record(place.path, record)
    return record


def owner_of(place: Place, record: Record) -> Place:
    """The place of the task to which belongs what is in the worktree now, beyond the results: of the
    steps that share it, the last one. Raises `GitError`."""
    slugs = list(record.bases)
    if not is_shared(place.wanted.directory) or not slugs:
        return place
    words = ("for-each-ref", "--format=%(refname) %(objectname)")
    listed = place.git.text(*words, refs_of_run(place.run)).splitlines()

    def has_result(slug: str, commit: str) -> bool:
        prefix = refs_of_task(place.run, slug)
        return any(line.startswith(prefix) and line.endswith(commit) for line in listed)

    last = slugs[-1]
    if has_result(last, ""):  # otherwise it was killed; an earlier one may have been run again
        last = next((slug for slug in reversed(slugs) if has_result(slug, record.tip)), last)
    owner = Place(place.home, place.run, replace(place.wanted, slug=last), place.env)
    owner.repository = place.repository
    return owner


def end_step(place: Place, record: Record, commit: str) -> None:
    """The next step begins with this commit. Raises `ClinvkError`."""
    if is_shared(place.wanted.directory) and record.tip != commit:
        write_record(place.path, replace(record, tip=commit))


def result_so_far(git: Git, run: str, wanted: Worktree, start: str | None = None) -> str | None:
    """The commit with which a new worktree begins: the last result of the task itself, or of the steps
    before it, which begin with `start`. None if there is none. Raises `GitError`."""
    last = _last_results(git, run)
    own = last.pop(refs_of_task(run, wanted.slug), None)
    if not is_shared(wanted.directory):
        return own
    # Of a chain: the result of the step before, which all earlier ones are ancestors of. An attempt at
    # the same step is not part of it, since its changes could not be told apart.
    if start is not None or not last:
        return start
    return git.text("rev-list", "--topo-order", "--max-count=1", *last.values())


def _last_results(git: Git, run: str) -> dict[str, str]:
    """The commit of the last attempt at each task, by the beginning of its refs."""
    words = ("for-each-ref", "--format=%(refname) %(objectname)", refs_of_run(run))
    last: dict[str, tuple[int, str]] = {}
    for ref, commit in map(str.split, git.text(*words).splitlines()):
        prefix, slash, number = ref.rpartition("/")
        if number.isdigit() and int(number) > last.get(prefix + slash, (0, ""))[0]:
            last[prefix + slash] = int(number), commit
    return {prefix: commit for prefix, (_, commit) in last.items()}
