"""What a model's further names may look like."""

from __future__ import annotations

import re

MAX_ALIAS_CHARS = 256
FINE_TUNE_PREFIX = "ft:"
"""Of ids that jobs give to what they train."""
_ALIAS = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/@-]{{0,{MAX_ALIAS_CHARS - 1}}}")


def alias_fault(name: str) -> str | None:
    """Why a name cannot be an alias."""
    if name.startswith(FINE_TUNE_PREFIX):
        return f"Ids that begin with {FINE_TUNE_PREFIX} are given to what jobs train."
    if not _ALIAS.fullmatch(name):
        return (
            f"An alias has up to {MAX_ALIAS_CHARS} letters, digits and ._:/@- and begins with a "
            "letter or a digit."
        )
    return None
