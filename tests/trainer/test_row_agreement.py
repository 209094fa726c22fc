"""What validation accepts encodes, and what it refuses does not: over rows made of good and bad
pieces, in formats that differ in what they allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.supervisor.validation import ChatRows
from templates.example_fields import ExampleError
from templates.examples import ChatExample, read_example
from templates.own_templates import read_own_tokenizer
from templates.registry import open_format
from templates.tokenization import describe_tokenizer
from templates.training import MaskOptions
from tests.trainer.conftest import CHATML, build_tokenizer
from workers.trainer.encoding import Encoder, RowEncoder

STRICT = (
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('Roles must alternate.') }}{%- endif %}"
    "{{- '[' + message.role + ']' + message.content + '<|im_end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}"
)
THINKING = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.reasoning_content and loop.last %}"
    "{{- '<think>' + message.reasoning_content + '</think>' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
FORMATS = {
    "own": (None, CHATML),
    "strict": (None, STRICT),
    "thinking": (None, THINKING),
    **{name: (name, "") for name in ("qwen", "qwen3", "llama2", "llama3", "mistral", "gpt_oss")},
}

TEXTS = st.sampled_from(["Hi", "", "<|im_end|>", "<think>a</think>b", "[user]", "\u00e9", "\ud800"])
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": TEXTS}
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": TEXTS},
        optional={
            "weight": st.sampled_from([0, 1, 2]),
            "reasoning_content": TEXTS,
            "name": TEXTS,
            "tool_calls": st.lists(st.just(CALL), max_size=2),
        },
    ),
    st.just({"role": "assistant", "function_call": {"name": "f", "arguments": '"{}"'}}),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "tool_call_id": st.sampled_from(["1", "2"]), "content": TEXTS}
    ),
    st.just({"role": "function", "name": "f", "content": None}),
)
PAIR = st.tuples(
    st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": TEXTS}),
)
ROWS = st.fixed_dictionaries(
    {
        "messages": st.one_of(
            st.lists(MESSAGES, max_size=5),
            st.lists(PAIR, max_size=3).map(lambda pairs: [m for pair in pairs for m in pair]),
            st.tuples(PAIR, st.lists(MESSAGES, max_size=3)).map(lambda row: [*row[0], *row[1]]),
        )
    },
    optional={"tools": st.just([{"type": "function", "function": {"name": "f"}}])},
)


PLAIN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


class Both:
    """Validation and the trainer's encoder over one model directory."""

    def __init__(self, folder: Path, template: str | None, own: str, masks: MaskOptions) -> None:
        tokenizer = build_tokenizer()
        tokenizer.chat_template = own or None
        tokenizer.save_pretrained(folder)
        described = read_own_tokenizer(folder)
        assert described == describe_tokenizer(tokenizer)
        self._chats = ChatRows(lambda: open_format(template, described), masks)
        self._encoder = RowEncoder(
            Encoder(tokenizer),
            lambda: open_format(template, describe_tokenizer(tokenizer)),
            tokenizer=tokenizer,
            masks=masks,
        )

    def accepts(self, example: ChatExample) -> bool:
        try:
            self._chats.check(example.conversation)
        except ExampleError:
            return False
        return True

    def encodes(self, example: ChatExample) -> bool:
        (row,) = self._encoder.chats([example.conversation], 512)
        return not isinstance(row, ExampleError)


@pytest.mark.parametrize("mask_history", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_accepted_exactly_if_it_encodes(
    name: str, mask_history: bool, tmp_path: Path
) -> None:
    both = Both(tmp_path, *FORMATS[name], MaskOptions(mask_history=mask_history))
    seen = {False: 0, True: 0}

    @settings(
        max_examples=80,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        derandomize=True,
    )
    @given(row=ROWS)
    @example(row={"messages": PLAIN})
    @example(row={"messages": [PLAIN[1], *PLAIN]})
    @example(row={"messages": [PLAIN[0], {**PLAIN[1], "reasoning_content": "hm"}]})
    def check(row: dict[str, Any]) -> None:
        try:
            read = read_example(json.dumps(row))
        except ExampleError:
            return
        assert isinstance(read, ChatExample)
        accepted = both.accepts(read)
        assert accepted == both.encodes(read)
        seen[accepted] += 1

    check()
    assert seen[True], "or nothing was compared"
