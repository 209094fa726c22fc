"""Rows to token ids and labels, by the chat format and encoder that engines use.

Examples longer than the cutoff are cut at their end, where they are context for nothing. Only
where the last answer alone counts are its own turns kept instead, and plain text, any part of
which is as good as the first, is split into pieces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from templates.conversation import Conversation
from templates.example_fields import ExampleError
from templates.examples import ChatExample, CompletionExample, Example, TextExample
from templates.format import ChatFormat, FormatError, FormatSettings, Segment
from templates.registry import open_format
from templates.tokenization import Encoder, MediaNotEncodedError, describe_tokenizer
from templates.training import (
    MaskOptions,
    TrainingExample,
    encode_training,
    encode_training_many,
)
from workers.contract.training import ModelArguments, Stage, TrainSpec
from workers.trainer.dataset import IGNORED, EncodedExample, EncodedRow
from workers.trainer.failures import InvalidHyperparameters, TrainerError

_log = logging.getLogger(__name__)


class RowEncoder:
    """Encodes the rows that `stage` takes. The chat format is opened at the first chat: a model
    without one still takes completions."""

    def __init__(
        self,
        encoder: Encoder,
        open_chat: Callable[[], ChatFormat],
        *,
        opening: list[int],
        stage: Stage,
        masks: MaskOptions,
        cutoff_len: int,
    ) -> None:
        self._encoder = encoder
        self._open_chat = open_chat
        self._opening = opening
        self._closing = [] if encoder.eos_token_id is None else [encoder.eos_token_id]
        self._stage = stage
        self._masks = masks
        self._cutoff_len = cutoff_len

    def __call__(self, rows: Sequence[Example]) -> list[EncodedRow]:
        """Rows are of the stage: the reader has refused others."""
        if self._stage is Stage.PT:
            return self._texts([row.text for row in rows if isinstance(row, TextExample)])
        chats = iter(self._chats([row for row in rows if isinstance(row, ChatExample)]))
        return [
            [self._completion(row)] if isinstance(row, CompletionExample) else next(chats)
            for row in rows
        ]

    # --- text -------------------------------------------------------------------------------------

    def _texts(self, texts: Sequence[str]) -> list[EncodedRow]:
        return [self._pieces(ids) for ids in self._encode_plain(texts)]

    def _pieces(self, text: list[int]) -> list[EncodedExample]:
        ids = [*self._opening, *text, *self._closing]
        pieces = [ids[at : at + self._cutoff_len] for at in range(0, len(ids), self._cutoff_len)]
        return [EncodedExample(piece, piece) for piece in pieces]

    def _completion(self, row: CompletionExample) -> EncodedExample:
        """The prompt has the ids that an engine gives the text of a legacy completion."""
        prompt, completion = self._encode_plain([row.prompt, row.completion])
        prompt = [*self._opening, *prompt]
        completion = [*completion, *self._closing]
        context = prompt if self._masks.train_on_prompt else [IGNORED] * len(prompt)
        return self._cut(prompt + completion, context + completion)

    def _encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.encode_many([[Segment(text, control=False)] for text in texts])

    # --- chats ------------------------------------------------------------------------------------

    @cached_property
    def _chat(self) -> ChatFormat:
        return self._open_chat()

    def _chats(self, rows: Sequence[ChatExample]) -> list[EncodedRow]:
        if not rows:
            return []
        conversations = [row.conversation for row in rows]
        try:
            encoded = encode_training_many(self._chat, self._encoder, conversations, self._masks)
        except (FormatError, MediaNotEncodedError):
            return [self._conversation(conversation) for conversation in conversations]
        return [
            self._fitted(conversation, examples)
            for conversation, examples in zip(conversations, encoded, strict=True)
        ]

    def _conversation(self, conversation: Conversation) -> EncodedRow:
        try:
            examples = encode_training(self._chat, self._encoder, conversation, self._masks)
        except (FormatError, MediaNotEncodedError) as error:
            return ExampleError(str(error))
        return self._fitted(conversation, examples)

    def _fitted(
        self, conversation: Conversation, examples: list[TrainingExample]
    ) -> list[EncodedExample]:
        is_long = any(len(example.input_ids) > self._cutoff_len for example in examples)
        if is_long and self._masks.mask_history:
            masks = replace(self._masks, max_tokens=self._cutoff_len)
            examples = encode_training(self._chat, self._encoder, conversation, masks)
            return [EncodedExample(e.input_ids, e.labels, is_truncated=True) for e in examples]
        return [self._cut(example.input_ids, example.labels) for example in examples]

    def _cut(self, ids: list[int], labels: list[int]) -> EncodedExample:
        end = self._cutoff_len
        return EncodedExample(ids[:end], labels[:end], is_truncated=len(ids) > end)


def load_row_encoder(spec: TrainSpec, cutoff_len: int) -> RowEncoder:
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
        opening=_opening(tokenizer),
        stage=spec.finetuning.stage,
        masks=MaskOptions(
            train_on_prompt=spec.data.train_on_prompt, mask_history=spec.data.mask_history
        ),
        cutoff_len=cutoff_len,
    )


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
