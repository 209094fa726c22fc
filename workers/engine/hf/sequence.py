"""One sequence in the HF engine: its tokens, and the row that has its keys and values."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from workers.contract.parts import Sampling
from workers.engine.backend import Score, Work
from workers.engine.hf.slabs import Row

if TYPE_CHECKING:
    from workers.engine.hf.grammar import GrammarState
    from workers.engine.hf.lora.weights import AdapterWeights
    from workers.engine.hf.media.sequences import SequenceMedia

BASE_MODEL_UID = 0


@dataclass(slots=True, eq=False)
class Sequence:
    work: Work
    grammar: GrammarState | None = None
    adapter: AdapterWeights | None = None
    tokens: array[int] = field(default_factory=lambda: array("q"))
    """Prompt and output. Keys and values of the first `row.num_computed` are in the row."""
    row: Row = field(default_factory=Row)
    num_cached: int = 0
    """Prompt tokens whose keys and values were taken from another row."""
    prompt_logits_V: Tensor | None = None
    """Those that the first token is sampled from, once they are computed."""
    arrival: int = 0
    """Order of arrival."""
    prompt_scores: list[Score] | None = None
    output_counts: dict[int, int] = field(default_factory=dict[int, int])
    """How often each token was put out; kept for sequences with penalties only."""
    is_aborted: bool = False
    media: SequenceMedia | None = None
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.tokens.extend(self.work.prompt_ids)
        seed = self.work.sampling.seed
        self._random = random.Random(seed)
        if self.work.sampling.prompt_logprobs is not None:
            self.prompt_scores = []

    @property
    def sampling(self) -> Sampling:
        return self.work.sampling

    @property
    def num_prompt(self) -> int:
        return len(self.work.prompt_ids)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_missing(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while decoding."""
        return len(self.tokens) - self.row.num_computed

    @property
    def keys(self) -> array[int]:
        """What makes the beginnings of two sequences the same: tokens, and the media in them."""
        return self.tokens if self.media is None else self.media.keys

    @property
    def adapter_uid(self) -> int:
        return self.adapter.uid if self.adapter is not None else BASE_MODEL_UID

    @property
    def rank(self) -> tuple[bool, int]:
        """Who comes first: whoever is not spare, then by arrival."""
        return self.work.is_spare, self.arrival

    @property
    def scope(self) -> tuple[str, int]:
        """What is computed here is of use only where this is the same."""
        return self.work.cache_scope, self.adapter_uid

    @property
    def has_penalties(self) -> bool:
        s = self.work.sampling
        return bool(s.frequency_penalty or s.presence_penalty or s.repetition_penalty != 1)

    def draw(self) -> float:
        """The uniform number that picks the next token: one a token, whatever the batch."""
        return self._random.random()

    def append(self, token_id: int) -> None:
        self.tokens.append(token_id)
        if self.media is not None:
            self.media.keys.append(token_id)
        if self.has_penalties:
            self.output_counts[token_id] = self.output_counts.get(token_id, 0) + 1

    def restart(self) -> None:
        """Preempted: its keys and values are gone, its tokens are not."""
        self.row = Row()
