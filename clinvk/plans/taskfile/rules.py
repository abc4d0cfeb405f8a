"""How the plan of a file is run: its limits, its budget, and when failures end it."""

from __future__ import annotations

from msgspec.structs import replace

from clinvk.model.plan import Budget, Halt, Limits, Rules
from clinvk.plans import halt
from clinvk.plans.schema import TaskFile
from clinvk.plans.taskfile.defaults import Defaults
from clinvk.plans.taskfile.values import absolute_path, parse_seconds
from clinvk.text import values
from clinvk.text.typed import ShapeError


def build_rules(
    whole: TaskFile, defaults: Defaults, *, chain: bool, one_at_a_time: bool = False
) -> Rules:
    """The rules set by the keys of a file. Raises `ShapeError`."""
    for key in ("max_parallel", "retries"):
        value = getattr(whole, key)
        if value is not None and value < (1 if key == "max_parallel" else 0):
            raise ShapeError((key,), f"{value} is too small")
    for name, count in whole.max_parallel_per_backend.items():
        if count < 1:
            raise ShapeError(
                ("max_parallel_per_backend", name), f"{count} is too small; the minimum is 1"
            )
    if problem := values.os_problem(whole.output_dir or ""):
        raise ShapeError(("output_dir",), problem)
    fail_fast = whole.fail_fast
    if fail_fast is None:  # a chain uses `stop_on_failure`
        fail_fast = defaults.fail_fast and not chain
    return Rules(
        max_parallel=1 if one_at_a_time else whole.max_parallel or defaults.max_parallel,
        max_parallel_per_backend={
            **defaults.max_parallel_per_backend,
            **whole.max_parallel_per_backend,
        },
        halt=_parse_halt(whole.halt, fail_fast=fail_fast),
        retries=whole.retries or 0,
        retry_delay=parse_seconds(whole.retry_delay, ("retry_delay",)) or Rules().retry_delay,
        limits=_parse_limits(whole, defaults.limits),
        budget=_check_budget(whole.budget),
        stall_timeout=parse_seconds(whole.stall_timeout, ("stall_timeout",)),
        ephemeral=whole.ephemeral,
        output_dir=absolute_path(whole.output_dir) if whole.output_dir else None,
    )


def _parse_halt(text: str | None, *, fail_fast: bool) -> Halt:
    if text is None:
        return Halt(when="now", count=1) if fail_fast else Halt()
    try:
        return halt.parse_halt(text)
    except ValueError as error:
        raise ShapeError(("halt",), str(error)) from error


def _parse_limits(whole: TaskFile, defaults: Limits) -> Limits:
    limits = defaults
    if whole.on_limit or whole.fallback:
        limits = Limits(max_wait=defaults.max_wait)
    if whole.on_limit:
        try:
            limits = replace(halt.parse_on_limit(whole.on_limit), max_wait=defaults.max_wait)
        except ValueError as error:
            raise ShapeError(("on_limit",), str(error)) from error
    limits = halt.with_fallback(limits, whole.fallback)
    return replace(
        limits,
        first_wait=parse_seconds(whole.limit_wait, ("limit_wait",)) or limits.first_wait,
        max_wait=parse_seconds(whole.max_wait, ("max_wait",)) or limits.max_wait,
        at_start="ignore" if whole.ignore_limit else limits.at_start,
    )


def _check_budget(budget: Budget | None) -> Budget:
    for name in Budget.__struct_fields__ if budget else ():
        value = getattr(budget, name)
        if value is not None and not value > 0:
            raise ShapeError(("budget", name), f"{value} is not greater than 0")
    return budget or Budget()
