"""Rows to token ids and labels, by the chat format and encoder that engines use.

Examples longer than the cutoff are cut at their end, where they are context for nothing. Only
where the last answer alone counts are its own turns kept instead, and plain text, any part of
which is as good as the first, is split into pieces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from transformers import AutoTokenizer

from templates.conversation import Conversation
from templates.example_fields import ExampleError
from templates.examples import CompletionExample
from templates.format import ChatFormat, FormatError, FormatSettings, Segment
from templates.registry import open_format
from templates.tokenization import Encoder, MediaNotEncodedError, describe_tokenizer
from templates.training import (
    MaskOptions,
    TrainingExample,
    encode_training,
    encode_training_many,
)
from workers.contract.parameters import ModelArguments
from workers.contract.training import TrainSpec
from workers.trainer.dataset import IGNORED, EncodedSequence
from workers.trainer.failures import InvalidHyperparameters, TrainerError

_log = logging.getLogger(__name__)


EncodedText = list[EncodedSequence] | ExampleError
"""The sequences of a conversation or a text, or what is wrong with it."""


class RowEncoder:
    """Encodes conversations, completions and plain texts, each cut to a number of tokens. The chat
    format is opened at the first chat: a model without one still takes completions."""

    def __init__(
        self,
        encoder: Encoder,
        open_chat: Callable[[], ChatFormat],
        *,
        tokenizer: Any,
        masks: MaskOptions,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._open_chat = open_chat
        self._opening = _opening(tokenizer)
        self._closing = [] if encoder.eos_token_id is None else [encoder.eos_token_id]
        self._masks = masks

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the tokenizer's, and the chat format's where it has one."""
        ids = [self._closing]
        with suppress(InvalidHyperparameters):
            words = [[Segment(word, control=True)] for word in self._chat.stop_words]
            ids += self._encoder.encode_many(words) if words else []
        return frozenset(each[0] for each in ids if len(each) == 1)

    def decode(self, ids: Sequence[int]) -> str:
        """With control tokens as they are written."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def texts(self, texts: Sequence[str], cutoff_len: int) -> list[list[EncodedSequence]]:
        """Each in pieces of the cutoff, all of which is learned."""
        return [self._pieces(ids, cutoff_len) for ids in self._encode_plain(texts)]

    def completion(self, row: CompletionExample, cutoff_len: int) -> EncodedSequence:
        """The prompt has the ids that an engine gives the text of a legacy completion."""
        prompt, completion = self._encode_plain([row.prompt, row.completion])
        prompt = [*self._opening, *prompt]
        completion = [*completion, *self._closing]
        context = prompt if self._masks.train_on_prompt else [IGNORED] * len(prompt)
        return _cut(prompt + completion, context + completion, cutoff_len)

    def chats(self, conversations: Sequence[Conversation], cutoff_len: int) -> list[EncodedText]:
        """Many at once, which is faster; the error of one does not hold up the others."""
        if not conversations:
            return []
        try:
            encoded = encode_training_many(self._chat, self._encoder, conversations, self._masks)
        except (FormatError, MediaNotEncodedError):
            return [self._conversation(each, cutoff_len) for each in conversations]
        return [
            self._fitted(conversation, examples, cutoff_len)
            for conversation, examples in zip(conversations, encoded, strict=True)
        ]

    def _pieces(self, text: list[int], cutoff_len: int) -> list[EncodedSequence]:
        ids = [*self._opening, *text, *self._closing]
        pieces = [ids[at : at + cutoff_len] for at in range(0, len(ids), cutoff_len)]
        return [EncodedSequence(piece, piece) for piece in pieces]

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.encode_many([[Segment(text, control=False)] for text in texts])

    @cached_property
    def _chat(self) -> ChatFormat:
        return self._open_chat()

    def _conversation(self, conversation: Conversation, cutoff_len: int) -> EncodedText:
        try:
            examples = encode_training(self._chat, self._encoder, conversation, self._masks)
        except (FormatError, MediaNotEncodedError) as error:
            return ExampleError(str(error))
        return self._fitted(conversation, examples, cutoff_len)

    def _fitted(
        self, conversation: Conversation, examples: list[TrainingExample], cutoff_len: int
    ) -> list[EncodedSequence]:
        is_long = any(len(example.input_ids) > cutoff_len for example in examples)
        if is_long and self._masks.mask_history:
            masks = replace(self._masks, max_tokens=cutoff_len)
            examples = encode_training(self._chat, self._encoder, conversation, masks)
            return [EncodedSequence(e.input_ids, e.labels, is_truncated=True) for e in examples]
        return [_cut(example.input_ids, example.labels, cutoff_len) for example in examples]


def _cut(ids: list[int], labels: list[int], end: int) -> EncodedSequence:
    return EncodedSequence(ids[:end], labels[:end], is_truncated=len(ids) > end)


def load_row_encoder(spec: TrainSpec, *, last_turn_only: bool = False) -> RowEncoder:
    """Raises TrainerError."""
    model = spec.model
    tokenizer = _load_tokenizer(model)

    def open_chat() -> ChatFormat:
        try:
            return open_format(
                model.template,
                describe_tokenizer(tokenizer),
                tuple(map(Path, model.template_folders)),
                FormatSettings(model.default_system, model.tool_format),
            )
        except FormatError as error:
            raise InvalidHyperparameters(str(error), "template") from error

    return RowEncoder(
        Encoder(tokenizer),
        open_chat,
        tokenizer=tokenizer,
        masks=MaskOptions(
            train_on_prompt=spec.data.train_on_prompt,
            mask_history=spec.data.mask_history,
            last_turn_only=last_turn_only,
        ),
    )


def same_tokens(model: ModelArguments, folder: Path) -> bool:
    """Whether the ids of the model in `folder` are the same. Raises TrainerError."""
    if folder == Path(model.model_name_or_path):
        return True
    other = _load_tokenizer(msgspec.structs.replace(model, model_name_or_path=str(folder)))
    return _load_tokenizer(model).get_vocab() == other.get_vocab()


def _load_tokenizer(model: ModelArguments) -> Any:
    try:
        return AutoTokenizer.from_pretrained(
            model.model_name_or_path,
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        _log.error("cannot load the tokenizer: %s", error)
        raise TrainerError("The base model's tokenizer cannot be loaded.", "model") from error


def _opening(tokenizer: Any) -> list[int]:
    """What the model's tokenizer puts before every text: the bos token, or nothing."""
    around = tokenizer("").input_ids
    return around[:1] if around and around[0] == tokenizer.bos_token_id else []
