"""Deleting runs and sessions from Python: which go, and which stay."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from clinvk import SessionManager, clean_runs, delete_run
from clinvk.config import loading
from clinvk.errors import SessionError, UsageError
from clinvk.model.age import Age
from clinvk.runs.checkpoints import Checkpoints
from clinvk.runs.folder import RunStore
from clinvk.runs.log import RunNotFound
from tests.conftest import Home
from tests.desk import Desk, desk

__all__ = ["desk"]

DAY = 86_400  # seconds


def age(desk: Desk, run_id: str, days: float) -> str:
    """As if nothing had been written of it since."""
    moment = time.time() - days * DAY
    os.utime(desk.at(run_id).journal_path, (moment, moment))
    return run_id


def clean(desk: Desk, older_than: Age | None = None, **more: Any) -> list[str]:
    return clean_runs(older_than, dispatcher=desk.dispatcher(), **more)


@pytest.mark.parametrize("older_than", ["2w", "14", 14, "336h", timedelta(days=14)])
def test_runs_that_ended_long_ago_are_deleted(desk: Desk, older_than: Age):
    old, young = age(desk, desk.made("a"), 15), age(desk, desk.made("b"), 13)
    assert clean(desk, older_than, dry_run=True) == [old]
    assert set(RunStore(desk.home.path).ids()) == {old, young}
    assert clean(desk, older_than) == [old]
    assert RunStore(desk.home.path).ids() == [young]


def test_without_an_age_the_configuration_decides(desk: Desk):
    run_id = age(desk, desk.made("a"), 31)
    desk.home.config("default_backend: fake\nsession: {retention_days: 0}\n")
    assert clean(desk) == []
    desk.home.config("default_backend: fake\nsession: {retention_days: 30}\n")
    assert clean(desk) == [run_id]


def test_what_runs_what_was_cut_off_and_what_a_checkpoint_names_stays(desk: Desk):
    named = age(desk, desk.made("a"), 99)
    Checkpoints(desk.home.path).assign("mine", named)
    cut_off = age(desk, desk.cut_off("hold a", until="hold a"), 99)
    _, running = desk.begin("hold b", until="hold b")
    age(desk, running, 99)
    assert clean(desk, "1d") == []
    with pytest.raises(SessionError, match="belongs to checkpoint 'mine'"):
        delete_run(named, dispatcher=desk.dispatcher())
    with pytest.raises(SessionError, match="may have left something running"):
        delete_run(cut_off, dispatcher=desk.dispatcher())
    with pytest.raises(SessionError, match="is running"):
        delete_run(running, dispatcher=desk.dispatcher())
    assert set(RunStore(desk.home.path).ids()) == {named, cut_off, running}


def test_chains_stay_where_a_checkpoint_cannot_be_read(desk: Desk):
    chain = desk.run(["a"], "chain").id
    assert chain
    other = age(desk, desk.made("b"), 99)
    age(desk, chain, 99)
    (folder := desk.home.path / "checkpoints").mkdir()
    (folder / "bad.json").write_text("{")
    told: list[str] = []
    assert clean(desk, "1d", notify=told.append) == [other]
    assert len(told) == 1
    assert "bad.json" in told[0]


@pytest.mark.parametrize("older_than", ["soon", "", "-1", -1, "1y", timedelta(days=-1), "9" * 30])
def test_an_age_that_is_none_is_refused_and_deletes_nothing(desk: Desk, older_than: Age):
    run_id = age(desk, desk.made("a"), 99)
    with pytest.raises(UsageError, match="older_than"):
        clean(desk, older_than)
    assert RunStore(desk.home.path).ids() == [run_id]


def test_several_may_clean_at_the_same_time(desk: Desk):
    run_ids = {age(desk, desk.made("a"), 99)}
    folder = desk.home.path / "runs"
    for n in range(40):
        shutil.copytree(folder / min(run_ids), folder / f"rcopy{n}")
        run_ids.add(age(desk, f"rcopy{n}", 99))
    with ThreadPoolExecutor(4) as pool:
        deleted = [pool.submit(clean, desk, "1d") for _ in range(4)]
    assert {run_id for found in deleted for run_id in found.result()} == run_ids
    assert RunStore(desk.home.path).ids() == []


def test_a_run_deleted_while_another_process_was_about_to_lock_it_stays_deleted(desk: Desk):
    folder = desk.at(desk.made("a"))
    folder.delete()
    with pytest.raises(RunNotFound, match="has been deleted"):
        folder.lock()
    assert list((desk.home.path / "runs").iterdir()) == []


def test_what_a_killed_deletion_left_is_no_run_and_goes_with_the_next_cleaning(desk: Desk):
    path = desk.at(desk.made("a")).path
    path.rename(path.with_name(f".deleted-{path.name}-0123abcd"))
    assert RunStore(desk.home.path).ids() == []
    assert clean(desk, "1d") == []
    assert list((desk.home.path / "runs").iterdir()) == []


def test_a_run_is_deleted_by_the_beginning_of_its_id_a_damaged_one_too(desk: Desk):
    run_id = desk.made("a")
    (desk.at(run_id).path / "plan.json").write_text("{")
    assert delete_run(run_id[:4], dispatcher=desk.dispatcher()) == run_id
    with pytest.raises(RunNotFound):
        delete_run(run_id, dispatcher=desk.dispatcher())


def test_sessions_that_were_not_used_for_long_are_deleted(home: Home):
    with SessionManager(config=loading.load(home.env)) as sessions:
        session_id = sessions.create_session("a")
        assert sessions.clean_sessions("1d") == []
        assert sessions.clean_sessions() == []
        assert sessions.clean_sessions(timedelta(0), dry_run=True) == [session_id]
        with pytest.raises(UsageError, match="older_than: invalid age 'soon'"):
            sessions.clean_sessions("soon")
        assert sessions.clean_sessions(0) == [session_id]
        assert sessions.list_sessions() == []
