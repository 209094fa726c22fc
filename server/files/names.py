"""File names as callers give them. They are shown again, never used as a path."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

_MAX_CHARS = 255
_FALLBACK = "upload"


def clean_filename(given: str) -> str:
    """The last component, without control characters: `../../etc/passwd` is `passwd`."""
    last = re.split(r"[/\\]", given)[-1]
    shown = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip()
    if shown in ("", ".", ".."):
        return _FALLBACK
    return shown[-_MAX_CHARS:]


def content_disposition(filename: str) -> str:
    """A header value for any name (RFC 6266): an ASCII form, and the exact one beside it."""
    plain = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename
    )
    header = f'attachment; filename="{plain}"'
    return header if plain == filename else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"
