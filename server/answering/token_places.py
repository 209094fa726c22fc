"""Which of an output's tokens stand in the content, which in the reasoning, and which in neither.

A token belongs to the first text that holds a character of it: one that ends a sentence and begins
a tool call is the sentence's, one that ends a thought and begins the answer is the thought's.
Tokens of marks, of tool calls and of white space that is left out belong to none.
"""

from __future__ import annotations

from collections import deque

from templates.format import ContentDelta, ReasoningDelta
from workers.contract.messages import Token, TokenLogprob


class TokenPlaces:
    __slots__ = ("_base", "_fed", "_tokens")

    def __init__(self) -> None:
        self._fed = 0
        """Characters that the parser was fed."""
        self._base = 0
        """Where the output of the engine's sequence begins."""
        self._tokens: deque[tuple[int, TokenLogprob]] = deque()

    def add(self, event: Token) -> None:
        self._fed += len(event.text)
        for entry in event.logprobs or ():
            self._tokens.append((self._base + entry.at, entry))

    def insert(self, text: str) -> None:
        """`text` was fed that no engine generated; another sequence follows it."""
        self._fed += len(text)
        self._base = self._fed

    def take(self, delta: ContentDelta | ReasoningDelta) -> list[TokenLogprob]:
        """Those of `delta`, which was just read; those before it are of no more use."""
        end = self._fed - delta.behind
        begin = end - len(delta.text)
        taken: list[TokenLogprob] = []
        tokens = self._tokens
        while tokens and tokens[0][0] < end:
            at, entry = tokens.popleft()
            # A piece of a character has no text of its own, and goes with the character.
            next_at = tokens[0][0] if tokens else self._fed
            if max(next_at, at + 1) > begin:
                taken.append(entry)
        return taken
