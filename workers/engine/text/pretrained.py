"""The vocabulary of a Hugging Face model directory, for every backend that serves one.

Exact bytes of each token: byte-level BPE spells bytes as the printable characters of GPT-2's table
(https://github.com/openai/gpt-2/blob/master/src/encoder.py, `bytes_to_unicode`); SentencePiece
spells the space as U+2581 and single bytes as `<0xE2>`. Tokenizers with another decoder are refused
at start, because their tokens cannot be joined one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from templates.tokenization import Encoder, describe_tokenizer
from workers.contract.parts import PromptPart
from workers.engine.spec import SpecError
from workers.engine.text.vocabulary import TokenNames

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_BORDER = "\u2581"
_PROBE_WORD = "a"


@dataclass(slots=True)
class PretrainedNames:
    bos_token: str | None
    eos_token: str | None
    special_tokens: list[str]
    chat_templates: dict[str, str]

    @classmethod
    def of(cls, tokenizer: Any) -> PretrainedNames:
        info = describe_tokenizer(tokenizer)
        words = sorted(info.special_tokens)
        return cls(info.bos_token, info.eos_token, words, info.chat_templates)


class PretrainedVocabulary:
    def __init__(
        self, tokenizer: Any, size: int, eos_ids: Iterable[int], *, spells_output: bool = True
    ) -> None:
        """`spells_output` False is for models that only read: any tokenizer will do."""
        self._tokenizer = tokenizer
        self._size = size
        self._eos_ids = frozenset(i for i in eos_ids if 0 <= i < size)
        self._encoder = Encoder(tokenizer)
        self._names = PretrainedNames.of(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        self._added = {
            token_id: token.content
            for token_id, token in self._backend.get_added_tokens_decoder().items()
        }
        self._special_ids = frozenset(
            token_id
            for token_id, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        )
        decoder = json.loads(self._backend.to_str()).get("decoder")
        self._is_byte_level = _spells_bytes(decoder) if spells_output else False
        self._pieces: list[bytes | None] = [None] * size

    @property
    def size(self) -> int:
        return self._size

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._eos_ids

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special_ids

    @property
    def names(self) -> TokenNames:
        return self._names

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, for grammars."""
        return self._tokenizer

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text ([CLS] and [SEP], an end mark)."""
        bare = self._tokenizer.encode(_PROBE_WORD, add_special_tokens=False)
        whole = self._tokenizer.encode(_PROBE_WORD)
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []

    def piece(self, token_id: int) -> bytes:
        piece = self._pieces[token_id]
        if piece is None:
            piece = self._pieces[token_id] = self._spell(token_id)
        return piece

    def token_id(self, text: str) -> int | None:
        return next((i for i, content in self._added.items() if content == text), None)

    def encode(self, prompt: Sequence[PromptPart]) -> list[int]:
        return self._encoder.encode(prompt)

    def _spell(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            return added.encode()
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._is_byte_level:
            return b"".join(
                bytes([byte]) if (byte := _BYTE_OF.get(char)) is not None else char.encode()
                for char in token
            )
        match = _BYTE_TOKEN.fullmatch(token)
        if match is not None:
            return bytes.fromhex(match[1])
        return token.replace(_WORD_BORDER, " ").encode()


def load_vocabulary(
    model_path: str | Path, *, trust_remote_code: bool = False, spells_output: bool = True
) -> PretrainedVocabulary:
    """Raises SpecError."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=trust_remote_code)
        text_config = config.get_text_config()
        eos_ids = {*_ids(getattr(text_config, "eos_token_id", None)), *_ids(tokenizer.eos_token_id)}
        eos_ids |= set(_generation_eos(Path(model_path)))
        return PretrainedVocabulary(
            tokenizer, text_config.vocab_size, eos_ids, spells_output=spells_output
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SpecError(f"the model's config or tokenizer cannot be used: {error}") from error


def _generation_eos(model_path: Path) -> Iterator[int]:
    file = model_path / "generation_config.json"
    if file.is_file():
        yield from _ids(json.loads(file.read_bytes()).get("eos_token_id"))


def _ids(value: int | list[int] | None) -> list[int]:
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)


def _spells_bytes(decoder: dict[str, Any] | None) -> bool:
    """True for byte-level, False for SentencePiece. Raises ValueError for others."""
    kinds = {part["type"] for part in _flatten(decoder)}
    if "ByteLevel" in kinds:
        return True
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return False
    raise ValueError(f"tokenizer decoder {sorted(kinds) or None} is not supported")


def _flatten(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _flatten(part)
    else:
        yield decoder


def _byte_characters() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_characters()
