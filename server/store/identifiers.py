"""Ids as OpenAI shapes them: a prefix and random letters and digits."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def random_id(prefix: str, length: int = 24) -> str:
    """24 characters of 62 hold 142 random bits."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(length))
