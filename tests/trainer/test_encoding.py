"""Rows to ids and labels: equal to what an engine is given, and masked as asked."""

from __future__ import annotations

import json
from typing import Any

from transformers import AutoTokenizer

from templates.conversation import Conversation
from templates.example_fields import ExampleError
from templates.examples import ChatExample, CompletionExample, read_example
from templates.registry import open_format
from templates.tokenization import Encoder, describe_tokenizer
from tests.trainer.conftest import Workspace, chat, train
from workers.contract.training import Completed, TrainFailed
from workers.trainer.dataset import IGNORED, EncodedSequence
from workers.trainer.encoding import RowEncoder, load_row_encoder

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
TURNS: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello <|im_end|> there"},
        {"role": "assistant", "content": "Hi.", "weight": 0},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Still hi."},
    ]
}


def encoder_of(workspace: Workspace, **data: Any) -> RowEncoder:
    return load_row_encoder(workspace.spec(data=data))


def encode(encoder: RowEncoder, row: dict[str, Any], cutoff_len: int = 512) -> EncodedSequence:
    example = read_example(json.dumps(row))
    if isinstance(example, CompletionExample):
        return encoder.completion(example, cutoff_len)
    assert isinstance(example, ChatExample)
    (encoded,) = encoder.chats([example.conversation], cutoff_len)
    assert not isinstance(encoded, ExampleError), encoded
    (sequence,) = encoded
    return sequence


def learned(workspace: Workspace, example: EncodedSequence) -> str:
    tokenizer = AutoTokenizer.from_pretrained(workspace.base)
    return tokenizer.decode([label for label in example.labels if label != IGNORED])


def test_prompt_ids_are_those_of_generation(workspace: Workspace) -> None:
    example = encode(encoder_of(workspace), TURNS)
    tokenizer = AutoTokenizer.from_pretrained(workspace.base)
    chat_format = open_format(None, describe_tokenizer(tokenizer))
    row = read_example(json.dumps(TURNS))
    assert isinstance(row, ChatExample)
    engine = Encoder(tokenizer)
    for num_context in (2, 4):
        context = Conversation(row.conversation.messages[:num_context])
        prompt = engine.encode(chat_format.render(context).segments)
        assert list(example.ids[: len(prompt)]) == prompt
        assert example.labels[len(prompt) - 1] == IGNORED


def test_an_operators_template_and_system_message_are_trained_as_served(
    workspace: Workspace,
) -> None:
    folder = workspace.folder / "formats"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        'mine:\n  system: "[{{content}}]"\n  user: "Q{{content}}A"\n  assistant: "{{content}};"\n'
    )
    spec = workspace.spec(
        model={
            "template": "mine",
            "template_folders": [str(folder)],
            "default_system": "Be a pirate.",
        }
    )
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Arr"}]
    example = encode(load_row_encoder(spec), {"messages": messages})
    shown = AutoTokenizer.from_pretrained(workspace.base).decode(example.ids)
    assert shown.startswith("[Be a pirate.]QHiAArr;")


def test_only_answers_of_weight_1_are_learned(workspace: Workspace) -> None:
    assert learned(workspace, encode(encoder_of(workspace), TURNS)).strip() == (
        "Still hi.<|im_end|>"
    )


def test_every_answer_is_learned_without_weights(workspace: Workspace) -> None:
    row = {
        "messages": [{**m, **({"weight": 1} if "weight" in m else {})} for m in TURNS["messages"]]
    }
    text = learned(workspace, encode(encoder_of(workspace), row))
    assert text.replace("\n", "") == "Hi.<|im_end|>Still hi.<|im_end|>"
    masked = learned(workspace, encode(encoder_of(workspace, mask_history=True), row))
    assert masked.strip() == "Still hi.<|im_end|>"


def test_train_on_prompt_learns_everything(workspace: Workspace) -> None:
    example = encode(encoder_of(workspace, train_on_prompt=True), chat("Hello", "Hi"))
    assert list(example.labels) == list(example.ids)


def test_completions_are_plain_text_that_ends(workspace: Workspace) -> None:
    example = encode(encoder_of(workspace), {"prompt": "one <|im_end|>", "completion": " two"})
    assert learned(workspace, example) == " two<|im_end|>"
    assert 258 not in example.ids[:-1]


def test_long_examples_are_cut_at_the_end(workspace: Workspace) -> None:
    whole = encode(encoder_of(workspace), chat("Hello", "Hi " * 30))
    cut = encode(encoder_of(workspace), chat("Hello", "Hi " * 30), cutoff_len=60)
    assert not whole.is_truncated
    assert cut.is_truncated
    assert list(cut.ids) == list(whole.ids[:60])


def test_long_text_is_split_and_nothing_is_lost(workspace: Workspace) -> None:
    (pieces,) = encoder_of(workspace).texts(["abc" * 20], 16)
    assert [len(piece.ids) for piece in pieces] == [16, 16, 16, 13]
    ids = [token for piece in pieces for token in piece.ids]
    assert AutoTokenizer.from_pretrained(workspace.base).decode(ids) == "abc" * 20 + "<|im_end|>"


def test_rows_of_another_stage_are_refused(workspace: Workspace) -> None:
    row = {"prompt": "a", "completion": "b"}
    failed = train(workspace.spec([row] * 3, finetuning={"stage": "pt"}))[-1]
    assert isinstance(failed, TrainFailed)
    assert failed.code == "invalid_training_file"
    assert "pretraining" in failed.message


def test_plain_text_is_a_completion_of_nothing(workspace: Workspace) -> None:
    assert isinstance(train(workspace.spec([{"text": "abc"}] * 3))[-1], Completed)
