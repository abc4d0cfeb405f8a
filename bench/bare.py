"""The least that a run of many programs costs with anyio: each is started as clinvk starts it, gets
the line of its task, and is read to its end. Nothing is understood, checked or recorded.

    python bench/bare.py PROGRAM AT_A_TIME < LINES
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import anyio

CHUNK_SIZE = 64 * 1024  # bytes


async def main(program: str, at_a_time: int, lines: Iterator[bytes]) -> None:
    async with anyio.create_task_group() as workers:
        for _ in range(at_a_time):
            workers.start_soon(work, program, lines)


async def work(program: str, lines: Iterator[bytes]) -> None:
    """Run the program for one line after another."""
    for line in lines:
        await run(program, line)


async def run(program: str, line: bytes) -> bytes:
    """What the program prints."""
    stdin, prompt = os.pipe()
    ours, stdout = os.pipe()
    errors, stderr = os.pipe()
    os.set_blocking(ours, False)
    process = await anyio.open_process(
        [program], stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
    )
    os.write(prompt, line)
    for end in (stdin, prompt, stdout, stderr):
        os.close(end)
    said = b""
    while True:
        await anyio.wait_readable(ours)
        piece = os.read(ours, CHUNK_SIZE)
        if not piece:
            break
        said += piece
    await process.wait()
    os.read(errors, CHUNK_SIZE)
    os.close(ours)
    os.close(errors)
    return said


if __name__ == "__main__":
    if sys.version_info < (3, 12):  # as clinvk does
        with suppress(OSError, NotImplementedError):
            asyncio.get_event_loop_policy().set_child_watcher(asyncio.PidfdChildWatcher())
    anyio.run(main, sys.argv[1], int(sys.argv[2]), iter(sys.stdin.buffer))
