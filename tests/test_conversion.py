"""Records that several threads read for the first time."""

import subprocess
import sys

# Forks processes in which ten threads at once make the first session of a record. Prints how many
# of them a signal has ended.
SCRIPT = """
import os, sys, threading
from clinvk.model.session import Session

def first_in_ten_threads():
    sys.setswitchinterval(1e-6)
    together = threading.Barrier(10)
    def read():
        together.wait()
        Session.from_json({"id": "abc", "version": 1})
    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    os._exit(0)

crashed = 0
for _ in range(60):
    pid = os.fork()
    if not pid:
        first_in_ten_threads()
    crashed += os.waitpid(pid, 0)[1] != 0
print(crashed)
"""


def test_the_first_record_may_be_read_in_many_threads():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
