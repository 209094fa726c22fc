"""What the worker must know of a vocabulary: text to ids, and the exact bytes of each id."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from workers.contract.parts import PromptPart

_INLINE_PROMPT_CHARS = 20_000
"""Longer prompts are tokenised off the event loop, which they would hold up for milliseconds."""


class Vocabulary(Protocol):
    @property
    def size(self) -> int:
        """Ids run from 0 to `size` - 1, as the model's output layer has them."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end the output unless the request says otherwise."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` leaves out of the text."""
        ...

    @property
    def names(self) -> TokenNames: ...

    def piece(self, token_id: int) -> bytes:
        """The bytes the id adds to the output; none for an id the tokenizer does not know."""
        ...

    def token_id(self, text: str) -> int | None:
        """The id whose token is exactly `text`, if there is one."""
        ...

    def encode(self, prompt: Sequence[PromptPart]) -> list[int]: ...


class TokenNames(Protocol):
    """What `Hello` tells of the tokenizer."""

    @property
    def bos_token(self) -> str | None: ...

    @property
    def eos_token(self) -> str | None: ...

    @property
    def special_tokens(self) -> list[str]: ...

    @property
    def chat_templates(self) -> dict[str, str]: ...


async def encode(vocabulary: Vocabulary, prompt: Sequence[PromptPart]) -> list[int]:
    chars = sum(len(getattr(part, "text", "")) for part in prompt)
    if chars > _INLINE_PROMPT_CHARS:
        return await asyncio.to_thread(vocabulary.encode, prompt)
    return vocabulary.encode(prompt)
