"""What every attempt needs, imported before the processes of a worker are forked: so it takes no time in
each of them, and they share its memory."""

# ruff: noqa: F401 - importing is all that is wanted

from __future__ import annotations

import asyncio

import anyio._backends._asyncio
import anyio._core._subprocesses
import anyio.to_thread

import clinvk.backend.output.event_parser
import clinvk.dispatch.recovery
import clinvk.dispatch.turn
import clinvk.dispatch.turn_lock
import clinvk.process.tree
import clinvk.store.redis.store
import clinvk.text.json_input
