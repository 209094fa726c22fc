"""What requests that share a prefix have in common, so that they meet in one replica's cache.

A caller's `prompt_cache_key` says it best. Without one it is how the prompt begins: of a
conversation, everything up to its first user message, which stays the same from turn to turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from templates.conversation import ChatMessage, Role, TextPart
from workers.contract.parts import Text, Tokens

MAX_HEAD_CHARS = 4096
"""Of each message; what is longer than that hardly begins the same by chance."""
PROMPT_HEAD_CHARS = 512
"""Of a raw prompt, whose questions often come after examples that are always the same."""
PROMPT_HEAD_TOKENS = 128


def conversation_key(messages: Sequence[ChatMessage]) -> str:
    return _digest(_head(messages))


def prompt_key(prompt: Sequence[object]) -> str:
    """Of a raw prompt's parts: how the first of them begins."""
    first = prompt[0]
    if isinstance(first, Text):
        return _digest([first.text[:PROMPT_HEAD_CHARS]])
    return _digest([str(first.ids[:PROMPT_HEAD_TOKENS]) if isinstance(first, Tokens) else ""])


def _head(messages: Sequence[ChatMessage]) -> Iterable[str]:
    for message in messages:
        yield message.role
        for part in message.parts:
            text = part.text if isinstance(part, TextPart) else part.url
            yield text[:MAX_HEAD_CHARS]
        if message.role is Role.USER:
            return


def _digest(pieces: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
