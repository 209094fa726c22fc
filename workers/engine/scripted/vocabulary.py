"""The scripted engine's tokens: words with the space before them, numbered as they are met.

An id says whether it came from control or content text (even or odd), so that the engine can tell
the user's words from the chat format's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.contract.parts import PromptPart, Tokens

_SIZE = 1 << 20
_WORD = re.compile(r"\s*\S+|\s+")


@dataclass(frozen=True, slots=True)
class ScriptedNames:
    bos_token: str | None
    eos_token: str | None
    special_tokens: list[str]
    chat_templates: dict[str, str] = field(default_factory=dict[str, str])


class ScriptedVocabulary:
    def __init__(
        self, names: ScriptedNames, special_tokens: Sequence[str], marks: Sequence[str]
    ) -> None:
        self._names = names
        self._pieces: list[bytes] = []
        self._indexes: dict[bytes, int] = {}
        added = [*special_tokens, *marks]
        self._special = frozenset(self._number(text) for text in special_tokens)
        self._added = {text: self._number(text) for text in added}
        by_length = sorted(added, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, by_length))})") if added else None
        self._eos = frozenset(
            self._added[text] for text in [names.eos_token] if text in self._added
        )

    @property
    def size(self) -> int:
        return _SIZE

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._eos

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special

    @property
    def names(self) -> ScriptedNames:
        return self._names

    def piece(self, token_id: int) -> bytes:
        index = token_id >> 1
        return self._pieces[index] if index < len(self._pieces) else b""

    def token_id(self, text: str) -> int | None:
        return self._added.get(text)

    def encode(self, prompt: Sequence[PromptPart]) -> list[int]:
        ids: list[int] = []
        for part in prompt:
            if isinstance(part, Tokens):
                ids += part.ids
            elif part.whole:
                ids += self.control_ids(f"{self._names.bos_token or ''}{part.text}")
            elif part.control:
                ids += self.control_ids(part.text)
            else:
                ids += [self._number(word) + 1 for word in _WORD.findall(part.text)]
        return ids

    def control_ids(self, text: str) -> list[int]:
        """Ids of text in which added tokens are recognised."""
        ids: list[int] = []
        for stretch in self._split.split(text) if self._split else [text]:
            if stretch in self._added:
                ids.append(self._added[stretch])
            else:
                ids += [self._number(word) for word in _WORD.findall(stretch)]
        return ids

    def output_id(self, text: str) -> int:
        return self._number(text)

    def content(self, ids: Sequence[int]) -> bytes:
        """The last run of content in a prompt; all of it if it holds none."""
        end = next((i for i in range(len(ids), 0, -1) if ids[i - 1] & 1), 0)
        start = end
        while start and ids[start - 1] & 1:
            start -= 1
        return b"".join(map(self.piece, ids[start:end] if end else ids))

    def _number(self, text: str) -> int:
        data = text.encode()
        index = self._indexes.get(data)
        if index is None:
            if len(self._pieces) >= _SIZE // 2:
                self._forget()
            index = self._indexes[data] = len(self._pieces)
            self._pieces.append(data)
        return index * 2

    def _forget(self) -> None:
        """Full after half a million different words: starts over behind the added tokens."""
        kept = self._pieces[: len(self._added)]
        self._pieces = kept
        self._indexes = {data: index for index, data in enumerate(kept)}
