"""`python -m workers.trainer SPEC.json [--parent-fd N]`: one run, then the process ends.

Status 0: completed or stopped as asked; 1: failed, and the event file says why; 2: the spec
cannot be read, so there is no event file to say it in.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import msgspec

from workers.contract.training import TrainSpec
from workers.trainer.run import run
from workers.trainer.stopping import StopRequest

_log = logging.getLogger(__name__)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.trainer", description=__doc__)
    parser.add_argument("spec", type=Path, help="JSON file of a TrainSpec")
    parser.add_argument("--parent-fd", type=int, help="pipe whose end means: checkpoint and leave")
    options = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    stop = StopRequest()
    stop.listen(options.parent_fd)
    try:
        spec = msgspec.json.decode(options.spec.read_bytes(), type=TrainSpec)
    except (OSError, msgspec.MsgspecError) as error:
        _log.error("cannot read the spec: %s", error)
        return 2
    return 0 if run(spec, stop) else 1


if __name__ == "__main__":
    sys.exit(main())
