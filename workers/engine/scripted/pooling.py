"""Made-up embeddings and scores: the same prompt always gives the same."""

from __future__ import annotations

import hashlib
import math
import struct

from workers.contract.parts import AdapterRef

DIMENSIONS = 8


class ScriptedPooling:
    def frame(self, prompt_ids: list[int]) -> list[int]:
        return prompt_ids

    async def embed(
        self, prompts: list[list[int]], dimensions: int | None, adapter: AdapterRef | None
    ) -> list[bytes]:
        name = adapter.name if adapter is not None else ""
        return [_vector(f"{name}{prompt}", dimensions or DIMENSIONS) for prompt in prompts]

    async def score(self, prompts: list[list[int]]) -> list[float]:
        return [float(len(prompt)) for prompt in prompts]


def _vector(text: str, size: int) -> bytes:
    raw = hashlib.shake_128(text.encode()).digest(size)
    values = [byte / 128 - 1 for byte in raw]
    length = math.hypot(*values) or 1.0
    return struct.pack(f"<{size}f", *(value / length for value in values))
