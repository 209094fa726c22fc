"""`Idempotency-Key`: a repeat of a creation gets the first one's answer, not a second creation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from server.errors import Conflict, InvalidRequest
from server.store import Store
from server.store.records import Replay

_MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class IdempotentCall:
    """One request that carries a key; `fingerprint` tells whether another one is the same."""

    project_id: str
    route: str
    key: str
    fingerprint: str

    def answer_of(self, replay: Replay) -> bytes:
        """The kept answer. Raises Conflict if it was to another request."""
        if replay.body_hash != self.fingerprint:
            raise Conflict(
                "This Idempotency-Key was used with a different request in the last 24 hours.",
                code="idempotency_key_reused",
            )
        return replay.response.encode()

    async def earlier_answer(self, store: Store) -> bytes | None:
        replay = await store.replays.find(self.project_id, self.route, self.key)
        return None if replay is None else self.answer_of(replay)

    def keeping(self, answer: bytes) -> tuple[str, str, Replay]:
        """What the store's `create` methods keep beside what they create."""
        return self.route, self.key, Replay(self.fingerprint, answer.decode())


def idempotent_call(
    project_id: str, route: str, key: str | None, *content: str | bytes
) -> IdempotentCall | None:
    """None without a key. Raises InvalidRequest for a key that cannot be kept."""
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY_CHARS:
        raise InvalidRequest(
            f"Invalid 'Idempotency-Key': expected 1 to {_MAX_KEY_CHARS} characters.",
            code="invalid_value",
        )
    digest = hashlib.sha256()
    for part in content:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return IdempotentCall(project_id, route, key, digest.hexdigest())
