"""`encrypted_content` of reasoning items: the thought as one opaque string.

It spares callers who keep nothing here from taking the text apart. Nothing is hidden by it: the
same item shows its text in `content`.
"""

from __future__ import annotations

import base64
import binascii

_PREFIX = "thought1."


def seal_thought(text: str) -> str:
    return _PREFIX + base64.urlsafe_b64encode(text.encode()).decode()


def open_thought(sealed: str) -> str | None:
    """None for what `seal_thought` has not made."""
    if not sealed.startswith(_PREFIX):
        return None
    try:
        data = base64.b64decode(sealed[len(_PREFIX) :], altchars=b"-_", validate=True)
        return data.decode()
    except (binascii.Error, ValueError):
        return None
