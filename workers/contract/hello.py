"""What a worker says of itself when a connection opens."""

from __future__ import annotations

from enum import StrEnum

from workers.contract.parts import MediaKind, Message

PROTOCOL_VERSION = 2


class Capability(StrEnum):
    """What an engine may or may not be able to honour; anything absent is refused by the plan."""

    LORA = "lora"
    SEED = "seed"
    LOGPROBS = "logprobs"
    PROMPT_LOGPROBS = "prompt_logprobs"
    LOGIT_BIAS = "logit_bias"
    MIN_P = "min_p"
    REPETITION_PENALTY = "repetition_penalty"
    MIN_TOKENS = "min_tokens"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    EBNF = "ebnf"
    STRUCTURAL_TAG = "structural_tag"
    EMBED = "embed"
    SCORE = "score"


class Hello(Message, tag=100, frozen=True):
    """Sent once by the worker when a connection opens: what it serves and can do."""

    protocol: int
    model: str
    engine: str
    """hf, vllm, sglang or scripted, and its version after a slash: `hf/5.23.0`."""
    max_model_len: int
    vocab_size: int
    capabilities: list[Capability]
    max_logprobs: int = 20
    max_loras: int = 0
    max_lora_rank: int = 0
    bos_token: str | None = None
    eos_token: str | None = None
    special_tokens: list[str] = []
    """All added tokens that act as control when met in control text."""
    chat_templates: dict[str, str] = {}
    """The model's own Jinja templates by name; `default` is the usual one."""
    template_difference: str | None = None
    """Where the chat format that the operator named differs from the model's own, in words."""
    generation: dict[str, float] = {}
    """Sampling defaults of the model's own `generation_config.json`, by `Sampling`'s names."""
    media: dict[MediaKind, str] = {}
    """The kinds of media that a prompt may hold, and what the model's own template writes for
    each."""
    compatibility: str | None = None
    """Why the engine runs this model in compatibility mode, one sequence at a time; None where it
    runs sequences together."""

    @property
    def warnings(self) -> list[str]:
        """What the operator should know of the model as it is served."""
        warnings = [] if self.template_difference is None else [self.template_difference]
        if self.compatibility is not None:
            warnings.append(
                "compatibility mode, one sequence at a time: the batched engine cannot run this "
                f"model, as {self.compatibility}"
            )
        return warnings
