"""Pieces of an answer's JSON that chat and legacy completions share."""

from __future__ import annotations

import hashlib
import math
import random
import secrets
import string
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from server.usage import Tally
from workers.contract.hello import Hello
from workers.contract.messages import TokenAlternative, TokenLogprob

_ALPHABET = string.ascii_letters + string.digits
_LEAST_LOGPROB = -9999.0
"""Stands for a probability too small to tell, as at OpenAI; JSON has no infinity."""

to_json = msgspec.json.Encoder().encode


class AnswerId:
    """Id, time and names that every part of one answer carries."""

    __slots__ = ("created", "fingerprint", "id", "model")

    def __init__(self, prefix: str, model: str, hello: Hello) -> None:
        self.id = f"{prefix}{random.getrandbits(112):028x}"
        self.created = int(time.time())
        self.model = model
        self.fingerprint = _fingerprint(hello.engine, hello.model)


@lru_cache(maxsize=1024)
def _fingerprint(engine: str, model: str) -> str:
    """Names the weights and the engine: with the same one, a seed gives the same answer."""
    digest = hashlib.blake2b(f"{engine}\0{model}".encode(), digest_size=5)
    return "fp_" + digest.hexdigest()


def tool_call_id() -> str:
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


def finite(logprob: float) -> float:
    if math.isnan(logprob) or logprob < _LEAST_LOGPROB:
        return _LEAST_LOGPROB
    return logprob


def chat_logprobs(
    content: Sequence[TokenLogprob] | None, reasoning: Sequence[TokenLogprob] | None = None
) -> dict[str, Any]:
    """`reasoning` is a list of ours, absent where there is none."""
    listed: dict[str, Any] = {
        "content": None if content is None else list_logprobs(content),
        "refusal": None,
    }
    return listed if reasoning is None else {**listed, "reasoning": list_logprobs(reasoning)}


def list_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [
        {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}
        for token in tokens
    ]


def _entry(token: TokenLogprob | TokenAlternative) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.data)}


def usage_json(tally: Tally) -> bytes:
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":%d},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    ) % (
        tally.prompt_tokens,
        tally.completion_tokens,
        tally.prompt_tokens + tally.completion_tokens,
        tally.cached_tokens,
        tally.audio_tokens,
        tally.reasoning_tokens,
    )


def obfuscation(size: int) -> str:
    """Random characters that hide how long a chunk of `size` bytes is."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(-size % 32 + secrets.randbelow(8) + 1))
