"""The slots of a worker: threads of one process, which share what it has."""

import os
from contextlib import closing

from clinvk.cluster.worker.pool import WakingThreads
from tests.conftest import wait_for


def test_a_slot_that_is_free_wakes_up_what_takes_the_next_message():
    from kombu.asynchronous.hub import Hub  # an extra

    pool, hub = WakingThreads(1), Hub()
    with closing(hub):
        try:
            pool.start()
            pool.register_with_event_loop(hub)
            pool.apply_async(lambda: None, callback=lambda _: None)
            seen: list[int] = []
            wait_for(lambda: seen.extend(fd for fd, _ in hub.poller.poll(0.1) or []) or seen, "it")
            assert set(seen) == {pool.pipe[0]}
        finally:
            pool.stop()
            for fd in pool.pipe:
                os.close(fd)
