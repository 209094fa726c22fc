"""What SGLang can and cannot honour, in process and attached alike."""

from __future__ import annotations

from workers.contract.hello import Capability

MAX_LOGPROBS = 20
RESERVED_TOKENS = 8
"""SGLang's scheduler takes no prompt that leaves less than this of the context or of its memory."""

_DEPENDS = {Capability.LORA, Capability.SEED}
"""On how the engine was started: added where it can."""
_NEVER = {
    Capability.EMBED,
    Capability.SCORE,
    # SGLang's penalty looks at the output only, Hugging Face's and vLLM's at the prompt too.
    Capability.REPETITION_PENALTY,
}
CAPABILITIES = frozenset(Capability) - _DEPENDS - _NEVER
