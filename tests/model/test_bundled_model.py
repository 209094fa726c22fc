"""The weights in deploy/model/tuneyard-mini are what their card says."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, AutoTokenizer

from deploy.model.acceptance import REQUIRED, Report, examine
from deploy.model.build import OUTPUT
from deploy.model.tokenizer import ADDED_TOKENS, SPECIAL_TOKENS
from templates.conversation import ChatMessage, Conversation, Role, TextPart, Tool, ToolCall
from templates.registry import open_format
from templates.tokenization import describe_tokenizer

MAX_WEIGHT_BYTES = 8_000_000
MAX_FOLDER_BYTES = 9_000_000

WEATHER = Tool(
    "get_weather",
    "Get the weather",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CALL = ToolCall("get_weather", '{"city": "Zürich"}', "call_0")


def said(role: Role, text: str, **rest: object) -> ChatMessage:
    return ChatMessage(role, (TextPart(text),), **rest)  # pyright: ignore[reportArgumentType]


CONVERSATIONS = {
    "one_turn": Conversation((said(Role.USER, "Hi"),)),
    "system_and_two_turns": Conversation(
        (
            said(Role.SYSTEM, "Be brief."),
            said(Role.USER, "Hi"),
            said(Role.ASSISTANT, "Hello!"),
            said(Role.USER, "Bye <|im_end|>"),
        )
    ),
    "tools": Conversation((said(Role.USER, "Weather in Zürich?"),), (WEATHER, Tool("ping"))),
    "tools_under_a_system_prompt": Conversation(
        (said(Role.SYSTEM, "Be brief."), said(Role.USER, "Weather?")), (WEATHER,)
    ),
    "call_and_result": Conversation(
        (
            said(Role.USER, "Weather in Zürich?"),
            ChatMessage(Role.ASSISTANT, tool_calls=(CALL,)),
            said(Role.TOOL, '{"temperature": 3}', tool_call_id="call_0"),
        ),
        (WEATHER,),
    ),
}


def as_wire(message: ChatMessage) -> dict[str, object]:
    wire: dict[str, object] = {"role": str(message.role), "content": message.text}
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return wire


def tool_as_wire(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


@pytest.fixture(scope="module")
def report() -> Report:
    return examine(OUTPUT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REQUIRED)
def test_greedy_answers_reach_what_is_required(report: Report, kind: str) -> None:
    wrong = [
        f"{answer!r}, not {question.expected!r}"
        for question, answer in report.wrong
        if question.kind == kind
    ]
    assert report.share(kind) >= REQUIRED[kind], "\n".join(wrong)


def test_the_folder_is_small_and_of_a_standard_architecture() -> None:
    config = AutoConfig.from_pretrained(OUTPUT)
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.head_dim >= 32
    assert config.tie_word_embeddings
    assert (OUTPUT / "model.safetensors").stat().st_size <= MAX_WEIGHT_BYTES
    assert sum(file.stat().st_size for file in OUTPUT.rglob("*")) <= MAX_FOLDER_BYTES


def test_added_tokens_are_one_token_each_and_only_control_tokens_are_hidden() -> None:
    tokenizer = AutoTokenizer.from_pretrained(OUTPUT)
    for text in (*SPECIAL_TOKENS, *ADDED_TOKENS):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == 1
        shown = tokenizer.decode(ids, skip_special_tokens=True)
        assert shown == ("" if text in SPECIAL_TOKENS else text)
    assert tokenizer.eos_token == "<|im_end|>"


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(OUTPUT)
    text = "Ünïcode 北京 🙂\tnew\r\nlines  and   spaces, PARIS and 12345."
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_its_own_template_renders_what_the_named_format_renders(name: str) -> None:
    conversation = CONVERSATIONS[name]
    tokenizer = AutoTokenizer.from_pretrained(OUTPUT)
    expected = tokenizer.apply_chat_template(
        [as_wire(message) for message in conversation.messages],
        tools=[tool_as_wire(tool) for tool in conversation.tools] or None,
        add_generation_prompt=True,
        tokenize=False,
    )
    info = describe_tokenizer(tokenizer)
    for format_name in ("qwen3_nothink", None):
        prompt = open_format(format_name, info).render(conversation)
        assert "".join(segment.text for segment in prompt.segments) == expected, format_name
