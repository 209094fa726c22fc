"""`python -m workers.trainer SPEC.json [--parent-fd N]`: one run, then the process ends. With
`--wait` in the spec's place, the run is told later.

Status 0: completed or stopped as asked; 1: failed, and the event file says why; 2: the spec
cannot be read, so there is no event file to say it in.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import msgspec

from workers.trainer.run import run_file
from workers.trainer.stopping import StopRequest
from workers.trainer.waiting import await_spec

_log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.trainer", description=__doc__)
    told = parser.add_mutually_exclusive_group(required=True)
    told.add_argument("spec", type=Path, nargs="?", help="JSON file of a TrainSpec")
    told.add_argument("--wait", action="store_true", help="import, then be told on standard input")
    parser.add_argument("--parent-fd", type=int, help="pipe whose end means: checkpoint and leave")
    options = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    path: Path | None = await_spec(options.parent_fd) if options.wait else options.spec
    if path is None:
        return 0
    stop = StopRequest()
    stop.listen(options.parent_fd)
    try:
        return 0 if run_file(path, stop) else 1
    except (OSError, msgspec.MsgspecError) as error:
        _log.error("cannot read the spec: %s", error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
