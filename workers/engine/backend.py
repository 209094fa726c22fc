"""The seam between the worker and an engine: token ids in, token ids and logprobs out.

All text is the worker's own business (`workers.engine.text`, `workers.engine.service`): a backend
never tokenises, detokenises or looks for stop strings. It ends a sequence at one of `stop_ids`, at
`max_tokens`, or when told to abort.

Everything here is called and calls back on the event loop's thread; a backend with threads or
processes of its own brings its results there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, FinishReason, Stats
from workers.contract.parts import AdapterRef, Grammar, Media, MediaKind, Sampling


class RefusedError(Exception):
    """A request that cannot be honoured; crosses the socket as `Failed`."""

    def __init__(self, kind: FailureKind, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class Description:
    """What an engine serves and can do; `Hello` is made of it."""

    engine: str
    max_model_len: int
    capabilities: frozenset[Capability]
    max_logprobs: int = 20
    max_loras: int = 0
    max_lora_rank: int = 0
    media: MediaHost | None = None
    """Reads what prompts hold beside text; None where they may hold text only."""
    compatibility: str | None = None
    """Why the engine runs the model one sequence at a time, in words; None where it batches."""


@dataclass(frozen=True, slots=True)
class PreparedMedia:
    """One picture, clip or sound as the backend has read it."""

    text: str
    """Takes its place in the prompt, as control text."""
    inputs: object
    """The backend's own."""
    audio_tokens: int = 0
    """Of those in `text`, what stands for sound."""


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence to generate. Already checked: the prompt is not empty and fits the context,
    ids are in the vocabulary, only declared capabilities are used."""

    key: int
    """Never used twice in the life of the process."""
    prompt_ids: list[int]
    sampling: Sampling
    """As it came; of its end conditions only `min_tokens` is for the backend."""
    max_tokens: int
    """At most what the context leaves; 0 only scores the prompt."""
    stop_ids: frozenset[int]
    """Any of these ends the sequence, once `min_tokens` are out; may not be sampled before."""
    adapter: AdapterRef | None = None
    grammar: Grammar | None = None
    media: tuple[PreparedMedia, ...] = ()
    """In the order of their places in the prompt."""
    cache_scope: str = ""
    """What is computed of the prompt is of use to others of this scope only."""
    is_spare: bool = False
    """As `Generate` has it."""


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log-probability under the model's own distribution, before temperature, penalties,
    bias, filters and masks."""

    logprob: float
    top: list[tuple[int, float]]
    """Most likely ids with their logprobs, best first; as many as were asked for."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a sequence ended. `stop_id` is the id of `stop_ids` that ended it, which is not among
    the token ids put out but was generated and counts."""

    reason: FinishReason
    stop_id: int | None = None
    cached_tokens: int = 0


@dataclass(slots=True)
class Output:
    """What one step gave one sequence."""

    key: int
    token_ids: Sequence[int] = ()
    scores: list[Score] | None = None
    """One per token id, if `sampling.logprobs` was given."""
    prompt_scores: list[Score] | None = None
    """One per prompt token, once, before any token; the first has logprob NaN."""
    ended: Ended | RefusedError | None = None


class Receiver(Protocol):
    """Where a backend brings its results, on the event loop's thread."""

    def deliver(self, outputs: Sequence[Output]) -> None:
        """The outputs of one step, all sequences together. Unknown keys are ignored, so a
        sequence may put out a little more after its abort."""
        ...

    def adapters_changed(self) -> None:
        """The set of resident adapters is another one."""
        ...

    def died(self, reason: str) -> None:
        """The engine is beyond use: every request fails and the process ends."""
        ...


class Backend(Protocol):
    async def start(self, receiver: Receiver) -> Description:
        """Loads the model; called once, before everything else."""
        ...

    async def submit(self, work: Work) -> None:
        """Returns once the sequence is accepted: its adapter found good, its grammar compiled.
        Must not await between queueing the work and returning. Cancelled by an early abort.
        Ends later in exactly one `Output.ended`. Raises RefusedError."""
        ...

    def abort(self, key: int) -> None:
        """Frees what the sequence holds as soon as may be; an unknown key is ignored."""
        ...

    @property
    def adapters(self) -> AdapterHost | None:
        """None where `Capability.LORA` is not declared."""
        ...

    @property
    def pooling(self) -> PoolingHost | None:
        """None where neither `Capability.EMBED` nor `Capability.SCORE` is declared."""
        ...

    def stats(self) -> Stats: ...

    async def close(self) -> None:
        """Ends threads and processes. Sequences under way are dropped."""
        ...


class AdapterHost(Protocol):
    async def load(self, adapter: AdapterRef) -> None:
        """Checks the files and makes the adapter resident if a place is free or may be freed.
        Raises RefusedError."""
        ...

    async def unload(self, name: str) -> None:
        """Returns once nothing uses it any more and it is gone. An unknown name is no error."""
        ...


class MediaHost(Protocol):
    @property
    def placeholders(self) -> dict[MediaKind, str]:
        """The kinds that prompts may hold, and what stands for one in the prompt's text."""
        ...

    async def prepare(self, media: Media) -> PreparedMedia:
        """Raises RefusedError."""
        ...


class PoolingHost(Protocol):
    """Prompts are not empty and fit the context; only what is declared is asked for."""

    def frame(self, prompt_ids: list[int]) -> list[int]:
        """A text's ids with what the model wants before and after them ([CLS], [SEP], ...)."""
        ...

    async def embed(
        self, prompts: list[list[int]], dimensions: int | None, adapter: AdapterRef | None
    ) -> list[bytes]:
        """One little-endian float32 vector per prompt. Raises RefusedError."""
        ...

    async def score(self, prompts: list[list[int]]) -> list[float]: ...
