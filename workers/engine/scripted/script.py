"""What the scripted engine says: the `settings` of its spec."""

from __future__ import annotations

import msgspec

from workers.contract.hello import Capability
from workers.contract.messages import FailureKind, FinishReason
from workers.contract.parts import GrammarKind

DEFAULT_CAPABILITIES = (
    Capability.LORA,
    Capability.SEED,
    Capability.LOGPROBS,
    Capability.PROMPT_LOGPROBS,
    Capability.LOGIT_BIAS,
    Capability.MIN_P,
    Capability.REPETITION_PENALTY,
    Capability.MIN_TOKENS,
    Capability.JSON_SCHEMA,
    Capability.REGEX,
    Capability.CHOICE,
    Capability.EBNF,
    Capability.STRUCTURAL_TAG,
)


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Failure(_Strict, frozen=True, kw_only=True):
    """`after_tokens` None refuses the request before it is admitted; else it fails that far in."""

    kind: FailureKind
    message: str = "Scripted failure."
    param: str | None = None
    after_tokens: int | None = None


class Reply(_Strict, frozen=True, kw_only=True):
    """One answer and how it is given. A reply without `text` and `tokens` echoes the last content
    part of the prompt. Texts are cut into words, one token each; `tokens` are taken as they are.
    In both `{adapter}` stands for the adapter's name, or `base`."""

    contains: str = ""
    """Chosen if the prompt contains this."""
    grammar: GrammarKind | None = None
    """Chosen only for requests with a grammar of this kind; a request with a grammar is answered
    by no other reply."""
    text: str | None = None
    tokens: list[str] | None = None
    repeat: int = 1
    delay_ms: float = 0.0
    """Time between tokens; sequences with the same delay share their ticks."""
    first_token_ms: float = 0.0
    finish: FinishReason = FinishReason.STOP
    fail: Failure | None = None
    hangs: bool = False
    """Says all its tokens and never ends."""
    dies_after_tokens: int | None = None
    """The process kills itself with SIGKILL that far in."""


class Script(_Strict, frozen=True, kw_only=True):
    replies: list[Reply] = []
    """The first that fits answers; without one, the last content part is echoed."""
    startup_delay_ms: float = 0.0
    adapter_load_ms: float = 0.0
    capabilities: tuple[Capability, ...] = DEFAULT_CAPABILITIES
    special_tokens: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    marks: tuple[str, ...] = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    """Added tokens that are not special: single tokens that stay in the text."""
    bos_token: str | None = None
    eos_token: str = "<|im_end|>"
    chat_templates: dict[str, str] = {}
