"""`python -m tests.models --port N` serves until it is interrupted."""

import argparse
import contextlib
import threading

from tests.models import Models
from tests.models import __doc__ as manual


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.models",
        description=manual,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    with Models(parser.parse_args().port) as models, contextlib.suppress(KeyboardInterrupt):
        print(models.url, flush=True)
        threading.Event().wait()


main()
