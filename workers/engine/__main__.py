"""`python -m workers.engine --spec FILE`: one model in one process. With `--check` it only looks at
what the engine would be given, and says what it found, as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import msgspec
from setproctitle import setproctitle

from workers.contract.pid_files import hold
from workers.engine.preflight import look
from workers.engine.process import serve
from workers.engine.spec import BackendName, EngineSpec, SpecError, read_spec

_BAD_SPEC_STATUS = 2
_PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _JsonFormatter(logging.Formatter):
    """One JSON object a line; `extra` fields are its own keys. Never holds prompt or output."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry |= {k: v for k, v in vars(record).items() if k not in _PLAIN_FIELDS}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def main() -> int:
    parser = argparse.ArgumentParser(prog="workers.engine", description=__doc__)
    parser.add_argument("--spec", required=True, help="engine spec file (JSON)")
    parser.add_argument("--check", action="store_true", help="start nothing")
    parser.add_argument("--adapter", nargs=2, action="append", metavar=("ID", "DIRECTORY"))
    arguments = parser.parse_args()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    try:
        spec = read_spec(arguments.spec)
        if arguments.check:
            found = look(spec, dict(arguments.adapter or ()))
            sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
            return 0
        if not _is_wanted(spec, arguments.spec):
            return 0
        setproctitle(f"tuneyard engine {spec.model_id}")
        status = asyncio.run(serve(spec))
    except SpecError as error:
        logging.getLogger("workers.engine").error("cannot start", extra={"reason": str(error)})
        return _BAD_SPEC_STATUS
    if spec.backend is BackendName.HF:
        _exit_at_once(status)
    return status


def _is_wanted(spec: EngineSpec, spec_path: str) -> bool:
    """Whoever takes the spec back looks for the pid file after that: one of both sees the other."""
    if spec.pid_file is None:
        return True
    hold(Path(spec.pid_file))
    return Path(spec_path).exists()


def _exit_at_once(status: int) -> NoReturn:
    """Everything is closed. Taking the interpreter and torch apart would only cost time, seconds on
    a busy machine, and wait for a grammar that is still being compiled."""
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
