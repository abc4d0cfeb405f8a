"""Damaged output: streams made from all recordings by cutting, duplicating, reordering, corrupting
and interleaving lines, each read as a turn reads it, and what must hold of each result. See
`tests/fuzzed_streams.py`."""

from __future__ import annotations

import argparse
import collections
import random
import re
import statistics
import sys
import time
import traceback

from tests.fuzzed_streams import Reading, Stream, make_stream, problems, read_stream

SLOW = 30  # times the median for its size
SHOWN = 3  # problems of a kind


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench fuzz")
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the round to begin with")
    options = parser.parse_args(argv or [])
    print(f"fuzz: {options.rounds:,} streams, seed {options.seed}; no problem wanted")
    began, cpu = time.perf_counter(), time.process_time()
    kinds: collections.Counter[str] = collections.Counter()
    ended: collections.Counter[str] = collections.Counter()
    paces: list[tuple[float, int]] = []  # CPU seconds per MB, and the round
    size, found = 0, 0
    for number in range(options.first, options.first + options.rounds):
        stream = make_stream(random.Random(f"{options.seed}/{number}"))
        reading, wrong = examine(stream)
        size += len(stream.output)
        if reading is not None:
            ended[reading.result.error.kind if reading.result.error else "ok"] += 1
            paces.append((pace(stream, reading), number))
        found += bool(wrong)
        for problem in dict.fromkeys(wrong):
            kinds[
                kind := re.split(r"['\"\d{]", problem)[0] + problem[-60:] * ("\n" in problem)
            ] += 1
            if kinds[kind] <= SHOWN:
                print(f"round {number} ({stream.manifest.name}): {problem}")
    median = statistics.median(pace for pace, _ in paces)
    for _, number in [one for one in paces if one[0] > SLOW * median]:
        stream = make_stream(random.Random(f"{options.seed}/{number}"))
        again = min(pace(stream, read_stream(stream)) for _ in range(3))  # others use the machine
        if again > SLOW * median:
            found += 1
            print(
                f"round {number} ({stream.manifest.name}): {again / median:.0f} x the median time"
            )
    print(f"{size / 1e6:.0f} MB in {time.perf_counter() - began:.0f} s (CPU {time.process_time() - cpu:.0f} s); "
          f"slowest {max(paces)[0] / median:.1f} x the median for its size")  # fmt: skip
    print(", ".join(f"{kind} {count:,}" for kind, count in ended.most_common()))
    print(f"streams with problems: {found}")
    if found:
        sys.exit(1)


def examine(stream: Stream) -> tuple[Reading | None, list[str]]:
    """What became of the stream, and what is wrong with that."""
    try:
        reading = read_stream(stream)
    except Exception:  # noqa: BLE001, this is what is searched for
        return None, [traceback.format_exc(limit=-6)]
    return reading, list(problems(stream, reading))


def pace(stream: Stream, reading: Reading) -> float:
    """CPU seconds per MB; of a small stream, and of short lines, as if they were larger."""
    size = len(stream.output) + len(stream.stderr) + 100 * stream.output.count(b"\n")
    return reading.seconds / max(size, 20_000) * 1e6


if __name__ == "__main__":
    main(sys.argv[1:])
