"""`python -m tests.architectures [FAMILY ...]`: examines families and writes the page of all that
were examined so far; without names, of all there are."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers

from tests.architectures.examining import examine_or_tell
from tests.architectures.families import FAMILIES
from tests.architectures.results import keep, write_page

_FOUND = Path(tempfile.gettempdir()) / "tuneyard-architectures"


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _FOUND.mkdir(exist_ok=True)
    for family in sys.argv[1:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            row = examine_or_tell(family, Path(folder))
        keep(row, _FOUND)
        print(row, flush=True)  # noqa: T201
    write_page(_FOUND)


if __name__ == "__main__":
    main()
