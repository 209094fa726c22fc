"""What the messages between clients and engine workers are made of: prompts, media, adapters,
grammars, sampling."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of everything that crosses the socket."""


class Text(Message, tag=0, frozen=True):
    """Prompt text. In control text, special and added tokens are recognised; in content they never
    are, so a user's `<|im_end|>` is tokenised as ordinary characters."""

    text: str
    control: bool = False
    joined: bool = True
    """Tokenised together with the part before it, as one run of text. False starts a new run."""
    whole: bool = False
    """A whole raw prompt, tokenised as Hugging Face's `tokenizer(text)` does: as control text, with
    the special tokens that the tokenizer itself puts around a text (a BOS, where it adds one)."""


class Tokens(Message, tag=1, frozen=True):
    """Prompt token ids, used as they are (legacy completions take them)."""

    ids: list[int]


PromptPart = Text | Tokens


class MediaKind(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class Media(Message, tag=2, frozen=True):
    """A picture, clip or sound in its place in the prompt, as the file's own bytes; the engine's
    processor turns it into tokens and features."""

    kind: MediaKind
    text: str
    """What the chat format writes for it: the placeholder that `Hello.media` names, with the
    format's own marks around it. Control text."""
    data: bytes
    param: str
    """The request's field, for errors."""
    joined: bool = True
    detail: str | None = None
    """OpenAI's `low`, `high` or `auto`."""


class AdapterRef(Message, frozen=True):
    """One immutable LoRA version. `name` and `uid` are never reused for other weights."""

    name: str
    uid: int
    path: str


class GrammarKind(StrEnum):
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    EBNF = "ebnf"
    STRUCTURAL_TAG = "structural_tag"


class Grammar(Message, frozen=True):
    """What the output must match. `source` is a JSON schema, a regex, a JSON list of choices, an
    xgrammar EBNF grammar with rule `root`, or an xgrammar structural tag in JSON."""

    kind: GrammarKind
    source: str


class Sampling(Message, frozen=True):
    """How one sequence is sampled; field names are those of OpenAI and Hugging Face."""

    max_tokens: int | None = None
    """None: up to the model's context length."""
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    stop: list[str] = []
    """Strings that end the output and are not part of it; matched across token borders."""
    stop_token_ids: list[int] = []
    stop_words: list[str] = []
    """The chat format's own end marks. One that is a single token of the vocabulary is matched as
    a token, otherwise as text; never part of the output text."""
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    """Number of most likely alternatives to report per output token; 0 is the chosen token only."""
    prompt_logprobs: int | None = None
    """The same for prompt tokens, reported once in `PromptScored`."""
    cap_to_context: bool = False
    """Whether `max_tokens` is lowered to what the context has room for, and not refused."""
