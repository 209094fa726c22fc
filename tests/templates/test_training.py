"""Labels: what is trained on under every mask option."""

from __future__ import annotations

import pytest

from templates.conversation import Conversation, RenderOptions
from templates.format import FormatError
from templates.registry import open_format
from templates.tokenization import Encoder, describe_tokenizer
from templates.training import (
    IGNORED_LABEL,
    MaskOptions,
    encode_training,
    encode_training_many,
    fitted_lengths,
)
from tests.templates.conversations import says
from tests.templates.tokenizers_for_tests import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
INFO = describe_tokenizer(TOKENIZER, {})
ENCODER = Encoder(TOKENIZER)
EOS = TOKENIZER.eos_token_id
TURNS = Conversation(
    (says("user", "a"), says("assistant", "b"), says("user", "c"), says("assistant", "d"))
)
CHATML = open_format("chatml", INFO)
GLM = open_format("glm4", INFO)


def learned(labels: list[int]) -> str:
    return TOKENIZER.decode([label for label in labels if label != IGNORED_LABEL])


def test_answers_are_learned_and_prompts_are_not() -> None:
    [example] = encode_training(CHATML, ENCODER, TURNS)
    assert learned(example.labels) == "b<|im_end|>\nd<|im_end|>\n"
    pairs = zip(example.input_ids, example.labels, strict=True)
    assert all(label in (IGNORED_LABEL, token_id) for token_id, label in pairs)


def test_prompts_are_learned_on_request() -> None:
    [example] = encode_training(CHATML, ENCODER, TURNS, MaskOptions(train_on_prompt=True))
    assert example.labels == example.input_ids


@pytest.mark.parametrize("option", ["mask_history", "last_turn_only"])
def test_only_the_last_answer_is_learned(option: str) -> None:
    [example] = encode_training(CHATML, ENCODER, TURNS, MaskOptions(**{option: True}))
    assert learned(example.labels) == "d<|im_end|>\n"


def test_a_message_of_weight_zero_is_not_learned() -> None:
    asked, _, again, last = TURNS.messages
    messages = (asked, says("assistant", "b", weight=0), again, last)
    [example] = encode_training(CHATML, ENCODER, Conversation(messages))
    assert learned(example.labels) == "d<|im_end|>\n"


def test_implied_eos_closes_the_last_turn_and_labels_where_later_turns_begin() -> None:
    [example] = encode_training(GLM, ENCODER, TURNS)
    turns = GLM.render_training(TURNS)
    second = sum(len(ENCODER.encode(part)) for part in (turns[0].prompt, turns[0].response))
    assert example.input_ids[-1] == example.labels[-1] == EOS
    assert example.labels[second] == EOS
    assert example.input_ids[second] != EOS
    assert example.labels.count(EOS) == 2


def test_an_implied_eos_is_learned_with_the_answer_it_ends() -> None:
    asked, first, again, last = TURNS.messages
    [masked] = encode_training(GLM, ENCODER, TURNS, MaskOptions(mask_history=True))
    assert learned(masked.labels) == "\nd<|im_end|>"
    unwanted = Conversation((asked, says("assistant", "b", weight=0), again, last))
    assert encode_training(GLM, ENCODER, unwanted) == [masked]
    left = Conversation((asked, first, again, says("assistant", "d", weight=0)))
    [example] = encode_training(GLM, ENCODER, left)
    assert example.input_ids == masked.input_ids
    assert learned(example.labels) == "\nb<|im_end|>"


@pytest.mark.parametrize(("preserve", "thoughts"), [(None, 1), (True, 3)])
def test_context_of_the_last_answer_has_its_thoughts_only_on_request(
    preserve: bool | None, thoughts: int
) -> None:
    """The third turn's history has a thought and, where thoughts are kept, an empty one."""
    conversation = Conversation(
        (
            says("user", "a"),
            says("assistant", "b", reasoning="hm"),
            says("user", "c"),
            says("assistant", "d"),
            says("user", "e"),
            says("assistant", "f", reasoning="so"),
        ),
        options=RenderOptions(preserve_thinking=preserve),
    )
    qwen = open_format("qwen3", INFO)
    [example] = encode_training(qwen, ENCODER, conversation, MaskOptions(mask_history=True))
    assert TOKENIZER.decode(example.input_ids).count("</think>") == thoughts
    assert learned(example.labels) == "<think>\nso\n</think>\n\nf<|im_end|>\n"


def test_cut_examples_keep_the_first_turns_or_the_last_answer() -> None:
    whole = encode_training(CHATML, ENCODER, TURNS)[0]
    half = len(whole.input_ids) // 2
    [cut] = encode_training(CHATML, ENCODER, TURNS, MaskOptions(max_tokens=half))
    assert cut.input_ids == whole.input_ids[:half]
    [last] = encode_training(
        CHATML, ENCODER, TURNS, MaskOptions(max_tokens=half, mask_history=True)
    )
    assert last.input_ids == whole.input_ids[-half:]
    [tight] = encode_training(GLM, ENCODER, TURNS, MaskOptions(max_tokens=9))
    assert len(tight.input_ids) <= 9
    assert tight.input_ids[-1] == EOS


@pytest.mark.parametrize(
    ("prompt", "response", "space", "kept"),
    [
        (3000, 2000, 1000, (600, 400)),
        (2000, 3000, 1000, (400, 600)),
        (1000, 100, 1000, (900, 100)),
        (100, 1000, 1000, (100, 900)),
        (100, 500, 1000, (100, 500)),
        (500, 500, 1000, (500, 500)),
        (10, 10, 1000, (10, 10)),
    ],
)
def test_long_sides_are_cut_in_proportion_and_short_ones_kept(
    prompt: int, response: int, space: int, kept: tuple[int, int]
) -> None:
    assert fitted_lengths(prompt, response, space) == kept


def test_many_conversations_are_encoded_as_one_by_one() -> None:
    conversations = [TURNS, Conversation(TURNS.messages[:2]), TURNS]
    together = encode_training_many(CHATML, ENCODER, conversations)
    assert together == [encode_training(CHATML, ENCODER, c) for c in conversations]


def test_a_conversation_without_an_answer_is_refused() -> None:
    with pytest.raises(FormatError, match="must end with an assistant message"):
        encode_training(CHATML, ENCODER, Conversation(TURNS.messages[:3]))
