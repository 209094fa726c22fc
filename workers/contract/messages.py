"""The messages between a gateway or supervisor (client) and an engine worker.

Every message is a small frozen struct, packed as a msgpack array whose first item is its tag.
A connection carries many requests at once; `id` names one of them and is chosen by the client,
unique on that connection. Every `Generate` ends in exactly one `Finished` or `Failed`; every other
request ends in exactly one reply (`Done`, `Tokenized`, `Embedded`, ...) or `Failed`.
"""

from __future__ import annotations

from enum import StrEnum

from workers.contract.hello import Hello
from workers.contract.parts import AdapterRef, Grammar, Media, Message, PromptPart, Sampling


class Generate(Message, tag=1, frozen=True):
    id: int
    prompt: list[PromptPart | Media]
    sampling: Sampling
    adapter: AdapterRef | None = None
    """None is the base model. An adapter that is not resident is loaded first."""
    grammar: Grammar | None = None
    cache_scope: str = ""
    """What the engine has computed of a prompt serves only prompts of the same scope, and
    `cached_tokens` counts only such."""
    is_spare: bool = False
    """It may only have what others leave: whoever is not spare goes before it, and may take its
    place while it runs. It is gone on with later, to the same output."""


class Abort(Message, tag=2, frozen=True):
    """Stop `Generate` `id`. It still ends in one `Finished`, with reason `abort`."""

    id: int


class LoadAdapter(Message, tag=3, frozen=True):
    id: int
    adapter: AdapterRef


class UnloadAdapter(Message, tag=4, frozen=True):
    """Frees the adapter once no request uses it; answers `Done` then."""

    id: int
    name: str


class Tokenize(Message, tag=5, frozen=True):
    id: int
    prompt: list[PromptPart]


class Detokenize(Message, tag=6, frozen=True):
    id: int
    ids: list[int]


class Embed(Message, tag=7, frozen=True):
    """Pool each input to one vector (the model entry names the pooling)."""

    id: int
    inputs: list[list[PromptPart]]
    dimensions: int | None = None
    adapter: AdapterRef | None = None


class Score(Message, tag=8, frozen=True):
    """Reward of each conversation, for `rm` models."""

    id: int
    inputs: list[list[PromptPart]]
    adapter: AdapterRef | None = None
    max_length: int | None = None
    """Longer inputs are cut to this many tokens; None: one over the model's context is refused."""


class Authenticate(Message, tag=9, frozen=True):
    """First message on a TCP connection; a unix socket is guarded by its file mode."""

    token: str


class AdapterPart(Message, tag=20, frozen=True):
    """A piece of one of the adapter's files that an `AdapterWanted` asked for. The pieces of a file
    come in order, and one file after the other."""

    id: int
    """Of the `AdapterWanted`."""
    file: str
    data: bytes
    last: bool = False
    """Nothing of the adapter follows."""


class AdapterMissing(Message, tag=21, frozen=True):
    """The files that an `AdapterWanted` asked for cannot be had."""

    id: int


Request = (
    Generate
    | Abort
    | LoadAdapter
    | UnloadAdapter
    | Tokenize
    | Detokenize
    | Embed
    | Score
    | Authenticate
    | AdapterPart
    | AdapterMissing
)


class TokenLogprob(Message, frozen=True):
    token_id: int
    token: str
    """Text of this token alone; a broken UTF-8 piece shows as U+FFFD, its bytes are exact."""
    data: bytes
    logprob: float
    top: list[TokenAlternative] = []
    at: int = 0
    """Where in the sequence's output text the token begins, in characters."""


class TokenAlternative(Message, frozen=True):
    token_id: int
    token: str
    data: bytes
    logprob: float


class Admitted(Message, tag=101, frozen=True):
    """The prompt is tokenised, checked and accepted: from here on the answer may begin."""

    id: int
    prompt_tokens: int
    cached_tokens: int = 0
    audio_tokens: int = 0
    """Of the prompt's, those that stand for sound."""


class PromptScored(Message, tag=102, frozen=True):
    """One entry per prompt token when `prompt_logprobs` was asked; the first has logprob NaN."""

    id: int
    tokens: list[TokenLogprob]


class Token(Message, tag=103, frozen=True):
    """New output of one sequence. `text` may be empty while a character is incomplete or a stop
    string may be under way; the texts of a sequence concatenate to its whole output."""

    id: int
    token_ids: list[int]
    text: str
    logprobs: list[TokenLogprob] | None = None


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class Finished(Message, tag=104, frozen=True):
    id: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    stop: str | int | None = None
    """The stop string or stop token id that ended the output; None for end-of-sequence."""


class FailureKind(StrEnum):
    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    INVALID_GRAMMAR = "invalid_grammar"
    INVALID_MEDIA = "invalid_media"
    UNSUPPORTED = "unsupported"
    ADAPTER_NOT_FOUND = "adapter_not_found"
    ADAPTER_INVALID = "adapter_invalid"
    OVERLOADED = "overloaded"
    OUT_OF_MEMORY = "out_of_memory"
    ENGINE_DEAD = "engine_dead"
    INTERNAL = "internal"


class Failed(Message, tag=105, frozen=True):
    id: int
    kind: FailureKind
    message: str
    """For the caller; holds no prompt text and no path."""
    param: str | None = None


class Done(Message, tag=106, frozen=True):
    id: int


class Tokenized(Message, tag=107, frozen=True):
    id: int
    ids: list[int]


class Detokenized(Message, tag=108, frozen=True):
    id: int
    text: str


class Embedded(Message, tag=109, frozen=True):
    """One little-endian float32 vector per input."""

    id: int
    vectors: list[bytes]
    prompt_tokens: int


class Scored(Message, tag=110, frozen=True):
    id: int
    scores: list[float]
    prompt_tokens: int


class Stats(Message, tag=111, frozen=True):
    """Sent about once a second, and after every adapter change."""

    running: int
    waiting: int
    kv_usage: float
    """Share of the key-value memory in use, 0 to 1."""
    adapters: list[str] = []
    """Names of the resident adapters."""
    adapter_hits: int = 0
    adapter_loads: int = 0
    adapter_evictions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class AdapterWanted(Message, tag=120, frozen=True):
    """The worker does not have the files of an adapter that this client named: they are to be sent.
    The request that named it waits meanwhile."""

    id: int
    """Chosen by the worker."""
    name: str


class Leaving(Message, tag=121, frozen=True):
    """The worker takes no new request, and goes once those under way have ended."""


Event = (
    Hello
    | Admitted
    | PromptScored
    | Token
    | Finished
    | Failed
    | Done
    | Tokenized
    | Detokenized
    | Embedded
    | Scored
    | Stats
    | AdapterWanted
    | Leaving
)
