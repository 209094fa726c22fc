"""A thinking budget on any engine: a sequence that has spent it is dropped, and another goes on
from its tokens and the words that end a thought. The engine's prefix cache has all but the latter.

Penalties that count the output's own tokens start anew with the answer.
"""

from __future__ import annotations

import msgspec

from server.engines.client import Work
from server.generation.exchange import Continuation
from workers.contract.parts import Grammar, Media, PromptPart, Tokens


class ThoughtLimit(msgspec.Struct, frozen=True):
    max_tokens: int
    ending: str
    ending_ids: list[int]
    grammar: Grammar | None
    """Of the answer without the thinking before it."""

    def go_on(self, work: Work, output_ids: list[int]) -> Continuation:
        """After `output_ids`, which the ending closes."""
        sampling, used = work.sampling, len(output_ids)
        left = None if sampling.max_tokens is None else sampling.max_tokens - used
        if left is not None and left <= 0:
            return Continuation(None, len(self.ending_ids))
        rest = msgspec.structs.replace(
            sampling, max_tokens=left, min_tokens=max(0, sampling.min_tokens - used)
        )
        prompt: list[PromptPart | Media] = [*work.prompt, Tokens(output_ids)]
        return Continuation(Work(prompt, rest, work.adapter, self.grammar), len(self.ending_ids))
