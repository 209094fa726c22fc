"""Rows of every shape, and the conversation that comes of each."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from templates.conversation import ChatMessage, Conversation, Role, TextPart, Tool, ToolCall
from templates.dataset_format import (
    ALPACA_COLUMNS,
    Columns,
    DatasetFormat,
    Formatting,
    Tags,
)
from templates.dataset_rows import canonical_row
from templates.dataset_shapes import recognise
from templates.example_fields import ExampleError
from templates.example_lines import ExampleFileError
from templates.examples import ChatExample, CompletionExample, TextExample, read_example
from templates.labelled import read_labelled
from templates.preferences import read_preference

Row = dict[str, Any]


def say(role: Role, text: str, **more: Any) -> ChatMessage:
    return ChatMessage(role, (TextPart(text),), **more)


SYSTEM = say(Role.SYSTEM, "Be brief.")
ASKED = say(Role.USER, "Hi")
ANSWERED = say(Role.ASSISTANT, "Hello")
MORE = say(Role.USER, "And?")
FINAL = say(Role.ASSISTANT, "Bye")
ALPACA = {"instruction": "Hi", "input": "", "output": "Hello"}
HUMAN = {"from": "human", "value": "Hi"}
GPT = {"from": "gpt", "value": "Hello"}
FUNCTION = {"name": "f", "description": "Does it.", "parameters": {"type": "object"}}
TOOLS = (Tool("f", "Does it.", {"type": "object"}),)
CALLED = ChatMessage(Role.ASSISTANT, tool_calls=(ToolCall("f", '{"a": 1}', "call00001"),))
RESULT = say(Role.TOOL, "42", tool_call_id="call00001")
CALL_TURNS = [
    HUMAN,
    {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
    {"from": "observation", "value": "42"},
    GPT,
]
CALLING = Conversation((ASKED, CALLED, RESULT, ANSWERED), TOOLS)

CHATS: dict[str, tuple[Row, Conversation]] = {
    "alpaca": (ALPACA, Conversation((ASKED, ANSWERED))),
    "alpaca with an input": (
        {**ALPACA, "input": "you"},
        Conversation((say(Role.USER, "Hi\nyou"), ANSWERED)),
    ),
    "alpaca with an input alone": (
        {**ALPACA, "instruction": "", "input": "Hi"},
        Conversation((ASKED, ANSWERED)),
    ),
    "alpaca with system and history": (
        {
            "instruction": "And?",
            "output": "Bye",
            "system": "Be brief.",
            "history": [["Hi", "Hello"]],
        },
        Conversation((SYSTEM, ASKED, ANSWERED, MORE, FINAL)),
    ),
    "alpaca with nulls": (
        {**ALPACA, "input": None, "system": None, "history": []},
        Conversation((ASKED, ANSWERED)),
    ),
    "sharegpt": ({"conversations": [HUMAN, GPT]}, Conversation((ASKED, ANSWERED))),
    "sharegpt's system column": (
        {"conversations": [HUMAN, GPT], "system": "Be brief."},
        Conversation((SYSTEM, ASKED, ANSWERED)),
    ),
    "sharegpt's system message first": (
        {"conversations": [{"from": "system", "value": "Be brief."}, HUMAN, GPT], "system": "No."},
        Conversation((SYSTEM, ASKED, ANSWERED)),
    ),
    "sharegpt with tools as text": (
        {"conversations": CALL_TURNS, "tools": json.dumps([FUNCTION])},
        CALLING,
    ),
    "sharegpt with an empty text for tools": (
        {"conversations": [HUMAN, GPT], "tools": ""},
        Conversation((ASKED, ANSWERED)),
    ),
    "sharegpt's call last": (
        {"conversations": CALL_TURNS[:2], "tools": [FUNCTION]},
        Conversation((ASKED, CALLED), TOOLS),
    ),
    "sharegpt's tool tag": (
        {
            "conversations": [*CALL_TURNS[:2], {"from": "tool", "value": "42"}, GPT],
            "tools": [FUNCTION],
        },
        CALLING,
    ),
    "two calls and one observation": (
        {
            "conversations": [
                HUMAN,
                {
                    "from": "function_call",
                    "value": '[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]',
                },
                {"from": "observation", "value": "42"},
                GPT,
            ],
            "tools": [FUNCTION],
        },
        Conversation(
            (
                ASKED,
                ChatMessage(Role.ASSISTANT, tool_calls=(ToolCall("f", "{}"), ToolCall("f", "{}"))),
                say(Role.TOOL, "42", name="f"),
                ANSWERED,
            ),
            TOOLS,
        ),
    ),
    "conversations with roles": (
        {
            "conversations": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
            ]
        },
        Conversation((ASKED, ANSWERED)),
    ),
    "messages with from and value": (
        {"messages": [HUMAN, GPT]},
        Conversation((ASKED, ANSWERED)),
    ),
    "messages as the text of a table": (
        {
            "messages": json.dumps(
                [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
            )
        },
        Conversation((ASKED, ANSWERED)),
    ),
    "conversations as the text of a table": (
        {"conversations": json.dumps([HUMAN, GPT])},
        Conversation((ASKED, ANSWERED)),
    ),
    "Hugging Face's calls": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
                    ],
                },
                {"role": "tool", "name": "f", "content": "42"},
                {"role": "assistant", "content": "Hello"},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
        },
        Conversation(
            (ASKED, CALLED, say(Role.TOOL, "42", tool_call_id="call00001", name="f"), ANSWERED),
            TOOLS,
        ),
    ),
    "calls without a wrapper": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1}}]},
                {"role": "tool", "content": "42"},
                {"role": "assistant", "content": "Hello"},
            ],
            "tools": [FUNCTION],
        },
        CALLING,
    ),
    "LLaMA-Factory's parts and weights": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Hi"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [{"type": "text", "value": "Hello"}],
                    "loss_weight": 1.0,
                },
            ]
        },
        Conversation((ASKED, say(Role.ASSISTANT, "Hello", weight=1))),
    ),
}


def turned(row: Row) -> Row:
    """As a file's rows are: by the shape of the first."""
    dataset = recognise([(1, row)])
    return row if dataset is None else canonical_row(row, dataset)


@pytest.mark.parametrize("kind", CHATS)
def test_a_row_becomes_its_conversation(kind: str) -> None:
    row, expected = CHATS[kind]
    assert read_example(json.dumps(turned(row))) == ChatExample(expected)


ANSWERS = {
    "texts": ({"chosen": "Hello", "rejected": "No"}),
    "messages": ({"chosen": GPT, "rejected": {"from": "gpt", "value": "No"}}),
    "lists of messages": ({"chosen": [GPT], "rejected": [{"from": "gpt", "value": "No"}]}),
}
OPENAI_TURNS = [{"role": "user", "content": "Hi"}]
OPENAI_ANSWERS = {
    "chosen": [{"role": "assistant", "content": "Hello"}],
    "rejected": [{"role": "assistant", "content": "No"}],
}
PAIRS: dict[str, Row] = {
    "alpaca": {"instruction": "Hi", "input": "", **ANSWERS["texts"]},
    "sharegpt": {"conversations": [HUMAN], **ANSWERS["messages"]},
    "sharegpt in lists": {"conversations": [HUMAN], **ANSWERS["lists of messages"]},
    "messages": {"messages": OPENAI_TURNS, **OPENAI_ANSWERS},
    "prompt": {"prompt": "Hi", **ANSWERS["texts"]},
    "messages in prompt": {"prompt": OPENAI_TURNS, **OPENAI_ANSWERS},
    "the prompt in both": {key: [*OPENAI_TURNS, *answer] for key, answer in OPENAI_ANSWERS.items()},
    "OpenAI": {
        "input": {"messages": OPENAI_TURNS},
        "preferred_output": OPENAI_ANSWERS["chosen"],
        "non_preferred_output": OPENAI_ANSWERS["rejected"],
    },
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_row_becomes_a_preference(kind: str) -> None:
    example = read_preference(json.dumps(turned(PAIRS[kind])))
    assert example.chosen == Conversation((ASKED, ANSWERED))
    assert example.rejected == Conversation((ASKED, say(Role.ASSISTANT, "No")))


LABELLED: dict[str, Row] = {
    "alpaca": {**ALPACA, "kto_tag": True},
    "alpaca's label": {**ALPACA, "label": True},
    "sharegpt": {"conversations": [HUMAN, GPT], "label": True},
    "messages": {
        "messages": [*OPENAI_TURNS, *OPENAI_ANSWERS["chosen"]],
        "kto_tag": True,
    },
    "completion": {"prompt": "Hi", "completion": "Hello", "label": True},
    "table": {"prompt": "Hi", "completion": "Hello", "label": "True"},
}


@pytest.mark.parametrize("kind", LABELLED)
def test_a_verdict_becomes_a_label(kind: str) -> None:
    row = LABELLED[kind]
    label = "kto_tag" if "kto_tag" in row else "label"
    told = [*OPENAI_TURNS, *OPENAI_ANSWERS["chosen"]]
    assert read_labelled(json.dumps(turned(row))).is_desirable
    assert turned({**row, label: "false"}) == {"messages": told, "label": False}


def test_labelled_messages_of_openai_are_read_with_their_functions() -> None:
    row = {
        "messages": OPENAI_TURNS + OPENAI_ANSWERS["chosen"],
        "functions": [FUNCTION],
        "parallel_tool_calls": False,
        "label": True,
    }
    assert turned(row) == row
    assert read_labelled(json.dumps(row)).conversation.tools == TOOLS
    with_system = {**row, "system": "Be brief."}
    assert turned(with_system)["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("value", [1, 0, 1.0, 0.0, "1", "0", "1.0"])
@pytest.mark.parametrize("kind", LABELLED)
def test_a_number_is_a_label_where_labels_are_wanted(kind: str, value: float | str) -> None:
    row = LABELLED[kind]
    row = {**row, "kto_tag" if "kto_tag" in row else "label": value}
    dataset = recognise([(1, row)], labelled=True)
    made = row if dataset is None else canonical_row(row, dataset)
    assert read_labelled(json.dumps(made)).is_desirable is bool(float(value))
    assert "label" not in turned({**ALPACA, "label": value})


def test_pretraining_takes_a_row_s_text() -> None:
    assert recognise([(1, {**ALPACA, "text": "Once."})], pretraining=True) is None
    assert recognise([(1, {**ALPACA, "text": "Once."})]) is not None


def test_a_label_that_is_a_class_is_none() -> None:
    row = {**ALPACA, "label": "sports"}
    assert turned(row) == turned(ALPACA)


def test_plain_text_is_a_document_and_a_completion() -> None:
    row = json.dumps(turned({"text": "Once.", "url": "x", "timestamp": 1}))
    document = read_example(row, pretraining=True)
    assert isinstance(document, TextExample)
    assert (document.text, document.notes.ignored_columns) == ("Once.", ["url", "timestamp"])
    completion = read_example(row)
    assert isinstance(completion, CompletionExample)
    assert (completion.prompt, completion.completion) == ("", "Once.")


def test_columns_and_tags_are_as_they_are_named() -> None:
    row = {
        "dialog": [{"who": "me", "what": "Hi"}, {"who": "bot", "what": "Hello"}],
        "setting": "Be brief.",
        "system": "No.",
    }
    tags = Tags(role="who", content="what", user=("me",), assistant=("bot",))
    dataset = DatasetFormat(Formatting.SHAREGPT, Columns(messages="dialog", system="setting"), tags)
    assert read_example(json.dumps(canonical_row(row, dataset))) == ChatExample(
        Conversation((SYSTEM, ASKED, ANSWERED))
    )
    document = DatasetFormat(Formatting.ALPACA, Columns(prompt="body"))
    assert canonical_row({"body": "Once."}, document) == {"text": "Once."}
    seen = canonical_row({**ALPACA, "images": ["a.png"]}, _alpaca())
    with pytest.raises(ExampleError, match="images are not supported"):
        read_example(json.dumps(seen))


def _alpaca(**columns: str) -> DatasetFormat:
    return DatasetFormat(Formatting.ALPACA, replace(ALPACA_COLUMNS, **columns))


_SHAREGPT = recognise([(1, {"conversations": [HUMAN, GPT]})])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "Hi"}, "the column 'output' is missing"),
        ({"instruction": "", "output": "a"}, "the column 'instruction' is empty"),
        ({"instruction": 1, "output": "a"}, "the column 'instruction' must be a string"),
        ({"instruction": "Hi", "output": ["a"]}, "the column 'output' must be a string"),
        ({**ALPACA, "history": [["a"]]}, "the column 'history' must be a list of questions"),
        ({**ALPACA, "history": "x"}, "the column 'history' holds invalid json"),
        ({"conversations": "x"}, "the column 'conversations' holds invalid json"),
        ({"conversations": 1}, "the column 'conversations' must be a list of messages"),
        ({"conversations": ["x"]}, "message 1 a message must be an object"),
        ({"conversations": [{"from": "cat", "value": ""}]}, "message 1 has 'cat' as its 'from'"),
        ({"conversations": [{"from": [1]}]}, "message 1 has no text as its 'from'"),
        (
            {"conversations": [{"from": "function_call", "value": "x"}]},
            "message 1 'value' of a call holds invalid json",
        ),
        (
            {"conversations": [{"from": "function_call", "value": "[1]"}]},
            "message 1 'value' of a call must be an object",
        ),
    ],
)
def test_what_cannot_be_turned_is_told_by_its_column(row: Row, said: str) -> None:
    dataset = _SHAREGPT if "conversations" in row else _alpaca()
    assert dataset is not None
    with pytest.raises(ExampleError) as error:
        canonical_row(row, dataset)
    assert str(error.value).startswith(said)


def test_calls_are_matched_by_name_before_their_order() -> None:
    calls = [{"name": name, "arguments": {}} for name in ("f", "g")]
    row = {
        "messages": [
            *OPENAI_TURNS,
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "name": "g", "content": "of g"},
            {"role": "tool", "name": "f", "content": "of f"},
            *OPENAI_ANSWERS["chosen"],
        ],
        "tools": [{"name": "f"}, {"name": "g"}],
    }
    example = read_example(json.dumps(row))
    assert isinstance(example, ChatExample)
    messages = example.conversation.messages
    ids = {call.id: call.name for call in messages[1].tool_calls}
    assert [ids[m.tool_call_id] for m in messages[2:4]] == ["g", "f"]
    mixed = {"role": "assistant", "tool_calls": [calls[0], {"id": "x", "function": calls[1]}]}
    row["messages"] = [*OPENAI_TURNS, mixed]
    with pytest.raises(ExampleError, match="message 2 has tool calls with and without an 'id'"):
        read_example(json.dumps(row))


def test_rows_of_two_shapes_are_refused() -> None:
    both = {**ALPACA, "messages": []}
    with pytest.raises(ExampleFileError) as error:
        recognise([(3, both)])
    said = str(error.value)
    assert "'instruction', 'input', 'output', 'messages'" in said
    assert "row 3" in said
    assert "messages ('messages') and alpaca ('instruction', 'output')" in said
    rows = [(1, ALPACA), (2, {"conversations": [HUMAN, GPT]})]
    with pytest.raises(ExampleFileError, match="row 1 is alpaca, row 2 is sharegpt"):
        recognise(rows)


def test_an_unknown_shape_is_told_with_what_is_known() -> None:
    row = {"body": "x", "my secret text": 1}
    assert recognise([(1, row)]) is None
    with pytest.raises(ExampleError) as error:
        read_example(json.dumps(row))
    said = str(error.value)
    assert "It has the columns 'body', '(unnamed)'; known are" in said
    assert "alpaca ('instruction', 'output')" in said
    assert "secret" not in said
