"""Training examples: token ids and labels of a conversation, in any chat format.

The ids of a prompt are those an engine gets, for both come from the same segments and encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from msgspec.structs import replace

from templates.conversation import Conversation, MediaPart, Role
from templates.format import ChatFormat, FormatError, TrainingTurn
from templates.tokenization import Encoder

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """`labels` are the ids to learn at each place, or `IGNORED_LABEL`."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """What is trained on."""

    train_on_prompt: bool = False
    mask_history: bool = False
    """Only the last answer counts. Earlier ones are its context, and keep their thoughts only where
    the conversation says so."""
    last_turn_only: bool = False
    """Only the last answer counts, in the very prompt it is served with."""
    max_tokens: int | None = None
    """Turns are cut to fit, each in the proportion of its prompt and answer."""


def encode_training(
    chat_format: ChatFormat,
    encoder: Encoder,
    conversation: Conversation,
    options: MaskOptions = MaskOptions(),
) -> list[TrainingExample]:
    """The conversation as examples: one, unless its format cannot hold all answers in one sequence
    as they are served; then one for each trained answer."""
    return encode_training_many(chat_format, encoder, [conversation], options)[0]


def encode_training_many(
    chat_format: ChatFormat,
    encoder: Encoder,
    conversations: Sequence[Conversation],
    options: MaskOptions = MaskOptions(),
) -> list[list[TrainingExample]]:
    """As `encode_training`, with one call into the tokenizer."""
    rendered = [_render(chat_format, conversation, options) for conversation in conversations]
    turns = [turn for examples in rendered for example in examples for turn in example]
    texts = [segments for turn in turns for segments in (turn.prompt, turn.response)]
    ids = iter(encoder.encode_many(texts))
    eos = _eos(chat_format, encoder)
    return [
        [
            _example([(next(ids), next(ids), turn.trained) for turn in example], eos, options)
            for example in examples
        ]
        for examples in rendered
    ]


def check_trainable(
    chat_format: ChatFormat, conversation: Conversation, options: MaskOptions = MaskOptions()
) -> None:
    """Raises FormatError for what could not be encoded, whatever the tokenizer."""
    if any(isinstance(part, MediaPart) for m in conversation.messages for part in m.parts):
        raise FormatError("images are not supported by this model", "messages")
    _render(chat_format, conversation, options)


def _render(
    chat_format: ChatFormat, conversation: Conversation, options: MaskOptions
) -> list[tuple[TrainingTurn, ...]]:
    if options.last_turn_only:
        return [chat_format.render_training(conversation, last_turn_only=True)]
    if options.mask_history and not conversation.options.preserve_thinking:
        with suppress(FormatError):
            return [chat_format.render_training(conversation, last_turn_only=True)]
    try:
        return [chat_format.render_training(conversation)]
    except FormatError:
        answers = [i for i, m in enumerate(conversation.messages) if m.role is Role.ASSISTANT]
        if len(answers) < 2:
            raise
    kept = answers[-1:] if options.mask_history else answers
    return [
        chat_format.render_training(
            replace(conversation, messages=conversation.messages[: index + 1]), last_turn_only=True
        )
        for index in kept
        if conversation.messages[index].weight != 0
    ]


def _eos(chat_format: ChatFormat, encoder: Encoder) -> int | None:
    if not chat_format.appends_eos:
        return None
    if encoder.eos_token_id is None:
        raise FormatError("This chat format ends answers by eos, which the tokenizer lacks.")
    return encoder.eos_token_id


Turn = tuple[list[int], list[int], bool]


def _example(turns: list[Turn], eos: int | None, options: MaskOptions) -> TrainingExample:
    """`eos`: ends the last answer and is the label where each later prompt begins, for the family
    whose turns end by the next one's beginning. It is learned with the answer that it ends."""
    turns = _fitted(turns, options, reserved=0 if eos is None else 1)
    input_ids: list[int] = []
    labels: list[int] = []
    counts = False
    for number, (prompt, response, trained) in enumerate(turns):
        ended = eos if counts else None
        counts = trained and not (options.mask_history and number < len(turns) - 1)
        input_ids += prompt
        input_ids += response
        if options.train_on_prompt:
            labels += prompt
        elif ended is not None and prompt:
            labels += [ended, *[IGNORED_LABEL] * (len(prompt) - 1)]
        else:
            labels += [IGNORED_LABEL] * len(prompt)
        labels += response if counts else [IGNORED_LABEL] * len(response)
    if eos is not None and turns:
        input_ids.append(eos)
        labels.append(eos if counts else IGNORED_LABEL)
    return TrainingExample(input_ids, labels)


def _fitted(turns: list[Turn], options: MaskOptions, reserved: int) -> list[Turn]:
    """Turns until the space is used up; the last turns first where only the last one counts."""
    if options.max_tokens is None:
        return turns
    backwards = options.mask_history or options.last_turn_only
    left = options.max_tokens - reserved
    kept: list[Turn] = []
    for prompt, response, trained in reversed(turns) if backwards else turns:
        if left <= 0:
            break
        prompt_length, response_length = fitted_lengths(len(prompt), len(response), left)
        kept.append((prompt[:prompt_length], response[:response_length], trained))
        left -= prompt_length + response_length
    return kept[::-1] if backwards else kept


def fitted_lengths(prompt: int, response: int, space: int) -> tuple[int, int]:
    """How much of a turn's prompt and answer is kept in `space` tokens: a short side is kept whole,
    two long ones are cut in proportion (LLaMA-Factory's rule for `cutoff_len`)."""
    if response * 2 < space:
        longest = space
    elif prompt * 2 < space:
        longest = space - prompt
    else:
        longest = int(space * (response / (prompt + response)))
    kept_response = min(longest, response)
    return min(max(space - kept_response, 0), prompt), kept_response
