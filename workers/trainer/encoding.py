"""Rows to token ids and the tokens to learn, by the chat format and encoder that engines use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from transformers import AutoTokenizer

from templates.examples import (
    ChatExample,
    CompletionExample,
    Example,
    ExampleError,
    TextExample,
)
from templates.format import ChatFormat, FormatError, Segment
from templates.registry import open_format
from templates.tokenization import Encoder, MediaNotEncodedError, describe_tokenizer
from workers.contract.training import DataArguments, ModelArguments, Stage
from workers.trainer.dataset import EncodedExample
from workers.trainer.failures import InvalidHyperparameters, TrainerError

_log = logging.getLogger(__name__)


class RowEncoder:
    """Encodes the rows that `stage` takes. The chat format is opened at the first chat: a model
    without one still takes completions."""

    def __init__(
        self,
        encoder: Encoder,
        open_chat: Callable[[], ChatFormat],
        opening: list[int],
        stage: Stage,
        data: DataArguments,
    ) -> None:
        self._encoder = encoder
        self._open_chat = open_chat
        self._opening = opening
        self._stage = stage
        self._data = data

    def __call__(self, rows: Sequence[Example]) -> list[EncodedExample | ExampleError]:
        texts = [row.text for row in rows if isinstance(row, TextExample)]
        text_ids = iter(self._encode_texts(texts))
        return [
            self._text(next(text_ids)) if isinstance(row, TextExample) else self._turns(row)
            for row in rows
        ]

    def _turns(self, row: ChatExample | CompletionExample) -> EncodedExample | ExampleError:
        if self._stage is Stage.PT:
            return ExampleError('pretraining takes rows of the form {"text": ...}')
        if isinstance(row, CompletionExample):
            return self._completion(row)
        return self._conversation(row)

    def _text(self, ids: list[int]) -> EncodedExample | ExampleError:
        if self._stage is not Stage.PT:
            return ExampleError(
                "expected either prompt/completion pairs or chat messages, not plain text"
            )
        ids = [*self._opening, *ids, *self._closing()]
        return EncodedExample(ids, [True] * len(ids))

    def _completion(self, row: CompletionExample) -> EncodedExample:
        prompt, completion = self._encode_texts([row.prompt, row.completion])
        prompt = [*self._opening, *prompt]
        completion += self._closing()
        trained = [self._data.train_on_prompt] * len(prompt) + [True] * len(completion)
        return EncodedExample(prompt + completion, trained)

    def _conversation(self, row: ChatExample) -> EncodedExample | ExampleError:
        try:
            turns = self._chat.render_training(row.conversation)
            runs = [segments for turn in turns for segments in (turn.prompt, turn.response)]
            encoded = iter(self._encoder.encode_many(runs))
        except FormatError as error:
            return ExampleError(str(error))
        except MediaNotEncodedError as error:
            return ExampleError(str(error))
        last = max((at for at, turn in enumerate(turns) if turn.trained), default=-1)
        ids: list[int] = []
        trained: list[bool] = []
        for at, turn in enumerate(turns):
            prompt, response = next(encoded), next(encoded)
            learns = turn.trained and (at == last or not self._data.mask_history)
            ids += prompt + response
            trained += [self._data.train_on_prompt] * len(prompt) + [learns] * len(response)
        return EncodedExample(ids, trained)

    @cached_property
    def _chat(self) -> ChatFormat:
        return self._open_chat()

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        return self._encoder.encode_many([[Segment(text, control=False)] for text in texts])

    def _closing(self) -> list[int]:
        eos = self._encoder.eos_token_id
        return [] if eos is None else [eos]


def load_row_encoder(model: ModelArguments, stage: Stage, data: DataArguments) -> RowEncoder:
    """Raises TrainerError."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            model.model_name_or_path,
            trust_remote_code=model.trust_remote_code,
            local_files_only=True,
        )
        encoder = Encoder(tokenizer)
    except (OSError, ValueError, TypeError) as error:
        _log.error("cannot load the tokenizer: %s", error)
        raise TrainerError("The base model's tokenizer cannot be loaded.", "model") from error

    def open_chat() -> ChatFormat:
        try:
            return open_format(model.template, describe_tokenizer(tokenizer))
        except FormatError as error:
            raise InvalidHyperparameters(str(error), "template") from error

    return RowEncoder(encoder, open_chat, _opening(tokenizer), stage, data)


def _opening(tokenizer: Any) -> list[int]:
    """What the model's tokenizer puts before every text: the bos token, or nothing."""
    around = tokenizer("").input_ids
    return around[:1] if around and around[0] == tokenizer.bos_token_id else []
